from __future__ import annotations

from dataclasses import replace
from functools import cache

import pytest
from support.kernels import driver, kernel_plan
from support.synth.kernelmemory import MachineMemory, build_machine
from support.synth.pagetables import Paging
from support.synth.pe import memory_bytes
from support.synth.triagedump import TriagePlan, triage_bytes

from symcache.errors import InputError, NotInDump, TruncatedInput
from symcache.formats.dump.header import read_dump_header
from symcache.formats.dump.triage import Triage, TriageMemory, read_triage
from symcache.formats.view import BytesView

WIDTHS = [Paging.X64, Paging.PAE]


@cache
def machine(paging: Paging) -> MachineMemory:
    return build_machine(kernel_plan(paging))


def parse(dump: bytes) -> Triage:
    view = BytesView(dump)
    return read_triage(view, read_dump_header(view))


@pytest.mark.parametrize("paging", WIDTHS)
@pytest.mark.parametrize("count", range(1, 8))
def test_drivers_read_back_whatever_their_number(paging: Paging, count: int) -> None:
    plan = kernel_plan(paging)
    source = build_machine(replace(plan, drivers=plan.drivers[:count]))
    dump = triage_bytes(source)
    found = list(parse(dump).drivers(BytesView(dump)))
    assert [(each.path, each.base, each.size_of_image, each.timestamp, each.checksum) for each in found] == [
        (each.path, base, each.image.size_of_image, each.image.timestamp, each.image.checksum)
        for each, base in zip(plan.drivers, source.bases, strict=False)
    ]
    assert parse(dump).problems == ()


@pytest.mark.parametrize("paging", WIDTHS)
def test_unloaded_drivers_read_back_with_their_short_names(paging: Paging) -> None:
    dump = triage_bytes(machine(paging))
    found = list(parse(dump).unloaded_drivers(BytesView(dump)))
    assert [(each.name, each.start, each.end) for each in found] == [
        (each.name[:12], each.start, each.end) for each in machine(paging).plan.unloaded
    ]


@pytest.mark.parametrize("paging", WIDTHS)
def test_the_debugger_data_reads_back(paging: Paging) -> None:
    dump = triage_bytes(machine(paging))
    block = parse(dump).debugger_data(BytesView(dump))
    assert block is not None
    assert block.loaded_modules_va == machine(paging).loaded_modules_va
    assert block.kernel_base_va == machine(paging).bases[0]


@pytest.mark.parametrize("paging", WIDTHS)
@pytest.mark.parametrize("wide", [False, True])
def test_data_blocks_of_either_form_are_memory(paging: Paging, wide: bool) -> None:
    dump = triage_bytes(machine(paging), TriagePlan(with_image=frozenset([0, 2]), wide_addresses=wide))
    memory = TriageMemory(BytesView(dump), parse(dump))
    image = memory_bytes(machine(paging).plan.drivers[2].image)
    base = machine(paging).bases[2]
    assert memory.read(base, len(image)) == image
    assert memory.read(base + 0x1001, 7) == image[0x1001:0x1008]
    for address in (base - 1, base + len(image), 0):
        with pytest.raises(NotInDump) as caught:
            memory.read(address, 1)
        assert caught.value.address == address


def test_a_short_block_within_a_long_one_hides_nothing() -> None:
    paging = Paging.X64
    dump = bytearray(
        triage_bytes(machine(paging), TriagePlan(with_image=frozenset([2]), header_bytes_only=frozenset([3])))
    )
    triage = parse(bytes(dump))
    base = machine(paging).bases[2]
    for at in range(triage.blocks_offset, triage.blocks_offset + 16 * triage.block_count, 16):
        if int.from_bytes(dump[at : at + 8], "little") == machine(paging).bases[3]:
            dump[at : at + 8] = (base + 0x10).to_bytes(8, "little")
    memory = TriageMemory(BytesView(bytes(dump)), triage)
    assert memory.read(base + 0x1000, 4) == memory_bytes(machine(paging).plan.drivers[2].image)[0x1000:0x1004]


def test_a_dump_that_was_not_finished_is_said_so() -> None:
    dump = bytearray(triage_bytes(machine(Paging.X64)))
    dump[-4:] = bytes(4)
    assert "mark is missing" in parse(bytes(dump)).problems[0]
    assert "cut short" in parse(bytes(dump[:-40])).problems[0]


def test_bytes_behind_the_dump_do_not_matter() -> None:
    assert parse(triage_bytes(machine(Paging.X64)) + b"DumpBlob" + bytes(500)).problems == ()


def test_more_drivers_than_any_machine_has_are_not_read() -> None:
    dump = bytearray(triage_bytes(machine(Paging.X64)))
    dump[0x2034:0x2038] = (1 << 31).to_bytes(4, "little")
    triage = parse(bytes(dump))
    assert triage.driver_count == 2048
    with pytest.raises(InputError):
        list(triage.drivers(BytesView(bytes(dump))))


@pytest.mark.parametrize("length", [0x2000, 0x2010, 0x2047, 0x2300])
def test_a_dump_that_ends_before_its_list_is_truncated(length: int) -> None:
    with pytest.raises(TruncatedInput):
        parse(triage_bytes(machine(Paging.X64))[:length])


@pytest.mark.parametrize("paging", WIDTHS)
@pytest.mark.parametrize("extra", [4, 0x14])
def test_longer_entries_are_recognised(paging: Paging, extra: int) -> None:
    """Strings that lie elsewhere do not tell the distance of entries; the entries themselves do."""
    stride = (0x90 if paging is Paging.X64 else 0x4C) + (0x10 if paging is Paging.X64 else extra)
    source = machine(paging)
    dump = bytearray(triage_bytes(source))
    triage = parse(bytes(dump))
    old = triage.driver_stride
    entries = b""
    for index in range(triage.driver_count):
        at = triage.driver_list_offset + index * old
        entries += bytes(dump[at : at + old]).ljust(stride, b"\0")
    table = read_dump_header(BytesView(bytes(dump))).size
    dump[table + 0x30 : table + 0x34] = len(dump).to_bytes(4, "little")
    found = list(parse(bytes(dump) + entries).drivers(BytesView(bytes(dump) + entries)))
    assert [each.base for each in found] == source.bases


def test_names_are_counted_in_characters() -> None:
    plan = replace(kernel_plan(), drivers=(*kernel_plan().drivers, driver("näme-ünï.sys", None)))
    dump = triage_bytes(build_machine(plan))
    *_, last = parse(dump).drivers(BytesView(dump))
    assert last.path == plan.drivers[-1].path
