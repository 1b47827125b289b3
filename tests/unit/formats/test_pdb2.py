from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutation import mutants
from support.synth.pdb import make_pdb2

from symcache.errors import InputError, MalformedInput, TruncatedInput
from symcache.formats.pdb.info import Pdb2, parse_pdb2
from symcache.formats.view import BytesView

NUMBERS = st.integers(0, 0xFFFFFFFF)


@given(NUMBERS, NUMBERS, st.sampled_from([512, 1024, 4096]), st.integers(0, 9000))
def test_signature_and_age_read_back(signature: int, age: int, page_size: int, payload_bytes: int) -> None:
    data = make_pdb2(signature, age, page_size=page_size, payload_bytes=payload_bytes)
    assert parse_pdb2(BytesView(data)) == Pdb2(signature, age, 19970604, page_size, 3)


def test_a_file_that_is_cut_short_is_refused() -> None:
    data = make_pdb2(1, 2, payload_bytes=5000)
    for length in (50, len(data) - 1):
        with pytest.raises(TruncatedInput):
            parse_pdb2(BytesView(data[:length]))


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [(0x2C, 1000, "power of two"), (0x34, 0xFFFFFFFF, "root stream of"), (0x3C, 0x7FFF7FFF, "uses block 32767")],
    ids=["page size", "root size", "root page"],
)
def test_a_header_that_cannot_be_is_refused(offset: int, value: int, text: str) -> None:
    data = make_pdb2(1, 2)
    damaged = data[:offset] + value.to_bytes(4, "little") + data[offset + 4 :]
    with pytest.raises(MalformedInput, match=text):
        parse_pdb2(BytesView(damaged))


def test_damage_is_an_input_error() -> None:
    refused = 0
    for mutant in mutants(make_pdb2(0x3E4A21B7, 1, payload_bytes=3000), 1000, hot=128):
        try:
            parse_pdb2(BytesView(mutant))
        except InputError:
            refused += 1
    assert refused > 100
