"""What is not in the store: one question to upstream, read along by everybody, never more than what is right."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest
from support.answers import Stall, busy, cut, file, not_found, page, status, unframed
from support.serving import Client, fetch, publish, serving
from support.synth.cab import SynthFolder, build_cabinet
from support.synth.pe import disk_bytes, plan_image

from symcache.config import Breaker
from symcache.identity import ImageKey
from symcache.stores.local.tree import Store
from symcache.upkeep.bundle import export_bundle

if TYPE_CHECKING:
    from pathlib import Path

    from support.serving import Published
    from support.upstream import Upstream

HELD_BYTES = 64 * 1024


def published(store: Path) -> list[Path]:
    return sorted(path for path in store.glob("*/*/*") if path.is_file() and ".symcache" not in path.parts)


def test_many_clients_make_one_request(tmp_path: Path, upstream: Upstream, large: Published) -> None:
    upstream.files[large.index] = large.content
    stall = Stall(1 << 20)
    upstream.script(large.index, stall)
    with serving(tmp_path, upstream=upstream.url) as served, ThreadPoolExecutor(20) as pool:
        answers = [pool.submit(fetch, served.port, large.index) for _ in range(20)]
        upstream.await_requests(1)
        stall.release()
        assert all(answer.result().body == large.content for answer in answers)
    assert len(upstream.requests) == 1


def test_a_long_file_is_passed_on_while_it_arrives(tmp_path: Path, upstream: Upstream, large: Published) -> None:
    upstream.files[large.index] = large.content
    stall = Stall(5 << 20)
    upstream.script(large.index, stall)
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=1 << 20) as served, Client(served.port) as client:
        client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        code, fields = client.read_head()
        assert (code, fields["content-length"]) == (200, str(len(large.content)))
        assert client.read_some(4 << 20) == large.content[: 4 << 20]
        assert published(served.store) == []
        stall.release()
        assert client.read_some(len(large.content) - (4 << 20)) == large.content[4 << 20 :]


def test_the_end_is_held_back_until_the_file_was_found_right(
    tmp_path: Path, upstream: Upstream, large: Published, old: Published
) -> None:
    wrong = large.content
    upstream.files[old.index] = wrong
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
        answer = fetch(served.port, old.index)
        assert not answer.is_whole
        assert answer.status == 0 or len(answer.body) <= len(wrong) - HELD_BYTES
        assert fetch(served.port, old.index).status in {0, 200, 502}
        assert published(served.store) == []


def test_a_short_wrong_file_is_an_error_and_never_a_file(
    tmp_path: Path, upstream: Upstream, small: Published, old: Published
) -> None:
    upstream.files[old.index] = small.content
    with serving(tmp_path, upstream=upstream.url) as served:
        answer = fetch(served.port, old.index)
    assert answer.status == 502
    assert int(answer.fields["retry-after"]) > 0


@pytest.mark.parametrize(
    "body", [b"<!DOCTYPE html><html>", b"<!-- --><html>", b'{"error": 404}', b"<?xml version='1.0'?>"]
)
def test_no_page_is_ever_passed_on_whatever_it_says_it_is(
    body: bytes, tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.files[small.index] = body.ljust(8 << 20)
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
        answer = fetch(served.port, small.index)
        assert (answer.status, len(answer.body) < 100) == (502, True)
        assert published(served.store) == []


def test_a_right_file_is_served_whatever_its_upstream_says_it_is(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.always(small.index, status(200, small.content, headers=[("Content-Type", "text/html")]))
    with serving(tmp_path, upstream=upstream.url) as served:
        answer = fetch(served.port, small.index)
    assert (answer.status, answer.body) == (200, small.content)
    assert answer.fields["content-type"] == "application/octet-stream"


def test_a_client_that_leaves_does_not_end_the_download(tmp_path: Path, upstream: Upstream, large: Published) -> None:
    upstream.files[large.index] = large.content
    stall = Stall(3 << 20)
    upstream.script(large.index, stall)
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
        with Client(served.port) as client:
            client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            client.read_head()
            client.read_some(1 << 20)
        stall.release()
        assert fetch(served.port, large.index).body == large.content
    assert len(upstream.requests) == 1


def test_an_upstream_that_breaks_halfway_is_asked_for_the_rest(
    tmp_path: Path, upstream: Upstream, large: Published
) -> None:
    upstream.files[large.index] = large.content
    upstream.script(large.index, cut(at=len(large.content) // 2))
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
        assert fetch(served.port, large.index).body == large.content
    assert [request.headers.get("range") for request in upstream.requests] == [
        None,
        f"bytes={len(large.content) // 2}-",
    ]


def test_a_file_that_starts_over_cuts_off_who_has_its_beginning(
    tmp_path: Path, upstream: Upstream, large: Published
) -> None:
    upstream.files[large.index] = large.content
    upstream.script(large.index, cut(at=4 << 20, etag=None, ranges=False), file(etag=None, ranges=False))
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
        answer = fetch(served.port, large.index)
        assert answer.body == large.content[: len(answer.body)]
        assert fetch(served.port, large.index).body == large.content


def test_only_a_definite_no_is_404(tmp_path: Path, upstream: Upstream) -> None:
    answers = {
        "404": (not_found(), 404),
        "410": (status(410), 404),
        "500": (status(500), 503),
        "503": (status(503), 503),
        "403": (status(403), 502),
        "401": (status(401), 502),
        "page": (page(), 502),
        "empty": (status(200), 502),
        "429": (busy(600), 503),  # last, as it asks for a pause
    }
    # No retries, and no host is left alone: each answer is to be seen for itself.
    patience = {"network__retries": 0, "network__breaker": Breaker(failures=1000), "network__longest_backoff_s": 0.0}
    with serving(tmp_path, upstream=upstream.url, **patience) as served:  # type: ignore[arg-type]
        for name, (answer, code) in answers.items():
            index = f"{name}.pdb/{'A' * 32}1/{name}.pdb"
            upstream.always(index, answer)
            upstream.always(index[:-1] + "_", answer)
            answered = fetch(served.port, index)
            assert (answered.status, name) == (code, name)
            assert len(answered.body) < 100
            assert ("retry-after" in answered.fields) == (code != 404)


def test_what_takes_too_long_is_answered_in_time_and_goes_on(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.files[small.index] = small.content
    stall = Stall()
    upstream.script(small.index, stall)
    with serving(tmp_path, upstream=upstream.url, patience_s=0.3) as served:
        late = fetch(served.port, small.index)
        assert (late.status, late.fields["symbol-agent-status"]) == (504, "0x80070512")
        stall.release()
        answers = [fetch(served.port, small.index) for _ in range(10)]
    assert answers[-1].body == small.content
    assert len(upstream.requests) == 1


def test_a_client_that_says_how_patient_it_is_is_answered_in_that_time(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    stall = Stall(then=not_found())
    upstream.script(small.index, stall)
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, small.index, {"Symbol-Agent-Receive-Timeout": "300"}).status == 504
        stall.release()


def test_a_cabinet_upstream_is_answered_under_the_plain_name(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    cabinet = build_cabinet([SynthFolder([("small.pdb", small.content)])])
    upstream.files[small.packed_index] = cabinet
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, small.index).body == small.content
        assert fetch(served.port, small.packed_index).status == 404


def test_a_cabinet_under_the_plain_name_is_not_passed_on(tmp_path: Path, upstream: Upstream, large: Published) -> None:
    upstream.files[large.index] = build_cabinet([SynthFolder([("x", large.content)])])
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
        assert fetch(served.port, large.index).body == large.content


def test_a_body_of_unknown_length_is_answered_with_its_length(
    tmp_path: Path, upstream: Upstream, large: Published
) -> None:
    upstream.always(large.index, unframed(large.content))
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
        answer = fetch(served.port, large.index)
    assert (answer.body, answer.fields["content-length"]) == (large.content, str(len(large.content)))


def test_a_range_of_a_file_that_arrives(tmp_path: Path, upstream: Upstream, large: Published) -> None:
    upstream.files[large.index] = large.content
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
        answer = fetch(served.port, large.index, {"Range": "bytes=1000-1999"})
    assert (answer.status, answer.body) == (206, large.content[1000:2000])


def test_head_of_a_cold_file(tmp_path: Path, upstream: Upstream, large: Published) -> None:
    upstream.files[large.index] = large.content
    with serving(tmp_path, upstream=upstream.url) as served:
        answer = fetch(served.port, large.index, method="HEAD")
        assert (answer.status, answer.fields["content-length"]) == (200, str(len(large.content)))


def test_no_more_downloads_than_allowed(tmp_path: Path, upstream: Upstream, small: Published, old: Published) -> None:
    stall = Stall(then=not_found())
    upstream.script(small.index, stall)
    with serving(tmp_path, upstream=upstream.url, downloads=1) as served, Client(served.port) as client:
        client.send(f"GET /{small.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        upstream.await_requests(1)
        answer = fetch(served.port, old.index)
        assert (answer.status, answer.fields["retry-after"]) == (503, "5")
        stall.release()
        assert client.read().status == 404


def test_a_stopping_server_lets_transfers_end(tmp_path: Path, upstream: Upstream, large: Published) -> None:
    upstream.files[large.index] = large.content
    stall = Stall(2 << 20)
    upstream.script(large.index, stall)
    got: list[bytes] = []
    with ExitStack() as stack:
        with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
            client = stack.enter_context(Client(served.port))
            client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            client.read_head()
            reader = threading.Thread(target=lambda: got.append(client.read_some(1 << 30)))
            reader.start()
            threading.Timer(0.3, stall.release).start()
        reader.join()
    assert got == [large.content]


def test_an_image_is_served_under_the_name_that_a_debugger_asks_for(tmp_path: Path, upstream: Upstream) -> None:
    original = ImageKey("stor.sys", 0x5F001122, 0x9000)
    content = disk_bytes(plan_image(original))
    upstream.files = {original.index: content}
    listed = ImageKey("dump_stor.sys", original.timestamp, original.size_of_image)
    with serving(tmp_path, upstream=upstream.url) as served:
        for _ in range(2):
            answered = fetch(served.port, listed.index)
            assert (answered.status, answered.body) == (200, content)
        asked = len(upstream.requests)
        assert fetch(served.port, original.index).body == content
    assert len(upstream.requests) == asked == 1


def test_what_a_bundle_in_the_symbol_path_has_is_served(tmp_path: Path) -> None:
    packed, home = publish("packed.pdb", 1, payload_bytes=100_000), tmp_path / "home"
    bundle = tmp_path / "crash.symbols"
    with Store(tmp_path / "outside") as store:
        scratch = store.scratch()
        scratch.write_bytes(packed.content)
        store.publish(scratch, packed.key, durable=False)
        export_bundle(store, bundle)
    with serving(home, f"srv*{home / 'store'}*{bundle}") as served:
        for _ in range(2):
            answered = fetch(served.port, packed.index)
            assert (answered.status, answered.body) == (200, packed.content)
        assert fetch(served.port, publish("absent.pdb", 2).index).status == 404
    assert (home / "store" / packed.index).read_bytes() == packed.content
