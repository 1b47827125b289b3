from __future__ import annotations

import struct
from dataclasses import replace

import pytest
from support.kernels import kernel_plan
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import UnloadedPlan, build_machine
from support.synth.pagetables import Paging

from symcache.formats.dump.header import bugcheck_name, read_dump_header
from symcache.formats.dump.kernel import (
    DebuggerData,
    UnloadedDriver,
    open_kernel_space,
    parse_debugger_data,
    read_unloaded_drivers,
)
from symcache.formats.dump.physical import PhysicalMemory, read_dump_body
from symcache.formats.view import BytesView


def block(size: int = 0x380) -> bytes:
    raw = bytearray(0x380)
    raw[0x10:0x18] = b"KDBG" + size.to_bytes(4, "little")
    for offset, value in ((0x18, 0xFFFFFFFF80400000), (0x48, 0xFFFFFFFF80500000), (0x220, 0xFFFFFFFF80600000)):
        struct.pack_into("<Q", raw, offset, value)
    struct.pack_into("<HHH", raw, 0x2AA, 0x1A8, 0, 0x18)
    return bytes(raw)


def test_pointers_of_32_bit_lose_their_sign() -> None:
    found = parse_debugger_data(block(), pointer_size=4)
    assert found is not None
    assert (found.kernel_base_va, found.loaded_modules_va) == (0x80400000, 0x80500000)
    assert (found.peb_offset, found.directory_table_base_offset) == (0x1A8, 0x18)


def test_what_a_short_block_does_not_hold_is_zero() -> None:
    found = parse_debugger_data(block(0x220), pointer_size=8)
    assert found == DebuggerData(0xFFFFFFFF80400000, 0xFFFFFFFF80500000, 0, 0, 0, 0, 0, 0)


@pytest.mark.parametrize("data", [b"", bytes(0x380), b"\xa5" * 0x380])
def test_an_encoded_block_is_passed_over(data: bytes) -> None:
    assert parse_debugger_data(data, pointer_size=8) is None


def unloaded(paging: Paging, plans: tuple[UnloadedPlan, ...]) -> list[UnloadedDriver]:
    source = build_machine(replace(kernel_plan(paging), unloaded=plans))
    view = BytesView(dump_bytes(source, DumpPlan(DumpKind.BITMAP_KERNEL)))
    header = read_dump_header(view)
    pages = read_dump_body(view, header).pages
    assert pages is not None
    kernel = open_kernel_space(PhysicalMemory(view, pages), header)
    assert kernel.debugger_data is not None
    return list(read_unloaded_drivers(kernel.space, kernel.debugger_data, kernel.pointer_size))


@pytest.mark.parametrize("paging", [Paging.X86, Paging.X64])
@pytest.mark.parametrize("count", [0, 1, 50, 73])
def test_the_ring_of_unloaded_drivers_is_read_oldest_first(paging: Paging, count: int) -> None:
    start = paging.kernel_start | 0x7000000
    plans = tuple(UnloadedPlan(f"gone{index}.sys", start + index * 0x1000, start + 0x800) for index in range(count))
    found = unloaded(paging, plans)
    assert [(each.name, each.start, each.end) for each in found] == [
        (each.name, each.start, each.end) for each in plans[-50:]
    ]


@pytest.mark.parametrize(
    ("code", "name"),
    [
        (0xE2, "MANUALLY_INITIATED_CRASH"),
        (0x80, "NMI_HARDWARE_FAILURE"),
        (0x161, "LIVE_SYSTEM_DUMP"),
        (0x1000007E, "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED"),
        (0xC000021A, "STATUS_SYSTEM_PROCESS_TERMINATED"),
        (0x12345, None),
    ],
)
def test_bug_checks_have_names(code: int, name: str | None) -> None:
    assert bugcheck_name(code) == name
