"""Transactions: publishing into a store, and taking back, as symstore does, with any number of writers at once."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from symcache.errors import StoreError, UsageError
from symcache.identity import DbgKey, ImageKey, fold
from symcache.store.adminfolder import AdminFolder
from symcache.store.compress import write_cabinet
from symcache.store.filing import Filing
from symcache.store.journal import Entry, Intent, Stage, read_journal, write_journal
from symcache.store.locks import KeyLock
from symcache.store.place import as_store_error
from symcache.store.staging import OWN_FOLDER
from symcache.store.transactions import (
    Content,
    Filed,
    Kind,
    Ref,
    Transaction,
    clean,
    format_added,
    format_deleted,
)
from symcache.store.tree import Form, list_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.store.tree import Store

__all__ = ["Addition", "Admin", "Holding"]


@dataclass(frozen=True, slots=True)
class Addition:
    """A file to be published.

    Attributes:
        key: What it is.
        path: Where it lies now.
        content: What ``refs.ptr`` is to say of it; None for what the key suggests, an image or a full PDB.
        target: The text of the pointer, where that is not *path*: another spelling of it, or ``MSG: …``.
    """

    key: Key
    path: Path
    content: Content | None = None
    target: str | None = None


@dataclass(frozen=True, slots=True)
class Holding:
    """A file that a transaction in force brought.

    Attributes:
        transaction: Which one.
        filed: What and from where.
    """

    transaction: Transaction
    filed: Filed

    def __str__(self) -> str:
        return f"{self.filed.key.index} {self.transaction} from {self.filed.source}"

    def as_json(self) -> dict[str, object]:
        """Return the fields of one JSON object."""
        return {
            "index": self.filed.key.index,
            "source": self.filed.source,
            "transaction": self.transaction.as_json(),
        }


class Admin:
    """The transactions of one store.

    Writers take turns. Each first records what it is about to do; if it dies, the next one undoes an add whose files
    are not all in place, and finishes everything else. Readers need no lock, as each file is replaced whole.

    Args:
        store: The store; it need not have been symstore's before.
        lock_wait_s: Seconds to wait for another writer, or for whoever is filling in one of the files.
        now: The present, in the local time that is to be recorded.
    """

    def __init__(
        self,
        store: Store,
        *,
        lock_wait_s: float = 600.0,
        now: Callable[[], datetime] = lambda: datetime.now(tz=UTC).astimezone(),
    ) -> None:
        self._store = store
        self._folder = AdminFolder(store)
        self._filing = Filing(store, self._folder, lock_wait_s=lock_wait_s)
        self._lock_wait_s = lock_wait_s
        self._now = now

    def add(
        self,
        additions: Iterable[Addition],
        *,
        product: str,
        version: str = "",
        comment: str = "",
        kind: Kind = Kind.FILE,
        compress: bool = False,
    ) -> Transaction:
        """Publish files, or pointers to them, as one transaction; return it.

        Quotes and line ends in the texts become apostrophes and blanks, as the format has no way to write them.

        Raises:
            UsageError: Nothing to add, pointers to be compressed, or a pointer's text that cannot be written.
            InputError: A file is too large for a cabinet.
            StoreError: A file cannot be read, the disk does not take it, or another writer does not end.
        """
        wanted = list(additions)
        if not wanted:
            raise UsageError("there is nothing to add")
        if compress and kind is Kind.POINTER:
            raise UsageError("pointers cannot be compressed")
        for addition in wanted:
            text = _source(addition, kind)
            if kind is Kind.POINTER and (not text.strip() or text != clean(text)):
                raise UsageError(f"{text!r} cannot be written as a pointer: it is empty, or has a quote or line end")
        form = Form.COMPRESSED if compress else Form.PLAIN
        scratches: list[Path] = []
        try:
            if kind is Kind.FILE:
                for addition in wanted:
                    scratches.append(self._store.scratch())
                    self._stage(addition, scratches[-1], form)
            with self.locked():
                texts = (clean(product), clean(version), clean(comment))
                added = Transaction(self._folder.next_id(), None, kind, self._now().replace(tzinfo=None), *texts)
                self._add(added, wanted, scratches, form)
        finally:
            for scratch in scratches:
                with suppress(OSError):
                    scratch.unlink(missing_ok=True)
        return added

    def delete(self, id_: int, *, on_left: Callable[[str], None] = lambda _: None) -> Transaction:
        """Undo transaction *id_*; return the transaction that does so.

        A file goes when no other transaction names it, by ``refs.ptr`` or by its own file. Where the own file of *id_*
        is lost or damaged, every ``refs.ptr`` of the store is looked into.

        Args:
            id_: Number of a transaction in force.
            on_left: Told in a line what stays although no transaction in force names it, or that nothing tells.

        Raises:
            UsageError: There is no such transaction in force.
            StoreError: The disk does not take it, or another writer does not end.
        """
        self._require(id_)  # before the lock, which makes folders where there is no store
        with self.locked():
            self._require(id_)
            deleted = Transaction(self._folder.next_id(), deleted_id=id_)
            intent = Intent(Stage.DELETING, deleted.id, format_deleted(deleted.id, id_), id_)
            write_journal(self._store, intent)
            self._filing.settle(intent, on_left)
        return deleted

    def recover(self) -> bool:
        """Undo or finish what a writer that died was doing; return whether there was anything.

        Raises:
            StoreError: The disk does not take it, or another writer does not end.
        """
        had_any = read_journal(self._store) is not None
        if had_any:
            with self.locked():
                pass
        return had_any

    def list_transactions(self) -> Iterator[Transaction]:
        """Yield the transactions in force, oldest first; lines that cannot be read are left out, `verify` names them.

        Raises:
            StoreError: ``server.txt`` cannot be read.
        """
        return (each for _, each in self._folder.server() if each is not None)

    def history(self) -> Iterator[Transaction]:
        """Yield every transaction ever made, deletes too, oldest first.

        Raises:
            StoreError: ``history.txt`` cannot be read.
        """
        return (each for _, each in self._folder.history() if each is not None)

    def files_of(self, id_: int) -> Iterator[Filed]:
        """Yield what transaction *id_* brought, also after it was undone.

        Raises:
            StoreError: Its own file cannot be read.
        """
        return (filed for _, filed in self._folder.filed(id_) if filed is not None)

    def query(self, *, name: str = "*", id_: str = "*", product: str = "*", version: str = "*") -> Iterator[Holding]:
        """Yield what the transactions in force brought, as far as it fits all four patterns.

        Args:
            name: Names of files; ``*``, ``?`` and ``[…]`` as in a shell, letter case does not count, here and below.
            id_: Middle parts of indexes.
            product: Products of transactions.
            version: Versions of transactions.

        Raises:
            StoreError: A file of the account cannot be read.
        """
        for transaction in self.list_transactions():
            if _fits(transaction.product, product) and _fits(transaction.version, version):
                for filed in self.files_of(transaction.id):
                    if _fits(filed.key.name, name) and _fits(filed.key.id, id_):
                        yield Holding(transaction, filed)

    @contextmanager
    def locked(self, *, to_convert: bool = False) -> Iterator[None]:
        """Hold the lock of the store's only writer for a ``with`` block, after settling what a dead one left.

        Raises:
            StoreError: Another writer does not end, the disk does not take what is to be settled, or the store is half
                converted and this is not *to_convert* it.
        """
        lock = KeyLock(self._store.root / OWN_FOLDER / "locks", "000admin")
        with lock.hold(timeout_s=self._lock_wait_s):
            if self._store.converting.exists() and not to_convert:
                raise StoreError("a conversion to another layout was interrupted; end it first", path=self._store.root)
            left = read_journal(self._store)
            if left is not None:
                self._filing.settle(left)
            yield

    def _require(self, id_: int) -> None:
        if not any(each.id == id_ for each in self.list_transactions()):
            raise UsageError(f"{self._store.root}: no transaction {id_:010} is in force; see its server.txt")

    def _stage(self, addition: Addition, scratch: Path, form: Form) -> None:
        try:
            if form is Form.COMPRESSED:
                with addition.path.open("rb") as source, scratch.open("wb") as target:
                    write_cabinet(source, target, name=addition.key.name)
            else:
                shutil.copyfile(addition.path, scratch)
        except OSError as error:
            raise as_store_error(error, addition.path) from error

    def _add(self, added: Transaction, wanted: list[Addition], scratches: list[Path], form: Form) -> None:
        kind = added.kind or Kind.FILE
        entries = tuple(self._entry(addition, kind) for addition in wanted)
        intent = Intent(Stage.FILING, added.id, format_added(added), entries=entries)
        write_journal(self._store, intent)
        try:
            for number, addition in enumerate(wanted):
                content = addition.content or _suggest_content(addition.key)
                ref = Ref(added.id, kind, _source(addition, kind), content, form is Form.COMPRESSED)
                self._filing.file(addition.key, ref, scratches[number] if scratches else None, form)
            intent = replace(intent, stage=Stage.RECORDING)
            write_journal(self._store, intent)
        except BaseException:
            with suppress(StoreError):  # the journal stays, so that the next writer tries again
                self._filing.settle(intent)
            raise
        self._filing.settle(intent)

    def _entry(self, addition: Addition, kind: Kind) -> Entry:
        try:
            stored = list_stored(self._store.folder_for(addition.key), addition.key.name)
        except OSError as error:
            raise as_store_error(error, self._store.root) from error
        return Entry(Filed(addition.key, _source(addition, kind)), frozenset(each.form for each in stored))


def _source(addition: Addition, kind: Kind) -> str:
    if kind is Kind.POINTER and addition.target is not None:
        return addition.target
    return str(addition.path.absolute())


def _suggest_content(key: Key) -> Content:
    return Content.BINARY if isinstance(key, ImageKey) and not isinstance(key, DbgKey) else Content.PRIVATE


def _fits(text: str, pattern: str) -> bool:
    return fnmatchcase(fold(text), fold(pattern))
