"""``symcache servers``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import anyio
import click

from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import say, write_json, write_line, write_table
from symcache.errors import InputError, StoreError, SymbolPathError, UsageError
from symcache.identity import fold, parse_id, parse_index
from symcache.stores.http.probe import Behaviour, probe_servers
from symcache.stores.http.servers import SERVERS, Hints, Holding, LetterCase, entry_for, hints_for
from symcache.stores.local.tree import Store
from symcache.sympath import Chain, HttpPlace, LocalPlace, chains, parse_symbol_path, redact_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.config import Config, ServerEntry
    from symcache.identity import Key
    from symcache.stores.http.probe import Probe

__all__ = ["ListedServer", "choose_servers", "command", "describe", "list_servers"]


_HOLDINGS = {Holding.PDB: "PDBs", Holding.PORTABLE: "portable PDBs", Holding.IMAGE: "images"}


@dataclass(frozen=True, slots=True)
class ListedServer:
    """One server.

    Attributes:
        name: What it is called; its host where nobody has named it.
        url: As it is asked, secrets and all.
        shown_url: The URL free of secrets.
        hints: What is worth asking it.
        note: What else there is to know.
        is_configured: The config file speaks of it.
        has_credentials: The config file or the URL itself has a password or token for it.
        is_in_path: The symbol path leads to it.
        probe: What asking it brought; None if it was not asked.
    """

    name: str
    url: str
    shown_url: str
    hints: Hints
    note: str = ""
    is_configured: bool = False
    has_credentials: bool = False
    is_in_path: bool = False
    probe: Probe | None = None

    def as_json(self) -> dict[str, Any]:
        """Return its fields in ``symcache.servers/1``."""
        hints, probe = self.hints, self.probe
        return {
            "name": self.name,
            "url": self.shown_url,
            "in_symbol_path": self.is_in_path,
            "configured": self.is_configured,
            "credentials": self.has_credentials,
            "holds": list(hints.holds),
            "plain": hints.plain,
            "compressed": hints.compressed,
            "compressed_first": hints.compressed_first,
            "pointers": hints.pointers,
            "two_tier": hints.two_tier,
            "ranges": hints.ranges,
            "checksum": hints.checksum,
            "letter_case": hints.letter_case,
            "forbidden_is_missing": hints.forbidden_is_missing,
            "note": self.note or None,
            "probe": None
            if probe is None
            else {
                "behaviour": probe.behaviour,
                "answer": probe.answer,
                "latency_s": None if probe.latency_s is None else round(probe.latency_s, 4),
                "two_tier": probe.two_tier,
                **({"settings": probe.settings} if probe.settings else {}),
            },
        }


def list_servers(config: Config) -> list[ListedServer]:
    """Return every server once: those of the symbol path in its order, then those of the config file, then the rest."""
    listed: dict[str, ListedServer] = {}

    def add(url: str, name: str = "", note: str = "") -> None:
        shown = HttpPlace(url).redacted
        known = listed.get(_same(shown))
        if known is None:
            known = _make(url, config.server)
        listed[_same(shown)] = replace(known, name=name or known.name, note=note or known.note)

    for url in _path_urls(config):
        add(url)
        same = _same(HttpPlace(url).redacted)
        listed[same] = replace(listed[same], is_in_path=True)
    for entry in config.server:
        add(entry.url)
    for server in SERVERS:
        add(server.url, server.name, server.note)
    for entry in config.server:
        add(entry.url, entry.name or "")
        same = _same(entry.url)
        listed[same] = replace(listed[same], is_configured=True)
    return list(listed.values())


def choose_servers(servers: Sequence[ListedServer], wanted: Sequence[str], config: Config) -> list[ListedServer]:
    """Return those of *servers* that *wanted* names, by name or URL; a URL that is not among them stands for itself.

    Raises:
        UsageError: A name that none of them has.
    """
    chosen = []
    for text in wanted:
        shown = HttpPlace(text).redacted
        found = [each for each in servers if fold(each.name) == fold(text) or _same(each.shown_url) == _same(shown)]
        if not found and not _is_url(text):
            shown = redact_text(text)
            raise UsageError(f"{shown} is no server that is known; give a name of `symcache servers`, or a URL")
        chosen.extend(found or [_make(text, config.server)])
    return chosen


def _is_url(text: str) -> bool:
    try:
        elements = parse_symbol_path(f"srv*{text}").elements
    except SymbolPathError:
        return False
    return len(elements) == 1 and isinstance(elements[0], Chain) and isinstance(elements[0].stores[0], HttpPlace)


def describe(server: ListedServer) -> str:
    """Return what is special about asking *server*, and what else there is to know, in a few words."""
    # The notes of public servers tell the same as their hints, unless the config file knows better.
    facts = _quirks(server.hints) if server.is_configured or not server.note else [server.note]
    return "; ".join([*facts, *_settings(server)])


def _quirks(hints: Hints) -> Iterator[str]:
    if set(hints.holds) != set(Holding):
        yield " and ".join(_HOLDINGS[kind] for kind in hints.holds) + " alone"
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


def _settings(server: ListedServer) -> Iterator[str]:
    if server.has_credentials:
        yield "with credentials"
    if server.is_configured:
        yield "in the config file"


def _path_urls(config: Config) -> Iterator[str]:
    for element in chains(config.symbol_path, config.store.folder):
        for place in element.stores:
            if isinstance(place, HttpPlace):
                yield place.url


def _make(url: str, configured: Sequence[ServerEntry]) -> ListedServer:
    parts = urlsplit(url)
    entry = entry_for(url, configured)
    has_entry = entry is not None and (entry.token is not None or entry.password is not None)
    name, shown = parts.hostname or url, HttpPlace(url).redacted
    return ListedServer(name, url, shown, hints_for(url, configured), has_credentials=has_entry or bool(parts.username))


def _same(url: str) -> str:
    """Return what two URLs of one store have in common."""
    return url.partition("?")[0].rstrip("/").lower()


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
