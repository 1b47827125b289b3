"""From a symbol path to the chains of stores that a request goes through, with variables expanded."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from symcache.sympath.values import (
    MICROSOFT,
    CacheElement,
    ChainElement,
    DefaultPlace,
    Element,
    FolderElement,
    HttpPlace,
    LocalPlace,
    Place,
    ResolvedPlace,
    SymbolPath,
    UncPlace,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

_HOME = re.compile(r"~(?=[\\/]|$)")
_OTHER_HOME = re.compile(r"~\w")
_URL = re.compile(r"https?:", re.IGNORECASE)
_OF_WINDOWS = re.compile(r"[A-Za-z]:|\\\\")
_PERCENT = r"%(?P<percent>[A-Za-z_][\w()]*)%"
_ANY = re.compile(rf"{_PERCENT}|\$(?:env:)?(?P<bare>[A-Za-z_]\w*)|\$\{{(?:env:)?(?P<braced>[^{{}}]*)\}}", re.IGNORECASE)
_PERCENT_ALONE = re.compile(_PERCENT)
_SEPARATES = re.compile(r'[*;"\r\n]')


@dataclass(frozen=True, slots=True)
class Environment:
    """The environment variables and home folder, if there is one, for which a symbol path is expanded."""

    variables: Mapping[str, str]
    home: str | None = None


class ExpansionError(Exception):
    """A variable or ``~`` that cannot be expanded, at character *at* of a place."""

    def __init__(self, problem: str, at: int) -> None:
        super().__init__(problem, at)
        self.problem = problem
        self.at = at


def expand(text: str, environment: Environment) -> str:
    r"""Return the folder or share *text* with ``~`` and variables expanded; a URL as it is.

    In a path that begins with a drive or with ``\\``, ``$`` is an ordinary character: ``\\host\c$`` is a share. After
    an expanded path with slashes, back slashes become slashes, too.

    Raises:
        ExpansionError: A variable that is not set or empty, or holds what separates places; no home folder.
    """
    if _URL.match(text):
        return text  # %C3%A9 and $ are ordinary characters in it
    if _OTHER_HOME.match(text):
        raise ExpansionError(r"~ is your own home folder alone; a folder of that name is written .\~…", 0)
    pattern = _PERCENT_ALONE if _OF_WINDOWS.match(text) else _ANY
    head, tail = "", text
    if _HOME.match(text):
        if not environment.home:
            raise ExpansionError("there is no home folder for ~; write the folder out", 0)
        head, tail = environment.home, text[1:]
    elif first := pattern.match(text):
        head, tail = _value(first, 0, environment), text[first.end() :]
    begin = len(text) - len(tail)
    tail = pattern.sub(lambda match: _value(match, begin, environment), tail)
    return head + (tail.replace("\\", "/") if "/" in head and "\\" not in head else tail)


def _value(match: re.Match[str], begin: int, environment: Environment) -> str:
    at = begin + match.start()
    name = next(group for group in match.groups() if group is not None)
    value = environment.variables.get(name, "").strip()
    if not value:
        raise ExpansionError(f"{match[0]}: the variable is not set; set it, or write out what it should be", at)
    if _SEPARATES.search(value):
        raise ExpansionError(f"{match[0]}: the variable holds more than one place; write them out", at)
    return value


@dataclass(frozen=True, slots=True)
class ResolvedElement:
    """One element of a path: stores, bottom-most first, HTTP servers last, or stores and a plain folder.

    A file of one store is copied into all before it and opened from the first. *folder* is searched by file name if
    none of *stores* has the file.
    """

    stores: tuple[ResolvedPlace, ...]
    folder: LocalPlace | UncPlace | None = None


def chains(symbol_path: SymbolPath, default_store: Path) -> tuple[ResolvedElement, ...]:
    r"""Return the elements of *symbol_path* in the order in which they are tried, with every rule of symsrv applied.

    - ``cache*`` is an element itself, and comes before the stores of every element to its right.
    - An empty token becomes *default_store*; ``srv*`` alone is *default_store* filled from Microsoft's server.
    - A chain that would begin with a URL gets *default_store* in front, as nothing can be opened from HTTP.
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


def with_store(symbol_path: SymbolPath, folder: Path) -> SymbolPath:
    """Return *symbol_path* with *folder* as the bottom-most store of everything it delivers.

    It replaces the bottom-most local store of each chain, and is put in front of a chain that has none. The first
    ``cache*`` becomes ``cache*folder``, which is also put in front of plain folders.
    """
    place = LocalPlace(str(folder))
    elements: list[Element] = []
    for at, element in enumerate(symbol_path.elements):
        match element:
            case CacheElement():
                return SymbolPath((*elements, CacheElement(place), *symbol_path.elements[at + 1 :]))
            case FolderElement():
                elements.extend([element] if CacheElement(place) in elements else [CacheElement(place), element])
            case ChainElement((DefaultPlace(),)):
                elements.append(replace(element, stores=(place, HttpPlace(MICROSOFT))))
            case ChainElement((LocalPlace() | DefaultPlace(), *rest)):
                elements.append(replace(element, stores=(place, *rest)))
            case ChainElement((HttpPlace(), *_) as stores):
                urls = (store for store in stores if isinstance(store, HttpPlace))
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
    store = LocalPlace(str(default_store)) if first is None or isinstance(first, HttpPlace) else first
    return SymbolPath((ChainElement((store, *map(HttpPlace, urls))), *symbol_path.elements))


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
