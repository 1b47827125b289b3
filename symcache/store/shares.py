"""Folders that a symbol path names, as paths of this system."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from symcache.identity import fold

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["local_path"]


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
