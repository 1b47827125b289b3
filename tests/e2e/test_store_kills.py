"""A command that is killed at any instant leaves a store that one rerun of it puts right."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.dying import run_dying
from support.stores import StoreShell
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.identity import PdbKey
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from pathlib import Path

KEYS = [PdbKey(f"{name}file.pdb", UUID(int=number + 1), 1) for number, name in enumerate("aabbcd")]
CONTENT = {key: make_pdb(NativePdbSpec(key.guid, key.age)) for key in KEYS}
OLD, NEW = KEYS[:3], KEYS[3:]

# The command, and how many changes of the disk it makes at most.
COMMANDS = {
    "convert": (["convert", "--two-tier"], 60),
    "prune": (["prune", "--max-size", "0B"], 30),
    "add": (["add", "build", "--product", "new"], 110),
}


def prepare(folder: Path, name: str) -> StoreShell:
    """Make a store with the old files, some of them in a transaction, and a build with the new ones."""
    shell = StoreShell(folder / "store")
    for part, keys in (("before", OLD), ("build", [*NEW, OLD[0]])):
        for key in keys:
            at = folder / part / str(key.guid.int) / key.name
            at.parent.mkdir(parents=True)
            at.write_bytes(CONTENT[key])
    assert shell("add", folder / "before" / "1", "--product", "old").exit_code == 0
    for key in OLD[1:] + (NEW if name != "add" else []):
        at = shell.store / key.index
        at.parent.mkdir(parents=True)
        at.write_bytes(CONTENT[key])
    return shell


def present(shell: StoreShell) -> set[PdbKey]:
    """Return the keys that have their file, and fail if one has another."""
    with Store(shell.store) as store:
        found = {key: stored for key in KEYS if (stored := store.find(key)) is not None}
    for key, stored in found.items():
        assert stored.path.read_bytes() == CONTENT[key]
    return set(found)


def check_kill(folder: Path, name: str, step: int) -> bool:
    shell = prepare(folder, name)
    arguments = [str(folder / word) if word == "build" else word for word in COMMANDS[name][0]]
    words = ["store", *arguments, "-y", shell.symbol_path, "-q"]
    body = f"try: main({words!r})\nexcept SystemExit as end: assert end.code in (0, 3), end.code"
    died = run_dying("from symcache.cli import main", body, steps=step)
    left = present(shell)
    assert left >= ({OLD[0]} if name == "prune" else set(OLD) if name == "add" else set(KEYS))
    assert shell(*arguments).exit_code == (3 if name == "prune" else 0)
    assert present(shell) == ({OLD[0]} if name == "prune" else set(KEYS))
    assert shell.json("verify")["findings"] == []
    transactions = shell.json("list")["transactions"]
    history = shell.json("list", "--history")["transactions"]
    assert transactions == history
    assert [each["id"] for each in transactions] == list(range(1, len(transactions) + 1))
    assert len(transactions) in ({2, 3} if name == "add" else {1})
    return died


@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_some_instants_is_mended_by_a_rerun(tmp_path: Path, name: str) -> None:
    steps = random.Random(name).sample(range(COMMANDS[name][1] // 2), 2)
    died = [check_kill(tmp_path / str(step), name, step) for step in steps]
    assert any(died)


@pytest.mark.slow
@pytest.mark.parametrize("name", COMMANDS)
def test_a_kill_at_up_to_fifty_instants_is_mended_by_a_rerun(tmp_path: Path, name: str) -> None:
    most = COMMANDS[name][1]
    steps = random.Random(name).sample(range(most), min(50, most))
    died = [check_kill(tmp_path / str(step), name, step) for step in steps]
    assert sum(died) >= len(steps) // 2
    print(f"{name}: died {sum(died)} of {len(died)} times")
