"""What Windows compresses files with, piece by piece: LZNT1, XPRESS with Huffman codes, LZX in chunks.

Each function returns exactly the length asked for and raises `MalformedInput`; none makes more than that.
Sources: [MS-XCA] 2.2 (XPRESS Huffman) and 2.5 (LZNT1); [MS-PATCH] 2 and wimlib's documentation for LZX in WIM files.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import MalformedInput
from symcache.formats.disk.bounded import Recent
from symcache.formats.lzx import BitStream, LzxDecoder, make_code_table, undo_e8
from symcache.formats.view import check_range, parse_uint, read_in_parts

if TYPE_CHECKING:
    from symcache.formats.disk.bounded import Budget
    from symcache.formats.view import ByteView

_LZNT1_CHUNK = 4096


def expand_lznt1(data: bytes, size_bytes: int) -> bytes:
    """Return the first *size_bytes* of what *data* holds, with zeros behind its end as NTFS has them.

    A chunk is a u16: bits 0 to 11 its length less 1, bit 15 set if it is compressed; it gives 4,096 bytes at most.
    """
    out = bytearray()
    at = 0
    while len(out) < size_bytes and at + 2 <= len(data):
        header = int.from_bytes(data[at : at + 2], "little")
        if not header:
            break
        at += 2
        chunk = data[at : at + (header & 0xFFF) + 1]
        at += (header & 0xFFF) + 1
        piece = _expand_lznt1_chunk(chunk) if header & 0x8000 else chunk
        out += piece
        if len(out) < size_bytes:
            out += bytes(-len(out) % _LZNT1_CHUNK)
    return bytes(out[:size_bytes]) + bytes(max(0, size_bytes - len(out)))


def _expand_lznt1_chunk(chunk: bytes) -> bytes:
    """Tokens in groups of eight behind a byte of flags: a literal, or a u16 of offset and length.

    How many bits the offset has depends on how far the output has come: at least four, and as many as it needs.
    """
    out = bytearray()
    at = 0
    while at < len(chunk):
        flags = chunk[at]
        at += 1
        for bit in range(8):
            if at >= len(chunk):
                break
            if not flags >> bit & 1:
                out.append(chunk[at])
                at += 1
                continue
            token = int.from_bytes(chunk[at : at + 2], "little")
            at += 2
            length_bits = 12 - max(0, (len(out) - 1).bit_length() - 4) if out else 12
            length = (token & (1 << length_bits) - 1) + 3
            distance = (token >> length_bits) + 1
            if distance > len(out):
                raise MalformedInput("LZNT1 match reaches out of its chunk")
            _copy_match(out, distance, length)
            if len(out) > _LZNT1_CHUNK:
                raise MalformedInput("LZNT1 chunk gives more than 4,096 bytes")
    return bytes(out)


def _copy_match(out: bytearray, distance: int, length: int) -> None:
    source = len(out) - distance
    if length <= distance:
        out += out[source : source + length]
    else:
        out += (out[source:] * (length // distance + 1))[:length]


_XPRESS_SYMBOLS = 512


def expand_xpress(data: bytes, size_bytes: int) -> bytes:
    """Return the first *size_bytes* of what *data*, one chunk with one tree, holds.

    256 bytes of code lengths, 4 bits each; then codes in 16-bit little-endian words from the highest bit down, of
    which two are ahead, so that the bytes of long matches stand between the words.
    """
    if len(data) < _XPRESS_SYMBOLS // 2:
        raise MalformedInput("XPRESS chunk ends within its tree")
    lengths = [length for byte in data[:256] for length in (byte & 15, byte >> 4)]
    table = make_code_table(lengths, "XPRESS")
    shift = 33 - len(table).bit_length()
    padded = data + bytes(8)  # the words ahead at the end; what uses more of them is told below
    at = 260
    ahead = int.from_bytes(padded[256:258], "little") << 16 | int.from_bytes(padded[258:260], "little")
    spare = 16
    out = bytearray()
    try:
        while len(out) < size_bytes:
            used, symbol = table[ahead >> shift]
            match_bits = 0
            if symbol >= 256:
                match_bits = symbol - 256 >> 4
            ahead = ahead << used & 0xFFFFFFFF
            spare -= used
            if spare < 0:
                ahead |= (padded[at] | padded[at + 1] << 8) << -spare
                spare += 16
                at += 2
            if symbol < 256:
                out.append(symbol)
                continue
            length = symbol & 15
            if length == 15:
                length = padded[at] + 15
                at += 1
                if length == 270:
                    length = padded[at] | padded[at + 1] << 8
                    at += 2
                    if not length:
                        length = int.from_bytes(padded[at : at + 4], "little")
                        at += 4
            distance = (1 << match_bits) + (ahead >> 32 - match_bits)
            ahead = ahead << match_bits & 0xFFFFFFFF
            spare -= match_bits
            if spare < 0:
                ahead |= (padded[at] | padded[at + 1] << 8) << -spare
                spare += 16
                at += 2
            if distance > len(out):
                raise MalformedInput("XPRESS match reaches out of its chunk")
            _copy_match(out, distance, min(length + 3, size_bytes - len(out)))
    except IndexError:
        raise MalformedInput("XPRESS data ends early") from None
    return bytes(out)


_WIM_E8_SIZE = 12_000_000
_DEFAULT_BLOCK = 32768


class _LzxChunkDecoder(LzxDecoder):
    """LZX as WIM files and compressed files of NTFS hold it: chunks that know nothing of each other.

    Unlike in cabinets, calls are always translated, as in a file of 12,000,000 bytes, and a block's length is one bit
    if it is 32,768.
    """

    def __init__(self, window_bits: int) -> None:
        super().__init__(window_bits)
        self._wide_sizes = window_bits > 15

    def expand(self, data: bytes, size_bytes: int) -> bytes:
        """Return the one chunk that this decoder is for; see `expand_lzx`."""
        bits = BitStream(data)
        try:
            while len(self._output) < size_bytes:
                self._decode_piece(bits, size_bytes)
        except IndexError:
            raise MalformedInput("LZX data ends early, or uses a tree without codes") from None
        bits.check_not_overdrawn()
        chunk = self._output
        undo_e8(chunk, 0, _WIM_E8_SIZE)
        return bytes(chunk)

    def _take_block_size(self, bits: BitStream) -> int:
        if bits.take(1):
            return _DEFAULT_BLOCK
        size = bits.take(16)
        return size << 8 | bits.take(8) if self._wide_sizes else size


def expand_lzx(data: bytes, size_bytes: int, chunk_bytes: int = 32768) -> bytes:
    """Return the *size_bytes* of one chunk; *chunk_bytes*, a power of two, is the length of all chunks but the last."""
    return _LzxChunkDecoder(chunk_bytes.bit_length() - 1).expand(data, size_bytes)


class ChunkedView:
    """What a file of NTFS or a resource of a WIM file holds; only the chunks that are asked for are expanded.

    In front stands where each chunk but the first begins, from the end of that table: u32, or u64 for more than 4 GiB.
    A chunk that is as long as what it holds is stored.
    """

    def __init__(self, data: ByteView, size: int, chunk_bytes: int, *, is_lzx: bool, budget: Budget) -> None:
        self._data = data
        self._chunk_bytes = chunk_bytes
        self._is_lzx = is_lzx
        self._budget = budget
        self.size = size
        self._chunks = -(-size // chunk_bytes)
        self._number_bytes = 8 if size > 0xFFFFFFFF else 4
        self._table_bytes = max(0, self._chunks - 1) * self._number_bytes
        if self._table_bytes > data.size:
            raise MalformedInput(f"a table of {self._chunks} chunks does not fit into {data.size} bytes")
        self._expanded: Recent[bytes] = Recent(4)

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        return read_in_parts(self._read_some, offset, length)

    def _read_some(self, offset: int, length: int) -> bytes:
        number, inside = divmod(offset, self._chunk_bytes)
        return self._expanded.get(number, self._expand)[inside : inside + length]

    def _expand(self, number: int) -> bytes:
        start = self._start_of(number)
        stop = self._start_of(number + 1) if number + 1 < self._chunks else self._data.size - self._table_bytes
        size = min(self._chunk_bytes, self.size - number * self._chunk_bytes)
        if not 0 < stop - start <= size or self._table_bytes + stop > self._data.size:
            raise MalformedInput(f"chunk {number} of compressed data lies outside of it")
        data = self._data.read(self._table_bytes + start, stop - start)
        if len(data) == size:
            return data
        self._budget.spend(size)
        return expand_lzx(data, size, self._chunk_bytes) if self._is_lzx else expand_xpress(data, size)

    def _start_of(self, number: int) -> int:
        if not number:
            return 0
        return parse_uint(self._data.read((number - 1) * self._number_bytes, self._number_bytes), 0, self._number_bytes)
