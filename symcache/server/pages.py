"""The status page, the data that it loads, and the metrics for Prometheus."""

from __future__ import annotations

import json
import re
import time
from importlib import resources
from itertools import islice
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from symcache._version import __version__
from symcache.errors import InputError
from symcache.identity import fold, parse_index
from symcache.server.files import header_list
from symcache.server.metrics import format_metrics, sum_up
from symcache.stores.negative import MissingFiles
from symcache.upkeep.inventory import list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from symcache.server.downloads import Downloads
    from symcache.server.maintenance import Maintenance
    from symcache.server.metrics import Metrics, Sharing, Totals
    from symcache.server.request import Request
    from symcache.server.uploads import PageWarmer
    from symcache.stores.local.tree import Store
    from symcache.stores.source import SymbolSource

__all__ = ["Pages", "Status", "search"]

_MOST = 100
_MOST_LOOKED_FOR = 1000
_LONGEST_S = 5.0
_GUID = re.compile(r"\{?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}?")


def search(
    store: Store | None,
    text: str,
    missed: Sequence[dict[str, Any]],
    is_missing: Callable[[Mapping[str, Any]], bool] = lambda _: True,
) -> dict[str, Any]:
    """Return ``files`` of *store* and rows of *missed* whose index has every word of *text*, and ``is_complete``.

    *is_missing* tells whether a row is still true: no store has the file. A GUID may be written with braces and
    hyphens. The search ends after a hundred files, or a few seconds.

    Raises:
        StoreError: The store cannot be read.
    """
    words = [
        word for part in fold(text).replace("\\", "/").split() for word in _without_hyphens(part).split("/") if word
    ]
    if not words:
        return {"files": [], "missing": [], "is_complete": True}
    end_s = time.monotonic() + _LONGEST_S
    files: list[dict[str, Any]] = []
    is_complete = True
    for name, id_, folder in store.key_folders() if store is not None else ():
        index = f"{name}/{id_}/{name}"
        if _has(index, words):
            size_bytes = max((file.size_bytes for file in list_files(folder, name)), default=None)
            if size_bytes is not None:
                files.append({"index": index, "bytes": size_bytes})
        if len(files) >= _MOST or time.monotonic() > end_s:
            is_complete = False
            break
    fitting = islice((row for row in missed if _has(row["index"], words)), _MOST_LOOKED_FOR)
    return {
        "files": files,
        "missing": list(islice(filter(is_missing, fitting), _MOST)),
        "is_complete": is_complete,
    }


def _without_hyphens(word: str) -> str:
    return word.strip("{}").replace("-", "") if _GUID.fullmatch(word) else word


def _has(index: str, words: Sequence[str]) -> bool:
    folded = fold(index)
    return all(word in folded for word in words)


_SHOWN_MISSING = 50
_READ_MISSES = 100_000
_MISSES_FRESH_S = 60.0


