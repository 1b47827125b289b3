"""``symcache store``: the group, ``store init``, and the store that a command is about."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from symcache.cli.app import LazyGroup
from symcache.cli.options import Settings, settings_options
from symcache.cli.output import TWO_TIER_NOTE, count_text, say, say_error, write_line
from symcache.errors import UsageError
from symcache.identity import Tier, fold
from symcache.stores.disk import local_path
from symcache.stores.local.atomic import store_errors
from symcache.stores.local.rights import find_group, share_with
from symcache.stores.local.tree import Store
from symcache.sympath import HttpPlace, chains

if TYPE_CHECKING:
    from symcache.config import Config

_COMMANDS = {
    "init": ("store", "Make an empty store."),
    "add": ("symstore", "Publish files, or pointers to them, as one transaction."),
    "del": ("symstore", "Undo transactions."),
    "query": ("symstore", "Find what transactions brought."),
    "list": ("symstore", "List transactions, or all files."),
    "stats": ("upkeep", "Count what the store holds; find and link duplicates."),
    "verify": ("upkeep", "Check every file against its key; repair what is wrong."),
    "prune": ("upkeep", "Remove files by size, age and last use."),
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


def _first_folder(config: Config) -> Path | None:
    for element in chains(config.symbol_path, config.store.folder):
        places = [place for place in element.stores if not isinstance(place, HttpPlace)]
        paths = (local_path(place.path, config.unc.map) for place in places)
        found = next((path for path in paths if path is not None), None)
        if found is not None:
            return found
        folder = None if element.folder is None else local_path(element.folder.path, config.unc.map)
        if folder is not None and (folder / "pingme.txt").is_file():
            return folder
    return None


@click.group(cls=LazyGroup, commands_in=_COMMANDS)
def store_command() -> None:
    """Look after a store: publish, list, verify, prune, convert.

    It is the bottom-most store of the symbol path, or the one that --store names. Any number of processes may use it
    at the same time.
    """


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--two-tier", is_flag=True, help="Put a folder of two letters above each name, for very large stores.")
@click.option(
    "--shared",
    "group",
    metavar="GROUP",
    help="Let every user of GROUP (name or number) fill it; also for a store that is there already.",
)
@settings_options(json=False)
def init_command(settings: Settings, folder: Path | None, two_tier: bool, group: str | None) -> None:
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
