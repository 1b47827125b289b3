"""What is in the store, or known not to exist: answered without upstream, as debuggers understand it."""

from __future__ import annotations

import time
from itertools import product
from typing import TYPE_CHECKING

from support.answers import not_found, status
from support.bounds import open_handles
from support.serving import Client, fetch, serving
from support.synth.cab import SynthFolder, build_cabinet

from symcache.identity import Tier
from symcache.stores.base import Form
from symcache.stores.local.tree import Store
from symcache.stores.negative import Misses

if TYPE_CHECKING:
    from pathlib import Path

    from support.serving import Published
    from support.upstream import Upstream


def put(store: Path, wanted: Published, content: bytes | None = None, form: Form = Form.PLAIN) -> Path:
    with Store(store) as opened:
        scratch = opened.scratch()
        scratch.write_bytes(wanted.content if content is None else content)
        return opened.publish(scratch, wanted.key, form=form, durable=False)


def test_a_stored_file_is_answered_without_upstream(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        for prefix, method in product(["", "download/symbols/", "sm/"], ["GET", "HEAD"]):
            for _ in range(2):  # found on the disk, then known
                answer = client.get(prefix + small.index.lower(), method=method)
                assert (answer.status, answer.body) == (200, small.content if method == "GET" else b"")
                assert answer.fields["content-length"] == str(len(small.content))
                assert answer.fields["content-type"] == "application/octet-stream"
                assert "content-encoding" not in answer.fields
    assert upstream.requests == []


def test_validators_and_ranges_of_a_stored_file(tmp_path: Path, small: Published) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path) as served, Client(served.port) as client:
        first = client.get(small.index)
        tag = first.fields["etag"]
        assert client.get(small.index, {"If-None-Match": tag}).status == 304
        assert client.get(small.index, {"If-Modified-Since": first.fields["last-modified"]}).status == 304
        part = client.get(small.index, {"Range": "bytes=100-199", "If-Range": tag})
        assert (part.status, part.body) == (206, small.content[100:200])
        assert client.get(small.index, {"Range": f"bytes={len(small.content)}-"}).status == 416


