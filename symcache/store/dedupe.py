"""Let files of equal content share their space."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from filecmp import cmp
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.identity import parse_id
from symcache.store.place import Means, as_store_error, put_in_place, share_space

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from symcache.store.stats import Duplicates
    from symcache.store.tree import Store

__all__ = ["Means", "Shared", "dedupe"]


@dataclass(frozen=True, slots=True)
class Shared:
    """What came of one duplicate.

    Attributes:
        path: The duplicate.
        original: The file whose space it shares now.
        means: How; None if it stays as it was.
        problem: Why it does.
    """

    path: Path
    original: Path
    means: Means | None
    problem: str | None = None

    def as_json(self) -> dict[str, str | None]:
        """Return the fields of one JSON object."""
        return {
            "path": str(self.path),
            "original": str(self.original),
            "means": self.means,
            "problem": self.problem,
        }


def dedupe(store: Store, groups: Iterable[Duplicates]) -> Iterator[Shared]:
    """Let the files of each group share their space, and yield what came of each; one step each, as seen by a debugger.

    Files in a store are replaced, never written to, so that a hard link is as good as a copy. Where the system can
    share blocks alone, that is done instead. The contents are compared once more, under the lock of the key.

    Raises:
        StoreError: The store cannot be written at all.
    """
    for group in groups:
        original = group.files[0][0]
        for path, name, id_ in group.files[1:]:
            try:
                with suppress(FileNotFoundError):
                    if not path.samefile(original):
                        yield _share(store, path, original, name, id_)
            except OSError as error:
                yield Shared(path, original, None, error.strerror or str(error))


def _share(store: Store, path: Path, original: Path, name: str, id_: str) -> Shared:
    try:
        lock = store.lock(parse_id(name, id_))
    except InputError as error:
        return Shared(path, original, None, str(error))
    if not lock.try_acquire():
        return Shared(path, original, None, "being filled in")
    try:
        if not cmp(path, original, shallow=False):
            return Shared(path, original, None, "changed since")
        scratch = store.scratch()
        status = path.stat()
        means = share_space(original, scratch)
        if means is None:
            return Shared(path, original, None, "the disk has neither reflinks nor hard links")
        if means is Means.REFLINK:
            os.utime(scratch, ns=(status.st_atime_ns, status.st_mtime_ns))
        put_in_place(scratch, lambda: path)
    except OSError as error:
        return Shared(path, original, None, as_store_error(error, path).problem)
    finally:
        lock.release()
    return Shared(path, original, means)
