"""A walk over a whole store: what debuggers would trip over, what the account of symstore contradicts."""

from __future__ import annotations

import re
import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from symcache.errors import InputError, StoreError
from symcache.identity import OtherKey, compressed_name, fold, parse_id
from symcache.stores.local.locks import NameLock
from symcache.stores.local.staging import OWN_FOLDER
from symcache.stores.local.tree import Form, list_stored
from symcache.symstore.admin import Admin
from symcache.symstore.folder import AdminFolder, journal_path, read_journal
from symcache.symstore.transactions import POINTER, REFS, read_pointer, read_refs, walk_refs
from symcache.upkeep.findings import Check, Checkpoint, Finding, Mend, Problem, Progress
from symcache.upkeep.survey import MSFZ_FOLDER, list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.tree import Store

__all__ = ["inspect_folder", "verify"]


_MSFZ_MAGIC = b"Microsoft MSFZ Container"
_SCRATCH = re.compile(r".*(\.part|\.tmp|\.new|\.temp|\.download|\.crdownload|~)|download[0-9a-f]*\.?\w*")
_SETTLED_S = 3600.0
_PAGES = (b"<!doctype", b"<html", b"<head", b"<?xml")


def inspect_folder(
    root: Path,
    folder: Path,
    name: str,
    check: Check,
    *,
    policy: Check | None = None,
    find_stale: Callable[[Collection[int]], Collection[int]] = lambda _: (),
    clock_s: Callable[[], float] = time.time,
) -> Iterator[Finding]:
    """Yield what is wrong in *folder*, which is filed as a key of the file *name*.

    Scratch files of other tools count only if they are older than an hour; younger ones may still be written.

    Args:
        root: The store's root.
        folder: A key's folder below it.
        name: The name of its parent.
        check: Looks into files.
        policy: Says why a file that is right should not be in this store; None where every kind may be.
        find_stale: Says which of some transactions are not in force.
        clock_s: Seconds since 1970.
    """
    where = folder.relative_to(root).as_posix()
    try:
        key = parse_id(name, folder.name)
    except InputError as error:
        yield Finding(where, Problem.BAD_NAME, str(error))
        return
    try:
        for path in sorted(folder.iterdir()):
            yield from _inspect_entry(root, path, key, check, policy, clock_s)
        yield from _inspect_refs(root, folder, key, find_stale)
    except FileNotFoundError:
        return  # pruned, or moved, since
    except StoreError as error:
        yield Finding(where, Problem.UNREADABLE, error.problem, index=key.index)
    except OSError as error:
        yield Finding(where, Problem.UNREADABLE, error.strerror or str(error), index=key.index)


def _inspect_entry(
    root: Path, path: Path, key: Key, check: Check, policy: Check | None, clock_s: Callable[[], float]
) -> Iterator[Finding]:
    folded = fold(path.name)
    if path.is_dir():
        if folded == MSFZ_FOLDER:
            for inner in sorted(path.iterdir()):
                yield from _inspect_file(root, inner, key, _check_msfz, policy)
        else:
            yield Finding(path.relative_to(root).as_posix(), Problem.STRAY, "a folder that nobody looks into")
    elif folded in {fold(key.name), fold(compressed_name(key.name))}:
        yield from _inspect_file(root, path, key, check, policy)
    elif folded == POINTER:
        if not path.stat().st_size:
            yield _finding(root, path, Problem.EMPTY, "no target", Mend.POINTER)
    elif folded != REFS:
        is_scratch = _SCRATCH.fullmatch(folded) is not None
        if not is_scratch or clock_s() - path.stat().st_mtime > _SETTLED_S:
            mend = Mend.QUARANTINE if is_scratch else Mend.NONE
            yield _finding(root, path, Problem.STRAY, "a file that nobody looks for", mend)


