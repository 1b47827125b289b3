"""The store that a command is about: the one of the symbol path that debuggers open files from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import UsageError
from symcache.identity import Tier
from symcache.stores.disk import local_path
from symcache.stores.local.tree import Store
from symcache.sympath import HttpPlace, chains

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.config import Config

__all__ = ["find_store", "open_store"]


def find_store(config: Config) -> Store:
    """Return the bottom-most store of the symbol path, which ``--store`` names; it need not exist.

    Raises:
        UsageError: The symbol path names none that this system can reach.
    """
    path = _first_folder(config)
    if path is None:
        raise UsageError("the symbol path names no store on this machine; name one with --store DIR")
    return Store(path, new_tier=Tier.TWO if config.store.two_tier else Tier.ONE)


def open_store(config: Config) -> Store:
    """Return the same store, which must exist.

    Raises:
        UsageError: There is none.
    """
    store = find_store(config)
    if not store.root.is_dir():
        raise UsageError(f"{store.root}: there is no store here; `symcache store init` makes one")
    return store


def _first_folder(config: Config) -> Path | None:
    for element in chains(config.symbol_path, config.store.folder):
        places = [place for place in element.stores if not isinstance(place, HttpPlace)]
        paths = (local_path(place.path, config.unc.map) for place in places)
        found = next((path for path in paths if path is not None), None)
        if found is not None:
            return found
        folder = None if element.folder is None else local_path(element.folder.path, config.unc.map)
        if folder is not None and (folder / "pingme.txt").is_file():
            return folder
    return None
