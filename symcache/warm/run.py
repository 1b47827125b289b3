"""The main job: from inputs to a store that holds what a debugger will ask for, and a report of what does not exist."""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, TypeAlias

import anyio
from anyio import from_thread, to_thread

from symcache.errors import StoreError
from symcache.events import Noted, Planned, Settled, ignore
from symcache.identity import DbgKey, Pdb2Key, PdbKey, PortablePdbKey, published_keys
from symcache.inputs.detect import InputOptions, open_inputs
from symcache.inputs.image import image_module
from symcache.inputs.kerneldump import OF_COMPLETE_DUMPS
from symcache.inputs.records import ImageUse, Module, PdbFormat, PdbReference, Unreadable
from symcache.stores.links import ImageLinks, Link, StoreLinks
from symcache.stores.memory import Memory
from symcache.stores.results import Cause, Failed, Fetched, Missing, Present
from symcache.warm.kernel import read_kernel_layout
from symcache.warm.plan import (
    FileKind,
    ImageChoice,
    NothingToFetch,
    Plan,
    WantedFile,
    WantedPdbOfImage,
    kind_of,
    wants_of,
)
from symcache.warm.report import Report, Symbol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from symcache.events import Observer
    from symcache.formats.dump.processes import KernelLayout
    from symcache.formats.pe.image import Image
    from symcache.identity import ImageKey
    from symcache.inputs.kerneldump import ProcessSelection
    from symcache.inputs.records import Record
    from symcache.stores.results import Outcome
    from symcache.stores.source import SymbolSource
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

    Attributes:
        links: What images name, of those whose PDB was known by the image alone.
        unnamed: Images of which it is not known what they name.
    """

    def __init__(self, source: SymbolSource, plan: Plan | None = None, *, observer: Observer = ignore) -> None:
        self._source = source
        self._observer = observer
        self._plan = Plan() if plan is None else plan
        self._links = self._open_links()
        self.links: dict[ImageKey, tuple[Link, ...]] = {}
        self.unnamed: list[ImageKey] = []
        self._ends: dict[Want, Symbol] = {}
        self._named: dict[Want, Sequence[Want]] = {}
        self._pdbs_of: dict[str, tuple[Want, ...]] = {}
        self._unreadable: list[Unreadable] = []
        self._found_none = False
        self._began_s = time.monotonic()
        self._stopped = threading.Event()
        self._may_fetch = False

    def open_inputs(
        self, paths: Iterable[str | Path], processes: ProcessSelection | None = OF_COMPLETE_DUMPS
    ) -> Iterator[Record]:
        """Yield what *paths* hold, for `warm` or `check` of this object; see `symcache.inputs.open_inputs`.

        Where a dump's processes are, the kernel's PDB says, which is looked for on the symbol path.
        """
        self._found_none = True
        return open_inputs(paths, InputOptions(processes, self._find_kernel_layout))

    async def warm(self, records: Iterable[Record]) -> Report:
        """Fetch what *records* need; return what became of it.

        Cancelling the scope it runs in ends the work; `report` then tells what was done so far.
        """
        self._may_fetch = True
        await self._read(records)
        todo = await to_thread.run_sync(self._settle_locally, self._plan.wants)
        self._announce()
        queue = iter(todo)  # one for all workers: each takes what is next
        async with anyio.create_task_group() as group:
            for _ in range(min(self._source.max_connections, len(todo))):
                group.start_soon(self._work, queue)
        return self.report()

    async def check(self, records: Iterable[Record]) -> Report:
        """Return what *records* need and whether the store has it; nothing is asked for."""
        await self._read(records)
        for want in await to_thread.run_sync(self._settle_locally, self._plan.wants):
            detail = None if isinstance(want, WantedFile) else "which PDB the image names is not known here"
            self._settle(want, Missing(Cause.NOT_CACHED, detail=detail))
        return self.report()

    def report(self, *, is_interrupted: bool = False) -> Report:
        """Return what became of every want.

        Args:
            is_interrupted: The work was cancelled; what has no end yet failed for that reason.
        """
        if is_interrupted:
            self._stopped.set()
        ends = dict(self._ends)
        store = self._source.store
        return Report(
            symbol_path=self._source.config.symbol_path.redacted(),
            store=None if store is None else store.root,
            seconds=time.monotonic() - self._began_s,
            symbols=[self._with_kept(want, ends.get(want) or _cut_off(want)) for want in self._in_order()],
            unreadable=tuple(self._unreadable),
            images_left_out=self._plan.left_out,
            is_empty=self._found_none and not self._unreadable,
            is_interrupted=is_interrupted,
        )

    def _find_kernel_layout(self, kernel: Module) -> KernelLayout | None:
        """Return where *kernel* keeps its processes, as its PDB says, which is fetched for that where it may be.

        Called in the thread of the reader whose records `warm` or `check` takes in.
        """
        wants = list(wants_of(kernel, images=ImageChoice.NONE, all_pdbs=False))
        self._plan.add(wants)
        todo = self._settle_locally(wants)
        if self._may_fetch:
            from_thread.run(self._work, iter(todo))
        for want in wants:
            for named in self._named.get(want, [want]):
                outcome = self._ends[named].outcome if named in self._ends else None
                layout = read_kernel_layout(outcome.path) if isinstance(outcome, Present | Fetched) else None
                if layout is not None:
                    return layout
        return None

    def close(self) -> None:
        """Close what is remembered; safe to call twice."""
        self._stopped.set()
        self._links.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _in_order(self) -> Iterator[Want]:
        """Yield every want that has or needs an end, what an image turned out to name in that image's place."""
        named, wanted = dict(self._named), self._plan.wants
        later = {want for wants in named.values() for want in wants}
        current = set(wanted)
        for want in wanted:
            if want in named:
                yield from (found for found in named[want] if found in current)
            elif want not in later:
                yield want

    def _with_kept(self, want: Want, symbol: Symbol) -> Symbol:
        """Return *symbol* with the PDBs that are at hand and of no use to a debugger without it."""
        is_at_hand = isinstance(symbol.outcome, Present | Fetched)
        if is_at_hand or not isinstance(want, WantedFile) or want.use in {None, ImageUse.CODE}:
            return symbol
        ends = (self._ends.get(pdb) for pdb in self._pdbs_of.get(want.key.folded, ()))
        kept = [end.index for end in ends if end is not None and isinstance(end.outcome, Present | Fetched)]
        return replace(symbol, keeps=tuple(index for index in kept if index is not None))

    async def _read(self, records: Iterable[Record]) -> None:
        """Take in all records, in a thread: readers block, and a folder may take a while."""

        def take_in() -> None:
            for record in records:
                if self._stopped.is_set():
                    return
                if isinstance(record, Module):
                    self._found_none = False
                    self._plan.add_module(record)
                elif isinstance(record, Unreadable):
                    self._unreadable.append(record)

        # A reader that waits for a pipe cannot be told to stop, so that a cancelled run goes on without it.
        await to_thread.run_sync(take_in, abandon_on_cancel=True)

    def _settle_locally(self, wants: Sequence[Want]) -> list[OpenWant]:
        """Settle every want that needs no network; return the others, with hops resolved that were made before."""
        todo: list[OpenWant] = []
        for want in wants:
            from_thread.check_cancelled()
            if want in self._ends or want in self._named:
                continue  # the PDB of a kernel whose dump could not be read without it
            left = (self._settle_at_once(resolved) for resolved in self._resolve_locally(want))
            todo.extend(want for want in left if want is not None)
        return todo

    def _resolve_locally(self, want: Want) -> Sequence[Want]:
        if not isinstance(want, WantedPdbOfImage):
            return [want]
        known = self._links.recall(want.image)
        if known is not None:
            return self._resolve(want, _module_of(want, known), known)
        try:
            image = self._source.find_image(want.image)
        except StoreError as error:
            if self._may_fetch:
                return [want]
            self._settle(want, Failed(Cause.DISK, detail=str(error)))
            return ()
        if image is None:
            return [want]
        module, links = _read_links(want, image)
        self._remember(want, module, links)
        return self._resolve(want, module, links)

    def _settle_at_once(self, want: Want) -> OpenWant | None:
        """Settle *want* if that needs no network, else return it."""
        if isinstance(want, NothingToFetch):
            self._settle(want, Missing(want.cause, hint=want.hint))
            return None
        outcome: Outcome | None
        if isinstance(want, WantedFile):
            is_excluded = self._source.is_excluded(want.key)
            outcome = Missing(Cause.EXCLUDED) if is_excluded else self._find(want)
        else:
            is_excluded = all(map(self._source.is_excluded, published_keys(want.image)))
            outcome = Missing(Cause.EXCLUDED) if is_excluded else None
        if outcome is None:
            return want
        self._settle(want, outcome)
        return None

    def _find(self, want: WantedFile) -> Present | Failed | None:
        """Look for *want* where files are opened from or, if nothing is fetched, wherever on disk a debugger looks."""
        if self._may_fetch:
            return self._source.find(want.key, want.checksums)
        try:
            return self._source.find_for_debugger(want.key, want.checksums)
        except StoreError as error:
            return Failed(Cause.DISK, detail=str(error))

    async def _work(self, wants: Iterator[OpenWant]) -> None:
        for want in wants:
            if isinstance(want, WantedFile):
                await self._fetch(want)
            else:
                await self._hop(want)

    async def _fetch(self, want: WantedFile) -> None:
        self._settle(want, await self._source.fetch(want.key, want.checksums))

    async def _hop(self, want: WantedPdbOfImage) -> None:
        """Make two hops: read the image's headers where it is published, then fetch what they name."""
        async with self._source.turn(want.image) as had_to_wait:
            # Whoever had the turn before has noted what the headers say.
            known = await to_thread.run_sync(self._links.recall, want.image) if had_to_wait else None
            if known is None:
                named = await self._resolve_published(want)
            else:
                named = self._resolve(want, _module_of(want, known), known)
        self._announce()
        for left in [await to_thread.run_sync(self._settle_at_once, each) for each in named]:
            if isinstance(left, WantedFile):
                await self._fetch(left)

    async def _resolve_published(self, want: WantedPdbOfImage) -> Sequence[Want]:
        """Put what the published image names in the place of *want*; settle it if the image is not published."""
        image = await self._read_image(want.image)
        if isinstance(image, Missing | Failed):
            self._settle(want, _end_of_hop(image))
            return ()
        module, links = _read_links(want, image)
        await to_thread.run_sync(self._remember, want, module, links)  # the store may be a slow share
        return self._resolve(want, module, links)

    async def _read_image(self, key: ImageKey) -> Image | Missing | Failed:
        for whole in self._plan.whole_images(key):
            # It comes whole in any case; whoever else fetches it just now shares that.
            outcome = await self._source.fetch(whole)
            if isinstance(outcome, Present | Fetched):
                with suppress(StoreError):  # no room to expand what lies packed in another store
                    image = await to_thread.run_sync(self._source.find_image, key)
                    if image is not None:
                        return image
        return await self._source.read_image(key)

    def _remember(self, want: WantedPdbOfImage, module: Module, links: tuple[Link, ...]) -> None:
        """Remember what *want*'s image names; a check leaves the store as it is."""
        if self._may_fetch and not module.unusable_pdb:
            self._links.remember(want.image, links)

    def _resolve(self, want: WantedPdbOfImage, module: Module, links: tuple[Link, ...]) -> Sequence[Want]:
        """Put what *module* needs in the place of *want*; return those of its wants that nobody had before."""
        self.links[want.image] = links
        for whole in self._plan.whole_images(want.image):
            self._pdbs_of[whole.folded] = tuple(wants_of(module, images=ImageChoice.NONE, all_pdbs=False))
        self._named[want] = fresh = self._plan.add_files_of(module)
        return fresh

    def _announce(self) -> None:
        self._observer(Planned(len(self._plan) - len(self._named)))

    def _settle(self, want: Want, outcome: Outcome) -> None:
        if isinstance(want, WantedPdbOfImage):
            if not want.is_presumed and outcome != Missing(Cause.EXCLUDED):
                self.unnamed.append(want.image)
            if self._goes_without_saying(want, outcome):
                self._named[want] = ()
                self._announce()
                return
        symbol = _symbol(want, outcome)
        self._ends[want] = symbol
        self._observer(Settled(symbol.index or symbol.module, symbol.state))

    def _goes_without_saying(self, want: WantedPdbOfImage, outcome: Outcome) -> bool:
        """Say whether another line of the report tells already how *want*, whose image could not be had, ended."""
        if self._plan.whole_images(want.image):
            return True
        # Nothing speaks against the PDB that is wanted already.
        return want.is_presumed and isinstance(outcome, Missing)

    def _open_links(self) -> ImageLinks:
        memory: Memory | None = None
        try:
            memory = Memory(self._source.config.misses.folder / "images")
        except StoreError as error:
            self._observer(Noted(f"{error}; what images name is remembered in the store alone"))
        downstream = self._source.downstream_stores
        stores = sorted(self._source.stores, key=lambda store: store not in downstream)
        return ImageLinks(memory, [StoreLinks(store.root) for store in stores])


