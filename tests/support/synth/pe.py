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

from support.synth.version import resource_bytes
from symcache.identity import Pdb2Key, PdbKey, PortablePdbKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from symcache.identity import ImageKey

__all__ = [
    "CodeViewPlan",
    "ImagePlan",
    "dbg_bytes",
    "disk_bytes",
    "export_bytes",
    "memory_bytes",
    "plan_image",
    "runtime_info_bytes",
]

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
        versions: Version resources: name or id, language and content of each, those of one name together; without any
            there is no resource section, which lies behind the debug data.
        exports: Name and content of each thing that it exports; without any there is no export section.
        own_name: What the export section calls the image.
        metadata: Of a .NET program, behind the header that leads to it; None for an image of none.
        precompiled: What the header of precompiled managed code begins with: ``RTR`` and a NUL for ready-to-run code.
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
    versions: tuple[tuple[int | str, int, bytes], ...] = ()
    exports: tuple[tuple[str, bytes], ...] = ()
    own_name: str = "library.dll"
    metadata: bytes | None = None
    precompiled: bytes | None = None


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
    sections = [text, rdata]
    directories = {6: (rva, 28 * len(pieces))} if pieces else {}
    if plan.versions:
        resources_rva = _round_up(rva + len(block), _PAGE)
        resources = resource_bytes(plan.versions, resources_rva)
        file_offset = _round_up(file_offset + len(block), _SECTOR)
        sections.append(_Section(b".rsrc", resources_rva, file_offset, resources, 0x40000040))
        directories[2] = (resources_rva, len(resources))
    if plan.exports:
        content = export_bytes(plan.own_name, plan.exports, _next_rva(sections))
        directories[0] = (_next_rva(sections), len(content))
        sections.append(_behind(sections, b".edata", content))
    if plan.metadata is not None:
        content = _metadata_bytes(plan.metadata, plan.precompiled, _next_rva(sections))
        directories[14] = (_next_rva(sections), 72)
        sections.append(_behind(sections, b".cormeta", content))
    natural = _round_up(sections[-1].rva + len(sections[-1].data), _PAGE)
    size_of_image = natural if plan.size_of_image is None else plan.size_of_image
    headers = _dos_header() + _file_header(plan, len(sections)) + _optional_header(plan, size_of_image, directories)
    headers += _section_table(sections)
    return headers.ljust(text.file_offset, b"\0"), sections


def _next_rva(sections: list[_Section]) -> int:
    return _round_up(sections[-1].rva + len(sections[-1].data), _PAGE)


def _behind(sections: list[_Section], name: bytes, content: bytes) -> _Section:
    file_offset = _round_up(sections[-1].file_offset + len(sections[-1].data), _SECTOR)
    return _Section(name, _next_rva(sections), file_offset, content, 0x40000040)


def export_bytes(own_name: str, exports: Sequence[tuple[str, bytes]], rva: int) -> bytes:
    """Return an export section that lies at *rva*; names are sorted, places are not in their order.

    Source: MicrosoftDocs/win32 pe-format.md, "The .edata Section".
    """
    by_name = sorted(exports, key=lambda export: export[0].encode())
    count = len(by_name)
    addresses_at, names_at, places_at = 40, 40 + 4 * count, 40 + 8 * count
    out = bytearray(40 + 10 * count)
    own_at = len(out)
    out += own_name.encode() + b"\0"
    for turn, (name, content) in enumerate(by_name):
        place = count - 1 - turn
        struct.pack_into("<I", out, names_at + 4 * turn, rva + len(out))
        struct.pack_into("<H", out, places_at + 2 * turn, place)
        out += name.encode() + b"\0"
        out += bytes(-len(out) % 8)
        struct.pack_into("<I", out, addresses_at + 4 * place, rva + len(out))
        out += content
    struct.pack_into(
        "<IIHHIIIIIII", out, 0, 0, 0, 0, 0, rva + own_at, 1, count, count,
        rva + addresses_at, rva + names_at, rva + places_at,
    )  # fmt: skip
    return bytes(out)


def runtime_info_bytes(
    data_access: tuple[int, int] | None,
    debugging_interface: tuple[int, int] | None,
    version: tuple[int, int, int, int] | None = None,
    *,
    runtime: tuple[int, int] | None = (1, 0x1000),
) -> bytes:
    """Return what a .NET runtime exports as ``DotNetRuntimeInfo``: stamp and size of images, and since 8 its version.

    Source: dotnet/runtime, runtimeinfo.h.
    """
    indexes = (runtime, data_access, debugging_interface)
    packed = b"".join((b"" if each is None else struct.pack("<BII", 8, *each)).ljust(24, b"\0") for each in indexes)
    head = struct.pack("<18s2xI", b"DotNetRuntimeInfo\0", 1 if version is None else 2)
    return head + packed + (b"" if version is None else struct.pack("<4I", *version))


def _metadata_bytes(metadata: bytes, precompiled: bytes | None, rva: int) -> bytes:
    """Return the header of managed code, that of precompiled code and the metadata; ECMA-335, II.25.3.3."""
    native = (rva + 72, 16) if precompiled is not None else (0, 0)
    header = struct.pack("<IHHIIII", 72, 2, 5, rva + 88, len(metadata), 1, 0).ljust(64, b"\0") + struct.pack(
        "<II", *native
    )
    return header + (precompiled or b"").ljust(16, b"\0") + metadata


def _dos_header() -> bytes:
    fixed = struct.pack("<2s13H", b"MZ", 0x90, 3, 0, 4, 0, 0xFFFF, 0, 0xB8, 0, 0, 0, 0x40, 0)
    return (fixed.ljust(0x3C, b"\0") + struct.pack("<I", _PE_OFFSET)).ljust(_PE_OFFSET, b"\0")


def _file_header(plan: ImagePlan, sections: int) -> bytes:
    characteristics = 0x0002 | (0x0020 if plan.pe32_plus else 0x0100)
    if plan.dll:
        characteristics |= _DLL
    if plan.dbg_name is not None:
        characteristics |= _STRIPPED
    length = 240 if plan.pe32_plus else 224
    return struct.pack("<4sHHIIIHH", b"PE\0\0", plan.machine, sections, plan.timestamp, 0, 0, length, characteristics)


def _optional_header(plan: ImagePlan, size_of_image: int, directories: dict[int, tuple[int, int]]) -> bytes:
    code = _round_up(max(plan.payload_bytes, 16), _SECTOR)
    start = struct.pack(
        "<HBBIIIII", 0x20B if plan.pe32_plus else 0x10B, 14, 0, code, _SECTOR, 0, _PAGE, _PAGE
    )  # fmt: skip
    base = struct.pack("<Q", 0x140000000) if plan.pe32_plus else struct.pack("<II", _PAGE * 2, 0x400000)
    versions = struct.pack("<IIHHHHHHI", _PAGE, _SECTOR, 6, 0, 6, 0, 6, 0, 0)
    sizes = struct.pack("<IIIHH", size_of_image, 0x400, plan.checksum, 3, 0x0160)
    stacks = struct.pack("<QQQQ" if plan.pe32_plus else "<IIII", 0x100000, _PAGE, 0x100000, _PAGE)
    pairs = [directories.get(number, (0, 0)) for number in range(16)]
    counted = struct.pack("<II", 0, len(pairs)) + b"".join(struct.pack("<II", *pair) for pair in pairs)
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
