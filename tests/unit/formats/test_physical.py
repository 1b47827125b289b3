from __future__ import annotations

import struct
from dataclasses import replace
from functools import cache

import pytest
from support.kernels import kernel_plan
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import MachineMemory, build_machine
from support.synth.pagetables import Paging

from symcache.errors import Absence, InputError, MalformedInput, NotInDump, TruncatedInput, UnknownFormat
from symcache.formats.dump.header import read_dump_header
from symcache.formats.dump.physical import DumpBody, PhysicalMemory, Storage, read_dump_body
from symcache.formats.view import BytesView

STORAGE = {
    DumpKind.FULL: Storage.RUNS,
    DumpKind.SUMMARY: Storage.SUMMARY,
    DumpKind.BITMAP_FULL: Storage.BITMAP,
    DumpKind.BITMAP_KERNEL: Storage.BITMAP,
    DumpKind.AUTOMATIC: Storage.BITMAP,
    DumpKind.RANGES_KERNEL: Storage.RANGES,
    DumpKind.RANGES_KERNEL_AND_USER: Storage.RANGES,
    DumpKind.RANGES_COMPLETE: Storage.RANGES,
}


@cache
def machine(paging: Paging = Paging.X64) -> MachineMemory:
    return build_machine(kernel_plan(paging))


def plan(kind: DumpKind) -> DumpPlan:
    return DumpPlan(kind, ((0x2, 0x9D), (0x100, 0x200)) if kind is DumpKind.FULL else None)


def body(dump: bytes) -> DumpBody:
    view = BytesView(dump)
    return read_dump_body(view, read_dump_header(view))


def memory(dump: bytes) -> PhysicalMemory:
    pages = body(dump).pages
    assert pages is not None
    return PhysicalMemory(BytesView(dump), pages)


@pytest.mark.parametrize("paging", [Paging.X64, Paging.X86])
@pytest.mark.parametrize("kind", STORAGE)
def test_every_page_reads_back(paging: Paging, kind: DumpKind) -> None:
    dump = dump_bytes(machine(paging), plan(kind))
    assert body(dump).storage is STORAGE[kind]
    assert body(dump).problems == ()
    physical = memory(dump)
    for pfn, page in machine(paging).physical.pages.items():
        assert physical.read(pfn * 0x1000, 0x1000) == page
        assert physical.read(pfn * 0x1000 + 0xFF0, 16) == page[-16:]


def test_a_page_that_is_not_there_is_no_zeros() -> None:
    physical = memory(dump_bytes(machine(), plan(DumpKind.BITMAP_KERNEL)))
    with pytest.raises(NotInDump) as caught:
        physical.read(0x5008, 8)
    assert (caught.value.absence, caught.value.address) == (Absence.NOT_IN_DUMP, 0x5008)


def test_a_read_across_a_hole_names_the_first_missing_byte() -> None:
    dump = dump_bytes(machine(), plan(DumpKind.FULL))
    with pytest.raises(NotInDump) as caught:
        memory(dump).read(0x9EFF0, 0x20)
    assert caught.value.address == 0x9F000


def test_a_page_behind_the_end_is_truncated_and_not_missing() -> None:
    dump = dump_bytes(machine(), plan(DumpKind.FULL))[: 0x2000 + 0x9D000 + 0x4010]
    physical = memory(dump)
    assert len(physical.read(0x103000, 0x1000)) == 0x1000
    assert len(physical.read(0x104000, 0x10)) == 0x10
    for address in (0x104010, 0x200000):
        with pytest.raises(NotInDump) as caught:
            physical.read(address, 8)
        assert caught.value.absence is Absence.TRUNCATED


def test_a_bitmap_whose_count_is_wrong_is_noted_and_used() -> None:
    dump = bytearray(dump_bytes(machine(), plan(DumpKind.BITMAP_KERNEL)))
    dump[0x2028:0x2030] = (5).to_bytes(8, "little")
    assert "claims 5" in body(bytes(dump)).problems[0]
    for pfn, page in machine().physical.pages.items():
        assert memory(bytes(dump)).read(pfn * 0x1000, 0x1000) == page


def test_both_magics_of_a_bitmap_are_known() -> None:
    dump = dump_bytes(machine(), replace(plan(DumpKind.BITMAP_FULL), magic=b"FDMP"))
    assert body(dump).storage is Storage.BITMAP


@pytest.mark.parametrize("kind", [DumpKind.BITMAP_FULL, DumpKind.BITMAP_KERNEL, DumpKind.RANGES_KERNEL])
def test_a_body_without_its_signature_is_malformed(kind: DumpKind) -> None:
    dump = bytearray(dump_bytes(machine(), plan(kind)))
    dump[0x2000:0x200C] = bytes(12)
    with pytest.raises(MalformedInput) as caught:
        body(bytes(dump))
    assert caught.value.offset == 0x2000


def test_runs_are_used_for_an_unknown_type_without_signature() -> None:
    dump = dump_bytes(machine(), replace(plan(DumpKind.FULL), type_number=99))
    assert body(dump).storage is Storage.RUNS
    assert "0x63 is not known" in body(dump).problems[0]


def test_a_full_dump_without_runs_is_unusable() -> None:
    dump = bytearray(dump_bytes(machine(), plan(DumpKind.FULL)))
    dump[0x88:0x344] = b"PAGE" * 175
    with pytest.raises(UnknownFormat):
        body(bytes(dump))


@pytest.mark.parametrize(
    ("at", "value", "error"),
    [
        (0x18, 0x2020, MalformedInput),
        (0x18, 1 << 60, InputError),
        (0x18, 1 << 25, TruncatedInput),
        (0x30, 1 << 45, MalformedInput),
        (0x38, 1 << 63, MalformedInput),
    ],
)
def test_ranges_that_cannot_be_are_refused(at: int, value: int, error: type[InputError]) -> None:
    dump = bytearray(dump_bytes(machine(), plan(DumpKind.RANGES_COMPLETE)))
    struct.pack_into("<Q", dump, 0x2000 + at, value)
    with pytest.raises(error):
        body(bytes(dump))


def test_ranges_end_with_the_last_page_and_not_with_the_metadata() -> None:
    dump = dump_bytes(machine(), plan(DumpKind.RANGES_COMPLETE))
    pages = body(dump).pages
    assert pages is not None
    assert pages.page_count == len(machine().physical.pages)
    assert pages.find(0x1234) is None


def test_sizes_of_the_ranges_that_disagree_are_noted() -> None:
    dump = bytearray(dump_bytes(machine(), plan(DumpKind.RANGES_KERNEL)))
    struct.pack_into("<Q", dump, 0x2010, 0x123)
    assert "disagree" in body(bytes(dump)).problems[0]
    assert body(bytes(dump)).pages is not None


@pytest.mark.parametrize("bits", [1, 1 << 34, 1 << 63])
def test_a_bitmap_that_contradicts_itself_is_refused(bits: int) -> None:
    dump = bytearray(dump_bytes(machine(), plan(DumpKind.BITMAP_KERNEL)))
    struct.pack_into("<Q", dump, 0x2030, bits)
    if bits == 1:
        assert body(bytes(dump)).problems
    else:
        with pytest.raises(InputError):
            body(bytes(dump))
