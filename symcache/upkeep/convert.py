"""Single-tier to two-tier and back, while others look files up and publish."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.identity import Tier, fold, tier_folder
from symcache.stores.local.atomic import as_store_error, put_in_place, remove_empty_folders, take_away, write_whole
from symcache.stores.local.staging import OWN_FOLDER
from symcache.stores.local.tree import is_key_folder
from symcache.symstore.admin import Admin
from symcache.symstore.transactions import REFS, Refs, read_refs, write_refs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from symcache.stores.local.tree import Store

__all__ = ["Converted", "convert", "merge_key_folder", "put_into_quarantine", "rename_folder", "spelt"]


def put_into_quarantine(store: Store, path: Path, why: str) -> Path:
    """Move *path*, a file within *store*, out of every debugger's sight; return where it lies now.

    It comes into a folder of its own below ``.symcache/quarantine``, beside a ``why.json`` that says where it was.

    Raises:
        StoreError: It cannot be moved.
    """
    folder = store.root / OWN_FOLDER / "quarantine" / token_hex(8)
    was = path.relative_to(store.root).as_posix()
    write_whole(store, folder / "why.json", json.dumps({"path": was, "why": why}).encode())
    try:
        return put_in_place(path, lambda: folder / path.name)
    except OSError as error:
        raise as_store_error(error, path) from error


def merge_key_folder(store: Store, folder: Path, target: Path) -> int:
    """Move what a key's *folder* holds into *target*; return how many files went into quarantine.

    Where both have a file of one name, that of *target* stays, unless it is empty. The lines of both ``refs.ptr`` come
    together. Only who holds the store's admin lock may do this; after a kill, a second run does the rest.

    Raises:
        StoreError: The disk does not take it.
    """
    old = read_refs(folder)
    if old.exists:
        new = read_refs(target)
        lines = (*old.lines, *(line for line in new.lines if line not in old.lines))
        write_refs(store, target, Refs(lines, exists=True))
        take_away(store, folder / REFS)
    quarantined = 0
    try:
        for path in sorted(folder.iterdir()):
            other = spelt(target, path.name)
            if not path.is_dir():
                quarantined += _merge_file(store, path, other)
            elif not rename_folder(path, other):
                for inner in sorted(each for each in path.iterdir() if not each.is_dir()):
                    quarantined += _merge_file(store, inner, spelt(other, inner.name))
                remove_empty_folders(path, folder)
    except OSError as error:
        raise as_store_error(error, folder) from error
    remove_empty_folders(folder, folder.parent)
    return quarantined


def _merge_file(store: Store, path: Path, other: Path) -> bool:
    """Let *path* become *other*, or go into quarantine if there is such a file; return whether it did."""
    if other.exists() and other.stat().st_size:
        why = f"the store has {other.relative_to(store.root).as_posix()} for the same key"
        put_into_quarantine(store, path, why)
        return True
    path.replace(other)
    return False


def rename_folder(folder: Path, target: Path) -> bool:
    """Move a folder in one step; return whether there was none of that name before.

    Raises:
        StoreError: A file in it is in use (Windows).
    """
    while True:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            folder.rename(target)
        except FileNotFoundError:
            if not folder.exists():  # pruned meanwhile, or moved by whoever published there
                return True
        except OSError as error:
            if target.is_dir():
                return False
            raise StoreError(f"cannot be moved: {error.strerror or error}", path=folder) from error
        else:
            return True


def spelt(parent: Path, name: str) -> Path:
    """Return what *parent* has under *name* in any spelling, the exact one first; else where it would be."""
    if not (parent / name).exists():
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as entries:
            for entry in entries:
                if fold(entry.name) == fold(name):
                    return parent / entry.name
    return parent / name


@dataclass(frozen=True, slots=True)
class Converted:
    """What a conversion did; a rerun counts what it found left to do.

    Attributes:
        tier: The layout that the store has now.
        moved: How many folders moved as they were, of names where possible, else of keys.
        merged: How many keys had a folder in both layouts.
        quarantined: How many files gave way to another of the same key.
    """

    tier: Tier
    moved: int
    merged: int
    quarantined: int

    def as_json(self) -> dict[str, int]:
        """Return the fields of one JSON object."""
        return {"tier": self.tier, "moved": self.moved, "merged": self.merged, "quarantined": self.quarantined}


def convert(
    store: Store, tier: Tier, *, on_moved: Callable[[Path], None] | None = None, lock_wait_s: float = 600.0
) -> Converted:
    """Give *store* the layout *tier*, or end a conversion that was interrupted.

    A mark says that files may lie in either layout, ``index2.txt`` changes, each folder moves in one step, and the mark
    goes. After a kill at any instant `Store.find` still finds every file, and a rerun does the rest. Transactions wait
    meanwhile; publishing goes on, into the new layout. symsrv knows the new layout alone: to a debugger that looks in
    the tree itself, files that have not moved yet are absent.

    Args:
        store: The store.
        tier: The layout it is to have.
        on_moved: Told of each folder that moved, where it lies now.
        lock_wait_s: Seconds to wait for a writer of transactions.

    Raises:
        StoreError: The disk does not take it, or (Windows) a file is in use; the store stays usable, a rerun goes on.
    """
    if not store.root.is_dir():
        raise StoreError("there is no store here", path=store.root)
    with Admin(store, lock_wait_s=lock_wait_s).locked(to_convert=True):
        mover = _Mover(store, tier, on_moved)
        write_whole(store, store.converting, b"to tier %d\n" % tier)
        try:
            index2 = store.root / "index2.txt"
            if tier is Tier.TWO:
                index2.touch()
            else:
                index2.unlink(missing_ok=True)
            # Once more after the last folder: somebody may have published just while the layout changed.
            while mover.move_all():
                pass
        except OSError as error:
            raise as_store_error(error, store.root) from error
        take_away(store, store.converting)
    store.refresh()
    return Converted(tier, mover.moved, mover.merged, mover.quarantined)


class _Mover:
    def __init__(self, store: Store, tier: Tier, on_moved: Callable[[Path], None] | None) -> None:
        self._store = store
        self._tier = tier
        self._on_moved = on_moved
        self.moved = self.merged = self.quarantined = 0

    def move_all(self) -> bool:
        """Move what lies in the old layout; return whether there was anything."""
        old_parents = [self._store.root]
        if self._tier is Tier.ONE:
            old_parents = _folders(self._store.root)
        found = False
        for parent in old_parents:
            for named in _folders(parent):
                found |= self._move_name(named)
            remove_empty_folders(parent, self._store.root)
        return found

    def _move_name(self, named: Path) -> bool:
        old_tier = Tier.ONE if self._tier is Tier.TWO else Tier.TWO
        folders = _folders(named)
        keys = [folder for folder in folders if is_key_folder(folder, named.name, old_tier)]
        for folder in folders:
            if folder not in keys:
                remove_empty_folders(folder, self._store.root)  # of a key pruned long ago, or left by a kill
        if not keys:
            remove_empty_folders(named, self._store.root)
            return False
        parent = self._store.root
        if self._tier is Tier.TWO:
            parent = spelt(parent, tier_folder(named.name))
        target = spelt(parent, named.name)
        if keys == folders and named not in target.parents and rename_folder(named, target):
            self._count(target)
        else:
            for folder in keys:
                self._move_key(folder, spelt(target, folder.name))
        remove_empty_folders(named, self._store.root)
        return True

    def _move_key(self, folder: Path, target: Path) -> None:
        if rename_folder(folder, target):
            self._count(target)
        else:
            self.merged += 1
            self.quarantined += merge_key_folder(self._store, folder, target)

    def _count(self, target: Path) -> None:
        self.moved += 1
        if self._on_moved is not None:
            self._on_moved(target)


def _folders(parent: Path) -> list[Path]:
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as entries:
        names = [
            entry.name for entry in entries if fold(entry.name) not in {"000admin", ".symcache"} and entry.is_dir()
        ]
        return [parent / name for name in sorted(names)]
    return []
