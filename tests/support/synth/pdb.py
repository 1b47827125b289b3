"""Writers of PDBs: native ones in MSF 7 and in MSFZ containers, portable ones, and the old format 2.00.

A native one has an identity, types with their fields, and public symbols with their index.
"""

from __future__ import annotations

import hashlib
import io
import zlib
from dataclasses import dataclass, field
from enum import IntEnum
from struct import iter_unpack, pack
from typing import TYPE_CHECKING, BinaryIO

from support.synth.msf import Filler, StreamContent, write_msf

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from uuid import UUID

__all__ = [
    "NativePdbSpec",
    "Packing",
    "PublicSymbol",
    "StructureLayout",
    "make_compressed_pdb",
    "make_msfz",
    "make_pdb",
    "make_pdb2",
    "make_portable_pdb",
    "make_streams",
    "make_type_stream",
    "write_pdb",
]

_NONE = 0xFFFF
_IPI_STREAM, _RECORDS_STREAM, _PUBLICS_STREAM, _SECTIONS_STREAM, _MODULE_STREAM = range(4, 9)
_TILE_BYTES = 1 << 16
_FIRST_TYPE = 0x1000
_U64 = 0x0023
_HASH_BUCKETS = 4096
_NIL = 0xFFFFFFFF
_IN_CHUNK = 1 << 63


