"""Changing a store in place: repairing what a verification found, quarantine, and conversion to the other layout."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass
from secrets import token_hex
from typing import TYPE_CHECKING

from symcache.errors import InputError, StoreError, SymcacheError
from symcache.identity import REFS, Tier, check_path_part, parse_index, tier_folder
from symcache.stores.local.atomic import (
    OWN_FOLDER,
    check_inside,
    flush_folders,
    put_in_place,
    remove_empty_folders,
    store_errors,
    take_away,
    write_whole,
)
from symcache.stores.local.rights import make_file, make_folders
from symcache.stores.local.tree import is_key_folder, list_folders
from symcache.symstore.admin import Admin
from symcache.symstore.folder import AdminFolder, find_spelling
from symcache.symstore.transactions import Refs, TransactionFile, format_file, read_refs, walk_refs, write_refs
from symcache.upkeep.problems import Problem, RepairAction

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.tree import Store


_TRIES = 8


@dataclass(slots=True)
class Converted:
    """What a conversion did; a second run counts what the first one left to do."""

    tier: Tier  # the layout of the store now
    moved: int = 0  # how many folders moved as a whole, those of names where possible, else those of keys
    merged: int = 0  # how many keys had a folder in both layouts
    quarantined: int = 0  # how many files went into quarantine because the new layout had the file of the key already

    def as_json(self) -> dict[str, int]:
        return asdict(self)


def convert(store: Store, tier: Tier, *, on_moved: Callable[[Path], object] = lambda _: None) -> Converted:
    """Give *store* the layout *tier*, or finish a conversion that was interrupted.

    A mark says that files may be in either layout, ``index2.txt`` changes, each folder moves in one step, and the mark
    is removed. After a kill at any instant, or a `StoreError` as a file is in use (Windows), `Store.find` still finds
    every file, and a second run does the rest. Transactions wait; publishing continues, in the new layout. symsrv uses
    only that: for a debugger that reads the tree itself, files that have not moved yet are absent. *on_moved* is called
    with the new path of each folder that moved.
    """
    if not store.root.is_dir():
        raise StoreError("there is no store here", path=store.root)
    with Admin(store).locked(to_convert=True):
        done = Converted(tier)
        write_whole(store, store.converting, b"to tier %d\n" % tier)
        changed: set[Path] = set()
        with store_errors(store.root):
            flush_folders([store.converting.parent], store.root)
            index2 = store.root / "index2.txt"
            if tier is Tier.TWO:
                os.close(make_file(index2, os.O_WRONLY))
            else:
                index2.unlink(missing_ok=True)
            flush_folders([store.root], store.root)
            # Until a pass moves nothing: another process may have published while the layout changed.
            while _move_all(store, done, changed, on_moved):
                pass
            flush_folders(changed, store.root)
        take_away(store, store.converting)
    store.refresh()
    return done


def _move_all(store: Store, done: Converted, changed: set[Path], on_moved: Callable[[Path], object]) -> bool:
    """Move what is in the old layout, and count it in *done*; return whether there was anything.

    The folders out of and into which something moved are added to *changed*.
    """
    found = False
    for parent in _folders(store.root) if done.tier is Tier.ONE else [store.root]:
        for named in _folders(parent):
            found |= _move_name(store, named, done, changed, on_moved)
        remove_empty_folders(parent, store.root)
    return found


def _move_name(
    store: Store, named: Path, done: Converted, changed: set[Path], on_moved: Callable[[Path], object]
) -> bool:
    root, is_two = store.root, done.tier is Tier.TWO
    folders = _folders(named)
    keys = [folder for folder in folders if is_key_folder(folder, named.name, Tier.ONE if is_two else Tier.TWO)]
    for folder in folders:
        if folder not in keys:
            remove_empty_folders(folder, root)  # left by a pruned key or a killed process
    found = bool(keys)
    if found:
        target = find_spelling(find_spelling(root, tier_folder(named.name)) if is_two else root, named.name)
        _make_flushed(target.parent, root)
        if keys == folders and named not in target.parents and _rename_folder(named, target, root):
            done.moved += 1
            on_moved(target)
            keys = []
        changed.update((named.parent, target.parent))
        if keys:
            _make_flushed(target, root)
        for folder in keys:
            spelt = find_spelling(target, folder.name)
            changed.update((named, spelt))
            if _rename_folder(folder, spelt, root):
                done.moved += 1
                on_moved(spelt)
            else:
                done.merged += 1
                done.quarantined += _merge_key_folder(store, folder, spelt)
        if keys:
            flush_folders([target], root)  # before the folder that they leave goes
    remove_empty_folders(named, root)
    return found


def _make_flushed(folder: Path, root: Path) -> None:
    """Make *folder*, below *root*, unless it exists, and let the disk have it before anything moves into it."""
    if not folder.is_dir():
        make_folders(folder)
        flush_folders([folder.parent], root)


def _folders(parent: Path) -> list[Path]:
    return [parent / name for name in list_folders(parent)]


def _rename_folder(folder: Path, target: Path, root: Path) -> bool:
    """Move a folder below the store *root* in one step; return False if *target* exists, True too if *folder* is gone.

    A `StoreError` says that a file in it is in use (Windows), or that a link leads to it, out of the store.
    """
    for left in reversed(range(_TRIES)):
        try:
            check_inside(folder.parent, root)
            make_folders(target.parent)
            folder.rename(target)
        except FileNotFoundError as error:
            if not folder.exists():  # pruned, or moved by a process that published there
                return True
            if not left:  # Windows says so of paths that are too long, too
                raise StoreError(f"cannot be moved: {error.strerror}", path=folder) from error
        except OSError as error:
            if target.is_dir():
                return False
            raise StoreError(f"cannot be moved: {error.strerror or error}", path=folder) from error
        else:
            return True
    raise AssertionError


def _merge_key_folder(store: Store, folder: Path, target: Path) -> int:
    """Move the files of a key's *folder* into *target*; return how many files went into quarantine.

    Where both have a file of one name, that of *target* stays, unless it is empty. *target* gets the lines of both
    ``refs.ptr``. The caller holds the store's admin lock; after a kill, a second run does the rest.
    """
    with store_errors(folder):
        for each in (folder, target):
            check_inside(each, store.root)
    old = read_refs(folder)
    if old.exists:
        new = read_refs(target)
        lines = (*old.lines, *(line for line in new.lines if line not in old.lines))
        write_refs(store, target, Refs(lines, exists=True))
        with store_errors(target):
            flush_folders([target], store.root)
        take_away(store, folder / REFS)
    quarantined = 0
    with store_errors(folder):
        for path in sorted(folder.iterdir()):
            other = find_spelling(target, path.name)
            if not path.is_dir():
                quarantined += _merge_file(store, path, other)
            elif not _rename_folder(path, other, store.root):
                for inner in sorted(each for each in path.iterdir() if not each.is_dir()):
                    quarantined += _merge_file(store, inner, find_spelling(other, inner.name))
                flush_folders([other], store.root)
                remove_empty_folders(path, folder)
        flush_folders([target], store.root)  # before the folder that they leave goes
    remove_empty_folders(folder, folder.parent)
    return quarantined


def _merge_file(store: Store, path: Path, other: Path) -> bool:
    """Rename *path* to *other*, or move it to quarantine if *other* has content; return whether it is there."""
    if other.exists() and other.stat().st_size:
        _move_to_quarantine(store, path, f"the store has {other.relative_to(store.root).as_posix()} for the same key")
        return True
    path.replace(other)
    return False


def _move_to_quarantine(store: Store, path: Path, why: str) -> Path:
    """Move *path*, a file in *store*, out of the tree that debuggers read without deleting it; return the new path.

    It goes into a folder of its own below ``.symcache/quarantine``, beside a ``why.json`` that has its old path.
    """
    folder = store.root / OWN_FOLDER / "quarantine" / token_hex(8)
    was = path.relative_to(store.root).as_posix()
    write_whole(store, folder / "why.json", json.dumps({"path": was, "why": why}).encode())
    with store_errors(path):
        check_inside(path.parent, store.root)
        flush_folders([folder], store.root)
        return put_in_place(path, lambda: folder / path.name, store.root)


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
        kept = _move_to_quarantine(store, path, f"{problem.kind}: {problem.detail}")
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
        _move_to_quarantine(store, folder.path / f"{id_:010}", "it does not list all files of its transaction")
    folder.write_file_list(id_, list(lines.values()))
    return len(lines)


def _merge(store: Store, folder: Path, target: Path) -> str:
    with Admin(store).locked():
        if not folder.is_dir() or not target.is_dir():
            raise _LeftError("only one spelling is left")
        levels_above_keys = store.tier + 1 - len(folder.relative_to(store.root).parts)
        pairs = [(folder, target)]
        for _ in range(levels_above_keys):
            pairs = [inner for outer in pairs for inner in _merge_folders(*outer, store.root)]
        quarantined = sum(_merge_key_folder(store, *pair) for pair in pairs)
        for each in sorted(folder.rglob("*"), reverse=True):
            remove_empty_folders(each, store.root)
        remove_empty_folders(folder, store.root)
    store.refresh()
    return f"merged, {quarantined} files into quarantine" if quarantined else "merged"


def _merge_folders(folder: Path, target: Path, root: Path) -> Iterator[tuple[Path, Path]]:
    """Move the folders in *folder* into *target*; yield the pairs that exist in both."""
    for inner in sorted(each for each in folder.iterdir() if each.is_dir()):
        same = find_spelling(target, inner.name)
        if not _rename_folder(inner, same, root):
            yield inner, same
