"""Windows kernel dumps: the kernel's modules, those unloaded, and on request those of processes."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

from symcache.errors import Absence, InputError, NotInDump, UnknownFormat
from symcache.formats.dump.header import DumpAttribute, DumpType, bugcheck_name, read_dump_header
from symcache.formats.dump.kernel import open_kernel_space, read_entry, read_unloaded_drivers, walk_list
from symcache.formats.dump.physical import PAGE_SIZE, PhysicalMemory, Storage, read_dump_body
from symcache.formats.dump.triage import TriageMemory, read_triage
from symcache.formats.pe.image import Layout, machine_name, parse_image
from symcache.formats.view import PartView
from symcache.identity import PdbKey, base_name, source_name
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
from symcache.inputs.records import ImageUse, Input, InputKind, KernelPdbWanted, Module, Unreadable
from symcache.inputs.usermodules import DumpProcesses, read_kernel_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from symcache.formats.dump.header import DumpHeader
    from symcache.formats.dump.kernel import DebuggerData, KernelSpace, ListWalk, LoaderEntry, UnloadedDriver
    from symcache.formats.dump.paging import AddressSpace
    from symcache.formats.dump.physical import DumpBody, PageMap
    from symcache.formats.dump.triage import TriageDriver
    from symcache.formats.pe.image import Image
    from symcache.formats.view import ByteView
    from symcache.inputs.records import ProcessSelection, Record

# Full, bitmap full, and what .dump /ka and /f of the debugger write: they claim to hold the memory of processes.
_COMPLETE = frozenset({1, 5, 9, 0xA})


def read_kernel_dump(view: ByteView, path: str, *, user: ProcessSelection | None = None) -> Iterator[Record]:
    """Yield the dump, the kernel's modules in list order, those unloaded, and those of the processes asked for.

    Before the processes, *user*, comes a `KernelPdbWanted`. Memory stays small whatever the size of the dump, and time
    depends on the number of modules.

    Raises:
        UnknownFormat: Not a kernel dump, encrypted, or of a machine whose page tables are not read here.
        InputError: No page of it can be found.
    """
    header = read_dump_header(view)
    if header.encrypted:
        raise UnknownFormat(
            "the dump is encrypted: its modules cannot be listed; decrypt it first with the private key of the"
            " certificate it was encrypted for (KernelDumpDecrypt.exe)"
        )
    body = read_dump_body(view, header)
    if body.storage is Storage.TRIAGE:
        yield from _read_triage_dump(view, path, header)
    elif body.pages is None:
        yield Input(path, InputKind.KERNEL_DUMP, _header_details(header, body.storage, view.size))
        yield Unreadable(path, "the dump is a header alone: it tells the bug check, but no modules", header.size)
    else:
        yield from _read_memory_dump(view, path, header, body, body.pages, user)


def _read_memory_dump(
    view: ByteView, path: str, header: DumpHeader, body: DumpBody, pages: PageMap, user: ProcessSelection | None
) -> Iterator[Record]:
    memory = PhysicalMemory(view, pages)
    kernel = open_kernel_space(memory, header)
    details = _header_details(header, body.storage, view.size)
    details |= {"paging": kernel.space.mode.name, "pages": pages.page_count, "runs": pages.run_count}
    details["build_lab"] = _read_build_lab(kernel.space, kernel.debugger_data)
    details["cut_short"] = pages.end_offset > view.size
    details["problems"] += [*body.problems, *filter(None, [kernel.list_problem])]
    yield Input(path, InputKind.KERNEL_DUMP, details)

    @cache
    def sessions() -> tuple[AddressSpace, ...]:
        return tuple(DumpProcesses(kernel, None, pages.page_count).session_spaces())

    listed = 0
    nt: Module | None = None
    if kernel.list_found:
        for record in _kernel_modules(kernel, header.build, path, sessions):
            listed += isinstance(record, Module) and not record.unloaded
            if nt is None and isinstance(record, Module):
                nt = record
            yield record
    if not listed:
        found = _scan_for_kernel(kernel, memory, pages, (header.debugger_data_va, header.loaded_modules_va))
        if found is not None:
            yield found
        problem = kernel.list_problem or "no entry of the list of modules can be read"
        rest = "the kernel's image was not found either" if found is None else "only the kernel was found, by its image"
        yield Unreadable(path, f"{problem}; {rest}")
    if user is not None and (not user.if_complete or header.dump_type in _COMPLETE):
        layout = None
        if nt is not None:
            yield (request := KernelPdbWanted(nt))
            layout = None if request.pdb is None else read_kernel_layout(request.pdb)
        for record in DumpProcesses(kernel, layout, pages.page_count).modules(user, path):
            if not (isinstance(record, Unreadable) and user.if_complete):
                yield record
    if pages.end_offset > view.size:
        missing = pages.end_offset - view.size
        yield Unreadable(path, f"the dump is cut short: {missing} of {pages.end_offset} bytes are missing", view.size)


_FIRST_BUILD_WITH_STAMPS = 10240
_STAMPS_COMPARED = 4
_ENTRIES_COMPARED = 48
# Windows loads some hundreds of drivers.
_MOST_DRIVERS = 2048


def _kernel_modules(
    kernel: KernelSpace, build: int, path: str, sessions: Callable[[], tuple[AddressSpace, ...]]
) -> Iterator[Record]:
    """Yield the loaded modules in list order, then those unloaded, then what is wrong with the list.

    *sessions* returns address spaces of processes that belong to a session; called only if a driver needs one.
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
            yield _unloaded_module(driver)
    if not walk.complete:
        yield Unreadable(path, f"the list of modules is damaged, {len(walk.entries)} were reached: {walk.problem}")


