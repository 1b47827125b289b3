"""The whole command for a Windows build: the index and the symbol server are on loopback."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.command import run, run_json
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.synth.winbindex import ARM64, Entry, base, delta_fields, document, full_fields, insider, update

from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream

NT, HAL, NEXT, NT_ARM64 = (
    ImageKey("ntoskrnl.exe", 3, 0x9000),
    ImageKey("hal.dll", 7, 0xA000),
    ImageKey("ntoskrnl.exe", 5, 0xB000),
    ImageKey("ntoskrnl.exe", 6, 0xC000),
)
PDBS = {
    image: PdbKey(name, UUID(int=number), 1)
    for number, (image, name) in enumerate(
        [(NT, "ntkrnlmp.pdb"), (HAL, "hal.pdb"), (NEXT, "ntkrnlmp.pdb"), (NT_ARM64, "ntkrnlmp.pdb")], start=1
    )
}
KB = update("11-22H2", "KB5023706", "22621.1413")
KERNELS = [
    Entry(full_fields(1, 0x8000), [base("11-22H2")]),
    Entry(full_fields(NT.timestamp, NT.size_of_image), [KB]),
    Entry(full_fields(8, 0xD000), [update("11-22H2", "KB5023778", "22621.1485")]),
]
DOCUMENTS = {
    "ntoskrnl.exe.json.gz": document(KERNELS),
    "hal.dll.json.gz": document([Entry(delta_fields(HAL.timestamp, HAL.size_of_image), [base("11-22H2")])]),
}


@pytest.fixture
def config(upstream: Upstream, tmp_path: Path) -> Path:
    upstream.files = {f"by_filename_compressed/{name}": content for name, content in DOCUMENTS.items()}
    arm64 = Entry(full_fields(6, 0xC000, ARM64), [update("11-22H2", "KB5023706", "22621.1413", machine=ARM64)])
    upstream.files["arm64/ntoskrnl.exe.json.gz"] = document([arm64])
    upstream.files["insider/f0/ntoskrnl.exe.json.gz"] = document(
        [Entry(full_fields(5, 0xB000), [insider("26120.461")])]
    )
    for image, pdb in PDBS.items():
        upstream.files[image.index] = disk_bytes(plan_image(image, pdb))
        upstream.files[pdb.index] = make_pdb(NativePdbSpec(pdb.guid, pdb.age))
    file = tmp_path / "symcache.toml"
    file.write_text(
        f"""
