"""Let files of equal content share their space."""

from __future__ import annotations

import hashlib
import heapq
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from filecmp import cmp
from itertools import groupby
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.identity import compressed_name, fold, parse_id
from symcache.stores.local.atomic import Means, as_store_error, put_in_place, share_space
from symcache.symstore.admin import Admin
from symcache.symstore.transactions import POINTER
from symcache.upkeep.survey import MSFZ_FOLDER, list_files

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from symcache.stores.local.tree import Store

__all__ = [
    "Duplicates",
    "Means",
    "NameTotal",
    "Shared",
    "Stats",
    "Total",
    "collect_stats",
    "dedupe",
    "find_duplicates",
    "iter_names",
    "kind_of",
]


_BLOCK_BYTES = 1 << 20
_FIRST_LOOK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Total:
    """How many files, and how much they take.

    Attributes:
        files: Their number.
        size_bytes: Their lengths together; what links share counts each time.
    """

    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: Total) -> Total:
        return Total(self.files + other.files, self.size_bytes + other.size_bytes)

    def as_json(self) -> dict[str, int]:
        """Return the fields of one JSON object."""
        return {"files": self.files, "bytes": self.size_bytes}


@dataclass(frozen=True, slots=True)
class NameTotal:
    """What a store holds for one file name, of any version.

    Attributes:
        name: The name, as its folder spells it.
        keys: How many versions.
        total: Their files.
        by_kind: The same for ``plain``, ``compressed``, ``pointer`` and ``msfz`` (a PDB in its newer container).
    """

    name: str
    keys: int
    total: Total
    by_kind: dict[str, Total]

    def __str__(self) -> str:
        return f"{self.name}: {self.keys} keys, {self.total.files} files, {self.total.size_bytes} bytes"

    def as_json(self) -> dict[str, object]:
        """Return the fields of one JSON object."""
        return {"name": self.name, "keys": self.keys, **self.total.as_json()}


