from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.mutation import mutants
from support.shared import corpus
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image

from symcache.errors import InputError
from symcache.formats.glance import glance_at_image, glance_at_pdb
from symcache.formats.pdb.info import NativePdb, parse_pdb
from symcache.formats.pe.image import Layout, parse_image
from symcache.formats.view import BytesView
from symcache.identity import ImageKey, PdbKey
from symcache.stores.check import check_view

if TYPE_CHECKING:
    from pathlib import Path

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
SPEC = NativePdbSpec(GUID, 3)
IMAGE = ImageKey("a.dll", 0x5F000001, 0x9000)

PDBS = {
    "private": SPEC,
    "public": replace(SPEC, stripped=True),
    "small blocks": replace(SPEC, block_size=512),
    "large blocks": replace(SPEC, block_size=8192),
    "long directory": replace(SPEC, block_size=512, extra_streams=2000),
    "large": replace(SPEC, payload_bytes=3 << 20, block_size=1024),
    "edited": replace(SPEC, info_age=7),
}
ODD = {
    "no debug information": replace(SPEC, dbi=False),
}


@pytest.mark.parametrize("spec", PDBS.values(), ids=PDBS)
def test_a_pdb_is_known_at_a_glance(tmp_path: Path, spec: NativePdbSpec) -> None:
    path, content = tmp_path / "a.pdb", make_pdb(spec)
    path.write_bytes(content)
    assert glance_at_pdb(str(path), GUID.bytes_le, 3) == len(content)
    assert glance_at_pdb(str(path), GUID.bytes_le, 4) is None
    assert glance_at_pdb(str(path), UUID(int=1).bytes_le, 3) is None
    path.write_bytes(content[:-1])
    assert glance_at_pdb(str(path), GUID.bytes_le, 3) is None


@pytest.mark.parametrize("spec", ODD.values(), ids=ODD)
def test_an_odd_pdb_is_left_to_the_parser(tmp_path: Path, spec: NativePdbSpec) -> None:
    path = tmp_path / "a.pdb"
    path.write_bytes(make_pdb(spec))
    assert glance_at_pdb(str(path), GUID.bytes_le, 0) is None


@pytest.mark.parametrize("pe32_plus", [True, False])
def test_an_image_is_known_at_a_glance(tmp_path: Path, pe32_plus: bool) -> None:
    path = tmp_path / "a.dll"
    content = disk_bytes(replace(plan_image(IMAGE, PdbKey("a.pdb", GUID, 3)), pe32_plus=pe32_plus))
    path.write_bytes(content)
    assert glance_at_image(str(path), IMAGE.timestamp, IMAGE.size_of_image) == len(content)
    assert glance_at_image(str(path), IMAGE.timestamp, 0x8000) is None
    assert glance_at_image(str(path), 1, IMAGE.size_of_image) is None
    path.write_bytes(content[: len(content) - 0x200])
    assert glance_at_image(str(path), IMAGE.timestamp, IMAGE.size_of_image) is None


@pytest.mark.parametrize("content", [b"", b"MZ", b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0", bytes(4096)])
def test_what_ends_early_or_is_something_else_is_left_to_the_parser(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert glance_at_pdb(str(path), GUID.bytes_le, 3) is None
    assert glance_at_image(str(path), 0, 0) is None
    assert glance_at_pdb(str(tmp_path / "none"), GUID.bytes_le, 3) is None
    assert glance_at_image(str(tmp_path), 0, 0) is None


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="a pipe by name is a thing of Unix")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "a.pdb")
    assert glance_at_pdb(str(tmp_path / "a.pdb"), GUID.bytes_le, 3) is None


@pytest.mark.parametrize("spec", [PDBS["private"], PDBS["public"], PDBS["long directory"]])
def test_a_yes_to_a_damaged_pdb_is_one_that_the_parser_gives_too(tmp_path: Path, spec: NativePdbSpec) -> None:
    path, key = tmp_path / "a.pdb", PdbKey("a.pdb", GUID, 3)
    for content in mutants(make_pdb(spec), 400):
        path.write_bytes(content)
        if glance_at_pdb(str(path), GUID.bytes_le, 3) is not None:
            assert check_view(BytesView(content), key).is_right


def test_a_yes_to_a_damaged_image_is_one_that_the_parser_gives_too(tmp_path: Path) -> None:
    path = tmp_path / "a.dll"
    for content in mutants(disk_bytes(plan_image(IMAGE, PdbKey("a.pdb", GUID, 3))), 400, hot=1024):
        path.write_bytes(content)
        if glance_at_image(str(path), IMAGE.timestamp, IMAGE.size_of_image) is not None:
            assert check_view(BytesView(content), IMAGE).is_right


@pytest.mark.skipif(not corpus.is_dir(), reason="the shared files are not here")
def test_real_files_are_known_at_a_glance() -> None:
    known = 0
    for path in sorted([*(corpus / "pdb").iterdir(), *(corpus / "pe").iterdir()]):
        view = BytesView(path.read_bytes())
        try:
            pdb = parse_pdb(view)
        except InputError:
            pass
        else:
            if isinstance(pdb, NativePdb):
                known += glance_at_pdb(str(path), pdb.guid.bytes_le, pdb.age) == view.size
            continue
        try:
            image = parse_image(view, Layout.DISK)
        except InputError:
            continue
        size = glance_at_image(str(path), image.timestamp, image.size_of_image)
        assert size is None or view.size >= image.extent_bytes
        known += size == view.size
    assert known >= 10
