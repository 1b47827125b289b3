"""The parts of a symbol path as values whose ``str()`` is their text, and removing credentials from such texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TypeAlias
from urllib.parse import urlsplit, urlunsplit

MICROSOFT = "https://msdl.microsoft.com/download/symbols"

_NOT_A_URL = "an address that is not well formed"
_QUERY = re.compile(r"(?<!\\)\?[^*;\r\n]*")
# A user name can begin after the slashes of a URL, complete or not.
_AUTHORITY = re.compile(r"https?:[\\/]*|//[\\/]*", re.IGNORECASE)
# A user name without a scheme: a colon that belongs neither to a drive nor to a scheme.
_BARE_USER = re.compile(r"(?!\s*[A-Za-z]:(?:[\\/]|$))(?!\s*https?:)[^:]*:(?!//)", re.IGNORECASE)


def redact_url(url: str) -> str:
    """Return *url* without user, password, query and fragment, which may hold tokens.

    A text with an ``@`` but without a host, or with an invalid port, is not shown at all: a password with a slash in
    it looks like that.
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
    """Return *text* with an x for each character that may belong to a user, password or query.

    That is everything before an ``@``, back to where a user name can begin at the earliest, as a password may hold any
    character. The text need not be a URL, or a symbol path.
    """
    lines = "".join(map(_mask_credentials, text.splitlines(keepends=True)))
    return _QUERY.sub(lambda match: "x" * len(match[0]), lines)


def _mask_credentials(line: str) -> str:
    end = line.rfind("@")
    slashes = _AUTHORITY.search(line, 0, max(end, 0))
    begin = end if slashes is None else slashes.end()
    at = 0
    for piece in re.split(r"[*;]", line[: max(begin, 0)]):
        if _BARE_USER.match(piece):
            begin = at
            break
        at += len(piece) + 1
    return line if begin >= end else line[:begin] + "x" * (end + 1 - begin) + line[end + 1 :]


@dataclass(frozen=True, slots=True)
class LocalPlace:
    r"""A folder on this machine, as written; on another system than Windows ``C:\sym`` stays ``C:\sym``."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True)
class UncPlace:
    r"""A folder of a file server, ``\\host\share`` with or without folders below it."""

    path: str

    def __str__(self) -> str:
        return self.path


@dataclass(frozen=True, slots=True, repr=False)
class HttpPlace:
    """A store behind HTTP; its URL may hold credentials, which ``str()`` prints and ``repr()`` does not."""

    url: str

    @property
    def redacted(self) -> str:
        """The URL without user, password, query and fragment."""
        return redact_url(self.url)

    def __str__(self) -> str:
        return self.url

    def __repr__(self) -> str:
        return f"HttpPlace({self.redacted!r})"


@dataclass(frozen=True, slots=True)
class DefaultPlace:
    """The default downstream store: the meaning of an empty token."""

    def __str__(self) -> str:
        return ""


ResolvedPlace: TypeAlias = LocalPlace | UncPlace | HttpPlace
Place: TypeAlias = ResolvedPlace | DefaultPlace


@dataclass(frozen=True, slots=True)
class FolderElement:
    """A plain folder of files, which are found by their names."""

    place: LocalPlace | UncPlace

    def __str__(self) -> str:
        return str(self.place)


@dataclass(frozen=True, slots=True)
class CacheElement:
    """``cache*``: a store that gets a copy of every file that an element to its right delivers."""

    place: LocalPlace | UncPlace | DefaultPlace

    def __str__(self) -> str:
        return f"cache*{self.place}"


@dataclass(frozen=True, slots=True)
class ChainElement:
    """``srv*``: one or more stores from the bottom-most on; a file of a later one is copied into every earlier one.

    *dll* is what ``symsrv*`` names; None for ``srv*``, which means ``symsrv.dll``.
    """

    stores: tuple[Place, ...]
    dll: str | None = None

    def __str__(self) -> str:
        head = "srv" if self.dll is None else f"symsrv*{self.dll}"
        return "*".join([head, *map(str, self.stores)])


Element: TypeAlias = FolderElement | CacheElement | ChainElement


@dataclass(frozen=True, slots=True)
class SymbolPath:
    """A whole symbol path; ``str()`` returns a text that parses to it, with the credentials."""

    elements: tuple[Element, ...]

    def __str__(self) -> str:
        return ";".join(map(str, self.elements))

    @property
    def has_server(self) -> bool:
        """Whether any element asks a server over HTTP; ``srv*`` alone asks Microsoft's."""
        chains = (element.stores for element in self.elements if isinstance(element, ChainElement))
        return any(
            stores == (DefaultPlace(),) or any(isinstance(each, HttpPlace) for each in stores) for stores in chains
        )

    def redacted(self) -> str:
        """Return the text for reports and logs: no URL in it shows a user, password, query or fragment."""
        return ";".join(map(str, map(_redact_element, self.elements)))


def _redact_element(element: Element) -> Element:
    if not isinstance(element, ChainElement):
        return element
    stores = (HttpPlace(store.redacted) if isinstance(store, HttpPlace) else store for store in element.stores)
    return replace(element, stores=tuple(stores))
