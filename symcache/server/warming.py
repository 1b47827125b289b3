"""Warming from the page: an input is sent, and what becomes of it comes back line by line."""

from __future__ import annotations

import json
import logging
import queue
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

import anyio

from symcache.errors import SymcacheError
from symcache.events import Planned, Settled
from symcache.server.protocol import ClientLeft
from symcache.warm.plan import ImageChoice, Plan
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from symcache.config import Serve
    from symcache.events import Event
    from symcache.server.protocol import Exchange
    from symcache.stores.source import SymbolSource

__all__ = ["Warming"]

_AT_ONCE = 2
_LOOK_EVERY_S = 0.1
_BLOCK_BYTES = 1 << 20
_HEADERS = [
    (b"content-type", b"application/x-ndjson"),
    (b"cache-control", b"no-store"),
    (b"x-content-type-options", b"nosniff"),
    (b"x-accel-buffering", b"no"),
]
_CLOSE = (b"connection", b"close")

_log = logging.getLogger("symcache.serve")


class Warming:
    """Fetches what an input needs.

    Args:
        source: Where symbols come from and go to.
        settings: ``[serve]``.
    """

    def __init__(self, source: SymbolSource, settings: Serve) -> None:
        self._source = source
        self._settings = settings
        self._running = 0

    async def answer(self, exchange: Exchange) -> None:
        """Take the body of *exchange* as an input and answer with JSON lines: how it goes, then the report.

        The field ``X-Symcache`` must be there: a page of another site cannot send it without asking first, and is
        never allowed to.
        """
        if not self._settings.warm_from_page:
            await exchange.say(404, "not found", [_CLOSE])
        elif b"x-symcache" not in exchange.fields:
            await exchange.say(400, "send the field X-Symcache", [_CLOSE])
        elif self._running >= _AT_ONCE:
            await exchange.say(503, "others are warming just now; try again soon", [(b"retry-after", b"10"), _CLOSE])
        else:
            self._running += 1
            try:
                with tempfile.TemporaryDirectory(prefix="symcache-") as folder:
                    path = Path(folder) / "input"
                    if await self._receive(exchange, path):
                        await self._warm(exchange, path)
            finally:
                self._running -= 1

    async def _receive(self, exchange: Exchange, path: Path) -> bool:
        largest = self._settings.largest_input_bytes
        announced = exchange.fields.get(b"content-length", b"0")
        received = int(announced) if announced.isdigit() else 0
        if received <= largest:
            received = 0
            with path.open("xb", buffering=_BLOCK_BYTES) as file:
                try:
                    async for piece in exchange.body():
                        received += file.write(piece)
                        if received > largest:
                            break
                except ClientLeft:
                    return False
        if received > largest:
            await exchange.say(413, f"longer than {largest} bytes; run symcache warm where the file is", [_CLOSE])
            return False
        return True

    async def _warm(self, exchange: Exchange, path: Path) -> None:
        query = parse_qs(exchange.scope.get("query_string", b"").decode("latin-1"))
        asked = query.get("images", ["auto"])[-1]
        images = ImageChoice(asked) if asked in set(ImageChoice) else ImageChoice.AUTO
        said: queue.SimpleQueue[dict[str, Any] | None] = queue.SimpleQueue()

        def observe(event: Event) -> None:
            match event:
                case Planned(wanted):
                    said.put({"event": "planned", "wanted": wanted})
                case Settled(index, state):
                    said.put({"event": "settled", "index": index, "state": state})
                case _:
                    pass

        async def work() -> None:
            try:
                with Warmer(self._source, Plan(images=images), observer=observe) as warmer:
                    report = await warmer.warm(warmer.open_inputs([path]))
                    said.put({"event": "report", "report": _without_paths(report.as_json())})
            except (SymcacheError, OSError) as error:
                _log.warning("warming from the page: %s", error)
                said.put({"event": "failed", "text": str(error).replace(str(path), "input")})
            finally:
                said.put(None)

        await exchange.begin(200, _HEADERS)
        async with anyio.create_task_group() as group:
            group.start_soon(work)
            await self._pass_on(exchange, said)
            group.cancel_scope.cancel()

    async def _pass_on(self, exchange: Exchange, said: queue.SimpleQueue[dict[str, Any] | None]) -> None:
        is_over = False
        while not is_over and not exchange.is_gone:
            lines: list[str] = []
            while not said.empty():
                event = said.get_nowait()
                if event is None:
                    is_over = True
                    break
                lines.append(json.dumps(event) + "\n")
            if lines:
                await exchange.send("".join(lines).encode(), more=True)
            if not is_over:
                await anyio.sleep(_LOOK_EVERY_S)
        await exchange.send(b"")


def _without_paths(report: dict[str, Any]) -> dict[str, Any]:
    """Leave out where things lie on this machine, which is nobody's business elsewhere."""
    report["store"] = report["symbol_path"] = None
    for symbol in report["symbols"]:
        symbol["path"] = None
        symbol["attempts"] = [each for each in symbol["attempts"] if "://" in each["upstream"]]
    for item in report["unreadable"]:
        item["path"] = "input"
    return report
