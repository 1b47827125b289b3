"""Zip archives, with Zip64: their directory, or what stands before a cut, and their members."""

from __future__ import annotations

import struct
import zlib
from array import array
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, TruncatedInput, UnknownFormat
from symcache.formats.archive.compressed import Inflate, decode, expand_pieces, lzma_decoder, zip_decoder
from symcache.formats.archive.member import PIECE_BYTES, Member, iter_pieces
from symcache.formats.view import PartView

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

    from symcache.formats.archive.member import Spend
    from symcache.formats.view import ByteView

_MOST_ENTRIES = 1 << 18
"""The longest directory that is read, in entries."""

_END = struct.Struct("<4sHHHHIIH")
END_BYTES = _END.size
"""What a zip without a comment ends with, in bytes."""

_END64 = struct.Struct("<4sQHHIIQQQQ")
_LOCATOR64 = struct.Struct("<4sIQI")
_ENTRY = struct.Struct("<4sHHHHHHIIIHHHHHII")
_LOCAL = struct.Struct("<4sHHHHHIIIHH")
_LONGEST_COMMENT = 0xFFFF
_UNKNOWN = 0xFFFFFFFF
_ZIP64_EXTRA = 1
_STORED, _DEFLATE = 0, 8
_ENCRYPTED, _SIZES_BEHIND, _UTF8 = 1, 8, 0x800
_LZMA_PROPERTIES = 9
_READ_IN_PLACE_BYTES = 4 << 20  # what is not longer is read whole, and its checksum with it
_PUT_TOGETHER = "put its parts together (`zip -s 0 NAME.zip --out WHOLE.zip`, or by 7-Zip) and give the whole"
_NEEDS_PASSWORD = "encrypted with a password: unpack it and give what was in it"  # noqa: S105 - said of a member


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    flags: int
    method: int
    crc: int
    packed_bytes: int
    size_bytes: int
    local_at: int
    name_bytes: int


def find_end_of_zip(tail: bytes) -> str | None:
    """Return what a file is whose last `END_BYTES`, *tail*, end a zip that does not begin it; None if they end none."""
    if not tail.startswith(b"PK\5\6") or len(tail) != _END.size:
        return None
    if _END.unpack(tail)[1]:
        return f"the last part of a split zip archive: {_PUT_TOGETHER}"
    return "a zip archive behind something else: unpack it (`unzip FILE`) and give what was in it"


def read_zip(view: ByteView, spend: Spend) -> Iterator[Member]:
    """Yield the files of a zip in the order of its directory; of one that is cut, those that stand before the cut.

    What stands before the first member, as in a program that unpacks itself, is passed over.

    Raises:
        UnknownFormat: A part of a split archive.
        TruncatedInput: At the end, that the archive is cut.
        MalformedInput: Members overlap, as they do where a small archive is to expand to much more; or the directory is
            damaged.

    Source: APPNOTE.TXT 6.3.10, 4.3.7 (local header), 4.3.12 (entry), 4.3.14 to 4.3.16 (ends), 4.5.3 (Zip64).
    """
    found = _find_directory(view)
    if found is None:
        yield from _read_cut(view, spend)
        raise TruncatedInput(
            "the archive is cut short, or a part of a split one: it has no directory", offset=view.size
        )
    start, end, before = found
    _check_overlaps(view, start, end, before)
    for entry in _entries(view, start, end, before):
        if not entry.name.endswith(("/", "\\")) or entry.size_bytes:
            yield _member(view, entry, spend)


def _find_directory(view: ByteView) -> tuple[int, int, int] | None:
    """Return where the directory begins and ends, and how much stands before the archive; None if it has none."""
    tail_at = max(0, view.size - _LONGEST_COMMENT - _END.size)
    tail = view.read(tail_at, view.size - tail_at)
    at = len(tail)
    while (at := tail.rfind(b"PK\5\6", 0, at)) >= 0:
        if len(tail) - at < _END.size:
            continue
        _, disk, first_disk, _, count, size, offset, comment = _END.unpack_from(tail, at)
        if at + _END.size + comment > len(tail):
            continue
        end = tail_at + at
        if (wide := _find_zip64(view, end)) is not None:
            end, disk, first_disk, count, size, offset = wide
        if disk or first_disk:
            raise UnknownFormat(f"a part of a split archive: {_PUT_TOGETHER}", offset=end)
        start = end - size
        if start < 0 or start < offset:
            continue
        if count and view.read(start, min(4, view.size - start)) != b"PK\1\2":
            continue
        return start, end, start - offset
    return None


