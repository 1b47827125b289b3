"""Transactions: publishing into a store, and taking back, as symstore does, with any number of writers at once."""

from __future__ import annotations

import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from filecmp import cmp
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from symcache.errors import StoreError, UsageError
from symcache.formats.cab.compress import write_cabinet
from symcache.identity import DbgKey, ImageKey, fold
from symcache.stores.local.atomic import as_store_error, remove_empty_folders, take_away
from symcache.stores.local.locks import NameLock
from symcache.stores.local.staging import OWN_FOLDER
from symcache.stores.local.tree import Form, Store, list_stored
from symcache.symstore.folder import AdminFolder, Entry, Intent, Stage, clear_journal, read_journal, write_journal
from symcache.symstore.transactions import (
    Content,
    Filed,
    Kind,
    Ref,
    Transaction,
    clean,
    format_added,
    format_deleted,
    format_filed,
    read_refs,
    walk_refs,
    write_refs,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.symstore.transactions import Refs

__all__ = ["Addition", "Admin", "Filing", "Holding"]


_BOTH = frozenset({Form.PLAIN, Form.COMPRESSED})


class Filing:
    """What the one writer of a store's transactions does; it holds the admin lock meanwhile.

    Args:
        store: The store.
        folder: Its account.
        lock_wait_s: Seconds to wait for whoever is filling in one of the files.
    """

    def __init__(self, store: Store, folder: AdminFolder, *, lock_wait_s: float) -> None:
        self._store = store
        self._folder = folder
        self._lock_wait_s = lock_wait_s

    def settle(self, intent: Intent, on_left: Callable[[str], None] = lambda _: None) -> None:
        """Undo an add whose files are not all in place; finish all else; forget the intent.

        Args:
            intent: What to undo or finish.
            on_left: Told what a delete leaves although nobody in force has a claim to it, or nothing tells.

        Raises:
            StoreError: The disk does not take it, or somebody fills in one of the files for too long.
        """
        if intent.stage is Stage.FILING:
            for entry in intent.entries:
                self._release(entry.filed.key, intent.id, gone=_BOTH - entry.had)
        elif intent.stage is Stage.RECORDING:
            self._folder.record_added(intent.id, intent.line, [format_filed(entry.filed) for entry in intent.entries])
        elif intent.deleted_id is not None:
            self._delete(intent.deleted_id, on_left)
            self._folder.record_deleted(intent.id, intent.line, intent.deleted_id)
        with suppress(OSError):
            (self._store.root / "pingme.txt").touch()  # its time is that of the last change, as symstore has it
        clear_journal(self._store)

    def file(self, key: Key, ref: Ref, scratch: Path | None, form: Form) -> None:
        """Publish *scratch*, if there is one, under *key*, and let its ``refs.ptr`` tell of it.

        Raises:
            StoreError: As `settle`.
        """
        with self._store.lock(key).hold(timeout_s=self._lock_wait_s):
            if scratch is not None:
                self._publish(scratch, key, form)
            folder = self._store.folder_for(key)
            write_refs(self._store, folder, read_refs(folder).adding(ref))

    def _delete(self, id_: int, on_left: Callable[[str], None]) -> None:
        keys = {filed.key.folded: filed.key for filed in _files_of(self._folder, id_)}
        if self._folder.is_doubtful(id_):
            keys |= {key.folded: key for key, refs in walk_refs(self._store) if refs.of(id_).lines}
            taken = f"taken is what refs.ptr names it for ({len(keys)})" if keys else "no refs.ptr names it, either"
            on_left(f"the own file of {id_:010} does not tell what it brought; {taken}")
        named = self._named_by(keys.keys(), id_)
        standing = self._folder.standing_ids() - {id_}
        for folded, key in keys.items():
            left = self._release(key, id_, named_by=named.get(folded, set()))
            if left.lines and folded not in named and not standing.intersection(ref.id for ref in left.refs):
                names = ", ".join(str(ref.id) for ref in left.refs[:8]) or "lines that cannot be read"
                why = f"refs.ptr has {names}, not in force; `symcache store verify --repair` mends that"
                on_left(f"{key.index} stays: {why}")

    def _release(self, key: Key, id_: int, *, gone: frozenset[Form] = _BOTH, named_by: Collection[int] = ()) -> Refs:
        """Take transaction *id_* off a key: the file, in the forms that nobody else wants, then its ``refs.ptr``.

        The order is such that a second run, after a kill, sees again what the first one had to do.

        Args:
            key: Which key.
            id_: Which transaction.
            gone: Forms that it may have brought.
            named_by: Other transactions whose own files name the key.

        Returns:
            What ``refs.ptr`` says now.
        """
        with self._store.lock(key).hold(timeout_s=self._lock_wait_s):
            folder = self._store.folder_for(key)
            refs = read_refs(folder)
            left = refs.without(id_)
            if (of_this := refs.of(id_)).lines:
                gone &= of_this.forms
            if not {ref.id for ref in left.refs}.issuperset(named_by):
                # Copies of symstore write no refs.ptr, so nothing tells in which form they want the file.
                gone = frozenset()
            try:
                for stored in list_stored(folder, key.name):
                    if stored.form in gone - left.forms:
                        take_away(self._store, stored.path)
            except OSError as error:
                raise as_store_error(error, folder) from error
            if left != refs:
                write_refs(self._store, folder, left)
            remove_empty_folders(folder, self._store.root)
        return left

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

    def _named_by(self, folded: Collection[str], but: int) -> dict[str, set[int]]:
        named: dict[str, set[int]] = {}
        for _, transaction in self._folder.server():
            if transaction is not None and transaction.id != but:
                for filed in _files_of(self._folder, transaction.id):
                    if filed.key.folded in folded:
                        named.setdefault(filed.key.folded, set()).add(transaction.id)
        return named


def _files_of(folder: AdminFolder, id_: int) -> Iterator[Filed]:
    return (filed for _, filed in folder.filed(id_) if filed is not None)


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
        lock = NameLock(self._store.root / OWN_FOLDER / "locks", "000admin")
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
