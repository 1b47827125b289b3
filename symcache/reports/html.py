"""A run's report as one HTML file that needs no network: sorted, filtered and printed in any browser.

It works without scripts, too, where all rows are shown. Its own script and style are the only ones that may run: names
in it come from hostile input.
"""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources
from typing import TYPE_CHECKING

from symcache._version import __version__
from symcache.reports.advice import group_by_cause, in_order_of_trouble, made_by, missing_to_tell, what_to_tell, why
from symcache.reports.lines import count_text, plain, size_text
from symcache.reports.readiness import managed_lines
from symcache.reports.text import summary, unreadable_text
from symcache.stores.results import Fetched, Present
from symcache.warm.report import State

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.warm.report import Report, Symbol

_ON_STACK = '<br><span class="faint">on the crash\'s stack</span>'
_COLUMNS = ("State", "Module", "File", "Maker", "Size", "Why")


def html_lines(report: Report) -> Iterator[str]:
    """Yield the lines of the file."""
    static = resources.files("symcache.reports") / "static"
    style, script = ((static / name).read_text(encoding="utf-8") for name in ("report.css", "report.js"))
    policy = f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'"
    yield "<!DOCTYPE html>"
    yield '<html lang="en"><head><meta charset="utf-8">'
    yield f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
    yield '<meta name="viewport" content="width=device-width"><meta name="color-scheme" content="light dark">'
    yield f"<title>Symbols: {_text(summary(report))}</title>"
    yield f"<style>{style}</style></head><body>"
    yield from _head(report)
    yield from _table(report)
    yield f"<script>{script}</script></body></html>"


def _hash(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _text(text: str) -> str:
    return escape(plain(text))


def _text_of_lines(lines: Iterator[str]) -> str:
    return "\n".join(map(_text, lines))


def _head(report: Report) -> Iterator[str]:
    counts = report.count()
    yield f"<h1>Symbols{': the run was interrupted' if report.is_interrupted else ''}</h1>"
    yield f'<p class="faint">symbol path <code>{_text(report.symbol_path)}</code>'
    if report.store is not None:
        yield f"<br>store <code>{_text(str(report.store))}</code>"
    yield f"<br>symcache {__version__}, {report.seconds:.1f} s</p>"
    yield '<ul class="counts">'
    yield f"<li><b>{len(report.symbols)}</b>wanted</li>"
    for state in State:
        size = f", {size_text(report.fetched_bytes)}" if state is State.FETCHED else ""
        yield f'<li class="{state.value}"><b>{counts[state]}</b>{state.value}{size}</li>'
    yield "</ul>"
    if managed := list(managed_lines(report)):
        yield f"<p>{'<br>'.join(map(_text, managed))}</p>"
    groups = group_by_cause(symbol for symbol in report.symbols if symbol.needs_attention)
    if groups:
        yield "<h2>What to do</h2><ul>"
        for group in groups:
            number = count_text(len(group.symbols), "file")
            yield f'<li><b class="{group.state.value}">{number}</b> {_text(group.title)}: {_text(group.advice)}'
            known = (f"{maker} has a public server: {server}" for maker, server in group.servers.items())
            yield from (f'<br><span class="faint">{_text(each)}</span>' for each in (group.said, *known) if each)
            yield "</li>"
        yield "</ul>"
    if report.unreadable:
        yield "<h2>Could not be read</h2><ul>"
        yield from (f"<li>{_text(unreadable_text(item))}</li>" for item in report.unreadable)
        yield "</ul>"


def _table(report: Report) -> Iterator[str]:
    troubled = any(symbol.needs_attention for symbol in report.symbols)
    yield "<h2>Files</h2>"
    yield '<form hidden role="search"><input type="search" placeholder="part of a name, a cause" aria-label="Filter">'
    for state in State:
        checked = " checked" if not troubled or state in {State.MISSING, State.FAILED} else ""
        yield f'<label><input type="checkbox" value="{state.value}"{checked}> {state.value}</label>'
    yield '<span id="shown" class="faint" role="status"></span></form>'
    headings = "".join(f'<th scope="col"><button type="button">{name}</button></th>' for name in _COLUMNS)
    yield f"<table><thead><tr>{headings}</tr></thead><tbody>"
    for number, symbol in enumerate(in_order_of_trouble(report.symbols)):
        yield _row(symbol, number)
    yield "</tbody></table>"
    if to_tell := missing_to_tell(report.symbols):
        yield "<h2>To tell their makers</h2>"
        yield from (f"<pre>{_text_of_lines(what_to_tell(symbol))}</pre>" for symbol in to_tell)


def _row(symbol: Symbol, number: int) -> str:
    outcome = symbol.outcome
    found = outcome if isinstance(outcome, Present | Fetched) else None
    size = "" if found is None else size_text(found.size_bytes)
    cells = (
        f'<td class="{symbol.state.value}" data-order="{number}">{symbol.state.value}</td>',
        f"<td>{_text(symbol.module)}{_ON_STACK if symbol.on_stack else ''}</td>",
        f'<td class="file">{_text(symbol.index or "").replace("/", "/<wbr>")}</td>',
        f"<td>{_text(made_by(symbol))}</td>",
        f'<td data-order="{0 if found is None else found.size_bytes}">{size}</td>',
        f"<td>{_text(why(symbol))}</td>",
    )
    return f'<tr data-state="{symbol.state.value}">{"".join(cells)}</tr>'
