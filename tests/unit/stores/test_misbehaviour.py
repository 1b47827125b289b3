"""What becomes of a key when its upstream misbehaves: state, cause, attempts, what lies in the store."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest
from support.answers import busy, chunked, cut, file, gzipped, hang_up, page, raw, redirect, reset, status, unframed
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PATH, PDB, Rig, cabinet, scratch_files, visible
from support.synth.pdb import NativePdbSpec, make_pdb, make_portable_pdb
from support.wire import closed_port

from symcache.config import ServerEntry
from symcache.formats.pe.image import Image
from symcache.identity import PortablePdbKey
from symcache.stores.results import Attempt, Cause, Failed, Fetched, Hint, Missing, Present

if TYPE_CHECKING:
    from conftest import MakeUpstream
    from support.answers import Answer
    from support.upstream import Upstream

    from symcache.stores.results import Outcome

OTHER_GUID = make_pdb(NativePdbSpec(KEY.guid.__class__(int=1), age=KEY.age))
OTHER_AGE = make_pdb(NativePdbSpec(KEY.guid, age=KEY.age + 1))


@pytest.fixture
def rig(rig_on_each_transport: Rig) -> Rig:
    return rig_on_each_transport


def typed(body: bytes, media_type: str) -> Answer:
    return status(200, body, headers=[("Content-Type", media_type)])


@dataclass(frozen=True)
class Case:
    """One misbehaviour that lasts, and what the attempt says of it."""

    name: str
    answer: Answer
    cause: Cause
    said: str
    requests: int = 1


GIVEN_UP = 3  # with two retries

CASES = [
    Case("html", page(), Cause.WRONG_CONTENT, "200, but an HTML page"),
    Case("html without saying so", unframed(b"<!DOCTYPE html><html>"), Cause.WRONG_CONTENT, "200, but an HTML page"),
    Case(
        "html as a file", typed(b"<!-- --><head>", "application/octet-stream"), Cause.WRONG_CONTENT, "200, but an HTML"
    ),
    Case("json", typed(b'{"errors":[{"status":404}]}', "application/json"), Cause.WRONG_CONTENT, "200, but JSON"),
    Case("xml", typed(b"<?xml version='1.0'?><Error/>", "application/xml"), Cause.WRONG_CONTENT, "200, but XML"),
    Case("ref a", status(200, b"Ref A: 0123 Ref B: XYZ Ref C: 2023"), Cause.WRONG_CONTENT, "200, but "),
    Case("text of a miss", status(200, b"Symbol Not Found"), Cause.WRONG_CONTENT, "200, but "),
    Case("empty", status(200), Cause.WRONG_CONTENT, "200, but empty"),
    Case("short without a length", unframed(PDB[:20_000]), Cause.WRONG_CONTENT, "200, but "),
    Case("another guid", file(OTHER_GUID), Cause.WRONG_CONTENT, "200, but another PDB: 0000000000000000"),
    Case("another age", file(OTHER_AGE), Cause.WRONG_CONTENT, "200, but another age: 4, not 3"),
    Case("garbage behind it", file(PDB + bytes(5000)), Cause.WRONG_CONTENT, "200, but damaged: "),
    Case("an image", file(b"MZ" + bytes(4000)), Cause.WRONG_CONTENT, "200, but "),
    Case("a broken cabinet", file(CAB[:-2000]), Cause.WRONG_CONTENT, "200, but a cabinet that cannot be expanded"),
    Case("an odd encoding", status(200, PDB, headers=[("Content-Encoding", "br")]), Cause.WRONG_CONTENT, "200, but "),
    Case("not gzip", status(200, PDB, headers=[("Content-Encoding", "gzip")]), Cause.WRONG_CONTENT, "a body that"),
    Case("an unasked range", status(206, PDB, headers=[("Content-Range", "bytes 0-9/10")]), Cause.REFUSED, "206, but"),
    Case("401", status(401), Cause.REFUSED, "401"),
    Case("403", status(403), Cause.REFUSED, "403"),
    Case("407", status(407), Cause.REFUSED, "the proxy answered 407"),
    Case("406", status(406), Cause.REFUSED, "406"),
    Case("508", status(508), Cause.REFUSED, "508"),
    Case("416", status(416), Cause.REFUSED, "416"),
    Case("304", status(304), Cause.REFUSED, "304"),
    Case("429", busy(), Cause.UNAVAILABLE, "429", GIVEN_UP),
    Case("408", status(408), Cause.UNAVAILABLE, "408", GIVEN_UP),
    Case("500", status(500), Cause.UNAVAILABLE, "500", GIVEN_UP),
    Case("502", status(502), Cause.UNAVAILABLE, "502", GIVEN_UP),
    Case("503", status(503), Cause.UNAVAILABLE, "503", GIVEN_UP),
    Case("599", status(599), Cause.UNAVAILABLE, "599", GIVEN_UP),
    Case("reset", reset(), Cause.UNAVAILABLE, "the connection broke", GIVEN_UP),
    Case("hung up", hang_up(), Cause.UNAVAILABLE, "the connection broke", GIVEN_UP),
    Case("not http", raw(b"SSH-2.0-OpenSSH_9.2\r\n"), Cause.UNAVAILABLE, "the connection broke", GIVEN_UP),
    Case("cut at once", cut(0), Cause.UNAVAILABLE, "the connection broke", GIVEN_UP),
    Case("chunks that end early", chunked(cut_after=0), Cause.UNAVAILABLE, "the connection broke", GIVEN_UP),
    Case("redirect to itself", redirect(f"/{PATH}"), Cause.REFUSED, "more than 10 redirects", 11),
    Case("redirect to a file", redirect("file:///etc/passwd"), Cause.REFUSED, "redirect to a file URL"),
    Case("redirect to ftp", redirect("ftp://127.0.0.1/x"), Cause.REFUSED, "redirect to a ftp URL"),
    Case("redirect to no port", redirect("http://127.0.0.1:99999/x"), Cause.REFUSED, "redirect to something that"),
    Case("redirect to half a name", redirect("http://xn--/x"), Cause.REFUSED, "redirect to something that"),
    Case("redirect to empty names", redirect("http://..../x"), Cause.REFUSED, "redirect to "),
    Case("redirect to nonsense", redirect("http://[::1"), Cause.REFUSED, "redirect to something that is not a URL"),
]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_what_is_no_answer_fails_the_key_and_leaves_nothing(case: Case, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.always(PATH, case.answer)
    async with rig.plain(upstream, retries=GIVEN_UP - 1) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is case.cause
    assert outcome.detail is not None
    assert [attempt.upstream for attempt in outcome.attempts] == [upstream.url]
    assert outcome.attempts[0].answer.startswith(case.said)
    assert len(upstream.asked(PATH)) == case.requests
    assert len(rig.clock.slept) == (GIVEN_UP - 1 if case.requests == GIVEN_UP else 0)
    assert visible(rig.store) == []
    assert scratch_files(rig.store) == []
    assert rig.misses() == []


@pytest.mark.parametrize("less", [1, 100, 4000])
async def test_a_portable_pdb_that_ends_before_its_streams_do_is_refused(
    less: int, upstream: Upstream, rig: Rig
) -> None:
    key = PortablePdbKey("net.pdb", KEY.guid)
    content, _ = make_portable_pdb(KEY.guid, 1, payload_bytes=5000)
    upstream.always(key.index, status(200, content[:-less]))
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(key)
        assert isinstance(outcome, Failed)
        assert outcome.cause is Cause.WRONG_CONTENT
        assert outcome.attempts[0].answer.startswith("200, but cut short")
        upstream.always(key.index, status(200, content))
        assert isinstance(await source.fetch(key), Fetched)


@pytest.mark.parametrize("code", [404, 410])
@pytest.mark.parametrize("friendly", [True, False], ids=["page", "empty"])
async def test_a_definite_no_is_a_miss_and_is_remembered(
    code: int, friendly: bool, upstream: Upstream, rig: Rig
) -> None:
    upstream.always(PATH, page(code) if friendly else status(code))
    async with rig.plain(upstream) as source:
        first = await source.fetch(KEY)
        again = await source.fetch(KEY)
    assert first == Missing(Cause.NOT_PUBLISHED, (Attempt(upstream.url, str(code)),))
    assert isinstance(again, Missing)
    assert again.cause is Cause.REMEMBERED_MISS
    (attempt,) = again.attempts
    assert re.fullmatch(rf"{code}, remembered until \d{{4}}-\d\d-\d\d \d\d:\d\d UTC", attempt.answer)
    assert len(upstream.requests) == 1
    assert rig.misses() == [PATH]
    assert visible(rig.store) == scratch_files(rig.store) == []


async def test_a_remembered_miss_of_one_server_keeps_no_other_from_being_asked(
    upstream: Upstream, make_upstream: MakeUpstream, rig: Rig
) -> None:
    other = make_upstream()
    async with rig.plain(upstream) as source:
        await source.fetch(KEY)
    other.files[PATH] = PDB
    async with rig.source(f"srv*{rig.store}*{upstream.url}*{other.url}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.upstream == other.url
    assert [attempt.answer.partition(" until")[0] for attempt in outcome.attempts] == ["404, remembered", "200"]


async def test_what_has_turned_up_is_no_miss_any_more(upstream: Upstream, rig: Rig) -> None:
    path = f"srv*{rig.store}*{upstream.url}"
    async with rig.source(path) as source:
        assert isinstance(await source.fetch(KEY), Missing)
    assert rig.misses() == [PATH]
    upstream.files[PATH] = PDB
    config = rig.config(path)
    async with rig.open(replace(config, misses=replace(config.misses, ttl_s=0.0))) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert rig.misses() == []


@pytest.mark.parametrize("has", ["app.pd_", "file.ptr"])
async def test_a_name_that_is_forbidden_keeps_no_other_from_being_asked(has: str, upstream: Upstream, rig: Rig) -> None:
    folder = PATH.rpartition("/")[0]
    target = rig.folder / "drop.pdb"
    target.write_bytes(PDB)
    upstream.always("*", status(403))
    upstream.always(f"{folder}/{has}", status(200, CAB if has == "app.pd_" else str(target).encode()))
    entry = ServerEntry(url=upstream.url, two_tier=False, pointers=True)
    path = f"srv*{rig.store}*{upstream.url}"
    async with rig.source(path, servers=(entry,), allow=(str(rig.folder),)) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert [attempt.answer for attempt in outcome.attempts] == ["403"] * (len(outcome.attempts) - 1) + ["200"]
    assert outcome.attempts[-1].asked == has


@pytest.mark.parametrize("entry", [{}, {"forbidden_is_missing": False}])
async def test_a_forbidden_name_is_no_definite_no_and_never_remembered(
    entry: dict[str, bool], upstream: Upstream, rig: Rig
) -> None:
    upstream.always(PATH, status(403))  # and 404 for the cabinet
    servers = (ServerEntry(url=upstream.url, **entry),)  # type: ignore[arg-type]
    async with rig.source(f"srv*{rig.store}*{upstream.url}", servers=servers) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.detail) == (Cause.REFUSED, f"{upstream.url}/{PATH}: 403")
    assert [attempt.answer for attempt in outcome.attempts] == ["403", "404"]
    assert rig.misses() == []


async def test_where_forbidden_means_missing_it_is_a_miss_and_remembered(upstream: Upstream, rig: Rig) -> None:
    upstream.always("*", status(403))
    servers = (ServerEntry(url=upstream.url, forbidden_is_missing=True),)
    async with rig.source(f"srv*{rig.store}*{upstream.url}", servers=servers) as source:
        first = await source.fetch(KEY)
        again = await source.fetch(KEY)
        assert isinstance(await source.read_image(IMAGE_KEY), Missing)
    assert isinstance(first, Missing)
    assert (first.cause, [attempt.answer for attempt in first.attempts]) == (Cause.NOT_PUBLISHED, ["403", "403"])
    assert isinstance(again, Missing)
    assert again.cause is Cause.REMEMBERED_MISS
    assert PATH in rig.misses()


async def test_an_image_that_is_forbidden_may_lie_there_as_a_cabinet(upstream: Upstream, rig: Rig) -> None:
    upstream.always("*", status(403))
    path = f"srv*{rig.store}*{upstream.url}"
    async with rig.source(path) as source:
        outcome = await source.read_image(IMAGE_KEY)
        assert isinstance(outcome, Failed)
        assert outcome.cause is Cause.REFUSED
        upstream.always(IMAGE_KEY.index[:-1] + "_", status(200, cabinet(IMAGE)))
        assert isinstance(await source.read_image(IMAGE_KEY), Image)


async def test_a_server_that_has_lower_case_alone_is_asked_so(upstream: Upstream, rig: Rig) -> None:
    key = replace(KEY, name="App.pdb")
    upstream.files[key.index.lower()] = PDB
    path = f"srv*{rig.store}*{upstream.url}"
    async with rig.source(path, servers=(ServerEntry(url=upstream.url, letter_case="lower"),)) as source:
        assert isinstance(await source.fetch(key), Fetched)
        await source.fetch(replace(key, age=9))
    assert [request.path for request in upstream.requests] == [request.path.lower() for request in upstream.requests]
    assert visible(rig.store) == [key.index]


PASSING = [
    ("500", status(500)),
    ("502", status(502)),
    ("503", status(503)),
    ("429", busy(1)),
    ("reset", reset()),
    ("cut at once", cut(0)),
    ("cut", cut(12_345)),
    ("cut without ranges", cut(12_345, ranges=False)),
    ("cut without a validator", cut(12_345, etag=None)),
    ("cut chunks", chunked(cut_after=2)),
]


@pytest.mark.parametrize("answer", [answer for _, answer in PASSING], ids=[name for name, _ in PASSING])
async def test_what_passes_is_waited_out(answer: Answer, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, answer, answer)
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY)
    path = rig.store / PATH
    assert outcome == Fetched(path, len(PDB), upstream.url, (Attempt(upstream.url, "200"),))
    assert path.read_bytes() == PDB
    assert visible(rig.store) == [PATH]
    assert scratch_files(rig.store) == []
    assert len(upstream.requests) == 3
    assert len(rig.clock.slept) == 2


@pytest.mark.parametrize(
    "answer", [gzipped(), chunked(), unframed(PDB), file(CAB)], ids=["gzip", "chunked", "to eof", "cab"]
)
async def test_a_file_comes_whole_however_it_is_sent(answer: Answer, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.always(PATH, answer)
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
        assert isinstance(await source.fetch(KEY), Present)
    assert (rig.store / PATH).read_bytes() == PDB
    assert len(upstream.requests) == 1
    assert upstream.requests[0].headers["accept-encoding"] == "identity"


@pytest.mark.parametrize("media_type", ["text/html; charset=utf-8", "application/json", "text/xml", "image/png"])
async def test_the_bytes_count_and_not_what_they_are_said_to_be(media_type: str, upstream: Upstream, rig: Rig) -> None:
    upstream.always(PATH, typed(PDB, media_type))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    upstream.always(PATH, typed(CAB, media_type))
    async with rig.source(f"srv*{rig.folder / 'other'}*{upstream.url}") as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert (rig.folder / "other" / PATH).read_bytes() == PDB


@pytest.mark.parametrize(
    ("answer", "hint"),
    [
        (page(), Hint.PAGE),
        (redirect("/signin"), Hint.PAGE),
        (typed(b'{"errors":[{"status":404}]}', "application/json"), Hint.PAGE),
        (status(508), Hint.LOOP),
        (file(OTHER_AGE), Hint.OTHER_BUILD),
        (unframed(PDB[:20_000]), Hint.CUT_SHORT),
        (status(403), None),
    ],
    ids=["page", "sign in", "json", "loop", "another age", "cut short", "403"],
)
async def test_what_calls_for_other_advice_than_its_cause_is_told(
    answer: Answer, hint: Hint | None, upstream: Upstream, rig: Rig
) -> None:
    upstream.always(PATH, answer)
    upstream.always("signin", page())
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.hint is hint


async def test_a_page_that_comes_in_crumbs_is_known(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = b"\r\n<!-- hello --><html></html>"
    upstream.always(PATH, chunked(chunk_bytes=1))
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY)
    assert outcome.attempts[0].answer == "200, but an HTML page"  # type: ignore[union-attr]


@pytest.mark.parametrize("sent", ["seconds", "date"])
async def test_a_pause_that_is_asked_for_is_kept(sent: str, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, busy(17, as_date=sent == "date"))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert 15 < sum(rig.clock.slept) <= 17


@pytest.mark.parametrize(("code", "enough"), [(429, 1), (503, 3)], ids=["of the host", "of several files"])
async def test_a_pause_longer_than_we_wait_fails_the_key_and_spares_the_host(
    code: int, enough: int, upstream: Upstream, rig: Rig
) -> None:
    upstream.always("*", busy(3600, code=code))
    async with rig.plain(upstream) as source:
        outcomes = [await source.fetch(replace(KEY, age=age)) for age in range(enough + 2)]
    assert all(isinstance(outcome, Failed) for outcome in outcomes)
    answers = [outcome.attempts[0].answer for outcome in outcomes]  # type: ignore[union-attr]
    assert answers == [str(code)] * enough + ["asked for a pause of 3600 s"] * 2
    assert len(upstream.requests) == enough
    assert rig.clock.slept == []


async def test_no_pause_that_is_asked_for_is_longer_than_an_hour(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, busy(10**9))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Failed)
        rig.clock.now_s += 3500
        assert isinstance(await source.fetch(KEY), Failed)
        rig.clock.now_s += 110
        assert isinstance(await source.fetch(KEY), Fetched)
    assert len(upstream.requests) == 2


async def test_a_closed_port_is_tried_again_and_then_unavailable(rig: Rig) -> None:
    with closed_port() as port:
        url = f"http://127.0.0.1:{port}"
        async with rig.source(f"srv*{rig.store}*{url}", retries=2) as source:
            outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.UNAVAILABLE
    assert outcome.attempts[0].answer.startswith("cannot connect")
    assert len(rig.clock.slept) == 2


async def test_after_wrong_content_the_next_upstream_is_asked(
    upstream: Upstream, make_upstream: MakeUpstream, rig: Rig
) -> None:
    upstream.always("*", page())
    good = make_upstream({PATH: PDB})
    async with rig.source(f"srv*{rig.store}*{upstream.url}*{good.url}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert [attempt.answer for attempt in outcome.attempts] == ["200, but an HTML page", "200"]
    assert (rig.store / PATH).read_bytes() == PDB


async def test_one_open_question_leaves_the_key_open(upstream: Upstream, make_upstream: MakeUpstream, rig: Rig) -> None:
    upstream.always("*", status(503))
    without = make_upstream()
    async with rig.source(f"srv*{rig.store}*{upstream.url}*{without.url}", retries=0) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.UNAVAILABLE
    assert rig.misses() == [PATH]  # of the other alone
    async with rig.source(f"srv*{rig.store}*{upstream.url}", retries=0) as source:
        assert isinstance(await source.fetch(KEY), Failed)


async def test_a_file_longer_than_allowed_is_refused(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    entry = ServerEntry(url=upstream.url, compressed=False, two_tier=False)
    for answer in (file(), chunked(), gzipped(), file(CAB)):
        upstream.always(PATH, answer)
        path = f"srv*{rig.store}*{upstream.url}"
        async with rig.source(path, servers=(entry,), largest_file_bytes=len(PDB) - 1) as source:
            outcome = await source.fetch(KEY)
        assert isinstance(outcome, Failed)
        assert outcome.cause is Cause.WRONG_CONTENT
    assert visible(rig.store) == scratch_files(rig.store) == []


async def test_misses_keep_their_connection(upstream: Upstream, rig: Rig) -> None:
    upstream.always("*", status(404, b"no such file" * 100))
    async with rig.source(f"srv*{rig.store}*{upstream.url}", connections=1) as source:
        for age in range(5):
            outcome: Outcome = await source.fetch(replace(KEY, age=age))
            assert isinstance(outcome, Missing)
    assert len(upstream.requests) == 11  # two names each, and index2.txt once
    assert upstream.connections == 1


async def test_a_range_longer_than_it_says_is_refused(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    head = f"HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 10000-{len(PDB) - 1}/{len(PDB)}\r\n"
    body = PDB[10_000:] + b"more"
    chunk = f"Transfer-Encoding: chunked\r\n\r\n{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"
    upstream.script(PATH, cut(10_000), raw(head.encode() + chunk))
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.attempts[0].answer) == (Cause.WRONG_CONTENT, "a body longer than announced")
    assert visible(rig.store) == scratch_files(rig.store) == []
