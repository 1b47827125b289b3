"""Which modules a crash is about, by the stack of each kind of dump."""

from __future__ import annotations

import struct
from dataclasses import replace
from functools import cache
from itertools import islice
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.bounds import measure
from support.kernels import PAGINGS, crashing_machine, pack
from support.mutation import mutants
from support.shared import corpus, corpus_files, needs_corpus, truth
from support.synth.contexts import context_bytes
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.minidump import MinidumpModule, MinidumpPlan, MinidumpThread, build_minidump
from support.synth.pagetables import Paging
from support.synth.triagedump import TriagePlan, triage_bytes
from support.views import CountingView

from symcache.formats.dump.context import MOST_STACK_BYTES, faulting_instruction
from symcache.formats.view import BytesView, FileView
from symcache.inputs.crashstack import modules_on_stack
from symcache.inputs.detect import read_input
from symcache.inputs.kerneldump import read_kernel_dump
from symcache.inputs.minidump import read_minidump
from symcache.inputs.records import CrashStack, Module

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from symcache.inputs.records import Record


def stack_of(records: Iterable[Record]) -> CrashStack | None:
    """Return the stack of a dump, which is one at most."""
    found = [record for record in records if isinstance(record, CrashStack)]
    assert len(found) <= 1
    return found[0] if found else None


def words_of(records: Iterable[Record]) -> list[tuple[str, int]]:
    stack = stack_of(records)
    return [] if stack is None else [(each.module.name, each.words) for each in stack.modules]


# The decision alone.

A, B, C = (0x10000, 0x8000), (0x20000, 0x8000), (0x30000, 0x8000)
TOO_LOW, BETWEEN = 0xF000, 0x18000

CASES: dict[str, tuple[tuple[int, ...], tuple[int, ...], list[tuple[int, int]]]] = {
    "in the order of the stack": ((), (0x32000, 0x12000, 0x33000), [(2, 2), (0, 1)]),
    "the faulting instruction's module before all": ((0x22000,), (0x32000, 0x22000), [(1, 1), (2, 1)]),
    "the faulting instruction's module though no word points into it": ((0x22000,), (0x32000,), [(1, 0), (2, 1)]),
    "not what lies outside of modules": ((0, TOO_LOW), (0, TOO_LOW, BETWEEN, 0x38000, 1 << 63), []),
    "last what is only pointed to as a whole": ((), (0x10000, 0x22000, 0x30FFF), [(1, 1), (0, 1), (2, 1)]),
    "where it returns to what is pointed to as a whole as well": ((), (0x22000, 0x10000, 0x12000), [(1, 1), (0, 2)]),
    "the last byte of a module": ((), (0x17FFF,), [(0, 1)]),
}


@pytest.mark.parametrize("case", CASES)
def test_on_the_stack_is(case: str) -> None:
    instructions, words, expected = CASES[case]
    assert modules_on_stack(instructions, words, [A, B, C]) == expected


def test_ranges_may_overlap_be_empty_or_begin_at_one_address() -> None:
    ranges = [(0x10000, 0), (0x10000, 0x9000), (0x10000, 0x9000), (0x12000, 0x2000), (1 << 64, 1)]
    assert modules_on_stack([], [0x11000, 0x13000], ranges) == [(1, 1), (3, 1)]
    assert modules_on_stack([0x11000], [], []) == []


@given(
    st.lists(st.integers(0, 60).map(lambda page: (page * 0x8000, 0x6000)), unique=True),
    st.lists(st.integers(0, 0x1F0000), max_size=4),
    st.lists(st.integers(0, 0x1F0000), max_size=40),
)
def test_every_module_pointed_into_is_on_the_stack_once(
    ranges: list[tuple[int, int]], instructions: list[int], words: list[int]
) -> None:
    found = modules_on_stack(instructions, words, ranges)
    inside = {
        index: [word for word in words if base <= word < base + size] for index, (base, size) in enumerate(ranges)
    }
    named = {
        index
        for index, (base, size) in enumerate(ranges)
        if any(address and base <= address < base + size for address in instructions)
    }
    assert dict(found) == {index: len(inside[index]) for index in inside if inside[index] or index in named}
    assert len(dict(found)) == len(found)
    assert {index for index, _ in found[: len(named)]} == named


