from __future__ import annotations

import os
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.windows import held_open, only_windows

from symcache.errors import UsageError
from symcache.identity import ImageKey, PdbKey, Tier
from symcache.stores.base import Form
from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Store
from symcache.symstore.admin import Addition, Admin
from symcache.upkeep.inventory import Candidate, FileStatus, Pins, find_quarantined, match_pins, take_inventory
from symcache.upkeep.prune import Limits, carry_out, plan_prune

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

DAY = 86400.0
NOW = 1_700_000_000.0
KEYS = [PdbKey(f"file{number}.pdb", UUID(int=number), 1) for number in range(6)]


@pytest.fixture(params=Tier)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        store.create(request.param)
        yield store


def put(store: Store, key: PdbKey | ImageKey, size: int = 100, *, days_ago: float = 0, form: Form = Form.PLAIN) -> Path:
    scratch = store.scratch()
    scratch.write_bytes(b"x" * size)
    path = store.publish(scratch, key, form=form, durable=False)
    os.utime(path, (NOW - days_ago * DAY, NOW - days_ago * DAY))
    return path


def prune(store: Store, limits: Limits) -> set[str]:
    """Prune and return the names of the keys that went."""
    before = {each.key.name for each in take_inventory(store)}
    carry_out(store, plan_prune(take_inventory(store), limits, now_s=NOW))
    return before - {each.key.name for each in take_inventory(store)}


def test_the_least_recently_used_go_first_whenever_they_were_published(store: Store) -> None:
    for number, key in enumerate(KEYS):
        put(store, key, days_ago=10 + number)
    AccessLog(store, clock_s=lambda: NOW - DAY).touch(KEYS[5])
    assert prune(store, Limits(max_bytes=400)) == {"file4.pdb", "file3.pdb"}
    assert prune(store, Limits(max_bytes=400)) == set()


def test_age_and_last_use_decide_each_for_itself(store: Store) -> None:
    put(store, KEYS[0], days_ago=30)
    put(store, KEYS[1], days_ago=5)
    AccessLog(store, clock_s=lambda: NOW - DAY).touch(KEYS[0])
    assert prune(store, Limits(unused_for_s=3 * DAY)) == {"file1.pdb"}
    assert prune(store, Limits(max_age_s=20 * DAY)) == {"file0.pdb"}


def test_all_forms_of_a_key_go_together_and_leave_no_empty_folder(store: Store) -> None:
    folder = put(store, KEYS[0], days_ago=9).parent
    put(store, KEYS[0], days_ago=9, form=Form.COMPRESSED)
    (folder / "msfz0").mkdir()
    (folder / "msfz0" / KEYS[0].name).write_bytes(b"z")
    os.utime(folder / "msfz0" / KEYS[0].name, (NOW - 9 * DAY, NOW - 9 * DAY))
    (folder.parent / "EMPTY").mkdir()
    result = carry_out(store, plan_prune(take_inventory(store), Limits(unused_for_s=DAY), now_s=NOW))
    assert (result.removed_keys, result.freed_bytes, result.skipped) == (1, 201, ())
    assert [path.name for path in store.root.iterdir() if path.is_dir()] == [".symcache"]


def test_a_dry_run_removes_nothing_and_says_what_the_run_will(store: Store) -> None:
    put(store, KEYS[0], days_ago=2)
    plan = plan_prune(take_inventory(store), Limits(unused_for_s=DAY), now_s=NOW)
    assert store.find(KEYS[0]) is not None
    (eviction,) = plan.evictions
    assert (eviction.candidate.key, eviction.candidate.size_bytes) == (KEYS[0], 100)
    assert eviction.reason == "not used for 2.0 days"
    document = plan.as_json()
    assert (document["freed_bytes"], document["kept_keys"]) == (100, 0)


def link(store: Store, path: Path, key: PdbKey) -> None:
    folder = store.folder_for(key)
    folder.mkdir(parents=True)
    os.link(path, folder / key.name)


def test_a_hard_linked_file_is_freed_with_its_last_name(store: Store, tmp_path: Path) -> None:
    shared = put(store, KEYS[0], days_ago=5)
    link(store, shared, KEYS[1])
    put(store, KEYS[2], days_ago=1)
    plan = plan_prune(take_inventory(store), Limits(), now_s=NOW)
    assert (plan.kept_keys, plan.kept_bytes) == (3, 200)

    AccessLog(store, clock_s=lambda: NOW - DAY).touch(KEYS[1])
    plan = plan_prune(take_inventory(store), Limits(unused_for_s=3 * DAY), now_s=NOW)
    assert ([each.candidate.key for each in plan.evictions], plan.kept_bytes, plan.freed_bytes) == ([KEYS[0]], 200, 0)
    result = carry_out(store, plan)
    assert (result.removed_keys, result.freed_bytes) == (1, 0)

    link(store, store.folder_for(KEYS[1]) / KEYS[1].name, KEYS[0])
    plan = plan_prune(take_inventory(store), Limits(max_bytes=100), now_s=NOW)
    assert ([each.candidate.key for each in plan.evictions], plan.kept_bytes) == ([KEYS[0], KEYS[1]], 100)
    assert plan.freed_bytes == 100
    result = carry_out(store, plan)
    assert (result.removed_keys, result.freed_bytes, result.skipped) == (2, 100, ())


