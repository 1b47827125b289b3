"""Metrics and the access log. Each worker counts for itself and shares its counts through the store's own folder."""

from __future__ import annotations

import json
import os
import re
import sys
import time
from bisect import bisect_left
from collections import Counter
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields
from datetime import UTC, datetime
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any

import anyio

from symcache.stores.local.atomic import drop
from symcache.stores.local.rights import OwnFolder, make_file, make_own_folders, open_plain
from symcache.stores.results import Failed, Fetched, Missing

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from pathlib import Path

    from symcache.server.request import Proxies, Request
    from symcache.server.symbols import Head
    from symcache.stores.cluster import Cluster
    from symcache.stores.results import Outcome

_BUCKETS_S = ("0.05", "0.1", "0.25", "0.5", "1.0", "2.5", "5.0", "10.0", "30.0", "60.0", "300.0", "+Inf")
_BOUNDS_S = [float(bound) for bound in _BUCKETS_S]
_MOST_MISSED = 10_000
_SHARED_MISSED = 200
_SHARED_DOWNLOADS = 50
_ALIVE_FOR_S = 15.0
_SHARE_REPLICAS_EVERY_S = 3.0
_LONGEST_DOCUMENT = 1 << 20
_MOST_LABELS = 100
_LARGEST = 1 << 63
_LABEL = re.compile(r"[A-Za-z0-9_.+-]{1,40}")
_SWEPT = re.compile(r"[^-]+-.+\.[^.]+")
_NUMBERS = frozenset(
    ["sent_bytes", "fetched_bytes", "fetch_s", "written_s", "began_s", "workers", "requests", "transfers", "flights"]
)
_ROW = frozenset(["index", "upstream", "size_bytes", "whole_bytes", "readers"])


