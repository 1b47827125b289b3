"""Transactions and references: what symstore writes into 000Admin and beside each file."""

from __future__ import annotations

import re
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from symcache.errors import InputError, MalformedInput, StoreError
from symcache.identity import parse_id, parse_index, printable
from symcache.stores.local.atomic import as_store_error, take_away, write_whole
from symcache.stores.local.tree import Form

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.stores.local.tree import Store

__all__ = [
    "POINTER",
    "REFS",
    "Content",
    "Filed",
    "Kind",
    "Ref",
    "Refs",
    "Transaction",
    "clean",
    "format_added",
    "format_deleted",
    "format_filed",
    "format_ref",
    "parse_filed",
    "parse_ref",
    "parse_transaction",
    "read_pointer",
    "read_refs",
    "split_lines",
    "walk_refs",
    "write_refs",
]


_ID = re.compile(r"[0-9]{1,18}")
_DATE = re.compile(r"([0-9]{1,2})/([0-9]{1,2})/([0-9]{2}|[0-9]{4})")
_TIME = re.compile(r"([0-9]{1,2}):([0-9]{2}):([0-9]{2})")


class Kind(StrEnum):
    """Whether a transaction brought files, or pointers to files that lie elsewhere."""

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
    """One numbered add or delete.

    Attributes:
        id: Its number, from 1.
        deleted_id: The number of the transaction that it undid; None for an add.
        kind: What an add brought; None for a delete.
        when: When, in the local time of whoever did it; None where it cannot be read.
        product: As given; empty for a delete.
        version: As given, may be empty.
        comment: As given, may be empty.
    """

    id: int
    deleted_id: int | None = None
    kind: Kind | None = None
    when: datetime | None = None
    product: str = ""
    version: str = ""
    comment: str = ""

    def __str__(self) -> str:
        if self.deleted_id is not None:
            return f"{self.id:010} del {self.deleted_id:010}"
        when = "" if self.when is None else f"{self.when:%Y-%m-%d %H:%M:%S}"
        texts = " ".join(text for text in (self.product, self.version, self.comment) if text)
        return f"{self.id:010} add {self.kind or '?'} {when} {texts}".rstrip()

    def as_json(self) -> dict[str, str | int | None]:
        """Return the fields of one JSON object."""
        return {
            "id": self.id,
            "action": "add" if self.deleted_id is None else "del",
            "deleted_id": self.deleted_id,
            "kind": self.kind,
            "when": None if self.when is None else self.when.isoformat(),
            "product": self.product,
            "version": self.version,
            "comment": self.comment,
        }


@dataclass(frozen=True, slots=True)
class Filed:
    """One file of a transaction.

    Attributes:
        key: What it is filed under.
        source: Where it came from, or where the pointer leads.
    """

    key: Key
    source: str


@dataclass(frozen=True, slots=True)
class Ref:
    """One line of ``refs.ptr``: a transaction that wants the file of this folder.

    Attributes:
        id: The transaction's number.
        kind: Whether it brought the file or a pointer.
        source: Where the file came from, or where the pointer leads.
        content: What it is; None in the old form.
        compressed: Whether it was stored as a cabinet; None in the old form.
    """

    id: int
    kind: Kind
    source: str
    content: Content | None = None
    compressed: bool | None = None


def clean(text: str) -> str:
    """Return *text* so that it can stand between the quotes of one line.

    The format knows no escape: a quote becomes an apostrophe, and what is not printable (line ends, above all) a blank.
    """
    return "".join(char if char.isprintable() else " " for char in text.replace('"', "'"))


def split_lines(content: bytes) -> list[bytes]:
    r"""Return the lines of *content* without their ends: ``\r\n`` of symstore, ``\n`` of its copies; no empty ones."""
    return [stripped for line in content.split(b"\n") if (stripped := line.rstrip(b"\r"))]


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
    """Return the line for ``history.txt`` that says that *deleted_id* was undone; source as `format_added`."""
    return f"{id_:010},del,{deleted_id:010}".encode()


def parse_transaction(line: bytes) -> Transaction:
    """Return what a line of ``server.txt`` or ``history.txt`` says, in today's form or the old one.

    The old form has no quotes and years of two digits, of which 70 and more are of the last century. Without quotes
    the comment takes the commas that are too many.

    Raises:
        MalformedInput: Another shape.

    Source: as `format_added`.
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


def format_filed(filed: Filed) -> bytes:
    r"""Return a line of a transaction's own file, without its end: ``"name\id","source"``; source as `format_added`."""
    return f'"{filed.key.name}\\{filed.key.id}","{clean(filed.source)}"'.encode()


def parse_filed(line: bytes) -> Filed:
    """Return what a line of a transaction's own file says; the old form has no quotes, some copies lack the last one.

    Raises:
        MalformedInput: Another shape, or a name that cannot be part of a path.
    """
    index, *source = _split_fields(_decode(line))
    if index.count("\\") != 1 or "/" in index:
        raise MalformedInput(f"{printable(_decode(line))!r} names no file of a store")
    return Filed(parse_index(index), ",".join(source))


