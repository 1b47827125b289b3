"""What one worker does for all of them: measure the store, keep it within its limits, check it, record how it went."""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from symcache.errors import SymcacheError
from symcache.server.metrics import sum_up
from symcache.stores.check import StoredCheck
from symcache.stores.local.locks import let_go, try_lock
from symcache.stores.local.partial import sweep_growing
from symcache.stores.local.staging import Staging
from symcache.stores.results import Cause, Failed
from symcache.upkeep.inventory import take_inventory
from symcache.upkeep.problems import RepairAction
from symcache.upkeep.prune import Limits, carry_out, plan_prune
from symcache.upkeep.repair import repair
from symcache.upkeep.stats import iter_names
from symcache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from pathlib import Path

    from anyio.abc import TaskGroup

    from symcache.config import Serve
    from symcache.identity import Key
    from symcache.server.inflight import Flights
    from symcache.server.metrics import Sharing, Totals
    from symcache.stores.local.tree import Store
    from symcache.stores.negative import Miss
    from symcache.stores.results import Missing
    from symcache.stores.source import SymbolSource

__all__ = ["Rechecks", "Upkeep", "open_shared", "read_at"]


if sys.platform == "win32":
    import ctypes
    import msvcrt

    _create_file = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    _create_file.restype = ctypes.c_void_p
    _word, _pointer = ctypes.c_uint32, ctypes.c_void_p
    _create_file.argtypes = [ctypes.c_wchar_p, _word, _word, _pointer, _word, _word, _pointer]
    _READ, _SHARE_ALL, _OPEN_EXISTING, _NORMAL = 0x80000000, 0x7, 3, 0x80
    _INVALID = ctypes.c_void_p(-1).value

    def open_shared(path: str | Path) -> int:
        """Return a descriptor for reading *path*; others may rename and remove the file while it is open.

        Python's own open would keep a file from being published or pruned as long as somebody reads it.

        Raises:
            OSError: It cannot be opened.
        """
        file = _create_file(str(path), _READ, _SHARE_ALL, None, _OPEN_EXISTING, _NORMAL, None)
        if file is None or file == _INVALID:
            raise ctypes.WinError(ctypes.get_last_error())
        return msvcrt.open_osfhandle(file, os.O_RDONLY | os.O_BINARY)

    def read_at(fd: int, size_bytes: int, offset: int) -> bytes:
        """Return up to *size_bytes* at *offset*."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size_bytes)

else:

    def open_shared(path: str | Path) -> int:
        """Return a descriptor for reading *path*; others may rename and remove the file while it is open.

        Raises:
            OSError: It cannot be opened.
        """
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(fd: int, size_bytes: int, offset: int) -> bytes:
        """Return up to *size_bytes* at *offset*."""
        return os.pread(fd, size_bytes, offset)


_AT_ONCE = 4
_MOST_WAITING = 1000


class Rechecks:
    """Checks remembered misses again.

    Args:
        source: Knows them.
        flights: Asks again.
        group: Where that happens.
        after_s: How old they have to be, in seconds.
    """

    def __init__(self, source: SymbolSource, flights: Flights, group: TaskGroup, *, after_s: float) -> None:
        self._source = source
        self._flights = flights
        self._group = group
        self._after_s = after_s
        self._waiting: set[str] = set()
        self._limiter = anyio.CapacityLimiter(_AT_ONCE)

    def consider(self, key: Key, outcome: Missing) -> None:
        """Check *key* again if its miss is remembered from long ago."""
        if outcome.cause is not Cause.REMEMBERED_MISS or key.folded in self._waiting:
            return
        if len(self._waiting) < _MOST_WAITING:
            self._waiting.add(key.folded)
            self._group.start_soon(self._check, key)

    async def _check(self, key: Key) -> None:
        try:
            async with self._limiter:
                old = await to_thread.run_sync(self._doubt_old_ones, key)
                if not old:
                    return
                flight = self._flights.join(key)
                while flight.outcome is None:
                    await flight.wait()
                if isinstance(flight.outcome, Failed):
                    await to_thread.run_sync(self._keep, key, old)
        finally:
            self._waiting.discard(key.folded)

    def _doubt_old_ones(self, key: Key) -> list[Miss]:
        misses = self._source.misses
        found: list[Miss] = []
        if misses is None:
            return found
        with misses:  # closes this thread's connection, which nobody else would
            for server in self._source.servers:
                miss = misses.recall(server.name, key)
                if miss is not None and time.time() - miss.last_asked_s >= self._after_s:
                    misses.keep(replace(miss, last_asked_s=0.0))
                    found.append(miss)
        return found

    def _keep(self, key: Key, old: list[Miss]) -> None:
        """Believe those again that no answer came to, so that a server that is down brings no errors instead."""
        misses = self._source.misses
        if misses is None:
            return
        with misses:
            for miss in old:
                if misses.recall(miss.upstream, key) is None:
                    misses.keep(miss)


_SAMPLE_EVERY_S = 60.0
_MEASURE_EVERY_S = 30.0
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
        self._stopping = threading.Event()

    @property
    def store(self) -> Mapping[str, Any]:
        """The store as last measured: ``files``, ``keys``, ``bytes``; empty if nobody has measured it yet."""
        measured = _read(self._folder, "store")
        return measured if isinstance(measured, dict) else {}

    def samples(self, totals: Totals) -> list[dict[str, Any]]:
        """Return how it went, in spans of five minutes, oldest first; the last one goes up to *totals*, to now."""
        samples = _samples(self._folder)
        counted = _read(self._folder, "counted")
        # What another server counted is no beginning for this one.
        before = counted if isinstance(counted, dict) and counted.get("run") == self._sharing.run else {}
        _add_up(samples, before, totals, self.store)
        return samples

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
                await self._lead(store, folder)
            finally:
                self._stopping.set()  # what runs in threads looks at this now and then
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
                _log.warning("looking after the store: %s", error)

    async def _measure_repeatedly(self, store: Store, folder: Path) -> None:
        """Measure the store, the seldomer the longer it takes."""
        while True:
            began_s = time.monotonic()
            try:
                await to_thread.run_sync(self._measure, store, folder, abandon_on_cancel=True)
            except (SymcacheError, OSError, _StoppedError) as error:
                _log.warning("measuring the store: %s", error)
            await anyio.sleep(max(_MEASURE_EVERY_S, 50 * (time.monotonic() - began_s)))

    async def _record(self, folder: Path) -> None:
        """Keep the account: how it went so far, and which counts that covers."""
        self._sharing.sweep(now_s=time.time(), older_than_s=_SWEPT_AFTER_S)
        while True:
            totals = sum_up(self._sharing.read_all(), now_s=time.time())
            with suppress(OSError):
                _write(folder / "samples", self.samples(totals))
                _write(folder / "counted", {"run": self._sharing.run, **_told(totals)})
            await anyio.sleep(_SAMPLE_EVERY_S)

    def _measure(self, store: Store, folder: Path) -> None:
        Staging(store.root).sweep()
        sweep_growing(store.root)
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
        """Check every file and put aside what is wrong; the next request for it brings it anew."""
        problems = verify(store, StoredCheck(store), on_progress=self._stop_if_wanted)
        wrong = [each for each in problems if each.action is RepairAction.QUARANTINE]
        for repaired in repair(store, wrong):
            _log.warning("verifying the store: %s", repaired)

    def _stop_if_wanted(self, _event: object = None) -> None:
        if self._stopping.is_set():
            raise _StoppedError


class _StoppedError(Exception):
    """The server stops, and what runs in a thread is to end, too."""


_KINDS = ("hit", "cold", "miss", "failed")


def _samples(folder: Path | None) -> list[dict[str, Any]]:
    samples = _read(folder, "samples")
    return [each for each in samples if isinstance(each, dict)] if isinstance(samples, list) else []


def _told(totals: Totals) -> dict[str, int]:
    return {kind: totals.answers[kind] for kind in _KINDS}


def _add_up(samples: list[dict[str, Any]], before: Mapping[str, int], totals: Totals, store: Mapping[str, Any]) -> None:
    """Add to the last of *samples*, or a new one, what was counted since *before*."""
    began_s = time.time() // _SAMPLE_SPAN_S * _SAMPLE_SPAN_S
    if not samples or samples[-1].get("t") != began_s:
        samples.append({"t": began_s})
    sample = samples[-1]
    for kind, count in _told(totals).items():
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
