"""How a trace of .NET's EventPipe (nettrace) lies in its file, versions 4 to 6: its header, and its blocks.

Source: NetTraceFormat.md and NetTraceFormat_v5.md in microsoft/perfview.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

from symcache.errors import MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.trace.events import LONGEST_TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

_MAGIC = b"Nettrace"
_SERIALIZATION = struct.pack("<I", 20) + b"!FastSerialization.1"
_BEGIN, _NULL, _END = 5, 1, 6
_OLDEST, _NEWEST = 4, 6

# Writers end a block at some 100 KB; version 6 cannot state more than 16 MiB.
_LARGEST_BLOCK = 64 << 20
_LONGEST_NAME = 64
_MOST_PAIRS = 1024
_MOST_TRIED = 1 << 16
_SEARCHED_AT_ONCE = 1 << 20
_MOST_SEARCHED = 64 << 20

MOST_PROBLEMS = 20
"""What is said of one trace at most; so many damaged blocks are searched behind."""


class NettraceHeader(NamedTuple):
    """What the beginning of a trace says of all of it."""

    version: int  # 4, 5 or 6
    started: datetime | None
    pointer_size: int
    process: int | None  # of which the trace is; None where it is of several
    processors: int | None
    blocks_at: int  # where the first block or object behind the trace's own begins


class BlockKind(IntEnum):
    """What a block holds; the numbers are those of version 6."""

    END = 0
    TRACE = 1
    EVENTS = 2
    METADATA = 3
    SEQUENCE_POINT = 4
    STACKS = 5
    THREADS = 6
    REMOVED_THREADS = 7
    LABELS = 8


_OBJECTS = {
    b"EventBlock": BlockKind.EVENTS,
    b"MetadataBlock": BlockKind.METADATA,
    b"StackBlock": BlockKind.STACKS,
    b"SPBlock": BlockKind.SEQUENCE_POINT,
}


def read_nettrace_header(view: ByteView) -> NettraceHeader:
    """Return what the beginning of a trace says.

    Raises:
        UnknownFormat: Another version than 4 to 6.
        InputError: It is cut short or contradicts itself.

    Layout, versions 4 and 5: ``Nettrace``, u32 20, ``!FastSerialization.1``, then the object ``Trace``: time (8 u16),
    ticks u64, frequency u64, pointer size u32, process u32, processors u32, sampling rate u32. Version 6: ``Nettrace``,
    u32 0, major u32, minor u32, then the trace's block: time, ticks and frequency as above, pointer size u32, count
    u32, and so many pairs of texts, each behind its length.
    """
    head = view.read(0, min(view.size, 64))
    if not head.startswith(_MAGIC):
        raise MalformedInput("it does not begin with 'Nettrace'", offset=0)
    if head[8:32] == _SERIALIZATION:
        return _read_old_header(view)
    if len(head) < 20:
        raise TruncatedInput("the trace ends within its header", offset=len(head))
    reserved, major, _ = struct.unpack_from("<III", head, 8)
    if reserved or not major:
        raise MalformedInput("its header is damaged", offset=8)
    if major > _NEWEST:
        raise UnknownFormat(f"a trace of version {major}; versions {_OLDEST} to {_NEWEST} are read", offset=12)
    return _read_new_header(view)


def _read_old_header(view: ByteView) -> NettraceHeader:
    found = _object_at(view, 32)
    if found is None or found[0] != b"Trace":
        raise MalformedInput("its first object is not 'Trace'", offset=32)
    _, version, at = found
    if not _OLDEST <= version < _NEWEST:
        raise UnknownFormat(f"a trace of version {version}; versions {_OLDEST} to {_NEWEST} are read", offset=32)
    data = view.read(at, 48)
    width, process, processors = struct.unpack_from("<III", data, 32)
    return NettraceHeader(version, _time(data), _width(width, at + 32), process, processors, at + 49)


def _read_new_header(view: ByteView) -> NettraceHeader:
    (word,) = struct.unpack("<I", view.read(20, 4))
    size, kind = word & 0xFFFFFF, word >> 24
    if kind != BlockKind.TRACE:
        raise MalformedInput("its first block is not that of the trace", offset=20)
    data = view.read(24, min(size, view.size - 24))
    if len(data) < 40:
        raise TruncatedInput("the block of the trace ends early", offset=24 + len(data))
    width, count = struct.unpack_from("<II", data, 32)
    pairs: dict[str, str] = {}
    at = 40
    try:
        for _ in range(min(count, _MOST_PAIRS)):
            key, at = parse_short_text(data, at)
            pairs[key], at = parse_short_text(data, at)
    except IndexError:
        pass
    process, processors = (_decimal(pairs.get(name)) for name in ("ProcessId", "HardwareThreadCount"))
    return NettraceHeader(6, _time(data), _width(width, 24 + 32), process, processors, 24 + size)


def _width(width: int, at: int) -> int:
    if width not in {4, 8}:
        raise MalformedInput(f"a pointer of {width} bytes", offset=at)
    return width


def _decimal(text: str | None) -> int | None:
    return int(text) if text is not None and text.isascii() and text.isdecimal() and len(text) < 12 else None


def _time(data: bytes) -> datetime | None:
    year, month, _, day, hour, minute, second, _ = struct.unpack_from("<8H", data)
    try:
        return datetime(year, month, day, hour, minute, second, tzinfo=UTC)
    except ValueError:
        return None


def _object_at(view: ByteView, at: int) -> tuple[bytes, int, int] | None:
    """Return name and version of the object at *at*, and where its fields begin; None if there is none.

    Layout: tags 5, 5, 1, version u32, least version of a reader u32, name behind its length u32, tag 6, fields, tag 6.
    """
    head = view.read(at, min(15 + _LONGEST_NAME + 1, view.size - at))
    if head[:3] != bytes([_BEGIN, _BEGIN, _NULL]) or len(head) < 16:
        return None
    version, _, length = struct.unpack_from("<III", head, 3)
    if length > _LONGEST_NAME or 15 + length >= len(head) or head[15 + length] != _END:
        return None
    return head[15 : 15 + length], version, at + 16 + length


class Block(NamedTuple):
    """Where a block is; *kind* is a `BlockKind`, or one that is not known."""

    kind: int
    at: int  # where its content begins
    size: int


def find_blocks(view: ByteView, header: NettraceHeader, problems: list[str]) -> Iterator[Block]:
    """Yield the blocks of the trace in their order; the last may go past the end of the file.

    What is wrong is added to *problems*.
    """
    return _new_blocks(view, header, problems) if header.version >= 6 else _old_blocks(view, header, problems)


def _new_blocks(view: ByteView, header: NettraceHeader, problems: list[str]) -> Iterator[Block]:
    """Yield the blocks of version 6: length 24 bits, kind 8 bits, so many bytes. Kinds that are not known may come."""
    at = header.blocks_at
    searches = 0
    while at + 4 <= view.size:
        (word,) = struct.unpack("<I", view.read(at, 4))
        size, kind = word & 0xFFFFFF, word >> 24
        if kind == BlockKind.END and not size:
            return
        if _begins_block(view, at + 4 + size):
            yield Block(kind, at + 4, size)
            at += 4 + size
            continue
        # Its length or the next header is damaged, or the file ends within it.
        following = _next_block(view, at + 4) if searches < MOST_PROBLEMS else None
        searches += 1
        if following is None:
            yield Block(kind, at + 4, size)
            break
        yield Block(kind, at + 4, min(size, following - at - 4))
        problems.append(f"the block at {at:#x} or the next is damaged; one that is sound is at {following:#x}")
        at = following
    problems.append("the trace was cut off: its end is missing")


def _begins_block(view: ByteView, at: int) -> bool:
    """Say whether the header of a block may be at *at*, or the trace may end there."""
    if at + 4 > view.size:
        return at == view.size
    return view.read(at + 3, 1)[0] <= _MOST_KINDS


_MOST_KINDS = 127  # of blocks in versions to come
# Where a block of events begins: its kind, then the length of its header and flags.
_EVENTS_BEGIN = (b"\x02\x14\0\1\0", b"\x02\x14\0\0\0")


def _next_block(view: ByteView, at: int) -> int | None:
    """Return where from *at* on a block of events begins that is followed by another block, or by the end."""
    end = min(view.size, at + _MOST_SEARCHED)
    tries = 0
    while at < end:
        data = view.read(at, min(_SEARCHED_AT_ONCE, view.size - at))
        places = sorted(place for mark in _EVENTS_BEGIN for place in _find_all(data, mark) if place >= 3)
        for place in places:
            tries += 1
            size = int.from_bytes(data[place - 3 : place], "little")
            after = at + place + 1 + size
            if after + 4 <= view.size and view.read(after + 3, 1)[0] <= max(BlockKind):
                return at + place - 3
            if tries > _MOST_TRIED:
                return None
        if len(data) < _SEARCHED_AT_ONCE:
            break
        at += len(data) - 8
    return None


def _find_all(data: bytes, mark: bytes) -> Iterator[int]:
    place = data.find(mark)
    while place >= 0:
        yield place
        place = data.find(mark, place + 1)


def _old_blocks(view: ByteView, header: NettraceHeader, problems: list[str]) -> Iterator[Block]:
    """Yield the objects of versions 4 and 5.

    Layout of their fields: length u32, zeros up to a multiple of 4 in the file, so many bytes.
    """
    at = header.blocks_at
    searches = 0
    while at < view.size:
        if view.read(at, 1)[0] == _NULL:
            return
        found = _object_at(view, at)
        place = 0
        size = -1
        if found is not None and found[2] + 4 <= view.size:
            (size,) = struct.unpack("<I", view.read(found[2], 4))
            place = (found[2] + 4 + 3) & ~3
        is_sound = 0 <= size <= _LARGEST_BLOCK and (place + size >= view.size or view.read(place + size, 1)[0] == _END)
        if found is None or not is_sound:
            following = _next_object(view, at + 1) if searches < MOST_PROBLEMS else None
            searches += 1
            if following is None:
                problems.append(f"there is no sound block at {at:#x} or behind")
                return
            problems.append(f"the block at {at:#x} is damaged; the next sound one is at {following:#x}")
            at = following
            continue
        if (kind := _OBJECTS.get(found[0])) is not None:
            yield Block(kind, place, size)
        at = place + size + 1
    problems.append("the trace was cut off: its end is missing")


def _next_object(view: ByteView, at: int) -> int | None:
    """Return where from *at* on an object of a kind that is known begins."""
    mark = bytes([_BEGIN, _BEGIN, _NULL])
    end = min(view.size, at + _MOST_SEARCHED)
    tries = 0
    while at < end:
        data = view.read(at, min(_SEARCHED_AT_ONCE, view.size - at))
        place = data.find(mark)
        while place >= 0 and tries < _MOST_TRIED:
            tries += 1
            found = _object_at(view, at + place)
            if found is not None and found[0] in _OBJECTS:
                return at + place
            place = data.find(mark, place + 1)
        if len(data) < _SEARCHED_AT_ONCE:
            break
        at += len(data) - len(mark) + 1
    return None


def parse_varuint(data: bytes, at: int) -> tuple[int, int]:
    """Return the number at *at*, seven bits a byte from the lowest, and the offset behind it; at most 64 bits."""
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, at
        shift += 7
        if shift >= 70:
            raise IndexError


def parse_short_text(data: bytes, at: int) -> tuple[str, int]:
    """Return the UTF-8 text behind its length, a varuint, and the offset behind it."""
    length, at = parse_varuint(data, at)
    if at + length > len(data):
        raise IndexError
    return data[at : at + min(length, LONGEST_TEXT)].decode("utf-8", "replace"), at + length
