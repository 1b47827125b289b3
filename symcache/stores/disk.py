"""What a symbol path leads to on disk: stores and plain folders, looked into without a network; see `DiskChain`."""

from __future__ import annotations

import os
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from symcache.errors import ConfigError, StoreError
from symcache.events import Noted, ignore
from symcache.identity import ImageKey, Tier, filed_keys, fold, published_keys, sought_keys
from symcache.stores.base import Form, OnDisk, Stored, size_if_right
from symcache.stores.chain import ChainSettings, DiskChain
from symcache.stores.local.atomic import OWN_FOLDER, store_errors
from symcache.stores.local.rights import open_stored
from symcache.stores.local.tree import Listings, Store
from symcache.stores.results import Present
from symcache.sympath import BucketPlace, HttpPlace, LocalPlace, ResolvedElement, UncPlace, chains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from symcache.config import BucketEntry, Config
    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.identity import Key
    from symcache.stores.base import Searchable
    from symcache.stores.bucket.look import BucketLook
    from symcache.stores.bucket.objects import Bucket
    from symcache.stores.bundle import BundleStore
    from symcache.stores.documents import DocumentCache
    from symcache.stores.local.access import AccessLog


T = TypeVar("T", bound="Searchable")
B = TypeVar("B", bound="Searchable")
V = TypeVar("V")

_ARCHIVE = b"PK\3\4"  # a zip archive with anything in it
_IMAGE_EXTENSIONS = ("dll", "exe", "sys")


