"""``symcache warm``, and what it shares with ``check``."""

from __future__ import annotations

import signal
import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click

from symcache.cli.options import (
    ImagesCommand,
    Settings,
    allow_options,
    images_option,
    inputs_argument,
    json_option,
    process_options,
    select_processes,
    settings_options,
)
from symcache.cli.output import EMPTY, count_text, say_error, write_json
from symcache.cli.progress import show_progress
from symcache.cli.reporttext import write_report
from symcache.events import Noted
from symcache.stores.disk import DiskSource
from symcache.warm.local import LocalRun
from symcache.warm.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    import anyio

    from symcache.config import Config
    from symcache.events import Event, Observer
    from symcache.inputs.records import Record
    from symcache.warm.plan import ImageChoice
    from symcache.warm.report import Report

__all__ = ["command", "finish", "run_warm"]


@click.command(cls=ImagesCommand)
@inputs_argument
@process_options
@images_option
@click.option("--all-pdbs", is_flag=True, help="Fetch every PDB an image names, not only the one debuggers ask for.")
@click.option("--upstream", "upstreams", metavar="URL", multiple=True, help="Request files from URL first; repeatable.")
@allow_options
@json_option
@settings_options
def command(
    settings: Settings,
    inputs: tuple[str, ...],
    images: ImageChoice,
    all_pdbs: bool,
    upstreams: tuple[str, ...],
    allow_missing: bool,
    allow_empty: bool,
    as_json: bool,
    processes: tuple[str, ...],
    user: bool | None,
) -> None:
    """Fill the store with every symbol that the inputs need, and report what is missing and why.

    INPUT is a kernel dump, a minidump, an image, a PDB, a folder of them, a symchk manifest, a list of indexes or a
    debugger log; its content decides which. - is standard input.
    """
    selection = select_processes(processes, user)
    plan = Plan(images=images, all_pdbs=all_pdbs)
    report = run_warm(settings, plan, lambda run: run.open_inputs(inputs, selection), upstreams=upstreams)
    finish(report, settings, as_json=as_json, allow_missing=allow_missing, allow_empty=allow_empty)


def run_warm(
    settings: Settings,
    plan: Plan,
    read: Callable[[LocalRun], Iterable[Record]] = lambda _: (),
    *,
    upstreams: Sequence[str] = (),
    believe_misses: bool = True,
) -> Report:
    """Fetch what *plan* wants and the records of *read* need; Ctrl-C gives what was done.

    Args:
        settings: The common options.
        plan: What is wanted anyway, and how modules are understood.
        read: Returns the records; see `LocalRun.open_inputs`.
        upstreams: URLs that are asked before those of the symbol path.
        believe_misses: Do not ask again what upstreams said not long ago that they lack.
    """
    config = settings.load(upstreams=upstreams)
    if not believe_misses:
        config = replace(config, misses=replace(config.misses, ttl_s=0))
    with show_progress(quiet=settings.quiet) as observer:
        observe = _say_notes_once(observer)
        with LocalRun(DiskSource(config, observer=observe), plan, observer=observer, may_fetch=True) as run:
            records = iter(read(run))
            try:
                with _interrupted_by_sigterm(), closing(run.source):
                    is_done = run.begin(records)
                if is_done and config.network.ca_file is None:  # a file that cannot be used is said in any case
                    return run.report()
                import anyio  # noqa: PLC0415 - what is there already needs no event loop

                import_module("symcache.stores.source")  # takes long enough to be interrupted
            except KeyboardInterrupt:
                return run.report(is_interrupted=True)
            return anyio.run(_fetch_rest, config, run, records, observe)


async def _fetch_rest(config: Config, run: LocalRun, records: Iterator[Record], observer: Observer) -> Report:
    import anyio  # noqa: PLC0415

    from symcache.stores.source import SymbolSource  # noqa: PLC0415
    from symcache.warm.run import Warmer  # noqa: PLC0415

    async with SymbolSource(config, observer=observer, looks_inline=True) as source:
        with anyio.CancelScope() as scope, _cancelled_by_interrupt(scope):
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
def _cancelled_by_interrupt(scope: anyio.CancelScope) -> Iterator[None]:
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
def _interrupted_by_sigterm() -> Iterator[None]:
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


def finish(
    report: Report, settings: Settings, *, as_json: bool, allow_missing: bool = False, allow_empty: bool = False
) -> None:
    """Write *report* and end with its exit code."""
    if as_json:
        write_json(report.as_json())
    else:
        write_report(report, quiet=settings.quiet, verbose=settings.verbose)
    if report.unreadable:
        say_error(f"{count_text(len(report.unreadable), 'input')} could not be read, or held no file's identity")
    if report.is_empty and not (allow_empty or report.is_interrupted):
        say_error(EMPTY)
    raise click.exceptions.Exit(report.exit_code(allow_missing=allow_missing, allow_empty=allow_empty))
