"""Processes that die, without a chance to clean up, at a chosen one of the steps by which they change a disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

__all__ = ["run_dying"]

_PREAMBLE = """
import os, sys
_left = int(sys.argv[1])
_EVENTS = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "os.truncate", "os.utime"}
def _count(event, arguments):
    global _left
    if event not in _EVENTS or (event == "open" and not (_armed and arguments[2] & (os.O_WRONLY | os.O_RDWR))):
        return
    if not _armed or _left < 0:
        return
    if not _left:
        import signal
        if hasattr(signal, "SIGKILL"):
            os.kill(os.getpid(), signal.SIGKILL)
        os._exit(9)
    _left -= 1
_armed = False
sys.addaudithook(_count)
"""


def run_dying(setup: str, body: str, *, steps: int) -> bool:
    """Run *body* in a new process that dies before its step number *steps* (from 0); return whether it died.

    Args:
        setup: Code that runs before steps are counted: imports, and values that *body* uses.
        body: Code whose renames, removals, new folders and openings for writing are the steps.
        steps: How many steps it may make; negative for as many as it likes.
    """
    code = f"{_PREAMBLE}\n{setup}\n_armed = True\n{body}\n_armed = False\n"
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code, str(steps)],
        env={**os.environ, "PYTHONPATH": str(root)},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode == 0:
        return False
    if done.returncode in {-9, 9}:
        return True
    raise AssertionError(done.stderr)
