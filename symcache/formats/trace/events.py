"""What traces say of modules and processes: records of events, the same for every kind of trace.

They are plain tuples, as they travel from one process of a reader to another by the ten thousand.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias
from uuid import UUID

if TYPE_CHECKING:
    from symcache.formats.trace.hits import Hits


class TraceModule(NamedTuple):
    """An image of a process, as a load, unload or rundown event of the kernel has it."""

    process: int
    base: int
    size: int  # in bytes, of the image in memory
    checksum: int  # of the header
    timestamp: int  # of the file header; 0 where the event does not say it
    path: str  # of the NT name space


class ImageInfo(NamedTuple):
    """What merging read of an image's headers (ImageID, opcode 0)."""

    process: int
    base: int
    size: int
    timestamp: int
    name: str  # the original name in its version resource, else that of the file


class NamedPdb(NamedTuple):
    """The PDB that an image names (ImageID, opcodes 36 and 37)."""

    process: int
    base: int
    guid: bytes  # 16, as they lie in the code view record
    age: int
    path: str
    is_il: bool  # it is that of the IL image which this native image was made from


class CodeViewMark(NamedTuple):
    """What the debug directory says beside a code view record of the image at this base (ImageID, opcode 38)."""

    process: int
    base: int
    is_portable: bool  # the record names a portable PDB


class NoPdb(NamedTuple):
    """The image at this base names no PDB (ImageID, opcode 32)."""

    process: int
    base: int


class FileVersion(NamedTuple):
    """What an image's version resource says (ImageID, opcode 64)."""

    size: int
    timestamp: int
    texts: tuple[str, ...]  # of `FILE_VERSION_TEXTS`; fewer where the event ends early


FILE_VERSION_TEXTS = (
    "original_name",
    "description",
    "file_version",
    "binary_version",
    "language",
    "product",
    "company",
    "product_version",
    "file_id",
    "program_id",
)
"""What the texts of a `FileVersion` are, in their order."""


class PdbIdentity(NamedTuple):
    """A PDB as an event of .NET names it."""

    guid: bytes
    age: int
    path: str


class ManagedModule(NamedTuple):
    """A module of .NET; it has a PDB of its IL, of the native image, both or none."""

    process: int
    module: int  # by which events of methods name it, within its process
    il_path: str
    native_path: str
    il_pdb: PdbIdentity | None
    native_pdb: PdbIdentity | None


class MethodAt(NamedTuple):
    """Where the code of a method of .NET lies."""

    process: int
    module: int
    start: int
    size: int


class ProcessNamed(NamedTuple):
    """A process that ran, began or ended."""

    process: int
    name: str  # of its executable, as the kernel keeps it


class ThreadOf(NamedTuple):
    """Which process a thread belongs to."""

    thread: int
    process: int


class MappedPe(NamedTuple):
    """A PE image as the universal format maps it."""

    process: int
    base: int
    size: int
    path: str
    pdb: PdbIdentity | None


TraceEvent: TypeAlias = (
    TraceModule
    | ImageInfo
    | NamedPdb
    | CodeViewMark
    | NoPdb
    | FileVersion
    | ManagedModule
    | MethodAt
    | ProcessNamed
    | ThreadOf
    | MappedPe
)


class EventTaker(Protocol):
    """Who takes in what a reader finds, in the order of the trace."""

    def take(self, event: TraceEvent) -> None:
        """Take one event in."""
        ...

    def add_hits(self, hits: Hits | None) -> None:
        """Take in what samples and stacks of a part of the trace point into."""
        ...


def parse_managed_module(data: bytes, process: int, version: int) -> ManagedModule | None:
    """Return what *data*, the payload of a ModuleLoad, ModuleUnload, ModuleDCStart or ModuleDCEnd event, says.

    None if it is too short to name a file. What an event that was cut short lacks is left out.

    Layout, version 0: module u64, assembly u64, flags u32, u32, UTF-16 path of the IL image, UTF-16 path of the native
    one. Version 1: u16 number of the runtime. Version 2: GUID, age u32 and UTF-16 path of the IL image's PDB, then
    those of the native image's.
    Source: learn.microsoft.com, "Loader ETW events", ModuleLoad_V2; ClrEtwAll.man in dotnet/runtime.
    """
    il_path, at = read_utf16(data, 24)
    native_path, at = read_utf16(data, at)
    pdbs: list[PdbIdentity | None] = []
    if version >= 2:
        at += 2
        for _ in range(2):
            guid, age = data[at : at + 16], int.from_bytes(data[at + 16 : at + 20], "little")
            path, at = read_utf16(data, at + 20)
            pdbs.append(PdbIdentity(guid, age, path) if path and len(guid) == 16 and any(guid) else None)
    pdbs += [None] * (2 - len(pdbs))
    if not (il_path or native_path or any(pdbs)):
        return None
    module = int.from_bytes(data[:8], "little")
    return ManagedModule(process, module, il_path, native_path, pdbs[0], pdbs[1])


METHOD_EVENTS = frozenset([141, 142, 143, 144])
"""Numbers of the events that `parse_method` reads, in both providers."""


def parse_method(data: bytes, process: int) -> MethodAt | None:
    """Return where the method of a MethodLoad or MethodDCEnd event lies; None if *data* is too short.

    Layout: method u64, module u64, address u64, size u32, and more that is not read.
    Source: learn.microsoft.com, "Method ETW events", MethodLoad_V1.
    """
    if len(data) < 28:
        return None
    module, start = int.from_bytes(data[8:16], "little"), int.from_bytes(data[16:24], "little")
    return MethodAt(process, module, start, int.from_bytes(data[24:28], "little"))


_RUNTIME_PROVIDER = UUID("e13c0d23-ccbc-4e12-931b-d9cc2eee27e4")
_RUNDOWN_PROVIDER = UUID("a669021c-c450-4609-a035-5af59af4df18")
RUNTIME_NAMES = {
    "Microsoft-Windows-DotNETRuntime": _RUNTIME_PROVIDER,
    "Microsoft-Windows-DotNETRuntimeRundown": _RUNDOWN_PROVIDER,
}

MANAGED_MODULE_EVENTS = {_RUNTIME_PROVIDER: frozenset([152, 153]), _RUNDOWN_PROVIDER: frozenset([153, 154])}
"""Numbers of the events that `parse_managed_module` reads, by provider: loaded and unloaded; there, and at the end.

Others have the same numbers in the other provider.
"""

LONGEST_TEXT = 4096
"""Characters of a path that are kept; Windows' longest has 32,767, and no file of a store a thousandth part of that."""


def read_utf16(data: bytes, at: int) -> tuple[str, int]:
    """Return the UTF-16 text at *at* and the offset behind its NUL; what is cut off ends where *data* does."""
    end = at
    while True:
        end = data.find(b"\0\0", end)
        if end < 0:
            end = len(data)
            break
        if not (end - at) & 1:
            break
        end += 1
    return data[at : min(end, at + 2 * LONGEST_TEXT)].decode("utf-16-le", "replace"), end + 2


def read_bytes_text(data: bytes, at: int) -> tuple[str, int]:
    """Return the UTF-8 text at *at* and the offset behind its NUL; what is cut off ends where *data* does."""
    end = data.find(b"\0", at)
    if end < 0:
        end = len(data)
    return data[at : min(end, at + LONGEST_TEXT)].decode("utf-8", "replace"), end + 1
