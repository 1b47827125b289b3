"""``symcache warm`` and ``symcache check``, and their report as text: what is wanting first, with cause and advice."""

from __future__ import annotations

import signal
import threading
from collections import Counter
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit

from symcache.cli.options import Settings, Wish, WishCommand, inputs_argument, settings_options, wish_options
from symcache.cli.output import (
    EMPTY,
    count_text,
    say_error,
    show_progress,
    size_text,
    unreadable_text,
    write_json,
    write_line,
    write_table,
)
from symcache.events import Noted
from symcache.inputs.records import ImageUse
from symcache.stores.disk import DiskSource
from symcache.stores.results import Cause, Failed, Fetched, Hint, Missing, Present
from symcache.warm.local import LocalRun
from symcache.warm.report import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from symcache.config import Config
    from symcache.events import Event, Observer
    from symcache.inputs.records import Record
    from symcache.warm.plan import Plan
    from symcache.warm.report import Report, Symbol


@click.command(cls=WishCommand)
@inputs_argument
@wish_options("Fetch")
@click.option("--upstream", "upstreams", metavar="URL", multiple=True, help="Request files from URL first; repeatable.")
@settings_options()
def warm_command(settings: Settings, inputs: tuple[str, ...], wish: Wish, upstreams: tuple[str, ...]) -> None:
    """Fill the store with every symbol that the inputs need, and report what is missing and why.

    INPUT is a kernel dump, a minidump, an image, a PDB, a folder of them, a symchk manifest, a list of indexes or a
    debugger log; its content decides which. - is standard input.
    """
    report = run_warm(settings, wish.plan, lambda run: run.open_inputs(inputs, wish.processes), upstreams=upstreams)
    finish(report, settings, wish)


@click.command(cls=WishCommand)
@inputs_argument
@wish_options("Want")
@settings_options()
def check_command(settings: Settings, inputs: tuple[str, ...], wish: Wish) -> None:
    """Report what the inputs need and whether the store has it, right and whole; no network.

    INPUT is what `symcache warm` takes.
    """
    config = settings.load()
    with (
        show_progress(quiet=settings.quiet) as observer,
        closing(DiskSource(config, observer=observer)) as source,
        LocalRun(source, wish.plan, observer=observer) as run,
    ):
        report = run.check(run.open_inputs(inputs, wish.processes))
    finish(report, settings, wish)


def run_warm(
    settings: Settings,
    plan: Plan,
    read: Callable[[LocalRun], Iterable[Record]] = lambda _: (),
    *,
    upstreams: Sequence[str] = (),
    believe_misses: bool = True,
) -> Report:
    """Fetch what *plan* wants and the records of *read* need; Ctrl-C gives what was done.

    *upstreams* are asked before the servers of the symbol path; without *believe_misses* all are asked again what they
    said not long ago that they lack.
    """
    config = settings.load(upstreams=upstreams)
    if not believe_misses:
        config = replace(config, misses=replace(config.misses, ttl_s=0))
    with show_progress(quiet=settings.quiet) as observer:
        observe = _say_notes_once(observer)
        with LocalRun(DiskSource(config, observer=observe), plan, observer=observer, may_fetch=True) as run:
            records = iter(read(run))
            try:
                with _on_first([signal.SIGTERM], _interrupt), closing(run.source):
                    is_done = run.begin(records)
                if is_done and config.network.ca_file is None:  # a file that cannot be used is said in any case
                    return run.report()
                import anyio  # noqa: PLC0415 - what is there already needs no event loop

                import_module("symcache.stores.source")  # takes long enough to be interrupted
            except KeyboardInterrupt:
                return run.report(is_interrupted=True)
            return anyio.run(_fetch_rest, config, run, records, observe)


async def _fetch_rest(config: Config, run: LocalRun, records: Iterator[Record], observer: Observer) -> Report:
    import asyncio  # noqa: PLC0415 - it runs already

    import anyio  # noqa: PLC0415

    from symcache.stores.source import SymbolSource  # noqa: PLC0415
    from symcache.warm.run import Warmer  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    async with SymbolSource(config, observer=observer, looks_inline=True) as source:
        with (
            anyio.CancelScope() as scope,
            _on_first([signal.SIGINT, signal.SIGTERM], partial(loop.call_soon_threadsafe, scope.cancel)),
        ):
            return await Warmer(source, run).warm(records)
        return run.report(is_interrupted=True)


