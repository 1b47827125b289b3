"""The containers of native PDBs, files made of numbered streams: MSF 7, in blocks, and MSFZ, in compressed chunks.

The lists of an MSF's blocks are read where they are needed and never whole, as those of a PDB of several GiB fill
megabytes.
"""

from __future__ import annotations

import zlib
from bisect import bisect_right
from itertools import accumulate
from struct import unpack, unpack_from
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.view import BytesView, PartView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.view import ByteView

MSF_MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"

_ARRAY_AT = 0x34
_NIL = 0xFFFFFFFF
_PIECE_BYTES = 4096
_NUMBERS_AT_A_TIME = 4096


class StreamView:
    """The bytes of a stream, whose blocks are scattered over a file.

    *numbers* are those of its blocks, little-endian in *width* bytes (4 or 2) and below *block_count*, as many as
    *size* needs; *name* is for errors.
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
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly *length* bytes from *offset*; see `ByteView.read`.

        Raises:
            TruncatedInput: The stream ends first; offsets in a stream are no offsets in the file, so none is given.
            MalformedInput: A block number lies past the last block.
        """
        _check_range(self._name, self._size, offset, length)
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
    """An MSF 7 file; *head* may be its first 512 bytes, or all if it has fewer, where they were read already.

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

    def count_all_blocks(self) -> int:
        """Return how many block numbers the directory must hold; it is read piece by piece."""
        return self._count_blocks_before(self.stream_count)

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
        while streams < index:
            count = min(index - streams, _NUMBERS_AT_A_TIME)
            sizes = unpack(f"<{count}I", self._directory.read(4 + 4 * streams, 4 * count))
            blocks += sum(self._blocks(size) for size in sizes if size != _NIL)
            streams += count
        self._counted = (index, blocks)
        return blocks

    def _blocks(self, size: int) -> int:
        return -(-size // self.block_size)

    def _view_blocks(self, size: int, numbers: ByteView, name: str) -> StreamView:
        block_size, block_count = self.block_size, self.block_count
        return StreamView(self._view, size, numbers, block_size=block_size, block_count=block_count, width=4, name=name)


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


MSFZ_MAGIC = b"Microsoft MSFZ Container\r\n\x1aALD\0\0"

_HEADER_BYTES = 80
_CHUNK_ENTRY_BYTES = 20
_IN_CHUNK = 1 << 63
_DIRECTORY_LIMIT_BYTES = 4 << 20
_CHUNK_LIMIT_BYTES = 32 << 20
# A few bytes can name the same well-packed chunks again and again; expanding must stay in proportion to what is read.
_EXPAND_ALLOWANCE_BYTES = 256 << 20
_EXPAND_RATIO = 64
_STEP_COST_BYTES = 4096

try:  # Python 3.14 and later
    from compression.zstd import ZstdDecompressor, ZstdError  # type: ignore[import-not-found,unused-ignore]
except ImportError:
    _decompress_zstd: Callable[[bytes, int], bytes] | None = None
else:

    def _decompress_zstd(data: bytes, limit: int) -> bytes:
        try:
            found: bytes = ZstdDecompressor().decompress(data, limit)
        except ZstdError as error:
            raise MalformedInput(f"zstd data is damaged: {error}") from error
        return found


class _MsfzStream:
    """The bytes of one stream, gathered from its fragments; see `Msfz`."""

    def __init__(self, container: Msfz, fragments: tuple[tuple[int, int], ...], name: str) -> None:
        self._container = container
        self._fragments = fragments
        self._ends = list(accumulate(size for size, _ in fragments))
        self._name = name

    @property
    def size(self) -> int:
        return self._ends[-1] if self._ends else 0

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly *length* bytes from *offset*; see `ByteView.read`.

        Raises:
            TruncatedInput: The stream ends first.
            MalformedInput: A chunk is damaged.
            UnknownFormat: A chunk is compressed in a way that cannot be read here.
        """
        _check_range(self._name, self.size, offset, length)
        found = []
        index = bisect_right(self._ends, offset)
        while length:
            size, location = self._fragments[index]
            skip = offset - (self._ends[index] - size)
            count = min(size - skip, length)
            found.append(self._container.read_fragment(location, skip, count))
            offset += count
            length -= count
            index += 1
        return b"".join(found)


