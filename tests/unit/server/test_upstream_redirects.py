"""Where upstreams may lead the server: a public one not into the networks that the server stands in."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, Any

import pytest
from support.answers import redirect
from support.serving import fetch, serving
from support.upstream import Upstream

from symcache.stores.http import urls

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.serving import Published

NAMES = {"localhost": "8.8.8.8", "inside.test": "10.20.30.40", "local.test": "fe80::1"}


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the check resolve some names otherwise: localhost is a public server to it. Connections are made as ever."""
    resolve = urls._look_up

    def look_up(host: str, port: int) -> Any:
        if host in NAMES:
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (NAMES[host], port))]
        return resolve(host, port)

    monkeypatch.setattr(urls, "_look_up", look_up)


@pytest.fixture
def other(small: Published) -> Iterator[Upstream]:
    """A server inside, which would answer."""
    with Upstream() as server:
        server.files[small.index] = small.content
        yield server


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize(
    "host",
    [
        *["127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0.0.0.0"],
        *["[::1]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::127.0.0.1]", "[64:ff9b::7f00:1]"],
        *["inside.test", "local.test", "10.0.0.1", "169.254.169.254"],
    ],
)
def test_a_public_upstream_does_not_lead_inside(
    host: str, tmp_path: Path, upstream: Upstream, other: Upstream, small: Published
) -> None:
    upstream.always(small.index, redirect(f"http://{host}:{other.port}/{small.index}"))
    with serving(tmp_path, upstream=f"http://localhost:{upstream.port}", network__retries=0) as served:
        answer = fetch(served.port, small.index)
    assert (answer.status, answer.body) == (502, b"not available now: refused\n")
    assert len(upstream.requests) == 1
    assert other.requests == []


@pytest.mark.usefixtures("names")
@pytest.mark.parametrize("transport", ["auto", "httpx"])
def test_a_name_that_leads_inside_once_it_is_connected_to_is_not_asked(
    transport: str, tmp_path: Path, upstream: Upstream, other: Upstream, small: Published
) -> None:
    upstream.always(small.index, redirect(f"http://localhost:{other.port}/{small.index}"))
    url = f"http://localhost:{upstream.port}"
    with serving(tmp_path, upstream=url, network__retries=0, network__transport=transport) as served:
        assert fetch(served.port, small.index).status == 503
    assert len(upstream.requests) == 1
    assert other.requests == []


@pytest.mark.usefixtures("names")
def test_a_redirect_that_leads_out_and_then_inside_is_refused(
    tmp_path: Path, upstream: Upstream, other: Upstream, small: Published
) -> None:
    upstream.always(small.index, redirect("/again"))
    upstream.always("again", redirect(f"http://127.0.0.1:{other.port}/{small.index}"))
    with serving(tmp_path, upstream=f"http://localhost:{upstream.port}") as served:
        assert fetch(served.port, small.index).status == 502
    assert other.requests == []


def test_an_upstream_inside_may_lead_inside(
    tmp_path: Path, upstream: Upstream, other: Upstream, small: Published
) -> None:
    upstream.always(small.index, redirect(f"http://127.1:{other.port}/{small.index}"))
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, small.index).body == small.content
    assert len(other.requests) == 1


@pytest.mark.usefixtures("names")
def test_the_config_may_let_a_public_upstream_lead_inside(
    tmp_path: Path, upstream: Upstream, other: Upstream, small: Published
) -> None:
    upstream.always(small.index, redirect(f"http://127.0.0.1:{other.port}/{small.index}"))
    url = f"http://localhost:{upstream.port}"
    with serving(tmp_path, upstream=url, private_redirects=True) as served:
        assert fetch(served.port, small.index).body == small.content
