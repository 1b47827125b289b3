"""Drivers and processes of the machine itself: what is made of Windows' answers, and, on Windows, the answers."""

from __future__ import annotations

import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path, PureWindowsPath
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.command import run, run_json
from support.machines import PLACES, Machine, Opened
from support.parts import skip_without
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes, memory_bytes
from support.windows import only_windows

from symcache import LiveKernel, LiveProcess, SymbolCache, load_config, read_input
from symcache.errors import UnknownFormat
from symcache.identity import ImageKey, PdbKey
from symcache.inputs.live import (
    LoadedImage,
    RunningProcess,
    file_path,
    find_processes,
    read_live_kernel,
    read_live_processes,
)
from symcache.inputs.records import Input, InputKind, Module, ProcessSummary, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from symcache.inputs.records import Record

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")
ROOT = "C:\\Windows"
DRIVERS = f"{ROOT}\\System32\\drivers"


def plan(pdb: str, stamp: int = 0x4549B18E, size: int = 0x14000) -> ImagePlan:
    return ImagePlan(stamp, size, code_views=(CodeViewPlan(pdb, GUID, 3),))


NT = plan("ntkrnlmp.pdb", 0x1B2C3D4E, 0x1046000)
HAL = plan("hal.pdb", 0x2B2C3D4E, 0x6000)
STORPORT = plan("storport.pdb", 0x3B2C3D4E, 0xC8000)
APP = plan("app.pdb", 0x5B2C3D4E, 0x20000)


def modules_of(records: Iterable[Record]) -> list[Module]:
    return [record for record in records if isinstance(record, Module)]


def unreadable_in(records: Iterable[Record]) -> list[str]:
    return [record.problem for record in records if isinstance(record, Unreadable)]


def kernel_machine(*more: LoadedImage, **files: ImagePlan) -> Machine:
    """Return a machine whose kernel lists two usual images and *more*; *files* are drivers by name without suffix."""
    return Machine(
        {
            f"{ROOT}\\system32\\ntoskrnl.exe": disk_bytes(NT),
            f"{ROOT}\\system32\\hal.dll": disk_bytes(HAL),
            **{f"{DRIVERS}\\{name}.sys": disk_bytes(each) for name, each in files.items()},
        },
        [
            *more,
            LoadedImage("\\SystemRoot\\system32\\hal.dll", 0xFFFFF80213000000, 0x6000),
            LoadedImage("\\SystemRoot\\system32\\ntoskrnl.exe", 0xFFFFF80212C00000, 0x1046000),
        ],
    )


def driver(name: str, image: ImagePlan, base: int = 0xFFFFF80500000000) -> LoadedImage:
    assert image.size_of_image is not None
    return LoadedImage(f"\\SystemRoot\\System32\\drivers\\{name}", base, image.size_of_image, image.timestamp)


# --- The kernel


def test_drivers_are_modules_with_their_keys_kernel_and_hal_first() -> None:
    records = list(read_live_kernel(kernel_machine(driver("storport.sys", STORPORT), storport=STORPORT)))
    assert records[0] == Input(
        "--live",
        InputKind.LIVE_KERNEL,
        {"version": "10.0.19045", "build": 19045, "machine": "x64", "drivers": 3, "problems": []},
    )
    modules = modules_of(records)
    assert [module.name for module in modules] == ["ntoskrnl.exe", "hal.dll", "storport.sys"]
    assert modules[2].base == 0xFFFFF80500000000
    assert modules[2].path == "\\SystemRoot\\System32\\drivers\\storport.sys"
    assert modules[2].image == ImageKey("storport.sys", 0x3B2C3D4E, 0xC8000)
    assert [pdb.key for pdb in modules[2].pdbs] == [PdbKey("storport.pdb", GUID, 3)]
    assert [module.needs_image for module in modules] == [None] * 3
    assert not unreadable_in(records)


def test_a_copy_for_the_crash_is_read_from_the_drivers_own_file() -> None:
    machine = kernel_machine(driver("dump_storport.sys", STORPORT), storport=STORPORT)
    copy = modules_of(read_live_kernel(machine))[2]
    assert (copy.name, copy.image) == ("dump_storport.sys", ImageKey("storport.sys", 0x3B2C3D4E, 0xC8000))
    assert copy.problem is None


def test_a_driver_whose_file_was_replaced_has_the_key_that_memory_states() -> None:
    new = replace(STORPORT, timestamp=0x77777777)
    others = [driver(f"a{number}.sys", STORPORT) for number in range(3)]
    machine = kernel_machine(*others, driver("storport.sys", STORPORT), storport=new, a0=STORPORT, a1=STORPORT)
    found = next(each for each in modules_of(read_live_kernel(machine)) if each.name == "storport.sys")
    assert found.image == ImageKey("storport.sys", 0x3B2C3D4E, 0xC8000)
    assert not found.pdbs
    assert found.problem is not None
    assert "another build" in found.problem
    assert "77777777" in found.problem


