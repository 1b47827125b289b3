"""Several writers at once, and writers that die."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from uuid import UUID

import pytest
from support.dying import run_dying

from symcache.identity import PdbKey
from symcache.stores.local.tree import Store
from symcache.symstore.admin import Addition, Admin
from symcache.symstore.transactions import read_refs

ROOT = Path(__file__).resolve().parents[3]
KEYS = [PdbKey(f"{name}.pdb", UUID(int=number), 1) for name in ("a", "b") for number in range(2)]

SETUP = """
from pathlib import Path
from symcache.identity import parse_index
from symcache.symstore.admin import Addition, Admin
from symcache.stores.local.tree import Store
root = Path({root!r})
additions = [Addition(parse_index(index), Path({file!r})) for index in {indexes!r}]
store = Store(root)
admin = Admin(store)
"""


def setup(root: Path, file: Path) -> str:
    file.write_text("content")
    return SETUP.format(root=str(root), file=str(file), indexes=[key.index for key in KEYS])


def check_consistent(store: Store) -> list[int]:
    """Fail unless files, references and account agree with each other; return the transactions in force."""
    admin = Admin(store)
    in_force = [each.id for each in admin.list_transactions()]
    history = [each.id for each in admin.history()]
    assert history == sorted(set(history))
    assert set(in_force) <= set(history)
    named = {id_: {filed.key for filed in admin.files_of(id_)} for id_ in in_force}
    for key in KEYS:
        ids = [id_ for id_ in in_force if key in named[id_]]
        assert [ref.id for ref in read_refs(store.folder_for(key)).refs] == ids
        assert (store.find(key) is not None) == bool(ids)
    own = {path.name for path in (store.root / "000Admin").iterdir() if path.name.isdigit()}
    assert own == {f"{id_:010}" for id_ in in_force}
    return in_force


def test_writers_at_once_lose_no_transaction(tmp_path: Path) -> None:
    code = setup(tmp_path / "store", tmp_path / "file") + (
        "print('ready', flush=True); input()\n"
        "mine = [admin.add(additions, product=f'{number}').id for number in range(4)]\n"
        "admin.delete(mine[2])\n"
        "print(*mine)\n"
    )
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    added: list[int] = []
    deleted: list[int] = []
    for writer in writers:
        output = writer.communicate(timeout=60)[0].split()
        assert writer.returncode == 0
        added += map(int, output)
        deleted.append(int(output[2]))
    assert len(set(added)) == 12
    with Store(tmp_path / "store") as store:
        assert check_consistent(store) == sorted(set(added) - set(deleted))
        assert len(list(Admin(store).history())) == 15


def check_deaths(tmp_path: Path, body: str, completed: list[int], steps: list[int]) -> None:
    deaths = 0
    for number in steps:
        root = tmp_path / f"store{number}"
        with Store(root) as store:
            admin = Admin(store)
            (tmp_path / "file").write_text("content")
            admin.add([Addition(key, tmp_path / "file") for key in KEYS[1:]], product="before")
            died = run_dying(setup(root, tmp_path / "file"), body, steps=number)
            for key in KEYS[2:]:
                assert store.find(key) is not None, number  # transaction 1 or 2 names them at any time
            admin.recover()
            in_force = check_consistent(store)
            assert died or in_force == completed
            again = admin.add([Addition(key, tmp_path / "file") for key in KEYS], product="rerun")
            assert check_consistent(store) == [*in_force, again.id]
            deaths += died
    assert deaths


BODIES = [
    pytest.param("admin.add(additions, product='dying')", [1, 2], id="add"),
    pytest.param("admin.add(additions[2:], product='x'); admin.delete(1)", [2], id="delete"),
]


@pytest.mark.parametrize(("body", "completed"), BODIES)
def test_a_writer_that_dies_leaves_a_store_that_the_next_one_mends(
    tmp_path: Path, body: str, completed: list[int]
) -> None:
    check_deaths(tmp_path, body, completed, random.Random(1).sample(range(5, 60), 2))


@pytest.mark.slow
@pytest.mark.parametrize(("body", "completed"), BODIES)
def test_a_writer_may_die_at_every_single_step(tmp_path: Path, body: str, completed: list[int]) -> None:
    check_deaths(tmp_path, body, completed, list(range(120)))
