from __future__ import annotations

from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import MalformedInput, TruncatedInput
from symcache.formats.dump.physical import BitmapPageMap, Place, RangePageMap
from symcache.formats.view import BytesView

FIRST = 0xA038


def bitmap_map(pfns: set[int], bits: int) -> BitmapPageMap:
    raw = bytearray((bits + 7) // 8)
    for pfn in pfns:
        raw[pfn // 8] |= 1 << pfn % 8
    return BitmapPageMap(BytesView(bytes(0x38) + bytes(raw)), 0x38, bits, FIRST)


def range_map(*ranges: tuple[int, int]) -> RangePageMap:
    return RangePageMap(array("Q", [first for first, _ in ranges]), array("Q", [count for _, count in ranges]), FIRST)


@given(st.sets(st.integers(0, 70_000), max_size=200), st.integers(0, 9))
def test_the_rank_of_a_bit_gives_the_page(pfns: set[int], slack: int) -> None:
    pages = bitmap_map(pfns, max(pfns, default=0) + 1 + slack)
    order = sorted(pfns)
    for rank, pfn in enumerate(order):
        place = pages.find(pfn)
        assert place is not None
        assert place.offset == FIRST + rank * 0x1000
        assert set(range(pfn, pfn + place.pages)) <= pfns
    for pfn in {0, 1, 32_767, 32_768, 70_001, -1} - pfns:
        assert pages.find(pfn) is None
    assert pages.page_count == len(pfns)
    assert pages.end_pfn == max(pfns, default=-1) + 1
    assert pages.run_count == sum(pfn - 1 not in pfns for pfn in pfns)
    assert [first + index for first, count in pages.runs() for index in range(count)] == order


def test_bits_behind_the_last_one_do_not_count() -> None:
    pages = BitmapPageMap(BytesView(b"\xff\xff"), 0, 11, FIRST)
    assert pages.page_count == 11
    assert pages.find(10) == Place(FIRST + 10 * 0x1000, 1)
    assert pages.find(11) is None


@pytest.mark.parametrize("bits", [0, -1, 1 << 40])
def test_a_bitmap_of_no_machine_is_malformed(bits: int) -> None:
    with pytest.raises(MalformedInput):
        BitmapPageMap(BytesView(bytes(8)), 0, bits, FIRST)


def test_a_bitmap_past_the_end_is_truncated() -> None:
    with pytest.raises(TruncatedInput):
        BitmapPageMap(BytesView(bytes(8)), 0, 65, FIRST)


def test_a_large_bitmap_costs_little_memory_and_few_reads() -> None:
    class Ones:
        size = 2 << 20
        reads = 0

        def read(self, offset: int, length: int) -> bytes:
            self.reads += 1
            return b"\xff" * length

    ones = Ones()
    pages = BitmapPageMap(ones, 0, 16 << 20, FIRST)
    assert (pages.page_count, pages.run_count) == (16 << 20, 1)
    assert ones.reads <= 16
    for pfn in range(0, 16 << 20, 1 << 12):
        assert pages.find(pfn) is not None
    assert ones.reads < 16 + 1024


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(1, 9)), max_size=12), st.randoms())
def test_ranges_are_packed_in_file_order(gaps: list[tuple[int, int]], random: object) -> None:
    ranges = []
    at = 0
    for gap, count in gaps:
        ranges.append((at + gap, count))
        at += gap + count
    random.shuffle(ranges)  # type: ignore[attr-defined]
    pages = range_map(*ranges)
    offset = FIRST
    for first, count in ranges:
        for index in range(count):
            assert pages.find(first + index) == Place(offset, count - index)
            offset += 0x1000
    assert pages.end_offset == offset
    present = {first + index for first, count in ranges for index in range(count)}
    assert all(pages.find(pfn) is None for pfn in set(range(at + 60)) - present)
    assert list(pages.runs()) == ranges
    assert pages.end_pfn == max(present, default=-1) + 1
