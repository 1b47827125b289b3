"""Addresses of public symbols in native PDBs."""

from __future__ import annotations

import struct
from contextlib import suppress
from dataclasses import replace
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synth.msf import make_msf
from support.synth.pdb import (
    NativePdbSpec,
    Packing,
    PublicSymbol,
    make_compressed_pdb,
    make_pdb,
    make_streams,
    make_symbol_records,
)

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.pdb.publics import read_public_addresses
from symcache.formats.view import BytesView

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
SECTION = 1 << 24
SYMBOLS = (
    *(PublicSymbol(f"Filler{number}_xxxxxxxxxxxxxxxxxxxxxxxx", number) for number in range(40_000)),
    PublicSymbol("KdDebuggerDataBlock", 0x1234, 2),
    PublicSymbol("_PsLoadedModuleList", 0x20),
    PublicSymbol("xPsActiveProcessHead", 0x30),
    PublicSymbol("PsActiveProcessHeadx", 0x40),
)
SPEC = NativePdbSpec(GUID, publics=SYMBOLS)
NAMES = ("PsLoadedModuleList", "KdDebuggerDataBlock", "PsActiveProcessHead", "Filler39999_xxxxxxxxxxxxxxxxxxxxxxxx")
FOUND = {
    "PsLoadedModuleList": 0x1020,
    "KdDebuggerDataBlock": 0x1000 + SECTION + 0x1234,
    "Filler39999_xxxxxxxxxxxxxxxxxxxxxxxx": 0x1000 + 39_999,
}


def test_symbols_are_found_by_their_whole_names_with_or_without_an_underscore() -> None:
    assert read_public_addresses(BytesView(make_pdb(SPEC)), NAMES) == FOUND


def test_a_record_across_two_pieces_of_a_mebibyte_is_found() -> None:
    at, across = 0, []
    for symbol in SYMBOLS:
        length = len(make_symbol_records([symbol]))
        if at >> 20 != (at + length) >> 20:
            across.append(symbol)
        at += length
    assert across
    found = read_public_addresses(BytesView(make_pdb(SPEC)), [symbol.name for symbol in across])
    assert found == {symbol.name: 0x1000 + symbol.offset for symbol in across}


def test_a_compressed_pdb_gives_the_same() -> None:
    spec = replace(SPEC, publics=SYMBOLS[-4:])
    data = make_compressed_pdb(spec, Packing.DEFLATE)
    assert read_public_addresses(BytesView(data), NAMES[:2]) == {name: FOUND[name] for name in NAMES[:2]}


def test_a_text_that_is_no_record_is_passed_over() -> None:
    streams = make_streams(replace(SPEC, publics=SYMBOLS[-3:]))
    records = streams[5]
    assert isinstance(records, bytes)
    streams[5] = b"PsLoadedModuleList\0".ljust(40, b"\0") + records
    assert read_public_addresses(BytesView(make_msf(streams)), NAMES[:1]) == {"PsLoadedModuleList": 0x1020}


def rearranged(moves: list[tuple[int, int]]) -> bytes:
    """Return a PDB of an image that was rearranged: sections before at 0x5000, 0x9000, and where addresses went."""
    streams = make_streams(replace(SPEC, publics=SYMBOLS[-4:]))
    dbi = streams[3]
    assert isinstance(dbi, bytes)
    number = len(streams)
    streams[3] = dbi[:-22] + struct.pack("<11H", *[0xFFFF] * 4, number, 7, *[0xFFFF] * 4, number + 1)
    streams.append(b"".join(struct.pack("<II", *move) for move in moves))
    streams.append(b"".join(struct.pack("<8sIII20x", b".t", 0x1000, at, 0x1000) for at in (0x5000, 0x9000)))
    return make_msf(streams)


def test_in_a_rearranged_image_addresses_are_where_they_went() -> None:
    moves = [(0x5000, 0x100000), (0x5020, 0x200000), (0x5021, 0), (0xA000, 0x300000)]
    assert read_public_addresses(BytesView(rearranged(moves)), NAMES) == {
        "PsLoadedModuleList": 0x200000,
        "KdDebuggerDataBlock": 0x300234,
    }
    # What went nowhere has no address, nor has what lies before all.
    assert read_public_addresses(BytesView(rearranged([(0x5000, 0)])), NAMES) == {}
    assert read_public_addresses(BytesView(rearranged([(0xF0000, 8)])), NAMES) == {}


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"MZ", UnknownFormat),
        (make_pdb(replace(SPEC, dbi=False, publics=())), MalformedInput),
    ],
)
def test_what_has_no_debug_information_is_refused(data: bytes, error: type[InputError]) -> None:
    with pytest.raises(error):
        read_public_addresses(BytesView(data), NAMES)


@given(st.integers(0, 63), st.binary(min_size=1, max_size=8), st.integers(0, 1))
def test_damaged_debug_information_raises_nothing_but_input_errors(at: int, new: bytes, which: int) -> None:
    streams = make_streams(replace(SPEC, publics=SYMBOLS[-4:]))
    stream = streams[(3, 7)[which]]
    assert isinstance(stream, bytes)
    streams[(3, 7)[which]] = (stream[:at] + new + stream[at + len(new) :])[: len(stream)]
    with suppress(InputError):
        read_public_addresses(BytesView(make_msf(streams)), NAMES)
