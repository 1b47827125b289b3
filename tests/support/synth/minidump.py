"""Writes user-mode minidumps, as small or as large as a test wants them.

Source: the structures of minidumpapiset.h, as Microsoft Learn describes them.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from io import BytesIO
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import IO
    from uuid import UUID

__all__ = ["MinidumpModule", "MinidumpPlan", "MinidumpThread", "build_minidump", "rsds_record", "write_minidump"]

_HEADER_BYTES = 32
_DIRECTORY_ENTRY_BYTES = 12


@dataclass(frozen=True, slots=True)
class MinidumpModule:
    """A module of the process.

    Attributes:
        path: Full path, as Windows would state it.
        base_va: Address of the image.
        size_of_image: In bytes.
        timestamp: Of the image's file header.
        code_view: The record the dump is to hold; None for none.
        checksum: Of the image's optional header.
        version: The VS_FIXEDFILEINFO, 52 bytes; zeros if the writer found none.
    """

    path: str
    base_va: int
    size_of_image: int
    timestamp: int
    code_view: bytes | None = None
    checksum: int = 0
    version: bytes = b""


@dataclass(frozen=True, slots=True)
class MinidumpThread:
    """A thread of the process.

    Attributes:
        id: Thread id.
        context: Its CONTEXT.
        stack_va: Address of what was captured of its stack.
        stack: That, where only the list of threads leads to it.
        teb: Address of its environment block.
    """

    id: int
    context: bytes = b""
    stack_va: int = 0
    stack: bytes = b""
    teb: int = 0


@dataclass(frozen=True, slots=True)
class MinidumpPlan:
    """What a minidump is to hold.

    Attributes:
        modules: Loaded modules.
        unloaded: Modules that were unloaded before; None for no such stream.
        memory: Address and content of captured ranges, for a MemoryList.
        memory64: The same for a Memory64List; a number in place of the content is that many zero bytes.
        pad_modules: Put four bytes behind the count of modules, as some writers do.
        pad_memory: The same for the MemoryList.
        unloaded_header_bytes: Length of the header of the unloaded list, 12 or more.
        unloaded_entry_bytes: Length of an entry of the unloaded list, 24 or more.
        processor: PROCESSOR_ARCHITECTURE number.
        platform: VER_PLATFORM number.
        version: Major, minor and build number of the system.
        exception: Code and address; None for no such stream.
        process: Process id and start time; None for no such stream.
        timestamp: When the dump was written, in seconds since 1970.
        flags: MINIDUMP_TYPE bits.
        thread: Address of the stack of one thread and its CONTEXT; None for no such stream, without which dbgeng opens
            no dump.
        threads: Further threads, after that one.
        exception_thread: Id of the thread that raised the exception; that of *thread* is 1.
        exception_context: The CONTEXT in which it did.
        more_streams: Type and bytes of further streams, after the others.
    """

    modules: Sequence[MinidumpModule] = ()
    unloaded: Sequence[MinidumpModule] | None = None
    memory: Sequence[tuple[int, bytes]] = ()
    memory64: Sequence[tuple[int, bytes | int]] = ()
    pad_modules: bool = False
    pad_memory: bool = False
    unloaded_header_bytes: int = 12
    unloaded_entry_bytes: int = 24
    processor: int = 9
    platform: int = 2
    version: tuple[int, int, int] = (10, 0, 19041)
    exception: tuple[int, int] | None = None
    process: tuple[int, int] | None = None
    timestamp: int = 0x5F5F2CF4
    flags: int = 0
    thread: tuple[int, bytes] | None = None
    threads: Sequence[MinidumpThread] = ()
    exception_thread: int = 1
    exception_context: bytes = b""
    more_streams: Sequence[tuple[int, bytes]] = ()


def rsds_record(guid: UUID, age: int, pdb_path: str) -> bytes:
    """Return the code view record of an image linked with that PDB."""
    return b"RSDS" + guid.bytes_le + struct.pack("<I", age) + pdb_path.encode() + b"\0"


def build_minidump(plan: MinidumpPlan) -> bytes:
    """Return the dump; every zero byte of it takes room."""
    file = BytesIO()
    write_minidump(plan, file)
    return file.getvalue()


def write_minidump(plan: MinidumpPlan, file: IO[bytes]) -> None:
    """Write the dump into *file*, which must be empty and able to seek; ranges of zeros become holes."""
    streams = _Streams(plan, file)
    streams.add(7, _system_info(plan, streams.put_text("")))
    if plan.exception is not None:
        context = (len(plan.exception_context), streams.put(plan.exception_context))
        streams.add(6, _exception(plan.exception_thread, *plan.exception, *context))
    if plan.process is not None:
        streams.add(15, struct.pack("<6I", 24, 3, *plan.process, 0, 0))
    threads = [*([MinidumpThread(1, plan.thread[1], plan.thread[0])] if plan.thread else []), *plan.threads]
    if threads:
        streams.add(3, _thread_list(threads, streams))
    streams.add(4, _module_list(plan, streams))
    if plan.unloaded is not None:
        streams.add(14, _unloaded_list(plan, streams))
    if plan.memory:
        streams.add(5, _memory_list(plan, streams))
    for type_, data in plan.more_streams:
        streams.add(type_, data)
    if plan.memory64:
        streams.add_memory64()
    streams.finish()


class _Streams:
    """Lays one thing behind the other, each aligned to 4 bytes, and keeps the directory."""

    def __init__(self, plan: MinidumpPlan, file: IO[bytes]) -> None:
        self._plan = plan
        self._file = file
        self._directory: list[tuple[int, int, int]] = []
        lists = (plan.memory or None, plan.memory64 or None)
        optional = (plan.exception, plan.process, plan.thread or plan.threads or None, plan.unloaded, *lists)
        self._room = 2 + sum(part is not None for part in optional) + len(plan.more_streams)
        file.write(bytes(_HEADER_BYTES + self._room * _DIRECTORY_ENTRY_BYTES))

    def put(self, data: bytes) -> int:
        """Write *data* and return where."""
        self._file.write(bytes(-self._file.tell() % 4))
        offset = self._file.tell()
        self._file.write(data)
        return offset

    def put_text(self, text: str) -> int:
        """Write a MINIDUMP_STRING and return where."""
        units = text.encode("utf-16-le")
        return self.put(struct.pack("<I", len(units)) + units + b"\0\0")

    def add(self, type_: int, data: bytes) -> None:
        """Write a stream."""
        self._directory.append((type_, len(data), self.put(data)))

    def add_memory64(self) -> None:
        """Write the ranges of a full dump and, right behind the stream, their content."""
        ranges = self._plan.memory64
        stream_bytes = 16 + 16 * len(ranges)
        first = self._file.tell() + -self._file.tell() % 4 + stream_bytes
        sizes = [data if isinstance(data, int) else len(data) for _, data in ranges]
        table = b"".join(struct.pack("<QQ", start, size) for (start, _), size in zip(ranges, sizes, strict=True))
        self.add(9, struct.pack("<QQ", len(ranges), first) + table)
        for (_, data), size in zip(ranges, sizes, strict=True):
            if isinstance(data, int):
                self._file.seek(size, 1)
            else:
                self._file.write(data)
        self._file.truncate()

    def finish(self) -> None:
        """Write what stands at the start of the file."""
        plan = self._plan
        self._file.seek(0)
        self._file.write(
            struct.pack("<4sIIIIIQ", b"MDMP", 0xA793, self._room, _HEADER_BYTES, 0, plan.timestamp, plan.flags)
        )
        for entry in self._directory:
            self._file.write(struct.pack("<III", *entry))


def _system_info(plan: MinidumpPlan, service_pack_at: int) -> bytes:
    return struct.pack(
        "<HHHBBIIIIIHH24x", plan.processor, 6, 0, 4, 1, *plan.version, plan.platform, service_pack_at, 0x100, 0
    )


def _exception(thread: int, code: int, address: int, context_bytes: int, context_at: int) -> bytes:
    return struct.pack("<IIIIQQII120xII", thread, 0, code, 0, 0, address, 0, 0, context_bytes, context_at)


def _thread_list(threads: Sequence[MinidumpThread], streams: _Streams) -> bytes:
    """Return a list of threads; a stack without content of its own lies in one of the captured ranges."""
    entries = []
    for thread in threads:
        context_at, stack_at = streams.put(thread.context), streams.put(thread.stack) if thread.stack else 0
        places = (thread.teb, thread.stack_va, len(thread.stack), stack_at, len(thread.context), context_at)
        entries.append(struct.pack("<4I2Q4I", thread.id, 0, 0, 0, *places))
    return struct.pack("<I", len(entries)) + b"".join(entries)


def _module_list(plan: MinidumpPlan, streams: _Streams) -> bytes:
    entries = []
    for module in plan.modules:
        record = module.code_view or b""
        entries.append(
            struct.pack(
                "<QIIII52sIIII16x",
                module.base_va,
                module.size_of_image,
                module.checksum,
                module.timestamp,
                streams.put_text(module.path),
                module.version,
                len(record),
                streams.put(record) if record else 0,
                0,
                0,
            )
        )
    return struct.pack("<I", len(entries)) + bytes(4 * plan.pad_modules) + b"".join(entries)


def _unloaded_list(plan: MinidumpPlan, streams: _Streams) -> bytes:
    modules = plan.unloaded or ()
    entries = [
        struct.pack(
            "<QIIII",
            module.base_va,
            module.size_of_image,
            module.checksum,
            module.timestamp,
            streams.put_text(module.path),
        ).ljust(plan.unloaded_entry_bytes, b"\xee")
        for module in modules
    ]
    header = struct.pack("<III", plan.unloaded_header_bytes, plan.unloaded_entry_bytes, len(modules))
    return header.ljust(plan.unloaded_header_bytes, b"\xee") + b"".join(entries)


def _memory_list(plan: MinidumpPlan, streams: _Streams) -> bytes:
    entries = [struct.pack("<QII", start, len(data), streams.put(data)) for start, data in plan.memory]
    return struct.pack("<I", len(entries)) + bytes(4 * plan.pad_memory) + b"".join(entries)
