"""Event logs of Windows (ETL): their buffers, and the events in them that tell what was loaded.

Sources: geoffchappell.com, "WMI_BUFFER_HEADER" and "Event Tracing: trace headers"; learn.microsoft.com, classes
Image_Load, Process_TypeGroup1, Thread_TypeGroup1, PerfInfo, StackWalk and TRACE_LOGFILE_HEADER; in microsoft/perfview
SymbolTraceEventParser.cs for what merging adds; real traces.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple
from uuid import UUID

from symcache.errors import MalformedInput
from symcache.formats.trace.events import (
    FILE_VERSION_TEXTS,
    MANAGED_MODULE_EVENTS,
    CodeViewMark,
    FileVersion,
    ImageInfo,
    NamedPdb,
    NoPdb,
    ProcessNamed,
    ThreadOf,
    TraceModule,
    parse_managed_module,
    read_bytes_text,
    read_utf16,
)
from symcache.formats.trace.hits import Hits
from symcache.formats.trace.xpress import expand

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.trace.events import TraceEvent
    from symcache.formats.view import ByteView

BUFFER_HEADER_BYTES = 72
_LARGEST_BUFFER = 16 << 20
"""The most that Windows takes for a buffer, in bytes."""

_BUFFER = struct.Struct("<III36xIHH")
_COMPRESSED = 0x40
_HEADER_BUFFER = 4
_MOST_TYPES = 8
_EVENT_ALIGNMENT = 8

# Kind of an event: length of its header and of a pointer in its payload, in bytes.
_KERNEL = {0x01: (32, 4), 0x02: (32, 8), 0x03: (24, 4), 0x04: (24, 8), 0x10: (16, 4), 0x11: (16, 8)}
_CLASSIC = {0x0A: (48, 4), 0x14: (48, 8)}
_MANIFEST = {0x12: (80, 4), 0x13: (80, 8)}
_MARK = 0x80  # of the byte behind the kind
_SMALLEST_EVENT = 8
_HAS_EXTENDED_DATA = 0x1

# The upper byte of the word that says what a kernel event is, and which of its lower bytes are wanted.
_PROCESS, _THREAD, _IMAGE, _PERF, _STACK = 0x03, 0x05, 0x14, 0x0F, 0x18
_PROCESS_OPCODES = frozenset([1, 2, 3, 4, 39])
_IMAGE_OPCODES = frozenset([2, 3, 4, 10])
_THREAD_OPCODES = frozenset([1, 2, 3, 4])
_SAMPLE, _STACK_WALK, _STACK_KEYS, _STACK_DEFINITIONS = 46, 32, frozenset([35, 36]), frozenset([37, 38])

_IMAGE_ID = UUID("b3e675d7-2554-4f18-830b-2762732560de").bytes_le
_MANAGED = {provider.bytes_le: numbers for provider, numbers in MANAGED_MODULE_EVENTS.items()}
_INFO, _NONE, _RSDS, _IL_RSDS, _CODE_VIEW, _FILE_VERSION = 0, 32, 36, 37, 38, 64
_PORTABLE_MINOR = 0x504D  # PE-COFF.md in dotnet/runtime, "CodeView Debug Directory Entry"
_IMAGE_ID_OPCODES = frozenset([_INFO, _NONE, _RSDS, _IL_RSDS, _CODE_VIEW, _FILE_VERSION])

# For a sound buffer behind a damaged one, in a whole file.
_MOST_SEARCHED = 64 << 20
_MOST_TRIED = 1 << 20
_SEARCHED_AT_ONCE = 1 << 20
_SECTOR = 512
_FLAGS_AT = 52
_COMPRESSED_WORDS = tuple((bytes([flags, 0, 0, 0]), _FLAGS_AT) for flags in (0x40, 0x41, 0x60, 0x61))  # and a type of 0


class Buffer(NamedTuple):
    """The header of a buffer; *at* is its place in the file, all sizes are in bytes."""

    at: int
    size: int  # in the file
    used: int  # header and events, expanded
    is_compressed: bool
    type: int


class Part(NamedTuple):
    """A piece of a file that begins with a buffer and ends with one, a few MiB long unless one buffer is longer."""

    at: int
    data: bytes


@dataclass(slots=True)
class EtlHeader:
    """What the first event of a log says of all of it; what is not known is None."""

    pointer_size: int | None = None  # of the machine, in bytes
    windows: str | None = None  # version of the system: ``10.0``
    build: int | None = None
    started: int | None = None  # 100 ns since 1601, UTC
    ended: int | None = None
    events_lost: int | None = None
    buffers_lost: int | None = None
    buffers: int | None = None  # that were written
    processors: int | None = None


@dataclass(slots=True)
class FoundEvents:
    """What a part of a log holds."""

    events: list[TraceEvent] = field(default_factory=list)
    hits: Hits | None = None
    damaged: int = 0  # buffers whose events could not be read to the end
    first_damage: int | None = None  # place of the first of them
    buffers: int = 0
    compressed: int = 0


def looks_like_etl(head: bytes) -> bool:
    """Say whether a file that begins with *head*, at least 56 bytes of it, is an event log.

    The first buffer is of its own type and holds the log's own header, which is a kernel event of group 0.
    """
    if len(head) < BUFFER_HEADER_BYTES - 16:
        return False
    size, _, _, used, flags, type_ = _BUFFER.unpack_from(head)
    if not BUFFER_HEADER_BYTES < used <= size <= _LARGEST_BUFFER or flags & ~0xFF or type_ > _MOST_TYPES:
        return False
    if size % 8 or head[12:16] != b"\0\0\0\0":
        return False
    # Logs that were written anew (ITraceRelogger) state two lengths, but say what the buffer is.
    return head[4:8] == head[48:52] or (type_ == _HEADER_BUFFER and _begins_with_header(head))


def _begins_with_header(head: bytes) -> bool:
    """Tell whether the first event is the log's own header."""
    event = head[BUFFER_HEADER_BYTES : BUFFER_HEADER_BYTES + _SMALLEST_EVENT]
    return len(event) == _SMALLEST_EVENT and event[2] in _KERNEL and bool(event[3] & _MARK) and event[6:] == b"\0\0"


