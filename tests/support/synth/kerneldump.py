"""Writes kernel dumps of every kind but triage dumps, sparse where memory is.

Source: Windows SDK mindumpdef.h (DUMP_HEADER32, DUMP_HEADER64); kdmp-parser for bitmaps and ranges; Ghidra's
SummaryHeader for the bitmaps before Windows 8.
"""

from __future__ import annotations

import io
import struct
from dataclasses import dataclass
from enum import Enum
from typing import IO, TYPE_CHECKING

from support.synth.contexts import context_bytes
from support.synth.pagetables import Paging

if TYPE_CHECKING:
    from collections.abc import Iterable

    from support.synth.kernelmemory import MachineMemory

__all__ = ["DumpKind", "DumpPlan", "dump_bytes", "header_bytes", "write_dump"]

_PAGE = 0x1000
_FILL = b"PAGE"


class DumpKind(Enum):
    """Kinds of dumps; the value is the type number."""

    FULL = 1
    SUMMARY = 2
    HEADER = 3
    TRIAGE = 4
    BITMAP_FULL = 5
    BITMAP_KERNEL = 6
    AUTOMATIC = 7
    RANGES_KERNEL = 8
    RANGES_KERNEL_AND_USER = 9
    RANGES_COMPLETE = 10


@dataclass(frozen=True, slots=True)
class DumpPlan:
    """How a machine's memory is dumped.

    Attributes:
        kind: Kind of dump.
        memory: Runs {first page, pages} of the machine's memory; None for just the pages that hold something.
        dropped: Pages to leave out.
        type_number: DumpType to write instead of the kind's.
        pae_enabled: PaeEnabled to write instead of the truth; 32 bit only.
        bugcheck: Code and parameters.
        registers: Instruction, stack and link of the processor that crashed; None leaves the fill pattern.
        exception: Address in the exception record; None leaves the fill pattern.
        attributes: Attributes; None leaves the fill pattern.
        system_time: FILETIME; None leaves the fill pattern.
        uptime: In 100 ns; None leaves the fill pattern.
        product_type: 1 workstation, 2 domain controller, 3 server.
        processors: How many.
        root_bits: Bits to set in the page table register besides the root, such as a PCID.
        magic: First word of a bitmap's header, ``SDMP`` or ``FDMP``.
        bitmap_bits: Length of the bitmap; None for three bits more than there are pages, no multiple of 8.
        secondary_bytes: Length of what drivers leave behind the pages. dbgeng does not read as many bytes at the end of
            a dump with a bitmap as stand before its first page, which Windows always fills with such data.
    """

    kind: DumpKind = DumpKind.FULL
    memory: tuple[tuple[int, int], ...] | None = None
    dropped: frozenset[int] = frozenset()
    type_number: int | None = None
    pae_enabled: bool | None = None
    bugcheck: tuple[int, int, int, int, int] = (0xE2, 0, 0, 0, 0)
    registers: tuple[int, int, int] | None = None
    exception: int | None = None
    attributes: int | None = None
    system_time: int | None = 0x1D707F23DBB3399
    uptime: int | None = 37_470_697
    product_type: int = 1
    processors: int = 2
    root_bits: int = 0
    magic: bytes = b"SDMP"
    bitmap_bits: int | None = None
    secondary_bytes: int = 0


_MACHINES = {Paging.X86: 0x14C, Paging.PAE: 0x14C, Paging.X64: 0x8664, Paging.LA57: 0x8664, Paging.ARM64: 0xAA64}


def dump_bytes(machine: MachineMemory, plan: DumpPlan) -> bytes:
    """Return a whole dump; for those that fit into memory."""
    out = io.BytesIO()
    write_dump(out, machine, plan)
    return out.getvalue()


def write_dump(out: IO[bytes], machine: MachineMemory, plan: DumpPlan) -> None:
    """Write a dump to a seekable file; pages of zeros are skipped, so that a large dump becomes a sparse file."""
    runs = _runs(machine, plan)
    header = header_bytes(machine, plan, runs if plan.kind is DumpKind.FULL else _memory_of(machine))
    body = _body_header(plan, len(header), runs)
    out.write(header + body)
    if plan.kind is not DumpKind.HEADER:
        _write_pages(out, len(header) + len(body), runs, machine)
    if plan.secondary_bytes:
        out.seek(plan.secondary_bytes - 1, io.SEEK_END)
        out.write(b"\0")


