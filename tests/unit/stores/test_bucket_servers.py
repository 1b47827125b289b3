"""What the servers of buckets that tests start can do, each asked by obstore alone, and what the relay breaks."""

from __future__ import annotations

import http.client
import os
from datetime import timedelta
from typing import TYPE_CHECKING
from urllib.request import urlopen

import pytest
from support.buckets import SECRETS, Azurite, Bucket, BucketServer, Moto, S3rver
from support.faultrelay import Fault, FaultRelay

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from obstore.store import AzureStore, GCSStore, S3Store
    from support.wire import Request

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
from obstore.exceptions import (  # noqa: E402 - where obstore is not, there are no tests
    AlreadyExistsError,
    BaseError,
    GenericError,
    PermissionDeniedError,
    PreconditionError,
)

_FILE = b"Microsoft C/C++ MSF 7.00\r\n" * 40
_KEY = "ntkrnlmp.pdb/2DCFE7E3D09648B94C4C44205044422E1/ntkrnlmp.pdb"
_MIB = 1024 * 1024
_BROKEN = r"ConnectionReset|IncompleteMessage"

_SERVERS = {"moto": Moto, "s3rver": S3rver, "azurite": Azurite}
_ALL_SERVERS = [*_SERVERS, "google"]


@pytest.fixture(params=_ALL_SERVERS)
def server(request: pytest.FixtureRequest) -> BucketServer:
    found: BucketServer = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def bucket(server: BucketServer) -> Bucket:
    return server.new_bucket()


@pytest.fixture
def store(bucket: Bucket) -> S3Store | AzureStore | GCSStore:
    return bucket.open()


def test_a_bucket_is_empty_and_no_other_test_sees_it(server: BucketServer) -> None:
    first, second = server.new_bucket(), server.new_bucket()
    obstore.put(first.open(), _KEY, _FILE)
    assert [meta["path"] for meta in obstore.list(first.open()).collect()] == [_KEY]
    assert obstore.list(second.open()).collect() == []


def test_a_put_that_is_to_create_fails_where_there_is_a_file(bucket: Bucket) -> None:
    store = bucket.open()
    obstore.put(store, _KEY, b"first", mode="create")
    if bucket.server.creates_once:
        with pytest.raises(AlreadyExistsError):
            obstore.put(store, _KEY, b"second", mode="create")
    else:
        obstore.put(store, _KEY, b"second", mode="create")
    left = obstore.get(store, _KEY).bytes().to_bytes()
    assert left == (b"first" if bucket.server.creates_once else b"second")


def test_a_large_file_goes_up_in_parts_and_is_there_once_they_are_all(bucket: Bucket) -> None:
    content = os.urandom(11 * _MIB)
    with FaultRelay(bucket.server.url) as relay:
        obstore.put(bucket.open(relay.url), _KEY, content)
        sizes = sorted(int(request.headers["content-length"]) for request in relay.requests)[-3:]
        assert sizes == [_MIB, 5 * _MIB, 5 * _MIB]
    assert obstore.get(bucket.open(), _KEY).bytes().to_bytes() == content


def test_parts_that_fail_leave_no_file(bucket: Bucket) -> None:
    with FaultRelay(bucket.server.url) as relay:
        relay.fault = Fault(methods={"PUT"}, target="partNumber=2|comp=blocklist", status=503)
        with pytest.raises(
            GenericError, match=r" 503 | 405 "
        ):  # s3rver cannot give an upload up, of which obstore tells
            obstore.put(bucket.open(relay.url), _KEY, bytes(11 * _MIB))
    with pytest.raises(FileNotFoundError):
        obstore.head(bucket.open(), _KEY)


def test_a_put_that_is_to_create_is_one_request_whatever_its_size(bucket: Bucket) -> None:
    with FaultRelay(bucket.server.url) as relay:
        obstore.put(bucket.open(relay.url), _KEY, bytes(11 * _MIB), mode="create", use_multipart=True)
        assert [(each.method, condition_of(each)) for each in relay.requests] == [("PUT", "none there")]


def condition_of(request: Request) -> str | None:
    """Return under which condition *request* is to be carried out."""
    fields = (("if-none-match", "*"), ("x-goog-if-generation-match", "0"))
    return "none there" if any(request.headers.get(name) == value for name, value in fields) else None


def test_a_range_tells_the_size_of_the_whole(store: S3Store | AzureStore | GCSStore) -> None:
    obstore.put(store, _KEY, _FILE)
    answer = obstore.get(store, _KEY, options={"range": (0, 24)})
    assert answer.bytes().to_bytes() == _FILE[:24]
    assert answer.meta["size"] == len(_FILE)


