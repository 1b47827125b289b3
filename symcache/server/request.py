"""One HTTP request and its response over ASGI: files with validators and ranges, where a request came from."""

from __future__ import annotations

import ipaddress
import os
import re
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC
from email.utils import formatdate, parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import parse_qs

import anyio

from symcache.stores.http.client import VIA

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, MutableMapping, Sequence
    from pathlib import Path

    from symcache.server.protocol import ServeProtocol

    Scope: TypeAlias = MutableMapping[str, Any]
    Receive: TypeAlias = Callable[[], Awaitable[MutableMapping[str, Any]]]
    Send: TypeAlias = Callable[[MutableMapping[str, Any]], Awaitable[None]]
    Header: TypeAlias = tuple[bytes, bytes]
    Headers: TypeAlias = list[Header]
    RequestHeaders: TypeAlias = Mapping[bytes, bytes]  # by lower-case name

CONNECTION = "symcache.connection"
"""Key in the scope's ``extensions`` under which `symcache.server.protocol` puts itself."""

SEND_FILE = "symcache.send_file"
"""Likewise, for `ServeProtocol.send_file` as it is called with a descriptor and from and up to where to send."""

PATIENCE_S = 120.0
"""How long a client may send or take less than `LEAST_BYTES` of a body before it is disconnected."""

LEAST_BYTES = 64 * 1024
"""See there: a byte now and then would hold a place for ever."""

_PIECE_BYTES = 64 * 1024
NO_STORE = (b"cache-control", b"no-store")


class ClientDisconnected(Exception):
    """The client disconnected, or sent nothing for a long time, before its request was complete."""


class ResponseAborted(Exception):
    """The response cannot be completed; the server must end the connection."""


