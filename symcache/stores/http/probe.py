"""Does a server behave like a symbol server? Requests a file that cannot exist; the answer is not remembered."""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import uuid4

import anyio

from symcache.config import locate
from symcache.errors import ConfigError, Forbidden, UpstreamError, UpstreamUnavailable, WrongContent
from symcache.identity import ImageKey, PdbKey, PortablePdbKey, Tier, compressed_name, relative_parts
from symcache.stores.http.auth import Credentials
from symcache.stores.http.client import Client
from symcache.stores.http.pool import TransportPool
from symcache.stores.http.retry import CircuitBreaker
from symcache.stores.http.servers import Holding, LetterCase, hints_for
from symcache.stores.http.urls import file_url, parse_url, redact

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import httpx

    from symcache.config import Config
    from symcache.identity import Key
    from symcache.stores.http.servers import Hints

__all__ = ["Behaviour", "Probe", "probe_server", "probe_servers"]


_NAME = "symcache-probe"
_FORBIDDEN = 403


class Behaviour(StrEnum):
    """What a server's answer makes it.

    ``symbol-server``: it says plainly that it has no such file. ``soft-errors``: it says yes to everything, or sends a
    page. ``refuses``: it wants credentials, is not trusted, or forbids. ``unavailable``: another try may help.
    """

    SYMBOL_SERVER = "symbol-server"
    SOFT_ERRORS = "soft-errors"
    REFUSES = "refuses"
    UNAVAILABLE = "unavailable"


@dataclass(frozen=True, slots=True)
class Probe:
    """What asking a server brought.

    Attributes:
        url: The server, free of secrets.
        behaviour: See `Behaviour`.
        answer: What it said to the question for an absent file, in a few words.
        latency_s: Seconds until it had answered, connecting and redirects included; None if it did not.
        two_tier: Whether its store has two tiers; None if that could not be told.
        settings: Keys of ``[[server]]`` that it needs and does not have, with their values.
    """

    url: str
    behaviour: Behaviour
    answer: str
    latency_s: float | None = None
    two_tier: bool | None = None
    settings: Mapping[str, str | bool] = field(default_factory=dict)


async def probe_servers(
    urls: Sequence[str],
    config: Config,
    *,
    known: Sequence[Key] = (),
    timeout_s: float = 10.0,
) -> list[Probe]:
    """Ask all servers at once, each for a file that cannot exist and for the mark of a two-tier store.

    Args:
        urls: As a symbol path has them.
        config: Proxy, authorities, credentials, and what it says of the servers.
        known: Files that they may have; one that they do tells how they spell names and what their 403 means.
        timeout_s: Longest time for one server.

    Raises:
        ConfigError: The certificates or the proxy cannot be used.
    """
    network = config.network
    connections = max(len(urls), 1)
    # Waits for one thing end a little sooner than all of it, so that it is said what was waited for.
    wait_s = 0.8 * timeout_s
    pool = TransportPool(network, config.server, connections=connections, timeout_s=wait_s)
    try:
        pool.open()
    except ConfigError as error:
        raise locate(error, config) from error
    netrc_file = Path.home() / ("_netrc" if os.name == "nt" else ".netrc") if network.netrc else None
    client = Client(
        pool,
        CircuitBreaker(failures=len(urls) + 1, cool_down_s=0, longest_pause_s=0),
        credentials=Credentials(config.server, netrc_file),
        agent_extra=network.user_agent_extra,
    )
    probes: dict[str, Probe] = {}

    async def probe(url: str) -> None:
        probes[url] = await probe_server(client, url, hints_for(url, config.server), known, timeout_s)

    try:
        async with anyio.create_task_group() as group:
            for url in dict.fromkeys(urls):
                group.start_soon(probe, url)
    finally:
        await pool.aclose()
    return [probes[url] for url in dict.fromkeys(urls)]


