"""What is missing: every server of the symbol path said that it lacks it, and no place on disk has it."""

from __future__ import annotations

from contextlib import suppress
from itertools import groupby
from typing import TYPE_CHECKING

from symcache.errors import StoreError
from symcache.identity import ImageKey, fold, parse_index, published_keys
from symcache.stores.links import ImageLinks, StoreLinks
from symcache.stores.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.identity import Key
    from symcache.stores.negative import Miss
    from symcache.stores.source import SymbolSource

__all__ = ["MissingFiles"]


class MissingFiles:
    """Tells for one symbol source.

    Args:
        source: Knows servers, stores and misses; it need not have been entered.
    """

    def __init__(self, source: SymbolSource) -> None:
        self._source = source
        self._disk = tuple(
            dict.fromkeys(store for chain in source.chains for store in chain.stores if store.is_on_disk)
        )

    def denied(self) -> Iterator[tuple[Miss, ...]]:
        """Yield all misses of each file that every server which is asked for its kind denied, in the order of indexes.

        Left out are images that were only asked for the PDB that they name, and this is known. Nothing is looked for
        on disk, so that a hundred thousand take seconds; see `drop_held`.
        """
        misses = self._source.misses
        if misses is None:
            return
        links = self._open_links()
        try:
            for _, group in groupby(misses.list(), key=lambda miss: fold(miss.index)):
                rows = tuple(group)
                key = parse_index(rows[0].index)
                asked = {server.name for server in self._source.servers if server.hints.refusal(key) is None}
                is_denied = bool(asked) and asked.issubset(miss.upstream for miss in rows)
                if is_denied and not (all(miss.in_passing for miss in rows) and _is_read(key, links)):
                    yield rows
        finally:
            links.close()

    def is_held(self, key: Key) -> bool:
        """Return whether any place on disk has *key*'s file, of an image under any of its names."""
        for place in self._disk:
            with suppress(StoreError):  # passed over, as by a walk of the symbol path
                if any(place.find(name) is not None for name in _names_of(key)):
                    return True
        return False

    def drop_held(self, keys: Sequence[Key]) -> list[Key]:
        """Return those of *keys* that are not held, in one go.

        Each store is listed once, and below it the folders of names alone that it and *keys* share: the disk is read
        as often as there are such names and files, not as often as there are keys.
        """
        left = {key.folded: key for key in keys}
        names: dict[str, Key] = {}
        owners: dict[str, list[str]] = {}
        for key in keys:
            for name in _names_of(key):
                names[name.folded] = name
                owners.setdefault(name.folded, []).append(key.folded)
        for place in self._disk:
            with suppress(StoreError):
                for held in place.holding(names.values()):
                    for owner in owners[held.folded]:
                        left.pop(owner, None)
        return list(left.values())

    def _open_links(self) -> ImageLinks:
        memory: Memory | None = None
        with suppress(StoreError):  # a warm run says so; here the stores' own notes have to do
            memory = Memory(self._source.config.misses.folder / "images")
        return ImageLinks(memory, [StoreLinks(store.root) for store in self._source.stores])


def _names_of(key: Key) -> tuple[Key, ...]:
    return published_keys(key) if isinstance(key, ImageKey) else (key,)


def _is_read(key: Key, links: ImageLinks) -> bool:
    return isinstance(key, ImageKey) and any(links.recall(name) is not None for name in published_keys(key))
