"""The portable PDB that lies compressed inside a managed image."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput, TruncatedInput

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

__all__ = ["EmbeddedPdb", "parse_embedded_header", "read_embedded_pdb"]

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
