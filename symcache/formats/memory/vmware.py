"""VMware's saved states (``.vmss``, ``.vmsn``): how the memory in the ``.vmem`` beside them is laid out."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput, UnknownFormat
from symcache.formats.memory.kinds import VMWARE_MAGICS
from symcache.formats.memory.ranges import MOST_RANGES, MemoryRange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

_GROUP_BYTES = 80
_MOST_GROUPS = 4096
_MOST_TAGS = 4 * MOST_RANGES
_PAGE_BYTES = 0x1000
_LONGEST_NUMBER_BYTES = 8
_STREAMS = {62, 63}  # sizes that stand for a longer one behind the name
_REGION = {b"regionPPN", b"regionPageNum", b"regionSize"}


def read_vmware_ranges(view: ByteView) -> tuple[MemoryRange, ...]:
    """Return the ranges of memory in the ``.vmem`` that belongs to the saved state *view*; none if it is flat.

    Raises:
        UnknownFormat: Not a saved state.
        InputError: It contradicts itself, or ends early.

    Layout: magic, u32, number of groups u32; groups {name 64, offset of its tags u64, size u64}. Tag: flags u8, length
    of the name u8, name, indexes u32 (number in bits 6 and 7 of the flags), value (length in bits 0 to 5; 62 and 63:
    length u64, length in memory u64, u16, value); 0 and 0 end them. Of group ``memory``: regionsCount, and by index
    regionPPN, regionPageNum and regionSize in pages.
    Source: volatility3's layer and the published work on ``vmss2core``; version 0 has lengths of 4 bytes.
    """
    head = view.read(0, min(view.size, 12))
    if not head.startswith(VMWARE_MAGICS) or len(head) < 12:
        raise UnknownFormat("not a saved state of a VMware machine", offset=0)
    groups = struct.unpack_from("<I", head, 8)[0]
    if groups > _MOST_GROUPS:
        raise MalformedInput(f"a saved state of {groups} groups", offset=8)
    memory = _find_memory(view, groups)
    numbers: dict[tuple[bytes, int], int] = {}
    count = 0
    for name, index, value in _tags(view, memory, 4 if head[0] & 0xF == 0 else 8):
        if name == b"regionsCount":
            count = value
        elif name in _REGION and index is not None:
            numbers[name, index] = value
    if count > MOST_RANGES:
        raise MalformedInput(f"memory of {count} regions", offset=memory)
    try:
        regions = [
            [numbers[name, index] for name in (b"regionPPN", b"regionSize", b"regionPageNum")] for index in range(count)
        ]
    except KeyError:
        raise MalformedInput("a region of memory lacks its address, size or place", offset=memory) from None
    return tuple(MemoryRange(*(number * _PAGE_BYTES for number in region)) for region in regions)


def _find_memory(view: ByteView, groups: int) -> int:
    """Return the offset of the tags of group ``memory``."""
    table = view.read(12, groups * _GROUP_BYTES)
    for at in range(0, len(table), _GROUP_BYTES):
        if table[at : at + 64].partition(b"\0")[0] == b"memory":
            return int.from_bytes(table[at + 64 : at + 72], "little")
    raise MalformedInput("the saved state says nothing of memory", offset=12)


def _tags(view: ByteView, at: int, length_bytes: int) -> Iterator[tuple[bytes, int | None, int]]:
    """Yield name, first index and value of each tag whose value is a number, 0 in place of others."""
    for _ in range(_MOST_TAGS):
        flags, name_bytes = view.read(at, 2)
        if not flags and not name_bytes:
            return
        name = view.read(at + 2, name_bytes)
        at += 2 + name_bytes
        indexes = flags >> 6
        index = int.from_bytes(view.read(at, 4), "little") if indexes else None
        at += 4 * indexes
        size = flags & 0x3F
        if size in _STREAMS:
            size = int.from_bytes(view.read(at, length_bytes), "little")
            at += 2 * length_bytes + 2 + size
            yield name, index, 0
        else:
            yield name, index, int.from_bytes(view.read(at, min(size, _LONGEST_NUMBER_BYTES)), "little")
            at += size
    raise MalformedInput(f"group memory has more than {_MOST_TAGS} tags", offset=at)
