from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.kernels import kernel_plan
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import EprocessPlan, build_machine
from support.synth.pdb import NativePdbSpec, StructureLayout, make_pdb

from symcache.config import Config, load_config
from symcache.identity import PdbKey, parse_index
from symcache.inputs.detect import InputOptions, read_input
from symcache.inputs.records import KernelPdbWanted, Module, ProcessSelection, Unreadable
from symcache.inputs.usermodules import read_kernel_layout
from symcache.stores.disk import DiskSource
from symcache.stores.source import SymbolSource
from symcache.warm.local import LocalRun
from symcache.warm.plan import Plan
from symcache.warm.report import State
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream


# As no build has them, so that only the kernel's PDB can tell.
OFFSETS = EprocessPlan(links=0x768, image_file_name=0x8C8, peb=0x870, wow64_process=0x8A0, size=0xB00)


@pytest.fixture
def dump(tmp_path: Path) -> Path:
    path = tmp_path / "MEMORY.DMP"
    machine = build_machine(replace(kernel_plan(), eprocess=OFFSETS))
    path.write_bytes(dump_bytes(machine, DumpPlan(DumpKind.BITMAP_FULL)))
    return path


def kernel_pdb(dump: Path) -> PdbKey:
    kernel = next(record for record in read_input(str(dump), InputOptions(None)) if isinstance(record, Module))
    (pdb,) = kernel.pdbs
    assert isinstance(pdb.key, PdbKey)
    return pdb.key


def with_types(key: PdbKey) -> bytes:
    process = {
        "Pcb": 0,
        "UniqueProcessId": OFFSETS.links - 8,
        "ActiveProcessLinks": OFFSETS.links,
        "Peb": OFFSETS.peb,
        "ImageFileName": OFFSETS.image_file_name,
        "WoW64Process": OFFSETS.wow64_process,
    }
    structures = {
        "_EPROCESS": StructureLayout(OFFSETS.size, process),
        "_KPROCESS": StructureLayout(0x438, {"DirectoryTableBase": 0x28}),
    }
    return make_pdb(NativePdbSpec(key.guid, key.age, structures=structures))


def config_for(tmp_path: Path, upstream: Upstream) -> Config:
    return load_config(environ={}, symbol_path=f"srv*{tmp_path / 'sym'}*{upstream.url}")


@pytest.fixture
def _nothing_is_guessed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("symcache.inputs.usermodules.find_kernel_layout", lambda *_: None)


@pytest.mark.usefixtures("_nothing_is_guessed")
async def test_processes_are_read_by_the_kernels_own_pdb_which_is_fetched_first(
    tmp_path: Path, upstream: Upstream, dump: Path
) -> None:
    nt = kernel_pdb(dump)
    upstream.files[f"/{nt.index}"] = with_types(nt)
    async with SymbolSource(config_for(tmp_path, upstream)) as source:
        with LocalRun(source) as run:
            report = await Warmer(source, run).warm(run.open_inputs([dump], ProcessSelection(("lsass.exe",))))
    by_name = {symbol.index.partition("/")[0]: symbol for symbol in report.symbols if symbol.index}
    assert by_name["ntkrnlmp.pdb"].state is State.FETCHED
    assert {"lsass.pdb", "ntdll.pdb"} <= by_name.keys()
    assert "wntdll.pdb" not in by_name
    assert report.unreadable == ()
    assert len(upstream.asked(f"/{nt.index}")) == 1
    assert sum(report.count().values()) == len(report.symbols) == len({symbol.index for symbol in report.symbols})


@pytest.mark.usefixtures("_nothing_is_guessed")
async def test_without_the_pdb_the_processes_are_reported_as_unreadable(
    tmp_path: Path, upstream: Upstream, dump: Path
) -> None:
    async with SymbolSource(config_for(tmp_path, upstream)) as source:
        with LocalRun(source) as run:
            report = await Warmer(source, run).warm(run.open_inputs([dump], ProcessSelection()))
    assert [item.problem for item in report.unreadable if "processes cannot be read" in item.problem]
    assert any(symbol.index and symbol.index.startswith("hal.pdb/") for symbol in report.symbols)


@pytest.mark.usefixtures("_nothing_is_guessed")
async def test_a_check_reads_processes_by_the_pdb_in_the_store_and_asks_nobody(
    tmp_path: Path, upstream: Upstream, dump: Path
) -> None:
    nt = kernel_pdb(dump)
    source = SymbolSource(config_for(tmp_path, upstream))
    assert source.store is not None
    scratch = source.store.scratch()
    scratch.write_bytes(with_types(nt))
    source.store.publish(scratch, parse_index(nt.index))
    with LocalRun(source) as run:
        report = await Warmer(source, run).check(run.open_inputs([dump], ProcessSelection()))
    source.close()
    assert "wntdll.pdb" in {str(symbol.index).partition("/")[0] for symbol in report.symbols}
    assert upstream.requests == []


