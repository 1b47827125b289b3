"""The whole job with an upstream of our own, and whether it came out as it must: what ``symcache demo`` runs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.config import Config, MissSettings, Network, ServerEntry, StoreSettings
from symcache.identity import fold
from symcache.stores.results import Cause, Fetched, Present
from symcache.stores.source import SymbolSource
from symcache.sympath import ChainElement, HttpPlace, LocalPlace, SymbolPath
from symcache.warm.local import LocalRun
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from symcache.events import Observer
    from symcache.synth.session import SessionModule
    from symcache.warm.report import Report, Symbol

__all__ = ["Rehearsal", "find_deviations", "rehearse"]


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """Where a rehearsal takes place.

    Attributes:
        url: The upstream.
        store: The store to fill.
        memory: Folder for remembered misses; the user's own is left alone.
    """

    url: str
    store: Path
    memory: Path

    @property
    def config(self) -> Config:
        """Settings that owe nothing to the user's: no file, no environment, no proxy."""
        return Config(
            symbol_path=SymbolPath((ChainElement((LocalPlace(str(self.store)), HttpPlace(self.url))),)),
            store=StoreSettings(folder=self.store),
            network=Network(proxy="", backoff_s=0.05, retries=2),
            misses=MissSettings(folder=self.memory),
            # What is known of Microsoft's server holds for one that behaves like it.
            server=(ServerEntry(self.url, compressed=False, two_tier=False),),
        )


async def rehearse(rehearsal: Rehearsal, inputs: Sequence[Path], observer: Observer) -> Report:
    """Warm the store with what *inputs* need, through the code that ``symcache warm`` runs."""
    async with SymbolSource(rehearsal.config, observer=observer) as source:
        with LocalRun(source, observer=observer) as run:
            return await Warmer(source, run).warm(run.open_inputs(inputs))


def find_deviations(report: Report, modules: Sequence[SessionModule], published: Mapping[str, bytes]) -> Iterator[str]:
    """Yield what came out otherwise than it must, one line each.

    Every PDB that is published must be in the store, byte for byte, and so must images that the dump lacks; every other
    PDB must be missing because it is not published; and nothing else may have been wanted.

    Args:
        report: Of the run.
        modules: What the inputs hold.
        published: The right files, by index; not what the upstream was given, which may have come to harm.
    """
    left = {fold(symbol.index or symbol.module): symbol for symbol in report.symbols}
    for module in modules:
        symbol = left.pop(module.pdb.folded, None)
        if symbol is None:
            yield f"{module.pdb.index}: it was not requested"
        elif module.is_published:
            yield from _compare(symbol, published[module.pdb.index])
        elif symbol.cause is not Cause.NOT_PUBLISHED:
            yield f"{module.pdb.index}: {symbol.cause or symbol.state}, but it is not published"
        # Its debug directory is not in the dump, so that a debugger asks for the image first.
        if module.is_paged_out and (image := left.pop(module.image.folded, None)) is not None:
            yield from _compare(image, published[module.image.index])
    for symbol in left.values():
        yield f"{symbol.index or symbol.module}: {symbol.cause or symbol.state}, but it is not needed"
    for item in report.unreadable:
        yield f"{item.path}: {item.problem}"


def _compare(symbol: Symbol, right: bytes) -> Iterator[str]:
    outcome = symbol.outcome
    if not isinstance(outcome, Present | Fetched):
        yield f"{symbol.index}: {outcome.cause}, but it is published"
    elif outcome.path.read_bytes() != right:
        yield f"{symbol.index}: the store's file is not the one that is published"