def read_etl_header(view: ByteView) -> EtlHeader:
    """Return what the first event of a log says.

    Raises:
        InputError: The file does not begin with a buffer, or that does not begin with the log's header.

    Layout of TRACE_LOGFILE_HEADER, P is a pointer's length: buffer size u32, version u8 u8 u8 u8, build u32,
    processors u32, end time u64, timer resolution u32, largest size u32, mode u32, buffers written u32, start buffers
    u32, pointer size u32, events lost u32, MHz u32, 2 P, time zone (172), padding to 8, boot time u64, frequency u64,
    start time u64, flags u32, buffers lost u32.
    """
    buffer = _parse_buffer(view.read(0, BUFFER_HEADER_BYTES), 0)
    if buffer is None:
        raise MalformedInput("it does not begin with a buffer of an event log", offset=0)
    stored = view.read(BUFFER_HEADER_BYTES, min(buffer.size, view.size) - BUFFER_HEADER_BYTES)
    event = _body_of(buffer, stored)[0]
    if len(event) < 32 + 56 or event[2] not in _KERNEL or event[7]:
        raise MalformedInput("its first event is not the header of a log", offset=BUFFER_HEADER_BYTES)
    data = event[_KERNEL[event[2]][0] :]
    major, minor = data[4], data[5]
    build, processors, ended = struct.unpack_from("<IIQ", data, 8)
    buffers, _, pointer, events_lost = struct.unpack_from("<IIII", data, 36)
    header = EtlHeader(
        pointer if pointer in {4, 8} else None,
        f"{major}.{minor}",
        build,
        None,
        ended or None,
        events_lost,
        None,
        buffers,
        processors,
    )
    times = (56 + 2 * (header.pointer_size or 8) + 172 + 7) & ~7
    if len(data) >= times + 32:
        started, _, buffers_lost = struct.unpack_from("<QII", data, times + 16)
        header.started, header.buffers_lost = started or None, buffers_lost
    return header


