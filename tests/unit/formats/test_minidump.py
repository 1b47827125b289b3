from __future__ import annotations

import struct
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import measure
from support.mutation import mutants
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.dump.minidump import (
    ModuleEntry,
    StreamType,
    find_module_tables,
    parse_exception,
    parse_minidump,
    parse_module_entry,
    parse_process,
    parse_system_info,
    read_memory_ranges,
)
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Callable

RECORD = rsds_record(UUID("2dcfe7e3-d096-48b9-4c4c-44205044422e"), 1, "app.pdb")
APP = MinidumpModule("C:\\app\\app.exe", 0x1_4000_0000, 0x9000, 0x5AB38077, RECORD, checksum=0x1234)
NTDLL = MinidumpModule("C:\\Windows\\System32\\ntdll.dll", 0x7FF8_0000_0000, 0x1E1000, 0xA5A334D4)
GONE = MinidumpModule("shcore.dll", 0x7FF8_1000_0000, 0xEA000, 0xD40BC30A)


def modules_of(data: bytes) -> list[ModuleEntry]:
    view = BytesView(data)
    tables, errors = find_module_tables(view, parse_minidump(view))
    assert errors == []
    return [parse_module_entry(view, table, offset) for table in tables for offset in table.offsets()]


def as_planned(module: MinidumpModule) -> tuple[object, ...]:
    return (
        module.base_va,
        module.size_of_image,
        module.checksum,
        module.timestamp,
        module.path,
        module.code_view,
    )


def as_read(entry: ModuleEntry) -> tuple[object, ...]:
    return (
        entry.base_va,
        entry.size_of_image,
        entry.checksum,
        entry.timestamp,
        entry.path,
        entry.code_view,
    )


@pytest.mark.parametrize("padded", [False, True], ids=["count alone", "count and padding"])
def test_modules_are_read_with_and_without_padding(padded: bool) -> None:
    data = build_minidump(MinidumpPlan(modules=[APP, NTDLL], pad_modules=padded))
    assert [as_read(entry) for entry in modules_of(data)] == [as_planned(APP), as_planned(NTDLL)]


@pytest.mark.parametrize(("header", "entry"), [(12, 24), (12, 28), (16, 24), (40, 64)])
def test_unloaded_modules_honour_the_sizes_that_their_list_states(header: int, entry: int) -> None:
    plan = MinidumpPlan(modules=[APP], unloaded=[GONE, NTDLL], unloaded_header_bytes=header, unloaded_entry_bytes=entry)
    assert [as_read(module) for module in modules_of(build_minidump(plan))] == [
        as_planned(APP),
        as_planned(GONE),
        as_planned(NTDLL),
    ]


def test_small_streams_say_what_was_written() -> None:
    plan = MinidumpPlan(
        processor=12,
        version=(10, 0, 26100),
        exception=(0xC0000005, 0x7FF8_0000_1234),
        process=(4711, 1700000000),
        timestamp=1700000100,
        flags=0x2,
    )
    view = BytesView(build_minidump(plan))
    dump = parse_minidump(view)
    assert (dump.timestamp, dump.flags, dump.full_memory, dump.truncated) == (1700000100, 2, True, False)
    system = parse_system_info(view, dump)
    assert system is not None
    assert (system.processor, system.platform, system.major, system.minor, system.build) == (12, 2, 10, 0, 26100)
    exception = parse_exception(view, dump)
    assert exception is not None
    assert (exception.code, exception.address) == (0xC0000005, 0x7FF8_0000_1234)
    process = parse_process(view, dump)
    assert process is not None
    assert (process.id, process.started) == (4711, 1700000000)


def test_streams_that_are_not_there_are_none() -> None:
    view = BytesView(struct.pack("<4sIIIIIQ", b"MDMP", 0xA793, 0, 32, 0, 0, 0))
    dump = parse_minidump(view)
    assert parse_system_info(view, dump) is None
    assert parse_exception(view, dump) is None
    assert parse_process(view, dump) is None
    assert find_module_tables(view, dump) == ([], [])


