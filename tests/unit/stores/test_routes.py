"""Which way a server is reached, before anything is sent: settings, variables, exceptions, scripts."""

from __future__ import annotations

import ipaddress
import subprocess
import sys
import threading
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.answers import Stall, status
from support.sources import KEY
from support.wire import closed_port

from symcache.config import Network, load_config
from symcache.errors import ConfigError
from symcache.stores.http import pacfile, proxies
from symcache.stores.http.proxies import (
    DIRECT,
    Proxy,
    ProxyRules,
    matches_no_proxy,
    parse_proxy,
    parse_script_answer,
)
from symcache.stores.results import Cause, Failed

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from support.sources import Rig
    from support.upstream import Upstream

ROOT = Path(__file__).parents[3]
SCRIPT = "function FindProxyForURL(url, host) {{ {} }}"

needs_pac = pytest.mark.skipif(not find_spec("pypac"), reason="pypac is not installed")
not_windows = pytest.mark.skipif(sys.platform == "win32", reason="Windows runs scripts itself")


def covers(entry: str, host: str, port: int = 443) -> bool:
    return matches_no_proxy(host, port, entry.split(",")) is not None


async def way(rules: ProxyRules, url: str = "https://symbols.example/x") -> list[str]:
    """Return the routes' proxies as text, ``direct`` for none."""
    return [str(route.proxy or "direct") for route in await rules.routes(httpx.URL(url))]


@pytest.mark.parametrize(
    ("entries", "host", "is_covered"),
    [
        ("example.com", "example.com", True),
        ("example.com", "a.b.example.com", True),
        (".example.com", "a.example.com", True),
        (".example.com", "example.com", True),
        ("*.example.com", "a.example.com", True),
        ("example.com", "notexample.com", False),
        (".example.com", "notexample.com", False),
        ("*.example.com", "example.com.evil", False),
        ("a.example.com", "example.com", False),
        ("EXAMPLE.Com", "A.example.COM", True),
        ("example.com.", "a.example.com", True),
        ("example.com", "a.example.com.", True),
        ("*", "anything.example", True),
        ("*", "10.0.0.1", True),
        ("", "example.com", False),
        (".", "example.com", False),
        ("*.", "example.com", False),
        (" other.example , example.com ", "example.com", True),
        ("10.0.0.0/8", "10.1.2.3", True),
        ("10.1.2.3/8", "10.250.0.1", True),
        ("10.0.0.0/8", "11.1.2.3", False),
        ("10.0.0.0/8", "10.example.com", False),
        ("192.168.1.5", "192.168.1.5", True),
        ("192.168.1", "192.168.1.5", False),
        ("1.5", "192.168.1.5", False),
        ("::1", "::1", True),
        ("[::1]", "::1", True),
        ("0:0::1", "::1", True),
        ("fd00::/8", "fd12::7", True),
        ("fd00::/8", "fe12::7", False),
        ("fd00::/8", "10.0.0.1", False),
    ],
)
def test_an_exception_covers_names_addresses_and_networks(entries: str, host: str, is_covered: bool) -> None:
    assert covers(entries, host) is is_covered


@pytest.mark.parametrize(
    ("entry", "host", "port", "is_covered"),
    [
        ("example.com:8080", "example.com", 8080, True),
        ("example.com:8080", "example.com", 443, False),
        ("*:8080", "any.example", 8080, True),
        ("*:8080", "any.example", 80, False),
        ("127.0.0.1:8080", "127.0.0.1", 8080, True),
        ("127.0.0.1:8080", "127.0.0.1", 8081, False),
        ("10.0.0.0/8:8080", "10.0.0.1", 8080, True),
        ("[::1]:8080", "::1", 8080, True),
        ("[::1]:8080", "::1", 8081, False),
        ("[fd00::/8]:80", "fd00::5", 80, True),
        ("example.com:http", "example.com", 80, False),
        ("example.com:99999999999999999999", "example.com", 80, False),
    ],
)
def test_an_exception_may_be_for_one_port(entry: str, host: str, port: int, is_covered: bool) -> None:
    assert covers(entry, host, port) is is_covered


