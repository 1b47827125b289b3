"""What both transports put on the wire and make of what comes back: the direct one means what httpx's own means."""

from __future__ import annotations

import socket
import ssl
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import httpx
import pytest
from support.answers import Stall, file, raw, status, unframed
from support.wire import Listener, closed_port, read_head

from symcache.stores.http.certificates import Trust
from symcache.stores.http.connect import Connector
from symcache.stores.http.proxies import ProxyRules
from symcache.stores.http.reply import translate
from symcache.stores.http.transport import Http1Transport

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from conftest import MakeUpstream
    from support.authority import Authority
    from support.upstream import Upstream

TIMEOUT = {"connect": 20.0, "read": 20.0, "write": 20.0, "pool": 20.0}
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


def connector(tls: ssl.SSLContext) -> Connector:
    trust = Trust()
    trust._usual = tls
    return Connector(ProxyRules(""), trust)


@pytest.fixture(params=["direct", "httpx"])
def make(request: pytest.FixtureRequest) -> Callable[..., httpx.AsyncBaseTransport]:
    def make(tls: ssl.SSLContext | None = None) -> httpx.AsyncBaseTransport:
        tls = tls or ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        if request.param == "direct":
            return Http1Transport(connector(tls), most_idle=4)
        return httpx.AsyncHTTPTransport(verify=tls, trust_env=False)

    return make


@asynccontextmanager
async def sent(
    transport: httpx.AsyncBaseTransport,
    url: str,
    headers: Mapping[str, str] | None = None,
    timeouts: Mapping[str, float] | None = None,
) -> AsyncIterator[httpx.Response]:
    request = httpx.Request("GET", url, headers=headers, extensions={"timeout": {**TIMEOUT, **(timeouts or {})}})
    response = await transport.handle_async_request(request)
    try:
        yield response
    finally:
        await response.aclose()


async def get(
    transport: httpx.AsyncBaseTransport, url: str, headers: Mapping[str, str] | None = None
) -> tuple[int, bytes]:
    async with sent(transport, url, headers) as response:
        assert isinstance(response.stream, httpx.AsyncByteStream)
        return response.status_code, b"".join([chunk async for chunk in response.stream])


@pytest.mark.parametrize(
    "target",
    [
        *["/", "/a//b", "//a", "/a%2Fb", "/a%2fb", "/a/%2e%2e/b", "/%e9%C3%a9", "/a%20b;c=d,e", "/$a!()*+,;=:@-._~"],
        *["/a|b", "/a\\b", "/a%", "/a%zz", "/a?", "/a?sig=%2B%20'|", "/a?b//c%2F"],
    ],
)
async def test_a_target_arrives_byte_for_byte(
    target: str, make: Callable[[], httpx.AsyncBaseTransport], upstream: Upstream
) -> None:
    transport = make()
    await get(transport, upstream.url + target)
    await transport.aclose()
    assert upstream.requests[0].target == target


