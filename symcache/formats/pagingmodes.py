"""How page tables are laid out: x86, PAE, x64 with 4 and 5 levels, ARM64."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["ARM64", "PAE", "X64", "X64_LA57", "X86", "Level", "PagingMode"]


@dataclass(frozen=True, slots=True)
class Level:
    """One step down the page tables.

    Attributes:
        shift: Lowest bit of the address that indexes the table.
        bits: How many bits index it.
        may_map: An entry may map a large page instead of leading to another table.
    """

    shift: int
    bits: int
    may_map: bool = False


@dataclass(frozen=True, slots=True)
class PagingMode:
    """How a processor's page tables are laid out.

    Attributes:
        name: For people.
        address_bits: Width of a virtual address; above it, all bits are equal.
        entry_size: Bytes an entry takes.
        root_mask: What of the page table register is an address.
        frame_mask: What of an entry is a physical address.
        levels: Tables from the root down, the last one's entries map pages of 4 KiB.
        invalid_mark: Bits that Windows sets in entries that are not valid, and that are no part of an address.
        two_roots: The processor keeps one root for the kernel's addresses and one for the process's.
    """

    name: str
    address_bits: int
    entry_size: int
    root_mask: int
    frame_mask: int
    levels: tuple[Level, ...]
    invalid_mark: int = 0
    two_roots: bool = False

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
        """Say whether a pointer can hold *address*."""
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
