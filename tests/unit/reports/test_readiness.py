from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from uuid import UUID

import pytest

from symcache.identity import ImageKey, PdbKey
from symcache.inputs.records import ImageUse, Input, InputKind
from symcache.reports.readiness import readiness
from symcache.reports.text import _debugger_lines, report_lines
from symcache.stores.results import Cause, Hint, Missing, Present
from symcache.warm.plan import FileKind
from symcache.warm.report import Report, Symbol

STORE, BUNDLE = Path("/sym"), Path("/crash.symbols")


@pytest.mark.parametrize(
    ("present", "line"),
    [
        (Present(STORE / "a.pdb", 5), f"in the debugger: .sympath srv*{STORE}"),
        (Present(Path("/share/a.pdb"), 5), "in the debugger: .sympath srv*a*b"),
        (
            Present(BUNDLE, 5, in_bundle=True),
            "in the debugger: nothing of what lies in a bundle, until `symcache warm` has copied it into the store",
        ),
    ],
)
def test_what_to_type_next_is_what_will_work(present: Present, line: str) -> None:
    symbol = Symbol(PdbKey("a.pdb", UUID(int=1), 1).index, FileKind.PDB, "a.sys", present)
    report = Report("srv*a*b", STORE, 1.0, [symbol], inputs=(Input("MEMORY.DMP", InputKind.KERNEL_DUMP),))
    assert list(_debugger_lines(report, None)) == ["all modules: symbols for all 1", line]


DUMP = (Input("MEMORY.DMP", InputKind.MINIDUMP),)


def pdb_of(module: str, outcome: Present | Missing, *, on_stack: bool = False) -> Symbol:
    return Symbol(PdbKey(f"{module}.pdb", UUID(int=1), 1).index, FileKind.PDB, module, outcome, on_stack=on_stack)


def test_of_a_run_for_the_stack_alone_nothing_is_said_of_other_modules() -> None:
    symbols = [pdb_of("ntoskrnl.exe", Present(STORE / "a", 5), on_stack=True)]
    report = Report("srv*", STORE, 1.0, symbols, inputs=DUMP, stack_only=True)
    assert list(map(str, readiness(report))) == ["the crash's stack: symbols for all 1"]


@pytest.mark.parametrize(
    ("cause", "said"),
    [
        (Cause.EXCLUDED, "symbols for 0 of 1; none for a.sys"),
        (Cause.KNOWN_MISSING, "symbols for 0 of 1; none for a.sys"),
        (Cause.NOT_CACHED, "symbols for 0 of 1; none for a.sys"),
        (Cause.EMBEDDED, "symbols for all 1"),
        (Cause.NO_DEBUG_RECORD, "symbols for all 1"),
    ],
)
def test_what_was_left_out_is_not_there(cause: Cause, said: str) -> None:
    report = Report("srv*", STORE, 1.0, [pdb_of("a.sys", Missing(cause))], inputs=DUMP)
    assert list(map(str, readiness(report))) == [f"all modules: {said}"]


def test_of_a_dump_of_another_system_no_debugger_of_windows_is_spoken() -> None:
    symbol = pdb_of("libc.so", Missing(Cause.NO_IDENTITY, hint=Hint.FOREIGN_SYSTEM))
    assert list(_debugger_lines(Report("srv*", STORE, 1.0, [symbol], inputs=DUMP), None)) == []


def test_what_is_to_be_typed_is_one_line_in_any_terminal() -> None:
    store, reload = Path("/a folder/with many blanks/sym"), ".reload /f a.sys=fffff80012340000,9000,0`5f001122"
    image = Symbol(
        ImageKey("a.sys", 0x5F001122, 0x9000).index,
        FileKind.IMAGE,
        "a.sys",
        Present(store / "a.sys", 5),
        use=ImageUse.BY_HAND,
        reload=reload,
    )
    lines = list(report_lines(Report("srv*", store, 1.0, [image], inputs=DUMP), width=20))
    assert f"in the debugger: .sympath srv*{store}" in lines
    assert f"  {reload}" in lines


def test_a_dump_in_a_folder_is_a_dump(tmp_path: Path) -> None:
    folder = (Input(str(tmp_path), InputKind.FOLDER),)
    on_stack, other = (pdb_of("a.sys", Present(STORE / "a", 5), on_stack=each) for each in (True, False))
    report = Report("srv*", STORE, 1.0, [on_stack], inputs=folder)
    assert list(map(str, readiness(report))) == [
        "the crash's stack: symbols for all 1",
        "all modules: symbols for all 1",
    ]
    assert not list(readiness(replace(report, symbols=[other])))
