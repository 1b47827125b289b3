"""PE images, as a file on disk or as mapped into memory, and the ``.dbg`` files that were stripped from them.

Parsing has no side effects and asks for the same bytes in the same order each time, so a view over a ranged download
may raise its own error for bytes that are still to come, and the parse is repeated later.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields
from enum import Enum
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, NotInDump, TruncatedInput, UnknownFormat
from symcache.formats.pe.debug import DebugData, ImageProblem, parse_debug_directory

if TYPE_CHECKING:
    from symcache.formats.pe.debug import CodeViewEntry, DebugEntry, EmbeddedPdb, PdbChecksum
    from symcache.formats.view import ByteView

_DOS_BYTES = 0x40
_FILE_HEADER = struct.Struct("<4xHHI8xHH")
_FILE_HEADER_BYTES = _FILE_HEADER.size
_OPTIONAL_HEADER = struct.Struct("<H30xI20xIII")
_PE32, _PE32_PLUS = 0x10B, 0x20B
_DEBUG_DIRECTORY = 6
_FURTHEST_HEADER = 0x10000000

_MACHINES = {
    0x0: "any",
    0x14C: "x86",
    0x166: "MIPS R4000",
    0x184: "Alpha",
    0x1C0: "ARM",
    0x1C2: "Thumb",
    0x1C4: "ARM",
    0x1F0: "PowerPC",
    0x200: "IA64",
    0x284: "Alpha64",
    0xEBC: "EFI byte code",
    0x5032: "RISC-V 32",
    0x5064: "RISC-V 64",
    0x6264: "LoongArch64",
    0x8664: "x64",
    0xA641: "ARM64EC",
    0xA64E: "ARM64X",
    0xAA64: "ARM64",
}
MACHINE_OF_PROCESSOR = {0: 0x14C, 5: 0x1C4, 9: 0x8664, 12: 0xAA64}
"""By PROCESSOR_ARCHITECTURE number."""

_OLDER_FORMATS = {
    b"NE": "a 16-bit NE program",
    b"LE": "an LE driver (VxD)",
    b"LX": "an OS/2 LX program",
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """What the headers of an image say; all of it is the same on disk and in memory."""

    machine: int  # processor, an `IMAGE_FILE_MACHINE_*` number; `machine_name` spells it
    timestamp: int  # TimeDateStamp, 32 bits unsigned; a hash in reproducible builds
    characteristics: int  # flags of the file header; 0x0200 says that symbols were stripped, 0x2000 marks a DLL
    magic: int  # 0x10B for PE32, 0x20B for PE32+
    size_of_image: int  # bytes of address space the mapped image takes
    size_of_headers: int  # bytes of all headers in the file
    checksum: int  # CheckSum of the optional header; 0 if not set
    section_alignment: int  # multiple at which sections are mapped, in bytes
    section_count: int  # sections the header claims
    pe_offset: int  # where `PE\0\0` lies, in bytes
    optional_header_bytes: int  # length of the optional header as stated; the section table follows it

    @property
    def bits(self) -> int:
        """Width of an address in the image: 32 or 64."""
        return 64 if self.magic == _PE32_PLUS else 32

    @property
    def section_table_offset(self) -> int:
        """Where the first section header lies, in bytes."""
        return self.pe_offset + _FILE_HEADER_BYTES + self.optional_header_bytes


def machine_name(machine: int) -> str:
    """Return the usual name of *machine*; ``machine 0x…`` for a number without a name.

    Source: MicrosoftDocs/win32 pe-format.md, "Machine Types".
    """
    return _MACHINES.get(machine, f"machine {machine:#x}")


def parse_image_header(view: ByteView) -> ImageHeader:
    r"""Return what identifies an image, in three reads of 64, 24 and 68 bytes.

    Nothing is asked for that is not needed, so it serves dumps that hold only the first bytes of an image. Fields are
    taken where the Windows loader takes them: the stated length of the optional header does not matter, and the
    headers may overlap the DOS header.

    Raises:
        UnknownFormat: Not an image; the text names a DOS, NE or LE program.
        TruncatedInput: The input ends within the headers.
        MalformedInput: The optional header is neither PE32 nor PE32+.
        NotInDump: A dump does not hold these bytes.

    Layout: ``MZ``, u32 at 0x3C = offset of ``PE\0\0``; machine u16@4, sections u16@6, stamp u32@8, optional header's
    length u16@0x14, characteristics u16@0x16. Optional header at 0x18: magic u16, section alignment u32@32,
    size of image u32@56, size of headers u32@60, checksum u32@64.
    Source: MicrosoftDocs/win32 pe-format.md, "File Headers".
    """
    dos = view.read(0, min(_DOS_BYTES, view.size))
    if dos[:2] != b"MZ":
        raise UnknownFormat("not a PE image: it does not begin with MZ", offset=0)
    if len(dos) < _DOS_BYTES:
        raise TruncatedInput(f"the file ends within its DOS header, after {len(dos)} bytes", offset=len(dos))
    at = int.from_bytes(dos[0x3C:0x40], "little")
    machine, section_count, timestamp, optional_header_bytes, characteristics = _FILE_HEADER.unpack(
        _read_file_header(view, at, dos)
    )
    try:
        optional = view.read(at + _FILE_HEADER_BYTES, _OPTIONAL_HEADER.size)
    except TruncatedInput as error:
        raise TruncatedInput("the file ends within its optional header", offset=error.offset) from error
    magic, section_alignment, size_of_image, size_of_headers, checksum = _OPTIONAL_HEADER.unpack(optional)
    if magic not in {_PE32, _PE32_PLUS}:
        raise MalformedInput(
            f"optional header has magic {magic:#x}, neither PE32 nor PE32+", offset=at + _FILE_HEADER_BYTES
        )
    return ImageHeader(
        machine=machine,
        timestamp=timestamp,
        characteristics=characteristics,
        magic=magic,
        size_of_image=size_of_image,
        size_of_headers=size_of_headers,
        checksum=checksum,
        section_alignment=section_alignment,
        section_count=section_count,
        pe_offset=at,
        optional_header_bytes=optional_header_bytes,
    )


def _parse_directory_entry(view: ByteView, header: ImageHeader, number: int) -> tuple[int, int] | None:
    """Return RVA and length in bytes of a data directory; None if there is none, or headers end before it.

    Layout: number of directories u32, then RVA u32 and length u32 of each; the number stands at 92 (PE32) or 108
    (PE32+) of the optional header.
    Source: MicrosoftDocs/win32 pe-format.md, "Optional Header Data Directories".
    """
    start = 92 if header.magic == _PE32 else 108
    at = header.pe_offset + _FILE_HEADER_BYTES + start
    try:
        if int.from_bytes(view.read(at, 4), "little") <= number:
            return None
        pair = view.read(at + 4 + 8 * number, 8)
    except NotInDump:
        raise
    except TruncatedInput as error:
        # The smallest drivers, of 97 bytes, end before the directories; the loader sees zeros there.
        if header.optional_header_bytes <= start:
            return None
        raise TruncatedInput("the file ends within its optional header", offset=error.offset) from error
    rva, size_bytes = struct.unpack("<II", pair)
    return (rva, size_bytes) if rva and size_bytes else None


def _read_file_header(view: ByteView, at: int, dos: bytes) -> bytes:
    if at >= min(view.size, _FURTHEST_HEADER):
        if int.from_bytes(dos[0x18:0x1A], "little") < _DOS_BYTES:  # relocations where only DOS programs have them
            raise UnknownFormat("not a PE image: a DOS program", offset=0)
        raise TruncatedInput(f"PE header at {at:#x} lies past the end", offset=0x3C)
    head = view.read(at, min(_FILE_HEADER_BYTES, view.size - at))
    if head[:4] != b"PE\0\0"[: len(head)]:
        older = _OLDER_FORMATS.get(head[:2], "a DOS program")
        raise UnknownFormat(f"not a PE image: {older}", offset=at)
    if len(head) < _FILE_HEADER_BYTES:
        raise TruncatedInput("the file ends within its PE header", offset=at + len(head))
    return head


_DEBUG_STRIPPED = 0x0200
_PAGE_BYTES = 0x1000
_SECTOR_BYTES = 0x200
_SECTION = struct.Struct("<8xIIII16x")
# Far more than linkers write; the format allows 65,535, that is 2.6 MB of headers. See also the limits in debug.py.
_MOST_SECTIONS = 512
_HEADER_FIELDS = tuple(field.name for field in fields(ImageHeader))


class Layout(Enum):
    """How an image lies in its view: only the caller knows, it cannot be seen in the bytes."""

    DISK = "disk"
    MEMORY = "memory"


@dataclass(frozen=True, slots=True)
class Image(ImageHeader):
    """An image's headers and its debug data."""

    debug: DebugData  # what the debug directory holds; empty if there is none
    has_debug_directory: bool  # the header names a debug directory
    extent_bytes: int  # how long the file must at least be to hold its headers and sections; 0 for a mapped image
    problems: tuple[ImageProblem, ...]  # what could not be read, in the order met; the header is sound all the same

    @property
    def debug_entries(self) -> tuple[DebugEntry, ...]:
        return self.debug.entries

    @property
    def code_views(self) -> tuple[CodeViewEntry, ...]:
        """The PDBs it names, in file order; Microsoft's debuggers ask for the last native one."""
        return self.debug.code_views

    @property
    def checksums(self) -> tuple[PdbChecksum, ...]:
        return self.debug.checksums

    @property
    def embedded(self) -> EmbeddedPdb | None:
        return self.debug.embedded

    @property
    def reproducible(self) -> bool:
        return self.debug.reproducible

    @property
    def dbg_name(self) -> str | None:
        """Name of the ``.dbg`` file that its symbols were stripped into; None unless it says both."""
        return self.debug.misc_name if self.characteristics & _DEBUG_STRIPPED else None


