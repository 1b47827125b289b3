from __future__ import annotations

import json
import os
import sys
import zipfile
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.pdb import NativePdbSpec, make_pdb
from support.windows import held_open, only_windows

from symcache.errors import StoreError, UsageError
from symcache.identity import Key, OtherKey, PdbKey, Tier, parse_index
from symcache.stores.base import Form
from symcache.stores.check import StoredCheck
from symcache.stores.local.tree import Store
from symcache.symstore.admin import Addition, Admin
from symcache.symstore.transactions import Kind
from symcache.upkeep.filechecks import DeepCheck
from symcache.upkeep.inventory import take_inventory
from symcache.upkeep.problems import Problem, ProblemKind, RepairAction
from symcache.upkeep.prune import Limits, carry_out, plan_prune
from symcache.upkeep.repair import convert, repair
from symcache.upkeep.stats import collect_stats
from symcache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.upkeep.checkpoint import Progress

KEYS = [PdbKey(f"file{number}.pdb", UUID(int=number << 124), 10) for number in range(4)]


def check(path: Path, key: Key) -> str | None:
    """Take a file for right if it holds its own index."""
    text = path.read_text()
    if text.lower() == key.folded:
        return None
    return "another PDB" if text in {each.index for each in KEYS} else "cut short"


def put(store: Store, key: Key, content: str | None = None, form: Form = Form.PLAIN) -> Path:
    scratch = store.scratch()
    scratch.write_bytes((key.index if content is None else content).encode())
    return store.publish(scratch, key, form=form, durable=False)


def find(store: Store) -> list[tuple[ProblemKind, str]]:
    return [(each.kind, each.path) for each in verify(store, check)]


@pytest.fixture(params=Tier)
def store(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        store.create(request.param)
        yield store


def below(store: Store, path: Path) -> str:
    return path.relative_to(store.root).as_posix()


def test_a_sound_store_has_no_findings_and_keeps_no_trace_of_the_walk(store: Store, tmp_path: Path) -> None:
    for key in KEYS[:2]:
        put(store, key)
    put(store, KEYS[2], form=Form.COMPRESSED)
    (tmp_path / "f").write_text(KEYS[0].index)
    admin = Admin(store)
    admin.add([Addition(KEYS[0], tmp_path / "f")], product="p")
    admin.add([Addition(KEYS[3], tmp_path / "f")], product="p", kind=Kind.POINTER)
    admin.delete(1)
    admin.add([Addition(KEYS[0], tmp_path / "f")], product="p")
    put(store, OtherKey("page.html", "sha1-12"), "<html> a source file is no error page")
    findings = list(verify(store, lambda path, key: None if key.name.endswith("l") else check(path, key)))
    assert findings == []
    assert not (store.root / ".symcache" / "verify.jsonl").exists()


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("", ProblemKind.EMPTY),
        ("\ufeff\r\n<!DOCTYPE html>", ProblemKind.HTML),
        ("<HTML><body>sign in", ProblemKind.HTML),
        (KEYS[1].index, ProblemKind.MISFILED),
        (KEYS[0].index[:-2], ProblemKind.DAMAGED),
    ],
)
@pytest.mark.parametrize("form", [Form.PLAIN, Form.COMPRESSED])
def test_a_wrong_file_is_found_quarantined_and_fetched_anew(
    store: Store, content: str, problem: ProblemKind, form: Form
) -> None:
    path = put(store, KEYS[0], content, form)
    put(store, KEYS[1])
    (finding,) = verify(store, check)
    assert (finding.kind, finding.path, finding.index) == (problem, below(store, path), KEYS[0].index)

    def fetch(key: Key) -> str | None:
        assert store.find(key) is None
        put(store, key)
        return None

    (repaired,) = repair(store, [finding], fetch=fetch)
    assert repaired.repaired
    (kept,) = (store.root / ".symcache" / "quarantine").rglob(path.name)
    assert kept.read_bytes() == content.encode()
    assert json.loads(kept.with_name("why.json").read_text())["path"] == below(store, path)
    assert find(store) == []


