"""Optical discs in files: UDF, as Windows' own discs have it, and ISO 9660.

Source: ECMA-167, third edition, and OSTA's UDF 1.02; ECMA-119. Fields of UDF are little-endian, those of ISO 9660 come
in both orders, of which the first is taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, TruncatedInput
from symcache.formats.disk.tree import TreeEntry
from symcache.formats.view import BytesView, PartView, check_range, parse_uint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.disk.tree import FileTree
    from symcache.formats.view import ByteView

_SECTOR = 2048
_LARGEST_FOLDER = 16 << 20
_MOST_EXTENTS = 4096


def open_disc(view: ByteView) -> FileTree:
    """Return the files of a disc: those of UDF where it has that, as the other may be an empty one that says so.

    Raises:
        InputError: It has neither.
    """
    try:
        return _UdfDisc(view)
    except InputError as problem:
        try:
            return _Iso9660Disc(view)
        except InputError:
            raise problem from None


class _ExtentsView:
    """Data in extents, one behind the other."""

    def __init__(self, disc: ByteView, extents: list[tuple[int, int]], size: int) -> None:
        self._disc = disc
        self._extents = extents
        self.size = min(size, sum(length for _, length in extents))

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        parts: list[bytes] = []
        for place, size in self._extents:
            if not length:
                break
            if offset >= size:
                offset -= size
                continue
            part = min(length, size - offset)
            parts.append(self._disc.read(place + offset, part))
            length -= part
            offset = 0
        return b"".join(parts)


def _whole(view: ByteView) -> bytes:
    if view.size > _LARGEST_FOLDER:
        raise MalformedInput(f"a folder of {view.size} bytes")
    return view.read(0, view.size)


class _UdfDisc:
    """A disc with UDF, of one partition without a map of its own."""

    def __init__(self, view: ByteView) -> None:
        self._view = view
        anchor = self._descriptor(256, 2)
        size, first = parse_uint(anchor, 16, 4), parse_uint(anchor, 20, 4)
        self._start = -1
        root = -1
        for sector in range(first, first + min(size // _SECTOR, 64)):
            data = view.read(sector * _SECTOR, _SECTOR)
            kind = parse_uint(data, 0, 2)
            if kind == 5:
                self._start = parse_uint(data, 188, 4)
            elif kind == 6:
                if parse_uint(data, 212, 4) != _SECTOR or data[440] != 1:
                    raise MalformedInput("a UDF disc of a kind that is not read", offset=sector * _SECTOR)
                root = parse_uint(data, 252, 4)
            elif kind == 8:
                break
        if self._start < 0 or root < 0:
            raise MalformedInput("a UDF disc without a volume")
        files = self._descriptor(self._start + root, 256)
        self.root = TreeEntry("", True, parse_uint(files, 404, 4))

    def _descriptor(self, sector: int, kind: int) -> bytes:
        data = self._view.read(sector * _SECTOR, _SECTOR)
        if parse_uint(data, 0, 2) != kind:
            raise MalformedInput(f"a descriptor of UDF of kind {kind} is not there", offset=sector * _SECTOR)
        return data

    def entries(self, folder: TreeEntry) -> Iterator[TreeEntry]:
        """Yield what *folder* holds: u16 257, at 18 u8 flags, u8 length of the name, at 24 place, at 36 u16 use."""
        data = _whole(self.open(folder))
        at = 0
        while at + 38 <= len(data):
            if parse_uint(data, at, 2) != 257:
                raise MalformedInput(f"folder {folder.name!r} of the disc is damaged")
            flags, name_bytes, use_bytes = data[at + 18], data[at + 19], parse_uint(data, at + 36, 2)
            name = data[at + 38 + use_bytes : at + 38 + use_bytes + name_bytes]
            if not flags & 0xC and name:
                text = name[1:].decode("utf-16-be", "replace") if name[0] == 16 else name[1:].decode("latin-1")
                yield TreeEntry(text, bool(flags & 2), parse_uint(data, at + 24, 4))
            at += (38 + use_bytes + name_bytes + 3) & ~3

    def open(self, file: TreeEntry) -> ByteView:
        """Return what *file* holds: at 34 u16 flags, at 56 u64 length, then lengths and the extents, or the data."""
        assert isinstance(file.place, int)
        at = (self._start + file.place) * _SECTOR
        data = self._view.read(at, _SECTOR)
        kind = parse_uint(data, 0, 2)
        lengths = {261: 168, 266: 208}.get(kind)
        if lengths is None:
            raise MalformedInput("an entry of a file of UDF is not there", offset=at)
        size = parse_uint(data, 56, 8)
        first = lengths + 8 + parse_uint(data, lengths, 4)
        described = data[first : first + parse_uint(data, lengths + 4, 4)]
        way = parse_uint(data, 34, 2) & 7
        if way == 3:
            return BytesView(described[:size])
        if way > 1:
            raise MalformedInput("extents of a file of UDF of a kind that is not read", offset=at)
        step = 16 if way else 8
        extents = []
        for each in range(0, len(described) - step + 1, step):
            length = parse_uint(described, each, 4)
            if length >> 30:
                raise MalformedInput("a file of UDF that was not written, or goes on elsewhere", offset=at)
            if length:
                extents.append(((self._start + parse_uint(described, each + 4, 4)) * _SECTOR, length))
        return _ExtentsView(self._view, extents, size)


class _Iso9660Disc:
    """A disc with ISO 9660 alone; names come without their version."""

    def __init__(self, view: ByteView) -> None:
        self._view = view
        data = view.read(16 * _SECTOR, _SECTOR)
        if data[:6] != b"\1CD001":
            raise MalformedInput("an optical disc of a kind that is not read", offset=16 * _SECTOR)
        self._extents: dict[int, list[tuple[int, int]]] = {}
        place, size = parse_uint(data, 158, 4), parse_uint(data, 166, 4)
        self._extents[place] = [(place * _SECTOR, size)]
        self.root = TreeEntry("", True, place)

    def entries(self, folder: TreeEntry) -> Iterator[TreeEntry]:
        """Yield what *folder* holds: u8 length, at 2 u32 sector, at 10 u32 bytes, at 25 u8 flags, at 32 the name.

        Files of more than 4 GiB have several entries, of which all but the last are marked.
        """
        data = _whole(self.open(folder))
        at = 0
        pieces: list[tuple[int, int]] = []
        while at < len(data):
            length = data[at]
            if not length:
                at = (at // _SECTOR + 1) * _SECTOR
                continue
            if length < 34 or at + length > len(data):
                raise MalformedInput(f"folder {folder.name!r} of the disc is damaged")
            place, size, flags, name_bytes = (
                parse_uint(data, at + 2, 4), parse_uint(data, at + 10, 4), data[at + 25], data[at + 32],
            )  # fmt: skip
            name = data[at + 33 : at + 33 + name_bytes]
            pieces.append((place * _SECTOR, size))
            if not flags & 0x80 or len(pieces) > _MOST_EXTENTS:
                first = pieces[0][0] // _SECTOR
                if name not in {b"\0", b"\1"}:
                    self._extents[first] = pieces
                    text = name.decode("latin-1").partition(";")[0].rstrip(".")
                    yield TreeEntry(text, bool(flags & 2), first)
                pieces = []
            at += length

    def open(self, file: TreeEntry) -> ByteView:
        assert isinstance(file.place, int)
        extents = self._extents[file.place]
        if len(extents) == 1 and extents[0][0] + extents[0][1] > self._view.size:
            raise TruncatedInput("it lies behind the end of the disc", offset=extents[0][0])
        if len(extents) == 1:
            return PartView(self._view, *extents[0])
        return _ExtentsView(self._view, extents, sum(size for _, size in extents))
