"""LiME, and AVML of the same form: ranges of memory, each behind a header of its own."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from collections import OrderedDict
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from symcache.errors import Absence, InputError, MalformedInput, NotInDump, TruncatedInput, UnknownFormat
from symcache.formats.memory.kinds import AVML_MAGIC, LIME_MAGIC
from symcache.formats.memory.ranges import MOST_RANGES, MemoryRange
from symcache.formats.view import read_in_parts

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.formats.view import ByteView

_HEADER = struct.Struct("<4sIQQ8x")
_END_OF_MEMORY = 1 << 52


@dataclass(frozen=True, slots=True)
class LimeRanges:
    """The ranges of a file, as far as they can be followed."""

    ranges: tuple[MemoryRange, ...]
    problem: str | None = None  # what ended them too early
    problem_offset: int | None = None


def read_lime_ranges(view: ByteView) -> LimeRanges:
    """Return the ranges of a LiME file; where one cannot be followed by the next, those before it count.

    Raises:
        InputError: There is not even one.

    Layout of each: ``EMiL``, version u32 (1), first address u64, last address u64, 8 reserved bytes, the memory.
    Source: LiME's documentation, "LiME Memory Range Header Version 1 Specification".
    """
    found: list[MemoryRange] = []
    at = 0
    while at < view.size:
        try:
            start, size = _parse_header(view, at, LIME_MAGIC, 1)
            if len(found) == MOST_RANGES:
                raise MalformedInput(f"it has more than {MOST_RANGES} ranges", offset=at)
        except InputError as error:
            if not found:
                raise
            return LimeRanges(tuple(found), error.problem, at)
        at += _HEADER.size
        found.append(MemoryRange(start, size, at))
        at += size
    return LimeRanges(tuple(found))


def _parse_header(view: ByteView, at: int, magic: bytes, version: int) -> tuple[int, int]:
    """Return first address and size of the range whose header lies at *at*."""
    if at + _HEADER.size > view.size:
        raise TruncatedInput("the image ends within the header of a range", offset=at)
    found, number, first, last = _HEADER.unpack(view.read(at, _HEADER.size))
    if found != magic:
        raise MalformedInput("a range of the image is followed by no other", offset=at)
    if number != version:
        raise UnknownFormat(f"version {number} of the {magic.decode()} form is not known", offset=at + 4)
    if not first <= last < _END_OF_MEMORY:
        raise MalformedInput(f"a range goes from {first:#x} to {last:#x}", offset=at + 8)
    return first, last + 1 - first


# Chunks of a snappy stream. Source: google/snappy, framing_format.txt.
_COMPRESSED, _PLAIN, _IDENTIFIER = 0x00, 0x01, 0xFF
_SKIPPABLE = 0x80
_LONGEST_CHUNK_BYTES = 1 << 16  # uncompressed
_CHECKSUM_BYTES = 4
_CHUNK_HEAD_BYTES = 4 + _CHECKSUM_BYTES + 3
_KEPT_CHUNKS = 32
_MOST_CHUNKS = 1 << 25  # 2 TiB
_MOST_SKIPPED = 1 << 20


class AvmlMemory:
    """Memory in an AVML file, version 2: snappy frames, which are found in one pass over their headers.

    Two numbers of 8 bytes a chunk of usually 64 KiB are kept, 16 MiB for 64 GiB of memory. Where the stream breaks,
    what comes before it counts; *problem* says why.

    Raises:
        UnknownFormat: cramjam, which expands the frames, is not installed.
        InputError: There is not even one range.

    Layout of each range: ``AVML``, version u32 (2), first address u64, last address u64, 8 reserved bytes, a snappy
    stream, its length u64.
    Source: microsoft/avml, image.rs; google/snappy, framing_format.txt.
    """

    def __init__(self, view: ByteView) -> None:
        self._expand = _load_snappy()
        self._view = view
        self._starts = array("Q")  # physical address of each chunk
        self._places = array("Q")  # offset of the chunk's header in the file
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self.size = 0
        self.range_count = 0
        self.byte_count = 0
        self._skipped = 0
        self.problem: str | None = None
        self.problem_offset: int | None = None
        at = 0
        while at < view.size:
            try:
                at = self._index_range(at)
            except InputError as error:
                if not self._starts:
                    raise
                self.problem, self.problem_offset = error.problem, error.offset
                break

    def _index_range(self, at: int) -> int:
        """Note the chunks of the range at *at*; return where the next range begins."""
        start, size = _parse_header(self._view, at, AVML_MAGIC, 2)
        if start < self.size:
            raise MalformedInput("the ranges of the image do not ascend", offset=at)
        self.range_count += 1
        self.byte_count += size
        at += _HEADER.size
        address, end = start, start + size
        while address < end:
            kind, length, expanded = self._chunk_head(at)
            if expanded:
                if len(self._starts) == _MOST_CHUNKS:
                    raise MalformedInput("the image has more pieces than any machine's memory", offset=at)
                if address + expanded > end:
                    raise MalformedInput("a range holds more memory than its header says", offset=at)
                self._starts.append(address)
                self._places.append(at)
                address += expanded
                self.size = address
            elif kind < _SKIPPABLE:
                raise MalformedInput(f"a piece of the image is of an unknown kind ({kind:#x})", offset=at)
            else:
                self._skipped += 1
                if self._skipped > _MOST_SKIPPED:
                    raise MalformedInput("the image has more pieces without memory than any writer makes", offset=at)
            at += 4 + length
        return at + 8

    def _chunk_head(self, at: int) -> tuple[int, int, int]:
        """Return kind and length of the chunk at *at*, and how much memory it holds; 0 for one without."""
        head = self._view.read(at, min(_CHUNK_HEAD_BYTES, self._view.size - at)) if at < self._view.size else b""
        kind, length = head[0] if head else 0, int.from_bytes(head[1:4], "little")
        if len(head) < 4 or at + 4 + length > self._view.size:
            raise TruncatedInput("the image is cut short", offset=at)
        if kind not in {_COMPRESSED, _PLAIN}:
            return kind, length, 0
        size = length - _CHECKSUM_BYTES
        if kind == _COMPRESSED and size > 0:
            size = _parse_varint(head[4 + _CHECKSUM_BYTES :][:size])
        if not 0 < size <= _LONGEST_CHUNK_BYTES:
            raise MalformedInput("a piece of the image has an impossible size", offset=at)
        return kind, length, size

    def read(self, offset: int, length: int) -> bytes:
        return read_in_parts(self._read_some, offset, length)

    def _read_some(self, address: int, length: int) -> bytes:
        index = bisect_right(self._starts, address) - 1
        if index < 0:
            raise NotInDump("the image does not hold this physical memory", address=address)
        data = self._read_chunk(index, address)
        within = address - self._starts[index]
        if within >= len(data):
            absence = Absence.NOT_IN_DUMP if self.problem is None else Absence.TRUNCATED
            raise NotInDump("the image does not hold this physical memory", address=address, absence=absence)
        return data[within : within + length]

    def _read_chunk(self, index: int, address: int) -> bytes:
        data = self._kept.get(index)
        if data is None:
            at = self._places[index]
            kind, length, size = self._chunk_head(at)
            raw = self._view.read(at + 4 + _CHECKSUM_BYTES, length - _CHECKSUM_BYTES)
            if kind == _COMPRESSED:
                try:
                    raw = self._expand(raw)
                except Exception as error:  # whatever the library raises, the piece is damaged
                    raise NotInDump("a piece of the image is damaged", address=address, offset=at) from error
            data = raw[:size]
            if len(self._kept) >= _KEPT_CHUNKS:
                self._kept.popitem(last=False)
            self._kept[index] = data
        return data

    def find_bytes(self, address: int) -> tuple[int, int] | None:
        index = max(bisect_right(self._starts, address) - 1, 0)
        for each in range(index, len(self._starts)):
            end = self._starts[each] + self._chunk_head(self._places[each])[2]
            if address < end:
                start = max(address, self._starts[each])
                return start, end - start
        return None


def _parse_varint(data: bytes) -> int:
    """Return the number that begins a snappy block, 7 bits a byte; beyond three bytes it is more than a chunk has."""
    value = 0
    for index, byte in enumerate(data):
        value |= (byte & 0x7F) << (7 * index)
        if not byte & 0x80:
            return value
    return _LONGEST_CHUNK_BYTES + 1


@cache
def _load_snappy() -> Callable[[bytes], bytes]:
    """Return what expands a snappy block."""
    try:
        from cramjam import snappy  # noqa: PLC0415 - of an extra
    except ImportError:
        raise UnknownFormat(
            'a memory image in AVML format, which takes cramjam to expand: install "symcache[avml]", or convert it with'
            " avml-convert",
            offset=0,
        ) from None
    return lambda data: bytes(snappy.decompress_raw(data))
