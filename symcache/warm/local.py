"""A run as far as it goes without a network: what is wanted, what the disk has, what became of everything.

Neither an event loop nor HTTP is imported here; what `LocalRun` leaves open, `symcache.warm.run` fetches.
"""

from __future__ import annotations

import threading
import time
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, TypeAlias, TypeGuard

from symcache.errors import OtherBytes, StoreError
from symcache.events import Noted, Planned, Settled, ignore
from symcache.identity import DbgKey, PortablePdbKey, published_keys
from symcache.inputs.detect import InputOptions, open_inputs
from symcache.inputs.records import (
    OF_COMPLETE_DUMPS,
    CrashStack,
    DocumentsWanted,
    ImageUse,
    Input,
    KernelPdbWanted,
    Module,
    Narrowed,
    PdbFolder,
    PdbFormat,
    PdbReference,
    Remark,
    Unreadable,
    locked_hashes,
    reference_to,
    stated_by_image,
)
from symcache.inputs.runtimes import library_keys, own_key, with_facts
from symcache.stores.results import Cause, Failed, Fetched, Hint, Missing, Present, kept_other
from symcache.warm.origins import Origins
from symcache.warm.plan import (
    FileKind,
    ImageChoice,
    NothingToFetch,
    Plan,
    WantedFile,
    WantedLibraries,
    WantedPdbOfAny,
    WantedPdbOfImage,
    kind_of,
    wants_of,
)
from symcache.warm.report import Guess, Report, Symbol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path
    from typing import Self

    from symcache.config import Inputs
    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.identity import ImageKey, Key
    from symcache.inputs.detect import InputSource
    from symcache.inputs.records import Document, ProcessSelection, Record
    from symcache.stores.disk import DiskSource
    from symcache.stores.links import ImageLinks, Link
    from symcache.stores.results import Outcome
    from symcache.warm.plan import Want

# What the network has to be asked for.
OpenWant: TypeAlias = WantedFile | WantedPdbOfImage | WantedPdbOfAny | WantedLibraries

# Without such an image the debugger does not load the PDBs that it has.
_FOR_SYMBOLS = frozenset({ImageUse.SYMBOLS, ImageUse.BY_HAND})

_FAILURES = frozenset({Cause.UNAVAILABLE, Cause.REFUSED, Cause.WRONG_CONTENT, Cause.DISK})

# From how many keys on listing a store costs less than looking for each of them.
_LISTED_FROM_KEYS = 64
_CHECKED_EVERY = 64


@dataclass(frozen=True, slots=True)
class Pause:
    """The reader that made *request* waits for a PDB or for *documents*.

    The PDB is one of *wants*, of which the network is asked for *todo*.
    """

    request: KernelPdbWanted | DocumentsWanted
    wants: Sequence[Want] = ()
    todo: Sequence[OpenWant] = ()
    documents: Sequence[Document] = ()


