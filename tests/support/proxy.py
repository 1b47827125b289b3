"""A small forwarding HTTP proxy on loopback that keeps a log."""

from __future__ import annotations

import base64
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING

from support.wire import Listener, Request, read_head

if TYPE_CHECKING:
    from collections.abc import Mapping
    from types import TracebackType
    from typing import Self

__all__ = ["ForwardingProxy", "SocksProxy"]

_HOP_HEADERS = {"connection", "keep-alive", "proxy-authorization", "proxy-connection", "te", "trailer", "upgrade"}
_PATIENCE_S = 20.0


class ForwardingProxy:
    """Forwards absolute-form requests and CONNECT tunnels; use it as a context manager.

    Args:
        routes: Ports of 127.0.0.1 by the ``host:port`` that clients name. With one for ``msdl.microsoft.com:443`` a
            test may use that name and stay on loopback. Anything else but 127.0.0.1 is answered with 502.
        credentials: User and password that every request must bring; None asks for none.
        drops_tunnels: Say yes to CONNECT and close, as company proxies do while they fail over; may be changed.

    Attributes:
        requests: Everything asked so far: method, target as sent, headers.
    """

    def __init__(
        self,
        routes: Mapping[str, int] | None = None,
        *,
        credentials: tuple[str, str] | None = None,
        drops_tunnels: bool = False,
    ) -> None:
        self.requests: list[Request] = []
        self.drops_tunnels = drops_tunnels
        self._routes = dict(routes or {})
        self._expected = None if credentials is None else "Basic " + _base64(":".join(credentials))
        self._listener = Listener(self._serve)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        return f"http://{self.address}"

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
        if self._expected is not None and request.headers.get("proxy-authorization") != self._expected:
            return _refuse(request, client, 407, 'Proxy-Authenticate: Basic realm="proxy"\r\n')
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
                    _tunnel(client, origin)
            else:
                lines = [f"{request.method} /{target} HTTP/1.1"]
                lines += [f"{name}: {value}" for name, value in request.headers.items() if name not in _HOP_HEADERS]
                origin.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode("latin-1"))
                _copy(origin, client)
        return None

    def _connect(self, authority: str) -> socket.socket:
        host, _, port = authority.partition(":")
        routed = self._routes.get(f"{host}:{port or 80}")
        if routed is None and host != "127.0.0.1":
            raise ConnectionRefusedError(f"no route to {authority}")
        return socket.create_connection(("127.0.0.1", routed or int(port or "80")), timeout=_PATIENCE_S)


class SocksProxy:
    """A SOCKS 5 proxy on loopback that leads every connection to one port; use it as a context manager.

    Source: RFC 1928: a greeting with the ways to say who one is, then a request with the name of the host.

    Attributes:
        hosts: The names that were asked for.
    """

    def __init__(self, port: int) -> None:
        self.hosts: list[str] = []
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
        return f"socks5h://127.0.0.1:{self._listener.port}"

    def _serve(self, client: socket.socket) -> None:
        with client.makefile("rb", buffering=0) as stream:
            _, ways = stream.read(2)
            stream.read(ways)
            client.sendall(b"\x05\x00")
            stream.read(4)
            (length,) = stream.read(1)
            self.hosts.append(stream.read(length).decode())
            stream.read(2)
        with socket.create_connection(("127.0.0.1", self._port)) as origin:
            client.sendall(b"\x05\x00\x00\x01" + bytes(6))
            _tunnel(client, origin)


def _refuse(request: Request, client: socket.socket, status: int, header: str = "") -> None:
    request.status = status
    client.sendall(
        f"HTTP/1.1 {status} Refused by proxy\r\n{header}Content-Length: 0\r\nConnection: close\r\n\r\n".encode("ascii")
    )


def _tunnel(client: socket.socket, origin: socket.socket) -> None:
    upward = threading.Thread(target=_copy, args=(client, origin), name="tunnel", daemon=True)
    upward.start()
    _copy(origin, client)
    upward.join(_PATIENCE_S)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    """Copy until either side ends, then end the sending half of *sink*."""
    with suppress(OSError):
        while data := source.recv(65536):
            sink.sendall(data)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode("ascii")
