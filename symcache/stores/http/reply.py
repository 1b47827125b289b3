"""The answer to one request: what its status and fields mean, and its body as it arrives."""

from __future__ import annotations

import re
import ssl
import time
import zlib
from contextlib import aclosing, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import anyio
import httpx

from symcache.errors import (
    FetchInProgress,
    Forbidden,
    HostUnavailable,
    LoopDetected,
    NextHopUnavailable,
    UnexpectedPage,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
    WrongContent,
)
from symcache.formats.markup import HEAD_BYTES, could_be_markup, find_markup
from symcache.stores.http.connect import (
    DistrustError,
    HandshakeError,
    ProxyRefusedError,
    SilenceError,
    describe_os_error,
    describe_refusal,
)
from symcache.stores.http.retry import parse_retry_after

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

__all__ = ["Pace", "Reply", "TooSlowError", "UnfitRangeError", "check_status", "drain", "read_reply", "translate"]


_MISSES = frozenset({404, 410})
_UNCHANGED = 304
_TRY_AGAIN = frozenset({408, 425, 429, 500, 502, 503, 504})
_DRAINED_BYTES = 64 * 1024
_MUCH_BYTES = 1 << 20
_DRAINED_S = 2.0
_INFLATED_BYTES = 1 << 20
_UNEXPANDED_BYTES = 1 << 16
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS
# How a symcache server says that it is well and its upstream is not; others that say so may not have tried again.
# Source: RFC 9209, section 2.1.1.
_NEXT_HOP_FAILED = re.compile(r"(?:^|,)\s*symcache\s*;(?:[^,]*;)?\s*error=")
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


class UnfitRangeError(UpstreamRefused):
    """A range was asked for, and another one answered or none: the file may do as a whole."""


class TooSlowError(UpstreamUnavailable):
    """Less arrives than is waited for, so that what did is no progress."""


