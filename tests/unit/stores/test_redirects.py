"""Redirects, signatures and credentials: who learns what."""

from __future__ import annotations

import base64
import logging
from typing import TYPE_CHECKING

import pytest
from support.answers import SIGNATURE, cut, file, in_turn, redirect, signed, status
from support.parts import wine_lacks
from support.sources import KEY, PATH, PDB, scratch_files, visible

from symcache.config import ServerEntry
from symcache.stores.results import Cause, Failed, Fetched

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeUpstream
    from support.authority import Authority
    from support.sources import Rig
    from support.upstream import Upstream

SECRET = "hunter2"


@pytest.fixture
def rig(rig_on_each_transport: Rig) -> Rig:
    return rig_on_each_transport


def basic(user: str, password: str) -> str:
    return "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()


async def test_a_signed_target_is_followed_and_its_signature_shown_nowhere(
    upstream: Upstream, make_upstream: MakeUpstream, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    blob = make_upstream({"container/blob": PDB})
    upstream.always(PATH, redirect(signed(f"{blob.url}/container/blob")))
    blob.script("container/blob", status(503), cut(1000))
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.upstream == upstream.url
    assert [SIGNATURE in request.query for request in blob.requests] == [True] * 3
    # Each try begins at the upstream, as a signature does not live long.
    assert len(upstream.requests) == 3
    told = [repr(outcome), repr(rig.events), caplog.text, *map(str, rig.events)]
    assert not any(SIGNATURE in text or "container" in text for text in told)


@pytest.mark.parametrize(
    "last", [status(403), status(500), status(404), redirect("ftp://x/y"), redirect("http://[::1")]
)
async def test_an_error_behind_a_redirect_names_the_upstream_alone(
    last: object, upstream: Upstream, make_upstream: MakeUpstream, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    blob = make_upstream()
    blob.always("container/blob", last)  # type: ignore[arg-type]
    upstream.always(PATH, redirect(signed(f"{blob.url}/container/blob")))
    async with rig.plain(upstream, retries=0) as source:
        outcome = await source.fetch(KEY)
    told = repr(outcome) + repr(rig.events) + caplog.text
    assert SIGNATURE not in told
    assert "container" not in told
    assert upstream.url in told


async def test_where_a_redirect_leads_may_want_to_know_who_one_is(
    upstream: Upstream, make_upstream: MakeUpstream, rig: Rig
) -> None:
    blob = make_upstream()
    blob.always("blob", status(401, headers=[("WWW-Authenticate", "Bearer")]))
    upstream.always(PATH, redirect(f"{blob.url}/blob"))
    async with rig.plain(upstream, retries=0) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.attempts[0].answer.startswith("401: it wants Bearer (at 127.0.0.1")
    assert len(blob.requests) == 1


async def test_credentials_do_not_follow_a_redirect_to_another_origin(
    make_upstream: MakeUpstream, rig: Rig, tmp_path: Path
) -> None:
    upstream = make_upstream(credentials=("me", SECRET))
    blob = make_upstream({"blob": PDB, "back": b""})
    blob.always("blob", redirect(f"{upstream.url}/there"))
    upstream.files["there"] = PDB
    upstream.always(PATH, redirect(f"{blob.url}/blob"))
    entry = ServerEntry(url=upstream.url, username="me", password=SECRET, compressed=False, two_tier=False)
    async with rig.source(f"srv*{tmp_path / 'sym'}*{upstream.url}", servers=[entry]) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert [request.headers.get("authorization") for request in upstream.requests] == [basic("me", SECRET)] * 2
    assert "authorization" not in blob.requests[0].headers


@pytest.mark.parametrize("way", ["url", "config", "token", "netrc"])
async def test_credentials_are_sent_and_shown_nowhere(
    way: str, make_upstream: MakeUpstream, rig: Rig, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    upstream = make_upstream({PATH: PDB}, credentials=None if way == "token" else ("me", SECRET))
    url = upstream.url
    entry = ServerEntry(url=url, compressed=False, two_tier=False)
    if way == "url":
        url = url.replace("://", f"://me:{SECRET}@") + f"?sas={SECRET}"
    elif way == "config":
        entry = ServerEntry(url=url, username="me", password=SECRET)
    elif way == "token":
        entry = ServerEntry(url=url, token=SECRET)
    else:
        home = rig.folder / "home"
        home.mkdir()
        for name in (".netrc", "_netrc"):
            (home / name).write_text(f"machine 127.0.0.1 login me password {SECRET}\ndefault login x password y\n")
            (home / name).chmod(0o600)
    async with rig.source(f"srv*{rig.store}*{url}", servers=[entry], netrc=way == "netrc") as source:
        outcome = await source.fetch(KEY)
        assert SECRET not in "".join(server.name for server in source.servers)
    assert isinstance(outcome, Fetched)
    expected = f"Bearer {SECRET}" if way == "token" else basic("me", SECRET)
    assert upstream.requests[0].headers["authorization"] == expected
    assert SECRET not in repr(outcome) + repr(rig.events) + caplog.text
    everything = [path for path in rig.folder.rglob("*") if path.is_file() and "home" not in path.parts]
    assert not any(SECRET.encode() in path.read_bytes() for path in everything)


async def test_a_servers_own_credentials_go_to_no_other(make_upstream: MakeUpstream, rig: Rig) -> None:
    first, second = make_upstream(), make_upstream({PATH: PDB})
    entry = ServerEntry(url=first.url, username="me", password=SECRET)
    async with rig.source(f"srv*{rig.store}*{first.url}*{second.url}", servers=[entry]) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert all("authorization" in request.headers for request in first.requests)
    assert not any("authorization" in request.headers for request in second.requests)


@wine_lacks("own authorities")
async def test_from_https_there_is_no_way_back_to_http(
    make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    plain = make_upstream({PATH: PDB})
    secure = make_upstream(tls=authority.server_context())
    secure.always(PATH, redirect(f"{plain.url}/{PATH}"))
    bundle = authority.write_bundle(tmp_path / "ca.pem")
    async with rig.plain(secure, ca_file=bundle) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.attempts[0].answer) == (Cause.REFUSED, "redirect from https to http")
    assert plain.requests == []
    assert len(secure.requests) == 1


@wine_lacks("own authorities")
async def test_a_redirect_may_lead_from_http_to_https(
    upstream: Upstream, make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    secure = make_upstream({"blob": PDB}, tls=authority.server_context())
    upstream.always(PATH, redirect(f"{secure.url}/blob"))
    async with rig.plain(upstream, ca_file=authority.write_bundle(tmp_path / "ca.pem")) as source:
        assert isinstance(await source.fetch(KEY), Fetched)


@wine_lacks("own authorities")
async def test_an_authority_of_ones_own_is_trusted_beside_the_systems(
    make_upstream: MakeUpstream, authority: Authority, rig: Rig, tmp_path: Path
) -> None:
    secure = make_upstream({PATH: PDB}, tls=authority.server_context())
    async with rig.plain(secure, ca_file=authority.write_bundle(tmp_path / "ca.pem")) as source:
        assert isinstance(await source.fetch(KEY), Fetched)


async def test_an_untrusted_certificate_is_refused_and_not_tried_again(
    make_upstream: MakeUpstream, authority: Authority, rig: Rig
) -> None:
    secure = make_upstream({PATH: PDB}, tls=authority.server_context())
    async with rig.plain(secure) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.REFUSED
    assert outcome.attempts[0].answer.startswith("its certificate")
    # The direct transport looks at what was refused, on a connection of its own.
    assert secure.connections == (2 if rig.transport == "auto" else 1)
    assert secure.requests == []
    assert rig.clock.slept == []
    assert visible(rig.store) == scratch_files(rig.store) == []


async def test_a_redirect_that_was_followed_once_may_lead_elsewhere_the_next_time(upstream: Upstream, rig: Rig) -> None:
    upstream.files |= {"one": PDB, "two": PDB}
    upstream.always(PATH, in_turn(redirect("/one"), redirect("two/../../../two", code=307), redirect("//127.0.0.1/")))
    upstream.script("one", cut(10_000))
    upstream.always("two", file(PDB))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == PDB


@pytest.mark.parametrize("text", ["machine", "machine h login", "\udcff\x00"], ids=["cut", "no password", "binary"])
async def test_a_broken_netrc_counts_as_none(text: str, upstream: Upstream, rig: Rig) -> None:
    home = rig.folder / "home"
    home.mkdir()
    for name in (".netrc", "_netrc"):
        (home / name).write_bytes(text.encode("utf-8", "surrogateescape"))
        (home / name).chmod(0o600)
    upstream.files[PATH] = PDB
    async with rig.plain(upstream, netrc=True) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert "authorization" not in upstream.requests[0].headers
