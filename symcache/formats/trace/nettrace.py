"""Events of traces of .NET's EventPipe (nettrace), versions 4 to 6, that tell what was loaded.

Source: NetTraceFormat.md, NetTraceFormat_v5.md and UniversalProviders.md in microsoft/perfview.
"""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

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
from symcache.formats.trace.nettraceblocks import MOST_PROBLEMS, BlockKind, find_blocks, parse_short_text, parse_varuint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.trace.events import EventTaker, TraceEvent
    from symcache.formats.trace.nettraceblocks import NettraceHeader
    from symcache.formats.view import ByteView

_MOST_METADATA = 1 << 16
_MOST_MAPPINGS = 1 << 16
_MOST_THREADS = 1 << 18
_MOST_STACKS = 1 << 18
_LONGEST_JSON = 1 << 14
_KEPT_STACK_BYTES = 64 << 20
_TOLD_EVERY = 4 << 20
_COMPRESSED_HEADERS = 1


@dataclass(slots=True)
class ReadBlocks:
    """What is known of a trace that was read."""

    blocks: int = 0
    problems: list[str] = field(default_factory=list)


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
    for block in find_blocks(view, header, done.problems):
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
    del done.problems[MOST_PROBLEMS:]
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
        self._mapped: dict[int, str] = {}  # JSON about symbols by the number of metadata

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
            pe = _parse_pe(self._mapped.get(number, ""), process, start, end, path)
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
            row, place = parse_varuint(row_data, 0)
            provider, place = parse_short_text(row_data, place)
            number, place = parse_varuint(row_data, place)
            name, _ = parse_short_text(row_data, place)
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
            thread, place = parse_varuint(row, 0)
            while place < len(row):
                kind = row[place]
                place += 1
                if kind in {2, 3}:
                    value, place = parse_varuint(row, place)
                    if kind == 2 and len(self._threads) < _MOST_THREADS:
                        self._threads[thread] = value
                elif kind in {1, 4}:
                    for _ in range(1 if kind == 1 else 2):
                        _, place = parse_short_text(row, place)
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
        ProcessMappingMetadata: number, JSON about symbols, JSON about the version, nothing of which is documented.
        """
        first, at = parse_varuint(payload, 0)
        if row.name == "ProcessCreate":
            self._taker.take(ProcessNamed(process, _text16(payload, at)[0]))
        elif row.name == "ProcessMapping":
            start, at = parse_varuint(payload, at)
            end, at = parse_varuint(payload, at)
            _, at = parse_varuint(payload, at)
            path, at = _text16(payload, at)
            number, at = parse_varuint(payload, at)
            if number and len(self._mappings) < _MOST_MAPPINGS:
                self._mappings.append((process, start, end, path, number))
        elif len(self._mapped) < _MOST_MAPPINGS:
            self._mapped[first] = _text16(payload, at)[0]

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
                    row, at = parse_varuint(data, at - 1)
            if flags & 2:
                for _ in range(3):
                    while data[at] & 0x80:
                        at += 1
                    at += 1
            if flags & 4:
                thread, at = parse_varuint(data, at)
            if flags & 8:
                stack, at = parse_varuint(data, at)
            while data[at] & 0x80:
                at += 1
            at += 1
            if flags & 48:
                if is_new:
                    if flags & 16:
                        _, at = parse_varuint(data, at)
                else:
                    at += 16 * (flags >> 4 & 1) + 16 * (flags >> 5 & 1)
            if flags & 128:
                length = data[at]
                at += 1
                if length & 0x80:
                    length, at = parse_varuint(data, at - 1)
            if at + length > end:
                raise IndexError
            yield _Event(row, thread, stack, at, length)
            at += length


def _text16(data: bytes, at: int) -> tuple[str, int]:
    """Return the UTF-8 text behind its length, a u16, and the offset behind it."""
    (length,) = struct.unpack_from("<H", data, at)
    at += 2
    return data[at : at + length].decode("utf-8", "replace"), at + length


def _parse_pe(symbols: str, process: int, start: int, end: int, path: str) -> MappedPe | None:
    """Return the PE image of a mapping whose metadata is *symbols*; None if it is of another system, or names no PDB.

    Source: the class PEProcessMappingSymbolMetadata in perfview's UniversalSystemTraceEventParser.cs.
    """
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
