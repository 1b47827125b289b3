"""The records of symstore: transactions in 000Admin, and the references to them beside each file, in refs.ptr.

What reads or writes raises `StoreError` if the store does not allow it.
"""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import asdict, dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from symcache.errors import InputError, MalformedInput, StoreError
from symcache.identity import POINTER, REFS, parse_id, parse_index, printable
from symcache.stores.base import Form
from symcache.stores.local.atomic import read_whole, take_away, write_whole

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.tree import Store


T = TypeVar("T")

_LARGEST_BYTES = 64 << 20
_ID = re.compile(r"[0-9]{1,18}")
_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{2}|[0-9]{4})")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2}):([0-9]{2})")


class Kind(StrEnum):
    """Whether a transaction added files, or pointers to files elsewhere."""

    FILE = "file"
    POINTER = "ptr"


class Content(StrEnum):
    """What symstore notes about a file: a stripped PDB, a full one, a type server, an image."""

    PUBLIC = "pub"
    PRIVATE = "pri"
    TYPES = "typ"
    BINARY = "bin"


@dataclass(frozen=True, slots=True)
class Transaction:
    """One numbered add or delete."""

    id: int  # its number, from 1
    deleted_id: int | None = None  # the transaction that it deleted; None for an add
    kind: Kind | None = None  # what it added; None for a delete
    when: datetime | None = None  # in the local time of the machine that made it; None if it cannot be read
    product: str = ""  # as given, like *version* and *comment*; empty for a delete
    version: str = ""
    comment: str = ""

    def __str__(self) -> str:
        if self.deleted_id is not None:
            return f"{self.id:010} del {self.deleted_id:010}"
        when = "" if self.when is None else f"{self.when:%Y-%m-%d %H:%M:%S}"
        texts = " ".join(text for text in (self.product, self.version, self.comment) if text)
        return f"{self.id:010} add {self.kind or '?'} {when} {texts}".rstrip()

    def as_json(self) -> dict[str, str | int | None]:
        head = {"id": self.id, "action": "add" if self.deleted_id is None else "del"}
        return {**head, **asdict(self), "when": None if self.when is None else self.when.isoformat()}


@dataclass(frozen=True, slots=True)
class TransactionFile:
    """One file of a transaction: its key, and the path that it came from or that the pointer leads to."""

    key: Key
    source: str


@dataclass(frozen=True, slots=True)
class Ref:
    """One line of ``refs.ptr``: a transaction that added the file of this folder."""

    id: int
    kind: Kind
    source: str  # the path that the file came from, or that the pointer leads to
    content: Content | None = None  # None in the old form of the line
    compressed: bool | None = None  # None in the old form


def clean(text: str) -> str:
    """Return *text* in a form that fits between the quotes of one line.

    The format knows no escape: a quote becomes an apostrophe, and what is not printable (line ends above all) a blank.
    """
    return "".join(char if char.isprintable() else " " for char in text.replace('"', "'"))


def split_lines(content: bytes) -> list[bytes]:
    r"""Return the lines of *content* without their ends: ``\r\n`` of symstore, ``\n`` of its copies; no empty ones."""
    return [stripped for line in content.split(b"\n") if (stripped := line.rstrip(b"\r"))]


def parse_lines(content: bytes, parse: Callable[[bytes], T]) -> Iterator[tuple[bytes, T | None]]:
    """Yield each line of *content* and what *parse* makes of it; None if the line is invalid."""
    for line in split_lines(content):
        parsed = None
        with suppress(InputError):
            parsed = parse(line)
        yield line, parsed


def format_added(added: Transaction) -> bytes:
    """Return the line for ``server.txt`` and ``history.txt``, without its end.

    Layout: id (10 digits), ``add``, ``file`` or ``ptr``, MM/DD/YYYY, HH:MM:SS, product, version, comment, all three
    in quotes, and a reserved field, empty.
    Source: stores made by symstore.exe; windows-driver-docs, symstore-transactions.
    """
    assert added.kind is not None
    assert added.when is not None
    texts = ",".join(f'"{clean(text)}"' for text in (added.product, added.version, added.comment))
    return f"{added.id:010},add,{added.kind},{added.when:%m/%d/%Y,%H:%M:%S},{texts},".encode()


