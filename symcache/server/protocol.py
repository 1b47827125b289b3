"""One request and its answer, over ASGI."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from symcache.server.answers import header_list

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence

    from symcache.server.answers import Fields, Headers

__all__ = [
    "CONNECTION",
    "ClientLeft",
    "Connection",
    "CutOffError",
    "Exchange",
    "Receive",
    "Scope",
    "Send",
    "ServeProtocol",
]


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


Scope: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[MutableMapping[str, Any]]]"
Send: TypeAlias = "Callable[[MutableMapping[str, Any]], Awaitable[None]]"

CONNECTION = "symcache.connection"
"""The scope's extension under which our own protocol puts a `Connection`."""

_PATIENCE_S = 120.0
_NO_STORE = (b"cache-control", b"no-store")


class Connection(Protocol):
    """What an ASGI server does not offer of itself."""

    @property
    def is_gone(self) -> bool:
        """Whether nobody is there any more."""

    def abort(self) -> None:
        """End the connection with a reset, so that no client takes what it has for the whole."""


class ClientLeft(Exception):
    """The client went away, or sent nothing for a long time, before its request was whole."""


class CutOffError(Exception):
    """The answer cannot be completed, and the connection is to end with it."""


class Exchange:
    """One request that is being answered.

    Attributes:
        scope: As the server gave it.
        fields: The request's fields by lower-case name; of several of one name the last.
        method: As sent.
        raw_path: Percent-encoded path, without the query.
        status: Of the answer; 0 before it begins.
        sent_bytes: Length of the body sent so far.
        said: What kind of answer it was, for the counts and the log.
        began_s: Monotonic time of its beginning.
    """

    __slots__ = (
        "_send",
        "began_s",
        "connection",
        "fields",
        "method",
        "raw_path",
        "receive",
        "said",
        "scope",
        "sent_bytes",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.fields: Fields = dict(scope["headers"])
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        extensions = scope.get("extensions")
        self.connection: Connection | None = extensions.get(CONNECTION) if extensions else None
        self.status = 0
        self.sent_bytes = 0
        self.said = "other"
        self.began_s = time.monotonic()

    @property
    def is_gone(self) -> bool:
        """Whether the client has left."""
        return self.connection is not None and self.connection.is_gone

    async def begin(self, status: int, headers: Headers) -> None:
        """Send status and fields."""
        self.status = status
        await self._send({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes, *, more: bool = False) -> None:
        """Send a piece of the body; the last one ends the answer.

        A client that takes nothing for two minutes is cut off.
        """
        self.sent_bytes += len(data)
        message = {"type": "http.response.body", "body": data, "more_body": more}
        if not more:
            await self._send(message)  # put into the connection's buffer, whoever takes it
            return
        with anyio.move_on_after(_PATIENCE_S) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            await self.cut_off()

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it arrives.

        Raises:
            ClientLeft: It does not come.
        """
        more = True
        while more:
            message: MutableMapping[str, Any] = {"type": "http.disconnect"}
            with anyio.move_on_after(_PATIENCE_S):
                message = await self.receive()
            if message["type"] == "http.disconnect":
                self.said = "left"
                raise ClientLeft
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def say(self, status: int, text: str = "", extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Answer with a short plain text; some clients keep what they get, whatever the status says."""
        body = f"{text}\n".encode() if text else b""
        await self.begin(status, header_list(b"text/plain; charset=utf-8", len(body), [_NO_STORE, *extra]))
        await self.send(b"" if self.method == "HEAD" else body)

    async def cut_off(self) -> None:
        """End the connection at once, in the middle of the answer.

        Raises:
            CutOffError: Only the server can do that, and will, as the answer is not complete.
        """
        if self.connection is None:
            raise CutOffError
        self.connection.abort()
        while (await self.receive())["type"] != "http.disconnect":
            pass
