from __future__ import annotations

import shutil
import zipfile
from datetime import datetime
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.shared import corpus, corpus_files, needs_corpus, truth

from symcache.errors import StoreError, UsageError
from symcache.identity import ImageKey, PdbKey, Tier, parse_index
from symcache.stores.base import Form
from symcache.stores.local.tree import Store
from symcache.symstore.admin import Addition, Admin
from symcache.symstore.transactions import Content, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

WHEN = datetime(2024, 2, 29, 1, 2, 3)  # noqa: DTZ001 - none is written
PDB = PdbKey("app.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 10)
DLL = ImageKey("app.dll", 0x5617D563, 0x8000)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


@pytest.fixture
def admin(store: Store) -> Admin:
    return Admin(store, now=lambda: WHEN)


def addition(folder: Path, key: PdbKey | ImageKey, text: str = "content", **fields: object) -> Addition:
    path = folder / key.name
    path.write_text(text)
    return Addition(key, path, **fields)  # type: ignore[arg-type]


def tree(root: Path) -> dict[str, bytes]:
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and ".symcache" not in path.parts
    }


def test_an_add_writes_exactly_what_symstore_writes(tmp_path: Path, store: Store, admin: Admin) -> None:
    additions = [addition(tmp_path, PDB, "pdb"), addition(tmp_path, DLL, "dll")]
    admin.add(additions, product="App", version="1.0", comment="first")
    line = b'0000000001,add,file,02/29/2024,01:02:03,"App","1.0","first",\r\n'
    assert tree(store.root) == {
        "000Admin/0000000001": (
            f'"app.pdb\\{PDB.id}","{tmp_path / "app.pdb"}"\r\n"app.dll\\{DLL.id}","{tmp_path / "app.dll"}"\r\n'
        ).encode(),
        "000Admin/history.txt": line,
        "000Admin/lastid.txt": b"0000000001",
        "000Admin/server.txt": line,
        f"app.dll/{DLL.id}/app.dll": b"dll",
        f"app.dll/{DLL.id}/refs.ptr": f'0000000001,file,"{tmp_path / "app.dll"}",bin,,N,,'.encode(),
        f"app.pdb/{PDB.id}/app.pdb": b"pdb",
        f"app.pdb/{PDB.id}/refs.ptr": f'0000000001,file,"{tmp_path / "app.pdb"}",pri,,N,,'.encode(),
        "pingme.txt": b"",
    }


def test_the_last_file_of_a_key_stays_while_a_transaction_names_it(tmp_path: Path, store: Store, admin: Admin) -> None:
    admin.add([addition(tmp_path, PDB)], product="cab", compress=True)
    (cabinet,) = (path for path in store.folder_for(PDB).iterdir() if path.name.endswith("_"))
    cabinet.unlink()
    second = admin.add([addition(tmp_path, PDB)], product="plain")
    admin.delete(second.id)
    assert store.find(PDB) is not None


def test_a_file_goes_with_its_transaction_where_a_pointer_is_left(tmp_path: Path, store: Store, admin: Admin) -> None:
    admin.add([addition(tmp_path, PDB)], product="pointer", kind=Kind.POINTER)
    second = admin.add([addition(tmp_path, PDB)], product="plain")
    admin.delete(second.id)
    assert [path.name for path in sorted(store.folder_for(PDB).iterdir())] == ["file.ptr", "refs.ptr"]


def test_what_a_file_is_can_be_said(tmp_path: Path, store: Store, admin: Admin) -> None:
    admin.add([addition(tmp_path, PDB, content=Content.PUBLIC)], product="App")
    assert (store.folder_for(PDB) / "refs.ptr").read_bytes().endswith(b'",pub,,N,,')


def test_a_delete_takes_back_what_the_add_brought_and_keeps_the_account(
    tmp_path: Path, store: Store, admin: Admin
) -> None:
    admin.add([addition(tmp_path, PDB)], product="App")
    deleted = admin.delete(1)
    assert (deleted.id, deleted.deleted_id) == (2, 1)
    after = tree(store.root)
    assert list(after) == [
        "000Admin/0000000001.deleted", "000Admin/history.txt", "000Admin/lastid.txt", "000Admin/server.txt",
        "pingme.txt",
    ]  # fmt: skip
    assert after["000Admin/server.txt"] == b""
    assert after["000Admin/history.txt"].endswith(b',"App","","",\r\n0000000002,del,0000000001\r\n')
    assert after["000Admin/lastid.txt"] == b"0000000002"
    assert not (store.root / "app.pdb").exists()
    with pytest.raises(UsageError, match="no transaction 0000000001"):
        admin.delete(1)


def test_a_file_stays_until_the_last_transaction_that_names_it_goes(tmp_path: Path, store: Store, admin: Admin) -> None:
    for _ in range(3):
        admin.add([addition(tmp_path, PDB)], product="App")
    for id_ in (2, 1):
        admin.delete(id_)
        assert store.find(PDB) is not None
    admin.delete(3)
    assert store.find(PDB) is None


