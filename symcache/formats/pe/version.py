r"""The version resource of an image: who made it, what it is, and which build of it.

An image may leave the texts to a file of its language (``LANGUAGE\NAME.mui`` beside it), which is not looked for.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

from symcache.errors import InputError
from symcache.formats.pe.image import ImageSpace
from symcache.formats.view import parse_uint

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from symcache.formats.pe.image import Layout
    from symcache.formats.view import ByteView

Numbers: TypeAlias = tuple[int, int, int, int]

FIXED_BYTES = 52
"""Length of a VS_FIXEDFILEINFO."""
LONGEST_TEXT = 256
"""Characters of a text that are kept; real ones have less than a hundred."""
TEXT_FIELDS = {
    "companyname": "company",
    "productname": "product",
    "filedescription": "description",
    "originalfilename": "original_name",
    "fileversion": "file_version",
    "productversion": "product_version",
}
"""Which field of `VersionInfo` a text is, by its name in a resource in lower case."""


@dataclass(frozen=True, slots=True)
class VersionInfo:
    """What an image says of its origin; each part is None if it says nothing.

    Texts are one line of at most `LONGEST_TEXT` characters, and as hostile as the image.
    """

    company: str | None = None
    product: str | None = None
    description: str | None = None
    original_name: str | None = None  # of the file
    file_version: str | None = None  # in words: ``10.0.19041.508 (WinBuild.160101.0800)``
    product_version: str | None = None
    file_numbers: Numbers | None = None  # four parts of 16 bits; None, too, if all are zero
    product_numbers: Numbers | None = None
    is_private: bool = False  # not built by the usual procedure
    is_special: bool = False  # a variant of the build of the same number
    is_debug: bool = False

    def as_json(self) -> dict[str, Any]:
        """Return the fields of one JSON object; numbers are written as ``10.0.19041.508``."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        for name in ("file_numbers", "product_numbers"):
            if values[name] is not None:
                values[name] = dotted(values[name])
        return values


def dotted(numbers: Numbers) -> str:
    """Return the usual way to write a version."""
    return ".".join(map(str, numbers))


def one_line(text: str) -> str | None:
    """Return *text* as `VersionInfo` holds it; None if nothing is left."""
    return " ".join(text[: 4 * LONGEST_TEXT].split())[:LONGEST_TEXT].rstrip() or None


_SIGNATURE = 0xFEEF04BD
_FIXED = struct.Struct("<I4xIIIIII20x")
_DEBUG, _PRIVATE, _SPECIAL = 0x01, 0x08, 0x20


def parse_fixed_info(data: bytes) -> VersionInfo | None:
    """Return the numbers and flags in *data*, a VS_FIXEDFILEINFO; None if it is too short or lacks the signature.

    Layout: signature 0xFEEF04BD u32, version of the structure u32, file version u32 (upper two parts) and u32 (lower
    two), product version likewise, mask of valid flags u32, flags u32 (1 debug, 8 private, 0x20 special), then system,
    type and date, 20 bytes.
    Source: learn.microsoft.com, "VS_FIXEDFILEINFO structure (verrsrc.h)".
    """
    if len(data) < FIXED_BYTES:
        return None
    signature, file_upper, file_lower, product_upper, product_lower, mask, flags = _FIXED.unpack_from(data)
    if signature != _SIGNATURE:
        return None
    info = VersionInfo(
        file_numbers=_numbers(file_upper, file_lower), product_numbers=_numbers(product_upper, product_lower)
    )
    return with_flags(info, flags & mask)


def with_flags(info: VersionInfo, flags: int) -> VersionInfo:
    """Return *info* with what the valid ones among the flags of a VS_FIXEDFILEINFO say."""
    return replace(
        info, is_private=bool(flags & _PRIVATE), is_special=bool(flags & _SPECIAL), is_debug=bool(flags & _DEBUG)
    )


def _numbers(upper: int, lower: int) -> Numbers | None:
    return (upper >> 16, upper & 0xFFFF, lower >> 16, lower & 0xFFFF) if upper or lower else None


_RESOURCES = 2
_VERSION_TYPE = 16
_VERSION_ID = 1
_ENGLISH, _NEUTRAL = 0x409, 0
_HIGH = 1 << 31
# Images have less than thirty types of resources, one version resource in a few languages, and less than 4 KiB of it;
# a block's 16-bit length allows 64 KiB. With the headers this keeps what is read of one image below 112 KiB in less
# than 100 reads, whatever it claims.
_MOST_TYPES = 1024
_MOST_RESOURCES = 16
_MOST_BYTES = 0x10000


