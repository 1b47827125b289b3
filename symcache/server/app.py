"""The application: which request goes where, and what lives as long as the server does."""

from __future__ import annotations

import logging
import time
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from symcache.errors import SymcacheError
from symcache.events import Noted
from symcache.server.auth import Gate
from symcache.server.inflight import Flights
from symcache.server.metrics import Metrics, Sharing
from symcache.server.pages import Pages, Status
from symcache.server.protocol import CutOffError, Exchange
from symcache.server.request import FileAsked, Loops, MalformedPath, Mark, Proxies, parse_path
from symcache.server.run import AccessLines
from symcache.server.symbols import Symbols
from symcache.server.upkeep import Rechecks, Upkeep
from symcache.server.upload import Uploads
from symcache.server.warming import Warming
from symcache.stores.local.staging import OWN_FOLDER
from symcache.stores.source import SymbolSource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

    from symcache.config import Config
    from symcache.events import Event
    from symcache.server.protocol import Receive, Scope, Send

__all__ = ["App"]

_TELL_EVERY_S = 1.0
_BEGIN_ANEW_S = 60.0
# A debugger asks for one file after another and could be kept waiting for each, so that no pause takes it all.
_PAUSE_OF_PATIENCE = 0.25
_BUSY = (b"retry-after", b"2")
_METHODS = (b"allow", b"GET, HEAD")

_log = logging.getLogger("symcache.serve")


async def _keep_doing(duty: Callable[[], Awaitable[None]]) -> None:
    """Do what goes on behind the requests; a mistake in it is logged, and never ends the server."""
    while True:
        try:
            await duty()
        except Exception:  # noqa: BLE001 - the outermost edge of what nobody waits for
            _log.exception("a duty of the server failed, and begins anew")
            await anyio.sleep(_BEGIN_ANEW_S)
        else:
            return


def _with_short_pauses(config: Config) -> Config:
    """Return *config* for a source on which clients wait: no pause takes more than a part of their patience."""
    longest_s = min(config.network.longest_backoff_s, config.serve.patience_s * _PAUSE_OF_PATIENCE)
    return replace(config, network=replace(config.network, longest_backoff_s=longest_s))


class App:
    """The shared cache as an ASGI application; it opens stores and network when the server starts up.

    Args:
        config: Every setting.
        run: Names this server among those of the store; its workers share it.
        transport: Stands in for the network, in tests.
    """

    def __init__(
        self, config: Config, *, run: str = "single", transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._config = config
        self._run = run
        self._transport = transport
        self._settings = config.serve
        self._metrics = Metrics()
        self._gate = Gate(config.serve)
        self._proxies = Proxies(config.serve.trusted_proxies)
        self._loops = Loops(run)
        self._lines = AccessLines(config.serve.access_log)
        self._is_open = self._gate.is_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or live through one life of the server."""
        if scope["type"] == "http":
            await self._answer(Exchange(scope, receive, send))
        elif scope["type"] == "lifespan":
            await self._live(receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            async with AsyncExitStack() as stack:
                await self._start(stack)
                await send({"type": "lifespan.startup.complete"})
                await receive()
                self._group.cancel_scope.cancel()
        except SymcacheError as error:
            _log.error("%s", error)
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        await send({"type": "lifespan.shutdown.complete"})

    async def _start(self, stack: AsyncExitStack) -> None:
        source = await stack.enter_async_context(
            SymbolSource(
                _with_short_pauses(self._config),
                observer=self._observe,
                transport=self._transport,
                tell_end=self._metrics.fetch_ended,
            )
        )
        self._group = await stack.enter_async_context(anyio.create_task_group())
        metrics, settings = self._metrics, self._settings
        self._flights = Flights(source, self._group)
        rechecks = Rechecks(source, self._flights, self._group, after_s=settings.recheck_misses_s)
        self._symbols = Symbols(source, self._flights, rechecks, settings, metrics)
        own = None if source.store is None else source.store.root / OWN_FOLDER / "serve"
        self._sharing = Sharing(own, self._run)
        self._source = source
        upkeep = Upkeep(source, settings, self._sharing, own)
        self._uploads = Uploads(source, self._config, self._gate)
        can_warm = settings.warm_from_page
        self._status = Status(source, self._flights, metrics, self._sharing, upkeep, can_warm=can_warm)
        self._pages = Pages(source, self._status, Warming(source, settings))
        stack.callback(self._lines.close)
        for duty in (self._tell, self._lines.run, upkeep.run):
            self._group.start_soon(_keep_doing, duty)

    def _observe(self, event: Event) -> None:
        if isinstance(event, Noted):
            _log.warning("%s", event.text)
        else:
            self._flights.observe(event)

    async def _tell(self) -> None:
        """Tell the other workers what this one has counted."""
        while True:
            self._sharing.tell(self._status.own())
            await anyio.sleep(_TELL_EVERY_S)

    async def _answer(self, exchange: Exchange) -> None:
        metrics = self._metrics
        metrics.requests += 1
        try:
            if metrics.requests > self._settings.connections:
                exchange.said = "refused"
                await exchange.say(503, "too many requests at once", [_BUSY])
            elif not (
                self._is_open and exchange.method in {"GET", "HEAD"} and await self._symbols.answer_known(exchange)
            ):
                await self._route(exchange)
        except CutOffError:
            exchange.said = "cut"
            raise
        except anyio.get_cancelled_exc_class():
            # The server stops and can wait no longer: nobody shall take what was sent for the whole.
            if exchange.status and exchange.connection is not None:
                exchange.connection.abort()
            exchange.said = "cut"
            raise
        finally:
            metrics.requests -= 1
            metrics.count(exchange)
            if self._lines.is_wanted:
                client = self._proxies.client_of(exchange)
                self._lines.add(exchange, client, took_s=time.monotonic() - exchange.began_s)

    async def _route(self, exchange: Exchange) -> None:
        if exchange.raw_path == b"/healthz":
            exchange.said = "page"
            await exchange.say(200, "ok")
            return
        try:
            asked = parse_path(exchange.raw_path)
        except MalformedPath:
            exchange.said = "malformed"
            await exchange.say(400, "not a path of a file")
            return
        if exchange.method == "PUT":
            exchange.said = "upload"
            await self._uploads.answer(exchange, asked)
            return
        if not await self._gate.admit(exchange):
            return
        if self._loops.is_in_one(exchange):
            exchange.said = "loop"
            _log.warning("a loop: this server asks another one that asks this one; mend the symbol path of one of them")
            await exchange.say(508, "this server asks itself by way of another one")
            return
        if await self._pages.answer(exchange):
            return
        if exchange.method not in {"GET", "HEAD"}:
            await exchange.say(405, "", [_METHODS])
        elif isinstance(asked, FileAsked):
            with self._loops.noting(exchange):
                if self._is_open or not await self._symbols.answer_known(exchange):
                    await self._symbols.answer(exchange, asked)
        elif isinstance(asked, Mark):
            exchange.said = "probe"
            is_there = asked is Mark.TWO_TIER and self._symbols.is_two_tier
            await exchange.say(200 if is_there else 404, "" if is_there else "not found")
        else:
            exchange.said = "other"
            await exchange.say(404, "not found")
