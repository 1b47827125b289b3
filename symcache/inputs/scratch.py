"""Room for what is read from scratch files."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from symcache.errors import TruncatedInput

if TYPE_CHECKING:
    from pathlib import Path

KEPT_FREE_BYTES = 256 << 20
"""What is left of a disk to others."""


def check_room(folder: Path, size_bytes: int, what: str, otherwise: str = "") -> None:
    """Check that the disk of *folder*, the temporary one, has room for *size_bytes* more.

    Raises:
        TruncatedInput: It has not; the text begins with *what* needs the room, and ends with what to do *otherwise*.
    """
    free = shutil.disk_usage(folder).free - KEPT_FREE_BYTES
    if size_bytes > free:
        raise TruncatedInput(
            f"{what}, and the temporary folder has room for {max(0, free)}: name one on a larger disk in the variable"
            f" TMPDIR (Windows: TEMP){otherwise}"
        )
