"""One chain of stores: walked from the bottom-most up; what is found is copied down again and opened there.

What each rule is drawn from: windows-driver-docs, advanced-symsrv-use; win32, using-symsrv.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from anyio import to_thread

from symcache.errors import StoreError, UpstreamError, UpstreamRefused, UpstreamUnavailable, WrongContent
from symcache.events import Noted
from symcache.formats.pe import Image, Layout, parse_image
from symcache.formats.view import FileView
from symcache.store.check import check_file
from symcache.store.tree import Form, Store, as_store_error
from symcache.upstream.arrival import NotHereError, examine
from symcache.upstream.httpstore import Brought, HttpStore
from symcache.upstream.outcome import Attempt, Cause, Failed, Fetched, Missing, Outcome, Present

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import TypeAlias

    from symcache.events import Observer
    from symcache.identity import ImageKey, Key
    from symcache.store.tree import Stored
    from symcache.upstream.arrival import Arrival
    from symcache.upstream.folder import PlainFolder

    Place: TypeAlias = Store | PlainFolder | HttpStore

__all__ = ["Chain", "ChainSettings", "read_image_file", "sum_up"]

T = TypeVar("T")


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


class Chain:
    """The places of one element of a symbol path.

    Args:
        places: Bottom-most store first; a plain folder or what is behind HTTP last.
        settings: What all chains share.
    """

    def __init__(self, places: Sequence[Place], settings: ChainSettings) -> None:
        self.places = tuple(places)
        self._settings = settings
        self._unreadable: set[Path] = set()
        self._unwritable: set[Path] = set()

    def find(self, key: Key, checksums: Sequence[str] = ()) -> Stored | None:
        """Return the plain file that the chain's first place holds for *key*; no network.

        A file that is not what *key* names, damaged or misfiled, counts as absent: the next fetch replaces it.
        """
        return self._right_file(self.places[0], key, checksums)

    async def fetch(self, key: Key, checksums: Sequence[str] = ()) -> Outcome:
        """Walk the chain for *key*, alone among all processes that walk it for this key just now.

        Args:
            key: What is wanted.
            checksums: ``ALGORITHM:hex`` of a portable PDB, as its image states them.
        """
        target = await to_thread.run_sync(self._writable_store)
        try:
            if target is None:
                return await to_thread.run_sync(self._open_in_place, key, checksums)
            async with target.lock(key):
                stored = await to_thread.run_sync(self.find, key, checksums)
                if stored is not None:
                    return Present(stored.path, stored.size_bytes)
                return await self._walk(key, checksums, target)
        except StoreError as error:
            return Failed(Cause.DISK, detail=str(error))

    async def read_image(self, key: ImageKey) -> Image | Missing | Failed:
        """Return the headers of *key*'s image, from as little of it as each place allows; nothing is published."""
        target = await to_thread.run_sync(self._writable_store)
        answers: list[Brought] = []
        try:
            for place in self.places:
                stored = await to_thread.run_sync(self._right_file, place, key, ())
                if stored is not None:
                    return await to_thread.run_sync(read_image_file, stored.path)
                headers = await place.read_headers(key) if isinstance(place, HttpStore) else None
                if isinstance(headers, Image):
                    return headers
                if headers is not None:
                    answers.append(headers)
                elif target is not None:
                    brought, image = await self._try(place, key, (), target, _read_headers)
                    answers.append(brought)
                    if image is not None:
                        return image
        except StoreError as error:
            return Failed(Cause.DISK, detail=str(error))
        return sum_up(answers)

    async def _walk(self, key: Key, checksums: Sequence[str], target: Store) -> Outcome:
        answers: list[Brought] = []
        for at, place in enumerate(self.places):
            if target not in self.places[:at]:
                stored = await to_thread.run_sync(self._right_file, place, key, checksums)
                if stored is not None:
                    return Present(stored.path, stored.size_bytes)
                packed = await to_thread.run_sync(self._look, target, key) if place is target else None
                if packed is None or packed.form is Form.PLAIN:
                    continue
            brought, fetched = await self._try(place, key, checksums, target, partial(self._publish, at, key, target))
            answers.append(brought)
            if fetched is not None:
                self._forget_misses(key)
                return replace(fetched, attempts=_attempts(answers))
        return sum_up(answers)

    async def _try(
        self,
        place: Place,
        key: Key,
        checksums: Sequence[str],
        target: Store,
        finish: Callable[[Arrival, str], T],
    ) -> tuple[Brought, T | None]:
        """Ask *place*, and let *finish* have what arrived if it is right; return the answer and what came of it."""
        scratch = target.scratch()
        try:
            if isinstance(place, HttpStore):
                brought = await place.bring(key, scratch, checksums=checksums)
            else:
                brought = await to_thread.run_sync(self._copy_from, place, key, scratch)
            if brought.form is None:
                return brought, None

            def settle(form: Form) -> T:
                arrival = examine(
                    scratch,
                    form,
                    key,
                    checksums=checksums,
                    origin=place.name,
                    new_scratch=target.scratch,
                    follow=self._settings.follow,
                    largest_bytes=self._settings.largest_bytes,
                )
                try:
                    return finish(arrival, place.name)
                finally:
                    arrival.plain.unlink(missing_ok=True)

            try:
                return brought, await to_thread.run_sync(settle, brought.form)
            except NotHereError as error:
                if isinstance(place, HttpStore):
                    place.remember_miss(key, str(error))
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
            if not isinstance(store, Store) or store is target or store.root in self._unwritable:
                continue
            try:
                scratch = store.scratch()
                _copy(source, scratch)
                store.publish(scratch, key, form=form, durable=self._settings.durable)
            except StoreError as error:
                self._pass_over(store, self._unwritable, error)
        size_bytes = arrival.plain.stat().st_size
        path = target.publish(arrival.plain, key, durable=self._settings.durable)
        return Fetched(path, size_bytes, origin, note=arrival.note)

    def _copy_from(self, place: Store | PlainFolder, key: Key, scratch: Path) -> Brought:
        stored = self._look(place, key)
        if stored is None:
            return Brought(attempts=(Attempt(place.name, "not there"),))
        _copy(stored.path, scratch)
        return Brought(stored.form, (Attempt(place.name, "found"),))

    def _open_in_place(self, key: Key, checksums: Sequence[str]) -> Outcome:
        """Walk a chain in which nothing can be written: files are opened where they lie."""
        for place in self.places:
            stored = self._right_file(place, key, checksums)
            if stored is not None:
                return Present(stored.path, stored.size_bytes)
        return sum_up([Brought(attempts=(Attempt(place.name, "not there"),)) for place in self.places])

    def _right_file(self, place: Place, key: Key, checksums: Sequence[str]) -> Stored | None:
        """Return the plain file that *place* holds for *key*, if it is the right one and can be opened there."""
        stored = None if isinstance(place, HttpStore) else self._look(place, key)
        if stored is None or stored.form is not Form.PLAIN:
            return None
        try:
            return stored if check_file(stored.path, key, checksums=checksums).is_right else None
        except OSError:
            return None

    def _look(self, place: Store | PlainFolder, key: Key) -> Stored | None:
        if place.root in self._unreadable:
            return None
        try:
            return place.find(key)
        except StoreError as error:
            self._pass_over(place, self._unreadable, error)
            return None

    def _writable_store(self) -> Store | None:
        """Return the store that files are opened from: the first that can be written."""
        for store in self.places:
            if isinstance(store, Store) and store.root not in self._unwritable:
                try:
                    store.scratch()
                except StoreError as error:
                    self._pass_over(store, self._unwritable, error)
                    continue
                return store
        return None

    def _pass_over(self, place: Store | PlainFolder, why: set[Path], error: StoreError) -> None:
        if place.root not in why:
            why.add(place.root)
            verb = "read" if why is self._unreadable else "written"
            self._settings.observer(Noted(f"{error}; {place.root} is not {verb} any more"))

    def _forget_misses(self, key: Key) -> None:
        for place in self.places:
            if isinstance(place, HttpStore):
                place.forget_miss(key)


