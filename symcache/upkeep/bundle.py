"""Bundles: zip archives of files of a store, under their single-tier paths, uncompressed, for machines off the network.

``manifest.json``, the last, has length and hash of each file, and what images name. An import trusts nothing in it.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import tempfile
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from secrets import token_hex
from typing import IO, TYPE_CHECKING, Any

from symcache.errors import InputError, MalformedInput, StoreError, UnknownFormat, UsageError
from symcache.identity import ImageKey, compressed_name, fold, parse_id, parse_index, printable
from symcache.stores.base import Form
from symcache.stores.links import StoreLinks, links_json, parse_named
from symcache.stores.local.atomic import drop, store_errors
from symcache.upkeep.inventory import LeftOut

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from symcache.identity import Key
    from symcache.stores.links import Link
    from symcache.stores.local.tree import Store
    from symcache.upkeep.verify import Check


LARGEST_MANIFEST_BYTES = 64 << 20
"""The longest manifest that is written and read, in bytes; enough for some 200,000 files."""

_MANIFEST = "manifest.json"
_SCHEMA = "symcache.bundle/1"
_MANIFEST_END_BYTES = 32
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 20
_LOCK_WAIT_S = 600.0
_ZIP64_BYTES = 1 << 30
_DATE = (1980, 1, 1, 0, 0, 0)  # so that equal files give equal bundles
_REGULAR_FILE = 0o100644 << 16
_LARGEST_DIRECTORY_BYTES = 128 << 20
_LOCAL_HEADER_BYTES = 30
_END = struct.Struct("<4s8xII2x")
_LOCATOR = struct.Struct("<4s16x")
_END64 = struct.Struct("<4s36xQQ")
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, KeyError, OverflowError, struct.error)


@dataclass(frozen=True, slots=True)
class BundledFile:
    """One file of a bundle, as the manifest states it."""

    key: Key
    form: Form
    size_bytes: int
    sha256: str  # hash of its bytes, in hex

    @property
    def path(self) -> str:
        """Name of its archive member."""
        return _member_path(self.key, self.form)

    def as_json(self) -> dict[str, str | int]:
        """Return its record in the manifest."""
        names = {"index": self.key.index, "form": self.form, "path": self.path}
        return {**names, "size": self.size_bytes, "sha256": self.sha256}


def _member_path(key: Key, form: Form) -> str:
    return f"{key.name}/{key.id}/{compressed_name(key.name) if form is Form.COMPRESSED else key.name}"


@dataclass(frozen=True, slots=True)
class Exported:
    """What an export wrote."""

    path: Path
    files: int  # how many files are in it
    size_bytes: int  # their lengths together
    not_carried: tuple[LeftOut, ...]  # the keys that were asked for and are not in it
    dropped_links: int = 0  # for how many images the manifest had no room to say what they name

    def as_json(self) -> dict[str, object]:
        not_carried = [asdict(each) for each in self.not_carried]
        return {"path": str(self.path), "files": self.files, "bytes": self.size_bytes, "not_carried": not_carried}


def export_bundle(
    store: Store,
    path: Path,
    keys: Iterable[Key] | None = None,
    *,
    links: Mapping[ImageKey, Sequence[Link]] | None = None,
    on_file: Callable[[BundledFile], object] = lambda _: None,
) -> Exported:
    """Write the files of *keys*, or of the whole store, into a new bundle at *path*, which appears when complete.

    An existing file is replaced. *links* are what images name, for the importing machine; None for all that the store
    knows. Those for which the manifest has no room left are dropped: an import works without them. *on_file* is called
    for each file that was written.

    Raises:
        UsageError: More files than a manifest may name.
    """
    part = path.with_name(f"{path.name}.{token_hex(4)}.part")
    known = StoreLinks(store.root).list() if links is None else sorted(links.items())
    try:
        with store_errors(path):
            with part.open("xb") as file, tempfile.TemporaryFile() as manifest:
                writer = _Writer(store, file, manifest, on_file)
                writer.write_all(_all_keys(store) if keys is None else keys, known)
                file.flush()
                os.fsync(file.fileno())
            part.replace(path)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return Exported(path, writer.files, writer.size_bytes, tuple(writer.not_carried), writer.dropped_links)


def _all_keys(store: Store) -> Iterator[Key]:
    for name, id_, _ in store.key_folders():
        with suppress(InputError):  # not a folder of a key
            key = parse_id(name, id_)
            if store.find(key) is not None:
                yield key


@dataclass(slots=True)
class _Writer:
    store: Store
    file: BinaryIO
    manifest: BinaryIO
    on_file: Callable[[BundledFile], object]
    files: int = 0
    size_bytes: int = 0
    dropped_links: int = 0
    not_carried: list[LeftOut] = field(default_factory=list)

    def write_all(self, keys: Iterable[Key], links: Iterable[tuple[ImageKey, Sequence[Link]]]) -> None:
        """Write a member for each key, then the manifest, then the archive's directory."""
        seen: set[str] = set()
        self.manifest.write(b'{"schema": %s, "files": [' % json.dumps(_SCHEMA).encode())
        with zipfile.ZipFile(self.file, "w", zipfile.ZIP_STORED) as archive:
            for key in keys:
                if key.folded not in seen:
                    seen.add(key.folded)
                    self._write_key(archive, key)
            self.manifest.write(b'\n], "images": [')
            for number, (image, named) in enumerate(links):
                if self.dropped_links or not self._write_record(number, [image.index, links_json(named)]):
                    self.dropped_links += 1
            self.manifest.write(b"\n]}\n")
            size = self.manifest.tell()
            self.manifest.seek(0)
            _write_member(archive, _MANIFEST, self.manifest, size)

    def _write_key(self, archive: zipfile.ZipFile, key: Key) -> None:
        stored = self.store.find(key)
        source = None
        if stored is not None and stored.form is not Form.POINTER:
            with suppress(FileNotFoundError):
                source = stored.path.open("rb")
        if stored is None or source is None:
            is_pointer = stored is not None and stored.form is Form.POINTER
            self.not_carried.append(LeftOut(key.index, "only a pointer to it" if is_pointer else "absent"))
            return
        with source:
            size = os.fstat(source.fileno()).st_size
            written, sha256 = _write_member(archive, _member_path(key, stored.form), source, size)
        bundled = BundledFile(key, stored.form, written, sha256)
        if not self._write_record(self.files, bundled.as_json()):
            raise UsageError(f"more than {self.files} files do not go into one bundle; write several")
        self.files += 1
        self.size_bytes += written
        self.on_file(bundled)

    def _write_record(self, number: int, record: object) -> bool:
        """Append a record to the manifest; return whether there is room for it."""
        line = b"%s\n%s" % (b"," if number else b"", json.dumps(record).encode())
        if self.manifest.tell() + len(line) + _MANIFEST_END_BYTES > LARGEST_MANIFEST_BYTES:
            return False
        self.manifest.write(line)
        return True


