"""Taking in a bundle: an archive that anybody may have made."""

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
from dataclasses import dataclass
from enum import StrEnum
from secrets import token_hex
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, MalformedInput, StoreError, UnknownFormat, UsageError
from symcache.identity import ImageKey, compressed_name, fold, parse_id, parse_index, printable
from symcache.stores.links import StoreLinks, links_json, parse_links
from symcache.stores.local.atomic import as_store_error
from symcache.stores.local.tree import Form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from symcache.identity import Key
    from symcache.stores.links import Link
    from symcache.stores.local.tree import Store, Stored
    from symcache.upkeep.findings import Check

__all__ = [
    "LARGEST_MANIFEST_BYTES",
    "MANIFEST",
    "SCHEMA",
    "Carried",
    "Exported",
    "Imported",
    "NotCarried",
    "Outcome",
    "export_bundle",
    "import_bundle",
    "member_path",
    "parse_links_of",
    "parse_manifest",
]


MANIFEST = "manifest.json"
SCHEMA = "symcache.bundle/1"
LARGEST_MANIFEST_BYTES = 64 << 20
"""The most that is written and read, in bytes; some 200,000 files."""

_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Carried:
    """One file of a bundle.

    Attributes:
        key: What it is.
        form: Plain or compressed.
        size_bytes: Its length.
        sha256: Of its bytes, in hex.
    """

    key: Key
    form: Form
    size_bytes: int
    sha256: str

    @property
    def path(self) -> str:
        """Its member of the archive."""
        return member_path(self.key, self.form)

    def as_json(self) -> dict[str, str | int]:
        """Return its record in the manifest."""
        return {
            "index": self.key.index,
            "form": self.form,
            "path": self.path,
            "size": self.size_bytes,
            "sha256": self.sha256,
        }


def member_path(key: Key, form: Form) -> str:
    """Return where in a bundle *key*'s file lies."""
    return f"{key.name}/{key.id}/{compressed_name(key.name) if form is Form.COMPRESSED else key.name}"


