"""What one worker does for all of them: measure the store, prune and verify it, keep the history for the page."""

from __future__ import annotations

import json
import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from symcache.errors import SymcacheError
from symcache.server.metrics import sum_up
from symcache.stores.check import StoredCheck
from symcache.stores.local.atomic import Staging
from symcache.stores.local.locks import let_go, try_lock
from symcache.stores.local.partial import sweep_partials
from symcache.upkeep.inventory import take_inventory
from symcache.upkeep.prune import Limits, carry_out, plan_prune
from symcache.upkeep.repair import repair
from symcache.upkeep.stats import iter_names
from symcache.upkeep.verify import RepairAction, verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from symcache.config import Serve
    from symcache.server.metrics import Sharing, Totals
    from symcache.stores.local.tree import Store
    from symcache.stores.source import SymbolSource

__all__ = ["Maintenance"]

_SAMPLE_EVERY_S = 60.0
_MEASURE_EVERY_S = 30.0
_KEPT_SAMPLES = 7 * 24 * 60 // 5
_SAMPLE_SPAN_S = 300.0
_LEAD_AGAIN_S = 5.0
_SWEPT_AFTER_S = 24 * 3600.0

_log = logging.getLogger("symcache.serve")


class Maintenance:
    """Runs in the worker that leads; the others wait to take its place.

    Args:
        source: Its first store is looked after.
        settings: ``[serve]``.
        sharing: Counts of all workers.
        folder: Where the history is kept; None if there is no store.
    """

    def __init__(self, source: SymbolSource, settings: Serve, sharing: Sharing, folder: Path | None) -> None:
        self._store = source.store
        self._settings = settings
        self._sharing = sharing
        self._folder = folder
        self._stopping = threading.Event()

    @property
    def store(self) -> Mapping[str, Any]:
        """The store as last measured: ``files``, ``keys``, ``bytes``; empty before the first time."""
        measured = _read(self._folder, "store")
        return measured if isinstance(measured, dict) else {}

    def samples(self, totals: Totals) -> list[dict[str, Any]]:
        """Return the history in spans of five minutes, oldest first; the last one includes *totals*, up to now."""
        samples = _samples(self._folder)
        counted = _read(self._folder, "counted")
        # Counts of an earlier server do not go on here.
        before = counted if isinstance(counted, dict) and counted.get("run") == self._sharing.run else {}
        _add_up(samples, before, totals, self.store)
        return samples

    async def run(self) -> None:
        """Lead as soon as no other worker does, until cancelled."""
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
                await self._lead(store, folder)
            finally:
                self._stopping.set()  # ends what runs in worker threads
                let_go(lock)

    async def _lead(self, store: Store, folder: Path) -> None:
        settings = self._settings
        async with anyio.create_task_group() as group:
            group.start_soon(self._record, folder)
            group.start_soon(self._measure_repeatedly, store, folder)
            if settings.largest_store_bytes or settings.unused_for_s:
                group.start_soon(self._repeat, settings.prune_every_s, self._prune, store)
            if settings.verify_every_s:
                group.start_soon(self._repeat, settings.verify_every_s, self._verify, store)

    async def _repeat(self, seconds: float, work: Callable[[Store], None], store: Store) -> None:
        while True:
            await anyio.sleep(seconds)
            try:
                await to_thread.run_sync(work, store, abandon_on_cancel=True)
            except (SymcacheError, OSError, _StoppedError) as error:
                _log.warning("maintaining the store: %s", error)

    async def _measure_repeatedly(self, store: Store, folder: Path) -> None:
        """Measure the store, at longer intervals the longer it takes."""
        while True:
            began_s = time.monotonic()
            try:
                await to_thread.run_sync(self._measure, store, folder, abandon_on_cancel=True)
            except (SymcacheError, OSError, _StoppedError) as error:
                _log.warning("measuring the store: %s", error)
            await anyio.sleep(max(_MEASURE_EVERY_S, 50 * (time.monotonic() - began_s)))

    async def _record(self, folder: Path) -> None:
        """Keep the history on disk, and which counts it covers."""
        self._sharing.sweep(now_s=time.time(), older_than_s=_SWEPT_AFTER_S)
        while True:
            totals = sum_up(self._sharing.read_all(), now_s=time.time())
            with suppress(OSError):
                _write(folder / "samples", self.samples(totals))
                _write(folder / "counted", {"run": self._sharing.run, **_counts(totals)})
            await anyio.sleep(_SAMPLE_EVERY_S)

    def _measure(self, store: Store, folder: Path) -> None:
        Staging(store.root).sweep()
        sweep_partials(store.root)
        files = size_bytes = keys = 0
        for each in iter_names(store):
            self._stop_if_wanted()
            keys += each.keys
            files += each.total.files
            size_bytes += each.total.size_bytes
        _write(folder / "store", {"files": files, "keys": keys, "bytes": size_bytes, "measured_s": time.time()})

    def _prune(self, store: Store) -> None:
        settings = self._settings
        limits = Limits(max_bytes=settings.largest_store_bytes or None, unused_for_s=settings.unused_for_s or None)
        plan = plan_prune(take_inventory(store), limits, now_s=time.time())
        if plan.evictions:
            pruned = carry_out(store, plan, on_removed=self._stop_if_wanted)
            _log.info("pruned %d keys, %d bytes", pruned.removed_keys, pruned.freed_bytes)

    def _verify(self, store: Store) -> None:
        """Check every file and move wrong ones away; the next request for one fetches it again."""
        problems = verify(store, StoredCheck(store), on_progress=self._stop_if_wanted)
        wrong = [each for each in problems if each.action is RepairAction.QUARANTINE]
        for repaired in repair(store, wrong):
            _log.warning("verifying the store: %s", repaired)

    def _stop_if_wanted(self, _event: object = None) -> None:
        if self._stopping.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """The server stops; raised in worker threads to end them."""


_KINDS = ("hit", "cold", "miss", "failed")


def _samples(folder: Path | None) -> list[dict[str, Any]]:
    samples = _read(folder, "samples")
    return [each for each in samples if isinstance(each, dict)] if isinstance(samples, list) else []


def _counts(totals: Totals) -> dict[str, int]:
    return {kind: totals.answers[kind] for kind in _KINDS}


def _add_up(samples: list[dict[str, Any]], before: Mapping[str, int], totals: Totals, store: Mapping[str, Any]) -> None:
    """Add to the last of *samples*, or a new one, what was counted since *before*."""
    began_s = time.time() // _SAMPLE_SPAN_S * _SAMPLE_SPAN_S
    if not samples or samples[-1].get("t") != began_s:
        samples.append({"t": began_s})
    sample = samples[-1]
    for kind, count in _counts(totals).items():
        sample[kind] = sample.get(kind, 0) + max(0, count - before.get(kind, 0))
    if "bytes" in store:
        sample["bytes"] = store["bytes"]
    del samples[:-_KEPT_SAMPLES]


def _read(folder: Path | None, name: str) -> Any:
    if folder is not None:
        with suppress(OSError, ValueError):
            return json.loads((folder / name).read_text(encoding="utf-8"))
    return None


def _write(path: Path, document: object) -> None:
    scratch = path.with_suffix(".new")
    scratch.write_text(json.dumps(document), encoding="utf-8")
    scratch.replace(path)
