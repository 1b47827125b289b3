from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.kernels import PAGINGS, driver, expected, found, kernel_plan
from support.mutation import mutants
from support.shared import corpus, needs_corpus, truth
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import build_machine
from support.synth.pagetables import Paging

from symcache.errors import InputError, TruncatedInput, UnknownFormat
from symcache.formats.view import BytesView, FileView
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.records import ImageUse, Input, InputKind, Module, ProcessSelection, ProcessSummary, Unreadable

if TYPE_CHECKING:
    from support.synth.kernelmemory import KernelPlan, MachineMemory

    from symcache.inputs.records import Record

MEMORY_KINDS = [kind for kind in DumpKind if kind not in {DumpKind.HEADER, DumpKind.TRIAGE}]
# Dumps of debuggers exist for 64-bit machines only.
CASES = [
    pytest.param(paging, kind, id=f"{paging.name}-{kind.name}")
    for paging in PAGINGS
    for kind in MEMORY_KINDS
    if paging.pointer_size == 8 or not kind.name.startswith("RANGES")
]
ALL = ProcessSelection()


@cache
def machine(paging: Paging = Paging.X64) -> MachineMemory:
    """One for all tests that do not change its memory."""
    return build_machine(kernel_plan(paging))


def whole(kind: DumpKind = DumpKind.BITMAP_KERNEL, **more: object) -> DumpPlan:
    memory = ((0, 0x9F), (0x100, 0x400)) if kind is DumpKind.FULL else None
    return replace(DumpPlan(kind, memory), **more)  # type: ignore[arg-type]


def read(dump: bytes, user: ProcessSelection | None = None) -> list[Record]:
    return list(read_kernel_dump(BytesView(dump), "MEMORY.DMP", user=user))


def dumped(source: MachineMemory, **more: object) -> list[Record]:
    return read(dump_bytes(source, whole(**more)))  # type: ignore[arg-type]


def modules(records: list[Record]) -> list[Module]:
    return [record for record in records if isinstance(record, Module)]


def loaded(records: list[Record]) -> list[Module]:
    return [module for module in modules(records) if not module.unloaded and module.process is None]


def problems(records: list[Record]) -> list[str]:
    return [record.problem for record in records if isinstance(record, Unreadable)]


def keys(plan: KernelPlan) -> list[tuple[str, str | None, tuple[str, ...]]]:
    return [expected(each) for each in plan.drivers]


@pytest.mark.parametrize(("paging", "kind"), CASES)
def test_every_kind_of_dump_gives_the_modules_that_went_in(paging: Paging, kind: DumpKind) -> None:
    source = machine(paging)
    records = read(dump_bytes(source, whole(kind)))
    assert [found(module) for module in loaded(records)] == keys(source.plan)
    assert [module.base for module in loaded(records)] == source.bases
    assert [module.path for module in loaded(records)] == [each.path for each in source.plan.drivers]
    assert problems(records) == []
    assert all(module.problem is None for module in loaded(records))


@pytest.mark.parametrize("paging", PAGINGS)
def test_unloaded_drivers_are_listed_without_a_key(paging: Paging) -> None:
    source = machine(paging)
    gone = [module for module in modules(dumped(source)) if module.unloaded]
    assert [(module.name, module.base) for module in gone] == [(each.name, each.start) for each in source.plan.unloaded]
    assert all(module.image is None and not module.pdbs and module.problem for module in gone)


def test_the_details_say_what_the_header_says() -> None:
    dump = dump_bytes(
        machine(),
        whole(bugcheck=(0xE2, 1, 2, 3, 0xFFFFF80000000000), attributes=0x10, product_type=3, processors=16),
    )
    (first, *_) = read(dump)
    assert isinstance(first, Input)
    assert first.kind is InputKind.KERNEL_DUMP
    details = first.details
    assert details["machine"] == "x64"
    assert details["build"] == 19041
    assert details["build_lab"] == "19041.1.amd64fre.vb_release.191206-1406"
    assert details["bugcheck_code"] == "0xe2"
    assert details["bugcheck_name"] == "MANUALLY_INITIATED_CRASH"
    assert details["on_demand"] == "by the keyboard or a debugger"
    assert details["bugcheck_parameters"] == ["0x1", "0x2", "0x3", "0xfffff80000000000"]
    assert details["attributes"] == ["LIVE_DUMP_GENERATED_DUMP"]
    assert details["live"] is True
    assert details["product"] == "server"
    assert details["processors"] == 16
    assert details["system_time"] == "2021-02-21T01:38:22.987765+00:00"
    assert details["uptime_s"] == pytest.approx(3.7470697)
    assert details["pages"] == len(machine().physical.pages)
    assert details["cut_short"] is False


