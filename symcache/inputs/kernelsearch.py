"""Searches memory for the kernel's image, where no list leads to it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.dump.kernel import KERNEL_PDBS
from symcache.formats.dump.physical import PAGE_SIZE
from symcache.formats.pe.image import Layout, parse_image
from symcache.formats.view import PartView
from symcache.identity import PdbKey
from symcache.inputs.image import image_module

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.dump.kernel import KernelSpace
    from symcache.formats.dump.paging import AddressSpace
    from symcache.formats.dump.physical import PageMap
    from symcache.formats.pe.image import Image
    from symcache.formats.view import ByteView
    from symcache.inputs.records import Module

KERNEL_NAME = "ntoskrnl.exe"
"""What the loader calls the kernel, whichever file it was loaded from."""

_LARGEST_KERNEL_BYTES = 32 << 20
_USUAL_START = 0xFFFFF80000000000
_MOST_TABLES = 1024
_MOST_PAGES = 1 << 16
_MOST_IMAGES = 1024
# Where nothing says where the kernel is, and what lies before it in address order may be long.
_MOST_TABLES_SEARCHED = 1 << 14
MOST_PAGES_SEARCHED = 1 << 19
"""From each place where a search begins."""
_MOST_HEADERS_TRIED = 1 << 14
_MOST_TRIES = 4  # a header may be mapped a second time, without the rest of its image
_SCANNED_BYTES = 512 << 20
_BLOCK_PAGES = 256
_PIECE_BYTES = 1 << 16


def scan_for_kernel(kernel: KernelSpace, memory: ByteView, pages: PageMap, pointers: tuple[int, ...]) -> Module | None:
    """Return the kernel's image; None if it is not found.

    An image is the kernel's if it names one of the kernel's PDBs, or if the kernel's debugger data says so. It is
    looked for where the debugger data has it, in the 32 MiB below addresses that lie in it, then in 65,536 mapped pages
    from where Windows usually loads it and as many from the start of the kernel's half. Where page tables do not work,
    the first 512 MiB of the dump are searched: the kernel is mapped with large pages, so that it lies in one piece in
    physical memory, too. *pointers* are addresses of variables of the kernel; 0 is none.
    """
    base = kernel.debugger_data.kernel_base_va if kernel.debugger_data is not None else 0
    stated = _read_module(kernel.space, base) if base >= kernel.space.mode.kernel_start else None
    if stated is not None and (_names_kernel(stated) or not stated.pdbs):
        return stated
    first_bytes = _FirstBytes(memory)
    for space in kernel.spaces:
        places = (address for address, physical in _mapped_pages(space, pointers) if first_bytes.take(physical))
        found = _find_kernel(space, places)
        if found is not None:
            return found
    found = _find_kernel(memory, _physical_places(memory, pages))
    return None if found is None else replace(found, base=None)


def find_kernel(
    space: AddressSpace, memory: ByteView, pointers: tuple[int, ...], *, most_pages: int = MOST_PAGES_SEARCHED
) -> Module | None:
    """Return the kernel's image in *space*, the address space of a machine with that *memory*; None if not found.

    Looked at are the mapped pages in the 32 MiB below *pointers*, addresses in the kernel or near, then *most_pages*
    from where Windows usually loads it, and as many from the start of the kernel's half.
    """
    return _find_kernel(
        space, (address for address, _ in _image_places(space, _FirstBytes(memory), most_pages, pointers))
    )


def find_images(space: AddressSpace, memory: ByteView) -> Iterator[tuple[int, Image]]:
    """Yield address and headers of each image in the kernel's half of *space*, in as many pages as `find_kernel`.

    At most 16,384 pages that begin like an image are tried.
    """
    first_bytes = _FirstBytes(memory)
    for address, physical in islice(_image_places(space, first_bytes, MOST_PAGES_SEARCHED), _MOST_HEADERS_TRIED):
        if (image := read_kernel_image(space, address)) is not None:
            first_bytes.drop(physical)
            yield address, image


def read_kernel_module(memory: ByteView, place: int) -> Module | None:
    """Return what the kernel's image at *place* says of itself; None if there is no image that names its PDB."""
    module = _read_module(memory, place)
    return module if module is not None and _names_kernel(module) else None


