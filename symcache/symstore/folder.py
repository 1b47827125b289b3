"""The folder 000Admin: its files, and the journal that brings an interrupted change to its end."""

from __future__ import annotations

import json
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError
from symcache.identity import fold, parse_index
from symcache.stores.local.atomic import as_store_error, take_away, write_whole
from symcache.stores.local.staging import OWN_FOLDER
from symcache.stores.local.tree import Form
from symcache.symstore.transactions import Filed, parse_filed, parse_transaction, split_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.stores.local.tree import Store
    from symcache.symstore.transactions import Transaction

__all__ = ["AdminFolder", "Entry", "Intent", "Stage", "clear_journal", "journal_path", "read_journal", "write_journal"]


_FOLDER = "000Admin"
_SERVER, _HISTORY, _LAST_ID = "server.txt", "history.txt", "lastid.txt"
_OWN_FILE = re.compile(r"([0-9]{10,18})(\.deleted)?")


class AdminFolder:
    """The admin files of one store; each is replaced whole, and only by who holds the store's admin lock.

    Layout: ``lastid.txt`` (10 digits, no line end), ``server.txt`` (transactions in force), ``history.txt`` (all),
    and for each add a file named by its 10 digits, renamed to ``….deleted`` when it is undone; lines end in CRLF.
    Source: stores made by symstore.exe; windows-driver-docs, symstore-transactions.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The folder, in whatever letter case it is spelt."""
        if self._path is None or not self._path.is_dir():
            self._path = self._find()
        return self._path

    def server(self) -> Iterator[tuple[bytes, Transaction | None]]:
        """Yield each line of ``server.txt`` with its meaning; None if it has none.

        Raises:
            StoreError: It cannot be read.
        """
        return _understand(self._read(_SERVER))

    def history(self) -> Iterator[tuple[bytes, Transaction | None]]:
        """Yield each line of ``history.txt`` with its meaning; None if it has none.

        Raises:
            StoreError: It cannot be read.
        """
        return _understand(self._read(_HISTORY))

    def filed(self, id_: int) -> Iterator[tuple[bytes, Filed | None]]:
        """Yield each line of transaction *id_*'s own file with its meaning, also after the transaction was undone.

        Raises:
            StoreError: It cannot be read.
        """
        content = self._read(f"{id_:010}") or self._read(f"{id_:010}.deleted")
        for line in split_lines(content):
            filed = None
            with suppress(InputError):
                filed = parse_filed(line)
            yield line, filed

    def is_doubtful(self, id_: int) -> bool:
        """Return whether transaction *id_*'s own file may not tell all that it brought: absent, empty or unreadable.

        Raises:
            StoreError: It cannot be read.
        """
        lines = [filed for _, filed in self.filed(id_)]
        return not lines or None in lines

    def has_own_file(self, id_: int) -> bool:
        """Return whether transaction *id_* is in force as far as its own file tells."""
        return (self.path / f"{id_:010}").is_file()

    def own_files(self) -> Iterator[tuple[int, bool]]:
        """Yield the number of each transaction's own file, and whether it is that of one undone; in no order."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path) as entries:
            for entry in entries:
                if match := _OWN_FILE.fullmatch(entry.name):
                    yield int(match[1]), match[2] is not None

    def deleted_ids(self) -> set[int]:
        """Return the transactions that ``history.txt`` says were undone.

        Raises:
            StoreError: It cannot be read.
        """
        return {each.deleted_id for _, each in self.history() if each is not None and each.deleted_id is not None}

    def lost_ids(self) -> set[int]:
        """Return the adds of ``history.txt`` that were never undone, and that ``server.txt`` lacks all the same.

        Raises:
            StoreError: One of the two cannot be read.
        """
        added = {each.id for _, each in self.history() if each is not None and each.deleted_id is None}
        return added - self.deleted_ids() - {each.id for _, each in self.server() if each is not None}

    def standing_ids(self) -> set[int]:
        """Return the transactions that any admin file has for being in force, so that nothing of theirs may go.

        Raises:
            StoreError: One of the files cannot be read.
        """
        server = {each.id for _, each in self.server() if each is not None and each.deleted_id is None}
        own = {id_ for id_, is_deleted in self.own_files() if not is_deleted}
        return server | self.lost_ids() | (own - self.deleted_ids())

    def next_id(self) -> int:
        """Return a number above every one that any of the files knows."""
        text = self._read(_LAST_ID).strip(b"\0 \r\n")
        known = [int(text) if text.isdigit() and len(text) < 19 else 0]
        known += (each.id for _, each in self.history() if each is not None)
        known += (each.id for _, each in self.server() if each is not None)
        known += (id_ for id_, _ in self.own_files())
        return max(known) + 1

    def record_added(self, id_: int, line: bytes, filed: list[bytes]) -> None:
        """Write transaction *id_*'s own file, then its line everywhere; what is there already is not written again.

        Raises:
            StoreError: The disk does not take it.
        """
        self.write_filed(id_, filed)
        self._append(_SERVER, id_, line)
        self._append(_HISTORY, id_, line)
        self._write(_LAST_ID, b"%010d" % id_)

    def record_deleted(self, id_: int, line: bytes, deleted_id: int) -> None:
        """Take *deleted_id* off ``server.txt``, rename its own file, record the delete; what is done is not done again.

        Raises:
            StoreError: The disk does not take it.
        """
        content = self._read(_SERVER)
        kept = b"".join(each for each in content.splitlines(keepends=True) if _id_of(each) != deleted_id)
        if kept != content:
            self._write(_SERVER, kept)
        self.mark_deleted(deleted_id)
        self._append(_HISTORY, id_, line)
        self._write(_LAST_ID, b"%010d" % id_)

    def mark_deleted(self, id_: int) -> bool:
        """Rename transaction *id_*'s own file to that of one undone; return whether it was there.

        Raises:
            StoreError: The disk does not take it.
        """
        own = self.path / f"{id_:010}"
        try:
            own.replace(own.with_name(own.name + ".deleted"))
        except FileNotFoundError:
            return False
        except OSError as error:
            raise as_store_error(error, own) from error
        return True

    def take_back(self, id_: int) -> bool:
        """Write *id_*'s line of ``history.txt`` into ``server.txt``, in its place; return whether there is one.

        Raises:
            StoreError: The disk does not take it.
        """
        line = next((line for line, each in self.history() if each is not None and each.id == id_), None)
        if line is None:
            return False
        lines = self._read(_SERVER).splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines[-1] += b"\r\n"
        at = next((at for at, each in enumerate(lines) if (_id_of(each) or 0) > id_), len(lines))
        self._write(_SERVER, b"".join([*lines[:at], line + b"\r\n", *lines[at:]]))
        return True

    def write_filed(self, id_: int, filed: list[bytes]) -> None:
        """Write transaction *id_*'s own file.

        Raises:
            StoreError: The disk does not take it.
        """
        self._write(f"{id_:010}", b"".join(each + b"\r\n" for each in filed))

    def _find(self) -> Path:
        root = self._store.root
        if not (root / _FOLDER).is_dir():
            with suppress(FileNotFoundError, NotADirectoryError), os.scandir(root) as entries:
                for entry in entries:
                    if fold(entry.name) == fold(_FOLDER):
                        return root / entry.name
        return root / _FOLDER

    def _append(self, name: str, id_: int, line: bytes) -> None:
        content = self._read(name)
        if any(_id_of(each) == id_ for each in split_lines(content)):
            return
        if content and not content.endswith(b"\n"):
            content += b"\r\n"
        self._write(name, content + line + b"\r\n")

    def _read(self, name: str) -> bytes:
        path = self.path / name
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return b""
        except OSError as error:
            raise as_store_error(error, path) from error

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self._store, self.path / name, content)


def _understand(content: bytes) -> Iterator[tuple[bytes, Transaction | None]]:
    for line in split_lines(content):
        transaction = None
        with suppress(InputError):
            transaction = parse_transaction(line)
        yield line, transaction


def _id_of(line: bytes) -> int | None:
    digits = line.partition(b",")[0]
    return int(digits) if digits.isdigit() and len(digits) < 19 else None


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
