from __future__ import annotations

import os
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePath
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.kernels import kernel_plan
from support.mutation import mutants
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import build_machine
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump
from support.synth.pagetables import Paging
from support.synth.pe import CodeViewPlan, ImagePlan, disk_bytes, memory_bytes
from support.synth.triagedump import TriagePlan, triage_bytes
from support.synth.version import VersionPlan, fixed_bytes, version_bytes
from support.views import CountingView

from symcache.formats.pe.version import VersionInfo
from symcache.formats.view import BytesView, FileView
from symcache.identity import ImageKey
from symcache.inputs.detect import InputOptions, read_input
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.records import Module, ProcessSelection
from symcache.inputs.versions import read_versions

if TYPE_CHECKING:
    from support.synth.kernelmemory import DriverPlan, KernelPlan

STAMP = 0x4549B18E
VIEW = CodeViewPlan("a.pdb", UUID(int=1))
NUMBERS = ((1, 2, 3, 4), (5, 6, 7, 8))


def made_by(company: str, image: ImagePlan | None = None) -> ImagePlan:
    version = version_bytes(VersionPlan({"040904b0": {"CompanyName": company}}))
    return replace(image or ImagePlan(STAMP, 0x9000), versions=((1, 0x409, version),))


def info(company: str) -> VersionInfo:
    return VersionInfo(company=company, file_numbers=NUMBERS[0], product_numbers=NUMBERS[1])


def modules_of(path: Path) -> list[Module]:
    records = read_input(path, InputOptions(ProcessSelection()))
    return [record for record in records if isinstance(record, Module)]


def companies(path: Path, modules: list[Module] | None = None) -> dict[str, str | None]:
    found = read_versions(path, modules_of(path) if modules is None else modules)
    return {module.name: version.company for module, version in found.items()}


def put(path: Path, data: bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data)
    return path


# Images.


def test_an_image_says_who_made_it(tmp_path: Path) -> None:
    path = put(tmp_path / "a.sys", disk_bytes(made_by("Example Ltd")))
    (module,) = modules_of(path)
    assert module.version is None
    assert read_versions(path, [module]) == {module: info("Example Ltd")}
    assert read_versions(str(path), [module, module]) == {module: info("Example Ltd")}


def test_files_of_a_folder_say_who_made_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path / "drivers" / "a.sys", disk_bytes(made_by("A")))
    put(tmp_path / "drivers" / "below" / "b.sys", disk_bytes(made_by("B")))
    put(tmp_path / "drivers" / "plain.sys", disk_bytes(ImagePlan(STAMP)))
    assert companies(tmp_path / "drivers") == {"a.sys": "A", "b.sys": "B"}
    monkeypatch.chdir(tmp_path / "drivers")
    assert companies(Path()) == {"a.sys": "A", "b.sys": "B"}


def test_only_what_is_asked_for_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a.sys", "b.sys", "c.sys"):
        put(tmp_path / name, disk_bytes(made_by(name)))
    modules = modules_of(tmp_path)
    opened: list[str] = []

    class Watched(FileView):
        def __init__(self, path: Path | str) -> None:
            opened.append(PurePath(path).name)
            super().__init__(path)

    monkeypatch.setattr("symcache.inputs.versions.FileView", Watched)
    assert companies(tmp_path, modules[1:2]) == {"b.sys": "b.sys"}
    assert opened == ["b.sys"]


@pytest.mark.parametrize("path", ["{outside}", "{folder}/../outside.sys", "//server/share/x.sys", "\0"])
def test_a_path_that_a_folder_does_not_hold_is_not_opened(path: str, tmp_path: Path) -> None:
    outside = put(tmp_path / "outside.sys", disk_bytes(made_by("Outside")))
    put(tmp_path / "folder" / "a.sys", disk_bytes(made_by("A")))
    module = Module("outside.sys", path.format(outside=outside, folder=tmp_path / "folder"))
    assert read_versions(tmp_path / "folder", [module]) == {}


