"""Walk the symbol path for one key as a fetch would, but copy nothing: who would be asked, and what they answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symcache.stores.local.tree import Form

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from symcache.identity import Key
    from symcache.stores.chain import Chain
    from symcache.stores.source import SymbolSource

__all__ = ["Step", "explain"]


@dataclass(frozen=True, slots=True)
class Step:
    """One place of the walk.

    Attributes:
        element: Number of the element of the symbol path, from 0.
        place: Number of the place in it, from 0.
        name: The place, free of secrets.
        answer: What it says, in a few words.
        has_file: It has the file; the walk of a fetch would end here.
        seconds: How long it took to say so.
        copies: Where the file would be copied from here: name of the store, and ``plain`` or ``compressed``.
    """

    element: int
    place: int
    name: str
    answer: str
    has_file: bool
    seconds: float
    copies: tuple[tuple[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the fields of ``symcache.explain/1``."""
        return {
            "element": self.element,
            "place": self.place,
            "name": self.name,
            "answer": self.answer,
            "has_file": self.has_file,
            "seconds": round(self.seconds, 4),
            "copies": [{"store": store, "form": form} for store, form in self.copies],
        }


async def explain(source: SymbolSource, key: Key) -> AsyncIterator[Step]:
    """Yield each place that is tried for *key*, in order, up to the one that has it."""
    if source.is_excluded(key):
        yield Step(0, 0, "exclusions.names", "never looked for", has_file=False, seconds=0.0)
        return
    for number, chain in enumerate(source.chains):
        for at, place in enumerate(chain.stores):
            began_s = time.monotonic()
            form, answer = await place.probe(key)
            seconds = time.monotonic() - began_s
            copies = _copies(chain, at, form) if form is not None else ()
            yield Step(number, at, place.name, answer, has_file=form is not None, seconds=seconds, copies=copies)
            if form is not None:
                return


def _copies(chain: Chain, at: int, form: Form) -> tuple[tuple[str, str], ...]:
    """Return what a fetch would write, in the order in which it would: the bottom-most store comes last, and plain."""
    stores = [store.local for store in chain.stores[:at] if store.local is not None]
    between = Form.COMPRESSED if form is Form.COMPRESSED else Form.PLAIN
    return tuple((store.name, (Form.PLAIN if store is stores[0] else between).value) for store in reversed(stores))
