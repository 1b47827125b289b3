"""Sending files: what lies in the store, and what still arrives."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from symcache.server.answers import Facts, select
from symcache.server.upkeep import open_shared, read_at
from symcache.stores.results import Fetched, Present

if TYPE_CHECKING:
    from symcache.server.answers import Selected
    from symcache.server.inflight import Flight, Growth
    from symcache.server.metrics import Metrics
    from symcache.server.protocol import Exchange

__all__ = ["Transfers"]

_PIECE_BYTES = 256 * 1024
_SMALL_PIECE_BYTES = 64 * 1024
_MANY = 64


class Transfers:
    """Sends files, in pieces that are smaller while there are many transfers.

    Args:
        metrics: Counts them.
    """

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    async def pass_on(self, exchange: Exchange, flight: Flight, growth: Growth) -> None:
        """Answer with a file while it arrives; without its last piece until it was found right."""
        facts = Facts.of(growth.size_bytes)
        chosen = select(facts, exchange.fields)
        with growth.reading():
            await exchange.begin(chosen.status, chosen.headers)
            if exchange.method == "HEAD" or chosen.start == chosen.stop:
                await exchange.send(b"")
                return
            self._metrics.transfers += 1
            try:
                at = await self._send_growing(exchange, flight, growth, chosen)
                if at < chosen.stop and not exchange.is_gone:
                    await self._send_rest(exchange, flight, growth, at, chosen)
            finally:
                self._metrics.transfers -= 1

    async def send_file(self, exchange: Exchange, fd: int, facts: Facts) -> None:
        """Answer with the file *fd*, which is complete and right."""
        chosen = select(facts, exchange.fields)
        await exchange.begin(chosen.status, chosen.headers)
        if exchange.method == "HEAD" or chosen.start == chosen.stop:
            await exchange.send(b"")
            return
        self._metrics.transfers += 1
        try:
            await self._send_range(exchange, fd, chosen.start, chosen.stop)
        finally:
            self._metrics.transfers -= 1

    async def _send_growing(self, exchange: Exchange, flight: Flight, growth: Growth, chosen: Selected) -> int:
        """Send what arrives until the flight has ended; return how far it went."""
        at = chosen.start
        while not exchange.is_gone and at < chosen.stop and not growth.is_broken:
            ready = min(growth.readable_bytes, chosen.stop) - at
            if ready > 0:
                piece_bytes = self._piece_bytes()
                # Cut at the same places for everybody, so that pieces are shared.
                data = growth.read(at, min(ready, piece_bytes - at % piece_bytes))
                at += len(data)
                await exchange.send(data, more=at < chosen.stop)
            elif flight.outcome is not None:
                break
            else:
                with anyio.move_on_after(5.0):
                    await flight.wait()
        return at

    async def _send_rest(self, exchange: Exchange, flight: Flight, growth: Growth, at: int, chosen: Selected) -> None:
        """Send the rest from the published file, if it is the one that was begun; else cut the client off."""
        has_begun = at > chosen.start
        while flight.outcome is None and not (growth.is_broken and has_begun) and not exchange.is_gone:
            with anyio.move_on_after(5.0):
                await flight.wait()
        outcome = flight.outcome
        if isinstance(outcome, Present | Fetched):
            with suppress(OSError):
                fd = open_shared(outcome.path)
                try:
                    is_as_long = os.fstat(fd).st_size == growth.size_bytes
                    if is_as_long and (not has_begun or await to_thread.run_sync(growth.is_beginning_of, fd)):
                        await self._send_range(exchange, fd, at, chosen.stop)
                        return
                finally:
                    os.close(fd)
        exchange.said = "cut"
        await exchange.cut_off()

    async def _send_range(self, exchange: Exchange, fd: int, start: int, stop: int) -> None:
        """Send a range of a file that is complete, in this thread: from the page cache that beats handing it over."""
        while start < stop and not exchange.is_gone:
            data = read_at(fd, min(self._piece_bytes(), stop - start), start)
            if not data:
                exchange.said = "cut"  # cut short on the disk, which the announced length gives away
                await exchange.cut_off()
                return
            start += len(data)
            await exchange.send(data, more=start < stop)

    def _piece_bytes(self) -> int:
        return _PIECE_BYTES if self._metrics.transfers <= _MANY else _SMALL_PIECE_BYTES
