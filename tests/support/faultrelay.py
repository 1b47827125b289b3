"""A relay in front of a server of buckets, that counts what is asked and breaks what it is told to break.

with FaultRelay(server.url) as relay:
    store = bucket.open(at=relay.url)
    relay.fault = Fault(status=503, methods={"PUT"})
    ...
    relay.fault = None
    assert relay.counts() == {("PUT", "/symbols-1/a.pdb"): 3}
"""

from __future__ import annotations

import re
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from support.wire import Listener, Request, drop_with_reset, read_head

if TYPE_CHECKING:
    import socket
    from collections.abc import Collection, Iterator
    from http.client import HTTPResponse
    from io import BufferedReader
    from types import TracebackType
    from typing import Self

__all__ = ["Fault", "FaultRelay"]

_PATIENCE_S = 60.0
_PIECE_BYTES = 64 * 1024
_OF_THE_CONNECTION = {"connection", "keep-alive", "transfer-encoding"}
_CODES = {403: "AccessDenied", 500: "InternalError", 503: "SlowDown"}


@dataclass(frozen=True, slots=True)
class Fault:
    """What happens to a request. Without anything but its choice of requests it resets the connection.

    Attributes:
        methods: Which requests; empty for all.
        target: A regular expression that is sought in path and query.
        status: Answer this, with an error's body as S3 writes it, in the server's place.
        cut_at: Let the server answer, and reset the connection after so many bytes of the answer's body; at 0 the
            server has done what it was asked, and its client learns nothing.
        delay_s: Hold the request back so long, and then let it through.
        silent: Say nothing until the fault is over, and then reset the connection.
    """

    methods: Collection[str] = ()
    target: str = ""
    status: int | None = None
    cut_at: int | None = None
    delay_s: float | None = None
    silent: bool = False

    def meets(self, request: Request) -> bool:
        """Whether it happens to *request*."""
        chosen = not self.methods or request.method in self.methods
        return chosen and re.search(self.target, request.target) is not None