def test_fields_that_were_never_set_are_absent() -> None:
    (first, *_) = dumped(machine(), system_time=None, uptime=None)
    assert isinstance(first, Input)
    assert [first.details[name] for name in ("attributes", "system_time", "uptime_s", "comment")] == [None] * 4
    assert first.details["live"] is False


def test_a_dump_that_windows_had_no_room_for_is_noted() -> None:
    (first, *_) = dumped(machine(), attributes=0x4)
    assert isinstance(first, Input)
    assert "no room" in first.details["problems"][0]


def test_a_bitmap_whose_count_is_wrong_is_noted() -> None:
    dump = bytearray(dump_bytes(machine(), whole()))
    dump[0x2028] ^= 1
    (first, *rest) = read(bytes(dump))
    assert isinstance(first, Input)
    assert "its header claims" in first.details["problems"][0]
    assert len(loaded(rest)) == len(machine().plan.drivers)


def test_a_header_alone_tells_its_bug_check_and_no_modules() -> None:
    records = read(dump_bytes(machine(), DumpPlan(DumpKind.HEADER)))
    assert isinstance(records[0], Input)
    assert records[0].details["bugcheck_name"] == "MANUALLY_INITIATED_CRASH"
    assert modules(records) == []
    assert len(problems(records)) == 1


@pytest.mark.parametrize("kind", MEMORY_KINDS)
def test_an_unknown_type_number_is_told_by_the_body(kind: DumpKind) -> None:
    if kind is DumpKind.SUMMARY:
        kind = DumpKind.BITMAP_FULL
    records = read(dump_bytes(machine(), whole(kind, type_number=0x2A)))
    assert [found(module) for module in loaded(records)] == keys(machine().plan)


@pytest.mark.parametrize("bits", [0x002, 0xFFF])
def test_low_bits_of_the_page_table_register_are_no_address(bits: int) -> None:
    assert len(loaded(dumped(machine(), root_bits=bits))) == len(machine().plan.drivers)


@pytest.mark.parametrize("paging", [Paging.X86, Paging.PAE])
@pytest.mark.parametrize("claimed", [False, True])
def test_a_wrong_pae_mark_is_found_out(paging: Paging, claimed: bool) -> None:
    records = dumped(machine(paging), pae_enabled=claimed)
    assert [found(module) for module in loaded(records)] == keys(machine(paging).plan)


@pytest.mark.parametrize("paging", PAGINGS)
def test_a_kernel_in_large_pages_is_read(paging: Paging) -> None:
    plan = replace(kernel_plan(paging), large_kernel=True)
    records = dumped(build_machine(plan))
    assert [found(module) for module in loaded(records)] == keys(plan)


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("state", ["transition", "prototype", "prototype in transition"])
def test_a_page_that_is_mapped_through_an_odd_entry_is_read(paging: Paging, state: str) -> None:
    source = build_machine(kernel_plan(paging))
    # A prototype entry has room for 48 bits of an address.
    prototype = 0xFFFFE00001000000 if paging is Paging.LA57 else source.pool(0x100)
    for base in source.bases[1:4]:
        for page in (base, base + 0x2000):
            if state == "transition":
                source.kernel.put_in_transition(page)
            else:
                prototype += 8
                source.kernel.share(page, prototype, source.kernel, in_transition=state != "prototype")
    records = dumped(source)
    assert [found(module) for module in loaded(records)] == keys(source.plan)


@pytest.mark.parametrize("paging", PAGINGS)
def test_a_driver_whose_debug_data_is_paged_out_keeps_its_image_key(paging: Paging) -> None:
    source = build_machine(kernel_plan(paging))
    source.kernel.page_out(source.bases[1] + 0x2000)
    nt, hal, *_ = loaded(dumped(source))
    assert (nt.needs_image, hal.needs_image) == (None, ImageUse.SYMBOLS)
    assert hal.image is not None
    assert hal.image.index == expected(source.plan.drivers[1])[1]
    assert hal.pdbs == ()
    assert hal.problem is not None
    assert "debug directory" in hal.problem
    assert "paged out" in hal.problem


