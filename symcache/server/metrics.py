"""Metrics and the access log. Each worker counts for itself and shares its counts through the store's own folder."""

from __future__ import annotations

import json
import os
import sys
import time
from bisect import bisect_left
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import inf
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio

from symcache.stores.results import Failed, Fetched, Missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from pathlib import Path

    from symcache.server.files import RequestHeaders
    from symcache.server.request import Proxies
    from symcache.stores.results import Outcome

__all__ = ["BUCKETS_S", "Metrics", "RequestLog", "Sharing", "Totals", "format_metrics", "sum_up"]

BUCKETS_S = (0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
"""Upper bounds of the histogram's buckets, in seconds."""

_MOST_MISSED = 10_000
_SHARED_MISSED = 200
_SHARED_DOWNLOADS = 50
_ALIVE_FOR_S = 15.0


@dataclass(slots=True)
class Totals:
    """Counts of one worker, or of all; those that only grow come first.

    Attributes:
        answers: Requests by kind of answer.
        statuses: Requests by status.
        sent_bytes: Lengths of bodies sent.
        fetched_bytes: Lengths of files that came from upstreams.
        fetches: Fetches from upstreams by result.
        fetch_classes: The same by duration; see `BUCKETS_S`, and one more for longer ones.
        fetch_s: Their total duration.
        missed: How often each key without a file was asked for, by index; only those asked for most.
        requests: Being answered now.
        transfers: Bodies being sent now.
        flights: Files being downloaded from upstreams now.
        downloads: The oldest of them.
        workers: Processes.
        began_s: When the first of them started, in seconds since 1970.
    """

    answers: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    sent_bytes: int = 0
    fetched_bytes: int = 0
    fetches: Counter[str] = field(default_factory=Counter)
    fetch_classes: list[int] = field(default_factory=lambda: [0] * (len(BUCKETS_S) + 1))
    fetch_s: float = 0.0
    missed: Counter[str] = field(default_factory=Counter)
    requests: int = 0
    transfers: int = 0
    flights: int = 0
    downloads: list[dict[str, Any]] = field(default_factory=list)
    workers: int = 0
    began_s: float = inf


class Metrics:
    """What this worker counts; changed only on the event loop's thread.

    Attributes:
        answers: See `Totals`, here and below.
        statuses: Requests by status.
        sent_bytes: Lengths of bodies sent.
        requests: Being answered now.
        transfers: Bodies being sent now.
    """

    def __init__(self) -> None:
        self.answers: Counter[str] = Counter()
        self.statuses: Counter[int] = Counter()
        self.sent_bytes = 0
        self.requests = 0
        self.transfers = 0
        self._fetched_bytes = 0
        self._fetches: Counter[str] = Counter()
        self._fetch_classes = [0] * (len(BUCKETS_S) + 1)
        self._fetch_s = 0.0
        self._missed: Counter[str] = Counter()

    def count(self, kind: str, status: int, sent_bytes: int) -> None:
        """Count a request that was answered."""
        self.answers[kind] += 1
        self.statuses[status] += 1
        self.sent_bytes += sent_bytes

    @contextmanager
    def transferring(self) -> Iterator[None]:
        """Count a body as being sent for a ``with`` block."""
        self.transfers += 1
        try:
            yield
        finally:
            self.transfers -= 1

    def fetch_ended(self, outcome: Outcome, took_s: float) -> None:
        """Count a fetch from upstreams, whether a client or the page asked for it."""
        self._fetch_classes[bisect_left(BUCKETS_S, took_s)] += 1
        self._fetch_s += took_s
        match outcome:
            case Fetched():
                self._fetches["fetched"] += 1
                self._fetched_bytes += outcome.size_bytes
            case Missing() | Failed():
                self._fetches[outcome.cause.value] += 1
            case _:
                self._fetches["present"] += 1

    def note_miss(self, index: str) -> None:
        """Count a request for a file that no upstream has."""
        if len(self._missed) >= _MOST_MISSED:
            self._missed = Counter(dict(self._missed.most_common(_MOST_MISSED // 2)))
        self._missed[index] += 1

    def as_json(self, downloads: list[dict[str, Any]], *, began_s: float) -> dict[str, Any]:
        """Return the counts as `sum_up` takes them.

        Args:
            downloads: What is being downloaded, oldest first.
            began_s: When this worker started, in seconds since 1970.
        """
        return {
            "began_s": began_s,
            "written_s": time.time(),
            "answers": dict(self.answers),
            "statuses": {str(status): count for status, count in self.statuses.items()},
            "sent_bytes": self.sent_bytes,
            "fetched_bytes": self._fetched_bytes,
            "fetches": dict(self._fetches),
            "fetch_classes": list(self._fetch_classes),
            "fetch_s": self._fetch_s,
            "missed": dict(self._missed.most_common(_SHARED_MISSED)),
            "requests": self.requests,
            "transfers": self.transfers,
            "flights": len(downloads),
            "downloads": downloads[:_SHARED_DOWNLOADS],
        }


def sum_up(documents: Iterable[dict[str, Any]], *, now_s: float) -> Totals:
    """Return what all workers counted; those that have ended count with what they did, not with what they do."""
    totals = Totals()
    for counted in documents:
        with suppress(KeyError, TypeError, ValueError):
            totals.answers.update(counted["answers"])
            totals.statuses.update(counted["statuses"])
            totals.sent_bytes += counted["sent_bytes"]
            totals.fetched_bytes += counted["fetched_bytes"]
            totals.fetches.update(counted["fetches"])
            pairs = zip(totals.fetch_classes, counted["fetch_classes"], strict=True)
            totals.fetch_classes = [mine + theirs for mine, theirs in pairs]
            totals.fetch_s += counted["fetch_s"]
            totals.missed.update(counted["missed"])
            if now_s - counted["written_s"] < _ALIVE_FOR_S:
                totals.workers += 1
                totals.requests += counted["requests"]
                totals.transfers += counted["transfers"]
                totals.flights += counted["flights"]
                totals.downloads += counted["downloads"]
                totals.began_s = min(totals.began_s, counted["began_s"])
    return totals


class Sharing:
    """The counts of a server's workers, each in a file of its own that the others read.

    Args:
        folder: Where; None shares nothing.
        run: Identifies the server, so that two on one store do not mix.

    Attributes:
        run: The same.
    """

    def __init__(self, folder: Path | None, run: str) -> None:
        self._folder = folder
        self.run = run
        self._own = None if folder is None else folder / f"{run}-{token_hex(4)}.json"

    def write(self, document: dict[str, Any]) -> None:
        """Replace what this worker wrote before; a folder that cannot be written is no error."""
        if self._own is None or self._folder is None:
            return
        with suppress(OSError):
            self._folder.mkdir(parents=True, exist_ok=True)
            scratch = self._own.with_suffix(".new")
            scratch.write_text(json.dumps(document), encoding="utf-8")
            scratch.replace(self._own)

    def read_all(self, own: dict[str, Any] | None = None) -> list[dict[str, Any]]:
        """Return what every worker wrote last; *own* replaces what this one did."""
        counted: list[dict[str, Any]] = [] if own is None else [own]
        for path in sorted(self._folder.glob(f"{self.run}-*.json")) if self._folder is not None else []:
            if own is None or path != self._own:
                with suppress(OSError, ValueError):
                    counted.append(json.loads(path.read_text(encoding="utf-8")))
        return counted

    def sweep(self, *, now_s: float, older_than_s: float) -> None:
        """Remove files of earlier servers."""
        for path in self._folder.glob("*-*.*") if self._folder is not None else []:
            with suppress(OSError):
                if now_s - path.stat().st_mtime > older_than_s:
                    path.unlink()


_FLUSH_EVERY_S = 0.5
_FLUSH_AT_LINES = 500


class RequestLog:
    """Counts each request that was answered, and writes the access log.

    Several processes may append to one file, as each batch is one write.

    Args:
        metrics: The counts.
        proxies: Tell where a request came from.
        path: The access log; ``-`` for standard error, empty for none. Opened for each batch, so it can be rotated.

    Attributes:
        metrics: The same.
    """

    def __init__(self, metrics: Metrics, proxies: Proxies, path: str) -> None:
        self.metrics = metrics
        self._proxies = proxies
        self._path = path
        self._lines: list[str] = []

    def record(
        self,
        began_s: float,
        client: tuple[str, int] | None,
        method: str,
        raw_path: bytes,
        headers: RequestHeaders,
        status: int,
        sent_bytes: int,
        kind: str,
    ) -> None:
        """Count and log one request.

        Args:
            began_s: Monotonic time at which it arrived.
            client: Address and port; None if unknown.
            method: As sent.
            raw_path: Without the query, which may hold secrets.
            headers: Of the request; only the user agent is logged, for the same reason.
            status: Of the response.
            sent_bytes: Length of the body sent.
            kind: What kind of answer it was.
        """
        self.metrics.count(kind, status, sent_bytes)
        if not self._path:
            return
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": self._proxies.client_of(client[0] if client else "", headers),
            "method": method,
            "path": raw_path.decode("ascii", "replace")[:2048],
            "status": status,
            "bytes": sent_bytes,
            "seconds": round(time.monotonic() - began_s, 6),
            "answer": kind,
            "agent": headers.get(b"user-agent", b"").decode("latin-1")[:200],
        }
        self._lines.append(json.dumps(entry))
        if len(self._lines) >= _FLUSH_AT_LINES:
            self.flush()

    async def run(self) -> None:
        """Write collected lines twice a second, until cancelled."""
        while self._path:
            await anyio.sleep(_FLUSH_EVERY_S)
            self.flush()

    def flush(self) -> None:
        """Write collected lines; a log that cannot be written is not a reason to refuse requests."""
        if not self._lines:
            return
        data = ("\n".join(self._lines) + "\n").encode()
        self._lines.clear()
        with suppress(OSError):
            if self._path == "-":
                sys.stderr.buffer.write(data)
                sys.stderr.buffer.flush()
                return
            fd = os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o640)
            try:
                os.write(fd, data)
            finally:
                os.close(fd)


def format_metrics(totals: Totals, store: Mapping[str, Any]) -> str:
    """Return *totals* in the text format, version 0.0.4.

    Args:
        totals: Of all workers.
        store: ``bytes``, ``files`` and ``keys`` as last measured; empty before the first time.
    """
    return "\n".join([*_lines(totals, store), ""])


def _lines(totals: Totals, store: Mapping[str, Any]) -> Iterator[str]:
    yield from _counter("symcache_requests_total", "Requests by kind of answer.", "answer", totals.answers)
    yield from _counter("symcache_responses_total", "Requests by status.", "code", totals.statuses)
    yield from _single("symcache_sent_bytes_total", "counter", "Lengths of bodies sent.", totals.sent_bytes)
    yield from _counter("symcache_upstream_fetches_total", "Fetches from upstreams by result.", "end", totals.fetches)
    yield from _single("symcache_upstream_bytes_total", "counter", "Lengths of files fetched.", totals.fetched_bytes)
    yield "# HELP symcache_upstream_seconds Time from asking upstreams to the file or a definite no."
    yield "# TYPE symcache_upstream_seconds histogram"
    so_far = 0
    for bound, count in zip([*map(str, BUCKETS_S), "+Inf"], totals.fetch_classes, strict=True):
        so_far += count
        yield f'symcache_upstream_seconds_bucket{{le="{bound}"}} {so_far}'
    yield f"symcache_upstream_seconds_sum {totals.fetch_s:.6f}"
    yield f"symcache_upstream_seconds_count {so_far}"
    yield from _single("symcache_requests_in_flight", "gauge", "Requests being answered.", totals.requests)
    yield from _single("symcache_transfers_in_flight", "gauge", "Bodies being sent.", totals.transfers)
    yield from _single("symcache_upstream_in_flight", "gauge", "Files being downloaded from upstreams.", totals.flights)
    yield from _single("symcache_workers", "gauge", "Worker processes.", totals.workers)
    for unit, text in {"bytes": "Length of all files.", "files": "Files.", "keys": "Keys."}.items():
        if unit in store:
            yield from _single(f"symcache_store_{unit}", "gauge", f"In the store: {text}", store[unit])


def _counter(name: str, text: str, label: str, counts: Mapping[str, int]) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} counter"
    for value, count in sorted(counts.items()):
        yield f'{name}{{{label}="{value}"}} {count}'


def _single(name: str, kind: str, text: str, value: float) -> Iterator[str]:
    yield f"# HELP {name} {text}"
    yield f"# TYPE {name} {kind}"
    yield f"{name} {value}"
