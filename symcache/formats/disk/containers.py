"""Virtual disks in files: VHD, VHDX, VMDK, QCOW2, VDI; each becomes a view of the disk's own bytes.

dissect.hypervisor reads headers and descriptors. Tables of blocks are looked up in place, entry by entry: they grow
with the disk, and what a damaged one claims must not be loaded. Nothing here opens a file by a path that an image
names: a parent or a further part is one file name, which the caller may find in the image's own folder.

Sources: Microsoft's Virtual Hard Disk Image Format Specification; [MS-VHDX]; VMware's Virtual Disk Format 5.0;
QEMU's docs/interop/qcow2.txt; VirtualBox's VDICore.h.
"""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.formats.disk.bounded import Recent, ViewFile, guarded
from symcache.formats.disk.kinds import DiskFormat, find_disk_format
from symcache.formats.view import PartView, check_range, read_in_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.formats.disk.bounded import Budget
    from symcache.formats.view import ByteView

    OpenBeside = Callable[[str], ByteView]

_SECTOR = 512
_MB = 1 << 20
_LARGEST_DISK = 1 << 50
_LARGEST_BLOCK = 256 << 20
_LARGEST_GRAIN = 2 << 20
_LONGEST_DESCRIPTOR = 1 << 20
_MOST_PARENTS = 32
_MOST_EXTENTS = 4096


@dataclass(frozen=True, slots=True)
class VirtualDisk:
    """What an image of a disk holds: the bytes of the disk, and what is to be said of the image, one line each."""

    format: DiskFormat
    disk: ByteView
    notes: tuple[str, ...] = ()


class _Source:
    """What opening one image takes: what it may cost, how files beside it are opened, how deep its parents go."""

    def __init__(self, budget: Budget, open_beside: OpenBeside) -> None:
        self.budget = budget
        self._open_beside = open_beside
        self.notes: list[str] = []
        self.depth = 0

    def file(self, view: ByteView) -> ViewFile:
        return ViewFile(view, self.budget)

    def beside(self, name: str, what: str) -> ByteView:
        try:
            return self._open_beside(name.replace("\\", "/").rpartition("/")[2])
        except (InputError, OSError) as error:
            reason = error.problem if isinstance(error, InputError) else error.strerror or str(error)
            raise MalformedInput(f"it needs its {what} {name!r} in the same folder: {reason}") from error

    def parent(self, name: str) -> ByteView:
        if self.depth == _MOST_PARENTS:
            raise MalformedInput(f"it has more than {_MOST_PARENTS} parents, or is its own")
        view = self.beside(name, "parent")
        self.depth += 1
        format_ = find_disk_format(view)
        return _open(view, format_, self) if format_ in _OPENERS else view


def open_container(view: ByteView, format_: DiskFormat, budget: Budget, open_beside: OpenBeside) -> VirtualDisk:
    """Return what the image *view* holds; *open_beside* opens a file of its folder by name.

    Raises:
        InputError: It is damaged, encrypted, or needs a file that is not there.
        ModuleNotFoundError: dissect.hypervisor is not installed.
    """
    source = _Source(budget, open_beside)
    disk = _open(view, format_, source) if format_ in _OPENERS else view
    return VirtualDisk(format_, disk, tuple(dict.fromkeys(source.notes)))


def _open(view: ByteView, format_: DiskFormat, source: _Source) -> ByteView:
    with guarded(f"{format_} header"):
        return _OPENERS[format_](view, source)


