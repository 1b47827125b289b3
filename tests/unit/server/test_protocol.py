"""Answers that the protocol gives by itself, and its bounds: the second request for a file or a miss goes that way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import ssl
import threading
from typing import TYPE_CHECKING

import pytest
from support.answers import Stall, not_found
from support.bounds import open_handles
from support.parts import wine_lacks
from support.serving import Client, fetch, serving, wait_for

from symcache.server import hash_token
from symcache.server.symbols import KnownAnswers
from symcache.stores.local.tree import Store
from symcache.stores.negative import Misses

if TYPE_CHECKING:
    from pathlib import Path

    from support.serving import Published, Served
    from support.upstream import Upstream

TOKEN = "a-long-random-token"


def put(store: Path, wanted: Published, content: bytes | None = None) -> Path:
    with Store(store) as opened:
        scratch = opened.scratch()
        scratch.write_bytes(wanted.content if content is None else content)
        return opened.publish(scratch, wanted.key, durable=False)


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kinds of answers that were known."""
    kinds: list[str] = []
    find = KnownAnswers.find

    def watched(*arguments: object) -> object:
        answer = find(*arguments)  # type: ignore[arg-type]
        if answer is not None:
            kinds.append(answer.kind)
        return answer

    monkeypatch.setattr(KnownAnswers, "find", watched)
    return kinds


def counted(served: Served, name: str) -> float:
    text = fetch(served.port, "metrics").body.decode()
    found = re.search(rf"^{re.escape(name)} (\S+)$", text, re.MULTILINE)
    return float(found[1]) if found else 0


def test_a_known_file_is_answered_as_the_first_time(tmp_path: Path, small: Published, known: list[str]) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path) as served, Client(served.port) as client:
        first = client.get(small.index)
        assert known == []
        tag, date = first.fields["etag"], first.fields["last-modified"]
        same = dict(first.fields)
        for method, body in (("GET", small.content), ("HEAD", b"")):
            again = client.get(small.index, method=method)
            assert (again.status, again.body) == (200, body)
            assert {**again.fields, "date": ""} == {**same, "date": ""}
        assert "connection" not in client.get(small.index, method="HEAD").fields
        for fields, status, body in [
            ({"If-None-Match": tag}, 304, b""),
            ({"If-None-Match": '"other"'}, 200, small.content),
            ({"If-Modified-Since": date}, 304, b""),
            ({"If-Match": '"other"'}, 412, b""),
            ({"Range": "bytes=100-199"}, 206, small.content[100:200]),
            ({"Range": "bytes=-7"}, 206, small.content[-7:]),
            ({"Range": "bytes=100-199", "If-Range": tag}, 206, small.content[100:200]),
            ({"Range": "bytes=100-199", "If-Range": '"other"'}, 200, small.content),
            ({"Range": f"bytes={len(small.content)}-"}, 416, b""),
        ]:
            answer = client.get(small.index, fields)
            assert (answer.status, answer.body) == (status, body), fields
        assert known == ["hit"] * 12
        assert counted(served, 'symcache_requests_total{answer="hit"}') == 13
        assert counted(served, 'symcache_responses_total{code="206"}') == 3
        sent = 4 * len(small.content) + 100 + 7 + 100
        assert counted(served, "symcache_sent_bytes_total") >= sent
        assert counted(served, "symcache_transfers_in_flight") == 0


def test_a_known_miss_is_answered_as_the_first_time(
    tmp_path: Path, upstream: Upstream, small: Published, known: list[str]
) -> None:
    upstream.always("*", not_found())
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        first, again, head = (client.get(small.index, method=method) for method in ("GET", "GET", "HEAD"))
        assert known == ["miss", "miss"]
        assert (again.status, again.body) == (first.status, first.body) == (404, b"not found\n")
        assert {**again.fields, "date": ""} == {**head.fields, "date": ""} == {**first.fields, "date": ""}