def test_a_driver_without_header_takes_the_loaders_stamp_where_windows_keeps_one() -> None:
    source = build_machine(kernel_plan())
    source.kernel.page_out(source.bases[2])
    module = loaded(dumped(source))[2]
    assert found(module) == (*expected(source.plan.drivers[2])[:2], ())
    assert module.needs_image is ImageUse.BY_HAND
    assert module.problem is not None
    assert "header" in module.problem


def test_a_driver_without_header_has_no_key_where_windows_keeps_no_stamp() -> None:
    source = build_machine(kernel_plan(build=7601))
    source.kernel.page_out(source.bases[2], entry=0)
    module = loaded(dumped(source))[2]
    assert (module.name, module.image, module.pdbs) == ("FLTMGR.SYS", None, ())
    assert module.problem is not None


def test_loader_stamps_that_contradict_the_headers_are_not_used() -> None:
    source = build_machine(kernel_plan())
    source.kernel.page_out(source.bases[2])
    for entry in source.entries:
        source.kernel.write(entry + 0x9C, b"\x78\x56\x34\x12")
    assert loaded(dumped(source))[2].image is None


def test_an_image_of_another_size_than_the_loaders_is_not_believed() -> None:
    plan = kernel_plan(build=7601)
    drivers = (*plan.drivers[:3], replace(plan.drivers[3], loader_size=0x20000), *plan.drivers[4:])
    module = loaded(dumped(build_machine(replace(plan, drivers=drivers))))[3]
    assert module.image is None
    assert module.problem is not None


def test_a_size_that_is_no_multiple_of_pages_is_the_headers() -> None:
    plan = kernel_plan(build=2600)
    odd = replace(plan.drivers[3], image=replace(plan.drivers[3].image, size_of_image=0x2F80), loader_size=0x3000)
    drivers = (*plan.drivers[:3], odd, *plan.drivers[4:])
    assert found(loaded(dumped(build_machine(replace(plan, drivers=drivers))))[3]) == expected(odd)


def test_session_drivers_are_read_in_the_address_space_of_a_session() -> None:
    (win32k,) = [module for module in loaded(dumped(machine())) if module.name == "win32k.sys"]
    assert found(win32k) == expected(machine().plan.drivers[6])


def test_session_drivers_without_a_session_have_a_problem() -> None:
    plan = replace(kernel_plan(build=7601), processes=())
    (win32k,) = [module for module in loaded(dumped(build_machine(plan))) if module.name == "win32k.sys"]
    assert (win32k.image, win32k.pdbs) == (None, ())
    assert win32k.problem is not None


def test_a_copy_for_the_crash_is_named_after_the_driver_it_copies() -> None:
    (copy,) = [module for module in loaded(dumped(machine())) if module.name == "dump_stornvme.sys"]
    assert copy.image is not None
    assert copy.image.name == "stornvme.sys"


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("damage", ["unmapped", "misaligned", "circle", "user", "elsewhere"])
def test_a_list_that_breaks_halfway_is_joined_from_both_ends(paging: Paging, damage: str) -> None:
    source = build_machine(kernel_plan(paging))
    width = source.pointer_size
    target = {
        "unmapped": paging.kernel_start + 0x6000000,
        "misaligned": source.entries[3] + 1,
        "circle": source.entries[1],
        "user": 0x10000,
        "elsewhere": source.bases[1] + 0x1000,
    }[damage]
    source.kernel.write(source.entries[2], target.to_bytes(width, "little"))
    records = dumped(source)
    assert [found(module) for module in loaded(records)] == keys(source.plan)
    (problem,) = problems(records)
    assert "list of modules is damaged" in problem


def test_what_lies_between_two_breaks_is_lost_and_said_so() -> None:
    source = build_machine(kernel_plan())
    source.kernel.write(source.entries[1], (0xFFFFF7FF00000000).to_bytes(8, "little"))
    source.kernel.write(source.entries[5] + 8, (0xFFFFF7FF00000000).to_bytes(8, "little"))
    records = dumped(source)
    assert [found(module) for module in loaded(records)] == [
        expected(source.plan.drivers[index]) for index in (0, 1, 5, 6)
    ]
    assert len(problems(records)) == 1