class Request:
    """One request, and the means to answer it.

    Attributes:
        headers: By lower-case name; the last one where a name is repeated.
        raw_path: Percent-encoded path, without the query.
        status: Of the response; 0 before it starts.
        is_answered: The response has been sent to its end.
        kind: What kind of answer it was, for metrics and access log.
        began_s: Monotonic time at which it arrived.
    """

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.scope = scope
        self.receive = receive
        self._send = send
        self.headers: RequestHeaders = dict(scope["headers"])
        self.method: str = scope["method"]
        self.raw_path: bytes = scope["raw_path"]
        extensions = scope.get("extensions") or {}
        self.connection: ServeProtocol | None = extensions.get(CONNECTION)
        self._send_file: Callable[[int, int, int], Awaitable[int]] | None = extensions.get(SEND_FILE)
        self.status = 0
        self.is_answered = False
        self.sent_bytes = 0
        self.kind = "other"
        self.began_s = time.monotonic()

    @property
    def is_gone(self) -> bool:
        return self.connection is not None and self.connection.is_gone

    def make_room(self) -> bool:
        """Have clients that take nothing of their answers leave; return whether there were any."""
        return self.connection is not None and self.connection.drop_stalled()

    def query(self, name: str, default: str = "") -> str:
        text: str = self.scope.get("query_string", b"").decode("latin-1")
        return parse_qs(text).get(name, [default])[0]

    async def start(self, status: int, headers: Headers) -> None:
        self.status = status
        await self._send_message({"type": "http.response.start", "status": status, "headers": headers})

    async def send(self, data: bytes = b"", *, more: bool = False) -> None:
        """Send a piece of the body; the last one ends the response.

        A client that takes nothing for two minutes is disconnected.
        """
        self.sent_bytes += len(data)
        self.is_answered = not more
        await self._send_message({"type": "http.response.body", "body": data, "more_body": more})

    async def send_whole(self, status: int, kind: bytes, body: bytes, extra: Sequence[Header] = ()) -> None:
        await self.start(status, header_list(kind, len(body), extra))
        await self.send(b"" if self.method == "HEAD" else body)

    async def send_text(self, status: int, text: str = "", *extra: Header, kind: str = "") -> None:
        """Answer with a short plain text. ``no-store``, as some clients cache a body whatever its status is."""
        self.kind = kind or self.kind
        body = f"{text}\n".encode() if text else b""
        await self.send_whole(status, b"text/plain; charset=utf-8", body, [NO_STORE, *extra])

    async def send_file(self, fd: int, info: FileInfo) -> None:
        """Answer with the open file *fd*, which is complete and verified."""
        chosen = select(info, self.headers)
        await self.start(chosen.status, chosen.headers)
        if self.method == "HEAD" or chosen.start == chosen.stop:
            await self.send()
        else:
            await self.send_range(fd, chosen.start, chosen.stop)

    async def send_range(self, fd: int, start: int, stop: int) -> None:
        """Send these bytes of an open file; the last ones end the response.

        What cannot be sent by the system is read on the event loop's thread: from the page cache that is faster than a
        worker thread.
        """
        if self._send_file is not None and stop - start > _PIECE_BYTES:
            begun_at, start = start, await self._send_file(fd, start, stop)
            self.sent_bytes += start - begun_at
            if start == stop:
                await self.send()
            elif start > begun_at and not self.is_gone:
                await self.abort()
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
            ClientDisconnected: It does not arrive, or hardly.
        """
        more, lacking_bytes, due_s = True, 0, 0.0
        while more:
            if lacking_bytes <= 0:
                lacking_bytes, due_s = LEAST_BYTES, anyio.current_time() + PATIENCE_S
            message: MutableMapping[str, Any] = {"type": "http.disconnect"}
            with anyio.CancelScope(deadline=due_s):
                message = await self.receive()
            if message["type"] == "http.disconnect":
                self.kind = "left"
                raise ClientDisconnected
            more, body = message.get("more_body", False), message.get("body", b"")
            lacking_bytes -= len(body)
            yield body

    async def abort(self) -> None:
        """End the connection in the middle of the response.

        Raises:
            ResponseAborted: Only the ASGI server can end it, and does so because the response is not complete.
        """
        self.kind = "cut"
        if self.connection is None:
            raise ResponseAborted
        await self.leave()

    async def leave(self) -> None:
        """End the connection, and wait until the ASGI server knows it: to it, no response is an error before that."""
        assert self.connection is not None
        self.connection.abort()
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def _send_message(self, message: MutableMapping[str, Any]) -> None:
        with anyio.move_on_after(PATIENCE_S) as scope:
            await self._send(message)
        if scope.cancelled_caught:
            await self.abort()


_RANGE = re.compile(rb"bytes=[ \t]*(?:([0-9]{1,19})-([0-9]{0,19})|-([0-9]{1,19}))[ \t]*", re.IGNORECASE)
_TAGS = re.compile(rb'"[^"]*"')
_LONGEST_DATE = 64


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a file."""

    size_bytes: int
    etag: bytes  # strong, with its quotes; empty while the file is still downloaded
    modified_s: int | None  # when it was written, whole seconds since 1970; None while it is still downloaded
    headers: Headers  # those of a 200 response

    @classmethod
    def of(cls, size_bytes: int, modified_ns: int | None = None) -> FileInfo:
        """Return what is known of a file of that length, written at that time in nanoseconds since 1970."""
        headers = header_list(b"application/octet-stream", size_bytes, [(b"accept-ranges", b"bytes")])
        if modified_ns is None:
            return cls(size_bytes, b"", None, headers)
        etag = b'"%x-%x"' % (modified_ns, size_bytes)
        modified_s = modified_ns // 1_000_000_000
        headers += [(b"etag", etag), (b"last-modified", formatdate(modified_s, usegmt=True).encode())]
        return cls(size_bytes, etag, modified_s, headers)


@dataclass(frozen=True, slots=True)
class Selection:
    """How a request for a file is answered: 200, 206, 304, 412 or 416, and the bytes from *start* to before *stop*."""

    status: int
    headers: Headers
    start: int = 0
    stop: int = 0


