"""How a run is told to stop."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence


@contextmanager
def on_first(numbers: Sequence[signal.Signals], act: Callable[[], object]) -> Iterator[None]:
    """Call *act* at the first of these signals; the second ends the process as it always does.

    Does nothing outside the main thread, where signals do not arrive.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, before[number])
        act()

    before: dict[int, Any] = {}
    for number in numbers:
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for stopped, handler in before.items():
            signal.signal(stopped, handler)
