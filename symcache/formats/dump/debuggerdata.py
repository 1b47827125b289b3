"""The kernel's debugger data block (KDDEBUGGER_DATA64), as far as modules and processes need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError

if TYPE_CHECKING:
    from symcache.formats.view import ByteView

__all__ = ["DEBUGGER_DATA_SIZE", "DebuggerData", "parse_debugger_data", "read_debugger_data"]


DEBUGGER_DATA_SIZE = 0x2B0
_TAG = b"KDBG"


@dataclass(frozen=True, slots=True)
class DebuggerData:
    """Addresses of the kernel's variables and offsets within its structures; 0 where the block is too short.

    Attributes:
        kernel_base_va: Where the kernel's image is loaded.
        loaded_modules_va: Head of PsLoadedModuleList.
        active_processes_va: Head of PsActiveProcessHead.
        unloaded_drivers_va: Address of the variable MmUnloadedDrivers.
        last_unloaded_driver_va: Address of the variable MmLastUnloadedDriver.
        build_lab_va: Address of the text NtBuildLab.
        peb_offset: Of Peb in EPROCESS, in bytes.
        directory_table_base_offset: Of DirectoryTableBase in EPROCESS, in bytes.
    """

    kernel_base_va: int
    loaded_modules_va: int
    active_processes_va: int
    unloaded_drivers_va: int
    last_unloaded_driver_va: int
    build_lab_va: int
    peb_offset: int
    directory_table_base_offset: int


def parse_debugger_data(data: bytes, *, pointer_size: int) -> DebuggerData | None:
    """Return the block; None if it does not have its tag, as where Windows keeps it encoded.

    Args:
        data: Its first bytes, `DEBUGGER_DATA_SIZE` if there are as many.
        pointer_size: Bytes of a pointer of the machine; the block's own are 8, sign-extended where it is 4.

    Layout: LIST_ENTRY64, ``KDBG`` at 0x10, size u32 at 0x14, then u64 pointers and u16 offsets.
    Source: rekall and kdmp-parser-rs; the tag and the offsets below were seen in dumps of builds 19041 and 22000.
    """
    if data[0x10:0x14] != _TAG:
        return None
    size = int.from_bytes(data[0x14:0x18], "little")
    data = data[: max(size, 0x18)]

    def pointer(offset: int) -> int:
        return int.from_bytes(data[offset : offset + pointer_size], "little") if offset + 8 <= len(data) else 0

    def half(offset: int) -> int:
        return int.from_bytes(data[offset : offset + 2], "little") if offset + 2 <= len(data) else 0

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


def read_debugger_data(space: ByteView, address: int, *, pointer_size: int) -> DebuggerData | None:
    """Return the block at *address*; None if it is not there or has no tag."""
    if not address:
        return None
    data = b""
    for length in (DEBUGGER_DATA_SIZE, 0x238, 0x58):
        try:
            data = space.read(address, length)
        except InputError:
            continue
        break
    return parse_debugger_data(data, pointer_size=pointer_size)
