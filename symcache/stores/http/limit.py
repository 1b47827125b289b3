"""How many requests to have under way: as many as bring more, and fewer when a server asks for it."""

from __future__ import annotations

import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MAX_AUTO_CONNECTIONS", "ConnectionLimit"]


MAX_AUTO_CONNECTIONS = 64

_INITIAL = 8
_MIN = 2
_WORTHWHILE_GAIN = 1.1
_ROUNDS_BETWEEN_PROBES = 16
# What a response counts beside its bytes, so that misses and small files are worth a round trip too.
_RESPONSE_BYTES = 32 * 1024


class ConnectionLimit:
    """The number of requests that may be under way, adjusted while they are answered.

    The limit doubles as long as that raises the throughput by a tenth, and is tried again after some rounds. A round
    ends when as many responses have come as the limit allows requests. After a sign of overload (429, 503, a time-out)
    the limit is halved, once a round, and from then on grows by one a round.

    Args:
        fixed: A limit that stays; None finds one, up to `MAX_AUTO_CONNECTIONS`.
        clock_s: Monotonic seconds.
    """

    def __init__(self, fixed: int | None = None, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        self.value = fixed or _INITIAL
        self.most = fixed or MAX_AUTO_CONNECTIONS
        self._is_fixed = fixed is not None
        self._clock_s = clock_s
        self._was_overloaded = False
        self._overloaded_s = -math.inf
        self._proven = self.value  # the largest limit that brought more than the one before it, and what it brought
        self._proven_rate = 0.0
        self._rounds_to_wait = 0
        self._saturated = False
        self._begin_round()

    def note_response(self, size_bytes: int, *, saturated: bool) -> None:
        """Note a response.

        Args:
            size_bytes: Length of its body.
            saturated: As many requests as the limit allows were under way.
        """
        if self._is_fixed:
            return
        self._responses += 1
        self._units += size_bytes + _RESPONSE_BYTES
        self._saturated = self._saturated or saturated
        if self._responses >= self.value:
            if self._saturated:
                self._end_round(self._units / max(self._clock_s() - self._began_s, 1e-6))
            self._begin_round()

    def note_overload(self, *, asked_s: float) -> None:
        """Note a sign of overload in answer to what was asked at *asked_s*, unless one has halved the limit since."""
        if self._is_fixed or asked_s < self._overloaded_s:
            return
        self._was_overloaded = True
        self.value = max(self.value // 2, _MIN)
        self._overloaded_s = self._clock_s()
        self._begin_round()

    def _begin_round(self) -> None:
        self._began_s = self._clock_s()
        self._responses = self._units = 0
        self._saturated = False

    def _end_round(self, rate: float) -> None:
        if self._was_overloaded:
            self.value = min(self.value + 1, self.most)
        elif self._rounds_to_wait > 1:
            self._rounds_to_wait -= 1
        elif self._rounds_to_wait or rate > self._proven_rate * _WORTHWHILE_GAIN:
            self._rounds_to_wait = 0
            self._proven, self._proven_rate = self.value, rate
            self.value = min(2 * self.value, self.most)
        else:
            self.value, self._rounds_to_wait = self._proven, _ROUNDS_BETWEEN_PROBES
