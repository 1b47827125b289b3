"""The status page, the data that it loads, metrics; and requests with a body: inputs to warm from, files to publish."""

from __future__ import annotations

import json
import logging
import queue
import re
import tempfile
import time
from contextlib import suppress
from functools import partial
from importlib import resources
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from symcache._version import __version__
from symcache.errors import InputError, SymcacheError
from symcache.events import Planned, Settled
from symcache.identity import fold, parse_index
from symcache.server.metrics import format_metrics, sum_up
from symcache.server.request import ClientDisconnected
from symcache.server.symbols import FileAsked
from symcache.stores.base import Form
from symcache.stores.check import check_file
from symcache.stores.negative import MissingFiles
from symcache.symstore.admin import Addition, Admin
from symcache.upkeep.inventory import list_files
from symcache.warm.local import LocalRun
from symcache.warm.plan import ImageChoice, Plan
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from symcache.config import Config, Serve
    from symcache.events import Event
    from symcache.identity import Key
    from symcache.server.app import Gate
    from symcache.server.downloads import Downloads
    from symcache.server.maintenance import Maintenance
    from symcache.server.metrics import Metrics, Sharing
    from symcache.server.request import Request
    from symcache.server.symbols import Asked
    from symcache.stores.local.tree import Store
    from symcache.stores.source import SymbolSource

_MOST = 100
_MOST_LOOKED_FOR = 1000
_LONGEST_S = 5.0
_GUID = re.compile(r"\{?[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\}?")

_log = logging.getLogger("symcache.serve")


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
    given = (
        word.strip("{}").replace("-", "") if _GUID.fullmatch(word) else word
        for word in fold(text).replace("\\", "/").split()
    )
    words = [word for part in given for word in part.split("/") if word]
    if not words:
        return {"files": [], "missing": [], "is_complete": True}

    def has_all(index: str) -> bool:
        folded = fold(index)
        return all(word in folded for word in words)

    end_s = time.monotonic() + _LONGEST_S
    files: list[dict[str, Any]] = []
    is_complete = True
    for name, id_, folder in store.key_folders() if store is not None else ():
        index = f"{name}/{id_}/{name}"
        if has_all(index):
            size_bytes = max((file.size_bytes for file in list_files(folder, name)), default=None)
            if size_bytes is not None:
                files.append({"index": index, "bytes": size_bytes})
        if len(files) >= _MOST or time.monotonic() > end_s:
            is_complete = False
            break
    fitting = islice((row for row in missed if has_all(row["index"])), _MOST_LOOKED_FOR)
    missing = list(islice(filter(is_missing, fitting), _MOST))
    return {"files": files, "missing": missing, "is_complete": is_complete}


