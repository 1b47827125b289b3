"""What a file that holds a disk, a volume or an archive of files begins with; told without any library.

Sources: those of `symcache.formats.disk.containers`; ECMA-119 and ECMA-167 for optical discs; UEFI 2.10, 5.3.2 for GPT.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from symcache.formats.view import ByteView

_SECTOR = 512
_OPTICAL_AT = 0x8000
_OPTICAL_SECTOR = 2048


class DiskFormat(StrEnum):
    """What holds a disk, a volume or an archive of files."""

    VHD = "VHD"
    VHDX = "VHDX"
    VMDK = "VMDK"
    QCOW2 = "QCOW2"
    VDI = "VDI"
    RAW = "raw"
    VOLUME = "volume"
    WIM = "WIM"
    ISO = "ISO"


def find_disk_format(view: ByteView) -> DiskFormat | None:
    """Return what *view* is an image of, from its first 36 KiB and its last sector; None if it is none."""
    head = view.read(0, min(view.size, 8 * _SECTOR + _SECTOR))
    for start, format_ in _MAGIC:
        if head.startswith(start):
            return format_
    if head[64:68] == b"\x7f\x10\xda\xbe":
        return DiskFormat.VDI
    if head.lstrip().startswith(b"# Disk DescriptorFile"):
        return DiskFormat.VMDK
    if _is_optical(view):
        return DiskFormat.ISO
    is_disk = name_file_system(head) is not None or _has_partitions(head)
    if is_disk and view.size >= 2 * _SECTOR and view.read(view.size - _SECTOR, 8) == b"conectix":
        return DiskFormat.VHD
    if _has_partitions(head):
        return DiskFormat.RAW
    return DiskFormat.VOLUME if name_file_system(head) is not None else None


_MAGIC = (
    (b"vhdxfile", DiskFormat.VHDX),
    (b"conectix", DiskFormat.VHD),
    (b"KDMV", DiskFormat.VMDK),
    (b"COWD", DiskFormat.VMDK),
    (b"\xbe\xba\xfe\xca\0\0\0\0", DiskFormat.VMDK),
    (b"QFI\xfb", DiskFormat.QCOW2),
    (b"MSWIM\0\0\0", DiskFormat.WIM),
    (b"WLPWM\0\0\0", DiskFormat.WIM),
)

_OTHERS = (
    (b"EVF\x09\r\n\xff\0", "an EnCase image (E01)", "ewfexport -f raw"),
    (b"EVF2\r\n\x81\0", "an EnCase image (Ex01)", "ewfexport -f raw"),
    (b"LVF\x09\r\n\xff\0", "a logical EnCase image (L01)", ""),
    (b"AFF", "an AFF image", "affconvert -r"),
    (b"QED\0", "a QED image", "qemu-img convert -O qcow2"),
    (b"WithoutFreeSpace", "a Parallels image", "qemu-img convert -O qcow2"),
    (b"WithouFreSpacExt", "a Parallels image", "qemu-img convert -O qcow2"),
)


def find_other_disk(head: bytes) -> str | None:
    """Return what to say of an image of a disk that is not read; None if *head* begins none."""
    for start, name, way in _OTHERS:
        if head.startswith(start):
            return f"{name}, which is not read" + (f": convert it ({way})" if way else "")
    return None


def _is_optical(view: ByteView) -> bool:
    if view.size < _OPTICAL_AT + 2 * _OPTICAL_SECTOR:
        return False
    return view.read(_OPTICAL_AT + 1, 5) in {b"CD001", b"BEA01"}


def _has_partitions(head: bytes) -> bool:
    """Tell whether *head* begins a disk with a partition table: one sector with a mark at its end and four entries.

    An entry of 16 bytes: u8 0 or 0x80, at 4 u8 type, at 8 u32 first sector, u32 sectors.
    """
    if head[510:512] != b"\x55\xaa":
        return False
    entries = [head[at : at + 16] for at in range(446, 510, 16)]
    used = [each for each in entries if each[4]]
    return bool(used) and all(each[0] in {0, 0x80} for each in entries) and all(any(each[8:16]) for each in used)


_FILE_SYSTEMS = (
    (3, b"NTFS    ", "NTFS"),
    (3, b"-FVE-FS-", "BitLocker"),
    (3, b"ReFS\0\0\0\0", "ReFS"),
    (3, b"EXFAT   ", "exFAT"),
    (82, b"FAT32   ", "FAT32"),
    (54, b"FAT16   ", "FAT16"),
    (54, b"FAT12   ", "FAT12"),
    (0, b"XFSB", "XFS"),
    (32, b"NXSB", "APFS"),
    (1024, b"H+\0\x04", "HFS+"),
    (1024, b"HX\0\x05", "HFS+"),
    (1080, b"\x53\xef", "ext4"),
    (512, b"LABELONE", "LVM"),
    (4086, b"SWAPSPACE2", "swap"),
)


def name_file_system(head: bytes) -> str | None:
    """Return the file system of a volume that begins with *head*, some KiB; None if it is none of those known."""
    if head.startswith(b"LUKS\xba\xbe"):
        return "LUKS"
    for at, magic, name in _FILE_SYSTEMS:
        if head[at : at + len(magic)] == magic:
            return name
    return None
