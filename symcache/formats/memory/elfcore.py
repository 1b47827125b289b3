"""ELF cores of whole machines, as QEMU's dump-guest-memory, virsh and VirtualBox' dumpvmcore write them."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.memory.kinds import ELF_MAGIC
from symcache.formats.memory.ranges import MOST_RANGES, MemoryRange

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

_LOAD, _NOTE = 1, 4
_MANY_HEADERS = 0xFFFF
_LONGEST_NOTES_BYTES = 1 << 20
_MOST_PROCESSORS = 2048
_HEADERS_PER_READ = 1024


@dataclass(frozen=True, slots=True)
class Registers:
    """What a processor's state says of where the kernel lies."""

    root: int  # CR3
    interrupts: int  # address of the table of interrupt gates


@dataclass(frozen=True, slots=True)
class ElfCore:
    """A machine's memory in an ELF file."""

    writer: str  # what its notes say: QEMU, VirtualBox; else unknown
    bits: int
    ranges: tuple[MemoryRange, ...]
    registers: tuple[Registers, ...] = ()  # of each processor whose state is there
    problem: str | None = None  # why the notes cannot be read


def is_elf_core(head: bytes) -> bool:
    """Tell whether a file that begins with *head*, 18 bytes at least, is a little-endian ELF core."""
    return head[:4] == ELF_MAGIC and head[4:5] in {b"\1", b"\2"} and head[5:6] == b"\1" and head[16:18] == b"\4\0"


def read_elf_core(view: ByteView) -> ElfCore:
    """Return where the memory lies in an ELF core, and the processors' registers.

    Raises:
        UnknownFormat: Not a core of a machine.
        InputError: Its headers are damaged.

    Layout, 64 bit: offset of the program headers u64 at 0x20, size of one u16 at 0x36, number u16 at 0x38; program
    header: type u32, flags u32, offset u64, virtual address u64, physical address u64, size in the file u64. 32 bit:
    u32 at 0x1C, u16 at 0x2A, u16 at 0x2C; type, offset, virtual, physical address, size in the file, each u32. A number
    of 0xFFFF stands in the first section header.
    Source: the ELF specification (gABI).
    """
    head = view.read(0, min(view.size, 64))
    if not is_elf_core(head):
        raise UnknownFormat("an ELF file that is no core dump", offset=0)
    wide = head[4] == 2
    if len(head) < (64 if wide else 52):
        raise TruncatedInput("the core ends within its header", offset=view.size)
    table, sections = struct.unpack_from("<QQ", head, 0x20) if wide else struct.unpack_from("<II", head, 0x1C)
    entry_size, count = struct.unpack_from("<HH", head, 0x36 if wide else 0x2A)
    if count == _MANY_HEADERS:
        at = sections + (44 if wide else 28)
        count = int.from_bytes(view.read(at, 4), "little")
    if entry_size < (56 if wide else 32):
        raise MalformedInput(f"a program header of {entry_size} bytes", offset=0x36 if wide else 0x2A)
    if count > MOST_RANGES:
        raise MalformedInput(f"{count} program headers are more than a machine's memory falls into", offset=table)
    ranges: list[MemoryRange] = []
    notes: list[tuple[int, int]] = []
    for kind, offset, address, size in _program_headers(view, table, entry_size, count, wide=wide):
        if kind == _LOAD and size:
            ranges.append(MemoryRange(address, size, offset))
        elif kind == _NOTE:
            notes.append((offset, size))
    writer, problem = "unknown", None
    registers: list[Registers] = []
    for offset, size in notes[:16]:
        try:
            for owner, found in _read_notes(view, offset, size):
                writer = owner or writer
                if found is not None and len(registers) < _MOST_PROCESSORS:
                    registers.append(found)
        except InputError as error:
            problem = f"its notes cannot be read: {error.problem}"
    if not ranges:
        raise MalformedInput("the core holds no memory", offset=table)
    if writer == "unknown" and len(ranges) > 1 and not any(each.start for each in ranges):
        raise UnknownFormat("a core dump of one process, and not of Windows", offset=0)
    return ElfCore(writer, 64 if wide else 32, tuple(ranges), tuple(registers), problem)


def _program_headers(
    view: ByteView, table: int, entry_size: int, count: int, *, wide: bool
) -> Iterator[tuple[int, int, int, int]]:
    """Yield type, offset in the file, physical address and size in the file of each program header."""
    for first in range(0, count, _HEADERS_PER_READ):
        number = min(_HEADERS_PER_READ, count - first)
        data = view.read(table + first * entry_size, number * entry_size)
        for at in range(0, len(data), entry_size):
            if wide:
                kind, offset, _, address, size = struct.unpack_from("<I4xQQQQ", data, at)
            else:
                kind, offset, _, address, size = struct.unpack_from("<5I", data, at)
            yield kind, offset, address, size


def _read_notes(view: ByteView, offset: int, size: int) -> Iterator[tuple[str | None, Registers | None]]:
    """Yield who wrote each note, if that is known, and the registers in it.

    Layout: length of the name u32, of the text u32, type u32, name and text, each padded to 4 bytes.
    Source: the ELF specification; QEMU's ``QEMUCPUState`` (CR3 at 0x1A0, base of the IDT at 0x180); VirtualBox'
    dbgfcorefmt.h, ``DBGFCORECPU`` (CR3 at 0x130, base of the IDT at 0x190).
    """
    data = view.read(offset, min(size, _LONGEST_NOTES_BYTES, view.size - offset if offset < view.size else 0))
    if len(data) < min(size, _LONGEST_NOTES_BYTES):
        raise TruncatedInput("the core ends within them", offset=view.size)
    at = 0
    while at + 12 <= len(data):
        name_bytes, text_bytes = struct.unpack_from("<II", data, at)
        at += 12
        name = data[at : at + min(name_bytes, 16)].partition(b"\0")[0]
        at += -(-name_bytes // 4) * 4
        text = data[at : at + text_bytes]
        at += -(-text_bytes // 4) * 4
        if name == b"QEMU":
            yield "QEMU", _registers(text, 0x1A0, 0x180)
        elif name in {b"VBCORE", b"VBCPU"}:
            yield "VirtualBox", _registers(text, 0x130, 0x190) if name == b"VBCPU" else None


def _registers(text: bytes, root: int, interrupts: int) -> Registers | None:
    if len(text) < max(root, interrupts) + 8:
        return None
    return Registers(*(int.from_bytes(text[at : at + 8], "little") for at in (root, interrupts)))
