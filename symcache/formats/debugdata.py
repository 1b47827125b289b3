"""What a debug directory can hold: values that its reader fills."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symcache.formats.codeview import CodeView
    from symcache.formats.embedded import EmbeddedPdb

__all__ = ["CodeViewEntry", "DebugData", "DebugEntry", "DebugType", "PdbChecksum", "Problem"]


class DebugType(IntEnum):
    """Kinds of debug data; a directory may hold others.

    Source: MicrosoftDocs/win32 pe-format.md, "Debug Type"; dotnet/runtime PE-COFF.md for 17 and 19.
    """

    COFF = 1
    CODEVIEW = 2
    FPO = 3
    MISC = 4
    EXCEPTION = 5
    FIXUP = 6
    OMAP_TO_SRC = 7
    OMAP_FROM_SRC = 8
    BORLAND = 9
    CLSID = 11
    VC_FEATURE = 12
    POGO = 13
    ILTCG = 14
    MPX = 15
    REPRO = 16
    EMBEDDED_PDB = 17
    PDB_CHECKSUM = 19
    EX_DLLCHARACTERISTICS = 20


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong in a piece of an input whose rest could be read.

    Attributes:
        text: What is wrong, in one line.
        offset: Where, in bytes from the start of the view; None if no single place is wrong.
    """

    text: str
    offset: int | None = None


@dataclass(frozen=True, slots=True)
class DebugEntry:
    """One entry of a debug directory, as written.

    Attributes:
        type: A `DebugType`, or a number that has no name here.
        timestamp: Stamp of the data, 32 bits; for a portable PDB part of its id.
        major: Major version, 16 bits.
        minor: Minor version, 16 bits; 0x504D marks a portable PDB.
        size_bytes: Length of the data.
        rva: Where the data lies in the mapped image; 0 if it is not mapped.
        file_offset: Where the data lies in the file.
    """

    type: int
    timestamp: int
    major: int
    minor: int
    size_bytes: int
    rva: int
    file_offset: int

    @property
    def type_name(self) -> str:
        """Name of the type, or its number in decimal digits."""
        return DebugType(self.type).name if self.type in _NAMED_TYPES else str(self.type)


@dataclass(frozen=True, slots=True)
class CodeViewEntry:
    """A code view record and what its debug directory entry says of it.

    Attributes:
        record: The PDB it names.
        timestamp: Stamp of the entry; with the GUID the 20-byte id of a portable PDB.
        portable: The PDB is a portable one.
    """

    record: CodeView
    timestamp: int
    portable: bool


@dataclass(frozen=True, slots=True)
class PdbChecksum:
    """Checksum of the PDB that belongs to an image.

    Attributes:
        algorithm: As written, ``SHA256``.
        digest: The checksum; the PDB's 20-byte id counts as zeros.
    """

    algorithm: str
    digest: bytes


@dataclass(frozen=True, slots=True)
class DebugData:
    """What a debug directory holds; all tuples in file order.

    Attributes:
        entries: Every entry, whether its data could be read or not.
        code_views: Records that name a PDB.
        checksums: Checksums of the PDB.
        embedded: The portable PDB inside the image.
        reproducible: The build is reproducible, so that stamps are hashes and not times.
        misc_name: Name in a MISC entry: of the ``.dbg`` file where symbols were stripped into one.
        problems: What could not be read.
    """

    entries: tuple[DebugEntry, ...] = ()
    code_views: tuple[CodeViewEntry, ...] = ()
    checksums: tuple[PdbChecksum, ...] = ()
    embedded: EmbeddedPdb | None = None
    reproducible: bool = False
    misc_name: str | None = None
    problems: tuple[Problem, ...] = ()


_NAMED_TYPES = frozenset(DebugType)