def _say_notes_once(observer: Observer) -> Observer:
    """Return an observer that passes each note on once: the places are opened a second time with the network."""
    said: set[str] = set()

    def observe(event: Event) -> None:
        if not isinstance(event, Noted):
            observer(event)
        elif event.text not in said:
            said.add(event.text)
            observer(event)

    return observe


@contextmanager
def _on_first(numbers: Sequence[signal.Signals], act: Callable[[], object]) -> Iterator[None]:
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


def _interrupt() -> None:
    raise KeyboardInterrupt


def finish(report: Report, settings: Settings, wish: Wish | None = None) -> None:
    """Write *report* and end with its exit code."""
    allow_missing, allow_empty = (False, False) if wish is None else (wish.allow_missing, wish.allow_empty)
    if settings.as_json:
        write_json(report.as_json())
    else:
        write_report(report, quiet=settings.quiet, verbose=settings.verbose)
    if report.unreadable:
        say_error(f"{count_text(len(report.unreadable), 'input')} could not be read, or held no file's identity")
    if report.is_empty and not (allow_empty or report.is_interrupted):
        say_error(EMPTY)
    raise Exit(report.exit_code(allow_missing=allow_missing, allow_empty=allow_empty))


_ADVICE = {
    Cause.UNAVAILABLE: "try again later; symcache goes on where it was",
    Cause.REFUSED: "see credentials ([[server]]) and certificates (network.ca_file) in the config file, or a proxy",
    Cause.WRONG_CONTENT: "what is published under this key is another file; tell its publisher, or try another server",
    Cause.DISK: "make room or mend the rights, then run it again",
    Cause.NOT_PUBLISHED: "no server of the symbol path has it; ask its maker, or add a server that does",
    Cause.REMEMBERED_MISS: "it was not published when last asked; `symcache missing --retry` asks again",
    Cause.NO_IDENTITY: "the input does not hold enough to name it; a fuller dump or the image itself would",
    Cause.IMAGE_NOT_PUBLISHED: "the input names only the image, and no server has that; give the image itself as input",
    Cause.NOT_CACHED: "`symcache warm` with the same inputs fetches it",
    Cause.NO_DEBUG_RECORD: "the image names no PDB; there is nothing to fetch",
    Cause.UNUSABLE_IDENTITY: "the image names a PDB that no symbol store can hold; ask its maker for the PDB itself",
    Cause.EMBEDDED: "the PDB lies in the image itself; there is nothing to fetch",
    Cause.EXCLUDED: "exclusions.names in the config file leaves it out",
}

_HINTED = {
    Hint.PAGE: "a page came instead: credentials are needed (see [[server]]), or the server answers misses with 200",
    Hint.POINTER: "the server only says where the file lies; pointers.allow in the config file lets that be followed",
    Hint.NO_SERVER: "no server was asked: the symbol path names none; see `symcache path`, and -y or --upstream URL",
    Hint.FOREIGN_SYSTEM: "a dump of another system: its programs have no PDBs, and no fuller dump helps",
    Hint.LOOP: "servers ask each other in a circle; take one out of the symbol path of another",
}
"""Advice that comes before that of the cause."""


_NEEDED_FOR = {
    ImageUse.SYMBOLS: "without which the debugger loads no symbols",
    ImageUse.CODE: "for disassembly and stack unwinding",
    ImageUse.BY_HAND: "whose headers were paged out",
}