async def test_fields_arrive_in_order_and_spelt_as_given(make: Callable[[], httpx.AsyncBaseTransport]) -> None:
    heads: list[bytes] = []

    def serve(connection: socket.socket) -> None:
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += connection.recv(4096)
        heads.append(head)
        connection.sendall(OK)

    listener = Listener(serve)
    url = f"http://127.0.0.1:{listener.port}/x"
    transport = make()
    assert await get(transport, url, headers={"SymbolChecksum": "sha256:00", "x-b": "1", "X-A": "2"}) == (200, b"ok")
    await transport.aclose()
    listener.close()
    host = b"Host: 127.0.0.1:%d" % listener.port
    expected = [b"GET /x HTTP/1.1", host, b"SymbolChecksum: sha256:00", b"x-b: 1", b"X-A: 2"]
    assert heads == [b"\r\n".join([*expected, b"", b""])]


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (file(b"x" * 300_000), b"x" * 300_000),
        (raw(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\no\r\n1;x=y\r\nk\r\n0\r\nX: y\r\n\r\n"), b"ok"),
        (unframed(b"x" * 300_000), b"x" * 300_000),
        (raw(b"HTTP/1.0 200 OK\r\n\r\nabc"), b"abc"),
        (raw(b"HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK), b"ok"),
        (raw(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n" + OK), b"ok"),
        (raw(b"HTTP/1.1 200\r\nX: \xe9\xff\r\nContent-Length: 2\r\n\r\nok"), b"ok"),
        (raw(b"HTTP/1.1 204 No Content\r\n\r\n"), b""),
        (status(200), b""),
    ],
    ids=["framed", "chunked", "unframed", "1.0", "interim", "interim twice", "odd field", "no content", "empty"],
)
async def test_a_body_arrives_whole(
    answer: object, body: bytes, make: Callable[[], httpx.AsyncBaseTransport], upstream: Upstream
) -> None:
    upstream.always("x", answer)  # type: ignore[arg-type]
    transport = make()
    _, received = await get(transport, f"{upstream.url}/x")
    await transport.aclose()
    assert received == body


@pytest.mark.parametrize(
    "answer",
    [
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
        b"HTTP/1.1 200 OK\r\nBad Name: 1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"X: %s\r\n" % (b"a" * 60_000) * 40 + b"\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n" + b"X: %s\r\n" % (b"a" * 60_000) * 40,
        b"HTTP/1.1 200 OK\r\nX: 1",
        b"",
    ],
    ids=[
        "ssh",
        "status",
        "length",
        "two lengths",
        "short",
        "cut chunk",
        "chunk",
        "name",
        "long",
        "long trailer",
        "cut head",
        "empty",
    ],
)
async def test_what_is_not_http_breaks_the_connection(
    answer: bytes, make: Callable[[], httpx.AsyncBaseTransport], upstream: Upstream
) -> None:
    upstream.always("x", raw(answer))
    transport = make()
    with pytest.raises((httpx.RemoteProtocolError, httpx.ReadError)):
        await get(transport, f"{upstream.url}/x")
    upstream.always("x", file(b"whole"))
    assert await get(transport, f"{upstream.url}/x") == (200, b"whole")
    await transport.aclose()


async def test_a_connection_serves_one_request_after_another(
    make: Callable[[], httpx.AsyncBaseTransport], upstream: Upstream
) -> None:
    upstream.files |= {"x": b"x", "y": bytes(300_000)}
    transport = make()
    for path in ("x", "y", "x"):
        await get(transport, f"{upstream.url}/{path}")
    assert upstream.connections == 1
    upstream.cut_connections()
    assert await get(transport, f"{upstream.url}/x") == (200, b"x")
    assert upstream.connections == 2
    await transport.aclose()


async def test_a_body_that_is_not_read_to_its_end_costs_its_connection(
    make: Callable[[], httpx.AsyncBaseTransport], upstream: Upstream
) -> None:
    upstream.files["x"] = bytes(4 << 20)
    transport = make()
    async with sent(transport, f"{upstream.url}/x") as response:
        assert response.status_code == 200
    await upstream.requests[0].ended.reached()
    async with sent(transport, f"{upstream.url}/x"):
        pass
    assert upstream.connections == 2
    await transport.aclose()


async def test_what_follows_an_answer_unasked_is_no_answer_to_the_next_request() -> None:
    def serve(connection: socket.socket) -> None:
        with connection.makefile("rb") as stream:
            while read_head(stream) is not None:
                connection.sendall(OK + b"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")

    listener = Listener(serve)
    transport = Http1Transport(connector(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)), most_idle=4)
    url = f"http://127.0.0.1:{listener.port}/x"
    for _ in range(3):
        assert await get(transport, url) == (200, b"ok")
    await transport.aclose()
    listener.close()


async def test_no_more_is_read_than_is_asked_for(
    make: Callable[[], httpx.AsyncBaseTransport], upstream: Upstream
) -> None:
    size_bytes = 64 << 20
    upstream.files["x"] = bytes(size_bytes)
    transport = make()
    async with sent(transport, f"{upstream.url}/x") as response:
        stream = response.stream.__aiter__()  # type: ignore[union-attr]
        assert len(await anext(stream)) <= 256 * 1024
        assert upstream.requests[0].sent_bytes < size_bytes // 2  # the rest waits in the server
    await transport.aclose()


async def test_silence_is_a_time_out(make: Callable[[], httpx.AsyncBaseTransport], upstream: Upstream) -> None:
    upstream.files["x"] = bytes(100_000)
    upstream.script("x", Stall(), Stall(10_000))
    transport = make()
    for _ in range(2):
        with pytest.raises(httpx.ReadTimeout):
            async with sent(transport, f"{upstream.url}/x", timeouts={"read": 0.1}) as response:
                await response.aread()
    await transport.aclose()


async def test_a_server_that_does_not_greet_is_a_time_out_of_the_connection(
    make: Callable[[], httpx.AsyncBaseTransport],
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        transport = make()
        url = f"https://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(httpx.ConnectTimeout):
            async with sent(transport, url, timeouts={"connect": 0.1}):
                pass
        await transport.aclose()


async def test_a_port_that_is_closed_is_an_error_of_the_connection(
    make: Callable[[], httpx.AsyncBaseTransport],
) -> None:
    transport = make()
    with closed_port() as port, pytest.raises(httpx.ConnectError):
        await get(transport, f"http://127.0.0.1:{port}/")
    await transport.aclose()


async def test_certificates_are_checked_with_the_name(
    make: Callable[..., httpx.AsyncBaseTransport], make_upstream: MakeUpstream, authority: Authority
) -> None:
    upstream = make_upstream({"x": b"x"}, tls=authority.server_context())
    elsewhere = make_upstream({"x": b"x"}, tls=authority.context_for("symbols.example"))
    transport = make(authority.client_context())
    assert await get(transport, f"{upstream.url}/x") == (200, b"x")
    trusting_no_one = make()
    for sender, url in ((transport, elsewhere.url), (trusting_no_one, upstream.url)):
        with pytest.raises(httpx.ConnectError) as raised:
            await get(sender, f"{url}/x")
        assert translate(raised.value, url).problem.startswith("its certificate")
        await sender.aclose()


async def test_a_line_break_in_a_field_is_refused(
    make: Callable[[], httpx.AsyncBaseTransport], upstream: Upstream
) -> None:
    transport = make()
    with pytest.raises(httpx.LocalProtocolError):
        await get(transport, f"{upstream.url}/x", headers={"Via": "1\r\nX: 2"})
    await transport.aclose()
    assert upstream.requests == []
