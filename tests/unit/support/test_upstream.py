"""The scripted upstream must do what its answers say: a fault that it does not show is a test that cannot fail."""

from __future__ import annotations

import gzip
import random
import socket
from functools import partial
from typing import TYPE_CHECKING

import anyio
import httpx
import pytest
from support.answers import (
    SIGNATURE,
    Stall,
    busy,
    chunked,
    cut,
    entity_tag,
    file,
    gzipped,
    hang_up,
    in_turn,
    not_found,
    page,
    raw,
    redirect,
    reset,
    signed,
    slow,
    status,
    unframed,
)
from support.parts import wine_lacks
from support.proxy import ForwardingProxy
from support.upstream import Upstream
from support.wire import closed_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from conftest import MakeUpstream
    from support.authority import Authority

PATH = "a.pdb/0123456789ABCDEF0123456789ABCDEF1/a.pdb"
BODY = random.Random(1).randbytes(10240)


@pytest.fixture
def client() -> Iterator[httpx.Client]:
    with httpx.Client(trust_env=False, timeout=20) as client:
        yield client


@pytest.fixture
def served(upstream: Upstream) -> Upstream:
    upstream.files[PATH] = BODY
    return upstream


def url(upstream: Upstream) -> str:
    return f"{upstream.url}/{PATH}"


def drain(answer: httpx.Response, received: bytearray) -> None:
    for piece in answer.iter_raw():
        received.extend(piece)


def test_a_file_is_served_with_what_a_later_range_needs(served: Upstream, client: httpx.Client) -> None:
    answer = client.get(url(served))
    assert (answer.status_code, answer.content) == (200, BODY)
    assert answer.headers["accept-ranges"] == "bytes"
    assert answer.headers["etag"] == entity_tag(BODY)
    assert "last-modified" in answer.headers


def test_a_folder_is_served_like_a_mapping(make_upstream: MakeUpstream, client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / PATH).parent.mkdir(parents=True)
    (tmp_path / PATH).write_bytes(BODY)
    exact = make_upstream(tmp_path)
    lenient = make_upstream(tmp_path, case_insensitive=True)
    assert client.get(f"{exact.url}/{PATH}").content == BODY
    is_blind = (tmp_path / PATH.lower()).exists()  # as the disks of Windows are
    assert client.get(f"{exact.url}/{PATH.lower()}").status_code == (200 if is_blind else 404)
    assert client.get(f"{lenient.url}/{PATH.lower()}", headers={"Range": "bytes=9-"}).content == BODY[9:]


def test_a_connection_is_kept_for_the_next_request(served: Upstream, client: httpx.Client) -> None:
    for _ in range(3):
        client.get(url(served))
    client.get(f"{served.url}/other")
    assert served.connections == 1


@pytest.mark.parametrize(
    ("wanted", "expected"),
    [
        pytest.param("bytes=10-19", BODY[10:20], id="closed"),
        pytest.param("bytes=10000-", BODY[10000:], id="open"),
        pytest.param("bytes=-5", BODY[-5:], id="suffix"),
        pytest.param("bytes=10200-99999", BODY[10200:], id="past the end"),
    ],
)
def test_a_range_is_heeded(served: Upstream, client: httpx.Client, wanted: str, expected: bytes) -> None:
    answer = client.get(url(served), headers={"Range": wanted, "If-Range": entity_tag(BODY)})
    assert (answer.status_code, answer.content) == (206, expected)
    start = BODY.index(expected)
    assert answer.headers["content-range"] == f"bytes {start}-{start + len(expected) - 1}/{len(BODY)}"


def test_a_range_of_another_version_gets_the_whole_file(served: Upstream, client: httpx.Client) -> None:
    answer = client.get(url(served), headers={"Range": "bytes=10-", "If-Range": '"other"'})
    assert (answer.status_code, answer.content) == (200, BODY)


def test_a_range_past_the_end_cannot_be_satisfied(served: Upstream, client: httpx.Client) -> None:
    answer = client.get(url(served), headers={"Range": f"bytes={len(BODY)}-"})
    assert (answer.status_code, answer.headers["content-range"]) == (416, f"bytes */{len(BODY)}")


def test_a_server_without_ranges_sends_the_whole_file(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, file(ranges=False, etag=None))
    answer = client.get(url(served), headers={"Range": "bytes=10-"})
    assert (answer.status_code, answer.content) == (200, BODY)
    assert {"etag", "last-modified", "accept-ranges"}.isdisjoint(answer.headers)


def test_head_has_the_length_and_no_body(served: Upstream, client: httpx.Client) -> None:
    answer = client.head(url(served))
    assert (answer.status_code, answer.content) == (200, b"")
    assert answer.headers["content-length"] == str(len(BODY))
    assert served.requests[0].sent_bytes == 0


