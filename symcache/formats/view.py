"""Where a format reader gets its bytes: a file, a piece of memory, a part of either.

A reader asks for what it needs and no more. It never learns what is behind the view, so one PE reader serves files,
dumps and ranged downloads.
"""

from __future__ import annotations

import errno
import os
import stat
from typing import TYPE_CHECKING, Protocol

from symcache.errors import TruncatedInput

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from typing import Self

_FIRST_PAGE_BYTES = 4096


class ByteView(Protocol):
    """Random access to the bytes of an input."""

    @property
    def size(self) -> int:
        """Length in bytes; for address spaces, the first offset that no read can reach."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly *length* bytes from *offset*.

        Raises:
            TruncatedInput: The input ends first.
            NotInDump: A dump does not hold these bytes.
        """
        ...


class BytesView:
    """Bytes that are in memory already."""

    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def size(self) -> int:
        return len(self._data)

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        return self._data[offset : offset + length]


_FLAGS = ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK")


class FileView:
    """A file or a disk itself, read piece by piece; nothing is kept. Raises `OSError` if it cannot be opened."""

    def __init__(self, path: Path | str) -> None:
        # A pipe, which anybody can make in a shared folder, is not waited for; for plain files O_NONBLOCK says nothing.
        self._fd = os.open(path, os.O_RDONLY | sum(getattr(os, flag, 0) for flag in _FLAGS))
        status = os.fstat(self._fd)
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode) or stat.S_ISCHR(status.st_mode):
            os.close(self._fd)
            raise OSError(errno.EINVAL, "Not a regular file", str(path))
        self._size = os.lseek(self._fd, 0, os.SEEK_END) if stat.S_ISBLK(status.st_mode) else status.st_size
        self._others: list[FileView] = []
        self.file_path = path

    @property
    def size(self) -> int:
        """Length in bytes when the file was opened."""
        return self._size

    def skip_hole(self, offset: int) -> int:
        """Return the first offset from *offset* on that a sparse file keeps something at; `size` if there is none."""
        return _skip_hole(self._fd, offset, self._size)

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self._size)
        data = _read_at(self._fd, offset, length)
        if len(data) != length:
            raise TruncatedInput("the file became shorter while it was read", offset=offset + len(data))
        return data

    def open_other(self, path: Path) -> FileView:
        """Return another file that belongs to this one and is closed with it; raise `OSError` as for this one."""
        other = FileView(path)
        self._others.append(other)
        return other

    def close(self) -> None:
        """Give the file back; safe to call twice."""
        while self._others:
            self._others.pop().close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class PartView:
    """A range of another view, numbered from 0. Raises `TruncatedInput` if it does not lie within *whole*."""

    def __init__(self, whole: ByteView, start: int, size: int) -> None:
        check_range(start, size, whole.size)
        self._whole = whole
        self._start = start
        self._size = size

    @property
    def size(self) -> int:
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self._size)
        return self._whole.read(self._start + offset, length)


class BegunView:
    """A file whose first page is at hand: it tells what the file is, and holds the headers of most."""

    def __init__(self, file: ByteView) -> None:
        self.file = file
        self.size = file.size
        self.start = file.read(0, min(file.size, _FIRST_PAGE_BYTES))

    def read(self, offset: int, length: int) -> bytes:
        if 0 <= offset <= offset + length <= len(self.start):
            return self.start[offset : offset + length]
        return self.file.read(offset, length)


def parse_uint(data: bytes, offset: int, width: int) -> int:
    """Return the unsigned little-endian number of *width* bytes at *offset* in *data*."""
    return int.from_bytes(data[offset : offset + width], "little")


def read_in_parts(read_some: Callable[[int, int], bytes], offset: int, length: int) -> bytes:
    """Return *length* bytes from *offset*; *read_some* returns at least one byte from an offset, at most a length."""
    parts: list[bytes] = []
    while length > 0:
        part = read_some(offset, length)
        if len(part) == length and not parts:
            return part
        parts.append(part)
        offset += len(part)
        length -= len(part)
    return b"".join(parts)


def check_range(offset: int, length: int, size: int) -> None:
    """Raise `TruncatedInput` unless *length* bytes from *offset* lie within *size*."""
    if offset < 0 or length < 0 or offset + length > size:
        raise TruncatedInput(f"the input ends within {length} bytes that are needed", offset=max(offset, 0))


if hasattr(os, "pread"):

    def _read_at(fd: int, offset: int, length: int) -> bytes:
        data = os.pread(fd, length, offset)
        while 0 < len(data) < length:  # one call moves at most 2 GiB
            more = os.pread(fd, length - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

else:

    def _read_at(fd: int, offset: int, length: int) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


if hasattr(os, "SEEK_DATA"):

    def _skip_hole(fd: int, offset: int, size: int) -> int:
        try:
            return min(os.lseek(fd, offset, os.SEEK_DATA), size)
        except OSError as error:
            return size if error.errno == errno.ENXIO else offset

else:

    def _skip_hole(fd: int, offset: int, size: int) -> int:  # noqa: ARG001 - holes cannot be told there
        return offset
