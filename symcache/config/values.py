"""The settings as values, and what may stand in the config file for each.

A field of a table is the key of that name in the file; ``config/symcache.toml`` explains every one.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias, TypeVar
from urllib.parse import urlsplit

import platformdirs

from symcache.errors import ConfigError, SymbolPathError
from symcache.sympath import (
    MICROSOFT,
    BucketPlace,
    ChainElement,
    DefaultPlace,
    FolderElement,
    HttpPlace,
    SymbolPath,
    UncPlace,
)

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

    from symcache.sympath import Environment

_MIB = 1 << 20
_PROXY_SCHEMES = frozenset({"http", "https", "socks4", "socks4a", "socks5", "socks5h"})
_DAY_S = 24 * 3600
_BY_NAME = "by_filename_compressed/NAME.json.gz"

_Read: TypeAlias = Callable[[Any, str], object]
"""Takes a value as TOML has it and where it stands; returns ours, None for "not set"; raises `ConfigError`."""

_Table = TypeVar("_Table", bound="DataclassInstance")


def _unfit(allowed: str, where: str) -> ConfigError:
    return ConfigError(f"this must be {allowed}", where=where)


def _key(read: _Read) -> Mapping[str, _Read]:
    """Return the metadata of a dataclass field that is a key of the config file."""
    return {"read": read}


def _fit(allowed: str, fits: Callable[[Any], bool], make: Callable[[Any], object] = lambda value: value) -> _Read:
    """Return a reader that takes what *fits*, says what is allowed of all else, and returns what *make* does of it."""

    def read(value: object, where: str) -> object:
        if not fits(value):
            raise _unfit(allowed, where)
        return make(value)

    return read


def _is_number(value: object, kind: Any, low: float, high: float) -> bool:
    return isinstance(value, kind) and not isinstance(value, bool) and low <= value <= high


def _whole(low: int, high: int) -> Mapping[str, _Read]:
    """Return the metadata of a key that holds a whole number within bounds, both included."""
    return _key(_fit(f"a whole number from {low} to {high}", lambda value: _is_number(value, int, low, high)))


def _number(low: float, high: float) -> Mapping[str, _Read]:
    """Return the metadata of a key that holds a number within bounds, both included."""
    allowed = f"a number from {low:g} to {high:g}"
    return _key(_fit(allowed, lambda value: _is_number(value, int | float, low, high), float))


def _one_of(*texts: str) -> Mapping[str, _Read]:
    """Return the metadata of a key that holds one of *texts*."""
    return _key(_fit(" or ".join(f'"{text}"' for text in texts), lambda value: value in texts))


def _list_of(allowed: str, fits: Callable[[str], bool] = lambda _text: True) -> Mapping[str, _Read]:
    """Return the metadata of a key that holds a list of texts that fit, none of them empty."""

    def all_fit(value: object) -> bool:
        return isinstance(value, list) and all(
            isinstance(item, str) and item and item.isprintable() and fits(item) for item in value
        )

    return _key(_fit(f"a list of {allowed}", all_fit, tuple))


def _is_network(text: str) -> bool:
    import ipaddress  # noqa: PLC0415

    try:
        ipaddress.ip_network(text)
    except ValueError:
        return False
    return True


_FLAG = _key(_fit("true or false", lambda value: isinstance(value, bool)))
_CONNECTIONS = _key(
    _fit(
        '"auto" or a whole number from 1 to 256',
        lambda value: value == "auto" or _is_number(value, int, 1, 256),
        lambda value: None if value == "auto" else value,
    )
)
_HOLDS = _key(
    _fit(
        'a list of "pdb", "portable", "image"',
        lambda value: value and isinstance(value, list) and all(item in ("pdb", "portable", "image") for item in value),
        tuple,
    )
)
_TEXTS = _list_of("texts, none of them empty")
_NETWORKS = _list_of("addresses and networks, such as '10.0.0.5' and '10.1.0.0/16'", _is_network)
_NAMES = _list_of(
    "names such as 'symbols.example.com', without scheme and port",
    lambda text: re.fullmatch(r"[A-Za-z0-9_-]{1,63}(\.[A-Za-z0-9_-]{1,63})*", text) is not None,
)
_USERS = _list_of(
    "'name:hash', as symcache serve --hash-password prints it",
    lambda text: re.fullmatch("[^:]+:scrypt:[0-9]{1,2}:[0-9a-f]{32}:[0-9a-f]{64}", text) is not None,
)
_TOKENS = _list_of(
    "'sha256:' and 64 hex digits, as symcache serve --new-token prints it",
    lambda text: re.fullmatch("sha256:[0-9a-f]{64}", text) is not None,
)


def _table(kind: type[_Table]) -> Mapping[str, _Read]:
    """Return the metadata of a key that holds a table."""
    return _key(lambda value, where: read_table(kind, value, f"{where}."))


def _tables(kind: type[_Table]) -> Mapping[str, _Read]:
    """Return the metadata of a key that holds any number of tables of one kind."""

    def read(value: object, where: str) -> tuple[_Table, ...]:
        if not isinstance(value, list):
            raise _unfit("tables headed by two pairs of brackets", where)
        return tuple(read_table(kind, item, f"{where}[{number}].") for number, item in enumerate(value))

    return _key(read)


def read_table(kind: type[_Table], value: object, where: str) -> _Table:
    """Return the dataclass *kind* filled from a table as TOML has it; fields that are not keys keep their defaults.

    *where* is what stands before a key's name in an error, its separator included.

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


