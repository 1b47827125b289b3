"""What a PDB or an image is, told from a few small reads, for files by the thousand.

What is told agrees with `parse_pdb` and `parse_image`; a file that is odd in any way is left to those.
"""

from __future__ import annotations

import os
import struct
from contextlib import suppress
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, TypeVar

from symcache.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable

    from symcache.formats.view import ByteView

T = TypeVar("T")


def glance_at_pdb(path: str, guid: bytes, age: int) -> int | None:
    """Return the length in bytes of the PDB 7 at *path*, whole, if it has *guid* and its debug information has *age*.

    *guid* is 16 bytes as they lie in a file.
    """
    return _size_if(path, _identify_pdb, (guid, age))


def glance_at_image(path: str, timestamp: int, size_of_image: int) -> int | None:
    """Return the length in bytes of the image at *path*, whole, if it has this stamp and this SizeOfImage."""
    return _size_if(path, _identify_image, (timestamp, size_of_image))


# A pipe, which anybody can make in a shared folder, is not waited for.
_OPEN_FLAGS = os.O_RDONLY | sum(getattr(os, name, 0) for name in ("O_BINARY", "O_CLOEXEC", "O_NONBLOCK"))


def _size_if(path: str, identify: Callable[[int, int], T | None], expected: T) -> int | None:
    try:
        fd = os.open(path, _OPEN_FLAGS)
    except OSError:
        return None
    try:
        size_bytes = os.lseek(fd, 0, os.SEEK_END)  # fails for pipes, and costs a third of os.fstat
        return size_bytes if identify(fd, size_bytes) == expected else None
    except (OSError, struct.error):  # it ends early
        return None
    finally:
        os.close(fd)


if hasattr(os, "pread"):
    _read = os.pread
else:

    def _read(fd: int, length: int, offset: int, /) -> bytes:
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, length)


_MSF_MAGIC = b"Microsoft C/C++ MSF 7.00\r\n\x1aDS\0\0\0"
_BLOCK_SIZES = frozenset(1 << power for power in range(9, 17))
_SUPERBLOCK = Struct("<32sI4xII4xI")
_FIRST_STREAMS = Struct("<5I")
_INFO = Struct("<I8x16s")
_DEBUG_INFO = Struct("<4s4xI12xI28xH6x")
_NUMBER = Struct("<I")
_NIL = 0xFFFFFFFF
_LAST_VERSION_WITHOUT_GUID = 19990604
_STRIPPED = 0x2


