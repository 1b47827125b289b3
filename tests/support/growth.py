"""How processor time grows with the length of an input."""

from __future__ import annotations

import gc
import math
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_ENOUGH_S = 0.005


def growth(run: Callable[[int], object], *, begin: int = 500, most: int = 64_000) -> float:
    """Return the power of the length with which the time of ``run(length)`` grows: 1 is linear, 2 is quadratic.

    The length is doubled from *begin* until a run takes long enough to be measured, so that what is cubic ends soon;
    the result is 0 if no run up to *most* takes so long.
    """
    length = begin
    while (before_s := _least_s(run, length)) < _ENOUGH_S:
        if length > most:
            return 0
        length *= 2
    return math.log(_least_s(run, 4 * length) / before_s, 4)


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
