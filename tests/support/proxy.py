"""Small proxies on loopback that keep a log: forwarding, SOCKS, and one that says what it is told to."""

from __future__ import annotations

import base64
import hashlib
import re
import select
import socket
import ssl
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

from support.wire import Listener, Request, read_head

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from types import TracebackType
    from typing import Self

__all__ = ["OPEN", "ForwardingProxy", "RawProxy", "SocksProxy", "tunnel"]

_HOP_HEADERS = {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade"}
_PATIENCE_S = 20.0
_NONCE = "5f1a"


class ForwardingProxy:
    """Forwards absolute-form requests and CONNECT tunnels; use it as a context manager.

    Args:
        routes: Ports of 127.0.0.1 by the ``host:port`` that clients name. With one for ``msdl.microsoft.com:443`` a
            test may use that name and stay on loopback. Anything else but 127.0.0.1 is answered with 502.
        credentials: User and password that every request must bring; None asks for none.
        digest: They are to be brought as Digest wants it, with MD5, in place of Basic.
        tls: Wraps every connection; the proxy's URL is then an ``https`` one.
        drops_tunnels: Say yes to CONNECT and close, as company proxies do while they fail over; may be changed.

    Attributes:
        requests: Everything asked so far: method, target as sent, headers.
    """

    def __init__(
        self,
        routes: Mapping[str, int] | None = None,
        *,
        credentials: tuple[str, str] | None = None,
        digest: bool = False,
        tls: ssl.SSLContext | None = None,
        drops_tunnels: bool = False,
    ) -> None:
        self.requests: list[Request] = []
        self.drops_tunnels = drops_tunnels
        self._routes = dict(routes or {})
        self._credentials = credentials
        self._wants_digest = digest
        self._scheme = "http" if tls is None else "https"
        self._listener = Listener(self._serve, tls=tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"{self._scheme}://{self.address}"

    @property
    def address(self) -> str:
        """``host:port``, as ``_NT_SYMBOL_PROXY`` wants it."""
        return f"127.0.0.1:{self._listener.port}"

    def close(self) -> None:
        """End every connection and stop listening."""
        self._listener.close()

    def _serve(self, client: socket.socket) -> None:
        # One request a connection: a proxy may close after each, and a tunnel is never reused.
        with client.makefile("rb", buffering=0) as stream:
            request = read_head(stream)
        if request is None:
            return
        self.requests.append(request)
        try:
            self._answer(request, client)
        finally:
            request.ended.set()

    def _answer(self, request: Request, client: socket.socket) -> None:
        if self._credentials is not None and not self._is_known(request, *self._credentials):
            wanted = (
                f'Digest realm="proxy", qop="auth", nonce="{_NONCE}"' if self._wants_digest else 'Basic realm="proxy"'
            )
            return _refuse(request, client, 407, f"Proxy-Authenticate: {wanted}\r\n")
        if request.method == "CONNECT":
            authority, target = request.target, ""
        else:
            scheme, _, rest = request.target.partition("://")
            authority, slash, target = rest.partition("/")
            if scheme != "http" or not slash:
                return _refuse(request, client, 400)
        try:
            origin = self._connect(authority)
        except OSError:
            return _refuse(request, client, 502)
        with origin:
            if request.method == "CONNECT":
                request.status = 200
                client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                if not self.drops_tunnels:
                    tunnel(client, origin)
            else:
                lines = [f"{request.method} /{target} HTTP/1.1"]
                lines += [f"{name}: {value}" for name, value in request.headers.items() if name not in _HOP_HEADERS]
                origin.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
                _copy(origin, client)
        return None

    def _is_known(self, request: Request, user: str, password: str) -> bool:
        said = request.headers.get("proxy-authorization", "")
        if not self._wants_digest:
            return said == "Basic " + _base64(f"{user}:{password}")
        fields = {name: quoted or plain for name, quoted, plain in re.findall(r'(\w+)=(?:"([^"]*)"|([^,\s]+))', said)}
        if not said.startswith("Digest ") or fields.get("uri") != request.target or fields.get("nonce") != _NONCE:
            return False
        # RFC 7616, section 3.4.1
        secret = _md5(f"{user}:proxy:{password}")
        asked = _md5(f"{request.method}:{request.target}")
        expected = _md5(f"{secret}:{_NONCE}:{fields.get('nc')}:{fields.get('cnonce')}:auth:{asked}")
        return fields.get("username") == user and fields.get("response") == expected

    def _connect(self, authority: str) -> socket.socket:
        host, _, port = authority.partition(":")
        routed = self._routes.get(f"{host}:{port or 80}")
        if routed is None and host != "127.0.0.1":
            raise ConnectionRefusedError(f"no route to {authority}")
        return socket.create_connection(("127.0.0.1", routed or int(port or "80")), timeout=_PATIENCE_S)


OPEN = b"OPEN"
"""In place of an answer of a `RawProxy`: 200, and a tunnel."""


class RawProxy:
    """Answers as it is told, whatever is asked; use it as a context manager.

    Args:
        connections: For each connection its answers, one for each request; after the last it closes. `OPEN` opens a
            tunnel. A connection more than these is answered as the last one.
        port: Where tunnels lead.

    Attributes:
        requests: For each connection what was asked.
    """

    def __init__(self, *connections: Sequence[bytes], port: int = 0) -> None:
        self.requests: list[list[Request]] = []
        self._connections = connections
        self._port = port
        self._listener = Listener(self._serve)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.port}"

    def _serve(self, client: socket.socket) -> None:
        number = len(self.requests)
        asked: list[Request] = []
        self.requests.append(asked)
        for answer in self._connections[min(number, len(self._connections) - 1)]:
            with client.makefile("rb", buffering=0) as stream:
                request = read_head(stream)
            if request is None:
                return
            asked.append(request)
            if answer == OPEN:
                with socket.create_connection(("127.0.0.1", self._port)) as origin:
                    client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
                    tunnel(client, origin)
                return
            client.sendall(answer)
        with suppress(OSError):
            client.shutdown(socket.SHUT_WR)
            client.recv(1)  # no reset before it has been read


class SocksProxy:
    """A SOCKS proxy on loopback that leads every connection to one port; use it as a context manager.

    Source: RFC 1928 and RFC 1929; "SOCKS: A protocol for TCP proxy across firewalls" and its extension 4A.

    Args:
        port: Where connections lead.
        scheme: ``socks4``, ``socks4a``, ``socks5`` or ``socks5h``, for the URL; it speaks 4 and 5 whatever that is.
        credentials: User and password that version 5 must bring, and user for version 4; None asks for none.
        code: What every request is answered with; None lets them through.

    Attributes:
        hosts: The names and addresses that were asked for.
    """

    def __init__(
        self,
        port: int,
        *,
        scheme: str = "socks5h",
        credentials: tuple[str, str] | None = None,
        code: int | None = None,
    ) -> None:
        self.hosts: list[str] = []
        self._port = port
        self._scheme = scheme
        self._credentials = credentials
        self._code = code
        self._listener = Listener(self._serve)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._listener.close()

    @property
    def url(self) -> str:
        """Its URL, with user and password where it wants them."""
        user = "" if self._credentials is None else ":".join(self._credentials) + "@"
        return f"{self._scheme}://{user}127.0.0.1:{self._listener.port}"

    def _serve(self, client: socket.socket) -> None:
        # Unbuffered: what follows belongs to the tunnel.
        with client.makefile("rb", buffering=0) as stream:
            version = stream.read(1)
            if version == b"\x05":
                refused, accepted = self._read_5(stream, client)
            else:
                refused, accepted = self._read_4(stream)
        if refused:
            client.sendall(refused)
            return
        with socket.create_connection(("127.0.0.1", self._port)) as origin:
            client.sendall(accepted)
            tunnel(client, origin)

    def _read_5(self, stream: socket.SocketIO, client: socket.socket) -> tuple[bytes, bytes]:
        ways = _exactly(stream, _exactly(stream, 1)[0])
        way = 0 if self._credentials is None else 2
        if way not in ways:
            return b"\x05\xff", b""
        client.sendall(bytes([5, way]))
        if self._credentials is not None:
            _exactly(stream, 1)
            user = _exactly(stream, _exactly(stream, 1)[0]).decode()
            password = _exactly(stream, _exactly(stream, 1)[0]).decode()
            if (user, password) != self._credentials:
                return b"\x01\x01", b""
            client.sendall(b"\x01\x00")
        _, _, _, kind = _exactly(stream, 4)
        if kind == 3:
            self.hosts.append(_exactly(stream, _exactly(stream, 1)[0]).decode())
        else:
            family, size_bytes = (socket.AF_INET, 4) if kind == 1 else (socket.AF_INET6, 16)
            self.hosts.append(socket.inet_ntop(family, _exactly(stream, size_bytes)))
        _exactly(stream, 2)
        tail = b"\x00\x03\x04name" + bytes(2)
        return (b"" if self._code is None else bytes([5, self._code]) + tail), b"\x05\x00" + tail

    def _read_4(self, stream: socket.SocketIO) -> tuple[bytes, bytes]:
        _, _, address = struct.unpack("!BH4s", _exactly(stream, 7))
        user = _until_nul(stream)
        is_name = address[:3] == bytes(3) and address[3]
        self.hosts.append(_until_nul(stream) if is_name else socket.inet_ntoa(address))
        code = self._code
        if code is None and self._credentials is not None and user != self._credentials[0]:
            code = 0x5D
        return (b"" if code is None else bytes([0, code]) + bytes(6)), b"\x00\x5a" + bytes(6)


def _exactly(stream: socket.SocketIO, size_bytes: int) -> bytes:
    received = b""
    while len(received) < size_bytes:
        piece = stream.read(size_bytes - len(received))
        if not piece:
            raise ConnectionError("it ended early")
        received += piece
    return received


def _until_nul(stream: socket.SocketIO) -> str:
    received = b""
    while (letter := _exactly(stream, 1)) != b"\x00":
        received += letter
    return received.decode()


def _refuse(request: Request, client: socket.socket, status: int, header: str = "") -> None:
    request.status = status
    client.sendall(
        f"HTTP/1.1 {status} Refused by proxy\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n".encode("ascii")
    )


def tunnel(client: socket.socket, origin: socket.socket, *, most_bytes: int | None = None) -> None:
    """Copy both ways until the client leaves, in one thread: TLS connections are no matter for two.

    Args:
        client: Who asked for it.
        origin: Where it leads.
        most_bytes: How many come from there before it breaks off; None for all.
    """
    other = {client: origin, origin: client}
    with suppress(OSError):
        while other:
            pending = [end for end in other if isinstance(end, ssl.SSLSocket) and end.pending()]
            readable = pending or select.select(list(other), [], [], _PATIENCE_S)[0]
            if not readable:
                return
            for end in readable:
                if data := end.recv(65536):
                    other[end].sendall(data[:most_bytes] if end is origin else data)
                    if end is origin and most_bytes is not None:
                        most_bytes -= len(data)
                        if most_bytes <= 0:
                            return
                else:
                    del other[end]
                    if end is client:
                        return
                    client.shutdown(socket.SHUT_WR)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy until either side ends, then end the sending half of *sink*."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")


def _md5(text: str) -> str:
    return hashlib.md5(text.encode()).hexdigest()