@dataclass(frozen=True, slots=True)
class _Section:
    rva: int
    span_bytes: int
    raw_offset: int
    raw_bytes: int


def parse_image(view: ByteView, layout: Layout) -> Image:
    """Return what an image says about itself and its PDBs.

    On disk one read of up to 4 KiB brings the headers, one the debug directory, one each code view record; in memory
    nothing is asked for beyond the fields that are needed, as any page may be absent. Less than 64 KiB are read.

    *view* is the file, or the image's part of an address space, numbered from its base.

    Raises:
        UnknownFormat: Not an image.
        TruncatedInput: The input ends within the headers.
        MalformedInput: The headers contradict themselves.
        NotInDump: A dump does not hold the headers.
        Damage beyond the headers is not raised but found in `Image.problems`.

    Source: MicrosoftDocs/win32 pe-format.md; real files where it is silent (see `_Places.of_rva`).
    """
    view, header, sections, problems = _read_headers(view, layout)
    has_directory, debug = _read_debug_data(view, header, _Places(header, sections, layout), is_sure=not problems)
    return Image(
        **{name: getattr(header, name) for name in _HEADER_FIELDS},
        debug=debug,
        has_debug_directory=has_directory,
        extent_bytes=_extent_bytes(header, sections) if layout is Layout.DISK else 0,
        problems=(*problems, *debug.problems),
    )


