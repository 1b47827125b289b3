"""Many processes at once on one store: nobody sees a wrong file, nothing that was recorded is lost."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import ExitStack
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from support.command import run_json
from support.soak import BUILT, PUBLISHED, content_of

from symcache.identity import parse_index
from symcache.stores.base import Form
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from support.upstream import Upstream

ROOT = Path(__file__).resolve().parents[2]
ROLES = ["add", "add", "prune", "check", "warm", "warm", "read", "read"]
# What a look in the middle of a change may find; of files there is none.
IN_BETWEEN = {"pointer", "references", "account", "absent", "interrupted"}


def run_all(root: Path, url: str, seconds: float) -> list[dict[str, Any]]:
    """Let one process play each role for a time; return what each has seen."""
    with ExitStack() as stack:
        players = [
            stack.enter_context(
                subprocess.Popen(
                    [
                        sys.executable,
                        "-W",
                        "error",
                        "-m",
                        "support.soak",
                        role,
                        str(root),
                        url,
                        str(seconds),
                        str(seed),
                    ],
                    env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                )
            )
            for seed, role in enumerate(ROLES)
        ]
        for player in players:
            stack.callback(player.kill)
        for player in players:
            assert player.stdout is not None
            assert player.stdout.readline() == "ready\n"
        for player in players:
            assert player.stdin is not None
            player.stdin.write("\n")
            player.stdin.flush()
        said = [player.communicate(timeout=60 + 4 * seconds)[0] for player in players]
        assert [player.returncode for player in players] == [0] * len(players)
    return [json.loads(each) for each in said]


def check_soak(tmp_path: Path, upstream: Upstream, seconds: float) -> str:
    upstream.files.update({key.index: content_of(key) for key in PUBLISHED})
    root = tmp_path / "store"
    Store(root).create()
    reports = run_all(root, upstream.url, seconds)

    def all_of(name: str) -> list[Any]:
        return list(chain.from_iterable(report[name] for report in reports))

    assert all_of("wrong") == []
    assert {each["problem"] for each in all_of("findings")} <= IN_BETWEEN
    added = {id_: set(indexes) for id_, indexes in all_of("added")}
    deleted = {id_: undone for id_, undone in all_of("deleted")}  # noqa: C416 - pairs come as lists
    assert len(added) == len(all_of("added"))  # no number was given twice
    assert not set(added) & set(deleted)

    listed = run_json("store", "list", "--store", root)["transactions"]
    in_force = set(added) - set(deleted.values())
    assert [each["id"] for each in listed] == sorted(in_force)
    history = run_json("store", "list", "--history", "--store", root)["transactions"]
    assert [each["id"] for each in history] == sorted({*added, *deleted})
    assert {each["id"]: each["deleted_id"] for each in history if each["action"] == "del"} == deleted
    with Store(root) as store:
        for index in set().union(*(added[id_] for id_ in in_force)):
            assert store.find(parse_index(index)) is not None, index
        for key in {*BUILT, *PUBLISHED}:
            found = store.find(key)
            if found is not None and found.form is Form.PLAIN:
                assert found.path.read_bytes() == content_of(key)
    document = run_json("store", "verify", "--restart", "--store", root)
    assert document["findings"] == []
    assert not list((root / ".symcache" / "quarantine").glob("*"))
    counts = {name: sum(all_of(name)) for name in ("read", "warmed", "verified", "pruned")}
    assert all(counts.values()), counts
    assert added
    assert deleted
    return f"{len(added)} added, {len(deleted)} deleted, {counts}, {len(all_of('findings'))} seen in between"


def test_many_processes_at_once_lose_nothing_and_see_nothing_wrong(tmp_path: Path, upstream: Upstream) -> None:
    check_soak(tmp_path, upstream, 4)


@pytest.mark.slow
def test_many_processes_for_a_minute(tmp_path: Path, upstream: Upstream) -> None:
    print(check_soak(tmp_path, upstream, 60))
