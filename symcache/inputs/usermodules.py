"""Modules of the processes in a kernel dump."""

from __future__ import annotations

from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput
from symcache.formats.dump.kernel import LDR32, LDR64, read_entry, read_pointer, walk_list
from symcache.formats.dump.processes import (
    KERNEL_STRUCTURES,
    KernelLayout,
    find_kernel_layout,
    read_process,
    walk_processes,
)
from symcache.formats.pdb.types import read_structures
from symcache.formats.view import FileView
from symcache.identity import fold
from symcache.inputs.dotnet import loaded_space, with_managed, with_runtime
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
from symcache.inputs.records import Module, ProcessSummary, Unreadable
from symcache.inputs.runtimes import RUNTIMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.formats.dump.kernel import KernelSpace, ListWalk, LoaderEntry, LoaderLayout
    from symcache.formats.dump.paging import AddressSpace
    from symcache.formats.dump.processes import Process
    from symcache.inputs.records import ProcessSelection, Record

_SESSION_NAMES = ("csrss.exe", "winlogon.exe", "explorer.exe", "dwm.exe")
_MOST_SESSIONS = 8
_MOST_KNOWN = 8192
_MOST_MODULES = 1 << 17
# A loader entry and its names take some 300 bytes that no other process has.
_MOST_MODULES_PER_PAGE = 16
_POINTER32 = 4
_USER32_END = 1 << 32


def read_kernel_layout(pdb: Path) -> KernelLayout | None:
    """Return the offsets that the kernel's PDB at *pdb* states; None if it does not, or cannot be read."""
    try:
        with FileView(pdb) as view:
            return KernelLayout.from_structures(read_structures(view, KERNEL_STRUCTURES))
    except (InputError, OSError):
        return None


class DumpProcesses:
    """The processes of a dump; nothing is read before it is needed.

    Without a *layout* of the kernel's structures it is found in memory. More modules than *page_count* pages can hold
    are not listed.
    """

    def __init__(self, kernel: KernelSpace, layout: KernelLayout | None, page_count: int) -> None:
        self._kernel = kernel
        self._layout = layout
        self._most_modules = min(page_count * _MOST_MODULES_PER_PAGE, _MOST_MODULES)
        self._walk: ListWalk | None = None
        self._roots: dict[str, int] | None = None

    def space_of(self, label: str) -> AddressSpace | None:
        """Return the address space of the process that `Module.process` calls *label*; None if it is not found."""
        if self._roots is None:
            found = (process for process in self._processes() if not isinstance(process, str))
            self._roots = {process.label: process.directory_table_base for process in found}
        root = self._roots.get(label)
        return None if root is None else self._kernel.space.with_root(root)

    def session_spaces(self) -> Iterator[AddressSpace]:
        """Yield address spaces of processes that belong to a session, best first, at most eight."""
        processes = [found for found in self._processes() if not isinstance(found, str)]
        ranks = {name: rank for rank, name in enumerate(_SESSION_NAMES)}
        known = [process for process in processes if process.name.lower() in ranks]
        known.sort(key=lambda process: ranks[process.name.lower()])
        others = [process for process in processes if process.peb and process not in known]
        for process in (known + others)[:_MOST_SESSIONS]:
            yield self._kernel.space.with_root(process.directory_table_base)

    def modules(self, selection: ProcessSelection, path: str) -> Iterator[Record]:
        """Yield the modules of the processes asked for, process by process in list order, and what is missing."""
        missed = set(selection.wanted)
        lister: _Lister | None = None
        for process in self._processes():
            if isinstance(process, str):
                yield Unreadable(path, process)
            elif selection.takes(process):
                missed.difference_update(name for name in selection.wanted if process.is_named(name))
                if lister is None:
                    guessed = self._layout is None or self._layout.guessed
                    lister = _Lister(self._kernel, path, self._most_modules, guessed=guessed)
                records = lister.modules(process)
                first = next(records, None)  # the loader lists the executable first
                image = first.path if isinstance(first, Module) else None
                count = 0
                for record in () if first is None else chain([first], records):
                    count += isinstance(record, Module)
                    yield record
                if selection.wanted and not process.peb:
                    yield Unreadable(path, f"{process.label} has no user memory")
                yield ProcessSummary(process.id, process.name, image, count)
        if lister is not None and lister.full:
            yield Unreadable(path, f"the processes have more than {self._most_modules} modules, the rest is left out")
        for name in sorted(missed):
            yield Unreadable(path, f"no process {name} is in the dump")

    def _processes(self) -> Iterator[Process | str]:
        """Yield each process, or why it cannot be read."""
        kernel = self._kernel
        head = kernel.active_processes_va
        if head < kernel.space.mode.kernel_start:
            yield "nothing says where the list of processes is"
            return
        if self._walk is None:
            self._walk = walk_processes(kernel.space, head, kernel.pointer_size)
        if self._layout is None:
            self._layout = find_kernel_layout(
                kernel.space, self._walk, kernel.pointer_size, kernel.debugger_data, kernel.loaded_modules_va
            )
        if self._layout is None:
            why = self._walk.problem or "no layout of EPROCESS fits its memory"
            yield f"the processes cannot be read: {why}"
            return
        for links in self._walk.entries:
            try:
                yield read_process(kernel.space, links, self._layout, kernel.pointer_size)
            except InputError as error:
                yield f"the process at {links - self._layout.links:#x} cannot be read: {error.problem}"
        if not self._walk.complete:
            yield f"the list of processes is damaged, {len(self._walk.entries)} were reached: {self._walk.problem}"


