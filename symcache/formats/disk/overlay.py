"""Files that the overlay filter of Windows (WOF) keeps compressed: ``compact /exe`` and CompactOS.

Source: Windows SDK wofapi.h; the chunk table as wimlib's documentation of system compression has it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import MalformedInput
from symcache.formats.disk.compression import ChunkedView
from symcache.formats.view import parse_uint

if TYPE_CHECKING:
    from symcache.formats.disk.bounded import Budget
    from symcache.formats.view import ByteView

_LZX = 1
_CHUNK_BYTES = {0: 4096, _LZX: 32768, 2: 8192, 3: 16384}
_IN_WIM = 1
_IN_FILE = 2


def read_overlay_algorithm(data: bytes) -> int:
    """Return how a file is compressed: *data* is what its reparse point says behind the tag.

    Layout: u32 version, u32 provider (1: in a WIM file, 2: in the file itself), u32 version, u32 algorithm.

    Raises:
        MalformedInput: Its data is in a WIM file elsewhere, or in a way that is not known.
    """
    if len(data) < 16:
        raise MalformedInput("its reparse point of the overlay filter is too short")
    provider, algorithm = parse_uint(data, 4, 4), parse_uint(data, 12, 4)
    if provider == _IN_WIM:
        raise MalformedInput("its data lies in a WIM file elsewhere (WIMBoot): give that file, too")
    if provider != _IN_FILE or algorithm not in _CHUNK_BYTES:
        raise MalformedInput(f"the overlay filter's provider {provider} with algorithm {algorithm} is not known")
    return algorithm


def open_overlay(data: ByteView, size: int, algorithm: int, budget: Budget) -> ByteView:
    """Return what a file of *size* bytes holds, whose stream *data* is compressed by *algorithm*.

    Raises:
        MalformedInput: The stream is too short for as many chunks.
    """
    return ChunkedView(data, size, _CHUNK_BYTES[algorithm], is_lzx=algorithm == _LZX, budget=budget)
