"""What a request asks for, read from its path alone; the disk is not touched."""

from __future__ import annotations

import ipaddress
import re
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import unquote_to_bytes

from symcache.errors import MalformedInput
from symcache.identity import PdbKey, check_path_part, compressed_name, fold, parse_id
from symcache.stores.http.client import VIA
from symcache.stores.local.tree import Form

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.identity import Key
    from symcache.server.protocol import Exchange

__all__ = ["FileAsked", "Loops", "MalformedPath", "Mark", "NotAFile", "Proxies", "parse_path", "read_in_decimal"]


class Proxies:
    """The proxies that are believed.

    Args:
        trusted: Addresses and networks.
    """

    def __init__(self, trusted: Sequence[str]) -> None:
        self._networks = [ipaddress.ip_network(text) for text in trusted]

    def client_of(self, exchange: Exchange) -> str:
        """Return the address that *exchange* came from: the last one of the chain that is no trusted proxy."""
        client = exchange.scope.get("client")
        address = str(client[0]) if client else ""
        if not self._is_trusted(address):
            return address
        named = exchange.fields.get(b"x-forwarded-for", b"").decode("latin-1").split(",")
        for text in reversed([part.strip() for part in named if part.strip()]):
            if not _is_address(text):
                return address
            address = text
            if not self._is_trusted(text):
                break
        return address

    def _is_trusted(self, address: str) -> bool:
        if not self._networks or not _is_address(address):
            return False
        known = ipaddress.ip_address(address)
        return any(known in network for network in self._networks if network.version == known.version)


def _is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


_MOST_HOPS = 16


class Loops:
    """Finds requests that this server has made itself, by way of others.

    Args:
        run: Names this server; a random text.
    """

    def __init__(self, run: str) -> None:
        self._own = f"symcache-{run}"

    def is_in_one(self, exchange: Exchange) -> bool:
        """Whether *exchange* came from this very server, or by way of too many."""
        via = exchange.fields.get(b"via")
        if via is None:
            return False
        hops = via.decode("latin-1").split(",")
        return len(hops) > _MOST_HOPS or any(self._own in hop.split() for hop in hops)

    @contextmanager
    def noting(self, exchange: Exchange) -> Iterator[None]:
        """Let what is asked of upstreams in a ``with`` block say whom it is for.

        Source: RFC 9110, section 7.6.3: protocol version and a name, nearest hop last.
        """
        before = exchange.fields.get(b"via", b"").decode("latin-1")
        own = f"1.1 {self._own}"
        token = VIA.set(f"{before}, {own}" if before and before.isprintable() else own)
        try:
            yield
        finally:
            VIA.reset(token)


_LONGEST_PATH = 4096
_GUID_DECIMAL = re.compile(r"[0-9A-Fa-f]{32}([0-9]{2,10})")


class MalformedPath(Exception):
    """A path that no file can have."""


class NotAFile(Enum):
    """A path of another shape than a file's."""

    OTHER = "other"


class Mark(Enum):
    """The files that tell what kind of store this is."""

    TWO_TIER = "index2.txt"
    STORE = "pingme.txt"


@dataclass(frozen=True, slots=True)
class FileAsked:
    """A file of a store.

    Attributes:
        key: Whose.
        form: In which form: the file itself, its cabinet, or a pointer to it.
        id_text: The middle part as the client wrote it.
    """

    key: Key
    form: Form
    id_text: str


Asked: TypeAlias = FileAsked | Mark | NotAFile


@lru_cache(maxsize=4096)
def parse_path(raw_path: bytes) -> Asked:
    """Return what *raw_path*, percent-encoded as it was sent, asks for.

    Only the last three parts count: what stands before them may be the prefix of a proxy, or the tier of a store with
    two tiers. Letter case does not count.

    Raises:
        MalformedPath: It is no path, or holds a part that cannot be the name of a file.
    """
    if len(raw_path) > _LONGEST_PATH or not raw_path.startswith(b"/"):
        raise MalformedPath("not a path")
    try:
        # Parted before it is decoded, so that an encoded slash is no slash.
        parts = [unquote_to_bytes(part).decode("utf-8") for part in raw_path[1:].split(b"/")]
    except UnicodeDecodeError as error:
        raise MalformedPath("not UTF-8") from error
    if any(part in {".", ".."} or "/" in part or "\\" in part or "\0" in part for part in parts):
        raise MalformedPath("leads elsewhere")
    last = fold(parts[-1])
    for mark in Mark:
        if last == mark.value:
            return mark
    if len(parts) < 3:
        return NotAFile.OTHER
    name, id_text, file = parts[-3:]
    return _parse_file(name, id_text, file)


def _parse_file(name: str, id_text: str, file: str) -> Asked:
    forms = {"file.ptr": Form.POINTER, fold(compressed_name(name)): Form.COMPRESSED, fold(name): Form.PLAIN}
    form = forms.get(fold(file))
    try:
        if form is None:
            check_path_part(file)
            return NotAFile.OTHER
        return FileAsked(parse_id(name, id_text), form, id_text)
    except MalformedInput as error:
        raise MalformedPath(str(error)) from error


def read_in_decimal(asked: FileAsked) -> PdbKey | None:
    """Return the key that *asked* means if its age is written in decimal; None if that is the same, or cannot be.

    volatility3 and LLDB's locator for symbol servers write ages so.
    """
    match = _GUID_DECIMAL.fullmatch(asked.id_text)
    if match is None or not isinstance(asked.key, PdbKey) or match[1].startswith("0"):
        return None
    age = int(match[1])
    return PdbKey(asked.key.name, asked.key.guid, age) if age < 1 << 32 else None
