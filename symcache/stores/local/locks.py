"""Locks that die with their process: single bytes of one file for all that a store has, or lock files with a lease."""

from __future__ import annotations

import errno
import os
import socket
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from functools import cache
from hashlib import sha256
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from zlib import crc32

import anyio

from symcache.errors import StoreError
from symcache.stores.local.rights import make_file, make_own_folders, open_plain

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Self


_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.5
_LAST_BYTE = (1 << 31) - 1  # that Windows' own library can lock


class KeyLock:
    """A lock by name, which dies with its process; for tasks and for code on no event loop, without holding a thread.

    It is one byte of the file that all locks of a store share, so it costs one system call. Two names may have the same
    byte: between processes they exclude each other, then, which costs a wait; within one process they do not. Where the
    file system has no such locks, it is a file with a lease; see `_Lease`.

    What takes the lock raises `StoreError` if the file cannot be made.
    """

    def __init__(self, folder: Path, name: str, *, sleep: Callable[[float], Awaitable[None]] = anyio.sleep) -> None:
        self._path = folder / "keys"
        self._name = name
        self._sleep = sleep
        self.is_held = False

    async def acquire(self) -> None:
        """Wait until the lock is ours."""
        wait_s = _FIRST_WAIT_S
        while not self.try_acquire():
            await self._sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)

    def try_acquire(self) -> bool:
        """Take the lock if it is free; return whether it is ours now."""
        try:
            self.is_held = _LockedBytes.of(self._path).take(self._name)
        except OSError as error:
            raise StoreError(f"cannot be locked: {error.strerror or error}", path=self._path) from error
        return self.is_held

    @contextmanager
    def hold(self, *, timeout_s: float = inf) -> Iterator[None]:
        """Hold the lock for a ``with`` block; a `StoreError` if another process still has it after *timeout_s*."""
        wait_s, waited_s = _FIRST_WAIT_S, 0.0
        while not self.try_acquire():
            if waited_s >= timeout_s:
                raise StoreError(f"another process has held this lock for {waited_s:.0f} s", path=self._path)
            time.sleep(wait_s)
            waited_s += wait_s
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Give the lock back, if it is ours."""
        if self.is_held:
            self.is_held = False
            _LockedBytes.of(self._path).give_back(self._name)

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.release()


def lock_file(fd: int) -> bool:
    """Lock the open file *fd* until it is closed or this process ends; return False if it was opened and locked before.

    Its position is another one then. Where the file system has no locks an `OSError` says so.
    """
    try:
        _lock_whole(fd)
    except OSError as error:
        if error.errno in _LOCKED_ELSEWHERE:
            return False
        raise
    return True


def note_of(folder: Path) -> str | None:
    """Return what is given up for the locks in *folder*, for a person; None for nothing."""
    refused = _LockedBytes.of(folder / "keys").refused
    if refused is None:
        return None
    return f"{folder.parent.parent}: no locks here ({os.strerror(refused)}); lock files with a lease are used instead"


def use_leases(folder: Path) -> None:
    """Use leases for the locks in *folder*, whose file system has locks that exclude no other machine."""
    _LockedBytes.of(folder / "keys").has_leases = True


# POSIX leaves the choice of the first two.
_LOCKED_ELSEWHERE = frozenset({errno.EACCES, errno.EAGAIN, errno.EDEADLK})


# NFS without a lock service, some FUSE and SMB mounts, kernels without the call.
_NO_LOCKS = frozenset({errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP})


class _LockedBytes:
    """The bytes of one file that this process has locked.

    POSIX gives a record lock to the process, not to a thread, and drops all of them when any descriptor of the file is
    closed; so a process has one descriptor, and this keeps its threads and tasks apart.
    Source: POSIX, fcntl, "Advisory Record Locking".
    """

    _all: ClassVar[dict[Path, _LockedBytes]] = {}
    _guard: ClassVar[threading.Lock] = threading.Lock()

    def __init__(self, path: Path) -> None:
        self._path = path
        self._fd: int | None = None
        self._names: set[str] = set()
        self._bytes: Counter[int] = Counter()
        self._leases: dict[int, _Lease] = {}
        self.has_leases = False
        self.refused: int | None = None
        self._one_at_a_time = threading.Lock()

    @classmethod
    def of(cls, path: Path) -> _LockedBytes:
        with cls._guard:
            found = cls._all.get(path)
            if found is None:
                found = cls._all[path] = cls(path)
            return found

    @classmethod
    def forget(cls) -> None:
        """Hold nothing, in a child of `os.fork`: its locks are those of its parent."""
        for each in cls._all.values():
            each.close()
        cls._all.clear()
        _Lease.forget()
        cls._guard = threading.Lock()

    def take(self, name: str) -> bool:
        offset = crc32(name.encode()) >> 1
        with self._one_at_a_time:
            if name in self._names:
                return False
            if not self._bytes[offset] and not self._lock(offset):
                self._close_if_unused()
                return False
            self._names.add(name)
            self._bytes[offset] += 1
            return True

    def _lock(self, offset: int) -> bool:
        if not self.has_leases:
            fd = self._open()
            try:
                _lock_byte(fd, offset)
            except OSError as error:
                if error.errno in _LOCKED_ELSEWHERE:
                    return False
                if error.errno not in _NO_LOCKS:
                    raise
                self.has_leases, self.refused = True, error.errno
            else:
                return True
        lease = _Lease(self._path.with_name(f"{offset:08x}.lease"))
        if not lease.take():
            return False
        self._leases[offset] = lease
        return True

    def give_back(self, name: str) -> None:
        offset = crc32(name.encode()) >> 1
        with self._one_at_a_time:
            self._names.discard(name)
            self._bytes[offset] -= 1
            if not self._bytes[offset]:
                del self._bytes[offset]
                lease = self._leases.pop(offset, None)
                with suppress(OSError):
                    if lease is not None:
                        lease.give_back()
                    else:
                        _unlock_byte(self._open(), offset)
            self._close_if_unused()

    def _open(self) -> int:
        if self._fd is None:
            make_own_folders(self._path.parent)
            self._fd = make_file(self._path, os.O_RDWR)
        return self._fd

    def _close_if_unused(self) -> None:
        # The store can be removed, and made once more, while nothing is locked.
        if not self._names:
            self.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


class _Lease:
    """A lock file that only one process can make, as exclusive creation works on every file system.

    Who holds it renews it; one that was not renewed for `_LEASE_S` belongs to a process that is gone, or, on this
    machine, to one that no longer runs, and may be taken over. Times are those of the file system, whatever clocks say.
    """

    _held: ClassVar[set[_Lease]] = set()
    _guard: ClassVar[threading.Lock] = threading.Lock()
    _renewing: ClassVar[threading.Thread | None] = None

    def __init__(self, path: Path) -> None:
        self.path = path
        self._owner = f"{_machine()} {os.getpid()} {os.urandom(8).hex()}"

    @classmethod
    def forget(cls) -> None:
        """Hold nothing, in a child of `os.fork`."""
        cls._held, cls._guard, cls._renewing = set(), threading.Lock(), None

    def take(self) -> bool:
        make_own_folders(self.path.parent)
        try:
            self._make()
        except FileExistsError:
            if not self._is_abandoned():
                return False
            try:
                self._make()
            except FileExistsError:
                return False  # another process was quicker
        with self._guard:
            self._held.add(self)
            if self._renewing is None:
                _Lease._renewing = threading.Thread(target=self._renew_all, name="leases", daemon=True)
                _Lease._renewing.start()
        return True

    def give_back(self) -> None:
        with self._guard:
            self._held.discard(self)
        if self._read() == self._owner:
            self.path.unlink()

    def renew(self) -> None:
        """Say that its owner runs; one that was taken over, as from a machine that slept, is left alone."""
        owner = self._read()
        if owner == self._owner:
            with suppress(OSError):
                os.utime(self.path)
        elif owner is not None:
            with self._guard:
                self._held.discard(self)

    def _make(self) -> None:
        """Make the lease, whole at once where the disk has hard links, so that none is seen without its owner."""
        new = self._beside()
        fd = make_file(new, os.O_WRONLY)
        try:
            os.write(fd, self._owner.encode())
            try:
                os.link(new, self.path)
            except FileExistsError:
                raise
            except OSError:
                lease = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
                try:
                    os.write(lease, self._owner.encode())
                finally:
                    os.close(lease)
        finally:
            os.close(fd)
            with suppress(OSError):
                new.unlink()

    def _beside(self) -> Path:
        return self.path.with_suffix(f".{os.urandom(8).hex()}")

    def _is_abandoned(self) -> bool:
        """Take away the lease of an owner that is gone; return whether it was."""
        owner = self._read()
        if owner is None:
            return True
        if not self._is_gone(owner):
            return False
        # Two that find it so: who makes this file takes it away, once for each owner, as the other would take away the
        # lease that has come in its place.
        mark = self.path.with_suffix(f".{sha256(owner.encode()).hexdigest()[:16]}.over")
        try:
            os.close(os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
        except OSError:
            if self._age_s(mark) > _LEASE_S:  # of a process that was killed
                mark.unlink(missing_ok=True)
            return False
        try:
            if self._read() != owner or not self._is_gone(owner):
                return False
            self.path.unlink()
        except OSError:
            return False
        finally:
            with suppress(OSError):
                mark.unlink()
        return True

    def _is_gone(self, owner: str) -> bool:
        machine, _, rest = owner.partition(" ")
        pid = rest.partition(" ")[0]
        is_dead = "/" in machine and machine == _machine() and pid.isdecimal() and not _runs(int(pid))
        return is_dead or self._age_s(self.path) >= _LEASE_S

    def _read(self) -> str | None:
        with suppress(OSError), open(open_plain(self.path), "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            return (file.read(_OWNER_BYTES) or b"").decode("utf-8", "replace")
        return None

    def _age_s(self, path: Path) -> float:
        """Return how long ago *path* was renewed, by the clock of the file system."""
        probe = self._beside()
        try:
            os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
            return probe.stat().st_mtime - path.stat().st_mtime
        except OSError:
            return 0.0
        finally:
            with suppress(OSError):
                probe.unlink()

    @classmethod
    def _renew_all(cls) -> None:
        while True:
            time.sleep(_RENEW_S)
            with cls._guard:
                held = list(cls._held)
            for lease in held:
                lease.renew()


_LEASE_S = 60.0
_RENEW_S = 10.0
_OWNER_BYTES = 512


@cache
def _machine() -> str:
    """Return what names this machine and, behind a slash, what its processes are counted by.

    Containers and cloned machines may have one name. Elsewhere than on Linux there is no slash, and a lease only runs
    out. Source: random(4), pid_namespaces(7).
    """
    name = socket.gethostname()
    if sys.platform == "linux":
        with suppress(OSError):
            boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
            return f"{name}/{boot}/{os.stat('/proc/self/ns/pid').st_ino}"  # noqa: PTH116
    return name


def _runs(pid: int) -> bool:
    """Return whether a process of this machine runs; one of another user counts."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):
        return True
    return True


