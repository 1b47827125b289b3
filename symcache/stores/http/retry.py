"""When to ask an upstream again, and when to leave it alone."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

import anyio

from symcache.errors import UpstreamUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

__all__ = ["CircuitBreaker", "CircuitOpenError", "RetryPolicy", "parse_retry_after"]


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and after which pauses a request is repeated.

    Attributes:
        retries: Repetitions after the first try.
        first_s: Longest pause before the first repetition; it doubles with each further one.
        longest_s: Longest pause of all; an upstream that asks for more is not asked again.
    """

    retries: int
    first_s: float
    longest_s: float

    def pause_s(
        self, failures: int, retry_after_s: float | None, draw: Callable[[], float] = random.random
    ) -> float | None:
        """Return the seconds to wait after the *failures*-th failure in a row; None to give up.

        The pause is drawn between half of its bound and the bound, so that many clients do not come back at once.
        """
        if failures > self.retries:
            return None
        if retry_after_s is not None:
            return retry_after_s if retry_after_s <= self.longest_s else None
        bound_s = min(self.first_s * 2.0 ** (failures - 1), self.longest_s)
        return bound_s * (0.5 + draw() / 2)


def parse_retry_after(text: str | None, *, now: Callable[[], float] = time.time) -> float | None:
    """Return the seconds that a ``Retry-After`` field asks for; None if there is none that can be read.

    Source: RFC 9110, section 10.2.3: seconds, or a date.
    """
    if text is None:
        return None
    text = text.strip()
    if text.isascii() and text.isdigit():
        return float(text[:10])
    try:
        date = parsedate_to_datetime(text)
    except (ValueError, OverflowError):
        return None
    if date.tzinfo is None:
        date = date.replace(tzinfo=UTC)
    return max(0.0, (date - datetime.fromtimestamp(now(), UTC)).total_seconds())


class CircuitOpenError(UpstreamUnavailable):
    """The host was not asked at all; trying again before its time is over is of no use."""


_SEVERAL_FILES = 3
# A server that runs for weeks must not leave another alone for what a single answer asked.
_LONGEST_PAUSE_S = 3600.0
# A try that nothing was heard of for so long was given up.
_LONGEST_TRY_S = 30.0


@dataclass(slots=True)
class _Host:
    """A host that failed since it last answered.

    Attributes:
        failing_since_s: When the first of the requests that failed was made.
        failures: How many failed.
        files: What they asked for; no more than are of interest.
        is_ailing: It is the host that fails, and not one file.
        not_before_s: When it is to be asked again.
        is_open: It failed too often; one request tries it when the time has come.
        tried_s: When that request was made; None if there is none.
    """

    failing_since_s: float
    failures: int = 0
    files: set[str] = field(default_factory=set)
    is_ailing: bool = False
    not_before_s: float = 0.0
    is_open: bool = False
    tried_s: float | None = None


