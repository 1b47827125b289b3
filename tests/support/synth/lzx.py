"""A writer of LZX frames for tests: greedy, slow, and able to make every kind of block at will.

Source: Microsoft's LZX data compression format paper, and [MS-PATCH] section 2.
"""

from __future__ import annotations

import heapq
from collections import Counter
from dataclasses import dataclass, field
from itertools import cycle, groupby
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

__all__ = ["BlockKind", "lzx_frames"]

BlockKind = Literal["verbatim", "aligned", "stored"]

_FRAME = 32768
_KIND_NUMBER = {"verbatim": 1, "aligned": 2, "stored": 3}
_SLOT_COUNT = {15: 30, 16: 32, 17: 34, 18: 36, 19: 38, 20: 42, 21: 50}
_FOOTER_BITS = [0, 0, 0, 0] + [bits for bits in range(1, 17) for _ in range(2)] + [17] * 14
_SLOT_BASE = [sum(1 << bits for bits in _FOOTER_BITS[:slot]) for slot in range(50)]


def lzx_frames(
    data: bytes,
    *,
    window_bits: int = 18,
    kinds: Sequence[BlockKind] = ("verbatim",),
    block_bytes: int = 1 << 18,
    e8_size: int = 0,
) -> list[bytes]:
    """Return the frames of *data*: what each 32 KiB of it, or less at the end, become.

    Args:
        data: What to compress.
        window_bits: Base-2 logarithm of the window, 15 to 21.
        kinds: Kinds of the blocks, repeated in this order as long as there are data.
        block_bytes: Length of each block before compression; the last is shorter. Under 2^24.
        e8_size: File size for the translation of x86 calls, under 2^31; 0 leaves calls alone.
    """
    if e8_size:
        data = b"".join(_translate(data[at : at + _FRAME], at, e8_size) for at in range(0, len(data), _FRAME))
    bits = _BitWriter()
    bits.put(1 if e8_size else 0, 1)
    if e8_size:
        bits.put(e8_size >> 16, 16)
        bits.put(e8_size & 0xFFFF, 16)
    encoder = _Encoder(data, window_bits, bits)
    kind = cycle(kinds)
    for start in range(0, len(data), block_bytes):
        encoder.write_block(next(kind), start, min(start + block_bytes, len(data)))
    if len(data) % _FRAME:
        bits.end_frame()
    return bits.frames


@dataclass(slots=True)
class _Token:
    """A literal, or a match with its position slot and what its footer holds."""

    symbol: int
    size: int = 1
    length_symbol: int | None = None
    footer_bits: int = 0
    footer: int = 0


@dataclass
class _BitWriter:
    """Bits into 16-bit little-endian words, highest first, cut into frames."""

    frames: list[bytes] = field(default_factory=list)
    _frame: bytearray = field(default_factory=bytearray)
    _pending: int = 0
    _count: int = 0

    def put(self, value: int, count: int) -> None:
        self._pending = self._pending << count | value
        self._count += count
        while self._count >= 16:
            self._count -= 16
            self._frame += (self._pending >> self._count & 0xFFFF).to_bytes(2, "little")
        self._pending &= (1 << self._count) - 1

    def pad(self, *, always: bool = False) -> None:
        """Fill up the word; if it is full and *always* is set, add one of zeros."""
        if self._count or always:
            self.put(0, 16 - self._count)

    def put_bytes(self, data: bytes) -> None:
        assert not self._count, "bytes stand between whole words"
        self._frame += data

    def end_frame(self) -> None:
        self.pad()
        self.frames.append(bytes(self._frame))
        self._frame.clear()


