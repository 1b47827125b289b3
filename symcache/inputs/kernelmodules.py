"""Modules of the kernel of a dump: those its loader lists, unloaded drivers, and the kernel alone without a list."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

from symcache.errors import Absence, InputError, NotInDump
from symcache.formats.dump.modules import read_entry, read_unloaded_drivers, walk_list
from symcache.formats.dump.physical import PAGE_SIZE
from symcache.formats.pe.image import Layout, parse_image
from symcache.formats.view import PartView
from symcache.identity import PdbKey, source_name
from symcache.inputs.image import entry_names, image_module, loader_key, paged_out_use, read_loaded_image
from symcache.inputs.records import ImageUse, Module, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from symcache.formats.dump.kernel import KernelSpace
    from symcache.formats.dump.modules import ListWalk, LoaderEntry, UnloadedDriver
    from symcache.formats.dump.paging import AddressSpace
    from symcache.formats.dump.physical import PageMap
    from symcache.formats.pe.image import Image
    from symcache.formats.view import ByteView
    from symcache.inputs.records import Record

__all__ = ["kernel_modules", "scan_for_kernel", "unloaded_module"]


_FIRST_BUILD_WITH_STAMPS = 10240
_STAMPS_COMPARED = 4
_ENTRIES_COMPARED = 48
# Windows loads some hundreds of drivers.
_MOST_DRIVERS = 2048


def kernel_modules(
    kernel: KernelSpace, build: int, path: str, sessions: Callable[[], tuple[AddressSpace, ...]]
) -> Iterator[Record]:
    """Yield the loaded modules in list order, then those unloaded, then what is wrong with the list.

    Args:
        kernel: The kernel's address space, whose list was found.
        build: Build number of Windows.
        path: The dump, for problems.
        sessions: Returns address spaces of processes that belong to a session; called only if a driver needs one.
    """
    start = kernel.space.mode.kernel_start
    walk = walk_list(
        kernel.space,
        kernel.loaded_modules_va,
        kernel.pointer_size,
        lambda address: address >= start,
        recognises=lambda va: read_entry(kernel.space, va, kernel.layout, kernel_start=start).problem is None,
        most=_MOST_DRIVERS,
    )
    lister = _Lister(kernel, build, walk, sessions)
    for va in walk.entries:
        try:
            entry = lister.read(va)
        except InputError as error:
            yield Unreadable(path, f"the loader's entry at {va:#x} cannot be read: {error.problem}")
            continue
        if entry.problem is not None:
            yield Unreadable(path, f"the loader's entry at {va:#x} is damaged: {entry.problem}")
            continue
        yield lister.module(entry)
    if kernel.debugger_data is not None:
        for driver in read_unloaded_drivers(kernel.space, kernel.debugger_data, kernel.pointer_size):
            yield unloaded_module(driver)
    if not walk.complete:
        yield Unreadable(path, f"the list of modules is damaged, {len(walk.entries)} were reached: {walk.problem}")


def unloaded_module(driver: UnloadedDriver) -> Module:
    """Return a driver that is no longer there; the kernel keeps nothing of it that names a file."""
    return Module(
        name=driver.name or f"unknown_{driver.start:x}",
        base=driver.start,
        unloaded=True,
        problem="the kernel keeps no time stamp of unloaded drivers",
    )


class _Lister:
    """Turns loader entries of one dump into modules."""

    def __init__(
        self,
        kernel: KernelSpace,
        build: int,
        walk: ListWalk,
        sessions: Callable[[], tuple[AddressSpace, ...]],
    ) -> None:
        self._kernel = kernel
        self._sessions = sessions
        self._walk = walk
        self._may_have_stamps = build >= _FIRST_BUILD_WITH_STAMPS
        self._stamps_hold: bool | None = None

    def read(self, va: int) -> LoaderEntry:
        space = self._kernel.space
        return read_entry(space, va, self._kernel.layout, kernel_start=space.mode.kernel_start)

    def module(self, entry: LoaderEntry) -> Module:
        name, full_path = entry_names(entry)
        if entry.full_name is None and entry.base_name is None:
            return self._nameless(entry, name)
        try:
            image = self._find_image(entry)
        except InputError as error:
            return self._without_header(entry, name, full_path, error)
        module = replace(image_module(image, source_name(name), full_path, entry.base), name=name)
        return replace(module, needs_image=paged_out_use(module))

    def _find_image(self, entry: LoaderEntry) -> Image:
        """Return the image, from a session's address space if the kernel's own does not map it."""
        try:
            return read_loaded_image(self._kernel.space, entry.base, entry.size_of_image)
        except NotInDump as error:
            if error.absence is not Absence.NOT_MAPPED:
                raise
            for space in self._sessions():
                try:
                    return read_loaded_image(space, entry.base, entry.size_of_image)
                except InputError:
                    continue
            raise

    def _without_header(self, entry: LoaderEntry, name: str, path: str | None, error: InputError) -> Module:
        module = Module(name, path, entry.base)
        reason = f"its image header cannot be read ({error.problem})"
        stamp = self._stamp(entry.va)
        key = loader_key(source_name(name), stamp, entry.size_of_image)
        if key is not None:
            problem = f"{reason}; the loader's stamp names the image, its PDB is known once that is fetched"
            return replace(module, image=key, problem=problem, needs_image=ImageUse.BY_HAND)
        return replace(module, problem=f"{reason}, and the loader keeps no time stamp that can be relied on")

    def _nameless(self, entry: LoaderEntry, name: str) -> Module:
        """Return what can be said of an image whose name is not there: its PDB, but no key of its own."""
        reason = f"its name cannot be read ({entry.name_problem or 'it has none'})"
        module = Module(name, base=entry.base, problem=reason)
        try:
            found = image_module(self._find_image(entry), name, None, entry.base)
        except InputError:
            return module
        return replace(module, pdbs=found.pdbs)

    def _stamp(self, va: int) -> int:
        """Return the entry's own time stamp; 0 where Windows does not keep one or keeps something else there."""
        if not self._may_have_stamps:
            return 0
        if self._stamps_hold is None:
            self._stamps_hold = self._compare_stamps()
        return self._read_stamp(va) if self._stamps_hold else 0

    def _compare_stamps(self) -> bool:
        """Say whether the stamps of entries are those of images whose headers are there."""
        compared = 0
        for va in self._walk.entries[:_ENTRIES_COMPARED]:
            try:
                entry = self.read(va)
                image = read_loaded_image(self._kernel.space, entry.base, entry.size_of_image)
            except InputError:
                continue
            if self._read_stamp(va) != image.timestamp:
                return False
            compared += 1
            if compared == _STAMPS_COMPARED:
                break
        return compared > 0

    def _read_stamp(self, va: int) -> int:
        try:
            return int.from_bytes(self._kernel.space.read(va + self._kernel.layout.stamp, 4), "little")
        except InputError:
            return 0


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
