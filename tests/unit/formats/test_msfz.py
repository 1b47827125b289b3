from __future__ import annotations

import importlib.util
import struct
import zlib
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutation import mutants
from support.synth.pdb import NativePdbSpec, Packing, make_compressed_pdb, make_msfz, make_streams

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.pdb import msf as msfz_module
from symcache.formats.pdb.info import Container, NativePdb, parse_pdb
from symcache.formats.pdb.msf import Msfz
from symcache.formats.view import BytesView

ZSTD = importlib.util.find_spec("compression") is not None
GUID = UUID("72e103a8-5cb2-4907-8b76-b2e7c06257b1")
STREAMS = st.lists(st.one_of(st.none(), st.binary(max_size=3000)), min_size=1, max_size=12)
PACKINGS = [Packing.NONE, Packing.DEFLATE] + ([Packing.ZSTD] if ZSTD else [])


def contents(spec: NativePdbSpec) -> list[bytes | None]:
    return [None if content is None else content[:] for content in make_streams(spec)]


@given(STREAMS, st.sampled_from(PACKINGS), st.sampled_from([1, 7, 500, 65536]), st.sampled_from([3, 999, 65536]))
def test_streams_read_back_as_written(
    streams: list[bytes | None], packing: Packing, chunk_bytes: int, fragment_bytes: int
) -> None:
    if chunk_bytes == 1:  # a table entry for each byte
        streams = [None if content is None else content[:40] for content in streams]
    data = make_msfz(streams, packing, chunk_bytes=chunk_bytes, fragment_bytes=fragment_bytes)
    msfz = Msfz(BytesView(data))
    assert msfz.stream_count == len(streams)
    for index in reversed(range(len(streams))):
        content = streams[index]
        view = msfz.stream(index)
        assert msfz.stream_size(index) == (None if content is None else len(content))
        assert view.read(0, view.size) == (content or b"")
        half = view.size // 2
        assert view.read(half, view.size - half) == (content or b"")[half:]


@pytest.mark.parametrize("packing", PACKINGS)
def test_the_identity_is_that_of_the_same_streams_in_blocks(packing: Packing) -> None:
    pdb = parse_pdb(BytesView(make_compressed_pdb(NativePdbSpec(GUID, age=3, info_age=5), packing)))
    assert isinstance(pdb, NativePdb)
    assert (pdb.guid, pdb.info_age, pdb.dbi_age, pdb.age) == (GUID, 5, 3, 3)
    assert (pdb.container, pdb.block_size, pdb.unread) == (Container.MSFZ, None, None)


def as_zstd(data: bytes, *, directory: bool) -> bytes:
    """Claim zstd for what is compressed by deflate; no one gets as far as looking at it."""
    if directory:
        return data[:0x3C] + struct.pack("<I", 1) + data[0x40:]
    (table_at,) = struct.unpack_from("<Q", data, 0x30)
    return data[: table_at + 8] + struct.pack("<I", 1) + data[table_at + 12 :]


@pytest.mark.skipif(ZSTD, reason="this Python reads zstd")
@pytest.mark.parametrize("directory", [True, False])
def test_without_zstd_a_file_is_not_verifiable(directory: bool) -> None:
    data = as_zstd(make_compressed_pdb(NativePdbSpec(GUID)), directory=directory)
    with pytest.raises(UnknownFormat, match=r"MSFZ, not verifiable: .* zstd, which needs Python 3\.14"):
        parse_pdb(BytesView(data))


@pytest.mark.skipif(ZSTD, reason="this Python reads zstd")
def test_an_information_stream_that_is_not_compressed_tells_the_key_without_zstd() -> None:
    packed = make_msfz(
        contents(NativePdbSpec(GUID, age=3, info_age=5)), Packing.DEFLATE, plain=frozenset({1}), plain_directory=True
    )
    pdb = parse_pdb(BytesView(as_zstd(packed, directory=False)))
    assert isinstance(pdb, NativePdb)
    assert (pdb.guid, pdb.dbi_age, pdb.age, pdb.symbols) == (GUID, None, 5, None)
    assert "zstd" in (pdb.unread or "")