@pytest.mark.parametrize("tier", Tier)
def test_the_last_reference_decides_whether_there_is_a_pointer(
    tmp_path: Path, store: Store, admin: Admin, tier: Tier
) -> None:
    store.create(tier)
    target = r"\\server\share\app.pdb"
    admin.add([addition(tmp_path, PDB)], product="file")
    folder = store.folder_for(PDB)
    admin.add([addition(tmp_path, PDB, target=target)], product="pointer", kind=Kind.POINTER)
    assert (folder / "file.ptr").read_bytes() == target.encode()
    assert (folder / "refs.ptr").read_bytes().endswith(f',,N,,\r\n0000000002,ptr,"{target}",pri,,N,,'.encode())
    admin.add([addition(tmp_path, PDB)], product="file again")
    assert not (folder / "file.ptr").exists()
    admin.delete(3)
    assert (folder / "file.ptr").read_bytes() == target.encode()
    admin.delete(1)
    found = store.find(PDB)
    assert found is not None
    assert found.form is Form.POINTER
    admin.delete(2)
    assert not folder.parent.exists()


def test_a_compressed_add_brings_a_cabinet_and_a_plain_one_beside_it_stays_apart(
    tmp_path: Path, store: Store, admin: Admin
) -> None:
    admin.add([addition(tmp_path, PDB)], product="cab", compress=True)
    folder = store.folder_for(PDB)
    assert (folder / "app.pd_").read_bytes()[:4] == b"MSCF"
    assert (folder / "refs.ptr").read_bytes().endswith(b",pri,,Y,,")
    admin.add([addition(tmp_path, PDB)], product="plain")
    admin.delete(1)
    assert sorted(path.name for path in folder.iterdir()) == ["app.pdb", "refs.ptr"]


def test_a_cached_file_of_the_same_key_is_not_taken_with_another_form(
    tmp_path: Path, store: Store, admin: Admin
) -> None:
    scratch = store.scratch()
    scratch.write_text("cached")
    store.publish(scratch, PDB)
    admin.add([addition(tmp_path, PDB)], product="cab", compress=True)
    admin.delete(1)
    found = store.find(PDB)
    assert found is not None
    assert found.path.read_text() == "cached"


def test_a_cached_file_does_not_go_with_a_pointer(tmp_path: Path, store: Store, admin: Admin) -> None:
    scratch = store.scratch()
    scratch.write_text("cached")
    store.publish(scratch, PDB)
    admin.add([addition(tmp_path, PDB)], product="pointer", kind=Kind.POINTER)
    admin.delete(1)
    assert [path.name for path in store.folder_for(PDB).iterdir()] == ["app.pdb"]


@pytest.mark.parametrize("target", ["", " ", 'a"b', "a\nb"])
def test_a_pointer_that_cannot_be_written_is_refused(tmp_path: Path, store: Store, admin: Admin, target: str) -> None:
    with pytest.raises(UsageError):
        admin.add([addition(tmp_path, PDB, target=target)], product="x", kind=Kind.POINTER)
    assert not store.root.exists()


def test_pointers_to_files_of_many_spellings_share_one_folder(tmp_path: Path) -> None:
    # Each look at the clock takes long, so that a listing once made is trusted as long as can be.
    with Store(tmp_path / "store", clock_s=iter(range(0, 10**9, 10**3)).__next__) as store:
        keys = [PdbKey(name, PDB.guid, number) for number, name in enumerate(("App.pdb", "APP.pdb", "app.PDB"))]
        Admin(store).add([Addition(key, tmp_path / key.name) for key in keys], product="p", kind=Kind.POINTER)
        assert {name for name, _, _ in store.key_folders()} == {"App.pdb"}


def test_nothing_to_add_and_compressed_pointers_are_mistakes(tmp_path: Path, admin: Admin) -> None:
    with pytest.raises(UsageError):
        admin.add([], product="x")
    with pytest.raises(UsageError):
        admin.add([addition(tmp_path, PDB)], product="x", kind=Kind.POINTER, compress=True)


def test_a_file_that_cannot_be_read_leaves_no_trace(tmp_path: Path, store: Store, admin: Admin) -> None:
    with pytest.raises(StoreError):
        admin.add([addition(tmp_path, DLL), Addition(PDB, tmp_path / "absent.pdb")], product="x")
    assert list(tree(store.root)) == ["pingme.txt"]


