"""Disks that other programs made: mkntfs, wimlib, qemu-img, genisoimage; the same modules as from the folder."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from support.command import run, run_json, start
from support.parts import need
from support.synth.ntfs import gpt_disk, mbr_disk
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes
from support.synth.regf import build_hive

from symcache.inputs.detect import read_input
from symcache.inputs.records import Input, InputKind, Module

NAMES = (
    "ntoskrnl.exe",
    "hal.dll",
    "ci.dll",
    "drivers/ntfs.sys",
    "drivers/tcpip.sys",
    "drivers/vendor.sys",
    "other.dll",
)
VERSION = {"ProductName": "Windows Server 2022", "CurrentBuild": "20348", "UBR": 2227, "CurrentMajorVersionNumber": 10}


def tool(name: str, *arguments: str | Path, cwd: Path) -> None:
    subprocess.run([need(name), *map(str, arguments)], cwd=cwd, check=True, capture_output=True)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``windows``, and the disks, archives and discs that hold the same."""
    for part in ("dissect", "mkntfs", "wimlib", "qemu-img", "genisoimage"):
        need(part)
    folder = tmp_path_factory.mktemp("disks")
    system = folder / "windows" / "Windows" / "System32"
    (system / "drivers").mkdir(parents=True)
    (system / "config").mkdir()
    (system / "config" / "SOFTWARE").write_bytes(build_hive({"Microsoft": {"Windows NT": {"CurrentVersion": VERSION}}}))
    for number, name in enumerate(NAMES):
        pdb = CodeViewPlan(f"{Path(name).stem}.pdb", UUID(int=number + 1), 1)
        image = ImagePlan(0x60000000 + number, code_views=(pdb,), payload_bytes=0x3000 * (number + 1))
        (system / name).write_bytes(disk_bytes(image))
    store = folder / "windows" / "Windows" / "WinSxS" / "amd64_ntfs"
    store.mkdir(parents=True)
    os.link(system / "drivers" / "ntfs.sys", store / "ntfs.sys")
    for compression in ("none", "xpress", "lzx"):
        tool("wimlib", "capture", "windows", f"{compression}.wim", f"--compress={compression}", cwd=folder)
    # As Microsoft's: of several images, of which the first has no Windows, LZMS, solid.
    (folder / "media").mkdir()
    (folder / "media" / "setup.exe").write_bytes(b"MZ")
    tool("wimlib", "capture", "media", "install.esd", "Setup Media", "--solid", cwd=folder)
    for name in ("Home", "Pro"):
        tool("wimlib", "append", "windows", "install.esd", name, "--solid", cwd=folder)
    tool("wimlib", "export", "none.wim", "1", "solid.wim", "--solid", "--solid-compress=LZX", cwd=folder)
    tool("wimlib", "export", "none.wim", "1", "lzms.wim", "--compress=LZMS", cwd=folder)
    for name, options in (("plain", []), ("compressed", ["-C"])):
        with (folder / f"{name}.ntfs").open("wb") as file:
            file.truncate(6 << 20)
        tool("mkntfs", "-F", "-q", *options, f"{name}.ntfs", cwd=folder)
        tool("wimlib", "apply", "none.wim", "1", f"{name}.ntfs", cwd=folder)
    volume = (folder / "plain.ntfs").read_bytes()
    (folder / "mbr.raw").write_bytes(mbr_disk(volume))
    (folder / "gpt.raw").write_bytes(gpt_disk(volume))
    for kind, suffix, options in (
        ("vhdx", "vhdx", []), ("vpc", "vhd", []), ("vmdk", "vmdk", ["-o", "subformat=streamOptimized"]),
        ("qcow2", "qcow2", ["-c"]), ("vdi", "vdi", []),
    ):  # fmt: skip
        tool("qemu-img", "convert", "-O", kind, *options, "mbr.raw", f"disk.{suffix}", cwd=folder)
    for name, wim in (("install", "lzx.wim"), ("esd", "install.esd")):
        (folder / name / "sources").mkdir(parents=True)
        target = "install.esd" if name == "esd" else "install.wim"
        (folder / name / "sources" / target).write_bytes((folder / wim).read_bytes())
    (folder / "esd" / "sources" / "boot.wim").write_bytes((folder / "xpress.wim").read_bytes())
    tool("genisoimage", "-quiet", "-udf", "-o", "udf.iso", "install", cwd=folder)
    tool("genisoimage", "-quiet", "-o", "plain.iso", "install", cwd=folder)
    tool("genisoimage", "-quiet", "-udf", "-o", "esd.iso", "esd", cwd=folder)
    return folder


DISKS = (
    "plain.ntfs", "compressed.ntfs", "mbr.raw", "gpt.raw", "disk.vhdx", "disk.vhd", "disk.vmdk", "disk.qcow2",
    "disk.vdi", "none.wim", "xpress.wim", "lzx.wim", "udf.iso", "plain.iso", "install.esd", "solid.wim", "lzms.wim",
    "esd.iso",
)  # fmt: skip


def found_in(path: Path) -> tuple[Any, list[Module]]:
    first, *rest = read_input(path)
    assert isinstance(first, Input)
    assert first.kind is InputKind.DISK
    modules = [record for record in rest if isinstance(record, Module)]
    assert modules == rest
    return first.details, modules


@pytest.mark.parametrize("name", DISKS)
def test_a_disk_gives_the_same_as_the_folder_that_is_on_it(made: Path, name: str) -> None:
    details, modules = found_in(made / name)
    assert len(modules) == len(NAMES) - 1  # the last is in no set that a kernel debugger needs
    assert modules == found_in(made / "windows")[1]
    assert details["windows"][0]["build"] == "10.0.20348.2227"
    assert "\\Windows\\System32\\drivers\\ntfs.sys" in [module.path for module in modules]


