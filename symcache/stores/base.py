"""What every store of a symbol path can do, wherever it lies: on disk, in a folder, behind HTTP.

A new kind of store is a class with the methods of `SymbolStore`, and a line in `symcache.stores.source` that opens it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, Protocol, TypeVar

from symcache.errors import StoreError
from symcache.formats.glance import glance_at_image, glance_at_pdb
from symcache.identity import ImageKey, PdbKey
from symcache.stores.local.atomic import as_store_error, store_errors
from symcache.stores.results import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from symcache.errors import UpstreamError
    from symcache.formats.pe.image import Image
    from symcache.identity import Key
    from symcache.stores.local.tree import Store

T = TypeVar("T")


class Form(StrEnum):
    """How a store holds a file."""

    PLAIN = "plain"
    COMPRESSED = "compressed"
    POINTER = "pointer"


@dataclass(frozen=True, slots=True)
class Stored:
    """A file on disk that a store holds for a key."""

    path: Path
    form: Form
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One key that a store is asked for."""

    key: Key
    checksums: tuple[str, ...] = ()  # ``ALGORITHM:hex`` of a portable PDB, as its image states them
    # What the store answered a moment ago when it was asked for the plain file, which it lacks; None if it was not.
    plain_answer: str | None = None
    in_passing: bool = False  # the file is read for what it names, and not kept


@dataclass(frozen=True, slots=True)
class LookUp:
    """What a store answered: it found the file, does not have it, or failed to tell."""

    attempts: tuple[Attempt, ...] = ()  # what was asked and answered, in order
    form: Form | None = None  # in which the file was found; None if it was not
    image: Image | None = None  # the headers of an image, if they were asked for and found
    instead: FileRequest | None = None  # what to fetch to learn more, from a store that does not send parts of a file
    error: UpstreamError | StoreError | None = None  # why the store could not tell
    is_asked: bool = False  # a server was asked
    is_remembered: bool = False  # the answer is one that a server gave in an earlier run

    @property
    def is_absent(self) -> bool:
        """The store definitely does not have the file."""
        return (self.form, self.image, self.instead, self.error) == (None, None, None, None)

    def turned_out(self, answer: str, error: UpstreamError | None = None) -> LookUp:
        """Return the same with what a look at the file said: it is not what was asked for, or points nowhere."""
        *earlier, last = self.attempts
        said = answer if error is None else f"{last.answer}, but {answer}"
        return replace(self, form=None, attempts=(*earlier, replace(last, answer=said)), error=error)


@dataclass(frozen=True, slots=True)
class Arrival:
    """A file that is what its key names, or a pointer file that said that there is none."""

    plain: Path  # a scratch file with the file itself
    cabinet: Path | None = None  # another with the cabinet that it came in
    size_bytes: int = 0  # length of the file itself
    note: str | None = None  # something odd about it
    message: str | None = None  # why the file is not available, as a pointer file has it


def not_there(name: str) -> LookUp:
    return LookUp((Attempt(name, "not there"),))


class Searchable(Protocol):
    """A store of a symbol path, as far as it is on disk; `find` and `holding` raise `StoreError` if that is not read.

    ``name`` is what reports call it, free of secrets; ``local`` the store itself if files can be written to it and
    opened by debuggers, else None; ``is_on_disk`` tells that `find` sees everything that the store has.
    """

    @property
    def name(self) -> str: ...

    @property
    def local(self) -> Store | None: ...

    @property
    def is_on_disk(self) -> bool: ...

    def find(self, key: Key) -> Stored | None:
        """Return what lies on disk for *key*; no network."""

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        """Yield those of *keys* for which `find` finds something; cheaper than one call for each."""


class SymbolStore(Searchable, Protocol):
    """A store of a symbol path."""

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        """Write the file to *scratch*, in the form in which the store has it, unchecked; `StoreError` if that fails."""

    async def read_headers(self, key: ImageKey) -> LookUp:
        """Return the headers of *key*'s image, or as `LookUp.instead` how to fetch the whole file."""

    async def probe(self, key: Key) -> tuple[Form | None, str]:
        """Return in which form the store has *key*'s file, and its answer in words; as little as possible is read."""

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        """Note that the file is known and definitely not available."""

    def forget_absent(self, key: Key) -> None:
        """Drop what was remembered of *key*: the file has been found."""


class OnDisk:
    """A folder on disk; a subclass that has `find` and `holding` gets the rest of `SymbolStore`."""

    is_on_disk = True

    def __init__(self, root: Path) -> None:
        self.root = root
        self.name = str(root)

    @property
    def local(self) -> Store | None:
        return None

    def find(self, key: Key) -> Stored | None:
        raise NotImplementedError

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        return await _in_thread(lambda: self._copy(request.key, scratch))

    async def read_headers(self, key: ImageKey) -> LookUp:
        return await _in_thread(lambda: self._read_headers(key))

    async def probe(self, key: Key) -> tuple[Form | None, str]:
        return await _in_thread(lambda: self._probe(key))

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        """Do nothing: looking again costs little."""

    def forget_absent(self, key: Key) -> None:
        """Do nothing: nothing was remembered."""

    def _copy(self, key: Key, scratch: Path) -> LookUp:
        stored = self.find(key)
        if stored is None:
            return not_there(self.name)
        try:
            stored.path.open("rb").close()
        except OSError as error:
            said = as_store_error(error, stored.path)
            return LookUp((Attempt(self.name, f"cannot be read: {said.problem}"),), error=said)
        copy_file(stored.path, scratch)
        return LookUp((Attempt(self.name, "found"),), stored.form)

    def _read_headers(self, key: ImageKey) -> LookUp:
        stored = self.find(key)
        if stored is not None and stored.form is not Form.PLAIN:
            return LookUp(instead=FileRequest(key, in_passing=True))
        if stored is None or not is_right(stored.path, key):
            return not_there(self.name)
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


async def _in_thread(function: Callable[[], T]) -> T:
    from anyio import to_thread  # noqa: PLC0415 - a check needs no event loop

    return await to_thread.run_sync(function)


def size_if_right(path: str, key: Key) -> int | None:
    """Return the length in bytes of the plain file at *path* if a few small reads tell that it is what *key* names.

    None tells nothing: then `symcache.stores.check.check_file` finds out, with several times the effort.
    """
    if type(key) is PdbKey:
        return glance_at_pdb(path, key.guid.bytes_le, key.age)
    return glance_at_image(path, key.timestamp, key.size_of_image) if type(key) is ImageKey else None


def is_right(path: Path, key: Key, checksums: Sequence[str] = ()) -> bool:
    """Return whether the plain file at *path* can be read and is what *key* names."""
    from symcache.stores.check import check_file  # noqa: PLC0415 - an empty store needs no parser

    try:
        return check_file(path, key, checksums=checksums).is_right
    except OSError:
        return False


def copy_file(source: Path, scratch: Path) -> None:
    """Copy *source* to *scratch*; a `StoreError` says that the disk does not take it."""
    import shutil  # noqa: PLC0415 - imports three compression libraries

    with store_errors(scratch):
        shutil.copyfile(source, scratch)


def read_image_file(path: Path) -> Image:
    """Return the headers and debug data of an image on disk that was found right; `InputError` if it is none."""
    from symcache.formats.pe.image import Layout, parse_image  # noqa: PLC0415 - an empty store needs no parser
    from symcache.formats.view import FileView  # noqa: PLC0415

    with FileView(path) as view:
        return parse_image(view, Layout.DISK)
