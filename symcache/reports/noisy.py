"""A run's report as a debugger's ``!sym noisy`` would have told it, for those, and the tools, that read such logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.reports.lines import plain
from symcache.stores.results import Failed, Fetched, Missing, Present
from symcache.warm.plan import FileKind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.warm.report import Report, Symbol

_FOUND = "0x00000000"
_NOT_FOUND = "0x80190194"  # HTTP_STATUS_NOT_FOUND as an HRESULT
_UNKNOWN = "0x80072EE2"  # ERROR_INTERNET_TIMEOUT as one; symsrv has no code for all that can go wrong


def noisy_lines(report: Report) -> Iterator[str]:
    """Yield the lines: each file that was asked for is bracketed by ``BYINDEX`` and ``RESULT``.

    Source: transcripts of dbghelp 10.0.15063; see `symcache.inputs.log.noisy`, which reads them back.
    """
    for symbol in report.symbols:
        yield from question_lines(symbol, report.symbol_path)


def question_lines(symbol: Symbol, symbol_path: str) -> Iterator[str]:
    """Yield the lines about one file; none about one that could not be asked for. *symbol_path* is free of secrets."""
    if symbol.index is None:
        return
    name, _, rest = plain(symbol.index).partition("/")
    id_ = rest.partition("/")[0]
    outcome = symbol.outcome
    margin = " " * 9
    yield "SYMSRV:  BYINDEX: 0x1"
    yield f"{margin}{plain(symbol_path)}"
    yield f"{margin}{name}"
    yield f"{margin}{id_}"
    if isinstance(outcome, Missing | Failed):
        for attempt in outcome.attempts:
            asked = f"{plain(attempt.upstream)}/{plain(attempt.place_of(name, id_))}"
            yield f"SYMSRV:  {asked} - {plain(attempt.answer)}"
        if symbol.reason:
            yield f"SYMSRV:  {plain(symbol.reason)}"
        yield f"SYMSRV:  RESULT: {_NOT_FOUND if isinstance(outcome, Missing) else _UNKNOWN}"
        if symbol.kind is FileKind.PDB:
            yield f"DBGHELP: {_stem(symbol.module)} - no symbols loaded"
        return
    if isinstance(outcome, Fetched):
        yield f"SYMSRV:  {name} from {plain(outcome.upstream)}: {outcome.size_bytes} bytes - copied"
    assert isinstance(outcome, Present | Fetched)
    yield f"SYMSRV:  PATH: {plain(outcome.place)}"
    yield f"SYMSRV:  RESULT: {_FOUND}"
    if symbol.kind is FileKind.PDB:
        yield f"DBGHELP: {_stem(symbol.module)} - public symbols  "
        yield f"{margin}{plain(outcome.place)}"


def _stem(module: str) -> str:
    return plain(module).rpartition(".")[0] or plain(module)
