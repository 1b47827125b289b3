"""The pieces of virtual memory in a kernel triage dump."""

from __future__ import annotations

import struct
from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, NotInDump, TruncatedInput
from symcache.formats.dump.kernel import (
    DEBUGGER_DATA_SIZE,
    find_place_problem,
    parse_debugger_data,
    parse_unloaded_drivers,
)
from symcache.formats.view import parse_uint, read_in_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.dump.header import DumpHeader
    from symcache.formats.dump.kernel import DebuggerData, UnloadedDriver
    from symcache.formats.view import ByteView

_MOST_DRIVERS = 2048
_LONGEST_NAME_UNITS = 0x1000
_STRIDES = {8: (0x90, 0x98, 0xA0, 0xA8, 0xB0), 4: (0x4C, 0x50, 0x54, 0x58, 0x5C, 0x60)}


@dataclass(frozen=True, slots=True)
class TriageDriver:
    """One entry of the driver list."""

    at: int  # offset of the entry in the dump, in bytes
    path: str | None  # full path as the kernel knew it; None if it cannot be read
    path_problem: str | None  # why *path* is None
    base: int
    size_of_image: int  # bytes of address space it takes
    checksum: int  # CheckSum of its header; 0 if the header was not in memory
    timestamp: int  # TimeDateStamp of its header; 0 if the header was not in memory
    problem: str | None  # why this cannot be a driver's entry; None for a sound one


@dataclass(frozen=True, slots=True)
class _Entry:
    """Offsets within a driver entry: a name's offset, then a loader entry of the old layout."""

    base: int
    size_of_image: int
    checksum: int
    timestamp: int
    end: int


_ENTRY64 = _Entry(base=0x38, size_of_image=0x48, checksum=0x80, timestamp=0x88, end=0x8C)
_ENTRY32 = _Entry(base=0x1C, size_of_image=0x24, checksum=0x44, timestamp=0x48, end=0x4C)


@dataclass(frozen=True, slots=True)
class Triage:
    """The table of contents of a triage dump; offsets count from the start of the file, in bytes."""

    pointer_size: int
    size_of_dump: int  # how long the dump is by its own account
    valid_offset: int  # where the mark of a complete dump lies
    driver_list_offset: int  # first driver entry
    driver_count: int  # drivers listed, at most 2,048
    driver_stride: int  # bytes from one entry to the next
    unloaded_offset: int  # list of unloaded drivers; 0 if there is none
    debugger_data_offset: int  # copy of the kernel's debugger data; 0 if there is none
    debugger_data_size: int  # bytes of that copy
    stack: tuple[int, int, int]  # address, offset and size of the call stack
    data_page: tuple[int, int, int]  # address, offset and size of the data page
    blocks_offset: int  # table of data blocks; 0 if there is none
    block_count: int
    problems: tuple[str, ...]  # what contradicts itself or is cut off

    def drivers(self, view: ByteView) -> Iterator[TriageDriver]:
        """Yield the drivers in file order, the kernel first; raise `TruncatedInput` if the dump ends in the list."""
        layout = _ENTRY64 if self.pointer_size == 8 else _ENTRY32
        for index in range(self.driver_count):
            at = self.driver_list_offset + index * self.driver_stride
            raw = view.read(at, layout.end)
            base, size = _parse_place(raw, layout, self.pointer_size)
            path, problem = _read_name(view, parse_uint(raw, 0, 4))
            checksum, timestamp = parse_uint(raw, layout.checksum, 4), parse_uint(raw, layout.timestamp, 4)
            misplaced = find_place_problem(base, size, 1 << (8 * self.pointer_size - 1))
            yield TriageDriver(at, path, problem, base, size, checksum, timestamp, misplaced)

    def unloaded_drivers(self, view: ByteView) -> Iterator[UnloadedDriver]:
        """Yield the drivers that had been unloaded, in file order; raise `TruncatedInput` as `drivers` does."""
        if self.unloaded_offset:
            yield from parse_unloaded_drivers(view, self.unloaded_offset, self.pointer_size)

    def debugger_data(self, view: ByteView) -> DebuggerData | None:
        """Return the copy of the kernel's debugger data; None if it is not there."""
        size = min(self.debugger_data_size, DEBUGGER_DATA_SIZE)
        if not self.debugger_data_offset or self.debugger_data_offset + size > view.size:
            return None
        return parse_debugger_data(view.read(self.debugger_data_offset, size), pointer_size=self.pointer_size)


