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
from functools import partial
from operator import attrgetter
from typing import TYPE_CHECKING, Any, cast

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from symcache.server.request import CONNECTION, LEAST_BYTES, PATIENCE_S, SEND_FILE, read_at
from symcache.server.symbols import Head

if TYPE_CHECKING:
    from symcache.server.metrics import RequestLog
    from symcache.server.symbols import KnownAnswer, KnownAnswers

_LONGEST_HEAD_BYTES = 64 * 1024
_HEAD_WITHIN_S = 30.0
_STALLED_S = 5.0
_TOO_LARGE = (
    b"HTTP/1.1 431 Request Header Fields Too Large\r\ncontent-length: 0\r\ncache-control: no-store\r\n"
    b"connection: close\r\n\r\n"
)
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER: on, no time
# What one client is sent before others have their turn; as much as nginx sends.
_TURN_BYTES = 2 << 20
_LONGEST_KNOWN_BYTES = 128 * 1024
_MSG_MORE = getattr(socket, "MSG_MORE", 0)


class ServeProtocol(HttpToolsProtocol):
    """One connection.

    A request's line and headers may take 64 KiB and 30 s; uvicorn itself bounds neither. Known answers are written
    from the parser's callback, without a task, a scope or a call of the application. Longer files are sent by the
    application, through `send_file`.
    """

    def __init__(self, known: KnownAnswers, log: RequestLog, **arguments: Any) -> None:
        super().__init__(**arguments)
        self._known = known
        self._log = log
        self._most_connections = self.limit_concurrency or sys.maxsize
        self._room = max(1, self._most_connections // 64)
        self._head_bytes = 0
        self._head: Head | None = None
        self._seen_heads = 0
        self._unanswered: list[RequestResponseCycle] = []
        self._is_between_requests = True
        self._due_s = math.inf
        self.quiet_since_s = 0.0
        self.moved_s = math.inf  # when the client last took something of what it is being sent
        self._socket: socket.socket | None = None
        self._sent: asyncio.Future[None] | None = None
        self._default_headers: list[tuple[bytes, bytes]] = []
        self._default_lines = b""

    # asyncio declares a BaseTransport; a stream protocol is given one that writes, and uvicorn declares it so, too.
    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self.quiet_since_s = self.loop.time()
        if len(self.connections) > self._most_connections - self._room:
            self._make_room()
        # Data that the socket does not take pauses writing at once, so that responses do not fill memory. Not 0, as
        # asyncio's TLS transport then stays paused.
        transport.set_write_buffer_limits(high=1)
        self._fd = transport.get_extra_info("socket").fileno()
        self._has_sendfile = hasattr(os, "sendfile") and self.scheme == "http"
        self._due_s = self.loop.time() + _HEAD_WITHIN_S
        self._timer = self.loop.call_later(_HEAD_WITHIN_S, self._look_at_clock)

    def connection_lost(self, exc: Exception | None) -> None:
        self._timer.cancel()
        if self._sent is not None and not self._sent.done():
            self._sent.set_result(None)
        if self._socket is not None:
            self._socket.close()
        super().connection_lost(exc)
        # uvicorn tells this to the request that came last, while an earlier one is still being answered.
        for cycle in self._unanswered:
            if not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()

    @property
    def is_gone(self) -> bool:
        return self.transport.is_closing()

    def abort(self) -> None:
        """End the connection with a reset, so that the client does not take a partial body for a complete one."""
        connected = self.transport.get_extra_info("socket")
        if connected is not None:
            with suppress(OSError, ValueError):  # uvloop's say the latter once they are closed
                connected.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
        self.transport.abort()

    def _make_room(self) -> None:
        """Disconnect those that have been waited for longest: idle ones, and those whose request does not come.

        Connections cost their clients nothing, so that a few could keep all others out. Some go at once, as it takes a
        look at each to find them. Where all are being answered, new ones are told to come back, up to as many again.
        """
        others = cast("set[ServeProtocol]", self.connections) - {self}
        quiet = sorted((each for each in others if each.is_waited_for), key=attrgetter("quiet_since_s"))
        leaving = quiet[: self._room]
        if not quiet and len(self.connections) > 2 * self._most_connections:
            leaving = [self]
        for each in leaving:
            each.transport.abort()
            self.connections.discard(each)  # as it would be once the event loop comes to it, behind others that arrive

    def drop_stalled(self) -> bool:
        """Disconnect those that take nothing of what they asked for; return whether there were any.

        For when others wait for a place: it is theirs after seconds then, and not after minutes.
        """
        over_s = self.loop.time() - _STALLED_S
        connections = cast("set[ServeProtocol]", self.connections)
        stalled = sorted((each for each in connections if each.moved_s < over_s), key=attrgetter("moved_s"))
        for each in stalled[: self._room]:
            each.moved_s = math.inf
            each.abort()
        return bool(stalled)

    @property
    def is_waited_for(self) -> bool:
        """Whether it is the client's turn: no request of its own is being answered."""
        last: RequestResponseCycle | None = self.cycle
        return (last is None or last.response_complete) and not self.flow.write_paused

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
        # uvicorn makes the scope here; `on_headers_complete` does, for requests that the application answers.
        self.url = b""
        self.headers = []
        self.expect_100_continue = False
        self._head_bytes = 0
        self._is_between_requests = False
        self.quiet_since_s = self.loop.time()
        self._due_s = self.quiet_since_s + _HEAD_WITHIN_S

    def on_url(self, url: bytes) -> None:
        self.url += url
        self._count_head(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._count_head(len(name) + len(value))

    def _count_head(self, size_bytes: int) -> None:
        self._head_bytes += size_bytes
        if self._head_bytes > _LONGEST_HEAD_BYTES and not self.transport.is_closing():
            self.transport.write(_TOO_LARGE)
            self.transport.close()

    def on_headers_complete(self) -> None:
        if self.transport.is_closing():
            return
        self._due_s = math.inf
        self._seen_heads += 1
        keeps_alive = self.parser.get_http_version() != "1.0" and self.parser.should_keep_alive()
        head = Head(self.parser.get_method().decode("ascii"), self.url, dict(self.headers), keeps_alive)
        self._head = head if self._answer(head) else None
        if self._head is None:
            url, headers, expects = self.url, self.headers, self.expect_100_continue
            super().on_message_begin()
            self.url, self.expect_100_continue = url, expects
            self.headers.extend(headers)
            scope: Any = self.scope
            super().on_headers_complete()
            # The task that uvicorn has just made for the application runs later.
            scope["extensions"] = {CONNECTION: self, SEND_FILE: partial(self.send_file, self.cycle)}
            self._unanswered = [cycle for cycle in self._unanswered if not cycle.response_complete]
            if self.cycle is not None:
                self._unanswered.append(self.cycle)

    def on_body(self, body: bytes) -> None:
        """Take in a piece of the request's body; that of a request answered at once is dropped."""
        if self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        self._is_between_requests = True
        if self.cycle is not None:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        self.quiet_since_s = self.loop.time()
        super().on_response_complete()

    def _answer(self, head: Head) -> bool:
        before: RequestResponseCycle | None = self.cycle
        is_free = (before is None or before.response_complete) and not self.flow.write_paused
        if not is_free or self.transport.is_closing() or len(self.connections) >= self._most_connections:
            return False
        began_s = time.monotonic()
        answer = self._known.find(head)
        if answer is None:
            return False
        sent_bytes, kind, is_cut = len(answer.body), answer.kind, False
        lines = self._head_lines(answer, keeps_alive=head.keeps_alive)
        if answer.file is None:
            self.transport.write(lines + answer.body)
        else:
            if answer.stop - answer.start > _LONGEST_KNOWN_BYTES:
                os.close(answer.file)
                return False
            sent_bytes = self._send_short(lines, answer.file, answer.start, answer.stop)
            is_cut = sent_bytes < answer.stop - answer.start  # shorter on disk than announced
        self.quiet_since_s = self.loop.time()
        self._due_s = self.quiet_since_s + (PATIENCE_S if self.flow.write_paused else self.timeout_keep_alive)
        if is_cut:
            kind = "cut"
            self.abort()
        elif not head.keeps_alive:
            self.transport.close()
        self._log.record(began_s, self.client, head, answer.status, sent_bytes, kind)
        return True

    def _head_lines(self, answer: KnownAnswer, *, keeps_alive: bool) -> bytes:
        if self._default_headers is not self.server_state.default_headers:  # uvicorn makes new ones each second
            self._default_headers = self.server_state.default_headers
            self._default_lines = b"".join(b"%b: %b\r\n" % header for header in self._default_headers)
        end = b"\r\n" if keeps_alive else b"connection: close\r\n\r\n"
        return STATUS_LINE[answer.status] + self._default_lines + answer.head + end

    def _send_short(self, lines: bytes, file: int, start: int, stop: int) -> int:
        """Send the head and these bytes of *file*, and close it; return how many there were."""
        sent, at = 0, start
        try:
            if self._has_sendfile and not self.transport.get_write_buffer_size():
                # Not through the transport, so that the head is in one packet with the beginning of the file.
                sent = self._second_socket().send(lines, _MSG_MORE)
                at += os.sendfile(self._fd, file, at, stop - at) if sent == len(lines) else 0
        except OSError:
            pass  # full; or broken, which the transport finds out when it writes what is left
        if at < stop:
            left = lines[sent:]
            with suppress(OSError):
                data = read_at(file, stop - at, at)
                left += data
                at += len(data)
            self.transport.write(left)
        os.close(file)
        return at - start

    async def send_file(self, cycle: RequestResponseCycle, file: int, start: int, stop: int) -> int:
        """Send these bytes of *file* in a response whose head is sent; return up to where.

        It ends early if the file does, the client leaves or takes hardly anything for two minutes. The transport would
        have to be given data to say when the socket takes more, and event loops let nothing else watch its descriptor,
        so a second one is watched.
        """
        if not self._has_sendfile or self.is_gone:
            return start
        seen_at, at = start - LEAST_BYTES, start
        self._sent = sent = self.loop.create_future()
        self.moved_s = self.loop.time()

        def send_more() -> None:
            nonlocal at
            if sent.done() or self.transport.get_write_buffer_size():
                return
            try:
                length = os.sendfile(self._fd, file, at, min(stop - at, _TURN_BYTES))
            except BlockingIOError:
                return
            except OSError:
                length = 0  # the disk fails, or the client has left
            at += length
            self.moved_s = self.loop.time()
            if not length or at == stop:
                sent.set_result(None)

        with socket.socket(fileno=os.dup(self._fd)) as watched:
            self.loop.add_writer(watched, send_more)
            try:
                while not sent.done() and at - seen_at >= LEAST_BYTES:
                    seen_at = at
                    await asyncio.wait([sent], timeout=PATIENCE_S)
            finally:
                self.loop.remove_writer(watched)
                self.moved_s = math.inf
        cycle.expected_content_length = stop - at
        return at

    def pause_writing(self) -> None:
        super().pause_writing()
        self.moved_s = self.loop.time()

    def resume_writing(self) -> None:
        super().resume_writing()
        self.moved_s = math.inf
        if self._due_s < math.inf:
            self._due_s = self.loop.time() + self.timeout_keep_alive

    def _second_socket(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 0, os.dup(self._fd))
        return self._socket

    def _look_at_clock(self) -> None:
        """End a connection whose time is over; one timer that looks at intervals costs less than one per request."""
        left_s = self._due_s - self.loop.time()
        if left_s <= 0:
            self.transport.abort()
        else:
            pause_s = min(left_s, self.timeout_keep_alive, _HEAD_WITHIN_S)
            self._timer = self.loop.call_later(pause_s, self._look_at_clock)