def read_parts(view: ByteView, size: int = 4 << 20) -> Iterator[Part | str]:
    """Yield the file in parts of whole buffers, about *size* bytes each; a text is what of it is damaged.

    Behind a buffer that is none the next one is searched for. A buffer that the end of the file cuts off is yielded as
    far as it goes.
    """
    search = _Search(view)
    at = 0
    while at + BUFFER_HEADER_BYTES <= view.size:
        data = view.read(at, min(size, view.size - at))
        last, end = 0, 0  # of the last whole buffer in *data*
        buffer: Buffer | None = None
        while end + BUFFER_HEADER_BYTES <= len(data):
            buffer = _parse_buffer(data, end)
            if buffer is None or end + buffer.size > len(data):
                break
            last, end = end, end + buffer.size
        if end:
            yield Part(at, data[:end])
            if buffer is not None or end + BUFFER_HEADER_BYTES > len(data):
                at += end
                continue
            # The length of the last one may be what is wrong.
            last, end = at + last, at + end
        elif buffer is not None and at + buffer.size <= view.size:  # longer than a part
            yield Part(at, view.read(at, buffer.size))
            at += buffer.size
            continue
        else:
            last = end = at
            if buffer is not None:
                yield Part(at, view.read(at, view.size - at))
        found = search.find(last + BUFFER_HEADER_BYTES)
        if found is None and not any(view.read(end, min(BUFFER_HEADER_BYTES, view.size - end))):
            return  # room that a log of a fixed length has not filled
        if found is None:
            yield f"the buffer at {end:#x} is {'damaged' if buffer is None else 'cut off'}, and no sound one follows"
            return
        yield f"the buffer at {end:#x} is damaged; the next sound one is at {found:#x}"
        at = found
    if at < view.size:
        yield f"the file ends within the header of a buffer, at {at:#x}"


def _parse_buffer(data: bytes, at: int) -> Buffer | None:
    """Return the buffer whose header is at *at* in *data*; None if there is none."""
    size, saved, _, used, flags, type_ = _BUFFER.unpack_from(data, at)
    if not BUFFER_HEADER_BYTES <= size <= _LARGEST_BUFFER or flags >> 8 or type_ > _MOST_TYPES:
        return None
    is_compressed = bool(flags & _COMPRESSED)
    most = _LARGEST_BUFFER if is_compressed else size
    for stated in (used, saved):
        if BUFFER_HEADER_BYTES <= stated <= most:
            return Buffer(at, size, stated, is_compressed, type_)
    return None if is_compressed else Buffer(at, size, size, is_compressed, type_)


class _Search:
    """Finds sound buffers behind damaged ones, in bounds for a whole file."""

    def __init__(self, view: ByteView) -> None:
        self._view = view
        self._size = view.read(0, 4)
        self._bytes_left = _MOST_SEARCHED
        self._tries_left = _MOST_TRIED

    def find(self, start: int) -> int | None:
        """Return where from *start* on a buffer begins that is followed by another one, or by the end of the file.

        Buffers that are not compressed begin at multiples of 512 bytes and are as long as the first one. Both lengths
        in a header agree.
        """
        view = self._view
        at = start
        while at + BUFFER_HEADER_BYTES <= view.size and self._bytes_left > 0 and self._tries_left > 0:
            data = view.read(at, min(_SEARCHED_AT_ONCE + BUFFER_HEADER_BYTES, view.size - at))
            places = set(range(-at % _SECTOR, len(data) - BUFFER_HEADER_BYTES + 1, _SECTOR))
            for word, distance in (*_COMPRESSED_WORDS, (self._size, 0)):
                place = data.find(word, distance)
                while place >= 0 and len(places) < self._tries_left:
                    places.add(place - distance)
                    place = data.find(word, place + 1)
            for place in sorted(places):
                self._tries_left -= 1
                lengths = data[place + 4 : place + 8]
                if lengths != data[place + 48 : place + 52] or place + BUFFER_HEADER_BYTES > len(data):
                    continue
                buffer = _parse_buffer(data, place)
                if buffer is not None and self._is_followed(at + place, buffer):
                    return at + place
            self._bytes_left -= len(data)
            at += len(data) - BUFFER_HEADER_BYTES + 1
        return None

    def _is_followed(self, at: int, buffer: Buffer) -> bool:
        view, after = self._view, at + buffer.size
        if buffer.used <= BUFFER_HEADER_BYTES or after > view.size:
            return False
        if after + BUFFER_HEADER_BYTES > view.size:
            return after == view.size
        return _parse_buffer(view.read(after, BUFFER_HEADER_BYTES), 0) is not None


def _body_of(buffer: Buffer, stored: bytes) -> tuple[bytes, bool]:
    """Return the events of a buffer, of which *stored* is what follows its header, and whether all of it is there."""
    wanted = buffer.used - BUFFER_HEADER_BYTES
    body = expand(stored, wanted) if buffer.is_compressed else stored[:wanted]
    return body, len(body) == wanted


