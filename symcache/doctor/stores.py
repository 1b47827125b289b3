"""Can a store be used as it is: file system, rights, locks, flushes, letter case, room, and what else lies there."""

from __future__ import annotations

import os
import shutil
import stat
import sys
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING
from uuid import uuid4

from symcache.doctor.finding import Finding, Rating
from symcache.errors import ConfigError, StoreError
from symcache.identity import PdbKey, fold
from symcache.stores.bundle import BundleStore
from symcache.stores.disk import is_bundle
from symcache.stores.local.atomic import OWN_FOLDER
from symcache.stores.local.mounts import find_mount
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.stores.local.mounts import Mount

__all__ = ["examine_store"]


_LITTLE_ROOM_BYTES = 5 << 30
_NO_ROOM_BYTES = 100 << 20
_MOST_LISTED = 20_000


def examine_store(root: Path, locking: str = "auto") -> Iterator[Finding]:
    """Yield what is found of the store at *root*, whose *locking* is as `config.StoreSettings.locks`.

    Nothing in it is changed but a scratch file that is removed; an empty folder is made a store.
    """
    say = partial(Finding, "store", str(root))
    try:
        is_folder = stat.S_ISDIR(root.stat().st_mode)
    except FileNotFoundError:
        yield _examine_missing(root, say)
        return
    except OSError as error:
        yield say(
            "folder", Rating.WRONG, f"cannot be read: {error.strerror}", "is the share mounted, and may you read it?"
        )
        return
    if not is_folder:
        yield _examine_bundle(root, say)
        return
    mount = find_mount(root)
    on_network = ", shared with other machines" if mount.is_network else ""
    yield say("file system", Rating.FINE, f"{mount.kind or 'unknown'}{on_network}")
    yield from _examine_rights(root, say)
    yield from _examine_writing(Store(root, locking=locking), mount, say)
    yield _examine_room(root, say)
    yield _examine_contents(root, say)


def _examine_bundle(path: Path, say: partial[Finding]) -> Finding:
    try:
        if is_bundle(path):
            count = BundleStore(path).count_files()
            return say("bundle", Rating.FINE, f"can be read; files for {count} keys, which debuggers do not read in it")
    except StoreError as error:
        return say("bundle", Rating.WRONG, error.problem, "copy it again, or `symcache export` another")
    except ConfigError:
        pass
    return say("folder", Rating.WRONG, "is no folder", "name another one in the symbol path")


def _examine_missing(root: Path, say: partial[Finding]) -> Finding:
    parent = next((parent for parent in root.parents if parent.exists()), root)
    if parent.is_dir() and os.access(parent, os.W_OK):
        return say("folder", Rating.FINE, "does not exist yet; the first run makes it")
    return say("folder", Rating.WRONG, f"does not exist, and {parent} cannot be written", "is the share mounted?")


def _examine_rights(root: Path, say: partial[Finding]) -> Iterator[Finding]:
    if sys.platform == "win32":
        return  # access lists: whether one can write is what the next check tells
    info = root.stat()
    mode = stat.S_IMODE(info.st_mode)
    text = f"{_user(info.st_uid)}:{_group(info.st_gid)} {stat.filemode(info.st_mode)}"
    if mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        advice = "everybody on this machine may change what debuggers load; chmod o-w"
        yield say("rights", Rating.WARNING, text, advice)
    elif mode & stat.S_IWGRP and not mode & stat.S_ISGID:
        advice = f"new folders get their maker's own group; `symcache store init --shared {_group(info.st_gid)}`"
        yield say("rights", Rating.WARNING, text, advice)
    else:
        shared = ", shared by the group" if mode & stat.S_IWGRP else ""
        yield say("rights", Rating.FINE, f"{text}{shared}")


def _examine_writing(store: Store, mount: Mount, say: partial[Finding]) -> Iterator[Finding]:
    try:
        scratch = store.scratch()
        scratch.write_bytes(b"symcache")
    except (StoreError, OSError) as error:
        problem = error.problem if isinstance(error, StoreError) else error.strerror
        advice = "fine for a store that is only read; to fill it, you need the right to write"
        yield say("writing", Rating.WARNING, f"not possible: {problem}", advice)
        store.close()
        return
    try:
        yield say("writing", Rating.FINE, "works")
        yield _examine_locks(store, mount, say)
        yield _examine_flush(scratch, say)
        twin = scratch.with_name(scratch.name.upper() if scratch.name != scratch.name.upper() else scratch.name.lower())
        is_blind = twin.exists()
        text = "names differ by it" if not is_blind else "makes no difference"
        yield say("letter case", Rating.FINE, text)
    finally:
        with suppress(OSError):
            scratch.unlink()
        store.close()


def _examine_locks(store: Store, mount: Mount, say: partial[Finding]) -> Finding:
    try:
        lock = store.lock(PdbKey("symcache-doctor.pdb", uuid4(), 1))
        held = lock.try_acquire()
        lock.release()
    except StoreError as error:
        return say("locks", Rating.WRONG, error.problem, f"processes cannot share it; may you write {error.path}?")
    if any("lease" in note for note in store.notes()):
        text = "the file system has none; lock files with a lease are used in their place"
        return say("locks", Rating.FINE, text)
    if mount.is_network and mount.has_own_locks:
        text = "the system's exclude no other machine; lock files with a lease are used in their place"
        return say("locks", Rating.FINE, text)
    return say("locks", Rating.FINE, "work" if held else "work; one is held now")


def _examine_flush(scratch: Path, say: partial[Finding]) -> Finding:
    try:
        fd = os.open(scratch, os.O_RDWR)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)
    except OSError as error:
        text = f"refused: {error.strerror}"
        return say("flushes", Rating.WARNING, text, "a power cut can damage files that were just published")
    return say("flushes", Rating.FINE, "work")


def free_bytes(folder: Path) -> int:
    """Return how much room there is for this user."""
    return shutil.disk_usage(folder).free


def _examine_room(root: Path, say: partial[Finding]) -> Finding:
    free = free_bytes(root)
    rating = Rating.WRONG if free < _NO_ROOM_BYTES else Rating.WARNING if free < _LITTLE_ROOM_BYTES else Rating.FINE
    advice = "" if rating is Rating.FINE else "`symcache store prune` makes room; a dump's PDBs take about 1 GiB"
    return say("room", rating, f"{free / (1 << 30):.1f} GiB free", advice)


def _examine_contents(root: Path, say: partial[Finding]) -> Finding:
    """Return what lies at the top of the store: folders named as files are, and files that symstore knows."""
    folders = files = links = 0
    strange: list[str] = []
    with os.scandir(root) as entries:
        for number, entry in enumerate(entries):
            if number >= _MOST_LISTED:
                break
            if entry.name == OWN_FOLDER or fold(entry.name) in {"000admin", "pingme.txt", "index2.txt"}:
                continue
            if entry.is_symlink():
                links += 1
                strange.append(entry.name)
            elif entry.is_dir():
                folders += 1
            else:
                files += 1
                strange.append(entry.name)
    more = "" if folders + files + links < _MOST_LISTED else " at least"
    text = f"{folders} folders{more}"
    if strange:
        shown = ", ".join(sorted(strange)[:3]) + (" …" if len(strange) > 3 else "")
        return say(
            "contents", Rating.WARNING, f"{text}, and {len(strange)} others: {shown}", "a store holds folders alone"
        )
    return say("contents", Rating.FINE, text)


def _user(uid: int) -> str:
    import pwd  # noqa: PLC0415 - there is none on Windows

    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    import grp  # noqa: PLC0415 - there is none on Windows

    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