def test_a_path_that_a_dump_states_is_never_opened(tmp_path: Path) -> None:
    inside = put(tmp_path / "a.sys", disk_bytes(made_by("Someone")))
    plan = MinidumpPlan([MinidumpModule(str(inside), 0x140000000, 0x9000, STAMP)])
    put(tmp_path / "x.dmp", build_minidump(plan))
    (image, listed) = modules_of(tmp_path)
    assert listed.path == image.path
    assert read_versions(tmp_path, [listed]) == {}


def test_an_image_that_was_replaced_says_nothing(tmp_path: Path) -> None:
    path = put(tmp_path / "a.sys", disk_bytes(made_by("Before")))
    (module,) = modules_of(path)
    put(path, disk_bytes(made_by("After", ImagePlan(STAMP + 1, 0x9000))))
    assert read_versions(path, [module]) == {}


# Dumps of processes.

BASE = 0x7FF8_0000_0000
LISTED = MinidumpModule("C:\\app\\app.dll", BASE, 0x9000, STAMP)


def minidump(tmp_path: Path, listed: MinidumpModule, memory: bytes) -> Path:
    return put(tmp_path / "x.dmp", build_minidump(MinidumpPlan([listed], memory64=[(listed.base_va, memory)])))


def test_an_image_in_a_minidump_says_who_made_it(tmp_path: Path) -> None:
    path = minidump(tmp_path, LISTED, memory_bytes(made_by("Example Ltd")))
    assert companies(path) == {"app.dll": "Example Ltd"}
    odd = minidump(tmp_path, LISTED, memory_bytes(made_by("Example Ltd", ImagePlan(STAMP, 0x8F80))))
    assert companies(odd) == {"app.dll": "Example Ltd"}
    other = minidump(tmp_path, replace(LISTED, timestamp=STAMP + 1), memory_bytes(made_by("Example Ltd")))
    assert companies(other) == {}


def test_what_the_list_states_is_kept_where_the_image_was_not_captured(tmp_path: Path) -> None:
    listed = replace(LISTED, version=fixed_bytes(*NUMBERS, flags=8))
    numbers = VersionInfo(file_numbers=NUMBERS[0], product_numbers=NUMBERS[1], is_private=True)
    path = minidump(tmp_path, listed, memory_bytes(made_by("x"))[:0x3000])
    (module,) = modules_of(path)
    assert read_versions(path, [module]) == {module: numbers}
    path = minidump(tmp_path, listed, memory_bytes(made_by("Example Ltd")))
    (module,) = modules_of(path)
    assert read_versions(path, [module]) == {module: info("Example Ltd")}


# Dumps of the kernel.


def versioned(plan: KernelPlan) -> KernelPlan:
    def name(each: DriverPlan) -> DriverPlan:
        return replace(each, image=made_by(f"Maker of {each.name}", each.image))

    processes = tuple(
        replace(each, modules=tuple(map(name, each.modules)), modules32=tuple(map(name, each.modules32)))
        for each in plan.processes
    )
    return replace(plan, drivers=tuple(map(name, plan.drivers)), processes=processes)


@pytest.mark.parametrize("paging", [Paging.X64, Paging.PAE, Paging.ARM64])
def test_every_module_of_a_complete_dump_says_who_made_it(paging: Paging, tmp_path: Path) -> None:
    path = put(tmp_path / "x.dmp", dump_bytes(build_machine(versioned(kernel_plan(paging))), DumpPlan()))
    modules = [module for module in modules_of(path) if not module.unloaded]
    assert {module.process is None for module in modules} == {True, False}
    assert "win32k.sys" in {module.name for module in modules}  # of a session
    found = read_versions(path, modules)
    assert {module: version.company for module, version in found.items()} == {
        module: f"Maker of {module.name}" for module in modules
    }


def test_a_page_that_is_not_there_costs_its_module_alone(tmp_path: Path) -> None:
    machine = build_machine(versioned(kernel_plan()))
    lost = machine.kernel.pfn_of(machine.bases[3] + 0x3000)
    dump = dump_bytes(machine, DumpPlan(DumpKind.BITMAP_KERNEL, dropped=frozenset([lost])))
    path = put(tmp_path / "x.dmp", dump)
    modules = [module for module in modules_of(path) if not module.unloaded and module.process is None]
    assert len(modules) == 7
    assert modules[3] not in read_versions(path, modules)
    assert len(read_versions(path, modules)) == 6


