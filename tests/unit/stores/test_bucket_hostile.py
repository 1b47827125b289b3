"""A server of buckets that answers whatever it likes: nothing but our errors, no wrong file, and an end in any case."""

from __future__ import annotations

import threading
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support.sources import IMAGE, IMAGE_KEY, KEY, PDB, Rig, visible
from support.upstream import Upstream

from symcache.config import BucketEntry, Network
from symcache.errors import StoreError, UpstreamError, UpstreamUnavailable
from symcache.formats.pe.image import Image
from symcache.stores.disk import DiskSource
from symcache.stores.results import Failed, Fetched, Missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.answers import Header
    from support.upstream import Exchange

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
from symcache.stores.bucket import objects, uploads  # noqa: E402 - where obstore is not, there are no tests

SECRET = "as-no-server-may-make-us-show"
SIZES = st.sampled_from([0, 1, 99, len(PDB), len(PDB) + 1, 1 << 20, 1 << 31, 1 << 62, (1 << 63) - 1, 1 << 64, -1])
DATES = st.sampled_from(
    [
        "Mon, 30 Nov 2026 07:00:00 GMT",
        "Thu, 01 Jan 1970 00:00:00 GMT",
        "Mon, 01 Jan 0001 00:00:00 GMT",
        "Fri, 31 Dec 9999 23:59:59 GMT",
        "2026-11-30T07:00:00.000Z",
        "yesterday",
        "",
    ]
)
TEXTS = st.text(st.characters(codec="latin-1", exclude_characters="\r\n\0"), max_size=40)
FIELDS = st.fixed_dictionaries(
    {},
    optional={
        "ETag": st.sampled_from(['"x"', '"y"', "x", "", 'W/"x"']) | TEXTS,
        "Last-Modified": DATES | TEXTS,
        "Content-Range": st.builds(
            lambda unit, start, stop, size: f"{unit} {start}-{stop}/{size}",
            st.sampled_from(["bytes", "items", ""]),
            st.sampled_from([0, 1, 65536, -1]),
            st.sampled_from([0, 98, len(PDB) - 1, (1 << 20) - 1, 65535, -1]),
            SIZES | st.just("*"),
        )
        | TEXTS,
        "x-amz-meta-sha256": st.sampled_from(["0" * 64, "A" * 64, "x", ""]) | TEXTS,
        "Content-Type": TEXTS,
        "Content-Encoding": st.sampled_from(["gzip", "br", "identity", "x"]),
        "Location": st.sampled_from(["/", "http://127.0.0.1:1/", "ftp://x", "::"]),
        "x-amz-version-id": TEXTS,
        "Retry-After": st.sampled_from(["0", "3600", "-1", "x"]),
    },
)
NAMES = st.sampled_from(
    [KEY.index, "../../etc/passwd", "/x", "a//b", "a/./b", "", "%41", "%zz", "a\\b", "x" * 2000, "&#0;", "&#x202E;"]
)
LISTS = st.builds(
    lambda names, size, date, is_cut, token, tag: (
        f"<?xml version='1.0'?><ListBucketResult><IsTruncated>{is_cut}</IsTruncated>"
        + (f"<NextContinuationToken>{token}</NextContinuationToken>" if token else "")
        + "".join(
            f"<Contents><Key>{name}</Key><Size>{size}</Size><LastModified>{date}</LastModified>"
            + (f"<ETag>{tag}</ETag>" if tag else "")
            + "</Contents>"
            for name in names
        )
        + "</ListBucketResult>"
    ).encode("utf-8", "replace"),
    st.lists(NAMES, max_size=4),
    SIZES,
    DATES,
    st.sampled_from(["false", "false", "maybe"]),
    st.sampled_from(["", "x"]),
    st.sampled_from(["", '"x"']),
)
BODIES = st.one_of(
    st.sampled_from([PDB, IMAGE, PDB[:99], PDB + b"x", b"", bytes(1 << 20), b"<html>", b"<Error>", SECRET.encode()]),
    st.sampled_from(
        [
            f"<Error><Code>{code}</Code><Message>{SECRET}</Message><Key>{SECRET}</Key></Error>".encode()
            for code in ("NoSuchBucket", "NoSuchKey", "AccessDenied", "SignatureDoesNotMatch", "<", "")
        ]
    ),
    LISTS,
    st.binary(max_size=200),
)
STATUSES = st.sampled_from(
    [200, 206, 206, 206, 404, 404, 204, 301, 304, 307, 400, 401, 403, 409, 412, 416, 429, 500, 501, 503, 100, 600, 999]
)


@dataclass(frozen=True, slots=True)
class Told:
    """One answer: status, fields, body, the length that is announced, and whether the connection ends with it."""

    status: int
    fields: dict[str, str]
    body: bytes
    announced: int | None
    is_whole: bool

    def __call__(self, exchange: Exchange) -> None:
        fields: list[Header] = list(self.fields.items())
        exchange.head(self.status, fields, length=self.announced)
        exchange.body(self.body)
        if not self.is_whole or self.announced != len(self.body):
            exchange.hang_up()


ANSWERS = st.builds(
    lambda status, fields, body, announced, is_whole: Told(
        status, fields, body, len(body) if announced is None else announced, is_whole
    ),
    STATUSES,
    FIELDS,
    BODIES,
    # obstore reserves what the body of an error or a list announces, and a terabyte that is not to be had ends the
    # process (object_store, HttpResponseBody::bytes): nothing here can keep it from that.
    st.sampled_from([None, None, None, 0, 1, 1 << 20, 1 << 28]),
    st.booleans(),
)


