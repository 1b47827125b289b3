"""Cabinets as symbol stores keep them: one file, compressed, read and written block by block.

Nothing larger than a block, of at most 32 KiB, and the window of its compression is ever in memory.
"""

from __future__ import annotations

import itertools
import struct
import zlib
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.lzx import FRAME_BYTES, LzxDecoder
from symcache.formats.view import PartView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    from symcache.formats.view import ByteView

    _Decode = Callable[[bytes, int], bytes]

_BLOCK_BYTES = FRAME_BYTES
_MAX_COMPRESSED_BYTES = _BLOCK_BYTES + 6144
_MAX_NAME_BYTES = 256
_STORED, _MSZIP, _QUANTUM, _LZX = range(4)
_HEADER = struct.Struct("<4s4xI4xI4xBBHHH4x")
_FOLDER = struct.Struct("<IHH")
_MEMBER = struct.Struct("<IIHHHH")
_BLOCK = struct.Struct("<IHH")
_HAS_PREVIOUS, _HAS_NEXT, _HAS_RESERVE = 1, 2, 4
_FIRST_SPANNING_FOLDER = 0xFFFD
_ANY_SIZE = 0x7FFFFFFF
_ARCHIVE, _UTF8_NAME = 0x20, 0x80
_OLD_COMPRESSION = {b"SZDD": "compress.exe (SZDD)", b"KWAJ": "compress.exe (KWAJ)", b"SZ \x88": "compress.exe (SZ)"}


@dataclass(frozen=True, slots=True)
class CabinetFolder:
    """One run of bytes, compressed as a whole and cut into blocks."""

    compression: int  # the type field: method in bits 0 to 3, window of Quantum and LZX in bits 8 to 12
    blocks: int
    data_offset: int  # offset of its first block in the cabinet, in bytes
    offset: int  # offset of its own record, in bytes


@dataclass(frozen=True, slots=True)
class CabinetMember:
    """One file of a cabinet."""

    name: str  # as the cabinet spells it. Information for a reader, never a path
    size: int  # length expanded, in bytes
    folder: int  # index of the folder that holds it
    folder_offset: int  # where in the expanded folder it begins, in bytes
    offset: int  # offset of its own record, in bytes


@dataclass(frozen=True, slots=True)
class Cabinet:
    """A cabinet whose tables have been read."""

    view: ByteView  # its bytes alone, without what follows it
    folders: tuple[CabinetFolder, ...]  # at least one
    members: tuple[CabinetMember, ...]  # at least one, in the order of the table; a store's cabinet has exactly one
    block_reserve_bytes: int  # room that the maker reserved in each block


def open_cabinet(view: ByteView) -> Cabinet:
    """Read the tables of a cabinet; no block is touched.

    Bytes behind the cabinet's own size are allowed: signatures are put there.

    Raises:
        UnknownFormat: Not a cabinet, a part of a set of cabinets, or of a version other than 1.3.
        TruncatedInput: The input ends before the cabinet does.
        MalformedInput: The tables contradict themselves, or name no file.

    Layout (LE): ``MSCF``, u32 0, u32 size, u32 0, u32 offset of the first member, u32 0, u8 minor 3, u8 major 1, u16
    folders, u16 members, u16 flags, u16 set, u16 number in the set. With flag 4: u16 header reserve, u8 folder reserve,
    u8 block reserve, then the first of them. Folders, 8 bytes and reserve: u32 first block, u16 blocks, u16 type.
    Members, 16 bytes and a NUL-terminated name: u32 size, u32 offset, u16 folder, u16 date, u16 time, u16 attributes.
    Source: [MS-CAB] 2.1 to 2.4.
    """
    _check_signature(view)
    if view.size < _HEADER.size:
        raise TruncatedInput("cabinet header ends early", offset=view.size)
    header = _HEADER.unpack(view.read(0, _HEADER.size))
    _, size, first_member, minor, major, folder_count, member_count, flags = header
    if (major, minor) != (1, 3):
        raise UnknownFormat(f"cabinet of version {major}.{minor}; only 1.3 is read", offset=24)
    if flags & (_HAS_PREVIOUS | _HAS_NEXT):
        raise UnknownFormat("cabinet is a part of a set of several", offset=30)
    if size > view.size:
        raise TruncatedInput(f"cabinet has {size} bytes, but the input ends after {view.size}", offset=8)
    cabinet = PartView(view, 0, size)
    if not folder_count:
        raise MalformedInput("cabinet without a folder", offset=26)
    if not member_count:
        raise MalformedInput("cabinet holds no file", offset=28)
    folders_at, folder_reserve, block_reserve = _HEADER.size, 0, 0
    if flags & _HAS_RESERVE:
        header_reserve, folder_reserve, block_reserve = struct.unpack("<HBB", cabinet.read(folders_at, 4))
        folders_at += 4 + header_reserve
    folders = tuple(_read_folders(cabinet, folders_at, folder_count, _FOLDER.size + folder_reserve))
    return Cabinet(cabinet, folders, tuple(_read_members(cabinet, first_member, member_count, folders)), block_reserve)


