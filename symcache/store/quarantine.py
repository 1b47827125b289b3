"""Where files go that may not stay where debuggers find them, and that nobody has decided to delete."""

from __future__ import annotations

import json
from secrets import token_hex
from typing import TYPE_CHECKING

from symcache.store.place import as_store_error, put_in_place, write_whole
from symcache.store.staging import OWN_FOLDER

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.store.tree import Store

__all__ = ["put_into_quarantine"]


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
