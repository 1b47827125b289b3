"""``symcache missing``."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Any

import click

from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import count_text, plain, say, write_json, write_line, write_table
from symcache.cli.warm import finish, run_warm
from symcache.errors import UsageError
from symcache.events import Noted
from symcache.identity import ImageKey, fold, parse_index
from symcache.stores.negative import Misses, MissingFiles
from symcache.stores.source import SymbolSource
from symcache.warm.plan import Plan, WantedFile, WantedPdbOfImage

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.config import Config
    from symcache.events import Event
    from symcache.stores.negative import Miss
    from symcache.warm.plan import Want

__all__ = ["command"]


@dataclass(frozen=True, slots=True)
class _Row:
    miss: Miss
    counts: bool


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--retry", is_flag=True, help="Request them again now.")
@click.option(
    "--forget", is_flag=True, help="Forget the servers' answers, so that the next run requests the files again."
)
@json_option
@settings_options
def command(settings: Settings, patterns: tuple[str, ...], retry: bool, forget: bool, as_json: bool) -> None:
    """List the files that are missing: no server of the symbol path has them, and no store.

    Each is listed with the servers that answered, and when first and last. PATTERN narrows it to names or indexes,
    with * and ?: `symcache missing 'secdrv*'`.
    """
    if retry and forget:
        raise UsageError("--retry and --forget exclude each other")
    config = settings.load()
    if forget:
        _forget(config, patterns, as_json=as_json)
        return
    with closing(SymbolSource(config, observer=_say_notes)) as source:
        rows = _missing(source, patterns)
        has_server = bool(source.servers)
    if retry:
        plan = Plan()
        plan.add(map(_want_of, _files(rows)))
        report = run_warm(settings, plan, believe_misses=False)
        finish(report, settings, as_json=as_json, allow_missing=False)
    elif as_json:
        write_json({"schema": "symcache.missing/1", "missing": [*_as_json(rows)]})
    else:
        _write_text(rows)
        if not settings.quiet:
            files = count_text(len(_files(rows)), "file")
            nothing = "no miss is remembered" if has_server else "the symbol path has no server, so no server was asked"
            say(f"{files}; --retry asks again, --forget forgets" if rows else nothing)


def _forget(config: Config, patterns: tuple[str, ...], *, as_json: bool) -> None:
    """Drop what any server said, also of files that another one has."""
    with Misses(config.misses.folder, ttl_s=config.misses.ttl_s) as misses:
        rows = [_Row(miss, misses.counts(miss)) for miss in misses.list() if _matches(miss.index, patterns)]
        for row in rows:
            misses.forget(row.miss.upstream, parse_index(row.miss.index))
    if as_json:
        write_json({"schema": "symcache.missing/1", "missing": [*_as_json(rows)]})
    else:
        write_line(f"forgot {count_text(len(rows), 'answer')}")


def _missing(source: SymbolSource, patterns: tuple[str, ...]) -> list[_Row]:
    """Return the misses of the files that are missing, one file's after the other's."""
    lacking = MissingFiles(source)
    groups = [group for group in lacking.denied() if _matches(group[0].index, patterns)]
    absent = {key.folded for key in lacking.drop_held([parse_index(group[0].index) for group in groups])}
    misses = source.misses
    return [
        _Row(miss, misses is not None and misses.counts(miss))
        for group in groups
        if fold(group[0].index) in absent
        for miss in group
    ]


def _files(rows: list[_Row]) -> list[list[_Row]]:
    return [list(group) for _, group in groupby(rows, key=lambda row: fold(row.miss.index))]


def _want_of(rows: list[_Row]) -> Want:
    """Return what was wanted of a file: itself, or of an image in passing the PDB that it names."""
    key = parse_index(rows[0].miss.index)
    if isinstance(key, ImageKey) and all(row.miss.in_passing for row in rows):
        return WantedPdbOfImage(key.name, key)
    return WantedFile(key.name, key)


def _say_notes(event: Event) -> None:
    if isinstance(event, Noted):
        say(event.text)


def _matches(index: str, patterns: tuple[str, ...]) -> bool:
    name, folded = fold(index.partition("/")[0]), fold(index)
    return not patterns or any(
        fnmatchcase(name, fold(pattern)) or fnmatchcase(folded, fold(pattern.replace("\\", "/")))
        for pattern in patterns
    )


def _as_json(rows: list[_Row]) -> Iterator[dict[str, Any]]:
    for group in _files(rows):
        yield {
            "index": group[0].miss.index,
            "upstreams": [
                {
                    "upstream": row.miss.upstream,
                    "answer": row.miss.answer,
                    "first_asked": _time(row.miss.first_asked_s),
                    "last_asked": _time(row.miss.last_asked_s),
                    "times": row.miss.times,
                    "is_believed": row.counts,
                }
                for row in group
            ],
        }


def _write_text(rows: list[_Row]) -> None:
    for group in _files(rows):
        in_passing = ": the PDB that it names" if isinstance(_want_of(group), WantedPdbOfImage) else ""
        write_line(plain(group[0].miss.index) + in_passing)
        write_table(
            [
                "",
                row.miss.upstream,
                row.miss.answer,
                f"first {_time(row.miss.first_asked_s)}",
                f"last {_time(row.miss.last_asked_s)}",
                count_text(row.miss.times, "time") + ("" if row.counts else ", will be asked again"),
            ]
            for row in group
        )


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):
        return "at no time"
