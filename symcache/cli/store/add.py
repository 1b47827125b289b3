"""``symcache store add``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from symcache.cli.openstore import find_store
from symcache.cli.options import Settings, json_option, settings_options_but_version
from symcache.cli.output import count_text, plain, say, say_error, write_json, write_line
from symcache.cli.progress import show_ticker
from symcache.errors import UsageError
from symcache.symstore.admin import Addition, Admin, Unidentified, identify_all
from symcache.symstore.transactions import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.stores.local.tree import Store
    from symcache.symstore.transactions import Transaction

__all__ = ["command"]


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--product", required=True, help="What the files belong to.")
@click.option("--version", default="", help="Its version.")
@click.option("--comment", default="", help="Anything else worth knowing.")
@click.option("--compress", is_flag=True, help="Store cabinets; clients expand them when they fetch a file.")
@click.option("--pointer", is_flag=True, help="Store pointers to the files, which stay where they are.")
@json_option
@settings_options_but_version
def command(
    settings: Settings,
    paths: tuple[Path, ...],
    product: str,
    version: str,
    comment: str,
    compress: bool,
    pointer: bool,
    as_json: bool,
) -> None:
    """Publish images, .dbg files and PDBs, those of folders too, as one transaction.

    Each is filed under the key that its content says. What is none of them is passed over in a folder, and reported
    where it was named.
    """
    if compress and pointer:
        raise UsageError("--compress and --pointer exclude each other")
    with find_store(settings.load()) as store:
        found, others = _identify(paths, store, settings)
        transaction = None
        if found:
            transaction = Admin(store).add(
                found,
                product=product,
                version=version,
                comment=comment,
                kind=Kind.POINTER if pointer else Kind.FILE,
                compress=compress,
            )
    skipped = [other for other in others if not other.is_foreign]
    if as_json:
        write_json(_document(store, transaction, found, skipped))
    elif transaction is not None:
        write_line(plain(str(transaction)))
        write_line(plain(f"{count_text(len(found), 'file')} published in {store.root}"))
    for other in skipped:
        say_error(f"{other.path}: skipped: {other.problem}")
    if len(skipped) < len(others) and not settings.quiet:
        say(f"{count_text(len(others) - len(skipped), 'file')} of other kinds passed over")
    if transaction is None:
        say_error("there is nothing to add: no image and no PDB was found")
    raise click.exceptions.Exit(4 if skipped or transaction is None else 0)


def _identify(paths: tuple[Path, ...], store: Store, settings: Settings) -> tuple[list[Addition], list[Unidentified]]:
    found: list[Addition] = []
    others: list[Unidentified] = []
    with show_ticker(quiet=settings.quiet) as show:
        for each in identify_all(paths, but=store.root):
            if isinstance(each, Addition):
                found.append(each)
            else:
                others.append(each)
            show(f"{len(found)} of {len(found) + len(others)} files are symbols  {each.path.name}")
    return found, others


def _document(
    store: Store, transaction: Transaction | None, found: Sequence[Addition], skipped: Sequence[Unidentified]
) -> dict[str, object]:
    return {
        "schema": "symcache.add/1",
        "store": str(store.root),
        "transaction": None if transaction is None else transaction.as_json(),
        "files": [{"index": each.key.index, "path": str(each.path), "content": each.content} for each in found],
        "skipped": [{"path": str(each.path), "problem": each.problem} for each in skipped],
    }
