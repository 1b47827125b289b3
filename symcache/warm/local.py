"""A run as far as it goes without a network: what is wanted, what the disk has, what became of everything.

Neither an event loop nor HTTP is imported here; what `LocalRun` leaves open, `symcache.warm.run` fetches.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import StoreError
from symcache.events import Noted, Planned, Settled, ignore
from symcache.identity import DbgKey, PortablePdbKey, published_keys
from symcache.inputs.detect import InputOptions, open_inputs
from symcache.inputs.records import (
    OF_COMPLETE_DUMPS,
    ImageUse,
    KernelPdbWanted,
    Module,
    PdbFormat,
    PdbReference,
    Unreadable,
    reference_to,
)
from symcache.stores.results import Cause, Failed, Fetched, Missing, Present
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
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from typing import Self

    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.identity import ImageKey, Key
    from symcache.inputs.detect import InputSource
    from symcache.inputs.records import ProcessSelection, Record
    from symcache.stores.disk import DiskSource
    from symcache.stores.links import ImageLinks, Link
    from symcache.stores.results import Outcome
    from symcache.warm.plan import Want

# What the network has to be asked for.
OpenWant: TypeAlias = WantedFile | WantedPdbOfImage

# From how many keys on listing a store costs less than looking for each of them.
_LISTED_FROM_KEYS = 64
_CHECKED_EVERY = 64


@dataclass(frozen=True, slots=True)
class Pause:
    """The reader that made *request* waits for a PDB: one of *wants*, of which the network is asked for *todo*."""

    request: KernelPdbWanted
    wants: Sequence[Want]
    todo: Sequence[OpenWant]


class LocalRun:
    """Takes records in, settles what the places on disk settle, and reports.

    *source* can be changed for one that has a network. Unless it *may_fetch* afterwards, stores are left as they are.
    """

    def __init__(
        self, source: DiskSource, plan: Plan | None = None, *, observer: Observer = ignore, may_fetch: bool = False
    ) -> None:
        self.source = source
        self.may_fetch = may_fetch
        self.plan = Plan() if plan is None else plan
        self.links: dict[ImageKey, tuple[Link, ...]] = {}  # of images that alone name their PDB
        self.unnamed: list[ImageKey] = []  # of which it is not known what they name
        self._observer = observer
        self._ends: dict[Want, Symbol] = {}
        self._named: dict[Want, Sequence[Want]] = {}
        self._pdbs_of: dict[str, tuple[Want, ...]] = {}
        self._unreadable: list[Unreadable] = []
        self._found_none = False
        self._pause: Pause | None = None
        self._began_s = time.monotonic()
        self._stopped = threading.Event()

    def open_inputs(
        self, inputs: Iterable[InputSource], processes: ProcessSelection | None = OF_COMPLETE_DUMPS
    ) -> Iterator[Record]:
        """Yield what *inputs* hold, to be read by this object; see `symcache.inputs.detect.open_inputs`."""
        self._found_none = True
        return open_inputs(inputs, InputOptions(processes))

    def check(self, records: Iterable[Record], check_cancelled: Callable[[], None] = lambda: None) -> Report:
        """Return what *records* need and whether the disk has it; nothing is asked for.

        *check_cancelled* is called now and then and raises to end it.
        """
        self.read(iter(records))
        for want in self.settle_at_hand(None, check_cancelled):
            detail = None if isinstance(want, WantedFile) else "which PDB the image names is not known here"
            self.settle(want, Missing(Cause.NOT_CACHED, detail=detail))
        return self.report()

    def begin(self, records: Iterator[Record]) -> bool:
        """Take *records* in and settle what is at hand, as far as that goes; return whether that was all."""
        self._pause = self.read(records)
        is_done = self._pause is None and not self.settle_at_hand()
        self.announce()
        return is_done

    def read(self, records: Iterator[Record]) -> Pause | None:
        """Take *records* in; return where they cannot be read on before something is fetched, None at their end.

        After a pause is answered the same *records* are read on.
        """
        if self._pause is not None:
            pause, self._pause = self._pause, None
            return pause
        for record in records:
            if self._stopped.is_set():
                return None
            if isinstance(record, Module):
                self._found_none = False
                self.plan.add_module(record)
            elif isinstance(record, Unreadable):
                self._unreadable.append(record)
            elif isinstance(record, KernelPdbWanted):
                wants = list(wants_of(record.kernel, images=ImageChoice.NONE, all_pdbs=False))
                self.plan.add(wants)
                pause = Pause(record, wants, self.settle_at_hand(wants))
                self.answer(pause)
                if pause.todo and self.may_fetch:
                    return pause
        return None

    def answer(self, pause: Pause) -> None:
        """Tell the reader which PDB there is; none, if none could be had."""
        for want in pause.wants:
            for named in self._named.get(want, [want]):
                outcome = self._ends[named].outcome if named in self._ends else None
                if isinstance(outcome, Present | Fetched):
                    pause.request.pdb = outcome.path
                    return

    def settle_at_hand(
        self, wants: Iterable[Want] | None = None, check_cancelled: Callable[[], None] = lambda: None
    ) -> list[OpenWant]:
        """Settle those of *wants*, or of everything wanted, that need no network; return the others, in order.

        Hops that were made before are resolved. *check_cancelled* is called now and then and raises to end it.
        """
        # Settled are the PDB of a kernel whose dump could not be read without it, and what a first look settled.
        left = list(self.plan.wants if wants is None else wants)
        if self._ends or self._named:
            left = [want for want in left if want not in self._ends and want not in self._named]
        left = self._settle_at_a_glance(left, check_cancelled)
        keys = [want.key for want in left if isinstance(want, WantedFile)]
        held = self.source.seem_held(keys) if len(keys) >= _LISTED_FROM_KEYS else None
        todo: list[OpenWant] = []
        for number, want in enumerate(left):
            if number % _CHECKED_EVERY == 0:
                check_cancelled()
            if isinstance(want, WantedFile) and held is not None and want.key.folded not in held:
                if not self._settle_excluded(want, [want.key]):
                    todo.append(want)
                continue
            rest = (self.settle_at_once(resolved) for resolved in self._resolve_locally(want))
            todo.extend(want for want in rest if want is not None)
        return todo

    def _settle_at_a_glance(self, wants: Sequence[Want], check_cancelled: Callable[[], None]) -> list[Want]:
        """Settle the files that lie where they are expected; return the other *wants*."""
        keys = (want.key for want in wants if isinstance(want, WantedFile))
        glances = self.source.glance(keys, for_debugger=not self.may_fetch)
        left: list[Want] = []
        for number, want in enumerate(wants):
            if number % _CHECKED_EVERY == 0:
                check_cancelled()
            present = next(glances) if isinstance(want, WantedFile) else None
            if present is None or not isinstance(want, WantedFile) or self.source.is_excluded(want.key):
                left.append(want)
            else:
                self.settle(want, present)
        return left

    def report(self, *, is_interrupted: bool = False) -> Report:
        """Return what became of every want; in a run that *is_interrupted* what has no end yet failed for that."""
        if is_interrupted:
            self._stopped.set()
        ends = dict(self._ends)
        store = self.source.store
        return Report(
            symbol_path=self.source.config.symbol_path.redacted(),
            store=None if store is None else store.root,
            seconds=time.monotonic() - self._began_s,
            symbols=[self._with_kept(want, ends.get(want) or _cut_off(want)) for want in self._in_order()],
            unreadable=tuple(self._unreadable),
            images_left_out=self.plan.left_out,
            is_empty=self._found_none and not self._unreadable,
            is_interrupted=is_interrupted,
        )

    def close(self) -> None:
        """Close what is remembered; safe to call twice."""
        self._stopped.set()
        if "_image_links" in self.__dict__:
            self._image_links.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _in_order(self) -> Iterator[Want]:
        """Yield every want that has or needs an end, what an image turned out to name in that image's place."""
        if not self._named:
            yield from self.plan.wants
            return
        named, wanted = dict(self._named), self.plan.wants
        later = {want for wants in named.values() for want in wants}
        current = set(wanted)
        for want in wanted:
            if want in named:
                yield from (found for found in named[want] if found in current)
            elif want not in later:
                yield want

    def _with_kept(self, want: Want, symbol: Symbol) -> Symbol:
        """Return *symbol* with the PDBs that are at hand and of no use to a debugger without it."""
        if not isinstance(want, WantedFile) or want.use is None or want.use is ImageUse.CODE or symbol.is_at_hand:
            return symbol
        ends = (self._ends.get(pdb) for pdb in self._pdbs_of.get(want.key.folded, ()))
        kept = (end.index for end in ends if end is not None and end.is_at_hand)
        return replace(symbol, keeps=tuple(index for index in kept if index is not None))

    def _resolve_locally(self, want: Want) -> Sequence[Want]:
        if not isinstance(want, WantedPdbOfImage):
            return [want]
        known = self.recall(want.image)
        if known is not None:
            return self.resolve(want, module_of(want, known), known)
        try:
            image = self.source.find_image(want.image)
        except StoreError as error:
            if self.may_fetch:
                return [want]
            self.settle(want, Failed(Cause.DISK, detail=str(error)))
            return ()
        if image is None:
            return [want]
        module, links = read_links(want, image)
        self.remember(want, module, links)
        return self.resolve(want, module, links)

    def settle_at_once(self, want: Want) -> OpenWant | None:
        """Settle *want* if that needs no network, else return it."""
        if isinstance(want, NothingToFetch):
            self.settle(want, Missing(want.cause, hint=want.hint))
            return None
        if self._settle_excluded(want, [want.key] if isinstance(want, WantedFile) else published_keys(want.image)):
            return None
        outcome = self._find(want) if isinstance(want, WantedFile) else None
        if outcome is None:
            return want
        self.settle(want, outcome)
        return None

    def _settle_excluded(self, want: OpenWant, names: Sequence[Key]) -> bool:
        """Settle *want* if the configuration excludes all its *names*; return whether it does."""
        is_excluded = all(map(self.source.is_excluded, names))
        if is_excluded:
            self.settle(want, Missing(Cause.EXCLUDED))
        return is_excluded

    def _find(self, want: WantedFile) -> Present | Failed | None:
        """Look for *want* where files are opened from or, if nothing is fetched, wherever on disk a debugger looks."""
        if self.may_fetch:
            return self.source.find(want.key, want.checksums)
        try:
            return self.source.find_for_debugger(want.key, want.checksums)
        except StoreError as error:
            return Failed(Cause.DISK, detail=str(error))

    def recall(self, image: ImageKey) -> tuple[Link, ...] | None:
        """Return what *image* names, if an earlier run has seen it."""
        return self._image_links.recall(image)

    def remember(self, want: WantedPdbOfImage, module: Module, links: tuple[Link, ...]) -> None:
        """Remember what *want*'s image names; a check leaves the store as it is."""
        if self.may_fetch and not module.unusable_pdb:
            self._image_links.remember(want.image, links)

    def resolve(self, want: WantedPdbOfImage, module: Module, links: tuple[Link, ...]) -> Sequence[Want]:
        """Put what *module* needs in the place of *want*; return those of its wants that are new."""
        self.links[want.image] = links
        for whole in self.plan.whole_images(want.image):
            self._pdbs_of[whole.folded] = tuple(wants_of(module, images=ImageChoice.NONE, all_pdbs=False))
        self._named[want] = fresh = self.plan.add_files_of(module)
        return fresh

    def announce(self) -> None:
        """Tell how much is wanted."""
        self._observer(Planned(len(self.plan) - len(self._named)))

    def settle(self, want: Want, outcome: Outcome) -> None:
        """Note how *want* ended."""
        if isinstance(want, WantedPdbOfImage):
            if not want.is_presumed and outcome != Missing(Cause.EXCLUDED):
                self.unnamed.append(want.image)
            if self._goes_without_saying(want, outcome):
                self._named[want] = ()
                self.announce()
                return
        symbol = _symbol(want, outcome)
        self._ends[want] = symbol
        self._observer(Settled(symbol.index or symbol.module, symbol.state))

    def _goes_without_saying(self, want: WantedPdbOfImage, outcome: Outcome) -> bool:
        """Say whether another line of the report tells already how *want*, whose image could not be had, ended."""
        # Where the PDB is wanted already, nothing speaks against that one.
        return bool(self.plan.whole_images(want.image)) or (want.is_presumed and isinstance(outcome, Missing))

    @cached_property
    def _image_links(self) -> ImageLinks:
        from symcache.stores.links import ImageLinks, StoreLinks  # noqa: PLC0415 - with SQLite, for images alone
        from symcache.stores.memory import Memory  # noqa: PLC0415

        memory: Memory | None = None
        try:
            memory = Memory(self.source.config.misses.folder / "images")
        except StoreError as error:
            self._observer(Noted(f"{error}; what images name is remembered in the store alone"))
        downstream = self.source.downstream_stores
        stores = sorted(self.source.stores, key=lambda store: store not in downstream)
        return ImageLinks(memory, [StoreLinks(store.root) for store in stores])


