"""One chain of stores: searched from the bottom-most up; a file that is found is copied down and opened there.

Rules are those of windows-driver-docs, advanced-symsrv-use, and win32, using-symsrv. A check needs this, so it imports
neither HTTP nor an event loop, and a parser only for a file.
"""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from symcache.errors import OtherBytes, StoreError, UpstreamRefused, WrongContent
from symcache.events import Noted
from symcache.inputs.records import locked_hashes
from symcache.stores.base import (
    Arrival,
    FileRequest,
    Form,
    LookUp,
    Stored,
    copy_file,
    is_right,
    not_there,
    read_image,
    read_runtime_of,
    read_version_of,
    size_if_right,
)
from symcache.stores.local.atomic import drop, flush, store_errors
from symcache.stores.results import Fetched, Present, attempts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.identity import ImageKey, Key
    from symcache.stores.base import Searchable, SymbolStore
    from symcache.stores.concurrency import Batches
    from symcache.stores.local.locks import KeyLock
    from symcache.stores.local.tree import Store
    from symcache.stores.turns import Turn, Turns


T = TypeVar("T")

# Long beside a run from the command line; a server finds a share again that was away.
_PASSED_OVER_S = 300.0


@dataclass(frozen=True, slots=True)
class ChainSettings:
    """What all chains of a symbol path share."""

    observer: Observer  # told about stores that are passed over, from any thread
    largest_bytes: int  # a file that expands to more is refused
    durable: bool  # bring a file to the disk before its name shows
    follow: Callable[[str], Path | None]  # returns the file that a pointer names; None where it may not be followed


class DiskChain:
    """The stores of one element of a symbol path, bottom-most first, of which those on disk are searched.

    Where a packed file is looked into, `StoreError` says that there is no room to expand it. Where a debugger would
    open the key's file with other bytes than a lock file states, `OtherBytes` says so: no place after it helps.
    """

    def __init__(self, stores: Sequence[Searchable], settings: ChainSettings) -> None:
        self.stores = tuple(stores)
        self._settings = settings
        self._unreadable = _PassedOver("read", settings.observer)
        self._unwritable = _PassedOver("written", settings.observer)

    @property
    def downstream_stores(self) -> tuple[Store, ...]:
        """The stores that files are copied into; one that stands alone, as a share of others, is read only."""
        return tuple(store.local for store in self.stores if store.local is not None) if len(self.stores) > 1 else ()

    def find(self, key: Key, checksums: Sequence[str] = ()) -> Stored | None:
        """Return the plain file that the chain's first store holds for *key*; no network.

        A file that is not what *key* names, damaged or misfiled, counts as absent: the next fetch replaces it.
        """
        stored = self._find_right(self.stores[0], key, checksums)
        return stored if stored is not None and stored.is_openable else None

    def find_for_debugger(self, key: Key, checksums: Sequence[str] = ()) -> Present | None:
        """Return what a debugger would open for *key* without a network, from any store on disk and in any form."""
        for store in self.stores:
            stored = self._look_into(store, key, checksums, lambda stored, _: stored)
            if stored is not None:
                detour = self._detour(store, stored)
                return Present(stored.path, stored.size_bytes, detour, stored.is_member, stored.url)
        return None

    def find_image(self, key: ImageKey) -> Image | None:
        """Return the headers and debug data of *key*'s image from any store on disk, also from a cabinet."""
        return self._find_in_image(key, read_image)

    def find_version(self, key: ImageKey) -> VersionInfo | None:
        """Return what *key*'s image says of its origin; it is looked for as by `find_image`."""
        return self._find_in_image(key, read_version_of)

    def find_runtime(self, key: ImageKey) -> RuntimeFacts | None:
        """Return what *key*'s image says of the .NET runtime that it is or holds; as by `find_image`."""
        return self._find_in_image(key, read_runtime_of)

    def _find_in_image(self, key: ImageKey, read: Callable[[Stored], T | None]) -> T | None:
        found = (self._look_into(store, key, (), lambda _, plain: read(plain)) for store in self.stores)
        return next((each for each in found if each is not None), None)

    def digest(self, key: Key) -> tuple[int, str] | None:
        """Return length and SHA-256 of what a debugger would open for *key*, uncompressed; `OSError` if it went."""
        digests = (self._look_into(store, key, (), lambda _, plain: _hash(plain)) for store in self.stores)
        return next((digest for digest in digests if digest is not None), None)

    def _look_into(
        self, store: Searchable, key: Key, checksums: Sequence[str], look: Callable[[Stored, Stored], T]
    ) -> T | None:
        """Return what *look* makes of what *store* has for *key*, and of the plain and right file this leads to."""
        stored = self._find_right(store, key, checksums)
        if stored is None or stored.form is Form.PLAIN:
            return None if stored is None else look(stored, stored)
        import tempfile  # noqa: PLC0415 - few files lie packed

        with store_errors(Path(tempfile.gettempdir())):
            temporary = tempfile.TemporaryDirectory(prefix="symcache-")
        with temporary as folder:
            source = stored.path
            try:
                if stored.url is None:
                    source.open("rb").close()
            except OSError:
                return None
            request = FileRequest(key, tuple(checksums))
            try:
                if stored.form is Form.POINTER or stored.is_member:
                    source = Path(folder, "source")  # the file that a pointer names takes its place
                    stored.copy_to(source)
                arrival = self._examine(source, stored.form, request, store.name, lambda: Path(folder, "plain"))
            except OtherBytes:
                if stored.is_member:
                    return None  # no debugger opens it
                raise
            except (WrongContent, UpstreamRefused):
                return None
            return look(stored, _plain_of(arrival)) if arrival.message is None else None

    def _detour(self, store: Searchable, stored: Stored) -> str | None:
        """Return what has to happen before a debugger opens *stored*; None if it opens it where it lies."""
        if stored.is_member:
            kind = "bundle" if stored.url is None else "bucket"
            return f"in the {kind} {store.name}, which no debugger reads: `symcache warm` copies it from there"
        if stored.form is Form.COMPRESSED:
            return "compressed: a debugger expands it into its downstream store"
        if stored.form is Form.POINTER:
            return "a pointer file, which a debugger follows"
        return None if store is self.stores[0] else f"a debugger copies it from {store.name}"

    def _examine(
        self, scratch: Path, form: Form, request: FileRequest, origin: str, new_scratch: Callable[[], Path]
    ) -> Arrival:
        from symcache.stores.check import examine  # noqa: PLC0415 - few files lie packed

        return examine(scratch, form, request, origin, new_scratch, self._settings)

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
        try:
            if stored is None or stored.form is not Form.PLAIN or is_right(stored, key, checksums):
                return stored
        except StoreError as error:  # a bucket that answered a moment ago
            self._unreadable.add(store, error)
            return None
        if locked_hashes(checksums) and not stored.is_member:
            _refuse_other_bytes(stored, key, checksums)
        return None


