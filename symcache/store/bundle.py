"""Symbols in one file, for machines without a network: a zip archive of stored members that unpacks into a store."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from secrets import token_hex
from typing import TYPE_CHECKING

from symcache.errors import InputError, UsageError
from symcache.identity import parse_id
from symcache.store.links import StoreLinks, links_json
from symcache.store.manifest import LARGEST_MANIFEST_BYTES, MANIFEST, SCHEMA, Carried, member_path
from symcache.store.place import as_store_error
from symcache.store.tree import Form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path
    from typing import BinaryIO

    from symcache.identity import ImageKey, Key
    from symcache.store.links import Link
    from symcache.store.tree import Store, Stored

__all__ = ["Exported", "NotCarried", "export_bundle"]

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
