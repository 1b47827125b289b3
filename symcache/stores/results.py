"""How the search for one key can end, and what the answers of several stores mean together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import (
    CutShort,
    LoopDetected,
    OtherBuild,
    OtherBytes,
    PointerNotAllowed,
    StoreError,
    UnexpectedPage,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
    WrongContent,
)
from symcache.identity import ImageKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.base import LookUp


class Cause(StrEnum):
    """Why a key is missing or failed."""

    NOT_PUBLISHED = "not-published"
    REMEMBERED_MISS = "remembered-miss"
    NO_IDENTITY = "no-identity"
    NO_DEBUG_RECORD = "no-debug-record"
    UNUSABLE_IDENTITY = "unusable-identity"
    IMAGE_NOT_PUBLISHED = "image-not-published"
    EXCLUDED = "excluded"
    EMBEDDED = "embedded"
    NOT_CACHED = "not-cached"
    KNOWN_MISSING = "known-missing"

    UNAVAILABLE = "unavailable"
    REFUSED = "refused"
    WRONG_CONTENT = "wrong-content"
    DISK = "disk"


class Hint(StrEnum):
    """What is known beyond a cause, where that calls for other advice."""

    PAGE = "page"  # a page or a message came with status 200
    POINTER = "pointer"  # a pointer file that may not be followed
    LOOP = "loop"  # servers ask each other in a circle
    NO_SERVER = "no-server"  # the symbol path names no server
    FOREIGN_SYSTEM = "foreign-system"  # the dump is one of Linux, macOS or the like
    OTHER_BUILD = "other-build"  # the file of another build is published under the key
    OTHER_BYTES = "other-bytes"  # the key's file, and not the one that a lock file states
    CUT_SHORT = "cut-short"  # what is published ends too early
    INTERRUPTED = "interrupted"  # the run ended before the answer was known
    WITHDRAWN = "withdrawn"  # its publisher says that it is not available
    NEVER_PUBLISHED = "never-published"  # known never to have been
    THIRD_PARTY = "third-party"  # made by others than Microsoft
    PRIVATE_BUILD = "private-build"  # marked as not built by the usual procedure
    NEW_BUILD = "new-build"  # of a Windows newer than the last release
    RUNTIME = "runtime"  # a library of a .NET runtime, which lies beside the runtime on the machine
    PRIVATE_RUNTIME = "private-runtime"  # one of a runtime that Microsoft did not build
    MICROSOFT = "microsoft"  # made by Microsoft, who did not publish it


@dataclass(frozen=True, slots=True)
class Attempt:
    """One question to one place and its answer."""

    upstream: str  # the store or server asked, free of secrets
    answer: str  # what it said, in a few words: ``404``, ``200, but HTML``, ``timed out``
    asked: str | None = None  # the file name asked for, or id and name with a ``/``, where it was not the key's own

    def place_of(self, name: str, id_: str) -> str:
        """Return what was asked for below *upstream*, of a file whose key has *name* and *id_*."""
        asked = self.asked or name
        return f"{name}/{asked}" if "/" in asked else f"{name}/{id_}/{asked}"


@dataclass(frozen=True, slots=True)
class Present:
    """A store of the symbol path had it already."""

    path: Path  # what it holds may be compressed
    size_bytes: int  # length of that file; of a file in a bundle, its own
    note: str | None = None  # what a debugger has to do before it can open it
    in_bundle: bool = False  # it lies in the bundle at *path*, or in a bucket, where no debugger reads it
    url: str | None = None  # of the object of a bucket that it is; then no *path* leads to it

    @property
    def place(self) -> str:
        """Where it lies."""
        return str(self.path) if self.url is None else self.url


@dataclass(frozen=True, slots=True)
class Fetched:
    """It came from further up the chain and lies in the bottom-most store now."""

    path: Path  # the plain file in the leftmost store that took it
    size_bytes: int
    upstream: str  # where it came from, free of secrets
    attempts: tuple[Attempt, ...] = ()  # what was asked on the way, in order
    note: str | None = None  # something odd that does not make it wrong

    @property
    def place(self) -> str:
        """Where it lies."""
        return str(self.path)


@dataclass(frozen=True, slots=True)
class _NotHad:
    cause: Cause
    attempts: tuple[Attempt, ...] = ()
    detail: str | None = None
    hint: Hint | None = None


@dataclass(frozen=True, slots=True)
class Missing(_NotHad):
    """Every place said no, or there is nothing to ask for."""


@dataclass(frozen=True, slots=True)
class Failed(_NotHad):
    """It may exist, but could not be had; another try may help."""


Outcome: TypeAlias = Present | Fetched | Missing | Failed


def sum_up(answers: Sequence[LookUp]) -> Missing | Failed:
    """Return what it means that no store had the file.

    One store that failed leaves the question open: then the key failed, as another try may help.
    """
    attempts = attempts_of(answers)
    for kind, cause in _CAUSES.items():
        for answer in answers:
            if isinstance(answer.error, kind):
                return Failed(cause, attempts, str(answer.error), _HINTS.get(type(answer.error)))
    only_memory = any(answer.is_remembered for answer in answers) and not any(answer.is_asked for answer in answers)
    return Missing(Cause.REMEMBERED_MISS if only_memory else Cause.NOT_PUBLISHED, attempts)


# What the user can mend comes first, then what may mend itself.
_CAUSES: dict[type[StoreError | UpstreamError], Cause] = {
    StoreError: Cause.DISK,
    UpstreamUnavailable: Cause.UNAVAILABLE,
    WrongContent: Cause.WRONG_CONTENT,
    UpstreamRefused: Cause.REFUSED,
}

_HINTS: dict[type[StoreError | UpstreamError], Hint] = {
    UnexpectedPage: Hint.PAGE,
    OtherBuild: Hint.OTHER_BUILD,
    OtherBytes: Hint.OTHER_BYTES,
    CutShort: Hint.CUT_SHORT,
    PointerNotAllowed: Hint.POINTER,
    LoopDetected: Hint.LOOP,
}


def kept_other(error: OtherBytes) -> Failed:
    """Return what it means that a debugger would open a file of other bytes, which nothing of ours replaces."""
    answer = f"there, but {error.problem}"
    return Failed(Cause.WRONG_CONTENT, (Attempt(error.url, answer),), str(error), Hint.OTHER_BYTES)


def attempts_of(answers: Sequence[LookUp | Missing | Failed]) -> tuple[Attempt, ...]:
    return tuple(attempt for answer in answers for attempt in answer.attempts)


def asked_as(end: Missing | Failed, key: Key) -> Missing | Failed:
    """Return *end* with what was asked for by *key*, another one than the file is known by, in each attempt."""
    asked = key.name if type(key) is ImageKey else f"{key.id}/{key.name}"
    attempts = (each if each.asked is not None else replace(each, asked=asked) for each in end.attempts)
    return replace(end, attempts=tuple(attempts))


def sum_up_ends(ends: Sequence[Missing | Failed]) -> Missing | Failed:
    """Return what it means that a file could be had by none of its keys; without *ends* all are excluded."""
    if not ends:
        return Missing(Cause.EXCLUDED)
    if len(ends) == 1:
        return ends[0]
    attempts = attempts_of(ends)
    for end in ends:
        if isinstance(end, Failed):
            return replace(end, attempts=attempts)
    only_memory = all(end.cause is Cause.REMEMBERED_MISS for end in ends)
    return Missing(Cause.REMEMBERED_MISS if only_memory else Cause.NOT_PUBLISHED, attempts, hint=ends[0].hint)
