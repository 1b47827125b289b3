"""Checks of a single file for `verify`: the inside of a PDB, and whether it has private symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import InputError, UnknownFormat
from symcache.formats.pdb.deep import check_available, check_blocks, check_identity
from symcache.formats.pdb.info import NativePdb, Pdb2, SymbolKind, parse_pdb
from symcache.formats.view import FileView
from symcache.identity import Pdb2Key, PdbKey
from symcache.stores.check import check_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from symcache.formats.view import ByteView
    from symcache.identity import Key

_UNKNOWN = "it does not say whether its symbols are private"

Check: TypeAlias = "Callable[[Path, Key], str | None]"
"""Returns what is wrong with the file of a key, in a few words, or None. The file may be a cabinet.

A text that begins with ``another`` says that the file is complete and belongs to another key.
"""


class DeepCheck:
    """Checks a plain file's identity, and with pdbparse the inside of a native PDB; `UsageError` without pdbparse."""

    def __init__(self) -> None:
        check_available()
        self.passed_over = 0  # PDBs of a kind or size that pdbparse does not read

    def __call__(self, path: Path, key: Key, /) -> str | None:
        """Return the problem; None if the file is right. An `OSError` says that it cannot be read."""
        problem = check_file(path, key).problem
        if problem is not None or not isinstance(key, PdbKey):
            return problem
        try:
            with FileView(path) as view:
                pdb = parse_pdb(view)
            if not isinstance(pdb, NativePdb):
                return None
            problems = check_identity(path, pdb.guid, pdb.info_age, pdb.dbi_age) or check_blocks(path)
        except UnknownFormat:
            self.passed_over += 1
            return None
        except InputError as error:
            return str(error)
        return "; ".join(problems) or None


def why_private(path: Path, key: Key, /) -> str | None:
    """Return why a plain file must not be in a store without private symbols, as `why_view_private`.

    An `OSError` says that the file cannot be read.
    """
    if not isinstance(key, PdbKey | Pdb2Key):
        return None
    try:
        with FileView(path) as view:
            return why_view_private(view, key)
    except InputError:
        return _UNKNOWN


def why_view_private(view: ByteView, key: Key) -> str | None:
    """Return why the plain file that *view* shows must not be in a store without private symbols; None if it may.

    Images and portable PDBs may: they have no stripped form, and what is private of them is in their sources.
    """
    if not isinstance(key, PdbKey | Pdb2Key):
        return None
    try:
        pdb = parse_pdb(view)
    except InputError:
        return _UNKNOWN
    match pdb:
        case NativePdb(symbols=SymbolKind.PRIVATE):
            return "it holds private symbols"
        case NativePdb(symbols=None) | Pdb2():
            return _UNKNOWN
    return None
