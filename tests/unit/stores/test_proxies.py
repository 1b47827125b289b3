from __future__ import annotations

import socket
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from support.parts import wine_lacks
from support.proxy import ForwardingProxy, SocksProxy
from support.sources import KEY, PATH, PDB, Rig
from support.wire import Listener, read_head

from symcache.config import Breaker, load_config
from symcache.errors import ConfigError
from symcache.stores.results import Cause, Failed, Fetched

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakeUpstream
    from support.authority import Authority
    from support.upstream import Upstream

NAME = "symbols.example:80"


@pytest.fixture
def rig(rig_on_each_transport: Rig) -> Rig:
    return rig_on_each_transport


@pytest.fixture
def proxy(upstream: Upstream) -> Iterator[ForwardingProxy]:
    with ForwardingProxy({NAME: upstream.port}) as forwarding:
        yield forwarding


async def test_a_proxy_is_asked_in_place_of_the_upstream(upstream: Upstream, proxy: ForwardingProxy, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    async with rig.source(f"srv*{rig.store}*http://symbols.example", proxy=proxy.url) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert [request.target for request in proxy.requests] == [f"http://symbols.example/{PATH}"]


async def test_the_variable_for_symbol_proxies_is_heeded(upstream: Upstream, proxy: ForwardingProxy, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    symbol_path = f"srv*{rig.store}*http://symbols.example"
    config = load_config(environ={"_NT_SYMBOL_PROXY": proxy.address}, symbol_path=symbol_path)
    async with rig.open(config) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert len(proxy.requests) == 1


async def test_without_a_word_the_systems_proxy_is_used(
    upstream: Upstream, proxy: ForwardingProxy, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files[PATH] = PDB
    monkeypatch.setenv("http_proxy", proxy.url)
    async with rig.source(f"srv*{rig.store}*http://symbols.example", proxy=None) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert len(proxy.requests) == 1


async def test_an_empty_proxy_means_none_at_all(
    upstream: Upstream, proxy: ForwardingProxy, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files[PATH] = PDB
    monkeypatch.setenv("http_proxy", proxy.url)
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert proxy.requests == []


async def test_credentials_of_a_proxy_are_sent_to_it_alone(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    with ForwardingProxy({NAME: upstream.port}, credentials=("me", "hunter2")) as proxy:
        url = proxy.url.replace("://", "://me:hunter2@")
        async with rig.source(f"srv*{rig.store}*http://symbols.example", proxy=url) as source:
            outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert "proxy-authorization" not in upstream.requests[0].headers
    assert "hunter2" not in repr(outcome) + repr(rig.events)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_is_not_asked_again(
    scheme: str, make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    tls = authority.server_context("symbols.example") if scheme == "https" else None
    upstream = make_upstream({PATH: PDB}, tls=tls)
    routes = {NAME: upstream.port, "symbols.example:443": upstream.port}
    with ForwardingProxy(routes, credentials=("me", "hunter2")) as proxy:
        bundle = authority.write_bundle(tmp_path / "ca.pem")
        symbol_path = f"srv*{rig.store}*{scheme}://symbols.example"
        async with rig.source(symbol_path, proxy=proxy.url, ca_file=bundle) as source:
            outcome = await source.fetch(KEY)
        assert len(proxy.requests) == 1
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.REFUSED
    assert "407" in outcome.attempts[0].answer
    assert rig.misses() == []


@pytest.mark.parametrize(
    ("status", "cause"), [(401, Cause.REFUSED), (403, Cause.REFUSED), (407, Cause.REFUSED), (502, Cause.UNAVAILABLE)]
)
async def test_a_tunnel_that_is_refused_is_named_with_its_status(status: int, cause: Cause, rig: Rig) -> None:
    def refuse(client: socket.socket) -> None:
        with client.makefile("rb") as stream:
            read_head(stream)
        client.sendall(b"HTTP/1.1 %d No\r\nContent-Length: 0\r\n\r\n" % status)

    listener = Listener(refuse)
    proxy = f"http://127.0.0.1:{listener.port}"
    async with rig.source(f"srv*{rig.store}*https://symbols.example", proxy=proxy, retries=1) as source:
        outcome = await source.fetch(KEY)
    listener.close()
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.attempts[0].answer) == (cause, f"the proxy answered {status}")
    assert rig.misses() == []


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_silent_proxy_is_a_time_out(scheme: str, rig: Rig) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        proxy = f"http://127.0.0.1:{silent.getsockname()[1]}"
        options = {"proxy": proxy, "retries": 0, "read_timeout_s": 0.1, "connect_timeout_s": 0.1}
        async with rig.source(f"srv*{rig.store}*{scheme}://symbols.example", **options) as source:
            outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.UNAVAILABLE
    assert "in time" in outcome.attempts[0].answer
    assert rig.transport == "httpx" or proxy in outcome.attempts[0].answer


async def test_no_proxy_names_what_is_asked_directly(
    upstream: Upstream, proxy: ForwardingProxy, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files[PATH] = PDB
    monkeypatch.setenv("http_proxy", proxy.url)
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    async with rig.plain(upstream, proxy=None) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert proxy.requests == []


async def test_https_goes_through_a_tunnel(
    make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    secure = make_upstream({PATH: PDB}, tls=authority.server_context("symbols.example"))
    with ForwardingProxy({"symbols.example:443": secure.port}) as proxy:
        bundle = authority.write_bundle(tmp_path / "ca.pem")
        async with rig.source(f"srv*{rig.store}*https://symbols.example", proxy=proxy.url, ca_file=bundle) as source:
            assert isinstance(await source.fetch(KEY), Fetched)
        assert [(request.method, request.target) for request in proxy.requests] == [("CONNECT", "symbols.example:443")]


@pytest.mark.parametrize(
    "trouble",
    ["tunnels that are closed", pytest.param("a certificate that nobody knows", marks=wine_lacks("own authorities"))],
)
async def test_tunnels_that_fail_hold_no_place_that_others_wait_for(
    trouble: str, make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    secure = make_upstream({PATH: PDB}, tls=authority.server_context("symbols.example"))
    is_closing = trouble == "tunnels that are closed"
    bundle = authority.write_bundle(tmp_path / "ca.pem") if is_closing else None
    path = f"srv*{rig.store}*https://symbols.example"
    breaker = Breaker(failures=10_000)
    with ForwardingProxy({"symbols.example:443": secure.port}, drops_tunnels=is_closing) as proxy:
        options = {"proxy": proxy.url, "ca_file": bundle, "connections": 1, "retries": 0, "breaker": breaker}
        async with rig.source(path, **options) as source:
            with anyio.fail_after(60):  # for ever, as it was
                for number in range(1, 12):
                    outcome = await source.fetch(replace(KEY, age=KEY.age + number))
                    assert isinstance(outcome, Failed)
                    assert outcome.cause in {Cause.UNAVAILABLE, Cause.REFUSED}
            assert len(proxy.requests) >= 11
            proxy.drops_tunnels = False
            if is_closing:  # as good as new as soon as the proxy is
                assert isinstance(await source.fetch(KEY), Fetched)


async def test_a_dead_proxy_is_unavailable_and_no_miss(rig: Rig) -> None:
    with ForwardingProxy() as proxy:
        async with rig.source(f"srv*{rig.store}*http://symbols.example", proxy=proxy.url, retries=1) as source:
            outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.attempts[0].answer) == (Cause.UNAVAILABLE, "502")
    assert rig.misses() == []


@pytest.mark.parametrize("proxy", ["gopher://127.0.0.1:1", "http://[::1"])
async def test_a_proxy_that_cannot_be_used_is_named_before_work_begins(proxy: str, rig: Rig) -> None:
    source = rig.source(f"srv*{rig.store}*http://symbols.example", proxy=proxy)
    with pytest.raises(ConfigError, match="not a proxy"):
        await source.__aenter__()


async def test_who_asks_nobody_need_not_care_for_proxies(rig: Rig) -> None:
    source = rig.source(f"srv*{rig.store}*http://symbols.example", proxy="gopher://127.0.0.1:1")
    assert source.find(KEY) is None
    source.close()


async def test_a_socks_proxy_of_the_environment_is_used(
    upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files[PATH] = PDB
    with SocksProxy(upstream.port) as socks:
        monkeypatch.setenv("ALL_PROXY", socks.url)
        async with rig.source(f"srv*{rig.store}*http://symbols.example", proxy=None) as source:
            assert isinstance(await source.fetch(KEY), Fetched)
        assert socks.hosts == ["symbols.example"]


@pytest.mark.parametrize("content", ["", "no certificate"])
async def test_a_file_without_certificates_is_an_error_of_the_configuration(
    content: str, rig: Rig, tmp_path: Path
) -> None:
    (tmp_path / "ca.pem").write_text(content)
    source = rig.source(f"srv*{rig.store}*http://symbols.example", ca_file=tmp_path / "ca.pem")
    with pytest.raises(ConfigError, match="holds no certificates"):
        await source.__aenter__()
