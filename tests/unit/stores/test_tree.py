from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from uuid import UUID

import pytest
from support.dying import run_dying
from support.windows import held_open, only_windows

from symcache.errors import StoreError
from symcache.identity import PdbKey, Tier
from symcache.stores.base import Form
from symcache.stores.local import atomic as place
from symcache.stores.local.access import AccessLog
from symcache.stores.local.atomic import OWN_FOLDER
from symcache.stores.local.tree import Store

KEY = PdbKey("NtDll.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 10)


def put(store: Store, key: PdbKey, content: bytes, form: Form = Form.PLAIN) -> Path:
    scratch = store.scratch()
    scratch.write_bytes(content)
    return store.publish(scratch, key, form=form)


def visible_files(root: Path) -> list[str]:
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file() and ".symcache" not in path.relative_to(root).parts
    )


@pytest.mark.parametrize(
    ("tier", "path"),
    [
        (Tier.ONE, "NtDll.pdb/7578144C39C4468394EF84F01549113Aa/NtDll.pdb"),
        (Tier.TWO, "Nt/NtDll.pdb/7578144C39C4468394EF84F01549113Aa/NtDll.pdb"),
    ],
)
def test_a_published_file_lies_where_debuggers_look(tmp_path: Path, tier: Tier, path: str) -> None:
    with Store(tmp_path / "s") as store:
        store.create(tier)
        put(store, KEY, b"pdb")
        marks = ["pingme.txt"] + (["index2.txt"] if tier is Tier.TWO else [])
        assert visible_files(store.root) == sorted([path, *marks])
        found = store.find(KEY)
        assert found is not None
        assert found.path.read_bytes() == b"pdb"
        assert (found.form, found.size_bytes) == (Form.PLAIN, 3)


@pytest.mark.parametrize("spelling", ["ntdll.pdb", "NTDLL.PDB"])
def test_folders_are_found_and_reused_in_any_letter_case(tmp_path: Path, spelling: str) -> None:
    folder = tmp_path / spelling / KEY.id.lower()
    folder.mkdir(parents=True)
    (folder / spelling).write_bytes(b"pdb")
    with Store(tmp_path) as store:
        found = store.find(KEY)
        assert found is not None
        assert found.path.parent == folder
        other = PdbKey(KEY.name, KEY.guid, 11)
        put(store, other, b"other")
    assert [each.name for each in tmp_path.iterdir() if each.name.lower() == KEY.name.lower()] == [spelling]


@only_windows
@pytest.mark.parametrize("drive", ["\\\\localhost\\c$", "\\\\?\\C:", "\\\\?\\UNC\\localhost\\c$"])
def test_a_store_is_the_same_by_each_spelling_of_its_path(tmp_path: Path, drive: str) -> None:
    root = Path(str(tmp_path / "sym").replace("C:", drive, 1))
    if not Path(f"{drive}\\").exists():
        pytest.skip(f"{drive} is not shared with this user")
    with Store(root) as store:
        put(store, KEY, b"pdb")
    with Store(tmp_path / "sym") as store, Store(root) as other:
        assert store.find(KEY) is not None
        lock, same = store.lock(KEY), other.lock(KEY)
        assert lock.try_acquire()
        lock.release()
        assert same.try_acquire()
        same.release()


@only_windows
def test_a_path_may_be_longer_than_windows_takes_without_being_asked(tmp_path: Path) -> None:
    # By a long name, as wine says of no file below a long folder what it is called in the end.
    key = PdbKey("long" * 28 + ".pdb", KEY.guid, KEY.age)
    with Store(Path(f"\\\\?\\{tmp_path}")) as store:
        path = put(store, key, b"pdb")
        assert len(str(path)) > 260
        found = store.find(key)
        assert found is not None
        assert found.path.read_bytes() == b"pdb"