def read_version(view: ByteView, layout: Layout) -> VersionInfo | None:
    """Return what the version resource of the image in *view* says; None if it has none, or one that says nothing.

    Of a resource that is there in part, as where a dump lacks a page, what stands before the gap counts. Several
    resources (their names and languages) are tried in turn, English first, up to one that says something.

    Raises:
        InputError: The headers or what leads to the resource cannot be read, or nothing of the resource can.

    Layout: a tree of three tables, for type (16 is the version), name and language. A table has 16 bytes, with the
    number of entries that have names u16@12 and of those that have ids u16@14; an entry is name or id u32 and the
    offset u32 of a table of the next level (bit 31 is set) or of the data's description: RVA u32, size u32, code page
    u32, 4 bytes. Offsets count from the first table.
    Source: MicrosoftDocs/win32 pe-format.md, "The .rsrc Section".
    """
    return find_version(ImageSpace(view, layout))


def find_version(space: ImageSpace) -> VersionInfo | None:
    """Return what the version resource of the image in *space* says; see `read_version`."""
    directory = space.find_directory(_RESOURCES)
    if directory is None:
        return None
    failure: InputError | None = None
    bytes_left = _MOST_BYTES
    for at in _find_resources(space, directory[0]):
        try:
            data = _read_resource(space, at, bytes_left)
        except InputError as error:
            failure = failure or error
            continue
        info = parse_version_resource(data)
        if info is not None:
            return info
        bytes_left -= len(data)
    if failure is not None:
        raise failure
    return None


def _find_resources(space: ImageSpace, start: int) -> Iterator[int]:
    """Yield the addresses of descriptions of version resources, at most 16."""
    types = [at for id_, at in _read_table(space, start, _MOST_TYPES) if id_ == _VERSION_TYPE and at & _HIGH]
    found = 0
    for type_at in types[:1]:
        names = _read_table(space, start + type_at - _HIGH, _MOST_RESOURCES)
        for _, name_at in sorted(names, key=lambda entry: entry[0] != _VERSION_ID):
            if not name_at & _HIGH:
                continue
            languages = _read_table(space, start + name_at - _HIGH, _MOST_RESOURCES)
            for _, at in sorted(languages, key=lambda entry: (entry[0] != _ENGLISH, entry[0] != _NEUTRAL)):
                if not at & _HIGH and found < _MOST_RESOURCES:
                    found += 1
                    yield start + at


def _read_table(space: ImageSpace, rva: int, most: int) -> list[tuple[int, int]]:
    """Return name or id, and offset, of each entry of the table at *rva*, at most *most*."""
    named, with_id = struct.unpack("<HH", space.read(rva + 12, 4))
    return list(struct.iter_unpack("<II", space.read(rva + 16, 8 * min(named + with_id, most))))


def _read_resource(space: ImageSpace, at: int, most_bytes: int) -> bytes:
    """Return what is there of the resource that is described at *at*, from its start."""
    rva, size_bytes = struct.unpack("<II", space.read(at, 8))
    return space.read_start(rva, min(size_bytes, most_bytes))


_BLOCK = struct.Struct("<HHH")
_LONGEST_KEY_BYTES = 128


class _Block(NamedTuple):
    """A block of a version resource; offsets count from its start."""

    key: str
    value: int  # where the value begins, if there is one, else the first child
    value_length: int  # as stated: bytes, or characters of a text
    end: int


