"""Atomic writes: files grow in scratch files out of every debugger's sight, and are put in their place in one step.

Scratch files lie in the store's own folder, so that the last step is a rename within one disk.
"""

from __future__ import annotations

import errno
import os
import sys
import threading
import time
from contextlib import contextmanager, suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.stores.local.rights import OwnFolder, make_folders, make_own_folders, open_stored, take_over_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from symcache.stores.local.locks import KeyLock
    from symcache.stores.local.tree import Store


OWN_FOLDER = ".symcache"
_TRIES = 8
# Flushes that are under way at once are one for the disk: 4,000 folders take 0.5 s on ext4, one at a time 5 s.
_FOLDERS_AT_ONCE = 4
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)


class Means(StrEnum):
    """How two files share their space."""

    REFLINK = "reflink"  # blocks alone: Btrfs, XFS, bcachefs
    HARD_LINK = "hard link"  # all of the file, its times too


def put_in_place(scratch: Path, choose: Callable[[], Path], root: Path) -> Path:
    """Rename *scratch*, complete and on the same disk, to the path below *root* that *choose* returns; return that.

    The folder is made where need be. *choose* is asked again for each try, since folders come and go. An `OSError` says
    that the disk does not take it, or that a link leads out of the store.
    """
    for left in reversed(range(_TRIES)):
        target = choose()
        try:
            check_inside(target.parent, root)
            make_folders(target.parent)
            take_over_file(scratch, target.parent)
            os.replace(scratch, target)  # noqa: PTH105 - for each file
        except FileNotFoundError:
            # Another process pruned the empty folder between the two calls.
            if not left or not scratch.exists():
                raise
        except PermissionError as error:
            # Windows refuses to replace a file while a debugger has it mapped.
            if not left and sys.platform == "win32" and target.exists():
                problem = "it cannot be replaced while another program, such as a debugger, has it open"
                raise PermissionError(errno.EACCES, problem, os.fspath(target)) from error
            if not left:
                raise
            time.sleep(0.01)
        else:
            return target
    raise AssertionError


def check_inside(folder: Path, root: Path) -> None:
    """Raise an `OSError` if a link leads from *folder*, below the store *root*, out of it."""
    at, end = os.fspath(folder), os.fspath(root)
    while len(at) > len(end):
        if os.path.islink(at) and not folder.resolve().is_relative_to(root.resolve()):  # noqa: PTH114 - for each file
            raise OSError(errno.ELOOP, "a link that leads out of the store", at)
        at = os.path.dirname(at)  # noqa: PTH120


def write_whole(store: Store, path: Path, content: bytes) -> None:
    """Let *path*, in *store*, hold *content*; readers see the old or the new, never a part. Raises `StoreError`."""
    scratch = store.scratch()
    with store_errors(path):
        scratch.write_bytes(content)
        flush(scratch)
        put_in_place(scratch, lambda: path, store.root)
        store.note(path.parent)


def read_whole(path: Path, limit_bytes: int = -1) -> bytes | None:
    """Return a file's bytes, at most *limit_bytes*; None if there is none, `StoreError` if it cannot be read."""
    with store_errors(path), suppress(FileNotFoundError, NotADirectoryError), open_stored(path) as file:
        # A read takes the memory for all that it may return, and a limit is far above what there is.
        return file.read(min(limit_bytes, os.fstat(file.fileno()).st_size) if limit_bytes >= 0 else -1)
    return None


def make_private(folder: Path) -> None:
    """Make *folder* so that no other user can read or write it; a `StoreError` if it cannot be, or is another's."""
    with store_errors(folder):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if hasattr(os, "geteuid"):
            if folder.stat().st_uid != os.geteuid():
                raise StoreError("belongs to another user, so it is not trusted", path=folder)
            folder.chmod(0o700)


def drop(scratch: Path) -> None:
    """Remove *scratch* if it is there; one that is open on another machine goes when the staging folder is swept."""
    with suppress(OSError):
        os.unlink(scratch)  # noqa: PTH108 - for each file


def take_away(store: Store, path: Path) -> bool:
    """Remove *path*, a file within *store*; return whether it was there.

    Its name goes by a rename, in one step also where removing takes its time or waits for programs that have it open. A
    `StoreError` says that it is in use, where that matters (Windows), that the store cannot be written, or that it lies
    behind a link that leads out of the store.
    """
    scratch = store.scratch()
    try:
        check_inside(path.parent, store.root)
        path.replace(scratch)
        drop(scratch)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise as_store_error(error, path) from error
    return True


def remove_empty_folders(folder: Path, root: Path) -> int:
    """Remove *folder* and those above it, below *root*, as far as they are empty; return how many."""
    removed = 0
    while folder != root and root in folder.parents:
        try:
            check_inside(folder.parent, root)
            folder.rmdir()
        except FileNotFoundError:
            pass
        except OSError:
            break
        else:
            removed += 1
        folder = folder.parent
    return removed


def share_space(original: Path, scratch: Path) -> Means | None:
    """Let *scratch*, which does not exist yet, hold what *original* holds without a copy; return how.

    Files in a store are replaced, never written to, so that a hard link is as good as a copy. Where the system can
    share blocks alone, that is done instead. None if the disk can do neither, and *scratch* is not there then; an
    `OSError` if *original* cannot be read, or *scratch* not be made.
    """
    if _reflink(original, scratch):
        return Means.REFLINK
    try:
        os.link(original, scratch)
    except OSError as error:
        if error.errno in {errno.ENOENT, errno.ENOSPC, errno.EDQUOT, errno.EROFS}:
            raise
        return None
    return Means.HARD_LINK


