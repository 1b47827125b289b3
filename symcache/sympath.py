r"""The symbol path: the text of ``_NT_SYMBOL_PATH``, taken apart, printed back and turned into chains of stores.

    path    := element *( ";" element )
    element := folder | "cache*" [folder] | "srv*" store *( "*" store ) | "symsrv*" dll "*" store *( "*" store )
    store   := "" | folder | \\host\share[\…] | http(s)://…

Nothing here touches a disk or the environment; whether ``C:\sym`` means anything on this system is decided later.
Source: windows-driver-docs, symbol-path and advanced-symsrv-use; win32, using-symsrv.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit, urlunsplit

from symcache.errors import SymbolPathError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "MICROSOFT",
    "Cache",
    "Chain",
    "DefaultPlace",
    "Element",
    "Folder",
    "HttpPlace",
    "LocalPlace",
    "Place",
    "ResolvedElement",
    "ResolvedPlace",
    "SymbolPath",
    "UncPlace",
    "chains",
    "parse_symbol_path",
    "redact_url",
    "with_store",
]

MICROSOFT = "https://msdl.microsoft.com/download/symbols"

_MOST_STORES = 10
_STANDARD_DLL = "symsrv.dll"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")  # two characters at least: C: is a drive
_KEYWORDS = frozenset({"srv", "symsrv", "cache"})
_PASTED = re.compile(r"\s*(?:(?:set|setx|export)\s|\$env:|\.sympath|\.symfix|_NT_\w+\s*=)", re.IGNORECASE)
_SECRETS = re.compile(
    r"(?P<keep>(?:https?:|//)[\\/]*)(?P<blot>[^\r\n]*@)|(?P<query>(?<!\\)\?[^*;\r\n]*)", re.IGNORECASE
)


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
    """The default downstream store: what an empty token stands for."""

    def __str__(self) -> str:
        return ""


ResolvedPlace: TypeAlias = LocalPlace | UncPlace | HttpPlace
Place: TypeAlias = ResolvedPlace | DefaultPlace


@dataclass(frozen=True, slots=True)
class Folder:
    """A plain folder: files lie in it under their names alone."""

    place: LocalPlace | UncPlace

    def __str__(self) -> str:
        return str(self.place)


@dataclass(frozen=True, slots=True)
class Cache:
    """``cache*``: a store that is filled with what any element to its right delivers."""

    place: LocalPlace | UncPlace | DefaultPlace

    def __str__(self) -> str:
        return f"cache*{self.place}"


@dataclass(frozen=True, slots=True)
class Chain:
    """``srv*``: stores from the bottom-most on; what a later one has is copied into every earlier one.

    Attributes:
        stores: At least one.
        dll: What ``symsrv*`` names; None for ``srv*``, which means ``symsrv.dll``.
    """

    stores: tuple[Place, ...]
    dll: str | None = None

    def __str__(self) -> str:
        head = "srv" if self.dll is None else f"symsrv*{self.dll}"
        return "*".join([head, *map(str, self.stores)])


Element: TypeAlias = Folder | Cache | Chain


@dataclass(frozen=True, slots=True)
class SymbolPath:
    """A whole symbol path; ``str()`` gives the text back that parses to it, credentials and all."""

    elements: tuple[Element, ...]

    def __str__(self) -> str:
        return ";".join(map(str, self.elements))

    def redacted(self) -> str:
        """Return the text for reports and logs: no URL in it shows a user, password, query or fragment."""
        return ";".join(map(str, map(_redact_element, self.elements)))


@dataclass(frozen=True, slots=True)
class ResolvedElement:
    """One element, ready to be walked.

    Attributes:
        stores: Places with a folder per key, bottom-most first, those behind HTTP last. What one of them has is
            copied into all before it and opened from the first.
        folder: A plain folder that is searched by file name when none of *stores* has the file; None for chains.
    """

    stores: tuple[ResolvedPlace, ...]
    folder: LocalPlace | UncPlace | None = None


def parse_symbol_path(text: str) -> SymbolPath:
    r"""Return the elements of *text*.

    Keywords count in any letter case. Blanks round elements and stores are dropped, empty elements too, and a line
    break separates elements as ``;`` does, because paths get pasted. Several URLs may end a chain, tried in order,
    though Microsoft's debuggers want one chain for each.

    Raises:
        SymbolPathError: Another shape; it points at the first character that does not fit, and shows no credentials.
    """
    try:
        return _parse(text)
    except _Misfit as error:
        raise SymbolPathError(error.problem, text=_mask(text), position=error.position) from None


def redact_url(url: str) -> str:
    """Return *url* without user, password, query and fragment, where tokens and signatures stand."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that is not well formed"
    return urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))


