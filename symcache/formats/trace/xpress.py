"""Plain LZ77 of XPRESS, in which the buffers of compressed event logs are packed.

Source: [MS-XCA] 2.4, "Plain LZ77 Decompression Algorithm Details".
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

_LONG = 7  # a length of three bits that goes on in a nibble
_LONGER = 15  # a nibble that goes on in a byte
_LONGEST = 255  # a byte that goes on in a word


def expand(data: bytes, size: int) -> bytes:
    """Return the *size* bytes that *data* expands to; fewer where it is damaged or cut short, up to that place.

    libfwnt does it where it is installed, twenty times as fast; what it refuses may have a sound beginning.
    """
    expand_natively = _find_library()
    if expand_natively is not None:
        try:
            expanded = expand_natively(data, size)
        except OSError:
            pass
        else:
            if len(expanded) == size:
                return expanded
    return expand_in_python(data, size)


@cache
def _find_library() -> Callable[[bytes, int], bytes] | None:
    try:
        found: Callable[[bytes, int], bytes] = import_module("pyfwnt").lzxpress_decompress
    except ImportError:
        return None
    return found


def expand_in_python(data: bytes, size: int) -> bytes:
    """Return what `expand` does; time and memory are bounded by *size* and the length of *data*.

    Layout: 32 flags in a u32 LE, used from the highest; for each flag that is 0 a byte as it is, for each that is 1 a
    match: u16 LE, of which the upper 13 bits are the distance less 1 and the lower 3 the length less 3. A length of 7
    goes on in a nibble (the lower half of a byte, whose upper half serves the next such match), one of 15 in a byte,
    one of 255 in a u16, and where that is 0 in a u32; the last two state the whole length less 3.
    """
    out = bytearray()
    at, end = 0, len(data)
    done = 0  # bytes that are in *out*
    half = -1  # place of the byte whose upper half is still unused
    try:
        while done < size and at < end:
            flags = int.from_bytes(data[at : at + 4], "little")
            at += 4
            if not flags:
                out += data[at : at + 32]
                at += 32
                done = len(out)
                continue
            # A string of digits, split at the matches, tells how many literal bytes stand before each.
            runs = f"{flags:032b}".split("1")
            last = len(runs.pop())
            for run in runs:
                if run:
                    count = len(run)
                    out += data[at : at + count]
                    at += count
                    done += count
                if at >= end:  # what is left of the last flags has no meaning
                    break
                match = data[at] | data[at + 1] << 8
                at += 2
                length = match & 7
                if length == _LONG:
                    if half < 0:
                        half = at
                        length = data[at] & 15
                        at += 1
                    else:
                        length = data[half] >> 4
                        half = -1
                    if length == _LONGER:
                        length = data[at]
                        at += 1
                        if length == _LONGEST:
                            length = data[at] | data[at + 1] << 8
                            at += 2
                            if not length:
                                length = int.from_bytes(data[at : at + 4], "little")
                                at += 4
                            length -= _LONGER + _LONG
                            if length < 0:
                                break
                            length = min(length, max(size - done, 0))
                        length += _LONGER
                    length += _LONG
                length += 3
                distance = (match >> 3) + 1
                start = done - distance
                if start < 0:
                    size = min(size, done)
                    break
                if length <= distance:
                    out += out[start : start + length]
                else:
                    piece = out[start:]
                    out += (piece * (length // distance + 1))[:length]
                done += length
            else:
                if last:
                    out += data[at : at + last]
                    at += last
                done = len(out)
                continue
            break
    except IndexError:
        pass
    del out[size:]
    return bytes(out)
