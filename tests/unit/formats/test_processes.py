from __future__ import annotations

from dataclasses import replace

import pytest
from support.kernels import kernel_plan
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import EprocessPlan, KernelPlan, build_machine
from support.synth.pagetables import Paging

from symcache.formats.dump.header import read_dump_header
from symcache.formats.dump.kernel import KernelSpace, open_kernel_space
from symcache.formats.dump.physical import PhysicalMemory, read_dump_body
from symcache.formats.dump.processes import KernelLayout, Process, find_kernel_layout, read_process, walk_processes
from symcache.formats.pdb.types import Structure
from symcache.formats.view import BytesView


def space_of(plan: KernelPlan) -> KernelSpace:
    view = BytesView(dump_bytes(build_machine(plan), DumpPlan(DumpKind.BITMAP_FULL)))
    header = read_dump_header(view)
    pages = read_dump_body(view, header).pages
    assert pages is not None
    return open_kernel_space(PhysicalMemory(view, pages), header)


def layout_of(plan: KernelPlan) -> KernelLayout | None:
    kernel = space_of(plan)
    walk = walk_processes(kernel.space, kernel.active_processes_va, kernel.pointer_size)
    return find_kernel_layout(kernel.space, walk, kernel.pointer_size, kernel.debugger_data, kernel.loaded_modules_va)


@pytest.mark.parametrize("paging", [Paging.X86, Paging.PAE, Paging.X64, Paging.LA57])
@pytest.mark.parametrize("build", [7601, 19041])
def test_known_layouts_are_recognised(paging: Paging, build: int) -> None:
    layout = layout_of(replace(kernel_plan(paging, build=build), debugger_data=False))
    assert layout is not None
    assert not layout.guessed


# Windows 10 (17763) and 11 (26100) for x64; then offsets that no Windows has.
OTHERS = [
    EprocessPlan(links=0x2E8, image_file_name=0x450, peb=0x3F8, wow64_process=0x428, size=0x880),
    EprocessPlan(links=0x1D8, image_file_name=0x338, peb=0x2E0, wow64_process=0x310, size=0x840),
    EprocessPlan(links=0x5F0, image_file_name=0x6C1, peb=0x610, wow64_process=0x640, size=0xA00),
]


@pytest.mark.parametrize("eprocess", OTHERS)
@pytest.mark.parametrize("paging", [Paging.X64, Paging.ARM64])
@pytest.mark.parametrize("debugger_data", [True, False])
def test_unknown_layouts_are_found_in_memory(eprocess: EprocessPlan, paging: Paging, debugger_data: bool) -> None:
    layout = layout_of(replace(kernel_plan(paging), eprocess=eprocess, debugger_data=debugger_data))
    assert layout == KernelLayout(
        links=eprocess.links,
        image_file_name=eprocess.image_file_name,
        peb=eprocess.peb,
        directory_table_base=0x28,
        wow64_process=eprocess.wow64_process,
        guessed=True,
    )


def test_a_layout_is_made_of_the_pdbs_structures() -> None:
    fields = {"Pcb": 0, "ActiveProcessLinks": 0x448, "ImageFileName": 0x5A8, "Peb": 0x550, "WoW64Process": 0x580}
    structures = {
        "_EPROCESS": Structure("_EPROCESS", 0xA40, fields),
        "_KPROCESS": Structure("_KPROCESS", 0x438, {"DirectoryTableBase": 0x28}),
    }
    assert KernelLayout.from_structures(structures) == KernelLayout(0x448, 0x5A8, 0x550, 0x28, 0x580)
    del fields["Peb"]
    assert KernelLayout.from_structures(structures) is None
    assert KernelLayout.from_structures({}) is None


def test_processes_read_back() -> None:
    plan = kernel_plan()
    kernel = space_of(plan)
    walk = walk_processes(kernel.space, kernel.active_processes_va, 8)
    layout = KernelLayout(0x448, 0x5A8, 0x550, 0x28, 0x580)
    found = [read_process(kernel.space, links, layout, 8) for links in walk.entries]
    assert [(process.id, process.name) for process in found] == [
        (4, "System"),
        *((process.id, process.name[:14]) for process in plan.processes),
    ]
    assert [bool(process.peb) for process in found] == [False, False, True, True, True]
    assert [bool(process.wow64_process) for process in found] == [False] * 4 + [True]


@pytest.mark.parametrize(
    ("wanted", "taken"),
    [("4120", True), ("412", False), ("OLDPROGRAM32.EXE", True), ("oldprogram32.e", True), ("old.exe", False)],
)
def test_names_are_compared_as_far_as_the_kernel_keeps_them(wanted: str, taken: bool) -> None:
    assert Process(4120, "OldProgram32.e", 0, 0, 0).is_named(wanted) == taken
