"""``symcache path``."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import anyio
import click

from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import plain, say, write_json, write_line, write_table
from symcache.errors import InputError, UsageError
from symcache.identity import parse_index
from symcache.sympath import Cache, Chain, DefaultPlace, HttpPlace, LocalPlace, SymbolPath
from symcache.upstream.explain import explain
from symcache.upstream.source import SymbolSource

if TYPE_CHECKING:
    from symcache.config import Config
    from symcache.identity import Key
    from symcache.sympath import Element
    from symcache.upstream.explain import Step

__all__ = ["command"]

_SHELLS = ("cmd", "powershell", "bash", "windbg")


@click.command()
@click.option("--shell", type=click.Choice(_SHELLS), help="Print the line for one of them alone.")
@click.option("--offline", is_flag=True, help="Leave the servers out, for a machine without a network.")
@click.option(
    "--explain",
    "index",
    metavar="INDEX",
    help="Show every place that is tried for INDEX, in order, with its answer; nothing is copied.",
)
@json_option
@settings_options
def command(settings: Settings, shell: str | None, offline: bool, index: str | None, as_json: bool) -> None:
    """Print the symbol path to give to a debugger, for cmd, PowerShell, bash and WinDbg."""
    config = settings.load()
    if index is not None:
        _explain(config, index, as_json=as_json)
        return
    path = _without_servers(config) if offline else config.symbol_path
    text = path.redacted()
    lines = {
        "cmd": f'set "_NT_SYMBOL_PATH={text}"',
        "powershell": "$env:_NT_SYMBOL_PATH = '{}'".format(text.replace("'", "''")),
        "bash": f"export _NT_SYMBOL_PATH={shlex.quote(text)}",
        "windbg": f".sympath {text}",
    }
    if as_json:
        write_json({"schema": "symcache.path/1", "symbol_path": text, "lines": lines})
    elif shell is not None:
        write_line(plain(lines[shell]))
    else:
        write_table([(f"{name}:", line) for name, line in lines.items()])
    if text != str(path):
        say("credentials are left out; a debugger asks for them, or takes them from the system")


def _without_servers(config: Config) -> SymbolPath:
    elements = (_local_part(element, LocalPlace(str(config.store.folder))) for element in config.symbol_path.elements)
    return SymbolPath(tuple(dict.fromkeys(elements)))


def _local_part(element: Element, default: LocalPlace) -> Element:
    match element:
        case Chain(stores, dll):
            local = (default if isinstance(s, DefaultPlace) else s for s in stores if not isinstance(s, HttpPlace))
            return Chain(tuple(local) or (default,), dll)
        case Cache(DefaultPlace()):
            return Cache(default)
        case _:
            return element


def _explain(config: Config, index: str, *, as_json: bool) -> None:
    try:
        key = parse_index(index)
    except InputError as error:
        raise UsageError(str(error)) from error
    steps = anyio.run(_ask_all, config, key)
    if as_json:
        write_json({"schema": "symcache.explain/1", "index": key.index, "steps": [step.as_json() for step in steps]})
        return
    write_table([f"{step.element + 1}.{step.place + 1}", step.name, step.answer, _more(step)] for step in steps)


def _more(step: Step) -> str:
    copies = "".join(f"; would be copied to {name} ({form})" for name, form in step.copies)
    return f"{step.seconds * 1000:.0f} ms{copies}"


async def _ask_all(config: Config, key: Key) -> list[Step]:
    async with SymbolSource(config) as source:
        return [step async for step in explain(source, key)]
