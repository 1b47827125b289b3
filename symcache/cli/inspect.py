"""``symcache inspect``."""

from __future__ import annotations

from pathlib import Path

import click

from symcache.cli.inspection import DeepWish, inspect_file
from symcache.cli.inspecttext import write_inspection
from symcache.cli.options import color_option, json_option
from symcache.cli.output import write_json
from symcache.errors import UsageError

__all__ = ["command"]

_SHOWN = 20


@click.command()
@click.argument("file", metavar="FILE")
@click.option("--streams", is_flag=True, help="List the streams of a PDB; needs pdbparse.")
@click.option(
    "--publics",
    type=click.IntRange(min=1),
    is_flag=False,
    flag_value=_SHOWN,
    default=None,
    metavar="[N]",
    help=f"List N public symbols of a PDB, {_SHOWN} if N is left out; needs pdbparse.",
)
@click.option(
    "--types",
    type=click.IntRange(min=1),
    is_flag=False,
    flag_value=_SHOWN,
    default=None,
    metavar="[N]",
    help=f"List N structures that a PDB defines, {_SHOWN} if N is left out; needs pdbparse.",
)
@json_option
@color_option
def command(file: str, streams: bool, publics: int | None, types: int | None, as_json: bool) -> None:
    """Show what FILE is, which key it has, and whether it is whole and where it belongs.

    FILE is a dump, an image, a .dbg file, a PDB of any kind, a cabinet of one of them, a manifest or a debugger log.
    Exit code 0: nothing is wrong with it; 4: it is damaged, not what its place says, or of no known kind.
    """
    if Path(file).is_dir():
        raise UsageError(f"{file} is a folder; `symcache scan` lists what is in it")
    found = inspect_file(file, DeepWish(streams, publics or 0, types or 0))
    if as_json:
        write_json(found.as_json())
    else:
        write_inspection(found)
    raise click.exceptions.Exit(0 if found.is_healthy else 4)
