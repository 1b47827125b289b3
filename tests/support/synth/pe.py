"""Writes PE images, on disk or mapped into memory, and ``.dbg`` files.

They hold what a symbol tool looks at and a payload of any size, so that reading all of one costs something.
Source: MicrosoftDocs/win32 pe-format.md; dotnet/runtime PE-COFF.md for what managed compilers add.
"""

from __future__ import annotations

import hashlib
import struct
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.identity import Pdb2Key, PdbKey, PortablePdbKey

if TYPE_CHECKING:
    from uuid import UUID

    from symcache.identity import ImageKey

__all__ = ["CodeViewPlan", "ImagePlan", "dbg_bytes", "disk_bytes", "memory_bytes", "plan_image"]

_PAGE = 0x1000
_SECTOR = 0x200
_PE_OFFSET = 0x80
_DLL = 0x2000
_STRIPPED = 0x0200


@dataclass(frozen=True, slots=True)
class CodeViewPlan:
    """A code view record to write.

    Attributes:
        path: What the linker would state; bytes are written as they are.
        guid: Signature of the PDB; None writes an ``NB10`` record.
        age: Age of the PDB.
        signature: Signature of a PDB 2.0; used only without *guid*.
        portable: Mark the entry as that of a portable PDB.
        timestamp: Stamp of the debug directory entry; None takes the image's.
        padded_bytes: Length of the record at least, as compilers pad it.
    """

    path: str | bytes
    guid: UUID | None = None
    age: int = 1
    signature: int = 0
    portable: bool = False
    timestamp: int | None = None
    padded_bytes: int = 0


@dataclass(frozen=True, slots=True)
class ImagePlan:
    """The contents of an image.

    Attributes:
        timestamp: TimeDateStamp of the file header.
        size_of_image: As the optional header is to state it; None counts the sections.
        machine: IMAGE_FILE_MACHINE number.
        pe32_plus: Write 64-bit headers.
        checksum: CheckSum of the optional header.
        dll: Mark it as a library.
        code_views: Records in the order of the debug directory.
        pdb_checksums: Algorithm and checksum of a PDB.
        embedded_pdb: A portable PDB to embed.
        reproducible: Add the entry that says so.
        dbg_name: Name of the ``.dbg`` file to point to; also marks the image as stripped.
        other_debug_types: Types of further entries, each with eight bytes of data.
        payload_bytes: Length of the code, which lies in front of the debug data.
    """

    timestamp: int
    size_of_image: int | None = None
    machine: int = 0x8664
    pe32_plus: bool = True
    checksum: int = 0
    dll: bool = True
    code_views: tuple[CodeViewPlan, ...] = ()
    pdb_checksums: tuple[tuple[str, bytes], ...] = ()
    embedded_pdb: bytes | None = None
    reproducible: bool = False
    dbg_name: str | None = None
    other_debug_types: tuple[int, ...] = ()
    payload_bytes: int = 0x400


def plan_image(image: ImageKey, *pdbs: PdbKey | Pdb2Key | PortablePdbKey) -> ImagePlan:
    """Return the plan of an image that has the key *image* and names *pdbs*.

    Args:
        image: Its stamp and size are stated in the headers; its name is for the caller's use.
        *pdbs: What its code view records name, in their order.
    """
    records: list[CodeViewPlan] = []
    for pdb in pdbs:
        match pdb:
            case PdbKey():
                records.append(CodeViewPlan(pdb.name, pdb.guid, pdb.age))
            case PortablePdbKey():
                records.append(CodeViewPlan(pdb.name, pdb.guid, portable=True))
            case Pdb2Key():
                records.append(CodeViewPlan(pdb.name, age=pdb.age, signature=pdb.signature))
    return ImagePlan(image.timestamp, image.size_of_image, code_views=tuple(records))


@dataclass(frozen=True, slots=True)
class _Section:
    name: bytes
    rva: int
    file_offset: int
    data: bytes
    characteristics: int


