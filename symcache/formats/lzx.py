"""LZX as cabinets hold it: one frame of at most 32 KiB at a time, in pure Python.

The cost of a frame is the loop in `LzxDecoder._decode_symbols`; everything around it is written to be read. There the
bits live in one local integer, a symbol is one look-up in a table as wide as the longest code, and a match is one slice.

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

    # (bits of the code, symbol), indexed by the next bits of the stream.
    _Table = list[tuple[int, int]]
    # (length, position slot, verbatim bits, base offset, whether three aligned bits follow), indexed by main symbol.
    _Matches = list[tuple[int, int, int, int, bool]]

__all__ = ["FRAME_BYTES", "LzxDecoder", "undo_e8"]

FRAME_BYTES = 32768
_SLOTS = {15: 30, 16: 32, 17: 34, 18: 36, 19: 38, 20: 42, 21: 50}
_LITERALS = 256
_LENGTH_SYMBOLS = 249
_LENGTH_FOLLOWS = 9  # the longest length that a main symbol holds; the length tree says how much more
_LONGEST_CODE = 16
_VERBATIM, _ALIGNED, _STORED = 1, 2, 3
_E8_FRAMES = 32768  # translation ends after 1 GiB
_NO_MATCH = (0, 0, 0, 0, False)


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
        self._pad_due = False  # a stored block of odd length ended with its frame, before its pad byte
        self._main_lengths = [0] * (_LITERALS + 8 * slots)
        self._length_lengths = [0] * _LENGTH_SYMBOLS
        self._main: _Table = []
        self._lengths: _Table = []
        self._aligned: _Table = []
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
        bits = _Bits(data)
        if self._pad_due:
            bits.seek(1)
            self._pad_due = False
        if not self._frames:
            self._e8_size = bits.take(16) << 16 | bits.take(16) if bits.take(1) else 0
        start = len(self._output)
        end = start + size_bytes
        try:
            while len(self._output) < end:
                self._decode_piece(bits, end)
        except IndexError:  # checked here because a check for each symbol would cost a tenth of the speed
            raise MalformedInput("LZX data ends early, or uses a tree without codes") from None
        bits.check_not_overdrawn()
        frame = self._output[start:]
        if self._e8_size and self._frames < _E8_FRAMES:
            undo_e8(frame, self._frames * FRAME_BYTES, self._e8_size)
        self._frames += 1
        return bytes(frame)

    def _decode_piece(self, bits: _Bits, end: int) -> None:
        """Decode to the end of the block or of the frame, whichever comes first."""
        if not self._block_left:
            self._begin_block(bits)
        start = len(self._output)
        stop = min(end, start + self._block_left)
        if self._block_kind == _STORED:
            self._output += bits.take_bytes(stop - start)
        else:
            self._decode_symbols(bits, stop)
        self._block_left -= stop - start
        if self._block_kind == _STORED and not self._block_left and self._stored_is_odd:
            self._pad_due = bits.at_end
            if not self._pad_due:
                bits.take_bytes(1)

    def _begin_block(self, bits: _Bits) -> None:
        self._block_kind = bits.take(3)
        self._block_left = bits.take(16) << 8 | bits.take(8)
        if not self._block_left:
            raise MalformedInput("LZX block without bytes")
        match self._block_kind:
            case 1 | 2:
                if self._block_kind == _ALIGNED:
                    self._aligned = _decode_table([bits.take(3) for _ in range(8)], "aligned offset")
                self._matches = self._aligned_matches if self._block_kind == _ALIGNED else self._plain_matches
                _read_lengths(bits, self._main_lengths, 0, _LITERALS)
                _read_lengths(bits, self._main_lengths, _LITERALS, len(self._main_lengths))
                self._main = _decode_table(self._main_lengths, "main")
                _read_lengths(bits, self._length_lengths, 0, _LENGTH_SYMBOLS)
                self._lengths = _decode_table(self._length_lengths, "length") if any(self._length_lengths) else []
            case 3:
                bits.align_after()
                self._repeated = struct.unpack("<3I", bits.take_bytes(12))
                self._stored_is_odd = bool(self._block_left & 1)
            case kind:
                raise MalformedInput(f"LZX block of unknown kind {kind}")

    def _decode_symbols(self, bits: _Bits, stop: int) -> None:
        """Decode literals and matches until the output is *stop* bytes long.

        A match is a main symbol (length up to 8 and position slot), then a length symbol, verbatim bits and an aligned
        symbol where these are called for. Slots 0 to 2 repeat one of the last three offsets.
        """
        output = self._output
        append = output.append
        words, word, buffer, left = bits.words, bits.word, bits.buffer, bits.left
        main, main_bits = self._main, _index_bits(self._main)
        main_mask = len(main) - 1
        lengths, length_bits = self._lengths, _index_bits(self._lengths)
        length_mask = len(lengths) - 1
        aligned, aligned_bits = self._aligned, _index_bits(self._aligned)
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
            length, slot, verbatim_bits, offset, has_aligned = matches[symbol]
            if length == 9:
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
                    offset += (buffer >> left & (1 << verbatim_bits) - 1) << 3 * has_aligned
                if has_aligned:
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


class _Bits:
    """The bits of a frame: 16-bit little-endian words, each from its highest bit down; two of them are one of ours.

    `LzxDecoder._decode_symbols` takes *words*, *word*, *buffer* and *left* into locals and puts them back.
    """

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.seek(0)

    def seek(self, position: int) -> None:
        """Go on with the first bit of the byte at *position*; words count from there."""
        self._start = position
        count = (len(self._data) - position + 3) // 4 + 1  # one more, for a look beyond the last code
        swapped = bytearray(4 * count)
        rest = self._data[position:]
        swapped[1 : 2 * ((len(rest) + 1) // 2) + 1 : 2] = rest[0::2]
        swapped[0 : 2 * (len(rest) // 2) : 2] = rest[1::2]
        self.words: Sequence[int] = struct.unpack(f">{count}I", swapped)
        self.word = 0
        self.buffer = 0
        self.left = 0  # bits of the buffer that are not used yet; those above them are stale

    def take(self, count: int) -> int:
        """Return the next *count* bits, at most 17, as a number."""
        if self.left < count:
            self.buffer = (self.buffer & 0xFFFF) << 32 | self.words[self.word]
            self.word += 1
            self.left += 32
        self.left -= count
        return self.buffer >> self.left & (1 << count) - 1

    def take_code(self, table: _Table) -> int:
        """Return the symbol of the next code; *table* has 2^15 entries at most."""
        width = _index_bits(table)
        used, symbol = table[self.take(width)]
        self.left += width - used
        return symbol

    def align_after(self) -> None:
        """Go to the next 16-bit boundary; from a boundary, to the one after it."""
        self.take(self.left % 16 or 16)
        self.seek(self._start + 4 * self.word - self.left // 8)

    def take_bytes(self, count: int) -> bytes:
        """Return *count* bytes from a byte boundary, and start anew behind them."""
        position = self._start + 4 * self.word - self.left // 8
        piece = self._data[position : position + count]
        if len(piece) < count:
            raise MalformedInput("LZX block of stored bytes ends early")
        self.seek(position + count)
        return piece

    @property
    def at_end(self) -> bool:
        """Whether no byte is left."""
        return self._start + 4 * self.word - self.left // 8 >= len(self._data)

    def check_not_overdrawn(self) -> None:
        """Raise `MalformedInput` if bits behind the data were used."""
        if self._start + 4 * self.word - self.left // 8 > len(self._data) + 1:  # an odd end lacks half a word
            raise MalformedInput("LZX data ends early")


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
        table += [(length + 2, slot, verbatim_bits, base - 2, has_aligned) for length in range(8)]
        base += 1 << extra
    return table


def _read_lengths(bits: _Bits, lengths: list[int], start: int, end: int) -> None:
    """Read code lengths *start* to *end*, each written as a difference to the one before it in time, modulo 17.

    Twenty lengths of 4 bits make a tree of their own, whose symbols are: 0 to 16 a difference; 17 and 18 a run of
    zeros (4 + 4 bits, 20 + 5 bits); 19 a run of one difference (4 + 1 bits).
    """
    table = _decode_table([bits.take(4) for _ in range(20)], "pre")
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


def _decode_table(lengths: Sequence[int], tree: str) -> _Table:
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
    table: _Table = []
    for length in range(1, longest + 1):
        for symbol in by_length[length]:
            table += repeat((length, symbol), 1 << (longest - length))
    return table


def _index_bits(table: _Table) -> int:
    return len(table).bit_length() - 1 if table else 0
