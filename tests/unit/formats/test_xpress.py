"""Plain LZ77 of XPRESS: what was packed comes back, and what is damaged ends in bounds."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.bounds import measure
from support.mutation import mutants
from support.parts import need
from support.synth.xpress import compress

from symcache.formats.trace import xpress
from symcache.formats.trace.xpress import expand_in_python

if TYPE_CHECKING:
    from collections.abc import Callable

    Expand = Callable[[bytes, int], bytes]

# [MS-XCA] 3.1 and 3.2: the alphabet, which has no match, and 300 letters, which are nearly one.
ALPHABET = bytes.fromhex("3f000000") + b"abcdefghijklmnopqrstuvwxyz"
LETTERS = bytes.fromhex("ffffff1f 61626317 000fff26 01".replace(" ", ""))


@pytest.fixture(params=["python", "library"], scope="module")
def expand(request: pytest.FixtureRequest) -> Expand:
    if request.param == "python":
        return expand_in_python
    need("pyfwnt")
    return xpress.expand


def test_the_examples_of_the_specification_expand(expand: Expand) -> None:
    assert expand(ALPHABET, 26) == b"abcdefghijklmnopqrstuvwxyz"
    assert expand(LETTERS, 300) == b"abc" * 100


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"a",
        b"ab" * 40,
        bytes(70_000),  # one match whose length takes 32 bits
        b"x" * 300 + b"yz" * 200 + b"x" * 30,
        random.Random(1).randbytes(5000),
        b"".join(b"%d" % number for number in range(9000)),  # longer than the window
    ],
    ids=["empty", "one", "pairs", "zeros", "runs", "noise", "numbers"],
)
def test_what_was_packed_comes_back(expand: Expand, data: bytes) -> None:
    assert expand(compress(data), len(data)) == data


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=6), st.integers(1, 400)), max_size=12))
@settings(max_examples=150)
def test_any_bytes_come_back(expand: Expand, pieces: list[tuple[bytes, int]]) -> None:
    data = b"".join(piece * count for piece, count in pieces)
    assert expand(compress(data), len(data)) == data


def test_what_is_cut_off_expands_up_to_that_place(expand: Expand) -> None:
    data = b"".join(b"module %d;" % number for number in range(2000))
    packed = compress(data)
    for length in range(0, len(packed), 97):
        assert data.startswith(expand(packed[:length], len(data)))


def test_a_match_that_begins_before_the_data_ends_it(expand: Expand) -> None:
    assert expand(bytes.fromhex("00000040") + b"a" + b"\xff\xff" + b"bcd", 100) == b"a"


def test_no_more_comes_than_was_asked_for(expand: Expand) -> None:
    assert expand(compress(bytes(1 << 20)), 10) == bytes(10)


@given(st.binary(max_size=300), st.integers(0, 5000))
@settings(max_examples=150)
def test_any_bytes_expand_to_no_more_than_is_wanted(expand: Expand, data: bytes, size: int) -> None:
    assert len(expand(data, size)) <= size


def test_a_match_before_the_data_gives_no_more_than_is_wanted_either(expand: Expand) -> None:
    assert expand(bytes.fromhex("00000010") + b"abc" + b"\xff\xff", 2) == b"ab"


def test_damaged_data_cost_little(expand: Expand, record_property: Callable[[str, object], None]) -> None:
    seed = compress(b"".join(b"%d" % (number * number) for number in range(3000)))
    cost = measure(mutants(seed, 150), lambda data: expand(data, 65536))
    cost.check(record_property)


@given(st.binary(max_size=3000), st.integers(0, 1 << 30))
def test_the_library_and_python_expand_damaged_data_alike(data: bytes, at: int) -> None:
    need("pyfwnt")
    packed = bytearray(compress(data))
    if packed:
        packed[at % len(packed)] ^= 1 << at % 8
    assert xpress.expand(bytes(packed), len(data)) == expand_in_python(bytes(packed), len(data))
