"""Verification of a whole store: files that debuggers would trip over, and contradictions in symstore's records."""

from __future__ import annotations

import re
import stat
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, StoreError
from symcache.formats.markup import HEAD_BYTES, Markup, find_markup
from symcache.identity import POINTER, REFS, OtherKey, check_path_part, compressed_name, fold, parse_id
from symcache.stores.base import Form
from symcache.stores.local.rights import open_stored
from symcache.stores.local.tree import MSFZ_FOLDER, list_stored
from symcache.symstore.folder import AdminFolder, journal_path, read_journal
from symcache.symstore.transactions import read_pointer, read_refs, walk_refs
from symcache.upkeep.checkpoint import Checkpoint, Progress, checkpoint_of
from symcache.upkeep.inventory import list_files
from symcache.upkeep.problems import Problem, ProblemKind, RepairAction

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.locks import KeyLock
    from symcache.stores.local.tree import Store
    from symcache.upkeep.filechecks import Check


_MSFZ_MAGIC = b"Microsoft MSFZ Container"
_SCRATCH = re.compile(r".*(\.part|\.tmp|\.new|\.temp|\.download|\.crdownload|~)|download[0-9a-f]*\.?\w*")
_SCRATCH_AGE_S = 3600.0  # a younger scratch file may still be written


def verify(
    store: Store,
    check: Check,
    *,
    policy: Check | None = None,
    scope: str = "",
    resume: bool = True,
    on_progress: Callable[[Progress], object] = lambda _: None,
) -> Iterator[Problem]:
    """Yield every problem of *store*; changes nothing.

    Progress is kept in the store: after an interruption the next run yields what the last one found and continues
    from there, if it is to *resume* and both have the same *scope*, which names what *check* and *policy* look for.
    *policy* says why a right file must not be in this store. *on_progress* is called after each key. Other processes
    may use the store at the same time; `repair` checks again before it changes anything.

    Raises:
        StoreError: The store cannot be read, or another verification is running.
    """
    if not store.root.is_dir():
        raise StoreError("there is no store here", path=store.root)
    lock = store.lock("verify")
    if not _take(lock):
        raise StoreError("another verification is under way", path=store.root)
    checkpoint: Checkpoint | None = None
    finished = False
    try:
        # The walk over two layouts at once has another order.
        can_resume = resume and not store.converting.exists()
        checkpoint = Checkpoint(checkpoint_of(store), resume=can_resume, scope=scope, keeps=lock.is_held)
        resumed = bool(checkpoint.progress.at)
        transactions = _Transactions(store)
        folders = _KeyFolders(store.root, check, policy, transactions)
        for problem in checkpoint.problems:
            yield from folders.look_again(problem)
        yield from _verify_keys(store, folders, checkpoint, on_progress)
        references = transactions.references
        if resumed:  # this walk has read only some refs.ptr files
            references = Counter(id_ for _, refs in walk_refs(store) for id_ in {ref.id for ref in refs.refs})
        yield from _verify_admin(store, references)
        yield from _find_interrupted(store)
        finished = True
    finally:
        if checkpoint is not None:
            checkpoint.close(finished=finished)
        lock.release()


def _take(lock: KeyLock) -> bool:
    """Take *lock* if it is free; return whether to go on, as one may in a store that is only read and has no locks."""
    try:
        return lock.try_acquire()
    except StoreError:
        return True


def _verify_keys(
    store: Store, folders: _KeyFolders, checkpoint: Checkpoint, on_progress: Callable[[Progress], object]
) -> Iterator[Problem]:
    progress = checkpoint.progress
    spellings = _Spellings(store.root)
    skipping = bool(progress.at)
    for name, _, folder in store.key_folders():
        problems = list(spellings.compare(folder, name))
        at = _below(store.root, folder)
        if skipping and at.split("/") <= progress.at.split("/"):
            continue
        skipping = False
        problems += folders.verify(folder, name)
        size = sum(file.size_bytes for file in list_files(folder, name))
        progress = Progress(at, progress.keys + 1, progress.size_bytes + size, progress.problems + len(problems))
        for problem in problems:
            checkpoint.record(problem)
        checkpoint.advance_in_time(progress)
        on_progress(progress)
        yield from problems
    checkpoint.advance(progress)