class FaultRelay:
    """A relay to the server at *url*, an address of this machine by plain HTTP; use it as a context manager.

    Attributes:
        requests: All that came so far, in order of arrival.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        assert address.hostname is not None
        assert address.port is not None
        self._to = (address.hostname, address.port)
        self.requests: list[Request] = []
        self._fault: Fault | None = None
        self._change = threading.Condition()
        self._closing = False
        self._listener = Listener(self._serve)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"http://127.0.0.1:{self._listener.port}"

    @property
    def fault(self) -> Fault | None:
        """What is broken; setting it lets go of what the one before held back."""
        return self._fault

    @fault.setter
    def fault(self, fault: Fault | None) -> None:
        with self._change:
            self._fault = fault
            self._change.notify_all()

    def close(self) -> None:
        """End every connection and refuse new ones."""
        with self._change:
            self._closing = True
            self._change.notify_all()
        self._listener.close()

    def cut_connections(self) -> None:
        """End every open connection, idle ones too, and go on."""
        self._listener.cut_connections()

    def counts(self) -> Counter[tuple[str, str]]:
        """Return how often each method came for each path, percent-decoded and without its query."""
        with self._change:
            return Counter((request.method, request.path) for request in self.requests)

    def await_requests(self, count: int, method: str | None = None, *, timeout_s: float = _PATIENCE_S) -> None:
        """Block until *count* requests, of *method* or in all, have arrived.

        Raises:
            AssertionError: They do not come within *timeout_s* seconds.
        """

        def seen() -> int:
            return sum(method in {None, request.method} for request in self.requests)

        with self._change:
            assert self._change.wait_for(lambda: seen() >= count, timeout_s), f"{seen()} of {count} requests"

    def forget(self) -> None:
        """Count from nothing again."""
        with self._change:
            self.requests.clear()

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while (request := read_head(stream, skip_body=False)) is not None:
                with self._change:
                    self.requests.append(request)
                    self._change.notify_all()
                    fault = self._fault if self._fault is not None and self._fault.meets(request) else None
                try:
                    self._answer(request, stream, connection, fault)
                finally:
                    request.ended.set()
                if request.wants_close:
                    return

    def _answer(self, request: Request, stream: BufferedReader, connection: socket.socket, fault: Fault | None) -> None:
        body = _body(request, stream)
        if fault is not None and fault.delay_s is not None:
            self._hold(fault, fault.delay_s)
        elif fault is not None and fault.cut_at is None:
            for _ in body:
                pass
            if fault.silent:
                self._hold(fault, _PATIENCE_S)
            if fault.status is None:
                _reset(connection)
            else:
                _refuse(request, fault.status, connection)
            return
        with closing(HTTPConnection(*self._to, timeout=_PATIENCE_S)) as upstream:
            try:
                upstream.putrequest(request.method, request.target, skip_host=True, skip_accept_encoding=True)
                for name, value in request.headers.items():
                    if name not in _OF_THE_CONNECTION:
                        upstream.putheader(name, value)
                upstream.endheaders()
                for piece in body:
                    upstream.send(piece)
                answer = upstream.getresponse()
                _pass_on(request, answer, connection, None if fault is None else fault.cut_at)
            except (OSError, HTTPException):
                _reset(connection)

    def _hold(self, fault: Fault, at_most_s: float) -> None:
        with self._change:
            self._change.wait_for(lambda: self._closing or self._fault is not fault, at_most_s)


def _body(request: Request, stream: BufferedReader) -> Iterator[bytes]:
    left = int(request.headers.get("content-length", "0"))
    if "transfer-encoding" in request.headers:
        raise ValueError("a request in chunks")
    while left:
        piece = stream.read(min(left, _PIECE_BYTES))
        if not piece:
            raise ConnectionError("the request's body ends early")
        left -= len(piece)
        yield piece


def _pass_on(request: Request, answer: HTTPResponse, connection: socket.socket, cut_at: int | None) -> None:
    request.status = answer.status
    headers = [(name, value) for name, value in answer.getheaders() if name.lower() not in _OF_THE_CONNECTION]
    bare = request.method == "HEAD" or answer.status in {204, 304}
    chunked = not bare and answer.getheader("Content-Length") is None
    if chunked:
        headers.append(("Transfer-Encoding", "chunked"))
    if cut_at == 0:
        _reset(connection)
    _send_head(answer.status, answer.reason, headers, connection)
    left = cut_at
    while not bare and (piece := answer.read(_PIECE_BYTES if left is None else min(left, _PIECE_BYTES))):
        request.sent_bytes += len(piece)
        connection.sendall(b"%x\r\n%b\r\n" % (len(piece), piece) if chunked else piece)
        if left is not None:
            left -= len(piece)
            if not left:
                _reset(connection)
    if chunked:
        connection.sendall(b"0\r\n\r\n")


def _refuse(request: Request, status: int, connection: socket.socket) -> None:
    request.status = status
    code = _CODES.get(status, "InternalError")
    text = f"<?xml version='1.0' encoding='UTF-8'?>\n<Error><Code>{code}</Code><Message>As told.</Message></Error>"
    headers = [("Content-Type", "application/xml"), ("Content-Length", str(len(text)))]
    _send_head(status, code, headers, connection)
    if request.method != "HEAD":
        connection.sendall(text.encode("ascii"))


def _send_head(status: int, reason: str, headers: list[tuple[str, str]], connection: socket.socket) -> None:
    lines = [f"HTTP/1.1 {status} {reason}", *(f"{name}: {value}" for name, value in headers)]
    connection.sendall("\r\n".join([*lines, "", ""]).encode("latin-1"))


def _reset(connection: socket.socket) -> None:
    drop_with_reset(connection)
    raise ConnectionResetError("reset as told")
