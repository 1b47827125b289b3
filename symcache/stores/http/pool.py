"""Connections, many at once: one small httpx client per request under way.

One client for all would look at every pooled connection for every request (encode/httpcore, discussion of
``_assign_requests_to_connections``): at 64 connections four times slower than a client per lane. This is the only
module that makes httpx clients.
"""

from __future__ import annotations

import logging
import ssl
from contextlib import asynccontextmanager, suppress
from functools import cached_property
from typing import TYPE_CHECKING

import anyio
import httpcore
import httpx

from symcache.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

__all__ = ["Lanes"]


# A lane talks to an upstream, to where that redirects, and back.
_ORIGINS_PER_LANE = 4
_READ_BYTES = 256 * 1024


class Lanes:
    """At most *count* requests at once, each on connections of its own that are kept for the next.

    Args:
        count: Requests at once.
        timeout: Patience for connecting and between two pieces of a body.
        proxy: URL of the proxy; empty for none, None for what the system and its environment say.
        ca_file: Certificates to trust beside the system's.
        transport: Stands in for the network, in tests.
    """

    def __init__(
        self,
        *,
        count: int,
        timeout: httpx.Timeout,
        proxy: str | None = None,
        ca_file: Path | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        _read_in_larger_pieces()
        _keep_targets_out_of_logs()
        self._timeout = timeout
        self._proxy = proxy
        self._transport = transport
        self._ca_file = ca_file
        self._limiter = anyio.CapacityLimiter(count)
        self._idle: list[httpx.AsyncClient] = []
        self._all: set[httpx.AsyncClient] = set()
        self._broken: set[httpx.AsyncClient] = set()

    def open(self) -> None:
        """Make the first client, so that what cannot be used is known before work begins.

        Who asks nobody need not care what proxy the environment names.

        Raises:
            ConfigError: The certificates or the proxy cannot be used.
        """
        self._idle.append(self._make())

    @property
    def free(self) -> int:
        """How many more requests could begin just now."""
        return int(self._limiter.available_tokens) - self._limiter.statistics().tasks_waiting

    @asynccontextmanager
    async def lane(self) -> AsyncIterator[httpx.AsyncClient]:
        """Wait for a free lane and lend its client; the one used last comes first, as its connection is warm."""
        # A token of its own for each loan, as one task may hold several.
        borrower = object()
        await self._limiter.acquire_on_behalf_of(borrower)
        try:
            client = self._idle.pop() if self._idle else self._make()
            try:
                yield client
            finally:
                if client in self._broken:
                    await self._drop(client)
                else:
                    self._idle.append(client)
        finally:
            self._limiter.release_on_behalf_of(borrower)

    def give_up(self, client: httpx.AsyncClient) -> None:
        """Lend *client*, whose connection failed, to nobody again.

        httpcore keeps a tunnel whose handshake failed in its pool for ever (encode/httpcore, issue 1023); after a few
        of them nobody gets a connection any more.
        """
        self._broken.add(client)

    async def aclose(self) -> None:
        """Close all connections."""
        with anyio.CancelScope(shield=True):
            for client in self._all:
                await client.aclose()
        self._all.clear()
        self._idle.clear()

    async def _drop(self, client: httpx.AsyncClient) -> None:
        self._broken.discard(client)
        self._all.discard(client)
        with anyio.CancelScope(shield=True), suppress(httpx.HTTPError, OSError):
            await client.aclose()

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        return _tls_context(self._ca_file)

    def _make(self) -> httpx.AsyncClient:
        try:
            client = httpx.AsyncClient(
                timeout=self._timeout,
                verify=self._tls,
                proxy=self._proxy or None,
                trust_env=self._proxy is None,
                transport=self._transport,
                follow_redirects=False,
                limits=httpx.Limits(max_connections=_ORIGINS_PER_LANE, keepalive_expiry=30),
            )
        except (httpx.InvalidURL, ValueError, ImportError) as error:
            raise ConfigError(f"not a proxy that can be used: {error}", where="network.proxy") from error
        # What every request sends is decided by the caller alone.
        client.headers.clear()
        self._all.add(client)
        return client


def _tls_context(ca_file: Path | None) -> ssl.SSLContext:
    # One for all lanes: reading the certificates takes longer than many a download. It trusts what the system
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
        return httpx.create_ssl_context()
    return context


def _read_in_larger_pieces() -> None:
    # httpcore reads 64 KiB at a time; asyncio hands up to 256 KiB, and slicing it costs 1.7 times the time for large
    # files. The attribute is private, so it is only touched where it is what we know.
    connection = getattr(httpcore, "AsyncHTTP11Connection", None)
    if getattr(connection, "READ_NUM_BYTES", None) == 64 * 1024:
        connection.READ_NUM_BYTES = _READ_BYTES  # type: ignore[union-attr]


def _keep_targets_out_of_logs() -> None:
    # Both write URLs and fields of answers: what a redirect leads to is signed, and must stand in no log, whatever
    # level the program that uses us has chosen for its own.
    for name in ("httpx", "httpcore"):
        logger = logging.getLogger(name)
        logger.setLevel(max(logger.level, logging.WARNING))