def _read_header_name(value: object, where: str) -> str | None:
    """Return the name of a header; None if it is empty."""
    name = read_text(value, where)
    if name and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]*", name):
        raise _unfit("the name of a header, such as 'PRIVATE-TOKEN'", where)
    return name or None


def _read_command(value: object, where: str) -> tuple[str, ...]:
    """Return a program and its arguments; an empty list for none."""
    if not isinstance(value, list) or not all(isinstance(item, str) and item.isprintable() for item in value):
        raise _unfit("a list of a program and its arguments, such as ['gh', 'auth', 'token']", where)
    return tuple(value)


def read_path(value: object, where: str) -> Path | None:
    """Return a whole path with ``~`` filled in; a relative one would mean another place in every folder."""
    text = read_text(value, where)
    if re.match("(?i)(?:s3|gs|az)://", text):
        raise _unfit("a folder; a bucket stands in the symbol path, or in store.bucket", where)
    try:
        path = Path(text).expanduser()
    except RuntimeError:
        raise _unfit("a whole path; there is no home folder for ~ to stand for", where) from None
    if value and not path.is_absolute():
        raise _unfit("a whole path from the root on, or one that begins with ~", where)
    return path if value else None


def _read_folders(value: object, where: str) -> tuple[Path, ...]:
    if not isinstance(value, list):
        raise _unfit("a list of whole paths of folders", where)
    paths = [read_path(each, where) for each in value]
    if None in paths:
        raise _unfit("whole paths of folders, none of them empty", where)
    return tuple(path for path in paths if path is not None)


_FOLDERS = _key(_read_folders)


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


def read_bucket_url(value: object, where: str) -> str | None:
    """Return the URL of a bucket; None for an empty text."""
    text = read_text(value, where).strip()
    if not text:
        return None
    try:
        elements = _parse(f"srv*{text}").elements
    except SymbolPathError as error:
        raise ConfigError(error.problem, where=where) from None
    match elements:
        case (ChainElement((BucketPlace(url),)),):
            return url
        case (ChainElement((HttpPlace(url) as place,)),) if place.redacted == url and urlsplit(url).path.strip("/"):
            return url.rstrip("/")
    raise _unfit("s3://bucket, gs://bucket, az://container or https://server/bucket, with or without a prefix", where)


