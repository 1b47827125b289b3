"""Headers of Windows kernel dumps, 32 and 64 bit, and what other memory images are told by."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

from symcache.errors import TruncatedInput, UnknownFormat

if TYPE_CHECKING:
    from symcache.formats.view import ByteView

# Hexadecimal number and name. Source: MicrosoftDocs/windows-driver-docs, "Bug check code reference".
_BUGCHECKS = """
 01 APC_INDEX_MISMATCH                                     CA PNP_DETECTED_FATAL_ERROR
 0A IRQL_NOT_LESS_OR_EQUAL                                 CB DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS
 18 REFERENCE_BY_POINTER                                   CE DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS
 19 BAD_POOL_HEADER                                        D1 DRIVER_IRQL_NOT_LESS_OR_EQUAL
 1A MEMORY_MANAGEMENT                                      D5 DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL
 1E KMODE_EXCEPTION_NOT_HANDLED                            D6 DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION
 20 KERNEL_APC_PENDING_DURING_EXIT                         DA SYSTEM_PTE_MISUSE
 23 FAT_FILE_SYSTEM                                        DE POOL_CORRUPTION_IN_FILE_AREA
 24 NTFS_FILE_SYSTEM                                       E2 MANUALLY_INITIATED_CRASH
 27 RDR_FILE_SYSTEM                                        E3 RESOURCE_NOT_OWNED
 2E DATA_BUS_ERROR                                         E6 DRIVER_VERIFIER_DMA_VIOLATION
 3B SYSTEM_SERVICE_EXCEPTION                               EA THREAD_STUCK_IN_DEVICE_DRIVER
 3D INTERRUPT_EXCEPTION_NOT_HANDLED                        EF CRITICAL_PROCESS_DIED
 3F NO_MORE_SYSTEM_PTES                                    F4 CRITICAL_OBJECT_TERMINATION
 44 MULTIPLE_IRP_COMPLETE_REQUESTS                         F7 DRIVER_OVERRAN_STACK_BUFFER
 48 CANCEL_STATE_IN_COMPLETED_IRP                          FC ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY
 4A IRQL_GT_ZERO_AT_SYSTEM_SERVICE                         FE BUGCODE_USB_DRIVER
 4E PFN_LIST_CORRUPT                                      101 CLOCK_WATCHDOG_TIMEOUT
 50 PAGE_FAULT_IN_NONPAGED_AREA                           109 CRITICAL_STRUCTURE_CORRUPTION
 51 REGISTRY_ERROR                                        10D WDF_VIOLATION
 5C HAL_INITIALIZATION_FAILED                             10E VIDEO_MEMORY_MANAGEMENT_INTERNAL
 67 CONFIG_INITIALIZATION_FAILED                          113 VIDEO_DXGKRNL_FATAL_ERROR
 6B PROCESS1_INITIALIZATION_FAILED                        116 VIDEO_TDR_FAILURE
 74 BAD_SYSTEM_CONFIG_INFO                                117 VIDEO_TDR_TIMEOUT_DETECTED
 76 PROCESS_HAS_LOCKED_PAGES                              119 VIDEO_SCHEDULER_INTERNAL_ERROR
 77 KERNEL_STACK_INPAGE_ERROR                             122 WHEA_INTERNAL_ERROR
 79 MISMATCHED_HAL                                        124 WHEA_UNCORRECTABLE_ERROR
 7A KERNEL_DATA_INPAGE_ERROR                              12B FAULTY_HARDWARE_CORRUPTED_PAGE
 7B INACCESSIBLE_BOOT_DEVICE                              133 DPC_WATCHDOG_VIOLATION
 7C BUGCODE_NDIS_DRIVER                                   139 KERNEL_SECURITY_CHECK_FAILURE
 7E SYSTEM_THREAD_EXCEPTION_NOT_HANDLED                   13A KERNEL_MODE_HEAP_CORRUPTION
 7F UNEXPECTED_KERNEL_MODE_TRAP                           141 VIDEO_ENGINE_TIMEOUT_DETECTED
 80 NMI_HARDWARE_FAILURE                                  144 BUGCODE_USB3_DRIVER
 8E KERNEL_MODE_EXCEPTION_NOT_HANDLED                     154 UNEXPECTED_STORE_EXCEPTION
 93 INVALID_KERNEL_HANDLE                                 15E BUGCODE_NDIS_DRIVER_LIVE_DUMP
 96 INVALID_WORK_QUEUE_ITEM                               15F CONNECTED_STANDBY_WATCHDOG_TIMEOUT_LIVEDUMP
 9C MACHINE_CHECK_EXCEPTION                               161 LIVE_SYSTEM_DUMP
 9F DRIVER_POWER_STATE_FAILURE                            192 KERNEL_AUTO_BOOST_LOCK_ACQUISITION_WITH_RAISED_IRQL
 A0 INTERNAL_POWER_ERROR                                  193 VIDEO_DXGKRNL_LIVEDUMP
 A5 ACPI_BIOS_ERROR                                       1A1 WIN32K_CALLOUT_WATCHDOG_LIVEDUMP
 BE ATTEMPTED_WRITE_TO_READONLY_MEMORY                    1A8 VIDEO_DXGKRNL_BLACK_SCREEN_LIVEDUMP
 C1 SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION               1C8 MANUALLY_INITIATED_POWER_BUTTON_HOLD
 C2 BAD_POOL_CALLER                                       1CA SYNTHETIC_WATCHDOG_TIMEOUT
 C4 DRIVER_VERIFIER_DETECTED_VIOLATION                    DEADDEAD MANUALLY_INITIATED_CRASH1
 C5 DRIVER_CORRUPTED_EXPOOL                               C000021A STATUS_SYSTEM_PROCESS_TERMINATED
 C9 DRIVER_VERIFIER_IOMANAGER_VIOLATION                   C0000221 STATUS_IMAGE_CHECKSUM_MISMATCH
