"""A walk over a whole store: what debuggers would trip over, what the account of symstore contradicts."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING

from symcache.errors import InputError, StoreError
from symcache.identity import fold, parse_id
from symcache.store.admin import Admin
from symcache.store.adminfolder import AdminFolder
from symcache.store.checkpoint import Checkpoint, Progress
from symcache.store.findings import Check, Finding, Mend, Problem
from symcache.store.journal import journal_path, read_journal
from symcache.store.keyfolder import inspect_folder
from symcache.store.locks import KeyLock
from symcache.store.refs import read_refs, walk_refs
from symcache.store.staging import OWN_FOLDER
from symcache.store.survey import list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from symcache.store.tree import Store

__all__ = ["verify"]

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


def _lock(store: Store, name: str) -> KeyLock:
    return KeyLock(store.root / OWN_FOLDER / "locks", name)
