"""What a check of contents looks for beyond identity: damage deep inside a PDB, private symbols."""

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

__all__ = ["DeepCheck", "why_private"]


class DeepCheck:
    """Says why a plain file is not what its key names, or damaged beyond what identity tells.

    Attributes:
        passed_over: How many PDBs were of a kind, or a size, that pdbparse is not asked about.

    Raises:
        UsageError: pdbparse is not installed; the text says how to get it.
    """

    def __init__(self) -> None:
        check_available()
        self.passed_over = 0

    def __call__(self, path: Path, key: Key, /) -> str | None:
        """Return the reason; None if the file is right.

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


_UNTOLD = "nothing tells whether its symbols are private"


def why_private(path: Path, key: Key, /) -> str | None:
    """Return why a plain file does not belong where private symbols may not be; None if it may be there.

    Images and portable PDBs may: what is private of them is in their sources, and they do not come stripped.

    Raises:
        OSError: The file cannot be read.
    """
    if not isinstance(key, PdbKey | Pdb2Key):
        return None
    try:
        with FileView(path) as view:
            pdb = parse_pdb(view)
    except InputError:
        return _UNTOLD
    match pdb:
        case NativePdb(symbols=SymbolKind.PRIVATE):
            return "it holds private symbols"
        case NativePdb(symbols=None) | Pdb2():
            return _UNTOLD
    return None
