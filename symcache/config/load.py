"""Where settings come from: one file and the environment. Nothing else in symcache reads environment variables."""

from __future__ import annotations

import os
import re
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import platformdirs

from symcache.config.values import (
    Config,
    read_header_text,
    read_path,
    read_proxy,
    read_server_url,
    read_symbol_path,
    read_table,
    read_text,
)
from symcache.errors import ConfigError
from symcache.sympath import (
    MICROSOFT,
    ChainElement,
    Environment,
    HttpPlace,
    LocalPlace,
    SymbolPath,
    redact_path,
    redact_text,
    with_bucket,
    with_store,
    with_upstreams,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

_LARGEST_BYTES = 256 << 10
_MOST_DIGITS = 1000
_DEEPEST = 32
# A string that is not closed goes on to the end: to look for it again from each quote would take quadratic time.
_MARK = (
    r'(?s)"""(?:\\.|[^\\])*?(?:"""|\\?\Z)'
    r"|'''.*?(?:'''|\Z)"
    r'|"(?:\\.|[^"\\\n])*"'
    r"|'[^'\n]*'"
    r"|#[^\n]*"
    r"|[\[\]{}\n]"
)


def load_config(
    path: Path | None = None,
    environ: Mapping[str, str] | None = None,
    *,
    symbol_path: str | None = None,
    store: Path | None = None,
    upstreams: Sequence[str] = (),
) -> Config:
    """Read the settings.

    The file is *path*, else what ``SYMCACHE_CONFIG`` names, else ``symcache.toml`` in the user's config folder if it
    is there. The symbol path is *symbol_path*, else ``_NT_ALT_SYMBOL_PATH`` and ``_NT_SYMBOL_PATH``, else the file's,
    else Microsoft's server behind the default store. *store*, else ``SYMCACHE_STORE``, becomes the default store and
    the bottom-most store of the symbol path. ``_NT_SYMBOL_PROXY`` comes before the file's proxy. ``~``, ``$NAME`` and
    ``%NAME%`` in folders and shares of the symbol path and in *store* are filled in.

    *environ* is this process's own where it is None; the other arguments are those of the command line. URLs of
    *upstreams* are asked before all that the symbol path names.

    Raises:
        ConfigError: A file, a variable or an upstream that cannot be used.
        SymbolPathError: *symbol_path* is not a symbol path.
    """
    variables = os.environ if environ is None else environ
    config = _with_secrets(_read_file(path, variables), variables)
    proxy = read_proxy(variables.get("_NT_SYMBOL_PROXY", ""), "_NT_SYMBOL_PROXY")
    if proxy is not None:
        config = replace(config, network=replace(config.network, proxy=proxy))
    around = Environment(variables, _home())
    store = _expand_folder(store, around) if store else read_path(variables.get("SYMCACHE_STORE", ""), "SYMCACHE_STORE")
    if store is not None:
        config = replace(config, store=replace(config.store, folder=store))
    chosen = _choose_path(symbol_path, config, around)
    if chosen == Config().symbol_path:
        # Written out, so that it can be handed to a debugger, whose own default may lie elsewhere.
        chosen = SymbolPath((ChainElement((LocalPlace(str(config.store.folder)), HttpPlace(MICROSOFT))),))
    chosen = chosen if store is None else with_store(chosen, store, is_file=os.path.isfile)
    urls = [read_server_url(url, f"upstream {redact_text(url)}") for url in upstreams]
    chosen = with_upstreams(chosen, urls, config.store.folder)
    if config.store.bucket is not None:
        chosen = with_bucket(chosen, config.store.bucket)
    return replace(config, symbol_path=chosen)


def load_file(path: Path | None = None) -> Config:
    """Read the config file alone, for who needs no symbol path; which file, is as in `load_config`.

    Raises:
        ConfigError: The file cannot be used.
    """
    return _read_file(path, os.environ)


def debugger_variables() -> dict[str, str]:
    """Return the environment variables that Microsoft's debuggers look for symbols by, those that are set."""
    names = ("_NT_SYMBOL_PATH", "_NT_ALT_SYMBOL_PATH", "_NT_SYMBOL_PROXY")
    return {name: os.environ[name] for name in names if os.environ.get(name, "").strip()}


def locate(error: ConfigError, config: Config) -> ConfigError:
    """Return *error*, of which ``where`` is a key alone, with file and line if *config*'s file has that key.

    For settings whose value turns out to be of no use only when it is used.
    """
    path = config.source
    if path is None or not path.is_file():  # a pipe gives what it holds only once
        return error
    import tomllib  # noqa: PLC0415

    try:
        text = path.read_bytes()[:_LARGEST_BYTES].decode("utf-8-sig")
        line = find_line(text, error.where)
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError):  # changed since
        return error
    return error if line is None else ConfigError(error.problem, where=f"{path}: {error.where}", line=line)


