"""Mending the account of a store from what else tells of a transaction: its references, its line in ``history.txt``.

Whoever calls holds the lock of the store's only writer; see `Admin.locked`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.store.adminfolder import AdminFolder
from symcache.store.place import remove_empty_folders
from symcache.store.quarantine import put_into_quarantine
from symcache.store.refs import read_refs, walk_refs, write_refs
from symcache.store.transactions import Filed, format_filed

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.store.tree import Store

__all__ = ["drop_stale_refs", "restore_transaction"]


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