@dataclass(frozen=True, slots=True)
class _KeyFolders:
    """Verifies the folders of keys, one at a time."""

    root: Path
    check: Check
    policy: Check | None
    transactions: _Transactions

    def verify(self, folder: Path, name: str) -> Iterator[Problem]:
        """Yield what is wrong in *folder*, a key's folder below that of *name*."""
        where = _below(self.root, folder)
        try:
            key = parse_id(name, folder.name)
        except InputError as error:
            yield Problem(where, ProblemKind.BAD_NAME, str(error))
            return
        try:
            for path in sorted(folder.iterdir()):
                yield from self._verify_entry(path, key)
            yield from self._verify_refs(folder, key)
        except FileNotFoundError:
            return  # pruned or moved in the meantime
        except (StoreError, OSError) as error:
            detail = error.problem if isinstance(error, StoreError) else error.strerror or str(error)
            yield Problem(where, ProblemKind.UNREADABLE, detail, index=key.index)

    def look_again(self, problem: Problem) -> Iterator[Problem]:
        """Yield *problem*, which an earlier run found; if its file has changed since, what is wrong with that now."""
        parts = problem.path.split("/")
        try:
            path = self.root.joinpath(*map(check_path_part, parts))
            status = path.stat()
        except InputError:
            yield problem  # nobody's path: `repair` refuses it
        except OSError:
            if problem.size_bytes is None:
                yield problem
        else:
            if problem.size_bytes is None or (status.st_size, status.st_mtime_ns) == (
                problem.size_bytes,
                problem.changed_ns,
            ):
                yield problem
                return
            folder = path.parent.parent if fold(path.parent.name) == MSFZ_FOLDER else path.parent
            yield from (each for each in self.verify(folder, folder.parent.name) if each.path == problem.path)

    def _verify_entry(self, path: Path, key: Key) -> Iterator[Problem]:
        folded = fold(path.name)
        if path.is_dir():
            if folded == MSFZ_FOLDER:
                for inner in sorted(path.iterdir()):
                    yield from self._verify_file(inner, key, _check_msfz)
            else:
                yield Problem(_below(self.root, path), ProblemKind.STRAY, "debuggers do not look into this folder")
        elif not stat.S_ISREG(path.stat().st_mode):
            yield Problem(_below(self.root, path), ProblemKind.STRAY, "not a regular file: nothing opens it")
        elif path.is_symlink() and not path.resolve().is_relative_to(self.root.resolve()):
            yield Problem(_below(self.root, path), ProblemKind.STRAY, "a link that leads out of the store")
        elif folded in {fold(key.name), fold(compressed_name(key.name))}:
            yield from self._verify_file(path, key, self.check)
        elif folded == POINTER:
            if not path.stat().st_size:
                yield self._problem(path, ProblemKind.EMPTY, "no target", RepairAction.POINTER)
        elif folded != REFS:
            is_scratch = _SCRATCH.fullmatch(folded) is not None
            if not is_scratch or time.time() - path.stat().st_mtime > _SCRATCH_AGE_S:
                action = RepairAction.QUARANTINE if is_scratch else RepairAction.NONE
                yield self._problem(path, ProblemKind.STRAY, "debuggers do not look for this file", action)

    def _verify_file(self, path: Path, key: Key, check: Check) -> Iterator[Problem]:
        with open_stored(path) as file:
            head = file.read(HEAD_BYTES)
        if not head:
            yield self._problem(path, ProblemKind.EMPTY, "no bytes", RepairAction.QUARANTINE, key)
        elif not isinstance(key, OtherKey) and find_markup(head) in {Markup.HTML, Markup.XML}:
            yield self._problem(path, ProblemKind.HTML, "a web page", RepairAction.QUARANTINE, key)
        elif (reason := check(path, key)) is not None:
            kind = ProblemKind.MISFILED if reason.startswith("another") else ProblemKind.DAMAGED
            yield self._problem(path, kind, reason, RepairAction.QUARANTINE, key)
        elif self.policy is not None and (reason := self.policy(path, key)) is not None:
            yield self._problem(path, ProblemKind.UNWANTED, reason, RepairAction.NONE, key)

    def _verify_refs(self, folder: Path, key: Key) -> Iterator[Problem]:
        refs = read_refs(folder)
        if not refs.exists:
            return
        path = folder / REFS
        if refs.unreadable or not refs.refs:
            detail = f"{len(refs.unreadable)} lines cannot be read"
            yield self._problem(path, ProblemKind.REFERENCES, detail, RepairAction.NONE)
            return
        ids = {ref.id for ref in refs.refs}
        if stale := sorted(self.transactions.find_stale(ids)):
            verb = "is" if len(stale) == 1 else "are"
            detail = f"names {', '.join(map(str, stale[:8]))}, which {verb} not in force"
            yield self._problem(path, ProblemKind.REFERENCES, detail, RepairAction.REFERENCES)
            if len(stale) == len(ids):
                return
        found, wanted = read_pointer(folder), refs.pointer
        if found != wanted:
            if found is None:
                detail = f"refs.ptr ends in a pointer to {wanted}, and there is none"
            elif wanted is None:
                detail = f"leads to {found}, and refs.ptr ends in a file"
            else:
                detail = f"leads to {found}, and refs.ptr has {wanted}"
            yield Problem(_below(self.root, folder / POINTER), ProblemKind.POINTER, detail, RepairAction.POINTER)
        forms = {stored.form for stored in list_stored(folder, key.name)}
        if refs.forms and not forms & {Form.PLAIN, Form.COMPRESSED}:
            detail = f"named in refs.ptr by {', '.join(str(ref.id) for ref in refs.refs[:8])}"
            where = _below(self.root, folder / key.name)
            yield Problem(where, ProblemKind.ABSENT, detail, RepairAction.FETCH, key.index)

    def _problem(
        self, path: Path, kind: ProblemKind, detail: str, action: RepairAction, key: Key | None = None
    ) -> Problem:
        status = path.stat()
        where = _below(self.root, path)
        index = None if key is None else key.index
        return Problem(where, kind, detail, action, index, None, status.st_size, status.st_mtime_ns)


