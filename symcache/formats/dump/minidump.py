"""User-mode minidumps: header, streams, lists of modules, and the memory that was captured, read by address."""

from __future__ import annotations

import struct
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from enum import IntEnum
from itertools import chain
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, NotInDump, TruncatedInput, UnknownFormat
from symcache.formats.pe.version import FIXED_BYTES, parse_fixed_info
from symcache.formats.view import parse_uint, read_in_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.pe.version import VersionInfo
    from symcache.formats.view import ByteView

_SIGNATURE = b"MDMP"
_SWAPPED_SIGNATURE = b"PMDM"
_VERSION = 0xA793
_HEADER = struct.Struct("<4sIIIIIQ")
_DIRECTORY_ENTRY = struct.Struct("<III")
_MODULE_BYTES = 108
_MODULE = struct.Struct("<QIIII")
_VERSION_AT = 0x18  # of the fixed version information within a module's entry
_LOCATION_AT = 0x4C  # of the code view record within a module's entry
_UNLOADED = struct.Struct("<QIIII")
_SYSTEM_INFO = struct.Struct("<H6xIIII4x")
_EXCEPTION = struct.Struct("<I4xI12xQ128xII")
_SHORT_EXCEPTION = struct.Struct("<I4xI12xQ")
_THREAD = struct.Struct("<I12xQQIIII")
_BREAKPAD_INFO = struct.Struct("<III")
_PROCESS = struct.Struct("<4xIII8x")
_FULL_MEMORY = 0x2

# Writers lay down some twenty streams and Breakpad's reader takes no more than 128; a directory without a bound would
# let a file of nothing but entries decide how long the walk is.
_MOST_STREAMS = 4096
_MOST_THREADS = 1 << 14
_LONGEST_NAME_BYTES = 0xFFFE  # what a UNICODE_STRING can say
_LONGEST_RECORD_BYTES = 0x1000


class StreamType(IntEnum):
    """Streams that are read here."""

    THREAD_LIST = 3
    MODULE_LIST = 4
    MEMORY_LIST = 5
    EXCEPTION = 6
    SYSTEM_INFO = 7
    MEMORY64_LIST = 9
    UNLOADED_MODULE_LIST = 14
    MISC_INFO = 15
    BREAKPAD_INFO = 0x47670001


@dataclass(frozen=True, slots=True)
class Stream:
    """One entry of the directory."""

    type: int  # what the stream is; a `StreamType` or a number that is not read here
    size_bytes: int  # length as the directory states it
    offset: int  # where it begins, in bytes from the start of the file


@dataclass(frozen=True, slots=True)
class Minidump:
    """What header and directory say."""

    timestamp: int  # when it was written, in seconds since 1970 (UTC); 0 if its writer did not say
    flags: int  # MINIDUMP_TYPE bits
    streams: tuple[Stream, ...]  # the directory, unused entries left out; several streams may be of one type
    truncated: bool  # the file ends before its directory or before a stream in it does

    @property
    def full_memory(self) -> bool:
        """All readable memory of the process was asked for."""
        return bool(self.flags & _FULL_MEMORY)

    def streams_of(self, type_: StreamType) -> list[Stream]:
        """Return the streams of one type in directory order; a place that is named twice counts once."""
        return list({stream.offset: stream for stream in reversed(self.streams) if stream.type == type_}.values())[::-1]


@dataclass(frozen=True, slots=True)
class SystemInfo:
    """The machine the process ran on."""

    processor: int  # PROCESSOR_ARCHITECTURE number
    major: int
    minor: int
    build: int
    platform: int  # VER_PLATFORM number, or one of Breakpad's above 0x8000


@dataclass(frozen=True, slots=True)
class ExceptionInfo:
    """Why the dump was written."""

    thread: int  # id of the thread that raised it
    code: int
    address: int  # where it was raised
    context: tuple[int, int]  # length and offset of the thread's CONTEXT when it did, in bytes


@dataclass(frozen=True, slots=True)
class Thread:
    """A thread of the process."""

    id: int
    teb: int  # address of its environment block
    stack: tuple[int, int, int]  # address, length and offset of what was captured of its stack, in bytes
    context: tuple[int, int]  # length and offset of its CONTEXT, in bytes


@dataclass(frozen=True, slots=True)
class ProcessInfo:
    """The process that was dumped."""

    id: int | None  # process id; None if the dump does not say
    started: int | None  # seconds since 1970 (UTC); None if the dump does not say


