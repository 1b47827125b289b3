"""Progress that is drawn on a terminal, however narrow; imported where one is, as rich is slow to import."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Self

import click
from rich.cells import cell_len
from rich.console import Console
from rich.live import Live
from rich.progress import BarColumn, Progress, Task, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from symcache.cli.output import Tally, blot
from symcache.events import InputAdvanced, Noted, TransferAdvanced, TransferEnded, TransferStarted
from symcache.identity import base_name
from symcache.reports.lines import plain, size_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from rich.console import ConsoleOptions, RenderResult
    from rich.progress import TaskID

    from symcache.events import Event

__all__ = ["Bars", "show_ticker"]

_EVERY_S = 0.2
_MOST_TRANSFERS = 6
_WORTH_SHOWING_BYTES = 4_000_000
_PER_SECOND = 3
# Columns of a terminal.
_LEAST_NAME, _LEAST_BAR, _LONGEST_BAR, _TIME = 10, 6, 40, 7


def _console() -> Console:
    context = click.get_current_context(silent=True)
    return Console(stderr=True, no_color=True if context is not None and context.color is False else None)


@contextmanager
def show_ticker() -> Iterator[Callable[[str], None]]:
    """Lend what shows a text in place of the last one; most are dropped, so that showing costs nothing."""
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


class _Rows:
    """A row for each task: name, bar, numbers, time left.

    In a narrow terminal the bar shrinks, then time left and rate go, then names are cut; no row ever wraps.
    """

    def __init__(self, tasks: Iterable[Task], time_left: TimeRemainingColumn) -> None:
        self._tasks = [task for task in tasks if task.visible]
        self._time_left = time_left

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        del console
        if not self._tasks:
            return
        names = max(cell_len(task.description) for task in self._tasks)
        field, has_time, room = "said", True, 0
        for field, has_time in (("said", True), ("said", False), ("short", False)):
            numbers = max(cell_len(task.fields[field]) for task in self._tasks)
            room = options.max_width - numbers - 1 - (_TIME + 1 if has_time else 0)
            if room >= min(names, _LEAST_NAME) + 1 + _LEAST_BAR:
                break
        names = max(min(names, room - 1 - _LEAST_BAR), 0)
        bar = BarColumn(bar_width=min(room - names - 1, _LONGEST_BAR)) if names else None
        table = Table.grid(padding=(0, 1, 0, 0))
        for width in ([names, bar.bar_width] if bar else []) + [None] * (2 if has_time else 1):
            table.add_column(width=width, no_wrap=True, overflow="ellipsis")
        for task in self._tasks:
            cells = [Text(task.description), bar(task)] if bar else []
            table.add_row(*cells, Text(task.fields[field]), *([self._time_left(task)] if has_time else []))
        yield table


class _Progress(Progress):
    def __init__(self) -> None:
        self._time_left = TimeRemainingColumn()  # which remembers what it drew
        super().__init__(console=_console(), refresh_per_second=_PER_SECOND, transient=True)

    def make_tasks_table(self, tasks: Iterable[Task]) -> Table:
        return _Rows(tasks, self._time_left)  # type: ignore[return-value]  # it is only rendered


class Bars:
    """Many transfers go by in a second, so that events only change numbers and the bars are drawn at their own pace."""

    def __init__(self) -> None:
        self._progress = _Progress()
        self._lock = threading.Lock()
        self._total = self._progress.add_task("symbols", total=None, said="", short="")
        # Never drawn: it only measures how fast bytes come in.
        self._rate = self._progress.add_task("", total=None, visible=False, said="", short="")
        self._tally = Tally()
        self._shown: dict[str, TaskID] = {}
        self._reading: TaskID | None = None

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def observe(self, event: Event) -> None:
        """Take in what happens; an observer."""
        with self._lock:
            self._tally.take(event)
            self._take(event)
            self._draw()

    def _take(self, event: Event) -> None:
        match event:
            case InputAdvanced(path, done_bytes, size_bytes):
                self._show_reading(path, done_bytes, size_bytes)
            case TransferStarted(index, _, size_bytes):
                if (size_bytes or 0) >= _WORTH_SHOWING_BYTES and len(self._shown) < _MOST_TRANSFERS:
                    name = plain(index.partition("/")[0])
                    self._shown[index] = self._progress.add_task(f"  {name}", total=size_bytes, said="", short="")
            case TransferAdvanced(index, received_bytes, size_bytes):
                if index in self._shown:
                    said = f"{size_text(received_bytes)} of {size_text(size_bytes or received_bytes)}"
                    short = f"{received_bytes / size_bytes:.0%}" if size_bytes else size_text(received_bytes)
                    self._progress.update(self._shown[index], completed=received_bytes, said=said, short=short)
            case TransferEnded(index):
                if index in self._shown:
                    self._progress.remove_task(self._shown.pop(index))
            case Noted(text):
                self._progress.console.print(plain(blot(text)), markup=False, highlight=False, soft_wrap=True)

    def _show_reading(self, path: str, done_bytes: int, size_bytes: int) -> None:
        if done_bytes >= size_bytes:
            if self._reading is not None:
                self._progress.remove_task(self._reading)
            self._reading = None
            return
        if self._reading is None:
            self._reading = self._progress.add_task("", total=size_bytes, said="", short="")
        said = f"{size_text(done_bytes)} of {size_text(size_bytes)}"
        self._progress.update(
            self._reading,
            description=f"reading {plain(base_name(path))}",
            total=size_bytes,
            completed=done_bytes,
            said=said,
            short=f"{done_bytes / size_bytes:.0%}",
        )

    def _draw(self) -> None:
        tally = self._tally
        self._progress.update(self._rate, completed=tally.received_bytes)
        rate = next(task.speed for task in self._progress.tasks if task.id == self._rate)
        short = f"{tally.settled}/{tally.wanted}  {size_text(tally.received_bytes)}"
        said = short if rate is None else f"{short}  {size_text(rate)}/s"
        self._progress.update(self._total, total=tally.wanted or None, completed=tally.settled, said=said, short=short)