def _below(root: Path, path: Path) -> str:
    return path.relative_to(root).as_posix()


def _check_msfz(path: Path, key: Key) -> str | None:
    del key  # only debuggers read what is inside the container
    with open_stored(path) as file:
        return None if file.read(len(_MSFZ_MAGIC)) == _MSFZ_MAGIC else "not an MSFZ container"


class _Transactions:
    """Which transactions are in force, while other processes may add some."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._in_force = AdminFolder(store).ids_in_force()
        self._stale: set[int] = set()
        self.references: Counter[int] = Counter()  # in how many keys' refs.ptr each transaction was found so far

    def find_stale(self, ids: Collection[int]) -> set[int]:
        """Return those of *ids*, from one key's refs.ptr, that are neither in force nor being added."""
        self.references.update(ids)
        unknown = set(ids) - self._in_force
        if unknown - self._stale:
            # The journal first: a writer records its transaction before it clears the journal.
            intent = read_journal(self._store)
            self._in_force = AdminFolder(self._store).ids_in_force()
            unknown -= self._in_force
            self._stale |= unknown - ({intent.id} if intent is not None else set())
        return unknown & self._stale


class _Spellings:
    """Finds folders that differ in letter case only, in one walk over a store."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tiers: dict[str, Path] = {}
        self._parent: Path | None = None
        self._names: dict[str, Path] = {}
        self._named: Path | None = None
        self._ids: dict[str, Path] = {}

    def compare(self, folder: Path, name: str) -> Iterator[Problem]:
        """Yield other spellings of a key's *folder*, and of the folders above it when the walk enters them."""
        named = folder.parent
        if named.parent != self._parent:
            self._parent, self._names = named.parent, {}
            if self._parent != self._root:
                yield from self._twins(self._tiers.setdefault(fold(self._parent.name), self._parent), self._parent)
        if named != self._named:
            self._named, self._ids = named, {}
            yield from self._twins(self._names.setdefault(fold(name), named), named)
        first = self._ids.setdefault(fold(folder.name), folder)
        is_canonical = False
        with suppress(InputError):
            is_canonical = parse_id(name, folder.name).id == folder.name
        yield from self._twins(folder, first) if is_canonical else self._twins(first, folder)

    def _twins(self, kept: Path, merged: Path) -> Iterator[Problem]:
        if kept != merged:
            path, other = (_below(self._root, each) for each in (merged, kept))
            detail = f"there is {other} too"
            yield Problem(path, ProblemKind.TWO_SPELLINGS, detail, RepairAction.MERGE, other=other)