def find_in_part(part: Part, *, with_hits: bool = False) -> FoundEvents:
    """Return what the buffers of *part* hold; with *with_hits* also what samples and stacks point into.

    Nothing is raised: what is damaged is counted, and the rest is read.
    """
    found = FoundEvents(hits=Hits() if with_hits else None)
    data = part.data
    plain: list[Buffer] = []
    at = 0
    while at + BUFFER_HEADER_BYTES <= len(data):
        buffer = _parse_buffer(data, at)
        if buffer is None:
            break
        found.buffers += 1
        if buffer.is_compressed or with_hits or at % _EVENT_ALIGNMENT:
            _read_plain(part, plain, found)
            plain = []
            found.compressed += buffer.is_compressed
            body, is_whole = _body_of(buffer, data[at + BUFFER_HEADER_BYTES : at + buffer.size])
            is_sound = _read_body(body, _find_candidates(body, with_threads=with_hits), found)
            _note_damage(found, part.at + at, is_sound=is_sound and is_whole)
        else:
            plain.append(buffer)
        at += buffer.size
    _read_plain(part, plain, found)
    if found.hits is not None:
        found.hits.fold()
    return found


def _note_damage(found: FoundEvents, at: int, *, is_sound: bool) -> None:
    if not is_sound:
        found.damaged += 1
        if found.first_damage is None:
            found.first_damage = at


def _read_plain(part: Part, buffers: list[Buffer], found: FoundEvents) -> None:
    """Take in *buffers*, which stand as they are in *part* one behind the other; they are searched in one go."""
    if not buffers:
        return
    data, first = part.data, buffers[0].at
    end = min(buffers[-1].at + buffers[-1].size, len(data))
    candidates = _find_candidates(data if first == 0 and end == len(data) else data[first:end], with_threads=False)
    last = buffers[-1]
    if last.at + last.used > len(data):
        _note_damage(found, part.at + last.at, is_sound=False)
    index, count = 0, len(candidates)
    for buffer in buffers:
        if index == count:
            break
        start, stop = buffer.at + BUFFER_HEADER_BYTES, buffer.at + buffer.used
        inside: list[int] = []
        while index < count and (place := candidates[index] + first) < buffer.at + buffer.size:
            index += 1
            if start <= place < stop:
                inside.append(place - start)
        if inside:
            _note_damage(found, part.at + buffer.at, is_sound=_read_body(data[start:stop], inside, found))


def _read_body(body: bytes, candidates: list[int], found: FoundEvents) -> bool:
    """Take in the events of one buffer of which *candidates* are some; return whether none looked at is damaged."""
    is_sound = found.hits is None or _read_hits(body, found.hits)
    at = 0
    for candidate in candidates:
        # A candidate that lies within another event is none. Behind damage there is no telling.
        while at < candidate:
            size = _event_size(body, at)
            if not size:
                is_sound = False
                at = candidate
                break
            at += (size + 7) & ~7
        if at == candidate:
            size = _event_size(body, at)
            if at + size > len(body):  # cut off: what is left of a name is none
                return False
            try:
                event = _parse_event(body[at : at + size])
            except (struct.error, IndexError):
                is_sound = False
            else:
                if event is not None:
                    found.events.append(event)
    return is_sound


def _read_hits(body: bytes, hits: Hits) -> bool:
    at = 0
    while at + _SMALLEST_EVENT <= len(body):
        size = _event_size(body, at)
        if not size:
            return not any(body[at:])
        if body[at + 7] in _HOT_GROUPS and body[at + 2] in _KERNEL:
            _count_hits(body, at, size, hits)
        at += (size + 7) & ~7
    return True


def _event_size(body: bytes, at: int) -> int:
    """Return the length of the event at *at* in bytes; 0 if there is none."""
    if not body[at + 3] & _MARK:
        return 0
    place = at + 4 if body[at + 2] in _KERNEL else at
    size = body[place] | body[place + 1] << 8
    return size if size >= _SMALLEST_EVENT else 0


