"""A file that arrives just now, read by many while it grows."""

from __future__ import annotations

import os
from collections import OrderedDict
from contextlib import contextmanager
from typing import TYPE_CHECKING

from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.server.disk import open_shared, read_at

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.identity import Key

__all__ = ["Growth"]

_KEPT_PIECES = 8
_COMPARED_BYTES = 1 << 20
_MAGICS: dict[type, tuple[bytes, ...]] = {
    PdbKey: (b"Microsoft C/C++ MSF 7.00\r\n\x1aDS",),
    Pdb2Key: (b"Microsoft C/C++ program database 2.00\r\n\x1aJG",),
    PortablePdbKey: (b"BSJB",),
    ImageKey: (b"MZ",),
    DbgKey: (b"DI",),
}
_LONGEST_MAGIC = 64


class Growth:
    """One scratch file, from the first byte to the last.

    Args:
        key: What it is to be.
        path: Where it grows.
        size_bytes: How long it will be.
        held_bytes: How much of its end nobody gets before the file was found right.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, key: Key, path: Path, size_bytes: int, held_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.whole_bytes = 0
        self.is_broken = False
        self._fd: int | None = open_shared(path)
        self._held_bytes = held_bytes
        self._magics = _MAGICS.get(type(key), ())
        self._looks_right: bool | None = None
        self._pieces: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._readers = 0
        self._is_retired = False

    @property
    def readable_bytes(self) -> int:
        """How much may be passed on before the file was found right."""
        return min(self.whole_bytes, self.size_bytes - self._held_bytes)

    @property
    def looks_right(self) -> bool:
        """Whether enough has come to tell that it is a plain file of the right kind, and it is."""
        if self._looks_right is None and self.whole_bytes >= min(_LONGEST_MAGIC, self.size_bytes):
            self._looks_right = self.read(0, _LONGEST_MAGIC).startswith(self._magics)
        return bool(self._looks_right)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return up to *size_bytes* at *offset*; who reads the same at nearly the same time shares one piece."""
        place = (offset, size_bytes)
        piece = self._pieces.get(place)
        if piece is None:
            assert self._fd is not None, "read after it was closed"
            piece = self._pieces[place] = read_at(self._fd, size_bytes, offset)
            if len(self._pieces) > _KEPT_PIECES:
                self._pieces.popitem(last=False)
        return piece

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep it open for a ``with`` block."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            self._close_unless_read()

    def retire(self) -> None:
        """Close it as soon as nobody reads it any more."""
        self._is_retired = True
        self._close_unless_read()

    def is_beginning_of(self, fd: int) -> bool:
        """Return whether what came so far is the beginning of the published file *fd*, byte for byte."""
        if self._fd is None or self.is_broken:
            return False
        if os.path.samestat(os.fstat(self._fd), os.fstat(fd)):
            return True
        if os.fstat(fd).st_size != self.size_bytes:
            return False
        end = self.whole_bytes
        return all(
            read_at(self._fd, min(_COMPARED_BYTES, end - at), at) == read_at(fd, min(_COMPARED_BYTES, end - at), at)
            for at in range(0, end, _COMPARED_BYTES)
        )

    def _close_unless_read(self) -> None:
        if self._is_retired and not self._readers and self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._pieces.clear()
