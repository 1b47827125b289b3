"""What ``wimlib-imagex dir IMAGE --detailed`` prints: the files of an image of a WIM file, as a tree.

A file or folder, after the folder that it lies in: ``Full Path = "..."`` from the root on, with slashes or, on Windows,
backslashes; ``Attributes = 0x...``; other fields; then each stream, of which ``Unnamed data stream:`` is the content,
with ``Hash = 0x...`` (SHA-1) and ``Uncompressed size = ... bytes``, the latter only if it lies in the file.
Source: wimlib 1.13.5 and 1.14.5, programs/imagex.c, print_dentry_detailed and print_resource.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

from symcache.errors import MalformedInput
from symcache.formats.disk.tree import TreeEntry
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from symcache.formats.view import ByteView

_FIELD = re.compile(
    rb'(?:Full Path += "(.+)"|Attributes += 0x([0-9a-f]{1,8})|\t(.+):'
    rb"|Hash += 0x([0-9a-f]{40})|Uncompressed size += (\d{1,20}) bytes)\r?\n?"
)
_PATH, _FLAGS, _HASH, _SIZE = b"Full", b"Attr", b"Hash", b"Unco"
_BEGINNINGS = frozenset({_PATH, _FLAGS, _HASH, _SIZE})
_CONTENT = b"Unnamed data stream"
_NO_HASH = bytes(20)
_IS_FOLDER, _IS_LINK = 0x10, 0x400
_MOST_ENTRIES = 1_000_000  # a Windows has 100,000
_DEEPEST = 40
_LISTED_DEPTH = 3  # by these folders Windows is told, be they empty: \Windows\System32\drivers


class ListedFile(NamedTuple):
    """A file of an image: its path from the root on, with slashes between names, and its length in bytes."""

    path: str
    size: int


class ListedTree:
    """The files of an image that are taken, and the folders that they lie in; links are not, nor what they lead to."""

    def __init__(
        self, lines: Iterable[bytes], takes: Callable[[Sequence[str]], bool], lend: Callable[[bytes], ByteView]
    ) -> None:
        """Take in what the program printed.

        Args:
            lines: The latter.
            takes: Says whether a file is taken, by its path: folders from the root on, and its name. They are what the
                image says, ``..`` and all.
            lend: Returns a content by its SHA-1, or raises `InputError`.

        Raises:
            MalformedInput: It has more files than any image of Windows.
        """
        self.root = TreeEntry("", True, "")
        self.files: dict[bytes, ListedFile] = {}  # by the SHA-1 of their content; of several paths the shortest
        self._folders: dict[str, list[TreeEntry]] = {"": []}
        self._takes = takes
        self._lend = lend
        self._link = ""  # the last folder that leads elsewhere
        for number, (path, flags, hash_, size) in enumerate(_entries(lines)):
            if number == _MOST_ENTRIES:
                raise MalformedInput(f"its listing has more than {_MOST_ENTRIES} files")
            self._add(path, flags, hash_, size)

    def entries(self, folder: TreeEntry) -> Iterator[TreeEntry]:
        """Yield what *folder* holds."""
        assert isinstance(folder.place, str)
        yield from self._folders[folder.place]

    def open(self, file: TreeEntry) -> ByteView:
        """Return what *file* holds.

        Raises:
            InputError: It was not taken out of the WIM file.
        """
        assert isinstance(file.place, bytes)
        return BytesView(b"") if file.place == _NO_HASH else self._lend(file.place)

    def _add(self, path: str, flags: int, hash_: bytes, size: int | None) -> None:
        separator = path[0]
        if self._link and path.startswith(self._link):
            return
        if flags & _IS_LINK:
            if flags & _IS_FOLDER:
                self._link = path + separator
            return
        parts = path[1:].split(separator)
        is_folder = bool(flags & _IS_FOLDER)
        if parts == [""] or len(parts) > (_LISTED_DEPTH if is_folder else _DEEPEST):
            return
        if not is_folder and not self._takes(parts):
            return
        folder = self._folder(parts if is_folder else parts[:-1])
        if not is_folder:
            folder.append(TreeEntry(parts[-1], False, hash_))
            if size and hash_ not in {b"", _NO_HASH}:
                file = ListedFile("/".join(parts), size)
                self.files[hash_] = min(self.files.get(hash_, file), file, key=lambda each: len(each.path))

    def _folder(self, parts: list[str]) -> list[TreeEntry]:
        """Return what the folder at *parts* holds; it comes to be there if it was not."""
        place = ""
        for part in parts:
            outer, place = place, f"{place}/{part}"
            if place not in self._folders:
                self._folders[place] = []
                self._folders[outer].append(TreeEntry(part, True, place))
        return self._folders[place]


def _entries(lines: Iterable[bytes]) -> Iterator[tuple[str, int, bytes, int | None]]:
    """Yield path, attributes, hash and length of each file and folder, as far as they are printed."""
    path, flags, hash_, size, is_content = "", 0, b"", None, False
    for line in lines:
        begins = line[:4]
        if begins not in _BEGINNINGS and begins[:1] != b"\t":
            continue
        if (match := _FIELD.fullmatch(line)) is None:
            continue
        value = match[match.lastindex or 0]
        if begins == _PATH:
            if path:
                yield path, flags, hash_, size
            try:
                path = value.decode()
            except UnicodeDecodeError:  # no name that any set has
                path = ""
            flags, hash_, size, is_content = 0, b"", None, False
        elif begins == _FLAGS:
            flags = int(value, 16)
        elif begins == _HASH:
            hash_ = bytes.fromhex(value.decode()) if is_content else hash_
        elif begins == _SIZE:
            size = int(value) if is_content else size
        else:
            is_content = value == _CONTENT
    if path:
        yield path, flags, hash_, size
