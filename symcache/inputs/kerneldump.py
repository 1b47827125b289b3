"""Windows kernel dumps: the kernel's modules, those unloaded, and on request those of processes."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from symcache.errors import UnknownFormat
from symcache.formats.dump.header import read_dump_header
from symcache.formats.dump.kernel import open_kernel_space
from symcache.formats.dump.physical import PhysicalMemory, Storage, read_dump_body
from symcache.inputs.dumpdetails import header_details, read_build_lab
from symcache.inputs.kernelmodules import kernel_modules, scan_for_kernel
from symcache.inputs.records import Input, InputKind, KernelPdbWanted, Module, Unreadable
from symcache.inputs.triagedump import read_triage_dump
from symcache.inputs.usermodules import DumpProcesses, read_kernel_layout

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.dump.header import DumpHeader
    from symcache.formats.dump.kernel import KernelSpace
    from symcache.formats.dump.paging import AddressSpace
    from symcache.formats.dump.physical import DumpBody, PageMap
    from symcache.formats.dump.processes import KernelLayout
    from symcache.formats.view import ByteView
    from symcache.inputs.records import ProcessSelection, Record

__all__ = ["read_kernel_dump"]


# Full, bitmap full, and what .dump /ka and /f of the debugger write: they claim to hold the memory of processes.
_COMPLETE = frozenset({1, 5, 9, 0xA})


def read_kernel_dump(view: ByteView, path: str, *, user: ProcessSelection | None = None) -> Iterator[Record]:
    """Yield the dump, the kernel's modules in list order, those unloaded, and those of the processes asked for.

    Before the processes comes a `KernelPdbWanted`. Memory stays small whatever the size of the dump, and time depends
    on the number of modules.

    Args:
        view: The dump.
        path: As the user named it.
        user: Processes whose modules are wanted; None for the kernel's alone.

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
        yield from read_triage_dump(view, path, header)
    elif body.pages is None:
        yield Input(path, InputKind.KERNEL_DUMP, header_details(header, body.storage, view.size))
        yield Unreadable(path, "the dump is a header alone: it tells the bug check, but no modules", header.size)
    else:
        yield from _read_memory_dump(view, path, header, body, body.pages, user)


def _read_memory_dump(
    view: ByteView,
    path: str,
    header: DumpHeader,
    body: DumpBody,
    pages: PageMap,
    user: ProcessSelection | None,
) -> Iterator[Record]:
    memory = PhysicalMemory(view, pages)
    kernel = open_kernel_space(memory, header)
    yield Input(path, InputKind.KERNEL_DUMP, _details(view, header, body, pages, kernel))

    @cache
    def sessions() -> tuple[AddressSpace, ...]:
        return tuple(DumpProcesses(kernel, None, pages.page_count).session_spaces())

    listed = 0
    nt: Module | None = None
    if kernel.list_found:
        for record in kernel_modules(kernel, header.build, path, sessions):
            listed += isinstance(record, Module) and not record.unloaded
            if nt is None and isinstance(record, Module):
                nt = record
            yield record
    if not listed:
        yield from _scan(kernel, memory, pages, header, path)
    if user is not None and (not user.if_complete or header.dump_type in _COMPLETE):
        layout: KernelLayout | None = None
        if nt is not None:
            yield (request := KernelPdbWanted(nt))
            layout = None if request.pdb is None else read_kernel_layout(request.pdb)
        for record in DumpProcesses(kernel, layout, pages.page_count).modules(user, path):
            if not (isinstance(record, Unreadable) and user.if_complete):
                yield record
    if pages.end_offset > view.size:
        missing = pages.end_offset - view.size
        yield Unreadable(path, f"the dump is cut short: {missing} of {pages.end_offset} bytes are missing", view.size)


def _scan(
    kernel: KernelSpace, memory: ByteView, pages: PageMap, header: DumpHeader, path: str
) -> Iterator[Module | Unreadable]:
    """Yield the kernel alone, if it can be found, and why that is all."""
    found = scan_for_kernel(kernel, memory, pages, (header.debugger_data_va, header.loaded_modules_va))
    if found is not None:
        yield found
    problem = kernel.list_problem or "no entry of the list of modules can be read"
    rest = "only the kernel was found, by its image" if found is not None else "the kernel's image was not found either"
    yield Unreadable(path, f"{problem}; {rest}")


def _details(view: ByteView, header: DumpHeader, body: DumpBody, pages: PageMap, kernel: KernelSpace) -> dict[str, Any]:
    details = header_details(header, body.storage, view.size)
    details["build_lab"] = read_build_lab(kernel.space, kernel.debugger_data)
    details["paging"] = kernel.space.mode.name
    details["pages"] = pages.page_count
    details["runs"] = pages.run_count
    details["cut_short"] = pages.end_offset > view.size
    details["problems"] += body.problems
    if kernel.list_problem is not None:
        details["problems"].append(kernel.list_problem)
    return details