class LocalRun:
    """Takes records in, settles what the places on disk settle, and reports.

    *source* can be changed for one that has a network. Unless it *may_fetch* afterwards, stores are left as they are.
    *tell_end* is told how each wanted file ended, from any thread. *cores* is that of `InputOptions`.
    """

    def __init__(
        self,
        source: DiskSource,
        plan: Plan | None = None,
        *,
        observer: Observer = ignore,
        may_fetch: bool = False,
        tell_end: Callable[[Symbol], None] = lambda _: None,
        cores: int | None = 1,
    ) -> None:
        self.source = source
        self.may_fetch = may_fetch
        self.plan = Plan() if plan is None else plan
        self.links: dict[ImageKey, tuple[Link, ...]] = {}  # of images that alone name their PDB
        self.unnamed: list[ImageKey] = []  # of which it is not known what they name
        self.folders: list[Path] = []  # beside inputs, which any other source has to be told of, too
        self._cores = cores
        self._observer = observer
        self._tell_end = tell_end
        self.published_versions: dict[ImageKey, VersionInfo] = {}  # what servers have in images that are not here
        self._ends: dict[Want, Symbol] = {}
        self._named: dict[Want, Sequence[Want]] = {}
        self._pdbs_of: dict[str, tuple[Want, ...]] = {}
        self._unreadable: list[Unreadable] = []
        self._found_none = False
        self._narrowed: Narrowed | None = None
        self._guesses: dict[Want, Guess] = {}
        self._origins = Origins()
        self._has_stack: dict[str, bool] = {}  # by the path of the input
        self._pause: Pause | None = None
        self._began_s = time.monotonic()
        self._stopped = threading.Event()

    def open_inputs(
        self,
        inputs: Iterable[InputSource],
        processes: ProcessSelection | None = OF_COMPLETE_DUMPS,
        sets: Sequence[str] = (),
        *,
        limits: Inputs | None = None,
        runs_programs: bool = True,
    ) -> Iterator[Record]:
        """Yield what *inputs* hold, to be read by this object; see `symcache.inputs.detect.open_inputs`.

        With *sets* only modules of these count. *limits* say how far archives are read; the settings do where they are
        None. *runs_programs* is that of `InputOptions`. Where only stacks count, no processes are looked for: the stack
        of a kernel dump is the kernel's.

        Raises:
            UsageError: One of the *sets* is not known.
        """
        self._found_none = True
        processes = None if self.plan.stack_only else processes
        config = self.source.config
        options = InputOptions(
            processes,
            tuple(sets),
            config.sets,
            config.builds,
            limits or config.inputs,
            self._cores,
            self._observer,
            runs_programs,
        )
        return open_inputs(inputs, options)

    def check(self, records: Iterable[Record], check_cancelled: Callable[[], None] = lambda: None) -> Report:
        """Return what *records* need and whether the disk has it; nothing is asked for.

        *check_cancelled* is called now and then and raises to end it.
        """
        self.read(iter(records))
        self.announce()
        for want in self.settle_at_hand(None, check_cancelled):
            if isinstance(want, WantedLibraries):
                self._settle_unread(want)
                continue
            detail = None if isinstance(want, WantedFile) else "which PDB the image names is not known here"
            if isinstance(want, WantedPdbOfAny):
                detail = f"none of the {len(want.images)} sizes that the image can have is here"
            self.settle(want, Missing(Cause.NOT_CACHED, detail=detail))
        return self.report()

    def _settle_unread(self, want: WantedLibraries) -> None:
        """Settle what of *want* is at hand, and the rest as not here, where the runtime's image is not here."""
        for named in self.resolve_unread(want, Missing(Cause.NOT_CACHED)):
            left = self.settle_at_once(named)
            if left is not None:
                self.settle(left, Missing(Cause.NOT_CACHED))

    def begin(self, records: Iterator[Record]) -> bool:
        """Take *records* in and settle what is at hand, as far as that goes; return whether that was all."""
        self._pause = self.read(records)
        self.announce()
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
                self._origins.add(record)
            elif isinstance(record, Input):
                self._origins.begin(record)
                self._has_stack.setdefault(record.path, False)
            elif isinstance(record, CrashStack):
                self.plan.add_stack(record)
                self._has_stack["" if self._origins.now is None else self._origins.now.path] = True
            elif isinstance(record, Unreadable):
                self._unreadable.append(record)
            elif isinstance(record, PdbFolder):
                self.folders.append(record.path)
                self.source.add_folder(record.path)
            elif isinstance(record, Narrowed):
                self._narrowed = record
            elif isinstance(record, KernelPdbWanted) and not self.plan.stack_only:
                wants = list(wants_of(record.kernel, images=ImageChoice.NONE, all_pdbs=False))
                self.plan.add(wants)
                pause = Pause(record, wants, self.settle_at_hand(wants))
                self.answer(pause)
                if pause.todo and self.may_fetch:
                    return pause
            elif isinstance(record, DocumentsWanted):
                left = self.source.documents.answer(record.documents, may_fetch=self.may_fetch)
                if left:
                    return Pause(record, documents=left)
            elif isinstance(record, Remark):
                self._observer(Noted(record.text))
        return None

    def answer(self, pause: Pause) -> None:
        """Tell the reader which PDB there is; none, if none could be had. Documents are answered where they are."""
        if not isinstance(pause.request, KernelPdbWanted):
            return
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
        keys = [key for want in left if isinstance(want, WantedFile) for key in want.keys]
        # Buckets are asked for many at a time.
        held = self.source.seem_held(keys) if len(keys) >= _LISTED_FROM_KEYS or self.source.buckets else None
        todo: list[OpenWant] = []
        for number, want in enumerate(left):
            if number % _CHECKED_EVERY == 0:
                check_cancelled()
            if isinstance(want, WantedFile) and held is not None and held.isdisjoint(key.folded for key in want.keys):
                if not self._settle_excluded(want, [want.key]):
                    todo.append(want)
                continue
            rest = (self.settle_at_once(resolved) for resolved in self._resolve_locally(want))
            todo.extend(want for want in rest if want is not None)
        return todo

    def _settle_at_a_glance(self, wants: Sequence[Want], check_cancelled: Callable[[], None]) -> list[Want]:
        """Settle the files that lie where they are expected; return the other *wants*."""
        keys = (want.key for want in wants if _tells_at_a_glance(want))
        glances = self.source.glance(keys, for_debugger=not self.may_fetch)
        left: list[Want] = []
        for number, want in enumerate(wants):
            if number % _CHECKED_EVERY == 0:
                check_cancelled()
            present = next(glances) if _tells_at_a_glance(want) else None
            if present is None or not isinstance(want, WantedFile) or self.source.is_excluded(want.key):
                left.append(want)
            else:
                self.settle(want, present)
        return left

    def report(self, *, is_interrupted: bool = False, only_settled: bool = False) -> Report:
        """Return what became of every want; in a run that *is_interrupted* what has no end yet failed for that.

        With *only_settled* what has no end yet is left out.
        """
        if is_interrupted:
            self._stopped.set()
        ends = dict(self._ends)
        wants = [want for want in self._in_order() if (want in ends or not only_settled) and self._counts(want)]
        symbols = [self._with_kept(want, ends.get(want) or _cut_off(want)) for want in wants]
        store = self.source.store
        return Report(
            symbol_path=self.source.config.symbol_path.redacted(),
            store=None if store is None else store.root,
            seconds=time.monotonic() - self._began_s,
            symbols=self._with_origins(symbols, may_read=not (is_interrupted or only_settled)),
            inputs=tuple(self._origins.inputs),
            unreadable=tuple(self._unreadable),
            images_left_out=self.plan.left_out,
            guesses=tuple(self._guesses.values()),
            narrowed=self._narrowed,
            is_empty=self._found_none and not self._unreadable,
            is_interrupted=is_interrupted,
            without_stack=self._without_stack(),
            stack_only=self.plan.stack_only,
        )

    def _counts(self, want: Want) -> bool:
        """Say whether *want* is to be told of: a PDB that the image turned out not to name only if it is at hand."""
        return not self.plan.is_conversion(want) or (want in self._ends and self._ends[want].is_at_hand)

    def _without_stack(self) -> tuple[str, ...]:
        """Return the inputs that nothing was wanted of because they have no stack."""
        if not self.plan.stack_only:
            return ()
        return tuple(path for path, has_stack in self._has_stack.items() if not has_stack)

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
        """Return *symbol* with whether it is on a stack, and the PDBs at hand that are of no use without it."""
        if self.plan.is_on_stack(want):
            symbol = replace(symbol, on_stack=True)
        if not isinstance(want, WantedFile) or want.use not in _FOR_SYMBOLS or symbol.is_at_hand:
            return symbol
        ends = (self._ends.get(pdb) for pdb in self._pdbs_of.get(want.key.folded, ()))
        kept = (end.index for end in ends if end is not None and end.is_at_hand)
        return replace(symbol, keeps=tuple(index for index in kept if index is not None))

    def wanted_by(self, symbol: Symbol) -> tuple[str, ...]:
        """Return the base names of the inputs whose modules need *symbol*, in their order; none of standard input."""
        return self._origins.names_of(symbol.index or "")

    def _with_origins(self, symbols: list[Symbol], *, may_read: bool) -> list[Symbol]:
        """Return *symbols* with what is known of the modules whose files are wanting; see `explain`."""
        if not any(symbol.is_wanting for symbol in symbols):
            return symbols
        from symcache.warm.makers import explain  # noqa: PLC0415 - where something is missing alone

        return explain(symbols, self._origins.modules, self.source if may_read else None, self.published_versions)

    def _resolve_locally(self, want: Want) -> Sequence[Want]:
        if isinstance(want, WantedLibraries):
            with suppress(StoreError):  # no room to expand the image
                if (facts := self.source.find_runtime(want.image)) is not None:
                    return self.resolve_libraries(want, facts)
            return [want]
        if not isinstance(want, WantedPdbOfImage | WantedPdbOfAny):
            return [want]
        for key in _images_of(want):
            known = self.recall(key)
            if known is not None:
                return self.resolve(want, module_of(want.module, key, known), known)
            try:
                image = self.source.find_image(key)
            except StoreError as error:
                if self.may_fetch:
                    return [want]
                self.settle(want, Failed(Cause.DISK, detail=str(error)))
                return ()
            if image is not None:
                module, links = read_links(want.module, key, image)
                self.remember(module, links)
                return self.resolve(want, module, links)
        return [want]

    def settle_at_once(self, want: Want) -> OpenWant | None:
        """Settle *want* if that needs no network, else return it."""
        if isinstance(want, NothingToFetch):
            self.settle(want, self._find_unlocked(want) or _end_of(want))
            return None
        if self._settle_excluded(
            want, [want.key] if isinstance(want, WantedFile) else published_keys(_images_of(want)[0])
        ):
            return None
        if isinstance(want, WantedFile):
            for key in want.keys:
                outcome = self._find(key, want.checksums)
                if outcome is not None:
                    self.settle(want, outcome, key)
                    return None
        return want

    def _settle_excluded(self, want: OpenWant, names: Sequence[Key]) -> bool:
        """Settle *want* if the configuration excludes all its *names*; return whether it does."""
        is_excluded = all(map(self.source.is_excluded, names))
        if is_excluded:
            self.settle(want, Missing(Cause.EXCLUDED))
        return is_excluded

    def _find(self, key: Key, checksums: Sequence[str]) -> Present | Failed | None:
        """Look for *key* where files are opened from or, if nothing is fetched, wherever on disk a debugger looks."""
        try:
            if self.may_fetch:
                present = self.source.find(key, checksums)
                # What is here under one of its names is filed under the others, too.
                return present if present is None or self.source.is_filed_whole(key) else None
            return self.source.find_for_debugger(key, checksums)
        except OtherBytes as error:
            return kept_other(error)
        except StoreError as error:
            if self.may_fetch:
                raise
            return Failed(Cause.DISK, detail=str(error))

    def _find_unlocked(self, want: NothingToFetch) -> Present | None:
        """Return a file that a debugger would load although a lock file has it as missing; it stays where it is."""
        if want.cause is not Cause.KNOWN_MISSING or want.key is None or kind_of(want.key) is not want.kind:
            return None
        with suppress(StoreError):
            present = self.source.find_for_debugger(want.key)
            return None if present is None else replace(present, note="missing when the lock file was written")
        return None

    def recall(self, image: ImageKey) -> tuple[Link, ...] | None:
        """Return what *image* names, if an earlier run has seen it."""
        return self._image_links.recall(image, may_learn=self.may_fetch)

    def remember(self, module: Module, links: tuple[Link, ...]) -> None:
        """Remember what *module*'s image names; a check leaves the store as it is."""
        if self.may_fetch and not module.unusable_pdb and module.image is not None:
            self._image_links.remember(module.image, links)

    def resolve(
        self, want: WantedPdbOfImage | WantedPdbOfAny, module: Module, links: tuple[Link, ...], *, asked: int = 0
    ) -> Sequence[Want]:
        """Put what *module*, whose image is known, needs in the place of *want*; return its wants that are new.

        *asked* is how many images were asked for until one was there, where *want* has several.
        """
        image = module.image
        assert image is not None
        self.links[image] = links
        if isinstance(want, WantedPdbOfAny):
            self._guesses[want] = Guess(want.module, asked, image.index)
        for whole in self.plan.whole_images(image):
            self._pdbs_of[whole.folded] = tuple(wants_of(module, images=ImageChoice.NONE, all_pdbs=False))
        self._named[want] = fresh = self.plan.add_files_of(module, want)
        self._origins.share(_images_of(want)[0], fresh)
        return fresh

    def resolve_libraries(self, want: WantedLibraries, facts: RuntimeFacts) -> Sequence[Want]:
        """Put the libraries of the runtime that *want*'s image turned out to be in its place; return the new wants."""
        runtime = with_facts(want.runtime, facts)
        if runtime is None:
            return self._put_in_place(want, ())
        keys = tuple(library_keys(want.image, runtime))
        if keys:
            return self._put_in_place(want, [_library(want, key, own_key(runtime, key)) for key in keys])
        detail = "its image does not say which build of the runtime it is"
        return self._put_in_place(want, [_nameless(want, Cause.NO_IDENTITY, detail)])

    def resolve_unread(self, want: WantedLibraries, end: Missing | Failed) -> Sequence[Want]:
        """Put in the place of *want* what can be asked for although its image could not be had, as *end* says.

        That is each library under its short name. Another line of the report tells that the image is not here, if it is
        wanted as a file.
        """
        if want.is_presumed:
            return self._put_in_place(want, ())
        wants: list[Want] = [_library(want, key) for key in library_keys(want.image, want.runtime)]
        if not (wants and self.plan.whole_images(want.image)):
            cause = end.cause if isinstance(end, Failed) else Cause.IMAGE_NOT_PUBLISHED
            cause = Cause.NOT_CACHED if end.cause is Cause.NOT_CACHED else cause
            detail = "its image, which says which build of the runtime it is, could not be had"
            wants.append(_nameless(want, cause, detail, end.hint))
        return self._put_in_place(want, wants)

    def _put_in_place(self, want: WantedLibraries, wants: Sequence[Want]) -> Sequence[Want]:
        self._named[want] = fresh = self.plan.add_in_place_of(want, wants)
        self._origins.share(want.image, fresh)
        return fresh

    def announce(self) -> None:
        """Tell how much is wanted."""
        self._observer(Planned(len(self.plan) - len(self._named)))

    def note_stack(self) -> None:
        """Tell that all is settled that the modules on stacks need, and how much of it is here."""
        symbols = [symbol for want, symbol in self._ends.items() if self.plan.is_on_stack(want)]
        here = f"{sum(symbol.is_at_hand for symbol in symbols)} of {len(symbols)} files are here"
        self._observer(Noted(f"the crash's stack: {here}; the debugger can start, the rest follows"))

    def settle(self, want: Want, outcome: Outcome, key: Key | None = None) -> None:
        """Note how *want* ended; *key* is the one of its keys that decided it."""
        if isinstance(want, WantedPdbOfAny):
            self.unnamed.append(want.images[0])
            self._guesses.setdefault(want, Guess(want.module, 0, None))
        elif isinstance(want, WantedPdbOfImage):
            if not want.is_presumed and outcome != Missing(Cause.EXCLUDED):
                self.unnamed.append(want.image)
            if self._goes_without_saying(want, outcome):
                self._named[want] = ()
                self.announce()
                return
        symbol = _symbol(want, outcome)
        if isinstance(want, WantedFile) and key is not None and key != want.key:
            symbol = replace(symbol, index=key.index)
        self._ends[want] = symbol
        self._observer(Settled(symbol.index or symbol.module, symbol.state))
        self._tell_end(symbol)

    def note_guess(self, want: WantedPdbOfAny, asked: int) -> None:
        """Note that *asked* of the images that *want* may be of were asked for, and none was there."""
        self._guesses[want] = Guess(want.module, asked, None)

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
        return ImageLinks(memory, [StoreLinks(store.root) for store in stores], self.source.bundles)


