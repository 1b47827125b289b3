"""Everything that a symbol path leads to, opened once and asked for many keys."""

from __future__ import annotations

import os
import time
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import anyio
from anyio import to_thread

from symcache.config import locate
from symcache.errors import ConfigError, InputError, OtherBytes, StoreError, UpstreamError, UpstreamRefused
from symcache.events import Noted, ignore
from symcache.identity import ImageKey, filed_keys, parse_runtime_library, published_keys
from symcache.inputs.records import locked_hashes
from symcache.stores.base import Form
from symcache.stores.bucket.uploads import Uploads
from symcache.stores.chain import Chain, Searched
from symcache.stores.concurrency import Batches, Seats, SingleFlight
from symcache.stores.disk import DiskSource
from symcache.stores.http.auth import Credentials
from symcache.stores.http.client import Client
from symcache.stores.http.documents import fetch_documents
from symcache.stores.http.download import Downloader
from symcache.stores.http.pool import TransportPool
from symcache.stores.http.retry import CircuitBreaker, RetryPolicy
from symcache.stores.http.servers import hints_for, name_as_asked
from symcache.stores.http.store import HttpStore
from symcache.stores.local.partial import TransferBoard
from symcache.stores.negative import Misses, NegativeCache
from symcache.stores.results import (
    Attempt,
    Cause,
    Failed,
    Fetched,
    Hint,
    Missing,
    Present,
    asked_as,
    attempts_of,
    kept_other,
    sum_up,
    sum_up_ends,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
    from typing import Any, Self

    import httpx

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.formats.pe.image import Image
    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.identity import Key
    from symcache.inputs.records import Document
    from symcache.stores.base import LookUp
    from symcache.stores.bucket.objects import Bucket
    from symcache.stores.bucket.store import BucketStore
    from symcache.stores.cluster import Cluster
    from symcache.stores.links import Link
    from symcache.stores.results import Outcome
    from symcache.stores.turns import Turns
    from symcache.sympath import ResolvedElement

T = TypeVar("T")

# A holder that is alive and takes longer is not waited for.
_LONGEST_TURN_S = 600.0


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
        self._bucket_stores: dict[str, BucketStore] = {}
        self._searching = Batches(threads=2, inline=looks_inline)
        self._publishing = Batches(threads=4)
        self._pool = TransportPool(config.network, config.server, network=transport)
        # As many keys at once as requests: each holds a lock and a scratch file open.
        self._keys_at_once = Seats(self._pool.max_connections)
        self._downloader = self._make_downloader(clock_s, sleep)
        self._misses = self._open_misses()
        self.cluster: Cluster | None = None
        self._turns: Turns | None = None
        try:
            if config.cluster.url:
                self._join_cluster()
            super().__init__(config, observer=self._observer)
        except ConfigError:
            self._close_memories()
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

    @property
    def shares_work(self) -> bool:
        """Whether other machines may be at the same work: they share a bucket and take turns."""
        return self.cluster is not None and any(bucket.takes_uploads for bucket in self._bucket_stores.values())

    @asynccontextmanager
    async def turn(self, image: ImageKey) -> AsyncIterator[tuple[Link, ...] | None]:
        """Wait until no other process reads the headers of *image*, and keep others from reading them.

        Yields what another machine has read in them, if one has and told it.
        """
        store = self.store
        lock = None if store is None else store.lock(f"headers of {image.folded}")
        try:
            if lock is not None:
                await lock.acquire()
        except StoreError:
            lock = None  # the store cannot be written, so no process can take turns
        try:
            if self._turns is None:
                yield None
            else:
                async with self._turns.for_headers(image, [server.name for server in self.servers]) as links:
                    yield links
        finally:
            if lock is not None:
                lock.release()

    async def share_links(self, image: ImageKey, links: Sequence[Link]) -> None:
        """Tell other machines what *image* names."""
        if self.cluster is not None:
            await self.cluster.share_links(image, links)

    async def forget_shared_misses(self, key: Key) -> None:
        """Let other machines' misses of *key* not count any more."""
        if self._turns is not None:
            await self._turns.forget_misses(key, [server.name for server in self.servers])

    def give_up_uploads(self, *, after_s: float = 0.0) -> None:
        """Leave what is not in a bucket by then; the end of the source says how many files that are."""
        self._uploads.give_up(after_s=after_s)

    async def bring_to_buckets(self, key: Key) -> None:
        """Put *key*'s file, published in the store just now, into every bucket, behind the back of the caller."""
        present = await to_thread.run_sync(self.find, key)
        buckets = [bucket for bucket in self._bucket_stores.values() if bucket.takes_uploads]
        if present is not None and buckets:
            self._uploads.start(key, present.path, buckets, None, replaces=True)

    async def locate(self, key: Key, *, valid_s: float) -> str | None:
        """Return a URL from which anybody can get *key*'s plain file out of a bucket for so long; None if none has it.

        Of an excluded name there is none. The URL is a secret.
        """
        for bucket in () if self.is_excluded(key) else self._bucket_stores.values():
            with suppress(UpstreamError):
                if await bucket.seems_right(key):
                    return await bucket.sign(key, valid_s=valid_s)
        return None

    async def fetch(self, key: Key, checksums: Sequence[str] = ()) -> Outcome:
        """Search the symbol path for *key*, once for all concurrent requests.

        An image that is published under another name ends up under both, so that a debugger finds it. *checksums* are
        ``ALGORITHM:hex`` of a portable PDB, as its image states them, or those of lock files (`WHOLE_FILE`), which any
        file must have: a place that sends another is passed over, and one on disk is left as it is.
        """
        if self.is_excluded(key):
            return Missing(Cause.EXCLUDED)
        locked = locked_hashes(checksums)
        is_library = parse_runtime_library(key.name) is not None
        if isinstance(key, ImageKey) and (is_library or published_keys(key) != (key,)):
            return await self._named_fetches.run(
                (key.folded, locked), lambda: self._told(self._walk_names(key, checksums))
            )
        return await self._fetches.run((key.folded, locked), lambda: self._told(self._walk(key, checksums)))

    async def fetch_as(self, name: ImageKey, key: ImageKey) -> Present | Fetched | None:
        """Fetch *name*, and let it stand under *key*, too, if it is what that names; None if that does not come off."""
        found = await self.fetch(name)
        if not isinstance(found, Present | Fetched):
            return None
        filed = await to_thread.run_sync(self._file_under_all, found, name, key, ())
        return None if isinstance(filed, Failed) else filed

    async def read_image(self, key: ImageKey) -> Image | Missing | Failed:
        """Return the headers and debug data of the image that *key* names, from wherever it is, keeping nothing."""
        return await self._headers.run(key.folded, lambda: self._walk_names_for_headers(key))

    async def read_version(self, key: ImageKey) -> VersionInfo | None:
        """Return what *key*'s image says of its origin, by the first bucket or server that has it; nothing is kept."""
        return await self._first_of_remote(key, lambda place, name: place.read_version(name))

    async def read_runtime(self, key: ImageKey) -> RuntimeFacts | None:
        """Return what *key*'s image says of the .NET runtime that it is or holds; as `read_version`."""
        return await self._first_of_remote(key, lambda place, name: place.read_runtime(name))

    async def _first_of_remote(
        self, key: ImageKey, read: Callable[[BucketStore | HttpStore, ImageKey], Awaitable[T | None]]
    ) -> T | None:
        places: tuple[BucketStore | HttpStore, ...] = (*self._bucket_stores.values(), *self.servers)
        for place in places:
            for name in () if self.is_excluded(key) else published_keys(key):
                if (found := await read(place, name)) is not None:
                    return found
        return None

    async def fetch_documents(self, documents: Sequence[Document]) -> None:
        """Answer in each of *documents* what its server has of it, or what was kept."""
        await fetch_documents(documents, self.documents, self._downloader, lambda text: self._observer(Noted(text)))

    def close(self) -> None:
        """Drop scratch files and close what is remembered; for who only looked, and never entered the source."""
        super().close()
        self._close_memories()

    def _close_memories(self) -> None:
        if self._misses is not None:
            self._misses.close()
        if self.cluster is not None:
            self.cluster.close()

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
        self._uploads = Uploads(self._group, self._observer, keep_trying_s=self.config.network.total_timeout_s)
        return self

    async def __aexit__(self, error: type[BaseException] | None, *_: object) -> None:
        try:
            if error is None:
                await self._uploads.finish()
        finally:
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
        try:
            searched = await self._ask_chains(lambda chain: chain.fetch(key, checksums))
        except OtherBytes as error:
            return kept_other(error)
        if isinstance(searched, Missing | Failed):
            return searched
        if isinstance(searched.file, Present):
            self._note_use(key, searched.file.path)
            return searched.file
        assert searched.file is not None
        if searched.unfilled:
            buckets = [self._bucket_stores[store.name] for store in searched.unfilled]
            self._uploads.start(key, searched.file.path, buckets, searched.turn)
        return replace(searched.file, attempts=(*attempts_of(searched.answers), *searched.file.attempts))

    async def _ask_chains(self, ask: Callable[[Chain], Awaitable[Searched]]) -> Searched | Missing | Failed:
        """Ask one chain after the other until one has it; its `Searched` has the answers of those before it."""
        answers: list[LookUp] = []
        async with self._keys_at_once.one():
            for chain in self.chains:
                searched = await ask(chain)
                if searched.file is not None or searched.image is not None:
                    return replace(searched, answers=tuple(answers))
                answers.extend(searched.answers)
        end = sum_up(answers)
        if isinstance(end, Missing) and not self.config.symbol_path.has_server:
            return replace(end, hint=Hint.NO_SERVER)
        return end

    async def _walk_names(self, key: ImageKey, checksums: Sequence[str]) -> Outcome:
        """Walk the symbol path for each name of *key*'s image until one is found, and file that under *key*, too.

        What a store has under any of the names is not requested.
        """
        for name in (key, *published_keys(key)):
            try:
                present = await to_thread.run_sync(self.find, name, checksums)
            except OtherBytes as error:
                return kept_other(error)
            if present is not None:
                filed = await to_thread.run_sync(self._file_under_all, present, name, key, ())
                if not isinstance(filed, Failed):
                    return filed
        ends: list[Missing | Failed] = []
        for name in published_keys(key):
            if self.is_excluded(name):
                continue
            flight = (name.folded, locked_hashes(checksums))
            found = await self._fetches.run(flight, partial(self._walk, name, checksums))
            if isinstance(found, Present | Fetched):
                found = await to_thread.run_sync(self._file_under_all, found, name, key, attempts_of(ends))
            if not isinstance(found, Missing | Failed):
                return found
            ends.append(found if name == key else asked_as(found, name))
        return sum_up_ends(ends)

    def _file_under_all(
        self, found: Present | Fetched, name: ImageKey, key: ImageKey, attempts: tuple[Attempt, ...]
    ) -> Present | Fetched | Failed:
        """Let *found*, published as *name*, stand under *key* and each other key that debuggers ask for it by.

        The short name of a runtime's library says less of it than the long one does, so that it may be another build.
        Some debuggers learn from the runtime which key the library has by itself.
        """
        others = filed_keys(key)[1:]
        if name != key:
            if parse_runtime_library(key.name) is not None and (problem := _find_problem(found.path, key)) is not None:
                attempt = Attempt(
                    found.upstream if isinstance(found, Fetched) else str(found.path), f"there, but {problem}"
                )
                return Failed(Cause.WRONG_CONTENT, (*attempts, attempt), problem, Hint.OTHER_BUILD)
            found = self._file_under(found, name, key, attempts)
        for other in (*others, *_own_keys(found.path, key)):
            if other not in {name, key} and self.find(other) is None:
                self._file_under(found, key, other, ())
        return found

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
                    ends.append(searched if name == key else asked_as(searched, name))
                elif searched.image is not None:
                    return searched.image
        return sum_up_ends(ends)

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
            observer=self._observer,
            sleep=sleep,
        )

    def _open_chain(self, element: ResolvedElement) -> Chain:
        return Chain(
            self._open_stores(element, self._open_server, self._open_bucket),
            self._chain_settings(),
            searching=self._searching,
            publishing=self._publishing,
            turns=self._turns,
        )

    def _join_cluster(self) -> None:
        from symcache.stores.cluster import Cluster  # noqa: PLC0415 - of an extra
        from symcache.stores.turns import Turns  # noqa: PLC0415

        self.cluster = Cluster(self.config.cluster, observer=self._observer)
        longest_s = min(self.config.network.total_timeout_s, _LONGEST_TURN_S)
        self._turns = Turns(
            self.cluster,
            self._misses,
            longest_s=longest_s,
            share_as=lambda name: name_as_asked(name, self.config.server),
            seats=self._keys_at_once,
        )

    def _open_server(self, url: str) -> HttpStore | NegativeCache:
        if url not in self._servers:
            hints = hints_for(url, self.config.server)
            try:
                self._servers[url] = HttpStore(url, hints, self._downloader)
            except UpstreamRefused as error:
                raise ConfigError(str(error), where="symbol path") from error
        server = self._servers[url]
        return server if self._misses is None else NegativeCache(server, self._misses)

    def _open_bucket(self, bucket: Bucket) -> BucketStore:
        from symcache.stores.bucket.store import BucketStore  # noqa: PLC0415 - few symbol paths have one

        if bucket.name not in self._bucket_stores:
            self._bucket_stores[bucket.name] = BucketStore(bucket, self._observer)
        return self._bucket_stores[bucket.name]

    def _open_misses(self) -> Misses | None:
        settings = self.config.misses
        try:
            return Misses(settings.folder, ttl_s=settings.ttl_s)
        except StoreError as error:
            self._observer(Noted(f"{error}; misses are not remembered"))
            return None


