"""A run's report as text: what is wanting first, with cause and advice."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from symcache.inputs.records import ImageUse
from symcache.reports.advice import evidence, group_by_cause, made_by, missing_to_tell, what_to_tell
from symcache.reports.lines import count_text, fitted_lines, plain, size_text, table_lines, wrapped
from symcache.reports.readiness import managed_lines, readiness, symbol_path, unread_places
from symcache.stores.results import Fetched, Present
from symcache.warm.report import State

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from symcache.inputs.records import Narrowed, Unreadable
    from symcache.reports.advice import Group
    from symcache.warm.dryrun import DryRun
    from symcache.warm.report import Report, Symbol

_NEEDED_FOR = {
    ImageUse.SYMBOLS: "without which the debugger loads no symbols",
    ImageUse.CODE: "for disassembly and stack unwinding",
    ImageUse.METADATA: "for managed metadata",
    ImageUse.DATA_ACCESS: "for managed debugging",
    ImageUse.BY_HAND: "whose headers were paged out",
}
_LOST = {
    ImageUse.SYMBOLS: "symbols",
    ImageUse.CODE: "code",
    ImageUse.METADATA: "managed metadata",
    ImageUse.DATA_ACCESS: "managed debugging",
    ImageUse.BY_HAND: "symbols",
}


def report_lines(
    report: Report,
    *,
    quiet: bool = False,
    verbose: bool = False,
    width: int | None = None,
    show_path: Callable[[Path], str] = lambda path: plain(str(path)),
) -> Iterator[str]:
    """Yield *report* in lines that are safe for a terminal.

    *show_path* gives the text, safe as well, that stands for the store.
    With *quiet* only what is wanting, with *verbose* every file. A terminal has *width* columns, into which indexes are
    fitted as ``name id``; None for a file or a pipe, whose lines are read by programs, too.
    """
    shown = [symbol for symbol in report.symbols if verbose or symbol.needs_attention]
    blocking = [symbol for symbol in shown if symbol.keeps]
    if blocking:
        count = sum(len(symbol.keeps) for symbol in blocking)
        text = f"will not load: {count_text(count, 'PDB')} in the store - the debugger learns only from a module's"
        yield from wrapped(f"{text} image which PDB it has, and the image is missing", width)
        yield from fitted_lines(
            ([_named(symbol, width), evidence(symbol), f"keeps {', '.join(symbol.keeps)}"] for symbol in blocking),
            width,
        )
        yield ""
    shown = [symbol for symbol in shown if not symbol.keeps]
    for group in group_by_cause(shown):
        yield from _group_lines(group, width)
        yield ""
    if verbose and (found := [symbol for symbol in shown if symbol.is_at_hand]):
        yield from table_lines(_found_row(symbol) for symbol in found)
        yield ""
    for item in report.unreadable:
        yield f"unreadable: {unreadable_text(item)}"
    if not quiet:
        yield from _image_lines(report, width)
        yield from _debugger_lines(report, width)
        yield from wrapped(summary(report), width)
        if report.store is not None:
            yield f"store: {show_path(report.store)}"


def full_lines(report: Report) -> Iterator[str]:
    """Yield *report* in lines with every file, and what to tell the makers of those that are missing."""
    yield from report_lines(report, verbose=True)
    for symbol in missing_to_tell(report.symbols):
        yield ""
        yield from map(plain, what_to_tell(symbol))


def plan_lines(dry_run: DryRun, width: int | None = None) -> Iterator[str]:
    """Yield what a run would fetch, in lines that are safe for a terminal; *width* is that of `report_lines`."""
    report = dry_run.at_hand
    counts = report.count()
    wanted = len(report.symbols) + len(dry_run.files) + dry_run.unnamed
    parts = [f"{counts[State.PRESENT]} present", f"{len(dry_run.files)} to fetch"]
    parts += [f"{dry_run.unnamed} that only their images name"] if dry_run.unnamed else []
    parts += [f"{counts[State.MISSING]} with nothing to ask for"] if counts[State.MISSING] else []
    parts += [f"{counts[State.FAILED]} failed"] if counts[State.FAILED] else []
    yield from wrapped(f"{count_text(wanted, 'file')} wanted: {', '.join(parts)}", width)
    shares = dry_run.shares()
    rows = []
    for share in shares:
        untold = f"and {share.untold} of unknown length" if share.untold else ""
        rows.append([share.server, count_text(share.files, "file"), size_text(share.size_bytes), untold])
    nowhere = "no server to ask" if dry_run.has_no_server else "found on no server"
    unanswered = Counter(dry_run.unanswered)
    absent = dry_run.nowhere - unanswered.total()
    rows += [[nowhere, count_text(absent, "file"), "", ""]] if absent else []
    if unanswered:  # these may be there all the same
        rows.append(["no answer", count_text(unanswered.total(), "file"), "", unanswered.most_common(1)[0][0]])
    rows += [["not asked in time", count_text(dry_run.not_asked, "file"), "", ""]] if dry_run.not_asked else []
    yield from fitted_lines(rows, width)
    if shares:
        is_least = any(share.untold for share in shares) or dry_run.not_asked or dry_run.unnamed
        size = size_text(sum(share.size_bytes for share in shares))
        yield f"{'at least ' if is_least else ''}{size} to transfer; nothing was fetched"
    if report.narrowed is not None:
        yield from wrapped(narrowed_text(report.narrowed), width)
    if report.store is not None:
        yield plain(f"store: {report.store}")


def _group_lines(group: Group, width: int | None) -> Iterator[str]:
    heading = f"{group.state.value}: {group.cause.value} ({len(group.symbols)}) - {group.advice}"
    yield from wrapped(heading, width)
    if group.said:
        yield from wrapped(group.said, width, "  ")
    yield from fitted_lines((_row(symbol, group, width) for symbol in group.symbols), width)
    for maker, server in group.servers.items():
        yield from wrapped(f"{maker} has a public server: --upstream {server}", width, "  ")


def _row(symbol: Symbol, group: Group, width: int | None) -> list[str]:
    lost = "" if symbol.use is None else f"no {_LOST[symbol.use]} without it"
    stack = "on the crash's stack" if symbol.on_stack else ""
    why = "; ".join(filter(None, ("" if group.said else evidence(symbol), lost, stack)))
    return [_named(symbol, width), symbol.module if symbol.index else "", made_by(symbol), why]


def _named(symbol: Symbol, width: int | None) -> str:
    """Return the index of *symbol*, else its module's name; in a terminal without the name's repetition."""
    if symbol.index is None:
        return symbol.module
    name, _, rest = symbol.index.partition("/")
    id_, _, again = rest.partition("/")
    return symbol.index if width is None or again != name else f"{name} {id_}"


def _image_lines(report: Report, width: int | None) -> Iterator[str]:
    """Yield why images are wanted, and what to type for those that a debugger does not look for by itself.

    What is to be typed stays one line however narrow the terminal is, so that it can be copied.
    """
    if report.narrowed is not None:
        yield from wrapped(narrowed_text(report.narrowed), width)
    if report.guesses:
        found = sum(guess.image is not None for guess in report.guesses)
        asked = sum(guess.asked for guess in report.guesses)
        images = count_text(len(report.guesses), "image")
        text = f"{images} of unknown size: {found} found" + (
            f", {count_text(asked, 'possible size')} asked for" if asked else ""
        )
        yield from wrapped(text, width)
    if report.images_left_out:
        images = count_text(report.images_left_out, "image")
        text = f"--images none left out {images} that the debugger will ask for: modules stay without symbols or code"
        yield from wrapped(text, width)
    counts = Counter(symbol.use for symbol in report.symbols if symbol.use is not None)
    if counts:
        reasons = "; ".join(f"{counts[use]} {_NEEDED_FOR[use]}" for use in ImageUse if counts[use])
        text = f"{count_text(counts.total(), 'image')} wanted that the input does not hold: {reasons}"
        yield from wrapped(text, width)
    commands = [symbol.reload for symbol in report.symbols if symbol.reload is not None and symbol.is_at_hand]
    if commands:
        yield "to load their symbols, type in the debugger:"
        yield from (plain(f"  {command}") for command in commands)


def _debugger_lines(report: Report, width: int | None) -> Iterator[str]:
    """Yield what will work in the debugger, and what to type there next, in one line."""
    ready = list(readiness(report))
    for line in (*map(str, ready), *managed_lines(report)):
        yield from wrapped(line, width)
    if ready and (unread := unread_places(report)):
        place = " or ".join(unread)
        text = f"in the debugger: nothing of what lies in {place}, until `symcache warm` has copied it into the store"
        yield from wrapped(text, width)
    elif ready and (path := symbol_path(report)) is not None:
        yield plain(f"in the debugger: .sympath {path}")


def _found_row(symbol: Symbol) -> list[str]:
    outcome = symbol.outcome
    origin = outcome.upstream if isinstance(outcome, Fetched) else ""
    note = outcome.note or "" if isinstance(outcome, Present | Fetched) else ""
    return [symbol.state.value, symbol.index or "", symbol.module, origin, note]


def summary(report: Report) -> str:
    """Return how many files ended in each state, in one line."""
    counts = report.count()
    harmless = counts[State.MISSING] - sum(symbol.is_wanting for symbol in report.symbols)
    missing = f"{counts[State.MISSING]} missing" + (f" ({harmless} with nothing to fetch)" if harmless else "")
    text = (
        f"{len(report.symbols)} wanted: {counts[State.PRESENT]} present, {counts[State.FETCHED]} fetched"
        f" ({size_text(report.fetched_bytes)}), {missing}, {counts[State.FAILED]} failed, in {report.seconds:.1f} s"
    )
    return f"{text}; interrupted" if report.is_interrupted else text


def narrowed_text(narrowed: Narrowed) -> str:
    """Return a line about the modules that sets left out."""
    return plain(f"{count_text(narrowed.modules, 'module')} left out: not in {narrowed.sets}")


def unreadable_text(item: Unreadable) -> str:
    """Return a line about an input that could not be read."""
    return plain(f"{item.path}: {item.problem}" + ("" if item.offset is None else f" (at {item.offset:#x})"))
