"""What requests travel on: one transport for each request under way, kept with its connections for the next.

One httpx transport for all would look at every pooled connection for every request (encode/httpcore, discussion of
``_assign_requests_to_connections``): at 64 connections four times slower than one each.
"""

from __future__ import annotations

import math
import time
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TYPE_CHECKING

import anyio
import httpx

from symcache.errors import ConfigError
from symcache.stores.http.certificates import Trust
from symcache.stores.http.connect import STAYS_OUTSIDE, Connector, SilenceError
from symcache.stores.http.proxies import ProxyRules
from symcache.stores.http.reply import Pace
from symcache.stores.http.transport import Http1Transport
from symcache.stores.http.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence
    from typing import Self

    from symcache.config import Network, ServerEntry
    from symcache.stores.http.proxies import Proxy

__all__ = ["MAX_AUTO_CONNECTIONS", "ConnectionLimit", "TransportPool"]


# A request goes to an upstream, to where that redirects, and back.
_ORIGINS = 4
_IDLE_S = 30.0


MAX_AUTO_CONNECTIONS = 64

_INITIAL = 8
_MIN = 2
_WORTHWHILE_GAIN = 1.1
_ROUNDS_BETWEEN_PROBES = 16
# What a response counts beside its bytes, so that misses and small files are worth a round trip too.
_RESPONSE_BYTES = 32 * 1024


