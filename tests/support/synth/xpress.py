"""Plain LZ77 of XPRESS, written greedily: [MS-XCA] 2.3, with lengths in every form."""

from __future__ import annotations

import struct

_WINDOW = 8192


def compress(data: bytes) -> bytes:
    """Return *data* packed; matches are the longest that begin where the same three bytes were last seen."""
    out = bytearray(4)
    flags, count, flags_at = 0, 0, 0
    half_at: int | None = None
    seen: dict[bytes, int] = {}
    at = 0

    def flag(value: int) -> None:
        nonlocal flags, count, flags_at
        flags = flags << 1 | value
        count += 1
        if count == 32:
            struct.pack_into("<I", out, flags_at, flags)
            flags_at, flags, count = len(out), 0, 0
            out.extend(bytes(4))

    while at < len(data):
        start = seen.get(data[at : at + 3], -1) if at + 3 <= len(data) else -1
        seen[data[at : at + 3]] = at
        if start < 0 or at - start > _WINDOW:
            out.append(data[at])
            at += 1
            flag(0)
            continue
        length = 3
        while at + length < len(data) and data[start + length] == data[at + length]:
            length += 1
        left = length - 3
        out += struct.pack("<H", (at - start - 1) << 3 | min(left, 7))
        if left >= 7:
            nibble = min(left - 7, 15)
            if half_at is None:
                half_at = len(out)
                out.append(nibble)
            else:
                out[half_at] |= nibble << 4
                half_at = None
            if nibble == 15:
                byte = min(left - 22, 255)
                out.append(byte)
                if byte == 255:
                    out += struct.pack("<H", left) if left < 1 << 16 else struct.pack("<HI", 0, left)
        at += length
        flag(1)
    # What is left of the last flags is 1.
    struct.pack_into("<I", out, flags_at, (flags << 32 - count | (1 << 32 - count) - 1) & 0xFFFFFFFF)
    return bytes(out)
