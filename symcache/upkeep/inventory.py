"""What a store holds: the files of each key, their state, and the pins that keep them from being pruned."""

from __future__ import annotations

import json
import os
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, UnknownFormat, UsageError
from symcache.formats.pdb.info import NativePdb, SymbolKind, looks_like_pdb, parse_pdb
from symcache.formats.view import FileView
from symcache.identity import REFS, fold, parse_id, parse_index
from symcache.inputs.manifest import text_encoding
from symcache.stores.base import Form
from symcache.stores.local.access import AccessLog
from symcache.stores.local.atomic import OWN_FOLDER, check_inside, read_whole, store_errors, write_whole
from symcache.stores.local.tree import MSFZ_FOLDER, list_stored
from symcache.symstore.admin import CONTENT_OF, Admin
from symcache.symstore.transactions import read_refs

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.tree import Store


_SYMBOLS_OF = {content: symbols for symbols, content in CONTENT_OF.items()}
_LONGEST_PIN = 600
_LARGEST_LIST_BYTES = 256 << 20
_NO_LIST = "not what `symcache store list --files` writes"
_LISTED_FORMS = frozenset({*Form, "msfz"})
# Windows has shipped nt and hal under several file names.
_PINNED_MODULES = {
    "nt": ("ntoskrnl", "ntkrnlmp", "ntkrnlpa", "ntkrpamp", "ntkrla57"),
    "hal": ("hal", "halaacpi", "halacpi", "halapic", "halmacpi", "halmps", "halsp"),
}


@dataclass(frozen=True, slots=True)
class FileStatus:
    """A file at the time its folder was listed; two are equal if the file has not changed."""

    path: Path
    size_bytes: int
    changed_ns: int  # since 1970
    form: str = field(default=Form.PLAIN, compare=False)  # of `Form`, or ``msfz``: a PDB in its newer container
    links: int = field(default=1, compare=False)  # how many names the file has, here and elsewhere
    inode: tuple[int, int] = field(default=(0, 0), compare=False)  # device and inode, equal for all its names


class DiskUsage:
    """Bytes that files take; a file with several hard links counts once."""

    def __init__(self) -> None:
        self.size_bytes = 0
        self._names: Counter[tuple[int, int]] = Counter()

    def add(self, files: Iterable[FileStatus]) -> int:
        """Count *files*; return the bytes by which the total grows."""
        before = self.size_bytes
        for file in files:
            if file.links > 1:
                self._names[file.inode] += 1
                if self._names[file.inode] > 1:
                    continue
            self.size_bytes += file.size_bytes
        return self.size_bytes - before

    def remove(self, files: Iterable[FileStatus]) -> None:
        """Subtract *files*, which were added before."""
        for file in files:
            if file.links > 1:
                self._names[file.inode] -= 1
                if self._names[file.inode] > 0:
                    continue
            self.size_bytes -= file.size_bytes


def freed_bytes(files: Iterable[FileStatus]) -> int:
    """Return the disk space that removing *files* frees; a file with several hard links frees it with its last one."""
    freed = 0
    links: dict[tuple[int, int], int] = {}
    for file in files:
        if file.links > 1:
            links[file.inode] = links.get(file.inode, file.links) - 1
            if links[file.inode] > 0:
                continue
        freed += file.size_bytes
    return freed