def sum_up(answers: Sequence[Brought]) -> Missing | Failed:
    """Return what it means that no place delivered.

    One place that said neither yes nor no leaves the question open: then the key failed, as another try may help.
    """
    attempts = _attempts(answers)
    for kind, cause in _CAUSES.items():
        for answer in answers:
            if isinstance(answer.error, kind):
                return Failed(cause, attempts, str(answer.error))
    only_memory = any(answer.remembered for answer in answers) and not any(answer.asked for answer in answers)
    return Missing(Cause.REMEMBERED_MISS if only_memory else Cause.NOT_PUBLISHED, attempts)


_CAUSES: dict[type[UpstreamError], Cause] = {
    UpstreamUnavailable: Cause.UNAVAILABLE,
    WrongContent: Cause.WRONG_CONTENT,
    UpstreamRefused: Cause.REFUSED,
}


def _attempts(answers: Sequence[Brought]) -> tuple[Attempt, ...]:
    return tuple(attempt for answer in answers for attempt in answer.attempts)


def _read_headers(arrival: Arrival, _origin: str) -> Image:
    return read_image_file(arrival.plain)


def read_image_file(path: Path) -> Image:
    """Return the headers and debug data of an image on disk that was found right.

    Raises:
        InputError: It is not right.
    """
    with FileView(path) as view:
        return parse_image(view, Layout.DISK)


def _copy(source: Path, scratch: Path) -> None:
    try:
        shutil.copyfile(source, scratch)
    except OSError as error:
        raise as_store_error(error, scratch) from error
