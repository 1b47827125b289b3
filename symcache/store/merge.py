"""Two folders for one thing: of two layouts, or of two spellings. They become one, and no file is lost."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.identity import fold
from symcache.store.place import as_store_error, remove_empty_folders, take_away
from symcache.store.quarantine import put_into_quarantine
from symcache.store.refs import REFS, Refs, read_refs, write_refs

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.store.tree import Store

__all__ = ["merge_key_folder", "rename_folder", "spelt"]


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