def test_the_log_says_what_was_asked_and_what_was_sent(served: Upstream, client: httpx.Client) -> None:
    client.get(f"{url(served)}?x=%20", headers={"Range": "bytes=0-99", "X-One": "1"})
    (request,) = served.await_requests(1)
    request.ended.wait()
    assert (request.method, request.path, request.query) == ("GET", f"/{PATH}", "x=%20")
    assert (request.headers["range"], request.headers["x-one"]) == ("bytes=0-99", "1")
    assert (request.status, request.sent_bytes) == (206, 100)


def test_a_miss_has_no_length(upstream: Upstream, client: httpx.Client) -> None:
    answer = client.get(url(upstream))
    assert (answer.status_code, answer.content) == (404, b"")
    assert "content-length" not in answer.headers


def test_a_script_is_followed_in_order_and_then_the_file_comes(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, status(503), page(403), not_found())
    assert [client.get(url(served)).status_code for _ in range(5)] == [503, 403, 404, 200, 200]


def test_what_is_always_answered_comes_after_the_script(served: Upstream, client: httpx.Client) -> None:
    served.always(PATH, status(502))
    served.script(PATH, status(500))
    assert [client.get(url(served)).status_code for _ in range(3)] == [500, 502, 502]
    served.always("*", in_turn(status(401), status(403)))
    assert [client.get(f"{served.url}/any").status_code for _ in range(3)] == [401, 403, 403]


@pytest.mark.parametrize("as_date", [False, True], ids=["seconds", "date"])
def test_a_busy_server_says_when_to_come_back(served: Upstream, client: httpx.Client, as_date: bool) -> None:
    served.script(PATH, busy(120, as_date=as_date))
    answer = client.get(url(served))
    assert answer.status_code == 429
    assert answer.headers["retry-after"].endswith("GMT" if as_date else "120")


def test_a_cut_body_ends_early_and_can_be_resumed(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, cut(at=1000))
    received = bytearray()
    with client.stream("GET", url(served)) as answer:
        assert answer.headers["content-length"] == str(len(BODY))
        with pytest.raises(httpx.RemoteProtocolError, match="peer closed connection"):
            drain(answer, received)
    assert received == BODY[:1000]
    rest = client.get(url(served), headers={"Range": "bytes=1000-", "If-Range": answer.headers["etag"]})
    assert received + rest.content == BODY


def test_a_file_may_change_between_two_requests(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, cut(at=10, etag='"first"'), file(b"second", etag='"second"'))
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(url(served))
    answer = client.get(url(served), headers={"Range": "bytes=10-", "If-Range": '"first"'})
    assert (answer.status_code, answer.content, answer.headers["etag"]) == (200, b"second", '"second"')


async def test_a_stalled_body_goes_on_when_it_is_released(served: Upstream) -> None:
    stall = Stall(after=500)
    served.script(PATH, stall)
    async with (
        httpx.AsyncClient(trust_env=False, timeout=20) as client,
        client.stream("GET", url(served)) as answer,
    ):
        await stall.reached.reached()
        assert served.requests[0].sent_bytes == 500
        stall.release()
        assert await answer.aread() == BODY


async def test_a_test_can_wait_for_requests(served: Upstream) -> None:
    stall = Stall()
    served.script(PATH, stall, stall)
    async with httpx.AsyncClient(trust_env=False, timeout=20) as client, anyio.create_task_group() as group:
        group.start_soon(partial(client.get, url(served)))
        group.start_soon(partial(client.get, url(served)))
        assert len(await served.requests_seen(2, PATH)) == 2
        stall.release()
    assert [request.sent_bytes for request in served.asked(PATH)] == [len(BODY)] * 2


def test_waiting_for_requests_that_never_come_fails(upstream: Upstream) -> None:
    with pytest.raises(AssertionError, match="0 of 1 requests"):
        upstream.await_requests(1, timeout_s=0.01)


def test_closing_releases_a_stalled_answer() -> None:
    stall = Stall(after=3)
    with Upstream({PATH: BODY}) as upstream, socket.create_connection(("127.0.0.1", upstream.port)) as client:
        upstream.script(PATH, stall)
        client.sendall(f"GET /{PATH} HTTP/1.1\r\n\r\n".encode())
        stall.reached.wait()
        upstream.close()
        assert upstream.requests[0].ended.is_set()


def test_a_slow_body_comes_whole(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, slow(chunk_bytes=4096, pause_s=0.001))
    assert client.get(url(served)).content == BODY


def test_redirects_lead_to_another_path_and_to_another_origin(
    served: Upstream, make_upstream: MakeUpstream, client: httpx.Client
) -> None:
    blobs = make_upstream({"blob/1": b"blob"})
    served.script(PATH, redirect(signed("/" + PATH)), redirect("/elsewhere"))
    served.always("elsewhere", redirect(signed(f"{blobs.url}/blob/1"), headers=[("x-ms-symbol-format", "")]))
    assert SIGNATURE in client.get(url(served)).headers["location"]
    answer = client.get(url(served), follow_redirects=True)
    assert answer.content == b"blob"
    assert SIGNATURE in blobs.requests[0].query
    assert answer.history[-1].headers["x-ms-symbol-format"] == ""


