"""What a symbol path leads to on disk: stores and plain folders, looked into without a network; see `DiskChain`."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from symcache.errors import ConfigError, StoreError
from symcache.events import Noted, ignore
from symcache.identity import ImageKey, Tier, fold, published_keys
from symcache.stores.base import Form, OnDisk, Stored, size_if_right
from symcache.stores.chain import ChainSettings, DiskChain
from symcache.stores.local.atomic import OWN_FOLDER, store_errors
from symcache.stores.local.tree import Listings, Store
from symcache.stores.results import Present
from symcache.sympath import HttpPlace, LocalPlace, UncPlace, chains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.identity import Key
    from symcache.stores.base import Searchable
    from symcache.stores.local.access import AccessLog
    from symcache.sympath import ResolvedElement, ResolvedPlace


T = TypeVar("T", bound="Searchable")

_IMAGE_EXTENSIONS = ("dll", "exe", "sys")


class DiskSource:
    """The chains of a symbol path, as far as they lie on disk; *observer* is told what happens, from any thread.

    Raises:
        ConfigError: A place that cannot be reached from this system.
    """

    def __init__(self, config: Config, *, observer: Observer = ignore) -> None:
        self.config = config
        self._observer = observer
        self._stores: dict[Path, Store] = {}
        self._logged: dict[Path, None] = {}
        self._access: dict[Path, AccessLog] = {}
        self._excluded = tuple(map(fold, config.exclusions.names))
        opened = [self._open_chain(element) for element in chains(config.symbol_path, config.store.folder)]
        self.chains = tuple(chain for chain in opened if chain.stores)

    @property
    def store(self) -> Store | None:
        """The store that debuggers open files from: the first of the symbol path."""
        return next(iter(self.stores), None)

    @property
    def stores(self) -> tuple[Store, ...]:
        """Every store on disk, in the order of the symbol path."""
        return tuple(each.local for chain in self.chains for each in chain.stores if each.local is not None)

    @property
    def opened_stores(self) -> tuple[Store, ...]:
        """The stores that files are opened from: the first of each chain, if it is on this disk."""
        return tuple(store for chain in self.chains if (store := chain.stores[0].local) is not None)

    @property
    def downstream_stores(self) -> tuple[Store, ...]:
        """The stores that may be written to: those that files are copied into; where nothing is copied, every one."""
        return tuple(store for chain in self.chains for store in chain.downstream_stores) or self.stores

    def is_excluded(self, key: Key) -> bool:
        """Whether the configuration says never to look for a file of this name."""
        return bool(self._excluded) and any(fnmatchcase(fold(key.name), pattern) for pattern in self._excluded)

    def find(self, key: Key, checksums: Sequence[str] = ()) -> Present | None:
        """Return the plain file for *key* in the first store of a chain; it is looked at, too."""
        for chain in self.chains:
            stored = chain.find(key, checksums)
            if stored is not None:
                self._note_use(key, stored.path)
                return Present(stored.path, stored.size_bytes)
        return None

    def find_for_debugger(self, key: Key, checksums: Sequence[str] = ()) -> Present | None:
        """Return what a debugger would open for *key* without a network.

        It looks into every store on disk, for files of any form and for an image under each of its names. A
        `StoreError` says that there is no room to expand one.
        """
        for name in published_keys(key):
            for chain in self.chains:
                present = chain.find_for_debugger(name, checksums)
                if present is not None:
                    return present
        return None

    def glance(self, keys: Iterable[Key], *, for_debugger: bool) -> Iterator[Present | None]:
        """Yield for each of *keys* the plain file in the first store, where a short look finds it and finds it right.

        None says nothing: then `find` has to look, or with *for_debugger* `find_for_debugger`. Where this finds a file,
        those find it, too, with ten times the effort.
        """
        store = self.chains[0].stores[0].local if self.chains else None
        if store is None:
            yield from (None for _ in keys)
            return
        path_of = store.path_teller()
        access = None if for_debugger or store.root not in self._logged else self._access_of(store.root)
        for key in keys:
            name = published_keys(key)[0] if for_debugger and type(key) is ImageKey else key
            path = path_of(name)
            size_bytes = size_if_right(path, name)
            if size_bytes is None:
                yield None
                continue
            if access is not None:
                access.touch_later(key)
            yield Present(Path(path), size_bytes)

    def seem_held(self, keys: Iterable[Key]) -> set[str]:
        """Return the folded indexes of those of *keys* that a place on disk seems to have under any of their names.

        See `held_in`; what is nowhere costs next to nothing.
        """
        wanted = list(keys)
        held: set[str] = set()
        for store in dict.fromkeys(store for chain in self.chains for store in chain.stores):
            try:
                held |= held_in(store, wanted)
            except StoreError:
                return {key.folded for key in wanted}  # the search for each file passes it over, and reports it
        return held

    def find_image(self, key: ImageKey) -> Image | None:
        """Return the headers and debug data of *key*'s image, if a store has it under any of its names; as above."""
        for name in published_keys(key):
            for chain in self.chains:
                image = chain.find_image(name)
                if image is not None:
                    return image
        return None

    def close(self) -> None:
        """Drop scratch files and write what was noted."""
        for access in self._access.values():
            access.flush()
        for store in self._stores.values():
            for text in store.notes():
                self._observer(Noted(text))
            store.close()

    def _note_use(self, key: Key, path: Path) -> None:
        """Let the store that *path* lies in know, for the sake of what is pruned; a file just fetched needs none."""
        for root in self._logged:
            if path.is_relative_to(root):
                self._access_of(root).touch_later(key)
                return

    def _access_of(self, root: Path) -> AccessLog:
        if root not in self._access:
            from symcache.stores.local.access import AccessLog  # noqa: PLC0415 - a check notes no use

            self._access.setdefault(root, AccessLog(self._stores[root]))  # another thread may come first
        return self._access[root]

    def _open_chain(self, element: ResolvedElement) -> DiskChain:
        return DiskChain(self._open_stores(element, lambda place: _Server(place.url)), self._chain_settings())

    def _open_stores(
        self, element: ResolvedElement, open_server: Callable[[HttpPlace], T]
    ) -> list[Store | PlainFolder | T]:
        """Return the stores of *element*, bottom-most first; shares that cannot be reached are left out."""
        stores: list[Store | PlainFolder | T]
        stores = [store for place in element.stores if (store := self._open(place, open_server)) is not None]
        if stores and not stores[0].is_on_disk:
            # Its own store is a share that cannot be reached from here, and nothing can be opened from a server.
            stores.insert(0, self._open_store(self.config.store.folder))
        if element.folder is not None and (path := self._path(element.folder)) is not None:
            # A folder that holds ``pingme.txt`` is searched as if ``srv*`` stood before it.
            stores.append(self._open_store(path) if (path / "pingme.txt").is_file() else PlainFolder(path))
        for each in stores:
            # One that stands alone, as a share of others, is read and left as it is.
            if (store := each.local) is not None and (len(stores) > 1 or (store.root / OWN_FOLDER).is_dir()):
                self._logged[store.root] = None
        return stores

    def _open(self, place: ResolvedPlace, open_server: Callable[[HttpPlace], T]) -> Store | T | None:
        if isinstance(place, HttpPlace):
            return open_server(place)
        path = self._path(place)
        return None if path is None else self._open_store(path)

    def _open_store(self, path: Path) -> Store:
        if path not in self._stores:
            new_tier = Tier.TWO if self.config.store.two_tier else Tier.ONE
            self._stores[path] = Store(path, new_tier=new_tier, locking=self.config.store.locks)
        return self._stores[path]

    def _path(self, place: LocalPlace | UncPlace) -> Path | None:
        path = local_path(place.path, self.config.unc.map)
        if path is not None:
            return path
        if isinstance(place, UncPlace):
            share = f"{place.path} cannot be reached from this system"
            self._observer(Noted(f"{share}; name the folder where it is mounted under [unc] in the config file"))
            return None
        raise ConfigError(
            f"{place.path} is a path of Windows; give a folder of this system, with -y or --store",
            where="symbol path",
        )

    def _chain_settings(self) -> ChainSettings:
        config = self.config

        def follow(target: str) -> Path | None:
            from symcache.stores.check import resolve_pointer  # noqa: PLC0415 - few files are pointers

            return resolve_pointer(target, config.pointers.allow, lambda path: local_path(path, config.unc.map))

        return ChainSettings(self._observer, config.network.largest_file_bytes, config.store.durable, follow)


