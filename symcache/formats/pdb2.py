"""PDB 2.0, the container of Visual C++ 4 to 6: signature and age, no GUID."""

from __future__ import annotations

from dataclasses import dataclass
from struct import unpack, unpack_from
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput, TruncatedInput
from symcache.formats.msf import StreamView
from symcache.formats.view import BytesView, PartView

if TYPE_CHECKING:
    from symcache.formats.view import ByteView

__all__ = ["PDB2_MAGIC", "Pdb2", "parse_pdb2"]

PDB2_MAGIC = b"Microsoft C/C++ program database 2.00\r\n\x1aJG\0\0"

_NUMBERS_AT = 0x3C


@dataclass(frozen=True, slots=True)
class Pdb2:
    """Identity of a PDB 2.0.

    Attributes:
        signature: Time stamp, 32 bits; with *age* what an ``NB10`` record names.
        age: Times the PDB was written.
        version: Version of the information stream, a date in decimal digits (19970604).
        block_size: Bytes in a page.
        stream_count: Streams in the file.
    """

    signature: int
    age: int
    version: int
    block_size: int
    stream_count: int


def parse_pdb2(view: ByteView) -> Pdb2:
    """Return the identity of a PDB 2.0 whose magic was seen.

    Raises:
        TruncatedInput: The file is shorter than its header says.
        MalformedInput: A page size, a page number or the root stream contradicts itself.

    Layout: magic (44), page size u32 at 0x2C, free map u16, page count u16 at 0x32, root size u32 at 0x34, then
    the numbers of the root's pages u16 each at 0x3C. Root: stream count u16, reserved u16, {size u32, reserved u32}
    each, then the page numbers u16 of each stream. Stream 1: version, signature, age, u32 each.
    Source: the notes on format 2.00 beside microsoft-pdb; no sample by Microsoft's linker was at hand.
    """
    if view.size < _NUMBERS_AT:
        raise TruncatedInput("the header of a PDB 2.0 ends early", offset=view.size)
    page_size, _, page_count, root_size = unpack_from("<IHHI", view.read(0, _NUMBERS_AT), 0x2C)
    if not (512 <= page_size <= 0x10000 and page_size.bit_count() == 1):
        raise MalformedInput(f"a page size of {page_size} bytes is not a power of two from 512", offset=0x2C)
    if page_count * page_size > view.size:
        raise TruncatedInput(
            f"{page_count} pages of {page_size} bytes are promised, the file has {view.size} bytes", offset=view.size
        )
    root_pages = -(-root_size // page_size)
    if _NUMBERS_AT + 2 * root_pages > page_size:
        raise MalformedInput(f"a root stream of {root_size} bytes cannot be", offset=0x34)

    def view_pages(size: int, numbers: ByteView, name: str) -> StreamView:
        return StreamView(view, size, numbers, block_size=page_size, block_count=page_count, width=2, name=name)

    root = view_pages(root_size, PartView(view, _NUMBERS_AT, 2 * root_pages), "the root stream")
    (stream_count,) = unpack("<H", root.read(0, 2))
    if stream_count < 2:
        raise MalformedInput("a PDB 2.0 without an information stream")
    first_size, _, info_size, _ = unpack("<4I", root.read(4, 16))
    if info_size == 0xFFFFFFFF or info_size < 12:
        raise MalformedInput("the information stream is too short for an identity")
    first_pages = 0 if first_size == 0xFFFFFFFF else -(-first_size // page_size)
    # Twelve bytes lie in the first page of the stream, whatever its length.
    numbers = BytesView(root.read(4 + 8 * stream_count + 2 * first_pages, 2))
    version, signature, age = unpack("<3I", view_pages(12, numbers, "stream 1").read(0, 12))
    return Pdb2(signature, age, version, page_size, stream_count)
