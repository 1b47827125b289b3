"""How the search for one key can end, and what the answers of several stores mean together."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import (
    LoopDetected,
    PointerNotAllowed,
    StoreError,
    UnexpectedPage,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
    WrongContent,
)

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

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


@dataclass(frozen=True, slots=True)
class Attempt:
    """One question to one place and its answer."""

    upstream: str  # the store or server asked, free of secrets
    answer: str  # what it said, in a few words: ``404``, ``200, but HTML``, ``timed out``
    asked: str | None = None  # the file name asked for, where it was not the key's own


@dataclass(frozen=True, slots=True)
class Present:
    """A store of the symbol path had it already."""

    path: Path  # what it holds may be compressed
    size_bytes: int  # length of that file
    note: str | None = None  # what a debugger has to do before it can open it


@dataclass(frozen=True, slots=True)
class Fetched:
    """It came from further up the chain and lies in the bottom-most store now."""

    path: Path  # the plain file in the leftmost store that took it
    size_bytes: int
    upstream: str  # where it came from, free of secrets
    attempts: tuple[Attempt, ...] = ()  # what was asked on the way, in order
    note: str | None = None  # something odd that does not make it wrong


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
    PointerNotAllowed: Hint.POINTER,
    LoopDetected: Hint.LOOP,
}


def attempts_of(answers: Sequence[LookUp | Missing | Failed]) -> tuple[Attempt, ...]:
    return tuple(attempt for answer in answers for attempt in answer.attempts)
