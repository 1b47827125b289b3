from __future__ import annotations

import errno
import os
import sys
from itertools import count
from typing import TYPE_CHECKING

import pytest

from symcache.errors import StoreError
from symcache.stores.local import locks, mounts
from symcache.stores.local.locks import KeyLock, note_of, use_leases
from symcache.stores.local.mounts import Mount
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The folder of a store's locks, all of which are leases."""
    folder = tmp_path / ".symcache" / "locks"
    use_leases(folder)
    return folder


def of_another(folder: Path, owner: str) -> Path:
    """Leave the lease of *owner* for the lock called ``a``; return its file."""
    lock = KeyLock(folder, "a")
    assert lock.try_acquire()
    (path,) = folder.glob("*.lease")
    lock.release()
    path.write_text(owner, encoding="utf-8")
    return path


def test_a_lease_excludes_and_goes_with_its_lock(folder: Path) -> None:
    first, second = KeyLock(folder, "a"), KeyLock(folder, "a")
    assert first.try_acquire()
    assert not second.try_acquire()
    assert len(list(folder.glob("*.lease"))) == 1
    first.release()
    assert second.try_acquire()
    second.release()
    assert list(folder.iterdir()) == []


def test_the_lease_of_another_machine_holds_until_it_is_old(folder: Path) -> None:
    path = of_another(folder, "elsewhere 1 00")
    assert not KeyLock(folder, "a").try_acquire()
    old_s = path.stat().st_mtime - 61
    os.utime(path, (old_s, old_s))
    lock = KeyLock(folder, "a")
    assert lock.try_acquire()
    assert path.read_text(encoding="utf-8") != "elsewhere 1 00"
    lock.release()


@pytest.mark.skipif(sys.platform != "linux", reason="there a lease only runs out")
def test_the_lease_of_a_process_of_this_machine_ends_with_it(folder: Path) -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitpid(pid, 0)
    of_another(folder, f"{locks._machine()} {pid} 00")
    lock = KeyLock(folder, "a")
    assert lock.try_acquire()
    lock.release()
    of_another(folder, f"{locks._machine()} {os.getppid()} 00")
    assert not KeyLock(folder, "a").try_acquire()


@pytest.mark.skipif(sys.platform != "linux", reason="there a lease only runs out")
@pytest.mark.parametrize("other", ["{name}", "{name}/00/1", "{name}/{boot}/1"])
def test_the_lease_of_another_container_of_the_same_name_holds(other: str, folder: Path) -> None:
    pid = os.posix_spawn(sys.executable, [sys.executable, "-c", ""], os.environ)
    os.waitpid(pid, 0)
    name, boot, _ = locks._machine().split("/")
    of_another(folder, f"{other.format(name=name, boot=boot)} {pid} 00")
    assert not KeyLock(folder, "a").try_acquire()


@pytest.mark.parametrize("has_links", [True, False])
def test_who_takes_over_an_old_lease_second_leaves_the_first_its_own(
    has_links: bool, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not has_links:
        monkeypatch.setattr(os, "link", _refuse_links)
    path = of_another(folder, "elsewhere 1 00")
    os.utime(path, (1, 1))
    first, second = locks._Lease(path), locks._Lease(path)
    judge = second._age_s
    times = count()

    def look_and_be_late(looked_at: Path) -> float:
        age_s = judge(looked_at)
        if not next(times):
            assert first.take()
        return age_s

    monkeypatch.setattr(second, "_age_s", look_and_be_late)
    assert not second.take()
    assert first._read() == first._owner
    first.give_back()
    assert list(folder.iterdir()) == []


def test_a_mark_of_a_process_that_was_killed_within_a_take_over_runs_out(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = of_another(folder, "elsewhere 1 00")
    os.utime(path, (1, 1))
    with monkeypatch.context() as patch:
        patch.setattr(type(path), "unlink", _refuse_links)
        assert not locks._Lease(path).take()
    (mark,) = folder.glob("*.over")
    assert not locks._Lease(path).take()
    os.utime(mark, (1, 1))
    assert not locks._Lease(path).take()
    lease = locks._Lease(path)
    assert lease.take()
    lease.give_back()


def test_a_lease_that_was_taken_over_is_not_renewed(folder: Path) -> None:
    lock = KeyLock(folder, "a")
    assert lock.try_acquire()
    (path,) = folder.glob("*.lease")
    (lease,) = locks._Lease._held
    os.utime(path, (1, 1))
    lease.renew()
    assert path.stat().st_mtime > 1
    path.write_text("elsewhere 1 00", encoding="utf-8")
    os.utime(path, (1, 1))
    lease.renew()
    assert path.stat().st_mtime == 1
    assert locks._Lease._held == set()
    lock.release()


@pytest.mark.skipif(sys.platform == "win32", reason="there are no pipes among files")
def test_a_pipe_in_the_place_of_a_lease_is_not_waited_for(folder: Path) -> None:
    path = of_another(folder, "elsewhere 1 00")
    path.unlink()
    os.mkfifo(path)
    assert not KeyLock(folder, "a").try_acquire()


def test_a_lease_that_was_taken_over_is_not_given_back(folder: Path) -> None:
    lock = KeyLock(folder, "a")
    assert lock.try_acquire()
    (path,) = folder.glob("*.lease")
    path.write_text("elsewhere 1 00", encoding="utf-8")
    lock.release()
    assert path.read_text(encoding="utf-8") == "elsewhere 1 00"


def _refuse_links(*_: object) -> None:
    raise OSError(errno.EPERM, "no hard links")


def test_a_disk_without_hard_links_has_leases_too(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "link", _refuse_links)
    first, second = KeyLock(folder, "a"), KeyLock(folder, "a")
    assert first.try_acquire()
    assert not second.try_acquire()
    first.release()
    assert second.try_acquire()
    second.release()


@pytest.mark.parametrize("error", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP])
def test_leases_take_the_place_of_locks_that_are_refused(
    error: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(error, os.strerror(error))

    monkeypatch.setattr(locks, "_lock_byte", refuse)
    folder = tmp_path / ".symcache" / "locks"
    lock = KeyLock(folder, "a")
    assert lock.try_acquire()
    assert "lease" in str(note_of(folder))
    lock.release()


def test_any_other_refusal_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(locks, "_lock_byte", refuse)
    with pytest.raises(StoreError, match="cannot be locked: Input/output error"):
        KeyLock(tmp_path, "a").try_acquire()


@pytest.mark.parametrize(
    ("locking", "options", "leases"), [("lease", (), 1), ("auto", ("nolock",), 1), ("auto", (), 0)]
)
def test_a_store_takes_leases_where_locks_exclude_no_other_machine(
    locking: str, options: tuple[str, ...], leases: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mounts, "find_mount", lambda _: Mount("nfs4", options, is_network=True))
    store = Store(tmp_path, locking=locking)
    lock = store.lock("a")
    assert lock.try_acquire()
    assert len(list((tmp_path / ".symcache" / "locks").glob("*.lease"))) == leases
    lock.release()
