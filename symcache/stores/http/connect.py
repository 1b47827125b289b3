"""Opening a connection to a server: its name, the way through a proxy, TLS; each try within one time limit."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket
import ssl
import sys
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

import anyio
import h11
import httpx
from anyio.abc import SocketAttribute
from anyio.streams.buffered import BufferedByteReceiveStream
from anyio.streams.tls import TLSAttribute, TLSStream
from socksio import ProtocolError, SOCKSError, socks4, socks5

from symcache.errors import UpstreamRefused
from symcache.stores.concurrency import call_detached
from symcache.stores.http.auth import Handshake, wanted_schemes
from symcache.stores.http.certificates import Certificate, explain_distrust, parse_certificate
from symcache.stores.http.urls import host_and_port, is_inside

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anyio.abc import ByteStream

    from symcache.stores.http.certificates import Trust
    from symcache.stores.http.proxies import Proxy, ProxyRules, Route

STAYS_OUTSIDE = "symcache.stays_outside"
"""Among the extensions of a request: whether nothing is sent to an address of a private network."""

__all__ = [
    "STAYS_OUTSIDE",
    "Connector",
    "DistrustError",
    "HandshakeError",
    "Opened",
    "ProxyRefusedError",
    "SilenceError",
    "describe_os_error",
    "describe_refusal",
]


Origin: TypeAlias = tuple[str, str, int]

_HEAD_BYTES = 64 * 1024
_READ_BYTES = 16 * 1024
_NEXT_ADDRESS_S = 0.25
_LOOK_S = 5.0
_ALERT_S = 2.0
_MOST_TUNNEL_TRIES = 3
_LOST = (anyio.BrokenResourceError, anyio.ClosedResourceError, anyio.EndOfStream, anyio.IncompleteRead, OSError)


class ProxyRefusedError(httpx.ProxyError):
    """A proxy does not lead there.

    Attributes:
        status: What it answered with; None if it failed otherwise.
    """

    def __init__(self, message: str, *, request: httpx.Request, status: int | None = None) -> None:
        super().__init__(message, request=request)
        self.status = status


class DistrustError(httpx.ConnectError):
    """A certificate was refused; the text says whose and why."""


class HandshakeError(httpx.ConnectError):
    """TLS did not come about; the text says why."""


class SilenceError(httpx.ReadTimeout):
    """An answer stopped; the text says where."""


@dataclass(slots=True)
class Opened:
    """A connection.

    Attributes:
        stream: What is sent and received.
        proxy: What it goes through; None if it is direct.
        relay: The proxy that forwards each request on it, which names its whole URL; None if it leads to the server.
        handshake: What the relay is told of who one is.
        address: Of the server; None behind a proxy.
    """

    stream: ByteStream
    relay: Proxy | None = None
    handshake: Handshake | None = None
    proxy: Proxy | None = None
    address: str | None = None

    @property
    def is_inside(self) -> bool:
        """It leads straight to a private network."""
        return self.address is not None and is_inside(self.address)


class Connector:
    """Opens connections, the way that *proxies* name, to whom *trust* trusts."""

    def __init__(self, proxies: ProxyRules, trust: Trust) -> None:
        self._proxies = proxies
        self._trust = trust
        self._shown: dict[Origin, Certificate | None] = {}
        self._silent: set[Origin] = set()

    async def open(self, request: httpx.Request, origin: Origin) -> Opened:
        """Return a connection that *request* can be sent on, by the first route that works.

        Raises:
            httpx.ConnectTimeout: A try took longer than the request's ``connect`` time-out, everything included.
            httpx.ConnectError: There is none; `DistrustError` for a certificate that is not trusted.
            httpx.ProxyError: A proxy does not lead there.
            UpstreamRefused: Not permitted, or one cannot say who one is.
            ConfigError: The proxy script does not work.
        """
        routes = await self._proxies.routes(request.url)
        for route in routes[:-1]:
            with suppress(httpx.ConnectTimeout, httpx.ConnectError, httpx.ProxyError):
                return await self._open(request, origin, route)
        return await self._open(request, origin, routes[-1])

    async def listen_for_alert(self, request: httpx.Request, origin: Origin) -> None:
        """Return if nothing explains why *origin* closed a connection on which a request was sent.

        With TLS 1.3 a server says only after the handshake that it wants a certificate, and what it says is lost where
        a request arrives before it has closed.

        Raises:
            httpx.ReadError: From what it says to a connection on which nothing is sent.
        """
        if origin[0] != "https" or origin in self._silent:
            return
        alert = None
        with anyio.move_on_after(_ALERT_S), suppress(httpx.HTTPError, UpstreamRefused):
            opened = await self.open(request, origin)
            try:
                await opened.stream.receive(1)
            except ssl.SSLError as error:
                alert = error
            except _LOST:
                pass
            finally:
                await anyio.aclose_forcefully(opened.stream)
        if alert is not None:
            raise httpx.ReadError(str(alert), request=request) from alert
        self._silent.add(origin)  # once is enough

    async def _open(self, request: httpx.Request, origin: Origin, route: Route) -> Opened:
        timeout_s = request.extensions.get("timeout", {}).get("connect")
        stage = _Stage(route.proxy)
        with _translated(request, stage), anyio.fail_after(timeout_s):
            opened = await self._open_plain(request, origin, route.proxy, stage)
            opened.proxy = route.proxy
            if origin[0] != "https":
                return opened
            stage.is_connected = True
            try:
                opened.stream = await _start_tls(opened.stream, origin[1], self._trust.context_for(origin))
            except ssl.SSLCertVerificationError as error:
                refusal = error
            else:
                return opened
        # `ssl` keeps a certificate that it refuses to itself.
        if origin not in self._shown:
            self._shown[origin] = await self._look(request, origin, route.proxy)
        text = explain_distrust(refusal, self._shown[origin], origin[1])
        raise DistrustError(text, request=request) from refusal

    async def _open_plain(self, request: httpx.Request, origin: Origin, proxy: Proxy | None, stage: _Stage) -> Opened:
        """Return a connection to *origin*, or one to a proxy that forwards; without TLS to *origin* as yet."""
        scheme, host, port = origin
        if proxy is None:
            stream = await _connect(host, port, stage, stays_outside=bool(request.extensions.get(STAYS_OUTSIDE)))
            peer = stream.extra(SocketAttribute.remote_address, None)  # noqa: S610 - not of Django
            if peer is None:  # the system has forgotten it, as it was reset already
                await anyio.aclose_forcefully(stream)
                raise ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")
            return Opened(stream, address=str(peer[0]))
        if proxy.is_socks:
            stream = await self._connect_proxy(proxy, request, stage)
            try:
                await _ask_socks(stream, proxy, host, port, request)
            except BaseException:
                await anyio.aclose_forcefully(stream)
                raise
            return Opened(stream)
        handshake = Handshake(proxy.host, proxy.username, proxy.password, is_trusted=proxy.is_chosen)
        if not proxy.is_chosen:
            handshake.problem = (
                "the signed-in user is not named to a proxy that was discovered; set network.proxy to it"
            )
        if scheme == "http":
            return Opened(await self._connect_proxy(proxy, request, stage), proxy, handshake)
        field = await handshake.first()
        for _ in range(_MOST_TUNNEL_TRIES):
            stream = await self._connect_proxy(proxy, request, stage)
            try:
                field = await _ask_for_tunnel(stream, proxy, host_and_port(host, port), handshake, field, request)
            except BaseException:
                await anyio.aclose_forcefully(stream)
                raise
            if field is None:
                return Opened(stream)
            await anyio.aclose_forcefully(stream)
        raise ProxyRefusedError(f"the proxy {proxy} closes every connection", request=request)

    async def _connect_proxy(self, proxy: Proxy, request: httpx.Request, stage: _Stage) -> ByteStream:
        try:
            stream = await _connect(proxy.host, proxy.port, stage=stage)
        except OSError as error:
            reason = describe_os_error(error)
            raise ProxyRefusedError(f"the proxy {proxy} cannot be reached{reason}", request=request) from error
        stage.has_proxy = True
        if proxy.scheme != "https":
            return stream
        origin = "https", proxy.host, proxy.port
        try:
            return await _start_tls(stream, proxy.host, self._trust.context_for(origin))
        except ssl.SSLCertVerificationError as error:
            refusal = error
        except ssl.SSLError as error:
            text = f"the proxy {proxy} does not speak TLS as it should{describe_os_error(error)}"
            raise ProxyRefusedError(text, request=request) from error
        if origin not in self._shown:
            self._shown[origin] = await self._look(request, origin, None)
        text = explain_distrust(refusal, self._shown[origin], proxy.host)
        raise DistrustError(f"the proxy {proxy}: {text}", request=request) from refusal

    async def _look(self, request: httpx.Request, origin: Origin, proxy: Proxy | None) -> Certificate | None:
        """Return the certificate that *origin* shows, on a connection that trusts all and on which nothing is said."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        with anyio.move_on_after(_LOOK_S), suppress(httpx.HTTPError, UpstreamRefused, ValueError, *_LOST):
            opened = await self._open_plain(request, origin, proxy, _Stage(proxy))
            stream = await _start_tls(opened.stream, origin[1], context)
            shown = stream.extra(TLSAttribute.peer_certificate_binary)  # noqa: S610 - not of Django
            await anyio.aclose_forcefully(stream)
            return parse_certificate(shown or b"")
        return None


