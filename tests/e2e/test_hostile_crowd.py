"""Slow clients and floods of misses, as ``tests/faults/clients.py`` measures them with thousands."""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import pytest
from faults.clients import KINDS, besiege, flood, judge, publish_files
from support.answers import not_found
from support.serving import fetch, serving_process

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_slow_clients_and_floods_of_misses_keep_nobody_out(tmp_path: Path, upstream: Upstream) -> None:
    upstream.always("*", not_found())
    index = publish_files(tmp_path / "store")
    with serving_process(tmp_path, upstream.url, config="[serve]\nconnections = 100\n") as served:
        assert fetch(served.port, index).status == 200
        sieges = {name: besiege(served, begun, 400) for name, begun in KINDS.items()}
        flooded = asyncio.run(flood(served, tmp_path, 400, seed=1))
    assert judge(sieges, flooded, descriptors=1000) == []