def chains(symbol_path: SymbolPath, default_store: Path) -> tuple[ResolvedElement, ...]:
    r"""Return the elements of *symbol_path* in the order they are tried, with every rule of propagation applied.

    - ``cache*`` is an element of its own and stands before the stores of every element to its right.
    - An empty token becomes *default_store*; ``srv*`` alone is *default_store* filled from Microsoft's server.
    - A chain that would begin with a URL gets *default_store* in front, as nothing can be opened from HTTP.
    - ``srv*\\host\share`` alone stays alone: its files are opened where they lie.
    """
    default = LocalPlace(str(default_store))
    caches: tuple[ResolvedPlace, ...] = ()
    resolved = []
    for element in symbol_path.elements:
        match element:
            case Cache(DefaultPlace()):
                caches = _unique((*caches, default))
                resolved.append(ResolvedElement(caches))
            case Cache(LocalPlace() | UncPlace() as place):
                caches = _unique((*caches, place))
                resolved.append(ResolvedElement(caches))
            case Folder(place):
                resolved.append(ResolvedElement(caches, place))
            case Chain(stores):
                resolved.append(ResolvedElement(_walk_order(caches, stores, default)))
    return tuple(resolved)


def with_store(symbol_path: SymbolPath, folder: Path) -> SymbolPath:
    """Return *symbol_path* with *folder* as the bottom-most store of everything it delivers.

    It takes the place of the bottom-most local store of each chain, and stands in front of a chain that has none.
    Where the first ``cache*`` has stood, and left of plain folders, it becomes ``cache*folder``.
    """
    place = LocalPlace(str(folder))
    elements: list[Element] = []
    for at, element in enumerate(symbol_path.elements):
        match element:
            case Cache():
                return SymbolPath((*elements, Cache(place), *symbol_path.elements[at + 1 :]))
            case Folder():
                elements.extend([element] if Cache(place) in elements else [Cache(place), element])
            case Chain((DefaultPlace(),)):
                elements.append(replace(element, stores=(place, HttpPlace(MICROSOFT))))
            case Chain((LocalPlace() | DefaultPlace(), *rest)):
                elements.append(replace(element, stores=(place, *rest)))
            case Chain((HttpPlace(), *_) as stores):
                urls = (store for store in stores if isinstance(store, HttpPlace))
                elements.append(replace(element, stores=(place, *urls)))
            case Chain(stores):
                elements.append(replace(element, stores=(place, *stores)))
    return SymbolPath(tuple(elements))


class _Misfit(Exception):
    def __init__(self, problem: str, position: int) -> None:
        super().__init__(problem, position)
        self.problem = problem
        self.position = position


@dataclass(frozen=True, slots=True)
class _Piece:
    """A part of the text without the blanks round it, and where it begins."""

    text: str
    at: int


def _parse(text: str) -> SymbolPath:
    if _PASTED.match(text):
        raise _Misfit("this is a command; give the path alone, which begins after it", 0)
    for match in re.finditer(r'["\x00-\x08\x0b\x0c\x0e-\x1f\x7f]', text):
        problem = "leave out quotation marks" if match[0] == '"' else "control characters have no place in it"
        raise _Misfit(problem, match.start())
    elements: list[Element] = []
    dll: str | None = None
    for piece in _split(_Piece(text, 0), r"[;\r\n]"):
        if not piece.text:
            continue
        element = _parse_element(piece)
        if isinstance(element, Chain):
            named = (element.dll or _STANDARD_DLL).lower()
            if dll not in {None, named}:
                raise _Misfit(f"one path uses one symbol server DLL, and {dll} came first", piece.at)
            dll = named
        elements.append(element)
    if not elements:
        raise _Misfit(f"it is empty; write for example srv*C:\\sym*{MICROSOFT}", 0)
    return SymbolPath(tuple(elements))


def _split(piece: _Piece, separator: str) -> Iterator[_Piece]:
    begin = 0
    for end in [*(match.start() for match in re.finditer(separator, piece.text)), len(piece.text)]:
        part = piece.text[begin:end]
        yield _Piece(part.strip(), piece.at + begin + len(part) - len(part.lstrip()))
        begin = end + 1


def _parse_element(piece: _Piece) -> Element:
    head, *rest = _split(piece, r"\*")
    keyword = head.text.lower()
    if not rest:
        if keyword in _KEYWORDS:
            raise _Misfit(f"{head.text} is followed by '*'; a folder of that name is written .\\{head.text}", head.at)
        place = _parse_place(head)
        if isinstance(place, HttpPlace):
            raise _Misfit("a server is only asked by a chain; write srv* in front of the URL", head.at)
        assert not isinstance(place, DefaultPlace)
        return Folder(place)
    match keyword:
        case "cache":
            return _parse_cache(rest)
        case "srv":
            return Chain(_parse_stores(rest))
        case "symsrv":
            return _parse_symsrv(rest)
    raise _Misfit("what stands before the first '*' is srv, symsrv or cache", head.at)


