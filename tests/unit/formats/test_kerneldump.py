from __future__ import annotations

from functools import cache

import pytest
from support.kernels import kernel_plan
from support.synth.kerneldump import DumpPlan, header_bytes
from support.synth.kernelmemory import MachineMemory, build_machine
from support.synth.pagetables import Paging

from symcache.errors import TruncatedInput, UnknownFormat
from symcache.formats.dump.header import DumpAttribute, DumpHeader, PfnRange, read_dump_header
from symcache.formats.view import BytesView


@cache
def machine(paging: Paging) -> MachineMemory:
    return build_machine(kernel_plan(paging))


def header(
    paging: Paging = Paging.X64, plan: DumpPlan | None = None, runs: list[tuple[int, int]] | None = None
) -> bytes:
    return header_bytes(machine(paging), plan or DumpPlan(), runs or [])


def parse(data: bytes) -> DumpHeader:
    return read_dump_header(BytesView(data))


@pytest.mark.parametrize("paging", [Paging.X64, Paging.PAE, Paging.ARM64])
def test_a_header_reads_back(paging: Paging) -> None:
    found = parse(header(paging, DumpPlan(bugcheck=(0x7E, 1, 2, 3, 4), processors=7), [(1, 2), (0x100, 3)]))
    assert found.is_64bit == (paging.pointer_size == 8)
    assert found.build == 19041
    assert found.directory_table_base == machine(paging).kernel.root
    assert found.loaded_modules_va == machine(paging).loaded_modules_va
    assert found.active_processes_va == machine(paging).active_processes_va
    assert found.debugger_data_va == machine(paging).debugger_data_va
    assert found.pae_enabled == (True if paging is Paging.PAE else None)
    assert (found.bugcheck_code, found.bugcheck_parameters) == (0x7E, (1, 2, 3, 4))
    assert found.processors == 7
    assert found.memory == (PfnRange(1, 2), PfnRange(0x100, 3))
    assert found.memory_problem is None
    assert found.product_type == 1
    assert found.checked_build is False


@pytest.mark.parametrize("paging", [Paging.X64, Paging.X86])
def test_the_fill_pattern_is_nothing(paging: Paging) -> None:
    data = bytearray(b"PAGE" * (0x2000 // 4))
    data[4:8] = b"DU64" if paging is Paging.X64 else b"DUMP"
    found = parse(bytes(data))
    assert (found.attributes, found.memory, found.system_time, found.uptime, found.product_type) == (None,) * 5
    assert (found.bugcheck_code, found.required_space, found.minidump_fields, found.pae_enabled) == (None,) * 4
    assert found.comment == ""
    assert (found.loaded_modules_va, found.directory_table_base, found.machine) == (0, 0, 0)
    assert not found.encrypted


def test_attributes_with_bits_that_do_not_exist_are_none() -> None:
    assert parse(header(plan=DumpPlan(attributes=0xDEAD0100))).attributes is None


def test_attributes_are_named() -> None:
    found = parse(header(plan=DumpPlan(attributes=0x104)))
    assert found.attributes == DumpAttribute.ENCRYPTED_DUMP_DATA | DumpAttribute.INSUFFICIENT_DUMPFILE_SIZE
    assert found.encrypted


@pytest.mark.parametrize(("paging", "room"), [(Paging.X64, 42), (Paging.PAE, 86)])
def test_as_many_runs_as_the_header_has_room_for(paging: Paging, room: int) -> None:
    runs = [(0x10 * index, 3) for index in range(room)]
    found = parse(header(paging, runs=runs)).memory
    assert found is not None
    assert [(range_.first, range_.count) for range_ in found] == runs


def test_more_runs_than_there_is_room_for_are_refused() -> None:
    data = bytearray(header(runs=[(1, 2)]))
    data[0x88:0x8C] = (43).to_bytes(4, "little")
    found = parse(bytes(data))
    assert found.memory is None
    assert "43 runs" in str(found.memory_problem)


def test_a_page_count_that_is_not_the_sum_is_noted() -> None:
    data = bytearray(header(runs=[(1, 2)]))
    data[0x90:0x98] = (9).to_bytes(8, "little")
    found = parse(bytes(data))
    assert found.memory == (PfnRange(1, 2),)
    assert "claims 9 pages" in str(found.memory_problem)


@pytest.mark.parametrize(("paging", "size"), [(Paging.X64, 0x2000), (Paging.X86, 0x1000)])
def test_a_header_that_is_cut_is_truncated(paging: Paging, size: int) -> None:
    data = header(paging)
    assert len(data) == size
    for length in (8, 0x20, size - 1):
        with pytest.raises(TruncatedInput):
            parse(data[:length])


@pytest.mark.parametrize("start", [b"PAGE", b"PAGEDUMB", b"", b"\0\0\0", b"MZ"])
def test_other_beginnings_are_unknown(start: bytes) -> None:
    with pytest.raises(UnknownFormat):
        parse(start)
