"""What a scripted upstream can answer.

Each function makes one answer: a callable that gets the exchange and writes to it. A test may pass one of its own.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import threading
from collections.abc import Callable
from email.utils import formatdate
from functools import cache
from pathlib import Path
from time import time
from typing import TYPE_CHECKING, TypeAlias

from support.wire import Signal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from support.upstream import Content, Exchange

__all__ = [
    "SIGNATURE",
    "Answer",
    "Header",
    "Stall",
    "busy",
    "chunked",
    "cut",
    "entity_tag",
    "file",
    "gzipped",
    "hang_up",
    "in_turn",
    "not_found",
    "page",
    "raw",
    "redirect",
    "reset",
    "signed",
    "slow",
    "status",
    "unframed",
]

Header: TypeAlias = tuple[str, str]
Answer: TypeAlias = Callable[["Exchange"], None]

LAST_MODIFIED = formatdate(1_500_000_000, usegmt=True)
SIGNATURE = "c2VjcmV0LXNpZ25hdHVyZQ"  # must turn up nowhere but in requests

_CHUNK_BYTES = 256 * 1024


def status(code: int, body: bytes = b"", *, headers: Iterable[Header] = ()) -> Answer:
    """Answer with *code* and a body of announced length: ``status(200)`` is the empty 200 of a broken server."""
    fixed = list(headers)

    def answer(exchange: Exchange) -> None:
        exchange.head(code, fixed, length=len(body))
        exchange.body(body)

    return answer


def not_found() -> Answer:
    """Answer as Microsoft's server does for a miss: 404, no body, no Content-Length."""
    return unframed(b"", code=404)


def page(code: int = 200, title: str = "Sign in to your account") -> Answer:
    """Answer with an HTML page: a sign-in form with status 200, a friendly 404."""
    html = f"<!DOCTYPE html>\n<html><head><title>{title}</title></head><body>{title}</body></html>\n"
    return status(code, html.encode(), headers=[("Content-Type", "text/html; charset=utf-8")])


def busy(retry_after_s: float | None = None, *, code: int = 429, as_date: bool = False) -> Answer:
    """Answer that the client shall come back after *retry_after_s* seconds, told as a number or as a date."""
    if retry_after_s is None:
        return status(code)
    value = formatdate(time() + retry_after_s, usegmt=True) if as_date else f"{retry_after_s:.15g}"
    return status(code, headers=[("Retry-After", value)])


def file(content: Content | None = None, *, etag: str | None = "", ranges: bool = True) -> Answer:
    """Answer honestly with a file, or 404.

    Args:
        content: The file; None takes what lies at the request's path.
        etag: With its quotes; empty derives one from the bytes, None sends neither ETag nor Last-Modified.
        ranges: Whether Range is heeded.
    """
    return lambda exchange: _send_file(exchange, content, etag=etag, ranges=ranges)


def cut(at: int, content: Content | None = None, *, etag: str | None = "", ranges: bool = True) -> Answer:
    """Announce the whole of a file (or range), but end the connection after *at* body bytes."""
    return lambda exchange: _send_file(
        exchange, content, etag=etag, ranges=ranges, halfway=at, then=lambda _: exchange.hang_up()
    )


def slow(*, chunk_bytes: int, pause_s: float) -> Answer:
    """Send a file in pieces of *chunk_bytes*, with *pause_s* seconds between them."""

    def answer(exchange: Exchange) -> None:
        content = exchange.content
        if content is None:
            return not_found()(exchange)
        exchange.head(200, length=_size(content))
        never = threading.Event()
        for piece in _pieces(content, 0, _size(content), chunk_bytes):
            exchange.body(piece)
            exchange.pause(never, at_most_s=pause_s)
        return None

    return answer


class Stall:
    """An answer that stops after *after* body bytes until it is released; None stops before the first byte.

    Attributes:
        reached: Set once the answer has stopped.
    """

    def __init__(self, after: int | None = None, *, then: Answer | None = None) -> None:
        self.reached = Signal("the stall")
        self._after = after
        self._then = then
        self._released = threading.Event()

    def release(self) -> None:
        """Let it go on, to the end of the file or with the answer that follows."""
        self._released.set()

    def __call__(self, exchange: Exchange) -> None:
        if self._after is None:
            self._wait(exchange)
            (self._then or file())(exchange)
        else:
            _send_file(exchange, None, etag="", ranges=True, halfway=self._after, then=self._wait)

    def _wait(self, exchange: Exchange) -> None:
        self.reached.set()
        exchange.pause(self._released)


def redirect(to: str, *, code: int = 302, headers: Iterable[Header] = ()) -> Answer:
    """Answer that the file is at *to*: a path, a URL, or something that is neither."""
    return status(code, headers=[("Location", to), *headers])


def signed(url: str) -> str:
    """Return *url* with the short-lived signature that a blob store wants; its secret part is `SIGNATURE`."""
    return f"{url}?sv=2019-07-07&sr=b&se=2030-01-01T00%3A00%3A00Z&sp=r&sig={SIGNATURE}%3D"