if sys.platform == "win32":
    import ctypes
    import msvcrt

    _kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
    # winerror.h. msvcrt.locking tells neither, and under wine leaves errno as it was.
    _ERROR_LOCK_VIOLATION = 33
    _UNSUPPORTED = frozenset({1, 50})  # ERROR_INVALID_FUNCTION, ERROR_NOT_SUPPORTED

    def _call_for_byte(function: Callable[..., int], fd: int, offset: int) -> None:
        handle = ctypes.c_void_p(msvcrt.get_osfhandle(fd))
        if function(handle, ctypes.c_uint32(offset), ctypes.c_uint32(offset >> 32), 1, 0):
            return
        error = ctypes.get_last_error()
        if error == _ERROR_LOCK_VIOLATION:
            raise PermissionError(errno.EACCES, "another process has it locked")
        if error in _UNSUPPORTED:
            raise OSError(errno.ENOTSUP, "the file system has no locks")
        raise ctypes.WinError(error)

    def _lock_byte(fd: int, offset: int) -> None:
        _call_for_byte(_kernel32.LockFile, fd, offset)

    def _unlock_byte(fd: int, offset: int) -> None:
        _call_for_byte(_kernel32.UnlockFile, fd, offset)

    def _lock_whole(fd: int) -> None:
        _lock_byte(fd, _LAST_BYTE)
else:
    import fcntl

    def _lock_byte(fd: int, offset: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)

    def _unlock_byte(fd: int, offset: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, offset)

    def _lock_whole(fd: int) -> None:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)  # one of the open file, not of the process

    os.register_at_fork(after_in_child=_LockedBytes.forget)
