"""The page for people and what it shows, and the counts for machines."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from symcache.server.answers import header_list
from symcache.server.metrics import sum_up
from symcache.server.prometheus import format_metrics

if TYPE_CHECKING:
    from symcache.config import Config
    from symcache.server.exchange import Exchange
    from symcache.server.flights import Flights
    from symcache.server.metrics import Metrics, Sharing, Totals
    from symcache.server.proxies import Proxies
    from symcache.server.upkeep import Upkeep
    from symcache.upstream.source import SymbolSource

__all__ = ["Pages"]


class Pages:
    """Everything that is no file of a store."""

    def __init__(
        self,
        config: Config,
        source: SymbolSource,
        flights: Flights,
        metrics: Metrics,
        sharing: Sharing,
        upkeep: Upkeep,
        proxies: Proxies,
    ) -> None:
        self._config = config
        self._source = source
        self._flights = flights
        self._metrics = metrics
        self._sharing = sharing
        self._upkeep = upkeep
        self._proxies = proxies

    async def answer(self, exchange: Exchange) -> bool:
        """Answer *exchange* if it asks for one of these; return whether it did."""
        if exchange.raw_path == b"/metrics":
            exchange.said = "page"
            totals = self._totals()
            body = format_metrics(totals, self._upkeep.history["store"]).encode()
            await exchange.begin(200, header_list(b"text/plain; version=0.0.4; charset=utf-8", len(body)))
            await exchange.send(b"" if exchange.method == "HEAD" else body)
            return True
        return False

    def _totals(self) -> Totals:
        own = self._metrics.as_json(flights=len(self._flights))
        return sum_up(self._sharing.read_all(own), now_s=time.time())
