"""Writes page tables into physical pages: x86, PAE, x64 with 4 and 5 levels, ARM64.

Source: Intel SDM volume 3 chapter 4; Arm ARM D8; MMPTE_TRANSITION and MMPTE_PROTOTYPE in Windows' public symbols.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ["Paging", "PhysicalPages", "VirtualMemory"]

_PAGE = 0x1000


class PhysicalPages:
    """Pages of physical memory that hold something; all others are zeros.

    Args:
        first_pfn: Where pages are handed out from.
        gap_every: Leave out a page after that many, so that memory falls into runs; 0 for none.
    """

    def __init__(self, first_pfn: int = 0x100, gap_every: int = 0) -> None:
        self.pages: dict[int, bytearray] = {}
        self._next = first_pfn
        self._gap_every = gap_every

    def allocate(self) -> int:
        """Return the number of a new page of zeros."""
        pfn = self._next
        self.pages[pfn] = bytearray(_PAGE)
        self._next += 2 if self._gap_every and len(self.pages) % self._gap_every == 0 else 1
        return pfn

    def reserve(self, count: int) -> int:
        """Return the first of *count* page numbers, aligned to *count*, that are handed out no more."""
        first = -(-self._next // count) * count
        self._next = first + count
        return first

    def skip_to(self, pfn: int) -> None:
        """Hand out pages from *pfn* on."""
        self._next = max(self._next, pfn)

    def read(self, address: int, length: int) -> bytes:
        """Return bytes of one page."""
        page = self.pages[address // _PAGE]
        return bytes(page[address % _PAGE : address % _PAGE + length])

    def write(self, address: int, data: bytes) -> None:
        """Put bytes into physical memory."""
        while data:
            pfn, within = divmod(address, _PAGE)
            page = self.pages.setdefault(pfn, bytearray(_PAGE))
            piece = data[: _PAGE - within]
            page[within : within + len(piece)] = piece
            address += len(piece)
            data = data[len(piece) :]


@dataclass(frozen=True, slots=True)
class _Form:
    name: str
    entry: int
    levels: tuple[tuple[int, int], ...]
    private_levels: int
    kernel_start: int


class Paging(Enum):
    """Kinds of page tables."""

    X86 = _Form("x86", 4, ((22, 10), (12, 10)), 1, 0x80000000)
    PAE = _Form("PAE", 8, ((30, 2), (21, 9), (12, 9)), 2, 0x80000000)
    X64 = _Form("x64", 8, ((39, 9), (30, 9), (21, 9), (12, 9)), 1, 0xFFFF800000000000)
    LA57 = _Form("LA57", 8, ((48, 9), (39, 9), (30, 9), (21, 9), (12, 9)), 2, 0xFF00000000000000)
    ARM64 = _Form("ARM64", 8, ((39, 9), (30, 9), (21, 9), (12, 9)), 1, 0xFFFF000000000000)

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer."""
        return 4 if self in {Paging.X86, Paging.PAE} else 8

    @property
    def kernel_start(self) -> int:
        """Lowest address of the kernel."""
        return self.value.kernel_start


