"""``symcache warm`` and ``symcache check``, and how a run is interrupted."""

from __future__ import annotations

import signal
import sys
from contextlib import closing, nullcontext
from dataclasses import replace
from functools import partial
from importlib import import_module
from typing import TYPE_CHECKING, NoReturn

import click
from click.exceptions import Exit

from symcache.cli.options import (
    Ending,
    Settings,
    Wish,
    WishCommand,
    ending_options,
    settings_options,
    source_options,
    wish_options,
)
from symcache.cli.output import empty_text, notes_alone, path_text, say_error, show_progress, terminal_width, write_json
from symcache.cli.signals import on_first
from symcache.errors import UsageError
from symcache.events import Noted
from symcache.reports.lines import count_text
from symcache.reports.text import plan_lines, report_lines, unreadable_text
from symcache.stores.disk import DiskSource
from symcache.warm.local import LocalRun
from symcache.warm.plan import WantedLibraries, WantedPdbOfImage
from symcache.warm.report import FailOn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from symcache.config import Config
    from symcache.events import Event, Observer
    from symcache.inputs.detect import InputSource
    from symcache.inputs.records import Record
    from symcache.warm.dryrun import Expected
    from symcache.warm.local import OpenWant
    from symcache.warm.plan import Plan
    from symcache.warm.report import Report, Symbol

_PLANNED_WITHIN_S = 5.0


@click.command(cls=WishCommand)
@source_options()
@wish_options("Fetch", stack=True)
@ending_options
@click.option("--upstream", "upstreams", metavar="URL", multiple=True, help="Request files from URL first; repeatable.")
@click.option(
    "--plan",
    "plan_only",
    is_flag=True,
    help="Fetch nothing; say how many files are wanted, present and to fetch, and how large they are on which server.",
)
@click.option(
    "--noisy", is_flag=True, help="Print to stderr what a debugger's noisy mode would of each file, as it ends."
)
@settings_options()
def warm_command(
    settings: Settings,
    inputs: tuple[InputSource, ...],
    sets: tuple[str, ...],
    wish: Wish,
    ending: Ending,
    upstreams: tuple[str, ...],
    plan_only: bool,
    noisy: bool,
) -> None:
    """Fill the store with every symbol that the inputs need, and report what is missing and why.

    INPUT is a dump, a memory image, a trace, an image, a PDB, a list or a lock file, a log, a crash report, a profile,
    or a folder or an archive of these; its content decides which. - is standard input.
    """
    if plan_only:
        if ending != Ending() or noisy:
            raise UsageError("--plan writes no report: leave --report, --fail-on and --noisy to the run itself")
        _tell_plan(settings, inputs, sets, wish, upstreams)
    report = run_warm(
        settings,
        wish.plan,
        lambda run: run.open_inputs(inputs, wish.processes, sets),
        upstreams=upstreams,
        noisy=noisy,
    )
    finish(report, settings, wish, ending)


def _tell_plan(
    settings: Settings, inputs: tuple[InputSource, ...], sets: tuple[str, ...], wish: Wish, upstreams: Sequence[str]
) -> NoReturn:
    """Write what `warm_command` would fetch, and end with the exit code of that."""
    import anyio  # noqa: PLC0415 - the servers are asked

    from symcache.stores.source import SymbolSource  # noqa: PLC0415
    from symcache.warm.documents import answered_by_servers  # noqa: PLC0415
    from symcache.warm.dryrun import DryRun, ask_servers  # noqa: PLC0415

    config = settings.load(upstreams=upstreams)

    async def ask(wants: Sequence[OpenWant], observer: Observer) -> list[Expected]:
        async with SymbolSource(config, observer=observer) as source:
            return await ask_servers(source, wants, within_s=_PLANNED_WITHIN_S)

    with (
        show_progress(quiet=settings.quiet) as shown,
        closing(DiskSource(config, observer=(observer := _say_notes_once(shown)))) as source,
        LocalRun(source, wish.plan, observer=observer, cores=None) as run,
    ):
        run.read(answered_by_servers(run.open_inputs(inputs, wish.processes, sets), config, observer))
        wants = run.settle_at_hand()
        files = anyio.run(ask, wants, observer) if wants else []
        # Images that are looked into only to make sure are no further files.
        looked_into = [
            each for each in wants if isinstance(each, WantedPdbOfImage | WantedLibraries) and each.is_presumed
        ]
        unnamed = len(wants) - len(files) - len(looked_into)
        dry_run = DryRun(run.report(only_settled=True), files, unnamed=unnamed)
    if settings.as_json:
        write_json(dry_run.as_json())
    else:
        click.echo("\n".join(plan_lines(dry_run, width=terminal_width())))
    for item in dry_run.at_hand.unreadable:
        say_error(unreadable_text(item))
    if dry_run.at_hand.is_empty and not wish.allow_empty:
        say_error(empty_text(dry_run.at_hand.narrowed))
    raise Exit(dry_run.exit_code(allow_empty=wish.allow_empty))


@click.command(cls=WishCommand)
@source_options()
@wish_options("Want", stack=True)
@ending_options
@settings_options()
def check_command(
    settings: Settings, inputs: tuple[InputSource, ...], sets: tuple[str, ...], wish: Wish, ending: Ending
) -> None:
    """Report what the inputs need and whether the store has it, right and whole; no network.

    INPUT is what `symcache warm` takes.
    """
    config = settings.load()
    with (
        show_progress(quiet=settings.quiet) as observer,
        closing(DiskSource(config, observer=observer)) as source,
        LocalRun(source, wish.plan, observer=observer, cores=None) as run,
    ):
        report = run.check(run.open_inputs(inputs, wish.processes, sets))
    finish(report, settings, wish, ending)