def test_process_facts_that_are_not_valid_are_left_out() -> None:
    misc = struct.pack("<6I", 24, 0, 99, 99, 0, 0)
    view = BytesView(build_minidump(MinidumpPlan(more_streams=[(15, misc)])))
    process = parse_process(view, parse_minidump(view))
    assert process is not None
    assert (process.id, process.started) == (None, None)


def test_a_second_list_of_modules_is_read_too() -> None:
    other = build_minidump(MinidumpPlan(modules=[NTDLL]))
    view = BytesView(other)
    (stream,) = parse_minidump(view).streams_of(StreamType.MODULE_LIST)
    second = other[stream.offset : stream.offset + stream.size_bytes]
    data = build_minidump(MinidumpPlan(modules=[APP], more_streams=[(4, second)]))
    assert [entry.base_va for entry in modules_of(data)] == [APP.base_va, NTDLL.base_va]


def test_a_directory_that_names_one_place_twice_counts_it_once() -> None:
    data = bytearray(build_minidump(MinidumpPlan(modules=[APP], more_streams=[(0x4767, b"abcd")])))
    data[32 + 24 : 32 + 36] = data[32 + 12 : 32 + 24]
    assert len(modules_of(bytes(data))) == 1


def test_a_big_endian_dump_is_refused_by_name() -> None:
    with pytest.raises(UnknownFormat, match="big-endian minidump"):
        parse_minidump(BytesView(b"PMDM" + bytes(28)))


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", UnknownFormat),
        (b"MZ" + bytes(40), UnknownFormat),
        (b"MDMP", TruncatedInput),
        (struct.pack("<4sIIIIIQ", b"MDMP", 0xA794, 0, 32, 0, 0, 0), MalformedInput),
        (struct.pack("<4sIIIIIQ", b"MDMP", 0xA793, 1, 32, 0, 0, 0), TruncatedInput),
        (struct.pack("<4sIIIIIQ", b"MDMP", 0xA793, 0xFFFFFFFF, 0xFFFFFFFF, 0, 0, 0), TruncatedInput),
    ],
    ids=["empty", "an image", "magic alone", "other version", "no directory", "directory far away"],
)
def test_what_is_no_minidump_is_refused(data: bytes, error: type[InputError]) -> None:
    with pytest.raises(error):
        parse_minidump(BytesView(data))


def test_counts_are_cut_to_what_the_file_holds() -> None:
    data = bytearray(build_minidump(MinidumpPlan(modules=[APP, NTDLL])))
    data[8:12] = b"\xff\xff\xff\xff"
    view = BytesView(bytes(data))
    dump = parse_minidump(view)
    assert dump.truncated
    (stream,) = dump.streams_of(StreamType.MODULE_LIST)
    data[stream.offset : stream.offset + 4] = b"\xff\xff\xff\x7f"
    view = BytesView(bytes(data))
    (table, *_), _ = find_module_tables(view, dump)
    assert (table.count, table.stated) == (2, 0x7FFFFFFF)


def test_a_cut_dump_keeps_the_entries_before_the_cut() -> None:
    data = build_minidump(MinidumpPlan(modules=[APP, NTDLL]))
    dump = parse_minidump(BytesView(data))
    (stream,) = dump.streams_of(StreamType.MODULE_LIST)
    view = BytesView(data[: stream.offset + 4 + 108 + 50])
    dump = parse_minidump(view)
    assert dump.truncated
    (table,), errors = find_module_tables(view, dump)
    assert (table.count, table.stated, errors) == (1, 2, [])
    assert parse_module_entry(view, table, table.first).path == APP.path


