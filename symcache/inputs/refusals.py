"""What an input is that is not read, and what to do with it."""

from __future__ import annotations

from symcache.errors import UnknownFormat
from symcache.formats.archive.member import find_other_archive
from symcache.formats.disk.kinds import find_other_disk
from symcache.inputs.log.reader import find_kind_of_text

NO_KNOWN_KIND = "of no known kind"
"""Begins the text about an input of which not even what else it is can be told."""

_SIGN_BYTES = 64

_CONVERT = "convert it to a Windows crash dump first (volatility, MemProcFS and the hypervisor's own tools do)"
_CRASH = "it is not from Windows; use the crash utility"
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
    (b"\x7fELF", "an ELF file, and no core dump of a machine", "it is not from Windows"),
    (
        b"KDUMP   ",
        "a compressed Linux kernel dump, or one of a QEMU machine in that form",
        "let QEMU write Windows' memory as ELF (dump-guest-memory without -z); for Linux use the crash utility",
    ),
    (b"DISKDUMP", "a Linux disk dump", _CRASH),
    (b"makedumpfile", "a Linux kernel dump in makedumpfile's flattened form", _CRASH),
    (b"QEVM", "a saved state of a QEMU machine", "let QEMU write its memory (dump-guest-memory), which is read"),
    (
        b"LibvirtQemudSave",
        "a saved state of a libvirt machine",
        "let virsh write its memory (virsh dump --memory-only), which is read",
    ),
    ((b"HIBR", b"hibr", b"RSTR", b"rstr"), "a hibernation file", _CONVERT),
    ((b"WAKE", b"wake"), "a hibernation file of a machine that woke up", _CONVERT),
    (b"\x81\x81xpress", "a hibernation file whose header is gone", _CONVERT),
    (b"\x53\xff\x00\xf0", "a piece of a raw memory image", "give the whole of it, 1 MiB at least"),
    (
        b"\x14\x20\x28\x01",
        "a saved state of a Hyper-V machine (.vmrs)",
        "let LiveKd of Sysinternals write a dump of the running machine (livekd -hv NAME -o FILE)",
    ),
    (
        b"\x7fVirtualBox SavedState",
        "a saved state of a VirtualBox machine",
        "let VirtualBox write its memory (VBoxManage debugvm NAME dumpvmcore), which is read",
    ),
    (b"MSCF", "a cabinet", _UNPACK),
    ((b"SZDD\x88\xf0\x27\x33", b"KWAJ\x88\xf0\x27\xd1"), "a file packed by compress.exe", f"{_UNPACK} with expand.exe"),
    (b"\x1f\x8b", "a gzip file", _UNPACK),
    (b"BZh", "a bzip2 file", _UNPACK),
    (
        b"\x14\0\0\0!FastSerialization.",
        "a trace in a form of PerfView's own (.etlx), or of .NET Core 2 (.netperf)",
        "give the .etl it was made from, or record a .nettrace",
    ),
)


def refusal_of(head: bytes) -> UnknownFormat:
    """Return the error about an input that begins with *head*, up to 64 KiB, and is of no kind that is read."""
    return UnknownFormat(_say(head), offset=0)


def _say(head: bytes) -> str:
    if archive := find_other_archive(head):
        return archive
    for magic, name, advice in _OTHERS:
        if head.startswith(magic):
            return f"{name}: {advice}"
    if disk := find_other_disk(head):
        return disk
    start = head[:_SIGN_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return "a web page or XML, perhaps what a server sent in place of the file: fetch it again"
    if not head[:_SIGN_BYTES].strip(b"\0"):
        return "it begins with zeros: a file that was never written, or a piece of a raw memory image"
    if kind := find_kind_of_text(head):
        return kind
    return (
        f"{NO_KNOWN_KIND}: dumps, memory images, disks, images, PDBs, traces, lists of indexes, symchk manifests,"
        " debugger logs, lock files, reports, crash reports and profiles in JSON, and archives of these are read"
    )
