"""The folder 000Admin: symstore's files in it, and symcache's journal of the change that is being made to them."""

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
from symcache.stores.base import Form
from symcache.stores.local.atomic import OWN_FOLDER, flush_folders, read_whole, store_errors, write_whole
from symcache.symstore.transactions import TransactionFile, parse_file, parse_lines, parse_transaction, split_lines

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.stores.local.tree import Store
    from symcache.symstore.transactions import Transaction


_FOLDER = "000Admin"
_SERVER, _HISTORY, _LAST_ID = "server.txt", "history.txt", "lastid.txt"
_FILE_LIST = re.compile(r"([0-9]{10,18})(\.deleted)?")


class AdminFolder:
    """The admin files of one store; each is replaced as a whole, and only under the store's admin lock.

    Layout: ``lastid.txt`` (10 digits, no line end), ``server.txt`` (transactions in force), ``history.txt`` (all),
    and for each add a file list named by its 10 digits, renamed to ``….deleted`` when it is deleted; lines end in CRLF.
    Source: stores made by symstore.exe; windows-driver-docs, symstore-transactions.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path: Path | None = None

    @property
    def path(self) -> Path:
        """The folder, in the letter case that the store has."""
        if self._path is None or not self._path.is_dir():
            self._path = find_spelling(self._store.root, _FOLDER)
        return self._path

    def server(self) -> Iterator[tuple[bytes, Transaction | None]]:
        """Yield each line of ``server.txt``, and the transaction in it; None if the line is invalid."""
        return parse_lines(self._read(_SERVER), parse_transaction)

    def history(self) -> Iterator[tuple[bytes, Transaction | None]]:
        """Yield each line of ``history.txt``, and the transaction in it; None if the line is invalid."""
        return parse_lines(self._read(_HISTORY), parse_transaction)

    def file_list(self, id_: int) -> Iterator[tuple[bytes, TransactionFile | None]]:
        """Yield each line of transaction *id_*'s file list, and the file in it, also after the transaction's delete."""
        return parse_lines(self._read(f"{id_:010}") or self._read(f"{id_:010}.deleted"), parse_file)

    def has_file_list(self, id_: int) -> bool:
        """Return whether transaction *id_* has a file list, and not one of a deleted transaction."""
        return (self.path / f"{id_:010}").is_file()

    def file_lists(self) -> Iterator[tuple[int, bool]]:
        """Yield the transaction of each file list, and whether that says it was deleted; in no order."""
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(self.path) as entries:
            for entry in entries:
                if match := _FILE_LIST.fullmatch(entry.name):
                    yield int(match[1]), match[2] is not None

    def server_ids(self) -> set[int]:
        """Return the transactions in ``server.txt``."""
        return {each.id for _, each in self.server() if each is not None}

    def deleted_ids(self) -> set[int]:
        """Return the transactions that ``history.txt`` says were deleted."""
        return {each.deleted_id for _, each in self.history() if each is not None and each.deleted_id is not None}

    def lost_ids(self) -> set[int]:
        """Return the adds in ``history.txt`` that were not deleted and are not in ``server.txt``."""
        added = {each.id for _, each in self.history() if each is not None and each.deleted_id is None}
        return added - self.deleted_ids() - self.server_ids()

    def ids_in_force(self) -> set[int]:
        """Return the transactions that are in force by any of the files, so that their files must stay."""
        server = {each.id for _, each in self.server() if each is not None and each.deleted_id is None}
        listed = {id_ for id_, is_deleted in self.file_lists() if not is_deleted}
        return server | self.lost_ids() | (listed - self.deleted_ids())

    def next_id(self) -> int:
        """Return a number above every one in any of the files."""
        text = self._read(_LAST_ID).strip(b"\0 \r\n")
        known = {int(text) if text.isdigit() and len(text) < 19 else 0}
        known |= self.server_ids()
        known.update(each.id for _, each in self.history() if each is not None)
        known.update(id_ for id_, _ in self.file_lists())
        return max(known) + 1

    def record_added(self, id_: int, line: bytes, files: list[bytes]) -> None:
        """Write transaction *id_*'s file list, then its line everywhere; lines that exist are not written again."""
        self.write_file_list(id_, files)
        self._append(_SERVER, id_, line)
        self._append(_HISTORY, id_, line)
        self._write(_LAST_ID, b"%010d" % id_)

    def record_deleted(self, id_: int, line: bytes, deleted_id: int) -> None:
        """Remove *deleted_id* from ``server.txt``, rename its file list, record the delete; safe to run twice."""
        content = self._read(_SERVER)
        kept = b"".join(each for each in content.splitlines(keepends=True) if _id_of(each) != deleted_id)
        if kept != content:
            self._write(_SERVER, kept)
        self.mark_deleted(deleted_id)
        self._append(_HISTORY, id_, line)
        self._write(_LAST_ID, b"%010d" % id_)

    def mark_deleted(self, id_: int) -> bool:
        """Rename transaction *id_*'s file list to that of a deleted one; return whether it was there."""
        path = self.path / f"{id_:010}"
        with store_errors(path), suppress(FileNotFoundError):
            path.replace(path.with_name(path.name + ".deleted"))
            return True
        return False

    def restore_server_line(self, id_: int) -> bool:
        """Copy *id_*'s line from ``history.txt`` to ``server.txt``, in order; return whether there is one."""
        line = next((line for line, each in self.history() if each is not None and each.id == id_), None)
        if line is None:
            return False
        lines = self._read(_SERVER).splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines[-1] += b"\r\n"
        at = next((at for at, each in enumerate(lines) if (_id_of(each) or 0) > id_), len(lines))
        self._write(_SERVER, b"".join([*lines[:at], line + b"\r\n", *lines[at:]]))
        return True

    def write_file_list(self, id_: int, files: list[bytes]) -> None:
        self._write(f"{id_:010}", b"".join(each + b"\r\n" for each in files))

    def _append(self, name: str, id_: int, line: bytes) -> None:
        content = self._read(name)
        if any(_id_of(each) == id_ for each in split_lines(content)):
            return
        if content and not content.endswith(b"\n"):
            content += b"\r\n"
        self._write(name, content + line + b"\r\n")

    def _read(self, name: str) -> bytes:
        return read_whole(self.path / name) or b""

    def _write(self, name: str, content: bytes) -> None:
        write_whole(self._store, self.path / name, content)


