"""Locks that die with their process: on single bytes of one file for all that a store has, and on files."""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar
from zlib import crc32

import anyio
from filelock import FileLock, Timeout

from symcache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from typing import Self


_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.5


def try_lock(path: Path) -> FileLock | None:
    """Return the lock on *path*, held; None if it is held already. An `OSError` says that its file cannot be made."""
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def let_go(lock: FileLock) -> None:
    """Remove the lock's file and release it.

    The file is removed while the lock is held: a waiting process then sees a file without a name and starts over, so no
    two hold locks of one name. Windows refuses that; there the file is removed afterwards, unless it is open elsewhere.
    """
    path = Path(lock.lock_file)
    try:
        path.unlink()
    except OSError:
        lock.release()
        with suppress(OSError):
            path.unlink()
    else:
        lock.release()


class KeyLock:
    """A lock by name, which dies with its process; for tasks and for code on no event loop, without holding a thread.

    It is one byte of the file that all locks of a store share, so it costs one system call. Two names may have the same
    byte: between processes they exclude each other, then, which costs a wait; within one process they do not.

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


# Windows answers EACCES or, under wine 8, no error number at all; POSIX leaves the choice of the first two.
_LOCKED_ELSEWHERE = frozenset([errno.EACCES, errno.EAGAIN, errno.EDEADLK, *([0] if sys.platform == "win32" else [])])


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
        cls._guard = threading.Lock()

    def take(self, name: str) -> bool:
        offset = crc32(name.encode()) >> 1
        with self._one_at_a_time:
            if name in self._names:
                return False
            if not self._bytes[offset]:
                try:
                    _lock_byte(self._open(), offset)
                except OSError as error:
                    self._close_if_unused()
                    if error.errno in _LOCKED_ELSEWHERE:
                        return False
                    raise
            self._names.add(name)
            self._bytes[offset] += 1
            return True

    def give_back(self, name: str) -> None:
        offset = crc32(name.encode()) >> 1
        with self._one_at_a_time:
            self._names.discard(name)
            self._bytes[offset] -= 1
            if not self._bytes[offset]:
                del self._bytes[offset]
                with suppress(OSError):
                    _unlock_byte(self._open(), offset)
            self._close_if_unused()

    def _open(self) -> int:
        if self._fd is None:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self._path, os.O_RDWR | os.O_CREAT | getattr(os, "O_BINARY", 0), 0o666)
        return self._fd

    def _close_if_unused(self) -> None:
        # The store can be removed, and made once more, while nothing is locked.
        if not self._names:
            self.close()

    def close(self) -> None:
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


if sys.platform == "win32":
    import msvcrt

    def _lock_byte(fd: int, offset: int) -> None:
        os.lseek(fd, offset, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_NBLCK, 1)

    def _unlock_byte(fd: int, offset: int) -> None:
        os.lseek(fd, offset, os.SEEK_SET)
        msvcrt.locking(fd, msvcrt.LK_UNLCK, 1)
else:
    import fcntl

    def _lock_byte(fd: int, offset: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, offset)

    def _unlock_byte(fd: int, offset: int) -> None:
        fcntl.lockf(fd, fcntl.LOCK_UN, 1, offset)

    os.register_at_fork(after_in_child=_LockedBytes.forget)
