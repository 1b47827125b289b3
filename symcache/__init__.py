"""Fill, check and serve local stores of Windows symbol files.

`SymbolCache` does the work; the rest are its values. Names are imported when they are first used, as httpx and its
like cost more than many a program that only wants a key.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from symcache._version import __version__

if TYPE_CHECKING:
    from symcache.config import Config, load_config
    from symcache.errors import (
        ConfigError,
        InputError,
        MalformedInput,
        StoreError,
        SymbolPathError,
        SymcacheError,
        UpstreamError,
        UsageError,
    )
    from symcache.events import Event, Observer
    from symcache.formats.pe.version import VersionInfo
    from symcache.identity import DbgKey, ImageKey, Key, OtherKey, Pdb2Key, PdbKey, PortablePdbKey, parse_index
    from symcache.inputs.builds.source import BuildSource
    from symcache.inputs.detect import InputSource, ModuleSource, read_input
    from symcache.inputs.live import LiveKernel, LiveProcess
    from symcache.inputs.records import (
        CrashStack,
        ImageUse,
        Input,
        KernelPdbWanted,
        Module,
        PdbFolder,
        PdbReference,
        ProcessSelection,
        ProcessSummary,
        Runtime,
        StackModule,
        Unreadable,
    )
    from symcache.stores.local.tree import Store
    from symcache.stores.results import Attempt, Cause, Failed, Fetched, Hint, Missing, Outcome, Present
    from symcache.sympath import SymbolPath, parse_symbol_path
    from symcache.warm.cache import Scan, SymbolCache, SyncSymbolCache
    from symcache.warm.inspect import Inspection
    from symcache.warm.plan import ImageChoice
    from symcache.warm.report import Report, State, Symbol
    from symcache.warm.servers import ListedServer

__all__ = [
    "Attempt",
    "BuildSource",
    "Cause",
    "Config",
    "ConfigError",
    "CrashStack",
    "DbgKey",
    "Event",
    "Failed",
    "Fetched",
    "Hint",
    "ImageChoice",
    "ImageKey",
    "ImageUse",
    "Input",
    "InputError",
    "InputSource",
    "Inspection",
    "KernelPdbWanted",
    "Key",
    "ListedServer",
    "LiveKernel",
    "LiveProcess",
    "MalformedInput",
    "Missing",
    "Module",
    "ModuleSource",
    "Observer",
    "OtherKey",
    "Outcome",
    "Pdb2Key",
    "PdbFolder",
    "PdbKey",
    "PdbReference",
    "PortablePdbKey",
    "Present",
    "ProcessSelection",
    "ProcessSummary",
    "Report",
    "Runtime",
    "Scan",
    "StackModule",
    "State",
    "Store",
    "StoreError",
    "Symbol",
    "SymbolCache",
    "SymbolPath",
    "SymbolPathError",
    "SymcacheError",
    "SyncSymbolCache",
    "Unreadable",
    "UpstreamError",
    "UsageError",
    "VersionInfo",
    "__version__",
    "load_config",
    "parse_index",
    "parse_symbol_path",
    "read_input",
]

_HOMES = {
    "config": "Config load_config",
    "errors": "ConfigError InputError MalformedInput StoreError SymbolPathError SymcacheError UpstreamError UsageError",
    "events": "Event Observer",
    "formats.pe.version": "VersionInfo",
    "identity": "DbgKey ImageKey Key OtherKey Pdb2Key PdbKey PortablePdbKey parse_index",
    "inputs.builds.source": "BuildSource",
    "inputs.detect": "InputSource ModuleSource read_input",
    "inputs.live": "LiveKernel LiveProcess",
    "inputs.records": (
        "CrashStack ImageUse Input KernelPdbWanted Module PdbFolder PdbReference ProcessSelection ProcessSummary"
        " Runtime StackModule Unreadable"
    ),
    "stores.local.tree": "Store",
    "stores.results": "Attempt Cause Failed Fetched Hint Missing Outcome Present",
    "sympath": "SymbolPath parse_symbol_path",
    "warm.cache": "Scan SymbolCache SyncSymbolCache",
    "warm.inspect": "Inspection",
    "warm.plan": "ImageChoice",
    "warm.report": "Report State Symbol",
    "warm.servers": "ListedServer",
}


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names.split():
            return getattr(importlib.import_module(f"symcache.{home}"), name)
    raise AttributeError(f"module 'symcache' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
