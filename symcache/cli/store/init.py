"""``symcache store init``."""

from __future__ import annotations

from pathlib import Path

import click

from symcache.cli.openstore import find_store
from symcache.cli.options import Settings, settings_options
from symcache.cli.output import TWO_TIER_NOTE, plain, say, write_line
from symcache.errors import UsageError
from symcache.identity import Tier, fold
from symcache.stores.local.tree import Store

__all__ = ["command"]

_MARKS = {"pingme.txt", "index2.txt", "000admin"}


@click.command()
@click.argument("folder", metavar="[DIR]", type=click.Path(path_type=Path, file_okay=False), required=False)
@click.option("--two-tier", is_flag=True, help="Put a folder of two letters above each name, for very large stores.")
@settings_options
def command(settings: Settings, folder: Path | None, two_tier: bool) -> None:
    """Make an empty store in DIR, or where the symbol path has its bottom-most one."""
    config = settings.load()
    store = find_store(config) if folder is None else Store(folder.absolute())
    tier = Tier.TWO if two_tier or config.store.two_tier else Tier.ONE
    names = {fold(path.name) for path in store.root.iterdir()} if store.root.is_dir() else set()
    if names & _MARKS:
        if two_tier and store.tier is not Tier.TWO:
            raise UsageError(f"{store.root} is a single-tier store; `symcache store convert --two-tier` changes that")
        write_line(plain(f"{store.root} is a store already"))
        return
    if names - {".symcache"}:
        raise UsageError(f"{store.root} is not empty, and no store; choose another folder")
    store.create(tier)
    write_line(plain(f"made {'a two-tier' if tier is Tier.TWO else 'a'} store in {store.root}"))
    if tier is Tier.TWO:
        say(TWO_TIER_NOTE)