def format_ref(ref: Ref) -> bytes:
    """Return a line of ``refs.ptr``, without its end.

    Layout: id (10 digits), ``file`` or ``ptr``, source in quotes, content, an empty field, Y or N for stored
    compressed or not, two empty fields.
    Source: stores made by symstore.exe; what content and Y say is inferred from them.
    """
    flag = "Y" if ref.compressed else "N"
    return f'{ref.id:010},{ref.kind},"{clean(ref.source)}",{ref.content or ""},,{flag},,'.encode()


def parse_ref(line: bytes) -> Ref:
    """Return what a line of ``refs.ptr`` says; the old form has three fields without quotes.

    Raises:
        MalformedInput: Another shape.

    Source: windows-driver-docs, symbol-storage-format; and as `format_ref`.
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
        return line.decode("cp1252", "replace")  # the commonest code page of whoever wrote it


REFS = "refs.ptr"
POINTER = "file.ptr"
_LARGEST_BYTES = 64 << 20


@dataclass(frozen=True, slots=True)
class Refs:
    """The lines of one ``refs.ptr``, oldest first; those that cannot be read are carried along.

    Attributes:
        lines: Each with its meaning; None if it has none.
        exists: Whether there is such a file.
    """

    lines: tuple[tuple[bytes, Ref | None], ...] = ()
    exists: bool = False

    @property
    def refs(self) -> tuple[Ref, ...]:
        """Those that can be read."""
        return tuple(ref for _, ref in self.lines if ref is not None)

    @property
    def unreadable(self) -> tuple[bytes, ...]:
        """Those that cannot."""
        return tuple(line for line, ref in self.lines if ref is None)

    @property
    def pointer(self) -> str | None:
        """What ``file.ptr`` must hold: the last line's source if it brought a pointer; None if none may exist.

        Source: windows-driver-docs, symbol-storage-format.
        """
        last = self.refs[-1] if self.refs else None
        return last.source if last is not None and last.kind is Kind.POINTER else None

    @property
    def forms(self) -> frozenset[Form]:
        """The forms in which the transactions want the file; both where a line does not say, or cannot be read."""
        forms: set[Form] = {Form.PLAIN, Form.COMPRESSED} if self.unreadable else set()
        for ref in self.refs:
            if ref.kind is Kind.FILE:
                forms |= {True: {Form.COMPRESSED}, False: {Form.PLAIN}, None: {Form.PLAIN, Form.COMPRESSED}}[
                    ref.compressed
                ]
        return frozenset(forms)

    def adding(self, ref: Ref) -> Refs:
        """Return these lines and one for *ref*."""
        return Refs((*self.lines, (format_ref(ref), ref)), self.exists)

    def of(self, id_: int) -> Refs:
        """Return the lines of transaction *id_* alone."""
        return Refs(tuple(line for line in self.lines if line[1] is not None and line[1].id == id_), self.exists)

    def without(self, id_: int) -> Refs:
        """Return the lines of all other transactions."""
        return Refs(tuple(line for line in self.lines if line[1] is None or line[1].id != id_), self.exists)


def read_refs(folder: Path) -> Refs:
    """Return what ``refs.ptr`` in a key's folder says; nothing if there is none.

    Raises:
        StoreError: It cannot be read, or is larger than 64 MiB.
    """
    path = folder / REFS
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_BYTES + 1)
    except (FileNotFoundError, NotADirectoryError):
        return Refs()
    except OSError as error:
        raise as_store_error(error, path) from error
    if len(content) > _LARGEST_BYTES:
        raise StoreError(f"larger than {_LARGEST_BYTES} bytes, so it is no list of transactions", path=path)
    return Refs(tuple(_understood(split_lines(content))), exists=True)


def walk_refs(store: Store) -> Iterator[tuple[Key, Refs]]:
    """Yield each key of *store* that has a ``refs.ptr``, with what it says; this looks into every folder.

    Raises:
        StoreError: The store, or one of them, cannot be read.
    """
    for name, id_, folder in store.key_folders():
        refs = read_refs(folder)
        if refs.exists:
            with suppress(InputError):  # a folder that no key can have
                yield parse_id(name, id_), refs


def write_refs(store: Store, folder: Path, refs: Refs) -> None:
    """Let ``file.ptr`` and ``refs.ptr`` in a key's folder say what *refs* does; remove what then has nothing to say.

    Raises:
        StoreError: The disk does not take it.
    """
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
    """Return the text of ``file.ptr`` in a key's folder; None if there is none.

    Raises:
        StoreError: It cannot be read.
    """
    path = folder / POINTER
    try:
        with path.open("rb") as file:
            return file.read(1 << 16).decode(errors="replace").strip("\r\n\0 ")
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise as_store_error(error, path) from error


def _understood(lines: Iterable[bytes]) -> Iterable[tuple[bytes, Ref | None]]:
    for line in lines:
        try:
            yield line, parse_ref(line)
        except InputError:
            yield line, None
