"""Sockets and HTTP/1.1 messages below the scripted upstream and the forwarding proxy.

Blocking calls, one thread per connection: a test's own event loop, be it asyncio or trio, never runs this code.
"""

from __future__ import annotations

import socket
import struct
import sys
import threading
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import unquote

import anyio.to_thread

from support.parts import IS_WINE

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator, Mapping
    from io import BufferedReader

__all__ = ["Listener", "Request", "Signal", "closed_port", "drop_with_reset", "read_head"]

_PATIENCE_S = 60.0  # far beyond what any test needs; only a broken one waits that long
_LINE_LIMIT_BYTES = 65536


class Signal:
    """A `threading.Event` that sync and async tests can wait for, and that fails instead of hanging."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._event = threading.Event()

    def set(self) -> None:
        self._event.set()

    def is_set(self) -> bool:
        return self._event.is_set()

    def wait(self, timeout_s: float = _PATIENCE_S) -> None:
        """Block until set; an `AssertionError` after *timeout_s*."""
        assert self._event.wait(timeout_s), f"{self._name} did not happen within {timeout_s:g} s"

    async def reached(self, timeout_s: float = _PATIENCE_S) -> None:
        """Wait until set without blocking the event loop."""
        await anyio.to_thread.run_sync(self.wait, timeout_s, abandon_on_cancel=True)


@dataclass(slots=True)
class Request:
    """One request as it arrived, and what became of it.

    Attributes:
        target: The request line's middle part, untouched.
        headers: By lower-case name; a repeated header's values are joined by a comma and a blank.
        status: What was answered; None while no answer was begun, or where raw bytes or nothing was sent.
        sent_bytes: Body bytes given to the socket, chunk framing left out; those under way are counted already.
        ended: Set once the answer is over, well or not.
    """

    method: str
    target: str
    headers: Mapping[str, str]
    status: int | None = None
    sent_bytes: int = 0
    ended: Signal = field(default_factory=lambda: Signal("the end of an answer"))

    @property
    def path(self) -> str:
        """The target's path, percent-decoded, with its leading slash; a target with an origin keeps only the path."""
        target = self.target.partition("?")[0]
        if "://" in target:
            target = "/" + target.partition("://")[2].partition("/")[2]
        return unquote(target)

    @property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @property
    def wants_close(self) -> bool:
        return self.headers.get("connection", "").lower() == "close"


def read_head(stream: BufferedReader | socket.SocketIO, *, skip_body: bool = True) -> Request | None:
    """Return the next request of a connection; None once the other side is done.

    Args:
        stream: Of the connection.
        skip_body: Read the request's body, too; it is left to the caller otherwise.

    Raises:
        ValueError: What came is no request.
    """
    line = stream.readline(_LINE_LIMIT_BYTES)
    if not line:
        return None
    method, target, version = line.decode("ascii").split()
    if version not in {"HTTP/1.1", "HTTP/1.0"}:
        raise ValueError(f"unexpected version {version!r}")
    headers: dict[str, str] = {}
    while (line := stream.readline(_LINE_LIMIT_BYTES)) not in {b"\r\n", b"\n"}:
        name, colon, value = line.decode("latin-1").partition(":")
        if not colon:
            raise ValueError(f"not a header line: {line!r}")
        name = name.lower()
        headers[name] = f"{headers[name]}, {value.strip()}" if name in headers else value.strip()
    if skip_body:
        stream.read(int(headers.get("content-length", "0")))
    return Request(method, target, headers)


class Listener:
    """Accepts connections on 127.0.0.1, each served in a thread of its own, until it is closed.

    Args:
        serve: Called once for each connection; it may let `OSError` and `ValueError` out, which end the connection.
        tls: Wraps every connection; None for plain TCP.
        port: Where it listens; 0 for any that is free.
    """

    def __init__(
        self, serve: Callable[[socket.socket], None], *, tls: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self._serve = serve
        self._tls = tls
        self._lock = threading.Lock()
        self._open: dict[socket.socket, threading.Thread] = {}
        self._closing = False
        self._refused_s = 0.0
        self.accepted = 0
        self._socket = socket.create_server(("127.0.0.1", port), backlog=512)
        self.port: int = self._socket.getsockname()[1]
        self._thread = threading.Thread(target=self._accept, name=f"accept on {self.port}", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End every connection and wait for its thread."""
        with self._lock:
            if self._closing:
                return
            self._closing = True
        # Closing a socket does not wake the thread that accepts on it everywhere; a connection does.
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE_S).close()
        self._join(self._thread)
        self._socket.close()
        with self._lock:
            threads = list(self._open.values())
            for connection in self._open:
                _shut_down(connection)
        for thread in threads:
            self._join(thread)

    def refuse(self, for_s: float) -> None:
        """Refuse new connections for a while; those of this moment go on."""
        self._refused_s = for_s
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", self.port), timeout=_PATIENCE_S).close()

    def cut_connections(self) -> None:
        """End the connections of this moment; new ones are accepted."""
        with self._lock:
            for connection in self._open:
                _shut_down(connection)

    @staticmethod
    def _join(thread: threading.Thread) -> None:
        thread.join(_PATIENCE_S)
        # Under wine now and then nothing wakes a thread from a socket that is closed under it; the process ends it.
        assert IS_WINE or not thread.is_alive(), f"{thread.name} does not end"

    def _accept(self) -> None:
        while True:
            connection, _ = self._socket.accept()
            if self._refused_s:
                connection.close()
                self._socket.close()
                time.sleep(self._refused_s)
                self._refused_s = 0.0
                self._socket = socket.create_server(("127.0.0.1", self.port), backlog=512)
                with self._lock:
                    if self._closing:
                        return
                continue
            with self._lock:
                if self._closing:
                    connection.close()
                    return
                self.accepted += 1
                thread = threading.Thread(
                    target=self._run, args=(connection,), name=f"connection {self.accepted} of {self.port}", daemon=True
                )
                self._open[connection] = thread
                thread.start()

    def _run(self, connection: socket.socket) -> None:
        # A client that leaves, or does not trust the certificate, is part of what is tested.
        try:
            with suppress(OSError, ValueError):
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                if self._tls is None:
                    self._serve(connection)
                else:
                    self._serve_tls(connection, self._tls)
        finally:
            with self._lock:
                del self._open[connection]
                connection.close()

    def _serve_tls(self, connection: socket.socket, tls: ssl.SSLContext) -> None:
        # The wrapper works on a duplicate, so that `connection` stays the one handle that ends it from outside.
        with tls.wrap_socket(connection.dup(), server_side=True) as wrapped:
            self._serve(wrapped)


def _shut_down(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
        if sys.platform == "win32":
            socket.close(connection.detach())  # nothing else wakes a thread that waits for what comes


def drop_with_reset(connection: socket.socket) -> None:
    """Make the next close of *connection* send RST, so that the client sees a reset instead of an end."""
    linger = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)


@contextmanager
def closed_port() -> Iterator[int]:
    """Hold a port of 127.0.0.1 that refuses every connection."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as bound:
        bound.bind(("127.0.0.1", 0))
        port: int = bound.getsockname()[1]
        yield port
