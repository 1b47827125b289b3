"""What an operator sees and sets: counts, log, limits, who may ask and publish, certificates, upkeep."""

from __future__ import annotations

import base64
import dataclasses
import http.client
import io
import json
import logging
import re
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest
from support.answers import Stall, not_found
from support.parts import wine_lacks
from support.serving import Client, fetch, publish, serving
from support.sources import IMAGE_KEY
from support.synth.pe import disk_bytes, plan_image
from support.synth.version import VersionPlan, version_bytes
from support.synth.wim import WimPlan, build_wim
from support.upstream import Upstream

from symcache.config import load_config
from symcache.errors import ConfigError, UsageError
from symcache.inputs.lock import LockedFile, lock_lines
from symcache.reports.files import SUFFIXES
from symcache.server import hash_password, hash_token, listen, pages
from symcache.server.metrics import Metrics
from symcache.stores.links import Link, StoreLinks
from symcache.stores.local.tree import Store
from symcache.stores.negative import Misses, Wanted
from symcache.stores.results import Hint
from symcache.symstore.admin import Admin

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from support.serving import Published, Served

TOKEN = "a-long-random-token"
CHEAP = 4  # rounds of scrypt, as a power of two: tests need no strong hash


def put(store: Path, wanted: Published) -> Path:
    with Store(store) as opened:
        scratch = opened.scratch()
        scratch.write_bytes(wanted.content)
        return opened.publish(scratch, wanted.key, durable=False)


def wait_for(condition: Callable[[], bool]) -> None:
    end_s = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < end_s
        time.sleep(0.02)


def counts(served: Served) -> dict[str, float]:
    text = fetch(served.port, "metrics").body.decode()
    return {name: float(value) for name, value in re.findall(r"^([a-z_]+(?:\{.*\})?) (\S+)$", text, re.MULTILINE)}


def basic(user: str, password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()}


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def test_everything_is_counted(tmp_path: Path, upstream: Upstream, small: Published, old: Published) -> None:
    upstream.files[small.index] = small.content
    with serving(tmp_path, upstream=upstream.url) as served:
        for _ in range(3):
            fetch(served.port, small.index)
            fetch(served.port, old.index)
        fetch(served.port, "index2.txt")
        fetch(served.port, "healthz")
        counted = counts(served)
    assert counted['symcache_requests_total{answer="cold"}'] == 1
    assert counted['symcache_requests_total{answer="hit"}'] == 2
    assert counted['symcache_requests_total{answer="miss"}'] == 3
    assert counted['symcache_requests_total{answer="probe"}'] == 1
    assert counted['symcache_responses_total{code="404"}'] == 4
    assert counted["symcache_sent_bytes_total"] == 3 * len(small.content) + 4 * len(b"not found\n") + len(b"ok\n")
    assert counted["symcache_upstream_bytes_total"] == len(small.content)
    assert counted["symcache_upstream_seconds_count"] == counted['symcache_upstream_seconds_bucket{le="+Inf"}'] == 2
    assert counted["symcache_upstream_in_flight"] == 0
    assert counted["symcache_workers"] == 1


def test_what_the_page_fetches_is_counted_and_told_as_anything_else(
    tmp_path: Path, upstream: Upstream, small: Published, large: Published, old: Published
) -> None:
    upstream.files |= {small.index: small.content, large.index: large.content}
    stall = Stall(1 << 20)
    upstream.script(large.index, stall)
    keys = [published.key for published in (small, large, old)]
    manifest = "".join(f"{key.name},{key.id},1\n" for key in keys).encode()
    with serving(tmp_path, upstream=upstream.url) as served, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(post, served, manifest, {"X-Symcache": "warm"})
        stall.reached.wait()

        def downloads() -> list[dict[str, object]]:
            told: list[dict[str, object]] = json.loads(fetch(served.port, "-/status").body)["downloads"]
            return [download for download in told if download["whole_bytes"]]

        wait_for(lambda: any(download["index"] == large.index for download in downloads()))
        (download,) = (each for each in downloads() if each["index"] == large.index)
        assert (download["size_bytes"], download["readers"]) == (len(large.content), 0)
        assert str(download["upstream"]).startswith(upstream.url)
        stall.release()
        answer.result()
        assert downloads() == []
        counted = counts(served)
        status = json.loads(fetch(served.port, "-/status").body)
    assert counted["symcache_upstream_bytes_total"] == len(small.content) + len(large.content)
    assert status["fetched_bytes"] == len(small.content) + len(large.content)
    assert counted['symcache_upstream_fetches_total{end="fetched"}'] == 2
    assert counted['symcache_upstream_fetches_total{end="not-published"}'] == 1
    assert counted["symcache_upstream_seconds_count"] == 3
    assert counted["symcache_upstream_in_flight"] == 0