def _symbol(want: Want, outcome: Outcome) -> Symbol:
    if isinstance(want, WantedFile):
        key = want.key
        return Symbol(key.index, kind_of(key), want.module, outcome, None, want.use, want.reload)
    if isinstance(want, WantedLibraries):
        return Symbol(want.image.index, FileKind.IMAGE, want.module, outcome, None, ImageUse.DATA_ACCESS)
    if isinstance(want, WantedPdbOfImage | WantedPdbOfAny):
        return Symbol(_images_of(want)[0].index, FileKind.PDB, want.module, outcome)
    index = None if want.key is None else want.key.index
    return Symbol(index, want.kind, want.module, outcome, want.detail, want.use)


def _nameless(want: WantedLibraries, cause: Cause, detail: str, hint: Hint | None = None) -> NothingToFetch:
    return NothingToFetch(want.module, FileKind.IMAGE, cause, want.image, detail, hint, ImageUse.DATA_ACCESS)


def _end_of(want: NothingToFetch) -> Missing | Failed:
    kind = Failed if want.cause in _FAILURES else Missing
    return kind(want.cause, hint=want.hint)


def _library(want: WantedLibraries, key: ImageKey, own: ImageKey | None = None) -> WantedFile:
    return WantedFile(want.module, key, use=ImageUse.DATA_ACCESS, own_key=own)