def test_a_replaced_file_of_another_size_is_no_identity_where_no_stamp_is_told() -> None:
    new = replace(STORPORT, size_of_image=0xD0000)
    machine = kernel_machine(replace(driver("storport.sys", STORPORT), stamp=0), storport=new)
    found = modules_of(read_live_kernel(machine))[2]
    assert found.image is None
    assert not found.pdbs
    assert found.problem is not None
    assert "0xd0000" in found.problem


def test_stamps_and_sizes_that_are_none_of_images_are_not_believed() -> None:
    machine = kernel_machine(driver("storport.sys", STORPORT), storport=STORPORT)
    assert not isinstance(machine.loaded, OSError)
    machine.loaded = [replace(each, stamp=5, size=0x200000) for each in machine.loaded]
    modules = modules_of(read_live_kernel(machine))
    assert [module.problem for module in modules] == [None] * 3
    assert modules[2].image == ImageKey("storport.sys", 0x3B2C3D4E, 0xC8000)


def test_a_driver_without_a_file_has_the_key_of_its_stamp_else_none_and_the_rest_goes_on() -> None:
    stamped = driver("gone.sys", STORPORT)
    machine = kernel_machine(
        stamped, replace(stamped, path="\\SystemRoot\\x.sys", stamp=0), driver("a.sys", STORPORT), a=STORPORT
    )
    _, _, gone, x, here = modules_of(read_live_kernel(machine))
    assert gone.image == ImageKey("gone.sys", 0x3B2C3D4E, 0xC8000)
    assert x.image is None
    assert x.problem == "its file C:\\Windows\\x.sys cannot be read: No such file or directory"
    assert here.problem is None


def test_a_damaged_file_of_a_driver_is_its_own_problem() -> None:
    machine = kernel_machine(replace(driver("storport.sys", STORPORT), stamp=0))
    machine.files = {**machine.files, f"{DRIVERS}\\storport.sys": b"MZ"}
    found = modules_of(read_live_kernel(machine))[2]
    assert found.image is None
    assert found.problem is not None
    assert "storport.sys cannot be read" in found.problem


def test_withheld_addresses_are_said_and_nothing_else_is_lost() -> None:
    machine = kernel_machine(driver("storport.sys", STORPORT), storport=STORPORT)
    assert not isinstance(machine.loaded, OSError)
    machine.loaded = [replace(each, base=None) for each in machine.loaded]
    records = list(read_live_kernel(machine))
    assert isinstance(records[0], Input)
    assert "as administrator" in records[0].details["problems"][0]
    assert [(module.base, module.problem) for module in modules_of(records)] == [(None, None)] * 3


def test_a_kernel_that_does_not_list_its_drivers_is_unreadable() -> None:
    records = list(read_live_kernel(Machine(loaded=PermissionError(13, "Access is denied"))))
    assert unreadable_in(records) == ["Windows does not list its drivers: Access is denied"]
    assert unreadable_in(read_live_kernel(Machine())) == ["Windows lists no drivers"]


# --- Processes

APP_BASE, DLL_BASE = 0x140000000, 0x7FFB10000000
APP_IMAGE = LoadedImage("C:\\app\\app.exe", APP_BASE, 0x20000)
FILES = {"C:\\app\\app.exe": disk_bytes(APP)}
REFUSAL = "Access is denied; run it as administrator (processes that Windows protects stay closed)"
RUNNING = (RunningProcess(4, "System"), RunningProcess(700, "app.exe"), RunningProcess(701, "App.exe"))


def process_machine(opened: Opened | OSError, files: Mapping[str, bytes] = FILES) -> Machine:
    return Machine(files, opened={700: opened}, running=RUNNING)


def test_a_process_is_an_input_with_its_modules_and_what_it_is() -> None:
    opened = Opened({APP_BASE: memory_bytes(APP)}, [APP_IMAGE])
    records = list(read_live_processes("700", process_machine(opened)))
    assert records[0] == Input(
        "app.exe (700)",
        InputKind.PROCESS,
        {
            **Machine().details(),
            "process_id": 700,
            "executable": "C:\\app\\app.exe",
            "bits": 64,
        },
    )
    (module,) = modules_of(records)
    assert (module.name, module.path, module.base, module.process) == (
        "app.exe",
        "C:\\app\\app.exe",
        APP_BASE,
        "app.exe (700)",
    )
    assert module.image == ImageKey("app.exe", 0x5B2C3D4E, 0x20000)
    assert [pdb.key for pdb in module.pdbs] == [PdbKey("app.pdb", GUID, 3)]
    assert records[-1] == ProcessSummary(700, "app.exe", "C:\\app\\app.exe", 1)
    assert opened.is_closed


