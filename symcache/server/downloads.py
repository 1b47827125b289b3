"""Files that are being downloaded: shared by all clients that ask for them, and sent while they arrive."""

from __future__ import annotations

import logging
import os
import time
import weakref
from contextlib import suppress
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

import anyio
from anyio import to_thread

from symcache.errors import SymcacheError
from symcache.events import TransferAdvanced, TransferEnded, TransferStarted
from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey, fold
from symcache.server.request import FileInfo, open_shared, read_at, select
from symcache.stores.local.partial import find_partial
from symcache.stores.results import Cause, Failed, Fetched, Present

if TYPE_CHECKING:
    from pathlib import Path

    from anyio.abc import TaskGroup

    from symcache.events import Event
    from symcache.identity import Key
    from symcache.server.metrics import Metrics
    from symcache.server.request import Request
    from symcache.stores.local.partial import PartialDownload
    from symcache.stores.negative import Miss
    from symcache.stores.results import Missing, Outcome
    from symcache.stores.source import SymbolSource

_KEPT_PIECES = 8
_COMPARED_BYTES = 1 << 20
_MAGICS: dict[type, tuple[bytes, ...]] = {
    PdbKey: (b"Microsoft C/C++ MSF 7.00\r\n\x1aDS",),
    Pdb2Key: (b"Microsoft C/C++ program database 2.00\r\n\x1aJG",),
    PortablePdbKey: (b"BSJB",),
    ImageKey: (b"MZ",),
    DbgKey: (b"DI",),
}
_LONGEST_MAGIC = 64
_HELD_BYTES = 64 * 1024
_PIECE_BYTES = 256 * 1024
_SMALL_PIECE_BYTES = 64 * 1024
_MANY_TRANSFERS = 64
_LOOK_AGAIN_S = 5.0

_log = logging.getLogger("symcache.serve")


class PartialFile:
    """A scratch file that a download writes, from its first byte to its last; it is open while anybody reads it.

    Of its *size_bytes* the first *whole_bytes* have arrived; *is_broken* if they are not the file's beginning any more.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, key: Key, path: Path, size_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.whole_bytes = 0
        self.is_broken = False
        self._fd = open_shared(path)
        weakref.finalize(self, os.close, self._fd)
        self._magics = _MAGICS.get(type(key), ())
        # Readers of the same piece at about the same time share it.
        self.read = lru_cache(_KEPT_PIECES)(partial(_read, self._fd))

    @property
    def readable_bytes(self) -> int:
        """How much may be sent before the file is verified: all but its end."""
        return min(self.whole_bytes, max(0, self.size_bytes - _HELD_BYTES))

    @property
    def looks_right(self) -> bool:
        """Whether enough has arrived to tell that it is a plain file of the right kind, and it is."""
        has_begun = self.whole_bytes >= min(_LONGEST_MAGIC, self.size_bytes)
        return has_begun and self.read(0, _LONGEST_MAGIC).startswith(self._magics)

    def is_beginning_of(self, fd: int) -> bool:
        """Return whether what has arrived is the beginning of the published file *fd*, byte for byte."""
        if self.is_broken:
            return False
        if os.path.samestat(os.fstat(self._fd), os.fstat(fd)):
            return True
        pieces = (
            (at, min(_COMPARED_BYTES, self.whole_bytes - at)) for at in range(0, self.whole_bytes, _COMPARED_BYTES)
        )
        return all(_read(self._fd, at, length) == _read(fd, at, length) for at, length in pieces)


def _read(fd: int, offset: int, size_bytes: int) -> bytes:
    return read_at(fd, size_bytes, offset)


class Download:
    """The download of one key.

    Attributes:
        outcome: How it ended; None while it has not.
        file: What is arriving, where that can be read.
        readers: How many requests wait for it.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.outcome: Outcome | None = None
        self.file: PartialFile | None = None
        self.readers = 0
        self.upstream: str | None = None
        self._changed = anyio.Event()

    async def wait(self, longest_s: float = _LOOK_AGAIN_S) -> None:
        """Return once something has changed, or after *longest_s*."""
        with anyio.move_on_after(longest_s):
            await self._changed.wait()

    def begin(self, path: Path, size_bytes: int) -> None:
        """Note that a body of announced length begins to arrive at *path*, the first one or another one."""
        self.file = None
        with suppress(OSError):  # removed already
            self.file = PartialFile(self.key, path, size_bytes)
        self._wake()

    def advance(self, whole_bytes: int, size_bytes: int | None, *, starts_over: bool = False) -> None:
        """Note how much has arrived; less than before means that it starts over, in the same place."""
        file = self.file
        if file is None:
            return
        if starts_over or whole_bytes < file.whole_bytes or size_bytes not in {file.size_bytes, None}:
            file.is_broken = True
            self.file = None
            if size_bytes is not None:
                self.begin(file.path, size_bytes)
        if self.file is not None:
            self.file.whole_bytes = whole_bytes
        self._wake()

    def end(self, outcome: Outcome) -> None:
        self.outcome = outcome
        self.file = None
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


