from __future__ import annotations

import pytest

from symcache.stores.http.pool import MAX_AUTO_CONNECTIONS, ConnectionLimit


class Line:
    """Answers requests of 64 KiB: one takes a round trip, and only *most_at_once* go on at the same time."""

    def __init__(self, most_at_once: int) -> None:
        self.now_s = 0.0
        self._most_at_once = most_at_once

    def __call__(self) -> float:
        return self.now_s

    def answer(self, limit: ConnectionLimit, responses: int, *, saturated: bool = True) -> None:
        for _ in range(responses):
            self.now_s += 0.04 / min(limit.value, self._most_at_once)
            limit.note_response(65536, saturated=saturated)


def test_a_limit_grows_to_its_bound_while_that_helps() -> None:
    line = Line(1000)
    limit = ConnectionLimit(clock_s=line)
    began = limit.value
    line.answer(limit, 200)
    assert began < 16
    assert limit.value == limit.most == MAX_AUTO_CONNECTIONS


@pytest.mark.parametrize("most_at_once", [4, 16])
def test_a_limit_stays_where_more_connections_bring_nothing(most_at_once: int) -> None:
    line = Line(most_at_once)
    limit = ConnectionLimit(clock_s=line)
    line.answer(limit, 200)
    assert limit.value == max(8, most_at_once)


def test_a_limit_is_tried_again_when_the_line_has_become_wider() -> None:
    line = Line(8)
    limit = ConnectionLimit(clock_s=line)
    line.answer(limit, 100)
    line._most_at_once = 1000
    line.answer(limit, 3000)
    assert limit.value == MAX_AUTO_CONNECTIONS


def test_a_limit_that_is_not_used_up_does_not_grow() -> None:
    line = Line(1000)
    limit = ConnectionLimit(clock_s=line)
    began = limit.value
    line.answer(limit, 200, saturated=False)
    assert limit.value == began


def test_overload_halves_a_limit_once_for_all_who_were_asked_before() -> None:
    line = Line(1000)
    limit = ConnectionLimit(clock_s=line)
    line.answer(limit, 200)
    asked_s, line.now_s = line.now_s, line.now_s + 1
    for _ in range(50):
        limit.note_overload(asked_s=asked_s)
    assert limit.value == 32
    line.answer(limit, 32)
    assert limit.value == 33  # and no faster from then on
    for _ in range(20):
        line.now_s += 1
        limit.note_overload(asked_s=line.now_s)
    assert limit.value == 2


def test_a_fixed_limit_stays() -> None:
    line = Line(1000)
    limit = ConnectionLimit(3, clock_s=line)
    line.answer(limit, 200)
    limit.note_overload(asked_s=line.now_s)
    assert limit.value == limit.most == 3