@dataclass(frozen=True, slots=True)
class StructureLayout:
    """A structure to be written into a type stream.

    Attributes:
        size: Length in bytes.
        fields: Offset in bytes of each member.
        types: Of members that are no 64-bit integers: the index of a simple type, the name of a structure in the same
            stream, or that behind ``*`` for a pointer of 8 bytes.
    """

    size: int
    fields: Mapping[str, int] = field(default_factory=dict)
    types: Mapping[str, int | str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublicSymbol:
    """A public symbol.

    Attributes:
        name: As the linker spells it.
        offset: Offset in its section, in bytes.
        segment: Number of its section, from 1.
        function: Whether it is code.
    """

    name: str
    offset: int
    segment: int = 1
    function: bool = False


@dataclass(frozen=True, slots=True)
class NativePdbSpec:
    """The contents of a native PDB.

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


def make_type_stream(structures: Mapping[str, StructureLayout], *, list_bytes: int = 60_000) -> bytes:
    """Return a type stream that declares, then defines these structures.

    Args:
        structures: Layouts by name.
        list_bytes: Longest field list; longer ones are continued in another, as the record length has 16 bits.

    Layout: header of 56 bytes {version, header length, first index, end index, length of the records, hash stream
    (none), key size, bucket count, three empty ranges}; records {length u16, leaf u16, data} padded to 4.
    Source: LLVM's "The PDB TPI and IPI Streams" and "CodeView Type Records".
    """
    records: list[bytes] = []

    def add(leaf: int, data: bytes) -> int:
        body = _pad(pack("<H", leaf) + data, 2)
        records.append(pack("<H", len(body)) + body)
        return _FIRST_TYPE + len(records) - 1

    known: dict[int | str, int] = {}
    for name in structures:
        known[name] = add(0x1505, pack("<HHIIIH", 0, 0x80, 0, 0, 0, 0) + _text(name))
    for type_ in dict.fromkeys(each for layout in structures.values() for each in layout.types.values()):
        if isinstance(type_, str) and type_.startswith("*"):
            known[type_] = add(0x1002, pack("<II", known[type_[1:]], 0x1000C))
    for name, layout in structures.items():
        types = {each: known.get(type_, type_) for each, type_ in layout.types.items()}
        first = _add_fields(add, layout.fields, types, list_bytes)
        head = pack("<HHIII", min(len(layout.fields), 0xFFFF), 0, first, 0, 0)
        add(0x1505, head + _number(layout.size) + _text(name))
    body = b"".join(records)
    header = pack("<5I", 20040203, 56, _FIRST_TYPE, _FIRST_TYPE + len(records), len(body))
    return header + pack("<HHII6I", 0xFFFF, 0xFFFF, 4, 0x3FFFF, *[0] * 6) + body


def make_symbol_records(symbols: Iterable[PublicSymbol]) -> bytes:
    """Return the symbol record stream: ``S_PUB32`` {flags u32, offset u32, segment u16, name}, padded to 4."""
    return b"".join(_public_record(symbol) for symbol in symbols)


def make_publics(symbols: Sequence[PublicSymbol]) -> bytes:
    """Return the stream that finds public symbols by name and by address.

    Layout: hash bytes u32, address map bytes u32, four fields for thunks, section count u32 (28 bytes in all); the
    hash {-1, version, bytes of its records, bytes of its buckets, records {offset + 1, 1}, a bit for each of 4097
    buckets that is not empty, the start of each of these in units of 12}; record offsets ordered by address.
    Source: LLVM's "The PDB Global Symbol Stream"; microsoft-pdb, gsi.h.
    """
    placed: list[tuple[int, PublicSymbol]] = []
    at = 0
    for symbol in symbols:
        placed.append((at, symbol))
        at += len(_public_record(symbol))
    by_bucket = sorted(placed, key=lambda pair: (_hash_name(pair[1].name), pair[1].name.lower()))
    bits = bytearray(4 * 129)
    starts = []
    for position, (_, symbol) in enumerate(by_bucket):
        bucket = _hash_name(symbol.name)
        if not bits[bucket // 8] >> bucket % 8 & 1:
            bits[bucket // 8] |= 1 << bucket % 8
            starts.append(12 * position)
    records = b"".join(pack("<II", offset + 1, 1) for offset, _ in by_bucket)
    buckets = bytes(bits) + pack(f"<{len(starts)}I", *starts)
    table = pack("<IIII", 0xFFFFFFFF, 0xF12F091A, len(records), len(buckets)) + records + buckets
    by_address = sorted(placed, key=lambda pair: (pair[1].segment, pair[1].offset))
    addresses = pack(f"<{len(placed)}I", *(offset for offset, _ in by_address))
    return pack("<IIIIHHII", len(table), len(addresses), 0, 0, 0, 0, 0, 0) + table + addresses


def _public_record(symbol: PublicSymbol) -> bytes:
    body = pack("<HIIH", 0x110E, 2 if symbol.function else 0, symbol.offset, symbol.segment) + _text(symbol.name)
    body += bytes(-(len(body) + 2) % 4)
    return pack("<H", len(body)) + body


def _add_fields(
    add: Callable[[int, bytes], int], fields: Mapping[str, int], types: Mapping[str, int | str], list_bytes: int
) -> int:
    """Add the field lists, the last one first, as each names the one that continues it; return the first's index."""
    lists = [bytearray()]
    for name, offset in fields.items():
        entry = _pad(pack("<HHI", 0x150D, 3, types.get(name, _U64)) + _number(offset) + _text(name), 0)
        if lists[-1] and len(lists[-1]) + len(entry) > list_bytes:
            lists.append(bytearray())
        lists[-1] += entry
    following = add(0x1203, bytes(lists[-1]))
    for entries in reversed(lists[:-1]):
        following = add(0x1203, bytes(entries) + pack("<HHI", 0x1404, 0, following))
    return following


def _hash_name(name: str) -> int:
    """Return the bucket of a name.

    Source: LLVM's "The PDB Global Symbol Stream" names the function; microsoft-pdb, misc.h, for how it mixes.
    """
    data = name.encode()
    result = 0
    whole = len(data) // 4 * 4
    for (word,) in iter_unpack("<I", data[:whole]):
        result ^= word
    rest = data[whole:]
    if len(rest) >= 2:
        result ^= int.from_bytes(rest[:2], "little")
        rest = rest[2:]
    if rest:
        result ^= rest[0]
    result |= 0x20202020
    result ^= result >> 11
    result ^= result >> 16
    return result % _HASH_BUCKETS


def _number(value: int) -> bytes:
    """Return a number as a leaf: up to 0x7FFF it is itself, else what follows says how long it is."""
    if value < 0x8000:
        return pack("<H", value)
    return pack("<HI", 0x8004, value) if value < 1 << 32 else pack("<HQ", 0x800A, value)


def _text(name: str) -> bytes:
    return name.encode() + b"\0"


def _pad(data: bytes, after: int) -> bytes:
    """Return *data* padded so that with the *after* bytes before it it ends 4-aligned; each byte says how far it is."""
    missing = -(len(data) + after) % 4
    return data + bytes(0xF0 | left for left in range(missing, 0, -1))


class Packing(IntEnum):
    """How an MSFZ file is compressed, by the number that stands in the file."""

    NONE = 0
    ZSTD = 1
    DEFLATE = 2


def make_msfz(
    streams: Sequence[bytes | None],
    packing: Packing = Packing.DEFLATE,
    *,
    chunk_bytes: int = 1 << 16,
    fragment_bytes: int = 1 << 20,
    plain: frozenset[int] = frozenset(),
    plain_directory: bool = False,
) -> bytes:
    """Return an MSFZ file with these streams; None is a nil stream.

    Args:
        streams: Contents by number.
        packing: For the chunks and the directory.
        chunk_bytes: Bytes in a chunk; streams run on from one into the next.
        fragment_bytes: Longest fragment of a stream.
        plain: Numbers of the streams that are stored in the file as they are.
        plain_directory: Store the directory as it is.

    Layout: header of 80 bytes, plain streams, chunks, directory, chunk table; see microsoft/pdb-rs, docs/pdb/msfz.md.
    """
    body = bytearray(80)
    packed = bytearray()  # what goes into chunks
    directory = bytearray()
    for number, content in enumerate(streams):
        if content is None:
            directory += pack("<I", _NIL)
            continue
        for at in range(0, len(content), fragment_bytes):
            part = content[at : at + fragment_bytes]
            if packing is Packing.NONE or number in plain:
                location = len(body)
                body += part
            else:
                location = _IN_CHUNK | (len(packed) // chunk_bytes) << 32 | len(packed) % chunk_bytes
                packed += part
            directory += pack("<IQ", len(part), location)
        directory += pack("<I", 0)
    table = bytearray()
    for at in range(0, len(packed), chunk_bytes):
        part = bytes(packed[at : at + chunk_bytes])
        data = _compress(part, packing)
        table += pack("<QIII", len(body), packing, len(data), len(part))
        body += data
    directory_packing = Packing.NONE if plain_directory else packing
    stored = _compress(bytes(directory), directory_packing)
    body[:80] = b"Microsoft MSFZ Container\r\n\x1aALD\0\0" + pack(
        "<QQQIIIIII",
        0,
        len(body),
        len(body) + len(stored),
        len(streams),
        directory_packing,
        len(stored),
        len(directory),
        len(table) // 20,
        len(table),
    )
    return bytes(body + stored + table)


def make_compressed_pdb(spec: NativePdbSpec, packing: Packing = Packing.DEFLATE) -> bytes:
    """Return a native PDB in the MSFZ container."""
    return make_msfz([None if content is None else content[:] for content in make_streams(spec)], packing)


def _compress(data: bytes, packing: Packing) -> bytes:
    match packing:
        case Packing.NONE:
            return data
        case Packing.DEFLATE:
            packer = zlib.compressobj(wbits=-15)
            return packer.compress(data) + packer.flush()
        case Packing.ZSTD:
            from compression import zstd  # type: ignore[import-not-found,unused-ignore]  # noqa: PLC0415  # Python 3.14

            compressed: bytes = zstd.compress(data)
            return compressed


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
