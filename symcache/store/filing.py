"""The steps of a transaction on disk: files and references, then the account, so that a kill between them mends."""

from __future__ import annotations

from contextlib import suppress
from filecmp import cmp
from typing import TYPE_CHECKING

from symcache.store.journal import Intent, Stage, clear_journal
from symcache.store.place import as_store_error, remove_empty_folders, take_away
from symcache.store.refs import read_refs, walk_refs, write_refs
from symcache.store.transactions import Filed, Ref, format_filed
from symcache.store.tree import Form, Store, list_stored

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.store.adminfolder import AdminFolder
    from symcache.store.refs import Refs

__all__ = ["Filing"]

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
