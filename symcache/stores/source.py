"""Everything that a symbol path leads to, opened once and asked for many keys."""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
from anyio import to_thread

from symcache.config import locate
from symcache.errors import ConfigError, StoreError, UpstreamRefused
from symcache.events import Noted, ignore
from symcache.identity import ImageKey, published_keys
from symcache.stores.base import Form
from symcache.stores.chain import Chain, Searched
from symcache.stores.concurrency import Batches, SingleFlight
from symcache.stores.disk import DiskSource
from symcache.stores.http.auth import Credentials
from symcache.stores.http.client import Client
from symcache.stores.http.download import Downloader
from symcache.stores.http.pool import TransportPool
from symcache.stores.http.retry import CircuitBreaker, RetryPolicy
from symcache.stores.http.servers import hints_for
from symcache.stores.http.store import HttpStore
from symcache.stores.local.partial import TransferBoard
from symcache.stores.negative import Misses, NegativeCache
from symcache.stores.results import Cause, Failed, Fetched, Hint, Missing, Present, attempts_of, sum_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from typing import Any, Self

    import httpx

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.identity import Key
    from symcache.stores.base import LookUp
    from symcache.stores.results import Attempt, Outcome
    from symcache.sympath import HttpPlace, ResolvedElement


class SymbolSource(DiskSource):
    """The chains of a symbol path with the network behind them.

    Use it as an asynchronous context manager; downloads live in its task group, so that a caller that is cancelled
    does not end one that others wait for.

    *observer* is told what happens, from any thread; *tell_end* how each walk of the symbol path ended, and after how
    many seconds, once for all who asked. With *keeps_outside*, redirects of servers outside into private networks are
    refused. With *looks_inline*, files are looked for and renamed on the event loop itself while the disk is quick, as
    a program with one user may; a slow store then holds up other work for a moment. *clock_s*, monotonic, and *sleep*
    time the pauses that upstreams get.

    Raises:
        ConfigError: A place that cannot be reached from this system.
    """

    chains: tuple[Chain, ...]

    def __init__(
        self,
        config: Config,
        *,
        observer: Observer = ignore,
        transport: httpx.AsyncBaseTransport | None = None,
        tell_end: Callable[[Outcome, float], None] = lambda _outcome, _seconds: None,
        keeps_outside: bool = False,
        looks_inline: bool = False,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self.config = config
        self._observer = TransferBoard(observer).observe
        self._tell_end = tell_end
        self._keeps_outside = keeps_outside
        self._servers: dict[str, HttpStore] = {}
        self._searching = Batches(threads=2, inline=looks_inline)
        self._publishing = Batches(threads=4)
        self._pool = TransportPool(config.network, config.server, network=transport)
        # As many keys at once as requests: each holds a lock and a scratch file open.
        self._keys_at_once = anyio.CapacityLimiter(self._pool.max_connections)
        self._downloader = self._make_downloader(clock_s, sleep)
        self._misses = self._open_misses()
        try:
            super().__init__(config, observer=self._observer)
        except ConfigError:
            if self._misses is not None:
                self._misses.close()
            raise

    @property
    def servers(self) -> tuple[HttpStore, ...]:
        """Every upstream of the symbol path, in the order they are asked."""
        return tuple(self._servers.values())

    @property
    def max_connections(self) -> int:
        return self._pool.max_connections

    @property
    def misses(self) -> Misses | None:
        """What is remembered of upstreams' "no such file"; None if that cannot be kept."""
        return self._misses

    @asynccontextmanager
    async def turn(self, image: ImageKey) -> AsyncIterator[None]:
        """Wait until no other process reads the headers of *image*, and keep others from reading them."""
        store = self.store
        lock = None if store is None else store.lock(f"headers of {image.folded}")
        try:
            if lock is not None:
                await lock.acquire()
        except StoreError:
            lock = None  # the store cannot be written, so no process can take turns
        try:
            yield
        finally:
            if lock is not None:
                lock.release()

    async def fetch(self, key: Key, checksums: Sequence[str] = ()) -> Outcome:
        """Search the symbol path for *key*, once for all concurrent requests.

        An image that is published under another name ends up under both, so that a debugger finds it. *checksums* are
        ``ALGORITHM:hex`` of a portable PDB, as its image states them.
        """
        if self.is_excluded(key):
            return Missing(Cause.EXCLUDED)
        if isinstance(key, ImageKey) and published_keys(key) != (key,):
            return await self._named_fetches.run(key.folded, lambda: self._told(self._walk_names(key)))
        return await self._fetches.run(key.folded, lambda: self._told(self._walk(key, checksums)))

    async def read_image(self, key: ImageKey) -> Image | Missing | Failed:
        """Return the headers and debug data of the image that *key* names, from wherever it is, keeping nothing."""
        return await self._headers.run(key.folded, lambda: self._walk_names_for_headers(key))

    def close(self) -> None:
        """Drop scratch files and close what is remembered; for who only looked, and never entered the source."""
        super().close()
        if self._misses is not None:
            self._misses.close()

    async def __aenter__(self) -> Self:
        """Open the way to the network; `ConfigError` if the certificates or the proxy cannot be used."""
        try:
            self._pool.open()
        except ConfigError as error:
            self.close()
            raise locate(error, self.config) from error
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._fetches: SingleFlight[Outcome] = SingleFlight(self._group)
        self._named_fetches: SingleFlight[Outcome] = SingleFlight(self._group)
        self._headers: SingleFlight[Image | Missing | Failed] = SingleFlight(self._group)
        return self

    async def __aexit__(self, *_: object) -> None:
        # No caller waits for what is still running. The body's own error is not handed to the group, which
        # would give it back as a group of one.
        self._group.cancel_scope.cancel()
        try:
            await self._group.__aexit__(None, None, None)
        finally:
            await self._pool.aclose()
            self.close()

    async def _told(self, walk: Awaitable[Outcome]) -> Outcome:
        began_s = time.monotonic()
        outcome = await walk
        self._tell_end(outcome, time.monotonic() - began_s)
        return outcome

    async def _walk(self, key: Key, checksums: Sequence[str]) -> Outcome:
        searched = await self._ask_chains(lambda chain: chain.fetch(key, checksums))
        if isinstance(searched, Missing | Failed):
            return searched
        if isinstance(searched.file, Present):
            self._note_use(key, searched.file.path)
            return searched.file
        assert searched.file is not None
        return replace(searched.file, attempts=(*attempts_of(searched.answers), *searched.file.attempts))

    async def _ask_chains(self, ask: Callable[[Chain], Awaitable[Searched]]) -> Searched | Missing | Failed:
        """Ask one chain after the other until one has it; its `Searched` has the answers of those before it."""
        answers: list[LookUp] = []
        async with self._keys_at_once:
            for chain in self.chains:
                searched = await ask(chain)
                if searched.file is not None or searched.image is not None:
                    return replace(searched, answers=tuple(answers))
                answers.extend(searched.answers)
        end = sum_up(answers)
        if isinstance(end, Missing) and not self.config.symbol_path.has_server:
            return replace(end, hint=Hint.NO_SERVER)
        return end

    async def _walk_names(self, key: ImageKey) -> Outcome:
        """Walk the symbol path for each name of *key*'s image until one is found, and file that under *key*, too.

        What a store has under any of the names is not requested.
        """
        for name in (key, *published_keys(key)):
            present = await to_thread.run_sync(self.find, name)
            if present is not None:
                return present if name == key else await to_thread.run_sync(self._file_under, present, name, key, ())
        ends: list[Missing | Failed] = []
        for name in published_keys(key):
            if self.is_excluded(name):
                continue
            found = await self._fetches.run(name.folded, partial(self._walk, name, ()))
            if isinstance(found, Present | Fetched):
                attempts = attempts_of(ends)
                return found if name == key else await to_thread.run_sync(self._file_under, found, name, key, attempts)
            ends.append(_asked_as(found, name, key))
        return _sum_up_names(ends)

    def _file_under(
        self, found: Present | Fetched, name: ImageKey, key: ImageKey, attempts: tuple[Attempt, ...]
    ) -> Present | Fetched:
        """Let *found*, published as *name*, also stand under *key* in the store it was found in, else the first.

        A store that is only read stays as it is. Where none takes it, *found* is the file all the same: a debugger
        looks for *name*, too.
        """
        note = published = f"published as {name.name}"
        path = found.path
        for store in sorted(self.downstream_stores, key=lambda store: not found.path.is_relative_to(store.root)):
            try:
                path = store.also_file_under(found.path, key, durable=self.config.store.durable)
            except StoreError as error:
                note = f"{published}, and not filed as {key.name}: {error.problem}"
            else:
                note = published
                break
        if isinstance(found, Present):
            return Present(path, found.size_bytes, note)
        return replace(found, path=path, attempts=(*attempts, *found.attempts), note=found.note or note)

    async def _walk_names_for_headers(self, key: ImageKey) -> Image | Missing | Failed:
        ends: list[Missing | Failed] = []
        for name in published_keys(key):
            if not self.is_excluded(name):
                searched = await self._ask_chains(partial(Chain.read_image, key=name))
                if isinstance(searched, Missing | Failed):
                    ends.append(_asked_as(searched, name, key))
                elif searched.image is not None:
                    return searched.image
        return _sum_up_names(ends)

    def _make_downloader(self, clock_s: Callable[[], float], sleep: Callable[[float], Awaitable[None]]) -> Downloader:
        network = self.config.network
        breaker = CircuitBreaker(
            failures=network.breaker.failures,
            cool_down_s=network.breaker.cool_down_s,
            longest_pause_s=network.longest_backoff_s,
            clock_s=clock_s,
            sleep=sleep,
        )
        netrc_file = Path.home() / ("_netrc" if os.name == "nt" else ".netrc") if network.netrc else None
        client = Client(
            self._pool,
            breaker,
            credentials=Credentials(self.config.server, netrc_file),
            agent_extra=network.user_agent_extra,
            notify=lambda text: self._observer(Noted(text)),
            keeps_outside=self._keeps_outside,
        )
        return Downloader(
            client=client,
            policy=RetryPolicy(network.retries, network.backoff_s, network.longest_backoff_s),
            total_s=network.total_timeout_s,
            largest_bytes=network.largest_file_bytes,
            parallel_from_bytes=network.parallel_ranges.from_bytes,
            parallel_parts=network.parallel_ranges.parts,
            slowest_bytes_per_s=network.slowest_bytes_per_s,
            slowest_time_s=network.slowest_time_s,
            observer=self._observer,
            sleep=sleep,
        )

    def _open_chain(self, element: ResolvedElement) -> Chain:
        return Chain(
            self._open_stores(element, self._open_server),
            self._chain_settings(),
            searching=self._searching,
            publishing=self._publishing,
        )

    def _open_server(self, place: HttpPlace) -> HttpStore | NegativeCache:
        if place.url not in self._servers:
            hints = hints_for(place.url, self.config.server)
            try:
                self._servers[place.url] = HttpStore(place.url, hints, self._downloader)
            except UpstreamRefused as error:
                raise ConfigError(str(error), where="symbol path") from error
        server = self._servers[place.url]
        return server if self._misses is None else NegativeCache(server, self._misses)

    def _open_misses(self) -> Misses | None:
        settings = self.config.misses
        try:
            return Misses(settings.folder, ttl_s=settings.ttl_s)
        except StoreError as error:
            self._observer(Noted(f"{error}; misses are not remembered"))
            return None


def _asked_as(end: Missing | Failed, name: ImageKey, key: ImageKey) -> Missing | Failed:
    """Return *end* with the name in each attempt that was asked for where it is not that of *key*."""
    if name == key:
        return end
    attempts = (each if each.asked is not None else replace(each, asked=name.name) for each in end.attempts)
    return replace(end, attempts=tuple(attempts))


def _sum_up_names(ends: Sequence[Missing | Failed]) -> Missing | Failed:
    """Return what it means that an image could be had under none of its names; without *ends* all are excluded."""
    if not ends:
        return Missing(Cause.EXCLUDED)
    attempts = attempts_of(ends)
    for end in ends:
        if isinstance(end, Failed):
            return replace(end, attempts=attempts)
    only_memory = all(end.cause is Cause.REMEMBERED_MISS for end in ends)
    return Missing(Cause.REMEMBERED_MISS if only_memory else Cause.NOT_PUBLISHED, attempts, hint=ends[0].hint)


@dataclass(frozen=True, slots=True)
class Step:
    """One place of the walk of a symbol path."""

    element: int  # number of the element of the symbol path, from 0
    place: int  # number of the place in it, from 0
    name: str  # of the place, free of secrets
    answer: str  # what it says, in a few words
    has_file: bool  # the walk of a fetch would end here
    seconds: float  # how long it took to say so
    copies: tuple[tuple[str, str], ...] = ()  # the stores that would get a copy, each with ``plain`` or ``compressed``

    def as_json(self) -> dict[str, Any]:
        """Return the fields of ``symcache.explain/1``."""
        copies = [{"store": store, "form": form} for store, form in self.copies]
        return {**asdict(self), "seconds": round(self.seconds, 4), "copies": copies}


async def explain(source: SymbolSource, key: Key) -> AsyncIterator[Step]:
    """Walk the symbol path for *key* as a fetch would, but copy nothing; yield each place up to the one that has it."""
    if source.is_excluded(key):
        yield Step(0, 0, "exclusions.names", "never looked for", has_file=False, seconds=0.0)
        return
    for number, chain in enumerate(source.chains):
        for at, place in enumerate(chain.stores):
            began_s = time.monotonic()
            form, answer = await place.probe(key)
            seconds = time.monotonic() - began_s
            copies = _copies(chain, at, form) if form is not None else ()
            yield Step(number, at, place.name, answer, has_file=form is not None, seconds=seconds, copies=copies)
            if form is not None:
                return


def _copies(chain: Chain, at: int, form: Form) -> tuple[tuple[str, str], ...]:
    """Return what a fetch would write, in the order in which it would: the bottom-most store comes last, and plain."""
    stores = [store.local for store in chain.stores[:at] if store.local is not None]
    between = Form.COMPRESSED if form is Form.COMPRESSED else Form.PLAIN
    return tuple((store.name, (Form.PLAIN if store is stores[0] else between).value) for store in reversed(stores))
