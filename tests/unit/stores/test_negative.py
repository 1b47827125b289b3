from __future__ import annotations

import json
import os
import pickle
import sqlite3
from typing import TYPE_CHECKING
from uuid import UUID

import diskcache
import pytest

from symcache.errors import StoreError
from symcache.identity import PdbKey
from symcache.stores.memory import StrictDisk
from symcache.stores.negative import Misses, Wanted
from symcache.stores.results import Hint

if TYPE_CHECKING:
    from pathlib import Path

KEY = PdbKey("secdrv.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 3)
UPSTREAM = "https://symbols.example/download"


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_miss_counts_until_its_time_is_over(tmp_path: Path) -> None:
    clock = Clock()
    with Misses(tmp_path / "m", ttl_s=60, clock_s=clock) as misses:
        assert misses.recall(UPSTREAM, KEY) is None
        misses.remember(UPSTREAM, KEY, "404")
        clock.now_s += 59
        assert misses.recall(UPSTREAM, KEY) is not None
        assert misses.recall("https://another.example", KEY) is None
        clock.now_s += 1
        assert misses.recall(UPSTREAM, KEY) is None
        misses.remember(UPSTREAM, KEY, "410")
        (miss,) = misses.list()
        assert (miss.first_asked_s, miss.last_asked_s, miss.times) == (1_000_000, 1_000_060, 2)
        assert (miss.index, miss.upstream, miss.answer) == (KEY.index, UPSTREAM, "410")
        assert misses.forget(UPSTREAM, KEY)
        assert not misses.forget(UPSTREAM, KEY)
        assert list(misses.list()) == []


def test_misses_outlive_the_process(tmp_path: Path) -> None:
    with Misses(tmp_path, ttl_s=60) as misses:
        misses.remember(UPSTREAM, KEY, "404")
    with Misses(tmp_path, ttl_s=60) as misses:
        assert misses.recall(UPSTREAM, KEY) is not None


@pytest.mark.skipif(os.name == "nt", reason="Windows has other rights")
def test_the_folder_is_the_users_alone(tmp_path: Path) -> None:
    (tmp_path / "m").mkdir(mode=0o777)
    with Misses(tmp_path / "m", ttl_s=60):
        assert (tmp_path / "m").stat().st_mode & 0o077 == 0


class Bomb:
    """Touches a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, (str(self.path),)


def poison(folder: Path, statement: str, values: tuple[object, ...]) -> None:
    connection = sqlite3.connect(folder / "cache.db")
    with connection:
        connection.execute(statement, values)
    connection.close()


ROWS = "INSERT INTO Cache (key, raw, store_time, size, mode, filename, value) VALUES (?, ?, 0, 0, ?, ?, ?)"
ROW_OF_KEY = f"{KEY.folded}\n{UPSTREAM}"


@pytest.mark.parametrize("case", ["value inline", "value in a file", "key", "file outside", "not JSON", "deep JSON"])
def test_a_poisoned_row_is_harmless(tmp_path: Path, case: str) -> None:
    folder, proof, outside = tmp_path / "m", tmp_path / "proof", tmp_path / "outside.val"
    with Misses(folder, ttl_s=1e12):
        pass
    outside.write_bytes(pickle.dumps(Bomb(proof)))
    (folder / "inside.val").write_bytes(pickle.dumps(Bomb(proof)))
    bomb = pickle.dumps(Bomb(proof))
    values: dict[str, tuple[object, ...]] = {
        "value inline": (ROW_OF_KEY, 1, 4, None, bomb),
        "value in a file": (ROW_OF_KEY, 1, 4, "inside.val", None),
        "key": (bomb, 0, 1, None, "{}"),
        "file outside": (ROW_OF_KEY, 1, 3, "../outside.val", None),
        "not JSON": (ROW_OF_KEY, 1, 1, None, "\x1b[31m"),
        "deep JSON": (ROW_OF_KEY, 1, 1, None, "[" * 100_000),
    }
    poison(folder, ROWS, values[case])
    with Misses(folder, ttl_s=1e12) as misses:
        assert misses.recall(UPSTREAM, KEY) is None
        assert list(misses.list()) == []
        misses.remember(UPSTREAM, KEY, "404")
        assert misses.recall(UPSTREAM, KEY) is not None
        misses.forget(UPSTREAM, KEY)
    assert not proof.exists()
    assert outside.exists()


def test_the_same_poison_works_on_a_plain_cache_so_the_test_above_can_fail(tmp_path: Path) -> None:
    proof = tmp_path / "proof"
    with Misses(tmp_path / "m", ttl_s=1):
        pass
    poison(tmp_path / "m", ROWS, (ROW_OF_KEY, 1, 4, None, pickle.dumps(Bomb(proof))))
    with diskcache.Cache(str(tmp_path / "m")) as cache:
        cache.get(ROW_OF_KEY)
    assert proof.exists()


@pytest.mark.parametrize(
    ("name", "value"),
    [("get", "x"), ("_disk", "x"), ("disk_fetch", 1), ("sqlite_journal_mode", "wal; ATTACH 'x' AS y"), ("count", b"x")],
)
def test_poisoned_settings_cost_the_memory_and_nothing_else(tmp_path: Path, name: str, value: object) -> None:
    with Misses(tmp_path, ttl_s=60) as misses:
        misses.remember(UPSTREAM, KEY, "404")
    poison(tmp_path, "INSERT OR REPLACE INTO Settings VALUES (?, ?)", (name, value))
    with Misses(tmp_path, ttl_s=60) as misses:
        assert misses.recall(UPSTREAM, KEY) is None
        misses.remember(UPSTREAM, KEY, "404")
        assert misses.recall(UPSTREAM, KEY) is not None


def test_a_damaged_database_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "cache.db").write_bytes(b"not a database at all" * 100)
    with Misses(tmp_path, ttl_s=60) as misses:
        misses.remember(UPSTREAM, KEY, "404")
        assert misses.recall(UPSTREAM, KEY) is not None


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    os.chown(tmp_path, 12345, 12345)
    with pytest.raises(StoreError, match="another user"):
        Misses(tmp_path, ttl_s=60)


@pytest.mark.parametrize("value", [1, b"x", None, {"a": 1}, "x" * 100_000])
def test_only_short_texts_are_stored(value: object) -> None:
    disk = StrictDisk("unused")
    with pytest.raises(TypeError):
        disk.store(value, read=False)
    if not isinstance(value, str):
        with pytest.raises(TypeError):
            disk.put(value)


def test_a_row_that_lies_about_its_key_is_not_listed(tmp_path: Path) -> None:
    with Misses(tmp_path, ttl_s=60) as misses:
        misses.remember(UPSTREAM, KEY, "404")
        text = json.dumps({**json.loads(misses._memory.get(ROW_OF_KEY) or ""), "upstream": "x"})
        misses._memory.set(ROW_OF_KEY, text)
        assert list(misses.list()) == []


def test_thousands_of_misses_are_listed_in_order(tmp_path: Path) -> None:
    keys = [PdbKey(f"{number % 7}.pdb", UUID(int=number), 1) for number in range(1, 2502)]
    with Misses(tmp_path, ttl_s=60) as misses:
        with misses._memory._cache.transact():
            for key in keys:
                misses.remember(UPSTREAM, key, "404")
        assert [miss.index for miss in misses.list()] == sorted((key.index for key in keys), key=str.lower)


@pytest.mark.parametrize(
    "fields",
    [
        None,
        [],
        {"module": 1, "maker": None, "hint": None, "inputs": [], "count": 1},
        {"module": None, "maker": None, "hint": "none such", "inputs": [], "count": 1},
        {"module": None, "maker": None, "hint": None, "inputs": [["x"]], "count": 1},
        {"module": ["x"], "maker": None, "hint": None, "inputs": [], "count": 1},
        {"module": None, "maker": None, "hint": None, "inputs": [], "count": "many"},
    ],
)
def test_a_miss_stands_whatever_its_row_says_of_who_wanted_it(tmp_path: Path, fields: object) -> None:
    with Misses(tmp_path, ttl_s=60) as misses:
        misses.remember(UPSTREAM, KEY, "404")
        text = json.dumps({**json.loads(misses._memory.get(ROW_OF_KEY) or ""), "wanted": fields})
        misses._memory.set(ROW_OF_KEY, text)
        (miss,) = misses.list()
        assert miss.wanted is None
        misses.note_wanted(UPSTREAM, KEY, Wanted("crash.sys", "Contoso", Hint.THIRD_PARTY, ("a.dmp",)))
        misses.remember(UPSTREAM, KEY, "404")  # an answer changes nothing of that
        (miss,) = misses.list()
        assert miss.wanted == Wanted("crash.sys", "Contoso", Hint.THIRD_PARTY, ("a.dmp",), 1)


def test_nothing_is_noted_of_a_file_that_is_not_missing(tmp_path: Path) -> None:
    with Misses(tmp_path, ttl_s=60) as misses:
        misses.note_wanted(UPSTREAM, KEY, Wanted(inputs=("a.dmp",)))
        assert list(misses.list()) == []


def test_a_file_that_was_wanted_once_stays_so(tmp_path: Path) -> None:
    with Misses(tmp_path, ttl_s=60) as misses:
        misses.remember(UPSTREAM, KEY, "404", in_passing=True)
        assert [miss.in_passing for miss in misses.list()] == [True]
        misses.remember(UPSTREAM, KEY, "404")
        misses.remember(UPSTREAM, KEY, "404", in_passing=True)
        assert [miss.in_passing for miss in misses.list()] == [False]


def test_however_many_are_asked_for_the_oldest_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symcache.stores.memory._LARGEST_BYTES", 256 << 10)
    keys = [PdbKey("flood.pdb", UUID(int=number), 1) for number in range(1, 3001)]
    with Misses(tmp_path, ttl_s=3600) as misses:
        for key in keys:
            misses.remember(UPSTREAM, key, "404")
        assert misses.recall(UPSTREAM, keys[0]) is None
        assert misses.recall(UPSTREAM, keys[-1]) is not None
    assert (tmp_path / "cache.db").stat().st_size < 512 << 10


def test_a_database_of_before_there_was_a_bound_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"eviction_policy": "none", "cull_limit": 16, "statistics": 0}
    with diskcache.Cache(str(tmp_path), disk=StrictDisk, **settings):
        pass
    with Misses(tmp_path, ttl_s=3600) as misses:
        misses.remember(UPSTREAM, KEY, "404")
    monkeypatch.setattr("symcache.stores.memory._LARGEST_BYTES", 1 << 20)
    with Misses(tmp_path, ttl_s=3600) as misses:
        assert misses.recall(UPSTREAM, KEY) is not None
