"""The whole examination: the program, servers, stores, and the debugger's variables."""

from __future__ import annotations

import os
import platform
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import anyio

from symcache._version import __version__
from symcache.doctor.finding import Finding, Rating
from symcache.doctor.servers import examine_servers
from symcache.doctor.stores import examine_store
from symcache.errors import SymbolPathError
from symcache.stores.concurrency import call_detached
from symcache.stores.disk import find_entry, local_path
from symcache.sympath import (
    BucketPlace,
    CacheElement,
    ChainElement,
    Environment,
    HttpPlace,
    LocalPlace,
    UncPlace,
    chains,
    parse_symbol_path,
    redact_text,
)
from symcache.warm.servers import choose_servers, list_servers, stored_files

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from symcache.config import Config
    from symcache.identity import Key

__all__ = ["examine", "examine_debugger"]


_STORE_S = 30.0  # a share whose server is away answers nothing for ever
_EXTRAS = {
    "serve": ("uvicorn",),
    "negotiate": ("pyspnego",),
    "pac": ("pypac",),
    "keyring": ("keyring",),
    "libarchive": ("libarchive-c",),
    "object": ("obstore",),
    "pdbparse": ("pdbparse",),
}


async def examine(
    config: Config, variables: Mapping[str, str], *, servers: Sequence[str] | None = (), timeout_s: float = 10.0
) -> list[Finding]:
    """Return what is found, the program first, then servers, stores, buckets and the debugger.

    Args:
        config: Every setting.
        variables: The environment.
        servers: Names or URLs; empty for those of the symbol path, None to leave servers, and buckets, alone.
        timeout_s: Longest wait for each stage of one server.

    Raises:
        UsageError: A name that no server has.
    """
    findings = [_describe_program(config)]
    if servers is not None:
        listed = list_servers(config)
        chosen = choose_servers(listed, servers, config) if servers else [each for each in listed if each.is_in_path]
        # What the store holds is not told to other servers than those that are asked for it anyway.
        known = []
        if not servers:
            with anyio.move_on_after(_STORE_S):
                known = await call_detached(_list_known, config)
        urls = [server.url for server in chosen]
        findings += await examine_servers(urls, config, known=known, timeout_s=timeout_s)
    for text, root in _stores(config).items():
        findings += [_unreachable(text)] if root is None else await _examine_store(root, config.store.locks)
    for url in _buckets(config) if servers is not None else ():
        findings += await _examine_bucket(url, config)
    findings += examine_debugger(variables, config)
    return findings


def _describe_program(config: Config) -> Finding:
    extras = [name for name, packages in _EXTRAS.items() if all(map(_is_installed, packages))]
    parts = [
        f"symcache {__version__}",
        f"Python {platform.python_version()}",
        platform.platform(),
        f"extras: {', '.join(extras) or 'none'}",
        f"settings: {config.source or 'no file'}",
    ]
    return Finding("program", "symcache", "version", Rating.FINE, "; ".join(parts))


def _is_installed(package: str) -> bool:
    try:
        return bool(version(package))
    except PackageNotFoundError:
        return False


def _stores(config: Config) -> dict[str, Path | None]:
    """Return the folders that are searched or filled, by how the symbol path writes them; None if not reachable."""
    places = (place for element in chains(config.symbol_path, config.store.folder) for place in element.stores)
    texts = dict.fromkeys(place.path for place in places if isinstance(place, LocalPlace | UncPlace))
    return {text: local_path(text, config.unc.map) for text in texts}


def _buckets(config: Config) -> list[str]:
    """Return the URL of every bucket of the symbol path."""
    places = (place for element in chains(config.symbol_path, config.store.folder) for place in element.stores)
    urls = [
        place.url.rstrip("/")
        for place in places
        if isinstance(place, BucketPlace)
        or (isinstance(place, HttpPlace) and find_entry(place.url.rstrip("/"), config.bucket) is not None)
    ]
    return list(dict.fromkeys(urls))


