"""``symcache export``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from symcache.cli.needs import Needs, find_needs
from symcache.cli.openstore import open_store
from symcache.cli.options import (
    ImagesCommand,
    Settings,
    allow_options,
    images_option,
    json_option,
    process_options,
    select_processes,
    settings_options,
)
from symcache.cli.output import EMPTY, count_text, plain, say, say_error, size_text, write_json, write_line
from symcache.cli.progress import show_ticker
from symcache.identity import ImageKey, parse_index, published_keys
from symcache.upkeep.bundle import export_bundle
from symcache.warm.plan import Plan

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.stores.local.tree import Store
    from symcache.upkeep.bundle import BundledFile, Exported
    from symcache.warm.plan import ImageChoice

__all__ = ["command"]


@click.command(cls=ImagesCommand)
@click.argument("inputs", metavar="[INPUT]...", nargs=-1)
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="The bundle to write; a zip archive.",
)
@process_options
@images_option
@click.option("--all-pdbs", is_flag=True, help="Take every PDB an image names, not only the one debuggers ask for.")
@allow_options
@json_option
@settings_options
def command(
    settings: Settings,
    inputs: tuple[str, ...],
    output: Path,
    images: ImageChoice,
    all_pdbs: bool,
    allow_missing: bool,
    allow_empty: bool,
    as_json: bool,
    processes: tuple[str, ...],
    user: bool | None,
) -> None:
    """Pack what the inputs need and the store has into FILE, or the whole store; say what is missing.

    INPUT is what `symcache warm` takes. The bundle goes to another machine, and into its store by `symcache import`.
    """
    config = settings.load()
    needs = Needs()
    if inputs:
        plan = Plan(images=images, all_pdbs=all_pdbs)
        needs = find_needs(config, inputs, plan, select_processes(processes, user))
    with open_store(config) as store:
        exported = _export(store, output, needs if inputs else None, settings)
    missing = list(_missing(needs, exported))
    if as_json:
        document = {"schema": "symcache.export/1", "store": str(store.root), **exported.as_json()}
        document["missing"] = [{"index": index, "why": why} for index, why in missing]
        document["unreadable"] = [
            {"path": item.path, "problem": item.problem, "offset": item.offset} for item in needs.unreadable
        ]
        del document["not_carried"]
        write_json(document)
    else:
        for index, why in missing:
            write_line(plain(f"missing: {index or '-'}: {why}"))
        if not settings.quiet:
            write_line(plain(f"{output}: {count_text(exported.files, 'file')}, {size_text(exported.size_bytes)}"))
    if exported.dropped_links and not settings.quiet:
        say(f"no room in the bundle for which PDBs {count_text(exported.dropped_links, 'image')} name")
    for item in needs.unreadable:
        say_error(f"{item.path}: {item.problem}" + ("" if item.offset is None else f" (at {item.offset:#x})"))
    is_empty = needs.is_empty and not allow_empty
    if is_empty:
        say_error(EMPTY)
    is_bad = needs.unreadable or is_empty
    raise click.exceptions.Exit(4 if is_bad else 3 if missing and not allow_missing else 0)


def _export(store: Store, output: Path, needs: Needs | None, settings: Settings) -> Exported:
    count = size = 0
    with show_ticker(quiet=settings.quiet) as show:

        def tell(file: BundledFile) -> None:
            nonlocal count, size
            count, size = count + 1, size + file.size_bytes
            show(f"{count_text(count, 'file')}, {size_text(size)}  {file.key.name}")

        keys, links = (None, None) if needs is None else (needs.keys, needs.links)
        return export_bundle(store, output, keys, links=links, on_file=tell)


def _missing(needs: Needs, exported: Exported) -> Iterator[tuple[str | None, str]]:
    reported: set[str] = set()
    for each in exported.not_carried:
        key = parse_index(each.index)
        # A driver and its copy for crash dumps are one file: a line for each would count it twice.
        names = {name.folded for name in published_keys(key)} if isinstance(key, ImageKey) else {key.folded}
        if reported.isdisjoint(names):
            yield each.index, each.why
        reported |= names
    for key in needs.images:
        if key.folded not in reported:  # that an image is not there tells why its PDB is not known
            yield key.index, "its PDB is not known: the image has not been read yet"
    for text in needs.nameless:
        yield None, text
