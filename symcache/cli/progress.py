"""Progress on stderr: one bar for the whole, and the few largest transfers under way; on a terminal only."""

from __future__ import annotations

import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self, TypeVar

import click

from symcache.cli.output import plain, say, size_text
from symcache.events import Noted, Planned, Settled, TransferAdvanced, TransferEnded, TransferStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import Console
    from rich.progress import TaskID

    from symcache.events import Event, Observer

T = TypeVar("T")

_EVERY_S = 0.2
_MOST_TRANSFERS = 6
_WORTH_SHOWING_BYTES = 4_000_000
_PER_SECOND = 3


def _console() -> Console:
    from rich.console import Console  # noqa: PLC0415 - rich is slow to import and only needed on a terminal

    context = click.get_current_context(silent=True)
    return Console(stderr=True, no_color=True if context is not None and context.color is False else None)


@contextmanager
def show_ticker(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Lend what shows a text in place of the last one; most are dropped, so that showing costs nothing."""
    if quiet or not sys.stderr.isatty():
        yield lambda _text: None
        return
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    # Nothing is redirected: stdout may lead elsewhere.
    with Live(
        console=_console(), transient=True, auto_refresh=False, redirect_stdout=False, redirect_stderr=False
    ) as live:
        shown_s = 0.0

        def show(text: str) -> None:
            nonlocal shown_s
            if time.monotonic() - shown_s >= _EVERY_S:
                shown_s = time.monotonic()
                live.update(Text(plain(text), no_wrap=True, overflow="ellipsis"), refresh=True)

        yield show


def gather(items: Iterable[T], into: list[T], show: Callable[[str], None], describe: Callable[[T], str]) -> None:
    """Put *items* into a list as they come, and show what is said of each; an interrupt leaves what has come."""
    for item in items:
        into.append(item)
        show(describe(item))


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Observer]:
    """Lend an observer that shows what happens; without a terminal it says notes alone, with *quiet* nothing."""
    if quiet or not sys.stderr.isatty():
        yield notes_alone(quiet=quiet)
    else:
        with _Bars() as bars:
            yield bars.observe


def notes_alone(*, quiet: bool) -> Observer:
    """Return an observer that says notes; with *quiet* nothing."""

    def observe(event: Event) -> None:
        if isinstance(event, Noted) and not quiet:
            say(event.text)

    return observe


class _Bars:
    """Many transfers go by in a second, so that events only change numbers and the bars are drawn at their own pace."""

    def __init__(self) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn  # noqa: PLC0415

        self._progress = Progress(
            TextColumn("{task.description}", markup=False),
            BarColumn(),
            TextColumn("{task.fields[said]}", markup=False),
            TimeRemainingColumn(),
            console=_console(),
            refresh_per_second=_PER_SECOND,
            transient=True,
        )
        self._lock = threading.Lock()
        self._total = self._progress.add_task("symbols", total=None, said="")
        # Never drawn: it only measures how fast bytes come in.
        self._rate = self._progress.add_task("", total=None, visible=False, said="")
        self._wanted = 0
        self._settled = 0
        self._received: dict[str, int] = {}
        self._done_bytes = 0
        self._shown: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def observe(self, event: Event) -> None:
        with self._lock:
            self._take(event)
            self._draw()

    def _take(self, event: Event) -> None:
        match event:
            case Planned(wanted):
                self._wanted = wanted
            case Settled():
                self._settled += 1
            case TransferStarted(index, _, size_bytes):
                if (size_bytes or 0) >= _WORTH_SHOWING_BYTES and len(self._shown) < _MOST_TRANSFERS:
                    name = plain(index.partition("/")[0])
                    self._shown[index] = self._progress.add_task(f"  {name}", total=size_bytes, said="")
            case TransferAdvanced(index, received_bytes, size_bytes):
                self._received[index] = received_bytes
                if index in self._shown:
                    said = f"{size_text(received_bytes)} of {size_text(size_bytes or received_bytes)}"
                    self._progress.update(self._shown[index], completed=received_bytes, said=said)
            case TransferEnded(index):
                self._done_bytes += self._received.pop(index, 0)
                if index in self._shown:
                    self._progress.remove_task(self._shown.pop(index))
            case Noted(text):
                self._progress.console.print(plain(text), markup=False, highlight=False, soft_wrap=True)

    def _draw(self) -> None:
        received_bytes = self._done_bytes + sum(self._received.values())
        self._progress.update(self._rate, completed=received_bytes)
        rate = next(task.speed for task in self._progress.tasks if task.id == self._rate)
        said = f"{self._settled}/{self._wanted}  {size_text(received_bytes)}"
        said += "" if rate is None else f"  {size_text(rate)}/s"
        self._progress.update(self._total, total=self._wanted or None, completed=self._settled, said=said)
