"""Files that are being fetched, served while they grow."""

from __future__ import annotations

import logging
import os
import time
from collections import OrderedDict
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import anyio

from symcache.errors import SymcacheError
from symcache.events import TransferAdvanced, TransferEnded, TransferStarted
from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey, fold
from symcache.server.upkeep import open_shared, read_at
from symcache.stores.local.partial import read_growing
from symcache.stores.results import Cause, Failed, Fetched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from anyio.abc import TaskGroup

    from symcache.events import Event
    from symcache.identity import Key
    from symcache.stores.local.partial import Growing
    from symcache.stores.results import Outcome
    from symcache.stores.source import SymbolSource

__all__ = ["Flight", "Flights", "Growth"]


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


class Growth:
    """One scratch file, from the first byte to the last.

    Args:
        key: What it is to be.
        path: Where it grows.
        size_bytes: How long it will be.
        held_bytes: How much of its end nobody gets before the file was found right.

    Raises:
        OSError: It cannot be opened.
    """

    def __init__(self, key: Key, path: Path, size_bytes: int, held_bytes: int) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self.whole_bytes = 0
        self.is_broken = False
        self._fd: int | None = open_shared(path)
        self._held_bytes = held_bytes
        self._magics = _MAGICS.get(type(key), ())
        self._looks_right: bool | None = None
        self._pieces: OrderedDict[tuple[int, int], bytes] = OrderedDict()
        self._readers = 0
        self._is_retired = False

    @property
    def readable_bytes(self) -> int:
        """How much may be passed on before the file was found right."""
        return min(self.whole_bytes, self.size_bytes - self._held_bytes)

    @property
    def looks_right(self) -> bool:
        """Whether enough has come to tell that it is a plain file of the right kind, and it is."""
        if self._looks_right is None and self.whole_bytes >= min(_LONGEST_MAGIC, self.size_bytes):
            self._looks_right = self.read(0, _LONGEST_MAGIC).startswith(self._magics)
        return bool(self._looks_right)

    def read(self, offset: int, size_bytes: int) -> bytes:
        """Return up to *size_bytes* at *offset*; who reads the same at nearly the same time shares one piece."""
        place = (offset, size_bytes)
        piece = self._pieces.get(place)
        if piece is None:
            assert self._fd is not None, "read after it was closed"
            piece = self._pieces[place] = read_at(self._fd, size_bytes, offset)
            if len(self._pieces) > _KEPT_PIECES:
                self._pieces.popitem(last=False)
        return piece

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Keep it open for a ``with`` block."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1
            self._close_unless_read()

    def retire(self) -> None:
        """Close it as soon as nobody reads it any more."""
        self._is_retired = True
        self._close_unless_read()

    def is_beginning_of(self, fd: int) -> bool:
        """Return whether what came so far is the beginning of the published file *fd*, byte for byte."""
        if self._fd is None or self.is_broken:
            return False
        if os.path.samestat(os.fstat(self._fd), os.fstat(fd)):
            return True
        if os.fstat(fd).st_size != self.size_bytes:
            return False
        end = self.whole_bytes
        return all(
            read_at(self._fd, min(_COMPARED_BYTES, end - at), at) == read_at(fd, min(_COMPARED_BYTES, end - at), at)
            for at in range(0, end, _COMPARED_BYTES)
        )

    def _close_unless_read(self) -> None:
        if self._is_retired and not self._readers and self._fd is not None:
            os.close(self._fd)
            self._fd = None
            self._pieces.clear()


_HELD_BYTES = 64 * 1024
_FIRST_LOOK_S = 0.1
_LOOK_EVERY_S = 0.05

_log = logging.getLogger("symcache.serve")


class Flight:
    """One key on its way.

    Attributes:
        key: What is wanted.
        began_s: Monotonic time of the first request for it.
        outcome: How it ended; None while it has not.
        growth: What arrives just now, where that can be read along; None otherwise.
        readers: How many requests wait for it.
        upstream: Where it comes from; None before it does.
    """

    def __init__(self, key: Key) -> None:
        self.key = key
        self.began_s = time.monotonic()
        self.outcome: Outcome | None = None
        self.growth: Growth | None = None
        self.readers = 0
        self.upstream: str | None = None
        self._past: list[Growth] = []
        self._changed = anyio.Event()

    async def wait(self) -> None:
        """Return once something has changed."""
        await self._changed.wait()

    def begin(self, path: Path, size_bytes: int) -> None:
        """A body of announced length begins to arrive at *path*, the first one or another one."""
        try:
            growth = Growth(self.key, path, size_bytes, min(size_bytes, _HELD_BYTES))
        except OSError:
            growth = None  # gone again already
        if self.growth is not None:
            self._past.append(self.growth)
        self.growth = growth
        self._wake()

    def advance(self, whole_bytes: int, size_bytes: int | None, *, starts_over: bool = False) -> None:
        """More of it has come; less than before means that it starts over, in the same place."""
        growth = self.growth
        if growth is None:
            return
        if starts_over or whole_bytes < growth.whole_bytes or size_bytes not in {growth.size_bytes, None}:
            growth.is_broken = True
            self.growth = None
            self._past.append(growth)
            if size_bytes is not None:
                self.begin(growth.path, size_bytes)
        if self.growth is not None:
            self.growth.whole_bytes = whole_bytes
        self._wake()

    def end(self, outcome: Outcome) -> None:
        """It is there, or will not come."""
        self.outcome = outcome
        for growth in (*self._past, self.growth):
            if growth is not None:
                growth.retire()
        self._wake()

    def _wake(self) -> None:
        self._changed.set()
        self._changed = anyio.Event()


