"""Repair of what a verification found; nothing is deleted, wrong files go into quarantine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, StoreError, SymcacheError
from symcache.identity import check_path_part, parse_index
from symcache.stores.local.atomic import remove_empty_folders
from symcache.symstore.admin import Admin
from symcache.symstore.folder import AdminFolder, find_spelling
from symcache.symstore.transactions import TransactionFile, format_file, read_refs, walk_refs, write_refs
from symcache.upkeep.convert import convert, merge_key_folder, move_to_quarantine, rename_folder
from symcache.upkeep.verify import Problem, RepairAction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.tree import Store


@dataclass(frozen=True, slots=True)
class Repaired:
    """The result for one problem."""

    problem: Problem
    repaired: bool  # whether it is gone
    note: str  # what was done, or why nothing was

    def __str__(self) -> str:
        return f"{self.problem.path}: {'mended' if self.repaired else 'left'}: {self.note}"

    def as_json(self) -> dict[str, object]:
        return {**self.problem.as_json(), "mended": self.repaired, "note": self.note}


def repair(
    store: Store, problems: Iterable[Problem], *, fetch: Callable[[Key], str | None] | None = None
) -> Iterator[Repaired]:
    """Repair what can be repaired, and yield the result for each problem; a failure does not stop the rest.

    A file goes into quarantine only if it has not changed since it was checked. *fetch* downloads the file of a key
    into the store and returns why it could not; without it files stay absent. If `verify` is still running, *problems*
    must be a list.
    """
    for problem in problems:
        try:
            note = _repair(store, problem, fetch)
        except (_LeftError, SymcacheError) as error:
            yield Repaired(problem, repaired=False, note=str(error))
        except OSError as error:
            yield Repaired(problem, repaired=False, note=error.strerror or str(error))
        else:
            yield Repaired(problem, repaired=True, note=note)


class _LeftError(Exception):
    """The problem stays; the text says why."""


def _repair(store: Store, problem: Problem, fetch: Callable[[Key], str | None] | None) -> str:
    path = _below(store.root, problem.path)
    match problem.action:
        case RepairAction.QUARANTINE:
            note = _quarantine(store, path, problem)
            return note if problem.index is None or fetch is None else f"{note}, {_fetch(problem.index, fetch)}"
        case RepairAction.FETCH if problem.index is not None and fetch is not None:
            return _fetch(problem.index, fetch)
        case RepairAction.POINTER:
            return _rewrite_pointer(store, path.parent)
        case RepairAction.REFERENCES:
            return _remove_stale_refs(store, path.parent)
        case RepairAction.ACCOUNT if path.name.isdecimal():
            return _restore_transaction(store, int(path.name))
        case RepairAction.MERGE if problem.other is not None:
            return _merge(store, path, _below(store.root, problem.other))
        case RepairAction.FINISH:
            if store.converting.exists():
                convert(store, store.tier)
            Admin(store).recover()
            return "finished"
    raise _LeftError("needs to be fetched" if problem.action is RepairAction.FETCH else "needs a person to look at it")


def _below(root: Path, relative: str) -> Path:
    """Return the path below *root*; those in a checkpoint file, which anyone may change, are not trusted."""
    try:
        parts = [check_path_part(part) for part in relative.split("/")]
    except InputError as error:
        raise StoreError(f"not a path within the store: {error}", path=root) from error
    return root.joinpath(*parts)


def _quarantine(store: Store, path: Path, problem: Problem) -> str:
    lock = None if problem.index is None else store.lock(parse_index(problem.index))
    if lock is not None and not lock.try_acquire():
        raise _LeftError("being written")
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != (problem.size_bytes, problem.changed_ns):
            raise _LeftError("changed since")
        kept = move_to_quarantine(store, path, f"{problem.kind}: {problem.detail}")
    except FileNotFoundError:
        return "already gone"
    finally:
        if lock is not None:
            lock.release()
    remove_empty_folders(path.parent, store.root)
    return f"moved to {kept.relative_to(store.root).as_posix()}"


def _fetch(index: str, fetch: Callable[[Key], str | None]) -> str:
    reason = fetch(parse_index(index))
    if reason is not None:
        raise _LeftError(f"not fetched: {reason}")
    return "fetched again"


def _rewrite_pointer(store: Store, key_folder: Path) -> str:
    with Admin(store).locked():
        refs = read_refs(key_folder)
        if not refs.exists:
            raise _LeftError("refs.ptr is gone, so the right target is unknown")
        write_refs(store, key_folder, refs)
    return "written" if refs.pointer is not None else "removed"


def _remove_stale_refs(store: Store, key_folder: Path) -> str:
    """Remove the lines of transactions that are not in force from refs.ptr; the file stays, as if it was fetched."""
    with Admin(store).locked():
        refs = read_refs(key_folder)
        stale = {ref.id for ref in refs.refs} - AdminFolder(store).ids_in_force()
        if not stale:
            return "already in order"
        for id_ in stale:
            refs = refs.without(id_)
        write_refs(store, key_folder, refs)
        remove_empty_folders(key_folder, store.root)
    return f"lines of {', '.join(map(str, sorted(stale)[:8]))} removed; the file stays"


def _restore_transaction(store: Store, id_: int) -> str:
    """Make the files of 000Admin agree on transaction *id_*."""
    with Admin(store).locked():
        folder = AdminFolder(store)
        done = []
        if id_ in folder.deleted_ids():
            return "renamed, as it was deleted" if folder.mark_deleted(id_) else "already gone"
        if id_ not in folder.server_ids():
            if not folder.restore_server_line(id_):
                raise _LeftError("history.txt does not have it")
            done.append("put back into server.txt, as history.txt has it")
        count = _complete_file_list(store, folder, id_)
        if count is not None:
            done.append(f"its list written again, with {count} files")
    return "; ".join(done) or "already in order"


def _complete_file_list(store: Store, folder: AdminFolder, id_: int) -> int | None:
    """Write *id_*'s file list from what is left of it and every refs.ptr; return its files, None if it was complete."""
    before = tuple(folder.file_list(id_))
    lines = {file.key.folded: line for line, file in before if file is not None}
    known = len(lines)
    for key, refs in walk_refs(store):
        for ref in refs.of(id_).refs:
            lines.setdefault(key.folded, format_file(TransactionFile(key, ref.source)))
    if folder.has_file_list(id_):
        if known == len(lines) and all(file is not None for _, file in before):
            return None
        move_to_quarantine(store, folder.path / f"{id_:010}", "it does not list all files of its transaction")
    folder.write_file_list(id_, list(lines.values()))
    return len(lines)


def _merge(store: Store, folder: Path, target: Path) -> str:
    with Admin(store).locked():
        if not folder.is_dir() or not target.is_dir():
            raise _LeftError("only one spelling is left")
        levels_above_keys = store.tier + 1 - len(folder.relative_to(store.root).parts)
        pairs = [(folder, target)]
        for _ in range(levels_above_keys):
            pairs = [inner for outer in pairs for inner in _merge_folders(*outer)]
        quarantined = sum(merge_key_folder(store, *pair) for pair in pairs)
        for each in sorted(folder.rglob("*"), reverse=True):
            remove_empty_folders(each, store.root)
        remove_empty_folders(folder, store.root)
    store.refresh()
    return f"merged, {quarantined} files into quarantine" if quarantined else "merged"


def _merge_folders(folder: Path, target: Path) -> Iterator[tuple[Path, Path]]:
    """Move the folders in *folder* into *target*; yield the pairs that exist in both."""
    for inner in sorted(each for each in folder.iterdir() if each.is_dir()):
        same = find_spelling(target, inner.name)
        if not rename_folder(inner, same):
            yield inner, same