"""
_WORDS = _BUGCHECKS.split()
_NAMES = dict(zip((int(code, 16) for code in _WORDS[::2]), _WORDS[1::2], strict=True))
MINIDUMP_VARIANT = 0x10000000
"""A bit that some bug checks have besides where the dump is a small one."""


def bugcheck_name(code: int) -> str | None:
    """Return the name of a bug check, ``0x1000007E`` being ``0x7E``; None if it has none here."""
    return _NAMES.get(code) or _NAMES.get(code & ~MINIDUMP_VARIANT)


_FILL_BYTES = b"PAGE"
FILL = {4: 0x45474150, 8: 0x4547415045474150}
"""By its width in bytes, what stands in a field of the header that was never set."""
_KNOWN_ATTRIBUTES = 0x3FF


class DumpType(IntEnum):
    """Kinds of dumps, by the number in the header.

    Source: Windows SDK mindumpdef.h (1 to 7); kdmp-parser (8 to 10, written by dbgeng since about 2022).
    """

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


PRODUCTS = {1: "workstation", 2: "domain controller", 3: "server"}
"""By the number of a product type."""


class Machine(IntEnum):
    """IMAGE_FILE_MACHINE numbers that dumps hold."""

    X86 = 0x14C
    ARM = 0x1C4
    IA64 = 0x200
    X64 = 0x8664
    ARM64 = 0xAA64


class DumpAttribute(IntFlag):
    """Bits of a header's Attributes. Source: Windows SDK mindumpdef.h."""

    HIBER_CRASH = 1 << 0
    DUMP_DEVICE_POWER_OFF = 1 << 1
    INSUFFICIENT_DUMPFILE_SIZE = 1 << 2
    KERNEL_GENERATED_TRIAGE_DUMP = 1 << 3
    LIVE_DUMP_GENERATED_DUMP = 1 << 4
    DUMP_IS_GENERATED_OFFLINE = 1 << 5
    FILTER_DUMP_FILE = 1 << 6
    EARLY_BOOT_CRASH = 1 << 7
    ENCRYPTED_DUMP_DATA = 1 << 8
    DECRYPTED_DUMP = 1 << 9


