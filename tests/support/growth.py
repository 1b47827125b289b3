"""How processor time, or the number of lines that run, grows with the length of an input."""

from __future__ import annotations

import gc
import math
import sys
import time
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import FrameType
    from typing import Any

_ENOUGH_S = 0.005
_LIKELY_LINEAR = 1.3


def growth(run: Callable[[int], object], *, begin: int = 500, most: int = 64_000) -> float:
    """Return the power of the length with which the time of ``run(length)`` grows: 1 is linear, 2 is quadratic.

    The length is doubled from *begin* until a run takes long enough to be measured, so that what is cubic ends soon;
    the result is 0 if no run up to *most* takes so long.
    """
    if sys.platform == "win32":
        pytest.skip("Windows counts processor time in ticks of 16 ms; what is only computed takes the same elsewhere")
    length = begin
    while (before_s := _least_s(run, length)) < _ENOUGH_S:
        if length > most:
            return 0
        length *= 2
    # The least of several looks: what else the processors do only adds to a time, now to one, now to the other.
    powers = [math.log(_least_s(run, 4 * length) / before_s, 4)]
    for _ in range(4):
        if powers[-1] < _LIKELY_LINEAR:
            break
        powers.append(math.log(_least_s(run, 4 * length) / _least_s(run, length), 4))
    return min(powers)


def _least_s(run: Callable[[int], object], length: int) -> float:
    took_s = []
    gc.disable()  # looking for garbage takes the longer, the more objects there are
    try:
        for _ in range(3):
            began_s = time.process_time()
            run(length)
            took_s.append(time.process_time() - began_s)
    finally:
        gc.enable()
    return min(took_s)


def lines_run(run: Callable[[], object]) -> int:
    """Return how many lines of Python run in ``run()``, the same on every machine."""
    lines = 0

    def trace(_frame: FrameType, event: str, _argument: object) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        run()
    finally:
        sys.settrace(before)
    return lines