def expand(cabinet: Cabinet, member: CabinetMember, *, limit_bytes: int) -> Iterator[bytes]:
    """Return the bytes of *member* in pieces of at most 32 KiB; together they are exactly its size.

    What can be refused is refused by the call itself, the rest as the blocks are read. A block's checksum is verified
    where there is one.

    Raises:
        InputError: More than *limit_bytes* would have to be expanded, with what lies before *member* in its folder.
        UnknownFormat: Quantum, an unknown compression, or a block that goes on in another cabinet.
        TruncatedInput: A block lies outside of the cabinet.
        MalformedInput: A block is damaged, or the folder ends before *member*.
    """
    folder = cabinet.folders[member.folder]
    decode = _decoder_of(folder)
    end = member.folder_offset + member.size
    if end > limit_bytes:
        raise InputError(f"expands to {end} bytes, more than the limit of {limit_bytes}", offset=member.offset)
    if end > folder.blocks * _BLOCK_BYTES:
        raise MalformedInput(f"{folder.blocks} blocks cannot hold the {end} bytes promised", offset=member.offset)
    if folder.compression & 0xF == _LZX and member.size and has_libarchive():
        return _expand_fast(cabinet, member, decode)
    return _expand(cabinet, member, decode)


def _expand_fast(cabinet: Cabinet, member: CabinetMember, decode: _Decode) -> Iterator[bytes]:
    """Expand with libarchive as far as it goes and with *decode* from there, which alone decides what is refused.

    libarchive gets no block without a checksum, because it misses some of the damage that *decode* refuses.
    """
    folder = cabinet.folders[member.folder]
    checked = itertools.takewhile(lambda block: block.has_checksum, _blocks(cabinet, folder))
    skip, given = member.folder_offset, 0
    for piece in expand_lzx_fast(folder.compression, skip + member.size, ((b.data, b.size) for b in checked)):
        wanted = piece[skip:]
        skip -= len(piece) - len(wanted)
        given += len(wanted)
        if wanted:
            yield wanted
    if given < member.size:
        rest = replace(member, folder_offset=member.folder_offset + given, size=member.size - given)
        yield from _expand(cabinet, rest, decode)


def _expand(cabinet: Cabinet, member: CabinetMember, decode: _Decode) -> Iterator[bytes]:
    skip = member.folder_offset
    left = member.size
    blocks = _blocks(cabinet, cabinet.folders[member.folder])
    while left:
        block = next(blocks, None)
        if block is None:
            raise MalformedInput(f"folder ends {left} bytes before its file", offset=member.offset)
        try:
            expanded = decode(block.data, block.size)
        except MalformedInput as error:
            raise MalformedInput(error.problem, offset=block.at) from error
        piece = expanded[skip : skip + left]
        skip -= min(skip, block.size)
        left -= len(piece)
        if piece:
            yield piece


class _Block(NamedTuple):
    at: int  # offset in the cabinet
    data: bytes
    size: int  # expanded
    has_checksum: bool


