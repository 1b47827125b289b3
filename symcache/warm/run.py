"""The main job: from inputs to a store that holds what a debugger will ask for, and a report of what does not exist."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
from anyio import from_thread, to_thread

from symcache.errors import StoreError
from symcache.stores.results import Cause, Failed, Fetched, Missing, Present
from symcache.warm.local import LocalRun, module_of, read_links
from symcache.warm.plan import WantedFile

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from symcache.formats.pe.image import Image
    from symcache.identity import ImageKey
    from symcache.inputs.records import Record
    from symcache.stores.source import SymbolSource
    from symcache.warm.local import OpenWant
    from symcache.warm.plan import Want, WantedPdbOfImage
    from symcache.warm.report import Report


class Warmer:
    """Fetches from *source* what *run* leaves open; *source* takes the place of the one that *run* had."""

    def __init__(self, source: SymbolSource, run: LocalRun) -> None:
        self._source = source
        self._run = run
        run.source = source

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
            run.answer(pause)
        todo = await to_thread.run_sync(run.settle_at_hand, None, from_thread.check_cancelled)
        run.announce()
        queue = iter(todo)  # one for all workers: each takes what is next
        async with anyio.create_task_group() as group:
            for _ in range(min(self._source.max_connections, len(todo))):
                group.start_soon(self._work, queue)
        return run.report()

    async def check(self, records: Iterable[Record]) -> Report:
        """Return what *records* need and whether the store has it; nothing is asked for."""
        await to_thread.run_sync(self._run.read, iter(records), abandon_on_cancel=True)
        return await to_thread.run_sync(self._run.check, (), from_thread.check_cancelled)

    async def _work(self, wants: Iterator[OpenWant]) -> None:
        for want in wants:
            if isinstance(want, WantedFile):
                await self._fetch(want)
            else:
                await self._hop(want)

    async def _fetch(self, want: WantedFile) -> None:
        self._run.settle(want, await self._source.fetch(want.key, want.checksums))

    async def _hop(self, want: WantedPdbOfImage) -> None:
        """Make two hops: read the image's headers where it is published, then fetch what they name."""
        run = self._run
        async with self._source.turn(want.image):
            # Another process may have read them, and noted what they say, since this one looked.
            known = await to_thread.run_sync(run.recall, want.image)
            if known is None:
                named = await self._resolve_published(want)
            else:
                named = run.resolve(want, module_of(want, known), known)
        run.announce()
        for left in [await to_thread.run_sync(run.settle_at_once, each) for each in named]:
            if isinstance(left, WantedFile):
                await self._fetch(left)

    async def _resolve_published(self, want: WantedPdbOfImage) -> Sequence[Want]:
        """Put what the published image names in the place of *want*; settle it if the image is not published."""
        run, image = self._run, await self._read_image(want.image)
        if isinstance(image, Missing | Failed):
            # For the PDB it means that nothing says which one it is.
            run.settle(want, image if isinstance(image, Failed) else replace(image, cause=Cause.IMAGE_NOT_PUBLISHED))
            return ()
        module, links = read_links(want, image)
        await to_thread.run_sync(run.remember, want, module, links)  # the store may be a slow share
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
