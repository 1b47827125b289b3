"""Writes WIM files of one part.

Source: Microsoft's Windows Imaging File Format (WIM) white paper.
"""

from __future__ import annotations

import hashlib
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

from support.synth.ntfs import stored_lzx, xpress

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["WimPlan", "build_wim"]

Tree: TypeAlias = "Mapping[str, Any]"  # names of files with their bytes, of folders with another one

_CHUNK = 32768
_FLAGS = {"none": 0, "xpress": 0x20002, "lzx": 0x40002}


@dataclass(frozen=True, slots=True)
class WimPlan:
    """A WIM file: images by name, how they are compressed, the build its XML document states."""

    images: Mapping[str, Tree]
    compression: str = "none"
    build: tuple[int, int, int, int] = (10, 0, 22621, 1483)
    streams_apart: bool = False  # contents are named by entries of streams, as those of files with several are


def build_wim(plan: WimPlan) -> bytes:
    """Return the whole file."""
    body = bytearray()
    table = bytearray()
    contents: dict[bytes, bytes] = {}
    metadata = [_metadata(tree, contents, plan) for tree in plan.images.values()]
    for data, flags in [*((each, 0) for each in contents.values()), *((each, 2) for each in metadata)]:
        packed = _packed(data, plan.compression)
        table += _resource(len(packed), flags | (4 if plan.compression != "none" else 0), 208 + len(body), len(data))
        table += struct.pack("<HI20s", 1, 1, hashlib.sha1(data, usedforsecurity=False).digest())
        body += packed
    version = "".join(
        f"<{tag}>{number}</{tag}>"
        for tag, number in zip(("MAJOR", "MINOR", "BUILD", "SPBUILD"), plan.build, strict=True)
    )
    xml = "".join(
        f'<IMAGE INDEX="{number}"><WINDOWS><VERSION>{version}</VERSION></WINDOWS><NAME>{name}</NAME></IMAGE>'
        for number, name in enumerate(plan.images, 1)
    )
    document = f"\ufeff<WIM>{xml}</WIM>".encode("utf-16-le")
    table_at = 208 + len(body)
    head = struct.pack("<8sIIII16sHHI", b"MSWIM\0\0\0", 208, 0x10D00, _FLAGS[plan.compression], _CHUNK, bytes(16), 1, 1,
                       len(plan.images))  # fmt: skip
    head += _resource(len(table), 0, table_at, len(table))
    head += _resource(len(document), 0, table_at + len(table), len(document))
    return head.ljust(208, b"\0") + bytes(body) + bytes(table) + document


def _resource(size: int, flags: int, offset: int, original_size: int) -> bytes:
    return size.to_bytes(7, "little") + bytes([flags]) + struct.pack("<QQ", offset, original_size)


def _packed(data: bytes, compression: str) -> bytes:
    if compression == "none":
        return data
    chunks = []
    for at in range(0, len(data), _CHUNK):
        chunk = data[at : at + _CHUNK]
        packed = xpress(chunk) if compression == "xpress" else stored_lzx(chunk)
        chunks.append(packed if len(packed) < len(chunk) else chunk)
    starts, at = b"", 0
    for chunk in chunks[:-1]:
        at += len(chunk)
        starts += struct.pack("<I", at)
    return starts + b"".join(chunks)


def _metadata(tree: Tree, contents: dict[bytes, bytes], plan: WimPlan) -> bytes:
    out = bytearray(struct.pack("<II", 8, 0))
    root_at = len(out)
    out += _entry("", 0x10, 0, bytes(20)) + bytes(8)
    _fill(out, root_at, tree, contents, plan)
    return bytes(out)


def _fill(out: bytearray, folder_at: int, tree: Tree, contents: dict[bytes, bytes], plan: WimPlan) -> None:
    out[folder_at + 16 : folder_at + 24] = struct.pack("<Q", len(out))
    folders = []
    for name, value in tree.items():
        if isinstance(value, bytes):
            hash_ = hashlib.sha1(value, usedforsecurity=False).digest() if value else bytes(20)
            if value:
                contents[hash_] = value
            if plan.streams_apart:
                out += _entry(name, 0x20, 0, bytes(20), 2)
                for stream, its_hash in (("other", bytes(19) + b"\1"), ("", hash_)):
                    length = 38 + 2 * len(stream) + 2 * bool(stream)
                    entry = struct.pack("<QQ20sH", length, 0, its_hash, 2 * len(stream)) + stream.encode("utf-16-le")
                    out += entry.ljust(-(-length // 8) * 8, b"\0")
            else:
                out += _entry(name, 0x20, 0, hash_)
        else:
            folders.append((len(out), value))
            out += _entry(name, 0x10, 0, bytes(20))
    out += bytes(8)
    for at, inner in folders:
        _fill(out, at, inner, contents, plan)


def _entry(name: str, flags: int, folder_at: int, hash_: bytes, streams: int = 0) -> bytes:
    text = name.encode("utf-16-le")
    length = (102 + len(text) + (2 if text else 0) + 7) & ~7
    head = struct.pack("<QIIQ16x24x20s4xQHHH", length, flags, 0xFFFFFFFF, folder_at, hash_, 0, streams, 0, len(text))
    return (head + text).ljust(length, b"\0")
