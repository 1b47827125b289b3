"""A bucket that has the wrong file under a name is mended by who had to fetch the right one from elsewhere."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.buckets import Azurite, Moto, S3rver
from support.googlexml import GoogleStandIn
from support.serving import publish
from support.upstream import Upstream

from symcache.config import load_config
from symcache.stores.results import Fetched
from symcache.stores.source import SymbolSource

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.buckets import BucketServer

WANTED, OTHER = publish("wanted.pdb", 1), publish("other.pdb", 2)
SPOILT = {
    "another file": (OTHER.content, None),
    "no file of a debugger": (b"junk", None),
    "other bytes than were put there": (WANTED.content, "0" * 64),
}


@pytest.fixture(scope="module", params=[Moto, Azurite, S3rver, GoogleStandIn])
def server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BucketServer]:
    with request.param(tmp_path_factory.mktemp("server")) as server:
        yield server


@pytest.mark.parametrize("spoilt", SPOILT)
async def test_a_wrong_object_is_passed_over_and_replaced(
    spoilt: str, server: BucketServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import obstore  # noqa: PLC0415 - an extra

    bucket = server.new_bucket()
    for name, value in bucket.variables().items():
        monkeypatch.setenv(name, value)
    content, sha256 = SPOILT[spoilt]
    objects = bucket.open()
    obstore.put(objects, WANTED.index, content, attributes={} if sha256 is None else {"sha256": sha256})
    came_from = []
    with Upstream({WANTED.index: WANTED.content}) as upstream:
        for machine in "ab":
            path = f"srv*{tmp_path / machine}*{bucket.url}*{upstream.url}"
            config = load_config(None, {}, symbol_path=path)
            config = replace(config, misses=replace(config.misses, folder=tmp_path / "misses"))
            async with SymbolSource(config) as source:
                outcome = await source.fetch(WANTED.key)
            assert isinstance(outcome, Fetched)
            assert outcome.path.read_bytes() == WANTED.content
            came_from.append(outcome.upstream)
        assert came_from == [upstream.url, bucket.url]
    assert bytes(obstore.get(objects, WANTED.index).bytes()) == WANTED.content
