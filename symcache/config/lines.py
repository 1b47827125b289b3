"""Where things stand in a config file, and what no reader should try in one."""

from __future__ import annotations

import re
import tomllib
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["find_excess", "find_line"]


_MOST_DIGITS = 1000
_DEEPEST = 32
_TOKEN = re.compile(
    r'"""(?:\\.|[^\\])*?"""'
    r"|'''.*?'''"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}\n]",
    re.DOTALL,
)
_LONG_NUMBER = re.compile(rf"[0-9][0-9_]{{{_MOST_DIGITS},}}")


@dataclass(frozen=True, slots=True)
class _Statement:
    """A key with its value, or a heading.

    Attributes:
        line: The line it begins in, from 1.
        text: As it stands in the file.
        bare: The same without comments and with all strings empty.
        depth: How deep its brackets are nested.
    """

    line: int
    text: str
    bare: str
    depth: int


def find_excess(text: str) -> tuple[str, int] | None:
    """Return what no setting needs and no reader should try, and its line; None if *text* has nothing of that kind.

    tomllib recurses into brackets, takes time with the square of the dots in a key, and Python reads no number of more
    than 4300 digits. *text* need not be TOML.
    """
    for statement in _statements(text):
        if statement.depth > _DEEPEST:
            return f"brackets are nested more than {_DEEPEST} deep", statement.line
        if any(part.count(".") > _DEEPEST for part in statement.bare.split("=")):
            return f"a key has more than {_DEEPEST} dots", statement.line
        if _LONG_NUMBER.search(statement.bare):
            return f"a number has more than {_MOST_DIGITS} digits", statement.line
    return None


def find_line(text: str, key: str) -> int | None:
    """Return the line, from 1, of *key* in *text*, which tomllib has read; for a key that lacks, that of its table.

    Args:
        text: The file.
        key: Names joined by dots, ``[0]`` after that of a table with two pairs of brackets: ``server[0].url``.
    """
    best: tuple[int, int] | None = None
    for name, line in _names(text):
        is_within = name == key or name.startswith((f"{key}.", f"{key}["))
        if is_within or key.startswith((f"{name}.", f"{name}[")):
            likeness = len(key) if is_within else len(name)
            if best is None or likeness > best[0]:
                best = likeness, line
    return None if best is None else best[1]


def _names(text: str) -> Iterator[tuple[str, int]]:
    """Yield what each statement names, with its heading, and its line."""
    prefix = ""
    headings: Counter[str] = Counter()
    for statement in _statements(text):
        name = ".".join(_descend(tomllib.loads(statement.text)))
        if not statement.bare.startswith("["):
            yield prefix + name, statement.line
            continue
        if statement.bare.startswith("[["):
            headings[name] += 1
            name = f"{name}[{headings[name] - 1}]"
        yield name, statement.line
        prefix = f"{name}."


def _descend(value: Any) -> Iterator[str]:
    """Yield the names that lead into *value* as long as there is one way."""
    while isinstance(value, dict) and len(value) == 1:
        ((name, value),) = value.items()
        yield name


def _statements(text: str) -> Iterator[_Statement]:
    at = begin = depth = deepest = 0
    line = first = 1
    bare: list[str] = []
    for match in _TOKEN.finditer(text + "\n"):
        bare.append(text[at : match.start()])
        at = match.end()
        mark = match[0]
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth = max(depth - 1, 0)
        if mark in "[]{}":
            bare.append(mark)
        elif mark[0] in "\"'":
            bare.append('""')
        line += mark.count("\n")
        if mark == "\n" and not depth:
            stripped = "".join(bare).strip()
            if stripped:
                yield _Statement(first, text[begin:at], stripped, deepest)
            begin, first, deepest, bare = at, line, 0, []
    if stripped := "".join(bare).strip():
        yield _Statement(first, text[begin:], stripped, deepest)
