"""FAT12, FAT16 and FAT32: the system partition of UEFI machines, sticks that install Windows, old Windows.

Source: Microsoft's FAT32 File System Specification 1.03. Fields are little-endian.
"""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput
from symcache.formats.disk.tree import TreeEntry
from symcache.formats.view import check_range, parse_uint, read_in_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.view import ByteView

_LARGEST_FOLDER = 2 << 20
_ENTRY_BYTES = 32
_LONG_NAME, _FOLDER, _LABEL = 0x0F, 0x10, 0x08
_LAST = 0x40
_MOST_PIECES = 20  # of 13 characters each


class FatVolume:
    """The files of a FAT volume.

    A place is the first cluster in the upper bits, and the length in the lower 32; the root of FAT12 and FAT16 has 0.

    Layout of the first sector: at 11 u16 bytes of a sector, u8 sectors of a cluster, u16 sectors before the tables, u8
    tables, u16 entries of the root, u16 sectors; at 22 u16 sectors of a table; at 32 u32 sectors, at 36 u32 sectors of
    a table, at 44 u32 first cluster of the root: the last two for FAT32 alone.

    Raises:
        InputError: It is no FAT volume.
    """

    def __init__(self, view: ByteView) -> None:
        self._view = view
        boot = view.read(0, 512)
        sector_bytes, per_cluster = parse_uint(boot, 11, 2), boot[13]
        tables = boot[16]
        table_sectors = parse_uint(boot, 22, 2)
        self._is_32 = not table_sectors
        table_sectors = table_sectors or parse_uint(boot, 36, 4)
        sectors = parse_uint(boot, 19, 2) or parse_uint(boot, 32, 4)
        if (
            sector_bytes not in {512, 1024, 2048, 4096}
            or not per_cluster
            or per_cluster & (per_cluster - 1)
            or not tables
        ):
            raise MalformedInput(f"FAT with sectors of {sector_bytes} bytes, {per_cluster} to a cluster", offset=11)
        self._cluster_bytes = sector_bytes * per_cluster
        self._table_at = parse_uint(boot, 14, 2) * sector_bytes
        self._root_at = self._table_at + tables * table_sectors * sector_bytes
        self._root_bytes = parse_uint(boot, 17, 2) * _ENTRY_BYTES
        self._data_at = self._root_at + -(-self._root_bytes // sector_bytes) * sector_bytes
        self._clusters = max(0, sectors * sector_bytes - self._data_at) // self._cluster_bytes
        self._is_12 = not self._is_32 and self._clusters < 4085
        first = parse_uint(boot, 44, 4) if self._is_32 else 0
        self.root = TreeEntry("", True, first << 32)

    def entries(self, folder: TreeEntry) -> Iterator[TreeEntry]:
        """Yield what *folder* holds: at 0 8 + 3 bytes name, u8 flags, at 20 and 26 u16 cluster, at 28 u32 length.

        A long name stands before it in pieces of 13 characters, the last one first: u8 number, at 1, 14 and 28.

        Raises:
            InputError: It is damaged from some place on.
        """
        data = self._folder(folder)
        long_name: list[str] = []
        for at in range(0, len(data) - _ENTRY_BYTES + 1, _ENTRY_BYTES):
            entry = data[at : at + _ENTRY_BYTES]
            if not entry[0]:
                return
            if entry[11] & 0x3F == _LONG_NAME and entry[0] != 0xE5:
                if entry[0] & _LAST:
                    long_name = []
                piece = entry[1:11] + entry[14:26] + entry[28:32]
                long_name = [piece.decode("utf-16-le", "replace").partition("\0")[0], *long_name[: _MOST_PIECES - 1]]
                continue
            name = "".join(long_name)[:255] or _short_name(entry)
            long_name = []
            if entry[0] in {0xE5, 0x2E} or entry[11] & _LABEL:
                continue
            cluster = parse_uint(entry, 26, 2) | (parse_uint(entry, 20, 2) << 16 if self._is_32 else 0)
            yield TreeEntry(name, bool(entry[11] & _FOLDER), cluster << 32 | parse_uint(entry, 28, 4))

    def open(self, file: TreeEntry) -> ByteView:
        """Return what *file* holds."""
        assert isinstance(file.place, int)
        return _ClustersView(self, file.place >> 32, file.place & 0xFFFFFFFF)

    def _folder(self, folder: TreeEntry) -> bytes:
        assert isinstance(folder.place, int)
        cluster: int | None = folder.place >> 32
        if not cluster:
            return self._view.read(self._root_at, self._root_bytes)
        parts: list[bytes] = []
        while cluster is not None and len(parts) * self._cluster_bytes < _LARGEST_FOLDER:
            parts.append(self.read_cluster(cluster, 0, self._cluster_bytes))
            cluster = self.next_cluster(cluster)
        return b"".join(parts)

    @property
    def cluster_bytes(self) -> int:
        """How long a cluster is."""
        return self._cluster_bytes

    def read_cluster(self, cluster: int, inside: int, length: int) -> bytes:
        """Return *length* bytes of *cluster*."""
        if not 2 <= cluster < self._clusters + 2:
            raise MalformedInput(f"cluster {cluster} lies outside of the volume")
        return self._view.read(self._data_at + (cluster - 2) * self._cluster_bytes + inside, length)

    def next_cluster(self, cluster: int) -> int | None:
        """Return the cluster that follows; None behind the last one."""
        if self._is_12:
            pair = parse_uint(self._view.read(self._table_at + cluster * 3 // 2, 2), 0, 2)
            number, end = (pair >> 4 if cluster & 1 else pair & 0xFFF), 0xFF8
        elif self._is_32:
            number = parse_uint(self._view.read(self._table_at + 4 * cluster, 4), 0, 4) & 0x0FFFFFFF
            end = 0x0FFFFFF8
        else:
            number, end = parse_uint(self._view.read(self._table_at + 2 * cluster, 2), 0, 2), 0xFFF8
        return None if number >= end else number


class _ClustersView:
    """Data in a chain of clusters, which is followed as far as it is read; a circle ends with the length."""

    def __init__(self, volume: FatVolume, first: int, size: int) -> None:
        self._volume = volume
        self._chain = array("I", [first])
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        return read_in_parts(self._read_some, offset, length)

    def _read_some(self, offset: int, length: int) -> bytes:
        number, inside = divmod(offset, self._volume.cluster_bytes)
        part = min(length, self._volume.cluster_bytes - inside)
        return self._volume.read_cluster(self._cluster(number), inside, part)

    def _cluster(self, number: int) -> int:
        while len(self._chain) <= number:
            following = self._volume.next_cluster(self._chain[-1])
            if following is None:
                raise MalformedInput("its chain of clusters ends early")
            self._chain.append(following)
        return self._chain[number]


def _short_name(entry: bytes) -> str:
    stem, suffix = (entry[start:end].decode("cp437").rstrip() for start, end in pairwise((0, 8, 11)))
    return f"{stem}.{suffix}" if suffix else stem
