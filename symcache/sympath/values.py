"""The parts of a symbol path as values whose ``str()`` is their text, what they mean, and blotting out credentials."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, TypeAlias
from urllib.parse import urlsplit, urlunsplit

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

MICROSOFT = "https://msdl.microsoft.com/download/symbols"

_NOT_A_URL = "an address that is not well formed"
# Compiled where they are used, which most runs do not. A user name can begin after the slashes of a URL, complete or
# not; without a scheme, before a colon that belongs neither to a drive nor to a scheme.
_QUERY = r"(?<!\\)\?[^*;\r\n]*"
_AUTHORITY = r"(?i)https?:[\\/]*|//[\\/]*"
_BARE_USER = r"(?i)(?!\s*[A-Z]:(?:[\\/]|$))(?!\s*https?:)[^:]*:(?!//)"
_USER_IN_PATH = r":(?![\\/])|(?<=[^\\/][^\\/]):"


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
    """Return *text* with an x for each character that may belong to a user, password or query; takes linear time.

    That is everything before an ``@``, back to where a user name can begin at the earliest, as a password may hold any
    character. The text need not be a URL, or a symbol path.
    """
    if "@" in text:
        text = "".join(map(_mask_credentials, text.splitlines(keepends=True)))
    return re.sub(_QUERY, lambda match: "x" * len(match[0]), text) if "?" in text else text


def _mask_credentials(line: str) -> str:
    end = line.rfind("@")
    slashes = re.compile(_AUTHORITY).search(line, 0, max(end, 0))
    begin = end if slashes is None else slashes.end()
    at = 0
    for piece in re.split(r"[*;]", line[: max(begin, 0)]):
        if re.match(_BARE_USER, piece):
            begin = at
            break
        at += len(piece) + 1
    return _mask(line, begin, end) if begin < end else line


def redact_words(text: str) -> str:
    """Return *text*, a message, without a user and password in any of its words, be they names or URLs."""

    def redact(match: re.Match[str]) -> str:
        return redact_url(match[0]) if re.match(r"(?i)https?://", match[0]) else redact_path(match[0])

    return re.sub(r"[^\s'\"*;]+", redact, text) if "@" in text else text


def redact_path(path: str) -> str:
    """Return the name of a file or folder, x for each character of a ``user:password@`` in it; a drive is no user."""
    end = path.rfind("@")
    colon = re.compile(_USER_IN_PATH).search(path, 0, end) if end > 0 else None
    if colon is None:
        return path
    return _mask(path, max(path.rfind("/", 0, colon.start()), path.rfind("\\", 0, colon.start())) + 1, end)


def _mask(text: str, begin: int, end: int) -> str:
    return text[:begin] + "x" * (end + 1 - begin) + text[end + 1 :]


@dataclass(frozen=True, slots=True)
class _Folder:
    path: str

    def __str__(self) -> str:
        return self.path


class LocalPlace(_Folder):
    r"""A folder on this machine, as written; on another system than Windows ``C:\sym`` stays ``C:\sym``."""

    __slots__ = ()


class UncPlace(_Folder):
    r"""A folder of a file server, ``\\host\share`` with or without folders below it."""

    __slots__ = ()


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
class BucketPlace:
    """A bucket of an object store and what all names in it begin with, ``s3://bucket/prefix``; it holds no secret."""

    url: str

    def __str__(self) -> str:
        return self.url


@dataclass(frozen=True, slots=True)
class DefaultPlace:
    """The default downstream store: the meaning of an empty token."""

    def __str__(self) -> str:
        return ""


ResolvedPlace: TypeAlias = LocalPlace | UncPlace | HttpPlace | BucketPlace
Place: TypeAlias = ResolvedPlace | DefaultPlace

REMOTE = (HttpPlace, BucketPlace)
"""Places of which no file can be opened."""


@dataclass(frozen=True, slots=True)
class FolderElement:
    """A plain folder of files, which are found by their names."""

    place: LocalPlace | UncPlace


