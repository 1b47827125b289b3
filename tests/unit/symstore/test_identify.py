from __future__ import annotations

import os
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.synth.pdb import NativePdbSpec, make_compressed_pdb, make_pdb, make_pdb2, make_portable_pdb
from support.synth.pe import disk_bytes, plan_image

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.identity import ImageKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.symstore.admin import Addition, Unidentified, identify, identify_all
from symcache.symstore.transactions import Content
from symcache.upkeep.filechecks import why_private

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.identity import Key

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
IMAGE = ImageKey("a.dll", 0x5E0B1234, 0x21000)
SPEC = NativePdbSpec(GUID, 3)
STRIPPED = NativePdbSpec(GUID, 3, stripped=True)
TYPES = NativePdbSpec(GUID, 3, dbi=False)

FILES: dict[str, tuple[bytes, Key, Content, str | None]] = {
    "private": (make_pdb(SPEC), PdbKey("a.pdb", GUID, 3), Content.PRIVATE, "it holds private symbols"),
    "public": (make_pdb(STRIPPED), PdbKey("a.pdb", GUID, 3), Content.PUBLIC, None),
    "types": (make_pdb(TYPES), PdbKey("a.pdb", GUID, 0), Content.TYPES, None),
    "old": (make_pdb2(0x37A8F40E, 2), Pdb2Key("a.pdb", 0x37A8F40E, 2), Content.PRIVATE, "it does not say"),
    "portable": (make_portable_pdb(GUID, 1)[0], PortablePdbKey("a.pdb", GUID), Content.PRIVATE, None),
    "image": (disk_bytes(plan_image(IMAGE)), IMAGE, Content.BINARY, None),
}


def put(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("kind", FILES)
def test_a_file_is_what_its_content_says(tmp_path: Path, kind: str) -> None:
    content, key, noted, private = FILES[kind]
    path = put(tmp_path, key.name, content)
    assert identify(path) == Addition(key, path, noted)
    said = why_private(path, key)
    assert said is None if private is None else said is not None and said.startswith(private)


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        (b"", UnknownFormat, "empty"),
        (b"text", UnknownFormat, "neither"),
        (make_compressed_pdb(SPEC), UnknownFormat, "MSFZ"),
        (make_pdb(NativePdbSpec(UUID(int=0), 1)), MalformedInput, "nil"),
        (FILES["image"][0][:-100], MalformedInput, "cut short"),
        (FILES["private"][0][:-4096], InputError, "blocks"),
    ],
    ids=["empty", "text", "msfz", "nil", "cut image", "cut pdb"],
)
def test_what_no_debugger_could_use_is_refused(
    tmp_path: Path, content: bytes, error: type[InputError], text: str
) -> None:
    with pytest.raises(error, match=text):
        identify(put(tmp_path, "a.pdb", content))


def test_a_name_that_a_store_keeps_for_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MalformedInput, match="keeps that name"):
        identify(put(tmp_path, "file.ptr", FILES["private"][0]))


def test_folders_are_walked_in_order_and_foreign_files_told_from_damaged_ones(tmp_path: Path) -> None:
    put(tmp_path, "b/z.dll", FILES["image"][0])
    put(tmp_path, "a.pdb", FILES["private"][0])
    put(tmp_path, "notes.txt", b"text")
    put(tmp_path, "cut.pdb", FILES["private"][0][:5000])
    put(tmp_path, "store/a.pdb/1/a.pdb", FILES["private"][0])
    found = list(identify_all([tmp_path, tmp_path / "notes.txt"], but=tmp_path / "store"))
    assert [each.path.name for each in found] == ["a.pdb", "cut.pdb", "notes.txt", "z.dll", "notes.txt"]
    others = [each for each in found if isinstance(each, Unidentified)]
    assert [each.is_foreign for each in others] == [False, True, False]


@pytest.mark.skipif(os.name == "nt", reason="links need a privilege on Windows")
def test_links_to_folders_are_not_followed_and_pipes_not_opened(tmp_path: Path) -> None:
    put(tmp_path, "in/a.pdb", FILES["private"][0])
    (tmp_path / "in" / "loop").symlink_to(tmp_path / "in", target_is_directory=True)
    (tmp_path / "in" / "broken").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "in" / "pipe")
    assert [each.path.name for each in identify_all([tmp_path / "in"], but=tmp_path / "store")] == ["a.pdb"]


@given(st.data())
def test_damaged_files_raise_nothing_but_input_errors(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = data.draw(st.sampled_from([each[0] for each in FILES.values()]))
    at = data.draw(st.integers(0, len(content) - 1))
    path = put(
        tmp_path_factory.mktemp("d"), "a.pdb", content[:at] + data.draw(st.binary(max_size=8)) + content[at + 4 :]
    )
    try:
        found = identify(path)
    except InputError:
        return
    why_private(path, found.key)
