"""What inputs need, as far as it can be told without a network."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from symcache.identity import ImageKey, parse_index, published_keys
from symcache.stores.disk import DiskSource
from symcache.stores.results import Cause, Failed, Missing, Present
from symcache.warm.local import LocalRun
from symcache.warm.plan import FileKind

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from symcache.config import Config
    from symcache.identity import Key
    from symcache.inputs.records import ProcessSelection, Unreadable
    from symcache.stores.links import Link
    from symcache.stores.local.tree import Store
    from symcache.warm.plan import Plan
    from symcache.warm.report import Symbol

__all__ = ["Needs", "find_needs"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What inputs need.

    Attributes:
        keys: Files that are known by their keys, once each; a kernel or HAL by the one that the store has it under.
        images: Images that are known while their PDBs are not, because they have not been read yet.
        nameless: What cannot be named at all, each in one line.
        unreadable: Inputs, and files of folders, that could not be read.
        links: What images name, of those whose PDB is known by the image alone.
        is_empty: The inputs hold no module at all.
    """

    keys: tuple[Key, ...] = ()
    images: tuple[ImageKey, ...] = ()
    nameless: tuple[str, ...] = ()
    unreadable: tuple[Unreadable, ...] = ()
    links: Mapping[ImageKey, tuple[Link, ...]] = field(default_factory=dict)
    is_empty: bool = False


def find_needs(config: Config, inputs: Sequence[str], plan: Plan, processes: ProcessSelection | None) -> Needs:
    """Return what `symcache warm` would fetch for *inputs*.

    Args:
        config: Every setting.
        inputs: As the user named them.
        plan: How modules are understood.
        processes: Processes of kernel dumps whose modules count; None for none.

    Raises:
        ConfigError: A place of the symbol path that cannot be reached from this system.
        StoreError: The store cannot be read.
    """
    source = DiskSource(config)
    with closing(source), LocalRun(source, plan) as run:
        report = run.check(run.open_inputs(inputs, processes))
    keys: list[Key] = []
    nameless: list[str] = []
    for symbol in report.symbols:
        key = None if symbol.index is None else parse_index(symbol.index)
        if key is None:
            nameless.append(f"{symbol.module}: {symbol.reason or symbol.cause}")
        elif _is_file(symbol, key):
            keys.append(_name_in_store(source.store, key))
    return Needs(tuple(keys), tuple(run.unnamed), tuple(nameless), tuple(report.unreadable), run.links, report.is_empty)


def _name_in_store(store: Store | None, key: Key) -> Key:
    """Return the one of the names that debuggers try under which *store* has *key*'s file; *key* if there is none."""
    if store is None or not isinstance(key, ImageKey):
        return key
    return next((name for name in published_keys(key) if store.find(name) is not None), key)


def _is_file(symbol: Symbol, key: Key) -> bool:
    if symbol.kind is FileKind.PDB and isinstance(key, ImageKey):
        return False  # a PDB that is known by its image alone
    match symbol.outcome:
        case Present() | Failed() | Missing(Cause.NOT_CACHED):
            return True
    return False
