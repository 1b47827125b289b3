"""uvicorn's HTTP protocol with what a server of half-arrived files needs: resets, and bounds on what a client sends."""

from __future__ import annotations

import socket
import struct
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from symcache.server.exchange import CONNECTION

if TYPE_CHECKING:
    import asyncio

__all__ = ["ServeProtocol"]

_LONGEST_HEAD_BYTES = 64 * 1024
_HEAD_WITHIN_S = 30.0
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ncache-control: no-store\r\n"
    b"connection: close\r\n\r\n"
)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time


class ServeProtocol(HttpToolsProtocol):
    """One connection.

    A request's line and fields may take 64 KiB and 30 s; uvicorn itself bounds neither.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        super().connection_made(transport)
        self._head_bytes = 0
        self._extensions = {CONNECTION: self}
        self._waiting = self.loop.call_later(_HEAD_WITHIN_S, self._give_up)

    def connection_lost(self, exc: Exception | None) -> None:
        """End."""
        self._waiting.cancel()
        super().connection_lost(exc)

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more."""
        return self.transport.is_closing()

    def abort(self) -> None:
        """End the connection with a reset, so that no client takes what it has for the whole."""
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def on_message_begin(self) -> None:
        """Begin with a request."""
        super().on_message_begin()
        self._head_bytes = 0
        scope: Any = self.scope
        scope["extensions"] = self._extensions

    def on_url(self, url: bytes) -> None:
        """Take in a piece of the request's target."""
        super().on_url(url)
        self._bound_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """Take in a field."""
        super().on_header(name, value)
        self._bound_head(len(name) + len(value))

    def on_headers_complete(self) -> None:
        """Answer the request."""
        self._waiting.cancel()
        if not self.transport.is_closing():
            super().on_headers_complete()

    def _bound_head(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > _LONGEST_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def _give_up(self) -> None:
        if not self.transport.is_closing():
            self.transport.abort()
