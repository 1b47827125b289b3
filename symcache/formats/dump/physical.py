"""Physical memory of a kernel dump: which pages it holds and where, as ranges or as a bitmap, never page by page."""

from __future__ import annotations

import struct
import sys
from abc import ABC, abstractmethod
from array import array
from bisect import bisect_right
from dataclasses import dataclass
from enum import StrEnum
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, NamedTuple

from symcache.errors import Absence, MalformedInput, NotInDump, TruncatedInput, UnknownFormat
from symcache.formats.dump.header import DumpType
from symcache.formats.view import parse_uint, read_in_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.dump.header import DumpHeader
    from symcache.formats.view import ByteView

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
    """The pages that a dump promises to hold, packed one after the other from the byte *first_offset* on."""

    run_count = 0  # stretches of successive pages
    end_pfn = 0  # number after that of the last page

    def __init__(self, first_offset: int) -> None:
        self._first_offset = first_offset
        self._ranks = array("Q", [0])  # pages before each range or span, and at last all of them

    @property
    def page_count(self) -> int:
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
    """Ranges of pages, by first page and length, in file order. Of two that overlap the one that begins later is taken.

    Two arrays of 8 bytes a range are kept, so a million ranges take 16 MiB.
    """

    def __init__(self, starts: array[int], counts: array[int], first_offset: int) -> None:
        super().__init__(first_offset)
        self._starts = starts
        self._ranks.extend(accumulate(counts))
        self._order: array[int] | None = None  # indexes of the ranges by their starts, where these do not ascend
        if any(one > other for one, other in pairwise(starts)):
            self._order = array("Q", sorted(range(len(starts)), key=starts.__getitem__))
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


class BitmapPageMap(PageMap):
    """One bit for each page of physical memory, least significant first; pages are packed in the order of their bits.

    Only a count for every 32,768 bits is kept (2 KiB for 64 GiB of memory); the bits stay in the file, where *find*
    reads the 4 KiB around a page's bit.

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


_MOST_RANGES = 1 << 21
_MOST_PAGES = 1 << 40
_RANGES_PER_READ = 1 << 15
_BITMAP_TYPES = {DumpType.SUMMARY, DumpType.BITMAP_FULL, DumpType.BITMAP_KERNEL, DumpType.AUTOMATIC}
_RANGE_TYPES = {DumpType.RANGES_KERNEL, DumpType.RANGES_KERNEL_AND_USER, DumpType.RANGES_COMPLETE}


class Storage(StrEnum):
    """How a dump stores memory."""

    RUNS = "runs"
    BITMAP = "bitmap"
    SUMMARY = "summary bitmap"
    RANGES = "ranges"
    TRIAGE = "triage"
    NONE = "header only"


@dataclass(frozen=True, slots=True)
class DumpBody:
    """What follows a dump's header."""

    storage: Storage
    pages: PageMap | None = None  # the pages it promises; None for a triage dump and a bare header
    problems: tuple[str, ...] = ()  # what contradicts itself without keeping the pages from being read


class PhysicalMemory:
    """Physical memory as far as a dump holds it; a page that is not there is an error, never zeros."""

    def __init__(self, view: ByteView, pages: PageMap) -> None:
        self._view = view
        self._pages = pages

    @property
    def size(self) -> int:
        """Address after that of the last byte."""
        return self._pages.end_pfn * PAGE_SIZE

    def read(self, offset: int, length: int) -> bytes:
        """Return *length* bytes from physical address *offset*; raise `NotInDump` where the dump lacks a page."""
        return read_in_parts(self._read_run, offset, length)

    def _read_run(self, address: int, length: int) -> bytes:
        """Read up to the end of the pages that follow one another."""
        pfn, within = divmod(address, PAGE_SIZE)
        place = self._pages.find(pfn)
        if place is None:
            raise NotInDump("the dump does not hold this physical page", address=address)
        length = min(length, place.pages * PAGE_SIZE - within)
        at = place.offset + within
        if at + length > self._view.size:
            problem = "the dump is cut short before this physical page"
            raise NotInDump(problem, address=address, absence=Absence.TRUNCATED)
        return self._view.read(at, length)


