"""Can the servers be reached, and does each behave as one? Stage by stage, up to the first that fails."""

from __future__ import annotations

import os
import socket
import time
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
from anyio.streams.tls import TLSAttribute

from symcache.config import locate
from symcache.doctor.finding import Finding, Rating
from symcache.errors import ConfigError, UpstreamError
from symcache.identity import Tier, compressed_name, parse_index, relative_parts
from symcache.stores.http.auth import Credentials
from symcache.stores.http.certificates import parse_certificate
from symcache.stores.http.client import Client
from symcache.stores.http.connect import DistrustError, ProxyRefusedError
from symcache.stores.http.pool import TransportPool
from symcache.stores.http.probe import Behaviour, probe_server
from symcache.stores.http.reply import translate
from symcache.stores.http.retry import CircuitBreaker
from symcache.stores.http.servers import hints_for, server_for
from symcache.stores.http.urls import file_url, origin_of, parse_url, redact
from symcache.sympath import MICROSOFT

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from symcache.config import Config
    from symcache.identity import Key
    from symcache.stores.http.connect import Opened
    from symcache.stores.http.probe import Probe
    from symcache.stores.http.proxies import Route

__all__ = ["examine_servers"]


# A PDB of Windows 10's kernel that Microsoft has had for years.
_LASTING = parse_index("ntkrnlmp.pdb/32C1A669D5FFEFD41091F636CFDB6E991/ntkrnlmp.pdb")
_SPEED_BYTES = 2 << 20
_SPEED_S = 5.0
_SLOW_BYTES_PER_S = 256 * 1024
_SOON_DAYS = 14


async def examine_servers(
    urls: Sequence[str], config: Config, *, known: Sequence[Key] = (), timeout_s: float = 10.0
) -> list[Finding]:
    """Return what was found of each of *urls*, all of which are asked at once.

    Args:
        urls: As a symbol path has them.
        config: Proxy, authorities, credentials, and what it says of the servers.
        known: Files that they may have.
        timeout_s: Longest wait for a connection, for an answer, and for the whole of a probe.
    """
    pool = TransportPool(config.network, config.server, connections=max(len(urls), 1), timeout_s=timeout_s)
    try:
        pool.open()
    except ConfigError as error:
        error = locate(error, config)
        return [Finding("server", "all servers", "settings", Rating.WRONG, str(error), "change or remove it")]
    netrc_file = Path.home() / ("_netrc" if os.name == "nt" else ".netrc") if config.network.netrc else None
    credentials = Credentials(config.server, netrc_file)
    breaker = CircuitBreaker(failures=1000, cool_down_s=0, longest_pause_s=0)
    client = Client(pool, breaker, credentials=credentials, agent_extra=config.network.user_agent_extra)
    found: dict[str, list[Finding]] = {}

    async def examine(url: str) -> None:
        examination = _Examination(url, config, client, credentials, known, timeout_s)
        found[url] = [finding async for finding in examination.run()]

    try:
        async with anyio.create_task_group() as group:
            for url in dict.fromkeys(urls):
                group.start_soon(examine, url)
    finally:
        await pool.aclose()
    return [finding for url in dict.fromkeys(urls) for finding in found[url]]