@pytest.mark.parametrize(
    ("code", "which"),
    [
        (0x0A, 3),
        (0xD1, 3),
        (0xD4, 3),
        (0x50, 2),
        (0x1E, 1),
        (0x3B, 1),
        (0x7E, 1),
        (0x1000007E, 1),
        (0xD5, 2),
        (0xCE, 2),
    ],
)
def test_a_bug_check_names_the_instruction(code: int, which: int) -> None:
    assert faulting_instruction(code, (10, 11, 12, 13)) == 10 + which


@pytest.mark.parametrize("code", [None, 0, 0xE2, 0xC000021A])
def test_other_bug_checks_name_none(code: int | None) -> None:
    assert faulting_instruction(code, (10, 11, 12, 13)) == 0


# Kernel dumps. The drivers of `kernel_plan`, in their order:

NT, HAL, FLTMGR, SECDRV, STORNVME, COPY, WIN32K = range(7)


def kernel_records(dump: bytes) -> list[Record]:
    return list(read_kernel_dump(BytesView(dump), "MEMORY.DMP"))


# Of `crashing_machine`.
EXPECTED = [("ntoskrnl.exe", 2), ("secdrv.sys", 2), ("FLTMGR.SYS", 1), ("hal.dll", 1)]
KINDS = [kind for kind in DumpKind if kind not in {DumpKind.HEADER, DumpKind.TRIAGE}]


@pytest.mark.parametrize("paging", PAGINGS)
@pytest.mark.parametrize("kind", KINDS)
def test_a_kernel_dump_names_the_modules_on_its_stack(kind: DumpKind, paging: Paging) -> None:
    machine, top, _ = crashing_machine(paging)
    plan = DumpPlan(kind, registers=(machine.bases[NT] + 0x1234, top, 0))
    assert words_of(kernel_records(dump_bytes(machine, plan))) == EXPECTED


def test_the_driver_that_a_bug_check_blames_comes_before_the_kernel_that_stopped() -> None:
    machine, top, _ = crashing_machine(Paging.X64)
    blamed = machine.bases[WIN32K] + 0x1500
    plan = DumpPlan(registers=(machine.bases[NT] + 0x1234, top, 0), bugcheck=(0xD1, 0x28, 2, 0, blamed))
    assert words_of(kernel_records(dump_bytes(machine, plan))) == [("win32k.sys", 0), *EXPECTED]


def test_what_else_the_crash_names_comes_before_the_rest_of_the_stack() -> None:
    machine, top, _ = crashing_machine(Paging.X64)
    plan = DumpPlan(
        registers=(machine.bases[STORNVME] + 0x1234, top, 0),
        exception=machine.bases[FLTMGR] + 0x1000,
        bugcheck=(0xC4, machine.bases[HAL] + 0x1800, 0, 0, 0),
    )
    names = [name for name, _ in words_of(kernel_records(dump_bytes(machine, plan)))]
    assert names == ["stornvme.sys", "FLTMGR.SYS", "hal.dll", "ntoskrnl.exe", "secdrv.sys"]


def test_the_link_register_counts() -> None:
    machine, _, _ = crashing_machine(Paging.ARM64)
    plan = DumpPlan(registers=(machine.bases[NT] + 0x1000, 0, machine.bases[SECDRV] + 0x1100))
    assert words_of(kernel_records(dump_bytes(machine, plan))) == [("ntoskrnl.exe", 0), ("secdrv.sys", 0)]


