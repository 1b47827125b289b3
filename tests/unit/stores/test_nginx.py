"""The same against a server that nobody here has written."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PATH, PDB, Rig
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.config import values
from symcache.formats.pe.image import Image
from symcache.stores.http import download
from symcache.stores.results import Fetched, Missing

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.nginx import Nginx


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "served"


def serve(root: Path, path: str, content: bytes) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


async def test_files_cabinets_headers_and_misses(root: Path, make_nginx: Callable[[Path], Nginx], rig: Rig) -> None:
    packed = replace(KEY, name="packed.pdb")
    serve(root, PATH, PDB)
    serve(root, packed.index[:-1] + "_", CAB)
    serve(root, IMAGE_KEY.index, IMAGE)
    nginx = make_nginx(root)
    async with rig.source(f"srv*{rig.store}*{nginx.url}/", connections=1) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
        assert isinstance(await source.fetch(packed), Fetched)
        assert isinstance(await source.fetch(replace(KEY, age=9)), Missing)
        assert isinstance(await source.read_image(IMAGE_KEY), Image)
    logged = nginx.requests()
    assert [entry.status for entry in logged[:5]] == [200, 404, 200, 404, 404]
    assert {entry.status for entry in logged[6:]} == {206}
    assert len({entry.connection for entry in logged}) == 1


async def test_parts(
    root: Path, make_nginx: Callable[[Path], Nginx], rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(download, "_SHORTEST_PART_BYTES", 1 << 20)
    content = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, payload_bytes=6 << 20))
    serve(root, PATH, content)
    nginx = make_nginx(root)
    parts = values.ParallelRanges(from_bytes=1 << 20, parts=4)
    async with rig.source(f"srv*{rig.store}*{nginx.url}", parallel=parts) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == content
    assert sorted(entry.status for entry in nginx.requests() if entry.range) == [206, 206, 206]