_HOT_GROUPS = frozenset([_PERF, _STACK])
_WITHOUT_THREADS = ((_PROCESS, _PROCESS_OPCODES), (_IMAGE, _IMAGE_OPCODES))
_WITH_THREADS = (*_WITHOUT_THREADS, (_THREAD, _THREAD_OPCODES))
_MANAGED_NUMBERS = sorted({number for numbers in MANAGED_MODULE_EVENTS.values() for number in numbers})
_NINTH_BYTES = frozenset(guid[8] for guid in _MANAGED)


def _find_candidates(body: bytes, *, with_threads: bool) -> list[int]:
    """Return where events that are wanted may begin, in ascending order.

    Events begin at multiples of 8, so that of every 8 bytes one alone is searched. The last one is the group of a
    kernel event, and bytes 7 and 15 of a GUID at 24, which are rare; the first one is bytes 0 and 8 of that GUID and
    the lower half of the number that stands behind it, at 40.
    """
    column = body[7::8]
    find = column.find
    candidates: list[int] = []
    for group, opcodes in _WITH_THREADS if with_threads else _WITHOUT_THREADS:
        index = find(group)
        while index >= 0:
            at = 8 * index
            if body[at + 6] in opcodes and body[at + 2] in _KERNEL and body[at + 3] & _MARK:
                candidates.append(at)
            index = find(group, index + 1)
    index = find(_IMAGE_ID[15], 4)
    while index >= 0:
        if column[index - 1] == _IMAGE_ID[7] and _is_wanted(body, 8 * (index - 4)):
            candidates.append(8 * (index - 4))
        index = find(_IMAGE_ID[15], index + 1)
    column = body[::8]
    find = column.find
    for number in _MANAGED_NUMBERS:
        index = find(number, 5)
        while index >= 0:
            if column[index - 1] in _NINTH_BYTES and _is_wanted(body, 8 * (index - 5)):
                candidates.append(8 * (index - 5))
            index = find(number, index + 1)
    candidates.sort()
    return candidates


def _is_wanted(body: bytes, at: int) -> bool:
    """Say whether at *at* is an event of a provider that is read, by its GUID and number."""
    if at + 42 > len(body) or not body[at + 3] & _MARK:
        return False
    guid, kind = body[at + 24 : at + 40], body[at + 2]
    if guid == _IMAGE_ID:
        return kind in _CLASSIC and body[at + 4] in _IMAGE_ID_OPCODES
    return kind in _MANIFEST and body[at + 40] | body[at + 41] << 8 in _MANAGED.get(guid, ())


def _parse_event(event: bytes) -> TraceEvent | None:
    """Return what a whole *event* says; None for one that says nothing of use.

    Raises:
        struct.error, IndexError: It is too short.
    """
    kind = event[2]
    if kind in _KERNEL:
        header, width = _KERNEL[kind]
        version, data = event[0] | event[1] << 8, event[header:]
        group, opcode = event[7], event[6]
        if group == _IMAGE:
            return _parse_image(data, width, version)
        if group == _THREAD:
            process, thread = struct.unpack_from("<II", data) if version else (0, 0)
            return ThreadOf(thread, process)
        del opcode
        return _parse_process(data, width, version)
    if kind in _CLASSIC:
        header, width = _CLASSIC[kind]
        return _parse_image_id(event[4], event[header:], width)
    process = int.from_bytes(event[12:16], "little")
    return parse_managed_module(event[_payload_of(event) :], process, event[42])


def _payload_of(event: bytes) -> int:
    """Return where the payload of a manifest event begins.

    Extended data stands before it, each item with a header of 8 bytes: its length u16 with that, type u16, whether
    another one follows u16, length of the data u16. Source: observed in real traces.
    """
    at = 80
    if not event[4] & _HAS_EXTENDED_DATA:
        return at
    while at + 8 <= len(event):
        size, _, more, _ = struct.unpack_from("<HHHH", event, at)
        if size < 8:
            break
        at += size
        if not more & 1:
            break
    return at


def _parse_image(data: bytes, width: int, version: int) -> TraceModule | None:
    """Return the image of a load, unload or rundown event.

    Layout, versions 2 and 3: base P, size P, process u32, checksum u32, time stamp u32, u32, default base P, 16 more,
    UTF-16 path. Version 1: base P, size P, process u32, path. Version 0 has no process.
    """
    base, size = struct.unpack_from("<QQ" if width == 8 else "<II", data)
    process = checksum = stamp = 0
    if version >= 2:
        process, checksum, stamp = struct.unpack_from("<III", data, 2 * width)
        at = 3 * width + 32
    elif version == 1:
        (process,) = struct.unpack_from("<I", data, 2 * width)
        at = 2 * width + 4
    else:
        at = 2 * width
    path, _ = read_utf16(data, at)
    return TraceModule(process, base, size, checksum, stamp, path) if path else None


