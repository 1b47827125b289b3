"""Where the kernel keeps its lists, found in its own image without its PDB."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.dump.kernel import KLDR32, KLDR64, DebuggerData, read_debugger_data, read_pointer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from symcache.formats.dump.paging import AddressSpace

_PAGE = 0x1000
_LARGEST_KERNEL_BYTES = 64 << 20
_MOST_TRIES = 1 << 18
_SYSTEM_ID = 4

KERNEL_VARIABLES = (
    "PsLoadedModuleList",
    "PsActiveProcessHead",
    "MmUnloadedDrivers",
    "MmLastUnloadedDriver",
    "NtBuildLab",
)
"""Names in the kernel's PDB that `debugger_data_of` makes use of."""


@dataclass(frozen=True, slots=True)
class KernelVariables:
    """What was found; 0 and None where nothing was."""

    debugger_data: DebuggerData | None
    loaded_modules_va: int  # head of the list of modules
    active_processes_va: int  # head of the list of processes


def debugger_data_of(base: int, addresses: Mapping[str, int]) -> DebuggerData:
    """Return what the kernel's debugger data would say, from *addresses* of variables within its image at *base*."""

    def place(name: str) -> int:
        return base + addresses[name] if name in addresses else 0

    return DebuggerData(
        kernel_base_va=base,
        loaded_modules_va=place("PsLoadedModuleList"),
        active_processes_va=place("PsActiveProcessHead"),
        unloaded_drivers_va=place("MmUnloadedDrivers"),
        last_unloaded_driver_va=place("MmLastUnloadedDriver"),
        build_lab_va=place("NtBuildLab"),
        peb_offset=0,
        directory_table_base_offset=0,
    )


def find_kernel_variables(space: AddressSpace, base: int, size: int) -> KernelVariables:
    """Return what the image of *size* bytes at *base*, the kernel's, holds of its lists.

    The debugger data block has a tag; since Windows 8 it is kept encoded while no debugger needs it. A list's head is
    two pointers out of the image to entries that point back: the first module of the one list is the kernel itself, the
    first process of the other has the id 4. Each page of the image is read once.
    """
    width = 8 if space.size > 1 << 32 else 4
    finder = _Finder(space, base, base + min(size, _LARGEST_KERNEL_BYTES), width)
    block: DebuggerData | None = None
    modules = processes = 0
    for address, data in _pages(space, base, finder.end):
        if block is None:
            block = finder.find_block(address, data)
        if modules and processes:
            if block is not None:
                break
            continue
        for head, first in finder.heads(address, data):
            if not modules and finder.leads_to_kernel(first):
                modules = head
            elif not processes and finder.leads_to_system(first):
                processes = head
    return KernelVariables(block, modules, processes)


def _pages(space: AddressSpace, start: int, end: int) -> Iterator[tuple[int, bytes]]:
    """Yield the pages of the range that are there."""
    for address in range(start, end, _PAGE):
        try:
            yield address, space.read(address, _PAGE)
        except InputError:
            continue


@dataclass(slots=True)
class _Finder:
    space: AddressSpace
    base: int
    end: int
    width: int
    tries_left: int = _MOST_TRIES

    def find_block(self, address: int, data: bytes) -> DebuggerData | None:
        """Return the debugger data block whose tag is in *data*, a page at *address*."""
        at = data.find(b"KDBG")
        while at >= 0:
            block = read_debugger_data(self.space, address + at - 0x10, pointer_size=self.width)
            if block is not None and block.kernel_base_va == self.base:
                return block
            at = data.find(b"KDBG", at + 1)
        return None

    def heads(self, address: int, data: bytes) -> Iterator[tuple[int, int]]:
        """Yield address and first entry of what looks like the head of a list, in a page at *address*."""
        words = struct.unpack(f"<{_PAGE // self.width}{'Q' if self.width == 8 else 'I'}", data)
        lowest, base, end = self.space.mode.kernel_start, self.base, self.end
        for index, (first, last) in enumerate(pairwise(words)):
            if first < lowest or last < lowest or base <= first < end or base <= last < end:
                continue
            if (first | last) % self.width or not self.tries_left:
                continue
            self.tries_left -= 1
            head = address + index * self.width
            if self._points_to(first + self.width, head) or self._points_to(last, head):
                yield head, first

    def _points_to(self, address: int, target: int) -> bool:
        try:
            return read_pointer(self.space, address, self.width) == target
        except InputError:
            return False

    def leads_to_kernel(self, entry: int) -> bool:
        """Say whether *entry* is the kernel's own in the list of modules."""
        return self._points_to(entry + (KLDR64 if self.width == 8 else KLDR32).base, self.base)

    def leads_to_system(self, entry: int) -> bool:
        """Say whether *entry* is the link of the process with id 4."""
        return self._points_to(entry - self.width, _SYSTEM_ID)