@only_windows
def test_a_file_that_a_debugger_has_open_is_not_replaced_and_that_is_said(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        path = put(store, KEY, b"pdb")
        with held_open(path), pytest.raises(StoreError, match="has it open"):
            put(store, KEY, b"new")
        assert path.read_bytes() == b"pdb"
        assert put(store, KEY, b"new").read_bytes() == b"new"


@pytest.mark.parametrize("tier", Tier)
def test_a_folder_made_a_moment_ago_is_reused_in_another_letter_case(tmp_path: Path, tier: Tier) -> None:
    # Each look at the clock takes long, so that a listing once made is trusted as long as can be.
    with Store(tmp_path, clock_s=iter(range(0, 10**9, 10**3)).__next__) as store:
        store.create(tier)
        for number, name in enumerate(("zz.pdb", "NtDll.pdb", "ntdll.PDB", "NTKRNLMP.pdb")):
            put(store, PdbKey(name, KEY.guid, number), b"pdb")
        walked = list(store.key_folders())
        assert {name for name, _, _ in walked} == {"zz.pdb", "NtDll.pdb", "NTKRNLMP.pdb"}
        assert len(walked) == 4
        if tier is Tier.TWO:
            assert {folder.parent.parent.name for _, _, folder in walked} == {"zz", "Nt"}


def test_an_empty_file_counts_as_absent_and_is_replaced(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        put(store, KEY, b"")
        assert store.find(KEY) is None
        put(store, KEY, b"pdb")
        assert store.find(KEY) is not None


def test_the_plain_file_wins_over_its_cabinet_and_that_over_a_pointer(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        folder = put(store, KEY, b"cab", Form.COMPRESSED).parent
        (folder / "file.ptr").write_text(r"\\server\share\x.pdb")
        found = store.find(KEY)
        assert found is not None
        assert (found.form, found.path.name) == (Form.COMPRESSED, "NtDll.pd_")
        put(store, KEY, b"pdb")
        found = store.find(KEY)
        assert found is not None
        assert found.form is Form.PLAIN


def test_a_file_that_another_process_publishes_is_found_although_the_folder_was_listed_before(tmp_path: Path) -> None:
    with Store(tmp_path) as reader, Store(tmp_path) as writer:
        assert reader.find(KEY) is None
        put(writer, KEY, b"pdb")
        assert reader.find(KEY) is not None


def test_scratch_is_gone_after_closing_and_what_a_dead_process_left_is_swept(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.scratch().write_bytes(b"half")
    assert visible_files(tmp_path) == ["pingme.txt"]
    assert not list((tmp_path / ".symcache" / "staging").iterdir())
    left = tmp_path / ".symcache" / "staging" / "p-dead"
    left.mkdir()
    (left / "x.part").write_bytes(b"half")
    with Store(tmp_path) as store:
        store.scratch()
        assert not left.exists()


def test_the_living_are_not_swept(tmp_path: Path) -> None:
    with Store(tmp_path) as one, Store(tmp_path) as other:
        mine = one.scratch()
        mine.write_bytes(b"half")
        other.scratch()
        assert mine.exists()


def test_all_keys_of_a_store_are_walked(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        store.create(Tier.TWO)
        put(store, KEY, b"pdb")
        (tmp_path / "000Admin").mkdir()
        assert [(name, id_) for name, id_, _ in store.key_folders()] == [(KEY.name, KEY.id)]


def test_a_store_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with Store(tmp_path / "file" / "store") as store, pytest.raises(StoreError, match="file"):
        store.scratch()


@pytest.mark.skipif(os.name == "nt", reason="Windows refuses to remove a folder in use")
def test_publishing_survives_a_folder_that_is_pruned_meanwhile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    mkdir = os.mkdir
    pruned: list[str] = []

    def prune_once(path: str, mode: int = 0o777) -> None:
        mkdir(path, mode)
        if Path(path).name == KEY.id and not pruned:
            pruned.append(path)
            Path(path).rmdir()

    with Store(tmp_path) as store:
        scratch = store.scratch()
        scratch.write_bytes(b"pdb")
        monkeypatch.setattr(os, "mkdir", prune_once)
        store.publish(scratch, KEY)
        assert pruned
        assert store.find(KEY) is not None


def test_threads_that_begin_at_once_share_one_scratch_folder(tmp_path: Path) -> None:
    with Store(tmp_path) as store, ThreadPoolExecutor(8) as pool:
        folders = {path.parent for path in pool.map(lambda _: store.scratch(), range(64))}
        assert len(folders) == 1


ALIAS = PdbKey("Other.pdb", KEY.guid, KEY.age)


def test_a_file_that_stands_under_a_second_key_takes_no_second_space(tmp_path: Path) -> None:
    with Store(tmp_path / "s") as store:
        first = put(store, KEY, b"pdb")
        second = store.also_file_under(first, ALIAS)
        assert second == tmp_path / "s" / ALIAS.index
        assert second.read_bytes() == b"pdb"
        assert store.also_file_under(first, ALIAS) == second
        if place.share_space(first, tmp_path / "probe") is place.Means.HARD_LINK:
            assert second.samefile(first)


def test_a_file_of_somewhere_else_is_copied(tmp_path: Path) -> None:
    outside = tmp_path / "outside.pdb"
    outside.write_bytes(b"pdb")
    with Store(tmp_path / "s") as store:
        second = store.also_file_under(outside, ALIAS)
    outside.write_bytes(b"changed")
    assert second.read_bytes() == b"pdb"


@pytest.mark.skipif(sys.platform != "linux", reason="another system has other files that cannot be opened for writing")
def test_a_file_in_use_can_stand_under_a_second_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(place, "_reflink", lambda original, scratch: False)
    with Store(tmp_path / "s") as store:
        first = put(store, KEY, Path("/bin/sleep").read_bytes())
        first.chmod(0o755)
        with subprocess.Popen([first, "600"]) as running:
            try:
                with pytest.raises(OSError, match="busy"):
                    first.open("r+b")
                assert store.also_file_under(first, ALIAS).samefile(first)
            finally:
                running.kill()


@pytest.mark.parametrize("tier", list(Tier))
def test_which_of_many_keys_are_there_takes_a_listing_for_each_name_that_is(
    tmp_path: Path, tier: Tier, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = [PdbKey("a.pdb", UUID(int=1), 1), PdbKey("A.pdb", UUID(int=2), 1), PdbKey("b.pdb", UUID(int=3), 1)]
    with Store(tmp_path / "s") as store:
        store.create(tier)
        for key in there:
            put(store, key, b"x")
        (store.folder_for(there[2]) / "b.pdb").write_bytes(b"")  # empty files count as absent
        others = [PdbKey(f"{name}.pdb", UUID(int=number), 2) for name in "abc" for number in range(1, 1000)]
        listings: list[str] = []
        scandir = os.scandir

        def counted(path: str) -> object:
            listings.append(path)
            return scandir(path)

        monkeypatch.setattr(os, "scandir", counted)
        assert set(store.holding([*others, *there])) == {*there[:2]}
        assert len(listings) < 20


def test_a_store_that_is_not_there_holds_nothing(tmp_path: Path) -> None:
    assert list(Store(tmp_path / "none").holding([KEY])) == []


@pytest.mark.parametrize("step", range(4))
def test_a_store_whose_maker_was_killed_is_made_whole_by_the_next(step: int, tmp_path: Path) -> None:
    setup = "from pathlib import Path\nfrom symcache.identity import Tier\nfrom symcache.stores.local.tree import Store"
    died = run_dying(setup, f"Store(Path({str(tmp_path / 'sym')!r})).create(Tier.TWO)", steps=step)
    assert died or step
    store = Store(tmp_path / "sym")
    store.create(Tier.TWO)
    assert store.tier is Tier.TWO
    assert (tmp_path / "sym/pingme.txt").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="making links takes a privilege there")
def test_a_store_may_lie_behind_a_link_that_is_called_as_its_own_folder(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    link = tmp_path / OWN_FOLDER
    link.symlink_to(tmp_path / "disk")
    root = link / "sym"
    with Store(root) as store:
        put(store, KEY, b"whole")
        AccessLog(store).touch(KEY)
    assert AccessLog(store).last_used_by_key().keys() == {KEY.folded}
    assert (tmp_path / "disk" / "sym" / KEY.index).read_bytes() == b"whole"
