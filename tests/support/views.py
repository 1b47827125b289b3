"""Views that count what is read, or lack a part of what they show."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import NotInDump

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.formats.view import ByteView

__all__ = ["CountingView", "HoleyView", "NotFetched", "RangedView"]


class CountingView:
    """Remembers every read."""

    def __init__(self, view: ByteView) -> None:
        self._view = view
        self.reads: list[tuple[int, int]] = []

    @property
    def size(self) -> int:
        return self._view.size

    @property
    def read_bytes(self) -> int:
        return sum(length for _, length in self.reads)

    def read(self, offset: int, length: int) -> bytes:
        self.reads.append((offset, length))
        return self._view.read(offset, length)


class HoleyView:
    """Memory of a dump that lacks the bytes *absent* says."""

    def __init__(self, view: ByteView, absent: Callable[[int], bool]) -> None:
        self._view = view
        self._absent = absent

    @property
    def size(self) -> int:
        return self._view.size

    def read(self, offset: int, length: int) -> bytes:
        for at in range(offset, offset + length):
            if self._absent(at):
                raise NotInDump("not in the dump", address=at)
        return self._view.read(offset, length)


class NotFetched(Exception):
    """Bytes that a ranged download has yet to bring."""

    def __init__(self, offset: int, length: int) -> None:
        super().__init__(offset, length)
        self.offset = offset
        self.length = length


class RangedView:
    """A download of which only what `fetch` was called for is here."""

    def __init__(self, view: ByteView) -> None:
        self._view = view
        self._here: set[tuple[int, int]] = set()

    @property
    def size(self) -> int:
        return self._view.size

    def fetch(self, missing: NotFetched) -> None:
        self._here.add((missing.offset, missing.length))

    def read(self, offset: int, length: int) -> bytes:
        if (offset, length) not in self._here:
            raise NotFetched(offset, length)
        return self._view.read(offset, length)