def test_an_entry_that_cannot_be_one_is_passed_over() -> None:
    source = build_machine(kernel_plan())
    source.kernel.write(source.entries[2] + 0x30, b"\x01")
    records = dumped(source)
    assert len(loaded(records)) == len(source.plan.drivers) - 1
    assert "damaged" in problems(records)[0]


def test_a_name_that_is_not_there_leaves_the_pdb() -> None:
    source = build_machine(kernel_plan())
    names = source.kernel.pfn_of(source.names[0])
    source.kernel.write(source.entries[2] + 0x50, (0xFFFFE00000FFF000).to_bytes(8, "little"))
    source.kernel.write(source.entries[2] + 0x60, (0xFFFFE00000FFF000).to_bytes(8, "little"))
    module = loaded(dumped(source))[2]
    assert names
    assert module.name == f"unknown_{source.bases[2]:x}"
    assert module.image is None
    assert tuple(pdb.key.index for pdb in module.pdbs) == expected(source.plan.drivers[2])[2]
    assert module.problem is not None


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("debugger_data", [True, False])
def test_without_a_list_the_kernel_is_found_by_its_image(paging: Paging, debugger_data: bool) -> None:
    source = build_machine(replace(kernel_plan(paging), debugger_data=debugger_data))
    for offset in (0, source.pointer_size):
        source.kernel.write(source.loaded_modules_va + offset, bytes(source.pointer_size))
    records = dumped(source)
    assert [found(module) for module in loaded(records)] == keys(source.plan)[:1]
    assert len(problems(records)) == 1


@pytest.mark.parametrize("paging", PAGINGS)
def test_without_any_address_in_it_the_kernel_is_found_in_mapped_memory(paging: Paging) -> None:
    dump = bytearray(dump_bytes(machine(paging), whole()))
    pointers = ((0x20, 8), (0x80, 8)) if paging.pointer_size == 8 else ((0x18, 4), (0x60, 4))
    for offset, width in pointers:
        dump[offset : offset + width] = bytes(width)
    records = read(bytes(dump))
    assert [found(module) for module in loaded(records)] == keys(machine(paging).plan)[:1]
    assert loaded(records)[0].base == machine(paging).bases[0]
    assert "does not say where" in problems(records)[0]


def test_entries_that_point_back_to_nothing_are_recognised_by_what_they_hold() -> None:
    source = build_machine(kernel_plan())
    for entry in source.entries:
        source.kernel.write(entry + 8, bytes(8))
    source.kernel.write(source.loaded_modules_va + 8, bytes(8))
    records = dumped(source)
    assert [found(module) for module in loaded(records)] == keys(source.plan)
    assert "does not point back" in problems(records)[0]


def test_an_array_of_unloaded_drivers_may_be_named_itself() -> None:
    source = build_machine(kernel_plan())
    variable = source.kernel.translate(source.bases[0] + 0x20180)
    assert variable is not None
    source.kernel.write(source.debugger_data_va + 0x220, source.physical.read(variable, 8))
    assert [module.name for module in modules(dumped(source)) if module.unloaded] == ["dam.sys", "dump_storport"]


def test_processes_that_point_back_to_nothing_are_recognised_by_their_ids() -> None:
    source = build_machine(kernel_plan())
    at = source.active_processes_va
    for _ in range(len(source.plan.processes) + 2):
        physical = source.kernel.translate(at)
        assert physical is not None
        source.kernel.write(at + 8, bytes(8))
        at = int.from_bytes(source.physical.read(physical, 8), "little")
    records = read(dump_bytes(source, whole()), ALL)
    assert len([module for module in modules(records) if module.process]) == 7
    assert "list of processes is damaged" in problems(records)[0]


def test_without_a_system_process_a_known_layout_that_makes_sense_is_taken() -> None:
    source = build_machine(kernel_plan())
    first = source.kernel.translate(source.active_processes_va)
    assert first is not None
    links = int.from_bytes(source.physical.read(first, 8), "little")
    source.kernel.write(links - 8, (44).to_bytes(8, "little"))
    records = read(dump_bytes(source, whole()), ProcessSelection(("lsass.exe",)))
    assert len([module for module in modules(records) if module.process]) == 2


