"""The export table of an image: what it is called by itself, and where a name that it exports lies."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput

if TYPE_CHECKING:
    from symcache.formats.pe.image import ImageSpace

_EXPORTS = 0
_TABLE = struct.Struct("<12xI4xIIIII")
_LONGEST_NAME = 256
_MOST_NAMES = 1 << 16


def find_own_name(space: ImageSpace) -> str | None:
    """Return the name that the image's linker gave it, which its file may have lost since; None if it exports nothing.

    Raises:
        InputError: The table or the name cannot be read.
    """
    table = _read_table(space)
    if table is None:
        return None
    return _read_text(space, table[0]).decode("ascii", "replace") or None


def find_export(space: ImageSpace, name: str) -> int | None:
    """Return the address (RVA) of what the image exports as *name*; None if it exports no such thing.

    Names stand in order, as the loader searches them by halves; so does this, in less than 40 small reads.

    Raises:
        InputError: The table or a part of it that is needed cannot be read.

    Layout: 12 bytes, RVA of the image's own name u32, first ordinal u32, number of addresses u32, number of names u32,
    RVAs of the addresses, of the names and of the names' places among the addresses u32 each. An address is a u32 RVA,
    a name the u32 RVA of a text that ends with a NUL, a place a u16.
    Source: MicrosoftDocs/win32 pe-format.md, "The .edata Section".
    """
    table = _read_table(space)
    if table is None:
        return None
    _, addresses, names, addresses_at, names_at, places_at = table
    wanted = name.encode("ascii")
    low, high = 0, min(names, _MOST_NAMES)
    while low < high:
        middle = (low + high) // 2
        (at,) = struct.unpack("<I", space.read(names_at + 4 * middle, 4))
        found = _read_text(space, at, len(wanted) + 1)
        if found == wanted:
            (place,) = struct.unpack("<H", space.read(places_at + 2 * middle, 2))
            if place >= addresses:
                raise MalformedInput(f"the export {name} has place {place} of {addresses}")
            (rva,) = struct.unpack("<I", space.read(addresses_at + 4 * place, 4))
            return int(rva)
        low, high = (middle + 1, high) if found < wanted else (low, middle)
    return None


def _read_table(space: ImageSpace) -> tuple[int, int, int, int, int, int] | None:
    """Return RVA of the image's name, numbers of addresses and names, and RVAs of addresses, names and places."""
    directory = space.find_directory(_EXPORTS)
    if directory is None:
        return None
    own_name, addresses, names, addresses_at, names_at, places_at = _TABLE.unpack(space.read(directory[0], _TABLE.size))
    return own_name, addresses, names, addresses_at, names_at, places_at


def _read_text(space: ImageSpace, rva: int, length: int = _LONGEST_NAME) -> bytes:
    """Return the text at *rva* up to its NUL, or its first *length* bytes."""
    try:
        data = space.read(rva, length)
    except InputError:
        data = b""
        for at in range(length):  # it stands at the end of what there is
            data += space.read(rva + at, 1)
            if data.endswith(b"\0"):
                break
    return data.partition(b"\0")[0]
