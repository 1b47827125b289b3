"""``symcache fetch``."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import unquote

import click

from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import plain, say_error, write_json, write_line
from symcache.cli.reporttext import evidence
from symcache.cli.warm import run_warm
from symcache.errors import InputError, UsageError
from symcache.identity import Key, OtherKey, PdbKey, compressed_name, fold, parse_index
from symcache.stores.results import Fetched, Missing, Present
from symcache.sympath import redact_text
from symcache.warm.plan import Plan, WantedFile

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from symcache.warm.report import Report

__all__ = ["command"]

_URL = re.compile(r"https?://", re.IGNORECASE)
# As debuggers print it, before the age.
_GUID = re.compile(r"\{?([0-9A-Fa-f]{8})-([0-9A-Fa-f]{4})-([0-9A-Fa-f]{4})-([0-9A-Fa-f]{4})-([0-9A-Fa-f]{12})\}?")


@click.command()
@click.argument("indexes", metavar="INDEX...", nargs=-1, required=True)
@json_option
@settings_options
def command(settings: Settings, indexes: tuple[str, ...], as_json: bool) -> None:
    """Fetch single files and print their paths.

    INDEX is name/id/name or name/id, also as the end of a server's URL or of a path in a store; the servers of the
    symbol path are asked. `symcache fetch NAME ID` names one file. Files that the store has are not requested.
    """
    asked = list(_parse_all(indexes))
    keys = [key for _, key in asked]
    plan = Plan()
    plan.add(WantedFile(key.name, key) for key in keys)
    report = run_warm(settings, plan)
    if as_json:
        write_json(report.as_json())
    else:
        _write_paths(report, {key.index: server for server, key in asked if server})
    # Here an excluded file is wanting, too: it was asked for by name.
    is_complete = all(isinstance(symbol.outcome, Present | Fetched) for symbol in report.symbols)
    raise click.exceptions.Exit(report.exit_code() or (0 if is_complete else 3))


def _parse_all(indexes: Sequence[str]) -> Iterator[tuple[str, Key]]:
    """Yield what each text names, with the host of the server if it is a URL."""
    if len(indexes) == 2 and not any(mark in text for mark in "/\\ " for text in indexes):
        indexes = [" ".join(indexes)]
    for text in indexes:
        host, index = _cut_out(text.strip())
        try:
            key = parse_index(_GUID.sub(lambda match: "".join(match.groups()), index))
        except InputError as error:
            raise UsageError(redact_text(str(error))) from error
        if index != text.strip() and isinstance(key, OtherKey) and index.count("/") < 2:
            # Any two folders look like a name and an id of a kind that is not known.
            raise UsageError(f"{redact_text(text)!r} does not end in an index; write it as name/id/name")
        yield host, key


def _cut_out(text: str) -> tuple[str, str]:
    """Return the host of the URL that *text* is, if it is one, and the index at its end or that of a longer path."""
    host, parts = "", text.replace("\\", "/").split("/")
    if _URL.match(text):
        host, *parts = text.partition("//")[2].partition("?")[0].split("/")
        host, parts = host.rpartition("@")[2], ["", *map(unquote, parts)]
    if len(parts) < 3 or (len(parts) == 3 and not host):
        return host, text
    name, _, file = map(fold, parts[-3:])
    if file in {name, compressed_name(name)}:
        return host, "/".join(parts[-3:])
    return host, "/".join(parts[-3:-1] if file == "file.ptr" else parts[-2:])


def _write_paths(report: Report, hosts: Mapping[str, str]) -> None:
    """Write where each file lies.

    Args:
        report: What became of them.
        hosts: By index, the host of the URL that named the file.
    """
    for symbol in report.symbols:
        outcome = symbol.outcome
        if isinstance(outcome, Present | Fetched):
            write_line(plain(str(outcome.path)))
            continue
        parts = [f"{symbol.index}: {symbol.state}, {symbol.cause}", evidence(symbol)]
        said = ": ".join(filter(None, parts))
        if isinstance(outcome, Missing) and symbol.index is not None:
            said += "".join(f"; {hint}" for hint in _hints(parse_index(symbol.index), hosts, report.symbol_path))
        say_error(said)


def _hints(key: Key, hosts: Mapping[str, str], symbol_path: str) -> Iterator[str]:
    if isinstance(key, PdbKey) and not key.age:
        yield f"this id has no age, and hardly any PDB has none: the first is {key.name}/{key.id}1"
    host = hosts.get(key.index, "")
    if host and host.lower() not in symbol_path.lower():
        yield f"{host} is not in the symbol path, so it was not asked"
