r"""What ``~``, ``$NAME``, ``${NAME}`` and ``%NAME%`` stand for in one place of a symbol path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ExpansionError", "Surroundings", "expand"]

_HOME = re.compile(r"~(?=[\\/]|$)")
_OTHER_HOME = re.compile(r"~\w")
_URL = re.compile(r"https?:", re.IGNORECASE)
_OF_WINDOWS = re.compile(r"[A-Za-z]:|\\\\")
_PERCENT = r"%(?P<percent>[A-Za-z_][\w()]*)%"
_ANY = re.compile(rf"{_PERCENT}|\$(?:env:)?(?P<bare>[A-Za-z_]\w*)|\$\{{(?:env:)?(?P<braced>[^{{}}]*)\}}", re.IGNORECASE)
_PERCENT_ALONE = re.compile(_PERCENT)
_SEPARATES = re.compile(r'[*;"\r\n]')


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a symbol path is read in.

    Attributes:
        variables: Environment variables by name.
        home: The user's home folder; None where there is none.
    """

    variables: Mapping[str, str]
    home: str | None = None


class ExpansionError(Exception):
    """Something in a place stands for nothing.

    Attributes:
        problem: What, and what to do.
        at: Where it begins, in characters from the place's start.
    """

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem, at)
        self.problem = problem
        self.at = at


def expand(text: str, around: Surroundings) -> str:
    r"""Return the folder or share *text* with everything filled in that stands for something else; a URL as it is.

    In a path that begins with a drive or with ``\\``, ``$`` is a letter like any other: ``\\host\c$`` is a share. Where
    what stands in front is a path with slashes, the back slashes after it become slashes, too.

    Raises:
        ExpansionError: A variable that is not set or empty, or holds what separates places; no home folder.
    """
    if _URL.match(text):
        return text  # where %C3%A9 is a letter and $ one, too
    if _OTHER_HOME.match(text):
        raise ExpansionError(r"~ is your own home folder alone; a folder of that name is written .\~…", 0)
    pattern = _PERCENT_ALONE if _OF_WINDOWS.match(text) else _ANY
    head, tail = "", text
    if _HOME.match(text):
        if not around.home:
            raise ExpansionError("there is no home folder for ~ to stand for; write the folder out", 0)
        head, tail = around.home, text[1:]
    elif first := pattern.match(text):
        head, tail = _value(first, 0, around), text[first.end() :]
    begin = len(text) - len(tail)
    tail = pattern.sub(lambda match: _value(match, begin, around), tail)
    return head + (tail.replace("\\", "/") if "/" in head and "\\" not in head else tail)


def _value(match: re.Match[str], begin: int, around: Surroundings) -> str:
    at = begin + match.start()
    name = next(group for group in match.groups() if group is not None)
    value = around.variables.get(name, "").strip()
    if not value:
        raise ExpansionError(f"{match[0]}: the variable is not set; set it, or write out what it should be", at)
    if _SEPARATES.search(value):
        raise ExpansionError(f"{match[0]}: the variable holds more than one place; write them out", at)
    return value
