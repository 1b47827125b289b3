"""What a run tells its observer: any callable that takes one event.

It is called from several threads, also at the same time, and must not block: many events come from the event loop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from pathlib import Path


@dataclass(frozen=True, slots=True)
class InputAdvanced:
    """More of an input that takes long has been read."""

    path: str
    done_bytes: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Planned:
    """It is known how many keys are wanted in all, present ones included; sent again when two hops add more."""

    wanted: int


@dataclass(frozen=True, slots=True)
class TransferStarted:
    """A body begins to arrive."""

    index: str
    upstream: str  # free of secrets
    size_bytes: int | None  # as announced; None if it was not
    path: Path | None = None  # the scratch file that it grows in


@dataclass(frozen=True, slots=True)
class TransferAdvanced:
    """More of a body has arrived."""

    index: str
    received_bytes: int  # in all
    size_bytes: int | None
    path: Path | None = None
    whole_bytes: int = 0  # length of the beginning that has no gaps; less than before if it starts over


@dataclass(frozen=True, slots=True)
class TransferEnded:
    """A body has ended, well or not."""

    index: str
    path: Path | None = None


@dataclass(frozen=True, slots=True)
class Settled:
    """A wanted key has come to its one final state: ``present``, ``fetched``, ``missing`` or ``failed``."""

    index: str  # the module's name where there is no key
    state: str


@dataclass(frozen=True, slots=True)
class Noted:
    """Something the user may want to know that changes no state: a host left alone, a store passed over."""

    text: str


Event: TypeAlias = InputAdvanced | Planned | TransferStarted | TransferAdvanced | TransferEnded | Settled | Noted
Observer: TypeAlias = Callable[[Event], None]


def ignore(_event: Event, /) -> None:
    """Observe nothing."""
