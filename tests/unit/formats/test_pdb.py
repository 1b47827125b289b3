from __future__ import annotations

import re
from dataclasses import replace
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutation import mutants
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.msf import Filler, make_msf, write_msf
from support.synth.pdb import (
    NativePdbSpec,
    Packing,
    PublicSymbol,
    StructureLayout,
    make_compressed_pdb,
    make_pdb,
    make_pdb2,
    make_portable_pdb,
    make_streams,
)
from support.views import CountingView

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.pdb.info import Container, NativePdb, Pdb2, PortablePdb, SymbolKind, looks_like_pdb, parse_pdb
from symcache.formats.view import BytesView, FileView

GUID = UUID("3249d99d-0c40-4931-8610-f4e4fb0b6936")
AGES = st.integers(0, 0xFFFFFFFF)


class SparseFile:
    """A file of which only what was written takes memory."""

    def __init__(self) -> None:
        self._pieces: dict[int, bytes] = {}
        self._at = 0
        self.size = 0

    def seek(self, offset: int, whence: int = 0) -> int:
        self._at = self.size + offset if whence == 2 else offset
        return self._at

    def tell(self) -> int:
        return self._at

    def write(self, data: bytes) -> int:
        self._pieces[self._at] = data
        self._at += len(data)
        self.size = max(self.size, self._at)
        return len(data)

    def read(self, offset: int, length: int) -> bytes:
        found = bytearray(length)
        for at, piece in self._pieces.items():
            start, stop = max(at, offset), min(at + len(piece), offset + length)
            if start < stop:
                found[start - offset : stop - offset] = piece[start - at : stop - at]
        return bytes(found)


def parse_native(data: bytes) -> NativePdb:
    pdb = parse_pdb(BytesView(data))
    assert isinstance(pdb, NativePdb)
    return pdb


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pdb"))
def test_real_pdbs_are_what_other_tools_say(name: str) -> None:
    expected = truth()[name]
    with FileView(corpus / name) as view:
        pdb = parse_pdb(view)
    if expected["format"] == "pdb2":
        assert isinstance(pdb, Pdb2)
        assert (f"{pdb.signature:08X}", pdb.age) == (expected["signature"], expected["age"])
        return
    assert isinstance(pdb, NativePdb)
    found: dict[str, Any] = {
        "guid": pdb.guid.hex.upper(),
        "info_age": pdb.info_age,
        "dbi_age": pdb.dbi_age,
        "signature": f"{pdb.signature:08X}",
        "block_size": pdb.block_size,
        "streams": pdb.stream_count,
        "flags": pdb.flags,
        "machine": f"{pdb.machine:#06x}",
        "pdb_key": f"{pdb.guid.hex.upper()}{pdb.age:x}",
    }
    assert found == {name: expected[name] for name in found}
    if expected["stripped"]:
        assert pdb.symbols is SymbolKind.PUBLIC


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pdb-portable"))
def test_real_portable_pdbs_are_what_other_tools_say(name: str) -> None:
    expected = truth()[name]
    with FileView(corpus / name) as view:
        pdb = parse_pdb(view)
    assert isinstance(pdb, PortablePdb)
    found = (pdb.guid.hex.upper(), f"{pdb.stamp:08X}", pdb.metadata_version)
    assert found == (expected["guid"], expected["stamp"], expected["metadata_version"])


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pdb-bad"))
def test_bad_pdbs_are_refused_for_the_right_reason(name: str) -> None:
    expected = truth()[name]
    classes = {"corrupt": MalformedInput, "truncated": TruncatedInput, "not-pdb": UnknownFormat}
    with FileView(corpus / name) as view, pytest.raises(InputError) as caught:
        parse_pdb(view)
    said = [expected["error"], *expected.get("error_also", [])]
    assert isinstance(caught.value, tuple(classes[error] for error in said))
    assert "\n" not in str(caught.value)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("pdb"))
def test_the_identity_of_a_real_pdb_takes_few_reads(name: str) -> None:
    with FileView(corpus / name) as view:
        counting = CountingView(view)
        parse_pdb(counting)
    assert len(counting.reads) <= 6
    assert counting.read_bytes < 8 << 10