@dataclass(frozen=True, slots=True)
class CacheElement:
    """``cache*``: a store that gets a copy of every file that an element to its right delivers."""

    place: LocalPlace | UncPlace | DefaultPlace


@dataclass(frozen=True, slots=True)
class ChainElement:
    """``srv*``: one or more stores from the bottom-most on; a file of a later one is copied into every earlier one.

    *dll* is what ``symsrv*`` names; None for ``srv*``, which means ``symsrv.dll``.
    """

    stores: tuple[Place, ...]
    dll: str | None = None


Element: TypeAlias = FolderElement | CacheElement | ChainElement


@dataclass(frozen=True, slots=True)
class SymbolPath:
    """A whole symbol path; ``str()`` returns a text that parses to it, with the credentials."""

    elements: tuple[Element, ...]

    def __str__(self) -> str:
        return ";".join(_write(element, str) for element in self.elements)

    @property
    def has_server(self) -> bool:
        """Whether any element asks a server over HTTP; ``srv*`` alone asks Microsoft's."""
        chains = (element.stores for element in self.elements if isinstance(element, ChainElement))
        return any(
            stores == (DefaultPlace(),) or any(isinstance(each, HttpPlace) for each in stores) for stores in chains
        )

    def redacted(self) -> str:
        """Return the text for reports and logs: it shows no user and password, and no query or fragment of a URL."""
        return ";".join(_write(element, _show) for element in self.elements)


def _write(element: Element, show: Callable[[Place], str]) -> str:
    match element:
        case FolderElement(place):
            return show(place)
        case CacheElement(place):
            return f"cache*{show(place)}"
        case ChainElement(stores, dll):
            return "*".join(["srv" if dll is None else f"symsrv*{dll}", *map(show, stores)])


def _show(place: Place) -> str:
    return place.redacted if isinstance(place, HttpPlace) else redact_path(str(place))


class Environment(NamedTuple):
    """The environment variables and home folder, if there is one, for which a symbol path is expanded."""

    variables: Mapping[str, str]
    home: str | None = None


@dataclass(frozen=True, slots=True)
class ResolvedElement:
    """One element of a path: stores, bottom-most first, buckets and servers last, or stores and a plain folder.

    A file of one store is copied into all before it and opened from the first. *folder* is searched by file name if
    none of *stores* has the file.
    """

    stores: tuple[ResolvedPlace, ...]
    folder: LocalPlace | UncPlace | None = None


def chains(symbol_path: SymbolPath, default_store: Path) -> tuple[ResolvedElement, ...]:
    r"""Return the elements of *symbol_path* in the order in which they are tried, with every rule of symsrv applied.

    - ``cache*`` is an element itself, and comes before the stores of every element to its right.
    - An empty token becomes *default_store*; ``srv*`` alone is *default_store* filled from Microsoft's server.
    - A chain that would begin with a URL or a bucket gets *default_store* in front, as nothing can be opened there.
    - ``srv*\\host\share`` alone stays alone: its files are opened there.
    """
    default = LocalPlace(str(default_store))
    caches: tuple[ResolvedPlace, ...] = ()
    resolved = []
    for element in symbol_path.elements:
        match element:
            case CacheElement(place):
                caches = _unique((*caches, default if isinstance(place, DefaultPlace) else place))
                resolved.append(ResolvedElement(caches))
            case FolderElement(place):
                resolved.append(ResolvedElement(caches, place))
            case ChainElement(stores):
                resolved.append(ResolvedElement(_walk_order(caches, stores, default)))
    return tuple(resolved)


def _walk_order(
    caches: tuple[ResolvedPlace, ...], stores: tuple[Place, ...], default: LocalPlace
) -> tuple[ResolvedPlace, ...]:
    if stores == (DefaultPlace(),):
        return _unique((*caches, default, HttpPlace(MICROSOFT)))
    folders = [store for store in stores if not isinstance(store, REMOTE)]
    urls = [store for store in stores if isinstance(store, REMOTE)]
    walked = (*caches, *(default if isinstance(store, DefaultPlace) else store for store in folders), *urls)
    return _unique(walked if not isinstance(walked[0], REMOTE) else (default, *walked))