def _find_zip64(view: ByteView, end: int) -> tuple[int, int, int, int, int, int] | None:
    """Return where the record of a Zip64 archive is and what it says, if one stands before *end*."""
    if end < _LOCATOR64.size + _END64.size:
        return None
    magic, _, at, _ = _LOCATOR64.unpack(view.read(end - _LOCATOR64.size, _LOCATOR64.size))
    if magic != b"PK\6\7":
        return None
    # It says how far from the archive's own beginning; something may stand before that.
    for place in (at, end - _LOCATOR64.size - _END64.size):
        if place + _END64.size > end:
            continue
        found, _, _, _, disk, first_disk, _, count, size, offset = _END64.unpack(view.read(place, _END64.size))
        if found == b"PK\6\6":
            return place, disk, first_disk, count, size, offset
    return None


def _entries(view: ByteView, at: int, end: int, before: int) -> Iterator[_Entry]:
    for _ in range(_MOST_ENTRIES):
        if at + _ENTRY.size > end:
            return
        fixed = view.read(at, _ENTRY.size)
        magic, _, _, flags, method, _, _, crc, packed, size, names, extras, comments, _, _, _, local = _ENTRY.unpack(
            fixed
        )
        if magic != b"PK\1\2":
            raise MalformedInput("its directory is damaged", offset=at)
        if at + _ENTRY.size + names + extras > end:
            raise MalformedInput("its directory ends within an entry", offset=at)
        more = view.read(at + _ENTRY.size, names + extras)
        size, packed, local = _widen(more[names:], size, packed, local)
        name = _name(more[:names], flags)
        yield _Entry(name, flags, method, crc, packed, size, before + local, names)
        at += _ENTRY.size + names + extras + comments
    raise MalformedInput(f"its directory has more than {_MOST_ENTRIES} entries; the rest was not read", offset=at)


def _widen(extra: bytes, *narrow: int) -> tuple[int, int, int]:
    """Return sizes and offset, those that do not fit into 32 bits from the Zip64 field."""
    wide = list(narrow)
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == _ZIP64_EXTRA:
            place, end = at + 4, min(at + 4 + length, len(extra))
            for number, value in enumerate(narrow):
                if value == _UNKNOWN and place + 8 <= end:
                    (wide[number],) = struct.unpack_from("<Q", extra, place)
                    place += 8
            break
        at += 4 + length
    return wide[0], wide[1], wide[2]


def _name(name: bytes, flags: int) -> str:
    return name.decode("utf-8", "replace") if flags & _UTF8 else name.decode("cp437")


def _check_overlaps(view: ByteView, start: int, end: int, before: int) -> None:
    """Refuse a zip whose members share bytes, which no program writes; two numbers are held of each."""
    starts, ends = array("Q"), array("Q")
    with suppress(MalformedInput):  # said where the entries are read; what stands before is compared
        for entry in _entries(view, start, end, before):
            last = entry.local_at + _LOCAL.size + entry.name_bytes + entry.packed_bytes
            if last < 1 << 64:
                starts.append(entry.local_at)
                ends.append(last)
    order = sorted(range(len(starts)), key=starts.__getitem__)
    for one, next_ in pairwise(order):
        if ends[one] > starts[next_]:
            problem = "its members overlap, so that it would expand to far more than it holds; it is not read"
            raise MalformedInput(problem, offset=starts[next_])


def _member(view: ByteView, entry: _Entry, spend: Spend) -> Member:
    member = Member(entry.name, entry.size_bytes, lambda: iter(()), entry.local_at)
    if entry.flags & _ENCRYPTED:
        return replace(member, problem=_NEEDS_PASSWORD)
    try:
        if entry.local_at + _LOCAL.size > view.size:
            raise TruncatedInput("it lies behind the end of the archive")
        magic, *_, names, extras = _LOCAL.unpack(view.read(entry.local_at, _LOCAL.size))
        if magic != b"PK\3\4":
            raise MalformedInput("its header is not where the directory says")
        at = entry.local_at + _LOCAL.size + names + extras
        if entry.method != _STORED:
            zip_decoder(entry.method)
    except InputError as error:
        return replace(member, problem=error.problem)
    whole = None
    if entry.method == _STORED:
        if entry.packed_bytes != entry.size_bytes:
            return replace(member, problem="it is not compressed and states two lengths")
        if _READ_IN_PLACE_BYTES < entry.size_bytes <= view.size - at:
            whole = PartView(view, at, entry.size_bytes)
    return replace(member, view=whole, pieces=lambda: _expand(view, at, entry, spend))