def test_return_addresses_of_arm64_are_known_by_their_address_though_signed() -> None:
    machine, top, words = crashing_machine(Paging.ARM64)
    signed = [word & ~(0x5A7F << 48) if word >> 63 else word for word in words]
    machine.kernel.write(top, pack(8, signed))
    link = (machine.bases[WIN32K] + 0x1100) & ~(0x3301 << 48)
    plan = DumpPlan(registers=(machine.bases[NT] + 0x1234, top, link))
    assert signed != words
    assert words_of(kernel_records(dump_bytes(machine, plan))) == [EXPECTED[0], ("win32k.sys", 0), *EXPECTED[1:]]


def test_a_module_on_the_stack_is_the_one_that_was_listed() -> None:
    machine, top, _ = crashing_machine(Paging.X64)
    machine.kernel.page_out(machine.bases[SECDRV])
    records = kernel_records(dump_bytes(machine, DumpPlan(registers=(machine.bases[COPY] + 0x1234, top, 0))))
    listed = [record for record in records if isinstance(record, Module)]
    stack = stack_of(records)
    assert stack is not None
    assert all(each.module in listed for each in stack.modules)
    assert stack.modules[0].module.name == "dump_stornvme.sys"


def test_words_lie_where_the_processor_aligns_them() -> None:
    machine, top, _ = crashing_machine(Paging.X64)
    plan = DumpPlan(registers=(machine.bases[NT] + 0x1234, top - 3, 0))
    assert words_of(kernel_records(dump_bytes(machine, plan))) == EXPECTED


def test_a_stack_ends_where_memory_does() -> None:
    machine, top, words = crashing_machine(Paging.X64)
    page = top & -0x1000
    machine.kernel.write(page + 0x1000 - 8, pack(8, [machine.bases[STORNVME] + 0x1111]))
    plan = DumpPlan(registers=(0, top, 0))
    whole = words_of(kernel_records(dump_bytes(machine, plan)))
    assert whole == [*EXPECTED[:3], ("stornvme.sys", 1), EXPECTED[3]]
    machine.kernel.page_out(page)
    assert words_of(kernel_records(dump_bytes(machine, plan))) == []
    assert len(words) * 8 < 0x1000


@pytest.mark.parametrize("kind", [*KINDS, DumpKind.HEADER])
def test_without_registers_there_is_no_stack(kind: DumpKind) -> None:
    machine, _, _ = crashing_machine(Paging.X64)
    assert stack_of(kernel_records(dump_bytes(machine, DumpPlan(kind)))) is None


@pytest.mark.parametrize("top", [0, 8, 0x1234, 1 << 63, (1 << 64) - 8, (1 << 64) - 1, 0xFFFFE0000FFFF000])
def test_a_stack_pointer_that_leads_nowhere_leaves_the_instruction(top: int) -> None:
    machine, _, _ = crashing_machine(Paging.X64)
    dump = dump_bytes(machine, DumpPlan(registers=(machine.bases[HAL] + 0x1000, top, 0)))
    assert words_of(kernel_records(dump)) == [("hal.dll", 0)]


def test_of_a_stack_no_more_is_read_than_any_kernel_stack_has() -> None:
    machine, top, _ = crashing_machine(Paging.X64, pages=256)
    deep = machine.bases[STORNVME] + 0x1111
    machine.kernel.write(top + MOST_STACK_BYTES - 8, pack(8, [deep]))
    machine.kernel.write(top + MOST_STACK_BYTES, pack(8, [machine.bases[WIN32K] + 0x1111]))
    costs, stacks = [], []
    for registers in (None, (0, top, 0)):
        view = CountingView(BytesView(dump_bytes(machine, DumpPlan(registers=registers))))
        stacks.append(words_of(read_kernel_dump(view, "MEMORY.DMP")))
        costs.append(view.read_bytes)
    names = [name for name, _ in stacks[1]]
    assert names == ["ntoskrnl.exe", "secdrv.sys", "FLTMGR.SYS", "stornvme.sys", "hal.dll"]
    assert costs[1] - costs[0] <= MOST_STACK_BYTES + 0x2000  # and CONTEXT, and pieces of page tables


# Triage dumps.