def _body_header(plan: DumpPlan, base: int, runs: list[tuple[int, int]]) -> bytes:
    """Return what names the pages, between the header and the first page."""
    match plan.kind:
        case DumpKind.FULL | DumpKind.HEADER:
            return b""
        case DumpKind.SUMMARY:
            return _summary_header(base, runs, plan.bitmap_bits or _bits(runs))
        case DumpKind.BITMAP_FULL | DumpKind.BITMAP_KERNEL | DumpKind.AUTOMATIC:
            return _bitmap_header(base, runs, plan.bitmap_bits or _bits(runs), plan.magic)
        case DumpKind.RANGES_KERNEL | DumpKind.RANGES_KERNEL_AND_USER | DumpKind.RANGES_COMPLETE:
            return _ranges_header(base, runs, complete=plan.kind is DumpKind.RANGES_COMPLETE)
        case DumpKind.TRIAGE:
            raise ValueError("a triage dump holds no pages")


def _runs(machine: MachineMemory, plan: DumpPlan) -> list[tuple[int, int]]:
    """Return the runs of pages to write, without those dropped."""
    if plan.memory is None:
        return _merge(sorted(set(machine.physical.pages) - plan.dropped))
    runs = []
    for first, count in plan.memory:
        start = first
        for pfn in sorted(pfn for pfn in plan.dropped if first <= pfn < first + count):
            if pfn > start:
                runs.append((start, pfn - start))
            start = pfn + 1
        if start < first + count:
            runs.append((start, first + count - start))
    return runs


def _memory_of(machine: MachineMemory) -> list[tuple[int, int]]:
    """Return the machine's physical memory, as its loader would have described it: one run up to the last page."""
    last = max(machine.physical.pages, default=0)
    return [(1, last)] if last else []


def _merge(pfns: Iterable[int]) -> list[tuple[int, int]]:
    runs: list[tuple[int, int]] = []
    for pfn in pfns:
        if runs and sum(runs[-1]) == pfn:
            runs[-1] = runs[-1][0], runs[-1][1] + 1
        else:
            runs.append((pfn, 1))
    return runs


def _write_pages(out: IO[bytes], start: int, runs: list[tuple[int, int]], machine: MachineMemory) -> None:
    offsets = []
    at = start
    for first, count in runs:
        offsets.append((first, count, at))
        at += count * _PAGE
    pages = machine.physical.pages
    index = 0
    for pfn in sorted(pages):
        while index < len(offsets) and pfn >= offsets[index][0] + offsets[index][1]:
            index += 1
        if index == len(offsets):
            break
        first, _, offset = offsets[index]
        if pfn >= first:
            out.seek(offset + (pfn - first) * _PAGE)
            out.write(pages[pfn])
    out.seek(0, io.SEEK_END)
    if out.tell() < at:
        out.seek(at - 1)
        out.write(b"\0")