def test_a_server_of_2008_in_32_bit_with_pae() -> None:
    names = [
        ("\\SystemRoot\\system32\\ntkrnlpa.exe", "ntkrpamp.pdb"),
        ("\\SystemRoot\\system32\\hal.dll", "halmacpi.pdb"),
        ("\\SystemRoot\\system32\\kdcom.dll", "kdcom.pdb"),
        ("\\SystemRoot\\system32\\drivers\\peauth.sys", "PEAuth.pdb"),
        ("\\SystemRoot\\System32\\Drivers\\secdrv.SYS", "secdrv.pdb"),
        ("\\SystemRoot\\System32\\drivers\\tcpipreg.sys", "tcpipreg.pdb"),
    ]
    drivers = [
        replace(driver(path.rpartition("\\")[2], pdb, Paging.PAE, size=0x3B000), path=path) for path, pdb in names
    ]
    plan = replace(kernel_plan(Paging.PAE, build=6001), drivers=tuple(drivers))
    records = dumped(build_machine(plan), kind=DumpKind.SUMMARY, bugcheck=(0xE2, 0, 0, 0, 0), product_type=3)
    assert [found(module) for module in loaded(records)] == keys(plan)
    assert isinstance(records[0], Input)
    assert records[0].details["bugcheck_name"] == "MANUALLY_INITIATED_CRASH"
    assert records[0].details["product"] == "server"
    assert records[0].details["paging"] == "x86 PAE"


def test_without_page_tables_the_kernel_is_found_in_physical_memory() -> None:
    source = build_machine(replace(kernel_plan(), large_kernel=True))
    root = source.kernel.root // 0x1000
    records = dumped(source, dropped=frozenset([root]))
    assert [found(module) for module in loaded(records)] == keys(source.plan)[:1]
    assert loaded(records)[0].base is None
    assert "page table" in problems(records)[0]


def test_another_image_where_the_kernel_should_be_is_not_taken_for_it() -> None:
    dump = bytearray(dump_bytes(build_machine(replace(kernel_plan(), debugger_data=False)), whole()))
    for offset in (0x20, 0x80):
        dump[offset : offset + 8] = (machine().bases[2] + 0x1000).to_bytes(8, "little")
    records = read(bytes(dump))
    assert [found(module) for module in loaded(records)] == keys(machine().plan)[:1]


def test_the_debugger_data_stands_in_for_a_header_without_the_list() -> None:
    dump = bytearray(dump_bytes(machine(), whole()))
    dump[0x20:0x28] = b"PAGEPAGE"
    assert [found(module) for module in loaded(read(bytes(dump)))] == keys(machine().plan)


def test_a_cut_dump_gives_what_is_left_and_says_so() -> None:
    source = machine()
    dump = dump_bytes(source, whole())
    records = read(dump[: len(dump) - 0x20000])
    assert isinstance(records[0], Input)
    assert records[0].details["cut_short"] is True
    assert any("cut short" in problem for problem in problems(records))


def test_user_modules_are_off_by_default() -> None:
    assert all(module.process is None for module in modules(dumped(machine())))


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("build", [7601, 19041])
@pytest.mark.parametrize("debugger_data", [True, False])
def test_modules_of_all_processes_are_listed(paging: Paging, build: int, debugger_data: bool) -> None:
    plan = replace(kernel_plan(paging, build=build), debugger_data=debugger_data)
    records = read(dump_bytes(build_machine(plan), whole()), ALL)
    in_memory = []
    for process in plan.processes:
        label = f"{process.name[:14]} ({process.id})"
        seen = set()
        for module in (*process.modules, *process.modules32):
            if (module.path, module.base) not in seen:
                in_memory.append((label, *expected(module)))
            seen.add((module.path, module.base))
    listed = [(str(module.process), *found(module)) for module in modules(records) if module.process]
    assert listed == in_memory
    assert problems(records) == []


@pytest.mark.parametrize("wanted", ["lsass.exe", "664", "LSASS.EXE"])
def test_a_process_is_chosen_by_name_or_id(wanted: str) -> None:
    records = read(dump_bytes(machine(), whole()), ProcessSelection((wanted,)))
    assert {module.process for module in modules(records) if module.process} == {"lsass.exe (664)"}
    assert problems(records) == []


def test_a_long_name_chooses_a_process_whose_name_is_cut() -> None:
    records = read(dump_bytes(machine(), whole()), ProcessSelection(("OldProgram32.exe",)))
    assert {module.process for module in modules(records) if module.process} == {"OldProgram32.e (4120)"}


