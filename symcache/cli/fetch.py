"""``symcache fetch`` and ``symcache missing``: single files, and those that no server has."""

from __future__ import annotations

import re
from contextlib import closing
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from itertools import groupby
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

import click
from click.exceptions import Exit

from symcache.cli.options import Settings, parse_key, settings_options
from symcache.cli.output import notes_alone, say_error, write_json, write_line, write_table
from symcache.cli.warm import finish, run_warm
from symcache.errors import UsageError
from symcache.identity import POINTER, ImageKey, Key, OtherKey, PdbKey, compressed_name, fold, parse_index
from symcache.reports.advice import advice, evidence, made_by
from symcache.reports.lines import count_text
from symcache.stores.results import Fetched, Missing, Present
from symcache.sympath import redact_text
from symcache.warm.plan import Plan, WantedFile, WantedPdbOfImage

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from symcache.config import Config
    from symcache.stores.negative import Miss
    from symcache.stores.source import SymbolSource
    from symcache.warm.plan import Want
    from symcache.warm.report import Report, Symbol

# As debuggers print it, before the age.
_GUID = r"\{?([0-9A-Fa-f]{8})-([0-9A-Fa-f]{4})-([0-9A-Fa-f]{4})-([0-9A-Fa-f]{4})-([0-9A-Fa-f]{12})\}?"


@click.command()
@click.argument("indexes", metavar="INDEX...", nargs=-1, required=True)
@settings_options()
def fetch_command(settings: Settings, indexes: tuple[str, ...]) -> None:
    """Fetch single files and print their paths.

    INDEX is name/id/name or name/id, also as the end of a server's URL or of a path in a store; the servers of the
    symbol path are asked. `symcache fetch NAME ID` names one file. Files that the store has are not requested.
    """
    asked = list(_parse_all(indexes))
    plan = Plan()
    plan.add(WantedFile(key.name, key) for _, key in asked)
    report = run_warm(settings, plan)
    if settings.as_json:
        write_json(report.as_json())
    else:
        _write_paths(report, {key.index: server for server, key in asked if server})
    # Here an excluded file is wanting, too: it was asked for by name.
    is_complete = all(symbol.is_at_hand for symbol in report.symbols)
    raise Exit(report.exit_code() or (0 if is_complete else 3))


def _parse_all(indexes: Sequence[str]) -> Iterator[tuple[str, Key]]:
    """Yield what each text names, with the host of the server if it is a URL."""
    if len(indexes) == 2 and not any(mark in text for mark in "/\\ " for text in indexes):
        indexes = [" ".join(indexes)]
    for text in indexes:
        host, index = _cut_out(text.strip())
        key = parse_key(re.sub(_GUID, r"\1\2\3\4\5", index))
        if index != text.strip() and isinstance(key, OtherKey) and index.count("/") < 2:
            # Any two folders look like a name and an id of a kind that is not known.
            raise UsageError(f"{redact_text(text)!r} does not end in an index; write it as name/id/name")
        yield host, key


def _cut_out(text: str) -> tuple[str, str]:
    """Return the host of the URL that *text* is, if it is one, and the index at its end or that of a longer path."""
    host, parts = "", text.replace("\\", "/").split("/")
    if re.match("(?i)https?://", text):
        host, *parts = text.partition("//")[2].partition("?")[0].split("/")
        host, parts = host.rpartition("@")[2], ["", *map(unquote, parts)]
    if len(parts) < 3 or (len(parts) == 3 and not host):
        return host, text
    name, _, file = map(fold, parts[-3:])
    if file in {name, compressed_name(name)}:
        return host, "/".join(parts[-3:])
    return host, "/".join(parts[-3:-1] if file == POINTER else parts[-2:])


def _write_paths(report: Report, hosts: Mapping[str, str]) -> None:
    """Write where each file lies; *hosts* are those of the URLs that named files, by index."""
    for symbol in report.symbols:
        outcome = symbol.outcome
        if isinstance(outcome, Present | Fetched):
            write_line(str(outcome.path))
            continue
        said = ": ".join(filter(None, [f"{symbol.index}: {symbol.state}, {symbol.cause}", evidence(symbol)]))
        if isinstance(outcome, Missing) and symbol.index is not None:
            said += "".join(f"; {hint}" for hint in _hints(parse_index(symbol.index), hosts, report.symbol_path))
        say_error(said)


