from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from email.utils import formatdate
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from symcache.server.request import FileInfo, open_shared, read_at, select

if TYPE_CHECKING:
    from pathlib import Path

MODIFIED_S = 1_700_000_000
FACTS = FileInfo.of(1000, MODIFIED_S * 10**9 + 5)
DATE = formatdate(MODIFIED_S, usegmt=True).encode()
EARLIER = formatdate(MODIFIED_S - 60, usegmt=True).encode()


@pytest.mark.parametrize(
    ("wanted", "start", "stop"),
    [
        (b"bytes=0-9", 0, 10),
        (b"bytes=990-", 990, 1000),
        (b"bytes=-10", 990, 1000),
        (b"bytes=-5000", 0, 1000),
        (b"bytes=5-99999", 5, 1000),
        (b"Bytes=7-7", 7, 8),
    ],
)
def test_one_range_is_served(wanted: bytes, start: int, stop: int) -> None:
    chosen = select(FACTS, {b"range": wanted})
    fields = dict(chosen.headers)
    assert (chosen.status, chosen.start, chosen.stop) == (206, start, stop)
    assert fields[b"content-length"] == str(stop - start).encode()
    assert fields[b"content-range"] == b"bytes %d-%d/1000" % (start, stop - 1)


@pytest.mark.parametrize("wanted", [b"bytes=1000-", b"bytes=5000-6000", b"bytes=-0"])
def test_a_range_behind_the_end_is_refused_with_the_length(wanted: bytes) -> None:
    chosen = select(FACTS, {b"range": wanted})
    assert (chosen.status, chosen.start, chosen.stop) == (416, 0, 0)
    assert dict(chosen.headers)[b"content-range"] == b"bytes */1000"


@pytest.mark.parametrize("wanted", [b"bytes=", b"bytes=-", b"bytes=9-5", b"bytes=0-1,5-6", b"lines=0-1", b"bytes=a-b"])
def test_other_ranges_get_the_whole(wanted: bytes) -> None:
    chosen = select(FACTS, {b"range": wanted})
    assert (chosen.status, chosen.start, chosen.stop) == (200, 0, 1000)


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        ({b"if-none-match": FACTS.etag}, 304),
        ({b"if-none-match": b'"x", W/' + FACTS.etag}, 304),
        ({b"if-none-match": b"*"}, 304),
        ({b"if-none-match": b'"x"'}, 200),
        ({b"if-none-match": b'"x"', b"if-modified-since": DATE}, 200),
        ({b"if-modified-since": DATE}, 304),
        ({b"if-modified-since": EARLIER}, 200),
        ({b"if-modified-since": b"yesterday"}, 200),
        ({b"if-match": FACTS.etag}, 200),
        ({b"if-match": b'"x"'}, 412),
        ({b"if-unmodified-since": EARLIER}, 412),
        ({b"range": b"bytes=0-9", b"if-range": FACTS.etag}, 206),
        ({b"range": b"bytes=0-9", b"if-range": b'"x"'}, 200),
        ({b"range": b"bytes=0-9", b"if-range": DATE}, 206),
        ({b"range": b"bytes=0-9", b"if-range": EARLIER}, 200),
        ({b"range": b"bytes=0-9", b"if-none-match": FACTS.etag}, 304),
    ],
)
def test_preconditions(fields: dict[bytes, bytes], status: int) -> None:
    assert select(FACTS, fields).status == status


def test_a_file_that_still_arrives_has_no_validator() -> None:
    facts = FileInfo.of(1000)
    assert not {b"etag", b"last-modified"} & set(dict(facts.headers))
    assert select(facts, {b"if-none-match": b"*", b"if-modified-since": DATE}).status == 200
    assert select(facts, {b"range": b"bytes=0-9", b"if-range": b'""'}).status == 200


@given(
    st.dictionaries(
        st.sampled_from([b"range", b"if-range", b"if-match", b"if-none-match", b"if-modified-since"]),
        st.one_of(st.binary(max_size=60), st.from_regex(rb"bytes=[0-9]{0,22}-[0-9]{0,22}", fullmatch=True)),
    ),
    st.integers(0, 2**50),
)
def test_whatever_is_asked_the_answer_lies_within_the_file(fields: dict[bytes, bytes], size_bytes: int) -> None:
    chosen = select(FileInfo.of(size_bytes, MODIFIED_S * 10**9), fields)
    assert 0 <= chosen.start <= chosen.stop <= size_bytes
    if chosen.status in {200, 206}:
        assert int(dict(chosen.headers)[b"content-length"]) == chosen.stop - chosen.start


@pytest.mark.parametrize("name", [b"if-none-match", b"if-match", b"range", b"if-range", b"if-modified-since"])
@pytest.mark.parametrize("filler", [b" ", b'"', b'"" ', b"9", b"W/", b"bytes=0-0,", b"\t,"])
def test_long_fields_are_judged_at_once(name: bytes, filler: bytes) -> None:
    # 64 KiB that a careless pattern would look at from every position anew, which takes minutes.
    assert select(FACTS, {name: filler * (65536 // len(filler))}).status in {200, 206, 304, 412, 416}


def test_threads_read_one_descriptor_at_once(tmp_path: Path) -> None:
    """Clients of one download do."""
    pieces = [number.to_bytes(4) * 4096 for number in range(64)]
    (tmp_path / "file").write_bytes(b"".join(pieces))
    fd = open_shared(tmp_path / "file")
    try:
        with ThreadPoolExecutor(8) as threads:
            offsets = [number * len(pieces[0]) for number in range(len(pieces))] * 20
            assert list(threads.map(lambda at: read_at(fd, len(pieces[0]), at), offsets)) == pieces * 20
        assert read_at(fd, 10, len(pieces) * len(pieces[0])) == b""
    finally:
        os.close(fd)


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="the time zone is the system's")
@pytest.mark.parametrize("zone", ["UTC-9", "UTC+9"])
def test_a_date_of_no_zone_is_greenwichs(monkeypatch: pytest.MonkeyPatch, zone: str) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        same, earlier = (date.replace(b"GMT", b"-0000") for date in (DATE, EARLIER))
        assert select(FACTS, {b"if-modified-since": same}).status == 304
        assert select(FACTS, {b"if-modified-since": earlier}).status == 200
        assert select(FACTS, {b"if-modified-since": b"Mon, 01 Jan 0001 00:00:00 -0000"}).status == 200
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
