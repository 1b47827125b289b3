"""Writes NTFS volumes with what Windows does to files, what it compresses them with, and disks round them.

Source: the Linux-NTFS project's documentation; [MS-XCA] 2.1 and 2.5 for the compressors; UEFI 2.10, 5.3 for GPT.
"""

from __future__ import annotations

import struct
import uuid
import zlib
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = [
    "NtfsFile",
    "NtfsPlan",
    "Way",
    "build_ntfs",
    "gpt_disk",
    "lznt1",
    "mbr_disk",
    "packed_overlay",
    "stored_lzx",
    "xpress",
]

CLUSTER = 1024
RECORD = 1024
BLOCK = 4096
_MFT_AT = 4
_FIRST_RECORD = 24
_ROOT = 5
_WOF = 0x80000017
_CHUNKS = {0: 4096, 1: 32768, 2: 8192, 3: 16384}


class Way(StrEnum):
    """How the data of a file lies on the disk."""

    RESIDENT = "resident"  # in its record
    RUN = "run"  # in one piece
    PIECES = "pieces"  # in pieces of one cluster, the last one first
    EXTENDED = "extended"  # in pieces, each described by a record of its own
    SPARSE = "sparse"  # clusters of zeros are holes
    UNWRITTEN = "unwritten"  # what it ends with in zeros was never written
    LZNT1 = "lznt1"  # compressed by NTFS
    OVERLAY = "overlay"  # compressed for the overlay filter
    ENCRYPTED = "encrypted"
    CLOUD = "cloud"  # a reparse point, and nothing on the disk


@dataclass(frozen=True, slots=True)
class NtfsFile:
    """A file: *links* are further paths of it, *algorithm* and *provider* those of the overlay filter."""

    data: bytes
    way: Way = Way.RUN
    links: tuple[str, ...] = ()
    algorithm: int = 0
    provider: int = 2


@dataclass(frozen=True, slots=True)
class NtfsPlan:
    """A volume: its files by path, with ``/``, and whether folders are written as blocks."""

    files: Mapping[str, NtfsFile]
    in_blocks: bool = False
    stale_names: tuple[str, ...] = ()  # left in a block of the root that is not in use any more
    dos_names: bool = False


@dataclass(slots=True)
class _Node:
    record: int
    sequence: int = 1
    children: dict[str, _Node] = field(default_factory=dict)
    file: NtfsFile | None = None

    @property
    def reference(self) -> int:
        return self.record | self.sequence << 48


def build_ntfs(plan: NtfsPlan) -> bytes:
    """Return the whole volume."""
    return _Writer(plan).build()


