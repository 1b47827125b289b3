"""Tars: ustar, pax, GNU's long names and sparse files, and what came before them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, TruncatedInput
from symcache.formats.archive.member import (
    BLOCK_BYTES,
    PIECE_BYTES,
    Member,
    PieceReader,
    ViewReader,
    is_tar_header,
    parse_octal,
)
from symcache.formats.view import PartView

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from symcache.formats.archive.member import Spend

_LONGEST_EXTENSION = 1 << 20
_MOST_HOLES = 1 << 16
_SPARSE = b"S"
_FILES = {b"0", b"\0", b"7", _SPARSE}
_WITHOUT_CONTENT = {b"1", b"2", b"3", b"4", b"5", b"6"}  # links state the length of what they lead to
_GNU_NAME, _GNU_LINK, _PAX_ALL = b"L", b"K", b"g"
_PAX = {b"x", b"X"}
_LARGEST = 1 << 62


@dataclass(slots=True)
class _Said:
    """What headers before a file say of it."""

    name: str | None = None
    fields: dict[str, str] = field(default_factory=dict)


def read_tar(source: PieceReader | ViewReader, spend: Spend) -> Iterator[Member]:
    """Yield the files of a tar in their order; folders, links and devices are passed over.

    Raises:
        TruncatedInput: It ends within a file or a header.
        MalformedInput: A header is damaged; nothing behind it is found.

    Layout of a header, 512 bytes: name (100), 24 more, size in octal (12 at 124), sum of all its bytes (8 at 148), type
    (1 at 156), ``ustar`` at 257, the name's first part (155 at 345). Content is padded to whole blocks; the
    end is a block of zeros.
    Source: POSIX.1-2017, pax; GNU tar manual, "Basic Tar Format" (long names, sparse files) and "Storing Sparse Files".
    """
    said, for_all = _Said(), dict[str, str]()
    while True:
        at = source.at
        block = source.take(BLOCK_BYTES)
        if not block.strip(b"\0"):
            return
        if len(block) < BLOCK_BYTES:
            raise TruncatedInput("the tar is cut short within a header", offset=at)
        if not is_tar_header(block):
            raise MalformedInput("a header of the tar is damaged; what stands behind it was not read", offset=at)
        size, type_ = parse_octal(block[124:136]) or 0, block[156:157]
        if type_ in {_GNU_NAME, _GNU_LINK, _PAX_ALL} | _PAX:
            text = _extension(source, size, at)
            if type_ == _GNU_NAME:
                said.name = text.rstrip(b"\0").decode("utf-8", "replace")
            elif type_ == _PAX_ALL:
                for_all.update(_pax_fields(text))
            elif type_ != _GNU_LINK:
                said.fields.update(_pax_fields(text))
            continue
        yield from _content(source, block, size, type_, said, for_all, at, spend)
        said = _Said()


def _extension(source: PieceReader | ViewReader, size: int, at: int) -> bytes:
    if size > _LONGEST_EXTENSION:
        raise MalformedInput(f"a header of the tar has {size} more bytes", offset=at)
    text = source.take(size)
    if len(text) < size:
        raise TruncatedInput("the tar is cut short within a header", offset=at)
    source.skip(-size % BLOCK_BYTES)
    return text


def _pax_fields(text: bytes) -> dict[str, str]:
    """Return the fields of a pax header: lines of a decimal length, a blank, ``name=value``, a line end."""
    fields: dict[str, str] = {}
    pairs: list[str] = []
    at = 0
    while at < len(text):
        blank = text.find(b" ", at, at + 20)
        if blank < 0 or not text[at:blank].isdigit():
            break
        end = at + int(text[at:blank])
        if end <= blank or end > len(text):
            break
        name, _, value = text[blank + 1 : end - 1].decode("utf-8", "replace").partition("=")
        if name in {"GNU.sparse.offset", "GNU.sparse.numbytes"}:  # one pair for each piece
            pairs.append(value)
        fields[name] = value
        at = end
    if pairs:
        fields["GNU.sparse.map"] = ",".join(pairs)
    return fields


def _content(
    source: PieceReader | ViewReader,
    block: bytes,
    size: int,
    type_: bytes,
    said: _Said,
    for_all: Mapping[str, str],
    at: int,
    spend: Spend,
) -> Iterator[Member]:
    """Yield the file that a header is of, if it is of one, and pass over what was not read of it."""
    fields = {**for_all, **said.fields}
    if (stated := fields.get("size", "")).isdecimal() and len(stated) <= 19:
        size = int(stated)
    if not 0 <= size < _LARGEST:
        raise MalformedInput(f"a file of the tar has {size} bytes", offset=at)
    if type_ in _WITHOUT_CONTENT:
        size = 0
    pieces: list[tuple[int, int]] | None = None
    real_size, problem = size, None
    begin = source.at
    try:
        if type_ == _SPARSE:
            pieces, real_size = _gnu_map(source, block)
            begin = source.at  # the map is no part of the content
        elif "GNU.sparse.map" in fields or "GNU.sparse.major" in fields:
            pieces, real_size = _pax_map(source, fields, size)
    except InputError as error:
        problem = error.problem
    left = begin + size - source.at
    name = fields.get("GNU.sparse.name") or fields.get("path") or said.name or _name(block)
    if type_ in _FILES and not name.endswith("/"):
        view = None
        if isinstance(source, ViewReader) and pieces is None and source.at + left <= source.view.size:
            view = PartView(source.view, source.at, left)
        reader = _Reader(source, left, real_size, pieces, spend)
        yield Member(name, max(0, real_size), reader.pieces, at, problem, view)
    source.skip(max(0, begin + size + -size % BLOCK_BYTES - source.at))


def _name(block: bytes) -> str:
    name = block[:100].split(b"\0", 1)[0]
    prefix = block[345:500].split(b"\0", 1)[0] if block[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


class _Reader:
    """The content of one file; holes of a sparse one are zeros."""

    def __init__(
        self,
        source: PieceReader | ViewReader,
        length: int,
        size: int,
        pieces: list[tuple[int, int]] | None,
        spend: Spend,
    ) -> None:
        self._source = source
        self._left = length
        self._size = size
        self._map = pieces
        self._spend = spend

    def pieces(self) -> Iterator[bytes]:
        place = 0
        for start, length in [(0, self._left)] if self._map is None else self._map:
            yield from self._zeros(start - place)
            yield from self._take(length)
            place = start + length
        yield from self._zeros(self._size - place)

    def _zeros(self, length: int) -> Iterator[bytes]:
        while length > 0:
            piece = bytes(min(length, PIECE_BYTES))
            self._spend(len(piece))
            length -= len(piece)
            yield piece

    def _take(self, length: int) -> Iterator[bytes]:
        while length:
            piece = self._source.take_some(min(length, self._left, PIECE_BYTES))
            if not piece:
                raise TruncatedInput("the tar ends within it", offset=self._source.at)
            self._left -= len(piece)
            length -= len(piece)
            self._spend(len(piece))
            yield piece


def _gnu_map(source: PieceReader | ViewReader, block: bytes) -> tuple[list[tuple[int, int]], int]:
    """Return the pieces of a sparse file of GNU's own format, and its length.

    Layout: from 386 four pairs of offset and length in octal (12 each), at 482 whether a block with 21 more follows, at
    483 the length (12); those blocks have that flag at 504.
    """
    numbers = [block[at : at + 12] for at in range(386, 482, 12)]
    goes_on, size = block[482], parse_octal(block[483:495]) or 0
    while goes_on:
        more = source.take(BLOCK_BYTES)
        if len(more) < BLOCK_BYTES or len(numbers) > 2 * _MOST_HOLES:
            raise MalformedInput("the map of a sparse file is damaged", offset=source.at)
        numbers += [more[at : at + 12] for at in range(0, 504, 12)]
        goes_on = more[504]
    return _checked_map([parse_octal(number) for number in numbers if number.strip(b"\0")], size), size


def _pax_map(
    source: PieceReader | ViewReader, fields: Mapping[str, str], left: int
) -> tuple[list[tuple[int, int]], int]:
    """Return the pieces of a sparse file of a pax archive, and its length: in its headers, or before its content."""
    stated = fields.get("GNU.sparse.realsize") or fields.get("GNU.sparse.size") or ""
    size = int(stated) if stated.isdecimal() and len(stated) <= 19 else -1
    if "GNU.sparse.map" in fields:
        texts = fields["GNU.sparse.map"].split(",")
        return _checked_map([int(text) if _is_number(text) else None for text in texts], size), size
    text = b""
    count = None
    while count is None or text.count(b"\n") <= 2 * count:
        block = source.take(BLOCK_BYTES) if len(text) + BLOCK_BYTES <= min(left, _LONGEST_EXTENSION) else b""
        if len(block) < BLOCK_BYTES:
            raise MalformedInput("the map of a sparse file is damaged", offset=source.at)
        text += block
        first = text.partition(b"\n")[0]
        count = int(first) if first.isdigit() and len(first) < 10 else _MOST_HOLES + 1
        if count > _MOST_HOLES:
            raise MalformedInput("the map of a sparse file is damaged", offset=source.at)
    lines = text.split(b"\n")[1 : 2 * count + 1]
    return _checked_map([int(line) if _is_number(line.decode("latin-1")) else None for line in lines], size), size


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) <= 19


def _checked_map(numbers: list[int | None], size: int) -> list[tuple[int, int]]:
    """Return pairs of offset and length that follow each other within *size*."""
    pairs: list[tuple[int, int]] = []
    place = 0
    for start, length in zip(numbers[::2], numbers[1::2], strict=False):
        if start is None or length is None or start < place or start + length > size:
            raise MalformedInput("the map of a sparse file is damaged")
        place = start + length
        pairs.append((start, length))
    return pairs
