"""A real HTTP upstream on loopback whose every answer can be scripted.

    upstream.files["a.pdb/KEY1/a.pdb"] = pdb_bytes
    upstream.script("a.pdb/KEY1/a.pdb", cut(at=1000), status(503))   # first this, then that, then the file
    upstream.always("b.pdb/KEY1/b.pdb", not_found())                 # every time

Without a script it is an honest server of a single-tier store: ETag, Last-Modified, HEAD, Range, If-Range, keep-alive,
404 for what it lacks. `support.answers` holds the answers to script.
"""

from __future__ import annotations

import base64
import select
import threading
import time
from collections import Counter, deque
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

import anyio.to_thread

from support.answers import file, status
from support.wire import Listener, Request, drop_with_reset, read_head

if TYPE_CHECKING:
    import socket
    import ssl
    from collections.abc import Iterable, Iterator, Mapping
    from types import TracebackType
    from typing import Self

    from support.answers import Answer, Header

__all__ = ["Exchange", "Upstream"]

Content: TypeAlias = bytes | Path
"""A file's bytes, or where they lie."""

_PATIENCE_S = 60.0
_REASONS = {
    200: "OK",
    206: "Partial Content",
    302: "Found",
    304: "Not Modified",
    404: "Not Found",
    416: "Range Not Satisfiable",
}


class ConnectionOver(OSError):
    """The answer ends here and takes its connection with it."""


class Exchange:
    """One request that is being answered; what an answer works with.

    Attributes:
        request: What was asked.
        upstream: The server that answers.
    """

    def __init__(self, request: Request, upstream: Upstream, connection: socket.socket) -> None:
        self.request = request
        self.upstream = upstream
        self._connection = connection
        self._framed = True

    @property
    def content(self) -> Content | None:
        """The file at the request's path; None where there is none."""
        return self.upstream.find(self.request.path)

    @property
    def is_last(self) -> bool:
        """Whether the connection ends with this exchange."""
        return not self._framed or self.request.wants_close

    def head(self, status: int, headers: Iterable[Header] = (), *, length: int | None, chunked: bool = False) -> None:
        """Send status line and headers.

        Args:
            status: Three digits.
            headers: Besides those that frame the body.
            length: Announced length of the body in bytes; None lets the connection's end be the body's.
            chunked: Announce chunks instead; the caller writes them with `raw`.
        """
        self.request.status = status
        lines = [f"HTTP/1.1 {status} {_REASONS.get(status, 'Scripted')}"]
        lines += [f"{name}: {value}" for name, value in headers]
        if chunked:
            lines.append("Transfer-Encoding: chunked")
        elif length is not None:
            lines.append(f"Content-Length: {length}")
        else:
            self._framed = False
        if self.is_last:
            lines.append("Connection: close")
        self.raw("\r\n".join([*lines, "", ""]).encode("latin-1"))

    def body(self, data: bytes) -> None:
        """Send body bytes; none in an answer to HEAD."""
        if self.request.method != "HEAD":
            # Counted first, so that a client that has received a body finds it in the log.
            self.request.sent_bytes += len(data)
            self.raw(data)

    def raw(self, data: bytes) -> None:
        """Send bytes as they are, counted nowhere."""
        self._connection.sendall(data)

    def hang_up(self) -> None:
        """End the connection in order."""
        raise ConnectionOver("hung up as scripted")

    def reset(self) -> None:
        """End the connection with RST."""
        drop_with_reset(self._connection)
        raise ConnectionOver("reset as scripted")

    def await_disconnect(self, at_most_s: float = _PATIENCE_S) -> None:
        """Be silent until the client disconnects or the upstream closes, then end the connection."""
        end_s = time.monotonic() + at_most_s
        while not self.upstream.closing and time.monotonic() < end_s:
            if select.select([self._connection], [], [], 0.02)[0]:
                break
        self.hang_up()

    def pause(self, until: threading.Event, *, at_most_s: float | None = None) -> None:
        """Hold the answer until *until* is set or the upstream closes."""
        with self.upstream.released_at_close(until):
            until.wait(at_most_s)
        if self.upstream.closing:
            self.hang_up()