def _blocks(cabinet: Cabinet, folder: CabinetFolder) -> Iterator[_Block]:
    """Yield each block, its checksum verified if it has one.

    Layout (LE): u32 checksum, u16 compressed length, u16 expanded length, reserve, data.
    Source: [MS-CAB] 2.5; the bound on compressed data is the Cabinet SDK's.
    """
    view, at = cabinet.view, folder.data_offset
    for number in range(folder.blocks):
        header = view.read(at, _BLOCK.size + cabinet.block_reserve_bytes)
        checksum, compressed, size = _BLOCK.unpack_from(header)
        if not size:
            raise UnknownFormat("block goes on in another cabinet", offset=at + 6)
        if size > _BLOCK_BYTES or compressed > _MAX_COMPRESSED_BYTES:
            raise MalformedInput(f"block of {compressed} bytes, {size} expanded, is too large", offset=at + 4)
        if size < _BLOCK_BYTES and number + 1 < folder.blocks and folder.compression & 0xF == _LZX:
            raise MalformedInput("LZX block is short but not the last", offset=at + 6)
        data = view.read(at + len(header), compressed)
        if checksum and not _is_checksum(checksum, header[4:], data):
            raise MalformedInput("checksum of a block does not match", offset=at)
        yield _Block(at, data, size, bool(checksum))
        at += len(header) + compressed


def _is_checksum(checksum: int, sizes_and_reserve: bytes, data: bytes) -> bool:
    """Whether *checksum* is that of a block.

    It is the sum of the data, combined with the sum of the two lengths. [MS-CAB] counts the reserve among them, tools
    that are not Microsoft's leave it out; a reserve that is not all zero is too rare to say who is right.
    """
    of_data = _block_checksum(data)
    return checksum in (of_data ^ _block_checksum(sizes_and_reserve[:4]), of_data ^ _block_checksum(sizes_and_reserve))