def test_a_disk_that_fails_in_the_middle_of_an_add_leaves_no_trace(
    tmp_path: Path, store: Store, admin: Admin, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish = Store.publish

    def fail(self: Store, scratch: Path, key: PdbKey, **options: object) -> Path:
        if key == PDB:
            raise StoreError("the disk is full", path=scratch)
        return publish(self, scratch, key)

    monkeypatch.setattr(Store, "publish", fail)
    with pytest.raises(StoreError, match="full"):
        admin.add([addition(tmp_path, DLL), addition(tmp_path, PDB)], product="x")
    assert list(tree(store.root)) == ["pingme.txt"]
    assert not admin.recover()


def test_query_finds_by_pattern_without_regard_to_letter_case(tmp_path: Path, admin: Admin) -> None:
    admin.add([addition(tmp_path, PDB), addition(tmp_path, DLL)], product="App", version="1")
    admin.add([addition(tmp_path, PDB)], product="App", version="2")
    assert [(each.transaction.id, each.file.key) for each in admin.query(name="APP.p*")] == [(1, PDB), (2, PDB)]
    (match,) = admin.query(product="app", version="1", id_=DLL.id)
    assert match.file.key == DLL
    assert str(match.transaction) == "0000000001 add file 2024-02-29 01:02:03 App 1"
    assert match.file.source == str(tmp_path / "app.dll")
    assert match.as_json()["index"] == DLL.index


def unpack(name: str, root: Path) -> None:
    with zipfile.ZipFile(corpus / name) as archive:
        archive.extractall(root)


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("store"))
def test_real_stores_are_read_whole(tmp_path: Path, name: str) -> None:
    unpack(name, tmp_path)
    facts = truth()[name]
    with Store(tmp_path) as store:
        admin = Admin(store)
        for each in facts["files"]:
            if "key" in each and each["file"] not in {"refs.ptr", "file.ptr"}:
                found = store.find(parse_index(f"{each['name']}/{each['key']}"))
                assert found is not None
                assert found.path == tmp_path / each["path"]
        transactions = list(admin.list_transactions())
        assert [each.id for each in transactions] == [int(line[:10]) for line in facts["admin"]["server.txt"]]
        assert transactions == list(admin.history())
        listed = {each.key.index.rpartition("/")[0] for id_ in transactions for each in admin.files_of(id_.id)}
        assert listed == set(facts["symbols"])


@needs_corpus
def test_the_account_of_a_real_store_keeps_every_byte_that_was_there(tmp_path: Path) -> None:
    root = tmp_path / "store"
    unpack("store/new_store_compressed.zip", root)
    before = tree(root)
    with Store(root) as store:
        admin = Admin(store, now=lambda: WHEN)
        admin.add([addition(tmp_path, PDB)], product='a "quoted", name')
        line = b"""0000000002,add,file,02/29/2024,01:02:03,"a 'quoted', name","","",\r\n"""
        after = tree(root)
        assert after["000Admin/server.txt"] == before["000Admin/server.txt"] + line
        # symstore left the last line without an end
        assert after["000Admin/history.txt"] == before["000Admin/history.txt"] + b"\r\n" + line
        admin.delete(1)
        after = tree(root)
        assert after["000Admin/server.txt"] == line
        assert after["000Admin/history.txt"].endswith(line + b"0000000003,del,0000000001\r\n")
        assert after["000Admin/0000000001.deleted"] == before["000Admin/0000000001"]
        assert not (root / "dummyprog.pdb").exists()


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("store"))
def test_a_delete_from_a_real_store_leaves_the_lines_of_all_others(tmp_path: Path, name: str) -> None:
    unpack(name, tmp_path)
    before = tree(tmp_path)
    lines = before["000Admin/server.txt"].splitlines(keepends=True)
    history = before["000Admin/history.txt"]
    with Store(tmp_path) as store:
        deleted = Admin(store).delete(1).id
    after = tree(tmp_path)
    assert after["000Admin/server.txt"] == b"".join(lines[1:])
    end = b"" if history.endswith(b"\n") else b"\r\n"
    assert after["000Admin/history.txt"] == history + end + b"%010d,del,0000000001\r\n" % deleted
    assert after["000Admin/lastid.txt"] == b"%010d" % deleted
    assert after["000Admin/0000000001.deleted"] == before["000Admin/0000000001"]


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("store"))
def test_deleting_all_of_a_real_store_leaves_its_account_alone(tmp_path: Path, name: str) -> None:
    unpack(name, tmp_path)
    with Store(tmp_path) as store:
        admin = Admin(store)
        for transaction in list(admin.list_transactions()):
            admin.delete(transaction.id)
        assert list(admin.list_transactions()) == []
    shutil.rmtree(tmp_path / "000Admin")
    assert list(tree(tmp_path)) == ["pingme.txt"]
    assert not [path for path in tmp_path.iterdir() if path.is_dir() and path.name != ".symcache"]


@needs_corpus
def test_a_real_file_named_by_two_transactions_without_references_stays(tmp_path: Path) -> None:
    root = tmp_path / "store"
    unpack("store/comment_store.zip", root)
    key = parse_index("dummyprog.pdb/F6301B4562FE4B4DB691192733ECE6B71")
    with Store(root) as store:
        admin = Admin(store)
        admin.add([addition(tmp_path, key)], product="x")  # type: ignore[arg-type]
        admin.delete(2)
        assert store.find(key) is not None
        admin.delete(1)
        assert store.find(key) is None