def header_list(content_type: bytes, size_bytes: int, extra: Sequence[Header] = ()) -> Headers:
    """Return the headers of a response with a body of that type and length."""
    return [
        (b"content-type", content_type),
        (b"content-length", b"%d" % size_bytes),
        (b"x-content-type-options", b"nosniff"),
        *extra,
    ]


def select(info: FileInfo, headers: RequestHeaders) -> Selection:
    """Return how a request with these *headers* for a file is answered.

    Source: RFC 9110, sections 13.2.2 (order of preconditions) and 14.2 (ranges; a request for several may be answered
    with the whole file, and is here).
    """
    if not _is_wanted(info, headers):
        return Selection(412, header_list(b"text/plain", 0))
    if _is_known(info, headers):
        return Selection(304, [header for header in info.headers if header[0] in {b"etag", b"last-modified"}])
    size = info.size_bytes
    match = _RANGE.fullmatch(headers.get(b"range", b""))
    if match is None or not _range_applies(info, headers):
        return Selection(200, info.headers, 0, size)
    first, last, length = match.groups()
    start = max(0, size - int(length)) if length else int(first)
    stop = min(size, int(last) + 1) if last else size
    if last and int(last) < start:
        return Selection(200, info.headers, 0, size)
    if start >= size:
        extra = [(b"content-range", b"bytes */%d" % size), (b"accept-ranges", b"bytes")]
        return Selection(416, header_list(b"text/plain", 0, extra))
    kept = [header for header in info.headers if header[0] != b"content-length"]
    kept.append((b"content-length", b"%d" % (stop - start)))
    kept.append((b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, size)))
    return Selection(206, kept, start, stop)


def _is_known(info: FileInfo, headers: RequestHeaders) -> bool:
    tags = headers.get(b"if-none-match")
    if tags is not None:
        return bool(info.etag) and (tags.strip() == b"*" or info.etag in _TAGS.findall(tags))
    since = _date(headers.get(b"if-modified-since"))
    return since is not None and info.modified_s is not None and info.modified_s <= since


def _is_wanted(info: FileInfo, headers: RequestHeaders) -> bool:
    tags = headers.get(b"if-match")
    if tags is not None:
        return tags.strip() == b"*" or info.etag in [tag.strip() for tag in tags.split(b",")]
    since = _date(headers.get(b"if-unmodified-since"))
    return since is None or info.modified_s is None or info.modified_s <= since


def _range_applies(info: FileInfo, headers: RequestHeaders) -> bool:
    guard = headers.get(b"if-range")
    if guard is None or guard.startswith(b'"'):
        return guard in {None, info.etag}
    return info.modified_s is not None and _date(guard) == info.modified_s


def _date(text: bytes | None) -> float | None:
    if text is None or len(text) > _LONGEST_DATE:
        return None
    try:
        date = parsedate_to_datetime(text.decode("latin-1"))
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
    # "-0000" is Greenwich's time, too; as a local one, Windows would refuse it before 1970.
    return (date if date.tzinfo is not None else date.replace(tzinfo=UTC)).timestamp()


