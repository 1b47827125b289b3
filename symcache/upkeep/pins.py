"""Pins: keys, files and modules of a store that pruning never removes."""

from __future__ import annotations

from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from symcache.errors import InputError, UsageError
from symcache.identity import fold, parse_index
from symcache.stores.local.atomic import OWN_FOLDER, as_store_error, write_whole
from symcache.stores.local.locks import NameLock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from symcache.stores.local.tree import Store


_LONGEST = 600
# Windows has shipped nt and hal under several file names.
_MODULES = {
    "nt": ("ntoskrnl", "ntkrnlmp", "ntkrnlpa", "ntkrpamp"),
    "hal": ("hal", "halaacpi", "halacpi", "halapic", "halmacpi", "halmps", "halsp"),
}


def match_pins(pins: Iterable[str]) -> Callable[[str, str], bool]:
    """Return a predicate that says whether one of *pins* matches a file name and id.

    A pin is an index (``name/id/name``), a file name with ``*``, ``?`` or ``[…]`` as in a shell, or a module's name
    without extension: ``ntdll``, ``win32*``, and ``nt`` and ``hal`` as debuggers use them. Letter case does not count.
    """
    indexes: set[str] = set()
    patterns: list[str] = []
    for pin in map(fold, pins):
        if "/" in pin:
            indexes.add(pin)
        else:
            patterns += [pin, *_MODULES.get(pin, ())]

    def is_pinned(name: str, id_: str) -> bool:
        folded = fold(name)
        if f"{folded}/{fold(id_)}/{folded}" in indexes:
            return True
        stem = folded.rpartition(".")[0] or folded
        return any(fnmatchcase(folded if "." in pattern else stem, pattern) for pattern in patterns)

    return is_pinned


class Pins:
    """The pins of one store, one a line in ``.symcache/pins``; everyone who uses the store shares them.

    Methods raise `UsageError` for a text that is no pin.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.root / OWN_FOLDER / "pins"

    def list(self) -> tuple[str, ...]:
        """Return the pins, oldest first; invalid lines are ignored."""
        try:
            lines = self._path.read_text(encoding="utf-8", errors="replace").split("\n")
        except (FileNotFoundError, NotADirectoryError):
            return ()
        except OSError as error:
            raise as_store_error(error, self._path) from error
        return tuple(line for line in map(str.strip, lines) if _is_pin(line))

    def add_all(self, pins: Iterable[str]) -> tuple[str, ...]:
        """Add all of *pins* or none; return them as they are stored, indexes in their canonical form."""
        wanted = tuple(map(_normalize, pins))
        self._change(lambda before: tuple(dict.fromkeys((*before, *wanted))))
        return wanted

    def remove_all(self, pins: Iterable[str]) -> int:
        """Remove *pins*; return how many were there."""
        gone = {_normalize(pin) for pin in pins}
        before = self._change(lambda before: tuple(each for each in before if each not in gone))
        return len(gone.intersection(before))

    def _change(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> tuple[str, ...]:
        with NameLock(self._store.root / OWN_FOLDER / "locks", "pins").hold(timeout_s=60.0):
            before = self.list()
            after = change(before)
            if after != before:
                write_whole(self._store, self._path, "".join(f"{pin}\n" for pin in after).encode())
        return before


def _normalize(pin: str) -> str:
    pin = pin.strip().replace("\\", "/")
    if "/" in pin:
        try:
            return parse_index(pin).index
        except InputError as error:
            raise UsageError(f"cannot be pinned: {error}") from error
    if not _is_pin(pin):
        raise UsageError(f"{pin[:80]!r} cannot be pinned; name a module, a file, or an index (name/id/name)")
    return pin


def _is_pin(line: str) -> bool:
    return 0 < len(line) <= _LONGEST and line.isprintable()
