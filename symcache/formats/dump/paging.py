"""Virtual address spaces of a kernel dump, read through the machine's page tables."""

from __future__ import annotations

import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import Absence, NotInDump
from symcache.formats.dump.physical import PAGE_SIZE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView


@dataclass(frozen=True, slots=True)
class Level:
    """One step down the page tables."""

    shift: int  # lowest bit of the address that indexes the table
    bits: int  # how many bits index it
    may_map: bool = False  # an entry may map a large page instead of leading to another table


@dataclass(frozen=True, slots=True)
class PagingMode:
    """How a processor's page tables are laid out."""

    name: str
    address_bits: int  # width of a virtual address; above it, all bits are equal
    entry_size: int
    root_mask: int  # what of the page table register is an address
    frame_mask: int  # what of an entry is a physical address
    levels: tuple[Level, ...]  # tables from the root down, the last one's entries map pages of 4 KiB
    invalid_mark: int = 0  # bits that Windows sets in entries that are not valid, and that are no part of an address
    two_roots: bool = False  # the processor keeps one root for the kernel's addresses and one for the process's

    @property
    def space_size(self) -> int:
        """Bytes of the whole address space."""
        return 1 << (32 if self.address_bits == 32 else 64)

    @property
    def translated_bits(self) -> int:
        """Bits of an address that page tables translate."""
        return 12 + sum(level.bits for level in self.levels)

    @property
    def kernel_start(self) -> int:
        """Lowest address that can be the kernel's; on x86 the /3GB switch only moves it up."""
        return 0x80000000 if self.address_bits == 32 else (1 << 64) - (1 << 63 - (64 - self.address_bits))

    def is_canonical(self, address: int) -> bool:
        """Return whether a pointer can hold *address*."""
        if self.address_bits == 32:
            return 0 <= address < 1 << 32
        top = address >> (self.address_bits - 1)
        return top == 0 or top == (1 << (65 - self.address_bits)) - 1


# Source: Intel SDM volume 3 chapter 4, Arm ARM D8; what Windows makes of them: MemProcFS, kdmp-parser, volatility3.
# The low bits of an x64 root hold a PCID, the high ones of an ARM64 root an ASID.
X86 = PagingMode("x86", 32, 4, 0xFFFFF000, 0xFFFFF000, (Level(22, 10, may_map=True), Level(12, 10)))
PAE = PagingMode(
    "x86 PAE", 32, 8, 0xFFFFFFE0, 0x000FFFFFFFFFF000, (Level(30, 2), Level(21, 9, may_map=True), Level(12, 9))
)
X64 = PagingMode(
    "x64",
    48,
    8,
    0x000FFFFFFFFFF000,
    0x000FFFFFFFFFF000,
    (Level(39, 9), Level(30, 9, may_map=True), Level(21, 9, may_map=True), Level(12, 9)),
    invalid_mark=1 << 45,
)
X64_LA57 = PagingMode(
    "x64, 5 levels", 57, 8, X64.root_mask, X64.frame_mask, (Level(48, 9), *X64.levels), X64.invalid_mark
)
# Kernel and user addresses have 48 bits each, told apart by the bits above them: one bit more than on x64.
ARM64 = PagingMode("ARM64", 49, 8, 0x0000FFFFFFFFF000, 0x0000FFFFFFFFF000, X64.levels, two_roots=True)


_PIECE_BYTES = 0x400
_KEPT_PIECES = 2048
_KEPT_FRAMES = 1024
_VALID = 1 << 0
_PROTOTYPE = 1 << 10
_TRANSITION = 1 << 11
_MAPS_LARGE_PAGE = 1 << 7
_ARM64_IS_TABLE = 1 << 1


class PageTables:
    """Reads entries of page tables and keeps the pieces they lie in, at most 2 MiB of them.

    A piece is a quarter of a page: drivers are spread over many tables, of each of which few entries are needed.
    """

    def __init__(self, memory: ByteView) -> None:
        self.memory = memory
        self._kept: OrderedDict[int, bytes] = OrderedDict()

    def read_entry(self, address: int, size: int) -> int:
        """Return the entry at physical *address*; raise `NotInDump` if it is not there."""
        start, within = address & -_PIECE_BYTES, address & (_PIECE_BYTES - 1)
        piece = self._kept.get(start)
        if piece is None:
            piece = self.memory.read(start, _PIECE_BYTES)
            if len(self._kept) >= _KEPT_PIECES:
                self._kept.popitem(last=False)
            self._kept[start] = piece
        else:
            self._kept.move_to_end(start)
        return int.from_bytes(piece[within : within + size], "little")


