"""Conversion between the single-tier and two-tier layouts, and moving files within a store while others use it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from secrets import token_hex
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.identity import Tier, tier_folder
from symcache.stores.local.atomic import (
    OWN_FOLDER,
    put_in_place,
    remove_empty_folders,
    store_errors,
    take_away,
    write_whole,
)
from symcache.stores.local.rights import make_folders
from symcache.stores.local.tree import is_key_folder, list_folders
from symcache.symstore.admin import Admin
from symcache.symstore.folder import find_spelling
from symcache.symstore.transactions import REFS, Refs, read_refs, write_refs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from symcache.stores.local.tree import Store


@dataclass(slots=True)
class Converted:
    """What a conversion did; a second run counts what the first one left to do."""

    tier: Tier  # the layout of the store now
    moved: int = 0  # how many folders moved as a whole, those of names where possible, else those of keys
    merged: int = 0  # how many keys had a folder in both layouts
    quarantined: int = 0  # how many files went into quarantine because the new layout had the file of the key already

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def convert(store: Store, tier: Tier, *, on_moved: Callable[[Path], object] = lambda _: None) -> Converted:
    """Give *store* the layout *tier*, or finish a conversion that was interrupted.

    A mark says that files may be in either layout, ``index2.txt`` changes, each folder moves in one step, and the mark
    is removed. After a kill at any instant, or a `StoreError` as a file is in use (Windows), `Store.find` still finds
    every file, and a second run does the rest. Transactions wait; publishing continues, in the new layout. symsrv uses
    only that: for a debugger that reads the tree itself, files that have not moved yet are absent. *on_moved* is called
    with the new path of each folder that moved.
    """
    if not store.root.is_dir():
        raise StoreError("there is no store here", path=store.root)
    with Admin(store).locked(to_convert=True):
        done = Converted(tier)
        write_whole(store, store.converting, b"to tier %d\n" % tier)
        with store_errors(store.root):
            index2 = store.root / "index2.txt"
            if tier is Tier.TWO:
                index2.touch()
            else:
                index2.unlink(missing_ok=True)
            # Until a pass moves nothing: another process may have published while the layout changed.
            while _move_all(store, done, on_moved):
                pass
        take_away(store, store.converting)
    store.refresh()
    return done


def _move_all(store: Store, done: Converted, on_moved: Callable[[Path], object]) -> bool:
    """Move what is in the old layout, and count it in *done*; return whether there was anything."""
    found = False
    for parent in _folders(store.root) if done.tier is Tier.ONE else [store.root]:
        for named in _folders(parent):
            found |= _move_name(store, named, done, on_moved)
        remove_empty_folders(parent, store.root)
    return found


def _move_name(store: Store, named: Path, done: Converted, on_moved: Callable[[Path], object]) -> bool:
    root, is_two = store.root, done.tier is Tier.TWO
    folders = _folders(named)
    keys = [folder for folder in folders if is_key_folder(folder, named.name, Tier.ONE if is_two else Tier.TWO)]
    for folder in folders:
        if folder not in keys:
            remove_empty_folders(folder, root)  # left by a pruned key or a killed process
    found = bool(keys)
    if found:
        target = find_spelling(find_spelling(root, tier_folder(named.name)) if is_two else root, named.name)
        if keys == folders and named not in target.parents and rename_folder(named, target):
            done.moved += 1
            on_moved(target)
            keys = []
        for folder in keys:
            spelt = find_spelling(target, folder.name)
            if rename_folder(folder, spelt):
                done.moved += 1
                on_moved(spelt)
            else:
                done.merged += 1
                done.quarantined += merge_key_folder(store, folder, spelt)
    remove_empty_folders(named, root)
    return found


def _folders(parent: Path) -> list[Path]:
    return [parent / name for name in list_folders(parent)]


def rename_folder(folder: Path, target: Path) -> bool:
    """Move a folder in one step; return False if *target* exists, True as well if *folder* is gone.

    A `StoreError` says that a file in it is in use (Windows).
    """
    while True:
        try:
            make_folders(target.parent)
            folder.rename(target)
        except FileNotFoundError:
            if not folder.exists():  # pruned, or moved by a process that published there
                return True
        except OSError as error:
            if target.is_dir():
                return False
            raise StoreError(f"cannot be moved: {error.strerror or error}", path=folder) from error
        else:
            return True


def merge_key_folder(store: Store, folder: Path, target: Path) -> int:
    """Move the files of a key's *folder* into *target*; return how many files went into quarantine.

    Where both have a file of one name, that of *target* stays, unless it is empty. *target* gets the lines of both
    ``refs.ptr``. The caller holds the store's admin lock; after a kill, a second run does the rest.
    """
    old = read_refs(folder)
    if old.exists:
        new = read_refs(target)
        lines = (*old.lines, *(line for line in new.lines if line not in old.lines))
        write_refs(store, target, Refs(lines, exists=True))
        take_away(store, folder / REFS)
    quarantined = 0
    with store_errors(folder):
        for path in sorted(folder.iterdir()):
            other = find_spelling(target, path.name)
            if not path.is_dir():
                quarantined += _merge_file(store, path, other)
            elif not rename_folder(path, other):
                for inner in sorted(each for each in path.iterdir() if not each.is_dir()):
                    quarantined += _merge_file(store, inner, find_spelling(other, inner.name))
                remove_empty_folders(path, folder)
    remove_empty_folders(folder, folder.parent)
    return quarantined


def _merge_file(store: Store, path: Path, other: Path) -> bool:
    """Rename *path* to *other*, or move it to quarantine if *other* has content; return whether it is there."""
    if other.exists() and other.stat().st_size:
        move_to_quarantine(store, path, f"the store has {other.relative_to(store.root).as_posix()} for the same key")
        return True
    path.replace(other)
    return False


def move_to_quarantine(store: Store, path: Path, why: str) -> Path:
    """Move *path*, a file in *store*, out of the tree that debuggers read without deleting it; return the new path.

    It goes into a folder of its own below ``.symcache/quarantine``, beside a ``why.json`` that has its old path.
    """
    folder = store.root / OWN_FOLDER / "quarantine" / token_hex(8)
    was = path.relative_to(store.root).as_posix()
    write_whole(store, folder / "why.json", json.dumps({"path": was, "why": why}).encode())
    with store_errors(path):
        return put_in_place(path, lambda: folder / path.name, store.root)
