"""Requests whose answer is known already: a file that was served before, a miss of a moment ago.

They are most of what a server is asked, so `symcache.server.protocol` answers them before a task, a thread or a look-up
of the key is spent on them. What was remembered is compared with the disk each time.
"""

from __future__ import annotations

import os
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from symcache.identity import Tier, relative_parts
from symcache.server.files import FileInfo, header_list, open_shared, select

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from symcache.config import Serve
    from symcache.identity import Key
    from symcache.server.auth import Gate
    from symcache.server.files import Headers, RequestHeaders
    from symcache.server.metrics import Metrics
    from symcache.server.request import Loops
    from symcache.stores.local.tree import Store

__all__ = ["NOT_FOUND_BODY", "NOT_FOUND_HEADERS", "KnownAnswer", "KnownAnswers"]

_MOST_KNOWN = 16_384
_LONGEST_PATH = 1024
_MOST_HEADS = 4096
_LONGEST_HEAD = 1024
_METHODS = frozenset(["GET", "HEAD"])
_TOUCH_EVERY_S = 60.0
_MISS_FOR_S = 5.0

NOT_FOUND_BODY = b"not found\n"
NOT_FOUND_HEADERS = header_list(b"text/plain; charset=utf-8", len(NOT_FOUND_BODY), [(b"cache-control", b"no-store")])
_CONDITIONS = frozenset(
    [b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"]
)


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request.

    Attributes:
        method: As sent.
        raw_path: Percent-encoded path, with the query if there is one.
        headers: By lower-case name.
        keeps_alive: Whether the connection stays open after the response.
    """

    method: str
    raw_path: bytes
    headers: RequestHeaders
    keeps_alive: bool


@dataclass(slots=True)
class KnownAnswer:
    """One answer, ready to be sent.

    Attributes:
        kind: For metrics and access log.
        status: Three digits.
        head: Headers as they are sent, each line with its end, without those that every response has.
        body: What follows them, unless it is a file.
        file: Descriptor of an open file, which the receiver closes; None if there is no file to send.
        start: Offset of the first byte of the file to send.
        stop: Offset behind the last.
    """

    kind: str
    status: int
    head: bytes
    body: bytes = b""
    file: int | None = None
    start: int = 0
    stop: int = 0


@dataclass(slots=True)
class _KnownFile:
    path: str
    info: FileInfo
    modified_ns: int
    number: int
    touch: Callable[[], None]
    touched_s: float
    head: bytes = field(init=False)

    def __post_init__(self) -> None:
        self.head = _lines(self.info.headers)

    def answer(self, method: str, headers: RequestHeaders) -> KnownAnswer | None:
        """Return the answer to a request; None if the file is not the one that was found right."""
        try:
            fd = open_shared(self.path)
        except OSError:
            return None
        status = os.fstat(fd)
        info = self.info
        if status.st_mtime_ns != self.modified_ns or status.st_ino != self.number or status.st_size != info.size_bytes:
            os.close(fd)
            return None
        if _CONDITIONS.isdisjoint(headers):
            answer = KnownAnswer("hit", 200, self.head, b"", fd, 0, info.size_bytes)
        else:
            chosen = select(info, headers)
            answer = KnownAnswer("hit", chosen.status, _lines(chosen.headers), b"", fd, chosen.start, chosen.stop)
        if method == "HEAD" or answer.start == answer.stop:
            os.close(fd)
            answer.file = None
        now_s = time.monotonic()
        if now_s - self.touched_s >= _TOUCH_EVERY_S:
            self.touched_s = now_s
            self.touch()
        return answer


@dataclass(slots=True)
class _KnownMiss:
    index: str
    folders: tuple[str, ...]
    is_still_missing: Callable[[], bool]
    note: Callable[[str], None]
    until_s: float

    def answer(self, method: str, _headers: RequestHeaders) -> KnownAnswer | None:
        """Return the answer to a request; None if the file may exist by now."""
        now_s = time.monotonic()
        if self.until_s < now_s:
            if not self.is_still_missing():
                return None
            self.until_s = now_s + _MISS_FOR_S
        for folder in self.folders:
            if os.access(folder, os.F_OK):
                return None
        self.note(self.index)
        return _MISS_HEAD if method == "HEAD" else _MISS


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


_MISS = KnownAnswer("miss", 404, _lines(NOT_FOUND_HEADERS), NOT_FOUND_BODY)
_MISS_HEAD = KnownAnswer("miss", 404, _lines(NOT_FOUND_HEADERS))


class KnownAnswers:
    """What is known, by path.

    Args:
        settings: ``[serve]``.
        gate: Knows which clients may ask.
        loops: Finds requests of this server itself.
        metrics: Counts.

    Attributes:
        heads: Requests that had known answers, by their bytes.
    """

    def __init__(self, settings: Serve, gate: Gate, loops: Loops, metrics: Metrics) -> None:
        self._most_requests = settings.connections
        self._gate = gate
        self._loops = loops
        self._metrics = metrics
        self.heads: dict[bytes, Head] = {}
        self._known: dict[bytes, _KnownFile | _KnownMiss] = {}

    def find(self, head: Head) -> KnownAnswer | None:
        """Return the answer to a request; None if the application is to answer it."""
        known = self._known.get(head.raw_path)
        if known is None or head.method not in _METHODS:
            return None
        headers = head.headers
        if self._metrics.requests >= self._most_requests or not (self._gate.is_open or self._gate.lets_in(headers)):
            return None
        if b"via" in headers and self._loops.is_in_one(headers):
            return None
        answer = known.answer(head.method, headers)
        if answer is None:
            self._known.pop(head.raw_path, None)
        return answer

    def remember_head(self, data: bytes, head: Head) -> None:
        """Remember what one request, exactly as it was received, was parsed to."""
        if len(data) <= _LONGEST_HEAD and b"upgrade" not in head.headers:
            if len(self.heads) >= _MOST_HEADS:
                del self.heads[next(iter(self.heads))]
            self.heads[data] = head

    def remember_file(
        self, raw_path: bytes, path: Path, status: os.stat_result, info: FileInfo, touch: Callable[[], None]
    ) -> None:
        """Remember that *raw_path* is the file at *path*, found right as its *status* has it and just touched.

        *touch* notes that it is used.
        """
        known = _KnownFile(os.fspath(path), info, status.st_mtime_ns, status.st_ino, touch, touched_s=time.monotonic())
        self._remember(raw_path, known)

    def remember_miss(
        self, raw_path: bytes, key: Key, stores: Sequence[Store], is_still_missing: Callable[[], bool]
    ) -> None:
        """Remember that no store and no upstream has *key*.

        A folder that another process makes for it in one of *stores* is noticed at once. For everything else
        *is_still_missing* is asked every few seconds.
        """
        folders = tuple(
            os.path.join(store.root, *relative_parts(key, tier))  # noqa: PTH118 - text, as it is used per request
            for store in stores
            for tier in Tier
        )
        until_s = time.monotonic() + _MISS_FOR_S
        self._remember(raw_path, _KnownMiss(key.index, folders, is_still_missing, self._metrics.note_miss, until_s))

    def _remember(self, raw_path: bytes, known: _KnownFile | _KnownMiss) -> None:
        if len(raw_path) > _LONGEST_PATH:
            return
        if len(self._known) >= _MOST_KNOWN:
            del self._known[next(iter(self._known))]
        self._known[raw_path] = known
