"""What a store may be told not to hold."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.pdb import NativePdb, SymbolKind, parse_pdb
from symcache.formats.pdb2 import Pdb2
from symcache.formats.view import FileView
from symcache.identity import Pdb2Key, PdbKey

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.identity import Key

__all__ = ["why_private"]

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
