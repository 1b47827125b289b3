"""Writes native PDBs as they are published: identity, one public symbol, and a payload, in an MSF 7 container."""

from __future__ import annotations

import hashlib
from struct import iter_unpack, pack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symcache.identity import PdbKey

_MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"
_BLOCK_BYTES = 4096
_NONE = 0xFFFF
_RECORDS, _PUBLICS, _SECTIONS = 5, 6, 7
_X86 = 0x14C


def make_pdb(key: PdbKey, timestamp: int, *, symbol: str, offset: int, payload_bytes: int) -> bytes:
    """Return the PDB of an x86 driver whose first section has *symbol* at *offset*.

    Streams: 0 old directory (empty), 1 information, 2 types, 3 debug information, 4 ids, 5 symbol records, 6 public
    symbols, 7 section headers, 8 payload, which does not compress.
    Source: LLVM's pages on the PDB streams; microsoft-pdb, gsi.h and misc.h, for the index of public symbols.
    """
    no_types = pack("<5IHHII6I", 20040203, 56, 0x1000, 0x1000, 0, _NONE, _NONE, 4, 0x3FFFF, *[0] * 6)
    named_streams = pack("<IIIII", 0, 0, 1, 0, 0)
    info = pack("<III", 20000404, timestamp, key.age) + key.guid.bytes_le + named_streams + pack("<I", 20140508)
    record = pack("<HIIH", 0x110E, 2, offset, 1) + symbol.encode() + b"\0"  # S_PUB32 of a function
    record += bytes(-(len(record) + 2) % 4)
    section = pack("<8sIIIIIIHHI", b".text", 1 << 24, 0x1000, 1 << 24, 0x400, 0, 0, 0, 0, 0x60000020)
    return _make_msf(
        [
            b"",
            info,
            no_types,
            _make_debug_information(key.age),
            no_types,
            pack("<H", len(record)) + record,
            _make_index(symbol),
            section,
            hashlib.shake_128(key.guid.bytes).digest(payload_bytes),
        ]
    )


def _make_debug_information(age: int) -> bytes:
    """Return header (64 bytes), one module without symbols of its own, no files, no names, numbers of debug streams."""
    module = pack("<IHHIIIHHII", 0, 1, 0, 0, 0, 0x60000020, 0, 0, 0, 0)
    module += pack("<HHIIIHHIII", 0, _NONE, 0, 0, 0, 0, 0, 0, 0, 0) + b"synth.obj\0synth.obj\0"
    module += bytes(-len(module) % 4)
    files = pack("<HHHH", 1, 0, 0, 0)
    names = pack("<7I", 0xEFFEEFFE, 1, 4, 0, 1, 0, 0)
    debug = pack("<11H", *[_NONE] * 5, _SECTIONS, *[_NONE] * 5)
    return (
        pack("<iIIHHHHHH", -1, 19990903, age, _NONE, 0x8E00, _PUBLICS, 0, _RECORDS, 0)
        + pack("<8I", len(module), 0, 0, len(files), 0, 0, len(debug), len(names))
        + pack("<HHI", 2, _X86, 0)  # private symbols are stripped
        + module
        + files
        + names
        + debug
    )


def _make_index(symbol: str) -> bytes:
    """Return what finds the one public symbol by name and by address.

    Layout: hash bytes u32, address map bytes u32, fields for thunks (20); the hash {-1, version, bytes of its records,
    bytes of its buckets, record {offset + 1, 1}, a bit for each of 4097 buckets that is not empty, the start of each
    of these}; offsets of records in the order of their addresses.
    """
    bucket = _hash_name(symbol)
    bits = bytearray(4 * 129)
    bits[bucket // 8] = 1 << bucket % 8
    buckets = bytes(bits) + pack("<I", 0)
    table = pack("<IIIIII", 0xFFFFFFFF, 0xF12F091A, 8, len(buckets), 1, 1) + buckets
    return pack("<II20x", len(table), 4) + table + pack("<I", 0)


def _hash_name(name: str) -> int:
    """Return the bucket of a name: its words and what is left of it, combined, mixed and reduced."""
    data = name.encode()
    whole = len(data) // 4 * 4
    result = 0
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
    return result % 4096


def _make_msf(streams: list[bytes]) -> bytes:
    """Return an MSF 7 file: superblock, two free block maps, streams, their directory, its block map.

    Source: LLVM's "The MSF File Format". Without another pair of free block maps it has at most 4096 blocks.
    """
    blocks: list[bytes] = []

    def put(content: bytes) -> list[int]:
        first = 3 + len(blocks)
        pieces = (content[at : at + _BLOCK_BYTES] for at in range(0, len(content), _BLOCK_BYTES))
        blocks.extend(piece.ljust(_BLOCK_BYTES, b"\0") for piece in pieces)
        return list(range(first, 3 + len(blocks)))

    numbers = [number for content in streams for number in put(content)]
    sizes = [len(content) for content in streams]
    directory = pack(f"<{1 + len(sizes) + len(numbers)}I", len(sizes), *sizes, *numbers)
    directory_blocks = put(directory)
    (map_block,) = put(pack(f"<{len(directory_blocks)}I", *directory_blocks))
    total = 3 + len(blocks)
    if total > _BLOCK_BYTES:
        raise ValueError(f"{total} blocks are more than one pair of free block maps knows")
    head = _MAGIC + pack("<6I", _BLOCK_BYTES, 1, total, len(directory), 0, map_block)
    used = bytes(total // 8) + bytes([0xFF << total % 8 & 0xFF])
    free_map = used.ljust(_BLOCK_BYTES, b"\xff")
    return b"".join([head.ljust(_BLOCK_BYTES, b"\0"), free_map, free_map, *blocks])