@dataclass(slots=True)
class Metrics:
    """What one worker counts, only on the event loop's thread; or all of them together, see `sum_up`."""

    answers: Counter[str] = field(default_factory=Counter)  # requests by kind of answer
    statuses: Counter[int | str] = field(default_factory=Counter)
    sent_bytes: int = 0
    fetched_bytes: int = 0  # lengths of files that came from upstreams
    fetches: Counter[str] = field(default_factory=Counter)  # from upstreams, by result
    # The same by duration, under the upper bound of the class in seconds.
    fetch_classes: Counter[str] = field(default_factory=Counter)
    fetch_s: float = 0.0  # their total duration
    # Dumps and logs of watched folders, by what became of them; each try counts.
    watched: Counter[str] = field(default_factory=Counter)
    # How often each key without a file was asked for, by index; only those asked for most.
    missed: Counter[str] = field(default_factory=Counter)
    requests: int = 0  # being answered now
    transfers: int = 0  # bodies being sent now
    flights: int = 0  # files being downloaded from upstreams now
    downloads: list[dict[str, Any]] = field(default_factory=list)  # the oldest of them
    workers: int = 1
    # When the worker, or the first of them, started; in seconds since 1970.
    began_s: float = field(default_factory=time.time)

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
        self.fetch_classes[_BUCKETS_S[bisect_left(_BOUNDS_S, took_s)]] += 1
        self.fetch_s += took_s
        if isinstance(outcome, Fetched):
            self.fetched_bytes += outcome.size_bytes
        end = outcome.cause.value if isinstance(outcome, Missing | Failed) else type(outcome).__name__.lower()
        self.fetches[end] += 1

    def note_miss(self, index: str) -> None:
        if len(self.missed) >= _MOST_MISSED:
            self.missed = Counter(dict(self.missed.most_common(_MOST_MISSED // 2)))
        self.missed[index] += 1

    def as_json(self, downloads: list[dict[str, Any]]) -> dict[str, Any]:
        """Return the counts as `sum_up` takes them, with what is being downloaded, oldest first."""
        return {
            **{each.name: getattr(self, each.name) for each in fields(self)},
            "written_s": time.time(),
            "missed": dict(self.missed.most_common(_SHARED_MISSED)),
            "flights": len(downloads),
            "downloads": downloads[:_SHARED_DOWNLOADS],
        }

    def as_shared(self) -> dict[str, Any]:
        """Return totals for other replicas, as `sum_up` takes them.

        What is missing would be most of it, and each replica has a list of its own.
        """
        return {**self.as_json(self.downloads), "missed": {}, "flights": self.flights}


def sum_up(documents: Iterable[Any]) -> Metrics:
    """Return what all workers counted; those that have ended count with what they did, not with what they do.

    A document that no worker can have written counts for nothing: other users of the store can write there, too.
    """
    now_s = time.time()
    totals = Metrics(workers=0, began_s=now_s)
    for counted in filter(_is_counted, documents):
        for counter in ("answers", "fetches", "fetch_classes", "watched", "missed"):
            getattr(totals, counter).update(counted[counter])
        totals.statuses.update({str(status): count for status, count in counted["statuses"].items()})
        totals.sent_bytes += counted["sent_bytes"]
        totals.fetched_bytes += counted["fetched_bytes"]
        totals.fetch_s += counted["fetch_s"]
        if now_s - counted["written_s"] < _ALIVE_FOR_S:
            for name in ("workers", "requests", "transfers", "flights", "downloads"):
                setattr(totals, name, getattr(totals, name) + counted[name])
            totals.began_s = min(totals.began_s, counted["began_s"])
    return totals


def _is_counted(document: Any) -> bool:
    """Whether *document* has the shape of `Metrics.as_json`, and is made of labels and numbers alone."""
    if not isinstance(document, dict):
        return False
    numbers = numbers_in(document)
    counters = [document.get(name) for name in ("answers", "statuses", "fetches", "fetch_classes", "watched")]
    missed, downloads = document.get("missed"), document.get("downloads")
    return (
        numbers.keys() >= _NUMBERS
        and all(isinstance(each, dict) and len(numbers_in(each)) == len(each) <= _MOST_LABELS for each in counters)
        and isinstance(missed, dict)
        and all(type(times) is int and index.isprintable() for index, times in missed.items())
        and isinstance(downloads, list)
        and all(isinstance(row, dict) and row.keys() == _ROW and isinstance(row["index"], str) for row in downloads)
    )


def numbers_in(document: Any) -> dict[str, float]:
    """Return what of *document*, read from JSON, is a number under a name that can be a label."""
    if not isinstance(document, dict):
        return {}
    return {
        name: value
        for name, value in document.items()
        if type(value) in {int, float} and 0 <= value < _LARGEST and _LABEL.fullmatch(str(name))
    }


class Sharing:
    """The counts of a server's workers, each in a file of its own that the others read.

    The server is named by *run*, so that two on one store do not mix. No *folder* shares nothing.
    """

    def __init__(self, folder: Path | None, run: str) -> None:
        self._folder = folder
        self.run = run
        self._own = None if folder is None else folder / f"{run}-{token_hex(4)}.json"

    @property
    def is_shared(self) -> bool:
        """Whether workers know of each other."""
        return self._folder is not None

    def write(self, document: dict[str, Any]) -> None:
        """Replace what this worker wrote before; a folder that cannot be written is no error."""
        if self._own is not None:
            with suppress(OSError):
                write_json(self._own, document)

    def read_all(self, own: dict[str, Any] | None = None) -> list[Any]:
        """Return what every worker wrote last; *own* replaces what this one did."""
        counted: list[Any] = [] if own is None else [own]
        paths = sorted(self._folder.glob(f"{self.run}-*.json")) if self._folder is not None else []
        return counted + [read_json(path) for path in paths if own is None or path != self._own]

    def sweep(self, *, older_than_s: float) -> None:
        if self._folder is None:
            return
        with OwnFolder(self._folder.parents[1], self._folder.name) as own:
            for name in own.names():
                with suppress(OSError):
                    if _SWEPT.fullmatch(name) and time.time() - own.changed_s(name) > older_than_s:
                        own.remove(name)


class Replicas:
    """The counts of the replicas of a server, each by the name of its run, as they share them through a cluster.

    Workers of one server have one name, and what they share is the same for each; where they share no folder, each has
    a name of its own behind that. *others* is what the others counted, as last read; nothing while the cluster is away.
    """

    def __init__(self, cluster: Cluster | None, sharing: Sharing) -> None:
        self._cluster = cluster
        self._name = sharing.run if sharing.is_shared else f"{sharing.run}.{token_hex(4)}"
        self._others: dict[str, Any] = {}

    @property
    def state(self) -> str:
        """``up``, ``away``, or ``none`` if there is no cluster."""
        return "none" if self._cluster is None else "up" if self._cluster.is_up else "away"

    @property
    def others(self) -> list[Any]:
        return list(self._others.values())

    @property
    def count(self) -> int:
        """How many replicas there are, this one included."""
        return len({name.partition(".")[0] for name in (self._name, *self._others)})

    async def share(self, totals: Metrics) -> None:
        """Tell the others what this replica counted, and read what they did."""
        if self._cluster is None:
            return
        await self._cluster.write_counts(self._name, totals.as_shared())
        read = await self._cluster.read_counts()
        # The database drops what is old; the clocks of machines need not agree.
        now_s = time.time()
        self._others = {
            name: {**document, "written_s": now_s}
            for name, document in read.items()
            if name != self._name and _is_counted(document)
        }

    async def run(self, count: Callable[[], Metrics]) -> None:
        while self._cluster is not None:
            await self.share(count())
            await anyio.sleep(_SHARE_REPLICAS_EVERY_S)


def write_json(path: Path, document: object) -> None:
    """Replace the file at *path*, so that a reader finds the old document or the new one; `OSError` if that fails."""
    make_own_folders(path.parent)
    # Under a name that nobody knows before: another user of the store could have put a link there.
    scratch = path.with_name(f"{path.stem}-{token_hex(8)}.new")
    try:
        with open(make_file(scratch, os.O_WRONLY), "w", encoding="utf-8") as file:  # noqa: PTH123 - a descriptor
            json.dump(document, file)
        scratch.replace(path)
    except BaseException:
        drop(scratch)
        raise


def read_json(path: Path) -> Any:
    """Return the document at *path*, which any user of the store may have written; None if there is none to be read."""
    with suppress(OSError, ValueError, RecursionError), open(open_plain(path), "rb") as file:  # noqa: PTH123
        return json.loads(file.read(_LONGEST_DOCUMENT))
    return None


_FLUSH_EVERY_S = 0.5
_FLUSH_AT_LINES = 500


class RequestLog:
    """Counts each request that was answered, and writes the access log.

    Several processes may append to one file, as each batch is one write. *path* is ``-`` for standard error, empty for
    none; it is opened for each batch, so it can be rotated.
    """

    def __init__(self, metrics: Metrics, proxies: Proxies, path: str) -> None:
        self.metrics = metrics
        self._proxies = proxies
        self._path = path
        self._lines: list[str] = []

    def record(
        self, began_s: float, client: tuple[str, int] | None, asked: Head | Request, status: int, sent: int, kind: str
    ) -> None:
        """Count and log one request, which arrived at that monotonic time and whose body had *sent* bytes.

        Neither its query nor its headers but the user agent are logged, as they may hold secrets.
        """
        metrics = self.metrics
        metrics.answers[kind] += 1
        metrics.statuses[status] += 1
        metrics.sent_bytes += sent
        if not self._path:
            return
        entry = {
            "time": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "client": self._proxies.client_of(client[0] if client else "", asked.headers),
            "method": asked.method,
            "path": asked.raw_path.decode("ascii", "replace")[:2048],
            "status": status,
            "bytes": sent,
            "seconds": round(time.monotonic() - began_s, 6),
            "answer": kind,
            "agent": asked.headers.get(b"user-agent", b"").decode("latin-1")[:200],
        }
        self._lines.append(json.dumps(entry))
        if len(self._lines) >= _FLUSH_AT_LINES:
            self.flush()

    async def run(self) -> None:
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
            with open(self._path, "ab", buffering=0, opener=partial(os.open, mode=0o640)) as file:
                file.write(data)


def format_metrics(totals: Metrics, store: Mapping[str, Any], replicas: Replicas | None = None) -> str:
    """Return *totals* of all workers, and the store as last measured, in the text format, version 0.0.4."""
    lines: list[str] = []

    def add(name: str, kind: str, text: str, samples: Mapping[str, float]) -> None:
        lines.extend([f"# HELP {name} {text}", f"# TYPE {name} {kind}"])
        lines.extend(f"{name}{suffix} {value}" for suffix, value in samples.items())

    def add_counts(name: str, text: str, label: str, counts: Mapping[Any, int]) -> None:
        add(name, "counter", text, {f'{{{label}="{value}"}}': counts[value] for value in sorted(counts)})

    add_counts("symcache_requests_total", "Requests by kind of answer.", "answer", totals.answers)
    add_counts("symcache_responses_total", "Requests by status.", "code", totals.statuses)
    add("symcache_sent_bytes_total", "counter", "Lengths of bodies sent.", {"": totals.sent_bytes})
    add_counts("symcache_upstream_fetches_total", "Fetches from upstreams by result.", "end", totals.fetches)
    add("symcache_upstream_bytes_total", "counter", "Lengths of files fetched.", {"": totals.fetched_bytes})
    so_far = 0
    histogram: dict[str, float] = {}
    for bound in _BUCKETS_S:
        so_far += totals.fetch_classes[bound]
        histogram[f'_bucket{{le="{bound}"}}'] = so_far
    histogram |= {"_sum": round(totals.fetch_s, 6), "_count": so_far}
    text = "Time from asking upstreams to the file or a definite no."
    add("symcache_upstream_seconds", "histogram", text, histogram)
    text = "Dumps and logs of watched folders by result; each try counts."
    add_counts("symcache_watch_files_total", text, "end", totals.watched)
    add("symcache_requests_in_flight", "gauge", "Requests being answered.", {"": totals.requests})
    add("symcache_transfers_in_flight", "gauge", "Bodies being sent.", {"": totals.transfers})
    add("symcache_upstream_in_flight", "gauge", "Files being downloaded from upstreams.", {"": totals.flights})
    add("symcache_workers", "gauge", "Worker processes.", {"": totals.workers})
    if replicas is not None and replicas.state != "none":
        add("symcache_cluster_up", "gauge", "Whether replicas share what they know.", {"": int(replicas.state == "up")})
        add("symcache_replicas", "gauge", "Replicas that do, this one included.", {"": replicas.count})
    for unit, text in {"bytes": "Length of all files.", "files": "Files.", "keys": "Keys."}.items():
        if unit in store:
            add(f"symcache_store_{unit}", "gauge", f"In the store: {text}", {"": store[unit]})
    return "\n".join([*lines, ""])
