"""What a store holds, key by key, with all that decides whether it stays."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.identity import fold, parse_id
from symcache.stores.local.access import AccessLog
from symcache.stores.local.atomic import as_store_error
from symcache.stores.local.staging import OWN_FOLDER
from symcache.stores.local.tree import list_stored
from symcache.symstore.admin import Admin
from symcache.symstore.transactions import REFS
from symcache.upkeep.pins import Pins, match_pins

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.tree import Store

__all__ = ["MSFZ_FOLDER", "Candidate", "Leftover", "find_leftovers", "list_files", "survey"]


MSFZ_FOLDER = "msfz0"


@dataclass(frozen=True, slots=True)
class Candidate:
    """The files of one key, and what decides whether they stay.

    Attributes:
        key: Which key.
        folder: Where they lie.
        files: Each with its length in bytes and its time of change in nanoseconds.
        used_s: When they were last used, as far as is known, else published; seconds since 1970.
        published_s: When the newest of them was published; seconds since 1970.
        pinned: Whether a pin means them.
        in_transaction: Whether a transaction in force names them.
    """

    key: Key
    folder: Path
    files: tuple[tuple[Path, int, int], ...]
    used_s: float
    published_s: float
    pinned: bool = False
    in_transaction: bool = False

    @property
    def size_bytes(self) -> int:
        """What they take together."""
        return sum(size for _, size, _ in self.files)


@dataclass(frozen=True, slots=True)
class Leftover:
    """A file in quarantine.

    Attributes:
        path: Where it lies.
        size_bytes: Its length.
    """

    path: Path
    size_bytes: int


def survey(store: Store, access: AccessLog | None = None) -> Iterator[Candidate]:
    """Yield every key of *store* that has files, with what decides about them.

    Raises:
        StoreError: The store cannot be read.
    """
    used = (access or AccessLog(store)).last_used_by_key()
    is_pinned = match_pins(Pins(store).list())
    admin = Admin(store)
    named = {filed.key.folded for each in admin.list_transactions() for filed in admin.files_of(each.id)}
    for name, id_, folder in store.key_folders():
        try:
            key = parse_id(name, id_)
        except InputError:
            continue  # no debugger asks for it; `verify` names it
        files = list_files(folder, name)
        if files:
            published_s = max(changed_ns for _, _, changed_ns in files) / 1e9
            yield Candidate(
                key,
                folder,
                files,
                used_s=max(published_s, used.get(key.folded, 0.0)),
                published_s=published_s,
                pinned=is_pinned(name, id_),
                in_transaction=key.folded in named or (folder / REFS).exists(),
            )


def find_leftovers(store: Store, *, older_than_s: float, now_s: float) -> tuple[Leftover, ...]:
    """Return the files in quarantine for longer than *older_than_s* seconds."""
    found: list[Leftover] = []
    for folder, _, names in os.walk(store.root / OWN_FOLDER / "quarantine"):
        for name in names:
            path = store.root / folder / name
            with suppress(FileNotFoundError):
                # Moving a file changes its folder's time alone.
                if now_s - path.parent.stat().st_mtime > older_than_s:
                    found.append(Leftover(path, path.lstat().st_size))
    return tuple(sorted(found, key=lambda each: each.path))


def list_files(folder: Path, name: str) -> tuple[tuple[Path, int, int], ...]:
    """Return the files of one key: every form of *name* in *folder*, with length and time of change (nanoseconds).

    A PDB in its newer container lies in a folder of its own below.

    Raises:
        StoreError: The folder cannot be read.
    """
    try:
        paths = [stored.path for stored in list_stored(folder, name)]
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder / MSFZ_FOLDER) as entries:
            paths += sorted(folder / MSFZ_FOLDER / each.name for each in entries if fold(each.name) == fold(name))
        files: list[tuple[Path, int, int]] = []
        for path in paths:
            with suppress(FileNotFoundError):
                status = path.stat()
                files.append((path, status.st_size, status.st_mtime_ns))
    except OSError as error:
        raise as_store_error(error, folder) from error
    return tuple(files)
