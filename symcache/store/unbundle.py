"""Taking in a bundle: an archive that anybody may have made."""

from __future__ import annotations

import hashlib
import stat
import struct
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput, StoreError, UnknownFormat
from symcache.identity import fold, printable
from symcache.store.links import StoreLinks
from symcache.store.manifest import LARGEST_MANIFEST_BYTES, MANIFEST, Carried, parse_links_of, parse_manifest
from symcache.store.place import as_store_error
from symcache.store.tree import Form

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import BinaryIO

    from symcache.identity import ImageKey
    from symcache.store.findings import Check
    from symcache.store.links import Link
    from symcache.store.tree import Store

__all__ = ["Imported", "Outcome", "import_bundle"]

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