def unframed(body: bytes, *, code: int = 200) -> Answer:
    """Answer without Content-Length; the connection's end is the body's."""

    def answer(exchange: Exchange) -> None:
        exchange.head(code, length=None)
        exchange.body(body)

    return answer


def gzipped() -> Answer:
    """Send the file at the request's path with Content-Encoding gzip."""

    def answer(exchange: Exchange) -> None:
        content = exchange.content
        if content is None:
            return not_found()(exchange)
        body = gzip.compress(_slice(content, 0, _size(content)), mtime=0)
        return status(200, body, headers=[("Content-Encoding", "gzip")])(exchange)

    return answer


def chunked(*, chunk_bytes: int = 4096, cut_after: int | None = None) -> Answer:
    """Send the file at the request's path in HTTP chunks; hang up after *cut_after* of them."""

    def answer(exchange: Exchange) -> None:
        content = exchange.content
        if content is None:
            return not_found()(exchange)
        exchange.head(200, length=None, chunked=True)
        if exchange.request.method == "HEAD":
            return None
        for number, piece in enumerate(_pieces(content, 0, _size(content), chunk_bytes)):
            if number == cut_after:
                exchange.hang_up()
            exchange.raw(b"%x\r\n" % len(piece))
            exchange.body(piece)
            exchange.raw(b"\r\n")
        return exchange.raw(b"0\r\n\r\n")

    return answer


def raw(data: bytes) -> Answer:
    """Send *data* in place of a response, then hang up."""

    def answer(exchange: Exchange) -> None:
        exchange.raw(data)
        exchange.hang_up()

    return answer


def hang_up() -> Answer:
    """End the connection without an answer."""
    return lambda exchange: exchange.hang_up()


def reset() -> Answer:
    """Reset the connection without an answer."""
    return lambda exchange: exchange.reset()


def in_turn(*answers: Answer) -> Answer:
    """Give one after the other to any client, and repeat the last one."""
    lock = threading.Lock()
    left = list(answers)

    def answer(exchange: Exchange) -> None:
        with lock:
            chosen = left.pop(0) if len(left) > 1 else left[0]
        chosen(exchange)

    return answer


def entity_tag(content: Content) -> str:
    """Return the ETag, with its quotes, that an honest answer carries."""
    if isinstance(content, Path):
        found = content.stat()
        return f'"{found.st_mtime_ns:x}-{found.st_size:x}"'
    return _digest(content)


@cache
def _digest(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def _send_file(
    exchange: Exchange,
    content: Content | None,
    *,
    etag: str | None,
    ranges: bool,
    halfway: int | None = None,
    then: Answer | None = None,
) -> None:
    """Send a file or the range asked for; after *halfway* body bytes, do *then* before the rest."""
    content = exchange.content if content is None else content
    if content is None:
        return not_found()(exchange)
    size = _size(content)
    headers: list[Header] = [("Content-Type", "application/octet-stream")]
    if etag is not None:
        etag = etag or entity_tag(content)
        headers += [("ETag", etag), ("Last-Modified", LAST_MODIFIED)]
        if exchange.request.headers.get("if-none-match") == etag:
            return exchange.head(304, [("ETag", etag)], length=0)
    start, stop = 0, size
    code = 200
    if ranges:
        headers.append(("Accept-Ranges", "bytes"))
        wanted = _wanted_range(exchange, size, etag)
        if wanted is not None:
            start, stop = wanted
            code = 206
            headers.append(("Content-Range", f"bytes {start}-{stop - 1}/{size}"))
            if start >= stop:
                return status(416, headers=[("Content-Range", f"bytes */{size}")])(exchange)
    exchange.head(code, headers, length=stop - start)
    middle = stop if halfway is None else min(start + halfway, stop)
    for piece in _pieces(content, start, middle, _CHUNK_BYTES):
        exchange.body(piece)
    if then is not None:
        then(exchange)
    for piece in _pieces(content, middle, stop, _CHUNK_BYTES):
        exchange.body(piece)
    return None


def _wanted_range(exchange: Exchange, size: int, etag: str | None) -> tuple[int, int] | None:
    """Return first byte and end of the one range asked for; an empty one cannot be satisfied; None is all."""
    headers = exchange.request.headers
    found = re.fullmatch(r"bytes=(\d*)-(\d*)", headers.get("range", ""))
    if found is None or found[0] == "bytes=-":
        return None
    if headers.get("if-range", etag) not in {etag, LAST_MODIFIED}:
        return None
    if not found[1]:
        return max(0, size - int(found[2])), size
    start = int(found[1])
    return start, min(size, int(found[2]) + 1) if found[2] else size


def _size(content: Content) -> int:
    return content.stat().st_size if isinstance(content, Path) else len(content)


def _pieces(content: Content, start: int, stop: int, chunk_bytes: int) -> Iterator[bytes]:
    for at in range(start, stop, chunk_bytes):
        yield _slice(content, at, min(stop, at + chunk_bytes))


def _slice(content: Content, start: int, stop: int) -> bytes:
    if not isinstance(content, Path):
        return content[start:stop]
    with content.open("rb") as file_:
        file_.seek(start)
        return file_.read(stop - start)