def _read_own_bucket_url(value: object, where: str) -> str:
    url = read_bucket_url(value, where)
    if url is None:
        raise _unfit("the URL of a bucket, such as 's3://symbols'", where)
    return url


def _read_cluster_url(value: object, where: str) -> str:
    """Return the URL of a Redis server, without secrets in it; empty for none."""
    url = read_text(value, where)
    try:
        parts = urlsplit(url)
        if parts.scheme == "unix":
            is_usable = re.fullmatch("unix:///[^?#]+", url) is not None
        else:
            is_usable = bool(parts.hostname) and parts.port != 0
            is_usable = is_usable and re.fullmatch("rediss?://[^@?#/ ]+(/[0-9]{0,4})?", url) is not None
    except ValueError:
        is_usable = False
    if url and not is_usable:
        allowed = "redis://host:port/database, rediss://… for TLS, or unix:///path, without user, password and query"
        raise _unfit(f"{allowed}; username and password are keys of their own", where)
    return url


def _read_document_url(value: object, where: str) -> str:
    """Return the URL of a document for each name of a file, without secrets in it."""
    url = read_server_url(value, where)
    if "NAME" not in url:
        raise _unfit("a URL in which NAME stands for the name of a file", where)
    return url


def _read_unc_map(value: object, where: str) -> Mapping[str, Path]:
    """Return folders by the share that is mounted there."""
    if not isinstance(value, dict):
        raise _unfit("a table of shares and folders", where)
    folders = {}
    for share, folder in value.items():
        at = f"{where}.{share}"
        if not _is_share(share):
            raise _unfit(r"named by a share, '\\host\share' in single quotes", at)
        path = read_path(folder, at)
        if path is None:
            raise _unfit("a folder", at)
        folders[share] = path
    return folders


def _read_sets(value: object, where: str) -> Mapping[str, tuple[str, ...]]:
    """Return the members of sets of modules by the sets' names."""
    if not isinstance(value, dict):
        raise _unfit("a table of sets and their members", where)
    allowed = "a list of names such as 'ntfs.sys', patterns such as 'ndis*.sys', sets such as '@kernel', and 'file:/…'"
    for name, members in value.items():
        if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}", name) is None:
            raise _unfit("named by letters, digits, - and _", f"{where}.{name}")
        if not isinstance(members, list) or not all(
            isinstance(member, str) and member.strip("@") and member.isprintable() for member in members
        ):
            raise _unfit(allowed, f"{where}.{name}")
    return {name: tuple(members) for name, members in value.items()}


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


def _default_store() -> Path:
    r"""Return where current debuggers keep what they download; elsewhere the user's cache.

    Source: transcripts of WDK 10 debuggers show ``C:\ProgramData\Dbg\sym``.
    """
    if sys.platform == "win32":
        return platformdirs.site_data_path() / "Dbg" / "sym"
    return platformdirs.user_cache_path("symcache", appauthor=False) / "sym"


def _default_documents() -> Path:
    return platformdirs.user_cache_path("symcache", appauthor=False) / "documents"


def bucket_folder(url: str) -> Path:
    """Return the user's folder for what a look through the bucket *url* needs on disk."""
    import hashlib  # noqa: PLC0415 - few runs look through a bucket

    name = hashlib.sha256(url.encode()).hexdigest()[:32]
    return platformdirs.user_cache_path("symcache", appauthor=False) / "buckets" / name


def _default_misses() -> Path:
    return platformdirs.user_cache_path("symcache", appauthor=False) / "misses"


