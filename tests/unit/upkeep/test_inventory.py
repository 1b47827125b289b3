from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.errors import InputError, StoreError, UnknownFormat
from symcache.upkeep import inventory
from symcache.upkeep.inventory import read_listing

if TYPE_CHECKING:
    from pathlib import Path

    from _pytest.tmpdir import TempPathFactory

INDEX = "a b.pdb/7578144C39C4468394EF84F01549113A3/a b.pdb"
ROWS = [
    ("plain", 10, INDEX),
    ("compressed", 10, "B.exe/5E0B123421000/B.exe"),
    ("pointer", 10, "c.exe/5E0B123421000/c.exe"),
    ("msfz", 10, "d.exe/5E0B123421000/d.exe"),
    ("plain", 0, "e.exe/5E0B123421000/e.exe"),
    ("plain", 10, "con/x/con"),
]
COUNTED = {INDEX.lower(), "b.exe/5e0b123421000/b.exe"}


def as_text() -> str:
    return "".join(f"{form:<10}  {'-':<9}  {size:>12}  {index}\n" for form, size, index in ROWS)


def as_json() -> str:
    files = [{"index": index, "path": "x", "form": form, "bytes": size, "symbols": None} for form, size, index in ROWS]
    return json.dumps({"schema": "symcache.files/1", "store": "x", "files": files}, indent=1)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le"])
@pytest.mark.parametrize("text", [as_text(), as_json(), as_text().replace("\n", "\r\n\r\n")])
def test_files_that_a_store_can_give_are_counted(text: str, encoding: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_bytes(text.encode(encoding))
    assert read_listing(tmp_path / "list") == COUNTED


def test_an_empty_list_is_that_of_an_empty_store(tmp_path: Path) -> None:
    (tmp_path / "list").write_text("\n")
    assert read_listing(tmp_path / "list") == set()


@pytest.mark.parametrize(
    "text",
    [
        as_text() + "0000000001,add,file,now\n",
        "{",
        "{}",
        '{"schema": "symcache.files/1", "files": [1]}',
        '{"schema": "symcache.files/1", "files": [{"index": "x"}]}',
        '{"schema": "symcache.files/1", "files": [{"index": "x", "form": "plain", "bytes": Infinity}]}',
        '{"schema": "symcache.transactions/1", "files": []}',
        '{"a":' * 100_000,
    ],
)
def test_another_text_is_no_list(text: str, tmp_path: Path) -> None:
    (tmp_path / "list").write_text(text)
    with pytest.raises(UnknownFormat, match="store list --files"):
        read_listing(tmp_path / "list")


def test_a_list_that_is_too_long_or_absent_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "list").write_text(as_text())
    monkeypatch.setattr(inventory, "_LARGEST_LIST_BYTES", 100)
    with pytest.raises(InputError, match="too long"):
        read_listing(tmp_path / "list")
    with pytest.raises(StoreError):
        read_listing(tmp_path / "absent")


@given(st.binary(max_size=200) | st.text(max_size=200).map(str.encode))
def test_nothing_else_is_raised(tmp_path_factory: TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "any"
    path.write_bytes(data)
    with suppress(InputError):
        assert read_listing(path) == set()
