"""Where the kernel of a dump keeps its processes, read from the kernel's own PDB."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.dump.processes import KERNEL_STRUCTURES, KernelLayout
from symcache.formats.pdb.types import read_structures
from symcache.formats.view import FileView

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["read_kernel_layout"]


def read_kernel_layout(path: Path) -> KernelLayout | None:
    """Return the offsets that the kernel's PDB at *path* states; None if it does not, or cannot be read."""
    try:
        with FileView(path) as view:
            return KernelLayout.from_structures(read_structures(view, KERNEL_STRUCTURES))
    except (InputError, OSError):
        return None