@dataclass(frozen=True, slots=True)
class Stats:
    """A store in numbers.

    Attributes:
        tier: 1 or 2.
        names: How many file names.
        keys: How many keys with files.
        empty_keys: How many folders of keys without any.
        total: All files.
        by_kind: As in `NameTotal`.
        transactions: How many are in force.
        largest: The names that take most, largest first.
    """

    tier: int
    names: int
    keys: int
    empty_keys: int
    total: Total
    by_kind: dict[str, Total]
    transactions: int
    largest: tuple[NameTotal, ...]

    def as_json(self) -> dict[str, object]:
        """Return the fields of one JSON object."""
        return {
            "tier": self.tier,
            "names": self.names,
            "keys": self.keys,
            "empty_keys": self.empty_keys,
            **self.total.as_json(),
            "by_kind": {kind: total.as_json() for kind, total in self.by_kind.items()},
            "transactions": self.transactions,
            "largest": [each.as_json() for each in self.largest],
        }


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Files of equal content.

    Attributes:
        sha256: Of the content, in hex.
        size_bytes: Length of each.
        files: Where they lie, with the name and id that each is filed under; sorted.
        copies: How many of them take space of their own; the others are hard links.
    """

    sha256: str
    size_bytes: int
    files: tuple[tuple[Path, str, str], ...]
    copies: int

    @property
    def wasted_bytes(self) -> int:
        """What all but one take. Copies that share blocks (reflinks) count as if they did not: nobody can tell."""
        return (self.copies - 1) * self.size_bytes

    def as_json(self) -> dict[str, object]:
        """Return the fields of one JSON object."""
        return {
            "sha256": self.sha256,
            "bytes": self.size_bytes,
            "wasted_bytes": self.wasted_bytes,
            "paths": [str(path) for path, _, _ in self.files],
        }


def collect_stats(store: Store, *, largest: int = 20) -> Stats:
    """Return *store* in numbers, reading folders alone; memory does not grow with the store.

    Args:
        store: The store.
        largest: How many names to name.

    Raises:
        StoreError: The store cannot be read.
    """
    names = keys = empty = 0
    by_kind: dict[str, Total] = {}
    top: list[tuple[int, str, int, NameTotal]] = []
    for number, each in enumerate(iter_names(store)):
        names += each.total.files > 0
        keys += each.keys
        empty += each.by_kind.get("", Total()).files
        for kind, total in each.by_kind.items():
            by_kind[kind] = by_kind.get(kind, Total()) + total
        push = heapq.heappush if len(top) < largest else heapq.heappushpop
        push(top, (each.total.size_bytes, each.name, number, each))
    by_kind.pop("", None)
    return Stats(
        tier=int(store.tier),
        names=names,
        keys=keys,
        empty_keys=empty,
        total=sum(by_kind.values(), Total()),
        by_kind=by_kind,
        transactions=sum(1 for _ in Admin(store).list_transactions()),
        largest=tuple(each for _, _, _, each in sorted(top, key=lambda row: (-row[0], row[1]))),
    )


def iter_names(store: Store) -> Iterator[NameTotal]:
    """Yield what *store* holds for each file name, in the order of its folders; spellings count apart.

    Under the empty kind it counts folders of keys without files.

    Raises:
        StoreError: The store cannot be read.
    """
    for (_, name), folders in groupby(store.key_folders(), key=lambda each: (each[2].parent, each[0])):
        keys = 0
        by_kind: dict[str, Total] = {}
        for _, _, folder in folders:
            files = list_files(folder, name)
            keys += bool(files)
            if not files:
                by_kind[""] = by_kind.get("", Total()) + Total(1, 0)
            for path, size, _ in files:
                kind = kind_of(path, name)
                by_kind[kind] = by_kind.get(kind, Total()) + Total(1, size)
        total = sum((total for kind, total in by_kind.items() if kind), Total())
        yield NameTotal(name, keys, total, by_kind)


def find_duplicates(store: Store, *, at_least_bytes: int = 1) -> Iterator[Duplicates]:
    """Yield groups of files of equal content, largest files first: the same length, then the same hash.

    Only files whose length another one has are kept in mind, and only those are read.

    Raises:
        StoreError: The store cannot be read.
    """
    sizes = Counter(size for _, _, _, size in _files(store) if size >= at_least_bytes)
    repeated = {size for size, count in sizes.items() if count > 1}
    by_size: dict[int, list[tuple[Path, str, str]]] = {}
    for path, name, id_, size in _files(store):
        if size in repeated:
            by_size.setdefault(size, []).append((path, name, id_))
    for size in sorted(by_size, reverse=True):
        for first_look in _group(by_size.pop(size), _FIRST_LOOK_BYTES).values():
            if len(first_look) > 1:
                for digest, files in _group(first_look, size).items():
                    if len(files) > 1:
                        yield Duplicates(digest, size, tuple(sorted(files)), _count_copies(files))


def kind_of(path: Path, name: str) -> str:
    """Return how *path*, a file of the key of *name*, is kept: ``plain``, ``compressed``, ``pointer`` or ``msfz``."""
    if fold(path.parent.name) == MSFZ_FOLDER:
        return "msfz"
    folded = fold(path.name)
    if folded == POINTER:
        return "pointer"
    return "compressed" if folded == fold(compressed_name(name)) and folded != fold(name) else "plain"


def _files(store: Store) -> Iterator[tuple[Path, str, str, int]]:
    for name, id_, folder in store.key_folders():
        for path, size, _ in list_files(folder, name):
            if kind_of(path, name) != "pointer":
                yield path, name, id_, size


def _count_copies(files: list[tuple[Path, str, str]]) -> int:
    copies: set[tuple[int, int]] = set()
    for path, _, _ in files:
        with suppress(OSError):  # pruned since
            status = path.stat()
            copies.add((status.st_dev, status.st_ino))
    return max(1, len(copies))


def _group(files: list[tuple[Path, str, str]], up_to_bytes: int) -> dict[str, list[tuple[Path, str, str]]]:
    groups: dict[str, list[tuple[Path, str, str]]] = {}
    for file in files:
        try:
            digest = _hash(file[0], up_to_bytes)
        except FileNotFoundError:
            continue  # pruned since
        except OSError as error:
            raise as_store_error(error, file[0]) from error
        groups.setdefault(digest, []).append(file)
    return groups


def _hash(path: Path, up_to_bytes: int) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while up_to_bytes > 0 and (block := file.read(min(_BLOCK_BYTES, up_to_bytes))):
            digest.update(block)
            up_to_bytes -= len(block)
    return digest.hexdigest()


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
