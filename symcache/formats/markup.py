"""HTML, XML and JSON that came in place of a file, recognised by their first bytes."""

from __future__ import annotations

import re
from enum import StrEnum

HEAD_BYTES = 1024
"""How much of the beginning `find_markup` wants to see; it makes do with less."""

_UTF8_MARK = b"\xef\xbb\xbf"
_UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
_BLANKS = b" \t\r\n\f"
# Comments, declarations and blanks that may come before the first element.
_PROLOGUE = re.compile(rb"(?:\s+|<!--.*?-->|<\?.*?\?>)*", re.DOTALL)
_HTML = re.compile(rb"<(?:!doctype\s+html|(?:html|head|body|title|meta|script|link|style)\b)", re.IGNORECASE)
_JSON = re.compile(rb'\{\s*(?:"|\})|\[\s*(?:[{"\]])')


class Markup(StrEnum):
    """A kind of text, as a report calls it."""

    HTML = "an HTML page"
    XML = "XML"
    JSON = "JSON"


def find_markup(head: bytes) -> Markup | None:
    """Return what kind of text begins with *head*; None for everything else.

    No format of symbols or images begins like one of them.

    Source: WHATWG, MIME Sniffing, section 7.1 (the elements by which a page is known); RFC 8259 for JSON.
    """
    text = _as_text(head)
    if text.startswith(b"<"):
        begin = _PROLOGUE.match(text)
        rest = text if begin is None else text[begin.end() :]
        if _HTML.match(rest):
            return Markup.HTML
        if text.startswith(b"<?xml"):
            return Markup.XML
        # A comment whose end is further on: nothing but a page begins so.
        return Markup.HTML if rest.startswith(b"<!--") or not rest else None
    return Markup.JSON if _JSON.match(text) else None


def could_be_markup(head: bytes) -> bool:
    """Return whether *head*, however short, could be the beginning of what `find_markup` knows."""
    is_cut_mark = any(mark.startswith(head) for mark in (_UTF8_MARK, *_UTF16_MARKS))
    return is_cut_mark or _as_text(head)[:1] in {b"", b"<", b"{", b"["}


def _as_text(head: bytes) -> bytes:
    if head.startswith(_UTF16_MARKS):
        head = head[2:].replace(b"\0", b"")
    return head.removeprefix(_UTF8_MARK).lstrip(_BLANKS)
