"""Which symbol servers there are: those known, those of the config file, those of the symbol path."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from symcache.errors import SymbolPathError, UsageError
from symcache.identity import fold
from symcache.sympath import Chain, HttpPlace, chains, parse_symbol_path, redact_text
from symcache.upstream.servers import SERVERS, Hints, Holding, LetterCase, entry_for, hints_for

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.config import Config, ServerEntry
    from symcache.upstream.probe import Probe

__all__ = ["ListedServer", "choose_servers", "describe", "list_servers"]

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
