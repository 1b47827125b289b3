"""Results to stdout, all else to stderr, in a form that is safe for the terminal; progress, and links to files."""

from __future__ import annotations

import re
import sys
import threading
import time
from contextlib import contextmanager
from shutil import get_terminal_size
from typing import TYPE_CHECKING, Any, TextIO, TypeVar

import click

from symcache.events import InputAdvanced, Noted, Planned, Settled, TransferAdvanced, TransferEnded
from symcache.reports.lines import count_text, plain, size_text, table_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from symcache.events import Event, Observer
    from symcache.inputs.records import Narrowed, ProcessSummary, Unreadable
    from symcache.stores.bucket.objects import Bucket
    from symcache.stores.local.tree import Store


_EMPTY = "no image, PDB or dump was found in what was given: is the path right? --allow-empty makes that a success"
TWO_TIER_NOTE = "Microsoft's debuggers read a two-tier store; LLDB, angr and radare2 find nothing in one"

_BYTES = {"b": 1, "bytes": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("", 1000), ("ib", 1024))
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


def empty_text(narrowed: Narrowed | None) -> str:
    """Return the line about inputs without any module, or without one of the sets that are wanted."""
    if narrowed is None:
        return _EMPTY
    return f"no module of what was given is in {narrowed.sets}, {narrowed.modules} are not; --allow-empty allows that"


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


def terminal_width() -> int | None:
    """Return how many columns stdout has; None if it is no terminal."""
    return get_terminal_size().columns if sys.stdout.isatty() else None


def write_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    import json  # noqa: PLC0415 - most runs write none

    json.dump(document, sys.stdout, indent=2, ensure_ascii=True)
    sys.stdout.write("\n")


def write_store_json(name: str, store: Store | Bucket, **fields: Any) -> None:
    """Write a document about a store, of schema ``symcache.name/1``, to stdout."""
    write_json({"schema": f"symcache.{name}/1", "store": store.name, **fields})


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
    lines = list(table_lines(rows))
    if lines:
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


_LONGEST_LINK = 2000  # VTE takes 2083


def path_text(path: Path, stream: TextIO) -> str:
    """Return *path* as *stream* shows it: a terminal that is known for it opens it when it is clicked.

    Source: "Hyperlinks in Terminal Emulators", the proposal that terminals follow. Everything in the link but
    letters, digits and ``-._~/`` is percent-encoded, so that no name can end it.
    """
    shown = blot(str(path))
    text = plain(shown)
    if shown != str(path) or not _takes_links(stream):
        return text
    link = path.absolute().as_uri()
    return text if len(link) > _LONGEST_LINK else f"\x1b]8;;{link}\x1b\\{text}\x1b]8;;\x1b\\"


def _takes_links(stream: TextIO) -> bool:
    context = click.get_current_context(silent=True)
    if not stream.isatty() or (context is not None and context.color is False):
        return False
    from symcache.config import terminal_kind  # noqa: PLC0415 - of a terminal alone

    return terminal_kind().takes_links


def unreadable_json(items: Iterable[Unreadable]) -> list[dict[str, object]]:
    """Return the field ``unreadable`` of a document."""
    return [{"path": item.path, "problem": item.problem, "offset": item.offset} for item in items]


T = TypeVar("T")
F = TypeVar("F", bound="Callable[..., Any]")

# Of progress in lines: before the first one and between two, and how long none may come.
_LINE_AFTER_S = 5.0
_LINE_WITHIN_S = 15.0
_PROGRESS = "symcache.progress"


def progress_option(command: F) -> F:
    """Give *command* ``--progress``, which `show_progress` and `show_ticker` look at."""
    return click.option(
        "--progress",
        type=click.Choice(["auto", "plain"]),
        expose_value=False,
        callback=_note_progress,
        help="How progress is shown: auto (default), bars on a terminal; plain, a line now and then, as elsewhere.",
    )(command)


def _note_progress(context: click.Context, _parameter: click.Parameter, value: str | None) -> None:
    if value is not None:
        context.meta[_PROGRESS] = value


def _takes_bars() -> bool:
    """Return whether progress is drawn: on a terminal that can move its cursor, unless the user wants lines."""
    context = click.get_current_context(silent=True)
    if not sys.stderr.isatty() or (context is not None and context.meta.get(_PROGRESS) == "plain"):
        return False
    from symcache.config import terminal_kind  # noqa: PLC0415 - of a terminal alone

    return not terminal_kind().is_dumb