def _inspect_file(root: Path, path: Path, key: Key, check: Check, policy: Check | None) -> Iterator[Finding]:
    with path.open("rb") as file:
        head = file.read(512)
    if not head:
        yield _finding(root, path, Problem.EMPTY, "no bytes", Mend.QUARANTINE, key)
    elif not isinstance(key, OtherKey) and head.removeprefix(b"\xef\xbb\xbf").lstrip().lower().startswith(_PAGES):
        yield _finding(root, path, Problem.HTML, "a web page", Mend.QUARANTINE, key)
    elif (reason := check(path, key)) is not None:
        problem = Problem.MISFILED if reason.startswith("another") else Problem.DAMAGED
        yield _finding(root, path, problem, reason, Mend.QUARANTINE, key)
    elif policy is not None and (reason := policy(path, key)) is not None:
        yield _finding(root, path, Problem.UNWANTED, reason, Mend.NONE, key)


def _inspect_refs(
    root: Path, folder: Path, key: Key, find_stale: Callable[[Collection[int]], Collection[int]]
) -> Iterator[Finding]:
    refs = read_refs(folder)
    if not refs.exists:
        return
    path = folder / REFS
    if refs.unreadable or not refs.refs:
        yield _finding(root, path, Problem.REFERENCES, f"{len(refs.unreadable)} lines cannot be read", Mend.NONE)
        return
    if stale := sorted(find_stale({ref.id for ref in refs.refs})):
        verb = "is" if len(stale) == 1 else "are"
        detail = f"names {', '.join(map(str, stale[:8]))}, which {verb} not in force"
        yield _finding(root, path, Problem.REFERENCES, detail, Mend.REFERENCES)
        if len(stale) == len({ref.id for ref in refs.refs}):
            return
    forms = {stored.form for stored in list_stored(folder, key.name)}
    found, wanted = read_pointer(folder), refs.pointer
    if found != wanted:
        if found is None:
            detail = f"refs.ptr ends in a pointer to {wanted}, and there is none"
        elif wanted is None:
            detail = f"leads to {found}, and refs.ptr ends in a file"
        else:
            detail = f"leads to {found}, and refs.ptr has {wanted}"
        yield Finding((folder / POINTER).relative_to(root).as_posix(), Problem.POINTER, detail, Mend.POINTER)
    if refs.forms and not forms & {Form.PLAIN, Form.COMPRESSED}:
        ids = ", ".join(str(ref.id) for ref in refs.refs[:8])
        where = (folder / key.name).relative_to(root).as_posix()
        yield Finding(where, Problem.ABSENT, f"named in refs.ptr by {ids}", Mend.FETCH, key.index)


def _check_msfz(path: Path, key: Key) -> str | None:
    del key  # its own reader is the debugger's; the name of the folder is all that can be held against it
    with path.open("rb") as file:
        return None if file.read(len(_MSFZ_MAGIC)) == _MSFZ_MAGIC else "not an MSFZ container"


def _finding(root: Path, path: Path, problem: Problem, detail: str, mend: Mend, key: Key | None = None) -> Finding:
    status = path.stat()
    where = path.relative_to(root).as_posix()
    index = None if key is None else key.index
    return Finding(where, problem, detail, mend, index, None, status.st_size, status.st_mtime_ns)


_CHECKPOINT_KEYS = 64
_CHECKPOINT_BYTES = 256 << 20
_GLANCE_S = 0.1  # whoever sweeps the locks of dead processes holds each for a moment


def verify(
    store: Store,
    check: Check,
    *,
    policy: Check | None = None,
    scope: str = "",
    resume: bool = True,
    on_progress: Callable[[Progress], None] | None = None,
    clock_s: Callable[[], float] = time.time,
) -> Iterator[Finding]:
    """Yield all that is wrong with *store*; changes nothing.

    Progress is kept in the store: after an interruption the next run yields what the last one found up to there, and
    goes on behind it. Others may use the store meanwhile; `repair` looks again before it touches anything.

    Args:
        store: The store.
        check: Looks into files.
        policy: Says why a file that is right should not be in this store; None where every kind may be.
        scope: Names what *check* and *policy* look for: a run goes on from one of the same scope alone.
        resume: Whether to go on where the last run was interrupted.
        on_progress: Told after each key.
        clock_s: Seconds since 1970.

    Raises:
        StoreError: The store cannot be read, or another verification is under way.
    """
    if not store.root.is_dir():
        raise StoreError("there is no store here", path=store.root)
    with ExitStack() as stack:
        try:
            stack.enter_context(_lock(store, "verify").hold(timeout_s=_GLANCE_S))
        except StoreError as error:
            raise StoreError("another verification is under way", path=store.root) from error
        # The walk over two layouts at once has another order.
        checkpoint = Checkpoint(store, resume=resume and not store.converting.exists(), scope=scope)
        finished = False
        try:
            yield from checkpoint.findings
            is_whole = not checkpoint.progress.at
            standing = _Standing(store)
            yield from _verify_keys(store, (check, policy), standing, checkpoint, on_progress, clock_s)
            yield from _verify_account(store, standing.named if is_whole else _count_references(store))
            yield from _find_interrupted(store)
            finished = True
        finally:
            checkpoint.close(finished=finished)