async def probe_server(
    client: Client,
    url: str,
    hints: Hints,
    known: Sequence[Key],
    timeout_s: float,
) -> Probe:
    """Return what asking one server brought; as `probe_servers` does for all."""
    shown = redact(url)
    try:
        with anyio.fail_after(timeout_s):
            base = parse_url(url)
            key = _absent_key(hints)
            name = key.name if hints.plain else compressed_name(key.name)
            began_s = time.perf_counter()
            status = await _ask(client, file_url(base, map(hints.spell, (*relative_parts(key), name))))
            latency_s = time.perf_counter() - began_s
            if status in {200, 206}:
                return Probe(shown, Behaviour.SOFT_ERRORS, f"{status} for a file that cannot exist", latency_s)
            two_tier = await _ask_tier(client, file_url(base, ["index2.txt"]))
            cases = await _ask_known(client, base, hints, known, Tier.TWO if two_tier else Tier.ONE)
            settings = _lacking_settings(hints, cases, is_forbidden=status == _FORBIDDEN)
            is_plain = status != _FORBIDDEN or hints.forbidden_is_missing
            behaviour = Behaviour.SYMBOL_SERVER if is_plain else Behaviour.REFUSES
            return Probe(shown, behaviour, str(status), latency_s, two_tier, settings)
    except UpstreamError as error:
        return Probe(shown, _behaviour_of(error), error.problem)
    except TimeoutError:
        return Probe(shown, Behaviour.UNAVAILABLE, f"no answer within {timeout_s:g} s")


async def _ask(client: Client, url: httpx.URL, *, end: int | None = None) -> int:
    """Return the status that *url* is answered with."""
    try:
        async with client.get(url, end=end) as reply:
            if not reply.is_miss:
                await reply.begin()
            return reply.status
    except Forbidden:
        return _FORBIDDEN


async def _ask_known(
    client: Client, base: httpx.URL, hints: Hints, known: Sequence[Key], tier: Tier
) -> frozenset[LetterCase]:
    """Return the spellings, as they are and in lower case, under which the server has the first of *known* it has."""
    for key in known:
        names = [key.name] * hints.plain + [compressed_name(key.name)] * hints.compressed
        had: set[LetterCase] = set()
        for name in names if hints.refusal(key) is None else ():
            given = (*relative_parts(key, tier), name)
            lower = tuple(map(str.lower, given))
            for case, parts in {LetterCase.EXACT: given, LetterCase.LOWER: lower}.items():
                if (case is LetterCase.EXACT or given != lower) and await _has(client, file_url(base, parts)):
                    had.add(case)
        if had:
            return frozenset(had)
    return frozenset()


async def _has(client: Client, url: httpx.URL) -> bool:
    try:
        return await _ask(client, url, end=1) in {200, 206}
    except UpstreamError:
        return False


def _lacking_settings(hints: Hints, cases: frozenset[LetterCase], *, is_forbidden: bool) -> Mapping[str, str | bool]:
    """Return what the config file should say of a server that has a known file under the spellings *cases*."""
    settings: dict[str, str | bool] = {}
    if cases == {LetterCase.LOWER} and hints.letter_case is not LetterCase.LOWER:
        settings["letter_case"] = "lower"
    elif LetterCase.EXACT in cases and hints.letter_case is LetterCase.LOWER:
        settings["letter_case"] = "given"
    if is_forbidden and cases and not hints.forbidden_is_missing:
        settings["forbidden_is_missing"] = True
    return settings


async def _ask_tier(client: Client, url: httpx.URL) -> bool | None:
    try:
        status = await _ask(client, url)
    except UpstreamError:
        return None
    return None if status == _FORBIDDEN else status in {200, 206}


def _absent_key(hints: Hints) -> Key:
    """Return a key that nothing has, of a kind that the server could have."""
    if Holding.PDB in hints.holds:
        return PdbKey(f"{_NAME}.pdb", uuid4(), 1)
    if Holding.PORTABLE in hints.holds:
        return PortablePdbKey(f"{_NAME}.pdb", uuid4())
    return ImageKey(f"{_NAME}.dll", secrets.randbits(32), 0x1000)


def _behaviour_of(error: UpstreamError) -> Behaviour:
    match error:
        case UpstreamUnavailable():
            return Behaviour.UNAVAILABLE
        case WrongContent():
            return Behaviour.SOFT_ERRORS
        case _:
            return Behaviour.REFUSES
