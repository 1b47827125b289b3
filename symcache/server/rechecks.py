"""Old misses: asked again behind the back of whoever asked, who gets the answer that is remembered."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from symcache.upstream.outcome import Cause, Failed

if TYPE_CHECKING:
    from anyio.abc import TaskGroup

    from symcache.identity import Key
    from symcache.server.flights import Flights
    from symcache.store.misses import Miss
    from symcache.upstream.outcome import Missing
    from symcache.upstream.source import SymbolSource

__all__ = ["Rechecks"]

_AT_ONCE = 4
_MOST_WAITING = 1000


class Rechecks:
    """Checks remembered misses again.

    Args:
        source: Knows them.
        flights: Asks again.
        group: Where that happens.
        after_s: How old they have to be, in seconds.
    """

    def __init__(self, source: SymbolSource, flights: Flights, group: TaskGroup, *, after_s: float) -> None:
        self._source = source
        self._flights = flights
        self._group = group
        self._after_s = after_s
        self._waiting: set[str] = set()
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    def consider(self, key: Key, outcome: Missing) -> None:
        """Check *key* again if its miss is remembered from long ago."""
        if outcome.cause is not Cause.REMEMBERED_MISS or key.folded in self._waiting:
            return
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.add(key.folded)
            self._group.start_soon(self._check, key)

    async def _check(self, key: Key) -> None:
        try:
            async with self._limiter:
                old = await to_thread.run_sync(self._doubt_old_ones, key)
                if not old:
                    return
                flight = self._flights.join(key)
                while flight.outcome is None:
                    await flight.wait()
                if isinstance(flight.outcome, Failed):
                    await to_thread.run_sync(self._keep, key, old)
        finally:
            self._waiting.discard(key.folded)

    def _doubt_old_ones(self, key: Key) -> list[Miss]:
        misses = self._source.misses
        found: list[Miss] = []
        if misses is None:
            return found
        with misses:  # closes this thread's connection, which nobody else would
            for server in self._source.servers:
                miss = misses.recall(server.name, key)
                if miss is not None and time.time() - miss.last_asked_s >= self._after_s:
                    misses.keep(replace(miss, last_asked_s=0.0))
                    found.append(miss)
        return found

    def _keep(self, key: Key, old: list[Miss]) -> None:
        """Believe those again that no answer came to, so that a server that is down brings no errors instead."""
        misses = self._source.misses
        if misses is None:
            return
        with misses:
            for miss in old:
                if misses.recall(miss.upstream, key) is None:
                    misses.keep(miss)
