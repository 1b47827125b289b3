"""``symcache path``."""

from __future__ import annotations

import os
import re
import shlex
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from symcache.cli.options import Settings, parse_key, settings_options
from symcache.cli.output import say, write_json, write_line, write_table
from symcache.errors import UsageError
from symcache.sympath import (
    MICROSOFT,
    BucketPlace,
    CacheElement,
    ChainElement,
    DefaultPlace,
    FolderElement,
    HttpPlace,
    LocalPlace,
    SymbolPath,
    UncPlace,
    redact_path,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.config import Config
    from symcache.identity import Key
    from symcache.stores.source import Step
    from symcache.sympath import Element, Place

_SHELLS = ("cmd", "powershell", "bash", "windbg")
_FOLDER_CLIENTS = ("lldb", "angr", "radare2")

# PowerShell takes the typographic ones for the plain one (about_Quoting_Rules); doubled, each stands for itself.
_POWERSHELL_QUOTES = "['\u2018\u2019\u201a\u201b]"


@click.command()
@click.option(
    "--shell",
    type=click.Choice((*_SHELLS, *_FOLDER_CLIENTS)),
    help="Print the line for one of them alone; the last three go with --offline.",
)
@click.option(
    "--offline",
    is_flag=True,
    help="Leave the servers out, for a machine without a network; lists what LLDB, angr and radare2 take, too.",
)
@click.option(
    "--explain",
    "index",
    metavar="INDEX",
    help="Show each store and server that is tried for INDEX, with its answer; nothing is copied.",
)
@settings_options()
def path_command(settings: Settings, shell: str | None, offline: bool, index: str | None) -> None:
    """Print the symbol path to give to a debugger, for cmd, PowerShell, bash and WinDbg."""
    config = settings.load()
    if index is not None:
        _explain(settings, config, parse_key(index))
        return
    bundles, buckets = _find_bundles(config), _find_buckets(config)
    path = _for_debuggers(config, [*bundles, *buckets], offline=offline)
    text = path.redacted()
    lines = {
        "cmd": f'set "_NT_SYMBOL_PATH={text}"',
        "powershell": "$env:_NT_SYMBOL_PATH = '{}'".format(re.sub(_POWERSHELL_QUOTES, r"\g<0>\g<0>", text)),
        "bash": f"export _NT_SYMBOL_PATH={shlex.quote(text)}",
        "windbg": f".sympath {text}",
    }
    one_tier, two_tier = _folders(path) if offline else ([], [])
    lines |= _folder_lines(one_tier)
    if shell is not None and shell not in lines:
        if not offline:
            raise UsageError(f"{shell} takes the folder of a store: add --offline")
        raise UsageError(f"{shell}: {_two_tier_text(two_tier) if two_tier else 'the symbol path names no store'}")
    if settings.as_json:
        write_json({"schema": "symcache.path/1", "symbol_path": text, "lines": lines})
    elif shell is not None:
        write_line(lines[shell])
    else:
        write_table([(f"{name}:", line) for name, line in lines.items()])
    if two_tier and not settings.as_json and shell not in _SHELLS:
        say(f"LLDB, angr and radare2: {_two_tier_text(two_tier)}")
    left_out = {**{redact_path(each.path): "bundle" for each in bundles}, **{each.url: "bucket" for each in buckets}}
    for place, kind in left_out.items():
        say(
            f"{place} is left out: debuggers do not read a {kind};"
            " `symcache warm` copies what is needed into the store before it, `symcache serve` serves it"
        )
    if text != str(path):
        say("credentials are left out; a debugger asks for them, or takes them from the system")


def _places(path: SymbolPath) -> list[Place]:
    places: list[Place] = []
    for element in path.elements:
        places.extend(element.stores if isinstance(element, ChainElement) else [element.place])
    return list(dict.fromkeys(places))


def _find_buckets(config: Config) -> list[BucketPlace | HttpPlace]:
    """Return the places of the symbol path that are buckets, those among them that the config file makes one."""
    found = [place for place in _places(config.symbol_path) if isinstance(place, BucketPlace | HttpPlace)]
    if not config.bucket:
        return [place for place in found if isinstance(place, BucketPlace)]
    from symcache.stores.disk import find_entry  # noqa: PLC0415 - few config files have one

    return [place for place in found if isinstance(place, BucketPlace) or find_entry(place.url, config.bucket)]


def _find_bundles(config: Config) -> list[LocalPlace | UncPlace]:
    """Return the places of the symbol path that are bundles."""
    found = [place for place in _places(config.symbol_path) if isinstance(place, LocalPlace | UncPlace)]
    if not config.unc.map and not any(map(os.path.isfile, (place.path for place in found))):
        return []
    from symcache.stores.disk import is_bundle, local_path  # noqa: PLC0415 - most paths name no file

    return [place for place in found if (path := local_path(place.path, config.unc.map)) and is_bundle(path)]


def _for_debuggers(config: Config, bundles: Sequence[Place], *, offline: bool) -> SymbolPath:
    """Return the symbol path as Microsoft's debuggers take it.

    The default store is written out, as theirs may lie elsewhere, *bundles*, buckets among them, are left out, and each
    server gets a chain of its own.
    """
    default = LocalPlace(str(config.store.folder))
    elements: list[Element] = []
    is_cached = False
    for element in config.symbol_path.elements:
        match element:
            case ChainElement():
                elements.extend(_chains(element, default, bundles, is_cached=is_cached, offline=offline))
            case CacheElement(place) | FolderElement(place) if place in bundles:
                elements.extend([] if is_cached else [ChainElement((default,))])
            case CacheElement(place):
                elements.append(CacheElement(default if isinstance(place, DefaultPlace) else place))
                is_cached = True
            case _:
                elements.append(element)
    return SymbolPath(tuple(dict.fromkeys(elements)))


def _chains(
    chain: ChainElement, default: LocalPlace, bundles: Sequence[Place], *, is_cached: bool, offline: bool
) -> Iterator[ChainElement]:
    stores = (default, HttpPlace(MICROSOFT)) if chain.stores == (DefaultPlace(),) else chain.stores
    remote = [place for place in stores if isinstance(place, HttpPlace | BucketPlace)]
    servers = [place for place in remote if isinstance(place, HttpPlace) and place not in bundles and not offline]
    places = [place for place in stores if place not in remote and place not in bundles]
    folders = [default if isinstance(place, DefaultPlace) else place for place in places]
    if not folders and not is_cached:
        folders = [default]
    for server in servers:
        yield replace(chain, stores=(*folders, server))
    if folders and not servers:
        yield replace(chain, stores=tuple(folders))


def _folders(path: SymbolPath) -> tuple[list[str], list[str]]:
    """Return the folders of single-tier and of two-tier stores on *path*."""
    stores = (
        place
        for element in path.elements
        if isinstance(element, CacheElement | ChainElement)
        for place in (element.stores if isinstance(element, ChainElement) else [element.place])
        if isinstance(place, LocalPlace | UncPlace)
    )
    one_tier: list[str] = []
    two_tier: list[str] = []
    for folder in dict.fromkeys(place.path for place in stores):
        (two_tier if Path(folder, "index2.txt").exists() else one_tier).append(redact_path(folder))
    return one_tier, two_tier


def _folder_lines(folders: Sequence[str]) -> dict[str, str]:
    """Return lines for clients that look into the folder of a store themselves and know no ``srv*``.

    Source: LLDB's SymbolLocatorSymStore.cpp and cle's symbolserver.py join folder, name and id; radare2's pdb.symstore
    is one folder. None of them knows a second tier. Between double quotes LLDB takes a backslash for itself only if
    another one or a quote follows (Args.cpp), as at the beginning of a share.
    """
    if not folders:
        return {}
    urls = " ".join('"{}"'.format(folder.replace("\\", "\\\\").replace('"', '\\"')) for folder in folders)
    return {
        "lldb": f"settings set plugin.symbol-locator.symstore.urls {urls}",
        "angr": f"export _NT_SYMBOL_PATH={shlex.quote(';'.join(folders))}",
        "radare2": f"e pdb.symstore={folders[0]}",
    }


def _two_tier_text(folders: Sequence[str]) -> str:
    return (
        f"nothing is found in a two-tier store, as in {', '.join(folders)};"
        " `symcache store convert --single-tier` changes its layout"
    )


def _explain(settings: Settings, config: Config, key: Key) -> None:
    import anyio  # noqa: PLC0415 - the path itself needs no network

    steps = anyio.run(_ask_all, config, key)
    if settings.as_json:
        write_json({"schema": "symcache.explain/1", "index": key.index, "steps": [step.as_json() for step in steps]})
        return
    rows = []
    for step in steps:
        copies = "".join(f"; would be copied to {name} ({form})" for name, form in step.copies)
        place = f"{step.element + 1}.{step.place + 1}"
        rows.append([place, step.name, step.answer, f"{step.seconds * 1000:.0f} ms{copies}"])
    write_table(rows)


async def _ask_all(config: Config, key: Key) -> list[Step]:
    from symcache.stores.source import SymbolSource, explain  # noqa: PLC0415

    async with SymbolSource(config) as source:
        return [step async for step in explain(source, key)]