def read_dump_body(view: ByteView, header: DumpHeader) -> DumpBody:
    """Return how a dump stores its pages and which it promises.

    The type's number decides; where it is unknown, or what it promises is not there, the body's own signature does.

    Raises:
        UnknownFormat: Neither the number nor the body tells the type.
        MalformedInput: The body contradicts itself.
        TruncatedInput: The dump ends before its pages are named.
    """
    kind = header.dump_type
    if kind == DumpType.TRIAGE:
        return DumpBody(Storage.TRIAGE)
    if kind == DumpType.HEADER:
        return DumpBody(Storage.NONE)
    if kind == DumpType.FULL and header.memory is not None:
        return _runs_body(header)
    if kind == DumpType.FULL and view.size > header.size:
        return _sniff(view, header, header.memory_problem or "the header names no physical memory")
    if kind in _BITMAP_TYPES | _RANGE_TYPES and view.size <= header.size:
        raise TruncatedInput("the dump ends with its header, before its pages are named", offset=view.size)
    return _sniff(view, header, f"dump type {kind:#x} is not known")


def _sniff(view: ByteView, header: DumpHeader, problem: str) -> DumpBody:
    """Recognise a body by its first bytes."""
    start = view.read(header.size, min(16, view.size - header.size))
    if start[:4] in {b"SDMP", b"FDMP"}:
        return _read_bitmap(view, header)
    if start[4:12] == b"RDMPDUMP":
        return _read_ranges(view, header)
    if header.dump_type in _BITMAP_TYPES - {DumpType.AUTOMATIC}:
        raise MalformedInput("the header of the pages' bitmap has no signature", offset=header.size)
    if header.dump_type in _RANGE_TYPES:
        raise MalformedInput("the header of the pages' ranges has no signature", offset=header.size)
    if not start:
        return DumpBody(Storage.NONE, problems=(problem,))
    if _is_triage(view, header):
        return DumpBody(Storage.TRIAGE, problems=(problem,))
    if header.memory is not None and header.dump_type != DumpType.FULL:
        body = _runs_body(header)
        return DumpBody(body.storage, body.pages, (problem, *body.problems))
    raise UnknownFormat(f"{problem}, and what follows the header has no known signature", offset=header.size)


def _is_triage(view: ByteView, header: DumpHeader) -> bool:
    """Return whether the word at ValidOffset is ``TRGD``; see `symcache.formats.dump.triage`."""
    if view.size < header.size + 12:
        return False
    valid_offset = parse_uint(view.read(header.size + 8, 4), 0, 4)
    return valid_offset + 4 <= view.size and view.read(valid_offset, 4) == b"TRGD"


def _runs_body(header: DumpHeader) -> DumpBody:
    """Pages packed run after run behind the header; holes between runs take no room.

    Source: kdmp-parser, LeechCore and volatility3 agree on it.
    """
    memory = header.memory or ()
    starts = array("Q", [range_.first for range_ in memory])
    counts = array("Q", [range_.count for range_ in memory])
    problems = () if header.memory_problem is None else (header.memory_problem,)
    return DumpBody(Storage.RUNS, RangePageMap(starts, counts, header.size), problems)


@dataclass(frozen=True, slots=True)
class _BitmapClaim:
    """What a bitmap's header says: offsets in the file, counts of bits."""

    storage: Storage
    bitmap: int
    bits: int
    first_page: int
    present: int


def _read_bitmap(view: ByteView, header: DumpHeader) -> DumpBody:
    """Read the bitmap of a kernel, complete or summary dump; the layout is the one whose numbers agree.

    Layout since Windows 8: ``SDMP`` or ``FDMP``, ``DUMP``, offset of the first page u64 at 0x20, pages present u64 at
    0x28, bits u64 at 0x30, bitmap at 0x38. Before: offset of the first page u32 at 0xC, bits u32 at 0x10, pages u32 at
    0x14, an RTL_BITMAP {bits u32, pointer}, bitmap at 0x20 (32 bit) or 0x28 (64 bit).
    Source: kdmp-parser and rizin (which has a file) for the first; Ghidra's SummaryHeader for the second, which packs
    the pointer, so several places of the bitmap are tried.
    """
    base = header.size
    head = view.read(base, min(0x38, view.size - base))
    if len(head) < 0x38:
        raise TruncatedInput("the dump ends within the header of its bitmap", offset=view.size)
    claims = _bitmap_claims(head, base)
    if header.dump_type == DumpType.SUMMARY:
        claims.sort(key=lambda claim: claim.storage != Storage.SUMMARY)
    fallback: DumpBody | None = None
    cut = False
    for claim in claims:
        size = (claim.bits + 7) // 8
        if not 0 < claim.bits <= 1 << 36 or claim.bitmap + size > claim.first_page:
            continue
        if claim.bitmap + size > view.size:
            cut = True
            continue
        pages = BitmapPageMap(view, claim.bitmap, claim.bits, claim.first_page)
        if pages.page_count == claim.present:
            return DumpBody(claim.storage, pages)
        problem = f"the bitmap has {pages.page_count} pages, its header claims {claim.present}"
        fallback = fallback or DumpBody(claim.storage, pages, (problem,))
    if fallback is not None:
        return fallback
    if cut:
        raise TruncatedInput("the dump ends within the bitmap of its pages", offset=view.size)
    raise MalformedInput("the header of the pages' bitmap contradicts itself", offset=base)