def _hints(key: Key, hosts: Mapping[str, str], symbol_path: str) -> Iterator[str]:
    if isinstance(key, PdbKey) and not key.age:
        yield f"this id has no age, and hardly any PDB has none: the first is {key.name}/{key.id}1"
    host = hosts.get(key.index, "")
    if host and host.lower() not in symbol_path.lower():
        yield f"{host} is not in the symbol path, so it was not asked"


class _Row(NamedTuple):
    miss: Miss
    counts: bool


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--retry", is_flag=True, help="Request them again now.")
@click.option(
    "--forget", is_flag=True, help="Forget the servers' answers, so that the next run requests the files again."
)
@settings_options()
def missing_command(settings: Settings, patterns: tuple[str, ...], retry: bool, forget: bool) -> None:
    """List the files that are missing: no server of the symbol path has them, and no store.

    Each is listed with the servers that answered, and when first and last; with the inputs that wanted it last; and
    with its maker and what to do, where that is known. PATTERN narrows it to names or indexes, with * and ?:
    `symcache missing 'secdrv*'`.
    """
    from symcache.stores.source import SymbolSource  # noqa: PLC0415 - `fetch` of what is there needs no network

    if retry and forget:
        raise UsageError("--retry and --forget exclude each other")
    config = settings.load()
    if forget:
        _forget(settings, config, patterns)
        return
    with closing(SymbolSource(config, observer=notes_alone(quiet=False))) as source:
        files = _missing(source, patterns)
        symbols = [] if retry else _symbols_of(files, source)
        has_server = bool(source.servers)
    if retry:
        plan = Plan()
        plan.add(map(_want_of, files))
        finish(run_warm(settings, plan, believe_misses=False), settings)
    elif settings.as_json:
        _write_missing_json(files, symbols)
    else:
        _write_missing(files, symbols)
        nothing = "no miss is remembered" if has_server else "the symbol path has no server, so no server was asked"
        settings.note(f"{count_text(len(files), 'file')}; --retry asks again, --forget forgets" if files else nothing)


def _forget(settings: Settings, config: Config, patterns: tuple[str, ...]) -> None:
    """Drop what any server said, also of files that another one has."""
    from symcache.stores.negative import Misses  # noqa: PLC0415

    with Misses(config.misses.folder, ttl_s=config.misses.ttl_s) as misses:
        rows = [_Row(miss, misses.counts(miss)) for miss in misses.list() if _matches(miss.index, patterns)]
        for row in rows:
            misses.forget(row.miss.upstream, parse_index(row.miss.index))
    if config.cluster.url and rows:
        import anyio  # noqa: PLC0415 - what is this user's own needs none

        anyio.run(_forget_shared, config, rows)
    if settings.as_json:
        files = [[*group] for _, group in groupby(rows, key=lambda row: fold(row.miss.index))]
        _write_missing_json(files, _symbols_of(files))
    else:
        write_line(f"forgot {count_text(len(rows), 'answer')}")


async def _forget_shared(config: Config, rows: Sequence[_Row]) -> None:
    """Drop them from what machines share, too, or they would come back from there."""
    from symcache.stores.cluster import Cluster  # noqa: PLC0415
    from symcache.stores.http.servers import name_as_asked  # noqa: PLC0415

    cluster = Cluster(config.cluster, observer=notes_alone(quiet=False))
    try:
        for row in rows:
            upstream = name_as_asked(row.miss.upstream, config.server)
            await cluster.forget_misses(parse_index(row.miss.index), [upstream])
    finally:
        cluster.close()


def _missing(source: SymbolSource, patterns: tuple[str, ...]) -> list[list[_Row]]:
    """Return the misses of each file that is missing."""
    from symcache.stores.negative import MissingFiles  # noqa: PLC0415

    lacking = MissingFiles(source)
    groups = [group for group in lacking.denied() if _matches(group[0].index, patterns)]
    absent = {key.folded for key in lacking.drop_held([parse_index(group[0].index) for group in groups])}
    misses = source.misses
    return [
        [_Row(miss, misses is not None and misses.counts(miss)) for miss in group]
        for group in groups
        if fold(group[0].index) in absent
    ]


