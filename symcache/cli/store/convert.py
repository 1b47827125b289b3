"""``symcache store convert``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import TWO_TIER_NOTE, count_text, plain, say, write_json, write_line
from symcache.cli.progress import show_ticker
from symcache.errors import UsageError
from symcache.identity import Tier
from symcache.upkeep.convert import convert

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["command"]


@click.command("convert")
@click.option("--two-tier", "tier", flag_value=2, type=int, help="Put a folder of two letters above each name.")
@click.option("--single-tier", "tier", flag_value=1, type=int, help="Remove those folders.")
@json_option
@settings_options
def command(settings: Settings, tier: int | None, as_json: bool) -> None:
    """Convert the store to the other layout, or finish an interrupted conversion.

    It may be interrupted at any time. symcache finds every file during the conversion; debuggers that open the store
    directly find only the files that have moved.
    """
    if tier is None:
        raise UsageError("say which layout: --two-tier or --single-tier")
    with open_store(settings.load()) as store, show_ticker(quiet=settings.quiet) as show:

        def tell(folder: Path) -> None:
            show(f"moved  {folder.name}")

        converted = convert(store, Tier(tier), on_moved=tell)
    if as_json:
        write_json({"schema": "symcache.convert/1", "store": str(store.root), **converted.as_json()})
        return
    layout = "two-tier" if converted.tier is Tier.TWO else "single-tier"
    merged = f", {count_text(converted.merged, 'key')} merged" if converted.merged else ""
    quarantined = f", {count_text(converted.quarantined, 'file')} into quarantine" if converted.quarantined else ""
    moved = count_text(converted.moved, "folder")
    write_line(plain(f"{store.root} is {layout} now: {moved} moved{merged}{quarantined}"))
    if converted.tier is Tier.TWO:
        say(TWO_TIER_NOTE)