@dataclass(slots=True)
class _Unread:
    """A transfer that belongs to no flight."""

    index: str
    upstream: str
    size_bytes: int | None
    whole_bytes: int = 0


class Flights:
    """Every flight of this process.

    Args:
        source: Fetches.
        group: Where flights live; a client that leaves does not end one.
    """

    def __init__(self, source: SymbolSource, group: TaskGroup) -> None:
        self._source = source
        self._group = group
        self._flights: dict[str, Flight] = {}
        self._unread: dict[Path, _Unread] = {}

    def __len__(self) -> int:
        return len(self._flights)

    def __contains__(self, key: Key) -> bool:
        return key.folded in self._flights

    def as_json(self) -> list[dict[str, Any]]:
        """Return what is on its way, oldest first; then what nobody reads along with, as the page's downloads."""
        flights = [
            {
                "index": flight.key.index,
                "upstream": flight.upstream,
                "size_bytes": None if flight.growth is None else flight.growth.size_bytes,
                "whole_bytes": 0 if flight.growth is None else flight.growth.whole_bytes,
                "readers": flight.readers,
            }
            for flight in self._flights.values()
        ]
        unread = [each for each in self._unread.values() if fold(each.index) not in self._flights]
        return [*flights, *({**asdict(each), "readers": 0} for each in unread)]

    def join(self, key: Key) -> Flight:
        """Return the flight for *key*, and let it begin if there is none."""
        flight = self._flights.get(key.folded)
        if flight is None:
            flight = self._flights[key.folded] = Flight(key)
            self._group.start_soon(self._fly, flight)
        return flight

    def observe(self, event: Event) -> None:
        """Take in what the source tells of its transfers; called on the event loop's thread for these."""
        match event:
            case TransferStarted(index, upstream, size_bytes, path):
                flight = self._flights.get(fold(index))
                if flight is not None:
                    flight.upstream = upstream
                    if size_bytes and path is not None:
                        flight.begin(path, size_bytes)
                elif path is not None:
                    self._unread[path] = _Unread(index, upstream, size_bytes)
            case TransferAdvanced(path=path, whole_bytes=whole_bytes) if path in self._unread:
                self._unread[path].whole_bytes = whole_bytes
            case TransferEnded(path=path) if path in self._unread:
                del self._unread[path]
            case TransferAdvanced(index, _, size_bytes, path, whole_bytes):
                flight = self._flights.get(fold(index))
                if flight is not None and flight.growth is not None and flight.growth.path == path:
                    flight.advance(whole_bytes, size_bytes)
            case _:
                pass

    async def _fly(self, flight: Flight) -> None:
        outcome: Outcome = Failed(Cause.UNAVAILABLE, detail="the server is stopping")
        try:
            async with anyio.create_task_group() as group:
                group.start_soon(self._look_elsewhere, flight)
                try:
                    outcome = await self._source.fetch(flight.key)
                except (SymcacheError, OSError) as error:
                    _log.warning("%s: %s", flight.key.index, error)
                    outcome = Failed(Cause.DISK, detail=str(error))
                except Exception as error:  # noqa: BLE001 - an edge, see below
                    # The edge: other flights live in the same group, and must not end with this one.
                    _log.exception("%s", flight.key.index)
                    outcome = Failed(Cause.UNAVAILABLE, detail=str(error))
                group.cancel_scope.cancel()
        finally:
            del self._flights[flight.key.folded]
            flight.end(outcome)
        if isinstance(outcome, Failed):
            _log.warning("%s: %s: %s", flight.key.index, outcome.cause.value, outcome.detail or "failed")
        elif isinstance(outcome, Fetched):
            _log.info("%s: %d bytes from %s", flight.key.index, outcome.size_bytes, outcome.upstream)

    async def _look_elsewhere(self, flight: Flight) -> None:
        """Read along with another process that brings the file; nothing to do where this one does."""
        roots = [store.root for store in self._source.opened_stores]
        await anyio.sleep(_FIRST_LOOK_S)
        seen: Growing | None = None
        while flight.upstream is None:
            notes = (read_growing(root, flight.key.folded) for root in roots)
            note = next((note for note in notes if note is not None), None)
            if note is not None:
                if seen is None or note.scratch != seen.scratch:
                    flight.begin(note.scratch, note.size_bytes)
                starts_over = seen is not None and note.scratch == seen.scratch and note.starts != seen.starts
                flight.advance(note.whole_bytes, note.size_bytes, starts_over=starts_over)
                seen = note
            await anyio.sleep(_LOOK_EVERY_S)
