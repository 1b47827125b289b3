"""Requests for symbol files: known already, else from the store, else from upstream while the file arrives."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass
from enum import Enum
from fnmatch import fnmatchcase
from functools import lru_cache, partial
from typing import TYPE_CHECKING, TypeAlias, TypeVar
from urllib.parse import unquote_to_bytes

from anyio import to_thread

from symcache.errors import MalformedInput, StoreError
from symcache.identity import POINTER, PdbKey, Tier, check_path_part, compressed_name, fold, parse_id, relative_parts
from symcache.server.downloads import send_download
from symcache.server.request import FileInfo, header_list, open_shared, select
from symcache.stores.base import Form
from symcache.stores.local.access import AccessLog
from symcache.stores.results import Cause, Failed, Hint, Missing, Present

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from symcache.config import Serve
    from symcache.identity import Key
    from symcache.server.app import Gate
    from symcache.server.downloads import Download, Downloads, PartialFile
    from symcache.server.metrics import Metrics
    from symcache.server.request import Headers, Loops, Request, RequestHeaders
    from symcache.stores.local.tree import Store
    from symcache.stores.source import SymbolSource

_LONGEST_PATH = 4096
_GUID_DECIMAL = re.compile(r"[0-9A-Fa-f]{32}([0-9]{2,10})")
_METHODS = frozenset(["GET", "HEAD"])
_T = TypeVar("_T")


class MalformedPath(Exception):
    """A path that cannot name a file."""


class Mark(Enum):
    """The files that tell what kind of store this is."""

    TWO_TIER = "index2.txt"
    STORE = "pingme.txt"


@dataclass(frozen=True, slots=True)
class FileAsked:
    """A file of a store, plain, as cabinet or as pointer; *id_text* is the middle part as the client wrote it."""

    key: Key
    form: Form
    id_text: str


Asked: TypeAlias = FileAsked | Mark | None


@lru_cache(maxsize=4096)
def parse_path(raw_path: bytes) -> Asked:
    """Return what *raw_path*, percent-encoded as it was sent, asks for; None if it has another shape.

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
        return None
    name, id_text, file = parts[-3:]
    forms = {POINTER: Form.POINTER, fold(compressed_name(name)): Form.COMPRESSED, fold(name): Form.PLAIN}
    form = forms.get(last)
    try:
        if form is None:
            check_path_part(file)
            return None
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


