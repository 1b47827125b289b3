"""Bundles written from a store and imported into one; how they are laid out and read is in `symcache.stores.bundle`.

The same files, spelt alike, and the same links give the same bytes, whenever and wherever they are packed.
"""

from __future__ import annotations

import glob
import hashlib
import json
import os
import sys
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from secrets import token_hex
from typing import IO, TYPE_CHECKING

from symcache.errors import InputError, StoreError, UsageError, WrongContent
from symcache.formats.view import FileView
from symcache.identity import ImageKey, published_keys
from symcache.inputs.lock import SCHEMA as LOCK_SCHEMA
from symcache.inputs.lock import LockedFile, file_kind
from symcache.stores.base import Form, Stored
from symcache.stores.bundle import (
    LARGEST_MANIFEST_BYTES,
    MANIFEST,
    SCHEMA,
    BundledFile,
    copy_out,
    member_path,
    read_contents,
)
from symcache.stores.check import StoredCheck, hash_plain
from symcache.stores.links import StoreLinks, links_json
from symcache.stores.local.atomic import drop, flush_folders, store_errors
from symcache.upkeep.inventory import LeftOut, list_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.stores.links import Link
    from symcache.stores.local.tree import Store
    from symcache.upkeep.filechecks import Check


_PART = ".part"
_MANIFEST_END_BYTES = 128
_BLOCK_BYTES = 1 << 20
_LOCK_WAIT_S = 600.0
_DATE = (1980, 1, 1, 0, 0, 0)
_UNIX = 3  # APPNOTE.TXT, "version made by"; Python states the system that it runs on
_REGULAR_FILE = 0o100644 << 16


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    path: Path
    files: int  # how many files are in it
    size_bytes: int  # their lengths together
    not_carried: tuple[LeftOut, ...]  # the keys that were asked for and are not in it
    dropped_links: int = 0  # for how many images the manifest had no room to say what they name
    left_out: int = 0  # how many keys were asked for that the other side has

    def as_json(self) -> dict[str, object]:
        head = {"path": str(self.path), "files": self.files, "bytes": self.size_bytes, "left_out": self.left_out}
        return {**head, "not_carried": [asdict(each) for each in self.not_carried]}


def export_bundle(
    store: Store,
    path: Path,
    keys: Iterable[Key] | None = None,
    *,
    without: Collection[str] = (),
    links: Mapping[ImageKey, Sequence[Link]] | None = None,
    find: Callable[[Key], Stored | None] | None = None,
    on_file: Callable[[BundledFile], object] = lambda _: None,
) -> Exported:
    """Write the files of *keys*, or of the whole store, into a new bundle at *path*, which appears when complete.

    *find* looks for one, in *store* and elsewhere; None for there alone. What lies where no other program opens it, in
    a bucket or another bundle, is checked on the way. An existing file is replaced. Files whose folded indexes are in
    *without* are left out, an image also if it is there under another of its names. *links* are what images name, for
    the importing machine; None for all that the store knows. Those for which the manifest has no room left are dropped:
    an import works without them. *on_file* is called for each file that was written.

    Raises:
        UsageError: More files than a manifest may name.
    """
    known = StoreLinks(store.root).list() if links is None else sorted(links.items(), key=lambda row: row[0].folded)
    asked = list(list_keys(store) if keys is None else keys)
    with store_errors(path):
        part, file = _open_part(path)
    try:
        with store_errors(path):
            with file, tempfile.TemporaryFile() as manifest, tempfile.TemporaryFile() as lock:
                writer = _Writer(store, find or store.find, file, manifest, lock, without, on_file)
                # Stores of either layout, and inputs, give them in orders of their own.
                writer.write_all(sorted(asked, key=lambda key: key.folded), known)
                file.flush()
                os.fsync(file.fileno())
                if sys.platform != "win32":
                    part.replace(path)  # while it is locked, lest another export takes it for one left behind
            if sys.platform == "win32":
                part.replace(path)  # nothing that is open is renamed there
            flush_folders([path.parent], path.parent)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    not_carried = (writer.not_carried.get(folded) for folded in dict.fromkeys(key.folded for key in asked))
    return Exported(
        path,
        writer.files,
        writer.size_bytes,
        tuple(each for each in not_carried if each is not None),
        writer.dropped_links,
        writer.left_out,
    )


def _open_part(path: Path) -> tuple[Path, BinaryIO]:
    """Open a file beside *path* to write, locked while this process lives; remove those of processes that are gone."""
    from symcache.stores.local.locks import lock_file  # noqa: PLC0415 - with the network, for who writes

    for left in path.parent.glob(f"{glob.escape(path.name)}.{'[0-9a-f]' * 8}{_PART}"):
        with suppress(OSError):
            with left.open("r+b") as found:
                is_abandoned = lock_file(found.fileno())
                if is_abandoned and sys.platform != "win32":
                    left.unlink()  # while it is locked, lest who has just made it takes the lock in between
            if is_abandoned:
                left.unlink(missing_ok=True)  # Windows does not remove what is open, here or where it is written
    while True:
        part = path.with_name(f"{path.name}.{token_hex(4)}{_PART}")
        file = part.open("xb")
        with suppress(OSError):  # no locks here, nobody removes it
            if not lock_file(file.fileno()) or not part.exists():
                file.close()  # another process came between, and removes it
                continue
        file.seek(0)
        return part, file


