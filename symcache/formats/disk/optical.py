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
_MOST_DESCRIPTORS = 16
_MOST_CONTINUATIONS = 16
_UCS2 = frozenset([b"%/@", b"%/C", b"%/E"])
_NOWHERE = -1


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
            advice = "mount it and give the folder"
            raise type(problem)(f"{problem.problem}; {advice}", offset=problem.offset) from problem


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
    """A disc with ISO 9660 alone; names come without their version.

    They are those of Joliet where it has that, else those of Rock Ridge: the disc's own may have eight capitals only.

    Layout of a descriptor, one a sector from the 16th on: u8 type (1 the disc's own, 2 another one, 255 the last),
    ``CD001``; at 88 which characters names are of, at 158 and 166 u32 sector and bytes of the root.
    Source: ECMA-119; Microsoft's Joliet Recording Specification, "Identifying a Joliet SVD"; IEEE P1282, "NM".
    """

    def __init__(self, view: ByteView) -> None:
        self._view = view
        data = view.read(16 * _SECTOR, _SECTOR)
        if data[:6] != b"\1CD001":
            raise MalformedInput("an optical disc of a kind that is not read", offset=16 * _SECTOR)
        joliet = self._find_joliet()
        self._is_joliet = joliet is not None
        data = data if joliet is None else joliet
        place, size = parse_uint(data, 158, 4), parse_uint(data, 166, 4)
        self._extents: dict[int, list[tuple[int, int]]] = {_NOWHERE: [(0, 0)]}
        self._extents[place] = [(place * _SECTOR, size)]
        self.root = TreeEntry("", True, place)

    def _find_joliet(self) -> bytes | None:
        """Return the descriptor whose names are in UCS-2."""
        for number in range(17, 17 + _MOST_DESCRIPTORS):
            if (number + 1) * _SECTOR > self._view.size:
                break
            data = self._view.read(number * _SECTOR, _SECTOR)
            if data[1:6] != b"CD001" or data[0] == 0xFF:
                break
            if data[0] == 2 and data[88:91] in _UCS2:
                return data
        return None

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
                # What is empty may share its place with a file that is not.
                first = pieces[0][0] // _SECTOR if any(size for _, size in pieces) else _NOWHERE
                if name not in {b"\0", b"\1"}:
                    self._extents.setdefault(first, pieces)
                    more = data[at + 33 + (name_bytes | 1) : at + length]
                    yield TreeEntry(self._name(name, more), bool(flags & 2), first)
                pieces = []
            at += length

    def _name(self, name: bytes, more: bytes) -> str:
        """Return the name of an entry; *more* stands behind the *name*."""
        if self._is_joliet:
            text = name.decode("utf-16-be", "replace")
        elif long_name := self._rock_ridge_name(more):
            return long_name
        else:
            text = name.decode("latin-1")
        return text.partition(";")[0].rstrip(".")

    def _rock_ridge_name(self, more: bytes) -> str:
        """Return the name in fields of two letters, u8 length and u8 version; empty if there is none.

        ``NM`` goes on: u8 flags, a piece of the name. ``CE``: where further fields are, at 4 u32 sector, at 12 u32
        place, at 20 u32 bytes.
        """
        pieces = []
        for _ in range(_MOST_CONTINUATIONS):
            at, further = 0, b""
            while at + 4 <= len(more):
                sign, length = more[at : at + 2], more[at + 2]
                field = more[at : at + length]
                if not 4 <= length == len(field):
                    break
                if sign == b"NM" and length > 5 and not field[4] & 6:
                    pieces.append(field[5:])
                elif sign == b"CE" and length >= 28:
                    place, size = parse_uint(field, 4, 4) * _SECTOR + parse_uint(field, 12, 4), parse_uint(field, 20, 4)
                    further = self._view.read(place, size) if size <= _SECTOR else b""
                at += length
            if not further:
                break
            more = further
        return b"".join(pieces).decode("utf-8", "replace")

    def open(self, file: TreeEntry) -> ByteView:
        assert isinstance(file.place, int)
        extents = self._extents[file.place]
        if len(extents) == 1 and extents[0][0] + extents[0][1] > self._view.size:
            raise TruncatedInput("it lies behind the end of the disc", offset=extents[0][0])
        if len(extents) == 1:
            return PartView(self._view, *extents[0])
        return _ExtentsView(self._view, extents, sum(size for _, size in extents))