def _unloaded_module(driver: UnloadedDriver) -> Module:
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


def _scan_for_kernel(kernel: KernelSpace, memory: ByteView, pages: PageMap, pointers: tuple[int, ...]) -> Module | None:
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


def _mapped_pages(space: AddressSpace, pointers: tuple[int, ...]) -> Iterator[tuple[int, int]]:
    """Yield virtual and physical addresses of mapped pages, likely ones first."""
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


def _read_triage_dump(view: ByteView, path: str, header: DumpHeader) -> Iterator[Record]:
    """Yield the dump, its drivers in file order, the kernel first, then those unloaded.

    A driver's own entry names its image; pieces of the image are rarely in the dump, so its PDB mostly is not known.

    Raises:
        InputError: The driver list cannot be read.
    """
    triage = read_triage(view, header)
    memory = TriageMemory(view, triage)
    details = _header_details(header, "triage", view.size)
    details |= {"drivers": triage.driver_count, "data_blocks": triage.block_count, "size_of_dump": triage.size_of_dump}
    details["build_lab"] = _read_build_lab(memory, triage.debugger_data(view))
    details["cut_short"] = max(triage.size_of_dump, triage.valid_offset + 4) > view.size
    details["problems"] += triage.problems
    yield Input(path, InputKind.TRIAGE_DUMP, details)
    try:
        for driver in triage.drivers(view):
            yield _triage_module(driver, memory)
    except InputError as error:
        yield Unreadable(path, f"the driver list is cut off: {error.problem}", error.offset)
    try:
        for unloaded in triage.unloaded_drivers(view):
            yield _unloaded_module(unloaded)
    except InputError as error:
        yield Unreadable(path, f"the list of unloaded drivers is cut off: {error.problem}", error.offset)
    for problem in triage.problems:
        yield Unreadable(path, problem, triage.valid_offset)
    if not triage.driver_count:
        yield Unreadable(path, "the dump lists no drivers", header.size + 0x34)


def _triage_module(driver: TriageDriver, memory: TriageMemory) -> Module:
    name = base_name(driver.path or "") or f"unknown_{driver.base:x}"
    module = Module(name, driver.path, driver.base)
    if driver.problem is not None:
        return replace(module, problem=f"its entry in the driver list is damaged: {driver.problem}")
    if driver.path is None:
        return replace(module, problem=f"its name cannot be read ({driver.path_problem or 'it has none'})")
    image, reason = _find_image(driver, memory)
    if image is not None:
        found = replace(image_module(image, source_name(name), driver.path, driver.base), name=name)
        if found.image is not None and (found.pdbs or found.no_debug_record):
            return replace(found, needs_image=ImageUse.CODE)
        reason = found.problem or reason
    stamp = driver.timestamp or (image.timestamp if image is not None else 0)
    key = loader_key(source_name(name), stamp, driver.size_of_image)
    if key is None:
        why = "its name or size names no file" if stamp else "its time stamp is 0, its header was not in memory"
        return replace(module, problem=f"the dump does not hold its identity: {why}")
    problem = f"the dump names its image but not its PDB: {reason}"
    return replace(module, image=key, problem=problem, needs_image=ImageUse.SYMBOLS)


def _find_image(driver: TriageDriver, memory: TriageMemory) -> tuple[Image | None, str]:
    """Return the image, if its headers are among the pieces of memory and are those of the entry, else why not."""
    try:
        image = read_loaded_image(memory, driver.base, driver.size_of_image)
    except InputError as error:
        return None, f"its image header cannot be read ({error.problem})"
    if driver.timestamp not in {0, image.timestamp}:
        return None, "its image header has another time stamp than the driver list"
    return image, ""


