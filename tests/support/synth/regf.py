"""Writes registry hives: keys with values of text, numbers and bytes.

Source: Suhanov's specification of the registry file format (msuhanov/regf).
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["build_hive"]

Tree: TypeAlias = "Mapping[str, Any]"  # names of values with text or a number, of keys with another one

_NIL = 0xFFFFFFFF


def build_hive(tree: Tree) -> bytes:
    """Return a hive whose root holds *tree*: a mapping is a key, a text or a number a value."""
    cells = bytearray(32)  # the header of the one bin
    root = _key(cells, "ROOT", tree, _NIL, is_root=True)
    cells += bytes(-len(cells) % 4096)
    cells[:32] = struct.pack("<4sII8xQI", b"hbin", 0, len(cells), 0, 0)
    head = struct.pack("<4sIIQIIIIII", b"regf", 1, 1, 0, 1, 5, 0, 1, root, len(cells)) + struct.pack("<I", 1)
    head = head.ljust(508, b"\0")
    checksum = 0
    for at in range(0, 508, 4):
        checksum ^= int.from_bytes(head[at : at + 4], "little")
    return (head + struct.pack("<I", checksum)).ljust(4096, b"\0") + bytes(cells)


def _cell(cells: bytearray, data: bytes) -> int:
    at = len(cells)
    size = (4 + len(data) + 7) & ~7
    cells += struct.pack("<i", -size) + data.ljust(size - 4, b"\0")
    return at


def _key(cells: bytearray, name: str, tree: Tree, parent: int, *, is_root: bool = False) -> int:
    at = _cell(cells, bytes(76 + len(name)))
    keys = sorted((each for each, value in tree.items() if not isinstance(value, str | int | bytes)), key=str.upper)
    subkeys = [(each, _key(cells, each, tree[each], at)) for each in keys]
    values = [_value(cells, each, value) for each, value in tree.items() if isinstance(value, str | int | bytes)]
    listed = _NIL
    if subkeys:
        index = struct.pack("<2sH", b"lf", len(subkeys))
        for each, place in subkeys:
            index += struct.pack("<I4s", place, each[:4].encode().ljust(4, b"\0"))
        listed = _cell(cells, index)
    value_list = _cell(cells, struct.pack(f"<{len(values)}I", *values)) if values else _NIL
    node = struct.pack(
        "<2sHQIIIIIIIIIIIIIIIHH", b"nk", 0x20 | (0xC if is_root else 0), 0, 0, parent, len(subkeys), 0, listed, _NIL,
        len(values), value_list, _NIL, _NIL, 0, 0, 0, 0, 0, len(name), 0,
    ) + name.encode()  # fmt: skip
    cells[at + 4 : at + 4 + len(node)] = node
    return at


def _value(cells: bytearray, name: str, value: str | int | bytes) -> int:
    if isinstance(value, int):
        size, data, kind = 4 | 0x80000000, value, 4
    elif isinstance(value, bytes):
        size, data, kind = len(value), _cell(cells, value), 3
    else:
        text = value.encode("utf-16-le") + b"\0\0"
        size, data, kind = len(text), _cell(cells, text), 1
    return _cell(cells, struct.pack("<2sHIIIHH", b"vk", len(name), size, data, kind, 1, 0) + name.encode())
