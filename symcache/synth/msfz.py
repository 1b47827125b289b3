"""Writer of MSFZ containers."""

from __future__ import annotations

import zlib
from enum import IntEnum
from struct import pack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Packing", "make_msfz"]

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