class _PassedOver:
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


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search brought: a file, the headers of an image, or what each store answered; see `results.sum_up`.

    *unfilled* are stores that lack the file and take uploads; *turn* is to be ended when they have it.
    """

    file: Present | Fetched | None = None
    image: Image | None = None
    answers: tuple[LookUp, ...] = ()
    unfilled: tuple[SymbolStore, ...] = ()
    turn: Turn | None = None


class Chain(DiskChain):
    """The stores of one element of a symbol path, servers among them.

    Files are looked for in the threads of *searching*; verified, flushed and published in those of *publishing*. Of
    processes that share a bucket *turns* lets one at a time ask the servers behind it for a key.
    """

    stores: tuple[SymbolStore, ...]

    def __init__(
        self,
        stores: Sequence[SymbolStore],
        settings: ChainSettings,
        *,
        searching: Batches,
        publishing: Batches,
        turns: Turns | None = None,
    ) -> None:
        super().__init__(stores, settings)
        self._searching = searching
        self._publishing = publishing
        self._turns = turns
        self._upstreams = tuple(store.name for store in self.stores if store.is_server)

    async def fetch(self, key: Key, checksums: Sequence[str] = ()) -> Searched:
        """Search the chain for *key*; of all processes that do so at the same time, one asks the servers."""
        request = FileRequest(key, tuple(checksums))
        search = _Search()
        try:
            searched = await self._searching.run(lambda: self._begin(search, request))
            if search.lock is not None and not search.lock.is_held:
                await search.lock.acquire()
                searched = await self._searching.run(lambda: self._find_plain(search, request))
            searched = await self._ask_stores(search, request) if searched is None else searched
        except StoreError as error:
            return Searched(answers=(LookUp(error=error),))
        else:
            if searched.unfilled:
                searched, search.turn = replace(searched, turn=search.turn), None
            return searched
        finally:
            if search.turn is not None:
                await search.turn.end()
            if search.lock is not None:
                search.lock.release()

    async def read_image(self, key: ImageKey) -> Searched:
        """Read the headers of *key*'s image, from as little of it as each store allows; nothing is published."""
        answers: list[LookUp] = []
        for store in self.stores:
            try:
                answer = await self._read_headers(store, key)
            except StoreError as error:
                answer = LookUp(error=error)
            if answer.image is not None:
                return Searched(image=answer.image)
            answers.append(answer)
        return Searched(answers=tuple(answers))

    async def _read_headers(self, store: SymbolStore, key: ImageKey) -> LookUp:
        if self._unreadable.has(store):
            return not_there(store.name)
        try:
            answer = await store.read_headers(key)
        except StoreError as error:
            self._unreadable.add(store, error)
            return not_there(store.name)
        if answer.instead is None:
            return answer
        target = await self._searching.run(self._writable_store)
        if target is None:
            return self._not_writable()
        looked_up, image = await self._fetch_from(
            store, answer.instead, target, lambda arrival, _: read_image(_plain_of(arrival))
        )
        return looked_up if image is None else replace(looked_up, image=image)

    def _begin(self, search: _Search, request: FileRequest) -> Searched | None:
        """Look for what needs no server, and lock the key unless another process has."""
        search.target = self._target(request.key)
        if search.target is None:
            return self._open_in_place(request)
        search.lock = search.target.lock(request.key)
        return self._find_plain(search, request) if search.lock.try_acquire() else None

    def _find_plain(self, search: _Search, request: FileRequest) -> Searched | None:
        """Look into the store that files are opened from, and those left of it."""
        for store in self.stores:
            stored = self._find_right(store, request.key, request.checksums)
            if stored is not None and stored.is_openable:
                return Searched(Present(stored.path, stored.size_bytes))
            if store.local is search.target:
                search.is_packed = stored is not None
                break
        return None

    async def _ask_stores(self, search: _Search, request: FileRequest) -> Searched:
        target = search.target
        assert target is not None
        answers: dict[int, LookUp] = {}
        is_reached = False
        at = -1
        while (at := at + 1) < len(self.stores):
            store = self.stores[at]
            is_reached = is_reached or store.local is target
            # Stores before *target* take no copies, and were searched; a bundle takes none anywhere.
            is_passed = store.local is not None if not is_reached else store.local is target and not search.is_packed
            if is_passed:
                continue
            if search.turn is None and self._turns is not None and store.name in self._upstreams:
                bucket = next((at for at, store in enumerate(self.stores[:at]) if store.takes_uploads), None)
                search.turn = await self._turns.take(request.key, self._upstreams, exclusive=bucket is not None)
                if search.turn.may_be_there and bucket is not None:
                    at = bucket - 1
                    continue

            def publish(arrival: Arrival, durable: bool, at: int = at, origin: str = store.name) -> Fetched:
                return self._publish(at, request, target, arrival, origin, durable=durable)

            goes_nowhere_else = all(each.local in {None, target} for each in self.stores[:at])
            try:
                looked_up, fetched = await self._fetch_from(store, request, target, publish, is_short=goes_nowhere_else)
            except StoreError as error:
                answers[at] = LookUp(error=error)
                break
            answers[at] = looked_up
            if fetched is not None:
                for each in self.stores:
                    each.forget_absent(request.key)
                unfilled = tuple(each for each in self.stores[:at] if each.takes_uploads)
                file = replace(fetched, attempts=attempts_of(tuple(answers.values())))
                return Searched(file, unfilled=unfilled)
        return Searched(answers=tuple(answers.values()))

    async def _fetch_from(
        self,
        store: SymbolStore,
        request: FileRequest,
        target: Store,
        finish: Callable[[Arrival, bool], T],
        *,
        is_short: bool = False,
    ) -> tuple[LookUp, T | None]:
        """Fetch from *store*, and let *finish* have what arrived if it is right; return the answer and what came of it.

        *finish* is told whether it has to flush what it publishes. With *is_short* it only renames what came plain. A
        `StoreError` says that *target* cannot be written.
        """
        if self._unreadable.has(store):
            return not_there(store.name), None
        scratch = target.scratch()
        try:
            if store.is_on_disk and await self._searching.run(lambda: self._find(store, request.key)) is None:
                return not_there(store.name), None
            looked_up = await store.fetch(request, scratch)
            if looked_up.form is None:
                return looked_up, None
            form = looked_up.form
            durable = self._settings.durable
            if is_short and form is Form.PLAIN and self._searching.inline and not locked_hashes(request.checksums):
                size_bytes = await self._searching.run(lambda: size_if_right(str(scratch), request.key))
                if size_bytes is not None:
                    arrived = Arrival(scratch, size_bytes=size_bytes)
                    if durable:
                        await self._publishing.run(lambda: _flush(scratch))
                    return looked_up, await self._searching.run(lambda: finish(arrived, False))

            def settle() -> tuple[str | None, T | None]:
                arrival = self._examine(scratch, form, request, store.name, target.scratch)
                if arrival.message is not None:
                    return arrival.message, None
                try:
                    return None, finish(arrival, durable)
                finally:
                    if arrival.cabinet is not None:
                        drop(arrival.plain)

            try:
                message, finished = await self._publishing.run(settle)
            except (WrongContent, UpstreamRefused) as error:
                return looked_up.turned_out(error.problem, error), None
            if message is not None:
                store.remember_absent(request, message)
                looked_up = looked_up.turned_out(message)
            return looked_up, finished
        finally:
            drop(scratch)

    def _publish(
        self, at: int, request: FileRequest, target: Store, arrival: Arrival, origin: str, *, durable: bool
    ) -> Fetched:
        """Publish into every store before store number *at*, right to left.

        What came compressed stays compressed in the stores between; the one that files are opened from gets it plain.
        A lock file replaces nothing that may be the key's file.
        """
        key, is_locked = request.key, bool(locked_hashes(request.checksums))
        source, form = (arrival.plain, Form.PLAIN) if arrival.cabinet is None else (arrival.cabinet, Form.COMPRESSED)
        for each in reversed(self.stores[:at]):
            store = each.local
            if store is None or store is target or self._unwritable.has(store):
                continue
            if is_locked and self._find_right(each, key, ()) is not None:
                continue
            try:
                scratch = store.scratch()
                try:
                    copy_file(source, scratch)
                    store.publish(scratch, key, form=form, durable=durable)
                finally:
                    drop(scratch)
            except StoreError as error:
                self._unwritable.add(store, error)
        path = target.publish(arrival.plain, key, durable=durable)
        return Fetched(path, arrival.size_bytes, origin, note=arrival.note)

    def _open_in_place(self, request: FileRequest) -> Searched:
        """Search a chain in which nothing is copied: files are opened where they lie."""
        answers: list[LookUp] = []
        for store in self.stores:
            stored = self._find_right(store, request.key, request.checksums)
            if stored is not None and stored.is_openable:
                return Searched(Present(stored.path, stored.size_bytes))
            answers.append(not_there(store.name) if stored is None and store.is_on_disk else self._not_writable())
        return Searched(answers=tuple(answers))

    def _not_writable(self) -> LookUp:
        folder = next((store.name for store in self.stores if store.is_on_disk), "")
        problem = "no writable store in this symbol path; nothing was downloaded"
        return LookUp(error=StoreError(problem, path=Path(folder)))

    def _target(self, key: Key) -> Store | None:
        """Return the store to copy into; None where nothing is to be copied, as a share that stands alone."""
        if len(self.stores) == 1:
            stored = self._find(self.stores[0], key)
            if stored is None or stored.form is Form.PLAIN:
                return None
        return self._writable_store()

    def _writable_store(self) -> Store | None:
        """Return the store that files are opened from: the first that can be written."""
        for each in self.stores:
            store = each.local
            if store is not None and not self._unwritable.has(store):
                try:
                    store.scratch()
                except StoreError as error:
                    self._unwritable.add(store, error)
                    continue
                return store
        return None


@dataclass(slots=True)
class _Search:
    """One search of the chain for a key."""

    target: Store | None = None  # where the file is to be opened from; None where nothing is copied
    lock: KeyLock | None = None  # keeps other processes from asking for the key; held or not
    is_packed: bool = False  # *target* has a cabinet or a pointer file
    turn: Turn | None = None  # keeps other machines from asking servers for it; None before a server is asked


def _plain_of(arrival: Arrival) -> Stored:
    return Stored(arrival.plain, Form.PLAIN, arrival.size_bytes)


def _refuse_other_bytes(stored: Stored, key: Key, checksums: Sequence[str]) -> None:
    """Raise `OtherBytes` if *stored*, a plain file, is *key*'s and not the one that a lock file states."""
    with suppress(OSError):
        verdict = stored.check(key, checksums)
        if verdict.problem is not None and verdict.error is OtherBytes:
            raise OtherBytes(verdict.problem, url=str(stored.path))


def _hash(plain: Stored) -> tuple[int, str]:
    from symcache.stores.check import hash_view  # noqa: PLC0415 - for lock files alone

    with plain.open() as view:
        return hash_view(view)


def _flush(scratch: Path) -> None:
    with store_errors(scratch):
        flush(scratch)
