"""Whose turn it is to ask upstreams for a key, among processes that share a bucket, and what they learned of it."""

from __future__ import annotations

import time
from contextlib import asynccontextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import anyio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence

    from symcache.identity import ImageKey, Key
    from symcache.stores.cluster import Cluster, Lease
    from symcache.stores.concurrency import Seats
    from symcache.stores.links import Link
    from symcache.stores.negative import Miss, Misses

_RELEASE_S = 2.0


class Turn:
    """One process's turn with a key.

    *may_be_there* tells that another one had its turn meanwhile, or a moment ago, and may have put the file into the
    bucket: it did not say that upstreams lack it.
    """

    def __init__(
        self, turns: Turns, key: Key, upstreams: Sequence[str], lease: Lease | None, *, may_be_there: bool = False
    ) -> None:
        self.may_be_there = may_be_there
        self._turns = turns
        self._key = key
        self._upstreams = upstreams
        self._lease = lease
        self._began_s = time.time()

    async def end(self) -> None:
        """Let the next one have it, and tell the others what upstreams have not; safe to call twice."""
        lease, self._lease = self._lease, None
        upstreams, self._upstreams = self._upstreams, ()
        with anyio.move_on_after(_RELEASE_S, shield=True):
            if upstreams:
                await self._turns.share_misses(self._key, upstreams, since_s=self._began_s)
            if lease is not None:
                await lease.release()


class Turns:
    """Turns by the leases of *cluster*; what it knows of misses is taken over into *misses*, this process's own.

    *share_as* returns what an upstream is called where misses are shared: who is told something else by it, as it is
    asked with other credentials, has another name for it. While another process is waited for, the caller's seat
    among *seats* is free.
    """

    def __init__(
        self,
        cluster: Cluster,
        misses: Misses | None,
        *,
        longest_s: float,
        share_as: Callable[[str], str] = lambda upstream: upstream,
        seats: Seats | None = None,
    ) -> None:
        self._cluster = cluster
        self._misses = misses
        self._longest_s = longest_s
        self._share_as = share_as
        self._seats = seats

    async def take(self, key: Key, upstreams: Sequence[str], *, exclusive: bool) -> Turn:
        """Return this process's turn to ask *upstreams* for *key*; with *exclusive* no other one asks meanwhile.

        Nobody is waited for longer than *longest_s*, or where Redis is away.
        """
        if self._is_missed(key, upstreams):
            return Turn(self, key, (), None)  # nobody is going to be asked
        lease = await self._acquire(key.folded) if exclusive else None
        try:
            await self._take_over_misses(key, upstreams)
        except BaseException:
            if lease is not None:
                with anyio.move_on_after(_RELEASE_S, shield=True):
                    await lease.release()
            raise
        had_to_wait = lease is not None and lease.had_to_wait
        return Turn(self, key, upstreams, lease, may_be_there=had_to_wait and not self._is_missed(key, upstreams))

    async def _acquire(self, what: str) -> Lease:
        acquire = partial(self._cluster.acquire, what, longest_s=self._longest_s)
        if self._seats is None:
            return await acquire()
        held: list[Lease] = []

        async def hold() -> None:
            held.append(await acquire())

        try:
            await self._seats.left_for(hold)
        except BaseException:  # the seat was not to be had again in time
            for lease in held:
                with anyio.move_on_after(_RELEASE_S, shield=True):
                    await lease.release()
            raise
        return held[0]

    def _is_missed(self, key: Key, upstreams: Sequence[str]) -> bool:
        return self._misses is not None and all(self._misses.recall(name, key) is not None for name in upstreams)

    async def _take_over_misses(self, key: Key, upstreams: Sequence[str]) -> None:
        misses = self._misses
        if misses is None:
            return
        names = {self._share_as(upstream): upstream for upstream in upstreams}
        for shared in await self._cluster.recall_misses(key, list(names)):
            miss = replace(shared, upstream=names[shared.upstream])
            known = misses.find(miss.upstream, key)
            if misses.counts(miss) and (known is None or known.last_asked_s < miss.last_asked_s):
                misses.keep(miss if known is None else _continued(known, miss))

    async def share_misses(self, key: Key, upstreams: Sequence[str], *, since_s: float) -> None:
        """Tell the others of misses of *key* that were noted since then."""
        if self._misses is None:
            return
        found = (self._misses.recall(name, key) for name in upstreams)
        fresh = [miss for miss in found if miss is not None and miss.last_asked_s >= since_s]
        if fresh:
            shared = [replace(miss, upstream=self._share_as(miss.upstream)) for miss in fresh]
            await self._cluster.share_misses(shared, ttl_s=self._misses.ttl_s)

    async def forget_misses(self, key: Key, upstreams: Sequence[str]) -> None:
        """Let other machines' misses of *key* not count any more."""
        await self._cluster.forget_misses(key, [self._share_as(upstream) for upstream in upstreams])

    @asynccontextmanager
    async def for_headers(self, image: ImageKey, upstreams: Sequence[str]) -> AsyncIterator[tuple[Link, ...] | None]:
        """Take the turn to read the headers of *image*; yield what another process has read in them, if one has.

        What *upstreams* have not is taken over and told as by `take`.
        """
        links = await self._cluster.recall_links(image)
        if links is not None or self._is_missed(image, upstreams):
            yield links
            return
        lease = await self._acquire(f"headers of {image.folded}")
        turn = Turn(self, image, upstreams, lease)
        try:
            await self._take_over_misses(image, upstreams)
            yield await self._cluster.recall_links(image) if lease.had_to_wait else None
        finally:
            await turn.end()


def _continued(known: Miss, miss: Miss) -> Miss:
    """Return *miss*, which another process noted, with what is *known* here alone: since when, and for what."""
    return replace(
        miss,
        first_asked_s=min(known.first_asked_s, miss.first_asked_s),
        times=max(known.times, miss.times),
        in_passing=known.in_passing and miss.in_passing,
        wanted=known.wanted,
    )
