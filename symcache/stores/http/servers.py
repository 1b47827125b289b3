"""What is known of symbol servers before they are asked: the public ones as data, others from the config file."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import TYPE_CHECKING
from urllib.parse import SplitResult, urlsplit

from symcache.identity import DbgKey, ImageKey, Pdb2Key, PdbKey, PortablePdbKey
from symcache.sympath import MICROSOFT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from symcache.config import ServerEntry
    from symcache.identity import Key

__all__ = [
    "SERVERS",
    "Hints",
    "Holding",
    "LetterCase",
    "Server",
    "entry_for",
    "hints_for",
    "name_as_asked",
    "server_for",
]


PORTS = {"http": 80, "https": 443}


class Holding(StrEnum):
    """Kinds of files that a server may have."""

    PDB = "pdb"
    PORTABLE = "portable"
    IMAGE = "image"

    @property
    def plural(self) -> str:
        """What such files are called."""
        return "portable PDBs" if self is Holding.PORTABLE else "PDBs" if self is Holding.PDB else "images"


class LetterCase(StrEnum):
    """How a server compares the letters of a path with those of its files.

    ``lower`` compares exactly as well, and has only names and ids in lower case.
    """

    ANY = "any"
    EXACT = "exact"
    EXACT_NAME = "exact-name"
    LOWER = "lower"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True)
class Hints:
    """Which questions are worth asking a server.

    Attributes:
        plain: It has files under their own names.
        compressed: It has cabinets, named with an underscore at the end.
        compressed_first: Cabinets are asked for before plain files.
        pointers: It may have ``file.ptr``.
        two_tier: Its store has two tiers; None asks it for ``index2.txt`` once.
        ranges: It can send parts of a file.
        holds: Kinds of files it has.
        letter_case: How it compares names and ids; a client that spells them as usual is right with all but ``lower``.
        forbidden_is_missing: Its 403 means that it has no such file.
        checksum: It wants ``SymbolChecksum`` with a portable PDB.
    """

    plain: bool = True
    compressed: bool = True
    compressed_first: bool = False
    pointers: bool = False
    two_tier: bool | None = None
    ranges: bool = True
    holds: tuple[Holding, ...] = tuple(Holding)
    letter_case: LetterCase = LetterCase.UNKNOWN
    forbidden_is_missing: bool = False
    checksum: bool = False

    def spell(self, part: str) -> str:
        """Return *part* of a path as the server has it."""
        return part.lower() if self.letter_case is LetterCase.LOWER else part

    def refusal(self, key: Key) -> str | None:
        """Return why the server need not be asked for *key*, in a few words; None if it may have it."""
        match key:
            case PortablePdbKey():
                kind = Holding.PORTABLE
            case PdbKey() | Pdb2Key() | DbgKey():
                kind = Holding.PDB
            case ImageKey():
                kind = Holding.IMAGE
            case _:  # of no known kind, so it may lie anywhere
                return None
        return None if kind in self.holds else f"not asked, as it has no {kind.plural}"


@dataclass(frozen=True, slots=True)
class Server:
    """A public symbol server.

    Attributes:
        name: What it is called.
        url: What its URLs begin with.
        hints: What is worth asking it.
        note: What else a user may want to know.
    """

    name: str
    url: str
    hints: Hints
    note: str


_IMAGES_ALONE = Hints(holds=(Holding.IMAGE,))

# Sources: windows-driver-docs, microsoft-public-symbols (msdl); tecken's settings and download documentation (Mozilla);
# NationalSecurityAgency/ghidra#3109 (the makers of graphics drivers); symbolicator's compatibility page (NuGet, letter
# case). Of those without hints only the address is known.
SERVERS = (
    Server(
        "Microsoft",
        MICROSOFT,
        Hints(compressed=False, two_tier=False, letter_case=LetterCase.ANY),
        "public PDBs and images; files of a new build can be missing for days",
    ),
    Server(
        "Mozilla",
        "https://symbols.mozilla.org",
        Hints(
            plain=False,
            compressed_first=True,
            two_tier=False,
            holds=(Holding.PDB, Holding.IMAGE),
            letter_case=LetterCase.EXACT_NAME,
        ),
        "has cabinets alone; /try holds trial builds; wants a user agent that tells who asks",
    ),
    Server(
        "Chromium",
        "https://chromium-browser-symsrv.commondatastorage.googleapis.com",
        Hints(letter_case=LetterCase.EXACT),
        "PDBs can be larger than 4 GiB",
    ),
    Server("Electron", "https://symbols.electronjs.org", Hints(), "cannot be browsed"),
    Server("NVIDIA", "https://driver-symbols.nvidia.com", _IMAGES_ALONE, "images alone, no PDBs"),
    Server("AMD", "https://download.amd.com/dir/bin", _IMAGES_ALONE, "images alone, no PDBs"),
    Server("AMD 2018", "https://download.amd.com/dir/bin_2018", _IMAGES_ALONE, "images alone, no PDBs"),
    Server("Intel", "https://software.intel.com/sites/downloads/symbols", _IMAGES_ALONE, "images alone, no PDBs"),
    Server(
        "NuGet",
        "https://symbols.nuget.org/download/symbols",
        Hints(compressed=False, two_tier=False, holds=(Holding.PORTABLE,), checksum=True),
        "portable PDBs alone, and only for who knows their checksum",
    ),
    Server("Unity", "https://symbolserver.unity3d.com", Hints(), ""),
    Server("Citrix", "https://ctxsym.citrix.com/symbols", Hints(), ""),
    Server("Autodesk", "http://symbols.autodesk.com/symbols", Hints(), ""),
    Server("Rhino", "http://s3.symbols.rhino3d.com/symbols/dujour", Hints(), ""),
    Server("LibreOffice", "http://dev-downloads.libreoffice.org/symstore/symbols", Hints(), ""),
    Server(
        "Random ASCII",
        "https://randomascii-symbols.commondatastorage.googleapis.com",
        Hints(letter_case=LetterCase.EXACT),
        "",
    ),
)


def hints_for(url: str, configured: Iterable[ServerEntry] = ()) -> Hints:
    """Return what is worth asking the server behind *url*: the public server's hints, where the config says no other.

    Args:
        url: Of the store, or of anything below it.
        configured: What the config file says of servers.
    """
    server = server_for(url)
    hints = Hints() if server is None else server.hints
    entry = entry_for(url, configured)
    if entry is None:
        return hints
    said = {item.name: getattr(entry, item.name, None) for item in fields(Hints)}
    if entry.holds is not None:
        said["holds"] = tuple(map(Holding, entry.holds))
    if entry.letter_case is not None:
        said["letter_case"] = LetterCase.LOWER if entry.letter_case == "lower" else LetterCase.EXACT
    return replace(hints, **{name: value for name, value in said.items() if value is not None})


def server_for(url: str) -> Server | None:
    """Return the public server behind *url*, http and https alike; None for any other."""
    return max(
        (server for server in SERVERS if _covers(server.url, url, same_scheme=False)),
        key=lambda server: len(server.url),
        default=None,
    )


def entry_for(url: str, configured: Iterable[ServerEntry]) -> ServerEntry | None:
    """Return what the config file says of *url*; of several entries the longest, of equals the first.

    An entry holds credentials, so scheme, host and port have to be its own.
    """
    return max(
        (entry for entry in configured if _covers(entry.url, url, same_scheme=True)),
        key=lambda entry: len(_segments(entry.url)),
        default=None,
    )


def name_as_asked(name: str, configured: Iterable[ServerEntry]) -> str:
    """Return *name*, a server's URL, with a mark of how it is asked if the config file says something of it.

    Who is asked otherwise, as somebody else or with other questions, may be told otherwise. The mark is a hash of what
    is said, and of a secret only that there is one.
    """
    entry = entry_for(name, configured)
    if entry is None:
        return name
    said = [(item.name, getattr(entry, item.name)) for item in fields(entry) if item.name not in {"url", "name"}]
    shown = [(name, bool(value) if name in {"password", "token"} else str(value)) for name, value in said]
    return f"{name}#{hashlib.sha256(repr(shown).encode()).hexdigest()[:12]}"


def _covers(prefix: str, url: str, *, same_scheme: bool) -> bool:
    ours, theirs = urlsplit(prefix), urlsplit(url)
    if (ours.hostname, _odd_port(ours)) != (theirs.hostname, _odd_port(theirs)):
        return False
    begin = _segments(prefix)
    return (ours.scheme == theirs.scheme or not same_scheme) and _segments(url)[: len(begin)] == begin


def _odd_port(parts: SplitResult) -> int | None:
    return None if parts.port == PORTS.get(parts.scheme) else parts.port


def _segments(url: str) -> list[str]:
    return [part for part in urlsplit(url).path.split("/") if part]