def _read_file(path: Path | None, variables: Mapping[str, str]) -> Config:
    if path is None and (named := variables.get("SYMCACHE_CONFIG")):
        path = Path(named)
    elif path is None:
        path = platformdirs.user_config_path("symcache", appauthor=False) / "symcache.toml"
        try:
            if not path.is_file():
                return Config()
        except PermissionError as error:  # the folder of another user, whose HOME was kept
            raise ConfigError(f"it cannot be read: {error.strerror}; is HOME your own?", where=str(path)) from error
    import tomllib  # noqa: PLC0415 - most runs have no file

    where = str(path)
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
        if len(content) > _LARGEST_BYTES:
            raise ConfigError(f"longer than {_LARGEST_BYTES} bytes, so it is no config file", where=where)
        # Windows editors put a byte order mark in front, which TOML does not know.
        text = content.decode("utf-8-sig")
        if (excess := find_excess(text)) is not None:
            raise ConfigError(excess[0], where=where, line=excess[1])
        parsed: dict[str, Any] = tomllib.loads(text)
    except OSError as error:
        raise ConfigError(f"it cannot be read: {error.strerror}", where=where) from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"it is not UTF-8 (at byte {error.start})", where=where) from error
    except tomllib.TOMLDecodeError as error:
        hint = "; write Windows paths in single quotes" if "escape" in str(error) or "hex" in str(error) else ""
        raise ConfigError(f"it is not TOML: {error}{hint}", where=where) from error
    try:
        return replace(read_table(Config, parsed, ""), source=path)
    except ConfigError as error:
        line = find_line(text, error.where)
        raise ConfigError(error.problem, where=f"{path}: {error.where}", line=line) from None


def _with_secrets(config: Config, variables: Mapping[str, str]) -> Config:
    """Fill in what the named variables hold; one that is not set is no error, as not every run asks that server."""
    entries = []
    for number, entry in enumerate(config.server):
        if entry.password_env and (password := variables.get(entry.password_env)):
            entry = replace(entry, password=read_text(password.strip(), entry.password_env))  # noqa: PLW2901
        if entry.token_env and (token := variables.get(entry.token_env)):
            entry = replace(entry, token=read_header_text(token.strip(), entry.token_env))  # noqa: PLW2901
        if entry.token is not None and entry.password is not None:
            problem = f"a token and a password exclude each other, and {entry.url} has both"
            raise locate(ConfigError(problem, where=f"server[{number}]"), config)
        entries.append(entry)
    cluster = config.cluster
    if cluster.password_env and (password := variables.get(cluster.password_env)):
        cluster = replace(cluster, password=read_text(password.strip(), cluster.password_env))
    return replace(config, server=tuple(entries), cluster=cluster)


def _choose_path(symbol_path: str | None, config: Config, around: Environment) -> SymbolPath:
    """Return the path that counts, with what its places stand for filled in."""
    if symbol_path is not None:
        from symcache.sympath import parse_symbol_path  # noqa: PLC0415 - most runs have no text to parse

        return parse_symbol_path(symbol_path, around)
    chosen = _environment_path(around)
    if chosen is not None:
        return chosen
    if config.source is None:
        return config.symbol_path
    # The file was read without the environment, so that a path that does not count cannot be wrong because of it.
    try:
        return read_symbol_path(str(config.symbol_path), "symbol_path", around) or config.symbol_path
    except ConfigError as error:
        raise locate(error, config) from None


def _environment_path(around: Environment) -> SymbolPath | None:
    """Return the path of both variables, the alternative one first.

    Sources disagree: windows-driver-docs, symbol-path, searches ``_NT_ALT_SYMBOL_PATH`` first; win32, symbol-paths,
    names ``_NT_SYMBOL_PATH`` first. The driver documentation is the debugger's own.
    """
    variables = around.variables
    names = [name for name in ("_NT_ALT_SYMBOL_PATH", "_NT_SYMBOL_PATH") if variables.get(name, "").strip()]
    return read_symbol_path(";".join(variables[name] for name in names), " and ".join(names), around)


