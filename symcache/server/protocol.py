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
_JOINED_BYTES = 128 * 1024
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ncache-control: no-store\r\n"
    b"connection: close\r\n\r\n"
)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time


class _JoiningTransport:
    """A transport that sends the head of an answer together with the first piece of its body.

    uvicorn writes them one after the other, which costs a system call and wakes the client for the head alone.
    """

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop) -> None:
        self._transport = transport
        self._loop = loop
        self._head: bytes | None = None
        self.is_closing = transport.is_closing
        self.get_extra_info = transport.get_extra_info
        self.pause_reading = transport.pause_reading
        self.resume_reading = transport.resume_reading
        self.set_protocol = transport.set_protocol

    def write(self, data: bytes) -> None:
        if self._head is not None:
            # Joined by copying: asyncio's writelines stalls or loses track in several versions of Python.
            head, self._head = self._head, None
            if len(data) > _JOINED_BYTES:
                self._transport.write(head)
            else:
                data = head + data
            self._transport.write(data)
        elif data.startswith(b"HTTP/1.1 "):
            self._head = data
            self._loop.call_soon(self.flush)  # a body that is still to be waited for does not hold it back
        else:
            self._transport.write(data)

    def flush(self) -> None:
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.write(head)

    def close(self) -> None:
        self.flush()
        self._transport.close()

    def abort(self) -> None:
        self._head = None
        self._transport.abort()


class ServeProtocol(HttpToolsProtocol):
    """One connection.

    A request's line and fields may take 64 KiB and 30 s; uvicorn itself bounds neither.
    """

    # asyncio promises a BaseTransport; a server's stream protocol is given one that writes, as uvicorn has it, too.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin."""
        joining: Any = _JoiningTransport(transport, self.loop)
        super().connection_made(joining)
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
        self._waiting.cancel()
        self._waiting = self.loop.call_later(_HEAD_WITHIN_S, self._give_up)
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
