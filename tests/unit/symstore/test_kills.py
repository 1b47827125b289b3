"""Death at any step of what changes a store by other means than transactions and conversions: nothing is lost."""

from __future__ import annotations

import random
from pathlib import Path
from uuid import UUID

import pytest
from support.dying import run_dying

from symcache.identity import PdbKey
from symcache.stores.base import Form
from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Store, list_stored
from symcache.upkeep.bundle import export_bundle, import_bundle
from symcache.upkeep.inventory import take_inventory
from symcache.upkeep.prune import Limits, carry_out, plan_prune
from symcache.upkeep.repair import repair
from symcache.upkeep.stats import dedupe, find_duplicates
from symcache.upkeep.verify import verify

KEYS = [PdbKey(f"file{number}.pdb", UUID(int=number), 10) for number in range(4)]
FORMS = (Form.PLAIN, Form.COMPRESSED)


def put(store: Store, key: PdbKey, form: Form = Form.PLAIN, content: str = "same") -> None:
    scratch = store.scratch()
    scratch.write_text(content)
    store.publish(scratch, key, form=form, durable=False)


def contents(store: Store) -> set[str]:
    return {each.path.read_text() for key in KEYS for each in list_stored(store.folder_for(key), key.name)}


def prune_all(store: Store) -> None:
    carry_out(store, plan_prune(take_inventory(store), Limits(max_bytes=0), now_s=0))


def dedupe_all(store: Store) -> None:
    for _ in dedupe(store, find_duplicates(store)):
        pass


def import_all(store: Store) -> None:
    for _ in import_bundle(store, store.root.parent / "bundle.zip", lambda path, key: None):
        pass


def repair_all(store: Store) -> None:
    for _ in repair(store, list(verify(store, lambda path, key: "cut short")), fetch=None):
        pass


def compact(store: Store) -> None:
    AccessLog(store).compact()


ACTIONS = {each.__name__: each for each in (prune_all, dedupe_all, import_all, repair_all, compact)}


def check_deaths(tmp_path: Path, name: str, steps: list[int]) -> None:
    with Store(tmp_path / "other") as other:
        for key in KEYS:
            put(other, key)
        export_bundle(other, tmp_path / "bundle.zip")
    setup = (
        "import sys; from pathlib import Path\n"
        f"sys.path[:0] = {[str(Path(__file__).parent), str(Path(__file__).parents[2])]!r}\n"
        f"from test_kills import {name}\nfrom symcache.stores.local.tree import Store\n"
    )
    deaths = 0
    for number in steps:
        root = tmp_path / f"store{number}"
        with Store(root) as store:
            store.create()
            if name != "import_all":
                for key in KEYS:
                    for form in FORMS:
                        put(store, key, form)
                    AccessLog(store).touch(key)
        deaths += run_dying(setup + f"store = Store(Path({str(root)!r}))", f"{name}(store)", steps=number)
        with Store(root) as store:
            assert contents(store) <= {"same"}
            if name in {"dedupe_all", "compact"}:
                assert all(len(list_stored(store.folder_for(key), key.name)) == 2 for key in KEYS)
            if name == "compact":
                assert len(AccessLog(store).last_used_by_key()) == len(KEYS)
            if name == "repair_all":
                moved = list((root / ".symcache").rglob("file?.pd?"))
                assert len(moved) + sum(len(list_stored(store.folder_for(key), key.name)) for key in KEYS) == 8
            ACTIONS[name](store)
            present = {key for key in KEYS if store.find(key) is not None}
            assert present == (set() if name in {"prune_all", "repair_all"} else set(KEYS))
            assert list(verify(store, lambda path, key: None)) == []
            assert contents(store) <= {"same"}
            if name == "compact":
                assert len(AccessLog(store).last_used_by_key()) == len(KEYS)
    assert deaths


@pytest.mark.parametrize("name", ACTIONS)
def test_death_at_some_steps_costs_nothing_that_a_rerun_does_not_mend(tmp_path: Path, name: str) -> None:
    check_deaths(tmp_path, name, [random.Random(name).randrange(1, 12)])


@pytest.mark.slow
@pytest.mark.parametrize("name", ACTIONS)
def test_death_at_every_step_costs_nothing_that_a_rerun_does_not_mend(tmp_path: Path, name: str) -> None:
    check_deaths(tmp_path, name, list(range(60)))
