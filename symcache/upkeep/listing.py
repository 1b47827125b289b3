"""Every file of a store, one after the other, with what can be told of it at a glance."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.pdb.info import NativePdb, SymbolKind, looks_like_pdb, parse_pdb
from symcache.formats.view import FileView
from symcache.identity import fold
from symcache.symstore.transactions import Content, read_refs
from symcache.upkeep.stats import kind_of
from symcache.upkeep.survey import list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from symcache.stores.local.tree import Store

__all__ = ["StoredFile", "fits_index", "iter_files"]


_KIND_OF = {
    Content.PRIVATE: SymbolKind.PRIVATE,
    Content.PUBLIC: SymbolKind.PUBLIC,
    Content.TYPES: SymbolKind.TYPE_ONLY,
}


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a store.

    Attributes:
        path: Where it lies.
        index: The key that it is filed under, written out as its folders spell it.
        form: ``plain``, ``compressed``, ``pointer`` or ``msfz``.
        size_bytes: Its length.
        symbols: How much a PDB tells; None for other files, and where only expanding a cabinet would tell.
    """

    path: Path
    index: str
    form: str
    size_bytes: int
    symbols: SymbolKind | None

    def as_json(self) -> dict[str, str | int | None]:
        """Return the fields of one JSON object."""
        return {
            "index": self.index,
            "path": str(self.path),
            "form": self.form,
            "bytes": self.size_bytes,
            "symbols": self.symbols,
        }


def iter_files(store: Store, wants: Callable[[str, str], bool] | None = None) -> Iterator[StoredFile]:
    """Yield the files of every key, or of those whose name and id *wants* says yes to, in the order of their folders.

    A plain PDB tells itself how much it holds; of a cabinet ``refs.ptr`` does, if there is one.

    Raises:
        StoreError: The store cannot be read.
    """
    for name, id_, folder in store.key_folders():
        if wants is None or wants(name, id_):
            for path, size, _ in list_files(folder, name):
                form = kind_of(path, name)
                yield StoredFile(path, f"{name}/{id_}/{name}", form, size, _symbols(path, form, folder))


def fits_index(name: str, id_: str, pattern: str) -> bool:
    r"""Return whether *pattern* means a file called *name*, or the index that it makes with *id_*.

    ``*``, ``?`` and ``[…]`` as in a shell, letter case does not count; with ``/`` or ``\`` it is that of an index,
    of which the last part may be left out.
    """
    folded = fold(pattern).replace("\\", "/")
    if "/" not in folded:
        return fnmatchcase(fold(name), folded)
    index = fold(f"{name}/{id_}")
    return fnmatchcase(index, folded) or fnmatchcase(f"{index}/{fold(name)}", folded)


def _symbols(path: Path, form: str, folder: Path) -> SymbolKind | None:
    if form == "compressed":
        contents = [ref.content for ref in read_refs(folder).refs if ref.compressed and ref.content is not None]
        return _KIND_OF.get(contents[-1]) if contents and fold(path.name).endswith(".pd_") else None
    if form == "pointer":
        return None
    try:
        with FileView(path) as view:
            if not looks_like_pdb(view.read(0, min(view.size, 64))):
                return None
            pdb = parse_pdb(view)
    except (InputError, OSError):
        return None  # `verify` says what is wrong with it
    return pdb.symbols if isinstance(pdb, NativePdb) else None
