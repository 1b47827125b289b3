"""Addresses of public symbols of a native PDB, by name, from a bounded search of its symbol records."""

from __future__ import annotations

import struct
from bisect import bisect_right
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput
from symcache.formats.pdb.info import open_container

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from symcache.formats.pdb.msf import StreamContainer
    from symcache.formats.view import ByteView

_DBI = 3
_DBI_HEADER_BYTES = 64
_NO_STREAM = 0xFFFF
_PUBLIC = 0x110E
_PUBLIC_BYTES = 14  # before the name
_CHUNK_BYTES = 1 << 20
_MOST_RECORD_BYTES = 1 << 28  # the kernel's have some MiB
_MOST_SECTIONS = 4096
_MOST_MOVES = 1 << 20
_SECTION_BYTES = 40
# Places in the table of optional streams.
_MOVED, _SECTIONS, _SECTIONS_BEFORE = 4, 5, 10


def read_public_addresses(view: ByteView, names: Collection[str]) -> dict[str, int]:
    """Return the address of each of *names* that a native PDB has as a public symbol, from the start of its image.

    C names have an underscore before them on x86; they are found without it. A PDB whose image was rearranged after it
    was linked has addresses as they were before, and a table that says where they went. At most 256 MiB of records are
    searched.

    Raises:
        UnknownFormat: Not a native PDB.
        TruncatedInput: The file is shorter than it says.
        MalformedInput: Its debug information contradicts itself.

    DBI stream: stream of the symbol records u16 at 20; sizes of what follows the header of 64 bytes u32 at 24, 28, 32,
    36, 40, 48, 52, of which the table of optional streams, u16 each, is the last. S_PUB32: length u16, 0x110E, flags
    u32, offset u32, segment u16, name.
    Source: LLVM's "The PDB DBI Stream" and "CodeView Symbol Records"; microsoft-pdb, dbi.cpp (OMAP).
    """
    container = open_container(view)
    dbi = container.stream(_DBI)
    if dbi.size < _DBI_HEADER_BYTES:
        raise MalformedInput("the PDB has no debug information")
    header = dbi.read(0, _DBI_HEADER_BYTES)
    records = struct.unpack_from("<H", header, 20)[0]
    if records == _NO_STREAM:
        raise MalformedInput("the PDB has no symbol records")
    found = dict(_find_publics(container.stream(records), [name.encode() for name in names]))
    streams = _optional_streams(dbi, header)
    moves = _read_moves(container, streams)
    if moves is None:
        sections = _read_sections(container, streams, _SECTIONS)
    else:
        sections = _read_sections(container, streams, _SECTIONS_BEFORE)
    addresses: dict[str, int] = {}
    for name, (segment, offset) in found.items():
        if not 0 < segment <= len(sections):
            continue
        address = sections[segment - 1] + offset
        if moves is not None:
            address = _move(moves, address)
        if address:
            addresses[name.decode()] = address
    return addresses


def _find_publics(records: ByteView, names: list[bytes]) -> Iterator[tuple[bytes, tuple[int, int]]]:
    """Yield name, and segment and offset, of each public symbol of *names*."""
    end = min(records.size, _MOST_RECORD_BYTES)
    overlap = _PUBLIC_BYTES + max(map(len, names), default=0) + 2
    left = set(names)
    kept = b""
    for at in range(0, end, _CHUNK_BYTES):
        data = kept + records.read(at, min(_CHUNK_BYTES, end - at))
        for name in sorted(left):
            if (place := _find_public(data, name)) is not None:
                left.discard(name)
                yield name, place
        if not left:
            return
        kept = data[-overlap:]


def _find_public(data: bytes, name: bytes) -> tuple[int, int] | None:
    needle = name + b"\0"
    at = data.find(needle)
    while at >= 0:
        for start in (at, at - 1):
            if start < _PUBLIC_BYTES or data[start:at] not in {b"", b"_"}:
                continue
            length, kind, _, offset, segment = struct.unpack_from("<HHIIH", data, start - _PUBLIC_BYTES)
            if kind == _PUBLIC and length >= _PUBLIC_BYTES - 2 + at + len(needle) - start:
                return segment, offset
        at = data.find(needle, at + 1)
    return None


def _optional_streams(dbi: ByteView, header: bytes) -> tuple[int, ...]:
    """Return the numbers of the optional streams; `_NO_STREAM` for one that is not there."""
    sizes = struct.unpack_from("<5i", header, 24) + struct.unpack_from("<2i", header, 48)
    modules, contributions, section_map, sources, type_servers, table, edits = sizes
    start = _DBI_HEADER_BYTES + modules + contributions + section_map + sources + type_servers + edits
    if min(sizes) < 0 or start + table > dbi.size:
        raise MalformedInput("the parts of the debug information do not fit into it")
    raw = dbi.read(start, min(table, 64) & -2)
    return struct.unpack(f"<{len(raw) // 2}H", raw)


def _read_optional(container: StreamContainer, streams: tuple[int, ...], which: int, most_bytes: int) -> bytes | None:
    """Return the whole of an optional stream; None if it is not there or too long."""
    number = streams[which] if which < len(streams) else _NO_STREAM
    if number == _NO_STREAM:
        return None
    stream = container.stream(number)
    return stream.read(0, stream.size) if 0 < stream.size <= most_bytes else None


def _read_sections(container: StreamContainer, streams: tuple[int, ...], which: int) -> list[int]:
    """Return the address of each section, from the start of the image."""
    raw = _read_optional(container, streams, which, _MOST_SECTIONS * _SECTION_BYTES)
    if raw is None:
        raise MalformedInput("the PDB does not hold the headers of its image's sections")
    return [int.from_bytes(raw[at + 12 : at + 16], "little") for at in range(0, len(raw) - 39, _SECTION_BYTES)]


def _read_moves(container: StreamContainer, streams: tuple[int, ...]) -> list[tuple[int, int]] | None:
    """Return where addresses of the linked image went, ascending; None if the image was not rearranged."""
    number = streams[_SECTIONS_BEFORE] if len(streams) > _SECTIONS_BEFORE else _NO_STREAM
    raw = _read_optional(container, streams, _MOVED, 8 * _MOST_MOVES)
    if number == _NO_STREAM or raw is None:
        return None
    return sorted(struct.iter_unpack("<II", raw[: len(raw) & -8]))


def _move(moves: list[tuple[int, int]], address: int) -> int:
    """Return where *address* went; 0 if it is there no more."""
    index = bisect_right(moves, address, key=lambda move: move[0]) - 1
    if index < 0 or not moves[index][1]:
        return 0
    return moves[index][1] + address - moves[index][0]
