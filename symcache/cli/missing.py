"""``symcache missing``."""

from __future__ import annotations

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
from symcache.identity import fold, parse_index
from symcache.store.misses import Misses
from symcache.warm.plan import Plan, WantedFile

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.store.misses import Miss

__all__ = ["command"]


@dataclass(frozen=True, slots=True)
class _Row:
    miss: Miss
    counts: bool


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--retry", is_flag=True, help="Ask for them again now.")
@click.option("--forget", is_flag=True, help="Forget them, so that they are asked for when next wanted.")
@json_option
@settings_options
def command(settings: Settings, patterns: tuple[str, ...], retry: bool, forget: bool, as_json: bool) -> None:
    """List the files that upstreams said they do not have: who said so, and when first and last.

    PATTERN narrows it to names or indexes, with * and ?: `symcache missing 'secdrv*'`.
    """
    if retry and forget:
        raise UsageError("--retry and --forget exclude each other")
    config = settings.load()
    with Misses(config.misses.folder, ttl_s=config.misses.ttl_s) as misses:
        rows = [_Row(miss, misses.counts(miss)) for miss in misses.list() if _matches(miss.index, patterns)]
        if forget:
            for row in rows:
                misses.forget(row.miss.upstream, parse_index(row.miss.index))
    if retry:
        keys = [parse_index(index) for index in dict.fromkeys(row.miss.index for row in rows)]
        plan = Plan()
        plan.add(WantedFile(key.name, key) for key in keys)
        report = run_warm(settings, plan, believe_misses=False)
        finish(report, settings, as_json=as_json, allow_missing=False)
    elif as_json:
        write_json({"schema": "symcache.missing/1", "missing": [*_as_json(rows)]})
    elif forget:
        write_line(f"forgot {count_text(len(rows), 'answer')}")
    else:
        _write_text(rows)
        if not settings.quiet:
            files = count_text(len({row.miss.index for row in rows}), "file")
            say(f"{files}; --retry asks again, --forget forgets" if rows else "no miss is remembered")


def _matches(index: str, patterns: tuple[str, ...]) -> bool:
    name, folded = fold(index.partition("/")[0]), fold(index)
    return not patterns or any(
        fnmatchcase(name, fold(pattern)) or fnmatchcase(folded, fold(pattern.replace("\\", "/")))
        for pattern in patterns
    )


def _as_json(rows: list[_Row]) -> Iterator[dict[str, Any]]:
    for index, group in groupby(rows, key=lambda row: row.miss.index):
        yield {
            "index": index,
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
    for index, group in groupby(rows, key=lambda row: row.miss.index):
        write_line(plain(index))
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
