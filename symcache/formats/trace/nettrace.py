"""Traces of .NET's EventPipe (nettrace), versions 4 to 6: their blocks, and the events that tell what was loaded.

Source: NetTraceFormat.md, NetTraceFormat_v5.md and UniversalProviders.md in microsoft/perfview.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from symcache.errors import MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.trace.events import (
    LONGEST_TEXT,
    MANAGED_MODULE_EVENTS,
    METHOD_EVENTS,
    RUNTIME_NAMES,
    MappedPe,
    PdbIdentity,
    ProcessNamed,
    parse_managed_module,
    parse_method,
    read_utf16,
)
from symcache.formats.trace.hits import Hits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.trace.events import EventTaker, TraceEvent
    from symcache.formats.view import ByteView

MAGIC = b"Nettrace"
_SERIALIZATION = struct.pack("<I", 20) + b"!FastSerialization.1"
_BEGIN, _NULL, _END = 5, 1, 6
_OLDEST, _NEWEST = 4, 6

# Writers end a block at some 100 KB; version 6 cannot state more than 16 MiB.
_LARGEST_BLOCK = 64 << 20
_LONGEST_NAME = 64
_MOST_PAIRS = 1024
_MOST_METADATA = 1 << 16
_MOST_MAPPINGS = 1 << 16
_MOST_THREADS = 1 << 18
_MOST_STACKS = 1 << 18
_LONGEST_JSON = 1 << 14
_KEPT_STACK_BYTES = 64 << 20
_MOST_PROBLEMS = 20
_TOLD_EVERY = 4 << 20
_COMPRESSED_HEADERS = 1


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


@dataclass(slots=True)
class ReadBlocks:
    """What is known of a trace that was read."""

    blocks: int = 0
    problems: list[str] = field(default_factory=list)


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
    if not head.startswith(MAGIC):
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
            key, at = _short_text(data, at)
            pairs[key], at = _short_text(data, at)
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


class _Block(NamedTuple):
    kind: int
    at: int  # where its content begins
    size: int


def _blocks(view: ByteView, header: NettraceHeader, problems: list[str]) -> Iterator[_Block]:
    """Yield the blocks of the trace in their order; the last may go past the end of the file."""
    return _new_blocks(view, header, problems) if header.version >= 6 else _old_blocks(view, header, problems)


def _new_blocks(view: ByteView, header: NettraceHeader, problems: list[str]) -> Iterator[_Block]:
    """Yield the blocks of version 6: length 24 bits, kind 8 bits, so many bytes. Kinds that are not known may come."""
    at = header.blocks_at
    searches = 0
    while at + 4 <= view.size:
        (word,) = struct.unpack("<I", view.read(at, 4))
        size, kind = word & 0xFFFFFF, word >> 24
        if kind == BlockKind.END and not size:
            return
        if _begins_block(view, at + 4 + size):
            yield _Block(kind, at + 4, size)
            at += 4 + size
            continue
        # Its length or the next header is damaged, or the file ends within it.
        following = _next_block(view, at + 4) if searches < _MOST_PROBLEMS else None
        searches += 1
        if following is None:
            yield _Block(kind, at + 4, size)
            break
        yield _Block(kind, at + 4, min(size, following - at - 4))
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
            if tries > _MOST_METADATA:
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


def _old_blocks(view: ByteView, header: NettraceHeader, problems: list[str]) -> Iterator[_Block]:
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
            following = _next_object(view, at + 1) if searches < _MOST_PROBLEMS else None
            searches += 1
            if following is None:
                problems.append(f"there is no sound block at {at:#x} or behind")
                return
            problems.append(f"the block at {at:#x} is damaged; the next sound one is at {following:#x}")
            at = following
            continue
        if (kind := _OBJECTS.get(found[0])) is not None:
            yield _Block(kind, place, size)
        at = place + size + 1
    problems.append("the trace was cut off: its end is missing")


_SEARCHED_AT_ONCE = 1 << 20
_MOST_SEARCHED = 64 << 20


def _next_object(view: ByteView, at: int) -> int | None:
    """Return where from *at* on an object of a kind that is known begins."""
    mark = bytes([_BEGIN, _BEGIN, _NULL])
    end = min(view.size, at + _MOST_SEARCHED)
    tries = 0
    while at < end:
        data = view.read(at, min(_SEARCHED_AT_ONCE, view.size - at))
        place = data.find(mark)
        while place >= 0 and tries < _MOST_METADATA:
            tries += 1
            found = _object_at(view, at + place)
            if found is not None and found[0] in _OBJECTS:
                return at + place
            place = data.find(mark, place + 1)
        if len(data) < _SEARCHED_AT_ONCE:
            break
        at += len(data) - len(mark) + 1
    return None


class _Row(NamedTuple):
    """What a metadata row says of the events that name it."""

    provider: str
    number: int
    name: str
    version: int


class _Event(NamedTuple):
    row: int
    thread: int
    stack: int
    at: int  # of the payload
    size: int


_SAMPLER = "Microsoft-DotNETCore-SampleProfiler"
_UNIVERSAL_SYSTEM, _UNIVERSAL_EVENTS = "Universal.System", "Universal.Events"
_UNIVERSAL = frozenset(["ProcessCreate", "ProcessMapping", "ProcessMappingMetadata"])
# Module events name an image of one of these kinds, or a PDB, in UTF-16. It is faster to see that a block has none than
# to go from event to event.
_NAMES = tuple(
    text.encode("utf-16-le")
    for word in ("dll", "exe", "pdb", "winmd")
    for text in (word, word.upper(), word.capitalize())
)


def read_blocks(
    view: ByteView,
    header: NettraceHeader,
    taker: EventTaker,
    *,
    with_hits: bool = False,
    advance: Callable[[int], None] = lambda _: None,
) -> ReadBlocks:
    """Hand what the trace in *view* holds to *taker*; return what there is to say of the trace itself.

    *with_hits* also counts what stacks point into. Nothing is raised for what is damaged.
    """
    done = ReadBlocks()
    reader = _Reader(header, taker, with_hits=with_hits)
    told = 0
    for block in _blocks(view, header, done.problems):
        done.blocks += 1
        if reader.wants(block.kind):
            end = min(block.at + block.size, view.size)
            if end < block.at:
                break
            is_sound = reader.read(block.kind, view.read(block.at, end - block.at))
            if not is_sound or end < block.at + block.size:
                reader.damaged += 1
                if reader.first_damage is None:
                    reader.first_damage = block.at
        if block.at + block.size - told >= _TOLD_EVERY:
            told = min(block.at + block.size, view.size)
            advance(told)
    reader.finish()
    if reader.damaged:
        said = "1 block is" if reader.damaged == 1 else f"{reader.damaged} blocks are"
        place = reader.first_damage
        done.problems.insert(0, f"{said} damaged or cut off, first at {place:#x}; what could be read of it is here")
    del done.problems[_MOST_PROBLEMS:]
    advance(view.size)
    return done


class _Reader:
    """Reads one block after the other and knows what earlier ones said."""

    def __init__(self, header: NettraceHeader, taker: EventTaker, *, with_hits: bool) -> None:
        self.damaged = 0
        self.first_damage: int | None = None
        self._header = header
        self._is_new = header.version >= 6
        self._taker = taker
        self._hits = Hits() if with_hits else None
        self._rows: dict[int, _Row] = {}  # of events that are read
        self._threads: dict[int, int] = {}  # processes by the index of a thread
        self._stacks: dict[int, bytes] = {}
        self._stack_bytes = 0
        self._mappings: list[tuple[int, int, int, str, int]] = []  # process, start, end, path, number of metadata
        self._mapped: dict[int, tuple[str, str]] = {}

    def wants(self, kind: int) -> bool:
        """Say whether a block of *kind* is read."""
        if kind == BlockKind.EVENTS:
            return bool(self._rows)
        if kind in {BlockKind.METADATA, BlockKind.SEQUENCE_POINT}:
            return True
        return (kind == BlockKind.STACKS and self._hits is not None) or kind == BlockKind.THREADS

    def read(self, kind: int, data: bytes) -> bool:
        """Take in a block; return whether it is sound."""
        try:
            if kind == BlockKind.EVENTS:
                return self._read_events(data)
            if kind == BlockKind.METADATA:
                return self._read_rows(data) if self._is_new else self._read_old_rows(data)
            if kind == BlockKind.STACKS:
                self._read_stacks(data)
            elif kind == BlockKind.THREADS:
                self._read_threads(data)
            else:
                self._read_sequence_point(data)
        except (struct.error, IndexError):
            return False
        return True

    def finish(self) -> None:
        """Hand on what could only be put together at the end."""
        for process, start, end, path, number in self._mappings:
            pe = _parse_pe(*self._mapped.get(number, ("", "")), process, start, end, path)
            if pe is not None:
                self._taker.take(pe)
        self._taker.add_hits(self._hits)

    def _read_old_rows(self, data: bytes) -> bool:
        """Take in the metadata of versions 4 and 5, which is written as events are.

        Layout of a payload: row u32, UTF-16 name of the provider, number u32, UTF-16 name of the event, keywords u64,
        version u32, level u32, fields.
        """
        for event in self._events(data):
            payload = data[event.at : event.at + event.size]
            (row,) = struct.unpack_from("<I", payload)
            provider, at = read_utf16(payload, 4)
            (number,) = struct.unpack_from("<I", payload, at)
            name, at = read_utf16(payload, at + 4)
            (version,) = struct.unpack_from("<I", payload, at + 8)
            self._add_row(row, _Row(provider, number, name, version))
        return True

    def _read_rows(self, data: bytes) -> bool:
        """Take in the metadata of version 6.

        Layout: length of the header u16, header, rows: length u16, row varuint, provider, number varuint, name, more
        that is not read. Texts stand behind their length, a varuint.
        """
        at = 2 + int.from_bytes(data[:2], "little")
        while at + 2 <= len(data):
            size = int.from_bytes(data[at : at + 2], "little")
            at += 2
            row_data = data[at : at + size]
            row, place = _varuint(row_data, 0)
            provider, place = _short_text(row_data, place)
            number, place = _varuint(row_data, place)
            name, _ = _short_text(row_data, place)
            self._add_row(row, _Row(provider, number, name, 2))
            at += size
        return at == len(data)

    def _add_row(self, number: int, row: _Row) -> None:
        if row.provider in RUNTIME_NAMES:
            is_wanted = row.number in MANAGED_MODULE_EVENTS[RUNTIME_NAMES[row.provider]]
            if self._hits is not None:
                is_wanted = is_wanted or row.number in METHOD_EVENTS
        elif row.provider == _UNIVERSAL_SYSTEM:
            is_wanted = row.name in _UNIVERSAL
        else:
            is_wanted = self._hits is not None and row.provider in {_SAMPLER, _UNIVERSAL_EVENTS}
        if is_wanted and len(self._rows) < _MOST_METADATA:
            self._rows[number] = row
        else:
            self._rows.pop(number, None)

    def _read_sequence_point(self, data: bytes) -> None:
        """Forget what nothing that follows refers to.

        Layout, version 6: time u64, flags u32 (1: the threads, 2: the metadata), more that is not read.
        """
        self._stacks.clear()
        self._stack_bytes = 0
        if self._is_new:
            (flags,) = struct.unpack_from("<I", data, 8)
            if flags & 1:
                self._threads.clear()
            if flags & 2:
                self._rows.clear()

    def _read_stacks(self, data: bytes) -> None:
        """Take in stacks; layout: first number u32, count u32, then of each: length u32, addresses."""
        first, count = struct.unpack_from("<II", data)
        at = 8
        for number in range(first, first + min(count, len(data) // 4)):
            (size,) = struct.unpack_from("<I", data, at)
            at += 4
            if len(self._stacks) >= _MOST_STACKS or self._stack_bytes + size > _KEPT_STACK_BYTES:
                return
            self._stacks[number] = data[at : at + size]
            self._stack_bytes += size
            at += size

    def _read_threads(self, data: bytes) -> None:
        """Take in threads; layout: length u16, number varuint, then kinds u8: 1 name, 2 process, 3 thread, 4 a pair."""
        at = 0
        while at + 2 <= len(data):
            size = int.from_bytes(data[at : at + 2], "little")
            row = data[at + 2 : at + 2 + size]
            at += 2 + size
            thread, place = _varuint(row, 0)
            while place < len(row):
                kind = row[place]
                place += 1
                if kind in {2, 3}:
                    value, place = _varuint(row, place)
                    if kind == 2 and len(self._threads) < _MOST_THREADS:
                        self._threads[thread] = value
                elif kind in {1, 4}:
                    for _ in range(1 if kind == 1 else 2):
                        _, place = _short_text(row, place)
                else:
                    break

    def _read_events(self, data: bytes) -> bool:
        if self._hits is None and not self._has_names(data):
            return True
        rows = self._rows
        for event in self._events(data):
            row = rows.get(event.row)
            if row is not None:
                self._take(row, event, data[event.at : event.at + event.size])
        return True

    def _has_names(self, data: bytes) -> bool:
        return any(row.provider == _UNIVERSAL_SYSTEM for row in self._rows.values()) or any(
            name in data for name in _NAMES
        )

    def _take(self, row: _Row, event: _Event, payload: bytes) -> None:
        process = self._threads.get(event.thread, 0) if self._is_new else self._header.process or 0
        if self._is_new and not process:
            process = self._header.process or 0
        if row.provider in RUNTIME_NAMES:
            is_method = row.number in METHOD_EVENTS
            parsed: TraceEvent | None = (
                parse_method(payload, process) if is_method else parse_managed_module(payload, process, row.version)
            )
            if parsed is not None:
                self._taker.take(parsed)
        elif row.provider == _UNIVERSAL_SYSTEM:
            self._take_universal(row, process, payload)
        elif self._hits is not None and (stack := self._stacks.get(event.stack)) is not None:
            self._hits.add_stack(process, stack, self._header.pointer_size)

    def _take_universal(self, row: _Row, process: int, payload: bytes) -> None:
        """Take in an event about a machine's processes.

        Layout, numbers are varuints and texts stand behind their length u16: ProcessCreate: id within its name space,
        name, name space. ProcessMapping: number, start, end, offset in the file, path, number of the metadata.
        ProcessMappingMetadata: number, JSON about symbols, JSON about the version.
        """
        first, at = _varuint(payload, 0)
        if row.name == "ProcessCreate":
            self._taker.take(ProcessNamed(process, _text16(payload, at)[0]))
        elif row.name == "ProcessMapping":
            start, at = _varuint(payload, at)
            end, at = _varuint(payload, at)
            _, at = _varuint(payload, at)
            path, at = _text16(payload, at)
            number, at = _varuint(payload, at)
            if number and len(self._mappings) < _MOST_MAPPINGS:
                self._mappings.append((process, start, end, path, number))
        elif len(self._mapped) < _MOST_MAPPINGS:
            symbols, at = _text16(payload, at)
            self._mapped[first] = symbols, _text16(payload, at)[0]

    def _events(self, data: bytes) -> Iterator[_Event]:
        """Yield the events of a block; `struct.error` or `IndexError` say that it is damaged.

        Layout: length of the header u16 with itself, flags u16 (1: headers of events are packed), time u64, time u64,
        more; then the events.
        """
        size, flags = struct.unpack_from("<HH", data)
        if size < 4:
            raise IndexError
        if flags & _COMPRESSED_HEADERS:
            return self._packed_events(data, size)
        return self._plain_events(data, size)

    def _plain_events(self, data: bytes, at: int) -> Iterator[_Event]:
        """Yield events with whole headers.

        Layout, versions 4 and 5: length u32, row u32 (the highest bit says something else), number u32, thread u64,
        capturing thread u64, processor u32, stack u32, time u64, two GUIDs, length of the payload u32, payload, zeros
        up to a multiple of 4. Version 6 has a list of labels u32 in place of the GUIDs, and no zeros.
        """
        fixed = 52 if self._is_new else 80
        while at + fixed <= len(data):
            size, row = struct.unpack_from("<II", data, at)
            (thread,) = struct.unpack_from("<Q", data, at + 12)
            (stack,) = struct.unpack_from("<I", data, at + 32)
            (length,) = struct.unpack_from("<I", data, at + fixed - 4)
            if size < fixed - 4 or length > size - fixed + 4:
                raise IndexError
            yield _Event(row & 0x7FFFFFFF, thread, stack, at + fixed, length)
            at += 4 + size
            if not self._is_new:
                at = (at + 3) & ~3
        if at < len(data):
            raise IndexError

    def _packed_events(self, data: bytes, at: int) -> Iterator[_Event]:
        """Yield events whose headers say what differs from the last one.

        Layout: flags u8; row (1); number, capturing thread, processor (2); thread (4); stack (8); time; GUID (16) and
        GUID (32), of version 6 a list of labels (16); length of the payload (128); each a varuint that is there if its
        flag is set; the payload.
        """
        row = thread = stack = length = 0
        is_new = self._is_new
        end = len(data)
        while at < end:
            flags = data[at]
            at += 1
            if flags & 1:
                row = data[at]
                at += 1
                if row & 0x80:
                    row, at = _varuint(data, at - 1)
            if flags & 2:
                for _ in range(3):
                    while data[at] & 0x80:
                        at += 1
                    at += 1
            if flags & 4:
                thread, at = _varuint(data, at)
            if flags & 8:
                stack, at = _varuint(data, at)
            while data[at] & 0x80:
                at += 1
            at += 1
            if flags & 48:
                if is_new:
                    if flags & 16:
                        _, at = _varuint(data, at)
                else:
                    at += 16 * (flags >> 4 & 1) + 16 * (flags >> 5 & 1)
            if flags & 128:
                length = data[at]
                at += 1
                if length & 0x80:
                    length, at = _varuint(data, at - 1)
            if at + length > end:
                raise IndexError
            yield _Event(row, thread, stack, at, length)
            at += length


def _varuint(data: bytes, at: int) -> tuple[int, int]:
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


def _short_text(data: bytes, at: int) -> tuple[str, int]:
    """Return the UTF-8 text behind its length, a varuint, and the offset behind it."""
    length, at = _varuint(data, at)
    if at + length > len(data):
        raise IndexError
    return data[at : at + min(length, LONGEST_TEXT)].decode("utf-8", "replace"), at + length


def _text16(data: bytes, at: int) -> tuple[str, int]:
    """Return the UTF-8 text behind its length, a u16, and the offset behind it."""
    (length,) = struct.unpack_from("<H", data, at)
    at += 2
    return data[at : at + length].decode("utf-8", "replace"), at + length


def _parse_pe(symbols: str, version: str, process: int, start: int, end: int, path: str) -> MappedPe | None:
    """Return the PE image of a mapping whose metadata is *symbols*; None if it is of another system, or names no PDB.

    Source: the class PEProcessMappingSymbolMetadata in perfview's UniversalSystemTraceEventParser.cs.
    """
    del version  # nothing in it is documented
    said = _load(symbols)
    kind, name, signature, age = (said.get(each) for each in ("type", "name", "signature", "age"))
    if not isinstance(kind, str) or kind.upper() != "PE":
        return None
    pdb: PdbIdentity | None = None
    if isinstance(name, str) and name and isinstance(signature, str):
        try:
            guid = UUID(signature)
        except ValueError:
            guid = UUID(int=0)
        age = age if type(age) is int and 0 <= age < 1 << 32 else 1
        if guid.int:
            pdb = PdbIdentity(guid.bytes_le, age, name[:LONGEST_TEXT])
    return MappedPe(process, start, max(end - start, 0), path[:LONGEST_TEXT], pdb)


def _load(text: str) -> dict[str, object]:
    if not text or len(text) > _LONGEST_JSON:
        return {}
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
