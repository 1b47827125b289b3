"""WIM files: images of Windows folders, in which each content lies once, in chunks.

dissect.archive reads those compressed with XPRESS alone, and has all contents of a file in memory; Microsoft's are LZX.
Source: Microsoft's Windows Imaging File Format (WIM) white paper; wimlib's documentation for what came after it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.disk.compression import ChunkedView
from symcache.formats.disk.tree import TreeEntry
from symcache.formats.view import BytesView, PartView, parse_uint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.disk.bounded import Budget
    from symcache.formats.view import ByteView

_COMPRESSED, _SPANNED = 0x2, 0x8
_XPRESS, _LZX, _LZMS = 0x20000, 0x40000, 0x80000
_SOLID_VERSION = 0x0E00
_OF_IMAGE, _IS_PACKED, _IS_SOLID = 0x2, 0x4, 0x10
_LARGEST_CHUNK = 2 << 20
_HEADER = Struct("<8sIIII16sHHI")
_TABLE_ENTRY = Struct("<QQQHI20s")
_ENTRIES_AT_ONCE = 4096
_MOST_IMAGES = 1024
_MOST_CONTENTS = 4_000_000  # eight bytes of each are held
_LARGEST_XML = 4 << 20
_FILE = Struct("<QIIQ40x20s4xIIHHH")
_FIXED_BYTES = 102
_STREAM = Struct("<QQ20sH")
_IS_FOLDER, _IS_LINK = 0x10, 0x400
_NO_HASH = bytes(20)
_CONVERT = "wimlib-imagex export FILE all NEW.wim --compress=LZX, or dism /Export-Image ... /Compress:max"
NOT_READ = (
    f"a WIM file compressed with LZMS (an ESD), which is not read: convert it ({_CONVERT}); with wimlib installed"
    " (wimlib-imagex on PATH; Debian: wimtools) symcache takes files out of it, and it needs no conversion"
)
"""What is said of a WIM file that *needs_program* where that is missing."""
_ENCRYPTED = (
    "an encrypted ESD, to which Windows' own setup alone has the key: give an ISO, or an ESD that is not encrypted, as"
    " the Media Creation Tool makes them"
)


class _Resource(NamedTuple):
    """Where something lies in the file: its length there, how, and its own length."""

    size: int
    flags: int
    offset: int
    original_size: int


@dataclass(frozen=True, slots=True)
class WimImage:
    """One image: its number from 1, and what the file says of it."""

    number: int
    name: str = ""
    build: str = ""


class WimFile:
    """The images of a WIM file.

    Of one that *needs_program*, since it is solid or compressed with LZMS (the usual ESD), the images alone are told.

    Raises:
        InputError: It is damaged, encrypted, a part of several, or compressed in a way that nobody knows.

    Layout: ``MSWIM``, u32 bytes of the header, u32 version, u32 flags, u32 bytes of a chunk, 16 bytes, u16 part, u16
    parts, u32 images; at 0x30 and 0x48 the table of contents and the XML document, of 24 bytes: u56 length, u8 flags,
    u64 place, u64 own length. An entry of the table goes on: u16 part, u32 count, 20 bytes SHA-1.
    """

    def __init__(self, view: ByteView, budget: Budget) -> None:
        self._view = view
        self._budget = budget
        head = view.read(0, 208)
        if head.startswith(b"WLPWM"):
            raise UnknownFormat(f"a WIM file made for pipes, which is not read: convert it ({_CONVERT})")
        magic, _, version, self._flags, self._chunk_bytes, _, part, parts, images = _HEADER.unpack_from(head)
        if magic != b"MSWIM\0\0\0":
            raise MalformedInput("no WIM file", offset=0)
        self.needs_program = version == _SOLID_VERSION or bool(self._flags & _LZMS)
        if parts > 1 or self._flags & _SPANNED:
            raise UnknownFormat(f"part {part} of {parts} of a split WIM file: join them (wimlib-imagex join)")
        if self._flags & _COMPRESSED and not self.needs_program:
            if not self._flags & (_XPRESS | _LZX):
                raise MalformedInput(f"a WIM file compressed in an unknown way ({self._flags:#x})", offset=16)
            size = self._chunk_bytes
            if not 4096 <= size <= _LARGEST_CHUNK or size & (size - 1) or (self._flags & _LZX and size < 32768):
                raise MalformedInput(f"a WIM file with chunks of {size} bytes", offset=20)
        if images > _MOST_IMAGES:
            raise MalformedInput(f"a WIM file with {images} images", offset=0x2C)
        self._images = images
        self._xml = _resource(head, 0x48)
        if self.needs_program:
            if re.search(r"<ESD>\s*<ENCRYPTED\b", self._read_document()):
                raise UnknownFormat(_ENCRYPTED)
            return
        self._table = self._open(_resource(head, 0x30))
        self._contents, self._metadata = self._read_table(images)
        self._images = len(self._metadata)

    @property
    def images(self) -> list[WimImage]:
        """Every image, in order."""
        said = self._describe()
        return [said.get(number, WimImage(number)) for number in range(1, self._images + 1)]

    def tree(self, image: WimImage) -> WimTree:
        """Return the files of *image*.

        Raises:
            InputError: Its metadata is damaged, or the file *needs_program*.
        """
        if self.needs_program:
            raise UnknownFormat(NOT_READ)
        return WimTree(self, self._open(self._metadata[image.number - 1]))

    def open(self, hash_: bytes) -> ByteView:
        """Return the content with this SHA-1.

        Raises:
            InputError: It is not in the file.
        """
        if hash_ == _NO_HASH:
            return BytesView(b"")
        number = self._find(hash_)
        if number is None:
            raise MalformedInput("its content is not in the WIM file, but perhaps in another one")
        return self._open(_resource(self._table.read(number * _TABLE_ENTRY.size, 24), 0))

    def _find(self, hash_: bytes) -> int | None:
        found = self._contents.find(hash_[:8])
        while found >= 0:
            number, inside = divmod(found, 8)
            if not inside and self._table.read(number * _TABLE_ENTRY.size + 30, 20) == hash_:
                return number
            found = self._contents.find(hash_[:8], found + 1)
        return None

    def _read_table(self, images: int) -> tuple[bytes, list[_Resource]]:
        """Return the first eight bytes of each hash of the table, one behind the other, and the images' metadata."""
        hashes = bytearray()
        metadata: list[_Resource] = []
        count = self._table.size // _TABLE_ENTRY.size
        if count > _MOST_CONTENTS:
            raise MalformedInput(f"a WIM file with {count} contents")
        for start in range(0, count, _ENTRIES_AT_ONCE):
            entries = min(_ENTRIES_AT_ONCE, count - start)
            data = self._table.read(start * _TABLE_ENTRY.size, entries * _TABLE_ENTRY.size)
            for number in range(entries):
                at = number * _TABLE_ENTRY.size
                hashes += data[at + 30 : at + 38]
                if data[at + 7] & _OF_IMAGE and len(metadata) < images:
                    metadata.append(_resource(data, at))
        return bytes(hashes), metadata

    def _open(self, resource: _Resource) -> ByteView:
        if resource.flags & _IS_SOLID or (self.needs_program and resource.flags & _IS_PACKED):
            raise UnknownFormat(f"it lies in a solid resource, which is not read: convert the file ({_CONVERT})")
        part = PartView(self._view, resource.offset, resource.size)
        if not resource.flags & _IS_PACKED:
            return PartView(part, 0, min(resource.original_size, resource.size))
        is_lzx = bool(self._flags & _LZX)
        if not self._flags & _COMPRESSED:
            raise MalformedInput("a part of the WIM file is compressed, and the file is not", offset=resource.offset)
        return ChunkedView(part, resource.original_size, self._chunk_bytes, is_lzx=is_lzx, budget=self._budget)

    def _describe(self) -> dict[int, WimImage]:
        """Return what the file's XML document says of its images; it is searched, and never interpreted."""
        found = {}
        for match in re.finditer(r'<IMAGE INDEX="(\d{1,4})">(.*?)</IMAGE>', self._read_document(), re.DOTALL):
            number, body = int(match[1]), match[2][:16384]
            version = [_text_of(body, tag) for tag in ("MAJOR", "MINOR", "BUILD", "SPBUILD")]
            build = ".".join(each for each in version if each) if all(version[:3]) else ""
            found[number] = WimImage(number, _text_of(body, "NAME"), build)
        return found

    def _read_document(self) -> str:
        try:
            view = self._open(self._xml)
            return view.read(0, min(view.size, _LARGEST_XML)).decode("utf-16-le", "replace")
        except InputError:
            return ""


