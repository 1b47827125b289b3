"""``symcache store stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import count_text, plain, size_text, write_json, write_line, write_table
from symcache.cli.progress import show_ticker
from symcache.upkeep.stats import collect_stats, dedupe, find_duplicates

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from symcache.stores.local.tree import Store
    from symcache.upkeep.stats import Duplicates, Shared, Stats

__all__ = ["command"]

_LARGEST = 20


@click.command()
@click.option(
    "--largest",
    metavar="N",
    type=click.IntRange(min=0),
    default=_LARGEST,
    help=f"Name the N names that take most; {_LARGEST} by default.",
)
@click.option("--duplicates", is_flag=True, help="Find files of equal content, too; reads those of equal length.")
@click.option("--dedupe", "links", is_flag=True, help="Deduplicate them by reflinks or hard links.")
@json_option
@settings_options
def command(settings: Settings, largest: int, duplicates: bool, links: bool, as_json: bool) -> None:
    """Count the files and bytes of the store, by name and by form."""
    groups: list[Duplicates] = []
    shared: list[Shared] = []
    with open_store(settings.load()) as store, show_ticker(quiet=settings.quiet) as show:
        show("counting")
        stats = collect_stats(store, largest=largest)
        if duplicates or links:
            for group in find_duplicates(store):
                groups.append(group)
                show(f"{count_text(len(groups), 'group')} of equal files")
        if links:
            for each in dedupe(store, groups):
                shared.append(each)
                show(f"{count_text(len(shared), 'file')} looked at")
    if as_json:
        document = {"schema": "symcache.stats/1", "store": str(store.root), **stats.as_json()}
        document["duplicates"] = [each.as_json() for each in groups] if duplicates or links else None
        document["shared"] = [each.as_json() for each in shared] if links else None
        write_json(document)
    else:
        _write_stats(store, stats)
        if duplicates or links:
            _write_duplicates(groups, store.root)
        if links:
            _write_shared(shared, store.root)
    raise click.exceptions.Exit(1 if any(each.means is None for each in shared) else 0)


def _write_stats(store: Store, stats: Stats) -> None:
    rows = [
        ["store", f"{store.root} ({'two' if stats.tier == 2 else 'single'}-tier)"],
        ["files", f"{stats.total.files}, {size_text(stats.total.size_bytes)}"],
    ]
    rows += [
        ["", f"{form}: {each.files}, {size_text(each.size_bytes)}"] for form, each in sorted(stats.by_kind.items())
    ]
    rows.append(["keys", f"{stats.keys} of {count_text(stats.names, 'name')}"])
    if stats.empty_keys:
        rows.append(["", f"and {count_text(stats.empty_keys, 'folder')} without a file"])
    rows.append(["transactions", str(stats.transactions)])
    write_table(rows)
    if stats.largest:
        write_line()
        write_table(
            [each.name, count_text(each.keys, "key"), size_text(each.total.size_bytes)] for each in stats.largest
        )


def _write_duplicates(groups: Sequence[Duplicates], root: Path) -> None:
    write_line()
    for group in groups:
        write_line(plain(f"{len(group.files)} times {size_text(group.size_bytes)}, {group.copies} on the disk"))
        write_table(["", path.relative_to(root).as_posix()] for path, _, _ in group.files)
    wasted = sum(group.wasted_bytes for group in groups)
    write_line(f"{count_text(len(groups), 'group')} of equal files, {size_text(wasted)} to be gained")


def _write_shared(shared: Sequence[Shared], root: Path) -> None:
    done = [each for each in shared if each.means is not None]
    for each in shared:
        if each.means is None:
            write_line(plain(f"{each.path.relative_to(root).as_posix()}: left: {each.problem}"))
    write_line(f"{count_text(len(done), 'file')} now share their space with another")
