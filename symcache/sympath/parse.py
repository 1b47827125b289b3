"""From the text of a symbol path to its values, with errors that point at a character."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from symcache.errors import SymbolPathError
from symcache.sympath.values import (
    MICROSOFT,
    Cache,
    Chain,
    DefaultPlace,
    Element,
    Folder,
    HttpPlace,
    LocalPlace,
    Place,
    SymbolPath,
    UncPlace,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["parse_symbol_path"]

_MOST_STORES = 10
_STANDARD_DLL = "symsrv.dll"
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):(//)?")  # two characters at least: C: is a drive
_KEYWORDS = frozenset({"srv", "symsrv", "cache"})
_PASTED = re.compile(r"\s*(?:(?:set|setx|export)\s|\$env:|\.sympath|\.symfix|_NT_\w+\s*=)", re.IGNORECASE)
_SECRETS = re.compile(
    r"(?P<keep>(?:https?:|//)[\\/]*)(?P<blot>[^\r\n]*@)|(?P<query>(?<!\\)\?[^*;\r\n]*)", re.IGNORECASE
)


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


def _mask(text: str) -> str:
    """Blot out user, password and query letter for letter, so that positions stay right."""
    return _SECRETS.sub(lambda match: (match["keep"] or "") + "x" * len(match["blot"] or match["query"]), text)
