"""What a symbol path leads to on disk: stores and plain folders, looked into without a network.

A check needs no more than this, so neither HTTP nor an event loop is imported here, and a parser only for a file.
"""

from __future__ import annotations

import time
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import ConfigError, StoreError, UpstreamRefused, WrongContent
from symcache.events import Noted, ignore
from symcache.identity import ImageKey, PdbKey, Tier, fold, published_keys
from symcache.stores.folder import PlainFolder, local_path
from symcache.stores.local.tree import OWN_FOLDER, Form, Store, as_store_error
from symcache.stores.results import Present
from symcache.sympath import HttpPlace, LocalPlace, UncPlace, chains

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.identity import Key
    from symcache.stores.arrival import Arrival
    from symcache.stores.http.store import HttpStore
    from symcache.stores.local.access import AccessLog
    from symcache.stores.local.tree import Stored
    from symcache.sympath import ResolvedElement, ResolvedPlace

    Place: TypeAlias = Store | PlainFolder | HttpStore | HttpPlace

__all__ = ["ChainSettings", "DiskChain", "DiskSource", "is_passed_over", "read_image_file"]


# Long beside a run from the command line; a server finds a share again that was away.
_PASSED_OVER_S = 300.0


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """What all chains of a symbol path share.

    Attributes:
        observer: Told about stores that are passed over, from whichever thread finds out.
        largest_bytes: A file that expands to more is refused.
        durable: Bring a file to the disk before its name shows.
        follow: Returns the file that a pointer's target names; None where it may not be followed.
    """

    observer: Observer
    largest_bytes: int
    durable: bool
    follow: Callable[[str], Path | None]


