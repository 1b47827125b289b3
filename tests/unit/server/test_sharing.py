"""The counts that workers share lie in the store, where its other users can write, too."""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING

import pytest
from support.serving import fetch, serving

from symcache.stores.local.atomic import OWN_FOLDER

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes in folders there")


def test_what_is_written_beside_a_stores_counts_goes_through_no_link(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine\n")
    folder = tmp_path / "store" / OWN_FOLDER / "serve"
    folder.mkdir(parents=True)
    for name in ("store", "samples", "counted"):
        (folder / f"{name}.new").symlink_to(mine)
    with serving(tmp_path) as served:
        while not (folder / "counted").exists() or not (folder / "store").exists():
            assert fetch(served.port, "-/status").status == 200
    assert mine.read_bytes() == b"mine\n"


_POISON = {
    "a pipe": None,
    "a file without an end": b"[" * (2 << 20),
    "what no parser should try": b"[" * 100_000,
    "text in place of numbers": b'{"answers": {"hit": "many"}, "statuses": {}}',
    "no object": b"[1, 2]",
}


@pytest.mark.parametrize("content", _POISON.values(), ids=_POISON)
def test_counts_that_another_user_writes_do_no_harm(content: bytes | None, tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        folder = served.store / OWN_FOLDER / "serve"
        while not (own := list(folder.glob("*-*.json"))):
            assert fetch(served.port, "-/status").status == 200
        run = own[0].name.partition("-")[0]
        planted = [folder / f"{run}-0badbad0.json", *(folder / name for name in ("store", "samples", "counted"))]
        for path in planted:
            path.unlink(missing_ok=True)
            os.mkfifo(path) if content is None else path.write_bytes(content)
        for page in ("-/status", "metrics"):
            assert fetch(served.port, page).status == 200


def test_counts_that_another_user_writes_cannot_write_metrics(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        folder = served.store / OWN_FOLDER / "serve"
        while not (own := list(folder.glob("*-*.json"))):
            assert fetch(served.port, "-/status").status == 200
        counted = json.loads(own[0].read_bytes())
        for number, answers in enumerate([{'hit"} 1\nevil{x="': 1}, {"hit": "1\nevil 1"}, {"hit": [1]}]):
            evil = own[0].with_name(f"{own[0].name.partition('-')[0]}-0badbad{number}.json")
            evil.write_text(json.dumps({**counted, "answers": answers}))
        assert b"evil" not in fetch(served.port, "metrics").body
        assert b"symcache_workers 1\n" in fetch(served.port, "metrics").body