def parse_manifest(content: bytes) -> Iterator[Carried]:
    """Yield the files that a manifest names, each path once.

    Raises:
        UnknownFormat: Not a manifest, or of a schema of the future.
        MalformedInput: A record of another shape, a name that cannot be part of a path, a path twice.
    """
    try:
        document = json.loads(content)
        schema, records = document["schema"], document["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnknownFormat(f"{MANIFEST} is no manifest of a bundle") from error
    if schema != SCHEMA or not isinstance(records, list):
        raise UnknownFormat(f"a bundle of the schema {schema!r:.80}; {SCHEMA} is read")
    seen: set[str] = set()
    for record in records:
        carried = _parse_record(record)
        if carried.path.lower() in seen:
            raise MalformedInput(f"{MANIFEST} names {carried.path} twice")
        seen.add(carried.path.lower())
        yield carried


def parse_links_of(content: bytes) -> dict[ImageKey, tuple[Link, ...]]:
    """Return what a manifest that `parse_manifest` takes says of images; what is of another shape is left out."""
    rows = json.loads(content).get("images", [])
    found: dict[ImageKey, tuple[Link, ...]] = {}
    for row in rows if isinstance(rows, list) else []:
        with suppress(ValueError, TypeError, AttributeError, InputError):
            index, names = row
            image, links = parse_index(index), parse_links(names)
            if isinstance(image, ImageKey) and links is not None:
                found[image] = links
    return found


def _parse_record(record: Any) -> Carried:
    try:
        index, form, path, size, sha256 = (record[name] for name in ("index", "form", "path", "size", "sha256"))
        key = parse_index(index)
        is_sound = (
            form in {Form.PLAIN, Form.COMPRESSED}
            and type(size) is int
            and size > 0
            and _SHA256.fullmatch(sha256) is not None
            and path == member_path(key, Form(form))
        )
    except (KeyError, TypeError, AttributeError, ValueError, InputError) as error:
        raise MalformedInput(f"{MANIFEST} has a record that names no file: {error}"[:200]) from error
    if not is_sound:
        raise MalformedInput(f"{MANIFEST} contradicts itself about {key.index}")
    return Carried(key, Form(form), size, sha256)


_BLOCK_BYTES = 1 << 20
_ZIP64_BYTES = 1 << 30
_DATE = (1980, 1, 1, 0, 0, 0)  # equal files give equal bundles
_REGULAR_FILE = 0o100644 << 16
_MANIFEST_END_BYTES = 32


@dataclass(frozen=True, slots=True)
class NotCarried:
    """A key whose file a bundle does not carry.

    Attributes:
        index: The key, written out.
        why: ``absent``, or that there is only a pointer.
    """

    index: str
    why: str


@dataclass(frozen=True, slots=True)
class Exported:
    """What a bundle carries.

    Attributes:
        path: The bundle.
        files: How many files.
        size_bytes: Their lengths together.
        not_carried: The keys that were wanted and are not in it.
    """

    path: Path
    files: int
    size_bytes: int
    not_carried: tuple[NotCarried, ...]

    def as_json(self) -> dict[str, object]:
        """Return the fields of one JSON object."""
        return {
            "path": str(self.path),
            "files": self.files,
            "bytes": self.size_bytes,
            "not_carried": [{"index": each.index, "why": each.why} for each in self.not_carried],
        }


def export_bundle(
    store: Store,
    path: Path,
    keys: Iterable[Key] | None = None,
    *,
    links: Mapping[ImageKey, Sequence[Link]] | None = None,
    on_carried: Callable[[Carried], None] | None = None,
) -> Exported:
    """Write the files of *keys*, or of the whole store, into a new bundle at *path*; it shows when it is complete.

    Args:
        store: The store.
        path: The bundle; replaced if there is one.
        keys: Which keys; None for all that the store has.
        links: What images name, for the machine that takes the bundle; None for all that the store knows.
        on_carried: Told of each file that is in it.

    Raises:
        UsageError: More files than a manifest may name.
        StoreError: The store cannot be read, or *path* not be written.
    """
    part = path.with_name(f"{path.name}.{token_hex(4)}.part")
    try:
        with part.open("xb") as file, tempfile.TemporaryFile() as manifest:
            writer = _Writer(store, file, manifest, on_carried)
            known = StoreLinks(store.root).list() if links is None else links.items()
            writer.write_all(_all_keys(store) if keys is None else keys, known)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise as_store_error(error, path) from error
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)
    return Exported(path, writer.files, writer.size_bytes, tuple(writer.not_carried))


class _Writer:
    def __init__(
        self, store: Store, file: BinaryIO, manifest: BinaryIO, on_carried: Callable[[Carried], None] | None
    ) -> None:
        self._store = store
        self._file = file
        self._manifest = manifest
        self._on_carried = on_carried
        self.files = self.size_bytes = 0
        self.not_carried: list[NotCarried] = []

    def write_all(self, keys: Iterable[Key], links: Iterable[tuple[ImageKey, Sequence[Link]]]) -> None:
        """Write the member of each key, then the manifest, then the archive's directory."""
        seen: set[str] = set()
        self._manifest.write(b'{"schema": %s, "files": [' % json.dumps(SCHEMA).encode())
        with zipfile.ZipFile(self._file, "w", zipfile.ZIP_STORED) as archive:
            for key in keys:
                if key.folded not in seen:
                    seen.add(key.folded)
                    self._write_key(archive, key)
            self._manifest.write(b'\n], "images": [')
            for number, (image, named) in enumerate(sorted(links)):
                self._write_record(number, [image.index, links_json(named)])
            self._manifest.write(b"\n]}\n")
            size = self._manifest.tell()
            self._manifest.seek(0)
            _write_member(archive, MANIFEST, self._manifest, size)

    def _write_key(self, archive: zipfile.ZipFile, key: Key) -> None:
        stored = self._store.find(key)
        if stored is None or stored.form is Form.POINTER:
            self.not_carried.append(NotCarried(key.index, "absent" if stored is None else "only a pointer to it"))
            return
        try:
            source = stored.path.open("rb")
        except FileNotFoundError:
            self.not_carried.append(NotCarried(key.index, "absent"))
            return
        with source:
            carried = self._write_stored(archive, key, stored, source)
        self._write_record(self.files, carried.as_json())
        self.files += 1
        self.size_bytes += carried.size_bytes
        if self._on_carried is not None:
            self._on_carried(carried)

    def _write_record(self, number: int, record: object) -> None:
        line = b"%s\n%s" % (b"," if number else b"", json.dumps(record).encode())
        if self._manifest.tell() + len(line) + _MANIFEST_END_BYTES > LARGEST_MANIFEST_BYTES:
            raise UsageError(f"more than {self.files} files do not go into one bundle; write several")
        self._manifest.write(line)

    def _write_stored(self, archive: zipfile.ZipFile, key: Key, stored: Stored, source: BinaryIO) -> Carried:
        size = os.fstat(source.fileno()).st_size
        written, sha256 = _write_member(archive, member_path(key, stored.form), source, size)
        return Carried(key, stored.form, written, sha256)