def _read_headers(view: ByteView, layout: Layout) -> tuple[ByteView, ImageHeader, list[_Section], list[ImageProblem]]:
    """Return *view* with its start at hand, what the headers say, and why some sections are not known."""
    if layout is Layout.DISK:
        view = _Ahead(view)
    header = parse_image_header(view)
    problems: list[ImageProblem] = []
    return view, header, _read_sections(view, header, problems) if layout is Layout.DISK else [], problems


class ImageSpace:
    """An image's bytes by their address (RVA), whether they lie in a file or in memory.

    Opening it reads the headers, at most 24 KiB; raises what `parse_image` raises.
    """

    def __init__(self, view: ByteView, layout: Layout) -> None:
        self._view, self.header, sections, _ = _read_headers(view, layout)
        self._places = _Places(self.header, sections, layout)

    def find_directory(self, number: int) -> tuple[int, int] | None:
        """Return RVA and length in bytes of a data directory; None if the image has none; `InputError` as above."""
        return _parse_directory_entry(self._view, self.header, number)

    def read(self, rva: int, length: int) -> bytes:
        """Return exactly *length* bytes from *rva*; raise `InputError` if file or dump does not hold them."""
        return self._view.read(self._places.of_rva(rva), length)

    def read_start(self, rva: int, length: int) -> bytes:
        """Return *length* bytes from *rva*, or as many as there are before the first gap; raise `InputError` if none.

        Gaps are sought by pages of 4 KiB, as dumps have them.
        """
        start = self._places.of_rva(rva)
        length = min(length, max(self._view.size - start, 1))
        try:
            return self._view.read(start, length)
        except InputError:
            if start % _PAGE_BYTES + length <= _PAGE_BYTES:
                raise
        end = start + length
        at = start + _PAGE_BYTES - start % _PAGE_BYTES
        data = self._view.read(start, at - start)
        while at < end:
            try:
                data += self._view.read(at, min(_PAGE_BYTES, end - at))
            except InputError:
                break
            at += _PAGE_BYTES
        return data


