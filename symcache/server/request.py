"""One HTTP request and its response over ASGI: what its path asks for, where it came from, how it is answered."""

from __future__ import annotations

import ipaddress
import re
import time
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Protocol, TypeAlias
from urllib.parse import parse_qs, unquote_to_bytes

import anyio

from symcache.errors import MalformedInput
from symcache.identity import PdbKey, check_path_part, compressed_name, fold, parse_id
from symcache.server.files import header_list, read_at, select
from symcache.stores.http.client import VIA
from symcache.stores.local.tree import Form

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping, Sequence

    from symcache.identity import Key
    from symcache.server.files import FileInfo, Headers, RequestHeaders

__all__ = [
    "CONNECTION",
    "Asked",
    "ClientDisconnected",
    "Connection",
    "FileAsked",
    "Loops",
    "MalformedPath",
    "Mark",
    "NotAFile",
    "Proxies",
    "Receive",
    "Request",
    "ResponseAborted",
    "Scope",
    "Send",
    "parse_path",
    "read_in_decimal",
]

Scope: TypeAlias = "MutableMapping[str, Any]"
Receive: TypeAlias = "Callable[[], Awaitable[MutableMapping[str, Any]]]"
Send: TypeAlias = "Callable[[MutableMapping[str, Any]], Awaitable[None]]"

CONNECTION = "symcache.connection"
"""Key in the scope's ``extensions`` under which `symcache.server.protocol` puts a `Connection`."""

PATIENCE_S = 120.0
"""How long a client may send or take nothing before it is disconnected."""

_PIECE_BYTES = 64 * 1024
_NO_STORE = (b"cache-control", b"no-store")


class Connection(Protocol):
    """What an ASGI server does not offer by itself."""

    @property
    def is_gone(self) -> bool:
        """Whether the client has disconnected."""

    def abort(self) -> None:
        """End the connection with a reset, so that the client does not take a partial body for a complete one."""


class ClientDisconnected(Exception):
    """The client disconnected, or sent nothing for a long time, before its request was complete."""


class ResponseAborted(Exception):
    """The response cannot be completed; the server must end the connection."""