@pytest.mark.parametrize("made", ["s3_bucket", "azure_bucket", "google_bucket"])
def test_a_range_of_another_file_is_refused(made: str, request: pytest.FixtureRequest) -> None:
    store = request.getfixturevalue(made).open()
    tag = obstore.put(store, _KEY, _FILE)["e_tag"]
    assert obstore.get(store, _KEY, options={"range": (0, 4), "if_match": tag}).bytes().to_bytes() == _FILE[:4]
    obstore.put(store, _KEY, _FILE[::-1])
    with pytest.raises(PreconditionError):
        obstore.get(store, _KEY, options={"range": (0, 4), "if_match": tag})


def test_a_list_comes_in_pages_and_goes_on_where_it_was_left(bucket: Bucket) -> None:
    keys = [f"{number:04}.pdb" for number in range(1010)]
    store = bucket.open()
    for key in keys:
        obstore.put(store, key, b"")
    pages = 1 if bucket.server.scheme == "az" else 2  # of 5,000 and of 1,000
    with FaultRelay(bucket.server.url) as relay:
        behind = bucket.open(relay.url)
        assert [meta["path"] for meta in obstore.list(behind).collect()] == keys
        assert len(relay.requests) == pages
        relay.forget()
        assert [meta["path"] for meta in obstore.list(behind, offset=keys[1000]).collect()] == keys[1001:]
        assert len(relay.requests) == 1


def test_a_copy_is_made_by_the_server(bucket: Bucket) -> None:
    with FaultRelay(bucket.server.url) as relay:
        store = bucket.open(relay.url)
        obstore.put(store, "a", _FILE)
        relay.forget()
        obstore.copy(store, "a", "b")
        assert sum(relay.counts().values()) == 1
        assert obstore.get(store, "b").bytes().to_bytes() == _FILE


def test_s3_copies_to_a_free_name_alone_if_it_is_told_how(s3_bucket: Bucket) -> None:
    store = s3_bucket.open(config={"copy_if_not_exists": "multipart"})
    obstore.put(store, "a", _FILE)
    obstore.copy(store, "a", "b", overwrite=False)
    obstore.put(store, "a", b"another")
    with pytest.raises(AlreadyExistsError):
        obstore.copy(store, "a", "b", overwrite=False)
    assert obstore.get(store, "b").bytes().to_bytes() == _FILE


def test_a_signed_url_needs_nothing_else(store: S3Store | AzureStore | GCSStore) -> None:
    obstore.put(store, _KEY, _FILE)
    with urlopen(obstore.sign(store, "GET", _KEY, timedelta(seconds=60)), timeout=20) as answer:
        assert answer.read() == _FILE


@pytest.mark.parametrize("made", ["s3_bucket", "azure_bucket", "google_bucket"])
def test_nobody_is_let_in_without_a_signature(made: str, request: pytest.FixtureRequest) -> None:
    bucket = request.getfixturevalue(made)
    obstore.put(bucket.open(), _KEY, _FILE)
    with pytest.raises((PermissionDeniedError, FileNotFoundError)):  # Azure does not say that there is a file
        obstore.get(bucket.open(config={"skip_signature": True}), _KEY)


