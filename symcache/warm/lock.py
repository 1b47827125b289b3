"""What a lock file states of a run's report: decided from what is known of each file, without disk or network."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from symcache.identity import ImageKey, fold, parse_index
from symcache.inputs.lock import LockedFile
from symcache.inputs.records import Module
from symcache.stores.results import Cause, Missing, Present
from symcache.warm.plan import FileKind

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from symcache.identity import Key
    from symcache.inputs.records import Record, Recorded
    from symcache.warm.report import Report, Symbol


class Said:
    """What lock files and reports among the inputs say of files: why they are missing, where they came from."""

    def __init__(self) -> None:
        self._of: dict[tuple[str, str], Recorded] = {}

    def watch(self, records: Iterable[Record]) -> Iterator[Record]:
        """Yield *records*, and keep what they say of files."""
        for record in records:
            if isinstance(record, Module) and record.recorded is not None:
                key = record.key
                self._of.setdefault((record.recorded.kind, "" if key is None else key.folded), record.recorded)
            yield record

    def of(self, symbol: Symbol) -> Recorded | None:
        """Return what was said of the file of *symbol*."""
        return None if symbol.index is None else self._of.get((symbol.kind.value, fold(symbol.index)))


def with_known_causes(report: Report, said: Said, denied: Callable[[], Collection[str]]) -> Report:
    """Return *report* with the cause of each file that no store has, where the inputs or the memory of misses tell it.

    *denied* returns the folded indexes that every server of the symbol path said no to; it is called at most once.
    """
    if not any(symbol.cause is Cause.NOT_CACHED for symbol in report.symbols):
        return report
    refused = denied()
    return replace(report, symbols=[_with_cause(symbol, said.of(symbol), refused) for symbol in report.symbols])


def _with_cause(symbol: Symbol, recorded: Recorded | None, denied: Collection[str]) -> Symbol:
    if symbol.cause is not Cause.NOT_CACHED or symbol.index is None:
        return symbol
    if recorded is not None and recorded.cause in _DEFINITE:
        cause = Cause(recorded.cause)
    elif fold(symbol.index) in denied:
        is_of_image = symbol.kind is FileKind.PDB and isinstance(parse_index(symbol.index), ImageKey)
        cause = Cause.IMAGE_NOT_PUBLISHED if is_of_image else Cause.NOT_PUBLISHED
    else:
        return symbol
    return replace(symbol, outcome=Missing(cause))


# What a report says for good; a file that it has as failed, or as not looked for, may be somewhere.
_DEFINITE = frozenset(map(str, (Cause.NOT_PUBLISHED, Cause.REMEMBERED_MISS, Cause.IMAGE_NOT_PUBLISHED)))


def make_lock(report: Report, digest: Callable[[Key], tuple[int, str]], said: Said) -> list[LockedFile]:
    """Return what a lock file states of *report*, none of whose files failed.

    *digest* returns length in bytes and SHA-256 of a file that is present.
    """
    files: list[LockedFile] = []
    for symbol in report.symbols:
        key = None if symbol.index is None else parse_index(symbol.index)
        recorded = said.of(symbol)
        if key is not None and isinstance(symbol.outcome, Present):
            origin = None if recorded is None else recorded.origin
            files.append(LockedFile(symbol.module, symbol.kind, key, *digest(key), origin=origin))
        else:
            files.append(LockedFile(symbol.module, symbol.kind, key, cause=_cause(symbol)))
    return files


def _cause(symbol: Symbol) -> str:
    """Return why *symbol* is missing; of one that a lock file had as missing, why it was then."""
    if symbol.cause is Cause.KNOWN_MISSING and symbol.detail is not None:
        return symbol.detail
    # Whether somebody asked just now or some time ago is no fact about the file.
    return Cause.NOT_PUBLISHED if symbol.cause is Cause.REMEMBERED_MISS else str(symbol.cause)
