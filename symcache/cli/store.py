"""``symcache store``: the group, what symstore has too (``add``, ``del``, ``query``, ``list``), and the store meant."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from symcache.cli.app import LazyGroup
from symcache.cli.options import Settings, settings_options, store_type
from symcache.cli.output import (
    TWO_TIER_NOTE,
    say,
    say_error,
    show_ticker,
    write_json_list,
    write_line,
    write_store_json,
    write_table,
)
from symcache.errors import UsageError
from symcache.formats.pdb.info import SymbolKind
from symcache.identity import Tier, fold
from symcache.reports.lines import count_text, size_text
from symcache.stores.disk import find_entry, is_bundle, local_path
from symcache.stores.local.atomic import store_errors
from symcache.stores.local.rights import find_group, share_with
from symcache.stores.local.tree import Store
from symcache.sympath import BucketPlace, HttpPlace, chains
from symcache.symstore.admin import Addition, Admin, Unidentified, identify_all
from symcache.symstore.transactions import Kind
from symcache.upkeep.inventory import fits_index, iter_files

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.config import Config
    from symcache.stores.bucket.objects import Bucket
    from symcache.upkeep.inventory import StoredFile


_COMMANDS = {
    "init": ("store", "Make an empty store."),
    "add": ("store", "Publish files, or pointers to them, as one transaction."),
    "del": ("store", "Undo transactions."),
    "query": ("store", "Find what transactions brought."),
    "list": ("store", "List transactions, or all files."),
    "stats": ("upkeep", "Count what the store holds; find and link duplicates."),
    "verify": ("upkeep", "Check every file against its key; repair what is wrong."),
    "prune": ("upkeep", "Remove files by size, age and last use."),
    "push": ("bucket", "Bring what the store on disk has into a bucket."),
    "pin": ("upkeep", "Keep files from being pruned."),
    "unpin": ("upkeep", "Allow them to be pruned again."),
    "pins": ("upkeep", "List what is pinned."),
    "convert": ("upkeep", "Change between the single-tier and the two-tier layout."),
}
_MARKS = {"pingme.txt", "index2.txt", "000admin"}


def find_store(config: Config) -> Store:
    """Return the bottom-most store of the symbol path that this system can reach, there or not; else `UsageError`."""
    path = _first_folder(config)
    if path is None:
        raise UsageError("the symbol path names no store on this machine; name one with --store DIR")
    return Store(path, new_tier=Tier.TWO if config.store.two_tier else Tier.ONE, locking=config.store.locks)


def open_store(config: Config) -> Store:
    """Return the same store, which must exist; else `UsageError`."""
    store = find_store(config)
    if not store.root.is_dir():
        raise UsageError(f"{store.root}: there is no store here; `symcache store init` makes one")
    return store


def find_bucket(settings: Settings) -> tuple[Config, Bucket | None]:
    """Return the settings, and the bucket that ``--store`` names; None where it names none."""
    config, url = settings.load_with_bucket()
    if url is None:
        return config, None
    from symcache.stores.bucket.objects import Bucket  # noqa: PLC0415 - few stores are one

    return config, Bucket(url, find_entry(url, config.bucket), config.network)


def check_writable(bucket: Bucket) -> None:
    """Raise `UsageError` if the config file says that nothing is to be changed in *bucket*."""
    if bucket.entry is not None and bucket.entry.read_only:
        raise UsageError(f"{bucket.name} is read_only in the config file")


def _first_folder(config: Config) -> Path | None:
    for element in chains(config.symbol_path, config.store.folder):
        places = [place for place in element.stores if not isinstance(place, HttpPlace | BucketPlace)]
        paths = [path for place in places if (path := local_path(place.path, config.unc.map)) is not None]
        found = next((path for path in paths if not is_bundle(path)), None)
        if paths:
            return found or config.store.folder
        folder = None if element.folder is None else local_path(element.folder.path, config.unc.map)
        if folder is not None and is_bundle(folder):
            return config.store.folder
        if folder is not None and (folder / "pingme.txt").is_file():
            return folder
    return None


@click.group(cls=LazyGroup, commands_in=_COMMANDS)
def store_command() -> None:
    """Look after a store: publish, list, verify, prune, convert.

    It is the bottom-most store of the symbol path, or the one that --store names; list --files, stats, verify and
    prune take a bucket there, too. Any number of processes may use it at the same time.
    """


@click.command()
@click.argument("folder", metavar="[DIR]", type=store_type, required=False)
@click.option("--two-tier", is_flag=True, help="Put a folder of two letters above each name, for very large stores.")
@click.option(
    "--shared",
    "group",
    metavar="GROUP",
    help="Let every user of GROUP (name or number) fill it; also for a store that is there already.",
)
@settings_options(json=False)
def init_command(settings: Settings, folder: Path | str | None, two_tier: bool, group: str | None) -> None:
    """Make an empty store in DIR, or where the symbol path has its bottom-most one.

    What is made in a store takes over rights and group of its folder, whatever the umask of who makes it.
    """
    config = (settings if folder is None else settings._replace(store=folder)).load()
    store = find_store(config)
    gid = None if group is None else find_group(group)
    tier = Tier.TWO if two_tier or config.store.two_tier else Tier.ONE
    names = {fold(path.name) for path in store.root.iterdir()} if store.root.is_dir() else set()
    if names & _MARKS:
        if two_tier and store.tier is not Tier.TWO:
            raise UsageError(f"{store.root} is a single-tier store; `symcache store convert --two-tier` changes that")
        write_line(f"{store.root} is a store already")
        _share(store, gid)
        return
    if names - {".symcache"}:
        raise UsageError(f"{store.root} is not empty, and no store; choose another folder")
    store.create(tier)
    write_line(f"made {'a two-tier' if tier is Tier.TWO else 'a'} store in {store.root}")
    _share(store, gid)
    if tier is Tier.TWO:
        say(TWO_TIER_NOTE)


def _share(store: Store, gid: int | None) -> None:
    if gid is not None:
        with store_errors(store.root):
            count, left = share_with(store.root, gid)
        write_line(f"{count_text(count, 'file')} and folders can be used by the group")
        if left:
            say_error(f"{count_text(left, 'file')} and folders are another user's, who alone can change them")


@click.command()
@click.argument("paths", metavar="PATH...", nargs=-1, required=True, type=click.Path(path_type=Path, exists=True))
@click.option("--product", required=True, help="What the files belong to.")
@click.option("--version", default="", help="Its version.")
@click.option("--comment", default="", help="Anything else worth knowing.")
@click.option("--compress", is_flag=True, help="Store cabinets; clients expand them when they fetch a file.")
@click.option("--pointer", is_flag=True, help="Store pointers to the files, which stay where they are.")
@settings_options(version=False)
def add_command(settings: Settings, paths: tuple[Path, ...], compress: bool, pointer: bool, **said: str) -> None:
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
            kind = Kind.POINTER if pointer else Kind.FILE
            transaction = Admin(store).add(found, kind=kind, compress=compress, **said)
    skipped = [other for other in others if not other.is_foreign]
    if settings.as_json:
        write_store_json(
            "add",
            store,
            transaction=None if transaction is None else transaction.as_json(),
            files=[{"index": each.key.index, "path": str(each.path), "content": each.content} for each in found],
            skipped=[{"path": str(each.path), "problem": each.problem} for each in skipped],
        )
    elif transaction is not None:
        write_line(str(transaction))
        write_line(f"{count_text(len(found), 'file')} published in {store.root}")
    for other in skipped:
        say_error(f"{other.path}: skipped: {other.problem}")
    if len(skipped) < len(others):
        settings.note(f"{count_text(len(others) - len(skipped), 'file')} of other kinds passed over")
    if transaction is None:
        say_error("there is nothing to add: no image and no PDB was found")
    raise Exit(4 if skipped or transaction is None else 0)


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


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=click.IntRange(min=1))
@settings_options()
def del_command(settings: Settings, ids: tuple[int, ...]) -> None:
    """Undo the transactions with these numbers; a file goes when no other transaction names it."""
    with open_store(settings.load()) as store:
        admin = Admin(store)
        deleted = []
        for id_ in ids:
            deleted.append(admin.delete(id_, on_left=say))
            if not settings.as_json:
                write_line(str(deleted[-1]))
    if settings.as_json:
        write_store_json("transactions", store, transactions=[each.as_json() for each in deleted])


@click.command()
@click.argument("pattern", metavar="[PATTERN]", default="*")
@click.option("--product", metavar="PATTERN", default="*", help="Only what came with products that fit.")
@click.option("--version", metavar="PATTERN", default="*", help="Only what came with versions that fit.")
@click.option("--id", "id_", metavar="ID", type=click.IntRange(min=1), help="Only what this transaction brought.")
@settings_options(version=False)
def query_command(settings: Settings, pattern: str, product: str, version: str, id_: int | None) -> None:
    """Find files that current transactions added: by name or index, product, version, or number.

    PATTERN is a name or an index, with * and ? as in a shell. Exit code 3: nothing fits.
    """
    if (pattern, product, version, id_) == ("*", "*", "*", None):
        raise UsageError("say what is sought: a PATTERN, --product, --version or --id")
    with open_store(settings.load()) as store:
        found = [
            holding
            for holding in Admin(store).query(product=product, version=version)
            if id_ in {None, holding.transaction.id} and fits_index(holding.file.key.name, holding.file.key.id, pattern)
        ]
    if settings.as_json:
        write_store_json("query", store, files=[holding.as_json() for holding in found])
    else:
        write_table((each.file.key.index, str(each.transaction), each.file.source) for each in found)
    if not found:
        settings.note("nothing fits")
    raise Exit(0 if found else 3)


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--files", is_flag=True, help="List files instead: form, length, how much a PDB tells, and the index.")
@click.option(
    "--symbols",
    type=click.Choice([kind.value for kind in SymbolKind]),
    help="Only PDBs that tell so much; with --files.",
)
@click.option("--history", is_flag=True, help="List transactions that were undone, and what undid them, too.")
@settings_options()
def list_command(
    settings: Settings, patterns: tuple[str, ...], files: bool, symbols: str | None, history: bool
) -> None:
    """List the current transactions, or with --files all files of the store.

    PATTERN narrows it to products, or to names and indexes of files, with * and ?.
    """
    if (symbols and not files) or (history and files):
        raise UsageError("--symbols goes with --files, --history does not")
    config, bucket = find_bucket(settings)
    if bucket is not None:
        from symcache.cli.bucket import list_bucket  # noqa: PLC0415 - few stores are one

        if not files:
            raise UsageError("a bucket has no transactions; list its files: --files")
        list_bucket(settings, bucket, patterns, symbols)
        return
    with open_store(config) as store:
        if files:
            _list_files(settings, store, patterns, symbols)
        else:
            _list_transactions(settings, store, patterns, history=history)


def _list_files(settings: Settings, store: Store, patterns: tuple[str, ...], symbols: str | None) -> None:
    def fits(name: str, id_: str) -> bool:
        return not patterns or any(fits_index(name, id_, pattern) for pattern in patterns)

    write_files(settings, store, (file for file in iter_files(store, fits) if symbols in {None, file.symbols}))


def write_files(settings: Settings, store: Store | Bucket, found: Iterator[StoredFile]) -> None:
    """Write the files that are *found* in *store*, each as it comes."""
    if settings.as_json:
        head = {"schema": "symcache.files/1", "store": store.name}
        write_json_list(head, "files", (file.as_json() for file in found))
        return
    count = size = 0
    for file in found:
        count, size = count + 1, size + file.size_bytes
        write_line(f"{file.form:<10}  {file.symbols or '-':<9}  {file.size_bytes:>12}  {file.index}")
    settings.note(f"{count_text(count, 'file')}, {size_text(size)}")


def _list_transactions(settings: Settings, store: Store, patterns: tuple[str, ...], *, history: bool) -> None:
    admin = Admin(store)
    found = [
        each
        for each in (admin.history() if history else admin.list_transactions())
        if not patterns or any(fnmatchcase(fold(each.product), fold(pattern)) for pattern in patterns)
    ]
    if settings.as_json:
        write_store_json("transactions", store, transactions=[each.as_json() for each in found])
        return
    for each in found:
        write_line(str(each))
    settings.note(count_text(len(found), "transaction"))
