"""uvicorn's HTTP/1.1 protocol with bounds on time and size, and with known answers sent before ASGI is entered."""

from __future__ import annotations

import asyncio
import math
import os
import socket
import struct
import sys
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from symcache.server.request import CONNECTION, PATIENCE_S, ResponseAborted, read_at
from symcache.server.symbols import Head

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.server.metrics import RequestLog
    from symcache.server.symbols import KnownAnswer, KnownAnswers

__all__ = ["ServeProtocol"]

_LONGEST_HEAD_BYTES = 64 * 1024
_HEAD_WITHIN_S = 30.0
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ncache-control: no-store\r\n"
    b"connection: close\r\n\r\n"
)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time
# What one client is sent before others have their turn; as much as nginx sends.
_TURN_BYTES = 2 << 20
_SHORT_BYTES = 256 * 1024
_MSG_MORE = getattr(socket, "MSG_MORE", 0)


@dataclass(slots=True)
class _Rest:
    """What is still to be sent of a file, from offset *at* to before *stop*; *sent* is done when all is."""

    file: int
    at: int
    stop: int
    sent: asyncio.Future[None]


class ServeProtocol(HttpToolsProtocol):
    """One connection.

    A request's line and headers may take 64 KiB and 30 s; uvicorn itself bounds neither. Known answers are written
    from the parser's callback, without a task, a scope or a call of the application. When the socket does not take a
    whole file at once, the rest is sent as it becomes writable, and a task of uvicorn's waits for its end.
    """

    def __init__(self, known: KnownAnswers, log: RequestLog, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._known = known
        self._log = log
        self._extensions = {CONNECTION: self}
        self._most_connections = self.limit_concurrency or sys.maxsize
        self._head_bytes = 0
        self._head: Head | None = None
        self._seen_heads = 0
        self._is_between_requests = True
        self._due_s = math.inf
        self._rest: _Rest | None = None
        self._socket: socket.socket | None = None
        self._is_watched = False
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_lines = b""

    # asyncio declares a BaseTransport; a stream protocol is given one that writes, and uvicorn declares it so, too.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        # Data that the socket does not take pauses writing at once, so that responses do not fill memory. Not 0, as
        # asyncio's TLS transport then stays paused.
        transport.set_write_buffer_limits(high=1)
        self._fd = transport.get_extra_info("socket").fileno()
        self._has_sendfile = hasattr(os, "sendfile") and self.scheme == "http"
        self._due_s = self.loop.time() + _HEAD_WITHIN_S
        self._timer = self.loop.call_later(_HEAD_WITHIN_S, self._look_at_clock)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        if self._rest is not None and not self._rest.sent.done():
            self._rest.sent.set_exception(ResponseAborted())
        self._watch_socket(None)
        if self._socket is not None:
            self._socket.close()
        super().connection_lost(exc)

    @property
    def is_gone(self) -> bool:
        return self.transport.is_closing()

    def abort(self) -> None:
        """End the connection with a reset, so that the client does not take a partial body for a complete one."""
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            with suppress(OSError):
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def data_received(self, data: bytes) -> None:
        # Clients of one kind ask for a file with the same bytes, and parsing them is half the work of a known answer.
        head = self._known.heads.get(data)
        if head is not None and self._is_between_requests and self._answer(head):
            self._unset_keepalive_if_required()
            return
        self._seen_heads = 0
        was_between_requests = self._is_between_requests
        super().data_received(data)
        if was_between_requests and self._is_between_requests and self._seen_heads == 1 and self._head is not None:
            self._known.remember_head(data, self._head)

    def on_message_begin(self) -> None:
        # uvicorn makes the scope here; `_make_scope` does, for requests that the application answers.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_bytes = 0
        self._is_between_requests = False
        self._due_s = self.loop.time() + _HEAD_WITHIN_S

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._head_bytes += len(url)
        if self._head_bytes > _LONGEST_HEAD_BYTES:
            self._refuse_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._head_bytes += len(name) + len(value)
        if self._head_bytes > _LONGEST_HEAD_BYTES:
            self._refuse_head()

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():
            return
        self._due_s = math.inf
        self._seen_heads += 1
        keeps_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        head = Head(self.parser.get_method().decode("ascii"), self.url, dict(self.headers), keeps_alive)
        self._head = head if self._answer(head) else None
        if self._head is None:
            self._make_scope()
            super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take in a piece of the request's body; that of a request answered at once is dropped."""
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_between_requests = True
        if self.cycle is not None:
            super().on_message_complete()

    def _answer(self, head: Head) -> bool:
        before: RequestResponseCycle | None = self.cycle
        is_free = (before is None or before.response_complete) and not self.flow.write_paused
        if not is_free or self.transport.is_closing() or len(self.connections) >= self._most_connections:
            return False
        began_s = time.monotonic()
        answer = self._known.find(head)
        if answer is None:
            return False
        file, sent_bytes = answer.file, len(answer.body)
        if file is not None and not (self._has_sendfile and not self.transport.get_write_buffer_size()):
            body = _read_short(file, answer.start, answer.stop)
            if not body:
                return False
            file, sent_bytes, answer.body = None, len(body), body
        lines = self._head_lines(answer, keeps_alive=head.keeps_alive)
        if file is None:
            self.transport.write(lines + answer.body)
        else:
            at = self._begin_file(lines, file, answer.start, answer.stop)
            sent_bytes = at - answer.start
            if at < answer.stop:
                self._send_rest(_Rest(file, at, answer.stop, self.loop.create_future()), answer, head, began_s)
                return True
            os.close(file)
        self._log.record(began_s, self.client, head, answer.status, sent_bytes, answer.kind)
        if head.keeps_alive:
            self._due_s = self.loop.time() + self.timeout_keep_alive
        else:
            self.transport.close()
        return True

    def _head_lines(self, answer: KnownAnswer, *, keeps_alive: bool) -> bytes:
        if self._default_headers is not self.server_state.default_headers:  # uvicorn makes new ones each second
            self._default_headers = self.server_state.default_headers
            self._default_lines = b"".join(b"%b: %b\r\n" % header for header in self._default_headers)
        end = b"\r\n" if keeps_alive else b"connection: close\r\n\r\n"
        return STATUS_LINE[answer.status] + self._default_lines + answer.head + end

    def _begin_file(self, lines: bytes, file: int, start: int, stop: int) -> int:
        """Send the head and as much of the file as the socket takes; return up to where.

        Without the transport, to put the head in one packet with the beginning of the file.
        """
        try:
            sent = self._second_socket().send(lines, _MSG_MORE)
        except OSError:
            sent = 0  # full; or broken, which the transport finds out when it writes the head
        if sent < len(lines):
            self.transport.write(lines[sent:])
            return start
        return start + (self._sendfile(file, start, stop) or 0)

    def _sendfile(self, file: int, start: int, stop: int) -> int | None:
        """Send from the file to the socket; return how much, 0 at the file's end, None if the socket takes nothing."""
        try:
            return os.sendfile(self._fd, file, start, min(stop - start, _TURN_BYTES))
        except BlockingIOError:
            return None
        except OSError:
            return 0  # the disk fails, or the client has left

    def _send_rest(self, rest: _Rest, answer: KnownAnswer, head: Head, began_s: float) -> None:
        """Send the rest of a file as the socket takes it.

        It gets a cycle and a task of uvicorn's, so that later requests are queued and a stop waits for it.
        """
        scope: Any = {"method": "GET"}
        self.cycle = cycle = RequestResponseCycle(
            scope=scope,
            transport=self.transport,
            flow=self.flow,
            logger=self.logger,
            access_logger=self.access_logger,
            access_log=False,
            default_headers=[],
            message_event=asyncio.Event(),
            expect_100_continue=False,
            keep_alive=head.keeps_alive,
            on_response=self.on_response_complete,
        )
        cycle.response_started = True
        cycle.chunked_encoding = False
        metrics = self._log.metrics

        async def wait(_scope: Any, _receive: Any, send: Any) -> None:
            kind = answer.kind
            metrics.requests += 1
            try:
                with metrics.transferring():
                    await rest.sent
                await send({"type": "http.response.body"})
                is_idle = self.cycle is cycle  # otherwise the next request is being answered
                self._due_s = self.loop.time() + self.timeout_keep_alive if is_idle else math.inf
            except BaseException:  # also when the server stops and cancels the task
                if not self.is_gone:
                    kind = "cut"
                    self.abort()
                raise
            finally:
                self._watch_socket(None)
                self._rest = None
                os.close(rest.file)
                metrics.requests -= 1
                self._log.record(began_s, self.client, head, answer.status, rest.at - answer.start, kind)

        self._rest = rest
        self._due_s = self.loop.time() + PATIENCE_S
        self._watch_socket(self._send_more)
        self._start_asgi_task(cycle, wait)

    def _send_more(self) -> None:
        """Send more of a file, as much as the socket takes before other connections have their turn."""
        rest = self._rest
        if rest is None or rest.sent.done() or self.transport.get_write_buffer_size():
            return
        sent = self._sendfile(rest.file, rest.at, rest.stop)
        if sent is None:
            return
        rest.at += sent
        self._due_s = self.loop.time() + PATIENCE_S
        if not sent:  # shorter on disk than announced, or unreadable
            rest.sent.set_exception(ResponseAborted())
        elif rest.at == rest.stop:
            rest.sent.set_result(None)
        if rest.sent.done():
            self._watch_socket(None)

    def _watch_socket(self, on_writable: Callable[[], None] | None) -> None:
        """Call *on_writable* whenever the socket takes more; None ends that.

        The transport would have to be given data for that, and event loops let nothing else watch its descriptor, so a
        second one is watched.
        """
        if on_writable is not None:
            self.loop.add_writer(self._second_socket().fileno(), on_writable)
        elif self._is_watched:
            self.loop.remove_writer(self._second_socket().fileno())
        self._is_watched = on_writable is not None

    def _second_socket(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, os.dup(self._fd))
        return self._socket

    def _make_scope(self) -> None:
        url, headers, expects = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers.extend(headers)
        scope: Any = self.scope
        scope["extensions"] = self._extensions

    def _refuse_head(self) -> None:
        if not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def _look_at_clock(self) -> None:
        """End a connection whose time is over; one timer that looks at intervals costs less than one per request."""
        left_s = self._due_s - self.loop.time()
        if left_s <= 0 and self._rest is not None and not self._rest.sent.done():
            self._rest.sent.set_exception(ResponseAborted())
        elif left_s <= 0:
            self.transport.abort()
        else:
            self._timer = self.loop.call_later(
                min(left_s, self.timeout_keep_alive, _HEAD_WITHIN_S), self._look_at_clock
            )


def _read_short(file: int, start: int, stop: int) -> bytes:
    """Return these bytes of *file* and close it; nothing if they are many or missing: then the application answers."""
    data = b""
    with suppress(OSError):
        data = read_at(file, stop - start, start) if stop - start <= _SHORT_BYTES else b""
    os.close(file)
    return data if len(data) == stop - start else b""
