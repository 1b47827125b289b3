"""How fast cabinets are expanded, as a ratio to ``cabextract`` on the same bytes in the same run.

    python tests/bench/bench_cab.py [FILE]

FILE is a cabinet, or what is to be compressed; without it that is made up. The ratio is ours to theirs: above 1 is
faster than cabextract. That is a process of its own, so its start is in its time; a larger FILE makes it matter less.
LZX is expanded in Python, and by libarchive where it is installed.
"""

from __future__ import annotations

import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING
from unittest.mock import patch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from support.synth.cab import Lzx, Mszip, SynthFolder, build_cabinet

from symcache.formats import cabinet as cabinets
from symcache.formats.cabinet import expand, open_cabinet
from symcache.formats.view import FileView

if TYPE_CHECKING:
    from collections.abc import Callable

ROUNDS = 5
LZX_BYTES = 4 << 20  # the writer of tests is slow
MSZIP_BYTES = 64 << 20
_PYTHON, _LIBARCHIVE = "Python", "libarchive"


def main() -> int:
    content = Path(sys.argv[1]).read_bytes() if len(sys.argv) > 1 else synthetic(LZX_BYTES)
    cabextract = shutil.which("cabextract")
    if cabextract is None:
        print("cabextract is not installed: no ratios, only our own speed")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "bench.cab")
        if content.startswith(b"MSCF"):
            path.write_bytes(content)
            report("given", path, cabextract)
            return 0
        for name, compression, size in (
            ("MSZIP", Mszip(), MSZIP_BYTES),
            ("LZX 2^21", Lzx(21, ("verbatim", "aligned"), 1 << 17), LZX_BYTES),
        ):
            data = (content * (size // len(content) + 1))[:size]
            path.write_bytes(build_cabinet([SynthFolder([("bench.pdb", data)], compression)]))
            report(name, path, cabextract)
    return 0


def report(name: str, path: Path, cabextract: str | None) -> None:
    readers = [_PYTHON, _LIBARCHIVE] if name != "MSZIP" and cabinets.has_libarchive() else [_PYTHON]
    theirs: list[float] = []
    ours: dict[str, list[float]] = {reader: [] for reader in readers}
    for _ in range(ROUNDS):  # in turns, so that what disturbs does not favour one
        for reader in readers:
            with patch.object(cabinets, "has_libarchive", lambda reader=reader: reader == _LIBARCHIVE):
                ours[reader].append(seconds(lambda: expand_ours(path)))
        if cabextract is not None:
            theirs.append(seconds(lambda: expand_theirs(cabextract, path)))
    megabytes = path.with_suffix(".ours").stat().st_size / 1e6
    line = f"{name:9} {megabytes:6.1f} MB from {path.stat().st_size / 1e6:5.1f}"
    if theirs:
        line += f", cabextract {megabytes / min(theirs):6.1f} MB/s"
    for reader, times_s in ours.items():
        line += f", {reader} {megabytes / min(times_s):6.1f} MB/s"
        if theirs:
            line += f" (ratio {min(theirs) / min(times_s):.2f})"
    print(line)


def expand_ours(path: Path) -> None:
    with FileView(path) as view, path.with_suffix(".ours").open("wb") as out:
        cabinet = open_cabinet(view)
        out.writelines(expand(cabinet, cabinet.members[0], limit_bytes=1 << 31))


def expand_theirs(cabextract: str, path: Path) -> None:
    subprocess.run([cabextract, "-q", "-d", path.parent, path], check=True, stdout=subprocess.DEVNULL)


def seconds(work: Callable[[], None]) -> float:
    started_s = time.perf_counter()
    work()
    return time.perf_counter() - started_s


def synthetic(size: int) -> bytes:
    """Return bytes that compress about as a PDB does, to a fifth: names, records with small numbers, gaps."""
    rng = random.Random(1)
    words = [rng.randbytes(rng.randrange(4, 14)).hex().encode() for _ in range(3000)]
    out = bytearray()
    while len(out) < size:
        kind = rng.random()
        if kind < 0.6:
            out += b"?" + rng.choice(words) + b"@" + rng.choice(words[:200]) + b"@@\0"
        elif kind < 0.9:
            out += b"\x0e\x11" + rng.randrange(1 << 16).to_bytes(4, "little") + rng.randrange(900).to_bytes(4, "little")
        else:
            out += bytes(rng.randrange(4, 200))
    return bytes(out[:size])


if __name__ == "__main__":
    sys.exit(main())
