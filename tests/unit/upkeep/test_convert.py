from __future__ import annotations

import errno
import pathlib
import random
import threading
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.dying import run_dying
from support.parts import wine_lacks
from support.windows import held_open, only_windows

from symcache.errors import StoreError
from symcache.identity import PdbKey, Tier
from symcache.stores.base import Form
from symcache.stores.local.tree import Store
from symcache.symstore.admin import Addition, Admin
from symcache.upkeep.repair import convert

if TYPE_CHECKING:
    from pathlib import Path

# Names that are hard to tell from folders of two letters, and some that share one.
NAMES = ["ntdll.pdb", "NTKRNLMP.pdb", "nt", "x", "a.pdb", "ab", "abc.pdb", "ab.dll"]
KEYS = [PdbKey(name, UUID(int=number << 120 | 1), 1) for name in NAMES for number in range(2)]


def put(store: Store, key: PdbKey, form: Form = Form.PLAIN) -> Path:
    scratch = store.scratch()
    scratch.write_text(key.index)
    return store.publish(scratch, key, form=form, durable=False)


def layout(store: Store) -> set[str]:
    return {path.relative_to(store.root).as_posix() for path in store.root.rglob("*") if ".symcache" not in path.parts}


def other(tier: Tier) -> Tier:
    return Tier.TWO if tier is Tier.ONE else Tier.ONE


def fill(root: Path, tier: Tier) -> None:
    with Store(root) as store:
        store.create(tier)
        for key in KEYS:
            put(store, key)
        (root / "source").write_text("content")
        Admin(store).add([Addition(KEYS[0], root / "source")], product="p")
        (root / "source").unlink()


def missing(root: Path) -> list[str]:
    with Store(root) as store:
        return [key.index for key in KEYS if store.find(key) is None]


@pytest.mark.parametrize("tier", Tier)
def test_a_store_converted_there_and_back_is_what_it_was(tmp_path: Path, tier: Tier) -> None:
    fill(tmp_path, tier)
    with Store(tmp_path) as store, Store(tmp_path / "expected") as expected:
        before = layout(store)
        moved: list[Path] = []
        convert(store, other(tier), on_moved=moved.append)
        assert moved
        assert all(path.is_dir() for path in moved)
        expected.create(other(tier))
        for key in KEYS:
            put(expected, key)
        folder = store.folder_for(KEYS[0]).relative_to(store.root).as_posix()
        assert {path for path in layout(store) if not path.startswith(("expected", "000Admin"))} == {
            *layout(expected), f"{folder}/refs.ptr",
        }  # fmt: skip
        assert missing(tmp_path) == []
        convert(store, tier)
        assert {path for path in layout(store) if not path.startswith("expected")} == before
        assert convert(store, tier).moved == 0


@pytest.mark.parametrize("tier", Tier)
def test_two_folders_of_one_key_become_one_and_nothing_is_lost(tmp_path: Path, tier: Tier) -> None:
    with Store(tmp_path) as store:
        store.create(tier)
        cabinet = put(store, KEYS[0], Form.COMPRESSED)
        plain = put(store, KEYS[0])
        (tmp_path / "source").write_text("content")
        Admin(store).add([Addition(KEYS[0], tmp_path / "source")], product="p")
        old = (store.folder_for(KEYS[0]) / "refs.ptr").read_bytes()
        (tmp_path / "index2.txt").unlink() if tier is Tier.TWO else (tmp_path / "index2.txt").touch()
        newer = put(store, KEYS[0])
        newer.write_text("newer")
        (newer.parent / "refs.ptr").write_bytes(b'0000000007,file,"x",pri,,N,,')
        converted = convert(store, other(tier))
        assert (converted.moved, converted.merged, converted.quarantined) == (0, 1, 1)
        assert not cabinet.exists()
        assert not plain.exists()
        assert sorted(path.name for path in newer.parent.iterdir()) == ["ntdll.pd_", "ntdll.pdb", "refs.ptr"]
        assert newer.read_text() == "newer"
        assert (newer.parent / "refs.ptr").read_bytes() == old + b'\r\n0000000007,file,"x",pri,,N,,'
        kept = list((tmp_path / ".symcache" / "quarantine").rglob("ntdll.pdb"))
        assert [path.read_text() for path in kept] == ["content"]


@only_windows
@pytest.mark.parametrize("tier", Tier)
@pytest.mark.parametrize("moves", [pytest.param("folder", marks=wine_lacks("folders in use")), "file"])
def test_a_conversion_ends_once_a_debugger_has_closed_its_file(tmp_path: Path, tier: Tier, moves: str) -> None:
    fill(tmp_path, tier)
    with Store(tmp_path) as store, Store(tmp_path / "like") as like:
        found = store.find(KEYS[2])
        assert found is not None
        if moves == "file":  # as the new layout has a folder of the key already
            like.create(other(tier))
            folder = tmp_path / like.folder_for(KEYS[2]).relative_to(like.root)
            folder.mkdir(parents=True)
            (folder / "note.txt").touch()
        with held_open(found.path):
            with pytest.raises(StoreError):
                convert(store, other(tier))
            assert missing(tmp_path) == []
        convert(store, other(tier))
    assert missing(tmp_path) == []


