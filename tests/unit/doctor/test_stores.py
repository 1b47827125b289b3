from __future__ import annotations

import errno
import os
import sys
import threading
from pathlib import Path

import anyio
import pytest

from symcache.config import Config
from symcache.doctor import run, stores
from symcache.doctor.finding import Finding, Rating
from symcache.doctor.stores import examine_store
from symcache.errors import StoreError
from symcache.stores.local import atomic, locks
from symcache.stores.local.mounts import Mount, find_mount
from symcache.stores.local.tree import Store
from symcache.sympath import parse_symbol_path
from symcache.upkeep.bundle import export_bundle


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


def test_a_bundle_in_place_of_a_store_is_looked_into(tmp_path: Path) -> None:
    bundle = tmp_path / "crash.symbols"
    with Store(tmp_path / "sym") as store:
        export_bundle(store, bundle)
    (finding,) = examine_store(bundle)
    assert (finding.rating, finding.check) == (Rating.FINE, "bundle")
    assert "files for 0 keys" in finding.text
    bundle.write_bytes(bundle.read_bytes()[:-5])
    (finding,) = examine_store(bundle)
    assert (finding.rating, finding.check) == (Rating.WRONG, "bundle")
    assert "cut short" in finding.text
    bundle.write_bytes(b"something else")
    (finding,) = examine_store(bundle)
    assert (finding.rating, finding.text) == (Rating.WRONG, "is no folder")


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
    monkeypatch.setattr(atomic, "unflushed", set())  # what is remembered of the disk is not for other tests
    assert by_check(tmp_path)["flushes"].rating is Rating.WARNING


def test_locks_that_other_machines_do_not_see_are_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "find_mount", lambda _: Mount("nfs4", ("rw", "local_lock=all"), is_network=True))
    found = by_check(tmp_path)
    assert "other machines" in found["file system"].text
    assert "lease" in found["locks"].text


def test_a_file_system_without_locks_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(locks, "_lock_byte", refuse)
    finding = by_check(tmp_path)["locks"]
    assert finding.rating is Rating.FINE
    assert "lease" in finding.text


def test_locks_that_cannot_be_had_are_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Store, "lock", _refuse_lock)
        finding = by_check(tmp_path)["locks"]
    assert finding.rating is Rating.WRONG
    assert "lease" not in finding.advice


def _refuse_lock(*_: object) -> None:
    raise StoreError("cannot be locked: Input/output error", path=Path("keys"))


async def test_a_store_that_never_answers_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(run, "_STORE_S", 0.1)
    monkeypatch.setattr(run, "examine_store", lambda *_: iter([answered.wait(30)]))
    monkeypatch.setattr(run, "stored_files", lambda _: iter([answered.wait(30)]))
    monkeypatch.setattr(run, "list_servers", lambda _: [])
    config = Config(symbol_path=parse_symbol_path(f"srv*{tmp_path}"))
    with anyio.fail_after(10):
        findings = await run.examine(config, {})
    answered.set()
    (finding,) = (finding for finding in findings if finding.area == "store")
    assert finding.rating is Rating.WRONG
    assert "does not answer" in finding.text


def test_little_room_is_a_warning_and_none_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for free_bytes, rating in ((1 << 20, Rating.WRONG), (1 << 30, Rating.WARNING), (1 << 40, Rating.FINE)):
        monkeypatch.setattr(stores, "free_bytes", lambda _, free=free_bytes: free)
        assert by_check(tmp_path)["room"].rating is rating


@pytest.mark.skipif(sys.platform != "linux", reason="reads the mounts of Linux")
def test_the_mount_of_a_folder_is_the_nearest_one(tmp_path: Path) -> None:
    assert find_mount(tmp_path).kind
    assert not find_mount(tmp_path).is_network
