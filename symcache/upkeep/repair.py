"""Mending what a verification found: nothing is deleted, what is wrong goes into quarantine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, StoreError, SymcacheError
from symcache.identity import check_path_part, parse_index
from symcache.stores.local.atomic import remove_empty_folders
from symcache.symstore.admin import Admin
from symcache.symstore.folder import AdminFolder
from symcache.symstore.transactions import Filed, format_filed, read_refs, walk_refs, write_refs
from symcache.upkeep.convert import convert, merge_key_folder, put_into_quarantine, rename_folder, spelt
from symcache.upkeep.findings import Finding, Mend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.tree import Store

__all__ = ["Repaired", "drop_stale_refs", "repair", "restore_transaction"]


def restore_transaction(store: Store, id_: int) -> str | None:
    """Let the admin files agree on transaction *id_*; return what was done, None if nothing tells what is right.

    Raises:
        StoreError: The disk does not take it, or a file that would tell cannot be read.
    """
    folder = AdminFolder(store)
    done = []
    if id_ in folder.deleted_ids():
        return "renamed, as it was undone" if folder.mark_deleted(id_) else "gone already"
    if not any(each is not None and each.id == id_ for _, each in folder.server()):
        if not folder.take_back(id_):
            return None
        done.append("taken back into server.txt, as history.txt has it")
    count = _complete_own_file(store, folder, id_)
    if count is not None:
        done.append(f"its own file written anew, with {count} files")
    return "; ".join(done) or "in order meanwhile"


def _complete_own_file(store: Store, folder: AdminFolder, id_: int) -> int | None:
    """Write what transaction *id_* brought, by what is left of its own file and by all references.

    Returns:
        How many files that are; None if the own file is there and has them all.
    """
    before = tuple(folder.filed(id_))
    lines = {filed.key.folded: line for line, filed in before if filed is not None}
    known = len(lines)
    for key, refs in walk_refs(store):
        for ref in refs.of(id_).refs:
            lines.setdefault(key.folded, format_filed(Filed(key, ref.source)))
    own = folder.path / f"{id_:010}"
    if folder.has_own_file(id_):
        if known == len(lines) and all(filed is not None for _, filed in before):
            return None
        put_into_quarantine(store, own, "it does not list all that its transaction brought")
    folder.write_filed(id_, list(lines.values()))
    return len(lines)


def drop_stale_refs(store: Store, key_folder: Path) -> str:
    """Take the lines of transactions that are not in force off ``refs.ptr`` in a key's folder; return what was done.

    The file stays, as one that was fetched would.

    Raises:
        StoreError: The disk does not take it.
    """
    refs = read_refs(key_folder)
    stale = {ref.id for ref in refs.refs} - AdminFolder(store).standing_ids()
    if not stale:
        return "in order meanwhile"
    for id_ in stale:
        refs = refs.without(id_)
    write_refs(store, key_folder, refs)
    remove_empty_folders(key_folder, store.root)
    return f"lines of {', '.join(map(str, sorted(stale)[:8]))} taken off; the file stays"


@dataclass(frozen=True, slots=True)
class Repaired:
    """What came of one finding.

    Attributes:
        finding: What was wrong.
        mended: Whether it is so no longer.
        note: What was done, or why nothing.
    """

    finding: Finding
    mended: bool
    note: str

    def __str__(self) -> str:
        return f"{self.finding.path}: {'mended' if self.mended else 'left'}: {self.note}"

    def as_json(self) -> dict[str, object]:
        """Return the fields of one JSON object."""
        return {"finding": self.finding.as_json(), "mended": self.mended, "note": self.note}


def repair(
    store: Store, findings: Iterable[Finding], *, fetch: Callable[[Key], str | None] | None = None
) -> Iterator[Repaired]:
    """Mend what can be mended, and yield what came of each finding.

    A file goes into quarantine only if it is still the one that was looked at. One finding that cannot be mended stops
    no other.

    Args:
        store: The store.
        findings: From `verify`; a list, if it is still running.
        fetch: Brings the file of a key into the store, and returns why it could not; None leaves files absent.
    """
    for finding in findings:
        try:
            note = _mend(store, finding, fetch)
        except _LeftError as left:
            yield Repaired(finding, mended=False, note=str(left))
        except SymcacheError as error:
            yield Repaired(finding, mended=False, note=str(error))
        except OSError as error:
            yield Repaired(finding, mended=False, note=error.strerror or str(error))
        else:
            yield Repaired(finding, mended=True, note=note)


class _LeftError(Exception):
    """It stays as it is; the text says why."""


def _mend(store: Store, finding: Finding, fetch: Callable[[Key], str | None] | None) -> str:
    path = _below(store.root, finding.path)
    match finding.mend:
        case Mend.QUARANTINE:
            note = _quarantine(store, path, finding)
            return note if finding.index is None or fetch is None else f"{note}, {_fetch(finding.index, fetch)}"
        case Mend.FETCH if finding.index is not None and fetch is not None:
            return _fetch(finding.index, fetch)
        case Mend.POINTER:
            return _rewrite_pointer(store, path)
        case Mend.REFERENCES:
            with Admin(store).locked():
                return drop_stale_refs(store, path.parent)
        case Mend.ACCOUNT if path.name.isdecimal():
            return _restore(store, int(path.name))
        case Mend.MERGE if finding.other is not None:
            return _merge(store, path, _below(store.root, finding.other))
        case Mend.FINISH:
            return _finish(store)
    raise _LeftError("needs to be fetched" if finding.mend is Mend.FETCH else "needs somebody to look at it")


def _quarantine(store: Store, path: Path, finding: Finding) -> str:
    key = None if finding.index is None else parse_index(finding.index)
    lock = None if key is None else store.lock(key)
    if lock is not None and not lock.try_acquire():
        raise _LeftError("being filled in")
    try:
        status = path.stat()
        if (status.st_size, status.st_mtime_ns) != (finding.size_bytes, finding.changed_ns):
            raise _LeftError("changed since")
        kept = put_into_quarantine(store, path, f"{finding.problem}: {finding.detail}")
    except FileNotFoundError:
        return "gone already"
    finally:
        if lock is not None:
            lock.release()
    remove_empty_folders(path.parent, store.root)
    return f"moved to {kept.relative_to(store.root).as_posix()}"


def _fetch(index: str, fetch: Callable[[Key], str | None]) -> str:
    reason = fetch(parse_index(index))
    if reason is not None:
        raise _LeftError(f"not fetched: {reason}")
    return "fetched anew"


def _rewrite_pointer(store: Store, path: Path) -> str:
    with Admin(store).locked():
        refs = read_refs(path.parent)
        if not refs.exists:
            raise _LeftError("refs.ptr is gone, so nothing tells what is right")
        write_refs(store, path.parent, refs)
    return "written" if refs.pointer is not None else "removed"


def _restore(store: Store, id_: int) -> str:
    with Admin(store).locked():
        note = restore_transaction(store, id_)
    if note is None:
        raise _LeftError("nothing tells what it was")
    return note


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
    """Move the folders in *folder* into *target*; yield those that both have."""
    for inner in sorted(each for each in folder.iterdir() if each.is_dir()):
        same = spelt(target, inner.name)
        if not rename_folder(inner, same):
            yield inner, same


def _finish(store: Store) -> str:
    if store.converting.exists():
        convert(store, store.tier)
    Admin(store).recover()
    return "ended"


def _below(root: Path, relative: str) -> Path:
    """Return the path below *root*; a finding may come from a file, so it is not trusted to stay there.

    Raises:
        StoreError: It would not.
    """
    try:
        parts = [check_path_part(part) for part in relative.split("/")]
    except InputError as error:
        raise StoreError(f"not a path within the store: {error}", path=root) from error
    return root.joinpath(*parts)