@dataclass(frozen=True, slots=True)
class StoreSettings:
    """``[store]``: *folder* is the default store; *durable* files are flushed to the disk before they are published.

    *locks* is ``auto``, or ``lease`` for lock files that exclude other machines where the file system's own do not.
    *bucket* stands behind the folders of each chain of the symbol path; None for none.
    """

    folder: Path = field(default_factory=_default_store, metadata=_key(read_path))
    bucket: str | None = field(default=None, metadata=_key(read_bucket_url))
    two_tier: bool = field(default=False, metadata=_FLAG)
    durable: bool = field(default=True, metadata=_FLAG)
    locks: str = field(default="auto", metadata=_one_of("auto", "lease"))


@dataclass(frozen=True, slots=True)
class Breaker:
    """``[network.breaker]``: after *failures* in a row a server is left alone, and tried again every *cool_down_s*."""

    failures: int = field(default=5, metadata=_whole(1, 1000))
    cool_down_s: float = field(default=2.0, metadata=_number(0, _DAY_S))


@dataclass(frozen=True, slots=True)
class ParallelRanges:
    """``[network.parallel_ranges]``: files of *from_bytes* and more come in *parts* at once; 1 turns that off."""

    from_bytes: int = field(default=64 * _MIB, metadata=_whole(_MIB, 1 << 50))
    parts: int = field(default=4, metadata=_whole(1, 16))


@dataclass(frozen=True, slots=True)
class Network:
    """``[network]``: how servers are asked.

    *connections* are requests under way at once, over all servers; None finds out how many help. *total_timeout_s* is
    for one file from one server, every try counted; a body slower than *slowest_bytes_per_s* for *slowest_time_s* is
    given up. *proxy* is a URL, with its credentials if any; empty for none,
    None for what the system says. *proxy_script* is the URL or path of a script (PAC), ``auto`` to discover one;
    *no_proxy* lists what ``NO_PROXY`` does, which counts as well. *largest_file_bytes* holds of files as downloaded and
    as expanded.
    """

    connections: int | None = field(default=None, metadata=_CONNECTIONS)
    transport: str = field(default="auto", metadata=_one_of("auto", "httpx"))
    connect_timeout_s: float = field(default=10.0, metadata=_number(0.1, 3600))
    read_timeout_s: float = field(default=30.0, metadata=_number(0.1, 3600))
    total_timeout_s: float = field(default=3600.0, metadata=_number(1, 7 * _DAY_S))
    slowest_bytes_per_s: int = field(default=1024, metadata=_whole(0, 1 << 40))
    slowest_time_s: float = field(default=30.0, metadata=_number(1, 3600))
    retries: int = field(default=4, metadata=_whole(0, 20))
    backoff_s: float = field(default=0.2, metadata=_number(0, 600))
    longest_backoff_s: float = field(default=30.0, metadata=_number(0, 3600))
    proxy: str | None = field(default=None, repr=False, metadata=_key(read_proxy))
    proxy_script: str = field(default="", repr=False, metadata=_key(read_text))
    no_proxy: tuple[str, ...] = field(default=(), metadata=_TEXTS)
    ca_file: Path | None = field(default=None, metadata=_key(read_path))
    user_agent_extra: str = field(default="", metadata=_key(read_header_text))
    netrc: bool = field(default=False, metadata=_FLAG)
    largest_file_bytes: int = field(default=16 << 30, metadata=_whole(_MIB, 1 << 50))
    breaker: Breaker = field(default_factory=Breaker, metadata=_table(Breaker))
    parallel_ranges: ParallelRanges = field(default_factory=ParallelRanges, metadata=_table(ParallelRanges))


@dataclass(frozen=True, slots=True)
class MissSettings:
    """``[misses]``: how long a server's "no such file" is believed; a *ttl_s* of 0 remembers nothing."""

    ttl_s: float = field(default=float(_DAY_S), metadata=_number(0, 90 * _DAY_S))
    folder: Path = field(default_factory=_default_misses, metadata=_key(read_path))


