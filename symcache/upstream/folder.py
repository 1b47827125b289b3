"""A plain folder of a symbol path: files lie in it under their names alone, and their identity decides."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.identity import fold
from symcache.store.check import check_file
from symcache.store.tree import Form, Stored, as_store_error

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from symcache.identity import Key

__all__ = ["PlainFolder"]

_IMAGE_EXTENSIONS = ("dll", "exe", "sys")


class PlainFolder:
    r"""A folder that is searched as debuggers search it: itself, ``<ext>``, ``symbols\<ext>``.

    Sources disagree on the order of the three; as only the right file is ever taken, it makes no difference.
    Source: windows-driver-docs, symbol-path; win32, symbol-paths.
    """

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def name(self) -> str:
        """What reports call it."""
        return str(self.root)

    @property
    def is_store(self) -> bool:
        """A folder that holds ``pingme.txt`` is searched as if ``srv*`` stood before it."""
        return (self.root / "pingme.txt").is_file()

    def find(self, key: Key) -> Stored | None:
        """Return the file that *key* names, if it lies here.

        Raises:
            StoreError: The folder cannot be read.
        """
        try:
            for folder in self._folders(key):
                for path in _called(folder, key.name):
                    if path.is_file() and check_file(path, key).is_right:
                        return Stored(path, Form.PLAIN, path.stat().st_size)
        except OSError as error:
            raise as_store_error(error, self.root) from error
        return None

    def _folders(self, key: Key) -> Iterator[Path]:
        own = fold(key.name).rpartition(".")[2]
        yield self.root
        for extension in dict.fromkeys((own, *_IMAGE_EXTENSIONS)):
            yield from _called(self.root, extension)
            for symbols in _called(self.root, "symbols"):
                yield from _called(symbols, extension)


def _called(folder: Path, name: str) -> list[Path]:
    exact = folder / name
    if exact.exists():
        return [exact]
    try:
        return sorted(path for path in folder.iterdir() if fold(path.name) == fold(name))
    except (FileNotFoundError, NotADirectoryError):
        return []
