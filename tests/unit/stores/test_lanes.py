from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from support.answers import Stall

from symcache.stores.http.pool import Lanes

if TYPE_CHECKING:
    from support.upstream import Upstream

TIMEOUT = httpx.Timeout(20)


async def test_a_lane_is_free_again_however_its_loan_ends() -> None:
    lanes = Lanes(count=2, timeout=TIMEOUT, proxy="")
    assert lanes.free == 2

    async def fail() -> None:
        async with lanes.lane(), lanes.lane():
            assert lanes.free == 0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert lanes.free == 2
    async with lanes.lane(), lanes.lane():
        with anyio.move_on_after(0):
            async with lanes.lane():
                pytest.fail("there are only two")
        assert lanes.free == 0
    assert lanes.free == 2
    await lanes.aclose()


async def test_those_who_wait_count_against_what_is_free() -> None:
    lanes = Lanes(count=1, timeout=TIMEOUT, proxy="")
    async with anyio.create_task_group() as group, lanes.lane():

        async def wait() -> None:
            async with lanes.lane():
                pass

        for _ in range(3):
            group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert lanes.free == -3
    assert lanes.free == 1
    await lanes.aclose()


async def test_one_task_may_hold_several_lanes_and_the_warm_one_comes_first() -> None:
    lanes = Lanes(count=3, timeout=TIMEOUT, proxy="")
    async with lanes.lane() as first, lanes.lane() as second:
        assert first is not second
    async with lanes.lane() as again:
        assert again is first
    await lanes.aclose()


async def test_connections_are_closed_under_cancellation_too(upstream: Upstream) -> None:
    lanes = Lanes(count=2, timeout=TIMEOUT, proxy="")
    stall = Stall()
    upstream.always("x", stall)
    clients = []
    with anyio.CancelScope() as scope:
        try:
            async with anyio.create_task_group() as group:

                async def ask() -> None:
                    async with lanes.lane() as client:
                        clients.append(client)
                        await client.get(f"{upstream.url}/x")

                group.start_soon(ask)
                await stall.reached.reached()
                scope.cancel()
        finally:
            await lanes.aclose()
    assert [client.is_closed for client in clients] == [True]


async def test_no_field_is_sent_that_the_caller_has_not_chosen(upstream: Upstream) -> None:
    lanes = Lanes(count=1, timeout=TIMEOUT, proxy="")
    async with lanes.lane() as client:
        await client.send(httpx.Request("GET", f"{upstream.url}/x"))
    await lanes.aclose()
    assert set(upstream.requests[0].headers) == {"host"}
