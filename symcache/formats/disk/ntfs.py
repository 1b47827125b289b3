"""NTFS: folders and the data of files, with holes, in pieces, compressed by NTFS or by the overlay of Windows.

Source: the Linux-NTFS project's documentation of NTFS; Windows SDK ntifs.h (reparse points) and wofapi.h. Fields are
little-endian.
"""

from __future__ import annotations

import struct
from bisect import bisect_right
from itertools import accumulate
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from symcache.errors import InputError, MalformedInput, TruncatedInput
from symcache.formats.disk.bounded import Recent
from symcache.formats.disk.compression import expand_lznt1
from symcache.formats.disk.overlay import open_overlay, read_overlay_algorithm
from symcache.formats.disk.tree import TreeEntry
from symcache.formats.view import BytesView, PartView, check_range, parse_uint, read_in_parts

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.formats.disk.bounded import Budget
    from symcache.formats.view import ByteView

_STANDARD, _ATTRIBUTE_LIST, _DATA, _INDEX_ROOT, _INDEX_BLOCKS, _BITMAP, _REPARSE = (
    0x10,
    0x20,
    0x80,
    0x90,
    0xA0,
    0xB0,
    0xC0,
)
_KEPT = frozenset({_DATA, _INDEX_ROOT, _INDEX_BLOCKS, _BITMAP, _REPARSE})
_END = 0xFFFFFFFF
_COMPRESSED, _ENCRYPTED = 0x00FF, 0x4000
_SEGMENT = (1 << 48) - 1
_ROOT = 5
_FOLDER_INDEX = "$I30"
_IS_FOLDER, _IS_LINK = 0x10000000, 0x400
_DOS_NAME = 2
_SYSTEM_SEGMENTS = 24  # of these only the root is of interest
_LARGEST_LIST = 1 << 20
_LARGEST_REPARSE = 16 << 10
_MOST_EXTENSIONS = 4096
_WOF = 0x80000017
_OTHER_TAGS = {
    0x80000013: "its data was deduplicated, and lies in the volume's chunk store",
    0xA000000C: "it is a symbolic link",
    0xA0000003: "it is a mount point",
}

_RECORD = Struct("<4sHH8xHHHHIIQ")  # magic, fixups at, count, sequence, links, first attribute, flags, used, size, base
_ATTRIBUTE = Struct("<IIBBHH")
_RESIDENT = Struct("<IH")
_NONRESIDENT = Struct("<QQHB5xQQQ")
_INDEX_ENTRY = Struct("<QHHI")
_NAME_FIELDS = Struct("<56xIIBB")
_LIST_ENTRY = Struct("<IHBBQQ")

Run = tuple[int | None, int]
"""First cluster, None for a hole, and how many."""


class _Attribute(NamedTuple):
    type: int
    name: str
    flags: int
    value: bytes | None  # None if it lies outside of the record
    first_cluster: int = 0
    size: int = 0
    written: int = 0  # bytes from the beginning that were ever written; the rest reads as zeros
    unit_bits: int = 0
    runs: bytes = b""


