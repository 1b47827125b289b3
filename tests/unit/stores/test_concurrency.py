"""Calls that gather while all threads are busy, and what becomes of them when one fails or is cancelled."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from symcache.stores.concurrency import Batches, Seats, call_detached, map_in_order, take_in_order

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


async def test_what_waits_at_the_same_time_goes_to_a_thread_together() -> None:
    batches = Batches(threads=1, longest=8)
    release = threading.Event()
    threads: list[int] = []

    def note(number: int) -> int:
        threads.append(threading.get_ident())
        return number * 2

    results: dict[int, int] = {}

    async def call(number: int) -> None:
        results[number] = await batches.run(lambda: note(number))

    async with anyio.create_task_group() as group:
        group.start_soon(batches.run, lambda: release.wait(10))
        await anyio.wait_all_tasks_blocked()
        for number in range(20):
            group.start_soon(call, number)
        await anyio.wait_all_tasks_blocked()
        release.set()
    assert results == {number: number * 2 for number in range(20)}
    assert len(threads) == 20


async def test_an_error_reaches_the_one_who_called_and_no_other() -> None:
    batches = Batches(threads=1)
    results: list[int] = []

    async def fail() -> None:
        with pytest.raises(ZeroDivisionError):
            await batches.run(lambda: 1 // 0)

    async def succeed() -> None:
        results.append(await batches.run(lambda: 1))

    async with anyio.create_task_group() as group:
        for _ in range(5):
            group.start_soon(fail)
            group.start_soon(succeed)
    assert results == [1] * 5


async def test_a_call_that_is_cancelled_before_it_begins_is_not_made() -> None:
    batches = Batches(threads=1)
    release = threading.Event()
    made: list[str] = []
    async with anyio.create_task_group() as group:
        group.start_soon(batches.run, lambda: release.wait(10))
        await anyio.wait_all_tasks_blocked()
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as cancelled:
                cancelled.start_soon(batches.run, lambda: made.append("cancelled"))
                await anyio.wait_all_tasks_blocked()
                group.start_soon(batches.run, lambda: made.append("other"))
                await anyio.wait_all_tasks_blocked()
                scope.cancel()
        release.set()
    assert made == ["other"]


async def test_a_call_that_has_begun_is_waited_for_even_if_it_is_cancelled() -> None:
    batches = Batches(threads=1)
    begun, release = threading.Event(), threading.Event()
    ended: list[bool] = []

    def work() -> None:
        begun.set()
        release.wait(10)
        ended.append(True)

    async with anyio.create_task_group() as group:
        group.start_soon(batches.run, work)
        await anyio.to_thread.run_sync(begun.wait, 10)
        group.cancel_scope.cancel()
        release.set()
    assert ended == [True]


async def test_no_more_threads_are_used_than_allowed() -> None:
    batches = Batches(threads=2, longest=1)
    guard = threading.Lock()
    running = most = 0

    def work() -> None:
        nonlocal running, most
        with guard:
            running += 1
            most = max(most, running)
        threading.Event().wait(0.002)
        with guard:
            running -= 1

    async with anyio.create_task_group() as group:
        for _ in range(30):
            group.start_soon(batches.run, work)
    assert most <= 2


async def test_inline_calls_leave_the_event_loop_once_one_is_slow() -> None:
    batches = Batches(threads=1, inline=True)
    ours = threading.get_ident()
    assert await batches.run(threading.get_ident) == ours

    def slow() -> int:
        threading.Event().wait(0.02)
        return threading.get_ident()

    assert await batches.run(slow) == ours
    assert await batches.run(threading.get_ident) != ours
    with pytest.raises(ZeroDivisionError):
        await batches.run(lambda: 1 // 0)


class Panic(BaseException):
    """What Rust's panics are for Python: no `Exception`."""


async def test_a_detached_call_that_panics_is_an_error_and_no_wait_without_an_end() -> None:
    def panic() -> None:
        raise Panic("with a secret")

    with anyio.fail_after(10), pytest.raises(RuntimeError) as raised:
        await call_detached(panic)
    assert str(raised.value) == "Panic in a thread"


class Pieces:
    """What is brought when a test says so, and what of it was taken."""

    def __init__(self) -> None:
        self.asked: list[int] = []
        self.taken: list[int] = []
        self.over: list[int] = []
        self.here = [anyio.Event() for _ in range(10)]

    async def bring(self, at: int) -> int:
        self.asked.append(at)
        try:
            await self.here[at].wait()
        finally:
            self.over.append(at)
        return at

    async def take(self, at: int) -> None:
        self.taken.append(at)