class _Server:
    """A server of the symbol path, which is not asked; nothing of it is on disk."""

    local = None
    is_on_disk = False

    def __init__(self, name: str) -> None:
        self.name = name

    def find(self, key: Key) -> None:
        pass

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:  # noqa: ARG002 - of the protocol
        return iter(())


class PlainFolder(OnDisk):
    r"""A folder with files under their names alone, searched as debuggers do: itself, ``<ext>``, ``symbols\<ext>``.

    Sources disagree on the order of the three; as only the right file is ever taken, it makes no difference. Methods
    raise `StoreError` if it cannot be read.
    Source: windows-driver-docs, symbol-path; win32, symbol-paths.
    """

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self._listings = Listings(lambda folder: sorted(path.name for path in folder.iterdir()), 0)

    def find(self, key: Key) -> Stored | None:
        """Return the file that *key* names, if it lies here."""
        from symcache.stores.check import check_file  # noqa: PLC0415 - an empty folder needs no parser

        with store_errors(self.root):
            for folder in self._folders(key):
                for path in self._listings.spellings(folder, key.name):
                    if path.is_file() and check_file(path, key).is_right:
                        return Stored(path, Form.PLAIN, path.stat().st_size)
        return None

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield those of *keys* for which `find` finds something; only those whose name is here are looked for."""
        names: dict[str, set[str]] = {}
        for key in keys:
            extension = fold(key.name).rpartition(".")[2]
            if extension not in names:
                names[extension] = {name for folder in self._folders(key) for name in self._listings.listing(folder)}
            if fold(key.name) in names[extension] and self.find(key) is not None:
                yield key

    def _folders(self, key: Key) -> Iterator[Path]:
        own = fold(key.name).rpartition(".")[2]
        yield self.root
        for extension in dict.fromkeys((own, *_IMAGE_EXTENSIONS)):
            yield from self._listings.spellings(self.root, extension)
            for symbols in self._listings.spellings(self.root, "symbols"):
                yield from self._listings.spellings(symbols, extension)


def held_in(place: Searchable, keys: Sequence[Key]) -> set[str]:
    """Return the folded indexes of those of *keys* that *place* has under any of their names.

    It is listed once, and below it the folders of names alone that it and *keys* share: the disk is read as often as
    there are such names and files, not as often as there are keys. `StoreError` if it cannot be read.
    """
    names: dict[str, Key] = {}
    owners: dict[str, list[str]] = {}
    for key in keys:
        for name in published_keys(key):
            names[name.folded] = name
            owners.setdefault(name.folded, []).append(key.folded)
    return {owner for held in place.holding(names.values()) for owner in owners[held.folded]}


def local_path(path: str, shares: Mapping[str, Path]) -> Path | None:
    r"""Return *path*, as a symbol path has it, as one of this system; None for a share or drive that it does not have.

    *shares* says where shares are mounted, by prefixes of which whole parts are compared without regard to letter case.
    """
    parts = path.replace("/", "\\").rstrip("\\").split("\\")
    folded = [fold(part) for part in parts]
    for prefix, folder in shares.items():
        wanted = fold(prefix).replace("/", "\\").rstrip("\\").split("\\")
        if folded[: len(wanted)] == wanted:
            return folder.joinpath(*parts[len(wanted) :])
    is_of_windows = path.startswith(("\\\\", "//")) or path[1:2] == ":"
    return None if is_of_windows and os.name != "nt" else Path(path).absolute()
