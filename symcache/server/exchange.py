"""One request and its answer, over ASGI."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias

import anyio

from symcache.server.answers import header_list

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping, Sequence

    from symcache.server.answers import Fields, Headers

__all__ = ["CONNECTION", "ClientLeft", "Connection", "CutOffError", "Exchange", "Receive", "Scope", "Send"]

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
