"""The main job: from inputs to a store that holds what a debugger will ask for, and a report of what does not exist."""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, TypeAlias

import anyio
from anyio import to_thread

from symcache.errors import StoreError
from symcache.events import Noted, Planned, Settled, ignore
from symcache.identity import Pdb2Key, PortablePdbKey
from symcache.readers.image import image_module
from symcache.readers.records import Module, PdbFormat, PdbReference, Unreadable
from symcache.store.links import ImageLinks, Link
from symcache.upstream.outcome import Cause, Failed, Missing
from symcache.warm.plan import (
    FileKind,
    NothingToFetch,
    Plan,
    WantedFile,
    WantedPdbOfImage,
    image_candidates,
    kind_of,
)
from symcache.warm.report import Report, Symbol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from anyio.streams.memory import MemoryObjectReceiveStream

    from symcache.events import Observer
    from symcache.formats.pe import Image
    from symcache.readers.records import Record
    from symcache.upstream.outcome import Outcome
    from symcache.upstream.source import SymbolSource
    from symcache.warm.plan import Want

__all__ = ["Warmer"]

# What the network has to be asked for.
OpenWant: TypeAlias = WantedFile | WantedPdbOfImage


class Warmer:
    """Carries out the job on one symbol source.

    Args:
        source: Where symbols come from and go to.
        plan: What is wanted already, and how modules are understood.
        observer: Told how it goes.
    """

    def __init__(self, source: SymbolSource, plan: Plan | None = None, *, observer: Observer = ignore) -> None:
        self._source = source
        self._observer = observer
        self._plan = Plan() if plan is None else plan
        self._links = self._open_links()
        self._symbols: list[Symbol] = []
        self._unreadable: list[Unreadable] = []
        self._hopped: set[str] = set()
        self._began_s = time.monotonic()
        self._stopped = threading.Event()

    async def warm(self, records: Iterable[Record]) -> Report:
        """Fetch what *records* need; return what became of it.

        Cancelling the scope it runs in ends the work; `report` then tells what was done so far.
        """
        await self._read(records)
        todo = await to_thread.run_sync(self._settle_locally, self._plan.wants)
        self._observer(Planned(len(self._symbols) + len(todo)))
        send, receive = anyio.create_memory_object_stream[OpenWant](max_buffer_size=len(todo))
        async with anyio.create_task_group() as group, send:
            for want in todo:
                send.send_nowait(want)
            for _ in range(min(self._source.config.network.connections, len(todo))):
                group.start_soon(self._work, receive.clone())
            receive.close()
        return self.report()

    async def check(self, records: Iterable[Record]) -> Report:
        """Return what *records* need and whether the store has it; nothing is asked for."""
        await self._read(records)
        for want in await to_thread.run_sync(self._settle_locally, self._plan.wants):
            detail = None if isinstance(want, WantedFile) else "which PDB the image names is not known here"
            self._settle(_end(want, Missing(Cause.NOT_CACHED, detail=detail)))
        return self.report()

    def report(self, *, is_interrupted: bool = False) -> Report:
        """Return what became of every want so far; what has no end yet failed for that reason."""
        symbols = [*self._symbols, *(self._cut_off() if is_interrupted else ())]
        store = self._source.store
        return Report(
            symbol_path=self._source.config.symbol_path.redacted(),
            store=None if store is None else store.root,
            seconds=time.monotonic() - self._began_s,
            symbols=symbols,
            unreadable=tuple(self._unreadable),
            is_interrupted=is_interrupted,
        )

    def close(self) -> None:
        """Close what is remembered; safe to call twice."""
        self._stopped.set()
        if self._links is not None:
            self._links.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _cut_off(self) -> Iterator[Symbol]:
        ended = {(symbol.kind, symbol.index) for symbol in self._symbols}
        for want in self._plan.wants:
            if isinstance(want, WantedFile) or (
                isinstance(want, WantedPdbOfImage) and want.image.folded not in self._hopped
            ):
                symbol = _end(want, Failed(Cause.UNAVAILABLE, detail="interrupted before its turn"))
                if (symbol.kind, symbol.index) not in ended:
                    yield symbol

    async def _read(self, records: Iterable[Record]) -> None:
        """Take in all records, in a thread: readers block, and a folder may take a while."""

        def take_in() -> None:
            for record in records:
                if self._stopped.is_set():
                    return
                if isinstance(record, Module):
                    self._plan.add_module(record)
                elif isinstance(record, Unreadable):
                    self._unreadable.append(record)

        await to_thread.run_sync(take_in, abandon_on_cancel=True)

    def _settle_locally(self, wants: Sequence[Want]) -> list[OpenWant]:
        """Settle every want that needs no network; return the others, with hops resolved that were made before."""
        todo: list[OpenWant] = []
        for want in wants:
            if self._stopped.is_set():
                break
            left = (self._settle_at_once(resolved) for resolved in self._resolve_locally(want))
            todo.extend(want for want in left if want is not None)
        return todo

    def _resolve_locally(self, want: Want) -> Sequence[Want]:
        if not isinstance(want, WantedPdbOfImage):
            return [want]
        known = None if self._links is None else self._links.recall(want.image)
        if known is not None:
            self._hopped.add(want.image.folded)
            return self._plan.add(self._wants_of_links(want, known))
        image = self._source.find_image(want.image)
        if image is not None:
            self._hopped.add(want.image.folded)
            return self._plan.add(self._wants_of_image(want, image))
        return [want]

    def _settle_at_once(self, want: Want) -> OpenWant | None:
        """Settle *want* if that needs no network, else return it."""
        if isinstance(want, NothingToFetch):
            index = None if want.key is None else want.key.index
            self._settle(Symbol(index, want.kind, want.module, Missing(want.cause), want.detail))
            return None
        if isinstance(want, WantedFile):
            outcome: Outcome | None = Missing(Cause.EXCLUDED) if self._source.is_excluded(want.key) else None
            outcome = outcome or self._source.find(want.key, want.checksums)
            if outcome is not None:
                self._settle(Symbol(want.key.index, kind_of(want.key), want.module, outcome))
                return None
        return want

    async def _work(self, wants: MemoryObjectReceiveStream[OpenWant]) -> None:
        with wants:
            async for want in wants:
                await self._fulfil(want)

    async def _fulfil(self, want: OpenWant) -> None:
        if isinstance(want, WantedFile):
            outcome = await self._source.fetch(want.key, want.checksums)
            self._settle(Symbol(want.key.index, kind_of(want.key), want.module, outcome))
            return
        for named in await self._hop(want):
            left = await to_thread.run_sync(self._settle_at_once, named)
            if left is not None:
                await self._fulfil(left)

    async def _hop(self, want: WantedPdbOfImage) -> Sequence[Want]:
        """Make the first of two hops: read the image's headers where it is published; return what they name."""
        ends: list[Missing | Failed] = []
        for candidate in image_candidates(want.image):
            found = await self._source.read_image(candidate)
            if not isinstance(found, Missing | Failed):
                self._hopped.add(want.image.folded)
                fresh = self._plan.add(self._wants_of_image(want, found))
                self._observer(Planned(len(self._plan.wants)))
                return fresh
            ends.append(found)
        self._hopped.add(want.image.folded)
        self._settle(Symbol(want.image.index, FileKind.PDB, want.module, _end_of_hop(ends)))
        return []

    def _wants_of_image(self, want: WantedPdbOfImage, image: Image) -> Sequence[Want]:
        module = image_module(image, want.image.name)
        links = [Link(pdb.key, pdb.format is PdbFormat.EMBEDDED, pdb.checksums) for pdb in module.pdbs]
        if self._links is not None and not image.problems:
            self._links.remember(want.image, links)
        return self._wants_of_links(want, links)

    def _wants_of_links(self, want: WantedPdbOfImage, links: Sequence[Link]) -> Sequence[Want]:
        if not links:
            return [NothingToFetch(want.module, FileKind.PDB, Cause.NO_DEBUG_RECORD, want.image)]
        pdbs = [PdbReference(link.key, _format_of(link), link.checksums) for link in links]
        return tuple(self._plan.choose(want.module, pdbs))

    def _settle(self, symbol: Symbol) -> None:
        self._symbols.append(symbol)
        self._observer(Settled(symbol.index or symbol.module, symbol.state))

    def _open_links(self) -> ImageLinks | None:
        try:
            return ImageLinks(self._source.config.misses.folder / "images")
        except StoreError as error:
            self._observer(Noted(f"{error}; what images name is not remembered"))
            return None


def _end(want: WantedFile | WantedPdbOfImage, outcome: Missing | Failed) -> Symbol:
    if isinstance(want, WantedFile):
        return Symbol(want.key.index, kind_of(want.key), want.module, outcome)
    return Symbol(want.image.index, FileKind.PDB, want.module, outcome)


def _end_of_hop(ends: Sequence[Missing | Failed]) -> Missing | Failed:
    """Return what it means that no name of an image led to its headers."""
    attempts = tuple(attempt for end in ends for attempt in end.attempts)
    for end in ends:
        if isinstance(end, Failed):
            return Failed(end.cause, attempts, end.detail)
    return Missing(Cause.IMAGE_NOT_PUBLISHED, attempts)


def _format_of(link: Link) -> PdbFormat:
    match link.key:
        case _ if link.is_embedded:
            return PdbFormat.EMBEDDED
        case PortablePdbKey():
            return PdbFormat.PORTABLE
        case Pdb2Key():
            return PdbFormat.PDB2
        case _:
            return PdbFormat.NATIVE