def test_zstd_is_asked_for_no_more_than_is_stated(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def decompress(data: bytes, limit: int) -> bytes:
        asked.append(limit)
        return zlib.decompress(data, wbits=-15)

    monkeypatch.setattr(msfz_module, "_decompress_zstd", decompress)
    data = as_zstd(make_compressed_pdb(NativePdbSpec(GUID, age=3)), directory=True)
    assert parse_pdb(BytesView(data)) == parse_pdb(BytesView(make_compressed_pdb(NativePdbSpec(GUID, age=3))))
    assert asked == [int.from_bytes(data[0x44:0x48], "little")]


@pytest.mark.parametrize(
    ("offset", "form", "value", "error", "text"),
    [
        (0x20, "<Q", 1, UnknownFormat, "MSFZ version 1"),
        (0x28, "<Q", 1 << 50, TruncatedInput, "ends within"),
        (0x30, "<Q", 1 << 50, MalformedInput, "chunk table"),
        (0x38, "<I", 0xFFFFFFFF, MalformedInput, "stream directory of"),
        (0x3C, "<I", 9, UnknownFormat, r"unknown way \(9\)"),
        (0x44, "<I", 0xFFFFFFFF, MalformedInput, "stream directory of"),
        (0x44, "<I", 5000, MalformedInput, "of 5000 bytes"),
        (0x48, "<I", 0xFFFFFFFF, MalformedInput, "chunk table"),
    ],
    ids=["version", "directory", "table", "streams", "compression", "huge directory", "wrong size", "chunks"],
)
def test_a_header_that_cannot_be_is_refused(
    offset: int, form: str, value: int, error: type[InputError], text: str
) -> None:
    data = bytearray(make_compressed_pdb(NativePdbSpec(GUID)))
    struct.pack_into(form, data, offset, value)
    with pytest.raises(error, match=text):
        parse_pdb(BytesView(bytes(data)))


def test_damaged_deflate_data_is_refused() -> None:
    data = bytearray(make_compressed_pdb(NativePdbSpec(GUID)))
    data[80:120] = b"\xff" * 40
    with pytest.raises(MalformedInput, match="chunk 0 is damaged"):
        parse_pdb(BytesView(bytes(data)))


def test_streams_scattered_over_well_packed_chunks_are_given_up() -> None:
    """A few KiB could otherwise keep a machine busy for hours: every byte expands another 32 MiB."""
    limit = 32 << 20
    bomb = make_msfz([bytes(limit)], chunk_bytes=limit, fragment_bytes=limit)
    (table_at,) = struct.unpack_from("<Q", bomb, 0x30)
    at, _, packed, size = struct.unpack_from("<QIII", bomb, table_at)
    assert size == limit
    fragments = b"".join(struct.pack("<IQ", 1, 1 << 63 | number % 2 << 32) for number in range(1000))
    directory = fragments + struct.pack("<I", 0)
    entry = struct.pack("<QIII", at, Packing.DEFLATE, packed, size)
    body = bomb[80 : at + packed]
    head = b"Microsoft MSFZ Container\r\n\x1aALD\0\0" + struct.pack(
        "<QQQIIIIII", 0, 80 + len(body), 80 + len(body) + len(directory), 1, 0, len(directory), len(directory), 2, 40
    )
    view = Msfz(BytesView(head + body + directory + entry * 2)).stream(0)
    with pytest.raises(MalformedInput, match="more chunks than can be expanded"):
        view.read(0, view.size)


def test_a_read_past_a_stream_is_refused() -> None:
    with pytest.raises(TruncatedInput, match="stream 0 ends at 0x3"):
        Msfz(BytesView(make_msfz([b"abc"]))).stream(0).read(1, 3)


@pytest.mark.parametrize("packing", [Packing.NONE, Packing.DEFLATE])
def test_damage_is_an_input_error(packing: Packing) -> None:
    refused = 0
    for mutant in mutants(make_compressed_pdb(NativePdbSpec(GUID), packing), 1000, hot=80):
        try:
            parse_pdb(BytesView(mutant))
        except InputError:
            refused += 1
    assert refused > 100
