from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import InputError, MalformedInput, TruncatedInput
from symcache.formats.pe.debug import Nb10, Rsds, parse_code_view

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
RSDS = b"RSDS" + GUID.bytes_le + (10).to_bytes(4, "little")
NB10 = b"NB10" + bytes(4) + (0x3E4A21B7).to_bytes(4, "little") + (2).to_bytes(4, "little")


def test_an_rsds_record_names_guid_age_and_path() -> None:
    assert parse_code_view(RSDS + b"D:\\b\\nt.pdb\0") == Rsds(GUID, 10, "D:\\b\\nt.pdb")


def test_an_nb10_record_names_signature_age_and_path() -> None:
    assert parse_code_view(NB10 + b"oldtool.pdb\0") == Nb10(0x3E4A21B7, 2, "oldtool.pdb")


def test_padding_after_the_name_is_no_part_of_it() -> None:
    record = parse_code_view(RSDS + b"a.pdb\0" + b"\xcc" * 200)
    assert record is not None
    assert record.path == "a.pdb"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        pytest.param("größe.pdb".encode(), "größe.pdb", id="utf-8"),
        pytest.param("größe€.pdb".encode("cp1252"), "größe€.pdb", id="windows-1252"),
        pytest.param(b"\x81\xe4.pdb", "\x81ä.pdb", id="latin-1"),
    ],
)
def test_names_are_read_in_the_encoding_that_fits(name: bytes, text: str) -> None:
    record = parse_code_view(RSDS + name + b"\0")
    assert record is not None
    assert record.path == text


@pytest.mark.parametrize("record", [RSDS, NB10], ids=["rsds", "nb10"])
def test_a_record_cut_within_its_fixed_part_is_truncated(record: bytes) -> None:
    for length in range(4, len(record)):
        with pytest.raises(TruncatedInput) as caught:
            parse_code_view(record[:length], at=0x500)
        assert caught.value.offset == 0x500


def test_a_name_without_nul_is_refused_unless_the_record_may_end_it() -> None:
    with pytest.raises(MalformedInput, match="not terminated") as caught:
        parse_code_view(RSDS + b"a.pdb", at=0x100)
    assert caught.value.offset == 0x118
    assert parse_code_view(RSDS + b"a.pdb", needs_nul=False) == Rsds(GUID, 10, "a.pdb")


@pytest.mark.parametrize("record", [b"", b"RSD", b"NB09" + bytes(40), b"LEpB" + bytes(20)])
def test_other_records_name_no_pdb(record: bytes) -> None:
    assert parse_code_view(record) is None


@given(st.uuids(), st.integers(0, 2**32 - 1), st.text(st.characters(exclude_characters="\0", codec="utf-8")))
def test_a_record_reads_back_as_written(guid: UUID, age: int, path: str) -> None:
    record = b"RSDS" + guid.bytes_le + age.to_bytes(4, "little") + path.encode() + b"\0"
    assert parse_code_view(record) == Rsds(guid, age, path)


@given(st.one_of(st.binary(), st.binary().map(b"RSDS".__add__), st.binary().map(b"NB10".__add__)), st.booleans())
def test_any_record_is_read_or_refused(record: bytes, needs_nul: bool) -> None:
    try:
        parse_code_view(record, needs_nul=needs_nul)
    except InputError as error:
        assert error.offset is not None  # noqa: PT017 - a record may be sound, too