def test_what_cannot_be_fetched_is_said_and_stops_no_other(store: Store) -> None:
    for key in KEYS[:2]:
        put(store, key, "")
    results = list(repair(store, list(verify(store, check)), fetch=lambda key: "404" if key == KEYS[0] else None))
    assert [(each.repaired, each.note.rpartition(", ")[2]) for each in results] == [
        (False, "not fetched: 404"),
        (True, "fetched again"),
    ]
    assert str(results[0]).endswith("left: not fetched: 404")


def test_a_file_that_changed_since_or_is_being_filled_in_is_left_alone(store: Store) -> None:
    put(store, KEYS[0], "")
    findings = list(verify(store, check))
    lock = store.lock(KEYS[0])
    assert lock.try_acquire()
    assert [each.note for each in repair(store, findings)] == ["being written"]
    lock.release()
    put(store, KEYS[0])
    assert [each.note for each in repair(store, findings)] == ["changed since"]
    assert store.find(KEYS[0]) is not None


def test_scratch_of_other_tools_counts_once_it_is_old(store: Store) -> None:
    folder = put(store, KEYS[0]).parent
    for name in ("file0.pdb.tmp", "x.part", "notes.txt"):
        (folder / name).touch()
    os.utime(folder / "x.part", (0, 0))
    findings = list(verify(store, check))
    assert [(each.path, each.action) for each in findings] == [
        (below(store, folder / "notes.txt"), RepairAction.NONE),
        (below(store, folder / "x.part"), RepairAction.QUARANTINE),
    ]
    assert [each.repaired for each in repair(store, findings)] == [False, True]
    assert not (folder / "x.part").exists()


@pytest.mark.parametrize("damage", ["missing", "other", "extra"])
def test_a_pointer_that_contradicts_the_references_is_written_as_they_say(
    store: Store, tmp_path: Path, damage: str
) -> None:
    (tmp_path / "f").write_text(KEYS[0].index)
    admin = Admin(store)
    admin.add([Addition(KEYS[0], tmp_path / "f")], product="p")
    if damage != "extra":
        admin.add([Addition(KEYS[0], tmp_path / "f", target="T")], product="p", kind=Kind.POINTER)
    pointer = store.folder_for(KEYS[0]) / "file.ptr"
    pointer.unlink(missing_ok=True)
    if damage != "missing":
        pointer.write_text("elsewhere")
    findings = list(verify(store, check))
    assert [(each.kind, each.path) for each in findings] == [(ProblemKind.POINTER, below(store, pointer))]
    assert all(each.repaired for each in repair(store, findings))
    assert pointer.exists() == (damage != "extra")
    assert find(store) == []


