"""Scratch files: where a file grows until it is complete, out of every debugger's sight.

They lie in the store's own ``.symcache`` folder, so that the last step is a rename within one disk, and in a folder
per process whose lock dies with the process, so that what a killed one leaves can be told from what is being written.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from filelock import FileLock

__all__ = ["OWN_FOLDER", "Staging"]


OWN_FOLDER = ".symcache"


class Staging:
    """This process's scratch files in one store; made at the first use, and then what dead ones left is swept."""

    def __init__(self, root: Path) -> None:
        self._parent = root / OWN_FOLDER / "staging"
        self._folder: Path | None = None
        self._lock: FileLock | None = None
        self._opening = threading.Lock()

    @property
    def is_open(self) -> bool:
        """Whether the folder for scratch files exists; it may have been removed with the store."""
        return self._folder is not None and os.path.isdir(self._folder)  # noqa: PTH112 - for each file

    def new_path(self) -> Path:
        """Return the path of a new scratch file of this process; the file does not exist yet.

        Raises:
            OSError: The store cannot be written.
        """
        with self._opening:
            if not self.is_open:
                self.close()
                self._open()
        assert self._folder is not None
        from secrets import token_hex  # noqa: PLC0415 - with locks and all, for who writes

        return self._folder / f"{token_hex(6)}.part"

    def close(self) -> None:
        """Remove the scratch files and let go of the lock; safe to call twice."""
        if self._folder is None or self._lock is None:
            return
        import shutil  # noqa: PLC0415

        from symcache.stores.local.locks import let_go  # noqa: PLC0415

        shutil.rmtree(self._folder, ignore_errors=True)
        let_go(self._lock)
        self._folder = self._lock = None

    def _open(self) -> None:
        from secrets import token_hex  # noqa: PLC0415

        from symcache.stores.local.locks import let_go, try_lock  # noqa: PLC0415

        self._parent.mkdir(parents=True, exist_ok=True)
        self.sweep()
        token = token_hex(6)
        # The lock comes first: a folder without one that is held belongs to the dead. A sweeper may look at the new
        # file before it is ours; then the next try finds it free.
        while (lock := try_lock(self._parent / f"{token}.lock")) is None:
            pass
        folder = self._parent / token
        try:
            folder.mkdir()
        except OSError:
            let_go(lock)
            raise
        self._folder, self._lock = folder, lock

    def sweep(self) -> int:
        """Remove what processes that are gone left behind; return how many files."""
        import shutil  # noqa: PLC0415

        from symcache.stores.local.locks import let_go, try_lock  # noqa: PLC0415

        swept = 0
        for path in sorted(self._parent.glob("*.lock")) if self._parent.is_dir() else []:
            try:
                lock = try_lock(path)
            except OSError:
                lock = None
            if lock is None:
                continue
            folder = path.with_suffix("")
            swept += sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0
            shutil.rmtree(folder, ignore_errors=True)
            let_go(lock)
        return swept
