"""Bodies that break, stall and change on their way, and large ones in parts."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

import pytest
from support.answers import Stall, chunked, cut, entity_tag, file, gzipped, in_turn, raw, slow, status
from support.sources import KEY, PATH, PDB, Rig, scratch_files, visible
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.config import values
from symcache.events import TransferAdvanced, TransferEnded, TransferStarted
from symcache.stores.http import download
from symcache.stores.results import Cause, Failed, Fetched, Missing

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.answers import Answer
    from support.upstream import Exchange, Upstream

PARTS = values.ParallelRanges(from_bytes=1 << 20, parts=4)
LARGE = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, payload_bytes=4_400_000))
OTHER = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age, payload_bytes=30_000, timestamp=1))


@pytest.fixture
def rig(rig_on_each_transport: Rig) -> Rig:
    return rig_on_each_transport


@pytest.fixture(autouse=True)
def _short_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(download, "_SHORTEST_PART_BYTES", 1 << 20)


def ranges(upstream: Upstream) -> list[str | None]:
    return [request.headers.get("range") for request in upstream.asked(PATH)]


def assert_transfers_are_paired(rig: Rig) -> None:
    open_transfers = 0
    for event in rig.events:
        match event:
            case TransferStarted():
                open_transfers += 1
            case TransferAdvanced():
                assert open_transfers == 1
            case TransferEnded():
                open_transfers -= 1
    assert open_transfers == 0


async def test_a_cut_body_is_resumed_where_it_broke(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, cut(10_000), cut(5_000))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == PDB
    assert ranges(upstream) == [None, "bytes=10000-", "bytes=15000-"]
    assert [request.headers.get("if-range") for request in upstream.requests] == [None, *[entity_tag(PDB)] * 2]
    assert sum(request.sent_bytes for request in upstream.requests) == len(PDB)
    assert_transfers_are_paired(rig)
    last = rig.events[-2]
    assert isinstance(last, TransferAdvanced)
    assert (last.received_bytes, last.size_bytes, last.whole_bytes) == (len(PDB), len(PDB), len(PDB))


@pytest.mark.parametrize("ranged", [True, False], ids=["ranges", "no ranges"])
async def test_without_a_validator_a_cut_body_starts_over(ranged: bool, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.always(PATH, in_turn(cut(10_000, etag=None, ranges=ranged), file(etag=None, ranges=ranged)))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == PDB
    assert ranges(upstream) == [None, None]


async def test_a_weak_tag_guards_no_range_but_a_date_does(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, cut(10_000, etag='W/"1"'))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert upstream.requests[1].headers["if-range"].endswith("GMT")
    assert (rig.store / PATH).read_bytes() == PDB


async def test_a_server_that_ignores_ranges_sends_it_all_again(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.always(PATH, in_turn(cut(10_000, ranges=False), file(ranges=False)))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == PDB
    assert ranges(upstream) == [None, "bytes=10000-"]


@pytest.mark.parametrize("size", ["same length", "another length"])
async def test_a_file_that_changes_meanwhile_is_never_mixed(size: str, upstream: Upstream, rig: Rig) -> None:
    old = OTHER if size == "same length" else OTHER[:-4096]
    upstream.files[PATH] = PDB
    upstream.script(PATH, cut(10_000, old))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == PDB


def heedless(content: bytes) -> Answer:
    """Return an answer that heeds Range, but neither If-Range nor that the file is another by now."""

    def answer(exchange: Exchange) -> None:
        start, _, stop = exchange.request.headers.get("range", "bytes=0-").removeprefix("bytes=").partition("-")
        end = int(stop) + 1 if stop else len(content)
        exchange.head(
            206 if "range" in exchange.request.headers else 200,
            [("Content-Range", f"bytes {start}-{end - 1}/{len(content)}"), ("ETag", entity_tag(content))],
            length=end - int(start),
        )
        exchange.body(content[int(start) : end])

    return answer


async def test_a_range_of_another_file_is_seen_by_its_tag(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, cut(10_000, OTHER))
    upstream.always(PATH, heedless(PDB))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == PDB
    assert ranges(upstream) == [None, "bytes=10000-", None]


@pytest.mark.parametrize(
    "bad",
    [
        status(416),
        status(206, PDB, headers=[("Content-Range", f"bytes 0-{len(PDB) - 1}/{len(PDB)}")]),
        status(206, PDB[10_000:]),
        status(206, PDB[9_999:], headers=[("Content-Range", f"bytes 9999-{len(PDB) - 1}/{len(PDB)}")]),
    ],
    ids=["416", "from the start", "without a range", "from elsewhere"],
)
async def test_whoever_answers_ranges_wrongly_is_asked_for_all(bad: Answer, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    # Twice: even then the last try asks for no range.
    upstream.script(PATH, cut(10_000), bad, cut(10_000), bad, file())
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == PDB
    assert ranges(upstream) == [None, "bytes=10000-", None, "bytes=10000-", None]
    assert_transfers_are_paired(rig)


async def test_a_server_that_never_finishes_is_given_up(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    # Each time it breaks at another place, and never comes further than before.
    upstream.always(PATH, in_turn(*(cut(at, etag=None) for at in (9000, 5000, 8000, 7000)), cut(6000, etag=None)))
    async with rig.plain(upstream, retries=3) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.UNAVAILABLE
    assert len(upstream.requests) == 4  # the one that came furthest counts as the first failure
    assert_transfers_are_paired(rig)


async def test_progress_renews_patience(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, *[cut(1000)] * 20)
    async with rig.plain(upstream, retries=1) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == PDB
    assert len(upstream.requests) == 21


async def test_a_file_that_vanishes_while_it_comes_is_a_miss(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, cut(10_000), status(404))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Missing)
    assert visible(rig.store) == scratch_files(rig.store) == []
    assert_transfers_are_paired(rig)


async def test_silence_ends_in_a_time_out(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    answers = {"no answer in time": Stall(), "the body stopped, and nothing more came in time": Stall(0)}
    for said, stall in answers.items():
        upstream.always(PATH, stall)
        async with rig.plain(upstream, retries=1, read_timeout_s=0.1) as source:
            outcome = await source.fetch(KEY)
        assert isinstance(outcome, Failed)
        assert (outcome.cause, outcome.attempts[0].answer) == (Cause.UNAVAILABLE, said)
    assert rig.misses() == []


async def test_a_body_that_drips_ends_with_the_total_time(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.always(PATH, slow(chunk_bytes=100, pause_s=0.05))
    async with rig.plain(upstream, total_timeout_s=0.3) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.attempts[0].answer) == (Cause.UNAVAILABLE, "not whole after 0.3 s")
    assert visible(rig.store) == scratch_files(rig.store) == []
    assert_transfers_are_paired(rig)


@pytest.mark.parametrize("answer", [gzipped(), chunked(chunk_bytes=1000)], ids=["gzip", "chunked"])
async def test_a_body_without_a_length_that_is_cut_is_not_taken_for_whole(
    answer: Answer, upstream: Upstream, rig: Rig
) -> None:
    upstream.files[PATH] = PDB

    class Cutting:
        """Ends the connection within the body."""

        def __call__(self, exchange: Exchange) -> None:
            send, left = exchange.raw, 20_000

            def some(data: bytes) -> None:
                nonlocal left
                send(data[:left])
                left -= len(data)
                if left <= 0:
                    exchange.hang_up()

            exchange.raw = some  # type: ignore[method-assign]
            answer(exchange)

    upstream.always(PATH, in_turn(Cutting(), answer))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == PDB
    assert ranges(upstream) == [None, None]


async def test_a_gzip_stream_that_ends_early_inside_whole_chunks_is_cut(upstream: Upstream, rig: Rig) -> None:
    upstream.always(
        PATH, raw(b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 10\r\n\r\n\x1f\x8b\x08" + bytes(7))
    )
    async with rig.plain(upstream, retries=0) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.attempts[0].answer == "encoded body cut short"


# Parts of one file


def bounds(upstream: Upstream) -> Iterator[tuple[int, int]]:
    for text in ranges(upstream):
        if text is not None:
            first, _, last = text.removeprefix("bytes=").partition("-")
            yield int(first), int(last)


async def test_a_large_file_comes_in_parts_while_lanes_are_free(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = LARGE
    async with rig.plain(upstream, parallel=PARTS) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == LARGE
    assert len(upstream.requests) == 4
    ends = sorted(bounds(upstream))
    assert [last + 1 for _, last in ends] == [*(first for first, _ in ends[1:]), len(LARGE)]
    assert {request.headers.get("if-range") for request in upstream.requests} == {None, entity_tag(LARGE)}
    assert_transfers_are_paired(rig)
    last = [event for event in rig.events if isinstance(event, TransferAdvanced)][-1]
    assert (last.received_bytes, last.whole_bytes) == (len(LARGE), len(LARGE))


@pytest.mark.parametrize(
    ("options", "answer", "requests"),
    [
        ({"connections": 1}, file(), 1),
        ({"connections": 2}, file(), 2),
        ({"parallel": values.ParallelRanges(PARTS.from_bytes, parts=1)}, file(), 1),
        ({"parallel": values.ParallelRanges(len(LARGE) + 1, parts=4)}, file(), 1),
        ({}, file(ranges=False), 1),
        ({}, file(etag=None), 1),
        ({}, chunked(chunk_bytes=1 << 18), 1),
    ],
    ids=["one lane", "two lanes", "off", "too short", "no ranges", "no validator", "no length"],
)
async def test_a_file_is_split_only_where_that_is_sound(
    options: dict[str, object], answer: Answer, requests: int, upstream: Upstream, rig: Rig
) -> None:
    upstream.files[PATH] = LARGE
    upstream.always(PATH, answer)
    async with rig.plain(upstream, **{"parallel": PARTS, **options}) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == LARGE
    assert len(upstream.requests) == requests


def first_of_each(faulty: dict[int, Answer]) -> Answer:
    """Return an answer that is honest but for the first requests with these numbers."""
    return in_turn(*(faulty.get(number, file()) for number in range(max(faulty) + 1)), file())


@pytest.mark.parametrize("seed", range(3))
async def test_a_part_that_breaks_is_resumed(seed: int, upstream: Upstream, rig: Rig) -> None:
    rng = random.Random(seed)
    faulty: dict[int, Answer] = {number: cut(rng.randrange(1 << 20)) for number in (0, 1, 3, 5)}
    upstream.files[PATH] = LARGE
    upstream.always(PATH, first_of_each({**faulty, 4: status(503)}))
    async with rig.plain(upstream, parallel=PARTS) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == LARGE
    assert_transfers_are_paired(rig)


@pytest.mark.parametrize("number", [1, 2, 3])
@pytest.mark.parametrize("fault", ["changed", "vanished", "no ranges any more", "another range"])
async def test_parts_that_do_not_fit_start_over_in_one_piece(
    fault: str, number: int, upstream: Upstream, rig: Rig
) -> None:
    upstream.files[PATH] = LARGE
    answer = {
        "changed": file(LARGE[:-8] + b"changed!"),
        "vanished": status(404),
        "no ranges any more": file(ranges=False),
        "another range": status(206, LARGE[:9], headers=[("Content-Range", f"bytes 0-8/{len(LARGE)}")]),
    }[fault]
    upstream.always(PATH, first_of_each({number: answer}))
    async with rig.plain(upstream, parallel=PARTS) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == LARGE
    assert ranges(upstream).count(None) == 2
    assert_transfers_are_paired(rig)


async def test_the_head_of_a_split_file_that_changed_before_its_first_byte_is_seen(
    upstream: Upstream, rig: Rig
) -> None:
    other = file(LARGE[:-8] + b"changed!")
    upstream.files[PATH] = LARGE

    def head_alone(exchange: Exchange) -> None:
        headers = [("Accept-Ranges", "bytes"), ("ETag", entity_tag(LARGE))]
        exchange.head(200, headers, length=len(LARGE))
        exchange.upstream.await_requests(4)
        exchange.hang_up()

    def answer(exchange: Exchange) -> None:
        is_head = exchange.request.headers.get("range", "").startswith("bytes=0-")
        (other if is_head else file())(exchange)

    upstream.script(PATH, head_alone)
    upstream.always(PATH, answer)
    async with rig.plain(upstream, parallel=PARTS) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.store / PATH).read_bytes() == LARGE
    assert ranges(upstream).count(None) == 2


async def test_a_body_that_falls_silent_is_resumed(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, Stall(10_000))
    async with rig.plain(upstream, read_timeout_s=0.1) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert ranges(upstream)[:2] == [None, "bytes=10000-"]
    assert (rig.store / PATH).read_bytes() == PDB


async def test_parts_give_up_as_one(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = LARGE
    honest, broken = file(), status(503)

    def answer(exchange: Exchange) -> None:
        (broken if exchange.request.headers.get("range", "").startswith("bytes=2") else honest)(exchange)

    upstream.always(PATH, answer)
    async with rig.plain(upstream, parallel=PARTS, retries=1) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.attempts[0].answer) == (Cause.UNAVAILABLE, "503")
    assert visible(rig.store) == scratch_files(rig.store) == []
    assert_transfers_are_paired(rig)
