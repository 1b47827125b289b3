"""Text in lines: safe for a terminal, numbers as people read them, columns that fit."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_INDENT = "  "
_MOST_NAMED = 4


def plain(text: str) -> str:
    """Return *text* with everything that a terminal would act on made visible; names come from hostile input."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def count_text(count: int, noun: str) -> str:
    """Return a number of things for people: ``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def names_text(names: Sequence[str]) -> str:
    """Return the first four of *names*, and how many more there are: ``a, b, c, d and 3 more``."""
    more = f" and {len(names) - _MOST_NAMED} more" if names[_MOST_NAMED:] else ""
    return f"{', '.join(names[:_MOST_NAMED])}{more}"


def size_text(size_bytes: float) -> str:
    """Return a length for people: ``1.2 MB``."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def table_lines(rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield *rows* with their columns lined up; the last column is as wide as it is."""
    rows = [[plain(cell) for cell in row] for row in rows]
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        yield "  ".join([*cells, row[-1]]).rstrip()


def fitted_lines(rows: Iterable[Sequence[str]], width: int | None) -> Iterator[str]:
    """Yield *rows*, indented, with their columns lined up, each cell whole.

    A row that is wider than *width* columns goes on several lines, its first cell on one of its own; None for a width
    without end.
    """
    rows = [[plain(cell) for cell in row] for row in rows]
    used = [column for column in range(len(rows[0]) if rows else 0) if any(row[column] for row in rows)]
    rows = [[row[column] for column in used] for row in rows]  # a column that is empty in all is left out
    if width is None:
        yield from table_lines(["", *row] for row in rows)
        return
    is_wide = [len(_INDENT) + sum(map(len, row)) + 2 * (len(row) - 1) > width for row in rows]
    narrow = [row for row, wide in zip(rows, is_wide, strict=True) if not wide]
    widths = [max(len(row[column]) for row in narrow) for column in range(len(narrow[0]))] if narrow else []
    if sum(widths) + 2 * len(widths) > width:
        widths = [0] * len(widths)
    for row, wide in zip(rows, is_wide, strict=True):
        if not wide:
            cells = [cell.ljust(room) for cell, room in zip(row, widths, strict=True)]
            yield (_INDENT + "  ".join(cells)).rstrip()
            continue
        first, *rest = row
        yield from _folded(first, width, _INDENT)
        for cell in filter(None, rest):
            yield from _folded(cell, width, 2 * _INDENT)


def _folded(text: str, width: int, indent: str) -> Iterator[str]:
    """Yield *text* in lines of at most *width*, broken at blanks alone; a longer word stays whole."""
    line = ""
    for word in text.split(" "):
        if line and len(indent) + len(line) + 1 + len(word) > width:
            yield indent + line
            line = word
        else:
            line = f"{line} {word}" if line else word
    yield (indent + line).rstrip()


def wrapped(text: str, width: int | None, indent: str = "") -> Iterator[str]:
    """Yield *text* in lines of at most *width* columns, broken at blanks; lines after the first are indented."""
    text = plain(text)
    if width is None:
        yield indent + text
        return
    first, *rest = _folded(text, width - len(_INDENT), indent)
    yield first
    yield from (_INDENT + line for line in rest)
