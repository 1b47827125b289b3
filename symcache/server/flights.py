"""Cold files on their way from upstreams: one fetch each, and whoever asks meanwhile reads along."""

from __future__ import annotations

import logging
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import anyio

from symcache.errors import SymcacheError
from symcache.events import TransferAdvanced, TransferEnded, TransferStarted
from symcache.identity import fold
from symcache.server.growth import Growth
from symcache.store.growing import read_growing
from symcache.store.tree import Store
from symcache.upstream.outcome import Cause, Failed, Fetched

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import TaskGroup

    from symcache.events import Event
    from symcache.identity import Key
    from symcache.store.growing import Growing
    from symcache.upstream.outcome import Outcome
    from symcache.upstream.source import SymbolSource

__all__ = ["Flight", "Flights"]

_HELD_BYTES = 64 * 1024
_FIRST_LOOK_S = 0.1
_LOOK_EVERY_S = 0.05

_log = logging.getLogger("symcache.serve")


class Flight:
    """One key on its way.

    Attributes:
        key: What is wanted.
        began_s: Monotonic time of the first request for it.
        outcome: How it ended; None while it has not.
        growth: What arrives just now, where that can be read along; None otherwise.
        readers: How many requests wait for it.
        upstream: Where it comes from; None before it does.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.began_s = time.monotonic()
        self.outcome: Outcome | None = None
        self.growth: Growth | None = None
        self.readers = 0
        self.upstream: str | None = None
        self._past: list[Growth] = []
        self._changed = anyio.Event()

    async def wait(self) -> None:
        """Return once something has changed."""
        await self._changed.wait()

    def begin(self, path: Path, size_bytes: int) -> None:
        """A body of announced length begins to arrive at *path*, the first one or another one."""
        try:
            growth = Growth(self.key, path, size_bytes, min(size_bytes, _HELD_BYTES))
        except OSError:
            growth = None  # gone again already
        if self.growth is not None:
            self._past.append(self.growth)
        self.growth = growth
        self._wake()

    def advance(self, whole_bytes: int, size_bytes: int | None, *, starts_over: bool = False) -> None:
        """More of it has come; less than before means that it starts over, in the same place."""
        growth = self.growth
        if growth is None:
            return
        if starts_over or whole_bytes < growth.whole_bytes or size_bytes not in {growth.size_bytes, None}:
            growth.is_broken = True
            self.growth = None
            self._past.append(growth)
            if size_bytes is not None:
                self.begin(growth.path, size_bytes)
        if self.growth is not None:
            self.growth.whole_bytes = whole_bytes
        self._wake()

    def end(self, outcome: Outcome) -> None:
        """It is there, or will not come."""
        self.outcome = outcome
        for growth in (*self._past, self.growth):
            if growth is not None:
                growth.retire()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@dataclass(slots=True)
class _Unread:
    """A transfer that belongs to no flight."""

    index: str
    upstream: str
    size_bytes: int | None
    whole_bytes: int = 0


class Flights:
    """Every flight of this process.

    Args:
        source: Fetches.
        group: Where flights live; a client that leaves does not end one.
    """

    def __init__(self, source: SymbolSource, group: TaskGroup) -> None:
        self._source = source
        self._group = group
        self._flights: dict[str, Flight] = {}
        self._unread: dict[Path, _Unread] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Key) -> bool:
        return key.folded in self._flights

    def as_json(self) -> list[dict[str, Any]]:
        """Return what is on its way, oldest first; then what nobody reads along with, as the page's downloads."""
        flights = [
            {
                "index": flight.key.index,
                "upstream": flight.upstream,
                "size_bytes": None if flight.growth is None else flight.growth.size_bytes,
                "whole_bytes": 0 if flight.growth is None else flight.growth.whole_bytes,
                "readers": flight.readers,
            }
            for flight in self._flights.values()
        ]
        unread = [each for each in self._unread.values() if fold(each.index) not in self._flights]
        return [*flights, *({**asdict(each), "readers": 0} for each in unread)]

    def join(self, key: Key) -> Flight:
        """Return the flight for *key*, and let it begin if there is none."""
        flight = self._flights.get(key.folded)
        if flight is None:
            flight = self._flights[key.folded] = Flight(key)
            self._group.start_soon(self._fly, flight)
        return flight

    def observe(self, event: Event) -> None:
        """Take in what the source tells of its transfers; called on the event loop's thread for these."""
        match event:
            case TransferStarted(index, upstream, size_bytes, path):
                flight = self._flights.get(fold(index))
                if flight is not None:
                    flight.upstream = upstream
                    if size_bytes and path is not None:
                        flight.begin(path, size_bytes)
                elif path is not None:
                    self._unread[path] = _Unread(index, upstream, size_bytes)
            case TransferAdvanced(path=path, whole_bytes=whole_bytes) if path in self._unread:
                self._unread[path].whole_bytes = whole_bytes
            case TransferEnded(path=path) if path in self._unread:
                del self._unread[path]
            case TransferAdvanced(index, _, size_bytes, path, whole_bytes):
                flight = self._flights.get(fold(index))
                if flight is not None and flight.growth is not None and flight.growth.path == path:
                    flight.advance(whole_bytes, size_bytes)
            case _:
                pass

    async def _fly(self, flight: Flight) -> None:
        outcome: Outcome = Failed(Cause.UNAVAILABLE, detail="the server is stopping")
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._look_elsewhere, flight)
                try:
                    outcome = await self._source.fetch(flight.key)
                except (SymcacheError, OSError) as error:
                    _log.warning("%s: %s", flight.key.index, error)
                    outcome = Failed(Cause.DISK, detail=str(error))
                except Exception as error:  # noqa: BLE001 - an edge, see below
                    # The edge: other flights live in the same group, and must not end with this one.
                    _log.exception("%s", flight.key.index)
                    outcome = Failed(Cause.UNAVAILABLE, detail=str(error))
                group.cancel_scope.cancel()
        finally:
            del self._flights[flight.key.folded]
            flight.end(outcome)
        if isinstance(outcome, Failed):
            _log.warning("%s: %s: %s", flight.key.index, outcome.cause.value, outcome.detail or "failed")
        elif isinstance(outcome, Fetched):
            _log.info("%s: %d bytes from %s", flight.key.index, outcome.size_bytes, outcome.upstream)

    async def _look_elsewhere(self, flight: Flight) -> None:
        """Read along with another process that brings the file; nothing to do where this one does."""
        roots = [place.root for chain in self._source.chains for place in chain.places[:1] if isinstance(place, Store)]
        await anyio.sleep(_FIRST_LOOK_S)
        seen: Growing | None = None
        while flight.upstream is None:
            notes = (read_growing(root, flight.key.folded) for root in roots)
            note = next((note for note in notes if note is not None), None)
            if note is not None:
                if seen is None or note.scratch != seen.scratch:
                    flight.begin(note.scratch, note.size_bytes)
                starts_over = seen is not None and note.scratch == seen.scratch and note.starts != seen.starts
                flight.advance(note.whole_bytes, note.size_bytes, starts_over=starts_over)
                seen = note
            await anyio.sleep(_LOOK_EVERY_S)
