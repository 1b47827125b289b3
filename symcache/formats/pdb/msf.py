"""The MSF 7 container: numbered streams in blocks, the outer layer of every native PDB.

Layout: a superblock names the block map, the block map lists the blocks of the directory, the directory lists the
blocks of each stream. All three lists are read where they are needed and never whole, as those of a PDB of several
GiB fill megabytes.
"""

from __future__ import annotations

from struct import unpack, unpack_from
from typing import TYPE_CHECKING, Protocol

from symcache.errors import MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.view import BytesView, PartView

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

__all__ = ["MSF_MAGIC", "Msf", "StreamContainer", "StreamView"]


MSF_MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"

_ARRAY_AT = 0x34
_NIL = 0xFFFFFFFF
_PIECE_BYTES = 4096
_NUMBERS_AT_A_TIME = 4096


class StreamContainer(Protocol):
    """A file made of numbered streams."""

    @property
    def stream_count(self) -> int:
        """How many streams there are, nil ones counted."""
        ...

    def stream_size(self, index: int) -> int | None:
        """Return the length in bytes of a stream; None for a nil stream or one past the last."""
        ...

    def stream(self, index: int) -> ByteView:
        """Return the bytes of a stream; a nil stream is empty.

        Raises:
            InputError: The stream cannot be found.
        """
        ...


