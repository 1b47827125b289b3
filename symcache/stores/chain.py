"""One chain of stores: walked from the bottom-most up; what is found is copied down again and opened there.

What each rule is drawn from: windows-driver-docs, advanced-symsrv-use; win32, using-symsrv.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from anyio import to_thread

from symcache.errors import StoreError, UpstreamRefused, WrongContent
from symcache.formats.pe.image import Image
from symcache.stores.arrival import NotHereError
from symcache.stores.disk import ChainSettings, DiskChain, is_passed_over, read_image_file
from symcache.stores.http.download import NotHere
from symcache.stores.http.store import HttpStore
from symcache.stores.local.tree import Form, Store, as_store_error
from symcache.stores.results import Attempt, Brought, Fetched, Present, attempts_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import TypeAlias

    from symcache.identity import ImageKey, Key
    from symcache.stores.arrival import Arrival
    from symcache.stores.folder import PlainFolder
    from symcache.stores.local.locks import KeyLock

    Place: TypeAlias = Store | PlainFolder | HttpStore

__all__ = ["Chain", "ChainSettings", "read_image_file"]


T = TypeVar("T")


class Chain(DiskChain):
    """The places of one element of a symbol path, walked.

    Args:
        places: Bottom-most store first; a plain folder or what is behind HTTP last.
        settings: What all chains share.
    """

    places: tuple[Place, ...]

    async def fetch(self, key: Key, checksums: Sequence[str] = ()) -> Present | Fetched | tuple[Brought, ...]:
        """Walk the chain for *key*, alone among all processes that walk it for this key just now.

        Args:
            key: What is wanted.
            checksums: ``ALGORITHM:hex`` of a portable PDB, as its image states them.

        Returns:
            The file, or what each place answered; see `symcache.stores.results.sum_up`.
        """
        turn = _Turn()
        try:
            found = await to_thread.run_sync(self._begin, turn, key, checksums)
            if turn.lock is not None and not turn.lock.is_held:
                await turn.lock.acquire()
                found = await to_thread.run_sync(self._look_again, turn, key, checksums)
            return await self._walk(turn, key, checksums) if found is None else found
        except StoreError as error:
            return (Brought(error=error),)
        finally:
            if turn.lock is not None:
                turn.lock.release()

    async def read_image(self, key: ImageKey) -> Image | tuple[Brought, ...]:
        """Return the headers of *key*'s image, from as little of it as each place allows; nothing is published."""
        answers: list[Brought] = []
        for place in self.places:
            try:
                found = await self._read_headers(place, key)
            except StoreError as error:
                found = Brought(error=error)
            if isinstance(found, Image):
                return found
            answers.append(found)
        return tuple(answers)

    async def _read_headers(self, place: Place, key: ImageKey) -> Image | Brought:
        no_plain: NotHere | None = None
        if isinstance(place, HttpStore):
            headers = await place.read_headers(key)
            if isinstance(headers, NotHere):
                no_plain = headers
            elif headers is not None:
                return headers
        else:
            stored = await to_thread.run_sync(self._look_for_right, place, key, ())
            if stored is None:
                return _lacks(place)
            if stored.form is Form.PLAIN:
                return await to_thread.run_sync(read_image_file, stored.path)
        target = await to_thread.run_sync(self._writable_store)
        if target is None:
            return self._cannot_bring()
        brought, image = await self._try(
            place, key, (), target, lambda arrival, _: read_image_file(arrival.plain), no_plain, in_passing=True
        )
        return brought if image is None else image

    def _begin(self, turn: _Turn, key: Key, checksums: Sequence[str]) -> Present | tuple[Brought, ...] | None:
        """Look for what needs no walk, and take the turn for one unless somebody else has it."""
        target = self._target(key)
        if target is None:
            return self._open_in_place(key, checksums)
        turn.target = target
        turn.lock = target.lock(key)
        return self._look_again(turn, key, checksums) if turn.lock.try_acquire() else None

    def _look_again(self, turn: _Turn, key: Key, checksums: Sequence[str]) -> Present | None:
        """Look into the stores that come before all copying: where files are opened from, and those left of it."""
        for place in self.places:
            stored = self._look_for_right(place, key, checksums)
            if stored is not None and stored.form is Form.PLAIN:
                return Present(stored.path, stored.size_bytes)
            if place is turn.target:
                turn.is_packed = stored is not None
                break
        return None

    async def _walk(self, turn: _Turn, key: Key, checksums: Sequence[str]) -> Fetched | tuple[Brought, ...]:
        target = turn.target
        assert target is not None
        answers: list[Brought] = []
        for at, place in list(enumerate(self.places))[self.places.index(target) :]:
            if place is target and not turn.is_packed:
                continue
            finish = partial(self._publish, at, key, target)
            try:
                brought, fetched = await self._try(place, key, checksums, target, finish)
            except StoreError as error:
                return (*answers, Brought(error=error))
            answers.append(brought)
            if fetched is not None:
                self._forget_misses(key)
                return replace(fetched, attempts=attempts_of(answers))
        return tuple(answers)

    async def _try(
        self,
        place: Place,
        key: Key,
        checksums: Sequence[str],
        target: Store,
        finish: Callable[[Arrival, str], T],
        no_plain: NotHere | None = None,
        *,
        in_passing: bool = False,
    ) -> tuple[Brought, T | None]:
        """Ask *place*, and let *finish* have what arrived if it is right; return the answer and what came of it.

        *no_plain* is its answer to who asked for the plain file a moment ago. With *in_passing* nobody wants the file
        itself.
        """
        scratch = target.scratch()
        try:
            if isinstance(place, HttpStore):
                brought = await place.bring(key, scratch, checksums=checksums, no_plain=no_plain, in_passing=in_passing)
            else:
                brought = await to_thread.run_sync(self._copy_from, place, key, scratch)
            if brought.form is None:
                return brought, None

            def settle(form: Form) -> T:
                arrival = self._examine(scratch, form, key, checksums, place.name, target.scratch)
                try:
                    return finish(arrival, place.name)
                finally:
                    arrival.plain.unlink(missing_ok=True)

            try:
                return brought, await to_thread.run_sync(settle, brought.form)
            except NotHereError as error:
                if isinstance(place, HttpStore):
                    place.remember_miss(key, str(error), in_passing=in_passing)
                return brought.but(str(error)), None
            except (WrongContent, UpstreamRefused) as error:
                return brought.but(error.problem, error), None
        finally:
            scratch.unlink(missing_ok=True)

    def _publish(self, at: int, key: Key, target: Store, arrival: Arrival, origin: str) -> Fetched:
        """Publish into every store before place number *at*, right to left.

        What came compressed stays compressed in the stores between; the one that files are opened from gets it plain.
        """
        source, form = (arrival.plain, Form.PLAIN) if arrival.cabinet is None else (arrival.cabinet, Form.COMPRESSED)
        for store in reversed(self.places[:at]):
            if not isinstance(store, Store) or store is target or is_passed_over(store, self._unwritable):
                continue
            try:
                _copy_in(store, source, key, form, durable=self._settings.durable)
            except StoreError as error:
                self._pass_over(store, self._unwritable, error)
        size_bytes = arrival.plain.stat().st_size
        path = target.publish(arrival.plain, key, durable=self._settings.durable)
        return Fetched(path, size_bytes, origin, note=arrival.note)

    def _copy_from(self, place: Store | PlainFolder, key: Key, scratch: Path) -> Brought:
        stored = self._look(place, key)
        if stored is None:
            return _lacks(place)
        try:
            with stored.path.open("rb"):
                pass
        except OSError as error:
            said = as_store_error(error, stored.path)
            return Brought(attempts=(Attempt(place.name, f"cannot be read: {said.problem}"),), error=said)
        _copy(stored.path, scratch)
        return Brought(stored.form, (Attempt(place.name, "found"),))

    def _open_in_place(self, key: Key, checksums: Sequence[str]) -> Present | tuple[Brought, ...]:
        """Walk a chain in which nothing is copied: files are opened where they lie."""
        answers: list[Brought] = []
        for place in self.places:
            stored = self._look_for_right(place, key, checksums)
            if stored is not None and stored.form is Form.PLAIN:
                return Present(stored.path, stored.size_bytes)
            answers.append(
                _lacks(place) if stored is None and not isinstance(place, HttpStore) else self._cannot_bring()
            )
        return tuple(answers)

    def _cannot_bring(self) -> Brought:
        root = next((place.root for place in self.places if not isinstance(place, HttpStore)), Path())
        return Brought(error=StoreError("no store of this chain can be written, so nothing is brought", path=root))

    def _target(self, key: Key) -> Store | None:
        """Return the store to copy into; None where nothing is to be copied, as a share that stands alone."""
        if len(self.places) == 1:
            place = self.places[0]
            stored = None if isinstance(place, HttpStore) else self._look(place, key)
            if stored is None or stored.form is Form.PLAIN:
                return None
        return self._writable_store()

    def _writable_store(self) -> Store | None:
        """Return the store that files are opened from: the first that can be written."""
        for store in self.places:
            if isinstance(store, Store) and not is_passed_over(store, self._unwritable):
                try:
                    store.scratch()
                except StoreError as error:
                    self._pass_over(store, self._unwritable, error)
                    continue
                return store
        return None

    def _forget_misses(self, key: Key) -> None:
        for place in self.places:
            if isinstance(place, HttpStore):
                place.forget_miss(key)


@dataclass(slots=True)
class _Turn:
    """One walk's claim to a key.

    Attributes:
        target: Where the file is to be opened from; None where nothing is copied.
        lock: Keeps other processes from walking for the key; held or not.
        is_packed: *target* has a cabinet or a pointer file.
    """

    target: Store | None = None
    lock: KeyLock | None = None
    is_packed: bool = False


def _lacks(place: Store | PlainFolder) -> Brought:
    return Brought(attempts=(Attempt(place.name, "not there"),))


def _copy_in(store: Store, source: Path, key: Key, form: Form, *, durable: bool) -> None:
    scratch = store.scratch()
    try:
        _copy(source, scratch)
        store.publish(scratch, key, form=form, durable=durable)
    finally:
        scratch.unlink(missing_ok=True)


def _copy(source: Path, scratch: Path) -> None:
    try:
        shutil.copyfile(source, scratch)
    except OSError as error:
        raise as_store_error(error, scratch) from error