_PROCESS_SID = {0: 8, 1: 16, 2: 16, 3: 24}


def _parse_process(data: bytes, width: int, version: int) -> ProcessNamed | None:
    """Return the process of a start, end or rundown event.

    Layout, version 4: key P, process u32, parent u32, session u32, exit code u32, page table P, flags u32, user (u32 0,
    or 2 P and a SID: revision u8, count u8, 6 bytes, u32 each), name of the file in ASCII. Version 3 has no flags,
    versions 1 and 2 have no page table either.
    """
    if not version:
        return None
    (process,) = struct.unpack_from("<I", data, width)
    at = width + 16 + (width if version >= 3 else 0) + (4 if version >= 4 else 0)
    if data[at : at + 4] == b"\0\0\0\0":
        at += 4
    else:
        at += 2 * width
        at += 8 + 4 * data[at + 1]
    name, _ = read_bytes_text(data, at)
    return ProcessNamed(process, name)


def _parse_image_id(opcode: int, data: bytes, width: int) -> TraceEvent | None:
    """Return what an event says that merging added.

    Layout by opcode: 0: base P, size P, process u32, time stamp u32, UTF-16 original name. 32: base P, process u32. 36
    and 37: base P, process u32, GUID, age u32, UTF-8 path of the PDB. 38: base P, process u32, then of the debug
    directory's entry its stamp u32, major version u16 and minor version u16; there is one for each code view record,
    that of the IL first, and the minor version says whether the PDB is portable. 64: image size u32, time stamp u32,
    ten UTF-16 texts.
    """
    if opcode == _FILE_VERSION:
        size, stamp = struct.unpack_from("<II", data)
        at, texts = 8, []
        for _ in FILE_VERSION_TEXTS:
            text, at = read_utf16(data, at)
            texts.append(text)
        return FileVersion(size, stamp, tuple(texts))
    if opcode == _INFO:
        base, size, process, stamp = struct.unpack_from("<QQII" if width == 8 else "<IIII", data)
        return ImageInfo(process, base, size, stamp, read_utf16(data, 2 * width + 8)[0])
    base, process = struct.unpack_from("<QI" if width == 8 else "<II", data)
    if opcode == _NONE:
        return NoPdb(process, base)
    if opcode == _CODE_VIEW:
        (minor,) = struct.unpack_from("<H", data, width + 10)
        return CodeViewMark(process, base, minor == _PORTABLE_MINOR)
    guid, age = struct.unpack_from("<16sI", data, width + 4)
    path, _ = read_bytes_text(data, width + 24)
    return NamedPdb(process, base, guid, age, path, opcode == _IL_RSDS) if path else None


def _count_hits(body: bytes, at: int, size: int, hits: Hits) -> None:
    """Take in a sample or a stack, if the event at *at* is one.

    Layout: a sample is an instruction pointer P, thread u32, count u16. A stack (opcode 32) is a time stamp u64,
    process u32, thread u32, addresses P. Stacks that are kept once: 35 and 36 have a key P in place of the addresses,
    37 and 38 define a key P, addresses P.
    """
    header, width = _KERNEL[body[at + 2]]
    group, opcode = body[at + 7], body[at + 6]
    start, end = at + header, min(at + size, len(body))
    if group == _PERF:
        if opcode == _SAMPLE and end - start >= width + 4:
            address = int.from_bytes(body[start : start + width], "little")
            hits.add_sample(int.from_bytes(body[start + width : start + width + 4], "little"), address)
    elif opcode == _STACK_WALK:
        if end - start >= 16 + width:
            process = int.from_bytes(body[start + 8 : start + 12], "little")
            hits.add_stack(process, body[start + 16 : end], width)
    elif opcode in _STACK_KEYS:
        if end - start >= 16 + width:
            process = int.from_bytes(body[start + 8 : start + 12], "little")
            hits.add_key(process, int.from_bytes(body[start + 16 : start + 16 + width], "little"))
    elif opcode in _STACK_DEFINITIONS and end - start > width:
        hits.define_key(int.from_bytes(body[start : start + width], "little"), body[start + width : end], width)