@pytest.mark.usefixtures("_nothing_is_guessed")
async def test_a_run_begun_without_a_network_waits_for_the_kernels_pdb(
    tmp_path: Path, upstream: Upstream, dump: Path
) -> None:
    nt = kernel_pdb(dump)
    upstream.files[f"/{nt.index}"] = with_types(nt)
    config = config_for(tmp_path, upstream)
    with LocalRun(DiskSource(config), may_fetch=True) as run:
        records = iter(run.open_inputs([dump], ProcessSelection(("lsass.exe",))))
        assert not run.begin(records)
        assert upstream.requests == []
        async with SymbolSource(config) as source:
            report = await Warmer(source, run).warm(records)
    assert "lsass.pdb" in {str(symbol.index).partition("/")[0] for symbol in report.symbols}
    assert len(upstream.asked(f"/{nt.index}")) == 1


@pytest.mark.usefixtures("_nothing_is_guessed")
async def test_processes_of_a_dump_in_a_folder_are_read_by_the_kernels_pdb(
    tmp_path: Path, upstream: Upstream, dump: Path
) -> None:
    nt = kernel_pdb(dump)
    upstream.files[f"/{nt.index}"] = with_types(nt)
    async with SymbolSource(config_for(tmp_path, upstream)) as source:
        with LocalRun(source) as run:
            report = await Warmer(source, run).warm(run.open_inputs([dump.parent], ProcessSelection(("lsass.exe",))))
    assert "lsass.pdb" in {str(symbol.index).partition("/")[0] for symbol in report.symbols}
    assert report.unreadable == ()


def test_a_reader_that_gets_no_answer_searches_the_memory(tmp_path: Path) -> None:
    path = tmp_path / "MEMORY.DMP"
    path.write_bytes(dump_bytes(build_machine(kernel_plan()), DumpPlan(DumpKind.BITMAP_FULL)))
    records = list(read_input(str(path)))
    (request,) = (record for record in records if isinstance(record, KernelPdbWanted))
    assert request.kernel.name == "ntoskrnl.exe"
    assert request.pdb is None
    assert any(isinstance(record, Module) and record.process for record in records)


@pytest.mark.parametrize(("kind", "listed"), [(DumpKind.BITMAP_FULL, True), (DumpKind.BITMAP_KERNEL, False)])
def test_complete_dumps_are_searched_for_processes_unasked(tmp_path: Path, kind: DumpKind, listed: bool) -> None:
    path = tmp_path / "MEMORY.DMP"
    path.write_bytes(dump_bytes(build_machine(kernel_plan()), DumpPlan(kind)))
    records = list(read_input(str(path)))
    assert any(isinstance(record, Module) and record.process for record in records) is listed
    assert not [record for record in records if isinstance(record, Unreadable)]


def test_a_complete_dump_without_processes_says_nothing_of_them(tmp_path: Path) -> None:
    path = tmp_path / "MEMORY.DMP"
    machine = build_machine(replace(kernel_plan(), eprocess=OFFSETS, processes=()))
    path.write_bytes(dump_bytes(machine, DumpPlan(DumpKind.FULL)))
    assert not [record for record in read_input(str(path)) if isinstance(record, Unreadable)]


@pytest.mark.parametrize("content", [b"", b"not a PDB", make_pdb(NativePdbSpec(UUID(int=1), 1))])
def test_a_pdb_without_the_structures_tells_nothing(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "x.pdb"
    path.write_bytes(content)
    assert read_kernel_layout(path) is None


def test_a_pdb_that_is_gone_tells_nothing(tmp_path: Path) -> None:
    assert read_kernel_layout(tmp_path / "gone.pdb") is None


def test_where_only_stacks_count_no_processes_are_read_nor_the_kernels_pdb_asked_for(
    dump: Path, tmp_path: Path
) -> None:
    config = load_config(environ={}, symbol_path=f"srv*{tmp_path / 'sym'}")
    with closing(DiskSource(config)) as source, LocalRun(source, Plan(stack_only=True), may_fetch=True) as run:
        records = list(run.open_inputs([dump], ProcessSelection()))
        modules = [record for record in records if isinstance(record, Module)]
        assert modules
        assert all(module.process is None for module in modules)
        assert run.read(iter([KernelPdbWanted(modules[0])])) is None
        assert run.report().symbols == []
