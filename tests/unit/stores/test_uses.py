"""What is found is used: the store that it lies in takes note, for the sake of what is pruned."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.sources import KEY, PATH, PDB, Rig, visible

from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream


@pytest.fixture
def rig(tmp_path: Path) -> Rig:
    return Rig(tmp_path)


def put(root: Path) -> None:
    (root / PATH).parent.mkdir(parents=True)
    (root / PATH).write_bytes(PDB)


def last_used(root: Path) -> float | None:
    return AccessLog(Store(root)).last_used_by_key().get(KEY.folded)


async def test_a_hit_is_noted_once_the_source_is_left(rig: Rig, upstream: Upstream) -> None:
    put(rig.store)
    async with rig.plain(upstream) as source:
        await source.fetch(KEY)
        assert last_used(rig.store) is None
    assert last_used(rig.store) is not None


def test_a_look_without_the_network_is_noted_too(rig: Rig, upstream: Upstream) -> None:
    put(rig.store)
    source = rig.plain(upstream)
    assert source.find(KEY) is not None
    source.close()
    assert last_used(rig.store) is not None


async def test_a_store_that_stands_alone_is_left_as_it_is_unless_it_is_ours(rig: Rig) -> None:
    put(rig.store)
    for is_noted in (False, True):
        async with rig.source(f"srv*{rig.store}") as source:
            await source.fetch(KEY)
        assert (last_used(rig.store) is not None) is is_noted
        assert (rig.store / ".symcache").exists() is is_noted
        (rig.store / ".symcache").mkdir(exist_ok=True)


async def test_a_record_that_cannot_be_written_is_no_error(rig: Rig, upstream: Upstream) -> None:
    put(rig.store)
    (rig.store / ".symcache").mkdir()
    (rig.store / ".symcache" / "access").write_bytes(b"a file where a folder should be")
    async with rig.plain(upstream) as source:
        await source.fetch(KEY)
    assert visible(rig.store) == [PATH]
    assert rig.events == []


async def test_what_was_just_fetched_needs_no_note(rig: Rig, upstream: Upstream) -> None:
    upstream.files[PATH] = PDB
    async with rig.plain(upstream) as source:
        await source.fetch(KEY)
    assert last_used(rig.store) is None