symbol_path = 'srv*{tmp_path / "sym"}*{upstream.url}'
[misses]
folder = '{tmp_path / "misses"}'
[sets]
ours = ['ntoskrnl.exe', 'hal.dll', 'ours.sys']
[builds]
cache = '{tmp_path / "documents"}'
url = '{upstream.url}/by_filename_compressed/NAME.json.gz'
arm64_url = '{upstream.url}/arm64/NAME.json.gz'
insider_url = '{upstream.url}/insider/SHARD/NAME.json.gz'
""",
        encoding="utf-8",
    )
    return file


def test_a_build_is_warmed_checked_locked_and_exported_by_its_number_alone(config: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["--config", config, "--build", "10.0.22621.1413", "--set", "ours"]
    warmed = run("warm", *words)
    assert warmed.returncode == 0, warmed.stderr
    assert "2 wanted: 0 present, 2 fetched" in warmed.stdout
    assert "1 image of unknown size: 1 found, 1 possible size asked for" in warmed.stdout
    assert "10.0.22621.1413" not in warmed.stderr
    assert "22621.1413 x64: the index has 2 of the 3 names of ours" in warmed.stderr
    assert run("check", *words).returncode == 0
    assert run("lock", *words, "-o", tmp_path / "x.lock").returncode == 0
    assert run("export", *words, "-o", tmp_path / "x.zip").returncode == 0
    assert run("warm", "--config", config, tmp_path / "x.lock").returncode == 0
    scanned = run("scan", *words)
    assert scanned.returncode == 0
    assert NT.index in scanned.stdout
    assert run_json("warm", "--plan", *words)["summary"]["present"] == 2


def test_a_plan_of_a_build_needs_no_run_before_it(config: Path, tmp_path: Path) -> None:
    dry_run = run_json("warm", "--plan", "--config", config, "--build", "22621.1413", "--set", "ours")
    assert (dry_run["summary"]["wanted"], dry_run["summary"]["unnamed"]) == (2, 2)
    assert not list((tmp_path / "sym").rglob("*.pdb"))


def test_the_report_of_a_build_is_that_of_any_input(config: Path) -> None:
    report = run_json("warm", "--config", config, "--build", "KB5023706", "--set", "ours")
    assert report["inputs"] == [{"path": "KB5023706 x64", "kind": "build"}]
    assert {symbol["index"] for symbol in report["symbols"]} == {PDBS[NT].index, PDBS[HAL].index}
    assert report["guesses"] == [{"module": "hal.dll", "asked": 1, "image": HAL.index}]


@pytest.mark.parametrize(
    ("words", "image"),
    [(["22621.1413", "--arch", "arm64"], NT_ARM64), (["26120.461"], NEXT)],
    ids=["arm64", "insider"],
)
def test_other_architectures_and_insider_builds_are_in_indexes_of_their_own(
    config: Path, words: list[str], image: ImageKey
) -> None:
    report = run_json("warm", "--config", config, "--build", *words, "--set", "ours")
    assert [symbol["index"] for symbol in report["symbols"]] == [PDBS[image].index]


def test_a_scan_of_a_build_is_warmed_on_another_machine_sizes_that_are_not_known_included(
    config: Path, tmp_path: Path
) -> None:
    words: list[str | Path] = ["--config", config, "--build", "22621.1413", "--set", "ours"]
    run("warm", "--plan", *words)  # which fetches the index
    (tmp_path / "scan.json").write_text(run("scan", *words, "--json").stdout, encoding="utf-8")
    report = run_json("warm", "--config", config, tmp_path / "scan.json")
    assert {symbol["index"] for symbol in report["symbols"]} == {PDBS[NT].index, PDBS[HAL].index}
    assert report["guesses"] == [{"module": "hal.dll", "asked": 1, "image": HAL.index}]


def test_without_a_network_the_index_comes_from_a_folder(config: Path, tmp_path: Path, upstream: Upstream) -> None:
    folder = tmp_path / "index"
    folder.mkdir()
    for name, content in DOCUMENTS.items():
        (folder / name).write_bytes(content)
    words: list[str | Path] = ["--config", config, "--build", "22621.1413", "--set", "ours", "--index", folder]
    assert run_json("check", *words, code=3)["summary"]["missing"] == 2
    assert list(upstream.requests) == []
    assert run("warm", *words).returncode == 0
    assert run_json("check", *words)["summary"]["present"] == 2
    assert not any("by_filename" in request.path for request in upstream.requests)


@pytest.mark.parametrize(
    ("build", "said"),
    [
        ("22621.1414", "22621.1414 is not in the index; the nearest are 22621.1413 (KB5023706"),
        ("KB1234567", "KB1234567 is not in the index; the nearest are"),
        ("10 1507", "10 1507 is not in the index, which has 11-22H2"),
    ],
)
def test_a_build_that_is_not_in_the_index_is_one_line_with_the_nearest(config: Path, build: str, said: str) -> None:
    done = run("warm", "--config", config, "--build", build)
    assert done.returncode == 4
    assert f"unreadable: {build} x64: {said}" in done.stdout


def test_a_page_in_place_of_the_index_is_said_with_its_address(config: Path, upstream: Upstream) -> None:
    name = "by_filename_compressed/ntoskrnl.exe.json.gz"
    upstream.files[name] = b"<!DOCTYPE html><html>Sign in</html>"
    done = run("warm", "--config", config, "--build", "22621.1413")
    assert done.returncode == 4
    assert f"{upstream.url}/{name} sent something else: a web page in place of JSON" in done.stdout


def test_what_is_known_is_listed(config: Path) -> None:
    assert "22621.1485" in run("builds", "--config", config).stdout
    assert run("builds", "--config", config, "11 22H2").stdout.split()[:4] == [
        "22621", "11-22H2", "BASE", "2022-09-20",
    ]  # fmt: skip
    listed = json.loads(run("builds", "--config", config, "hal.dll", "--json").stdout)
    assert listed["files"][0]["releases"] == ["11-22H2"]
    gone = run("builds", "--config", config, "gone.dll")
    assert (gone.returncode, gone.stderr) == (
        4,
        "symcache: gone.dll is not in the index of builds: it has no such file\n",
    )
