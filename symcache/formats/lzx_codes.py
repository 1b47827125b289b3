"""The bit stream of LZX and the codes in it: canonical Huffman trees, sent as differences to the tree before.

Source: as for `symcache.formats.lzx`.
"""

from __future__ import annotations

import struct
from itertools import repeat
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["BitStream", "CodeTable", "index_bits", "make_code_table", "read_code_lengths"]

# (bits of the code, symbol), indexed by as many of the next bits as the longest code has.
CodeTable = list[tuple[int, int]]

_LONGEST_CODE = 16


class BitStream:
    """The bits of a frame: 16-bit little-endian words, each from its highest bit down; two of them are one of ours.

    `LzxDecoder._decode_symbols` takes *words*, *word*, *buffer* and *left* into locals and puts them back.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._load(0)

    def _load(self, start: int) -> None:
        """Cut the data into words from the byte at *start* on."""
        self._start = start
        rest = self._data[start:]
        count = (len(rest) + 3) // 4 + 1  # one more, for a look beyond the last code
        swapped = bytearray(4 * count)
        swapped[1 : len(rest) + len(rest) % 2 : 2] = rest[0::2]
        swapped[0 : len(rest) - len(rest) % 2 : 2] = rest[1::2]
        self.words: Sequence[int] = struct.unpack(f">{count}I", swapped)
        self.word = 0
        self.buffer = 0
        self.left = 0  # bits of the buffer that are not used yet; those above them are stale

    @property
    def size(self) -> int:
        """Length of the data, in bytes."""
        return len(self._data)

    @property
    def position(self) -> int:
        """Offset of the next bit's byte; one behind the data if the pad byte of stored bytes is missing."""
        return self._start + (32 * self.word - self.left) // 8

    def take(self, count: int) -> int:
        """Return the next *count* bits, at most 17, as a number."""
        if self.left < count:
            self.buffer = (self.buffer & 0xFFFF) << 32 | self.words[self.word]
            self.word += 1
            self.left += 32
        self.left -= count
        return self.buffer >> self.left & (1 << count) - 1

    def take_code(self, table: CodeTable) -> int:
        """Return the symbol of the next code; *table* has 2^15 entries at most."""
        width = index_bits(table)
        used, symbol = table[self.take(width)]
        self.left += width - used
        return symbol

    def align_after(self) -> None:
        """Go to the next 16-bit boundary; from a boundary, to the one after it."""
        self.take(self.left % 16 or 16)

    def take_bytes(self, count: int, *, skip: int = 0) -> bytes:
        """Return *count* bytes from a byte boundary, and go on *skip* bytes behind them.

        Raises:
            MalformedInput: There are not as many.
        """
        start = self.position
        piece = self._data[start : start + count]
        if len(piece) < count:
            raise MalformedInput("LZX block of stored bytes ends early")
        self._seek(start + count + skip)
        return piece

    def _seek(self, position: int) -> None:
        """Go on with the first bit of the byte at *position*."""
        word, rest = divmod(position - self._start, 4)
        if rest % 2 or word > len(self.words) - 1:
            self._load(position)
            return
        self.word, self.buffer, self.left = word, 0, 0
        if rest:
            self.take(16)

    def check_not_overdrawn(self) -> None:
        """Raise `MalformedInput` if bits behind the data were used."""
        words = (len(self._data) - self._start + 1) // 2
        if 32 * self.word - self.left > 16 * words:
            raise MalformedInput("LZX data ends early")


def read_code_lengths(bits: BitStream, lengths: list[int], start: int, end: int) -> None:
    """Read code lengths *start* to *end*, each written as a difference to the one before it in time, modulo 17.

    Twenty lengths of 4 bits make a tree of their own, whose symbols are: 0 to 16 a difference; 17 and 18 a run of
    zeros (4 + 4 bits, 20 + 5 bits); 19 a run of one difference (4 + 1 bits).
    """
    table = make_code_table([bits.take(4) for _ in range(20)], "pre")
    at = start
    while at < end:
        symbol = bits.take_code(table)
        run, value = 1, 0
        if symbol == 17:
            run = 4 + bits.take(4)
        elif symbol == 18:
            run = 20 + bits.take(5)
        else:
            if symbol == 19:
                run = 4 + bits.take(1)
                symbol = bits.take_code(table)
                if symbol > 16:
                    raise MalformedInput("LZX run of code lengths within a run")
            value = (lengths[at] - symbol) % 17
        if at + run > end:
            raise MalformedInput("LZX run of code lengths ends behind its tree")
        lengths[at : at + run] = repeat(value, run)
        at += run


def make_code_table(lengths: Sequence[int], tree: str) -> CodeTable:
    """Return a table with 2^longest entries for canonical codes of these *lengths*, in bits; 0 is no code.

    Raises:
        MalformedInput: The codes do not fill the tree, or more than fill it.
    """
    by_length: list[list[int]] = [[] for _ in range(_LONGEST_CODE + 1)]
    for symbol, length in enumerate(lengths):
        by_length[length].append(symbol)
    room = sum(len(symbols) << (_LONGEST_CODE - length) for length, symbols in enumerate(by_length) if length)
    if room != 1 << _LONGEST_CODE:
        raise MalformedInput(f"LZX {tree} tree with too {'few' if room < 1 << _LONGEST_CODE else 'many'} codes")
    longest = max(length for length, symbols in enumerate(by_length) if symbols)
    table: CodeTable = []
    for length in range(1, longest + 1):
        for symbol in by_length[length]:
            table += repeat((length, symbol), 1 << (longest - length))
    return table


def index_bits(table: CodeTable) -> int:
    """Return how many bits of the stream index *table*."""
    return len(table).bit_length() - 1 if table else 0
