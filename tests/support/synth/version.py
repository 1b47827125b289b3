"""Writes version resources and the tables that lead to them, right and in the ways in which compilers got them wrong.

Source: learn.microsoft.com, "VS_VERSIONINFO structure" and the pages of its members; MicrosoftDocs/win32 pe-format.md,
"The .rsrc Section".
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Numbers", "VersionPlan", "fixed_bytes", "resource_bytes", "version_bytes"]

Numbers = tuple[int, int, int, int]
_VERSION_TYPE = 16
_SUBTABLE = 1 << 31


@dataclass(frozen=True, slots=True)
class VersionPlan:
    """A version resource.

    Attributes:
        texts: By language and code page in hexadecimal digits (``040904b0``): name and text of each.
        translations: Language and code page of each pair in VarFileInfo's Translation; None leaves out VarFileInfo.
        file: Numbers of the file's version; None leaves out the VS_FIXEDFILEINFO.
        product: Numbers of the product's version.
        flags: File flags.
        mask: Which of the flags are valid.
        translations_first: Write VarFileInfo before StringFileInfo.
        text_length: How lengths of texts are stated: ``characters`` (right), ``bytes`` or ``zero``.
        block_length: How lengths of blocks with texts are stated: ``right``, ``without text``, or ``short``: with the
            text's length in characters, where bytes would be right.
        fixed_length: Length of the VS_FIXEDFILEINFO as stated; None for the right one.
        root_length: Length of the whole as stated; None for the right one.
        padded: Pad to 32 bits.
        terminated: End texts with a NUL.
    """

    texts: Mapping[str, Mapping[str, str]]
    translations: Sequence[tuple[int, int]] | None = ((0x409, 0x4B0),)
    file: Numbers | None = (1, 2, 3, 4)
    product: Numbers = (5, 6, 7, 8)
    flags: int = 0
    mask: int = 0x3F
    translations_first: bool = False
    text_length: str = "characters"
    block_length: str = "right"
    fixed_length: int | None = None
    root_length: int | None = None
    padded: bool = True
    terminated: bool = True


def fixed_bytes(file: Numbers, product: Numbers, *, flags: int = 0, mask: int = 0x3F) -> bytes:
    """Return a VS_FIXEDFILEINFO."""
    pairs = [(one << 16 | two) for numbers in (file, product) for one, two in (numbers[:2], numbers[2:])]
    return struct.pack("<13I", 0xFEEF04BD, 0x10000, *pairs, mask, flags, 0x40004, 2, 0, 0, 0)


def version_bytes(plan: VersionPlan) -> bytes:
    """Return the resource."""
    fixed = b"" if plan.file is None else fixed_bytes(plan.file, plan.product, flags=plan.flags, mask=plan.mask)
    strings = _block(plan, "StringFileInfo", children=[_table(plan, *item) for item in plan.texts.items()])
    children = [strings]
    if plan.translations is not None:
        pairs = b"".join(struct.pack("<HH", *pair) for pair in plan.translations)
        var = _block(plan, "VarFileInfo", children=[_block(plan, "Translation", pairs)])
        children.insert(0 if plan.translations_first else 1, var)
    length = len(fixed) if plan.fixed_length is None else plan.fixed_length
    data = _block(plan, "VS_VERSION_INFO", fixed, length, children=children)
    return data if plan.root_length is None else struct.pack("<H", plan.root_length) + data[2:]


def _table(plan: VersionPlan, language: str, texts: Mapping[str, str]) -> bytes:
    children = []
    for name, text in texts.items():
        value = text.encode("utf-16-le") + b"\0\0" * plan.terminated
        stated = {"characters": len(value) // 2, "bytes": len(value), "zero": 0}[plan.text_length]
        data = _block(plan, name, value, stated, kind=1)
        missing = {"right": 0, "without text": len(value), "short": len(value) // 2}[plan.block_length]
        children.append(struct.pack("<H", len(data) - missing) + data[2:])
    return _block(plan, language, kind=1, children=children)


def _block(
    plan: VersionPlan,
    key: str,
    value: bytes = b"",
    value_length: int | None = None,
    *,
    kind: int = 0,
    children: Sequence[bytes] = (),
) -> bytes:
    """Return a block; every block begins at a multiple of 4 bytes, so that padding does not depend on the place."""
    out = bytearray(struct.pack("<HHH", 0, len(value) if value_length is None else value_length, kind))
    out += key.encode("utf-16-le") + b"\0\0"
    for part in (value, *children):
        if part and plan.padded:
            out += bytes(-len(out) % 4)
        out += part
    return struct.pack("<H", len(out) & 0xFFFF) + bytes(out[2:])


def resource_bytes(
    resources: Sequence[tuple[int | str, int, bytes]], rva: int, *, other_types: Sequence[int] = (3, 24)
) -> bytes:
    """Return a resource section with version resources.

    Args:
        resources: Name or id, language and content of each, those of one name together.
        rva: Where the section lies.
        other_types: Ids of further types of resources, which have none.
    """
    names: dict[int | str, list[tuple[int, bytes]]] = {}
    for name, language, content in resources:
        names.setdefault(name, []).append((language, content))
    types = sorted({*other_types, *([_VERSION_TYPE] if names else [])})
    name_table = 16 + 8 * len(types)
    empty_table = name_table + 16 + 8 * len(names)
    language_table = empty_table + 16
    description = language_table + sum(16 + 8 * len(each) for each in names.values())
    content_at = description + 16 * len(resources)
    texts_at = content_at + sum(len(content) + -len(content) % 4 for _, _, content in resources)

    types_part = _table_bytes(
        [(id_, _SUBTABLE | (name_table if id_ == _VERSION_TYPE else empty_table)) for id_ in types]
    )
    name_entries: list[tuple[int, int]] = []
    language_part, description_part, content_part, texts_part = b"", b"", b"", b""
    for name, each in names.items():
        id_ = name if isinstance(name, int) else _SUBTABLE | (texts_at + len(texts_part))
        if isinstance(name, str):
            texts_part += struct.pack("<H", len(name)) + name.encode("utf-16-le")
        name_entries.append((id_, _SUBTABLE | (language_table + len(language_part))))
        entries = []
        for language, content in each:
            entries.append((language, description + len(description_part)))
            description_part += struct.pack("<IIII", rva + content_at + len(content_part), len(content), 0, 0)
            content_part += content + bytes(-len(content) % 4)
        language_part += _table_bytes(entries)
    names_part = _table_bytes(name_entries) + _table_bytes([])
    return types_part + names_part + language_part + description_part + content_part + texts_part


def _table_bytes(entries: Sequence[tuple[int, int]]) -> bytes:
    named = sum(id_ >= _SUBTABLE for id_, _ in entries)
    head = struct.pack("<IIHHHH", 0, 0, 4, 0, named, len(entries) - named)
    return head + b"".join(struct.pack("<II", *entry) for entry in entries)
