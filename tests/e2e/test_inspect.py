from __future__ import annotations

import zipfile
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.command import run, run_json
from support.synth.pdb import NativePdbSpec, PublicSymbol, make_pdb

from symcache.synth.session import write_inputs

if TYPE_CHECKING:
    from pathlib import Path

GUID = UUID("7578144C-39C4-4683-94EF-84F01549113A")
INDEX = "secdrv.pdb/7578144C39C4468394EF84F01549113A3/secdrv.pdb"


@pytest.fixture
def pdb(tmp_path: Path) -> Path:
    path = tmp_path / "secdrv.pdb"
    publics = (PublicSymbol("_DriverEntry@8", 0x40, function=True), PublicSymbol("_evil\x1b[31m", 0x50))
    path.write_bytes(make_pdb(NativePdbSpec(GUID, 3, publics=publics)))
    return path


def test_a_healthy_file_is_described_and_exits_with_0(pdb: Path) -> None:
    done = run("inspect", pdb)
    assert done.returncode == 0
    lines = dict(line.split("  ", 1) for line in done.stdout.splitlines() if "  " in line)
    assert lines["index"].strip() == INDEX
    assert lines["symbols"].strip() == "private"
    assert "Nothing is wrong with it." in done.stdout
    assert done.stderr == ""


def test_a_damaged_file_exits_with_4(tmp_path: Path) -> None:
    (tmp_path / "page.pdb").write_bytes(b"<!DOCTYPE html><html></html>")
    done = run("inspect", tmp_path / "page.pdb")
    assert done.returncode == 4
    assert "wrong  a web page" in done.stdout


def test_the_document_has_its_schema(pdb: Path) -> None:
    document = run_json("inspect", pdb)
    assert document.keys() == {
        "schema", "path", "size_bytes", "kind", "healthy", "cabinet", "index", "names", "modules", "processes",
        "filed", "problems", "more_problems", "details", "version", "libraries",
    }  # fmt: skip
    assert document["schema"] == "symcache.inspect/1"
    assert (document["kind"], document["healthy"], document["index"]) == ("pdb", True, INDEX)
    assert document["modules"] == {"total": 1, "identified": 1, "unloaded": 0}


def test_a_kernel_dump_tells_bug_check_and_machine(tmp_path: Path) -> None:
    _, dump = write_inputs(tmp_path)
    done = run("inspect", dump)
    assert done.returncode == 0, done.stdout
    for text in ("0xe2 MANUALLY_INITIATED_CRASH (0x0, 0x0, 0x0, 0x0)", "x86", "6001", "2008-03-", "1:00:00", "server"):
        assert text in done.stdout
    assert run_json("inspect", dump)["details"]["bugcheck_code"] == "0xe2"


def test_symbols_are_listed_without_what_a_terminal_would_act_on(pdb: Path) -> None:
    pytest.importorskip("pdbparse", reason="pdbparse is not installed")
    done = run("inspect", pdb, "--streams", "--publics", "--types", "3")
    assert done.returncode == 0, done.stderr
    assert "0001:00000040  _DriverEntry@8" in done.stdout
    assert "_evil\\x1b[31m" in done.stdout
    assert "\x1b" not in done.stdout


@pytest.mark.parametrize("arguments", [[], ["--nonsense"], ["--publics", "0"]])
def test_wrong_usage_exits_with_2(arguments: list[str], pdb: Path) -> None:
    assert run("inspect", *([pdb] if arguments else []), *arguments).returncode == 2


def test_standard_input_is_wrong_usage(pdb: Path) -> None:
    done = run("inspect", "-", stdin=pdb.read_bytes())
    assert done.returncode == 2
    assert "write standard input to a file first" in done.stderr


def test_what_is_wrong_in_an_archive_is_said_with_the_name_of_the_file(pdb: Path, tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("bin/cut.pdb", pdb.read_bytes()[:1000])
    done = run("inspect", tmp_path / "x.zip")
    assert done.returncode == 4
    assert "bin/cut.pdb: " in done.stdout


def test_a_folder_is_wrong_usage(tmp_path: Path) -> None:
    done = run("inspect", tmp_path)
    assert done.returncode == 2
    assert "symcache scan" in done.stderr
