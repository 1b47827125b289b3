"""``symcache store``: ``stats``, ``verify``, ``prune``, ``pin``, ``unpin``, ``pins`` and ``convert``."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from itertools import count
from typing import TYPE_CHECKING

import click
from click.exceptions import Exit

from symcache.cli.options import Settings, complete_files, process_options, settings_options
from symcache.cli.output import (
    TWO_TIER_NOTE,
    gather,
    notes_alone,
    parse_age,
    parse_size,
    say,
    say_error,
    show_ticker,
    write_line,
    write_store_json,
    write_table,
)
from symcache.cli.store import find_bucket, open_store
from symcache.errors import UsageError
from symcache.identity import Tier
from symcache.reports.lines import count_text, size_text
from symcache.reports.text import unreadable_text
from symcache.stores.check import StoredCheck
from symcache.stores.results import Failed, Fetched, Missing, Present
from symcache.upkeep.checkpoint import Progress
from symcache.upkeep.filechecks import DeepCheck, why_private
from symcache.upkeep.inventory import Pins, find_quarantined, take_inventory
from symcache.upkeep.prune import Limits, carry_out, plan_prune
from symcache.upkeep.repair import convert, repair
from symcache.upkeep.stats import collect_stats, dedupe, find_duplicates
from symcache.upkeep.verify import verify

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from symcache.cli.bundle import Needs
    from symcache.config import Config
    from symcache.identity import Key
    from symcache.inputs.records import ProcessSelection
    from symcache.stores.bucket.objects import Bucket
    from symcache.stores.local.tree import Store
    from symcache.upkeep.problems import Problem
    from symcache.upkeep.prune import Eviction, Pruned, PrunePlan
    from symcache.upkeep.repair import Repaired
    from symcache.upkeep.stats import Duplicates, Shared, Stats

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
@settings_options()
def stats_command(settings: Settings, largest: int, duplicates: bool, links: bool) -> None:
    """Count the files and bytes of the store, by name and by form."""
    config, bucket = find_bucket(settings)
    if bucket is not None:
        from symcache.cli.bucket import show_bucket_stats  # noqa: PLC0415 - few stores are one

        if duplicates or links:
            raise UsageError("--duplicates and --dedupe are for stores on disk, not for a bucket")
        show_bucket_stats(settings, bucket, largest)
        return
    groups: list[Duplicates] = []
    shared: list[Shared] = []
    with open_store(config) as store, show_ticker(quiet=settings.quiet) as show:
        show("counting")
        stats = collect_stats(store, largest=largest)
        if duplicates or links:
            gather(find_duplicates(store), groups, show, lambda _: f"{count_text(len(groups), 'group')} of equal files")
        if links:
            gather(dedupe(store, groups), shared, show, lambda _: f"{count_text(len(shared), 'file')} looked at")
    if settings.as_json:
        fields = stats.as_json()
        fields["duplicates"] = [each.as_json() for each in groups] if duplicates or links else None
        fields["others"] = None
        fields["shared"] = [each.as_json() for each in shared] if links else None
        write_store_json("stats", store, **fields)
    else:
        write_stats(f"{store.root} ({'two' if stats.tier == 2 else 'single'}-tier)", stats)
        if duplicates or links:
            _write_duplicates(groups, store.root)
        if links:
            _write_shared(shared, store.root)
    raise Exit(1 if any(each.means is None for each in shared) else 0)


def write_stats(name: str, stats: Stats, *, is_on_disk: bool = True) -> None:
    """Write the numbers of the store that is called *name*."""
    rows = [
        ["store", name],
        ["files", f"{stats.total.files}, {size_text(stats.total.size_bytes)}"],
        *(["", f"{form}: {each.files}, {size_text(each.size_bytes)}"] for form, each in sorted(stats.by_kind.items())),
        ["keys", f"{stats.keys} of {count_text(stats.names, 'name')}"],
    ]
    if stats.empty_keys:
        rows.append(["", f"and {count_text(stats.empty_keys, 'folder')} without a file"])
    if is_on_disk:
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
        write_line(f"{len(group.files)} times {size_text(group.size_bytes)}, {group.copies} on the disk")
        write_table(["", path.relative_to(root).as_posix()] for path, _, _ in group.files)
    wasted = sum(group.wasted_bytes for group in groups)
    write_line(f"{count_text(len(groups), 'group')} of equal files, {size_text(wasted)} to be gained")


def _write_shared(shared: Sequence[Shared], root: Path) -> None:
    left = [each for each in shared if each.means is None]
    for each in left:
        write_line(f"{each.path.relative_to(root).as_posix()}: left: {each.problem}")
    write_line(f"{count_text(len(shared) - len(left), 'file')} now share their space with another")


@click.command()
@click.option("--deep", is_flag=True, help="Look into the streams of PDBs, too; needs pdbparse.")
@click.option("--hashes", is_flag=True, help="Read all of a bucket, and compare it with the SHA-256 that it states.")
@click.option("--no-private", is_flag=True, help="Report PDBs that hold private symbols, too.")
@click.option(
    "--repair",
    "mends",
    is_flag=True,
    help="Move bad files into quarantine and fetch them again; those of a bucket are moved only.",
)
@click.option(
    "--resume/--restart", default=True, help="Continue where the last run was interrupted (default), or start over."
)
@settings_options()
def verify_command(settings: Settings, deep: bool, hashes: bool, no_private: bool, mends: bool, resume: bool) -> None:
    """Check that every file is whole, matches its key, and lies where debuggers look; check 000Admin, too.

    Exit code 0: nothing is wrong, or all of it was repaired; 1: a file could not be fetched this time; 3: no store or
    server of the symbol path has it; 4: something is wrong and was left.
    """
    config, bucket = find_bucket(settings)
    if bucket is not None:
        from symcache.cli.bucket import verify_and_repair  # noqa: PLC0415 - few stores are one

        verify_and_repair(settings, bucket, deep=deep, hashes=hashes, no_private=no_private, mends=mends, resume=resume)
    if hashes:
        raise UsageError("--hashes is for a bucket: a store on disk states none")
    look_deeper = DeepCheck() if deep else None
    scope = " ".join(["identity", *(["deep"] if deep else []), *(["no-private"] if no_private else [])])
    findings: list[Problem] = []
    mended: list[Repaired] | None = [] if mends else None
    seen = Progress()
    with open_store(config) as store:
        check = StoredCheck(store) if look_deeper is None else StoredCheck(store, look_deeper)
        policy = StoredCheck(store, why_private) if no_private else None
        with show_ticker(quiet=settings.quiet) as show:

            def advance(progress: Progress) -> None:
                nonlocal seen
                seen = progress
                show(f"{files_text(seen)}, {seen.problems} wrong  {seen.at}")

            findings.extend(verify(store, check, policy=policy, scope=scope, resume=resume, on_progress=advance))
        code = 4 if findings else 0
        if mended is not None:
            code = _mend(config, settings, store, findings, mended)
    passed_over = 0 if look_deeper is None else look_deeper.passed_over
    results = findings if mended is None else mended
    if settings.as_json:
        write_store_json(
            "verify",
            store,
            keys=seen.keys,
            bytes=seen.size_bytes,
            passed_over=passed_over,
            others=None,
            findings=[each.as_json() for each in results],
        )
    else:
        for each in results:
            write_line(str(each))
        if not settings.quiet:
            write_line(f"{files_text(seen)}: {verdict(findings, mended, passed_over)}")
    raise Exit(code)


def files_text(progress: Progress) -> str:
    """Return how far a verification has come, in words."""
    return f"{count_text(progress.keys, 'key')}, {size_text(progress.size_bytes)}"


def verdict(findings: Sequence[Problem], mended: Sequence[Repaired] | None, passed_over: int) -> str:
    """Return what a verification found and mended, in words."""
    wrong = f"{count_text(len(findings), 'thing')} wrong" if findings else "nothing is wrong"
    if findings and mended is not None:
        wrong += f", {sum(each.repaired for each in mended)} mended"
    return wrong + (f"; {count_text(passed_over, 'PDB')} not looked into beyond identity" if passed_over else "")


def _mend(config: Config, settings: Settings, store: Store, findings: Sequence[Problem], mended: list[Repaired]) -> int:
    """Repair what was found along the symbol path, and keep what came of each; return the exit code."""
    if not findings:
        return 0
    from anyio.from_thread import start_blocking_portal  # noqa: PLC0415 - dearer than many a verification

    from symcache.stores.source import SymbolSource  # noqa: PLC0415

    source = SymbolSource(config, observer=notes_alone(quiet=settings.quiet))
    ends: Counter[type] = Counter()

    def fetch(key: Key) -> str | None:
        """Return why the file of *key* is not in the store; None if it is."""
        outcome = portal.call(source.fetch, key)
        if isinstance(outcome, Present | Fetched):
            if outcome.path.is_relative_to(store.root):
                return None
            ends[Missing] += 1
            return f"debuggers open it in {outcome.path}"
        ends[type(outcome)] += 1
        return outcome.detail or outcome.cause.value

    with (
        start_blocking_portal() as portal,
        portal.wrap_async_context_manager(source),
        show_ticker(quiet=settings.quiet) as show,
    ):
        gather(
            repair(store, findings, fetch=fetch),
            mended,
            show,
            lambda each: f"{len(mended)} of {len(findings)} repaired  {each.problem.path}",
        )
    if ends[Failed]:
        say("some files could not be fetched; run it again")
    left = sum(not each.repaired for each in mended)
    return 1 if ends[Failed] else 4 if left > ends[Missing] else 3 if left else 0


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
@settings_options()
def prune_command(
    settings: Settings,
    max_size: int | None,
    max_age: float | None,
    unused_for: float | None,
    quarantined_for: float | None,
    include_transactions: bool,
    dry_run: bool,
) -> None:
    """Remove files until the store is within the limits; pinned files and those of transactions stay.

    Other processes may use the store at the same time. Exit code 3: the store is still larger than --max-size, because
    the rest may not go.
    """
    if max_size is max_age is unused_for is quarantined_for is None:
        raise UsageError("say what may go: --max-size, --max-age, --unused-for or --quarantined-for")
    limits = Limits(max_size, max_age, unused_for, include_transactions)
    config, bucket = find_bucket(settings)
    place: Store | Bucket
    if bucket is not None:
        from symcache.cli.bucket import prune_objects  # noqa: PLC0415 - few stores are one

        place = bucket
        plan, pruned = prune_objects(settings, bucket, limits, quarantined_for, dry_run=dry_run)
    else:
        with open_store(config) as place:
            plan, pruned = _prune(settings, place, limits, quarantined_for, dry_run=dry_run)
    if settings.as_json:
        write_store_json("prune", place, plan=plan.as_json(), pruned=None if pruned is None else pruned.as_json())
    else:
        _write_pruned(plan, pruned, quiet=settings.quiet)
    if plan.over_bytes:
        over = size_text(plan.over_bytes)
        settings.note(f"the store stays {over} above --max-size: the rest is pinned or in transactions")
    raise Exit(3 if plan.over_bytes else 0)


def _prune(
    settings: Settings, store: Store, limits: Limits, quarantined_for: float | None, *, dry_run: bool
) -> tuple[PrunePlan, Pruned | None]:
    now_s = time.time()
    bad = () if quarantined_for is None else find_quarantined(store, older_than_s=quarantined_for, now_s=now_s)
    plan = plan_prune(take_inventory(store), limits, now_s=now_s, quarantined=bad)
    if dry_run:
        return plan, None
    with show_ticker(quiet=settings.quiet) as show:
        return plan, carry_out(store, plan, on_removed=show_removed(plan, show))


def show_removed(plan: PrunePlan, show: Callable[[str], None]) -> Callable[[Eviction], None]:
    """Return what shows how much of *plan* is done, called for each key that was removed."""
    gone, all_keys = count(1), count_text(len(plan.evictions), "key")
    return lambda each: show(f"{next(gone)} of {all_keys}  {each.candidate.key.name}")


def _write_pruned(plan: PrunePlan, pruned: Pruned | None, *, quiet: bool) -> None:
    if pruned is None:
        evictions = plan.evictions
        write_table([each.candidate.key.index, size_text(each.candidate.size_bytes), each.reason] for each in evictions)
        write_table([str(each.path), size_text(each.size_bytes), "in quarantine"] for each in plan.quarantined)
        gone = f"would go: {count_text(len(evictions), 'key')}, {size_text(plan.freed_bytes)}"
    else:
        for each in pruned.skipped:
            write_line(f"{each.index}: stays: {each.why}")
        gone = f"gone: {count_text(pruned.removed_keys, 'key')}, {size_text(pruned.freed_bytes)}"
    if not quiet:
        protected = f", {size_text(plan.protected_bytes)} of it protected" if plan.protected_bytes else ""
        stays = f"{count_text(plan.kept_keys, 'key')}, {size_text(plan.kept_bytes)}{protected}"
        write_line(f"{gone}; {'stay' if pruned is None else 'left'}: {stays}")


_PINS_HELP = "everything that INPUT needs: a dump, an image, a folder, a manifest."


@click.command()
@click.argument("pins", metavar="[PIN]...", nargs=-1)
@click.option(
    "--for", "inputs", metavar="INPUT", multiple=True, shell_complete=complete_files, help=f"Pin {_PINS_HELP}"
)
@process_options
@settings_options()
def pin_command(
    settings: Settings, pins: tuple[str, ...], inputs: tuple[str, ...], selection: ProcessSelection | None
) -> None:
    """Keep files from being pruned, whether the store has them yet or not.

    PIN is an index, a file name, or a module's name without extension; the last two may have * and ?. nt and hal mean
    all that debuggers call so.
    """
    config = settings.load()
    wanted, needs = _pins_of(config, pins, inputs, selection)
    with open_store(config) as store:
        before = set(Pins(store).list())
        added = [pin for pin in dict.fromkeys(Pins(store).add_all(wanted)) if pin not in before]
        _write_pins(store, None if settings.as_json else f"{count_text(len(added), 'pin')} added")
    raise Exit(_exit_code(needs, settings))


@click.command()
@click.argument("pins", metavar="[PIN]...", nargs=-1)
@click.option(
    "--for", "inputs", metavar="INPUT", multiple=True, shell_complete=complete_files, help=f"Unpin {_PINS_HELP}"
)
@click.option("--all", "everything", is_flag=True, help="Unpin everything.")
@process_options
@settings_options()
def unpin_command(
    settings: Settings,
    pins: tuple[str, ...],
    inputs: tuple[str, ...],
    everything: bool,
    selection: ProcessSelection | None,
) -> None:
    """Let pinned files be pruned again. PIN is as `store pins` shows it."""
    if everything and (pins or inputs):
        raise UsageError("--all leaves nothing else to name")
    config = settings.load()
    wanted, needs = ([], None) if everything else _pins_of(config, pins, inputs, selection)
    with open_store(config) as store:
        removed = Pins(store).remove_all(Pins(store).list() if everything else wanted)
        _write_pins(store, None if settings.as_json else f"{count_text(removed, 'pin')} removed")
    raise Exit(3 if pins and not removed else _exit_code(needs, settings))


@click.command()
@settings_options()
def pins_command(settings: Settings) -> None:
    """List what is pinned, oldest first."""
    with open_store(settings.load()) as store:
        if settings.as_json:
            _write_pins(store)
            return
        pins = Pins(store).list()
    for pin in pins:
        write_line(pin)
    if not pins:
        settings.note("nothing is pinned")


def _pins_of(
    config: Config, pins: tuple[str, ...], inputs: tuple[str, ...], selection: ProcessSelection | None
) -> tuple[list[str], Needs | None]:
    """Return all that is named and that *inputs* need, and what is known of their needs."""
    if not pins and not inputs:
        raise UsageError("name what is meant: PIN, or --for INPUT")
    if not inputs:
        return list(pins), None
    # The readers cost more than all else here.
    from symcache.cli.bundle import find_needs  # noqa: PLC0415
    from symcache.stores.disk import DiskSource  # noqa: PLC0415
    from symcache.warm.plan import ImageChoice, Plan  # noqa: PLC0415

    with closing(DiskSource(config)) as source:
        needs = find_needs(source, inputs, Plan(images=ImageChoice.ALL, all_pdbs=True), selection)
    return [*pins, *(key.index for key in (*needs.keys, *needs.images))], needs


def _exit_code(needs: Needs | None, settings: Settings) -> int:
    """Say what of *needs* is not known; return how the command ends."""
    if needs is None:
        return 0
    for item in needs.unreadable:
        say_error(unreadable_text(item))
    unknown = [*(f"{key.index}: its PDB is not known before it is warmed" for key in needs.images), *needs.nameless]
    for text in unknown:
        settings.note(text)
    return 4 if needs.unreadable else 3 if unknown else 0


def _write_pins(store: Store, line: str | None = None) -> None:
    """Write *line*, or all pins as a document."""
    if line is None:
        write_store_json("pins", store, pins=list(Pins(store).list()))
    else:
        write_line(line)


@click.command()
@click.option("--two-tier", "tier", flag_value=2, type=int, help="Put a folder of two letters above each name.")
@click.option("--single-tier", "tier", flag_value=1, type=int, help="Remove those folders.")
@settings_options()
def convert_command(settings: Settings, tier: int | None) -> None:
    """Convert the store to the other layout, or finish an interrupted conversion.

    It may be interrupted at any time. symcache finds every file during the conversion; debuggers that open the store
    directly find only the files that have moved.
    """
    if tier is None:
        raise UsageError("say which layout: --two-tier or --single-tier")
    with open_store(settings.load()) as store, show_ticker(quiet=settings.quiet) as show:
        converted = convert(store, Tier(tier), on_moved=lambda folder: show(f"moved  {folder.name}"))
    if settings.as_json:
        write_store_json("convert", store, **converted.as_json())
        return
    layout = "two-tier" if converted.tier is Tier.TWO else "single-tier"
    merged = f", {count_text(converted.merged, 'key')} merged" if converted.merged else ""
    quarantined = f", {count_text(converted.quarantined, 'file')} into quarantine" if converted.quarantined else ""
    moved = count_text(converted.moved, "folder")
    write_line(f"{store.root} is {layout} now: {moved} moved{merged}{quarantined}")
    if converted.tier is Tier.TWO:
        say(TWO_TIER_NOTE)