def test_a_process_that_is_not_there_is_said_so() -> None:
    records = read(dump_bytes(machine(), whole()), ProcessSelection(("lsass.exe", "absent.exe")))
    assert problems(records) == ["no process absent.exe is in the dump"]


def test_a_paged_out_environment_block_is_reported() -> None:
    source = build_machine(kernel_plan())
    source.spaces[664].page_out(0x7FF7FFFDE000)
    records = read(dump_bytes(source, whole()), ALL)
    assert not [module for module in modules(records) if module.process == "lsass.exe (664)"]
    assert problems(records) == ["lsass.exe (664): its environment block cannot be read: the page is paged out"]


@pytest.mark.parametrize("paging", [Paging.X64, Paging.X86])
def test_a_process_without_a_loader_list_is_named(paging: Paging) -> None:
    source = build_machine(kernel_plan(paging))
    width = source.pointer_size
    source.spaces[664].write((0x7FFDE000 if width == 4 else 0x7FF7FFFDE000) + 3 * width, bytes(width))
    records = read(dump_bytes(source, whole()), ProcessSelection(("lsass.exe",)))
    assert problems(records) == ["lsass.exe (664): it has no list of modules: it was starting, or had ended"]


def test_a_paged_out_library_keeps_the_loaders_key() -> None:
    source = build_machine(kernel_plan())
    source.spaces[664].page_out(0x7FFA00020000)
    records = read(dump_bytes(source, whole()), ProcessSelection(("664",)))
    (lsass, ntdll) = [module for module in modules(records) if module.process]
    assert (lsass.needs_image, ntdll.needs_image) == (None, ImageUse.BY_HAND)
    assert found(ntdll) == (*expected(source.plan.processes[2].modules[1])[:2], ())
    assert ntdll.problem is not None


@pytest.mark.parametrize("start", [b"", b"hello", b"MDMP", b"PAGED", bytes(64)])
def test_what_is_no_kernel_dump_is_refused(start: bytes) -> None:
    with pytest.raises(UnknownFormat, match="PAGEDUMP or PAGEDU64"):
        read(start)


def test_an_encrypted_dump_is_refused_with_what_to_do() -> None:
    with pytest.raises(UnknownFormat, match="decrypt it first"):
        dumped(machine(), attributes=0x100)


def test_a_dump_that_was_decrypted_is_read() -> None:
    assert loaded(dumped(machine(), attributes=0x300))


@pytest.mark.parametrize("machine_type", [0x1C4, 0x200])
def test_machines_with_other_page_tables_are_refused_by_name(machine_type: int) -> None:
    dump = bytearray(dump_bytes(machine(), whole()))
    dump[0x30:0x34] = machine_type.to_bytes(4, "little")
    with pytest.raises(UnknownFormat, match="machine"):
        read(bytes(dump))


@pytest.mark.parametrize("length", [8, 0x1000, 0x2000, 0x2010, 0x2038, 0x2050])
def test_a_dump_that_ends_before_its_pages_are_named_is_truncated(length: int) -> None:
    with pytest.raises(TruncatedInput) as caught:
        read(dump_bytes(machine(), whole())[:length])
    assert caught.value.offset is not None


def check_against_truth(source: MachineMemory, records: list[Record]) -> None:
    """Assert that no key is wrong, and that all that is missing is explained."""
    truth = {base: expected(each) for base, each in zip(source.bases, source.plan.drivers, strict=True)}
    explained = bool(problems(records))
    listed = loaded(records)
    if len(listed) < len(truth):
        assert explained
    known = {}
    for process in source.plan.processes:
        for each in (*process.modules, *process.modules32):
            known[process.id, each.path] = expected(each)
    for module in modules(records):
        if module.process is not None and module.path is not None:
            _, image, pdbs = known[int(module.process.rpartition("(")[2][:-1]), module.path]
            assert module.image is None or module.image.index == image
            assert found(module)[2] in {pdbs, ()}
            assert module.problem or (module.image and module.pdbs)
    for module in listed:
        assert module.base in truth
        name, image, pdbs = truth[module.base]
        assert module.image is None or module.image.index == image
        assert found(module)[2] in {pdbs, ()}
        assert module.name == name or module.problem
        if module.image is None or not module.pdbs:
            assert module.problem


