from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

import pytest

from symcache.doctor import stores
from symcache.doctor.finding import Finding, Rating
from symcache.doctor.stores import examine_store
from symcache.stores.local.mounts import Mount, find_mount

if TYPE_CHECKING:
    from pathlib import Path


def by_check(root: Path) -> dict[str, Finding]:
    return {finding.check: finding for finding in examine_store(root)}


def test_a_store_that_is_well_is_fine_and_left_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "app.pdb").mkdir()
    found = by_check(tmp_path)
    assert {finding.rating for check, finding in found.items() if check != "room"} == {Rating.FINE}
    assert {"file system", "writing", "locks", "flushes", "letter case", "room", "contents"} <= found.keys()
    assert not list(tmp_path.rglob("*.part"))
    assert found["contents"].text == "1 folders"


def test_a_store_that_is_not_there_yet_is_no_fault(tmp_path: Path) -> None:
    (finding,) = examine_store(tmp_path / "new" / "sym")
    assert finding.rating is Rating.FINE


def test_a_file_in_place_of_a_store_is_wrong(tmp_path: Path) -> None:
    (tmp_path / "sym").write_bytes(b"")
    (finding,) = examine_store(tmp_path / "sym")
    assert finding.rating is Rating.WRONG


def test_what_else_lies_in_a_store_is_named(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_bytes(b"")
    (tmp_path / "pingme.txt").write_bytes(b"")
    finding = by_check(tmp_path)["contents"]
    assert finding.rating is Rating.WARNING
    assert "notes.txt" in finding.text
    assert "pingme" not in finding.text


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has access lists in place of modes")
@pytest.mark.parametrize(("mode", "advice"), [(0o777, "chmod o-w"), (0o775, "--shared"), (0o2775, ""), (0o755, "")])
def test_rights_that_surprise_are_named(mode: int, advice: str, tmp_path: Path) -> None:
    tmp_path.chmod(mode)
    finding = by_check(tmp_path)["rights"]
    assert finding.rating is (Rating.WARNING if advice else Rating.FINE)
    assert advice in finding.advice


def test_a_flush_that_is_refused_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_: int) -> None:
        raise OSError(22, "Invalid argument")

    monkeypatch.setattr(os, "fsync", refuse)
    assert by_check(tmp_path)["flushes"].rating is Rating.WARNING


def test_locks_that_other_machines_do_not_see_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "find_mount", lambda _: Mount("nfs4", ("rw", "local_lock=all"), is_network=True))
    found = by_check(tmp_path)
    assert "other machines" in found["file system"].text
    assert "lease" in found["locks"].text


def test_little_room_is_a_warning_and_none_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free_bytes, rating in ((1 << 20, Rating.WRONG), (1 << 30, Rating.WARNING), (1 << 40, Rating.FINE)):
        monkeypatch.setattr(stores, "free_bytes", lambda _, free=free_bytes: free)
        assert by_check(tmp_path)["room"].rating is rating


@pytest.mark.skipif(sys.platform != "linux", reason="reads the mounts of Linux")
def test_the_mount_of_a_folder_is_the_nearest_one(tmp_path: Path) -> None:
    assert find_mount(tmp_path).kind
    assert not find_mount(tmp_path).is_network
