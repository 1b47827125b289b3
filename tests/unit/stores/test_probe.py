from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from support.answers import Stall, busy, hang_up, page, redirect, status, unframed
from support.sources import KEY, PDB
from support.wire import closed_port

from symcache.config import Config, MissSettings, Network, ServerEntry
from symcache.stores.http.probe import Behaviour, Probe, probe_servers

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.answers import Answer
    from support.upstream import Upstream

DIRECT = Config(network=Network(proxy=""))


async def probe(url: str, config: Config = DIRECT, *, timeout_s: float = 20.0) -> Probe:
    (found,) = await probe_servers([url], config, timeout_s=timeout_s)
    return found


async def test_a_definite_404_is_the_answer_of_a_symbol_server(upstream: Upstream) -> None:
    found = await probe(upstream.url)
    assert (found.url, found.behaviour, found.answer) == (upstream.url, Behaviour.SYMBOL_SERVER, "404")
    assert found.two_tier is False
    assert found.latency_s is not None
    assert found.latency_s > 0


async def test_the_mark_of_two_tiers_is_seen(upstream: Upstream) -> None:
    upstream.files["index2.txt"] = b""
    assert (await probe(upstream.url)).two_tier is True


async def test_it_asks_for_a_name_nobody_has_and_a_new_id_each_time(upstream: Upstream) -> None:
    await probe(upstream.url + "/symbols")
    await probe(upstream.url + "/symbols")
    asked = [request.path for request in upstream.requests]
    first, index, second, _ = asked
    assert first.startswith("/symbols/symcache-probe.pdb/")
    assert first.endswith("1/symcache-probe.pdb")
    assert index == "/symbols/index2.txt"
    assert second != first
    assert [request.method for request in upstream.requests] == ["GET"] * 4


@pytest.mark.parametrize(
    ("answer", "behaviour", "says"),
    [
        (page(200), Behaviour.SOFT_ERRORS, "200, but an HTML page"),
        (status(200, b"sorry"), Behaviour.SOFT_ERRORS, "200 for a file that cannot exist"),
        (status(200), Behaviour.SOFT_ERRORS, "200 for a file that cannot exist"),
        (redirect("/login"), Behaviour.SOFT_ERRORS, "200, but an HTML page"),
        (page(404), Behaviour.SYMBOL_SERVER, "404"),
        (status(410), Behaviour.SYMBOL_SERVER, "410"),
        (unframed(b"", code=404), Behaviour.SYMBOL_SERVER, "404"),
        (redirect("/nowhere"), Behaviour.SYMBOL_SERVER, "404"),
        (status(401), Behaviour.REFUSES, "401"),
        (status(403), Behaviour.REFUSES, "403"),
        (status(503), Behaviour.UNAVAILABLE, "503"),
        (busy(3600), Behaviour.UNAVAILABLE, "429"),
        (hang_up(), Behaviour.UNAVAILABLE, "the connection broke"),
    ],
    ids=[
        "page", "text", "nothing", "login", "friendly 404", "410", "Microsoft's 404", "moved", "401", "403", "503",
        "429", "cut",
    ],
)  # fmt: skip
async def test_each_answer_is_judged(answer: Answer, behaviour: Behaviour, says: str, upstream: Upstream) -> None:
    upstream.always("*", answer)
    upstream.always("login", page(200))
    upstream.always("nowhere", status(404))
    found = await probe(upstream.url)
    assert (found.behaviour, found.answer) == (behaviour, says)


LOWER = {KEY.index.lower(): PDB}
GIVEN = {KEY.index: PDB}
CABINET = {KEY.index[:-1] + "_": PDB}


