"""Partial downloads: files that a process is fetching, which others read along before they are published."""

from __future__ import annotations

import hashlib
import os
import re
from contextlib import suppress
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, Self

from symcache.events import TransferAdvanced, TransferEnded, TransferStarted
from symcache.identity import fold
from symcache.stores.local.atomic import OWN_FOLDER
from symcache.stores.local.rights import OwnFolder, make_file, make_own_folders, open_stored

if TYPE_CHECKING:
    from pathlib import Path

    from symcache.events import Event, Observer


# Magic, starts, length of the whole file, length that is there without gaps; then folder and name of the scratch file.
_HEAD = Struct("<8sQQQ")
_MAGIC = b"symgrow1"
_PLACE = re.compile(rb"(p-[0-9a-f]{12})/([0-9a-f]{12}\.part)")


@dataclass(frozen=True, slots=True)
class PartialDownload:
    """A file that is being downloaded."""

    scratch: Path  # where it grows
    starts: int  # how often the download started over; bytes read before the last start are void
    size_bytes: int  # how long it will be
    whole_bytes: int  # length of the beginning that is there


class PartialNote:
    """The note of a file that this process brings into *scratch*, of a store; one that cannot be written has none."""

    def __init__(self, scratch: Path, folded: str, size_bytes: int) -> None:
        root = scratch.parents[3]
        self._path = _note_path(root, folded)
        self._starts = 0
        self._whole_bytes = 0
        self._size_bytes = size_bytes
        self._fd: int | None = None
        place = f"{scratch.parent.name}/{scratch.name}".encode()
        with suppress(OSError):
            make_own_folders(self._path.parent)
            self._fd = make_file(self._path, os.O_RDWR | os.O_TRUNC)
            os.write(self._fd, self._head() + place)

    def advance(self, whole_bytes: int) -> None:
        """Note that the beginning is *whole_bytes* long now; less than before means that it starts over."""
        if self._fd is None:
            return
        self._starts += whole_bytes < self._whole_bytes
        self._whole_bytes = whole_bytes
        with suppress(OSError):
            os.lseek(self._fd, 0, os.SEEK_SET)
            os.write(self._fd, self._head())

    def withdraw(self) -> None:
        """Remove the note; safe to call twice."""
        if self._fd is not None:
            with suppress(OSError):
                os.close(self._fd)
            self._fd = None
            with suppress(OSError):
                self._path.unlink()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.withdraw()

    def _head(self) -> bytes:
        return _HEAD.pack(_MAGIC, self._starts, self._size_bytes, self._whole_bytes)


def find_partial(root: Path, folded: str) -> PartialDownload | None:
    """Return the file that a process is downloading for the key; None if there is no note that can be read.

    A note may outlive its process; then its scratch file is gone or grows no more.
    """
    return _read(_note_path(root, folded), root)


def sweep_partials(root: Path) -> int:
    """Remove the notes of files that are gone, as a killed process leaves them; return how many."""
    swept = 0
    with OwnFolder(root, "growing") as notes:
        for name in notes.names():
            growing = _read(notes.path / name, root)
            with suppress(OSError):
                if growing is None or not growing.scratch.exists():
                    swept += notes.remove(name)
    return swept


def _read(path: Path, root: Path) -> PartialDownload | None:
    try:
        with open_stored(path) as file:
            data = file.read(_HEAD.size + 64) or b""
    except OSError:
        return None
    match = _PLACE.fullmatch(data[_HEAD.size :])
    if len(data) < _HEAD.size or match is None:
        return None
    magic, starts, size_bytes, whole_bytes = _HEAD.unpack_from(data)
    if magic != _MAGIC or whole_bytes > size_bytes:
        return None
    scratch = root / OWN_FOLDER / "staging" / match[1].decode() / match[2].decode()
    return PartialDownload(scratch, starts, size_bytes, whole_bytes)


def _note_path(root: Path, folded: str) -> Path:
    return root / OWN_FOLDER / "growing" / hashlib.sha256(folded.encode()).hexdigest()[:32]


_WORTH_NOTING_BYTES = 1 << 20  # what is smaller is published before anybody has looked


class TransferBoard:
    """Stands before an observer and keeps a `PartialNote` for each large transfer."""

    def __init__(self, observer: Observer) -> None:
        self._observer = observer
        self._notes: dict[Path, PartialNote] = {}

    def observe(self, event: Event) -> None:
        match event:
            case TransferStarted(index, _, int(size_bytes), path) if path is not None:
                if size_bytes >= _WORTH_NOTING_BYTES:
                    self._notes[path] = PartialNote(path, fold(index), size_bytes)
            case TransferAdvanced(path=path, whole_bytes=whole_bytes) if path in self._notes:
                self._notes[path].advance(whole_bytes)
            case TransferEnded(path=path) if path in self._notes:
                self._notes.pop(path).withdraw()
            case _:
                pass
        self._observer(event)
