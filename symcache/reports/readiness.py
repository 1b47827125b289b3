"""What will work in the debugger with the files that are at hand, in a few lines: decided from the report alone."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.identity import fold, is_kernel_or_hal
from symcache.inputs.records import InputKind
from symcache.reports.lines import names_text
from symcache.stores.results import Cause, Fetched, Hint, Missing, Present
from symcache.warm.managed import managed_debugging
from symcache.warm.plan import FileKind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.warm.report import Report, Symbol

_DUMPS = frozenset({InputKind.KERNEL_DUMP, InputKind.TRIAGE_DUMP, InputKind.MINIDUMP, InputKind.RAW_MEMORY})
_NO_PDB_NEEDED = frozenset({Cause.EMBEDDED, Cause.NO_DEBUG_RECORD})


@dataclass(frozen=True, slots=True)
class Readiness:
    """How many modules of a part of the machine have their symbols; *without* names those that have none."""

    part: str
    modules: int
    without: tuple[str, ...]

    def __str__(self) -> str:
        if not self.without:
            return f"{self.part}: symbols for all {self.modules}"
        count = f"{self.modules - len(self.without)} of {self.modules}"
        return f"{self.part}: symbols for {count}; none for {names_text(self.without)}"


def readiness(report: Report) -> Iterator[Readiness]:
    """Yield what matters first: the crash's stack, then the kernel, then all modules; nothing if no dump was read.

    Where nothing but the stack was wanted, nothing is known of the rest; modules of other systems have no PDBs.
    """
    is_of_dump = any(each.kind in _DUMPS for each in report.inputs)
    if not (is_of_dump or any(symbol.on_stack for symbol in report.symbols)):  # dumps in folders have stacks, too
        return
    modules: dict[str, list[Symbol]] = {}
    for symbol in report.symbols:
        if not (isinstance(symbol.outcome, Missing) and symbol.outcome.hint is Hint.FOREIGN_SYSTEM):
            modules.setdefault(fold(symbol.module), []).append(symbol)
    blocked = {fold(index) for symbol in report.symbols for index in symbol.keeps}
    on_stack = [name for name, symbols in modules.items() if any(symbol.on_stack for symbol in symbols)]
    kernel = [name for name in modules if is_kernel_or_hal(name)]
    parts = (("the crash's stack", on_stack), ("nt and hal", kernel), ("all modules", list(modules)))
    for part, names in parts[:1] if report.stack_only else parts:
        if names:
            without = tuple(modules[name][0].module for name in names if not _has_symbols(modules[name], blocked))
            yield Readiness(part, len(names), without)


def managed_lines(report: Report) -> Iterator[str]:
    """Yield for each .NET runtime of the inputs whether the debugger sees into its programs, or what it lacks."""
    for each in managed_debugging(report.symbols):
        what = f"managed debugging ({each.runtime}{'' if each.version is None else f' {each.version}'})"
        # Most debuggers are for x64, and say nothing of it but that they do not find a library for that.
        where = "" if "amd64" in each.hosts or not each.hosts else f" in a debugger for {' or '.join(each.hosts)}"
        if not each.is_ready:
            yield f"{what}: not ready; it lacks {names_text(each.lacks)}"
        elif each.lacks:
            yield f"{what}: ready{where}, without {names_text(each.lacks)}"
        else:
            yield f"{what}: ready{where}"
        if each.without_metadata:
            yield f"{what}: no metadata of {names_text(each.without_metadata)}"


def unread_places(report: Report) -> list[str]:
    """Return in what files that are at hand lie, ``a bundle`` or ``a bucket``, which no debugger reads."""
    outcomes = (symbol.outcome for symbol in report.symbols)
    unread = (each for each in outcomes if isinstance(each, Present) and each.in_bundle)
    return sorted({"a bundle" if each.url is None else "a bucket" for each in unread}, reverse=True)


def symbol_path(report: Report) -> str | None:
    """Return what to give to the debugger's ``.sympath``; None if there is no store."""
    store = report.store
    if store is None:
        return None
    # Texts are compared, as `Path.is_relative_to` takes long for thousands of files, whose paths begin as the store's.
    root = os.path.join(store, "")  # noqa: PTH118 - a path object has no separator at its end
    paths = (symbol.outcome.path for symbol in report.symbols if isinstance(symbol.outcome, Present | Fetched))
    return f"srv*{store}" if all(str(path).startswith(root) for path in paths) else report.symbol_path


def _has_symbols(symbols: Iterable[Symbol], blocked: set[str]) -> bool:
    """Say whether the PDB of a module is at hand, and whether the debugger will load it."""
    pdbs = [symbol for symbol in symbols if symbol.kind is not FileKind.IMAGE]
    return bool(pdbs) and all(
        (symbol.is_at_hand and fold(symbol.index or "") not in blocked) or symbol.cause in _NO_PDB_NEEDED
        for symbol in pdbs
    )
