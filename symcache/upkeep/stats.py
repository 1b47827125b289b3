"""How much a store holds, which of its files have equal content, and letting those share disk space."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from contextlib import suppress
from dataclasses import asdict, dataclass
from filecmp import cmp
from hashlib import file_digest, sha256
from itertools import groupby
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import InputError
from symcache.identity import parse_id
from symcache.stores.base import Form
from symcache.stores.local.atomic import Means, as_store_error, flush, put_in_place, share_space, store_errors
from symcache.stores.local.rights import open_stored
from symcache.symstore.admin import Admin
from symcache.upkeep.inventory import DiskUsage, list_files

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from io import BufferedReader
    from pathlib import Path

    from symcache.stores.local.tree import Store
    from symcache.upkeep.inventory import FileStatus


_FIRST_LOOK_BYTES = 1 << 16
_File: TypeAlias = "tuple[FileStatus, str, str]"  # with the name and id of its key


@dataclass(frozen=True, slots=True)
class Total:
    """How many files, and the bytes that they take; a file with several hard links takes them once."""

    files: int = 0
    size_bytes: int = 0

    def __add__(self, other: Total) -> Total:
        return Total(self.files + other.files, self.size_bytes + other.size_bytes)

    def as_json(self) -> dict[str, int]:
        return {"files": self.files, "bytes": self.size_bytes}


@dataclass(frozen=True, slots=True)
class NameTotal:
    """What a store holds for one file name."""

    name: str  # the name, as its folder spells it
    keys: int  # how many keys have files
    empty_keys: int  # how many folders of keys have none
    by_kind: dict[str, Total]  # totals for ``plain``, ``compressed``, ``pointer`` and ``msfz`` files

    @property
    def total(self) -> Total:
        """All files."""
        return sum(self.by_kind.values(), Total())

    def as_json(self) -> dict[str, object]:
        return {"name": self.name, "keys": self.keys, **self.total.as_json()}


@dataclass(frozen=True, slots=True)
class Stats:
    """A store in numbers."""

    tier: int
    names: int  # how many file names have files
    keys: int  # how many keys have files
    empty_keys: int  # how many folders of keys have none
    total: Total
    by_kind: dict[str, Total]  # as in `NameTotal`
    transactions: int  # how many are in force
    largest: tuple[NameTotal, ...]  # the names that take most, largest first

    def as_json(self) -> dict[str, object]:
        return {
            **{name: getattr(self, name) for name in ("tier", "names", "keys", "empty_keys")},
            **self.total.as_json(),
            "by_kind": {kind: total.as_json() for kind, total in self.by_kind.items()},
            "transactions": self.transactions,
            "largest": [each.as_json() for each in self.largest],
        }


def collect_stats(store: Store, *, largest: int = 20) -> Stats:
    """Return *store* in numbers; *largest* is how many of the largest names to list.

    Reads folders, not files. Memory does not grow with the store, but for the inodes of hard-linked files.
    """
    transactions = sum(1 for _ in Admin(store).list_transactions())
    return add_up(iter_names(store), tier=int(store.tier), transactions=transactions, largest=largest)


def add_up(totals: Iterable[NameTotal], *, tier: int, transactions: int, largest: int) -> Stats:
    """Return the numbers of a store of which *totals* are those of its names."""
    names = keys = empty_keys = 0
    by_kind: dict[str, Total] = {}
    top: list[tuple[int, str, int, NameTotal]] = []
    for number, each in enumerate(totals):
        names += bool(each.by_kind)
        keys += each.keys
        empty_keys += each.empty_keys
        for kind, total in each.by_kind.items():
            by_kind[kind] = by_kind.get(kind, Total()) + total
        push = heapq.heappush if len(top) < largest else heapq.heappushpop
        push(top, (each.total.size_bytes, each.name, number, each))
    return Stats(
        tier=tier,
        names=names,
        keys=keys,
        empty_keys=empty_keys,
        total=sum(by_kind.values(), Total()),
        by_kind=by_kind,
        transactions=transactions,
        largest=tuple(each for _, _, _, each in sorted(top, key=lambda row: (-row[0], row[1]))),
    )


def iter_names(store: Store) -> Iterator[NameTotal]:
    """Yield what *store* holds for each file name, in folder order; each spelling has its own total.

    The bytes of a file with several hard links count for the first of its names.
    """
    usage = DiskUsage()
    for (_, name), folders in groupby(store.key_folders(), key=lambda each: (each[2].parent, each[0])):
        keys = empty_keys = 0
        by_kind: dict[str, Total] = {}
        for _, _, folder in folders:
            files = list_files(folder, name)
            keys += bool(files)
            empty_keys += not files
            for file in files:
                by_kind[file.form] = by_kind.get(file.form, Total()) + Total(1, usage.add([file]))
        yield NameTotal(name, keys, empty_keys, by_kind)


@dataclass(frozen=True, slots=True)
class Duplicates:
    """Files of equal content."""

    sha256: str  # of the content, in hex
    size_bytes: int  # length of each file
    files: tuple[tuple[Path, str, str], ...]  # path, name and id of each, sorted
    copies: int  # how many take space of their own; the others are hard links

    @property
    def wasted_bytes(self) -> int:
        """What all but one copy take; copies that share blocks (reflinks) count too, as that cannot be seen."""
        return (self.copies - 1) * self.size_bytes

    def as_json(self) -> dict[str, object]:
        paths = [str(path) for path, _, _ in self.files]
        return {"sha256": self.sha256, "bytes": self.size_bytes, "wasted_bytes": self.wasted_bytes, "paths": paths}


def find_duplicates(store: Store) -> Iterator[Duplicates]:
    """Yield groups of files of equal content, largest files first.

    Only files that have their length in common with another are kept in memory and read.
    """
    sizes = Counter(file.size_bytes for file, _, _ in _files(store) if file.size_bytes)
    by_size: dict[int, list[_File]] = {}
    for each in _files(store):
        if sizes[each[0].size_bytes] > 1:
            by_size.setdefault(each[0].size_bytes, []).append(each)
    for size in sorted(by_size, reverse=True):
        for first_look in _group(by_size.pop(size), _hash_start).values():
            for digest, files in _group(first_look, _hash_whole).items():
                copies = len({file.inode for file, _, _ in files})
                paths = sorted((file.path, name, id_) for file, name, id_ in files)
                yield Duplicates(digest, size, tuple(paths), copies)


def _files(store: Store) -> Iterator[_File]:
    for name, id_, folder in store.key_folders():
        for file in list_files(folder, name):
            if file.form != Form.POINTER:
                yield file, name, id_


def _hash_start(file: BufferedReader) -> str:
    return sha256(file.read(_FIRST_LOOK_BYTES)).hexdigest()


def _hash_whole(file: BufferedReader) -> str:
    return file_digest(file, sha256).hexdigest()


def _group(files: list[_File], hash_of: Callable[[BufferedReader], str]) -> dict[str, list[_File]]:
    """Return those of *files* that have their hash in common with another, by that."""
    groups: dict[str, list[_File]] = {}
    for each in files:
        path = each[0].path
        with store_errors(path), suppress(FileNotFoundError), open_stored(path) as file:  # pruned in the meantime
            groups.setdefault(hash_of(file), []).append(each)
    return {digest: group for digest, group in groups.items() if len(group) > 1}


@dataclass(frozen=True, slots=True)
class Shared:
    """The result for one duplicate."""

    path: Path
    original: Path  # the file whose disk space it shares
    means: Means | None  # how; None if it was left as it was
    problem: str | None = None  # why it was left

    def as_json(self) -> dict[str, str | None]:
        return {**asdict(self), "path": str(self.path), "original": str(self.original)}


def dedupe(store: Store, groups: Iterable[Duplicates]) -> Iterator[Shared]:
    """Let the files of each group share disk space, and yield the result for each; debuggers see one step per file.

    Files in a store are replaced, never written to, so a hard link is as good as a copy; blocks are shared instead
    where the system can do that. The contents are compared once more, under the lock of the key.
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
        return Shared(path, original, None, "being written")
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
        # It takes the place of a file that may be on the disk already.
        with suppress(PermissionError):  # another user's, or open in a debugger on Windows
            flush(scratch)
        put_in_place(scratch, lambda: path, store.root)
    except OSError as error:
        return Shared(path, original, None, as_store_error(error, path).problem)
    finally:
        lock.release()
    return Shared(path, original, means)