@dataclass(frozen=True, slots=True)
class Inputs:
    """``[inputs]``: how far archives are read; *highest_ratio* is of what one expands to, to its own length."""

    largest_member_bytes: int = field(default=1 << 38, metadata=_whole(_MIB, 1 << 50))
    largest_expanded_bytes: int = field(default=1 << 40, metadata=_whole(_MIB, 1 << 50))
    most_members: int = field(default=100_000, metadata=_whole(1, 10_000_000))
    deepest: int = field(default=3, metadata=_whole(1, 10))
    highest_ratio: int = field(default=10_000, metadata=_whole(10, 1_000_000_000))


@dataclass(frozen=True, slots=True)
class Pointers:
    """``[pointers]``: which targets of ``file.ptr`` are followed, by the beginning of their path; none by default."""

    allow: tuple[str, ...] = field(default=(), metadata=_TEXTS)


@dataclass(frozen=True, slots=True)
class Unc:
    """``[unc]``: the local folder under which a share is mounted, by the share."""

    map: Mapping[str, Path] = field(default_factory=dict, metadata=_key(_read_unc_map))


@dataclass(frozen=True, slots=True)
class BuildSettings:
    """``[builds]``: where the index of Windows builds is, a document for each name of a file.

    In URLs ``NAME`` stands for the name in lower case, ``SHARD`` for the folder of the Insider part. A *folder* of
    documents that were downloaded takes the place of all of them. What is fetched is kept in *cache*, and its server
    asked again when that is *recheck_s* old.
    """

    url: str = field(default=f"https://winbindex.m417z.com/data/{_BY_NAME}", metadata=_key(_read_document_url))
    arm64_url: str = field(
        default=f"https://m417z.com/winbindex-data-arm64/{_BY_NAME}", metadata=_key(_read_document_url)
    )
    insider_url: str = field(
        default="https://m417z.com/winbindex-data-insider/by_filename_compressed/SHARD/NAME.json.gz",
        metadata=_key(_read_document_url),
    )
    folder: Path | None = field(default=None, metadata=_key(read_path))
    cache: Path = field(default_factory=_default_documents, metadata=_key(read_path))
    recheck_s: float = field(default=float(_DAY_S), metadata=_number(0, 365 * _DAY_S))


@dataclass(frozen=True, slots=True)
class Exclusions:
    """``[exclusions]``: files that are never looked up, as names with ``*`` and ``?``."""

    names: tuple[str, ...] = field(default=(), metadata=_TEXTS)


