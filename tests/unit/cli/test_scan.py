from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from symcache.cli.scan import _Scan
from symcache.errors import StoreError
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
        yield Module("c.sys", problem="paged out")
        raise end

    scan = _Scan()
    with pytest.raises(type(end)):
        scan.write_json(scan.watch(records()))
    document = json.loads(capsys.readouterr().out)
    assert [module["name"] for module in document["modules"]] == ["a.sys", "c.sys"]
    assert [item["path"] for item in document["inputs"]] == ["drivers"]
    assert [item["path"] for item in document["unreadable"]] == ["b.sys"]