async def test_what_is_brought_ahead_is_taken_in_order_and_counts_until_it_is() -> None:
    pieces = Pieces()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: take_in_order(range(6), pieces.bring, pieces.take, at_once=3))
        await anyio.wait_all_tasks_blocked()
        assert pieces.asked == [0, 1, 2]
        for at in (2, 1):
            pieces.here[at].set()
        await anyio.wait_all_tasks_blocked()
        assert (pieces.asked, pieces.taken) == ([0, 1, 2], [])
        pieces.here[0].set()
        await anyio.wait_all_tasks_blocked()
        assert (sorted(pieces.asked), pieces.taken) == ([0, 1, 2, 3, 4, 5], [0, 1, 2])
        for at in (5, 3, 4):
            pieces.here[at].set()
    assert pieces.taken == [0, 1, 2, 3, 4, 5]


async def test_the_first_error_of_what_is_brought_ahead_comes_alone_and_ends_the_rest() -> None:
    pieces = Pieces()

    async def bring(at: int) -> int:
        if await pieces.bring(at):
            raise ZeroDivisionError(at)
        return at

    async def fail() -> None:
        with pytest.raises(ZeroDivisionError, match="2"):
            await take_in_order(range(6), bring, pieces.take, at_once=3)

    async with anyio.create_task_group() as group:
        group.start_soon(fail)
        for at in (0, 2):
            await anyio.wait_all_tasks_blocked()
            pieces.here[at].set()
    assert pieces.taken == [0]
    assert sorted(pieces.over) == sorted(pieces.asked) == [0, 1, 2, 3]


async def test_who_gives_up_what_is_brought_ahead_waits_for_nothing() -> None:
    pieces = Pieces()
    async with anyio.create_task_group() as group:
        group.start_soon(lambda: take_in_order(range(6), pieces.bring, pieces.take, at_once=3))
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert (sorted(pieces.over), pieces.taken) == ([0, 1, 2], [])


@given(st.lists(st.integers(), max_size=60), st.integers(1, 8))
@settings(max_examples=25)
def test_work_ahead_keeps_the_order_and_its_bound(items: Sequence[int], at_once: int) -> None:
    under_way: list[int] = []
    most = 0
    lock = threading.Lock()

    def work(item: int) -> int:
        nonlocal most
        with lock:
            under_way.append(item)
            most = max(most, len(under_way))
        with lock:
            under_way.remove(item)
        return -item

    taken = 0

    def counted() -> Iterator[int]:
        nonlocal taken
        for item in items:
            taken += 1
            yield item

    results = []
    for item, result in map_in_order(work, counted(), at_once=at_once):
        results.append((item, result))
        assert taken <= len(results) + 2 * at_once
    assert results == [(item, -item) for item in items]
    assert most <= at_once


def test_the_first_error_of_work_ahead_reaches_who_asked() -> None:
    def work(item: int) -> int:
        if item == 3:
            raise ValueError(item)
        return item

    results = map_in_order(work, range(100), at_once=2)
    assert [next(results) for _ in range(3)] == [(0, 0), (1, 1), (2, 2)]
    with pytest.raises(ValueError, match="3"):
        next(results)


def test_who_stops_early_waits_for_no_work_ahead_and_no_more_is_begun() -> None:
    release = threading.Event()
    begun: list[int] = []

    def work(item: int) -> int:
        begun.append(item)
        if item:
            release.wait(60)
        return item

    results = map_in_order(work, range(100), at_once=2)
    assert next(results) == (0, 0)
    asking = [each for each in threading.enumerate() if each.name == "ask a bucket"]
    results.close()  # type: ignore[attr-defined]  # a generator
    release.set()
    for each in asking:
        each.join(60)
        assert not each.is_alive()
    assert set(begun) <= {0, 1, 2}


async def test_a_seat_is_left_to_others_while_its_owner_waits_for_somebody() -> None:
    seats, over, seen = Seats(1), anyio.Event(), list[str]()

    async def wait_within() -> None:
        async with seats.one():
            assert await seats.left_for(wait) == "waited"
            seen.append("first")

    async def wait() -> str:
        await over.wait()
        return "waited"

    async def come_later() -> None:
        async with seats.one():
            seen.append("second")
            over.set()
            await anyio.lowlevel.checkpoint()
            seen.append("second goes")

    async with anyio.create_task_group() as group:
        group.start_soon(wait_within)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(come_later)
    assert seen == ["second", "second goes", "first"]


async def test_a_seat_is_given_back_once_whatever_ends_the_wait() -> None:
    seats = Seats(1)

    async def fail() -> None:
        raise OSError("gone")

    for _ in range(2):
        with pytest.raises(OSError, match="gone"):
            async with seats.one():
                await seats.left_for(fail)
        with anyio.move_on_after(0):
            async with seats.one():
                await seats.left_for(anyio.sleep_forever)
    async with seats.one():
        with anyio.move_on_after(0) as given_up:
            async with seats.one():
                pass
        assert given_up.cancelled_caught  # there is one seat, not more