class NtfsVolume:
    """The files of an NTFS volume.

    Raises:
        InputError: It is no NTFS volume, or its master file table cannot be found.

    Layout of the first sector: at 3 ``NTFS    ``, at 0x0B u16 bytes of a sector, at 0x0D u8 sectors of a cluster (above
    0x80 a power of two, negated), at 0x28 u64 sectors, at 0x30 u64 and 0x38 u64 clusters of the master file table and
    of its copy, at 0x40 i8 and 0x44 i8 clusters of a record and of an index block (negative: a power of two in bytes).
    """

    root = TreeEntry("", True, _ROOT)

    def __init__(self, view: ByteView, budget: Budget) -> None:
        self._view = view
        self._budget = budget
        boot = view.read(0, 512)
        if boot[3:11] != b"NTFS    ":
            raise MalformedInput("no NTFS volume", offset=3)
        sector_bytes = parse_uint(boot, 0x0B, 2)
        per_cluster = boot[0x0D] if boot[0x0D] <= 0x80 else 1 << (0x100 - boot[0x0D])
        self.cluster_bytes = sector_bytes * per_cluster
        if sector_bytes not in {256, 512, 1024, 2048, 4096} or per_cluster & (per_cluster - 1) or not per_cluster:
            raise MalformedInput(f"NTFS with sectors of {sector_bytes} bytes, {per_cluster} to a cluster", offset=0x0B)
        if self.cluster_bytes > 2 << 20:
            raise MalformedInput(f"NTFS with clusters of {self.cluster_bytes} bytes", offset=0x0D)
        self._record_bytes = self._unit(boot[0x40], "records")
        self._clusters = max(parse_uint(boot, 0x28, 8) * sector_bytes, view.size) // self.cluster_bytes + 1
        self._records: Recent[list[_Attribute]] = Recent(16)
        self._mft = self._open_table([parse_uint(boot, 0x30, 8), parse_uint(boot, 0x38, 8)])

    def _unit(self, clusters: int, what: str) -> int:
        size = 1 << (0x100 - clusters) if clusters >= 0x80 else clusters * self.cluster_bytes
        if not 256 <= size <= 64 << 10 or size & (size - 1):
            raise MalformedInput(f"NTFS with {what} of {size} bytes")
        return size

    def _open_table(self, places: list[int]) -> ByteView:
        """Return the master file table, which its own first record describes; the copy has the first four records.

        Where that takes more records, each of them lies in what those before it describe.
        """
        problem: InputError | None = None
        for place in places:
            try:
                data = self._view.read(place * self.cluster_bytes, self._record_bytes)
                pieces, listed = self._parse_record(data, 0)
                self._mft = self._data_view([each for each in pieces if each.type == _DATA and not each.name])
                if listed is not None:
                    pieces += self._extensions(listed, 0)
                return self._data_view([each for each in pieces if each.type == _DATA and not each.name])
            except InputError as error:
                problem = problem or error
        assert problem is not None
        raise MalformedInput(f"the master file table of NTFS cannot be read: {problem.problem}", offset=problem.offset)

    def entries(self, folder: TreeEntry) -> Iterator[TreeEntry]:
        """Yield what *folder* holds; a part that is damaged is passed over, and told at the end.

        Index root: at 8 u32 bytes of a block; at 16 the header of its entries: u32 first, u32 end, both from there.
        Blocks: ``INDX``, at 4 u16 and 6 u16 fixups, at 24 the same header. Which blocks are in use says a bitmap: what
        is left in others are names of files that are gone. The tree is not searched: nothing in it leads in a circle.
        """
        attributes = [
            each for each in self._records.get(self._place(folder), self._read_record) if each.name == _FOLDER_INDEX
        ]
        root = next((each.value for each in attributes if each.type == _INDEX_ROOT and each.value), None)
        if root is None or len(root) < 32:
            raise MalformedInput(f"folder {folder.name!r} has no index")
        yield from _index_entries(root, 16)
        blocks = [each for each in attributes if each.type == _INDEX_BLOCKS]
        if not blocks:
            return
        block_bytes = parse_uint(root, 8, 4)
        if not 512 <= block_bytes <= 64 << 10 or block_bytes & (block_bytes - 1):
            raise MalformedInput(f"folder {folder.name!r} has index blocks of {block_bytes} bytes")
        view = self._data_view(blocks)
        in_use = self._bitmap([each for each in attributes if each.type == _BITMAP])
        problem: InputError | None = None
        for number in range(min(view.size // block_bytes, 8 * len(in_use))):
            if not in_use[number // 8] >> number % 8 & 1:
                continue
            try:
                data = _fix(view.read(number * block_bytes, block_bytes), b"INDX")
            except InputError as error:
                problem = problem or error
                if self._budget.is_spent:
                    break
                continue
            yield from _index_entries(data, 24)
        if problem is not None:
            raise MalformedInput(f"folder {folder.name!r} can be listed in part only: {problem.problem}")

    def _bitmap(self, attributes: list[_Attribute]) -> bytes:
        if not attributes:
            return b""
        if attributes[0].value is not None:
            return attributes[0].value
        view = self._data_view(attributes)
        return view.read(0, min(view.size, _LARGEST_LIST))

    def open(self, file: TreeEntry) -> ByteView:
        """Return what *file* holds.

        Raises:
            InputError: Its record is damaged, or its data is encrypted or elsewhere.
        """
        attributes = self._records.get(self._place(file), self._read_record)
        data = [each for each in attributes if each.type == _DATA and not each.name]
        reparse = next((each for each in attributes if each.type == _REPARSE), None)
        if reparse is not None:
            content = reparse.value if reparse.value is not None else self._small(reparse)
            tag = parse_uint(content, 0, 4)
            if tag == _WOF:
                algorithm = read_overlay_algorithm(content[8:])
                packed = [each for each in attributes if each.type == _DATA and each.name == "WofCompressedData"]
                if not packed:
                    raise MalformedInput("its compressed data is not there (WofCompressedData)")
                size = data[0].size if data else 0
                return open_overlay(self._data_view(packed), size, algorithm, self._budget)
            if tag in _OTHER_TAGS or tag & 0xFFFF0FFF == 0x9000001A:
                raise MalformedInput(_OTHER_TAGS.get(tag, "its data is in the cloud, not on the disk"))
        if not data:
            raise MalformedInput("it has no data")
        return self._data_view(data)

    def _small(self, attribute: _Attribute) -> bytes:
        view = self._data_view([attribute])
        return view.read(0, min(view.size, _LARGEST_REPARSE))

    def _place(self, entry: TreeEntry) -> int:
        assert isinstance(entry.place, int)
        return entry.place

    def _read_record(self, reference: int) -> list[_Attribute]:
        """Return the attributes of a record and of its extensions; *reference* is its number and, above it, its use."""
        number = reference & _SEGMENT
        attributes, listed = self._parse_record(self._table_record(number), reference >> 48)
        if listed is not None:
            attributes += self._extensions(listed, number)
        return attributes

    def _table_record(self, number: int) -> bytes:
        offset = number * self._record_bytes
        if offset + self._record_bytes > self._mft.size:
            raise MalformedInput(f"record {number} lies behind the end of the master file table")
        return self._mft.read(offset, self._record_bytes)

    def _parse_record(self, data: bytes, sequence: int, base: int = 0) -> tuple[list[_Attribute], _Attribute | None]:
        """Return the attributes of a record that are of interest, and the list of all where there is one.

        Layout: at 0x10 u16 how often it was used, at 0x14 u16 first attribute, at 0x16 u16 bit 0 in use, at 0x18 u32
        bytes in use, at 0x20 u64 the record that it extends. An attribute: u32 type, u32 length, u8 outside, u8 length
        of the name, u16 its offset, u16 flags; then at 16 u32 length and u16 offset of the value, or at 16 u64 first
        and u64 last cluster, at 32 u16 runs, u8 compression, at 40 three u64: allocated, size, ever written.
        """
        data = _fix(data, b"FILE")
        _, _, _, used_times, _, at, flags, used_bytes, _, extended = _RECORD.unpack_from(data)
        if not flags & 1:
            raise MalformedInput("its record is not in use")
        if sequence and sequence != used_times:
            raise MalformedInput("its record belongs to another file by now")
        if extended & _SEGMENT != base:
            raise MalformedInput("its record extends another one")
        found: list[_Attribute] = []
        listed = None
        end = min(len(data), used_bytes)
        while at + 8 <= end:
            type_, length = struct.unpack_from("<II", data, at)
            if type_ == _END:
                break
            if length < 24 or at + length > end:
                raise MalformedInput("an attribute of its record ends behind it")
            if type_ in _KEPT:
                found.append(_parse_attribute(data[at : at + length]))
            elif type_ == _ATTRIBUTE_LIST:
                listed = _parse_attribute(data[at : at + length])
            at += length
        return found, listed

    def _extensions(self, listed: _Attribute, number: int) -> list[_Attribute]:
        """Return the attributes of the records that *listed*, the list of record *number*, leads to.

        Entry: u32 type, u16 length, u8, u8, u64 first cluster, u64 record.
        """
        if listed.value is not None:
            content = listed.value
        else:
            view = self._data_view([listed])
            if view.size > _LARGEST_LIST:
                raise MalformedInput(f"its list of attributes has {view.size} bytes")
            content = view.read(0, view.size)
        places: dict[int, None] = {}
        at = 0
        while at + _LIST_ENTRY.size <= len(content):
            type_, length, _, _, _, reference = _LIST_ENTRY.unpack_from(content, at)
            if length < _LIST_ENTRY.size:
                break
            if type_ in _KEPT and reference & _SEGMENT != number:
                places[reference] = None
            at += length
        if len(places) > _MOST_EXTENSIONS:
            raise MalformedInput(f"its record goes on in {len(places)} others")
        found: list[_Attribute] = []
        for reference in places:
            more, _ = self._parse_record(self._table_record(reference & _SEGMENT), reference >> 48, number)
            found += more
        return found

    def _data_view(self, pieces: list[_Attribute]) -> ByteView:
        """Return the data that *pieces*, the attributes of one name, describe."""
        if not pieces:
            raise MalformedInput("it has no data")
        if pieces[0].value is not None:
            return BytesView(pieces[0].value)
        pieces = sorted((each for each in pieces if each.value is None), key=lambda each: each.first_cluster)
        first = pieces[0]
        if first.first_cluster:
            raise MalformedInput("the beginning of its data is not described")
        if first.flags & _ENCRYPTED:
            raise MalformedInput("it is encrypted by its user's key (EFS)")
        runs: list[Run] = []
        clusters = 0
        for piece in pieces:
            if piece.first_cluster != clusters:
                raise MalformedInput("a part of its data is not described")
            for run in self._parse_runs(piece.runs):
                runs.append(run)
                clusters += run[1]
        if clusters * self.cluster_bytes < first.size:
            raise MalformedInput(f"{first.size} bytes are said to lie in {clusters} clusters")
        if first.flags & _COMPRESSED:
            return _CompressedView(self._view, runs, first, self.cluster_bytes, self._budget)
        return _RunsView(self._view, runs, first, self.cluster_bytes)

    def _parse_runs(self, data: bytes) -> Iterator[Run]:
        """Yield the runs that *data* describes.

        Each: u8 with the lengths of two numbers, count and, from the run before it, place; a hole has no place.
        """
        at = 0
        place = 0
        while at < len(data) and data[at]:
            count_bytes, place_bytes = data[at] & 15, data[at] >> 4
            if count_bytes > 8 or place_bytes > 8 or at + 1 + count_bytes + place_bytes > len(data):
                raise MalformedInput("a run of its data is damaged")
            count = int.from_bytes(data[at + 1 : at + 1 + count_bytes], "little")
            at += 1 + count_bytes
            if place_bytes:
                place += int.from_bytes(data[at : at + place_bytes], "little", signed=True)
                at += place_bytes
                if place < 0 or place + count > self._clusters:
                    raise MalformedInput("a run of its data lies outside of the volume")
            if not 0 < count < 1 << 48:
                raise MalformedInput("a run of its data is damaged")
            yield (place if place_bytes else None), count


class _RunsView:
    """Data that lies in runs of clusters."""

    def __init__(self, volume: ByteView, runs: list[Run], data: _Attribute, cluster_bytes: int) -> None:
        self._volume = volume
        self._runs = runs
        self._starts = [0, *accumulate(count for _, count in runs)]
        self._cluster_bytes = cluster_bytes
        self._written = min(data.written, data.size)
        self.size = data.size

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        here = max(0, min(length, self._written - offset))
        return self.read_runs(offset, here) + bytes(length - here)

    def read_runs(self, offset: int, length: int) -> bytes:
        """Return what lies in the runs from *offset*, whatever the size of the data is."""
        parts: list[bytes] = []
        index = bisect_right(self._starts, offset // self._cluster_bytes) - 1
        while length:
            if index >= len(self._runs):
                raise TruncatedInput("its data ends early", offset=offset)
            place, count = self._runs[index]
            inside = offset - self._starts[index] * self._cluster_bytes
            part = min(length, count * self._cluster_bytes - inside)
            parts.append(
                bytes(part) if place is None else self._volume.read(place * self._cluster_bytes + inside, part)
            )
            offset += part
            length -= part
            index += 1
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def holes(self, cluster: int, count: int) -> int:
        """Return how many of *count* clusters from *cluster* on, up to its end, are holes at their end."""
        holes = 0
        index = bisect_right(self._starts, cluster) - 1
        end = cluster + count
        while index < len(self._runs) and cluster < end:
            part = min(end, self._starts[index + 1]) - cluster
            holes = holes + part if self._runs[index][0] is None else 0
            cluster += part
            index += 1
        return holes + end - cluster


class _CompressedView:
    """Data that NTFS compresses, in units of mostly 16 clusters.

    A unit without holes is stored as it is, one of holes alone is zeros, any other one is compressed.
    """

    def __init__(self, volume: ByteView, runs: list[Run], data: _Attribute, cluster_bytes: int, budget: Budget) -> None:
        if not 0 < data.unit_bits <= 8 or cluster_bytes << data.unit_bits > 1 << 20:
            raise MalformedInput(f"it is compressed in units of 2^{data.unit_bits} clusters")
        self._runs = _RunsView(volume, runs, data, cluster_bytes)
        self._cluster_bytes = cluster_bytes
        self._unit_clusters = 1 << data.unit_bits
        self._budget = budget
        self._written = min(data.written, data.size)
        self._units: Recent[bytes] = Recent(2)
        self.size = data.size

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        here = max(0, min(length, self._written - offset))
        return read_in_parts(self._read_some, offset, here) + bytes(length - here)

    def _read_some(self, offset: int, length: int) -> bytes:
        number, inside = divmod(offset, self._unit_clusters * self._cluster_bytes)
        return self._units.get(number, self._expand)[inside : inside + length]

    def _expand(self, number: int) -> bytes:
        first = number * self._unit_clusters
        unit_bytes = self._unit_clusters * self._cluster_bytes
        stored = self._unit_clusters - self._runs.holes(first, self._unit_clusters)
        self._budget.spend(unit_bytes)
        if not stored:
            return bytes(unit_bytes)
        data = self._runs.read_runs(first * self._cluster_bytes, stored * self._cluster_bytes)
        return data if stored == self._unit_clusters else expand_lznt1(data, unit_bytes)


def _parse_attribute(data: bytes) -> _Attribute:
    type_, length, is_outside, name_length, name_at, flags = _ATTRIBUTE.unpack_from(data)
    name = data[name_at : name_at + 2 * name_length].decode("utf-16-le", "replace")
    if not is_outside:
        value_bytes, value_at = _RESIDENT.unpack_from(data, 16)
        if value_at + value_bytes > length:
            raise MalformedInput("an attribute of its record ends behind it")
        return _Attribute(type_, name, flags, data[value_at : value_at + value_bytes], size=value_bytes)
    if length < 64:
        raise MalformedInput("an attribute of its record is too short")
    first, _, runs_at, unit_bits, _, size, written = _NONRESIDENT.unpack_from(data, 16)
    return _Attribute(type_, name, flags, None, first, size, written, unit_bits, data[runs_at:])


def _fix(data: bytes, magic: bytes) -> bytes:
    """Return a record or a block as it was before its sectors were marked against torn writes.

    At 4 u16 where, at 6 u16 how many: the mark that ends each 512 bytes, and what stood in its place.
    """
    if data[:4] != magic:
        raise MalformedInput(f"{magic.decode()} is not where it should be: {data[:4]!r}")
    at, count = struct.unpack_from("<HH", data, 4)
    if not 1 <= count <= len(data) // 512 + 1 or at + 2 * count > len(data):
        raise MalformedInput(f"{magic.decode()} with {count} sectors in {len(data)} bytes")
    fixed = bytearray(data)
    mark = data[at : at + 2]
    for number in range(1, count):
        end = 512 * number
        if data[end - 2 : end] != mark:
            raise MalformedInput(f"{magic.decode()} was written in part only")
        fixed[end - 2 : end] = data[at + 2 * number : at + 2 * number + 2]
    return bytes(fixed)


def _index_entries(data: bytes, header: int) -> Iterator[TreeEntry]:
    """Yield the files and folders of an index root or block, whose header stands at *header*.

    Entry: u64 record, u16 length, u16 length of the name's attribute, u16 flags, 2 bytes; at 16 that attribute: at 56
    u32 flags, u32 tag of a link, u8 length of the name, u8 name space, the name in UTF-16. Flag 2 ends the entries.
    """
    first, used = struct.unpack_from("<II", data, header)
    at = header + first
    end = min(len(data), header + used)
    while at + _INDEX_ENTRY.size <= end:
        reference, length, key_bytes, flags = _INDEX_ENTRY.unpack_from(data, at)
        if flags & 2 or length < _INDEX_ENTRY.size or at + length > end:
            return
        if 66 <= key_bytes <= length - 16:
            attributes, _, name_length, space = _NAME_FIELDS.unpack_from(data, at + 16)
            number = reference & _SEGMENT
            if space != _DOS_NAME and number >= _SYSTEM_SEGMENTS and 66 + 2 * name_length <= key_bytes:
                name = data[at + 82 : at + 82 + 2 * name_length].decode("utf-16-le", "replace")
                yield TreeEntry(name, bool(attributes & _IS_FOLDER) and not attributes & _IS_LINK, reference)
        at += length


def part_of(view: ByteView, start: int, size: int) -> ByteView:
    """Return as much of a partition as is there: a disk that was cut short has the beginning of its last one."""
    return PartView(view, start, max(0, min(size, view.size - start)))
