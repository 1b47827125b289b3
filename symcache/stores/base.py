"""What every store of a symbol path can do, wherever it lies: on disk, in a folder, behind HTTP.

A new kind of store is one module with a class that implements `SymbolStore`, and a line in `symcache.stores.source`
that opens it. `symcache.stores.chain` knows nothing else of it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol

from symcache.errors import StoreError
from symcache.formats.glance import glance_at_image, glance_at_pdb
from symcache.identity import ImageKey, PdbKey
from symcache.stores.local.atomic import as_store_error
from symcache.stores.results import Attempt

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from symcache.errors import UpstreamError
    from symcache.formats.pe.image import Image
    from symcache.identity import Key
    from symcache.stores.local.tree import Store

__all__ = [
    "FileRequest",
    "Form",
    "LookUp",
    "OnDisk",
    "Searchable",
    "Stored",
    "SymbolStore",
    "copy_file",
    "read_image_file",
    "size_if_right",
]


class Form(StrEnum):
    """How a store holds a file."""

    PLAIN = "plain"
    COMPRESSED = "compressed"
    POINTER = "pointer"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file on disk that a store holds for a key.

    Attributes:
        path: Where it lies.
        form: Plain, a cabinet, or a pointer file.
        size_bytes: Its length.
    """

    path: Path
    form: Form
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One key that a store is asked for.

    Attributes:
        key: The file that is wanted.
        checksums: ``ALGORITHM:hex`` of a portable PDB, as its image states them.
        plain_answer: What the store answered a moment ago when it was asked for the plain file, which it does not
            have; None if it was not asked.
        in_passing: The file is read for what it names, and not kept.
    """

    key: Key
    checksums: tuple[str, ...] = ()
    plain_answer: str | None = None
    in_passing: bool = False


@dataclass(frozen=True, slots=True)
class LookUp:
    """What a store answered: it found the file, does not have it, or failed to tell.

    Attributes:
        attempts: What was asked and answered, in order.
        form: The form in which the file was found; None if it was not.
        image: The headers of an image, if they were asked for and found.
        instead: What to fetch to learn more, as the store does not send parts of the file; None otherwise.
        error: Why the store could not tell; None if it could.
        is_asked: A server was asked.
        is_remembered: The answer is one that a server gave in an earlier run.
    """

    attempts: tuple[Attempt, ...] = ()
    form: Form | None = None
    image: Image | None = None
    instead: FileRequest | None = None
    error: UpstreamError | StoreError | None = None
    is_asked: bool = False
    is_remembered: bool = False

    @property
    def is_absent(self) -> bool:
        """The store definitely does not have the file."""
        return (self.form, self.image, self.instead, self.error) == (None, None, None, None)

    def turned_out(self, answer: str, error: UpstreamError | None = None) -> LookUp:
        """Return the same with what a look at the file said: it is not what was asked for, or points nowhere."""
        *earlier, last = self.attempts
        said = answer if error is None else f"{last.answer}, but {answer}"
        return replace(self, form=None, attempts=(*earlier, replace(last, answer=said)), error=error)


class Searchable(Protocol):
    """A store of a symbol path, as far as it is on disk.

    Attributes:
        name: What reports call it, free of secrets.
        local: The store itself if files can be written to it and opened by debuggers; None for all other stores.
        is_on_disk: `find` sees everything that the store has.
    """

    @property
    def name(self) -> str: ...

    @property
    def local(self) -> Store | None: ...

    @property
    def is_on_disk(self) -> bool: ...

    def find(self, key: Key) -> Stored | None:
        """Return what lies on disk for *key*; no network.

        Raises:
            StoreError: The store cannot be read.
        """

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield those of *keys* for which `find` finds something; cheaper than one call for each.

        Raises:
            StoreError: The store cannot be read.
        """


class SymbolStore(Searchable, Protocol):
    """A store of a symbol path."""

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        """Write the file to *scratch*, in the form in which the store has it; nothing about it is checked.

        Raises:
            StoreError: *scratch* cannot be written.
        """

    async def read_headers(self, key: ImageKey) -> LookUp:
        """Return the headers of *key*'s image, or as `LookUp.instead` how to fetch the whole file."""

    async def probe(self, key: Key) -> tuple[Form | None, str]:
        """Return in which form the store has *key*'s file, and its answer in words; as little as possible is read."""

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        """Note that the file is known and definitely not available."""

    def forget_absent(self, key: Key) -> None:
        """Drop what was remembered of *key*: the file has been found."""


