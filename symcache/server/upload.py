"""Publishing by ``PUT``: what a build brings, checked and filed as a transaction, as symstore would."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING
from urllib.parse import parse_qs

from anyio import to_thread

from symcache.errors import StoreError, SymcacheError
from symcache.server.answers import header_list
from symcache.server.protocol import ClientLeft
from symcache.server.request import FileAsked
from symcache.stores.check import check_file
from symcache.stores.local.tree import Form
from symcache.symstore.admin import Addition, Admin

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.config import Config
    from symcache.identity import Key
    from symcache.server.auth import Gate
    from symcache.server.protocol import Exchange
    from symcache.server.request import Asked
    from symcache.stores.local.tree import Store
    from symcache.stores.source import SymbolSource

__all__ = ["Uploads"]

_BLOCK_BYTES = 1 << 20
_CLOSE = (b"connection", b"close")

_log = logging.getLogger("symcache.serve")


class Uploads:
    """Takes files in.

    Args:
        source: Whose first store they go to.
        config: Every setting.
        gate: Knows who may.
    """

    def __init__(self, source: SymbolSource, config: Config, gate: Gate) -> None:
        self._store = source.store
        self._config = config
        self._gate = gate

    async def answer(self, exchange: Exchange, asked: Asked) -> None:
        """Publish the body of *exchange* under the key of its path.

        The query may name ``product``, ``version`` and ``comment`` of the transaction.
        """
        if not self._config.serve.upload_tokens:
            await exchange.say(405, "publishing is off", [(b"allow", b"GET, HEAD"), _CLOSE])
        elif not self._gate.may_upload(exchange):
            await exchange.say(401, "a token for publishing is needed", [(b"www-authenticate", b"Bearer"), _CLOSE])
        elif not isinstance(asked, FileAsked) or asked.form is not Form.PLAIN:
            await exchange.say(400, "PUT /name/id/name with the plain file", [_CLOSE])
        elif self._store is None:
            await exchange.say(503, "there is no store that can be written", [_CLOSE])
        else:
            await self._take(exchange, asked.key, self._store)

    async def _take(self, exchange: Exchange, key: Key, store: Store) -> None:
        try:
            scratch = await to_thread.run_sync(store.scratch)
        except StoreError as error:
            await exchange.say(503, str(error), [_CLOSE])
            return
        try:
            if not await self._receive(exchange, scratch):
                return
            verdict = await to_thread.run_sync(check_file, scratch, key)
            if verdict.problem is not None:
                await exchange.say(422, f"not what the path names: {verdict.problem}")
                return
            body = await to_thread.run_sync(self._publish, exchange, key, scratch, store)
            await exchange.begin(201, header_list(b"application/json", len(body)))
            await exchange.send(body)
        except (SymcacheError, OSError) as error:
            _log.warning("publishing %s: %s", key.index, error)
            await exchange.say(503, f"cannot be published: {error}", [_CLOSE])
        finally:
            scratch.unlink(missing_ok=True)

    async def _receive(self, exchange: Exchange, scratch: Path) -> bool:
        largest = self._config.network.largest_file_bytes
        announced = exchange.fields.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > largest:
            await exchange.say(413, "longer than network.largest_file_bytes", [_CLOSE])
            return False
        received = 0
        with scratch.open("xb", buffering=_BLOCK_BYTES) as file:
            try:
                async for piece in exchange.body():
                    received += file.write(piece)
                    if received > largest:
                        await exchange.say(413, "longer than network.largest_file_bytes", [_CLOSE])
                        return False
            except ClientLeft:
                return False
        return True

    def _publish(self, exchange: Exchange, key: Key, scratch: Path, store: Store) -> bytes:
        query = parse_qs(exchange.scope.get("query_string", b"").decode("latin-1"))
        said = {name: query.get(name, [""])[0][:200] for name in ("product", "version", "comment")}
        transaction = Admin(store).add(
            [Addition(key, scratch)],
            product=said["product"] or "upload",
            version=said["version"],
            comment=said["comment"],
        )
        _log.info("%s: published by upload, transaction %010d", key.index, transaction.id)
        return json.dumps({"index": key.index, "transaction": transaction.id}).encode() + b"\n"
