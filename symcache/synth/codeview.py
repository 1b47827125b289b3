"""Writer of CodeView records: types with their fields, public symbols with their index."""

from __future__ import annotations

from dataclasses import dataclass, field
from struct import iter_unpack, pack
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

__all__ = ["PublicSymbol", "StructureLayout", "make_publics", "make_symbol_records", "make_type_stream"]

_FIRST_TYPE = 0x1000
_U64 = 0x0023
_HASH_BUCKETS = 4096


@dataclass(frozen=True, slots=True)
class StructureLayout:
    """A structure to be written into a type stream.

    Attributes:
        size: Length in bytes.
        fields: Offset in bytes of each member; all are written as 64-bit integers.
    """

    size: int
    fields: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class PublicSymbol:
    """A public symbol.

    Attributes:
        name: As the linker spells it.
        offset: Offset in its section, in bytes.
        segment: Number of its section, from 1.
        function: Whether it is code.
    """

    name: str
    offset: int
    segment: int = 1
    function: bool = False


def make_type_stream(structures: Mapping[str, StructureLayout], *, list_bytes: int = 60_000) -> bytes:
    """Return a type stream that declares, then defines these structures.

    Args:
        structures: Layouts by name.
        list_bytes: Longest field list; longer ones are continued in another, as the record length has 16 bits.

    Layout: header of 56 bytes {version, header length, first index, end index, length of the records, hash stream
    (none), key size, bucket count, three empty ranges}; records {length u16, leaf u16, data} padded to 4.
    Source: LLVM's "The PDB TPI and IPI Streams" and "CodeView Type Records".
    """
    records: list[bytes] = []

    def add(leaf: int, data: bytes) -> int:
        body = _pad(pack("<H", leaf) + data, 2)
        records.append(pack("<H", len(body)) + body)
        return _FIRST_TYPE + len(records) - 1

    for name in structures:
        add(0x1505, pack("<HHIIIH", 0, 0x80, 0, 0, 0, 0) + _text(name))
    for name, layout in structures.items():
        first = _add_fields(add, layout.fields, list_bytes)
        head = pack("<HHIII", min(len(layout.fields), 0xFFFF), 0, first, 0, 0)
        add(0x1505, head + _number(layout.size) + _text(name))
    body = b"".join(records)
    header = pack("<5I", 20040203, 56, _FIRST_TYPE, _FIRST_TYPE + len(records), len(body))
    return header + pack("<HHII6I", 0xFFFF, 0xFFFF, 4, 0x3FFFF, *[0] * 6) + body


def make_symbol_records(symbols: Iterable[PublicSymbol]) -> bytes:
    """Return the symbol record stream: ``S_PUB32`` {flags u32, offset u32, segment u16, name}, padded to 4."""
    return b"".join(_public_record(symbol) for symbol in symbols)


def make_publics(symbols: Sequence[PublicSymbol]) -> bytes:
    """Return the stream that finds public symbols by name and by address.

    Layout: hash bytes u32, address map bytes u32, four fields for thunks, section count u32 (28 bytes in all); the
    hash {-1, version, bytes of its records, bytes of its buckets, records {offset + 1, 1}, a bit for each of 4097
    buckets that is not empty, the start of each of these in units of 12}; record offsets ordered by address.
    Source: LLVM's "The PDB Global Symbol Stream"; microsoft-pdb, gsi.h.
    """
    placed: list[tuple[int, PublicSymbol]] = []
    at = 0
    for symbol in symbols:
        placed.append((at, symbol))
        at += len(_public_record(symbol))
    by_bucket = sorted(placed, key=lambda pair: (_hash_name(pair[1].name), pair[1].name.lower()))
    bits = bytearray(4 * 129)
    starts = []
    for position, (_, symbol) in enumerate(by_bucket):
        bucket = _hash_name(symbol.name)
        if not bits[bucket // 8] >> bucket % 8 & 1:
            bits[bucket // 8] |= 1 << bucket % 8
            starts.append(12 * position)
    records = b"".join(pack("<II", offset + 1, 1) for offset, _ in by_bucket)
    buckets = bytes(bits) + pack(f"<{len(starts)}I", *starts)
    table = pack("<IIII", 0xFFFFFFFF, 0xF12F091A, len(records), len(buckets)) + records + buckets
    by_address = sorted(placed, key=lambda pair: (pair[1].segment, pair[1].offset))
    addresses = pack(f"<{len(placed)}I", *(offset for offset, _ in by_address))
    return pack("<IIIIHHII", len(table), len(addresses), 0, 0, 0, 0, 0, 0) + table + addresses


def _public_record(symbol: PublicSymbol) -> bytes:
    body = pack("<HIIH", 0x110E, 2 if symbol.function else 0, symbol.offset, symbol.segment) + _text(symbol.name)
    body += bytes(-(len(body) + 2) % 4)
    return pack("<H", len(body)) + body


def _add_fields(add: Callable[[int, bytes], int], fields: Mapping[str, int], list_bytes: int) -> int:
    """Add the field lists, the last one first, as each names the one that continues it; return the first's index."""
    lists = [bytearray()]
    for name, offset in fields.items():
        entry = _pad(pack("<HHI", 0x150D, 3, _U64) + _number(offset) + _text(name), 0)
        if lists[-1] and len(lists[-1]) + len(entry) > list_bytes:
            lists.append(bytearray())
        lists[-1] += entry
    following = add(0x1203, bytes(lists[-1]))
    for entries in reversed(lists[:-1]):
        following = add(0x1203, bytes(entries) + pack("<HHI", 0x1404, 0, following))
    return following


def _hash_name(name: str) -> int:
    """Return the bucket of a name.

    Source: LLVM's "The PDB Global Symbol Stream" names the function; microsoft-pdb, misc.h, for how it mixes.
    """
    data = name.encode()
    result = 0
    whole = len(data) // 4 * 4
    for (word,) in iter_unpack("<I", data[:whole]):
        result ^= word
    rest = data[whole:]
    if len(rest) >= 2:
        result ^= int.from_bytes(rest[:2], "little")
        rest = rest[2:]
    if rest:
        result ^= rest[0]
    result |= 0x20202020
    result ^= result >> 11
    result ^= result >> 16
    return result % _HASH_BUCKETS


def _number(value: int) -> bytes:
    """Return a number as a leaf: up to 0x7FFF it is itself, else what follows says how long it is."""
    if value < 0x8000:
        return pack("<H", value)
    return pack("<HI", 0x8004, value) if value < 1 << 32 else pack("<HQ", 0x800A, value)


def _text(name: str) -> bytes:
    return name.encode() + b"\0"


def _pad(data: bytes, after: int) -> bytes:
    """Return *data* padded so that with the *after* bytes before it it ends 4-aligned; each byte says how far it is."""
    missing = -(len(data) + after) % 4
    return data + bytes(0xF0 | left for left in range(missing, 0, -1))
