"""What archives hold, whatever their format, and how an input is told to be one."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import TruncatedInput

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.view import ByteView

Spend: TypeAlias = "Callable[[int], None]"
"""Told of all bytes that are expanded, those that are passed over, too; raises `InputError` to end it."""

PIECE_BYTES = 1 << 16
"""About the longest piece that is expanded at once."""

BLOCK_BYTES = 512
"""How much of its beginning tells what an archive is: the header of a tar."""


class ArchiveKind(StrEnum):
    """Which format an archive has."""

    ZIP = "zip"
    TAR = "tar"
    CABINET = "cab"
    GZIP = "gz"
    XZ = "xz"
    BZIP2 = "bz2"
    ZSTD = "zst"

    @property
    def is_stream(self) -> bool:
        """It is one compressed file and holds no list."""
        return self in {ArchiveKind.GZIP, ArchiveKind.XZ, ArchiveKind.BZIP2, ArchiveKind.ZSTD}


@dataclass(frozen=True, slots=True)
class Member:
    """One file of an archive; those of tars and cabinets have to be expanded before the next one is asked for."""

    name: str  # as the archive spells it. Information for a reader, never a path
    size: int | None  # length expanded, in bytes, as the archive states it; None if it does not
    pieces: Callable[[], Iterator[bytes]]  # expands it from its beginning; raises `InputError` where it is damaged
    at: int | None = None  # offset of its header in the archive, in bytes
    problem: str | None = None  # why it cannot be expanded, in one line
    view: ByteView | None = None  # its bytes where they lie, if they are not compressed


_SIGNATURES = (
    (b"PK\3\4", ArchiveKind.ZIP),
    (b"PK\5\6", ArchiveKind.ZIP),
    (b"PK\6\6", ArchiveKind.ZIP),
    (b"PK\7\x08", ArchiveKind.ZIP),
    (b"PK00PK\3\4", ArchiveKind.ZIP),
    (b"MSCF\0\0\0\0", ArchiveKind.CABINET),
    (b"\x1f\x8b\x08", ArchiveKind.GZIP),
    (b"\xfd7zXZ\0", ArchiveKind.XZ),
    (b"\x28\xb5\x2f\xfd", ArchiveKind.ZSTD),
)
_BZIP2_BLOCKS = (b"1AY&SY", b"\x17rE8P\x90")
_OTHERS = (
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", "7z x"),
    (b"Rar!\x1a\x07", "a RAR archive", "unrar x"),
    (b"\x04\x22\x4d\x18", "compressed with lz4", "lz4 -d"),
    (b"LZIP", "compressed with lzip", "lzip -d"),
    (b"\x1f\x9d", "compressed with compress", "uncompress"),
)


def find_archive(head: bytes) -> ArchiveKind | None:
    """Return which archive begins with *head*, its first 512 bytes; None if it is none that is read.

    Source: APPNOTE.TXT 4.3; RFC 1952; RFC 8878 (skippable frames among them); the format pages of xz and bzip2;
    [MS-CAB] 2.1; POSIX.1-2017, pax, "ustar Interchange Format", whose sum tells the tars before it, too.
    """
    for signature, kind in _SIGNATURES:
        if head.startswith(signature):
            return kind
    if head[:3] == b"BZh" and head[3:4] in b"123456789" and head[4:10] in _BZIP2_BLOCKS:
        return ArchiveKind.BZIP2
    if head[1:4] == b"\x2a\x4d\x18" and 0x50 <= head[0] <= 0x5F:
        return ArchiveKind.ZSTD
    return ArchiveKind.TAR if len(head) >= BLOCK_BYTES and is_tar_header(head[:BLOCK_BYTES]) else None


def find_other_archive(head: bytes) -> str | None:
    """Return what an archive that begins with *head* is, and what unpacks it; None if it is none that is known."""
    for signature, what, command in _OTHERS:
        if head.startswith(signature):
            return f"{what}, which is not read: unpack it (`{command} FILE`) and give what was in it"
    return None


def is_tar_header(block: bytes) -> bool:
    """Tell whether 512 bytes are a header of a tar: its sum, in octal at 148, is that of its bytes."""
    stated = parse_octal(block[148:156])
    if stated is None or not block[0]:
        return False
    return stated == sum(block) - sum(block[148:156]) + 8 * 0x20


def parse_octal(text: bytes) -> int | None:
    """Return a number of a tar: octal digits with blanks or NUL round them, or big-endian behind a byte 0x80."""
    if text[:1] == b"\x80":
        return int.from_bytes(text[1:], "big")
    digits = text.strip(b" \0")
    if not digits or len(digits) > 12 or digits.strip(b"01234567"):
        return None
    return int(digits, 8)


class PieceReader:
    """Bytes that come one after the other, read as a tar wants them."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._held = memoryview(b"")
        self.at = 0  # how many bytes were taken

    def take(self, length: int) -> bytes:
        """Return the next *length* bytes, which are few; fewer only at the end."""
        parts: list[bytes] = []
        while length and (part := self.take_some(length)):
            parts.append(part)
            length -= len(part)
        return b"".join(parts)

    def take_some(self, most: int) -> bytes:
        """Return one to *most* bytes; none at the end."""
        while not self._held:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._held = memoryview(piece)
        part = bytes(self._held[:most])
        self._held = self._held[most:]
        self.at += len(part)
        return part

    def skip(self, length: int) -> None:
        """Pass over *length* bytes.

        Raises:
            TruncatedInput: There are fewer.
        """
        while length:
            part = self.take_some(min(length, PIECE_BYTES))
            if not part:
                raise TruncatedInput(f"it ends {length} bytes early", offset=self.at)
            length -= len(part)


class ViewReader:
    """The bytes of a view, read as a tar wants them; what is passed over is not read."""

    def __init__(self, view: ByteView) -> None:
        self.view = view
        self.at = 0

    def take(self, length: int) -> bytes:
        """Return the next *length* bytes, which are few; fewer only at the end."""
        return self.take_some(length)

    def take_some(self, most: int) -> bytes:
        """Return one to *most* bytes; none at the end."""
        part = self.view.read(self.at, min(most, self.view.size - self.at))
        self.at += len(part)
        return part

    def skip(self, length: int) -> None:
        """Pass over *length* bytes; raises as `PieceReader.skip`."""
        left = self.view.size - self.at
        if length > left:
            self.at = self.view.size
            raise TruncatedInput(f"it ends {length - left} bytes early", offset=self.at)
        self.at += length


def iter_pieces(view: ByteView, start: int = 0, end: int | None = None) -> Iterator[bytes]:
    """Yield the bytes of *view* from *start* to *end*, both in bytes."""
    end = view.size if end is None else end
    while start < end:
        piece = view.read(start, min(PIECE_BYTES, end - start))
        start += len(piece)
        yield piece
