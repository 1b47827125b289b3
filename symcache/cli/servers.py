"""``symcache servers``."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import click

from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import say, write_json, write_table
from symcache.cli.serverlist import choose_servers, describe, list_servers
from symcache.upstream.probe import Behaviour, probe_servers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.cli.serverlist import ListedServer
    from symcache.config import Config

__all__ = ["command"]


@click.command()
@click.argument("servers", metavar="[SERVER]...", nargs=-1)
@click.option(
    "--probe", is_flag=True, help="Ask them for a file that cannot exist; those of the symbol path by default."
)
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(min=0.1, max=600),
    default=10.0,
    show_default=True,
    metavar="SECONDS",
    help="Longest wait for one server with --probe.",
)
@json_option
@settings_options
def command(settings: Settings, servers: tuple[str, ...], probe: bool, timeout_s: float, as_json: bool) -> None:
    """List the symbol servers that are known, configured, and in the symbol path (marked *).

    SERVER is a name or a URL. With --probe the exit code is 1 if one of those asked does not behave like a symbol
    server: it says yes to everything, sends pages, refuses, or does not answer.
    """
    config = settings.load()
    listed = list_servers(config)
    if servers:
        listed = choose_servers(listed, servers, config)
    elif probe:
        listed = [server for server in listed if server.is_in_path]
    if probe:
        listed = _probe(listed, config, timeout_s)
    if as_json:
        path = config.symbol_path.redacted()
        rows = [server.as_json() for server in listed]
        write_json({"schema": "symcache.servers/1", "symbol_path": path, "servers": rows})
    elif listed:
        write_table([_probe_row(server) if server.probe else _row(server) for server in listed])
    else:
        say("the symbol path leads to no server")
    bad = any(server.probe and server.probe.behaviour is not Behaviour.SYMBOL_SERVER for server in listed)
    raise click.exceptions.Exit(1 if bad else 0)


def _probe(listed: Sequence[ListedServer], config: Config, timeout_s: float) -> list[ListedServer]:
    async def ask() -> list[ListedServer]:
        probes = await probe_servers([server.url for server in listed], config, timeout_s=timeout_s)
        return [replace(server, probe=probe) for server, probe in zip(listed, probes, strict=True)]

    return anyio.run(ask)


def _row(server: ListedServer) -> tuple[str, ...]:
    return "*" if server.is_in_path else "", server.name, server.shown_url, describe(server)


def _probe_row(server: ListedServer) -> tuple[str, ...]:
    assert server.probe is not None
    probe = server.probe
    latency = "" if probe.latency_s is None else f"{probe.latency_s * 1000:.0f} ms"
    tiers = {None: "", True: "two tiers", False: "one tier"}[probe.two_tier]
    return server.name, server.shown_url, probe.behaviour, latency, f"{probe.answer}{f', {tiers}' if tiers else ''}"
