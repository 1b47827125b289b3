"""Writer of PDBs: native in both containers, portable, and the old format 2.00."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, field
from struct import pack
from typing import TYPE_CHECKING, BinaryIO

from symcache.synth.codeview import (
    PublicSymbol,
    StructureLayout,
    make_publics,
    make_symbol_records,
    make_type_stream,
)
from symcache.synth.msf import Filler, StreamContent, write_msf
from symcache.synth.msfz import Packing, make_msfz

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

__all__ = [
    "NativePdbSpec",
    "Packing",
    "PublicSymbol",
    "StructureLayout",
    "make_compressed_pdb",
    "make_pdb",
    "make_pdb2",
    "make_portable_pdb",
    "make_streams",
    "write_pdb",
]

_NONE = 0xFFFF
_IPI_STREAM, _RECORDS_STREAM, _PUBLICS_STREAM, _SECTIONS_STREAM, _MODULE_STREAM = range(4, 9)
_TILE_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class NativePdbSpec:
    """What a native PDB is to hold.

    Attributes:
        guid: Signature.
        age: Age in the debug information stream, the one that names the file.
        info_age: Age in the information stream; None for the same as *age*.
        timestamp: Signature of the information stream, 32 bits.
        dbi: Whether there is a debug information stream at all.
        stripped: Public symbols only: the flag is set and no module has a stream.
        mini: Marked as made by ``/DEBUG:FASTLINK``.
        machine: COFF machine number.
        block_size: Bytes in a block of the MSF container.
        structures: Types by name.
        publics: Public symbols.
        payload_bytes: Length of a stream that only makes the file large; its bytes do not compress.
        extra_streams: Empty streams at the end, which make the directory longer.
    """

    guid: UUID
    age: int = 1
    info_age: int | None = None
    timestamp: int = 0x5F000000
    dbi: bool = True
    stripped: bool = False
    mini: bool = False
    machine: int = 0x8664
    block_size: int = 4096
    structures: Mapping[str, StructureLayout] = field(default_factory=dict)
    publics: tuple[PublicSymbol, ...] = ()
    payload_bytes: int = 0
    extra_streams: int = 0


def make_pdb(spec: NativePdbSpec) -> bytes:
    """Return a native PDB; for large ones see `write_pdb`."""
    out = io.BytesIO()
    write_pdb(out, spec)
    return out.getvalue()


def write_pdb(out: BinaryIO, spec: NativePdbSpec) -> None:
    """Write a native PDB into an empty seekable file; the payload is never in memory as a whole."""
    write_msf(out, make_streams(spec), block_size=spec.block_size)


def make_compressed_pdb(spec: NativePdbSpec, packing: Packing = Packing.DEFLATE) -> bytes:
    """Return a native PDB in the MSFZ container."""
    return make_msfz([None if content is None else content[:] for content in make_streams(spec)], packing)


def make_streams(spec: NativePdbSpec) -> list[StreamContent]:
    """Return the streams of a native PDB by number.

    0 old directory (empty), 1 information, 2 types, 3 debug information, 4 ids, 5 symbol records, 6 public symbols,
    7 section headers, 8 the one module's own symbols, then payload and empty streams.
    """
    private = spec.dbi and not spec.stripped
    streams: list[StreamContent] = [
        b"",
        _make_info(spec),
        make_type_stream(spec.structures),
        _make_dbi(spec) if spec.dbi else b"",
        make_type_stream({}),
        make_symbol_records(spec.publics),
        make_publics(spec.publics),
        _make_sections(spec.publics),
        pack("<II", 4, 0) if private else None,
    ]
    if spec.payload_bytes:
        streams.append(Filler(spec.payload_bytes, hashlib.shake_128(spec.guid.bytes).digest(_TILE_BYTES)))
    streams.extend([b""] * spec.extra_streams)
    return streams


def make_pdb2(signature: int, age: int, *, page_size: int = 1024, payload_bytes: int = 0) -> bytes:
    """Return a PDB 2.00 with an information stream and a payload.

    Layout: magic (44), page size u32, free map page u16, page count u16, root size u32, reserved u32, root pages u16
    each. Root: stream count u16, reserved u16, {size u32, reserved u32} each, page numbers u16.
    """
    streams = [b"", pack("<IIII", 19970604, signature, age, 0), bytes(payload_bytes)]
    pages: list[bytes] = []

    def put(content: bytes) -> list[int]:
        first = len(pages) + 2
        pages.extend(content[at : at + page_size].ljust(page_size, b"\0") for at in range(0, len(content), page_size))
        return list(range(first, len(pages) + 2))

    lists = [put(content) for content in streams]
    numbers = [number for taken in lists for number in taken]
    root = pack("<HH", len(streams), 0) + b"".join(pack("<II", len(content), 0) for content in streams)
    root += pack(f"<{len(numbers)}H", *numbers)
    root_pages = put(root)
    head = b"Microsoft C/C++ program database 2.00\r\n\x1aJG\0\0"
    head += pack("<IHHII", page_size, 1, len(pages) + 2, len(root), 0) + pack(f"<{len(root_pages)}H", *root_pages)
    return head.ljust(page_size, b"\0") + b"\xff" * page_size + b"".join(pages)


def make_portable_pdb(guid: UUID, stamp: int, *, payload_bytes: int = 0) -> tuple[bytes, str]:
    """Return a portable PDB without documents or methods, and its SHA-256 in lower-case hex.

    The checksum is taken with the id as zeros. Layout: metadata root with the streams ``#Pdb`` {id (20), entry point
    u32, referenced tables u64}, ``#~`` (a header without tables), ``#Strings``, ``#US``, ``#GUID``, ``#Blob``.
    Source: ECMA-335 II.24.2; dotnet/runtime, PortablePdb-Metadata.md.
    """
    blank = bytes(20)
    streams = {
        "#Pdb": blank + pack("<IQ", 0, 0),
        "#~": pack("<IBBBBQQ", 0, 2, 0, 0, 1, 0, 0),
        "#Strings": bytes(4),
        "#US": bytes(4),
        "#GUID": b"",
        "#Blob": bytes(4 + (payload_bytes + 3) // 4 * 4),
    }
    names = {name: (name.encode() + b"\0").ljust((len(name) + 4) // 4 * 4, b"\0") for name in streams}
    version = b"PDB v1.0".ljust(12, b"\0")
    root = b"BSJB" + pack("<HHII", 1, 1, 0, len(version)) + version + pack("<HH", 0, len(streams))
    at = len(root) + sum(8 + len(name) for name in names.values())
    id_at = at
    for name, content in streams.items():
        root += pack("<II", at, len(content)) + names[name]
        at += len(content)
    data = root + b"".join(streams.values())
    checksum = hashlib.sha256(data).hexdigest()
    return data[:id_at] + guid.bytes_le + pack("<I", stamp) + data[id_at + 20 :], checksum


def _make_info(spec: NativePdbSpec) -> bytes:
    """Return the information stream: version, signature, age, GUID, an empty map of named streams, feature codes."""
    age = spec.age if spec.info_age is None else spec.info_age
    named = pack("<I", 0) + pack("<II", 0, 1) + pack("<I", 0) + pack("<I", 0)
    features = (20140508, 0x494E494D) if spec.mini else (20140508,)
    head = pack("<III", 20000404, spec.timestamp, age) + spec.guid.bytes_le
    return head + named + pack(f"<{len(features)}I", *features)


def _make_dbi(spec: NativePdbSpec) -> bytes:
    """Return the debug information stream.

    Layout: header of 64 bytes, one module {64 bytes, two names, padded to 4}, an empty list of source files, an
    empty table of names, then the numbers of the streams with debug data, of which only section headers exist.
    Source: LLVM's "The PDB DBI Stream".
    """
    stream, symbol_bytes = (_NONE, 0) if spec.stripped else (_MODULE_STREAM, 4)
    module = pack("<I", 0) + pack("<HHIIIHHII", 1, 0, 0, 0, 0x60000020, 0, 0, 0, 0)
    module += pack("<HHIIIHHIII", 0, stream, symbol_bytes, 0, 0, 0, 0, 0, 0, 0) + b"synth.obj\0synth.obj\0"
    module += bytes(-len(module) % 4)
    files = pack("<HHHH", 1, 0, 0, 0)
    debug = pack("<11H", *[_NONE] * 5, _SECTIONS_STREAM, *[_NONE] * 5)
    names = pack("<IIIIIII", 0xEFFEEFFE, 1, 4, 0, 1, 0, 0)
    sizes = pack("<IIIIIIII", len(module), 0, 0, len(files), 0, 0, len(debug), len(names))
    flags = 2 if spec.stripped else 0
    return (
        pack("<iIIHHHHHH", -1, 19990903, spec.age, _NONE, 0x8E00, _PUBLICS_STREAM, 0, _RECORDS_STREAM, 0)
        + sizes
        + pack("<HHI", flags, spec.machine, 0)
        + module
        + files
        + names
        + debug
    )


def _make_sections(publics: tuple[PublicSymbol, ...]) -> bytes:
    """Return headers of sections of 16 MiB: those that symbols lie in, and one without symbols, as images have."""
    count = 1 + max((symbol.segment for symbol in publics), default=0)
    size = 1 << 24
    return b"".join(
        pack(
            "<8sIIIIIIHHI",
            f".s{number}".encode(),
            size,
            0x1000 + (number - 1) * size,
            size,
            0x400,
            0,
            0,
            0,
            0,
            0x60000020,
        )
        for number in range(1, count + 1)
    )
