"""The application: which request goes where, and what lives as long as the server does."""

from __future__ import annotations

import logging
from contextlib import AsyncExitStack
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio

from symcache.errors import SymcacheError
from symcache.events import Noted
from symcache.server.auth import Gate
from symcache.server.downloads import Downloads, Rechecks
from symcache.server.known import KnownAnswers
from symcache.server.maintenance import Maintenance
from symcache.server.metrics import Metrics, RequestLog, Sharing
from symcache.server.pages import Pages, Status
from symcache.server.request import (
    FileAsked,
    Loops,
    MalformedPath,
    Mark,
    Proxies,
    Request,
    ResponseAborted,
    parse_path,
)
from symcache.server.symbols import Symbols
from symcache.server.uploads import PageWarmer, Publisher
from symcache.stores.local.atomic import OWN_FOLDER
from symcache.stores.source import SymbolSource

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx

    from symcache.config import Config
    from symcache.events import Event
    from symcache.server.request import Asked, Receive, Scope, Send

__all__ = ["App"]

_SHARE_EVERY_S = 1.0
_RESTART_AFTER_S = 60.0
# A debugger asks for one file after another and waits for each, so a pause may take only part of its patience.
_PAUSE_OF_PATIENCE = 0.25
_BUSY = (b"retry-after", b"2")
_METHODS = (b"allow", b"GET, HEAD")
_CHALLENGE = (b"www-authenticate", b'Basic realm="symcache", charset="UTF-8"')

_log = logging.getLogger("symcache.serve")


async def _keep_running(task: Callable[[], Awaitable[None]]) -> None:
    """Run a background task; an error in it is logged, and does not end the server."""
    while True:
        try:
            await task()
        except Exception:  # noqa: BLE001 - the outermost edge of a task that nothing waits for
            _log.exception("a background task failed; it is started again in a minute")
            await anyio.sleep(_RESTART_AFTER_S)
        else:
            return


def _with_short_pauses(config: Config) -> Config:
    """Return *config* for a source that clients wait for: no pause takes more than part of their patience."""
    longest_s = min(config.network.longest_backoff_s, config.serve.patience_s * _PAUSE_OF_PATIENCE)
    return replace(config, network=replace(config.network, longest_backoff_s=longest_s))


class App:
    """The shared cache as an ASGI application; it opens stores and network when the server starts up.

    Args:
        config: Every setting.
        run: Identifies this server among those of the store; its workers share it.
        transport: Replaces the network, in tests.

    Attributes:
        known: Answers that need none of the application's own work; see `symcache.server.protocol`.
        log: Counts and logs every request.
    """

    def __init__(
        self, config: Config, *, run: str = "single", transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self._config = config
        self._run = run
        self._transport = transport
        self._settings = settings = config.serve
        self._metrics = Metrics()
        self._gate = Gate(settings)
        self._loops = Loops(run)
        self.known = KnownAnswers(settings, self._gate, self._loops, self._metrics)
        self.log = RequestLog(self._metrics, Proxies(settings.trusted_proxies), settings.access_log)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or run from the server's startup to its shutdown."""
        if scope["type"] == "http":
            await self._answer(Request(scope, receive, send))
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
        self._downloads = Downloads(source, self._group)
        rechecks = Rechecks(source, self._downloads, self._group, after_s=settings.recheck_misses_s)
        self._symbols = Symbols(source, self._downloads, rechecks, self.known, settings, metrics)
        own = None if source.store is None else source.store.root / OWN_FOLDER / "serve"
        self._sharing = Sharing(own, self._run)
        maintenance = Maintenance(source, settings, self._sharing, own)
        self._publisher = Publisher(source, self._config, self._gate)
        self._status = Status(
            source, self._downloads, metrics, self._sharing, maintenance, can_warm=settings.warm_from_page
        )
        self._pages = Pages(source, self._status, PageWarmer(source, settings))
        stack.callback(self.log.flush)
        for task in (self._share_counts, self.log.run, maintenance.run):
            self._group.start_soon(_keep_running, task)

    def _observe(self, event: Event) -> None:
        if isinstance(event, Noted):
            _log.warning("%s", event.text)
        else:
            self._downloads.observe(event)

    async def _share_counts(self) -> None:
        """Let the other workers know what this one has counted."""
        while True:
            self._sharing.write(self._status.own())
            await anyio.sleep(_SHARE_EVERY_S)

    async def _answer(self, request: Request) -> None:
        metrics = self._metrics
        metrics.requests += 1
        try:
            if metrics.requests > self._settings.connections:
                request.kind = "refused"
                await request.send_text(503, "too many requests at once", [_BUSY])
            else:
                await self._route(request)
        except ResponseAborted:
            request.kind = "cut"
            raise
        except anyio.get_cancelled_exc_class():
            # The server stops and cannot wait longer: a client must not take what it has for a complete body.
            if request.status and request.connection is not None:
                request.connection.abort()
            request.kind = "cut"
            raise
        finally:
            metrics.requests -= 1
            self.log.record(
                request.began_s,
                request.scope.get("client"),
                request.method,
                request.raw_path,
                request.headers,
                request.status,
                request.sent_bytes,
                request.kind,
            )

    async def _route(self, request: Request) -> None:
        if request.raw_path == b"/healthz":
            request.kind = "page"
            await request.send_text(200, "ok")
            return
        try:
            asked = parse_path(request.raw_path)
        except MalformedPath:
            request.kind = "malformed"
            await request.send_text(400, "not a path of a file")
            return
        if request.method == "PUT":
            request.kind = "upload"
            await self._publisher.answer(request, asked)
        elif not await self._gate.check(request.headers):
            request.kind = "unauthorized"
            await request.send_text(401, "credentials are needed", [_CHALLENGE])
        elif self._loops.is_in_one(request.headers):
            request.kind = "loop"
            _log.warning("a loop: this server asks another one that asks this one; correct one symbol path")
            await request.send_text(508, "this server asks itself by way of another one")
        elif not await self._pages.answer(request):
            await self._answer_path(request, asked)

    async def _answer_path(self, request: Request, asked: Asked) -> None:
        if request.method not in {"GET", "HEAD"}:
            await request.send_text(405, "", [_METHODS])
        elif isinstance(asked, FileAsked):
            with self._loops.noting(request.headers):
                await self._symbols.answer(request, asked)
        elif isinstance(asked, Mark):
            request.kind = "probe"
            is_there = asked is Mark.TWO_TIER and self._symbols.is_two_tier
            await request.send_text(200 if is_there else 404, "" if is_there else "not found")
        else:
            await request.send_text(404, "not found")