class DiskChain:
    """The places of one element of a symbol path, of which those on disk are looked into.

    Args:
        places: Bottom-most store first, which is on disk; a plain folder or what is behind HTTP last.
        settings: What all chains share.
    """

    def __init__(self, places: Sequence[Place], settings: ChainSettings) -> None:
        self.places = tuple(places)
        self._settings = settings
        # Until when, by the clock of time.monotonic, a store is passed over.
        self._unreadable: dict[Path, float] = {}
        self._unwritable: dict[Path, float] = {}

    @property
    def downstream_stores(self) -> tuple[Store, ...]:
        """The stores that files are copied into; one that stands alone, as a share of others, is read only."""
        return tuple(place for place in self.places if isinstance(place, Store)) if len(self.places) > 1 else ()

    @property
    def disk_places(self) -> tuple[Store | PlainFolder, ...]:
        """The places on disk, in order."""
        return tuple(place for place in self.places if isinstance(place, Store | PlainFolder))

    def find(self, key: Key, checksums: Sequence[str] = ()) -> Stored | None:
        """Return the plain file that the chain's first place holds for *key*; no network.

        A file that is not what *key* names, damaged or misfiled, counts as absent: the next fetch replaces it.
        """
        stored = self._look_for_right(self.places[0], key, checksums)
        return stored if stored is not None and stored.form is Form.PLAIN else None

    def find_for_debugger(self, key: Key, checksums: Sequence[str] = ()) -> Present | None:
        """Return what a debugger would open for *key* without a network, from any place on disk and in any form.

        Raises:
            StoreError: There is no room to expand it.
        """
        for place in self.places:
            with self._opened(place, key, checksums) as (stored, plain):
                if stored is not None and plain is not None:
                    return Present(stored.path, stored.size_bytes, self._detour(place, stored))
        return None

    def find_image(self, key: ImageKey) -> Image | None:
        """Return the headers and debug data of *key*'s image from wherever it lies on disk, also from a cabinet.

        Raises:
            StoreError: There is no room to expand it.
        """
        for place in self.places:
            with self._opened(place, key, ()) as (_, plain):
                if plain is not None:
                    return read_image_file(plain)
        return None

    @contextmanager
    def _opened(self, place: Place, key: Key, checksums: Sequence[str]) -> Iterator[tuple[Stored | None, Path | None]]:
        """Lend what *place* holds on disk for *key*, and the plain and right file that it is or leads to.

        Raises:
            StoreError: There is no room to expand it.
        """
        stored = self._look_for_right(place, key, checksums)
        if stored is None or stored.form is Form.PLAIN or not isinstance(place, Store | PlainFolder):
            yield stored, None if stored is None else stored.path
            return
        import shutil  # noqa: PLC0415 - few files lie packed
        import tempfile  # noqa: PLC0415

        from symcache.stores.arrival import NotHereError  # noqa: PLC0415

        try:
            temporary = tempfile.TemporaryDirectory(prefix="symcache-")
        except OSError as error:
            raise as_store_error(error, Path(tempfile.gettempdir())) from error
        with temporary as folder:
            source = stored.path
            try:
                if stored.form is Form.POINTER:
                    source = Path(shutil.copyfile(source, Path(folder, "pointer")))  # what it names takes its place
                else:
                    source.open("rb").close()
            except OSError:
                yield stored, None
                return
            try:
                arrival = self._examine(source, stored.form, key, checksums, place.name, lambda: Path(folder, "plain"))
            except (NotHereError, WrongContent, UpstreamRefused):
                yield stored, None
            else:
                yield stored, arrival.plain

    def _detour(self, place: Place, stored: Stored) -> str | None:
        """Return what a debugger does before it opens *stored*; None if it opens it where it lies."""
        if stored.form is Form.COMPRESSED:
            return "compressed: a debugger expands it into its downstream store"
        if stored.form is Form.POINTER:
            return "a pointer file, which a debugger follows"
        if place is self.places[0] or isinstance(place, HttpPlace):
            return None
        return f"a debugger copies it from {place.name}"

    def _examine(
        self,
        scratch: Path,
        form: Form,
        key: Key,
        checksums: Sequence[str],
        origin: str,
        new_scratch: Callable[[], Path],
    ) -> Arrival:
        from symcache.stores.arrival import examine  # noqa: PLC0415 - few files lie packed

        return examine(
            scratch,
            form,
            key,
            checksums=checksums,
            origin=origin,
            new_scratch=new_scratch,
            follow=self._settings.follow,
            largest_bytes=self._settings.largest_bytes,
        )

    def _look(self, place: Store | PlainFolder, key: Key) -> Stored | None:
        if is_passed_over(place, self._unreadable):
            return None
        try:
            return place.find(key)
        except StoreError as error:
            self._pass_over(place, self._unreadable, error)
            return None

    def _look_for_right(self, place: Place, key: Key, checksums: Sequence[str]) -> Stored | None:
        """Return what *place* holds on disk for *key*; a plain file only if it is the right one."""
        stored = self._look(place, key) if isinstance(place, Store | PlainFolder) else None
        if stored is None or stored.form is not Form.PLAIN:
            return stored
        from symcache.stores.check import check_file  # noqa: PLC0415 - an empty store needs no parser

        try:
            return stored if check_file(stored.path, key, checksums=checksums).is_right else None
        except OSError:
            return None

    def _pass_over(self, place: Store | PlainFolder, why: dict[Path, float], error: StoreError) -> None:
        """Leave *place* alone for a while; it is said the first time."""
        if place.root not in why:
            verb = "read" if why is self._unreadable else "written"
            self._settings.observer(Noted(f"{error}; {place.root} is not {verb} for a while"))
        why[place.root] = time.monotonic() + _PASSED_OVER_S


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
        self.chains = tuple(chain for chain in opened if chain.places)

    @property
    def store(self) -> Store | None:
        """The store that debuggers open files from: the first of the symbol path."""
        return next(iter(self.stores), None)

    @property
    def stores(self) -> tuple[Store, ...]:
        """Every store on disk, in the order of the symbol path."""
        return tuple(place for chain in self.chains for place in chain.places if isinstance(place, Store))

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
        store = self.chains[0].places[0] if self.chains else None
        if not isinstance(store, Store):
            yield from (None for _ in keys)
            return
        from symcache.formats.glance import glance_at_image, glance_at_pdb  # noqa: PLC0415 - files come by the thousand

        path_of = store.path_teller()
        access = None if for_debugger or store.root not in self._logged else self._access_of(store.root)
        for key in keys:
            name = published_keys(key)[0] if for_debugger and type(key) is ImageKey else key
            path = path_of(name)
            size_bytes: int | None = None
            if type(name) is PdbKey:
                size_bytes = glance_at_pdb(path, name.guid.bytes_le, name.age)
            elif type(name) is ImageKey:
                size_bytes = glance_at_image(path, name.timestamp, name.size_of_image)
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
        for place in dict.fromkeys(place for chain in self.chains for place in chain.disk_places):
            try:
                held.update(owners[name.folded] for name in place.holding(names))
            except StoreError:
                return set(owners.values())  # whoever looks for a file passes the place over, and says so
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

            self._access[root] = AccessLog(self._stores[root])
        return self._access[root]

    def _open_chain(self, element: ResolvedElement) -> DiskChain:
        return DiskChain(self._open_places(element), self._chain_settings())

    def _open_places(self, element: ResolvedElement) -> list[Place]:
        places = [place for store in element.stores if (place := self._open(store)) is not None]
        if places and not isinstance(places[0], Store):
            # Its own store is a share that cannot be reached from here, and nothing can be opened from HTTP.
            places.insert(0, self._open_store(self.config.store.folder))
        if element.folder is not None and (path := self._path(element.folder)) is not None:
            folder = PlainFolder(path)
            places.append(self._open_store(path) if folder.is_store else folder)
        for place in places:
            # One that stands alone, as a share of others, is read and left as it is.
            if isinstance(place, Store) and (len(places) > 1 or (place.root / OWN_FOLDER).is_dir()):
                self._logged[place.root] = None
        return places

    def _open(self, place: ResolvedPlace) -> Place | None:
        """Return what looks into *place*; None for a share that cannot be reached."""
        return place if isinstance(place, HttpPlace) else self._open_folder(place)

    def _open_folder(self, place: LocalPlace | UncPlace) -> Store | None:
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


def read_image_file(path: Path) -> Image:
    """Return the headers and debug data of an image on disk that was found right.

    Raises:
        InputError: It is not right.
    """
    from symcache.formats.pe.image import Layout, parse_image  # noqa: PLC0415
    from symcache.formats.view import FileView  # noqa: PLC0415

    with FileView(path) as view:
        return parse_image(view, Layout.DISK)


def _names_of(key: Key) -> tuple[Key, ...]:
    return published_keys(key) if isinstance(key, ImageKey) else (key,)


def is_passed_over(place: Store | PlainFolder, why: Mapping[Path, float]) -> bool:
    """Return whether *place* is left alone for now, as *why* says by its root."""
    return time.monotonic() < why.get(place.root, 0.0)