class _Lister:
    """Lists the modules of one process after the other, and knows again what several have in common."""

    def __init__(self, kernel: KernelSpace, path: str, most_modules: int, *, guessed: bool) -> None:
        self._kernel = kernel
        self._path = path
        self._guessed = guessed
        self._known: dict[tuple[str, int, int, int], Module] = {}
        self._left = most_modules
        self._has_runtime = False  # of .NET, in the process whose modules are being listed

    @property
    def full(self) -> bool:
        """More modules were met than are listed."""
        return not self._left

    def modules(self, process: Process) -> Iterator[Record]:
        if self.full or not process.peb:
            return
        space = self._kernel.space.with_root(process.directory_table_base)
        width = self._kernel.pointer_size
        seen: set[int] = set()
        self._has_runtime = False
        yield from self._list(space, process, process.peb, LDR64 if width == 8 else LDR32, seen)
        if not process.wow64_process:
            return
        try:
            peb32 = self._find_peb32(space, process)
        except InputError as error:
            if not self._guessed:
                yield self._unreadable(process, f"its 32-bit modules cannot be listed: {error.problem}")
            return
        yield from self._list(space, process, peb32, LDR32, seen)

    def _find_peb32(self, space: AddressSpace, process: Process) -> int:
        """Return the address of the 32-bit environment block.

        Where the way to it was guessed, both blocks must name the same executable.

        Raises:
            InputError: What leads to it is not there, or leads elsewhere.

        Source: EPROCESS.Wow64Process is the block's address up to Windows 8.1, then that of an EWOW64PROCESS, whose
        first field is. ImageBaseAddress is at 0x10 of the 64-bit block and at 8 of the other, in public symbols.
        """
        address = process.wow64_process
        if address >= self._kernel.space.mode.kernel_start:
            address = read_pointer(space, address, self._kernel.pointer_size)
        if not 0 < address < _USER32_END or address % _POINTER32:
            raise MalformedInput(f"there is no 32-bit environment block at {address:#x}")
        if self._guessed and read_pointer(space, process.peb + 0x10, 8) != read_pointer(space, address + 8, 4):
            raise MalformedInput(f"the 32-bit environment block at {address:#x} is that of another executable")
        return address

    def _list(
        self, space: AddressSpace, process: Process, peb: int, layout: LoaderLayout, seen: set[int]
    ) -> Iterator[Record]:
        """Yield the modules of one loader list that are not yet *seen*, by base.

        Source: PEB.Ldr at 0x18 (0xC), PEB_LDR_DATA.InLoadOrderModuleList at 0x10 (0xC), in public symbols.
        """
        width = layout.pointer_size
        is_program = True
        bits = "32-bit " if width < self._kernel.pointer_size else ""
        try:
            loader = read_pointer(space, peb + 3 * width, width)
        except InputError as error:
            yield self._unreadable(process, f"its {bits}environment block cannot be read: {error.problem}")
            return
        if not loader:
            yield self._unreadable(process, f"it has no {bits}list of modules: it was starting, or had ended")
            return
        end = _USER32_END if width == _POINTER32 else space.mode.kernel_start
        walk = walk_list(space, loader + (0x10 if width == 8 else 0x0C), width, lambda address: 0 < address < end)
        for va in walk.entries:
            if not self._left:
                return
            self._left -= 1
            try:
                entry = read_entry(space, va, layout)
            except InputError as error:
                yield self._unreadable(process, f"a {bits}loader entry cannot be read: {error.problem}")
                continue
            if entry.problem is not None:
                yield self._unreadable(process, f"a {bits}loader entry is damaged: {entry.problem}")
            elif entry.base not in seen:
                seen.add(entry.base)
                module = self._module(space, entry, layout, is_program=is_program)
                self._has_runtime |= module.runtime is not None and not module.runtime.is_presumed
                yield replace(module, process=process.label)
            is_program = False  # the loader lists it first
        if not walk.complete:
            text = f"its {bits}list of modules is damaged, {len(walk.entries)} were reached: {walk.problem}"
            yield self._unreadable(process, text)

    def _unreadable(self, process: Process, problem: str) -> Unreadable:
        return Unreadable(self._path, f"{process.label}: {problem}")

    def _module(self, space: AddressSpace, entry: LoaderEntry, layout: LoaderLayout, *, is_program: bool) -> Module:
        name, path = entry_names(entry)
        stamp = read_stamp(space, entry.va, layout)
        mark = ((path or name).lower(), entry.base, entry.size_of_image, stamp)
        known = self._known.get(mark)
        if known is not None and stamp:
            return known
        module = self._read_module(space, entry, name, path, stamp)
        if is_program or self._has_runtime or fold(name) in RUNTIMES:
            module = self._with_dotnet(module, space, entry, is_program=is_program)
        if module.problem is None and len(self._known) < _MOST_KNOWN:
            self._known[mark] = module
        return module

    def _with_dotnet(self, module: Module, space: AddressSpace, entry: LoaderEntry, *, is_program: bool) -> Module:
        """Return *module* with what its image in memory has of .NET."""
        try:
            image = loaded_space(space, entry.base, entry.size_of_image)
        except InputError:
            return with_runtime(module, None)
        return with_managed(with_runtime(module, image, is_program=is_program), image)

    def _read_module(self, space: AddressSpace, entry: LoaderEntry, name: str, path: str | None, stamp: int) -> Module:
        module = Module(name, path, entry.base)
        if (problem := nameless_problem(entry)) is not None:
            return replace(module, problem=problem)
        try:
            image = read_loaded_image(space, entry.base, entry.size_of_image)
        except InputError as error:
            key = loader_key(name, stamp, entry.size_of_image)
            return module_without_header(module, error, key, "neither can the loader's time stamp")
        module = image_module(image, name, path, entry.base)
        return replace(module, needs_image=paged_out_use(module))
