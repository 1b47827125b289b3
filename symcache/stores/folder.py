"""A plain folder of a symbol path: files lie in it under their names alone, and their identity decides."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from symcache.identity import fold
from symcache.stores.base import Form, OnDisk, Stored
from symcache.stores.local.atomic import as_store_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from symcache.identity import Key

__all__ = ["PlainFolder", "local_path"]


def local_path(path: str, shares: Mapping[str, Path]) -> Path | None:
    r"""Return *path* as one of this system; None for a share or drive that it does not have.

    Args:
        path: As the symbol path has it.
        shares: Where shares are mounted, by a prefix of which whole parts are compared without regard to letter case.
    """
    parts = path.replace("/", "\\").rstrip("\\").split("\\")
    folded = [fold(part) for part in parts]
    for prefix, folder in shares.items():
        wanted = [fold(part) for part in prefix.replace("/", "\\").rstrip("\\").split("\\")]
        if folded[: len(wanted)] == wanted:
            return folder.joinpath(*parts[len(wanted) :])
    is_of_windows = path.startswith(("\\\\", "//")) or path[1:2] == ":"
    return None if is_of_windows and os.name != "nt" else Path(path).absolute()


_IMAGE_EXTENSIONS = ("dll", "exe", "sys")


class PlainFolder(OnDisk):
    r"""A folder that is searched as debuggers search it: itself, ``<ext>``, ``symbols\<ext>``.

    Sources disagree on the order of the three; as only the right file is ever taken, it makes no difference.
    Source: windows-driver-docs, symbol-path; win32, symbol-paths.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        self._listings: dict[Path, tuple[int, dict[str, list[Path]]]] = {}

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
        from symcache.stores.check import check_file  # noqa: PLC0415 - an empty folder needs no parser

        try:
            for folder in self._folders(key):
                for path in self._called(folder, key.name):
                    if path.is_file() and check_file(path, key).is_right:
                        return Stored(path, Form.PLAIN, path.stat().st_size)
        except OSError as error:
            raise as_store_error(error, self.root) from error
        return None

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield those of *keys* for which `find` finds something; only those whose name is here are looked for.

        Raises:
            StoreError: The folder cannot be read.
        """
        names: dict[str, set[str]] = {}
        for key in keys:
            extension = fold(key.name).rpartition(".")[2]
            if extension not in names:
                names[extension] = {name for folder in self._folders(key) for name in self._listing(folder)}
            if fold(key.name) in names[extension] and self.find(key) is not None:
                yield key

    def _folders(self, key: Key) -> Iterator[Path]:
        own = fold(key.name).rpartition(".")[2]
        yield self.root
        for extension in dict.fromkeys((own, *_IMAGE_EXTENSIONS)):
            yield from self._called(self.root, extension)
            for symbols in self._called(self.root, "symbols"):
                yield from self._called(symbols, extension)

    def _called(self, folder: Path, name: str) -> Iterator[Path]:
        exact = folder / name
        if exact.exists():
            yield exact
        yield from (path for path in self._listing(folder).get(fold(name), ()) if path != exact)

    def _listing(self, folder: Path) -> dict[str, list[Path]]:
        """Return what lies in *folder* by folded name; read again only when it has changed."""
        try:
            changed_ns = folder.stat().st_mtime_ns
            known = self._listings.get(folder)
            if known is not None and known[0] == changed_ns:
                return known[1]
            listing: dict[str, list[Path]] = {}
            for path in sorted(folder.iterdir()):
                listing.setdefault(fold(path.name), []).append(path)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        self._listings[folder] = (changed_ns, listing)
        return listing
