"""Writes FAT volumes.

Source: Microsoft's FAT32 File System Specification 1.03.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["build_fat"]

_SECTOR = 512
_CLUSTERS = {12: 2000, 16: 5000, 32: 3000}


def build_fat(tree: Mapping[str, Any], bits: int = 32) -> bytes:
    """Return a volume with *tree*: names of files with their bytes, of folders with another one."""
    clusters = _CLUSTERS[bits]
    table_sectors = -(-(clusters + 2) * bits // 8 // _SECTOR)
    root_entries = 0 if bits == 32 else 64
    reserved = 4
    data = bytearray(clusters * _SECTOR)
    table = [0] * (clusters + 2)
    free = 2

    def store(content: bytes) -> int:
        """Store *content* in every other cluster, so that chains do not run on."""
        nonlocal free
        count = max(1, -(-len(content) // _SECTOR))
        chain = [free + 2 * number for number in range(count)]
        free += 2 * count
        for number, cluster in enumerate(chain):
            piece = content[number * _SECTOR : (number + 1) * _SECTOR]
            data[(cluster - 2) * _SECTOR : (cluster - 2) * _SECTOR + len(piece)] = piece
            table[cluster] = chain[number + 1] if number + 1 < count else (1 << min(bits, 28)) - 1
        return chain[0]

    def folder(entries: Mapping[str, Any]) -> bytes:
        out = bytearray(_entry(".", 0x10, 0, 0, 0))
        for number, (name, value) in enumerate(entries.items()):
            if isinstance(value, bytes):
                flags, cluster, size = 0x20, store(value) if value else 0, len(value)
            else:
                flags, cluster, size = 0x10, store(folder(value)), 0
            out += _entry(name, flags, cluster, size, number)
        return bytes(out) + bytes(32)

    root = folder(tree)
    first = store(root) if bits == 32 else 0
    total = reserved + table_sectors + root_entries * 32 // _SECTOR + clusters
    boot = bytearray(reserved * _SECTOR)
    small = 0 if bits == 32 else table_sectors
    struct.pack_into(
        "<3s8sHBHBHHBH", boot, 0, b"\xeb\x58\x90", b"MSDOS5.0", _SECTOR, 1, reserved, 1, root_entries, 0, 0xF8, small
    )
    struct.pack_into("<I", boot, 32, total)
    if bits == 32:
        struct.pack_into("<IHHI", boot, 36, table_sectors, 0, 0, first)
    name_at = 82 if bits == 32 else 54
    boot[name_at : name_at + 8] = f"FAT{bits}   ".encode()
    boot[510:512] = b"\x55\xaa"
    packed = bytearray(table_sectors * _SECTOR)
    for cluster, following in enumerate(table):
        if bits == 12:
            at = cluster * 3 // 2
            pair = int.from_bytes(packed[at : at + 2], "little")
            pair |= (following & 0xFFF) << (4 if cluster & 1 else 0)
            packed[at : at + 2] = (pair & 0xFFFF).to_bytes(2, "little")
        else:
            struct.pack_into("<H" if bits == 16 else "<I", packed, cluster * bits // 8, following)
    return bytes(boot) + bytes(packed) + root[: root_entries * 32].ljust(root_entries * 32, b"\0") + bytes(data)


def _entry(name: str, flags: int, cluster: int, size: int, number: int) -> bytes:
    stem, _, suffix = name.upper().partition(".")
    is_short = name == name.upper() and len(stem) <= 8 and len(suffix) <= 3
    short = (stem.ljust(8) + suffix.ljust(3)) if is_short else f"LONG~{number}".ljust(11)
    if name == ".":
        short = ".".ljust(11)
    out = b""
    if not is_short:
        text = name.encode("utf-16-le") + b"\0\0"
        pieces = [text[at : at + 26].ljust(26, b"\xff") for at in range(0, len(text), 26)]
        for at, piece in reversed(list(enumerate(pieces, 1))):
            mark = at | (0x40 if at == len(pieces) else 0)
            out += struct.pack("<B10sBBB12sH4s", mark, piece[:10], 0x0F, 0, 0, piece[10:22], 0, piece[22:])
    return out + struct.pack("<11sB8xHHHHI", short.encode(), flags, cluster >> 16, 0, 0, cluster & 0xFFFF, size)
