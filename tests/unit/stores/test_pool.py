from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import anyio
import httpcore
import httpx
import pytest
from support.wire import Listener, Signal, read_head

from symcache.config.values import Network
from symcache.stores.http.pool import TransportPool
from symcache.stores.http.reply import drain

if TYPE_CHECKING:
    import socket
    from collections.abc import AsyncIterator

    from support.upstream import Upstream

TIMEOUT = httpx.Timeout(20)


async def test_a_lane_is_free_again_however_its_loan_ends() -> None:
    pool = TransportPool(Network(proxy=""), connections=2)
    assert pool.free == 2

    async def fail() -> None:
        async with pool.transport(), pool.transport():
            assert pool.free == 0
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await fail()
    assert pool.free == 2
    async with pool.transport(), pool.transport():
        with anyio.move_on_after(0):
            async with pool.transport():
                pytest.fail("there are only two")
        assert pool.free == 0
    assert pool.free == 2
    await pool.aclose()


async def test_those_who_wait_count_against_what_is_free() -> None:
    pool = TransportPool(Network(proxy=""), connections=1)
    async with anyio.create_task_group() as group, pool.transport():

        async def wait() -> None:
            async with pool.transport():
                pass

        for _ in range(3):
            group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert pool.free == -3
    assert pool.free == 1
    await pool.aclose()


async def test_one_task_may_hold_several_pool_and_the_warm_one_comes_first() -> None:
    pool = TransportPool(Network(proxy=""), connections=3)
    async with pool.transport() as first, pool.transport() as second:
        assert first is not second
    async with pool.transport() as again:
        assert again is first
    await pool.aclose()


@pytest.mark.parametrize("transport_name", ["auto", "httpx"])
async def test_cancelling_a_request_closes_its_connection(transport_name: str) -> None:
    asked, closed = Signal("a request"), Signal("the end of its connection")

    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            read_head(stream)
            asked.set()
            assert stream.read() == b""
            closed.set()

    listener = Listener(serve)
    pool = TransportPool(Network(proxy="", transport=transport_name), connections=2)
    async with anyio.create_task_group() as group:

        async def ask() -> None:
            async with pool.transport() as transport:
                url = f"http://127.0.0.1:{listener.port}/x"
                await transport.handle_async_request(
                    httpx.Request("GET", url, extensions={"timeout": TIMEOUT.as_dict()})
                )

        group.start_soon(ask)
        await asked.reached()
        group.cancel_scope.cancel()
    await closed.reached()
    assert pool.free == 2
    await pool.aclose()
    listener.close()


@pytest.mark.parametrize("transport_name", ["auto", "httpx"])
async def test_no_field_is_sent_that_the_caller_has_not_chosen(transport_name: str, upstream: Upstream) -> None:
    pool = TransportPool(Network(proxy="", transport=transport_name), connections=1)
    async with pool.transport() as transport:
        response = await transport.handle_async_request(httpx.Request("GET", f"{upstream.url}/x"))
        await response.aclose()
    await pool.aclose()
    assert set(upstream.requests[0].headers) == {"host"}


@pytest.mark.parametrize("transport_name", ["auto", "httpx"])
async def test_no_library_is_changed_by_using_it(transport_name: str, upstream: Upstream) -> None:
    loggers = [logging.getLogger(name) for name in ("httpx", "httpcore")]
    before = [logger.level for logger in loggers], httpcore.AsyncHTTP11Connection.READ_NUM_BYTES
    pool = TransportPool(Network(transport=transport_name), connections=1)
    async with pool.transport() as transport:
        response = await transport.handle_async_request(httpx.Request("GET", f"{upstream.url}/x"))
        await response.aclose()
    await pool.aclose()
    assert ([logger.level for logger in loggers], httpcore.AsyncHTTP11Connection.READ_NUM_BYTES) == before


async def test_a_body_that_is_not_wanted_is_closed_by_who_gives_up_reading_it() -> None:
    closed = anyio.Event()

    class Endless(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            await anyio.sleep_forever()
            yield b""

        async def aclose(self) -> None:
            closed.set()

    response = httpx.Response(404, headers={"content-length": "9"}, stream=Endless())
    async with anyio.create_task_group() as group:
        group.start_soon(drain, response)
        await anyio.wait_all_tasks_blocked()
        group.cancel_scope.cancel()
    assert closed.is_set()
