"""What changes for something new, each in one or two files; another kind of store is in stores/test_base.py."""

from __future__ import annotations

import csv
import io
import struct
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from symcache.formats.dump.paging import AddressSpace, Level, PageTables, PagingMode
from symcache.formats.view import BytesView
from symcache.inputs.detect import InputOptions
from symcache.inputs.records import InputKind
from symcache.stores.results import Attempt, Cause, Missing, Present
from symcache.warm.plan import FileKind
from symcache.warm.report import Report, Symbol

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_a_paging_mode_is_a_row_of_numbers() -> None:
    """Two levels of 16 entries each, as no processor has them; see `symcache.formats.dump.paging`."""
    mode = PagingMode("toy", 32, 4, 0xFFFFF000, 0xFFFFF000, (Level(16, 4), Level(12, 4)))
    memory = bytearray(0x4000)
    struct.pack_into("<I", memory, 0x1000 + 3 * 4, 0x2000 | 1)  # the root's entry 3 leads to the table at 0x2000
    struct.pack_into("<I", memory, 0x2000 + 5 * 4, 0x3000 | 1)  # whose entry 5 maps the page at 0x3000
    memory[0x3123:0x3128] = b"hello"
    space = AddressSpace(PageTables(BytesView(bytes(memory))), mode, 0x1000)
    assert space.read(0x35123, 5) == b"hello"


# A folder is walked, the others read themselves.
_WITHOUT_READER = {InputKind.FOLDER, InputKind.BUILD, InputKind.LIVE_KERNEL, InputKind.PROCESS}


@pytest.mark.parametrize("kind", [kind for kind in InputKind if kind not in _WITHOUT_READER])
def test_a_kind_of_input_is_a_name_and_a_reader(kind: InputKind) -> None:
    """The name in `symcache.inputs.records`, the reader in a module of its own, both in a line of `inputs.detect`."""
    assert callable(InputOptions().reader(kind))


def test_a_format_of_the_report_is_a_function_of_the_report() -> None:
    missing = Missing(Cause.NOT_PUBLISHED, (Attempt("https://symbols.example", "404"),))
    report = Report(
        "srv*",
        None,
        1.0,
        [
            Symbol("a.pdb/1/a.pdb", FileKind.PDB, "a.sys", Present(Path("sym", "a.pdb"), 3)),
            Symbol("b.pdb/1/b.pdb", FileKind.PDB, "b.sys", missing),
        ],
    )
    assert "".join(as_csv(report)).splitlines() == [
        "index,module,state,cause",
        "a.pdb/1/a.pdb,a.sys,present,",
        "b.pdb/1/b.pdb,b.sys,missing,not-published",
    ]


def as_csv(report: Report) -> Iterator[str]:
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["index", "module", "state", "cause"])
    writer.writerows([each.index, each.module, each.state, each.cause] for each in report.symbols)
    yield text.getvalue()
