"""Adding files to a store and deleting them by transactions, as symstore does, with any number of writers at once."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from filecmp import cmp
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from symcache.errors import StoreError, UsageError
from symcache.formats.cab.cabinet import write_cabinet
from symcache.identity import DbgKey, ImageKey, fold
from symcache.stores.local.atomic import as_store_error, remove_empty_folders, take_away
from symcache.stores.local.locks import NameLock
from symcache.stores.local.staging import OWN_FOLDER
from symcache.stores.local.tree import Form, Store, list_stored
from symcache.symstore.folder import AdminFolder, Entry, Intent, Stage, journal_path, read_journal, write_journal
from symcache.symstore.transactions import (
    Content,
    Kind,
    Ref,
    Transaction,
    TransactionFile,
    clean,
    format_added,
    format_deleted,
    format_file,
    read_refs,
    walk_refs,
    write_refs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.symstore.transactions import Refs


_LOCK_WAIT_S = 600.0
_BOTH = frozenset({Form.PLAIN, Form.COMPRESSED})


@dataclass(frozen=True, slots=True)
class Addition:
    """A file to add."""

    key: Key
    path: Path  # where it is now
    content: Content | None = None  # for ``refs.ptr``; None for what the key suggests, an image or a full PDB
    target: str | None = None  # the text of the pointer if that is not *path*: another spelling of it, or ``MSG: …``


@dataclass(frozen=True, slots=True)
class QueryMatch:
    """A file, and the transaction in force that added it."""

    transaction: Transaction
    file: TransactionFile

    def as_json(self) -> dict[str, object]:
        return {"index": self.file.key.index, "source": self.file.source, "transaction": self.transaction.as_json()}


def _now() -> datetime:
    return datetime.now(tz=UTC).astimezone()


class Admin:
    """The transactions of one store.

    Writers take turns. Each first records in a journal what it is about to do; if its process ends, the next writer
    undoes an add whose files are not all in place, and finishes everything else. Readers need no lock, as each file is
    replaced as a whole. symstore need not have made the store.
    """

    def __init__(self, store: Store, *, now: Callable[[], datetime] = _now) -> None:
        self._store = store
        self._folder = AdminFolder(store)
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
            StoreError: A file cannot be read, the store cannot be written, or another writer does not end.
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
                    _stage(addition, scratches[-1], form)
            with self.locked():
                texts = (clean(product), clean(version), clean(comment))
                added = Transaction(self._folder.next_id(), None, kind, self._now().replace(tzinfo=None), *texts)
                self._add(added, kind, wanted, scratches, form)
        finally:
            for scratch in scratches:
                with suppress(OSError):
                    scratch.unlink(missing_ok=True)
        return added

    def delete(self, id_: int, *, on_left: Callable[[str], None] = lambda _: None) -> Transaction:
        """Delete transaction *id_*, which is in force; return the transaction that does so.

        A file is removed if no other transaction has it, by ``refs.ptr`` or by its file list. If the file list of
        *id_* is lost or damaged, every ``refs.ptr`` of the store is read. *on_left* is called with a line about that,
        and about each file that stays although no transaction in force has it.

        Raises:
            UsageError: There is no such transaction in force.
        """
        self._require(id_)  # before the lock, which makes folders where there is no store
        with self.locked():
            self._require(id_)
            deleted = Transaction(self._folder.next_id(), deleted_id=id_)
            intent = Intent(Stage.DELETING, deleted.id, format_deleted(deleted.id, id_), id_)
            write_journal(self._store, intent)
            self._complete(intent, on_left)
        return deleted

    def recover(self) -> bool:
        """Undo or finish what a writer whose process ended was doing; return whether there was anything."""
        had_any = read_journal(self._store) is not None
        if had_any:
            with self.locked():
                pass
        return had_any

    def list_transactions(self) -> Iterator[Transaction]:
        """Yield the transactions in force, oldest first; invalid lines are left out, `verify` reports them."""
        return (each for _, each in self._folder.server() if each is not None)

    def history(self) -> Iterator[Transaction]:
        """Yield every transaction ever made, deletes too, oldest first."""
        return (each for _, each in self._folder.history() if each is not None)

    def files_of(self, id_: int) -> Iterator[TransactionFile]:
        """Yield what transaction *id_* added, also after it was deleted."""
        return (file for _, file in self._folder.file_list(id_) if file is not None)

    def query(self, *, name: str = "*", id_: str = "*", product: str = "*", version: str = "*") -> Iterator[QueryMatch]:
        """Yield the files that transactions in force added and that match all four patterns.

        Those are for the file's name, the middle part of its index, and the transaction's product and version. They
        have ``*``, ``?`` and ``[…]`` as in a shell; letter case does not count.
        """
        for transaction in self.list_transactions():
            if _matches(transaction.product, product) and _matches(transaction.version, version):
                for file in self.files_of(transaction.id):
                    if _matches(file.key.name, name) and _matches(file.key.id, id_):
                        yield QueryMatch(transaction, file)

    @contextmanager
    def locked(self, *, to_convert: bool = False) -> Iterator[None]:
        """Hold the lock of the store's only writer for a ``with`` block, after undoing or finishing what is left.

        Raises:
            StoreError: Another writer does not end, the store cannot be written, or it is half converted and this is
                not *to_convert* it.
        """
        lock = NameLock(self._store.root / OWN_FOLDER / "locks", "000admin")
        with lock.hold(timeout_s=_LOCK_WAIT_S):
            if self._store.converting.exists() and not to_convert:
                raise StoreError("a conversion to another layout was interrupted; end it first", path=self._store.root)
            left = read_journal(self._store)
            if left is not None:
                self._complete(left)
            yield

    def _require(self, id_: int) -> None:
        if not any(each.id == id_ for each in self.list_transactions()):
            raise UsageError(f"{self._store.root}: no transaction {id_:010} is in force; see its server.txt")

    def _add(self, added: Transaction, kind: Kind, wanted: list[Addition], scratches: list[Path], form: Form) -> None:
        entries = tuple(self._entry(addition, kind) for addition in wanted)
        intent = Intent(Stage.FILING, added.id, format_added(added), entries=entries)
        write_journal(self._store, intent)
        try:
            for number, addition in enumerate(wanted):
                content = addition.content or _suggest_content(addition.key)
                ref = Ref(added.id, kind, _source(addition, kind), content, form is Form.COMPRESSED)
                with self._store.lock(addition.key).hold(timeout_s=_LOCK_WAIT_S):
                    if scratches:
                        self._publish(scratches[number], addition.key, form)
                    folder = self._store.folder_for(addition.key)
                    write_refs(self._store, folder, read_refs(folder).adding(ref))
            intent = replace(intent, stage=Stage.RECORDING)
            write_journal(self._store, intent)
        except BaseException:
            with suppress(StoreError):  # the journal stays, so that the next writer tries again
                self._complete(intent)
            raise
        self._complete(intent)

    def _entry(self, addition: Addition, kind: Kind) -> Entry:
        try:
            stored = list_stored(self._store.folder_for(addition.key), addition.key.name)
        except OSError as error:
            raise as_store_error(error, self._store.root) from error
        return Entry(TransactionFile(addition.key, _source(addition, kind)), frozenset(each.form for each in stored))

    def _publish(self, scratch: Path, key: Key, form: Form) -> None:
        found = self._store.find(key)
        try:
            # Not replaced by itself: Windows would refuse that while a debugger has it open.
            if found is not None and found.form is form and cmp(found.path, scratch, shallow=False):
                scratch.unlink()
                return
        except OSError as error:
            raise as_store_error(error, self._store.root) from error
        self._store.publish(scratch, key, form=form)

    def _complete(self, intent: Intent, on_left: Callable[[str], None] = lambda _: None) -> None:
        """Undo an add whose files are not all in place; finish everything else; clear the journal."""
        if intent.stage is Stage.FILING:
            for entry in intent.entries:
                self._release(entry.file.key, intent.id, gone=_BOTH - entry.had)
        elif intent.stage is Stage.RECORDING:
            self._folder.record_added(intent.id, intent.line, [format_file(entry.file) for entry in intent.entries])
        elif intent.deleted_id is not None:
            self._delete(intent.deleted_id, on_left)
            self._folder.record_deleted(intent.id, intent.line, intent.deleted_id)
        with suppress(OSError):
            (self._store.root / "pingme.txt").touch()  # symstore keeps the time of the last change there
        take_away(self._store, journal_path(self._store))

    def _delete(self, id_: int, on_left: Callable[[str], None]) -> None:
        lines = tuple(file for _, file in self._folder.file_list(id_))
        keys = {file.key.folded: file.key for file in lines if file is not None}
        if not lines or None in lines:
            keys |= {key.folded: key for key, refs in walk_refs(self._store) if refs.of(id_).lines}
            found = f"its files are those whose refs.ptr names it ({len(keys)})"
            on_left(
                f"the file list of {id_:010} is lost or damaged; {found if keys else 'no refs.ptr names it either'}"
            )
        listed = self._listed_by_others(keys.keys(), id_)
        in_force = self._folder.ids_in_force() - {id_}
        for folded, key in keys.items():
            left = self._release(key, id_, listed_by=listed.get(folded, set()))
            if left.lines and folded not in listed and not in_force.intersection(ref.id for ref in left.refs):
                names = ", ".join(str(ref.id) for ref in left.refs[:8]) or "lines that cannot be read"
                why = f"refs.ptr has {names}, not in force; `symcache store verify --repair` repairs that"
                on_left(f"{key.index} stays: {why}")

    def _listed_by_others(self, folded: Collection[str], but: int) -> dict[str, set[int]]:
        """Return the transactions in force, except *but*, whose file lists have the keys *folded*."""
        listed: dict[str, set[int]] = {}
        for transaction in self.list_transactions():
            if transaction.id != but:
                for file in self.files_of(transaction.id):
                    if file.key.folded in folded:
                        listed.setdefault(file.key.folded, set()).add(transaction.id)
        return listed

    def _release(self, key: Key, id_: int, *, gone: frozenset[Form] = _BOTH, listed_by: Collection[int] = ()) -> Refs:
        """Remove a key's file, in the forms that no other transaction has, then *id_*'s lines from its ``refs.ptr``.

        After a kill, this order lets a second run see again what the first one had to do. *gone* are forms that *id_*
        may have added, *listed_by* other transactions whose file lists have the key. Returns the new ``refs.ptr``.
        """
        with self._store.lock(key).hold(timeout_s=_LOCK_WAIT_S):
            folder = self._store.folder_for(key)
            refs = read_refs(folder)
            left = refs.without(id_)
            if (of_this := refs.of(id_)).lines:
                gone &= of_this.forms
            if not {ref.id for ref in left.refs}.issuperset(listed_by):
                # Copies of symstore write no refs.ptr, so the form that they added is unknown.
                gone = frozenset()
            try:
                stored = list_stored(folder, key.name)
                leaving = [each for each in stored if each.form in gone - left.forms]
                # Another transaction may have lost the form that it added; then what is left is its file, too.
                if not left.refs or len(leaving) < len(stored):
                    for each in leaving:
                        take_away(self._store, each.path)
            except OSError as error:
                raise as_store_error(error, folder) from error
            if left != refs:
                write_refs(self._store, folder, left)
            remove_empty_folders(folder, self._store.root)
        return left


def _stage(addition: Addition, scratch: Path, form: Form) -> None:
    try:
        if form is Form.COMPRESSED:
            with addition.path.open("rb") as source, scratch.open("wb") as target:
                write_cabinet(source, target, name=addition.key.name)
        else:
            shutil.copyfile(addition.path, scratch)
    except OSError as error:
        raise as_store_error(error, addition.path) from error


def _source(addition: Addition, kind: Kind) -> str:
    if kind is Kind.POINTER and addition.target is not None:
        return addition.target
    return str(addition.path.absolute())


def _suggest_content(key: Key) -> Content:
    return Content.BINARY if isinstance(key, ImageKey) and not isinstance(key, DbgKey) else Content.PRIVATE


def _matches(text: str, pattern: str) -> bool:
    return fnmatchcase(fold(text), fold(pattern))
