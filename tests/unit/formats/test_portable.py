from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.mutation import mutants
from support.shared import corpus, needs_corpus, truth
from support.synth.pdb import make_portable_pdb
from support.views import CountingView

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.pdb.info import compute_portable_checksum, parse_portable
from symcache.formats.view import BytesView, FileView

GUID = UUID("1d6929b4-468b-4db8-9389-9a12bd257e1b")


@given(st.uuids(), st.integers(0, 0xFFFFFFFF), st.integers(0, 5000))
def test_the_id_reads_back_and_the_checksum_agrees(guid: UUID, stamp: int, payload_bytes: int) -> None:
    data, checksum = make_portable_pdb(guid, stamp, payload_bytes=payload_bytes)
    view = BytesView(data)
    pdb = parse_portable(view)
    assert (pdb.guid, pdb.stamp, pdb.metadata_version) == (guid, stamp, "PDB v1.0")
    assert compute_portable_checksum(view, "SHA256", id_offset=pdb.id_offset) == checksum


@needs_corpus
@pytest.mark.parametrize(
    ("pdb", "image"),
    [("portable.pdb", "integration.dll"), ("srconv_SourceLink.pdbx", "srconv_SourceLink.Embedded.dll")],
)
def test_the_checksum_of_a_real_pdb_is_what_its_image_states(pdb: str, image: str) -> None:
    stated = truth()[f"pe/{image}"]["pdb_checksums"][0]
    with FileView(corpus / "pdb-portable" / pdb) as view:
        id_offset = parse_portable(view).id_offset
        assert compute_portable_checksum(view, stated["algorithm"], id_offset=id_offset) == stated["hash"]


@pytest.mark.parametrize(("name", "digits"), [("SHA1", 40), ("sha256", 64), ("SHA-384", 96), ("SHA512", 128)])
def test_every_algorithm_of_the_format_is_known(name: str, digits: int) -> None:
    data, _ = make_portable_pdb(GUID, 1)
    assert len(compute_portable_checksum(BytesView(data), name, id_offset=100)) == digits


def test_an_unknown_algorithm_is_refused() -> None:
    with pytest.raises(UnknownFormat, match="MD5"):
        compute_portable_checksum(BytesView(bytes(30)), "MD5", id_offset=0)


def test_a_checksum_is_computed_in_pieces() -> None:
    data, checksum = make_portable_pdb(GUID, 1, payload_bytes=3 << 20)
    view = CountingView(BytesView(data))
    assert compute_portable_checksum(view, "SHA256", id_offset=parse_portable(view).id_offset) == checksum
    assert max(length for _, length in view.reads) <= 1 << 20


def test_identity_needs_two_small_reads() -> None:
    data, _ = make_portable_pdb(GUID, 1, payload_bytes=3 << 20)
    view = CountingView(BytesView(data))
    parse_portable(view)
    assert len(view.reads) == 2
    assert view.read_bytes <= 5000


def test_metadata_of_an_assembly_is_no_pdb() -> None:
    data, _ = make_portable_pdb(GUID, 1)
    with pytest.raises(UnknownFormat, match="without a #Pdb stream"):
        parse_portable(BytesView(data.replace(b"#Pdb", b"#Foo")))


@pytest.mark.parametrize(
    ("offset", "value", "text"),
    [
        (12, 0xFFFFFFFF, "metadata version"),
        (36, 19, "too short for an id"),
        (40, 0x41414141, "without a #Pdb"),
    ],
    ids=["version text", "short id", "another name"],
)
def test_a_root_that_cannot_be_is_refused(offset: int, value: int, text: str) -> None:
    data, _ = make_portable_pdb(GUID, 1)
    damaged = data[:offset] + value.to_bytes(4, "little") + data[offset + 4 :]
    with pytest.raises((MalformedInput, UnknownFormat), match=text):
        parse_portable(BytesView(damaged))


def test_a_root_without_end_is_refused() -> None:
    data, _ = make_portable_pdb(GUID, 1)
    names = (b"\0" * 8 + b"#A\0\0") * 500
    with pytest.raises(MalformedInput, match="does not end within 4096 bytes"):
        parse_portable(BytesView(data[:30] + b"\xff\xff" + names))


@pytest.mark.parametrize("length", [4, 15, 20, 34, 60, 130])
def test_a_file_that_is_cut_short_is_refused(length: int) -> None:
    data, _ = make_portable_pdb(GUID, 1)
    with pytest.raises((TruncatedInput, MalformedInput)):
        parse_portable(BytesView(data[:length]))


def test_damage_is_an_input_error() -> None:
    data, _ = make_portable_pdb(GUID, 1)
    refused = 0
    for mutant in mutants(data, 1000, hot=144):
        try:
            parse_portable(BytesView(mutant))
        except InputError:
            refused += 1
    assert refused > 100