def write_report(report: Report, *, quiet: bool, verbose: bool) -> None:
    """Write *report* to stdout; with *quiet* only what is wanting, with *verbose* every file."""
    shown = [
        symbol
        for symbol in report.symbols
        if verbose or symbol.is_wanting or symbol.state is State.FAILED or symbol.cause is Cause.UNUSABLE_IDENTITY
    ]
    blocking = [symbol for symbol in shown if symbol.keeps]
    if blocking:
        count = sum(len(symbol.keeps) for symbol in blocking)
        write_line(
            f"will not load: {count_text(count, 'PDB')} in the store - the debugger learns only from a module's image"
            " which PDB it has, and the image is missing"
        )
        write_table(["", _named(symbol), evidence(symbol), f"keeps {', '.join(symbol.keeps)}"] for symbol in blocking)
        write_line()
    shown = [symbol for symbol in shown if not symbol.keeps]
    groups: dict[tuple[Cause | None, Hint | None], list[Symbol]] = {}
    for symbol in shown:
        hint = symbol.outcome.hint if isinstance(symbol.outcome, Missing | Failed) else None
        groups.setdefault((symbol.cause, hint), []).append(symbol)
    for cause, advice in _ADVICE.items():
        for hint in (None, *Hint):
            group = groups.get((cause, hint))
            if group:
                state = group[0].state.value
                write_line(f"{state}: {cause.value} ({len(group)}) - {advice if hint is None else _HINTED[hint]}")
                write_table(_row(symbol) for symbol in group)
                write_line()
    if verbose:
        found = [symbol for symbol in shown if symbol.cause is None]
        write_table(_found_row(symbol) for symbol in found)
        if found:
            write_line()
    for item in report.unreadable:
        write_line(f"unreadable: {unreadable_text(item)}")
    if not quiet:
        for line in _image_lines(report):
            write_line(line)
        write_line(_summary(report))
        if report.store is not None:
            write_line(f"store: {report.store}")


def _row(symbol: Symbol) -> list[str]:
    lost = "" if symbol.use is None else f"no {'code' if symbol.use is ImageUse.CODE else 'symbols'} without it"
    why = "; ".join(filter(None, (evidence(symbol), lost)))
    return ["", _named(symbol), symbol.module if symbol.index else "", why]


def _named(symbol: Symbol) -> str:
    return symbol.index or symbol.module


def _image_lines(report: Report) -> Iterator[str]:
    """Yield why images are wanted, and what to type for those that a debugger does not look for by itself."""
    if report.images_left_out:
        images = count_text(report.images_left_out, "image")
        yield f"--images none left out {images} that the debugger will ask for: modules stay without symbols or code"
    counts = Counter(symbol.use for symbol in report.symbols if symbol.use is not None)
    if counts:
        reasons = "; ".join(f"{counts[use]} {_NEEDED_FOR[use]}" for use in ImageUse if counts[use])
        yield f"{count_text(counts.total(), 'image')} wanted that the input does not hold: {reasons}"
    commands = [symbol.reload for symbol in report.symbols if symbol.reload is not None and symbol.is_at_hand]
    if commands:
        yield "to load their symbols, type in the debugger:"
        yield from (f"  {command}" for command in commands)


def evidence(symbol: Symbol) -> str:
    """Return what every upstream said of a symbol that is missing or failed, else the reason in words.

    Where the disk is to blame, what the places of the symbol path said explains nothing.
    """
    outcome = symbol.outcome
    attempts = outcome.attempts if isinstance(outcome, Missing | Failed) and outcome.cause is not Cause.DISK else ()
    said: dict[str, dict[str, None]] = {}
    for attempt in attempts:
        said.setdefault(attempt.upstream, {})[attempt.answer] = None
    if not said:
        return symbol.reason or ""
    return "; ".join(f"{upstream}: {', '.join(answers)}" for upstream, answers in said.items())


def _found_row(symbol: Symbol) -> list[str]:
    outcome = symbol.outcome
    origin = outcome.upstream if isinstance(outcome, Fetched) else ""
    note = outcome.note or "" if isinstance(outcome, Present | Fetched) else ""
    return [symbol.state.value, symbol.index or "", symbol.module, origin, note]


def _summary(report: Report) -> str:
    counts = report.count()
    harmless = counts[State.MISSING] - sum(symbol.is_wanting for symbol in report.symbols)
    missing = f"{counts[State.MISSING]} missing" + (f" ({harmless} with nothing to fetch)" if harmless else "")
    text = (
        f"{len(report.symbols)} wanted: {counts[State.PRESENT]} present, {counts[State.FETCHED]} fetched"
        f" ({size_text(report.fetched_bytes)}), {missing}, {counts[State.FAILED]} failed, in {report.seconds:.1f} s"
    )
    return f"{text}; interrupted" if report.is_interrupted else text
