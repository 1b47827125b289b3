"""A run's report as CSV, for spreadsheets, and as Markdown, for tickets and pull requests."""

from __future__ import annotations

import csv
import io
import re
from typing import TYPE_CHECKING

from symcache.reports.advice import (
    advice,
    evidence,
    group_by_cause,
    in_order_of_trouble,
    made_by,
    missing_to_tell,
    what_to_tell,
)
from symcache.reports.lines import plain
from symcache.reports.text import summary, unreadable_text
from symcache.stores.results import Failed, Fetched, Missing, Present

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.warm.report import Report, Symbol

_TOLD = ("state", "cause", "hint", "kind", "module", "on_stack", "index", "maker")
_COLUMNS = (*_TOLD, "path", "upstream", "bytes", "evidence", "advice")
# What a spreadsheet takes for a formula; names come from hostile input. Source: OWASP, "CSV Injection".
_FORMULA = tuple("=+-@\t\r")
_MARKED = re.compile(r"([\\`*_\[\]#|~])")
_LINKED = re.compile(r"(?i):(?=//)|www(?=\.)|@")
_MOST_ROWS = 500


def csv_lines(report: Report) -> Iterator[str]:
    """Yield a line of headings and a line for each file, those in trouble first.

    What a spreadsheet would take for a formula gets an apostrophe in front.
    """
    yield _csv_line(_COLUMNS)
    for symbol in in_order_of_trouble(report.symbols):
        yield _csv_line(_cells(symbol))


def _cells(symbol: Symbol) -> list[str]:
    outcome = symbol.outcome
    found = outcome if isinstance(outcome, Present | Fetched) else None
    hint = outcome.hint if isinstance(outcome, Missing | Failed) else None
    return [
        symbol.state,
        symbol.cause or "",
        hint or "",
        symbol.kind,
        symbol.module,
        "yes" if symbol.on_stack else "",
        symbol.index or "",
        made_by(symbol),
        "" if found is None else found.place,
        outcome.upstream if isinstance(outcome, Fetched) else "",
        "" if found is None else str(found.size_bytes),
        evidence(symbol),
        advice(symbol),
    ]


def _csv_line(cells: Iterable[str]) -> str:
    line = io.StringIO()
    safe = [plain(cell) for cell in cells]
    csv.writer(line, lineterminator="").writerow([f"'{cell}" if cell.startswith(_FORMULA) else cell for cell in safe])
    return line.getvalue()


def markdown_lines(report: Report) -> Iterator[str]:
    """Yield what is wanting, a table for each cause; what is at hand is counted alone, and long tables are cut."""
    yield f"**{_escaped(summary(report))}**"
    for group in group_by_cause(symbol for symbol in report.symbols if symbol.needs_attention):
        yield ""
        yield f"### {_escaped(group.title)} ({len(group.symbols)})"
        yield ""
        yield _escaped(group.advice)
        if group.said:
            yield ""
            yield _escaped(group.said)
        yield ""
        has_evidence = not group.said and any(map(evidence, group.symbols))
        yield "| module | file | maker |" + (" evidence |" if has_evidence else "")
        yield "|---|---|---|" + ("---|" if has_evidence else "")
        for symbol in group.symbols[:_MOST_ROWS]:
            cells = [symbol.module, symbol.index or "", made_by(symbol), *([evidence(symbol)] if has_evidence else [])]
            yield f"| {' | '.join(map(_escaped, cells))} |"
        if len(group.symbols) > _MOST_ROWS:
            yield f"\n{len(group.symbols) - _MOST_ROWS} more"
    if to_tell := missing_to_tell(report.symbols):
        yield "\n### To tell their makers\n"
        for symbol in to_tell[:_MOST_ROWS]:
            # Indented by four columns it is code, in which nothing is acted on.
            yield from (f"    {plain(line)}" for line in what_to_tell(symbol))
            yield "    "
    if report.unreadable:
        yield "\n### Could not be read\n"
        yield from (f"- {_escaped(unreadable_text(item))}" for item in report.unreadable)


def _escaped(text: str) -> str:
    """Return *text* with nothing in it that Markdown or HTML would act on, nor as a link or as a person's name.

    Source: GitHub Flavored Markdown, "Autolinks (extension)"; ``@name`` tells that person of a ticket.
    """
    marked = _MARKED.sub(r"\\\1", plain(text)).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    return _LINKED.sub(r"\g<0>&#8203;", marked)
