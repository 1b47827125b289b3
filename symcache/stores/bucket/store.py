"""A bucket as a store of a symbol path: which names of objects are asked for, and how a file comes and goes."""

from __future__ import annotations

import hashlib
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

import anyio

from symcache.errors import InputError, UpstreamError, UpstreamUnavailable, WrongContent
from symcache.events import TransferAdvanced, TransferEnded, TransferStarted
from symcache.identity import compressed_name, parse_runtime_library, relative_parts
from symcache.stores.base import FileRequest, Form, LookUp, Probed
from symcache.stores.concurrency import call_detached, take_in_order
from symcache.stores.http.retry import CircuitBreaker
from symcache.stores.local.atomic import as_store_error
from symcache.stores.results import Attempt

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.formats.view import ByteView
    from symcache.identity import ImageKey, Key
    from symcache.stores.bucket.objects import Bucket, ObjectInfo


T = TypeVar("T")

_CALLS_AT_ONCE = 32
# Most symbol files are shorter, so that they take one request.
_FIRST_PIECE_BYTES = 1 << 20
_PIECE_BYTES = 4 << 20
_AHEAD_AT_ONCE = 16  # pieces beside the one that each file has on the way, as they take memory
# A bucket is near: two answers that do not come say that it is away.
_FAILURES = 2
_COOL_DOWN_S = 2.0
_MOST_DAMAGED = 10_000
_MOST_RIGHT = 10_000


def object_name(bucket: Bucket, key: Key, form: Form = Form.PLAIN) -> str:
    """Return the name under which *bucket* has *key*'s file in *form*; it is the path of a single-tier store."""
    file = compressed_name(key.name) if form is Form.COMPRESSED else key.name
    name = "/".join((*relative_parts(key), file))
    return name.lower() if bucket.entry is not None and bucket.entry.letter_case == "lower" else name