class Status:
    """Collects the document of ``/-/status``.

    Args:
        source: Knows stores and misses.
        downloads: Of this worker.
        metrics: Of this worker.
        sharing: Those of the others.
        maintenance: Knows the store's size and the past.
        can_warm: Whether the page may take inputs.
    """

    def __init__(
        self,
        source: SymbolSource,
        downloads: Downloads,
        metrics: Metrics,
        sharing: Sharing,
        maintenance: Maintenance,
        *,
        can_warm: bool,
    ) -> None:
        self._source = source
        self._lacking = MissingFiles(source)
        self._downloads = downloads
        self._metrics = metrics
        self._sharing = sharing
        self._maintenance = maintenance
        self._can_warm = can_warm
        self._began_s = time.time()
        self._remembered: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})

    def own(self) -> dict[str, Any]:
        """Return what this worker shares with the others."""
        return self._metrics.as_json(self._downloads.as_json(), began_s=self._began_s)

    def totals(self) -> Totals:
        """Return what all workers counted."""
        return sum_up(self._sharing.read_all(self.own()), now_s=time.time())

    def store(self) -> Mapping[str, Any]:
        """Return ``bytes``, ``files`` and ``keys`` of the store, as last measured."""
        return self._maintenance.store

    async def missed(self) -> list[dict[str, Any]]:
        """Return what was asked for and no server has, most requested first: ``index``, ``times``, ``since_s``.

        A store may have some of them by now; see `is_missing`.
        """
        remembered = await to_thread.run_sync(self._remember)
        rows = {folded: dict(row) for folded, row in remembered.items()}
        for index, times in self.totals().missed.items():
            row = rows.setdefault(fold(index), {"index": index, "times": 0, "since_s": self._since(index)})
            row["times"] = max(times, row["times"])
        return sorted(rows.values(), key=lambda row: (-row["times"], row["index"]))

    def is_missing(self, row: Mapping[str, Any]) -> bool:
        """Return whether no place on disk has a row of `missed`; it blocks, so ask it only of rows to be shown."""
        try:
            return not self._lacking.is_held(parse_index(row["index"]))
        except InputError:
            return False

    async def document(self, *, brief: bool = False) -> dict[str, Any]:
        """Return everything; *brief* leaves out ``samples`` and ``missing``, which are long and change slowly."""
        totals = self.totals()
        now_s = time.time()
        past: dict[str, Any] = {}
        if not brief:
            missed = await self.missed()
            likely = missed[:_MOST_LOOKED_FOR]
            shown = await to_thread.run_sync(lambda: list(islice(filter(self.is_missing, likely), _SHOWN_MISSING)))
            past = {"samples": self._maintenance.samples(totals), "missing": shown}
        return {
            **past,
            "version": __version__,
            "up_s": now_s - min(totals.began_s, self._began_s),
            "workers": totals.workers,
            "requests": totals.requests,
            "transfers": totals.transfers,
            "answers": dict(totals.answers),
            "sent_bytes": totals.sent_bytes,
            "fetched_bytes": totals.fetched_bytes,
            "store": self.store(),
            "downloads": totals.downloads,
            "can_warm": self._can_warm,
        }

    def _remember(self) -> dict[str, dict[str, Any]]:
        """Return remembered misses, those of earlier servers too.

        They are read once a minute, or less often if that takes long: 100,000 misses take a few seconds.
        """
        fresh_until_s, rows = self._remembered
        misses = self._source.misses
        began_s = time.monotonic()
        if misses is None or (rows and began_s < fresh_until_s):
            return rows
        rows = {}
        for group in islice(self._lacking.denied(), _READ_MISSES):
            rows[fold(group[0].index)] = {
                "index": group[0].index,
                "times": max(miss.times for miss in group),
                "since_s": min(miss.first_asked_s for miss in group),
            }
        now_s = time.monotonic()
        self._remembered = (now_s + max(_MISSES_FRESH_S, 20 * (now_s - began_s)), rows)
        return rows

    def _since(self, index: str) -> float | None:
        misses = self._source.misses
        try:
            key = parse_index(index)
        except InputError:
            return None
        known = [misses.recall(server.name, key) for server in self._source.servers] if misses is not None else []
        return min((miss.first_asked_s for miss in known if miss is not None), default=None)


_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_SAFE = (
    (b"content-security-policy", _POLICY),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
)
_STATIC = {
    b"/": ("page.html", b"text/html; charset=utf-8"),
    b"/-/page.css": ("page.css", b"text/css; charset=utf-8"),
    b"/-/page.js": ("page.js", b"text/javascript; charset=utf-8"),
}


class Pages:
    """Answers requests for everything but files of the store.

    Args:
        source: Whose files are searched.
        status: What the server does.
        warmer: Fetches what an input needs.
    """

    def __init__(self, source: SymbolSource, status: Status, warmer: PageWarmer) -> None:
        self._source = source
        self._status = status
        self._warmer = warmer
        folder = resources.files("symcache.server") / "static"
        self._static = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _STATIC.items()}

    async def answer(self, request: Request) -> bool:
        """Answer *request* if it asks for one of these; return whether it was answered."""
        path = request.raw_path
        if path == b"/-/warm" and request.method == "POST":
            request.kind = "page"
            await self._warmer.answer(request)
            return True
        if request.method not in {"GET", "HEAD"}:
            return False
        if path in self._static:
            await self._send(request, *self._static[path])
        elif path == b"/metrics":
            totals, store = self._status.totals(), self._status.store()
            text = format_metrics(totals, store)
            await self._send(request, text.encode(), b"text/plain; version=0.0.4; charset=utf-8")
        elif path == b"/-/status":
            brief = request.scope.get("query_string") == b"brief"
            await self._send_json(request, await self._status.document(brief=brief))
        elif path == b"/-/search":
            await self._search(request)
        else:
            return False
        return True

    async def _search(self, request: Request) -> None:
        text = request.query("q")[:300]
        missed = await self._status.missed()
        found = await to_thread.run_sync(search, self._source.store, text, missed, self._status.is_missing)
        await self._send_json(request, found)

    async def _send_json(self, request: Request, document: dict[str, Any]) -> None:
        await self._send(request, json.dumps(document).encode(), b"application/json")

    async def _send(self, request: Request, body: bytes, kind: bytes) -> None:
        request.kind = "page"
        await request.start(200, header_list(kind, len(body), _SAFE))
        await request.send(b"" if request.method == "HEAD" else body)
