"""What several ``symcache serve`` and ``symcache warm`` share through Redis or Valkey: leases, misses, links, counts.

It is never the truth, only the memory. When it is away, slow or wrong, each goes on alone: correct, and less thrifty.

Layout of the database; *prefix* is ``cluster.prefix``, *index* a key's folded index:

=============================  ========================================================  ==========  =====
name                           value                                                     kept        bytes
=============================  ========================================================  ==========  =====
*prefix* ``lease:`` *what*     a random token of who holds it                            lease_s       168
*prefix* ``over:`` *what*      ``1``, after a lease was released                         60 s          136
*prefix* ``miss:`` *index*     JSON ``[first asked, last asked, times, answer, in        as misses     216
``|`` *upstream*               passing]``, times in seconds since 1970
*prefix* ``link:`` *index*     JSON ``[[index of the file, is embedded, [checksums]],    90 days       184
                               …]``, what an image names, as `StoreLinks` has it
*prefix* ``count:`` *replica*  JSON, what a replica counts                               15 s
*prefix* ``replicas``          the set of these names; of dead ones until a look at it   1 h
*prefix* ``try``               ``1``, when it is tried whether the server can be written  1 s
=============================  ========================================================  ==========  =====

Bytes are those of ``MEMORY USAGE`` in Redis 7.0 for ntkrnlmp.pdb, its image and one server; among 100,000 of them, with
the tables of names and of ends, a miss takes 277 and a link 262 (``used_memory``).
"""

from __future__ import annotations

import json
import math
import threading
import time
from contextlib import suppress
from functools import partial
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio import to_thread

from symcache.errors import ConfigError
from symcache.events import Noted, ignore
from symcache.identity import fold
from symcache.stores.links import links_json, parse_links
from symcache.stores.negative import parse_miss

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    import redis

    from symcache.config import ClusterSettings
    from symcache.events import Observer
    from symcache.identity import ImageKey, Key
    from symcache.stores.links import Link
    from symcache.stores.negative import Miss

T = TypeVar("T")

_THREADS = 16
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.02, 0.25
_OVER_KEPT_S = 60
_NO_END = -1  # PTTL of a name that is kept for good
_LINKS_KEPT_S = 90 * 24 * 3600
_COUNTS_KEPT_S = 15
_REPLICAS_KEPT_S = 3600
_MOST_REPLICAS = 256
_LONGEST_REPLICA = 64
_LONGEST_MISS_BYTES = 1 << 10
_LONGEST_LINKS_BYTES = 64 << 10
_LONGEST_COUNTS_BYTES = 256 << 10
_MOST_COUNTS_BYTES = 16 << 20
_LATEST_S = 1 << 33  # of any time that `datetime` and a page can show
_MOST_TIMES = 1 << 31
_LONGEST_ANSWER = 200
_LONGEST_EXCHANGE_S = 1.6  # with the wait for a thread

# A lease that the server forgot, as one that was started again, is taken again if nobody has it.
_RENEW = """
local kept = {}
for number, name in ipairs(KEYS) do
  local token = redis.call('get', name)
  if token == ARGV[number + 1] then
    kept[number] = redis.call('pexpire', name, ARGV[1])
  elseif not token then
    redis.call('set', name, ARGV[number + 1], 'PX', ARGV[1])
    kept[number] = 1
  else
    kept[number] = 0
  end
end
return kept
"""


_RELEASE = """
for number = 1, #KEYS, 2 do
  if redis.call('get', KEYS[number]) == ARGV[(number + 3) / 2] then
    redis.call('del', KEYS[number])
    redis.call('set', KEYS[number + 1], '1', 'EX', ARGV[1])
  end
end
"""


class Lease:
    """The right to be the one who asks upstreams, until it is released or its holder dies; or the lack of it.

    Attributes:
        had_to_wait: Somebody else held it meanwhile, or a moment ago, so that what is wanted may be there now.
        name: What it is called in the server.
        over_name: What is there for a while after it was released.
        token: What it holds there while it is ours.
        may_be_held: The server was asked for it and did not refuse; the answer may be lost.
        is_released: Nobody wants it any more.
    """

    def __init__(self, cluster: Cluster, name: bytes, over_name: bytes) -> None:
        self.had_to_wait = False
        self.name = name
        self.over_name = over_name
        self.token = token_hex(16)
        self.may_be_held = False
        self.is_released = False
        self._cluster = cluster

    @property
    def is_held(self) -> bool:
        """Whether it is ours as far as is known; a renewal may have found out that another has taken it."""
        return self._cluster.holds(self)

    async def release(self) -> None:
        """Let others have it. It is safe to call twice, when another has it, and when Redis is away."""
        await self._cluster.release(self)