def test_a_known_miss_is_compared_with_the_store_and_what_is_remembered(
    tmp_path: Path, upstream: Upstream, small: Published, known: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symcache.server.symbols._MISS_FOR_S", -1.0)
    upstream.always("*", not_found())
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        assert client.get(small.index).status == 404
        asked = len(upstream.requests)
        for _ in range(3):
            assert client.get(small.index).status == 404
        assert len(upstream.requests) == asked
        assert known == ["miss"] * 3
        with Misses(tmp_path / "misses", ttl_s=3600) as misses:
            misses.forget(upstream.url, small.key)
        assert client.get(small.index).status == 404
        assert len(upstream.requests) > asked
        folder = tmp_path / "store" / small.key.name.upper() / small.key.id
        folder.mkdir(parents=True)
        (folder / small.key.name.upper()).write_bytes(small.content)
        assert client.get(small.index).body == small.content


def test_old_clients_and_those_that_say_so_are_disconnected(tmp_path: Path, small: Published) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path) as served:
        fetch(served.port, small.index)
        for lines in ("HTTP/1.0\r\nConnection: Keep-Alive", "HTTP/1.1\r\nHost: x\r\nConnection: close"):
            with Client(served.port) as client:
                answer = client.ask(f"GET /{small.index} {lines}\r\n\r\n".encode())
                assert (answer.fields["connection"], answer.body) == ("close", small.content)
                assert client.read_head()[0] == 0