def format_deleted(id_: int, deleted_id: int) -> bytes:
    """Return the line for ``history.txt`` that says that *deleted_id* was deleted; source as `format_added`."""
    return f"{id_:010},del,{deleted_id:010}".encode()


def parse_transaction(line: bytes) -> Transaction:
    """Return the transaction in a line of ``server.txt`` or ``history.txt``; `MalformedInput` for another shape.

    The old form has no quotes and years of two digits, of which 70 and more are of the last century. Without quotes
    the comment takes the surplus commas. Source: as `format_added`.
    """
    fields = _split_fields(_decode(line))
    id_ = _parse_id(fields[0], line)
    match fields[1:]:
        case ["del", deleted, *_]:
            return Transaction(id_, deleted_id=_parse_id(deleted, line))
        case ["add", ("file" | "ptr") as kind, date, time, product, version, *rest]:
            comment = ",".join(rest[:-1] if len(rest) > 1 else rest)
            return Transaction(id_, None, Kind(kind), _parse_when(date, time), product, version, comment)
    raise MalformedInput(f"{printable(_decode(line))!r} is not a transaction")


def format_file(file: TransactionFile) -> bytes:
    r"""Return a line of a transaction's file list, without its end: ``"name\id","source"``; as symstore.exe does."""
    return f'"{file.key.name}\\{file.key.id}","{clean(file.source)}"'.encode()


def parse_file(line: bytes) -> TransactionFile:
    """Return the file in a line of a transaction's file list; old lines have no quotes, some copies lack the last one.

    `MalformedInput` for another shape, or a name that cannot be part of a path.
    """
    index, *source = _split_fields(_decode(line))
    if index.count("\\") != 1 or "/" in index:
        raise MalformedInput(f"{printable(_decode(line))!r} names no file of a store")
    return TransactionFile(parse_index(index), ",".join(source))


def format_ref(ref: Ref) -> bytes:
    """Return a line of ``refs.ptr``, without its end.

    Layout: id (10 digits), ``file`` or ``ptr``, source in quotes, content, an empty field, Y or N for stored
    compressed or not, two empty fields.
    Source: stores made by symstore.exe; what content and Y say is inferred from them.
    """
    flag = "Y" if ref.compressed else "N"
    return f'{ref.id:010},{ref.kind},"{clean(ref.source)}",{ref.content or ""},,{flag},,'.encode()


def parse_ref(line: bytes) -> Ref:
    """Return the reference in a line of ``refs.ptr``; the old form has three fields without quotes.

    `MalformedInput` for another shape. Source: windows-driver-docs, symbol-storage-format; and as `format_ref`.
    """
    text = _decode(line)
    match _split_fields(text):
        case [id_, ("file" | "ptr") as kind, source, content, _, flag, _, *_] if flag in {"Y", "N"}:
            known = Content(content) if content in set(Content) else None
            return Ref(_parse_id(id_, line), Kind(kind), source, known, flag == "Y")
        case [id_, ("file" | "ptr") as kind, *source] if source:
            return Ref(_parse_id(id_, line), Kind(kind), ",".join(source))
    raise MalformedInput(f"{printable(text)!r} is not a reference to a transaction")


def _split_fields(text: str) -> list[str]:
    """Return the fields between commas; one that begins with a quote ends at a quote and comma, or with the line."""
    fields: list[str] = []
    at = 0
    while True:
        quoted = text.startswith('"', at)
        end = text.find('",' if quoted else ",", at + quoted)
        if end < 0:
            fields.append(text[at + 1 :].removesuffix('"') if quoted else text[at:])
            return fields
        fields.append(text[at + quoted : end])
        at = end + 1 + quoted


def _parse_id(text: str, line: bytes) -> int:
    if not _ID.fullmatch(text):
        raise MalformedInput(f"{printable(_decode(line))!r} begins with no transaction's number")
    return int(text)