def run_warm(
    settings: Settings,
    plan: Plan,
    read: Callable[[LocalRun], Iterable[Record]] = lambda _: (),
    *,
    upstreams: Sequence[str] = (),
    believe_misses: bool = True,
    noisy: bool = False,
) -> Report:
    """Fetch what *plan* wants and the records of *read* need; Ctrl-C gives what was done.

    *upstreams* are asked before the servers of the symbol path; without *believe_misses* all are asked again what they
    said not long ago that they lack. If it is *noisy*, each file is told of on stderr as it ends, in place of progress.
    """
    config = settings.load(upstreams=upstreams)
    if not believe_misses:
        config = replace(config, misses=replace(config.misses, ttl_s=0))
    tell_end = _tell_noisily(config) if noisy else lambda _symbol: None
    with nullcontext(notes_alone(quiet=settings.quiet)) if noisy else show_progress(quiet=settings.quiet) as observer:
        observe = _say_notes_once(observer)
        # What is in a bucket is fetched from there, so that it need not be asked for first.
        source = DiskSource(config, observer=observe, asks_buckets=False)
        with LocalRun(source, plan, observer=observer, may_fetch=True, tell_end=tell_end, cores=None) as run:
            records = iter(read(run))
            try:
                with on_first([signal.SIGTERM], _interrupt), closing(run.source):
                    is_done = run.begin(records)
                if is_done and config.network.ca_file is None:  # a file that cannot be used is said in any case
                    return run.report()
                import anyio  # noqa: PLC0415 - what is there already needs no event loop

                import_module("symcache.stores.source")  # takes long enough to be interrupted
            except KeyboardInterrupt:
                return run.report(is_interrupted=True)
            return anyio.run(_fetch_rest, config, run, records, observe)


def _tell_noisily(config: Config) -> Callable[[Symbol], None]:
    from symcache.reports.noisy import question_lines  # noqa: PLC0415 - for those who want it

    symbol_path = config.symbol_path.redacted()

    def tell(symbol: Symbol) -> None:
        # In one piece, as several threads tell of files.
        if text := "\n".join(question_lines(symbol, symbol_path)):
            click.echo(text, err=True)

    return tell


async def _fetch_rest(config: Config, run: LocalRun, records: Iterator[Record], observer: Observer) -> Report:
    import asyncio  # noqa: PLC0415 - it runs already

    import anyio  # noqa: PLC0415

    from symcache.stores.source import SymbolSource  # noqa: PLC0415
    from symcache.warm.run import Warmer  # noqa: PLC0415

    loop = asyncio.get_running_loop()
    async with SymbolSource(config, observer=observer, looks_inline=True) as source:
        with (
            anyio.CancelScope() as scope,
            on_first([signal.SIGINT, signal.SIGTERM], partial(loop.call_soon_threadsafe, scope.cancel)),
        ):
            return await Warmer(source, run).warm(records)
        source.give_up_uploads()
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


def _interrupt() -> None:
    raise KeyboardInterrupt


def finish(report: Report, settings: Settings, wish: Wish | None = None, ending: Ending | None = None) -> None:
    """Write *report*, to the files that *ending* names, too, and end with its exit code."""
    allow_missing, allow_empty = (False, False) if wish is None else (wish.allow_missing, wish.allow_empty)
    reports, fail_on = ((), None) if ending is None else (ending.reports, ending.fail_on)
    if fail_on is not None and FailOn.PRIVATE in fail_on:
        from symcache.warm.inspect import find_private  # noqa: PLC0415 - for this question alone

        in_buckets = any(getattr(each.outcome, "url", None) for each in report.symbols)
        buckets = DiskSource(settings.load()).buckets if in_buckets else ()
        report = replace(report, private=find_private(report.symbols, buckets))
    if settings.as_json:
        write_json(report.as_json())
    else:
        write_report(report, quiet=settings.quiet, verbose=settings.verbose)
    for path in reports:
        from symcache.reports import files  # noqa: PLC0415 - most runs write none

        files.write_report(report, path)
        if not settings.quiet:
            click.echo(f"report: {path_text(path, sys.stderr)}", err=True)
    if report.unreadable:
        say_error(f"{count_text(len(report.unreadable), 'input')} could not be read, or held no file's identity")
    if report.is_empty and not (allow_empty or report.is_interrupted):
        say_error(empty_text(report.narrowed))
    elif report.without_stack and not report.is_interrupted:
        text = f"no crashing thread's stack in {', '.join(report.without_stack)}"
        if report.lacks_stack:
            say_error(f"{text}; run it without --stack")
        else:
            settings.note(f"{text}: nothing of it was wanted")
    if report.private:
        say_error(f"{count_text(len(report.private), 'PDB')} with private symbols, {report.private[0]} among them")
    raise Exit(report.exit_code(allow_missing=allow_missing, allow_empty=allow_empty, fail_on=fail_on))


def write_report(report: Report, *, quiet: bool, verbose: bool) -> None:
    """Write *report* to stdout, as wide as the terminal is."""
    lines = report_lines(report, quiet=quiet, verbose=verbose, width=terminal_width(), show_path=_store_text)
    if text := "\n".join(lines):
        click.echo(text)


def _store_text(path: Path) -> str:
    return path_text(path, sys.stdout)
