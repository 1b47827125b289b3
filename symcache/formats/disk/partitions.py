"""The partitions of a disk, read by dissect.volume: GPT, with sectors of 512 or 4,096 bytes, and MBR."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput
from symcache.formats.disk.bounded import ViewFile, guarded

if TYPE_CHECKING:
    from uuid import UUID

    from symcache.formats.disk.bounded import Budget
    from symcache.formats.view import ByteView

_MOST_PARTITIONS = 1024
_SECTORS = (512, 4096)


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition: its number from 1, and where it lies, in bytes."""

    number: int
    offset: int
    size: int
    guid: UUID | None = None  # its own; None in an MBR


def find_partitions(view: ByteView, budget: Budget) -> list[Partition]:
    """Return the partitions of the disk *view* that begin on it, in the order of its table.

    Raises:
        InputError: It has no table that can be read.
        ModuleNotFoundError: dissect.volume is not installed.
    """
    problem: InputError | None = None
    for sector_bytes in _SECTORS:
        try:
            with guarded("partition table"):
                return _find(view, budget, sector_bytes)
        except InputError as error:
            problem = problem or error
    raise problem or MalformedInput("it has no partition table")


def _find(view: ByteView, budget: Budget, sector_bytes: int) -> list[Partition]:
    from dissect.volume.disk.schemes import GPT, MBR  # noqa: PLC0415 - of the extra

    logging.getLogger("dissect").setLevel(logging.CRITICAL)
    file = ViewFile(view, budget)
    head = view.read(0, 512)
    # A header at the second sector, of which the protective entry tells; some tools leave that out of the first four.
    is_gpt = any(head[at + 4] == 0xEE for at in range(446, 510, 16))
    if is_gpt:
        count = int.from_bytes(view.read(sector_bytes + 80, 4), "little")
        if view.read(sector_bytes, 8) != b"EFI PART" or count > _MOST_PARTITIONS:
            raise MalformedInput("its GUID partition table is damaged", offset=sector_bytes)
    scheme = (GPT if is_gpt else MBR)(file, sector_size=sector_bytes)
    if len(scheme.partitions) > _MOST_PARTITIONS:
        raise MalformedInput(f"it has {len(scheme.partitions)} partitions")
    return [
        Partition(
            int(each.number),
            int(each.offset),
            # dissect.volume counts one sector too few in a GUID partition table
            int(each.size) + (sector_bytes if is_gpt else 0),
            each.guid if is_gpt else None,
        )
        for each in scheme.partitions
        if 0 < each.offset < view.size
    ]
