"""LZX as cabinets hold it: one frame of at most 32 KiB at a time, in pure Python.

Source: Microsoft's paper on LZX in the Cabinet SDK; [MS-PATCH] 2, which corrects it; what libmspack and 7-Zip agree on.
"""

from __future__ import annotations

import struct
import sys
from array import array
from itertools import repeat
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput

if TYPE_CHECKING:
    from collections.abc import Sequence

    _Matches = list[tuple[int, int, int, int, int]]

# (bits of the code, symbol), indexed by as many of the next bits as the longest code has.
CodeTable = list[tuple[int, int]]

_LONGEST_CODE = 16


class BitStream:
    """The bits of a frame: 16-bit little-endian words, each from its highest bit down; *at* is the next one's index."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._windows_from: dict[int, array[int]] = {}  # by the offset of the first word, 0 or 1
        self._seek(0)

    @property
    def lacks_pad(self) -> bool:
        """The pad byte of stored bytes, which was skipped, is not there."""
        return self._position > len(self._data)

    @property
    def _position(self) -> int:
        return self._first + self.at // 8

    @property
    def windows(self) -> array[int]:
        """The 16 bits from each bit on, as a number; zeros stand behind the data.

        Made as a whole, by a few shifts of the frame as one number, they cost less than a buffer that is refilled
        symbol by symbol. A frame of stored bytes alone needs none.
        """
        if self._first not in self._windows_from:
            self._windows_from[self._first] = _make_windows(self._data[self._first :])
        return self._windows_from[self._first]

    def take(self, count: int) -> int:
        """Return the next *count* bits, at most 16, as a number."""
        bits = self.windows[self.at] >> _LONGEST_CODE - count
        self.at += count
        return bits

    def take_code(self, table: CodeTable) -> int:
        """Return the symbol of the next code."""
        used, symbol = table[self.windows[self.at] >> _index_shift(table)]
        self.at += used
        return symbol

    def align_after(self) -> None:
        """Go to the next 16-bit boundary; from a boundary, to the one after it."""
        self.at += 16 - self.at % 16

    def take_bytes(self, count: int, *, skip: int = 0) -> bytes:
        """Return *count* bytes from a byte boundary, and go on *skip* bytes behind them.

        Raises:
            MalformedInput: There are not as many.
        """
        start = self._position
        piece = self._data[start : start + count]
        if len(piece) < count:
            raise MalformedInput("LZX block of stored bytes ends early")
        self._seek(start + count + skip)
        return piece

    def check_not_overdrawn(self) -> None:
        """Raise `MalformedInput` if bits behind the data were used."""
        words = (len(self._data) - self._first + 1) // 2
        if self.at > 16 * words:
            raise MalformedInput("LZX data ends early")

    def _seek(self, position: int) -> None:
        """Go on with the first bit of the byte at *position*.

        Words begin there, at an even or an odd offset: however often a frame of stored blocks changes between the two,
        its windows are made twice at most.
        """
        self._first = position % 2
        self.at = 8 * (position - self._first)


def _make_windows(data: bytes) -> array[int]:
    """Return the 16 bits from each bit of *data* on, and from each of one more word of zeros."""
    swapped = bytearray(len(data) + len(data) % 2 + 4)
    swapped[1 : len(data) + len(data) % 2 : 2] = data[0::2]
    swapped[0 : len(data) - len(data) % 2 : 2] = data[1::2]
    number = int.from_bytes(swapped, "big")
    size_bytes = len(swapped) - 2
    windows = array("H", bytes(16 * size_bytes))
    for shift in range(8):
        shifted = (number << shift).to_bytes(len(swapped) + 1, "big")
        for first in (0, 1):  # a shift by eight bits more is the same from the next byte on
            every_16th = array("H", shifted[1 + first : 1 + first + size_bytes])
            if sys.byteorder == "little":
                every_16th.byteswap()
            windows[shift + 8 * first :: 16] = every_16th
    return windows


def _read_code_lengths(bits: BitStream, lengths: list[int], start: int, end: int) -> None:
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


def _index_shift(table: CodeTable) -> int:
    """Return how many of 16 bits are too many to index *table*."""
    return _LONGEST_CODE + 1 - (len(table).bit_length() or 1)


FRAME_BYTES = 32768
_SLOTS = {15: 30, 16: 32, 17: 34, 18: 36, 19: 38, 20: 42, 21: 50}
_LITERALS = 256
_LENGTH_SYMBOLS = 249
_VERBATIM, _ALIGNED, _STORED = 1, 2, 3
_E8_FRAMES = 32768  # translation ends after 1 GiB
_NO_MATCH = (0, 0, 0, 0, 0)
_MATCH_REACHES_OUT = "LZX match reaches out of the output or its block"
_OPERAND = struct.Struct("<i")


class LzxDecoder:
    """Decodes the frames of a folder in their order; raises `MalformedInput` for a window not of 2^15 to 2^21 bytes."""

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
        """Return the next frame, *size_bytes* long; only the last one of a folder may be shorter than 32,768.

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
            self._pad_due = ends_odd and bits.lacks_pad
        else:
            self._decode_symbols(bits, stop)
        self._block_left -= stop - start

    def _begin_block(self, bits: BitStream) -> None:
        kind = bits.take(3)
        self._block_kind = kind
        self._block_left = self._take_block_size(bits)
        if not self._block_left:
            raise MalformedInput("LZX block without bytes")
        if kind in (_VERBATIM, _ALIGNED):
            if kind == _ALIGNED:
                self._aligned = make_code_table([bits.take(3) for _ in range(8)], "aligned offset")
            self._matches = self._aligned_matches if kind == _ALIGNED else self._plain_matches
            _read_code_lengths(bits, self._main_lengths, 0, _LITERALS)
            _read_code_lengths(bits, self._main_lengths, _LITERALS, len(self._main_lengths))
            self._main = make_code_table(self._main_lengths, "main")
            _read_code_lengths(bits, self._length_lengths, 0, _LENGTH_SYMBOLS)
            self._lengths = make_code_table(self._length_lengths, "length") if any(self._length_lengths) else []
        elif kind == _STORED:
            bits.align_after()
            self._repeated = struct.unpack("<3I", bits.take_bytes(12))
            self._stored_is_odd = bool(self._block_left & 1)
        else:
            raise MalformedInput(f"LZX block of unknown kind {kind}")

    def _take_block_size(self, bits: BitStream) -> int:
        return bits.take(16) << 8 | bits.take(8)

    def _decode_symbols(self, bits: BitStream, stop: int) -> None:
        """Decode literals and matches until the output is *stop* bytes long.

        This loop is the cost of a frame. A symbol is two look-ups, the next 16 bits in *windows* and their meaning in a
        table; a match is one slice.

        A match is a main symbol (length up to 8 and position slot), then a length symbol, verbatim bits and an aligned
        symbol where these are called for. Slots 0 to 2 repeat one of the last three offsets.
        """
        output = self._output
        append = output.append
        windows, at_bit = bits.windows, bits.at
        main, main_shift = self._main, _index_shift(self._main)
        lengths, length_shift = self._lengths, _index_shift(self._lengths)
        aligned, aligned_shift = self._aligned, _index_shift(self._aligned)
        matches = self._matches
        recent, second, third = self._repeated
        at = len(output)
        while at < stop:
            used, symbol = main[windows[at_bit] >> main_shift]
            at_bit += used
            if symbol < 256:
                append(symbol)
                at += 1
                continue
            length, slot, verbatim_bits, has_aligned, offset = matches[symbol]
            if length == 9:  # the most that fits into a main symbol; a length symbol says how much more
                used, symbol = lengths[windows[at_bit] >> length_shift]
                at_bit += used
                length += symbol
            if slot > 2:
                third = second
                second = recent
                if has_aligned:
                    recent = offset + (windows[at_bit] >> 16 - verbatim_bits << 3)
                    at_bit += verbatim_bits
                    used, symbol = aligned[windows[at_bit] >> aligned_shift]
                    at_bit += used
                    recent += symbol
                elif verbatim_bits < 17:
                    recent = offset + (windows[at_bit] >> 16 - verbatim_bits)
                    at_bit += verbatim_bits
                else:
                    recent = offset + (windows[at_bit] << 1 | windows[at_bit + 1] & 1)
                    at_bit += verbatim_bits
            elif slot == 1:
                recent, second = second, recent
            elif slot:
                recent, third = third, recent
            source = at - recent
            if source < 0:
                raise MalformedInput(_MATCH_REACHES_OUT)
            if length <= recent:
                output += output[source : source + length]
            elif recent:
                output += (output[source:] * (length // recent + 1))[:length]
            else:
                raise MalformedInput("LZX match of distance 0")
            at += length
        if at > stop:
            raise MalformedInput(_MATCH_REACHES_OUT)
        self._repeated = (recent, second, third)
        bits.at = at_bit


def undo_e8(frame: bytearray, position: int, file_size: int) -> None:
    """Turn the absolute targets of x86 calls (byte 0xE8) back into relative ones, in place.

    The last ten bytes of a frame are never looked at, so that no operand is cut; an operand is never looked into.
    *position* is where the whole *frame* begins in its folder, *file_size* what the maker gave as the size of the file,
    both in bytes; targets beyond that were left alone.
    """
    at = frame.find(0xE8, 0, max(0, len(frame) - 10))
    while at >= 0:
        here = position + at
        (target,) = _OPERAND.unpack_from(frame, at + 1)
        if -here <= target < file_size:
            relative = target - here if target >= 0 else target + file_size
            _OPERAND.pack_into(frame, at + 1, relative)
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
        table += [(length + 2, slot, verbatim_bits, has_aligned, base - 2) for length in range(8)]
        base += 1 << extra
    return table