def _expand_folder(folder: Path, around: Environment) -> Path:
    text = str(folder)
    if re.match(r"(?i)https?:[\\/]", text) or redact_path(text) != text:
        problem = "a store is a folder; servers are named by the symbol path and by upstreams"
        raise ConfigError(problem, where=f"store {redact_text(text)}")
    if not re.search("[~$%]", text):
        return folder
    from symcache.sympath import PlaceError, expand  # noqa: PLC0415 - most runs have nothing to expand

    try:
        return Path(expand(text, around))
    except PlaceError as error:
        raise ConfigError(error.problem, where=f"store {folder}") from None


def _home() -> str | None:
    try:
        return str(Path("~").expanduser())
    except RuntimeError:
        return None


class _Statement(NamedTuple):
    """A key with its value, or a heading, and how deep its brackets are nested."""

    line: int  # from 1
    text: str
    bare: str  # the same without comments and with all strings empty
    depth: int


def find_excess(text: str) -> tuple[str, int] | None:
    """Return what no setting needs and no reader should try, and its line; None if *text* has nothing of that kind.

    tomllib recurses into brackets, takes time with the square of the dots in a key, and Python reads no number of more
    than 4300 digits. *text* need not be TOML.
    """
    for statement in _statements(text):
        if statement.depth > _DEEPEST:
            return f"brackets are nested more than {_DEEPEST} deep", statement.line
        if any(part.count(".") > _DEEPEST for part in statement.bare.split("=")):
            return f"a key has more than {_DEEPEST} dots", statement.line
        if re.search(rf"[0-9][0-9_]{{{_MOST_DIGITS}}}", statement.bare):
            return f"a number has more than {_MOST_DIGITS} digits", statement.line
    return None


def find_line(text: str, key: str) -> int | None:
    """Return the line, from 1, of *key* in *text*, which tomllib has read; for a key that lacks, that of its table.

    *key* is names joined by dots, ``[0]`` after that of a table with two pairs of brackets: ``server[0].url``.
    """
    best: tuple[int, int] | None = None
    for name, line in _names(text):
        is_within = name == key or name.startswith((f"{key}.", f"{key}["))
        if is_within or key.startswith((f"{name}.", f"{name}[")):
            likeness = len(key) if is_within else len(name)
            if best is None or likeness > best[0]:
                best = likeness, line
    return None if best is None else best[1]


def _names(text: str) -> Iterator[tuple[str, int]]:
    """Yield what each statement names, with its heading, and its line."""
    import tomllib  # noqa: PLC0415

    prefix = ""
    headings: Counter[str] = Counter()
    for statement in _statements(text):
        name = ".".join(_descend(tomllib.loads(statement.text)))
        if not statement.bare.startswith("["):
            yield prefix + name, statement.line
            continue
        if statement.bare.startswith("[["):
            headings[name] += 1
            name = f"{name}[{headings[name] - 1}]"
        yield name, statement.line
        prefix = f"{name}."


def _descend(value: Any) -> Iterator[str]:
    """Yield the names that lead into *value* as long as there is one way."""
    while isinstance(value, dict) and len(value) == 1:
        ((name, value),) = value.items()
        yield name


def _statements(text: str) -> Iterator[_Statement]:
    at = begin = depth = deepest = 0
    line = first = 1
    bare: list[str] = []
    for match in re.finditer(_MARK, text + "\n"):
        bare.append(text[at : match.start()])
        at = match.end()
        mark = match[0]
        if mark in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif mark in "]}":
            depth = max(depth - 1, 0)
        if mark in "[]{}":
            bare.append(mark)
        elif mark[0] in "\"'":
            bare.append('""')
        line += mark.count("\n")
        if mark == "\n" and not depth:
            stripped = "".join(bare).strip()
            if stripped:
                yield _Statement(first, text[begin:at], stripped, deepest)
            begin, first, deepest, bare = at, line, 0, []
    if stripped := "".join(bare).strip():
        yield _Statement(first, text[begin:], stripped, deepest)
