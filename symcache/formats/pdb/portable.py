"""Portable PDBs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from struct import unpack_from
from typing import TYPE_CHECKING
from uuid import UUID

from symcache.errors import MalformedInput, TruncatedInput, UnknownFormat

if TYPE_CHECKING:
    from symcache.formats.view import ByteView

__all__ = [
    "PORTABLE_MAGIC",
    "PortablePdb",
    "compute_portable_checksum",
    "parse_portable",
]


PORTABLE_MAGIC = b"BSJB"

_ID_BYTES = 20
_ROOT_LIMIT_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_HASHES = {"SHA1": "sha1", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}


@dataclass(frozen=True, slots=True)
class PortablePdb:
    """Identity of a portable PDB."""

    guid: UUID  # first 16 bytes of the 20-byte id
    stamp: int  # last 4 bytes of the id; equals the time stamp of the image's code view entry
    metadata_version: str  # version text of the metadata root, `PDB v1.0`
    id_offset: int  # where the id lies in the file, in bytes


def parse_portable(view: ByteView) -> PortablePdb:
    """Return the identity of a portable PDB; reads at most 4 KiB and the id.

    Raises:
        UnknownFormat: The magic is another, or it is the metadata of an assembly, without ``#Pdb``.
        TruncatedInput: The file ends within its root or before its ``#Pdb`` stream.
        MalformedInput: The root contradicts itself.

    Layout: ``BSJB``, major u16, minor u16, reserved u32, length of the version text u32 (padded to 4), the text, flags
    u16, stream count u16, then per stream: offset u32, size u32, NUL-terminated name padded to 4.
    Stream ``#Pdb``: id (20), entry point u32, referenced tables u64.
    Source: ECMA-335 II.24.2.1; dotnet/runtime, PortablePdb-Metadata.md.
    """
    root = view.read(0, min(view.size, _ROOT_LIMIT_BYTES))
    if root[:4] != PORTABLE_MAGIC:
        raise UnknownFormat("not a portable PDB", offset=0)
    (text_bytes,) = unpack_from("<I", _need(root, 0, 16), 12)
    if text_bytes > 256:
        raise MalformedInput(f"a metadata version of {text_bytes} bytes cannot be", offset=12)
    _, stream_count = unpack_from("<HH", _need(root, 16 + text_bytes, 4))
    version = root[16 : 16 + text_bytes].partition(b"\0")[0].decode("utf-8", "replace")
    at = 20 + text_bytes
    for _ in range(stream_count):
        offset, size = unpack_from("<II", _need(root, at, 8))
        name, nul, _ = root[at + 8 : at + 40].partition(b"\0")
        if not nul:
            _need(root, at + 8, 32)
            raise MalformedInput("the name of a metadata stream is not terminated", offset=at + 8)
        if name == b"#Pdb":
            return _read_id(view, offset, size, version)
        at += 8 + (len(name) + 4) // 4 * 4
    raise UnknownFormat("metadata without a #Pdb stream: not a PDB", offset=0)


def compute_portable_checksum(view: ByteView, algorithm: str, *, id_offset: int) -> str:
    """Return the checksum of a portable PDB, in lower-case hex, as an image's PDB checksum entry states it.

    The file is read in pieces of 1 MiB; its 20-byte id is hashed as zeros, since it is made from the checksum.

    Raises:
        UnknownFormat: An algorithm that an image calls otherwise than ``SHA256``, ``SHA384``, ``SHA512``, ``SHA1``.
        TruncatedInput: The file became shorter.

    Source: dotnet/runtime PE-COFF.md, "PDB Checksum Debug Directory Entry"; dotnet/symstore, checksum validation.
    """
    name = _HASHES.get(algorithm.upper().replace("-", ""))
    if name is None:
        raise UnknownFormat(f"PDB checksums by {algorithm[:40]!r} are not known")
    digest = hashlib.new(name, usedforsecurity=False)
    end = id_offset + _ID_BYTES
    for start, stop in ((0, id_offset), (end, view.size)):
        for at in range(start, stop, _CHUNK_BYTES):
            digest.update(view.read(at, min(_CHUNK_BYTES, stop - at)))
        if stop == id_offset:
            digest.update(bytes(_ID_BYTES))
    return digest.hexdigest()


def _read_id(view: ByteView, offset: int, size: int, version: str) -> PortablePdb:
    if size < _ID_BYTES:
        raise MalformedInput("the #Pdb stream is too short for an id", offset=offset)
    if offset + size > view.size:
        raise TruncatedInput("the file ends before its #Pdb stream", offset=view.size)
    id_ = view.read(offset, _ID_BYTES)
    return PortablePdb(UUID(bytes_le=id_[:16]), int.from_bytes(id_[16:], "little"), version, offset)


def _need(root: bytes, at: int, length: int) -> bytes:
    if at + length <= len(root):
        return root[at : at + length]
    if len(root) == _ROOT_LIMIT_BYTES:
        raise MalformedInput(f"the metadata root does not end within {_ROOT_LIMIT_BYTES} bytes", offset=at)
    raise TruncatedInput("the metadata root ends early", offset=len(root))
