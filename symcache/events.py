"""What a run tells its observer.

An observer is any callable that takes one event. It is called from several threads, also at the same time, and must not
block: many events come from the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path

__all__ = [
    "Event",
    "Noted",
    "Observer",
    "Planned",
    "Settled",
    "TransferAdvanced",
    "TransferEnded",
    "TransferStarted",
    "ignore",
]


@dataclass(frozen=True, slots=True)
class Planned:
    """It is known how many keys are wanted; sent again when two hops add more.

    Attributes:
        wanted: Keys wanted in all so far, present ones included.
    """

    wanted: int


@dataclass(frozen=True, slots=True)
class TransferStarted:
    """A body begins to arrive.

    Attributes:
        index: The key asked for, written out.
        upstream: Where it comes from, free of secrets.
        size_bytes: Length announced; None if it was not.
        path: The scratch file that it grows in.
    """

    index: str
    upstream: str
    size_bytes: int | None
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class TransferAdvanced:
    """More of a body has arrived.

    Attributes:
        index: As in `TransferStarted`.
        received_bytes: Received so far in all.
        size_bytes: Length announced; None if it was not.
        path: As in `TransferStarted`.
        whole_bytes: Length of the beginning that has no gaps; less than before if it starts over.
    """

    index: str
    received_bytes: int
    size_bytes: int | None
    path: Path | None = None
    whole_bytes: int = 0


@dataclass(frozen=True, slots=True)
class TransferEnded:
    """A body has ended, well or not.

    Attributes:
        index: As in `TransferStarted`.
        path: As in `TransferStarted`.
    """

    index: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """A wanted key has come to its one final state.

    Attributes:
        index: The key, written out; the module's name where there is no key.
        state: ``present``, ``fetched``, ``missing`` or ``failed``.
    """

    index: str
    state: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Something the user may want to know that changes no state: a host left alone, a store passed over."""

    text: str


Event: TypeAlias = Planned | TransferStarted | TransferAdvanced | TransferEnded | Settled | Noted
Observer: TypeAlias = Callable[[Event], None]


def ignore(_event: Event, /) -> None:
    """Observe nothing."""