def read_kernel_image(memory: ByteView, place: int) -> Image | None:
    """Return the image at *place*; None if there is none."""
    try:
        return parse_image(PartView(memory, place, min(_LARGEST_KERNEL_BYTES, memory.size - place)), Layout.MEMORY)
    except InputError:
        return None


def _find_kernel(memory: ByteView, places: Iterable[int]) -> Module | None:
    """Return the first of the images at *places* that names the kernel's PDB."""
    for place in islice(places, _MOST_IMAGES):
        module = read_kernel_module(memory, place)
        if module is not None:
            return module
    return None


def _read_module(memory: ByteView, place: int) -> Module | None:
    """Return what an image at *place* says of itself, under the kernel's name."""
    image = read_kernel_image(memory, place)
    return None if image is None else image_module(image, KERNEL_NAME, None, place)


def _names_kernel(module: Module) -> bool:
    return any(isinstance(pdb.key, PdbKey) and pdb.key.name.lower() in KERNEL_PDBS for pdb in module.pdbs)


class _FirstBytes:
    """Knows which physical pages may begin an image, however often page tables map them."""

    def __init__(self, memory: ByteView) -> None:
        self._memory = memory
        self._tries_left: dict[int, int] = {}
        self.end = memory.size

    def take(self, physical: int) -> bool:
        """Say whether the page at *physical* begins like an image and has not been tried too often."""
        left = self._tries_left.get(physical)
        if left is None:
            try:
                left = _MOST_TRIES if self._memory.read(physical, 2) == b"MZ" else 0
            except InputError:
                left = 0
        if left or len(self._tries_left) < _MOST_PAGES:
            self._tries_left[physical] = max(left - 1, 0)
        return left > 0

    def find(self, physical: int, size: int) -> Iterator[int]:
        """Yield the pages of *size* bytes from *physical* on that `take` would take."""
        end = min(physical + size, self.end)
        for start in range(physical, end, _PIECE_BYTES):
            length = min(_PIECE_BYTES, end - start)
            try:
                data = self._memory.read(start, length) if length > PAGE_SIZE else None
            except InputError:
                data = None
            for within in range(0, length, PAGE_SIZE):
                if (data is None or data.startswith(b"MZ", within)) and self.take(start + within):
                    yield start + within

    def drop(self, physical: int) -> None:
        """Try the page at *physical* no more."""
        self._tries_left[physical] = 0


def _image_places(
    space: AddressSpace, first_bytes: _FirstBytes, most_pages: int, pointers: tuple[int, ...] = ()
) -> Iterator[tuple[int, int]]:
    """Yield virtual and physical addresses of mapped pages that begin like an image, likely ones first."""
    for start, end in _likely_starts(space, pointers):
        left = most_pages
        for address, physical, size in space.mapped_runs(start, _MOST_TABLES_SEARCHED):
            if address > end or left <= 0:
                break
            size = min(size, left * PAGE_SIZE)  # noqa: PLW2901 - the same run, cut
            left -= max(min(size, first_bytes.end - physical), PAGE_SIZE) // PAGE_SIZE
            if size > PAGE_SIZE:
                yield from ((address + found - physical, found) for found in first_bytes.find(physical, size))
            elif first_bytes.take(physical):
                yield address, physical


def _mapped_pages(space: AddressSpace, pointers: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield virtual and physical addresses of mapped pages, likely ones first."""
    for start, end in _likely_starts(space, pointers):
        for page in islice(space.mapped_pages(start, _MOST_TABLES), _MOST_PAGES):
            if page[0] > end:
                break
            yield page


def _likely_starts(space: AddressSpace, pointers: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield first and last address of where the kernel may begin: below *pointers* to it, where it usually does."""
    lowest = space.mode.kernel_start
    for pointer in sorted({pointer for pointer in pointers if lowest <= pointer < space.size}):
        yield max(pointer - _LARGEST_KERNEL_BYTES, lowest), pointer
    for start in dict.fromkeys((max(_USUAL_START & (space.size - 1), lowest), lowest)):
        yield start, space.size


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