class Msfz:
    """An MSFZ file.

    Raises:
        UnknownFormat: The magic or the version is another, or the directory is compressed in a way that cannot be read.
        TruncatedInput: The file ends before its tables.
        MalformedInput: The tables contradict themselves, or are larger than 4 MiB.

    Header, 80 bytes: magic (32), version u64 (0), stream directory offset u64 at 0x28, chunk table offset u64 at 0x30,
    stream count u32, compression of the directory u32 (0 none, 1 zstd, 2 deflate without a wrapper), its size on disk
    u32 and in memory u32, chunk count u32, size of the chunk table u32.
    Directory: per stream, fragments {size u32, location u64}, ended by a size of 0; a nil stream is 0xFFFFFFFF alone.
    Location: with bit 63 clear, an offset in the file (bits 0-47); set, a chunk (bits 32-62) and an offset in it.
    Chunk entry, 20 bytes: file offset u64, compression u32, size on disk u32, size in memory u32.
    Source: microsoft/pdb-rs, docs/pdb/msfz.md; its code for deflate, which that page does not name.
    """

    def __init__(self, view: ByteView) -> None:
        head = view.read(0, min(view.size, _HEADER_BYTES))
        if head[:32] != MSFZ_MAGIC:
            raise UnknownFormat("not an MSFZ container", offset=0)
        if len(head) < _HEADER_BYTES:
            raise TruncatedInput("the MSFZ header ends early", offset=len(head))
        version, directory_at, self._chunks_at, self.stream_count = unpack_from("<QQQI", head, 0x20)
        compression, packed, size, self._chunk_count, table_bytes = unpack_from("<5I", head, 0x3C)
        if version != 0:
            raise UnknownFormat(f"MSFZ version {version} is not known", offset=0x20)
        if table_bytes != _CHUNK_ENTRY_BYTES * self._chunk_count or self._chunks_at + table_bytes > view.size:
            raise MalformedInput("the chunk table does not fit", offset=0x48)
        if max(packed, size) > _DIRECTORY_LIMIT_BYTES or 4 * self.stream_count > size:
            raise MalformedInput(f"a stream directory of {size} bytes cannot be", offset=0x44)
        self._view = view
        self._directory = _expand(view.read(directory_at, packed), compression, size, "the stream directory")
        self._walked: tuple[int, int] = (0, 0)  # (stream, where its fragments begin)
        self._kept: tuple[int, bytes] = (-1, b"")
        self._allowance = _EXPAND_ALLOWANCE_BYTES

    def stream_size(self, index: int) -> int | None:
        """Return the length in bytes of a stream; None for a nil stream or one past the last."""
        fragments = self._find_fragments(index)
        return None if fragments is None else sum(size for size, _ in fragments)

    def stream(self, index: int) -> _MsfzStream:
        """Return the bytes of a stream; a nil stream, or one past the last, is empty.

        Raises:
            MalformedInput: The directory ends before the fragments of the stream.
        """
        return _MsfzStream(self, self._find_fragments(index) or (), f"stream {index}")

    def read_fragment(self, location: int, skip: int, length: int) -> bytes:
        """Return *length* bytes that begin *skip* bytes after *location*; see the class for what that is.

        Raises:
            TruncatedInput, MalformedInput, UnknownFormat: As `_MsfzStream.read`.
        """
        if not location & _IN_CHUNK:
            return self._view.read((location & 0xFFFF_FFFF_FFFF) + skip, length)
        chunk, start = (location >> 32) & 0x7FFF_FFFF, (location & 0xFFFFFFFF) + skip
        found = []
        while length:  # a fragment may run on into the chunks that follow
            if chunk >= self._chunk_count:
                raise MalformedInput(f"a stream uses chunk {chunk} of {self._chunk_count}")
            entry_at = self._chunks_at + _CHUNK_ENTRY_BYTES * chunk
            at, compression, packed, size = unpack_from("<QIII", self._view.read(entry_at, _CHUNK_ENTRY_BYTES))
            if size == 0 or max(size, packed) > _CHUNK_LIMIT_BYTES:
                raise MalformedInput(f"a chunk of {size} bytes cannot be", offset=entry_at)
            if start >= size:
                self._spend(_STEP_COST_BYTES)
                chunk, start = chunk + 1, start - size
                continue
            count = min(length, size - start)
            found.append(self._read_chunk(chunk, at, compression, packed, size)[start : start + count])
            self._allowance += _EXPAND_RATIO * count
            chunk, start, length = chunk + 1, 0, length - count
        return b"".join(found)

    def _read_chunk(self, chunk: int, at: int, compression: int, packed: int, size: int) -> bytes:
        if self._kept[0] != chunk:
            self._spend(size)
            self._kept = chunk, _expand(self._view.read(at, packed), compression, size, f"chunk {chunk}")
        return self._kept[1]

    def _spend(self, cost_bytes: int) -> None:
        self._allowance -= cost_bytes
        if self._allowance < 0:
            raise MalformedInput("the streams are scattered over more chunks than can be expanded")

    def _find_fragments(self, index: int) -> tuple[tuple[int, int], ...] | None:
        if not 0 <= index < self.stream_count:
            return None
        stream, at = self._walked if self._walked[0] <= index else (0, 0)
        for skipped in range(stream, index):
            for _, _, end in self._fragments(at, skipped):
                at = end
        self._walked = (index, at)
        fragments = list(self._fragments(at, index))
        if fragments[0][0] == _NIL:
            return None
        return tuple((size, location) for size, location, _ in fragments[:-1])

    def _fragments(self, at: int, stream: int) -> Iterator[tuple[int, int, int]]:
        """Yield (size, location, end of this entry) of a stream's fragments, then what ends them."""
        while True:
            if at + 4 > len(self._directory):
                raise MalformedInput(f"the stream directory ends within stream {stream}")
            (size,) = unpack_from("<I", self._directory, at)
            if size in {0, _NIL}:
                yield size, 0, at + 4
                return
            if at + 12 > len(self._directory):
                raise MalformedInput(f"the stream directory ends within stream {stream}")
            yield size, unpack_from("<Q", self._directory, at + 4)[0], at + 12
            at += 12


def _expand(data: bytes, compression: int, size: int, name: str) -> bytes:
    """Return the *size* bytes that *data* holds; output is bounded by *size*, whatever *data* says."""
    if compression == 0:
        found = data
    elif compression == 2:
        try:
            found = zlib.decompressobj(-15).decompress(data, size) if size else b""
        except zlib.error as error:
            raise MalformedInput(f"{name} is damaged: {error}") from error
    elif compression == 1:
        if _decompress_zstd is None:
            raise UnknownFormat(f"MSFZ, not verifiable: {name} is compressed with zstd, which needs Python 3.14")
        found = _decompress_zstd(data, size)
    else:
        raise UnknownFormat(f"MSFZ, not verifiable: {name} is compressed in an unknown way ({compression})")
    if len(found) != size:
        raise MalformedInput(f"{name} has {len(found)} of {size} bytes")
    return found


StreamContainer: TypeAlias = Msf | Msfz


def _check_range(name: str, size: int, offset: int, length: int) -> None:
    if offset < 0 or length < 0 or offset + length > size:
        raise TruncatedInput(f"{name} ends at {size:#x}, within {length} bytes that are needed from {offset:#x}")
