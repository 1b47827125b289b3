"""Find the kernel's image where the list of modules cannot be read."""

from __future__ import annotations

from itertools import islice, takewhile
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.pagemaps import PAGE_SIZE
from symcache.formats.pe import Layout, parse_image
from symcache.formats.view import PartView
from symcache.identity import PdbKey
from symcache.readers.image import image_module

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.kernelspace import KernelSpace
    from symcache.formats.pagemaps import PageMap
    from symcache.formats.paging import AddressSpace
    from symcache.formats.pe import Image
    from symcache.formats.view import ByteView
    from symcache.readers.records import Module

__all__ = ["scan_for_kernel"]

_KERNEL_NAME = "ntoskrnl.exe"
_KERNEL_PDBS = frozenset(["ntoskrnl.pdb", "ntkrnlmp.pdb", "ntkrnlpa.pdb", "ntkrpamp.pdb"])
_LARGEST_KERNEL_BYTES = 32 << 20
_USUAL_START = 0xFFFFF80000000000
_MOST_TABLES = 4096
_MOST_PAGES = 1 << 17
_SCANNED_BYTES = 512 << 20
_BLOCK_PAGES = 256
_MOST_HITS = 4096


def scan_for_kernel(kernel: KernelSpace, memory: ByteView, pages: PageMap, pointers: tuple[int, ...]) -> Module | None:
    """Return the kernel's image; None if it is not found.

    Where page tables work, the image is looked for below addresses that lie in it; a page is the kernel's if its
    header's size spans the address. Then mapped pages, at most 262,144 of them, are searched for an image that names
    the kernel's PDB. Where page tables do not work, the first 512 MiB of the dump are searched the same way: the kernel
    is mapped with large pages, so that it lies in one piece in physical memory, too.

    Args:
        kernel: The kernel's address space, whose list of modules cannot be read.
        memory: Physical memory.
        pages: The pages it has.
        pointers: Addresses of variables of the kernel; 0 is none.
    """
    if kernel.debugger_data is not None:
        pointers = (kernel.debugger_data.kernel_base_va, *pointers)
    for space in kernel.spaces:
        found = _scan_below(space, pointers) or _scan_mapped(space)
        if found is not None:
            return found
    return _scan_pages(memory, pages)


def _scan_below(space: AddressSpace, pointers: tuple[int, ...]) -> Module | None:
    """Search what is mapped below addresses within the image."""
    for pointer in sorted({pointer for pointer in pointers if pointer >= space.mode.kernel_start}):
        lowest = max(pointer - _LARGEST_KERNEL_BYTES, space.mode.kernel_start)
        for base in takewhile(pointer.__ge__, space.mapped_pages(lowest, _MOST_TABLES)):
            image = _find_image(space, base)
            if image is not None and pointer < base + image.size_of_image:
                return image_module(image, _KERNEL_NAME, None, base)
    return None


def _scan_mapped(space: AddressSpace) -> Module | None:
    """Search the mapped pages of the kernel, from where Windows usually loads it."""
    for start in dict.fromkeys(
        (max(_USUAL_START & (space.size - 1), space.mode.kernel_start), space.mode.kernel_start)
    ):
        for base in islice(space.mapped_pages(start, _MOST_TABLES), _MOST_PAGES):
            image = _find_image(space, base)
            if image is not None and (module := _kernel_module(image, base)) is not None:
                return module
    return None


def _kernel_module(image: Image, base: int | None) -> Module | None:
    """Return the module, if the image names the kernel's PDB."""
    module = image_module(image, _KERNEL_NAME, None, base)
    named = any(isinstance(pdb.key, PdbKey) and pdb.key.name.lower() in _KERNEL_PDBS for pdb in module.pdbs)
    return module if named else None


def _find_image(space: AddressSpace, base: int) -> Image | None:
    try:
        if space.read(base, 2) != b"MZ":
            return None
        return parse_image(PartView(space, base, min(_LARGEST_KERNEL_BYTES, space.size - base)), Layout.MEMORY)
    except InputError:
        return None


def _scan_pages(memory: ByteView, pages: PageMap) -> Module | None:
    for hits, address in enumerate(_images(memory, pages)):
        if hits == _MOST_HITS:
            break
        view = PartView(memory, address, min(_LARGEST_KERNEL_BYTES, memory.size - address))
        try:
            image = parse_image(view, Layout.MEMORY)
        except InputError:
            continue
        module = _kernel_module(image, None)
        if module is not None:
            return module
    return None


def _images(memory: ByteView, pages: PageMap) -> Iterator[int]:
    """Yield physical addresses of pages that begin like an image."""
    left = _SCANNED_BYTES // PAGE_SIZE
    for first, count in pages.runs():
        for start in range(first, first + min(count, left), _BLOCK_PAGES):
            block = min(_BLOCK_PAGES, first + count - start)
            try:
                data = memory.read(start * PAGE_SIZE, block * PAGE_SIZE)
            except InputError:
                return
            for page in range(block):
                if data.startswith(b"MZ", page * PAGE_SIZE):
                    yield (start + page) * PAGE_SIZE
        left -= count
        if left <= 0:
            return
