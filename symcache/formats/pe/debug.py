"""The debug directory of an image: its entries, where a file or memory holds them, and code view records."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from symcache.errors import InputError, MalformedInput, NotInDump, TruncatedInput
from symcache.formats.pdb.portable import EmbeddedPdb, parse_embedded_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.formats.view import ByteView

__all__ = [
    "CodeView",
    "CodeViewEntry",
    "DebugData",
    "DebugEntry",
    "DebugType",
    "ImageProblem",
    "Nb10",
    "PdbChecksum",
    "Rsds",
    "parse_code_view",
    "parse_debug_directory",
]


@dataclass(frozen=True, slots=True)
class Rsds:
    """A reference to a PDB 7 or, if its debug directory entry says so, to a portable PDB.

    Attributes:
        guid: Signature of the PDB; nil identifies nothing.
        age: Times the PDB was written, 32 bits unsigned; without meaning for a portable PDB.
        path: The PDB's path as the linker wrote it, Windows or Unix, or its name alone.
    """

    guid: UUID
    age: int
    path: str


@dataclass(frozen=True, slots=True)
class Nb10:
    """A reference to a PDB 2.0.

    Attributes:
        signature: Time stamp of the PDB, 32 bits.
        age: Times the PDB was written, 32 bits unsigned.
        path: The PDB's path as the linker wrote it, or its name alone.
    """

    signature: int
    age: int
    path: str


CodeView: TypeAlias = Rsds | Nb10


class DebugType(IntEnum):
    """Kinds of debug data; a directory may hold others.

    Source: MicrosoftDocs/win32 pe-format.md, "Debug Type"; dotnet/runtime PE-COFF.md for 17 and 19.
    """

    COFF = 1
    CODEVIEW = 2
    FPO = 3
    MISC = 4
    EXCEPTION = 5
    FIXUP = 6
    OMAP_TO_SRC = 7
    OMAP_FROM_SRC = 8
    BORLAND = 9
    CLSID = 11
    VC_FEATURE = 12
    POGO = 13
    ILTCG = 14
    MPX = 15
    REPRO = 16
    EMBEDDED_PDB = 17
    PDB_CHECKSUM = 19
    EX_DLLCHARACTERISTICS = 20


_NAMED_TYPES = frozenset(DebugType)


@dataclass(frozen=True, slots=True)
class ImageProblem:
    """Something wrong in a piece of an input whose rest could be read.

    Attributes:
        text: What is wrong, in one line.
        offset: Where, in bytes from the start of the view; None if no single place is wrong.
    """

    text: str
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class DebugEntry:
    """One entry of a debug directory, as written.

    Attributes:
        type: A `DebugType`, or a number that has no name here.
        timestamp: Stamp of the data, 32 bits; for a portable PDB part of its id.
        major: Major version, 16 bits.
        minor: Minor version, 16 bits; 0x504D marks a portable PDB.
        size_bytes: Length of the data.
        rva: Where the data lies in the mapped image; 0 if it is not mapped.
        file_offset: Where the data lies in the file.
    """

    type: int
    timestamp: int
    major: int
    minor: int
    size_bytes: int
    rva: int
    file_offset: int

    @property
    def type_name(self) -> str:
        """Name of the type, or its number in decimal digits."""
        return DebugType(self.type).name if self.type in _NAMED_TYPES else str(self.type)


@dataclass(frozen=True, slots=True)
class CodeViewEntry:
    """A code view record with what its debug directory entry adds.

    Attributes:
        record: The PDB it names.
        timestamp: Stamp of the entry; with the GUID the 20-byte id of a portable PDB.
        portable: The PDB is a portable one.
    """

    record: CodeView
    timestamp: int
    portable: bool


@dataclass(frozen=True, slots=True)
class PdbChecksum:
    """Checksum of the PDB that belongs to an image.

    Attributes:
        algorithm: As written, ``SHA256``.
        digest: The checksum; the PDB's 20-byte id counts as zeros.
    """

    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class DebugData:
    """What a debug directory holds; all tuples in file order.

    Attributes:
        entries: Every entry, whether its data could be read or not.
        code_views: Records that name a PDB.
        checksums: Checksums of the PDB.
        embedded: The portable PDB inside the image.
        reproducible: The build is reproducible, so that stamps are hashes and not times.
        misc_name: Name in a MISC entry: of the ``.dbg`` file where symbols were stripped into one.
        problems: What could not be read.
    """

    entries: tuple[DebugEntry, ...] = ()
    code_views: tuple[CodeViewEntry, ...] = ()
    checksums: tuple[PdbChecksum, ...] = ()
    embedded: EmbeddedPdb | None = None
    reproducible: bool = False
    misc_name: str | None = None
    problems: tuple[ImageProblem, ...] = ()


def parse_code_view(record: bytes, *, at: int = 0, needs_nul: bool = True) -> CodeView | None:
    """Return the PDB that *record* names; None if it is neither ``RSDS`` nor ``NB10``.

    The text is UTF-8; linkers before that wrote the build machine's code page, so what is not UTF-8 is read as
    Windows-1252, and where that has gaps as Latin-1.

    Args:
        record: The whole record, as what points to it bounds it; it may be padded after the name's NUL.
        at: Offset of *record* in the input, in bytes; only for errors.
        needs_nul: False where writers leave out the NUL, as some of minidumps do; the record's end then ends the name.

    Raises:
        TruncatedInput: *record* is shorter than its fixed part.
        MalformedInput: The name has no terminating NUL.

    Layout: ``RSDS``, GUID (16, mixed-endian), age (u32 LE), path; or ``NB10``, offset (u32, 0), signature (u32),
    age (u32), path.
    Source: dotnet/runtime PE-COFF.md, "CodeView Debug Directory Entry (type 2)"; for ``NB10`` microsoft-pdb,
    and a request of dbghelp for an image with such a record.
    """
    magic = record[:4]
    if magic == b"RSDS":
        _check_fixed_part(record, 24, at)
        path = _parse_path(record, 24, at=at, needs_nul=needs_nul)
        return Rsds(UUID(bytes_le=record[4:20]), int.from_bytes(record[20:24], "little"), path)
    if magic == b"NB10":
        _check_fixed_part(record, 16, at)
        path = _parse_path(record, 16, at=at, needs_nul=needs_nul)
        return Nb10(int.from_bytes(record[8:12], "little"), int.from_bytes(record[12:16], "little"), path)
    return None


def _check_fixed_part(record: bytes, length: int, at: int) -> None:
    if len(record) < length:
        raise TruncatedInput(f"code view record has {len(record)} bytes, its fixed part needs {length}", offset=at)


def _parse_path(record: bytes, start: int, *, at: int, needs_nul: bool) -> str:
    path, nul, _ = record[start:].partition(b"\0")
    if needs_nul and not nul:
        raise MalformedInput("PDB name in the code view record is not terminated", offset=at + start)
    for encoding in ("utf-8", "cp1252"):
        try:
            return path.decode(encoding)
        except UnicodeDecodeError:
            continue
    return path.decode("latin-1")


_ENTRY = struct.Struct("<IIHHIIII")
_PORTABLE_MINOR = 0x504D
_MISC_NAME = 1

# Real images have fewer than ten entries and a few hundred bytes of data that is read here. With the limits of the
# header reader these keep what is read of one file below 64 KiB, whatever it claims.
_MOST_ENTRIES = 32
_MOST_CODE_VIEWS = 32  # images with two are rare, ones with more not known
_MOST_BYTES = 0x8000
_LONGEST_RECORD = 0x1000

_Locate: TypeAlias = "Callable[[DebugEntry], int]"


def parse_debug_directory(view: ByteView, offset: int, size_bytes: int, locate: _Locate) -> DebugData:
    """Return what the debug directory at *offset* holds, with a problem for each piece that cannot be read.

    Only errors of the input are noted; any other error of *view* ends the parse, so that it may be repeated.

    Args:
        view: The file or the mapped image.
        offset: Where the directory lies in *view*, in bytes.
        size_bytes: Its length as the header states it.
        locate: Tells where in *view* an entry's data lies; raises `InputError` if nowhere.

    Layout of an entry, 28 bytes: characteristics u32, stamp u32, major u16, minor u16, type u32, size u32,
    RVA u32, file offset u32.
    Source: MicrosoftDocs/win32 pe-format.md, "Debug Directory".
    """
    collector = _Collector(view, locate)
    collector.read_entries(offset, size_bytes)
    for entry in collector.entries:
        collector.read_data(entry)
    return collector.result()


class _Collector:
    def __init__(self, view: ByteView, locate: _Locate) -> None:
        self._view = view
        self._locate = locate
        self._bytes_left = _MOST_BYTES
        self._code_views: list[CodeViewEntry] = []
        self._code_view_entries = 0
        self._checksums: list[PdbChecksum] = []
        self._embedded: EmbeddedPdb | None = None
        self._misc_name: str | None = None
        self._problems: list[ImageProblem] = []
        self.entries: list[DebugEntry] = []

    def read_entries(self, offset: int, size_bytes: int) -> None:
        count = size_bytes // _ENTRY.size
        if count > _MOST_ENTRIES:
            self._problems.append(
                ImageProblem(f"debug directory claims {count} entries, {_MOST_ENTRIES} are read", offset)
            )
            count = _MOST_ENTRIES
        if not count:
            self._problems.append(ImageProblem(f"debug directory of {size_bytes} bytes holds no entry", offset))
            return
        try:
            table = self._view.read(offset, count * _ENTRY.size)
        except InputError as error:
            self._problems.append(ImageProblem(f"debug directory: {error.problem}", error.offset))
            return
        for _, stamp, major, minor, type_, size, rva, file_offset in _ENTRY.iter_unpack(table):
            self.entries.append(DebugEntry(type_, stamp, major, minor, size, rva, file_offset))

    def read_data(self, entry: DebugEntry) -> None:
        try:
            match entry.type:
                case DebugType.CODEVIEW:
                    self._read_code_view(entry)
                case DebugType.PDB_CHECKSUM:
                    self._read_checksum(entry)
                case DebugType.EMBEDDED_PDB:
                    self._read_embedded(entry)
                case DebugType.MISC:
                    self._read_misc(entry)
        except InputError as error:
            self._problems.append(ImageProblem(f"{entry.type_name} debug data: {error.problem}", error.offset))

    def result(self) -> DebugData:
        return DebugData(
            entries=tuple(self.entries),
            code_views=tuple(self._code_views),
            checksums=tuple(self._checksums),
            embedded=self._embedded,
            reproducible=any(entry.type == DebugType.REPRO for entry in self.entries),
            misc_name=self._misc_name,
            problems=tuple(self._problems),
        )

    def _read_code_view(self, entry: DebugEntry) -> None:
        self._code_view_entries += 1
        if self._code_view_entries > _MOST_CODE_VIEWS + 1:
            return
        at = self._locate(entry)
        if self._code_view_entries > _MOST_CODE_VIEWS:
            raise MalformedInput(f"only the first {_MOST_CODE_VIEWS} are read", offset=at)
        record = parse_code_view(self._read_record(at, entry.size_bytes, fixed_bytes=24), at=at)
        if record is not None:
            portable = entry.minor == _PORTABLE_MINOR and isinstance(record, Rsds)
            self._code_views.append(CodeViewEntry(record, entry.timestamp, portable))

    def _read_checksum(self, entry: DebugEntry) -> None:
        at = self._locate(entry)
        algorithm, nul, digest = self._read(at, min(entry.size_bytes, _LONGEST_RECORD)).partition(b"\0")
        if not nul or not digest:
            raise MalformedInput("it is not an algorithm's name, NUL and a checksum", offset=at)
        self._checksums.append(PdbChecksum(algorithm.decode("utf-8", "replace"), digest))

    def _read_embedded(self, entry: DebugEntry) -> None:
        at = self._locate(entry)
        self._embedded = parse_embedded_header(self._read(at, min(entry.size_bytes, 8)), entry.size_bytes, at=at)

    def _read_misc(self, entry: DebugEntry) -> None:
        at = self._locate(entry)
        record = self._read(at, min(entry.size_bytes, _LONGEST_RECORD))
        name = _parse_misc_name(record, at=at)
        self._misc_name = self._misc_name or name

    def _read_record(self, at: int, size_bytes: int, *, fixed_bytes: int) -> bytes:
        """Return a record; if its end cannot be read, its beginning with the whole name.

        Compilers pad the name to 260 bytes, so the end of a record may be lost with a page that is not needed.
        """
        length = min(size_bytes, _LONGEST_RECORD)
        self._claim(at, length)
        try:
            return self._view.read(at, length)
        except (TruncatedInput, NotInDump):
            record = self._view.read(at, min(length, fixed_bytes))
            while len(record) < length and b"\0" not in record[fixed_bytes:]:
                record += self._view.read(at + len(record), min(16, length - len(record)))
            return record

    def _read(self, at: int, length: int) -> bytes:
        self._claim(at, length)
        return self._view.read(at, length)

    def _claim(self, at: int, length: int) -> None:
        if not length:
            raise TruncatedInput("it is empty", offset=at)
        if length > self._bytes_left:
            raise MalformedInput(f"the image has more than {_MOST_BYTES} bytes of debug data to read", offset=at)
        self._bytes_left -= length


def _parse_misc_name(record: bytes, *, at: int = 0) -> str | None:
    """Return the file name in a MISC record; None if it holds something else.

    Raises:
        TruncatedInput: *record* is shorter than its fixed part, 12 bytes.

    Layout: data type u32 (1 = a file name), length u32, Unicode u8, 3 bytes of padding, the name to a NUL.
    Source: Windows SDK winnt.h, IMAGE_DEBUG_MISC.
    """
    if len(record) < 12:
        raise TruncatedInput(f"MISC record has {len(record)} bytes, its fixed part needs 12", offset=at)
    if int.from_bytes(record[:4], "little") != _MISC_NAME:
        return None
    if record[8]:
        text = record[12 : 12 + (len(record) - 12) // 2 * 2].decode("utf-16-le", "replace")
    else:
        text = record[12:].decode("latin-1")
    return text.partition("\0")[0] or None
