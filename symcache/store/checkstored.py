"""Looks into files as a store holds them: cabinets too."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.cab import expand, open_cabinet
from symcache.formats.view import FileView
from symcache.store.check import check_file

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from symcache.identity import Key
    from symcache.store.tree import Store

__all__ = ["StoredCheck"]


class StoredCheck:
    """Says why a file is not what its key names; a cabinet is expanded into a scratch file first.

    Args:
        store: Whose scratch files it uses.
        look: Looks into a plain file and returns why it is not right, None if it is.
        largest_bytes: The most that a cabinet may expand to.
    """

    def __init__(
        self,
        store: Store,
        look: Callable[[Path, Key], str | None] = lambda path, key: check_file(path, key).problem,
        *,
        largest_bytes: int = 8 << 30,
    ) -> None:
        self._store = store
        self._look = look
        self._largest_bytes = largest_bytes

    def __call__(self, path: Path, key: Key, /) -> str | None:
        """Return what the look at the file brought.

        Raises:
            OSError: The file cannot be read.
            StoreError: The store cannot be written.
        """
        with path.open("rb") as file:
            is_cabinet = file.read(4) == b"MSCF"
        return self._check_cabinet(path, key) if is_cabinet else self._look(path, key)

    def _check_cabinet(self, path: Path, key: Key) -> str | None:
        scratch = self._store.scratch()
        try:
            with FileView(path) as view, scratch.open("wb") as plain:
                cabinet = open_cabinet(view)
                plain.writelines(expand(cabinet, cabinet.members[0], limit_bytes=self._largest_bytes))
            return self._look(scratch, key)
        except InputError as error:
            return f"a damaged cabinet: {error}"
        finally:
            scratch.unlink(missing_ok=True)
