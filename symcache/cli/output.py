"""Results to stdout, all else to stderr, in a form that is safe for the terminal; progress on a terminal alone."""

from __future__ import annotations

import re
import sys
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Self, TypeVar

import click

from symcache.events import Noted, Planned, Settled, TransferAdvanced, TransferEnded, TransferStarted

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from rich.console import Console
    from rich.progress import TaskID

    from symcache.events import Event, Observer
    from symcache.inputs.records import ProcessSummary, Unreadable
    from symcache.stores.local.tree import Store


EMPTY = "no image, PDB or dump was found in what was given: is the path right? --allow-empty makes that a success"
TWO_TIER_NOTE = "Microsoft's debuggers read a two-tier store; LLDB, angr and radare2 find nothing in one"

_BYTES = {"b": 1, "bytes": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("", 1000), ("ib", 1024))
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


def parse_size(text: str) -> int:
    """Return bytes: ``KB``, ``MB``, ``GB``, ``TB`` count by 1000, ``KiB`` and so on by 1024; else `BadParameter`."""
    return int(_parse(text, _BYTES, "a size such as 20GB, 500MB or 1.5TiB"))


def parse_age(text: str) -> float:
    """Return seconds: ``s``, ``m`` minutes, ``h``, ``d``, ``w``, ``y`` of 365 days; else `BadParameter`."""
    return _parse(text, _SECONDS, "a time such as 90d, 12h or 2w")


def _parse(text: str, units: Mapping[str, float], what: str) -> float:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)", text.strip())
    unit = None if match is None else units.get(match[2].lower())
    if match is None or unit is None:
        raise click.BadParameter(f"{text!r} is not {what}.")
    return float(match[1]) * unit


def write_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    import json  # noqa: PLC0415 - most runs write none

    json.dump(document, sys.stdout, indent=2, ensure_ascii=True)
    sys.stdout.write("\n")


def write_store_json(name: str, store: Store, **fields: Any) -> None:
    """Write a document about a store, of schema ``symcache.name/1``, to stdout."""
    write_json({"schema": f"symcache.{name}/1", "store": str(store.root), **fields})


def write_json_list(head: Mapping[str, Any], name: str, items: Iterable[Any]) -> None:
    """Write one JSON document to stdout: the fields of *head*, then *items*, each as it comes, as the field *name*."""
    import json  # noqa: PLC0415

    write = sys.stdout.write
    for number, (field, value) in enumerate(head.items()):
        write(f"{',' if number else '{'}\n  {json.dumps(field)}: {json.dumps(value)}")
    write(f",\n  {json.dumps(name)}: [")
    for number, item in enumerate(items):
        write(f"{',' if number else ''}\n    {json.dumps(item)}")
    write("\n  ]\n}\n")


def write_line(text: str = "") -> None:
    """Write one line of the result to stdout."""
    click.echo(plain(text))


def write_table(rows: Iterable[Sequence[str]]) -> None:
    """Write *rows* to stdout with their columns lined up; the last column is as wide as it is."""
    rows = [[plain(cell) for cell in row] for row in rows]
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    click.echo("\n".join(lines))


def write_processes(processes: Sequence[ProcessSummary]) -> None:
    """Write *processes* to stdout: id, name, how many modules, executable; nothing if there are none."""
    if processes:
        write_line()
        write_line("processes:")
        write_table(
            ("", str(each.id), each.name, count_text(each.modules, "module"), each.image or "") for each in processes
        )


def say(text: str) -> None:
    """Write a note to stderr; what looks like a user and password in it is not shown."""
    click.echo(plain(blot(text)), err=True)


def say_error(text: str) -> None:
    """Write one line about what went wrong to stderr."""
    say(f"symcache: {text}")


def blot(text: str) -> str:
    """Return *text* without what looks like a user and password in it, be it a URL or not."""
    if "@" not in text:
        return text
    from symcache.sympath import redact_words  # noqa: PLC0415 - not needed for --help

    return redact_words(text)


def plain(text: str) -> str:
    """Return *text* with everything that a terminal would act on made visible; names come from hostile input."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def count_text(count: int, noun: str) -> str:
    """Return a number of things for people: ``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_text(size_bytes: float) -> str:
    """Return a length for people: ``1.2 MB``."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def unreadable_text(item: Unreadable) -> str:
    """Return a line about an input that could not be read."""
    return f"{item.path}: {item.problem}" + ("" if item.offset is None else f" (at {item.offset:#x})")


def unreadable_json(items: Iterable[Unreadable]) -> list[dict[str, object]]:
    """Return the field ``unreadable`` of a document."""
    return [{"path": item.path, "problem": item.problem, "offset": item.offset} for item in items]


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
