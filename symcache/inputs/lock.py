"""Lock files, which state a set of symbol files byte for byte, and reports of runs: both JSON with a line for a file.

A lock file is ``symcache.lock/1``: *files* with ``index``, ``kind``, ``module``, ``bytes``, ``sha256`` and, where it
is known, ``origin``; *missing* with ``index`` or null, ``kind``, ``module`` and ``cause``. Length and hash are those of
the uncompressed file. A report is ``symcache.report/1``, as ``warm`` and ``check`` write it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from symcache.errors import InputError, MalformedInput, UnknownFormat
from symcache.identity import DbgKey, ImageKey, base_name, fold, parse_index, printable
from symcache.inputs.records import (
    Input,
    InputKind,
    Module,
    PdbFormat,
    PdbReference,
    Recorded,
    Unreadable,
    reference_to,
)
from symcache.sympath import redact_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.inputs.records import Record

LARGEST_BYTES = 32 << 20
"""The longest lock file or report that is read, in bytes; enough for some 100,000 files."""

SCHEMA = "symcache.lock/1"
_REPORT_SCHEMA = "symcache.report/1"
# What a document is made of takes memory by the piece, up to thirty times its length where the pieces are empty.
_MOST_PIECES = 1 << 21
_LONGEST_TEXT = 2048
_MOST_PROBLEMS = 100
_DECLARED = re.compile(r'"schema"\s*:\s*"symcache\.(lock|report|modules)/')
_KINDS = {"lock": InputKind.LOCK, "report": InputKind.REPORT, "modules": InputKind.SCAN}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CAUSE = re.compile(r"[a-z][a-z-]{0,39}")
_FILE_KINDS = frozenset({"pdb", "image", "dbg", "other"})


def file_kind(key: Key) -> str:
    """Return what kind of file *key* names: ``pdb``, ``image``, ``dbg``, ``other``."""
    if reference_to(key) is not None:
        return "pdb"
    return "dbg" if isinstance(key, DbgKey) else "image" if isinstance(key, ImageKey) else "other"


@dataclass(frozen=True, slots=True)
class LockedFile:
    """A file that a lock file states, or with a *cause* one that was missing when it was written."""

    module: str  # name of the module that needs it
    kind: str  # ``pdb``, ``image``, ``dbg``, ``other``
    key: Key | None  # None only for what was missing and could not be named
    size_bytes: int = 0  # uncompressed
    sha256: str = ""  # of the uncompressed file, in lower-case hex
    origin: str | None = None  # URL it had come from, free of secrets; None if that is not known
    cause: str | None = None

    @property
    def order(self) -> tuple[str, str, str]:
        """What lock files are sorted by: folded index, folded module, kind."""
        return "" if self.key is None else self.key.folded, fold(self.module), self.kind

    def as_json(self) -> dict[str, str | int | None]:
        """Return its line of a lock file."""
        index = None if self.key is None else self.key.index
        named: dict[str, str | int | None] = {"index": index, "kind": self.kind, "module": self.module}
        if self.cause is not None:
            return {**named, "cause": self.cause}
        origin = {} if self.origin is None else {"origin": self.origin}
        return {**named, "bytes": self.size_bytes, "sha256": self.sha256, **origin}


def lock_lines(files: Iterable[LockedFile]) -> Iterator[str]:
    """Yield the lines, without line ends, of a lock file: equal *files*, in any order, give equal lines.

    What stands for one file, or one file that is missing, has a line of its own, for the sake of version control.
    """
    known = sorted(set(files), key=lambda each: (each.order, each.sha256, each.cause or ""))
    yield "{"
    yield f'"schema": {json.dumps(SCHEMA)},'
    for name, is_missing, end in (("files", False, "],"), ("missing", True, "]")):
        lines = [json.dumps(each.as_json()) for each in known if (each.cause is not None) is is_missing]
        yield f'"{name}": ['
        yield from (f"{line}{',' if number < len(lines) else ''}" for number, line in enumerate(lines, start=1))
        yield end
    yield "}"


def find_document(start: bytes) -> InputKind | None:
    """Return whether a file that begins with *start*, up to 64 KiB of it, is a lock file, a report or a scan."""
    text = _decode(start)
    found = _DECLARED.search(text) if text.lstrip().startswith("{") else None
    return None if found is None else _KINDS[found[1]]


def read_lock(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the lock file, then a module for each file in it, and those that were missing.

    Raises:
        InputError: It is too long, no JSON, cut, or of a schema that is not known. A line that names no file is a
            record, and the rest goes on.
    """
    document = _load(view, SCHEMA)
    yield Input(path, InputKind.LOCK)
    yield from _in_bounds(_locked_modules(document, path))


def read_report(view: ByteView, path: str) -> Iterator[Record]:
    """Yield the report, then a module for each of its files; raises as `read_lock`."""
    document = _load(view, _REPORT_SCHEMA)
    yield Input(path, InputKind.REPORT)
    yield from _in_bounds(_reported_modules(document, path))


def parse_lock(document: object) -> tuple[LockedFile, ...]:
    """Return what a lock file that was read from JSON states.

    Raises:
        InputError: It is none, or a record in it names no file or contradicts itself.
    """
    document = _check_schema(document, SCHEMA)
    found = [_parse_file(record, is_missing=False) for record in _list(document, "files")]
    return (*found, *(_parse_file(record, is_missing=True) for record in _list(document, "missing")))