def test_a_redirect_can_go_round_in_circles(served: Upstream, client: httpx.Client) -> None:
    served.always(PATH, redirect(f"/{PATH}"))
    with pytest.raises(httpx.TooManyRedirects):
        client.get(url(served), follow_redirects=True)


def test_a_body_without_length_ends_with_its_connection(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, unframed(b"MSF"))
    answer = client.get(url(served))
    assert (answer.content, "content-length" in answer.headers) == (b"MSF", False)
    assert client.get(url(served)).content == BODY


def test_a_gzipped_body_is_marked_as_such(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, gzipped())
    with client.stream("GET", url(served)) as answer:
        assert answer.headers["content-encoding"] == "gzip"
        assert gzip.decompress(b"".join(answer.iter_raw())) == BODY


def test_chunks_make_up_the_body(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, chunked(chunk_bytes=1000), chunked(chunk_bytes=1000, cut_after=2))
    answer = client.get(url(served))
    assert (answer.headers["transfer-encoding"], answer.content) == ("chunked", BODY)
    with pytest.raises(httpx.RemoteProtocolError):
        client.get(url(served))


def test_a_connection_can_end_without_an_answer(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, hang_up(), raw(b"SSH-2.0-OpenSSH_9\r\n\r\n"))
    with pytest.raises(httpx.RemoteProtocolError, match="without sending"):
        client.get(url(served))
    with pytest.raises(httpx.RemoteProtocolError, match="illegal"):
        client.get(url(served))


@wine_lacks("resets")
def test_a_connection_can_be_reset(served: Upstream, client: httpx.Client) -> None:
    served.script(PATH, reset())
    with pytest.raises(httpx.ReadError):
        client.get(url(served))


def test_idle_connections_can_be_cut(served: Upstream, client: httpx.Client) -> None:
    client.get(url(served))
    served.cut_connections()
    with socket.create_connection(("127.0.0.1", served.port)) as fresh:
        fresh.sendall(b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n")
        assert b" 404 " in fresh.makefile("rb").readline()


def test_a_closed_port_refuses(client: httpx.Client) -> None:
    with closed_port() as port, pytest.raises(httpx.ConnectError):
        client.get(f"http://127.0.0.1:{port}/")


def test_credentials_are_asked_for(make_upstream: MakeUpstream, client: httpx.Client) -> None:
    upstream = make_upstream({PATH: BODY}, credentials=("", "token"))
    refused = client.get(url(upstream))
    assert (refused.status_code, refused.headers["www-authenticate"]) == (401, 'Basic realm="symbols"')
    assert client.get(url(upstream), auth=("", "other")).status_code == 401
    assert client.get(url(upstream), auth=("", "token")).content == BODY


def test_tls_is_trusted_by_those_who_know_the_authority(make_upstream: MakeUpstream, authority: Authority) -> None:
    upstream = make_upstream({PATH: BODY}, tls=authority.server_context())
    with httpx.Client(trust_env=False, verify=authority.client_context()) as client:
        assert client.get(url(upstream)).content == BODY
        upstream.script(PATH, cut(at=7), reset())
        with pytest.raises(httpx.RemoteProtocolError):
            client.get(url(upstream))
        with pytest.raises(httpx.TransportError):
            client.get(url(upstream))
    with httpx.Client(trust_env=False) as client, pytest.raises(httpx.ConnectError, match="CERTIFICATE_VERIFY_FAILED"):
        client.get(url(upstream))


def test_a_proxy_forwards_and_logs(served: Upstream) -> None:
    with ForwardingProxy() as proxy, httpx.Client(trust_env=False, proxy=proxy.url) as client:
        assert client.get(url(served)).content == BODY
        assert client.get(url(served), headers={"Range": "bytes=1-2"}).content == BODY[1:3]
        assert client.get("http://symbols.example/x").status_code == 502
        assert [request.target for request in proxy.requests[:2]] == [url(served)] * 2


def test_a_proxy_tunnels_to_the_name_it_has_a_route_for(make_upstream: MakeUpstream, authority: Authority) -> None:
    upstream = make_upstream({PATH: BODY}, tls=authority.server_context("msdl.microsoft.com"))
    with (
        ForwardingProxy({"msdl.microsoft.com:443": upstream.port}, credentials=("me", "pw")) as proxy,
        httpx.Client(
            trust_env=False, proxy=f"http://me:pw@{proxy.address}", verify=authority.client_context()
        ) as client,
    ):
        assert client.get(f"https://msdl.microsoft.com/{PATH}").content == BODY
        assert [(request.method, request.target) for request in proxy.requests] == [
            ("CONNECT", "msdl.microsoft.com:443")
        ]
    assert upstream.requests[0].headers["host"] == "msdl.microsoft.com"


def test_a_proxy_can_ask_for_credentials(served: Upstream) -> None:
    with (
        ForwardingProxy(credentials=("me", "pw")) as proxy,
        httpx.Client(trust_env=False, proxy=proxy.url) as client,
    ):
        assert client.get(url(served)).status_code == 407
        assert served.requests == []