@pytest.mark.parametrize("paging", [Paging.X64, Paging.ARM64, Paging.X86, Paging.PAE])
@pytest.mark.parametrize("inside", [True, False], ids=["registers within the stack", "registers elsewhere"])
def test_a_triage_dump_names_the_modules_on_its_stack(paging: Paging, inside: bool) -> None:
    machine, top, words = crashing_machine(paging)
    width = machine.pointer_size
    above = machine.bases[STORNVME] + 0x2345
    plan = TriagePlan(
        DumpPlan(registers=(machine.bases[NT] + 0x1234, top if inside else 0x1000, 0)),
        stack=(top - width, pack(width, [above, *words])),
    )
    rest = [] if inside else [("stornvme.sys", 1)]
    assert words_of(kernel_records(triage_bytes(machine, plan))) == [EXPECTED[0], *rest, *EXPECTED[1:]]


def test_a_triage_dump_without_a_stack_tells_the_instruction() -> None:
    machine, top, _ = crashing_machine(Paging.X64)
    dump = triage_bytes(machine, TriagePlan(DumpPlan(registers=(machine.bases[HAL] + 0x1234, top, 0))))
    assert words_of(kernel_records(dump)) == [("hal.dll", 0)]
    assert stack_of(kernel_records(triage_bytes(machine))) is None


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("kernel-triage"))
def test_a_real_triage_dump_names_the_driver_that_raised_the_exception(name: str) -> None:
    """The counts are made again here from the bytes of the stack and the modules that Microsoft's debugger lists."""
    fact = truth()[name]
    raw = (corpus / name).read_bytes()
    size, at = struct.unpack_from("<I", raw, 0x202C)[0], struct.unpack_from("<I", raw, 0x2028)[0]
    (start,) = struct.unpack_from("<Q", raw, 0x2048)
    (top,) = struct.unpack_from("<Q", raw, 0x348 + 0x98)
    stack = raw[at : at + size][top - start :]
    places = [(each["path"], int(each["base"], 16), int(each["size"], 16)) for each in fact["modules"]]

    def owner(address: int) -> str | None:
        return next((path for path, base, length in places if base <= address < base + length), None)

    counts: dict[str, int] = {}
    for (word,) in islice(struct.iter_unpack("<Q", stack[: len(stack) & ~7]), MOST_STACK_BYTES // 8):
        if (path := owner(word)) is not None:
            counts[path] = counts.get(path, 0) + 1
    with FileView(corpus / name) as view:
        found = stack_of(read_kernel_dump(view, name))
    assert found is not None
    assert {each.module.path: each.words for each in found.modules if each.words} == counts
    assert fact["bugcheck"] == "0x1000007E"
    assert found.modules[0].module.path == owner(int(fact["bugcheck_args"][1], 16))


# User minidumps.

APP = MinidumpModule("C:\\app\\app.exe", 0x1_0000, 0x9000, 0x5AB38077)
NTDLL = MinidumpModule("C:\\Windows\\ntdll.dll", 0x7700_0000, 0x9000, 0x5AB38078)
GONE = MinidumpModule("C:\\app\\gone.dll", 0x7600_0000, 0x9000, 0x5AB38079)
STACK = 0x30_0000
WORDS = [1, NTDLL.base_va + 0x1500, GONE.base_va + 0x1500, APP.base_va + 0x2000, NTDLL.base_va + 0x1700]
FAULT = (0xC0000005, APP.base_va + 0x1000)
FOUND = [("app.exe", 1), ("ntdll.dll", 2)]
PROCESSORS = {"x86": (0, 4), "ARM": (5, 4), "x64": (9, 8), "ARM64": (12, 8), "ARM64 by Breakpad": (0x8003, 8)}


def minidump(cpu: int, width: int, **more: object) -> MinidumpPlan:
    """Return a dump of a thread that crashed in `APP`."""
    context = context_bytes(cpu, NTDLL.base_va + 0x1600, STACK)
    plan = MinidumpPlan(
        [NTDLL, APP],
        unloaded=[GONE],
        processor=cpu,
        memory=[(STACK, pack(width, WORDS))],
        exception=FAULT,
        exception_context=context,
        thread=(STACK, context_bytes(cpu, NTDLL.base_va + 0x1600, 0x1000)),
    )
    return replace(plan, **more)  # type: ignore[arg-type]


def minidump_records(plan: MinidumpPlan) -> list[Record]:
    return list(read_minidump(BytesView(build_minidump(plan)), "app.dmp"))


@pytest.mark.parametrize("processor", PROCESSORS)
def test_a_minidump_names_the_modules_on_the_stack_of_the_exceptions_thread(processor: str) -> None:
    records = minidump_records(minidump(*PROCESSORS[processor]))
    assert words_of(records) == FOUND
    stack = stack_of(records)
    assert stack is not None
    assert stack.thread == "1, which raised the exception"


def test_a_stack_may_lie_in_the_memory_of_a_full_dump() -> None:
    assert words_of(minidump_records(minidump(9, 8, memory=[], memory64=[(STACK, pack(8, WORDS))]))) == FOUND


def test_a_stack_may_lie_where_only_the_list_of_threads_leads_to() -> None:
    other = context_bytes(9, GONE.base_va, 0x1000)
    threads = [
        MinidumpThread(1, other, STACK + 0x1000, pack(8, [GONE.base_va] * 3)),
        MinidumpThread(7, context_bytes(9, NTDLL.base_va + 0x1600, STACK), STACK, pack(8, WORDS)),
    ]
    plan = minidump(9, 8, memory=[], thread=None, threads=threads, exception_thread=7, exception_context=b"")
    assert words_of(minidump_records(plan)) == FOUND


def test_without_an_exception_the_thread_that_asked_for_the_dump_counts_else_the_first() -> None:
    threads = [
        MinidumpThread(3, context_bytes(9, APP.base_va + 0x1600, 0x1000)),
        MinidumpThread(5, context_bytes(9, NTDLL.base_va + 0x1600, 0x1000)),
    ]
    plan = minidump(9, 8, exception=None, thread=None, threads=threads)
    first = stack_of(minidump_records(plan))
    assert first is not None
    assert first.thread == "3, the first"
    assert [each.module.name for each in first.modules] == ["app.exe"]
    asking = (0x47670001, struct.pack("<III", 3, 3, 5))
    asked = stack_of(minidump_records(replace(plan, more_streams=[asking])))
    assert asked is not None
    assert asked.thread == "5, which asked for the dump"
    assert [each.module.name for each in asked.modules] == ["ntdll.dll"]
    gone = (0x47670001, struct.pack("<III", 3, 3, 99))
    assert stack_of(minidump_records(replace(plan, more_streams=[gone]))) == first


def test_a_64_bit_thread_that_runs_32_bit_code_crashed_on_its_32_bit_stack() -> None:
    reserved, teb, stack32 = 0x20_0000, 0x7FFD_E000, 0x40_0000
    registers = context_bytes(0, APP.base_va + 0x1800, stack32)
    plan = minidump(
        9,
        8,
        exception=None,
        thread=None,
        threads=[MinidumpThread(2, context_bytes(9, NTDLL.base_va + 0x1600, STACK), teb=teb)],
        memory=[
            (STACK, pack(8, [NTDLL.base_va + 0x1500])),
            (teb + 0x1488, pack(8, [reserved])),
            (reserved, struct.pack("<HH", 1, 0x14C) + registers),
            (stack32, pack(4, [APP.base_va + 0x1900, APP.base_va + 0x1950])),
        ],
    )
    assert words_of(minidump_records(plan)) == [("app.exe", 2), ("ntdll.dll", 1)]


@pytest.mark.parametrize(
    "change",
    [
        {"exception_context": b"", "thread": None},
        {"exception_context": bytes(1232), "thread": (STACK, bytes(1232))},
        {"exception_context": context_bytes(0, NTDLL.base_va, STACK), "thread": None},
        {"processor": 6, "thread": None},
        {"memory": [], "thread": None},
    ],
    ids=["no registers", "empty registers", "registers of another processor", "unknown processor", "no memory"],
)
def test_without_registers_or_stack_the_exception_alone_tells(change: dict[str, object]) -> None:
    (first, *_) = words_of(minidump_records(minidump(9, 8, **change)))
    assert first == ("app.exe", 0)


def test_a_minidump_without_threads_or_exception_has_no_stack() -> None:
    assert stack_of(minidump_records(minidump(9, 8, exception=None, thread=None))) is None


# The ids are those that the PyPI packages minidump 0.0.24 and udmp-parser report, as the exception's thread or, where
# there is none, the first. What is first on the stack holds the address of the exception that they report, 0 apart.
REAL = {
    "bp_ascii_read_av.dmp": (4204, "crashme.exe"),
    "bp_null_read_av.dmp": (1192, "crashme.exe"),
    "bp_stack_exhaustion.dmp": (5744, "crashme.exe"),
    "bp_thread_name_list.dmp": (10976, "allocer32.exe"),
    "bp_tiny-exe-with-cet-xsave.dmp": (1468, "ntdll.dll"),
    "calc_x86.dmp": (1628, "ntdll.dll"),
    "rm_invalid-parameter.dmp": (5896, "CrashTest.exe"),
    "rm_linux-mini.dmp": (1304, "crash"),
    "rm_simple-crashpad.dmp": (927532, "libsystem_kernel.dylib"),
    "symbolicator_linux.dmp": (1304, "crash"),
    "symbolicator_windows_crash_x86.dmp": (1636, "crash.exe"),
}


@needs_corpus
@pytest.mark.parametrize("name", corpus_files("user-minidump"))
def test_a_real_minidump_names_the_program_that_crashed(name: str) -> None:
    thread, first = REAL[name.partition("/")[2]]
    with FileView(corpus / name) as view:
        stack = stack_of(read_minidump(view, name))
    assert stack is not None
    assert stack.thread is not None
    assert stack.thread.partition(",")[0] == str(thread)
    names = [each.module.name for each in stack.modules]
    assert names[0] == first
    if truth()[name]["os"] == "windows" and "exhaustion" not in name:  # that stack's end lies beyond what is read
        assert {"ntdll.dll", "kernel32.dll"} <= {each.lower() for each in names}


# Hostile ones.


@cache
def crashing_dumps() -> dict[str, tuple[bytes, Callable[[BytesView, str], Iterable[Record]]]]:
    machine, top, words = crashing_machine(Paging.X64)
    plan = DumpPlan(DumpKind.BITMAP_KERNEL, registers=(machine.bases[NT] + 0x1234, top, 0))
    triage = TriagePlan(plan, stack=(top, pack(8, words)))
    return {
        "kernel": (dump_bytes(machine, plan), read_kernel_dump),
        "triage": (triage_bytes(machine, triage), read_kernel_dump),
        "minidump": (build_minidump(minidump(9, 8)), read_minidump),
    }


@pytest.mark.parametrize("kind", ["kernel", "triage", "minidump"])
def test_damaged_dumps_end_in_an_error_of_the_input_or_in_records(
    kind: str, record_property: Callable[[str, object], None]
) -> None:
    dump, read = crashing_dumps()[kind]
    assert stack_of(read(BytesView(dump), "x.dmp")) is not None
    told = []

    def take(data: bytes) -> None:
        stack = stack_of(read(BytesView(data), "x.dmp"))
        told.append(stack is not None)
        assert stack is None or (stack.modules and all(not each.module.unloaded for each in stack.modules))

    measure(mutants(dump, 400, hot=0x2100), take).check(record_property)
    assert any(told)


@pytest.mark.parametrize("kind", ["kernel", "triage", "minidump"])
def test_a_dump_in_a_folder_has_its_stack_too(kind: str, tmp_path: Path) -> None:
    dump, read = crashing_dumps()[kind]
    (tmp_path / "a.dmp").write_bytes(dump)
    assert stack_of(read_input(str(tmp_path))) == stack_of(read(BytesView(dump), "x.dmp"))