def test_answers_keep_the_order_of_pipelined_requests(
    tmp_path: Path, upstream: Upstream, small: Published, large: Published, old: Published
) -> None:
    upstream.files[old.index] = old.content
    for each in (small, large):
        put(tmp_path / "store", each)
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port, receive_bytes=4096) as client:
        for each in (small, large):
            fetch(served.port, each.index)
        asked = [large, small, old, small, large, large, old, small]
        client.send(b"".join(f"GET /{each.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for each in asked))
        assert [client.read().body for _ in asked] == [each.content for each in asked]


def test_requests_are_told_apart_however_they_arrive(tmp_path: Path, small: Published, old: Published) -> None:
    put(tmp_path / "store", small)
    put(tmp_path / "store", old)
    with serving(tmp_path) as served, Client(served.port) as client:
        one, other = (f"GET /{each.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for each in (small, old))
        for _ in range(3):  # fetched, parsed, seen before
            assert client.ask(one).body == small.content
            assert client.ask(other).body == old.content
        for cut in (1, 30, len(one) - 1):
            client.send(one[:cut])
            assert counted(served, "symcache_requests_in_flight") == 1  # its own: the first part has arrived
            client.send(one[cut:] + other)
            assert [client.read().body for _ in range(2)] == [small.content, old.content]


def test_a_body_is_no_request_though_it_looks_like_one(tmp_path: Path, small: Published) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path) as served, Client(served.port) as client:
        known = f"GET /{small.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        for _ in range(3):
            assert client.ask(known).body == small.content
        answers = counted(served, 'symcache_requests_total{answer="hit"}')
        client.send(f"POST /x HTTP/1.1\r\nHost: x\r\nContent-Length: {len(known)}\r\n\r\n".encode())
        assert client.read().status == 405
        client.send(known)
        assert client.ask(b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n").body == b"ok\n"
        assert counted(served, 'symcache_requests_total{answer="hit"}') == answers


def test_a_body_that_a_request_has_is_dropped(tmp_path: Path, small: Published, known: list[str]) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path) as served:
        fetch(served.port, small.index)
        with Client(served.port) as client:
            for _ in range(2):
                body = b"x" * 100_000
                head = f"GET /{small.index} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n".encode()
                assert client.ask(head + body).body == small.content
    assert known == ["hit", "hit"]


def test_a_client_that_reads_slowly_gets_all_and_costs_no_memory(tmp_path: Path, large: Published) -> None:
    put(tmp_path / "store", large)
    with serving(tmp_path) as served, Client(served.port, receive_bytes=4096) as client:
        fetch(served.port, large.index)
        client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.read_head()
        body = client.read_some(100_000)
        assert counted(served, "symcache_transfers_in_flight") == 1
        assert body + client.read_some(len(large.content) - len(body)) == large.content


@wine_lacks("broken writes")
def test_clients_that_leave_give_back_what_they_held(tmp_path: Path, large: Published) -> None:
    put(tmp_path / "store", large)
    with serving(tmp_path) as served:
        fetch(served.port, large.index)
        before = open_handles()
        for number in range(10):
            with Client(served.port, receive_bytes=4096) as client:
                client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                client.read_some(1 + 1000 * number)
        wait_for(lambda: not counted(served, "symcache_transfers_in_flight"))
        assert fetch(served.port, large.index).body == large.content
        wait_for(lambda: open_handles() <= before + 2)  # the last connections close behind their answers


@wine_lacks("resets")
def test_a_file_that_is_cut_short_meanwhile_ends_with_a_reset(tmp_path: Path, large: Published) -> None:
    path = put(tmp_path / "store", large)
    with serving(tmp_path) as served, Client(served.port, receive_bytes=4096) as client:
        fetch(served.port, large.index)
        client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.read_head()
        client.read_some(1000)
        os.truncate(path, 4 << 20)
        with pytest.raises(ConnectionResetError):
            client.read_some(len(large.content))
        assert counted(served, 'symcache_requests_total{answer="cut"}') == 1


def test_a_file_that_is_pruned_meanwhile_is_still_sent(tmp_path: Path, large: Published) -> None:
    path = put(tmp_path / "store", large)
    with serving(tmp_path) as served, Client(served.port, receive_bytes=4096) as client:
        fetch(served.port, large.index)
        client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.read_head()
        body = client.read_some(1000)
        path.unlink()
        assert body + client.read_some(len(large.content) - 1000) == large.content


def test_a_known_answer_needs_the_same_credentials(tmp_path: Path, small: Published, known: list[str]) -> None:
    put(tmp_path / "store", small)
    right = {"Authorization": f"Bearer {TOKEN}"}
    with serving(tmp_path, tokens=(hash_token(TOKEN),)) as served, Client(served.port) as client:
        for fields, status in [(right, 200), (right, 200), ({}, 401), ({"Authorization": "Bearer x"}, 401)]:
            assert client.get(small.index, fields).status == status
    assert known == ["hit"]


def test_a_known_answer_is_not_given_to_this_server_itself(
    tmp_path: Path, upstream: Upstream, small: Published, known: list[str]
) -> None:
    upstream.always("*", not_found())
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        client.get(small.index)
        (told,) = (served.store / ".symcache/serve").glob("*.json")
        own = f"symcache-{told.name.partition('-')[0]}"
        assert client.get(small.index, {"Via": f"1.1 {own}"}).status == 508
        assert known == []
        assert client.get(small.index, {"Via": "1.1 other"}).status == 404
    assert known == ["miss"]


def test_a_known_answer_counts_among_the_requests_that_are_allowed(
    tmp_path: Path, upstream: Upstream, small: Published, old: Published
) -> None:
    put(tmp_path / "store", old)
    upstream.files[small.index] = small.content
    stall = Stall()
    upstream.script(small.index, stall)
    with serving(tmp_path, upstream=upstream.url, connections=1) as served, Client(served.port) as client:
        fetch(served.port, old.index)
        client.send(f"GET /{small.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        upstream.await_requests(1)
        assert fetch(served.port, old.index).status == 503
        stall.release()
        assert client.read().body == small.content


def test_a_known_answer_has_its_line_in_the_access_log(tmp_path: Path, small: Published, large: Published) -> None:
    for each in (small, large):
        put(tmp_path / "store", each)
    log = tmp_path / "access.log"
    with serving(tmp_path, access_log=str(log), trusted_proxies=("127.0.0.1",)) as served:
        for each in (small, large):
            for _ in range(2):
                fields = {"X-Forwarded-For": "10.1.2.3", "User-Agent": "agent"}
                fetch(served.port, each.index, {**fields, "Range": "bytes=5-"})
    first, second, third, fourth = (json.loads(line) for line in log.read_text().splitlines())
    for one, other in ((first, second), (third, fourth)):
        assert {**one, "time": 0, "seconds": 0} == {**other, "time": 0, "seconds": 0}
    assert (second["client"], second["status"], second["bytes"], second["answer"], second["agent"]) == (
        ("10.1.2.3", 206, len(small.content) - 5, "hit", "agent")
    )


def test_known_files_over_tls(tmp_path: Path, small: Published, large: Published, known: list[str]) -> None:
    trustme = pytest.importorskip("trustme", reason="trustme is not installed")
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    for each in (small, large):
        put(tmp_path / "store", each)
    with (
        serving(tmp_path, certificate=pem) as served,
        Client(served.port, receive_bytes=4096) as client,
        context.wrap_socket(client.socket, server_hostname="127.0.0.1") as connected,
        connected.makefile("rb") as stream,
    ):
        for each in (small, large, large, small, large):
            connected.sendall(f"GET /{each.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            assert stream.readline().startswith(b"HTTP/1.1 200")
            while stream.readline() != b"\r\n":
                pass
            body = stream.read(len(each.content))
            assert hashlib.sha256(body).digest() == hashlib.sha256(each.content).digest()
    assert known == ["hit"] * 3


def test_a_client_that_takes_nothing_is_disconnected_in_time(
    tmp_path: Path, large: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symcache.server.protocol._HEAD_WITHIN_S", 3.0)
    for module in ("protocol", "request"):  # where there is no sendfile, the latter decides
        monkeypatch.setattr(f"symcache.server.{module}.PATIENCE_S", 0.5)
    put(tmp_path / "store", large)
    with serving(tmp_path) as served, Client(served.port, receive_bytes=4096) as client:
        fetch(served.port, large.index)
        client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        wait_for(lambda: counted(served, 'symcache_requests_total{answer="cut"}') == 1)
        assert counted(served, "symcache_transfers_in_flight") == 0


def test_a_client_that_is_silent_is_disconnected_in_time(
    tmp_path: Path, small: Published, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("symcache.server.protocol._HEAD_WITHIN_S", 0.2)
    put(tmp_path / "store", small)
    with serving(tmp_path, keep_alive_s=1) as served:
        fetch(served.port, small.index)
        for sent in (b"", b"GET / HTTP/1.1\r\nHo"):
            with Client(served.port) as client:
                client.send(sent)
                assert client.read_some(1) == b""
        with Client(served.port) as client:
            assert client.get(small.index).body == small.content
            assert client.read_some(1) == b""  # idle for keep_alive_s


def test_a_response_that_takes_longer_than_keep_alive_is_not_ended_by_a_file_before_it(
    tmp_path: Path, upstream: Upstream, small: Published, large: Published
) -> None:
    put(tmp_path / "store", large)
    upstream.files[small.index] = small.content
    stall = Stall()
    upstream.script(small.index, stall)
    with (
        serving(tmp_path, upstream=upstream.url, keep_alive_s=1) as served,
        Client(served.port, receive_bytes=4096) as client,
    ):
        fetch(served.port, large.index)
        client.send(b"".join(f"GET /{each.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode() for each in (large, small)))
        assert client.read().body == large.content
        upstream.await_requests(1)
        threading.Timer(2.5, stall.release).start()
        assert client.read().body == small.content


def test_a_stop_lets_a_known_file_be_sent_to_its_end(tmp_path: Path, large: Published) -> None:
    put(tmp_path / "store", large)
    got: list[bytes] = []
    with serving(tmp_path) as served:
        client = Client(served.port, receive_bytes=4096)
        fetch(served.port, large.index)
        client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        client.read_head()
        client.read_some(1000)
        reader = threading.Thread(target=lambda: got.append(client.read_some(1 << 30)))
        reader.start()
    reader.join()
    client.close()
    assert got == [large.content[1000:]]
