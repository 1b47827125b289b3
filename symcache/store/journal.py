"""What a writer of transactions is about to do, so that the next one can finish or undo it if it dies meanwhile."""

from __future__ import annotations

import json
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError
from symcache.identity import parse_index
from symcache.store.place import as_store_error, take_away, write_whole
from symcache.store.staging import OWN_FOLDER
from symcache.store.transactions import Filed
from symcache.store.tree import Form

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.store.tree import Store

__all__ = ["Entry", "Intent", "Stage", "clear_journal", "journal_path", "read_journal", "write_journal"]

_SCHEMA = "symcache.journal/1"


class Stage(StrEnum):
    """How far a writer has come."""

    FILING = "filing"  # an add, files not all in place: to be undone
    RECORDING = "recording"  # an add, files in place: to be finished
    DELETING = "deleting"  # a delete: to be finished


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an add.

    Attributes:
        filed: What and from where.
        had: The forms that the store held before.
    """

    filed: Filed
    had: frozenset[Form]


@dataclass(frozen=True, slots=True)
class Intent:
    """What a writer is about to do.

    Attributes:
        stage: How far it has come.
        id: The number of its transaction.
        line: The transaction's line in ``server.txt`` or, for a delete, ``history.txt``, without its end.
        deleted_id: The transaction that a delete undoes.
        entries: The files of an add.
    """

    stage: Stage
    id: int
    line: bytes
    deleted_id: int | None = None
    entries: tuple[Entry, ...] = ()


def journal_path(store: Store) -> Path:
    """Return where the intent of a store's writer lies, if there is one."""
    return store.root / OWN_FOLDER / "journal.json"


def write_journal(store: Store, intent: Intent) -> None:
    """Record *intent*, in place of what was recorded before.

    Raises:
        StoreError: The disk does not take it.
    """
    document = {
        "schema": _SCHEMA,
        "stage": intent.stage,
        "id": intent.id,
        "line": intent.line.decode("latin-1"),
        "deleted_id": intent.deleted_id,
        "entries": [
            {"index": entry.filed.key.index, "source": entry.filed.source, "had": sorted(entry.had)}
            for entry in intent.entries
        ],
    }
    write_whole(store, journal_path(store), json.dumps(document).encode())


def read_journal(store: Store) -> Intent | None:
    """Return what the last writer was about to do; None if it ended well, or what is there is no journal.

    Raises:
        StoreError: It cannot be read.
    """
    path = journal_path(store)
    try:
        return _parse(json.loads(path.read_bytes()))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise as_store_error(error, path) from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, InputError):
        return None  # it is written whole, so this is not ours; the next intent replaces it


def clear_journal(store: Store) -> None:
    """Forget the intent.

    Raises:
        StoreError: The disk does not take it.
    """
    take_away(store, journal_path(store))


def _parse(document: dict[str, Any]) -> Intent:
    if document["schema"] != _SCHEMA:
        raise ValueError(document["schema"])
    deleted_id = document["deleted_id"]
    return Intent(
        Stage(document["stage"]),
        int(document["id"]),
        document["line"].encode("latin-1"),
        None if deleted_id is None else int(deleted_id),
        tuple(
            Entry(Filed(parse_index(entry["index"]), str(entry["source"])), frozenset(map(Form, entry["had"])))
            for entry in document["entries"]
        ),
    )
