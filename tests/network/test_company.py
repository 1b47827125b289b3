"""The command in a company's network, whose proxies and servers are the real programs."""

from __future__ import annotations

import re
import shlex
import time
from typing import TYPE_CHECKING

import pytest
from support.authority import Authority
from support.command import run, run_json
from support.company import PASSWORD, USER, Company
from support.sources import PATH, PDB

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from conftest import MakeUpstream
    from support.upstream import Upstream

pytestmark = pytest.mark.skipif("sys.platform != 'linux'", reason="the programs are those of Debian")
NTLM_USER = "DOM%5Cuser"


@pytest.fixture(scope="module")
def company() -> Iterator[Company]:
    with Company() as running:
        yield running


@pytest.fixture(params=["http", "https"])
def origin(request: pytest.FixtureRequest, make_upstream: MakeUpstream, authority: Authority) -> Upstream:
    """A server with one file, over http and over https."""
    tls = authority.server_context() if request.param == "https" else None
    return make_upstream({PATH: PDB}, tls=tls)


@pytest.fixture
def fetch(tmp_path: Path, authority: Authority) -> Callable[..., subprocess.CompletedProcess[str]]:
    """Fetch the file of a server with these settings, by the command."""
    bundle = authority.write_bundle(tmp_path / "ca.pem")

    def fetch(
        url: str, proxy: str = "", more: str = "", env: Mapping[str, str] | None = None, ca_file: Path | None = bundle
    ) -> subprocess.CompletedProcess[str]:
        lines = ["[network]", f"proxy = '{proxy or 'none'}'", "retries = 1"]
        lines += [] if ca_file is None else [f"ca_file = '{ca_file}'"]
        config = tmp_path / "symcache.toml"
        config.write_text("\n".join([*lines, more, ""]))
        return run("fetch", PATH, "-y", f"srv*{tmp_path / 'sym'}*{url}", "--config", config, env=env)

    return fetch


def arrived(done: subprocess.CompletedProcess[str]) -> bool:
    return done.returncode == 0 and done.stdout.rstrip().endswith("app.pdb")


