"""What is flushed before what: no state that a weak disk may be in after a power cut has the one without the other."""

from __future__ import annotations

import random
import sys
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.parts import need
from support.power import Data, Names, record, write_tree

from symcache.identity import PdbKey
from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="strace is a program of Linux")
KEYS = [PdbKey(f"{letter}file.pdb", UUID(int=number), 1) for number, letter in enumerate("abcdef")]
SETUP = """
import sys
from pathlib import Path
from uuid import UUID
from symcache.identity import PdbKey, Tier
from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Store
from symcache.symstore.admin import Addition, Admin
from symcache.upkeep.stats import dedupe, find_duplicates
KEYS = [PdbKey(f"{letter}file.pdb", UUID(int=number), 1) for number, letter in enumerate("abcdef")]
def fill(store, key):
    scratch = store.scratch()
    scratch.write_text("right")
    store.publish(scratch, key, durable=False)
"""


def states(body: str, root: Path) -> Iterator[tuple[bool, Path]]:
    """Run *body* on the store at *root*; yield states that a power cut may leave, and whether *body* had ended."""
    need("strace")
    root.mkdir(exist_ok=True)
    code = f"{SETUP}\nwith Store(Path({str(root)!r}), new_tier=Tier.TWO) as store:\n    {body}"
    recording = record(root, [sys.executable, "-c", code], root.with_name("trace"))
    chance = random.Random(0)
    seen: set[int] = set()
    for number in range(300):
        cut = recording.cuts - 1 if number < 30 else chance.randrange(recording.cuts)
        tree = recording.state(cut, chance.choice([*Names]), chance.choice([*Data]), chance)
        if (mark := hash(frozenset(tree.items()))) not in seen:
            seen.add(mark)
            folder = root.with_name(f"state{number}")
            write_tree(tree, folder)
            yield cut == recording.cuts - 1, folder


def put(root: Path, key: PdbKey) -> None:
    path = root / key.index
    path.parent.mkdir(parents=True)
    path.write_text("right")


def test_no_file_is_there_before_the_mark_of_its_layout(tmp_path: Path) -> None:
    found = 0
    for _, root in states("fill(store, KEYS[0])", tmp_path / "sym"):
        is_there = any(root.rglob("afile.pdb"))
        found += is_there
        assert not is_there or (root / "index2.txt").exists()
    assert found


def test_lines_of_the_access_log_are_folded_before_they_are_removed(tmp_path: Path) -> None:
    with Store(tmp_path / "sym") as store:
        log = AccessLog(store)
        for key in KEYS:
            log.touch(key)
    for _, root in states("AccessLog(store).compact()", tmp_path / "sym"):
        with Store(root) as store:
            assert len(AccessLog(store).last_used_by_key()) == len(KEYS)


def test_a_file_that_a_transaction_finds_there_is_flushed_with_it(tmp_path: Path) -> None:
    (tmp_path / "afile.pdb").write_text("right")
    add = f"Admin(store).add([Addition(KEYS[0], Path({str(tmp_path / 'afile.pdb')!r}))], product='x')"
    for has_ended, root in states(f"fill(store, KEYS[0]); {add}", tmp_path / "sym"):
        with Store(root) as store:
            found = store.find(KEYS[0])
            assert not has_ended or (found is not None and found.path.read_text() == "right")


def test_a_file_is_flushed_before_it_takes_the_place_of_its_equal(tmp_path: Path) -> None:
    put(tmp_path / "sym", KEYS[1])
    body = "fill(store, KEYS[0]); assert [each.means for each in dedupe(store, find_duplicates(store))] != [None]"
    for _, root in states(body, tmp_path / "sym"):
        assert (root / KEYS[1].index).read_text() == "right"