class _BlockView:
    """A disk in blocks, of which its image has some; parts of others come from the parent, or are zeros."""

    def __init__(self, file: ByteView, size: int, block_bytes: int, parent: ByteView | None = None) -> None:
        if not 0 < size <= _LARGEST_DISK or not 0 < block_bytes <= _LARGEST_BLOCK:
            raise MalformedInput(f"a disk of {size} bytes in blocks of {block_bytes}")
        self._file = file
        self._block_bytes = block_bytes
        self._parent = parent
        self.size = size

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        return read_in_parts(self._read_some, offset, length)

    def _read_some(self, offset: int, length: int) -> bytes:
        block, inside = divmod(offset, self._block_bytes)
        return self._piece(block, inside, min(length, self._block_bytes - inside))

    def _piece(self, block: int, inside: int, length: int) -> bytes:
        """Return *length* bytes of *block*."""
        raise NotImplementedError

    def _from_parent(self, block: int, inside: int, length: int) -> bytes:
        offset = block * self._block_bytes + inside
        if self._parent is None or offset >= self._parent.size:
            return bytes(length)
        here = min(length, self._parent.size - offset)
        return self._parent.read(offset, here) + bytes(length - here)

    def _number(self, offset: int, width: int = 4, order: str = "little") -> int:
        return int.from_bytes(self._file.read(offset, width), "big" if order == "big" else "little")


# VHD.

_FIXED = 0xFFFFFFFFFFFFFFFF
_VHD_DIFFERENCING = 4


def _open_vhd(view: ByteView, source: _Source) -> ByteView:
    """Return the disk of a VHD; its footer stands at its end, in front of it too unless the disk is fixed."""
    from dissect.hypervisor.disk.c_vhd import c_vhd  # noqa: PLC0415 - of the extra

    file = source.file(view)
    file.seek(max(0, view.size - _SECTOR))
    footer = c_vhd.footer(file)
    if footer.cookie != b"conectix":  # cut short at its end
        file.seek(0)
        footer = c_vhd.footer(file)
        source.notes.append("the footer of the VHD is not there: the file is cut short")
    if footer.data_offset == _FIXED:
        return PartView(view, 0, min(footer.current_size, max(0, view.size - _SECTOR)))
    file.seek(footer.data_offset)
    header = c_vhd.dynamic_header(file)
    if header.cookie != b"cxsparse":
        raise MalformedInput("the header of the VHD is not there", offset=footer.data_offset)
    parent = None
    if footer.disk_type == _VHD_DIFFERENCING:
        name = header.parent_unicode_name.decode("utf-16-be", "replace").split("\0")[0]
        parent = source.parent(name)
    return _VhdView(view, footer.current_size, header, parent)


