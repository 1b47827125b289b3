"""What places answered, and what that means together."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from symcache.errors import (
    LoopDetected,
    PageInstead,
    PointerNotAllowed,
    StoreError,
    UpstreamError,
    UpstreamRefused,
    UpstreamUnavailable,
    WrongContent,
)
from symcache.upstream.outcome import Attempt, Cause, Failed, Hint, Missing

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.store.tree import Form

__all__ = ["Brought", "attempts_of", "sum_up"]


@dataclass(frozen=True, slots=True)
class Brought:
    """What a place answered.

    Attributes:
        form: How the file came; None if it did not.
        attempts: What was asked and answered, in order.
        error: Why the place said neither yes nor no; None if it did.
        asked: The network was asked.
        remembered: The no is one from an earlier run.
    """

    form: Form | None = None
    attempts: tuple[Attempt, ...] = ()
    error: UpstreamError | StoreError | None = None
    asked: bool = False
    remembered: bool = False

    def but(self, answer: str, error: UpstreamError | None = None) -> Brought:
        """Return the same with a last answer that turned out to be no file."""
        *earlier, last = self.attempts
        said = f"{last.answer}, but {answer}" if error is not None else answer
        return replace(self, form=None, attempts=(*earlier, replace(last, answer=said)), error=error)


def sum_up(answers: Sequence[Brought]) -> Missing | Failed:
    """Return what it means that no place delivered.

    One place that said neither yes nor no leaves the question open: then the key failed, as another try may help.
    """
    attempts = attempts_of(answers)
    for kind, cause in _CAUSES.items():
        for answer in answers:
            if isinstance(answer.error, kind):
                return Failed(cause, attempts, str(answer.error), _HINTS.get(type(answer.error)))
    only_memory = any(answer.remembered for answer in answers) and not any(answer.asked for answer in answers)
    return Missing(Cause.REMEMBERED_MISS if only_memory else Cause.NOT_PUBLISHED, attempts)


# What the user can mend comes first, then what may mend itself.
_CAUSES: dict[type[StoreError | UpstreamError], Cause] = {
    StoreError: Cause.DISK,
    UpstreamUnavailable: Cause.UNAVAILABLE,
    WrongContent: Cause.WRONG_CONTENT,
    UpstreamRefused: Cause.REFUSED,
}

_HINTS: dict[type[StoreError | UpstreamError], Hint] = {
    PageInstead: Hint.PAGE,
    PointerNotAllowed: Hint.POINTER,
    LoopDetected: Hint.LOOP,
}


def attempts_of(answers: Sequence[Brought]) -> tuple[Attempt, ...]:
    """Return every question that was asked, in order."""
    return tuple(attempt for answer in answers for attempt in answer.attempts)
