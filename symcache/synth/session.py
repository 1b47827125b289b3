"""A kernel session of Windows Server 2008 to rehearse with: the modules' images, their PDBs, and a dump of the machine.

Names and builds are those of a real session, whose secdrv.pdb has never been published. All other identities are made
up here, so that no file of a rehearsal can stand in for one of Microsoft's.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from pathlib import PureWindowsPath
from struct import iter_unpack, pack
from typing import TYPE_CHECKING
from uuid import UUID

from symcache.identity import ImageKey, PdbKey

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


PAGE_BYTES = 0x1000
_PE_OFFSET = 0x80
_CODE, _READ_ONLY_DATA = 0x60000020, 0x40000040
_DEBUG_ENTRY_BYTES = 28


def make_image(pdb: PdbKey, timestamp: int, code_bytes: int) -> bytes:
    """Return an x86 driver of code that does not compress: a page of headers, the code, a page that names *pdb*.

    Its sections are aligned to pages, so that file and mapped image are the same bytes.
    Source: MicrosoftDocs/win32 pe-format.md; dotnet/runtime PE-COFF.md for the code view record.
    """
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


_MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"
_BLOCK_BYTES = 4096
_NONE = 0xFFFF
_RECORDS, _PUBLICS, _SECTIONS = 5, 6, 7
_X86 = 0x14C


def make_pdb(key: PdbKey, timestamp: int, *, symbol: str, offset: int, payload_bytes: int) -> bytes:
    """Return the PDB of an x86 driver, as it is published, whose first section has *symbol* at *offset*.

    Streams: 0 old directory (empty), 1 information, 2 types, 3 debug information, 4 ids, 5 symbol records, 6 public
    symbols, 7 section headers, 8 payload, which does not compress.
    Source: LLVM's pages on the PDB streams; microsoft-pdb, gsi.h and misc.h, for the index of public symbols.
    """
    no_types = pack("<5IHHII6I", 20040203, 56, 0x1000, 0x1000, 0, _NONE, _NONE, 4, 0x3FFFF, *[0] * 6)
    named_streams = pack("<IIIII", 0, 0, 1, 0, 0)
    info = pack("<III", 20000404, timestamp, key.age) + key.guid.bytes_le + named_streams + pack("<I", 20140508)
    record = pack("<HIIH", 0x110E, 2, offset, 1) + symbol.encode() + b"\0"  # S_PUB32 of a function
    record += bytes(-(len(record) + 2) % 4)
    section = pack("<8sIIIIIIHHI", b".text", 1 << 24, 0x1000, 1 << 24, 0x400, 0, 0, 0, 0, 0x60000020)
    return _make_msf(
        [
            b"",
            info,
            no_types,
            _make_debug_information(key.age),
            no_types,
            pack("<H", len(record)) + record,
            _make_index(symbol),
            section,
            hashlib.shake_128(key.guid.bytes).digest(payload_bytes),
        ]
    )


def _make_debug_information(age: int) -> bytes:
    """Return header (64 bytes), one module without symbols of its own, no files, no names, numbers of debug streams."""
    module = pack("<IHHIIIHHII", 0, 1, 0, 0, 0, 0x60000020, 0, 0, 0, 0)
    module += pack("<HHIIIHHIII", 0, _NONE, 0, 0, 0, 0, 0, 0, 0, 0) + b"synth.obj\0synth.obj\0"
    module += bytes(-len(module) % 4)
    files = pack("<HHHH", 1, 0, 0, 0)
    names = pack("<7I", 0xEFFEEFFE, 1, 4, 0, 1, 0, 0)
    debug = pack("<11H", *[_NONE] * 5, _SECTIONS, *[_NONE] * 5)
    return (
        pack("<iIIHHHHHH", -1, 19990903, age, _NONE, 0x8E00, _PUBLICS, 0, _RECORDS, 0)
        + pack("<8I", len(module), 0, 0, len(files), 0, 0, len(debug), len(names))
        + pack("<HHI", 2, _X86, 0)  # private symbols are stripped
        + module
        + files
        + names
        + debug
    )


def _make_index(symbol: str) -> bytes:
    """Return what finds the one public symbol by name and by address.

    Layout: hash bytes u32, address map bytes u32, fields for thunks (20); the hash {-1, version, bytes of its records,
    bytes of its buckets, record {offset + 1, 1}, a bit for each of 4097 buckets that is not empty, the start of each
    of these}; offsets of records in the order of their addresses.
    """
    bucket = _hash_name(symbol)
    bits = bytearray(4 * 129)
    bits[bucket // 8] = 1 << bucket % 8
    buckets = bytes(bits) + pack("<I", 0)
    table = pack("<IIIIII", 0xFFFFFFFF, 0xF12F091A, 8, len(buckets), 1, 1) + buckets
    return pack("<II20x", len(table), 4) + table + pack("<I", 0)


def _hash_name(name: str) -> int:
    """Return the bucket of a name: its words and what is left of it, combined, mixed and reduced."""
    data = name.encode()
    whole = len(data) // 4 * 4
    result = 0
    for (word,) in iter_unpack("<I", data[:whole]):
        result ^= word
    rest = data[whole:]
    if len(rest) >= 2:
        result ^= int.from_bytes(rest[:2], "little")
        rest = rest[2:]
    if rest:
        result ^= rest[0]
    result |= 0x20202020
    result ^= result >> 11
    result ^= result >> 16
    return result % 4096


def _make_msf(streams: list[bytes]) -> bytes:
    """Return an MSF 7 file: superblock, two free block maps, streams, their directory, its block map.

    Source: LLVM's "The MSF File Format". Without another pair of free block maps it has at most 4096 blocks.
    """
    blocks: list[bytes] = []

    def put(content: bytes) -> list[int]:
        first = 3 + len(blocks)
        pieces = (content[at : at + _BLOCK_BYTES] for at in range(0, len(content), _BLOCK_BYTES))
        blocks.extend(piece.ljust(_BLOCK_BYTES, b"\0") for piece in pieces)
        return list(range(first, 3 + len(blocks)))

    numbers = [number for content in streams for number in put(content)]
    sizes = [len(content) for content in streams]
    directory = pack(f"<{1 + len(sizes) + len(numbers)}I", len(sizes), *sizes, *numbers)
    directory_blocks = put(directory)
    (map_block,) = put(pack(f"<{len(directory_blocks)}I", *directory_blocks))
    total = 3 + len(blocks)
    if total > _BLOCK_BYTES:
        raise ValueError(f"{total} blocks are more than one pair of free block maps knows")
    head = _MAGIC + pack("<6I", _BLOCK_BYTES, 1, total, len(directory), 0, map_block)
    used = bytes(total // 8) + bytes([0xFF << total % 8 & 0xFF])
    free_map = used.ljust(_BLOCK_BYTES, b"\xff")
    return b"".join([head.ljust(_BLOCK_BYTES, b"\0"), free_map, free_map, *blocks])


_FIRST_PFN = 0x100
_KERNEL, _DRIVERS, _POOL = 0x81800000, 0x82000000, 0x85000000
_VARIABLES = _KERNEL + 0x20000
_LOADED_MODULES, _ACTIVE_PROCESSES = _VARIABLES + 0x100, _VARIABLES + 0x140
_UNLOADED_DRIVERS, _LAST_UNLOADED, _BUILD_LAB = _VARIABLES + 0x180, _VARIABLES + 0x188, _VARIABLES + 0x200
_DEBUGGER_DATA = _VARIABLES + 0x400
_PRESENT, _TABLE, _MAPPED_PAGE = 0x1, 0x3, 0x63
_PAGED_OUT = 0x0012345600000080
_HEADER_BYTES = 0x1000
# dbgeng does not read as many bytes at the end of a dump with a bitmap as stand before its first page, which Windows
# always fills with what drivers leave there.
_SECONDARY_BYTES = 0x10000
_ENTRY_OFFSET = 0x40  # of each driver's one symbol in its code


@dataclass(frozen=True, slots=True)
class Driver:
    """A module of the kernel."""

    path: str
    image: bytes
    is_paged_out: bool  # only its headers were in memory


@dataclass(frozen=True, slots=True)
class Crash:
    """What a dump says of machine and crash; *time* is a FILETIME, *uptime* counts 100 ns."""

    build: int
    build_lab: str
    bugcheck: int
    product_type: int
    time: int
    uptime: int
    stack: tuple[int, ...]  # numbers of the drivers that the calls on the stack return to, the innermost call first


class _Memory:
    """Physical pages in a row, and the kernel's address space in them."""

    def __init__(self) -> None:
        self.pages: list[bytearray] = []
        self.root = self._add_page()
        self._free = _POOL

    def _add_page(self) -> int:
        """Return the physical address of a new page of zeros."""
        self.pages.append(bytearray(PAGE_BYTES))
        return (_FIRST_PFN + len(self.pages) - 1) * PAGE_BYTES

    def _locate(self, table: int, index: int) -> tuple[bytearray, int]:
        return self.pages[table // PAGE_BYTES - _FIRST_PFN], index * 8

    def _follow(self, table: int, index: int, flags: int) -> int:
        """Return where an entry of a page table leads, which is made if there is none."""
        page, at = self._locate(table, index)
        (entry,) = struct.unpack_from("<Q", page, at)
        if not entry:
            entry = self._add_page() | flags
            struct.pack_into("<Q", page, at, entry)
        return int(entry & -PAGE_BYTES)

    def _page_table(self, address: int) -> int:
        return self._follow(self._follow(self.root, address >> 30, _PRESENT), address >> 21 & 511, _TABLE)

    def write(self, address: int, data: bytes) -> None:
        """Put *data* at a virtual address, mapping pages where there are none."""
        while data:
            frame = self._follow(self._page_table(address), address >> 12 & 511, _MAPPED_PAGE)
            page, _ = self._locate(frame, 0)
            start = address % PAGE_BYTES
            piece = data[: PAGE_BYTES - start]
            page[start : start + len(piece)] = piece
            address += len(piece)
            data = data[len(piece) :]

    def write_out(self, address: int) -> None:
        """Make the page at *address* one of the page file."""
        page, at = self._locate(self._page_table(address), address >> 12 & 511)
        struct.pack_into("<Q", page, at, _PAGED_OUT)

    def store(self, data: bytes) -> int:
        """Return where in the kernel's pool *data* was put."""
        at = self._free
        self.write(at, data)
        self._free = round_up(at + len(data), 16)
        return at

    def store_text(self, text: str) -> bytes:
        """Return the UNICODE_STRING of *text*."""
        raw = text.encode("utf-16-le")
        return struct.pack("<HHI", len(raw), len(raw) + 2, self.store(raw + b"\0\0"))

    def link(self, head: int, entries: Sequence[int]) -> None:
        """Write the links of a doubly linked list."""
        ring = [head, *entries]
        for index, at in enumerate(ring):
            self.write(at, struct.pack("<II", ring[(index + 1) % len(ring)], ring[index - 1]))


def make_kernel_dump(drivers: Sequence[Driver], crash: Crash) -> bytes:
    """Return a dump that Windows before 8 would have written of an x86 machine with PAE.

    It has page tables, the kernel's lists, the stack of the crash and the images of *drivers*, of which the first is
    the kernel, above 132 KiB.

    Source: Windows SDK mindumpdef.h (DUMP_HEADER32) and winnt.h (CONTEXT); Ghidra's SummaryHeader for the bitmap of
    Windows before 8; Intel SDM volume 3 chapter 4; public symbols of Windows Server 2008 (KLDR_DATA_TABLE_ENTRY,
    EPROCESS, KDDEBUGGER_DATA64).
    """
    memory = _Memory()
    bases = _load(memory, drivers)
    _write_variables(memory, crash)
    _write_system_process(memory)
    calls = [bases[number] + PAGE_BYTES + _ENTRY_OFFSET for number in crash.stack]
    stack = memory.store(struct.pack(f"<{len(calls)}I", *calls))
    bitmap = _bitmap_header(len(memory.pages))
    body = bitmap + b"".join(memory.pages) + bytes(_SECONDARY_BYTES)
    context = _context(_KERNEL + PAGE_BYTES + _ENTRY_OFFSET, stack)
    return _header(crash, memory.root, _FIRST_PFN + len(memory.pages), context) + body


def _context(instruction: int, stack: int) -> bytes:
    """Return the registers that a debugger, and whoever looks for the stack, needs; flags ask for all of them."""
    context = bytearray(716)
    struct.pack_into("<I", context, 0, 0x1003F)
    struct.pack_into("<I", context, 0xB8, instruction)
    struct.pack_into("<I", context, 0xC4, stack)
    return bytes(context)


def _load(memory: _Memory, drivers: Sequence[Driver]) -> list[int]:
    """Map the images, and list them as PsLoadedModuleList does; return where they are."""
    entries, bases = [], []
    base = _KERNEL
    for driver in drivers:
        memory.write(base, driver.image)
        if driver.is_paged_out:
            for address in range(base + PAGE_BYTES, base + len(driver.image), PAGE_BYTES):
                memory.write_out(address)
        names = memory.store_text(driver.path) + memory.store_text(driver.path.rpartition("\\")[2])
        entry = struct.pack("<24xIII", base, base + PAGE_BYTES, len(driver.image)) + names
        entries.append(memory.store(entry.ljust(0x54, b"\0")))
        bases.append(base)
        base = max(round_up(base + len(driver.image), 0x10000), _DRIVERS)
    memory.link(_LOADED_MODULES, entries)
    return bases


def _write_variables(memory: _Memory, crash: Crash) -> None:
    """Write the kernel's debugger data block, and those variables that no list needs."""
    unloaded = memory.store(bytes(50 * 24))
    memory.write(_UNLOADED_DRIVERS, struct.pack("<I", unloaded))
    memory.write(_LAST_UNLOADED, bytes(4))
    memory.write(_BUILD_LAB, crash.build_lab.encode() + b"\0")
    block = bytearray(0x380)
    struct.pack_into("<4sI", block, 0x10, b"KDBG", len(block))
    struct.pack_into("<H", block, 0x36, 1)  # PaeEnabled
    struct.pack_into("<HHH", block, 0x2AA, 0x1A8, 0, 0x18)  # Peb and DirectoryTableBase in EPROCESS
    for offset, address in (
        (0x18, _KERNEL),
        (0x48, _LOADED_MODULES),
        (0x50, _ACTIVE_PROCESSES),
        (0x208, _BUILD_LAB),
        (0x220, _UNLOADED_DRIVERS),
        (0x228, _LAST_UNLOADED),
    ):
        struct.pack_into("<q", block, offset, address - (1 << 32))  # extended by its sign
    memory.write(_DEBUGGER_DATA, bytes(block))


def _write_system_process(memory: _Memory) -> None:
    process = bytearray(0x300)
    process[0] = 3  # a process, of the kinds of objects
    struct.pack_into("<I", process, 0x18, memory.root)
    struct.pack_into("<I", process, 0xB4, 4)
    process[0x16C:0x172] = b"System"
    memory.link(_ACTIVE_PROCESSES, [memory.store(bytes(process)) + 0xB8])


def _bitmap_header(pages: int) -> bytes:
    """Return what says which pages follow: those from the first on.

    Layout: ``SDMPDUMP``, u32 1, offset of the first page, bits, pages present, then RTL_BITMAP {bits, pointer} and the
    bits, least significant first.
    """
    bits = _FIRST_PFN + pages
    bitmap = (((1 << pages) - 1) << _FIRST_PFN).to_bytes(-(-bits // 8), "little")
    size = round_up(0x20 + len(bitmap), PAGE_BYTES)
    header = struct.pack("<8sIIIIII", b"SDMPDUMP", 1, _HEADER_BYTES + size, bits, pages, bits, 0x80001000)
    return (header + bitmap).ljust(size, b"\0")


def _header(crash: Crash, root: int, end_pfn: int, context: bytes) -> bytes:
    """Return the header; what is not set holds the fill pattern, as Windows leaves it."""
    raw = bytearray(b"PAGE" * (_HEADER_BYTES // 4))
    raw[4:8] = b"DUMP"
    struct.pack_into("<II", raw, 0x08, 0xF, crash.build)
    struct.pack_into("<I", raw, 0x10, root)
    struct.pack_into("<II", raw, 0x18, _LOADED_MODULES, _ACTIVE_PROCESSES)
    struct.pack_into("<III", raw, 0x20, 0x14C, 2, crash.bugcheck)
    struct.pack_into("<4I", raw, 0x2C, 0, 0, 0, 0)
    struct.pack_into("<BxxxI", raw, 0x5C, 1, _DEBUGGER_DATA)
    struct.pack_into("<IIII", raw, 0x64, 1, end_pfn - 1, 1, end_pfn - 1)  # one run of physical memory, from page 1
    raw[0x320 : 0x320 + len(context)] = context
    struct.pack_into("<I", raw, 0xF88, 2)  # a kernel memory dump
    struct.pack_into("<I", raw, 0xF94, crash.product_type)
    struct.pack_into("<QQ", raw, 0xFB8, crash.uptime, crash.time)
    return bytes(raw)


_LINKED = 0x47918A00  # January 2008
_CRASH = Crash(
    build=6001,
    build_lab="6001.18000.x86fre.longhorn_rtm.080118-1840",
    bugcheck=0xE2,  # MANUALLY_INITIATED_CRASH
    product_type=3,  # a server
    time=0x1C8872C_5E0F4000,  # March 2008
    uptime=3_600 * 10_000_000,
    stack=(0, 5, 4, 0),  # the kernel, which secdrv and PEAuth led to
)


@dataclass(frozen=True, slots=True)
class SessionModule:
    """One module of the session; one that is paged out had only its headers in memory, and no server has a copy."""

    path: str  # where the loader found it
    timestamp: int
    pdb: PdbKey
    code_bytes: int
    symbols_bytes: int  # what makes the PDB large
    is_published: bool = True  # image and PDB
    is_paged_out: bool = False

    @property
    def image(self) -> ImageKey:
        """Identity of the image."""
        return ImageKey(PureWindowsPath(self.path).name, self.timestamp, len(self.make_image()))

    def make_image(self) -> bytes:
        """Return the image, in a file and in memory."""
        return make_image(self.pdb, self.timestamp, self.code_bytes)

    def make_pdb(self) -> bytes:
        """Return the PDB, with public symbols alone, as they are published."""
        entry = f"_{self.pdb.name.partition('.')[0]}Entry@8"
        return make_pdb(self.pdb, self.timestamp, symbol=entry, offset=_ENTRY_OFFSET, payload_bytes=self.symbols_bytes)


def _module(
    path: str, pdb: str, code_bytes: int, symbols_bytes: int, age: int = 1, *, is_paged_out: bool = False
) -> SessionModule:
    digest = hashlib.sha256(f"symcache session {pdb}".encode()).digest()
    key = PdbKey(pdb, UUID(bytes=digest[:16]), age)
    return SessionModule(path, _LINKED + digest[16], key, code_bytes, symbols_bytes, is_paged_out=is_paged_out)


SESSION = (
    _module("\\SystemRoot\\system32\\ntkrnlpa.exe", "ntkrpamp.pdb", 1_800_000, 4_200_000, 2),
    _module("\\SystemRoot\\system32\\hal.dll", "halmacpi.pdb", 190_000, 760_000),
    _module("\\SystemRoot\\system32\\kdcom.dll", "kdcom.pdb", 14_000, 50_000),
    _module("\\SystemRoot\\System32\\drivers\\tcpip.sys", "tcpip.pdb", 600_000, 1_900_000, is_paged_out=True),
    _module("\\SystemRoot\\system32\\drivers\\peauth.sys", "PEAuth.pdb", 500_000, 1_100_000),
    SessionModule(
        "\\SystemRoot\\System32\\Drivers\\secdrv.SYS",
        0x45080528,
        PdbKey("secdrv.pdb", UUID("7578144C-39C4-4683-94EF-84F01549113A"), 3),
        20_000,
        40_000,
        is_published=False,
    ),
    _module("\\SystemRoot\\System32\\drivers\\tcpipreg.sys", "tcpipreg.pdb", 28_000, 90_000),
)
"""The modules in the order of the loader's list, the kernel first."""


def make_published() -> dict[str, bytes]:
    """Return the files that a public server has of the session, images and PDBs, by index."""
    files = {}
    for module in SESSION:
        if module.is_published:
            files[module.image.index] = module.make_image()
            files[module.pdb.index] = module.make_pdb()
    return files


def write_inputs(folder: Path) -> tuple[Path, Path]:
    """Write what someone has after the crash into *folder*; return the folder of images and the dump."""
    images = folder / "drivers"
    images.mkdir(parents=True)
    for module in SESSION:
        if not module.is_paged_out:
            (images / module.image.name).write_bytes(module.make_image())
    dump = folder / "MEMORY.DMP"
    drivers = [Driver(module.path, module.make_image(), module.is_paged_out) for module in SESSION]
    with dump.open("xb") as file:
        file.write(make_kernel_dump(drivers, _CRASH))
    return images, dump
