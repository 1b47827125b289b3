"""What one worker does for all of them: measure the store, prune and verify it, keep the history for the page."""

from __future__ import annotations

import logging
import threading
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from symcache.errors import StoreError, SymcacheError
from symcache.server.metrics import numbers_in, read_json, sum_up, write_json
from symcache.stores.check import StoredCheck
from symcache.stores.local.atomic import Staging
from symcache.stores.local.partial import sweep_partials
from symcache.stores.local.rights import make_own_folders
from symcache.upkeep.inventory import take_inventory
from symcache.upkeep.problems import RepairAction
from symcache.upkeep.prune import Limits, carry_out, plan_prune
from symcache.upkeep.repair import repair
from symcache.upkeep.stats import iter_names
from symcache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from pathlib import Path

    from symcache.config import Serve
    from symcache.server.metrics import Metrics, Sharing
    from symcache.stores.local.tree import Store
    from symcache.stores.source import SymbolSource

_SAMPLE_EVERY_S = 60.0
_MEASURE_EVERY_S = 30.0
_KEPT_SAMPLES = 7 * 24 * 60 // 5
_SAMPLE_SPAN_S = 300.0
_LEAD_AGAIN_S = 5.0
_SWEPT_AFTER_S = 24 * 3600.0
_KINDS = ("hit", "cold", "miss", "failed")

_log = logging.getLogger("symcache.serve")


class _StoppedError(Exception):
    """The server stops; raised in worker threads to end them."""


class Maintenance:
    """Looks after *source*'s first store in the worker that leads; the others wait to take its place.

    The history is kept in *folder*, None if there is no store. *beside* is what else one worker alone is to run.
    """

    def __init__(
        self,
        source: SymbolSource,
        settings: Serve,
        sharing: Sharing,
        folder: Path | None,
        *beside: Callable[[], Coroutine[Any, Any, None]],
    ) -> None:
        self._store = source.store
        self._settings = settings
        self._sharing = sharing
        self._folder = folder
        self._beside = beside
        self._stopping = threading.Event()

    @property
    def store(self) -> Mapping[str, Any]:
        """The store as last measured: ``files``, ``keys``, ``bytes``; empty before the first time."""
        return numbers_in(self._read("store"))

    def samples(self, totals: Metrics) -> list[dict[str, Any]]:
        """Return the history in spans of five minutes, oldest first; the last one includes *totals*, up to now."""
        kept, before, store = self._read("samples"), self._read("counted"), self.store
        samples = [each for each in map(numbers_in, kept) if "t" in each] if isinstance(kept, list) else []
        began_s = time.time() // _SAMPLE_SPAN_S * _SAMPLE_SPAN_S
        if not samples or samples[-1].get("t") != began_s:
            samples.append({"t": began_s})
        sample = samples[-1]
        # Counts of an earlier server do not go on here.
        counted = numbers_in(before) if isinstance(before, dict) and before.get("run") == self._sharing.run else {}
        for kind in _KINDS:
            more = totals.answers[kind] - counted.get(kind, 0)
            sample[kind] = sample.get(kind, 0) + max(0, more)
        if "bytes" in store:
            sample["bytes"] = store["bytes"]
        return samples[-_KEPT_SAMPLES:]

    async def run(self) -> None:
        """Lead as soon as no other worker does, until cancelled."""
        store, folder = self._store, self._folder
        if store is None or folder is None:
            return
        while True:
            lock = store.lock("leading the maintenance")
            with suppress(OSError, StoreError):
                make_own_folders(folder)
                lock.try_acquire()
            if not lock.is_held:
                await anyio.sleep(_LEAD_AGAIN_S)
                continue
            try:
                await self._lead(store, folder)
            finally:
                self._stopping.set()  # ends what runs in worker threads
                lock.release()

    async def _lead(self, store: Store, folder: Path) -> None:
        settings = self._settings

        async def repeat(doing: str, work: Callable[[], None], every_s: float, at_once: bool = False) -> None:
            pause_s = 0.0 if at_once else every_s
            while True:
                await anyio.sleep(pause_s)
                began_s = time.monotonic()
                try:
                    await to_thread.run_sync(work, abandon_on_cancel=True)
                except (SymcacheError, OSError, _StoppedError) as error:
                    _log.warning("%s the store: %s", doing, error)
                # What begins at once is done at longer intervals the longer it takes.
                pause_s = max(every_s, 50 * (time.monotonic() - began_s)) if at_once else every_s

        async with anyio.create_task_group() as group:
            group.start_soon(self._record, folder)
            for run in self._beside:
                group.start_soon(run)
            group.start_soon(repeat, "measuring", lambda: self._measure(store, folder), _MEASURE_EVERY_S, True)
            if settings.largest_store_bytes or settings.unused_for_s:
                group.start_soon(repeat, "maintaining", lambda: self._prune(store), settings.prune_every_s)
            if settings.verify_every_s:
                group.start_soon(repeat, "maintaining", lambda: self._verify(store), settings.verify_every_s)

    async def _record(self, folder: Path) -> None:
        self._sharing.sweep(older_than_s=_SWEPT_AFTER_S)
        while True:
            totals = sum_up(self._sharing.read_all())
            with suppress(OSError):
                write_json(folder / "samples", self.samples(totals))
                counts = {kind: totals.answers[kind] for kind in _KINDS}
                write_json(folder / "counted", {"run": self._sharing.run, **counts})
            await anyio.sleep(_SAMPLE_EVERY_S)

    def _measure(self, store: Store, folder: Path) -> None:
        Staging(store.root).sweep()
        sweep_partials(store.root)
        measured = {"files": 0, "keys": 0, "bytes": 0, "measured_s": time.time()}
        for each in iter_names(store):
            self._stop_if_wanted()
            measured["keys"] += each.keys
            measured["files"] += each.total.files
            measured["bytes"] += each.total.size_bytes
        write_json(folder / "store", measured)

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
        for repaired in repair(store, [each for each in problems if each.action is RepairAction.QUARANTINE]):
            _log.warning("verifying the store: %s", repaired)

    def _stop_if_wanted(self, _event: object = None) -> None:
        if self._stopping.is_set():
            raise _StoppedError

    def _read(self, name: str) -> Any:
        return None if self._folder is None else read_json(self._folder / name)
