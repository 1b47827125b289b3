"""The settings as values; a field of a table is the key of that name in the config file."""

from __future__ import annotations

import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import platformdirs

from symcache.config.checks import (
    key,
    number,
    read_connections,
    read_flag,
    read_header_text,
    read_holds,
    read_letter_case,
    read_networks,
    read_path,
    read_proxy,
    read_server_url,
    read_symbol_path,
    read_text,
    read_texts,
    read_token,
    read_token_hashes,
    read_transport,
    read_unc_map,
    read_users,
    table,
    tables,
    whole,
)
from symcache.sympath import MICROSOFT, ChainElement, DefaultPlace, HttpPlace, SymbolPath

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "Breaker",
    "Config",
    "Exclusions",
    "MissSettings",
    "Network",
    "ParallelRanges",
    "Pointers",
    "Serve",
    "ServerEntry",
    "StoreSettings",
    "Unc",
]

_MIB = 1 << 20
_DAY_S = 24 * 3600


def _default_store() -> Path:
    r"""Return where current debuggers keep what they download; elsewhere the user's cache.

    Source: transcripts of WDK 10 debuggers show ``C:\ProgramData\Dbg\sym``.
    """
    if sys.platform == "win32":
        return platformdirs.site_data_path() / "Dbg" / "sym"
    return platformdirs.user_cache_path("symcache", appauthor=False) / "sym"


def _default_misses() -> Path:
    return platformdirs.user_cache_path("symcache", appauthor=False) / "misses"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """``[store]``: how stores are kept.

    Attributes:
        folder: The default store.
        two_tier: Whether a new store gets two tiers.
        durable: Whether a file is flushed to the disk before it is published.
    """

    folder: Path = field(default_factory=_default_store, metadata=key(read_path))
    two_tier: bool = field(default=False, metadata=key(read_flag))
    durable: bool = field(default=True, metadata=key(read_flag))


@dataclass(frozen=True, slots=True)
class Breaker:
    """``[network.breaker]``: after *failures* in a row a server is left alone, and tried again every *cool_down_s*."""

    failures: int = field(default=5, metadata=whole(1, 1000))
    cool_down_s: float = field(default=2.0, metadata=number(0, _DAY_S))


@dataclass(frozen=True, slots=True)
class ParallelRanges:
    """``[network.parallel_ranges]``: files of *from_bytes* and more come in *parts* at once; 1 turns that off."""

    from_bytes: int = field(default=64 * _MIB, metadata=whole(_MIB, 1 << 50))
    parts: int = field(default=4, metadata=whole(1, 16))


@dataclass(frozen=True, slots=True)
class Network:
    """``[network]``: how servers are asked.

    Attributes:
        connections: Requests under way at once, over all servers; None finds out how many help.
        transport: ``auto`` or ``httpx``: what carries requests that go through no proxy.
        connect_timeout_s: Longest wait for a connection.
        read_timeout_s: Longest silence while an answer is awaited or arrives.
        total_timeout_s: Longest time for one file from one server, every try counted.
        retries: Tries after the first that failed for a reason that may pass.
        backoff_s: Longest pause before the first of them; it doubles with each.
        longest_backoff_s: Where doubling ends, and the longest pause that a server may ask for.
        proxy: URL of the proxy, with its credentials if any; empty for none, None for what the system says.
        ca_file: PEM file of authorities to trust beside the system's.
        user_agent_extra: What is added to the user agent, such as an address for the server's operators.
        netrc: Whether credentials are looked up in the user's netrc file.
        largest_file_bytes: Longest file that is accepted, as downloaded and as expanded.
        breaker: When a failing server is left alone.
        parallel_ranges: When one file comes over several connections.
    """

    connections: int | None = field(default=None, metadata=key(read_connections))
    transport: str = field(default="auto", metadata=key(read_transport))
    connect_timeout_s: float = field(default=10.0, metadata=number(0.1, 3600))
    read_timeout_s: float = field(default=30.0, metadata=number(0.1, 3600))
    total_timeout_s: float = field(default=3600.0, metadata=number(1, 7 * _DAY_S))
    retries: int = field(default=4, metadata=whole(0, 20))
    backoff_s: float = field(default=0.2, metadata=number(0, 600))
    longest_backoff_s: float = field(default=30.0, metadata=number(0, 3600))
    proxy: str | None = field(default=None, repr=False, metadata=key(read_proxy))
    ca_file: Path | None = field(default=None, metadata=key(read_path))
    user_agent_extra: str = field(default="", metadata=key(read_header_text))
    netrc: bool = field(default=False, metadata=key(read_flag))
    largest_file_bytes: int = field(default=16 << 30, metadata=whole(_MIB, 1 << 50))
    breaker: Breaker = field(default_factory=Breaker, metadata=table(Breaker))
    parallel_ranges: ParallelRanges = field(default_factory=ParallelRanges, metadata=table(ParallelRanges))


