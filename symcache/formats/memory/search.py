"""Where Windows lies in physical memory: the root of its page tables, and what else is seen on the way there."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING

from symcache.errors import InputError
from symcache.formats.dump.kernel import KERNEL_PDBS
from symcache.formats.dump.paging import ARM64, PAE, X64, X64_LA57, X86, AddressSpace, PageTables

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.dump.paging import PagingMode
    from symcache.formats.memory.elfcore import Registers
    from symcache.formats.memory.ranges import MachineMemory

_PAGE = 0x1000
_BLOCK_BYTES = 4 << 20
_LOWEST_ROOT = 0x10000
_ZEROS = bytes(_BLOCK_BYTES)
# Every process has a root that maps itself, the first one's lies low: memory of Windows shows one long before this.
_SEARCHED_BYTES = 8 << 30
_TRACED_BYTES = 1 << 30
_TOLD_BYTES = 2 << 30
_MOST_TESTED = 4096
_MOST_DIRECTORIES = 8
_POINTER_TABLE_BYTES = 1 << 30
_LOW_STUB_END = 1 << 20
_MOST_RECORDS = 16
_FOREIGN = ((b"Linux version ", "Linux"), (b"Darwin Kernel Version ", "macOS"))

_WIDE_MODES = (X64, X64_LA57, ARM64)
_NARROW_MODES = (PAE, X86)


@dataclass(frozen=True, slots=True)
class SharedData:
    """What Windows tells every process of itself, in KUSER_SHARED_DATA."""

    major: int
    minor: int
    build: int  # 0 before Windows 10, which does not say it there
    product_type: int  # see `symcache.formats.dump.header.PRODUCTS`
    system_root: str
    system_time: int  # of the clock, in 100 ns since 1601 UTC
    uptime: int  # in 100 ns


@dataclass(frozen=True, slots=True)
class Root:
    """A root of page tables that map Windows."""

    space: AddressSpace
    shared: SharedData
    found_by: str
    pointers: tuple[int, ...] = ()  # addresses that lie in the kernel's image, or near


def _read_shared_data(space: AddressSpace) -> SharedData | None:
    """Return what KUSER_SHARED_DATA says, if *space* has one.

    Layout: interrupt time at 8, system time at 0x14, both {u32, i32, i32}; path of Windows, UTF-16, at 0x30; build u32
    at 0x260, product type u32 at 0x264, version u32 at 0x26C and 0x270.
    Source: ntddk.h, KUSER_SHARED_DATA; windows-driver-docs for its addresses.
    """
    try:
        raw = space.read(0xFFDF0000 if space.size == 1 << 32 else 0xFFFFF78000000000, 0x274)
    except InputError:
        return None
    build, product, major, minor = struct.unpack_from("<II4xII", raw, 0x260)
    root = raw[0x30 : 0x30 + 520].decode("utf-16-le", "replace").partition("\0")[0]
    if major not in {5, 6, 10} or minor > 9 or not 1 <= product <= 3 or root[1:3] != ":\\" or not root.isprintable():
        return None
    uptime, clock = (struct.unpack_from("<Q", raw, at)[0] for at in (0x08, 0x14))
    return SharedData(major, minor, (build & 0xFFFF) if major == 10 else 0, product, root, clock, uptime)


class RootSearch:
    """Looks for roots of page tables that map Windows, see `roots`; *searched_bytes* counts how far it came."""

    def __init__(self, memory: MachineMemory, registers: Iterable[Registers] = ()) -> None:
        self._memory = memory
        self._registers = tuple(registers)
        self._tables = PageTables(memory)
        self._tested: set[tuple[str, int]] = set()
        self.searched_bytes = 0

    def roots(self) -> Iterator[Root | None]:
        """Yield roots, likeliest first: of the processors' registers, of the low stub, then by address.

        After every 2 GiB in which none was found, None says that it takes long.

        A root is one where KUSER_SHARED_DATA is mapped and says what can be. Candidates beside those are pages with an
        entry that leads to the page itself, through which Windows edits its page tables: one of the upper half on x64
        and ARM64, number 0x300 on x86, number 3 of the last of the four directories with PAE, which are named by the
        root. At most 8 GiB are looked at.

        Source: volatility3 (self maps) and MemProcFS (PROCESSOR_START_BLOCK: jump at 0, entry of the kernel at 0x70,
        CR3 at 0xA0).
        """
        for each in self._registers:
            for root in self._test(each.root, (*_WIDE_MODES, *_NARROW_MODES), "a processor's registers"):
                yield Root(root.space, root.shared, root.found_by, _gate_pointers(root.space, each.interrupts))
        directories = 0
        told_bytes = _TOLD_BYTES
        for address, data in self._blocks():
            if self.searched_bytes >= told_bytes:
                told_bytes += _TOLD_BYTES
                yield None
            if address < _LOW_STUB_END:
                yield from self._low_stubs(address, data)
            for kind, page, at in _self_maps(address, data):
                if len(self._tested) >= _MOST_TESTED:
                    return
                if kind is not PAE:
                    modes = _WIDE_MODES if kind is X64 else (kind,)
                    yield from self._test(page, modes, "page tables that map themselves")
                elif directories < _MOST_DIRECTORIES:
                    tables = struct.unpack_from("<4Q", data, at)
                    if all(table & 1 and not table & 0xFFF0000000000000 for table in tables) and len(set(tables)) == 4:
                        directories += 1
                        for root_at in self._pointer_tables([table & PAE.frame_mask for table in tables]):
                            yield from self._test(root_at, (PAE,), "page tables that map themselves")

    def _test(self, root: int, modes: Iterable[PagingMode], found_by: str) -> Iterator[Root]:
        for mode in modes:
            space = AddressSpace(self._tables, mode, root)
            mark = mode.name, space.root
            if mark in self._tested or not space.root:
                continue
            self._tested.add(mark)
            shared = _read_shared_data(space)
            if shared is not None:
                yield Root(space, shared, found_by)

    def _low_stubs(self, address: int, data: bytes) -> Iterator[Root]:
        for at in range(-address % _PAGE, min(len(data) - 0xA8, _LOW_STUB_END - address), _PAGE):
            jump = int.from_bytes(data[at : at + 8], "little")
            if jump & 0xFFFFFFFFFFFF00FF != 0x00000001000600E9:
                continue
            target, root_at = (int.from_bytes(data[at + place : at + place + 8], "little") for place in (0x70, 0xA0))
            for root in self._test(root_at, _WIDE_MODES, "the start block of its processors"):
                yield Root(root.space, root.shared, root.found_by, (target,))

    def _pointer_tables(self, directories: list[int]) -> Iterator[int]:
        """Yield where the four pointers to *directories* lie together, at most eight times."""
        needle = struct.pack("<4Q", *(directory | 1 for directory in directories))
        found = 0
        for address, data in read_blocks(self._memory, _POINTER_TABLE_BYTES):
            at = data.find(needle)
            while at >= 0:
                if (address + at) % 32 == 0:
                    yield address + at
                    found += 1
                    if found == _MOST_DIRECTORIES:
                        return
                at = data.find(needle, at + 1)

    def _blocks(self) -> Iterator[tuple[int, bytes]]:
        for address, data in read_blocks(self._memory, _SEARCHED_BYTES):
            self.searched_bytes += len(data)
            yield address, data


@dataclass(frozen=True, slots=True)
class Traces:
    """What is seen in memory without page tables."""

    kernel_records: tuple[int, ...]  # physical addresses of code view records that name a kernel's PDB
    foreign: str | None  # the name of another system, whose banner is there


def find_traces(memory: MachineMemory) -> Traces:
    """Return what the first GiB of *memory* hold of kernels; for memory in which no page tables are found."""
    names = frozenset(name.encode() for name in KERNEL_PDBS)
    records: list[int] = []
    foreign: str | None = None
    for address, data in read_blocks(memory, _TRACED_BYTES):
        at = data.find(b"RSDS")
        while at >= 0 and len(records) < _MOST_RECORDS:
            if data[at + 24 : at + 37].lower().rstrip(b"\0") in names:
                records.append(address + at)
            at = data.find(b"RSDS", at + 4)
        foreign = foreign or next((name for banner, name in _FOREIGN if banner in data), None)
        if records or foreign:
            break
    return Traces(tuple(records), foreign)


def read_blocks(memory: MachineMemory, most_bytes: int) -> Iterator[tuple[int, bytes]]:
    """Yield address and bytes of what *memory* holds, by address, at most 4 MiB at a time; zeros are passed over.

    At most *most_bytes* are read.
    """
    address = 0
    while most_bytes > 0 and (found := memory.find_bytes(address)) is not None:
        start, length = found
        length = min(length, _BLOCK_BYTES - start % _BLOCK_BYTES)
        try:
            data = memory.read(start, length)
        except InputError:
            data = b""
        if data and data != _ZEROS[: len(data)]:
            yield start, data
        address = start + length
        most_bytes -= length


def _self_maps(address: int, data: bytes) -> Iterator[tuple[PagingMode, int, int]]:
    """Yield kind, physical address and place in *data* of pages that could be a root which maps itself.

    `X64` stands for all kinds with entries of 8 bytes but `PAE`, of which the page is the last directory.
    """
    first = -address % _PAGE
    length = max(len(data) - first, 0) // _PAGE * _PAGE
    places = (0xF78, 0xF7E, 0xFF8, 0xFFE, 0xFFC, 0xC00, 0xFF0, 0x18)
    # Entries that lead to KUSER_SHARED_DATA are looked at first: most pages that are none fail there.
    columns = [data[first + place : first + length : _PAGE] for place in places]
    for index, (four, four_high, five, five_high, x86, x86_self, pae, pae_self) in enumerate(
        zip(*columns, strict=True)
    ):
        wide = (four & 1 and not four_high & 0xF) or (five & 1 and not five_high & 0xF)
        if not (wide or x86 & x86_self & 1 or pae & pae_self & 1):
            continue
        at = first + index * _PAGE
        page = address + at
        frame, low = (page >> 16).to_bytes(6, "little")[:4], page >> 8 & 0xF0
        if wide and page >= _LOWEST_ROOT and _leads_to_itself(data, at, frame, low):
            yield X64, page, at
        if x86 & x86_self & 1 and data[at + 0xC02 : at + 0xC04] == frame[:2] and data[at + 0xC01] & 0xF0 == low:
            yield X86, page, at
        if pae & pae_self & 1 and data[at + 0x1A : at + 0x1E] == frame and data[at + 0x19] & 0xF0 == low:
            yield PAE, page, at


def _leads_to_itself(data: bytes, at: int, frame: bytes, low: int) -> bool:
    """Say whether a valid entry of the upper half leads to the page *at* itself: to bits 16 to 47, and 12 to 15."""
    found = data.find(frame, at + 0x802, at + _PAGE)
    while found >= 0:
        if (found - at) % 8 == 2 and data[found - 2] & 1 and data[found - 1] & 0xF0 == low:
            return True
        found = data.find(frame, found + 1, at + _PAGE)
    return False


def _gate_pointers(space: AddressSpace, table: int) -> tuple[int, ...]:
    """Return the addresses that the first interrupt gates lead to.

    Layout, x64: 16 bytes {offset u16, selector u16, u16, offset u16, offset u32, u32}; x86: the first 8 of them.
    Source: Intel SDM volume 3, "IDT Descriptors".
    """
    wide = space.size > 1 << 32
    size = 16 if wide else 8
    try:
        raw = space.read(table, 8 * size)
    except InputError:
        return ()
    found = []
    for at in range(0, len(raw), size):
        low, middle, high = (
            struct.unpack_from("<H4xHI", raw, at) if wide else (*struct.unpack_from("<H4xH", raw, at), 0)
        )
        found.append(low | middle << 16 | high << 32)
    return tuple(islice((pointer for pointer in dict.fromkeys(found) if pointer >= space.mode.kernel_start), 2))
