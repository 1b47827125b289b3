"""Every error symcache raises, by its cause.

SymcacheError
  UsageError                  what the user typed or configured
    SymbolPathError             an invalid symbol path                    (.problem .text .position)
    ConfigError                 an invalid config file or variable        (.problem .where .line)
  InputError                  the bytes of an input                     (.problem .offset)
    UnknownFormat               not a format that symcache reads
    TruncatedInput              it ends too early
    MalformedInput              it contradicts itself or its format
    NotInDump                   an address whose bytes are not in the dump  (.address .absence)
  StoreError                  the local disk                            (.problem .path)
  UpstreamError               the other end                             (.problem .url)
    UpstreamUnavailable         a retry may help: time-out, 5xx           (.retry_after_s .timed_out)
      HostUnavailable             no connection to the host, or 429
      NextHopUnavailable          the upstream works, and a server that it asks does not
      FetchInProgress             the upstream works, and will have the file soon
    UpstreamRefused             a retry does not help: 401, 403
      Forbidden                   403
      LoopDetected                servers that ask each other in a circle
      PointerNotAllowed           a pointer file to a place that may not be followed
    WrongContent                not the file that the key names
      UnexpectedPage              a page or a message with status 200
      OtherBuild                  a whole file of this kind, of another build
      CutShort                    it ends before what its own headers promise
      OtherBytes                  the key's file, with other bytes than a lock file states

*problem* is what is wrong, without the place; reports show it. Offsets are bytes from the start of an input.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


class SymcacheError(Exception):
    """Root of the tree; its text is one line that a user can act on."""


class UsageError(SymcacheError):
    """An option, argument or setting that cannot be used."""


class SymbolPathError(UsageError):
    """A symbol path that does not follow the grammar; *position* is the index of the first wrong character."""

    def __init__(self, problem: str, *, text: str, position: int) -> None:
        super().__init__(problem, text, position)
        self.problem = problem
        self.text = text
        self.position = position

    def __str__(self) -> str:
        return f"symbol path: {self.problem} (at character {self.position + 1} of {self.text!r})"


class ConfigError(UsageError):
    """A setting that cannot be used; *where* names file and key, or the variable, *line* counts from 1."""

    def __init__(self, problem: str, *, where: str, line: int | None = None) -> None:
        super().__init__(problem, where, line)
        self.problem = problem
        self.where = where
        self.line = line

    def __str__(self) -> str:
        return f"{self.where}: {self.problem}" + (f" (at line {self.line})" if self.line is not None else "")


class InputError(SymcacheError):
    """The bytes of an input cannot be read; *offset* is None if no single place is wrong."""

    def __init__(self, problem: str, *, offset: int | None = None) -> None:
        super().__init__(problem, offset)
        self.problem = problem
        self.offset = offset

    def __str__(self) -> str:
        return self.problem if self.offset is None else f"{self.problem} (at {self.offset:#x})"


class UnknownFormat(InputError):
    """Not a format that symcache reads; the text names the format if that is known."""


class TruncatedInput(InputError):
    """The input ends before what its format or its own fields require."""


class MalformedInput(InputError):
    """The input contradicts itself or its format."""


class Absence(StrEnum):
    """Why the bytes of an address are not there."""

    NOT_MAPPED = "not mapped"  # the machine had no page there: paged out, freed, or a wrong address
    NOT_IN_DUMP = "not in the dump"  # there was a page, and the writer of the dump left it out
    TRUNCATED = "truncated"  # the dump's header includes it, and the file ends before it


class NotInDump(InputError):
    """An address has no bytes in a dump; it is virtual unless the text says physical."""

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
    """A store cannot be read or written: one on disk, or a bucket, of which *path* is the URL."""

    def __init__(self, problem: str, *, path: Path | str) -> None:
        super().__init__(problem, path)
        self.problem = problem
        self.path = path

    def __str__(self) -> str:
        return f"{self.path}: {self.problem}"


class UpstreamError(SymcacheError):
    """A server did not send the file; *url* is that of the request, without credentials and signatures."""

    def __init__(self, problem: str, *, url: str) -> None:
        super().__init__(problem, url)
        self.problem = problem
        self.url = url

    def __str__(self) -> str:
        return f"{self.url}: {self.problem}"


class UpstreamUnavailable(UpstreamError):
    """A retry may help: time-out, cut body, 5xx; it may concern one file only.

    *retry_after_s* is how long the upstream wants it to wait; None if it did not say. *timed_out* means that a wait was
    given up, so that each retry may take as long.
    """

    def __init__(self, problem: str, *, url: str, retry_after_s: float | None = None, timed_out: bool = False) -> None:
        super().__init__(problem, url=url)
        self.retry_after_s = retry_after_s
        self.timed_out = timed_out


class HostUnavailable(UpstreamUnavailable):
    """The host fails for every file: no connection, 429."""


class NextHopUnavailable(UpstreamUnavailable):
    """The upstream works, and a server that it asks did not answer, even after retries."""


class FetchInProgress(UpstreamUnavailable):
    """The upstream is still asking its own upstreams; a later retry gets their answer."""


class UpstreamRefused(UpstreamError):
    """The upstream refuses: 401, 403, 407, an endless redirect."""


class Forbidden(UpstreamRefused):
    """403; a bucket that does not allow listing sends it for every file that it does not have."""


class LoopDetected(UpstreamRefused):
    """The upstream asks this server, directly or through others, so that the request came back."""


class PointerNotAllowed(UpstreamRefused):
    """The upstream has a pointer file to a place that may not be followed."""


class WrongContent(UpstreamError):
    """The upstream sent something other than the file that the key names."""


class UnexpectedPage(WrongContent):
    """A page or a message with status 200: a login form, or a text that says that there is no such file."""


class OtherBuild(WrongContent):
    """The upstream has the file of another build under this key."""


class CutShort(WrongContent):
    """The file ends before what its own headers promise; it was published so, as the transfer was whole."""


class OtherBytes(WrongContent):
    """The file that the key names, with other bytes than a lock file states: stripped, rewritten, or made again.

    *url* is the place that has it, a path or free of secrets; *problem* names both hashes.
    """