class _Encoder:
    def __init__(self, data: bytes, window_bits: int, bits: _BitWriter) -> None:
        self._data = data
        self._bits = bits
        self._farthest = (1 << window_bits) - 3
        self._offsets = [1, 1, 1]
        self._last_seen: dict[bytes, int] = {}
        self._main_lengths = [0] * (256 + 8 * _SLOT_COUNT[window_bits])
        self._length_lengths = [0] * 249

    def write_block(self, kind: BlockKind, start: int, end: int) -> None:
        self._bits.put(_KIND_NUMBER[kind], 3)
        self._bits.put(end - start >> 8, 16)
        self._bits.put(end - start & 0xFF, 8)
        if kind == "stored":
            self._write_stored(start, end)
        else:
            self._write_tokens(list(self._tokens(start, end)), start, aligned=kind == "aligned")

    def _write_stored(self, start: int, end: int) -> None:
        self._bits.pad(always=True)
        for offset in self._offsets:
            self._bits.put_bytes(offset.to_bytes(4, "little"))
        for piece_start, piece_end in _frame_pieces(start, end):
            self._bits.put_bytes(self._data[piece_start:piece_end])
            if piece_end == end and (end - start) % 2:
                self._bits.put_bytes(b"\0")
            if piece_end % _FRAME == 0:
                self._bits.end_frame()
        for at in range(start, end):
            self._last_seen[self._data[at : at + 3]] = at

    def _write_tokens(self, tokens: list[_Token], start: int, *, aligned: bool) -> None:
        low_codes: dict[int, tuple[int, int]] = {}
        if aligned:
            uses = Counter(range(8)) + Counter(t.footer & 7 for t in tokens if t.footer_bits >= 3)
            low_lengths = _code_lengths(uses, 8, 7)
            low_codes = _codes(low_lengths)
            for length in low_lengths:
                self._bits.put(length, 3)
        main = _code_lengths(Counter([0, 1]) + Counter(t.symbol for t in tokens), len(self._main_lengths), 16)
        tails = Counter(t.length_symbol for t in tokens if t.length_symbol is not None)
        tail = _code_lengths(Counter([0, 1]) + tails if tails else Counter(), 249, 16)
        self._write_lengths(self._main_lengths[:256], main[:256])
        self._write_lengths(self._main_lengths[256:], main[256:])
        self._write_lengths(self._length_lengths, tail)
        self._main_lengths, self._length_lengths = main, tail
        main_codes, length_codes = _codes(main), _codes(tail)
        at = start
        for token in tokens:
            self._bits.put(*main_codes[token.symbol])
            if token.length_symbol is not None:
                self._bits.put(*length_codes[token.length_symbol])
            if aligned and token.footer_bits >= 3:
                self._bits.put(token.footer >> 3, token.footer_bits - 3)
                self._bits.put(*low_codes[token.footer & 7])
            else:
                self._bits.put(token.footer, token.footer_bits)
            at += token.size
            if at % _FRAME == 0:
                self._bits.end_frame()

    def _tokens(self, start: int, end: int) -> Iterator[_Token]:
        at = start
        while at < end:
            token = self._find_match(at, min(end, at - at % _FRAME + _FRAME)) or _Token(self._data[at])
            yield token
            for passed in range(at, at + token.size):
                self._last_seen[self._data[passed : passed + 3]] = passed
            at += token.size

    def _find_match(self, at: int, stop: int) -> _Token | None:
        """Return the longest match among the last three offsets and the last place with the same three bytes."""
        seen = self._last_seen.get(self._data[at : at + 3])
        offsets = [*self._offsets] if seen is None else [*self._offsets, at - seen]
        best, size = 0, 1
        for index, offset in enumerate(offsets):
            if offset <= min(at, self._farthest) and (length := self._common(at, offset, stop)) > size:
                best, size = index, length
        if size < 2:
            return None
        footer_bits, footer = 0, 0
        if best < 3:
            slot = best
            self._offsets[0], self._offsets[best] = self._offsets[best], self._offsets[0]
        else:
            formatted = offsets[3] + 2
            slot = max(slot for slot in range(3, 50) if _SLOT_BASE[slot] <= formatted)
            footer_bits, footer = _FOOTER_BITS[slot], formatted - _SLOT_BASE[slot]
            self._offsets = [offsets[3], *self._offsets[:2]]
        head = min(size - 2, 7)
        return _Token(256 + 8 * slot + head, size, size - 9 if head == 7 else None, footer_bits, footer)

    def _common(self, at: int, offset: int, stop: int) -> int:
        length = 0
        longest = min(257, stop - at)
        while length < longest and self._data[at + length] == self._data[at + length - offset]:
            length += 1
        return length

    def _write_lengths(self, before: Sequence[int], after: Sequence[int]) -> None:
        symbols = list(_length_symbols(before, after))
        pre = _code_lengths(Counter([0, 1]) + Counter(symbol for symbol, _, _ in symbols), 20, 15)
        for length in pre:
            self._bits.put(length, 4)
        codes = _codes(pre)
        for symbol, extra, extra_bits in symbols:
            self._bits.put(*codes[symbol])
            self._bits.put(extra, extra_bits)