_SHOWN_MISSING = 50
_READ_MISSES = 100_000
_MISSES_FRESH_S = 60.0
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
    """Answers requests for everything but files of the store."""

    def __init__(
        self,
        source: SymbolSource,
        settings: Serve,
        downloads: Downloads,
        metrics: Metrics,
        sharing: Sharing,
        maintenance: Maintenance,
    ) -> None:
        self._source = source
        self._settings = settings
        self._lacking = MissingFiles(source)
        self._downloads = downloads
        self._metrics = metrics
        self._sharing = sharing
        self._maintenance = maintenance
        self._remembered: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})
        self._warming = 0
        folder = resources.files("symcache.server") / "static"
        self._static = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _STATIC.items()}

    async def answer(self, request: Request) -> bool:
        """Answer *request* if it asks for one of these; return whether it was answered."""
        path = request.raw_path
        if path == b"/-/warm" and request.method == "POST":
            request.kind = "page"
            await self._warm(request)
            return True
        if request.method not in {"GET", "HEAD"}:
            return False
        if path in self._static:
            body, kind = self._static[path]
        elif path == b"/metrics":
            body = format_metrics(self._totals(), self._maintenance.store).encode()
            kind = b"text/plain; version=0.0.4; charset=utf-8"
        elif path == b"/-/status":
            told = await self._tell(brief=request.scope.get("query_string") == b"brief")
            body, kind = json.dumps(told).encode(), b"application/json"
        elif path == b"/-/search":
            text, missed = request.query("q")[:300], await self._missed()
            found = await to_thread.run_sync(search, self._source.store, text, missed, self._is_missing)
            body, kind = json.dumps(found).encode(), b"application/json"
        else:
            return False
        request.kind = "page"
        await request.send_whole(200, kind, body, _SAFE)
        return True

    def own_counts(self) -> dict[str, Any]:
        return self._metrics.as_json(self._downloads.as_json())

    def _totals(self) -> Metrics:
        return sum_up(self._sharing.read_all(self.own_counts()))

    async def _tell(self, *, brief: bool) -> dict[str, Any]:
        """Return the status; *brief* leaves out ``samples`` and ``missing``, which are long and change slowly."""
        totals = self._totals()
        past: dict[str, Any] = {}
        if not brief:
            likely = (await self._missed())[:_MOST_LOOKED_FOR]
            shown = await to_thread.run_sync(lambda: list(islice(filter(self._is_missing, likely), _SHOWN_MISSING)))
            past = {"samples": self._maintenance.samples(totals), "missing": shown}
        return {
            **past,
            "version": __version__,
            "up_s": time.time() - totals.began_s,
            "workers": totals.workers,
            "requests": totals.requests,
            "transfers": totals.transfers,
            "answers": totals.answers,
            "sent_bytes": totals.sent_bytes,
            "fetched_bytes": totals.fetched_bytes,
            "store": self._maintenance.store,
            "downloads": totals.downloads,
            "can_warm": self._settings.warm_from_page,
        }

    async def _missed(self) -> list[dict[str, Any]]:
        """Return what was asked for and no server has, most requested first: ``index``, ``times``, ``since_s``.

        A store may have some of them by now; see `_is_missing`.
        """
        remembered = await to_thread.run_sync(self._remember)
        rows = {folded: dict(row) for folded, row in remembered.items()}
        for index, times in self._totals().missed.items():
            row = rows.setdefault(fold(index), {"index": index, "times": 0, "since_s": self._since(index)})
            row["times"] = max(times, row["times"])
        return sorted(rows.values(), key=lambda row: (-row["times"], row["index"]))

    def _is_missing(self, row: Mapping[str, Any]) -> bool:
        """Return whether no place on disk has a row of `_missed`; it blocks, so ask it only of rows to be shown."""
        try:
            return not self._lacking.is_held(parse_index(row["index"]))
        except InputError:
            return False

    def _remember(self) -> dict[str, dict[str, Any]]:
        """Return remembered misses, those of earlier servers too.

        They are read once a minute, or less often if that takes long: 100,000 misses take a few seconds.
        """
        fresh_until_s, rows = self._remembered
        began_s = time.monotonic()
        if self._source.misses is None or (rows and began_s < fresh_until_s):
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

    async def _warm(self, request: Request) -> None:
        """Take the body of *request* as an input and answer with JSON lines: progress, then the report.

        The header ``X-Symcache`` is required: a page of another site cannot send it without a preflight request, which
        is never allowed.
        """
        largest = self._settings.largest_input_bytes
        too_long = f"longer than {largest} bytes; run symcache warm where the file is"
        if not self._settings.warm_from_page:
            await request.send_text(404, "not found", _CLOSE)
        elif b"x-symcache" not in request.headers:
            await request.send_text(400, "send the header X-Symcache", _CLOSE)
        elif self._warming >= _WARM_AT_ONCE:
            busy = "others are warming now; try again soon"
            await request.send_text(503, busy, (b"retry-after", b"10"), _CLOSE)
        else:
            self._warming += 1
            try:
                with tempfile.TemporaryDirectory(prefix="symcache-") as folder:
                    path = Path(folder) / "input"
                    if await _receive_body(request, path, largest, too_long):
                        await _warm_from(request, path, self._source)
            finally:
                self._warming -= 1


_BLOCK_BYTES = 1 << 20
_CLOSE = (b"connection", b"close")


async def _receive_body(request: Request, path: Path, largest_bytes: int, too_long: str) -> bool:
    """Write the request's body to *path*; return whether it is complete. One that is too long is answered with 413."""
    announced = request.headers.get(b"content-length", b"0")
    received = int(announced) if announced.isdigit() else 0
    if received <= largest_bytes:
        received = 0
        with path.open("xb", buffering=_BLOCK_BYTES) as file, suppress(ClientDisconnected):
            async for piece in request.body():
                received += file.write(piece)
                if received > largest_bytes:
                    break
            else:
                return True
    if received > largest_bytes:
        await request.send_text(413, too_long, _CLOSE)
    return False


