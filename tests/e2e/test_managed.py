"""Dumps of .NET programs, and the libraries of their runtimes, from the command line."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.command import run, run_json
from support.dotnet import library_bytes, runtime_plan
from support.serving import fetch, serving
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pe import ImagePlan, disk_bytes, runtime_info_bytes
from support.synth.version import fixed_bytes
from support.upstream import Upstream

from symcache.identity import ImageKey

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STAMP = (0x5F7E6161, 0xAEE000)
V8, OTHER = (8, 0, 824, 36612), (8, 0, 724, 31311)
CORECLR = ImageKey("coreclr.dll", *STAMP)
LONG = ImageKey("mscordaccore_amd64_amd64_8.0.824.36612.dll", *STAMP)
SHORT, DBI = ImageKey("mscordaccore.dll", *STAMP), ImageKey("mscordbi.dll", *STAMP)
RUNTIME = disk_bytes(runtime_plan(*STAMP, "coreclr.dll", V8))
DAC = library_bytes("mscordaccore.dll", V8)


@pytest.fixture
def server() -> Iterator[Upstream]:
    files = {LONG.index: DAC, DBI.index: library_bytes("mscordbi.dll", V8), CORECLR.index: RUNTIME}
    with Upstream(files) as upstream:
        yield upstream


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    record = rsds_record(UUID(int=7), 1, "coreclr.pdb")
    version = fixed_bytes(V8, V8)
    modules = [
        MinidumpModule("C:\\app\\app.exe", 0x7FF6_0000_0000, 0x4000, 0x5AB38077),
        MinidumpModule("C:\\dotnet\\coreclr.dll", 0x7FF6_1000_0000, STAMP[1], STAMP[0], record, version=version),
    ]
    path = tmp_path / "app.dmp"
    path.write_bytes(build_minidump(MinidumpPlan(modules)))
    return path


def path_to(server: Upstream, tmp_path: Path) -> str:
    return f"srv*{tmp_path / 'sym'}*{server.url}"


def test_the_dump_of_a_net_program_gets_what_managed_debugging_needs(
    dump: Path, server: Upstream, tmp_path: Path
) -> None:
    done = run("warm", dump, "-y", path_to(server, tmp_path), "--allow-missing")
    assert done.returncode == 0, done.stderr
    assert "managed debugging (coreclr.dll 8.0.824.36612): ready\n" in done.stdout
    for key in (LONG, SHORT, DBI, CORECLR):
        assert (tmp_path / "sym" / key.index).is_file()
    page = tmp_path / "report.html"
    report = tmp_path / "report.json"
    run("check", dump, "--store", tmp_path / "sym", "--allow-missing", "--report", page, "--report", report)
    assert "managed debugging (coreclr.dll 8.0.824.36612): ready" in page.read_text(encoding="utf-8")
    assert json.loads(report.read_text(encoding="utf-8"))["managed"][0]["ready"]


def test_a_check_for_images_fails_without_a_library(dump: Path, server: Upstream, tmp_path: Path) -> None:
    server.files.pop(DBI.index)
    run("warm", dump, "-y", path_to(server, tmp_path), "--allow-missing")
    done = run("check", dump, "--store", tmp_path / "sym", "--fail-on", "images")
    assert done.returncode == 3
    assert "ready, without mscordbi.dll" in done.stdout


def test_scan_says_which_runtime_runs(dump: Path) -> None:
    modules = {module["name"]: module for module in run_json("scan", dump)["modules"]}
    assert modules["coreclr.dll"]["runtime"] == {"kind": "core", "version": "8.0.824.36612", "machine": 0x8664}
    assert "runtime" not in modules["app.exe"]


@pytest.mark.parametrize("name", [LONG.name, LONG.name.replace("amd64", "AMD64")])
def test_fetch_takes_the_name_that_a_debugger_writes(name: str, server: Upstream, tmp_path: Path) -> None:
    server.files[SHORT.index] = server.files.pop(LONG.index)
    done = run("fetch", f"{name}/{LONG.id}/{name}", "-y", path_to(server, tmp_path))
    assert done.returncode == 0, done.stderr
    path = tmp_path / "sym" / name / LONG.id / name
    assert done.stdout.strip() == str(path)
    assert path.read_bytes() == DAC


def test_fetch_refuses_another_build(server: Upstream, tmp_path: Path) -> None:
    server.files[LONG.index] = library_bytes("mscordaccore.dll", OTHER)
    done = run("fetch", LONG.index, "-y", path_to(server, tmp_path))
    assert done.returncode == 1
    assert "version 8.0.724.31311, not 8.0.824.36612" in done.stderr + done.stdout
    assert not (tmp_path / "sym" / LONG.index).exists()


def test_a_server_passes_libraries_through_and_refuses_others(server: Upstream, tmp_path: Path) -> None:
    cross = ImageKey("mscordaccore_amd64_arm64_8.0.824.36612.dll", *STAMP)
    server.files[cross.index] = b"<!DOCTYPE html><html><title>Sign in</title></html>"
    with serving(tmp_path, upstream=server.url) as served:
        windbg = LONG.index.replace("amd64", "AMD64")
        for index in (LONG.index, windbg, SHORT.index):
            answer = fetch(served.port, index)
            assert (answer.status, answer.body) == (200, DAC), index
        assert fetch(served.port, cross.index).status in {404, 502}
        server.files[cross.index] = library_bytes("mscordaccore.dll", OTHER)
        assert fetch(served.port, cross.index).status in {404, 502}


def test_inspect_names_the_libraries_of_a_runtime_and_of_a_program_that_holds_one(tmp_path: Path) -> None:
    (tmp_path / "coreclr.dll").write_bytes(RUNTIME)
    found = run_json("inspect", tmp_path / "coreclr.dll")
    assert found["libraries"] == [LONG.index, SHORT.index, DBI.index]
    assert found["details"]["runtime"] == {"kind": "core", "version": "8.0.824.36612", "machine": 0x8664}
    text = run("inspect", tmp_path / "coreclr.dll").stdout
    assert LONG.index in text
    assert "core 8.0.824.36612" in text

    info = runtime_info_bytes((0x65A1B2C3, 0x158000), (0x65A1B2C4, 0x12A000))
    program = ImagePlan(0x1111, 0x9000, dll=False, exports=(("DotNetRuntimeInfo", info),))
    (tmp_path / "app.exe").write_bytes(disk_bytes(program))
    assert run_json("inspect", tmp_path / "app.exe")["libraries"] == [
        "mscordaccore.dll/65A1B2C3158000/mscordaccore.dll",
        "mscordbi.dll/65A1B2C412a000/mscordbi.dll",
    ]
    (tmp_path / "other.exe").write_bytes(disk_bytes(ImagePlan(0x1111, dll=False)))
    assert run_json("inspect", tmp_path / "other.exe")["libraries"] == []


def test_inspect_finds_a_library_in_its_right_place(server: Upstream, tmp_path: Path) -> None:
    run("fetch", LONG.index, "-y", path_to(server, tmp_path))
    for key in (LONG, SHORT):
        filed = run_json("inspect", tmp_path / "sym" / key.index)["filed"]
        assert (filed["index"], filed["problem"]) == (key.index, None)


def test_a_folder_with_a_runtime_needs_its_libraries_only_with_all_images(server: Upstream, tmp_path: Path) -> None:
    folder = tmp_path / "runtime"
    folder.mkdir()
    (folder / "coreclr.dll").write_bytes(RUNTIME)
    plain = run_json("warm", folder, "-y", path_to(server, tmp_path), "--allow-missing")
    assert "managed" not in plain
    every = run_json("warm", folder, "-y", path_to(server, tmp_path), "--images", "all", "--allow-missing")
    assert every["managed"][0]["ready"]


def test_a_store_with_libraries_is_sound_and_a_bundle_takes_both_names(
    dump: Path, server: Upstream, tmp_path: Path
) -> None:
    run("warm", dump, "-y", path_to(server, tmp_path), "--allow-missing")
    assert run("store", "verify", "--store", tmp_path / "sym").returncode == 0
    bundle = tmp_path / "all.zip"
    assert run("export", dump, "-o", bundle, "--store", tmp_path / "sym").returncode in {0, 3}
    assert run("import", bundle, "--store", tmp_path / "there").returncode == 0
    for key in (LONG, SHORT, DBI):
        assert (tmp_path / "there" / key.index).is_file()


def test_a_dry_run_counts_the_libraries(dump: Path, server: Upstream, tmp_path: Path) -> None:
    planned = run_json("warm", dump, "-y", path_to(server, tmp_path), "--plan")
    assert {LONG.index, DBI.index} <= {file["index"] for file in planned["files"] if file["server"]}
    assert server.requests
    assert not (tmp_path / "sym" / LONG.index).exists()


def test_a_scan_takes_the_libraries_to_a_machine_with_a_network(dump: Path, server: Upstream, tmp_path: Path) -> None:
    (tmp_path / "scan.json").write_text(json.dumps(run_json("scan", dump)), encoding="utf-8")
    server.files.pop(CORECLR.index)  # the version is in the scan
    report = run_json("warm", tmp_path / "scan.json", "-y", path_to(server, tmp_path), "--allow-missing")
    assert [each["ready"] for each in report["managed"]] == [True]
    fetched = {symbol["index"] for symbol in report["symbols"] if symbol["state"] == "fetched"}
    assert {LONG.index, DBI.index} <= fetched


def test_a_manifest_takes_the_libraries_to_a_machine_with_a_network(
    dump: Path, server: Upstream, tmp_path: Path
) -> None:
    manifest = tmp_path / "wanted.txt"
    assert run("scan", dump, "-o", manifest).returncode == 0
    lines = manifest.read_text(encoding="utf-8").splitlines()
    assert f"{LONG.name},{LONG.id.lower()},2" in lines
    report = run_json("warm", manifest, "-y", path_to(server, tmp_path), "--allow-missing")
    fetched = {symbol["index"] for symbol in report["symbols"] if symbol["state"] == "fetched"}
    assert fetched == {LONG.index, DBI.index}
    assert (tmp_path / "sym" / SHORT.index).is_file()


NOISY = f"""SYMSRV:  BYINDEX: 0x5
         c:\\sym
         {LONG.name.replace("amd64", "AMD64")}
         {LONG.id}
SYMSRV:  UNC: c:\\sym\\{LONG.name}\\{LONG.id}\\{LONG.name} - path not found
SYMSRV:  RESULT: 0x80070003
"""


@pytest.mark.parametrize(
    "text", [LONG.index, f"{LONG.name} {LONG.id}", SHORT.index, NOISY], ids=["index", "name and id", "short", "log"]
)
def test_a_library_that_a_list_or_a_log_names_is_wanted_itself(text: str, server: Upstream, tmp_path: Path) -> None:
    server.files[SHORT.index] = DAC
    (tmp_path / "list.txt").write_text(f"{text}\n", encoding="utf-8")
    report = run_json("warm", tmp_path / "list.txt", "-y", path_to(server, tmp_path))
    assert [(symbol["kind"], symbol["state"]) for symbol in report["symbols"]] == [("image", "fetched")]
    assert "managed" not in report
