"""Stores that symstore and its copies made, in the hands of the command."""

from __future__ import annotations

import shutil
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
from support.command import run, run_json
from support.shared import corpus, corpus_files, needs_corpus
from support.sources import cabinet, visible
from support.stores import StoreShell

from symcache.identity import compressed_name, parse_index
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from pathlib import Path

ZIPS = corpus_files("store")


def unpack(name: str, root: Path) -> Path:
    with zipfile.ZipFile(corpus / name) as archive:
        archive.extractall(root)
    return root


def keys_in(name: str) -> dict[str, str]:
    """Return the members of a zip that are symbol files, by index; the shape of a store tells, nothing of symcache."""
    with zipfile.ZipFile(corpus / name) as archive:
        files = [member for member in archive.namelist() if not member.endswith("/")]
    found: dict[str, str] = {}
    for member in files:
        parts = member.split("/")
        if len(parts) == 3 and parts[0].lower() != "000admin" and not parts[2].endswith(".ptr"):
            found[f"{parts[0]}/{parts[1]}/{parts[0]}"] = member
    return found


def account(root: Path) -> dict[str, bytes]:
    folder = root / "000Admin"
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@needs_corpus
@pytest.mark.parametrize("name", ZIPS)
def test_every_file_is_found_by_its_key_and_listed(name: str, tmp_path: Path) -> None:
    root = unpack(name, tmp_path / "store")
    wanted = keys_in(name)
    for index, member in wanted.items():
        found = Store(root).find(parse_index(index))
        assert found is not None, index
        assert found.path == root / member
        assert Store(root).find(parse_index(index.lower())) is not None
    listed = StoreShell(root).json("list", "--files")["files"]
    assert {each["index"]: each["path"] for each in listed} == {
        index: str(root / member) for index, member in wanted.items()
    }
    assert all(each["bytes"] == (root / wanted[each["index"]]).stat().st_size for each in listed)


@needs_corpus
@pytest.mark.parametrize("name", ZIPS)
def test_their_transactions_are_listed(name: str, tmp_path: Path) -> None:
    root = unpack(name, tmp_path / "store")
    lines = (root / "000Admin" / "server.txt").read_text().splitlines()
    listed = StoreShell(root).json("list")["transactions"]
    assert [f"{each['id']:010}" for each in listed] == [line.split(",")[0] for line in lines if line]
    for each, line in zip(listed, filter(None, lines), strict=True):
        assert (each["action"], each["kind"]) == ("add", "file")
        fields = [field.strip('"') for field in line.split(",")]
        assert (each["product"], each["version"], each["comment"]) == tuple(fields[5:8])
    queried = StoreShell(root).json("query", "*", "--product", "*", "--id", "1")["files"]
    assert {each["index"] for each in queried} <= set(keys_in(name))
    assert queried


@needs_corpus
@pytest.mark.parametrize("name", ZIPS)
def test_they_verify_but_for_what_their_makers_left_out(name: str, tmp_path: Path) -> None:
    root = unpack(name, tmp_path / "store")
    before = visible(root)
    done = StoreShell(root)("verify", "--json")
    assert done.exit_code in {0, 4}
    assert '"problem": "damaged"' not in done.stdout
    assert '"problem": "misfiled"' not in done.stdout
    assert visible(root) == before


@needs_corpus
def test_a_del_and_an_add_leave_exactly_the_lines_that_symstore_would(tmp_path: Path) -> None:
    root = unpack("store/existing_store.zip", tmp_path / "store")
    before = account(root)
    added_by_2 = before["0000000002"]
    assert run("store", "del", "2", "--store", root).returncode == 0
    after = account(root)
    assert after["lastid.txt"] == b"0000000003"
    assert after["server.txt"] == b"".join(
        line for line in before["server.txt"].splitlines(keepends=True) if not line.startswith(b"0000000002,")
    )
    assert after["history.txt"] == _ended(before["history.txt"]) + b"0000000003,del,0000000002\r\n"
    assert after["0000000002.deleted"] == added_by_2
    assert "0000000002" not in after
    assert not (root / "dummylib.pdb").exists()

    source = corpus / "pdb" / "dummylib.pdb"
    document = run_json("store", "add", source, "--product", "back", "--version", "2", "--store", root)
    when = document["transaction"]["when"]
    day = f"{when[5:7]}/{when[8:10]}/{when[:4]},{when[11:19]}"
    line = f'0000000004,add,file,{day},"back","2","",\r\n'.encode()
    final = account(root)
    assert final["server.txt"] == after["server.txt"] + line
    assert final["history.txt"] == after["history.txt"] + line
    assert final["lastid.txt"] == b"0000000004"
    (index,) = (each["index"] for each in document["files"])
    name, id_, _ = index.split("/")
    assert final["0000000004"] == f'"{name}\\{id_}","{source}"\r\n'.encode()
    assert (root / index).read_bytes() == source.read_bytes()
    content = document["files"][0]["content"]
    assert (root / index).with_name("refs.ptr").read_bytes() == f'0000000004,file,"{source}",{content},,N,,'.encode()
    unchanged = set(before) - {"server.txt", "history.txt", "lastid.txt", "0000000002"}
    assert {each: final[each] for each in unchanged} == {each: before[each] for each in unchanged}


