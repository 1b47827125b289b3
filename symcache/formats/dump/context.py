"""Where a thread was when a dump was written: its registers, and the words of its stack."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, NotInDump
from symcache.formats.dump.header import FILL, MINIDUMP_VARIANT, Machine
from symcache.formats.view import parse_uint

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.formats.view import ByteView

MOST_STACK_BYTES = 0x10000
"""How much of a stack is read: more than most kernel stacks have, and what crashed stands at the top of others."""


@dataclass(frozen=True, slots=True)
class Context:
    """Registers that say where a thread was."""

    instruction: int  # address of the instruction it was to execute
    stack: int  # address of the top of its stack
    link: int  # where the innermost function returns to, if a register holds that; else 0


@dataclass(frozen=True, slots=True)
class ContextLayout:
    """Offsets of registers in a processor's CONTEXT, in bytes, and the bytes that they take."""

    pointer_size: int
    flags: int  # ContextFlags, u32
    processor_flag: int  # the bit of ContextFlags that names the processor
    instruction: int
    stack: int
    link: int | None = None
    signs_pointers: bool = False  # return addresses may be signed in the bits that an address does not need

    @property
    def size_bytes(self) -> int:
        """How much of a CONTEXT holds what is read of it."""
        ends = (self.flags + 4, *(at + self.pointer_size for at in (self.instruction, self.stack, self.link or 0)))
        return max(ends)


# Source: Windows SDK winnt.h (CONTEXT of each processor, WOW64_CONTEXT), which Breakpad's minidump_cpu_*.h repeat.
CONTEXT_X86 = ContextLayout(4, 0x00, 0x0001_0000, instruction=0xB8, stack=0xC4)
CONTEXT_X64 = ContextLayout(8, 0x30, 0x0010_0000, instruction=0xF8, stack=0x98)
CONTEXT_ARM = ContextLayout(4, 0x00, 0x0020_0000, instruction=0x40, stack=0x38, link=0x3C)
CONTEXT_ARM64 = ContextLayout(8, 0x00, 0x0040_0000, instruction=0x108, stack=0x100, link=0xF8, signs_pointers=True)
# Of Breakpad's dumps before it took over Microsoft's structure; the first registers lie where they do there.
CONTEXT_ARM64_OLD = ContextLayout(8, 0x00, 0x8000_0000, instruction=0x108, stack=0x100, link=0xF8)

_BY_MACHINE: dict[int, ContextLayout] = {
    Machine.X86: CONTEXT_X86,
    Machine.X64: CONTEXT_X64,
    Machine.ARM64: CONTEXT_ARM64,
}


def parse_context(data: bytes, layout: ContextLayout) -> Context | None:
    """Return the registers in the first bytes of a CONTEXT; None if it is cut off or of another processor.

    What was never written, as in a header that still holds its fill pattern, is of no processor, too.
    """
    if len(data) < layout.size_bytes:
        return None
    flags = parse_uint(data, layout.flags, 4)
    if not flags & layout.processor_flag or flags in {0x45474150, 0xFFFFFFFF}:
        return None
    width = layout.pointer_size
    link = 0 if layout.link is None else parse_uint(data, layout.link, width)
    link = _strip_signature(link) if layout.signs_pointers else link
    return Context(parse_uint(data, layout.instruction, width), parse_uint(data, layout.stack, width), link)


_HEADER_CONTEXT = {False: 0x320, True: 0x348}
_HEADER_EXCEPTION = {False: (0x7D0 + 0x0C, 4), True: (0xF00 + 0x10, 8)}


def _strip_signature(pointer: int) -> int:
    """Return an ARM64 pointer as it was before it was signed: bits 48 to 63 as bit 55, which a signature spares.

    Source: Arm Architecture Reference Manual, D8.9 "Pointer authentication", and its pseudocode function Strip, for the
    48 bits of address that Windows uses.
    """
    address = pointer & ((1 << 48) - 1)
    return address | 0xFFFF << 48 if pointer >> 55 & 1 else address


def layout_of(machine: int, *, is_64bit: bool) -> ContextLayout | None:
    """Return the layout of a CONTEXT in a kernel dump of *machine*; None if it is not known for a header so wide."""
    layout = _BY_MACHINE.get(machine)
    return layout if layout is not None and (layout.pointer_size == 8) is is_64bit else None


