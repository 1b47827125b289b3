"""``symcache import``."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import click

from symcache.cli.openstore import find_store
from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import count_text, plain, say_error, size_text, write_json, write_line
from symcache.cli.progress import show_ticker
from symcache.errors import InputError
from symcache.stores.check import StoredCheck
from symcache.upkeep.bundle import Outcome, import_bundle

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.stores.local.tree import Store
    from symcache.upkeep.bundle import Imported

__all__ = ["command"]


@click.command()
@click.argument("bundles", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@json_option
@settings_options
def command(settings: Settings, bundles: tuple[Path, ...], as_json: bool) -> None:
    """Import bundles of `symcache export` into the store; each file is verified before it is published.

    Exit code 1: the disk did not take a file; 4: a bundle cannot be read, or a file in it is not what it says.
    """
    results: list[Imported] = []
    unreadable: list[tuple[Path, str]] = []
    with find_store(settings.load()) as store:
        for bundle in bundles:
            try:
                _take(store, bundle, results, settings)
            except InputError as error:
                unreadable.append((bundle, str(error)))
    counts = Counter(each.outcome for each in results)
    if as_json:
        write_json(
            {
                "schema": "symcache.import/1",
                "store": str(store.root),
                "summary": {outcome.value: counts[outcome] for outcome in Outcome},
                "files": [each.as_json() for each in results],
                "unreadable": [{"path": str(path), "problem": problem} for path, problem in unreadable],
            }
        )
    else:
        _write_text(store, results, settings)
    for path, problem in unreadable:
        say_error(f"{path}: {problem}")
    is_damaged = bool(unreadable or counts[Outcome.REFUSED])
    raise click.exceptions.Exit(1 if counts[Outcome.FAILED] else 4 if is_damaged else 0)


def _take(store: Store, bundle: Path, results: list[Imported], settings: Settings) -> None:
    with show_ticker(quiet=settings.quiet) as show:
        for each in import_bundle(store, bundle, StoredCheck(store)):
            results.append(each)
            show(f"{count_text(len(results), 'file')}  {each.file.key.name}")


def _write_text(store: Store, results: Sequence[Imported], settings: Settings) -> None:
    for each in results:
        if each.problem is not None or settings.verbose:
            write_line(plain(str(each)))
    if not settings.quiet:
        taken = [each for each in results if each.outcome is Outcome.IMPORTED]
        size = size_text(sum(each.file.size_bytes for each in taken))
        kept = sum(each.outcome is Outcome.KEPT for each in results)
        left = len(results) - len(taken) - kept
        rest = (f", {kept} there already" if kept else "") + (f", {left} not" if left else "")
        write_line(plain(f"{count_text(len(taken), 'file')} imported ({size}){rest}; store: {store.root}"))