def _cut_off(want: Want) -> Symbol:
    """Return how *want* ends if the work is cancelled before it has an end."""
    if isinstance(want, NothingToFetch):
        return _symbol(want, _end_of(want))
    return _symbol(want, Failed(Cause.UNAVAILABLE, detail="interrupted", hint=Hint.INTERRUPTED))


def _tells_at_a_glance(want: Want) -> TypeGuard[WantedFile]:
    """Say whether a few small reads can tell that a file is the wanted one."""
    return isinstance(want, WantedFile) and not locked_hashes(want.checksums)


def _images_of(want: WantedPdbOfImage | WantedPdbOfAny | WantedLibraries) -> tuple[ImageKey, ...]:
    """Return the keys that the image of *want* may have."""
    return want.images if isinstance(want, WantedPdbOfAny) else (want.image,)


def read_links(name: str, key: ImageKey, image: Image) -> tuple[Module, tuple[Link, ...]]:
    """Return the module *name* as *image*, which *key* names, shows it, and what is remembered of that."""
    from symcache.inputs.image import image_module  # noqa: PLC0415
    from symcache.stores.links import Link  # noqa: PLC0415

    module = replace(image_module(image, key.name), name=name, image=key)
    if not (module.pdbs or module.dbg):
        # Damaged debug data names nothing either, and another hop would bring no more.
        module = replace(module, no_debug_record=True)
    links = [Link(pdb.key, pdb.format is PdbFormat.EMBEDDED, pdb.checksums) for pdb in module.pdbs]
    if isinstance(module.dbg, DbgKey):
        links.append(Link(module.dbg))
    return module, tuple(links)


def module_of(name: str, image: ImageKey, links: Sequence[Link]) -> Module:
    """Return what is known of the module *name* by what its *image* was seen to name."""
    pdbs: list[PdbReference] = []
    for link in links:
        reference = reference_to(link.key)
        if reference is not None and isinstance(link.key, PortablePdbKey):
            # Others can write to a shared store, and no other kind of PDB lies in an image or has checksums there.
            format_ = PdbFormat.EMBEDDED if link.is_embedded else reference.format
            reference = PdbReference(reference.key, format_, stated_by_image(link.checksums))
        if reference is not None:
            pdbs.append(reference)
    dbg = next((link.key for link in reversed(links) if isinstance(link.key, DbgKey)), None)
    return Module(name, image=image, pdbs=tuple(pdbs), dbg=dbg, no_debug_record=not links)
