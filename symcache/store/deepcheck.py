"""`check_file`, and then what pdbparse makes of a PDB: does it read the same, do its blocks add up?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import InputError, UnknownFormat
from symcache.formats.deep import check_available, check_blocks, check_identity
from symcache.formats.pdb import NativePdb, parse_pdb
from symcache.formats.view import FileView
from symcache.identity import PdbKey
from symcache.store.check import check_file

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.identity import Key

__all__ = ["DeepCheck"]


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