def _verify_admin(store: Store, references: Counter[int]) -> Iterator[Problem]:
    folder = AdminFolder(store)
    where = folder.path.name
    intent = read_journal(store)
    # What a writer, alive or dead, was about to change; `_find_interrupted` reports it.
    unsettled = set() if intent is None else {intent.id, intent.deleted_id}
    in_force: set[int] = set()
    for line, transaction in folder.server():
        if transaction is None or transaction.deleted_id is not None:
            detail = f"{line[:80].decode(errors='replace')!r} is no transaction in force"
            yield Problem(f"{where}/server.txt", ProblemKind.ACCOUNT, detail)
        else:
            in_force.add(transaction.id)
    for id_ in sorted(in_force - unsettled):
        problems = tuple(_verify_transaction(store, folder, id_, references[id_]))
        if problems and id_ in folder.server_ids():  # else it was deleted in the meantime
            yield from problems
    listed = {id_ for id_, is_deleted in folder.file_lists() if not is_deleted}
    lost, deleted = folder.lost_ids(), folder.deleted_ids()
    for id_ in sorted((listed | lost).difference(in_force | unsettled)):
        if id_ not in folder.server_ids():
            detail = "not in server.txt" + (", and history.txt has it" if id_ in lost else "")
            action = RepairAction.ACCOUNT if id_ in lost | deleted else RepairAction.NONE
            yield Problem(f"{where}/{id_:010}", ProblemKind.ACCOUNT, detail, action)


def _verify_transaction(store: Store, folder: AdminFolder, id_: int, references: int) -> Iterator[Problem]:
    where = f"{folder.path.name}/{id_:010}"
    if not folder.has_file_list(id_):
        yield Problem(where, ProblemKind.ACCOUNT, "absent", RepairAction.ACCOUNT)
        return
    lines = tuple(folder.file_list(id_))
    if len(lines) < references:
        detail = f"lists {len(lines)} files, and {references} have a refs.ptr that names it"
        yield Problem(where, ProblemKind.ACCOUNT, detail, RepairAction.ACCOUNT)
    for line, file in lines:
        if file is None:
            detail = f"{line[:80].decode(errors='replace')!r} names no file"
            yield Problem(where, ProblemKind.ACCOUNT, detail, RepairAction.ACCOUNT)
        elif store.find(file.key) is None and read_refs(store.folder_for(file.key)).pointer is None:
            index = file.key.index
            yield Problem(where, ProblemKind.ABSENT, f"names {index}", RepairAction.FETCH, index)


def _find_interrupted(store: Store) -> Iterator[Problem]:
    marks = {
        journal_path(store): "a process ended in the middle of a transaction",
        store.converting: "a conversion was interrupted",
    }
    lock = store.lock("000admin")
    if not _take(lock):
        return  # the process that made them is at work
    try:
        found = [(path, detail) for path, detail in marks.items() if path.exists()]
    finally:
        lock.release()
    for path, detail in found:
        yield Problem(_below(store.root, path), ProblemKind.INTERRUPTED, detail, RepairAction.FINISH)
