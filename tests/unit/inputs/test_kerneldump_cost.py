"""What reading a dump costs: bytes and memory depend on the modules, not on the size of the dump."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.bounds import measure
from support.kernels import expected, found, kernel_plan, library
from support.mutation import mutants
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes, write_dump
from support.synth.kernelmemory import ProcessPlan, build_machine
from support.synth.pagetables import Paging
from support.synth.triagedump import TriagePlan, triage_bytes
from support.views import CountingView as CountedView

from symcache.formats.view import BytesView, FileView
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.records import Module, ProcessSelection, Unreadable

if TYPE_CHECKING:
    from collections.abc import Callable

    from support.synth.kernelmemory import KernelPlan

GIB = 1 << 30
PAGES_PER_GIB = GIB >> 12
PLACE = (0xFFFFF80000100000, 0, 0x9000)  # base, entry point and size

LIST_IN_A_PROCESS = """
import json, resource, sys, time
from pathlib import Path
from symcache.formats.view import FileView
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.records import Module

started = time.perf_counter()
with FileView(sys.argv[1]) as view:
    count = sum(isinstance(record, Module) and not record.unloaded for record in read_kernel_dump(view, "x"))
seconds = time.perf_counter() - started
status = Path("/proc/self/status")
if status.exists():  # what getrusage says there counts the process that started this one, too
    peak = next(int(line.split()[1]) << 10 for line in status.read_text().splitlines() if line.startswith("VmHWM"))
