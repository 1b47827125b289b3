"""Finding the key of a file from its content and name, to add it to a store."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.pdb.info import Container, NativePdb, SymbolKind, looks_like_pdb, parse_pdb
from symcache.formats.pe.image import Layout, parse_dbg, parse_image
from symcache.formats.view import FileView
from symcache.identity import DbgKey, ImageKey
from symcache.inputs.image import is_image
from symcache.inputs.pdbfile import pdb_reference_of
from symcache.stores.check import check_view
from symcache.symstore.transactions import Content

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.view import ByteView
    from symcache.identity import Key


_START_BYTES = 64
_CONTENT_OF = {
    SymbolKind.PRIVATE: Content.PRIVATE,
    SymbolKind.PUBLIC: Content.PUBLIC,
    SymbolKind.TYPE_ONLY: Content.TYPES,
}


@dataclass(frozen=True, slots=True)
class Identified:
    """A file that can be added, with its key and what ``refs.ptr`` says of it."""

    path: Path
    key: Key
    content: Content


@dataclass(frozen=True, slots=True)
class Unidentified:
    """A file that cannot be added."""

    path: Path
    problem: str  # why, in one line
    is_foreign: bool = False  # it is neither an image nor a PDB, and comes from a folder


def identify_all(paths: Iterable[Path], *, but: Path) -> Iterator[Identified | Unidentified]:
    """Yield what each of *paths* is, for a folder what its files are, sorted by name.

    Links to folders are not followed, and the folder *but* is skipped: the store may lie in one of *paths*.
    """
    but = but.resolve()
    for path in paths:
        if path.is_dir():
            yield from _identify_below(path, but)
        else:
            yield _try(path)


def identify(path: Path) -> Identified:
    """Return the key of the image, ``.dbg`` file or PDB at *path*, under its own name.

    Raises:
        UnknownFormat: None of these, or an MSFZ container, which stores keep under another path.
        InputError: It is cut short or contradicts itself, or its name cannot be that of a symbol file.
        OSError: It cannot be read.
    """
    with FileView(path) as view:
        start = view.read(0, min(view.size, _START_BYTES))
        if is_image(start):
            key, content = _identify_image(view, path.name)
        elif looks_like_pdb(start):
            key, content = _identify_pdb(view, path.name)
        else:
            raise UnknownFormat("neither an image nor a PDB" if start else "it is empty")
        verdict = check_view(view, key)
    if verdict.problem is not None:
        raise MalformedInput(verdict.problem)
    return Identified(path, key, content)


def _identify_image(view: ByteView, name: str) -> tuple[Key, Content]:
    if view.read(0, 2) == b"DI":
        file = parse_dbg(view)
        return DbgKey(name, file.timestamp, file.size_of_image), Content.PRIVATE
    image = parse_image(view, Layout.DISK)
    return ImageKey(name, image.timestamp, image.size_of_image), Content.BINARY


def _identify_pdb(view: ByteView, name: str) -> tuple[Key, Content]:
    pdb = parse_pdb(view)
    content = Content.PRIVATE
    if isinstance(pdb, NativePdb):
        if pdb.container is Container.MSFZ:
            raise UnknownFormat("an MSFZ container; debuggers look for it under another path than transactions name")
        if pdb.symbols is not None:
            content = _CONTENT_OF.get(pdb.symbols, content)
    return pdb_reference_of(pdb, name).key, content


def _try(path: Path, *, is_named: bool = True) -> Identified | Unidentified:
    try:
        return identify(path)
    except UnknownFormat as error:
        return Unidentified(path, str(error), is_foreign=not is_named)
    except InputError as error:
        return Unidentified(path, str(error))
    except OSError as error:
        return Unidentified(path, error.strerror or str(error))


def _identify_below(root: Path, but: Path) -> Iterator[Identified | Unidentified]:
    unlisted: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=unlisted.append):
        if Path(folder).resolve() == but:
            folders.clear()
            continue
        folders.sort()
        for name in sorted(names):
            path = Path(folder, name)
            if path.is_file():
                yield _try(path, is_named=False)
    for error in unlisted:
        yield Unidentified(Path(os.fsdecode(error.filename)), error.strerror or str(error))