class Cluster:
    """What replicas share through the server that *settings* name.

    No method raises because of that server, and none takes longer than about 1.5 s because of it. *observer* is told
    when it goes away and when it is back, from any thread. *clock_s*, monotonic, times how long it is left alone.

    Raises:
        ConfigError: The settings cannot be used, or redis-py is not installed.
    """

    def __init__(
        self,
        settings: ClusterSettings,
        *,
        observer: Observer = ignore,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        try:
            from symcache.stores.rediswire import Away, RedisServer  # noqa: PLC0415 - of an extra, and slow to import
        except ImportError as error:
            if error.name is None or error.name.partition(".")[0] != "redis":
                raise
            raise ConfigError("sharing needs redis-py; install symcache[cluster]", where="cluster.url") from error
        self._away = Away
        self._server = RedisServer(settings, tell=lambda text: observer(Noted(text)), clock_s=clock_s)
        self._prefix = settings.prefix
        self._replicas = f"{settings.prefix}replicas"
        self._lease_s = settings.lease_s
        self._limiter = anyio.CapacityLimiter(_THREADS)
        self._lock = threading.Lock()
        self._wake = threading.Condition(self._lock)
        self._held: dict[str, Lease] = {}
        self._renewing: threading.Thread | None = None
        self._is_closed = False

    @property
    def name(self) -> str:
        """The server's URL, which has no secrets."""
        return self._server.name

    @property
    def is_up(self) -> bool:
        """Whether the last exchange came off; False before the first."""
        return self._server.is_up

    async def acquire(self, what: str, *, longest_s: float) -> Lease:
        """Return the lease on *what*, for which nobody else then has one over all replicas.

        Another holder is waited for until it releases it or dies, but no longer than *longest_s*. Then, and when the
        server is away, the lease is held by nobody, and the caller goes on alone.
        """
        lease = Lease(self, self._name_of("lease", what), self._name_of("over", what))
        end_s = anyio.current_time() + longest_s
        pause_s = _FIRST_PAUSE_S
        try:
            while not await self._ask(partial(self._take, lease), default=True):
                lease.had_to_wait = True
                left_s = end_s - anyio.current_time()
                if left_s <= 0:
                    break
                await anyio.sleep(min(pause_s, left_s))
                pause_s = min(1.5 * pause_s, _LONGEST_PAUSE_S)
        except BaseException:
            await self.release(lease)
            raise
        return lease

    async def release(self, lease: Lease) -> None:
        """See `Lease.release`."""
        with self._lock:
            lease.is_released = True
            if self._is_closed:
                return  # the thread that renews is about to drop it
            self._held.pop(lease.token, None)
            may_be_held, lease.may_be_held = lease.may_be_held, False
        if may_be_held:
            with anyio.CancelScope(shield=True):  # for others wait; it is bounded
                await self._ask(partial(_drop, [lease]), default=None)

    def holds(self, lease: Lease) -> bool:
        """See `Lease.is_held`."""
        return lease.token in self._held

    async def recall_misses(self, key: Key, upstreams: Sequence[str]) -> list[Miss]:
        """Return the misses for *key* that replicas shared of *upstreams*; they may be too old to count."""
        if not upstreams:
            return []

        def recall(client: redis.Redis) -> list[Miss]:
            rows = _checked(
                client.mget([self._name_of("miss", f"{key.folded}|{each}") for each in upstreams]), len(upstreams)
            )
            misses = (_parse_miss(row, key, upstream) for row, upstream in zip(rows, upstreams, strict=True))
            return [miss for miss in misses if miss is not None]

        return await self._ask(recall, default=[])

    async def share_misses(self, misses: Sequence[Miss], *, ttl_s: float) -> None:
        """Let other replicas know *misses* for *ttl_s* seconds, without for what they were wanted."""
        kept_ms = int(ttl_s * 1000)
        texts = {self._name_of("miss", f"{fold(miss.index)}|{miss.upstream}"): _miss_text(miss) for miss in misses}

        def share(client: redis.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            for name, text in texts.items():
                pipeline.set(name, text, px=kept_ms)
            pipeline.execute()

        if texts and kept_ms > 0:
            await self._ask(share, default=None)

    async def forget_misses(self, key: Key, upstreams: Sequence[str]) -> None:
        """Drop what replicas shared of *upstreams* lacking *key*'s file."""
        if upstreams:
            names = [self._name_of("miss", f"{key.folded}|{each}") for each in upstreams]
            await self._ask(lambda client: client.delete(*names), default=None)

    async def recall_links(self, image: ImageKey) -> tuple[Link, ...] | None:
        """Return what *image* names, in file order; empty if it names none, None if no replica has shared it."""

        def recall(client: redis.Redis) -> tuple[Link, ...] | None:
            (text,) = _checked(client.mget([self._name_of("link", image.folded)]), 1)
            return parse_links(_load(text, _LONGEST_LINKS_BYTES))

        return await self._ask(recall, default=None)

    async def share_links(self, image: ImageKey, links: Sequence[Link]) -> None:
        """Let other replicas know what *image* names, for 90 days."""
        text = json.dumps(links_json(links), separators=(",", ":"))
        if len(text) <= _LONGEST_LINKS_BYTES:
            name = self._name_of("link", image.folded)
            await self._ask(lambda client: client.set(name, text, ex=_LINKS_KEPT_S), default=None)

    async def write_counts(self, replica: str, document: Mapping[str, Any]) -> None:
        """Let other replicas know what *replica*, a short name, counts; it is kept for 15 seconds."""
        text = json.dumps(document, separators=(",", ":"))

        def write(client: redis.Redis) -> None:
            pipeline = client.pipeline(transaction=False)
            pipeline.set(self._name_of("count", replica), text, ex=_COUNTS_KEPT_S)
            pipeline.sadd(self._replicas, replica)
            pipeline.expire(self._replicas, _REPLICAS_KEPT_S)
            pipeline.execute()

        if len(text) <= _LONGEST_COUNTS_BYTES:
            await self._ask(write, default=None)

    async def read_counts(self) -> dict[str, Any]:
        """Return what each replica that is alive wrote last, by its name; what the documents hold is not looked at."""

        def read(client: redis.Redis) -> dict[str, Any]:
            # So many of them, and not all: who may write there may write any number.
            members = _checked(client.srandmember(self._replicas, _MOST_REPLICAS), None)
            replicas = [name for member in members if (name := _parse_replica(member)) is not None]
            if not replicas:
                return {}
            texts = _checked(client.mget([self._name_of("count", each) for each in replicas]), len(replicas))
            dead = [name for name, text in zip(replicas, texts, strict=True) if text is None]
            if dead:
                client.srem(self._replicas, *dead)
            documents = {name: _load(text, _LONGEST_COUNTS_BYTES) for name, text in zip(replicas, texts, strict=True)}
            return {name: documents[name] for name in sorted(documents) if documents[name] is not None}

        return await self._ask(read, default={}, most_bytes=_MOST_COUNTS_BYTES)

    def close(self) -> None:
        """Let go of the server; leases that are still held are released first, behind the caller's back.

        It is safe to call twice. What is asked afterwards is answered as if the server were away.
        """
        with self._lock:
            self._is_closed = True
            is_renewing = self._renewing is not None
            self._wake.notify_all()
        if not is_renewing:
            self._server.close()

    async def _ask(self, exchange: Callable[[redis.Redis], T], *, default: T, most_bytes: int | None = None) -> T:
        """Return what *exchange* comes to in a worker thread; *default* if the server is away."""
        if self._is_closed or self._server.is_left_alone:
            return default
        bounds = {} if most_bytes is None else {"most_bytes": most_bytes}
        has_begun = False

        def ask() -> T:
            nonlocal has_begun
            has_begun = True
            return self._server.ask(exchange, **bounds)

        with anyio.move_on_after(_LONGEST_EXCHANGE_S):
            try:
                return await to_thread.run_sync(ask, limiter=self._limiter, abandon_on_cancel=True)
            except self._away:
                return default
        if has_begun:  # else it is no fault of the server that so many ask at once
            self._server.note_stuck()
        return default

    def _take(self, lease: Lease, client: redis.Redis) -> bool:
        """Take *lease* if nobody has it; return whether that is so. It is dropped again if nobody waits any more."""
        with self._lock:
            if not self._is_wanted(lease):
                return True
            lease.may_be_held = True
        pipeline = client.pipeline(transaction=True)
        pipeline.set(lease.name, lease.token, nx=True, px=round(self._lease_s * 1000))
        pipeline.exists(lease.over_name)
        pipeline.pttl(lease.name)
        is_taken, is_over, left_ms = _checked(pipeline.execute(), 3)
        if not is_taken:
            lease.may_be_held = False
            return bool(left_ms == _NO_END)  # none of ours, and nobody would ever get it
        # Who looked for the file before the other one was done, and comes for the lease after that, missed it.
        lease.had_to_wait |= is_over == 1
        with self._lock:
            is_wanted = self._is_wanted(lease)
            if is_wanted:
                self._held[lease.token] = lease
                if self._renewing is None:
                    self._renewing = threading.Thread(target=self._renew, name="symcache leases", daemon=True)
                    self._renewing.start()
        if not is_wanted:
            _drop([lease], client)
        return True

    def _is_wanted(self, lease: Lease) -> bool:
        return not (lease.is_released or self._is_closed)

    def _renew(self) -> None:
        """Renew all leases three times within their life; a thread of its own, as the event loop may be held up."""
        while True:
            with self._lock:
                if not self._is_closed:
                    self._wake.wait(self._lease_s / 3)
                leases = list(self._held.values())
                if self._is_closed or not leases:
                    self._held.clear()
                    self._renewing = None
                    break
            with suppress(self._away):
                kept = self._server.ask(partial(_renew, leases, round(self._lease_s * 1000)))
                with self._lock:
                    for lease, is_kept in zip(leases, kept, strict=True):
                        if not is_kept:
                            self._held.pop(lease.token, None)
        if leases:
            with suppress(self._away):
                self._server.ask(partial(_drop, leases))
        if self._is_closed:
            self._server.close()

    def _name_of(self, kind: str, what: str) -> bytes:
        # What clients ask for may hold half a character; that is no trouble of the server.
        return f"{self._prefix}{kind}:{what}".encode(errors="surrogatepass")


def _drop(leases: Sequence[Lease], client: redis.Redis) -> None:
    names = [name for lease in leases for name in (lease.name, lease.over_name)]
    client.eval(_RELEASE, len(names), *names, _OVER_KEPT_S, *(lease.token for lease in leases))


def _renew(leases: Sequence[Lease], kept_ms: int, client: redis.Redis) -> list[bool]:
    """Return which of *leases* are ours for another *kept_ms* milliseconds."""
    names, tokens = [lease.name for lease in leases], [lease.token for lease in leases]
    return [each == 1 for each in _checked(client.eval(_RENEW, len(leases), *names, kept_ms, *tokens), len(leases))]


def _checked(answer: Any, length: int | None) -> list[Any]:
    """Return *answer* if it is a list, of *length* if that is given; `ValueError` if not."""
    if not isinstance(answer, list) or length not in {None, len(answer)}:
        raise ValueError("not such a list")
    return answer


def _load(text: Any, longest_bytes: int) -> Any:
    """Return the document that *text* is; None if it is none, or too long."""
    if isinstance(text, bytes) and len(text) <= longest_bytes:
        with suppress(ValueError, RecursionError):
            return json.loads(text)
    return None


def _miss_text(miss: Miss) -> str:
    times = [int(each) if math.isfinite(each) else 0 for each in (miss.first_asked_s, miss.last_asked_s)]
    row = [*times, miss.times, miss.answer[:_LONGEST_ANSWER], miss.in_passing]
    return json.dumps(row, separators=(",", ":"))


def _parse_miss(text: Any, key: Key, upstream: str) -> Miss | None:
    row = _load(text, _LONGEST_MISS_BYTES)
    if not isinstance(row, list) or len(row) != 5:
        return None
    names = ("first_asked_s", "last_asked_s", "times", "answer", "in_passing")
    miss = parse_miss({"index": key.index, "upstream": upstream, **dict(zip(names, row, strict=True))})
    if miss is None or len(miss.answer) > _LONGEST_ANSWER:
        return None
    is_possible = 0 <= miss.first_asked_s <= miss.last_asked_s < _LATEST_S and 0 <= miss.times <= _MOST_TIMES
    return miss if is_possible else None


def _parse_replica(name: Any) -> str | None:
    if isinstance(name, bytes) and len(name) <= _LONGEST_REPLICA:
        with suppress(UnicodeDecodeError):
            text = name.decode()
            return text if text.isprintable() else None
    return None