def test_a_triage_dump_says_who_made_what_it_holds(tmp_path: Path) -> None:
    machine = build_machine(versioned(kernel_plan()))
    path = put(tmp_path / "x.dmp", triage_bytes(machine, TriagePlan(with_image=frozenset([1]))))
    assert companies(path) == {"hal.dll": "Maker of hal.dll"}


# What it costs those who do not ask.


def test_a_scan_of_a_folder_reads_no_resources(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plans = [replace(ImagePlan(STAMP + number, 0x9000), code_views=(VIEW,)) for number in range(40)]
    reads: dict[str, list[tuple[str, int, int]]] = {}

    class Counted(FileView):
        def __init__(self, path: Path | str) -> None:
            super().__init__(path)
            self.path = PurePath(path)

        def read(self, offset: int, length: int) -> bytes:
            reads.setdefault(self.path.parent.name, []).append((self.path.name, offset, min(length, 0x400)))
            return super().read(offset, length)

    monkeypatch.setattr("symcache.inputs.folder.FileView", Counted)
    for folder, images in (("plain", plans), ("versioned", [made_by("Example Ltd", plan) for plan in plans])):
        for number, plan in enumerate(images):
            put(tmp_path / folder / f"{number}.sys", disk_bytes(plan))
        assert len(modules_of(tmp_path / folder)) == len(plans)
    assert sorted(reads["plain"]) == sorted(reads["versioned"])
    assert len(reads["plain"]) == len(plans)


@pytest.mark.parametrize("paging", [Paging.X64, Paging.PAE])
def test_a_scan_of_a_dump_reads_no_resources(paging: Paging) -> None:
    def reads(plan: KernelPlan) -> list[int]:
        view = CountingView(BytesView(dump_bytes(build_machine(plan), DumpPlan())))
        for _ in read_kernel_dump(view, "x.dmp"):
            pass
        return sorted(length for _, length in view.reads)

    # Pages of resources come to lie between the others, so that places differ.
    assert reads(kernel_plan(paging)) == reads(versioned(kernel_plan(paging)))


# What is not read, and what is wrong.


def test_a_file_that_is_called_like_standard_input_is_not_taken_for_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = put(tmp_path / "-", disk_bytes(made_by("Someone")))
    (module,) = modules_of(path)
    monkeypatch.chdir(tmp_path)
    assert read_versions("-", [module]) == {}


def test_what_a_log_tells_is_returned_as_it_is() -> None:
    told = Module("a.sys", version=VersionInfo(company="Someone"))
    assert read_versions("-", [told, Module("b.sys")]) == {told: VersionInfo(company="Someone")}
    assert read_versions("gone.txt", [told]) == {told: VersionInfo(company="Someone")}


def test_what_cannot_be_read_again_gives_nothing(tmp_path: Path) -> None:
    module = Module("a.sys", str(tmp_path / "a.sys"), image=ImageKey("a.sys", STAMP, 0x9000))
    data = disk_bytes(made_by("A"))
    for source in ("-", data, BytesIO(data), ("a.sys", data), tmp_path / "gone", "a\0b", ""):
        assert read_versions(source, [module]) == {}
    for text in (b"", b"text", f"a.pdb/{1:032X}1/a.pdb\n".encode()):
        assert read_versions(put(tmp_path / "file", text), [module]) == {}


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no named pipes here")
def test_a_pipe_is_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    module = Module("a.sys", str(tmp_path / "pipe"))
    assert read_versions(tmp_path / "pipe", [module]) == {}
    assert read_versions(tmp_path, [module]) == {}


def test_damaged_inputs_raise_nothing(tmp_path: Path) -> None:
    machine = build_machine(versioned(kernel_plan()))
    dumps = [
        dump_bytes(machine, DumpPlan(DumpKind.BITMAP_FULL)),
        build_minidump(MinidumpPlan([LISTED], memory64=[(BASE, memory_bytes(made_by("A")))])),
        disk_bytes(made_by("A")),
    ]
    path = tmp_path / "x"
    for data in dumps:
        modules = modules_of(put(path, data))
        assert read_versions(path, modules)
        for mutant in mutants(data, 60, hot=0x2000):
            read_versions(put(path, mutant), modules)
