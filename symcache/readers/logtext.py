"""Lines of a debugger's transcript, whatever wrote it: encodings, line ends and the traces of progress counters."""

from __future__ import annotations

import codecs
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.view import ByteView

__all__ = ["iter_lines", "text_encoding"]

_CHUNK_BYTES = 1 << 16
# The longest lines that say anything hold two paths.
_LONGEST_LINE_BYTES = 2048
# A counter goes back with CR or backspaces, and what follows is glued to it: each piece counts as a line.
_LINE_END = re.compile(rb"[\r\n\b\0\f\v]+")


def text_encoding(head: bytes) -> str | None:
    """Return the UTF-16 flavour that *head* is written in; None for an encoding that keeps ASCII bytes.

    ``.logopen /u`` writes UTF-16 with a byte order mark; without one, NUL in every second byte gives it away.
    """
    if head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return "utf-16"
    pairs = len(head) // 2
    if pairs >= 8 and head[1::2].count(0) > pairs * 3 // 4:
        return "utf-16-le"
    return None


def iter_lines(view: ByteView) -> Iterator[str]:
    """Yield the lines that are not blank, no-break spaces and tabs as blanks, at most 2 KiB of each.

    UTF-8, where a line is not that Windows-1252, or UTF-16.
    """
    for raw in _split(_chunks(view)):
        line = _decode(raw).replace("\xa0", " ").replace("\t", "    ").rstrip()
        if line:
            yield line


def _chunks(view: ByteView) -> Iterator[bytes]:
    """Yield the bytes of *view*, UTF-16 as UTF-8."""
    encoding = text_encoding(view.read(0, min(256, view.size)))
    decoder = codecs.getincrementaldecoder(encoding)("replace") if encoding else None
    for offset in range(0, view.size, _CHUNK_BYTES):
        data = view.read(offset, min(_CHUNK_BYTES, view.size - offset))
        yield data if decoder is None else decoder.decode(data).encode("utf-8", "replace")


def _split(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Cut at line ends; of a line without end only the start is kept."""
    rest = b""
    for chunk in chunks:
        *lines, rest = _LINE_END.split(rest[:_LONGEST_LINE_BYTES] + chunk)
        for line in lines:
            yield line[:_LONGEST_LINE_BYTES]
    yield rest[:_LONGEST_LINE_BYTES]


def _decode(line: bytes) -> str:
    line = line.removeprefix(codecs.BOM_UTF8)
    for encoding in ("utf-8", "cp1252"):
        try:
            return line.decode(encoding)
        except UnicodeDecodeError:
            continue
    return line.decode("latin-1")
