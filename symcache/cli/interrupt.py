"""Ctrl-C that ends the work and keeps what is done."""

from __future__ import annotations

import signal
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import anyio

__all__ = ["cancelled_by_interrupt", "interrupted_by_sigterm"]


@contextmanager
def cancelled_by_interrupt(scope: anyio.CancelScope) -> Iterator[None]:
    """Cancel *scope* at the first Ctrl-C or SIGTERM; the second ends the process as it always does.

    Needs asyncio, and does nothing outside the main thread, where signals do not arrive.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    import asyncio  # noqa: PLC0415 - it runs already

    loop = asyncio.get_running_loop()
    before: dict[int, Any] = {}

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, before[number])
        loop.call_soon_threadsafe(scope.cancel)

    for number in (signal.SIGINT, signal.SIGTERM):
        before[number] = signal.signal(number, stop)
    try:
        yield
    finally:
        for stopped, handler in before.items():
            signal.signal(stopped, handler)


@contextmanager
def interrupted_by_sigterm() -> Iterator[None]:
    """Let the first SIGTERM interrupt a body without an event loop as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, _frame: object) -> None:
        signal.signal(number, before)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
