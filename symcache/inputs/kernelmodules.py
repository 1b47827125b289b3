"""What a kernel's own lists say of its modules, and where their memory is, for every form of a machine's memory."""

from __future__ import annotations

from dataclasses import replace
from functools import cache, cached_property
from typing import TYPE_CHECKING

from symcache.errors import Absence, InputError, NotInDump
from symcache.formats.dump.kernel import read_entry, read_unloaded_drivers, walk_list
from symcache.identity import source_name
from symcache.inputs.image import (
    entry_names,
    image_module,
    loader_key,
    module_without_header,
    nameless_problem,
    paged_out_use,
    read_loaded_image,
    read_stamp,
)
from symcache.inputs.records import Module, Unreadable
from symcache.inputs.usermodules import DumpProcesses

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.dump.kernel import DebuggerData, KernelSpace, ListWalk, LoaderEntry, UnloadedDriver
    from symcache.formats.dump.paging import AddressSpace
    from symcache.formats.pe.image import Image
    from symcache.formats.view import ByteView
    from symcache.inputs.records import Record

_LONGEST_LAB_BYTES = 128


def read_build_lab(memory: ByteView, block: DebuggerData | None) -> str | None:
    """Return the kernel's own name of its build (``19041.1.amd64fre.vb_release.191206-1406``), if it is there."""
    if block is None or not block.build_lab_va:
        return None
    raw = b""
    while len(raw) < _LONGEST_LAB_BYTES and b"\0" not in raw:
        try:
            raw += memory.read(block.build_lab_va + len(raw), 1)
        except InputError:
            break
    text = raw.partition(b"\0")[0].decode("latin-1")
    return text if text.isprintable() and text else None


def module_memory(kernel: KernelSpace, page_count: int) -> Callable[[Module], Iterator[ByteView]]:
    """Return what yields the memory that a module may lie in, by address, likeliest first.

    Processes are found without the kernel's PDB, and only for the first module of one, or of a session.
    """
    processes = DumpProcesses(kernel, None, page_count)
    sessions = cache(lambda: tuple(processes.session_spaces()))

    def memory_of(module: Module) -> Iterator[ByteView]:
        if module.process is not None:
            space = processes.space_of(module.process)
            yield from () if space is None else (space,)
        elif _is_mapped(kernel.space, module.base or 0):
            yield kernel.space
        else:
            yield from sessions()

    return memory_of


def _is_mapped(space: AddressSpace, address: int) -> bool:
    """Say whether *space* has a page at *address*, be it in the dump or not."""
    try:
        space.read(address, 1)
    except NotInDump as error:
        return error.absence is not Absence.NOT_MAPPED
    return True


_FIRST_BUILD_WITH_STAMPS = 10240
_STAMPS_COMPARED = 4
_ENTRIES_COMPARED = 48
# Windows loads some hundreds of drivers.
_MOST_DRIVERS = 2048


def list_kernel_modules(
    kernel: KernelSpace,
    build: int,
    path: str,
    sessions: Callable[[], tuple[AddressSpace, ...]],
    loaded: list[tuple[Module, int]],
) -> Iterator[Record]:
    """Yield the loaded modules in list order, then those unloaded, then what is wrong with the list.

    *sessions* returns address spaces of processes that belong to a session; called only if a driver needs one.
    *loaded* gets those that are loaded, with their sizes in bytes.
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
        module = lister.module(entry)
        loaded.append((module, entry.size_of_image))
        yield module
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
        self, kernel: KernelSpace, build: int, walk: ListWalk, sessions: Callable[[], tuple[AddressSpace, ...]]
    ) -> None:
        self._kernel = kernel
        self._sessions = sessions
        self._walk = walk
        self._build = build

    def read(self, va: int) -> LoaderEntry:
        space = self._kernel.space
        return read_entry(space, va, self._kernel.layout, kernel_start=space.mode.kernel_start)

    def module(self, entry: LoaderEntry) -> Module:
        name, full_path = entry_names(entry)
        module = Module(name, full_path, entry.base)
        problem = nameless_problem(entry)
        try:
            image = self._find_image(entry)
        except InputError as error:
            if problem is not None:
                return replace(module, problem=problem)
            key = loader_key(source_name(name), self._stamp(entry.va), entry.size_of_image)
            no_stamp = "the loader keeps no time stamp that can be relied on"
            return module_without_header(module, error, key, no_stamp)
        found = image_module(image, source_name(name), full_path, entry.base)
        if problem is not None:  # its PDB is there, but no key of its own
            return replace(module, problem=problem, pdbs=found.pdbs)
        return replace(found, name=name, needs_image=paged_out_use(found))

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

    def _stamp(self, va: int) -> int:
        """Return the entry's own time stamp; 0 where Windows does not keep one or keeps something else there."""
        return read_stamp(self._kernel.space, va, self._kernel.layout) if self._stamps_hold else 0

    @cached_property
    def _stamps_hold(self) -> bool:
        """The stamps of entries are those of images whose headers are there."""
        if self._build < _FIRST_BUILD_WITH_STAMPS:
            return False
        compared = 0
        for va in self._walk.entries[:_ENTRIES_COMPARED]:
            try:
                entry = self.read(va)
                image = read_loaded_image(self._kernel.space, entry.base, entry.size_of_image)
            except InputError:
                continue
            if read_stamp(self._kernel.space, va, self._kernel.layout) != image.timestamp:
                return False
            compared += 1
            if compared == _STAMPS_COMPARED:
                break
        return compared > 0
