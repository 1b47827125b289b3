"""Requests for symbol files: answered from the store, else from upstream while the file arrives, else with 404."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from symcache.errors import StoreError
from symcache.identity import Tier
from symcache.server.downloads import send_download
from symcache.server.files import FileInfo, open_shared
from symcache.server.known import NOT_FOUND_BODY, NOT_FOUND_HEADERS
from symcache.server.request import FileAsked, read_in_decimal
from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Form, Store
from symcache.stores.results import Cause, Failed, Hint, Missing, Present

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from symcache.config import Serve
    from symcache.identity import Key
    from symcache.server.downloads import Download, Downloads, PartialFile, Rechecks
    from symcache.server.known import KnownAnswers
    from symcache.server.metrics import Metrics
    from symcache.server.request import Request
    from symcache.stores.source import SymbolSource

__all__ = ["Symbols"]

_STREAM_AFTER_S = 5.0
_OF_THEIR_PATIENCE = 0.8
_RETRY_SOON = (b"retry-after", b"5")
# ERROR_APP_HANG: how SymProxy tells symsrv to come back, as the file is being fetched.
_STILL_FETCHING = (b"symbol-agent-status", b"0x80070512")


class Symbols:
    """Answers requests for symbol files.

    Args:
        source: Where files are and come from.
        downloads: Fetches what no store has.
        rechecks: Checks old misses again.
        known: Remembers answers for the next request.
        settings: ``[serve]``.
        metrics: Counts.
    """

    def __init__(
        self,
        source: SymbolSource,
        downloads: Downloads,
        rechecks: Rechecks,
        known: KnownAnswers,
        settings: Serve,
        metrics: Metrics,
    ) -> None:
        self._source = source
        self._downloads = downloads
        self._rechecks = rechecks
        self._known = known
        self._settings = settings
        self._metrics = metrics
        self._stores: Sequence[Store] = list(dict.fromkeys(source.opened_stores))
        self._has_no_other_store = all(
            store.local in self._stores or not store.is_on_disk for chain in source.chains for store in chain.stores
        )
        self._access = {store: AccessLog(store) for store in self._stores}

    @property
    def is_two_tier(self) -> bool:
        """Whether the store that files are served from has two tiers."""
        return any(store.tier is Tier.TWO for store in self._stores[:1])

    async def answer(self, request: Request, asked: FileAsked) -> None:
        """Answer a request for a file."""
        if asked.form is not Form.PLAIN:
            await self._answer_probe(request, asked)
            return
        known_as = request.raw_path
        if await self._answer_stored(request, asked.key, known_as=known_as):
            return
        other = read_in_decimal(asked)
        decimal = None if _writes_hex(request) else other
        if await self._answer_cold(request, asked.key, is_last=decimal is None, known_as=known_as):
            # What holds for one reading of the id is not remembered for clients that mean the other.
            if other is None and request.kind == "miss":
                self._known.remember_miss(
                    request.raw_path, asked.key, self._stores, partial(self._is_still_missing, asked.key)
                )
            return
        assert decimal is not None
        if not await self._answer_stored(request, decimal, known_as=None):
            await self._answer_cold(request, decimal, is_last=True, known_as=None)

    async def _answer_stored(self, request: Request, key: Key, *, known_as: bytes | None) -> bool:
        present = await to_thread.run_sync(self._source.find, key)
        if present is None:
            return False
        request.kind = "hit"
        return await self._answer_present(request, key, present.path, known_as=known_as)

    async def _answer_present(self, request: Request, key: Key, path: Path, *, known_as: bytes | None) -> bool:
        """Answer with the verified file at *path*; return False if it has been removed."""
        try:
            fd = open_shared(path)
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            info = FileInfo.of(status.st_size, status.st_mtime_ns)
            touch = partial(self._touch, key, path)
            touch()
            if known_as is not None:
                self._known.remember_file(known_as, path, status, info, touch)
            with self._metrics.transferring():
                await request.send_file(fd, info)
        finally:
            os.close(fd)
        return True

    async def _answer_probe(self, request: Request, asked: FileAsked) -> None:
        """Answer for a cabinet or pointer file from the store alone; a pointer is never passed on to a client."""
        request.kind = "probe"
        if asked.form is Form.COMPRESSED:
            for store in self._stores:
                stored = await to_thread.run_sync(store.find, asked.key)
                if stored is not None and stored.form is Form.COMPRESSED:
                    with suppress(OSError):
                        fd = open_shared(stored.path)
                        try:
                            status = os.fstat(fd)
                            with self._metrics.transferring():
                                await request.send_file(fd, FileInfo.of(status.st_size, status.st_mtime_ns))
                        finally:
                            os.close(fd)
                        return
        await self._send_not_found(request)

    async def _answer_cold(self, request: Request, key: Key, *, is_last: bool, known_as: bytes | None) -> bool:
        """Answer with what upstream has; return False for a definite miss if another key is still to be tried."""
        if len(self._downloads) >= self._settings.downloads and key not in self._downloads:
            request.kind = "refused"
            await request.send_text(503, "too many downloads at once", [_RETRY_SOON])
            return True
        download = self._downloads.join(key)
        download.readers += 1
        try:
            arriving = await self._await_answer(request, download)
            if request.is_gone:
                request.kind = "left"
                return True
            if arriving is not None:
                request.kind = "cold"
                await send_download(request, download, arriving, self._metrics)
                return True
        finally:
            download.readers -= 1
        outcome = download.outcome
        match outcome:
            case None:
                request.kind = "late"
                await request.send_text(504, "still being fetched", _LATE)
            case Missing():
                self._rechecks.consider(key, outcome)
                self._metrics.note_miss(key.index)
                if not is_last:
                    return False
                request.kind = "miss"
                await self._send_not_found(request)
            case Failed(hint=Hint.LOOP):
                request.kind = "loop"
                await request.send_text(508, "servers ask each other in a circle")
            case Failed():
                request.kind = "failed"
                status, extra = _ERRORS.get(outcome.cause, _ERRORS[Cause.REFUSED])
                await request.send_text(status, f"not available now: {outcome.cause.value}", extra)
            case _:
                request.kind = "hit" if isinstance(outcome, Present) else "cold"
                if not await self._answer_present(request, key, outcome.path, known_as=known_as):
                    request.kind = "failed"
                    await request.send_text(503, "removed again", [_RETRY_SOON])
        return True

    async def _await_answer(self, request: Request, download: Download) -> PartialFile | None:
        """Wait until there is something to answer; return the file if it is to be sent while it arrives."""
        deadline_s = request.began_s + self._patience_s(request)
        while download.outcome is None and not request.is_gone:
            now_s = time.monotonic()
            arriving = download.file
            if arriving is not None and arriving.looks_right:
                is_long = arriving.size_bytes >= self._settings.stream_from_bytes and request.method != "HEAD"
                if is_long or now_s >= min(deadline_s, request.began_s + _STREAM_AFTER_S):
                    return arriving
            if now_s >= deadline_s:
                return None
            with anyio.move_on_after(min(1.0, deadline_s - now_s)):
                await download.wait()
        return None

    def _patience_s(self, request: Request) -> float:
        """Return how long the client may be kept waiting.

        Source: symsrv may announce its own patience, in milliseconds (windows-driver-docs, configuring-the-registry).
        """
        announced = request.headers.get(b"symbol-agent-receive-timeout", b"")
        own_s = self._settings.patience_s
        return min(own_s, int(announced[:9]) / 1000 * _OF_THEIR_PATIENCE) if announced.isdigit() else own_s

    async def _send_not_found(self, request: Request) -> None:
        await request.start(404, NOT_FOUND_HEADERS)
        await request.send(b"" if request.method == "HEAD" else NOT_FOUND_BODY)

    def _is_still_missing(self, key: Key) -> bool:
        try:
            is_stored = any(store.find(key) is not None for store in self._stores)
        except StoreError:
            return False
        return not is_stored and self._has_no_other_store and self._rechecks.is_recent(key)

    def _touch(self, key: Key, path: Path) -> None:
        for store, access in self._access.items():
            if path.is_relative_to(store.root):
                access.touch(key)
                break


def _of_this_file(error: bytes) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers that tell other servers that only this file fails, so that they go on asking for others.

    Source: RFC 9209, sections 2.1.1 and 2.3, for the header and the kinds of errors.
    """
    return [_RETRY_SOON, (b"proxy-status", b"symcache; error=" + error)]


_ERRORS = {
    Cause.UNAVAILABLE: (503, _of_this_file(b"destination_unavailable")),
    Cause.DISK: (503, _of_this_file(b"proxy_internal_error")),
    Cause.WRONG_CONTENT: (502, _of_this_file(b"http_protocol_error")),
    Cause.REFUSED: (502, _of_this_file(b"http_protocol_error")),
}
"""Status and headers by the reason why a file is not available."""

_LATE = [*_of_this_file(b"http_response_timeout"), _STILL_FETCHING]


def _writes_hex(request: Request) -> bool:
    """Whether the client is known to write ages in hex; reading them as decimal would give it another file."""
    return request.headers.get(b"user-agent", b"").lower().startswith(b"microsoft-symbol-server/")
