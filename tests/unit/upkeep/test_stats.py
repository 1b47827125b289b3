from __future__ import annotations

import os
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symcache.identity import PdbKey, Tier
from symcache.stores.base import Form
from symcache.stores.local import atomic as place
from symcache.stores.local.atomic import Means
from symcache.stores.local.tree import Store
from symcache.symstore.admin import Addition, Admin
from symcache.symstore.transactions import Kind
from symcache.upkeep.stats import Total, collect_stats, dedupe, find_duplicates, iter_names

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def key(name: str, number: int) -> PdbKey:
    return PdbKey(name, UUID(int=number), 1)


def put(store: Store, key: PdbKey, content: bytes, form: Form = Form.PLAIN) -> Path:
    scratch = store.scratch()
    scratch.write_bytes(content)
    return store.publish(scratch, key, form=form, durable=False)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.mark.parametrize("tier", Tier)
def test_a_store_is_counted_by_name_and_kind(store: Store, tmp_path: Path, tier: Tier) -> None:
    store.create(tier)
    put(store, key("a.pdb", 1), b"x" * 10)
    put(store, key("a.pdb", 2), b"x" * 5, Form.COMPRESSED)
    put(store, key("b.pdb", 1), b"x" * 100)
    folder = put(store, key("c.pdb", 1), b"x").parent
    (folder / "msfz0").mkdir()
    (folder / "c.pdb").rename(folder / "msfz0" / "c.pdb")
    (folder.parent / "EMPTY").mkdir()
    target = r"\\server\a.pdb"
    Admin(store).add([Addition(key("a.pdb", 3), tmp_path, target=target)], product="p", kind=Kind.POINTER)
    stats = collect_stats(store, largest=2)
    assert (stats.tier, stats.names, stats.keys, stats.empty_keys, stats.transactions) == (tier, 3, 5, 1, 1)
    assert stats.total == Total(5, 116 + len(target))
    assert stats.by_kind == {
        "plain": Total(2, 110),
        "compressed": Total(1, 5),
        "pointer": Total(1, len(target)),
        "msfz": Total(1, 1),
    }
    assert [each.name for each in stats.largest] == ["b.pdb", "a.pdb"]
    assert stats.as_json()["by_kind"]["plain"] == {"files": 2, "bytes": 110}  # type: ignore[index]
    first = next(iter_names(store))
    assert (first.name, first.keys, first.total) == ("a.pdb", 3, Total(3, 15 + len(target)))


def test_a_file_and_its_hard_linked_alias_count_once(store: Store) -> None:
    path = put(store, key("a.pdb", 1), b"x" * 1000)
    for alias in (key("a.pdb", 2), key("b.pdb", 1)):
        store.folder_for(alias).mkdir(parents=True)
        os.link(path, store.folder_for(alias) / alias.name)
    put(store, key("c.pdb", 1), b"x" * 10)
    stats = collect_stats(store)
    assert stats.total == stats.by_kind["plain"] == Total(4, 1010)
    assert (stats.keys, stats.names) == (4, 3)
    assert [(each.name, each.total) for each in stats.largest] == [
        ("a.pdb", Total(2, 1000)),
        ("c.pdb", Total(1, 10)),
        ("b.pdb", Total(1, 0)),
    ]


def test_duplicates_have_the_same_length_and_the_same_hash(store: Store) -> None:
    big = b"z" * 200_000
    put(store, key("a.pdb", 1), big)
    put(store, key("b.pdb", 1), big)
    put(store, key("c.pdb", 1), big[:-1] + b"y")  # differs after the first look
    put(store, key("d.pdb", 1), b"small")
    put(store, key("e.pdb", 1), b"small")
    put(store, key("f.pdb", 1), b"other")
    groups = list(find_duplicates(store))
    assert [[path.name for path, _, _ in group.files] for group in groups] == [["a.pdb", "b.pdb"], ["d.pdb", "e.pdb"]]
    assert [group.wasted_bytes for group in groups] == [200_000, 5]


@settings(max_examples=25)
@given(st.lists(st.sampled_from([b"a", b"b", b"aa", b"ab", b"abc"]), max_size=12))
def test_every_pair_of_equal_files_is_found(tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]) -> None:
    with Store(tmp_path_factory.mktemp("s")) as store:
        for number, content in enumerate(contents):
            put(store, key("a.pdb", number), content)
        found = {group.files[0][0].read_bytes(): len(group.files) for group in find_duplicates(store)}
    assert found == {content: contents.count(content) for content in contents if contents.count(content) > 1}


@pytest.mark.parametrize("reflinks", [True, False])
def test_duplicates_come_to_share_their_space(store: Store, monkeypatch: pytest.MonkeyPatch, reflinks: bool) -> None:
    first, second = put(store, key("a.pdb", 1), b"same"), put(store, key("b.pdb", 1), b"same")
    os.utime(second, ns=(10**18, 10**18))
    if reflinks:

        def copy(original: Path, scratch: Path) -> bool:
            scratch.write_bytes(original.read_bytes())
            return True

        monkeypatch.setattr(place, "_reflink", copy)
    else:
        monkeypatch.setattr(place, "_reflink", lambda original, scratch: False)
    (shared,) = dedupe(store, find_duplicates(store))
    assert (shared.path, shared.original) == (second, first)
    assert shared.means is (Means.REFLINK if reflinks else Means.HARD_LINK)
    assert second.read_bytes() == b"same"
    assert second.samefile(first) != reflinks
    if reflinks:
        assert second.stat().st_mtime_ns == 10**18
    else:
        assert list(dedupe(store, find_duplicates(store))) == []
        (group,) = find_duplicates(store)
        assert (group.copies, group.wasted_bytes) == (1, 0)


def test_what_the_system_offers_is_found_out(store: Store) -> None:
    put(store, key("a.pdb", 1), b"same" * 2000)
    put(store, key("b.pdb", 1), b"same" * 2000)
    (shared,) = dedupe(store, find_duplicates(store))
    assert shared.means in set(Means)
    assert shared.path.read_bytes() == b"same" * 2000
    assert not list(store.root.rglob("*.part"))


def test_a_duplicate_that_changed_or_is_being_filled_in_stays_apart(store: Store) -> None:
    put(store, key("a.pdb", 1), b"same")
    second = put(store, key("b.pdb", 1), b"same")
    groups = list(find_duplicates(store))
    lock = store.lock(key("b.pdb", 1))
    assert lock.try_acquire()
    assert [each.problem for each in dedupe(store, groups)] == ["being written"]
    lock.release()
    put(store, key("b.pdb", 1), b"diff")
    (shared,) = dedupe(store, groups)
    assert (shared.problem, second.read_bytes()) == ("changed since", b"diff")
    assert shared.as_json()["means"] is None
    second.unlink()
    assert list(dedupe(store, groups)) == []