def test_a_file_that_is_replaced_or_removed_is_noticed(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    upstream.always("*", not_found())
    path = put(tmp_path / "store", small)
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        first = client.get(small.index)
        longer = small.content + bytes(4096)
        put(tmp_path / "store", small, longer)
        second = client.get(small.index)
        assert second.body == longer
        assert second.fields["etag"] != first.fields["etag"]
        path.unlink()
        assert client.get(small.index).status == 404


def test_a_damaged_file_in_the_store_is_replaced(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    upstream.files[small.index] = small.content
    put(tmp_path / "store", small, b"<html>sign in</html>")
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, small.index).body == small.content


def test_a_file_that_the_command_line_brings_is_answered_at_once(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.always("*", not_found())
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        assert client.get(small.index).status == 404
        assert client.get(small.index).status == 404
        put(tmp_path / "store", small)
        assert client.get(small.index).body == small.content


def test_probes_never_reach_upstream(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        for path in ("index2.txt", "pingme.txt", "download/index2.txt", small.packed_index):
            assert client.get(path).status == 404
        assert client.get(small.index.replace("/small.pdb", "/file.ptr")).status == 404
    assert upstream.requests == []


def test_a_cabinet_in_the_store_answers_its_probe(tmp_path: Path, small: Published) -> None:
    cabinet = build_cabinet([SynthFolder([("small.pdb", small.content)])])
    put(tmp_path / "store", small, cabinet, Form.COMPRESSED)
    with serving(tmp_path) as served, Client(served.port) as client:
        assert client.get(small.packed_index).body == cabinet
        assert client.get(small.index).body == small.content


def test_a_store_of_two_tiers_says_so(tmp_path: Path, small: Published) -> None:
    Store(tmp_path / "store").create(Tier.TWO)
    put(tmp_path / "store", small)
    with serving(tmp_path) as served, Client(served.port) as client:
        assert client.get("index2.txt").status == 200
        assert client.get(f"sm/{small.index}").body == small.content
        assert client.get(small.index).body == small.content


def test_an_age_in_decimal_is_answered_unless_the_client_writes_hex(
    tmp_path: Path, upstream: Upstream, old: Published
) -> None:
    upstream.files[old.index] = old.content
    path = f"{old.key.name}/{old.key.guid.hex.upper()}26/{old.key.name}"
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        symsrv = {"User-Agent": "Microsoft-Symbol-Server/10.0.0.0"}
        assert client.get(path, symsrv).status == 404
        assert client.get(path, {"User-Agent": "Python-urllib/3.11"}).body == old.content
        assert client.get(path, symsrv).status == 404
        assert client.get(path).body == old.content


def test_misses_are_shared_with_the_command_line(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    upstream.always("*", not_found())
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, small.index).status == 404
        asked = len(upstream.requests)
        with Misses(tmp_path / "misses", ttl_s=3600) as misses:
            miss = misses.recall(upstream.url, small.key)
            assert miss is not None
            assert miss.index == small.index
    with serving(tmp_path, upstream=upstream.url) as served:
        assert fetch(served.port, small.index).status == 404
    assert len(upstream.requests) == asked


def test_an_old_miss_is_checked_again_behind_the_answer(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    upstream.files[small.index] = small.content
    with Misses(tmp_path / "misses", ttl_s=86400, clock_s=lambda: time.time() - 7200) as misses:
        misses.remember(upstream.url, small.key, "404")
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        assert client.get(small.index).status == 404
        upstream.await_requests(1)
        while (answer := client.get(small.index)).status == 404:
            time.sleep(0.01)
        assert answer.body == small.content


def test_an_old_miss_stays_one_while_upstream_is_in_trouble(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.always("*", status(503))
    long_ago_s = time.time() - 7200
    with Misses(tmp_path / "misses", ttl_s=86400, clock_s=lambda: long_ago_s) as misses:
        misses.remember(upstream.url, small.key, "404")
    with serving(tmp_path, upstream=upstream.url, network__retries=0) as served:
        assert fetch(served.port, small.index).status == 404
        upstream.await_requests(1)
    with Misses(tmp_path / "misses", ttl_s=86400) as misses:
        miss = misses.recall(upstream.url, small.key)
        assert miss is not None
        assert miss.first_asked_s == long_ago_s


def test_what_is_excluded_is_not_found(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    with serving(tmp_path, upstream=upstream.url, exclusions__names=("small*",)) as served:
        assert fetch(served.port, small.index).status == 404
    assert upstream.requests == []


def test_a_use_is_noted_for_pruning(tmp_path: Path, small: Published) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path) as served:
        fetch(served.port, small.index)
    assert small.key.folded in (tmp_path / "store/.symcache/access/recent").read_text()


def test_requests_one_after_the_other_on_one_connection(tmp_path: Path, small: Published) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path) as served, Client(served.port) as client:
        request = f"GET /{small.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
        client.send(request * 3)
        assert [client.read().body for _ in range(3)] == [small.content] * 3


def test_hostile_requests_are_refused_without_a_look_at_the_disk(tmp_path: Path) -> None:
    lines = [
        "GET /../../etc/passwd HTTP/1.1",
        "GET /x/%2e%2e%2f%2e%2e/x HTTP/1.1",
        "GET /con/AB/con HTTP/1.1",
        "GET /\xff/AB/\xff HTTP/1.1",
        "GET /a.pdb/" + "0" * 5000 + "/a.pdb HTTP/1.1",
        "GET /" + "a" * 100_000 + " HTTP/1.1",
        "NONSENSE",
    ]
    with serving(tmp_path) as served:
        for line in lines:
            with Client(served.port) as client:
                client.send(line.encode("latin-1") + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert client.read_head()[0] in {400, 431, 0}
        assert fetch(served.port, "healthz").body == b"ok\n"
    assert list((tmp_path / "store").glob("[!.]*")) in ([], [tmp_path / "store/pingme.txt"])


def test_fields_without_end_are_refused(tmp_path: Path) -> None:
    with serving(tmp_path) as served, Client(served.port) as client:
        client.send(b"GET / HTTP/1.1\r\n" + b"X-Filler: " + b"a" * 70_000 + b"\r\n\r\n")
        assert client.read_head()[0] in {431, 0}


def test_other_methods_are_refused(tmp_path: Path, small: Published) -> None:
    with serving(tmp_path) as served:
        for method in ("POST", "DELETE", "PUT"):
            assert fetch(served.port, small.index, {"Content-Length": "0"}, method=method).status == 405


def test_two_servers_share_one_store(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    upstream.files[small.index] = small.content
    with serving(tmp_path, upstream=upstream.url) as first, serving(tmp_path, upstream=upstream.url) as second:
        assert fetch(first.port, small.index).body == small.content
        assert fetch(second.port, small.index).body == small.content
    assert len(upstream.requests) == 1


def test_one_server_behind_another(tmp_path: Path, upstream: Upstream, small: Published, large: Published) -> None:
    upstream.files |= {small.index: small.content, large.index: large.content}
    with (
        serving(tmp_path / "far", upstream=upstream.url) as far,
        serving(tmp_path / "near", upstream=far.url) as near,
    ):
        assert fetch(near.port, small.index).body == small.content
        assert fetch(near.port, large.index).body == large.content
        assert fetch(near.port, small.index.replace("small", "other")).status == 404
    assert "via" in upstream.requests[0].headers
    assert upstream.requests[0].headers["via"].count("symcache-") == 2


def test_a_loop_of_servers_is_found(tmp_path: Path, small: Published) -> None:
    with serving(tmp_path, f"srv*{tmp_path / 'store'}") as served:
        assert fetch(served.port, small.index, {"Via": f"1.1 {_own_name(served.store)}, 1.1 other"}).status == 508
        assert fetch(served.port, small.index, {"Via": "1.1 other"}).status == 404


def _own_name(store: Path) -> str:
    (told,) = (store / ".symcache/serve").glob("*.json")
    return f"symcache-{told.name.partition('-')[0]}"


def test_no_scratch_file_or_descriptor_is_left(tmp_path: Path, upstream: Upstream, large: Published) -> None:
    upstream.files[large.index] = large.content
    with serving(tmp_path, upstream=upstream.url, stream_from_bytes=0) as served:
        fetch(served.port, large.index)
        before = open_handles()
        for number in range(10):
            with Client(served.port) as client:
                client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                client.read_some(1000 * number)
        assert fetch(served.port, large.index).body == large.content
        assert open_handles() <= before + 2
    assert list((tmp_path / "store/.symcache").rglob("*.part")) == []
