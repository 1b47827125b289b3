"""Bring one file of an upstream to a scratch file, whole, however often the connection breaks."""

from __future__ import annotations

import errno
import shutil
from contextlib import aclosing, suppress
from dataclasses import dataclass
from itertools import count, pairwise
from typing import TYPE_CHECKING, TypeVar

import anyio

from symcache.errors import NextHopUnavailable, UpstreamError, UpstreamUnavailable, WrongContent
from symcache.events import TransferAdvanced, TransferEnded, TransferStarted
from symcache.formats.glance import HEAD_BYTES, limit_of
from symcache.stores.http.imagehead import read_remote_image, read_remote_runtime, read_remote_version
from symcache.stores.http.reply import TooSlowError, UnfitRangeError
from symcache.stores.http.retry import CircuitOpenError
from symcache.stores.http.urls import redact
from symcache.stores.local.tree import as_store_error

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from io import FileIO
    from pathlib import Path

    import httpx
    from anyio.abc import TaskGroup

    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.stores.http.client import Client
    from symcache.stores.http.reply import Reply
    from symcache.stores.http.retry import RetryPolicy

__all__ = ["Answer", "Downloader"]


T = TypeVar("T")

_SHORTEST_PART_BYTES = 8 * 1024 * 1024
_SMALL_BYTES = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered.

    Attributes:
        status: 200 or 206 if it has the file; 404 or 410 if it has none of this name, or a 403 that may mean it.
        image: The headers of an image, if they were requested and it has them.
    """

    status: int
    image: Image | None = None

    @property
    def is_absent(self) -> bool:
        """The server does not have the file under this name."""
        return self.status >= 400


@dataclass(frozen=True, slots=True)
class Downloader:
    """How files are brought in: who asks, how patiently and how greedily.

    Attributes:
        client: Asks the upstreams.
        policy: When to try again.
        total_s: Longest time for one file, all tries and waits for a connection included; None for no bound.
        largest_bytes: A longer file is refused.
        parallel_from_bytes: From this length on a file is brought in parts, while requests may begin.
        parallel_parts: Most parts at once.
        observer: Told about every transfer.
        sleep: Waits a number of seconds.
    """

    client: Client
    policy: RetryPolicy
    total_s: float | None
    largest_bytes: int
    parallel_from_bytes: int
    parallel_parts: int
    observer: Observer
    sleep: Callable[[float], Awaitable[None]] = anyio.sleep

    async def download(
        self,
        url: httpx.URL,
        path: Path,
        *,
        index: str,
        headers: Mapping[str, str] | None = None,
        says_its_length: bool = True,
    ) -> Answer:
        """Bring what *url* names to *path*.

        Args:
            url: The file at its upstream.
            path: The scratch file; overwritten.
            index: The key, written out, for the observer.
            headers: More fields to send.
            says_its_length: It is a file of a kind whose beginning says how long it is.

        Raises:
            UpstreamUnavailable: It failed more often than the policy tries, or took too long.
            UpstreamRefused: The upstream will not send it.
            WrongContent: The answer is a page, empty, or too long.
            StoreError: The disk does not take it.
        """
        transfer = _Transfer(self, url, path, index, headers or {}, says_its_length=says_its_length)
        try:
            return await self._in_time(transfer.run, url)
        finally:
            if transfer.begun:
                self.observer(TransferEnded(index, path))

    async def read_image(self, url: httpx.URL) -> Answer:
        """Read the headers of the image at *url*, in ranges.

        Raises:
            RangesRefusedError: It has to be brought whole.
            UpstreamUnavailable: It failed more often than the policy tries, or took too long.
            UpstreamRefused: The upstream will not send it.
            WrongContent: What is there is not an image.
        """
        status, image = await self._patiently(lambda: read_remote_image(self.client, url), url)
        return Answer(status, image)

    async def read_version(self, url: httpx.URL) -> VersionInfo | None:
        """Return what the image at *url* says of its origin, read in ranges; None if there is none. Raises likewise."""
        return await self._patiently(lambda: read_remote_version(self.client, url), url)

    async def read_runtime(self, url: httpx.URL) -> RuntimeFacts | None:
        """Return what the image at *url* says of a .NET runtime, read in ranges; as `read_version`."""
        return await self._patiently(lambda: read_remote_runtime(self.client, url), url)

    async def exists(self, url: httpx.URL) -> bool:
        """Return whether the upstream has what *url* names, without bringing it.

        Raises:
            UpstreamUnavailable: It failed more often than the policy tries, or took too long.
            UpstreamRefused: The upstream does not tell.
            WrongContent: It answers with a page.
        """

        async def ask() -> bool:
            async with self.client.get(url) as reply:
                if not reply.is_miss:
                    await reply.begin()
                return not reply.is_miss

        return await self._patiently(ask, url)

    async def bring(
        self, url: httpx.URL, path: Path, *, conditions: Mapping[str, str], largest_bytes: int
    ) -> tuple[int, str | None, str | None]:
        """Bring what *url* names to *path*, in one piece; return the status, ``ETag`` and ``Last-Modified``.

        Nothing is written for a miss, and for 304, which says that *conditions*, fields of the request, do not hold.

        Raises:
            UpstreamUnavailable: It failed more often than the policy tries, or took too long.
            UpstreamRefused: The upstream will not send it.
            WrongContent: The answer is longer than *largest_bytes*. What is in it is not looked at.
            StoreError: The disk does not take it.
        """

        async def ask() -> tuple[int, str | None, str | None]:
            async with self.client.get(url, headers=conditions) as reply:
                if not (reply.is_miss or reply.is_unchanged):
                    await self._write(reply, path, largest_bytes)
                return reply.status, reply.etag, reply.last_modified

        return await self._patiently(ask, url)

    @staticmethod
    async def _write(reply: Reply, path: Path, largest_bytes: int) -> None:
        total = 0
        try:
            with path.open("wb") as file:
                async with aclosing(reply.chunks(may_be_markup=True)) as chunks:
                    async for chunk in chunks:
                        total += len(chunk)
                        if total > largest_bytes:
                            raise WrongContent(f"longer than {largest_bytes} bytes", url=reply.url)
                        file.write(chunk)
        except OSError as error:
            raise as_store_error(error, path) from error

    async def pause(self, failures: int, error: UpstreamUnavailable) -> None:
        """Wait before the next try; raise *error* if there is none."""
        pause_s = None
        # A second silence in a row is not waited out a third time: a person waits, too.
        is_final = isinstance(error, CircuitOpenError | NextHopUnavailable) or (error.timed_out and failures > 1)
        if not is_final:
            pause_s = self.policy.pause_s(failures, error.retry_after_s)
        if pause_s is None:
            raise error
        await self.sleep(pause_s)

    async def _patiently(self, ask: Callable[[], Awaitable[T]], url: httpx.URL) -> T:
        async def run() -> T:
            for failures in count(1):
                try:
                    return await ask()
                except UpstreamUnavailable as error:
                    await self.pause(failures, error)
            raise AssertionError

        return await self._in_time(run, url)

    async def _in_time(self, work: Callable[[], Awaitable[T]], url: httpx.URL) -> T:
        with anyio.move_on_after(self.total_s):
            return await work()
        raise UpstreamUnavailable(f"not whole after {self.total_s:g} s", url=redact(url))


class _MisfitError(Exception):
    """Two pieces are not of one file, or ranges are not served after all."""


@dataclass(slots=True)
class _Piece:
    """A range of the file; the bytes from *start* to *at* are on disk, *end* is None while it is not known."""

    start: int
    at: int
    end: int | None


class _Transfer:
    """One file on its way: its head, and for a large one further parts beside it."""

    def __init__(
        self,
        how: Downloader,
        url: httpx.URL,
        path: Path,
        index: str,
        headers: Mapping[str, str],
        *,
        says_its_length: bool,
    ) -> None:
        self._how = how
        self._url = url
        self._path = path
        self._index = index
        self._headers = headers
        self._says_its_length = says_its_length
        self._head = b""  # the first bytes of the file, as far as its length is told from them
        self._limit_bytes = how.largest_bytes
        self._received_bytes = 0
        self._size_bytes: int | None = None
        self._may_split = self._may_resume = False
        self._is_split = False
        self._error: Exception | None = None
        self._pieces: list[_Piece] = []
        self.begun = False

    async def run(self) -> Answer:
        """Bring the file, in parts if that makes sense; in one piece if they do not fit; unresumed if that does not."""
        for may_split, may_resume in ((True, True), (False, True)):
            self._may_split, self._may_resume = may_split, may_resume
            with suppress(_MisfitError):
                return await self._run()
        self._may_resume = False
        return await self._run()

    async def _run(self) -> Answer:
        self._received_bytes, self._is_split, self._error = 0, False, None
        self._forget_length()
        head = _Piece(0, 0, None)
        self._pieces = [head]
        status: int | None = None
        try:
            with self._path.open("wb", buffering=0) as file:
                self._tell()
                async with anyio.create_task_group() as group:
                    try:
                        status = await self._bring(head, file, None, group)
                    except (UpstreamError, OSError, _MisfitError) as error:
                        self._fail(error, group)
        except OSError as error:
            raise as_store_error(error, self._path) from error
        if isinstance(self._error, OSError):
            raise as_store_error(self._error, self._path) from self._error
        if self._error is not None:
            raise self._error
        if status is not None:
            return Answer(status)
        if not self._received_bytes:
            raise WrongContent("200, but empty", url=redact(self._url))
        return Answer(200)

    async def _bring_part(self, part: _Piece, file: FileIO, validator: str | None, group: TaskGroup) -> None:
        try:
            status = await self._bring(part, file, validator, group)
        except (UpstreamError, OSError, _MisfitError) as error:
            self._fail(error, group)
        else:
            if status is not None:
                self._fail(_MisfitError(), group)

    def _fail(self, error: Exception, group: TaskGroup) -> None:
        # Kept and not raised, so that the caller gets the error itself and not a group of one.
        self._error = self._error or error
        group.cancel_scope.cancel()

    async def _bring(self, piece: _Piece, file: FileIO, validator: str | None, group: TaskGroup) -> int | None:
        """Fill *piece*, asking again for the rest when it breaks; return the status if there is no such file."""
        failures = 0
        furthest = piece.start
        while piece.end is None or piece.at < piece.end:
            # Without a validator nothing says that the rest is of the same file.
            start = piece.at if validator is not None and self._may_resume else piece.start
            try:
                async with self._how.client.get(
                    self._url, start=start, end=piece.end, validator=validator, headers=self._headers
                ) as reply:
                    if reply.is_miss:
                        return reply.status
                    self._rewind_unless_continued(piece, file, reply, validator)
                    self._begin(reply)
                    if not self._is_split:
                        validator = reply.validator
                        self._split(reply, piece, file, group)
                    await self._copy(reply, piece, file)
                    if piece.end is None:
                        piece.end = piece.at
            except UnfitRangeError as error:
                if start == 0 and piece.end is None:
                    raise
                raise _MisfitError from error
            except UpstreamUnavailable as error:
                # A transfer that made progress before it broke starts a new count of failures.
                has_moved = piece.at > furthest and not isinstance(error, TooSlowError)
                failures = 1 if has_moved else failures + 1
                furthest = max(furthest, piece.at)
                await self._how.pause(failures, error)
        return None

    def _rewind_unless_continued(self, piece: _Piece, file: FileIO, reply: Reply, validator: str | None) -> None:
        if reply.status == 206:
            # Some upstreams heed Range and not If-Range, so what came is compared as well.
            same_size = self._size_bytes is None or reply.size_bytes in {self._size_bytes, None}
            if not same_size or reply.validator not in {validator, None} or reply.start != piece.at:
                raise _MisfitError
        elif self._is_split:
            raise _MisfitError
        elif piece.at:
            file.truncate(0)
            self._received_bytes = piece.at = 0
            self._forget_length()
            self._tell()

    def _forget_length(self) -> None:
        self._head, self._limit_bytes = b"", self._how.largest_bytes

    def _learn_length(self, beginning: bytes, size_bytes: int | None) -> None:
        """Take from the *beginning* of a file of *size_bytes*, if that was announced, how long it may be.

        Raises:
            WrongContent: The announced length is more.
        """
        self._head += beginning[: HEAD_BYTES - len(self._head)]
        if len(self._head) < HEAD_BYTES or not (self._says_its_length or size_bytes is None):
            return
        self._limit_bytes = min(self._limit_bytes, limit_of(self._head, may_be_other=not self._says_its_length))
        if size_bytes is not None and size_bytes > self._limit_bytes:
            raise self._too_long()

    def _too_long(self) -> WrongContent:
        of = "network.largest_file_bytes" if self._limit_bytes == self._how.largest_bytes else "it says it is"
        return WrongContent(f"longer than {of}", url=redact(self._url))

    def _begin(self, reply: Reply) -> None:
        size_bytes = reply.size_bytes
        if size_bytes is not None and size_bytes > self._how.largest_bytes:
            raise WrongContent(f"{size_bytes} bytes, more than network.largest_file_bytes", url=redact(self._url))
        if reply.status == 200:
            self._size_bytes = size_bytes
            # Before anything is filled up with a file that does not fit.
            is_large = size_bytes is not None and size_bytes > _SMALL_BYTES
            if is_large and shutil.disk_usage(self._path.parent).free < (size_bytes or 0):
                raise OSError(errno.ENOSPC, "no room for it", str(self._path))
        if not self.begun:
            self.begun = True
            self._how.observer(TransferStarted(self._index, reply.url, size_bytes, self._path))

    def _split(self, reply: Reply, head: _Piece, file: FileIO, group: TaskGroup) -> None:
        """Start further parts if file, upstream and pool are fit for it; the head then ends sooner."""
        size_bytes = reply.size_bytes
        if not (self._may_split and reply.takes_ranges and reply.validator and head.at == 0 and size_bytes):
            return
        if size_bytes < self._how.parallel_from_bytes:
            return
        parts = min(self._how.parallel_parts, 1 + self._how.client.pool.free, size_bytes // _SHORTEST_PART_BYTES)
        if parts < 2:
            return
        self._is_split = True
        bounds = [size_bytes * part // parts for part in range(parts + 1)]
        head.end = bounds[1]
        for start, end in pairwise(bounds[1:]):
            self._pieces.append(part := _Piece(start, start, end))
            group.start_soon(self._bring_part, part, file, reply.validator, group)

    async def _copy(self, reply: Reply, piece: _Piece, file: FileIO) -> None:
        if reply.body_bytes is not None and reply.body_bytes <= _SMALL_BYTES and not self._is_split:
            await self._copy_at_once(reply, piece, file)
            return
        async with aclosing(reply.chunks()) as chunks:
            async for chunk in chunks:
                if len(self._head) < HEAD_BYTES and piece.at == len(self._head):
                    self._learn_length(chunk, reply.size_bytes)
                wanted = chunk if piece.end is None else chunk[: piece.end - piece.at]
                if piece.at + len(wanted) > self._limit_bytes:
                    raise self._too_long()
                _write_at(file, piece.at, wanted)
                piece.at += len(wanted)
                self._received_bytes += len(wanted)
                self._tell()
                if len(wanted) < len(chunk) or (piece.at == piece.end and reply.status == 200):
                    return  # the rest comes in other parts

    async def _copy_at_once(self, reply: Reply, piece: _Piece, file: FileIO) -> None:
        """Write a small body in one piece; what came of one that breaks is written too, and asked for no more."""
        chunks: list[bytes] = []
        try:
            async with aclosing(reply.chunks()) as body:
                async for chunk in body:
                    chunks.append(chunk)  # noqa: PERF401 - what came before it breaks counts
        finally:
            data = b"".join(chunks)
            _write_at(file, piece.at, data)
            piece.at += len(data)
            self._received_bytes += len(data)
            self._tell()

    def _tell(self) -> None:
        if self.begun:
            part = next((piece for piece in self._pieces if piece.at != piece.end), self._pieces[-1])
            self._how.observer(
                TransferAdvanced(self._index, self._received_bytes, self._size_bytes, self._path, part.at)
            )


def _write_at(file: FileIO, offset: int, data: bytes) -> None:
    # On the event loop's thread on purpose: a thread per piece costs half as much again as the whole download.
    file.seek(offset)
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]
