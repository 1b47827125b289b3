"""Answers decided from a request's fields and a file's facts alone: which status, which fields, which bytes."""

from __future__ import annotations

import re
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

__all__ = ["Facts", "Fields", "Headers", "Selected", "header_list", "select"]

Fields: TypeAlias = "Mapping[bytes, bytes]"
"""The fields of a request by lower-case name, as an ASGI server gives them."""

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

_RANGE = re.compile(rb"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE)
_TAGS = re.compile(rb'"[^"]*"')
_LONGEST_DATE = 64


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a file.

    Attributes:
        size_bytes: Its length.
        etag: Strong, with its quotes; empty while the file still arrives.
        modified_s: When it was written, whole seconds since 1970; None while it still arrives.
        headers: The fields of a 200 answer.
    """

    size_bytes: int
    etag: bytes
    modified_s: int | None
    headers: Headers

    @classmethod
    def of(cls, size_bytes: int, modified_ns: int | None = None) -> Facts:
        """Return the facts of a file of that length, written at that time in nanoseconds since 1970."""
        headers = header_list(b"application/octet-stream", size_bytes)
        headers.append((b"accept-ranges", b"bytes"))
        if modified_ns is None:
            return cls(size_bytes, b"", None, headers)
        etag = b'"%x-%x"' % (modified_ns, size_bytes)
        modified_s = modified_ns // 1_000_000_000
        headers += [(b"etag", etag), (b"last-modified", formatdate(modified_s, usegmt=True).encode())]
        return cls(size_bytes, etag, modified_s, headers)


@dataclass(frozen=True, slots=True)
class Selected:
    """How a file is answered.

    Attributes:
        status: 200, 206, 304, 412 or 416.
        headers: Fields of the answer.
        start: Offset of the first byte sent.
        stop: Offset behind the last; equal to *start* for an answer without a body.
    """

    status: int
    headers: Headers
    start: int
    stop: int


def header_list(content_type: bytes, size_bytes: int, extra: Sequence[tuple[bytes, bytes]] = ()) -> Headers:
    """Return the fields of an answer with a body of that type and length."""
    return [
        (b"content-type", content_type),
        (b"content-length", str(size_bytes).encode()),
        (b"x-content-type-options", b"nosniff"),
        *extra,
    ]


def select(facts: Facts, fields: Fields) -> Selected:
    """Return how a file of these *facts* is answered.

    Source: RFC 9110, sections 13.2.2 (order of preconditions) and 14.2 (ranges; several at once may be answered with
    the whole file, and are here).
    """
    if (b"if-match" in fields or b"if-unmodified-since" in fields) and not _is_wanted(facts, fields):
        return Selected(412, header_list(b"text/plain", 0), 0, 0)
    if _is_known(facts, fields):
        kept = [field for field in facts.headers if field[0] in {b"etag", b"last-modified"}]
        return Selected(304, kept, 0, 0)
    whole = Selected(200, facts.headers, 0, facts.size_bytes)
    wanted = fields.get(b"range")
    if wanted is None or not _range_applies(facts, fields):
        return whole
    match = _RANGE.fullmatch(wanted)
    if match is None or match[0][-1:] == b"=" or not (match[1] or match[2]):
        return whole
    return _select_range(facts, match[1], match[2]) or whole


def _select_range(facts: Facts, first: bytes, last: bytes) -> Selected | None:
    size = facts.size_bytes
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= stop:
        fields = header_list(b"text/plain", 0, [(b"content-range", b"bytes */%d" % size), (b"accept-ranges", b"bytes")])
        return Selected(416, fields, 0, 0)
    headers = [field for field in facts.headers if field[0] != b"content-length"]
    headers.append((b"content-length", str(stop - start).encode()))
    headers.append((b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, size)))
    return Selected(206, headers, start, stop)


def _is_known(facts: Facts, fields: Fields) -> bool:
    tags = fields.get(b"if-none-match")
    if tags is not None:
        return bool(facts.etag) and (tags.strip() == b"*" or facts.etag in _TAGS.findall(tags))
    since = _date(fields.get(b"if-modified-since"))
    return since is not None and facts.modified_s is not None and facts.modified_s <= since


def _is_wanted(facts: Facts, fields: Fields) -> bool:
    tags = fields.get(b"if-match")
    if tags is not None:
        return tags.strip() == b"*" or facts.etag in [tag.strip() for tag in tags.split(b",")]
    since = _date(fields.get(b"if-unmodified-since"))
    return since is None or facts.modified_s is None or facts.modified_s <= since


def _range_applies(facts: Facts, fields: Fields) -> bool:
    guard = fields.get(b"if-range")
    if guard is None:
        return True
    if guard.startswith(b'"'):
        return guard == facts.etag
    return facts.modified_s is not None and _date(guard) == facts.modified_s


def _date(text: bytes | None) -> float | None:
    if text is None or len(text) > _LONGEST_DATE:
        return None
    try:
        return parsedate_to_datetime(text.decode("latin-1")).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None