def _expand(view: ByteView, at: int, entry: _Entry, spend: Spend) -> Iterator[bytes]:
    """Yield the bytes of a member, which are as many as it states and have its checksum."""
    end = min(at + entry.packed_bytes, view.size)
    crc, left = 0, entry.size_bytes
    for piece in _decoded(view, at, end, entry.method, spend):
        if len(piece) > left:
            yield piece[:left]
            raise MalformedInput(f"it expands to more than the {entry.size_bytes} bytes it states", offset=at)
        left -= len(piece)
        crc = zlib.crc32(piece, crc)
        yield piece
    if end < at + entry.packed_bytes:
        raise TruncatedInput("the archive ends within it", offset=end)
    if left:
        raise MalformedInput(
            f"it expands to {entry.size_bytes - left} of the {entry.size_bytes} bytes it states", offset=at
        )
    if crc != entry.crc:
        raise MalformedInput("its checksum does not match: some of it is damaged", offset=at)


def _decoded(view: ByteView, at: int, end: int, method: int, spend: Spend) -> Iterator[bytes]:
    if method == _STORED:
        for piece in iter_pieces(view, at, end):
            spend(len(piece))
            yield piece
        return
    make = zip_decoder(method)
    if make is not None:
        yield from expand_pieces(iter_pieces(view, at, end), make(), spend)
        return
    decoder = lzma_decoder(view.read(at, min(_LZMA_PROPERTIES, end - at)))
    # Without a mark of its end, which is the rule, it ends with its input.
    try:
        yield from expand_pieces(iter_pieces(view, at + _LZMA_PROPERTIES, end), decoder, spend)
    except TruncatedInput:
        return


def _read_cut(view: ByteView, spend: Spend) -> Iterator[Member]:
    """Yield the files that stand in a row from the beginning, as far as their own headers tell."""
    at = 4 if view.read(0, 4) in {b"PK\7\x08", b"PK00"} else 0
    for _ in range(_MOST_ENTRIES):
        if at + _LOCAL.size > view.size:
            return
        header = view.read(at, _LOCAL.size)
        magic, _, flags, method, _, _, crc, packed, size, names, extras = _LOCAL.unpack(header)
        if magic != b"PK\3\4" or at + _LOCAL.size + names + extras > view.size:
            return
        more = view.read(at + _LOCAL.size, names + extras)
        size, packed, _ = _widen(more[names:], size, packed, 0)
        data_at = at + _LOCAL.size + names + extras
        entry = _Entry(_name(more[:names], flags), flags, method, crc, packed, size, at, names)
        if flags & _SIZES_BEHIND and not packed:
            if flags & _ENCRYPTED or method != _DEFLATE:
                yield replace(
                    _member(view, entry, spend), problem="the archive is cut, and does not say how long it is"
                )
                return
            end = yield from _read_unmeasured(view, data_at, entry, spend)
            if end is None:
                return
            at = end
            continue
        if not entry.name.endswith(("/", "\\")):
            yield _member(view, entry, spend)
        at = data_at + packed


def _read_unmeasured(view: ByteView, data_at: int, entry: _Entry, spend: Spend) -> Generator[Member, None, int | None]:
    """Yield a member whose length stands behind it; return where the next one begins, None if that is not known."""
    yield Member(entry.name, None, lambda: expand_pieces(iter_pieces(view, data_at), Inflate(), spend), entry.local_at)
    decoder, place = Inflate(), data_at
    while not decoder.eof and place < view.size:
        piece = view.read(place, min(PIECE_BYTES, view.size - place))
        place += len(piece)
        while not decoder.eof:
            spend(len(decode(decoder, piece)))
            piece = b""
            if decoder.needs_input:
                break
    if not decoder.eof:
        return None
    end = place - len(decoder.unused_data)
    behind = view.read(end, min(64, view.size - end))
    for size in (16, 24, 12, 20):  # with and without a signature, of 32 and 64 bits
        if behind[size : size + 4] == b"PK\3\4":
            return end + size
    return None