def header_bytes(machine: MachineMemory, plan: DumpPlan, runs: Iterable[tuple[int, int]] = ()) -> bytes:
    """Return the header; what is not set holds the fill pattern, as Windows leaves it.

    Args:
        machine: What it points into.
        plan: Everything else.
        runs: The physical memory block; without any it is not set.
    """
    wide = machine.pointer_size == 8
    raw = bytearray(_FILL * (0x2000 // 4 if wide else 0x1000 // 4))
    word = "Q" if wide else "I"

    def put(offset: int, form: str, *values: int) -> None:
        struct.pack_into("<" + form, raw, offset, *values)

    raw[4:8] = b"DU64" if wide else b"DUMP"
    put(0x08, "II", 0xF, machine.plan.build)
    put(0x10, word, machine.kernel.root | plan.root_bits)
    put(0x20 if wide else 0x18, word * 2, machine.loaded_modules_va, machine.active_processes_va)
    put(0x30 if wide else 0x20, "III", _MACHINES[machine.plan.paging], plan.processors, plan.bugcheck[0])
    mask = (1 << 64) - 1 if wide else (1 << 32) - 1
    put(0x40 if wide else 0x2C, word * 4, *(parameter & mask for parameter in plan.bugcheck[1:]))
    put(0x80 if wide else 0x60, word, machine.debugger_data_va)
    if plan.registers is not None:
        context = context_bytes(_MACHINES[machine.plan.paging], *plan.registers)
        at = 0x348 if wide else 0x320
        raw[at : at + len(context)] = context
    if plan.exception is not None:
        put(0xF10 if wide else 0x7DC, word, plan.exception)
    if not wide:
        enabled = plan.pae_enabled if plan.pae_enabled is not None else machine.plan.paging is Paging.PAE
        put(0x5C, "B", enabled)
    put(0xF98 if wide else 0xF88, "I", plan.kind.value if plan.type_number is None else plan.type_number)
    put(0x1040 if wide else 0xF94, "I", plan.product_type)
    for value, offset in ((plan.system_time, 0xFA8 if wide else 0xFC0), (plan.uptime, 0x1030 if wide else 0xFB8)):
        if value is not None:
            put(offset, "Q", value)
    if plan.attributes is not None:
        put(0x1050 if wide else 0x8A0, "I", plan.attributes)
    if runs := list(runs):
        room = 42 if wide else 86
        if len(runs) > room:
            raise ValueError(f"{len(runs)} runs, the header has room for {room}")
        block = 0x88 if wide else 0x64
        put(block, "I", len(runs))
        put(block + (8 if wide else 4), word, sum(count for _, count in runs))
        put(block + (16 if wide else 8), word * 2 * len(runs), *(number for run in runs for number in run))
    return bytes(raw)


def _bitmap(runs: list[tuple[int, int]], bits: int) -> bytes:
    """Return a bitmap with the bits of all runs set, first bit least significant."""
    raw = bytearray(-(-bits // 8))
    for first, count in runs:
        end = first + count
        inner_start, inner_end = -(-first // 8), end // 8
        if inner_start < inner_end:
            raw[inner_start:inner_end] = b"\xff" * (inner_end - inner_start)
        for pfn in (*range(first, min(end, inner_start * 8)), *range(max(first, inner_end * 8), end)):
            raw[pfn // 8] |= 1 << pfn % 8
    return bytes(raw)


def _bits(runs: list[tuple[int, int]]) -> int:
    """Return how many bits the bitmap has: not a multiple of 8, as on machines with odd memory."""
    return max((first + count for first, count in runs), default=0) + 3


def _bitmap_header(base: int, runs: list[tuple[int, int]], bits: int, magic: bytes) -> bytes:
    bitmap = _bitmap(runs, bits)
    present = sum(count for _, count in runs)
    header = magic + b"DUMP" + struct.pack("<I20xQQQ", 3, base + 0x38 + len(bitmap), present, bits)
    return header + bitmap


def _summary_header(base: int, runs: list[tuple[int, int]], bits: int) -> bytes:
    bitmap = _bitmap(runs, bits)
    wide = base == 0x2000
    fixed = 0x28 if wide else 0x20
    size = -(-(base + fixed + len(bitmap)) // _PAGE) * _PAGE
    present = sum(count for _, count in runs)
    header = b"SDMPDUMP" + struct.pack("<IIII", 1, size, bits, present)
    header += struct.pack("<I4xQ" if wide else "<II", bits, 0xFFFFF80000001000 if wide else 0x80001000)
    return (header + bitmap).ljust(size - base, b"\0")


def _ranges_header(base: int, runs: list[tuple[int, int]], *, complete: bool) -> bytes:
    total = sum(count for _, count in runs)
    ranges = b"".join(struct.pack("<QQ", *run) for run in runs)
    if complete:
        # What follows the last range does not count.
        ranges += struct.pack("<QQ", 0x1234, 0x5678)
        fixed = struct.pack("<IHHQ", len(runs), 0, 0, total)
    else:
        ranges += bytes(16)
        fixed = struct.pack("<QQ", 0x11, 0x22)
    metadata = 0x10 + len(ranges)
    header = struct.pack("<I4s4sIQQ", 0x40, b"RDMP", b"DUMP", 0, metadata, base + 0x20 + metadata)
    return header + fixed + ranges
