"""Which PDBs, or which .dbg file, an image names, remembered by the image's key, so that its headers are fetched once.

What a key's image names never changes, so there is no time to live.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.identity import DbgKey, Pdb2Key, PdbKey, PortablePdbKey, parse_index
from symcache.store.memory import Memory

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path
    from types import TracebackType
    from typing import Self

    from symcache.identity import ImageKey

__all__ = ["ImageLinks", "Link"]


@dataclass(frozen=True, slots=True)
class Link:
    """One file that an image names.

    Attributes:
        key: Identity of the PDB or ``.dbg`` file.
        is_embedded: It lies in the image itself.
        checksums: ``ALGORITHM:hex`` as the image states them.
    """

    key: PdbKey | Pdb2Key | PortablePdbKey | DbgKey
    is_embedded: bool = False
    checksums: tuple[str, ...] = ()


class ImageLinks:
    """What images name, as far as this user has seen them.

    Args:
        folder: Where it is kept; see `Memory`.

    Raises:
        StoreError: The folder cannot be made, or belongs to somebody else.
    """

    def __init__(self, folder: Path) -> None:
        self._memory = Memory(folder)

    def recall(self, image: ImageKey) -> tuple[Link, ...] | None:
        """Return what *image* names, in file order; empty if it names none, None if it is not known."""
        text = self._memory.get(image.folded)
        return None if text is None else _parse(text)

    def remember(self, image: ImageKey, links: Sequence[Link]) -> None:
        """Note what *image* names."""
        rows = [[link.key.index, link.is_embedded, list(link.checksums)] for link in links]
        self._memory.set(image.folded, json.dumps(rows))

    def close(self) -> None:
        """Close the database; safe to call twice."""
        self._memory.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _parse(text: str) -> tuple[Link, ...] | None:
    """Return what *text* holds, trusting nothing in it."""
    links: list[Link] = []
    try:
        for index, is_embedded, checksums in json.loads(text):
            key = parse_index(index)
            if not isinstance(key, PdbKey | Pdb2Key | PortablePdbKey | DbgKey) or not all(
                type(c) is str for c in checksums
            ):
                return None
            links.append(Link(key, bool(is_embedded), tuple(checksums)))
    except (ValueError, TypeError, AttributeError, RecursionError, InputError):
        return None
    return tuple(links)