def _symbol(want: Want, outcome: Outcome) -> Symbol:
    match want:
        case WantedFile(module, key):
            return Symbol(key.index, kind_of(key), module, outcome, use=want.use, reload=want.reload)
        case WantedPdbOfImage(module, image, _):
            return Symbol(image.index, FileKind.PDB, module, outcome)
        case NothingToFetch(module, kind, _, known, detail, _):
            return Symbol(None if known is None else known.index, kind, module, outcome, detail)


def _cut_off(want: Want) -> Symbol:
    """Return how *want* ends if the work is cancelled before it has an end."""
    if isinstance(want, NothingToFetch):
        return _symbol(want, Missing(want.cause, hint=want.hint))
    return _symbol(want, Failed(Cause.UNAVAILABLE, detail="interrupted"))


def _end_of_hop(end: Missing | Failed) -> Missing | Failed:
    """Return what it means for a PDB that its image's headers could not be had."""
    return end if isinstance(end, Failed) else replace(end, cause=Cause.IMAGE_NOT_PUBLISHED)


def _read_links(want: WantedPdbOfImage, image: Image) -> tuple[Module, tuple[Link, ...]]:
    """Return *want*'s module as *image* shows it, and what is remembered of that."""
    module = replace(image_module(image, want.image.name), name=want.module)
    if not (module.pdbs or module.dbg):
        # Damaged debug data names nothing either, and another hop would bring no more.
        module = replace(module, no_debug_record=True)
    return module, tuple(_links_of(module))


def _links_of(module: Module) -> Iterator[Link]:
    for pdb in module.pdbs:
        yield Link(pdb.key, pdb.format is PdbFormat.EMBEDDED, pdb.checksums)
    if isinstance(module.dbg, DbgKey):
        yield Link(module.dbg)


def _module_of(want: WantedPdbOfImage, links: Sequence[Link]) -> Module:
    """Return what is known of *want*'s module by what its image was seen to name."""
    pdbs: list[PdbReference] = []
    dbg: DbgKey | None = None
    for link in links:
        match link.key:
            case DbgKey() as dbg:
                pass
            case PortablePdbKey() as key:
                format_ = PdbFormat.EMBEDDED if link.is_embedded else PdbFormat.PORTABLE
                pdbs.append(PdbReference(key, format_, link.checksums))
            case Pdb2Key() as key:
                pdbs.append(PdbReference(key, PdbFormat.PDB2))
            case PdbKey() as key:
                pdbs.append(PdbReference(key, PdbFormat.NATIVE))
    return Module(want.module, image=want.image, pdbs=tuple(pdbs), dbg=dbg, no_debug_record=not links)