@dataclass(slots=True)
class _Writer:
    store: Store
    find: Callable[[Key], Stored | None]
    file: BinaryIO
    manifest: BinaryIO
    lock: BinaryIO  # records of the lock file, which go into the manifest behind the others
    without: Collection[str]
    on_file: Callable[[BundledFile], object]
    files: int = 0
    size_bytes: int = 0
    dropped_links: int = 0
    left_out: int = 0
    not_carried: dict[str, LeftOut] = field(default_factory=dict)  # by the folded index

    def write_all(self, keys: Iterable[Key], links: Iterable[tuple[ImageKey, Sequence[Link]]]) -> None:
        """Write a member for each key, then the manifest, then the archive's directory."""
        seen: set[str] = set()
        self.manifest.write(b'{"schema": %s, "files": [' % json.dumps(SCHEMA).encode())
        with zipfile.ZipFile(self.file, "w", zipfile.ZIP_STORED) as archive:
            for key in keys:
                if key.folded in seen:
                    continue
                seen.add(key.folded)
                if self._is_there(key):
                    self.left_out += 1
                else:
                    self._write_key(archive, key)
            self.manifest.write(b'\n], "images": [')
            for number, (image, named) in enumerate(links):
                if self.dropped_links or not self._write_record(number, [image.index, links_json(named)]):
                    self.dropped_links += 1
            self.manifest.write(b'\n], "lock": {"schema": %s, "files": [' % json.dumps(LOCK_SCHEMA).encode())
            lock_bytes = self.lock.tell()
            self.lock.seek(0)
            _copy(self.lock, self.manifest, lock_bytes)
            self.manifest.write(b'\n], "missing": []}}\n')
            size = self.manifest.tell()
            self.manifest.seek(0)
            _write_member(archive, MANIFEST, self.manifest, size)

    def _is_there(self, key: Key) -> bool:
        """Return whether the other side has *key*'s file."""
        names = (key, *published_keys(key)) if isinstance(key, ImageKey) else (key,)
        return any(name.folded in self.without for name in names)

    def _write_key(self, archive: zipfile.ZipFile, key: Key) -> None:
        stored = self.find(key)
        if stored is not None and stored.is_member:
            self._write_member(archive, key, stored)
        else:
            self._write_stored(archive, key, stored)

    def _write_member(self, archive: zipfile.ZipFile, key: Key, stored: Stored) -> None:
        """Write what lies within another file, or in a bucket, by way of a scratch file."""
        scratch = self.store.scratch()
        try:
            stored.copy_to(scratch)
            with store_errors(scratch):
                problem = StoredCheck(self.store)(scratch, key)
            if problem is not None:
                self.not_carried[key.folded] = LeftOut(key.index, problem)
            else:
                self._write_stored(archive, key, Stored(scratch, stored.form, stored.size_bytes))
        except WrongContent as error:
            self.not_carried[key.folded] = LeftOut(key.index, str(error))
        finally:
            drop(scratch)

    def _write_stored(self, archive: zipfile.ZipFile, key: Key, stored: Stored | None) -> None:
        source = None
        if stored is not None and stored.form is not Form.POINTER:
            with suppress(FileNotFoundError):
                source = stored.path.open("rb")
        if stored is None or source is None:
            is_pointer = stored is not None and stored.form is Form.POINTER
            self.not_carried[key.folded] = LeftOut(key.index, "only a pointer to it" if is_pointer else "absent")
            return
        with source:
            try:
                expanded = None if stored.form is Form.PLAIN else hash_plain(stored.path, stored.form)
            except InputError as error:
                self.not_carried[key.folded] = LeftOut(key.index, f"a damaged cabinet: {error}")
                return
            size = os.fstat(source.fileno()).st_size
            at = self.file.tell()
            written, sha256 = _write_member(archive, member_path(key, stored.form), source, size)
        bundled = BundledFile(key, stored.form, written, sha256, at)
        locked = LockedFile(key.name, file_kind(key), key, *(expanded or (written, sha256)))
        is_written = self._write_record(self.files, bundled.as_json()) and self._write_record(
            self.files, locked.as_json(), self.lock
        )
        if not is_written:
            raise UsageError(f"more than {self.files} files do not go into one bundle; write several")
        self.files += 1
        self.size_bytes += written
        self.on_file(bundled)

    def _write_record(self, number: int, record: object, to: BinaryIO | None = None) -> bool:
        """Append a record to the manifest, or *to* what becomes part of it; return whether there is room for it."""
        line = b"%s\n%s" % (b"," if number else b"", json.dumps(record).encode())
        if self.manifest.tell() + self.lock.tell() + len(line) + _MANIFEST_END_BYTES > LARGEST_MANIFEST_BYTES:
            return False
        (to or self.manifest).write(line)
        return True