@dataclass(frozen=True, slots=True)
class Candidate:
    """The files of one key, and what decides whether pruning removes them."""

    key: Key
    folder: Path
    files: tuple[FileStatus, ...]
    used_s: float  # time of last use if known, else of publishing; seconds since 1970
    published_s: float  # when the newest file was published; seconds since 1970
    pinned: bool = False
    in_transaction: bool = False  # a transaction in force has added the key

    @property
    def size_bytes(self) -> int:
        """Length of all files together."""
        return sum(file.size_bytes for file in self.files)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """The index of a key with whose file something was not done, or the path of a file in quarantine, and why."""

    index: str
    why: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file as ``store list --files`` shows it."""

    path: Path | str  # the URL of an object of a bucket
    index: str  # ``name/id/name`` as the folders spell it
    form: str  # as in `FileStatus`
    size_bytes: int
    symbols: SymbolKind | None  # None if it is not a PDB, or a cabinet without a kind in ``refs.ptr``

    def as_json(self) -> dict[str, str | int | None]:
        head = {"index": self.index, "path": str(self.path), "form": self.form}
        return {**head, "bytes": self.size_bytes, "symbols": self.symbols}


def read_listing(path: Path) -> set[str]:
    """Return the folded indexes of the files that are in a store, as a list of it says, pointers and empty files apart.

    The list is what ``store list --files`` writes, as text or as JSON, in UTF-8 or the UTF-16 that PowerShell makes of
    it. `StoreError` if it cannot be read.

    Raises:
        InputError: Another file, or one of more than 256 MiB.
    """
    with store_errors(path), path.open("rb") as file:
        data = file.read(_LARGEST_LIST_BYTES + 1)
    if len(data) > _LARGEST_LIST_BYTES:
        raise MalformedInput("too long for a list of a store")
    text = data.decode(text_encoding(data[:64]) or "utf-8-sig", "replace").lstrip("\ufeff")
    rows = _parse_json(text) if text.lstrip()[:1] == "{" else _parse_lines(text)
    indexes: set[str] = set()
    for index, form, size_bytes in rows:
        with suppress(InputError):  # not a folder of a key
            if form in {Form.PLAIN, Form.COMPRESSED} and size_bytes:
                indexes.add(parse_index(index).folded)
    return indexes


def _parse_json(text: str) -> Iterator[tuple[str, str, int]]:
    try:
        document = json.loads(text)
        schema, rows = document["schema"], document["files"]
        if schema == "symcache.files/1":
            yield from ((str(row["index"]), str(row["form"]), int(row["bytes"])) for row in rows)
            return
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError):
        pass
    raise UnknownFormat(_NO_LIST)


def _parse_lines(text: str) -> Iterator[tuple[str, str, int]]:
    for line in text.splitlines():
        words = line.split(maxsplit=3)
        if len(words) == 4 and words[0] in _LISTED_FORMS and words[2].isdecimal():
            yield words[3], words[0], int(words[2])
        elif words:
            raise UnknownFormat(_NO_LIST)


def list_files(folder: Path, name: str) -> tuple[FileStatus, ...]:
    """Return the files of the key of *name* in *folder*: every form, and the newer container's, in a folder below."""
    files: list[FileStatus] = []
    with store_errors(folder):
        found = [(stored.path, str(stored.form)) for stored in list_stored(folder, name)]
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(folder / MSFZ_FOLDER) as entries:
            names = sorted(entry.name for entry in entries if fold(entry.name) == fold(name))
            found += [(folder / MSFZ_FOLDER / each, "msfz") for each in names]
        for path, form in found:
            with suppress(FileNotFoundError):
                status = path.stat()
                inode = (status.st_dev, status.st_ino)
                files.append(FileStatus(path, status.st_size, status.st_mtime_ns, form, status.st_nlink, inode))
    return tuple(files)


def take_inventory(store: Store) -> Iterator[Candidate]:
    """Yield every key of *store* that has files."""
    used = AccessLog(store).last_used_by_key()
    is_pinned = match_pins(Pins(store).list())
    admin = Admin(store)
    added = {file.key.folded for each in admin.list_transactions() for file in admin.files_of(each.id)}
    for name, id_, folder in store.key_folders():
        try:
            key = parse_id(name, id_)
        except InputError:
            continue  # no debugger asks for it; `verify` reports it
        files = list_files(folder, name)
        if files:
            published_s = max(file.changed_ns for file in files) / 1e9
            yield Candidate(
                key,
                folder,
                files,
                used_s=max(published_s, used.get(key.folded, 0.0)),
                published_s=published_s,
                pinned=is_pinned(name, id_),
                in_transaction=key.folded in added or (folder / REFS).exists(),
            )


def find_quarantined(store: Store, *, older_than_s: float, now_s: float) -> tuple[FileStatus, ...]:
    """Return the files that have been in quarantine for more than *older_than_s* seconds."""
    found: list[FileStatus] = []
    quarantine = store.root / OWN_FOLDER / "quarantine"
    try:
        check_inside(quarantine, store.root)
    except OSError:
        return ()
    for folder, _, names in os.walk(quarantine):
        for name in names:
            path = store.root / folder / name
            with suppress(FileNotFoundError):
                # Moving a file changes the time of its folder, not its own.
                if now_s - path.parent.stat().st_mtime > older_than_s:
                    status = path.lstat()
                    found.append(FileStatus(path, status.st_size, status.st_mtime_ns))
    return tuple(sorted(found, key=lambda each: each.path))


def list_keys(store: Store) -> Iterator[Key]:
    """Yield the key of every file, in folder order."""
    for name, id_, _ in store.key_folders():
        with suppress(InputError):  # not a folder of a key
            key = parse_id(name, id_)
            if store.find(key) is not None:
                yield key