async def send_download(request: Request, download: Download, file: PartialFile, metrics: Metrics) -> None:
    """Answer with *file* while it arrives; its end is sent once it is verified."""
    chosen = select(FileInfo.of(file.size_bytes), request.headers)
    await request.start(chosen.status, chosen.headers)
    if request.method == "HEAD" or chosen.start == chosen.stop:
        await request.send()
        return
    with metrics.transferring():
        at = chosen.start
        while not request.is_gone and at < chosen.stop and not file.is_broken:
            ready = min(file.readable_bytes, chosen.stop) - at
            if ready > 0:
                piece_bytes = _PIECE_BYTES if metrics.transfers <= _MANY_TRANSFERS else _SMALL_PIECE_BYTES
                # Cut at the same places for every client, so that pieces are shared.
                data = file.read(at, min(ready, piece_bytes - at % piece_bytes))
                at += len(data)
                await request.send(data, more=at < chosen.stop)
            elif download.outcome is not None:
                break
            else:
                await download.wait()
        if at < chosen.stop and not request.is_gone:
            await _send_end(request, download, file, at, chosen.stop, has_begun=at > chosen.start)


async def _send_end(
    request: Request, download: Download, file: PartialFile, at: int, stop: int, *, has_begun: bool
) -> None:
    """Send the rest from the published file, if it has the same beginning; else disconnect the client."""
    while download.outcome is None and not (file.is_broken and has_begun) and not request.is_gone:
        await download.wait()
    if isinstance(download.outcome, Present | Fetched):
        with suppress(OSError):
            fd = open_shared(download.outcome.path)
            try:
                is_as_long = os.fstat(fd).st_size == file.size_bytes
                if is_as_long and (not has_begun or await to_thread.run_sync(file.is_beginning_of, fd)):
                    await request.send_range(fd, at, stop)
                    return
            finally:
                os.close(fd)
    await request.abort()


_FIRST_LOOK_S = 0.1
_LOOK_EVERY_S = 0.05
_RECHECKS_AT_ONCE = 4
_MOST_RECHECKED = 1000