class Pace:
    """Watches how fast a body arrives: slower than *slowest_bytes_per_s* for *time_s* seconds is too slow."""

    def __init__(self, slowest_bytes_per_s: int, time_s: float, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._slowest, self._time_s, self._clock_s = slowest_bytes_per_s, time_s, clock_s
        self._since_s = clock_s()
        self._bytes = 0

    def note(self, size_bytes: int, shown: str) -> None:
        """Note that *size_bytes* came.

        Raises:
            TooSlowError: For some time now less has come than is waited for.
        """
        self._bytes += size_bytes
        passed_s = self._clock_s() - self._since_s
        if passed_s >= self._time_s:
            if self._bytes < self._slowest * passed_s:
                rate = self._bytes / passed_s
                problem = f"slower than network.slowest_bytes_per_s: {rate:.0f} bytes/s for {passed_s:.0f} s"
                raise TooSlowError(problem, url=shown, timed_out=True)
            self._since_s += passed_s
            self._bytes = 0


@dataclass(slots=True)
class Reply:
    """The answer to one request, its body still to be read.

    Attributes:
        status: 200, 206, or a miss: 404 or 410.
        url: The upstream's URL asked first, free of secrets; never where a redirect led.
        size_bytes: Length of the whole file; None if the answer does not say.
        start: Offset of the body's first byte in the file.
        body_bytes: Length announced for the body; None if it was not.
        validator: Strong ``ETag`` or ``Last-Modified``, for ``If-Range``; None without.
        takes_ranges: The server said that it serves ranges.
        etag: As the server sent it, weak or strong.
        last_modified: As the server sent it.
        received_bytes: How much of the body has come.
        on_much: Called once when that is a good deal.
        pace: Told of every piece of the body, whoever reads it.
    """

    status: int
    url: str
    size_bytes: int | None = None
    start: int = 0
    body_bytes: int | None = None
    validator: str | None = None
    takes_ranges: bool = False
    etag: str | None = None
    last_modified: str | None = None
    received_bytes: int = 0
    on_much: Callable[[], None] | None = field(default=None, repr=False)
    pace: Pace | None = field(default=None, repr=False)
    _is_over: bool = field(default=False, repr=False)
    _response: httpx.Response | None = field(default=None, repr=False)
    _begun: _Begun | None = field(default=None, repr=False)

    @property
    def is_miss(self) -> bool:
        """The upstream has no such file, definitely."""
        return self.status in _MISSES

    @property
    def is_unchanged(self) -> bool:
        """The file is still the one that the request's conditions speak of, and is not sent."""
        return self.status == _UNCHANGED

    @property
    def is_whole(self) -> bool:
        """The body has come to its end."""
        return self._is_over

    async def begin(self) -> None:
        """Look at the first bytes of the body, which alone tell what it is; for who does not read `chunks`.

        What Content-Type says is not looked at: servers send right files as ``text/html`` and pages as anything.

        Raises:
            UnexpectedPage: It is a page or a message.
            WrongContent: It is not encoded as it says.
        """
        begun = self._begun = _Begun(self._read())
        # No more is waited for than it takes: the first piece of a file is none of a page.
        while begun.error is None and len(begun.head) < HEAD_BYTES and could_be_markup(begun.head):
            try:
                begun.head += await anext(begun.rest)
            except StopAsyncIteration:
                break
            except UpstreamUnavailable as error:
                begun.error = error  # what came before it counts
        markup = find_markup(begun.head) if self.start == 0 else None
        if markup is not None:
            raise UnexpectedPage(f"200, but {markup}", url=self.url)

    async def chunks(self, *, may_be_markup: bool = False) -> AsyncGenerator[bytes, None]:
        """Yield the body as it arrives; no symbol file *may_be_markup*, other documents may.

        Raises:
            UpstreamUnavailable: It breaks off, or nothing more comes in time.
            UnexpectedPage: As `begin`, which it does first.
            WrongContent: It is longer than announced, or not encoded as it says.
        """
        if self._begun is None and may_be_markup:
            self._begun = _Begun(self._read())
        elif self._begun is None:
            await self.begin()
        begun = self._begun
        assert begun is not None
        if begun.head:
            yield begun.head
        if begun.error is not None:
            raise begun.error
        async for chunk in begun.rest:
            yield chunk

    async def aclose(self) -> None:
        """Give up what has not been read of the body."""
        if self._begun is not None:
            await self._begun.rest.aclose()
        if self._response is not None:
            await self._response.aclose()

    async def _read(self) -> AsyncGenerator[bytes, None]:
        assert self._response is not None
        chunks = _read(self._response)
        if _encoding(self._response.headers):
            chunks = _inflate(chunks, self.url)
        try:
            async with aclosing(chunks):
                async for chunk in chunks:
                    self.received_bytes += len(chunk)
                    if self.pace is not None:
                        self.pace.note(len(chunk), self.url)
                    if self.received_bytes >= _MUCH_BYTES and self.on_much is not None:
                        self.on_much()
                        self.on_much = None
                    if self.body_bytes is not None and self.received_bytes > self.body_bytes:
                        raise WrongContent("a body longer than announced", url=self.url)
                    yield chunk
        except httpx.HTTPError as error:
            raise translate(error, self.url) from error
        if self.body_bytes is not None and self.received_bytes < self.body_bytes:
            left_bytes = self.body_bytes - self.received_bytes
            raise UpstreamUnavailable(f"body cut short by {left_bytes} bytes", url=self.url)
        self._is_over = True


@dataclass(slots=True)
class _Begun:
    """A body whose first bytes were looked at: these, what ended it, and the rest."""

    rest: AsyncGenerator[bytes, None]
    head: bytes = b""
    error: UpstreamUnavailable | None = None


async def _read(response: httpx.Response) -> AsyncGenerator[bytes, None]:
    # As aiter_raw does, which is not typed as the generator that it is, and could not be closed.
    stream = response.stream
    assert isinstance(stream, httpx.AsyncByteStream)
    async for chunk in stream:
        yield chunk


async def _inflate(raw: AsyncGenerator[bytes, None], shown: str) -> AsyncGenerator[bytes, None]:
    """Yield *raw*, in gzip or zlib's format, expanded.

    Not by httpx's decoders: there one chunk may expand to a thousand times its length at once, and an end that comes
    too soon passes unseen.
    """
    inflate = zlib.decompressobj(_GZIP_OR_ZLIB)
    raw_bytes = expanded_bytes = 0
    async with aclosing(raw):
        async for chunk in raw:
            raw_bytes += len(chunk)
            rest = chunk
            while rest and not inflate.eof:
                try:
                    piece = inflate.decompress(rest, _INFLATED_BYTES)
                except zlib.error as error:
                    raise WrongContent("a body that is not encoded as it says", url=shown) from error
                expanded_bytes += len(piece)
                yield piece
                rest = inflate.unconsumed_tail
            # Blocks that hold nothing, and what follows the end, may have no end themselves.
            if raw_bytes > 2 * expanded_bytes + _UNEXPANDED_BYTES:
                raise WrongContent("a body that is not encoded as it says", url=shown)
            if inflate.eof:
                yield b""  # for who watches the pace
    if not inflate.eof:
        raise UpstreamUnavailable("encoded body cut short", url=shown)


async def drain(response: httpx.Response) -> None:
    """Read what little body a miss or a redirect has, so that its connection can be used again."""
    try:
        if response.headers.get("content-length") or response.headers.get("transfer-encoding"):
            with suppress(httpx.HTTPError), anyio.move_on_after(_DRAINED_S):
                async with aclosing(_read(response)) as chunks:
                    left_bytes = _DRAINED_BYTES
                    async for chunk in chunks:
                        left_bytes -= len(chunk)
                        if left_bytes < 0:
                            break
    finally:
        await response.aclose()


def check_status(response: httpx.Response, shown: str, *, is_conditional: bool = False) -> None:
    """Return if *response* is a file, a part of one, a miss or a redirect; 304 if the request *is_conditional*.

    Raises:
        UpstreamUnavailable: Another try may help; one of its subclasses where the answer tells more.
        UpstreamRefused: It will not.
        UnfitRangeError: The file has no such range.
    """
    status = response.status_code
    if status in {200, 206} or status in _MISSES or response.has_redirect_location:
        return
    if status == _UNCHANGED and is_conditional:
        return
    if status == 416:
        raise UnfitRangeError("416", url=shown)
    if status == 403:
        raise Forbidden("403", url=shown)
    if status == 407:
        offered = response.headers.get_list("proxy-authenticate")
        raise UpstreamRefused(describe_refusal(status, offered), url=shown)
    if status == 508:
        raise LoopDetected("508, a loop of servers", url=shown)
    if status in _TRY_AGAIN or 500 <= status < 600:
        kind = UpstreamUnavailable
        if status == 429:
            kind = HostUnavailable
        elif _NEXT_HOP_FAILED.search(response.headers.get("proxy-status", "")):
            kind = FetchInProgress if status == 504 else NextHopUnavailable
        raise kind(str(status), url=shown, retry_after_s=parse_retry_after(response.headers.get("retry-after")))
    raise UpstreamRefused(str(status), url=shown)


def read_reply(response: httpx.Response, shown: str, start: int, end: int | None) -> Reply:
    """Return what the fields of *response* say, checked against the range that was asked for.

    Raises:
        UnfitRangeError: It is not of that range.
        WrongContent: It cannot be the file.
    """
    reply = Reply(response.status_code, shown, _response=response)
    fields = response.headers
    reply.etag, reply.last_modified = fields.get("etag"), fields.get("last-modified")
    if reply.is_miss or reply.is_unchanged:
        return reply
    encoding = _encoding(fields)
    if encoding not in {"", "gzip", "x-gzip", "deflate"}:
        raise WrongContent(f"200, but encoded as {encoding[:20]}, which was not asked for", url=shown)
    if reply.status == 200:
        if not encoding:  # lengths and ranges of an encoded body are not those of the file
            length = fields.get("content-length", "")
            reply.size_bytes = reply.body_bytes = int(length) if length.isascii() and length.isdigit() else None
            reply.validator = _validator(fields)
            reply.takes_ranges = "bytes" in fields.get("accept-ranges", "").lower()
        return reply
    match = _CONTENT_RANGE.fullmatch(fields.get("content-range", ""))
    if match is None or encoding or not _is_within(int(match[1]), int(match[2]), start, end):
        raise UnfitRangeError("206, but not the range asked for", url=shown)
    reply.start = start
    reply.validator = _validator(fields)
    reply.takes_ranges = True
    reply.body_bytes = int(match[2]) + 1 - start
    reply.size_bytes = None if match[3] == "*" else int(match[3])
    return reply


def _is_within(first: int, last: int, start: int, end: int | None) -> bool:
    """Whether the range that came is the one asked for, or a beginning of it; from 0 without an end is no range."""
    return first == start <= last and (last < end if end is not None else start > 0)


def _encoding(fields: httpx.Headers) -> str:
    encoding: str = fields.get("content-encoding", "").strip().lower()
    return "" if encoding == "identity" else encoding


def _validator(fields: httpx.Headers) -> str | None:
    etag: str = fields.get("etag", "")
    if etag.startswith('"'):
        return etag
    # A weak tag cannot guard a range (RFC 9110, section 13.1.5); a date to the second can, well enough.
    date: str | None = fields.get("last-modified")
    return date


def translate(error: Exception, shown: str) -> UpstreamError:
    """Return what an error of httpx means; its own text may hold a signed URL and is used only where it cannot."""
    match error:
        case httpx.ConnectTimeout():
            return HostUnavailable(str(error) or "no connection in time", url=shown, timed_out=True)
        case httpx.TimeoutException():
            text = str(error) if isinstance(error, SilenceError) else "no answer in time"
            return UpstreamUnavailable(f"{text}{_via(error)}", url=shown, timed_out=True)
        case ProxyRefusedError():
            kind = UpstreamRefused if error.status in {401, 403, 407} else HostUnavailable
            return kind(str(error), url=shown)
        case httpx.ProxyError():
            status = _proxy_status(error)
            kind = UpstreamRefused if status in {401, 403, 407} else HostUnavailable
            return kind("the proxy failed" if status is None else f"the proxy answered {status}", url=shown)
        case DistrustError():
            return UpstreamRefused(str(error), url=shown)
        case httpx.NetworkError() if (wish := _wish_for_certificate(error)) is not None:
            return UpstreamRefused(wish, url=shown)
        case HandshakeError():
            return HostUnavailable(str(error), url=shown)
        case httpx.ConnectError() if _is_distrust(error):
            return UpstreamRefused("its certificate is not trusted", url=shown)
        case httpx.ConnectError():
            return HostUnavailable(f"cannot connect{describe_os_error(error)}", url=shown)
        case httpx.RemoteProtocolError() if "location header" in str(error):
            return UpstreamRefused("redirect to something that is not a URL", url=shown)
        case httpx.NetworkError() | httpx.RemoteProtocolError():
            return UpstreamUnavailable(f"the connection broke{_via(error)}", url=shown)
        case _:
            return UpstreamRefused("cannot be asked: not a URL that works", url=shown)


def _via(error: Exception) -> str:
    """Return which proxy the request of *error* went through, to stand behind a message."""
    try:
        via = error.request.extensions.get("proxy") if isinstance(error, httpx.RequestError) else None
    except RuntimeError:  # it has none
        via = None
    return f" (through the proxy {via})" if via else ""


def _proxy_status(error: httpx.ProxyError) -> int | None:
    """Return the status that a proxy answered CONNECT with; None if it failed otherwise.

    httpx has it in its text alone: ``407 Proxy Authentication Required``.
    """
    match = re.match(r"(\d{3})\b", str(error))
    return None if match is None else int(match[1])


_NO_CERTIFICATE = "it wants a certificate of yours: name it by client_certificate in this server's block"
_OTHER_CERTIFICATE = (
    "it does not accept the certificate that it was shown, see client_certificate in this server's block"
)
# Before TLS 1.3 a server without an answer to its wish says no more than that.
_WISHES = {
    "TLSV13_ALERT_CERTIFICATE_REQUIRED": _NO_CERTIFICATE,
    "SSLV3_ALERT_HANDSHAKE_FAILURE": f"it ends the TLS handshake; most likely {_NO_CERTIFICATE}",
    "SSLV3_ALERT_BAD_CERTIFICATE": _OTHER_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_EXPIRED": _OTHER_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_REVOKED": _OTHER_CERTIFICATE,
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN": _OTHER_CERTIFICATE,
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE": _OTHER_CERTIFICATE,
    "TLSV1_ALERT_UNKNOWN_CA": _OTHER_CERTIFICATE,
}


def _wish_for_certificate(error: BaseException) -> str | None:
    """Return what a server's TLS alert says of the certificate that it was, or was not, shown; None if it is not that.

    Source: RFC 8446, section 6.2; the names are OpenSSL's.
    """
    cause: BaseException | None = error
    while cause is not None:
        # truststore's own errors, on Windows and macOS, have no reason.
        if isinstance(cause, ssl.SSLError) and (wish := _WISHES.get(getattr(cause, "reason", ""))) is not None:
            return wish
        cause = cause.__cause__ or cause.__context__
    return None


def _is_distrust(error: BaseException) -> bool:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, ssl.SSLCertVerificationError):
            return True
        cause = cause.__cause__ or cause.__context__
    return "CERTIFICATE_VERIFY_FAILED" in str(error)