class Upstream:
    """An HTTP/1.1 server in threads of its own; use it as a context manager.

    Args:
        files: What it serves, by path with or without leading slash, or a folder.
        case_insensitive: Whether paths match whatever their case, as on Microsoft's server.
        credentials: User and password that every request must bring by Basic authorization; None asks for none.
        tls: A server-side context; None serves plain HTTP.

    Attributes:
        files: May be changed at any time; ignored when a folder is served.
        requests: Everything asked so far, in order of arrival.
    """

    def __init__(
        self,
        files: Mapping[str, Content] | Path | None = None,
        *,
        case_insensitive: bool = False,
        credentials: tuple[str, str] | None = None,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._folder = files if isinstance(files, Path) else None
        self.files: dict[str, Content] = {} if files is None or isinstance(files, Path) else dict(files)
        self.requests: list[Request] = []
        self.closing = False
        self._case_insensitive = case_insensitive
        self._credentials = credentials
        self._scheme = "http" if tls is None else "https"
        self._scripts: dict[str, deque[Answer]] = {}
        self._constant: dict[str, Answer] = {}
        self._arrival = threading.Condition()
        self._paused: Counter[threading.Event] = Counter()
        self._listener = Listener(self._serve, tls=tls)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    @property
    def url(self) -> str:
        """Where it listens, without a trailing slash."""
        return f"{self._scheme}://127.0.0.1:{self.port}"

    @property
    def port(self) -> int:
        return self._listener.port

    @property
    def connections(self) -> int:
        """How many connections it has accepted so far."""
        return self._listener.accepted

    def close(self) -> None:
        """Release every paused answer, end every connection and stop listening."""
        with self._arrival:
            self.closing = True
            for event in self._paused:
                event.set()
        self._listener.close()

    def refuse(self, for_s: float) -> None:
        """Refuse new connections for a while."""
        self._listener.refuse(for_s)

    def cut_connections(self) -> None:
        """End every open connection, idle ones too, and go on serving."""
        self._listener.cut_connections()

    def script(self, path: str, *answers: Answer) -> None:
        """Give the next requests for *path* these answers, one each; after them it is served as usual."""
        with self._arrival:
            self._scripts.setdefault(self._fold(path), deque()).extend(answers)

    def always(self, path: str, answer: Answer) -> None:
        """Give every request for *path* this answer, once its script is used up; ``*`` stands for every path."""
        with self._arrival:
            self._constant[self._fold(path)] = answer

    def find(self, path: str) -> Content | None:
        """Return what lies at *path*; None if nothing does."""
        wanted = self._fold(path)
        if self._folder is not None and not self._case_insensitive:
            path_on_disk = self._folder / wanted
            inside = ".." not in path_on_disk.parts and path_on_disk.is_file()
            return path_on_disk if inside else None
        files = dict(self.files) if self._folder is None else _walk(self._folder)
        return next((content for name, content in files.items() if self._fold(name) == wanted), None)

    def asked(self, path: str) -> list[Request]:
        """Return the requests for *path* so far, in order."""
        with self._arrival:
            return [request for request in self.requests if self._fold(request.path) == self._fold(path)]

    def await_requests(self, count: int, path: str | None = None, *, timeout_s: float = _PATIENCE_S) -> list[Request]:
        """Block until *count* requests, of *path* or in all, have arrived; return them all.

        Raises:
            AssertionError: They do not come within *timeout_s* seconds.
        """

        def seen() -> list[Request]:
            return [r for r in self.requests if path is None or self._fold(r.path) == self._fold(path)]

        with self._arrival:
            enough = self._arrival.wait_for(lambda: len(seen()) >= count, timeout_s)
            assert enough, f"{len(seen())} of {count} requests within {timeout_s:g} s"
            return seen()

    async def requests_seen(
        self, count: int, path: str | None = None, *, timeout_s: float = _PATIENCE_S
    ) -> list[Request]:
        """Wait as `await_requests` does, without blocking the event loop."""
        return await anyio.to_thread.run_sync(
            lambda: self.await_requests(count, path, timeout_s=timeout_s), abandon_on_cancel=True
        )

    @contextmanager
    def released_at_close(self, event: threading.Event) -> Iterator[None]:
        """Set *event* if the upstream closes during the body."""
        with self._arrival:
            if self.closing:
                event.set()
            self._paused[event] += 1
        try:
            yield
        finally:
            with self._arrival:
                self._paused[event] -= 1

    def _fold(self, path: str) -> str:
        path = path.removeprefix("/")
        return path.lower() if self._case_insensitive else path

    def _serve(self, connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while (request := read_head(stream)) is not None:
                exchange = Exchange(request, self, connection)
                with self._arrival:
                    self.requests.append(request)
                    self._arrival.notify_all()
                try:
                    self._choose(request)(exchange)
                finally:
                    request.ended.set()
                if exchange.is_last:
                    return

    def _choose(self, request: Request) -> Answer:
        if self._credentials is not None and request.headers.get("authorization") != _basic(*self._credentials):
            return status(401, headers=[("WWW-Authenticate", 'Basic realm="symbols"')])
        path = self._fold(request.path)
        with self._arrival:
            script = self._scripts.get(path)
            if script:
                return script.popleft()
            return self._constant.get(path) or self._constant.get("*") or file()


def _walk(folder: Path) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def _basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