class _VhdView(_BlockView):
    """A dynamic or differencing VHD: a block is a bitmap of its sectors, in whole sectors, and the sectors."""

    def __init__(self, file: ByteView, size: int, header: Any, parent: ByteView | None) -> None:
        block_bytes, self._table, self._entries = header.block_size, header.table_offset, header.max_table_entries
        super().__init__(file, size, block_bytes, parent)
        if block_bytes % _SECTOR:
            raise MalformedInput(f"a VHD with blocks of {block_bytes} bytes")
        self._bitmap_bytes = -(-(block_bytes // _SECTOR) // (8 * _SECTOR)) * _SECTOR
        self._places: Recent[int] = Recent(1024)

    def _read_place(self, block: int) -> int:
        if block >= self._entries:
            return _NIL
        return self._number(self._table + 4 * block, order="big")

    def _piece(self, block: int, inside: int, length: int) -> bytes:
        place = self._places.get(block, self._read_place)
        if place == _NIL:
            return self._from_parent(block, inside, length)
        data_at = place * _SECTOR + self._bitmap_bytes
        if self._parent is None:
            return self._file.read(data_at + inside, length)
        first = inside // _SECTOR
        count = min(8 * _SECTOR, (inside + length - 1) // _SECTOR - first + 1)
        bitmap = self._file.read(place * _SECTOR + first // 8, (first % 8 + count + 7) // 8)
        bits = [bool(bitmap[(first % 8 + each) // 8] & 0x80 >> (first + each) % 8) for each in range(count)]
        return _alternate(
            bits,
            _SECTOR,
            inside,
            length,
            lambda at, size: self._file.read(data_at + at, size),
            lambda at, size: self._from_parent(block, at, size),
        )


_NIL = 0xFFFFFFFF


def _alternate(
    bits: list[bool],
    unit: int,
    inside: int,
    length: int,
    here: Callable[[int, int], bytes],
    there: Callable[[int, int], bytes],
) -> bytes:
    """Return *length* bytes from *inside*, or as far as *bits* reach, of *here* for each unit that has its bit."""
    parts: list[bytes] = []
    first = inside // unit
    at, end = inside, min(inside + length, (first + len(bits)) * unit)
    while at < end:
        number = at // unit - first
        run = number
        while run < len(bits) and bits[run] == bits[number]:
            run += 1
        stop = min(end, (first + run) * unit)
        parts.append((here if bits[number] else there)(at, stop - at))
        at = stop
    return b"".join(parts)


# VHDX.

_NOT_PRESENT, _FULLY_PRESENT, _PARTIALLY_PRESENT = 0, 6, 7
_MOST_REGIONS = 2047


def _open_vhdx(view: ByteView, source: _Source) -> ByteView:
    """Return the disk of a VHDX: two headers of which the later counts, two region tables, the table of metadata."""
    from dissect.hypervisor.disk import vhdx as vhdx_module  # noqa: PLC0415 - of the extra
    from dissect.hypervisor.disk.c_vhdx import c_vhdx  # noqa: PLC0415

    file = source.file(view)
    headers = []
    for place in (1, 2):
        file.seek(place * vhdx_module.ALIGNMENT)
        header = c_vhdx.header(file)
        if header.signature == b"head":
            headers.append(header)
    if not headers:
        raise MalformedInput("neither header of the VHDX is there", offset=vhdx_module.ALIGNMENT)
    header = max(headers, key=lambda each: int(each.sequence_number))
    if any(header.log_guid):
        source.notes.append(
            "the VHDX was not closed: what its log holds is not read; attach it once in Windows to bring it in"
        )
    regions = _vhdx_regions(vhdx_module, view, file)
    region = regions.get(vhdx_module.METADATA_REGION_GUID)
    file.seek(region.file_offset + 10)
    if int.from_bytes(file.read(2), "little") > _MOST_REGIONS:
        raise MalformedInput("its table of metadata has too many entries", offset=region.file_offset)
    metadata = vhdx_module.MetadataTable(file, region.file_offset, region.length)
    parameters = metadata.get(vhdx_module.FILE_PARAMETERS_GUID)
    sector_bytes = int(metadata.get(vhdx_module.LOGICAL_SECTOR_SIZE_GUID))
    if sector_bytes not in {512, 4096} or parameters.block_size % _MB:
        raise MalformedInput(f"a VHDX with sectors of {sector_bytes} bytes in blocks of {parameters.block_size}")
    parent = None
    if parameters.has_parent:
        entries = metadata.get(vhdx_module.PARENT_LOCATOR_GUID).entries
        names = [entries[key] for key in ("relative_path", "absolute_win32_path", "volume_path") if entries.get(key)]
        if not names:
            raise MalformedInput("a differencing VHDX that does not name its parent")
        parent = source.parent(names[0])
    return _VhdxView(
        view,
        int(metadata.get(vhdx_module.VIRTUAL_DISK_SIZE_GUID)),
        int(parameters.block_size),
        int(regions.get(vhdx_module.BAT_REGION_GUID).file_offset),
        sector_bytes,
        parent,
    )


def _vhdx_regions(vhdx_module: Any, view: ByteView, file: ViewFile) -> Any:
    """Return the first region table, or the second one where that is damaged."""
    problem: Exception | None = None
    for place in (3, 4):
        at = place * vhdx_module.ALIGNMENT
        try:
            if int.from_bytes(view.read(at + 8, 4), "little") <= _MOST_REGIONS:
                return vhdx_module.RegionTable(file, at)
        except Exception as error:  # noqa: BLE001 - raised below, if the other one is no better
            problem = error
    raise problem or MalformedInput("its region tables have too many entries")


class _VhdxView(_BlockView):
    """A VHDX: entries of 8 bytes, bits 0 to 2 the state and 20 to 63 the place in MiB.

    Behind those of each 2^23 sectors stands one for the bitmap of their sectors.
    """

    def __init__(
        self, file: ByteView, size: int, block_bytes: int, table: int, sector_bytes: int, parent: ByteView | None
    ) -> None:
        super().__init__(file, size, block_bytes, parent)
        self._table = table
        self._sector_bytes = sector_bytes
        self._blocks_of_bitmap = (sector_bytes << 23) // block_bytes
        self._entries_read: Recent[tuple[int, int]] = Recent(1024)

    def _read_entry(self, number: int) -> tuple[int, int]:
        entry = self._number(self._table + 8 * number, 8)
        return entry & 7, (entry >> 20) * _MB

    def _piece(self, block: int, inside: int, length: int) -> bytes:
        bitmaps = block // self._blocks_of_bitmap
        state, place = self._entries_read.get(block + bitmaps, self._read_entry)
        if state == _FULLY_PRESENT:
            return self._file.read(place + inside, length)
        if state == _NOT_PRESENT:
            return self._from_parent(block, inside, length)
        if state != _PARTIALLY_PRESENT:
            return bytes(length)
        bitmap_state, bitmap_at = self._entries_read.get(
            (bitmaps + 1) * self._blocks_of_bitmap + bitmaps, self._read_entry
        )
        if bitmap_state != _FULLY_PRESENT:
            raise MalformedInput("the bitmap of a block that is there in part is not", offset=self._table)
        first = inside // self._sector_bytes
        count = min(8 * _SECTOR, (inside + length - 1) // self._sector_bytes - first + 1)
        bit = block % self._blocks_of_bitmap * (self._block_bytes // self._sector_bytes) + first
        bitmap = self._file.read(bitmap_at + bit // 8, (bit % 8 + count + 7) // 8)
        bits = [bool(bitmap[(bit % 8 + each) // 8] >> (bit + each) % 8 & 1) for each in range(count)]
        return _alternate(
            bits,
            self._sector_bytes,
            inside,
            length,
            lambda at, size: self._file.read(place + at, size),
            lambda at, size: self._from_parent(block, at, size),
        )


# VMDK.

_NO_PARENT = "ffffffff"


def _open_vmdk(view: ByteView, source: _Source) -> ByteView:
    """Return the disk of a VMDK: one sparse extent, or the extents that a descriptor names."""
    from dissect.hypervisor.disk.vmdk import DiskDescriptor  # noqa: PLC0415 - of the extra

    if view.read(0, min(4, view.size)) in {b"KDMV", b"COWD"} or _is_sesparse(view):
        return _open_extent(view, source, None)
    if view.size > _LONGEST_DESCRIPTOR:
        raise MalformedInput("a descriptor of a VMDK of more than 1 MiB")
    descriptor = DiskDescriptor.parse(view.read(0, view.size).decode("utf-8", "replace"))
    if not 0 < len(descriptor.extents) <= _MOST_EXTENTS:
        raise MalformedInput("the descriptor of the VMDK names no extents")
    parent = _vmdk_parent(descriptor, source)
    parts: list[tuple[ByteView | None, int]] = []
    for extent in descriptor.extents:
        size = extent.sectors * _SECTOR
        if extent.type == "ZERO":
            parts.append((None, size))
        elif not extent.filename or extent.type in {"VMFSRDM", "VMFSRAW"}:
            raise MalformedInput(f"the VMDK has an extent of type {extent.type}, which is a device")
        else:
            file = source.beside(extent.filename, "extent")
            if extent.type in {"FLAT", "VMFS"}:
                start = (extent.start_sector or 0) * _SECTOR
                parts.append((PartView(file, start, max(0, min(size, file.size - start))), size))
            else:
                start = sum(each for _, each in parts)
                parts.append((_open_extent(file, source, _tail_of(parent, start)), size))
    return _PartsView(parts)


def _tail_of(view: ByteView | None, start: int) -> ByteView | None:
    return None if view is None or start >= view.size else PartView(view, start, view.size - start)


def _vmdk_parent(descriptor: Any, source: _Source) -> ByteView | None:
    attributes: dict[str, str] = descriptor.attr
    if attributes.get("parentCID", _NO_PARENT).lower() == _NO_PARENT:
        return None
    return source.parent(attributes.get("parentFileNameHint", ""))


def _is_sesparse(view: ByteView) -> bool:
    return view.size >= 8 and view.read(0, 8) == b"\xbe\xba\xfe\xca\0\0\0\0"


def _open_extent(view: ByteView, source: _Source, parent: ByteView | None) -> ByteView:
    from dissect.hypervisor.disk.vmdk import DiskDescriptor, SparseExtentHeader  # noqa: PLC0415 - of the extra

    if _is_sesparse(view):
        raise MalformedInput(
            "a VMDK of the kind SESPARSE, a snapshot of VMware: merge it (vmkfstools -i), or convert it"
            " (qemu-img convert -O vhdx)"
        )
    file = source.file(view)
    header = SparseExtentHeader(file).hdr
    if header.magic == b"KDMV":
        if header.primary_grain_directory_offset == _FIXED:  # at the end, as the extent was written in one go
            file.seek(max(0, view.size - 1024))
            header = SparseExtentHeader(file).hdr
        if header.num_grain_table_entries != 512:
            raise MalformedInput(f"a VMDK with {header.num_grain_table_entries} grains to a table")
        if 0 < header.descriptor_size <= _LONGEST_DESCRIPTOR // _SECTOR and parent is None:
            data = view.read(header.descriptor_offset * _SECTOR, header.descriptor_size * _SECTOR)
            descriptor = DiskDescriptor.parse(data.split(b"\0", 1)[0].decode("utf-8", "replace"))
            parent = _vmdk_parent(descriptor, source)
    return _SparseView(view, header, parent, source.budget)


class _SparseView(_BlockView):
    """A sparse extent: a directory of tables of grains, which are places in sectors; 0 is none, 1 zeros."""

    def __init__(self, file: ByteView, header: Any, parent: ByteView | None, budget: Budget) -> None:
        grain_bytes = header.grain_size * _SECTOR
        super().__init__(file, header.capacity * _SECTOR, grain_bytes, parent)
        if grain_bytes > _LARGEST_GRAIN:
            raise MalformedInput(f"a VMDK with grains of {grain_bytes} bytes")
        self._directory = header.primary_grain_directory_offset * _SECTOR
        self._entries = 512 if header.magic == b"KDMV" else 4096
        flags = header.flags if header.magic == b"KDMV" else 0
        self._is_compressed = bool(flags & 0x10000)
        self._has_markers = bool(flags & 0x20000)
        self._budget = budget
        self._places: Recent[int] = Recent(1024)
        self._grains: Recent[bytes] = Recent(4)

    def _read_place(self, grain: int) -> int:
        table, number = divmod(grain, self._entries)
        at = self._number(self._directory + 4 * table) * _SECTOR
        return self._number(at + 4 * number) if at else 0

    def _piece(self, block: int, inside: int, length: int) -> bytes:
        place = self._places.get(block, self._read_place)
        if place == 0:
            return self._from_parent(block, inside, length)
        if place == 1:
            return bytes(length)
        if not self._is_compressed:
            return self._file.read(place * _SECTOR + inside, length)
        data = self._grains.get(place, self._expand)
        return data[inside : inside + length].ljust(length, b"\0")

    def _expand(self, place: int) -> bytes:
        """Return a compressed grain: u64 number of its sector, if it is marked, u32 length, deflate data."""
        at = place * _SECTOR + (8 if self._has_markers else 0)
        size = self._number(at)
        if size > 2 * self._block_bytes:
            raise MalformedInput(f"a compressed grain of {size} bytes", offset=at)
        return _inflate(self._file.read(at + 4, size), self._block_bytes, self._budget, at, zlib.MAX_WBITS)


def _inflate(data: bytes, size: int, budget: Budget, at: int, window_bits: int) -> bytes:
    budget.spend(size)
    try:
        return zlib.decompressobj(window_bits).decompress(data, size)
    except zlib.error as error:
        raise MalformedInput(f"compressed data is damaged: {error}", offset=at) from error


class _PartsView:
    """Parts one behind the other; one that is not as long as it should be ends with zeros, as one of zeros alone."""

    def __init__(self, parts: list[tuple[ByteView | None, int]]) -> None:
        self._parts = parts
        self.size = sum(size for _, size in parts)
        if self.size > _LARGEST_DISK:
            raise MalformedInput(f"a disk of {self.size} bytes")

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        return b"".join(self._pieces(offset, length))

    def _pieces(self, offset: int, length: int) -> Iterator[bytes]:
        for view, size in self._parts:
            if not length:
                return
            if offset >= size:
                offset -= size
                continue
            part = min(length, size - offset)
            here = 0 if view is None else max(0, min(part, view.size - offset))
            if view is not None and here:
                yield view.read(offset, here)
            yield bytes(part - here)
            length -= part
            offset = 0


# QCOW2.

_ENTRY_OFFSET = 0x00FFFFFFFFFFFE00
_COMPRESSED_CLUSTER = 1 << 62
_ZSTD = 1


def _open_qcow2(view: ByteView, source: _Source) -> ByteView:
    """Return the disk of a QCOW2 image; of its snapshots, the current state."""
    from dissect.hypervisor.disk.qcow2 import HAS_ZSTD, QCow2  # noqa: PLC0415 - of the extra

    head = PartView(view, 0, min(view.size, _LARGEST_GRAIN))
    version = int.from_bytes(view.read(4, 4), "big")
    if version not in {2, 3}:
        raise UnknownFormat(
            f"a QCOW image of version {version}, which is not read: convert it (qemu-img convert -O qcow2)"
        )
    if int.from_bytes(view.read(32, 4), "big"):
        raise MalformedInput("the QCOW2 image is encrypted: decrypt it first (qemu-img convert with its secret)")
    if _is_zstd(view) and not HAS_ZSTD:
        raise MalformedInput(
            "the QCOW2 image is compressed with zstd; it needs another package: pip install backports.zstd, or convert"
            " it (qemu-img convert -O qcow2)"
        )
    image = QCow2(source.file(head), allow_no_data_file=True, allow_no_backing_file=True)
    data = view
    if image.needs_data_file:
        data = source.beside(image.image_data_file or "", "data file")
    parent = None
    if image.needs_backing_file:
        if not image.auto_backing_file or image.auto_backing_file.startswith("json:"):
            raise MalformedInput(
                "the QCOW2 image names its backing file in a way that is not read: merge them"
                " (qemu-img convert -O qcow2 FILE WHOLE)"
            )
        parent = source.parent(image.auto_backing_file)
    return _Qcow2View(view, data, image, parent, source.budget)


def _is_zstd(view: ByteView) -> bool:
    """Tell by version 3's u32@100 length of the header and u8@104 way of compression."""
    head = view.read(0, min(view.size, 105))
    return len(head) == 105 and int.from_bytes(head[100:104], "big") > 104 and head[104] == _ZSTD


class _Qcow2View(_BlockView):
    """Tables of two levels, big-endian, whose entries are places of clusters in bytes; or of parts of a cluster."""

    def __init__(self, file: ByteView, data: ByteView, image: Any, parent: ByteView | None, budget: Budget) -> None:
        self._bits: int = image.cluster_bits
        super().__init__(file, image.size, 1 << self._bits, parent)
        self._data = data
        self._budget = budget
        self._first: int = image.header.l1_table_offset
        self._first_entries: int = image.header.l1_size
        self._has_parts: bool = image.has_subclusters
        self._entry_bytes = 16 if self._has_parts else 8
        self._table_bits = self._bits - (4 if self._has_parts else 3)
        self._is_zstd = image.compression_type == _ZSTD
        self._is_apart = data is not file
        self._entries_read: Recent[tuple[int, int]] = Recent(1024)
        self._clusters: Recent[bytes] = Recent(4)

    def _read_entry(self, cluster: int) -> tuple[int, int]:
        """Return a cluster's entry and the bits of its 32 parts, if it has those."""
        table, number = cluster >> self._table_bits, cluster & (1 << self._table_bits) - 1
        if table >= self._first_entries:
            return 0, 0
        at = self._number(self._first + 8 * table, 8, "big") & _ENTRY_OFFSET
        if not at:
            return 0, 0
        entry = self._number(at + number * self._entry_bytes, 8, "big")
        return entry, self._number(at + number * 16 + 8, 8, "big") if self._has_parts else 0

    def _piece(self, block: int, inside: int, length: int) -> bytes:
        entry, bits = self._entries_read.get(block, self._read_entry)
        if entry & _COMPRESSED_CLUSTER:
            return self._clusters.get(entry, self._expand)[inside : inside + length].ljust(length, b"\0")
        place = entry & _ENTRY_OFFSET
        if self._has_parts:
            part_bytes = self._block_bytes // 32
            number = inside // part_bytes
            length = min(length, part_bytes - inside % part_bytes)
            if bits >> 32 + number & 1:
                return bytes(length)
            is_here = bool(bits >> number & 1)
        else:
            if entry & 1:
                return bytes(length)
            is_here = bool(place) or (self._is_apart and bool(entry >> 63))
        if not is_here:
            return self._from_parent(block, inside, length)
        here = max(0, min(length, self._data.size - place - inside))  # the last cluster may end early
        return self._data.read(place + inside, here) + bytes(length - here)

    def _expand(self, entry: int) -> bytes:
        """Return a compressed cluster: its place, and above it, from bit 62 - (bits - 8) on, its 512 bytes less 1."""
        shift = 62 - (self._bits - 8)
        at = entry & (1 << shift) - 1
        size = ((entry >> shift & (1 << self._bits - 8) - 1) + 1) * 512 - (at & 511)
        data = self._file.read(at, min(size, max(0, self._file.size - at)))
        if not self._is_zstd:
            return _inflate(data, self._block_bytes, self._budget, at, -12)
        from dissect.hypervisor.disk import qcow2  # noqa: PLC0415 - of the extra; has found the module

        self._budget.spend(self._block_bytes)
        with guarded("compressed cluster"):
            expanded: bytes = qcow2.zstd.ZstdDecompressor().decompress(data, self._block_bytes)
        return expanded


# VDI.

_VDI_FREE, _VDI_ZERO = 0xFFFFFFFF, 0xFFFFFFFE
_VDI_DIFFERENCING = {3, 4}


def _open_vdi(view: ByteView, source: _Source) -> ByteView:
    """Return the disk of a VDI."""
    from dissect.hypervisor.disk.vdi import VDI  # noqa: PLC0415 - of the extra

    header = VDI(source.file(view)).header
    if int(header.u32Type) in _VDI_DIFFERENCING:
        parent = UUID(bytes_le=header.uuidLinkage)
        raise MalformedInput(
            f"a differencing VDI, whose parent is known by its id {parent} alone: merge them (VBoxManage clonemedium)"
        )
    return _VdiView(view, header)


class _VdiView(_BlockView):
    """A VDI: u32 numbers of blocks, from where the data begins."""

    def __init__(self, file: ByteView, header: Any) -> None:
        super().__init__(file, header.cbDisk, header.cbBlock)
        self._table: int = header.offBlocks
        self._data_at: int = header.offData
        self._extra: int = header.cbBlockExtra
        self._blocks: int = header.cBlocks
        self._places: Recent[int] = Recent(1024)

    def _piece(self, block: int, inside: int, length: int) -> bytes:
        place = self._places.get(block, self._read_place) if block < self._blocks else _VDI_FREE
        if place in {_VDI_FREE, _VDI_ZERO}:
            return bytes(length)
        at = self._data_at + place * (self._block_bytes + self._extra) + self._extra
        return self._file.read(at + inside, length)

    def _read_place(self, block: int) -> int:
        return self._number(self._table + 4 * block)


_OPENERS: dict[DiskFormat, Callable[[ByteView, _Source], ByteView]] = {
    DiskFormat.VHD: _open_vhd,
    DiskFormat.VHDX: _open_vhdx,
    DiskFormat.VMDK: _open_vmdk,
    DiskFormat.QCOW2: _open_qcow2,
    DiskFormat.VDI: _open_vdi,
}