@dataclass(frozen=True, slots=True)
class ModuleTable:
    """A list of modules, bounded by its stream and its file."""

    unloaded: bool  # its modules had been unloaded before the dump was written
    first: int  # offset of the first entry, in bytes
    entry_bytes: int  # distance from one entry to the next
    count: int  # entries that the stream can hold and the file does hold
    stated: int  # entries that the list claims

    def offsets(self) -> range:
        """Offsets of the entries, for `parse_module_entry`."""
        return range(self.first, self.first + self.count * self.entry_bytes, self.entry_bytes)


@dataclass(frozen=True, slots=True)
class ModuleEntry:
    """One module as a list states it."""

    base_va: int  # address it was loaded at
    size_of_image: int
    checksum: int  # CheckSum of the optional header
    timestamp: int  # TimeDateStamp of the file header
    path: str | None  # its path as the writer put it; None if the dump does not hold it
    code_view: bytes | None  # bytes of its code view record; None if there is none
    code_view_at: int  # offset of the record; only for errors
    problem: str | None  # why *path* or *code_view* is missing although the entry points to it; None if neither is
    version: VersionInfo | None = None  # numbers and flags; None if its writer found none


def parse_minidump(view: ByteView) -> Minidump:
    """Return what header and directory say; no stream is read.

    Raises:
        UnknownFormat: Not a minidump, or one with the other byte order.
        MalformedInput: The version is none of a minidump's.
        TruncatedInput: The file ends within the header or before the first entry of the directory.

    Layout: ``MDMP``, version u32 (its low half is 0xA793, the high half the writer's own), number of streams u32,
    offset of the directory u32, checksum u32, time stamp u32, flags u64. A directory entry is type, size and offset,
    u32 each. Type 0 is unused.
    """
    magic = view.read(0, min(4, view.size))
    if magic == _SWAPPED_SIGNATURE:
        raise UnknownFormat("a big-endian minidump (PMDM); only little-endian ones come from Windows", offset=0)
    if magic != _SIGNATURE:
        raise UnknownFormat("not a minidump", offset=0)
    _, version, stated, directory, _, timestamp, flags = _HEADER.unpack(view.read(0, _HEADER.size))
    if version & 0xFFFF != _VERSION:
        raise MalformedInput(f"version {version & 0xFFFF:#x} is not a minidump's", offset=4)
    held = max(view.size - directory, 0) // _DIRECTORY_ENTRY.size
    if stated and not held:
        raise TruncatedInput("the directory of streams lies past the end of the file", offset=directory)
    count = min(stated, held, _MOST_STREAMS)
    entries = _DIRECTORY_ENTRY.iter_unpack(view.read(directory, count * _DIRECTORY_ENTRY.size))
    streams = tuple(Stream(*entry) for entry in entries if entry[0])
    cut = stated > count or any(stream.offset + stream.size_bytes > view.size for stream in streams)
    return Minidump(timestamp, flags, streams, truncated=cut)


def parse_system_info(view: ByteView, dump: Minidump) -> SystemInfo | None:
    """Return what the first readable system information stream says; None if there is none.

    Layout: processor u16, level u16, revision u16, processors u8, product type u8, major u32, minor u32, build u32,
    platform u32, offset of the service pack's name u32.
    """
    fields = _read_first(view, dump, StreamType.SYSTEM_INFO, _SYSTEM_INFO)
    return None if fields is None else SystemInfo(*fields)


def parse_exception(view: ByteView, dump: Minidump) -> ExceptionInfo | None:
    """Return what the first readable exception stream says; None if there is none.

    Layout: thread id u32, padding u32, then the record: code u32, flags u32, nested record u64, address u64, number of
    parameters u32, padding u32, 15 parameters u64; then length u32 and offset u32 of the CONTEXT. Source:
    minidumpapiset.h, MINIDUMP_EXCEPTION_STREAM.
    """
    whole = _read_first(view, dump, StreamType.EXCEPTION, _EXCEPTION)
    fields = whole or _read_first(view, dump, StreamType.EXCEPTION, _SHORT_EXCEPTION)  # cut off behind what it tells
    if fields is None:
        return None
    thread, code, address, size, offset = (*fields, 0, 0)[:5]
    return ExceptionInfo(thread, code, address, (size, offset))


