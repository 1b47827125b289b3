"""Find the kernel's image where the list of modules cannot be read."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.dump.pagemaps import PAGE_SIZE
from symcache.formats.pe.image import Layout, parse_image
from symcache.formats.view import PartView
from symcache.identity import PdbKey
from symcache.inputs.image import image_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.dump.kernel import KernelSpace
    from symcache.formats.dump.pagemaps import PageMap
    from symcache.formats.dump.paging import AddressSpace
    from symcache.formats.view import ByteView
    from symcache.inputs.records import Module

__all__ = ["scan_for_kernel"]


_KERNEL_NAME = "ntoskrnl.exe"
_KERNEL_PDBS = frozenset(["ntoskrnl.pdb", "ntkrnlmp.pdb", "ntkrnlpa.pdb", "ntkrpamp.pdb"])
_LARGEST_KERNEL_BYTES = 32 << 20
_USUAL_START = 0xFFFFF80000000000
_MOST_TABLES = 1024
_MOST_PAGES = 1 << 16
_MOST_IMAGES = 1024
_MOST_TRIES = 4  # a header may be mapped a second time, without the rest of its image
_SCANNED_BYTES = 512 << 20
_BLOCK_PAGES = 256


def scan_for_kernel(kernel: KernelSpace, memory: ByteView, pages: PageMap, pointers: tuple[int, ...]) -> Module | None:
    """Return the kernel's image; None if it is not found.

    An image is the kernel's if it names one of the kernel's PDBs, or if the kernel's debugger data says so. It is
    looked for where the debugger data has it, in the 32 MiB below addresses that lie in it, then in 65,536 mapped pages
    from where Windows usually loads it and as many from the start of the kernel's half. Where page tables do not work,
    the first 512 MiB of the dump are searched: the kernel is mapped with large pages, so that it lies in one piece in
    physical memory, too.

    Args:
        kernel: The kernel's address space, whose list of modules cannot be read.
        memory: Physical memory.
        pages: The pages it has.
        pointers: Addresses of variables of the kernel; 0 is none.
    """
    base = kernel.debugger_data.kernel_base_va if kernel.debugger_data is not None else 0
    stated = _read_module(kernel.space, base) if base >= kernel.space.mode.kernel_start else None
    if stated is not None and (_names_kernel(stated) or not stated.pdbs):
        return stated
    first_bytes = _FirstBytes(memory)
    for space in kernel.spaces:
        found = _find_kernel(space, _mapped_places(space, first_bytes, pointers))
        if found is not None:
            return found
    found = _find_kernel(memory, _physical_places(memory, pages))
    return None if found is None else replace(found, base=None)


def _find_kernel(memory: ByteView, places: Iterable[int]) -> Module | None:
    """Return the first of the images at *places* that names the kernel's PDB."""
    for place in islice(places, _MOST_IMAGES):
        module = _read_module(memory, place)
        if module is not None and _names_kernel(module):
            return module
    return None


def _read_module(memory: ByteView, place: int) -> Module | None:
    """Return what an image at *place* says of itself, under the kernel's name."""
    try:
        image = parse_image(PartView(memory, place, min(_LARGEST_KERNEL_BYTES, memory.size - place)), Layout.MEMORY)
    except InputError:
        return None
    return image_module(image, _KERNEL_NAME, None, place)


def _names_kernel(module: Module) -> bool:
    return any(isinstance(pdb.key, PdbKey) and pdb.key.name.lower() in _KERNEL_PDBS for pdb in module.pdbs)


class _FirstBytes:
    """Knows which physical pages may begin an image, however often page tables map them."""

    def __init__(self, memory: ByteView) -> None:
        self._memory = memory
        self._tries_left: dict[int, int] = {}

    def take(self, physical: int) -> bool:
        """Say whether the page at *physical* begins like an image and has not been tried too often."""
        left = self._tries_left.get(physical)
        if left is None:
            try:
                left = _MOST_TRIES if self._memory.read(physical, 2) == b"MZ" else 0
            except InputError:
                left = 0
        self._tries_left[physical] = max(left - 1, 0)
        return left > 0


def _mapped_places(space: AddressSpace, first_bytes: _FirstBytes, pointers: tuple[int, ...]) -> Iterator[int]:
    """Yield addresses of mapped pages that begin like an image, likely ones first."""
    return (address for address, physical in _mapped_pages(space, pointers) if first_bytes.take(physical))


def _mapped_pages(space: AddressSpace, pointers: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    lowest = space.mode.kernel_start
    for pointer in sorted({pointer for pointer in pointers if lowest <= pointer < space.size}):
        start = max(pointer - _LARGEST_KERNEL_BYTES, lowest)
        for page in space.mapped_pages(start, _MOST_TABLES):
            if page[0] > pointer:
                break
            yield page
    for start in dict.fromkeys((max(_USUAL_START & (space.size - 1), lowest), lowest)):
        yield from islice(space.mapped_pages(start, _MOST_TABLES), _MOST_PAGES)


def _physical_places(memory: ByteView, pages: PageMap) -> Iterator[int]:
    """Yield physical addresses of pages that begin like an image."""
    left = _SCANNED_BYTES // PAGE_SIZE
    for first, count in pages.runs():
        end = first + min(count, left)
        for start in range(first, end, _BLOCK_PAGES):
            block = min(_BLOCK_PAGES, end - start)
            try:
                data = memory.read(start * PAGE_SIZE, block * PAGE_SIZE)
            except InputError:
                return
            yield from ((start + page) * PAGE_SIZE for page in range(block) if data.startswith(b"MZ", page * PAGE_SIZE))
        left -= end - first
        if not left:
            return