def _parse_cache(rest: list[_Piece]) -> Cache:
    if len(rest) > 1:
        raise _Misfit("cache* takes one folder", rest[1].at)
    place = _parse_place(rest[0])
    if isinstance(place, HttpPlace):
        raise _Misfit("cache* takes a folder, a server cannot be written", rest[0].at)
    return Cache(place)


def _parse_symsrv(rest: list[_Piece]) -> Chain:
    dll, *stores = rest
    if not dll.text or set(dll.text) & set(":/\\"):
        raise _Misfit(f"symsrv* takes the name of a DLL first: symsrv*{_STANDARD_DLL}*…", dll.at)
    if not stores:
        raise _Misfit("the DLL's name is followed by '*' and a store", dll.at)
    return Chain(_parse_stores(stores), dll.text)


def _parse_stores(pieces: list[_Piece]) -> tuple[Place, ...]:
    if len(pieces) > _MOST_STORES:
        raise _Misfit(f"a chain has at most {_MOST_STORES} stores", pieces[_MOST_STORES].at)
    stores: list[Place] = []
    for number, piece in enumerate(pieces, start=1):
        place = _parse_place(piece)
        # A URL with '*' after it is often written, and harmless: the empty token can only mean the store in front.
        harmless = isinstance(place, DefaultPlace) and number == len(pieces)
        if stores and isinstance(stores[-1], HttpPlace) and not (harmless or isinstance(place, HttpPlace)):
            raise _Misfit("nothing but URLs can follow a URL in a chain, a server cannot be written", piece.at)
        stores.append(place)
    return tuple(stores)


def _parse_place(piece: _Piece) -> Place:
    text = piece.text
    if not text:
        return DefaultPlace()
    if text.startswith("\\\\"):
        return _parse_unc(piece)
    scheme = _SCHEME.match(text)
    if scheme is None:
        return LocalPlace(text)
    if scheme[1].lower() not in {"http", "https"}:
        raise _Misfit(f"{scheme[1]}: is not a kind of store; there are folders, http:// and https://", piece.at)
    if scheme[2] is None:
        raise _Misfit(f"a URL begins with {scheme[1]}://", piece.at + scheme.end())
    return _parse_url(piece)


def _parse_unc(piece: _Piece) -> LocalPlace | UncPlace:
    r"""``\\?\C:\…`` and ``\\.\…`` are names of local things, ``\\?\UNC\host\share`` is a share's long form."""
    rest = piece.text[2:]
    if rest[:2] in {"?\\", ".\\"}:
        if rest[2:6].lower() != "unc\\":
            return LocalPlace(piece.text)
        rest = rest[6:]
    host, _, path = rest.partition("\\")
    if not host or not path.partition("\\")[0]:
        raise _Misfit("a share is written \\\\host\\share", piece.at)
    return UncPlace(piece.text)


def _parse_url(piece: _Piece) -> HttpPlace:
    if blank := re.search(r"[\s\\]", piece.text):
        raise _Misfit(f"a URL has no {blank[0]!r}", piece.at + blank.start())
    try:
        parts = urlsplit(piece.text)
        if not parts.hostname or parts.port == 0:
            raise _Misfit("a host is missing, or its port is not one", piece.at)
    except ValueError:
        raise _Misfit("this URL is not well formed", piece.at) from None
    return HttpPlace(piece.text)


def _walk_order(
    caches: tuple[ResolvedPlace, ...], stores: tuple[Place, ...], default: LocalPlace
) -> tuple[ResolvedPlace, ...]:
    if stores == (DefaultPlace(),):
        return _unique((*caches, default, HttpPlace(MICROSOFT)))
    folders = tuple(store for store in stores if not isinstance(store, HttpPlace))
    urls = tuple(store for store in stores if isinstance(store, HttpPlace))
    walked = (*caches, *(default if isinstance(store, DefaultPlace) else store for store in folders), *urls)
    return _unique(walked if not isinstance(walked[0], HttpPlace) else (default, *walked))


def _unique(places: tuple[ResolvedPlace, ...]) -> tuple[ResolvedPlace, ...]:
    return tuple(dict.fromkeys(places))


def _redact_element(element: Element) -> Element:
    if not isinstance(element, Chain):
        return element
    stores = (HttpPlace(store.redacted) if isinstance(store, HttpPlace) else store for store in element.stores)
    return replace(element, stores=tuple(stores))


def _mask(text: str) -> str:
    """Blot out user, password and query letter for letter, so that positions stay right."""
    return _SECRETS.sub(lambda match: (match["keep"] or "") + "x" * len(match["blot"] or match["query"]), text)
