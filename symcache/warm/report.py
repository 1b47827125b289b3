"""What became of every wanted file: the report of ``warm`` and ``check``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from symcache.stores.results import Cause, Failed, Fetched, Missing, Outcome, Present

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from symcache.inputs.records import ImageUse, Unreadable
    from symcache.stores.results import Attempt
    from symcache.warm.plan import FileKind


class State(StrEnum):
    """The one state that each wanted file ends in."""

    PRESENT = "present"
    FETCHED = "fetched"
    MISSING = "missing"
    FAILED = "failed"


_STATES: dict[type[Outcome], State] = {
    Present: State.PRESENT,
    Fetched: State.FETCHED,
    Missing: State.MISSING,
    Failed: State.FAILED,
}

# Nothing that exists anywhere is wanting in these cases, so they do not make a run incomplete.
HARMLESS = frozenset({Cause.EMBEDDED, Cause.NO_DEBUG_RECORD, Cause.UNUSABLE_IDENTITY, Cause.EXCLUDED})


@dataclass(frozen=True, slots=True)
class Symbol:
    """One wanted file and its end."""

    index: str | None  # its key written out; None if its identity is not known
    kind: FileKind
    module: str  # name of the module that needs it
    outcome: Outcome
    detail: str | None = None  # the reason in words, where the outcome has none of its own
    use: ImageUse | None = None  # what a debugger needs the file for, if it is an image that the input does not hold
    reload: str | None = None  # the command that makes a debugger look for it; None where it does so by itself
    keeps: tuple[str, ...] = ()  # indexes of PDBs at hand that a debugger does not load without it

    @property
    def state(self) -> State:
        """See `State`."""
        return _STATES[type(self.outcome)]

    @property
    def is_at_hand(self) -> bool:
        """A store has it."""
        return isinstance(self.outcome, Present | Fetched)

    @property
    def cause(self) -> Cause | None:
        """Why it is missing or failed."""
        return self.outcome.cause if isinstance(self.outcome, Missing | Failed) else None

    @property
    def reason(self) -> str | None:
        """Why, in words."""
        if isinstance(self.outcome, Missing | Failed) and self.outcome.detail is not None:
            return self.outcome.detail
        return self.detail

    @property
    def is_wanting(self) -> bool:
        """It is missing, and it could be somewhere."""
        return isinstance(self.outcome, Missing) and self.outcome.cause not in HARMLESS

    def as_json(self) -> dict[str, Any]:
        """Return the fields of ``symcache.report/1``."""
        outcome = self.outcome
        found = outcome if isinstance(outcome, Present | Fetched) else None
        attempts: tuple[Attempt, ...] = () if isinstance(outcome, Present) else outcome.attempts
        fields: dict[str, Any] = {
            "index": self.index,
            "kind": self.kind,
            "module": self.module,
            "state": self.state,
            "cause": self.cause,
            "path": None if found is None else str(found.path),
            "upstream": outcome.upstream if isinstance(outcome, Fetched) else None,
            "bytes": None if found is None else found.size_bytes,
            "attempts": [{name: said for name, said in asdict(each).items() if said is not None} for each in attempts],
        }
        if self.reason is not None:
            fields["detail"] = self.reason
        if isinstance(outcome, Missing | Failed) and outcome.hint is not None:
            fields["hint"] = outcome.hint
        if found is not None and found.note is not None:
            fields["note"] = found.note
        if self.use is not None:
            fields["needed_for"] = self.use
        if self.keeps:
            fields["keeps_from_loading"] = list(self.keeps)
        if self.reload is not None:
            fields["reload"] = self.reload
        return fields


@dataclass(frozen=True, slots=True)
class Report:
    """The whole of a run."""

    symbol_path: str  # what was searched, free of secrets
    store: Path | None  # the one that debuggers open files from
    seconds: float
    symbols: Sequence[Symbol]  # every wanted file once
    unreadable: Sequence[Unreadable] = ()  # inputs, and files of folders
    is_interrupted: bool = False
    images_left_out: int = 0  # how many images a debugger will ask for were not wanted
    is_empty: bool = False  # the inputs hold no module at all

    def count(self) -> Counter[State]:
        """Return how many files ended in each state."""
        counts = Counter(type(symbol.outcome) for symbol in self.symbols)
        return Counter({_STATES[kind]: count for kind, count in counts.items()})

    @property
    def fetched_bytes(self) -> int:
        """Length of all files fetched."""
        return sum(symbol.outcome.size_bytes for symbol in self.symbols if isinstance(symbol.outcome, Fetched))

    def exit_code(self, *, allow_missing: bool = False, allow_empty: bool = False) -> int:
        """Return how the command ends; see the table in docs/reference.md."""
        if self.is_interrupted:
            return 130
        if any(symbol.state is State.FAILED for symbol in self.symbols):
            return 1
        if self.unreadable or (self.is_empty and not allow_empty):
            return 4
        if not allow_missing and any(symbol.is_wanting for symbol in self.symbols):
            return 3
        return 0

    def as_json(self) -> dict[str, Any]:
        """Return the document ``symcache.report/1``."""
        counts = self.count()
        return {
            "schema": "symcache.report/1",
            "symbol_path": self.symbol_path,
            "store": None if self.store is None else str(self.store),
            "seconds": round(self.seconds, 3),
            "summary": {
                "wanted": len(self.symbols),
                **{state.value: counts[state] for state in State},
                "bytes": self.fetched_bytes,
            },
            "images_left_out": self.images_left_out,
            "symbols": [symbol.as_json() for symbol in self.symbols],
            "unreadable": [item.as_json() for item in self.unreadable],
        }
