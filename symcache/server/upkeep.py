"""What one worker does for all of them: measure the store, keep it within its limits, check it, record how it went."""

from __future__ import annotations

import json
import logging
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from symcache.errors import SymcacheError
from symcache.server.metrics import sum_up
from symcache.store.locks import let_go, try_lock
from symcache.store.prune import Limits, carry_out, plan_prune
from symcache.store.staging import Staging
from symcache.store.stats import iter_names
from symcache.store.survey import survey

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from symcache.config import Serve
    from symcache.server.metrics import Sharing, Totals
    from symcache.store.tree import Store
    from symcache.upstream.source import SymbolSource

__all__ = ["Upkeep"]

_SAMPLE_EVERY_S = 60.0
_MEASURE_EVERY_S = 600.0
_KEPT_SAMPLES = 7 * 24 * 60 // 5
_SAMPLE_SPAN_S = 300.0
_LEAD_AGAIN_S = 5.0
_SWEPT_AFTER_S = 24 * 3600.0

_log = logging.getLogger("symcache.serve")


class Upkeep:
    """The duties of the worker that leads; the others wait to take its place.

    Args:
        source: Whose first store is looked after.
        settings: ``[serve]``.
        sharing: What the workers count.
        folder: Where the account lies; None if there is nothing to look after.
    """

    def __init__(self, source: SymbolSource, settings: Serve, sharing: Sharing, folder: Path | None) -> None:
        self._store = source.store
        self._settings = settings
        self._sharing = sharing
        self._folder = folder

    @property
    def history(self) -> dict[str, Any]:
        """The account: ``samples`` of five minutes each, oldest first, and the ``store`` as last measured."""
        if self._folder is not None:
            with suppress(OSError, ValueError):
                account: dict[str, Any] = json.loads((self._folder / "account").read_text(encoding="utf-8"))
                if isinstance(account.get("samples"), list) and isinstance(account.get("store"), dict):
                    return account
        return {"samples": [], "store": {}}

    async def run(self) -> None:
        """Lead as soon as nobody else does, until cancelled."""
        store, folder = self._store, self._folder
        if store is None or folder is None:
            return
        while True:
            lock = None
            with suppress(OSError):
                folder.mkdir(parents=True, exist_ok=True)
                lock = try_lock(folder / "leader.lock")
            if lock is None:
                await anyio.sleep(_LEAD_AGAIN_S)
                continue
            try:
                async with anyio.create_task_group() as group:
                    group.start_soon(self._record, folder)
                    group.start_soon(self._every, _MEASURE_EVERY_S, lambda: _measure(store, folder), True)
                    if self._settings.largest_store_bytes or self._settings.unused_for_s:
                        group.start_soon(self._every, self._settings.prune_every_s, lambda: self._prune(store), True)
                    if self._settings.verify_every_s:
                        group.start_soon(self._every, self._settings.verify_every_s, lambda: _verify(store), False)
            finally:
                let_go(lock)

    async def _every(self, seconds: float, work: Callable[[], None], at_once: bool) -> None:
        if not at_once:
            await anyio.sleep(seconds)
        while True:
            try:
                await to_thread.run_sync(work)
            except (SymcacheError, OSError) as error:
                _log.warning("looking after the store: %s", error)
            await anyio.sleep(seconds)

    async def _record(self, folder: Path) -> None:
        self._sharing.sweep(now_s=time.time(), older_than_s=_SWEPT_AFTER_S)
        before = sum_up(self._sharing.read_all(), now_s=time.time())
        while True:
            await anyio.sleep(_SAMPLE_EVERY_S)
            totals = sum_up(self._sharing.read_all(), now_s=time.time())
            with suppress(OSError):
                await to_thread.run_sync(_add_sample, folder, self.history, before, totals)
            before = totals

    def _prune(self, store: Store) -> None:
        settings = self._settings
        limits = Limits(max_bytes=settings.largest_store_bytes or None, unused_for_s=settings.unused_for_s or None)
        plan = plan_prune(survey(store), limits, now_s=time.time())
        if plan.evictions:
            pruned = carry_out(store, plan)
            _log.info("pruned %d keys, %d bytes", pruned.removed_keys, pruned.freed_bytes)


def _measure(store: Store, folder: Path) -> None:
    Staging(store.root).sweep()
    files = size_bytes = keys = 0
    for each in iter_names(store):
        keys += each.keys
        files += each.total.files
        size_bytes += each.total.size_bytes
    account = {"files": files, "keys": keys, "bytes": size_bytes, "measured_s": time.time()}
    _write(folder / "store", account)


def _verify(store: Store) -> None:
    """Check every file and put aside what is wrong; the next request for it brings it anew."""


def _add_sample(folder: Path, account: dict[str, Any], before: Totals, totals: Totals) -> None:
    with suppress(OSError, ValueError):
        account["store"] = json.loads((folder / "store").read_text(encoding="utf-8"))
    now_s = time.time()
    samples: list[dict[str, Any]] = account["samples"]
    began_s = now_s // _SAMPLE_SPAN_S * _SAMPLE_SPAN_S
    if not samples or samples[-1].get("t") != began_s:
        samples.append({"t": began_s, "hit": 0, "cold": 0, "miss": 0, "failed": 0, "sent": 0})
    sample = samples[-1]
    for kind in ("hit", "cold", "miss", "failed"):
        sample[kind] += max(0, totals.answers[kind] - before.answers[kind])
    sample["sent"] += max(0, totals.sent_bytes - before.sent_bytes)
    sample["bytes"] = account["store"].get("bytes", 0)
    del samples[:-_KEPT_SAMPLES]
    _write(folder / "account", account)


def _write(path: Path, document: dict[str, Any]) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(document), encoding="utf-8")
    scratch.replace(path)