def _write_member(archive: zipfile.ZipFile, name: str, source: BinaryIO, size_bytes: int) -> tuple[int, str]:
    """Write one member; return its length in bytes and its hash."""
    info = zipfile.ZipInfo(name, _DATE)
    info.external_attr = _REGULAR_FILE
    written, digest = 0, hashlib.sha256()
    with archive.open(info, "w", force_zip64=size_bytes > _ZIP64_BYTES) as member:
        while block := source.read(_BLOCK_BYTES):
            member.write(block)
            digest.update(block)
            written += len(block)
    return written, digest.hexdigest()


def _all_keys(store: Store) -> Iterator[Key]:
    for name, id_, _ in store.key_folders():
        with suppress(InputError):  # no key can have this folder, so nobody can ask for it
            key = parse_id(name, id_)
            if store.find(key) is not None:
                yield key


_BLOCK_BYTES = 1 << 20
_LARGEST_DIRECTORY_BYTES = 128 << 20
_LOCAL_HEADER_BYTES = 30
_END = struct.Struct("<4s8xII2x")
_LOCATOR = struct.Struct("<4s16x")
_END64 = struct.Struct("<4s36xQQ")
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, KeyError, OverflowError, struct.error)


class Outcome(StrEnum):
    """What came of one file of a bundle."""

    IMPORTED = "imported"
    KEPT = "kept"  # the store has the key's file already
    REFUSED = "refused"  # it is not what the bundle says, or not what its key names
    FAILED = "failed"  # the disk does not take it


@dataclass(frozen=True, slots=True)
class Imported:
    """One file of a bundle.

    Attributes:
        carried: What the bundle says of it.
        outcome: What came of it.
        problem: Why it is not in the store now.
    """

    carried: Carried
    outcome: Outcome
    problem: str | None = None

    def __str__(self) -> str:
        return f"{self.carried.key.index}: {self.outcome}" + (f": {self.problem}" if self.problem else "")

    def as_json(self) -> dict[str, str | int | None]:
        """Return the fields of one JSON object."""
        return {
            "index": self.carried.key.index,
            "state": self.outcome,
            "problem": self.problem,
            "bytes": self.carried.size_bytes,
        }