def _write_member(archive: zipfile.ZipFile, name: str, source: BinaryIO, size_bytes: int) -> tuple[int, str]:
    """Write one member of at most *size_bytes*; return its length in bytes and its hash."""
    info = zipfile.ZipInfo(name, _DATE)
    info.create_system = _UNIX
    info.external_attr = _REGULAR_FILE
    # Only where it must be: versions of Python differ in what they write for smaller files.
    with archive.open(info, "w", force_zip64=size_bytes > zipfile.ZIP64_LIMIT) as member:
        return _copy(source, member, size_bytes)


def _copy(source: IO[bytes], target: IO[bytes], size_bytes: int) -> tuple[int, str]:
    written, digest = 0, hashlib.sha256()
    while block := source.read(min(_BLOCK_BYTES, size_bytes - written)):
        target.write(block)
        digest.update(block)
        written += len(block)
    return written, digest.hexdigest()


class Outcome(StrEnum):
    """What happened to one file of a bundle."""

    IMPORTED = "imported"
    KEPT = "kept"  # the store has the key's file already
    DIFFERS = "differs"  # so it has, with other bytes than the bundle's lock file states; it stays as it is
    REFUSED = "refused"  # it is not what the manifest states, or not what its key names
    FAILED = "failed"  # the store cannot be written


@dataclass(frozen=True, slots=True)
class Imported:
    """The result for one file of a bundle, with the problem if it is not in the store."""

    file: BundledFile
    outcome: Outcome
    problem: str | None = None

    def __str__(self) -> str:
        return f"{self.file.key.index}: {self.outcome}" + (f": {self.problem}" if self.problem else "")

    def as_json(self) -> dict[str, str | int | None]:
        key, size_bytes = self.file.key, self.file.size_bytes
        return {"index": key.index, "state": self.outcome, "problem": self.problem, "bytes": size_bytes}


def import_bundle(store: Store, path: Path, check: Check) -> Iterator[Imported]:
    """Publish the files of a bundle, and yield the result for each.

    The whole archive is checked before the first file is read, and its names choose no path. A file is published if
    the store has none for its key, its bytes have the hash that the manifest states, *check* finds it right, and it
    is what the bundle's lock file states. A file that the store has is read, too, and compared with that. What images
    name is taken over, unchecked, where the store does not know it.

    Raises:
        InputError: Not a bundle, or a malicious one.
    """
    with store_errors(path), path.open("rb") as file:
        contents = read_contents(file)
    known = StoreLinks(store.root)
    for image, named in contents.links.items():
        if known.recall(image) is None:  # as with files, what the store has stays
            known.remember(image, named)
    with store_errors(path):
        view = FileView(path)
    changed: set[Path] = set()
    with view:
        for bundled in contents.files:
            try:
                with store.lock(bundled.key).hold(timeout_s=_LOCK_WAIT_S):
                    imported = _import_file(store, view, bundled, check, contents.locked.get(bundled.key.folded))
            except StoreError as error:
                imported = Imported(bundled, Outcome.FAILED, str(error))
            if imported.outcome is Outcome.IMPORTED:
                changed.add(store.folder_for(bundled.key))
            yield imported
    # Who imports may take the bundle away then.
    with store_errors(store.root):
        flush_folders(changed, store.root)


def _import_file(
    store: Store, bundle: ByteView, bundled: BundledFile, check: Check, locked_sha256: str | None
) -> Imported:
    found = store.find(bundled.key)
    problem: str | None = None
    if found is not None and found.form is not Form.POINTER:
        if locked_sha256 is not None:
            problem = _find_difference(found.path, found.form, locked_sha256)
        return Imported(bundled, Outcome.KEPT if problem is None else Outcome.DIFFERS, problem)
    scratch = store.scratch()
    try:
        problem = copy_out(bundle, bundled, scratch)
        with store_errors(scratch):
            problem = problem or check(scratch, bundled.key)
            if problem is None and locked_sha256 is not None:
                problem = _find_difference(scratch, bundled.form, locked_sha256)
            if problem is not None:
                return Imported(bundled, Outcome.REFUSED, problem)
            store.publish(scratch, bundled.key, form=bundled.form)
    finally:
        drop(scratch)
    return Imported(bundled, Outcome.IMPORTED)


def _find_difference(path: Path, form: Form, locked_sha256: str) -> str | None:
    """Return how the file at *path* differs from what a lock file states; None if it does not."""
    try:
        _, sha256 = hash_plain(path, form)
    except (InputError, OSError) as error:
        return f"cannot be compared with the lock file: {error}"
    return None if sha256 == locked_sha256 else f"other bytes: its SHA-256 is {sha256}, locked is {locked_sha256}"