class VirtualMemory:
    """One address space: maps pages and writes through the mapping.

    Args:
        physical: Where page tables and pages lie.
        paging: Kind of page tables.
        kernel: The kernel's address space, whose upper half this one shares; None for the kernel's own. ARM64 has a
            register of its own for that half, so nothing is shared.
    """

    def __init__(self, physical: PhysicalPages, paging: Paging, kernel: VirtualMemory | None = None) -> None:
        self.physical = physical
        self.paging = paging
        self._form = paging.value
        pfn = physical.allocate()
        # The PAE root is 32 bytes; put it somewhere in its page to make sure that readers look there.
        self.root = pfn * _PAGE + (0x420 if paging is Paging.PAE else 0)
        if kernel is not None and paging is not Paging.ARM64:
            self._share(kernel.root, self.root, 0, 0)

    def _share(self, source: int, target: int, level: int, prefix: int) -> None:
        """Copy entries of the kernel's half, with tables of their own for the upper levels."""
        shift, bits = self._form.levels[level]
        size = self._form.entry
        for index in range(1 << bits):
            entry = self._load(source + index * size)
            address = prefix | index << shift
            if not entry & 1 or not self._is_kernel(address):
                continue
            if level + 1 < self._form.private_levels and not entry & 0x80:
                table = self.physical.allocate() * _PAGE
                self._share(entry & 0xFFFFFFFFFF000, table, level + 1, address)
                entry = entry & ~0xFFFFFFFFFF000 | table
            self._store(target + index * size, entry)

    def _is_kernel(self, address: int) -> bool:
        """Return whether the uppermost bit that tables translate is set."""
        return bool(address >> (sum(bits for _, bits in self._form.levels) + 11) & 1)

    def _load(self, address: int) -> int:
        return int.from_bytes(self.physical.read(address, self._form.entry), "little")

    def _store(self, address: int, entry: int) -> None:
        self.physical.write(address, entry.to_bytes(self._form.entry, "little"))

    def _slot(self, address: int, last_shift: int = 12) -> int:
        """Return the physical address of an entry, with the tables that lead to it."""
        table = self.root
        for shift, bits in self._form.levels:
            at = table + (address >> shift & ((1 << bits) - 1)) * self._form.entry
            if shift == last_shift:
                return at
            entry = self._load(at)
            if not entry & 1:
                is_pointer_table = self.paging is Paging.PAE and shift == 30
                entry = self.physical.allocate() * _PAGE | (1 if is_pointer_table else 3)
                self._store(at, entry)
            table = entry & 0xFFFFFFFFFF000
        raise AssertionError

    def prepare(self, address: int, size: int) -> None:
        """Make the page tables for *size* bytes, so that spaces which share them see what is mapped later."""
        for at in range(address, address + size, 1 << self._form.levels[-2][0]):
            self._slot(at)

    def map(self, address: int, pfn: int | None = None) -> int:
        """Map the page at *address*, to a new one by default; return its number."""
        pfn = self.physical.allocate() if pfn is None else pfn
        # Accessed, dirty, writable; on ARM64 bit 1 marks a page.
        self._store(self._slot(address), pfn * _PAGE | 0x63)
        return pfn

    def map_large(self, address: int, shift: int) -> int:
        """Map a large page of 2**shift bytes at *address*; return the number of its first page."""
        pfn = self.physical.reserve(1 << (shift - 12))
        entry = pfn * _PAGE | (0x1 if self.paging is Paging.ARM64 else 0xE3)
        if self.paging is Paging.X86:
            entry = entry & 0xFFFFFFFF | pfn >> 20 << 13
        self._store(self._slot(address, shift), entry)
        return pfn

    def map_itself(self) -> None:
        """Let the tables map themselves, as Windows does: the root's entry 0x1ED, 0x300 on x86, the last four with PAE.

        With PAE these are the first four entries of the last directory, which lead to the four directories.
        """
        if self.paging is Paging.PAE:
            directories = []
            for address in range(0, 1 << 32, 1 << 30):
                self._slot(address, 21)
                directories.append(self._load(self.root + (address >> 30) * 8) & 0xFFFFFFFFFF000)
            for index, directory in enumerate(directories):
                self._store(directories[3] + index * 8, directory | 0x63)
        else:
            index = 0x300 if self.paging is Paging.X86 else 0x1ED
            self._store(self.root + index * self._form.entry, self.root | 0x63)

    def translate(self, address: int) -> int | None:
        """Return the physical address; None if nothing is mapped."""
        table = self.root
        for shift, bits in self._form.levels:
            entry = self._load(table + (address >> shift & ((1 << bits) - 1)) * self._form.entry)
            if not entry & 1:
                return None
            frame = entry & 0xFFFFFFFFFF000
            large = entry & 2 == 0 if self.paging is Paging.ARM64 else entry & 0x80 and shift in {21, 22, 30}
            if shift == 12 or (large and not (self.paging is Paging.PAE and shift == 30)):
                if self.paging is Paging.X86 and shift == 22:
                    frame = entry & 0xFFC00000 | (entry >> 13 & 0xF) << 32
                return frame & -(1 << shift) | address & ((1 << shift) - 1)
            table = frame
        raise AssertionError

    def write(self, address: int, data: bytes) -> None:
        """Put bytes at a virtual address, mapping pages where there are none."""
        while data:
            physical = self.translate(address)
            if physical is None:
                physical = self.map(address & -_PAGE) * _PAGE + address % _PAGE
            piece = data[: _PAGE - address % _PAGE]
            self.physical.write(physical, piece)
            address += len(piece)
            data = data[len(piece) :]

    def pfn_of(self, address: int) -> int:
        """Return the number of the page that *address* lies in.

        Raises:
            LookupError: Nothing is mapped there.
        """
        physical = self.translate(address)
        if physical is None:
            raise LookupError(f"{address:#x} is not mapped")
        return physical // _PAGE

    def put_in_transition(self, address: int) -> None:
        """Make the entry one of a page that is on its way to the disk; on x64 with the mark against L1TF."""
        mark = 1 << 45 if self.paging in {Paging.X64, Paging.LA57} else 0
        self._store(self._slot(address), self.pfn_of(address) * _PAGE | 0x8E0 | mark)

    def share(self, address: int, prototype: int, kernel: VirtualMemory, *, in_transition: bool = False) -> None:
        """Make the entry stand for the prototype entry that is written to *prototype*, an address of the kernel."""
        pfn = self.pfn_of(address)
        shared = pfn * _PAGE | (0x8E0 if in_transition else 0x63)
        kernel.write(prototype, shared.to_bytes(self._form.entry, "little"))
        if self.paging is Paging.X86:
            # Bits 10 to 30 of the address move up by one, bits 2 to 8 down.
            entry = (prototype & 0x7FFFFC00) << 1 | (prototype & 0x3FF) >> 1 | 0x400
        elif self.paging is Paging.PAE:
            entry = prototype << 32 | 0x400
        else:
            entry = (prototype & 0xFFFFFFFFFFFF) << 16 | 0x400
        self._store(self._slot(address), entry)

    def page_out(self, address: int, entry: int = 0x0012345600000080) -> None:
        """Make the entry one of a page in the page file; 0 for nothing at all."""
        self._store(self._slot(address), entry & ((1 << 8 * self._form.entry) - 1) & ~0xC01)
