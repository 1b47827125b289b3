"""Turns with a key among machines that share a bucket, over a real Redis; each machine has a memory of misses."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING

import anyio
import pytest
from anyio import to_thread
from support.redis import Redis
from support.serving import wait_for
from support.sources import IMAGE_KEY, KEY

from symcache.config import ClusterSettings
from symcache.stores.cluster import Cluster
from symcache.stores.concurrency import Seats
from symcache.stores.links import Link
from symcache.stores.negative import Miss, Misses, Wanted
from symcache.stores.turns import Turns

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

SERVERS = ("https://one.example", "https://two.example")
LINKS = (Link(KEY),)


@dataclass
class Machine:
    """One machine of several."""

    turns: Turns
    misses: Misses
    cluster: Cluster


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture
def machine(redis: Redis, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[str], Machine]]:
    with ExitStack() as stack:

        def make(name: str, *, url: str = "", longest_s: float = 30.0, seats: Seats | None = None) -> Machine:
            settings = ClusterSettings(url=url or redis.url, prefix=f"{request.node.name}:", lease_s=5)
            cluster = Cluster(settings)
            stack.callback(cluster.close)
            misses = stack.enter_context(Misses(tmp_path / name, ttl_s=600))
            return Machine(Turns(cluster, misses, longest_s=longest_s, seats=seats), misses, cluster)

        yield make


async def test_one_machine_has_the_turn_and_the_next_knows_that_it_came_after(
    machine: Callable[..., Machine],
) -> None:
    first, second = machine("a"), machine("b")
    turn = await first.turns.take(KEY, SERVERS, exclusive=True)
    assert not turn.may_be_there
    theirs = []

    async def wait() -> None:
        theirs.append(await second.turns.take(KEY, SERVERS, exclusive=True))

    async with anyio.create_task_group() as group:
        group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert theirs == []
        await turn.end()
        await turn.end()  # is safe
    assert theirs[0].may_be_there
    await theirs[0].end()


async def test_who_is_cancelled_before_having_a_seat_again_holds_no_lease(
    machine: Callable[..., Machine],
) -> None:
    seats = Seats(1)
    first, second = machine("a", seats=seats), machine("b")
    held = await second.turns.take(KEY, SERVERS, exclusive=True)

    async def take_seated() -> None:
        async with seats.one():
            await first.turns.take(KEY, SERVERS, exclusive=True)

    async with anyio.create_task_group() as group:
        group.start_soon(take_seated)
        await anyio.wait_all_tasks_blocked()
        async with seats.one():  # which is free while the other one waits for the lease
            await held.end()
            await to_thread.run_sync(wait_for, lambda: first.cluster._held)
            group.cancel_scope.cancel()
    assert not first.cluster._held
    with anyio.fail_after(20):
        await (await second.turns.take(KEY, SERVERS, exclusive=True)).end()


async def test_who_comes_right_behind_another_is_told(machine: Callable[..., Machine]) -> None:
    first, second = machine("a"), machine("b")
    await (await first.turns.take(KEY, SERVERS, exclusive=True)).end()
    turn = await second.turns.take(KEY, SERVERS, exclusive=True)
    assert turn.may_be_there
    await turn.end()


async def test_without_a_bucket_nobody_is_waited_for(machine: Callable[..., Machine]) -> None:
    first, second = machine("a"), machine("b")
    turn = await first.turns.take(KEY, SERVERS, exclusive=False)
    with anyio.fail_after(10):
        assert not (await second.turns.take(KEY, SERVERS, exclusive=False)).may_be_there
    await turn.end()


async def test_what_one_was_told_is_missing_the_other_knows(machine: Callable[..., Machine]) -> None:
    first, second = machine("a"), machine("b")
    turn = await first.turns.take(KEY, SERVERS, exclusive=True)
    first.misses.remember(SERVERS[0], KEY, "404")
    await turn.end()
    await (await second.turns.take(KEY, SERVERS, exclusive=True)).end()
    known = second.misses.recall(SERVERS[0], KEY)
    assert known is not None
    assert known.answer == "404"
    assert second.misses.recall(SERVERS[1], KEY) is None


async def test_who_takes_over_all_misses_need_not_look_for_the_file_again(machine: Callable[..., Machine]) -> None:
    first, second = machine("a"), machine("b")
    turn = await first.turns.take(KEY, SERVERS, exclusive=True)
    for server in SERVERS:
        first.misses.remember(server, KEY, "404")
    await turn.end()
    turn = await second.turns.take(KEY, SERVERS, exclusive=True)
    assert not turn.may_be_there
    await turn.end()


async def test_an_old_miss_is_neither_shared_nor_believed(machine: Callable[..., Machine]) -> None:
    first, second = machine("a"), machine("b")
    first.misses.remember(SERVERS[0], KEY, "404")
    old = first.misses.recall(SERVERS[0], KEY)
    assert old is not None
    turn = await first.turns.take(KEY, SERVERS, exclusive=True)
    await turn.end()
    # Noted before the turn, so that it is not news; and what is in Redis and too old does not count.
    await second.turns.take(KEY, SERVERS, exclusive=False)
    assert second.misses.recall(SERVERS[0], KEY) is None
    long_ago = time.time() - 3600
    from dataclasses import replace  # noqa: PLC0415

    await first.cluster.share_misses([replace(old, first_asked_s=long_ago, last_asked_s=long_ago)], ttl_s=600)
    await second.turns.take(KEY, SERVERS, exclusive=False)
    assert second.misses.find(SERVERS[0], KEY) is None


async def test_what_is_known_here_alone_of_a_miss_stays(machine: Callable[..., Machine]) -> None:
    first, second = machine("a"), machine("b")
    long_ago_s = time.time() - 3600
    wanted = Wanted(module="app.exe", inputs=("crash.dmp",), count=1)
    second.misses.keep(Miss(KEY.index, SERVERS[0], long_ago_s, long_ago_s, 7, "404", in_passing=False, wanted=wanted))
    turn = await first.turns.take(KEY, SERVERS, exclusive=True)
    first.misses.remember(SERVERS[0], KEY, "410", in_passing=True)
    await turn.end()
    await (await second.turns.take(KEY, SERVERS, exclusive=True)).end()
    known = second.misses.recall(SERVERS[0], KEY)
    assert known is not None
    assert (known.answer, known.first_asked_s, known.times) == ("410", long_ago_s, 7)
    assert (known.in_passing, known.wanted) == (False, wanted)


async def test_who_knows_all_misses_asks_nobody(machine: Callable[..., Machine]) -> None:
    first, second = machine("a"), machine("b")
    held = await first.turns.take(KEY, SERVERS, exclusive=True)
    for server in SERVERS:
        second.misses.remember(server, KEY, "404")
    with anyio.fail_after(10):
        turn = await second.turns.take(KEY, SERVERS, exclusive=True)  # although another has it
    await turn.end()
    await held.end()


async def test_headers_are_read_by_one_and_told_to_all(machine: Callable[..., Machine]) -> None:
    first, second = machine("a"), machine("b")
    async with first.turns.for_headers(IMAGE_KEY, SERVERS) as links:
        assert links is None
        await first.cluster.share_links(IMAGE_KEY, LINKS)
    async with second.turns.for_headers(IMAGE_KEY, SERVERS) as links:
        assert links == LINKS


async def test_that_an_image_is_nowhere_is_learned_by_one_and_told_to_all(machine: Callable[..., Machine]) -> None:
    first, second = machine("a"), machine("b")
    async with first.turns.for_headers(IMAGE_KEY, SERVERS):
        for server in SERVERS:
            first.misses.remember(server, IMAGE_KEY, "404", in_passing=True)
    async with second.turns.for_headers(IMAGE_KEY, SERVERS) as links:
        assert links is None
        known = [second.misses.recall(server, IMAGE_KEY) for server in SERVERS]
    assert [(miss.answer, miss.in_passing) for miss in known if miss is not None] == [("404", True)] * 2
    held = await first.cluster.acquire(f"headers of {IMAGE_KEY.folded}", longest_s=30)
    with anyio.fail_after(10):
        async with second.turns.for_headers(IMAGE_KEY, SERVERS):
            pass  # although another has the turn: nobody is going to be asked
    await held.release()


async def test_without_redis_turns_are_had_at_once(machine: Callable[..., Machine]) -> None:
    alone = machine("a", url="redis://127.0.0.1:1")
    with anyio.fail_after(20):
        turn = await alone.turns.take(KEY, SERVERS, exclusive=True)
        assert not turn.may_be_there
        await turn.end()
        async with alone.turns.for_headers(IMAGE_KEY, SERVERS) as links:
            assert links is None
