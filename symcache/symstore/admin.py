"""Adding files to a store and deleting them by transactions, as symstore does, with any number of writers at once.

What reads or writes raises `StoreError` if the store does not allow it, or if another writer does not end.
"""

from __future__ import annotations

import os
import shutil
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from filecmp import cmp
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, StoreError, UnknownFormat, UsageError
from symcache.formats.cabinet import write_cabinet
from symcache.formats.pdb.info import Container, NativePdb, SymbolKind, looks_like_pdb, parse_pdb
from symcache.formats.pe.image import Layout, parse_dbg, parse_image
from symcache.formats.view import FileView
from symcache.identity import DbgKey, ImageKey, fold
from symcache.inputs.image import is_image
from symcache.inputs.pdbfile import pdb_reference_of
from symcache.stores.base import Form
from symcache.stores.check import check_view
from symcache.stores.local.atomic import drop, flush, flush_folders, remove_empty_folders, store_errors, take_away
from symcache.stores.local.rights import make_file
from symcache.stores.local.tree import Store, list_stored
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

    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.symstore.transactions import Refs


_LOCK_WAIT_S = 600.0
_BOTH = frozenset({Form.PLAIN, Form.COMPRESSED})
_START_BYTES = 64
CONTENT_OF = {
    SymbolKind.PRIVATE: Content.PRIVATE,
    SymbolKind.PUBLIC: Content.PUBLIC,
    SymbolKind.TYPE_ONLY: Content.TYPES,
}


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
        self._changed: list[Path] = []  # folders of keys, since the last settling

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
                    drop(scratch)
        return added

    def delete(self, id_: int, *, on_left: Callable[[str], None] = lambda _: None) -> Transaction:
        """Delete transaction *id_*; return the transaction that does so. `UsageError` if none such is in force.

        A file is removed if no other transaction has it, by ``refs.ptr`` or by its file list. If the file list of
        *id_* is lost or damaged, every ``refs.ptr`` of the store is read. *on_left* is called with a line about that,
        and about each file that stays although no transaction in force has it.
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
        if read_journal(self._store) is None:
            return False
        with self.locked():
            return True

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

        A store that is half converted is an error, too, unless this is *to_convert* it.
        """
        with self._store.lock("000admin").hold(timeout_s=_LOCK_WAIT_S):
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
                    self._changed.append(folder)
                    write_refs(self._store, folder, read_refs(folder).adding(ref))
            self._flush_folders()
            intent = replace(intent, stage=Stage.RECORDING)
            write_journal(self._store, intent)
        except BaseException:
            with suppress(StoreError):  # the journal stays, so that the next writer tries again
                self._complete(intent)
            raise
        self._complete(intent)

    def _entry(self, addition: Addition, kind: Kind) -> Entry:
        with store_errors(self._store.root):
            stored = list_stored(self._store.folder_for(addition.key), addition.key.name)
        return Entry(TransactionFile(addition.key, _source(addition, kind)), frozenset(each.form for each in stored))

    def _publish(self, scratch: Path, key: Key, form: Form) -> None:
        found = self._store.find(key)
        with store_errors(self._store.root):
            # Not replaced by itself: Windows would refuse that while a debugger has it open.
            if found is not None and found.form is form and cmp(found.path, scratch, shallow=False):
                drop(scratch)
                with suppress(PermissionError):  # another user's, or open in a debugger on Windows
                    flush(found.path)  # it may have been fetched a moment ago, without
                return
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
        self._changed.append(self._folder.path)
        self._flush_folders()
        with suppress(OSError):
            mark = self._store.root / "pingme.txt"
            os.close(make_file(mark, os.O_WRONLY))  # an error if it is a link
            os.utime(mark)  # symstore keeps the time of the last change there
        take_away(self._store, journal_path(self._store))

    def _flush_folders(self) -> None:
        """Bring all changes to the disk, before the journal says that they are done."""
        changed, self._changed = self._changed, []
        with store_errors(self._store.root):
            flush_folders(changed, self._store.root)

    def _delete(self, id_: int, on_left: Callable[[str], None]) -> None:
        lines = tuple(file for _, file in self._folder.file_list(id_))
        keys = {file.key.folded: file.key for file in lines if file is not None}
        if not lines or None in lines:
            keys |= {key.folded: key for key, refs in walk_refs(self._store) if refs.of(id_).lines}
            found = (
                f"its files are those whose refs.ptr names it ({len(keys)})" if keys else "no refs.ptr names it either"
            )
            on_left(f"the file list of {id_:010} is lost or damaged; {found}")
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
            self._changed.append(folder)
            refs = read_refs(folder)
            left = refs.without(id_)
            if (of_this := refs.of(id_)).lines:
                gone &= of_this.forms
            if not {ref.id for ref in left.refs}.issuperset(listed_by):
                # Copies of symstore write no refs.ptr, so the form that they added is unknown.
                gone = frozenset()
            with store_errors(folder):
                stored = list_stored(folder, key.name)
            leaving = [each for each in stored if each.form in gone - left.forms]
            # Another transaction may have lost the form that it added; then what is left is its file, too. A pointer is
            # never lost: it is written from refs.ptr.
            if not left.refs or left.pointer is not None or len(leaving) < len(stored):
                for each in leaving:
                    take_away(self._store, each.path)
            if left != refs:
                write_refs(self._store, folder, left)
            remove_empty_folders(folder, self._store.root)
        return left


