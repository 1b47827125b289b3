"""What a symbol path leads to on disk: stores and plain folders, looked into without a network.

A check needs no more than this, so neither HTTP nor an event loop is imported here, and a parser only for a file.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from symcache.errors import ConfigError, StoreError, UpstreamRefused, WrongContent
from symcache.events import Noted, ignore
from symcache.identity import ImageKey, Tier, fold, published_keys
from symcache.stores.base import FileRequest, Form, copy_file, read_image_file, size_if_right
from symcache.stores.folder import PlainFolder, local_path
from symcache.stores.local.atomic import as_store_error
from symcache.stores.local.staging import OWN_FOLDER
from symcache.stores.local.tree import Store
from symcache.stores.results import Present
from symcache.sympath import HttpPlace, LocalPlace, UncPlace, chains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.identity import Key
    from symcache.stores.arrival import Arrival
    from symcache.stores.base import Searchable, Stored
    from symcache.stores.local.access import AccessLog
    from symcache.sympath import ResolvedElement, ResolvedPlace

__all__ = ["ChainSettings", "DiskChain", "DiskSource"]


T = TypeVar("T", bound="Searchable")

# Long beside a run from the command line; a server finds a share again that was away.
_PASSED_OVER_S = 300.0


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """What all chains of a symbol path share.

    Attributes:
        observer: Told about stores that are passed over, from any thread.
        largest_bytes: A file that expands to more is refused.
        durable: Bring a file to the disk before its name shows.
        follow: Returns the file that a pointer's target names; None where it may not be followed.
    """

    observer: Observer
    largest_bytes: int
    durable: bool
    follow: Callable[[str], Path | None]


class DiskChain:
    """The stores of one element of a symbol path, of which those on disk are searched.

    Args:
        stores: Bottom-most store first.
        settings: What all chains share.
    """

    def __init__(self, stores: Sequence[Searchable], settings: ChainSettings) -> None:
        self.stores = tuple(stores)
        self._settings = settings
        self._unreadable = PassedOver("read", settings.observer)
        self._unwritable = PassedOver("written", settings.observer)

    @property
    def downstream_stores(self) -> tuple[Store, ...]:
        """The stores that files are copied into; one that stands alone, as a share of others, is read only."""
        return tuple(store.local for store in self.stores if store.local is not None) if len(self.stores) > 1 else ()

    def find(self, key: Key, checksums: Sequence[str] = ()) -> Stored | None:
        """Return the plain file that the chain's first store holds for *key*; no network.

        A file that is not what *key* names, damaged or misfiled, counts as absent: the next fetch replaces it.
        """
        stored = self._find_right(self.stores[0], key, checksums)
        return stored if stored is not None and stored.form is Form.PLAIN else None

    def find_for_debugger(self, key: Key, checksums: Sequence[str] = ()) -> Present | None:
        """Return what a debugger would open for *key* without a network, from any store on disk and in any form.

        Raises:
            StoreError: There is no room to expand it.
        """
        for store in self.stores:
            with self._opened(store, key, checksums) as (stored, plain):
                if stored is not None and plain is not None:
                    return Present(stored.path, stored.size_bytes, self._detour(store, stored))
        return None

    def find_image(self, key: ImageKey) -> Image | None:
        """Return the headers and debug data of *key*'s image from any store on disk, also from a cabinet.

        Raises:
            StoreError: There is no room to expand it.
        """
        for store in self.stores:
            with self._opened(store, key, ()) as (_, plain):
                if plain is not None:
                    return read_image_file(plain)
        return None

    @contextmanager
    def _opened(
        self, store: Searchable, key: Key, checksums: Sequence[str]
    ) -> Iterator[tuple[Stored | None, Path | None]]:
        """Lend what *store* holds on disk for *key*, and the plain and right file that it is or leads to.

        Raises:
            StoreError: There is no room to expand it.
        """
        stored = self._find_right(store, key, checksums)
        if stored is None or stored.form is Form.PLAIN:
            yield stored, None if stored is None else stored.path
            return
        import tempfile  # noqa: PLC0415 - few files lie packed

        try:
            temporary = tempfile.TemporaryDirectory(prefix="symcache-")
        except OSError as error:
            raise as_store_error(error, Path(tempfile.gettempdir())) from error
        with temporary as folder:
            source = stored.path
            try:
                source.open("rb").close()
            except OSError:
                yield stored, None
                return
            if stored.form is Form.POINTER:
                source = Path(folder, "pointer")  # the file that it names takes its place
                copy_file(stored.path, source)
            request = FileRequest(key, tuple(checksums))
            try:
                arrival = self._examine(source, stored.form, request, store.name, lambda: Path(folder, "plain"))
            except (WrongContent, UpstreamRefused):
                yield stored, None
            else:
                yield stored, arrival.plain if arrival.message is None else None

    def _detour(self, store: Searchable, stored: Stored) -> str | None:
        """Return what a debugger does before it opens *stored*; None if it opens it where it lies."""
        if stored.form is Form.COMPRESSED:
            return "compressed: a debugger expands it into its downstream store"
        if stored.form is Form.POINTER:
            return "a pointer file, which a debugger follows"
        return None if store is self.stores[0] else f"a debugger copies it from {store.name}"

    def _examine(
        self, scratch: Path, form: Form, request: FileRequest, origin: str, new_scratch: Callable[[], Path]
    ) -> Arrival:
        from symcache.stores.arrival import examine  # noqa: PLC0415 - few files lie packed

        return examine(
            scratch,
            form,
            request.key,
            checksums=request.checksums,
            origin=origin,
            new_scratch=new_scratch,
            follow=self._settings.follow,
            largest_bytes=self._settings.largest_bytes,
        )

    def _find(self, store: Searchable, key: Key) -> Stored | None:
        """Return what *store* holds on disk for *key*; a store that cannot be read is passed over."""
        if self._unreadable.has(store):
            return None
        try:
            return store.find(key)
        except StoreError as error:
            self._unreadable.add(store, error)
            return None

    def _find_right(self, store: Searchable, key: Key, checksums: Sequence[str]) -> Stored | None:
        """Return what *store* holds on disk for *key*; a plain file only if it is the right one."""
        stored = self._find(store, key)
        if stored is None or stored.form is not Form.PLAIN:
            return stored
        from symcache.stores.check import check_file  # noqa: PLC0415 - an empty store needs no parser

        try:
            return stored if check_file(stored.path, key, checksums=checksums).is_right else None
        except OSError:
            return None


class PassedOver:
    """Stores on disk that failed, and are left alone for a while; each is reported the first time."""

    def __init__(self, verb: str, observer: Observer) -> None:
        self._verb = verb
        self._observer = observer
        # Until when, by the clock of time.monotonic.
        self._until: dict[str, float] = {}

    def has(self, store: Searchable) -> bool:
        return bool(self._until) and time.monotonic() < self._until.get(store.name, 0.0)

    def add(self, store: Searchable, error: StoreError) -> None:
        if store.name not in self._until:
            self._observer(Noted(f"{error}; {store.name} is not {self._verb} for a while"))
        self._until[store.name] = time.monotonic() + _PASSED_OVER_S


class DiskSource:
    """The chains of a symbol path, as far as they lie on disk.

    Args:
        config: Every setting, the symbol path among them.
        observer: Told what happens, from any thread.

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

        It looks into every store on disk, for files of any form and for an image under each of its names.

        Raises:
            StoreError: There is no room to expand it.
        """
        for name in _names_of(key):
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

        Each place is listed once for all of them, so that what is nowhere costs next to nothing.
        """
        owners: dict[str, str] = {}
        names: list[Key] = []
        for key in keys:
            for name in _names_of(key):
                names.append(name)
                owners[name.folded] = key.folded
        held: set[str] = set()
        for store in dict.fromkeys(store for chain in self.chains for store in chain.stores):
            try:
                held.update(owners[name.folded] for name in store.holding(names))
            except StoreError:
                return set(owners.values())  # the search for each file passes the store over, and reports it
        return held

    def find_image(self, key: ImageKey) -> Image | None:
        """Return the headers and debug data of *key*'s image, if it lies in a store under any of its names.

        Raises:
            StoreError: There is no room to expand it.
        """
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
            folder = PlainFolder(path)
            stores.append(self._open_store(path) if folder.is_store else folder)
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
            self._stores[path] = Store(path, new_tier=Tier.TWO if self.config.store.two_tier else Tier.ONE)
        return self._stores[path]

    def _path(self, place: LocalPlace | UncPlace) -> Path | None:
        path = self._local_path(place.path)
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

    def _local_path(self, path: str) -> Path | None:
        return local_path(path, self.config.unc.map)

    def _chain_settings(self) -> ChainSettings:
        def follow(target: str) -> Path | None:
            from symcache.stores.arrival import resolve_pointer  # noqa: PLC0415 - few files are pointers

            return resolve_pointer(target, self.config.pointers.allow, self._local_path)

        return ChainSettings(
            observer=self._observer,
            largest_bytes=self.config.network.largest_file_bytes,
            durable=self.config.store.durable,
            follow=follow,
        )


class _Server:
    """A server of the symbol path, which is not asked."""

    local = None
    is_on_disk = False

    def __init__(self, name: str) -> None:
        self.name = name

    def find(self, key: Key) -> None:
        """Return None: nothing of it is on disk."""

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:  # noqa: ARG002 - of the protocol
        """Yield nothing: nothing of it is on disk."""
        return iter(())


def _names_of(key: Key) -> tuple[Key, ...]:
    return published_keys(key) if isinstance(key, ImageKey) else (key,)