class CircuitBreaker:
    """A circuit breaker for each host, shared by all requests of a run.

    A failure may be of one file: that delays no other file. It is of the host if it says so itself, as a connection
    that is not to be had or a 429, or if several different files failed and nothing was answered in between.

    A host that asked for a pause (``Retry-After``) gets it from everybody. One that failed *failures* times in a row is
    left alone for *cool_down_s*, but not before it has been failing for *hiccup_s*: many requests that are under way
    break at once when a connection does, and that is one failure and not many. After the cool-down one request tries
    it; the others follow when that one is answered.

    A host may answer, and let every body stop within. After *failures* different files that stopped, and none that came
    whole in between, it is left alone as well; then the others wait until a body comes, and not just its beginning.

    Args:
        failures: Failures in a row that are too many.
        cool_down_s: Seconds for which a host is then left alone.
        longest_pause_s: Longest pause that is waited out for a host; beyond it requests fail at once.
        hiccup_s: A host that fails for less than this is never left alone; the retries of each request bridge it.
        clock_s: Monotonic seconds.
        sleep: Waits a number of seconds.
    """

    def __init__(
        self,
        *,
        failures: int,
        cool_down_s: float,
        longest_pause_s: float,
        hiccup_s: float = 2.0,
        clock_s: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = anyio.sleep,
    ) -> None:
        self._failures = failures
        self._cool_down_s = cool_down_s
        self._longest_pause_s = longest_pause_s
        self._hiccup_s = hiccup_s
        self._clock_s = clock_s
        self._sleep = sleep
        self._hosts: dict[tuple[str, str, int], _Host] = {}
        self._stalled: dict[tuple[str, str, int], set[str]] = {}

    async def wait_pause(self, origin: tuple[str, str, int], *, url: str) -> None:
        """Return when *origin* may be asked, as far as is known now; before it is, `wait_turn` has the last word.

        Raises:
            CircuitOpenError: It is being left alone, or asked for a longer pause than we wait.
        """
        while (host := self._hosts.get(origin)) is not None:
            pause_s = host.not_before_s - self._clock_s()
            if pause_s <= 0:
                return
            if host.is_open:
                raise CircuitOpenError("left alone after repeated failures", url=url, retry_after_s=pause_s)
            if pause_s > self._longest_pause_s:
                raise CircuitOpenError(f"asked for a pause of {pause_s:.0f} s", url=url, retry_after_s=pause_s)
            await self._sleep(pause_s)

    async def wait_turn(self, origin: tuple[str, str, int], *, url: str) -> float:
        """Return when *origin* is to be asked now; the time of that is what `note_failure` wants to know.

        Raises:
            CircuitOpenError: As `wait_pause`, or another request tries whether it is well again.
        """
        await self.wait_pause(origin, url=url)
        now_s = self._clock_s()
        host = self._hosts.get(origin)
        if host is not None and host.is_open:
            host.not_before_s = now_s + max(self._cool_down_s, _LONGEST_TRY_S)  # for all but this one
            host.tried_s = now_s
        return now_s

    def note_success(self, origin: tuple[str, str, int], *, has_body: bool = False) -> None:
        """Note that *origin* answered; with a body it tells nothing of that as yet."""
        if not self._is_stalling(origin):
            self._hosts.pop(origin, None)
        elif not has_body and (host := self._hosts.get(origin)) is not None:
            host.not_before_s = self._clock_s()  # another one may try whether bodies come
            host.tried_s = None

    def note_body(self, origin: tuple[str, str, int], *, is_whole: bool) -> None:
        """Note that a body of *origin* has come, or a good deal of it."""
        if is_whole:
            self._stalled.pop(origin, None)
        self._hosts.pop(origin, None)

    def note_stall(self, origin: tuple[str, str, int], *, file: str) -> bool:
        """Note that a body of *origin* stopped within; return whether it begins to be left alone with that."""
        files = self._stalled.setdefault(origin, set())
        if len(files) < self._failures:
            files.add(file)
        if not self._is_stalling(origin):
            return False
        now_s = self._clock_s()
        host = self._hosts.setdefault(origin, _Host(failing_since_s=now_s))
        was_open, host.is_open, host.is_ailing, host.tried_s = host.is_open, True, True, None
        host.not_before_s = now_s + self._cool_down_s
        return not was_open

    def _is_stalling(self, origin: tuple[str, str, int]) -> bool:
        return len(self._stalled.get(origin, ())) >= self._failures

    def note_cancelled(self, origin: tuple[str, str, int], *, asked_s: float) -> None:
        """Note that the request made at *asked_s* was given up; if it was the one that tries, another one may."""
        host = self._hosts.get(origin)
        if host is not None and host.tried_s == asked_s:
            host.not_before_s = asked_s
            host.tried_s = None

    def note_failure(
        self,
        origin: tuple[str, str, int],
        *,
        asked_s: float,
        retry_after_s: float | None = None,
        file: str | None = None,
    ) -> bool:
        """Note that *origin* did not answer what it was asked at *asked_s*.

        Args:
            origin: Who.
            asked_s: When.
            retry_after_s: The pause it asked for; an hour is granted at most.
            file: What for, if it may be of that file alone; None if it is of the host.

        Returns:
            Whether it begins to be left alone with that.
        """
        host = self._hosts.setdefault(origin, _Host(failing_since_s=asked_s))
        now_s = self._clock_s()
        if retry_after_s is not None:
            retry_after_s = min(retry_after_s, _LONGEST_PAUSE_S)
        if file is not None and len(host.files) < _SEVERAL_FILES:
            host.files.add(file)
        host.is_ailing = host.is_ailing or file is None or len(host.files) >= _SEVERAL_FILES
        # Those that are told to pause while a pause is on were asked before it: they are no more failures in a row.
        if retry_after_s is None or now_s >= host.not_before_s:
            host.failures += 1
        if not host.is_ailing:
            return False
        was_open = host.is_open
        lasts = host.failures >= self._failures and now_s - host.failing_since_s >= self._hiccup_s
        if was_open or lasts:
            host.is_open = True
            host.tried_s = None
            host.not_before_s = now_s + max(self._cool_down_s, retry_after_s or 0.0)
        elif retry_after_s is not None:
            host.not_before_s = max(host.not_before_s, now_s + retry_after_s)
        return host.is_open and not was_open
