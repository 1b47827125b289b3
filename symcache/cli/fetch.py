"""``symcache fetch``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import plain, say_error, write_json, write_line
from symcache.cli.reporttext import evidence
from symcache.cli.warm import run_warm
from symcache.errors import InputError, UsageError
from symcache.identity import Key, parse_index
from symcache.upstream.outcome import Fetched, Present
from symcache.warm.plan import Plan, WantedFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.warm.report import Report

__all__ = ["command"]


@click.command()
@click.argument("indexes", metavar="INDEX...", nargs=-1, required=True)
@json_option
@settings_options
def command(settings: Settings, indexes: tuple[str, ...], as_json: bool) -> None:
    """Fetch single files and print where they lie.

    INDEX is name/id/name or name/id; `symcache fetch NAME ID` names one file. What the store has is not asked for.
    """
    keys = list(_parse_all(indexes))
    plan = Plan()
    plan.add(WantedFile(key.name, key) for key in keys)
    report = run_warm(settings, plan)
    if as_json:
        write_json(report.as_json())
    else:
        _write_paths(report)
    # Here an excluded file is wanting, too: it was asked for by name.
    is_complete = all(isinstance(symbol.outcome, Present | Fetched) for symbol in report.symbols)
    raise click.exceptions.Exit(report.exit_code() or (0 if is_complete else 3))


def _parse_all(indexes: Sequence[str]) -> Iterator[Key]:
    if len(indexes) == 2 and not any(mark in text for mark in "/\\ " for text in indexes):
        indexes = [" ".join(indexes)]
    for text in indexes:
        try:
            yield parse_index(text)
        except InputError as error:
            raise UsageError(str(error)) from error


def _write_paths(report: Report) -> None:
    for symbol in report.symbols:
        outcome = symbol.outcome
        if isinstance(outcome, Present | Fetched):
            write_line(plain(str(outcome.path)))
        else:
            said = evidence(symbol)
            say_error(f"{symbol.index}: {symbol.state}, {symbol.cause}" + (f": {said}" if said else ""))