def _length_symbols(before: Sequence[int], after: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (symbol, extra, bits of extra) for a tree; runs of zeros and of equal lengths get their short forms."""
    at = 0
    for length, group in groupby(after):
        run = len(list(group))
        while run:
            if length == 0 and run >= 20:
                take = min(run, 51)
                yield 18, take - 20, 5
            elif length == 0 and run >= 4:
                take = min(run, 19)
                yield 17, take - 4, 4
            elif run >= 4:
                take = min(run, 5)
                yield 19, take - 4, 1
                yield (before[at] - length) % 17, 0, 0
            else:
                take = 1
                yield (before[at] - length) % 17, 0, 0
            at += take
            run -= take


def _code_lengths(uses: Counter[int], symbols: int, longest: int) -> list[int]:
    """Return Huffman code lengths, none over *longest*; rare symbols are made less rare until that holds."""
    lengths = [0] * symbols
    while uses:
        heap: list[tuple[int, int, tuple[int, ...]]] = [(count, symbol, (symbol,)) for symbol, count in uses.items()]
        heapq.heapify(heap)
        lengths = [0] * symbols
        while len(heap) > 1:
            left, right = heapq.heappop(heap), heapq.heappop(heap)
            for symbol in left[2] + right[2]:
                lengths[symbol] += 1
            heapq.heappush(heap, (left[0] + right[0], left[1], left[2] + right[2]))
        if max(lengths) <= longest:
            break
        uses = Counter({symbol: count // 2 + 1 for symbol, count in uses.items()})
    return lengths


def _codes(lengths: Iterable[int]) -> dict[int, tuple[int, int]]:
    """Return (code, length) of each symbol: codes count up, by length, then by symbol."""
    codes = {}
    code, width = 0, 0
    for length, symbol in sorted((length, symbol) for symbol, length in enumerate(lengths) if length):
        code <<= length - width
        width = length
        codes[symbol] = (code, length)
        code += 1
    return codes


def _frame_pieces(start: int, end: int) -> Iterator[tuple[int, int]]:
    while start < end:
        stop = min(end, start - start % _FRAME + _FRAME)
        yield start, stop
        start = stop


def _translate(frame: bytes, position: int, file_size: int) -> bytes:
    """Turn the relative targets of calls into absolute ones, but for the last ten bytes of the frame."""
    out = bytearray(frame)
    at = 0
    while at < len(out) - 10:
        if out[at] != 0xE8:
            at += 1
            continue
        here = position + at
        relative = int.from_bytes(out[at + 1 : at + 5], "little", signed=True)
        if -here <= relative < file_size - here:
            out[at + 1 : at + 5] = (relative + here).to_bytes(4, "little", signed=True)
        elif file_size - here <= relative < file_size:
            out[at + 1 : at + 5] = (relative - file_size).to_bytes(4, "little", signed=True)
        at += 5
    return bytes(out)