@dataclass(slots=True)
class _Stage:
    """How far a try has come.

    Attributes:
        proxy: What it goes through.
        has_name: The name of the first host on the way has been looked up.
        has_proxy: The proxy has taken the connection.
        is_connected: There is a connection to the server, without TLS as yet.
    """

    proxy: Proxy | None
    has_name: bool = False
    has_proxy: bool = False
    is_connected: bool = False

    def describe_silence(self) -> str:
        """Return what was waited for in vain."""
        if self.is_connected:
            who = "it" if self.proxy is None else f"the proxy {self.proxy} opened a connection, but the other end"
            return f"{who} did not answer the TLS handshake in time"
        if self.proxy is None:
            return "no connection in time" if self.has_name else "its name was not looked up in time"
        if self.has_proxy:
            return f"the proxy {self.proxy} takes connections, but did not answer in time"
        missing = "could not be reached" if self.has_name else "has a name that was not looked up"
        return f"the proxy {self.proxy} {missing} in time"

    def describe_loss(self) -> str:
        """Return what it means that a proxy has closed the connection."""
        if self.is_connected:
            return f"the proxy {self.proxy} closed the connection that it had opened, before the TLS handshake"
        return f"the proxy {self.proxy} closed the connection"


@contextmanager
def _translated(request: httpx.Request, stage: _Stage) -> Iterator[None]:
    """Raise what anyio raises as the errors of httpx that its own transport would raise."""
    try:
        yield
    except TimeoutError as error:
        raise httpx.ConnectTimeout(stage.describe_silence(), request=request) from error
    except ssl.SSLError as error:
        text = f"no TLS handshake{describe_os_error(error)}"
        if stage.proxy is not None:
            text += f" (through the proxy {stage.proxy})"
        raise HandshakeError(text, request=request) from error
    except _LOST as error:
        if stage.proxy is None and stage.is_connected:
            raise HandshakeError("it closed the connection within the TLS handshake", request=request) from error
        if stage.proxy is None:
            raise httpx.ConnectError(str(error), request=request) from error
        # Most often a proxy that says yes to a tunnel and then cannot, or may not, build it.
        raise ProxyRefusedError(stage.describe_loss(), request=request) from error


