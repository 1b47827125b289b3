"""``symcache watch``."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click
from click.exceptions import Exit

from symcache.cli.options import Settings, folder_option, settings_options
from symcache.cli.output import notes_alone, say, say_error
from symcache.cli.signals import on_first
from symcache.errors import UsageError
from symcache.reports.files import SUFFIXES
from symcache.reports.text import summary

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.config import Config
    from symcache.events import Observer
    from symcache.watch import Ended, WatchSettings

_FORMS = [suffix.removeprefix(".") for suffix in SUFFIXES]


@click.command()
@click.argument(
    "folders", metavar="FOLDER...", nargs=-1, required=True, type=click.Path(path_type=Path, file_okay=False)
)
@click.option(
    "--report-as",
    "form",
    type=click.Choice(_FORMS),
    default="txt",
    show_default=True,
    help="Form of the reports, NAME.symcache.FORM.",
)
@folder_option("--reports", "Write reports below DIR instead of beside the files that they are about.")
@click.option(
    "--poll",
    "poll_s",
    type=click.FloatRange(min=0.1, max=3600),
    metavar="SECONDS",
    help="Look so often, instead of being woken by the system.",
)
@click.option(
    "--settle",
    "settle_s",
    type=click.FloatRange(min=0.05, max=3600),
    default=2.0,
    show_default=True,
    metavar="SECONDS",
    help="A file is complete when it has not changed for so long.",
)
@click.option("--once", is_flag=True, help="Do what is there, and end.")
@settings_options(json=False)
def watch_command(
    settings: Settings,
    folders: tuple[Path, ...],
    form: str,
    reports: Path | None,
    poll_s: float | None,
    settle_s: float,
    once: bool,
) -> None:
    """Warm the store for each dump, log or archive that arrives in the folders, and write a report beside it.

    Ctrl-C and SIGTERM end it. What has a report already is not done again, unless the file is a new one.
    """
    from symcache.watch import Reports, WatchSettings  # noqa: PLC0415 - not needed for --help
    from symcache.watch.files import Patience, check_names  # noqa: PLC0415

    for folder in folders:
        if not folder.is_dir():
            raise UsageError(f"{folder}: there is no such folder to watch")
    whole = tuple(folder.absolute() for folder in folders)
    where = Reports(form, None if reports is None else reports.absolute())
    if reports is not None:
        check_names(whole)
    watching = WatchSettings(whole, where, poll_s or 0.0, Patience(settle_s=settle_s))
    _watch(settings, settings.load(), watching, is_once=once)


def _watch(settings: Settings, config: Config, watching: WatchSettings, *, is_once: bool) -> NoReturn:
    import anyio  # noqa: PLC0415 - not needed for --help

    ends: set[int] = set()

    def tell(told: Ended | str) -> None:
        if isinstance(told, str):
            say_error(told)
            return
        ends.add(told.report.exit_code())
        if not settings.quiet or told.problem is not None or told.report.exit_code() in {1, 4}:
            say(_ended_text(told))

    if not is_once:
        settings.note(f"watching {', '.join(map(str, watching.folders))} for dumps and debugger logs")
    observer = notes_alone(quiet=settings.quiet)
    try:
        is_stopped = anyio.run(partial(_run, config, watching, tell, observer, is_once=is_once))
    except KeyboardInterrupt:  # before the event loop ran
        is_stopped = True
    if not is_stopped:
        raise Exit(next((code for code in (1, 4, 3) if code in ends), 0))
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(130 if is_once else 0)  # a thread that reads a slow share cannot be told to stop


async def _run(
    config: Config, watching: WatchSettings, tell: Callable[[Ended | str], None], observer: Observer, *, is_once: bool
) -> bool:
    """Watch until a signal comes, or once; return whether a signal ended it."""
    import asyncio  # noqa: PLC0415 - it runs already

    import anyio  # noqa: PLC0415

    from symcache.stores.source import SymbolSource  # noqa: PLC0415
    from symcache.watch import Watcher  # noqa: PLC0415

    stop = partial(asyncio.get_running_loop().call_soon_threadsafe, (scope := anyio.CancelScope()).cancel)
    async with SymbolSource(config, observer=observer) as source:
        with scope, on_first([signal.SIGINT, signal.SIGTERM], stop):
            watcher = Watcher(source, watching, tell)
            await (watcher.run_once() if is_once else watcher.run())
    return scope.cancel_called


def _ended_text(told: Ended) -> str:
    """Return the line about one file."""
    unreadable = [item.problem for item in told.report.unreadable][:1]
    parts = [f"unreadable: {unreadable[0]}" if unreadable and not told.report.symbols else summary(told.report)]
    if told.report.is_empty:
        parts = ["it holds no module"]
    if told.written is not None:
        parts.append(f"report: {told.written.name if told.written.parent == told.path.parent else told.written}")
    if told.problem is not None:
        parts.append(told.problem)
    if told.retry_in_s is not None:
        parts.append(f"tried again in {told.retry_in_s:.0f} s")
    return f"{told.path}: {'; '.join(parts)}"