class DiskSource:
    """The chains of a symbol path, as far as they lie on disk; *observer* is told what happens, from any thread.

    Buckets are looked into as well, unless *asks_buckets* is false: then they are left to who fetches.

    Raises:
        ConfigError: A place that cannot be reached from this system.
    """

    def __init__(self, config: Config, *, observer: Observer = ignore, asks_buckets: bool = True) -> None:
        self.config = config
        self._observer = observer
        self._asks_buckets = asks_buckets
        self._stores: dict[Path, Store] = {}
        self._bundles: dict[Path, BundleStore] = {}
        self._noted: set[str] = set()
        self._added: set[Path] = set()
        self._logged: dict[Path, None] = {}
        self._access: dict[Path, AccessLog] = {}
        self._excluded = tuple(map(fold, config.exclusions.names))
        self._buckets: dict[str, Bucket] = {}
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
    def bundles(self) -> tuple[BundleStore, ...]:
        """Every bundle, in the order of the symbol path."""
        return tuple(self._bundles.values())

    @property
    def buckets(self) -> tuple[Bucket, ...]:
        """Every bucket, in the order of the symbol path."""
        return tuple(self._buckets.values())

    @property
    def opened_stores(self) -> tuple[Store, ...]:
        """The stores that files are opened from: the first of each chain, if it is on this disk."""
        return tuple(store for chain in self.chains if (store := chain.stores[0].local) is not None)

    @property
    def downstream_stores(self) -> tuple[Store, ...]:
        """The stores that may be written to: those that files are copied into; where nothing is copied, every one."""
        return tuple(store for chain in self.chains for store in chain.downstream_stores) or self.stores

    @property
    def documents(self) -> DocumentCache:
        """What is kept of documents that are no symbol files."""
        from symcache.stores.documents import DocumentCache  # noqa: PLC0415 - for who needs one alone

        return DocumentCache(self.config.builds.cache, recheck_s=self.config.builds.recheck_s)

    def is_excluded(self, key: Key) -> bool:
        """Whether the configuration says never to look for a file of this name."""
        return bool(self._excluded) and any(fnmatchcase(fold(key.name), pattern) for pattern in self._excluded)

    def add_folder(self, folder: Path) -> None:
        """Search *folder*, a tree as a store has it or files side by side, before all that the symbol path names.

        Nothing is written there. What it has is copied into the store that debuggers open files from.
        """
        if folder in self._added:
            return
        self._added.add(folder)
        place = LocalPlace(str(folder))
        store = self.store
        stores = () if store is None else (LocalPlace(str(store.root)),)
        elements = (ResolvedElement((*stores, place)), ResolvedElement(stores, place))
        self.chains = (*map(self._open_chain, elements), *self.chains)

    def find(self, key: Key, checksums: Sequence[str] = ()) -> Present | None:
        """Return the plain file for *key* in the first store of a chain; it is looked at, too.

        `OtherBytes` says that it is not the one that a lock file states; see `DiskChain`.
        """
        for chain in self.chains:
            stored = chain.find(key, checksums)
            if stored is not None:
                self._note_use(key, stored.path)
                return Present(stored.path, stored.size_bytes)
        return None

    def is_filed_whole(self, key: Key) -> bool:
        """Return whether a store has *key*'s file under each name by which debuggers may ask for it."""
        return all(self.find(name) is not None for name in filed_keys(key)[1:])

    def find_for_debugger(self, key: Key, checksums: Sequence[str] = ()) -> Present | None:
        """Return what a debugger would open for *key* without a network.

        It looks into every store on disk, for files of any form and for an image under each name that debuggers try. A
        `StoreError` says that there is no room to expand one, `OtherBytes` as above.
        """
        for name in sought_keys(key):
            for chain in self.chains:
                present = chain.find_for_debugger(name, checksums)
                if present is not None:
                    self._note_unread(present)
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
            name = sought_keys(key)[0] if for_debugger and type(key) is ImageKey else key
            path = path_of(name)
            size_bytes = size_if_right(path, name)
            if size_bytes is None:
                yield None
                continue
            if access is not None:
                access.touch_later(key)
            yield Present(Path(path), size_bytes)

    def _note_unread(self, present: Present) -> None:
        """Tell once of each bundle and bucket in which something was found that debuggers do not read it."""
        place = next((name for name in self._buckets if (present.url or "").startswith(f"{name}/")), None)
        kind = "bucket"
        if place is None and present.path in self._bundles:
            place, kind = str(present.path), "bundle"
        if place is not None and place not in self._noted:
            self._noted.add(place)
            advice = "`symcache warm` copies what is needed out of it, `symcache serve` serves it"
            self._observer(Noted(f"{place}: debuggers do not read a {kind}; {advice}"))

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
        return self._first_of_names(key, DiskChain.find_image)

    def find_version(self, key: ImageKey) -> VersionInfo | None:
        """Return what *key*'s image says of its origin, if a store has it under any of its names; as above."""
        return self._first_of_names(key, DiskChain.find_version)

    def find_runtime(self, key: ImageKey) -> RuntimeFacts | None:
        """Return what *key*'s image says of the .NET runtime that it is or holds, if a store has it; as above."""
        return self._first_of_names(key, DiskChain.find_runtime)

    def _first_of_names(self, key: ImageKey, find: Callable[[DiskChain, ImageKey], V | None]) -> V | None:
        found = (find(chain, name) for name in published_keys(key) for chain in self.chains)
        return next((each for each in found if each is not None), None)

    def digest(self, key: Key) -> tuple[int, str] | None:
        """Return length in bytes and SHA-256 of what `find_for_debugger` finds, uncompressed.

        Raises:
            StoreError: There is no room to expand it.
            OSError: It went, or cannot be read any more.
        """
        for name in sought_keys(key):
            for chain in self.chains:
                digest = chain.digest(name)
                if digest is not None:
                    return digest
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
        return DiskChain(self._open_stores(element, _Server, self._look_into), self._chain_settings())

    def _look_into(self, bucket: Bucket) -> BucketLook | _Server:
        if not self._asks_buckets:
            return _Server(bucket.name)
        from symcache.stores.bucket.look import BucketLook  # noqa: PLC0415 - few symbol paths have one

        return BucketLook(bucket)

    def _open_stores(
        self, element: ResolvedElement, open_server: Callable[[str], T], open_bucket: Callable[[Bucket], B]
    ) -> list[Store | PlainFolder | BundleStore | T | B]:
        """Return the stores of *element*, bottom-most first; shares that cannot be reached are left out."""
        stores: list[Store | PlainFolder | BundleStore | T | B] = []
        addresses: set[str | None] = set()  # of buckets
        for place in element.stores:
            if isinstance(place, HttpPlace | BucketPlace):
                bucket = self._bucket_at(place)
                address = place.url.rstrip("/") if bucket is None else bucket.address
                if address is not None and address in addresses:
                    continue
                if bucket is not None:
                    addresses.add(address)
                stores.append(open_server(place.url) if bucket is None else open_bucket(bucket))
            elif (path := self._path(place)) is not None:
                stores.append(self._open_place(path))
        folder: PlainFolder | None = None
        if element.folder is not None and (path := self._path(element.folder)) is not None:
            # A bundle, or a folder that holds ``pingme.txt``, is searched as if ``srv*`` stood before it.
            if is_bundle(path) or (path / "pingme.txt").is_file():
                stores.append(self._open_place(path))
            else:
                folder = PlainFolder(path)
        if stores and stores[0].local is None:
            # Nothing can be opened from a server or a bundle; its own store may be a share out of reach from here.
            own = next((at for at, store in enumerate(stores) if store.local is not None), None)
            stores.insert(0, self._open_store(self.config.store.folder) if own is None else stores.pop(own))
        if folder is not None:
            stores.append(folder)
        for each in stores:
            # One that stands alone, as a share of others, is read and left as it is.
            if (store := each.local) is not None and (len(stores) > 1 or (store.root / OWN_FOLDER).is_dir()):
                self._logged[store.root] = None
        return stores

    def _bucket_at(self, place: HttpPlace | BucketPlace) -> Bucket | None:
        """Return the bucket that *place* is; None if it is a server."""
        url = place.url.rstrip("/")
        entry = find_entry(url, self.config.bucket)
        if entry is None and isinstance(place, HttpPlace):
            return None
        from symcache.stores.bucket.objects import Bucket  # noqa: PLC0415 - few symbol paths have one

        if url not in self._buckets:
            self._buckets[url] = Bucket(url, entry, self.config.network)
        return self._buckets[url]

    def _open_place(self, path: Path) -> Store | BundleStore:
        if not is_bundle(path):
            return self._open_store(path)
        from symcache.stores.bundle import BundleStore  # noqa: PLC0415 - few symbol paths have one

        if path not in self._bundles:
            self._bundles[path] = BundleStore(path)
        return self._bundles[path]

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


def find_entry(url: str, entries: Sequence[BucketEntry]) -> BucketEntry | None:
    """Return what is said of the bucket *url*, or of one that all its names lie in, the longest that fits."""
    fitting = [entry for entry in entries if f"{url.rstrip('/')}/".startswith(f"{entry.url}/")]
    return max(fitting, key=lambda entry: len(entry.url), default=None)


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


def is_bundle(path: Path) -> bool:
    """Return whether *path* is a bundle, or what is left of one, by what it begins with.

    Raises:
        ConfigError: It is another file. An empty one is passed over as a store that cannot be used.
    """
    try:
        if not path.is_file():
            return False
        with open_stored(path) as file:
            head = file.read(len(_ARCHIVE))
    except OSError:
        return False  # looking for a file in it says why
    if head and head != _ARCHIVE:
        raise ConfigError(f"{path} is no bundle of `symcache export`; a store is a folder", where="symbol path")
    return bool(head)


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
