"""The way to a server: names, proxies of every kind that answer in every way, TLS; each ends in time and is named."""

from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.proxy import OPEN, ForwardingProxy, RawProxy, SocksProxy
from support.wire import Listener, closed_port

from symcache.errors import HostUnavailable, UpstreamRefused
from symcache.stores.http import proxies
from symcache.stores.http.auth import Handshake
from symcache.stores.http.certificates import Trust
from symcache.stores.http.connect import (
    STAYS_OUTSIDE,
    Connector,
    ProxyRefusedError,
    describe_os_error,
    describe_refusal,
)
from symcache.stores.http.proxies import ProxyRules, parse_proxy, parse_script_answer
from symcache.stores.http.reply import translate
from symcache.stores.http.transport import Http1Transport
from symcache.stores.http.urls import origin_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from conftest import MakeUpstream
    from support.authority import Authority
    from support.upstream import Upstream

    from symcache.errors import UpstreamError

ROOT = Path(__file__).parents[3]
TIMEOUTS = {"connect": 20.0, "read": 20.0, "write": 20.0, "pool": 20.0}
BASIC = b'HTTP/1.1 407 No\r\nProxy-Authenticate: Basic realm="x"\r\n'
NEGOTIATE = b"HTTP/1.1 407 No\r\nProxy-Authenticate: Negotiate\r\n"
EMPTY = b"Content-Length: 0\r\n\r\n"


def connector(proxy: str | ProxyRules = "", tls: ssl.SSLContext | None = None) -> Connector:
    trust = Trust()
    trust._usual = tls
    return Connector(ProxyRules(proxy) if isinstance(proxy, str) else proxy, trust)


def request_for(url: str, connect_s: float = 20.0) -> httpx.Request:
    return httpx.Request("GET", url, extensions={"timeout": {**TIMEOUTS, "connect": connect_s}})


async def get(
    proxy: str | ProxyRules, url: str, tls: ssl.SSLContext | None = None, connect_s: float = 20.0
) -> tuple[int, bytes]:
    """Return status and body; the transport as the program uses it."""
    transport = Http1Transport(connector(proxy, tls), most_idle=4)
    try:
        response = await transport.handle_async_request(request_for(url, connect_s))
        assert isinstance(response.stream, httpx.AsyncByteStream)
        body = b"".join([chunk async for chunk in response.stream])
        await response.aclose()
        return response.status_code, body
    finally:
        await transport.aclose()


async def failure(
    proxy: str | ProxyRules, url: str, tls: ssl.SSLContext | None = None, connect_s: float = 20.0
) -> UpstreamError:
    """Return what a request fails of, as it is told to the rest of the program."""
    with pytest.raises((httpx.HTTPError, UpstreamRefused)) as caught, anyio.fail_after(20):
        await get(proxy, url, tls, connect_s)
    error = caught.value
    return error if isinstance(error, UpstreamRefused) else translate(error, url)


def with_user(url: str, user: str) -> str:
    return url.replace("://", f"://{user}@")


@contextmanager
def served(script: bytes, *, then_close: bool = True) -> Iterator[str]:
    """Answer every connection with *script* as soon as anything is said; yield ``host:port``."""

    def serve(client: socket.socket) -> None:
        client.recv(65536)
        client.sendall(script)
        if then_close:
            client.shutdown(socket.SHUT_WR)
        while client.recv(65536):
            pass

    listener = Listener(serve)
    try:
        yield f"127.0.0.1:{listener.port}"
    finally:
        listener.close()


@pytest.fixture
def secure(make_upstream: MakeUpstream, authority: Authority) -> Upstream:
    return make_upstream({"x": b"content"}, tls=authority.server_context("symbols.example"))


# Tunnels


