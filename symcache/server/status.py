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

if TYPE_CHECKING:
    from collections.abc import Mapping

    from symcache.server.flights import Flights
    from symcache.server.metrics import Metrics, Sharing, Totals
    from symcache.server.upkeep import Upkeep
    from symcache.upstream.source import SymbolSource

__all__ = ["Status"]

_SHOWN_MISSING = 50
_READ_MISSES = 5_000
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
        """Return what was asked for and not found, most wanted first: ``index``, ``times``, ``since_s``."""
        remembered = await to_thread.run_sync(self._remember)
        rows = {folded: dict(row) for folded, row in remembered.items()}
        for index, times in self.totals().missed.items():
            row = rows.setdefault(fold(index), {"index": index, "times": 0, "since_s": self._since(index)})
            row["times"] = max(times, row["times"])
        return sorted(rows.values(), key=lambda row: (-row["times"], row["index"]))

    async def document(self, *, brief: bool = False) -> dict[str, Any]:
        """Return everything; *brief* leaves out what changes slowly and is long: ``samples`` and ``missing``."""
        totals = self.totals()
        now_s = time.time()
        past: dict[str, Any] = {}
        if not brief:
            past = {"samples": self._upkeep.samples(totals), "missing": (await self.missed())[:_SHOWN_MISSING]}
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
        """Return the misses that are remembered from former times too, read once a minute."""
        read_s, rows = self._remembered
        misses = self._source.misses
        if misses is None or (rows and time.monotonic() - read_s < _MISSES_FRESH_S):
            return rows
        rows = {}
        with misses:  # closes this thread's connection, which nobody else would
            for miss in islice(misses.list(), _READ_MISSES):
                row = rows.setdefault(
                    fold(miss.index), {"index": miss.index, "times": 0, "since_s": miss.first_asked_s}
                )
                row["times"] = max(row["times"], miss.times)
                row["since_s"] = min(row["since_s"], miss.first_asked_s)
        self._remembered = (time.monotonic(), rows)
        return rows

    def _since(self, index: str) -> float | None:
        misses = self._source.misses
        try:
            key = parse_index(index)
        except InputError:
            return None
        known = [misses.recall(server.name, key) for server in self._source.servers] if misses is not None else []
        return min((miss.first_asked_s for miss in known if miss is not None), default=None)
