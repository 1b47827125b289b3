"""A writer of cabinets for tests: every compression that stores use, reserves, several folders, and damage on order.

Source: [MS-CAB].
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.synth.lzx import lzx_frames

if TYPE_CHECKING:
    from collections.abc import Sequence

    from support.synth.lzx import BlockKind

__all__ = ["CabinetDamage", "Lzx", "Mszip", "Stored", "SynthFolder", "build_cabinet"]

_BLOCK = 32768


@dataclass(frozen=True, slots=True)
class Stored:
    """No compression."""

    @property
    def type_field(self) -> int:
        """The folder's type, u16."""
        return 0

    def blocks(self, data: bytes) -> list[bytes]:
        """Return the data of each block."""
        return _chunks(data)


@dataclass(frozen=True, slots=True)
class Mszip:
    """Deflate, each block with the one before it as its dictionary.

    Attributes:
        level: Effort of zlib, 0 to 9.
    """

    level: int = 9

    @property
    def type_field(self) -> int:
        """The folder's type, u16."""
        return 1

    def blocks(self, data: bytes) -> list[bytes]:
        """Return the data of each block."""
        done = []
        before = b""
        for chunk in _chunks(data):
            packer = zlib.compressobj(self.level, wbits=-15, zdict=before)
            done.append(b"CK" + packer.compress(chunk) + packer.flush())
            before = chunk
        return done


@dataclass(frozen=True, slots=True)
class Lzx:
    """LZX; see `lzx_frames`."""

    window_bits: int = 18
    kinds: Sequence[BlockKind] = ("verbatim",)
    block_bytes: int = 1 << 18
    e8_size: int = 0

    @property
    def type_field(self) -> int:
        """The folder's type, u16."""
        return 3 | self.window_bits << 8

    def blocks(self, data: bytes) -> list[bytes]:
        """Return the data of each block."""
        return lzx_frames(
            data,
            window_bits=self.window_bits,
            kinds=self.kinds,
            block_bytes=self.block_bytes,
            e8_size=self.e8_size,
        )


@dataclass(frozen=True, slots=True)
class SynthFolder:
    """Files that are compressed together.

    Attributes:
        files: Name and content of each, in order.
        compression: How.
    """

    files: Sequence[tuple[str, bytes]]
    compression: Stored | Mszip | Lzx = field(default_factory=Mszip)


@dataclass(frozen=True, slots=True)
class CabinetDamage:
    """What is to be wrong; None and 0 leave a thing right.

    Attributes:
        flags: Bits to set in the header: 1 and 2 say that the cabinet is part of a set.
        cabinet_bytes: Size in the header.
        type_field: Type of every folder.
        file_bytes: Size of every file in the table.
        file_folder: Folder of every file in the table.
        checksum_xor: What to change in every checksum.
        block_bytes: Expanded length of every block; 0 (not None) marks split blocks.
        block_count: Blocks of every folder.
    """

    flags: int = 0
    cabinet_bytes: int | None = None
    type_field: int | None = None
    file_bytes: int | None = None
    file_folder: int | None = None
    checksum_xor: int = 0
    block_bytes: int | None = None
    block_count: int | None = None


_SOUND = CabinetDamage()


def build_cabinet(
    folders: Sequence[SynthFolder],
    *,
    checksums: bool = True,
    reserve: tuple[bytes, bytes, bytes] = (b"", b"", b""),
    damage: CabinetDamage = _SOUND,
    trailing: bytes = b"",
) -> bytes:
    """Return a cabinet.

    Args:
        folders: What it holds.
        checksums: Whether blocks have one; else the field is 0.
        reserve: What stands in the reserved areas of the header, of each folder and of each block.
        damage: What to make wrong.
        trailing: Bytes to put behind the cabinet, outside of its size.
    """
    head_reserve, folder_reserve, block_reserve = reserve
    has_reserve = any(reserve)
    bodies = [_body(folder, checksums, block_reserve, damage) for folder in folders]
    table = b"".join(_file_records(number, folder, damage) for number, folder in enumerate(folders))
    head_bytes = 36 + (4 + len(head_reserve) if has_reserve else 0)
    table_at = head_bytes + len(folders) * (8 + len(folder_reserve))
    body_at = table_at + len(table)
    total = body_at + sum(len(body) for body, _ in bodies)
    head = b"MSCF" + _u32(0) + _u32(total if damage.cabinet_bytes is None else damage.cabinet_bytes) + _u32(0)
    head += _u32(table_at) + _u32(0) + bytes([3, 1]) + _u16(len(folders))
    head += _u16(sum(len(folder.files) for folder in folders)) + _u16((4 if has_reserve else 0) | damage.flags)
    head += _u16(1) + _u16(0)
    if has_reserve:
        head += _u16(len(head_reserve)) + bytes([len(folder_reserve), len(block_reserve)]) + head_reserve
    for folder, (body, count) in zip(folders, bodies, strict=True):
        kind = folder.compression.type_field if damage.type_field is None else damage.type_field
        blocks = count if damage.block_count is None else damage.block_count
        head += _u32(body_at) + _u16(blocks) + _u16(kind) + folder_reserve
        body_at += len(body)
    return head + table + b"".join(body for body, _ in bodies) + trailing


def _body(folder: SynthFolder, checksums: bool, reserve: bytes, damage: CabinetDamage) -> tuple[bytes, int]:
    data = b"".join(content for _, content in folder.files)
    sizes = [len(chunk) for chunk in _chunks(data)]
    out = bytearray()
    for size, packed in zip(sizes, folder.compression.blocks(data), strict=True):
        lengths = _u16(len(packed)) + _u16(size if damage.block_bytes is None else damage.block_bytes)
        checksum = _sum(lengths + reserve, _sum(packed, 0)) ^ damage.checksum_xor if checksums else 0
        out += _u32(checksum) + lengths + reserve + packed
    return bytes(out), len(sizes)


def _file_records(number: int, folder: SynthFolder, damage: CabinetDamage) -> bytes:
    out = b""
    at = 0
    for name, content in folder.files:
        out += _u32(len(content) if damage.file_bytes is None else damage.file_bytes) + _u32(at)
        out += _u16(number if damage.file_folder is None else damage.file_folder)
        out += _u16((2019 - 1980) << 9 | 3 << 5 | 18) + _u16(12 << 11 | 30 << 5)
        out += _u16(0x20 if name.isascii() else 0xA0) + name.encode() + b"\0"
        at += len(content)
    return out


def _sum(data: bytes, seed: int) -> int:
    whole = len(data) - len(data) % 4
    for at in range(0, whole, 4):
        seed ^= int.from_bytes(data[at : at + 4], "little")
    return seed ^ int.from_bytes(data[whole:], "big")


def _chunks(data: bytes) -> list[bytes]:
    return [data[at : at + _BLOCK] for at in range(0, len(data), _BLOCK)]


def _u16(value: int) -> bytes:
    return value.to_bytes(2, "little")


def _u32(value: int) -> bytes:
    return value.to_bytes(4, "little")
