"""Documents of Winbindex, an index of Windows binaries: which files of one name exist, and in which updates.

A document is one JSON object, mostly in gzip: by SHA-256, ``fileInfo`` (what is known of a file) and
``windowsVersions`` (where it occurs: by release, then by update). Tens of MB are usual once expanded, so that it is
read entry by entry.

Source: the scripts of m417z/winbindex (data/upd05_group_by_filename.py, upd06_find_missing_virtualsize.py) and of
m417z/winbindex-data-insider.
"""

from __future__ import annotations

import codecs
import json
import re
import zlib
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from symcache.errors import MalformedInput, TruncatedInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

BASE = "BASE"
"""What a release is called as it was first published, where the name of an update stands."""
INSIDER = "builds"
"""Where builds of the Insider index stand in place of a release; each by an id of its own."""

_READ_BYTES = 1 << 18
_LONGEST_ENTRY = 8 << 20  # characters; Python's objects take some twenty times as much
_LARGEST_BYTES = 1 << 30
_GZIP = b"\x1f\x8b"
_GZIP_FORMAT = 16 + zlib.MAX_WBITS
_BLANKS = re.compile(r"[ \t\n\r]*")
_MOST_PLACES = 20_000
_U32 = 1 << 32


class EntryKind(StrEnum):
    """How much is known of a file, by where that comes from."""

    FULL = "full"  # the file itself, or an analysis of it
    PE = "pe"  # its headers
    DELTA_PLUS = "delta+"  # a differential, and the size that a symbol server was found to have
    DELTA = "delta"  # a differential alone: the size of the image is not in it
    RAW = "raw"  # it is no PE image
    UNKNOWN = "unknown"  # that it exists


@dataclass(frozen=True, slots=True)
class Occurrence:
    """Where a file occurs.

    Attributes:
        release: As the index calls it: ``11-22H2``, ``1903``; `INSIDER`.
        update: ``KB5023706``, `BASE`, or the id of an Insider build.
        build: ``22621.1413``; None where it is not told, as of `BASE`.
        date: ``2023-03-14``, or None.
        others: Further releases that have the same update.
        components: What of Windows it is part of there, as assemblies are called without version.
        title: What an Insider build is called.
    """

    release: str
    update: str
    build: str | None = None
    date: str | None = None
    others: tuple[str, ...] = ()
    components: tuple[str, ...] = ()
    title: str | None = None


@dataclass(frozen=True, slots=True)
class IndexedFile:
    """One file of the document's name; numbers are None where they are not told, or cannot be right."""

    digest: str  # SHA-256, or MD5, in hex
    kind: EntryKind
    occurrences: tuple[Occurrence, ...] = ()
    size_bytes: int | None = None  # of the file, its signature included
    machine: int | None = None
    timestamp: int | None = None
    size_of_image: int | None = None
    last_section_va: int | None = None
    last_section_offset: int | None = None  # of its bytes in the file
    version: str | None = None


def read_index(view: ByteView) -> Iterator[IndexedFile]:
    """Yield the entries of a document, in file order; an entry whose fields are of the wrong type has fewer of them.

    Raises:
        TruncatedInput: It ends early; what came before has been yielded.
        MalformedInput: It is not such a document, damaged, or larger than any is: 1 GiB expanded, 8 Mi characters an
            entry. What came before has been yielded.
    """
    text = _Text(view)
    text.expect("{", "it is no JSON object")
    if text.skip("}"):
        return
    while True:
        digest = text.value()
        if not isinstance(digest, str):
            raise MalformedInput("a name was expected in the JSON object")
        text.expect(":", "a value was expected in the JSON object")
        yield _parse_entry(digest, text.value())
        if not text.skip(","):
            text.expect("}", "the JSON object does not go on as one")
            return


def read_names(view: ByteView) -> Iterator[str]:
    """Yield the names of a list of all documents, ``filenames.json``; raises as `read_index`."""
    text = _Text(view)
    text.expect("[", "it is no JSON list")
    if text.skip("]"):
        return
    while True:
        name = text.value()
        if isinstance(name, str):
            yield name
        if not text.skip(","):
            text.expect("]", "the JSON list does not go on as one")
            return


def check_document(view: ByteView) -> None:
    """Raise as `read_index` unless *view* is expanded to its end, right by its checksum, and looks like JSON."""
    start = b""
    for piece in _expand(view):
        start = start or piece.lstrip()
    if not start.startswith((b"{", b"[")):
        page = "a web page in place of JSON, such as that of a proxy that wants a login"
        raise MalformedInput(page if start.startswith(b"<") else "it is no JSON document")