def _verify_keys(
    store: Store,
    looks: tuple[Check, Check | None],
    standing: _Standing,
    checkpoint: Checkpoint,
    on_progress: Callable[[Progress], None] | None,
    clock_s: Callable[[], float],
) -> Iterator[Finding]:
    progress = recorded = checkpoint.progress
    spellings = _Spellings(store.root)
    skipping = bool(progress.at)
    for name, _, folder in store.key_folders():
        twins = tuple(spellings.meet(folder, name))
        at = folder.relative_to(store.root).as_posix()
        if skipping and at.split("/") <= progress.at.split("/"):
            continue
        skipping = False
        inside = inspect_folder(
            store.root, folder, name, looks[0], policy=looks[1], find_stale=standing.find_stale, clock_s=clock_s
        )
        findings = [*twins, *inside]
        size = sum(size for _, size, _ in list_files(folder, name))
        progress = Progress(at, progress.keys + 1, progress.size_bytes + size, progress.findings + len(findings))
        for finding in findings:
            checkpoint.record(finding)
        is_far = progress.keys - recorded.keys >= _CHECKPOINT_KEYS
        if is_far or progress.size_bytes - recorded.size_bytes >= _CHECKPOINT_BYTES:
            checkpoint.advance(progress)
            recorded = progress
        if on_progress is not None:
            on_progress(progress)
        yield from findings
    checkpoint.advance(progress)


class _Standing:
    """Which transactions are in force; others may add some while a store is walked.

    Attributes:
        named: How many keys each transaction is named for, as far as was asked.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._ids = AdminFolder(store).standing_ids()
        self._stale: set[int] = set()
        self.named: Counter[int] = Counter()

    def find_stale(self, ids: Collection[int]) -> set[int]:
        """Return those of *ids*, which one key's references name, that are not in force and not being added."""
        self.named.update(ids)
        unknown = set(ids) - self._ids
        if unknown - self._stale:
            # In this order: whoever has ended its intent has recorded its transaction before.
            intent = read_journal(self._store)
            self._ids = AdminFolder(self._store).standing_ids()
            unknown -= self._ids
            self._stale |= unknown - ({intent.id} if intent is not None else set())
        return unknown & self._stale


class _Spellings:
    """The spellings met so far in the folders under way, to find those that differ in letter case alone."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._tiers: dict[str, Path] = {}
        self._parent: Path | None = None
        self._names: dict[str, Path] = {}
        self._named: Path | None = None
        self._ids: dict[str, Path] = {}

    def meet(self, folder: Path, name: str) -> Iterator[Finding]:
        """Yield what is wrong with the spelling of a key's *folder*, or of those above it when they are first met."""
        named = folder.parent
        if named.parent != self._parent:
            self._parent, self._names = named.parent, {}
            if self._parent != self._root:
                yield from self._compare(self._tiers.setdefault(fold(self._parent.name), self._parent), self._parent)
        if named != self._named:
            self._named, self._ids = named, {}
            yield from self._compare(self._names.setdefault(fold(name), named), named)
        first = self._ids.setdefault(fold(folder.name), folder)
        is_canonical = False
        with suppress(InputError):
            is_canonical = parse_id(name, folder.name).id == folder.name
        yield from self._compare(folder, first) if is_canonical else self._compare(first, folder)

    def _compare(self, stays: Path, goes: Path) -> Iterator[Finding]:
        if stays != goes:
            path, other = (each.relative_to(self._root).as_posix() for each in (goes, stays))
            yield Finding(path, Problem.TWO_SPELLINGS, f"there is {other} too", Mend.MERGE, other=other)