def _write_member(archive: zipfile.ZipFile, name: str, source: BinaryIO, size_bytes: int) -> tuple[int, str]:
    """Write one member; return its length in bytes and its hash."""
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = _REGULAR_FILE
    with archive.open(info, "w", force_zip64=size_bytes > _ZIP64_BYTES) as member:
        return _copy(source, member)


def _copy(source: IO[bytes], target: IO[bytes]) -> tuple[int, str]:
    written, digest = 0, hashlib.sha256()
    while block := source.read(_BLOCK_BYTES):
        target.write(block)
        digest.update(block)
        written += len(block)
    return written, digest.hexdigest()


class Outcome(StrEnum):
    """What happened to one file of a bundle."""

    IMPORTED = "imported"
    KEPT = "kept"  # the store has the key's file already
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
    the store has none for its key, its bytes have the hash that the manifest states, and *check* finds it right. What
    images name is taken over, unchecked, where the store does not know it.

    Raises:
        InputError: Not a bundle, or a malicious one.
    """
    with store_errors(path):
        file = path.open("rb")
    with file:
        with _zip_errors_as_malformed():
            _check_directory(file)
            archive = zipfile.ZipFile(file)
        with archive:
            with _zip_errors_as_malformed():
                members = _check_members(archive)
                files, links = _read_manifest(archive, members)
            known = StoreLinks(store.root)
            for image, named in links.items():
                if known.recall(image) is None:  # as with files, what the store has stays
                    known.remember(image, named)
            for bundled in files:
                try:
                    with store.lock(bundled.key).hold(timeout_s=_LOCK_WAIT_S):
                        imported = _import_file(store, archive, members[fold(bundled.path)], bundled, check)
                except StoreError as error:
                    imported = Imported(bundled, Outcome.FAILED, str(error))
                yield imported


@contextmanager
def _zip_errors_as_malformed() -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise MalformedInput(f"not a sound zip archive: {printable(str(error))}") from error


def _check_directory(file: BinaryIO) -> None:
    r"""Check the size that the archive's directory states, before `zipfile` reads all of it into memory.

    Layout (LE): the last 22 bytes of an archive without a comment: ``PK\5\6``, 8 bytes of counts, u32 size and u32
    offset of the directory, u16 0. With ``PK\6\7`` 20 bytes before, the 56 bytes before that, ``PK\6\6``, have both
    as u64, from offset 40.
    Source: APPNOTE.TXT, "End of central directory record" and its ZIP64 forms.
    """
    size = file.seek(0, 2)
    if size < 22:
        raise UnknownFormat("too short for a bundle")
    tail_bytes = min(size, 22 + 20 + 56)
    file.seek(size - tail_bytes)
    tail = file.read(tail_bytes)
    signature, directory_bytes, _ = _END.unpack(tail[-22:])
    if signature != b"PK\5\6" or tail[-2:] != b"\0\0":
        raise UnknownFormat("not a bundle: it does not end as a zip archive without a comment does")
    if len(tail) == 98 and _LOCATOR.unpack(tail[56:76])[0] == b"PK\6\7":
        signature, directory_bytes, _ = _END64.unpack(tail[:56])
        if signature != b"PK\6\6":
            raise MalformedInput("the archive's ZIP64 records contradict each other", offset=size - tail_bytes)
    if directory_bytes > min(size, _LARGEST_DIRECTORY_BYTES):
        raise MalformedInput(f"the archive's directory claims {directory_bytes} bytes", offset=size - 22)


def _check_members(archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    """Return the archive's members by their folded names."""
    members: dict[str, zipfile.ZipInfo] = {}
    end = 0
    for info in sorted(archive.infolist(), key=lambda info: info.header_offset):
        shown = printable(info.orig_filename)
        mode = stat.S_IFMT(info.external_attr >> 16)
        if not info.filename or info.filename.endswith("/") or mode not in {0, stat.S_IFREG}:
            raise MalformedInput(f"{shown!r} is not a regular file", offset=info.header_offset)
        if info.flag_bits & 1 or info.compress_type != zipfile.ZIP_STORED or info.compress_size != info.file_size:
            raise MalformedInput(f"{shown!r} is compressed or encrypted; members are stored", offset=info.header_offset)
        if info.filename != info.orig_filename or fold(info.filename) in members:
            raise MalformedInput(f"{shown!r} is there twice, or has an odd name", offset=info.header_offset)
        if info.header_offset < end:
            raise MalformedInput(f"{shown!r} lies within another member", offset=info.header_offset)
        end = info.header_offset + _LOCAL_HEADER_BYTES + info.file_size
        members[fold(info.filename)] = info
    if end > archive.start_dir:
        raise MalformedInput("a member lies within the archive's directory", offset=archive.start_dir)
    return members


