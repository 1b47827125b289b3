"""Builds the memory of a Windows machine: kernel, drivers, processes and the lists that lead to them.

Source: public symbols of Windows (KLDR_DATA_TABLE_ENTRY, LDR_DATA_TABLE_ENTRY, EPROCESS, PEB, KDDEBUGGER_DATA64).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from support.synth.pagetables import Paging, PhysicalPages, VirtualMemory
from support.synth.pe import memory_bytes

if TYPE_CHECKING:
    from support.synth.pe import ImagePlan

__all__ = [
    "KERNEL_SYMBOLS",
    "DriverPlan",
    "EprocessPlan",
    "KernelPlan",
    "MachineMemory",
    "ProcessPlan",
    "UnloadedPlan",
    "build_machine",
    "eprocess_of",
]

_PAGE = 0x1000
_SESSION_PROCESSES = frozenset(["csrss.exe", "winlogon.exe", "explorer.exe"])


@dataclass(frozen=True, slots=True)
class DriverPlan:
    r"""A module: a driver, or a library of a process.

    Attributes:
        path: Full path (``\\SystemRoot\\system32\\hal.dll``).
        image: What the image holds.
        base: Where it is loaded; None for the next free place.
        base_name: Name in the loader's entry; None takes it from *path*.
        in_session: Mapped in the address spaces of sessions only.
        loader_size: Size that the loader states; None for the image's.
    """

    path: str
    image: ImagePlan
    base: int | None = None
    base_name: str | None = None
    in_session: bool = False
    loader_size: int | None = None

    @property
    def name(self) -> str:
        """Base name."""
        return self.base_name or self.path.replace("/", "\\").rpartition("\\")[2]


@dataclass(frozen=True, slots=True)
class UnloadedPlan:
    """A driver that had been unloaded."""

    name: str
    start: int
    end: int


@dataclass(frozen=True, slots=True)
class ProcessPlan:
    """A process.

    Attributes:
        id: Process id.
        name: File name; cut to 14 characters in memory.
        modules: What its loader lists; without any it has no environment block.
        modules32: What its 32-bit loader lists; a 32-bit process on a 64-bit machine has some.
    """

    id: int
    name: str
    modules: tuple[DriverPlan, ...] = ()
    modules32: tuple[DriverPlan, ...] = ()


@dataclass(frozen=True, slots=True)
class EprocessPlan:
    """Offsets in EPROCESS."""

    links: int
    image_file_name: int
    peb: int
    wow64_process: int
    size: int


@dataclass(frozen=True, slots=True)
class KernelPlan:
    """A machine.

    Attributes:
        drivers: Modules in list order; the kernel is the first.
        paging: Its page tables, and with them the processor.
        build: Windows build number; from 10240 on loader entries have time stamps.
        unloaded: Drivers that had been unloaded, oldest first.
        processes: Beside ``System``, which is always there.
        large_kernel: Map the kernel with large pages.
        debugger_data: Write the kernel's debugger data block.
        eprocess: Offsets in EPROCESS; None for those of the build.
        build_lab: Text of NtBuildLab.
        first_pfn: Where its physical pages begin.
        gap_every: Leave a hole in physical memory after that many pages; 0 for none.
        searchable: Write what leads to the kernel where no header does: page tables that map themselves, and
            KUSER_SHARED_DATA.
        low_stub: Write the block that starts processors, at 0x13000; x64 alone.
    """

    drivers: tuple[DriverPlan, ...]
    paging: Paging = Paging.X64
    build: int = 19041
    unloaded: tuple[UnloadedPlan, ...] = ()
    processes: tuple[ProcessPlan, ...] = ()
    large_kernel: bool = False
    debugger_data: bool = True
    eprocess: EprocessPlan | None = None
    build_lab: str = "19041.1.amd64fre.vb_release.191206-1406"
    first_pfn: int = 0x100
    gap_every: int = 0
    searchable: bool = False
    low_stub: bool = False


# Windows 7 SP1 and 10 (19041); ARM64 from a dump of build 22000, its links and name are made up.
_EPROCESS = {
    (4, False): EprocessPlan(0xB8, 0x16C, 0x1A8, 0, 0x300),
    (4, True): EprocessPlan(0xB8, 0x17C, 0x14C, 0, 0x400),
    (8, False): EprocessPlan(0x188, 0x2E0, 0x338, 0x320, 0x500),
    (8, True): EprocessPlan(0x448, 0x5A8, 0x550, 0x580, 0xA40),
}
_EPROCESS_ARM64 = EprocessPlan(0x400, 0x560, 0x508, 0x538, 0xA00)


@dataclass(slots=True)
class MachineMemory:
    """Memory of a machine and where in it the lists begin.

    Attributes:
        plan: What it was built from.
        physical: Its pages.
        kernel: Address space of the kernel.
        spaces: Address spaces of processes, by id.
        loaded_modules_va: Head of the list of modules.
        active_processes_va: Head of the list of processes.
        debugger_data_va: The debugger data block; 0 if there is none.
        bases: Where the drivers are loaded, in the order of the plan.
        entries: Where their loader entries lie.
        names: Where the texts of their paths lie.
        pool_va: Next free byte of the kernel's pool.
    """

    plan: KernelPlan
    physical: PhysicalPages
    kernel: VirtualMemory
    spaces: dict[int, VirtualMemory] = field(default_factory=dict)
    loaded_modules_va: int = 0
    active_processes_va: int = 0
    debugger_data_va: int = 0
    bases: list[int] = field(default_factory=list)
    entries: list[int] = field(default_factory=list)
    names: list[int] = field(default_factory=list)
    pool_va: int = 0

    @property
    def pointer_size(self) -> int:
        """Bytes of a pointer."""
        return self.plan.paging.pointer_size

    def pool(self, size: int, align: int = 16) -> int:
        """Return the address of *size* fresh bytes of the kernel's pool."""
        at = -(-self.pool_va // align) * align
        self.pool_va = at + size
        return at


@dataclass(frozen=True, slots=True)
class _Places:
    """Virtual addresses."""

    kernel: int
    drivers: int
    pool: int
    session: int


_PLACES = {
    Paging.X86: _Places(0x80400000, 0x81000000, 0x85000000, 0xBF800000),
    Paging.PAE: _Places(0x81800000, 0x82000000, 0x85000000, 0xBF800000),
    Paging.X64: _Places(0xFFFFF80000400000, 0xFFFFF80010000000, 0xFFFFE00000010000, 0xFFFFF96000000000),
    Paging.LA57: _Places(0xFFFFF80000400000, 0xFFFFF80010000000, 0xFFA0000000010000, 0xFFFFF96000000000),
    Paging.ARM64: _Places(0xFFFFF80000400000, 0xFFFFF80010000000, 0xFFFFE00000010000, 0xFFFFFDCA00000000),
}
_VARIABLES = 0x20000
KERNEL_SYMBOLS = {
    "PsLoadedModuleList": _VARIABLES + 0x100,
    "PsActiveProcessHead": _VARIABLES + 0x140,
    "MmUnloadedDrivers": _VARIABLES + 0x180,
    "MmLastUnloadedDriver": _VARIABLES + 0x188,
    "NtBuildLab": _VARIABLES + 0x200,
    "KdDebuggerDataBlock": _VARIABLES + 0x400,
}
"""Where in its image the kernel has its variables."""
_LARGEST_POOL_BYTES = 0x1000000
_LARGE_SHIFT = {Paging.X86: 22}


def build_machine(plan: KernelPlan) -> MachineMemory:
    """Return the memory of the machine that *plan* describes."""
    physical = PhysicalPages(plan.first_pfn, plan.gap_every)
    places = _PLACES[plan.paging]
    machine = MachineMemory(plan, physical, VirtualMemory(physical, plan.paging), pool_va=places.pool)
    machine.kernel.prepare(places.pool & -0x400000, _LARGEST_POOL_BYTES)
    if plan.searchable:
        _write_shared_data(machine)
        machine.kernel.map_itself()
    _load_drivers(machine, places)
    variables = machine.bases[0] + _VARIABLES
    machine.loaded_modules_va = variables + 0x100
    machine.active_processes_va = variables + 0x140
    _write_loader_list(machine)
    _write_debugger_data(machine, variables)
    _write_processes(machine)
    if plan.low_stub:
        stub = bytearray(_PAGE)
        struct.pack_into("<Q", stub, 0, 0x00000001_000623E9)
        struct.pack_into("<Q", stub, 0x70, machine.bases[0] + 0x12340)
        struct.pack_into("<Q", stub, 0xA0, machine.kernel.root)
        physical.write(0x13000, bytes(stub))
    return machine


def _write_shared_data(machine: MachineMemory) -> None:
    """Write KUSER_SHARED_DATA of Windows 10 or 7.

    Source: ntddk.h.
    """
    modern = machine.plan.build >= 10240
    raw = bytearray(0x700)
    struct.pack_into("<Q", raw, 0x08, 36_000_000_000)
    struct.pack_into("<Q", raw, 0x14, 0x1D707F23DBB3399)
    root = "C:\\WINDOWS".encode("utf-16-le")
    raw[0x30 : 0x30 + len(root)] = root
    struct.pack_into("<II", raw, 0x260, 0xF0000000 | machine.plan.build if modern else 0, 1)
    struct.pack_into("<II", raw, 0x26C, 10 if modern else 6, 0 if modern else 1)
    machine.kernel.write(0xFFDF0000 if machine.pointer_size == 4 else 0xFFFFF78000000000, bytes(raw))


def _load_drivers(machine: MachineMemory, places: _Places) -> None:
    """Map every image that the kernel's own address space has."""
    kernel, free, session = machine.kernel, places.drivers, places.session
    for index, driver in enumerate(machine.plan.drivers):
        size = max(driver.image.size_of_image or 0, len(memory_bytes(driver.image)))
        if driver.base is not None:
            base = driver.base
        elif index == 0:
            base = places.kernel
        elif driver.in_session:
            base, session = session, session + size + 0x10000 & -_PAGE
        else:
            base, free = free, free + size + 0x10000 & -0x10000
        machine.bases.append(base)
        if index == 0 and machine.plan.large_kernel:
            shift = _LARGE_SHIFT.get(machine.plan.paging, 21)
            kernel.map_large(base, shift)
        if not driver.in_session:
            kernel.write(base, memory_bytes(driver.image))
    if (machine.plan.drivers[0].image.size_of_image or 0) < _VARIABLES + _PAGE:
        raise ValueError("the kernel's image must be larger, its variables lie in it")


def _pointer(machine: MachineMemory, *values: int) -> bytes:
    width = machine.pointer_size
    return b"".join((value & ((1 << 8 * width) - 1)).to_bytes(width, "little") for value in values)


def _unicode_string(length: int, buffer: int, width: int) -> bytes:
    return struct.pack("<HHxxxxQ" if width == 8 else "<HHI", length, length + 2 if length else 0, buffer)


def _link(memory: VirtualMemory, head: int, entries: list[int], width: int) -> None:
    """Write the links of a doubly linked list."""
    ring = [head, *entries]
    for index, at in enumerate(ring):
        for offset, other in ((0, ring[(index + 1) % len(ring)]), (width, ring[index - 1])):
            memory.write(at + offset, other.to_bytes(width, "little"))


def _loader_entry(
    driver: DriverPlan, base: int, texts: tuple[int, int], width: int, *, stamp_at: int | None, size: int
) -> bytes:
    """Return a loader entry without its links."""
    path, name = (text.encode("utf-16-le") for text in (driver.path, driver.name))
    image_size = driver.loader_size or driver.image.size_of_image or len(memory_bytes(driver.image))
    raw = bytearray(size)
    if width == 8:
        struct.pack_into("<QQI", raw, 0x30, base, base + _PAGE, image_size)
        raw[0x48:0x68] = _unicode_string(len(path), texts[0], 8) + _unicode_string(len(name), texts[1], 8)
    else:
        struct.pack_into("<III", raw, 0x18, base, base + _PAGE, image_size)
        raw[0x24:0x34] = _unicode_string(len(path), texts[0], 4) + _unicode_string(len(name), texts[1], 4)
    if stamp_at is not None:
        struct.pack_into("<I", raw, stamp_at, driver.image.timestamp)
    return bytes(raw)


def _write_loader_list(machine: MachineMemory) -> None:
    width = machine.pointer_size
    has_stamps = machine.plan.build >= 10240
    stamp_at = (0x9C if width == 8 else 0x58) if has_stamps else None
    size = (0xA0 if width == 8 else 0x5C) if has_stamps else (0x98 if width == 8 else 0x54)
    for driver, base in zip(machine.plan.drivers, machine.bases, strict=True):
        texts = []
        for text in (driver.path, driver.name):
            raw = text.encode("utf-16-le")
            texts.append(machine.pool(len(raw) + 2))
            machine.kernel.write(texts[-1], raw + b"\0\0")
        entry = machine.pool(size)
        raw = _loader_entry(driver, base, (texts[0], texts[1]), width, stamp_at=stamp_at, size=size)
        machine.kernel.write(entry, raw)
        machine.entries.append(entry)
        machine.names.append(texts[0])
    _link(machine.kernel, machine.loaded_modules_va, machine.entries, width)


def _write_debugger_data(machine: MachineMemory, variables: int) -> None:
    """Write the variables that the debugger data block points to, and the block."""
    kernel, width, plan = machine.kernel, machine.pointer_size, machine.plan
    slots = machine.pool(50 * (4 * width + 8))
    kernel.write(slots, bytes(50 * (4 * width + 8)))
    for index, driver in enumerate(plan.unloaded):
        text = driver.name.encode("utf-16-le")
        buffer = machine.pool(len(text) + 2)
        kernel.write(buffer, text + b"\0\0")
        raw = _unicode_string(len(text), buffer, width) + _pointer(machine, driver.start, driver.end) + bytes(8)
        kernel.write(slots + index % 50 * len(raw), raw)
    kernel.write(variables + 0x180, _pointer(machine, slots))
    kernel.write(variables + 0x188, (len(plan.unloaded) % 50).to_bytes(4, "little"))
    kernel.write(variables + 0x200, plan.build_lab.encode() + b"\0")
    if not plan.debugger_data:
        return
    machine.debugger_data_va = variables + 0x400
    block = bytearray(0x380)
    block[0x10:0x18] = b"KDBG" + len(block).to_bytes(4, "little")

    def put(offset: int, address: int) -> None:
        extended = address | 0xFFFFFFFF00000000 if width == 4 and address >> 31 else address
        struct.pack_into("<Q", block, offset, extended)

    # A debugger that has read the block takes the kind of paging from it, no longer from the header.
    struct.pack_into("<H", block, 0x36, plan.paging is Paging.PAE)
    put(0x18, machine.bases[0])
    put(0x48, machine.loaded_modules_va)
    put(0x50, machine.active_processes_va)
    put(0x208, variables + 0x200)
    put(0x220, variables + 0x180)
    put(0x228, variables + 0x188)
    layout = eprocess_of(plan)
    struct.pack_into("<HHH", block, 0x2AA, layout.peb, 0, 0x28 if width == 8 else 0x18)
    kernel.write(machine.debugger_data_va, bytes(block))


def eprocess_of(plan: KernelPlan) -> EprocessPlan:
    """Return the offsets in EPROCESS of a machine."""
    if plan.eprocess is not None:
        return plan.eprocess
    if plan.paging is Paging.ARM64:
        return _EPROCESS_ARM64
    return _EPROCESS[plan.paging.pointer_size, plan.build >= 10240]


def _write_processes(machine: MachineMemory) -> None:
    width, layout = machine.pointer_size, eprocess_of(machine.plan)
    links = []
    for process in (ProcessPlan(4, "System"), *machine.plan.processes):
        body = machine.pool(layout.size)
        machine.kernel.write(body, bytes(layout.size))
        space = (
            machine.kernel if process.id == 4 else VirtualMemory(machine.physical, machine.plan.paging, machine.kernel)
        )
        machine.spaces[process.id] = space
        if machine.plan.searchable and space is not machine.kernel:
            space.map_itself()
        peb, wow64 = _write_user_memory(machine, process, space)
        if process.name in _SESSION_PROCESSES:
            _map_session(machine, space)
        machine.kernel.write(body, b"\x03")
        machine.kernel.write(body + (0x28 if width == 8 else 0x18), _pointer(machine, space.root))
        machine.kernel.write(body + layout.links - width, _pointer(machine, process.id))
        machine.kernel.write(body + layout.image_file_name, process.name.encode()[:14].ljust(15, b"\0"))
        machine.kernel.write(body + layout.peb, _pointer(machine, peb))
        if layout.wow64_process:
            machine.kernel.write(body + layout.wow64_process, _pointer(machine, wow64))
        links.append(body + layout.links)
    _link(machine.kernel, machine.active_processes_va, links, width)


def _map_session(machine: MachineMemory, space: VirtualMemory) -> None:
    """Map the images of session drivers, the same pages in every session."""
    for driver, base in zip(machine.plan.drivers, machine.bases, strict=True):
        if driver.in_session:
            space.write(base, memory_bytes(driver.image))


def _write_user_memory(machine: MachineMemory, process: ProcessPlan, space: VirtualMemory) -> tuple[int, int]:
    """Write environment blocks, loader lists and images; return what EPROCESS holds of them."""
    if not process.modules:
        return 0, 0
    width = machine.pointer_size
    peb = 0x7FFDE000 if width == 4 else 0x7FF7FFFDE000
    _write_peb(space, peb, process.modules, width, 0x00200000)
    if not process.modules32:
        return peb, 0
    peb32 = 0x7EFDE000
    _write_peb(space, peb32, process.modules32, 4, 0x00300000)
    if machine.plan.build < 10240:
        return peb, peb32
    wow64 = machine.pool(0x20)
    machine.kernel.write(wow64, peb32.to_bytes(8, "little"))
    return peb, wow64


def _write_peb(space: VirtualMemory, peb: int, modules: tuple[DriverPlan, ...], width: int, heap: int) -> None:
    loader, at = heap, heap + 0x80
    head = loader + (0x10 if width == 8 else 0x0C)
    entries = []
    next_base = 0x10000000 if width == 4 else 0x7FFA00000000
    for module in modules:
        base = module.base
        if base is None:
            base = next_base
            next_base += max(module.image.size_of_image or 0, 0x10000) + 0x10000 & -0x10000
        texts = []
        for text in (module.path, module.name):
            raw = text.encode("utf-16-le") + b"\0\0"
            space.write(at, raw)
            texts.append(at)
            at += len(raw) + 15 & -16
        stamp_at, size = (0x80, 0x98) if width == 8 else (0x44, 0x50)
        raw = _loader_entry(module, base, (texts[0], texts[1]), width, stamp_at=stamp_at, size=size)
        space.write(at, raw)
        entries.append(at)
        at += size + 15 & -16
        space.write(base, memory_bytes(module.image))
    _link(space, head, entries, width)
    first = modules[0].base or (0x10000000 if width == 4 else 0x7FFA00000000)
    space.write(peb + 2 * width, first.to_bytes(width, "little"))
    space.write(peb + 3 * width, loader.to_bytes(width, "little"))