def size_candidates(entry: IndexedFile) -> list[int]:
    """Return the sizes that the image of a `EntryKind.DELTA` entry can have, the likely ones first.

    The last section reaches to the end of the file, but for the signature, which is no part of the image. Signatures
    take two pages or three, so that these are tried first, then the rest downwards, to the one page that a section has
    at least; then upwards, as a section may be larger than what the file has of it.
    """
    va, offset, size = entry.last_section_va, entry.last_section_offset, entry.size_bytes
    if va is None or offset is None or size is None or size < offset:
        return []
    top = _round_up(va + size - offset)
    lowest = _round_up(va) + _PAGE_BYTES
    likely = [top - 2 * _PAGE_BYTES, top - 3 * _PAGE_BYTES, top - _PAGE_BYTES, top]
    down = range(top - 4 * _PAGE_BYTES, max(lowest, top - _MOST_PAGES_BELOW * _PAGE_BYTES) - 1, -_PAGE_BYTES)
    up = (top + page * _PAGE_BYTES for page in range(1, _MOST_PAGES_ABOVE + 1))
    return [each for each in (*likely, *down, *up) if lowest <= each < _U32]


_PAGE_BYTES = 0x1000
_MOST_PAGES_BELOW = 24
_MOST_PAGES_ABOVE = 4