def test_the_identity_of_a_pdb_of_gibibytes_takes_few_reads() -> None:
    """Its directory alone has 3 MiB, nearly all of it the block numbers of the types, which are skipped."""
    streams = make_streams(NativePdbSpec(GUID, age=7))
    streams[2] = Filler(3 << 30, b"")
    sparse = SparseFile()
    write_msf(sparse, streams)  # type: ignore[arg-type]
    counting = CountingView(sparse)
    pdb = parse_pdb(counting)
    assert isinstance(pdb, NativePdb)
    assert (pdb.guid, pdb.age) == (GUID, 7)
    assert sparse.size > 3 << 30
    assert len(counting.reads) <= 8
    assert counting.read_bytes < 100 << 10


def test_a_directory_of_many_streams_is_not_read_whole() -> None:
    counting = CountingView(BytesView(make_pdb(NativePdbSpec(GUID, extra_streams=60_000))))
    assert parse_native(counting.read(0, counting.size)).stream_count > 60_000
    counting.reads.clear()
    parse_pdb(counting)
    assert counting.read_bytes < 20 << 10


@given(
    spec=st.builds(
        NativePdbSpec,
        guid=st.uuids(),
        age=AGES,
        info_age=AGES,
        timestamp=AGES,
        stripped=st.booleans(),
        mini=st.booleans(),
        machine=st.integers(0, 0xFFFF),
        block_size=st.sampled_from([512, 1024, 4096, 65536]),
        payload_bytes=st.integers(0, 20_000),
        extra_streams=st.integers(0, 300),
    )
)
def test_an_identity_reads_back_as_written(spec: NativePdbSpec) -> None:
    assert parse_native(make_pdb(spec)) == NativePdb(
        guid=spec.guid,
        info_age=spec.info_age or 0,
        dbi_age=spec.age,
        signature=spec.timestamp,
        version=20000404,
        machine=spec.machine,
        flags=2 if spec.stripped else 0,
        mini=spec.mini,
        symbols=SymbolKind.PUBLIC if spec.stripped else SymbolKind.PRIVATE,
        container=Container.MSF,
        block_size=spec.block_size,
        stream_count=9 + bool(spec.payload_bytes) + spec.extra_streams,
    )


def test_the_age_is_that_of_the_debug_information() -> None:
    assert parse_native(make_pdb(NativePdbSpec(GUID, age=1, info_age=4))).age == 1


def test_without_debug_information_there_is_no_age_and_only_types() -> None:
    pdb = parse_native(make_pdb(NativePdbSpec(GUID, info_age=4, dbi=False)))
    assert (pdb.age, pdb.info_age, pdb.dbi_age, pdb.symbols) == (0, 4, None, SymbolKind.TYPE_ONLY)


def test_three_streams_are_a_pdb_without_debug_information() -> None:
    pdb = parse_native(make_msf(make_streams(NativePdbSpec(GUID))[:3]))
    assert (pdb.dbi_age, pdb.symbols) == (None, SymbolKind.TYPE_ONLY)


def test_modules_without_streams_are_public_symbols_whatever_the_flags_say() -> None:
    streams = make_streams(NativePdbSpec(GUID, stripped=True))
    debug = streams[3]
    assert isinstance(debug, bytes)
    streams[3] = debug[:56] + b"\0\0" + debug[58:]
    pdb = parse_native(make_msf(streams))
    assert (pdb.flags, pdb.symbols) == (0, SymbolKind.PUBLIC)


def test_a_later_module_with_a_stream_means_private_symbols() -> None:
    """The first entries are imports or assembler sources at times, without symbols of their own."""
    streams = make_streams(NativePdbSpec(GUID))
    debug = streams[3]
    assert isinstance(debug, bytes)
    module_bytes = int.from_bytes(debug[24:28], "little")
    last = debug[64 : 64 + module_bytes]
    modules = (last[:34] + b"\xff\xff" + last[36:]) * 20 + last
    streams[3] = debug[:24] + len(modules).to_bytes(4, "little") + debug[28:64] + modules
    assert parse_native(make_msf(streams)).symbols is SymbolKind.PRIVATE


def test_damaged_names_of_streams_do_not_cost_the_identity() -> None:
    streams = make_streams(NativePdbSpec(GUID, mini=True))
    info = streams[1]
    assert isinstance(info, bytes)
    streams[1] = info[:28] + b"\xff\xff\xff\x7f" + info[32:]
    pdb = parse_native(make_msf(streams))
    assert (pdb.guid, pdb.mini) == (GUID, False)


@pytest.mark.parametrize("cut", [1, 4096, 100_000])
def test_a_file_that_is_cut_short_is_refused(cut: int) -> None:
    data = make_pdb(NativePdbSpec(GUID, payload_bytes=200_000))
    with pytest.raises(TruncatedInput, match="are promised"):
        parse_pdb(BytesView(data[:-cut]))


