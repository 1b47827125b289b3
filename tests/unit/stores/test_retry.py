"""Patience: pauses, Retry-After, and hosts that are left alone."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.answers import busy, file, status
from support.sources import KEY, PATH, PDB, Clock, Rig
from support.wire import closed_port

from symcache.config import values
from symcache.errors import UpstreamUnavailable
from symcache.events import Noted
from symcache.stores.http.retry import CircuitBreaker, CircuitOpenError, RetryPolicy, parse_retry_after
from symcache.stores.results import Cause, Failed, Fetched, Missing

if TYPE_CHECKING:
    from support.answers import Answer
    from support.upstream import Upstream


@pytest.fixture
def rig(rig_on_each_transport: Rig) -> Rig:
    return rig_on_each_transport


def next_hop_failed() -> Answer:
    """Answer as a symcache server does whose upstream is down."""
    said = "cdn; received-status=200, symcache; error=destination_unavailable"
    return status(503, headers=[("Retry-After", "5"), ("Proxy-Status", said)])


ORIGIN = ("https", "symbols.example", 443)
OTHER = ("https", "symbols.example", 8443)
NOW_S = 1_500_000_000.0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, None),
        ("", None),
        ("17", 17.0),
        (" 0 ", 0.0),
        ("-1", None),
        ("1.5", None),
        ("soon", None),
        ("99999999999999999999", 9999999999.0),
        ("Fri, 14 Jul 2017 02:41:00 GMT", 60.0),
        ("Friday, 14-Jul-17 02:41:00 GMT", 60.0),
        ("Fri, 14 Jul 2017 04:41:00 +0200", 60.0),
        ("Fri, 14 Jul 2017 02:41:00", 60.0),
        ("Fri, 14 Jul 2000 02:41:00 GMT", 0.0),
        ("Fri, 99 Jul 2017 02:41:00 GMT", None),
        ("Fri, 14 Jul 99999999999999999999 02:41:00 GMT", None),
    ],
)
def test_a_pause_is_asked_for_in_seconds_or_by_date(text: str | None, expected: float | None) -> None:
    assert parse_retry_after(text, now=lambda: NOW_S) == expected


@given(st.text(max_size=40))
def test_any_text_is_a_pause_or_none(text: str) -> None:
    pause_s = parse_retry_after(text)
    assert pause_s is None or pause_s >= 0


@given(st.integers(1, 8), st.floats(0, 1))
def test_pauses_double_up_to_their_bound_and_are_drawn_below_it(failures: int, drawn: float) -> None:
    pause_s = RetryPolicy(8, 0.2, 5.0).pause_s(failures, None, lambda: drawn)
    bound_s = min(0.2 * 2 ** (failures - 1), 5.0)
    assert pause_s is not None
    assert bound_s / 2 <= pause_s <= bound_s


def test_a_policy_gives_up_after_its_retries_or_when_asked_for_too_much() -> None:
    policy = RetryPolicy(2, 0.2, 30.0)
    assert policy.pause_s(2, None) is not None
    assert policy.pause_s(3, None) is None
    assert policy.pause_s(1, 30.0) == 30.0
    assert policy.pause_s(1, 30.1) is None


def make_breaker(clock: Clock, *, failures: int = 3) -> CircuitBreaker:
    return CircuitBreaker(
        failures=failures, cool_down_s=60, longest_pause_s=30, hiccup_s=2, clock_s=clock, sleep=clock.sleep
    )


async def ask(breaker: CircuitBreaker, origin: tuple[str, str, int] = ORIGIN) -> float:
    return await breaker.wait_turn(origin, url="https://symbols.example/x")


async def test_a_host_that_keeps_failing_is_left_alone_and_then_tried_by_one() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    began = []
    for _ in range(5):
        asked_s = await ask(breaker)
        clock.now_s += 1
        began.append(breaker.note_failure(ORIGIN, asked_s=asked_s))
        if began[-1]:
            break
    assert began == [False, False, True]
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    await ask(breaker, OTHER)
    clock.now_s += 60
    asked_s = await ask(breaker)  # the one that tries
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    assert not breaker.note_failure(ORIGIN, asked_s=asked_s)  # told already
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    clock.now_s += 60
    await ask(breaker)
    breaker.note_success(ORIGIN)
    await ask(breaker)
    await ask(breaker)


async def test_a_host_whose_bodies_stop_is_left_alone_though_it_answers() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    for name in ("1", "1", "2"):
        await ask(breaker)
        breaker.note_success(ORIGIN, has_body=True)
        assert not breaker.note_stall(ORIGIN, file=name)
    assert breaker.note_stall(ORIGIN, file="3")
    assert not breaker.note_stall(ORIGIN, file="4")  # told already
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    clock.now_s += 60
    await ask(breaker)  # the one that tries
    breaker.note_success(ORIGIN, has_body=True)  # it begins as all others did
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    breaker.note_stall(ORIGIN, file="5")
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    clock.now_s += 60
    await ask(breaker)
    breaker.note_success(ORIGIN)  # a miss tells nothing of bodies: the next one tries
    await ask(breaker)
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    breaker.note_body(ORIGIN, is_whole=True)
    await ask(breaker)
    await ask(breaker)
    assert not breaker.note_stall(ORIGIN, file="6")


async def test_a_long_body_that_goes_on_lets_the_others_go_on() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    for name in ("1", "2", "3"):
        breaker.note_stall(ORIGIN, file=name)
    clock.now_s += 60
    await ask(breaker)
    breaker.note_success(ORIGIN, has_body=True)
    breaker.note_body(ORIGIN, is_whole=False)
    await ask(breaker)
    assert breaker.note_stall(ORIGIN, file="7")  # but it has to end before all is forgotten


async def test_a_body_that_comes_whole_in_between_is_no_row_of_stops() -> None:
    breaker = make_breaker(Clock())
    for number in range(10):
        assert not breaker.note_stall(ORIGIN, file=str(number))
        breaker.note_success(ORIGIN, has_body=True)
        breaker.note_body(ORIGIN, is_whole=True)
        await ask(breaker)


async def test_whoever_tries_and_is_cancelled_leaves_the_try_to_the_next() -> None:
    clock = Clock()
    breaker = make_breaker(clock, failures=1)
    breaker.note_failure(ORIGIN, asked_s=clock.now_s - 5)
    clock.now_s += 60
    await ask(breaker)  # and nothing is ever heard of it
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    clock.now_s += 60
    await ask(breaker)


async def test_many_that_break_at_once_are_one_hiccup() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    asked_s = await ask(breaker)
    clock.now_s += 0.5
    assert not any(breaker.note_failure(ORIGIN, asked_s=asked_s) for _ in range(64))
    await ask(breaker)
    clock.now_s += 1.5
    assert breaker.note_failure(ORIGIN, asked_s=asked_s)


async def test_a_success_between_forgets_failures() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    for _ in range(20):
        asked_s = await ask(breaker)
        clock.now_s += 1
        assert not breaker.note_failure(ORIGIN, asked_s=asked_s)
        breaker.note_failure(ORIGIN, asked_s=asked_s)
        breaker.note_success(ORIGIN)


async def test_everybody_keeps_the_pause_that_one_was_asked_for() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    breaker.note_failure(ORIGIN, asked_s=clock.now_s, retry_after_s=20)
    breaker.note_failure(ORIGIN, asked_s=clock.now_s, retry_after_s=5)
    await ask(breaker, OTHER)
    assert clock.slept == []
    await ask(breaker)
    assert clock.slept == [20]
    breaker.note_failure(ORIGIN, asked_s=clock.now_s, retry_after_s=31)
    with pytest.raises(UpstreamUnavailable, match="asked for a pause of 31 s"):
        await ask(breaker)


async def fail(
    breaker: CircuitBreaker, clock: Clock, times: int, *, file: str | None = None, retry_after_s: float | None = None
) -> bool:
    """Ask that many times, a second each, in vain; return whether the host is left alone with that."""
    begins = False
    for _ in range(times):
        asked_s = await ask(breaker)
        clock.now_s += 1
        begins = breaker.note_failure(ORIGIN, asked_s=asked_s, file=file, retry_after_s=retry_after_s)
    return begins


async def test_one_file_pauses_no_other_however_often_it_fails() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    assert not await fail(breaker, clock, 50, file="a")
    assert not await fail(breaker, clock, 50, file="b", retry_after_s=3600)
    await ask(breaker)
    assert clock.slept == []


async def test_several_files_in_a_row_are_of_the_host() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    assert not await fail(breaker, clock, 1, file="a")
    assert not await fail(breaker, clock, 1, file="b")
    assert await fail(breaker, clock, 1, file="c")
    with pytest.raises(CircuitOpenError):
        await ask(breaker)


async def test_a_file_that_is_answered_clears_the_host_of_what_others_had() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    for number in range(30):
        assert not await fail(breaker, clock, 1, file=f"{number}")
        assert not await fail(breaker, clock, 1, file=f"{number} again")
        breaker.note_success(ORIGIN)


async def test_a_pause_that_several_files_were_told_is_kept_for_all_and_counts_once_each_time() -> None:
    clock = Clock()
    breaker = make_breaker(clock, failures=9)
    for number in range(3):
        await fail(breaker, clock, 1, file=f"{number}", retry_after_s=10)
    assert clock.slept == []  # until now it could have been the files
    asked_s = await ask(breaker)
    assert clock.slept == [10]
    for _ in range(20):  # a crowd that asked at the same time
        assert not breaker.note_failure(ORIGIN, asked_s=asked_s, file="3", retry_after_s=10)
    await ask(breaker)
    assert clock.slept == [10, 10]


async def test_pauses_asked_for_again_and_again_end_with_the_host_left_alone_for_as_long() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    assert await fail(breaker, clock, 3, retry_after_s=25)
    assert clock.slept == [25, 25]
    clock.now_s += 59
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    assert not await fail_after(breaker, clock, 1, retry_after_s=600)
    clock.now_s += 599
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    clock.now_s += 1
    await ask(breaker)


async def fail_after(breaker: CircuitBreaker, clock: Clock, pause_s: float, *, retry_after_s: float) -> bool:
    clock.now_s += pause_s
    return await fail(breaker, clock, 1, retry_after_s=retry_after_s)


async def test_whoever_tries_keeps_others_waiting_no_longer_than_it_is_heard_of() -> None:
    clock = Clock()
    breaker = make_breaker(clock)
    assert await fail(breaker, clock, 3)
    clock.now_s += 60
    asked_s = await ask(breaker)
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    breaker.note_cancelled(ORIGIN, asked_s=asked_s - 1)  # another one
    with pytest.raises(CircuitOpenError):
        await ask(breaker)
    breaker.note_cancelled(ORIGIN, asked_s=asked_s)
    await ask(breaker)


async def fetch_all(rig: Rig, symbol_path: str, count: int, **options: object) -> list[object]:
    """Fetch as many keys at once as there are connections."""
    outcomes: list[object] = []
    keys = iter([replace(KEY, name=f"app{number}.pdb") for number in range(count)])
    async with rig.source(symbol_path, **options) as source, anyio.create_task_group() as group:

        async def work() -> None:
            outcomes.extend([await source.fetch(key) for key in keys])

        for _ in range(16):
            group.start_soon(work)
    return outcomes


async def test_a_dead_host_costs_seconds_and_not_minutes_and_is_noted_once(upstream: Upstream, rig: Rig) -> None:
    upstream.always("*", status(503))
    began_s = rig.clock.now_s
    outcomes = await fetch_all(rig, f"srv*{rig.store}*{upstream.url}", 200)
    assert {(type(outcome), outcome.cause) for outcome in outcomes} == {(Failed, Cause.UNAVAILABLE)}  # type: ignore[attr-defined]
    assert len(outcomes) == 200
    assert rig.clock.now_s - began_s < 60
    assert len(upstream.requests) <= 16 * 5
    assert [event.text for event in rig.events if isinstance(event, Noted)] == [
        "127.0.0.1 is left alone for a while: 503"
    ]
    assert rig.misses() == []


async def test_a_hiccup_of_all_lanes_costs_no_file(upstream: Upstream, rig: Rig) -> None:
    keys = [replace(KEY, name=f"app{number}.pdb") for number in range(64)]
    upstream.files |= {key.index: PDB for key in keys}
    for key in keys[:16]:
        upstream.script(key.index, status(503), status(502))
    outcomes = await fetch_all(rig, f"srv*{rig.store}*{upstream.url}", 64, backoff_s=0.01)
    assert [type(outcome) for outcome in outcomes] == [Fetched] * 64


async def test_a_host_left_alone_is_not_waited_for_and_asked_again_after_the_cool_down(
    upstream: Upstream, rig: Rig
) -> None:
    upstream.files[KEY.index] = PDB
    upstream.always("*", status(503))
    # Shorter than the longest back-off, and yet nobody sits it out.
    breaker = values.Breaker(failures=3, cool_down_s=20.0)
    async with rig.plain(upstream, breaker=breaker, retries=2, backoff_s=1.0) as source:
        for age in (11, 12):
            await source.fetch(replace(KEY, age=age))
        first = await source.fetch(KEY)
        asked = len(upstream.requests)
        slept = len(rig.clock.slept)
        second = await source.fetch(KEY)
        assert (len(upstream.requests), len(rig.clock.slept)) == (asked, slept)
        rig.clock.now_s += 20
        upstream.always("*", status(404))
        upstream.script(KEY.index, status(200, PDB))
        third = await source.fetch(KEY)
    assert asked < 10
    assert isinstance(first, Failed)
    assert isinstance(second, Failed)
    assert second.attempts[0].answer == "left alone after repeated failures"
    assert isinstance(third, Fetched)


@pytest.mark.parametrize("answer", [status(200, PDB), status(404), status(403), next_hop_failed()])
async def test_a_host_that_returns_is_found_within_seconds_by_one_that_tries(
    answer: Answer, upstream: Upstream, rig: Rig
) -> None:
    upstream.always("*", status(503))
    await_files = [replace(KEY, age=age) for age in range(20, 40)]
    async with rig.plain(upstream) as source:
        for key in await_files:
            await source.fetch(key)
        upstream.always("*", answer)
        rig.clock.now_s += 2
        asked = len(upstream.requests)
        for key in [KEY, *await_files]:
            outcome = await source.fetch(key)
            assert "left alone" not in outcome.attempts[0].answer  # type: ignore[union-attr]
    assert len(upstream.requests) == asked + 1 + len(await_files)


async def test_one_file_in_trouble_is_tried_again_and_no_other_waits_for_it(upstream: Upstream, rig: Rig) -> None:
    others = [replace(KEY, age=age) for age in range(20, 40)]
    upstream.always("*", status(404))
    for answer in (status(500), busy(20, code=503), busy(20, code=502)):
        upstream.always(PATH, answer)
        async with rig.plain(upstream) as source:
            for _ in range(3):
                assert isinstance(await source.fetch(KEY), Failed)
            slept = len(rig.clock.slept)
            assert slept
            for key in others:
                assert isinstance(await source.fetch(key), Missing)
            assert len(rig.clock.slept) == slept
        rig.clock.slept.clear()


async def test_a_server_whose_own_upstream_failed_is_asked_once_for_each_file(upstream: Upstream, rig: Rig) -> None:
    upstream.always("*", next_hop_failed())
    async with rig.plain(upstream, breaker=values.Breaker(failures=1)) as source:
        outcomes = []
        for age in range(30):
            outcomes.append(await source.fetch(replace(KEY, age=age)))
            rig.clock.now_s += 1
    assert {type(outcome) for outcome in outcomes} == {Failed}
    assert {outcome.cause for outcome in outcomes} == {Cause.UNAVAILABLE}  # type: ignore[union-attr]
    assert len(upstream.requests) == 30
    assert rig.clock.slept == []


async def test_a_server_that_still_fetches_is_asked_again_when_it_says(upstream: Upstream, rig: Rig) -> None:
    late = status(504, headers=[("Retry-After", "5"), ("Proxy-Status", "symcache; error=http_response_timeout")])
    upstream.always("*", late)
    upstream.files[PATH] = PDB
    upstream.script(PATH, late, late, file())
    async with rig.plain(upstream, breaker=values.Breaker(failures=1), retries=2) as source:
        for age in range(20, 24):  # slow files are no fault of the server
            assert isinstance(await source.fetch(replace(KEY, age=age)), Failed)
        assert isinstance(await source.fetch(KEY), Fetched)
    assert rig.clock.slept == [5] * 10


@pytest.mark.parametrize(
    "said", ["cdn; error=connection_refused", "symcache", 'cdn; details="symcache; error=x"', "nosymcache; error=x"]
)
async def test_what_others_say_of_their_next_hop_is_tried_again(said: str, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, status(502, headers=[("Proxy-Status", said)]))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Fetched)


async def test_a_dead_host_keeps_no_other_from_being_asked(upstream: Upstream, rig: Rig) -> None:
    upstream.files |= {replace(KEY, name=f"app{number}.pdb").index: PDB for number in range(40)}
    with closed_port() as port:
        outcomes = await fetch_all(rig, f"srv*{rig.store}*http://127.0.0.1:{port}*{upstream.url}", 40)
    assert [type(outcome) for outcome in outcomes] == [Fetched] * 40


async def test_a_pause_holds_no_connection(upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    upstream.always("*", status(429, headers=[("Retry-After", "20")]))
    asleep, wake = anyio.Event(), anyio.Event()

    async def sleep(_: float) -> None:
        asleep.set()
        await wake.wait()
        rig.clock.now_s += 20

    monkeypatch.setattr(rig.clock, "sleep", sleep)
    async with rig.plain(upstream, connections=2, retries=1) as source, anyio.create_task_group() as group:
        group.start_soon(source.fetch, KEY)
        await asleep.wait()
        assert source._pool.free == 2
        wake.set()
