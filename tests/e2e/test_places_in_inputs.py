"""Paths that stand in inputs are names: nothing is opened there, on shares least of all, which learn who one is."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.stores import APP, IMAGE, StoreShell
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pe import CodeViewPlan, disk_bytes, plan_image

from symcache.errors import SymcacheError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.upstream import Upstream

PLACES = {
    "share": r"\\evil.example\share\app.pdb",
    "device": r"\\?\UNC\evil.example\share\app.pdb",
    "url": "http://evil.example/app.pdb",
    "file url": "file://evil.example/share/app.pdb",
    "slashes": "//evil.example/share/app.pdb",
    "absolute": "/evil.example/app.pdb",
    "upwards": r"..\..\evil.example\app.pdb",
}
_touched: list[str] = []


def _note(event: str, arguments: tuple[object, ...]) -> None:
    if event.startswith(("open", "os.", "socket.", "subprocess.", "shutil.", "pathlib.")):
        _touched.extend(f"{event}: {each!r}" for each in arguments if "evil.example" in repr(each))


@pytest.fixture(scope="module", autouse=True)
def watched() -> None:
    sys.addaudithook(_note)  # it stays, and costs others little


@pytest.fixture(autouse=True)
def touched() -> Iterator[list[str]]:
    _touched.clear()
    yield _touched
    _touched.clear()


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_a_path_in_an_input_is_not_looked_at(
    place: str, tmp_path: Path, upstream: Upstream, touched: list[str]
) -> None:
    image = replace(plan_image(IMAGE, APP), code_views=(CodeViewPlan(place, APP.guid, APP.age),))
    (tmp_path / "app.exe").write_bytes(disk_bytes(image))
    module = MinidumpModule(
        place.replace(".pdb", ".exe"), 0x10000, IMAGE.size_of_image, IMAGE.timestamp, rsds_record(UUID(int=5), 1, place)
    )
    (tmp_path / "app.dmp").write_bytes(build_minidump(MinidumpPlan((module,))))
    (tmp_path / "list.txt").write_text(f"{place},{APP.id},1\n{place.replace('.pdb', '.exe')},{IMAGE.id},1\n")
    (tmp_path / "app.pdb.ptr").write_text(f"PATH:{place}")
    shell = StoreShell(tmp_path / "store", f"srv*{tmp_path / 'store'}*{upstream.url}")
    for name in ("app.exe", "app.dmp", "list.txt"):
        for command in ("warm", "check"):
            shell(command, tmp_path / name, "--images", "all", group=None)
    for command in ("scan", "inspect"):
        with_path = [] if command == "scan" else ["--json"]
        try:
            shell(command, tmp_path / "app.exe", *with_path, group=None)
        except SymcacheError:
            pytest.fail(f"{command} does not read the image")
    assert touched == []
    assert upstream.requests, "something was looked for"


def test_what_is_looked_at_is_noted(tmp_path: Path, touched: list[str]) -> None:
    with pytest.raises(FileNotFoundError):
        (tmp_path / "evil.example").open()
    assert touched != []
