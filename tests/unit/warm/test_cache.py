from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.synth.pe import plan_image
from support.wire import closed_port

from symcache import Failed, Fetched, ImageKey, MalformedInput, Missing, PdbKey, Present, SymbolCache, SymbolPathError
from symcache.config import load_config
from symcache.events import Settled
from symcache.synth.pdb import NativePdbSpec, make_pdb
from symcache.synth.pe import disk_bytes

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream

    from symcache.events import Event

IMAGE = ImageKey("crash.exe", 0x5F000000, 0x9000)
PDB = PdbKey("crash.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 2)


@pytest.fixture
def symbol_path(upstream: Upstream, tmp_path: Path) -> str:
    upstream.files = {
        PDB.index: make_pdb(NativePdbSpec(PDB.guid, PDB.age)),
        IMAGE.index: disk_bytes(plan_image(IMAGE, PDB)),
    }
    return f"srv*{tmp_path / 'sym'}*{upstream.url}"


async def test_a_key_is_fetched_once_and_then_present(symbol_path: str, tmp_path: Path) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        first = await cache.fetch(PDB)
        second = await cache.fetch(PDB.index)
    assert isinstance(first, Fetched)
    assert first.path == tmp_path / "sym" / PDB.index
    assert second == Present(first.path, first.size_bytes)


async def test_what_nobody_publishes_is_missing(symbol_path: str) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        outcome = await cache.fetch("secdrv.pdb/7578144C39C4468394EF84F01549113A3/secdrv.pdb")
    assert isinstance(outcome, Missing)
    assert outcome.cause == "not-published"


async def test_a_closed_port_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "symcache.toml"
    file.write_text("network.retries = 0")
    with closed_port() as port:
        config = load_config(file, {}, symbol_path=f"srv*{tmp_path / 'sym'}*http://127.0.0.1:{port}")
        async with SymbolCache(config) as cache:
            outcome = await cache.fetch(PDB)
    assert isinstance(outcome, Failed)
    assert outcome.cause == "unavailable"


async def test_inputs_are_warmed_and_checked(symbol_path: str, tmp_path: Path, upstream: Upstream) -> None:
    image = tmp_path / "crash.exe"
    image.write_bytes(disk_bytes(plan_image(IMAGE, PDB)))
    settled: list[Event] = []
    async with SymbolCache.open(symbol_path, observer=settled.append) as cache:
        assert (await cache.check([image])).exit_code() == 3
        assert upstream.requests == []
        report = await cache.warm([image, str(tmp_path / "none")])
        assert (await cache.check(image)).exit_code() == 0
        assert (await cache.warm(str(image), images="all")).count() == {"present": 1, "fetched": 1}
    assert [(symbol.index, symbol.state) for symbol in report.symbols] == [(PDB.index, "fetched")]
    assert [item.path for item in report.unreadable] == [str(tmp_path / "none")]
    assert Settled(PDB.index, "fetched") in settled


def test_a_text_that_is_no_symbol_path_is_refused_at_once() -> None:
    with pytest.raises(SymbolPathError, match="write srv"):
        SymbolCache.open("https://one.test")


async def test_a_text_that_is_no_index_is_refused(symbol_path: str) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        with pytest.raises(MalformedInput, match="name/id/name"):
            await cache.fetch("crash.pdb")


async def test_another_folder_takes_the_place_of_the_store(symbol_path: str, tmp_path: Path) -> None:
    async with SymbolCache.open(symbol_path, store=tmp_path / "other") as cache:
        outcome = await cache.fetch(PDB)
    assert isinstance(outcome, Fetched)
    assert outcome.path == tmp_path / "other" / PDB.index


async def test_the_environment_says_where_to_look(
    symbol_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_NT_SYMBOL_PATH", symbol_path)
    async with SymbolCache.open() as cache:
        assert isinstance(await cache.fetch(PDB), Fetched)
