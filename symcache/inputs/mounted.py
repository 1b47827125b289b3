"""Where Windows is in a folder that was given; told by a few looks, as every folder is asked."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path


def find_mounted_windows(path: Path) -> Path | None:
    """Return the folder of Windows that *path* is, or that lies in it, as in the root of a volume; None if none."""
    folder = path if _child(path, "System32") else _child(path, "Windows")
    system = folder and _child(folder, "System32")
    if not system or not _child(system, "drivers") or not _child(system, "ntoskrnl.exe"):
        return None
    return folder


def _child(folder: Path, name: str) -> Path | None:
    """Return what is called *name* in *folder*, in a usual letter case: a mounted volume may tell them apart."""
    found = (folder / each for each in (name, name.lower(), name.upper()))
    return next((each for each in found if os.path.lexists(each)), None)