def _find_problem(path: Path, key: ImageKey) -> str | None:
    """Return why the file at *path*, which was had under another name, is not *key*'s; None if it is."""
    from symcache.stores.check import check_file  # noqa: PLC0415 - the parsers are there anyway where files come

    try:
        return check_file(path, key).problem
    except OSError as error:
        return error.strerror or str(error)


def _own_keys(path: Path, key: ImageKey) -> tuple[ImageKey, ...]:
    """Return the key that *key*'s file at *path* has by itself, if it is a library under the key of its runtime.

    Source: dotnet/diagnostics, dbgshim.cpp, which asks by what ``DotNetRuntimeInfo`` of the runtime states.
    """
    library = parse_runtime_library(key.name)
    if library is None:
        return ()
    from symcache.formats.pe.image import parse_image_header  # noqa: PLC0415 - for libraries of runtimes alone
    from symcache.formats.view import FileView  # noqa: PLC0415

    try:
        with FileView(path) as view:
            header = parse_image_header(view)
    except (InputError, OSError):
        return ()
    return (ImageKey(library.short_name, header.timestamp, header.size_of_image),)


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
            form, answer, *_ = await place.probe(key)
            seconds = time.monotonic() - began_s
            copies = _copies(chain, at, form) if form is not None else ()
            yield Step(number, at, place.name, answer, has_file=form is not None, seconds=seconds, copies=copies)
            if form is not None:
                return


def _copies(chain: Chain, at: int, form: Form) -> tuple[tuple[str, str], ...]:
    """Return what a fetch would write, in the order in which it would.

    Of stores on disk the bottom-most comes last, and plain; then come buckets.
    """
    buckets = [(store.name, Form.PLAIN.value) for store in chain.stores[:at] if store.takes_uploads]
    stores = [store.local for store in chain.stores[:at] if store.local is not None]
    between = Form.COMPRESSED if form is Form.COMPRESSED else Form.PLAIN
    copies = ((store.name, (Form.PLAIN if store is stores[0] else between).value) for store in reversed(stores))
    return (*copies, *buckets)