def _round_up(size: int) -> int:
    return -(-size // _PAGE_BYTES) * _PAGE_BYTES


class _Text:
    """The expanded text of a document, of which no more is in memory than a value takes."""

    def __init__(self, view: ByteView) -> None:
        self._pieces = _expand(view)
        self._decode = codecs.getincrementaldecoder("utf-8")()
        self._parse = json.JSONDecoder(parse_constant=_refuse_constant).raw_decode
        self._text = ""
        self._at = 0
        self._is_over = False

    def skip(self, mark: str) -> bool:
        """Pass over blanks and, if it comes next, *mark*; return whether it did."""
        while True:
            match = _BLANKS.match(self._text, self._at)
            self._at = self._at if match is None else match.end()
            if self._at < len(self._text):
                is_next = self._text[self._at] == mark
                self._at += is_next
                return is_next
            if not self._read_on():
                return False

    def expect(self, mark: str, problem: str) -> None:
        """Pass over blanks and *mark*; raise if something else comes."""
        if not self.skip(mark):
            if self._is_over and self._at >= len(self._text):
                raise TruncatedInput("the document ends early")
            raise MalformedInput(problem)

    def value(self) -> Any:
        """Return the value that comes next."""
        self.skip("")
        while True:
            try:
                found, end = self._parse(self._text, self._at)
            except RecursionError as error:
                raise MalformedInput("its JSON is nested too deep") from error
            except ValueError as error:  # of numbers with thousands of digits, too
                # What looks wrong may only have been cut off.
                problem = getattr(error, "msg", str(error))
                if len(self._text) - self._at > _LONGEST_ENTRY:
                    raise MalformedInput(f"it is not JSON, or an entry is too long: {problem}") from error
                if not self._read_on():
                    raise MalformedInput(f"it is not JSON: {problem}") from error
            else:
                if end < len(self._text) or not self._read_on():  # a number may go on
                    self._at = end
                    return found

    def _read_on(self) -> bool:
        """Double what has not been parsed; return whether anything came."""
        parts = [self._text[self._at :]]
        wanted = max(len(parts[0]), _READ_BYTES)
        self._at = 0
        while wanted > 0 and not self._is_over:
            piece = next(self._pieces, None)
            try:
                part = self._decode.decode(piece or b"", final=piece is None)
            except UnicodeDecodeError as error:
                raise MalformedInput("it is not UTF-8") from error
            self._is_over = piece is None
            wanted -= len(part)
            parts.append(part)
        self._text = "".join(parts)
        return len(self._text) > len(parts[0])


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _expand(view: ByteView) -> Iterator[bytes]:
    """Yield the bytes of a document, expanded if it is in gzip, some at a time."""
    total = 0
    for piece in _inflate(view) if view.read(0, min(view.size, 2)) == _GZIP else _pieces(view):
        total += len(piece)
        if total > _LARGEST_BYTES:
            raise MalformedInput(f"the document is longer than {_LARGEST_BYTES} bytes")
        yield piece


def _pieces(view: ByteView) -> Iterator[bytes]:
    for at in range(0, view.size, _READ_BYTES):
        yield view.read(at, min(_READ_BYTES, view.size - at))


def _inflate(view: ByteView) -> Iterator[bytes]:
    """Yield what is in the first member; what follows it, as padding does, is passed over."""
    inflate = zlib.decompressobj(_GZIP_FORMAT)
    for piece in _pieces(view):
        rest = piece
        while rest and not inflate.eof:
            try:
                expanded = inflate.decompress(rest, _READ_BYTES)
            except zlib.error as error:
                raise MalformedInput(f"its gzip data is damaged: {str(error).rpartition(': ')[2]}") from error
            rest = inflate.unconsumed_tail
            if expanded:
                yield expanded
        if inflate.eof:
            return
    if tail := inflate.flush():
        yield tail
    if not inflate.eof:
        raise TruncatedInput("its gzip data ends early")


def _parse_entry(digest: str, value: object) -> IndexedFile:
    fields = value if isinstance(value, dict) else {}
    info = fields.get("fileInfo")
    occurrences = tuple(_occurrences(fields.get("windowsVersions")))
    if not isinstance(info, dict):
        return IndexedFile(digest, EntryKind.UNKNOWN, occurrences)
    machine, timestamp = _number(info, "machineType", 1 << 16), _number(info, "timestamp")
    size_of_image = _number(info, "virtualSize")
    va, offset = _number(info, "lastSectionVirtualAddress"), _number(info, "lastSectionPointerToRawData")
    if machine is None or timestamp is None:
        kind = EntryKind.RAW if machine is None else EntryKind.UNKNOWN
    elif size_of_image is None:
        kind = EntryKind.DELTA if va is not None and offset is not None else EntryKind.UNKNOWN
    elif va is not None:
        kind = EntryKind.DELTA_PLUS
    else:
        kind = EntryKind.PE if info.keys().isdisjoint(_FIELDS_OF_FULL) else EntryKind.FULL
    version = info.get("version")
    return IndexedFile(
        digest,
        kind,
        occurrences,
        _number(info, "size", 1 << 40),
        machine,
        timestamp,
        size_of_image,
        va,
        offset,
        version if isinstance(version, str) else None,
    )


_FIELDS_OF_FULL = frozenset({"sha1", "sha256", "version", "description", "signingStatus"})


def _occurrences(releases: object) -> Iterator[Occurrence]:
    left = _MOST_PLACES
    for release, updates in releases.items() if isinstance(releases, dict) else ():
        for update, about in updates.items() if isinstance(updates, dict) else ():
            left -= 1
            if left < 0:
                return
            if isinstance(about, dict):
                yield _occurrence(release, update, about)


def _occurrence(release: str, update: str, about: dict[str, Any]) -> Occurrence:
    info = about.get("updateInfo")
    if not isinstance(info, dict):
        info = about.get("windowsVersionInfo")
    info = info if isinstance(info, dict) else {}
    build, others = info.get("releaseVersion", info.get("build")), info.get("otherWindowsVersions")
    assemblies, paths = about.get("assemblies"), about.get("sourcePaths")
    names = list(assemblies) if isinstance(assemblies, dict) else []
    for path in paths if isinstance(paths, list) else []:
        folders = path.split("\\") if isinstance(path, str) else []
        names += folders[2:3] if folders[1:2] == ["WinSxS"] else []
    match = re.search(r"\b\d{4,6}\.\d{1,6}\b", build) if isinstance(build, str) else None
    date, title = info.get("releaseDate"), info.get("title")
    return Occurrence(
        release,
        update,
        None if match is None else match[0],
        date[:10] if isinstance(date, str) else None,
        tuple(each for each in others if isinstance(each, str)) if isinstance(others, list) else (),
        tuple(dict.fromkeys(filter(None, map(_component, names)))),
        title if isinstance(title, str) else None,
    )


def _component(assembly: str) -> str | None:
    """Return what the name of an assembly's manifest or folder says beside version and hash; None if it is not one.

    The form is ``architecture_name_token_version_language_hash``.
    """
    parts = assembly.lower().split("_")
    return "_".join([*parts[:-3], parts[-2]]) if len(parts) >= 6 else None


def _number(info: dict[str, Any], name: str, limit: int = _U32) -> int | None:
    value = info.get(name)
    return value if type(value) is int and 0 <= value < limit else None
