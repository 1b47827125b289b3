"""Answers for files: from the store if it is there, else from upstream while it arrives, else a definite no."""

from __future__ import annotations

import os
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from symcache.identity import Tier, relative_parts
from symcache.server.answers import Facts, header_list
from symcache.server.request import FileAsked, read_in_decimal
from symcache.server.transfers import Transfers
from symcache.server.upkeep import open_shared
from symcache.stores.local.access import AccessLog
from symcache.stores.local.tree import Form, Store
from symcache.stores.results import Cause, Failed, Hint, Missing, Present

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.config import Serve
    from symcache.identity import Key
    from symcache.server.inflight import Flight, Flights, Growth
    from symcache.server.metrics import Metrics
    from symcache.server.protocol import Exchange
    from symcache.server.upkeep import Rechecks
    from symcache.stores.source import SymbolSource

__all__ = ["Symbols"]

_MOST_KNOWN = 8192
_TOUCH_EVERY_S = 60.0
_ABSENT_FOR_S = 5.0
_STREAM_AFTER_S = 5.0
_OF_THEIR_PATIENCE = 0.8
_NOT_FOUND_HEADERS = header_list(b"text/plain; charset=utf-8", 10, [(b"cache-control", b"no-store")])
_RETRY_SOON = (b"retry-after", b"5")
# ERROR_APP_HANG: how SymProxy tells symsrv to come back, as the file is on its way.
_STILL_FETCHING = (b"symbol-agent-status", b"0x80070512")


@dataclass(slots=True)
class _Known:
    """A file that was found right, as long as it is the same on the disk."""

    path: str
    key: Key
    facts: Facts
    modified_ns: int
    number: int
    touched_s: float = 0.0

    def is_same(self, status: os.stat_result) -> bool:
        return (status.st_size, status.st_mtime_ns, status.st_ino) == (
            self.facts.size_bytes,
            self.modified_ns,
            self.number,
        )


@dataclass(frozen=True, slots=True)
class _Absent:
    """A file that was not there a moment ago, and where it would turn up."""

    index: str
    until_s: float
    places: tuple[str, ...]