@dataclass(frozen=True, slots=True)
class Serve:
    """``[serve]``: the shared cache, ``symcache serve``; *connections* and *downloads* are those of one worker.

    Without a *private_key* it stands in the file of the *certificate*; without that there is plain HTTP. *users* are
    ``name:hash``, *tokens* and *upload_tokens* are hashes. Clients whose agent fits a pattern of *redirect* get files
    that a bucket has from there, by URLs that are valid for *redirect_s*. 0 means no limit for *largest_store_bytes*,
    never for *unused_for_s* and *verify_every_s*, and any free port; for *watch_poll_s* that the system tells of
    changes.
    """

    host: str = field(default="127.0.0.1", metadata=_key(read_text))
    names: tuple[str, ...] = field(default=(), metadata=_NAMES)
    port: int = field(default=8080, metadata=_whole(0, 65535))
    workers: int = field(default=1, metadata=_whole(1, 64))
    certificate: Path | None = field(default=None, metadata=_key(read_path))
    private_key: Path | None = field(default=None, metadata=_key(read_path))
    patience_s: float = field(default=20.0, metadata=_number(0.1, 3600))
    stream_from_bytes: int = field(default=4 * _MIB, metadata=_whole(0, 1 << 50))
    recheck_misses_s: float = field(default=3600.0, metadata=_number(0, 90 * _DAY_S))
    connections: int = field(default=2000, metadata=_whole(1, 100_000))
    downloads: int = field(default=500, metadata=_whole(1, 100_000))
    keep_alive_s: int = field(default=75, metadata=_whole(1, 3600))
    drain_s: float = field(default=0.0, metadata=_number(0, 3600))
    stop_s: int = field(default=30, metadata=_whole(0, 3600))
    access_log: str = field(default="", metadata=_key(read_text))
    users: tuple[str, ...] = field(default=(), repr=False, metadata=_USERS)
    tokens: tuple[str, ...] = field(default=(), repr=False, metadata=_TOKENS)
    upload_tokens: tuple[str, ...] = field(default=(), repr=False, metadata=_TOKENS)
    trusted_proxies: tuple[str, ...] = field(default=(), metadata=_NETWORKS)
    private_redirects: bool = field(default=False, metadata=_FLAG)
    redirect: tuple[str, ...] = field(default=(), metadata=_TEXTS)
    redirect_s: float = field(default=300.0, metadata=_number(10, 7 * _DAY_S))
    warm_from_page: bool = field(default=True, metadata=_FLAG)
    largest_input_bytes: int = field(default=256 * _MIB, metadata=_whole(0, 1 << 50))
    largest_expanded_bytes: int = field(default=16 << 30, metadata=_whole(_MIB, 1 << 50))
    largest_store_bytes: int = field(default=0, metadata=_whole(0, 1 << 60))
    unused_for_s: float = field(default=0.0, metadata=_number(0, 3650 * _DAY_S))
    prune_every_s: float = field(default=3600.0, metadata=_number(10, 90 * _DAY_S))
    verify_every_s: float = field(default=0.0, metadata=_number(0, 365 * _DAY_S))
    watch: tuple[Path, ...] = field(default=(), metadata=_FOLDERS)
    watch_reports: Path | None = field(default=None, metadata=_key(read_path))
    watch_report_as: str = field(default="txt", metadata=_one_of("txt", "json", "html", "xml", "csv", "md", "log"))
    watch_poll_s: float = field(default=0.0, metadata=_number(0, 3600))


@dataclass(frozen=True, slots=True)
class ClusterSettings:
    """``[cluster]``: the Redis or Valkey server that replicas share; none if *url* is empty.

    *password_env* names the variable that holds the password. Names in that server begin with *prefix*. A file that one
    replica downloads, the others leave to it for *lease_s* after it was last heard of.
    """

    url: str = field(default="", metadata=_key(_read_cluster_url))
    username: str = field(default="", repr=False, metadata=_key(read_text))
    password: str = field(default="", repr=False, metadata=_key(read_text))
    password_env: str = field(default="", metadata=_key(read_text))
    ca_file: Path | None = field(default=None, metadata=_key(read_path))
    prefix: str = field(default="symcache:", metadata=_key(read_text))
    lease_s: float = field(default=10.0, metadata=_number(1, 3600))


