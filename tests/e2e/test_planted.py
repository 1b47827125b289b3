"""What another user, or whoever packed a store, may plant in it: links that lead out, pipes, files of their own."""

from __future__ import annotations

import os
import shutil
import sys
import time
from contextlib import suppress
from hashlib import sha256
from typing import TYPE_CHECKING

import pytest
from support.serving import fetch, serving
from support.sources import KEY, PDB
from support.stores import APP, IMAGE, StoreShell, write_build

from symcache.errors import SymcacheError
from symcache.stores.links import Link, StoreLinks
from symcache.stores.local.atomic import OWN_FOLDER

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="making links takes a privilege there")

_OLD_S = time.time() - 40 * 24 * 3600
_OF_FOLDERS = ["staging", "growing", "serve", "access", "links", "locks", "quarantine"]


@pytest.fixture
def private(tmp_path: Path) -> Path:
    """A folder with what a user would miss, under every name that symcache sweeps, folds or replaces."""
    folder = tmp_path / "private"
    names = [
        *["thesis.txt", "recent", "summary", "0123.folding", "run-0123.json", "store", "samples", "counted", "pins"],
        *["locks", "00", "verify.jsonl", "journal.json", "converting", "server.txt", "0000000001", APP.name, KEY.name],
        *["why.json", "deep/thesis.txt", "p-0123456789ab/0123456789ab.part", f"{KEY.id}/{KEY.name}"],
    ]
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"mine\n")
        path.chmod(0o600)
        os.utime(path, (_OLD_S, _OLD_S))
    for path in [folder, *folder.rglob("*")]:
        if path.is_dir():
            path.chmod(0o700)
            os.utime(path, (_OLD_S, _OLD_S))
    return folder


def everything_in(folder: Path) -> dict[str, tuple[int, bytes]]:
    return {
        str(path.relative_to(folder)): (path.stat().st_mode, path.read_bytes() if path.is_file() else b"")
        for path in sorted(folder.rglob("*"))
    }


def plant(store: Path, where: str, private: Path) -> None:
    """Put a link to *private* in the place of what *store* has at *where*."""
    path = store / where
    if path.is_dir():
        shutil.rmtree(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.symlink_to(private)


@pytest.mark.parametrize(
    "where",
    [OWN_FOLDER, *(f"{OWN_FOLDER}/{name}" for name in _OF_FOLDERS), "000Admin", KEY.name, f"{KEY.name}/{KEY.id}"],
)
def test_a_link_in_a_store_costs_no_file_elsewhere(
    where: str, tmp_path: Path, private: Path, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    upstream.files[KEY.index] = PDB
    build = write_build(tmp_path / "build")
    store = tmp_path / "store"
    shell = StoreShell(store, f"srv*{store}*{upstream.url}")
    assert shell("add", build, "--product", "app").exit_code == 0
    plant(store, where, private)
    before = everything_in(private)
    commands: list[tuple[str | None, list[str | Path]]] = [
        (None, ["fetch", KEY.index]),
        (None, ["warm", build, "--allow-missing"]),
        ("store", ["add", build / "obj", "--product", "obj"]),
        ("store", ["verify", "--repair"]),
        ("store", ["prune", "--unused-for", "30d", "--max-size", "1KB"]),
        ("store", ["stats", "--dedupe"]),
        ("store", ["convert", "--two-tier"]),
        ("store", ["del", "0000000001"]),
        (None, ["doctor"]),
    ]
    for group, words in commands:
        with suppress(SymcacheError):
            shell(*words, group=group)
        assert everything_in(private) == before, words
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, KEY.index).status in {200, 503}
        assert fetch(served.port, "-/status").status == 200
    assert everything_in(private) == before


@pytest.mark.parametrize("where", ["access/recent", "verify.jsonl", "links/{shard}"])
def test_a_second_name_of_a_file_elsewhere_is_not_written_to(where: str, tmp_path: Path, upstream: Upstream) -> None:
    upstream.files[KEY.index] = PDB
    store, mine = tmp_path / "store", tmp_path / "mine"
    mine.write_bytes(b"mine\n")
    shard = sha256(IMAGE.folded.encode()).hexdigest()[:2]
    path = store / OWN_FOLDER / where.format(shard=shard)
    path.parent.mkdir(parents=True)
    os.link(mine, path)
    shell = StoreShell(store, f"srv*{store}*{upstream.url}")
    for words in (["fetch", KEY.index], ["fetch", KEY.index], ["store", "verify"]):
        with suppress(SymcacheError):
            shell(*words, group=None)
    StoreLinks(store).remember(IMAGE, [Link(KEY)])
    assert mine.read_bytes() == b"mine\n"
