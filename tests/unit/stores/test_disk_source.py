from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.sources import cabinet
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.synth.version import VersionPlan, version_bytes

from symcache.config import load_config
from symcache.identity import ImageKey, OtherKey, PdbKey, compressed_name
from symcache.stores.disk import DiskSource
from symcache.stores.results import Present

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.identity import Key

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
PDB = PdbKey("crash.pdb", GUID, 2)
IMAGE = ImageKey("crash.exe", 0x5F000000, 0x9000)
KERNEL = ImageKey("ntoskrnl.exe", 0x5F000001, 0x9000)
COPY = ImageKey("dump_storport.sys", 0x5F000002, 0x9000)


def content(key: Key) -> bytes:
    if isinstance(key, PdbKey):
        return make_pdb(NativePdbSpec(key.guid, key.age))
    assert isinstance(key, ImageKey)
    return disk_bytes(plan_image(key, PDB))


def put(root: Path, key: Key, *, at: str | None = None, data: bytes | None = None) -> Path:
    path = root / (at or key.index)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content(key) if data is None else data)
    return path


@pytest.fixture
def root(tmp_path: Path) -> Path:
    folder = tmp_path / "sym"
    folder.mkdir()
    return folder


@pytest.fixture
def source(root: Path) -> Iterator[DiskSource]:
    with closing(DiskSource(load_config(environ={}, symbol_path=f"srv*{root}*https://one.test"))) as source:
        yield source


def glance(source: DiskSource, key: Key, *, for_debugger: bool) -> Present | None:
    (found,) = source.glance([key], for_debugger=for_debugger)
    return found


@pytest.mark.parametrize("for_debugger", [True, False])
@pytest.mark.parametrize("key", [PDB, IMAGE, KERNEL], ids=str)
def test_a_glance_finds_what_a_look_finds(root: Path, source: DiskSource, key: Key, for_debugger: bool) -> None:
    path = put(root, key)
    found = glance(source, key, for_debugger=for_debugger)
    assert found == Present(path, path.stat().st_size)
    assert found == (source.find_for_debugger(key) if for_debugger else source.find(key))


def test_a_glance_looks_for_a_driver_under_the_name_of_its_file(root: Path, source: DiskSource) -> None:
    path = put(root, COPY, at=f"storport.sys/{COPY.id}/storport.sys")
    assert glance(source, COPY, for_debugger=True) == Present(path, path.stat().st_size)
    assert glance(source, COPY, for_debugger=False) is None
    assert source.find_for_debugger(COPY) == Present(path, path.stat().st_size)


@pytest.mark.parametrize(
    "place",
    [
        f"CRASH.PDB/{PDB.id}/crash.pdb",
        f"cr/{PDB.index}",
        f"crash.pdb/{PDB.id}/{compressed_name(PDB.name)}",
        f"crash.pdb/{PDB.id}/file.ptr",
    ],
)
def test_a_glance_leaves_to_a_look_what_lies_elsewhere(root: Path, source: DiskSource, place: str) -> None:
    put(root, PDB, at=place)
    if not (root / PDB.index).exists():  # letter case counts on this disk
        assert glance(source, PDB, for_debugger=True) is None


def test_a_glance_knows_a_store_of_two_tiers(root: Path, source: DiskSource) -> None:
    (root / "index2.txt").touch()
    path = put(root, PDB, at=f"cr/{PDB.index}")
    put(root, IMAGE)  # where no debugger looks
    assert list(source.glance([PDB, IMAGE], for_debugger=True)) == [Present(path, path.stat().st_size), None]


@pytest.mark.parametrize("data", [b"", b"<html>", content(PdbKey("crash.pdb", UUID(int=1), 2)), content(PDB)[:-1]])
def test_a_glance_takes_no_wrong_file(root: Path, source: DiskSource, data: bytes) -> None:
    put(root, PDB, data=data)
    assert glance(source, PDB, for_debugger=True) is None


def test_a_glance_says_nothing_of_other_kinds_and_without_a_store(root: Path, source: DiskSource) -> None:
    other = OtherKey("a.so", "elf-buildid-180a373d6afbabf0eb1f09be1bc45bd796a71085")
    put(root, other, data=b"\x7fELF")
    assert glance(source, other, for_debugger=True) is None
    with closing(DiskSource(load_config(environ={}, symbol_path=str(root)))) as folder:
        assert list(folder.glance([PDB], for_debugger=True)) == [None]


def test_only_a_fetch_notes_that_a_file_is_used(root: Path, source: DiskSource) -> None:
    put(root, PDB)
    glance(source, PDB, for_debugger=True)
    source.close()
    assert not (root / ".symcache").exists()
    glance(source, PDB, for_debugger=False)
    source.close()
    assert PDB.folded in (root / ".symcache" / "access" / "recent").read_text()


def test_what_seems_held_is_what_a_look_finds_in_any_form_and_under_any_name(root: Path, source: DiskSource) -> None:
    put(root, PDB, at=f"crash.pdb/{PDB.id}/crash.pd_", data=b"MSCF")
    put(root, KERNEL, at=f"ntkrnlmp.exe/{KERNEL.id}/ntkrnlmp.exe")
    put(root, IMAGE, at=f"crash.exe/{IMAGE.id}/other.exe")
    assert source.seem_held([PDB, KERNEL, IMAGE, COPY]) == {PDB.folded, KERNEL.folded}


def test_a_place_that_cannot_be_listed_is_left_to_a_look(root: Path, source: DiskSource) -> None:
    root.rmdir()
    root.write_bytes(b"no folder")
    assert source.seem_held([PDB]) <= {PDB.folded}
    assert source.find_for_debugger(PDB) is None


def test_an_image_in_a_store_says_who_made_it(source: DiskSource, root: Path) -> None:
    version = version_bytes(VersionPlan({"040904b0": {"CompanyName": "Example Ltd"}}))
    data = disk_bytes(replace(plan_image(IMAGE, PDB), versions=((1, 0x409, version),)))
    assert source.find_version(IMAGE) is None
    put(root, IMAGE, at=compressed_name(IMAGE.index), data=cabinet(data))
    found = source.find_version(IMAGE)
    assert found is not None
    assert found.company == "Example Ltd"
    put(root, COPY)
    assert source.find_image(COPY) is not None
    assert source.find_version(COPY) is None


def test_a_version_that_cannot_be_read_is_none(source: DiskSource, root: Path) -> None:
    data = disk_bytes(replace(plan_image(IMAGE, PDB), versions=((1, 0x409, b"\0" * 8),)))
    put(root, IMAGE, data=data)
    assert source.find_version(IMAGE) is None
