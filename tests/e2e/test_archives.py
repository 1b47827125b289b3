"""Whole commands on archives, crash reports and profiles."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.command import run, run_json
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.synth.reports import LINUX, ReportedModule, firefox_profile, stackwalk_report

from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream

GUID = UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e")
DUMPED, LOOSE = PdbKey("m.pdb", GUID, 1), PdbKey("a.pdb", UUID(int=7), 1)
MINIDUMP = build_minidump(
    MinidumpPlan([MinidumpModule(r"C:\m.dll", 0x10000, 0x8000, 0x5F000000, code_view=rsds_record(GUID, 1, "m.pdb"))])
)
IMAGE = disk_bytes(plan_image(ImageKey("a.dll", 0x5F000001, 0x8000), LOOSE))
APP = ReportedModule("app.exe", "m.pdb", GUID, 1)
LIB = ReportedModule("lib.dll", "a.pdb", UUID(int=7), 1, missing=True)


def zipped(**files: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return file.getvalue()


@pytest.fixture
def case(tmp_path: Path, upstream: Upstream) -> tuple[Path, list[str]]:
    """An archive in an archive, and the symbol path that has what it needs."""
    for key in (DUMPED, LOOSE):
        upstream.files[f"/{key.index}"] = make_pdb(NativePdbSpec(key.guid, key.age))
    path = tmp_path / "case 1234.zip"
    path.write_bytes(zipped(**{"logs/inner.zip": zipped(**{"MEMORY.DMP": MINIDUMP}), "bin/a.dll": IMAGE}))
    return path, ["-y", f"srv*{tmp_path / 'sym'}*{upstream.url}", "--images", "none"]


def states(report: dict[str, Any]) -> dict[str, str]:
    return {symbol["index"].partition("/")[0]: symbol["state"] for symbol in report["symbols"]}


def test_an_archive_is_warmed_checked_scanned_locked_and_exported(case: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, options = case
    report = run_json("warm", path, *options)
    assert states(report) == {"m.pdb": "fetched", "a.pdb": "fetched"}
    assert [each["path"] for each in report["inputs"]] == [str(path), f"{path}/logs/inner.zip/MEMORY.DMP"]
    assert states(run_json("check", path, *options)) == {"m.pdb": "present", "a.pdb": "present"}
    scan = run_json("scan", path)
    assert [(module["name"], module["input"]) for module in scan["modules"]] == [("m.dll", 1), ("a.dll", 0)]
    (tmp_path / "scan.json").write_text(json.dumps(scan), encoding="utf-8")
    assert states(run_json("check", tmp_path / "scan.json", *options)) == {"m.pdb": "present", "a.pdb": "present"}
    assert run("lock", path, "-o", tmp_path / "symbols.lock", *options).returncode == 0
    assert "m.pdb" in (tmp_path / "symbols.lock").read_text(encoding="utf-8")
    assert run("export", path, "-o", tmp_path / "bundle.zip", *options).returncode == 0
    assert run("diff", path, path).returncode == 0
    assert run_json("diff", path, path)["before"]["kind"] == "archive"
    assert "archive" in run("inspect", path).stdout


def test_an_archive_comes_through_standard_input(case: tuple[Path, list[str]]) -> None:
    path, options = case
    done = run("warm", "-", "--json", *options, stdin=path.read_bytes())
    assert states(json.loads(done.stdout)) == {"m.pdb": "fetched", "a.pdb": "fetched"}


def test_limits_of_the_config_file_count(case: tuple[Path, list[str]], tmp_path: Path) -> None:
    path, options = case
    config = tmp_path / "symcache.toml"
    config.write_text("[inputs]\ndeepest = 1\n", encoding="utf-8")
    report = run_json("warm", path, "--config", config, *options, code=4)
    assert states(report) == {"a.pdb": "fetched"}
    assert "archives in archives are read 1 deep" in report["unreadable"][0]["problem"]
    assert len(run_json("scan", path, "--config", config, code=4)["modules"]) == 1


def test_a_crash_report_asks_first_for_what_the_service_lacked(tmp_path: Path, upstream: Upstream) -> None:
    for key in (DUMPED, LOOSE):
        upstream.files[f"/{key.index}"] = make_pdb(NativePdbSpec(key.guid, key.age))
    path = tmp_path / "report.json"
    path.write_text(json.dumps(stackwalk_report([APP, LIB])), encoding="utf-8")
    report = run_json("warm", path, "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}")
    assert [symbol["module"] for symbol in report["symbols"]] == ["lib.dll", "app.exe"]
    assert {symbol["state"] for symbol in report["symbols"]} == {"fetched"}


def test_a_profile_says_that_modules_of_other_systems_have_no_pdb(tmp_path: Path) -> None:
    path = tmp_path / "profile.json.gz"
    path.write_bytes(gzip.compress(json.dumps(firefox_profile([APP, LINUX])).encode()))
    done = run("check", path, "--store", tmp_path / "sym")
    assert done.returncode == 3
    assert "1 of the modules it lists are not of Windows and have no PDB" in done.stderr
    assert "1 of the modules it lists are not of Windows" in run("scan", path).stderr


def test_json_of_another_kind_is_one_line(tmp_path: Path) -> None:
    path = tmp_path / "package.json"
    path.write_text('{"name": "left-pad"}', encoding="utf-8")
    done = run("check", path, "--store", tmp_path / "sym")
    assert done.returncode == 4
    assert "JSON of another kind" in done.stdout + done.stderr
