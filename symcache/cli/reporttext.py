"""The report as text: what is wanting first, each with its cause and what to do, then one line that adds it up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.cli.output import plain, size_text, write_line, write_table
from symcache.upstream.outcome import Cause, Failed, Fetched, Hint, Missing
from symcache.warm.report import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.upstream.outcome import Attempt
    from symcache.warm.report import Report, Symbol

__all__ = ["evidence", "write_report"]

_ADVICE = {
    Cause.UNAVAILABLE: "try again later; symcache goes on where it was",
    Cause.REFUSED: "see credentials ([[server]]) and certificates (network.ca_file) in the config file, or a proxy",
    Cause.WRONG_CONTENT: "what is published under this key is another file; tell its publisher, or try another server",
    Cause.DISK: "make room or mend the rights, then run it again",
    Cause.NOT_PUBLISHED: "no server of the symbol path has it; ask its maker, or add a server that does",
    Cause.REMEMBERED_MISS: "it was not published when last asked; `symcache missing --retry` asks again",
    Cause.NO_IDENTITY: "the input does not hold enough to name it; a fuller dump or the image itself would",
    Cause.IMAGE_NOT_PUBLISHED: "the input names only the image, and no server has that; give the image itself as input",
    Cause.NOT_CACHED: "`symcache warm` with the same inputs fetches it",
    Cause.NO_DEBUG_RECORD: "the image names no PDB; there is nothing to fetch",
    Cause.EMBEDDED: "the PDB lies in the image itself; there is nothing to fetch",
    Cause.EXCLUDED: "exclusions.names in the config file leaves it out",
}

_HINTED = {
    Hint.PAGE: "a page came instead: credentials are needed (see [[server]]), or the server answers misses with 200",
    Hint.POINTER: "the server only says where the file lies; pointers.allow in the config file lets that be followed",
    Hint.LOOP: "servers ask each other in a circle; take one out of the symbol path of another",
}
"""Advice that comes before that of the cause."""


def write_report(report: Report, *, quiet: bool, verbose: bool) -> None:
    """Write *report* to stdout; with *quiet* only what is wanting, with *verbose* every file."""
    shown = [symbol for symbol in report.symbols if verbose or symbol.is_wanting or symbol.state is State.FAILED]
    for cause, advice in _ADVICE.items():
        for hint in (None, *Hint):
            group = [symbol for symbol in shown if (symbol.cause, _hint_of(symbol)) == (cause, hint)]
            if group:
                state = group[0].state.value
                write_line(f"{state}: {cause.value} ({len(group)}) - {advice if hint is None else _HINTED[hint]}")
                write_table(_row(symbol) for symbol in group)
                write_line()
    if verbose:
        found = [symbol for symbol in shown if symbol.cause is None]
        write_table(_found_row(symbol) for symbol in found)
        if found:
            write_line()
    for item in report.unreadable:
        where = "" if item.offset is None else f" (at {item.offset:#x})"
        write_line(plain(f"unreadable: {item.path}: {item.problem}{where}"))
    if not quiet:
        write_line(_summary(report))
        if report.store is not None:
            write_line(plain(f"store: {report.store}"))


def _hint_of(symbol: Symbol) -> Hint | None:
    return symbol.outcome.hint if isinstance(symbol.outcome, Failed) else None


def _row(symbol: Symbol) -> list[str]:
    return ["", symbol.index or symbol.module, symbol.module if symbol.index else "", evidence(symbol)]


def evidence(symbol: Symbol) -> str:
    """Return what every upstream said of a symbol that is missing or failed, else the reason in words.

    Where the disk is to blame, what the places of the symbol path said explains nothing.
    """
    outcome = symbol.outcome
    attempts = outcome.attempts if isinstance(outcome, Missing | Failed) and outcome.cause is not Cause.DISK else ()
    parts = list(_answers(attempts))
    if not parts and symbol.reason is not None:
        parts.append(symbol.reason)
    return "; ".join(parts)


def _answers(attempts: tuple[Attempt, ...]) -> Iterator[str]:
    """Yield what each upstream said, once for each."""
    said: dict[str, list[str]] = {}
    for attempt in attempts:
        answers = said.setdefault(attempt.upstream, [])
        if attempt.answer not in answers:
            answers.append(attempt.answer)
    for upstream, answers in said.items():
        yield f"{upstream}: {', '.join(answers)}"


def _found_row(symbol: Symbol) -> list[str]:
    outcome = symbol.outcome
    origin = outcome.upstream if isinstance(outcome, Fetched) else ""
    note = outcome.note or "" if isinstance(outcome, Fetched) else ""
    return [symbol.state.value, symbol.index or "", symbol.module, origin, note]


def _summary(report: Report) -> str:
    counts = report.count()
    harmless = counts[State.MISSING] - sum(symbol.is_wanting for symbol in report.symbols)
    missing = f"{counts[State.MISSING]} missing" + (f" ({harmless} with nothing to fetch)" if harmless else "")
    text = (
        f"{len(report.symbols)} wanted: {counts[State.PRESENT]} present, {counts[State.FETCHED]} fetched"
        f" ({size_text(report.fetched_bytes)}), {missing}, {counts[State.FAILED]} failed, in {report.seconds:.1f} s"
    )
    return f"{text}; interrupted" if report.is_interrupted else text
