"""Writes virtual disks: VHD and VHDX that differ from a parent, which qemu-img cannot make, and small ones of others.

Sources: Microsoft's Virtual Hard Disk Image Format Specification; [MS-VHDX] 2; VMware's Virtual Disk Format 5.0; QEMU's
docs/interop/qcow2.txt; VirtualBox's VDICore.h.
"""

from __future__ import annotations

import struct
import zlib
from uuid import UUID

__all__ = ["differing_vhd", "differing_vhdx", "dynamic_vhdx", "qcow2", "vdi", "vmdk"]

_MB = 1 << 20


def differing_vhd(disk: bytes, present: set[int], parent: str, *, kind: int = 4) -> bytes:
    """Return a VHD of *disk* in one block of 2 MiB, which has the sectors *present*; garbage is in the others."""
    block = 2 * _MB
    size = len(disk)
    footer = struct.pack(">8sIIQIIIIQQIII", b"conectix", 2, 0x10000, 512, 0, 0, 0, 0, size, size, 0, kind, 0)
    footer = footer.ljust(512, b"\0")
    header = struct.pack(">8sQQIIII16sII", b"cxsparse", 0xFFFFFFFFFFFFFFFF, 1536, 0x10000, 1, block, 0, bytes(16), 0, 0)
    header = (header + parent.encode("utf-16-be")).ljust(1024, b"\0")
    bitmap = bytearray(512)
    data = bytearray(b"\xee" * block)
    for sector in present:
        bitmap[sector // 8] |= 0x80 >> sector % 8
        data[sector * 512 : sector * 512 + 512] = disk[sector * 512 : sector * 512 + 512].ljust(512, b"\0")
    table = struct.pack(">I", 2048 // 512).ljust(512, b"\xff")
    return footer + header + table + bytes(bitmap) + bytes(data) + footer


def dynamic_vhdx(disk: bytes) -> bytes:
    """Return a VHDX that has all of *disk*."""
    return differing_vhdx(disk, None, "")


def differing_vhdx(
    disk: bytes, present: set[int] | None, parent: str, *, sector: int = 512, is_dirty: bool = False
) -> bytes:
    """Return a VHDX of *disk* in blocks of 1 MiB, of which the first has the sectors *present*; None for all.

    All of the other blocks come from the parent.
    """
    regions = struct.pack("<4sIII", b"regi", 0, 2, 0)
    regions += UUID("2DC27766-F623-4200-9D64-115E9BFD4A08").bytes_le + struct.pack("<QII", 2 * _MB, _MB, 1)
    regions += UUID("8B7CA206-4790-4B9A-B8FE-575F050F886E").bytes_le + struct.pack("<QII", 3 * _MB, _MB, 1)
    log = b"\1" * 16 if is_dirty else bytes(16)
    head = struct.pack("<4sIQ16s16s16sHHIQ", b"head", 0, 1, bytes(16), bytes(16), log, 0, 1, 0, 0)
    out = bytearray(4 * _MB)
    out[:8] = b"vhdxfile"
    for place, data in ((1, head), (2, head.replace(b"\1\0\0\0\0\0\0\0", bytes(8), 1)), (3, regions), (4, regions)):
        out[place * 65536 : place * 65536 + len(data)] = data
    locator = b""
    if present is not None:
        key, value = "relative_path".encode("utf-16-le"), f".\\{parent}".encode("utf-16-le")
        locator = UUID("B04AEFB7-D19E-4A81-B789-25B8E9445913").bytes_le + struct.pack("<HH", 0, 1)
        locator += struct.pack("<IIHH", 32, 32 + len(key), len(key), len(value)) + key + value
    items = [
        ("CAA16737-FA36-4D43-B3B6-33F0AA44E76B", struct.pack("<II", _MB, 2 if present is not None else 0)),
        ("2FA54224-CD1B-4876-B211-5DBED83BF4B8", struct.pack("<Q", len(disk))),
        ("8141BF1D-A96F-4709-BA47-F233A8FAAB5F", struct.pack("<I", sector)),
        ("BECA12AB-B2E6-4523-93EF-C309E000C746", bytes(16)),
        *([("A8D35F2D-B30B-454D-ABF7-D3D84834AB0C", locator)] if locator else []),
    ]
    table = struct.pack("<8sHH20x", b"metadata", 0, len(items))
    at = 65536
    for guid, data in items:
        table += UUID(guid).bytes_le + struct.pack("<IIII", at, len(data), 0, 0)
        out[3 * _MB + at : 3 * _MB + at + len(data)] = data
        at += 4096
    out[3 * _MB : 3 * _MB + len(table)] = table
    ratio = (sector << 23) // _MB
    for block in range(-(-len(disk) // _MB)):
        state = 6 if present is None else 7 if not block else 0
        entry = 2 * _MB + 8 * (block + block // ratio)
        if state:
            out[entry : entry + 8] = struct.pack("<Q", state | len(out) // _MB << 20)
            payload = bytearray(disk[block * _MB : block * _MB + _MB].ljust(_MB, b"\0"))
            if present is not None:
                for each in range(_MB // sector):
                    if each not in present:
                        payload[each * sector : (each + 1) * sector] = b"\xee" * sector
            out += payload
    if present is not None:
        out[2 * _MB + 8 * ratio : 2 * _MB + 8 * ratio + 8] = struct.pack("<Q", 6 | len(out) // _MB << 20)
        bitmap = bytearray(_MB)
        for each in present:
            bitmap[each // 8] |= 1 << each % 8
        out += bitmap
    return bytes(out)


def vdi(disk: bytes, block: int = 65536) -> bytes:
    """Return a VDI of *disk*; blocks of zeros are not in it."""
    blocks = [disk[at : at + block].ljust(block, b"\0") for at in range(0, len(disk), block)]
    table, data = b"", b""
    for each in blocks:
        table += struct.pack("<I", len(data) // block if any(each) else 0xFFFFFFFF)
        data += each if any(each) else b""
    data_at = (1024 + len(table) + 511) & ~511
    head = struct.pack("<64sIIIII256s", b"<<< tests >>>", 0xBEDA107F, 0x10001, 400, 1, 0, b"")
    head += struct.pack("<II16xIQIIII", 1024, data_at, 0, len(disk), block, 0, len(blocks), len(data) // block)
    return head.ljust(1024, b"\0") + table.ljust(data_at - 1024, b"\0") + data


def qcow2(disk: bytes, bits: int = 12, *, compressed: bool = False) -> bytes:
    """Return a QCOW2 of *disk* in clusters of 2^*bits* bytes; clusters of zeros are not in it."""
    size = 1 << bits
    tables = -(-len(disk) // (size * (size // 8)))
    out = bytearray((1 + tables + 1) * size)
    struct.pack_into(">4sIQIIQIIQ", out, 0, b"QFI\xfb", 3, 0, 0, bits, len(disk), 0, tables, size)
    struct.pack_into(">II", out, 96, 4, 104)
    for table in range(tables):
        struct.pack_into(">Q", out, size + 8 * table, (2 + table) * size | 1 << 63)
    for number in range(-(-len(disk) // size)):
        cluster = disk[number * size : (number + 1) * size].ljust(size, b"\0")
        if not any(cluster):
            continue
        entry = len(out) | 1 << 63
        packed = _raw_deflate(cluster)
        if compressed and len(packed) < size - 512:
            entry = 1 << 62 | len(out) | (-(-len(packed) // 512) - 1) << 62 - (bits - 8)
            cluster = packed.ljust(-(-len(packed) // size) * size, b"\0")
        struct.pack_into(">Q", out, 2 * size + 8 * number, entry)
        out += cluster
    return bytes(out)


def vmdk(disk: bytes, *, compressed: bool = False) -> bytes:
    """Return a sparse VMDK of *disk* in grains of 4 KiB; grains of zeros are not in it."""
    grain = 4096
    grains = -(-len(disk) // grain)
    tables = -(-grains // 512)
    directory_at, tables_at = 1, 1 + -(-4 * tables // 512)
    out = bytearray((tables_at + 4 * tables) * 512)
    flags = 3 | (0x30000 if compressed else 0)
    struct.pack_into("<4sIIQQQQ", out, 0, b"KDMV", 1, flags, len(disk) // 512, grain // 512, 0, 0)
    struct.pack_into("<IQQQ", out, 44, 512, 0, directory_at, tables_at + 4 * tables)
    struct.pack_into("<H", out, 77, int(compressed))
    for table in range(tables):
        struct.pack_into("<I", out, directory_at * 512 + 4 * table, tables_at + 4 * table)
    for number in range(grains):
        data = disk[number * grain : (number + 1) * grain].ljust(grain, b"\0")
        if any(data):
            struct.pack_into("<I", out, tables_at * 512 + 4 * number, len(out) // 512)
            if compressed:
                packed = zlib.compress(data)
                data = struct.pack("<QI", number * 8, len(packed)) + packed
            out += data.ljust(-(-len(data) // 512) * 512, b"\0")
    return bytes(out)


def _raw_deflate(data: bytes) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -12)
    return packer.compress(data) + packer.flush()
