"""Where symcache.exe begins: as the installed command, but that ``licenses`` prints the licenses of what is in it."""

from __future__ import annotations

import sys
from pathlib import Path

if __name__ == "__main__":
    if sys.argv[1:2] == ["--multiprocessing-fork"]:  # a worker of `serve`, or a reader of traces
        import multiprocessing

        multiprocessing.freeze_support()
    elif sys.argv[1:] == ["licenses"]:
        sys.stdout.buffer.write(Path(__file__).with_name("licenses.txt").read_bytes())
    else:
        from symcache.cli import main

        main()
