"""Files and folders of a volume or an archive, whatever holds them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView


@dataclass(frozen=True, slots=True)
class TreeEntry:
    """A name in a folder.

    Attributes:
        name: Without a path.
        is_folder: It can be listed; a link to a folder cannot.
        place: Where the tree has it; what has several names has one place.
    """

    name: str
    is_folder: bool
    place: int | str | bytes


class FileTree(Protocol):
    """What a volume, an image of an archive, or a folder that is mounted has."""

    @property
    def root(self) -> TreeEntry:
        """The folder that everything lies below."""
        ...

    def entries(self, folder: TreeEntry) -> Iterator[TreeEntry]:
        """Yield what *folder* holds, in any order.

        Raises:
            InputError: It cannot be listed, or no further.
        """
        ...

    def open(self, file: TreeEntry) -> ByteView:
        """Return what *file* holds.

        Raises:
            InputError: Its data cannot be had.
        """
        ...


def find(tree: FileTree, *names: str, start: TreeEntry | None = None) -> TreeEntry | None:
    """Return what lies at the path *names* below *start*, or the root, whatever the letter case; None if nothing."""
    entry = start or tree.root
    for name in names:
        if not entry.is_folder:
            return None
        found = next((each for each in tree.entries(entry) if each.name.casefold() == name.casefold()), None)
        if found is None:
            return None
        entry = found
    return entry