async def publish(request: Request, asked: Asked, store: Store | None, gate: Gate, config: Config) -> None:
    """Publish the body of *request* under the key of its path: verified, and filed as a transaction of *store*.

    The query may name ``product``, ``version`` and ``comment`` of the transaction.
    """
    if not config.serve.upload_tokens:
        await request.send_text(405, "publishing is off", (b"allow", b"GET, HEAD"), _CLOSE)
    elif not gate.may_upload(request.headers):
        await request.send_text(401, "a token for publishing is needed", (b"www-authenticate", b"Bearer"), _CLOSE)
    elif not isinstance(asked, FileAsked) or asked.form is not Form.PLAIN:
        await request.send_text(400, "PUT /name/id/name with the plain file", _CLOSE)
    elif store is None:
        await request.send_text(503, "there is no store that can be written", _CLOSE)
    else:
        await _take(request, asked.key, store, config.network.largest_file_bytes)


async def _take(request: Request, key: Key, store: Store, largest_bytes: int) -> None:
    scratch: Path | None = None
    try:
        scratch = await to_thread.run_sync(store.scratch)
        if not await _receive_body(request, scratch, largest_bytes, "longer than network.largest_file_bytes"):
            return
        verdict = await to_thread.run_sync(check_file, scratch, key)
        if verdict.problem is not None:
            await request.send_text(422, f"not what the path names: {verdict.problem}")
            return
        product, version, comment = (request.query(name)[:200] for name in ("product", "version", "comment"))
        add = partial(Admin(store).add, product=product or "upload", version=version, comment=comment)
        transaction = await to_thread.run_sync(add, [Addition(key, scratch)])
        _log.info("%s: published by upload, transaction %010d", key.index, transaction.id)
        body = json.dumps({"index": key.index, "transaction": transaction.id}).encode() + b"\n"
        await request.send_whole(201, b"application/json", body)
    except (SymcacheError, OSError) as error:
        _log.warning("publishing %s: %s", key.index, error)
        await request.send_text(503, f"cannot be published: {error}", _CLOSE)
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


_WARM_AT_ONCE = 2
_LOOK_EVERY_S = 0.1
_LINES = [
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]


async def _warm_from(request: Request, path: Path, source: SymbolSource) -> None:
    wanted = request.query("images", "auto")
    images = ImageChoice(wanted) if wanted in set(ImageChoice) else ImageChoice.AUTO
    events: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

    def observe(event: Event) -> None:
        match event:
            case Planned(wanted):
                events.put({"event": "planned", "wanted": wanted})
            case Settled(index, state):
                events.put({"event": "settled", "index": index, "state": state})
            case _:
                pass

    async def work() -> None:
        try:
            with LocalRun(source, Plan(images=images), observer=observe) as run:
                report = await Warmer(source, run).warm(run.open_inputs([path]))
                events.put({"event": "report", "report": _without_paths(report.as_json())})
        except (SymcacheError, OSError) as error:
            _log.warning("warming from the page: %s", error)
            events.put({"event": "failed", "text": str(error).replace(str(path), "input")})
        finally:
            events.put(None)

    await request.start(200, _LINES)
    async with anyio.create_task_group() as group:
        group.start_soon(work)
        while not request.is_gone:
            told = [events.get_nowait() for _ in range(events.qsize())]
            lines = [json.dumps(event) + "\n" for event in told if event is not None]
            if lines:
                await request.send("".join(lines).encode(), more=True)
            if None in told:
                break
            await anyio.sleep(_LOOK_EVERY_S)
        await request.send()
        group.cancel_scope.cancel()


def _without_paths(report: dict[str, Any]) -> dict[str, Any]:
    """Leave out paths of this machine, which clients must not learn."""
    report["store"] = report["symbol_path"] = None
    for symbol in report["symbols"]:
        symbol["path"] = None
        symbol["attempts"] = [each for each in symbol["attempts"] if "://" in each["upstream"]]
    for item in report["unreadable"]:
        item["path"] = "input"
    return report