def _read_debug_data(view: ByteView, header: ImageHeader, places: _Places, *, is_sure: bool) -> tuple[bool, DebugData]:
    """Return whether the header names a debug directory, and what it holds.

    One that lies in no section is none (corkami's foldedhdr.exe; pefile and dbghelp see it so, too), if *is_sure*: all
    sections are known.
    """
    try:
        directory = _parse_directory_entry(view, header, _DEBUG_DIRECTORY)
    except InputError as error:
        return False, DebugData(problems=(ImageProblem(f"data directories: {error.problem}", error.offset),))
    if directory is None:
        return False, DebugData()
    rva, size_bytes = directory
    try:
        offset = places.of_rva(rva)
    except InputError as error:
        if is_sure and isinstance(error, MalformedInput):
            return False, DebugData()
        return True, DebugData(problems=(ImageProblem(f"debug directory: {error.problem}", error.offset),))
    return True, parse_debug_directory(view, offset, size_bytes, places.of_data)


class _Ahead:
    """A view whose first bytes are read at once, so that small reads of headers cost one call."""

    def __init__(self, view: ByteView) -> None:
        self._view = view
        self.size = view.size
        self._start = view.read(0, min(self.size, _PAGE_BYTES))

    def read(self, offset: int, length: int) -> bytes:
        if 0 <= offset <= offset + length <= len(self._start):
            return self._start[offset : offset + length]
        return self._view.read(offset, length)


def _read_sections(view: ByteView, header: ImageHeader, problems: list[ImageProblem]) -> list[_Section]:
    """Return what can be read of the section table; a table that is cut short or too long is a problem."""
    start = header.section_table_offset
    fitting = max(0, view.size - start) // _SECTION.size
    count = min(header.section_count, _MOST_SECTIONS, fitting)
    if count < header.section_count:
        text = (
            f"only {_MOST_SECTIONS} of {header.section_count} sections are read"
            if count == _MOST_SECTIONS
            else f"the file ends within its section table, after {count} of {header.section_count} sections"
        )
        problems.append(ImageProblem(text, start + count * _SECTION.size))
    if not count:
        return []
    # A low alignment maps the file as it is; otherwise the loader reads whole sectors.
    mask = ~(_SECTOR_BYTES - 1) if header.section_alignment >= _PAGE_BYTES else ~0
    return [
        _Section(rva, max(virtual_bytes, raw_bytes), raw_offset & mask, raw_bytes)
        for virtual_bytes, rva, raw_bytes, raw_offset in _SECTION.iter_unpack(view.read(start, count * _SECTION.size))
    ]


