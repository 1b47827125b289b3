"""Which physical pages a kernel dump holds and where in the file: as ranges or as a bitmap, never page by page."""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from symcache.errors import MalformedInput, TruncatedInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

__all__ = ["PAGE_SIZE", "BitmapPageMap", "PageMap", "Place", "RangePageMap"]


PAGE_SIZE = 0x1000

_SPAN_BYTES = 0x1000
_SPAN_BITS = _SPAN_BYTES * 8
_CHUNK_SPANS = 64
_KEPT_SPANS = 64
_MOST_BITS = 1 << 36  # 256 TiB of physical memory


class Place(NamedTuple):
    """Where a page of physical memory lies."""

    offset: int  # offset of the page in the file, in bytes
    pages: int  # how many pages follow one another from there, this one included; at least 1


class PageMap(ABC):
    """The pages that a dump promises to hold, packed one after the other.

    Args:
        first_offset: Offset of the first page in the file, in bytes; not aligned.

    Attributes:
        run_count: How many stretches of successive pages there are.
        end_pfn: Number after that of the last page.
    """

    run_count = 0
    end_pfn = 0

    def __init__(self, first_offset: int) -> None:
        self._first_offset = first_offset
        self._ranks = array("Q", [0])  # pages before each range or span, and at last all of them

    @property
    def page_count(self) -> int:
        """How many pages there are."""
        return self._ranks[-1]

    @property
    def end_offset(self) -> int:
        """Offset in the file of the byte after the last page."""
        return self._first_offset + self.page_count * PAGE_SIZE

    @abstractmethod
    def find(self, pfn: int) -> Place | None:
        """Return where page *pfn* lies; None if the dump does not hold it."""

    @abstractmethod
    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield number of the first page and number of pages of each stretch, in file order; long ones in parts."""

    def _place(self, rank: int, pages: int) -> Place:
        return Place(self._first_offset + rank * PAGE_SIZE, pages)


class RangePageMap(PageMap):
    """Ranges of pages, packed one after the other.

    Args:
        starts: First page of each range, in file order. Of two that overlap the one that begins later is taken.
        counts: Pages of each range.
        first_offset: Offset of the first page in the file, in bytes.

    Two arrays of 8 bytes a range are kept, so a million ranges take 16 MiB.
    """

    def __init__(self, starts: array[int], counts: array[int], first_offset: int) -> None:
        super().__init__(first_offset)
        self._starts = starts
        self._ranks.extend(accumulate(counts))
        self._order = _sorted_order(self._starts)
        self.run_count = len(starts)
        self.end_pfn = max((start + count for start, count in zip(starts, counts, strict=True)), default=0)

    def find(self, pfn: int) -> Place | None:
        if self._order is None:
            index = bisect_right(self._starts, pfn) - 1
        else:
            place = bisect_right(self._order, pfn, key=self._starts.__getitem__) - 1
            index = self._order[place] if place >= 0 else -1
        if index < 0:
            return None
        within = pfn - self._starts[index]
        count = self._ranks[index + 1] - self._ranks[index]
        if within >= count:
            return None
        return self._place(self._ranks[index] + within, count - within)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield number of the first page and number of pages of each range, in file order."""
        for index, start in enumerate(self._starts):
            yield start, self._ranks[index + 1] - self._ranks[index]


def _sorted_order(starts: array[int]) -> array[int] | None:
    """Return the indexes of *starts* in ascending order; None if they ascend as they are."""
    if all(one <= other for one, other in pairwise(starts)):
        return None
    return array("Q", sorted(range(len(starts)), key=starts.__getitem__))


class BitmapPageMap(PageMap):
    """One bit for each page of physical memory, least significant first; pages are packed in the order of their bits.

    Only a count for every 32,768 bits is kept (2 KiB for 64 GiB of memory); the bits stay in the file, where *find*
    reads the 4 KiB around a page's bit.

    Args:
        view: The dump.
        offset: Offset of the bitmap, in bytes.
        bits: How many bits it has; the last byte may be part used.
        first_offset: Offset of the first page in the file, in bytes; not aligned.

    Raises:
        MalformedInput: More bits than any machine has pages.
        TruncatedInput: The bitmap ends past the dump.
    """

    def __init__(self, view: ByteView, offset: int, bits: int, first_offset: int) -> None:
        if not 0 < bits <= _MOST_BITS:
            raise MalformedInput(f"a bitmap of {bits} bits is not one of a machine's memory", offset=offset)
        super().__init__(first_offset)
        self._size = (bits + 7) // 8
        if offset + self._size > view.size:
            raise TruncatedInput("the dump ends within the bitmap of its pages", offset=offset)
        self._view = view
        self._offset = offset
        self._bits = bits
        self._count()
        self._spans: dict[int, int] = {}

    def _count(self) -> None:
        """Count the set bits of each span, and the runs, in one pass."""
        before = 0
        total = 0
        for chunk in range(0, self._size, _SPAN_BYTES * _CHUNK_SPANS):
            data = self._view.read(self._offset + chunk, min(_SPAN_BYTES * _CHUNK_SPANS, self._size - chunk))
            for start in range(0, len(data), _SPAN_BYTES):
                span = self._mask(int.from_bytes(data[start : start + _SPAN_BYTES], "little"), chunk + start)
                total += span.bit_count()
                self._ranks.append(total)
                self.run_count += (span & ~(span << 1 | before)).bit_count()
                before = span >> (_SPAN_BITS - 1)
                if span:
                    self.end_pfn = (chunk + start) * 8 + span.bit_length()

    def _mask(self, span: int, at: int) -> int:
        """Clear what follows the last bit in the last byte."""
        left = self._bits - at * 8
        return span & ((1 << left) - 1) if left < _SPAN_BITS else span

    def find(self, pfn: int) -> Place | None:
        if not 0 <= pfn < self._bits:
            return None
        index, bit = divmod(pfn, _SPAN_BITS)
        span = self._read_span(index)
        above = span >> bit
        if not above & 1:
            return None
        rank = self._ranks[index] + (span & ((1 << bit) - 1)).bit_count()
        return self._place(rank, (~above & (above + 1)).bit_length() - 1)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield number of the first page and number of pages of each stretch, parted at every 32,768 pages."""
        for index in range(len(self._ranks) - 1):
            rest, at = self._read_span(index), index * _SPAN_BITS
            while rest:
                skipped = (rest & -rest).bit_length() - 1
                rest >>= skipped
                count = (~rest & (rest + 1)).bit_length() - 1
                yield at + skipped, count
                rest >>= count
                at += skipped + count

    def _read_span(self, index: int) -> int:
        span = self._spans.get(index)
        if span is None:
            start = index * _SPAN_BYTES
            data = self._view.read(self._offset + start, min(_SPAN_BYTES, self._size - start))
            span = self._mask(int.from_bytes(data, "little"), start)
            if len(self._spans) >= _KEPT_SPANS:
                self._spans.clear()
            self._spans[index] = span
        return span