@pytest.mark.parametrize("digest", [False, True], ids=["Basic", "Digest"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_is_told_user_and_password(
    scheme: str, digest: bool, make_upstream: MakeUpstream, authority: Authority
) -> None:
    tls = authority.server_context("symbols.example") if scheme == "https" else None
    upstream = make_upstream({"x": b"content"}, tls=tls)
    routes = {"symbols.example:443": upstream.port, "symbols.example:80": upstream.port}
    with ForwardingProxy(routes, credentials=("me", "p@ss"), digest=digest) as proxy:
        url = with_user(proxy.url, "me:p%40ss")
        assert await get(url, f"{scheme}://symbols.example/x", authority.client_context()) == (200, b"content")
        assert len(proxy.requests) == (2 if digest else 1)
        error = await failure(with_user(proxy.url, "me:wrong"), f"{scheme}://symbols.example/x")
        assert len(proxy.requests) == (4 if digest else 2)
        kind = "Digest" if digest else "Basic"
        assert error.problem == f"the proxy answered 407: it wants {kind}, and does not accept this user and password"
        assert isinstance(error, UpstreamRefused)
        error = await failure(proxy.url, f"{scheme}://symbols.example/x")
        assert error.problem.endswith(f"; in network.proxy, put user:password and an @ before {proxy.address}")
    assert all("proxy-authorization" not in request.headers for request in upstream.requests)


CHALLENGE = b'Proxy-Authenticate: Basic realm="a, b", Digest realm="x", nonce="n", qop="auth, auth-int"\r\n'


@pytest.mark.parametrize(
    "answers",
    [
        pytest.param([[b"HTTP/1.1 407 No\r\n" + CHALLENGE + EMPTY, OPEN]], id="both in one field, same connection"),
        pytest.param(
            [[b"HTTP/1.1 407 No\r\n" + CHALLENGE + b"Connection: close\r\n" + EMPTY], [OPEN]], id="it closes after 407"
        ),
        pytest.param(
            [
                [
                    b"HTTP/1.1 407 No\r\n" + CHALLENGE + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
                    OPEN,
                ]
            ],
            id="a body in chunks",
        ),
        pytest.param([[b"HTTP/1.0 407 No\r\n" + CHALLENGE + b"\r\nsome page"], [OPEN]], id="a body up to the end"),
        pytest.param(
            [[b"HTTP/1.1 407 No\r\n" + CHALLENGE + b"Content-Length: 99999\r\n\r\n" + b"x" * 99999], [OPEN]],
            id="a long body is not waited for",
        ),
        pytest.param([[b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 407 No\r\n" + CHALLENGE + EMPTY, OPEN]], id="100 first"),
    ],
)
async def test_a_challenge_is_answered_however_it_comes(
    answers: Sequence[Sequence[bytes]], secure: Upstream, authority: Authority
) -> None:
    with RawProxy(*answers, port=secure.port) as proxy:
        url = with_user(proxy.url, "me:secret")
        assert await get(url, "https://symbols.example/x", authority.client_context()) == (200, b"content")
        said = [request.headers["proxy-authorization"].split()[0] for asked in proxy.requests for request in asked]
        assert said == ["Basic", "Digest"]


@pytest.mark.parametrize(
    ("challenge", "said"),
    [
        ("Digest", "Digest"),
        ('Digest realm="x"', "Digest"),
        ('Digest realm="x", nonce="n", algorithm=ROT13', "Digest"),
        ('Digest realm="x", nonce="n", qop="auth-int"', "Digest"),
        ('Digest realm="x", nonce="n", qop="nonsense"', "Digest"),
        ("Digest realm, nonce", "Digest"),
        ('Digest realm="\xfc", nonce="n"', "Digest"),
        ('Digest realm="unended, nonce=n', "Digest"),
    ],
)
async def test_a_challenge_that_makes_no_sense_is_a_refusal(challenge: str, said: str) -> None:
    answer = b"HTTP/1.1 407 No\r\nProxy-Authenticate: %s\r\n" % challenge.encode("latin-1") + EMPTY
    for scheme in ("http", "https"):
        with RawProxy([answer] * 5) as proxy:
            error = await failure(with_user(proxy.url, "me:secret"), f"{scheme}://symbols.example/x")
        assert isinstance(error, UpstreamRefused)
        assert error.problem.startswith(f"the proxy answered 407: it wants {said}")
        assert "secret" not in str(error)


@pytest.mark.parametrize(
    ("answer", "problem"),
    [
        (b"", "closed the connection"),
        (b"HTTP/1.1 200", "closed the connection"),
        (b"nonsense\r\n\r\n", "does not speak HTTP"),
        (b"\x05\x00", "does not speak HTTP"),
        (b"SSH-2.0-OpenSSH_9\r\n\r\n", "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: " + b"x" * 100_000, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n" + b"A: x\r\n" * 20_000, "does not speak HTTP"),
        (b"HTTP/1.1 200 OK\r\n\r\nsurplus", "sent something unasked"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\nsurplus", "sent something unasked"),
        (b"HTTP/1.1 302 Found\r\nLocation: https://sign.in/?secret\r\n" + EMPTY, "answered 302"),
        (b"HTTP/1.1 503 Busy\r\n" + EMPTY, "answered 503"),
        (BASIC + b"Content-Length: 50\r\n\r\nends early", "answered 407: it wants Basic"),
        (BASIC + b"Transfer-Encoding: chunked\r\n\r\nnonsense", "answered 407: it wants Basic"),
    ],
)
async def test_a_proxy_that_opens_no_tunnel_is_named(answer: bytes, problem: str) -> None:
    with served(answer) as address:
        error = await failure(f"http://{address}", "https://symbols.example/x")
        assert problem in error.problem
        assert error.problem.startswith("the proxy ")
        assert "secret" not in error.problem


@given(answer=st.binary(max_size=200) | st.binary(max_size=100).map(lambda rest: b"HTTP/1.1 407 No\r\n" + rest))
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@pytest.mark.parametrize("scheme", ["http", "socks4", "socks5"])
def test_whatever_a_proxy_says_is_no_more_than_a_failure(scheme: str, answer: bytes) -> None:
    with served(answer) as address:
        error = anyio.run(failure, f"{scheme}://me:secret@{address}", "https://127.0.0.1:1/x")
    assert "secret" not in str(error)


async def test_a_tunnel_may_bring_the_first_bytes_of_nobody(secure: Upstream) -> None:
    # What comes before TLS has begun is not the server's, and must not be taken for its.
    with served(b"HTTP/1.1 200 OK\r\n\r\n\x16\x03\x03\x00\x05hello") as address:
        error = await failure(f"http://{address}", "https://symbols.example/x")
    assert "unasked" in error.problem
    assert secure.connections == 0


@pytest.mark.parametrize(
    ("offers", "known", "said"),
    [
        (["Basic realm=x"], False, "put user:password and an @"),
        (["Basic realm=x"], True, "does not accept this user and password"),
        (["NTLM"], False, "px-proxy"),
        (["Negotiate", "NTLM"], False, "symcache[negotiate]"),
        (["Negotiate"], True, "does not accept the signed-in user"),
        ([], False, "407"),
        (['Basic realm="Digest realm, NTLM"'], False, "it wants Basic;"),
        (["Negotiate, NTLM, Basic realm=x"], False, "it wants Negotiate or NTLM or Basic;"),
        (["\x1b[31m" + "x" * 5000], False, "407"),
    ],
)
def test_what_a_proxy_wants_is_said_with_what_to_do(offers: list[str], known: bool, said: str) -> None:
    text = describe_refusal(407, offers, "http://proxy:8080", is_known=known)
    assert said in text
    assert text.isprintable()
    assert len(text) < 300


# SOCKS


@pytest.mark.parametrize("scheme", ["socks4", "socks4a", "socks5", "socks5h"])
@pytest.mark.parametrize("credentials", [None, ("me", "p@ss")], ids=["nobody", "a user"])
async def test_socks_leads_to_servers(
    scheme: str, credentials: tuple[str, str] | None, secure: Upstream, authority: Authority
) -> None:
    with SocksProxy(secure.port, scheme=scheme, credentials=credentials) as proxy:
        url = proxy.url.replace("p@ss", "p%40ss")
        host = "localhost" if scheme == "socks4" else "symbols.example"
        assert await get(url, f"https://{host}/x", authority.client_context()) == (200, b"content")
        assert proxy.hosts == ["127.0.0.1" if scheme == "socks4" else "symbols.example"]


@pytest.mark.parametrize(("host", "asked"), [("127.0.0.9", "127.0.0.9"), ("[::1]", "::1")])
async def test_socks_is_given_addresses_as_they_are(host: str, asked: str, upstream: Upstream) -> None:
    upstream.files["x"] = b"content"
    with SocksProxy(upstream.port) as proxy:
        assert await get(proxy.url, f"http://{host}/x") == (200, b"content")
        assert proxy.hosts == [asked]


@pytest.mark.parametrize(
    ("scheme", "code", "said"),
    [
        ("socks5", 1, "failed with 1"),
        ("socks5", 2, "does not allow it"),
        ("socks5", 3, "cannot reach that network"),
        ("socks5", 4, "cannot reach that host"),
        ("socks5", 5, "was refused by that host"),
        ("socks5", 6, "failed with 6"),
        ("socks5", 7, "failed with 7"),
        ("socks5", 8, "failed with 8"),
        ("socks5", 99, "failed with 99"),
        ("socks4a", 0x5B, "refuses it, with 91"),
        ("socks4a", 0x5C, "refuses it, with 92"),
        ("socks4a", 0x5D, "refuses it, with 93"),
        ("socks4a", 0, "refuses it, with 0"),
    ],
)
async def test_what_socks_refuses_is_said(scheme: str, code: int, said: str) -> None:
    with SocksProxy(1, scheme=scheme, code=code) as proxy:
        error = await failure(proxy.url, "http://symbols.example/x")
        assert error.problem == f"the proxy {proxy.url} {said}"
        assert isinstance(error, HostUnavailable)


async def test_socks_that_wants_a_user_says_so() -> None:
    with SocksProxy(1, credentials=("me", "secret")) as proxy:
        bare = proxy.url.replace("me:secret@", "")
        assert (await failure(bare, "http://h.example/x")).problem.endswith("wants user and password")
        error = await failure(with_user(bare, "me:wrong"), "http://h.example/x")
        assert error.problem.endswith("does not accept this user and password")
        assert "wrong" not in error.problem


@pytest.mark.parametrize(
    ("scheme", "answer", "said"),
    [
        ("socks5", b"HTTP/1.1 400 Bad\r\n\r\n", "does not speak SOCKS"),
        ("socks5", b"\x05\x00\x04\x00\x00\x01" + bytes(6), "does not speak SOCKS"),
        ("socks5", b"\x05\x00\x05\x00\x00\x09" + bytes(6), "does not speak SOCKS"),
        ("socks5", b"\x05\x01", "wants user and password"),
        ("socks5", b"\x05\x07", "does not speak SOCKS"),
        ("socks5", b"\x05", "closed the connection"),
        ("socks5", b"\x05\x00\x05\x00", "closed the connection"),
        ("socks4", b"HTTP/1.1 400 Bad\r\n\r\n", "does not speak SOCKS"),
        ("socks4", b"\x00\x5a", "closed the connection"),
        ("socks4", b"", "closed the connection"),
    ],
)
async def test_what_is_no_socks_is_named(scheme: str, answer: bytes, said: str) -> None:
    with served(answer) as address:
        error = await failure(f"{scheme}://{address}", "http://127.0.0.1:1/x")
    assert error.problem.startswith(f"the proxy {scheme}://{address} {said}")


@pytest.mark.parametrize("scheme", ["socks4", "socks5"])
async def test_what_does_not_fit_into_socks_is_a_failure_and_no_crash(scheme: str) -> None:
    with SocksProxy(1, scheme=scheme) as proxy:
        for url in (with_user(proxy.url, "x" * 300 + ":" + "y" * 300), proxy.url):
            error = await failure(url, f"http://{'a' * 60}.{'b' * 60}.{'c' * 60}.{'d' * 60}.{'e' * 60}/x")
            assert "xxx" not in error.problem


# HTTPS proxies, TLS


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_the_way_to_a_proxy_may_be_tls_itself(
    scheme: str, make_upstream: MakeUpstream, authority: Authority
) -> None:
    tls = authority.server_context("symbols.example") if scheme == "https" else None
    upstream = make_upstream({"x": b"content" * 10_000}, tls=tls)
    routes = {"symbols.example:443": upstream.port, "symbols.example:80": upstream.port}
    with ForwardingProxy(routes, tls=authority.server_context()) as proxy:
        assert proxy.url.startswith("https://")
        answer = await get(proxy.url, f"{scheme}://symbols.example/x", authority.client_context())
    assert answer == (200, b"content" * 10_000)


async def test_a_proxy_whose_certificate_is_not_trusted_is_named_with_it(authority: Authority) -> None:
    tls = authority.context_for("127.0.0.1", common_name="proxy.company.example")
    with ForwardingProxy({}, tls=tls) as proxy:
        error = await failure(proxy.url, "https://symbols.example/x", ssl.create_default_context())
        assert isinstance(error, UpstreamRefused)
        assert error.problem.startswith(f"the proxy {proxy.url}: its certificate, issued to proxy.company.example")


async def test_a_plain_proxy_that_is_called_an_https_one_is_named(authority: Authority) -> None:
    with served(b"HTTP/1.1 400 Bad\r\n\r\n") as address:
        error = await failure(f"https://{address}", "https://symbols.example/x", authority.client_context())
    assert error.problem.startswith(f"the proxy https://{address} does not speak TLS as it should: ")
    assert "ssl.c" not in error.problem


@pytest.mark.parametrize("through_proxy", [False, True])
@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.1 400 Bad\r\n\r\n", "no TLS handshake: "),
        (b"", "TLS handshake"),
        (b"\x15\x03\x03\x00\x02\x02\x46", "TLS"),  # another version of it
    ],
)
async def test_a_server_that_speaks_no_tls_is_named(
    answer: bytes, said: str, through_proxy: bool, authority: Authority
) -> None:
    with served(answer) as address, ForwardingProxy() as proxy:
        error = await failure(proxy.url if through_proxy else "", f"https://{address}/x", authority.client_context())
        assert isinstance(error, HostUnavailable)
        assert said in error.problem
        assert (proxy.address in error.problem) is through_proxy
        assert "operation not permitted" not in error.problem
        assert "_ssl" not in error.problem


async def test_a_server_that_ends_the_handshake_most_likely_wants_a_certificate(authority: Authority) -> None:
    with served(b"\x15\x03\x03\x00\x02\x02\x28") as address:
        error = await failure("", f"https://{address}/x", authority.client_context())
    assert isinstance(error, UpstreamRefused)
    assert "client_certificate" in error.problem


@pytest.mark.parametrize("stage", ["connection", "answer", "handshake", "socks"])
async def test_a_wait_ends_in_time_and_says_what_was_waited_for(stage: str, authority: Authority) -> None:
    tls = authority.client_context()
    silent = socket.create_server(("127.0.0.1", 0))
    with silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        began_s = time.monotonic()
        if stage == "handshake":
            with ForwardingProxy() as proxy:
                error = await failure(proxy.url, f"https://{address}/x", tls, 0.2)
                said = "opened a connection, but the other end did not answer the TLS handshake in time"
                assert error.problem == f"the proxy {proxy.url} {said}"
                error = await failure("", f"https://{address}/x", tls, 0.2)
                assert error.problem == "it did not answer the TLS handshake in time"
        elif stage == "connection":
            with full_backlog() as full:
                error = await failure("", f"http://{full}/x", tls, 0.2)
                assert error.problem == "no connection in time"
                error = await failure(f"http://{full}", "https://symbols.example/x", tls, 0.2)
                assert error.problem == f"the proxy http://{full} could not be reached in time"
        else:
            scheme = "socks5" if stage == "socks" else "http"
            error = await failure(f"{scheme}://{address}", "https://symbols.example/x", tls, 0.2)
            assert error.problem == f"the proxy {scheme}://{address} takes connections, but did not answer in time"
        assert isinstance(error, HostUnavailable)
        assert error.timed_out
        assert time.monotonic() - began_s < 10


@contextmanager
def full_backlog() -> Iterator[str]:
    """Yield the address of a port that takes no more connections: packets to it are dropped, as a firewall does."""
    if sys.platform != "linux":
        pytest.skip("other systems refuse what does not fit")
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listening:
        waiting = []
        for _ in range(8):
            waiting.append(socket.socket())
            waiting[-1].setblocking(False)
            waiting[-1].connect_ex(listening.getsockname())
        yield f"127.0.0.1:{listening.getsockname()[1]}"
        for connection in waiting:
            connection.close()


# Names


def lead(monkeypatch: pytest.MonkeyPatch, *addresses: str) -> None:
    """Let ``symbols.example`` have these addresses."""
    real = socket.getaddrinfo

    def look(host: str, port: int, *arguments: Any, **options: Any) -> object:
        if host != "symbols.example":
            return real(host, port, *arguments, **options)
        return [
            (socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port))
            for address in addresses
        ]

    monkeypatch.setattr(socket, "getaddrinfo", look)


async def test_the_next_address_is_tried_when_the_first_refuses(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files["x"] = b"content"
    lead(monkeypatch, "127.0.0.9", "127.0.0.1") if sys.platform == "linux" else lead(monkeypatch, "::1", "127.0.0.1")
    assert await get("", f"http://symbols.example:{upstream.port}/x") == (200, b"content")


async def test_the_next_address_is_tried_when_the_first_is_silent(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files["x"] = b"content"
    real = anyio.connect_tcp

    async def connect(host: str, port: int) -> object:
        if host == "127.0.0.9":
            await anyio.sleep_forever()
        return await real(host, port)

    monkeypatch.setattr(anyio, "connect_tcp", connect)
    for order in (["127.0.0.9", "127.0.0.1"], ["127.0.0.9", "127.0.0.9", "127.0.0.1"]):
        lead(monkeypatch, *order)
        began_s = time.monotonic()
        assert await get("", f"http://symbols.example:{upstream.port}/x") == (200, b"content")
        assert time.monotonic() - began_s < 5


@pytest.mark.parametrize("number", [22, 10061, 111])
def test_a_refusal_is_called_so_whatever_number_the_system_gives_it(number: int) -> None:
    assert describe_os_error(ConnectionRefusedError(number, "in the user's language")) == ": connection refused"


async def test_without_an_address_that_answers_the_reason_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_port() as port:
        lead(monkeypatch, "127.0.0.1", "127.0.0.1")
        error = await failure("", f"http://symbols.example:{port}/x")
        assert error.problem == "cannot connect: connection refused"
        error = await failure(f"http://symbols.example:{port}", "https://other.example/x")
        assert error.problem == f"the proxy http://symbols.example:{port} cannot be reached: connection refused"


async def test_a_name_that_nobody_has_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    def look(*_: object, **__: object) -> object:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look)
    assert (await failure("", "http://symbols.example/x")).problem == "cannot connect: name or service not known"


async def test_no_address_inside_is_connected_to_by_a_request_that_stays_outside(
    monkeypatch: pytest.MonkeyPatch, upstream: Upstream
) -> None:
    lead(monkeypatch, "8.8.8.8", "127.0.0.1")
    request = request_for(f"http://symbols.example:{upstream.port}/")
    request.extensions[STAYS_OUTSIDE] = True
    with pytest.raises(httpx.ConnectError, match="private network"):
        await Connector(ProxyRules(""), Trust()).open(request, ("http", "symbols.example", upstream.port))
    assert upstream.connections == 0


async def test_a_resolver_that_never_answers_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    over = threading.Event()
    monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: over.wait(30))
    began_s = time.monotonic()
    error = await failure("", "http://symbols.example/x", connect_s=0.2)
    assert error.problem == "its name was not looked up in time"
    error = await failure("http://proxy.example:1", "http://symbols.example/x", connect_s=0.2)
    assert error.problem == "the proxy http://proxy.example:1 has a name that was not looked up in time"
    assert time.monotonic() - began_s < 10
    over.set()


def test_a_resolver_that_never_answers_does_not_hold_up_the_end_of_the_program(tmp_path: Path) -> None:
    code = """
import socket, sys, threading
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
from symcache.cli import main
sys.exit(main(sys.argv[1:]))
"""
    index = "app.pdb/7578144C39C4468394EF84F01549113A3/app.pdb"
    config = "[network]\nconnect_timeout_s = 0.3\nretries = 0\nproxy = 'none'\n"
    file = tmp_path / "symcache.toml"
    file.write_text(config)
    arguments = ["fetch", index, "-y", f"srv*{tmp_path / 'store'}*http://symbols.example", "--config", str(file)]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=30,  # for ever, if the thread counted
        check=False,
    )
    assert done.returncode == 1, done.stderr
    assert "its name was not looked up in time" in done.stderr
    assert "Traceback" not in done.stderr


# Several routes


async def test_the_next_route_of_a_script_is_taken_when_a_proxy_is_dead(
    secure: Upstream, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with (
        closed_port() as port,
        ForwardingProxy({}) as refusing,
        ForwardingProxy({"symbols.example:443": secure.port}) as proxy,
    ):
        answer = f"PROXY 127.0.0.1:{port}; PROXY {refusing.address}; PROXY {proxy.address}; DIRECT"
        rules = ProxyRules(None, script="/x.pac")
        rules._known[origin_of(httpx.URL("https://symbols.example/"))] = tuple(parse_script_answer(answer, "script"))
        assert await get(rules, "https://symbols.example/x", authority.client_context()) == (200, b"content")
        assert len(refusing.requests) == len(proxy.requests) == 1


async def test_the_last_route_says_why_none_works() -> None:
    with closed_port() as port:
        rules = ProxyRules(None, script="/x.pac")
        answer = f"PROXY 127.0.0.1:{port}; SOCKS5 127.0.0.1:{port}"
        rules._known[origin_of(httpx.URL("https://symbols.example/"))] = tuple(parse_script_answer(answer, "script"))
        error = await failure(rules, "https://symbols.example/x")
    assert error.problem == f"the proxy socks5://127.0.0.1:{port} cannot be reached: connection refused"


async def test_an_error_of_a_proxy_names_it_without_its_credentials() -> None:
    with closed_port() as port:
        proxy = parse_proxy(f"http://me:hunter2@127.0.0.1:{port}", "here")
        with pytest.raises(ProxyRefusedError) as caught:
            await connector(f"http://me:hunter2@127.0.0.1:{port}").open(
                request_for("https://symbols.example/"), ("https", "symbols.example", 443)
            )
    assert str(proxy) in str(caught.value)
    assert "hunter2" not in repr(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(("script", "is_named"), [("/x.pac", True), ("auto", False)])
async def test_the_signed_in_user_is_named_to_no_proxy_that_was_discovered(
    script: str, is_named: bool, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("spnego", reason="pyspnego is not installed")
    monkeypatch.setattr(Handshake, "_advance", lambda *_: b"who I am")
    with RawProxy([NEGOTIATE + EMPTY] * 2) as proxy:
        answer = f"PROXY {proxy.url.rpartition('/')[2]}"

        async def ask(*_: str) -> tuple[str, str]:
            return answer, ""

        monkeypatch.setattr(proxies, "_ask", ask)
        error = await failure(ProxyRules(None, script=script), f"{scheme}://symbols.example/x")
        said = ["proxy-authorization" in request.headers for asked in proxy.requests for request in asked]
    assert any(said) is is_named
    assert ("was discovered; set network.proxy" in error.problem) is not is_named


async def test_a_name_with_other_letters_is_asked_for_as_it_is_looked_up() -> None:
    with RawProxy([b"HTTP/1.1 403 No\r\n" + EMPTY]) as proxy:
        url = httpx.URL("https://b\xfccher.example/x")
        with pytest.raises(ProxyRefusedError, match="403"):
            await connector(proxy.url).open(request_for(str(url)), origin_of(url))
    assert proxy.requests[0][0].path == "xn--bcher-kva.example:443"


async def test_a_connection_that_is_reset_as_it_is_made_is_a_broken_one(monkeypatch: pytest.MonkeyPatch) -> None:
    class Forgotten:
        def extra(self, _attribute: object, default: object) -> object:
            return default

        async def aclose(self) -> None:
            pass

    async def connect(*_: object, **__: object) -> Forgotten:
        return Forgotten()

    monkeypatch.setattr("symcache.stores.http.connect._connect", connect)
    assert "reset" in str(await failure("", "http://127.0.0.1:9/")).lower()
