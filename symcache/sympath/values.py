"""The parts of a symbol path as values, which print as they are written."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeAlias

from symcache.sympath.redact import redact_url

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
    "ResolvedPlace",
    "SymbolPath",
    "UncPlace",
]

MICROSOFT = "https://msdl.microsoft.com/download/symbols"


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

    @property
    def has_server(self) -> bool:
        """Whether any element asks a server over HTTP; ``srv*`` alone asks Microsoft's."""
        chains = (element.stores for element in self.elements if isinstance(element, Chain))
        return any(
            stores == (DefaultPlace(),) or any(isinstance(store, HttpPlace) for store in stores) for stores in chains
        )

    def redacted(self) -> str:
        """Return the text for reports and logs: no URL in it shows a user, password, query or fragment."""
        return ";".join(map(str, map(_redact_element, self.elements)))


def _redact_element(element: Element) -> Element:
    if not isinstance(element, Chain):
        return element
    stores = (HttpPlace(store.redacted) if isinstance(store, HttpPlace) else store for store in element.stores)
    return replace(element, stores=tuple(stores))
