"""Bundles as they are read: zip archives of files of a store, under their single-tier paths, uncompressed.

``manifest.json``, the last, has length and hash of each file, what images name, and a lock file: what the files are
once cabinets are expanded. Nothing in it is trusted. A bundle is also a place of a symbol path, of which single files
are read and nothing is unpacked.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
import struct
import threading
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar

from symcache.errors import InputError, MalformedInput, StoreError, UnknownFormat, WrongContent
from symcache.formats.view import FileView, PartView, parse_uint
from symcache.identity import compressed_name, fold, parse_index, printable
from symcache.inputs.lock import parse_lock
from symcache.stores.base import Form, LookUp, OnDisk, Stored
from symcache.stores.check import Verdict, check_view, hash_view
from symcache.stores.links import parse_named
from symcache.stores.local.atomic import store_errors

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO, TypeAlias

    from symcache.formats.view import ByteView
    from symcache.identity import ImageKey, Key
    from symcache.stores.links import Link

    _State: TypeAlias = tuple[int, int, int]


LARGEST_MANIFEST_BYTES = 64 << 20
"""The longest manifest that is written and read, in bytes; enough for some 100,000 files."""

MANIFEST = "manifest.json"
SCHEMA = "symcache.bundle/1"
_SHA256 = re.compile(r"[0-9a-f]{64}")
_BLOCK_BYTES = 1 << 20
_LARGEST_DIRECTORY_BYTES = 128 << 20
_MEMBER = b"PK\3\4"
_LOCAL_HEADER_BYTES = 30
_END = struct.Struct("<4s8xII2x")
_LOCATOR = struct.Struct("<4s16x")
_END64 = struct.Struct("<4s36xQQ")
_ZIP_ERRORS = (zipfile.BadZipFile, NotImplementedError, EOFError, ValueError, KeyError, OverflowError, struct.error)
_MOST_LOOKS = 3
_OTHER_HASH = "its hash is not the one in the manifest"


@dataclass(frozen=True, slots=True)
class BundledFile:
    """One file of a bundle, as the manifest states it."""

    key: Key
    form: Form
    size_bytes: int
    sha256: str  # hash of its bytes, in hex
    header_offset: int  # of its archive member, in bytes from the start of the bundle; -1 if it is not known

    @property
    def path(self) -> str:
        """Name of its archive member."""
        return member_path(self.key, self.form)

    def as_json(self) -> dict[str, str | int]:
        """Return its record in the manifest."""
        names = {"index": self.key.index, "form": self.form, "path": self.path}
        return {**names, "size": self.size_bytes, "sha256": self.sha256}


def member_path(key: Key, form: Form) -> str:
    return f"{key.name}/{key.id}/{compressed_name(key.name) if form is Form.COMPRESSED else key.name}"


@dataclass(frozen=True, slots=True)
class Contents:
    """What a bundle holds."""

    files: tuple[BundledFile, ...]
    links: Mapping[ImageKey, tuple[Link, ...]]  # what images name
    locked: Mapping[str, str]  # SHA-256 of each file, expanded, by its folded index; none without a lock file


def read_contents(file: BinaryIO) -> Contents:
    """Return what the bundle in *file* holds, once the whole archive is found sound; no file in it is read.

    Raises:
        InputError: Not a bundle, or a damaged or malicious one.
    """
    with _zip_errors_as_malformed():
        _check_directory(file)
        with zipfile.ZipFile(file) as archive:
            return _read_manifest(archive, _check_members(archive))


def copy_out(bundle: ByteView, file: BundledFile, scratch: Path) -> str | None:
    """Copy *file* of *bundle* to *scratch*; return why it is not what the manifest states, None if it is.

    Raises:
        StoreError: The disk does not take it.
    """
    digest = hashlib.sha256()
    try:
        with store_errors(scratch), scratch.open("wb") as target:
            for block in _read_blocks(bundle, file):
                digest.update(block)
                target.write(block)
    except InputError as error:
        return str(error)
    return None if digest.hexdigest() == file.sha256 else _OTHER_HASH


def _read_blocks(bundle: ByteView, file: BundledFile) -> Iterator[bytes]:
    """Yield the bytes of *file*; an `InputError` says that they cannot be read."""
    try:
        view = _open_member(bundle, file)
        for at in range(0, view.size, _BLOCK_BYTES):
            yield view.read(at, min(_BLOCK_BYTES, view.size - at))
    except OSError as error:
        raise MalformedInput(f"the bundle cannot be read: {error.strerror}") from error


def _open_member(bundle: ByteView, file: BundledFile) -> PartView:
    r"""Return the bytes of *file*.

    Raises:
        InputError: There is no archive member where the archive's directory says so, or it does not fit in.

    Layout (LE): ``PK\3\4``, 22 bytes, u16 length of the name, u16 length of the extra field, those two, the bytes.
    Source: APPNOTE.TXT, "Local file header".
    """
    header = bundle.read(file.header_offset, _LOCAL_HEADER_BYTES)
    if not header.startswith(_MEMBER):
        raise MalformedInput("no archive member begins here", offset=file.header_offset)
    begin = file.header_offset + _LOCAL_HEADER_BYTES + parse_uint(header, 26, 2) + parse_uint(header, 28, 2)
    return PartView(bundle, begin, file.size_bytes)


@dataclass(frozen=True, slots=True)
class _Member(Stored):
    """A file in a bundle."""

    is_member: ClassVar[bool] = True

    file: BundledFile
    state: _State  # of the bundle when it was looked into

    @contextmanager
    def open(self) -> Iterator[ByteView]:
        with FileView(self.path) as view:
            yield _open_member(view, self.file)

    def check(self, key: Key, checksums: Sequence[str] = ()) -> Verdict:
        try:
            with self.open() as view:
                if hash_view(view)[1] != self.file.sha256:
                    return Verdict(_OTHER_HASH)
                return check_view(view, key, checksums=checksums)
        except InputError as error:
            return Verdict(str(error))

    def copy_to(self, scratch: Path) -> None:
        try:
            bundle = FileView(self.path)
        except OSError as error:
            raise WrongContent(f"the bundle cannot be read: {error.strerror}", url=str(self.path)) from error
        with bundle:
            problem = copy_out(bundle, self.file, scratch)
        if problem is not None:
            raise WrongContent(problem, url=str(self.path))


@dataclass(frozen=True, slots=True)
class _Look:
    """What a look into a bundle brought: its files and links by folded indexes, or what is wrong with it."""

    state: _State
    files: Mapping[str, BundledFile] = field(default_factory=dict)
    links: Mapping[str, tuple[Link, ...]] = field(default_factory=dict)
    problem: str | None = None


class BundleStore(OnDisk):
    """A bundle as a place of a symbol path; it is only read.

    The list of its files is read at the first look, and again after another bundle took its place. Methods raise
    `StoreError` if it is no bundle, or a damaged one.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path)
        self._lock = threading.Lock()
        self._known: _Look | None = None

    def find(self, key: Key) -> Stored | None:
        """Return what the bundle holds for *key*: the plain file, else its cabinet."""
        look = self._look()
        file = look.files.get(key.folded)
        return None if file is None else _Member(self.root, file.form, file.size_bytes, file, look.state)

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield those of *keys* for which `find` finds something."""
        files = self._look().files
        return (key for key in keys if key.folded in files)

    def count_files(self) -> int:
        """Return how many keys the bundle has a file for."""
        return len(self._look().files)

    def recall(self, image: ImageKey) -> tuple[Link, ...] | None:
        """Return what *image* names, in file order; None if the bundle does not say, or cannot be read."""
        with suppress(StoreError):
            return self._look().links.get(image.folded)
        return None

    def _copy(self, key: Key, scratch: Path) -> LookUp:
        for _ in range(_MOST_LOOKS - 1):
            stored = self.find(key)
            looked_up = super()._copy(key, scratch)
            if looked_up.form is not None or self.find(key) == stored:
                return looked_up
            # Another bundle took its place meanwhile.
        return super()._copy(key, scratch)

    def _look(self) -> _Look:
        with store_errors(self.root):
            state = _state_of(self.root.stat())
            known = self._known
            if known is None or known.state != state:
                with self._lock:
                    known = self._known
                    if known is None or known.state != state:
                        known = self._known = _look_into(self.root)
        if known.problem is not None:
            raise StoreError(known.problem, path=self.root)
        return known


def _look_into(path: Path) -> _Look:
    with path.open("rb") as file:
        state = _state_of(os.fstat(file.fileno()))
        try:
            contents = read_contents(file)
        except InputError as error:
            return _Look(state, problem=str(error))
    files: dict[str, BundledFile] = {}
    for each in sorted(contents.files, key=lambda each: each.form is Form.PLAIN):
        files[each.key.folded] = each  # the plain file comes last, and counts
    return _Look(state, files, {image.folded: named for image, named in contents.links.items()})


def _state_of(status: os.stat_result) -> _State:
    return status.st_ino, status.st_size, status.st_mtime_ns


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
        file.seek(0)
        if file.read(len(_MEMBER)) == _MEMBER:
            raise MalformedInput("the bundle is cut short, or has something behind its end")
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


def _read_manifest(archive: zipfile.ZipFile, members: dict[str, zipfile.ZipInfo]) -> Contents:
    """Return the files that the manifest names, which are those of the archive, and what images name."""
    info = members.get(MANIFEST)
    if info is None:
        raise UnknownFormat(f"not a bundle: a zip archive without a {MANIFEST}")
    if info.file_size > LARGEST_MANIFEST_BYTES:
        raise MalformedInput(f"{MANIFEST} is larger than {LARGEST_MANIFEST_BYTES} bytes", offset=info.header_offset)
    content = archive.read(info)
    try:
        document = json.loads(content)
        schema, records = document["schema"], document["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UnknownFormat(f"{MANIFEST} is not the manifest of a bundle") from error
    if schema != SCHEMA or not isinstance(records, list):
        raise UnknownFormat(f"a bundle of the schema {schema!r:.80}; {SCHEMA} is read")
    files: list[BundledFile] = []
    unknown = set(members) - {MANIFEST}
    for record in records:
        bundled = _parse_record(record)
        path = fold(bundled.path)
        member = members.get(path)
        if member is None or member.file_size != bundled.size_bytes:
            raise MalformedInput(f"{MANIFEST} and the archive disagree about {bundled.path}")
        if path not in unknown:
            raise MalformedInput(f"{MANIFEST} names {bundled.path} twice")
        unknown.remove(path)
        files.append(replace(bundled, header_offset=member.header_offset))
    if unknown:
        raise MalformedInput(f"{printable(min(unknown))!r} is not in {MANIFEST}")
    rows = document.get("images", [])
    named = map(parse_named, rows if isinstance(rows, list) else [])
    links = dict(each for each in named if each is not None)
    return Contents(tuple(files), links, _read_locked(document, files))


def _read_locked(document: dict[str, Any], files: Sequence[BundledFile]) -> dict[str, str]:
    if "lock" not in document:  # written by symcache 0.2.0 or before
        return {}
    locked = {file.key.folded: file.sha256 for file in parse_lock(document["lock"]) if file.key and not file.cause}
    if locked.keys() != {bundled.key.folded for bundled in files}:
        raise MalformedInput(f"{MANIFEST} and its lock file disagree about which files there are")
    return locked


def _parse_record(record: Any) -> BundledFile:
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
    return BundledFile(key, Form(form), size, sha256, header_offset=-1)