@dataclass(frozen=True, slots=True)
class MissSettings:
    """``[misses]``: how long a server's "no such file" is believed.

    Attributes:
        ttl_s: Time until it is asked again; 0 remembers nothing.
        folder: Where it is remembered, a folder of this user's own.
    """

    ttl_s: float = field(default=float(_DAY_S), metadata=number(0, 90 * _DAY_S))
    folder: Path = field(default_factory=_default_misses, metadata=key(read_path))


@dataclass(frozen=True, slots=True)
class Pointers:
    """``[pointers]``: which targets of ``file.ptr`` are followed, by the beginning of their path; none by default."""

    allow: tuple[str, ...] = field(default=(), metadata=key(read_texts))


@dataclass(frozen=True, slots=True)
class Unc:
    """``[unc]``: the local folder under which a share is mounted, by the share."""

    map: Mapping[str, Path] = field(default_factory=dict, metadata=key(read_unc_map))


@dataclass(frozen=True, slots=True)
class Exclusions:
    """``[exclusions]``: files that are never looked up, as names with ``*`` and ``?``."""

    names: tuple[str, ...] = field(default=(), metadata=key(read_texts))


@dataclass(frozen=True, slots=True)
class Serve:
    """``[serve]``: the shared cache, ``symcache serve``.

    Attributes:
        host: Address that it listens on.
        port: Port; 0 takes one that is free.
        workers: Processes that answer.
        certificate: PEM file with the certificate chain; None for plain HTTP.
        private_key: PEM file with its key; None if it stands in the same file.
        patience_s: Longest wait before an answer begins.
        stream_from_bytes: A file that is shorter is checked whole before its answer begins, if that is soon.
        recheck_misses_s: A remembered miss that is older is checked in the background when it is asked for.
        connections: Requests under way at once in one worker.
        downloads: Files on their way from upstreams at once in one worker.
        keep_alive_s: How long an idle connection is kept.
        stop_s: How long transfers may go on once the server is to stop.
        access_log: File that gets a line of JSON for each request; ``-`` for standard error, empty for none.
        users: Who may ask, as ``name:hash``; empty for everybody, unless there are tokens.
        tokens: Hashes of bearer tokens that may ask.
        upload_tokens: Hashes of bearer tokens that may publish by ``PUT``; empty for none.
        trusted_proxies: Addresses and networks whose ``X-Forwarded-For`` is believed.
        private_redirects: Whether an upstream outside may redirect into a private network.
        warm_from_page: Whether the page takes inputs to warm from.
        largest_input_bytes: Longest such input.
        largest_store_bytes: Above it the least recently used files go; 0 for no limit.
        unused_for_s: Files not used for this time are removed; 0 keeps them.
        prune_every_s: How often these two are looked after.
        verify_every_s: How often the whole store is checked; 0 never does.
    """

    host: str = field(default="127.0.0.1", metadata=key(read_text))
    port: int = field(default=8080, metadata=whole(0, 65535))
    workers: int = field(default=1, metadata=whole(1, 64))
    certificate: Path | None = field(default=None, metadata=key(read_path))
    private_key: Path | None = field(default=None, metadata=key(read_path))
    patience_s: float = field(default=20.0, metadata=number(0.1, 3600))
    stream_from_bytes: int = field(default=4 * _MIB, metadata=whole(0, 1 << 50))
    recheck_misses_s: float = field(default=3600.0, metadata=number(0, 90 * _DAY_S))
    connections: int = field(default=2000, metadata=whole(1, 100_000))
    downloads: int = field(default=500, metadata=whole(1, 100_000))
    keep_alive_s: int = field(default=75, metadata=whole(1, 3600))
    stop_s: int = field(default=30, metadata=whole(0, 3600))
    access_log: str = field(default="", metadata=key(read_text))
    users: tuple[str, ...] = field(default=(), repr=False, metadata=key(read_users))
    tokens: tuple[str, ...] = field(default=(), repr=False, metadata=key(read_token_hashes))
    upload_tokens: tuple[str, ...] = field(default=(), repr=False, metadata=key(read_token_hashes))
    trusted_proxies: tuple[str, ...] = field(default=(), metadata=key(read_networks))
    private_redirects: bool = field(default=False, metadata=key(read_flag))
    warm_from_page: bool = field(default=True, metadata=key(read_flag))
    largest_input_bytes: int = field(default=256 * _MIB, metadata=whole(0, 1 << 50))
    largest_store_bytes: int = field(default=0, metadata=whole(0, 1 << 60))
    unused_for_s: float = field(default=0.0, metadata=number(0, 3650 * _DAY_S))
    prune_every_s: float = field(default=3600.0, metadata=number(10, 90 * _DAY_S))
    verify_every_s: float = field(default=0.0, metadata=number(0, 365 * _DAY_S))


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """``[[server]]``: what is known of one server; None where nothing is said.

    Attributes:
        url: What its URLs begin with.
        name: What reports call it.
        plain: Whether it has files under their own names.
        compressed: Whether it has cabinets (``x.pd_``).
        compressed_first: Whether cabinets are asked for before plain files.
        pointers: Whether it may have ``file.ptr``.
        two_tier: Whether its store has two tiers; None asks it for ``index2.txt``.
        ranges: Whether it can send parts of a file.
        holds: Kinds of files it has: ``pdb``, ``portable``, ``image``.
        letter_case: How it spells names and ids: ``given`` or ``lower``.
        forbidden_is_missing: Whether its 403 means that it has no such file.
        checksum: Whether it wants the ``SymbolChecksum`` header.
        username: For basic authentication; may be empty, as Azure DevOps wants it.
        password: For basic authentication.
        password_env: Environment variable that holds the password.
        token: Sent as a bearer token.
        token_env: Environment variable that holds the token.
    """

    url: str = field(metadata=key(read_server_url))
    name: str | None = field(default=None, metadata=key(read_text))
    plain: bool | None = field(default=None, metadata=key(read_flag))
    compressed: bool | None = field(default=None, metadata=key(read_flag))
    compressed_first: bool | None = field(default=None, metadata=key(read_flag))
    pointers: bool | None = field(default=None, metadata=key(read_flag))
    two_tier: bool | None = field(default=None, metadata=key(read_flag))
    ranges: bool | None = field(default=None, metadata=key(read_flag))
    holds: tuple[str, ...] | None = field(default=None, metadata=key(read_holds))
    letter_case: str | None = field(default=None, metadata=key(read_letter_case))
    forbidden_is_missing: bool | None = field(default=None, metadata=key(read_flag))
    checksum: bool | None = field(default=None, metadata=key(read_flag))
    username: str | None = field(default=None, metadata=key(read_text))
    password: str | None = field(default=None, repr=False, metadata=key(read_text))
    password_env: str | None = field(default=None, metadata=key(read_text))
    token: str | None = field(default=None, repr=False, metadata=key(read_token))
    token_env: str | None = field(default=None, metadata=key(read_text))


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting, whatever it came from.

    Attributes:
        symbol_path: Where symbols are looked for.
        source: The file that was read; None if there was none.
        store: How stores are kept.
        network: How servers are asked.
        misses: How long a server's "no such file" is believed.
        pointers: Which pointer files are followed.
        unc: Where shares are mounted.
        exclusions: What is never looked up.
        serve: Where the shared cache listens.
        server: What is known of single servers.
    """

    symbol_path: SymbolPath = field(
        default=SymbolPath((ChainElement((DefaultPlace(), HttpPlace(MICROSOFT))),)), metadata=key(read_symbol_path)
    )
    source: Path | None = None
    store: StoreSettings = field(default_factory=StoreSettings, metadata=table(StoreSettings))
    network: Network = field(default_factory=Network, metadata=table(Network))
    misses: MissSettings = field(default_factory=MissSettings, metadata=table(MissSettings))
    pointers: Pointers = field(default_factory=Pointers, metadata=table(Pointers))
    unc: Unc = field(default_factory=Unc, metadata=table(Unc))
    exclusions: Exclusions = field(default_factory=Exclusions, metadata=table(Exclusions))
    serve: Serve = field(default_factory=Serve, metadata=table(Serve))
    server: tuple[ServerEntry, ...] = field(default=(), metadata=tables(ServerEntry))