class Request:
    """One request, and the means to answer it.

    Attributes:
        scope: As the server gave it.
        headers: By lower-case name; the last one where a name is repeated.
        method: As sent.
        raw_path: Percent-encoded path, without the query.
        status: Of the response; 0 before it starts.
        sent_bytes: Length of the body sent so far.
        kind: What kind of answer it was, for metrics and access log.
        began_s: Monotonic time at which it arrived.
    """

    __slots__ = (
        "_send",
        "began_s",
        "connection",
        "headers",
        "kind",
        "method",
        "raw_path",
        "receive",
        "scope",
        "sent_bytes",
        "status",
    )

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.headers: RequestHeaders = dict(scope["headers"])
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        extensions = scope.get("extensions")
        self.connection: Connection | None = extensions.get(CONNECTION) if extensions else None
        self.status = 0
        self.sent_bytes = 0
        self.kind = "other"
        self.began_s = time.monotonic()

    @property
    def is_gone(self) -> bool:
        """Whether the client has disconnected."""
        return self.connection is not None and self.connection.is_gone

    def query(self, name: str, default: str = "") -> str:
        """Return the first value of a query parameter."""
        text: str = self.scope.get("query_string", b"").decode("latin-1")
        return parse_qs(text).get(name, [default])[0]

    async def start(self, status: int, headers: Headers) -> None:
        """Send status and headers."""
        self.status = status
        await self._send_message({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes, *, more: bool = False) -> None:
        """Send a piece of the body; the last one ends the response.

        A client that takes nothing for two minutes is disconnected.
        """
        self.sent_bytes += len(data)
        await self._send_message({"type": "http.response.body", "body": data, "more_body": more})

    async def send_text(self, status: int, text: str = "", extra: Sequence[tuple[bytes, bytes]] = ()) -> None:
        """Answer with a short plain text. ``no-store``, as some clients cache a body whatever its status is."""
        body = f"{text}\n".encode() if text else b""
        await self.start(status, header_list(b"text/plain; charset=utf-8", len(body), [_NO_STORE, *extra]))
        await self.send(b"" if self.method == "HEAD" else body)

    async def send_file(self, fd: int, info: FileInfo) -> None:
        """Answer with the open file *fd*, which is complete and verified."""
        chosen = select(info, self.headers)
        await self.start(chosen.status, chosen.headers)
        if self.method == "HEAD" or chosen.start == chosen.stop:
            await self.send(b"")
        else:
            await self.send_range(fd, chosen.start, chosen.stop)

    async def send_range(self, fd: int, start: int, stop: int) -> None:
        """Send these bytes of an open file; the last ones end the response.

        Read on the event loop's thread: from the page cache that is faster than a worker thread.
        """
        while start < stop and not self.is_gone:
            data = read_at(fd, min(_PIECE_BYTES, stop - start), start)
            if not data:  # shorter on disk than announced
                await self.abort()
                return
            start += len(data)
            await self.send(data, more=start < stop)

    async def body(self) -> AsyncIterator[bytes]:
        """Yield the request's body as it arrives.

        Raises:
            ClientDisconnected: It does not arrive.
        """
        more = True
        while more:
            message: MutableMapping[str, Any] = {"type": "http.disconnect"}
            with anyio.move_on_after(PATIENCE_S):
                message = await self.receive()
            if message["type"] == "http.disconnect":
                self.kind = "left"
                raise ClientDisconnected
            more = message.get("more_body", False)
            yield message.get("body", b"")

    async def abort(self) -> None:
        """End the connection in the middle of the response.

        Raises:
            ResponseAborted: Only the ASGI server can end it, and does so because the response is not complete.
        """
        self.kind = "cut"
        if self.connection is None:
            raise ResponseAborted
        self.connection.abort()
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _send_message(self, message: MutableMapping[str, Any]) -> None:
        with anyio.move_on_after(PATIENCE_S) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            await self.abort()


class Proxies:
    """The reverse proxies whose ``X-Forwarded-For`` is believed.

    Args:
        trusted: Addresses and networks.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(text) for text in trusted]

    def client_of(self, address: str, headers: RequestHeaders) -> str:
        """Return where a request that arrived from *address* came from: its last hop that is not a trusted proxy."""
        if not self._is_trusted(address):
            return address
        hops = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        for hop in reversed([text.strip() for text in hops if text.strip()]):
            if _parse_address(hop) is None:
                return address
            address = hop
            if not self._is_trusted(hop):
                break
        return address

    def _is_trusted(self, text: str) -> bool:
        address = _parse_address(text) if self._networks else None
        return address is not None and any(
            network.version == address.version and address in network for network in self._networks
        )


@lru_cache(maxsize=1024)
def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


_MOST_HOPS = 16


class Loops:
    """Finds requests that this server made itself, by way of other servers.

    Args:
        run: Identifies this server; a random text.
    """

    def __init__(self, run: str) -> None:
        self._own = f"symcache-{run}"

    def is_in_one(self, headers: RequestHeaders) -> bool:
        """Whether a request with these *headers* came from this server, or passed too many others."""
        via = headers.get(b"via")
        if via is None:
            return False
        hops = via.decode("latin-1").split(",")
        return len(hops) > _MOST_HOPS or any(self._own in hop.split() for hop in hops)

    @contextmanager
    def noting(self, headers: RequestHeaders) -> Iterator[None]:
        """Send ``Via`` with the upstream requests made in a ``with`` block: the hops of *headers*, then this server.

        Source: RFC 9110, section 7.6.3: protocol version and a name, nearest hop last.
        """
        before = headers.get(b"via", b"").decode("latin-1")
        own = f"1.1 {self._own}"
        token = VIA.set(f"{before}, {own}" if before and before.isprintable() else own)
        try:
            yield
        finally:
            VIA.reset(token)


_LONGEST_PATH = 4096
_GUID_DECIMAL = re.compile(r"[0-9A-Fa-f]{32}([0-9]{2,10})")


class MalformedPath(Exception):
    """A path that cannot name a file."""


class NotAFile(Enum):
    """A path of another shape than a symbol file's."""

    OTHER = "other"


class Mark(Enum):
    """The files that tell what kind of store this is."""

    TWO_TIER = "index2.txt"
    STORE = "pingme.txt"


@dataclass(frozen=True, slots=True)
class FileAsked:
    """A file of a store.

    Attributes:
        key: Identifies it.
        form: The plain file, its cabinet, or a pointer file.
        id_text: The middle part as the client wrote it.
    """

    key: Key
    form: Form
    id_text: str


Asked: TypeAlias = FileAsked | Mark | NotAFile


@lru_cache(maxsize=4096)
def parse_path(raw_path: bytes) -> Asked:
    """Return what *raw_path*, percent-encoded as it was sent, asks for.

    Only the last three parts count: parts before them may be a proxy's prefix, or the first tier of a two-tier store.
    Letter case does not count.

    Raises:
        MalformedPath: It is not a path, or has a part that cannot be a file name.
    """
    if len(raw_path) > _LONGEST_PATH or not raw_path.startswith(b"/"):
        raise MalformedPath("not a path")
    try:
        # Split before decoding, so that an encoded slash does not separate parts.
        parts = [unquote_to_bytes(part).decode("utf-8") for part in raw_path[1:].split(b"/")]
    except UnicodeDecodeError as error:
        raise MalformedPath("not UTF-8") from error
    if any(part in {".", ".."} or "/" in part or "\\" in part or "\0" in part for part in parts):
        raise MalformedPath("leads elsewhere")
    last = fold(parts[-1])
    for mark in Mark:
        if last == mark.value:
            return mark
    if len(parts) < 3:
        return NotAFile.OTHER
    name, id_text, file = parts[-3:]
    return _parse_file(name, id_text, file)


def _parse_file(name: str, id_text: str, file: str) -> Asked:
    forms = {"file.ptr": Form.POINTER, fold(compressed_name(name)): Form.COMPRESSED, fold(name): Form.PLAIN}
    form = forms.get(fold(file))
    try:
        if form is None:
            check_path_part(file)
            return NotAFile.OTHER
        return FileAsked(parse_id(name, id_text), form, id_text)
    except MalformedInput as error:
        raise MalformedPath(str(error)) from error


def read_in_decimal(asked: FileAsked) -> PdbKey | None:
    """Return the key that *asked* names if its age is decimal; None if that is the same key, or not possible.

    volatility3 and LLDB's locator for symbol servers write ages in decimal.
    """
    match = _GUID_DECIMAL.fullmatch(asked.id_text)
    if match is None or not isinstance(asked.key, PdbKey) or match[1].startswith("0"):
        return None
    age = int(match[1])
    return PdbKey(asked.key.name, asked.key.guid, age) if age < 1 << 32 else None
