"""Whether a file is a certain PDB or image, told from a few small reads, for files by the thousand.

A yes agrees with `parse_pdb` and `parse_image`; a no says nothing, as a file that is odd in any way is left to those.
"""

from __future__ import annotations

import os
import stat
import struct
from functools import partial
from struct import Struct
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Callable

    # Takes a number of bytes and an offset, and returns fewer only at the end of the file.
    Read: TypeAlias = Callable[[int, int], bytes]


def glance_at_pdb(path: str, guid: bytes, age: int) -> int | None:
    """Return the length in bytes of the PDB 7 at *path*, whole, if it has *guid* and its debug information has *age*.

    *guid* is 16 bytes as they lie in a file.
    """
    return _size_if(path, lambda read, size_bytes: _identify_pdb(read, size_bytes) == (guid, age))


def glance_at_image(path: str, timestamp: int, size_of_image: int) -> int | None:
    """Return the length in bytes of the image at *path*, whole, if it has this stamp and this SizeOfImage."""
    return _size_if(path, lambda read, size_bytes: _identify_image(read, size_bytes) == (timestamp, size_of_image))


# A pipe, which anybody can make in a shared folder, is not waited for.
_OPEN_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))


def _size_if(path: str, is_right: Callable[[Read, int], bool]) -> int | None:
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except OSError:
        return None
    try:
        status = os.fstat(fd)
        is_file = stat.S_ISREG(status.st_mode)
        return status.st_size if is_file and is_right(partial(_read_at, fd), status.st_size) else None
    except (OSError, struct.error):  # it ends early
        return None
    finally:
        os.close(fd)


if hasattr(os, "pread"):
    _read_at = os.pread
else:

    def _read_at(fd: int, length: int, offset: int, /) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


_MSF_MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"
_BLOCK_SIZES = frozenset(1 << power for power in range(9, 17))
_SUPERBLOCK = Struct("<32xI4xII4xI")
_FIRST_STREAMS = Struct("<5I")
_INFO = Struct("<I8x16s")
_DEBUG_INFO = Struct("<4s4xI12xI28xH6x")
_NUMBER = Struct("<I")
_NIL = 0xFFFFFFFF
_LAST_VERSION_WITHOUT_GUID = 19990604
_STRIPPED = 0x2


def _identify_pdb(read: Read, size_bytes: int) -> tuple[bytes, int] | None:
    """Return GUID and age of the debug information of a PDB 7 without oddities.

    Raises:
        struct.error: The file ends early.

    Layout: see `symcache.formats.pdb.msf` and `symcache.formats.pdb.info`.
    """
    head = read(512, 0)
    if not head.startswith(_MSF_MAGIC):
        return None
    block_bytes, block_count, directory_bytes, map_block = _SUPERBLOCK.unpack_from(head)
    numbers_bytes = 4 * -(-directory_bytes // block_bytes) if block_bytes in _BLOCK_SIZES else 0
    if (
        not 20 <= directory_bytes <= block_count * block_bytes <= size_bytes
        or not 0 < numbers_bytes <= block_bytes
        or map_block >= block_count
    ):
        return None
    numbers = read(numbers_bytes, map_block * block_bytes)

    def directory_number(at: int) -> int:
        block = _NUMBER.unpack_from(numbers, at // block_bytes * 4)[0]
        return _block_number(read(4, block * block_bytes + at % block_bytes), block, block_count)

    (first,) = _NUMBER.unpack_from(numbers)
    if first >= block_count:
        return None
    directory = read(min(directory_bytes, block_bytes), first * block_bytes)
    streams, *sizes = _FIRST_STREAMS.unpack_from(directory)
    if streams < 4 or not _INFO.size <= sizes[1] < _NIL or not _DEBUG_INFO.size <= sizes[3] < _NIL:
        return None
    spans = [0 if size == _NIL else -(-size // block_bytes) for size in sizes]
    info_at = 4 + 4 * streams + 4 * spans[0]
    debug_at = info_at + 4 * (spans[1] + spans[2])
    if debug_at + 4 * spans[3] > directory_bytes:
        return None
    info_block, debug_block = (
        _NUMBER.unpack_from(directory, at)[0] if at < block_bytes else directory_number(at)
        for at in (info_at, debug_at)
    )
    if max(info_block, debug_block) >= block_count:
        return None
    version, guid = _INFO.unpack(read(_INFO.size, info_block * block_bytes))
    head = read(min(sizes[3], 512), debug_block * block_bytes)
    signature, age, modules_bytes, flags = _DEBUG_INFO.unpack_from(head)
    if version <= _LAST_VERSION_WITHOUT_GUID or signature != b"\xff\xff\xff\xff":
        return None
    # Where neither flag nor first module tells of private symbols, the parser looks at more modules.
    is_plain = flags & _STRIPPED or min(modules_bytes, sizes[3] - 64) <= 448 or head[98:100] != b"\xff\xff"
    return (guid, age) if is_plain else None


def _block_number(raw: bytes, block: int, block_count: int) -> int:
    """Return the number that *raw*, read from *block*, holds; one of no block if *block* itself is none."""
    return _NUMBER.unpack(raw)[0] if block < block_count else block_count


_PAGE_BYTES = 0x1000
_SECTOR_BYTES = 0x200
_FILE_HEADER = Struct("<4s2xHI8xH2x")
_OPTIONAL_HEADER = Struct("<H30xI20xI")
_SECTION = Struct("<16xII16x")
_MOST_SECTIONS = 512


def _identify_image(read: Read, size_bytes: int) -> tuple[int, int] | None:
    """Return stamp and SizeOfImage of an image that is as long as its headers say.

    Raises:
        struct.error: The file ends early.

    Layout: see `symcache.formats.pe.image` and `symcache.formats.pe.image`.
    """
    head = read(_PAGE_BYTES, 0)
    at = int.from_bytes(head[0x3C:0x40], "little")
    if not head.startswith(b"MZ") or not 0x40 <= at <= len(head) - 92:
        return None
    signature, sections, timestamp, optional_bytes = _FILE_HEADER.unpack_from(head, at)
    magic, alignment, size_of_image = _OPTIONAL_HEADER.unpack_from(head, at + _FILE_HEADER.size)
    table = at + _FILE_HEADER.size + optional_bytes
    table_end = table + _SECTION.size * sections
    if signature != b"PE\0\0" or magic not in {0x10B, 0x20B} or sections > _MOST_SECTIONS or table_end > len(head):
        return None
    extent_bytes = table_end
    mask = ~(_SECTOR_BYTES - 1) if alignment >= _PAGE_BYTES else ~0
    for raw_bytes, raw_offset in _SECTION.iter_unpack(head[table:table_end]):
        if raw_bytes and raw_offset & mask:
            extent_bytes = max(extent_bytes, (raw_offset & mask) + raw_bytes)
    return (timestamp, size_of_image) if size_bytes >= extent_bytes else None
