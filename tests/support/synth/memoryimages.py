"""Writes a machine's memory without a crash dump's header: raw, LiME, AVML, ELF cores, VMware's pair of files.

Source: LiME's documentation; microsoft/avml, image.rs; google/snappy, framing_format.txt; the ELF specification; QEMU's
``QEMUCPUState``; VirtualBox' dbgfcorefmt.h; the published work on ``vmss2core``.
"""

from __future__ import annotations

import io
import struct
from typing import IO, TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from support.synth.kernelmemory import MachineMemory

__all__ = [
    "avml_bytes",
    "elf_bytes",
    "lime_bytes",
    "qemu_note",
    "raw_bytes",
    "virtualbox_notes",
    "vmware_files",
    "vmware_state",
    "write_raw",
]

_PAGE = 0x1000
_CHUNK = 0x10000
VECTORS = struct.pack("<I", 0xF000FF53) * 32
"""Interrupt vectors of real mode, which lead to the firmware."""


def raw_bytes(machine: MachineMemory, *, start: bytes = VECTORS) -> bytes:
    """Return memory from address 0 to its last page; *start* lies at address 0."""
    out = io.BytesIO()
    write_raw(out, machine, start=start)
    return out.getvalue()


def write_raw(out: IO[bytes], machine: MachineMemory, *, start: bytes = VECTORS, size: int | None = None) -> None:
    """Write the same into a seekable file of *size* bytes, which is sparse where memory is zeros."""
    pages = machine.physical.pages
    end = (max(pages) + 1) * _PAGE
    for pfn, page in pages.items():
        out.seek(pfn * _PAGE)
        out.write(page)
    if 0 not in pages:
        out.seek(0)
        out.write(start)
    out.seek(end if size is None else size)
    out.truncate()


def memory_runs(machine: MachineMemory, size: int | None = None) -> list[tuple[int, bytes]]:
    """Return address and bytes of each run of pages that hold something; with *size* all memory as one run."""
    if size is not None:
        out = io.BytesIO()
        write_raw(out, machine, size=size)
        return [(0, out.getvalue())]
    runs: list[tuple[int, bytearray]] = []
    for pfn, page in sorted(machine.physical.pages.items()):
        if runs and runs[-1][0] + len(runs[-1][1]) == pfn * _PAGE:
            runs[-1][1].extend(page)
        else:
            runs.append((pfn * _PAGE, bytearray(page)))
    return [(start, bytes(data)) for start, data in runs]


def lime_bytes(machine: MachineMemory, size: int | None = None) -> bytes:
    """Return a LiME image, a range for each run."""
    return b"".join(
        struct.pack("<4sIQQ8x", b"EMiL", 1, start, start + len(data) - 1) + data
        for start, data in memory_runs(machine, size)
    )


def avml_bytes(machine: MachineMemory, compress: Callable[[bytes], bytes] | None = None) -> bytes:
    """Return an AVML image; *compress* makes a snappy block, None for blocks of literals alone."""
    out = bytearray()
    for start, data in memory_runs(machine):
        stream = b"\xff\x06\0\0sNaPpY" + b"\xfe\x03\0\0\0\0\0"
        for number, at in enumerate(range(0, len(data), _CHUNK)):
            piece = data[at : at + _CHUNK]
            kind, body = (1, piece) if number % 3 == 1 else (0, (compress or _literals)(piece))
            stream += bytes([kind]) + (len(body) + 4).to_bytes(3, "little") + bytes(4) + body
        out += struct.pack("<4sIQQ8x", b"AVML", 2, start, start + len(data) - 1) + stream
        out += struct.pack("<Q", len(stream))
    return bytes(out)


def _literals(data: bytes) -> bytes:
    """Return a snappy block that holds *data* as it is: a varint of its length, then literals, lengths in two bytes."""
    out, length = bytearray(), len(data)
    while length > 0x7F:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    for at in range(0, len(data), 0x8000):
        piece = data[at : at + 0x8000]
        out += bytes([61 << 2]) + struct.pack("<H", len(piece) - 1) + piece
    return bytes(out)


def _note(name: bytes, kind: int, text: bytes) -> bytes:
    name += b"\0"
    padded = (part + bytes(-len(part) % 4) for part in (name, text))
    return struct.pack("<III", len(name), len(text), kind) + b"".join(padded)


def qemu_note(root: int, interrupts: int = 0) -> bytes:
    """Return QEMU's note with a processor's state."""
    state = bytearray(440)
    struct.pack_into("<II", state, 0, 1, len(state))
    struct.pack_into("<Q", state, 8 + 18 * 8 + 9 * 24 + 16, interrupts)
    struct.pack_into("<Q", state, 8 + 18 * 8 + 10 * 24 + 3 * 8, root)
    return _note(b"CORE", 1, bytes(336)) + _note(b"QEMU", 0, bytes(state))


