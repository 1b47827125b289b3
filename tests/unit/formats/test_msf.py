from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutation import mutants
from support.synth.msf import Filler, make_msf
from support.views import CountingView

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.pdb.msf import Msf
from symcache.formats.view import BytesView

BLOCK_SIZES = st.sampled_from([512, 1024, 4096, 0x10000])
STREAMS = st.lists(st.one_of(st.none(), st.binary(max_size=3000)), min_size=1, max_size=20)


def patched(data: bytes, offset: int, value: int) -> bytes:
    return data[:offset] + value.to_bytes(4, "little") + data[offset + 4 :]


@given(STREAMS, BLOCK_SIZES)
def test_streams_read_back_as_written(streams: list[bytes | None], block_size: int) -> None:
    msf = Msf(BytesView(make_msf(streams, block_size=block_size)))
    assert msf.block_size == block_size
    assert msf.stream_count == len(streams)
    assert msf.count_all_blocks() == sum(-(-len(content or b"") // block_size) for content in streams)
    for index in reversed(range(len(streams))):  # backwards, so that counted blocks cannot be carried on
        content = streams[index]
        view = msf.stream(index)
        assert msf.stream_size(index) == (None if content is None else len(content))
        assert view.read(0, view.size) == (content or b"")


@given(st.data())
def test_any_range_of_a_stream_is_read_exactly(data: st.DataObject) -> None:
    content = bytes(range(256)) * 50
    view = Msf(BytesView(make_msf([b"x", content], block_size=512))).stream(1)
    for _ in range(5):  # from one view, as it keeps a piece
        start = data.draw(st.integers(0, len(content)))
        length = data.draw(st.integers(0, len(content) - start))
        assert view.read(start, length) == content[start : start + length]


@pytest.mark.parametrize(("offset", "length"), [(0, 11), (10, 1), (-1, 2), (3, -1)])
def test_a_read_past_a_stream_is_refused(offset: int, length: int) -> None:
    view = Msf(BytesView(make_msf([b"0123456789"]))).stream(0)
    with pytest.raises(TruncatedInput, match="stream 0 ends at 0xa"):
        view.read(offset, length)


def test_a_stream_past_the_last_is_empty() -> None:
    msf = Msf(BytesView(make_msf([b"one"])))
    assert msf.stream_size(1) is None
    assert msf.stream(1).size == 0
    assert msf.stream_size(-1) is None


def test_the_free_block_maps_are_stepped_over() -> None:
    content = Filler(512 * 1200)
    counting = CountingView(BytesView(make_msf([b"", content], block_size=512)))
    view = Msf(counting).stream(1)
    view.read(0, 1)
    counting.reads.clear()
    assert view.read(0, content.size) == content[:]
    blocks = {block for at, length in counting.reads for block in range(at // 512, (at + length) // 512)}
    assert len(blocks) >= 1200
    assert {block % 512 for block in blocks}.isdisjoint({1, 2})


def test_blocks_that_follow_each_other_are_one_read() -> None:
    counting = CountingView(BytesView(make_msf([b"", bytes(1 << 20)], block_size=4096)))
    view = Msf(counting).stream(1)
    view.read(0, 4096)
    counting.reads.clear()
    view.read(4096, 1 << 19)
    assert [length for _, length in counting.reads] == [1 << 19]


@pytest.mark.parametrize(
    ("offset", "value", "error", "text"),
    [
        (0x20, 513, MalformedInput, "power of two"),
        (0x20, 256, MalformedInput, "power of two"),
        (0x20, 0x20000, MalformedInput, "power of two"),
        (0x20, 0, MalformedInput, "power of two"),
        (0x28, 0xFFFF, TruncatedInput, "blocks of 512 bytes are promised"),
        (0x2C, 0x7FFFFFFF, MalformedInput, "directory of 2147483647 bytes"),
        (0x2C, 0, MalformedInput, "directory of 0 bytes"),
        (0x34, 0xFFFF, MalformedInput, "block map uses block 65535"),
    ],
    ids=[
        "no power of two",
        "block too small",
        "block too large",
        "no block",
        "cut short",
        "endless directory",
        "no directory",
        "block map elsewhere",
    ],
)
def test_a_superblock_that_cannot_be_is_refused(offset: int, value: int, error: type[InputError], text: str) -> None:
    data = make_msf([b"a", b"b" * 5000], block_size=512)
    with pytest.raises(error, match=text):
        Msf(BytesView(patched(data, offset, value)))


def test_another_file_is_not_taken_for_a_container() -> None:
    with pytest.raises(UnknownFormat, match="not an MSF 7"):
        Msf(BytesView(b"BSJB" + bytes(1000)))


def test_more_streams_than_the_directory_holds_are_refused() -> None:
    data = make_msf([b"a"], block_size=512)
    (directory_block,) = data[-512:][:1]  # the last block is the block map
    with pytest.raises(MalformedInput, match="streams do not fit"):
        Msf(BytesView(patched(data, directory_block * 512, 0x40000000)))


def test_a_directory_that_ends_before_the_blocks_of_a_stream_is_refused() -> None:
    data = make_msf([b"a"], block_size=512)
    directory_block = data[-512]
    with pytest.raises(MalformedInput, match="before the blocks of stream 0"):
        Msf(BytesView(patched(data, directory_block * 512 + 4, 100 * 512))).stream(0)


def read_all(data: bytes) -> None:
    msf = Msf(BytesView(data))
    for index in range(min(20, msf.stream_count)):
        view = msf.stream(index)
        view.read(0, min(view.size, 1 << 16))


def test_damage_is_an_input_error() -> None:
    refused = 0
    for mutant in mutants(make_msf([b"", b"one" * 400, None, b"three" * 999], block_size=512), 1000, hot=512):
        try:
            read_all(mutant)
        except InputError:
            refused += 1
    assert refused > 100
