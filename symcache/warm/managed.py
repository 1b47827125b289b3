"""Whether the debugger will see into the .NET programs of a run's inputs: told from what became of each wanted file."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from symcache.identity import fold, parse_index, parse_runtime_library
from symcache.inputs.records import ImageUse

if TYPE_CHECKING:
    from collections.abc import Iterable

    from symcache.warm.report import Symbol

_DATA_ACCESS = frozenset({"mscordaccore", "mscordacwks"})


@dataclass(slots=True)
class ManagedDebugging:
    """What there is of the libraries of one runtime.

    It *is_ready* if the data access library is at hand: nothing works without, most of it with it alone.
    """

    runtime: str  # name of the module that is or holds it
    version: str | None = None  # of its file, as the names of its libraries have it
    is_ready: bool = False
    hosts: list[str] = field(default_factory=list)  # processors that the debugger may be for, as far as names tell
    lacks: list[str] = field(default_factory=list)  # names of the files that are not at hand
    without_metadata: list[str] = field(default_factory=list)  # modules whose image is not at hand, and is needed

    def as_json(self) -> dict[str, Any]:
        """Return one entry of ``managed`` in ``symcache.report/1``."""
        return {
            "runtime": self.runtime,
            "version": self.version,
            "ready": self.is_ready,
            "hosts": self.hosts,
            "lacks": self.lacks,
            "without_metadata": self.without_metadata,
        }


def managed_debugging(symbols: Iterable[Symbol]) -> list[ManagedDebugging]:
    """Return what there is for each runtime among *symbols*, in their order; nothing where there is none.

    Several builds of one runtime are told apart. Modules whose metadata is wanting may belong to any of them.
    """
    found: dict[tuple[str, str], ManagedDebugging] = {}
    without_metadata: dict[str, str] = {}
    for symbol in symbols:
        if symbol.use is ImageUse.METADATA and not symbol.is_at_hand:
            without_metadata.setdefault(fold(symbol.module), symbol.module)
        # A library that a list or a log names by itself says nothing of its runtime.
        is_of_runtime = symbol.use is ImageUse.DATA_ACCESS and parse_runtime_library(symbol.module) is None
        if symbol.index is None or not is_of_runtime:
            continue
        key = parse_index(symbol.index)
        library = parse_runtime_library(key.name)
        # The libraries of a single file have keys of their own; those of other runtimes have the key of the runtime.
        is_of_file = library is not None and library.host is None and fold(symbol.module).endswith(".exe")
        group = (fold(symbol.module), "" if is_of_file else fold(key.id))
        each = found.setdefault(group, ManagedDebugging(symbol.module))
        if library is not None and library.version is not None:
            major, minor, build, revision = library.version
            each.version = f"{major}.{minor}.{build}.{revision}"
        if not symbol.is_at_hand:
            each.lacks.append(
                key.name if library is not None else f"{key.name}, which says what its libraries are called"
            )
        elif library is not None and library.base in _DATA_ACCESS:
            each.is_ready = True
            if library.host is not None:
                each.hosts.append(library.host)
    for each in found.values():
        each.without_metadata.extend(without_metadata.values())
    return list(found.values())