def test_a_proxy_with_passwords(
    company: Company, origin: Upstream, fetch: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    proxy = company.basic_proxy().address
    done = fetch(origin.url, f"http://{proxy}")
    assert done.returncode == 1
    assert f"it wants Basic; in network.proxy, put user:password and an @ before {proxy}" in done.stderr
    done = fetch(origin.url, f"http://{USER}:wrong@{proxy}")
    assert "does not accept this user and password" in done.stderr
    assert "wrong" not in done.stderr
    assert origin.requests == []
    assert arrived(fetch(origin.url, f"http://{USER}:{PASSWORD}@{proxy}"))


def test_a_proxy_with_kerberos_lets_the_signed_in_user_through(
    company: Company, origin: Upstream, fetch: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    proxy = f"http://{company.negotiate_proxy().address}"
    assert arrived(fetch(origin.url, proxy, env=company.kerberos))


def test_without_a_ticket_a_proxy_with_kerberos_is_named_with_the_reason(
    company: Company, origin: Upstream, fetch: Callable[..., subprocess.CompletedProcess[str]], tmp_path: Path
) -> None:
    proxy = f"http://{company.negotiate_proxy().address}"
    done = fetch(origin.url, proxy, env={**company.kerberos, "KRB5CCNAME": f"FILE:{tmp_path / 'none'}"})
    assert done.returncode == 1
    assert "it wants Negotiate; Negotiate fails here: No Kerberos credentials available" in done.stderr
    assert origin.requests == []


def test_a_kerberos_server_that_is_silent_is_waited_for_for_seconds(
    company: Company, upstream: Upstream, fetch: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    proxy = f"http://{company.negotiate_proxy().address}"
    with company.silent_kdc() as variables:
        began_s = time.monotonic()
        done = fetch(upstream.url, proxy, env=variables)
        took_s = time.monotonic() - began_s
    assert done.returncode == 1
    assert "Negotiate fails here: no answer from this system within 8 s" in done.stderr
    assert took_s < 30


def test_many_connections_through_a_proxy_with_kerberos_each_sign_in(
    company: Company, make_upstream: MakeUpstream, tmp_path: Path
) -> None:
    proxy = company.negotiate_proxy()
    indexes = [PATH.replace("A3/", f"A{number:x}/") for number in range(1, 41)]
    origin = make_upstream()
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("\n".join(indexes))
    config = tmp_path / "symcache.toml"
    config.write_text(f"[network]\nproxy = 'http://{proxy.address}'\nconnections = 16\n")
    document = run_json(
        "warm", wanted, "-y", f"srv*{tmp_path / 'sym'}*{origin.url}", "--config", config, code=3, env=company.kerberos
    )
    assert document["summary"]["missing"] == len(indexes)  # each was asked for, none was refused
    assert document["summary"]["failed"] == 0
    assert {request.path.lstrip("/") for request in origin.requests} >= set(indexes)


def test_a_proxy_with_ntlm_is_told_user_and_password_of_windows(
    company: Company, origin: Upstream, fetch: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    pytest.importorskip("spnego", reason="pyspnego is not installed")
    assert arrived(fetch(origin.url, f"http://{NTLM_USER}:secret@{company.ntlm_proxy().address}"))


def test_a_proxy_with_ntlm_is_passed_by_the_helper_that_the_message_names(
    company: Company, origin: Upstream, fetch: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    done = fetch(origin.url, f"http://{company.ntlm_proxy().address}")
    assert done.returncode == 1
    advice = re.search(r"pip install px-proxy; (px [^)]*)\) and set network\.proxy to 127\.0\.0\.1:3128", done.stderr)
    assert advice is not None, done.stderr
    program, *options = shlex.split(advice[1].replace("\\", "\\\\"))
    assert program == "px"
    assert f"--proxy={company.ntlm_proxy().address}" in options
    options.remove("--port=3128")
    helper = company.helper([option.replace(r"DOMAIN\user", r"DOM\user") for option in options])
    assert arrived(fetch(origin.url, f"http://{helper.address}"))


@pytest.mark.parametrize("scheme", ["socks5", "socks5h"])
@pytest.mark.parametrize("credentials", [False, True], ids=["for all", "with passwords"])
def test_a_socks_proxy(
    credentials: bool,
    scheme: str,
    company: Company,
    origin: Upstream,
    fetch: Callable[..., subprocess.CompletedProcess[str]],
) -> None:
    proxy = company.socks_proxy(credentials=credentials).address
    if credentials:
        done = fetch(origin.url, f"socks5://{proxy}")
        assert done.returncode == 1
        assert f"the proxy socks5://{proxy} wants user and password" in done.stderr
    user = f"{USER}:{PASSWORD}@" if credentials else ""
    assert arrived(fetch(origin.url, f"{scheme}://{user}{proxy}"))


def test_a_server_with_kerberos(company: Company, fetch: Callable[..., subprocess.CompletedProcess[str]]) -> None:
    files = company.home / "files"
    files.mkdir(exist_ok=True)
    (files / PATH).parent.mkdir(parents=True)
    (files / PATH).write_bytes(PDB)
    url = f"http://{company.negotiate_server(files).address}"
    done = fetch(url, env=company.kerberos)
    assert done.returncode == 1
    assert "401: it wants Negotiate" in done.stderr
    assert arrived(fetch(url, more=f"[[server]]\nurl = '{url}'\nauth = 'negotiate'", env=company.kerberos))


def test_a_proxy_that_inspects_tls_is_named_by_its_authority_and_trusted_by_ca_file(
    company: Company,
    make_upstream: MakeUpstream,
    authority: Authority,
    fetch: Callable[..., subprocess.CompletedProcess[str]],
    tmp_path: Path,
) -> None:
    origin = make_upstream({PATH: PDB}, tls=authority.server_context())
    inspection = Authority("Example Corporation inspection")
    proxy = f"http://{company.inspecting_proxy(inspection, authority).address}"
    url = origin.url.replace("127.0.0.1", "localhost")
    for ca_file in (None, authority.write_bundle(tmp_path / "other.pem")):
        done = fetch(url, proxy, ca_file=ca_file)
        assert done.returncode == 1
        assert " by Example Corporation inspection, is vouched for by an authority that this system does not trust" in (
            done.stderr
        )
        assert "network.ca_file" in done.stderr
    assert origin.requests == []
    # As many as there are connections, and more: none that failed may hold a place.
    wanted = tmp_path / "wanted.txt"
    wanted.write_text("\n".join(PATH.replace("A3/", f"A{number:x}/") for number in range(1, 101)))
    began_s = time.monotonic()
    config = tmp_path / "many.toml"
    config.write_text(f"[network]\nproxy = '{proxy}'\n")
    document = run_json("warm", wanted, "-y", f"srv*{tmp_path / 'sym'}*{url}", "--config", config, code=1)
    assert document["summary"]["failed"] == 100
    assert time.monotonic() - began_s < 60
    assert arrived(fetch(url, proxy, ca_file=inspection.write_bundle(tmp_path / "inspection.pem")))
    assert "squid" in origin.requests[0].headers["via"]


def first_wrong(url: str, proxy: str, tmp_path: Path, env: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Return check and text of the first thing that ``symcache doctor`` finds wrong."""
    config = tmp_path / "symcache.toml"
    config.write_text(f"[network]\nproxy = '{proxy}'\n")
    path = f"srv*{tmp_path / 'sym'}*{url}"
    document = run_json("doctor", "-y", path, "--timeout", "5", "--config", config, code=1, env=env)
    wrong = next(finding for finding in document["findings"] if finding["rating"] == "wrong")
    assert PASSWORD not in str(document)
    return wrong["check"], wrong["text"]


def test_the_first_wrong_line_of_the_doctor_names_the_fault(
    company: Company, make_upstream: MakeUpstream, authority: Authority, tmp_path: Path
) -> None:
    secure = make_upstream({PATH: PDB}, tls=authority.server_context()).url.replace("127.0.0.1", "localhost")
    basic = company.basic_proxy().address
    check, text = first_wrong(secure, f"http://{basic}", tmp_path)
    assert (check, "it wants Basic" in text) == ("proxy", True)
    check, text = first_wrong(secure, f"http://{USER}:{PASSWORD}x@{basic}", tmp_path)
    assert (check, "does not accept this user and password" in text) == ("proxy", True)
    check, text = first_wrong(secure, f"http://{company.ntlm_proxy().address}", tmp_path)
    assert (check, "it wants NTLM" in text) == ("proxy", True)
    no_ticket = {**company.kerberos, "KRB5CCNAME": f"FILE:{tmp_path / 'none'}"}
    check, text = first_wrong(secure, f"http://{company.negotiate_proxy().address}", tmp_path, no_ticket)
    assert (check, "No Kerberos credentials" in text) == ("proxy", True)
    check, text = first_wrong(secure, f"socks5://{company.socks_proxy(credentials=True).address}", tmp_path)
    assert (check, "wants user and password" in text) == ("proxy", True)
    inspection = Authority("Example Corporation inspection")
    check, text = first_wrong(secure, f"http://{company.inspecting_proxy(inspection, authority).address}", tmp_path)
    assert (check, "by Example Corporation inspection" in text) == ("certificate", True)
    files = company.home / "files"
    files.mkdir(exist_ok=True)
    check, text = first_wrong(f"http://{company.negotiate_server(files).address}", "none", tmp_path)
    assert (check, "it wants Negotiate" in text) == ("answers", True)
