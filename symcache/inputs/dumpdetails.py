"""What a kernel dump says of itself, for people."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError
from symcache.formats.dump.header import DumpAttribute, DumpType, bugcheck_name
from symcache.formats.dump.physical import PAGE_SIZE
from symcache.formats.pe.image import machine_name

if TYPE_CHECKING:
    from symcache.formats.dump.header import DumpHeader
    from symcache.formats.dump.kernel import DebuggerData
    from symcache.formats.view import ByteView

__all__ = ["header_details", "read_build_lab"]


_TYPES = {
    DumpType.FULL: "complete memory dump",
    DumpType.SUMMARY: "kernel memory dump (summary)",
    DumpType.HEADER: "header only",
    DumpType.TRIAGE: "small memory dump (triage)",
    DumpType.BITMAP_FULL: "complete or active memory dump (bitmap)",
    DumpType.BITMAP_KERNEL: "kernel or automatic memory dump (bitmap)",
    DumpType.AUTOMATIC: "automatic memory dump",
    DumpType.RANGES_KERNEL: "kernel memory dump by a debugger",
    DumpType.RANGES_KERNEL_AND_USER: "kernel and user memory dump by a debugger",
    DumpType.RANGES_COMPLETE: "complete memory dump by a debugger",
}
_KERNEL_ALONE = frozenset(
    {DumpType.SUMMARY, DumpType.BITMAP_KERNEL, DumpType.AUTOMATIC, DumpType.RANGES_KERNEL, DumpType.HEADER}
)
_DUMP_FILE_EXTRA_MB = 257
_PRODUCTS = {1: "workstation", 2: "domain controller", 3: "server"}
_LIVE_SYSTEM_DUMP = 0x161
_TICKS_PER_S = 10_000_000
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)
_LONGEST_LAB_BYTES = 128


def header_details(header: DumpHeader, storage: str, size_bytes: int) -> dict[str, Any]:
    """Return what a header says; None where a field was never set.

    Args:
        header: The header.
        storage: How the dump stores memory.
        size_bytes: Length of the file.
    """
    code = header.bugcheck_code
    attributes = header.attributes
    live = code == _LIVE_SYSTEM_DUMP or bool((attributes or 0) & DumpAttribute.LIVE_DUMP_GENERATED_DUMP)
    return {
        "type": _TYPES.get(DumpType(header.dump_type)) if header.dump_type in _TYPES else "unknown",
        "type_number": header.dump_type,
        "storage": storage,
        "bits": 64 if header.is_64bit else 32,
        "machine": machine_name(header.machine),
        "build": header.build,
        "build_lab": None,
        "checked_build": header.checked_build,
        "processors": header.processors,
        "product": _PRODUCTS.get(header.product_type or 0),
        "live": live,
        "bugcheck_code": None if code is None else f"{code:#x}",
        "bugcheck_name": None if code is None else bugcheck_name(code),
        "bugcheck_parameters": [f"{parameter:#x}" for parameter in header.bugcheck_parameters],
        "system_time": _time(header.system_time),
        "uptime_s": None if header.uptime is None else header.uptime / _TICKS_PER_S,
        "attributes": None if attributes is None else [bit.name for bit in attributes],
        "minidump_fields": None if header.minidump_fields is None else f"{header.minidump_fields:#x}",
        "directory_table_base": f"{header.directory_table_base:#x}",
        "loaded_modules": f"{header.loaded_modules_va:#x}",
        "comment": header.comment or None,
        "size_bytes": size_bytes,
        "required_bytes": header.required_space,
        "physical_memory_bytes": _physical_memory_bytes(header),
        "fuller_dumps": _fuller_dumps(header),
        "cut_short": False,
        "problems": _problems(header),
    }


def _physical_memory_bytes(header: DumpHeader) -> int | None:
    return sum(run.count for run in header.memory) * PAGE_SIZE if header.memory else None


def _fuller_dumps(header: DumpHeader) -> list[str]:
    """Return which kinds of dump would have held more, and how large a page file each takes.

    Source: learn.microsoft.com, "Overview of memory dump file options for Windows" and "Active Memory Dump".
    """
    memory_bytes = _physical_memory_bytes(header)
    here = f", {memory_bytes / 1e6 + _DUMP_FILE_EXTRA_MB:,.0f} MB on this machine" if memory_bytes else ""
    page_file = f"takes a page file on the boot volume of the size of memory plus {_DUMP_FILE_EXTRA_MB} MB{here}"
    kernel = (
        "a kernel or automatic memory dump (CrashDumpEnabled 2 or 7) also holds the kernel's memory, headers of drivers"
        " included; takes a page file of the size of that, up to a third of memory, or one that the system manages"
    )
    processes = (
        "an active (CrashDumpEnabled 1 with FilterPages 1) or complete memory dump (CrashDumpEnabled 1) also holds the"
        f" processes; {page_file}"
    )
    if header.dump_type == DumpType.TRIAGE:
        return [kernel, processes]
    return [processes] if header.dump_type in _KERNEL_ALONE else []


def _problems(header: DumpHeader) -> list[str]:
    if (header.attributes or 0) & DumpAttribute.INSUFFICIENT_DUMPFILE_SIZE:
        return ["Windows had no room for the whole dump, so pages of it are missing"]
    return []


def _time(ticks: int | None) -> str | None:
    """Return a FILETIME as ISO 8601 in UTC; None if it is none of a Windows machine's life."""
    if not ticks or ticks > 1 << 62:
        return None
    try:
        return (_EPOCH + timedelta(microseconds=ticks // 10)).isoformat()
    except OverflowError:
        return None


def read_build_lab(memory: ByteView, block: DebuggerData | None) -> str | None:
    """Return the kernel's own name of its build (``19041.1.amd64fre.vb_release.191206-1406``), if it is there."""
    if block is None or not block.build_lab_va:
        return None
    raw = b""
    while len(raw) < _LONGEST_LAB_BYTES and b"\0" not in raw:
        try:
            raw += memory.read(block.build_lab_va + len(raw), 1)
        except InputError:
            break
    text = raw.partition(b"\0")[0].decode("latin-1")
    return text if text.isprintable() and text else None
