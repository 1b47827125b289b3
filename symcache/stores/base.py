"""What every store of a symbol path can do, wherever it lies: on disk, in a folder, behind HTTP.

A new kind of store is a class with the methods of `SymbolStore`, and a line in `symcache.stores.source` that opens it.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Protocol, TypeVar

from symcache.errors import InputError, StoreError, WrongContent
from symcache.formats.glance import glance_at_image, glance_at_pdb
from symcache.identity import ImageKey, PdbKey, parse_runtime_library
from symcache.stores.local.atomic import as_store_error, store_errors
from symcache.stores.results import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence
    from pathlib import Path

    from symcache.errors import UpstreamError
    from symcache.formats.pe.image import Image
    from symcache.formats.pe.managed import RuntimeFacts
    from symcache.formats.pe.version import VersionInfo
    from symcache.formats.view import ByteView
    from symcache.identity import Key
    from symcache.stores.check import Verdict
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

    is_member: ClassVar[bool] = False  # it lies within the file at *path*, where no other program can open it

    path: Path
    form: Form
    size_bytes: int

    @property
    def url(self) -> str | None:
        """What it is called if it is an object of a bucket, to which *path* does not lead; else None."""
        return None

    @property
    def is_openable(self) -> bool:
        """Whether it is a plain file that others can open where it lies."""
        return self.form is Form.PLAIN and not self.is_member

    @contextmanager
    def open(self) -> Iterator[ByteView]:
        """Open its bytes; `OSError` if they cannot be read, `InputError` if they are not where they should be."""
        from symcache.formats.view import FileView  # noqa: PLC0415 - an empty store needs no parser

        with FileView(self.path) as view:
            yield view

    def check(self, key: Key, checksums: Sequence[str] = ()) -> Verdict:
        """Return whether the plain file is what *key* names; `OSError` if it cannot be read."""
        from symcache.stores.check import check_file  # noqa: PLC0415 - an empty store needs no parser

        return check_file(self.path, key, checksums=checksums)

    def copy_to(self, scratch: Path) -> None:
        """Copy it; a `StoreError` says that the disk does not take it, `WrongContent` that it is damaged."""
        copy_file(self.path, scratch)


@dataclass(frozen=True, slots=True)
class FileRequest:
    """One key that a store is asked for."""

    key: Key
    checksums: tuple[str, ...] = ()  # ``ALGORITHM:hex`` of a portable PDB, or as a lock file states them: `WHOLE_FILE`
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


class Probed(NamedTuple):
    """What a place says of a file that it was only asked for.

    Attributes:
        form: In which form it has the file; None if it has not.
        answer: That in a few words.
        size_bytes: Length of the file in that form; None if it has not, or does not tell.
        is_no_answer: It could not be asked, so that it may have the file.
    """

    form: Form | None
    answer: str
    size_bytes: int | None = None
    is_no_answer: bool = False


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
    """A store of a symbol path; one that ``takes_uploads`` gets what stores after it have, once that is on disk.

    One that ``is_server`` is asked once for all who share a bucket, and what it lacks is remembered.
    """

    @property
    def is_server(self) -> bool: ...

    @property
    def takes_uploads(self) -> bool: ...

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        """Write the file to *scratch*, in the form in which the store has it, unchecked; `StoreError` if that fails."""

    async def read_headers(self, key: ImageKey) -> LookUp:
        """Return the headers of *key*'s image, or as `LookUp.instead` how to fetch the whole file."""

    async def probe(self, key: Key) -> Probed:
        """Return in which form the store has *key*'s file, and its answer in words; as little as possible is read."""

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        """Note that the file is known and definitely not available."""

    def forget_absent(self, key: Key) -> None:
        """Drop what was remembered of *key*: the file has been found."""


class OnDisk:
    """A folder on disk; a subclass that has `find` and `holding` gets the rest of `SymbolStore`."""

    is_on_disk = True
    is_server = False
    takes_uploads = False

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

    async def probe(self, key: Key) -> Probed:
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
        found = LookUp((Attempt(self.name, "found"),), stored.form)
        try:
            stored.copy_to(scratch)
        except WrongContent as error:
            return found.turned_out(error.problem, error)
        return found

    def _read_headers(self, key: ImageKey) -> LookUp:
        stored = self.find(key)
        if stored is not None and stored.form is not Form.PLAIN:
            return LookUp(instead=FileRequest(key, in_passing=True))
        if stored is None or not is_right(stored, key):
            return not_there(self.name)
        return LookUp((Attempt(self.name, "found"),), image=read_image(stored))

    def _probe(self, key: Key) -> Probed:
        try:
            stored = self.find(key)
            if stored is None:
                return Probed(None, "not there")
            if stored.form is Form.PLAIN:
                verdict = stored.check(key)
                if verdict.problem is not None:
                    return Probed(None, f"there, but {verdict.problem}")
        except (StoreError, OSError) as error:
            return Probed(None, str(error))
        return Probed(stored.form, f"there, {stored.form}, {stored.size_bytes} bytes", stored.size_bytes)


async def _in_thread(function: Callable[[], T]) -> T:
    from anyio import to_thread  # noqa: PLC0415 - a check needs no event loop

    return await to_thread.run_sync(function)


def size_if_right(path: str, key: Key) -> int | None:
    """Return the length in bytes of the plain file at *path* if a few small reads tell that it is what *key* names.

    None tells nothing: then `symcache.stores.check.check_file` finds out, with several times the effort.
    """
    if type(key) is PdbKey:
        return glance_at_pdb(path, key.guid.bytes_le, key.age)
    if type(key) is not ImageKey or parse_runtime_library(key.name) is not None:
        return None  # the key of a runtime's library is mostly that of the runtime
    return glance_at_image(path, key.timestamp, key.size_of_image)


def is_right(stored: Stored, key: Key, checksums: Sequence[str] = ()) -> bool:
    """Return whether the plain file *stored* can be read and is what *key* names."""
    try:
        return stored.check(key, checksums).is_right
    except OSError:
        return False


def copy_file(source: Path, scratch: Path) -> None:
    """Copy *source* to *scratch*; a `StoreError` says that the disk does not take it."""
    import shutil  # noqa: PLC0415 - imports three compression libraries

    with store_errors(scratch):
        shutil.copyfile(source, scratch)


def read_version_of(stored: Stored) -> VersionInfo | None:
    """Return what an image that was found right says of its origin; None if it says nothing that is read."""
    from symcache.formats.pe.image import Layout  # noqa: PLC0415 - for what is missing alone
    from symcache.formats.pe.version import read_version  # noqa: PLC0415

    try:
        with stored.open() as view:
            return read_version(view, Layout.DISK)
    except InputError:
        return None


def read_runtime_of(stored: Stored) -> RuntimeFacts | None:
    """Return what an image that was found right says of the .NET runtime that it is or holds; None if it is none."""
    from symcache.formats.pe.image import Layout  # noqa: PLC0415 - for runtimes alone
    from symcache.formats.pe.managed import read_runtime_facts  # noqa: PLC0415

    try:
        with stored.open() as view:
            return read_runtime_facts(view, Layout.DISK)
    except InputError:
        return None


def read_image(stored: Stored) -> Image:
    """Return the headers and debug data of an image that was found right; `InputError` if it is none."""
    from symcache.formats.pe.image import Layout, parse_image  # noqa: PLC0415 - an empty store needs no parser

    with stored.open() as view:
        return parse_image(view, Layout.DISK)
