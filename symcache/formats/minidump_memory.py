"""Memory that a user-mode minidump captured, read by address."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from typing import TYPE_CHECKING

from symcache.errors import NotInDump
from symcache.formats.minidump import StreamType

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.minidump import Minidump, Stream
    from symcache.formats.view import ByteView

__all__ = ["CapturedMemory", "read_memory_ranges"]

_ADDRESS_END = 1 << 64
_RANGE_BYTES = 16
_CHUNK_BYTES = 4096 * _RANGE_BYTES
# One range per region of the process: tens of thousands in a large server. Half a million take 12 MiB.
_MOST_RANGES = 1 << 19


class CapturedMemory:
    """The address space of the process as far as the dump holds it; offsets are addresses.

    Three flat arrays, sorted by address and free of overlaps, stand for the ranges: 24 bytes each, whatever their size.

    Attributes:
        truncated: The file ends before the memory that its lists promise, or they promise too many ranges.
    """

    def __init__(self, view: ByteView, ranges: Iterator[tuple[int, int, int]]) -> None:
        """Take *ranges* as (address, size in bytes, offset in *view*), in any order; the first at an address wins."""
        self._view = view
        self._starts, self._sizes, self._offsets = array("Q"), array("Q"), array("Q")
        self.truncated = False
        in_order, end = True, 0
        for number, (start, size, offset) in enumerate(ranges):
            if number == _MOST_RANGES:
                self.truncated = True
                break
            held = max(min(size, view.size - offset), 0)
            self.truncated |= held < size
            if held:
                in_order &= start >= end
                end = self._append(start, held, offset)
        if not in_order:
            self._sort()

    @property
    def size(self) -> int:
        """The end of a 64-bit address space; which addresses below it can be read is for `read` to say."""
        return _ADDRESS_END

    def __len__(self) -> int:
        """Return the number of ranges."""
        return len(self._starts)

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly *length* bytes from the address *offset*, across ranges that touch.

        Raises:
            NotInDump: The dump does not hold all of them.
        """
        if length < 0:
            raise NotInDump("a negative length was asked for", address=offset)
        pieces: list[bytes] = []
        at, end = offset, offset + length
        while at < end:
            index = bisect_right(self._starts, at) - 1 if 0 <= at < _ADDRESS_END else -1
            within = at - self._starts[index] if index >= 0 else 0
            if index < 0 or within >= self._sizes[index]:
                raise NotInDump("the dump does not hold this memory", address=at)
            held = min(end - at, self._sizes[index] - within)
            pieces.append(self._view.read(self._offsets[index] + within, held))
            at += held
        return b"".join(pieces)

    def _append(self, start: int, size: int, offset: int) -> int:
        """Add a range, cut at the end of the address space; return the address after it."""
        end = min(start + size, _ADDRESS_END)
        self._starts.append(start)
        self._sizes.append(end - start)
        self._offsets.append(offset)
        return end

    def _sort(self) -> None:
        """Bring ranges into the order of their addresses and cut what an earlier one covers."""
        old_starts, old_sizes, old_offsets = self._starts, self._sizes, self._offsets
        self._starts, self._sizes, self._offsets = array("Q"), array("Q"), array("Q")
        covered = 0
        for index in sorted(range(len(old_starts)), key=old_starts.__getitem__):
            start, size = old_starts[index], old_sizes[index]
            overlap = max(covered - start, 0)
            if overlap < size:
                covered = self._append(start + overlap, size - overlap, old_offsets[index] + overlap)


def read_memory_ranges(view: ByteView, dump: Minidump) -> CapturedMemory:
    """Return the memory of both kinds of list; only the lists are read, not the memory.

    Layout of a memory list: count u32 (some writers put 4 bytes of padding behind it), then address u64, size u32 and
    offset u32 for each range. Layout of a 64-bit one, which full dumps have: count u64, offset u64 of the first byte,
    then address u64 and size u64; the data of one range follows that of the one before.
    """
    return CapturedMemory(view, _ranges(view, dump))


def _ranges(view: ByteView, dump: Minidump) -> Iterator[tuple[int, int, int]]:
    for stream in dump.streams_of(StreamType.MEMORY64_LIST):
        yield from _ranges64(view, stream)
    for stream in dump.streams_of(StreamType.MEMORY_LIST):
        yield from _ranges32(view, stream)


def _ranges32(view: ByteView, stream: Stream) -> Iterator[tuple[int, int, int]]:
    held = min(stream.size_bytes, view.size - stream.offset)
    if held < 4:
        return
    count = int.from_bytes(view.read(stream.offset, 4), "little")
    padding = 4 if stream.size_bytes == 8 + count * _RANGE_BYTES else 0
    first = stream.offset + 4 + padding
    for chunk in _chunks(view, first, min(count, max(held - 4 - padding, 0) // _RANGE_BYTES)):
        yield from struct.iter_unpack("<QII", chunk)


def _ranges64(view: ByteView, stream: Stream) -> Iterator[tuple[int, int, int]]:
    held = min(stream.size_bytes, view.size - stream.offset)
    if held < 16:
        return
    count, offset = struct.unpack("<QQ", view.read(stream.offset, 16))
    for chunk in _chunks(view, stream.offset + 16, min(count, (held - 16) // _RANGE_BYTES)):
        for start, size in struct.iter_unpack("<QQ", chunk):
            yield start, size, offset
            offset += size
            if offset > view.size:
                return  # nothing behind it is in the file


def _chunks(view: ByteView, offset: int, count: int) -> Iterator[bytes]:
    end = offset + count * _RANGE_BYTES
    for at in range(offset, end, _CHUNK_BYTES):
        yield view.read(at, min(_CHUNK_BYTES, end - at))
