"""Atomic writes: put a file in its place or take it away in one step, with other processes at work in the store."""

from __future__ import annotations

import errno
import os
import sys
import time
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING

from symcache.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.stores.local.tree import Store

__all__ = [
    "Means",
    "as_store_error",
    "flush",
    "put_in_place",
    "remove_empty_folders",
    "share_space",
    "take_away",
    "write_whole",
]


_TRIES = 8
_FICLONE = 0x40049409  # linux/fs.h: _IOW(0x94, 9, int)


class Means(StrEnum):
    """How two files share their space."""

    REFLINK = "reflink"  # blocks alone: Btrfs, XFS, bcachefs
    HARD_LINK = "hard link"  # all of the file, its times too


def put_in_place(scratch: Path, choose: Callable[[], Path]) -> Path:
    """Rename *scratch* to the path that *choose* returns, and make its folder where need be; return the path.

    Args:
        scratch: A complete file on the same disk; it is gone afterwards.
        choose: Asked again for each try, since folders come and go.

    Raises:
        OSError: The disk does not take it.
    """
    for left in reversed(range(_TRIES)):
        target = choose()
        try:
            _make_folders(str(target.parent))
            os.replace(scratch, target)  # noqa: PTH105 - for each file
        except FileNotFoundError:
            # Another process pruned the empty folder between the two calls.
            if not left or not scratch.exists():
                raise
        except PermissionError:
            # Windows refuses to replace a file while a debugger has it mapped.
            if not left:
                raise
            time.sleep(0.01)
        else:
            return target
    raise AssertionError


def _make_folders(folder: str) -> None:
    """Make *folder* and those above it, unless they exist; as `Path.mkdir` does, in half the time."""
    try:
        os.mkdir(folder)  # noqa: PTH102
    except FileNotFoundError:
        parent = os.path.dirname(folder)  # noqa: PTH120
        if parent == folder:
            raise
        _make_folders(parent)
        _make_folders(folder)
    except OSError:
        if not os.path.isdir(folder):  # noqa: PTH112
            raise


def write_whole(store: Store, path: Path, content: bytes) -> None:
    """Let *path*, a file within *store*, hold *content*; readers see the old content or the new, never a part.

    Raises:
        StoreError: The disk does not take it.
    """
    scratch = store.scratch()
    try:
        scratch.write_bytes(content)
        flush(scratch)
        put_in_place(scratch, lambda: path)
        store.note(path.parent)
    except OSError as error:
        raise as_store_error(error, path) from error


def take_away(store: Store, path: Path) -> bool:
    """Remove *path*, a file within *store*; return whether it was there.

    Its name goes by a rename, in one step also where removing takes its time or waits for programs that have it open.

    Raises:
        StoreError: It is in use, where that matters (Windows), or the store cannot be written.
    """
    scratch = store.scratch()
    try:
        path.replace(scratch)
        with suppress(OSError):  # a scratch file that is still open goes when the staging folder is swept
            scratch.unlink()
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
    share blocks alone, that is done instead. None if the disk can do neither; *scratch* is not there then.

    Raises:
        OSError: *original* cannot be read, or *scratch* not be made.
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


def flush(path: Path) -> None:
    """Bring the bytes of *path* to the disk.

    Raises:
        OSError: The disk does not take them.
    """
    fd = os.open(path, os.O_RDWR | getattr(os, "O_BINARY", 0))
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def as_store_error(error: OSError, root: Path) -> StoreError:
    """Return *error* as ours, with its own path or else *root*."""
    path = Path(os.fsdecode(error.filename)) if isinstance(error.filename, str | bytes) else root
    problem = "the disk is full" if error.errno in {errno.ENOSPC, errno.EDQUOT} else error.strerror or str(error)
    return StoreError(problem, path=path)