def _reflink(original: Path, scratch: Path) -> bool:
    if sys.platform != "linux":
        return False
    import fcntl  # noqa: PLC0415 - there is none on Windows

    with original.open("rb") as source, scratch.open("xb") as target, suppress(OSError):
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
        return True
    scratch.unlink()
    return False


# What file systems answer that have nothing to flush.
_NO_FLUSH = frozenset({errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EROFS})
unflushed: set[int] = set()
"""Devices that refused to flush: a power cut can damage what was just written to them."""


def flush(path: Path) -> None:
    """Bring the bytes of *path* to the disk, if its file system does that; an `OSError` if it does not take them."""
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        _flush(fd)
    finally:
        os.close(fd)


def _flush(fd: int) -> None:
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in _NO_FLUSH:
            raise
        unflushed.add(os.fstat(fd).st_dev)


def flush_folders(folders: Iterable[Path], root: Path) -> None:
    """Bring to the disk what was renamed into *folders*, below *root*, or removed from them; and those above them, too.

    Where one follows only if the other is there, this comes between: a power cut may otherwise keep any of the changes
    of folders, and lose any. A folder that is gone went with a change of the one above it. Windows keeps the order in
    the file system's journal, and opens no folder.
    """
    if sys.platform == "win32":
        return
    wanted: set[Path] = set()
    for each in folders:
        folder = each
        while folder not in wanted:
            wanted.add(folder)
            if folder == root:
                break
            folder = folder.parent
    if len(wanted) <= _FOLDERS_AT_ONCE:
        for folder in wanted:
            _flush_folder(folder)
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - for many, which few commands have

    with ThreadPoolExecutor(_FOLDERS_AT_ONCE, thread_name_prefix="symcache-flush") as threads:
        for _ in threads.map(_flush_folder, wanted):
            pass


def _flush_folder(folder: Path) -> None:
    try:
        fd = os.open(folder, os.O_RDONLY)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return
    try:
        _flush(fd)
    finally:
        os.close(fd)


def as_store_error(error: OSError, root: Path) -> StoreError:
    """Return *error* as ours, with its own path or else *root*."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else root
    problem = "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else error.strerror or str(error)
    return StoreError(problem, path=path)


@contextmanager
def store_errors(path: Path) -> Iterator[None]:
    """Raise an `OSError` of the block as a `StoreError`, with its own path or else *path*."""
    try:
        yield
    except OSError as error:
        raise as_store_error(error, path) from error


class Staging:
    """This process's scratch files in one store; the folder is made at the first use.

    Each process has a folder with a lock that dies with it, so that what a killed one left can be told from what is
    being written, and is swept then.
    """

    def __init__(self, root: Path, prepare: Callable[[], None] = lambda: None) -> None:
        self._parent = root / OWN_FOLDER / "staging"
        self._prepare = prepare  # makes the store
        self._folder: Path | None = None
        self._lock: KeyLock | None = None
        self._opening = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the folder for scratch files exists; it may have been removed with the store."""
        return self._folder is not None and os.path.isdir(self._folder)  # noqa: PTH112 - for each file

    def new_path(self) -> Path:
        """Return the path of a new scratch file, which does not exist yet; `OSError` if the store cannot be written."""
        with self._opening:
            if not self.is_open:
                self._prepare()
                self.close()
                self._open()
        assert self._folder is not None
        from secrets import token_hex  # noqa: PLC0415 - with locks and all, for who writes

        return self._folder / f"{token_hex(6)}.part"

    def close(self) -> None:
        """Remove the scratch files and let go of the lock; safe to call twice."""
        if self._folder is not None and self._lock is not None:
            with OwnFolder(self._parent.parents[1], self._parent.name) as staged, suppress(OSError):
                staged.remove(self._folder.name)
            self._lock.release()
            self._folder = self._lock = None

    def _open(self) -> None:
        from secrets import token_hex  # noqa: PLC0415

        make_own_folders(self._parent)
        self.sweep()
        folder = self._parent / f"{_STAGED}{token_hex(6)}"
        # The lock comes first: a folder without one that is held belongs to the dead. Another name may have its byte.
        while not (lock := self._lock_of(folder)).try_acquire():
            folder = self._parent / f"{_STAGED}{token_hex(6)}"
        try:
            make_own_folders(folder)
        except OSError:
            lock.release()
            raise
        self._folder, self._lock = folder, lock

    def _lock_of(self, folder: Path) -> KeyLock:
        from symcache.stores.local.locks import KeyLock  # noqa: PLC0415

        return KeyLock(self._parent.parent.resolve() / "locks", f"staging {folder.name}")

    def sweep(self) -> int:
        """Remove what processes that are gone left behind; return how many files."""
        swept = 0
        with OwnFolder(self._parent.parents[1], self._parent.name) as staged:
            for name in staged.names():
                lock = self._lock_of(self._parent / name)
                with suppress(OSError, StoreError):
                    if name.startswith(_STAGED):
                        is_left = lock.try_acquire()
                    else:  # of symcache 0.1, which locks otherwise and may be at work: a day old, it is not
                        is_left = time.time() - staged.changed_s(name) > _OLD_S
                    if is_left:
                        swept += staged.remove(name)
                lock.release()
        return swept


_STAGED = "p-"
_OLD_S = 24 * 3600
