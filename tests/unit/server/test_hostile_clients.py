"""What a stranger may send: fields made to be passed on, requests that two servers would read in two ways."""

from __future__ import annotations

import json
import sys
import time
from contextlib import ExitStack, suppress
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.answers import Stall
from support.parts import wine_lacks
from support.serving import Client, fetch, serving

from symcache.config.values import Serve
from symcache.identity import PdbKey
from symcache.server import app, hash_token
from symcache.server.app import Gate, most_connections
from symcache.server.metrics import Metrics, format_metrics, sum_up
from symcache.server.request import Loops
from symcache.server.symbols import Head, KnownAnswers, parse_path
from symcache.stores.local.tree import Store

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from pathlib import Path

    from support.serving import Published
    from support.upstream import Upstream


@pytest.mark.parametrize("via", ["1.1 caf\xe9", "\xff", "1.1 a, \xe9"], ids=ascii)
def test_a_via_that_cannot_be_sent_on_spoils_no_download(
    via: str, tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.files[small.index] = small.content
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        client.send(f"GET /{small.index} HTTP/1.1\r\nHost: x\r\nVia: {via}\r\n\r\n".encode("latin-1"))
        assert client.read().body == small.content
    assert upstream.requests[0].headers["via"].isascii()


def test_a_via_that_no_upstream_would_take_is_not_sent_on(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    upstream.files[small.index] = small.content
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, small.index, {"Via": "1.1 " + "x" * 8000}).status == 508
        assert upstream.requests == []
        assert fetch(served.port, small.index, {"Via": "1.1 " + "x" * 1000}).body == small.content


_TWO_READINGS = {
    "two lengths": "Content-Length: 4\r\nContent-Length: 5\r\n\r\nabcde",
    "one length twice": "Content-Length: 4\r\nContent-Length: 4\r\n\r\nabcd",
    "a list of lengths": "Content-Length: 4, 4\r\n\r\nabcd",
    "a length below nothing": "Content-Length: -1\r\n\r\n",
    "a length and chunks": "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and a length": "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n",
    "another coding than chunks": "Transfer-Encoding: xchunked\r\n\r\n",
    "chunks before another coding": "Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n",
    "a coding on a line of its own": "Transfer-Encoding:\r\n chunked\r\n\r\n0\r\n\r\n",
    "a field folded over lines": "X-A: b\r\n c\r\n\r\n",
    "a blank before the colon": "Content-Length : 4\r\n\r\nabcd",
    "a carriage return alone": "X-A: b\rX-B: c\r\n\r\n",
    "a line feed alone": "X-A: b\nX-B: c\r\n\r\n",
    "a zero byte": "X-A: a\0b\r\n\r\n",
    "a chunk of a signed length": "Transfer-Encoding: chunked\r\n\r\n+1\r\nx\r\n0\r\n\r\n",
    "a chunk with a broken extension": "Transfer-Encoding: chunked\r\n\r\n1;a\nb\r\nx\r\n0\r\n\r\n",
}


def answers_to(port: int, text: str) -> bytes:
    """Return what comes for a request with these fields and body, and one for ``/healthz`` behind it.

    A reset, as what was not read is thrown away, may take some of it along.
    """
    first = f"POST /-/nothing HTTP/1.1\r\nHost: x\r\n{text}".encode("latin-1")
    received = b""
    with Client(port) as client, suppress(ConnectionResetError):
        client.send(first + b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        while piece := client.socket.recv(1 << 16):
            received += piece
    return received


@pytest.mark.parametrize("text", _TWO_READINGS.values(), ids=_TWO_READINGS)
def test_a_request_that_can_be_read_in_two_ways_ends_its_connection(text: str, tmp_path: Path) -> None:
    """Behind a proxy that reads it otherwise, what follows would be an answer to another client's request."""
    with serving(tmp_path) as served:
        answers = answers_to(served.port, text)
    assert b"ok\n" not in answers
    assert answers == b"" or answers.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 405 "))


@pytest.mark.parametrize("text", ["Content-Length: 4\r\n\r\nabcd", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"])
def test_a_request_that_can_be_read_in_one_way_does_not(text: str, tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        assert answers_to(served.port, text).endswith(b"ok\n")


@pytest.mark.parametrize(
    ("host", "is_called"),
    [
        *[
            ("127.0.0.1:8080", True),
            ("127.0.0.1", True),
            ("[::1]:8080", True),
            ("10.1.2.3", True),
            ("localhost:1", True),
        ],
        *[("LOCALHOST", True), ("localhost.", True), ("symbols:8080", True), ("Symbols.Example.com", True), ("", True)],
        *[("evil.example", False), ("127.0.0.1.evil.example:8080", False), ("localhost.evil.example", False)],
        *[("[::1].evil.example", False), ("evil.example.", False), ("\xe9.example", False), ("a.b:80:80", False)],
        ("symbols.example.com.evil.example", False),
    ],
)
def test_a_server_answers_to_its_names(host: str, is_called: bool) -> None:
    gate = Gate(Serve(names=("symbols.example.com",)))
    for _ in range(2):  # a name that is right is remembered
        assert gate.is_called({b"host": host.encode("latin-1")}) is is_called


@pytest.mark.parametrize(
    ("settings", "is_called"),
    [
        (Serve(), False),
        (Serve(host="::1"), False),
        (Serve(host="localhost"), False),
        (Serve(host="0.0.0.0"), True),
        (Serve(trusted_proxies=("127.0.0.1",)), True),
        (Serve(host="0.0.0.0", names=("symbols.example.com",)), False),
    ],
    ids=str,
)
def test_any_name_will_do_only_where_others_are_meant_to_ask(settings: Serve, is_called: bool) -> None:
    assert Gate(settings).is_called({b"host": b"evil.example"}) is is_called
    assert Gate(settings).is_called({}), "as before HTTP/1.1, which no browser speaks"


def test_a_page_elsewhere_whose_name_comes_to_lead_here_gets_nothing(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.files[small.index] = small.content
    theirs = {"Host": "evil.example:8080"}
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, small.index, theirs).status == 421
        assert upstream.requests == []
        for _ in range(2):
            assert fetch(served.port, small.index).status == 200  # known from here on
        for path in (small.index, "", "-/status", "-/search?q=small", "metrics", "-/page.js"):
            answer = fetch(served.port, path, theirs)
            assert (answer.status, small.content in answer.body) == (421, False), path
        assert fetch(served.port, "-/warm", {**theirs, "X-Symcache": "1"}, method="POST").status == 421


def put(store: Path, wanted: Published) -> None:
    with Store(store) as opened:
        scratch = opened.scratch()
        scratch.write_bytes(wanted.content)
        opened.publish(scratch, wanted.key, durable=False)


def is_ended(client: Client) -> bool:
    """Whether the server has closed the connection of *client*."""
    try:
        return client.socket.recv(1) == b""
    except ConnectionResetError:
        return True


@pytest.mark.parametrize(
    "begun", [b"", b"GET /x", b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"], ids=["mute", "slow", "idle"]
)
def test_clients_that_ask_for_nothing_keep_nobody_out(
    begun: bytes, tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.files[small.index] = small.content
    with ExitStack() as stack:
        served = stack.enter_context(serving(tmp_path, upstream=upstream.url, connections=1))
        most = most_connections(Serve(connections=1))
        clients = [stack.enter_context(Client(served.port)) for _ in range(most // 2)]
        for _ in range(2 * most):
            clients.append(stack.enter_context(Client(served.port)))
            clients[-1].send(begun)
            if begun.endswith(b"\r\n\r\n"):
                assert clients[-1].read().status == 200
        assert fetch(served.port, small.index).body == small.content
        assert all(is_ended(client) for client in clients[:most]), "who came first goes first"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no such limit")
def test_descriptors_are_raised_as_far_as_the_system_goes_along(monkeypatch: pytest.MonkeyPatch) -> None:
    limits = [(256, resource.RLIM_INFINITY)]

    def setrlimit(_: int, asked: tuple[int, int]) -> None:
        if asked[0] > 20_000:  # as macOS does beyond kern.maxfilesperproc
            raise ValueError("current limit exceeds maximum limit")
        limits.append(asked)

    monkeypatch.setattr(resource, "getrlimit", lambda _: limits[-1])
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    app._raise_descriptors()
    assert limits[1:] == [(16_384, resource.RLIM_INFINITY)]
    app._raise_descriptors()
    assert limits[-1][0] == 16_384, "never lowered"


def test_a_client_that_waits_for_its_answer_does_not_make_room(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.files[small.index] = small.content
    stall = Stall()
    upstream.script(small.index, stall)
    with ExitStack() as stack:
        served = stack.enter_context(serving(tmp_path, upstream=upstream.url, connections=2))
        first = stack.enter_context(Client(served.port))
        first.send(f"GET /{small.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        upstream.await_requests(1)
        for _ in range(3 * most_connections(Serve(connections=2))):
            stack.enter_context(Client(served.port))
        assert fetch(served.port, "healthz").status == 200
        stall.release()
        assert first.read().body == small.content


@pytest.mark.parametrize("path", ["POST /-/warm", "PUT /{index}"])
def test_a_body_that_comes_a_byte_at_a_time_holds_no_place(
    path: str, tmp_path: Path, small: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symcache.server.request.PATIENCE_S", 0.3)
    fields = "Host: x\r\nX-Symcache: 1\r\nAuthorization: Bearer t\r\nContent-Length: 100000"
    with serving(tmp_path, upload_tokens=(hash_token("t"),)) as served, Client(served.port) as client:
        client.send(f"{path.format(index=small.index)} HTTP/1.1\r\n{fields}\r\n\r\n".encode())
        try:
            for _ in range(500):
                client.send(b"x")
                time.sleep(0.01)
        except ConnectionError:
            return
    pytest.fail("it was taken for five seconds")


@wine_lacks("resets")
def test_a_body_that_hardly_moves_is_not_taken_for_ever(
    tmp_path: Path, large: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symcache.server.protocol.PATIENCE_S", 0.5)
    with serving(tmp_path, upload_tokens=(hash_token("t"),)) as served:
        put(served.store, large)
        with Client(served.port, receive_bytes=4096) as client:
            client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            client.read_head()
            taken = 0
            with suppress(ConnectionResetError):
                for _ in range(500):
                    taken += len(client.socket.recv(500))
                    time.sleep(0.01)
            assert taken < 400 * 500


@pytest.mark.parametrize("is_cold", [False, True], ids=["stored", "cold"])
def test_clients_that_do_not_read_their_files_make_room(
    is_cold: bool,
    tmp_path: Path,
    upstream: Upstream,
    large: Published,
    small: Published,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("symcache.server.protocol._STALLED_S", 0.2)
    upstream.files |= {large.index: large.content, small.index: small.content}
    with ExitStack() as stack:
        served = stack.enter_context(serving(tmp_path, upstream=upstream.url, connections=2))
        if not is_cold:
            put(served.store, large)
        for _ in range(2):
            client = stack.enter_context(Client(served.port, receive_bytes=4096))
            client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert client.read_head()[0] == 200
        end_s = time.monotonic() + 20
        while (answer := fetch(served.port, small.index)).status == 503:
            assert time.monotonic() < end_s, "they are kept for two minutes"
            time.sleep(0.05)
        assert answer.body == small.content


def test_what_a_hundred_thousand_distinct_misses_leave_in_memory_is_bounded() -> None:
    metrics = Metrics()
    known = KnownAnswers(Serve(), Gate(Serve()), Loops("run"), metrics)
    for number in range(100_000):
        key = PdbKey("flood.pdb", UUID(int=number + 1), 1)
        raw_path = f"/{key.index}".encode()
        parse_path(raw_path)
        known.remember_miss(raw_path, key, [], lambda: True)
        known.remember_head(raw_path, Head("GET", raw_path, {}, keeps_alive=True))
        metrics.note_miss(key.index)
        metrics.answers["miss"] += 1
    assert len(known._known) <= 16_384
    assert len(known.heads) <= 4096
    assert len(metrics.missed) <= 10_000
    assert parse_path.cache_info().currsize <= 4096
    assert len(json.dumps(metrics.as_json([]))) < 65_536
    assert len(format_metrics(sum_up([metrics.as_json([])]), {})) < 8192
