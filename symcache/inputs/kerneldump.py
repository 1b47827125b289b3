"""Windows kernel dumps: the kernel's modules, those unloaded, and on request those of processes."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, UnknownFormat
from symcache.formats.dump.context import (
    faulting_instruction,
    layout_of,
    read_header_context,
    read_header_exception,
    read_stack_words,
)
from symcache.formats.dump.header import PRODUCTS, DumpAttribute, DumpType, bugcheck_name, read_dump_header
from symcache.formats.dump.kernel import open_kernel_space
from symcache.formats.dump.physical import PAGE_SIZE, PhysicalMemory, Storage, read_dump_body
from symcache.formats.dump.triage import TriageMemory, read_triage
from symcache.formats.filetime import TICKS_PER_S, iso_time
from symcache.formats.pe.image import machine_name
from symcache.identity import base_name, source_name
from symcache.inputs.crashstack import find_crash_stack
from symcache.inputs.image import image_module, loader_key, read_loaded_image
from symcache.inputs.kernelmodules import list_kernel_modules, module_memory, read_build_lab, unloaded_module
from symcache.inputs.kernelsearch import scan_for_kernel
from symcache.inputs.records import ImageUse, Input, InputKind, KernelPdbWanted, Module, Unreadable
from symcache.inputs.usermodules import DumpProcesses, read_kernel_layout

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from symcache.formats.dump.header import DumpHeader
    from symcache.formats.dump.paging import AddressSpace
    from symcache.formats.dump.physical import DumpBody, PageMap
    from symcache.formats.dump.triage import TriageDriver
    from symcache.formats.pe.image import Image
    from symcache.formats.view import ByteView
    from symcache.inputs.records import CrashStack, ProcessSelection, Record

# Full, bitmap full, and what .dump /ka and /f of the debugger write: they claim to hold the memory of processes.
_COMPLETE = frozenset({1, 5, 9, 0xA})


def read_kernel_dump(view: ByteView, path: str, *, user: ProcessSelection | None = None) -> Iterator[Record]:
    """Yield the dump, the kernel's modules in list order, those unloaded, and those of the processes asked for.

    Before the processes, *user*, come a `CrashStack` and a `KernelPdbWanted`. Memory stays small whatever the size of
    the dump, and time depends on the number of modules.

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
    details["build_lab"] = read_build_lab(kernel.space, kernel.debugger_data)
    details["cut_short"] = pages.end_offset > view.size
    details["problems"] += [*body.problems, *filter(None, [kernel.list_problem])]
    yield Input(path, InputKind.KERNEL_DUMP, details)

    @cache
    def sessions() -> tuple[AddressSpace, ...]:
        return tuple(DumpProcesses(kernel, None, pages.page_count).session_spaces())

    listed = 0
    nt: Module | None = None
    loaded: list[tuple[Module, int]] = []
    if kernel.list_found:
        for record in list_kernel_modules(kernel, header.build, path, sessions, loaded):
            listed += isinstance(record, Module) and not record.unloaded
            if nt is None and isinstance(record, Module):
                nt = record
            yield record
    if not listed:
        found = scan_for_kernel(kernel, memory, pages, (header.debugger_data_va, header.loaded_modules_va))
        if found is not None:
            yield found
        problem = kernel.list_problem or "no entry of the list of modules can be read"
        rest = "the kernel's image was not found either" if found is None else "only the kernel was found, by its image"
        yield Unreadable(path, f"{problem}; {rest}")
    if (stack := _crash_stack(view, header, kernel.space, loaded)) is not None:
        yield stack
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


def open_module_memory(view: ByteView) -> Callable[[Module], Iterator[ByteView]]:
    """Return what yields the memory that a module of the dump may lie in, by address, likeliest first.

    Processes are found without the kernel's PDB, and only for the first module of one, or of a session.

    Raises:
        InputError: No memory of it can be read.
    """
    header = read_dump_header(view)
    body = read_dump_body(view, header)
    if body.storage is Storage.TRIAGE:
        triage = TriageMemory(view, read_triage(view, header))
        return lambda _: iter([triage])
    if body.pages is None:
        return lambda _: iter([])
    kernel = open_kernel_space(PhysicalMemory(view, body.pages), header)
    return module_memory(kernel, body.pages.page_count)


def _crash_stack(
    view: ByteView,
    header: DumpHeader,
    memory: ByteView,
    loaded: Sequence[tuple[Module, int]],
    kept: tuple[int, int, int] = (0, 0, 0),
) -> CrashStack | None:
    """Return what of the kernel the crash is about; None if the dump holds neither an address of it nor a stack.

    The header's CONTEXT is that of the processor that crashed: where KeBugCheckEx was called, or, with an exception
    that nothing handled, where that was raised. *kept* are address, offset and size of the stack that a triage dump
    keeps; it is read from its start where the registers lead elsewhere.
    """
    layout = layout_of(header.machine, is_64bit=header.is_64bit)
    context = None if layout is None else read_header_context(view, layout)
    named = [] if context is None else [context.instruction, context.link]
    instructions = [
        faulting_instruction(header.bugcheck_code, header.bugcheck_parameters),
        *named,
        read_header_exception(view, is_64bit=header.is_64bit),
        *header.bugcheck_parameters,
    ]
    top, _, size = kept
    end = top + size
    if context is not None and (not top or top <= context.stack < end):
        top = context.stack
    words = () if layout is None else read_stack_words(memory, top, layout, end=end or None)
    return find_crash_stack(instructions, words, loaded)


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
    details["build_lab"] = read_build_lab(memory, triage.debugger_data(view))
    details["cut_short"] = max(triage.size_of_dump, triage.valid_offset + 4) > view.size
    details["problems"] += triage.problems
    yield Input(path, InputKind.TRIAGE_DUMP, details)
    loaded: list[tuple[Module, int]] = []
    try:
        for driver in triage.drivers(view):
            module = _triage_module(driver, memory)
            if driver.problem is None:
                loaded.append((module, driver.size_of_image))
            yield module
    except InputError as error:
        yield Unreadable(path, f"the driver list is cut off: {error.problem}", error.offset)
    try:
        for unloaded in triage.unloaded_drivers(view):
            yield unloaded_module(unloaded)
    except InputError as error:
        yield Unreadable(path, f"the list of unloaded drivers is cut off: {error.problem}", error.offset)
    if (stack := _crash_stack(view, header, memory, loaded, triage.stack)) is not None:
        yield stack
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
_LIVE_SYSTEM_DUMP = 0x161
# Dumps that somebody wanted, so that no code of the stack is to blame.
# Source: learn.microsoft.com, "Bug Check 0xE2", "Bug Check 0x80", "Bug Check 0x161".
_ON_DEMAND = {
    0xE2: "by the keyboard or a debugger",
    0x80: "by a non-maskable interrupt, as administrators and hypervisors send it; else the hardware is at fault",
    _LIVE_SYSTEM_DUMP: "without a crash, of a system that went on",
}


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
        "product": PRODUCTS.get(header.product_type or 0),
        "live": live,
        "bugcheck_code": None if code is None else f"{code:#x}",
        "bugcheck_name": None if code is None else bugcheck_name(code),
        "on_demand": _ON_DEMAND.get(code or 0),
        "bugcheck_parameters": [f"{parameter:#x}" for parameter in header.bugcheck_parameters],
        "system_time": iso_time(header.system_time),
        "uptime_s": None if header.uptime is None else header.uptime / TICKS_PER_S,
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
