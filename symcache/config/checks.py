"""What the value of a key may be: one reader for each kind of value, and the reader of a table of keys."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

from symcache.errors import ConfigError, SymbolPathError
from symcache.sympath import ChainElement, FolderElement, HttpPlace, SymbolPath, UncPlace

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from symcache.sympath import Environment

__all__ = [
    "HOLDS",
    "Read",
    "key",
    "number",
    "read_auth",
    "read_command",
    "read_connections",
    "read_flag",
    "read_header_name",
    "read_header_text",
    "read_holds",
    "read_letter_case",
    "read_networks",
    "read_path",
    "read_proxy",
    "read_server_url",
    "read_symbol_path",
    "read_table",
    "read_text",
    "read_texts",
    "read_token",
    "read_token_hashes",
    "read_transport",
    "read_unc_map",
    "read_users",
    "table",
    "tables",
    "whole",
]

Read: TypeAlias = Callable[[object, str], object]
"""Takes a value as TOML has it and where it stands; returns ours, None for "not set"; raises `ConfigError`."""

HOLDS = ("pdb", "portable", "image")

_LETTER_CASES = ("given", "lower")
_TRANSPORTS = ("auto", "httpx")
_AUTHS = ("negotiate", "ntlm")
_PROXY_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})

_USER = re.compile(r"[^:]+:scrypt:[0-9]{1,2}:[0-9a-f]{32}:[0-9a-f]{64}")
_TOKEN = re.compile(r"sha256:[0-9a-f]{64}")

_Table = TypeVar("_Table", bound="DataclassInstance")


def key(read: Read) -> Mapping[str, Read]:
    """Return the metadata of a dataclass field that is a key of the config file."""
    return {"read": read}


def whole(low: int, high: int) -> Mapping[str, Read]:
    """Return the metadata of a key that holds a whole number within bounds, both included."""

    def read(value: object, where: str) -> int:
        if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
            raise _unfit(f"a whole number from {low} to {high}", where)
        return value

    return key(read)


def number(low: float, high: float) -> Mapping[str, Read]:
    """Return the metadata of a key that holds a number within bounds, both included."""

    def read(value: object, where: str) -> float:
        if not isinstance(value, int | float) or isinstance(value, bool) or not low <= value <= high:
            raise _unfit(f"a number from {low:g} to {high:g}", where)
        return float(value)

    return key(read)


def table(kind: type[_Table]) -> Mapping[str, Read]:
    """Return the metadata of a key that holds a table."""
    return key(lambda value, where: read_table(kind, value, f"{where}."))


def tables(kind: type[_Table]) -> Mapping[str, Read]:
    """Return the metadata of a key that holds any number of tables of one kind."""

    def read(value: object, where: str) -> tuple[_Table, ...]:
        if not isinstance(value, list):
            raise _unfit("tables headed by two pairs of brackets", where)
        return tuple(read_table(kind, item, f"{where}[{number}].") for number, item in enumerate(value))

    return key(read)


def read_table(kind: type[_Table], value: object, where: str) -> _Table:
    """Return the dataclass *kind* filled from a table; fields that are not keys keep their defaults.

    Args:
        kind: Its fields have metadata made by `key` and its like.
        value: The table, as TOML has it.
        where: What stands before a key's name in an error, its separator included.

    Raises:
        ConfigError: Not a table, a key that is not there or lacking, or a value that is not allowed.
    """
    if not isinstance(value, dict):
        raise _unfit("a table", where.rstrip(".: "))
    known: dict[str, Field[Any]] = {item.name: item for item in fields(kind) if item.metadata}
    for name in value:
        if name not in known:
            import difflib  # noqa: PLC0415

            close = difflib.get_close_matches(name, known, n=1, cutoff=0.75)
            hint = f"did you mean {close[0]}?" if close else "there are " + ", ".join(sorted(known))
            raise ConfigError(f"there is no such key; {hint}", where=where + name)
    for name, item in known.items():
        if name not in value and item.default is MISSING and item.default_factory is MISSING:
            raise ConfigError("this key is needed", where=where + name)
    read = {name: known[name].metadata["read"](item, where + name) for name, item in value.items()}
    return kind(**{name: item for name, item in read.items() if item is not None})


def read_connections(value: object, where: str) -> int | None:
    """Return a number of connections; None for ``auto``."""
    if value == "auto":
        return None
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= 256:
        raise _unfit('"auto" or a whole number from 1 to 256', where)
    return value


def read_transport(value: object, where: str) -> str:
    """Return the name of a transport."""
    if value not in _TRANSPORTS:
        raise _unfit(" or ".join(f'"{transport}"' for transport in _TRANSPORTS), where)
    return str(value)


def read_flag(value: object, where: str) -> bool:
    """Return true or false."""
    if not isinstance(value, bool):
        raise _unfit("true or false", where)
    return value


def read_text(value: object, where: str) -> str:
    """Return one line of text, empty or not."""
    if not isinstance(value, str) or not value.isprintable():
        raise _unfit("one line of text", where)
    return value


def read_header_text(value: object, where: str) -> str:
    """Return one line of ASCII, fit for a header."""
    if not read_text(value, where).isascii():
        raise _unfit("plain ASCII text", where)
    return read_text(value, where)


def read_header_name(value: object, where: str) -> str | None:
    """Return the name of a header; None if it is empty."""
    name = read_text(value, where)
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise _unfit("the name of a header, such as 'PRIVATE-TOKEN'", where)
    return name or None


def read_command(value: object, where: str) -> tuple[str, ...]:
    """Return a program and its arguments; an empty list for none."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item.isprintable() for item in value):
        raise _unfit("a list of a program and its arguments, such as ['gh', 'auth', 'token']", where)
    return tuple(value)