class OnDisk:
    """What stores on disk have in common; a class that has `name` and `find` gets the rest of `SymbolStore`."""

    is_on_disk = True

    @property
    def name(self) -> str:
        """What reports call it."""
        raise NotImplementedError

    @property
    def local(self) -> Store | None:
        """See `SymbolStore`."""
        return None

    def find(self, key: Key) -> Stored | None:
        """See `SymbolStore`."""
        raise NotImplementedError

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        """See `SymbolStore`."""
        raise NotImplementedError

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        """Copy the file to *scratch*; see `SymbolStore`."""
        from anyio import to_thread  # noqa: PLC0415 - a check needs no event loop

        return await to_thread.run_sync(self._copy, request.key, scratch)

    async def read_headers(self, key: ImageKey) -> LookUp:
        """See `SymbolStore`; an image that lies there in another form than the plain one is copied and expanded."""
        from anyio import to_thread  # noqa: PLC0415 - a check needs no event loop

        return await to_thread.run_sync(self._read_headers, key)

    async def probe(self, key: Key) -> tuple[Form | None, str]:
        """See `SymbolStore`."""
        from anyio import to_thread  # noqa: PLC0415 - a check needs no event loop

        return await to_thread.run_sync(self._probe, key)

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        """Do nothing: looking again costs little."""

    def forget_absent(self, key: Key) -> None:
        """Do nothing: nothing was remembered."""

    def _copy(self, key: Key, scratch: Path) -> LookUp:
        stored = self.find(key)
        if stored is None:
            return self._absent()
        try:
            stored.path.open("rb").close()
        except OSError as error:
            said = as_store_error(error, stored.path)
            return LookUp((Attempt(self.name, f"cannot be read: {said.problem}"),), error=said)
        copy_file(stored.path, scratch)
        return LookUp((Attempt(self.name, "found"),), stored.form)

    def _read_headers(self, key: ImageKey) -> LookUp:
        stored = self.find(key)
        if stored is None:
            return self._absent()
        if stored.form is not Form.PLAIN:
            return LookUp(instead=FileRequest(key, in_passing=True))
        from symcache.stores.check import check_file  # noqa: PLC0415 - an empty store needs no parser

        try:
            if not check_file(stored.path, key).is_right:
                return self._absent()
        except OSError:
            return self._absent()
        return LookUp((Attempt(self.name, "found"),), image=read_image_file(stored.path))

    def _probe(self, key: Key) -> tuple[Form | None, str]:
        try:
            stored = self.find(key)
            if stored is None:
                return None, "not there"
            if stored.form is Form.PLAIN:
                from symcache.stores.check import check_file  # noqa: PLC0415 - an empty store needs no parser

                verdict = check_file(stored.path, key)
                if verdict.problem is not None:
                    return None, f"there, but {verdict.problem}"
        except (StoreError, OSError) as error:
            return None, str(error)
        return stored.form, f"there, {stored.form}, {stored.size_bytes} bytes"

    def _absent(self) -> LookUp:
        return LookUp((Attempt(self.name, "not there"),))


def size_if_right(path: str, key: Key) -> int | None:
    """Return the length in bytes of the plain file at *path* if a few small reads tell that it is what *key* names.

    None tells nothing: then `symcache.stores.check.check_file` finds out, with several times the effort.
    """
    if type(key) is PdbKey:
        return glance_at_pdb(path, key.guid.bytes_le, key.age)
    return glance_at_image(path, key.timestamp, key.size_of_image) if type(key) is ImageKey else None


def copy_file(source: Path, scratch: Path) -> None:
    """Copy *source* to *scratch*.

    Raises:
        StoreError: The disk does not take it.
    """
    import shutil  # noqa: PLC0415 - imports three compression libraries

    try:
        shutil.copyfile(source, scratch)
    except OSError as error:
        raise as_store_error(error, scratch) from error


def read_image_file(path: Path) -> Image:
    """Return the headers and debug data of an image on disk that was found right.

    Raises:
        InputError: It is not an image.
    """
    from symcache.formats.pe.image import Layout, parse_image  # noqa: PLC0415 - an empty store needs no parser
    from symcache.formats.view import FileView  # noqa: PLC0415

    with FileView(path) as view:
        return parse_image(view, Layout.DISK)