@dataclass(frozen=True, slots=True)
class ServerEntry:
    """``[[server]]``: what is known of one server; None where nothing is said, and ``index2.txt`` tells *two_tier*.

    *password_env* and *token_env* name environment variables that hold a secret, *password_keyring* a service of the
    system's keyring, *token_command* a program that prints one. *token_header* takes the place of a bearer token.
    *auth* is ``negotiate`` or ``ntlm``, for *username* or the signed-in user. *username* may be empty, as Azure DevOps
    wants it. Credentials go over plain HTTP where *allow_http* says so. *client_key* is None if it stands in
    *client_certificate*.
    """

    url: str = field(metadata=_key(read_server_url))
    name: str | None = field(default=None, metadata=_key(read_text))
    plain: bool | None = field(default=None, metadata=_FLAG)
    compressed: bool | None = field(default=None, metadata=_FLAG)
    compressed_first: bool | None = field(default=None, metadata=_FLAG)
    pointers: bool | None = field(default=None, metadata=_FLAG)
    two_tier: bool | None = field(default=None, metadata=_FLAG)
    ranges: bool | None = field(default=None, metadata=_FLAG)
    holds: tuple[str, ...] | None = field(default=None, metadata=_HOLDS)
    letter_case: str | None = field(default=None, metadata=_one_of("given", "lower"))
    forbidden_is_missing: bool | None = field(default=None, metadata=_FLAG)
    checksum: bool | None = field(default=None, metadata=_FLAG)
    username: str | None = field(default=None, metadata=_key(read_text))
    password: str | None = field(default=None, repr=False, metadata=_key(read_text))
    password_env: str | None = field(default=None, metadata=_key(read_text))
    password_keyring: str | None = field(default=None, metadata=_key(read_text))
    token: str | None = field(
        default=None, repr=False, metadata=_key(lambda value, where: read_header_text(value, where) or None)
    )
    token_env: str | None = field(default=None, metadata=_key(read_text))
    token_command: tuple[str, ...] = field(default=(), metadata=_key(_read_command))
    token_header: str | None = field(default=None, metadata=_key(_read_header_name))
    auth: str | None = field(default=None, metadata=_one_of("negotiate", "ntlm"))
    allow_http: bool = field(default=False, metadata=_FLAG)
    client_certificate: Path | None = field(default=None, metadata=_key(read_path))
    client_key: Path | None = field(default=None, metadata=_key(read_path))


@dataclass(frozen=True, slots=True)
class BucketEntry:
    """``[[bucket]]``: what is to be known of one bucket; credentials come from the environment and the usual files.

    An ``https://`` *url*, of an S3-compatible server and with the bucket first in its path, is a bucket only with such
    an entry. *endpoint* is the server of one that is called ``s3://``, ``gs://`` or ``az://``. *profile* is a section
    of AWS's files. *checksums* of uploads are SHA-256, which not every S3-compatible server takes. A *read_only* bucket
    is asked as a server is.
    """

    url: str = field(metadata=_key(_read_own_bucket_url))
    endpoint: str | None = field(default=None, metadata=_key(read_server_url))
    region: str | None = field(default=None, metadata=_key(read_text))
    account: str | None = field(default=None, metadata=_key(read_text))
    profile: str | None = field(default=None, metadata=_key(read_text))
    anonymous: bool = field(default=False, metadata=_FLAG)
    letter_case: str = field(default="given", metadata=_one_of("given", "lower"))
    checksums: bool = field(default=True, metadata=_FLAG)
    read_only: bool = field(default=False, metadata=_FLAG)


@dataclass(frozen=True, slots=True)
class Config:
    """Every setting, whatever it came from; *source* is the file that was read, None if there was none."""

    symbol_path: SymbolPath = field(
        default=SymbolPath((ChainElement((DefaultPlace(), HttpPlace(MICROSOFT))),)), metadata=_key(read_symbol_path)
    )
    source: Path | None = None
    store: StoreSettings = field(default_factory=StoreSettings, metadata=_table(StoreSettings))
    network: Network = field(default_factory=Network, metadata=_table(Network))
    misses: MissSettings = field(default_factory=MissSettings, metadata=_table(MissSettings))
    inputs: Inputs = field(default_factory=Inputs, metadata=_table(Inputs))
    pointers: Pointers = field(default_factory=Pointers, metadata=_table(Pointers))
    unc: Unc = field(default_factory=Unc, metadata=_table(Unc))
    exclusions: Exclusions = field(default_factory=Exclusions, metadata=_table(Exclusions))
    builds: BuildSettings = field(default_factory=BuildSettings, metadata=_table(BuildSettings))
    sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict, metadata=_key(_read_sets))
    serve: Serve = field(default_factory=Serve, metadata=_table(Serve))
    cluster: ClusterSettings = field(default_factory=ClusterSettings, metadata=_table(ClusterSettings))
    server: tuple[ServerEntry, ...] = field(default=(), metadata=_tables(ServerEntry))
    bucket: tuple[BucketEntry, ...] = field(default=(), metadata=_tables(BucketEntry))
