"""The headers of a PE image: what identifies it, and where its sections and its debug directory lie."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput, NotInDump, TruncatedInput, UnknownFormat

if TYPE_CHECKING:
    from symcache.formats.view import ByteView

__all__ = ["ImageHeader", "machine_name", "parse_data_directory", "parse_image_header"]


_DOS_BYTES = 0x40
_FILE_HEADER_BYTES = 24
_OPTIONAL_HEADER_BYTES = 68
_FILE_HEADER = struct.Struct("<4sHHIIIHH")
_OPTIONAL_HEADER = struct.Struct("<H30xII16xIII")
_PE32, _PE32_PLUS = 0x10B, 0x20B
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
_OLDER_FORMATS = {
    b"NE": "a 16-bit NE program",
    b"LE": "an LE driver (VxD)",
    b"LX": "an OS/2 LX program",
}


@dataclass(frozen=True, slots=True)
class ImageHeader:
    r"""What the headers of an image say; all of it is the same on disk and in memory.

    Attributes:
        machine: Processor, an ``IMAGE_FILE_MACHINE_*`` number; `machine_name` spells it.
        timestamp: TimeDateStamp, 32 bits unsigned; a hash in reproducible builds.
        characteristics: Flags of the file header; 0x0200 says that symbols were stripped, 0x2000 marks a DLL.
        magic: 0x10B for PE32, 0x20B for PE32+.
        size_of_image: Bytes of address space the mapped image takes.
        size_of_headers: Bytes of all headers in the file.
        checksum: CheckSum of the optional header; 0 if not set.
        section_alignment: Multiple at which sections are mapped, in bytes.
        section_count: Sections the header claims.
        pe_offset: Where ``PE\0\0`` lies, in bytes.
        optional_header_bytes: Length of the optional header as stated; the section table follows it.
    """

    machine: int
    timestamp: int
    characteristics: int
    magic: int
    size_of_image: int
    size_of_headers: int
    checksum: int
    section_alignment: int
    section_count: int
    pe_offset: int
    optional_header_bytes: int

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
    file_header = _read_file_header(view, at, dos)
    _, machine, section_count, timestamp, _, _, optional_header_bytes, characteristics = file_header
    optional = _read(view, at + _FILE_HEADER_BYTES, _OPTIONAL_HEADER_BYTES, "optional header")
    magic, section_alignment, _, size_of_image, size_of_headers, checksum = _OPTIONAL_HEADER.unpack(optional)
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


def parse_data_directory(view: ByteView, header: ImageHeader, index: int) -> tuple[int, int] | None:
    """Return RVA and length in bytes of a data directory; None if the image has none or does not reach so far.

    Args:
        view: The one *header* was read from.
        header: Tells where directories are counted.
        index: 6 for the debug directory.

    Raises:
        TruncatedInput: The input ends within an optional header that is long enough by its own account.
        NotInDump: A dump does not hold these bytes.

    Layout: number of directories u32, then RVA u32 and length u32 of each; the number stands at 92 (PE32) or 108
    (PE32+) of the optional header.
    Source: MicrosoftDocs/win32 pe-format.md, "Optional Header Data Directories".
    """
    start = 92 if header.magic == _PE32 else 108
    at = header.pe_offset + _FILE_HEADER_BYTES + start
    try:
        if int.from_bytes(view.read(at, 4), "little") <= index:
            return None
        pair = view.read(at + 4 + 8 * index, 8)
    except NotInDump:
        raise
    except TruncatedInput as error:
        # The smallest drivers, of 97 bytes, end before the directories; the loader sees zeros there.
        if header.optional_header_bytes <= start:
            return None
        raise TruncatedInput("the file ends within its optional header", offset=error.offset) from error
    rva, size_bytes = struct.unpack("<II", pair)
    return (rva, size_bytes) if rva and size_bytes else None


def _read_file_header(view: ByteView, at: int, dos: bytes) -> tuple[bytes, int, int, int, int, int, int, int]:
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
    fields: tuple[bytes, int, int, int, int, int, int, int] = _FILE_HEADER.unpack(head)
    return fields


def _read(view: ByteView, offset: int, length: int, what: str) -> bytes:
    try:
        return view.read(offset, length)
    except TruncatedInput as error:
        raise TruncatedInput(f"the file ends within its {what}", offset=error.offset) from error
