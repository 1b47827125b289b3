"""What differs between two sets of modules, as text: counts first, then each group."""

from __future__ import annotations

from itertools import groupby
from operator import attrgetter
from typing import TYPE_CHECKING

from symcache.reports.lines import fitted_lines
from symcache.warm.difference import Change

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.warm.difference import Comparison

_TITLES = {
    Change.CHANGED: "changed",
    Change.CAME: "came",
    Change.WENT: "went",
    Change.LOST: "at hand in A alone",
    Change.FOUND: "at hand in B alone",
    Change.UNCLEAR: "cannot be compared: A and B identify them by different files",
}


def difference_lines(compared: Comparison, *, quiet: bool = False, width: int | None = None) -> Iterator[str]:
    """Yield *compared* in lines that are safe for a terminal of *width* columns; None for a file or a pipe.

    With *quiet* the line of counts is left out.
    """
    counts = compared.count()
    if not quiet:
        yield ", ".join(f"{count} {name}" for name, count in counts.items() if count or name in {"changed", "same"})
    for number, (change, group) in enumerate(groupby(compared.differences, key=attrgetter("change"))):
        names = [[each.name, _said(*each.said())] for each in group]
        if number or not quiet:
            yield ""
        yield f"{_TITLES[change]} ({len(names)})"
        yield from fitted_lines(names, width)


def _said(before: str, after: str) -> str:
    return f"{before} -> {after}" if before and after else before or after
