"""The page for people with what it asks for, and the counts for machines."""

from __future__ import annotations

import json
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs

from anyio import to_thread

from symcache.server.answers import header_list
from symcache.server.prometheus import format_metrics
from symcache.server.search import search

if TYPE_CHECKING:
    from symcache.server.exchange import Exchange
    from symcache.server.status import Status
    from symcache.server.warming import Warming
    from symcache.upstream.source import SymbolSource

__all__ = ["Pages"]

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
    """Everything that is no file of a store.

    Args:
        source: Whose files are searched.
        status: What is going on.
        warming: Fetches what an input needs.
    """

    def __init__(self, source: SymbolSource, status: Status, warming: Warming) -> None:
        self._source = source
        self._status = status
        self._warming = warming
        folder = resources.files("symcache.server") / "static"
        self._static = {path: ((folder / name).read_bytes(), kind) for path, (name, kind) in _STATIC.items()}

    async def answer(self, exchange: Exchange) -> bool:
        """Answer *exchange* if it asks for one of these; return whether it did."""
        path = exchange.raw_path
        if path == b"/-/warm" and exchange.method == "POST":
            exchange.said = "page"
            await self._warming.answer(exchange)
            return True
        if exchange.method not in {"GET", "HEAD"}:
            return False
        if path in self._static:
            await self._send(exchange, *self._static[path])
        elif path == b"/metrics":
            totals, store = self._status.totals(), self._status.store()
            text = format_metrics(totals, store)
            await self._send(exchange, text.encode(), b"text/plain; version=0.0.4; charset=utf-8")
        elif path == b"/-/status":
            brief = exchange.scope.get("query_string") == b"brief"
            await self._send_json(exchange, await self._status.document(brief=brief))
        elif path == b"/-/search":
            await self._search(exchange)
        else:
            return False
        return True

    async def _search(self, exchange: Exchange) -> None:
        query = parse_qs(exchange.scope.get("query_string", b"").decode("latin-1"))
        text = query.get("q", [""])[0][:300]
        missed = await self._status.missed()
        found = await to_thread.run_sync(search, self._source.store, text, missed, self._status.is_missing)
        await self._send_json(exchange, found)

    async def _send_json(self, exchange: Exchange, document: dict[str, Any]) -> None:
        await self._send(exchange, json.dumps(document).encode(), b"application/json")

    async def _send(self, exchange: Exchange, body: bytes, kind: bytes) -> None:
        exchange.said = "page"
        await exchange.begin(200, header_list(kind, len(body), _SAFE))
        await exchange.send(b"" if exchange.method == "HEAD" else body)
