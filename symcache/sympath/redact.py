"""Leaving out credentials wherever a URL, or what somebody typed in place of one, is shown again."""

from __future__ import annotations

import re
from urllib.parse import urlsplit, urlunsplit

__all__ = ["redact_text", "redact_url"]

_NOT_A_URL = "an address that is not well formed"
_QUERY = re.compile(r"(?<!\\)\?[^*;\r\n]*")
# Where a user's name can begin: behind the slashes of a URL, complete or not.
_AUTHORITY = re.compile(r"https?:[\\/]*|//[\\/]*", re.IGNORECASE)
# A user's name without any scheme: a colon that belongs neither to a drive nor to a scheme.
_BARE_USER = re.compile(r"(?!\s*[A-Za-z]:(?:[\\/]|$))(?!\s*https?:)[^:]*:(?!//)", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return *url* without user, password, query and fragment, where tokens and signatures stand.

    A text with an ``@`` that has no host in front of a path, or a port that is none, is not shown at all: a password
    with a slash in it looks like that.
    """
    try:
        parts = urlsplit(url)
        is_secret = "@" in url and (not parts.hostname or parts.port == 0)
    except ValueError:
        return _NOT_A_URL
    if is_secret:
        return _NOT_A_URL
    if not (parts.query or parts.fragment or "@" in parts.netloc):
        return url
    shown = urlunsplit(("", parts.netloc.rpartition("@")[2], parts.path, "", ""))
    return f"{url[: len(parts.scheme)]}:{shown}" if parts.scheme else shown


def redact_text(text: str) -> str:
    """Return *text*, blotted out letter for letter where it may hold user, password or query, so that places stay.

    Whatever stands before an ``@`` counts, back to where the user's name can begin at the earliest, as a password may
    hold any character. The text need not be a URL, or a symbol path.
    """
    lines = "".join(map(_blot_credentials, text.splitlines(keepends=True)))
    return _QUERY.sub(lambda match: "x" * len(match[0]), lines)


def _blot_credentials(line: str) -> str:
    end = line.rfind("@")
    begin = _first_authority(line, end)
    return line if begin >= end else line[:begin] + "x" * (end + 1 - begin) + line[end + 1 :]


def _first_authority(line: str, end: int) -> int:
    """Return where the first user's name before *end* can begin; *end* or more if there is none."""
    slashes = _AUTHORITY.search(line, 0, max(end, 0))
    found = end if slashes is None else slashes.end()
    at = 0
    for piece in re.split(r"[*;]", line[: max(found, 0)]):
        if _BARE_USER.match(piece):
            return at
        at += len(piece) + 1
    return found
