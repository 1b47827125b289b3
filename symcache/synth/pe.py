"""Writes 32-bit PE images whose sections are aligned to pages, so that file and mapped image are the same bytes.

Source: MicrosoftDocs/win32 pe-format.md; dotnet/runtime PE-COFF.md for the code view record.
"""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symcache.identity import PdbKey

PAGE_BYTES = 0x1000
_PE_OFFSET = 0x80
_BASE = 0x10000
_CODE, _READ_ONLY_DATA = 0x60000020, 0x40000040
_DEBUG_ENTRY_BYTES = 28


def make_image(pdb: PdbKey, timestamp: int, code_bytes: int) -> bytes:
    """Return an x86 driver of code that does not compress: a page of headers, the code, a page that names *pdb*."""
    code = hashlib.shake_128(timestamp.to_bytes(8, "little")).digest(code_bytes)
    debug_at = PAGE_BYTES + round_up(code_bytes, PAGE_BYTES)
    record = b"RSDS" + pdb.guid.bytes_le + struct.pack("<I", pdb.age) + pdb.name.encode() + b"\0"
    record_at = debug_at + _DEBUG_ENTRY_BYTES
    debug = struct.pack("<IIHHIIII", 0, timestamp, 0, 0, 2, len(record), record_at, record_at) + record
    headers = (
        _dos_header()
        + struct.pack("<4sHHIIIHH", b"PE\0\0", 0x14C, 2, timestamp, 0, 0, 224, 0x2102)
        + _optional_header(round_up(code_bytes, PAGE_BYTES), debug_at)
        + _section(b".text", PAGE_BYTES, code_bytes, _CODE)
        + _section(b".rdata", debug_at, len(debug), _READ_ONLY_DATA)
    )
    return (headers.ljust(PAGE_BYTES, b"\0") + code).ljust(debug_at, b"\0") + debug.ljust(PAGE_BYTES, b"\0")


def _dos_header() -> bytes:
    fixed = struct.pack("<2s13H", b"MZ", 0x90, 3, 0, 4, 0, 0xFFFF, 0, 0xB8, 0, 0, 0, 0x40, 0)
    return (fixed.ljust(0x3C, b"\0") + struct.pack("<I", _PE_OFFSET)).ljust(_PE_OFFSET, b"\0")


def _optional_header(code_bytes: int, debug_at: int) -> bytes:
    start = struct.pack(
        "<HBBIIIIIII", 0x10B, 14, 0, code_bytes, PAGE_BYTES, 0, PAGE_BYTES, PAGE_BYTES, debug_at, 0x10000
    )
    versions = struct.pack("<IIHHHHHHI", PAGE_BYTES, PAGE_BYTES, 6, 0, 6, 0, 6, 0, 0)
    sizes = struct.pack("<IIIHH", debug_at + PAGE_BYTES, PAGE_BYTES, 0, 1, 0)
    stacks = struct.pack("<IIIIII", 0x100000, PAGE_BYTES, 0x100000, PAGE_BYTES, 0, 16)
    directories = bytearray(16 * 8)
    struct.pack_into("<II", directories, 6 * 8, debug_at, _DEBUG_ENTRY_BYTES)
    return start + versions + sizes + stacks + directories


def _section(name: bytes, at: int, size: int, characteristics: int) -> bytes:
    file_bytes = round_up(size, PAGE_BYTES)
    return struct.pack("<8sIIIIIIHHI", name, size, at, file_bytes, at, 0, 0, 0, 0, characteristics)


def round_up(value: int, multiple: int) -> int:
    """Return the least multiple that is not below *value*."""
    return -(-value // multiple) * multiple