def read_header_context(view: ByteView, layout: ContextLayout) -> Context | None:
    """Return the registers of the processor that crashed, from the header of a kernel dump; None if there are none.

    Layout: CONTEXT at 0x320 of DUMP_HEADER32 and at 0x348 of DUMP_HEADER64. Source: Windows SDK mindumpdef.h.
    """
    return _context_at(view, _HEADER_CONTEXT[layout.pointer_size == 8], layout)


def read_header_exception(view: ByteView, *, is_64bit: bool) -> int:
    """Return the ExceptionAddress of a kernel dump's header; 0 if it was never set.

    Layout: EXCEPTION_RECORD32 at 0x7D0, its address at 0xC; EXCEPTION_RECORD64 at 0xF00, its address at 0x10.
    Source: Windows SDK mindumpdef.h. In dumps of builds 19041 and 22000 it is that of the breakpoint in KeBugCheckEx.
    """
    at, width = _HEADER_EXCEPTION[is_64bit]
    try:
        address = parse_uint(view.read(at, width), 0, width)
    except InputError:
        return 0
    return 0 if address == FILL[width] else address


def _context_at(memory: ByteView, offset: int, layout: ContextLayout) -> Context | None:
    try:
        return parse_context(memory.read(offset, layout.size_bytes), layout)
    except InputError:
        return None


# Bug checks that tell the address of the instruction, and in which of their parameters, from 0.
# Source: MicrosoftDocs/windows-driver-docs, "Bug check code reference".
_INSTRUCTION_PARAMETERS = {
    0x0A: 3,
    0x1E: 1,
    0x3B: 1,
    0x50: 2,
    0x7E: 1,
    0x8E: 1,
    0xC5: 3,
    0xCE: 2,
    0xD1: 3,
    0xD4: 3,
    0xD5: 2,
    0xD6: 2,
}


def faulting_instruction(bugcheck_code: int | None, parameters: tuple[int, ...]) -> int:
    """Return the address of the instruction that a bug check names; 0 if it names none."""
    number = _INSTRUCTION_PARAMETERS.get((bugcheck_code or 0) & ~MINIDUMP_VARIANT)
    return 0 if number is None or number >= len(parameters) else parameters[number]


_TEB_TLS_SLOT_1 = 0x1488
_WOW64_CPU_HEADER_BYTES = 4


def read_wow64_context(memory: ByteView, teb: int) -> Context | None:
    """Return the 32-bit registers of a 64-bit thread that runs 32-bit code; None if *memory* does not hold them.

    Layout: TEB.TlsSlots[1] at 0x1488 points to the WOW64_CPURESERVED {flags u16, machine u16, WOW64_CONTEXT}.
    Source: Microsoft Learn, WOW64_CONTEXT, "Remarks", for Vista to 8.1; phnt's ntwow64.h (WOW64_CPURESERVED) for later
    ones; public symbols of ntdll (TEB).
    """
    try:
        reserved = parse_uint(memory.read(teb + _TEB_TLS_SLOT_1, 8), 0, 8)
    except InputError:
        return None
    context = _context_at(memory, reserved + _WOW64_CPU_HEADER_BYTES, CONTEXT_X86) if reserved else None
    return context if context is not None and context.instruction and context.stack else None


def read_stack_words(memory: ByteView, top: int, layout: ContextLayout, *, end: int | None = None) -> Sequence[int]:
    """Return the words of a stack from *top* upwards, in the order of their addresses, without signatures.

    As far as *memory* holds them in one piece and up to *end*, where that is known; at most `MOST_STACK_BYTES`, in at
    most two reads.
    """
    width = layout.pointer_size
    top += -top % width
    length = min(MOST_STACK_BYTES, (memory.size if end is None else end) - top)
    data = b""
    for _ in range(2):
        if not top or length <= 0:
            break
        try:
            data = memory.read(top, length)
            break
        except NotInDump as error:
            length = min(length - 1, error.address - top)
        except InputError:
            break
    words = struct.unpack_from(f"<{len(data) // width}{'Q' if width == 8 else 'I'}", data)
    return [_strip_signature(word) for word in words] if layout.signs_pointers else words
