"""One symbol store: a directory tree that debuggers read, found by key and filled without a half file ever showing."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from symcache.identity import POINTER, REFS, Tier, compressed_name, fold, relative_parts, tier_folder
from symcache.stores.base import Form, OnDisk, Stored, copy_file
from symcache.stores.local.atomic import (
    OWN_FOLDER,
    Means,
    Staging,
    as_store_error,
    drop,
    flush,
    flush_folders,
    put_in_place,
    remove_empty_folders,
    share_space,
    store_errors,
    unflushed,
)
from symcache.stores.local.rights import make_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path
    from typing import Self

    from symcache.identity import Key
    from symcache.stores.local.locks import KeyLock

__all__ = ["MSFZ_FOLDER", "Listings", "Store", "as_store_error", "is_key_folder", "list_folders", "list_stored"]

MSFZ_FOLDER = "msfz0"


class Store(OnDisk):
    """A store on disk, single-tier or two-tier, made by any tool.

    Names and ids are matched as debuggers match them, without regard to letter case, also on a disk that tells
    letter cases apart; folders that exist are reused as they are spelt. The root need not exist before the first
    `publish`, which makes it with *new_tier*. *locking* is ``auto`` or ``lease``, as `config.StoreSettings.locks`.
    Methods raise `StoreError` if the store cannot be read or written.
    """

    def __init__(
        self,
        root: Path,
        *,
        new_tier: Tier = Tier.ONE,
        locking: str = "auto",
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(root)
        self._locking = locking
        self._has_chosen_locks = False
        self._staging = Staging(root, lambda: self.create(new_tier))
        # Of one file a process has one descriptor, whatever links lead to the store.
        self._locks = root.resolve() / OWN_FOLDER / "locks"
        self._listings = Listings(list_folders, 20, clock_s)
        # Looked for several times a file, as texts: joining and asking paths takes longer than the system call.
        self._two_tier_mark = str(root / "index2.txt")
        self._converting_mark = str(self.converting)

    @property
    def local(self) -> Store:
        return self

    @property
    def tier(self) -> Tier:
        """`Tier.TWO` if the root holds ``index2.txt``, as symsrv decides it."""
        return Tier.TWO if os.path.exists(self._two_tier_mark) else Tier.ONE  # noqa: PTH110

    @property
    def converting(self) -> Path:
        """The mark of a conversion that has not ended; while it is there, files may lie in either layout."""
        return self.root / OWN_FOLDER / "converting"

    def create(self, tier: Tier = Tier.ONE) -> None:
        """Make the root with its marks, unless it is a store already."""
        with store_errors(self.root):
            with suppress(FileNotFoundError), os.scandir(self.root) as entries:
                # A process that was killed may have made the first mark alone.
                if any(entry.name not in {OWN_FOLDER, "index2.txt"} for entry in entries):
                    return
            self.root.mkdir(parents=True, exist_ok=True)
            # What decides the layout comes first, and is on the disk before any file is: a store that is left with the
            # other mark alone, or with none, would be one of the other layout.
            for mark in [*(["index2.txt"] if tier is Tier.TWO else []), "pingme.txt"]:
                os.close(make_file(self.root / mark, os.O_WRONLY))
            flush_folders([self.root], self.root.parent)

    def find(self, key: Key) -> Stored | None:
        """Return what the store holds for *key*: the plain file, else its cabinet, else a pointer file.

        Empty files count as absent; debuggers have been seen to leave them behind.
        """
        try:
            while True:
                tiers = self._tiers()
                for tier in tiers:
                    best = self._find_in(key, tier)
                    if best is not None:
                        return best
                if tiers == self._tiers():
                    return None
                self._listings.forget()
        except OSError as error:
            raise as_store_error(error, self.root) from error

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield those of *keys* for which `find` finds something.

        The root is listed once, and the folder of each name that is there: with many keys that is far less than
        looking for each.
        """
        wanted: dict[str, dict[str, list[Key]]] = {}
        for key in keys:
            wanted.setdefault(fold(key.name), {}).setdefault(fold(key.id), []).append(key)
        ids: dict[str, set[str]] = {}
        with store_errors(self.root):
            for tier in set(self._tiers()):
                for parent in _parents(self.root, tier):
                    for name in list_folders(parent):
                        if fold(name) in wanted:
                            ids.setdefault(fold(name), set()).update(map(fold, list_folders(parent / name)))
        for name, found in ids.items():
            for id_ in found & wanted[name].keys():
                yield from (key for key in wanted[name][id_] if self.find(key) is not None)

    def path_teller(self) -> Callable[[Key], str]:
        """Return what tells where a key's plain file lies if it is spelt as the key is; nothing is looked for.

        For many keys at once: the tier is looked up once. While a store is converted, `find` looks into both.
        """
        root, tier = f"{self.root}{os.sep}", self.tier
        return lambda key: root + os.sep.join((*relative_parts(key, tier), key.name))  # noqa: PTH118 - for each file

    def lock(self, what: Key | str) -> KeyLock:
        """Return the lock that every process takes before it fills in a key's files, or does what a name stands for."""
        from symcache.stores.local.locks import KeyLock, use_leases  # noqa: PLC0415 - a look into a store needs no lock

        if not self._has_chosen_locks:
            self._has_chosen_locks = True
            if self._locking == "lease" or (self._locking == "auto" and self._is_shared_without_locks()):
                use_leases(self._locks)
        return KeyLock(self._locks, what if isinstance(what, str) else what.folded)

    def _is_shared_without_locks(self) -> bool:
        from symcache.stores.local.mounts import find_mount  # noqa: PLC0415

        mount = find_mount(next((folder for folder in (self.root, *self.root.parents) if folder.exists()), self.root))
        return mount.is_network and mount.has_own_locks

    def scratch(self) -> Path:
        """Return the path of a new scratch file of this process, on the disk of the store; see `Staging`."""
        try:
            return self._staging.new_path()
        except OSError as error:
            raise as_store_error(error, self.root) from error

    def publish(self, scratch: Path, key: Key, *, form: Form = Form.PLAIN, durable: bool = True) -> Path:
        """Let *scratch*, complete and verified, become the key's file in one step; return where.

        *form*, plain or compressed, decides the name. With *durable* the bytes are brought to the disk before the name
        shows, so that a power cut leaves no hole either.
        """
        try:
            if durable:
                flush(scratch)
            return self._rename(scratch, key, form)
        except OSError as error:
            raise as_store_error(error, self.root) from error

    def also_file_under(self, path: Path, key: Key, *, durable: bool = True) -> Path:
        """Let the plain file at *path*, which was found right for *key*, also stand under *key*; return where.

        A file of this store shares its space with the new one where the disk can do that; others are copied, as
        other programs may write to them.
        """
        scratch = self.scratch()
        try:
            with store_errors(self.root):
                means = share_space(path, scratch) if path.is_relative_to(self.root) else None
            if means is None:
                copy_file(path, scratch)
            # A hard link has no bytes of its own to flush, and a file that is in use cannot be opened for that.
            return self.publish(scratch, key, durable=durable and means is not Means.HARD_LINK)
        finally:
            drop(scratch)

    def folder_for(self, key: Key) -> Path:
        """Return the folder *key*'s file goes into: one that exists in any spelling, else the canonical one."""
        folder = self.root
        for part in relative_parts(key, self.tier):
            folder = next(self._listings.spellings(folder, part), folder / part)
        return folder

    def key_folders(self) -> Iterator[tuple[str, str, Path]]:
        """Yield name, id and folder of every key's folder, sorted, one name's at a time."""
        tiers = sorted(set(self._tiers()))
        with store_errors(self.root):
            for tier in tiers:
                for parent in _parents(self.root, tier):
                    for name in list_folders(parent):
                        for id_ in list_folders(parent / name):
                            folder = parent / name / id_
                            if len(tiers) == 1 or is_key_folder(folder, name, tier):
                                yield name, id_, folder

    def note(self, folder: Path) -> None:
        """Take note that *folder*, below the root, is there now, lest a second spelling of it comes beside it."""
        self._listings.add(folder, self.root)

    def refresh(self) -> None:
        """Forget what was seen of the store's folders; call it after moving them."""
        self._listings.forget()

    def notes(self) -> Iterator[str]:
        """Yield what this disk cannot do, and what is done instead."""
        if not self._has_chosen_locks:
            return  # it was looked into, no more
        from symcache.stores.local.locks import note_of  # noqa: PLC0415

        if (text := note_of(self._locks)) is not None:
            yield text
        with suppress(OSError):
            if self.root.stat().st_dev in unflushed:
                yield f"{self.root}: this disk refuses to flush files; a power cut can damage what was just published"

    def close(self) -> None:
        """Drop this process's scratch files; safe to call twice."""
        self._staging.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _tiers(self) -> tuple[Tier, ...]:
        """Return the layouts to look in.

        While a store is converted, a folder moves from the one to the other in one step: a look into the new, the old
        and the new layout again finds it.
        """
        tier = self.tier
        if not os.path.exists(self._converting_mark):  # noqa: PTH110
            return (tier,)
        return (tier, Tier.ONE if tier is Tier.TWO else Tier.TWO, tier)

    def _find_in(self, key: Key, tier: Tier) -> Stored | None:
        folders = [self.root]
        for part in relative_parts(key, tier):
            folders = [spelt for folder in folders for spelt in self._listings.spellings(folder, part)]
        found = (stored for folder in folders for stored in list_stored(folder, key.name) if stored.size_bytes)
        return min(found, key=lambda stored: _RANK[stored.form], default=None)

    def _rename(self, scratch: Path, key: Key, form: Form) -> Path:
        tier = self.tier

        def target() -> Path:
            nonlocal tier
            tier = self.tier
            folder = self.folder_for(key)
            # The folder's own spelling, so that both parts of the path are written alike.
            name = folder.parent.name if fold(folder.parent.name) == fold(key.name) else key.name
            return folder / (compressed_name(name) if form is Form.COMPRESSED else name)

        path = put_in_place(scratch, target, self.root)
        while tier is not self.tier:
            # A conversion began after the path was chosen, and may have passed there already.
            before, path = path, target()
            with suppress(FileNotFoundError):
                path = put_in_place(before, target, self.root)
                remove_empty_folders(before.parent, self.root)
        self.note(path.parent)
        return path