def _parse_when(date: str, time: str) -> datetime | None:
    day, hour = _DATE.fullmatch(date), _TIME.fullmatch(time)
    if day is None or hour is None:
        return None
    year = int(day[3])
    if len(day[3]) == 2:
        year += 1900 if year >= 70 else 2000
    try:
        return datetime(year, int(day[1]), int(day[2]), int(hour[1]), int(hour[2]), int(hour[3]))  # noqa: DTZ001 - none is written
    except ValueError:
        return None


def _decode(line: bytes) -> str:
    try:
        return line.decode()
    except UnicodeDecodeError:
        return line.decode("cp1252", "replace")  # the commonest code page of symstore's machines


@dataclass(frozen=True, slots=True)
class Refs:
    """The lines of one ``refs.ptr``, oldest first; invalid ones are kept."""

    lines: tuple[tuple[bytes, Ref | None], ...] = ()  # each with the reference in it; None if the line is invalid
    exists: bool = False  # whether there is such a file

    @property
    def refs(self) -> tuple[Ref, ...]:
        return tuple(ref for _, ref in self.lines if ref is not None)

    @property
    def unreadable(self) -> tuple[bytes, ...]:
        """The invalid lines."""
        return tuple(line for line, ref in self.lines if ref is None)

    @property
    def pointer(self) -> str | None:
        """What ``file.ptr`` must hold: the last line's source if it added a pointer; None if there must be none.

        Source: windows-driver-docs, symbol-storage-format.
        """
        last = self.refs[-1] if self.refs else None
        return last.source if last is not None and last.kind is Kind.POINTER else None

    @property
    def forms(self) -> frozenset[Form]:
        """The forms that the transactions added; both if a line is invalid or does not tell."""
        files = [ref for ref in self.refs if ref.kind is Kind.FILE]
        if self.unreadable or any(ref.compressed is None for ref in files):
            return frozenset({Form.PLAIN, Form.COMPRESSED})
        return frozenset(Form.COMPRESSED if ref.compressed else Form.PLAIN for ref in files)

    def adding(self, ref: Ref) -> Refs:
        return Refs((*self.lines, (format_ref(ref), ref)), self.exists)

    def of(self, id_: int) -> Refs:
        """Return the lines of transaction *id_* alone."""
        return Refs(tuple(line for line in self.lines if line[1] is not None and line[1].id == id_), self.exists)

    def without(self, id_: int) -> Refs:
        return Refs(tuple(line for line in self.lines if line[1] is None or line[1].id != id_), self.exists)


def read_refs(folder: Path) -> Refs:
    """Return the ``refs.ptr`` of a key's folder, which has at most 64 MiB; an empty one if there is none."""
    path = folder / REFS
    content = read_whole(path, _LARGEST_BYTES + 1)
    if content is None:
        return Refs()
    if len(content) > _LARGEST_BYTES:
        raise StoreError(f"larger than {_LARGEST_BYTES} bytes, so it is not a list of transactions", path=path)
    return Refs(tuple(parse_lines(content, parse_ref)), exists=True)


def walk_refs(store: Store) -> Iterator[tuple[Key, Refs]]:
    """Yield each key of *store* that has a ``refs.ptr``, and its content; reads every key's folder."""
    for name, id_, folder in store.key_folders():
        refs = read_refs(folder)
        if refs.exists:
            with suppress(InputError):  # not a folder of a key
                yield parse_id(name, id_), refs


def write_refs(store: Store, folder: Path, refs: Refs) -> None:
    """Write ``file.ptr`` and ``refs.ptr`` of a key's folder from *refs*; remove those that would be empty."""
    pointer = refs.pointer
    if pointer is None:
        take_away(store, folder / POINTER)
    elif read_pointer(folder) != pointer:
        write_whole(store, folder / POINTER, pointer.encode())
    if refs.lines:
        write_whole(store, folder / REFS, b"\r\n".join(line for line, _ in refs.lines))
    else:
        take_away(store, folder / REFS)


def read_pointer(folder: Path) -> str | None:
    """Return the text of ``file.ptr`` in a key's folder; None if there is none."""
    content = read_whole(folder / POINTER, 1 << 16)
    return None if content is None else content.decode(errors="replace").strip("\r\n\0 ")
