"""LZX as cabinets hold it: one frame of at most 32 KiB at a time, in pure Python.

The cost of a frame is the loop in `LzxDecoder._decode_symbols`; everything around it is written to be read. There the
bits live in one local integer, a symbol is one look-up in a table as wide as the longest code, a match is one slice,
and what would be a call, to fetch more bits, is written out four times.

Source: Microsoft's LZX data compression format paper of the Cabinet SDK, and [MS-PATCH] section 2, which corrects it;
where they are silent, what libmspack and 7-Zip agree on.
"""

from __future__ import annotations

import struct
from itertools import repeat
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    _Matches = list[tuple[int, int, int, int, int, int]]

__all__ = [
    "FRAME_BYTES",
    "BitStream",
    "CodeTable",
    "LzxDecoder",
    "index_bits",
    "make_code_table",
    "read_code_lengths",
    "undo_e8",
]


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


FRAME_BYTES = 32768
_SLOTS = {15: 30, 16: 32, 17: 34, 18: 36, 19: 38, 20: 42, 21: 50}
_LITERALS = 256
_LENGTH_SYMBOLS = 249
_VERBATIM, _ALIGNED, _STORED = 1, 2, 3
_E8_FRAMES = 32768  # translation ends after 1 GiB
_NO_MATCH = (0, 0, 0, 0, 0, 0)