def read_auth(value: object, where: str) -> str:
    """Return how one signs in."""
    if value not in _AUTHS:
        raise _unfit(" or ".join(f'"{auth}"' for auth in _AUTHS), where)
    return str(value)


def read_token(value: object, where: str) -> str | None:
    """Return one line of ASCII, fit for a header; None if it is empty."""
    return read_header_text(value, where) or None


def read_texts(value: object, where: str) -> tuple[str, ...]:
    """Return a list of lines of text."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item and item.isprintable() for item in value):
        raise _unfit("a list of texts, none of them empty", where)
    return tuple(value)


def read_networks(value: object, where: str) -> tuple[str, ...]:
    """Return addresses and networks, IPv4 or IPv6."""
    import ipaddress  # noqa: PLC0415

    texts = read_texts(value, where)
    for text in texts:
        try:
            ipaddress.ip_network(text)
        except ValueError:
            raise _unfit("a list of addresses and networks, such as '10.0.0.5' and '10.1.0.0/16'", where) from None
    return texts


def read_users(value: object, where: str) -> tuple[str, ...]:
    """Return users with the hashes of their passwords."""
    texts = read_texts(value, where)
    if not all(_USER.fullmatch(text) for text in texts):
        raise _unfit("a list of 'name:hash', as symcache serve --hash-password prints it", where)
    return texts


def read_token_hashes(value: object, where: str) -> tuple[str, ...]:
    """Return hashes of tokens."""
    texts = read_texts(value, where)
    if not all(_TOKEN.fullmatch(text) for text in texts):
        raise _unfit("a list of 'sha256:' and 64 hex digits, as symcache serve --new-token prints it", where)
    return texts


def read_path(value: object, where: str) -> Path | None:
    """Return a whole path with ``~`` filled in; a relative one would mean another place in every folder."""
    try:
        path = Path(read_text(value, where)).expanduser()
    except RuntimeError:
        raise _unfit("a whole path; there is no home folder for ~ to stand for", where) from None
    if value and not path.is_absolute():
        raise _unfit("a whole path from the root on, or one that begins with ~", where)
    return path if value else None


def read_proxy(value: object, where: str) -> str | None:
    """Return the URL of a proxy, empty for ``none``; ``host:port``, as ``_NT_SYMBOL_PROXY`` has it, means HTTP."""
    text = read_text(value, where).strip()
    if text.lower() in {"", "none"}:
        return "" if text else None
    url = text if "://" in text else f"http://{text}"
    try:
        parts = urlsplit(url)
        usable = parts.scheme in _PROXY_SCHEMES and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable:
        raise _unfit("host:port, a URL with http, https, socks4, socks5 or socks5h, or none", where)
    return url


def read_server_url(value: object, where: str) -> str:
    """Return a URL without secrets in it."""
    try:
        elements = _parse(f"srv*{read_text(value, where)}").elements
    except SymbolPathError as error:
        raise ConfigError(error.problem, where=where) from None
    match elements:
        case (ChainElement((HttpPlace(url) as place,)),) if place.redacted == url:
            return url
    raise _unfit("one URL without user, password and query; username and password are keys of their own", where)


def read_holds(value: object, where: str) -> tuple[str, ...]:
    """Return kinds of files."""
    if not value or not isinstance(value, list) or not all(item in HOLDS for item in value):
        raise _unfit("a list of " + ", ".join(f'"{kind}"' for kind in HOLDS), where)
    return tuple(value)


def read_letter_case(value: object, where: str) -> str:
    """Return how names and ids are spelt."""
    if value not in _LETTER_CASES:
        raise _unfit(" or ".join(f'"{letter_case}"' for letter_case in _LETTER_CASES), where)
    return str(value)


def read_unc_map(value: object, where: str) -> Mapping[str, Path]:
    """Return folders by the share that is mounted there."""
    if not isinstance(value, dict):
        raise _unfit("a table of shares and folders", where)
    folders = {}
    for share, folder in value.items():
        if not _is_share(share):
            raise _unfit(r"named by a share, '\\host\share' in single quotes", f"{where}.{share}")
        path = read_path(folder, f"{where}.{share}")
        if path is None:
            raise _unfit("a folder", f"{where}.{share}")
        folders[share] = path
    return folders


def read_symbol_path(value: object, where: str, around: Environment | None = None) -> SymbolPath | None:
    """Return a symbol path, None for an empty text; lines separate elements as ``;`` does.

    Without *around*, what stands for something else is left as it is.
    """
    if not isinstance(value, str):
        raise _unfit("a symbol path", where)
    try:
        return _parse(value, around) if value.strip() else None
    except SymbolPathError as error:
        place = f"(at character {error.position + 1} of {error.text!r})"
        raise ConfigError(f"{error.problem} {place}", where=where) from None


def _parse(text: str, around: Environment | None = None) -> SymbolPath:
    from symcache.sympath import parse_symbol_path  # noqa: PLC0415 - most runs have no text to parse

    return parse_symbol_path(text, around)


def _is_share(text: str) -> bool:
    try:
        elements = _parse(text).elements
    except SymbolPathError:
        return False
    return len(elements) == 1 and isinstance(elements[0], FolderElement) and isinstance(elements[0].place, UncPlace)


def _unfit(allowed: str, where: str) -> ConfigError:
    return ConfigError(f"this must be {allowed}", where=where)
