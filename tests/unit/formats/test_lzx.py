from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.mutation import mutants
from support.synth.lzx import lzx_frames

from symcache.errors import MalformedInput
from symcache.formats import lzx
from symcache.formats.lzx import FRAME_BYTES, BitStream, LzxDecoder, make_code_table, undo_e8

if TYPE_CHECKING:
    from array import array

    from support.synth.lzx import BlockKind

KINDS: list[BlockKind] = ["verbatim", "aligned", "stored"]


def decode(frames: list[bytes], size: int, window_bits: int = 18) -> bytes:
    decoder = LzxDecoder(window_bits)
    sizes = [FRAME_BYTES] * (size // FRAME_BYTES) + [size % FRAME_BYTES] * (size % FRAME_BYTES > 0)
    return b"".join(decoder.decode(frame, length) for frame, length in zip(frames, sizes, strict=True))


def contents() -> st.SearchStrategy[bytes]:
    """Runs, repeats from afar, and what looks like calls; often longer than a frame."""
    runs = st.builds(bytes.__mul__, st.binary(min_size=1, max_size=9), st.integers(1, 3000))
    calls = st.lists(st.sampled_from([0xE8, 0xFF, 0, 1, 0x7F]), max_size=60).map(bytes)
    return st.lists(runs | calls | st.binary(max_size=200), max_size=8).map(lambda parts: b"".join(parts + parts[::-1]))


@settings(max_examples=40)
@given(
    contents(),
    st.integers(15, 21),
    st.lists(st.sampled_from(KINDS), min_size=1, max_size=4),
    st.integers(300, 50_000),
    st.just(0) | st.integers(1, 2**31 - 1) | st.integers(1, 70_000),
)
def test_whatever_is_written_is_read_back(
    content: bytes, window_bits: int, kinds: list[BlockKind], block_bytes: int, e8_size: int
) -> None:
    frames = lzx_frames(content, window_bits=window_bits, kinds=kinds, block_bytes=block_bytes, e8_size=e8_size)
    assert decode(frames, len(content), window_bits) == content


@pytest.mark.parametrize("window_bits", range(15, 22))
def test_a_match_reaches_back_to_the_end_of_its_window(window_bits: int) -> None:
    farthest = (1 << window_bits) - 3
    content = b"0123456789" + bytes(farthest - 10) + b"0123456789"
    frames = lzx_frames(content, window_bits=window_bits, kinds=("verbatim", "aligned"), block_bytes=1 << 20)
    assert len(frames[-1]) < 300, "the writer found the match"
    assert decode(frames, len(content), window_bits) == content


def test_calls_are_translated_across_frames_but_not_in_the_last_bytes_of_one() -> None:
    call = b"\xe8" + (1000).to_bytes(4, "little")
    content = (call + b"\x90" * 3) * 5000
    plain, translated = lzx_frames(content), lzx_frames(content, e8_size=len(content))
    assert plain != translated
    assert decode(translated, len(content)) == content


@pytest.mark.parametrize(
    ("target", "expected"),
    [(0, -100), (99, -1), (499, 399), (500, 500), (-100, 400), (-101, -101), (-1, 499)],
    ids=str,
)
def test_targets_of_calls_become_relative_within_the_file(target: int, expected: int) -> None:
    frame = bytearray(b"\xe8" + target.to_bytes(4, "little", signed=True) + bytes(20))
    undo_e8(frame, 100, 500)
    assert frame == b"\xe8" + expected.to_bytes(4, "little", signed=True) + bytes(20)


@pytest.mark.parametrize("size", range(16))
def test_the_last_ten_bytes_of_a_frame_are_not_translated(size: int) -> None:
    frame = bytearray(b"\xe8" * size)
    undo_e8(frame, 0, 2**31 - 1)
    assert frame[-10:] == (b"\xe8" * size)[-10:]


def stored_block(content: bytes, offsets: tuple[int, int, int] = (1, 1, 1), *, first: bool = False) -> bytes:
    """A block of stored bytes without its pad; its header is one number of 32 bits in two words."""
    header = (3 << 28 | len(content) << 4) if first else (3 << 29 | len(content) << 5)
    words = (header >> 16).to_bytes(2, "little") + (header & 0xFFFF).to_bytes(2, "little")
    return words + b"".join(offset.to_bytes(4, "little") for offset in offsets) + content


@pytest.mark.parametrize("pad_in_next_frame", [False, True])
def test_the_pad_of_stored_bytes_may_stand_in_either_frame(pad_in_next_frame: bool) -> None:
    long = bytes(range(255)) * 128 + b"~" * 127
    first = stored_block(b"a", first=True) + b"\0" + stored_block(long)
    second = stored_block(b"zz")
    frames = [first, b"\0" + second] if pad_in_next_frame else [first + b"\0", second]
    assert decode(frames, FRAME_BYTES + 2) == b"a" + long + b"zz"


def test_stored_bytes_may_run_over_frames_at_odd_places() -> None:
    content = bytes(range(256)) * 256 + b"!"
    first = stored_block(b"abc", first=True) + b"\0" + stored_block(content)
    cut = len(first) - len(content) + FRAME_BYTES - 3
    frames = [first[:cut], first[cut : cut + FRAME_BYTES], first[cut + FRAME_BYTES :] + b"\0" + stored_block(b"z")]
    assert decode(frames, 3 + len(content) + 1) == b"abc" + content + b"z"


def test_many_short_blocks_of_stored_bytes_cost_no_more_than_a_few(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []

    def make_windows(data: bytes) -> array[int]:
        made.append(len(data))
        return original(data)

    original = lzx._make_windows
    monkeypatch.setattr(lzx, "_make_windows", make_windows)
    blocks = stored_block(b"ab", first=True) + (stored_block(b"c") + b"\0" + stored_block(b"de")) * 500
    assert decode([blocks], 2 + 3 * 500) == b"ab" + b"cde" * 500
    assert len(made) <= 2


REPEATS = b"x" * 200
OFFSETS_AT = 4


@pytest.mark.parametrize(
    ("offset", "problem"), [(0, "distance 0"), (101, "reaches out"), (0xFFFFFFFF, "reaches out")], ids=str
)
def test_a_match_that_refers_to_nothing_is_refused(offset: int, problem: str) -> None:
    (frame,) = lzx_frames(REPEATS, kinds=("stored", "verbatim"), block_bytes=100)
    assert decode([frame], 200) == REPEATS
    bad = frame[:OFFSETS_AT] + offset.to_bytes(4, "little") + frame[OFFSETS_AT + 4 :]
    with pytest.raises(MalformedInput, match=problem):
        decode([bad], 200)


def test_a_match_over_the_end_of_its_frame_is_refused() -> None:
    with pytest.raises(MalformedInput, match="reaches out"):
        decode(lzx_frames(REPEATS), 150)


def test_every_cut_of_a_frame_is_refused() -> None:
    content = bytes(range(256)) + REPEATS
    (frame,) = lzx_frames(content, kinds=("aligned", "stored", "verbatim"), block_bytes=152)
    for end in range(len(frame)):
        with pytest.raises(MalformedInput):
            decode([frame[:end]], len(content))


def test_zeros_that_stand_in_for_missing_bytes_do_not_count_as_codes() -> None:
    content = b"\1\1" + bytes(2570)
    (frame,) = lzx_frames(content)
    assert decode([frame], len(content)) == content
    with pytest.raises(MalformedInput, match=r"ends early$"):
        decode([frame[:-2]], len(content))


def test_a_block_without_bytes_ends_the_reading() -> None:
    with pytest.raises(MalformedInput, match="without bytes"):
        decode([stored_block(b"", first=True) + bytes(50)], 10)


@pytest.mark.parametrize("kind", [0, 4, 7])
def test_a_block_of_unknown_kind_is_refused(kind: int) -> None:
    word = kind << 12
    with pytest.raises(MalformedInput, match=f"unknown kind {kind}"):
        decode([word.to_bytes(2, "little") + b"\xff" * 50], 10)


@pytest.mark.parametrize("window_bits", [0, 14, 22, 31])
def test_a_window_that_no_maker_writes_is_refused(window_bits: int) -> None:
    with pytest.raises(MalformedInput, match="window"):
        LzxDecoder(window_bits)


@pytest.mark.parametrize(
    ("lengths", "problem"),
    [([0] * 20, "few"), ([1], "few"), ([1, 2], "few"), ([1, 1, 1], "many"), ([16] * 20, "few")],
    ids=str,
)
def test_a_tree_that_is_not_full_is_refused(lengths: list[int], problem: str) -> None:
    with pytest.raises(MalformedInput, match=problem):
        make_code_table(lengths, "test")


def test_codes_count_up_by_length_and_symbol() -> None:
    assert make_code_table([2, 0, 1, 2], "test") == [(1, 2), (1, 2), (2, 0), (2, 3)]


@given(st.binary(max_size=40), st.lists(st.integers(1, 16), max_size=30))
def test_bits_come_from_words_highest_first(data: bytes, counts: list[int]) -> None:
    padded = data + bytes(len(data) % 2)
    expected = "".join(f"{padded[at + 1]:08b}{padded[at]:08b}" for at in range(0, len(padded), 2))
    bits = BitStream(data)
    at = 0
    for count in counts:
        if at + count > len(expected):
            break
        assert bits.take(count) == int(expected[at : at + count], 2)
        at += count
    bits.check_not_overdrawn()


def test_a_decoder_keeps_its_window_and_no_more() -> None:
    content = bytes(range(256)) * 1024
    decoder = LzxDecoder(15)
    for frame in lzx_frames(content, window_bits=15):
        decoder.decode(frame, FRAME_BYTES)
        assert len(decoder._output) <= 2 * FRAME_BYTES


def survivors(count: int, *, rng_seed: int) -> int:
    """Return how many of *count* damaged frames could be decoded; the others must raise `MalformedInput`."""
    content = (b"text that repeats, " * 20 + bytes(range(256))) * 3
    (frame,) = lzx_frames(content, kinds=("verbatim", "aligned", "stored"), block_bytes=700, e8_size=900)
    survived = 0
    for mutant in mutants(frame, count, rng_seed=rng_seed, hot=200):
        try:
            assert len(decode([mutant], len(content))) == len(content)
            survived += 1
        except MalformedInput:
            pass
    return survived


def test_damaged_frames_give_bytes_of_the_right_length_or_input_errors() -> None:
    assert 0 < survivors(1000, rng_seed=0) < 1000


@pytest.mark.slow
def test_many_damaged_frames_give_bytes_of_the_right_length_or_input_errors() -> None:
    assert 0 < survivors(100_000, rng_seed=1) < 100_000
