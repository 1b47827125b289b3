"""One chain of stores: searched from the bottom-most up; a file that is found is copied down and opened there.

What each rule is drawn from: windows-driver-docs, advanced-symsrv-use; win32, using-symsrv.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from symcache.errors import StoreError, UpstreamRefused, WrongContent
from symcache.stores.arrival import Arrival
from symcache.stores.base import FileRequest, Form, LookUp, copy_file, read_image_file, size_if_right
from symcache.stores.disk import ChainSettings, DiskChain
from symcache.stores.local.atomic import as_store_error, flush
from symcache.stores.results import Attempt, Fetched, Present, attempts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from symcache.formats.pe.image import Image
    from symcache.identity import ImageKey, Key
    from symcache.stores.base import SymbolStore
    from symcache.stores.local.locks import KeyLock
    from symcache.stores.local.tree import Store
    from symcache.stores.threads import Batches

__all__ = ["Chain", "Searched"]

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Searched:
    """What a search of a chain brought.

    Attributes:
        file: The file, present or fetched; None if no store had it.
        image: The headers of an image, if they were searched for and found.
        answers: What each store answered, where nothing was found; see `symcache.stores.results.sum_up`.
    """

    file: Present | Fetched | None = None
    image: Image | None = None
    answers: tuple[LookUp, ...] = ()


class Chain(DiskChain):
    """The stores of one element of a symbol path, servers among them.

    Args:
        stores: Bottom-most store first.
        settings: What all chains share.
        searching: Threads in which files are looked for.
        publishing: Threads in which files are verified, flushed and published.
    """

    stores: tuple[SymbolStore, ...]

    def __init__(
        self, stores: Sequence[SymbolStore], settings: ChainSettings, *, searching: Batches, publishing: Batches
    ) -> None:
        super().__init__(stores, settings)
        self._searching = searching
        self._publishing = publishing

    async def fetch(self, key: Key, checksums: Sequence[str] = ()) -> Searched:
        """Search the chain for *key*; of all processes that do so at the same time, one asks the servers.

        Args:
            key: What is wanted.
            checksums: ``ALGORITHM:hex`` of a portable PDB, as its image states them.
        """
        request = FileRequest(key, tuple(checksums))
        search = _Search()
        try:
            searched = await self._searching.run(lambda: self._begin(search, request))
            if search.lock is not None and not search.lock.is_held:
                await search.lock.acquire()
                searched = await self._searching.run(lambda: self._find_plain(search, request))
            return await self._ask_stores(search, request) if searched is None else searched
        except StoreError as error:
            return Searched(answers=(LookUp(error=error),))
        finally:
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
            return _absent(store)
        try:
            answer = await store.read_headers(key)
        except StoreError as error:
            self._unreadable.add(store, error)
            return _absent(store)
        if answer.instead is None:
            return answer
        target = await self._searching.run(self._writable_store)
        if target is None:
            return self._not_writable()
        looked_up, image = await self._fetch_from(
            store, answer.instead, target, lambda arrival, _: read_image_file(arrival.plain)
        )
        return looked_up if image is None else replace(looked_up, image=image)

    def _begin(self, search: _Search, request: FileRequest) -> Searched | None:
        """Look for what needs no server, and lock the key unless another process has."""
        target = self._target(request.key)
        if target is None:
            return self._open_in_place(request)
        search.target = target
        search.lock = target.lock(request.key)
        return self._find_plain(search, request) if search.lock.try_acquire() else None

    def _find_plain(self, search: _Search, request: FileRequest) -> Searched | None:
        """Look into the store that files are opened from, and those left of it."""
        for store in self.stores:
            stored = self._find_right(store, request.key, request.checksums)
            if stored is not None and stored.form is Form.PLAIN:
                return Searched(Present(stored.path, stored.size_bytes))
            if store.local is search.target:
                search.is_packed = stored is not None
                break
        return None

    async def _ask_stores(self, search: _Search, request: FileRequest) -> Searched:
        target = search.target
        assert target is not None
        answers: list[LookUp] = []
        is_reached = False
        for at, store in enumerate(self.stores):
            is_reached = is_reached or store.local is target
            if not is_reached or (store.local is target and not search.is_packed):
                continue

            def publish(arrival: Arrival, durable: bool, at: int = at, origin: str = store.name) -> Fetched:
                return self._publish(at, request.key, target, arrival, origin, durable=durable)

            goes_nowhere_else = all(each.local in {None, target} for each in self.stores[:at])
            try:
                looked_up, fetched = await self._fetch_from(store, request, target, publish, is_short=goes_nowhere_else)
            except StoreError as error:
                answers.append(LookUp(error=error))
                break
            answers.append(looked_up)
            if fetched is not None:
                for each in self.stores:
                    each.forget_absent(request.key)
                return Searched(replace(fetched, attempts=attempts_of(answers)))
        return Searched(answers=tuple(answers))

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

        *finish* is told whether it has to flush what it publishes. With *is_short* it only renames what came plain.

        Raises:
            StoreError: *target* cannot be written.
        """
        if self._unreadable.has(store):
            return _absent(store), None
        scratch = target.scratch()
        try:
            if store.is_on_disk and await self._searching.run(lambda: self._find(store, request.key)) is None:
                return _absent(store), None
            looked_up = await store.fetch(request, scratch)
            if looked_up.form is None:
                return looked_up, None
            form = looked_up.form
            durable = self._settings.durable
            if is_short and form is Form.PLAIN and self._searching.inline:
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
                        arrival.plain.unlink(missing_ok=True)

            try:
                message, finished = await self._publishing.run(settle)
            except (WrongContent, UpstreamRefused) as error:
                return looked_up.turned_out(error.problem, error), None
            if message is not None:
                store.remember_absent(request, message)
                looked_up = looked_up.turned_out(message)
            return looked_up, finished
        finally:
            scratch.unlink(missing_ok=True)

    def _publish(self, at: int, key: Key, target: Store, arrival: Arrival, origin: str, *, durable: bool) -> Fetched:
        """Publish into every store before store number *at*, right to left.

        What came compressed stays compressed in the stores between; the one that files are opened from gets it plain.
        """
        source, form = (arrival.plain, Form.PLAIN) if arrival.cabinet is None else (arrival.cabinet, Form.COMPRESSED)
        for each in reversed(self.stores[:at]):
            store = each.local
            if store is None or store is target or self._unwritable.has(store):
                continue
            try:
                _copy_in(store, source, key, form, durable=durable)
            except StoreError as error:
                self._unwritable.add(store, error)
        path = target.publish(arrival.plain, key, durable=durable)
        return Fetched(path, arrival.size_bytes, origin, note=arrival.note)

    def _open_in_place(self, request: FileRequest) -> Searched:
        """Search a chain in which nothing is copied: files are opened where they lie."""
        answers: list[LookUp] = []
        for store in self.stores:
            stored = self._find_right(store, request.key, request.checksums)
            if stored is not None and stored.form is Form.PLAIN:
                return Searched(Present(stored.path, stored.size_bytes))
            answers.append(_absent(store) if stored is None and store.is_on_disk else self._not_writable())
        return Searched(answers=tuple(answers))

    def _not_writable(self) -> LookUp:
        folder = next((store.name for store in self.stores if store.is_on_disk), "")
        return LookUp(
            error=StoreError("no writable store in this symbol path; nothing was downloaded", path=Path(folder))
        )

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
    """One search of the chain for a key.

    Attributes:
        target: Where the file is to be opened from; None where nothing is copied.
        lock: Keeps other processes from asking for the key; held or not.
        is_packed: *target* has a cabinet or a pointer file.
    """

    target: Store | None = None
    lock: KeyLock | None = None
    is_packed: bool = False


def _absent(store: SymbolStore) -> LookUp:
    return LookUp((Attempt(store.name, "not there"),))


def _flush(scratch: Path) -> None:
    try:
        flush(scratch)
    except OSError as error:
        raise as_store_error(error, scratch) from error


def _copy_in(store: Store, source: Path, key: Key, form: Form, *, durable: bool) -> None:
    scratch = store.scratch()
    try:
        copy_file(source, scratch)
        store.publish(scratch, key, form=form, durable=durable)
    finally:
        scratch.unlink(missing_ok=True)
