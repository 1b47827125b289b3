"""What the debugger's environment variables say, against the symbol path and the stores of symcache."""

from __future__ import annotations

import os
from functools import partial
from typing import TYPE_CHECKING

from symcache.doctor.finding import Finding, Rating
from symcache.errors import SymbolPathError
from symcache.sympath import (
    CacheElement,
    ChainElement,
    Environment,
    LocalPlace,
    UncPlace,
    chains,
    parse_symbol_path,
    redact_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from symcache.config import Config

__all__ = ["examine_debugger"]

_PATHS = ("_NT_SYMBOL_PATH", "_NT_ALT_SYMBOL_PATH")


def examine_debugger(variables: Mapping[str, str], config: Config) -> Iterator[Finding]:
    """Yield what is found of the variables that Microsoft's debuggers read.

    Source: windows-driver-docs, "Environment Variables"; that new WinDbg does not heed ``_NT_SYMBOL_PROXY``:
    microsoft/WinDbg-Feedback, issue 311.
    """
    ours = [_plain(place) for place in _stores(config) if place]
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


def _stores(config: Config) -> Iterator[str]:
    """Yield the stores that are filled, the bottom-most first."""
    for element in chains(config.symbol_path, config.store.folder):
        for place in element.stores:
            if isinstance(place, LocalPlace | UncPlace):
                yield place.path
