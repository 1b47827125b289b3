"""What is going on, as the page shows it."""

from __future__ import annotations

import time
from itertools import islice
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from symcache._version import __version__
from symcache.errors import InputError
from symcache.identity import fold, parse_index
from symcache.server.metrics import sum_up
from symcache.upstream.lacking import Lacking

if TYPE_CHECKING:
    from collections.abc import Mapping

    from symcache.server.flights import Flights
    from symcache.server.metrics import Metrics, Sharing, Totals
    from symcache.server.upkeep import Upkeep
    from symcache.upstream.source import SymbolSource

__all__ = ["Status"]

_SHOWN_MISSING = 50
_MOST_LOOKED_FOR = 1000
_READ_MISSES = 100_000
_MISSES_FRESH_S = 60.0


class Status:
    """Gathers the document of ``/-/status``.

    Args:
        source: Knows stores and misses.
        flights: Of this worker.
        metrics: Of this worker.
        sharing: Those of the others.
        upkeep: Knows the store's size and the past.
        can_warm: Whether the page may take inputs.
    """

    def __init__(
        self,
        source: SymbolSource,
        flights: Flights,
        metrics: Metrics,
        sharing: Sharing,
        upkeep: Upkeep,
        *,
        can_warm: bool,
    ) -> None:
        self._source = source
        self._lacking = Lacking(source)
        self._flights = flights
        self._metrics = metrics
        self._sharing = sharing
        self._upkeep = upkeep
        self._can_warm = can_warm
        self._began_s = time.time()
        self._remembered: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})

    def own(self) -> dict[str, Any]:
        """Return what this worker tells the others."""
        return self._metrics.as_json(self._flights.as_json(), began_s=self._began_s)

    def totals(self) -> Totals:
        """Return what all workers counted."""
        return sum_up(self._sharing.read_all(self.own()), now_s=time.time())

    def store(self) -> Mapping[str, Any]:
        """Return ``bytes``, ``files`` and ``keys`` of the store, as far as they have been measured."""
        return self._upkeep.store

    async def missed(self) -> list[dict[str, Any]]:
        """Return what was asked for and no server has, most wanted first: ``index``, ``times``, ``since_s``.

        Some may lie in a store meanwhile; see `is_missing`.
        """
        remembered = await to_thread.run_sync(self._remember)
        rows = {folded: dict(row) for folded, row in remembered.items()}
        for index, times in self.totals().missed.items():
            row = rows.setdefault(fold(index), {"index": index, "times": 0, "since_s": self._since(index)})
            row["times"] = max(times, row["times"])
        return sorted(rows.values(), key=lambda row: (-row["times"], row["index"]))

    def is_missing(self, row: Mapping[str, Any]) -> bool:
        """Return whether no place on disk has a row of `missed`; it blocks, and only those shown should be asked of."""
        try:
            return not self._lacking.is_held(parse_index(row["index"]))
        except InputError:
            return False

    async def document(self, *, brief: bool = False) -> dict[str, Any]:
        """Return everything; *brief* leaves out what changes slowly and is long: ``samples`` and ``missing``."""
        totals = self.totals()
        now_s = time.time()
        past: dict[str, Any] = {}
        if not brief:
            missed = await self.missed()
            likely = missed[:_MOST_LOOKED_FOR]
            shown = await to_thread.run_sync(lambda: list(islice(filter(self.is_missing, likely), _SHOWN_MISSING)))
            past = {"samples": self._upkeep.samples(totals), "missing": shown}
        return {
            **past,
            "version": __version__,
            "up_s": now_s - min(totals.began_s, self._began_s),
            "workers": totals.workers,
            "requests": totals.requests,
            "transfers": totals.transfers,
            "answers": dict(totals.answers),
            "sent_bytes": totals.sent_bytes,
            "fetched_bytes": totals.fetched_bytes,
            "store": self.store(),
            "downloads": totals.downloads,
            "can_warm": self._can_warm,
        }

    def _remember(self) -> dict[str, dict[str, Any]]:
        """Return what was denied in former times too.

        It is read once a minute, or after twenty times as long as the reading took: 100,000 misses take a few seconds.
        """
        fresh_until_s, rows = self._remembered
        misses = self._source.misses
        began_s = time.monotonic()
        if misses is None or (rows and began_s < fresh_until_s):
            return rows
        rows = {}
        with misses:  # closes this thread's connection, which nobody else would
            for group in islice(self._lacking.denied(), _READ_MISSES):
                rows[fold(group[0].index)] = {
                    "index": group[0].index,
                    "times": max(miss.times for miss in group),
                    "since_s": min(miss.first_asked_s for miss in group),
                }
        now_s = time.monotonic()
        self._remembered = (now_s + max(_MISSES_FRESH_S, 20 * (now_s - began_s)), rows)
        return rows

    def _since(self, index: str) -> float | None:
        misses = self._source.misses
        try:
            key = parse_index(index)
        except InputError:
            return None
        known = [misses.recall(server.name, key) for server in self._source.servers] if misses is not None else []
        return min((miss.first_asked_s for miss in known if miss is not None), default=None)
