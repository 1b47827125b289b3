"""``symcache warm`` and ``symcache check``."""

from __future__ import annotations

import signal
import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit

from symcache.cli.options import Settings, Wish, WishCommand, inputs_argument, settings_options, wish_options
from symcache.cli.output import EMPTY, count_text, say_error, write_json
from symcache.cli.progress import show_progress
from symcache.cli.report import write_report
from symcache.events import Noted
from symcache.stores.disk import DiskSource
from symcache.warm.local import LocalRun

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from symcache.config import Config
    from symcache.events import Event, Observer
    from symcache.inputs.records import Record
    from symcache.warm.plan import Plan
    from symcache.warm.report import Report


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