labels = st.from_regex(r"[a-z][a-z0-9-]{0,8}[a-z0-9]", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)


@given(
    base=names,
    sub=names,
    lead=st.sampled_from(["", ".", "*."]),
    dots=st.tuples(st.sampled_from(["", "."]), st.sampled_from(["", "."])),
    upper=st.booleans(),
)
def test_a_name_covers_what_ends_with_it_and_nothing_that_only_looks_so(
    base: str, sub: str, lead: str, dots: tuple[str, str], upper: bool
) -> None:
    entry = lead + (base.upper() if upper else base) + dots[0]
    assert covers(entry, base + dots[1])
    assert covers(entry, f"{sub}.{base}{dots[1]}".upper())
    assert not covers(entry, f"{sub}{base}")
    assert not covers(entry, f"{base}.{sub}x")


@given(address=st.ip_addresses(), network=st.ip_addresses(), length=st.integers(0, 128))
def test_a_network_covers_its_addresses_alone(
    address: ipaddress.IPv4Address | ipaddress.IPv6Address,
    network: ipaddress.IPv4Address | ipaddress.IPv6Address,
    length: int,
) -> None:
    text = f"{network}/{min(length, network.max_prefixlen)}"
    assert covers(text, str(address)) is (address in ipaddress.ip_network(text, strict=False))


@given(entry=st.text(max_size=60), host=st.one_of(names, st.ip_addresses().map(str)), port=st.integers(1, 65535))
def test_no_exception_however_odd_stops_the_program(entry: str, host: str, port: int) -> None:
    matches_no_proxy(host, port, entry.split(","))


@pytest.mark.parametrize(
    ("text", "proxy"),
    [
        ("proxy.example:8080", Proxy("http", "proxy.example", 8080)),
        ("http://proxy.example", Proxy("http", "proxy.example", 80)),
        ("https://proxy.example", Proxy("https", "proxy.example", 443)),
        ("socks5h://[::1]", Proxy("socks5h", "::1", 1080)),
        ("socks4://proxy.example:9", Proxy("socks4", "proxy.example", 9)),
        (r"http://DOM%5Cme:p%40ss%3Aword@proxy.example:1", Proxy("http", "proxy.example", 1, "DOM\\me", "p@ss:word")),
        ("http://me@proxy.example:1", Proxy("http", "proxy.example", 1, "me", "")),
    ],
)
def test_a_proxy_is_named_by_host_and_port_or_by_a_url(text: str, proxy: Proxy) -> None:
    assert parse_proxy(text, "here") == proxy


