"""Servers behind servers: what ails one file or one origin stays where it is, and is told at once."""

from __future__ import annotations

import re
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from support.answers import busy, page, status
from support.serving import fetch, publish, serving
from support.wire import closed_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.serving import Served
    from support.upstream import Upstream

FILES = [publish(f"file{number}.pdb", 100 + number) for number in range(6)]
BAD, *GOOD = FILES
LENGTHS = pytest.mark.parametrize("length", [1, 2, 3])


@contextmanager
def row(home: Path, length: int, url: str, **settings: Any) -> Iterator[list[Served]]:
    """Run servers of which each asks the one before it, and the first one *url*; yield them, nearest first."""
    with ExitStack() as stack:
        servers: list[Served] = []
        for number in range(length):
            servers.insert(0, stack.enter_context(serving(home / str(number), upstream=url, **settings)))
            url = servers[0].url
        yield servers


def answers(served: Served, kind: str = "failed") -> int:
    """Return how many requests *served* has answered in that way; failed ones are an upstream's fault."""
    text = fetch(served.port, "metrics").body.decode()
    found = re.search(rf'^symcache_requests_total\{{answer="{kind}"\}} (\d+)$', text, re.MULTILINE)
    return int(found[1]) if found else 0


@LENGTHS
def test_a_dead_origin_costs_each_server_one_request_for_each_file(length: int, tmp_path: Path) -> None:
    with closed_port() as port, row(tmp_path, length, f"http://127.0.0.1:{port}") as servers:
        got = [fetch(servers[0].port, file.index) for file in FILES]
        assert {answer.status for answer in got} == {503}
        assert {answer.fields["retry-after"] for answer in got} == {"5"}
        assert [answers(served) for served in servers] == [len(FILES)] * length


@LENGTHS
@pytest.mark.parametrize("trouble", ["wrong", "page", "403", "500", "503", "503 and a pause", "502 and a pause"])
def test_one_file_in_trouble_keeps_no_other_waiting(
    trouble: str, length: int, tmp_path: Path, upstream: Upstream
) -> None:
    upstream.files |= {file.index: file.content for file in GOOD}
    troubles = {
        "wrong": status(200, GOOD[0].content),
        "page": page(),
        "403": status(403),
        "500": status(500),
        "503": status(503),
        "503 and a pause": busy(20, code=503),
        "502 and a pause": busy(20, code=502),
    }
    upstream.always(BAD.index, troubles[trouble])
    with row(tmp_path, length, upstream.url) as servers:
        for file in GOOD:
            assert fetch(servers[0].port, BAD.index).status in {502, 503}
            assert fetch(servers[0].port, file.index).status == 200
        assert [answers(served) for served in servers] == [len(GOOD)] * length
    assert len(upstream.asked(BAD.index)) == len(GOOD) * (5 if trouble in {"500", "503"} else 1)


def test_what_a_server_has_is_had_from_it_while_its_origin_is_dead(tmp_path: Path, upstream: Upstream) -> None:
    upstream.files |= {file.index: file.content for file in GOOD}
    with row(tmp_path, 2, upstream.url) as (near, far):
        for file in GOOD:
            assert fetch(far.port, file.index).status == 200
        upstream.close()
        for file in GOOD:
            for number in range(4):
                other = file.index.replace("file", f"other{number}-")
                assert fetch(near.port, other).status == 503
            assert fetch(near.port, file.index).status == 200


def test_servers_that_ask_each_other_say_so_at_once(tmp_path: Path, upstream: Upstream) -> None:
    with closed_port() as port:
        other_url = f"http://127.0.0.1:{port}"
    upstream.files[GOOD[0].index] = GOOD[0].content
    store = tmp_path / "one" / "store"
    path = f"srv*{store}*{other_url};srv*{store}*{upstream.url}"
    with (
        serving(tmp_path / "one", path) as one,
        serving(tmp_path / "two", upstream=one.url, port=port) as two,
        serving(tmp_path / "three", upstream=two.url) as three,
    ):
        assert fetch(one.port, BAD.index).status == 508
        assert [answers(served, "loop") for served in (one, two)] == [2, 1]  # one's client's, and its own by way of two
        assert fetch(three.port, BAD.index).status == 508
        assert [answers(served, "loop") for served in (one, two, three)] == [3, 3, 1]
        assert fetch(three.port, GOOD[0].index).status == 200  # one has another upstream


def test_a_pause_longer_than_clients_wait_is_told_at_once(tmp_path: Path, upstream: Upstream) -> None:
    upstream.always("*", busy(600))
    with serving(tmp_path, upstream=upstream.url) as served:
        assert [fetch(served.port, file.index).status for file in FILES] == [503] * len(FILES)
    assert len(upstream.requests) == 1


def test_a_pause_that_clients_can_wait_for_is_waited_for(tmp_path: Path, upstream: Upstream) -> None:
    upstream.files |= {file.index: file.content for file in FILES}
    upstream.script(BAD.index, busy(1))
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, BAD.index).status == 200
    assert len(upstream.requests) == 2