class ConnectionLimit:
    """The number of requests that may be under way, adjusted while they are answered.

    The limit doubles as long as that raises the throughput by a tenth, and is tried again after some rounds. A round
    ends when as many responses have come as the limit allows requests. After a sign of overload (429, 503, a time-out)
    the limit is halved, once a round, and from then on grows by one a round.

    Args:
        fixed: A limit that stays; None finds one, up to `MAX_AUTO_CONNECTIONS`.
        clock_s: Monotonic seconds.
    """

    def __init__(self, fixed: int | None = None, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.value = fixed or _INITIAL
        self.most = fixed or MAX_AUTO_CONNECTIONS
        self._is_fixed = fixed is not None
        self._clock_s = clock_s
        self._was_overloaded = False
        self._overloaded_s = -math.inf
        self._proven = self.value  # the largest limit that brought more than the one before it, and what it brought
        self._proven_rate = 0.0
        self._rounds_to_wait = 0
        self._saturated = False
        self._begin_round()

    def note_response(self, size_bytes: int, *, saturated: bool) -> None:
        """Note a response.

        Args:
            size_bytes: Length of its body.
            saturated: As many requests as the limit allows were under way.
        """
        if self._is_fixed:
            return
        self._responses += 1
        self._units += size_bytes + _RESPONSE_BYTES
        self._saturated = self._saturated or saturated
        if self._responses >= self.value:
            if self._saturated:
                self._end_round(self._units / max(self._clock_s() - self._began_s, 1e-6))
            self._begin_round()

    def note_overload(self, *, asked_s: float) -> None:
        """Note a sign of overload in answer to what was asked at *asked_s*, unless one has halved the limit since."""
        if self._is_fixed or asked_s < self._overloaded_s:
            return
        self._was_overloaded = True
        self.value = max(self.value // 2, _MIN)
        self._overloaded_s = self._clock_s()
        self._begin_round()

    def _begin_round(self) -> None:
        self._began_s = self._clock_s()
        self._responses = self._units = 0
        self._saturated = False

    def _end_round(self, rate: float) -> None:
        if self._was_overloaded:
            self.value = min(self.value + 1, self.most)
        elif self._rounds_to_wait > 1:
            self._rounds_to_wait -= 1
        elif self._rounds_to_wait or rate > self._proven_rate * _WORTHWHILE_GAIN:
            self._rounds_to_wait = 0
            self._proven, self._proven_rate = self.value, rate
            self.value = min(2 * self.value, self.most)
        else:
            self.value, self._rounds_to_wait = self._proven, _ROUNDS_BETWEEN_PROBES


class TransportPool:
    """Lends transports to requests, as many at once as the limit allows.

    Args:
        settings: How servers are reached: proxies, certificates, time-outs, and how many requests at once.
        entries: What the config file says of servers; some want to be shown a certificate.
        connections: Requests at once, in place of the setting.
        timeout_s: Every time-out, in place of the settings.
        network: Stands in for the network, in tests.
    """

    def __init__(
        self,
        settings: Network,
        entries: Sequence[ServerEntry] = (),
        *,
        connections: int | None = None,
        timeout_s: float | None = None,
        network: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        timeout = httpx.Timeout(timeout_s or settings.read_timeout_s, connect=timeout_s or settings.connect_timeout_s)
        self.timeouts = timeout.as_dict()
        self._settings = settings
        self._entries = entries
        self._network = network
        self._connector: Connector | None = None
        self._limit = ConnectionLimit(connections or settings.connections)
        self._limiter = anyio.CapacityLimiter(self._limit.value)
        self._idle: list[httpx.AsyncBaseTransport] = []
        self._all: set[httpx.AsyncBaseTransport] = set()
        self._broken: set[httpx.AsyncBaseTransport] = set()

    def open(self) -> None:
        """Read what is needed of certificates and proxies, so that what cannot be used is known before work begins.

        A pool that is never asked accepts any proxy.

        Raises:
            ConfigError: The certificates or the proxy cannot be used.
        """
        if self._network is None and self._connector is None:
            settings = self._settings
            self._trust = Trust(settings.ca_file, self._entries)
            self._trust.check()
            self.proxies = ProxyRules(settings.proxy, script=settings.proxy_script, no_proxy=settings.no_proxy)
            self._connector = Connector(self.proxies, self._trust)

    @property
    def connector(self) -> Connector:
        """What opens connections."""
        self.open()
        assert self._connector is not None
        return self._connector

    @property
    def max_connections(self) -> int:
        """How many requests may run at most, whatever the limit is now."""
        return self._limit.most

    @property
    def free(self) -> int:
        """How many more requests could begin now; negative if others wait."""
        return int(self._limiter.available_tokens) - self._limiter.statistics().tasks_waiting

    @asynccontextmanager
    async def transport(self) -> AsyncIterator[httpx.AsyncBaseTransport]:
        """Wait until a request may run and lend a transport; the one used last first, as its connection is warm."""
        # A token of its own for each loan, as one task may hold several.
        borrower = object()
        await self._limiter.acquire_on_behalf_of(borrower)
        try:
            transport = self._idle.pop() if self._idle else self._make()
            try:
                yield transport
            finally:
                if transport in self._broken:
                    await self._drop(transport)
                else:
                    self._idle.append(transport)
        finally:
            self._limiter.release_on_behalf_of(borrower)

    def pace(self) -> Pace:
        """Return what watches how fast a body arrives, from now on."""
        return Pace(self._settings.slowest_bytes_per_s, self._settings.slowest_time_s)

    def discard(self, transport: httpx.AsyncBaseTransport) -> None:
        """Close *transport*, whose connection failed, when it comes back.

        httpcore keeps a tunnel whose handshake failed in its pool for ever (encode/httpcore, issue 1023); after a few
        of them no request gets a connection any more.
        """
        self._broken.add(transport)

    def note_response(self, size_bytes: int) -> None:
        """Note that a response of *size_bytes* came whole, while its transport is still on loan."""
        self._limit.note_response(size_bytes, saturated=self._limiter.available_tokens <= 0)
        self._limiter.total_tokens = self._limit.value

    def note_overload(self, *, asked_s: float) -> None:
        """Note that a server, asked at *asked_s* (`time.monotonic`), is overloaded or does not answer in time."""
        self._limit.note_overload(asked_s=asked_s)
        self._limiter.total_tokens = self._limit.value

    async def aclose(self) -> None:
        """Close all connections."""
        with anyio.CancelScope(shield=True):
            for transport in self._all:
                await transport.aclose()
        self._all.clear()
        self._idle.clear()

    async def _drop(self, transport: httpx.AsyncBaseTransport) -> None:
        self._broken.discard(transport)
        self._all.discard(transport)
        with anyio.CancelScope(shield=True), suppress(httpx.HTTPError, OSError):
            await transport.aclose()

    def _make(self) -> httpx.AsyncBaseTransport:
        if self._network is not None:
            return self._network
        connector = self.connector
        if self._settings.transport == "httpx":
            transport: httpx.AsyncBaseTransport = _HttpxTransport(self.proxies, self._trust, connector)
        else:
            transport = Http1Transport(connector, most_idle=_ORIGINS)
        self._all.add(transport)
        return transport


class _HttpxTransport(httpx.AsyncBaseTransport):
    """httpx's own transports, one for each proxy and set of certificates.

    A request that has to stay outside goes by the direct one, which alone looks at the address that is connected to.
    """

    def __init__(self, proxies: ProxyRules, trust: Trust, connector: Connector) -> None:
        self._proxies = proxies
        self._trust = trust
        self._outside = Http1Transport(connector, most_idle=_ORIGINS)
        self._by_route: dict[object, httpx.AsyncHTTPTransport] = {}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send *request* by the first route there is to its server."""
        if request.extensions.get(STAYS_OUTSIDE):
            return await self._outside.handle_async_request(request)
        url = request.url
        proxy = (await self._proxies.routes(url))[0].proxy
        tls = self._trust.context_for(origin_of(url))
        if (proxy, tls) not in self._by_route:
            limits = httpx.Limits(max_connections=_ORIGINS, keepalive_expiry=_IDLE_S)
            via = None if proxy is None else _httpx_proxy(proxy)
            self._by_route[proxy, tls] = httpx.AsyncHTTPTransport(verify=tls, proxy=via, limits=limits)
        timeouts = request.extensions.get("timeout", {})
        read_s = timeouts.get("read")
        bounds_s = (timeouts.get("connect"), read_s)
        # httpx waits for each piece anew, so that fields that trickle would have no end.
        with _in_time(None if None in bounds_s else sum(bounds_s), "no answer in time", request):
            response = await self._by_route[proxy, tls].handle_async_request(request)
        assert isinstance(response.stream, httpx.AsyncByteStream)
        response.stream = _TimedBody(response.stream, read_s, request)
        return response

    async def aclose(self) -> None:
        """Close all connections."""
        await self._outside.aclose()
        for transport in self._by_route.values():
            await transport.aclose()


class _TimedBody(httpx.AsyncByteStream):
    """A body each piece of which has to come in time, however it is cut into chunks."""

    def __init__(self, body: httpx.AsyncByteStream, read_s: float | None, request: httpx.Request) -> None:
        self._body = body
        self._pieces = aiter(body)
        self._read_s = read_s
        self._request = request

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        with _in_time(self._read_s, "the body stopped, and nothing more came in time", self._request):
            return await anext(self._pieces)

    async def aclose(self) -> None:
        await self._body.aclose()


@contextmanager
def _in_time(bound_s: float | None, problem: str, request: httpx.Request) -> Iterator[None]:
    try:
        with anyio.fail_after(bound_s):
            yield
    except TimeoutError as error:
        raise SilenceError(problem, request=request) from error


def _httpx_proxy(proxy: Proxy) -> httpx.Proxy:
    auth = None if proxy.username is None else (proxy.username, proxy.password)
    try:
        return httpx.Proxy(str(proxy), auth=auth)
    except ValueError as error:
        problem = f"httpx's transport cannot use the proxy {proxy}; leave network.transport at auto"
        raise ConfigError(problem, where="network.transport") from error