@pytest.mark.parametrize("text", ["", "gopher://x", "http://", "http://x:99999", "http://[::1", ":8080"])
def test_what_names_no_proxy_is_refused_with_the_settings_name(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^here: not a proxy"):
        parse_proxy(text, "here")


def test_a_proxys_password_is_not_shown() -> None:
    proxy = parse_proxy("http://me:hunter2@proxy.example:1", "here")
    assert "hunter2" not in f"{proxy} {proxy!r}"


@pytest.mark.parametrize(
    ("configured", "script", "variables", "system", "expected"),
    [
        (None, "", {}, {}, "direct"),
        (None, "", {}, {"https": "http://s:1"}, "http://s:1"),
        (None, "", {}, {"socks": "socks5://s:1"}, "socks5://s:1"),
        (None, "", {"HTTPS_PROXY": "http://v:1"}, {"https": "http://s:1"}, "http://v:1"),
        (None, "", {"https_proxy": "v:1"}, {}, "http://v:1"),
        (None, "", {"ALL_PROXY": "socks5h://v:1"}, {}, "socks5h://v:1"),
        (None, "", {"ALL_PROXY": "http://all:1", "HTTPS_PROXY": "http://v:1"}, {}, "http://v:1"),
        (None, "", {"HTTP_PROXY": "http://v:1"}, {"https": "http://s:1"}, "direct"),
        ("", "", {"HTTPS_PROXY": "http://v:1"}, {"https": "http://s:1"}, "direct"),
        (None, "", {}, {"socks": "socks://s:1"}, "socks5://s:1"),  # Windows
        (None, "", {}, {"socks": "http://s:1"}, "socks5://s:1"),  # macOS
        ("http://c:1", "", {"HTTPS_PROXY": "http://v:1"}, {"https": "http://s:1"}, "http://c:1"),
        ("http://c:1", "/no/such.pac", {}, {}, "http://c:1"),
    ],
)
async def test_the_nearest_setting_wins(
    configured: str | None,
    script: str,
    variables: Mapping[str, str],
    system: dict[str, str],
    expected: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(proxies, "getproxies", lambda: system)
    monkeypatch.setattr(proxies, "_SYSTEM_SOCKS", "socks5")
    monkeypatch.setattr(proxies, "proxy_bypass", lambda _host: False)
    rules = ProxyRules(configured, script=script)
    assert await way(rules) == [expected]
    assert rules.is_always_direct is (expected == "direct" and "HTTP_PROXY" not in variables)


async def test_a_system_that_takes_long_over_its_exceptions_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    answered = threading.Event()
    monkeypatch.setattr(proxies, "getproxies", lambda: {"https": "http://s:1"})
    monkeypatch.setattr(proxies, "proxy_bypass", lambda _host: answered.wait(30))
    monkeypatch.setattr(proxies, "_EXCEPTION_S", 0.1)
    with anyio.fail_after(10):
        assert await way(ProxyRules(None)) == ["http://s:1"]
    answered.set()


@pytest.mark.parametrize(("script", "is_chosen"), [("auto", False), ("http://wpad.example/wpad.dat", True)])
async def test_a_proxy_that_a_discovered_script_names_is_none_that_the_user_chose(
    script: str, is_chosen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def answer(*_: str) -> tuple[str, str]:
        return "PROXY p:1; DIRECT", ""

    monkeypatch.setattr(proxies, "_ask", answer)
    first, second = await ProxyRules(None, script=script).routes(httpx.URL("https://symbols.example/"))
    assert first.proxy == Proxy("http", "p", 1, is_chosen=is_chosen)
    assert second.proxy is None


async def test_what_the_systems_settings_except_is_reached_directly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proxies, "getproxies", lambda: {"https": "http://s:1"})
    monkeypatch.setattr(proxies, "proxy_bypass", lambda host: host == "symbols.example")
    rules = ProxyRules(None)
    assert await way(rules) == ["direct"]
    assert await way(rules, "https://other.example/") == ["http://s:1"]
    (route,) = await rules.routes(httpx.URL("https://symbols.example/"))
    assert "system" in route.reason


@pytest.mark.parametrize("configured", ["http://c:1", None])
async def test_exceptions_count_whatever_names_the_proxy(
    configured: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://v:1")
    monkeypatch.setenv("NO_PROXY", "other.example, symbols.example:443")
    rules = ProxyRules(configured, no_proxy=["third.example"])
    assert await way(rules) == ["direct"]
    assert await way(rules, "https://third.example/") == ["direct"]
    assert await way(rules, "https://symbols.example:8443/") == ["http://c:1" if configured else "http://v:1"]
    (route,) = await rules.routes(httpx.URL("https://symbols.example/"))
    assert route.reason == "NO_PROXY covers it: symbols.example:443"


async def test_the_variable_for_symbol_proxies_heeds_exceptions(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", ".example")
    network = load_config(environ={"_NT_SYMBOL_PROXY": "c:1"}).network
    rules = ProxyRules(network.proxy, script=network.proxy_script, no_proxy=network.no_proxy)
    assert await way(rules) == ["direct"]
    assert await way(rules, "https://symbols.test/") == ["http://c:1"]


def test_a_variable_that_names_no_proxy_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("https_proxy", "gopher://x")
    with pytest.raises(ConfigError, match=r"^HTTPS_PROXY: not a proxy"):
        ProxyRules(None)


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        ("DIRECT", ["direct"]),
        ("PROXY p:8080; DIRECT", ["http://p:8080", "direct"]),
        ("PROXY p:8080;PROXY q:1 ;  SOCKS5 s:1080", ["http://p:8080", "http://q:1", "socks5://s:1080"]),
        ("HTTPS p:443", ["https://p:443"]),
        ("http p:81", ["http://p:81"]),
        ("SOCKS s:1; SOCKS4 t:1", ["socks4a://s:1", "socks4a://t:1"]),
        ("proxy p:1", ["http://p:1"]),
        ("p:8080;q:8080", ["http://p:8080", "http://q:8080"]),
        ("PROXY p", ["http://p:80"]),
        ("", []),
        (";;", []),
        ("PROXY", ["http://PROXY:80"]),
        ("QUIC p:1; PROXY q:1", ["http://q:1"]),
        ("PROXY p:notaport; PROXY q:1", ["http://q:1"]),
        ("PROXY [::1]:8080", ["http://[::1]:8080"]),
    ],
)
def test_a_scripts_answer_names_routes_in_order(answer: str, expected: list[str]) -> None:
    assert [str(route.proxy or "direct") for route in parse_script_answer(answer, "script")] == [
        proxy.lower() for proxy in expected
    ]


@given(st.text(max_size=80))
def test_no_answer_of_a_script_stops_the_program(answer: str) -> None:
    parse_script_answer(answer, "script")


async def test_a_script_is_asked_once_for_an_origin_and_learns_nothing_more(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[tuple[str, str, str]] = []

    async def ask(name: str, url: str, host: str) -> tuple[str, str]:
        asked.append((name, url, host))
        return "PROXY p:1; DIRECT", ""

    monkeypatch.setattr(proxies, "_ask", ask)
    rules = ProxyRules(None, script="/x.pac")
    for path in ("a?sig=secret", "b"):
        assert await way(rules, f"https://me:secret@symbols.example/{path}") == ["http://p:1", "direct"]
    assert await way(rules, "https://symbols.example:8443/") == ["http://p:1", "direct"]
    assert asked == [
        ("/x.pac", "https://symbols.example/", "symbols.example"),
        ("/x.pac", "https://symbols.example:8443/", "symbols.example"),
    ]


async def test_a_script_that_fails_is_not_asked_for_every_file(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []

    async def ask(name: str, url: str, host: str) -> tuple[str, str]:
        asked.append(url)
        await anyio.lowlevel.checkpoint()
        return "", "it is broken"

    monkeypatch.setattr(proxies, "_ask", ask)
    rules = ProxyRules(None, script="/x.pac")

    async def fail(number: int) -> None:
        with pytest.raises(ConfigError, match=r"^network\.proxy_script: it is broken"):
            await way(rules, f"https://host{number}.example/")

    async with anyio.create_task_group() as group:
        for number in range(20):
            group.start_soon(fail, number)
    assert len(asked) == 1
    monkeypatch.setattr(proxies, "_BELIEVED_S", 0)
    rules = ProxyRules(None, script="/x.pac")
    await fail(1)
    await fail(1)  # it may have been mended
    assert len(asked) == 3


async def test_a_script_that_names_nothing_means_a_direct_way(monkeypatch: pytest.MonkeyPatch) -> None:
    async def ask(*_: str) -> tuple[str, str]:
        return "", ""

    monkeypatch.setattr(proxies, "_ask", ask)
    assert await way(ProxyRules(None, script="/x.pac")) == ["direct"]
    assert DIRECT.proxy is None


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str], str]:
    def write(body: str) -> str:
        path = tmp_path / "proxy file.pac"
        path.write_text(body if "function" in body or not body.endswith(";") else SCRIPT.format(body))
        return str(path)

    return write


@needs_pac
@not_windows
async def test_a_script_in_a_file_decides(write: Callable[[str], str]) -> None:
    body = 'return shExpMatch(host, "*.example") ? "PROXY " + host + ":8080; DIRECT" : "DIRECT";'
    path = write(body)
    for name in (path, Path(path).as_uri()):
        rules = ProxyRules(None, script=name)
        assert await way(rules) == ["http://symbols.example:8080", "direct"]
        assert await way(rules, "https://symbols.test/") == ["direct"]


@needs_pac
@not_windows
async def test_a_script_from_a_server_decides_and_is_fetched_without_a_proxy(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    upstream.files["wpad.dat"] = SCRIPT.format('return "SOCKS5 127.0.0.1:1080";').encode()
    assert await way(ProxyRules(None, script=f"{upstream.url}/wpad.dat")) == ["socks5://127.0.0.1:1080"]


@needs_pac
@not_windows
@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("<html>Sign in</html>", "not a proxy script that runs: SyntaxError"),
        ("", "not a proxy script that runs"),
        ("return nothing_of_that_name(host);", "not a proxy script that runs: ReferenceError"),
        (
            'if (host != "0.0.0.0") nothing_of_that_name(); return "DIRECT";',
            "fails for symbols.example: ReferenceError",
        ),
        ('var text = "x"; while (true) { text += text; };', "memory"),
        ("while (true) {};", "no answer within 1 s"),
    ],
)
async def test_a_script_that_does_not_work_is_one_line(
    body: str, said: str, write: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if said.startswith("no answer"):
        monkeypatch.setattr(proxies, "_SCRIPT_S", 1.0)
    with pytest.raises(ConfigError) as caught, anyio.fail_after(20):
        await way(ProxyRules(None, script=write(body)))
    assert caught.value.where == "network.proxy_script"
    assert said in caught.value.problem
    assert "\n" not in str(caught.value)


@needs_pac
@not_windows
async def test_a_script_that_is_not_to_be_had_is_named(upstream: Upstream, tmp_path: Path) -> None:
    upstream.always("gone.pac", status(404))
    for name, said in {
        f"{upstream.url}/gone.pac": "404",
        "http://127.0.0.1:1/x.pac": "refused",
        str(tmp_path / "none.pac"): "No such file",
    }.items():
        with pytest.raises(ConfigError) as caught:
            await way(ProxyRules(None, script=name))
        assert name in caught.value.problem
        assert said in caught.value.problem


@needs_pac
@not_windows
async def test_a_server_that_keeps_its_script_back_is_not_waited_for_long(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proxies, "_SCRIPT_S", 1.0)
    upstream.files["wpad.dat"] = b"x" * 100
    upstream.always("wpad.dat", Stall(10))
    with pytest.raises(ConfigError, match="no answer within 1 s"), anyio.fail_after(20):
        await way(ProxyRules(None, script=f"{upstream.url}/wpad.dat"))


@not_windows
def test_without_its_extra_a_script_says_what_to_install(write: Callable[[str], str]) -> None:
    code = (
        "import json, sys; sys.modules['pypac.parser'] = None\n"
        "from symcache.stores.http.pacfile import find_proxy\n"
        "print(find_proxy(sys.argv[1], 'https://h/', 'h')[1])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, write('return "DIRECT";')], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert "pip install 'symcache[pac]'" in done.stdout


@needs_pac
@not_windows
async def test_a_script_that_does_not_work_is_a_refusal_of_each_file(rig: Rig, write: Callable[[str], str]) -> None:
    script = write("<html>")
    async with rig.source(f"srv*{rig.store}*http://symbols.example", proxy=None, proxy_script=script) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.REFUSED
    assert outcome.attempts[0].answer.startswith("network.proxy_script: not a proxy script that runs")
    assert rig.misses() == []


@needs_pac
def test_a_script_that_cannot_be_had_is_named_without_its_credentials() -> None:
    with closed_port() as port:
        _, problem = pacfile.find_proxy(f"http://me:hunter2@127.0.0.1:{port}/x.pac?key=hunter2", "https://x/", "x")
    assert f"http://127.0.0.1:{port}/x.pac cannot be had" in problem
    assert "hunter2" not in problem
    assert "hunter2" not in repr(Network(proxy_script="http://me:hunter2@x/"))