def _extent_bytes(header: ImageHeader, sections: list[_Section]) -> int:
    ends = [section.raw_offset + section.raw_bytes for section in sections if section.raw_offset and section.raw_bytes]
    table_end = header.section_table_offset + _SECTION.size * header.section_count
    return max([table_end, *ends])


class _Places:
    """Where addresses of an image lie in its view."""

    def __init__(self, header: ImageHeader, sections: list[_Section], layout: Layout) -> None:
        self._headers_end = header.size_of_headers
        self._sections = sections
        self._mapped = layout is Layout.MEMORY

    def of_rva(self, rva: int) -> int:
        """Return the offset of *rva*: itself in memory, through the sections on disk.

        Some images keep their debug directory in front of all sections, where file and memory agree.

        Raises:
            MalformedInput: No section holds it.
            TruncatedInput: It lies in a part of a section that only memory has.
        """
        if self._mapped:
            return rva
        for section in self._sections:
            into = rva - section.rva
            if 0 <= into < section.span_bytes:
                if into >= section.raw_bytes:
                    raise TruncatedInput(f"address {rva:#x} lies in a section's part without file data")
                return section.raw_offset + into
        if rva < self._headers_end:
            return rva
        raise MalformedInput(f"address {rva:#x} lies in no section")

    def of_data(self, entry: DebugEntry) -> int:
        """Return the offset of a debug directory entry's data.

        Raises:
            InputError: It is not mapped, or lies nowhere in the file.
        """
        if self._mapped:
            if not entry.rva:
                raise MalformedInput("it is in the file only, not in memory")
            return entry.rva
        return entry.file_offset or self.of_rva(entry.rva)


_DBG_HEADER = struct.Struct("<4xHHII4xIIII12x")


@dataclass(frozen=True, slots=True)
class DbgFile:
    """What a ``.dbg`` file says about the image it belongs to."""

    machine: int  # processor, an `IMAGE_FILE_MACHINE_*` number
    timestamp: int  # TimeDateStamp of the image, 32 bits
    characteristics: int
    size_of_image: int  # bytes of address space the mapped image takes
    checksum: int  # CheckSum of the image
    debug: DebugData  # what its debug directory holds; often an `NB10` record that names a PDB


def parse_dbg(view: ByteView) -> DbgFile:
    """Return what a ``.dbg`` file holds; damage behind its header is found in ``debug.problems``.

    Raises:
        UnknownFormat: It does not begin with ``DI``.
        TruncatedInput: It ends within its header, 48 bytes.

    Layout: ``DI``, flags u16, machine u16, characteristics u16, then u32 each: stamp, checksum, image base, size of
    image, number of sections, length of exported names, length of the debug directory, section alignment, two
    reserved. The sections (40 bytes each), the exported names and the debug directory follow.
    Source: Windows SDK winnt.h, IMAGE_SEPARATE_DEBUG_HEADER.
    """
    header = view.read(0, min(_DBG_HEADER.size, view.size))
    if header[:2] != b"DI":
        raise UnknownFormat("not a .dbg file: it does not begin with DI", offset=0)
    if len(header) < _DBG_HEADER.size:
        raise TruncatedInput(f"the file ends within its .dbg header, after {len(header)} bytes", offset=len(header))
    machine, characteristics, timestamp, checksum, size_of_image, sections, names_bytes, directory_bytes = (
        _DBG_HEADER.unpack(header)
    )
    debug = DebugData()
    if directory_bytes:
        directory = _DBG_HEADER.size + _SECTION.size * sections + names_bytes
        debug = parse_debug_directory(view, directory, directory_bytes, lambda entry: entry.file_offset)
    return DbgFile(machine, timestamp, characteristics, size_of_image, checksum, debug)