def _identify_pdb(fd: int, size_bytes: int) -> tuple[bytes, int] | None:
    """Return GUID and age of the debug information of a PDB 7 without oddities.

    Each read costs about as much as opening the file, so that there are five small ones and no more.

    Raises:
        struct.error: The file ends early.

    Layout: see `symcache.formats.pdb.msf` and `symcache.formats.pdb.info`.
    """
    magic, block_bytes, block_count, directory_bytes, map_block = _SUPERBLOCK.unpack(_read(fd, _SUPERBLOCK.size, 0))
    if magic != _MSF_MAGIC or block_bytes not in _BLOCK_SIZES:
        return None
    numbers_bytes = 4 * -(-directory_bytes // block_bytes)
    if (
        not 20 <= directory_bytes <= block_count * block_bytes <= size_bytes
        or numbers_bytes > block_bytes
        or map_block >= block_count
        or size_bytes % block_bytes
    ):
        return None
    numbers = _read(fd, numbers_bytes, map_block * block_bytes)
    (first,) = _NUMBER.unpack_from(numbers)
    if first >= block_count:
        return None
    directory = _read(fd, min(directory_bytes, block_bytes), first * block_bytes)
    streams, old_bytes, info_bytes, types_bytes, debug_bytes = _FIRST_STREAMS.unpack_from(directory)
    if streams < 4 or not _INFO.size <= info_bytes < _NIL or not _DEBUG_INFO.size <= debug_bytes < _NIL:
        return None
    info_at = 4 + 4 * streams
    if old_bytes != _NIL:
        info_at += 4 * -(-old_bytes // block_bytes)
    debug_at = info_at + 4 * -(-info_bytes // block_bytes)
    if types_bytes != _NIL:
        debug_at += 4 * -(-types_bytes // block_bytes)
    if debug_at + 4 * -(-debug_bytes // block_bytes) > directory_bytes:
        return None
    if debug_at < len(directory):
        (info_block,), (debug_block,) = (
            _NUMBER.unpack_from(directory, info_at),
            _NUMBER.unpack_from(directory, debug_at),
        )
    else:
        info_block, debug_block = (
            _directory_number(fd, numbers, at, block_bytes, block_count) for at in (info_at, debug_at)
        )
    if info_block >= block_count or debug_block >= block_count:
        return None
    version, guid = _INFO.unpack(_read(fd, _INFO.size, info_block * block_bytes))
    head = _read(fd, min(debug_bytes, 512), debug_block * block_bytes)
    signature, age, modules_bytes, flags = _DEBUG_INFO.unpack_from(head)
    if version <= _LAST_VERSION_WITHOUT_GUID or signature != b"\xff\xff\xff\xff":
        return None
    # Where neither flag nor first module tells of private symbols, the parser looks at more modules.
    is_plain = flags & _STRIPPED or min(modules_bytes, debug_bytes - 64) <= 448 or head[98:100] != b"\xff\xff"
    return (guid, age) if is_plain else None


def _directory_number(fd: int, numbers: bytes, at: int, block_bytes: int, block_count: int) -> int:
    """Return the number at *at* in a directory of several blocks; one of no block if it lies in none."""
    block: int = _NUMBER.unpack_from(numbers, at // block_bytes * 4)[0]
    if block >= block_count:
        return block_count
    number: int = _NUMBER.unpack(_read(fd, 4, block * block_bytes + at % block_bytes))[0]
    return number


_PAGE_BYTES = 0x1000
_SECTOR_BYTES = 0x200
_FILE_HEADER = Struct("<4s2xHI8xH2x")
_OPTIONAL_HEADER = Struct("<H30xI20xI")
_SECTION = Struct("<16xII16x")
_MOST_SECTIONS = 512


def _identify_image(fd: int, size_bytes: int) -> tuple[int, int] | None:
    """Return stamp and SizeOfImage of an image that is as long as its headers say.

    Raises:
        struct.error: The file ends early.

    Layout: see `symcache.formats.pe.image`.
    """
    head = _read(fd, _PAGE_BYTES, 0)
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


_DIRECTORIES_AT = {0x10B: 92, 0x20B: 108}
_DEBUG_DIRECTORY = Struct("<I48xII")
_MAPPED_SECTION = Struct("<8xIIII16x")
_DEBUG_ENTRY = Struct("<10xHII4xI")
_CODE_VIEW = Struct("<4s16sI")
_MOST_ENTRIES = 32
_LONGEST_RECORD = 0x1000
_CODEVIEW = 2
_TELLING_MORE = frozenset({4, 17, 19})  # names a .dbg file, holds a PDB, has its checksum
_PORTABLE_MINOR = 0x504D


class PlainImage(NamedTuple):
    """An image that names one PDB 7 and nothing else; *guid* as its 16 bytes lie in the file, *path* as written."""

    timestamp: int
    size_of_image: int
    guid: bytes
    age: int
    path: str


def glance_at_keys(view: ByteView) -> PlainImage | None:
    """Return what identifies the image in the file *view* and its PDB, in three reads; None for one that is odd.

    Layout: see `symcache.formats.pe.image` and `symcache.formats.pe.debug`.
    """
    try:
        return _find_keys(view)
    except (InputError, struct.error, UnicodeDecodeError):
        return None


def _find_keys(view: ByteView) -> PlainImage | None:
    head = view.read(0, min(view.size, _PAGE_BYTES))
    at = int.from_bytes(head[0x3C:0x40], "little")
    if not head.startswith(b"MZ") or not 0x40 <= at < len(head):
        return None
    signature, sections, timestamp, optional_bytes = _FILE_HEADER.unpack_from(head, at)
    optional = at + _FILE_HEADER.size
    magic, alignment, size_of_image = _OPTIONAL_HEADER.unpack_from(head, optional)
    table = optional + optional_bytes
    table_end = table + _SECTION.size * sections
    if signature != b"PE\0\0" or magic not in _DIRECTORIES_AT or sections > _MOST_SECTIONS or table_end > len(head):
        return None
    count, rva, size_bytes = _DEBUG_DIRECTORY.unpack_from(head, optional + _DIRECTORIES_AT[magic])
    entries = size_bytes // _DEBUG_ENTRY.size
    if count <= 6 or not rva or not 0 < entries <= _MOST_ENTRIES:
        return None
    for virtual_bytes, section, raw_bytes, raw_offset in _MAPPED_SECTION.iter_unpack(head[table:table_end]):
        if section <= rva < section + max(virtual_bytes, raw_bytes):
            if rva - section >= raw_bytes:
                return None
            offset = (raw_offset & ~(_SECTOR_BYTES - 1) if alignment >= _PAGE_BYTES else raw_offset) + rva - section
            break
    else:
        return None
    record = b""
    for minor, type_, record_bytes, file_offset in _DEBUG_ENTRY.iter_unpack(
        view.read(offset, entries * _DEBUG_ENTRY.size)
    ):
        if type_ == _CODEVIEW:
            if record or minor == _PORTABLE_MINOR or not file_offset or not 24 < record_bytes <= _LONGEST_RECORD:
                return None
            record = view.read(file_offset, record_bytes)
        elif type_ in _TELLING_MORE:
            return None
    signature, guid, age = _CODE_VIEW.unpack_from(record)
    path, nul, _ = record[_CODE_VIEW.size :].partition(b"\0")
    if signature != b"RSDS" or not nul:
        return None
    return PlainImage(timestamp, size_of_image, guid, age, path.decode())


HEAD_BYTES = 0x1000
"""As much of a file as `limit_of` looks at."""

_CABINET = Struct("<4s4xI")
_PDB2_MAGIC = b"Microsoft C/C++ program database 2.00\r\n\x1aJG\0\0"
_PDB2_PAGES = Struct("<44xI2xH")
_SLACK_BYTES = 1 << 20
_LARGEST_UNKNOWN_BYTES = 64 << 20


def limit_of(head: bytes, *, may_be_other: bool = False) -> int:
    """Return how long a file that begins with *head* can be at most, in bytes, as far as that tells.

    One of another kind than PDBs, images, cabinets and ``.dbg`` files is wrong unless it *may_be_other*, and no more of
    it is wanted than it takes to say so.

    A PDB names its blocks, a portable one where its streams end, an image where its sections and its certificates end,
    a cabinet its length. What is behind that is of no use to a debugger; an image may have more all the same, such as
    an installer.

    Layout: see `symcache.formats.pdb.msf`, `symcache.formats.pdb.info`, `symcache.formats.pe.image` and
    `symcache.formats.cabinet`.
    """
    with suppress(struct.error):
        if head.startswith(_MSF_MAGIC):
            _, block_bytes, block_count, *_ = _SUPERBLOCK.unpack_from(head)
            return int(block_bytes * block_count + _SLACK_BYTES)
        if head.startswith(b"MSCF"):
            return int(_CABINET.unpack_from(head)[1] + _SLACK_BYTES)
        if head.startswith(b"MZ"):
            return 2 * _end_of_image(head) + _LARGEST_UNKNOWN_BYTES
        if head.startswith(_PDB2_MAGIC):
            page_bytes, page_count = _PDB2_PAGES.unpack_from(head)
            return int(page_bytes * page_count + _SLACK_BYTES)
        if head.startswith(b"BSJB"):
            return _end_of_metadata(head) + _SLACK_BYTES
    # The headers of an image may lie behind a program for DOS that is longer than *head*.
    return _LARGEST_UNKNOWN_BYTES if may_be_other or head.startswith((b"DI", b"MZ")) else _SLACK_BYTES


def _end_of_metadata(head: bytes) -> int:
    """Return where the last stream of a portable PDB ends; a `struct.error` if its table is cut.

    Layout (LE): ``BSJB``, 8 bytes, u32 length of the version, the version, u16 flags, u16 count of streams; for each
    u32 offset, u32 size, and a name that ends with a NUL and is padded to 4.
    Source: ECMA-335, II.24.2.1 and II.24.2.2.
    """
    (version_bytes,) = _NUMBER.unpack_from(head, 12)
    at = 16 + version_bytes
    (count,) = Struct("<2xH").unpack_from(head, at)
    at += 4
    end = 0
    for _ in range(min(count, _MOST_SECTIONS)):
        offset, size = Struct("<II").unpack_from(head, at)
        end = max(end, offset + size)
        at = (head.find(b"\0", at + 8) + 4) & ~3
    return end


def _end_of_image(head: bytes) -> int:
    """Return where the last section of an image ends in its file; a `struct.error` if there is no section table."""
    at = int.from_bytes(head[0x3C:0x40], "little")
    sections, optional_bytes = Struct("<6xH12xH2x").unpack_from(head, at)
    table = at + 24 + optional_bytes
    end = 0
    for number in range(min(sections, _MOST_SECTIONS)):
        size, offset = Struct("<16xII16x").unpack_from(head, table + 40 * number)
        end = max(end, size + offset)
    return end