@dataclass(frozen=True, slots=True)
class _DebugPiece:
    type: int
    data: bytes
    timestamp: int
    major: int = 0
    minor: int = 0


def disk_bytes(plan: ImagePlan) -> bytes:
    """Return the image as a file."""
    headers, sections = _build(plan)
    out = bytearray(headers)
    for section in sections:
        out.extend(bytes(section.file_offset - len(out)))
        out.extend(section.data)
        out.extend(bytes(-len(out) % _SECTOR))
    return bytes(out)


def memory_bytes(plan: ImagePlan) -> bytes:
    """Return the image as the loader maps it, in whole pages; those up to its size of image would be zeros."""
    headers, sections = _build(plan)
    out = bytearray(headers)
    for section in sections:
        out.extend(bytes(section.rva - len(out)))
        out.extend(section.data)
    out.extend(bytes(-len(out) % _PAGE))
    return bytes(out)


def dbg_bytes(plan: ImagePlan, *, sections: int = 2, names_bytes: int = 16) -> bytes:
    """Return the ``.dbg`` file that belongs to the image.

    Args:
        plan: The image; its code view records go into the file.
        sections: Number of section headers in front of the debug data.
        names_bytes: Length of the exported names in front of it.
    """
    pieces = _debug_pieces(plan)
    directory = 0x30 + 40 * sections + names_bytes
    block = _debug_block(pieces, rva=0, file_offset=directory, mapped=False)
    header = struct.pack(
        "<2sHHHIIIIIIIIII", b"DI", 0, plan.machine, 0x010E | _STRIPPED, plan.timestamp, plan.checksum, 0x10000,
        plan.size_of_image or _PAGE, sections, names_bytes, 28 * len(pieces), _PAGE, 0, 0,
    )  # fmt: skip
    return header + bytes(40 * sections + names_bytes) + block


def _build(plan: ImagePlan) -> tuple[bytes, list[_Section]]:
    code = hashlib.shake_128(plan.timestamp.to_bytes(8, "little")).digest(max(plan.payload_bytes, 16))
    text = _Section(b".text", _PAGE, 0x400, code, 0x60000020)
    rva = _round_up(text.rva + len(code), _PAGE)
    file_offset = _round_up(text.file_offset + len(code), _SECTOR)
    pieces = _debug_pieces(plan)
    block = _debug_block(pieces, rva=rva, file_offset=file_offset, mapped=True) or bytes(16)
    rdata = _Section(b".rdata", rva, file_offset, block, 0x40000040)
    natural = _round_up(rva + len(block), _PAGE)
    size_of_image = natural if plan.size_of_image is None else plan.size_of_image
    debug = (rva, 28 * len(pieces)) if pieces else (0, 0)
    headers = _dos_header() + _file_header(plan) + _optional_header(plan, size_of_image, debug)
    headers += _section_table([text, rdata])
    return headers.ljust(text.file_offset, b"\0"), [text, rdata]


def _dos_header() -> bytes:
    fixed = struct.pack("<2s13H", b"MZ", 0x90, 3, 0, 4, 0, 0xFFFF, 0, 0xB8, 0, 0, 0, 0x40, 0)
    return (fixed.ljust(0x3C, b"\0") + struct.pack("<I", _PE_OFFSET)).ljust(_PE_OFFSET, b"\0")


def _file_header(plan: ImagePlan) -> bytes:
    characteristics = 0x0002 | (0x0020 if plan.pe32_plus else 0x0100)
    if plan.dll:
        characteristics |= _DLL
    if plan.dbg_name is not None:
        characteristics |= _STRIPPED
    length = 240 if plan.pe32_plus else 224
    return struct.pack("<4sHHIIIHH", b"PE\0\0", plan.machine, 2, plan.timestamp, 0, 0, length, characteristics)


