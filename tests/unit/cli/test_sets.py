from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest
from click.testing import CliRunner

from symcache.cli.app import root
from symcache.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def config(tmp_path: Path) -> Path:
    file = tmp_path / "symcache.toml"
    file.write_text("[sets]\nours = ['@user-core', 'our*.sys', 'one.sys']\n", encoding="utf-8")
    return file


@pytest.fixture
def listing(tmp_path: Path) -> Path:
    file = tmp_path / "list.txt"
    names = ("ntkrnlmp", "ntdll", "ourfilter")
    file.write_text("".join(f"{name}.pdb 7578144C39C4468394EF84F01549113A1\n" for name in names), encoding="utf-8")
    return file


def test_sets_are_listed_and_the_members_of_one(config: Path) -> None:
    listed = CliRunner().invoke(root, ["sets", "--config", str(config)])
    assert listed.exit_code == 0
    assert [line.split()[0] for line in listed.stdout.splitlines()] == ["kernel", "drivers", "user-core", "all", "ours"]
    members = CliRunner().invoke(root, ["sets", "OURS", "--config", str(config)]).stdout.splitlines()
    assert members[-1] == "our*.sys"
    assert {"ntdll.dll", "one.sys"} <= set(members)


def test_sets_are_listed_as_json(config: Path) -> None:
    done = CliRunner().invoke(root, ["sets", "ours", "drivers", "--json", "--config", str(config)])
    drivers, ours = json.loads(done.stdout)["sets"]
    assert (drivers["name"], drivers["patterns"], drivers["from_config"]) == ("drivers", ["*.sys"], False)
    assert (ours["name"], ours["about"], ours["from_config"]) == ("ours", None, True)
    assert "ntdll.dll" in ours["names"]


@pytest.mark.parametrize("command", ["warm", "check", "scan", "lock -o x", "export -o x", "sets"])
def test_an_unknown_set_is_wrong_usage(command: str, listing: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_NT_SYMBOL_PATH", f"srv*{listing.parent / 'sym'}")
    words = ["nothing"] if command == "sets" else [str(listing), "--set", "nothing"]
    done = CliRunner().invoke(root, [*command.split(), *words])
    assert isinstance(done.exception, UsageError)
    assert "no set 'nothing' of modules; there are all, drivers, kernel, user-core" in str(done.exception)


def test_scan_takes_the_modules_of_sets_and_says_how_many_it_left_out(listing: Path, config: Path) -> None:
    done = CliRunner().invoke(root, ["scan", str(listing), "--set", "kernel", "--set", "ours", "--config", str(config)])
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ntkrnlmp.pdb", "ntdll.pdb", "ourfilter.pdb"]
    done = CliRunner().invoke(root, ["scan", str(listing), "--set", "kernel"])
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["ntkrnlmp.pdb"]
    assert "2 modules left out: not in kernel" in done.stderr


def test_a_report_says_how_many_modules_were_left_out(
    listing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_NT_SYMBOL_PATH", f"srv*{tmp_path / 'sym'}")
    done = CliRunner().invoke(root, ["check", str(listing), "--set", "user-core"])
    assert done.exit_code == 3
    assert "2 modules left out: not in user-core" in done.stdout
    assert "1 wanted" in done.stdout


def test_inputs_of_which_all_is_left_out_are_an_error_that_says_so(
    listing: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_NT_SYMBOL_PATH", f"srv*{tmp_path / 'sym'}")
    done = CliRunner().invoke(root, ["check", str(listing), "--set", "drivers"])
    assert done.exit_code == 4
    assert "no module of what was given is in drivers, 3 are not" in done.stderr
    assert CliRunner().invoke(root, ["check", str(listing), "--set", "drivers", "--allow-empty"]).exit_code == 0


def test_a_set_without_an_input_is_wrong_usage(tmp_path: Path) -> None:
    done = CliRunner().invoke(root, ["export", "-o", str(tmp_path / "b.zip"), "--set", "kernel"])
    assert done.exit_code == 2
    assert "--set narrows inputs" in done.stderr