class StreamView:
    """The bytes of a stream, whose blocks are scattered over a file.

    Args:
        whole: The file.
        size: Length in bytes.
        numbers: The little-endian numbers of the blocks, one for each block that *size* needs.
        block_size: Bytes in a block, a power of two from 512.
        block_count: Blocks in the file; a number must be below it.
        width: Bytes of one number, 4 or 2.
        name: What this is, for errors.

    Memory does not grow with *size*: one piece of at most 4 KiB is kept, so that small neighbouring reads cost one.
    """

    def __init__(
        self, whole: ByteView, size: int, numbers: ByteView, *, block_size: int, block_count: int, width: int, name: str
    ) -> None:
        self._whole = whole
        self._size = size
        self._numbers = numbers
        self._block_size = block_size
        self._block_count = block_count
        self._width = width
        self._name = name
        self._kept = b""
        self._kept_at = 0

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly *length* bytes from *offset*; see `ByteView.read`.

        Raises:
            TruncatedInput: The stream ends first; offsets in a stream are no offsets in the file, so none is given.
            MalformedInput: A block number lies past the last block.
        """
        if offset < 0 or length < 0 or offset + length > self._size:
            raise TruncatedInput(
                f"{self._name} ends at {self._size:#x}, within {length} bytes that are needed from {offset:#x}"
            )
        inside = offset - self._kept_at
        if inside >= 0 and inside + length <= len(self._kept):
            return self._kept[inside : inside + length]
        piece = min(self._block_size, _PIECE_BYTES)
        start = offset - offset % piece
        if offset + length <= start + piece:
            self._kept = self._gather(start, min(piece, self._size - start))
            self._kept_at = start
            return self._kept[offset - start : offset - start + length]
        return self._gather(offset, length)

    def _gather(self, offset: int, length: int) -> bytes:
        return b"".join(self._whole.read(at, size) for at, size in self._find_runs(offset, length))

    def _find_runs(self, offset: int, length: int) -> Iterator[tuple[int, int]]:
        """Yield (offset in the file, length), blocks that follow each other as one."""
        run_at, run_length = 0, 0
        for number, skip, size in self._split(offset, length):
            at = number * self._block_size + skip
            if run_length and at == run_at + run_length:
                run_length += size
                continue
            if run_length:
                yield run_at, run_length
            run_at, run_length = at, size
        if run_length:
            yield run_at, run_length

    def _split(self, offset: int, length: int) -> Iterator[tuple[int, int, int]]:
        """Yield (number of the block, offset in the block, bytes) for each block of a range."""
        block, skip = divmod(offset, self._block_size)
        last = (offset + length + self._block_size - 1) // self._block_size
        while block < last:
            count = min(last - block, _NUMBERS_AT_A_TIME)
            raw = self._numbers.read(block * self._width, count * self._width)
            for number in unpack(f"<{count}{'I' if self._width == 4 else 'H'}", raw):
                if number >= self._block_count:
                    raise MalformedInput(f"{self._name} uses block {number} of {self._block_count}")
                size = min(self._block_size - skip, length)
                yield number, skip, size
                length -= size
                skip = 0
            block += count


class Msf:
    """An MSF 7 file.

    Args:
        view: The file.
        head: Its first 512 bytes, or all if it has fewer, where they were read already.

    Attributes:
        block_size: Bytes in a block.
        block_count: Blocks in the file.
        directory_size: Length of the stream directory, in bytes.
        stream_count: How many streams there are, nil ones counted.

    Raises:
        UnknownFormat: The magic is another.
        TruncatedInput: The file is shorter than its superblock says.
        MalformedInput: The superblock contradicts itself.

    Superblock: magic (32), block size u32 at 0x20, free map u32, block count u32 at 0x28, directory bytes u32 at 0x2C,
    reserved u32, then at 0x34 the numbers of the block map's blocks, as many as 4 bytes for each block of the
    directory need. Directory: stream count u32, sizes u32 each (0xFFFFFFFF: nil), then each stream's block numbers.
    Source: LLVM's "The MSF File Format"; microsoft-pdb, msf.cpp, for the array at 0x34 (LLVM's page knows one entry).
    """

    def __init__(self, view: ByteView, head: bytes = b"") -> None:
        head = head or view.read(0, min(view.size, 512))
        self.block_size, self.block_count, self.directory_size = _parse_superblock(head, view.size)
        self._view = view
        map_bytes = 4 * self._blocks(self.directory_size)
        array_bytes = 4 * self._blocks(map_bytes)
        if _ARRAY_AT + array_bytes > self.block_size:
            raise MalformedInput("the list of block map blocks leaves the superblock", offset=0x2C)
        at_hand = _ARRAY_AT + array_bytes <= len(head)
        array: ByteView = BytesView(head[_ARRAY_AT:]) if at_hand else PartView(view, _ARRAY_AT, array_bytes)
        block_map = self._view_blocks(map_bytes, array, "the block map")
        self._directory = self._view_blocks(self.directory_size, block_map, "the stream directory")
        self.stream_count = int.from_bytes(self._directory.read(0, 4), "little")
        if 4 + 4 * self.stream_count > self.directory_size:
            raise MalformedInput(f"{self.stream_count} streams do not fit into the stream directory")
        self._counted = (0, 0)  # (streams, blocks of these streams)

    def stream_size(self, index: int) -> int | None:
        """Return the length in bytes of a stream; None for a nil stream or one past the last."""
        if not 0 <= index < self.stream_count:
            return None
        size = int.from_bytes(self._directory.read(4 + 4 * index, 4), "little")
        return None if size == _NIL else size

    def stream_sizes(self) -> Iterator[int | None]:
        """Yield the length of each stream in bytes, None for a nil one; reads the directory piece by piece."""
        for size in self._raw_sizes(0, self.stream_count):
            yield None if size == _NIL else size

    def stream(self, index: int) -> StreamView:
        """Return the bytes of a stream; a nil stream, or one past the last, is empty.

        Raises:
            MalformedInput: The directory ends before the block numbers of the stream.
        """
        size = self.stream_size(index) or 0
        name = f"stream {index}"
        if not size:
            return self._view_blocks(0, BytesView(b""), name)
        start = 4 + 4 * self.stream_count + 4 * self._count_blocks_before(index)
        count = self._blocks(size)
        if start + 4 * count > self.directory_size:
            raise MalformedInput(f"the stream directory ends before the blocks of {name}")
        return self._view_blocks(size, PartView(self._directory, start, 4 * count), name)

    def _count_blocks_before(self, index: int) -> int:
        streams, blocks = self._counted if self._counted[0] <= index else (0, 0)
        for size in self._raw_sizes(streams, index):
            if size != _NIL:
                blocks += self._blocks(size)
        self._counted = (index, blocks)
        return blocks

    def _raw_sizes(self, first: int, end: int) -> Iterator[int]:
        return _read_numbers(self._directory, 4 + 4 * first, end - first)

    def _blocks(self, size: int) -> int:
        return -(-size // self.block_size)

    def _view_blocks(self, size: int, numbers: ByteView, name: str) -> StreamView:
        return StreamView(
            self._view,
            size,
            numbers,
            block_size=self.block_size,
            block_count=self.block_count,
            width=4,
            name=name,
        )


def _parse_superblock(head: bytes, size_bytes: int) -> tuple[int, int, int]:
    """Return block size, block count and length of the directory, each of which can be."""
    if head[:32] != MSF_MAGIC:
        raise UnknownFormat("not an MSF 7 container", offset=0)
    if len(head) < _ARRAY_AT + 4:
        raise TruncatedInput("the superblock ends early", offset=len(head))
    block_size, _, block_count, directory_size = unpack_from("<4I", head, 0x20)
    if not (512 <= block_size <= 0x10000 and block_size.bit_count() == 1):
        raise MalformedInput(f"a block size of {block_size} bytes is not a power of two from 512", offset=0x20)
    if block_count * block_size > size_bytes:
        raise TruncatedInput(
            f"{block_count} blocks of {block_size} bytes are promised, the file has {size_bytes} bytes",
            offset=size_bytes,
        )
    if not 4 <= directory_size <= block_count * block_size:
        raise MalformedInput(f"a stream directory of {directory_size} bytes cannot be", offset=0x2C)
    return block_size, block_count, directory_size


def _read_numbers(view: ByteView, offset: int, count: int) -> Iterator[int]:
    while count > 0:
        some = min(count, _NUMBERS_AT_A_TIME)
        yield from unpack(f"<{some}I", view.read(offset, 4 * some))
        offset += 4 * some
        count -= some
