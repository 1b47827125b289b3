"""``symcache store push``, and ``list``, ``stats``, ``verify`` and ``prune`` where the store is a bucket."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import closing
from typing import TYPE_CHECKING, NoReturn

import click
from click.exceptions import Exit

from symcache.cli.options import Settings, settings_options
from symcache.cli.output import gather, say, say_error, show_ticker, write_line, write_store_json, write_table
from symcache.cli.store import check_writable, open_store, write_files
from symcache.cli.upkeep import files_text, show_removed, verdict, write_stats
from symcache.config import bucket_folder
from symcache.errors import UpstreamError, UsageError
from symcache.reports.lines import count_text, size_text
from symcache.stores.disk import DiskSource
from symcache.stores.local.tree import Store
from symcache.upkeep.bucket import (
    ObjectCheck,
    Others,
    collect_bucket_stats,
    find_quarantined_objects,
    list_objects,
    plan_bucket_prune,
    prune_bucket,
    repair_bucket,
    verify_bucket,
)
from symcache.upkeep.checkpoint import Progress
from symcache.upkeep.filechecks import DeepCheck
from symcache.upkeep.inventory import fits_index, list_keys
from symcache.upkeep.push import Pushed, PushState, find_lacking, push

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.identity import Key
    from symcache.stores.bucket.objects import Bucket
    from symcache.upkeep.problems import Problem
    from symcache.upkeep.prune import Limits, Pruned, PrunePlan
    from symcache.upkeep.repair import Repaired


@click.command()
@click.argument("patterns", metavar="[PATTERN]...", nargs=-1)
@click.option("--dry-run", is_flag=True, help="Only print what would be brought there.")
@settings_options()
def push_command(settings: Settings, patterns: tuple[str, ...], dry_run: bool) -> None:
    """Bring what the store on disk has and the bucket lacks into the bucket: the first one of the symbol path.

    PATTERN narrows it to names and indexes of files, with * and ?. Each file is verified first, cabinets are expanded,
    and nothing that is there is replaced. Exit code 1: the bucket did not take a file; 4: a file of the store is not
    what its key names; 3: of a file the store has only a pointer.
    """
    config = settings.load()
    with closing(DiskSource(config)) as source:
        bucket = next(iter(source.buckets), None)
    if bucket is None:
        raise UsageError("the symbol path names no bucket; name it behind a folder: -y 'srv*DIR*s3://bucket/prefix'")
    check_writable(bucket)
    results: list[Pushed] = []
    failure: UpstreamError | None = None
    with open_store(config) as store, show_ticker(quiet=settings.quiet) as show:
        show("comparing")
        keys = [
            key
            for key in list_keys(store)
            if not patterns or any(fits_index(key.name, key.id, pattern) for pattern in patterns)
        ]
        lacking = find_lacking(bucket, keys)
        there = len(keys) - len(lacking)
        if not dry_run:
            try:
                gather(
                    push(store, bucket, lacking),
                    results,
                    show,
                    lambda each: f"{len(results)} of {count_text(len(lacking), 'file')}  {each.key.name}",
                )
            except UpstreamError as error:
                failure = error
        else:
            results += (Pushed(key, PushState.LACKING, _size(store, key)) for key in lacking)
        _write_pushed(settings, store, bucket, there, results)
    if failure is not None:
        say_error(f"{failure}; what was brought there stays, and another run brings the rest")
    counts = Counter(each.state for each in results)
    if failure is not None or counts[PushState.FAILED]:
        raise Exit(1)
    raise Exit(4 if counts[PushState.REFUSED] else 3 if counts[PushState.LEFT] else 0)


def _size(store: Store, key: Key) -> int:
    stored = store.find(key)
    return 0 if stored is None else stored.size_bytes


def _write_pushed(settings: Settings, store: Store, bucket: Bucket, there: int, results: Sequence[Pushed]) -> None:
    counts = Counter(each.state for each in results)
    counts[PushState.THERE] += there
    size = sum(each.size_bytes for each in results if each.state in {PushState.PUSHED, PushState.LACKING})
    if settings.as_json:
        summary = {state.value: counts[state] for state in PushState}
        files = [each.as_json() for each in results]
        write_store_json("push", store, bucket=bucket.name, summary=summary, bytes=size, files=files)
        return
    write_table([each.key.index, size_text(each.size_bytes)] for each in results if each.state is PushState.LACKING)
    for each in results:
        if each.problem is not None or (settings.verbose and each.state is not PushState.LACKING):
            write_line(str(each))
    if not settings.quiet:
        brought = counts[PushState.PUSHED] + counts[PushState.LACKING]
        not_brought = sum(each.problem is not None for each in results)
        rest = "".join(
            f", {number} {said}"
            for number, said in ((counts[PushState.THERE], "there already"), (not_brought, "not"))
            if number
        )
        verb = "lacking in" if counts[PushState.LACKING] else "brought into"
        write_line(f"{count_text(brought, 'file')} {verb} {bucket.name} ({size_text(size)}){rest}")


def list_bucket(settings: Settings, bucket: Bucket, patterns: tuple[str, ...], symbols: str | None) -> None:
    """Write the files of *bucket*, each as it is listed."""
    others = Others()
    found = list_objects(bucket, patterns, reads=symbols is not None, others=others)
    write_files(settings, bucket, (file for file in found if symbols in {None, file.symbols}))
    _note_others(settings, others)


def _note_others(settings: Settings, others: Others) -> None:
    if others.count:
        more = ", …" if others.count > len(others.names) else ""
        settings.note(f"{count_text(others.count, 'object')} no file of a store: {', '.join(others.names)}{more}")


def others_json(others: Others) -> dict[str, object]:
    """Return the field ``others`` of a document."""
    return {"count": others.count, "first": list(others.names)}


def show_bucket_stats(settings: Settings, bucket: Bucket, largest: int) -> None:
    """Count what *bucket* holds."""
    others = Others()
    with show_ticker(quiet=settings.quiet) as show:
        show("counting")
        stats = collect_bucket_stats(bucket, others, largest=largest)
    if settings.as_json:
        nothing = {"duplicates": None, "shared": None}
        write_store_json("stats", bucket, **stats.as_json(), **nothing, others=others_json(others))
    else:
        write_stats(bucket.name, stats, is_on_disk=False)
        _note_others(settings, others)


def verify_and_repair(
    settings: Settings, bucket: Bucket, *, deep: bool, hashes: bool, no_private: bool, mends: bool, resume: bool
) -> NoReturn:
    """Verify *bucket*, and end the command."""
    if mends:
        check_writable(bucket)
    look = DeepCheck() if deep else None
    words = {"deep": deep, "hashes": hashes, "no-private": no_private}
    scope = " ".join(["identity", *(word for word, is_said in words.items() if is_said)])
    findings: list[Problem] = []
    mended: list[Repaired] | None = [] if mends else None
    others = Others()
    seen = Progress()
    with Store(bucket_folder(bucket.name)) as work, show_ticker(quiet=settings.quiet) as show:

        def advance(progress: Progress) -> None:
            nonlocal seen
            seen = progress
            show(f"{files_text(seen)}, {seen.problems} wrong  {seen.at}")

        check = ObjectCheck(bucket, work, look=look, hashes=hashes, no_private=no_private)
        findings.extend(
            verify_bucket(bucket, work, check, scope=scope, resume=resume, others=others, on_progress=advance)
        )
        if mended is not None:
            gather(repair_bucket(bucket, findings), mended, show, lambda each: f"moving  {each.problem.path}")
    results = findings if mended is None else mended
    passed_over = 0 if look is None else look.passed_over
    if settings.as_json:
        fields = {"keys": seen.keys, "bytes": seen.size_bytes, "passed_over": passed_over}
        documents = [each.as_json() for each in results]
        write_store_json("verify", bucket, **fields, findings=documents, others=others_json(others))
    else:
        for each in results:
            write_line(str(each))
        if not settings.quiet:
            write_line(f"{files_text(seen)}: {verdict(findings, mended, passed_over)}")
        _note_others(settings, others)
    if mended:
        say(_HOW_TO_FETCH)
    raise Exit(4 if findings and (mended is None or not all(each.repaired for each in mended)) else 0)


_HOW_TO_FETCH = (
    "to have them again: `symcache store push` for those that a store on disk has, else `symcache fetch INDEX`, with"
    " the bucket in the symbol path"
)


def prune_objects(
    settings: Settings, bucket: Bucket, limits: Limits, quarantined_for: float | None, *, dry_run: bool
) -> tuple[PrunePlan, Pruned | None]:
    """Take away from *bucket* what *limits* say; return what was planned and done."""
    if limits.unused_for_s is not None:
        text = (
            "a bucket notes no use: what is served is noted by the store of each machine. Use --max-age, or the rules"
            " that the bucket itself has for the life of objects"
        )
        raise UsageError(f"--unused-for: {text}")
    if not dry_run:
        check_writable(bucket)
    now_s = time.time()
    with show_ticker(quiet=settings.quiet) as show:
        show("listing")
        bad = (
            ()
            if quarantined_for is None
            else find_quarantined_objects(bucket, older_than_s=quarantined_for, now_s=now_s)
        )
        plan = plan_bucket_prune(bucket, limits, now_s=now_s, quarantined=bad)
        return plan, None if dry_run else prune_bucket(bucket, plan, on_removed=show_removed(plan, show))
