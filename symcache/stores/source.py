"""Everything that a symbol path leads to, opened once and asked for many keys."""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
from anyio import to_thread

from symcache.config import locate
from symcache.errors import ConfigError, StoreError, UpstreamRefused
from symcache.events import Noted, ignore
from symcache.identity import ImageKey, published_keys
from symcache.stores.chain import Chain
from symcache.stores.disk import DiskSource
from symcache.stores.http.client import Client
from symcache.stores.http.credentials import Credentials
from symcache.stores.http.download import Downloader
from symcache.stores.http.pool import TransportPool
from symcache.stores.http.retry import CircuitBreaker, RetryPolicy
from symcache.stores.http.servers import hints_for
from symcache.stores.http.store import HttpStore
from symcache.stores.local.partial import TransferBoard
from symcache.stores.negative import Misses, NegativeCache
from symcache.stores.results import Cause, Failed, Fetched, Hint, Missing, Present, attempts_of, sum_up
from symcache.stores.singleflight import SingleFlight
from symcache.stores.threads import Batches

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from types import TracebackType
    from typing import Self

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.identity import Key
    from symcache.stores.base import LookUp
    from symcache.stores.results import Attempt, Outcome
    from symcache.sympath import HttpPlace, ResolvedElement

__all__ = ["SymbolSource"]


class SymbolSource(DiskSource):
    """The chains of a symbol path with the network behind them.

    Use it as an asynchronous context manager; downloads live in its task group, so that a caller that is cancelled
    does not end one that others wait for.

    Args:
        config: Every setting, the symbol path among them.
        observer: Told what happens, from any thread.
        transport: Stands in for the network, in tests.
        tell_end: Told how each walk of the symbol path ended, and after how many seconds; once for all who asked.
        keeps_outside: Refuse redirects of servers outside into private networks.
        looks_inline: Look for files and rename them on the event loop itself while the disk is quick, as a program with
            one user may; a slow store then holds up other work for a moment.
        clock_s: Monotonic seconds, for the pauses that upstreams get.
        sleep: Waits a number of seconds, between two tries.

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
        network = config.network
        self._pool = TransportPool(
            connections=network.connections,
            timeout=httpx.Timeout(network.read_timeout_s, connect=network.connect_timeout_s),
            proxy=network.proxy,
            ca_file=network.ca_file,
            prefer_direct=network.transport == "auto",
            network=transport,
        )
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
        """How many requests may be under way at most."""
        return self._pool.max_connections

    @property
    def misses(self) -> Misses | None:
        """What is remembered of upstreams' "no such file"; None if that cannot be kept."""
        return self._misses

    @asynccontextmanager
    async def turn(self, image: ImageKey) -> AsyncIterator[None]:
        """Wait until no other process reads the headers of *image*, and keep others from reading them."""
        store = self.store
        lock = None if store is None else store.headers_lock(image)
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

        An image that is published under another name ends up under both, so that a debugger finds it.

        Args:
            key: What is wanted.
            checksums: ``ALGORITHM:hex`` of a portable PDB, as its image states them.
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
        """Open the way to the network.

        Raises:
            ConfigError: The certificates or the proxy cannot be used.
        """
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

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
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
        answers: list[LookUp] = []
        async with self._keys_at_once:
            for chain in self.chains:
                searched = await chain.fetch(key, checksums)
                match searched.file:
                    case Present() as present:
                        self._note_use(key, present.path)
                        return present
                    case Fetched() as fetched:
                        return replace(fetched, attempts=(*attempts_of(answers), *fetched.attempts))
                answers.extend(searched.answers)
        return self._sum_up(answers)

    async def _walk_names(self, key: ImageKey) -> Outcome:
        """Walk the symbol path for each name of *key*'s image until one is found, and file that under *key*, too.

        What a store has under any of the names is not requested.
        """
        for name in (key, *published_keys(key)):
            present = await to_thread.run_sync(self.find, name)
            if present is not None:
                return present if name == key else await to_thread.run_sync(self._file_under, present, name, key, ())
        ends: list[tuple[ImageKey, Missing | Failed]] = []
        for name in published_keys(key):
            if self.is_excluded(name):
                continue
            walk = partial(self._walk, name, ())
            found = await self._fetches.run(name.folded, walk)
            if isinstance(found, Present | Fetched):
                attempts = _attempts_under_names(ends, key)
                return found if name == key else await to_thread.run_sync(self._file_under, found, name, key, attempts)
            ends.append((name, found))
        return _sum_up_names(ends, key)

    def _file_under(
        self, found: Present | Fetched, name: ImageKey, key: ImageKey, attempts: tuple[Attempt, ...]
    ) -> Present | Fetched:
        """Let *found*, published as *name*, also stand under *key* in the store it was found in, else the first.

        A store that is only read stays as it is. Where none takes it, *found* is the file all the same: a debugger
        looks for *name*, too.
        """
        note, path = f"published as {name.name}", found.path
        for store in sorted(self.downstream_stores, key=lambda store: not found.path.is_relative_to(store.root)):
            try:
                path = store.also_file_under(found.path, key, durable=self.config.store.durable)
            except StoreError as error:
                note = f"published as {name.name}, and not filed as {key.name}: {error.problem}"
            else:
                note = f"published as {name.name}"
                break
        if isinstance(found, Present):
            return Present(path, found.size_bytes, note)
        return replace(found, path=path, attempts=(*attempts, *found.attempts), note=found.note or note)

    async def _walk_names_for_headers(self, key: ImageKey) -> Image | Missing | Failed:
        ends: list[tuple[ImageKey, Missing | Failed]] = []
        for name in published_keys(key):
            if self.is_excluded(name):
                continue
            found = await self._walk_for_headers(name)
            if not isinstance(found, Missing | Failed):
                return found
            ends.append((name, found))
        return _sum_up_names(ends, key)

    async def _walk_for_headers(self, key: ImageKey) -> Image | Missing | Failed:
        answers: list[LookUp] = []
        async with self._keys_at_once:
            for chain in self.chains:
                searched = await chain.read_image(key)
                if searched.image is not None:
                    return searched.image
                answers.extend(searched.answers)
        return self._sum_up(answers)

    def _sum_up(self, answers: Sequence[LookUp]) -> Missing | Failed:
        end = sum_up(answers)
        if isinstance(end, Missing) and not self.config.symbol_path.has_server:
            return replace(end, hint=Hint.NO_SERVER)
        return end

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
            authorize=Credentials(self.config.server, netrc_file).authorize,
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


def _sum_up_names(ends: Sequence[tuple[ImageKey, Missing | Failed]], key: ImageKey) -> Missing | Failed:
    """Return what it means that *key*'s image could be had under none of its names; without *ends* all are excluded."""
    if not ends:
        return Missing(Cause.EXCLUDED)
    attempts = _attempts_under_names(ends, key)
    for _, end in ends:
        if isinstance(end, Failed):
            return replace(end, attempts=attempts)
    only_memory = all(end.cause is Cause.REMEMBERED_MISS for _, end in ends)
    hint = next((end.hint for _, end in ends if isinstance(end, Missing)), None)
    return Missing(Cause.REMEMBERED_MISS if only_memory else Cause.NOT_PUBLISHED, attempts, hint=hint)


def _attempts_under_names(ends: Sequence[tuple[ImageKey, Missing | Failed]], key: ImageKey) -> tuple[Attempt, ...]:
    """Return all attempts, each with the name that was asked for where it is not that of *key*."""
    return tuple(
        attempt if attempt.asked is not None or name == key else replace(attempt, asked=name.name)
        for name, end in ends
        for attempt in end.attempts
    )
