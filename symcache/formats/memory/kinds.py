"""What a file that holds a machine's memory begins with; raw images are flat from address 0, without a word of it."""

from __future__ import annotations

ELF_MAGIC = b"\x7fELF"
LIME_MAGIC = b"EMiL"
AVML_MAGIC = b"AVML"
VMWARE_MAGICS = (b"\xd0\xbe\xd2\xbe", b"\xd1\xba\xd1\xba", b"\xd2\xbe\xd2\xbe", b"\xd3\xbe\xd3\xbe")
"""Of saved states (``.vmss``, ``.vmsn``)."""

SURE_MAGICS = (LIME_MAGIC, AVML_MAGIC, *VMWARE_MAGICS)
"""What nothing else begins with, as other files do with that of ELF."""

_PAGE = 0x1000
_SMALLEST_BYTES = 1 << 20


def looks_like_raw_memory(start: bytes, size: int) -> bool:
    """Tell whether a file of *size* bytes that begins with *start* may be a raw image; ask this last, of what is left.

    At the address 0 of a machine lie the interrupt vectors of real mode, most of which lead to its firmware, or, with
    UEFI, nothing. A file that begins with zeros has whole pages, and is neither a disk nor one of its volumes.
    """
    if size < _SMALLEST_BYTES or len(start) < _PAGE:
        return False
    vectors = [int.from_bytes(start[at : at + 4], "little") for at in range(0, 64, 4)]
    if sum(vector >> 16 in range(0xC000, 0x10000) for vector in vectors) >= 12:
        return True
    is_disk = start[510:512] == b"\x55\xaa" or start[512:520] == b"EFI PART" or start[0x8001:0x8006] == b"CD001"
    return size % _PAGE == 0 and not start[:64].strip(b"\0") and not is_disk