def with_stream(index: int, content: bytes) -> bytes:
    streams = make_streams(NativePdbSpec(GUID))
    streams[index] = content
    return make_msf(streams)


@pytest.mark.parametrize(
    ("data", "text"),
    [
        (with_stream(1, b""), "information stream is missing"),
        (with_stream(1, (19970604).to_bytes(4, "little") + bytes(40)), "holds no GUID"),
        (with_stream(1, (20000404).to_bytes(4, "little") + bytes(20)), "holds no GUID"),
        (with_stream(3, b"\xff\xff\xff\xff"), "ends within its header"),
        (with_stream(3, bytes(64)), "unknown version"),
    ],
    ids=["no identity", "before GUIDs", "short identity", "short debug information", "old debug information"],
)
def test_streams_without_an_identity_are_refused(data: bytes, text: str) -> None:
    with pytest.raises(MalformedInput, match=text):
        parse_pdb(BytesView(data))


@pytest.mark.parametrize(
    ("data", "error", "text"),
    [
        (b"", TruncatedInput, "the file is empty"),
        (b"Microsoft C/C++ MSF 7.00", TruncatedInput, "within the magic"),
        (b"BSJ", TruncatedInput, "within the magic"),
        (b"<!DOCTYPE html><html><body>Sign in</body></html>", UnknownFormat, "an HTML or XML page"),
        (b"\xef\xbb\xbf\r\n<HTML>", UnknownFormat, "an HTML or XML page"),
        (b"<?xml version='1.0'?><Error/>", UnknownFormat, "an XML file"),
        (b"Symbol Not Found\nreally", UnknownFormat, "text: 'Symbol Not Found'"),
        (b"MZ\x90\0", UnknownFormat, "an executable image"),
        (b"MSCF\0\0\0\0", UnknownFormat, "a cabinet"),
        (b"PAGEDU64", UnknownFormat, "a kernel dump"),
        (bytes(5000), UnknownFormat, "nothing but zero bytes"),
        (b"\x01\x02\x03\xff", UnknownFormat, "no format that is known"),
    ],
)
def test_what_is_no_pdb_is_named(data: bytes, error: type[InputError], text: str) -> None:
    with pytest.raises(error, match=re.escape(text)):
        parse_pdb(BytesView(data))


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (make_pdb(NativePdbSpec(GUID)), True),
        (make_pdb2(1, 1), True),
        (make_portable_pdb(GUID, 1)[0], True),
        (b"MZ", False),
        (b"", False),
    ],
    ids=["native", "2.0", "portable", "image", "nothing"],
)
def test_a_pdb_is_told_by_its_first_bytes(data: bytes, expected: bool) -> None:
    assert looks_like_pdb(data[:44]) is expected


FULL = NativePdbSpec(
    GUID,
    age=3,
    info_age=5,
    block_size=512,
    structures={"_EPROCESS": StructureLayout(0xA40, {"Pcb": 0, "Peb": 0x550})},
    publics=(PublicSymbol("PsLoadedModuleList", 0x5000),),
    extra_streams=200,
)


@given(st.binary(max_size=3000))
def test_noise_is_an_input_error(noise: bytes) -> None:
    head = make_pdb(FULL)[:32]
    for data in (noise, head + noise, b"BSJB" + noise):
        with pytest.raises(InputError):
            parse_pdb(BytesView(data))


SEEDS = {
    "native": make_pdb(FULL),
    "public": make_pdb(replace(FULL, stripped=True, block_size=4096)),
    "MSFZ": make_compressed_pdb(FULL, Packing.NONE),
    "MSFZ deflate": make_compressed_pdb(FULL, Packing.DEFLATE),
    "2.0": make_pdb2(0x3E4A21B7, 1, payload_bytes=3000),
    "portable": make_portable_pdb(GUID, 1)[0],
}


def count_refused(seed: bytes, count: int, rng_seed: int) -> int:
    refused = 0
    for mutant in mutants(seed, count, hot=512, rng_seed=rng_seed):
        try:
            parse_pdb(BytesView(mutant))
        except InputError:
            refused += 1
    return refused


@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_damage_is_an_input_error(seed: bytes) -> None:
    assert count_refused(seed, 500, 0) > 50


@pytest.mark.slow
@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_much_damage_is_an_input_error(seed: bytes) -> None:
    assert count_refused(seed, 100_000, 1) > 10_000