_CONDITIONS = frozenset(
    [b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since", b"if-unmodified-since"]
)
_MOST_KNOWN = 16_384
_LONGEST_KNOWN_PATH = 1024
_MOST_HEADS = 4096
_LONGEST_HEAD = 1024
_TOUCH_EVERY_S = 60.0
_MISS_FOR_S = 5.0


@dataclass(frozen=True, slots=True)
class Head:
    """The head of a request: its path percent-encoded and with the query, its headers by lower-case name."""

    method: str
    raw_path: bytes
    headers: RequestHeaders
    keeps_alive: bool


@dataclass(slots=True)
class KnownAnswer:
    """One answer, ready to be sent: *head* has the header lines, without those that every response has.

    *file* is an open descriptor, which the receiver sends from *start* to before *stop*, and closes.
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
    identity: tuple[int, int, int]
    touch: Callable[[], None]
    head: bytes
    touched_s: float

    def answer(self, method: str, headers: RequestHeaders) -> KnownAnswer | None:
        """Return the answer to a request; None if the file is not the one that was found right."""
        try:
            fd = open_shared(self.path)
        except OSError:
            return None
        if _identity(os.fstat(fd)) != self.identity:
            os.close(fd)
            return None
        if _CONDITIONS.isdisjoint(headers):
            answer = KnownAnswer("hit", 200, self.head, b"", fd, 0, self.info.size_bytes)
        else:
            chosen = select(self.info, headers)
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
    folders: tuple[str, ...]
    is_still_missing: Callable[[], bool]
    note: Callable[[], None]
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
        self.note()
        return _MISS_HEAD if method == "HEAD" else _MISS


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    return status.st_mtime_ns, status.st_ino, status.st_size


def _lines(headers: Headers) -> bytes:
    return b"".join(b"%b: %b\r\n" % header for header in headers)


_NOT_FOUND = b"not found\n"
_MISS_LINES = _lines(header_list(b"text/plain; charset=utf-8", len(_NOT_FOUND), [(b"cache-control", b"no-store")]))
_MISS = KnownAnswer("miss", 404, _MISS_LINES, _NOT_FOUND)
_MISS_HEAD = KnownAnswer("miss", 404, _MISS_LINES)


class KnownAnswers:
    """Answers to requests, by path, that are known already: a file served before, a miss of a moment ago.

    They are most of what a server is asked, so `symcache.server.protocol` answers them before a task, a thread or a
    look-up of the key is spent on them. What was remembered is compared with the disk each time. *heads* has requests
    that had known answers, by their bytes.
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
        gate = self._gate
        if self._metrics.requests >= self._most_requests or not (gate.is_open or gate.lets_in(headers)):
            return None
        if not gate.is_called(headers):
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
            _keep(self.heads, data, head, _MOST_HEADS)

    def remember_file(
        self, raw_path: bytes, path: Path, status: os.stat_result, info: FileInfo, touch: Callable[[], None]
    ) -> None:
        """Remember that *raw_path* is the file at *path*, found right as its *status* has it and just touched.

        *touch* notes that it is used.
        """
        known = _KnownFile(os.fspath(path), info, _identity(status), touch, _lines(info.headers), time.monotonic())
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
        note = partial(self._metrics.note_miss, key.index)
        self._remember(raw_path, _KnownMiss(folders, is_still_missing, note, time.monotonic() + _MISS_FOR_S))

    def _remember(self, raw_path: bytes, known: _KnownFile | _KnownMiss) -> None:
        if len(raw_path) <= _LONGEST_KNOWN_PATH:
            _keep(self._known, raw_path, known, _MOST_KNOWN)


def _keep(kept: dict[bytes, _T], name: bytes, value: _T, most: int) -> None:
    if len(kept) >= most:
        del kept[next(iter(kept))]
    kept[name] = value


_STREAM_AFTER_S = 5.0
_OF_THEIR_PATIENCE = 0.8
_RETRY_SOON = (b"retry-after", b"5")
# ERROR_APP_HANG: how SymProxy tells symsrv to come back, as the file is being fetched.
_STILL_FETCHING = (b"symbol-agent-status", b"0x80070512")


def _of_this_file(error: bytes) -> Sequence[tuple[bytes, bytes]]:
    """Return the headers that tell other servers that only this file fails, so that they go on asking for others.

    Source: RFC 9209, sections 2.1.1 and 2.3, for the header and the kinds of errors.
    """
    return [_RETRY_SOON, (b"proxy-status", b"symcache; error=" + error)]


_ERRORS = {
    Cause.UNAVAILABLE: (503, _of_this_file(b"destination_unavailable")),
    Cause.DISK: (503, _of_this_file(b"proxy_internal_error")),
    Cause.WRONG_CONTENT: (502, _of_this_file(b"http_protocol_error")),
    Cause.REFUSED: (502, _of_this_file(b"http_protocol_error")),
}


class Symbols:
    """Answers requests for symbol files, and remembers answers in *known* for the next request."""

    def __init__(
        self, source: SymbolSource, downloads: Downloads, known: KnownAnswers, settings: Serve, metrics: Metrics
    ) -> None:
        self._source = source
        self._downloads = downloads
        self._known = known
        self._settings = settings
        self._metrics = metrics
        self._stores: Sequence[Store] = list(dict.fromkeys(source.opened_stores))
        # What other replicas put into a bucket meanwhile has to be seen, as what others put into a folder.
        self._has_no_other_store = not source.buckets and all(
            store.local in self._stores or not store.is_on_disk for chain in source.chains for store in chain.stores
        )
        self._access = {store: AccessLog(store) for store in self._stores}

    @property
    def is_two_tier(self) -> bool:
        return any(store.tier is Tier.TWO for store in self._stores[:1])

    async def answer(self, request: Request, asked: FileAsked) -> None:
        if asked.form is not Form.PLAIN:
            await self._answer_probe(request, asked)
            return
        other = read_in_decimal(asked)
        # Who is known to write ages in hex would be given another file if they were read as decimal.
        writes_hex = request.headers.get(b"user-agent", b"").lower().startswith(b"microsoft-symbol-server/")
        for key in [asked.key] if other is None or writes_hex else [asked.key, other]:
            known_as = None if key is other else request.raw_path
            if await self._answer_stored(request, key, known_as):
                return
            if self._may_redirect(request) and await self._redirect(request, key):
                return
            if await self._answer_cold(request, key, known_as):
                return
        await request.send_text(404, "not found", kind="miss")
        # What holds for one reading of the id is not remembered for clients that mean the other.
        if other is None:
            is_still_missing = partial(self._is_still_missing, asked.key)
            self._known.remember_miss(request.raw_path, asked.key, self._stores, is_still_missing)

    async def _answer_stored(self, request: Request, key: Key, known_as: bytes | None) -> bool:
        present = await to_thread.run_sync(self._source.find, key)
        if present is None:
            return False
        request.kind = "hit"
        return await self._send_stored(request, present.path, key, known_as)

    async def _send_stored(
        self, request: Request, path: Path, key: Key | None = None, known_as: bytes | None = None
    ) -> bool:
        """Answer with a file that is right, and remember it as *key*'s under *known_as*; False if it is removed."""
        try:
            fd = open_shared(path)
        except OSError:
            return False
        try:
            status = os.fstat(fd)
            info = FileInfo.of(status.st_size, status.st_mtime_ns)
            if key is not None:
                touch = partial(self._touch, key, path)
                touch()
                if known_as is not None:
                    self._known.remember_file(known_as, path, status, info, touch)
            with self._metrics.transferring():
                await request.send_file(fd, info)
        finally:
            os.close(fd)
        return True

    def _may_redirect(self, request: Request) -> bool:
        """Whether the client is one that is to get files from a bucket itself; a HEAD would need another signature."""
        patterns = self._settings.redirect
        if not patterns or request.method != "GET":
            return False
        agent = request.headers.get(b"user-agent", b"").decode("latin-1")
        return any(fnmatchcase(agent, pattern) for pattern in patterns)

    async def _redirect(self, request: Request, key: Key) -> bool:
        """Send the client to a bucket that has *key*'s file; False if none has."""
        url = await self._source.locate(key, valid_s=self._settings.redirect_s)
        if url is None:
            return False
        request.kind = "redirect"
        headers = header_list(
            b"text/plain; charset=utf-8", 0, [(b"location", url.encode()), (b"cache-control", b"no-store")]
        )
        await request.start(302, headers)
        await request.send()
        return True

    async def _answer_probe(self, request: Request, asked: FileAsked) -> None:
        """Answer for a cabinet or pointer file from the store alone; a pointer is never passed on to a client."""
        request.kind = "probe"
        for store in self._stores if asked.form is Form.COMPRESSED else ():
            stored = await to_thread.run_sync(store.find, asked.key)
            cabinet = stored.path if stored is not None and stored.form is Form.COMPRESSED else None
            if cabinet is not None and await self._send_stored(request, cabinet):
                return
        await request.send_text(404, "not found")

    async def _answer_cold(self, request: Request, key: Key, known_as: bytes | None) -> bool:
        """Answer with what upstream has; return False for a definite miss."""
        if len(self._downloads) >= self._settings.downloads and key not in self._downloads:
            await request.send_text(503, "too many downloads at once", _RETRY_SOON, kind="refused")
            return True
        download = self._downloads.join(key)
        download.readers += 1
        try:
            arriving = await self._await_answer(request, download)
            if request.is_gone:
                request.kind = "left"
                return True
            if arriving is not None:
                request.kind = "cold"
                await send_download(request, download, arriving, self._metrics)
                return True
        finally:
            download.readers -= 1
        outcome = download.outcome
        match outcome:
            case None:
                late = _of_this_file(b"http_response_timeout")
                await request.send_text(504, "still being fetched", *late, _STILL_FETCHING, kind="late")
            case Missing():
                self._downloads.recheck(key, outcome)
                self._metrics.note_miss(key.index)
                return False
            case Failed(hint=Hint.LOOP):
                await request.send_text(508, "servers ask each other in a circle", kind="loop")
            case Failed():
                status, extra = _ERRORS.get(outcome.cause, _ERRORS[Cause.REFUSED])
                await request.send_text(status, f"not available now: {outcome.cause.value}", *extra, kind="failed")
            case _:
                request.kind = "hit" if isinstance(outcome, Present) else "cold"
                if not await self._send_stored(request, outcome.path, key, known_as):
                    await request.send_text(503, "removed again", _RETRY_SOON, kind="failed")
        return True

    async def _await_answer(self, request: Request, download: Download) -> PartialFile | None:
        """Wait until there is something to answer; return the file if it is to be sent while it arrives."""
        # Source: symsrv may tell its own patience in milliseconds (windows-driver-docs, configuring-the-registry).
        announced = request.headers.get(b"symbol-agent-receive-timeout", b"")
        theirs_s = int(announced[:9]) / 1000 * _OF_THEIR_PATIENCE if announced.isdigit() else math.inf
        deadline_s = request.began_s + min(self._settings.patience_s, theirs_s)
        while download.outcome is None and not request.is_gone:
            now_s = time.monotonic()
            arriving = download.file
            if arriving is not None and arriving.looks_right:
                is_long = arriving.size_bytes >= self._settings.stream_from_bytes and request.method != "HEAD"
                if is_long or now_s >= min(deadline_s, request.began_s + _STREAM_AFTER_S):
                    return arriving
            if now_s >= deadline_s:
                return None
            await download.wait(min(1.0, deadline_s - now_s))
        return None

    def _is_still_missing(self, key: Key) -> bool:
        try:
            is_stored = any(store.find(key) is not None for store in self._stores)
        except StoreError:
            return False
        return not is_stored and self._has_no_other_store and self._downloads.is_recent_miss(key)

    def _touch(self, key: Key, path: Path) -> None:
        for store, access in self._access.items():
            if path.is_relative_to(store.root):
                access.touch(key)
                break