def _load(view: ByteView, schema: str) -> Mapping[str, Any]:
    if view.size > LARGEST_BYTES:
        raise MalformedInput(f"it is longer than {LARGEST_BYTES} bytes, the most that is read of such a file")
    data = view.read(0, view.size)
    if sum(map(data.count, (b"{", b"[", b","))) > _MOST_PIECES:
        raise MalformedInput(f"it has more than {_MOST_PIECES} lists, objects and values")
    try:
        document = json.loads(_decode(data))
    except json.JSONDecodeError as error:
        raise MalformedInput(f"no sound JSON, perhaps cut short: {error.msg} (line {error.lineno})") from error
    except (ValueError, RecursionError) as error:
        raise MalformedInput("no sound JSON: a number or a nesting without end") from error
    return _check_schema(document, schema)


def _decode(data: bytes) -> str:
    """Return *data*, which a shell may have written as UTF-16, as text."""
    return data.decode(json.detect_encoding(data), "replace").removeprefix("\ufeff")


def _check_schema(document: object, schema: str) -> Mapping[str, Any]:
    stated = document.get("schema") if isinstance(document, dict) else None
    if not isinstance(document, dict) or stated != schema:
        said = printable(stated[:40]) if isinstance(stated, str) else "none"
        raise UnknownFormat(f"of the schema {said!r}; {schema} is read")
    return document


def _list(document: Mapping[str, Any], name: str) -> list[Any]:
    rows = document.get(name)
    if not isinstance(rows, list):
        raise MalformedInput(f"it has no list {name!r}")
    return rows


def _in_bounds(records: Iterator[Record]) -> Iterator[Record]:
    """Yield *records* up to the hundredth that is unreadable, which ends them."""
    problems = 0
    for record in records:
        yield record
        problems += isinstance(record, Unreadable)
        if problems == _MOST_PROBLEMS:
            raise MalformedInput(f"{_MOST_PROBLEMS} lines of it name no file; the rest was not read")


def _locked_modules(document: Mapping[str, Any], path: str) -> Iterator[Record]:
    for name in ("files", "missing"):
        for number, record in enumerate(_list(document, name), start=1):
            try:
                file = _parse_file(record, is_missing=name == "missing")
            except InputError as error:
                yield Unreadable(path, f"{name}, number {number}: {error.problem}")
                continue
            said = Recorded(
                file.kind,
                is_locked=True,
                cause=file.cause,
                size_bytes=None if file.cause else file.size_bytes,
                sha256=file.sha256 or None,
                origin=file.origin,
            )
            yield _module(file.module, file.kind, file.key, said)


def _parse_file(record: object, *, is_missing: bool) -> LockedFile:
    if not isinstance(record, dict):
        raise MalformedInput("not an object")
    index = record.get("index")
    key = None if index is None and is_missing else _key(index)
    module, kind = _module_name(record.get("module")), record.get("kind")
    if not isinstance(kind, str) or kind not in _FILE_KINDS:
        raise MalformedInput("of no known kind")
    if is_missing:
        return LockedFile(module, kind, key, cause=_cause(record.get("cause")))
    if key is None or kind != file_kind(key):
        raise MalformedInput(f"its index is that of no {kind}")
    size_bytes, sha256 = record.get("bytes"), record.get("sha256")
    if type(size_bytes) is not int or not 0 < size_bytes < 1 << 63:
        raise MalformedInput("its length is no number of bytes")
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        raise MalformedInput("its hash is no SHA-256")
    return LockedFile(module, kind, key, size_bytes, sha256, _origin(record.get("origin")))


def _reported_modules(document: Mapping[str, Any], path: str) -> Iterator[Record]:
    for number, record in enumerate(_list(document, "symbols"), start=1):
        try:
            yield _reported_module(record)
        except InputError as error:
            yield Unreadable(path, f"symbols, number {number}: {error.problem}")


def _reported_module(record: object) -> Module:
    if not isinstance(record, dict):
        raise MalformedInput("not an object")
    index, cause, kind = record.get("index"), record.get("cause"), record.get("kind")
    if not isinstance(kind, str) or kind not in _FILE_KINDS:
        raise MalformedInput("of no known kind")
    said = Recorded(kind, cause=None if cause is None else _cause(cause), origin=_origin(record.get("upstream")))
    return _module(_module_name(record.get("module")), kind, None if index is None else _key(index), said)


def _module(name: str, kind: str, key: Key | None, said: Recorded) -> Module:
    """Return the module of one file, which is wanted as such and not for what it may name."""
    if key is None:
        return Module(name, problem=said.cause or "its identity is not known", recorded=said)
    reference = reference_to(key)
    if reference is not None:
        if said.cause == "embedded":
            reference = PdbReference(reference.key, PdbFormat.EMBEDDED)
        return Module(name, pdbs=(reference,), recorded=said)
    if kind == "pdb" and type(key) is ImageKey:  # the PDB of an image that alone would name it
        return Module(
            name,
            image=key,
            problem=said.cause,
            no_debug_record=said.cause == "no-debug-record",
            unusable_pdb=said.cause == "unusable-identity",
            recorded=said,
        )
    return Module(name, dbg=key, recorded=said)


def _key(index: object) -> Key:
    if not isinstance(index, str) or len(index) > _LONGEST_TEXT:
        raise MalformedInput("it has no index")
    return parse_index(index)


def _module_name(name: object) -> str:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_TEXT:
        raise MalformedInput("it has no module's name")
    return base_name(name) or name


def _cause(cause: object) -> str:
    if not isinstance(cause, str) or _CAUSE.fullmatch(cause) is None:
        raise MalformedInput("its cause is no word")
    return cause


def _origin(origin: object) -> str | None:
    if not isinstance(origin, str) or len(origin) > _LONGEST_TEXT or not origin.startswith(("https://", "http://")):
        return None  # a path would tell of a machine and its user
    return redact_url(origin)