def _stage(addition: Addition, scratch: Path, form: Form) -> None:
    with store_errors(addition.path):
        if form is Form.COMPRESSED:
            with addition.path.open("rb") as source, scratch.open("wb") as target:
                write_cabinet(source, target, name=addition.key.name)
        else:
            shutil.copyfile(addition.path, scratch)


def _source(addition: Addition, kind: Kind) -> str:
    if kind is Kind.POINTER and addition.target is not None:
        return addition.target
    return str(addition.path.absolute())


def _suggest_content(key: Key) -> Content:
    return Content.BINARY if isinstance(key, ImageKey) and not isinstance(key, DbgKey) else Content.PRIVATE


def _matches(text: str, pattern: str) -> bool:
    return fnmatchcase(fold(text), fold(pattern))


@dataclass(frozen=True, slots=True)
class Unidentified:
    """A file that cannot be added."""

    path: Path
    problem: str  # why, in one line
    is_foreign: bool = False  # it is neither an image nor a PDB, and comes from a folder


def identify_all(paths: Iterable[Path], *, but: Path) -> Iterator[Addition | Unidentified]:
    """Yield what each of *paths* is, for a folder what its files are, sorted by name.

    Links to folders are not followed, and the folder *but* is skipped: the store may lie in one of *paths*.
    """
    but = but.resolve()
    for path in paths:
        if path.is_dir():
            yield from _identify_below(path, but)
        else:
            yield _try(path)


def identify(path: Path) -> Addition:
    """Return the key of the image, ``.dbg`` file or PDB at *path*, under its own name.

    Raises:
        UnknownFormat: None of these, or an MSFZ container, which stores keep under another path.
        InputError: It is cut short or contradicts itself, or its name cannot be that of a symbol file.
        OSError: It cannot be read.
    """
    with FileView(path) as view:
        start = view.read(0, min(view.size, _START_BYTES))
        key: Key
        if is_image(start):
            is_dbg = start.startswith(b"DI")
            file = parse_dbg(view) if is_dbg else parse_image(view, Layout.DISK)
            key = (DbgKey if is_dbg else ImageKey)(path.name, file.timestamp, file.size_of_image)
            content = _suggest_content(key)
        elif looks_like_pdb(start):
            key, content = _identify_pdb(view, path.name)
        else:
            raise UnknownFormat("neither an image nor a PDB" if start else "it is empty")
        verdict = check_view(view, key)
    if verdict.problem is not None:
        raise MalformedInput(verdict.problem)
    return Addition(key, path, content)


def _identify_pdb(view: ByteView, name: str) -> tuple[Key, Content]:
    pdb = parse_pdb(view)
    content = Content.PRIVATE
    if isinstance(pdb, NativePdb):
        if pdb.container is Container.MSFZ:
            raise UnknownFormat("an MSFZ container; debuggers look for it under another path than transactions name")
        if pdb.symbols is not None:
            content = CONTENT_OF.get(pdb.symbols, content)
    return pdb_reference_of(pdb, name).key, content


def _try(path: Path, *, is_named: bool = True) -> Addition | Unidentified:
    try:
        return identify(path)
    except UnknownFormat as error:
        return Unidentified(path, str(error), is_foreign=not is_named)
    except InputError as error:
        return Unidentified(path, str(error))
    except OSError as error:
        return Unidentified(path, error.strerror or str(error))


def _identify_below(root: Path, but: Path) -> Iterator[Addition | Unidentified]:
    unlisted: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=unlisted.append):
        if Path(folder).resolve() == but:
            folders.clear()
            continue
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                yield _try(path, is_named=False)
    for error in unlisted:
        yield Unidentified(Path(os.fsdecode(error.filename)), error.strerror or str(error))