class BucketStore:
    """A bucket of a symbol path; implements `SymbolStore`.

    Calls are made in threads that nothing waits for once their caller has gone; *observer* is told of transfers.
    """

    local = None
    is_on_disk = False
    is_server = False

    def __init__(self, bucket: Bucket, observer: Observer) -> None:
        self.bucket = bucket
        self.name = bucket.name
        self.takes_uploads = bucket.entry is None or not bucket.entry.read_only
        self._observer = observer
        self._calls = anyio.CapacityLimiter(_CALLS_AT_ONCE)
        self._breaker = CircuitBreaker(failures=_FAILURES, cool_down_s=_COOL_DOWN_S, longest_pause_s=0.0, hiccup_s=0.0)
        self._origin = ("bucket", bucket.name, 0)
        self._ahead_left = _AHEAD_AT_ONCE
        self._right: dict[str, ObjectInfo] = {}  # objects that were looked at, and are what they are called, by name
        self._damaged: dict[str, ObjectInfo] = {}  # objects whose bytes are not those that were put there, by name

    def find(self, key: Key) -> None:
        """Return None: nothing of the bucket is on disk."""

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:  # noqa: ARG002 - of the protocol
        """Yield nothing: nothing of the bucket is on disk."""
        return iter(())

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        """Fetch the plain file, else the cabinet, to *scratch*; see `SymbolStore`."""
        attempts: list[Attempt] = []
        for form in (Form.PLAIN, Form.COMPRESSED):
            if form is Form.PLAIN and request.plain_answer is not None:
                attempts.append(Attempt(self.name, request.plain_answer))
                continue
            name = object_name(self.bucket, request.key, form)
            asked = None if form is Form.PLAIN else compressed_name(request.key.name)
            try:
                if await self._download(name, request.key.index, scratch):
                    return LookUp((*attempts, Attempt(self.name, "found", asked)), form, is_asked=True)
            except UpstreamError as error:
                return LookUp((*attempts, Attempt(self.name, error.problem, asked)), error=error, is_asked=True)
            attempts.append(Attempt(self.name, "not there", asked))
        return LookUp(tuple(attempts), is_asked=True)

    async def _download(self, name: str, index: str, scratch: Path) -> bool:
        """Bring the object *name* to *scratch*; False if there is none.

        Raises:
            StoreError: The disk does not take it.
            WrongContent: Its bytes are not those that were put there, or too many.
        """
        got = await self._ask(lambda: self.bucket.read_chunks(name, 0, _FIRST_PIECE_BYTES))
        if got is None:
            return False
        chunks, info = got
        self.bucket.refuse_excess(info)
        digest = hashlib.sha256()
        at = 0
        try:
            with scratch.open("wb") as file:

                async def take(chunks: Sequence[bytes]) -> None:
                    nonlocal at
                    # On the event loop's thread, as downloads do: it is cheaper than a trip to another one.
                    file.writelines(chunks)
                    file.flush()
                    at += sum(map(len, chunks))
                    self._observer(TransferAdvanced(index, at, info.size_bytes, scratch, at))
                    if at <= _FIRST_PIECE_BYTES:
                        _add_to(digest, chunks)
                    else:  # a processor without instructions for it hashes no faster than a near bucket sends
                        await call_detached(_add_to, digest, chunks)

                # Whoever is told of it may open it at once, to send it on while it arrives.
                self._observer(TransferStarted(index, self.name, info.size_bytes, scratch))
                await take(chunks)
                if at < info.size_bytes:
                    await self._read_on(name, info, take)
        except OSError as error:
            raise as_store_error(error, scratch) from error
        finally:
            self._observer(TransferEnded(index, scratch))
        if info.sha256 not in {None, digest.hexdigest()}:
            if len(self._damaged) < _MOST_DAMAGED:
                self._damaged[name] = info
            raise WrongContent("other bytes than were put there", url=self.name)
        return True

    async def _read_on(self, name: str, info: ObjectInfo, take: Callable[[Sequence[bytes]], Awaitable[None]]) -> None:
        """Let *take* have what follows the first piece of the object *name*, in order, several pieces ahead."""
        is_over = threading.Event()

        def read(start: int) -> Sequence[bytes]:
            stop = min(start + _PIECE_BYTES, info.size_bytes)
            got = self.bucket.read_chunks(name, start, stop, of=info, is_over=is_over.is_set)
            if got is None:
                raise UpstreamUnavailable("the object was removed while it was read", url=self.name)
            return got[0]

        async def bring(start: int) -> Sequence[bytes]:
            async with self._calls:
                return await call_detached(read, start)

        starts = range(_FIRST_PIECE_BYTES, info.size_bytes, _PIECE_BYTES)
        ahead = min(self.bucket.parts - 1, len(starts) - 1, self._ahead_left)
        self._ahead_left -= ahead
        try:
            await self._judged(lambda: take_in_order(starts, bring, take, at_once=1 + ahead))
        finally:
            self._ahead_left += ahead
            is_over.set()

    async def read_headers(self, key: ImageKey) -> LookUp:
        """Return the headers of *key*'s image, read in ranges; from the whole cabinet where there is only that."""
        from symcache.formats.pe.image import Layout, parse_image  # noqa: PLC0415 - for who asks for headers alone

        try:
            image = await self._read_plain(key, lambda view: parse_image(view, Layout.DISK))
            if image is None:
                name = object_name(self.bucket, key, Form.COMPRESSED)
                if await self._ask(lambda: self.bucket.find(name)) is not None:
                    return LookUp(instead=FileRequest(key, plain_answer="not there", in_passing=True))
                return LookUp((Attempt(self.name, "not there"),), is_asked=True)
        except UpstreamError as error:
            return LookUp((Attempt(self.name, error.problem),), error=error, is_asked=True)
        if not _is_own(image, key):
            wrong = WrongContent("another image", url=self.name)
            return LookUp((Attempt(self.name, "found, but another image"),), error=wrong, is_asked=True)
        return LookUp((Attempt(self.name, "found"),), image=image, is_asked=True)

    async def read_version(self, key: ImageKey) -> VersionInfo | None:
        """Return what *key*'s image says of its origin; None if it is not there, or cannot be had."""
        from symcache.formats.pe.image import Layout  # noqa: PLC0415
        from symcache.formats.pe.version import read_version  # noqa: PLC0415

        with suppress(UpstreamError):
            return await self._read_plain(key, lambda view: read_version(view, Layout.DISK))
        return None

    async def read_runtime(self, key: ImageKey) -> RuntimeFacts | None:
        """Return what *key*'s image says of the .NET runtime that it is or holds; None as `read_version`."""
        from symcache.formats.pe.image import Layout  # noqa: PLC0415
        from symcache.formats.pe.managed import read_runtime_facts  # noqa: PLC0415

        with suppress(UpstreamError):
            return await self._read_plain(key, lambda view: read_runtime_facts(view, Layout.DISK))
        return None

    async def _read_plain(self, key: ImageKey, read: Callable[[ByteView], T]) -> T | None:
        """Return what *read* makes of *key*'s plain file; None if there is none; `WrongContent` if it cannot."""
        name = object_name(self.bucket, key)

        def look() -> T | None:
            view = self.bucket.open(name)
            try:
                return None if view is None else read(view)
            except InputError as error:
                raise WrongContent(f"not an image: {error}", url=self.name) from error

        return await self._ask(look)

    async def probe(self, key: Key) -> Probed:
        """Return in which form the bucket has *key*'s file; at most two requests without a body."""
        try:
            for form in (Form.PLAIN, Form.COMPRESSED):
                info = await self.locate(key, form)
                if info is not None:
                    return Probed(form, f"there, {form}, {info.size_bytes} bytes", info.size_bytes)
        except UpstreamError as error:
            return Probed(None, error.problem, is_no_answer=True)
        return Probed(None, "not there")

    async def locate(self, key: Key, form: Form = Form.PLAIN) -> ObjectInfo | None:
        """Return what the bucket knows of *key*'s file in *form*, None if it has none; `UpstreamError` as `Bucket`."""
        name = object_name(self.bucket, key, form)
        return await self._ask(lambda: self.bucket.find(name))

    async def seems_right(self, key: Key) -> bool:
        """Return whether the bucket has *key*'s plain file, by a look at its headers, which each object gets once."""
        name = object_name(self.bucket, key)

        def look() -> bool:
            info = self.bucket.find(name)
            if info is None or name in self._damaged:
                return False
            if self._right.get(name) == info:
                return True
            if self._find_other(name, key, None) is not None:
                return False
            if len(self._right) >= _MOST_RIGHT:
                self._right.clear()
            self._right[name] = info
            return True

        return await self._ask(look)

    async def sign(self, key: Key, *, valid_s: float) -> str:
        """Return a URL of *key*'s plain file, as `Bucket.sign`."""
        name = object_name(self.bucket, key)
        return await self._ask(lambda: self.bucket.sign(name, valid_s=valid_s))

    async def upload(self, key: Key, file: Path, *, replaces: bool = False) -> bool:
        """Put *file*, which was found right for *key*, into the bucket; False if it has the right one already.

        An object that is not what *key* names, or has other bytes than were put there, is replaced: else the file would
        be fetched from elsewhere each time. With *replaces* so is another publication of *key*'s file.

        Raises:
            UpstreamError: As `Bucket`.
            OSError: *file* cannot be read.
        """
        name = object_name(self.bucket, key)

        def put() -> bool:
            if self.bucket.put(name, file):
                return True
            other = self._damaged.pop(name, None) or self._find_other(name, key, file if replaces else None)
            return other is not None and self.bucket.put(name, file, instead_of=other)

        return await self._ask(put)

    def _find_other(self, name: str, key: Key, file: Path | None) -> ObjectInfo | None:
        """Return what the bucket has as *name* if that is not *key*'s file, or not *file*; else None."""
        from symcache.stores.check import check_view, hash_plain  # noqa: PLC0415 - the parsers are there where files come

        view = self.bucket.open(name)
        if view is None:
            return None
        try:
            is_right = check_view(view, key).is_right
        except InputError:
            is_right = False
        is_it = is_right and (file is None or view.info.sha256 == hash_plain(file)[1])
        return None if is_it else view.info

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        """Do nothing: the next moment another process may put it there."""

    def forget_absent(self, key: Key) -> None:
        """Do nothing: nothing was remembered."""

    async def _ask(self, function: Callable[[], T]) -> T:
        """Call *function* in a thread, unless the bucket has just failed repeatedly; `UpstreamUnavailable` then."""
        async with self._calls:
            return await self._judged(lambda: call_detached(function))

    async def _judged(self, ask: Callable[[], Awaitable[T]]) -> T:
        """Return what *ask* does, as `_ask`; however many calls it makes, that they fail counts once."""
        asked_s = await self._breaker.wait_turn(self._origin, url=self.name)
        try:
            result = await ask()
        except UpstreamUnavailable:
            self._breaker.note_failure(self._origin, asked_s=asked_s)
            raise
        except anyio.get_cancelled_exc_class():
            self._breaker.note_cancelled(self._origin, asked_s=asked_s)
            raise
        except Exception:
            self._breaker.note_success(self._origin)  # an answer, if not the one that was hoped for
            raise
        self._breaker.note_success(self._origin)
        return result


def _add_to(digest: hashlib._Hash, chunks: Iterable[bytes]) -> None:
    for chunk in chunks:
        digest.update(chunk)


def _is_own(image: Image, key: ImageKey) -> bool:
    is_named = (image.timestamp, image.size_of_image) == (key.timestamp, key.size_of_image)
    return is_named or parse_runtime_library(key.name) is not None
