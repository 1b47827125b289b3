"""Writer of MSF 7 containers."""

from __future__ import annotations

import io
from dataclasses import dataclass
from struct import pack
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["Filler", "StreamContent", "make_msf", "write_msf"]

_MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"
_NIL = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Filler:
    """A stream whose bytes do not matter but its length does; it is never in memory as a whole.

    Attributes:
        size: Length in bytes.
        tile: What is repeated; nothing for a hole, which reads as zeros and takes no room where files can be sparse.
    """

    size: int
    tile: bytes = bytes(range(256))

    def __len__(self) -> int:
        return self.size

    def __getitem__(self, part: slice) -> bytes:
        start, stop, _ = part.indices(self.size)
        if not self.tile:
            return bytes(stop - start)
        skip = start % len(self.tile)
        count = -(-(skip + stop - start) // len(self.tile))
        return (self.tile * count)[skip : skip + stop - start]


StreamContent: TypeAlias = bytes | Filler | None


def make_msf(streams: Sequence[StreamContent], *, block_size: int = 4096) -> bytes:
    """Return an MSF 7 file with these streams; None is a nil stream."""
    out = io.BytesIO()
    write_msf(out, streams, block_size=block_size)
    return out.getvalue()


def write_msf(out: BinaryIO, streams: Sequence[StreamContent], *, block_size: int = 4096) -> None:
    """Write an MSF 7 file with these streams into an empty seekable file; None is a nil stream.

    Blocks 1 and 2 of every *block_size* blocks are kept for the two free block maps, as the format wants it. Streams
    are laid out in order, then the directory, then its block map.

    Args:
        out: Where to; memory used does not grow with `Filler` streams.
        streams: Contents by number.
        block_size: Bytes in a block, a power of two from 512.
    """
    blocks = _number_blocks(block_size)
    lists = [_take(blocks, len(content or b""), block_size) for content in streams]
    sizes = [_NIL if content is None else len(content) for content in streams]
    numbers = [number for taken in lists for number in taken]
    directory = pack(f"<{1 + len(sizes) + len(numbers)}I", len(sizes), *sizes, *numbers)
    directory_blocks = _take(blocks, len(directory), block_size)
    block_map = pack(f"<{len(directory_blocks)}I", *directory_blocks)
    map_blocks = _take(blocks, len(block_map), block_size)
    count = next(blocks)

    head = _MAGIC + pack("<5I", block_size, 1, count, len(directory), 0) + pack(f"<{len(map_blocks)}I", *map_blocks)
    if len(head) > block_size:
        raise ValueError(f"a directory of {len(directory)} bytes needs larger blocks than {block_size} bytes")
    out.seek(0)
    out.write(head)
    _write_free_map(out, count, block_size)
    for content, taken in zip([*streams, directory, block_map], [*lists, directory_blocks, map_blocks], strict=True):
        _write_blocks(out, content, taken, block_size)
    out.seek(0, io.SEEK_END)
    out.write(bytes(count * block_size - out.tell()))  # the last block is whole


def _number_blocks(block_size: int) -> Iterator[int]:
    """Yield the numbers of blocks that may hold data."""
    number = 3
    while True:
        if number % block_size not in {1, 2}:
            yield number
        number += 1


def _take(blocks: Iterator[int], length: int, block_size: int) -> list[int]:
    return [next(blocks) for _ in range(-(-length // block_size))]


def _write_blocks(out: BinaryIO, content: StreamContent, taken: list[int], block_size: int) -> None:
    """Write *content*, blocks that follow each other at once, up to 1 MiB."""
    at = 0
    if content is None or (isinstance(content, Filler) and not content.tile):
        return
    while at < len(taken):
        end = at + 1
        while end < len(taken) and taken[end] == taken[end - 1] + 1 and (end - at) * block_size < 1 << 20:
            end += 1
        out.seek(taken[at] * block_size)
        out.write(content[at * block_size : end * block_size])
        at = end


def _write_free_map(out: BinaryIO, count: int, block_size: int) -> None:
    """Write both free block maps: no block is free, those past the end are."""
    used = bytes(count // 8) + (bytes([0xFF << count % 8 & 0xFF]) if count % 8 else b"")
    for interval in range(-(-count // block_size)):
        piece = used[interval * block_size : (interval + 1) * block_size].ljust(block_size, b"\xff")
        for which in (1, 2):
            if interval * block_size + which < count:
                out.seek((interval * block_size + which) * block_size)
                out.write(piece)
