"""``symcache servers``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

import anyio
import click

from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import say, write_json, write_line, write_table
from symcache.cli.serverlist import choose_servers, describe, list_servers
from symcache.errors import InputError, StoreError, UsageError
from symcache.identity import parse_id, parse_index
from symcache.store.tree import Store
from symcache.sympath import LocalPlace, chains
from symcache.upstream.probe import Behaviour, probe_servers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.cli.serverlist import ListedServer
    from symcache.config import Config
    from symcache.identity import Key

__all__ = ["command"]

_MOST_STORED = 5


@click.command()
@click.argument("servers", metavar="[SERVER]...", nargs=-1)
@click.option(
    "--probe", is_flag=True, help="Ask them for a file that cannot exist; those of the symbol path by default."
)
@click.option(
    "--index",
    metavar="INDEX",
    help="A file that they have; with --probe it tells which settings they need. Files of the store otherwise.",
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
def command(
    settings: Settings, servers: tuple[str, ...], probe: bool, index: str | None, timeout_s: float, as_json: bool
) -> None:
    """List the symbol servers that are known, configured, and in the symbol path (marked *).

    SERVER is a name or a URL. With --probe the exit code is 1 if one of those asked does not behave like a symbol
    server: it says yes to everything, sends pages, refuses, or does not answer. What the config file should say of a
    server and does not comes behind the list.
    """
    config = settings.load()
    listed = list_servers(config)
    if servers:
        listed = choose_servers(listed, servers, config)
    elif probe:
        listed = [server for server in listed if server.is_in_path]
    if probe:
        listed = _probe(listed, config, _known_file(index), timeout_s)
    if as_json:
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
    raise click.exceptions.Exit(1 if bad else 0)


def _probe(listed: Sequence[ListedServer], config: Config, known: Key | None, timeout_s: float) -> list[ListedServer]:
    # What lies in the store is nobody's business but theirs who are asked for it anyway.
    is_ours = known is None and all(server.is_in_path for server in listed)
    keys = list(_stored_files(config)) if is_ours else [known] if known is not None else []

    async def ask() -> list[ListedServer]:
        probes = await probe_servers([server.url for server in listed], config, known=keys, timeout_s=timeout_s)
        return [replace(server, probe=probe) for server, probe in zip(listed, probes, strict=True)]

    return anyio.run(ask)


def _known_file(index: str | None) -> Key | None:
    try:
        return None if index is None else parse_index(index)
    except InputError as error:
        raise UsageError(str(error)) from error


def _stored_files(config: Config) -> Iterator[Key]:
    """Yield the keys of a few files of the first store of the symbol path."""
    for element in chains(config.symbol_path, config.store.folder):
        for place in element.stores[:1]:
            if isinstance(place, LocalPlace):
                with suppress(StoreError, InputError), Store(Path(place.path)) as store:
                    yield from (parse_id(name, id_) for name, id_, _ in islice(store.key_folders(), _MOST_STORED))
                return


def _suggest(server: ListedServer) -> None:
    """Write what the config file should say of *server*."""
    probe = server.probe
    if probe is not None and probe.settings:
        # Of two blocks for one server the first counts, so that lines belong into the one there is.
        is_said = server.is_configured
        write_line(
            f"\n# into the block of {server.shown_url}" if is_said else f"\n[[server]]\nurl = '{server.shown_url}'"
        )
        for name, value in probe.settings.items():
            write_line(f"{name} = {'true' if value is True else repr(value)}")
    elif probe is not None and (probe.behaviour, probe.answer) == (Behaviour.REFUSES, "403"):
        say(
            f"{server.shown_url}: credentials are needed, or its 403 means that it has no such file, as with buckets "
            "(forbidden_is_missing = true in the config file); --index with a file that it has tells which"
        )


def _row(server: ListedServer) -> tuple[str, ...]:
    return "*" if server.is_in_path else "", server.name, server.shown_url, describe(server)


def _probe_row(server: ListedServer) -> tuple[str, ...]:
    assert server.probe is not None
    probe = server.probe
    latency = "" if probe.latency_s is None else f"{probe.latency_s * 1000:.0f} ms"
    tiers = {None: "", True: "two tiers", False: "one tier"}[probe.two_tier]
    return server.name, server.shown_url, probe.behaviour, latency, f"{probe.answer}{f', {tiers}' if tiers else ''}"
