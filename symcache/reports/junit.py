"""A run's report as JUnit's XML, which every CI system shows: a test case for each wanted file."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from xml.sax.saxutils import escape, quoteattr

from symcache.reports.advice import advice, evidence, in_order_of_trouble
from symcache.reports.lines import plain
from symcache.reports.text import summary, unreadable_text
from symcache.stores.results import Failed, Missing
from symcache.warm.report import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.warm.report import Report, Symbol

_FORBIDDEN = re.compile("[\ud800-\udfff\ufffe\uffff]")


def junit_lines(report: Report) -> Iterator[str]:
    """Yield the lines of the document.

    A file that is missing is a failure, as is a PDB with private symbols where those were asked for; one that failed,
    and an input that could not be read, is an error, and one with nothing to fetch is skipped.

    Source: the schema of Jenkins' xUnit plugin (junit-10.xsd), which GitLab, Azure and GitHub's actions follow.
    """
    symbols = list(in_order_of_trouble(report.symbols))
    private = frozenset(report.private)
    wanting = sum(symbol.is_wanting for symbol in symbols)
    failures = wanting + len(private)
    errors = sum(symbol.state is State.FAILED for symbol in symbols) + len(report.unreadable)
    skipped = sum(symbol.state is State.MISSING for symbol in symbols) - wanting
    counts = f'tests="{len(symbols) + len(report.unreadable)}" failures="{failures}" errors="{errors}"'
    seconds = f'time="{report.seconds:.3f}"'
    yield '<?xml version="1.0" encoding="UTF-8"?>'
    yield f'<testsuites name="symcache" {counts} {seconds}>'
    yield f'<testsuite name="symbols" {counts} skipped="{skipped}" {seconds}>'
    yield "<properties>"
    yield f'<property name="symbol_path" value={_attribute(report.symbol_path)}/>'
    if report.store is not None:
        yield f'<property name="store" value={_attribute(str(report.store))}/>'
    yield "</properties>"
    for symbol in symbols:
        yield from _case(symbol, is_private=symbol.index in private)
    for item in report.unreadable:
        yield f'<testcase classname="input" name={_attribute(item.path)} time="0">'
        yield f'<error type="unreadable" message={_attribute(item.problem)}>{_content(unreadable_text(item))}</error>'
        yield "</testcase>"
    yield f"<system-out>{_content(summary(report))}</system-out>"
    yield "</testsuite>"
    yield "</testsuites>"


def _case(symbol: Symbol, *, is_private: bool) -> Iterator[str]:
    names = f"classname={_attribute(symbol.module)} name={_attribute(symbol.index or symbol.module)}"
    if is_private:
        yield f'<testcase {names} time="0"><failure type="private" message="it holds private symbols"/></testcase>'
        return
    if symbol.is_at_hand:
        yield f'<testcase {names} time="0"/>'
        return
    outcome = symbol.outcome
    assert isinstance(outcome, Missing | Failed)
    yield f'<testcase {names} time="0">'
    if symbol.state is State.FAILED or symbol.is_wanting:
        element = "error" if symbol.state is State.FAILED else "failure"
        kind = outcome.cause.value if outcome.hint is None else f"{outcome.cause.value}, {outcome.hint.value}"
        said = _content(evidence(symbol))
        yield f"<{element} type={_attribute(kind)} message={_attribute(advice(symbol))}>{said}</{element}>"
    else:
        yield f"<skipped message={_attribute(advice(symbol))}/>"
    yield "</testcase>"


def _attribute(text: str) -> str:
    return quoteattr(_allowed(text))


def _content(text: str) -> str:
    return escape(_allowed(text))


def _allowed(text: str) -> str:
    """Return *text* without what XML 1.0 has no characters for (section 2.2, "Char")."""
    return _FORBIDDEN.sub("\ufffd", plain(text))
