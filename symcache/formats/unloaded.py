"""Drivers that had been unloaded, as the kernel remembers them: a short name and where they were."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.loaderlist import read_pointer, read_unicode_string

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.debuggerdata import DebuggerData
    from symcache.formats.view import ByteView

__all__ = ["UnloadedDriver", "parse_unloaded_drivers", "read_unloaded_drivers"]

_SLOTS = 50
_NAME_UNITS = 12


@dataclass(frozen=True, slots=True)
class UnloadedDriver:
    """A driver that is no longer there; nothing in it identifies a file.

    Attributes:
        name: File name, in triage dumps cut to 12 characters; None if its page is not there.
        start: Address it was loaded at.
        end: Address after its last byte.
    """

    name: str | None
    start: int
    end: int


def parse_unloaded_drivers(view: ByteView, offset: int, pointer_size: int) -> Iterator[UnloadedDriver]:
    """Yield the unloaded drivers of a triage dump, in file order.

    Raises:
        TruncatedInput: The dump ends within their list.

    Layout: count u32 in a slot of a pointer's size; entries {UNICODE_STRING, WCHAR[12], start, end}, 0x38 bytes in 64
    bit dumps and 0x28 in others. The name's length counts bytes; its pointer means nothing here.
    Source: rizin and Ghidra; real dumps of builds 19041 and 22000.
    """
    count = int.from_bytes(view.read(offset, 4), "little")
    string_size = 2 * pointer_size
    size = string_size + 2 * _NAME_UNITS + 2 * pointer_size
    for index in range(min(count, _SLOTS)):
        raw = view.read(offset + pointer_size + index * size, size)
        length = min(int.from_bytes(raw[:2], "little"), 2 * _NAME_UNITS)
        text = raw[string_size : string_size + length].decode("utf-16-le", "replace").partition("\0")[0]
        start, end = (
            int.from_bytes(raw[size - left : size - left + pointer_size], "little")
            for left in (2 * pointer_size, pointer_size)
        )
        if text or start:
            yield UnloadedDriver(text or None, start, end)


def read_unloaded_drivers(space: ByteView, block: DebuggerData, pointer_size: int) -> Iterator[UnloadedDriver]:
    """Yield the unloaded drivers that the kernel's memory holds, oldest first; none if their array is not there.

    Layout: array of 50 slots {UNICODE_STRING, start, end, time u64}, 0x28 bytes with 64 bit and 0x18 with 32; a ring
    whose next slot MmLastUnloadedDriver counts.
    Source: volatility3's unloadedmodules.
    """
    if not block.unloaded_drivers_va:
        return
    size = 4 * pointer_size + 8
    try:
        array = _find_array(space, block.unloaded_drivers_va, pointer_size)
    except InputError:
        return
    if array is None:
        return
    first = _next_slot(space, block.last_unloaded_driver_va)
    for slot in range(_SLOTS):
        at = array + (first + slot) % _SLOTS * size
        try:
            raw = space.read(at, size)
        except InputError:
            continue
        start, end = (
            int.from_bytes(raw[offset : offset + pointer_size], "little")
            for offset in (2 * pointer_size, 3 * pointer_size)
        )
        if start:
            yield UnloadedDriver(_name(space, at, pointer_size), start, end)


def _find_array(space: ByteView, address: int, pointer_size: int) -> int | None:
    """Return where the array begins: where the variable at *address* points, or *address* itself.

    Windows gives the variable's address; tools that make dumps of other memory give the array's.
    """
    kernel_half = 1 << (8 * pointer_size - 1)
    array = read_pointer(space, address, pointer_size)
    if array >= kernel_half:
        return array
    first = space.read(address, 2 * pointer_size)
    length, room = (int.from_bytes(first[at : at + 2], "little") for at in (0, 2))
    buffer = int.from_bytes(first[pointer_size:], "little")
    return address if 0 < length <= room and buffer >= kernel_half else None


def _next_slot(space: ByteView, address: int) -> int:
    try:
        return int.from_bytes(space.read(address, 4), "little") % _SLOTS
    except InputError:
        return 0


def _name(space: ByteView, address: int, pointer_size: int) -> str | None:
    try:
        return read_unicode_string(space, address, pointer_size) or None
    except InputError:
        return None
