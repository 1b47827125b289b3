"""The debug directory of an image: its entries, where a file or memory holds them, and code view records."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias
from uuid import UUID

from symcache.errors import InputError, MalformedInput, NotInDump, TruncatedInput

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.formats.view import ByteView


@dataclass(frozen=True, slots=True)
class Rsds:
    """A reference to a PDB 7 or, if its debug directory entry says so, to a portable PDB."""

    guid: UUID  # signature of the PDB; nil identifies nothing
    age: int  # times the PDB was written, 32 bits unsigned; without meaning for a portable PDB
    path: str  # the PDB's path as the linker wrote it, Windows or Unix, or its name alone


@dataclass(frozen=True, slots=True)
class Nb10:
    """A reference to a PDB 2.0."""

    signature: int  # time stamp of the PDB, 32 bits
    age: int
    path: str  # the PDB's path as the linker wrote it, or its name alone


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
_READ_TYPES = {DebugType.CODEVIEW, DebugType.PDB_CHECKSUM, DebugType.EMBEDDED_PDB, DebugType.MISC}


@dataclass(frozen=True, slots=True)
class ImageProblem:
    """Something wrong in a piece of an input whose rest could be read."""

    text: str  # what is wrong, in one line
    offset: int | None = None  # where, in bytes from the start of the view; None if no single place is wrong


@dataclass(frozen=True, slots=True)
class DebugEntry:
    """One entry of a debug directory, as written."""

    type: int  # a `DebugType`, or a number that has no name here
    timestamp: int  # stamp of the data, 32 bits; for a portable PDB part of its id
    major: int
    minor: int  # minor version, 16 bits; 0x504D marks a portable PDB
    size_bytes: int  # length of the data
    rva: int  # where the data lies in the mapped image; 0 if it is not mapped
    file_offset: int  # where the data lies in the file

    @property
    def type_name(self) -> str:
        """Name of the type, or its number in decimal digits."""
        return DebugType(self.type).name if self.type in _NAMED_TYPES else str(self.type)


@dataclass(frozen=True, slots=True)
class CodeViewEntry:
    """A code view record with what its debug directory entry adds."""

    record: CodeView
    timestamp: int  # stamp of the entry; with the GUID the 20-byte id of a portable PDB
    portable: bool


@dataclass(frozen=True, slots=True)
class PdbChecksum:
    """Checksum of the PDB that belongs to an image."""

    algorithm: str  # as written, `SHA256`
    digest: bytes  # the checksum; the PDB's 20-byte id counts as zeros


@dataclass(frozen=True, slots=True)
class EmbeddedPdb:
    """Where the portable PDB inside a managed image lies."""

    offset: int  # start of the raw deflate data in the view it was found in, in bytes
    compressed_bytes: int
    size_bytes: int  # length of the PDB, as the image states it; not verified


@dataclass(frozen=True, slots=True)
class DebugData:
    """What a debug directory holds; all tuples in file order."""

    entries: tuple[DebugEntry, ...] = ()  # every entry, whether its data could be read or not
    code_views: tuple[CodeViewEntry, ...] = ()  # records that name a PDB
    checksums: tuple[PdbChecksum, ...] = ()
    embedded: EmbeddedPdb | None = None
    reproducible: bool = False  # the build is reproducible, so that stamps are hashes and not times
    misc_name: str | None = None  # name in a MISC entry: of the `.dbg` file where symbols were stripped into one
    problems: tuple[ImageProblem, ...] = ()  # what could not be read


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
    fixed_bytes = {b"RSDS": 24, b"NB10": 16}.get(record[:4])
    if fixed_bytes is None:
        return None
    if len(record) < fixed_bytes:
        raise TruncatedInput(f"code view record has {len(record)} bytes, its fixed part needs {fixed_bytes}", offset=at)
    name, nul, _ = record[fixed_bytes:].partition(b"\0")
    if needs_nul and not nul:
        raise MalformedInput("PDB name in the code view record is not terminated", offset=at + fixed_bytes)
    if fixed_bytes == 24:
        return Rsds(UUID(bytes_le=record[4:20]), int.from_bytes(record[20:24], "little"), _decode_path(name))
    return Nb10(int.from_bytes(record[8:12], "little"), int.from_bytes(record[12:16], "little"), _decode_path(name))


def _decode_path(path: bytes) -> str:
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
    problems: list[ImageProblem] = []
    entries = _read_entries(view, offset, size_bytes, problems)
    data = _DebugDataView(view)
    code_views: list[CodeViewEntry] = []
    checksums: list[PdbChecksum] = []
    embedded = misc_name = None
    for entry in entries:
        if entry.type not in _READ_TYPES:
            continue
        try:
            at = locate(entry)
            match entry.type:
                case DebugType.CODEVIEW:
                    record = parse_code_view(data.read_record(at, entry.size_bytes, fixed_bytes=24), at=at)
                    if record is not None:
                        portable = entry.minor == _PORTABLE_MINOR and isinstance(record, Rsds)
                        code_views.append(CodeViewEntry(record, entry.timestamp, portable))
                case DebugType.PDB_CHECKSUM:
                    checksums.append(_parse_checksum(data.read(at, entry.size_bytes), at))
                case DebugType.EMBEDDED_PDB:
                    embedded = _parse_embedded(data.read(at, min(entry.size_bytes, 8)), entry.size_bytes, at)
                case DebugType.MISC:
                    name = _parse_misc_name(data.read(at, entry.size_bytes), at)
                    misc_name = misc_name or name
        except InputError as error:
            problems.append(ImageProblem(f"{entry.type_name} debug data: {error.problem}", error.offset))
    reproducible = any(entry.type == DebugType.REPRO for entry in entries)
    return DebugData(
        tuple(entries), tuple(code_views), tuple(checksums), embedded, reproducible, misc_name, tuple(problems)
    )


def _read_entries(view: ByteView, offset: int, size_bytes: int, problems: list[ImageProblem]) -> list[DebugEntry]:
    count = size_bytes // _ENTRY.size
    if count > _MOST_ENTRIES:
        problems.append(ImageProblem(f"debug directory claims {count} entries, {_MOST_ENTRIES} are read", offset))
        count = _MOST_ENTRIES
    if not count:
        problems.append(ImageProblem(f"debug directory of {size_bytes} bytes holds no entry", offset))
        return []
    try:
        table = view.read(offset, count * _ENTRY.size)
    except InputError as error:
        problems.append(ImageProblem(f"debug directory: {error.problem}", error.offset))
        return []
    return [
        DebugEntry(type_, stamp, major, minor, size, rva, file_offset)
        for _, stamp, major, minor, type_, size, rva, file_offset in _ENTRY.iter_unpack(table)
    ]


class _DebugDataView:
    """Reads debug data, at most 4 KiB of an entry's and 32 KiB in all."""

    def __init__(self, view: ByteView) -> None:
        self._view = view
        self._bytes_left = _MOST_BYTES

    def read(self, at: int, size_bytes: int) -> bytes:
        return self._view.read(at, self._claim(at, size_bytes))

    def read_record(self, at: int, size_bytes: int, *, fixed_bytes: int) -> bytes:
        """Return a record; if its end cannot be read, its beginning with the whole name.

        Compilers pad the name to 260 bytes, so the end of a record may be lost with a page that is not needed.
        """
        length = self._claim(at, size_bytes)
        try:
            return self._view.read(at, length)
        except (TruncatedInput, NotInDump):
            record = self._view.read(at, min(length, fixed_bytes))
            while len(record) < length and b"\0" not in record[fixed_bytes:]:
                record += self._view.read(at + len(record), min(16, length - len(record)))
            return record

    def _claim(self, at: int, size_bytes: int) -> int:
        length = min(size_bytes, _LONGEST_RECORD)
        if not length:
            raise TruncatedInput("it is empty", offset=at)
        if length > self._bytes_left:
            raise MalformedInput(f"the image has more than {_MOST_BYTES} bytes of debug data to read", offset=at)
        self._bytes_left -= length
        return length


def _parse_checksum(data: bytes, at: int) -> PdbChecksum:
    algorithm, nul, digest = data.partition(b"\0")
    if not nul or not digest:
        raise MalformedInput("it is not an algorithm's name, NUL and a checksum", offset=at)
    return PdbChecksum(algorithm.decode("utf-8", "replace"), digest)


def _parse_embedded(header: bytes, size_bytes: int, at: int) -> EmbeddedPdb:
    """Return where the PDB lies.

    Layout: ``MPDB``, length of the PDB u32, raw deflate data.
    Source: dotnet/runtime PE-COFF.md, "Embedded Portable PDB Debug Directory Entry (type 17)".
    """
    if len(header) < 8:
        raise TruncatedInput(f"embedded PDB has {len(header)} bytes, its header needs 8", offset=at)
    if header[:4] != b"MPDB":
        raise MalformedInput("embedded PDB does not begin with MPDB", offset=at)
    return EmbeddedPdb(at + 8, size_bytes - 8, int.from_bytes(header[4:], "little"))


def _parse_misc_name(record: bytes, at: int) -> str | None:
    """Return the file name in a MISC record; None if it holds something else.

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