def _optional_header(plan: ImagePlan, size_of_image: int, debug: tuple[int, int]) -> bytes:
    code = _round_up(max(plan.payload_bytes, 16), _SECTOR)
    start = struct.pack(
        "<HBBIIIII", 0x20B if plan.pe32_plus else 0x10B, 14, 0, code, _SECTOR, 0, _PAGE, _PAGE
    )  # fmt: skip
    base = struct.pack("<Q", 0x140000000) if plan.pe32_plus else struct.pack("<II", _PAGE * 2, 0x400000)
    versions = struct.pack("<IIHHHHHHI", _PAGE, _SECTOR, 6, 0, 6, 0, 6, 0, 0)
    sizes = struct.pack("<IIIHH", size_of_image, 0x400, plan.checksum, 3, 0x0160)
    stacks = struct.pack("<QQQQ" if plan.pe32_plus else "<IIII", 0x100000, _PAGE, 0x100000, _PAGE)
    directories = [(0, 0)] * 16
    directories[6] = debug
    counted = struct.pack("<II", 0, len(directories)) + b"".join(struct.pack("<II", *pair) for pair in directories)
    return start + base + versions + sizes + stacks + counted


def _section_table(sections: list[_Section]) -> bytes:
    return b"".join(
        struct.pack(
            "<8sIIIIIIHHI", section.name, len(section.data), section.rva, _round_up(len(section.data), _SECTOR),
            section.file_offset, 0, 0, 0, 0, section.characteristics,
        )
        for section in sections
    )  # fmt: skip


def _debug_pieces(plan: ImagePlan) -> list[_DebugPiece]:
    pieces = [_code_view_piece(plan, record) for record in plan.code_views]
    pieces += [
        _DebugPiece(19, algorithm.encode() + b"\0" + checksum, 0, 1) for algorithm, checksum in plan.pdb_checksums
    ]
    if plan.dbg_name is not None:
        name = plan.dbg_name.encode("latin-1").ljust(0x104, b"\0")
        pieces.append(_DebugPiece(4, struct.pack("<IIB3x", 1, 12 + len(name), 0) + name, plan.timestamp))
    if plan.reproducible:
        pieces.append(_DebugPiece(16, b"", 0))
    if plan.embedded_pdb is not None:
        deflate = zlib.compressobj(wbits=-zlib.MAX_WBITS)
        data = deflate.compress(plan.embedded_pdb) + deflate.flush()
        header = b"MPDB" + len(plan.embedded_pdb).to_bytes(4, "little")
        pieces.append(_DebugPiece(17, header + data, 0, 0x100, 0x100))
    return pieces + [_DebugPiece(type_, bytes(8), plan.timestamp) for type_ in plan.other_debug_types]


def _code_view_piece(plan: ImagePlan, record: CodeViewPlan) -> _DebugPiece:
    path = record.path if isinstance(record.path, bytes) else record.path.encode()
    if record.guid is not None:
        data = b"RSDS" + record.guid.bytes_le + struct.pack("<I", record.age)
    else:
        data = b"NB10" + struct.pack("<III", 0, record.signature, record.age)
    data = (data + path + b"\0").ljust(record.padded_bytes, b"\0")
    stamp = plan.timestamp if record.timestamp is None else record.timestamp
    return _DebugPiece(2, data, stamp, 0x100, 0x504D) if record.portable else _DebugPiece(2, data, stamp)


def _debug_block(pieces: list[_DebugPiece], *, rva: int, file_offset: int, mapped: bool) -> bytes:
    """Return the directory and behind it the data of its entries, each aligned to four bytes."""
    table = bytearray()
    data = bytearray()
    start = 28 * len(pieces)
    for piece in pieces:
        at = start + len(data) if piece.data else 0
        table += struct.pack(
            "<IIHHIIII", 0, piece.timestamp, piece.major, piece.minor, piece.type, len(piece.data),
            rva + at if at and mapped else 0, file_offset + at if at else 0,
        )  # fmt: skip
        data += piece.data + bytes(-len(piece.data) % 4)
    return bytes(table + data)


def _round_up(value: int, multiple: int) -> int:
    return value + -value % multiple
