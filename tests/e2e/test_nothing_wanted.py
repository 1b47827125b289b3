"""Inputs of which nothing, or nothing that exists, can be wanted: said, and no success for a build machine."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.command import run, run_json
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize("command", ["warm", "check", "export"])
def test_a_folder_without_any_module_is_said_and_ends_with_4(command: str, tmp_path: Path) -> None:
    folder, store = tmp_path / "typo", tmp_path / "sym"
    folder.mkdir()
    (folder / "notes.txt").write_text("nothing that symbols belong to")
    assert run("store", "init", store).returncode == 0
    output: list[str | Path] = ["-o", tmp_path / "b"] if command == "export" else []
    options: list[str | Path] = [folder, "--store", store, *output]
    done = run(command, *options)
    assert done.returncode == 4
    assert "no image, PDB or dump was found" in done.stderr
    assert "--allow-empty" in done.stderr
    assert run(command, *options, "--allow-empty").returncode == 0


@pytest.mark.parametrize("name", ["q?.pdb", "com1.pdb", "a:b.pdb"])
def test_a_pdb_whose_name_no_file_can_have_is_named_with_its_module(name: str, tmp_path: Path) -> None:
    image = tmp_path / "q.exe"
    image.write_bytes(disk_bytes(ImagePlan(0x5F000000, code_views=(CodeViewPlan(name, UUID(int=1)),))))
    done = run("check", image, "--store", tmp_path / "sym")
    assert done.returncode == 0
    assert "unusable-identity" in done.stdout
    assert "q.exe" in done.stdout
    assert "cannot be a file name" in done.stdout


def test_an_image_with_a_build_id_in_place_of_a_pdb_has_nothing_to_fetch(tmp_path: Path) -> None:
    image = tmp_path / "q.exe"
    image.write_bytes(disk_bytes(ImagePlan(0x5F000000, code_views=(CodeViewPlan("", UUID(int=1)),))))
    done = run("check", image, "--store", tmp_path / "sym", "-v")
    assert done.returncode == 0
    assert "no-debug-record" in done.stdout
    assert "1 with nothing to fetch" in done.stdout


@pytest.mark.parametrize("platform", [0x8201, 0x8101])
def test_a_dump_of_another_system_gets_advice_that_fits(platform: int, tmp_path: Path) -> None:
    dump = tmp_path / "core.dmp"
    dump.write_bytes(build_minidump(MinidumpPlan([MinidumpModule("/bin/app", 0x400000, 0x1000, 0)], platform=platform)))
    done = run("check", dump, "--store", tmp_path / "sym")
    assert done.returncode == 3
    assert "a dump of another system" in done.stdout
    assert "a fuller dump or the image" not in done.stdout


def test_a_path_without_a_server_says_that_none_was_asked(tmp_path: Path) -> None:
    wanted = tmp_path / "list.txt"
    wanted.write_text("a.pdb/7578144C39C4468394EF84F01549113A1/a.pdb\n")
    path = f"srv*{tmp_path / 'sym'}"
    done = run("warm", wanted, "-y", path)
    assert (done.returncode, "no server was asked" in done.stdout) == (3, True)
    (symbol,) = run_json("warm", wanted, "-y", path, code=3)["symbols"]
    assert (symbol["cause"], symbol["hint"]) == ("not-published", "no-server")
