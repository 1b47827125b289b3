"""Writes the kernel memory dump of an x86 machine with PAE: its page tables, its kernel's lists, the images in memory.

Source: Windows SDK mindumpdef.h (DUMP_HEADER32); Ghidra's SummaryHeader for the bitmap of Windows before 8; Intel SDM
volume 3 chapter 4; public symbols of Windows Server 2008 (KLDR_DATA_TABLE_ENTRY, EPROCESS, KDDEBUGGER_DATA64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.synth.pe import PAGE_BYTES, round_up

if TYPE_CHECKING:
    from collections.abc import Sequence

_FIRST_PFN = 0x100
_KERNEL, _DRIVERS, _POOL = 0x81800000, 0x82000000, 0x85000000
_VARIABLES = _KERNEL + 0x20000
_LOADED_MODULES, _ACTIVE_PROCESSES = _VARIABLES + 0x100, _VARIABLES + 0x140
_UNLOADED_DRIVERS, _LAST_UNLOADED, _BUILD_LAB = _VARIABLES + 0x180, _VARIABLES + 0x188, _VARIABLES + 0x200
_DEBUGGER_DATA = _VARIABLES + 0x400
_PRESENT, _TABLE, _MAPPED_PAGE = 0x1, 0x3, 0x63
_PAGED_OUT = 0x0012345600000080
_HEADER_BYTES = 0x1000
# dbgeng does not read as many bytes at the end of a dump with a bitmap as stand before its first page, which Windows
# always fills with what drivers leave there.
_SECONDARY_BYTES = 0x10000


@dataclass(frozen=True, slots=True)
class Driver:
    """A module of the kernel."""

    path: str
    image: bytes
    is_paged_out: bool  # only its headers were in memory


@dataclass(frozen=True, slots=True)
class Crash:
    """What the header says of machine and crash; *time* is a FILETIME, *uptime* counts 100 ns."""

    build: int
    build_lab: str
    bugcheck: int
    product_type: int
    time: int
    uptime: int


class _Memory:
    """Physical pages in a row, and the kernel's address space in them."""

    def __init__(self) -> None:
        self.pages: list[bytearray] = []
        self.root = self._add_page()
        self._free = _POOL

    def _add_page(self) -> int:
        """Return the physical address of a new page of zeros."""
        self.pages.append(bytearray(PAGE_BYTES))
        return (_FIRST_PFN + len(self.pages) - 1) * PAGE_BYTES

    def _locate(self, table: int, index: int) -> tuple[bytearray, int]:
        return self.pages[table // PAGE_BYTES - _FIRST_PFN], index * 8

    def _follow(self, table: int, index: int, flags: int) -> int:
        """Return where an entry of a page table leads, which is made if there is none."""
        page, at = self._locate(table, index)
        (entry,) = struct.unpack_from("<Q", page, at)
        if not entry:
            entry = self._add_page() | flags
            struct.pack_into("<Q", page, at, entry)
        return int(entry & -PAGE_BYTES)

    def _page_table(self, address: int) -> int:
        return self._follow(self._follow(self.root, address >> 30, _PRESENT), address >> 21 & 511, _TABLE)

    def write(self, address: int, data: bytes) -> None:
        """Put *data* at a virtual address, mapping pages where there are none."""
        while data:
            frame = self._follow(self._page_table(address), address >> 12 & 511, _MAPPED_PAGE)
            page, _ = self._locate(frame, 0)
            start = address % PAGE_BYTES
            piece = data[: PAGE_BYTES - start]
            page[start : start + len(piece)] = piece
            address += len(piece)
            data = data[len(piece) :]

    def write_out(self, address: int) -> None:
        """Make the page at *address* one of the page file."""
        page, at = self._locate(self._page_table(address), address >> 12 & 511)
        struct.pack_into("<Q", page, at, _PAGED_OUT)

    def store(self, data: bytes) -> int:
        """Return where in the kernel's pool *data* was put."""
        at = self._free
        self.write(at, data)
        self._free = round_up(at + len(data), 16)
        return at

    def store_text(self, text: str) -> bytes:
        """Return the UNICODE_STRING of *text*."""
        raw = text.encode("utf-16-le")
        return struct.pack("<HHI", len(raw), len(raw) + 2, self.store(raw + b"\0\0"))

    def link(self, head: int, entries: Sequence[int]) -> None:
        """Write the links of a doubly linked list."""
        ring = [head, *entries]
        for index, at in enumerate(ring):
            self.write(at, struct.pack("<II", ring[(index + 1) % len(ring)], ring[index - 1]))


def make_kernel_dump(drivers: Sequence[Driver], crash: Crash) -> bytes:
    """Return a dump that Windows before 8 would have written; the first of *drivers* is the kernel, above 132 KiB."""
    memory = _Memory()
    _load(memory, drivers)
    _write_variables(memory, crash)
    _write_system_process(memory)
    bitmap = _bitmap_header(len(memory.pages))
    body = bitmap + b"".join(memory.pages) + bytes(_SECONDARY_BYTES)
    return _header(crash, memory.root, _FIRST_PFN + len(memory.pages)) + body


def _load(memory: _Memory, drivers: Sequence[Driver]) -> None:
    """Map the images, and list them as PsLoadedModuleList does."""
    entries = []
    base = _KERNEL
    for driver in drivers:
        memory.write(base, driver.image)
        if driver.is_paged_out:
            for address in range(base + PAGE_BYTES, base + len(driver.image), PAGE_BYTES):
                memory.write_out(address)
        names = memory.store_text(driver.path) + memory.store_text(driver.path.rpartition("\\")[2])
        entry = struct.pack("<24xIII", base, base + PAGE_BYTES, len(driver.image)) + names
        entries.append(memory.store(entry.ljust(0x54, b"\0")))
        base = max(round_up(base + len(driver.image), 0x10000), _DRIVERS)
    memory.link(_LOADED_MODULES, entries)


def _write_variables(memory: _Memory, crash: Crash) -> None:
    """Write the kernel's debugger data block, and those variables that no list needs."""
    unloaded = memory.store(bytes(50 * 24))
    memory.write(_UNLOADED_DRIVERS, struct.pack("<I", unloaded))
    memory.write(_LAST_UNLOADED, bytes(4))
    memory.write(_BUILD_LAB, crash.build_lab.encode() + b"\0")
    block = bytearray(0x380)
    struct.pack_into("<4sI", block, 0x10, b"KDBG", len(block))
    struct.pack_into("<H", block, 0x36, 1)  # PaeEnabled
    struct.pack_into("<HHH", block, 0x2AA, 0x1A8, 0, 0x18)  # Peb and DirectoryTableBase in EPROCESS
    for offset, address in (
        (0x18, _KERNEL),
        (0x48, _LOADED_MODULES),
        (0x50, _ACTIVE_PROCESSES),
        (0x208, _BUILD_LAB),
        (0x220, _UNLOADED_DRIVERS),
        (0x228, _LAST_UNLOADED),
    ):
        struct.pack_into("<q", block, offset, address - (1 << 32))  # extended by its sign
    memory.write(_DEBUGGER_DATA, bytes(block))


def _write_system_process(memory: _Memory) -> None:
    process = bytearray(0x300)
    process[0] = 3  # a process, of the kinds of objects
    struct.pack_into("<I", process, 0x18, memory.root)
    struct.pack_into("<I", process, 0xB4, 4)
    process[0x16C:0x172] = b"System"
    memory.link(_ACTIVE_PROCESSES, [memory.store(bytes(process)) + 0xB8])


def _bitmap_header(pages: int) -> bytes:
    """Return what says which pages follow: those from the first on.

    Layout: ``SDMPDUMP``, u32 1, offset of the first page, bits, pages present, then RTL_BITMAP {bits, pointer} and the
    bits, least significant first.
    """
    bits = _FIRST_PFN + pages
    bitmap = (((1 << pages) - 1) << _FIRST_PFN).to_bytes(-(-bits // 8), "little")
    size = round_up(0x20 + len(bitmap), PAGE_BYTES)
    header = struct.pack("<8sIIIIII", b"SDMPDUMP", 1, _HEADER_BYTES + size, bits, pages, bits, 0x80001000)
    return (header + bitmap).ljust(size, b"\0")


def _header(crash: Crash, root: int, end_pfn: int) -> bytes:
    """Return the header; what is not set holds the fill pattern, as Windows leaves it."""
    raw = bytearray(b"PAGE" * (_HEADER_BYTES // 4))
    raw[4:8] = b"DUMP"
    struct.pack_into("<II", raw, 0x08, 0xF, crash.build)
    struct.pack_into("<I", raw, 0x10, root)
    struct.pack_into("<II", raw, 0x18, _LOADED_MODULES, _ACTIVE_PROCESSES)
    struct.pack_into("<III", raw, 0x20, 0x14C, 2, crash.bugcheck)
    struct.pack_into("<4I", raw, 0x2C, 0, 0, 0, 0)
    struct.pack_into("<BxxxI", raw, 0x5C, 1, _DEBUGGER_DATA)
    struct.pack_into("<IIII", raw, 0x64, 1, end_pfn - 1, 1, end_pfn - 1)  # one run of physical memory, from page 1
    struct.pack_into("<I", raw, 0xF88, 2)  # a kernel memory dump
    struct.pack_into("<I", raw, 0xF94, crash.product_type)
    struct.pack_into("<QQ", raw, 0xFB8, crash.uptime, crash.time)
    return bytes(raw)