def test_every_module_can_be_asked_for(made: Path) -> None:
    document = run_json("scan", "--set", "all", made / "disk.vhdx")
    assert len(document["modules"]) == len(NAMES)


def test_what_is_wanted_of_a_disk_is_looked_for_in_the_store(made: Path, tmp_path: Path) -> None:
    document = run_json("check", made / "disk.qcow2", "--store", tmp_path, code=3)
    assert document["summary"]["wanted"] == len(NAMES) - 1
    assert {symbol["module"] for symbol in document["symbols"]} == {Path(name).name for name in NAMES[:-1]}


NOWHERE = {"PATH": os.devnull}


def test_without_wimlib_an_esd_says_what_converts_it(made: Path) -> None:
    done = run("scan", made / "install.esd", env=NOWHERE)
    assert done.returncode == 4
    (line,) = [line for line in done.stderr.splitlines() if "install.esd" in line]
    assert "compressed with LZMS (an ESD), which is not read: convert it (wimlib-imagex export" in line
    assert line.endswith("it needs no conversion")


def test_without_wimlib_a_disc_with_an_esd_gives_what_it_starts(made: Path) -> None:
    document = run_json("scan", made / "esd.iso", code=4, env=NOWHERE)
    assert len(document["modules"]) == len(NAMES) - 1
    assert [each["path"].rpartition(":")[2] for each in document["unreadable"]] == ["sources/install.esd"]


@pytest.mark.parametrize("image", ["3", "Pro"])
def test_one_image_of_an_esd_is_taken(made: Path, tmp_path: Path, image: str) -> None:
    document = run_json("scan", "--wim-image", image, made / "install.esd", env={"TMPDIR": str(tmp_path)})
    details = document["inputs"][0]["details"]
    assert [each["name"] for each in details["images"]] == ["Pro"]
    assert [each["where"] for each in details["windows"]] == ["image 3"]
    assert len(document["modules"]) == len(NAMES) - 1
    assert list(tmp_path.iterdir()) == []


def test_an_esd_is_locked_as_its_folder_is(made: Path, tmp_path: Path) -> None:
    for source in ("install.esd", "windows"):
        run("lock", made / source, "--store", tmp_path / "store", "-o", tmp_path / f"{source}.lock")
    locks = [(tmp_path / f"{source}.lock").read_text() for source in ("install.esd", "windows")]
    assert "ntfs.pdb/" in locks[0]
    assert locks[0] == locks[1]


def test_what_wimlib_says_of_a_damaged_esd_is_one_line(made: Path, tmp_path: Path) -> None:
    whole = (made / "install.esd").read_bytes()
    damaged = bytearray(whole)
    damaged[2000:4000] = bytes(2000)
    for name, data in (("damaged.esd", damaged), ("cut.esd", whole[:-500])):
        (tmp_path / name).write_bytes(data)
        done = run("check", tmp_path / name, "--store", tmp_path / "store")
        assert done.returncode == 4
        (line,) = [line for line in (done.stdout + done.stderr).splitlines() if name in line]
        assert "wimlib-imagex: " in line


@pytest.mark.skipif(sys.platform == "win32", reason="a script stands in for the program")
def test_ctrl_c_ends_the_program_and_leaves_nothing(made: Path, tmp_path: Path) -> None:
    scratch, pipe = tmp_path / "scratch", tmp_path / "pipe"
    scratch.mkdir()
    os.mkfifo(pipe)
    program = tmp_path / "wimlib-imagex"
    program.write_text(f"#!/bin/sh\nexec 9>'{pipe}'\necho started >&9\nsleep 3600\n")
    program.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    with start("scan", made / "install.esd", env={"PATH": path, "TMPDIR": str(scratch)}) as process:
        with pipe.open() as said:
            assert said.readline() == "started\n"
            process.send_signal(signal.SIGINT)
            assert said.read() == ""  # once neither the program nor what it started is there any more
        process.communicate()
        assert process.returncode == 130
    assert list(scratch.iterdir()) == []


def test_what_is_wrong_with_a_disk_is_told_in_one_line(made: Path, tmp_path: Path) -> None:
    locked = bytearray((made / "mbr.raw").read_bytes())
    locked[65536 + 3 : 65536 + 11] = b"-FVE-FS-"
    (tmp_path / "locked.raw").write_bytes(locked)
    done = run("check", tmp_path / "locked.raw", "--store", tmp_path / "store")
    assert done.returncode == 4
    line = next(line for line in (done.stdout + done.stderr).splitlines() if "BitLocker" in line)
    assert "(raw), and no Windows was found on it: partition 1: the volume is encrypted by BitLocker; unlock it" in line


def test_a_mounted_folder_tells_its_build(made: Path) -> None:
    done = run("inspect", made / "disk.vhdx")
    assert done.returncode == 0
    assert "10.0.20348.2227" in done.stdout


def test_a_disk_itself_is_read_by_its_device(made: Path) -> None:
    losetup = shutil.which("losetup")
    if losetup is None:
        pytest.skip("no losetup")
    attached = subprocess.run(
        [losetup, "--read-only", "--find", "--show", made / "mbr.raw"], capture_output=True, text=True, check=False
    )
    if attached.returncode:
        pytest.skip(f"no loop device: {attached.stderr.strip()}")
    device = attached.stdout.strip()
    try:
        details, modules = found_in(Path(device))
    finally:
        subprocess.run([losetup, "--detach", device], check=True)
    assert details["disk_bytes"] == (made / "mbr.raw").stat().st_size
    assert modules == found_in(made / "mbr.raw")[1]
