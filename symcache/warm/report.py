"""What became of every wanted file: the report of ``warm`` and ``check``."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from symcache.stores.results import Cause, Failed, Fetched, Missing, Outcome, Present
from symcache.warm.managed import managed_debugging
from symcache.warm.plan import FileKind

if TYPE_CHECKING:
    from collections.abc import Container, Sequence
    from pathlib import Path

    from symcache.inputs.records import ImageUse, Input, Narrowed, Unreadable
    from symcache.stores.results import Attempt
    from symcache.warm.makers import Maker, Origin


class State(StrEnum):
    """The one state that each wanted file ends in."""

    PRESENT = "present"
    FETCHED = "fetched"
    MISSING = "missing"
    FAILED = "failed"


class FailOn(StrEnum):
    """What makes a run fail, for those who say it themselves."""

    MISSING = "missing"  # a file that could be somewhere
    FAILED = "failed"  # a file that could not be had, or not be looked for
    IMAGES = "images"  # a missing file that is an image
    PRIVATE = "private"  # a PDB at hand with private symbols, that was not meant to leave the house


_STATES: dict[type[Outcome], State] = {
    Present: State.PRESENT,
    Fetched: State.FETCHED,
    Missing: State.MISSING,
    Failed: State.FAILED,
}

# Nothing that exists anywhere, or that a lock file asks for, is wanting in these cases: the run is complete without.
HARMLESS = frozenset(
    {Cause.EMBEDDED, Cause.NO_DEBUG_RECORD, Cause.UNUSABLE_IDENTITY, Cause.EXCLUDED, Cause.KNOWN_MISSING}
)


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
    origin: Origin | None = None  # what is known of the module, of a file that is not at hand
    on_stack: bool = False  # the module that needs it is on the stack of a crash

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

    @property
    def maker(self) -> Maker | None:
        """Who made the module, as far as that was looked for and is known."""
        return None if self.origin is None else self.origin.maker

    @property
    def needs_attention(self) -> bool:
        """A person should know of it: it failed, or it is missing and not only because there is nothing to fetch."""
        return self.is_wanting or self.state is State.FAILED or self.cause is Cause.UNUSABLE_IDENTITY

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
            "path": None if found is None else found.place,
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
        if self.on_stack:
            fields["on_stack"] = True
        if self.use is not None:
            fields["needed_for"] = self.use
        if self.keeps:
            fields["keeps_from_loading"] = list(self.keeps)
        if self.reload is not None:
            fields["reload"] = self.reload
        if self.maker is not None:
            fields["maker"] = {"name": self.maker.name, "presumed": self.maker.is_presumed, "server": self.maker.server}
        if self.origin is not None and self.origin.version is not None:
            fields["version"] = self.origin.version.as_json()
        return fields


@dataclass(frozen=True, slots=True)
class Guess:
    """An image of which only several possible keys were known."""

    module: str
    asked: int  # how many of them servers were asked for
    image: str | None  # index of the one that there is; None if none was found

    def as_json(self) -> dict[str, Any]:
        """Return the fields of one JSON object."""
        return asdict(self)


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
    guesses: Sequence[Guess] = ()  # images of which only candidates were known
    narrowed: Narrowed | None = None  # to which sets the inputs were narrowed, if that left modules out
    is_empty: bool = False  # the inputs hold no module at all
    inputs: Sequence[Input] = ()
    private: Sequence[str] = ()  # indexes of PDBs at hand with private symbols, where that was asked
    without_stack: Sequence[str] = ()  # inputs that nothing was wanted of, as only modules on stacks were wanted
    stack_only: bool = False  # only modules on stacks were wanted

    def count(self) -> Counter[State]:
        """Return how many files ended in each state."""
        counts = Counter(type(symbol.outcome) for symbol in self.symbols)
        return Counter({_STATES[kind]: count for kind, count in counts.items()})

    @property
    def lacks_stack(self) -> bool:
        """Only modules on stacks were wanted, and no input has one."""
        return bool(self.without_stack) and not self.symbols

    @property
    def fetched_bytes(self) -> int:
        """Length of all files fetched."""
        return sum(symbol.outcome.size_bytes for symbol in self.symbols if isinstance(symbol.outcome, Fetched))

    def exit_code(
        self, *, allow_missing: bool = False, allow_empty: bool = False, fail_on: Container[FailOn] | None = None
    ) -> int:
        """Return how the command ends; see the table in docs/reference.md. With *fail_on* these alone make it fail."""
        if self.is_interrupted:
            return 130
        if fail_on is None:
            fail_on = {FailOn.FAILED} if allow_missing else {FailOn.FAILED, FailOn.MISSING}
        if FailOn.FAILED in fail_on and any(symbol.state is State.FAILED for symbol in self.symbols):
            return 1
        if self.unreadable or self.lacks_stack or (self.is_empty and not allow_empty):
            return 4
        wanting = [symbol for symbol in self.symbols if symbol.is_wanting]
        is_incomplete = (
            (FailOn.MISSING in fail_on and bool(wanting))
            or (FailOn.IMAGES in fail_on and any(symbol.kind is FileKind.IMAGE for symbol in wanting))
            or (FailOn.PRIVATE in fail_on and bool(self.private))
        )
        return 3 if is_incomplete else 0

    def as_json(self) -> dict[str, Any]:
        """Return the document ``symcache.report/1``."""
        counts = self.count()
        managed = managed_debugging(self.symbols)
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
            "inputs": [{"path": each.path, "kind": each.kind} for each in self.inputs],
            "images_left_out": self.images_left_out,
            **({"modules_left_out": self.narrowed.modules} if self.narrowed else {}),
            **({"guesses": [guess.as_json() for guess in self.guesses]} if self.guesses else {}),
            "symbols": [symbol.as_json() for symbol in self.symbols],
            "unreadable": [item.as_json() for item in self.unreadable],
            **({"managed": [each.as_json() for each in managed]} if managed else {}),
            **({"private": list(self.private)} if self.private else {}),
            **({"without_stack": list(self.without_stack)} if self.without_stack else {}),
        }