def iter_files(store: Store, wants: Callable[[str, str], bool] | None = None) -> Iterator[StoredFile]:
    """Yield the files of every key, or of those for whose name and id *wants* returns true, in folder order.

    A plain PDB is read for its kind of symbols; for a cabinet ``refs.ptr`` has it.
    """
    for name, id_, folder in store.key_folders():
        if wants is None or wants(name, id_):
            for file in list_files(folder, name):
                symbols = _symbols(file, folder)
                yield StoredFile(file.path, f"{name}/{id_}/{name}", file.form, file.size_bytes, symbols)


def fits_index(name: str, id_: str, pattern: str) -> bool:
    r"""Return whether *pattern* matches the file name *name*, or the index of *name* and *id_*.

    ``*``, ``?`` and ``[…]`` work as in a shell, letter case does not count. A pattern with ``/`` or ``\`` is one for
    indexes, whose last part may be left out.
    """
    folded = fold(pattern).replace("\\", "/")
    if "/" not in folded:
        return fnmatchcase(fold(name), folded)
    index = fold(f"{name}/{id_}")
    return fnmatchcase(index, folded) or fnmatchcase(f"{index}/{fold(name)}", folded)


def _symbols(file: FileStatus, folder: Path) -> SymbolKind | None:
    if file.form == Form.COMPRESSED:
        contents = [ref.content for ref in read_refs(folder).refs if ref.compressed and ref.content is not None]
        return _SYMBOLS_OF.get(contents[-1]) if contents and fold(file.path.name).endswith(".pd_") else None
    if file.form == Form.POINTER:
        return None
    try:
        with FileView(file.path) as view:
            if not looks_like_pdb(view.read(0, min(view.size, 64))):
                return None
            pdb = parse_pdb(view)
    except (InputError, OSError):
        return None  # `verify` reports what is wrong
    return pdb.symbols if isinstance(pdb, NativePdb) else None


def match_pins(pins: Iterable[str]) -> Callable[[str, str], bool]:
    """Return a predicate that says whether one of *pins* matches a file name and id.

    A pin is an index (``name/id/name``), a file name with ``*``, ``?`` or ``[…]`` as in a shell, or a module's name
    without extension: ``ntdll``, ``win32*``, and ``nt`` and ``hal`` as debuggers use them. Letter case does not count.
    """
    indexes: set[str] = set()
    patterns: list[str] = []
    for pin in map(fold, pins):
        if "/" in pin:
            indexes.add(pin)
        else:
            patterns += [pin, *_PINNED_MODULES.get(pin, ())]

    def is_pinned(name: str, id_: str) -> bool:
        folded = fold(name)
        if f"{folded}/{fold(id_)}/{folded}" in indexes:
            return True
        stem = folded.rpartition(".")[0] or folded
        return any(fnmatchcase(folded if "." in pattern else stem, pattern) for pattern in patterns)

    return is_pinned


class Pins:
    """The pins of one store, one a line in ``.symcache/pins``; everyone who uses the store shares them.

    Methods raise `UsageError` for a text that is no pin.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._path = store.root / OWN_FOLDER / "pins"

    def list(self) -> tuple[str, ...]:
        """Return the pins, oldest first; invalid lines are ignored."""
        lines = (read_whole(self._path) or b"").decode(errors="replace").split("\n")
        return tuple(line for line in map(str.strip, lines) if _is_pin(line))

    def add_all(self, pins: Iterable[str]) -> tuple[str, ...]:
        """Add all of *pins* or none; return them as they are stored, indexes in their canonical form."""
        wanted = tuple(map(_normalize, pins))
        self._change(lambda before: tuple(dict.fromkeys((*before, *wanted))))
        return wanted

    def remove_all(self, pins: Iterable[str]) -> int:
        """Remove *pins*; return how many were there."""
        gone = {_normalize(pin) for pin in pins}
        before = self._change(lambda before: tuple(each for each in before if each not in gone))
        return len(gone.intersection(before))

    def _change(self, change: Callable[[tuple[str, ...]], tuple[str, ...]]) -> tuple[str, ...]:
        with self._store.lock("pins").hold(timeout_s=60.0):
            before = self.list()
            after = change(before)
            if after != before:
                write_whole(self._store, self._path, "".join(f"{pin}\n" for pin in after).encode())
        return before


def _normalize(pin: str) -> str:
    pin = pin.strip().replace("\\", "/")
    if "/" in pin:
        try:
            return parse_index(pin).index
        except InputError as error:
            raise UsageError(f"cannot be pinned: {error}") from error
    if not _is_pin(pin):
        raise UsageError(f"{pin[:80]!r} cannot be pinned; name a module, a file, or an index (name/id/name)")
    return pin


def _is_pin(line: str) -> bool:
    return 0 < len(line) <= _LONGEST_PIN and line.isprintable()