def parse_version_resource(data: bytes) -> VersionInfo | None:
    r"""Return what *data*, a version resource or the beginning of one, says; None if that is nothing.

    Where texts are there in several languages, those in ``\VarFileInfo\Translation`` come before others, English (US)
    before the rest, and each text comes from the first that has it.

    Compilers of resources have written lengths of texts in bytes or in characters, of blocks without their last text,
    and have left out padding; Windows reads all of these. So texts end with their NUL, what stands at a place decides
    over what lengths say, and what makes no sense is passed over. Each byte is looked at a few times at most.

    Layout: blocks in blocks: length u16, length of the value u16, whether it is text u16, key in UTF-16 with a NUL;
    padding to 32 bits; the value; padding; child blocks. ``VS_VERSION_INFO`` has a VS_FIXEDFILEINFO and the children
    ``StringFileInfo``, whose children are named by language and code page in eight hexadecimal digits and hold the
    texts, and ``VarFileInfo`` with ``Translation``: pairs of language and code page, u16 each. Texts are UTF-16
    whatever the code page.
    Source: learn.microsoft.com, "VS_VERSIONINFO structure" and the pages of its members; Wine and ReactOS, version.c,
    for what compilers do.
    """
    root = _parse_block(data, 0, len(data))
    if root is None or root.key != "VS_VERSION_INFO":
        return None
    at = data.find(_SIGNATURE.to_bytes(4, "little"), root.value, root.value + 8)
    info = None if at < 0 else parse_fixed_info(data[at : at + FIXED_BYTES])
    # What stands there counts: the signature, whatever the length of the value; and blocks, whatever that of the root.
    first = root.value + root.value_length if at < 0 else at + FIXED_BYTES
    tables: list[tuple[int | None, Mapping[str, str]]] = []
    translations: list[int] = []
    for block in _children(data, (first, root.value + root.value_length), len(data)):
        match block.key:
            case "StringFileInfo":
                found = _children(data, (block.value,), block.end)
                tables += [(_language(table.key), _texts(data, table)) for table in found]
            case "VarFileInfo":
                for var in _children(data, (block.value,), block.end):
                    if var.key == "Translation":
                        pairs = data[var.value : min(var.end, var.value + var.value_length)]
                        translations += [parse_uint(pairs, at, 2) for at in range(0, len(pairs) - 3, 4)]
    tables.sort(key=lambda table: (table[0] not in translations, table[0] != _ENGLISH))
    texts: dict[str, str] = {}
    for _, more in reversed(tables):
        texts |= more
    if not texts:
        return None if info is None or info == VersionInfo() else info
    return replace(info or VersionInfo(), **texts)  # type: ignore[arg-type]  # the names of fields that are texts


def _language(key: str) -> int | None:
    try:
        return int(key[:4], 16)
    except ValueError:
        return None


def _texts(data: bytes, table: _Block) -> dict[str, str]:
    """Return the texts of one language by the names of the fields of `VersionInfo`."""
    found: dict[str, str] = {}
    for block in _children(data, (table.value,), table.end, are_texts=True):
        name = TEXT_FIELDS.get(block.key.lower())
        if name is None or name in found:
            continue
        end = _find_nul(data, block.value, block.end)
        if end is None and block.end == len(data):
            continue  # it is cut short
        text = one_line(_decode(data[block.value : block.end if end is None else end]))
        if text is not None:
            found[name] = text
    return found


def _children(data: bytes, starts: tuple[int, ...], end: int, *, are_texts: bool = False) -> Iterator[_Block]:
    """Yield the blocks from the first of *starts* that holds one up to *end*; those that *are_texts* whole."""
    block = _first_block(data, starts, end)
    while block is not None:
        if are_texts:
            block = _whole_text(data, block, end)
        yield block
        block = _first_block(data, (block.end,), end)


def _first_block(data: bytes, starts: tuple[int, ...], end: int) -> _Block | None:
    """Return the block at one of *starts*, with or without padding before it."""
    for start in starts:
        for at in dict.fromkeys((start + -start % 4, start)):
            block = _parse_block(data, at, end)
            if block is not None:
                return block
    return None


def _parse_block(data: bytes, at: int, end: int) -> _Block | None:
    """Return the block at *at*, cut at *end*; None if there is none."""
    if at + _BLOCK.size > end:
        return None
    length, value_length, type_ = _BLOCK.unpack_from(data, at)
    key_at = at + _BLOCK.size
    key_end = _find_nul(data, key_at, min(end, key_at + _LONGEST_KEY_BYTES))
    if length < _BLOCK.size or type_ > 1 or key_end is None or key_end == key_at:
        return None
    key = _decode(data[key_at:key_end])
    if not (key.isascii() and key.isprintable()):
        return None
    value = key_end + 2
    padded = value + -value % 4
    if not any(data[value:padded]):
        value = padded
    return _Block(key, min(value, end), value_length, min(max(at + length, key_end + 2), end))


def _whole_text(data: bytes, block: _Block, end: int) -> _Block:
    """Return *block* up to the end of its text, if its length leaves out a part of that."""
    stated_end = min(block.value + 2 * block.value_length, end)
    if stated_end <= block.end or _find_nul(data, block.value, block.end) is not None:
        return block
    nul = _find_nul(data, block.value, stated_end)
    return block if nul is None else block._replace(end=nul + 2)


def _find_nul(data: bytes, start: int, end: int) -> int | None:
    """Return where the first NUL of UTF-16 from *start* lies; None if there is none before *end*."""
    at = data.find(b"\0\0", start, end)
    while at >= 0 and (at - start) % 2:
        at = data.find(b"\0\0", at + 1, end)
    return None if at < 0 else at


def _decode(data: bytes) -> str:
    return data[: len(data) & ~1].decode("utf-16-le", "replace")