class Downloads:
    """Every download of this process; requests for one key share one.

    They run in *group*, so that a client that disconnects does not end one. Misses remembered more than
    *recheck_after_s* seconds ago are asked for again.
    """

    def __init__(self, source: SymbolSource, group: TaskGroup, *, recheck_after_s: float) -> None:
        self._source = source
        self._group = group
        self._recheck_after_s = recheck_after_s
        self._rechecked: set[str] = set()
        self._recheck_limiter = anyio.CapacityLimiter(_RECHECKS_AT_ONCE)
        self._downloads: dict[str, Download] = {}
        self._others: dict[Path, dict[str, Any]] = {}  # transfers that no client's request started, by scratch file

    def __len__(self) -> int:
        return len(self._downloads)

    def __contains__(self, key: Key) -> bool:
        return key.folded in self._downloads

    def as_json(self) -> list[dict[str, Any]]:
        """Return the downloads, oldest first; then transfers that requests did not start, as those of the page."""
        downloads = [
            {
                "index": download.key.index,
                "upstream": download.upstream,
                "size_bytes": None if download.file is None else download.file.size_bytes,
                "whole_bytes": 0 if download.file is None else download.file.whole_bytes,
                "readers": download.readers,
            }
            for download in self._downloads.values()
        ]
        return [*downloads, *(dict(row) for row in self._others.values() if fold(row["index"]) not in self._downloads)]

    def join(self, key: Key) -> Download:
        download = self._downloads.get(key.folded)
        if download is None:
            download = self._downloads[key.folded] = Download(key)
            self._group.start_soon(self._run, download)
        return download

    def observe(self, event: Event) -> None:
        """Take in what the source tells of its transfers; called on the event loop's thread for these."""
        match event:
            case TransferStarted(index, upstream, size_bytes, path):
                download = self._downloads.get(fold(index))
                if download is not None:
                    download.upstream = upstream
                    if size_bytes and path is not None:
                        download.begin(path, size_bytes)
                elif path is not None:
                    row = {"index": index, "upstream": upstream, "size_bytes": size_bytes}
                    self._others[path] = {**row, "whole_bytes": 0, "readers": 0}
            case TransferAdvanced(path=path, whole_bytes=whole_bytes) if path in self._others:
                self._others[path]["whole_bytes"] = whole_bytes
            case TransferEnded(path=path) if path in self._others:
                del self._others[path]
            case TransferAdvanced(index, _, size_bytes, path, whole_bytes):
                download = self._downloads.get(fold(index))
                if download is not None and download.file is not None and download.file.path == path:
                    download.advance(whole_bytes, size_bytes)
            case _:
                pass

    async def _run(self, download: Download) -> None:
        outcome: Outcome = Failed(Cause.UNAVAILABLE, detail="the server is stopping")
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._follow_other_process, download)
                try:
                    outcome = await self._source.fetch(download.key)
                except (SymcacheError, OSError) as error:
                    outcome = Failed(Cause.DISK, detail=str(error))
                except Exception as error:  # noqa: BLE001 - an edge: other downloads in the group must go on
                    _log.exception("%s", download.key.index)
                    outcome = Failed(Cause.UNAVAILABLE, detail=str(error))
                group.cancel_scope.cancel()
        finally:
            del self._downloads[download.key.folded]
            download.end(outcome)
        if isinstance(outcome, Failed):
            _log.warning("%s: %s: %s", download.key.index, outcome.cause.value, outcome.detail or "failed")
        elif isinstance(outcome, Fetched):
            _log.info("%s: %d bytes from %s", download.key.index, outcome.size_bytes, outcome.upstream)

    async def _follow_other_process(self, download: Download) -> None:
        """Read what another process downloads; nothing to do once this one does."""
        roots = [store.root for store in self._source.opened_stores]
        await anyio.sleep(_FIRST_LOOK_S)
        seen: PartialDownload | None = None
        while download.upstream is None:
            notes = (find_partial(root, download.key.folded) for root in roots)
            note = next((note for note in notes if note is not None), None)
            if note is not None:
                is_other = seen is None or note.scratch != seen.scratch
                if is_other:
                    download.begin(note.scratch, note.size_bytes)
                starts_over = seen is not None and not is_other and note.starts != seen.starts
                download.advance(note.whole_bytes, note.size_bytes, starts_over=starts_over)
                seen = note
            await anyio.sleep(_LOOK_EVERY_S)

    def is_recent_miss(self, key: Key) -> bool:
        """Whether every upstream said that it does not have *key*, too recently to be asked again."""
        misses = self._recall(key)
        recent = [miss for miss in misses if not miss.in_passing and not self._is_old(miss)]
        return len(recent) == len(self._source.servers)

    def recheck(self, key: Key, outcome: Missing) -> None:
        """Ask upstreams again, behind the answer to a client, if a miss of *key* is old."""
        if outcome.cause is not Cause.REMEMBERED_MISS or key.folded in self._rechecked:
            return
        if len(self._rechecked) < _MOST_RECHECKED and any(self._is_old(miss) for miss in self._recall(key)):
            self._rechecked.add(key.folded)
            self._group.start_soon(self._check, key)

    def _recall(self, key: Key) -> list[Miss]:
        # On the event loop's thread: one look-up in the database takes less time than reaching another thread.
        misses = self._source.misses
        found = [misses.recall(server.name, key) for server in self._source.servers] if misses is not None else []
        return [miss for miss in found if miss is not None]

    def _is_old(self, miss: Miss) -> bool:
        return time.time() - miss.last_asked_s >= self._recheck_after_s

    async def _check(self, key: Key) -> None:
        try:
            async with self._recheck_limiter:
                old = await to_thread.run_sync(self._expire_old_misses, key)
                if not old:
                    return
                await self._source.forget_shared_misses(key)
                download = self.join(key)
                while download.outcome is None:
                    await download.wait()
                if isinstance(download.outcome, Failed):
                    await to_thread.run_sync(self._restore, key, old)
        finally:
            self._rechecked.discard(key.folded)

    def _expire_old_misses(self, key: Key) -> list[Miss]:
        misses = self._source.misses
        old = [miss for miss in self._recall(key) if self._is_old(miss)]
        for miss in old:
            if misses is not None:
                misses.keep(replace(miss, last_asked_s=0.0))
        return old

    def _restore(self, key: Key, old: list[Miss]) -> None:
        """Keep the misses that got no new answer, so that clients of a server that is down do not get errors."""
        misses = self._source.misses
        for miss in old:
            if misses is not None and misses.recall(miss.upstream, key) is None:
                misses.keep(miss)