def test_what_is_on_its_way_is_told(tmp_path: Path, upstream: Upstream, large: Published) -> None:
    upstream.files[large.index] = large.content
    stall = Stall(1 << 20)
    upstream.script(large.index, stall)
    with serving(tmp_path, upstream=upstream.url) as served, Client(served.port) as client:
        client.send(f"GET /{large.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        stall.reached.wait()

        def downloads() -> list[dict[str, object]]:
            told: list[dict[str, object]] = json.loads(fetch(served.port, "-/status").body)["downloads"]
            return told

        wait_for(lambda: bool(downloads() and downloads()[0]["whole_bytes"]))
        (download,) = downloads()
        assert (download["index"], download["size_bytes"], download["readers"]) == (large.index, len(large.content), 1)
        assert counts(served)["symcache_upstream_in_flight"] == 1
        stall.release()
        assert client.read().body == large.content


def test_the_access_log_has_a_line_of_json_for_each_request_and_no_secret(tmp_path: Path, small: Published) -> None:
    put(tmp_path / "store", small)
    log = tmp_path / "access.log"
    tokens = (hash_token(TOKEN),)
    with serving(tmp_path, access_log=str(log), tokens=tokens, trusted_proxies=("127.0.0.0/8",)) as served:
        fields = {**bearer(TOKEN), "User-Agent": 'x"\n y'.replace("\n", ""), "X-Forwarded-For": "10.9.9.9, 10.1.2.3"}
        fetch(served.port, f"{small.index}?token=secret", fields)
        fetch(served.port, small.index, {"X-Forwarded-For": "nonsense"})
    entries = [json.loads(line) for line in log.read_text().splitlines()]
    kinds = [(entry["client"], entry["status"], entry["bytes"], entry["answer"]) for entry in entries]
    assert kinds == [
        ("10.1.2.3", 200, len(small.content), "hit"),
        ("127.0.0.1", 401, len(b"credentials are needed\n"), "unauthorized"),
    ]
    assert TOKEN not in log.read_text()
    assert "secret" not in log.read_text()


def test_without_trusted_proxies_nobody_names_another_client(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    with serving(tmp_path, access_log=str(log)) as served:
        fetch(served.port, "x", {"X-Forwarded-For": "10.1.2.3"})
    assert json.loads(log.read_text())["client"] == "127.0.0.1"


def test_only_who_is_known_gets_an_answer(tmp_path: Path, small: Published) -> None:
    put(tmp_path / "store", small)
    users = (f"alice:{hash_password('wonder:land', cost=CHEAP)}",)
    with serving(tmp_path, users=users, tokens=(hash_token(TOKEN),)) as served:
        for right in (basic("alice", "wonder:land"), bearer(TOKEN), basic("alice", "wonder:land")):
            assert fetch(served.port, small.index, right).body == small.content
        wrong = [{}, basic("alice", "x"), basic("bob", "wonder:land"), bearer("x"), {"Authorization": "Basic !"}]
        for fields in wrong:
            answer = fetch(served.port, small.index, fields)
            assert answer.status == 401
            assert answer.fields["www-authenticate"].startswith("Basic ")
        for path in ("", "metrics", "-/status", "index2.txt"):
            assert fetch(served.port, path).status == 401
        assert fetch(served.port, "healthz").status == 200


def test_publishing_is_off_unless_there_are_tokens(tmp_path: Path, small: Published) -> None:
    with serving(tmp_path, tokens=(hash_token(TOKEN),)) as served:
        assert upload(served, small.index, small.content).status == 405


def upload(served: Served, path: str, content: bytes, token: str = TOKEN) -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.request("PUT", f"/{path}", content, bearer(token))
        answer = connection.getresponse()
        answer.body = answer.read()  # type: ignore[attr-defined]
        return answer
    finally:
        connection.close()


def test_what_is_published_is_filed_as_a_transaction_and_served(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.always("*", not_found())
    with serving(tmp_path, upstream=upstream.url, upload_tokens=(hash_token(TOKEN),)) as served:
        assert fetch(served.port, small.index).status == 404
        answer = upload(served, f"{small.index}?product=app&version=1.2&comment=nightly", small.content)
        assert answer.status == 201
        assert fetch(served.port, small.index).body == small.content
        (transaction,) = Admin(Store(served.store)).list_transactions()
        assert (transaction.product, transaction.version, transaction.comment) == ("app", "1.2", "nightly")
        assert list((served.store / ".symcache").rglob("*.part")) == []


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("old.pdb/{id}/old.pdb", TOKEN, 422),
        ("{index}", "wrong", 401),
        ("small.pdb/{id}/small.pd_", TOKEN, 400),
        ("index2.txt", TOKEN, 400),
        ("..%2f/x/y", TOKEN, 400),
    ],
    ids=["wrong file", "wrong token", "cabinet", "mark", "hostile"],
)
def test_what_may_not_be_published_is_not(
    tmp_path: Path, small: Published, old: Published, path: str, token: str, status: int
) -> None:
    with serving(tmp_path, upload_tokens=(hash_token(TOKEN),)) as served:
        where = path.format(index=small.index, id=old.key.id)
        assert upload(served, where, small.content, token).status == status
    assert list((tmp_path / "store").glob("*/*/*.pdb")) == []


def test_an_upload_that_breaks_off_leaves_nothing(tmp_path: Path, small: Published) -> None:
    with serving(tmp_path, upload_tokens=(hash_token(TOKEN),)) as served:
        with Client(served.port) as client:
            head = f"PUT /{small.index} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
            client.send(f"{head}Content-Length: {len(small.content)}\r\n\r\n".encode() + small.content[:5000])
        wait_for(lambda: counts(served).get('symcache_requests_total{answer="left"}') == 1)
        assert [path for path in served.store.rglob("*") if path.suffix in {".part", ".pdb"}] == []


def test_an_upload_that_is_too_long_is_refused(tmp_path: Path, small: Published) -> None:
    tokens, largest = (hash_token(TOKEN),), 1 << 20
    with (
        serving(tmp_path, upload_tokens=tokens, network__largest_file_bytes=largest) as served,
        Client(served.port) as client,
    ):
        head = f"PUT /{small.index} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n"
        assert client.ask(f"{head}Content-Length: {2 << 20}\r\n\r\n".encode()).status == 413


def test_more_requests_than_allowed_are_told_to_come_back(tmp_path: Path, upstream: Upstream, small: Published) -> None:
    upstream.files[small.index] = small.content
    stall = Stall()
    upstream.script(small.index, stall)
    with serving(tmp_path, upstream=upstream.url, connections=1) as served, Client(served.port) as client:
        client.send(f"GET /{small.index} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        upstream.await_requests(1)
        answer = fetch(served.port, "index2.txt")
        assert (answer.status, answer.fields["retry-after"]) == (503, "2")
        stall.release()
        assert client.read().body == small.content


def test_https_by_certificate_files(tmp_path: Path, small: Published) -> None:
    pytest.importorskip("trustme", reason="trustme is not installed")
    import ssl  # noqa: PLC0415

    import trustme  # noqa: PLC0415

    put(tmp_path / "store", small)
    authority = trustme.CA()
    pem = tmp_path / "server.pem"
    authority.issue_cert("127.0.0.1").private_key_and_cert_chain_pem.write_to_path(pem)
    context = ssl.create_default_context()
    authority.configure_trust(context)
    with serving(tmp_path, certificate=pem) as served:
        connection = http.client.HTTPSConnection("127.0.0.1", served.port, context=context, timeout=30)
        connection.request("GET", f"/{small.index}")
        assert connection.getresponse().read() == small.content
        connection.close()


def test_a_certificate_that_cannot_be_used_is_said_before_anything_starts(tmp_path: Path) -> None:
    (tmp_path / "x.pem").write_text("no certificate")
    file = tmp_path / "symcache.toml"
    file.write_text(f"[serve]\nport = 0\ncertificate = '{tmp_path / 'x.pem'}'\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="certificate"):
        listen(load_config(file, {}))


def test_a_port_that_is_taken_is_said_in_one_line(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        file = tmp_path / "symcache.toml"
        file.write_text(f"[serve]\nport = {served.port}\n", encoding="utf-8")
        with pytest.raises(UsageError, match=f"cannot listen on 127.0.0.1, port {served.port}"):
            listen(load_config(file, {}))


def test_warming_wants_a_field_that_other_sites_cannot_send(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        assert post(served, b"x", {}).status == 400
    with serving(tmp_path, warm_from_page=False) as served:
        assert post(served, b"x", {"X-Symcache": "warm"}).status == 404
    with serving(tmp_path, largest_input_bytes=10) as served:
        assert post(served, b"x" * 11, {"X-Symcache": "warm"}).status == 413


def post(served: Served, body: bytes, fields: dict[str, str], query: str = "") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
    try:
        connection.request("POST", f"/-/warm{query}", body, fields)
        answer = connection.getresponse()
        answer.body = answer.read()  # type: ignore[attr-defined]
        return answer
    finally:
        connection.close()


def test_warming_reports_line_by_line_and_names_no_place_of_this_machine(
    tmp_path: Path, upstream: Upstream, small: Published, old: Published
) -> None:
    upstream.files[small.index] = small.content
    with serving(tmp_path, upstream=upstream.url) as served:
        manifest = f"{small.key.name},{small.key.id},1\n{old.key.name},{old.key.id},1\n".encode()
        answer = post(served, manifest, {"X-Symcache": "warm"})
        body: bytes = answer.body  # type: ignore[attr-defined]
    events = [json.loads(line) for line in body.splitlines()]
    assert {event["event"] for event in events} == {"planned", "settled", "report"}
    summary = events[-1]["report"]["summary"]
    assert (summary["fetched"], summary["missing"]) == (1, 1)
    assert str(tmp_path).encode() not in body


def test_an_archive_is_read_as_on_the_command_line_and_within_bounds_of_its_own(
    tmp_path: Path, upstream: Upstream, small: Published, old: Published
) -> None:
    upstream.files[small.index] = small.content
    image = disk_bytes(plan_image(IMAGE_KEY, old.key))
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("d/list.txt", f"{small.key.name},{small.key.id},1\n")
        archive.writestr("old.dll", image)
        archive.writestr("secret.7z", b"7z\xbc\xaf\x27\x1c")
        archive.writestr("large.dll", image + bytes(8 << 20))
    with serving(tmp_path, upstream=upstream.url) as served:
        answer = post(served, file.getvalue(), {"X-Symcache": "warm"})
        body: bytes = answer.body  # type: ignore[attr-defined]
    report = events_of(answer)[-1]["report"]
    assert {symbol["state"] for symbol in report["symbols"]} == {"missing", "fetched"}
    assert [each["path"] for each in report["inputs"]] == ["input", "input/d/list.txt"]
    assert [each["path"] for each in report["unreadable"]] == ["input/secret.7z"]
    assert b"symcache-" not in body
    with serving(tmp_path, upstream=upstream.url, largest_expanded_bytes=1 << 20) as served:
        report = events_of(post(served, file.getvalue(), {"X-Symcache": "warm"}))[-1]["report"]
    assert "expands to more than 1048576 bytes" in report["unreadable"][-1]["problem"]


def events_of(answer: http.client.HTTPResponse) -> list[dict[str, Any]]:
    body: bytes = answer.body  # type: ignore[attr-defined]
    return [json.loads(line) for line in body.splitlines()]


def test_the_report_puts_trouble_first_and_says_what_the_other_forms_say(
    tmp_path: Path, upstream: Upstream, small: Published, old: Published
) -> None:
    upstream.files[small.index] = small.content
    with serving(tmp_path, upstream=upstream.url) as served:
        manifest = f"{small.key.name},{small.key.id},1\n{old.key.name},{old.key.id},1\n".encode()
        report = events_of(post(served, manifest, {"X-Symcache": "warm"}))[-1]["report"]
    assert [symbol["state"] for symbol in report["symbols"]] == ["missing", "fetched"]
    assert report["symbols"][0]["why"] == f"not-published; {upstream.url}: 404"
    (group,) = report["groups"]
    assert (group["title"], group["files"]) == ("missing: not-published", 1)
    assert group["advice"] == "no server of the symbol path has it; ask its maker, or add a server that does"
    assert report["text"].startswith("2 wanted: 0 present, 1 fetched")


def test_the_report_comes_in_each_form_that_is_asked_for_and_in_no_other(
    tmp_path: Path, upstream: Upstream, small: Published, old: Published
) -> None:
    upstream.files[small.index] = small.content
    image = disk_bytes(plan_image(IMAGE_KEY, old.key))
    with serving(tmp_path, upstream=upstream.url) as served:
        manifest = f"{small.key.name},{small.key.id},1\n{old.key.name},{old.key.id},1\n".encode()
        for body in (manifest, image):
            query = f"?forms={','.join(suffix[1:] for suffix in SUFFIXES)},exe"
            events = events_of(post(served, body, {"X-Symcache": "warm"}, query))
            forms = {event["suffix"]: event["text"] for event in events if event["event"] == "form"}
            assert list(forms) == list(SUFFIXES)
            for text in forms.values():
                assert old.index in text.replace("<wbr>", "") or f"{old.key.name}\n" in text
            # Neither the store nor the scratch folder that the input lay in.
            assert str(tmp_path) not in json.dumps(events)
            assert "symcache-" not in json.dumps(events)
        few = events_of(post(served, manifest, {"X-Symcache": "warm"}, "?forms=csv"))
    assert [event["suffix"] for event in few if event["event"] == "form"] == [".csv"]


def test_no_program_is_run_for_what_strangers_send(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("symcache.inputs.wimlib.find_program", lambda: asked.append("wimlib-imagex"))
    esd = bytearray(build_wim(WimPlan({"One": {"x.sys": b"MZ"}})))
    esd[12:16] = b"\x00\x0e\0\0"  # solid
    with serving(tmp_path) as served:
        events = events_of(post(served, bytes(esd), {"X-Symcache": "warm"}))
    (report,) = [event["report"] for event in events if event["event"] == "report"]
    assert "compressed with LZMS (an ESD), which is not read" in report["unreadable"][0]["problem"]
    assert asked == []


def test_a_form_that_is_too_long_is_not_sent(tmp_path: Path, small: Published, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pages, "_LONGEST_FORM", 200)
    put(tmp_path / "store", small)
    with serving(tmp_path) as served:
        manifest = f"{small.key.name},{small.key.id},1\n".encode()
        events = events_of(post(served, manifest, {"X-Symcache": "warm"}, "?forms=html,md"))
    texts = {event["suffix"]: event["text"] for event in events if event["event"] == "form"}
    assert texts[".html"] is None
    assert texts[".md"] is not None


def test_trouble_with_the_servers_disk_names_no_place_of_it(
    tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.files[small.index] = small.content
    with serving(tmp_path, upstream=upstream.url) as served:
        (tmp_path / "store").mkdir(exist_ok=True)
        (tmp_path / "store" / small.key.name).write_bytes(b"where a folder has to be")
        manifest = f"{small.key.name},{small.key.id},1\n".encode()
        events = events_of(post(served, manifest, {"X-Symcache": "warm"}, "?forms=txt"))
    assert events[-2]["report"]["symbols"][0]["cause"] == "disk"
    assert str(tmp_path) not in json.dumps(events)


def test_a_file_of_the_store_with_other_bytes_than_a_lock_file_states_is_not_named_by_its_place(
    tmp_path: Path, small: Published
) -> None:
    put(tmp_path / "store", small)
    locked = LockedFile("small.sys", "pdb", small.key, size_bytes=len(small.content), sha256="0" * 64)
    with serving(tmp_path) as served:
        body = "".join(f"{line}\n" for line in lock_lines([locked])).encode()
        events = events_of(post(served, body, {"X-Symcache": "warm"}, "?forms=txt,json,html,csv"))
    (symbol,) = next(event["report"]["symbols"] for event in events if event["event"] == "report")
    assert (symbol["hint"], "0" * 64 in symbol["detail"]) == ("other-bytes", True)
    assert str(tmp_path) not in json.dumps(events)


def test_trouble_with_the_store_names_no_place_of_this_machine(
    tmp_path: Path, upstream: Upstream, small: Published, old: Published
) -> None:
    upstream.files[old.index] = old.content
    with serving(tmp_path, upstream=upstream.url, upload_tokens=(hash_token(TOKEN),)) as served:
        staging = served.store / ".symcache/staging"
        staging.parent.mkdir(parents=True, exist_ok=True)
        staging.touch()
        for path, fields, method, body in [
            (small.index, bearer(TOKEN), "PUT", small.content),
            ("-/warm", {"X-Symcache": "1"}, "POST", f"{old.key.name},{old.key.id},1\n".encode()),
            (old.index, {}, "GET", b""),
        ]:
            connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)
            connection.request(method, f"/{path}", body, fields)
            said = connection.getresponse().read()
            connection.close()
            assert said
            assert str(tmp_path).encode() not in said, method


def test_an_input_that_cannot_be_read_is_said(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        answer = post(served, bytes(range(256)) * 8, {"X-Symcache": "warm"})
        body: bytes = answer.body  # type: ignore[attr-defined]
    said = json.loads(body.splitlines()[-1])
    assert said["event"] in {"failed", "report"}
    assert "symcache-" not in body.decode()


def test_search_by_name_id_and_guid(tmp_path: Path, small: Published, old: Published) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path) as served:
        for text in ("small", "SMALL.pdb", small.key.guid.hex, f"%7B{small.key.guid}%7D", f"small%20{small.key.id}"):
            found = json.loads(fetch(served.port, f"-/search?q={text}").body)
            assert [file["index"] for file in found["files"]] == [small.index], text
        assert json.loads(fetch(served.port, "-/search?q=nothing").body)["files"] == []
        assert json.loads(fetch(served.port, "-/search?q=").body)["files"] == []


def test_the_least_recently_used_files_go_when_the_store_is_too_large(tmp_path: Path) -> None:
    published = [publish(f"{number}.pdb", number, payload_bytes=100_000) for number in range(5)]
    for each in published:
        put(tmp_path / "store", each)
    limit = len(published[0].content) * 2
    with serving(tmp_path, largest_store_bytes=limit, prune_every_s=0.1) as served:
        paths = [served.store / each.index for each in published]
        wait_for(lambda: sum(path.exists() for path in paths) == 2)


def test_a_damaged_file_is_found_and_put_aside(tmp_path: Path, small: Published, old: Published) -> None:
    put(tmp_path / "store", small)
    damaged = put(tmp_path / "store", old)
    damaged.write_bytes(b"damaged")
    with serving(tmp_path, verify_every_s=0.1) as served:
        wait_for(lambda: not damaged.exists())
        assert fetch(served.port, small.index).body == small.content


def test_the_store_is_measured(tmp_path: Path, small: Published) -> None:
    put(tmp_path / "store", small)
    with serving(tmp_path) as served:
        wait_for(lambda: "symcache_store_bytes" in counts(served))
        assert counts(served)["symcache_store_bytes"] == len(small.content)
        assert json.loads(fetch(served.port, "-/status").body)["store"]["keys"] == 1


def test_what_is_missing_most_comes_first_with_since_when(
    tmp_path: Path, upstream: Upstream, small: Published, old: Published
) -> None:
    upstream.always("*", not_found())
    with serving(tmp_path, upstream=upstream.url) as served:
        before_s = time.time()
        for index in (small.index, old.index, old.index):
            fetch(served.port, index)
        missing = json.loads(fetch(served.port, "-/status").body)["missing"]
    assert [(row["index"], row["times"]) for row in missing] == [(old.index, 2), (small.index, 1)]
    assert all(before_s - 1 <= row["since_s"] <= time.time() for row in missing)


def test_what_is_missing_has_its_maker_and_advice_and_no_name_of_an_input(tmp_path: Path, upstream: Upstream) -> None:
    upstream.always("*", not_found())
    driver, tool = publish("nvlddmkm.pdb", 7), publish("tool.pdb", 8)
    with serving(tmp_path, upstream=upstream.url) as served:
        for index in (driver.index, driver.index, tool.index):
            fetch(served.port, index)
        wanted = Wanted("tool.exe", "Contoso Ltd.", Hint.THIRD_PARTY, ("secret.dmp",))
        with Misses(tmp_path / "misses", ttl_s=3600) as misses:
            misses.note_wanted(upstream.url, tool.key, wanted)
        post(served, driver.index.encode(), {"X-Symcache": "warm"})
        status = fetch(served.port, "-/status").body
        (found,) = json.loads(fetch(served.port, "-/search?q=tool").body)["missing"]
        with Misses(tmp_path / "misses", ttl_s=3600) as misses:
            names = {name for miss in misses.list() if miss.wanted is not None for name in miss.wanted.inputs}
    first, second = json.loads(status)["missing"]
    assert (first["index"], first["maker"], first["cause"]) == (
        driver.index,
        "NVIDIA Corporation, by its name",
        "not-published",
    )
    assert first["advice"].startswith("not Microsoft's; its maker may have a server")
    assert second == found
    assert second["maker"] == "Contoso Ltd."
    assert b"secret" not in status
    assert names == {"secret.dmp"}  # inputs of the page are nobody's business


def test_the_maker_of_what_is_missing_is_taken_from_an_image_in_the_store(tmp_path: Path, upstream: Upstream) -> None:
    upstream.always("*", not_found())
    tool = publish("tool.pdb", 8)
    version = version_bytes(VersionPlan({"040904b0": {"CompanyName": "Contoso Ltd."}}))
    image = tmp_path / "store" / IMAGE_KEY.index
    image.parent.mkdir(parents=True)
    image.write_bytes(disk_bytes(dataclasses.replace(plan_image(IMAGE_KEY, tool.key), versions=((1, 0x409, version),))))
    StoreLinks(tmp_path / "store").remember(IMAGE_KEY, [Link(tool.key)])
    with serving(tmp_path, upstream=upstream.url) as served:
        fetch(served.port, tool.index)
        for _ in range(2):  # read, and known from then on
            (row,) = json.loads(fetch(served.port, "-/status").body)["missing"]
            assert row["maker"] == "Contoso Ltd. 1.2.3.4"


def test_what_a_later_server_or_a_store_has_is_not_among_the_missing(
    tmp_path: Path, upstream: Upstream, small: Published, old: Published
) -> None:
    gone = publish("gone.pdb", 9)
    upstream.always("*", not_found())
    with Upstream() as second:
        second.files[small.index] = small.content
        path = ";".join(f"srv*{tmp_path / 'store'}*{server.url}" for server in (upstream, second))
        for _ in range(2):  # counted in this run, then remembered from the one before
            with serving(tmp_path, path) as served:
                for index in (small.index, old.index, gone.index):
                    fetch(served.port, index)
                put(tmp_path / "store", old)
                missing = json.loads(fetch(served.port, "-/status").body)["missing"]
                found = json.loads(fetch(served.port, "-/search?q=pdb").body)["missing"]
            assert [row["index"] for row in missing] == [gone.index]
            assert [row["index"] for row in found] == [gone.index]
            with Misses(tmp_path / "misses", ttl_s=3600) as misses:
                assert {miss.index for miss in misses.list()} == {small.index, old.index, gone.index}


@pytest.mark.parametrize(
    "content",
    [
        "[" * 100_000,
        "[1]",
        '{"bytes": "1\\nx 1", "run": "RUN", "hit": "x"}',
        '[{"t": "x", "hit": []}, {"hit": 1e999}]',
        json.dumps(Metrics().as_json([]) | {"answers": {"hit": "x"}}),
        json.dumps(Metrics().as_json([]) | {"fetch_s": "x"}),
    ],
    ids=["brackets", "numbers", "texts", "samples", "a counter of texts", "a text for a sum"],
)
def test_what_others_put_beside_the_counts_of_workers_stops_no_page(tmp_path: Path, content: str) -> None:
    with serving(tmp_path) as served:
        folder = served.store / ".symcache" / "serve"
        wait_for(lambda: any(folder.glob("*-*.json")))
        run = next(folder.glob("*-*.json")).name.partition("-")[0]
        for name in (f"{run}-0.json", "store", "samples", "counted"):
            (folder / name).write_text(content.replace("RUN", run))
        assert set(counts(served)) > {"symcache_workers"}
        assert fetch(served.port, "-/status").status == 200


@wine_lacks("broken writes")
def test_a_client_that_leaves_before_the_first_of_several_answers_is_whole_holds_no_place(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    big = publish("big.pdb", 7, payload_bytes=16 << 20)
    put(tmp_path / "store", big)
    with serving(tmp_path) as served:
        with Client(served.port, receive_bytes=4096) as client:
            client.send(f"GET /{big.index} HTTP/1.1\r\nHost: h\r\n\r\n".encode() * 2)
            assert client.read_head()[0] == 200
        wait_for(lambda: counts(served)["symcache_requests_in_flight"] == 1)  # the one that asks
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