def test_the_build_in_memory_counts_where_the_file_was_replaced() -> None:
    newer = {"C:\\app\\app.exe": disk_bytes(plan("new.pdb", 0x66666666, 0x20000))}
    machine = process_machine(Opened({APP_BASE: memory_bytes(APP)}, [APP_IMAGE]), newer)
    (module,) = modules_of(read_live_processes("700", machine))
    assert module.image == ImageKey("app.exe", 0x5B2C3D4E, 0x20000)
    assert [pdb.key.name for pdb in module.pdbs] == ["app.pdb"]
    assert module.problem is not None
    assert "another build" in module.problem
    assert "the one in memory" in module.problem


def test_a_module_without_a_file_is_known_by_memory_and_one_without_memory_by_its_file() -> None:
    in_memory = modules_of(
        read_live_processes("700", process_machine(Opened({APP_BASE: memory_bytes(APP)}, [APP_IMAGE]), {}))
    )
    on_disk = modules_of(read_live_processes("700", process_machine(Opened({}, [APP_IMAGE]))))
    assert in_memory == on_disk
    assert on_disk[0].problem is None


def test_a_module_with_neither_says_both_reasons() -> None:
    (module,) = modules_of(read_live_processes("700", process_machine(Opened({}, [APP_IMAGE]), {})))
    assert module.image is None
    assert module.problem is not None
    assert "ReadProcessMemory" in module.problem
    assert "app.exe cannot be read" in module.problem


def test_a_file_of_another_size_than_the_unreadable_module_is_not_taken_for_it() -> None:
    (module,) = modules_of(read_live_processes("700", process_machine(Opened({}, [replace(APP_IMAGE, size=0x9000)]))))
    assert module.image is None
    assert module.problem is not None
    assert "another build" in module.problem


def test_the_mapped_file_is_read_where_a_32_bit_process_names_another() -> None:
    files = {f"{ROOT}\\SysWOW64\\ws2_32.dll": disk_bytes(APP), f"{ROOT}\\System32\\ws2_32.dll": disk_bytes(HAL)}
    image = LoadedImage(
        f"{ROOT}\\System32\\ws2_32.dll",
        DLL_BASE,
        0x20000,
        file="\\Device\\HarddiskVolume3\\Windows\\SysWOW64\\ws2_32.dll",
    )
    (module,) = modules_of(read_live_processes("700", process_machine(Opened({}, [image], bits=32), files)))
    assert module.image == ImageKey("ws2_32.dll", 0x5B2C3D4E, 0x20000)


def test_a_module_that_both_lists_of_a_32_bit_process_hold_comes_once() -> None:
    opened = Opened({APP_BASE: memory_bytes(APP)}, [APP_IMAGE, APP_IMAGE], bits=32)
    records = list(read_live_processes("700", process_machine(opened)))
    assert len(modules_of(records)) == 1


def test_of_a_protected_process_the_executable_is_read_and_the_refusal_said() -> None:
    machine = process_machine(Opened({}, PermissionError(13, "Access is denied")))
    records = list(read_live_processes("700", machine))
    assert [module.image for module in modules_of(records)] == [ImageKey("app.exe", 0x5B2C3D4E, 0x20000)]
    assert unreadable_in(records) == [f"its modules cannot be listed, its executable alone was read: {REFUSAL}"]


def test_a_process_that_cannot_be_opened_says_what_to_do() -> None:
    records = list(read_live_processes("700", process_machine(PermissionError(13, "Access is denied"))))
    assert unreadable_in(records) == [f"Windows does not let it be opened: {REFUSAL}"]
    nameless = Opened({}, PermissionError(13, "Access is denied"), executable=None)
    assert unreadable_in(read_live_processes("700", process_machine(nameless))) == [
        f"its modules cannot be listed: {REFUSAL}"
    ]