def parse_requesting_thread(view: ByteView, dump: Minidump) -> int | None:
    """Return the id of the thread that asked for the dump, where Breakpad wrote it; None elsewhere.

    Layout: validity u32 (2: the second id is), id of the thread that wrote the dump u32, id of the one that asked u32.
    Source: Breakpad's minidump_format.h, MDRawBreakpadInfo.
    """
    fields = _read_first(view, dump, StreamType.BREAKPAD_INFO, _BREAKPAD_INFO)
    return fields[2] if fields is not None and fields[0] & 2 else None


def find_thread(view: ByteView, dump: Minidump, id_: int | None) -> Thread | None:
    """Return the thread *id_*, or the first for None; None if no list that can be read has it.

    Layout of a thread list: count u32 (some writers put 4 bytes of padding behind it), then entries of 48 bytes: id
    u32, suspend count u32, priorities u32 and u32, environment block u64, stack {address u64, length u32, offset u32},
    CONTEXT {length u32, offset u32}. Source: minidumpapiset.h, MINIDUMP_THREAD.
    """
    for stream in dump.streams_of(StreamType.THREAD_LIST):
        held = min(stream.size_bytes, view.size - stream.offset)
        if held < 4:
            continue
        count = parse_uint(view.read(stream.offset, 4), 0, 4)
        padding = 4 if stream.size_bytes == 8 + count * _THREAD.size else 0
        count = min(count, max(held - 4 - padding, 0) // _THREAD.size, _MOST_THREADS)
        entries = view.read(stream.offset + 4 + padding, count * _THREAD.size)
        for thread, teb, start, size, at, context_bytes, context_at in _THREAD.iter_unpack(entries):
            if id_ is None or thread == id_:
                return Thread(thread, teb, (start, size, at), (context_bytes, context_at))
    return None


def parse_process(view: ByteView, dump: Minidump) -> ProcessInfo | None:
    """Return what the first readable miscellaneous information stream says of the process; None if there is none.

    Layout: size u32, flags u32 (1: the id is valid, 2: the times are), process id u32, start time u32.
    """
    fields = _read_first(view, dump, StreamType.MISC_INFO, _PROCESS)
    if fields is None:
        return None
    flags, id_, started = fields
    return ProcessInfo(id_ if flags & 1 else None, started if flags & 2 else None)


def find_module_tables(view: ByteView, dump: Minidump) -> tuple[list[ModuleTable], list[InputError]]:
    """Return the lists of modules, loaded ones first, and why others could not be read.

    Layout of a module list: count u32, then entries of 108 bytes; some writers put 4 bytes of padding before the
    first. Layout of a list of unloaded modules: size of this header u32, size of an entry u32, count u32; later
    versions may make either longer.
    """
    tables: list[ModuleTable] = []
    errors: list[InputError] = []
    for type_, locate in (
        (StreamType.MODULE_LIST, _locate_modules),
        (StreamType.UNLOADED_MODULE_LIST, _locate_unloaded),
    ):
        for stream in dump.streams_of(type_):
            try:
                tables.append(locate(view, stream))
            except InputError as error:
                errors.append(error)
    return tables, errors


def parse_module_entry(
    view: ByteView, table: ModuleTable, offset: int, *, longest_name_bytes: int = _LONGEST_NAME_BYTES
) -> ModuleEntry:
    """Return the entry at *offset*, one of ``table.offsets()``, with what it points to.

    A name longer than *longest_name_bytes*, or of 64 KiB and more, is not read.

    Layout of a module: base u64, SizeOfImage u32, checksum u32, stamp u32, offset of the name u32, VS_FIXEDFILEINFO
    (52 bytes), size and offset of the code view record, size and offset of the miscellaneous record.
    An unloaded module's entry is the same up to the name and may end there. Entries are packed to 4 bytes.
    """
    data = view.read(offset, _UNLOADED.size if table.unloaded else _MODULE_BYTES)
    base, size, checksum, timestamp, name_at = _MODULE.unpack_from(data)
    record_bytes, record_at = (0, 0) if table.unloaded else struct.unpack_from("<II", data, _LOCATION_AT)
    path = record = problem = None
    try:
        path = _parse_name(view, name_at, min(longest_name_bytes, _LONGEST_NAME_BYTES))
    except InputError as error:
        problem = str(error)
    try:
        record = view.read(record_at, min(record_bytes, _LONGEST_RECORD_BYTES)) if record_bytes else None
    except TruncatedInput:
        problem = problem or f"its code view record ends past the end of the file (at {record_at:#x})"
    version = None if table.unloaded else parse_fixed_info(data[_VERSION_AT : _VERSION_AT + FIXED_BYTES])
    return ModuleEntry(base, size, checksum, timestamp, path, record, record_at, problem, version)


def _parse_name(view: ByteView, offset: int, longest_bytes: int) -> str:
    """Return the text at *offset*: length in bytes u32, then UTF-16; a NUL may follow or be counted."""
    length = parse_uint(view.read(offset, 4), 0, 4)
    if length > longest_bytes:
        raise MalformedInput(f"a name of {length} bytes", offset=offset)
    try:
        data = view.read(offset + 4, length & ~1)
    except TruncatedInput as error:
        raise TruncatedInput("a name ends past the end of the file", offset=offset) from error
    return data.decode("utf-16-le", "replace").partition("\0")[0]


def _read_first(view: ByteView, dump: Minidump, type_: StreamType, layout: struct.Struct) -> tuple[int, ...] | None:
    for stream in dump.streams_of(type_):
        if stream.size_bytes >= layout.size and stream.offset + layout.size <= view.size:
            return layout.unpack(view.read(stream.offset, layout.size))
    return None


def _locate_modules(view: ByteView, stream: Stream) -> ModuleTable:
    held = _held_bytes(view, stream, 4, "the list of modules")
    stated = parse_uint(view.read(stream.offset, 4), 0, 4)
    # The size in the directory tells the two apart, even in a file that is cut short.
    padding = 4 if stream.size_bytes == 8 + stated * _MODULE_BYTES else 0
    count = min(stated, max(held - 4 - padding, 0) // _MODULE_BYTES)
    return ModuleTable(False, stream.offset + 4 + padding, _MODULE_BYTES, count, stated)


def _locate_unloaded(view: ByteView, stream: Stream) -> ModuleTable:
    held = _held_bytes(view, stream, 12, "the list of unloaded modules")
    header_bytes, entry_bytes, stated = struct.unpack("<III", view.read(stream.offset, 12))
    if header_bytes < 12 or entry_bytes < _UNLOADED.size:
        raise MalformedInput("the list of unloaded modules states sizes too small for it", offset=stream.offset)
    count = min(stated, max(held - header_bytes, 0) // entry_bytes)
    return ModuleTable(True, stream.offset + header_bytes, entry_bytes, count, stated)


def _held_bytes(view: ByteView, stream: Stream, least: int, what: str) -> int:
    """Return how many bytes of *stream* the file holds, at least *least*."""
    if stream.size_bytes < least:
        raise MalformedInput(f"{what} has {stream.size_bytes} bytes", offset=stream.offset)
    held = min(stream.size_bytes, view.size - stream.offset)
    if held < least:
        raise TruncatedInput(f"{what} lies past the end of the file", offset=stream.offset)
    return held


_ADDRESS_END = 1 << 64
_RANGE_BYTES = 16
_CHUNK_BYTES = 4096 * _RANGE_BYTES
# One range per region of the process: tens of thousands in a large server. Half a million take 12 MiB.
_MOST_RANGES = 1 << 19


class CapturedMemory:
    """The address space of the process as far as the dump holds it; offsets are addresses.

    Three flat arrays, sorted by address and free of overlaps, stand for the ranges: 24 bytes each, whatever their size.
    It is *truncated* if the file ends before the memory that its lists promise, or they promise too many ranges.
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
        """Return *length* bytes from the address *offset*, across ranges that touch; raise `NotInDump` without them."""
        if length < 0:
            raise NotInDump("a negative length was asked for", address=offset)
        return read_in_parts(self._read_range, offset, length)

    def _read_range(self, address: int, length: int) -> bytes:
        """Read up to the end of the range."""
        index = bisect_right(self._starts, address) - 1 if 0 <= address < _ADDRESS_END else -1
        within = address - self._starts[index] if index >= 0 else 0
        if index < 0 or within >= self._sizes[index]:
            raise NotInDump("the dump does not hold this memory", address=address)
        return self._view.read(self._offsets[index] + within, min(length, self._sizes[index] - within))

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
    full = (_ranges64(view, stream) for stream in dump.streams_of(StreamType.MEMORY64_LIST))
    some = (_ranges32(view, stream) for stream in dump.streams_of(StreamType.MEMORY_LIST))
    return CapturedMemory(view, chain.from_iterable(chain(full, some)))


def _ranges32(view: ByteView, stream: Stream) -> Iterator[tuple[int, int, int]]:
    held = min(stream.size_bytes, view.size - stream.offset)
    if held < 4:
        return
    count = parse_uint(view.read(stream.offset, 4), 0, 4)
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