def _text_of(body: str, tag: str) -> str:
    match = re.search(rf"<{tag}>([^<]{{1,200}})</{tag}>", body)
    return match[1] if match else ""


def _resource(data: bytes, at: int) -> _Resource:
    return _Resource(parse_uint(data, at, 7), data[at + 7], parse_uint(data, at + 8, 8), parse_uint(data, at + 16, 8))


class WimTree:
    """The files of one image.

    Layout of its metadata: u32 length of what is about security; from the next multiple of 8 on, the root. A file: u64
    length, u32 flags, u32, u64 place of what a folder holds, at 0x40 20 bytes SHA-1, at 0x60 u16 further streams, u16
    and u16 lengths of the short name and the name, the name in UTF-16. Streams: u64 length, u64, SHA-1, u16 length of
    the name. All begin at multiples of 8; a length of 8 and less ends a folder.
    """

    def __init__(self, wim: WimFile, metadata: ByteView) -> None:
        self._wim = wim
        self._metadata = metadata
        security_bytes = max(8, parse_uint(metadata.read(0, 4), 0, 4))
        root = self._read((security_bytes + 7) & ~7)
        if root is None or not root[0].is_folder:
            raise MalformedInput("an image of the WIM file has no root folder")
        self.root = root[0]

    def entries(self, folder: TreeEntry) -> Iterator[TreeEntry]:
        """Yield what *folder* holds.

        Raises:
            InputError: It is damaged from some place on.
        """
        at = folder.place
        assert isinstance(at, int)
        while at and (found := self._read(at)) is not None:
            entry, at = found
            yield entry

    def open(self, file: TreeEntry) -> ByteView:
        """Return what *file* holds.

        Raises:
            InputError: Its content is not there.
        """
        assert isinstance(file.place, bytes)
        return self._wim.open(file.place)

    def _read(self, at: int) -> tuple[TreeEntry, int] | None:
        """Return the file or folder at *at*, and where the next one is; None at the end of a folder."""
        if at + 8 > self._metadata.size:
            return None
        length = parse_uint(self._metadata.read(at, 8), 0, 8)
        if length <= 8:
            return None
        if not _FIXED_BYTES <= length <= 0x40000:
            raise MalformedInput(f"an entry of a folder has {length} bytes", offset=at)
        data = self._metadata.read(at, length)
        _, flags, _, folder_at, hash_, _, _, streams, _, name_bytes = _FILE.unpack_from(data)
        if _FIXED_BYTES + name_bytes > length:
            raise MalformedInput("a name reaches out of its entry", offset=at)
        name = data[_FIXED_BYTES : _FIXED_BYTES + name_bytes].decode("utf-16-le", "replace")
        at = (at + length + 7) & ~7
        for _ in range(streams):
            stream = self._metadata.read(at, _STREAM.size)
            stream_bytes, _, stream_hash, stream_name_bytes = _STREAM.unpack(stream)
            if stream_bytes < _STREAM.size:
                raise MalformedInput(f"a stream of a file has an entry of {stream_bytes} bytes", offset=at)
            if not stream_name_bytes and stream_hash != _NO_HASH:
                hash_ = stream_hash
            at = (at + stream_bytes + 7) & ~7
        is_folder = flags & (_IS_FOLDER | _IS_LINK) == _IS_FOLDER
        return TreeEntry(name, is_folder, folder_at if is_folder else hash_), at