class _Examination:
    """The examination of one server."""

    def __init__(
        self,
        url: str,
        config: Config,
        client: Client,
        credentials: Credentials,
        known: Sequence[Key],
        timeout_s: float,
    ) -> None:
        self._text = url
        self._shown = redact(url)
        self._hints = hints_for(url, config.server)
        self._client = client
        self._credentials = credentials
        public = server_for(url)
        self._known = [*known, *([_LASTING] if public is not None and public.url == MICROSOFT else [])]
        self._timeout_s = timeout_s
        self._say = partial(Finding, "server", self._shown)

    async def run(self) -> AsyncIterator[Finding]:
        """Yield what is found, up to the first stage that fails."""
        try:
            url = parse_url(self._text)
            routes = await self._client.pool.proxies.routes(url)
        except UpstreamError as error:
            yield self._say("address", Rating.WRONG, error.problem, "correct the symbol path")
            return
        except ConfigError as error:
            yield self._say("proxy", Rating.WRONG, str(error), "correct the script's address, or set network.proxy")
            return
        went_well = True
        async for finding in self._connect(url, routes):
            yield finding
            went_well = went_well and finding.rating is not Rating.WRONG
        if not went_well:
            return
        try:
            await self._credentials.sign_in(url)
        except UpstreamError as error:
            yield self._say("sign-in", Rating.WRONG, error.problem, "correct this server's block in the config file")
            return
        yield self._say("sign-in", Rating.FINE, self._credentials.describe(url))
        probe = await probe_server(self._client, self._text, self._hints, self._known, self._timeout_s)
        finding = self._judge(probe)
        yield finding
        if finding.rating is not Rating.WRONG:
            async for finding in self._fetch_known(probe):
                yield finding

    async def _connect(self, url: httpx.URL, routes: Sequence[Route]) -> AsyncIterator[Finding]:
        way = _describe(routes)
        request = httpx.Request("GET", url, extensions={"timeout": self._client.pool.timeouts})
        began_s = time.perf_counter()
        try:
            opened = await self._client.pool.connector.open(request, origin_of(url))
        except (httpx.HTTPError, UpstreamError) as error:
            known = error if isinstance(error, UpstreamError) else translate(error, self._shown)
            check = "connection"
            if isinstance(error, ProxyRefusedError) or (routes[0].proxy and isinstance(error, httpx.ConnectTimeout)):
                check = "proxy"
                yield self._say(check, Rating.WRONG, f"{way}: {known.problem}", _PROXY_ADVICE)
                return
            yield self._say("proxy", Rating.FINE, way)
            if isinstance(error, DistrustError):
                check = "certificate"
            elif isinstance(error.__cause__, socket.gaierror):
                check = "name"
            yield self._say(check, Rating.WRONG, known.problem, _ADVICE.get(check, ""))
            return
        seconds = time.perf_counter() - began_s
        yield self._say("proxy", Rating.FINE, way)
        yield self._say("connection", Rating.FINE, f"{seconds * 1000:.0f} ms")
        if url.scheme == "https":
            yield self._look_at_certificate(opened)
        await anyio.aclose_forcefully(opened.stream)

    def _look_at_certificate(self, opened: Opened) -> Finding:
        shown = opened.stream.extra(TLSAttribute.peer_certificate_binary)  # noqa: S610 - not of Django
        certificate = parse_certificate(shown or b"")
        text = f"of {certificate.subject} by {certificate.issuer}, until {certificate.ends:%Y-%m-%d}"
        left_days = (certificate.ends - datetime.now(UTC)).days
        if left_days < _SOON_DAYS:
            return self._say("certificate", Rating.WARNING, text, f"it ends in {left_days} days; tell its operator")
        return self._say("certificate", Rating.FINE, text)

    def _judge(self, probe: Probe) -> Finding:
        text = f"a file that cannot exist: {probe.answer}"
        if probe.behaviour is Behaviour.SYMBOL_SERVER:
            if probe.settings:
                lines = ", ".join(f"{name} = {str(value).lower()}" for name, value in probe.settings.items())
                return self._say("answers", Rating.WARNING, text, f"its block in the config file needs {lines}")
            return self._say("answers", Rating.FINE, text)
        check = "proxy" if probe.answer.startswith("the proxy") else "answers"
        advice = {
            Behaviour.SOFT_ERRORS: "it is no symbol server, or a page comes first: sign-in, or a proxy's own",
            Behaviour.REFUSES: _PROXY_ADVICE if check == "proxy" else "it wants credentials: see [[server]]",
            Behaviour.UNAVAILABLE: "try again later; its operator knows more",
        }[probe.behaviour]
        return self._say(check, Rating.WRONG, text, advice)

    async def _fetch_known(self, probe: Probe) -> AsyncIterator[Finding]:
        """Fetch the beginning of the first known file that the server has, and time it."""
        base = parse_url(self._text)
        tier = Tier.TWO if probe.two_tier else Tier.ONE
        for key in self._known:
            if self._hints.refusal(key) is not None:
                continue
            name = key.name if self._hints.plain else compressed_name(key.name)
            url = file_url(base, map(self._hints.spell, (*relative_parts(key, tier), name)))
            try:
                timed = await self._time(url)
            except UpstreamError as error:
                advice = "try again later; its operator knows more"
                if "where it redirects to" in error.problem:
                    advice = "the file lies at another host: a proxy or firewall may keep you from that one"
                yield self._say("a file", Rating.WRONG, f"{key.index}: {error.problem}", advice)
                return
            if timed is not None:
                received_bytes, seconds = timed
                rate = received_bytes / max(seconds, 1e-6)
                is_long = received_bytes >= _SLOW_BYTES_PER_S or seconds >= _SPEED_S
                is_slow = is_long and rate < _SLOW_BYTES_PER_S
                text = f"{key.index}: {received_bytes} bytes in {seconds:.2f} s, {rate / (1 << 20):.1f} MiB/s"
                advice = "it is slow from here; network.connections may help" if is_slow else ""
                yield self._say("a file", Rating.WARNING if is_slow else Rating.FINE, text, advice)
                return
        if self._known:
            yield self._say("a file", Rating.WARNING, "it has none of the files that were tried", "none may be its own")

    async def _time(self, url: httpx.URL) -> tuple[int, float] | None:
        """Return how much of *url* came, and in how many seconds; None if it is not there."""
        received_bytes = 0
        began_s = time.perf_counter()
        with anyio.move_on_after(_SPEED_S):
            async with self._client.get(url, end=_SPEED_BYTES) as reply:
                if reply.is_miss:
                    return None
                async for chunk in reply.chunks():
                    received_bytes += len(chunk)
                    if received_bytes >= _SPEED_BYTES:
                        break
        return received_bytes, time.perf_counter() - began_s


_PROXY_ADVICE = "see network.proxy in the config file, HTTPS_PROXY and NO_PROXY; docs/how-to.md, Behind a proxy"
_ADVICE = {
    "name": "no such name here: a typing error, or this network resolves outside names only at its proxy",
    "connection": "a firewall may keep you from it; if there is a proxy, name it by network.proxy or HTTPS_PROXY",
}


def _describe(routes: Sequence[Route]) -> str:
    ways = [f"{'directly' if route.proxy is None else f'through {route.proxy}'} ({route.reason})" for route in routes]
    return ", else ".join(ways)