class Tally:
    """How far a run has come, counted from its events; guarded by who has it."""

    def __init__(self) -> None:
        self.wanted = 0
        self.settled = 0
        self.read_bytes = 0  # of an input that takes long
        self.input_bytes = 0  # all there is of it; no more is read once this much is
        self._done_bytes = 0
        self._under_way: dict[str, int] = {}

    @property
    def received_bytes(self) -> int:
        """Bytes that have come, of all transfers."""
        return self._done_bytes + sum(self._under_way.values())

    def take(self, event: Event) -> None:
        """Count *event*."""
        match event:
            case InputAdvanced(_, done_bytes, size_bytes):
                self.read_bytes, self.input_bytes = done_bytes, size_bytes
            case Planned(wanted):
                self.wanted = wanted
            case Settled():
                self.settled += 1
            case TransferAdvanced(index, received_bytes):
                self._under_way[index] = received_bytes
            case TransferEnded(index):
                self._done_bytes += self._under_way.pop(index, 0)


class _Pace:
    """Says when a line of progress is due, so that a reader of the log, or a screen reader, can follow."""

    def __init__(self, clock_s: Callable[[], float]) -> None:
        self._clock_s = clock_s
        self._said_s = clock_s()
        self._milestone = 0

    def is_due(self, milestone: int = 0) -> bool:
        """Return whether a line is due now, as *milestone* is a new one or as none came for long; it is then said."""
        passed_s = self._clock_s() - self._said_s
        is_due = passed_s >= (_LINE_AFTER_S if milestone > self._milestone else _LINE_WITHIN_S)
        if is_due:
            self._said_s += passed_s
            self._milestone = milestone
        return is_due


class Lines:
    """Progress in lines: at each quarter of the files, or after a while, but never two within seconds.

    They have no control characters and fit into 40 columns; short runs have none.
    """

    def __init__(self, clock_s: Callable[[], float] = time.monotonic) -> None:
        self._lock = threading.Lock()
        self._tally = Tally()
        self._pace = _Pace(clock_s)

    def observe(self, event: Event) -> None:
        """Take in what happens; an observer."""
        if isinstance(event, Noted):
            say(event.text)
            return
        with self._lock:
            tally = self._tally
            tally.take(event)
            if isinstance(event, InputAdvanced):
                if self._pace.is_due():
                    say(f"{size_text(tally.read_bytes)} of {size_text(tally.input_bytes)} read")
            elif self._pace.is_due(4 * tally.settled // max(tally.wanted, 1)):
                say(f"{tally.settled} of {tally.wanted} files, {size_text(tally.received_bytes)} so far")


@contextmanager
def show_ticker(*, quiet: bool) -> Iterator[Callable[[str], None]]:
    """Lend what shows a text in place of the last one, or in lines now and then; most texts are dropped."""
    if quiet:
        yield lambda _text: None
    elif _takes_bars():
        from symcache.cli import bars  # noqa: PLC0415 - rich is slow to import

        with bars.show_ticker() as show:
            yield show
    else:
        pace = _Pace(time.monotonic)
        yield lambda text: say(text) if pace.is_due() else None


def gather(items: Iterable[T], into: list[T], show: Callable[[str], None], describe: Callable[[T], str]) -> None:
    """Put *items* into a list as they come, and show what is said of each; an interrupt leaves what has come."""
    for item in items:
        into.append(item)
        show(describe(item))


@contextmanager
def show_progress(*, quiet: bool) -> Iterator[Observer]:
    """Lend an observer that shows what happens, drawn on a terminal, else in lines; with *quiet* nothing."""
    if quiet:
        yield notes_alone(quiet=True)
    elif _takes_bars():
        from symcache.cli.bars import Bars  # noqa: PLC0415 - rich is slow to import

        with Bars() as bars:
            yield bars.observe
    else:
        yield Lines().observe


def notes_alone(*, quiet: bool) -> Observer:
    """Return an observer that says notes; with *quiet* nothing."""

    def observe(event: Event) -> None:
        if isinstance(event, Noted) and not quiet:
            say(event.text)

    return observe