@pytest.mark.parametrize(
    ("wanted", "ids"),
    [
        pytest.param("700", [700], id="an id"),
        pytest.param("app.exe", [700, 701], id="a name is all of that name"),
        pytest.param("APP", [700, 701], id="without its suffix, in any letter case"),
        pytest.param("system", [4], id="a name without a suffix"),
    ],
)
def test_a_process_is_named_by_id_or_name(wanted: str, ids: list[int]) -> None:
    assert [process.id for process in find_processes(wanted, RUNNING)] == ids


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        pytest.param("7", "no process has this id", id="an id"),
        pytest.param("9" * 5000, "no process has this id", id="a number of no end"),
        pytest.param("ap.exe", "no process is called so; there are App.exe", id="a slip"),
        pytest.param("sys", "no process is called so; there are System", id="a part of a name"),
        pytest.param("notepad.exe", "no process is called so", id="nothing like it"),
    ],
)
def test_a_process_that_does_not_run_is_an_error_with_names_like_it(wanted: str, said: str) -> None:
    with pytest.raises(UnknownFormat) as caught:
        find_processes(wanted, RUNNING)
    assert caught.value.problem == said


@given(st.binary(max_size=400), st.binary(max_size=400), st.integers(0, 2**64 - 1), st.integers(0, 2**32 - 1))
def test_whatever_lies_in_memory_and_on_disk_is_no_more_than_a_problem(
    memory: bytes, disk: bytes, base: int, size: int
) -> None:
    image = LoadedImage("C:\\app\\app.exe", base, size)
    machine = process_machine(Opened({base: b"MZ" + memory}, [image]), {"C:\\app\\app.exe": b"MZ" + disk})
    assert len(modules_of(read_live_processes("700", machine))) == 1


# --- Names of the kernel's as paths


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("\\SystemRoot\\system32\\ntoskrnl.exe", f"{ROOT}\\system32\\ntoskrnl.exe"),
        ("\\SYSTEMROOT\\System32\\win32k.sys", f"{ROOT}\\System32\\win32k.sys"),
        ("\\??\\C:\\tools\\x.sys", "C:\\tools\\x.sys"),
        ("\\??\\UNC\\server\\share\\x.sys", "\\\\server\\share\\x.sys"),
        ("\\??\\Volume{0-1}\\x.sys", "\\\\?\\Volume{0-1}\\x.sys"),
        ("\\Device\\HarddiskVolume3\\Windows\\x.dll", "C:\\Windows\\x.dll"),
        ("\\Device\\HarddiskVolume1\\x.dll", "D:\\x.dll"),
        ("\\device\\harddiskvolume1\\x.dll", "D:\\x.dll"),
        ("\\Device\\HarddiskVolume12\\x.dll", "\\\\?\\GLOBALROOT\\Device\\HarddiskVolume12\\x.dll"),
        ("\\Device\\Mup\\server\\share\\x.dll", "\\\\server\\share\\x.dll"),
        ("\\Device\\LanmanRedirector\\;X:00000000000abc\\server\\share\\x.dll", "\\\\server\\share\\x.dll"),
        ("\\WINDOWS\\system32\\x.sys", "C:\\WINDOWS\\system32\\x.sys"),
        ("System32\\drivers\\x.sys", f"{ROOT}\\System32\\drivers\\x.sys"),
        ("x.sys", f"{DRIVERS}\\x.sys"),
        ("C:\\x.dll", "C:\\x.dll"),
        ("\\\\server\\share\\x.dll", "\\\\server\\share\\x.dll"),
        (f"C:\\{'a' * 300}\\x.dll", f"\\\\?\\C:\\{'a' * 300}\\x.dll"),
    ],
)
def test_what_the_kernel_calls_a_file_becomes_its_path(name: str, path: str) -> None:
    assert file_path(name, PLACES) == path


def test_a_32_bit_python_reads_the_true_system_folder() -> None:
    redirected = replace(PLACES, is_redirected=True)
    assert file_path("\\SystemRoot\\System32\\drivers\\x.sys", redirected) == f"{ROOT}\\Sysnative\\drivers\\x.sys"
    assert file_path("\\SystemRoot\\SysWOW64\\x.dll", redirected) == f"{ROOT}\\SysWOW64\\x.dll"


@given(st.text(max_size=400))
def test_any_name_of_a_file_is_some_path(name: str) -> None:
    file_path(name, PLACES)


# --- On other systems


@pytest.mark.skipif(sys.platform == "win32", reason="of other systems alone")
@pytest.mark.parametrize("options", [("--live",), ("--pid", "app.exe")], ids=["live", "pid"])
@pytest.mark.parametrize("command", ["scan", "check", "warm"])
def test_elsewhere_the_command_line_says_what_to_do(command: str, options: tuple[str, ...]) -> None:
    done = run(command, *options)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"symcache: {options[0]} asks the Windows machine that it runs on; here, give a dump of one\n"