class Hostile(Upstream):
    """Answers what it is told for each method, in turn and then again from the beginning."""

    def __init__(self) -> None:
        super().__init__()
        self._told: list[Told] = []
        self._at = 0
        self._turn = threading.Lock()
        self.always("*", self._answer)

    def tell(self, answers: list[Told]) -> None:
        with self._turn:
            self._told, self._at = answers, 0

    def _answer(self, exchange: Exchange) -> None:
        with self._turn:
            answer = self._told[self._at % len(self._told)]
            self._at += 1
        answer(exchange)


@pytest.fixture(scope="module")
def hostile() -> Iterator[Hostile]:
    with Hostile() as server:
        yield server


@pytest.fixture
def entry(hostile: Hostile, monkeypatch: pytest.MonkeyPatch) -> BucketEntry:
    """What is said of the bucket; silence and retries are short."""
    for name, value in {"_READ_S": 0.5, "_SEND_S": 0.5, "_REQUEST_S": 1.0, "_RETRIES": 0}.items():
        monkeypatch.setattr(objects, name, value)
    monkeypatch.setattr(uploads, "_FIRST_PAUSE_S", 0.0)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "me")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    return BucketEntry(url="s3://b", endpoint=hostile.url)


_PATIENT = settings(max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])


@_PATIENT
@given(answers=st.lists(ANSWERS, min_size=1, max_size=4))
def test_every_call_ends_with_an_answer_or_an_error_of_ours(
    answers: list[Told], hostile: Hostile, entry: BucketEntry, tmp_path: Path
) -> None:
    file = tmp_path / "file"
    file.write_bytes(PDB)
    bucket = objects.Bucket("s3://b", entry, Network(proxy=""))
    calls = (
        lambda: bucket.find(KEY.index),
        lambda: bucket.read(KEY.index, 0, 1 << 20),
        lambda: bucket.put(KEY.index, file),
        lambda: [info for info, _ in zip(bucket.list(), range(100), strict=False)],
        lambda: bucket.delete([KEY.index, "other"]),
        lambda: bucket.move(KEY.index, "other"),
        bucket.keeps_names,
        lambda: read_all(bucket),
    )
    for call in calls:
        hostile.tell(answers)
        try:
            call()
        except UpstreamError as error:
            said = f"{error}{error!r}"
        else:
            said = ""
        assert SECRET not in said
        assert "\n" not in said


def read_all(bucket: objects.Bucket) -> None:
    view = bucket.open(KEY.index)
    if view is not None:
        at = max(0, min(view.size, 1 << 20) - 100)
        length = min(100, view.size)
        assert len(view.read(at, length)) == length
        assert len(view.read(0, min(view.size, 5 << 20))) == min(view.size, 5 << 20)


def test_a_list_that_never_ends_is_given_up(
    hostile: Hostile, entry: BucketEntry, monkeypatch: pytest.MonkeyPatch
) -> None:
    more = "<NextContinuationToken>x</NextContinuationToken>"
    body = f"<ListBucketResult><IsTruncated>true</IsTruncated>{more}</ListBucketResult>".encode()
    hostile.tell([Told(200, {}, body, len(body), is_whole=True)])
    bucket = objects.Bucket("s3://b", entry, Network(proxy=""))
    monkeypatch.setattr(objects, "_REQUEST_S", 0.2)
    try:
        with pytest.raises(UpstreamUnavailable, match="timed out"):
            list(bucket.list())
    finally:
        hostile.tell([Told(404, {}, b"", 0, is_whole=True)])  # lets go of who asks on
    assert len(hostile.requests) > 1


@_PATIENT
@given(answers=st.lists(ANSWERS, min_size=1, max_size=4))
def test_nothing_but_the_right_file_is_published(
    answers: list[Told], hostile: Hostile, entry: BucketEntry, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hostile.tell(answers)
    rig = Rig(tmp_path_factory.mktemp("rig"))
    config = rig.config(f"srv*{rig.store}*s3://b", total_timeout_s=5.0)
    config = replace(config, bucket=(entry,), network=replace(config.network, largest_file_bytes=64 << 20))

    async def fetch() -> None:
        with anyio.fail_after(60):
            async with rig.open(config) as source:
                for key, content in ((KEY, PDB), (IMAGE_KEY, IMAGE)):
                    found = await source.fetch(key)
                    assert isinstance(found, Fetched | Missing | Failed)
                    if isinstance(found, Fetched):
                        assert found.path.read_bytes().startswith(content[:99])
                        assert found.size_bytes == found.path.stat().st_size
                assert isinstance(await source.read_image(IMAGE_KEY), Image | Missing | Failed)

    anyio.run(fetch)
    for name in visible(rig.store):
        content = {KEY.index: PDB, IMAGE_KEY.index: IMAGE}[name]
        assert (rig.store / name).read_bytes()[: len(content)] == content
    said = "".join(map(repr, rig.events))
    assert SECRET not in said


@_PATIENT
@given(answers=st.lists(ANSWERS, min_size=1, max_size=4))
def test_a_check_finds_the_right_file_or_none(
    answers: list[Told], hostile: Hostile, entry: BucketEntry, tmp_path_factory: pytest.TempPathFactory
) -> None:
    hostile.tell(answers)
    rig = Rig(tmp_path_factory.mktemp("rig"))
    config = rig.config(f"srv*{rig.store}*s3://b")
    config = replace(config, bucket=(entry,), network=replace(config.network, largest_file_bytes=64 << 20))
    source = DiskSource(config, observer=rig.events.append)
    source.seem_held([KEY, IMAGE_KEY])
    found = None
    with suppress(StoreError):  # it answered at first
        found = source.find_for_debugger(KEY)
    with suppress(StoreError):
        source.find_image(IMAGE_KEY)
    source.close()
    assert found is None or found.url == f"s3://b/{KEY.index}"
    assert SECRET not in "".join(map(repr, rig.events))
