"""One bucket through obstore: what is in it, what goes wrong, and what is said of that."""

from __future__ import annotations

import hashlib
import os
import re
import threading
import traceback
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
from support.answers import Stall, status
from support.bounds import measure
from support.buckets import SECRETS
from support.faultrelay import Fault, FaultRelay
from support.wire import closed_port

from symcache.config import BucketEntry, Network
from symcache.errors import (
    ConfigError,
    Forbidden,
    TruncatedInput,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path
    from typing import Any

    from conftest import MakeUpstream
    from support.answers import Header
    from support.authority import Authority
    from support.buckets import Bucket
    from support.upstream import Exchange

    OpenBucket = Callable[..., "objects.Bucket"]

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
from symcache.stores.bucket import objects  # noqa: E402 - where obstore is not, there are no tests

MIB = 1 << 20
NAME = "app.pdb/7578144C39C4468394EF84F01549113A3/app.pdb"
CONTENT = bytes(range(256)) * 40
CLOUDS = ("s3_bucket", "azure_bucket", "google_bucket")
BUCKETS = (*CLOUDS, "plain_s3_bucket")
ODD_NAMES = (
    "a b/1/a b",
    "100%/1/100%41",
    "c#.pdb/1/c#.pdb",
    "a+b/1/a+b",
    "größe.pdb/1/größe.pdb",
    "~x/1/~x",
    "x[1]{2}.dll/1/x[1]{2}.dll",
    "a&b=c;d/1/a'b(c)!",
    "NoSuchBucket.pdb/1/ContainerNotFound.pdb",
    "computeMetadata/1/computeMetadata",
)


@pytest.fixture(params=BUCKETS)
def bucket(request: pytest.FixtureRequest) -> Bucket:
    found: Bucket = request.getfixturevalue(request.param)
    return found


@pytest.fixture(params=CLOUDS)
def cloud(request: pytest.FixtureRequest) -> Bucket:
    """A bucket of a server that keeps names."""
    found: Bucket = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    return path


def content_of(bucket: Bucket, name: str = NAME) -> bytes:
    data: bytes = obstore.get(bucket.open(), name).bytes().to_bytes()
    return data


class TestWhatIsThere:
    def test_a_file_is_found_and_read_under_its_name(self, bucket: Bucket, file: Path, opened: OpenBucket) -> None:
        ours = opened(bucket)
        for name in (NAME, *ODD_NAMES):
            assert ours.find(name) is None
            assert ours.read(name, 0, 9) is None
            assert ours.put(name, file)
            found = ours.find(name)
            assert found is not None
            assert (found.name, found.size_bytes) == (name, len(CONTENT))
            got = ours.read(name, 250, 300)
            assert got is not None
            assert got[0] == CONTENT[250:300]
            assert got[1].sha256 == hashlib.sha256(CONTENT).hexdigest()
            assert (got[1].tag, got[1].modified_s) == (found.tag, found.modified_s)
        names = {info.name: info.size_bytes for info in ours.list()}
        assert names == {**dict.fromkeys((NAME, *ODD_NAMES), len(CONTENT)), "pingme.txt": 0}

    def test_a_part_ends_where_the_file_does(self, bucket: Bucket, file: Path, opened: OpenBucket) -> None:
        ours = opened(bucket)
        ours.put(NAME, file)
        got = ours.read(NAME, 0, MIB)
        assert got is not None
        assert got[0] == CONTENT

    def test_an_empty_object_is_none(self, bucket: Bucket, opened: OpenBucket) -> None:
        obstore.put(bucket.open(), NAME, b"")
        ours = opened(bucket)
        assert ours.find(NAME) is None
        assert ours.read(NAME, 0, 9) is None
        assert ours.open(NAME) is None

    def test_a_hash_that_is_none_is_not_taken_for_one(self, cloud: Bucket, opened: OpenBucket) -> None:
        obstore.put(cloud.open(), NAME, CONTENT, attributes={"sha256": "x" * 64})
        got = opened(cloud).read(NAME, 0, 9)
        assert got is not None
        assert got[1].sha256 is None

    @pytest.mark.parametrize("name", ["../x", "a//b", "a/./b", "a\0b", "a\ud800"])
    def test_a_name_that_no_bucket_takes_is_refused(self, name: str, s3_bucket: Bucket, opened: OpenBucket) -> None:
        with pytest.raises(UpstreamRefused, match="a name that buckets do not take"):
            opened(s3_bucket).read(name, 0, 9)

    def test_a_list_is_of_all_or_of_what_lies_under_a_name(
        self, bucket: Bucket, file: Path, opened: OpenBucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "_PAGE_OBJECTS", 2)
        ours = opened(bucket)
        names = ["a/1/a", "a/2/a", "ab/1/ab", "b/1/b"]
        for name in names:
            ours.put(name, file)
        assert [info.name for info in ours.list()] == [*names, "pingme.txt"]
        assert [info.name for info in ours.list("a")] == names[:2]
        assert list(ours.list("c")) == []

    def test_what_is_removed_may_have_gone_before(self, bucket: Bucket, file: Path, opened: OpenBucket) -> None:
        ours = opened(bucket)
        names = [f"{number}/1/{number}" for number in range(8)]
        for name in names[1::2]:
            ours.put(name, file)
        ours.delete(names[:6])
        ours.delete([])
        assert [info.name for info in ours.list() if info.size_bytes] == names[7:]

    def test_a_file_that_is_moved_keeps_its_bytes(self, bucket: Bucket, file: Path, opened: OpenBucket) -> None:
        ours = opened(bucket)
        ours.put(NAME, file)
        ours.move(NAME, "other/1/other")
        assert ours.find(NAME) is None
        assert content_of(bucket, "other/1/other") == CONTENT

    def test_a_signed_url_is_all_that_a_client_needs(self, bucket: Bucket, file: Path, opened: OpenBucket) -> None:
        ours = opened(bucket)
        ours.put(NAME, file)
        with FaultRelay(bucket.server.url) as relay:
            url = opened(bucket, relay.url).sign(NAME, valid_s=60)
            assert relay.requests == []  # nothing is asked for it
            with urlopen(ours.sign(NAME, valid_s=60), timeout=20) as answer:
                assert answer.read() == CONTENT
        assert url.startswith(relay.url)

    def test_nothing_is_signed_without_credentials(self, cloud: Bucket, opened: OpenBucket) -> None:
        with pytest.raises(UpstreamRefused, match="no URL can be signed"):
            opened(cloud, anonymous=True).sign(NAME, valid_s=60)


class TestPut:
    def test_a_file_that_is_there_stays(self, bucket: Bucket, file: Path, opened: OpenBucket) -> None:
        assert opened(bucket).put(NAME, file)
        file.write_bytes(b"another")
        assert not opened(bucket).put(NAME, file)
        assert content_of(bucket) == CONTENT

    def test_it_takes_one_request_where_the_server_keeps_names(
        self, cloud: Bucket, file: Path, opened: OpenBucket
    ) -> None:
        with FaultRelay(cloud.server.url) as relay:
            ours = opened(cloud, relay.url)
            ours.put(NAME, file)
            relay.forget()
            assert ours.put("other/1/other", file)
            assert not ours.put("other/1/other", file)
            assert [each.method for each in relay.requests] == ["PUT"] * 2

    def test_a_server_that_replaces_names_is_found_out_and_asked_first(
        self, plain_s3_bucket: Bucket, file: Path, opened: OpenBucket
    ) -> None:
        with FaultRelay(plain_s3_bucket.server.url) as relay:
            ours = opened(plain_s3_bucket, relay.url)
            assert not ours.keeps_names()
            marks = [(each.method, each.path.rpartition("/")[2]) for each in relay.requests]
            assert marks == [("PUT", "pingme.txt")] * 2
            ours.put(NAME, file)
            relay.forget()
            file.write_bytes(b"another")
            assert not ours.put(NAME, file)
            assert [each.method for each in relay.requests] == ["HEAD"]
        assert content_of(plain_s3_bucket) == CONTENT

    @pytest.mark.parametrize("is_known", [False, True], ids=["new bucket", "known bucket"])
    def test_a_server_that_does_not_know_the_question_gets_the_file(
        self, is_known: bool, s3_bucket: Bucket, file: Path, opened: OpenBucket, no_retries: None, upstream: Any
    ) -> None:
        stored: dict[str, bool] = {NAME: is_known}

        def answer(exchange: Exchange) -> None:
            name = exchange.request.path.split("/", 2)[2]
            if exchange.request.method == "PUT" and "if-none-match" in exchange.request.headers:
                return status(501)(exchange)
            if exchange.request.method == "PUT":
                stored[name] = True
                return status(200, headers=[("ETag", '"x"')])(exchange)
            return status(200, headers=_fields(5))(exchange) if stored.get(name) else status(404)(exchange)

        upstream.always("*", answer)
        ours = opened(s3_bucket, upstream.url)
        assert ours.put(NAME, file) is not is_known
        assert stored[NAME]

    def test_of_sixteen_who_write_at_once_one_does(self, bucket: Bucket, tmp_path: Path, opened: OpenBucket) -> None:
        files = [tmp_path / f"{number}" for number in range(16)]
        for number, path in enumerate(files):
            path.write_bytes(bytes([number]) * 50_000)
        buckets = [opened(bucket) for _ in files]
        barrier = threading.Barrier(len(files))

        def put(number: int) -> bool:
            buckets[number].keeps_names()
            barrier.wait(60)
            return buckets[number].put(NAME, files[number])

        with ThreadPoolExecutor(len(files)) as pool:
            done = list(pool.map(put, range(len(files))))
        left = content_of(bucket)
        assert left == left[:1] * 50_000
        assert done[left[0]]
        if bucket.server.creates_once:
            assert sum(done) == 1

    def test_a_large_file_goes_in_parts_and_leaves_alone_what_is_there(
        self, bucket: Bucket, tmp_path: Path, opened: OpenBucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "_WHOLE_BYTES", MIB)
        monkeypatch.setattr(objects, "_PART_BYTES", 5 * MIB)
        file = tmp_path / "large"
        file.write_bytes(os.urandom(12 * MIB))
        with FaultRelay(bucket.server.url) as relay:
            ours = opened(bucket, relay.url)
            assert ours.put(NAME, file)
            sent = [int(each.headers["content-length"]) for each in relay.requests if each.method == "PUT"]
            assert sorted(sent)[-3:] == [2 * MIB, 5 * MIB, 5 * MIB]
            relay.forget()
            assert not ours.put(NAME, file)
            assert [each.method for each in relay.requests] == ["HEAD"]
        got = opened(bucket).read(NAME, 0, 9)
        assert got is not None
        assert (got[1].size_bytes, got[1].sha256) == (12 * MIB, hashlib.sha256(file.read_bytes()).hexdigest())
        assert content_of(bucket) == file.read_bytes()

    def test_parts_of_which_one_fails_leave_nothing_to_be_seen(
        self, bucket: Bucket, tmp_path: Path, opened: OpenBucket, monkeypatch: pytest.MonkeyPatch, no_retries: None
    ) -> None:
        monkeypatch.setattr(objects, "_WHOLE_BYTES", MIB)
        file = tmp_path / "large"
        file.write_bytes(bytes(20 * MIB))
        with FaultRelay(bucket.server.url) as relay:
            ours = opened(bucket, relay.url)
            relay.fault = Fault(methods={"PUT"}, target="partNumber=2|comp=blocklist", status=503)
            with pytest.raises(UpstreamError, match=r"503|405"):  # s3rver cannot give an upload up, and says that
                ours.put(NAME, file)
            relay.fault = None
            assert ours.find(NAME) is None

    def test_the_hash_is_of_the_bytes_that_are_sent(
        self, s3_bucket: Bucket, file: Path, opened: OpenBucket, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        other.write_bytes(b"another publication of the same build")
        with FaultRelay(s3_bucket.server.url) as relay:
            ours = opened(s3_bucket, relay.url)
            ours.keeps_names()
            relay.fault = Fault(methods={"PUT"}, delay_s=60)
            with ThreadPoolExecutor(1) as pool:
                putting = pool.submit(ours.put, NAME, file)
                relay.await_requests(3)
                other.replace(file)
                relay.fault = None
                assert putting.result()
            got = ours.read(NAME, 0, MIB)
        assert got is not None
        assert got[1].sha256 == hashlib.sha256(got[0]).hexdigest()

    def test_a_file_that_has_gone_is_the_callers_to_know(
        self, s3_bucket: Bucket, tmp_path: Path, opened: OpenBucket
    ) -> None:
        with pytest.raises(FileNotFoundError):
            opened(s3_bucket).put(NAME, tmp_path / "none")

    @pytest.mark.parametrize("size_bytes", [5, 3 * MIB], ids=["whole", "in parts"])
    def test_a_404_is_no_success(
        self,
        size_bytes: int,
        cloud: Bucket,
        tmp_path: Path,
        opened: OpenBucket,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        monkeypatch.setattr(objects, "_WHOLE_BYTES", MIB)
        file = tmp_path / "file"
        file.write_bytes(bytes(size_bytes))
        with FaultRelay(cloud.server.url) as relay:
            ours = opened(cloud, relay.url)
            ours.keeps_names()
            relay.fault = Fault(methods={"PUT", "POST"}, status=404)
            with pytest.raises(UpstreamRefused, match="404"):
                ours.put(NAME, file)

    def test_what_a_slow_line_carries_is_waited_for(
        self, cloud: Bucket, file: Path, opened: OpenBucket, monkeypatch: pytest.MonkeyPatch, no_retries: None
    ) -> None:
        monkeypatch.setattr(objects, "_READ_S", 0.2)
        with FaultRelay(cloud.server.url) as relay:
            ours = opened(cloud, relay.url)
            ours._keeps_names = True
            relay.fault = Fault(delay_s=0.6)
            assert ours.put(NAME, file)
            with pytest.raises(UpstreamUnavailable, match="timed out"):
                ours.read(NAME, 0, 9)

    def test_an_upload_that_is_given_up_says_why(
        self, s3_bucket: Bucket, file: Path, opened: OpenBucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(objects, "_SEND_S", 0.2)
        monkeypatch.setattr(objects, "_REQUEST_S", 0.2)
        file.write_bytes(bytes(3 * MIB))  # more than a connection holds, so that the file is in use still
        with FaultRelay(s3_bucket.server.url) as relay:
            ours = opened(s3_bucket, relay.url)
            ours._keeps_names = True
            relay.fault = Fault(silent=True)
            with pytest.raises(UpstreamUnavailable, match="timed out") as given_up:
                ours.put(NAME, file)
            relay.fault = None
            assert given_up.value.timed_out


class TestView:
    def test_it_shows_the_bytes_and_fetches_what_it_lacks(self, bucket: Bucket, opened: OpenBucket) -> None:
        content = os.urandom(6 * MIB + 123)
        obstore.put(bucket.open(), NAME, content)
        with FaultRelay(bucket.server.url) as relay:
            view = opened(bucket, relay.url).open(NAME)
            assert view is not None
            assert view.size == len(content)
            for offset, length in [(0, 64), (100, 60_000), (3 * MIB, 1), (3 * MIB - 70_000, 200_000), (MIB, 0)]:
                assert view.read(offset, length) == content[offset : offset + length]
            assert len(relay.requests) == 3  # the first block, one, and those around it
            assert view.read(10, 5 * MIB) == content[10 : 10 + 5 * MIB]  # more than it keeps
            assert view.read(len(content) - 5, 5) == content[-5:]
            assert len(relay.requests) == 5

    @pytest.mark.parametrize(("offset", "length"), [(-1, 1), (0, 99), (9, 2), (0, -1)])
    def test_what_lies_outside_is_an_error(
        self, offset: int, length: int, s3_bucket: Bucket, opened: OpenBucket
    ) -> None:
        obstore.put(s3_bucket.open(), NAME, b"0123456789")
        view = opened(s3_bucket).open(NAME)
        assert view is not None
        with pytest.raises(TruncatedInput):
            view.read(offset, length)

    @pytest.mark.parametrize("size_bytes", [200_000, 90_000], ids=["same size", "shorter"])
    def test_bytes_of_two_objects_are_never_mixed(self, size_bytes: int, bucket: Bucket, opened: OpenBucket) -> None:
        obstore.put(bucket.open(), NAME, b"1" * 200_000)
        view = opened(bucket).open(NAME)
        assert view is not None
        obstore.put(bucket.open(), NAME, b"2" * size_bytes)
        assert view.read(0, 1000) == b"1" * 1000
        with pytest.raises(UpstreamUnavailable, match="the object was replaced while it was read"):
            view.read(64_000, 20_000)

    def test_an_object_that_goes_meanwhile_is_an_error(self, bucket: Bucket, opened: OpenBucket) -> None:
        obstore.put(bucket.open(), NAME, b"1" * 200_000)
        view = opened(bucket).open(NAME)
        assert view is not None
        obstore.delete(bucket.open(), NAME)
        with pytest.raises(UpstreamUnavailable, match=r"the object was (removed|replaced) while it was read"):
            view.read(64_000, 20_000)


FAULTS = {
    "503": (Fault(status=503), UpstreamUnavailable, "503"),
    "429": (Fault(status=429), UpstreamUnavailable, "429"),
    "400": (Fault(status=400), UpstreamRefused, "400"),
    "401": (Fault(status=401), UpstreamRefused, "401; its credentials"),
    "403": (Fault(status=403), Forbidden, "403; without the right to list"),
    "another region": (Fault(status=301), UpstreamRefused, "it is in another region"),
    "reset": (Fault(), UpstreamUnavailable, "the connection broke"),
    "cut": (Fault(cut_at=1), UpstreamUnavailable, "the connection broke"),
}
CALLS: dict[str, Callable[[objects.Bucket, Path], object]] = {
    "find": lambda bucket, _: bucket.find(NAME),
    "read": lambda bucket, _: bucket.read(NAME, 0, MIB),
    "open": lambda bucket, _: bucket.open(NAME),
    "put": lambda bucket, file: bucket.put("new/1/new", file),
    "list": lambda bucket, _: list(bucket.list()),
    "delete": lambda bucket, _: bucket.delete([NAME]),
    "move": lambda bucket, _: bucket.move(NAME, "other"),
    "keeps_names": lambda bucket, _: bucket.keeps_names(),
}


def shown(error: BaseException) -> str:
    """Return all that a log, a traceback or a debugger's glance at *error* may show."""
    return "\n".join([*traceback.format_exception(error), str(error), repr(error), repr(error.args), repr(vars(error))])


class TestFaults:
    @pytest.mark.parametrize("fault", FAULTS)
    def test_each_call_says_what_is_wrong_and_no_more(
        self, fault: str, cloud: Bucket, file: Path, opened: OpenBucket, no_retries: None
    ) -> None:
        obstore.put(cloud.open(), NAME, CONTENT)
        broken, kind, problem = FAULTS[fault]
        said = []
        with FaultRelay(cloud.server.url) as relay:
            ours = opened(cloud, relay.url)
            relay.fault = broken
            for name, call in CALLS.items():
                if fault == "cut" and name not in {"read", "open", "list"}:
                    continue  # what has no body, or next to none
                with pytest.raises(UpstreamError) as caught:
                    call(ours, file)
                assert type(caught.value) is kind, name
                assert caught.value.problem.startswith(problem), name
                assert caught.value.url == cloud.url
                said.append(shown(caught.value))
        text = "\n".join(said)
        assert "As told" not in text  # the server's words
        assert relay.url not in text
        assert not [secret for secret in SECRETS if secret in text]

    def test_a_panic_of_rust_is_an_error_like_others(
        self, s3_bucket: Bucket, opened: OpenBucket, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        panic = type("PanicException", (BaseException,), {"__module__": "pyo3_runtime"})

        def head(*_: object) -> None:
            raise panic("with a secret")

        monkeypatch.setattr(obstore, "head", head)
        with pytest.raises(UpstreamUnavailable, match="obstore broke down") as raised:
            opened(s3_bucket).find("name")
        assert "secret" not in str(raised.value)

    def test_what_passes_is_asked_again(self, cloud: Bucket, opened: OpenBucket) -> None:
        obstore.put(cloud.open(), NAME, CONTENT)
        with FaultRelay(cloud.server.url) as relay:
            ours = opened(cloud, relay.url)
            relay.fault = Fault(status=503)
            with pytest.raises(UpstreamUnavailable):
                ours.find(NAME)
            assert len(relay.requests) == 3
            relay.fault = None
            assert ours.find(NAME) is not None

    def test_refused_connections_are_no_answer(
        self, cloud: Bucket, file: Path, opened: OpenBucket, no_retries: None
    ) -> None:
        with closed_port() as port:
            ours = opened(cloud, f"http://127.0.0.1:{port}")
            for call in CALLS.values():
                with pytest.raises(UpstreamUnavailable, match="no connection"):
                    call(ours, file)

    def test_silence_has_an_end(
        self, cloud: Bucket, opened: OpenBucket, monkeypatch: pytest.MonkeyPatch, no_retries: None
    ) -> None:
        monkeypatch.setattr(objects, "_READ_S", 0.1)
        with FaultRelay(cloud.server.url) as relay:
            ours = opened(cloud, relay.url)
            relay.fault = Fault(silent=True)
            for name in ("find", "read", "list", "keeps_names"):
                with pytest.raises(UpstreamUnavailable, match="timed out") as caught:
                    CALLS[name](ours, relay)  # type: ignore[arg-type]  # no file is wanted
                assert caught.value.timed_out
            relay.fault = None

    def test_a_body_that_stalls_has_an_end(
        self, s3_bucket: Bucket, opened: OpenBucket, upstream: Any, monkeypatch: pytest.MonkeyPatch, no_retries: None
    ) -> None:
        monkeypatch.setattr(objects, "_READ_S", 0.1)
        stall = Stall(after=1000)
        upstream.files[f"{s3_bucket.name}/{NAME}"] = CONTENT
        upstream.always("*", stall)
        with pytest.raises(UpstreamUnavailable, match=r"timed out|the connection broke"):
            opened(s3_bucket, upstream.url).read(NAME, 0, 5000)
        assert stall.reached.is_set()

    def test_a_bucket_that_is_not_there_is_refused(self, bucket: Bucket, file: Path, enter: Callable[..., str]) -> None:
        enter(bucket)
        ours = objects.Bucket(f"{bucket.server.scheme}://nowhere", None, Network(proxy=""))
        for name, call in CALLS.items():
            if name == "delete":
                continue  # Azure answers as for an object that is not there
            with pytest.raises(UpstreamRefused, match="there is no such bucket"):
                call(ours, file)

    def test_wrong_credentials_are_not_shown(
        self, azure_bucket: Bucket, file: Path, enter: Callable[..., str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        enter(azure_bucket)
        monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_KEY", "c3ltY2FjaGUtb3RoZXI=")
        ours = objects.Bucket(azure_bucket.url, None, Network(proxy=""))
        for call in CALLS.values():
            with pytest.raises(Forbidden) as caught:
                call(ours, file)
            assert "AuthorizationFailure" not in shown(caught.value)
            assert "c3ltY2FjaGUtb3RoZXI" not in shown(caught.value)

    @pytest.mark.parametrize(
        "body",
        [
            "<Error><Code>SignatureDoesNotMatch</Code><StringToSign>{0}</StringToSign></Error>",
            "{0}",
        ],
        ids=["as S3 writes it", "text"],
    )
    @pytest.mark.parametrize("code", [400, 403, 404, 409, 500])
    def test_a_servers_words_are_not_repeated(
        self, code: int, body: str, s3_bucket: Bucket, file: Path, opened: OpenBucket, no_retries: None, upstream: Any
    ) -> None:
        upstream.always("*", status(code, body.format(SECRETS[0]).encode()))
        ours = opened(s3_bucket, upstream.url)
        said: list[UpstreamError] = []
        for call in CALLS.values():
            try:
                call(ours, file)
            except UpstreamError as error:
                said.append(error)
        assert len(said) >= {404: 3, 409: 6}.get(code, len(CALLS))
        assert SECRETS[0] not in "".join(map(shown, said))
        assert "\n" not in "".join(map(str, said))

    def test_an_object_that_may_not_be_removed_is_an_error(
        self, s3_bucket: Bucket, opened: OpenBucket, upstream: Any, no_retries: None
    ) -> None:
        kept = f"<Error><Key>b</Key><Code>AccessDenied</Code><Message>{SECRETS[0]}</Message></Error>"
        upstream.always(
            "*", status(200, f"<DeleteResult><Deleted><Key>a</Key></Deleted>{kept}</DeleteResult>".encode())
        )
        with pytest.raises(Forbidden) as caught:
            opened(s3_bucket, upstream.url).delete(["a", "b"])
        assert SECRETS[0] not in shown(caught.value)

    def test_a_server_without_ranges_is_refused(self, s3_bucket: Bucket, opened: OpenBucket, upstream: Any) -> None:
        upstream.always("*", status(200, CONTENT, headers=_fields()))
        with pytest.raises(UpstreamRefused, match="it does not send parts of objects"):
            opened(s3_bucket, upstream.url).read(NAME, 0, 100)

    @pytest.mark.parametrize(("sent", "stated"), [(500, 100), (100, 500)], ids=["longer", "shorter"])
    def test_an_answer_is_as_long_as_it_says(
        self, sent: int, stated: int, s3_bucket: Bucket, opened: OpenBucket, upstream: Any, no_retries: None
    ) -> None:
        fields = [*_fields(), ("Content-Range", f"bytes 0-{stated - 1}/{stated}")]
        upstream.always("*", status(206, bytes(sent), headers=fields))
        with pytest.raises(UpstreamUnavailable):
            opened(s3_bucket, upstream.url).read(NAME, 0, 1000)

    def test_what_is_sent_beyond_that_is_not_gathered(
        self, s3_bucket: Bucket, opened: OpenBucket, upstream: Any, no_retries: None
    ) -> None:
        def flood(exchange: Exchange) -> None:
            exchange.head(206, [*_fields(), ("Content-Range", "bytes 0-99/100")], length=300 * MIB)
            for _ in range(300):
                exchange.body(bytes(MIB))

        upstream.always("*", flood)
        ours = opened(s3_bucket, upstream.url)

        def read(_: bytes) -> None:
            with pytest.raises(UpstreamUnavailable, match="not as long as it says"):
                ours.read(NAME, 0, 1000)

        assert measure([b""], read).grown_bytes < 64 * MIB


def _fields(size_bytes: int | None = None) -> Sequence[Header]:
    length = [] if size_bytes is None else [("Content-Length", str(size_bytes))]
    return [("ETag", '"x"'), ("Last-Modified", "Mon, 30 Nov 2026 07:00:00 GMT"), *length]


class TestSettings:
    def test_names_lie_below_the_prefix(self, bucket: Bucket, file: Path, opened: OpenBucket) -> None:
        ours = opened(bucket, prefix="/windows/x64")
        ours.put(NAME, file)
        assert content_of(bucket, f"windows/x64/{NAME}") == CONTENT
        assert [info.name for info in ours.list()] == [NAME, "pingme.txt"]
        assert [info.name for info in ours.list("app.pdb")] == [NAME]
        found = ours.find(NAME)
        assert found is not None
        assert found.name == NAME
        assert opened(bucket).find(NAME) is None
        assert opened(bucket, prefix="/windows/x6").find(NAME) is None

    @pytest.mark.parametrize(
        ("settings", "variables", "is_taken"),
        [
            ({"proxy": ""}, {"http_proxy": "PROXY"}, False),
            ({"proxy": "PROXY"}, {}, True),
            ({"proxy": "PROXY"}, {"no_proxy": "10.0.0.0/8, 127.0.0.1"}, False),
            ({"proxy": "PROXY", "no_proxy": ("127.0.0.1",)}, {}, False),
            ({}, {"http_proxy": "PROXY"}, True),
            ({"no_proxy": ("127.0.0.1",)}, {"http_proxy": "PROXY"}, False),
        ],
    )
    def test_the_proxy_is_the_one_of_servers(
        self,
        settings: dict[str, Any],
        variables: dict[str, str],
        is_taken: bool,
        s3_bucket: Bucket,
        enter: Callable[..., str],
        upstream: Any,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            monkeypatch.delenv(name, raising=False)
            monkeypatch.delenv(name.upper(), raising=False)
        obstore.put(s3_bucket.open(), NAME, CONTENT)
        for name, value in variables.items():
            monkeypatch.setenv(name, value.replace("PROXY", upstream.url))
        if settings.get("proxy"):
            settings = settings | {"proxy": upstream.url}
        found = objects.Bucket(enter(s3_bucket), None, Network(**settings)).find(NAME)
        assert (found is None, bool(upstream.requests)) == (is_taken, is_taken)

    def test_a_public_bucket_needs_no_credentials(
        self, plain_s3_bucket: Bucket, file: Path, monkeypatch: pytest.MonkeyPatch, opened: OpenBucket
    ) -> None:
        opened(plain_s3_bucket).put(NAME, file)
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.delenv(name)
        with FaultRelay(plain_s3_bucket.server.url) as relay:
            entry = BucketEntry(url=plain_s3_bucket.url, anonymous=True, endpoint=relay.url)
            ours = objects.Bucket(plain_s3_bucket.url, entry, Network(proxy=""))
            assert ours.find(NAME) is not None
            assert [each for each in relay.requests if "authorization" in each.headers] == []

    def test_a_public_bucket_is_read_though_the_profile_has_no_keys(
        self, plain_s3_bucket: Bucket, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, upstream: Any
    ) -> None:
        config = tmp_path / "config"
        config.write_text("[profile me]\nsso_session = x\n")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
        monkeypatch.setenv("AWS_PROFILE", "me")
        entry = BucketEntry(url=plain_s3_bucket.url, anonymous=True, endpoint=upstream.url)
        assert objects.Bucket(plain_s3_bucket.url, entry, Network(proxy="")).read(NAME, 0, 9) is None

    def test_uploads_state_their_hash_to_the_server_unless_it_takes_none(
        self, s3_bucket: Bucket, file: Path, opened: OpenBucket
    ) -> None:
        with FaultRelay(s3_bucket.server.url) as relay:
            opened(s3_bucket, relay.url).put(NAME, file)
            assert "x-amz-checksum-sha256" in relay.requests[-1].headers
            opened(s3_bucket, relay.url, checksums=False).put("other/1/other", file)
            assert "x-amz-checksum-sha256" not in relay.requests[-1].headers

    @pytest.mark.parametrize("key", ["profile", "AWS_PROFILE"])
    def test_credentials_come_from_the_users_files(
        self, key: str, s3_bucket: Bucket, file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        said = s3_bucket.variables()
        credentials = tmp_path / "credentials"
        credentials.write_text(
            f"[me]\naws_access_key_id = {said['AWS_ACCESS_KEY_ID']}\n"
            f"aws_secret_access_key = {said['AWS_SECRET_ACCESS_KEY']}\nregion = us-east-1\n"
        )
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(credentials))
        if key == "AWS_PROFILE":
            monkeypatch.setenv(key, "me")
        else:
            # A profile that is named comes before keys of the environment, each of them.
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
                monkeypatch.setenv(name, "of-the-environment")
        with FaultRelay(s3_bucket.server.url) as relay:
            entry = BucketEntry(url=s3_bucket.url, endpoint=relay.url, profile="me" if key == "profile" else None)
            assert objects.Bucket(s3_bucket.url, entry, Network(proxy="")).put(NAME, file)
            for each in relay.requests:
                assert f"Credential={said['AWS_ACCESS_KEY_ID']}/" in each.headers["authorization"]
                assert "x-amz-security-token" not in each.headers

    def test_a_server_is_reached_by_https_and_the_bucket_is_first_in_its_path(
        self, make_upstream: MakeUpstream, authority: Authority, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        upstream = make_upstream({f"symbols/windows/{NAME}": CONTENT}, tls=authority.server_context())
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
        url = f"{upstream.url}/symbols/windows"
        network = Network(proxy="", ca_file=authority.write_bundle(tmp_path / "ca.pem"))
        ours = objects.Bucket(url, BucketEntry(url=url), network)
        got = ours.read(NAME, 0, 9)
        assert got is not None
        assert got[0] == CONTENT[:9]
        with pytest.raises(UpstreamUnavailable, match="no connection"):
            objects.Bucket(url, BucketEntry(url=url), Network(proxy="")).read(NAME, 0, 9)  # an authority of nobody's

    def test_a_proxy_is_the_one_of_the_settings_or_none_or_the_environments(
        self, s3_bucket: Bucket, enter: Callable[..., str], monkeypatch: pytest.MonkeyPatch, no_retries: None
    ) -> None:
        url = enter(s3_bucket)
        with closed_port() as port:
            proxy = f"http://127.0.0.1:{port}"
            for network in (Network(proxy=proxy), Network(proxy=proxy, no_proxy=("example.com",))):
                with pytest.raises(UpstreamUnavailable, match="no connection"):
                    objects.Bucket(url, None, network).find(NAME)
            assert objects.Bucket(url, None, Network(proxy=proxy, no_proxy=("127.0.0.1",))).find(NAME) is None
            monkeypatch.setenv("HTTP_PROXY", proxy)
            monkeypatch.setenv("http_proxy", proxy)
            with pytest.raises(UpstreamUnavailable, match="no connection"):
                objects.Bucket(url, None, Network()).find(NAME)
            assert objects.Bucket(url, None, Network(proxy="")).find(NAME) is None

    def test_plain_http_has_to_be_meant(self, monkeypatch: pytest.MonkeyPatch, s3_bucket: Bucket) -> None:
        for name, value in s3_bucket.variables().items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("AWS_ALLOW_HTTP")
        assert objects.Bucket(s3_bucket.url, None, Network(proxy="")).find(NAME) is None

    def test_without_credentials_it_says_so(
        self, s3_bucket: Bucket, upstream: Any, monkeypatch: pytest.MonkeyPatch, no_retries: None
    ) -> None:
        upstream.always("*", status(404))
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", upstream.url)
        entry = BucketEntry(url=s3_bucket.url, endpoint=s3_bucket.server.url)
        ours = objects.Bucket(s3_bucket.url, entry, Network(proxy=""))
        with pytest.raises(UpstreamRefused, match="no credentials were found"):
            ours.find(NAME)

    @pytest.mark.parametrize(
        ("url", "variables"),
        [
            ("s3://symbols", {"AWS_ENDPOINT_URL": f"http://me:{SECRETS[0]}@[::1", "AWS_ACCESS_KEY_ID": SECRETS[0]}),
            ("s3://symbols", {"AWS_ACCESS_KEY_ID": SECRETS[0]}),
            ("s3://symbols", {"AWS_SECRET_ACCESS_KEY": SECRETS[0], "AWS_ALLOW_HTTP": SECRETS[0]}),
            ("s3://symbols", {"AWS_CHECKSUM_ALGORITHM": SECRETS[0], "AWS_CONDITIONAL_PUT": SECRETS[0]}),
            ("az://symbols", {"AZURE_STORAGE_ACCOUNT_NAME": "me", "AZURE_STORAGE_ACCOUNT_KEY": f"{SECRETS[0]}!"}),
            ("az://symbols", {"AZURE_STORAGE_ACCOUNT_NAME": "me", "AZURE_STORAGE_SAS_KEY": f"%zz{SECRETS[0]}"}),
            ("az://symbols", {"AZURE_STORAGE_ACCOUNT_KEY": f"{SECRETS[0]}"}),
            ("gs://symbols", {"GOOGLE_SERVICE_ACCOUNT_KEY": f'{{"private_key": "{SECRETS[0]}"}}'}),
            ("gs://symbols", {"GOOGLE_SERVICE_ACCOUNT_KEY": SECRETS[0]}),
        ],
    )
    def test_settings_that_cannot_be_used_are_not_shown(
        self, url: str, variables: dict[str, str], monkeypatch: pytest.MonkeyPatch, upstream: Any, no_retries: None
    ) -> None:
        upstream.always("*", status(404))
        monkeypatch.setenv("AWS_METADATA_ENDPOINT", upstream.url)
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        entry = BucketEntry(url=url, endpoint=None if "AWS_ENDPOINT_URL" in variables else upstream.url)
        said: list[object] = []
        try:
            said.append(objects.Bucket(url, entry, Network(proxy="")))
            said.append(said[0].find(NAME))  # type: ignore[attr-defined]
        except (ConfigError, UpstreamError) as error:
            said += [shown(error), str(error).splitlines()]
        assert SECRETS[0] not in "".join(map(repr, said))
        assert len(said[-1]) == 1 if isinstance(said[-1], list) else said

    def test_an_object_says_what_it_is_called_and_nothing_else(self, s3_bucket: Bucket, opened: OpenBucket) -> None:
        ours = opened(s3_bucket)
        assert not re.search("|".join(map(re.escape, SECRETS)), repr(ours) + str(ours))
        assert ours.name == s3_bucket.url
