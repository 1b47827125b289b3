from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.identity import ImageKey, PdbKey
from symcache.server.symbols import FileAsked, MalformedPath, Mark, parse_path, read_in_decimal
from symcache.stores.base import Form

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
HEX = GUID.hex.upper()
PDB = PdbKey("ntkrnlmp.pdb", GUID, 0x1A)


@pytest.mark.parametrize(
    "path",
    [
        f"/ntkrnlmp.pdb/{HEX}1a/ntkrnlmp.pdb",
        f"/download/symbols/ntkrnlmp.pdb/{HEX}1a/ntkrnlmp.pdb",
        f"/nt/ntkrnlmp.pdb/{HEX}1a/ntkrnlmp.pdb",
        f"//ntkrnlmp.pdb/{HEX}1a/ntkrnlmp.pdb",
        f"/ntkrnlmp.pdb/{HEX.lower()}1A/NTKRNLMP.PDB",
        f"/%6etkrnlmp%2Epdb/{HEX}1a/ntkrnlmp.pdb",
    ],
    ids=["root", "prefix", "two tiers", "double slash", "letter case", "percent"],
)
def test_the_last_three_parts_name_the_file(path: str) -> None:
    asked = parse_path(path.encode())
    assert isinstance(asked, FileAsked)
    assert (asked.key, asked.form) == (PDB, Form.PLAIN)


@pytest.mark.parametrize(
    ("file", "form"),
    [("x.dl_", Form.COMPRESSED), ("X.DL_", Form.COMPRESSED), ("file.ptr", Form.POINTER), ("x.dll", Form.PLAIN)],
)
def test_a_file_has_three_forms(file: str, form: Form) -> None:
    asked = parse_path(f"/x.dll/6AA9A872c000/{file}".encode())
    assert isinstance(asked, FileAsked)
    assert (asked.key, asked.form) == (ImageKey("x.dll", 0x6AA9A872, 0xC000), form)


@pytest.mark.parametrize("path", ["/index2.txt", "/a/b/Index2.txt", "/pingme.txt"])
def test_marks_of_a_store_are_known_below_any_prefix(path: str) -> None:
    assert isinstance(parse_path(path.encode()), Mark)


@pytest.mark.parametrize("path", ["/", "/x", "/x.pdb/AB", f"/x.pdb/{HEX}1/y.pdb", f"/x.pdb/{HEX}1/msfz0/x.pdb"])
def test_other_paths_are_no_files(path: str) -> None:
    assert parse_path(path.encode()) is None


@pytest.mark.parametrize(
    "path",
    [
        "/../x.pdb/AB/x.pdb",
        "/a/./x.pdb/AB/x.pdb",
        "/%2e%2e/AB/%2e%2e",
        "/x%2fy/AB/x%2fy",
        "/x%5cy/AB/x%5cy",
        "/x%00/AB/x%00",
        "/con.pdb/AB/con.pdb",
        "/x.pdb:s/AB/x.pdb:s",
        "/file.ptr/AB/file.ptr",
        "/000Admin/AB/000Admin",
        "/%ff/AB/%ff",
        "/" + "a" * 300 + "/AB/" + "a" * 300,
        "/" + "a/" * 3000,
        "x.pdb/AB/x.pdb",
        "*",
    ],
)
def test_a_path_that_no_file_can_have_is_malformed(path: str) -> None:
    with pytest.raises(MalformedPath):
        parse_path(path.encode())


@given(st.binary(max_size=200))
def test_any_bytes_are_a_file_something_else_or_malformed(path: bytes) -> None:
    try:
        asked = parse_path(b"/" + path)
    except MalformedPath:
        return
    if isinstance(asked, FileAsked):
        assert not {"/", "\\", "\0"} & set(asked.key.name + asked.key.id)
        assert ".." not in {asked.key.name, asked.key.id}


@pytest.mark.parametrize(
    ("id_text", "age"), [(f"{HEX}26", 26), (f"{HEX}10", 10), (f"{HEX}9", None), (f"{HEX}1a", None), (f"{HEX}026", None)]
)
def test_an_age_of_digits_has_a_second_reading(id_text: str, age: int | None) -> None:
    asked = parse_path(f"/x.pdb/{id_text}/x.pdb".encode())
    assert isinstance(asked, FileAsked)
    assert read_in_decimal(asked) == (None if age is None else PdbKey("x.pdb", GUID, age))