def _ended(content: bytes) -> bytes:
    return content if content.endswith(b"\n") else content + b"\r\n"


@needs_corpus
@pytest.mark.parametrize("name", ZIPS)
def test_a_file_that_another_transaction_names_survives_a_del(name: str, tmp_path: Path) -> None:
    root = unpack(name, tmp_path / "store")
    # The first transaction of each brought it.
    index, member = next((index, member) for index, member in keys_in(name).items() if "F6301B45" in index)
    content = (root / member).read_bytes()
    plain = tmp_path / "again" / index.split("/")[0]
    plain.parent.mkdir()
    packed = member.endswith("_")
    if packed:
        shutil.copy(corpus / "pdb" / "dummyprog.pdb", plain)
    else:
        plain.write_bytes(content)
    shell = StoreShell(root)
    options = ["--compress"] if packed else []
    added = shell.json("add", plain, "--product", "again", *options)["transaction"]["id"]
    assert shell("del", "1").exit_code == 0
    assert Store(root).find(parse_index(index)) is not None
    assert shell("del", str(added)).exit_code == 0
    assert Store(root).find(parse_index(index)) is None


@needs_corpus
def test_a_whole_life_of_a_store(tmp_path: Path) -> None:
    """Made, filled with every real file, converted, packed, unpacked elsewhere, and emptied again."""
    root, other = tmp_path / "store", tmp_path / "other"
    assert run("store", "init", root, "--two-tier").returncode == 0
    added: dict[str, Any] = run_json(
        "store", "add", corpus / "pdb", corpus / "pdb-portable", corpus / "pe", "--product", "all", "--store", root
    )
    assert len(added["files"]) > 35
    assert added["skipped"] == []
    assert run_json("store", "verify", "--store", root)["findings"] == []
    assert run("store", "convert", "--single-tier", "--store", root).returncode == 0
    bundle = tmp_path / "all.zip"
    assert run_json("export", "-o", bundle, "--store", root)["files"] == len(added["files"])
    assert run_json("import", bundle, "--store", other)["summary"]["imported"] == len(added["files"])
    for each in added["files"]:
        assert (root / each["index"]).read_bytes() == (other / each["index"]).read_bytes()
    assert run("store", "prune", "--max-size", "0B", "--store", other).returncode == 0
    assert visible(other) == []
    assert run("store", "prune", "--max-size", "0B", "--store", root).returncode == 3
    assert run("store", "del", "1", "--store", root).returncode == 0
    assert run_json("store", "list", "--files", "--store", root)["files"] == []
    assert [path for path in visible(root) if not path.startswith("000Admin/")] == []


@needs_corpus
def test_a_cabinet_is_a_file_too(tmp_path: Path) -> None:
    root = unpack("store/new_store_compressed.zip", tmp_path / "store")
    ((index, member),) = keys_in("store/new_store_compressed.zip").items()
    assert member.endswith(compressed_name(index.split("/")[0]))
    shell = StoreShell(root)
    (listed,) = shell.json("list", "--files")["files"]
    assert listed["form"] == "compressed"
    assert shell.json("verify")["findings"] == []
    (root / member).write_bytes(cabinet(b"something else"))
    (finding,) = shell.json("verify", code=4)["findings"]
    assert finding["index"] == index


def test_an_upstream_of_one_run_is_asked_first(tmp_path: Path, make_upstream: Any) -> None:
    index = "a.pdb/7578144C39C4468394EF84F01549113A1/a.pdb"
    first, second = make_upstream(), make_upstream()
    wanted = tmp_path / "list.txt"
    wanted.write_text(index)
    path = f"srv*{tmp_path / 'store'}*{second.url}"
    done = run("warm", wanted, "-y", path, "--upstream", first.url, "--json")
    assert done.returncode == 3
    assert [request.path for request in first.requests if "a.pd" in request.path]
    assert [request.path for request in second.requests if "a.pd" in request.path]
    assert done.stdout.index(first.url) < done.stdout.index(f'"upstream": "{second.url}')