_TYPES = {
    DumpType.FULL: "complete memory dump",
    DumpType.SUMMARY: "kernel memory dump (summary)",
    DumpType.HEADER: "header only",
    DumpType.TRIAGE: "small memory dump (triage)",
    DumpType.BITMAP_FULL: "complete or active memory dump (bitmap)",
    DumpType.BITMAP_KERNEL: "kernel or automatic memory dump (bitmap)",
    DumpType.AUTOMATIC: "automatic memory dump",
    DumpType.RANGES_KERNEL: "kernel memory dump by a debugger",
    DumpType.RANGES_KERNEL_AND_USER: "kernel and user memory dump by a debugger",
    DumpType.RANGES_COMPLETE: "complete memory dump by a debugger",
}
_KERNEL_ALONE = frozenset(
    {DumpType.SUMMARY, DumpType.BITMAP_KERNEL, DumpType.AUTOMATIC, DumpType.RANGES_KERNEL, DumpType.HEADER}
)
_DUMP_FILE_EXTRA_MB = 257
_PRODUCTS = {1: "workstation", 2: "domain controller", 3: "server"}
_LIVE_SYSTEM_DUMP = 0x161
_TICKS_PER_S = 10_000_000
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)
_LONGEST_LAB_BYTES = 128


def _header_details(header: DumpHeader, storage: str, size_bytes: int) -> dict[str, Any]:
    """Return what a header says; None where a field was never set."""
    code = header.bugcheck_code
    attributes = header.attributes
    is_cut = (attributes or 0) & DumpAttribute.INSUFFICIENT_DUMPFILE_SIZE
    memory_bytes = sum(run.count for run in header.memory) * PAGE_SIZE if header.memory else None
    live = code == _LIVE_SYSTEM_DUMP or bool((attributes or 0) & DumpAttribute.LIVE_DUMP_GENERATED_DUMP)
    return {
        "type": _TYPES.get(DumpType(header.dump_type)) if header.dump_type in _TYPES else "unknown",
        "type_number": header.dump_type,
        "storage": storage,
        "bits": 64 if header.is_64bit else 32,
        "machine": machine_name(header.machine),
        "build": header.build,
        "build_lab": None,
        "checked_build": header.checked_build,
        "processors": header.processors,
        "product": _PRODUCTS.get(header.product_type or 0),
        "live": live,
        "bugcheck_code": None if code is None else f"{code:#x}",
        "bugcheck_name": None if code is None else bugcheck_name(code),
        "bugcheck_parameters": [f"{parameter:#x}" for parameter in header.bugcheck_parameters],
        "system_time": _time(header.system_time),
        "uptime_s": None if header.uptime is None else header.uptime / _TICKS_PER_S,
        "attributes": None if attributes is None else [bit.name for bit in attributes],
        "minidump_fields": None if header.minidump_fields is None else f"{header.minidump_fields:#x}",
        "directory_table_base": f"{header.directory_table_base:#x}",
        "loaded_modules": f"{header.loaded_modules_va:#x}",
        "comment": header.comment or None,
        "size_bytes": size_bytes,
        "required_bytes": header.required_space,
        "physical_memory_bytes": memory_bytes,
        "fuller_dumps": _fuller_dumps(header, memory_bytes),
        "cut_short": False,
        "problems": ["Windows had no room for the whole dump, so pages of it are missing"] if is_cut else [],
    }


def _fuller_dumps(header: DumpHeader, memory_bytes: int | None) -> list[str]:
    """Return which kinds of dump would have held more, and how large a page file each takes.

    Source: learn.microsoft.com, "Overview of memory dump file options for Windows" and "Active Memory Dump".
    """
    here = f", {memory_bytes / 1e6 + _DUMP_FILE_EXTRA_MB:,.0f} MB on this machine" if memory_bytes else ""
    page_file = f"takes a page file on the boot volume of the size of memory plus {_DUMP_FILE_EXTRA_MB} MB{here}"
    kernel = (
        "a kernel or automatic memory dump (CrashDumpEnabled 2 or 7) also holds the kernel's memory, headers of drivers"
        " included; takes a page file of the size of that, up to a third of memory, or one that the system manages"
    )
    processes = (
        "an active (CrashDumpEnabled 1 with FilterPages 1) or complete memory dump (CrashDumpEnabled 1) also holds the"
        f" processes; {page_file}"
    )
    if header.dump_type == DumpType.TRIAGE:
        return [kernel, processes]
    return [processes] if header.dump_type in _KERNEL_ALONE else []


def _time(ticks: int | None) -> str | None:
    """Return a FILETIME as ISO 8601 in UTC; None if it is none of a Windows machine's life."""
    if not ticks or ticks > 1 << 62:
        return None
    try:
        return (_EPOCH + timedelta(microseconds=ticks // 10)).isoformat()
    except OverflowError:
        return None


def _read_build_lab(memory: ByteView, block: DebuggerData | None) -> str | None:
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