class LzxDecoder:
    """Decodes the frames of one folder in their order.

    Args:
        window_bits: Base-2 logarithm of the window, 15 to 21.

    Raises:
        MalformedInput: No such window.
    """

    def __init__(self, window_bits: int) -> None:
        if window_bits not in _SLOTS:
            raise MalformedInput(f"LZX window of 2^{window_bits} bytes; 2^15 to 2^21 are possible")
        slots = _SLOTS[window_bits]
        self._window_bytes = 1 << window_bits
        self._output = bytearray()  # the window, and behind it the frame at work
        self._repeated = (1, 1, 1)
        self._block_kind = 0
        self._block_left = 0  # bytes of output
        self._stored_is_odd = False
        self._pad_due = False  # a stored block of odd length ended with its frame, before its pad byte
        self._main_lengths = [0] * (_LITERALS + 8 * slots)
        self._length_lengths = [0] * _LENGTH_SYMBOLS
        self._main: CodeTable = []
        self._lengths: CodeTable = []
        self._aligned: CodeTable = []
        self._matches: _Matches = []
        self._plain_matches = _match_table(slots, aligned=False)
        self._aligned_matches = _match_table(slots, aligned=True)
        self._e8_size = 0
        self._frames = 0

    def decode(self, data: bytes, size_bytes: int) -> bytes:
        """Return the next frame, *size_bytes* long, at most 32,768.

        Args:
            data: The whole of its compressed bytes.
            size_bytes: Its length; only the last frame of a folder may be shorter than 32,768.

        Raises:
            MalformedInput: *data* is not LZX, or gives another length. The decoder is of no further use.
        """
        del self._output[: max(0, len(self._output) - self._window_bytes)]
        bits = BitStream(data)
        if self._pad_due:
            self._pad_due = False
            bits.take_bytes(1)
        start = len(self._output)
        end = start + size_bytes
        try:
            if not self._frames and bits.take(1):
                self._e8_size = bits.take(16) << 16 | bits.take(16)
            while len(self._output) < end:
                self._decode_piece(bits, end)
        except IndexError:  # met once here: a check for each symbol costs a tenth of the speed
            raise MalformedInput("LZX data ends early, or uses a tree without codes") from None
        bits.check_not_overdrawn()
        frame = self._output[start:]
        if self._e8_size and self._frames < _E8_FRAMES:
            undo_e8(frame, self._frames * FRAME_BYTES, self._e8_size)
        self._frames += 1
        return bytes(frame)

    def _decode_piece(self, bits: BitStream, end: int) -> None:
        """Decode to the end of the block or of the frame, whichever comes first."""
        if not self._block_left:
            self._begin_block(bits)
        start = len(self._output)
        stop = min(end, start + self._block_left)
        if self._block_kind == _STORED:
            ends_odd = self._stored_is_odd and stop - start == self._block_left
            self._output += bits.take_bytes(stop - start, skip=int(ends_odd))
            self._pad_due = ends_odd and bits.position > bits.size
        else:
            self._decode_symbols(bits, stop)
        self._block_left -= stop - start

    def _begin_block(self, bits: BitStream) -> None:
        kind = bits.take(3)
        self._block_kind = kind
        self._block_left = bits.take(16) << 8 | bits.take(8)
        if not self._block_left:
            raise MalformedInput("LZX block without bytes")
        if kind in (_VERBATIM, _ALIGNED):
            if kind == _ALIGNED:
                self._aligned = make_code_table([bits.take(3) for _ in range(8)], "aligned offset")
            self._matches = self._aligned_matches if kind == _ALIGNED else self._plain_matches
            read_code_lengths(bits, self._main_lengths, 0, _LITERALS)
            read_code_lengths(bits, self._main_lengths, _LITERALS, len(self._main_lengths))
            self._main = make_code_table(self._main_lengths, "main")
            read_code_lengths(bits, self._length_lengths, 0, _LENGTH_SYMBOLS)
            self._lengths = make_code_table(self._length_lengths, "length") if any(self._length_lengths) else []
        elif kind == _STORED:
            bits.align_after()
            self._repeated = struct.unpack("<3I", bits.take_bytes(12))
            self._stored_is_odd = bool(self._block_left & 1)
        else:
            raise MalformedInput(f"LZX block of unknown kind {kind}")

    def _decode_symbols(self, bits: BitStream, stop: int) -> None:
        """Decode literals and matches until the output is *stop* bytes long.

        A match is a main symbol (length up to 8 and position slot), then a length symbol, verbatim bits and an aligned
        symbol where these are called for. Slots 0 to 2 repeat one of the last three offsets.
        """
        output = self._output
        append = output.append
        words, word, buffer, left = bits.words, bits.word, bits.buffer, bits.left
        main, main_bits = self._main, index_bits(self._main)
        main_mask = len(main) - 1
        lengths, length_bits = self._lengths, index_bits(self._lengths)
        length_mask = len(lengths) - 1
        aligned, aligned_bits = self._aligned, index_bits(self._aligned)
        aligned_mask = len(aligned) - 1
        matches = self._matches
        recent, second, third = self._repeated
        at = len(output)
        while at < stop:
            if left < main_bits:
                buffer = (buffer & 0xFFFF) << 32 | words[word]
                word += 1
                left += 32
            used, symbol = main[buffer >> left - main_bits & main_mask]
            left -= used
            if symbol < 256:
                append(symbol)
                at += 1
                continue
            length, slot, verbatim_bits, mask, shift, offset = matches[symbol]
            if length == 9:  # the most that fits into a main symbol; a length symbol says how much more
                if left < length_bits:
                    buffer = (buffer & 0xFFFF) << 32 | words[word]
                    word += 1
                    left += 32
                used, symbol = lengths[buffer >> left - length_bits & length_mask]
                left -= used
                length += symbol
            if slot > 2:
                if verbatim_bits:
                    if left < verbatim_bits:
                        buffer = (buffer & 0xFFFF) << 32 | words[word]
                        word += 1
                        left += 32
                    left -= verbatim_bits
                    offset += (buffer >> left & mask) << shift
                if shift:
                    if left < aligned_bits:
                        buffer = (buffer & 0xFFFF) << 32 | words[word]
                        word += 1
                        left += 32
                    used, symbol = aligned[buffer >> left - aligned_bits & aligned_mask]
                    left -= used
                    offset += symbol
                third = second
                second = recent
                recent = offset
            elif slot == 1:
                recent, second = second, recent
            elif slot:
                recent, third = third, recent
            source = at - recent
            at += length
            if source < 0 or at > stop:
                raise MalformedInput("LZX match reaches out of the output or its block")
            if length <= recent:
                output += output[source : source + length]
            elif recent:
                output += (output[source:] * (length // recent + 1))[:length]
            else:
                raise MalformedInput("LZX match of distance 0")
        self._repeated = (recent, second, third)
        bits.word, bits.buffer, bits.left = word, buffer, left


def undo_e8(frame: bytearray, position: int, file_size: int) -> None:
    """Turn the absolute targets of x86 calls (byte 0xE8) back into relative ones, in place.

    The last ten bytes of a frame are never looked at, so that no operand is cut; an operand is never looked into.

    Args:
        frame: One whole frame.
        position: Offset of *frame* in the folder, in bytes.
        file_size: What the maker gave as the size of the file, in bytes; targets beyond it were left alone.
    """
    at = frame.find(0xE8, 0, max(0, len(frame) - 10))
    while at >= 0:
        here = position + at
        target = int.from_bytes(frame[at + 1 : at + 5], "little", signed=True)
        if -here <= target < file_size:
            relative = target - here if target >= 0 else target + file_size
            frame[at + 1 : at + 5] = (relative & 0xFFFFFFFF).to_bytes(4, "little")
        at = frame.find(0xE8, at + 5, len(frame) - 10)


def _match_table(slots: int, *, aligned: bool) -> _Matches:
    """Return what each main symbol above the literals means: eight lengths (3 bits) in each position slot.

    The offset is a formatted one less 2. In aligned blocks three of a slot's bits, where it has three, are a code.
    """
    table = [_NO_MATCH] * _LITERALS
    base = 0
    for slot in range(slots):
        extra = 0 if slot < 4 else min(slot // 2 - 1, 17)
        has_aligned = aligned and extra >= 3
        verbatim_bits = extra - 3 if has_aligned else extra
        table += [
            (length + 2, slot, verbatim_bits, (1 << verbatim_bits) - 1, 3 * has_aligned, base - 2)
            for length in range(8)
        ]
        base += 1 << extra
    return table