def _count_references(store: Store) -> Counter[int]:
    """Return how many keys each transaction is named for, for a walk that went on where another was interrupted."""
    return Counter(id_ for _, refs in walk_refs(store) for id_ in {ref.id for ref in refs.refs})


def _verify_account(store: Store, named: Counter[int]) -> Iterator[Finding]:
    folder = AdminFolder(store)
    where = folder.path.name
    # What a writer was about to change, at work or dead: `_find_interrupted` tells of it.
    intent = read_journal(store)
    unsettled = set() if intent is None else {intent.id, intent.deleted_id}
    in_force: set[int] = set()
    for line, transaction in folder.server():
        if transaction is None or transaction.deleted_id is not None:
            detail = f"{line[:80].decode(errors='replace')!r} is no transaction in force"
            yield Finding(f"{where}/server.txt", Problem.ACCOUNT, detail)
        else:
            in_force.add(transaction.id)
    for id_ in sorted(in_force - unsettled):
        findings = tuple(_verify_transaction(store, folder, id_, named[id_]))
        if findings and id_ in _in_force(store):  # else it is being deleted just now
            yield from findings
    yield from _verify_others(store, folder, in_force | unsettled)


def _verify_others(store: Store, folder: AdminFolder, known: Collection[int | None]) -> Iterator[Finding]:
    """Yield transactions that an admin file has for being in force, and that are not *known* to be."""
    own = {id_ for id_, is_deleted in folder.own_files() if not is_deleted}
    lost, deleted = folder.lost_ids(), folder.deleted_ids()
    for id_ in sorted((own | lost).difference(known)):
        if id_ not in _in_force(store):
            can_tell = id_ in lost or id_ in deleted
            detail = "not in server.txt" + (", and history.txt has it" if id_ in lost else "")
            where = f"{folder.path.name}/{id_:010}"
            yield Finding(where, Problem.ACCOUNT, detail, Mend.ACCOUNT if can_tell else Mend.NONE)


def _verify_transaction(store: Store, folder: AdminFolder, id_: int, named: int) -> Iterator[Finding]:
    where = f"{folder.path.name}/{id_:010}"
    if not folder.has_own_file(id_):
        yield Finding(where, Problem.ACCOUNT, "absent", Mend.ACCOUNT)
        return
    lines = tuple(folder.filed(id_))
    if len(lines) < named:
        detail = f"lists {len(lines)} files, and {named} have a refs.ptr that names it"
        yield Finding(where, Problem.ACCOUNT, detail, Mend.ACCOUNT)
    for line, filed in lines:
        if filed is None:
            detail = f"{line[:80].decode(errors='replace')!r} names no file"
            yield Finding(where, Problem.ACCOUNT, detail, Mend.ACCOUNT)
        elif store.find(filed.key) is None and read_refs(store.folder_for(filed.key)).pointer is None:
            yield Finding(where, Problem.ABSENT, f"names {filed.key.index}", Mend.FETCH, filed.key.index)


def _in_force(store: Store) -> set[int]:
    return {each.id for each in Admin(store).list_transactions()}


def _find_interrupted(store: Store) -> tuple[Finding, ...]:
    marks = {journal_path(store): "a writer of transactions died", store.converting: "a conversion was interrupted"}
    try:
        with _lock(store, "000admin").hold(timeout_s=_GLANCE_S):
            return tuple(
                Finding(path.relative_to(store.root).as_posix(), Problem.INTERRUPTED, detail, Mend.FINISH)
                for path, detail in marks.items()
                if path.exists()
            )
    except StoreError:
        return ()  # whoever left them is at work


def _lock(store: Store, name: str) -> NameLock:
    return NameLock(store.root / OWN_FOLDER / "locks", name)
