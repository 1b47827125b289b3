"""Writes optical discs with one folder of files, as UDF or as ISO 9660.

Source: ECMA-167 and OSTA's UDF 1.02; ECMA-119.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["iso9660_disc", "udf_disc"]

_SECTOR = 2048
_START = 300


def udf_disc(folder: str, files: Mapping[str, bytes], *, inline: bool = False, wide_names: bool = False) -> bytes:
    """Return a disc with UDF; data of files lies in two extents, or with *inline* in their entries."""
    sectors: dict[int, bytes] = {0: _tag(256, 400) + struct.pack("<IIH6x", _SECTOR, 1, 0)}
    free = 10

    def store(data: bytes) -> int:
        nonlocal free
        at = free
        for start in range(0, max(1, len(data)), _SECTOR):
            sectors[free] = data[start : start + _SECTOR]
            free += 1
        return at

    def entry(kind: int, data: bytes) -> bytes:
        if inline:
            described, way = data, 3
        else:
            cut = min(len(data), _SECTOR)
            described, way = struct.pack("<II", cut, store(data[:cut])), 0
            if data[cut:]:
                free_ = store(data[cut:])
                described += struct.pack("<II", len(data) - cut, free_)
        head = _tag(261, 27) + struct.pack("<B6xH20xQ", kind, way, len(data))
        return head.ljust(168, b"\0") + struct.pack("<II", 0, len(described)) + described

    def names(entries: list[tuple[str, int, bool]]) -> bytes:
        out = b""
        for name, place, is_folder in entries:
            text = b"\x10" + name.encode("utf-16-be") if wide_names else b"\x08" + name.encode("latin-1")
            item = (
                _tag(257, 16)
                + struct.pack("<HBBIIH6xH", 1, 2 if is_folder else 0, len(text), _SECTOR, place, 0, 0)
                + text
            )
            out += item.ljust(-(-len(item) // 4) * 4, b"\0")
        return out

    placed = [(name, store(entry(5, data)), False) for name, data in files.items()]
    inner = store(entry(4, names(placed)))
    sectors[1] = entry(4, names([(folder, inner, True)]))
    out = bytearray((_START + free) * _SECTOR)
    for number, data in sectors.items():
        out[(_START + number) * _SECTOR : (_START + number) * _SECTOR + len(data)] = data
    volume = (_tag(6, 212) + struct.pack("<I32xIII12xII", _SECTOR, _SECTOR, 0, 0, 6, 1)).ljust(
        440, b"\0"
    ) + b"\1\6\1\0\0\0"
    for at, data in (
        (256, _tag(2, 16) + struct.pack("<II", 4 * _SECTOR, 260)),
        (260, _tag(5, 188) + struct.pack("<II", _START, free)),
        (261, volume),
        (262, _tag(8, 16)),
    ):
        out[at * _SECTOR : at * _SECTOR + len(data)] = data
    out[16 * _SECTOR + 1 : 16 * _SECTOR + 6] = b"BEA01"
    return bytes(out)


def _tag(kind: int, length: int) -> bytes:
    return struct.pack("<H", kind).ljust(length, b"\0")


def iso9660_disc(
    folder: str, files: Mapping[str, bytes], *, in_two: bool = False, joliet: bool = False, rock_ridge: bool = False
) -> bytes:
    """Return a disc with ISO 9660; with *in_two* each file has two entries, as those of more than 4 GiB.

    With *joliet* or *rock_ridge* names of its own are numbers, and those given stand where these say. An empty file has
    the place of the next one.
    """
    out = bytearray(26 * _SECTOR)
    inner, wide = (_record(b"\0", at, _SECTOR, 2) + _record(b"\1", at - 1, _SECTOR, 2) for at in (21, 23))
    continued = b""  # the second halves of Rock Ridge's names, in sector 24
    for number, (name, data) in enumerate(files.items()):
        own = f"{number}.;1" if joliet or rock_ridge else f"{name.upper()};1"
        cut = _SECTOR if in_two and len(data) > _SECTOR else len(data)
        for piece, flags in ((data[:cut], 0x80 if data[cut:] else 0), (data[cut:], 0)):
            if piece or not cut:
                place = len(out) // _SECTOR
                half = name.encode()[len(name) // 2 :]
                fields = _name_field(name.encode()[: len(name) // 2], 1)
                fields += b"CE\x1c\1" + b"".join(
                    struct.pack("<I4x", each) for each in (24, len(continued), 5 + len(half))
                )
                inner += _record(own.encode(), place, len(piece), flags, fields if rock_ridge else b"")
                continued += _name_field(half, 0)
                wide += _record(f"{name};1".encode("utf-16-be"), place, len(piece), flags)
                out += piece.ljust(-(-len(piece) // _SECTOR) * _SECTOR, b"\0")
    called = "0" if joliet or rock_ridge else folder.upper()
    plain = _root(20, _record(called.encode(), 21, _SECTOR, 2, _name_field(folder.encode(), 0) if rock_ridge else b""))
    sectors = [(16, b"\1CD001\1".ljust(156, b"\0") + _record(b"\0", 20, _SECTOR, 2)), (17, b"\xffCD001\1")]
    if joliet:
        volume = b"\2CD001\1".ljust(88, b"\0") + b"%/E"
        sectors[1:] = [(17, volume.ljust(156, b"\0") + _record(b"\0", 22, _SECTOR, 2)), (18, b"\xffCD001\1")]
        sectors += [(22, _root(22, _record(folder.encode("utf-16-be"), 23, _SECTOR, 2))), (23, wide)]
    for at, data in (*sectors, (20, plain), (21, inner), (24, continued)):
        out[at * _SECTOR : at * _SECTOR + len(data)] = data
    return bytes(out)


def _root(at: int, folder: bytes) -> bytes:
    return _record(b"\0", at, _SECTOR, 2) + _record(b"\1", at, _SECTOR, 2) + folder


def _name_field(name: bytes, flags: int) -> bytes:
    return b"NM" + bytes([5 + len(name), 1, flags]) + name


def _record(name: bytes, sector: int, size: int, flags: int, fields: bytes = b"") -> bytes:
    padding = bytes((len(name) + 1) % 2)
    length = 33 + len(name) + len(padding) + len(fields)
    length += length % 2
    head = struct.pack("<BBI4xI4x7xBBBHHB", length, 0, sector, size, flags, 0, 0, 1, 0x100, len(name))
    return (head + name + padding + fields).ljust(length, b"\0")