def virtualbox_notes(root: int) -> bytes:
    """Return VirtualBox' notes: of the core, and of its one processor."""
    state = bytearray(0x230)
    struct.pack_into("<Q", state, 18 * 8 + 6 * 24 + 2 * 8, root)
    return _note(b"VBCORE", 0xB00, struct.pack("<6I", 0xC01AC0DE, 0x10006, 24, 0, 0, 1)) + _note(
        b"VBCPU", 0xB01, bytes(state)
    )


def elf_bytes(
    machine: MachineMemory, notes: bytes = b"", *, bits: int = 64, many: bool = False, size: int | None = None
) -> bytes:
    """Return an ELF core; with *many* the number of program headers stands in a section header."""
    runs = memory_runs(machine, size)
    wide = bits == 64
    header_size, entry = (64, 56) if wide else (52, 32)
    count = len(runs) + 1
    at = header_size + entry * count
    sections = at if many else 0
    at += (64 if wide else 40) if many else 0
    table = [(4, at, 0, len(notes))]
    at += len(notes)
    for start, data in runs:
        at = -(-at // _PAGE) * _PAGE
        table.append((1, at, start, len(data)))
        at += len(data)
    stated = 0xFFFF if many else count
    ident = b"\x7fELF" + bytes([2 if wide else 1, 1, 1]) + bytes(9)
    machine_number = 62 if wide else 3
    if wide:
        out = bytearray(
            ident
            + struct.pack("<HHIQQQIHHHHHH", 4, machine_number, 1, 0, 64, sections, 0, 64, 56, stated, 64, int(many), 0)
        )
        out += b"".join(
            struct.pack("<IIQQQQQQ", kind, 0, offset, 0, address, size, size, 0)
            for kind, offset, address, size in table
        )
    else:
        out = bytearray(
            ident
            + struct.pack("<HHIIIIIHHHHHH", 4, machine_number, 1, 0, 52, sections, 0, 52, 32, stated, 40, int(many), 0)
        )
        out += b"".join(
            struct.pack("<8I", kind, offset, 0, address, size, size, 0, 0) for kind, offset, address, size in table
        )
    if many:
        section = bytearray(64 if wide else 40)
        struct.pack_into("<I", section, 44 if wide else 28, count)
        out += section
    out += notes
    for (_, offset, _, _), (_, data) in zip(table[1:], runs, strict=True):
        out += bytes(offset - len(out)) + data
    return bytes(out)


def vmware_files(machine: MachineMemory, size: int | None = None) -> tuple[bytes, bytes]:
    """Return a ``.vmem``, which holds the runs one after the other, last first, and the saved state that says so."""
    regions: list[tuple[int, int, int]] = []
    memory = bytearray()
    for start, data in reversed(memory_runs(machine, size)):
        regions.append((start // _PAGE, len(memory) // _PAGE, len(data) // _PAGE))
        memory += data
    return bytes(memory), vmware_state(regions)


def vmware_state(regions: Iterable[tuple[int, int, int]], *, magic: bytes = b"\xd2\xbe\xd2\xbe") -> bytes:
    """Return a saved state with the *regions* of memory: first page, page in the ``.vmem``, pages."""
    regions = list(regions)
    long = struct.pack("<I" if magic[0] & 0xF == 0 else "<Q", 5)
    tags = _tag(b"MainMem", (0, 0), b"", 63, long + long + b"\0\0" + b"12345")
    tags += _tag(b"align_mask", (), struct.pack("<H", 0xFFFF), 2)
    tags += _tag(b"regionsCount", (), struct.pack("<I", len(regions)), 4)
    for index, region in enumerate(regions):
        for name, value in zip((b"regionPPN", b"regionPageNum", b"regionSize"), region, strict=True):
            tags += _tag(name, (index,), struct.pack("<I", value), 4)
    tags += b"\0\0"
    groups = (b"cpu", b"memory")
    start = 12 + 80 * len(groups)
    cpu = _tag(b"cpu", (0,), struct.pack("<Q", 7), 8) + b"\0\0"
    table = struct.pack("<64sQQ", groups[0], start, len(cpu)) + struct.pack(
        "<64sQQ", groups[1], start + len(cpu), len(tags)
    )
    return magic + struct.pack("<II", 8, len(groups)) + table + cpu + tags


def _tag(name: bytes, indexes: tuple[int, ...], value: bytes, size: int, stream: bytes = b"") -> bytes:
    return (
        bytes([size | len(indexes) << 6, len(name)])
        + name
        + struct.pack(f"<{len(indexes)}I", *indexes)
        + (stream or value)
    )