def test_the_variables_are_all_that_a_process_needs(bucket: Bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    obstore.put(bucket.open(), _KEY, _FILE)
    for name, value in bucket.variables().items():
        monkeypatch.setenv(name, value)
    store = obstore.store.from_url(bucket.url)
    assert obstore.get(store, _KEY).bytes().to_bytes() == _FILE


@pytest.mark.parametrize("end", [BucketServer.stop, BucketServer.kill], ids=["stopped", "killed"])
@pytest.mark.parametrize("kind", _SERVERS)
def test_a_server_comes_back_on_its_port_with_what_it_keeps(
    kind: str, end: Callable[[BucketServer], None], tmp_path: Path
) -> None:
    with _SERVERS[kind](tmp_path / "server") as server:
        bucket = server.new_bucket()
        store = bucket.open()
        obstore.put(store, _KEY, _FILE)
        url = server.url
        end(server)
        with pytest.raises(GenericError, match="ConnectionRefused"):
            obstore.head(store, _KEY)
        server.start()
        assert server.url == url
        if server.keeps_if_killed if end is BucketServer.kill else server.keeps:
            assert obstore.get(store, _KEY).bytes().to_bytes() == _FILE
        obstore.put(store, "another", _FILE)  # the bucket is there in any case


def test_an_error_tells_the_status_and_no_secret(bucket: Bucket) -> None:
    with FaultRelay(bucket.server.url) as relay:
        relay.fault = Fault(status=503)
        with pytest.raises(GenericError, match="status code: 503"):
            obstore.get(bucket.open(relay.url), _KEY)
        relay.fault = Fault(status=403)
        with pytest.raises(PermissionDeniedError) as refused:
            obstore.get(bucket.open(relay.url), _KEY)
    assert not [secret for secret in SECRETS if secret in f"{refused.value}{refused.value!r}"]


class TestRelay:
    def test_it_counts_and_changes_nothing(self, bucket: Bucket) -> None:
        with FaultRelay(bucket.server.url) as relay:
            store = bucket.open(relay.url)
            obstore.put(store, "a b+ü.pdb", _FILE)
            assert obstore.get(store, "a b+ü.pdb").bytes().to_bytes() == _FILE
            obstore.head(store, "a b+ü.pdb")
            path = next(iter(relay.counts()))[1]
            assert path.endswith(f"/{bucket.name}/a b+ü.pdb")
            assert relay.counts() == {("PUT", path): 1, ("GET", path): 1, ("HEAD", path): 1}
            assert [request.status for request in relay.requests][1:] == [200, 200]

    def test_a_fault_meets_the_chosen_requests_until_it_is_taken_away(self, s3_bucket: Bucket) -> None:
        with FaultRelay(s3_bucket.server.url) as relay:
            store = s3_bucket.open(relay.url)
            relay.fault = Fault(methods={"PUT"}, target=r"\.pdb$", status=503)
            obstore.put(store, "a.dll", _FILE)
            with pytest.raises(GenericError, match="<Code>SlowDown</Code>"):
                obstore.put(store, "a.pdb", _FILE)
            obstore.list(store).collect()
            relay.fault = None
            obstore.put(store, "a.pdb", _FILE)

    def test_a_reset_request_does_not_reach_the_server(self, s3_bucket: Bucket) -> None:
        with FaultRelay(s3_bucket.server.url) as relay:
            relay.fault = Fault(methods={"PUT"})
            with pytest.raises(GenericError, match=_BROKEN):
                obstore.put(s3_bucket.open(relay.url), _KEY, _FILE)
        assert obstore.list(s3_bucket.open()).collect() == []

    def test_a_lost_answer_is_of_a_request_that_was_carried_out(self, s3_bucket: Bucket) -> None:
        with FaultRelay(s3_bucket.server.url) as relay:
            relay.fault = Fault(methods={"PUT"}, cut_at=0)
            with pytest.raises(GenericError, match=_BROKEN):
                obstore.put(s3_bucket.open(relay.url), _KEY, _FILE)
        assert obstore.head(s3_bucket.open(), _KEY)["size"] == len(_FILE)

    def test_a_body_is_cut_where_it_is_told(self, s3_bucket: Bucket) -> None:
        obstore.put(s3_bucket.open(), _KEY, bytes(_MIB))
        with FaultRelay(s3_bucket.server.url) as relay:
            relay.fault = Fault(methods={"GET"}, cut_at=1000)
            answer = obstore.get(s3_bucket.open(relay.url), _KEY)
            with pytest.raises(BaseError, match="body"):
                answer.bytes()
            assert relay.requests[0].sent_bytes == 1000

    def test_it_is_silent_until_the_fault_is_over(self, s3_bucket: Bucket) -> None:
        impatient = {"timeout": timedelta(milliseconds=200)}
        with FaultRelay(s3_bucket.server.url) as relay:
            relay.fault = Fault(silent=True)
            with pytest.raises(GenericError, match="kind: Timeout"):
                obstore.head(s3_bucket.open(relay.url, client_options=impatient), _KEY)
            relay.fault = None
            with pytest.raises(FileNotFoundError):
                obstore.head(s3_bucket.open(relay.url), _KEY)

    def test_a_request_that_is_held_back_goes_on_when_the_fault_is_over(self, s3_bucket: Bucket) -> None:
        with FaultRelay(s3_bucket.server.url) as relay:
            relay.fault = Fault(delay_s=3600)
            stream = http.client.HTTPConnection("127.0.0.1", int(relay.url.rpartition(":")[2]), timeout=20)
            stream.request("GET", "/")
            relay.await_requests(1)
            assert relay.requests[0].status is None
            relay.fault = None
            assert stream.getresponse().status < 500
            stream.close()