async def _start_tls(stream: ByteStream, host: str, context: ssl.SSLContext) -> TLSStream:
    try:
        return await TLSStream.wrap(stream, hostname=host, ssl_context=context, standard_compatible=False)
    except BaseException:
        await anyio.aclose_forcefully(stream)
        raise


async def _connect(host: str, port: int, stage: _Stage | None = None, *, stays_outside: bool = False) -> ByteStream:
    """Connect to *host* at the first of its addresses that answers; the next is tried after 250 ms (RFC 8305).

    Raises:
        OSError: None does, or one is inside and the connection has to stay outside.
    """
    addresses = await _resolve(host, port)
    if stage is not None:
        stage.has_name = True
    if stays_outside and any(map(is_inside, addresses)):
        raise OSError(errno.EACCES, "a redirect into a private network")
    if len(addresses) == 1:
        return await anyio.connect_tcp(addresses[0], port)
    winner: ByteStream | None = None
    errors: list[OSError] = []

    async def attempt(address: str, over: anyio.Event) -> None:
        nonlocal winner
        try:
            stream = await anyio.connect_tcp(address, port)
        except OSError as error:
            errors.append(error)
            over.set()
            return
        if winner is None:
            winner = stream
            group.cancel_scope.cancel()
        else:
            await anyio.aclose_forcefully(stream)

    try:
        async with anyio.create_task_group() as group:
            for address in addresses:
                over = anyio.Event()
                group.start_soon(attempt, address, over)
                with anyio.move_on_after(_NEXT_ADDRESS_S):
                    await over.wait()
    except BaseException:
        if winner is not None:  # the time ran out just then
            await anyio.aclose_forcefully(winner)
        raise
    if winner is None:
        raise errors[-1]
    return winner


