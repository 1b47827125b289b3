from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.identity import PdbKey
from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = [PdbKey(f"File{number}.pdb", UUID(int=number), 1) for number in range(20)]


class Clock:
    def __init__(self) -> None:
        self.now_s = 1_000_000.0

    def __call__(self) -> float:
        return self.now_s


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def test_a_use_is_remembered_across_processes_and_letter_cases(store: Store) -> None:
    clock = Clock()
    assert AccessLog(store).last_used_by_key().get(KEYS[0].folded) is None
    AccessLog(store, clock_s=clock).touch(KEYS[0])
    other = PdbKey(KEYS[0].name.upper(), KEYS[0].guid, 1)
    assert AccessLog(store, clock_s=clock).last_used_by_key().get(other.folded) == clock.now_s


def test_the_same_key_is_noted_once_a_minute(store: Store) -> None:
    clock = Clock()
    log = AccessLog(store, clock_s=clock)
    recent = store.root / ".symcache" / "access" / "recent"
    for _ in range(10):
        log.touch(KEYS[0])
        clock.now_s += 5
    assert recent.read_bytes().count(b"\n") == 1
    clock.now_s += 60
    log.touch(KEYS[0])
    assert log.last_used_by_key().get(KEYS[0].folded) == clock.now_s


def test_the_log_stays_small_and_forgets_nothing(store: Store) -> None:
    clock = Clock()
    log = AccessLog(store, clock_s=clock, recent_bytes=500)
    for _ in range(50):
        for key in KEYS:
            log.touch(key)
        clock.now_s += 100
    folder = store.root / ".symcache" / "access"
    sizes = {path.name: path.stat().st_size for path in folder.iterdir()}
    assert set(sizes) <= {"recent", "summary"}
    assert sizes.get("recent", 0) <= 600
    assert (folder / "summary").read_bytes().count(b"\n") == len(KEYS)
    assert {log.last_used_by_key().get(key.folded) for key in KEYS} == {clock.now_s - 100}


def test_of_too_many_keys_the_newest_are_remembered(store: Store) -> None:
    clock = Clock()
    log = AccessLog(store, clock_s=clock, summary_keys=3)
    for key in KEYS:
        log.touch(key)
        clock.now_s += 1
    log.compact()
    assert set(log.last_used_by_key()) == {key.folded for key in KEYS[-3:]}


def test_what_a_killed_compaction_left_is_not_lost(store: Store) -> None:
    clock = Clock()
    log = AccessLog(store, clock_s=clock)
    log.touch(KEYS[0])
    folder = store.root / ".symcache" / "access"
    (folder / "recent").rename(folder / "dead.folding")
    assert log.last_used_by_key().get(KEYS[0].folded) == clock.now_s
    log.compact()
    assert [path.name for path in folder.iterdir()] == ["summary"]
    assert log.last_used_by_key().get(KEYS[0].folded) == clock.now_s


def test_a_time_in_the_future_counts_as_now(store: Store) -> None:
    clock = Clock()
    log = AccessLog(store, clock_s=clock)
    log.touch(KEYS[0])
    clock.now_s -= 500_000
    assert log.last_used_by_key().get(KEYS[0].folded) == clock.now_s


@given(garbage=st.binary(max_size=300))
def test_garbage_in_the_log_hides_no_other_line(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    clock = Clock()
    with Store(tmp_path_factory.mktemp("s")) as store:
        log = AccessLog(store, clock_s=clock)
        log.touch(KEYS[0])
        with (store.root / ".symcache" / "access" / "recent").open("ab") as file:
            file.write(garbage + b"\n")
        log.touch(KEYS[1])
        assert log.last_used_by_key().get(KEYS[0].folded) == log.last_used_by_key().get(KEYS[1].folded) == clock.now_s
        log.compact()
        assert log.last_used_by_key().get(KEYS[0].folded) == log.last_used_by_key().get(KEYS[1].folded) == clock.now_s


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="needs a folder that cannot be written")
def test_a_store_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    AccessLog(Store(tmp_path)).touch(KEYS[0])
    tmp_path.chmod(0o700)


def test_a_store_that_is_a_file_is_no_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    AccessLog(Store(tmp_path / "file")).touch(KEYS[0])


def test_processes_at_once_lose_nothing_that_they_append(tmp_path: Path) -> None:
    root = tmp_path / "store"
    code = (
        "import sys; from pathlib import Path; from uuid import UUID; from symcache.identity import PdbKey\n"
        "from symcache.stores.local.access import AccessLog; from symcache.stores.local.tree import Store\n"
        f"with Store(Path({str(root)!r})) as store:\n"
        "    log = AccessLog(store)\n"
        "    print('ready', flush=True); input()\n"
        "    for number in range(300): log.touch(PdbKey(f'{sys.argv[1]}-{number}.pdb', UUID(int=number), 1))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[3])}
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(number)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        writer.communicate("\n", timeout=60)
        assert writer.returncode == 0
    with Store(root) as store:
        assert len(AccessLog(store).last_used_by_key()) == 900


def test_what_is_touched_later_is_written_with_others(store: Store) -> None:
    clock = Clock()
    log = AccessLog(store, clock_s=clock)
    recent = store.root / ".symcache" / "access" / "recent"
    log.touch_later(KEYS[0])
    log.touch_later(KEYS[1])
    assert not recent.exists()
    log.flush()
    assert recent.read_bytes().count(b"\n") == 2
    log.flush()
    log.touch_later(KEYS[2])
    clock.now_s += 5
    log.touch_later(KEYS[3])  # seconds have gone by
    assert recent.read_bytes().count(b"\n") == 4
    for number in range(1000):
        log.touch_later(PdbKey("many.pdb", UUID(int=number), 1))
    assert recent.read_bytes().count(b"\n") == 4 + 256 * 3


def test_threads_lose_nothing_that_they_touch(store: Store) -> None:
    log = AccessLog(store)

    def touch(first: int) -> None:
        for number in range(first, first + 500):
            log.touch_later(PdbKey("many.pdb", UUID(int=number), 1))

    threads = [threading.Thread(target=touch, args=(500 * number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    log.flush()
    assert len(AccessLog(store).last_used_by_key()) == 2000