if sys.platform == "win32":
    import ctypes
    import msvcrt

    _create_file = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    _create_file.restype = ctypes.c_void_p
    _word, _pointer = ctypes.c_uint32, ctypes.c_void_p
    _create_file.argtypes = [ctypes.c_wchar_p, _word, _word, _pointer, _word, _word, _pointer]
    _READ, _SHARE_ALL, _OPEN_EXISTING, _NORMAL = 0x80000000, 0x7, 3, 0x80

    def open_shared(path: str | Path) -> int:
        """Return a descriptor for reading *path*; others may rename and remove the file while it is open.

        Python's own open would keep a file from being published or pruned while it is read.

        Raises:
            OSError: It cannot be opened.
        """
        file = _create_file(str(path), _READ, _SHARE_ALL, None, _OPEN_EXISTING, _NORMAL, None)
        if file is None or file == ctypes.c_void_p(-1).value:
            raise ctypes.WinError(ctypes.get_last_error())
        return msvcrt.open_osfhandle(file, os.O_RDONLY | os.O_BINARY)

    class _Overlapped(ctypes.Structure):
        _fields_ = (
            ("internal", ctypes.c_size_t),
            ("internal_high", ctypes.c_size_t),
            ("offset", ctypes.c_uint32),
            ("offset_high", ctypes.c_uint32),
            ("event", ctypes.c_void_p),
        )

    _read_file = ctypes.WinDLL("kernel32", use_last_error=True).ReadFile
    _read_file.argtypes = [_pointer, _pointer, _word, _pointer, _pointer]
    _END_OF_FILE = 38  # winerror.h, ERROR_HANDLE_EOF

    def read_at(fd: int, size_bytes: int, offset: int) -> bytes:
        """Return at most *size_bytes* from *offset* on; threads may read one descriptor at once.

        A seek and a read would be two steps, between which another thread moves the file's position.
        """
        buffer, length = ctypes.create_string_buffer(size_bytes), ctypes.c_uint32()
        at = _Overlapped(offset=offset & 0xFFFFFFFF, offset_high=offset >> 32)
        if not _read_file(msvcrt.get_osfhandle(fd), buffer, size_bytes, ctypes.byref(length), ctypes.byref(at)):
            if (error := ctypes.get_last_error()) == _END_OF_FILE:
                return b""
            raise ctypes.WinError(error)
        return ctypes.string_at(buffer, length.value)

else:

    def open_shared(path: str | Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(fd: int, size_bytes: int, offset: int) -> bytes:
        return os.pread(fd, size_bytes, offset)


class Proxies:
    """The reverse proxies, by address or network, whose ``X-Forwarded-For`` is believed.

    uvicorn's middleware reads it from ASGI scopes alone, which a known answer has none of.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(text) for text in trusted]

    def client_of(self, address: str, headers: RequestHeaders) -> str:
        """Return where a request that arrived from *address* came from: its last hop that is not a trusted proxy."""
        hops = headers.get(b"x-forwarded-for", b"").decode("latin-1").split(",") if self._networks else []
        for hop in reversed([text.strip() for text in hops if text.strip()]):
            here = _parse_address(address)
            if _parse_address(hop) is None or here is None or not any(here in network for network in self._networks):
                break
            address = hop
        return address


@lru_cache(maxsize=1024)
def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


_MOST_HOPS = 16
_LONGEST_VIA = 2048


def _via_of(headers: RequestHeaders) -> str:
    """Return the ``Via`` of *headers*; what is not ASCII in it could not be sent on, and names no server."""
    return headers.get(b"via", b"").decode("ascii", "ignore")


class Loops:
    """Finds requests that this server made itself, by way of other servers; *run* is a random text, which names it."""

    def __init__(self, run: str) -> None:
        self._own = f"symcache-{run}"

    def is_in_one(self, headers: RequestHeaders) -> bool:
        """Whether a request with these *headers* came from this server, or passed too many others."""
        said = _via_of(headers)
        hops = said.split(",")
        return len(said) > _LONGEST_VIA or len(hops) > _MOST_HOPS or any(self._own in hop.split() for hop in hops)

    @contextmanager
    def noting(self, headers: RequestHeaders) -> Iterator[None]:
        """Send ``Via`` with the upstream requests made in a ``with`` block: the hops of *headers*, then this server.

        Source: RFC 9110, section 7.6.3: protocol version and a name, nearest hop last.
        """
        before = _via_of(headers)
        own = f"1.1 {self._own}"
        token = VIA.set(f"{before}, {own}" if before and before.isprintable() else own)
        try:
            yield
        finally:
            VIA.reset(token)
