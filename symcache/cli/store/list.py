"""``symcache store list``."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import count_text, plain, say, size_text, write_json, write_json_list, write_line
from symcache.errors import UsageError
from symcache.formats.pdb.info import SymbolKind
from symcache.identity import fold
from symcache.symstore.admin import Admin
from symcache.upkeep.inventory import fits_index, iter_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.stores.local.tree import Store
    from symcache.symstore.transactions import Transaction
    from symcache.upkeep.inventory import StoredFile

__all__ = ["command"]


@click.command("list")
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--files", is_flag=True, help="List files instead: form, length, how much a PDB tells, and the index.")
@click.option(
    "--symbols",
    type=click.Choice([kind.value for kind in SymbolKind]),
    help="Only PDBs that tell so much; with --files.",
)
@click.option("--history", is_flag=True, help="List transactions that were undone, and what undid them, too.")
@json_option
@settings_options
def command(
    settings: Settings, patterns: tuple[str, ...], files: bool, symbols: str | None, history: bool, as_json: bool
) -> None:
    """List the current transactions, or with --files all files of the store.

    PATTERN narrows it to products, or to names and indexes of files, with * and ?.
    """
    if (symbols and not files) or (history and files):
        raise UsageError("--symbols goes with --files, --history does not")
    with open_store(settings.load()) as store:
        if files:
            _list_files(settings, store, patterns, symbols, as_json=as_json)
        else:
            _list_transactions(settings, store, patterns, history=history, as_json=as_json)


def _list_files(
    settings: Settings, store: Store, patterns: tuple[str, ...], symbols: str | None, *, as_json: bool
) -> None:
    found = (file for file in _files(store, patterns) if symbols in {None, file.symbols})
    if as_json:
        head = {"schema": "symcache.files/1", "store": str(store.root)}
        write_json_list(head, "files", (file.as_json() for file in found))
        return
    count = size = 0
    for file in found:
        count, size = count + 1, size + file.size_bytes
        write_line(plain(f"{file.form:<10}  {file.symbols or '-':<9}  {file.size_bytes:>12}  {file.index}"))
    if not settings.quiet:
        say(f"{count_text(count, 'file')}, {size_text(size)}")


def _files(store: Store, patterns: tuple[str, ...]) -> Iterator[StoredFile]:
    if not patterns:
        return iter_files(store)
    return iter_files(store, lambda name, id_: any(fits_index(name, id_, pattern) for pattern in patterns))


def _list_transactions(
    settings: Settings, store: Store, patterns: tuple[str, ...], *, history: bool, as_json: bool
) -> None:
    admin = Admin(store)
    found = [each for each in (admin.history() if history else admin.list_transactions()) if _fits(each, patterns)]
    if as_json:
        transactions = [each.as_json() for each in found]
        write_json({"schema": "symcache.transactions/1", "store": str(store.root), "transactions": transactions})
        return
    for each in found:
        write_line(plain(str(each)))
    if not settings.quiet:
        say(count_text(len(found), "transaction"))


def _fits(transaction: Transaction, patterns: tuple[str, ...]) -> bool:
    product = fold(transaction.product)
    return not patterns or any(fnmatchcase(product, fold(pattern)) for pattern in patterns)
