from __future__ import annotations

import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from support.answers import Stall, file, in_turn, page, redirect, status
from support.parts import wine_lacks
from support.proxy import ForwardingProxy
from support.sources import KEY, PATH, PDB
from support.wire import closed_port

from symcache.config import Config, Network, ServerEntry
from symcache.doctor import servers
from symcache.doctor.finding import Finding, Rating
from symcache.doctor.servers import examine_servers

if TYPE_CHECKING:
    from conftest import MakeUpstream
    from support.authority import Authority
    from support.upstream import Upstream


async def examine(url: str, *servers: ServerEntry, timeout_s: float = 5.0, **network: object) -> list[Finding]:
    config = Config(network=Network(**{"proxy": "", **network}), server=servers)  # type: ignore[arg-type]
    return await examine_servers([url], config, known=[KEY], timeout_s=timeout_s)


def first_wrong(findings: list[Finding]) -> Finding:
    wrong = [finding for finding in findings if finding.rating is Rating.WRONG]
    assert len(wrong) == 1, "what comes after a fault is not examined"
    assert wrong[0] is findings[-1]
    return wrong[0]


async def test_a_server_that_is_well_is_fine_at_every_stage(upstream: Upstream) -> None:
    upstream.files[PATH] = PDB
    findings = await examine(upstream.url)
    assert [finding.check for finding in findings] == ["proxy", "connection", "sign-in", "answers", "a file"]
    assert {finding.rating for finding in findings} == {Rating.FINE}
    assert f"{len(PDB)} bytes" in findings[-1].text


async def test_a_server_that_has_none_of_the_files_is_no_fault(upstream: Upstream) -> None:
    last = (await examine(upstream.url))[-1]
    assert (last.check, last.rating) == ("a file", Rating.WARNING)


@wine_lacks("own authorities")
async def test_certificates_are_named(make_upstream: MakeUpstream, authority: Authority, tmp_path: Path) -> None:
    secure = make_upstream({PATH: PDB}, tls=authority.server_context())
    wrong = first_wrong(await examine(secure.url))
    assert wrong.check == "certificate"
    assert "network.ca_file" in wrong.text
    findings = await examine(secure.url, ca_file=authority.write_bundle(tmp_path / "ca.pem"))
    assert {finding.rating for finding in findings} == {Rating.FINE}
    assert "certificate" in [finding.check for finding in findings]


async def test_a_name_that_is_none_is_told_from_a_server_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    with closed_port() as port:
        wrong = first_wrong(await examine(f"http://127.0.0.1:{port}"))
    assert (wrong.check, wrong.text) == ("connection", "cannot connect: connection refused")

    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    assert first_wrong(await examine("https://symbols.example")).check == "name"


async def test_a_silent_server_ends_in_time() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"https://127.0.0.1:{silent.getsockname()[1]}"
        wrong = first_wrong(await examine(url, timeout_s=0.3))
    assert wrong.check == "connection"
    assert wrong.text.endswith("in time")


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_refuses_is_the_one_to_blame(scheme: str) -> None:
    with ForwardingProxy(credentials=("me", "hunter2")) as proxy:
        wrong = first_wrong(await examine(f"{scheme}://symbols.example", proxy=proxy.url))
    assert wrong.check == "proxy"
    assert "407: it wants Basic" in wrong.text


async def test_a_proxy_that_is_away_and_one_that_closes_tunnels_are_to_blame() -> None:
    with closed_port() as port:
        wrong = first_wrong(await examine("https://symbols.example", proxy=f"http://127.0.0.1:{port}"))
    assert wrong.check == "proxy"
    assert "cannot be reached" in wrong.text
    with ForwardingProxy({"symbols.example:443": port}, drops_tunnels=True) as proxy:
        wrong = first_wrong(await examine("https://symbols.example", proxy=proxy.url))
    assert wrong.check == "proxy"


async def test_which_proxy_and_why_is_told(upstream: Upstream, monkeypatch: pytest.MonkeyPatch) -> None:
    with ForwardingProxy() as proxy:
        monkeypatch.setenv("http_proxy", proxy.url)
        findings = await examine(upstream.url, proxy=None)
        assert findings[0].text == f"through {proxy.url} (HTTP_PROXY)"
        monkeypatch.setenv("no_proxy", "127.0.0.0/8")
        findings = await examine(upstream.url, proxy=None)
        assert findings[0].text == "directly (NO_PROXY covers it: 127.0.0.0/8)"


@pytest.mark.parametrize(
    ("answer", "check"),
    [
        (status(401, b""), "answers"),
        (page(200), "answers"),
        (status(503), "answers"),
        (redirect("http://127.0.0.1:1/login"), "answers"),
    ],
)
async def test_what_is_no_symbol_server_is_wrong(answer: object, check: str, upstream: Upstream) -> None:
    upstream.always("*", answer)  # type: ignore[arg-type]
    wrong = first_wrong(await examine(upstream.url))
    assert wrong.check == check
    assert wrong.advice


async def test_nothing_secret_is_shown(upstream: Upstream) -> None:
    with_user = upstream.url.replace("://", "://me:hunter2@")
    token = ServerEntry(upstream.url, token="s3cret", token_header="PRIVATE-TOKEN")
    for findings in (await examine(with_user), await examine(upstream.url, token)):
        assert findings
        assert "hunter2" not in repr(findings)
        assert "s3cret" not in repr(findings)
    assert "a token, as PRIVATE-TOKEN" in [finding.text for finding in findings]


async def test_a_setting_that_cannot_be_used_is_the_only_finding(tmp_path: Path) -> None:
    (finding,) = await examine("https://symbols.example", ca_file=tmp_path / "none.pem")
    assert finding.rating is Rating.WRONG
    assert "none.pem" in finding.text


async def test_a_file_that_fails_is_not_said_to_lie_elsewhere(upstream: Upstream) -> None:
    upstream.always(PATH, status(503))
    wrong = first_wrong(await examine(upstream.url))
    assert wrong.check == "a file"
    assert "another host" not in wrong.advice
    upstream.always(PATH, redirect("http://127.0.0.1:1/x"))
    wrong = first_wrong(await examine(upstream.url))
    assert "another host" in wrong.advice


async def test_a_file_that_does_not_come_is_slow_and_not_missing(
    upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(servers, "_SPEED_S", 0.2)
    upstream.files[PATH] = PDB
    stall = Stall(0)
    upstream.always(PATH, in_turn(file(), stall))
    finding = (await examine(upstream.url))[-1]
    stall.release()
    assert finding.check == "a file"
    assert finding.rating is Rating.WARNING
    assert "0 bytes in 0.2" in finding.text


def test_advice_names_a_section_that_is_there() -> None:
    how_to = (Path(__file__).parents[3] / "docs" / "how-to.md").read_text(encoding="utf-8")
    _, _, section = servers._PROXY_ADVICE.rpartition("docs/how-to.md, ")
    assert f"## {section}\n" in how_to
