"""Files as HTTP sees them: opening them, their validators, conditional requests and ranges."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

__all__ = ["FileInfo", "Headers", "RequestHeaders", "Selection", "header_list", "open_shared", "read_at", "select"]

RequestHeaders: TypeAlias = "Mapping[bytes, bytes]"
"""The headers of a request by lower-case name."""

Headers: TypeAlias = "list[tuple[bytes, bytes]]"

_RANGE = re.compile(rb"bytes=[ \t]*([0-9]{0,19})-([0-9]{0,19})[ \t]*", re.IGNORECASE)
_TAGS = re.compile(rb'"[^"]*"')
_LONGEST_DATE = 64


@dataclass(frozen=True, slots=True)
class FileInfo:
    """What is known of a file.

    Attributes:
        size_bytes: Its length.
        etag: Strong, with its quotes; empty while the file is still downloaded.
        modified_s: When it was written, whole seconds since 1970; None while it is still downloaded.
        headers: Those of a 200 response.
    """

    size_bytes: int
    etag: bytes
    modified_s: int | None
    headers: Headers

    @classmethod
    def of(cls, size_bytes: int, modified_ns: int | None = None) -> FileInfo:
        """Return what is known of a file of that length, written at that time in nanoseconds since 1970."""
        headers = header_list(b"application/octet-stream", size_bytes)
        headers.append((b"accept-ranges", b"bytes"))
        if modified_ns is None:
            return cls(size_bytes, b"", None, headers)
        etag = b'"%x-%x"' % (modified_ns, size_bytes)
        modified_s = modified_ns // 1_000_000_000
        headers += [(b"etag", etag), (b"last-modified", formatdate(modified_s, usegmt=True).encode())]
        return cls(size_bytes, etag, modified_s, headers)


@dataclass(frozen=True, slots=True)
class Selection:
    """How a request for a file is answered.

    Attributes:
        status: 200, 206, 304, 412 or 416.
        headers: Of the response.
        start: Offset of the first byte sent.
        stop: Offset behind the last; equal to *start* for a response without a body.
    """

    status: int
    headers: Headers
    start: int
    stop: int


def header_list(content_type: bytes, size_bytes: int, extra: Sequence[tuple[bytes, bytes]] = ()) -> Headers:
    """Return the headers of a response with a body of that type and length."""
    return [
        (b"content-type", content_type),
        (b"content-length", str(size_bytes).encode()),
        (b"x-content-type-options", b"nosniff"),
        *extra,
    ]


def select(info: FileInfo, headers: RequestHeaders) -> Selection:
    """Return how a request with these *headers* for a file is answered.

    Source: RFC 9110, sections 13.2.2 (order of preconditions) and 14.2 (ranges; a request for several may be answered
    with the whole file, and is here).
    """
    if (b"if-match" in headers or b"if-unmodified-since" in headers) and not _is_wanted(info, headers):
        return Selection(412, header_list(b"text/plain", 0), 0, 0)
    if _is_known(info, headers):
        kept = [header for header in info.headers if header[0] in {b"etag", b"last-modified"}]
        return Selection(304, kept, 0, 0)
    whole = Selection(200, info.headers, 0, info.size_bytes)
    wanted = headers.get(b"range")
    if wanted is None or not _range_applies(info, headers):
        return whole
    match = _RANGE.fullmatch(wanted)
    if match is None or match[0][-1:] == b"=" or not (match[1] or match[2]):
        return whole
    return _select_range(info, match[1], match[2]) or whole


def _select_range(info: FileInfo, first: bytes, last: bytes) -> Selection | None:
    size = info.size_bytes
    if not first:
        start, stop = max(0, size - int(last)), size
    else:
        start, stop = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size or start >= stop:
        extra = [(b"content-range", b"bytes */%d" % size), (b"accept-ranges", b"bytes")]
        return Selection(416, header_list(b"text/plain", 0, extra), 0, 0)
    headers = [header for header in info.headers if header[0] != b"content-length"]
    headers.append((b"content-length", str(stop - start).encode()))
    headers.append((b"content-range", b"bytes %d-%d/%d" % (start, stop - 1, size)))
    return Selection(206, headers, start, stop)


def _is_known(info: FileInfo, headers: RequestHeaders) -> bool:
    tags = headers.get(b"if-none-match")
    if tags is not None:
        return bool(info.etag) and (tags.strip() == b"*" or info.etag in _TAGS.findall(tags))
    since = _date(headers.get(b"if-modified-since"))
    return since is not None and info.modified_s is not None and info.modified_s <= since


def _is_wanted(info: FileInfo, headers: RequestHeaders) -> bool:
    tags = headers.get(b"if-match")
    if tags is not None:
        return tags.strip() == b"*" or info.etag in [tag.strip() for tag in tags.split(b",")]
    since = _date(headers.get(b"if-unmodified-since"))
    return since is None or info.modified_s is None or info.modified_s <= since


def _range_applies(info: FileInfo, headers: RequestHeaders) -> bool:
    guard = headers.get(b"if-range")
    if guard is None:
        return True
    if guard.startswith(b'"'):
        return guard == info.etag
    return info.modified_s is not None and _date(guard) == info.modified_s


def _date(text: bytes | None) -> float | None:
    if text is None or len(text) > _LONGEST_DATE:
        return None
    try:
        return parsedate_to_datetime(text.decode("latin-1")).timestamp()
    except (ValueError, OverflowError, TypeError, IndexError):
        return None


if sys.platform == "win32":
    import ctypes
    import msvcrt

    _create_file = ctypes.WinDLL("kernel32", use_last_error=True).CreateFileW
    _create_file.restype = ctypes.c_void_p
    _word, _pointer = ctypes.c_uint32, ctypes.c_void_p
    _create_file.argtypes = [ctypes.c_wchar_p, _word, _word, _pointer, _word, _word, _pointer]
    _READ, _SHARE_ALL, _OPEN_EXISTING, _NORMAL = 0x80000000, 0x7, 3, 0x80
    _INVALID = ctypes.c_void_p(-1).value

    def open_shared(path: str | Path) -> int:
        """Return a descriptor for reading *path*; others may rename and remove the file while it is open.

        Python's own open would keep a file from being published or pruned while it is read.

        Raises:
            OSError: It cannot be opened.
        """
        file = _create_file(str(path), _READ, _SHARE_ALL, None, _OPEN_EXISTING, _NORMAL, None)
        if file is None or file == _INVALID:
            raise ctypes.WinError(ctypes.get_last_error())
        return msvcrt.open_osfhandle(file, os.O_RDONLY | os.O_BINARY)

    def read_at(fd: int, size_bytes: int, offset: int) -> bytes:
        """Return up to *size_bytes* at *offset*."""
        os.lseek(fd, offset, os.SEEK_SET)
        return os.read(fd, size_bytes)

else:

    def open_shared(path: str | Path) -> int:
        """Return a descriptor for reading *path*; others may rename and remove the file while it is open.

        Raises:
            OSError: It cannot be opened.
        """
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def read_at(fd: int, size_bytes: int, offset: int) -> bytes:
        """Return up to *size_bytes* at *offset*."""
        return os.pread(fd, size_bytes, offset)