@pytest.mark.skipif(sys.platform == "win32", reason="of other systems alone")
@pytest.mark.parametrize("source", [LiveKernel(), LiveProcess("app.exe")], ids=["live", "pid"])
async def test_elsewhere_programs_get_an_unreadable_input(source: LiveKernel | LiveProcess) -> None:
    (record,) = read_input(source)
    assert isinstance(record, Unreadable)
    assert record.path == source.path
    assert "only a Windows machine" in record.problem
    scan = await SymbolCache(load_config(environ={})).scan(source)
    assert scan.unreadable == (record,)


# --- On Windows


@contextmanager
def running(variable: str) -> Iterator[tuple[Path, list[str]]]:
    """Run the program of tests/support/live, which the variable names; return it and what it printed."""
    program = os.environ.get(variable, "")
    skip_without("mingw", bool(program), "mingw did not compile tests/support/live for this Windows")
    with subprocess.Popen(
        [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, encoding="utf-8"
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said: list[str] = []
        try:
            while not said or not said[-1].startswith("ready"):
                line = process.stdout.readline()
                assert line, said
                said.append(line.rstrip("\r\n"))
            yield Path(program), said
        finally:
            process.stdin.close()
            process.wait(60)


def folded(path: str) -> str:
    return str(PureWindowsPath(path)).lower()


@only_windows
@pytest.mark.parametrize("variable", ["SYMCACHE_TEST_MODULES", "SYMCACHE_TEST_MODULES32"], ids=["64-bit", "32-bit"])
def test_a_processs_modules_are_those_that_it_lists_itself(variable: str) -> None:
    if variable.endswith("32") and variable not in os.environ:
        pytest.skip("there is no 32-bit compiler, or this Windows runs no 32-bit programs")
    with running(variable) as (program, said):
        wanted = said[-1].split()[1]
        document = run_json("scan", "--pid", wanted)
        by_name = run_json("scan", "--pid", program.name)
    listed = [line.split(" ", 4)[1:] for line in said if line.startswith("module ")]
    # The snapshot of a 64-bit process knows of no 32-bit list; a 32-bit one sees its own modules alone.
    found = {module["base"]: module for module in document["modules"]}
    assert len(listed) > 2
    for base, size, stamp, path in listed:
        module = found[f"0x{base}"]
        assert folded(module["path"]) == folded(path)
        assert module["image"]["timestamp"] == int(stamp, 16)
        assert module["image"]["size_of_image"] == int(size, 16)
    if not variable.endswith("32"):
        assert len(found) == len(listed)
    assert document["processes"][0]["id"] == int(wanted)
    assert document["inputs"][0]["details"]["bits"] == (32 if variable.endswith("32") else 64)
    assert [each["path"] for each in by_name["inputs"]] == [f"{program.name} ({wanted})"]


@only_windows
def test_drivers_are_those_that_the_system_lists() -> None:
    with running("SYMCACHE_TEST_MODULES") as (_, said):
        document = run_json("scan", "--live")
    listed = {tuple(line.split(" ", 2)[1:]) for line in said if line.startswith("driver ")}
    assert listed
    assert {(module["base"][2:], module["path"]) for module in document["modules"]} == listed
    assert document["modules"][0]["name"] == "ntoskrnl.exe"
    assert document["modules"][0]["image"]["index"].startswith("ntoskrnl.exe/")


@only_windows
def test_a_file_that_was_replaced_after_it_was_loaded_is_another_build(tmp_path: Path) -> None:
    with running("SYMCACHE_TEST_MODULES") as (program, _):
        original = program.read_bytes()
    at = int.from_bytes(original[0x3C:0x40], "little") + 8
    copy = tmp_path / "replaced.exe"
    copy.write_bytes(original)
    with subprocess.Popen([str(copy)], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if line.startswith(b"ready"):
                    break
            # An update renames what is in use, and puts the new file in its place; its path now leads to that.
            copy.rename(tmp_path / "old.exe")
            copy.write_bytes(original[:at] + b"\x01\x02\x03\x04" + original[at + 4 :])
            document = run_json("scan", "--pid", str(process.pid))
        finally:
            process.stdin.close()
            process.wait(60)
    module = document["modules"][0]
    assert module["image"]["timestamp"] == int.from_bytes(original[at : at + 4], "little")


@only_windows
def test_check_and_warm_take_them_too(tmp_path: Path) -> None:
    options = ("--store", tmp_path / "store", "-y", f"srv*{tmp_path / 'store'}", "--allow-missing")
    document = run_json("check", "--live", *options)
    assert document["summary"]["wanted"] > 0
    done = run("warm", "--live", "--pid", "no such process.exe", *options)
    assert done.returncode == 4
    assert "--pid no such process.exe: no process is called so" in done.stdout