@settings(max_examples=50)
@given(st.data())
def test_dropped_pages_never_make_a_wrong_key(data: st.DataObject) -> None:
    paging = data.draw(st.sampled_from(PAGINGS))
    source = machine(paging)
    pages = sorted(source.physical.pages)
    dropped = data.draw(st.sets(st.sampled_from(pages), min_size=1, max_size=4))
    kind = data.draw(st.sampled_from([DumpKind.BITMAP_FULL, DumpKind.SUMMARY]))
    check_against_truth(source, read(dump_bytes(source, whole(kind, dropped=frozenset(dropped))), ALL))


@settings(max_examples=50)
@given(st.data())
def test_a_cut_anywhere_never_makes_a_wrong_key(data: st.DataObject) -> None:
    source = machine(data.draw(st.sampled_from(PAGINGS)))
    dump = dump_bytes(source, whole(DumpKind.BITMAP_FULL))
    cut = data.draw(st.integers(0x3000, len(dump)))
    check_against_truth(source, read(dump[:cut], ALL))


@needs_corpus
def test_real_files_of_other_kinds_are_refused() -> None:
    others = [name for name in truth() if not name.startswith("kernel-")]
    assert others
    for name in others:
        with FileView(corpus / name) as view, pytest.raises(UnknownFormat):
            list(read_kernel_dump(view, name))


SEEDS = [
    pytest.param(Paging.X64, DumpKind.BITMAP_KERNEL, id="bitmap"),
    pytest.param(Paging.X64, DumpKind.RANGES_COMPLETE, id="ranges"),
    pytest.param(Paging.ARM64, DumpKind.RANGES_KERNEL, id="kernel ranges"),
    pytest.param(Paging.LA57, DumpKind.SUMMARY, id="summary"),
    pytest.param(Paging.PAE, DumpKind.SUMMARY, id="summary of 32 bit"),
    pytest.param(Paging.X86, DumpKind.BITMAP_FULL, id="bitmap of 32 bit"),
]


def read_damaged(dump: bytes) -> None:
    try:
        read(dump, ALL)
    except InputError:
        return


@pytest.mark.parametrize(("paging", "kind"), SEEDS)
def test_damage_never_gives_another_error(paging: Paging, kind: DumpKind) -> None:
    seed = dump_bytes(machine(paging), whole(kind))
    for dump in mutants(seed, 170, rng_seed=kind.value, hot=0x3000):
        read_damaged(dump)


def test_a_driver_list_of_many_modules_is_listed_whole() -> None:
    plan = kernel_plan(extra=300)
    assert [found(module) for module in loaded(dumped(build_machine(plan)))] == keys(plan)


def test_a_driver_without_debug_record_is_said_to_have_none() -> None:
    plan = kernel_plan()
    plan = replace(plan, drivers=(*plan.drivers, driver("plain.sys", None)))
    module = loaded(dumped(build_machine(plan)))[-1]
    assert module.no_debug_record
    assert module.image is not None


def test_processes_come_after_their_modules_with_how_many_there_are() -> None:
    records = read(dump_bytes(build_machine(kernel_plan()), whole()), ProcessSelection())
    processes = [record for record in records if isinstance(record, ProcessSummary)]
    assert [(each.id, each.name, each.modules) for each in processes] == [
        (4, "System", 0),
        (88, "Registry", 0),
        (532, "csrss.exe", 1),
        (664, "lsass.exe", 2),
        (4120, "OldProgram32.e", 4),
    ]
    assert processes[3].image == "C:\\Windows\\System32\\lsass.exe"
    assert processes[0].image is None


def test_no_library_is_taken_for_the_executable_whose_path_is_paged_out() -> None:
    source = build_machine(kernel_plan())
    path, name = "C:\\Windows\\System32\\lsass.exe", "lsass.exe"
    entry = 0x00200080 + sum(2 * len(text) + 2 + 15 & -16 for text in (path, name))
    source.spaces[664].write(entry + 0x50, (0x7FF000000000).to_bytes(8, "little"))  # FullDllName.Buffer
    records = read(dump_bytes(source, whole()), ProcessSelection(("664",)))
    (lsass, ntdll) = [module for module in modules(records) if module.process]
    assert (lsass.name, lsass.path, ntdll.name) == (name, None, "ntdll.dll")
    assert [each.image for each in records if isinstance(each, ProcessSummary)] == [None]
