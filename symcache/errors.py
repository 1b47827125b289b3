"""Every error symcache raises, split by whose fault it is.

SymcacheError
  UsageError                what the user typed or configured
    SymbolPathError           a symbol path that is not one          (.text .position)
    ConfigError               a config file or variable              (.where .line)
  InputError                the bytes we were given                  (.problem .offset)
    UnknownFormat             not a format that is read here
    TruncatedInput            it ends before something it promises
    MalformedInput            it contradicts itself
    NotInDump                 an address whose bytes the dump lacks    (.address)
  StoreError                the local disk                           (.path)
  UpstreamError             the other end                            (.url)
    UpstreamUnavailable       another try may help: time-out, 5xx           (.retry_after_s)
      HostUnavailable           of the whole host: no connection, 429
      NextHopUnavailable        the upstream is well, what it asks itself is not
      StillFetching             the upstream is well, and has it soon
    UpstreamRefused           it will not: 401, 403
      Forbidden                 403
      LoopDetected              servers that ask each other in a circle
      PointerNotAllowed         a pointer file to a place that may not be followed
    WrongContent              it sent something that is not the file the key names
      PageInstead               a page or a message with status 200
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Absence",
    "ConfigError",
    "Forbidden",
    "HostUnavailable",
    "InputError",
    "LoopDetected",
    "MalformedInput",
    "NextHopUnavailable",
    "NotInDump",
    "PageInstead",
    "PointerNotAllowed",
    "StillFetching",
    "StoreError",
    "SymbolPathError",
    "SymcacheError",
    "TruncatedInput",
    "UnknownFormat",
    "UpstreamError",
    "UpstreamRefused",
    "UpstreamUnavailable",
    "UsageError",
    "WrongContent",
]


class SymcacheError(Exception):
    """Root of the tree; its text is one line that a user can act on."""


class UsageError(SymcacheError):
    """What the user typed or configured cannot be carried out."""


class SymbolPathError(UsageError):
    """A symbol path that does not follow the grammar.

    Attributes:
        problem: What is wrong, without the place.
        text: The whole symbol path.
        position: Index into *text* of the first character that does not fit.
    """

    def __init__(self, problem: str, *, text: str, position: int) -> None:
        super().__init__(problem, text, position)
        self.problem = problem
        self.text = text
        self.position = position

    def __str__(self) -> str:
        return f"symbol path: {self.problem} (at character {self.position + 1} of {self.text!r})"


class ConfigError(UsageError):
    """A setting that cannot be used.

    Attributes:
        problem: What is wrong and what would be right.
        where: The file and key, or the environment variable.
        line: Line of the file, from 1; None if there is no file, or no single line.
    """

    def __init__(self, problem: str, *, where: str, line: int | None = None) -> None:
        super().__init__(problem, where, line)
        self.problem = problem
        self.where = where
        self.line = line

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f" (at line {self.line})" if self.line is not None else "")


class InputError(SymcacheError):
    """The bytes of an input cannot be read.

    Attributes:
        problem: What is wrong, without the place.
        offset: Where in the input, in bytes from its start; None if no single place is wrong.
    """

    def __init__(self, problem: str, *, offset: int | None = None) -> None:
        super().__init__(problem, offset)
        self.problem = problem
        self.offset = offset

    def __str__(self) -> str:
        return self.problem if self.offset is None else f"{self.problem} (at {self.offset:#x})"


class UnknownFormat(InputError):
    """Not a format that is read here; the text names what it is where that is known."""


class TruncatedInput(InputError):
    """The input ends before something that it promises."""


class MalformedInput(InputError):
    """The input contradicts itself or its format."""


class Absence(StrEnum):
    """Why the bytes of an address are not there; each asks for something else from whoever wants them."""

    NOT_MAPPED = "not mapped"  # the machine itself had no page there: paged out, freed, or a wrong address
    NOT_IN_DUMP = "not in the dump"  # there was a page, and the dump's writer left it out
    TRUNCATED = "truncated"  # the dump was to hold it, and the file ends first


class NotInDump(InputError):
    """An address has no bytes in a dump.

    Attributes:
        address: The address asked for, virtual unless the text says physical.
        absence: Whose doing it is.
    """

    def __init__(
        self, problem: str, *, address: int, offset: int | None = None, absence: Absence = Absence.NOT_IN_DUMP
    ) -> None:
        super().__init__(problem, offset=offset)
        self.args = (problem, address, offset)
        self.address = address
        self.absence = absence

    def __str__(self) -> str:
        return f"{self.problem} (address {self.address:#x})"


class StoreError(SymcacheError):
    """The local disk does not do what a store needs.

    Attributes:
        problem: What failed, without the place.
        path: The file or folder.
    """

    def __init__(self, problem: str, *, path: Path) -> None:
        super().__init__(problem, path)
        self.problem = problem
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class UpstreamError(SymcacheError):
    """The other end did not deliver.

    Attributes:
        problem: What happened, without the place; the short form that a report shows.
        url: What was asked for, free of credentials and signatures.
    """

    def __init__(self, problem: str, *, url: str) -> None:
        super().__init__(problem, url)
        self.problem = problem
        self.url = url

    def __str__(self) -> str:
        return f"{self.url}: {self.problem}"


class UpstreamUnavailable(UpstreamError):
    """Another try may help: time-out, cut body, 5xx; it may be of the one file alone.

    Attributes:
        retry_after_s: Seconds after which the upstream wants to be asked again; None if it did not say.
    """

    def __init__(self, problem: str, *, url: str, retry_after_s: float | None = None) -> None:
        super().__init__(problem, url=url)
        self.retry_after_s = retry_after_s


class HostUnavailable(UpstreamUnavailable):
    """The whole host is in trouble, whatever it is asked for: no connection, 429."""


class NextHopUnavailable(UpstreamUnavailable):
    """The upstream is well, and what it asks itself did not deliver, though it has tried again already."""


class StillFetching(UpstreamUnavailable):
    """The upstream asks others itself and goes on with that; a later try finds what they said."""


class UpstreamRefused(UpstreamError):
    """The upstream will not serve us: 401, 403, 407, an endless redirect."""


class Forbidden(UpstreamRefused):
    """403; a bucket whose files may not be listed answers so for every file that it does not have."""


class LoopDetected(UpstreamRefused):
    """The upstream asks us, itself or by way of others, so that the question came back to where it was."""


class PointerNotAllowed(UpstreamRefused):
    """The upstream has a pointer file, to a place that may not be followed."""


class WrongContent(UpstreamError):
    """What was sent is not the file that the key names."""


class PageInstead(WrongContent):
    """A page or a message with status 200: it asks for credentials, or says that there is no such file."""
