"""A raw memory image, from page tables to every PDB, with the kernel's PDB on the server and without."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.command import run, run_json
from support.kernels import expected, kernel_pdb, kernel_plan
from support.parts import need
from support.synth.kernelmemory import build_machine
from support.synth.memoryimages import elf_bytes, lime_bytes, qemu_note, raw_bytes, vmware_files, write_raw
from support.synth.pagetables import Paging
from support.synth.pdb import NativePdbSpec, make_pdb

if TYPE_CHECKING:
    from pathlib import Path

    from support.synth.kernelmemory import MachineMemory
    from support.upstream import Upstream


def machine(paging: Paging = Paging.X64, *, debugger_data: bool = True, first_pfn: int = 0x100) -> MachineMemory:
    plan = kernel_plan(paging)
    return build_machine(replace(plan, searchable=True, debugger_data=debugger_data, first_pfn=first_pfn))


def publish(upstream: Upstream, source: MachineMemory, *, kernel: bool = True) -> dict[str, bytes]:
    """Put the PDBs of the drivers on the server, that of the kernel only if it is wanted; return them."""
    published: dict[str, bytes] = {}
    for driver in source.plan.drivers[not kernel :]:
        (view,) = driver.image.code_views
        assert view.guid is not None
        (index,) = expected(driver)[2]
        is_kernel = driver is source.plan.drivers[0]
        published[index] = kernel_pdb(source) if is_kernel else make_pdb(NativePdbSpec(view.guid, view.age))
    upstream.files.update(published)
    return published


def indexes(document: dict[str, Any], state: str) -> set[str]:
    return {symbol["index"] for symbol in document["symbols"] if symbol["state"] == state and symbol["index"]}


@pytest.mark.parametrize("paging", [Paging.X64, Paging.PAE])
def test_warm_fetches_the_kernels_pdb_first_and_then_what_its_lists_name(
    paging: Paging, upstream: Upstream, tmp_path: Path
) -> None:
    source = machine(paging, debugger_data=False)
    published = publish(upstream, source)
    (tmp_path / "hung.raw").write_bytes(raw_bytes(source))
    path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
    document = run_json("warm", tmp_path / "hung.raw", "-y", path, "--no-user", "--allow-missing")
    assert indexes(document, "fetched") == set(published)
    assert upstream.requests[0].path.strip("/").startswith(expected(source.plan.drivers[0])[2][0].split("/")[0])
    again = run_json("check", tmp_path / "hung.raw", "-y", path, "--no-user", "--allow-missing")
    assert indexes(again, "present") == set(published)
    assert document["inputs"] == [{"path": str(tmp_path / "hung.raw"), "kind": "raw-memory"}]


def test_warm_goes_on_where_the_kernels_pdb_is_not_published(upstream: Upstream, tmp_path: Path) -> None:
    source = machine(debugger_data=False)
    published = publish(upstream, source, kernel=False)
    (tmp_path / "hung.lime").write_bytes(lime_bytes(source))
    document = run_json(
        "warm", tmp_path / "hung.lime", "-y", f"srv*{tmp_path / 'sym'}*{upstream.url}", "--no-user", code=3
    )
    assert indexes(document, "fetched") == set(published)
    assert indexes(document, "missing") == set(expected(source.plan.drivers[0])[2])


def test_warm_takes_the_processes_of_a_core_in(upstream: Upstream, tmp_path: Path) -> None:
    source = machine()
    published = publish(upstream, source)
    (tmp_path / "vm.core").write_bytes(elf_bytes(source, qemu_note(source.kernel.root)))
    path = f"srv*{tmp_path / 'sym'}*{upstream.url}"
    document = run_json("warm", tmp_path / "vm.core", "-y", path, "--process", "lsass.exe", "--allow-missing")
    assert indexes(document, "fetched") == set(published)
    wanted = {expected(module)[2][0] for module in source.plan.processes[2].modules}
    assert wanted <= indexes(document, "missing")


@pytest.mark.parametrize("suffix", ["vmem", "vmss"])
def test_scan_reads_vmwares_files_by_either_of_them(suffix: str, tmp_path: Path) -> None:
    source = machine()
    for name, data in zip(("vmem", "vmss"), vmware_files(source), strict=True):
        (tmp_path / f"vm.{name}").write_bytes(data)
    document = run_json("scan", tmp_path / f"vm.{suffix}")
    assert document["inputs"][0]["kind"] == "raw-memory"
    assert [each["name"] for each in document["modules"] if not each["unloaded"] and "process" not in each][:7] == [
        driver.name for driver in source.plan.drivers
    ]


def test_scan_says_that_images_were_searched_for(tmp_path: Path) -> None:
    source = machine()
    data = bytearray(raw_bytes(source))
    for address in (source.loaded_modules_va, source.active_processes_va):
        physical = source.kernel.translate(address)
        assert physical is not None
        data[physical : physical + 16] = bytes(16)
    (tmp_path / "torn.raw").write_bytes(data)
    document = run_json("scan", tmp_path / "torn.raw", code=4)
    (unreadable,) = document["unreadable"]
    assert unreadable["problem"] == (
        "no list of modules was found, and nt's PDB is not there: images were searched for; names come from their PDBs"
    )
    named = {index for driver in source.plan.drivers if not driver.in_session for index in expected(driver)[2]}
    assert named <= {pdb["index"] for module in document["modules"] for pdb in module["pdbs"]}


def test_inspect_says_which_windows_it_is(tmp_path: Path) -> None:
    (tmp_path / "hung.raw").write_bytes(raw_bytes(machine()))
    done = run("inspect", tmp_path / "hung.raw")
    assert done.returncode == 0
    for words in ("raw-memory", "raw memory image", "10.0.19041", "page tables that map themselves", "C:\\WINDOWS"):
        assert words in done.stdout


def test_a_file_of_zeros_is_an_input_that_cannot_be_read(tmp_path: Path) -> None:
    with (tmp_path / "empty.raw").open("wb") as file:
        file.truncate(1 << 30)
    done = run("warm", tmp_path / "empty.raw", "-y", f"srv*{tmp_path / 'sym'}")
    assert done.returncode == 4
    assert "nothing but zeros" in done.stdout
    assert "Traceback" not in done.stderr


_VOLATILITY = """
import sys
from volatility3.framework import constants
constants.SYMBOL_SERVER_URL = sys.argv.pop(1)
from volatility3.cli import main
sys.argv[0] = "vol"
main()
"""


@pytest.mark.parametrize("form", ["raw", "lime", "elf", "vmem"])
def test_volatility_lists_the_same_modules(form: str, upstream: Upstream, tmp_path: Path) -> None:
    need("volatility3")
    source = machine(first_pfn=0x1A0)  # where it looks for the page tables
    publish(upstream, source)
    path = tmp_path / f"hung.{form}"
    if form == "raw":
        with path.open("wb") as out:
            write_raw(out, source, size=32 << 20)
    elif form == "vmem":
        for file, data in zip((path, path.with_suffix(".vmss")), vmware_files(source, 32 << 20), strict=True):
            file.write_bytes(data)
    else:
        path.write_bytes(lime_bytes(source, 32 << 20) if form == "lime" else elf_bytes(source, size=32 << 20))
    for folder in ("cache", "symbols"):
        (tmp_path / folder).mkdir()
    options = ["-q", "--cache-path", str(tmp_path / "cache"), "-s", str(tmp_path / "symbols"), "-r", "json"]
    done = subprocess.run(
        [sys.executable, "-c", _VOLATILITY, upstream.url, *options, "-f", str(path), "windows.modules"],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
    )
    listed = [(each["Name"], each["Base"], each["Path"]) for each in json.loads(done.stdout)]
    modules = [each for each in run_json("scan", path, "--no-user")["modules"] if not each["unloaded"]]
    mask = (1 << 48) - 1  # volatility leaves the sign out
    assert [(each["name"], int(each["base"], 16) & mask, each["path"]) for each in modules] == [
        (name, base & mask, full_path) for name, base, full_path in listed
    ]
    assert len(listed) == len(source.plan.drivers)
