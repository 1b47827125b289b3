"""The debug directory of an image or a ``.dbg`` file: code view records, PDB checksums and what else names symbols.

Damage here is noted, not raised: an image whose debug data is cut off or paged out is still known by its header.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import InputError, MalformedInput, NotInDump, TruncatedInput
from symcache.formats.codeview import Rsds, parse_code_view
from symcache.formats.debugdata import CodeViewEntry, DebugData, DebugEntry, DebugType, PdbChecksum, Problem
from symcache.formats.embedded import EmbeddedPdb, parse_embedded_header

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.formats.view import ByteView

__all__ = ["parse_debug_directory"]

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
        self._problems: list[Problem] = []
        self.entries: list[DebugEntry] = []

    def read_entries(self, offset: int, size_bytes: int) -> None:
        count = size_bytes // _ENTRY.size
        if count > _MOST_ENTRIES:
            self._problems.append(Problem(f"debug directory claims {count} entries, {_MOST_ENTRIES} are read", offset))
            count = _MOST_ENTRIES
        if not count:
            self._problems.append(Problem(f"debug directory of {size_bytes} bytes holds no entry", offset))
            return
        try:
            table = self._view.read(offset, count * _ENTRY.size)
        except InputError as error:
            self._problems.append(Problem(f"debug directory: {error.problem}", error.offset))
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
            self._problems.append(Problem(f"{entry.type_name} debug data: {error.problem}", error.offset))

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
        """Return a record, or if its end is out of reach what lies before that and holds the whole name.

        Compilers pad the name to 260 bytes, so the end of a record may be lost with a page that nobody needs.
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