async def _resolve(host: str, port: int) -> list[str]:
    """Return the addresses of *host*, those of either kind in turn.

    Raises:
        OSError: It has none.
    """
    with suppress(ValueError):
        return [str(ipaddress.ip_address(host))]
    answers = await call_detached(partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM))
    found = list(dict.fromkeys(str(address[0]) for *_, address in answers))
    sixes = [address for address in found if ":" in address]
    fours = [address for address in found if ":" not in address]
    pairs = zip(sixes, fours, strict=False)
    return [*(address for pair in pairs for address in pair), *sixes[len(fours) :], *fours[len(sixes) :]]


async def _ask_for_tunnel(
    stream: ByteStream, proxy: Proxy, target: str, handshake: Handshake, field: str | None, request: httpx.Request
) -> str | None:
    """Ask *proxy* for a tunnel to *target*; return None when it is open, else what to say on another connection.

    What is said of who one is begins with *field*.

    Raises:
        ProxyRefusedError: There is none.

    Source: RFC 9110, sections 9.3.6 and 11.7.
    """
    peer = h11.Connection(h11.CLIENT, max_incomplete_event_size=_HEAD_BYTES)
    while True:
        fields = [("Host", target)] + ([("Proxy-Authorization", field)] if field is not None else [])
        head = peer.send(h11.Request(method="CONNECT", target=target, headers=fields)) or b""
        await stream.send(head + (peer.send(h11.EndOfMessage()) or b""))
        try:
            response = await _receive(peer, stream)
            assert isinstance(response, h11.Response)
            status = response.status_code
            if 200 <= status < 300:
                if peer.trailing_data[0]:
                    raise ProxyRefusedError(f"the proxy {proxy} sent something unasked", request=request)
                return None
            offered = [value.decode("latin-1") for name, value in response.headers if name == b"proxy-authenticate"]
            answer = await handshake.answer(offered, method="CONNECT", target=target) if status == 407 else None
            if answer is None:
                text = describe_refusal(status, offered, str(proxy), handshake, is_known=field is not None)
                raise ProxyRefusedError(text, request=request, status=status)
            field = answer
            left_bytes = _HEAD_BYTES
            while isinstance(event := await _receive(peer, stream), h11.Data) and left_bytes > 0:
                left_bytes -= len(event.data)
        except h11.RemoteProtocolError as error:
            raise ProxyRefusedError(f"the proxy {proxy} does not speak HTTP", request=request) from error
        if not peer.our_state is peer.their_state is h11.DONE:
            return field
        peer.start_next_cycle()