def import_bundle(store: Store, path: Path, check: Check, *, lock_wait_s: float = 600.0) -> Iterator[Imported]:
    """Publish what a bundle carries, and yield what came of each file.

    The archive as a whole is judged before the first file is read; its names choose no path. A file is published if the
    store has none for its key, its bytes have the hash that the manifest states, and *check* finds it right. What
    images name is taken over, unchecked, where the store does not know it.

    Args:
        store: The store; made if need be.
        path: The bundle.
        check: Looks into files.
        lock_wait_s: Seconds to wait for whoever fills in one of the files just now.

    Raises:
        InputError: Not a bundle, or one that was made to do harm.
        StoreError: The bundle cannot be read.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise as_store_error(error, path) from error
    with file:
        with _understood():
            _check_directory(file)
            archive = zipfile.ZipFile(file)
        with archive:
            with _understood():
                members = _check_members(archive)
                files, links = _read_manifest(archive, members)
            known = StoreLinks(store.root)
            for image, named in links.items():
                if known.recall(image) is None:  # as with files, what the store has stays
                    known.remember(image, named)
            for carried in files:
                try:
                    with store.lock(carried.key).hold(timeout_s=lock_wait_s):
                        imported = _import_file(store, archive, members[fold(carried.path)], carried, check)
                except StoreError as error:
                    imported = Imported(carried, Outcome.FAILED, str(error))
                yield imported


def _check_directory(file: BinaryIO) -> None:
    r"""Look at what the directory claims to be, before `zipfile` reads all of it into memory.

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
            raise MalformedInput(f"{shown!r} stands there twice, or as something else", offset=info.header_offset)
        if info.header_offset < end:
            raise MalformedInput(f"{shown!r} lies within another member", offset=info.header_offset)
        end = info.header_offset + _LOCAL_HEADER_BYTES + info.file_size
        members[fold(info.filename)] = info
    if end > archive.start_dir:
        raise MalformedInput("a member lies within the archive's directory", offset=archive.start_dir)
    return members


def _read_manifest(
    archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]
) -> tuple[list[Carried], dict[ImageKey, tuple[Link, ...]]]:
    info = members.get(MANIFEST)
    if info is None:
        raise UnknownFormat(f"not a bundle: a zip archive without a {MANIFEST}")
    if info.file_size > LARGEST_MANIFEST_BYTES:
        raise MalformedInput(f"{MANIFEST} is larger than {LARGEST_MANIFEST_BYTES} bytes", offset=info.header_offset)
    content = archive.read(info)
    files = list(parse_manifest(content))
    for carried in files:
        member = members.get(fold(carried.path))
        if member is None or member.file_size != carried.size_bytes:
            raise MalformedInput(f"{MANIFEST} and the archive disagree about {carried.path}")
    if len(files) + 1 != len(members):
        known = {MANIFEST, *(fold(carried.path) for carried in files)}
        unknown = next(name for name in members if name not in known)
        raise MalformedInput(f"{printable(unknown)!r} is not in {MANIFEST}")
    return files, parse_links_of(content)


def _import_file(
    store: Store, archive: zipfile.ZipFile, member: zipfile.ZipInfo, carried: Carried, check: Check
) -> Imported:
    found = store.find(carried.key)
    if found is not None and found.form is not Form.POINTER:
        return Imported(carried, Outcome.KEPT)
    scratch = store.scratch()
    try:
        problem = _copy(archive, member, scratch, carried.sha256) or check(scratch, carried.key)
        if problem is not None:
            return Imported(carried, Outcome.REFUSED, problem)
        store.publish(scratch, carried.key, form=carried.form)
    except OSError as error:
        raise as_store_error(error, scratch) from error
    finally:
        scratch.unlink(missing_ok=True)
    return Imported(carried, Outcome.IMPORTED)


def _copy(archive: zipfile.ZipFile, member: zipfile.ZipInfo, scratch: Path, sha256: str) -> str | None:
    """Copy a member to *scratch*; return why it is not the one that the manifest means."""
    digest = hashlib.sha256()
    try:
        with archive.open(member) as source, scratch.open("xb") as target:
            while block := source.read(_BLOCK_BYTES):
                digest.update(block)
                target.write(block)
    except _ZIP_ERRORS as error:
        return f"damaged in the bundle: {printable(str(error))}"
    return None if digest.hexdigest() == sha256 else "its hash is not the one in the manifest"


@contextmanager
def _understood() -> Iterator[None]:
    try:
        yield
    except _ZIP_ERRORS as error:
        raise MalformedInput(f"not a sound zip archive: {printable(str(error))}") from error
