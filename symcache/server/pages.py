"""The status page, the data that it loads, metrics; and requests with a body: inputs to warm from, files to publish."""

from __future__ import annotations

import json
import logging
import queue
import re
import tempfile
import time
from contextlib import suppress
from dataclasses import replace
from functools import partial
from importlib import resources
from itertools import islice, product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from symcache._version import __version__
from symcache.errors import InputError, StoreError, SymcacheError
from symcache.events import Planned, Settled
from symcache.identity import fold, parse_index
from symcache.reports.advice import advice, group_by_cause, in_order_of_trouble, made_by, why
from symcache.reports.files import SUFFIXES, report_text
from symcache.reports.readiness import readiness
from symcache.reports.text import summary
from symcache.server.metrics import format_metrics, sum_up
from symcache.server.request import ClientDisconnected
from symcache.server.symbols import FileAsked
from symcache.stores.base import Form
from symcache.stores.check import check_file
from symcache.stores.negative import MissingFiles
from symcache.stores.results import Cause, Failed, Fetched, Missing, Present
from symcache.symstore.admin import Addition, Admin
from symcache.upkeep.inventory import list_files
from symcache.warm.local import LocalRun
from symcache.warm.makers import symbol_of
from symcache.warm.plan import ImageChoice, Plan
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from symcache.config import Config, Inputs, Serve
    from symcache.events import Event
    from symcache.formats.pe.version import VersionInfo
    from symcache.identity import ImageKey, Key
    from symcache.server.app import Gate
    from symcache.server.downloads import Downloads
    from symcache.server.maintenance import Maintenance
    from symcache.server.metrics import Metrics, Replicas, Sharing
    from symcache.server.request import Request
    from symcache.server.symbols import Asked
    from symcache.stores.local.tree import Store
    from symcache.stores.negative import Miss
    from symcache.stores.source import SymbolSource
    from symcache.warm.report import Report, Symbol

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
_MOST_VERSIONS = 1000
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
        replicas: Replicas,
        maintenance: Maintenance,
    ) -> None:
        self._source = source
        self._settings = settings
        self._lacking = MissingFiles(source)
        self._downloads = downloads
        self._metrics = metrics
        self._sharing = sharing
        self._replicas = replicas
        self._maintenance = maintenance
        self._remembered: tuple[float, dict[str, dict[str, Any]]] = (0.0, {})
        self._versions: dict[ImageKey, VersionInfo] = {}
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
            body = format_metrics(self.totals(), self._maintenance.store, self._replicas).encode()
            kind = b"text/plain; version=0.0.4; charset=utf-8"
        elif path == b"/-/status":
            told = await self._tell(brief=request.scope.get("query_string") == b"brief")
            body, kind = json.dumps(told).encode(), b"application/json"
        elif path == b"/-/search":
            text, missed = request.query("q")[:300], await self._missed()
            found = await to_thread.run_sync(search, self._source.store, text, missed, self._is_missing)
            found["missing"] = await to_thread.run_sync(self._told, found["missing"])
            body, kind = json.dumps(found).encode(), b"application/json"
        else:
            return False
        request.kind = "page"
        await request.send_whole(200, kind, body, _SAFE)
        return True

    def own_counts(self) -> dict[str, Any]:
        return self._metrics.as_json(self._downloads.as_json())

    def totals(self) -> Metrics:
        """Return what all workers of this server counted."""
        return sum_up(self._sharing.read_all(self.own_counts()))

    async def _tell(self, *, brief: bool) -> dict[str, Any]:
        """Return the status; *brief* leaves out ``samples`` and ``missing``, which are long and change slowly."""
        own = self.totals()
        past: dict[str, Any] = {}
        if not brief:
            likely = (await self._missed())[:_MOST_LOOKED_FOR]
            shown = islice(filter(self._is_missing, likely), _SHOWN_MISSING)
            missing = await to_thread.run_sync(self._told, shown)
            past = {"samples": self._maintenance.samples(own), "missing": missing}
        totals = sum_up([own.as_shared(), *self._replicas.others])
        return {
            **past,
            "version": __version__,
            "up_s": time.time() - own.began_s,
            "replicas": self._replicas.count,
            "workers": totals.workers,
            "requests": totals.requests,
            "transfers": totals.transfers,
            "answers": totals.answers,
            "sent_bytes": totals.sent_bytes,
            "fetched_bytes": totals.fetched_bytes,
            "store": self._maintenance.store,
            "downloads": totals.downloads,
            "can_warm": self._settings.warm_from_page,
            "watched": own.watched if self._settings.watch else None,
        }

    async def _missed(self) -> list[dict[str, Any]]:
        """Return what was asked for and no server has, the most requested first.

        Rows have ``index``, ``times``, ``misses``, and ``image``, which names the file; None if no such one is known.
        A store may have some of the files by now; see `_is_missing`.
        """
        remembered = await to_thread.run_sync(self._remember)
        rows = {folded: dict(row) for folded, row in remembered.items()}
        for index, times in self.totals().missed.items():
            fresh = {"index": index, "times": 0, "misses": self._known(index), "image": None}
            row = rows.setdefault(fold(index), fresh)
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
                "misses": group,
            }
        images = self._lacking.images_that_name(rows)
        for folded, row in rows.items():
            row["image"] = images.get(folded)
        now_s = time.monotonic()
        self._remembered = (now_s + max(_MISSES_FRESH_S, 20 * (now_s - began_s)), rows)
        return rows

    def _known(self, index: str) -> tuple[Miss, ...]:
        misses = self._source.misses
        try:
            key = parse_index(index)
        except InputError:
            return ()
        known = [misses.recall(server.name, key) for server in self._source.servers] if misses is not None else []
        return tuple(miss for miss in known if miss is not None)

    def _told(self, rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Return *rows* of `_missed` as clients see them: which inputs wanted a file is not their business; it blocks.

        ``since_s`` is in seconds since 1970, None if that is not known.
        """
        told = []
        for row in rows:
            symbol = symbol_of(parse_index(row["index"]), row["misses"], row["image"], self._find_version)
            told.append(
                {
                    "index": row["index"],
                    "times": row["times"],
                    "since_s": min((miss.first_asked_s for miss in row["misses"]), default=None),
                    "maker": made_by(symbol),
                    "cause": symbol.cause,
                    "advice": advice(symbol),
                }
            )
        return told

    def _find_version(self, image: ImageKey) -> VersionInfo | None:
        """Return what a store's image says of its origin, which is read once: it may lie there packed."""
        known = self._versions.get(image) or self._source.find_version(image)
        if known is not None:
            if len(self._versions) >= _MOST_VERSIONS:
                self._versions.clear()
            self._versions[image] = known
        return known

    async def _warm(self, request: Request) -> None:
        """Take the body of *request* as an input and answer with JSON lines: progress, then the report.

        The query may name ``forms`` of the report, suffixes without dots and with commas between them, which then
        follow, a line each: nothing of a run is left here when its answer ends, and nobody else can ask for it.

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


async def publish(request: Request, asked: Asked, source: SymbolSource, gate: Gate, config: Config) -> None:
    """Publish the body of *request* under the key of its path: verified, and filed as a transaction of the first store.

    Buckets get it, too. The query may name ``product``, ``version`` and ``comment`` of the transaction.
    """
    if not config.serve.upload_tokens:
        await request.send_text(405, "publishing is off", (b"allow", b"GET, HEAD"), _CLOSE)
    elif not gate.may_upload(request.headers):
        await request.send_text(401, "a token for publishing is needed", (b"www-authenticate", b"Bearer"), _CLOSE)
    elif not isinstance(asked, FileAsked) or asked.form is not Form.PLAIN:
        await request.send_text(400, "PUT /name/id/name with the plain file", _CLOSE)
    elif source.store is None:
        await request.send_text(503, "there is no store that can be written", _CLOSE)
    elif await _take(request, asked.key, source.store, config.network.largest_file_bytes):
        await source.bring_to_buckets(asked.key)


async def _take(request: Request, key: Key, store: Store, largest_bytes: int) -> bool:
    """Return whether the file was published."""
    scratch: Path | None = None
    try:
        scratch = await to_thread.run_sync(store.scratch)
        if not await _receive_body(request, scratch, largest_bytes, "longer than network.largest_file_bytes"):
            return False
        verdict = await to_thread.run_sync(check_file, scratch, key)
        if verdict.problem is not None:
            await request.send_text(422, f"not what the path names: {verdict.problem}")
            return False
        product, version, comment = (request.query(name)[:200] for name in ("product", "version", "comment"))
        add = partial(Admin(store).add, product=product or "upload", version=version, comment=comment)
        transaction = await to_thread.run_sync(add, [Addition(key, scratch)])
        _log.info("%s: published by upload, transaction %010d", key.index, transaction.id)
        body = json.dumps({"index": key.index, "transaction": transaction.id}).encode() + b"\n"
        await request.send_whole(201, b"application/json", body)
    except (SymcacheError, OSError) as error:
        _log.warning("publishing %s: %s", key.index, error)
        await request.send_text(503, f"cannot be published: {_without_place(error)}", _CLOSE)
        return False
    else:
        return True
    finally:
        if scratch is not None:
            scratch.unlink(missing_ok=True)


_WARM_AT_ONCE = 2
_LOOK_EVERY_S = 0.1
_LONGEST_FORM = 4_000_000  # characters
_LINES = [
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]


async def _warm_from(request: Request, path: Path, source: SymbolSource) -> None:
    wanted = request.query("images", "auto")
    images = ImageChoice(wanted) if wanted in set(ImageChoice) else ImageChoice.AUTO
    named = request.query("forms").split(",")
    forms = [suffix for suffix in SUFFIXES if suffix[1:] in named]
    reports: list[Report] = []  # one, if the run comes to its end
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
                records = run.open_inputs([path], limits=_limits(source.config), runs_programs=False)
                report = await Warmer(source, run, notes_inputs=False).warm(records)
                told = _without_paths(report, source, path)
                events.put({"event": "report", "report": _as_json(told)})
            reports.append(told)
        except (SymcacheError, OSError) as error:
            _log.warning("warming from the page: %s", error)
            events.put({"event": "failed", "text": _without_place(error).replace(str(path), "input")})
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
        for report, suffix in product(reports, forms):  # one at a time is in memory
            if request.is_gone:
                break
            text = await to_thread.run_sync(report_text, report, suffix)
            form = {"event": "form", "suffix": suffix, "text": text if len(text) <= _LONGEST_FORM else None}
            await request.send(json.dumps(form).encode() + b"\n", more=True)
        await request.send()
        group.cancel_scope.cancel()


def _limits(config: Config) -> Inputs:
    """Return how far an archive from the page is read."""
    most = min(config.inputs.largest_expanded_bytes, config.serve.largest_expanded_bytes)
    return replace(config.inputs, largest_expanded_bytes=most)


def _without_place(error: SymcacheError | OSError) -> str:
    """Return what *error* says, without the path of this machine that it is about."""
    if isinstance(error, StoreError):
        return error.problem
    return str(error) if isinstance(error, SymcacheError) else error.strerror or type(error).__name__


def _as_json(report: Report) -> dict[str, Any]:
    """Return ``symcache.report/1`` with files in trouble first, and what the other forms of a report say in words."""
    groups = group_by_cause(symbol for symbol in report.symbols if symbol.needs_attention)
    return {
        **report.as_json(),
        "symbols": [
            {**symbol.as_json(), "made_by": made_by(symbol), "why": why(symbol)}
            for symbol in in_order_of_trouble(report.symbols)
        ],
        "text": summary(report),
        "readiness": [str(each) for each in readiness(report)],
        "groups": [
            {
                "state": group.state,
                "title": group.title,
                "files": len(group.symbols),
                "advice": group.advice,
                "said": group.said,
                "servers": group.servers,
            }
            for group in groups
        ],
    }


def _without_paths(report: Report, source: SymbolSource, path: Path) -> Report:
    """Return the report of the input *path* without paths of this machine, which clients must not learn.

    Where a file lies its index says: below this server's address.
    """

    def public_path(text: str) -> str:
        within = text.removeprefix(str(path))
        return f"input{within}" if within != text and within.startswith("/") else "input"

    def told(symbol: Symbol) -> Symbol:
        outcome, origin = symbol.outcome, symbol.origin
        if not isinstance(outcome, Present):
            public = tuple(each for each in outcome.attempts if "://" in each.upstream)
            places = [each.upstream for each in outcome.attempts if each not in public]
            outcome = replace(outcome, attempts=public)
            if isinstance(outcome, Missing | Failed) and outcome.detail is not None:
                detail = outcome.detail
                for place in places:
                    detail = detail.replace(place, "the server's store")
                is_of_disk = outcome.cause is Cause.DISK
                outcome = replace(outcome, detail="the server's store cannot be written" if is_of_disk else detail)
        if isinstance(outcome, Present | Fetched):
            outcome = replace(outcome, path=Path(symbol.index or symbol.module))
        if origin is not None and origin.path is not None and str(path.parent) in origin.path:
            origin = replace(origin, path=None)
        return replace(symbol, outcome=outcome, origin=origin)

    return replace(
        report,
        symbol_path=";".join(f"srv*{server.name}" for server in source.servers),
        store=None,
        symbols=[told(symbol) for symbol in report.symbols],
        inputs=[replace(each, path=public_path(each.path)) for each in report.inputs],
        unreadable=[replace(each, path=public_path(each.path)) for each in report.unreadable],
    )