async def _receive(peer: h11.Connection, stream: ByteStream) -> object:
    while True:
        event = peer.next_event()
        if event is h11.NEED_DATA:
            try:
                peer.receive_data(await stream.receive(_READ_BYTES))
            except anyio.EndOfStream:
                if peer.their_state is h11.SEND_RESPONSE:
                    raise
                peer.receive_data(b"")
        elif not isinstance(event, h11.InformationalResponse):
            return event


def describe_refusal(
    status: int, offered: Sequence[str], proxy: str = "", handshake: Handshake | None = None, *, is_known: bool = False
) -> str:
    """Return what a proxy's *status* means and what to do about it.

    Args:
        status: Of its answer.
        offered: Its ``Proxy-Authenticate`` fields.
        proxy: Its URL; empty if that is not known here.
        handshake: What it was told of who one is, or could not be.
        is_known: It was told.
    """
    text = f"the proxy answered {status}"
    schemes = wanted_schemes(offered)
    if status != 407 or not schemes:
        return text
    wanted = {scheme.lower() for scheme in schemes}
    text += f": it wants {' or '.join(schemes)}"
    if is_known and wanted & {"basic", "digest"}:
        return f"{text}, and does not accept this user and password"
    if wanted & {"basic", "digest"}:
        # Not as one word: what reports are freed of secrets by would take it for some.
        return f"{text}; in network.proxy, put user:password and an @ before {_host_of(proxy)}"
    if handshake is not None and handshake.problem:
        return f"{text}; {handshake.problem}"
    if "negotiate" in wanted and not is_known:
        return f"{text}; pip install 'symcache[negotiate]' lets it know the signed-in user"
    if "negotiate" in wanted:
        return f"{text}, and does not accept the signed-in user (klist shows who that is)"
    helper = rf"px --proxy={_host_of(proxy)} --auth=NTLM --username=DOMAIN\user --port=3128"
    return f"{text}; run a helper that does it (pip install px-proxy; {helper}) and set network.proxy to 127.0.0.1:3128"


def _host_of(proxy: str) -> str:
    return proxy.rpartition("/")[2] or "host:port"


_SOCKS_REASONS = {
    socks5.SOCKS5ReplyCode.CONNECTION_NOT_ALLOWED_BY_RULESET: "does not allow it",
    socks5.SOCKS5ReplyCode.NETWORK_UNREACHABLE: "cannot reach that network",
    socks5.SOCKS5ReplyCode.HOST_UNREACHABLE: "cannot reach that host",
    socks5.SOCKS5ReplyCode.CONNECTION_REFUSED: "was refused by that host",
}


async def _ask_socks(stream: ByteStream, proxy: Proxy, host: str, port: int, request: httpx.Request) -> None:
    """Ask a SOCKS *proxy* to connect *stream* to *host*, whose name it looks up itself unless it is of version 4.

    Raises:
        ProxyRefusedError: It does not.

    Source: RFC 1928, RFC 1929; "SOCKS: A protocol for TCP proxy across firewalls" and its extension 4A.
    """
    try:
        ask = _ask_socks5 if proxy.scheme.startswith("socks5") else _ask_socks4
        problem = await ask(stream, proxy, host, port)
    except OverflowError as error:
        text = f"the proxy {proxy} cannot be told a name of more than 255 bytes"
        raise ProxyRefusedError(text, request=request) from error
    except (ProtocolError, SOCKSError, ValueError) as error:
        raise ProxyRefusedError(f"the proxy {proxy} does not speak SOCKS", request=request) from error
    if problem:
        raise ProxyRefusedError(f"the proxy {proxy} {problem}", request=request)


