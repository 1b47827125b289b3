"""Portable PDBs: as a file, and compressed inside a managed image."""

from __future__ import annotations

import hashlib
import zlib
from dataclasses import dataclass
from struct import unpack_from
from typing import TYPE_CHECKING
from uuid import UUID

from symcache.errors import MalformedInput, TruncatedInput, UnknownFormat

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

__all__ = [
    "PORTABLE_MAGIC",
    "EmbeddedPdb",
    "PortablePdb",
    "compute_portable_checksum",
    "parse_embedded_header",
    "parse_portable",
    "read_embedded_pdb",
]


PORTABLE_MAGIC = b"BSJB"

_ID_BYTES = 20
_ROOT_LIMIT_BYTES = 4096
_CHUNK_BYTES = 1 << 20
_HASHES = {"SHA1": "sha1", "SHA256": "sha256", "SHA384": "sha384", "SHA512": "sha512"}


@dataclass(frozen=True, slots=True)
class PortablePdb:
    """Identity of a portable PDB.

    Attributes:
        guid: First 16 bytes of the 20-byte id.
        stamp: Last 4 bytes of the id; equals the time stamp of the image's code view entry.
        metadata_version: Version text of the metadata root, ``PDB v1.0``.
        id_offset: Where the id lies in the file, in bytes.
    """

    guid: UUID
    stamp: int
    metadata_version: str
    id_offset: int


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

    Args:
        view: The whole file; it is read in pieces of 1 MiB.
        algorithm: Name as an image writes it: ``SHA256``, ``SHA384``, ``SHA512``, ``SHA1``.
        id_offset: Where the 20-byte id lies; it is hashed as zeros, since it is made from the checksum.

    Raises:
        UnknownFormat: Another algorithm.
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


_HEADER_BYTES = 8
_PIECE_BYTES = 0x10000


@dataclass(frozen=True, slots=True)
class EmbeddedPdb:
    """Where an embedded portable PDB lies.

    Attributes:
        offset: Start of the compressed data in the view it was found in, in bytes.
        compressed_bytes: Its length there.
        size_bytes: Length of the PDB, as the image states it; not verified.
    """

    offset: int
    compressed_bytes: int
    size_bytes: int


def parse_embedded_header(header: bytes, size_bytes: int, *, at: int = 0) -> EmbeddedPdb:
    """Return where the PDB lies whose debug data begins with *header*.

    Args:
        header: First 8 bytes of the debug data.
        size_bytes: Length of the debug data.
        at: Offset of the debug data in the input, in bytes.

    Raises:
        TruncatedInput: The header has fewer than 8 bytes.
        MalformedInput: It has another magic.

    Layout: ``MPDB``, length of the PDB u32, raw deflate data.
    Source: dotnet/runtime PE-COFF.md, "Embedded Portable PDB Debug Directory Entry (type 17)".
    """
    if len(header) < _HEADER_BYTES:
        raise TruncatedInput(f"embedded PDB has {len(header)} bytes, its header needs {_HEADER_BYTES}", offset=at)
    if header[:4] != b"MPDB":
        raise MalformedInput("embedded PDB does not begin with MPDB", offset=at)
    return EmbeddedPdb(at + _HEADER_BYTES, size_bytes - _HEADER_BYTES, int.from_bytes(header[4:8], "little"))


def read_embedded_pdb(view: ByteView, embedded: EmbeddedPdb, *, limit_bytes: int = 1 << 28) -> Iterator[bytes]:
    """Yield the PDB in pieces of at most 64 KiB.

    Args:
        view: The one *embedded* was found in.
        embedded: Where it lies.
        limit_bytes: Refuse a PDB that claims or turns out to be longer.

    Raises:
        MalformedInput: The data is no deflate stream, or does not become as long as promised.
        TruncatedInput: The image ends first.
        NotInDump: A page of it is not in the dump.
    """
    if embedded.size_bytes > limit_bytes:
        raise MalformedInput(
            f"embedded PDB claims {embedded.size_bytes} bytes, the limit is {limit_bytes}", offset=embedded.offset
        )
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    left = embedded.size_bytes
    for start in range(0, embedded.compressed_bytes, _PIECE_BYTES):
        pending = view.read(embedded.offset + start, min(_PIECE_BYTES, embedded.compressed_bytes - start))
        more = True
        while more:
            piece = _inflate(inflater, pending, embedded)
            pending = inflater.unconsumed_tail
            left -= len(piece)
            if left < 0:
                raise MalformedInput("embedded PDB is longer than the image states", offset=embedded.offset)
            if piece:
                yield piece
            more = bool(pending) or len(piece) == _PIECE_BYTES  # a full piece may leave output behind without input
        if inflater.eof:
            break
    if left or not inflater.eof:
        raise MalformedInput("embedded PDB is shorter than the image states", offset=embedded.offset)


def _inflate(inflater: zlib._Decompress, data: bytes, embedded: EmbeddedPdb) -> bytes:
    try:
        return inflater.decompress(data, _PIECE_BYTES)
    except zlib.error as error:
        raise MalformedInput("embedded PDB is not a deflate stream", offset=embedded.offset) from error
