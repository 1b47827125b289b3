"""Offsets of structure fields, from the type stream of a native PDB.

A type stream may be larger than memory should hold, so it is walked once in pieces; of its records only sparse marks
are kept, by which a field list is found again.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from struct import error as StructError  # noqa: N812  # it reads as the class it is
from struct import unpack_from
from typing import TYPE_CHECKING

from symcache.errors import MalformedInput
from symcache.formats.pdb.info import open_container

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from symcache.formats.view import ByteView

_TPI = 2
_CHUNK_BYTES = 1 << 20
_LONGEST_RECORD_BYTES = 2 + 0xFFFF
_MOST_RECORDS = 4_000_000
_MARK_EVERY = 64
_MOST_LISTS = 64
_FORWARD = 0x80

# Leaves of definitions, with the offset in the record at which their size stands.
_STRUCTURES = {0x1504: 18, 0x1505: 18, 0x1519: 18, 0x1506: 10}
_FIELD_LIST = 0x1203

_INDEX, _MEMBER = 0x1404, 0x150D

_NUMBERS = {
    0x8000: ("<b", 1),
    0x8001: ("<h", 2),
    0x8002: ("<H", 2),
    0x8003: ("<i", 4),
    0x8004: ("<I", 4),
    0x8009: ("<q", 8),
    0x800A: ("<Q", 8),
}


@dataclass(frozen=True, slots=True)
class Structure:
    """Layout of a structure, class or union."""

    name: str  # as the PDB spells it: `_EPROCESS`
    size: int  # length in bytes
    # Offset of each data member in bytes, in file order. Compilers list those of anonymous unions as if they were the
    # structure's own; a bit field has the offset of the integer that holds it.
    fields: Mapping[str, int]


def read_structures(view: ByteView, names: Collection[str]) -> dict[str, Structure]:
    """Return the layout of each of *names* that a native PDB defines.

    A name that is only declared (a forward reference) or not there at all is left out. Of several definitions with
    one name the first counts. Time is linear in the type stream, which is read once, 1 MiB at a time.

    Raises:
        UnknownFormat: Not a native PDB.
        TruncatedInput: The file is shorter than it says.
        MalformedInput: A record contradicts itself, or there are more than four million.

    Type stream: version u32, header length u32, first index u32, end index u32, length of the records u32. Record:
    length u16 (without itself), leaf u16, data.
    Source: LLVM's "The PDB TPI and IPI Streams" and "CodeView Type Records"; microsoft-pdb, cvinfo.h.
    """
    types = _Types(open_container(view).stream(_TPI))
    wanted = {name.encode("utf-8") for name in names}
    found: dict[str, Structure] = {}
    for record in types.walk() if wanted else ():
        if int.from_bytes(record[:2], "little") not in _STRUCTURES:
            continue
        definition = _parse_definition(record, wanted)
        if definition is None:
            continue
        name, size, fields_at = definition
        fields = types.read_fields(fields_at) if fields_at else {}
        found[name.decode("utf-8")] = Structure(name.decode("utf-8"), size, fields)
        wanted.discard(name)
        if not wanted:
            break
    return found


class _Types:
    """The records of a type stream, by walking and by index."""

    def __init__(self, stream: ByteView) -> None:
        self._stream = stream
        self._first = self._end = self._start = self._stop = 0
        self._marks = [0]  # where every 64th record begins, as far as the walk came
        if stream.size == 0:
            return
        if stream.size < 20:
            raise MalformedInput("the type stream ends within its header")
        _, self._start, self._first, self._end, length = unpack_from("<5I", stream.read(0, 20))
        self._stop = self._start + length
        if self._start < 20 or self._stop > stream.size or self._end < self._first:
            raise MalformedInput(f"the type stream's {length} bytes of records do not fit into its {stream.size} bytes")
        if self._end - self._first > _MOST_RECORDS:
            raise MalformedInput(f"a type stream of {self._end - self._first} records is more than is read here")
        self._marks = [self._start]

    def walk(self) -> Iterator[bytes]:
        """Yield every record, from its leaf on."""
        return self._walk_from(0)

    def read_fields(self, list_index: int) -> dict[str, int]:
        """Return the data members of a field list and of the lists that continue it."""
        fields: dict[str, int] = {}
        following: int | None = list_index
        for _ in range(_MOST_LISTS):
            if following is None:
                return fields
            following = _parse_field_list(self._find(following), fields)
        raise MalformedInput(f"a structure with more than {_MOST_LISTS} field lists")

    def _find(self, type_index: int) -> bytes:
        number = type_index - self._first
        if 0 <= number < self._end - self._first:
            mark = min(number // _MARK_EVERY, len(self._marks) - 1)
            record = next(islice(self._walk_from(mark, chunk_bytes=0), number - mark * _MARK_EVERY, None), None)
            if record is not None:
                return record
        raise MalformedInput(f"type {type_index:#x} is not in the type stream")

    def _walk_from(self, mark: int, *, chunk_bytes: int = _CHUNK_BYTES) -> Iterator[bytes]:
        """Yield the records from a mark on; sets the marks behind it."""
        chunk, chunk_at, inside = b"", 0, 0
        at = self._marks[mark]
        for number in range(mark * _MARK_EVERY, self._end - self._first):
            end = inside + 2 + int.from_bytes(chunk[inside : inside + 2], "little")
            if end > len(chunk):
                at = chunk_at + inside if chunk else at
                chunk = self._stream.read(at, min(max(chunk_bytes, _LONGEST_RECORD_BYTES), self._stop - at))
                chunk_at, inside = at, 0
                end = 2 + int.from_bytes(chunk[:2], "little")
                if len(chunk) < 2 or end > len(chunk):
                    raise MalformedInput("the records of the type stream end early")
            if number == len(self._marks) * _MARK_EVERY:
                self._marks.append(chunk_at + inside)
            yield chunk[inside + 2 : end]
            inside = end


def _parse_definition(record: bytes, wanted: Collection[bytes]) -> tuple[bytes, int, int] | None:
    """Return (name, size, index of the field list) of a definition that is wanted.

    Data of a structure: member count u16, properties u16, field list u32, derivation u32, shape u32, size, name. Of a
    union: the same without derivation and shape.
    """
    try:
        leaf, _, properties, fields_at = unpack_from("<HHHI", record)
        if properties & _FORWARD:
            return None
        size, at = _parse_number(record, _STRUCTURES[leaf])
    except StructError:
        raise MalformedInput("a structure's type record ends early") from None
    name = _parse_name(record, at)
    return (name, size, fields_at) if name in wanted else None


def _parse_field_list(record: bytes, fields: dict[str, int]) -> int | None:
    """Add the data members of a field list to *fields*; return the index of the list that continues it."""
    try:
        if unpack_from("<H", record)[0] != _FIELD_LIST:
            raise MalformedInput("a structure's fields are not a field list")
        at = 2
        while at + 2 <= len(record):
            if record[at] >= 0xF0:  # padding, which says how far it is to the next entry
                at += max(1, record[at] & 0x0F)
                continue
            (leaf,) = unpack_from("<H", record, at)
            if leaf == _INDEX:
                following: int = unpack_from("<I", record, at + 4)[0]
                return following
            if leaf == _MEMBER:
                offset, at = _parse_number(record, at + 8)
                name = _parse_name(record, at)
                fields.setdefault(name.decode("utf-8", "replace"), offset)
                at += len(name) + 1
            else:
                at = _skip_entry(record, at, leaf)
    except StructError:
        raise MalformedInput("a field list ends within an entry") from None
    return None


def _skip_entry(record: bytes, at: int, leaf: int) -> int:
    """Return where the entry that begins at *at* and is no data member ends."""
    match leaf:
        case 0x1400 | 0x151A:  # base class, base interface: attributes u16, type u32, offset
            return _parse_number(record, at + 8)[1]
        case 0x1401 | 0x1402:  # virtual bases: attributes u16, type u32, pointer's type u32, two offsets
            return _parse_number(record, _parse_number(record, at + 12)[1])[1]
        case 0x1409 | 0x140A:  # virtual table, friend class: padding u16, type u32
            return at + 8
        case 0x140C:  # virtual table at an offset: padding u16, type u32, offset u32
            return at + 12
        case 0x1502:  # enumerator: attributes u16, value, name
            return _skip_name(record, _parse_number(record, at + 4)[1])
        case 0x150C | 0x150E | 0x150F | 0x1510 | 0x1512:  # friend, static member, methods, nested: u16, u32, name
            return _skip_name(record, at + 8)
        case 0x1511:  # method: attributes u16, type u32, place in the virtual table u32 if it is introduced, name
            introduces = (unpack_from("<H", record, at + 2)[0] >> 2 & 7) in {4, 6}
            return _skip_name(record, at + (12 if introduces else 8))
        case _:
            raise MalformedInput(f"a field list has an entry of an unknown kind ({leaf:#x})")


def _parse_number(record: bytes, at: int) -> tuple[int, int]:
    """Return a number and where it ends: below 0x8000 it is a u16 itself, else a leaf that says what follows."""
    (leaf,) = unpack_from("<H", record, at)
    if leaf < 0x8000:
        return leaf, at + 2
    if leaf not in _NUMBERS:
        raise MalformedInput(f"a number of an unknown kind ({leaf:#x})")
    form, width = _NUMBERS[leaf]
    return unpack_from(form, record, at + 2)[0], at + 2 + width


def _parse_name(record: bytes, at: int) -> bytes:
    end = record.find(b"\0", at)
    if end < 0:
        raise MalformedInput("a name in a type record is not terminated")
    return record[at:end]


def _skip_name(record: bytes, at: int) -> int:
    return at + len(_parse_name(record, at)) + 1