async def _ask_socks5(stream: ByteStream, proxy: Proxy, host: str, port: int) -> str:
    received = BufferedByteReceiveStream(stream)
    methods = [socks5.SOCKS5AuthMethod.NO_AUTH_REQUIRED]
    if proxy.username is not None:
        methods.append(socks5.SOCKS5AuthMethod.USERNAME_PASSWORD)
    await stream.send(socks5.SOCKS5AuthMethodsRequest(methods).dumps())
    method = socks5.SOCKS5AuthReply.loads(await received.receive_exactly(2)).method
    if method not in methods:
        return "wants user and password" if proxy.username is None else "wants another kind of sign-in"
    if method is socks5.SOCKS5AuthMethod.USERNAME_PASSWORD:
        user, password = (proxy.username or "").encode(), proxy.password.encode()
        await stream.send(socks5.SOCKS5UsernamePasswordRequest(user, password).dumps())
        if (await received.receive_exactly(2))[1]:
            return "does not accept this user and password"
    command = socks5.SOCKS5CommandRequest.from_address(socks5.SOCKS5Command.CONNECT, (host, port))
    await stream.send(command.dumps())
    head = await received.receive_exactly(4)
    lengths = {1: 4, 3: 0, 4: 16}
    if head[0] != 5 or head[3] not in lengths:
        raise ProtocolError("not a reply")
    length = lengths[head[3]] or (await received.receive_exactly(1))[0]
    await received.receive_exactly(length + 2)  # where it connected from
    code = head[1:2]
    return "" if code == b"\x00" else _SOCKS_REASONS.get(code, f"failed with {code[0]}")  # type: ignore[call-overload]


async def _ask_socks4(stream: ByteStream, proxy: Proxy, host: str, port: int) -> str:
    user = (proxy.username or "").encode()
    address = host
    if proxy.scheme == "socks4":
        with suppress(OSError):
            address = next((found for found in await _resolve(host, port) if ":" not in found), host)
    kind: type[socks4.SOCKS4Request | socks4.SOCKS4ARequest] = socks4.SOCKS4Request
    try:
        ipaddress.IPv4Address(address)
    except ValueError:
        kind = socks4.SOCKS4ARequest
    await stream.send(kind.from_address(socks4.SOCKS4Command.CONNECT, (address, port), user_id=user).dumps())
    reply = await BufferedByteReceiveStream(stream).receive_exactly(8)
    if reply[0] not in {0, 4}:  # 0 by the text, 4 by servers that took it for the version
        raise ProtocolError("not a reply")
    return "" if reply[1] == 0x5A else f"refuses it, with {reply[1]}"


# On Windows one of these has the number of Windows' error, of a socket's, or EINVAL, by what found it.
_REASONS = {
    ConnectionRefusedError: "connection refused",
    ConnectionResetError: "connection reset by peer",
    ConnectionAbortedError: "connection aborted",
}


def _text_of(error: OSError) -> str:
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415

        number = error.winerror or error.errno or 0
        if error.winerror or number >= _FIRST_OF_SOCKETS:
            return ctypes.FormatError(number).rstrip(". ")
    return os.strerror(error.errno or 0)


_FIRST_OF_SOCKETS = 10000  # winerror.h, WSABASEERR; the C library's own numbers are smaller


def describe_os_error(error: BaseException) -> str:
    """Return what a connection failed of, to stand behind a message; empty if that is not known."""
    while isinstance(error.__cause__, OSError):  # of httpx and anyio
        error = error.__cause__
    text = str(error).rpartition("] ")[2]
    if isinstance(error, ssl.SSLError):  # its number is none of the system
        text = re.sub(r" \(_ssl\.c:\d+\)$", "", text)
    elif isinstance(error, OSError) and not isinstance(error, socket.gaierror) and error.errno:
        text = next((text for kind, text in _REASONS.items() if isinstance(error, kind)), "") or _text_of(error)
    text = text.strip().lower()
    return f": {text}" if text and "://" not in text and "all connection attempts" not in text else ""
