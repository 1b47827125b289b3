"""Writers of PDBs that are not native in an MSF 7 container: MSFZ, portable, and the old format 2.00."""

from __future__ import annotations

import hashlib
import zlib
from enum import IntEnum
from struct import pack
from typing import TYPE_CHECKING

from symcache.synth.pdb import make_streams

if TYPE_CHECKING:
    from collections.abc import Sequence
    from uuid import UUID

    from symcache.synth.pdb import NativePdbSpec

__all__ = ["Packing", "make_compressed_pdb", "make_msfz", "make_pdb2", "make_portable_pdb"]

_NIL = 0xFFFFFFFF
_IN_CHUNK = 1 << 63


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
