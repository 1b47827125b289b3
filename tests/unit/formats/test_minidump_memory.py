from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synth.minidump import MinidumpPlan, build_minidump

from symcache.errors import NotInDump
from symcache.formats.dump import minidump as minidump_memory
from symcache.formats.dump.minidump import CapturedMemory, StreamType, parse_minidump, read_memory_ranges
from symcache.formats.view import BytesView, PartView

HIGH = 0xFFFF_F800_0000_0000


def memory_of(data: bytes) -> CapturedMemory:
    view = BytesView(data)
    return read_memory_ranges(view, parse_minidump(view))


@pytest.mark.parametrize("padded", [False, True], ids=["count alone", "count and padding"])
def test_a_memory_list_is_read_by_address(padded: bool) -> None:
    plan = MinidumpPlan(memory=[(0x1000, b"low"), (HIGH, b"high")], pad_memory=padded)
    memory = memory_of(build_minidump(plan))
    assert len(memory) == 2
    assert memory.read(0x1000, 3) == b"low"
    assert memory.read(HIGH + 1, 2) == b"ig"
    assert not memory.truncated


def test_a_64_bit_list_is_read_by_address() -> None:
    memory = memory_of(build_minidump(MinidumpPlan(memory64=[(HIGH, b"high"), (0x1000, b"low"), (0x2000, b"mid")])))
    assert [memory.read(0x1000, 3), memory.read(0x2000, 3), memory.read(HIGH, 4)] == [b"low", b"mid", b"high"]


def test_a_read_goes_on_where_ranges_touch() -> None:
    memory = memory_of(build_minidump(MinidumpPlan(memory=[(0x1003, b"def"), (0x1000, b"abc")])))
    assert memory.read(0x1001, 4) == b"bcde"


@pytest.mark.parametrize(
    ("address", "length", "missing"),
    [
        (0xFFF, 1, 0xFFF),
        (0x1000, 5, 0x1004),
        (0x1002, 0x1000, 0x1004),
        (0x1004, 1, 0x1004),
        (2**64 - 1, 1, 2**64 - 1),
        (2**64, 1, 2**64),
        (-1, 1, -1),
    ],
)
def test_a_read_outside_names_the_first_address_that_is_missing(address: int, length: int, missing: int) -> None:
    memory = memory_of(build_minidump(MinidumpPlan(memory=[(0x1000, b"abcd"), (0x2000, b"efgh")])))
    with pytest.raises(NotInDump) as caught:
        memory.read(address, length)
    assert caught.value.address == missing


def test_nothing_can_be_read_where_nothing_was_captured() -> None:
    memory = memory_of(build_minidump(MinidumpPlan()))
    assert memory.read(0x1000, 0) == b""
    with pytest.raises(NotInDump):
        memory.read(0, 1)


def test_an_image_is_a_part_of_the_address_space() -> None:
    memory = memory_of(build_minidump(MinidumpPlan(memory=[(HIGH, b"MZ" + bytes(62))])))
    assert PartView(memory, HIGH, 0x5000).read(0, 2) == b"MZ"


def test_the_first_of_overlapping_ranges_is_read_and_the_rest_of_the_others() -> None:
    memory = memory_of(
        build_minidump(MinidumpPlan(memory=[(0x1000, b"a" * 8), (0x1002, b"b" * 2), (0x1006, b"c" * 8)]))
    )
    assert memory.read(0x1000, 14) == b"a" * 8 + b"c" * 6


def test_the_end_of_the_address_space_is_the_end_of_a_range() -> None:
    memory = memory_of(build_minidump(MinidumpPlan(memory=[(2**64 - 2, b"abcd")])))
    assert memory.read(2**64 - 2, 2) == b"ab"
    with pytest.raises(NotInDump):
        memory.read(2**64 - 2, 3)


def test_a_cut_dump_keeps_the_memory_before_the_cut() -> None:
    data = build_minidump(MinidumpPlan(memory64=[(0x1000, b"a" * 16), (0x2000, b"b" * 16), (0x3000, b"c" * 16)]))
    memory = memory_of(data[:-20])
    assert memory.truncated
    assert memory.read(0x1000, 16) == b"a" * 16
    assert memory.read(0x2000, 12) == b"b" * 12
    with pytest.raises(NotInDump):
        memory.read(0x2000, 13)


def test_a_range_whose_bytes_lie_past_the_end_is_left_out() -> None:
    data = bytearray(build_minidump(MinidumpPlan(memory=[(0x1000, b"abcd"), (0x2000, b"efgh")])))
    (stream,) = parse_minidump(BytesView(bytes(data))).streams_of(StreamType.MEMORY_LIST)
    struct.pack_into("<I", data, stream.offset + 4 + 12, len(data) + 1)
    memory = memory_of(bytes(data))
    assert memory.truncated
    assert len(memory) == 1


def test_a_number_of_ranges_larger_than_the_stream_is_cut() -> None:
    data = bytearray(build_minidump(MinidumpPlan(memory64=[(0x1000, b"abcd")])))
    (stream,) = parse_minidump(BytesView(bytes(data))).streams_of(StreamType.MEMORY64_LIST)
    struct.pack_into("<Q", data, stream.offset, 2**64 - 1)
    assert memory_of(bytes(data)).read(0x1000, 4) == b"abcd"


def test_more_ranges_than_any_process_has_are_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(minidump_memory, "_MOST_RANGES", 3)
    memory = memory_of(build_minidump(MinidumpPlan(memory=[(n << 12, b"x") for n in range(4)])))
    assert (len(memory), memory.truncated) == (3, True)


def test_a_negative_length_is_refused() -> None:
    with pytest.raises(NotInDump):
        memory_of(build_minidump(MinidumpPlan(memory=[(0x1000, b"abcd")]))).read(0x1000, -1)


@given(st.lists(st.tuples(st.integers(0, 120), st.binary(min_size=1, max_size=30)), max_size=12), st.booleans())
def test_every_captured_byte_can_be_read(ranges: list[tuple[int, bytes]], wide: bool) -> None:
    plan = MinidumpPlan(memory64=ranges) if wide else MinidumpPlan(memory=ranges)
    memory = memory_of(build_minidump(plan))
    captured: dict[int, set[int]] = {}
    for start, data in ranges:
        for index, byte in enumerate(data):
            captured.setdefault(start + index, set()).add(byte)
    for address in range(160):
        if address in captured:
            assert memory.read(address, 1)[0] in captured[address]
        else:
            with pytest.raises(NotInDump):
                memory.read(address, 1)