class Symbols:
    """Files by request.

    Args:
        source: Where they are and come from.
        flights: Brings what is not there.
        rechecks: Looks after misses that are old.
        settings: ``[serve]``.
        metrics: Counts.
    """

    def __init__(
        self, source: SymbolSource, flights: Flights, rechecks: Rechecks, settings: Serve, metrics: Metrics
    ) -> None:
        self._source = source
        self._flights = flights
        self._rechecks = rechecks
        self._settings = settings
        self._metrics = metrics
        self._transfers = Transfers(metrics)
        self._known: dict[bytes, _Known] = {}
        self._absent: dict[bytes, _Absent] = {}
        stores = source.opened_stores
        self._stores: Sequence[Store] = list(dict.fromkeys(stores))
        self._access = {store: AccessLog(store) for store in self._stores}

    @property
    def is_two_tier(self) -> bool:
        """Whether the store that files are served from has two tiers."""
        return any(store.tier is Tier.TWO for store in self._stores[:1])

    async def answer_known(self, exchange: Exchange) -> bool:
        """Answer a request that was answered before and whose answer still holds; return whether it was one."""
        known = self._known.get(exchange.raw_path)
        if known is not None:
            try:
                fd = open_shared(known.path)
            except OSError:
                del self._known[exchange.raw_path]
                return False
            try:
                if known.is_same(os.fstat(fd)):
                    exchange.said = "hit"
                    self._touch(known)
                    await self._transfers.send_file(exchange, fd, known.facts)
                    return True
            finally:
                os.close(fd)
            self._known.pop(exchange.raw_path, None)
            return False
        absent = self._absent.get(exchange.raw_path)
        if absent is None:
            return False
        if absent.until_s < exchange.began_s or any(map(os.path.exists, absent.places)):
            self._absent.pop(exchange.raw_path, None)
            return False
        exchange.said = "miss"
        self._metrics.note_miss(absent.index)
        await self._say_not_found(exchange)
        return True

    async def answer(self, exchange: Exchange, asked: FileAsked) -> None:
        """Answer a request for a file."""
        if asked.form is not Form.PLAIN:
            await self._answer_probe(exchange, asked)
            return
        known_as = exchange.raw_path
        if await self._answer_stored(exchange, asked.key, known_as=known_as):
            return
        other = read_in_decimal(asked)
        decimal = None if _speaks_hex(exchange) else other
        if await self._answer_cold(exchange, asked.key, is_last=decimal is None, known_as=known_as):
            # What holds for one reading of the id is not remembered for clients that mean the other.
            if other is None and exchange.said == "miss":
                self._note_absent(exchange.raw_path, asked.key)
            return
        assert decimal is not None
        if not await self._answer_stored(exchange, decimal, known_as=None):
            await self._answer_cold(exchange, decimal, is_last=True, known_as=None)

    async def _answer_stored(self, exchange: Exchange, key: Key, *, known_as: bytes | None) -> bool:
        present = await to_thread.run_sync(self._source.find, key)
        if present is None:
            return False
        exchange.said = "hit"
        return await self._answer_present(exchange, key, present.path, known_as=known_as)

    async def _answer_present(self, exchange: Exchange, key: Key, path: Path, *, known_as: bytes | None) -> bool:
        """Answer with the file at *path*, found right just now; return whether it is still there."""
        try:
            fd = open_shared(path)
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            facts = Facts.of(status.st_size, status.st_mtime_ns)
            known = _Known(os.fspath(path), key, facts, status.st_mtime_ns, status.st_ino)
            if known_as is not None:
                if len(self._known) >= _MOST_KNOWN:
                    self._known.clear()
                self._known[known_as] = known
            self._touch(known)
            await self._transfers.send_file(exchange, fd, facts)
        finally:
            os.close(fd)
        return True

    async def _answer_probe(self, exchange: Exchange, asked: FileAsked) -> None:
        """Answer for a cabinet or pointer file from the store alone; a pointer is never passed on to a client."""
        exchange.said = "probe"
        if asked.form is Form.COMPRESSED:
            for store in self._stores:
                stored = await to_thread.run_sync(store.find, asked.key)
                if stored is not None and stored.form is Form.COMPRESSED:
                    with suppress(OSError):
                        fd = open_shared(stored.path)
                        try:
                            status = os.fstat(fd)
                            await self._transfers.send_file(exchange, fd, Facts.of(status.st_size, status.st_mtime_ns))
                        finally:
                            os.close(fd)
                        return
        await self._say_not_found(exchange)

    async def _answer_cold(self, exchange: Exchange, key: Key, *, is_last: bool, known_as: bytes | None) -> bool:
        """Answer with what upstream has; return False for a definite miss if something else is still to be tried."""
        if len(self._flights) >= self._settings.downloads and key not in self._flights:
            exchange.said = "refused"
            await exchange.say(503, "too many files are on their way", [_RETRY_SOON])
            return True
        flight = self._flights.join(key)
        flight.readers += 1
        try:
            begins = await self._await_answer(exchange, flight)
            if exchange.is_gone:
                exchange.said = "left"
                return True
            if begins is not None:
                exchange.said = "cold"
                await self._transfers.pass_on(exchange, flight, begins)
                return True
        finally:
            flight.readers -= 1
        outcome = flight.outcome
        match outcome:
            case None:
                exchange.said = "late"
                await exchange.say(504, "still being fetched", _LATE)
            case Missing():
                self._rechecks.consider(key, outcome)
                self._metrics.note_miss(key.index)
                if not is_last:
                    return False
                exchange.said = "miss"
                await self._say_not_found(exchange)
            case Failed(hint=Hint.LOOP):
                exchange.said = "loop"
                await exchange.say(508, "servers ask each other in a circle")
            case Failed():
                exchange.said = "failed"
                status, extra = _ANSWERS.get(outcome.cause, _ANSWERS[Cause.REFUSED])
                await exchange.say(status, f"not to be had just now: {outcome.cause.value}", extra)
            case _:
                exchange.said = "hit" if isinstance(outcome, Present) else "cold"
                if not await self._answer_present(exchange, key, outcome.path, known_as=known_as):
                    exchange.said = "failed"
                    await exchange.say(503, "gone again", [_RETRY_SOON])
        return True

    async def _await_answer(self, exchange: Exchange, flight: Flight) -> Growth | None:
        """Wait until there is something to answer; return what arrives if it is to be passed on while it does."""
        deadline_s = exchange.began_s + self._patience_s(exchange)
        while flight.outcome is None and not exchange.is_gone:
            now_s = time.monotonic()
            growth = flight.growth
            if growth is not None and growth.looks_right:
                is_long = growth.size_bytes >= self._settings.stream_from_bytes and exchange.method != "HEAD"
                if is_long or now_s >= min(deadline_s, exchange.began_s + _STREAM_AFTER_S):
                    return growth
            if now_s >= deadline_s:
                return None
            with anyio.move_on_after(min(1.0, deadline_s - now_s)):
                await flight.wait()
        return None

    def _patience_s(self, exchange: Exchange) -> float:
        """Return how long the client may be kept waiting.

        Source: symsrv may announce its own patience, in milliseconds (windows-driver-docs, configuring-the-registry).
        """
        announced = exchange.fields.get(b"symbol-agent-receive-timeout", b"")
        own_s = self._settings.patience_s
        return min(own_s, int(announced[:9]) / 1000 * _OF_THEIR_PATIENCE) if announced.isdigit() else own_s

    async def _say_not_found(self, exchange: Exchange) -> None:
        await exchange.begin(404, _NOT_FOUND_HEADERS)
        await exchange.send(b"" if exchange.method == "HEAD" else b"not found\n")

    def _touch(self, known: _Known) -> None:
        now_s = time.monotonic()
        if now_s - known.touched_s >= _TOUCH_EVERY_S:
            known.touched_s = now_s
            for store, access in self._access.items():
                if Path(known.path).is_relative_to(store.root):
                    access.touch(known.key)
                    break

    def _note_absent(self, raw_path: bytes, key: Key) -> None:
        """Remember for a moment that there is no such file, and where it would turn up if somebody put it there."""
        places = tuple(
            os.path.join(store.root, *relative_parts(key, tier), key.name)  # noqa: PTH118 - looked at per request
            for store in self._stores
            for tier in Tier
        )
        if len(self._absent) >= _MOST_KNOWN:
            self._absent.clear()
        self._absent[raw_path] = _Absent(key.index, time.monotonic() + _ABSENT_FOR_S, places)


def _of_this_file(error: bytes) -> Sequence[tuple[bytes, bytes]]:
    """Return the fields that tell other servers that we are well, so that they go on asking us for other files.

    Source: RFC 9209, sections 2.1.1 and 2.3, for the field and the kinds of errors.
    """
    return [_RETRY_SOON, (b"proxy-status", b"symcache; error=" + error)]


_ANSWERS = {
    Cause.UNAVAILABLE: (503, _of_this_file(b"destination_unavailable")),
    Cause.DISK: (503, _of_this_file(b"proxy_internal_error")),
    Cause.WRONG_CONTENT: (502, _of_this_file(b"http_protocol_error")),
    Cause.REFUSED: (502, _of_this_file(b"http_protocol_error")),
}
"""Status and fields by why a file cannot be had."""

_LATE = [*_of_this_file(b"http_response_timeout"), _STILL_FETCHING]


def _speaks_hex(exchange: Exchange) -> bool:
    """Whether the client is known to write ages in hex: then another reading would hand it another file."""
    return exchange.fields.get(b"user-agent", b"").lower().startswith(b"microsoft-symbol-server/")