def find_spelling(parent: Path, name: str) -> Path:
    """Return the entry of *parent* called *name* in any letter case, the exact one first; else its path if made."""
    if not (parent / name).exists():
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as entries:
            for entry in entries:
                if fold(entry.name) == fold(name):
                    return parent / entry.name
    return parent / name


def _id_of(line: bytes) -> int | None:
    digits = line.partition(b",")[0]
    return int(digits) if digits.isdigit() and len(digits) < 19 else None


_SCHEMA = "symcache.journal/1"


class Stage(StrEnum):
    """How far a writer has come, which decides what happens if its process ends."""

    FILING = "filing"  # an add, files not all in place: to be undone
    RECORDING = "recording"  # an add, files in place: to be finished
    DELETING = "deleting"  # a delete: to be finished


@dataclass(frozen=True, slots=True)
class Entry:
    """One file of an add, and the forms of it that the store had before."""

    file: TransactionFile
    had: frozenset[Form]


@dataclass(frozen=True, slots=True)
class Intent:
    """What a writer is about to do."""

    stage: Stage
    id: int  # the number of its transaction
    line: bytes  # the transaction's line in ``server.txt`` or, for a delete, ``history.txt``, without its end
    deleted_id: int | None = None  # the transaction that it deletes
    entries: tuple[Entry, ...] = ()


def journal_path(store: Store) -> Path:
    """Return the path of the file that holds the intent of a store's writer, if there is one."""
    return store.root / OWN_FOLDER / "journal.json"


def write_journal(store: Store, intent: Intent) -> None:
    """Replace the journal by *intent*, which is on the disk then."""
    document = {
        "schema": _SCHEMA,
        "stage": intent.stage,
        "id": intent.id,
        "line": intent.line.decode("latin-1"),
        "deleted_id": intent.deleted_id,
        "entries": [
            {"index": each.file.key.index, "source": each.file.source, "had": sorted(each.had)}
            for each in intent.entries
        ],
    }
    path = journal_path(store)
    write_whole(store, path, json.dumps(document).encode())
    with store_errors(path):
        flush_folders([path.parent], store.root)


def read_journal(store: Store) -> Intent | None:
    """Return what the last writer was about to do; None if it finished, or there is no valid journal."""
    content = read_whole(journal_path(store))
    try:
        return None if content is None else _parse(json.loads(content))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, InputError):
        return None  # symcache replaces it as a whole, so it did not write this; the next intent replaces it


def _parse(document: dict[str, Any]) -> Intent:
    if document["schema"] != _SCHEMA:
        raise ValueError(document["schema"])
    entries: list[Entry] = []
    for entry in document["entries"]:
        file = TransactionFile(parse_index(entry["index"]), str(entry["source"]))
        entries.append(Entry(file, frozenset(map(Form, entry["had"]))))
    id_, line, deleted_id = int(document["id"]), document["line"].encode("latin-1"), document["deleted_id"]
    return Intent(Stage(document["stage"]), id_, line, None if deleted_id is None else int(deleted_id), tuple(entries))
