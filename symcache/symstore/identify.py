"""Which key a file has: told by its content and its name, for whoever publishes it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.pdb.info import Container, NativePdb, SymbolKind, looks_like_pdb, parse_pdb
from symcache.formats.pe.dbg import parse_dbg
from symcache.formats.pe.image import Layout, parse_image
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

__all__ = ["Identified", "Unidentified", "identify", "identify_all"]


_START_BYTES = 64
_CONTENT_OF = {
    SymbolKind.PRIVATE: Content.PRIVATE,
    SymbolKind.PUBLIC: Content.PUBLIC,
    SymbolKind.TYPE_ONLY: Content.TYPES,
}


@dataclass(frozen=True, slots=True)
class Identified:
    """A file that can be published.

    Attributes:
        path: Where it lies.
        key: What it is.
        content: What symstore notes about it.
    """

    path: Path
    key: Key
    content: Content


@dataclass(frozen=True, slots=True)
class Unidentified:
    """A file that cannot.

    Attributes:
        path: Where it lies.
        problem: Why, in one line.
        is_foreign: It is of another kind than images and PDBs, and was not named itself.
    """

    path: Path
    problem: str
    is_foreign: bool = False


def identify_all(paths: Iterable[Path], *, but: Path) -> Iterator[Identified | Unidentified]:
    """Yield what each file is, those of folders in the order of their names; links to folders are not followed.

    Args:
        paths: Files and folders.
        but: A folder to pass over: the store that they are for may lie in one of them.
    """
    but = but.resolve()
    for path in paths:
        if not path.is_dir():
            yield _try(path)
            continue
        for file in _files_below(path, but):
            yield _try(file, was_named=False) if isinstance(file, Path) else file


def identify(path: Path) -> Identified:
    """Return the key of the image, ``.dbg`` file or PDB at *path*, under its own name.

    Raises:
        UnknownFormat: It is none of them, or in a container that stores keep elsewhere.
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
            raise UnknownFormat("an MSFZ container, which debuggers look for under another path than transactions name")
        content = _CONTENT_OF.get(pdb.symbols, Content.PRIVATE) if pdb.symbols is not None else Content.PRIVATE
    return pdb_reference_of(pdb, name).key, content


def _try(path: Path, *, was_named: bool = True) -> Identified | Unidentified:
    try:
        return identify(path)
    except UnknownFormat as error:
        return Unidentified(path, str(error), is_foreign=not was_named)
    except InputError as error:
        return Unidentified(path, str(error))
    except OSError as error:
        return Unidentified(path, error.strerror or str(error))


def _files_below(root: Path, but: Path) -> Iterator[Path | Unidentified]:
    unlisted: list[OSError] = []
    for folder, folders, names in os.walk(root, onerror=unlisted.append):
        if Path(folder).resolve() == but:
            folders.clear()
            continue
        folders.sort()
        yield from (path for name in sorted(names) if (path := Path(folder, name)).is_file())
    for error in unlisted:
        yield Unidentified(Path(os.fsdecode(error.filename)), error.strerror or str(error))
