"""`store init`, `add`, `del`, `query` and `list`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from support.sources import visible
from support.stores import APP, DRV, IMAGE, PUBLIC, StoreShell, write_build

if TYPE_CHECKING:
    from pathlib import Path

ALL = [APP.index, IMAGE.index, DRV.index, PUBLIC.index]


@pytest.fixture
def build(tmp_path: Path) -> Path:
    return write_build(tmp_path / "build")


@pytest.fixture
def shell(tmp_path: Path) -> StoreShell:
    return StoreShell(tmp_path / "store")


def indexes(files: list[dict[str, str]]) -> list[str]:
    return [each["index"] for each in files]


@pytest.mark.parametrize("is_two_tier", [False, True])
def test_a_store_is_made_with_its_marks(shell: StoreShell, is_two_tier: bool) -> None:
    done = shell("init", *(["--two-tier"] if is_two_tier else []))
    assert done.exit_code == 0
    assert ("LLDB, angr and radare2 find nothing" in done.stderr) is is_two_tier
    marks = {path.name for path in shell.store.iterdir()}
    assert marks == ({"pingme.txt", "index2.txt"} if is_two_tier else {"pingme.txt"})
    assert shell("init").stdout == f"{shell.store} is a store already\n"
    assert shell("init", "--two-tier").exit_code == (0 if is_two_tier else 2)


def test_a_store_is_made_where_it_is_wanted_and_nowhere_else(shell: StoreShell, tmp_path: Path) -> None:
    assert shell("init", tmp_path / "other").exit_code == 0
    assert (tmp_path / "other" / "pingme.txt").exists()
    assert not shell.store.exists()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "letter.txt").touch()
    assert "not empty" in str(shell("init", tmp_path / "full").exception)
    assert [path.name for path in (tmp_path / "full").iterdir()] == ["letter.txt"]


def test_a_build_is_published_as_one_transaction(shell: StoreShell, build: Path) -> None:
    document = shell.json("add", build, "--product", "app", "--version", "1.2", "--comment", "nightly")
    assert document["schema"] == "symcache.add/1"
    assert document["store"] == str(shell.store)
    added = document["transaction"]
    assert (added["id"], added["product"], added["version"], added["comment"]) == (1, "app", "1.2", "nightly")
    assert {each["index"]: each["content"] for each in document["files"]} == {
        APP.index: "pri",
        PUBLIC.index: "pub",
        IMAGE.index: "bin",
        DRV.index: "bin",
    }
    assert document["skipped"] == []
    names = [path for path in visible(shell.store) if not path.startswith("000Admin") and "refs.ptr" not in path]
    assert names == sorted(ALL)
    assert ",pub,,N,," in (shell.store / PUBLIC.index).with_name("refs.ptr").read_text()


def test_what_add_says_to_people(shell: StoreShell, build: Path) -> None:
    done = shell("add", build, "--product", "app")
    assert done.exit_code == 0
    assert done.stdout.splitlines()[0].startswith("0000000001 add file ")
    assert done.stdout.splitlines()[1] == f"4 files published in {shell.store}"
    assert done.stderr == "1 file of other kinds passed over\n"
    assert shell("add", build, "--product", "app", "-q").stderr == ""


def test_files_are_stored_compressed_or_as_pointers(shell: StoreShell, build: Path) -> None:
    assert shell("add", build / APP.name, "--product", "app", "--compress").exit_code == 0
    assert (shell.store / APP.index).with_name("app.pd_").read_bytes().startswith(b"MSCF")
    assert shell("add", build / IMAGE.name, "--product", "app", "--pointer").exit_code == 0
    assert (shell.store / IMAGE.index).with_name("file.ptr").read_text() == str(build / IMAGE.name)
    assert shell("add", build, "--product", "app", "--pointer", "--compress").exit_code == 2
    assert "verify" not in shell("verify").stderr
    assert shell("verify").exit_code == 0


def test_what_cannot_be_identified_is_reported_and_skipped(shell: StoreShell, build: Path) -> None:
    (build / "cut.pdb").write_bytes((build / APP.name).read_bytes()[:5000])
    document = shell.json("add", build / "readme.txt", build, "--product", "app", code=4)
    assert sorted(indexes(document["files"])) == sorted(ALL)
    problems = {each["path"]: each["problem"] for each in document["skipped"]}
    assert problems.keys() == {str(build / "readme.txt"), str(build / "cut.pdb")}
    assert problems[str(build / "readme.txt")] == "neither an image nor a PDB"
    done = shell("add", build / "cut.pdb", "--product", "app")
    assert done.exit_code == 4
    assert done.stdout == ""
    assert "there is nothing to add" in done.stderr
    assert [each["id"] for each in shell.json("list")["transactions"]] == [1]


def test_a_folder_with_the_store_in_it_does_not_add_the_store_to_itself(build: Path) -> None:
    shell = StoreShell(build / "store")
    for number in (1, 2):
        document = shell.json("add", build, "--product", "app")
        assert len(document["files"]) == 4, number


def test_a_deleted_transaction_takes_its_files_along(shell: StoreShell, build: Path) -> None:
    shell("add", build, "--product", "app")
    shell("add", build / APP.name, "--product", "again")
    done = shell("del", "0000000001")
    assert (done.exit_code, done.stdout) == (0, "0000000003 del 0000000001\n")
    assert indexes(shell.json("list", "--files")["files"]) == [APP.index]
    assert shell.json("del", "2")["transactions"][0]["deleted_id"] == 2
    assert shell.json("list", "--files")["files"] == []
    assert "no transaction 0000000002 is in force" in str(shell("del", "2").exception)
    assert shell("del", "2").exit_code == 2
    history = shell.json("list", "--history")["transactions"]
    assert [(each["id"], each["deleted_id"]) for each in history] == [(1, None), (2, None), (3, 1), (4, 2)]


@pytest.mark.parametrize(
    ("arguments", "found"),
    [
        (["app.*"], [APP, IMAGE]),
        (["APP.PDB"], [APP]),
        ([APP.index], [APP]),
        ([f"app.pdb\\{APP.id}"], [APP]),
        (["*/5E0B123*"], [IMAGE, DRV]),
        (["--product", "a*"], [APP, IMAGE, DRV, PUBLIC]),
        (["--version", "1.*", "drv*"], [DRV, PUBLIC]),
        (["--id", "1"], [APP, IMAGE, DRV, PUBLIC]),
        (["--id", "2"], []),
        (["nothing*"], []),
    ],
)
def test_what_transactions_brought_is_found(
    shell: StoreShell, build: Path, arguments: list[str], found: list[object]
) -> None:
    shell("add", build, "--product", "app", "--version", "1.2")
    document = shell.json("query", *arguments, code=0 if found else 3)
    assert document["schema"] == "symcache.query/1"
    assert indexes(document["files"]) == [key.index for key in (IMAGE, APP, PUBLIC, DRV) if key in found]
    for each in document["files"]:
        assert each["transaction"]["product"] == "app"
        assert each["source"].startswith(str(build))
    lines = shell("query", *arguments).stdout.splitlines()
    assert [line.split()[0] for line in lines] == indexes(document["files"])


def test_a_query_for_nothing_in_particular_is_wrong_usage(shell: StoreShell, build: Path) -> None:
    shell("add", build, "--product", "app")
    assert shell("query").exit_code == 2


def test_files_are_listed_with_form_length_and_what_they_tell(shell: StoreShell, build: Path) -> None:
    shell("add", build, "--product", "app")
    files = {each["index"]: each for each in shell.json("list", "--files")["files"]}
    assert {index: each["symbols"] for index, each in files.items()} == {
        APP.index: "private",
        PUBLIC.index: "public",
        IMAGE.index: None,
        DRV.index: None,
    }
    assert {each["form"] for each in files.values()} == {"plain"}
    assert files[APP.index]["bytes"] == (build / APP.name).stat().st_size
    assert files[APP.index]["path"] == str(shell.store / APP.index)
    done = shell("list", "--files", "drv*", f"app.pdb/{APP.id[:4]}*")
    assert [line.split()[-1] for line in done.stdout.splitlines()] == [APP.index, PUBLIC.index, DRV.index]
    assert indexes(shell.json("list", "--files", "--symbols", "private")["files"]) == [APP.index]


def test_of_a_cabinet_its_transaction_tells(shell: StoreShell, build: Path) -> None:
    shell("add", build, "--product", "app", "--compress")
    files = {each["index"]: (each["form"], each["symbols"]) for each in shell.json("list", "--files")["files"]}
    assert files[APP.index] == ("compressed", "private")
    assert files[PUBLIC.index] == ("compressed", "public")
    assert files[IMAGE.index] == ("compressed", None)
    (shell.store / PUBLIC.index).with_name("refs.ptr").unlink()
    assert shell.json("list", "--files", PUBLIC.index)["files"][0]["symbols"] is None


def test_transactions_are_listed_by_product(shell: StoreShell, build: Path) -> None:
    for product in ("One", "two"):
        shell("add", build / APP.name, "--product", product)
    done = shell("list")
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["One", "two"]
    assert done.stderr == "2 transactions\n"
    assert [each["product"] for each in shell.json("list", "one")["transactions"]] == ["One"]


@pytest.mark.parametrize("arguments", [["list", "--symbols", "private"], ["list", "--files", "--history"]])
def test_options_that_do_not_go_together_are_wrong_usage(shell: StoreShell, arguments: list[str]) -> None:
    shell("init")
    assert shell(*arguments).exit_code == 2


@pytest.mark.parametrize(
    "arguments", [["list"], ["del", "1"], ["query", "x"], ["stats"], ["verify"], ["prune", "--max-age", "1d"], ["pins"]]
)
def test_where_there_is_no_store_none_is_made(shell: StoreShell, arguments: list[str]) -> None:
    done = shell(*arguments)
    assert done.exit_code == 2
    assert str(done.exception).endswith("there is no store here; `symcache store init` makes one")
    assert not shell.store.exists()


def test_the_store_is_the_bottom_most_of_the_symbol_path(tmp_path: Path, build: Path) -> None:
    middle = tmp_path / "middle"
    shell = StoreShell(tmp_path / "store", f"srv*{tmp_path / 'store'}*{middle}*http://127.0.0.1:1/")
    shell("add", build, "--product", "app")
    assert not middle.exists()
    assert (shell.store / APP.index).exists()
    nowhere = StoreShell(tmp_path / "none", r"srv*\\server\share")
    assert nowhere("list").exit_code == 2


def test_a_hostile_name_is_shown_without_what_a_terminal_would_act_on(shell: StoreShell, build: Path) -> None:
    shell("add", build / APP.name, "--product", "evil\x1b[31m")
    server = shell.store / "000Admin" / "server.txt"
    server.write_bytes(server.read_bytes().replace(b"evil ", b"evil\x1b"))
    assert "\x1b" not in shell("list").output
    assert "evil\\x1b[31m" in shell("list").stdout


def test_a_delete_takes_what_references_name_when_the_list_of_the_transaction_is_lost(
    shell: StoreShell, build: Path
) -> None:
    shell("add", build, "--product", "p")
    (shell.store / "000Admin" / "0000000001").unlink()
    found = shell.json("verify", code=4)["findings"]
    assert [(each["path"], each["mend"]) for each in found] == [("000Admin/0000000001", "rewrite-account")]
    done = shell("del", "1")
    assert (done.exit_code, done.stdout) == (0, "0000000002 del 0000000001\n")
    assert (
        "the file list of 0000000001 is lost or damaged; its files are those whose refs.ptr names it (" in done.stderr
    )
    assert sorted(path.name for path in shell.store.iterdir() if path.is_dir()) == [".symcache", "000Admin"]
    assert shell("verify").exit_code == 0


def test_a_lost_list_of_a_transaction_is_written_anew(shell: StoreShell, build: Path) -> None:
    shell("add", build, "--product", "p")
    own = shell.store / "000Admin" / "0000000001"
    before = sorted(own.read_bytes().splitlines())
    own.unlink()
    assert shell("verify", "--repair").exit_code == 0
    assert sorted(own.read_bytes().splitlines()) == before
    assert shell("verify").exit_code == 0


def test_a_reference_to_no_transaction_in_force_is_named_kept_and_mended(shell: StoreShell, build: Path) -> None:
    shell("add", build, "--product", "p")
    refs = next(shell.store.glob("*.pdb/*/refs.ptr"))
    with refs.open("ab") as file:
        file.write(b'\r\n0000000099,file,"x",pri,,N,,')
    (found,) = shell.json("verify", code=4)["findings"]
    assert (found["problem"], found["detail"]) == ("references", "names 99, which is not in force")
    done = shell("del", "1")
    assert "stays: refs.ptr has 99, not in force; `symcache store verify --repair` repairs that" in done.stderr
    assert refs.exists()
    assert shell("verify", "--repair").exit_code == 0
    assert not refs.exists()
    assert [path.name for path in refs.parent.iterdir()] == [refs.parent.parent.name]  # the file, as if it was fetched
    assert shell("verify").exit_code == 0


def test_a_delete_that_finds_nothing_says_so(shell: StoreShell, build: Path) -> None:
    shell("add", build, "--product", "p")
    (shell.store / "000Admin" / "0000000001").unlink()
    for refs in shell.store.glob("*/*/refs.ptr"):
        refs.unlink()
    assert "no refs.ptr names it either" in shell("del", "1").stderr
