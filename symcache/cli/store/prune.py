"""``symcache store prune``."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import (
    count_text,
    parse_age,
    parse_size,
    plain,
    say,
    size_text,
    write_json,
    write_line,
    write_table,
)
from symcache.cli.progress import show_ticker
from symcache.errors import UsageError
from symcache.upkeep.inventory import find_quarantined, take_inventory
from symcache.upkeep.prune import Limits, carry_out, plan_prune

if TYPE_CHECKING:
    from symcache.stores.local.tree import Store
    from symcache.upkeep.prune import Eviction, Pruned, PrunePlan

__all__ = ["command"]


@click.command()
@click.option(
    "--max-size",
    type=parse_size,
    metavar="SIZE",
    help="Largest size of the store (20GB); least recently used files go first.",
)
@click.option("--max-age", type=parse_age, metavar="TIME", help="Remove files published longer ago (90d).")
@click.option("--unused-for", type=parse_age, metavar="TIME", help="Remove files not used for this time (30d).")
@click.option(
    "--quarantined-for",
    type=parse_age,
    metavar="TIME",
    help="Remove files that have been in quarantine for this time (30d).",
)
@click.option("--include-transactions", is_flag=True, help="Also remove files that belong to transactions.")
@click.option("--dry-run", is_flag=True, help="Only print what would be removed.")
@json_option
@settings_options
def command(
    settings: Settings,
    max_size: int | None,
    max_age: float | None,
    unused_for: float | None,
    quarantined_for: float | None,
    include_transactions: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Remove files until the store is within the limits; pinned files and those of transactions stay.

    Other processes may use the store at the same time. Exit code 3: the store is still larger than --max-size, because
    the rest may not go.
    """
    if max_size is max_age is unused_for is quarantined_for is None:
        raise UsageError("say what may go: --max-size, --max-age, --unused-for or --quarantined-for")
    limits = Limits(max_size, max_age, unused_for, include_transactions)
    with open_store(settings.load()) as store:
        plan = _decide(store, limits, quarantined_for)
        pruned = None if dry_run else _carry_out(store, plan, settings)
    if as_json:
        done = None if pruned is None else pruned.as_json()
        write_json({"schema": "symcache.prune/1", "store": str(store.root), "plan": plan.as_json(), "pruned": done})
    else:
        _write_text(plan, pruned, quiet=settings.quiet)
    if plan.over_bytes and not settings.quiet:
        say(f"the store stays {size_text(plan.over_bytes)} above --max-size: the rest is pinned or in transactions")
    raise click.exceptions.Exit(3 if plan.over_bytes else 0)


def _decide(store: Store, limits: Limits, quarantined_for: float | None) -> PrunePlan:
    now_s = time.time()
    quarantined = () if quarantined_for is None else find_quarantined(store, older_than_s=quarantined_for, now_s=now_s)
    return plan_prune(take_inventory(store), limits, now_s=now_s, quarantined=quarantined)


def _carry_out(store: Store, plan: PrunePlan, settings: Settings) -> Pruned:
    removed = 0
    with show_ticker(quiet=settings.quiet) as show:

        def count(eviction: Eviction) -> None:
            nonlocal removed
            removed += 1
            show(f"{removed} of {count_text(len(plan.evictions), 'key')}  {eviction.candidate.key.name}")

        return carry_out(store, plan, on_removed=count)


def _write_text(plan: PrunePlan, pruned: Pruned | None, *, quiet: bool) -> None:
    if pruned is None:
        evictions = plan.evictions
        write_table([each.candidate.key.index, size_text(each.candidate.size_bytes), each.reason] for each in evictions)
        write_table([str(each.path), size_text(each.size_bytes), "in quarantine"] for each in plan.quarantined)
        gone = f"would go: {count_text(len(evictions), 'key')}, {size_text(plan.freed_bytes)}"
    else:
        for each in pruned.skipped:
            write_line(plain(f"{each.index}: stays: {each.why}"))
        gone = f"gone: {count_text(pruned.removed_keys, 'key')}, {size_text(pruned.freed_bytes)}"
    if not quiet:
        protected = f", {size_text(plan.protected_bytes)} of it protected" if plan.protected_bytes else ""
        stays = f"{count_text(plan.kept_keys, 'key')}, {size_text(plan.kept_bytes)}{protected}"
        write_line(f"{gone}; {'stay' if pruned is None else 'left'}: {stays}")