@dataclass(frozen=True, slots=True)
class PfnRange:
    """Pages of physical memory that lie one after the other."""

    first: int  # number of the first page; its address is 4096 times that
    count: int


@dataclass(frozen=True, slots=True)
class DumpHeader:
    """What the first one or two pages of a kernel dump say; optional fields are None where they were never set."""

    is_64bit: bool  # `PAGEDU64`, else `PAGEDUMP`
    size: int  # length of the header in bytes; the type's own part begins there
    dump_type: int  # number of the type, see `DumpType`; may be unknown
    machine: int  # IMAGE_FILE_MACHINE number, see `Machine`; may be unknown
    build: int
    checked_build: bool | None  # a debug build of Windows; None if the header does not say
    processors: int
    directory_table_base: int  # register value that leads to the page tables, not masked
    loaded_modules_va: int  # address of the head of PsLoadedModuleList; 0 if unset
    active_processes_va: int  # address of the head of PsActiveProcessHead; 0 if unset
    debugger_data_va: int  # address of the kernel's debugger data block; 0 if unset
    pae_enabled: bool | None  # x86 with physical address extension; None on 64 bit and where unset
    bugcheck_code: int | None
    bugcheck_parameters: tuple[int, ...]
    memory: tuple[PfnRange, ...] | None  # pages of the physical memory block, in file order; None if unset
    memory_problem: str | None  # why *memory* cannot be used though it is set
    system_time: int | None  # when the dump was written, in 100 ns since 1601 UTC
    uptime: int | None  # how long Windows had run, in 100 ns
    product_type: int | None  # see `PRODUCTS`
    attributes: DumpAttribute | None
    minidump_fields: int | None  # which parts a triage dump has
    required_space: int | None  # bytes the whole dump takes or would have taken
    comment: str  # free text of the tool that wrote the dump

    @property
    def encrypted(self) -> bool:
        """All that follows the header is ciphertext."""
        marks = DumpAttribute.ENCRYPTED_DUMP_DATA | DumpAttribute.DECRYPTED_DUMP
        return (self.attributes or 0) & marks == DumpAttribute.ENCRYPTED_DUMP_DATA


# Offsets in the 32-bit and in the 64-bit header; both begin with signature, ValidDump and two version numbers.
# Source: Windows SDK mindumpdef.h, DUMP_HEADER32 and DUMP_HEADER64.
_OFFSETS = {
    "machine": (0x20, 0x30),
    "parameters": (0x2C, 0x40),
    "debugger_data": (0x60, 0x80),
    "memory": (0x64, 0x88),
    "dump_type": (0xF88, 0xF98),
    "minidump_fields": (0xF8C, 0x1038),
    "product_type": (0xF94, 0x1040),
    "required_space": (0xFA0, 0xFA0),
    "system_time": (0xFC0, 0xFA8),
    "uptime": (0xFB8, 0x1030),
    "comment": (0x820, 0xFB0),
    "attributes": (0x8A0, 0x1050),
}
_HEADER_BYTES = (0x1000, 0x2000)
_MOST_RUNS = (86, 42)


def read_dump_header(view: ByteView) -> DumpHeader:
    """Return the header of a kernel dump.

    A writer fills its header with repeated ``PAGE`` before it sets fields, so a field that still holds the pattern is
    absent, not a number.

    Raises:
        UnknownFormat: Not a kernel dump.
        TruncatedInput: It ends within its header.

    Layout: 0x1000 bytes after ``PAGEDUMP``, 0x2000 after ``PAGEDU64``.
    Source: Windows SDK mindumpdef.h; the fill pattern was seen in dumps written by Windows 10 and 11.
    """
    start = view.read(0, min(8, view.size))
    if start[:4] != _FILL_BYTES or start[4:8] not in {b"DUMP", b"DU64"}:
        raise UnknownFormat("not a kernel dump: it does not begin with PAGEDUMP or PAGEDU64", offset=0)
    is_64bit = start[4:8] == b"DU64"
    size = _HEADER_BYTES[is_64bit]
    if view.size < size:
        raise TruncatedInput(f"the dump ends within its header of {size} bytes", offset=view.size)
    return _parse(_Raw(view.read(0, size)), is_64bit=is_64bit)


