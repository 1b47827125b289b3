"""Requests with a body: a file to publish (``PUT``), an input to warm from (``POST`` by the page)."""

from __future__ import annotations

import json
import logging
import queue
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from symcache.errors import StoreError, SymcacheError
from symcache.events import Planned, Settled
from symcache.server.files import header_list
from symcache.server.request import ClientDisconnected, FileAsked
from symcache.stores.check import check_file
from symcache.stores.local.tree import Form
from symcache.symstore.admin import Addition, Admin
from symcache.warm.local import LocalRun
from symcache.warm.plan import ImageChoice, Plan
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from symcache.config import Config, Serve
    from symcache.events import Event
    from symcache.identity import Key
    from symcache.server.auth import Gate
    from symcache.server.request import Asked, Request
    from symcache.stores.local.tree import Store
    from symcache.stores.source import SymbolSource

__all__ = ["PageWarmer", "Publisher"]

_BLOCK_BYTES = 1 << 20
_CLOSE = (b"connection", b"close")

_log = logging.getLogger("symcache.serve")


async def _receive_body(request: Request, path: Path, largest_bytes: int, too_long: str) -> bool:
    """Write the request's body to *path*; return whether it is complete. One that is too long is answered with 413."""
    announced = request.headers.get(b"content-length", b"0")
    received = int(announced) if announced.isdigit() else 0
    if received <= largest_bytes:
        received = 0
        with path.open("xb", buffering=_BLOCK_BYTES) as file:
            try:
                async for piece in request.body():
                    received += file.write(piece)
                    if received > largest_bytes:
                        break
            except ClientDisconnected:
                return False
    if received > largest_bytes:
        await request.send_text(413, too_long, [_CLOSE])
        return False
    return True


class Publisher:
    """Publishes files that builds send: verified and filed as a transaction, as symstore would.

    Args:
        source: Its first store takes them.
        config: Every setting.
        gate: Knows which clients may publish.
    """

    def __init__(self, source: SymbolSource, config: Config, gate: Gate) -> None:
        self._store = source.store
        self._config = config
        self._gate = gate

    async def answer(self, request: Request, asked: Asked) -> None:
        """Publish the body of *request* under the key of its path.

        The query may name ``product``, ``version`` and ``comment`` of the transaction.
        """
        if not self._config.serve.upload_tokens:
            await request.send_text(405, "publishing is off", [(b"allow", b"GET, HEAD"), _CLOSE])
        elif not self._gate.may_upload(request.headers):
            await request.send_text(401, "a token for publishing is needed", [(b"www-authenticate", b"Bearer"), _CLOSE])
        elif not isinstance(asked, FileAsked) or asked.form is not Form.PLAIN:
            await request.send_text(400, "PUT /name/id/name with the plain file", [_CLOSE])
        elif self._store is None:
            await request.send_text(503, "there is no store that can be written", [_CLOSE])
        else:
            await self._take(request, asked.key, self._store)

    async def _take(self, request: Request, key: Key, store: Store) -> None:
        try:
            scratch = await to_thread.run_sync(store.scratch)
        except StoreError as error:
            await request.send_text(503, str(error), [_CLOSE])
            return
        largest = self._config.network.largest_file_bytes
        try:
            if not await _receive_body(request, scratch, largest, "longer than network.largest_file_bytes"):
                return
            verdict = await to_thread.run_sync(check_file, scratch, key)
            if verdict.problem is not None:
                await request.send_text(422, f"not what the path names: {verdict.problem}")
                return
            body = await to_thread.run_sync(self._publish, request, key, scratch, store)
            await request.start(201, header_list(b"application/json", len(body)))
            await request.send(body)
        except (SymcacheError, OSError) as error:
            _log.warning("publishing %s: %s", key.index, error)
            await request.send_text(503, f"cannot be published: {error}", [_CLOSE])
        finally:
            scratch.unlink(missing_ok=True)

    def _publish(self, request: Request, key: Key, scratch: Path, store: Store) -> bytes:
        product, version, comment = (request.query(name)[:200] for name in ("product", "version", "comment"))
        transaction = Admin(store).add(
            [Addition(key, scratch)], product=product or "upload", version=version, comment=comment
        )
        _log.info("%s: published by upload, transaction %010d", key.index, transaction.id)
        return json.dumps({"index": key.index, "transaction": transaction.id}).encode() + b"\n"


_WARM_AT_ONCE = 2
_LOOK_EVERY_S = 0.1
_LINES = [
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]


class PageWarmer:
    """Fetches what an input needs that is sent to the page.

    Args:
        source: Where symbols come from and go to.
        settings: ``[serve]``.
    """

    def __init__(self, source: SymbolSource, settings: Serve) -> None:
        self._source = source
        self._settings = settings
        self._running = 0

    async def answer(self, request: Request) -> None:
        """Take the body of *request* as an input and answer with JSON lines: progress, then the report.

        The header ``X-Symcache`` is required: a page of another site cannot send it without a preflight request, which
        is never allowed.
        """
        largest = self._settings.largest_input_bytes
        too_long = f"longer than {largest} bytes; run symcache warm where the file is"
        if not self._settings.warm_from_page:
            await request.send_text(404, "not found", [_CLOSE])
        elif b"x-symcache" not in request.headers:
            await request.send_text(400, "send the header X-Symcache", [_CLOSE])
        elif self._running >= _WARM_AT_ONCE:
            busy = "others are warming now; try again soon"
            await request.send_text(503, busy, [(b"retry-after", b"10"), _CLOSE])
        else:
            self._running += 1
            try:
                with tempfile.TemporaryDirectory(prefix="symcache-") as folder:
                    path = Path(folder) / "input"
                    if await _receive_body(request, path, largest, too_long):
                        await self._warm(request, path)
            finally:
                self._running -= 1

    async def _warm(self, request: Request, path: Path) -> None:
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
                with LocalRun(self._source, Plan(images=images), observer=observe) as run:
                    report = await Warmer(self._source, run).warm(run.open_inputs([path]))
                    events.put({"event": "report", "report": _without_paths(report.as_json())})
            except (SymcacheError, OSError) as error:
                _log.warning("warming from the page: %s", error)
                events.put({"event": "failed", "text": str(error).replace(str(path), "input")})
            finally:
                events.put(None)

        await request.start(200, _LINES)
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await self._send_lines(request, events)
            group.cancel_scope.cancel()

    async def _send_lines(self, request: Request, events: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        is_over = False
        while not is_over and not request.is_gone:
            lines: list[str] = []
            while not events.empty():
                event = events.get_nowait()
                if event is None:
                    is_over = True
                    break
                lines.append(json.dumps(event) + "\n")
            if lines:
                await request.send("".join(lines).encode(), more=True)
            if not is_over:
                await anyio.sleep(_LOOK_EVERY_S)
        await request.send(b"")


def _without_paths(report: dict[str, Any]) -> dict[str, Any]:
    """Leave out paths of this machine, which clients must not learn."""
    report["store"] = report["symbol_path"] = None
    for symbol in report["symbols"]:
        symbol["path"] = None
        symbol["attempts"] = [each for each in symbol["attempts"] if "://" in each["upstream"]]
    for item in report["unreadable"]:
        item["path"] = "input"
    return report