def read_triage(view: ByteView, header: DumpHeader) -> Triage:
    """Return the table of contents of a triage dump.

    Raises:
        TruncatedInput: The dump ends before its driver list.
        MalformedInput: The driver list lies nowhere in the dump.

    Layout: TRIAGE_DUMP behind the header; u32 offsets at 0 to 0x44, a pointer at 0x48, then the tail, which is 16
    bytes further in 64 bit dumps.
    Source: rizin dmp_specs.h and Ghidra pagedump; real dumps of builds 19041 and 22000.
    """
    at = header.size
    size, pointer_size = (0x80, 8) if header.is_64bit else (0x68, 4)
    available = max(0, view.size - at)
    if available < 0x48:
        raise TruncatedInput("the triage dump ends before its table of contents", offset=view.size)
    raw = view.read(at, min(size, available)).ljust(size, b"\0")
    words = struct.unpack_from("<18I", raw)
    tail = struct.unpack_from("<Q6I", raw, 0x60) if header.is_64bit else struct.unpack_from("<7I", raw, 0x4C)
    list_offset, count, pool_offset = words[12], words[13], words[14]
    problems = []
    if count > _MOST_DRIVERS:
        problems.append(f"the driver list claims {count} drivers, {_MOST_DRIVERS} are read")
        count = _MOST_DRIVERS
    if count and not at < list_offset < view.size:
        kind = TruncatedInput if list_offset >= view.size else MalformedInput
        raise kind("the driver list lies outside the dump", offset=at + 0x30)
    if problem := _incomplete(view, words[1], words[2]):
        problems.append(problem)
    return Triage(
        pointer_size=pointer_size,
        size_of_dump=words[1],
        valid_offset=words[2],
        driver_list_offset=list_offset,
        driver_count=count,
        driver_stride=_find_stride(view, header, list_offset, words[13], pool_offset),
        unloaded_offset=words[6],
        debugger_data_offset=tail[3],
        debugger_data_size=tail[4],
        stack=(parse_uint(raw, 0x48, pointer_size), words[10], words[11]),
        data_page=(tail[0], tail[1], tail[2]),
        blocks_offset=tail[5],
        block_count=tail[6],
        problems=tuple(problems),
    )


def _incomplete(view: ByteView, size_of_dump: int, valid_offset: int) -> str | None:
    """Return what is wrong with the mark at the end: a writer that came to its end left ``TRGD`` there."""
    if max(size_of_dump, valid_offset + 4) > view.size:
        return f"the dump is cut short: {view.size} of {max(size_of_dump, valid_offset + 4)} bytes"
    if view.read(valid_offset, 4) != b"TRGD":
        return "the dump was not written to its end: its mark is missing"
    return None


def _find_stride(view: ByteView, header: DumpHeader, list_offset: int, count: int, pool_offset: int) -> int:
    """Return the distance of driver entries.

    The strings follow the list, so that distance divides what lies between, but for padding. Of the distances that do,
    and then of those known, the first is taken that makes drivers of the second and of the last entry.
    """
    layout, known = (_ENTRY64, _STRIDES[8]) if header.is_64bit else (_ENTRY32, _STRIDES[4])
    gap = pool_offset - list_offset
    fitting = [stride for stride in known if 0 <= gap - stride * count < 16]
    if count and layout.end <= gap // count <= 0x100:
        fitting.append(gap // count & ~3)
    for stride in (*fitting, *known):
        if all(_is_driver(view, header, list_offset + stride * index, layout) for index in {min(1, count), count - 1}):
            return stride
    return (*fitting, *known)[0]


def _is_driver(view: ByteView, header: DumpHeader, at: int, layout: _Entry) -> bool:
    """Return whether a driver entry can lie at *at*; true past the end of the file, where it is unknown."""
    if at + layout.end > view.size:
        return True
    width = 8 if header.is_64bit else 4
    base, size = _parse_place(view.read(at, layout.end), layout, width)
    return find_place_problem(base, size, 1 << (8 * width - 1)) is None


def _parse_place(entry: bytes, layout: _Entry, pointer_size: int) -> tuple[int, int]:
    """Return base and size of a driver."""
    return parse_uint(entry, layout.base, pointer_size), parse_uint(entry, layout.size_of_image, 4)


def _read_name(view: ByteView, offset: int) -> tuple[str | None, str | None]:
    """Return the name at *offset*, or why it cannot be read.

    Layout: DUMP_STRING, count of UTF-16 units u32 without the NUL, the units, NUL.
    """
    try:
        units = parse_uint(view.read(offset, 4), 0, 4)
        if not 0 < units <= _LONGEST_NAME_UNITS:
            return None, f"its name has {units} characters"
        return view.read(offset + 4, 2 * units).decode("utf-16-le", "replace").partition("\0")[0] or None, None
    except TruncatedInput:
        return None, "the dump ends before its name"


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
        """Return *length* bytes from virtual address *offset*; raise `NotInDump` where no piece holds them."""
        return read_in_parts(self._read_block, offset, length)

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