class _Raw:
    """The header's bytes, with the fill pattern read as nothing."""

    def __init__(self, data: bytes) -> None:
        self.data = data

    def find(self, offset: int, width: int) -> int | None:
        value = int.from_bytes(self.data[offset : offset + width], "little")
        return None if value == FILL[width] else value

    def get(self, offset: int, width: int) -> int:
        return self.find(offset, width) or 0

    def text(self, offset: int, length: int) -> str:
        raw = self.data[offset : offset + length]
        if raw.startswith(_FILL_BYTES):
            return ""
        text = raw.partition(b"\0")[0].decode("latin-1")
        return "".join(char for char in text if char.isprintable()).strip()


def _parse(raw: _Raw, *, is_64bit: bool) -> DumpHeader:
    at = {name: offsets[is_64bit] for name, offsets in _OFFSETS.items()}
    word = 8 if is_64bit else 4
    major = raw.find(0x08, 4)
    bits = raw.find(at["attributes"], 4)  # far above those that are known, it was never set
    memory, memory_problem = _parse_memory(raw, at["memory"], word, _MOST_RUNS[is_64bit])
    return DumpHeader(
        is_64bit=is_64bit,
        size=_HEADER_BYTES[is_64bit],
        dump_type=raw.get(at["dump_type"], 4),
        machine=raw.get(at["machine"], 4),
        build=raw.get(0x0C, 4),
        checked_build={0xF: False, 0xC: True}.get(major if major is not None else 0),
        processors=raw.get(at["machine"] + 4, 4),
        directory_table_base=raw.get(0x10, word),
        loaded_modules_va=raw.get(0x10 + 2 * word, word),
        active_processes_va=raw.get(0x10 + 3 * word, word),
        debugger_data_va=raw.get(at["debugger_data"], word),
        pae_enabled={0: False, 1: True}.get(raw.data[0x5C]) if word == 4 else None,
        bugcheck_code=raw.find(at["machine"] + 8, 4),
        bugcheck_parameters=tuple(raw.get(at["parameters"] + word * index, word) for index in range(4)),
        memory=memory,
        memory_problem=memory_problem,
        system_time=raw.find(at["system_time"], 8),
        uptime=raw.find(at["uptime"], 8),
        product_type=raw.find(at["product_type"], 4),
        attributes=None if bits is None or bits > 0xFFFF else DumpAttribute(bits & _KNOWN_ATTRIBUTES),
        minidump_fields=raw.find(at["minidump_fields"], 4),
        required_space=raw.find(at["required_space"], 8),
        comment=raw.text(at["comment"], 128),
    )


def _parse_memory(raw: _Raw, at: int, word: int, most_runs: int) -> tuple[tuple[PfnRange, ...] | None, str | None]:
    """Return the ranges of the physical memory block, and what is wrong with it.

    Layout: number of runs (u32), number of pages (u32, or u64 at 8), then runs {first page, page count}.
    """
    run_count = raw.find(at, 4)
    if run_count is None:
        return None, None
    if not 0 < run_count <= most_runs:
        return None, f"the physical memory block claims {run_count} runs, the header has room for {most_runs}"
    numbers = struct.unpack_from("<" + ("QQ" if word == 8 else "II") * run_count, raw.data, at + 2 * word)
    ranges = tuple(PfnRange(first, count) for first, count in zip(numbers[::2], numbers[1::2], strict=True) if count)
    limit = 1 << 40
    if any(range_.first >= limit or range_.count >= limit for range_ in ranges):
        return None, "the physical memory block has a run beyond any machine's memory"
    pages = raw.get(at + word, word)
    total = sum(range_.count for range_ in ranges)
    problem = None if total == pages else f"the physical memory block claims {pages} pages, its runs hold {total}"
    return ranges, problem
