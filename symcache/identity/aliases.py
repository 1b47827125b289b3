"""Images that are published under another name than the one a debugger knows them by.

The same stamp and size under any of an image's names is the same file.
"""

from __future__ import annotations

from symcache.errors import MalformedInput
from symcache.identity.keys import DbgKey, ImageKey
from symcache.identity.names import fold

__all__ = ["published_keys", "source_name"]

# Setup installs one of several kernels and HALs under a fixed name, and the symbol server has the original ones.
# Source: bug check 0x79 names the originals.
_FAMILIES = (
    ("ntoskrnl.exe", "ntkrnlmp.exe", "ntkrnlpa.exe", "ntkrpamp.exe", "ntkrnlup.exe"),
    ("hal.dll", "halmacpi.dll", "halacpi.dll", "halaacpi.dll", "halapic.dll", "halmps.dll"),
)
_COPY_PREFIXES = ("dump_", "hiber_")


def source_name(name: str) -> str:
    """Return the name of the file that a driver called *name* was loaded from.

    Drivers that write a crash dump or hibernate run as second copies, listed as ``dump_storport.sys`` or
    ``hiber_storport.sys``; no such file exists. The prefix is taken off once: ``dump_dumpfve.sys`` is ``dumpfve.sys``.
    """
    folded = fold(name)
    for prefix in _COPY_PREFIXES:
        if folded.startswith(prefix) and folded.endswith(".sys") and len(name) > len(prefix) + 4:
            return name[len(prefix) :]
    return name


def published_keys(key: ImageKey) -> tuple[ImageKey, ...]:
    """Return the keys under which *key*'s image may be published, the likeliest first, *key* among them.

    dbgeng 10.0.15063 was seen to look for all of them, whichever the dump lists.
    """
    if isinstance(key, DbgKey):
        return (key,)
    try:
        source = _renamed(key, source_name(key.name))
    except MalformedInput:  # "dump_con.sys" is a file name, "con.sys" is none
        return (key,)
    if source != key:
        return (source, key)
    for family in _FAMILIES:
        if fold(key.name) in family:
            return (key, *(_renamed(key, name) for name in family if name != fold(key.name)))
    return (key,)


def _renamed(key: ImageKey, name: str) -> ImageKey:
    return ImageKey(name, key.timestamp, key.size_of_image)