def test_transactions_that_name_absent_files_are_found(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(KEYS[0].index)
    Admin(store).add([Addition(KEYS[0], tmp_path / "f")], product="p")
    path = store.folder_for(KEYS[0]) / KEYS[0].name
    path.unlink()
    findings = list(verify(store, check))
    assert [(each.kind, each.path, each.action) for each in findings] == [
        (ProblemKind.ABSENT, below(store, path), RepairAction.FETCH),
        (ProblemKind.ABSENT, "000Admin/0000000001", RepairAction.FETCH),
    ]
    assert [each.note for each in repair(store, findings)] == ["needs to be fetched"] * 2


def test_an_account_that_contradicts_itself_is_found(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(KEYS[0].index)
    admin = Admin(store)
    for _ in range(3):
        admin.add([Addition(KEYS[0], tmp_path / "f")], product="p")
    folder = store.root / "000Admin"
    with (folder / "server.txt").open("ab") as file:
        file.write(b"what is this\r\n")
    (folder / "0000000001").unlink()
    (folder / "0000000002").write_text(r'"..\..\etc","x"')
    (folder / "0000000009").touch()
    with (store.folder_for(KEYS[0]) / "refs.ptr").open("ab") as file:
        file.write(b"\r\nnonsense")
    assert find(store) == [
        (ProblemKind.REFERENCES, below(store, store.folder_for(KEYS[0]) / "refs.ptr")),
        (ProblemKind.ACCOUNT, "000Admin/server.txt"),
        (ProblemKind.ACCOUNT, "000Admin/0000000001"),
        (ProblemKind.ACCOUNT, "000Admin/0000000002"),
        (ProblemKind.ACCOUNT, "000Admin/0000000009"),
    ]


@pytest.mark.skipif(sys.platform in {"win32", "darwin"}, reason="the disk does not tell letter cases apart")
@pytest.mark.parametrize("level", ["id", "name", "tier"])
def test_two_spellings_of_one_folder_become_one(tmp_path: Path, level: str) -> None:
    with Store(tmp_path) as store:
        store.create(Tier.TWO)
        first = put(store, KEYS[0])
        twin = {
            "id": first.parent.with_name(first.parent.name.upper()),
            "name": first.parent.parent.with_name("FILE0.pdb") / first.parent.name,
            "tier": tmp_path / "FI" / "File0.PDB" / first.parent.name,
        }[level]
        twin.mkdir(parents=True)
        (twin / "file0.pd_").write_text(KEYS[0].index)
        (twin / "file0.pdb").write_text(KEYS[0].index)
        findings = list(verify(store, check))
        assert [each.kind for each in findings] == [ProblemKind.TWO_SPELLINGS]
        assert findings[0].other is not None
        if level == "id":
            assert findings[0].other == below(store, first.parent)
        (repaired,) = repair(store, findings)
        assert (repaired.repaired, repaired.note) == (True, "merged, 1 files into quarantine")
        assert find(store) == []
        assert len(list(store.key_folders())) == 1
        assert len([path for path in tmp_path.rglob("*.pd_") if ".symcache" not in path.parts]) == 1


def test_what_a_dead_writer_left_is_found_and_ended(store: Store, tmp_path: Path) -> None:
    store.converting.parent.mkdir(exist_ok=True)
    store.converting.touch()
    findings = list(verify(store, check))
    assert [each.kind for each in findings] == [ProblemKind.INTERRUPTED]
    assert all(each.repaired for each in repair(store, findings))
    assert find(store) == []


@only_windows
def test_a_file_that_a_debugger_has_open_is_mended_the_next_time(store: Store) -> None:
    path = put(store, KEYS[0], "wrong")
    with held_open(path):
        (finding,) = verify(store, check)
        (left,) = repair(store, [finding], fetch=lambda key: pytest.fail("its place is not free"))
        assert not left.repaired
        assert "open" in left.note or "use" in left.note or "Sharing" in left.note, left.note
        assert path.read_text() == "wrong"
        assert [each.name for each in (store.root / ".symcache").rglob("*.part")] == []
    (mended,) = repair(store, [finding])
    assert mended.repaired
    assert not path.exists()


@only_windows
def test_a_file_that_nobody_may_read_for_now_is_named_and_left_where_it_is(store: Store) -> None:
    path = put(store, KEYS[0])
    with held_open(path, is_shared=False):
        (finding,) = verify(store, check)
        assert (finding.kind, finding.path) == (ProblemKind.UNREADABLE, below(store, path.parent))
        assert not any(each.repaired for each in repair(store, [finding]))
    assert find(store) == []


def test_folders_that_no_key_can_have_are_named(store: Store) -> None:
    put(store, KEYS[0])
    folder = store.folder_for(KEYS[0]).with_name("AUX")
    # Windows makes it only for who asks so.
    Path(f"\\\\?\\{folder}" if sys.platform == "win32" else folder).mkdir()
    assert find(store) == [(ProblemKind.BAD_NAME, below(store, folder))]


def test_an_interrupted_verification_goes_on_where_it_was(store: Store) -> None:
    keys = [PdbKey(f"f{number % 7}.pdb", UUID(int=number), 1) for number in range(300)]
    for number, key in enumerate(keys):
        put(store, key, "" if number % 10 == 0 else None)
    looked: list[str] = []

    def counting(path: Path, key: Key) -> str | None:
        looked.append(key.index)
        return None

    whole = list(verify(store, counting))
    assert len(whole) == 30
    looked.clear()
    progress: list[Progress] = []
    first = verify(store, counting, on_progress=progress.append)
    for _ in islice(first, 20):
        pass
    first.close()  # type: ignore[attr-defined]
    stopped_at = progress[-1].keys
    assert 64 < stopped_at < 290
    with (store.root / ".symcache" / "verify.jsonl").open("ab") as file:
        file.write(b'{"finding": {"path": "torn')
    seen = set(looked)
    looked.clear()
    assert list(verify(store, counting, on_progress=progress.append)) == whole
    assert len(looked) <= 270 - len(seen) + 64
    assert seen | set(looked) >= {key.index for number, key in enumerate(keys) if number % 10}
    assert (progress[-1].keys, progress[-1].problems) == (300, 30)


def test_a_verification_is_not_run_twice_at_once(store: Store) -> None:
    put(store, KEYS[0], "")
    first = verify(store, check)
    next(first)
    with pytest.raises(StoreError, match="another verification"):
        next(verify(store, check))
    assert list(first) == []


def test_where_there_is_no_store_none_is_made(tmp_path: Path) -> None:
    with Store(tmp_path / "typo") as store:
        with pytest.raises(StoreError, match="no store here"):
            next(verify(store, check))
        with pytest.raises(StoreError, match="no store here"):
            convert(store, Tier.TWO)
        with pytest.raises(UsageError):
            Admin(store).delete(1)
        carry_out(store, plan_prune(take_inventory(store), Limits(max_bytes=0), now_s=0))
        assert collect_stats(store).keys == 0
        assert list(Admin(store).query()) == []
    assert not (tmp_path / "typo").exists()


@given(st.binary(max_size=200) | st.text(max_size=100).map(lambda text: json.dumps({"progress": text}).encode()))
def test_a_damaged_checkpoint_only_costs_time(tmp_path_factory: pytest.TempPathFactory, garbage: bytes) -> None:
    with Store(tmp_path_factory.mktemp("s")) as store:
        put(store, KEYS[0], "")
        own = store.root / ".symcache"
        (own / "verify.jsonl").write_bytes(b'{"schema": "symcache.checkpoint/1", "scope": ""}\n' + garbage + b"\n")
        assert [each.kind for each in verify(store, check)] == [ProblemKind.EMPTY]


def test_a_checkpoint_with_numbers_without_an_end_only_costs_time(tmp_path: Path) -> None:
    with Store(tmp_path) as store:
        put(store, KEYS[0], "")
        head = b'{"schema": "symcache.checkpoint/1", "scope": ""}\n'
        progress = b'{"progress": {"at": "", "keys": 1e999, "bytes": 0, "findings": 0}}\n'
        (tmp_path / ".symcache" / "verify.jsonl").write_bytes(head + progress)
        assert [each.kind for each in verify(store, check)] == [ProblemKind.EMPTY]


@pytest.mark.parametrize("path", ["../outside.pdb", "/etc/passwd", "a//b", "a/../../outside.pdb", "C:/x", ""])
def test_a_finding_from_outside_leads_nowhere_else(tmp_path: Path, path: str) -> None:
    (tmp_path / "outside.pdb").touch()
    with Store(tmp_path / "store") as store:
        store.create()
        findings = [Problem(path, ProblemKind.EMPTY, "", mend, other="x") for mend in RepairAction]
        results = list(repair(store, findings))
        assert not any(each.repaired for each in results)
    assert (tmp_path / "outside.pdb").exists()


def test_findings_survive_json() -> None:
    finding = Problem("a/b", ProblemKind.HTML, "page", RepairAction.QUARANTINE, "i", "o", 1, 2)
    assert Problem.from_json(json.loads(json.dumps(finding.as_json()))) == finding
    for wrong in ({}, {**finding.as_json(), "size_bytes": "1"}, {**finding.as_json(), "mend": "burn"}):
        with pytest.raises(ValueError, match=r"."):
            Problem.from_json(wrong)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("store"))
def test_real_stores_are_sound_and_a_damaged_file_in_them_is_not(tmp_path: Path, name: str) -> None:
    with zipfile.ZipFile(corpus / name) as archive:
        archive.extractall(tmp_path)
    facts = truth()[name]
    with Store(tmp_path) as store:
        real = StoredCheck(store)
        assert list(verify(store, real)) == []
        for each in facts["files"]:
            if each.get("file", "").endswith((".pdb", ".pd_", ".dll", ".exe", ".sys")):
                path = tmp_path / each["path"]
                whole = path.read_bytes()
                path.write_bytes(whole[: len(whole) // 2])
                findings = [finding for finding in verify(store, real) if finding.path == each["path"]]
                assert [finding.kind for finding in findings] == [ProblemKind.DAMAGED]
                path.write_bytes(whole)
        assert store.find(parse_index(facts["symbols"][0])) is not None


def test_what_a_deep_check_does_not_look_into_is_counted(tmp_path: Path) -> None:
    pytest.importorskip("pdbparse", reason="pdbparse is not installed")
    key = PdbKey("a.pdb", UUID(int=1), 1)
    path = tmp_path / key.name
    check = DeepCheck()
    path.write_bytes(make_pdb(NativePdbSpec(key.guid, key.age)))
    assert (check(path, key), check.passed_over) == (None, 0)
    path.write_bytes(make_pdb(NativePdbSpec(key.guid, key.age, extra_streams=1_100_000)))
    assert (check(path, key), check.passed_over) == (None, 1)
    assert "another PDB" in str(check(path, PdbKey("a.pdb", UUID(int=2), 1)))


def test_a_transaction_that_is_being_added_is_not_stale(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(KEYS[0].index)
    put(store, KEYS[1])
    walk = verify(store, lambda path, key: "cut short" if key == KEYS[1] else None)
    assert next(walk).index == KEYS[1].index  # what is in force was read before
    folder = store.folder_for(KEYS[2])
    Admin(store).add([Addition(KEYS[2], tmp_path / "f"), Addition(KEYS[3], tmp_path / "f")], product="p")
    assert (folder / "refs.ptr").exists()
    assert list(walk) == []


def test_a_transaction_that_server_txt_lacks_is_taken_back_in_its_place(store: Store, tmp_path: Path) -> None:
    (tmp_path / "f").write_text(KEYS[0].index)
    admin = Admin(store)
    for _ in range(4):
        admin.add([Addition(KEYS[0], tmp_path / "f")], product="p")
    admin.delete(4)
    server, deleted = store.root / "000Admin" / "server.txt", store.root / "000Admin" / "0000000004.deleted"
    before = server.read_bytes()
    server.write_bytes(b"".join(before.splitlines(keepends=True)[::2]))
    deleted.rename(deleted.with_suffix(""))
    findings = list(verify(store, check))
    assert [(each.path, each.action) for each in findings] == [
        ("000Admin/0000000002", RepairAction.ACCOUNT),
        ("000Admin/0000000004", RepairAction.ACCOUNT),
    ]
    assert all(each.repaired for each in repair(store, findings))
    assert server.read_bytes() == before
    assert deleted.exists()
    assert find(store) == []


@pytest.mark.parametrize("lost", ["a line", "a part of a line"])
@pytest.mark.parametrize("is_resumed", [False, True])
def test_a_transaction_whose_list_was_cut_short_lists_all_again_and_the_rest_is_kept(
    store: Store, tmp_path: Path, lost: str, is_resumed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "f").write_text(KEYS[0].index)
    Admin(store).add([Addition(key, tmp_path / "f") for key in KEYS[:2]], product="p")
    own = store.root / "000Admin" / "0000000001"
    before = own.read_bytes()
    first, last = before.splitlines(keepends=True)
    cut = first if lost == "a line" else first + last[:5]
    own.write_bytes(cut)
    if is_resumed:
        monkeypatch.setattr("symcache.upkeep.checkpoint._CHECKPOINT_KEYS", 1)
        with pytest.raises(ZeroDivisionError):
            list(verify(store, lambda *_: None, on_progress=lambda progress: print(1 / (2 - progress.keys))))
    findings = list(verify(store, lambda *_: None))
    assert {(each.path, each.action) for each in findings} == {("000Admin/0000000001", RepairAction.ACCOUNT)}
    assert all(each.repaired for each in repair(store, findings))
    assert last in own.read_bytes()
    assert own.read_bytes() == before
    (kept,) = (store.root / ".symcache" / "quarantine").glob("*/0000000001")
    assert kept.read_bytes() == cut


def test_what_an_interrupted_run_found_and_another_process_has_put_right_is_not_found_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symcache.upkeep.checkpoint._CHECKPOINT_KEYS", 1)
    bad = [put(store, key, "damaged") for key in KEYS[:3]]

    def look(path: Path, _: Key) -> str | None:
        return None if path.read_bytes() == b"right" else "damaged"

    with pytest.raises(ZeroDivisionError):
        list(verify(store, look, on_progress=lambda progress: print(1 / (3 - progress.keys))))
    bad[0].write_bytes(b"right")
    bad[1].write_bytes(b"wrong in another way")
    findings = list(verify(store, look))
    assert [(store.root / each.path, each.size_bytes) for each in findings] == [(bad[1], 20), (bad[2], 7)]