class Listings:
    """How what lies in a folder is spelt, where letter case may differ from what is asked.

    *names_in* returns the names in a folder, sorted. A listing is kept while the folder is unchanged; a changed one is
    read again only after *trusted_times* as long as the reading took, so that filling a large store does not mean
    listing it for each file.
    """

    def __init__(
        self, names_in: Callable[[Path], list[str]], trusted_times: int, clock_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._names_in = names_in
        self._trusted_times = trusted_times
        self._clock_s = clock_s
        self._known: dict[Path, tuple[int, float, dict[str, list[str]]]] = {}

    def forget(self) -> None:
        self._known.clear()

    def add(self, folder: Path, root: Path) -> None:
        """Add *folder* and those above it, below *root*, to the listings that should have them."""
        while folder != root:
            known = self._known.get(folder.parent)
            if known is not None:
                names = known[2].setdefault(fold(folder.name), [])
                if folder.name not in names:
                    names.append(folder.name)
            folder = folder.parent

    def spellings(self, parent: Path, name: str) -> Iterator[Path]:
        """Yield what is called *name* in *parent*, exact spelling first."""
        exact = parent / name
        if exact.exists():
            yield exact
        for other in self.listing(parent).get(fold(name), ()):
            if other != name:
                yield parent / other

    def listing(self, parent: Path) -> dict[str, list[str]]:
        """Return the names in *parent* by their folded form."""
        listing: dict[str, list[str]] = {}
        try:
            changed_ns = parent.stat().st_mtime_ns
            now_s = self._clock_s()
            known = self._known.get(parent)
            if known is not None and (known[0] == changed_ns or now_s < known[1]):
                return known[2]
            for name in self._names_in(parent):
                listing.setdefault(fold(name), []).append(name)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        took_s = self._clock_s() - now_s
        if len(self._known) >= 256:
            self._known.clear()
        self._known[parent] = (changed_ns, now_s + self._trusted_times * took_s, listing)
        return listing


_RANK = {Form.PLAIN: 0, Form.COMPRESSED: 1, Form.POINTER: 2}


def list_stored(folder: Path, name: str) -> list[Stored]:
    """Return every form in which a key's folder holds the file called *name*, the best first, empty ones included."""
    names = {fold(compressed_name(name)): Form.COMPRESSED, fold(name): Form.PLAIN, POINTER: Form.POINTER}
    stored: list[Stored] = []
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        for entry in entries:
            form = names.get(fold(entry.name))
            if form is not None:
                with suppress(FileNotFoundError):  # pruned since
                    if entry.is_file():
                        stored.append(Stored(folder / entry.name, form, entry.stat().st_size))
    return sorted(stored, key=lambda file: (_RANK[file.form], file.path.name))


def is_key_folder(folder: Path, name: str, tier: Tier) -> bool:
    """Return whether *folder*, found where *tier* has the folders of keys, holds files of a key of that *name*.

    With both layouts in one tree the same depth has folders of the other one too: what lies in them tells.
    """
    if tier is Tier.TWO and fold(tier_folder(name)) != fold(folder.parent.parent.name):
        return False
    names = {fold(name), fold(compressed_name(name)), POINTER, REFS}
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder) as entries:
        return any(fold(each.name) in ({MSFZ_FOLDER} if each.is_dir() else names) for each in entries)
    return False


def _parents(root: Path, tier: Tier) -> list[Path]:
    return [root] if tier is Tier.ONE else [root / name for name in list_folders(root)]


def list_folders(parent: Path) -> list[str]:
    """Return the names of the folders in *parent*, sorted, those apart that a store keeps for itself."""
    with suppress(FileNotFoundError, NotADirectoryError), os.scandir(parent) as entries:
        return sorted(e.name for e in entries if fold(e.name) not in {OWN_FOLDER, "000admin"} and e.is_dir())
    return []
