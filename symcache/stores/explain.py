"""Walk the symbol path for one key as a fetch would, but copy nothing: who would be asked, and what they answer."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from anyio import to_thread

from symcache.errors import StoreError
from symcache.stores.check import check_file
from symcache.stores.http.store import HttpStore
from symcache.stores.local.tree import Form, Store

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from symcache.identity import Key
    from symcache.stores.chain import Chain, Place
    from symcache.stores.folder import PlainFolder
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
        for at, place in enumerate(chain.places):
            began_s = time.monotonic()
            form, answer = await _ask(place, key)
            seconds = time.monotonic() - began_s
            copies = _copies(chain, at, form) if form is not None else ()
            yield Step(number, at, place.name, answer, has_file=form is not None, seconds=seconds, copies=copies)
            if form is not None:
                return


async def _ask(place: Place, key: Key) -> tuple[Form | None, str]:
    if isinstance(place, HttpStore):
        return await place.ask(key)
    try:
        return await to_thread.run_sync(_look, place, key)
    except (StoreError, OSError) as error:
        return None, str(error)


def _look(place: Store | PlainFolder, key: Key) -> tuple[Form | None, str]:
    stored = place.find(key)
    if stored is None:
        return None, "not there"
    if stored.form is Form.PLAIN:
        verdict = check_file(stored.path, key)
        if verdict.problem is not None:
            return None, f"there, but {verdict.problem}"
    return stored.form, f"there, {stored.form}, {stored.size_bytes} bytes"


def _copies(chain: Chain, at: int, form: Form) -> tuple[tuple[str, str], ...]:
    """Return what a fetch would write, in the order in which it would: the bottom-most store comes last, and plain."""
    stores = [place for place in chain.places[:at] if isinstance(place, Store)]
    between = Form.COMPRESSED if form is Form.COMPRESSED else Form.PLAIN
    return tuple((store.name, (Form.PLAIN if store is stores[0] else between).value) for store in reversed(stores))
