"""What tests do through Windows' own functions, since Python has none for it; elsewhere what comes nearest."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = ["OWN_CONSOLE", "held_open", "interrupt", "only_windows"]

only_windows = pytest.mark.skipif(sys.platform != "win32", reason="of Windows alone")

if sys.platform == "win32":
    OWN_CONSOLE = subprocess.CREATE_NO_WINDOW
else:
    OWN_CONSOLE = 0
"""Flags that give a process a console of its own, so that Ctrl-C in it reaches that process and its children alone."""

_PRESS = """
import ctypes, sys
kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
kernel32.FreeConsole()
kernel32.SetConsoleCtrlHandler(None, True)
if not kernel32.AttachConsole(int(sys.argv[1])) or not kernel32.GenerateConsoleCtrlEvent(0, 0):
    raise ctypes.WinError(ctypes.get_last_error())
"""


def interrupt(process: subprocess.Popen[str]) -> None:
    """Press Ctrl-C for *process*; on Windows it must have been started with the flags `OWN_CONSOLE`.

    Source: Microsoft's page on GenerateConsoleCtrlEvent: it reaches the console that the caller is attached to.
    """
    if sys.platform == "win32":
        subprocess.run([sys.executable, "-c", _PRESS, str(process.pid)], check=True, stdin=subprocess.DEVNULL)
    else:
        process.send_signal(signal.SIGINT)


@contextmanager
def held_open(path: Path, *, is_shared: bool = True) -> Iterator[None]:
    """Keep *path* open as debuggers do for a ``with`` block: others may read it, or not even that, and not remove it.

    Only Windows keeps a file so.
    """
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415

        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel32.CreateFileW.restype = ctypes.c_void_p
        read, share_read, open_existing = 0x80000000, 1, 3
        handle = kernel32.CreateFileW(str(path), read, share_read if is_shared else 0, None, open_existing, 0, None)
        if handle == ctypes.c_void_p(-1).value:
            raise ctypes.WinError(ctypes.get_last_error())
        try:
            yield
        finally:
            kernel32.CloseHandle(ctypes.c_void_p(handle))
    else:
        raise NotImplementedError