@pytest.mark.parametrize(
    ("files", "absent", "entry", "settings"),
    [
        (LOWER, 404, {}, {"letter_case": "lower"}),
        (GIVEN, 404, {}, {}),
        (GIVEN, 403, {}, {"forbidden_is_missing": True}),
        (CABINET, 403, {}, {"forbidden_is_missing": True}),
        (LOWER, 403, {}, {"letter_case": "lower", "forbidden_is_missing": True}),
        (LOWER, 403, {"letter_case": "lower", "forbidden_is_missing": True}, {}),
        (GIVEN, 404, {"letter_case": "lower"}, {"letter_case": "given"}),
        (LOWER | GIVEN, 404, {}, {}),
        ({}, 403, {}, {}),
    ],
    ids=[
        "lower", "given", "forbidden", "a cabinet", "both", "both said already", "said wrongly", "any", "not there",
    ],
)  # fmt: skip
async def test_a_file_that_a_server_has_tells_which_settings_it_needs(
    files: dict[str, bytes], absent: int, entry: dict[str, Any], settings: dict[str, object], upstream: Upstream
) -> None:
    upstream.always("*", status(absent))
    for path, content in files.items():
        upstream.always(path, status(200, content))
    config = Config(network=DIRECT.network, server=(ServerEntry(upstream.url, **entry),))
    other = replace(KEY, age=9)
    (found,) = await probe_servers([upstream.url], config, known=[other, KEY], timeout_s=20.0)
    assert found.settings == settings
    is_plain = absent == 404 or "forbidden_is_missing" in entry
    assert found.behaviour is (Behaviour.SYMBOL_SERVER if is_plain else Behaviour.REFUSES)


async def test_a_server_that_fails_is_asked_once(upstream: Upstream) -> None:
    upstream.always("*", status(503))
    await probe(upstream.url)
    assert len(upstream.requests) == 1


async def test_a_mark_that_cannot_be_asked_for_leaves_the_tiers_open(upstream: Upstream) -> None:
    upstream.always("index2.txt", status(403))
    found = await probe(upstream.url)
    assert (found.behaviour, found.two_tier) == (Behaviour.SYMBOL_SERVER, None)


async def test_a_server_that_does_not_answer_is_given_up(upstream: Upstream) -> None:
    upstream.always("*", Stall())
    found = await probe(upstream.url, timeout_s=0.2)
    assert (found.behaviour, found.latency_s) == (Behaviour.UNAVAILABLE, None)
    assert "in time" in found.answer or "0.2 s" in found.answer


async def test_a_port_that_refuses_is_unavailable() -> None:
    with closed_port() as port:
        assert (await probe(f"http://127.0.0.1:{port}")).behaviour is Behaviour.UNAVAILABLE


async def test_a_url_that_is_none_refuses() -> None:
    assert (await probe("http://")).behaviour is Behaviour.REFUSES


async def test_every_server_is_asked_once_and_reported_in_order(upstream: Upstream) -> None:
    urls = [f"{upstream.url}/{name}" for name in ("c", "a", "b", "a")]
    assert [found.url for found in await probe_servers(urls, DIRECT)] == urls[:3]


@pytest.mark.parametrize(
    ("entry", "ends"),
    [
        ({"plain": False}, ".pd_"),
        ({"holds": ("image",)}, ".dll"),
        ({"holds": ("portable",)}, "FFFFFFFF/symcache-probe.pdb"),
        ({}, "1/symcache-probe.pdb"),
    ],
    ids=["cabinets alone", "images alone", "portable alone", "all"],
)
async def test_it_asks_for_what_the_server_could_have(entry: dict[str, object], ends: str, upstream: Upstream) -> None:
    config = Config(network=DIRECT.network, server=(ServerEntry(upstream.url, **entry),))  # type: ignore[arg-type]
    await probe(upstream.url, config)
    assert upstream.requests[0].path.endswith(ends)


async def test_credentials_are_sent_and_never_shown(make_upstream: Callable[..., Upstream]) -> None:
    upstream = make_upstream(credentials=("", "p4ssw0rd"))
    entry = ServerEntry(upstream.url, password="p4ssw0rd")
    found = await probe(upstream.url, Config(network=DIRECT.network, server=(entry,)))
    assert found.behaviour is Behaviour.SYMBOL_SERVER
    in_url = await probe(upstream.url.replace("://", "://:p4ssw0rd@"))
    assert in_url.behaviour is Behaviour.SYMBOL_SERVER
    assert "p4ssw0rd" not in repr(found) + repr(in_url)


async def test_nothing_is_remembered(upstream: Upstream, tmp_path: Path) -> None:
    await probe(upstream.url, Config(network=DIRECT.network, misses=MissSettings(folder=tmp_path / "misses")))
    assert list(tmp_path.iterdir()) == []  # noqa: ASYNC240