def test_a_folder_that_is_there_and_cannot_be_found_is_not_looked_for_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def rename(self: Path, target: Path) -> None:
        raise FileNotFoundError(errno.ENOENT, "the path is too long for this system", str(target))

    fill(tmp_path, Tier.ONE)
    monkeypatch.setattr(pathlib.Path, "rename", rename)
    with Store(tmp_path) as store, pytest.raises(StoreError, match="too long"):
        convert(store, Tier.TWO)


def test_other_folders_in_the_root_stay_where_they_are(tmp_path: Path) -> None:
    fill(tmp_path, Tier.ONE)
    (tmp_path / "notes" / "2024").mkdir(parents=True)
    (tmp_path / "notes" / "2024" / "readme.txt").touch()
    with Store(tmp_path) as store:
        convert(store, Tier.TWO)
        assert (tmp_path / "notes" / "2024" / "readme.txt").exists()


def test_transactions_wait_until_a_conversion_that_was_interrupted_has_ended(tmp_path: Path) -> None:
    fill(tmp_path, Tier.ONE)
    with Store(tmp_path) as store:
        store.converting.touch()
        with pytest.raises(StoreError, match="conversion"):
            Admin(store).delete(1)
        convert(store, Tier.TWO)
        Admin(store).delete(1)


def check_company(tmp_path: Path, conversions: int) -> None:
    """Convert to and fro while one thread looks up and another publishes, a few files for each conversion."""
    fill(tmp_path, Tier.ONE)
    problems: list[str] = []
    published: list[PdbKey] = []
    looked, published_some, done = threading.Event(), threading.Event(), threading.Event()
    to_publish = threading.Semaphore(8)

    def look_up() -> None:
        with Store(tmp_path) as store:
            while not done.is_set():
                problems.extend(key.index for key in KEYS if store.find(key) is None)
                looked.set()

    def publish() -> None:
        with Store(tmp_path) as store:
            while to_publish.acquire() and not done.is_set():
                key = PdbKey(NAMES[len(published) % len(NAMES)], UUID(int=len(published)), 2)
                put(store, key)
                published.append(key)
                published_some.set()

    threads = [threading.Thread(target=look_up), threading.Thread(target=publish)]
    for thread in threads:
        thread.start()
    try:
        assert looked.wait(30)
        assert published_some.wait(30)
        with Store(tmp_path) as store:
            for number in range(conversions):
                to_publish.release(8)
                convert(store, Tier.ONE if number % 2 else Tier.TWO)
                looked.clear()
                assert looked.wait(30)
    finally:
        done.set()
        to_publish.release()
        for thread in threads:
            thread.join()
    assert problems == []
    with Store(tmp_path) as store:
        assert [key.index for key in published if store.find(key) is None] == []
        assert len(list(store.key_folders())) == len(KEYS) + len(published)


def test_who_looks_up_meanwhile_misses_nothing_and_what_is_published_meanwhile_is_found(tmp_path: Path) -> None:
    check_company(tmp_path, 2)


@pytest.mark.slow
def test_who_looks_up_during_many_conversions_misses_nothing(tmp_path: Path) -> None:
    check_company(tmp_path, 60)


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from(KEYS), unique=True), st.lists(st.sampled_from(KEYS), unique=True), st.sampled_from(Tier)
)
def test_a_walk_of_a_half_converted_store_meets_each_folder_once(
    tmp_path_factory: pytest.TempPathFactory, first: list[PdbKey], second: list[PdbKey], tier: Tier
) -> None:
    with Store(tmp_path_factory.mktemp("s")) as store:
        for key in first:
            put(store, key)
        (store.root / "index2.txt").touch()
        for key in second:
            put(store, key)
        store.converting.parent.mkdir(exist_ok=True)
        store.converting.touch()
        if tier is Tier.ONE:
            (store.root / "index2.txt").unlink()
        walked = sorted((name, id_) for name, id_, _ in store.key_folders())
        assert walked == sorted((key.name, key.id) for key in first + second)
        assert all(store.find(key) is not None for key in first + second)


SETUP = """
from pathlib import Path
from symcache.identity import Tier
from symcache.upkeep.repair import convert
from symcache.stores.local.tree import Store
store = Store(Path({root!r}))
"""


def check_deaths(tmp_path: Path, tier: Tier, steps: list[int]) -> None:
    deaths = 0
    for number in steps:
        root = tmp_path / str(number)
        fill(root, tier)
        with Store(root) as store:
            put(store, KEYS[2], Form.COMPRESSED)
        deaths += run_dying(SETUP.format(root=str(root)), f"convert(store, Tier({other(tier)}))", steps=number)
        assert missing(root) == []
        with Store(root) as store:
            convert(store, other(tier))
            assert store.tier is other(tier)
            assert not store.converting.exists()
            assert len(list(store.key_folders())) == len(KEYS)
        assert missing(root) == []
    assert deaths


@pytest.mark.parametrize("tier", Tier)
def test_a_conversion_that_dies_loses_nothing_and_a_rerun_ends_it(tmp_path: Path, tier: Tier) -> None:
    check_deaths(tmp_path, tier, random.Random(int(tier)).sample(range(3, 40), 2))


@pytest.mark.slow
@pytest.mark.parametrize("tier", Tier)
def test_a_conversion_may_die_at_every_single_step(tmp_path: Path, tier: Tier) -> None:
    check_deaths(tmp_path, tier, list(range(70)))
