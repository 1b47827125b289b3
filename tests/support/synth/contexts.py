"""Writes the CONTEXT of a thread: registers as a dump holds them.

Source: Windows SDK winnt.h.
"""

from __future__ import annotations

import struct
from typing import NamedTuple

__all__ = ["context_bytes"]


class _Layout(NamedTuple):
    """Length; where the flags lie, which ask for all registers; where instruction, stack and link register do."""

    size: int
    flags_at: int
    flags: int
    form: str
    instruction: int
    stack: int
    link: int | None = None


# By PROCESSOR_ARCHITECTURE number and by machine number.
_X86 = _Layout(716, 0x00, 0x1003F, "<I", 0xB8, 0xC4)
_ARM = _Layout(416, 0x00, 0x20000F, "<I", 0x40, 0x38, 0x3C)
_X64 = _Layout(1232, 0x30, 0x10000B, "<Q", 0xF8, 0x98)
_ARM64 = _Layout(912, 0x00, 0x40000F, "<Q", 0x108, 0x100, 0xF8)
_OLD_ARM64 = _ARM64._replace(size=796, flags=0x80000006)
_LAYOUTS = {
    0: _X86,
    5: _ARM,
    9: _X64,
    12: _ARM64,
    0x8003: _OLD_ARM64,
    0x14C: _X86,
    0x1C4: _ARM,
    0x8664: _X64,
    0xAA64: _ARM64,
}


def context_bytes(processor: int, instruction: int, stack: int, link: int = 0) -> bytes:
    """Return the CONTEXT of a thread on *processor*, a machine or PROCESSOR_ARCHITECTURE number."""
    layout = _LAYOUTS[processor]
    raw = bytearray(layout.size)
    struct.pack_into("<I", raw, layout.flags_at, layout.flags)
    for at, value in ((layout.instruction, instruction), (layout.stack, stack), (layout.link, link)):
        if at is not None:
            struct.pack_into(layout.form, raw, at, value)
    return bytes(raw)
