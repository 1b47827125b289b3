"""The application under another server than uvicorn, on either event loop."""

from __future__ import annotations

from contextlib import asynccontextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest

from symcache.config import load_config
from symcache.server import App
from symcache.server.request import CONNECTION, ResponseAborted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from support.serving import Published

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def running(app: App) -> AsyncIterator[httpx.AsyncClient]:
    """Start *app* up, lend a client for it, and shut it down."""
    started, stop, stopped = anyio.Event(), anyio.Event(), anyio.Event()
    received = 0

    async def receive() -> dict[str, Any]:
        nonlocal received
        received += 1
        if received > 1:
            await stop.wait()
        return {"type": "lifespan.startup" if received == 1 else "lifespan.shutdown"}

    async def send(message: Any) -> None:
        {"lifespan.startup.complete": started, "lifespan.shutdown.complete": stopped}[message["type"]].set()

    async with anyio.create_task_group() as group:
        group.start_soon(app, {"type": "lifespan"}, receive, send)
        with anyio.fail_after(20):
            await started.wait()
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://test") as client:
            yield client
        stop.set()
        with anyio.fail_after(20):
            await stopped.wait()


def make_app(home: Path, files: dict[str, bytes]) -> tuple[App, list[str]]:
    """Return an application whose upstream has *files*, and what that is asked for."""
    asked: list[str] = []

    async def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.url.path)
        content = files.get(request.url.path.removeprefix("/"))
        return httpx.Response(404) if content is None else httpx.Response(200, content=content)

    config = load_config(None, {}, symbol_path=f"srv*{home / 'store'}*http://upstream.test")
    config = replace(
        config,
        misses=replace(config.misses, folder=home / "misses"),
        serve=replace(config.serve, stream_from_bytes=0),
        store=replace(config.store, durable=False),
    )
    return App(config, transport=httpx.MockTransport(answer)), asked


async def test_files_and_misses(tmp_path: Path, small: Published, old: Published) -> None:
    app, asked = make_app(tmp_path, {small.index: small.content})
    async with running(app) as client:
        for _ in range(2):
            assert (await client.get(f"/{small.index}")).content == small.content
            assert (await client.get(f"/{old.index}")).status_code == 404
        assert (await client.get("/healthz")).text == "ok\n"
    assert asked.count(f"/{small.index}") == asked.count(f"/{old.index}") == 1


async def test_what_cannot_be_completed_is_left_to_the_server_to_cut_off(
    tmp_path: Path, large: Published, old: Published
) -> None:
    app, _ = make_app(tmp_path, {old.index: large.content})
    async with running(app) as client:
        try:
            answer = await client.get(f"/{old.index}")
        except ResponseAborted:
            return
        assert answer.status_code == 502  # it was found out before the answer began


class ClosingConnection:
    """A connection that the server has closed, as for a malformed request behind this one; the client may not know."""

    is_gone = True

    def __init__(self) -> None:
        self.aborted = anyio.Event()

    def abort(self) -> None:
        self.aborted.set()


async def test_a_request_that_cannot_be_answered_any_more_ends_when_the_server_knows_it(
    tmp_path: Path, small: Published
) -> None:
    # To uvicorn, an application that ends before that without a whole response has failed, and it says so in the log.
    app, _ = make_app(tmp_path, {small.index: small.content})
    async with running(app) as client:
        assert (await client.get(small.index)).status_code == 200  # it is in the store now
        connection = ClosingConnection()
        sent: list[str] = []

        async def receive() -> dict[str, Any]:
            with anyio.fail_after(20):
                await connection.aborted.wait()
            return {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            sent.append(message["type"])
            assert not message.get("body")

        path = f"/{small.index}".encode()
        scope = {"type": "http", "method": "GET", "headers": [], "raw_path": path, "query_string": b""}
        await app({**scope, "extensions": {CONNECTION: connection}}, receive, send)
        assert connection.aborted.is_set()
        assert sent == ["http.response.start"]