else:
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
print(json.dumps({"modules": count, "peak_bytes": peak, "seconds": seconds}))
"""


class CountingView:
    """Counts the bytes and the calls that a reader asks for."""

    def __init__(self, path: Path) -> None:
        self._file = FileView(path)
        self.size = self._file.size
        self.read_bytes = 0
        self.reads = 0

    def read(self, offset: int, length: int) -> bytes:
        self.read_bytes += length
        self.reads += 1
        return self._file.read(offset, length)

    def close(self) -> None:
        self._file.close()


def write_sparse(path: Path, size_gib: int, kind: DumpKind, plan: KernelPlan) -> None:
    """Write a dump of a machine with that much memory, whose kernel lies in its upper half."""
    top = size_gib * PAGES_PER_GIB
    source = build_machine(replace(plan, first_pfn=top // 2))
    memory = ((1, 0x9E), (0x100, top // 2 - 0x100), (top // 2, top // 2))
    with path.open("wb") as file:
        write_dump(file, source, DumpPlan(kind, memory))


def cost(path: Path) -> tuple[int, int]:
    view = CountingView(path)
    try:
        modules = [record for record in read_kernel_dump(view, "x") if isinstance(record, Module)]
    finally:
        view.close()
    assert len(modules) > 5
    return view.read_bytes, view.reads


def test_listing_a_full_dump_reads_little_more_than_its_modules_headers(tmp_path: Path) -> None:
    plan = kernel_plan(extra=200)
    write_sparse(tmp_path / "full.dmp", 4, DumpKind.FULL, plan)
    read_bytes, _ = cost(tmp_path / "full.dmp")
    headers = len(plan.drivers) * 0x400
    assert read_bytes < (1 << 20) + headers


@pytest.mark.skipif(sys.platform == "win32", reason="files are not sparse there without asking")
@pytest.mark.parametrize("kind", [DumpKind.FULL, DumpKind.RANGES_COMPLETE])
def test_a_dump_of_64_gib_costs_what_one_of_1_gib_does(kind: DumpKind, tmp_path: Path) -> None:
    costs = []
    for size_gib in (1, 64):
        path = tmp_path / f"{size_gib}.dmp"
        write_sparse(path, size_gib, kind, kernel_plan())
        costs.append(cost(path))
    (small_bytes, small_reads), (large_bytes, large_reads) = costs
    assert large_bytes <= small_bytes + 0x10000
    assert large_reads <= small_reads + 16


@pytest.mark.skipif(sys.platform == "win32", reason="files are not sparse there without asking")
def test_a_bitmap_of_64_gib_costs_its_own_length_more(tmp_path: Path) -> None:
    path = tmp_path / "bitmap.dmp"
    write_sparse(path, 64, DumpKind.BITMAP_FULL, kernel_plan())
    read_bytes, _ = cost(path)
    assert read_bytes < (64 * PAGES_PER_GIB // 8) + (2 << 20)


@pytest.mark.skipif(sys.platform == "win32", reason="peak memory is asked for another way there")
@pytest.mark.parametrize("kind", [DumpKind.FULL, DumpKind.BITMAP_FULL, DumpKind.RANGES_COMPLETE])
def test_a_dump_of_64_gib_is_listed_in_little_memory(kind: DumpKind, tmp_path: Path) -> None:
    path = tmp_path / "MEMORY.DMP"
    write_sparse(path, 64, kind, kernel_plan())
    answer = subprocess.run(
        [sys.executable, "-c", LIST_IN_A_PROCESS, str(path)],
        check=True,
        capture_output=True,
        cwd=Path(__file__).parents[3],
        text=True,
    )
    result = json.loads(answer.stdout)
    assert result["modules"] == len(kernel_plan().drivers)
    assert result["peak_bytes"] < 150 << 20


def test_a_bitmap_of_single_pages_takes_no_object_for_each(tmp_path: Path) -> None:
    """Memory that falls to pieces is what a map of runs would choke on."""
    source = build_machine(kernel_plan())
    dropped = frozenset(range(0x1000, 0x41000, 2))
    everything = ((0x100, 0x40F00),)
    path = tmp_path / "MEMORY.DMP"
    with path.open("wb") as file:
        write_dump(file, source, DumpPlan(DumpKind.BITMAP_FULL, everything, dropped=dropped))
    with FileView(path) as view:
        records = list(read_kernel_dump(view, "x"))
    modules = [record for record in records if isinstance(record, Module) and not record.unloaded]
    assert [found(module) for module in modules] == [expected(each) for each in source.plan.drivers]


def test_page_tables_that_lead_everywhere_to_the_same_pages_cost_few_reads() -> None:
    source = build_machine(kernel_plan())
    physical = source.kernel.physical
    tables = [source.kernel.root >> 12, *(physical.allocate() for _ in range(3)), physical.allocate()]
    for table, following in pairwise(tables):
        physical.write(table << 12, (following << 12 | 0x63).to_bytes(8, "little") * 512)
    physical.write(tables[-1] << 12, b"MZ")
    view = CountedView(BytesView(dump_bytes(source, DumpPlan(DumpKind.BITMAP_KERNEL))))
    _, *rest = read_kernel_dump(view, "x")
    assert [record.problem for record in rest if isinstance(record, Unreadable)]
    assert len(view.reads) < 10_000


def test_a_list_longer_than_any_of_windows_is_cut_and_told() -> None:
    source = build_machine(kernel_plan())
    at, size = source.pool(0xA0 * 5000), 0xA0
    body = source.kernel
    links = [source.loaded_modules_va, *range(at, at + size * 5000, size), source.loaded_modules_va]
    for before, here, after in zip(links, links[1:], links[2:], strict=False):
        body.write(here, struct.pack("<QQ", after, before) + bytes(0x20) + struct.pack("<QQI", *PLACE))
    body.write(links[0], struct.pack("<QQ", links[1], links[-2]))
    records = list(read_kernel_dump(BytesView(dump_bytes(source, DumpPlan(DumpKind.BITMAP_KERNEL))), "x"))
    problems = [record.problem for record in records if isinstance(record, Unreadable)]
    assert sum(isinstance(record, Module) and not record.unloaded for record in records) == 2048
    assert ["more than 2048 entries" in problem for problem in problems] == [True]


def test_a_process_lists_no_more_modules_than_the_dump_can_hold() -> None:
    program = library("a.exe", "a.pdb")
    source = build_machine(replace(kernel_plan(), processes=(ProcessPlan(4711, "a.exe", (program,)),)))
    space = source.spaces[4711]
    loader_at = space.translate(0x7FF7FFFDE000 + 0x18)
    assert loader_at is not None
    head = int.from_bytes(source.physical.read(loader_at, 8), "little") + 0x10
    count, at, size = 9000, 0x10000000, 0x60
    links = [head, *range(at, at + size * count, size), head]
    for number, (before, here, after) in enumerate(zip(links, links[1:], links[2:], strict=False)):
        place = struct.pack("<QQI", 0x20000000 + number * 0x1000, 0, 0x1000)
        space.write(here, struct.pack("<QQ", after, before) + bytes(0x20) + place)
    space.write(head, struct.pack("<QQ", links[1], links[-2]))
    dump = dump_bytes(source, DumpPlan(DumpKind.BITMAP_FULL))
    records = [*read_kernel_dump(BytesView(dump), "x", user=ProcessSelection())]
    listed = [record for record in records if isinstance(record, Module) and record.process]
    assert len(source.physical.pages) * 8 < len(listed) <= len(source.physical.pages) * 16 < count
    assert any("the rest is left out" in record.problem for record in records if isinstance(record, Unreadable))


SEEDS = [
    pytest.param(paging, kind, id=f"{paging.name}-{kind.name}")
    for paging, kind in [
        (Paging.X86, DumpKind.FULL),
        (Paging.X86, DumpKind.BITMAP_KERNEL),
        (Paging.PAE, DumpKind.SUMMARY),
        (Paging.X64, DumpKind.FULL),
        (Paging.X64, DumpKind.BITMAP_KERNEL),
        (Paging.X64, DumpKind.RANGES_KERNEL),
        (Paging.LA57, DumpKind.BITMAP_FULL),
        (Paging.LA57, DumpKind.RANGES_KERNEL_AND_USER),
        (Paging.ARM64, DumpKind.RANGES_COMPLETE),
        (Paging.X64, DumpKind.TRIAGE),
        (Paging.X86, DumpKind.TRIAGE),
    ]
]


@pytest.mark.slow
@pytest.mark.parametrize(("paging", "kind"), SEEDS)
def test_no_damage_takes_long_or_much(
    paging: Paging, kind: DumpKind, record_property: Callable[[str, object], None]
) -> None:
    source = build_machine(kernel_plan(paging))
    seed = (
        triage_bytes(source, TriagePlan(with_image=frozenset([1])))
        if kind is DumpKind.TRIAGE
        else dump_bytes(source, DumpPlan(kind))
    )
    cost = measure(
        mutants(seed, 100_000, rng_seed=7, hot=0x4000),
        lambda dump: [*read_kernel_dump(BytesView(dump), "x", user=ProcessSelection())],
    )
    cost.check(record_property)
