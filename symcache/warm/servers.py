"""Every symbol server that is known, configured or in the symbol path, and what asking it brings."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from symcache.errors import InputError, StoreError, SymbolPathError, UsageError
from symcache.identity import fold, parse_id
from symcache.stores.disk import find_entry
from symcache.stores.http.probe import probe_servers
from symcache.stores.http.servers import SERVERS, Hints, entry_for, hints_for
from symcache.stores.local.tree import Store
from symcache.sympath import ChainElement, HttpPlace, LocalPlace, chains, parse_symbol_path, redact_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.config import Config, ServerEntry
    from symcache.identity import Key
    from symcache.stores.http.probe import Probe

_MOST_STORED = 5


@dataclass(frozen=True, slots=True)
class ListedServer:
    """One server."""

    name: str  # its host where it has no name
    url: str  # as it is asked, secrets and all
    shown_url: str  # free of secrets
    hints: Hints
    note: str = ""
    is_configured: bool = False  # the config file speaks of it
    has_credentials: bool = False  # the config file or the URL itself has a password or token for it
    is_in_path: bool = False  # the symbol path leads to it
    probe: Probe | None = None  # what asking it brought; None if it was not asked

    def as_json(self) -> dict[str, Any]:
        """Return its fields in ``symcache.servers/1``."""
        probe = self.probe
        return {
            "name": self.name,
            "url": self.shown_url,
            "in_symbol_path": self.is_in_path,
            "configured": self.is_configured,
            "credentials": self.has_credentials,
            **asdict(self.hints),
            "holds": list(self.hints.holds),
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

    def add(url: str, **facts: Any) -> None:
        same = _same(HttpPlace(url).redacted)
        listed[same] = replace(listed.get(same) or _make(url, config.server), **facts)

    for element in chains(config.symbol_path, config.store.folder):
        for place in element.stores:
            if isinstance(place, HttpPlace) and find_entry(place.url.rstrip("/"), config.bucket) is None:
                add(place.url, is_in_path=True)
    for entry in config.server:
        add(entry.url)
    for server in SERVERS:
        add(server.url, name=server.name, note=server.note)
    for entry in config.server:
        add(entry.url, is_configured=True, **({"name": entry.name} if entry.name else {}))
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
    return len(elements) == 1 and isinstance(elements[0], ChainElement) and isinstance(elements[0].stores[0], HttpPlace)


async def probe_listed(
    listed: Sequence[ListedServer], config: Config, *, known: Key | None = None, timeout_s: float = 10.0
) -> list[ListedServer]:
    """Return *listed*, each with what asking it brought within *timeout_s*.

    *known* is a file that they have; None for files of the store, where all of them are asked for those anyway.
    """
    # What the store holds is not told to other servers than those that are asked for it anyway.
    is_ours = known is None and all(server.is_in_path for server in listed)
    keys = list(stored_files(config)) if is_ours else [known] if known is not None else []
    probes = await probe_servers([server.url for server in listed], config, known=keys, timeout_s=timeout_s)
    return [replace(server, probe=probe) for server, probe in zip(listed, probes, strict=True)]


def stored_files(config: Config) -> Iterator[Key]:
    """Yield the keys of a few files of the first store of the symbol path."""
    for element in chains(config.symbol_path, config.store.folder):
        for place in element.stores[:1]:
            if isinstance(place, LocalPlace):
                with suppress(StoreError, InputError), Store(Path(place.path)) as store:
                    yield from (parse_id(name, id_) for name, id_, _ in islice(store.key_folders(), _MOST_STORED))
                return


def _make(url: str, configured: Sequence[ServerEntry]) -> ListedServer:
    parts = urlsplit(url)
    entry = entry_for(url, configured)
    has_entry = entry is not None and (entry.token is not None or entry.password is not None)
    name, shown = parts.hostname or url, HttpPlace(url).redacted
    return ListedServer(name, url, shown, hints_for(url, configured), has_credentials=has_entry or bool(parts.username))


def _same(url: str) -> str:
    """Return what two URLs of one store have in common."""
    return url.partition("?")[0].rstrip("/").lower()