class AddressSpace:
    """One virtual address space, read through its page tables; offsets of this view are virtual addresses.

    *root* is the value of the page table register, not masked; *kernel_root* the same for the kernel's addresses, where
    *mode* has two roots and this is a process's space. Several address spaces share the *tables* of a dump.
    """

    def __init__(self, tables: PageTables, mode: PagingMode, root: int, kernel_root: int | None = None) -> None:
        self._tables = tables
        self.mode = mode
        self.root = root & mode.root_mask
        self._kernel_root = self.root if kernel_root is None or not mode.two_roots else kernel_root & mode.root_mask
        self._frames: dict[int, int] = {}

    @property
    def size(self) -> int:
        """The first address that no pointer can hold."""
        return self.mode.space_size

    def with_root(self, root: int) -> AddressSpace:
        """Return the address space of another process of the same machine."""
        return AddressSpace(self._tables, self.mode, root, self._kernel_root)

    @property
    def has_root(self) -> bool:
        """The dump holds the table that the root leads to."""
        try:
            self._tables.read_entry(self.root, self.mode.entry_size)
        except NotInDump:
            return False
        return True

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from virtual address *offset*.

        Raises:
            NotInDump: A byte of it is not there; *absence* says why, *address* is virtual.
        """
        parts: list[bytes] = []  # not `read_in_parts`: of thousands of small reads the call would be a tenth
        while length > 0:
            physical, left = self.translate(offset)
            take = min(length, left)
            try:
                part = self._tables.memory.read(physical, take)
            except NotInDump as error:
                missing = offset + max(error.address - physical, 0)
                raise NotInDump(error.problem, address=missing, absence=error.absence) from error
            if take == length and not parts:
                return part
            parts.append(part)
            offset += take
            length -= take
        return b"".join(parts)

    def mapped_pages(self, start: int, most_tables: int) -> Iterator[tuple[int, int]]:
        """Yield virtual and physical address of pages of 4 KiB that valid entries map, from *start* upwards.

        At most *most_tables* page tables are looked into.
        """
        for address, physical, size in self.mapped_runs(start, most_tables):
            for within in range(0, size, PAGE_SIZE):
                yield address + within, physical + within

    def mapped_runs(self, start: int, most_tables: int) -> Iterator[tuple[int, int, int]]:
        """Yield virtual and physical address and size of what each valid entry maps, as `mapped_pages` does."""
        mode = self.mode
        extension = mode.space_size - (1 << mode.translated_bits)
        lowest = start & ((1 << mode.translated_bits) - 1) & -PAGE_SIZE
        tables, walks = [self.root], [self._valid_entries(self.root, 0, 0, lowest)]
        while walks:
            at, entry = next(walks[-1], (0, 0))
            if not entry:
                tables.pop()
                walks.pop()
                continue
            level = mode.levels[len(walks) - 1]
            shift = level.shift
            if shift == 12 or (level.may_map and self._maps_memory(entry)):
                base = extension if at >> (mode.translated_bits - 1) or (mode.two_roots and start >= extension) else 0
                within = at & ((1 << shift) - 1)
                frame = entry & mode.frame_mask if shift == 12 else self._large_frame(entry, shift)
                yield base + at, frame + within, (1 << shift) - within
            elif most_tables and entry & mode.frame_mask not in tables:
                # Windows maps its own page tables by an entry of the root that leads to the root.
                most_tables -= 1
                tables.append(entry & mode.frame_mask)
                walks.append(self._valid_entries(tables[-1], len(walks), at & -(1 << shift), lowest))

    def _valid_entries(self, table: int, depth: int, base: int, lowest: int) -> Iterator[tuple[int, int]]:
        """Yield the first address from *lowest* on that each valid entry of *table* covers, and the entry.

        The table lies *depth* levels below the root; *base* is the first address it covers.
        """
        level = self.mode.levels[depth]
        count = 1 << level.bits
        layout = struct.Struct(f"<{count}{'Q' if self.mode.entry_size == 8 else 'L'}")
        try:
            entries = layout.unpack(self._tables.memory.read(table, layout.size))
        except NotInDump:
            return
        for index in range(max(lowest - base, 0) >> level.shift, count):
            if entries[index] & _VALID:
                yield max(base + (index << level.shift), lowest), entries[index]

    def translate(self, address: int) -> tuple[int, int]:
        """Return the physical address of *address* and how many bytes follow it in the same page.

        Raises:
            NotInDump: No page is mapped there, or a page table is not in the dump.

        An entry of the last table that is not valid may still lead to a page: one in transition between working set
        and disk is intact, and a prototype entry names the entry that the sharers of a page have in common.
        """
        # Loader entries, names and headers are read field by field: most addresses lie in a page of those before.
        within = address & (PAGE_SIZE - 1)
        frame = self._frames.get(address - within)
        if frame is not None:
            return frame | within, PAGE_SIZE - within
        physical, left = self._translate(address, follow_prototype=True)
        if left <= PAGE_SIZE:
            if len(self._frames) >= _KEPT_FRAMES:
                self._frames.clear()
            self._frames[address - within] = physical - within
        return physical, left

    def _translate(self, address: int, *, follow_prototype: bool) -> tuple[int, int]:
        try:
            return self._walk(self.root, address, follow_prototype=follow_prototype)
        except NotInDump:
            # A process's root may map a session's drivers besides its own pages; all else of the kernel has one root.
            if self._kernel_root == self.root or address < self.mode.kernel_start:
                raise
        return self._walk(self._kernel_root, address, follow_prototype=follow_prototype)

    def _walk(self, root: int, address: int, *, follow_prototype: bool) -> tuple[int, int]:
        mode = self.mode
        if not mode.is_canonical(address):
            raise _not_mapped("no pointer can hold this address", address)
        table = root
        for level in mode.levels:
            index = address >> level.shift & ((1 << level.bits) - 1)
            try:
                entry = self._tables.read_entry(table + index * mode.entry_size, mode.entry_size)
            except NotInDump as error:
                raise NotInDump(f"page table: {error.problem}", address=address, absence=error.absence) from error
            if level.shift == 12:
                frame = self._find_frame(entry, address, follow_prototype=follow_prototype)
                return frame | address & (PAGE_SIZE - 1), PAGE_SIZE - (address & (PAGE_SIZE - 1))
            if not entry & _VALID:
                raise _not_mapped("no page table is mapped there", address)
            if level.may_map and self._maps_memory(entry):
                within = address & ((1 << level.shift) - 1)
                return self._large_frame(entry, level.shift) | within, (1 << level.shift) - within
            if mode is ARM64 and not entry & _ARM64_IS_TABLE:
                raise _not_mapped("its page table entry is invalid", address)
            table = entry & mode.frame_mask
        raise AssertionError  # every mode ends with pages of 4 KiB

    def _maps_memory(self, entry: int) -> bool:
        if self.mode is ARM64:
            return not entry & _ARM64_IS_TABLE
        return bool(entry & _MAPS_LARGE_PAGE)

    def _large_frame(self, entry: int, shift: int) -> int:
        """Return the address of a large page; on x86 bits 13 to 16 are its bits 32 to 35."""
        if self.mode is X86:
            return entry & 0xFFC00000 | (entry >> 13 & 0xF) << 32
        return entry & self.mode.frame_mask & ~((1 << shift) - 1)

    def _find_frame(self, entry: int, address: int, *, follow_prototype: bool) -> int:
        """Return the address of the page that an entry of the last table leads to.

        Source: the hardware's layouts for valid entries; MemProcFS and volatility3 for MMPTE_TRANSITION and
        MMPTE_PROTOTYPE. Where entries are protected against the L1 terminal fault, x64 sets bit 45 of invalid ones.
        """
        mode = self.mode
        if entry & _VALID:
            if mode is ARM64 and not entry & _ARM64_IS_TABLE:
                raise _not_mapped("its page table entry is invalid", address)
            return entry & mode.frame_mask
        if entry & _PROTOTYPE:
            if not follow_prototype:
                raise _not_mapped("it is shared through a chain of prototype entries", address)
            return self._find_shared_frame(entry, address)
        if entry & _TRANSITION:
            return entry & mode.frame_mask & ~mode.invalid_mark
        raise _not_mapped("the page is paged out" if entry else "no page is mapped there", address)

    def _find_shared_frame(self, entry: int, address: int) -> int:
        try:
            physical, _ = self._translate(_prototype_address(self.mode, entry), follow_prototype=False)
            shared = self._tables.read_entry(physical, self.mode.entry_size)
        except NotInDump as error:
            problem = f"the prototype entry of its page is not there ({error.problem})"
            raise NotInDump(problem, address=address, absence=error.absence) from error
        return self._find_frame(shared, address, follow_prototype=False)


def _prototype_address(mode: PagingMode, entry: int) -> int:
    """Return the virtual address of the entry that a prototype entry stands for.

    Source: MemProcFS; the x86 form packs an address in paged pool into 32 bits.
    """
    if mode is X86:
        return 0x80000000 | entry >> 1 & 0x7FFFFC00 | entry << 1 & 0x3FF
    if mode is PAE:
        return entry >> 32
    return entry >> 16 | 0xFFFF << 48


def _not_mapped(problem: str, address: int) -> NotInDump:
    return NotInDump(problem, address=address, absence=Absence.NOT_MAPPED)
