from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from symcache.cli.scan import _Scan, _write_text
from symcache.errors import StoreError
from symcache.formats.pe.version import VersionInfo
from symcache.inputs.records import Input, InputKind, Module, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.inputs.records import Record


@pytest.mark.parametrize(
    "end", [KeyboardInterrupt(), StoreError("the disk is full", path=Path("list"))], ids=["interrupt", "full disk"]
)
def test_a_document_that_is_ended_early_is_whole(end: BaseException, capsys: pytest.CaptureFixture[str]) -> None:
    def records() -> Iterator[Record]:
        yield Input("drivers", InputKind.FOLDER)
        yield Module("a.sys", problem="paged out")
        yield Unreadable("b.sys", "it is empty", 0)
        yield Module("c.sys", problem="paged out", version=VersionInfo(company="Example", file_numbers=(1, 0, 0, 4)))
        raise end

    scan = _Scan()
    with pytest.raises(type(end)):
        scan.write_json(scan.watch(records()))
    document = json.loads(capsys.readouterr().out)
    assert [module["name"] for module in document["modules"]] == ["a.sys", "c.sys"]
    assert "version" not in document["modules"][0]
    version = document["modules"][1]["version"]
    assert (version["company"], version["file_numbers"], version["product"]) == ("Example", "1.0.0.4", None)
    assert [item["path"] for item in document["inputs"]] == ["drivers"]
    assert [item["path"] for item in document["unreadable"]] == ["b.sys"]


def test_what_is_wrong_with_many_modules_is_said_once_and_processes_are_named(
    capsys: pytest.CaptureFixture[str],
) -> None:
    drivers = [Module(f"{number}.sys", problem="paged out") for number in range(6)]
    users = [Module("a.exe", process="a.exe (4)"), Module("b.dll", process="a.exe (4)", problem="cut")]
    _write_text(iter([*drivers, *users]))
    assert capsys.readouterr().out.splitlines() == [
        *(f"{number}.sys  -" for number in range(6)),
        "",
        "a.exe (4):",
        "a.exe  -",
        "b.dll  -",
        "",
        "0.sys, 1.sys, 2.sys, 3.sys and 2 more: paged out",
        "b.dll: cut",
    ]