def _bitmap_claims(head: bytes, base: int) -> list[_BitmapClaim]:
    claims = [_BitmapClaim(Storage.BITMAP, base + 0x38, *(parse_uint(head, at, 8) for at in (0x30, 0x20, 0x28)))]
    for offset in (0x28, 0x20, 0x24) if base == 0x2000 else (0x20, 0x28, 0x24):
        claims.extend(
            _BitmapClaim(Storage.SUMMARY, base + offset, bits, parse_uint(head, 0x0C, 4), parse_uint(head, 0x14, 4))
            for bits in dict.fromkeys((parse_uint(head, 0x10, 4), parse_uint(head, 0x18, 4)))
        )
    return claims


def _read_ranges(view: ByteView, header: DumpHeader) -> DumpBody:
    """Read the ranges of a dump that dbgeng's ``.dump /k``, ``/ka`` or ``/f`` wrote.

    Layout: u32 0x40, ``RDMP``, ``DUMP``, u32, size of the metadata u64 at 0x10, offset of the first page u64 at 0x18;
    for a complete dump number of ranges u32 at 0x20 and of pages u64 at 0x28; ranges {first page u64, pages u64} from
    0x30, packed from the first page on. The others end with a range of page 0, a complete dump with its last page.
    Source: kdmp-parser.
    """
    base = header.size
    if view.size < base + 0x30:
        raise TruncatedInput("the dump ends within the header of its ranges", offset=view.size)
    head = view.read(base, 0x30)
    metadata, first_page, range_count, promised = struct.unpack_from("<QQI4xQ", head, 0x10)
    if first_page < base + 0x30:
        raise MalformedInput("the first page lies within the header of the ranges", offset=base + 0x18)
    problems = []
    if first_page - base - 0x20 != metadata or metadata % 16:
        problems.append("the size of the ranges and the place of the first page disagree")
    numbers = _read_numbers(view, base + 0x30, first_page)
    starts, counts = numbers[::2], numbers[1::2]
    if header.dump_type == DumpType.RANGES_COMPLETE or (
        header.dump_type not in _RANGE_TYPES
        and 0 < range_count <= len(starts)
        and sum(counts[:range_count]) == promised
    ):
        kept, total = _count_until(counts, promised)
        if total != promised:
            problems.append(f"the ranges hold {total} pages, {promised} are promised")
    else:
        kept = starts.index(0) if 0 in starts else len(starts)
    starts, counts = starts[:kept], counts[:kept]
    if max(starts, default=0) >= _MOST_PAGES or max(counts, default=0) >= _MOST_PAGES:
        raise MalformedInput("a range of pages lies beyond any machine's memory", offset=base + 0x30)
    return DumpBody(Storage.RANGES, RangePageMap(starts, counts, first_page), tuple(problems))


def _read_numbers(view: ByteView, start: int, end: int) -> array[int]:
    """Return the u64 pairs between two offsets, unless they are more than any dump has."""
    pairs = (end - start) // 16
    if pairs > _MOST_RANGES:
        raise MalformedInput(f"{pairs} ranges of pages are more than any dump has", offset=start)
    if end > view.size:
        raise TruncatedInput("the dump ends within the ranges of its pages", offset=start)
    numbers = array("Q")
    for first in range(0, pairs, _RANGES_PER_READ):
        numbers.frombytes(view.read(start + 16 * first, 16 * min(_RANGES_PER_READ, pairs - first)))
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers


def _count_until(counts: array[int], promised: int) -> tuple[int, int]:
    """Return how many ranges it takes to hold *promised* pages, and how many pages those hold."""
    total = 0
    for index, count in enumerate(counts):
        if total >= promised or count == 0:
            return index, total
        total += count
    return len(counts), total
