"""Other people's readers see the same memory in the dumps that are written here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from support.kernels import kernel_plan
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes, write_dump
from support.synth.kernelmemory import build_machine
from support.synth.pagetables import Paging

if TYPE_CHECKING:
    from pathlib import Path

    from support.synth.kernelmemory import MachineMemory

# Neither reads a bitmap's part used last byte; volatility takes whole words only.
MEMORY = ((0x0, 0x9F), (0x100, 0x400))
BITS = 0x800


def plan_of(kind: DumpKind) -> DumpPlan:
    return DumpPlan(kind, MEMORY if kind is DumpKind.FULL else None, bitmap_bits=BITS)


@pytest.mark.parametrize(
    "kind",
    [
        DumpKind.FULL,
        DumpKind.BITMAP_FULL,
        DumpKind.BITMAP_KERNEL,
        DumpKind.RANGES_KERNEL,
        DumpKind.RANGES_KERNEL_AND_USER,
        DumpKind.RANGES_COMPLETE,
    ],
)
def test_kdmp_parser_reads_the_pages_back(kind: DumpKind, tmp_path: Path) -> None:
    kdmp_parser = pytest.importorskip("kdmp_parser", reason="the oracle is not installed")
    machine = build_machine(kernel_plan())
    path = tmp_path / "MEMORY.DMP"
    path.write_bytes(dump_bytes(machine, plan_of(kind)))
    dump = kdmp_parser.KernelDumpParser(path)
    assert dump.type == kind.value
    assert dump.directory_table_base == machine.kernel.root
    for pfn, page in machine.physical.pages.items():
        assert bytes(dump.read_physical_page(pfn * 0x1000)) == page
    for base in machine.bases[:6]:
        physical = machine.kernel.translate(base)
        assert physical is not None
        assert bytes(dump.read_virtual_page(base)) == machine.physical.pages[physical // 0x1000]


def volatility_layers(path: Path, machine: MachineMemory) -> tuple[Any, Any]:
    """Return volatility's view of the dump's physical and virtual memory."""
    contexts, crash, intel, physical = (
        pytest.importorskip(f"volatility3.framework.{name}", reason="the oracle is not installed")
        for name in ("contexts", "layers.crash", "layers.intel", "layers.physical")
    )
    context = contexts.Context()
    context.config["file.location"] = path.as_uri()
    context.add_layer(physical.FileLayer(context, "file", "file"))
    context.config["crash.base_layer"] = "file"
    kind = crash.WindowsCrashDump64Layer if machine.pointer_size == 8 else crash.WindowsCrashDump32Layer
    memory = kind(context, "crash", "crash")
    context.add_layer(memory)
    context.config["intel.memory_layer"] = "crash"
    context.config["intel.page_map_offset"] = machine.kernel.root
    mode = {
        Paging.X86: intel.WindowsIntel,
        Paging.PAE: intel.WindowsIntelPAE,
        Paging.X64: intel.WindowsIntel32e,
    }[machine.plan.paging]
    virtual = mode(context, "intel", "intel")
    context.add_layer(virtual)
    return memory, virtual


@pytest.mark.parametrize("paging", [Paging.X86, Paging.PAE, Paging.X64])
@pytest.mark.parametrize("kind", [DumpKind.FULL, DumpKind.BITMAP_FULL])
@pytest.mark.filterwarnings("ignore")
def test_volatility_reads_the_memory_back(paging: Paging, kind: DumpKind, tmp_path: Path) -> None:
    machine = build_machine(kernel_plan(paging))
    if paging is not Paging.X86:
        machine.kernel.put_in_transition(machine.bases[2] + 0x1000)
    path = tmp_path / "MEMORY.DMP"
    path.write_bytes(dump_bytes(machine, plan_of(kind)))
    memory, virtual = volatility_layers(path, machine)
    for pfn, page in machine.physical.pages.items():
        assert memory.read(pfn * 0x1000, 0x1000) == page
    for base, driver in zip(machine.bases, machine.plan.drivers, strict=True):
        if not driver.in_session:
            assert virtual.read(base, 2) == b"MZ"
    assert virtual.read(machine.bases[2] + 0x1000, 16) != bytes(16)
    memory.destroy()


def test_a_dump_of_much_memory_is_a_sparse_file(tmp_path: Path) -> None:
    path = tmp_path / "MEMORY.DMP"
    with path.open("wb") as file:
        write_dump(file, build_machine(kernel_plan()), DumpPlan(memory=((1, 0x9E), (0x100, 0x40000))))
    status = path.stat()
    assert status.st_size == 0x2000 + (0x9E + 0x40000) * 0x1000
    blocks = getattr(status, "st_blocks", 0)
    assert blocks * 512 < 4 << 20
