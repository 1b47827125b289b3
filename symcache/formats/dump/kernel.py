"""The kernel of a dump: its debugger data block, its page tables, and where its list of modules begins."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, UnknownFormat
from symcache.formats.dump.header import Machine
from symcache.formats.dump.modules import KLDR32, KLDR64, read_pointer
from symcache.formats.dump.paging import ARM64, PAE, X64, X64_LA57, X86, AddressSpace, PageTables
from symcache.formats.view import parse_uint

if TYPE_CHECKING:
    from symcache.formats.dump.header import DumpHeader
    from symcache.formats.dump.modules import LoaderLayout
    from symcache.formats.dump.paging import PagingMode
    from symcache.formats.view import ByteView

DEBUGGER_DATA_SIZE = 0x2B0
_TAG = b"KDBG"


@dataclass(frozen=True, slots=True)
class DebuggerData:
    """Addresses of the kernel's variables and offsets within its structures; 0 where the block is too short."""

    kernel_base_va: int  # where the kernel's image is loaded
    loaded_modules_va: int  # head of PsLoadedModuleList
    active_processes_va: int  # head of PsActiveProcessHead
    unloaded_drivers_va: int  # address of the variable MmUnloadedDrivers
    last_unloaded_driver_va: int  # address of the variable MmLastUnloadedDriver
    build_lab_va: int  # address of the text NtBuildLab
    peb_offset: int  # of Peb in EPROCESS, in bytes
    directory_table_base_offset: int  # of DirectoryTableBase in EPROCESS, in bytes


def parse_debugger_data(data: bytes, *, pointer_size: int) -> DebuggerData | None:
    """Return the block from its first `DEBUGGER_DATA_SIZE` bytes, or fewer if there are not as many.

    None if it does not have its tag, as where Windows keeps it encoded. Its pointers have 8 bytes, sign-extended where
    those of the machine have 4.

    Layout: LIST_ENTRY64, ``KDBG`` at 0x10, size u32 at 0x14, then u64 pointers and u16 offsets.
    Source: rekall and kdmp-parser-rs; the tag and the offsets below were seen in dumps of builds 19041 and 22000.
    """
    if data[0x10:0x14] != _TAG:
        return None
    size = parse_uint(data, 0x14, 4)
    data = data[: max(size, 0x18)]

    def pointer(offset: int) -> int:
        return parse_uint(data, offset, pointer_size) if offset + 8 <= len(data) else 0

    def half(offset: int) -> int:
        return parse_uint(data, offset, 2) if offset + 2 <= len(data) else 0

    return DebuggerData(
        kernel_base_va=pointer(0x18),
        loaded_modules_va=pointer(0x48),
        active_processes_va=pointer(0x50),
        unloaded_drivers_va=pointer(0x220),
        last_unloaded_driver_va=pointer(0x228),
        build_lab_va=pointer(0x208),
        peb_offset=half(0x2AA),
        directory_table_base_offset=half(0x2AE),
    )


def _read_debugger_data(space: ByteView, address: int, *, pointer_size: int) -> DebuggerData | None:
    """Return the block at *address*; None if it is not there or has no tag."""
    if not address:
        return None
    for length in (DEBUGGER_DATA_SIZE, 0x238, 0x58):
        try:
            return parse_debugger_data(space.read(address, length), pointer_size=pointer_size)
        except InputError:
            continue
    return None


_UNREADABLE, _IMPLAUSIBLE, _POSSIBLE, _SOUND = range(4)


@dataclass(frozen=True, slots=True)
class KernelSpace:
    """The kernel's part of a dump's virtual memory."""

    space: AddressSpace  # its address space, in the mode that fits best
    spaces: tuple[AddressSpace, ...]  # the same in every mode that was tried; more than one only if none is sure
    pointer_size: int
    loaded_modules_va: int  # head of the list of loaded modules
    active_processes_va: int  # head of the list of processes; 0 if it is not known
    debugger_data: DebuggerData | None  # the kernel's debugger data; None if it is not there or encoded
    list_found: bool  # the head of the list can be read and looks like one
    list_problem: str | None  # why the list cannot be read; None if *list_found*

    @property
    def layout(self) -> LoaderLayout:
        """Layout of the kernel's loader entries."""
        return KLDR64 if self.pointer_size == 8 else KLDR32


def open_kernel_space(memory: ByteView, header: DumpHeader) -> KernelSpace:
    """Return the kernel's address space in physical *memory*; raise `UnknownFormat` for a machine of another kind.

    No header says everything: PAE may be marked wrongly and 5-level tables are not marked at all. Each mode the
    machine can have is tried, and the one that leads to a sound list of modules is taken.
    """
    pointer_size = 8 if header.is_64bit else 4
    tables = PageTables(memory)
    best = None
    spaces = []
    for mode in _possible_modes(header):
        space = AddressSpace(tables, mode, header.directory_table_base)
        spaces.append(space)
        block = _read_debugger_data(space, header.debugger_data_va, pointer_size=pointer_size)
        heads = [header.loaded_modules_va]
        if block is not None and block.loaded_modules_va not in {0, *heads}:
            heads.append(block.loaded_modules_va)
        for head in heads:
            points = _judge_head(space, head, pointer_size)
            if best is None or points > best[0]:
                best = points, space, head, block
        if best is not None and best[0] == _SOUND:
            break
    assert best is not None
    points, space, head, block = best
    return KernelSpace(
        space=space,
        spaces=(space,) if points == _SOUND else tuple(spaces),
        pointer_size=pointer_size,
        loaded_modules_va=head,
        active_processes_va=header.active_processes_va or (block.active_processes_va if block is not None else 0),
        debugger_data=block,
        list_found=points >= _POSSIBLE,
        list_problem=None if points >= _POSSIBLE else _head_problem(space, head, pointer_size),
    )


def _possible_modes(header: DumpHeader) -> tuple[PagingMode, ...]:
    machine = header.machine
    if machine in {Machine.ARM, Machine.IA64}:
        name = Machine(machine).name
        raise UnknownFormat(
            f"the dump is of an {name} machine, whose page tables are not read here",
            offset=0x30 if header.is_64bit else 0x20,
        )
    if not header.is_64bit:
        return (PAE, X86) if header.pae_enabled else (X86, PAE)
    if machine == Machine.ARM64:
        return (ARM64,)
    if machine == Machine.X64:
        return (X64, X64_LA57)
    return (X64, X64_LA57, ARM64)


def _judge_head(space: AddressSpace, head: int, pointer_size: int) -> int:
    """Return how much the memory at *head* looks like the head of a list."""
    if head < space.mode.kernel_start or head % pointer_size:
        return _UNREADABLE
    try:
        links = [read_pointer(space, head + offset, pointer_size) for offset in (0, pointer_size)]
    except InputError:
        return _UNREADABLE
    if links[0] < space.mode.kernel_start or links[0] % pointer_size or links[0] == head:
        return _IMPLAUSIBLE
    for link, back in zip(links, (pointer_size, 0), strict=True):
        try:
            if read_pointer(space, link + back, pointer_size) == head:
                return _SOUND
        except InputError:
            continue
    return _POSSIBLE


def _head_problem(space: AddressSpace, head: int, pointer_size: int) -> str:
    if not head:
        return "the header does not say where the list of modules is"
    try:
        space.read(head, 2 * pointer_size)
    except InputError as error:
        return f"the head of the list of modules at {head:#x} cannot be read: {error.problem}"
    return f"there is no list of modules at {head:#x}"
