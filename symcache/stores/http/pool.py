"""What requests travel on: one transport for each request under way, kept with its connections for the next.

One httpx transport for all would look at every pooled connection for every request (encode/httpcore, discussion of
``_assign_requests_to_connections``): at 64 connections four times slower than one each.
"""

from __future__ import annotations

import ssl
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING
from urllib.request import getproxies

import anyio
import httpx

from symcache.errors import ConfigError
from symcache.stores.http.limit import ConnectionLimit
from symcache.stores.http.transport import DirectTransport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["TransportPool"]


# A request goes to an upstream, to where that redirects, and back.
_ORIGINS = 4
_IDLE_S = 30.0


class TransportPool:
    """Lends transports to requests, as many at once as the limit allows.

    Args:
        connections: Requests at once; None finds out how many help.
        timeout: Longest wait for a connection and between two pieces of a body.
        proxy: URL of the proxy; empty for none, None for what the system and its environment say.
        ca_file: Certificates to trust beside the system's.
        prefer_direct: Whether `DirectTransport` carries what goes through no proxy; else httpx's own does.
        network: Stands in for the network, in tests.
    """

    def __init__(
        self,
        *,
        connections: int | None,
        timeout: httpx.Timeout,
        proxy: str | None = None,
        ca_file: Path | None = None,
        prefer_direct: bool = True,
        network: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self.timeouts = timeout.as_dict()
        self._proxy = proxy
        self._ca_file = ca_file
        self._prefer_direct = prefer_direct
        self._network = network
        self._limit = ConnectionLimit(connections)
        self._limiter = anyio.CapacityLimiter(self._limit.value)
        self._idle: list[httpx.AsyncBaseTransport] = []
        self._all: set[httpx.AsyncBaseTransport] = set()
        self._broken: set[httpx.AsyncBaseTransport] = set()

    def open(self) -> None:
        """Make the first transport, so that what cannot be used is known before work begins.

        A pool that is never asked accepts any proxy.

        Raises:
            ConfigError: The certificates or the proxy cannot be used.
        """
        self._idle.append(self._make())

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
        if self._is_direct:
            transport: httpx.AsyncBaseTransport = DirectTransport(self._tls, most_idle=_ORIGINS)
        else:
            transport = self._make_httpx()
        self._all.add(transport)
        return transport

    def _make_httpx(self) -> httpx.AsyncBaseTransport:
        limits = httpx.Limits(max_connections=_ORIGINS, keepalive_expiry=_IDLE_S)
        try:
            if self._proxy is None:
                return _FollowingEnvironment(httpx.AsyncClient(verify=self._tls, limits=limits))
            return httpx.AsyncHTTPTransport(verify=self._tls, proxy=self._proxy or None, limits=limits)
        except (httpx.InvalidURL, ValueError, ImportError) as error:
            raise ConfigError(f"not a proxy that can be used: {error}", where="network.proxy") from error

    @cached_property
    def _is_direct(self) -> bool:
        has_proxy = bool(self._proxy) or (self._proxy is None and not getproxies().keys().isdisjoint(_PROXIES))
        return self._prefer_direct and not has_proxy

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return _tls_context(self._ca_file)


_PROXIES = {"http", "https", "all"}


class _FollowingEnvironment(httpx.AsyncBaseTransport):
    """Sends each request where the system's settings and proxy variables say, which only a client of httpx reads."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self._client = client

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        return await self._client.send(request, stream=True, auth=None)

    async def aclose(self) -> None:
        await self._client.aclose()


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    # One for all transports: reading the certificates takes longer than many a download. It trusts what the system
    # trusts, as company proxies are there and not in any bundle.
    context = ssl.create_default_context()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            reason = "not a PEM file" if isinstance(error, ssl.SSLError) else error.strerror
            problem = f"{ca_file} holds no certificates: {reason}; name a PEM file of authorities, or leave it out"
            raise ConfigError(problem, where="network.ca_file") from error
    if not context.cert_store_stats()["x509_ca"] and ca_file is None:
        context = httpx.create_ssl_context()
    context.set_alpn_protocols(["http/1.1"])
    return context
