"""The main job: from inputs to a store that holds what a debugger will ask for, and a report of what does not exist."""

from __future__ import annotations

import random
from contextlib import suppress
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING

import anyio
from anyio import from_thread, to_thread

from symcache.errors import StoreError
from symcache.identity import ImageKey, parse_index
from symcache.inputs.records import ImageUse, Runtime, RuntimeKind
from symcache.inputs.runtimes import own_key, with_facts
from symcache.stores.negative import Wanted
from symcache.stores.results import Cause, Failed, Fetched, Missing, Present, asked_as, attempts_of, sum_up_ends
from symcache.warm.local import LocalRun, module_of, read_links
from symcache.warm.plan import WantedFile, WantedLibraries, WantedPdbOfImage

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from symcache.formats.pe.image import Image
    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.inputs.records import Record
    from symcache.stores.results import Outcome
    from symcache.stores.source import SymbolSource
    from symcache.warm.local import OpenWant
    from symcache.warm.plan import Want, WantedPdbOfAny
    from symcache.warm.report import Report


_CORECLR = "coreclr.dll"  # the one runtime that states the keys of its libraries
_HEAD_START_S = 5.0
_VERSIONS_S = 10.0
_MOST_VERSIONS = 64


class Warmer:
    """Fetches from *source* what *run* leaves open; *source* takes the place of the one that *run* had.

    What modules on a crash's stack need comes first and has the connections to itself, so that it is there as soon as
    can be. A file of it that hangs holds the rest up for *head_start_s* at most.

    With what is missing it is remembered for which modules that was wanted and, if it *notes_inputs*, for which inputs.
    It asks for *at_once* files at a time; 0 for as many as connections are allowed.
    """

    def __init__(
        self,
        source: SymbolSource,
        run: LocalRun,
        *,
        head_start_s: float = _HEAD_START_S,
        notes_inputs: bool = True,
        at_once: int = 0,
    ) -> None:
        self._source = source
        self._run = run
        self._head_start_s = head_start_s
        self._notes_inputs = notes_inputs
        self._at_once = min(at_once or source.max_connections, source.max_connections)
        run.source = source
        for folder in run.folders:
            source.add_folder(folder)

    async def warm(self, records: Iterable[Record]) -> Report:
        """Fetch what *records* need; return what became of it.

        Cancelling the scope it runs in ends the work; `LocalRun.report` then tells what was done so far.
        """
        run = self._run
        run.may_fetch = True
        records = iter(records)
        # In a thread: readers block, and a folder may take a while. One that waits for a pipe cannot be told to stop,
        # so that a cancelled run goes on without it.
        while (pause := await to_thread.run_sync(run.read, records, abandon_on_cancel=True)) is not None:
            await self._work(iter(pause.todo))
            if pause.documents:
                await self._source.fetch_documents(pause.documents)
            run.answer(pause)
        todo = await to_thread.run_sync(run.settle_at_hand, None, from_thread.check_cancelled)
        run.announce()
        head = [want for want in todo if run.plan.is_on_stack(want)]
        rest = [want for want in todo if not run.plan.is_on_stack(want)]
        if self._source.shares_work:
            random.shuffle(rest)  # so that those who do the same work at the same time meet rarely
        head_is_done = anyio.Event()
        async with anyio.create_task_group() as group:
            if head:
                group.start_soon(self._fetch_head, head, head_is_done)
                with anyio.move_on_after(self._head_start_s):
                    await head_is_done.wait()
            if head_is_done.is_set() and rest:
                run.note_stack()
            await self._work_together(rest)
        report = await to_thread.run_sync(run.report)  # which reads who made what is missing
        if await self._read_published_versions(report):
            report = await to_thread.run_sync(run.report)
        await to_thread.run_sync(self._note_wanted, report)
        return report

    async def _read_published_versions(self, report: Report) -> bool:
        """Ask servers for what images say of their origin whose files are missing and that lie nowhere here."""
        origins = [symbol.origin for symbol in report.symbols if symbol.origin is not None]
        # Of images that named a PDB here it is known that a server has them.
        images = {
            origin.image: None
            for origin in origins
            if origin.version is None and origin.image is not None and self._run.links.get(origin.image)
        }
        found = self._run.published_versions

        async def ask(image: ImageKey) -> None:
            if (version := await self._source.read_version(image)) is not None:
                found[image] = version

        with anyio.move_on_after(_VERSIONS_S):
            async with anyio.create_task_group() as group:
                for image in islice(images, _MOST_VERSIONS):
                    group.start_soon(ask, image)
        return bool(found)

    async def check(self, records: Iterable[Record]) -> Report:
        """Return what *records* need and whether the store has it; nothing is asked for."""
        await to_thread.run_sync(self._run.read, iter(records), abandon_on_cancel=True)
        return await to_thread.run_sync(self._run.check, (), from_thread.check_cancelled)

    def _note_wanted(self, report: Report) -> None:
        misses = self._source.misses
        if misses is None:
            return
        for symbol in report.symbols:
            if not symbol.is_wanting or symbol.index is None or symbol.origin is None:
                continue
            key, outcome, maker = parse_index(symbol.index), symbol.outcome, symbol.maker
            wanted = Wanted(
                module=None if symbol.module == key.name else symbol.module,
                maker=None if maker is None or maker.is_presumed else maker.name,
                hint=outcome.hint if isinstance(outcome, Missing) else None,
                inputs=self._run.wanted_by(symbol) if self._notes_inputs else (),
            )
            for server in self._source.servers:
                misses.note_wanted(server.name, key, wanted)

    async def _fetch_head(self, wants: Sequence[OpenWant], is_done: anyio.Event) -> None:
        await self._work_together(wants)
        is_done.set()

    async def _work_together(self, wants: Sequence[OpenWant]) -> None:
        queue = iter(wants)  # one for all workers: each takes what is next
        async with anyio.create_task_group() as group:
            for _ in range(min(self._at_once, len(wants))):
                group.start_soon(self._work, queue)

    async def _work(self, wants: Iterator[OpenWant]) -> None:
        for want in wants:
            if isinstance(want, WantedFile):
                await self._fetch(want)
            elif isinstance(want, WantedLibraries):
                await self._hop_to_libraries(want)
            elif isinstance(want, WantedPdbOfImage):
                await self._hop(want)
            else:
                await self._hop_to_any(want)

    async def _fetch(self, want: WantedFile) -> None:
        ends: list[Missing | Failed] = []
        for key in want.keys:
            outcome = await self._source.fetch(key, want.checksums)
            if isinstance(outcome, Present | Fetched):
                self._run.settle(want, outcome, key)
                return
            ends.append(outcome if key == want.key else asked_as(outcome, key))
        end: Outcome = sum_up_ends(ends)
        if isinstance(end, Missing) and want.use is ImageUse.DATA_ACCESS:
            end = await self._fetch_by_own_key(want) or end
        self._run.settle(want, end)

    async def _fetch_by_own_key(self, want: WantedFile) -> Outcome | None:
        """Fetch a runtime's library by the key that it has by itself, as the runtime states it; None without success.

        Who builds a runtime and adds its files to a store as they are has it under that alone.
        """
        own = want.own_key
        if own is None and isinstance(want.key, ImageKey):
            image = replace(want.key, name=_CORECLR)
            for whole in self._run.plan.whole_images(image):
                await self._source.fetch(whole)  # it is wanted in any case; concurrent requests for it share that
            with suppress(StoreError):
                facts = await to_thread.run_sync(self._source.find_runtime, image)
                known = None if facts is None else with_facts(Runtime(RuntimeKind.CORE), facts)
                own = None if known is None else own_key(known, want.key)
        if own is None or not isinstance(want.key, ImageKey):
            return None
        return await self._source.fetch_as(own, want.key)

    async def _hop(self, want: WantedPdbOfImage) -> None:
        """Make two hops: read the image's headers where it is published, then fetch what they name."""
        run = self._run
        async with self._source.turn(want.image) as shared:
            # Another process may have read them, and noted what they say, since this one looked.
            known = await to_thread.run_sync(run.recall, want.image)
            known = shared if known is None else known
            if known is None:
                named = await self._resolve_published(want)
            else:
                named = run.resolve(want, module_of(want.module, want.image, known), known)
        await self._fetch_named(named)

    async def _hop_to_libraries(self, want: WantedLibraries) -> None:
        """Learn from the image of a .NET runtime which build it is, then fetch the libraries that debuggers need."""
        found = await self._read_runtime(want)
        if isinstance(found, Missing | Failed):
            await self._fetch_named(self._run.resolve_unread(want, found))
        else:
            await self._fetch_named(self._run.resolve_libraries(want, found))

    async def _hop_to_any(self, want: WantedPdbOfAny) -> None:
        """Make two hops by the first image that is published of those that *want* may be of; one is asked at a time."""
        run = self._run
        ends: list[Missing] = []
        for asked, key in enumerate(want.images, start=1):
            async with self._source.turn(key) as shared:
                known = await to_thread.run_sync(run.recall, key)
                known = shared if known is None else known
                image = None if known is not None else await self._read_image(key)
                if isinstance(image, Missing):
                    ends.append(image)
                    continue
                if isinstance(image, Failed):
                    run.note_guess(want, asked)
                    run.settle(want, image)
                    return
                if image is None:
                    module, links = module_of(want.module, key, known or ()), known or ()
                else:
                    module, links = read_links(want.module, key, image)
                    await to_thread.run_sync(run.remember, module, links)
                    await self._source.share_links(key, links)
                named = run.resolve(want, module, links, asked=asked)
            await self._fetch_named(named)
            return
        run.note_guess(want, len(want.images))
        run.settle(want, _none_of(ends))

    async def _fetch_named(self, named: Sequence[Want]) -> None:
        """Fetch what an image turned out to name."""
        run = self._run
        run.announce()
        for left in [await to_thread.run_sync(run.settle_at_once, each) for each in named]:
            if isinstance(left, WantedFile):
                await self._fetch(left)

    async def _read_runtime(self, want: WantedLibraries) -> RuntimeFacts | Missing | Failed:
        """Return what the image says, which is fetched whole if it is wanted in any case, or cannot be had in parts."""
        image, source = want.image, self._source
        whole = self._run.plan.whole_images(image)
        if not whole:
            header = await source.read_image(image)  # which remembers where the image is not published
            if isinstance(header, Missing | Failed):
                return header
            if (facts := await source.read_runtime(image)) is not None:
                return facts
            if want.is_presumed:
                return Missing(Cause.IMAGE_NOT_PUBLISHED)
        end: Missing | Failed = Missing(Cause.IMAGE_NOT_PUBLISHED)
        for key in whole or (image,):
            outcome = await source.fetch(key)
            if isinstance(outcome, Missing | Failed):
                end = outcome
                continue
            with suppress(StoreError):  # no room to expand what lies packed in another store
                facts = await to_thread.run_sync(source.find_runtime, image)
                if facts is not None:
                    return facts
        return end

    async def _resolve_published(self, want: WantedPdbOfImage) -> Sequence[Want]:
        """Put what the published image names in the place of *want*; settle it if the image is not published."""
        run, image = self._run, await self._read_image(want.image)
        if isinstance(image, Missing | Failed):
            # For the PDB it means that nothing says which one it is.
            run.settle(want, image if isinstance(image, Failed) else replace(image, cause=Cause.IMAGE_NOT_PUBLISHED))
            return ()
        module, links = read_links(want.module, want.image, image)
        await to_thread.run_sync(run.remember, module, links)  # the store may be a slow share
        await self._source.share_links(want.image, links)
        return run.resolve(want, module, links)

    async def _read_image(self, key: ImageKey) -> Image | Missing | Failed:
        for whole in self._run.plan.whole_images(key):
            # It is fetched whole in any case; concurrent requests for it share that.
            outcome = await self._source.fetch(whole)
            if isinstance(outcome, Present | Fetched):
                with suppress(StoreError):  # no room to expand what lies packed in another store
                    image = await to_thread.run_sync(self._source.find_image, key)
                    if image is not None:
                        return image
        return await self._source.read_image(key)


def _none_of(ends: Sequence[Missing]) -> Missing:
    """Return what it means that none of the images was published; all that are left out of looking are excluded."""
    asked = [end for end in ends if end.cause is not Cause.EXCLUDED]
    if not asked:
        return Missing(Cause.EXCLUDED)
    detail = f"none of the {len(asked)} sizes that the image can have is published"
    return Missing(Cause.IMAGE_NOT_PUBLISHED, attempts_of(asked[:1]), detail, asked[0].hint)
