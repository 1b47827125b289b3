"""``refs.ptr``, symstore's book-keeping in a key's folder: which transactions want the file there."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from symcache.errors import InputError, StoreError
from symcache.identity import parse_id
from symcache.store.place import as_store_error, take_away, write_whole
from symcache.store.transactions import Kind, Ref, format_ref, parse_ref, split_lines
from symcache.store.tree import Form

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from symcache.identity import Key
    from symcache.store.tree import Store

__all__ = ["POINTER", "REFS", "Refs", "read_pointer", "read_refs", "walk_refs", "write_refs"]

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