def _read_manifest(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]
) -> tuple[list[BundledFile], dict[ImageKey, tuple[Link, ...]]]:
    """Return the files that the manifest names, which are those of the archive, and what images name."""
    info = members.get(_MANIFEST)
    if info is None:
        raise UnknownFormat(f"not a bundle: a zip archive without a {_MANIFEST}")
    if info.file_size > LARGEST_MANIFEST_BYTES:
        raise MalformedInput(f"{_MANIFEST} is larger than {LARGEST_MANIFEST_BYTES} bytes", offset=info.header_offset)
    content = archive.read(info)
    try:
        document = json.loads(content)
        schema, records = document["schema"], document["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnknownFormat(f"{_MANIFEST} is not the manifest of a bundle") from error
    if schema != _SCHEMA or not isinstance(records, list):
        raise UnknownFormat(f"a bundle of the schema {schema!r:.80}; {_SCHEMA} is read")
    files = [_parse_record(record) for record in records]
    unknown = set(members) - {_MANIFEST}
    for bundled in files:
        path = fold(bundled.path)
        member = members.get(path)
        if member is None or member.file_size != bundled.size_bytes:
            raise MalformedInput(f"{_MANIFEST} and the archive disagree about {bundled.path}")
        if path not in unknown:
            raise MalformedInput(f"{_MANIFEST} names {bundled.path} twice")
        unknown.remove(path)
    if unknown:
        raise MalformedInput(f"{printable(min(unknown))!r} is not in {_MANIFEST}")
    rows = document.get("images", [])
    named = map(parse_named, rows if isinstance(rows, list) else [])
    return files, dict(each for each in named if each is not None)


def _parse_record(record: Any) -> BundledFile:
    try:
        index, form, path, size, sha256 = (record[name] for name in ("index", "form", "path", "size", "sha256"))
        key = parse_index(index)
        is_sound = (
            form in {Form.PLAIN, Form.COMPRESSED}
            and type(size) is int
            and size > 0
            and _SHA256.fullmatch(sha256) is not None
            and path == _member_path(key, Form(form))
        )
    except (KeyError, TypeError, AttributeError, ValueError, InputError) as error:
        raise MalformedInput(f"{_MANIFEST} has a record that names no file: {error}"[:200]) from error
    if not is_sound:
        raise MalformedInput(f"{_MANIFEST} contradicts itself about {key.index}")
    return BundledFile(key, Form(form), size, sha256)


def _import_file(
    store: Store, archive: zipfile.ZipFile, member: zipfile.ZipInfo, bundled: BundledFile, check: Check
) -> Imported:
    found = store.find(bundled.key)
    if found is not None and found.form is not Form.POINTER:
        return Imported(bundled, Outcome.KEPT)
    scratch = store.scratch()
    problem: str | None
    try:
        with store_errors(scratch):
            try:
                with archive.open(member) as source, scratch.open("xb") as target:
                    _, sha256 = _copy(source, target)
                problem = None if sha256 == bundled.sha256 else "its hash is not the one in the manifest"
            except _ZIP_ERRORS as error:
                problem = f"damaged in the bundle: {printable(str(error))}"
            problem = problem or check(scratch, bundled.key)
            if problem is not None:
                return Imported(bundled, Outcome.REFUSED, problem)
            store.publish(scratch, bundled.key, form=bundled.form)
    finally:
        drop(scratch)
    return Imported(bundled, Outcome.IMPORTED)