class _Writer:
    def __init__(self, plan: NtfsPlan) -> None:
        self._plan = plan
        self._next_record = _FIRST_RECORD
        self._records: dict[int, bytes] = {}
        self._root = _Node(_ROOT, 5)
        self._nodes: list[_Node] = [self._root]
        for path, file in plan.files.items():
            node = self._make(path)
            node.file = file
            for link in file.links:
                folder, _, name = link.rpartition("/")
                self._make(folder).children[name] = node
        spare = sum(2 + -(-len(each.data) // CLUSTER) for each in plan.files.values() if each.way is Way.EXTENDED)
        self._table_records = self._next_record + spare
        self._data_at = _MFT_AT + -(-self._table_records * RECORD // CLUSTER)
        self._data = bytearray()

    def _make(self, path: str) -> _Node:
        node = self._root
        for name in path.split("/"):
            if name not in node.children:
                node.children[name] = _Node(self._next_record, self._next_record % 7 + 1)
                self._nodes.append(node.children[name])
                self._next_record += 1
            node = node.children[name]
        return node

    def build(self) -> bytes:
        for node in self._nodes:
            attributes = self._folder(node) if node.file is None else self._file(node, node.file)
            self._put(node.record, node.sequence, attributes, is_folder=node.file is None)
        clusters = -(-self._table_records * RECORD // CLUSTER)
        table = _outside(0x80, "", [(_MFT_AT, clusters)], self._table_records * RECORD)
        self._put(0, 1, [table])
        mft = b"".join(self._records.get(each, bytes(RECORD)) for each in range(self._table_records))
        volume = bytearray(self._boot().ljust(_MFT_AT * CLUSTER, b"\0"))
        volume += mft.ljust(clusters * CLUSTER, b"\0") + self._data
        volume += bytes(-len(volume) % CLUSTER + CLUSTER)
        volume[0x28:0x30] = struct.pack("<Q", len(volume) // 512 - 1)
        return bytes(volume)

    def _boot(self) -> bytes:
        boot = bytearray(512)
        boot[:11] = b"\xebR\x90NTFS    "
        struct.pack_into("<HB", boot, 0x0B, 512, CLUSTER // 512)
        struct.pack_into("<QQbxxxb", boot, 0x30, _MFT_AT, _MFT_AT, RECORD // CLUSTER, BLOCK // CLUSTER)
        boot[510:] = b"\x55\xaa"
        return bytes(boot)

    def _put(
        self, number: int, sequence: int, attributes: list[bytes], *, is_folder: bool = False, base: int = 0
    ) -> None:
        body = b"".join(attributes) + b"\xff\xff\xff\xff\0\0\0\0"
        head = struct.pack(
            "<4sHHQHHHHIIQHHI",
            b"FILE",
            48,
            3,
            0,
            sequence,
            1,
            56,
            1 | 2 * is_folder,
            56 + len(body),
            RECORD,
            base,
            9,
            0,
            0,
        )
        assert 56 + len(body) <= RECORD, "too much for one record"
        self._records[number] = _protect(head.ljust(56, b"\0") + body, RECORD, 48)

    def _store(self, data: bytes) -> int:
        """Store *data* in clusters of its own; return the first."""
        at = self._data_at + len(self._data) // CLUSTER
        self._data += data + bytes(-len(data) % CLUSTER)
        return at

    # Folders.

    def _folder(self, node: _Node) -> list[bytes]:
        names = sorted(node.children, key=str.upper)
        entries = [self._entry(name, node.children[name], node.reference) for name in names]
        if self._plan.dos_names:
            entries += [
                self._entry(f"DOS~{each}", node.children[name], node.reference, 2) for each, name in enumerate(names)
            ]
        if not self._plan.in_blocks:
            return [_inside(0x90, "$I30", _index_root(b"".join(entries), is_large=False))]
        blocks: list[bytes] = []
        while entries:
            size, count = 0, 0
            while count < len(entries) and size + len(entries[count]) < BLOCK - 0x58:
                size += len(entries[count])
                count += 1
            blocks.append(_index_block(b"".join(entries[:count]), len(blocks)))
            entries = entries[count:]
        in_use = len(blocks)
        if node is self._root and self._plan.stale_names:
            stale = [self._entry(name, _Node(_FIRST_RECORD, 99), node.reference) for name in self._plan.stale_names]
            blocks.append(_index_block(b"".join(stale), len(blocks)))
        at = self._store(b"".join(blocks))
        runs = [(at, len(blocks) * BLOCK // CLUSTER)] if blocks else []
        bitmap = ((1 << in_use) - 1).to_bytes(-(-max(in_use, 1) // 64) * 8, "little")
        return [
            _inside(0x90, "$I30", _index_root(b"", is_large=True)),
            _outside(0xA0, "$I30", runs, len(blocks) * BLOCK),
            _inside(0xB0, "$I30", bitmap),
        ]

    def _entry(self, name: str, node: _Node, parent: int, space: int = 1) -> bytes:
        flags = 0x10000000 if node.file is None else 0x20
        key = struct.pack("<Q32xQQIIBB", parent, 0, 0, flags, 0, len(name), space) + name.encode("utf-16-le")
        length = (16 + len(key) + 7) & ~7
        return struct.pack("<QHHI", node.reference, length, len(key), 0) + key.ljust(length - 16, b"\0")

    # Files.

    def _file(self, node: _Node, file: NtfsFile) -> list[bytes]:
        data, size = file.data, len(file.data)
        match file.way:
            case Way.RESIDENT:
                return [_inside(0x80, "", data)]
            case _ if not data and file.way not in {Way.OVERLAY, Way.CLOUD}:
                return [_inside(0x80, "", data)]
            case Way.RUN | Way.ENCRYPTED:
                flags = 0x4000 if file.way is Way.ENCRYPTED else 0
                return [_outside(0x80, "", [(self._store(data), -(-size // CLUSTER))], size, flags=flags)]
            case Way.PIECES:
                return [_outside(0x80, "", self._pieces(data), size)]
            case Way.EXTENDED:
                return self._extended(node, data)
            case Way.SPARSE:
                runs: list[tuple[int | None, int]] = []
                for at in range(0, size, CLUSTER):
                    piece = data[at : at + CLUSTER]
                    runs.append((self._store(piece) if any(piece) else None, 1))
                return [_outside(0x80, "", runs, size, flags=0x8000)]
            case Way.UNWRITTEN:
                written = len(data.rstrip(b"\0"))
                garbage = data[:written].ljust(size, b"\xee")
                return [_outside(0x80, "", [(self._store(garbage), -(-size // CLUSTER))], size, written=written)]
            case Way.LZNT1:
                return [_outside(0x80, "", self._compressed(data), size, flags=1, unit_bits=4)]
            case Way.OVERLAY:
                packed = packed_overlay(data, file.algorithm)
                reparse = struct.pack("<IHHIIII", _WOF, 16, 0, 1, file.provider, 1, file.algorithm)
                holes: list[tuple[int | None, int]] = [(None, max(1, -(-size // CLUSTER)))]
                stored = [(self._store(packed or bytes(1)), max(1, -(-len(packed) // CLUSTER)))]
                return [
                    _outside(0x80, "", holes, size, flags=0x8000),
                    _outside(0x80, "WofCompressedData", stored, len(packed)),
                    _inside(0xC0, "", reparse),
                ]
            case Way.CLOUD:
                return [_outside(0x80, "", [(None, 1)], 100), _inside(0xC0, "", struct.pack("<IHH", 0x9000601A, 0, 0))]

    def _pieces(self, data: bytes) -> list[tuple[int, int]]:
        starts = range((len(data) - 1) // CLUSTER * CLUSTER, -1, -CLUSTER)
        return [(self._store(data[at : at + CLUSTER]), 1) for at in starts][::-1]

    def _extended(self, node: _Node, data: bytes) -> list[bytes]:
        """Describe each cluster by a record of its own; a list, outside of the record, says where they are."""
        listed = b""
        for vcn, run in enumerate(self._pieces(data)):
            number = self._next_record
            self._next_record += 1
            piece = _outside(0x80, "", [run], len(data) if not vcn else 0, first=vcn)
            self._put(number, 1, [piece], base=node.reference)
            listed += struct.pack("<IHBBQQHxxxxxx", 0x80, 32, 0, 26, vcn, number | 1 << 48, 0)
        return [_outside(0x20, "", [(self._store(listed), -(-len(listed) // CLUSTER))], len(listed))]

    def _compressed(self, data: bytes) -> list[tuple[int | None, int]]:
        runs: list[tuple[int | None, int]] = []
        for at in range(0, len(data), 16 * CLUSTER):
            unit = data[at : at + 16 * CLUSTER]
            packed = lznt1(unit)
            clusters = -(-len(packed) // CLUSTER)
            if not any(unit):
                runs.append((None, 16))
            elif clusters < 16:
                runs += [(self._store(packed), clusters), (None, 16 - clusters)]
            else:
                runs.append((self._store(unit.ljust(16 * CLUSTER, b"\0")), 16))
        return runs


def _inside(kind: int, name: str, value: bytes) -> bytes:
    value_at = 24 + 2 * len(name)
    value_at += -value_at % 8
    length = (value_at + len(value) + 7) & ~7
    head = struct.pack("<IIBBHHHIHxx", kind, length, 0, len(name), 24, 0, 0, len(value), value_at)
    return (head + name.encode("utf-16-le")).ljust(value_at, b"\0") + value + bytes(length - value_at - len(value))


def _outside(
    kind: int,
    name: str,
    runs: Sequence[tuple[int | None, int]],
    size: int,
    *,
    flags: int = 0,
    unit_bits: int = 0,
    first: int = 0,
    written: int | None = None,
) -> bytes:
    described = bytearray()
    at = 0
    clusters = 0
    for place, count in runs:
        count_bytes = (count.bit_length() + 8) // 8
        if place is None:
            described += bytes([count_bytes]) + count.to_bytes(count_bytes, "little")
        else:
            step = place - at
            step_bytes = (step.bit_length() + 8) // 8
            described += bytes([step_bytes << 4 | count_bytes]) + count.to_bytes(count_bytes, "little")
            described += step.to_bytes(step_bytes, "little", signed=True)
            at = place
        clusters += count
    described.append(0)
    name_at = 72 if unit_bits else 64
    runs_at = name_at + 2 * len(name)
    length = (runs_at + len(described) + 7) & ~7
    last = first + clusters - 1
    written = size if written is None else written
    head = struct.pack(
        "<IIBBHHHQQHHI", kind, length, 1, len(name), name_at, flags, 0, first, last, runs_at, unit_bits, 0
    )
    head += struct.pack("<QQQ", clusters * CLUSTER, size, written)
    return (head.ljust(name_at, b"\0") + name.encode("utf-16-le") + bytes(described)).ljust(length, b"\0")


def _index_root(entries: bytes, *, is_large: bool) -> bytes:
    end = struct.pack("<QHHI", 0, 24, 0, 3) + bytes(8) if is_large else struct.pack("<QHHI", 0, 16, 0, 2)
    used = 16 + len(entries) + len(end)
    return struct.pack("<IIIB3xIIII", 0x30, 1, BLOCK, BLOCK // CLUSTER, 16, used, used, int(is_large)) + entries + end


def _index_block(entries: bytes, number: int) -> bytes:
    first = 0x40 - 0x18
    end = struct.pack("<QHHI", 0, 16, 0, 2)
    used = first + len(entries) + len(end)
    head = struct.pack(
        "<4sHHQQIIII", b"INDX", 40, BLOCK // 512 + 1, 0, number * BLOCK // CLUSTER, first, used, BLOCK - 24, 0
    )
    return _protect(head.ljust(0x40, b"\0") + entries + end, BLOCK, 40)


def _protect(data: bytes, size: int, at: int) -> bytes:
    """Mark the end of each 512 bytes, and keep what stood there."""
    out = bytearray(data.ljust(size, b"\0"))
    mark = b"\x07\x01"
    kept = b"".join(bytes(out[end - 2 : end]) for end in range(512, size + 1, 512))
    out[at : at + 2 + len(kept)] = mark + kept
    for end in range(512, size + 1, 512):
        out[end - 2 : end] = mark
    return bytes(out)


# Compressors.


def lznt1(data: bytes) -> bytes:
    """Compress *data*; a chunk that does not get shorter is stored."""
    out = bytearray()
    for start in range(0, len(data), 4096):
        chunk = data[start : start + 4096]
        packed = _lznt1_chunk(chunk)
        if len(packed) < len(chunk):
            out += struct.pack("<H", 0xB000 | len(packed) - 1) + packed
        else:
            out += struct.pack("<H", 0x3000 | len(chunk) - 1) + chunk
    return bytes(out) + b"\0\0"


def _lznt1_chunk(chunk: bytes) -> bytes:
    out, group, flags = bytearray(), bytearray(), 0
    at = tokens = 0
    while at < len(chunk):
        # so many bits as the farthest distance needs, at least four
        distance_bits = 4
        while at > 1 << distance_bits:
            distance_bits += 1
        longest = (1 << 16 - distance_bits) + 2
        found, length = _longest_match(chunk, at, 1 << distance_bits, longest)
        if length >= 3:
            group += struct.pack("<H", (at - found - 1) << 16 - distance_bits | length - 3)
            flags |= 1 << tokens
            at += length
        else:
            group.append(chunk[at])
            at += 1
        tokens += 1
        if tokens == 8 or at >= len(chunk):
            out += bytes([flags]) + group
            group, flags, tokens = bytearray(), 0, 0
    return bytes(out)


def _longest_match(data: bytes, at: int, window: int, longest: int) -> tuple[int, int]:
    best = (0, 0)
    start = max(0, at - window)
    found = data.rfind(data[at : at + 3], start, at + 2) if at + 3 <= len(data) else -1
    if found >= 0 and found < at:
        length = 3
        while length < longest and at + length < len(data) and data[found + length] == data[at + length]:
            length += 1
        best = (found, length)
    return best


def xpress(data: bytes) -> bytes:
    """Compress one chunk: every symbol has a code of nine bits, which is its number."""
    out = bytearray(b"\x99" * 256 + bytes(4))
    places = [256, 258]
    word, free = 0, 16

    def write_bits(count: int, value: int) -> None:
        nonlocal word, free
        if free >= count:
            free -= count
            word = word << count | value
            return
        struct.pack_into("<H", out, places.pop(0), (word << free | value >> count - free) & 0xFFFF)
        places.append(len(out))
        out.extend(b"\0\0")
        word, free = value & (1 << count - free) - 1, free - count + 16

    at = 0
    while at < len(data):
        found, length = _longest_match(data, at, 65535, 0x20000)
        if length < 3:
            write_bits(9, data[at])
            at += 1
            continue
        distance = at - found
        bits = distance.bit_length() - 1
        write_bits(9, 256 + (bits << 4 | min(length - 3, 15)))
        extra = length - 3
        if extra >= 15:
            if extra < 270:
                out.append(extra - 15)
            elif extra < 0x10000:
                out.extend(b"\xff" + struct.pack("<H", extra))
            else:
                out.extend(b"\xff\0\0" + struct.pack("<I", extra))
        write_bits(bits, distance - (1 << bits))
        at += length
    struct.pack_into("<H", out, places[0], word << free & 0xFFFF)
    return bytes(out)


def stored_lzx(data: bytes) -> bytes:
    """Write one chunk as a stored block; there must be no E8 in it that would be translated."""
    bits = f"{3:03b}" + ("1" if len(data) == 32768 else f"0{len(data):016b}")
    bits = bits.ljust(-(-len(bits) // 16) * 16, "0") if len(bits) % 16 else bits + "0" * 16
    head = b"".join(struct.pack("<H", int(bits[at : at + 16], 2)) for at in range(0, len(bits), 16))
    return head + struct.pack("<III", 1, 1, 1) + data + bytes(len(data) % 2)


def packed_overlay(data: bytes, algorithm: int) -> bytes:
    """Return what ``WofCompressedData`` holds of *data*; a chunk that does not get shorter is stored."""
    size = _CHUNKS[algorithm]
    chunks = []
    for at in range(0, len(data), size):
        chunk = data[at : at + size]
        packed = stored_lzx(chunk) if algorithm == 1 else xpress(chunk)
        chunks.append(packed if len(packed) < len(chunk) else chunk)
    starts, at = b"", 0
    for chunk in chunks[:-1]:
        at += len(chunk)
        starts += struct.pack("<I", at)
    return starts + b"".join(chunks)


# Disks.


def mbr_disk(*volumes: bytes, kinds: tuple[int, ...] = ()) -> bytes:
    """Return a disk with these volumes as partitions, each from a multiple of 64 KiB on."""
    head, body = bytearray(512), bytearray()
    for number, volume in enumerate(volumes):
        first = (65536 + len(body)) // 512
        kind = kinds[number] if kinds else 7
        struct.pack_into("<B3xB3xII", head, 446 + 16 * number, 0x80 * (not number), kind, first, len(volume) // 512)
        body += volume + bytes(-len(volume) % 65536)
    head[510:] = b"\x55\xaa"
    return bytes(head.ljust(65536, b"\0") + body)


def gpt_disk(*volumes: bytes, sector: int = 512) -> bytes:
    """Return a disk with a GUID partition table and these volumes as partitions."""
    body = bytearray()
    entries = bytearray()
    for number, volume in enumerate(volumes):
        first = (65536 + len(body)) // sector
        last = first + -(-len(volume) // sector) - 1
        entries += uuid.UUID("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7").bytes_le
        entries += uuid.UUID(int=number + 1).bytes_le + struct.pack(
            "<QQQ72s", first, last, 0, "Data".encode("utf-16-le")
        )
        body += volume + bytes(-len(volume) % 65536)
    total = (65536 + len(body)) // sector
    table = bytes(entries).ljust(128 * 128, b"\0")
    head = struct.pack("<8sIIIIQQQQ16sQIII", b"EFI PART", 0x10000, 92, 0, 0, 1, total - 1, 34, total - 34,
                       uuid.UUID(int=99).bytes_le, 2, 128, 128, zlib.crc32(table))  # fmt: skip
    mbr = bytearray(512)
    struct.pack_into("<B3xB3xII", mbr, 446, 0, 0xEE, 1, total - 1)
    mbr[510:] = b"\x55\xaa"
    start = bytes(mbr).ljust(sector, b"\0") + head.ljust(sector, b"\0") + table
    return start.ljust(65536, b"\0") + bytes(body)
