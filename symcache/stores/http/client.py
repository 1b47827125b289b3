"""One request to an upstream: redirects, credentials, the circuit breaker."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

import anyio
import httpx

from symcache._version import __version__
from symcache.errors import (
    ConfigError,
    FetchInProgress,
    HostUnavailable,
    NextHopUnavailable,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)
from symcache.stores.http.auth import Credentials, describe_401
from symcache.stores.http.connect import STAYS_OUTSIDE
from symcache.stores.http.reply import check_status, drain, read_reply, translate
from symcache.stores.http.urls import admit_redirect, origin_of, redact, redirect_target

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from symcache.stores.http.pool import TransportPool
    from symcache.stores.http.reply import Reply
    from symcache.stores.http.retry import CircuitBreaker

__all__ = ["VIA", "Client"]


_USER_AGENT = f"symcache/{__version__}"

VIA: ContextVar[str | None] = ContextVar("via", default=None)
"""What the ``Via`` field of every request says; a server that asks on behalf of its clients sets it."""

_MOST_REDIRECTS = 10
# With any other status, Retry-After speaks of what was asked for (RFC 9110, section 10.2.3; RFC 6585, section 4).
_PAUSES = frozenset({429, 503})
_CONDITIONS = frozenset({"If-None-Match", "If-Modified-Since"})


class Client:
    """Sends requests to upstreams.

    Args:
        pool: What they travel on.
        breaker: What is known of each host's health.
        credentials: What is told of who one is, where a URL has no credentials of its own.
        agent_extra: Added to the user agent.
        notify: Told once when a host begins to be left alone.
        keeps_outside: Whether redirects from outside into private networks are refused.
    """

    def __init__(
        self,
        pool: TransportPool,
        breaker: CircuitBreaker,
        *,
        credentials: Credentials | None = None,
        agent_extra: str = "",
        notify: Callable[[str], None] = lambda _: None,
        keeps_outside: bool = False,
    ) -> None:
        self.pool = pool
        self._breaker = breaker
        self._credentials = credentials or Credentials()
        self._notify = notify
        self._keeps_outside = keeps_outside
        self._agent = f"{_USER_AGENT} {agent_extra}".strip()

    @asynccontextmanager
    async def get(
        self,
        url: httpx.URL,
        *,
        start: int = 0,
        end: int | None = None,
        validator: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[Reply]:
        """Ask for *url* and lend the reply, a miss included.

        Args:
            url: What to ask for; credentials in it are sent as ``Authorization``.
            start: Offset of the first byte wanted.
            end: Offset behind the last byte wanted; None for all the rest.
            validator: Ask for the range only if the file is still the one that had this validator.
            headers: More fields to send, to this origin only.

        Raises:
            UpstreamUnavailable: Another try may help.
            UpstreamRefused: It will not.
            UnfitRangeError: The answer is not of the range asked for.
            WrongContent: An encoding that was not asked for.
        """
        shown = redact(url)
        fields = {"User-Agent": self._agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        if (via := VIA.get()) is not None:
            fields["Via"] = via
        if start or end is not None:
            fields["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
            if validator is not None:
                fields["If-Range"] = validator
        # Waited for before a transport is taken: a host that wants a pause must not keep others from being asked.
        await self._breaker.wait_pause(origin_of(url), url=shown)
        async with self.pool.transport() as transport:
            response = await self._follow(transport, url, fields, dict(headers or {}), shown=shown)
            try:
                reply = read_reply(response, shown, start, end)
                reply.pace = self.pool.pace()
                reply.on_much = lambda: self._breaker.note_body(response.extensions["origin"], is_whole=False)
                try:
                    if reply.is_miss or reply.is_unchanged:
                        await drain(response)
                    yield reply
                except UpstreamUnavailable as error:
                    if error.timed_out:
                        self._note_stall(response.extensions["origin"], error)
                    raise
                finally:
                    await reply.aclose()
                if reply.is_whole:
                    self._breaker.note_body(response.extensions["origin"], is_whole=True)
                self.pool.note_response(reply.received_bytes)
            finally:
                await response.aclose()

    async def _follow(
        self,
        transport: httpx.AsyncBaseTransport,
        url: httpx.URL,
        fields: dict[str, str],
        extra: dict[str, str],
        *,
        shown: str,
    ) -> httpx.Response:
        first = target = url
        for _ in range(_MOST_REDIRECTS + 1):
            if origin_of(target) == origin_of(first):
                response = await self._send_signed(transport, target, fields | extra, shown=shown)
            else:
                response = await self._send_elsewhere(transport, target, fields, first, shown=shown)
            if not response.has_redirect_location:
                return response
            await drain(response)
            # Where a redirect leads may be signed: it is followed, and never shown.
            target = redirect_target(target, response.headers["location"], shown=shown)
        raise UpstreamRefused(f"more than {_MOST_REDIRECTS} redirects", url=shown)

    async def _send_elsewhere(
        self,
        transport: httpx.AsyncBaseTransport,
        url: httpx.URL,
        fields: dict[str, str],
        first: httpx.URL,
        *,
        shown: str,
    ) -> httpx.Response:
        """Send a request to where *first* redirects."""
        stays_outside = self._keeps_outside and not await admit_redirect(first, url, shown=shown)
        try:
            response = await self._send(transport, url, fields, shown=shown, stays_outside=stays_outside)
            if response.status_code == 401:
                await drain(response)
                raise UpstreamRefused(describe_401(response.headers.get_list("www-authenticate")), url=shown)
        except UpstreamError as error:
            # The host is no secret, and a firewall may keep one from it alone; only the rest may be signed.
            error.problem += f" (at {url.host}, where it redirects to)"
            raise
        return response

    async def _send_signed(
        self, transport: httpx.AsyncBaseTransport, url: httpx.URL, fields: dict[str, str], *, shown: str
    ) -> httpx.Response:
        """Send a request that says who one is, and say more where the server asks for it."""
        sign_in = await self._credentials.sign_in(url)
        while True:
            response = await self._send(transport, url, {**fields, **sign_in.fields}, shown=shown)
            if response.status_code != 401:
                return response
            challenges = response.headers.get_list("www-authenticate")
            try:
                goes_on = await sign_in.again(challenges)
            except BaseException:
                await response.aclose()
                raise
            await drain(response)
            if not goes_on:
                raise UpstreamRefused(describe_401(challenges), url=shown)

    async def _send(
        self,
        transport: httpx.AsyncBaseTransport,
        url: httpx.URL,
        fields: dict[str, str],
        *,
        shown: str,
        stays_outside: bool = False,
    ) -> httpx.Response:
        origin = origin_of(url)
        asked_s = await self._breaker.wait_turn(origin, url=shown)
        if url.userinfo or url.fragment:
            url = url.copy_with(userinfo=b"", fragment=None)
        extensions = {"timeout": self.pool.timeouts, STAYS_OUTSIDE: stays_outside}
        request = httpx.Request("GET", url, headers=fields, extensions=extensions)
        began_s = time.monotonic()
        try:
            response = await transport.handle_async_request(request)
        except (httpx.HTTPError, httpx.InvalidURL, UnicodeError) as error:  # the last from names that are none
            known = translate(error, shown)
            if isinstance(error, httpx.TransportError):
                self.pool.discard(transport)
            if isinstance(error, httpx.TimeoutException):
                self.pool.note_overload(asked_s=began_s)
            if isinstance(known, UpstreamUnavailable):
                self._note_failure(origin, asked_s, known)
            else:
                self._breaker.note_cancelled(origin, asked_s=asked_s)  # nothing was learnt of its health
            raise known from error
        except (ConfigError, UpstreamRefused) as error:  # of a proxy script, or of signing in to a proxy
            self._breaker.note_cancelled(origin, asked_s=asked_s)
            raise UpstreamRefused(
                error.problem if isinstance(error, UpstreamError) else str(error), url=shown
            ) from error
        except anyio.get_cancelled_exc_class():
            self._breaker.note_cancelled(origin, asked_s=asked_s)
            raise
        try:
            if response.status_code != 401:
                check_status(response, shown, is_conditional=not _CONDITIONS.isdisjoint(fields))
        except UpstreamError as error:
            if response.status_code in _PAUSES:
                self.pool.note_overload(asked_s=began_s)
            if isinstance(error, UpstreamUnavailable) and not isinstance(error, NextHopUnavailable | FetchInProgress):
                self._note_failure(origin, asked_s, error, may_pause=response.status_code in _PAUSES)
            else:
                self._breaker.note_success(origin)  # the host is well, whatever it thinks of us
            await drain(response)
            raise
        self._breaker.note_success(origin, has_body=response.status_code in {200, 206})
        response.extensions["origin"] = origin
        return response

    def _note_stall(self, origin: tuple[str, str, int], error: UpstreamUnavailable) -> None:
        if self._breaker.note_stall(origin, file=error.url.rpartition("/")[0]):
            self._notify(f"{origin[1]} is left alone for a while: {error.problem}")

    def _note_failure(
        self, origin: tuple[str, str, int], asked_s: float, error: UpstreamUnavailable, *, may_pause: bool = False
    ) -> None:
        begins = self._breaker.note_failure(
            origin,
            asked_s=asked_s,
            retry_after_s=error.retry_after_s if may_pause else None,
            # A file's other names lie in the same folder.
            file=None if isinstance(error, HostUnavailable) else error.url.rpartition("/")[0],
        )
        if begins:
            self._notify(f"{origin[1]} is left alone for a while: {error.problem}")