def test_a_name_and_a_record_outside_the_file_are_told_apart() -> None:
    data = bytearray(build_minidump(MinidumpPlan(modules=[APP])))
    (stream,) = parse_minidump(BytesView(bytes(data))).streams_of(StreamType.MODULE_LIST)
    no_record = bytearray(data)
    struct.pack_into("<I", no_record, stream.offset + 4 + 0x50, len(data))
    (entry,) = modules_of(bytes(no_record))
    assert (entry.path, entry.code_view) == (APP.path, None)
    assert "code view record" in str(entry.problem)
    struct.pack_into("<I", data, stream.offset + 4 + 0x14, len(data) - 3)
    (entry,) = modules_of(bytes(data))
    assert (entry.path, entry.code_view) == (None, RECORD)
    assert entry.problem is not None


@pytest.mark.parametrize(
    ("length", "text"), [(8, "a.sy"), (7, "a.s"), (10, "a.sys"), (12, "a.sys")], ids=["cut", "odd", "exact", "with NUL"]
)
def test_a_name_ends_at_its_length_or_its_nul(length: int, text: str) -> None:
    data = bytearray(build_minidump(MinidumpPlan(modules=[MinidumpModule("a.sys", 0x1000, 0x1000, 1)])))
    at = data.index("a.sys".encode("utf-16-le")) - 4
    struct.pack_into("<I", data, at, length)
    assert [entry.path for entry in modules_of(bytes(data))] == [text]


def test_a_name_without_end_is_not_read() -> None:
    data = bytearray(build_minidump(MinidumpPlan(modules=[MinidumpModule("a.sys", 0x1000, 0x1000, 1)])))
    data += bytes(0x20000)
    struct.pack_into("<I", data, data.index("a.sys".encode("utf-16-le")) - 4, 0x1FFFE)
    (entry,) = modules_of(bytes(data))
    assert entry.path is None
    assert entry.problem is not None


@given(
    st.lists(
        st.builds(
            MinidumpModule,
            path=st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=40),
            base_va=st.integers(0, 2**64 - 1),
            size_of_image=st.integers(0, 2**32 - 1),
            timestamp=st.integers(0, 2**32 - 1),
            code_view=st.none() | st.binary(min_size=1, max_size=60),
            checksum=st.integers(0, 2**32 - 1),
        ),
        max_size=8,
    ),
    st.booleans(),
)
def test_what_is_written_reads_back(modules: list[MinidumpModule], padded: bool) -> None:
    data = build_minidump(MinidumpPlan(modules=modules, pad_modules=padded))
    assert [as_read(entry) for entry in modules_of(data)] == [as_planned(module) for module in modules]


def read_everything(data: bytes) -> None:
    view = BytesView(data)
    try:
        dump = parse_minidump(view)
    except InputError:
        return
    parse_system_info(view, dump)
    parse_exception(view, dump)
    parse_process(view, dump)
    memory = read_memory_ranges(view, dump)
    tables, _ = find_module_tables(view, dump)
    for table in tables:
        for offset in table.offsets():
            entry = parse_module_entry(view, table, offset)
            try:
                memory.read(entry.base_va, 64)
            except InputError:
                continue


def seed() -> bytes:
    return build_minidump(
        MinidumpPlan(
            modules=[APP, NTDLL],
            unloaded=[GONE],
            memory=[(NTDLL.base_va, bytes(range(256)))],
            memory64=[(APP.base_va, bytes(512)), (APP.base_va + 512, bytes(64))],
            exception=(0xC0000005, 1),
            process=(1, 2),
        )
    )


@given(st.binary(max_size=400))
def test_any_bytes_raise_nothing_but_input_errors(data: bytes) -> None:
    read_everything(b"MDMP\x93\xa7\0\0" + data)


def test_damaged_dumps_raise_nothing_but_input_errors() -> None:
    for data in mutants(seed(), 1000, hot=1024):
        read_everything(data)


@pytest.mark.slow
def test_no_damage_takes_long_or_much(record_property: Callable[[str, object], None]) -> None:
    measure(mutants(seed(), 100_000, rng_seed=1, hot=1024), read_everything).check(record_property)