async def _examine_bucket(url: str, config: Config) -> list[Finding]:
    from symcache.doctor.buckets import examine_bucket  # noqa: PLC0415 - few symbol paths have one

    with anyio.move_on_after(_STORE_S):
        return await call_detached(lambda: list(examine_bucket(url, config)))
    text = f"does not answer within {_STORE_S:g} s"
    return [Finding("store", url, "reach", Rating.WRONG, text, "is it up, and `endpoint` of [[bucket]] right?")]


async def _examine_store(root: Path, locking: str) -> list[Finding]:
    with anyio.move_on_after(_STORE_S):
        return await call_detached(_list_findings, root, locking)
    text = f"does not answer within {_STORE_S:g} s"
    return [Finding("store", str(root), "folder", Rating.WRONG, text, "is the server of the share up, and reachable?")]


def _list_findings(root: Path, locking: str) -> list[Finding]:
    return list(examine_store(root, locking))


def _list_known(config: Config) -> list[Key]:
    return list(stored_files(config))


def _unreachable(text: str) -> Finding:
    advice = "name the folder where it is mounted under [unc.map] in the config file"
    return Finding("store", text, "folder", Rating.WRONG, "cannot be reached from this system", advice)


_PATHS = ("_NT_SYMBOL_PATH", "_NT_ALT_SYMBOL_PATH")


def examine_debugger(variables: Mapping[str, str], config: Config) -> Iterator[Finding]:
    """Yield what is found of the variables that Microsoft's debuggers read.

    Source: windows-driver-docs, "Environment Variables"; that new WinDbg does not heed ``_NT_SYMBOL_PROXY``:
    microsoft/WinDbg-Feedback, issue 311.
    """
    ours = [_plain(place) for place in _filled(config) if place]
    set_paths = {name: variables[name] for name in _PATHS if name in variables}
    for name, text in set_paths.items():
        yield _examine_path(name, text, variables, ours, config)
    if not set_paths:
        text = "not set: a debugger started from here does not look into the store"
        yield Finding("debugger", "_NT_SYMBOL_PATH", "set", Rating.WARNING, text, "`symcache path` prints the line")
    if len(set_paths) > 1:
        text = "set beside _NT_SYMBOL_PATH, and searched first"
        yield Finding("debugger", "_NT_ALT_SYMBOL_PATH", "order", Rating.WARNING, text, "keep one of the two")
    if "_NT_SYMBOL_PROXY" in variables:
        text = "symcache and older debuggers heed it; new WinDbg's faster symbol backend does not"
        advice = "let WinDbg ask `symcache serve` on this machine, which goes through the proxy"
        yield Finding("debugger", "_NT_SYMBOL_PROXY", "proxy", Rating.WARNING, text, advice)


def _examine_path(name: str, text: str, variables: Mapping[str, str], ours: list[str], config: Config) -> Finding:
    say = partial(Finding, "debugger", name)
    try:
        path = parse_symbol_path(text, Environment(variables))
    except SymbolPathError as error:
        return say("grammar", Rating.WRONG, f"{error.problem} (at character {error.position + 1})", "correct it")
    theirs: set[str] = set()
    for element in chains(path, config.store.folder):
        theirs.update(_plain(place.path) for place in element.stores if isinstance(place, LocalPlace | UncPlace))
    shown = redact_text(text)
    if not any(isinstance(element, CacheElement | ChainElement) for element in path.elements):
        advice = "folders alone are searched by file name, without a key; put srv* in front of a store"
        return say("stores", Rating.WARNING, f"names no store: {shown}", advice)
    if not theirs.intersection(ours):
        where = " and ".join(ours) or "no store"
        advice = "what symcache fetches, the debugger does not find; `symcache path` prints a line with both"
        return say("stores", Rating.WRONG, f"{shown} does not name {where}", advice)
    return say("stores", Rating.FINE, f"leads to {', '.join(sorted(theirs.intersection(ours)))}")


def _plain(path: str) -> str:
    return os.path.normcase(os.path.normpath(path))


def _filled(config: Config) -> Iterator[str]:
    """Yield the stores that are filled, the bottom-most first."""
    for element in chains(config.symbol_path, config.store.folder):
        for place in element.stores:
            if isinstance(place, LocalPlace | UncPlace):
                yield place.path
