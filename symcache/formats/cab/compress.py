"""Compress a file as symbol stores do: a cabinet with that one file, readable by every debugger and by ``expand``."""

from __future__ import annotations

import struct
import zlib
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.cab.cabinet import block_checksum

if TYPE_CHECKING:
    from typing import BinaryIO

__all__ = ["MAX_CABINET_INPUT_BYTES", "write_cabinet"]


_BLOCK_BYTES = 32768
_MSZIP = 1
_ARCHIVE, _UTF8_NAME = 0x20, 0x80
_DOS_DATE = 1 << 5 | 1  # 1980-01-01: equal files give equal cabinets, and no reader takes a date for an identity
_HEADER = struct.Struct("<4s4xI4xI4xBBHHHHH")
_FOLDER = struct.Struct("<IHH")
_MEMBER = struct.Struct("<IIHHHH")
_BLOCK = struct.Struct("<IHH")

MAX_CABINET_INPUT_BYTES = 65500 * _BLOCK_BYTES
"""The most that `write_cabinet` takes, in bytes: a folder has 65,535 blocks, and even if nothing can be compressed the
cabinet must stay under 2 GiB, because Microsoft's readers keep its size in a signed number."""


def write_cabinet(source: BinaryIO, target: BinaryIO, *, name: str, level: int = 6) -> int:
    """Compress *source*, to its end, into a cabinet at the current position of *target*; return its size in bytes.

    Memory does not grow with *source*. The cabinet depends on its arguments alone, not on the clock.

    Args:
        source: Open for reading, in binary.
        target: Open for writing, in binary, and seekable: the header is written again once the sizes are known.
        name: What the cabinet calls the file; 1 to 255 bytes of UTF-8 without NUL.
        level: Effort of zlib, 1 to 9.

    Raises:
        ValueError: *name* cannot stand in a cabinet.
        InputError: *source* is larger than `MAX_CABINET_INPUT_BYTES`.
        OSError: *source* or *target* failed.

    Layout: header (36 bytes), one folder (8), one member (16, and its name), blocks.
    Source: [MS-CAB] 2.1 to 2.5.
    """
    encoded = name.encode()
    if not 0 < len(encoded) < 256 or b"\0" in encoded:
        raise ValueError(f"{name!r} cannot be the name of a file in a cabinet")
    start = target.tell()
    blocks_at = _HEADER.size + _FOLDER.size + _MEMBER.size + len(encoded) + 1
    target.write(bytes(blocks_at))
    size, blocks, compressed = _write_blocks(source, target, level)
    cabinet_bytes = blocks_at + compressed
    attributes = _ARCHIVE if name.isascii() else _ARCHIVE | _UTF8_NAME
    target.seek(start)
    target.write(_HEADER.pack(b"MSCF", cabinet_bytes, _HEADER.size + _FOLDER.size, 3, 1, 1, 1, 0, 0, 0))
    target.write(_FOLDER.pack(blocks_at, blocks, _MSZIP))
    target.write(_MEMBER.pack(size, 0, 0, _DOS_DATE, 0, attributes) + encoded + b"\0")
    target.seek(start + cabinet_bytes)
    return cabinet_bytes


def _write_blocks(source: BinaryIO, target: BinaryIO, level: int) -> tuple[int, int, int]:
    """Write all blocks; return length of *source*, number of blocks, and their length, in bytes."""
    size, blocks, compressed = 0, 0, 0
    previous = b""
    while block := _read_block(source):
        size += len(block)
        if size > MAX_CABINET_INPUT_BYTES:
            raise InputError(f"larger than a cabinet can hold, {MAX_CABINET_INPUT_BYTES} bytes")
        data = b"CK" + _deflate(block, previous, level)
        lengths = struct.pack("<HH", len(data), len(block))
        target.write(_BLOCK.pack(block_checksum(data) ^ block_checksum(lengths), len(data), len(block)) + data)
        compressed += _BLOCK.size + len(data)
        blocks += 1
        previous = block
    return size, blocks, compressed


def _read_block(source: BinaryIO) -> bytes:
    """Return the next 32 KiB; less only at the end, even if *source* gives them in small pieces."""
    block = source.read(_BLOCK_BYTES)
    while len(block) < _BLOCK_BYTES and (more := source.read(_BLOCK_BYTES - len(block))):
        block += more
    return block


def _deflate(block: bytes, previous: bytes, level: int) -> bytes:
    """Return one raw deflate stream that may refer to *previous*.

    MSZIP allows a block to grow by 12 bytes. zlib splits what it cannot compress and may need more, so that such a
    block is written as one stored piece: a final-block byte, the length and its complement.
    """
    deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zdict=previous)
    data = deflate.compress(block) + deflate.flush()
    if len(data) > len(block) + 5:
        return struct.pack("<BHH", 1, len(block), len(block) ^ 0xFFFF) + block
    return data