def _unique(places: tuple[ResolvedPlace, ...]) -> tuple[ResolvedPlace, ...]:
    return tuple(dict.fromkeys(places))


def with_store(
    symbol_path: SymbolPath, folder: Path, *, is_file: Callable[[str], bool] = lambda _: False
) -> SymbolPath:
    """Return *symbol_path* with *folder* as the bottom-most store of everything it delivers.

    It replaces the bottom-most local store of each chain, and is put in front of a chain that has none, or that begins
    with a bundle: a place of which *is_file* says so. The first
    ``cache*`` becomes ``cache*folder``, which is also put in front of plain folders.
    """
    place = LocalPlace(str(folder))
    elements: list[Element] = []
    is_cached = False
    for at, element in enumerate(symbol_path.elements):
        match element:
            case CacheElement():
                return SymbolPath((*elements, CacheElement(place), *symbol_path.elements[at + 1 :]))
            case FolderElement():
                elements.extend([element] if is_cached else [CacheElement(place), element])
                is_cached = True
            case ChainElement((DefaultPlace(),)):
                elements.append(replace(element, stores=(place, HttpPlace(MICROSOFT))))
            case ChainElement((LocalPlace(path), *_) as stores) if is_file(path):
                elements.append(replace(element, stores=(place, *stores)))
            case ChainElement((LocalPlace() | DefaultPlace(), *rest)):
                elements.append(replace(element, stores=(place, *rest)))
            case ChainElement((HttpPlace() | BucketPlace(), *_) as stores):
                urls = (store for store in stores if isinstance(store, REMOTE))
                elements.append(replace(element, stores=(place, *urls)))
            case ChainElement(stores):
                elements.append(replace(element, stores=(place, *stores)))
    return SymbolPath(tuple(elements))


def with_upstreams(symbol_path: SymbolPath, urls: Sequence[str], default_store: Path) -> SymbolPath:
    """Return *symbol_path* with a chain in front that asks *urls*, in that order, and fills the bottom-most store.

    That is the first store of *symbol_path*; *default_store* if it has none.
    """
    if not urls:
        return symbol_path
    first = next((element.stores[0] for element in chains(symbol_path, default_store) if element.stores), None)
    store = LocalPlace(str(default_store)) if first is None or isinstance(first, REMOTE) else first
    return SymbolPath((ChainElement((store, *map(HttpPlace, urls))), *symbol_path.elements))


def with_bucket(symbol_path: SymbolPath, url: str) -> SymbolPath:
    """Return *symbol_path* with the bucket *url* in each chain, behind its folders and before what is asked after it.

    A chain that has it stays as it is, and so does one that is a single folder, whose files are opened there, if any
    other chain gets the bucket.
    """
    bucket = BucketPlace(url)
    chained = [element.stores for element in symbol_path.elements if isinstance(element, ChainElement)]
    is_alone = all(len(stores) == 1 and isinstance(stores[0], LocalPlace | UncPlace) for stores in chained)
    elements: list[Element] = []
    for element in symbol_path.elements:
        match element:
            case ChainElement((DefaultPlace(),)):
                elements.append(replace(element, stores=(DefaultPlace(), bucket, HttpPlace(MICROSOFT))))
            case ChainElement((LocalPlace() | UncPlace(),)) if not is_alone:
                elements.append(element)
            case ChainElement(stores) if bucket not in stores:
                at = next((at for at, store in enumerate(stores) if isinstance(store, REMOTE)), len(stores))
                elements.append(replace(element, stores=(*stores[:at], bucket, *stores[at:])))
            case _:
                elements.append(element)
    return SymbolPath(tuple(elements))