def test_a_file_that_has_a_name_outside_the_store_is_not_freed(store: Store, tmp_path: Path) -> None:
    os.link(put(store, KEYS[0], days_ago=5), tmp_path / "backup")
    plan = plan_prune(take_inventory(store), Limits(max_bytes=0), now_s=NOW)
    assert (plan.kept_bytes, plan.freed_bytes) == (0, 0)
    assert carry_out(store, plan).freed_bytes == 0


def test_a_protected_file_and_its_alias_are_protected_once(store: Store) -> None:
    link(store, put(store, KEYS[0], days_ago=5), KEYS[1])
    Pins(store).add_all(["file0", "file1"])
    plan = plan_prune(take_inventory(store), Limits(max_bytes=0), now_s=NOW)
    assert (plan.protected_bytes, plan.over_bytes) == (100, 100)


def test_pins_and_transactions_stay_whatever_the_limits(store: Store, tmp_path: Path) -> None:
    for key in KEYS[:3]:
        put(store, key, days_ago=100)
    Pins(store).add_all(["file0"])
    (tmp_path / "f").write_bytes(b"x" * 100)
    Admin(store).add([Addition(KEYS[1], tmp_path / "f")], product="p")
    os.utime(store.folder_for(KEYS[1]) / KEYS[1].name, (0, 0))
    plan = plan_prune(take_inventory(store), Limits(max_bytes=0, unused_for_s=DAY), now_s=NOW)
    assert [each.candidate.key for each in plan.evictions] == [KEYS[2]]
    assert (plan.protected_bytes, plan.over_bytes) == (200, 200)
    assert prune(store, Limits(max_bytes=0, include_transactions=True)) == {"file1.pdb", "file2.pdb"}


def test_files_of_stores_without_references_are_known_from_the_transactions_own_files(store: Store) -> None:
    put(store, KEYS[0], days_ago=100)
    admin = store.root / "000Admin"
    admin.mkdir()
    (admin / "server.txt").write_text('0000000001,add,file,09/20/2021,21:10:03,"","","",\n')
    (admin / "0000000001").write_text(f'"{KEYS[0].name}\\{KEYS[0].id}","/tmp/x\n')
    assert prune(store, Limits(max_bytes=0)) == set()


@pytest.mark.parametrize("change", ["filled in", "used", "pinned", "replaced", "named"])
def test_what_has_changed_since_the_plan_stays(store: Store, tmp_path: Path, change: str) -> None:
    path = put(store, KEYS[0], days_ago=9)
    plan = plan_prune(take_inventory(store), Limits(unused_for_s=DAY), now_s=NOW)
    lock = store.lock(KEYS[0])
    if change == "filled in":
        assert lock.try_acquire()
    elif change == "used":
        AccessLog(store).touch(KEYS[0])
    elif change == "pinned":
        Pins(store).add_all([KEYS[0].index])
    elif change == "replaced":
        put(store, KEYS[0], size=101, days_ago=9)
    else:
        (tmp_path / "f").write_bytes(path.read_bytes())
        Admin(store).add([Addition(KEYS[0], tmp_path / "f")], product="p")
    result = carry_out(store, plan)
    lock.release()
    assert (result.removed_keys, len(result.skipped)) == (0, 1)
    assert result.skipped[0].why.partition(" ")[0] in {"being", "used", "pinned", "changed", "named"}
    assert store.find(KEYS[0]) is not None


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps a file that is open")
def test_who_reads_a_file_keeps_it_to_its_end(store: Store) -> None:
    path = put(store, KEYS[0], days_ago=9)
    with path.open("rb") as reader:
        assert prune(store, Limits(max_bytes=0)) == {"file0.pdb"}
        assert reader.read() == b"x" * 100


@only_windows
def test_a_file_that_a_debugger_has_open_stays_until_the_next_run(store: Store) -> None:
    paths = [put(store, key, days_ago=9) for key in KEYS[:2]]
    plan = plan_prune(take_inventory(store), Limits(max_bytes=0), now_s=NOW)
    with held_open(paths[0]):
        result = carry_out(store, plan)
        assert (result.removed_keys, [each.index for each in result.skipped]) == (1, [KEYS[0].index])
        assert result.skipped[0].why.startswith("in use: ")
        assert paths[0].read_bytes() == b"x" * 100
    assert prune(store, Limits(max_bytes=0)) == {"file0.pdb"}


