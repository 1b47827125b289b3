"""Physical memory as ranges of a file, by the byte; holes of sparse files are known without being read."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from symcache.errors import Absence, MalformedInput, NotInDump
from symcache.formats.view import read_in_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from symcache.formats.view import ByteView

MOST_RANGES = 1 << 16
"""More ranges than any machine's memory falls into."""

_END_OF_MEMORY = 1 << 52  # processors have no wider physical addresses


class MachineMemory(Protocol):
    """Physical memory that can be read by address, and walked over where there is any."""

    @property
    def size(self) -> int:
        """Address after that of the last byte."""
        ...

    @property
    def byte_count(self) -> int:
        """How many bytes of memory the file promises."""
        ...

    @property
    def range_count(self) -> int:
        """How many ranges it falls into."""
        ...

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from physical address *offset*; raise `NotInDump` where the file lacks one."""
        ...

    def find_bytes(self, address: int) -> tuple[int, int] | None:
        """Return address and number of the bytes that are there next from *address* on; None if no more are.

        What is left out by a sparse file counts as not being there, though it can be read as zeros.
        """
        ...


@dataclass(frozen=True, slots=True, order=True)
class MemoryRange:
    """Successive bytes of memory that lie together in the file."""

    start: int  # physical address
    size: int  # in bytes
    offset: int  # in the file


class RangedMemory:
    """Memory in *ranges* of a file, which may overlap: of two the one that begins first is taken, then the other's end.

    Raises:
        MalformedInput: A range lies beyond every machine's memory, or there are more than `MOST_RANGES`.
    """

    def __init__(self, view: ByteView, ranges: Iterable[MemoryRange]) -> None:
        self._view = view
        self._ranges = _part(ranges)
        self._starts = [each.start for each in self._ranges]
        self._skip_hole: Callable[[int], int] | None = getattr(view, "skip_hole", None)
        self.range_count = len(self._ranges)
        self.byte_count = sum(each.size for each in self._ranges)
        self.missing_bytes = sum(
            each.size - min(max(view.size - each.offset, 0), each.size) for each in self._ranges
        )  # promised, and not in the file

    @property
    def size(self) -> int:
        last = self._ranges[-1] if self._ranges else None
        return 0 if last is None else last.start + last.size

    def read(self, offset: int, length: int) -> bytes:
        return read_in_parts(self._read_some, offset, length)

    def _read_some(self, address: int, length: int) -> bytes:
        index = bisect_right(self._starts, address) - 1
        found = self._ranges[index] if index >= 0 else None
        within = 0 if found is None else address - found.start
        if found is None or within >= found.size:
            raise NotInDump("the image does not hold this physical memory", address=address)
        length = min(length, found.size - within)
        at = found.offset + within
        if at + length > self._view.size:
            problem = "the image is cut short before this physical memory"
            raise NotInDump(problem, address=address, absence=Absence.TRUNCATED)
        return self._view.read(at, length)

    def find_bytes(self, address: int) -> tuple[int, int] | None:
        for index in range(max(bisect_right(self._starts, address) - 1, 0), len(self._ranges)):
            found = self._ranges[index]
            within = max(address - found.start, 0)
            end = min(found.size, self._view.size - found.offset)
            if within < end and self._skip_hole is not None:
                within = self._skip_hole(found.offset + within) - found.offset
            if within < end:
                return found.start + within, end - within
        return None


def _part(ranges: Iterable[MemoryRange]) -> list[MemoryRange]:
    """Return *ranges* by address without what of them overlaps."""
    parted: list[MemoryRange] = []
    end = 0
    for each in sorted(ranges):
        if each.start + each.size > _END_OF_MEMORY:
            raise MalformedInput(f"a range of memory at {each.start:#x} lies beyond every machine's memory")
        skipped = max(end - each.start, 0)
        if skipped < each.size:
            parted.append(MemoryRange(each.start + skipped, each.size - skipped, each.offset + skipped))
            end = each.start + each.size
    if len(parted) > MOST_RANGES:
        raise MalformedInput(f"{len(parted)} ranges of memory are more than any machine's falls into")
    return parted
