"""Code view records: where an image, a ``.dbg`` file or a minidump's module names its PDB."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias
from uuid import UUID

from symcache.errors import MalformedInput, TruncatedInput

__all__ = ["CodeView", "Nb10", "Rsds", "parse_code_view", "parse_elf_build_id"]


@dataclass(frozen=True, slots=True)
class Rsds:
    """A reference to a PDB 7 or, if its debug directory entry says so, to a portable PDB.

    Attributes:
        guid: Signature of the PDB; nil identifies nothing.
        age: Times the PDB was written, 32 bits unsigned; without meaning for a portable PDB.
        path: The PDB's path as the linker wrote it, Windows or Unix, or its name alone.
    """

    guid: UUID
    age: int
    path: str


@dataclass(frozen=True, slots=True)
class Nb10:
    """A reference to a PDB 2.0.

    Attributes:
        signature: Time stamp of the PDB, 32 bits.
        age: Times the PDB was written, 32 bits unsigned.
        path: The PDB's path as the linker wrote it, or its name alone.
    """

    signature: int
    age: int
    path: str


CodeView: TypeAlias = Rsds | Nb10


def parse_code_view(record: bytes, *, at: int = 0, needs_nul: bool = True) -> CodeView | None:
    """Return the PDB that *record* names; None if it is neither ``RSDS`` nor ``NB10``.

    The text is UTF-8; linkers before that wrote the build machine's code page, so what is not UTF-8 is read as
    Windows-1252, and where that has gaps as Latin-1.

    Args:
        record: The whole record, as what points to it bounds it; it may be padded after the name's NUL.
        at: Offset of *record* in the input, in bytes; only for errors.
        needs_nul: False where writers leave out the NUL, as some of minidumps do; the record's end then ends the name.

    Raises:
        TruncatedInput: *record* is shorter than its fixed part.
        MalformedInput: The name has no terminating NUL.

    Layout: ``RSDS``, GUID (16, mixed-endian), age (u32 LE), path; or ``NB10``, offset (u32, 0), signature (u32),
    age (u32), path.
    Source: dotnet/runtime PE-COFF.md, "CodeView Debug Directory Entry (type 2)"; for ``NB10`` microsoft-pdb,
    and a request of dbghelp for an image with such a record.
    """
    magic = record[:4]
    if magic == b"RSDS":
        _check_fixed_part(record, 24, at)
        path = _parse_path(record, 24, at=at, needs_nul=needs_nul)
        return Rsds(UUID(bytes_le=record[4:20]), int.from_bytes(record[20:24], "little"), path)
    if magic == b"NB10":
        _check_fixed_part(record, 16, at)
        path = _parse_path(record, 16, at=at, needs_nul=needs_nul)
        return Nb10(int.from_bytes(record[8:12], "little"), int.from_bytes(record[12:16], "little"), path)
    return None


def parse_elf_build_id(record: bytes) -> bytes | None:
    """Return the ELF build id that a minidump's module record holds; None if it is another record or empty.

    Layout: ``LEpB``, then the id to the end of the record.
    Source: google/breakpad minidump_format.h, MDCVInfoELF.
    """
    return (record[4:] or None) if record[:4] == b"LEpB" else None


def _check_fixed_part(record: bytes, length: int, at: int) -> None:
    if len(record) < length:
        raise TruncatedInput(f"code view record has {len(record)} bytes, its fixed part needs {length}", offset=at)


def _parse_path(record: bytes, start: int, *, at: int, needs_nul: bool) -> str:
    path, nul, _ = record[start:].partition(b"\0")
    if needs_nul and not nul:
        raise MalformedInput("PDB name in the code view record is not terminated", offset=at + start)
    for encoding in ("utf-8", "cp1252"):
        try:
            return path.decode(encoding)
        except UnicodeDecodeError:
            continue
    return path.decode("latin-1")
