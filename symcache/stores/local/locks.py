"""Locks that die with their process, on files that are gone when nobody holds them."""

from __future__ import annotations

import hashlib
import time
from contextlib import contextmanager, suppress
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from filelock import FileLock, Timeout

from symcache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator
    from types import TracebackType
    from typing import Self

__all__ = ["KeyLock", "let_go", "sweep_locks", "try_lock"]


_FIRST_WAIT_S = 0.02
_LONGEST_WAIT_S = 0.5


def try_lock(path: Path) -> FileLock | None:
    """Return the lock on *path*, held; None if another process, or another task of this one, holds it.

    Raises:
        OSError: The lock file cannot be made.
    """
    lock = FileLock(path, thread_local=False)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return None
    return lock


def let_go(lock: FileLock) -> None:
    """Remove the lock's file and release it.

    The file goes while the lock is held: whoever waits on it then sees a file without a name and starts over, so no
    two hold locks of one name. Windows refuses that; there the file goes afterwards, unless somebody has it open.
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


def sweep_locks(folder: Path) -> int:
    """Remove the lock files in *folder* that nobody holds, as killed processes left them; return how many."""
    swept = 0
    for path in folder.glob("*.lock"):
        with suppress(OSError):
            lock = try_lock(path)
            if lock is not None:
                let_go(lock)
                swept += 1
    return swept


class KeyLock:
    """Whose turn it is to fill in one key's files; waits without holding a thread.

    Args:
        folder: Where the locks of the store lie.
        name: What is locked; equal names exclude each other.
        sleep: Waits a number of seconds.
    """

    def __init__(self, folder: Path, name: str, *, sleep: Callable[[float], Awaitable[None]] = anyio.sleep) -> None:
        self._path = folder / f"{hashlib.sha256(name.encode()).hexdigest()[:32]}.lock"
        self._sleep = sleep
        self._held: FileLock | None = None
        self.waited = False

    @property
    def is_held(self) -> bool:
        """Whether it is ours."""
        return self._held is not None

    async def acquire(self) -> None:
        """Wait until the lock is ours; `waited` then tells whether somebody else had it before.

        Raises:
            StoreError: The lock file cannot be made.
        """
        wait_s = _FIRST_WAIT_S
        while (held := self._try()) is None:
            self.waited = True
            await self._sleep(wait_s)
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        self._held = held

    def try_acquire(self) -> bool:
        """Take the lock if nobody holds it; return whether it is ours now.

        Raises:
            StoreError: The lock file cannot be made.
        """
        self._held = self._try()
        return self._held is not None

    @contextmanager
    def hold(self, *, timeout_s: float = inf, sleep: Callable[[float], None] = time.sleep) -> Iterator[None]:
        """Hold the lock for a ``with`` block of code that runs on no event loop.

        Args:
            timeout_s: Seconds to wait at most, as far as *sleep* is exact.
            sleep: Waits a number of seconds.

        Raises:
            StoreError: The lock file cannot be made, or another process still holds the lock at the end of the wait.
        """
        wait_s, waited_s = _FIRST_WAIT_S, 0.0
        while not self.try_acquire():
            self.waited = True
            if waited_s >= timeout_s:
                raise StoreError(f"another process has held this lock for {waited_s:.0f} s", path=self._path)
            sleep(wait_s)
            waited_s += wait_s
            wait_s = min(2 * wait_s, _LONGEST_WAIT_S)
        try:
            yield
        finally:
            self.release()

    def release(self) -> None:
        """Let the next one in."""
        if self._held is not None:
            let_go(self._held)
            self._held = None

    def _try(self) -> FileLock | None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            return try_lock(self._path)
        except OSError as error:
            raise StoreError(f"cannot be locked: {error.strerror or error}", path=self._path) from error

    async def __aenter__(self) -> Self:
        await self.acquire()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()
