"""Reading files of a store while others may replace or remove them."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["open_shared", "read_at"]

if sys.platform == "win32":
    import ctypes
    import msvcrt

    _create_file = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    _create_file.restype = ctypes.c_void_p
    _word, _pointer = ctypes.c_uint32, ctypes.c_void_p
    _create_file.argtypes = [ctypes.c_wchar_p, _word, _word, _pointer, _word, _word, _pointer]
    _READ, _SHARE_ALL, _OPEN_EXISTING, _NORMAL = 0x80000000, 0x7, 3, 0x80
    _INVALID = ctypes.c_void_p(-1).value

    def open_shared(path: str | Path) -> int:
        """Return a descriptor for reading *path*; others may rename and remove the file while it is open.

        Python's own open would keep a file from being published or pruned as long as somebody reads it.

        Raises:
            OSError: It cannot be opened.
        """
        file = _create_file(str(path), _READ, _SHARE_ALL, None, _OPEN_EXISTING, _NORMAL, None)
        if file is None or file == _INVALID:
            raise ctypes.WinError(ctypes.get_last_error())
        return msvcrt.open_osfhandle(file, os.O_RDONLY | os.O_BINARY)

    def read_at(fd: int, size_bytes: int, offset: int) -> bytes:
        """Return up to *size_bytes* at *offset*."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size_bytes)

else:

    def open_shared(path: str | Path) -> int:
        """Return a descriptor for reading *path*; others may rename and remove the file while it is open.

        Raises:
            OSError: It cannot be opened.
        """
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(fd: int, size_bytes: int, offset: int) -> bytes:
        """Return up to *size_bytes* at *offset*."""
        return os.pread(fd, size_bytes, offset)
