"""``symcache lock``."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from symcache.cli.options import (
    Settings,
    Wish,
    WishCommand,
    output_option,
    settings_options,
    source_options,
    wish_options,
)
from symcache.cli.output import say_error, show_progress, show_ticker
from symcache.cli.warm import finish
from symcache.errors import InputError, StoreError, UsageError
from symcache.identity import fold
from symcache.inputs.lock import lock_lines
from symcache.reports.files import write_whole
from symcache.reports.lines import count_text, size_text
from symcache.stores.disk import DiskSource
from symcache.warm.local import LocalRun
from symcache.warm.lock import Said, make_lock, with_known_causes
from symcache.warm.report import State

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.config import Config
    from symcache.identity import Key
    from symcache.inputs.detect import InputSource
    from symcache.warm.report import Report


@click.command(cls=WishCommand)
@source_options()
@output_option("The lock file to write.")
@wish_options("State")
@settings_options()
def lock_command(
    settings: Settings, inputs: tuple[InputSource, ...], sets: tuple[str, ...], output: Path, wish: Wish
) -> None:
    """Write down, byte for byte, which files the inputs need and the store has; report as `symcache check` does.

    INPUT is what `symcache warm` takes. `symcache warm FILE` then fetches the same files anywhere, or says what
    differs. If a file failed, nothing is written.
    """
    if str(output) == "-":
        raise UsageError("-o -: standard output takes the report; give the lock file a name")
    config = settings.load()
    said = Said()
    with (
        show_progress(quiet=settings.quiet) as observer,
        closing(DiskSource(config, observer=observer)) as source,
        LocalRun(source, wish.plan, observer=observer) as run,
    ):
        report = run.check(said.watch(run.open_inputs(inputs, wish.processes, sets)))
        report = with_known_causes(report, said, lambda: _denied(config))
        failed = report.count()[State.FAILED]
        if not failed:
            _write_lock(source, report, said, output, settings)
    if failed:
        say_error(f"{output} was not written: {count_text(failed, 'file')} failed")
    finish(report, settings, wish)


def _write_lock(source: DiskSource, report: Report, said: Said, output: Path, settings: Settings) -> None:
    """Read every file that is at hand, and write the lock file; `StoreError` if one cannot be read any more."""
    with show_ticker(quiet=settings.quiet) as show:

        def digest(key: Key) -> tuple[int, str]:
            show(f"reading {key.name}")
            try:
                found = source.digest(key)
            except (OSError, InputError) as error:
                raise StoreError(f"{key.index} cannot be read any more: {error}", path=output) from error
            if found is None:
                raise StoreError(f"{key.index} is not there any more; nothing was written", path=output)
            return found

        files = make_lock(report, digest, said)
    write_whole(output, "".join(f"{line}\n" for line in lock_lines(files)).encode(), "the lock file")
    missing = sum(file.cause is not None for file in files)
    size = size_text(sum(file.size_bytes for file in files))
    settings.note(f"{output}: {count_text(len(files) - missing, 'file')}, {size}, {missing} missing")


def _denied(config: Config) -> set[str]:
    """Return the folded indexes of what every server of the symbol path said that it has not, whenever that was."""
    from symcache.stores.negative import MissingFiles  # noqa: PLC0415 - where all files are at hand, none was denied
    from symcache.stores.source import SymbolSource  # noqa: PLC0415

    with closing(SymbolSource(config)) as source:
        return {fold(group[0].index) for group in MissingFiles(source).denied()}
