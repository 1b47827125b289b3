"""``symcache servers`` and ``symcache doctor``."""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from symcache.cli.options import Settings, parse_key, settings_options, timeout_option
from symcache.cli.output import say, write_json, write_line, write_table
from symcache.stores.http.servers import SERVERS, Holding, LetterCase

if TYPE_CHECKING:
    from collections.abc import Iterator

    from click.shell_completion import CompletionItem

    from symcache.doctor.finding import Finding
    from symcache.stores.http.servers import Hints
    from symcache.warm.servers import ListedServer


def _complete_servers(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem  # noqa: PLC0415 - for a shell alone

    return [CompletionItem(each.name, help=each.url) for each in SERVERS if each.name.startswith(incomplete)]


servers_argument = click.argument("servers", metavar="[SERVER]...", nargs=-1, shell_complete=_complete_servers)


@click.command()
@servers_argument
@click.option(
    "--probe", is_flag=True, help="Request a file that cannot exist; from the servers of the symbol path by default."
)
@click.option(
    "--index",
    metavar="INDEX",
    help="A file that they have; with --probe it tells which settings they need. Files of the store otherwise.",
)
@timeout_option("Longest wait for one server with --probe.")
@settings_options()
def servers_command(
    settings: Settings, servers: tuple[str, ...], probe: bool, index: str | None, timeout_s: float
) -> None:
    """List the symbol servers that are known, configured, and in the symbol path (marked *).

    SERVER is a name or a URL. With --probe the exit code is 1 if one of those asked does not behave like a symbol
    server: it says yes to everything, sends pages, refuses, or does not answer. What the config file should say of a
    server and does not comes behind the list.
    """
    import anyio  # noqa: PLC0415 - neither help nor a shell that completes needs the network

    from symcache.stores.http.probe import Behaviour  # noqa: PLC0415
    from symcache.warm.servers import choose_servers, list_servers, probe_listed  # noqa: PLC0415

    config = settings.load()
    listed = list_servers(config)
    if servers:
        listed = choose_servers(listed, servers, config)
    elif probe:
        listed = [server for server in listed if server.is_in_path]
    if probe:
        known = None if index is None else parse_key(index)
        listed = anyio.run(partial(probe_listed, listed, config, known=known, timeout_s=timeout_s))
    if settings.as_json:
        path = config.symbol_path.redacted()
        rows = [server.as_json() for server in listed]
        write_json({"schema": "symcache.servers/1", "symbol_path": path, "servers": rows})
    elif listed:
        write_table([_probe_row(server) if server.probe else _row(server) for server in listed])
        for server in listed:
            _suggest(server)
    else:
        say("the symbol path leads to no server")
    bad = any(server.probe and server.probe.behaviour is not Behaviour.SYMBOL_SERVER for server in listed)
    raise Exit(1 if bad else 0)


def _suggest(server: ListedServer) -> None:
    """Write what the config file should say of *server*."""
    probe = server.probe
    if probe is not None and probe.settings:
        # Of two blocks for one server the first counts, so that lines belong into the one there is.
        write_line()
        if server.is_configured:
            write_line(f"# into the block of {server.shown_url}")
        else:
            write_line("[[server]]")
            write_line(f"url = '{server.shown_url}'")
        for name, value in probe.settings.items():
            write_line(f"{name} = {'true' if value is True else repr(value)}")
    elif probe is not None and (probe.behaviour, probe.answer) == ("refuses", "403"):
        say(
            f"{server.shown_url}: credentials are needed, or its 403 means that it has no such file, as with buckets "
            "(forbidden_is_missing = true in the config file); --index with a file that it has tells which"
        )


def _row(server: ListedServer) -> tuple[str, ...]:
    # The notes of public servers tell the same as their hints, unless the config file knows better.
    facts = list(_quirks(server.hints)) if server.is_configured or not server.note else [server.note]
    facts += ["with credentials"] if server.has_credentials else []
    facts += ["in the config file"] if server.is_configured else []
    return "*" if server.is_in_path else "", server.name, server.shown_url, "; ".join(facts)


def _quirks(hints: Hints) -> Iterator[str]:
    if set(hints.holds) != set(Holding):
        yield " and ".join(kind.plural for kind in hints.holds) + " alone"
    if not hints.plain:
        yield "cabinets alone"
    elif not hints.compressed:
        yield "no cabinets"
    elif hints.compressed_first:
        yield "cabinets first"
    if hints.pointers:
        yield "pointer files"
    if hints.two_tier:
        yield "two tiers"
    if not hints.ranges:
        yield "no ranges"
    if hints.checksum:
        yield "wants the checksum"
    if hints.forbidden_is_missing:
        yield "403 means no such file"
    if hints.letter_case is LetterCase.LOWER:
        yield "lower case alone"
    elif hints.letter_case not in {LetterCase.UNKNOWN, LetterCase.ANY}:
        yield "letter case counts"


def _probe_row(server: ListedServer) -> tuple[str, ...]:
    assert server.probe is not None
    probe = server.probe
    latency = "" if probe.latency_s is None else f"{probe.latency_s * 1000:.0f} ms"
    tiers = {None: "", True: "two tiers", False: "one tier"}[probe.two_tier]
    return server.name, server.shown_url, probe.behaviour, latency, f"{probe.answer}{f', {tiers}' if tiers else ''}"


@click.command()
@servers_argument
@click.option("--offline", is_flag=True, help="Leave the servers alone.")
@timeout_option("Longest wait for each stage of one server.")
@settings_options()
def doctor_command(settings: Settings, servers: tuple[str, ...], offline: bool, timeout_s: float) -> None:
    """Find out why symbols do not arrive here: servers, proxies, certificates, stores, the debugger's variables.

    SERVER is a name or a URL of `symcache servers`; those of the symbol path by default. Each line is fine, a warning
    or wrong, with what to do. There is nothing secret in it, so that it can be shown to others. The exit code is 1 if
    something is wrong.
    """
    import anyio  # noqa: PLC0415

    from symcache.config import debugger_variables  # noqa: PLC0415
    from symcache.doctor.run import examine  # noqa: PLC0415

    config = settings.load()
    asked = None if offline else list(servers)
    findings = anyio.run(partial(examine, config, debugger_variables(), servers=asked, timeout_s=timeout_s))
    counts = {rating: sum(finding.rating == rating for finding in findings) for rating in ("fine", "warning", "wrong")}
    if settings.as_json:
        rows = [finding.as_json() for finding in findings]
        write_json({"schema": "symcache.doctor/1", "summary": counts, "findings": rows})
    else:
        _write_findings(findings)
        write_line()
        write_line(", ".join(f"{count} {rating}" for rating, count in counts.items()))
    raise Exit(1 if counts["wrong"] else 0)


def _write_findings(findings: list[Finding]) -> None:
    for number, ((area, subject), group) in enumerate(
        groupby(findings, lambda finding: (finding.area, finding.subject))
    ):
        if number:
            write_line()
        write_line(f"{area} {subject}")
        rows = []
        for finding in group:
            rows.append((f"  {finding.rating}", finding.check, finding.text))
            if finding.advice:
                rows.append(("", "", f"-> {finding.advice}"))
        write_table(rows)