def _symbol(want: Want, outcome: Outcome) -> Symbol:
    if isinstance(want, WantedFile):
        key = want.key
        return Symbol(key.index, kind_of(key), want.module, outcome, None, want.use, want.reload)
    if isinstance(want, WantedPdbOfImage):
        return Symbol(want.image.index, FileKind.PDB, want.module, outcome)
    return Symbol(None if want.key is None else want.key.index, want.kind, want.module, outcome, want.detail)


def _cut_off(want: Want) -> Symbol:
    """Return how *want* ends if the work is cancelled before it has an end."""
    if isinstance(want, NothingToFetch):
        return _symbol(want, Missing(want.cause, hint=want.hint))
    return _symbol(want, Failed(Cause.UNAVAILABLE, detail="interrupted"))


def read_links(want: WantedPdbOfImage, image: Image) -> tuple[Module, tuple[Link, ...]]:
    """Return *want*'s module as *image* shows it, and what is remembered of that."""
    from symcache.inputs.image import image_module  # noqa: PLC0415
    from symcache.stores.links import Link  # noqa: PLC0415

    module = replace(image_module(image, want.image.name), name=want.module)
    if not (module.pdbs or module.dbg):
        # Damaged debug data names nothing either, and another hop would bring no more.
        module = replace(module, no_debug_record=True)
    links = [Link(pdb.key, pdb.format is PdbFormat.EMBEDDED, pdb.checksums) for pdb in module.pdbs]
    if isinstance(module.dbg, DbgKey):
        links.append(Link(module.dbg))
    return module, tuple(links)


def module_of(want: WantedPdbOfImage, links: Sequence[Link]) -> Module:
    """Return what is known of *want*'s module by what its image was seen to name."""
    pdbs: list[PdbReference] = []
    for link in links:
        reference = reference_to(link.key)
        if reference is not None and isinstance(link.key, PortablePdbKey):
            # Others can write to a shared store, and no other kind of PDB lies in an image or has checksums there.
            format_ = PdbFormat.EMBEDDED if link.is_embedded else reference.format
            reference = PdbReference(reference.key, format_, link.checksums)
        if reference is not None:
            pdbs.append(reference)
    dbg = next((link.key for link in reversed(links) if isinstance(link.key, DbgKey)), None)
    return Module(want.module, image=want.image, pdbs=tuple(pdbs), dbg=dbg, no_debug_record=not links)
