"""Why files are not at hand and what to do about each, in groups of one cause, what a person can mend first."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.identity import PdbKey, PortablePdbKey, parse_index
from symcache.stores.results import Cause, Failed, Fetched, Hint, Missing, Present

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from symcache.stores.results import Attempt
    from symcache.warm.report import State, Symbol

_ADVICE = {
    Cause.UNAVAILABLE: "try again later; symcache goes on where it was",
    Cause.REFUSED: "see credentials ([[server]]) and certificates (network.ca_file) in the config file, or a proxy",
    Cause.WRONG_CONTENT: "what is published under this key is another file; tell its publisher, or try another server",
    Cause.DISK: "make room or mend the rights, then run it again",
    Cause.NOT_PUBLISHED: "no server of the symbol path has it; ask its maker, or add a server that does",
    Cause.REMEMBERED_MISS: "it was not published when last asked; `symcache missing --retry` asks again",
    Cause.NO_IDENTITY: "the input does not hold enough to name it; a fuller dump or the image itself would",
    Cause.IMAGE_NOT_PUBLISHED: "the input names only the image, and no server has that; give the image itself as input",
    Cause.NOT_CACHED: "`symcache warm` with the same inputs fetches it",
    Cause.NO_DEBUG_RECORD: "the image names no PDB; there is nothing to fetch",
    Cause.UNUSABLE_IDENTITY: "the image names a PDB that no symbol store can hold; ask its maker for the PDB itself",
    Cause.EMBEDDED: "the PDB lies in the image itself; there is nothing to fetch",
    Cause.EXCLUDED: "exclusions.names in the config file leaves it out",
    Cause.KNOWN_MISSING: "it was missing when the lock file was written; the lock asks for what was there",
}

_HINTED = {
    Hint.PAGE: "a page came instead: credentials are needed (see [[server]]), or the server answers misses with 200",
    Hint.POINTER: "the server only says where the file lies; pointers.allow in the config file lets that be followed",
    Hint.NO_SERVER: "no server was asked: the symbol path names none; see `symcache path`, and -y or --upstream URL",
    Hint.FOREIGN_SYSTEM: "a dump of another system: its programs have no PDBs, and no fuller dump helps",
    Hint.OTHER_BUILD: "another build's file is published under this key; tell its publisher, or try another server",
    Hint.OTHER_BYTES: "the same build, but not the file that the lock states (it has private symbols, or has them not);"
    " nothing was replaced: take the file from where the lock was made, or write the lock anew",
    Hint.CUT_SHORT: "what is published there ends too early; tell its publisher, or try another server",
    Hint.INTERRUPTED: "the run was interrupted before its turn; run it again, it goes on where it was",
    Hint.WITHDRAWN: "its publisher says that it is not available; ask them",
    Hint.NEVER_PUBLISHED: "a driver of SafeDisc copy protection, whose symbols were never published; leave it alone",
    Hint.THIRD_PARTY: "not Microsoft's; its maker may have a server of its own, or send the file when asked",
    Hint.PRIVATE_BUILD: "a private build: who built it has the PDB",
    Hint.RUNTIME: "copy it from the runtime's folder on the machine that the dump is of; then `.cordll -lp FOLDER` in"
    " WinDbg, or `setclrpath FOLDER` of SOS, takes it from there",
    Hint.PRIVATE_RUNTIME: "not Microsoft's build of .NET: who built this runtime has its libraries, and they lie in its"
    " folder on the machine; `.cordll -lp FOLDER` in WinDbg, or `setclrpath FOLDER` of SOS, takes a copy of them",
    Hint.NEW_BUILD: "of a Windows newer than the last release; its symbols come days later, or to insiders alone",
    Hint.MICROSOFT: "Microsoft did not publish it; a report written with --report FILE.md has what to tell them",
    Hint.LOOP: "servers ask each other in a circle; take one out of the symbol path of another",
}
"""Advice that comes before that of the cause."""


@dataclass(frozen=True, slots=True)
class Group:
    """Files that are not at hand for one and the same reason.

    *said* is what was answered for each of them, in words; empty where the answers differ, or nothing was.
    """

    state: State
    cause: Cause
    hint: Hint | None
    symbols: Sequence[Symbol]
    said: str = ""

    @property
    def advice(self) -> str:
        """What to do, in one line."""
        return advice(self.symbols[0])

    @property
    def servers(self) -> dict[str, str]:
        """URLs of the servers of the makers of these files, by maker, as far as there are any that were not asked."""
        asked = {attempt.upstream for symbol in self.symbols for attempt in attempts_of(symbol)}
        makers = {symbol.maker for symbol in self.symbols if symbol.maker is not None}
        known = {maker.name: maker.server for maker in makers if maker.server is not None}
        return {name: known[name] for name in sorted(known) if known[name] not in asked}

    @property
    def title(self) -> str:
        """State and cause with what is known beyond it: ``failed: wrong-content, page``."""
        return f"{self.state.value}: {self.cause.value}" + (f", {self.hint.value}" if self.hint else "")


def advice(symbol: Symbol) -> str:
    """Return what to do about a file that is missing or failed, in one line; empty for others."""
    outcome = symbol.outcome
    if not isinstance(outcome, Missing | Failed):
        return ""
    return _ADVICE[outcome.cause] if outcome.hint is None else _HINTED[outcome.hint]


def attempts_of(symbol: Symbol) -> Sequence[Attempt]:
    """Return who was asked for a file that is missing or failed; nobody for others."""
    return symbol.outcome.attempts if isinstance(symbol.outcome, Missing | Failed) else ()


def made_by(symbol: Symbol) -> str:
    """Return who made the module that needs a file, and which version it is of, in a few words; empty if not known."""
    origin, maker = symbol.origin, symbol.maker
    if origin is None or maker is None:
        return ""
    return f"{maker.name}, by its name" if maker.is_presumed else f"{maker.name} {origin.number or ''}".rstrip()


def missing_to_tell(symbols: Iterable[Symbol]) -> list[Symbol]:
    """Return those of *symbols* that are missing and of whose modules enough is known to ask their makers."""
    return [symbol for symbol in symbols if symbol.is_wanting and symbol.origin is not None]


def what_to_tell(symbol: Symbol) -> Iterator[str]:
    """Yield what the maker of a module has to know to look for a file that is missing, line by line."""
    origin = symbol.origin
    version = None if origin is None else origin.version
    product = None if version is None else version.product
    facts = {
        "File": " ".join(filter(None, [symbol.module, None if version is None else version.file_version])),
        "Made by": ", ".join(filter(None, [symbol.maker.name if symbol.maker else None, product])),
        "Path": (origin.path if origin is not None else None) or "",
        "Windows": (origin.windows if origin is not None else None) or "",
    }
    if origin is not None and origin.image is not None:
        image = origin.image
        facts["Image"] = f"{image.index} (time stamp {image.timestamp:08X}, size {image.size_of_image:#x})"
    key = None if symbol.index is None else parse_index(symbol.index)
    if isinstance(key, PdbKey | PortablePdbKey):
        age = f", age {key.age}" if isinstance(key, PdbKey) else ""
        facts["PDB"] = f"{key.name}, GUID {{{str(key.guid).upper()}}}{age}"
    yield from (f"{name + ':':11}{fact}" for name, fact in facts.items() if fact)
    for attempt in attempts_of(symbol):
        place = "" if key is None else f"/{attempt.place_of(key.name, key.id)}"
        yield f"{'Asked:':11}{attempt.upstream}{place}: {attempt.answer}"


def group_by_cause(symbols: Iterable[Symbol]) -> list[Group]:
    """Return those of *symbols* that are not at hand, in groups: what the crash is about, then what one can mend."""
    groups: dict[tuple[Cause, Hint | None], list[Symbol]] = {}
    for symbol in symbols:
        outcome = symbol.outcome
        if isinstance(outcome, Missing | Failed):
            groups.setdefault((outcome.cause, outcome.hint), []).append(symbol)
    found = []
    for cause in _ADVICE:
        for hint in (None, *Hint):
            group = groups.get((cause, hint))
            if group:
                group.sort(key=_place)
                said = {evidence(symbol) for symbol in group}
                common = said.pop() if len(said) == 1 and len(group) > 1 else ""
                found.append(Group(group[0].state, cause, hint, group, common))
    found.sort(key=lambda group: not group.symbols[0].on_stack)  # what the crash is about comes first
    return found


def _place(symbol: Symbol) -> tuple[bool, bool, str]:
    """Return what a group is sorted by: what the crash is about in the order of its stack, then makers together."""
    maker = "" if symbol.on_stack else made_by(symbol)
    return not symbol.on_stack, maker == "", maker


def in_order_of_trouble(symbols: Iterable[Symbol]) -> Iterator[Symbol]:
    """Yield *symbols* by what needs attention: failed and missing ones, in the order of their groups, then the rest.

    Of the first, those that the crash is about come before the others.
    """
    symbols = list(symbols)
    groups = group_by_cause(symbol for symbol in symbols if symbol.needs_attention)
    troubled = [symbol for group in groups for symbol in group.symbols]
    yield from sorted(troubled, key=lambda symbol: not symbol.on_stack)
    yield from (symbol for symbol in symbols if not symbol.needs_attention)


def evidence(symbol: Symbol) -> str:
    """Return what every upstream said of a symbol that is missing or failed, else the reason in words.

    Where the disk is to blame, what the places of the symbol path said explains nothing.
    """
    outcome = symbol.outcome
    blames_disk = isinstance(outcome, Failed) and outcome.cause is Cause.DISK
    said: dict[str, dict[str, None]] = {}
    for attempt in () if blames_disk else attempts_of(symbol):
        said.setdefault(attempt.upstream, {})[attempt.answer] = None
    if not said:
        return symbol.reason or ""
    return "; ".join(f"{upstream}: {', '.join(answers)}" for upstream, answers in said.items())


def why(symbol: Symbol) -> str:
    """Return cause and evidence of a symbol that is not at hand; of another what is odd about it, or its upstream."""
    outcome = symbol.outcome
    if isinstance(outcome, Present | Fetched):
        return outcome.note or (outcome.upstream if isinstance(outcome, Fetched) else "")
    return "; ".join(filter(None, [outcome.cause.value, outcome.hint, evidence(symbol)]))
