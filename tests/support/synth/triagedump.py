"""Writes kernel triage dumps (small memory dumps) of both widths.

Source: rizin dmp_specs.h and Ghidra pagedump; the layout of real dumps of builds 19041 and 22000.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.synth.kerneldump import DumpKind, DumpPlan, header_bytes
from support.synth.pe import memory_bytes

if TYPE_CHECKING:
    from support.synth.kernelmemory import MachineMemory

__all__ = ["TriagePlan", "triage_bytes"]

_STATE_BYTES = 0x1000


@dataclass(frozen=True, slots=True)
class TriagePlan:
    """How a triage dump is written.

    Attributes:
        dump: Its header; the kind does not matter.
        without_header: Indexes of drivers whose header was not in memory: their stamp and checksum are 0.
        with_image: Indexes of drivers whose image is among the data blocks, in whole.
        header_bytes_only: Indexes of drivers of whose image the first 0x100 bytes are.
        wide_addresses: Write data blocks of 32-bit dumps with addresses of 8 bytes.
        string_padding: Bytes between two names, as garbage.
        stack: Address and content of the call stack, at most a page of it; None for one of zeros at no address.
    """

    dump: DumpPlan = field(default_factory=DumpPlan)
    without_header: frozenset[int] = frozenset()
    with_image: frozenset[int] = frozenset()
    header_bytes_only: frozenset[int] = frozenset()
    wide_addresses: bool = False
    string_padding: bytes = b"\xaa"
    stack: tuple[int, bytes] | None = None


def triage_bytes(machine: MachineMemory, plan: TriagePlan | None = None) -> bytes:
    """Return a triage dump of *machine*."""
    plan = plan or TriagePlan()
    wide = machine.pointer_size == 8
    out = bytearray(header_bytes(machine, plan.dump))
    fields_bit = 0x1038 if wide else 0xF8C
    struct.pack_into("<I", out, 0x0F98 if wide else 0xF88, DumpKind.TRIAGE.value)
    struct.pack_into("<I", out, fields_bit, 0xCFF)
    table_at = len(out)
    out += bytes(0x80 if wide else 0x68)
    debugger_data_at = len(out)
    debugger_data = _debugger_data(machine)
    out += debugger_data
    # Where PRCB, process, thread and stack would lie: all zeros, but a debugger wants room for them.
    state_at = len(out)
    stack_va, stack = plan.stack or (0, b"")
    out += stack.ljust(_STATE_BYTES, b"\0")
    unloaded_at = len(out)
    out += _unloaded(machine, wide=wide)
    out += bytes(-len(out) % 8)
    drivers_at = len(out)
    stride = 0x90 if wide else 0x4C
    pool_at = drivers_at + stride * len(machine.plan.drivers) + (0 if wide else -stride * len(machine.plan.drivers) % 8)
    pool, name_offsets = _string_pool(machine, pool_at, plan.string_padding)
    for index, offset in enumerate(name_offsets):
        out += _driver(machine, index, offset, stamped=index not in plan.without_header, wide=wide)
    out += bytes(pool_at - len(out)) + pool
    blocks_at = len(out)
    out += _data_blocks(machine, plan, blocks_at, wide=wide)
    valid_at = len(out)
    out += b"TRGD"
    words = [
        0x300,
        len(out),
        valid_at,
        0x348 if wide else 0x320,
        0xF00 if wide else 0x7D0,
        0,
        unloaded_at,
        *[state_at] * 4,
        len(stack) or 0x100,
    ]
    words += [drivers_at, len(machine.plan.drivers), pool_at, len(pool), 0, 0xFFFFFFFF]
    struct.pack_into("<18I", out, table_at, *words)
    struct.pack_into("<Q" if wide else "<I", out, table_at + 0x48, stack_va)
    tail = (0, 0, 0, debugger_data_at, len(debugger_data), blocks_at, _block_count(plan, machine))
    struct.pack_into("<Q6I" if wide else "<7I", out, table_at + (0x60 if wide else 0x4C), *tail)
    return bytes(out)


def _debugger_data(machine: MachineMemory) -> bytes:
    if not machine.debugger_data_va:
        return b""
    return b"".join(
        machine.physical.read(physical, 16)
        for at in range(machine.debugger_data_va, machine.debugger_data_va + 0x380, 16)
        if (physical := machine.kernel.translate(at)) is not None
    )


def _unloaded(machine: MachineMemory, *, wide: bool) -> bytes:
    drivers = machine.plan.unloaded
    out = len(drivers).to_bytes(8 if wide else 4, "little")
    for driver in drivers:
        text = driver.name.encode("utf-16-le")[:24]
        form = "<HHxxxxQ24sQQ" if wide else "<HHI24sII"
        out += struct.pack(form, len(text), len(text), 0, text, driver.start, driver.end)
    return out


def _string_pool(machine: MachineMemory, start: int, padding: bytes) -> tuple[bytes, list[int]]:
    pool = bytearray()
    offsets = []
    for driver in machine.plan.drivers:
        offsets.append(start + len(pool))
        text = driver.path.encode("utf-16-le")
        pool += struct.pack("<I", len(text) // 2) + text + b"\0\0"
        pool += padding * (-len(pool) % 8)
    return bytes(pool), offsets


def _driver(machine: MachineMemory, index: int, name_offset: int, *, stamped: bool, wide: bool) -> bytes:
    driver, base = machine.plan.drivers[index], machine.bases[index]
    size = driver.loader_size or driver.image.size_of_image or len(memory_bytes(driver.image))
    stamp, checksum = (driver.image.timestamp, driver.image.checksum) if stamped else (0, 0)
    raw = bytearray(0x90 if wide else 0x4C)
    struct.pack_into("<I", raw, 0, name_offset)
    struct.pack_into("<QQI" if wide else "<III", raw, 0x38 if wide else 0x1C, base, base + 0x1000, size)
    struct.pack_into("<I", raw, 0x80 if wide else 0x44, checksum)
    struct.pack_into("<I", raw, 0x88 if wide else 0x48, stamp)
    return bytes(raw)


def _block_count(plan: TriagePlan, machine: MachineMemory) -> int:
    return len(_pieces(plan, machine))


def _pieces(plan: TriagePlan, machine: MachineMemory) -> list[tuple[int, bytes]]:
    pieces = []
    for index, (driver, base) in enumerate(zip(machine.plan.drivers, machine.bases, strict=True)):
        if index in plan.with_image:
            pieces.append((base, memory_bytes(driver.image)))
        elif index in plan.header_bytes_only:
            pieces.append((base, memory_bytes(driver.image)[:0x100]))
    lab = machine.bases[0] + 0x20200
    pieces.append((lab, machine.plan.build_lab.encode() + b"\0" * 8))
    return pieces[::-1]


def _data_blocks(machine: MachineMemory, plan: TriagePlan, start: int, *, wide: bool) -> bytes:
    pieces = _pieces(plan, machine)
    form = "<QII" if wide or plan.wide_addresses else "<III"
    at = start + struct.calcsize(form) * len(pieces)
    table, data = b"", b""
    for address, piece in pieces:
        table += struct.pack(form, address, at + len(data), len(piece))
        data += piece
    return table + data
