"""Checks of a file's content beyond its identity: damage deep inside a PDB, private symbols."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import InputError, UnknownFormat
from symcache.formats.pdb.deep import check_available, check_blocks, check_identity
from symcache.formats.pdb.info import NativePdb, Pdb2, SymbolKind, parse_pdb
from symcache.formats.view import FileView
from symcache.identity import Pdb2Key, PdbKey
from symcache.stores.check import check_file

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.identity import Key


class DeepCheck:
    """Checks a plain file's identity, and with pdbparse the inside of a native PDB.

    Raises:
        UsageError: pdbparse is not installed; the text says how to get it.
    """

    def __init__(self) -> None:
        check_available()
        self.passed_over = 0  # PDBs of a kind or size that pdbparse does not read

    def __call__(self, path: Path, key: Key, /) -> str | None:
        """Return the problem; None if the file is right.

        Raises:
            OSError: The file cannot be read.
        """
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


_UNKNOWN = "it does not say whether its symbols are private"


def why_private(path: Path, key: Key, /) -> str | None:
    """Return why a plain file must not be in a store without private symbols; None if it may.

    Images and portable PDBs may: they have no stripped form, and what is private of them is in their sources.

    Raises:
        OSError: The file cannot be read.
    """
    if not isinstance(key, PdbKey | Pdb2Key):
        return None
    try:
        with FileView(path) as view:
            pdb = parse_pdb(view)
    except InputError:
        return _UNKNOWN
    match pdb:
        case NativePdb(symbols=SymbolKind.PRIVATE):
            return "it holds private symbols"
        case NativePdb(symbols=None) | Pdb2():
            return _UNKNOWN
    return None
