"""The pieces of virtual memory in a kernel triage dump."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

from symcache.errors import InputError, NotInDump

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.triage import Triage
    from symcache.formats.view import ByteView

__all__ = ["TriageMemory"]

_MOST_BLOCKS = 1 << 16
_MOST_OVERLAPS = 16


class TriageMemory:
    """The pieces of virtual memory that a triage dump holds; offsets of this view are virtual addresses."""

    def __init__(self, view: ByteView, triage: Triage) -> None:
        self._view = view
        self._blocks = sorted(set(_blocks(view, triage)))
        self._starts = [start for start, _, _ in self._blocks]
        self.size = 1 << 8 * triage.pointer_size

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from virtual address *offset*.

        Raises:
            NotInDump: No piece holds them.
        """
        parts: list[bytes] = []
        while length > 0:
            part = self._read_block(offset, length)
            if len(part) == length and not parts:
                return part
            parts.append(part)
            offset += len(part)
            length -= len(part)
        return b"".join(parts)

    def _read_block(self, address: int, length: int) -> bytes:
        """Read up to the end of a block; a long block may enclose short ones that begin later."""
        index = bisect_right(self._starts, address)
        for number in range(index - 1, max(0, index - _MOST_OVERLAPS) - 1, -1):
            start, at, size = self._blocks[number]
            within = address - start
            if within < size:
                return self._view.read(at + within, min(length, size - within))
        raise NotInDump("no data block holds this memory", address=address)


def _blocks(view: ByteView, triage: Triage) -> Iterator[tuple[int, int, int]]:
    """Yield address, offset and size of each piece that lies in the file."""
    for address, offset, size in (triage.stack, triage.data_page, *_data_blocks(view, triage)):
        if address and size > 0 and 0 < offset <= view.size - size:
            yield address, offset, size


def _data_blocks(view: ByteView, triage: Triage) -> Iterator[tuple[int, int, int]]:
    """Yield what the table of data blocks says.

    Layout: {address, offset u32, size u32}; sources disagree whether the address has 4 or 8 bytes in 32 bit dumps, so
    the form is taken whose pieces lie in the file.
    """
    count = min(triage.block_count, _MOST_BLOCKS)
    if not triage.blocks_offset or not count:
        return
    forms = ("<QII",) if triage.pointer_size == 8 else ("<III", "<QII")
    for form in forms:
        item = struct.Struct(form)
        fitting = min(count, max(0, view.size - triage.blocks_offset) // item.size)
        try:
            blocks = list(item.iter_unpack(view.read(triage.blocks_offset, fitting * item.size)))
        except InputError:
            continue
        if form is forms[-1] or all(
            offset + size <= view.size and address >> 31 == 1 for address, offset, size in blocks
        ):
            yield from blocks
            return