def _want_of(rows: list[_Row]) -> Want:
    """Return what was wanted of a file: itself, or of an image in passing the PDB that it names."""
    key = parse_index(rows[0].miss.index)
    if isinstance(key, ImageKey) and all(row.miss.in_passing for row in rows):
        return WantedPdbOfImage(key.name, key)
    return WantedFile(key.name, key)


def _matches(index: str, patterns: tuple[str, ...]) -> bool:
    name, folded = fold(index.partition("/")[0]), fold(index)
    return not patterns or any(
        fnmatchcase(name, fold(pattern)) or fnmatchcase(folded, fold(pattern.replace("\\", "/")))
        for pattern in patterns
    )


def _symbols_of(files: list[list[_Row]], source: SymbolSource | None = None) -> list[Symbol]:
    from symcache.stores.negative import MissingFiles  # noqa: PLC0415 - as above
    from symcache.warm.makers import symbol_of  # noqa: PLC0415 - `fetch` needs no makers unless something is missing

    keys = [parse_index(rows[0].miss.index) for rows in files]
    misses = [[row.miss for row in rows] for rows in files]
    if source is None:
        return list(map(symbol_of, keys, misses))
    images = MissingFiles(source).images_that_name({key.folded for key in keys})
    return [
        symbol_of(key, said, images.get(key.folded), source.find_version)
        for key, said in zip(keys, misses, strict=True)
    ]


def _wanted_by(rows: list[_Row]) -> tuple[tuple[str, ...], int]:
    """Return the base names of the last inputs that wanted a file, and how many did."""
    known = [row.miss.wanted for row in rows if row.miss.wanted is not None]
    most = max(known, key=lambda wanted: wanted.count, default=None)
    return ((), 0) if most is None else (most.inputs, most.count)


def _missing_json(rows: list[_Row], symbol: Symbol) -> dict[str, Any]:
    names, count = _wanted_by(rows)
    fields = symbol.as_json()
    return {
        "index": rows[0].miss.index,
        "since": _time(min(row.miss.first_asked_s for row in rows)),
        "maker": fields.get("maker"),
        "cause": symbol.cause,
        "hint": fields.get("hint"),
        "advice": advice(symbol),
        "inputs": {"count": count, "last": list(names)},
    }


def _write_missing_json(files: list[list[_Row]], symbols: list[Symbol]) -> None:
    missing = [
        {
            **_missing_json(rows, symbol),
            "upstreams": [
                {
                    "upstream": miss.upstream,
                    "answer": miss.answer,
                    "first_asked": _time(miss.first_asked_s),
                    "last_asked": _time(miss.last_asked_s),
                    "times": miss.times,
                    "is_believed": counts,
                }
                for miss, counts in rows
            ],
        }
        for rows, symbol in zip(files, symbols, strict=True)
    ]
    write_json({"schema": "symcache.missing/1", "missing": missing})


def _write_missing(files: list[list[_Row]], symbols: list[Symbol]) -> None:
    for rows, symbol in zip(files, symbols, strict=True):
        in_passing = ": the PDB that it names" if isinstance(_want_of(rows), WantedPdbOfImage) else ""
        write_line(f"{rows[0].miss.index}{in_passing}")
        write_table(
            [
                "",
                miss.upstream,
                miss.answer,
                f"first {_time(miss.first_asked_s)}",
                f"last {_time(miss.last_asked_s)}",
                count_text(miss.times, "time") + ("" if counts else ", will be asked again"),
            ]
            for miss, counts in rows
        )
        for line in filter(None, [_wanted_text(*_wanted_by(rows)), _maker_text(symbol)]):
            write_line(f"  {line}")


def _wanted_text(names: tuple[str, ...], count: int) -> str:
    more = f" and {count_text(count - len(names), 'input')} before" if count > len(names) else ""
    return f"wanted by {', '.join(names)}{more}" if names else ""


def _maker_text(symbol: Symbol) -> str:
    return f"{made_by(symbol)}: {advice(symbol)}" if symbol.maker is not None else ""


def _time(seconds: float) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
    except (OverflowError, OSError, ValueError):
        return "at no time"