@only_windows
def test_a_file_in_quarantine_that_is_open_stops_no_other(store: Store) -> None:
    folders = [store.root / ".symcache" / "quarantine" / name for name in "ab"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "bad.pdb").write_bytes(b"bad")
    quarantined = find_quarantined(store, older_than_s=0, now_s=NOW * 2)
    with held_open(folders[0] / "bad.pdb"):
        result = carry_out(store, plan_prune((), Limits(), now_s=NOW, quarantined=quarantined))
        assert (result.freed_bytes, len(result.skipped)) == (3, 1)
    assert [folder.exists() for folder in folders] == [True, False]


def test_old_quarantine_and_scratch_of_the_dead_go_too(store: Store) -> None:
    own = store.root / ".symcache"
    (own / "quarantine" / "q").mkdir(parents=True)
    (own / "quarantine" / "q" / "bad.pdb").write_bytes(b"bad")
    (own / "staging" / "p-dead").mkdir(parents=True)
    (own / "staging" / "p-dead" / "x.part").write_bytes(b"half")
    later_s = (own / "quarantine" / "q" / "bad.pdb").stat().st_ctime + 2 * DAY
    assert find_quarantined(store, older_than_s=3 * DAY, now_s=later_s) == ()
    quarantined = find_quarantined(store, older_than_s=DAY, now_s=later_s)
    result = carry_out(store, plan_prune((), Limits(), now_s=NOW, quarantined=quarantined))
    assert (result.freed_bytes, result.swept_files) == (3, 1)
    assert not (own / "quarantine").exists()


@given(
    st.lists(st.tuples(st.integers(0, 1000), st.integers(0, 100), st.booleans(), st.booleans()), max_size=30),
    st.integers(0, 20_000),
)
def test_a_plan_frees_enough_and_no_key_too_many(rows: list[tuple[int, int, bool, bool]], max_bytes: int) -> None:
    candidates = [
        Candidate(KEYS[0], None, (FileStatus(None, size, 0),), float(used), 0.0, pinned, named)  # type: ignore[arg-type]
        for size, used, pinned, named in rows
    ]
    plan = plan_prune(candidates, Limits(max_bytes=max_bytes), now_s=NOW)
    gone = [each.candidate for each in plan.evictions]
    total = sum(each.size_bytes for each in candidates)
    assert plan.kept_bytes + plan.freed_bytes == total
    assert plan.kept_keys + len(gone) == len(candidates)
    assert not any(each.pinned or each.in_transaction for each in gone)
    assert plan.kept_bytes <= max(max_bytes, plan.protected_bytes)
    if gone:
        assert plan.kept_bytes + gone[-1].size_bytes > max_bytes
    spared = [each.used_s for each in candidates if each not in gone and not (each.pinned or each.in_transaction)]
    assert all(each.used_s <= min(spared, default=NOW) for each in gone)


@pytest.mark.parametrize(
    ("pin", "name", "means"),
    [
        ("nt", "ntkrnlmp.pdb", True),
        ("nt", "NTOSKRNL.EXE", True),
        ("nt", "ntdll.dll", False),
        ("hal", "halmacpi.dll", True),
        ("win32*", "win32kfull.pdb", True),
        ("ntdll", "ntdll.pdb", True),
        ("ntdll.pdb", "ntdll.dll", False),
        ("*.dll", "ntdll.dll", True),
        (f"NTDLL.pdb/{KEYS[0].id}/ntdll.pdb", "ntdll.pdb", True),
        ("ntdll.pdb/1/ntdll.pdb", "ntdll.pdb", False),
    ],
)
def test_a_pin_means(pin: str, name: str, means: bool) -> None:
    assert match_pins([pin])(name, KEYS[0].id) == means


def test_pins_are_kept_in_the_store(store: Store) -> None:
    pins = Pins(store)
    assert pins.list() == ()
    assert pins.add_all([" nt "]) == ("nt",)
    assert pins.add_all([KEYS[0].index.replace("/", "\\")]) == (KEYS[0].index,)
    pins.add_all(["nt"])
    assert Pins(store).list() == ("nt", KEYS[0].index)
    assert pins.remove_all(["nt"]) == 1
    assert pins.remove_all(["nt"]) == 0
    assert pins.list() == (KEYS[0].index,)
    for wrong in ("", "a\nb", "x" * 1000, "../../etc", "a/b/c"):
        with pytest.raises(UsageError):
            pins.add_all([wrong])
