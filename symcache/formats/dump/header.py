"""Headers of Windows kernel dumps, 32 and 64 bit."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING

from symcache.errors import TruncatedInput
from symcache.formats.dump.unsupported import refuse_other_dump

if TYPE_CHECKING:
    from symcache.formats.view import ByteView

__all__ = ["DumpAttribute", "DumpHeader", "DumpType", "Machine", "PfnRange", "bugcheck_name", "read_dump_header"]


# Source: MicrosoftDocs/windows-driver-docs, "Bug check code reference".
_NAMES = {
    0x01: "APC_INDEX_MISMATCH",
    0x0A: "IRQL_NOT_LESS_OR_EQUAL",
    0x18: "REFERENCE_BY_POINTER",
    0x19: "BAD_POOL_HEADER",
    0x1A: "MEMORY_MANAGEMENT",
    0x1E: "KMODE_EXCEPTION_NOT_HANDLED",
    0x20: "KERNEL_APC_PENDING_DURING_EXIT",
    0x23: "FAT_FILE_SYSTEM",
    0x24: "NTFS_FILE_SYSTEM",
    0x27: "RDR_FILE_SYSTEM",
    0x2E: "DATA_BUS_ERROR",
    0x3B: "SYSTEM_SERVICE_EXCEPTION",
    0x3D: "INTERRUPT_EXCEPTION_NOT_HANDLED",
    0x3F: "NO_MORE_SYSTEM_PTES",
    0x44: "MULTIPLE_IRP_COMPLETE_REQUESTS",
    0x48: "CANCEL_STATE_IN_COMPLETED_IRP",
    0x4A: "IRQL_GT_ZERO_AT_SYSTEM_SERVICE",
    0x4E: "PFN_LIST_CORRUPT",
    0x50: "PAGE_FAULT_IN_NONPAGED_AREA",
    0x51: "REGISTRY_ERROR",
    0x5C: "HAL_INITIALIZATION_FAILED",
    0x67: "CONFIG_INITIALIZATION_FAILED",
    0x6B: "PROCESS1_INITIALIZATION_FAILED",
    0x74: "BAD_SYSTEM_CONFIG_INFO",
    0x76: "PROCESS_HAS_LOCKED_PAGES",
    0x77: "KERNEL_STACK_INPAGE_ERROR",
    0x79: "MISMATCHED_HAL",
    0x7A: "KERNEL_DATA_INPAGE_ERROR",
    0x7B: "INACCESSIBLE_BOOT_DEVICE",
    0x7C: "BUGCODE_NDIS_DRIVER",
    0x7E: "SYSTEM_THREAD_EXCEPTION_NOT_HANDLED",
    0x7F: "UNEXPECTED_KERNEL_MODE_TRAP",
    0x80: "NMI_HARDWARE_FAILURE",
    0x8E: "KERNEL_MODE_EXCEPTION_NOT_HANDLED",
    0x93: "INVALID_KERNEL_HANDLE",
    0x96: "INVALID_WORK_QUEUE_ITEM",
    0x9C: "MACHINE_CHECK_EXCEPTION",
    0x9F: "DRIVER_POWER_STATE_FAILURE",
    0xA0: "INTERNAL_POWER_ERROR",
    0xA5: "ACPI_BIOS_ERROR",
    0xBE: "ATTEMPTED_WRITE_TO_READONLY_MEMORY",
    0xC1: "SPECIAL_POOL_DETECTED_MEMORY_CORRUPTION",
    0xC2: "BAD_POOL_CALLER",
    0xC4: "DRIVER_VERIFIER_DETECTED_VIOLATION",
    0xC5: "DRIVER_CORRUPTED_EXPOOL",
    0xC9: "DRIVER_VERIFIER_IOMANAGER_VIOLATION",
    0xCA: "PNP_DETECTED_FATAL_ERROR",
    0xCB: "DRIVER_LEFT_LOCKED_PAGES_IN_PROCESS",
    0xCE: "DRIVER_UNLOADED_WITHOUT_CANCELLING_PENDING_OPERATIONS",
    0xD1: "DRIVER_IRQL_NOT_LESS_OR_EQUAL",
    0xD5: "DRIVER_PAGE_FAULT_IN_FREED_SPECIAL_POOL",
    0xD6: "DRIVER_PAGE_FAULT_BEYOND_END_OF_ALLOCATION",
    0xDA: "SYSTEM_PTE_MISUSE",
    0xDE: "POOL_CORRUPTION_IN_FILE_AREA",
    0xE2: "MANUALLY_INITIATED_CRASH",
    0xE3: "RESOURCE_NOT_OWNED",
    0xE6: "DRIVER_VERIFIER_DMA_VIOLATION",
    0xEA: "THREAD_STUCK_IN_DEVICE_DRIVER",
    0xEF: "CRITICAL_PROCESS_DIED",
    0xF4: "CRITICAL_OBJECT_TERMINATION",
    0xF7: "DRIVER_OVERRAN_STACK_BUFFER",
    0xFC: "ATTEMPTED_EXECUTE_OF_NOEXECUTE_MEMORY",
    0xFE: "BUGCODE_USB_DRIVER",
    0x101: "CLOCK_WATCHDOG_TIMEOUT",
    0x109: "CRITICAL_STRUCTURE_CORRUPTION",
    0x10D: "WDF_VIOLATION",
    0x10E: "VIDEO_MEMORY_MANAGEMENT_INTERNAL",
    0x113: "VIDEO_DXGKRNL_FATAL_ERROR",
    0x116: "VIDEO_TDR_FAILURE",
    0x117: "VIDEO_TDR_TIMEOUT_DETECTED",
    0x119: "VIDEO_SCHEDULER_INTERNAL_ERROR",
    0x122: "WHEA_INTERNAL_ERROR",
    0x124: "WHEA_UNCORRECTABLE_ERROR",
    0x12B: "FAULTY_HARDWARE_CORRUPTED_PAGE",
    0x133: "DPC_WATCHDOG_VIOLATION",
    0x139: "KERNEL_SECURITY_CHECK_FAILURE",
    0x13A: "KERNEL_MODE_HEAP_CORRUPTION",
    0x141: "VIDEO_ENGINE_TIMEOUT_DETECTED",
    0x144: "BUGCODE_USB3_DRIVER",
    0x154: "UNEXPECTED_STORE_EXCEPTION",
    0x15E: "BUGCODE_NDIS_DRIVER_LIVE_DUMP",
    0x15F: "CONNECTED_STANDBY_WATCHDOG_TIMEOUT_LIVEDUMP",
    0x161: "LIVE_SYSTEM_DUMP",
    0x192: "KERNEL_AUTO_BOOST_LOCK_ACQUISITION_WITH_RAISED_IRQL",
    0x193: "VIDEO_DXGKRNL_LIVEDUMP",
    0x1A1: "WIN32K_CALLOUT_WATCHDOG_LIVEDUMP",
    0x1A8: "VIDEO_DXGKRNL_BLACK_SCREEN_LIVEDUMP",
    0x1C8: "MANUALLY_INITIATED_POWER_BUTTON_HOLD",
    0x1CA: "SYNTHETIC_WATCHDOG_TIMEOUT",
    0xDEADDEAD: "MANUALLY_INITIATED_CRASH1",
    0xC000021A: "STATUS_SYSTEM_PROCESS_TERMINATED",
    0xC0000221: "STATUS_IMAGE_CHECKSUM_MISMATCH",
}
_MINIDUMP_VARIANT = 0x10000000


def bugcheck_name(code: int) -> str | None:
    """Return the name of a bug check; None if it has none here.

    ``0x1000007E`` is ``0x7E``: some codes take another bit when the dump is a small one.
    """
    return _NAMES.get(code) or _NAMES.get(code & ~_MINIDUMP_VARIANT)


_FILL_BYTES = b"PAGE"
_FILL = {4: 0x45474150, 8: 0x4547415045474150}
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
    product_type: int | None  # 1 workstation, 2 domain controller, 3 server
    attributes: DumpAttribute | None
    minidump_fields: int | None  # which parts a triage dump has
    required_space: int | None  # bytes the whole dump takes or would have taken
    comment: str  # free text of the tool that wrote the dump

    @property
    def encrypted(self) -> bool:
        """All that follows the header is ciphertext."""
        bits = self.attributes
        return (
            bits is not None
            and bool(bits & DumpAttribute.ENCRYPTED_DUMP_DATA)
            and not bits & DumpAttribute.DECRYPTED_DUMP
        )


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
        UnknownFormat: Not a kernel dump; the text names what it is where that is known.
        TruncatedInput: It ends within its header.

    Layout: 0x1000 bytes after ``PAGEDUMP``, 0x2000 after ``PAGEDU64``.
    Source: Windows SDK mindumpdef.h; the fill pattern was seen in dumps written by Windows 10 and 11.
    """
    start = view.read(0, min(16, view.size))
    if start[:4] != _FILL_BYTES or start[4:8] not in {b"DUMP", b"DU64"}:
        raise refuse_other_dump(start)
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
        return None if value == _FILL[width] else value

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
        attributes=_parse_attributes(raw.find(at["attributes"], 4)),
        minidump_fields=raw.find(at["minidump_fields"], 4),
        required_space=raw.find(at["required_space"], 8),
        comment=raw.text(at["comment"], 128),
    )


def _parse_attributes(value: int | None) -> DumpAttribute | None:
    """Return the known bits; None for a value with bits far above them, which was never an attribute."""
    if value is None or value > 0xFFFF:
        return None
    return DumpAttribute(value & _KNOWN_ATTRIBUTES)


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
