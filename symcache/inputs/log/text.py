"""Lines of a debugger's transcript, whatever carried it: encodings, line ends, counters, colours and markup."""

from __future__ import annotations

import codecs
import re
from html import unescape
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.view import ByteView

__all__ = ["iter_lines", "plain_text", "text_encoding"]


_CHUNK_BYTES = 1 << 16
# The longest lines that say anything hold two paths.
_LONGEST_LINE_BYTES = 2048
# A counter goes back with CR or backspaces, and what follows is glued to it: each piece counts as a line. In a saved
# page tags end a line, too.
_LINE_END = re.compile(
    rb"[\r\n\b\0\f\v]+|<(?:br|/?(?:p|div|pre|tr|li|h[1-6]|blockquote))\b[^<>\r\n]{0,200}>", re.IGNORECASE
)
# A terminal's sequences: operating system commands, control sequences (written out, too), the two-character ones.
_ESCAPE = re.compile(
    r"\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]|(?:\^\[|\u241b)\[[0-9;]*m|\x1b[ -/]*[0-~]"
)
# No other tag is one: `<symbol_path>` and `vector<int>` stand in transcripts.
_TAG = re.compile(
    r"</?(?:a|b|body|code|details|em|font|head|html|i|ol|samp|span|strong|summary|table|tbody|(t[dh])|tt|ul)"
    r"(?:\s[^<>]{0,400})?/?>",
    re.IGNORECASE,
)
# Ends in a semicolon, and means what debuggers print; more would be read into the names of files.
_ENTITY = re.compile(r"&(?:nbsp|gt|lt|amp|quot|apos|#\d{1,6}|#x[0-9A-Fa-f]{1,5});")
# Markdown's backslash and a word processor's quotation mark for the grave accent within an address.
_ACCENT = re.compile(r"(?<=[0-9A-Fa-f]{8})(?:\\`|[\u2018\u2019\u00b4\u2032])(?=[0-9A-Fa-f]{8})")
# No path has these behind a backslash.
_ESCAPED = re.compile(r"\\(?=[<>|])")
_BLANKS = str.maketrans(
    dict.fromkeys(map(ord, "\xa0\u2002\u2003\u2007\u2009\u202f"), " ") | dict.fromkeys(map(ord, "\xad\u200b\ufeff"))
)


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
    """Yield the lines that are not blank, as `plain_text`, at most 2 KiB of each.

    UTF-8, where a line is not that Windows-1252, or UTF-16.
    """
    for raw in _split(_chunks(view)):
        line = plain_text(_decode(raw)).rstrip()
        if line:
            yield line


def plain_text(line: str) -> str:
    """Return *line* as a debugger printed it: without colours, tags and escapes, every kind of blank as blanks."""
    if "\x1b" in line or "\x9b" in line or "[" in line:
        line = _ESCAPE.sub("", line)
    if "<" in line:
        line = _TAG.sub(lambda tag: " " if tag[1] else "", line)
    if "&" in line:
        # Twice: a page that shows the source of a page escapes the ampersands, too.
        line = _ENTITY.sub(_meant, _ENTITY.sub(_meant, line))
    line = _ESCAPED.sub("", _ACCENT.sub("`", line))
    return line.translate(_BLANKS).replace("\t", "    ")


def _meant(entity: re.Match[str]) -> str:
    return unescape(entity[0])


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