def _block_checksum(data: bytes) -> int:
    """Return the sum of a block: the exclusive or of all 32-bit little-endian words.

    One to three last bytes are one big-endian number.
    """
    whole = len(data) & ~3
    tail = int.from_bytes(data[whole:], "big")
    words = int.from_bytes(data[:whole], "little")
    width_bits = 32 << max(0, (whole // 4 - 1).bit_length())
    while width_bits > 32:  # fold the number in half: a loop over words takes a hundred times as long
        width_bits //= 2
        words = words >> width_bits ^ words & (1 << width_bits) - 1
    return words ^ tail


def _decoder_of(folder: CabinetFolder) -> _Decode:
    at = folder.offset + 6
    match folder.compression & 0xF:
        case 0:
            return _take_stored
        case 1:
            return _Mszip().decode
        case 2:
            raise UnknownFormat("cabinet is compressed with Quantum, which is not read", offset=at)
        case 3:
            try:
                return LzxDecoder(folder.compression >> 8 & 0x1F).decode
            except MalformedInput as error:
                raise MalformedInput(error.problem, offset=at) from error
        case kind:
            raise UnknownFormat(f"cabinet is compressed in an unknown way, {kind}", offset=at)


def _take_stored(data: bytes, size_bytes: int) -> bytes:
    if len(data) != size_bytes:
        raise MalformedInput(f"stored block of {len(data)} bytes says it has {size_bytes}")
    return data


class _Mszip:
    """Blocks of ``CK`` and a raw deflate stream each, which may refer to the 32 KiB before it."""

    def __init__(self) -> None:
        self._history = b""

    def decode(self, data: bytes, size_bytes: int) -> bytes:
        if data[:2] != b"CK":
            raise MalformedInput("MSZIP block does not begin with CK")
        inflate = zlib.decompressobj(-zlib.MAX_WBITS, zdict=self._history)
        try:
            block = inflate.decompress(data[2:], size_bytes + 1)
        except zlib.error as error:
            raise MalformedInput(f"MSZIP block is damaged ({error})") from error
        if len(block) != size_bytes or not inflate.eof:
            raise MalformedInput(f"MSZIP block does not give the {size_bytes} bytes it promises")
        # Makers fill every block but the last; a short one must not shorten what the next may refer to.
        self._history = block if size_bytes == _BLOCK_BYTES else (self._history + block)[-_BLOCK_BYTES:]
        return block


def _check_signature(view: ByteView) -> None:
    if not view.size:
        raise TruncatedInput("the input is empty", offset=0)
    signature = view.read(0, min(4, view.size))
    if signature in _OLD_COMPRESSION:
        raise UnknownFormat(f"compressed with {_OLD_COMPRESSION[signature]}, not a cabinet", offset=0)
    if signature != b"MSCF":
        raise UnknownFormat("not a cabinet", offset=0)


def _read_folders(view: ByteView, at: int, count: int, record_bytes: int) -> Iterator[CabinetFolder]:
    for _ in range(count):
        data_offset, blocks, compression = _FOLDER.unpack_from(view.read(at, record_bytes))
        if data_offset > view.size:
            raise MalformedInput(f"folder begins at {data_offset:#x}, outside of the cabinet", offset=at)
        yield CabinetFolder(compression, blocks, data_offset, at)
        at += record_bytes


def _read_members(view: ByteView, at: int, count: int, folders: tuple[CabinetFolder, ...]) -> Iterator[CabinetMember]:
    for _ in range(count):
        size, folder_offset, folder, _, _, attributes = _MEMBER.unpack(view.read(at, _MEMBER.size))
        if folder >= _FIRST_SPANNING_FOLDER:
            raise UnknownFormat("file of the cabinet goes on in another one", offset=at + 8)
        if folder >= len(folders):
            raise MalformedInput(f"file lies in folder {folder} of {len(folders)}", offset=at + 8)
        name, nul, _ = view.read(at + 16, min(_MAX_NAME_BYTES + 1, view.size - at - 16)).partition(b"\0")
        if not nul:
            raise MalformedInput("name of a file is not terminated", offset=at + 16)
        text = name.decode("utf-8", "replace") if attributes & _UTF8_NAME else name.decode("latin-1")
        yield CabinetMember(text, size, folder, folder_offset, at)
        at += 16 + len(name) + 1


@cache
def _libarchive() -> Any:
    """Return the package; None if it is not installed, or finds no library on this system."""
    try:
        import libarchive  # noqa: PLC0415  # searches the system for the library
    except (ImportError, AttributeError, OSError, TypeError):  # what loading no library raises, system by system
        return None
    return libarchive


def has_libarchive() -> bool:
    """Whether `expand_lzx_fast` can do anything here."""
    return _libarchive() is not None


def expand_lzx_fast(compression: int, size_bytes: int, blocks: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """Yield the first *size_bytes* of an LZX folder in pieces of at most 32 KiB; fewer where libarchive cannot go on.

    libarchive, where the extra of that name is installed, is ten to thirty times as fast as `LzxDecoder`, and less
    strict about damage: it is for blocks whose checksum was verified. It reads whole cabinets only, so it is given one
    with a single folder, block by block.

    Args:
        compression: Type field of the folder.
        size_bytes: Where to stop.
        blocks: Compressed bytes and expanded length of each block. It may end early, or raise `InputError` or
            `OSError`: either ends what is yielded.
    """
    library = _libarchive()
    stream = _CabinetStream(compression, size_bytes, blocks)
    try:
        with library.stream_reader(
            stream, format_name="cab", filter_name="none", block_size=2 * _BLOCK_BYTES
        ) as archive:
            for entry in archive:
                yield from entry.get_blocks(_BLOCK_BYTES)
                break
    except library.ArchiveError:
        pass
    if stream.error is not None and not isinstance(stream.error, (InputError, OSError)):
        raise stream.error


class _CabinetStream:
    """The stream that libarchive reads, from a callback that must not raise."""

    def __init__(self, compression: int, size_bytes: int, blocks: Iterable[tuple[bytes, int]]) -> None:
        self.error: BaseException | None = None
        self._pieces = _pieces(compression, size_bytes, blocks)
        self._rest = b""

    def seekable(self) -> bool:
        return False

    def readinto(self, buffer: Any) -> int:
        """Fill *buffer*, a ctypes array; return how much of it, 0 at the end, and -1 if *blocks* raised."""
        try:
            self._rest = self._rest or next(self._pieces, b"")
        except BaseException as error:  # noqa: BLE001  # an interrupt, too, would be lost in C
            self.error = error
            return -1
        size = min(len(self._rest), len(buffer))
        memoryview(buffer).cast("B")[:size] = self._rest[:size]  # a slice of the array itself is set byte by byte
        self._rest = self._rest[size:]
        return size


def _pieces(compression: int, size_bytes: int, blocks: Iterable[tuple[bytes, int]]) -> Iterator[bytes]:
    """Yield a cabinet: tables, then blocks without checksums."""
    yield _tables(_ANY_SIZE, -(-size_bytes // _BLOCK_BYTES), compression, size_bytes, b"x")
    for data, size in blocks:
        yield _BLOCK.pack(0, len(data), size) + data


MAX_CABINET_INPUT_BYTES = 65500 * _BLOCK_BYTES
"""The most that `write_cabinet` takes, in bytes: a folder has 65,535 blocks, and even if nothing can be compressed the
cabinet must stay under 2 GiB, because Microsoft's readers keep its size in a signed number."""


def write_cabinet(source: BinaryIO, target: BinaryIO, *, name: str, level: int = 6) -> int:
    """Compress *source*, to its end, into a cabinet at the current position of *target*; return its size in bytes.

    Memory does not grow with *source*. The cabinet depends on its arguments alone, not on the clock. *target* is
    seekable: the header is written once the sizes are known. *level* is zlib's, 1 to 9.

    Raises:
        ValueError: *name* does not have 1 to 255 bytes of UTF-8 without NUL.
        InputError: *source* is larger than `MAX_CABINET_INPUT_BYTES`.
        OSError: *source* or *target* failed.
    """
    encoded = name.encode()
    if not 0 < len(encoded) < 256 or b"\0" in encoded:
        raise ValueError(f"{name!r} cannot be the name of a file in a cabinet")
    start = target.tell()
    blocks_at = len(_tables(0, 0, _MSZIP, 0, encoded))
    target.write(bytes(blocks_at))
    size, blocks, compressed = _write_blocks(source, target, level)
    cabinet_bytes = blocks_at + compressed
    attributes = _ARCHIVE if name.isascii() else _ARCHIVE | _UTF8_NAME
    target.seek(start)
    target.write(_tables(cabinet_bytes, blocks, _MSZIP, size, encoded, attributes))
    target.seek(start + cabinet_bytes)
    return cabinet_bytes


def _tables(
    cabinet_bytes: int, blocks: int, compression: int, member_bytes: int, name: bytes, attributes: int = _ARCHIVE
) -> bytes:
    """Return header, folder and member of a cabinet with one of each.

    Its date is 1980-01-01: equal files give equal cabinets, and no reader takes a date for an identity.
    """
    tables_bytes = _HEADER.size + _FOLDER.size + _MEMBER.size + len(name) + 1
    return (
        _HEADER.pack(b"MSCF", cabinet_bytes, _HEADER.size + _FOLDER.size, 3, 1, 1, 1, 0)
        + _FOLDER.pack(tables_bytes, blocks, compression)
        + _MEMBER.pack(member_bytes, 0, 0, 1 << 5 | 1, 0, attributes)
        + name
        + b"\0"
    )


def _write_blocks(source: BinaryIO, target: BinaryIO, level: int) -> tuple[int, int, int]:
    """Write all blocks; return length of *source*, number of blocks, and their length, in bytes."""
    size, blocks, compressed = 0, 0, 0
    previous = b""
    while block := _read_block(source):
        size += len(block)
        if size > MAX_CABINET_INPUT_BYTES:
            raise InputError(f"larger than a cabinet can hold, {MAX_CABINET_INPUT_BYTES} bytes")
        data = b"CK" + _deflate(block, previous, level)
        lengths = struct.pack("<HH", len(data), len(block))
        target.write(_BLOCK.pack(_block_checksum(data) ^ _block_checksum(lengths), len(data), len(block)) + data)
        compressed += _BLOCK.size + len(data)
        blocks += 1
        previous = block
    return size, blocks, compressed


def _read_block(source: BinaryIO) -> bytes:
    """Return the next 32 KiB; less only at the end, even if *source* gives them in small pieces."""
    block = source.read(_BLOCK_BYTES)
    while len(block) < _BLOCK_BYTES and (more := source.read(_BLOCK_BYTES - len(block))):
        block += more
    return block


def _deflate(block: bytes, previous: bytes, level: int) -> bytes:
    """Return one raw deflate stream that may refer to *previous*.

    MSZIP allows a block to grow by 12 bytes. zlib splits what it cannot compress and may need more, so that such a
    block is written as one stored piece: a final-block byte, the length and its complement.
    """
    deflate = zlib.compressobj(level, zlib.DEFLATED, -zlib.MAX_WBITS, zlib.DEF_MEM_LEVEL, zdict=previous)
    data = deflate.compress(block) + deflate.flush()
    if len(data) > len(block) + 5:
        return struct.pack("<BHH", 1, len(block), len(block) ^ 0xFFFF) + block
    return data
