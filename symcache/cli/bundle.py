"""``symcache export`` and ``symcache import``, and what inputs need as far as it can be told without a network."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from click.exceptions import Exit

from symcache.cli.options import (
    Settings,
    Wish,
    WishCommand,
    output_option,
    settings_options,
    source_options,
    wish_options,
)
from symcache.cli.output import (
    blot,
    empty_text,
    gather,
    say_error,
    show_ticker,
    unreadable_json,
    write_line,
    write_store_json,
)
from symcache.cli.store import find_store, open_store
from symcache.errors import InputError, UsageError
from symcache.identity import ImageKey, filed_keys, parse_index, published_keys
from symcache.reports.lines import count_text, size_text
from symcache.reports.text import narrowed_text, unreadable_text
from symcache.stores.base import Form
from symcache.stores.check import StoredCheck
from symcache.stores.disk import DiskSource
from symcache.stores.results import Cause, Failed, Hint, Missing, Present
from symcache.upkeep.bundle import Outcome, export_bundle, import_bundle
from symcache.upkeep.inventory import read_listing
from symcache.warm.local import LocalRun
from symcache.warm.plan import FileKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from symcache.identity import Key
    from symcache.inputs.detect import InputSource
    from symcache.inputs.records import Narrowed, ProcessSelection, Unreadable
    from symcache.stores.base import Stored
    from symcache.stores.bundle import BundledFile
    from symcache.stores.links import Link
    from symcache.stores.local.tree import Store
    from symcache.upkeep.bundle import Exported, Imported
    from symcache.warm.plan import Plan
    from symcache.warm.report import Symbol


class Needs(NamedTuple):
    """What inputs need."""

    keys: Sequence[Key]
    """Files that are known by their keys, once each; a kernel or HAL by the one that the store has it under."""
    images: Sequence[ImageKey]
    """Images that are known while their PDBs are not, because they have not been read yet."""
    nameless: Sequence[str]
    """What cannot be named at all, each in one line."""
    unreadable: Sequence[Unreadable]
    links: Mapping[ImageKey, tuple[Link, ...]]
    """What images name, of those whose PDB is known by the image alone."""
    is_empty: bool
    narrowed: Narrowed | None
    differing: Mapping[Key, str]
    """Why those of *keys* that a lock file states are not the ones that the store has."""


def find_needs(
    source: DiskSource,
    inputs: Sequence[InputSource],
    plan: Plan,
    processes: ProcessSelection | None,
    sets: Sequence[str] = (),
) -> Needs:
    """Return what `symcache warm` would fetch for *inputs*; raises what the store raises."""
    find = anywhere(source)
    with LocalRun(source, plan) as run:
        report = run.check(run.open_inputs(inputs, processes, sets))
    keys: list[Key] = []
    nameless: list[str] = []
    differing: dict[Key, str] = {}
    for symbol in report.symbols:
        key = None if symbol.index is None else parse_index(symbol.index)
        if symbol.cause is Cause.KNOWN_MISSING:
            continue  # the lock file has it as missing, and asks for nothing
        if key is None:
            nameless.append(f"{symbol.module}: {symbol.reason or symbol.cause}")
        elif _is_file(symbol, key):
            # A kernel, HAL or driver of the crash goes by the one of its names that the store has it under.
            names = published_keys(key) if isinstance(key, ImageKey) else ()
            keys.append(next((name for name in names if find(name) is not None), key))
            keys += [name for name in filed_keys(key)[1:] if find(name) is not None]
            if isinstance(symbol.outcome, Failed) and symbol.outcome.hint is Hint.OTHER_BYTES:
                differing[keys[-1]] = symbol.reason or str(symbol.outcome.hint)
    return Needs(
        keys, list(run.unnamed), nameless, report.unreadable, run.links, report.is_empty, report.narrowed, differing
    )


def anywhere(source: DiskSource) -> Callable[[Key], Stored | None]:
    """Return what looks for a file in every place of the symbol path that is read without a server.

    The first is the store that debuggers open files from, which has the say; a pointer counts where nothing else is.
    """
    places = list(dict.fromkeys(place for chain in source.chains for place in chain.stores if place.is_on_disk))

    def find(key: Key) -> Stored | None:
        pointer: Stored | None = None
        for place in places:
            stored = place.find(key)
            if stored is not None and stored.form is not Form.POINTER:
                return stored
            pointer = pointer or stored
        return pointer

    return find


def _is_file(symbol: Symbol, key: Key) -> bool:
    if symbol.kind is FileKind.PDB and isinstance(key, ImageKey):
        return False  # a PDB that is known by its image alone
    outcome = symbol.outcome
    return isinstance(outcome, Present | Failed) or (isinstance(outcome, Missing) and outcome.cause is Cause.NOT_CACHED)


@click.command(cls=WishCommand)
@source_options(required=False)
@output_option("The bundle to write; a zip archive.")
@click.option(
    "--without",
    "listing",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="LIST",
    help="Leave out what another store has; LIST is what `symcache store list --files` prints there, or with --json.",
)
@wish_options("Take")
@settings_options()
def export_command(
    settings: Settings,
    inputs: tuple[InputSource, ...],
    sets: tuple[str, ...],
    output: Path,
    listing: Path | None,
    wish: Wish,
) -> None:
    """Pack what the inputs need and the store has into FILE, or the whole store; say what is missing.

    What only a bucket, another folder or a bundle of the symbol path has of it goes into FILE, too. INPUT is what
    `symcache warm` takes. The bundle goes to another machine, and into its store by `symcache import`.
    """
    config = settings.load()
    without = set() if listing is None else _read_listing(listing)
    needs: Needs | None = None
    find: Callable[[Key], Stored | None] | None = None
    open_own = open_store
    with ExitStack() as opened:
        if inputs:
            source = opened.enter_context(closing(DiskSource(config)))
            needs = find_needs(source, inputs, wish.plan, wish.processes, sets)
            find = anywhere(source)
            if source.buckets or source.bundles:
                open_own = find_store  # all of it may come from there
        store = opened.enter_context(open_own(config))
        exported = _export(store, output, needs, without, settings, find)
    missing = list(_missing(needs, exported))
    unreadable = () if needs is None else needs.unreadable
    if settings.as_json:
        fields = exported.as_json()
        del fields["not_carried"]
        fields["missing"] = [{"index": index, "why": why} for index, why in missing]
        write_store_json("export", store, **fields, unreadable=unreadable_json(unreadable))
    else:
        for index, why in missing:
            write_line(f"missing: {index or '-'}: {why}")
        if not settings.quiet:
            left_out = f"; {exported.left_out} left out, which the other store has" if exported.left_out else ""
            write_line(f"{output}: {count_text(exported.files, 'file')}, {size_text(exported.size_bytes)}{left_out}")
    if exported.dropped_links:
        images = count_text(exported.dropped_links, "image")
        settings.note(f"no room in the bundle for which PDBs {images} name")
    if needs is not None and needs.narrowed is not None:
        settings.note(narrowed_text(needs.narrowed))
    for item in unreadable:
        say_error(unreadable_text(item))
    is_empty = needs is not None and needs.is_empty and not wish.allow_empty
    if is_empty and needs is not None:
        say_error(empty_text(needs.narrowed))
    raise Exit(4 if unreadable or is_empty else 3 if missing and not wish.allow_missing else 0)


def _read_listing(path: Path) -> set[str]:
    try:
        return read_listing(path)
    except InputError as error:
        raise UsageError(f"{path}: {error}") from error


def _export(
    store: Store,
    output: Path,
    needs: Needs | None,
    without: set[str],
    settings: Settings,
    find: Callable[[Key], Stored | None] | None,
) -> Exported:
    count = size = 0
    with show_ticker(quiet=settings.quiet) as show:

        def tell(file: BundledFile) -> None:
            nonlocal count, size
            count, size = count + 1, size + file.size_bytes
            show(f"{count_text(count, 'file')}, {size_text(size)}  {file.key.name}")

        if needs is None:
            return export_bundle(store, output, without=without, on_file=tell)
        keys = [key for key in needs.keys if key not in needs.differing]
        return export_bundle(store, output, keys, without=without, links=needs.links, find=find, on_file=tell)


def _missing(needs: Needs | None, exported: Exported) -> Iterator[tuple[str | None, str]]:
    """Yield index and reason of what the bundle lacks; no index for what cannot be named."""
    reported: set[str] = set()
    for each in exported.not_carried:
        key = parse_index(each.index)
        # A driver and its copy for crash dumps are one file: a line for each would count it twice.
        names = {name.folded for name in published_keys(key)} if isinstance(key, ImageKey) else {key.folded}
        if reported.isdisjoint(names):
            yield each.index, each.why
        reported |= names
    if needs is None:
        return
    for key, why in needs.differing.items():
        yield key.index, why
    for image in needs.images:
        if image.folded not in reported:  # that an image is not there tells why its PDB is not known
            yield image.index, "its PDB is not known: the image has not been read yet"
    for text in needs.nameless:
        yield None, text


@click.command()
@click.argument("bundles", metavar="FILE...", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@settings_options()
def import_command(settings: Settings, bundles: tuple[Path, ...]) -> None:
    """Import bundles of `symcache export` into the store; each file is verified before it is published.

    Exit code 1: the disk did not take a file; 4: a bundle cannot be read, or a file in it is not what it says; 3: the
    store has another file under a key already, which stays.
    """
    results: list[Imported] = []
    unreadable: list[tuple[str, str]] = []
    with find_store(settings.load()) as store, show_ticker(quiet=settings.quiet) as show:
        for bundle in bundles:
            imported = import_bundle(store, bundle, StoredCheck(store))
            try:
                gather(
                    imported, results, show, lambda each: f"{count_text(len(results), 'file')}  {each.file.key.name}"
                )
            except InputError as error:
                unreadable.append((blot(str(bundle)), str(error)))
    counts = Counter(each.outcome for each in results)
    if settings.as_json:
        write_store_json(
            "import",
            store,
            summary={outcome.value: counts[outcome] for outcome in Outcome},
            files=[each.as_json() for each in results],
            unreadable=[{"path": path, "problem": problem} for path, problem in unreadable],
        )
    else:
        _write_imported(store, results, counts, settings)
    for path, problem in unreadable:
        say_error(f"{path}: {problem}")
    is_damaged = bool(unreadable or counts[Outcome.REFUSED])
    raise Exit(1 if counts[Outcome.FAILED] else 4 if is_damaged else 3 if counts[Outcome.DIFFERS] else 0)


def _write_imported(store: Store, results: Sequence[Imported], counts: Counter[Outcome], settings: Settings) -> None:
    for each in results:
        if each.problem is not None or settings.verbose:
            write_line(str(each))
    if not settings.quiet:
        taken, kept = counts[Outcome.IMPORTED], counts[Outcome.KEPT]
        size = size_text(sum(each.file.size_bytes for each in results if each.outcome is Outcome.IMPORTED))
        differing = counts[Outcome.DIFFERS]
        left = len(results) - taken - kept - differing
        rest = "".join(
            f", {count} {said}"
            for count, said in ((kept, "there already"), (differing, "there with other bytes"), (left, "not"))
            if count
        )
        write_line(f"{count_text(taken, 'file')} imported ({size}){rest}; store: {store.root}")
