"""Inputs that are not read though they hold a machine's memory, or may: a refusal names them and says what to do."""

from __future__ import annotations

from symcache.errors import UnknownFormat

__all__ = ["find_other_dump", "refuse_other_dump"]


_CONVERT = "convert it to a Windows crash dump first (volatility, MemProcFS and the hypervisor's own tools do)"
_CRASH = "it is not from Windows; use the crash utility"
_COMPRESS = (b"SZDD\x88\xf0\x27\x33", b"KWAJ\x88\xf0\x27\xd1")
_VMWARE = (b"\xd0\xbe\xd2\xbe", b"\xd1\xba\xd1\xba", b"\xd2\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe")
_UNPACK = "unpack it first"

# First bytes, what begins with them, what to do with it.
# Source: OfflineCrashDumpUefi headers (Raw_Dmp!, Enc_Dmp!); the headers that volatility3's layers and the hypervisors'
# own documentation name; PO_MEMORY_IMAGE signatures for hibernation files.
_OTHERS: tuple[tuple[bytes | tuple[bytes, ...], str, str], ...] = (
    (
        b"Raw_Dmp!",
        "a raw dump written by firmware (offline crash dump)",
        "let Windows convert it after a restart, or convert it with the tools of the machine's maker",
    ),
    (b"Enc_Dmp!", "an encrypted firmware dump (offline crash dump)", "decrypt it first with the key of its machine"),
    (b"MDMP", "a minidump of one process", "read it as a user minidump"),
    (b"PMDM", "a byte-swapped minidump of one process", "it comes from a big-endian machine and names no PDBs"),
    (b"\x7fELF", "an ELF file (a hypervisor's core dump or a Linux core)", _CONVERT),
    (b"KDUMP   ", "a compressed Linux kernel dump", _CRASH),
    (b"DISKDUMP", "a Linux disk dump", _CRASH),
    (b"makedumpfile", "a Linux kernel dump in makedumpfile's flattened form", _CRASH),
    (b"EMiL", "a memory image in LiME format", _CONVERT),
    (b"AVML", "a memory image in AVML format", _CONVERT),
    (b"QEVM", "a saved state of a QEMU machine", "let QEMU write a Windows dump (dump-guest-memory -w)"),
    (b"LibvirtQemudSave", "a saved state of a libvirt machine", "let virsh dump write a Windows dump (--memory-only)"),
    ((b"HIBR", b"hibr", b"RSTR", b"rstr"), "a hibernation file", _CONVERT),
    ((b"WAKE", b"wake"), "a hibernation file of a machine that woke up", _CONVERT),
    (b"\x81\x81xpress", "a hibernation file whose header is gone", _CONVERT),
    (b"\x53\xff\x00\xf0", "a raw memory image", _CONVERT),
    (_VMWARE, "a saved state of a VMware machine", "convert it with vmss2core -W"),
    (b"EVF\x09\x0d\x0a\xff\x00", "an evidence file (EnCase)", _CONVERT),
    (b"MSCF", "a cabinet", _UNPACK),
    (_COMPRESS, "a file packed by compress.exe", "unpack it first with expand.exe"),
    (b"MSWIM\0\0\0", "a Windows image archive (WIM)", _UNPACK),
    (b"PK\x03\x04", "a zip archive", _UNPACK),
    (b"7z\xbc\xaf\x27\x1c", "a 7z archive", _UNPACK),
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ\x00", "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", "a zstd file", _UNPACK),
    (b"Rar!\x1a\x07", "a rar archive", _UNPACK),
)


def find_other_dump(start: bytes) -> tuple[str, str] | None:
    """Return what an input that begins with *start* is, and what to do with it; None if it is none of these.

    Args:
        start: The first bytes of the input; 16 suffice.
    """
    return next(((name, advice) for magic, name, advice in _OTHERS if start.startswith(magic)), None)


def refuse_other_dump(start: bytes) -> UnknownFormat:
    """Return the error for an input that is no kernel dump; its text names what the input is where that is known."""
    if not start:
        return UnknownFormat("not a kernel dump: it is empty")
    if not start.strip(b"\0"):
        what = "a raw memory image, a used hibernation file, or a file that was never written"
        return UnknownFormat(f"not a kernel dump: it begins with zeros ({what})")
    if other := find_other_dump(start):
        return UnknownFormat(f"{other[0]}, not a kernel dump: {other[1]}", offset=0)
    return UnknownFormat("not a kernel dump: it does not begin with PAGEDUMP or PAGEDU64", offset=0)
