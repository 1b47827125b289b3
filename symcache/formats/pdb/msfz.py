"""The MSFZ container: the streams of a PDB in compressed chunks, each of which can be read alone."""

from __future__ import annotations

import zlib
from bisect import bisect_right
from itertools import accumulate
from struct import unpack_from
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput, TruncatedInput, UnknownFormat

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.view import ByteView

__all__ = ["MSFZ_MAGIC", "Msfz", "MsfzStream"]


MSFZ_MAGIC = b"Microsoft MSFZ Container\r\n\x1aALD\0\0"

_HEADER_BYTES = 80
_CHUNK_ENTRY_BYTES = 20
_NIL = 0xFFFFFFFF
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


class MsfzStream:
    """The bytes of one stream, gathered from its fragments; see `Msfz`."""

    def __init__(self, container: Msfz, fragments: tuple[tuple[int, int], ...], name: str) -> None:
        self._container = container
        self._fragments = fragments
        self._ends = list(accumulate(size for size, _ in fragments))
        self._name = name

    @property
    def size(self) -> int:
        """Length in bytes."""
        return self._ends[-1] if self._ends else 0

    def read(self, offset: int, length: int) -> bytes:
        """Return exactly *length* bytes from *offset*; see `ByteView.read`.

        Raises:
            TruncatedInput: The stream ends first.
            MalformedInput: A chunk is damaged.
            UnknownFormat: A chunk is compressed in a way that cannot be read here.
        """
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TruncatedInput(
                f"{self._name} ends at {self.size:#x}, within {length} bytes that are needed from {offset:#x}"
            )
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

    Args:
        view: The file.

    Attributes:
        stream_count: How many streams there are, nil ones counted.

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

    def stream(self, index: int) -> MsfzStream:
        """Return the bytes of a stream; a nil stream, or one past the last, is empty.

        Raises:
            MalformedInput: The directory ends before the fragments of the stream.
        """
        return MsfzStream(self, self._find_fragments(index) or (), f"stream {index}")

    def read_fragment(self, location: int, skip: int, length: int) -> bytes:
        """Return *length* bytes that begin *skip* bytes after *location*; see the class for what that is.

        Raises:
            TruncatedInput, MalformedInput, UnknownFormat: As `MsfzStream.read`.
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
