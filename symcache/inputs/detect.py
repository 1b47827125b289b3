"""What an input is, told by its content and never by its name, and which reader takes it."""

from __future__ import annotations

import os
import stat
import sys
import time
from collections import deque
from dataclasses import dataclass
from functools import cache, partial
from importlib import import_module
from itertools import islice
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeAlias

from symcache.errors import InputError, TruncatedInput, UnknownFormat
from symcache.formats.view import BytesView, FileView
from symcache.identity import base_name, check_path_part
from symcache.inputs.records import (
    OF_COMPLETE_DUMPS,
    STANDARD_INPUT,
    Input,
    InputKind,
    KernelPdbWanted,
    Module,
    Unreadable,
)
from symcache.sympath import redact_words

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future

    from symcache.formats.view import ByteView
    from symcache.inputs.records import ProcessSelection, Record

    Reader: TypeAlias = Callable[[ByteView, str], Iterable[Record]]
    Choose: TypeAlias = Callable[[bytes], Reader | None]
    _Found: TypeAlias = Module | Unreadable | str

Content: TypeAlias = bytes | BinaryIO
InputSource: TypeAlias = str | Path | Content | tuple[str, Content]
"""A path, or what a file holds, alone or behind the name of the file, without which an image has no key."""


_HEAD_BYTES = 64
_TEXT_BYTES = 1 << 16
_COPIED_BYTES = 1 << 20
_TRIAGE = 4


_READERS = {
    InputKind.KERNEL_DUMP: ("kerneldump", "read_kernel_dump"),
    InputKind.TRIAGE_DUMP: ("kerneldump", "read_kernel_dump"),
    InputKind.MINIDUMP: ("minidump", "read_minidump"),
    InputKind.IMAGE: ("image", "read_image"),
    InputKind.PDB: ("pdbfile", "read_pdb"),
    InputKind.MANIFEST: ("manifest", "read_manifest"),
    InputKind.DEBUGGER_LOG: ("log.reader", "read_debugger_log"),
}


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How inputs are read, the same for all: *processes* are those of kernel dumps whose modules are wanted."""

    processes: ProcessSelection | None = OF_COMPLETE_DUMPS

    def reader(self, kind: InputKind) -> Reader:
        """Return what reads inputs of *kind*; a folder is walked."""
        module, name = _READERS[kind]
        reader = _imported(f"inputs.{module}", name)
        return partial(reader, user=self.processes) if module == "kerneldump" else reader


_DEFAULT = InputOptions()


def detect(view: ByteView) -> InputKind:
    """Return what the bytes of *view* are; at most 64 KiB from its start are read.

    Raises:
        UnknownFormat: Nothing that is read here; the text says what it is and what to do, where that is known.
        TruncatedInput: A kernel dump that ends within its header.
    """
    head = view.read(0, min(view.size, _HEAD_BYTES))
    if not head:
        raise UnknownFormat("it is empty")
    kind = _kind_of(head)
    if kind is InputKind.KERNEL_DUMP:
        from symcache.formats.dump.header import read_dump_header  # noqa: PLC0415

        return InputKind.TRIAGE_DUMP if read_dump_header(view).dump_type == _TRIAGE else kind
    if kind is not None:
        return kind
    from symcache.inputs.manifest import looks_like_manifest  # noqa: PLC0415

    if looks_like_manifest(view):
        return InputKind.MANIFEST
    from symcache.inputs.log.reader import is_long_text, looks_like_debugger_log  # noqa: PLC0415

    start = view.read(0, min(view.size, _TEXT_BYTES))
    if looks_like_debugger_log(start) or is_long_text(start, view.size):
        return InputKind.DEBUGGER_LOG
    raise _refuse(start)


def open_inputs(inputs: Iterable[InputSource], options: InputOptions = _DEFAULT) -> Iterator[Record]:
    """Yield what all of *inputs* hold, one after the other; see `read_input`."""
    for source in inputs:
        yield from read_input(source, options)


def read_input(
    source: InputSource, options: InputOptions = _DEFAULT, *, stdin: BinaryIO | None = None
) -> Iterator[Record]:
    """Yield what one input holds; whatever is wrong with it becomes a record too.

    Images, PDBs and dumps of a folder are read, texts in it are passed over. *source* is the path of a file, a folder
    or a pipe, ``-`` for standard input, or what a file holds: bytes or a binary file object, read from its beginning,
    alone or as a pair behind its name. What cannot be read twice is copied first.
    """
    path, content = _name(source)
    try:
        if content is not None:
            yield from _read_content(path, content, options)
        elif path == STANDARD_INPUT:
            yield from _read_stream(path, stdin or sys.stdin.buffer, options)
        else:
            yield from _read(path, options)
    except (InputError, OSError) as error:
        yield _unreadable(path, error)


def copy_input(source: Content | tuple[str, Content], folder: Path) -> tuple[str, Path]:
    """Write what *source* holds into *folder*, under its base name; return what it is called, and the file.

    Raises:
        MalformedInput: Its name can be that of no file.
    """
    name, content = _name(source)
    copy = folder / check_path_part(base_name(name))
    with copy.open("xb") as file:
        if isinstance(content, bytes):
            file.write(content)
        elif content is not None:
            import shutil  # noqa: PLC0415

            if content.seekable():
                content.seek(0)
            shutil.copyfileobj(content, file, _COPIED_BYTES)
    return name, copy


def _name(source: InputSource) -> tuple[str, Content | None]:
    """Return what *source* is called and, unless that is a path, what it holds."""
    if isinstance(source, tuple):
        return source
    if isinstance(source, str | Path):
        return str(source), None
    if isinstance(source, bytes):
        return STANDARD_INPUT, source
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else STANDARD_INPUT, source


def _read(path: str, options: InputOptions) -> Iterator[Record]:
    if "\0" in path:
        raise UnknownFormat("a path cannot hold a NUL character")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        readers = cache(partial(_folder_reader, options))
        yield from read_folder(Path(path), lambda head: readers(_kind_of(head)))
    elif stat.S_ISFIFO(mode):
        with Path(path).open("rb") as pipe:
            yield from _read_stream(path, pipe, options)
    elif stat.S_ISREG(mode):
        with FileView(path) as view:
            yield from options.reader(detect(view))(view, path)
    else:
        raise UnknownFormat("neither a file nor a folder")


def _read_content(path: str, content: Content, options: InputOptions) -> Iterator[Record]:
    if not isinstance(content, bytes) and not content.seekable():
        yield from _read_stream(path, content, options)
        return
    view = BytesView(content) if isinstance(content, bytes) else _SeekView(content)
    yield from options.reader(detect(view))(view, path)


def _read_stream(path: str, stream: BinaryIO, options: InputOptions) -> Iterator[Record]:
    """Yield what *stream* holds, from a copy of the whole of it."""
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    with TemporaryDirectory(prefix="symcache-") as folder:
        copy = Path(folder, "input")
        # One read of the system at a time: between those of a longer read, Ctrl-C is not heard.
        read = getattr(stream, "read1", stream.read)
        with copy.open("xb") as file:
            while piece := read(_COPIED_BYTES):
                file.write(piece)
        with FileView(copy) as view:
            yield from options.reader(detect(view))(view, path)


class _SeekView:
    """A file object that can be read anywhere, by one reader at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)

    def read(self, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0 or offset + length > self.size:
            raise TruncatedInput(f"the input ends within {length} bytes that are needed", offset=max(offset, 0))
        self._file.seek(offset)
        parts, left = [], length
        while left and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part)
        if left:
            raise TruncatedInput("the file became shorter while it was read", offset=offset + length - left)
        return b"".join(parts)


def _folder_reader(options: InputOptions, kind: InputKind | None) -> Reader | None:
    if kind is InputKind.IMAGE:
        return _imported("inputs.image", "read_module")
    return None if kind is None else options.reader(kind)


def _kind_of(head: bytes) -> InputKind | None:
    if head.startswith((b"PAGEDUMP", b"PAGEDU64")):
        return InputKind.KERNEL_DUMP
    if head.startswith((b"MDMP", b"PMDM")):
        return InputKind.MINIDUMP
    if head.startswith((b"MZ", b"DI")):
        return InputKind.IMAGE if _imported("inputs.image", "is_image")(head) else None
    if head.startswith((b"M", b"B")) and _imported("formats.pdb.info", "looks_like_pdb")(head):
        return InputKind.PDB
    return None


@cache
def _imported(module: str, name: str) -> Callable[..., Any]:
    """Return a function, whose module is imported for the first input that needs it: most runs meet one kind or two."""
    function: Callable[..., Any] = getattr(import_module(f"symcache.{module}"), name)
    return function


def _refuse(head: bytes) -> UnknownFormat:
    from symcache.formats.dump.header import find_other_dump  # noqa: PLC0415
    from symcache.inputs.log.reader import find_kind_of_text  # noqa: PLC0415

    if other := find_other_dump(head):
        return UnknownFormat(f"{other[0]}: {other[1]}", offset=0)
    start = head[:_HEAD_BYTES].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return UnknownFormat(
            "a web page or XML, perhaps what a server sent in place of the file: fetch it again", offset=0
        )
    if not head[:_HEAD_BYTES].strip(b"\0"):
        return UnknownFormat("it begins with zeros: a raw memory image, or a file that was never written", offset=0)
    if kind := find_kind_of_text(head):
        return UnknownFormat(kind, offset=0)
    return UnknownFormat(
        "of no known kind: dumps, images, PDBs, lists of indexes, symchk manifests and debugger logs are read", offset=0
    )


_PAGE_BYTES = 4096
_MOUNT_POINT = 0xA0000003

# A few files cost less than handing them to a thread, so that threads take them by the dozen.
_FILES_AT_ONCE = 32
_SORTED_AT_ONCE = 4096
_PATIENCE_S = 0.02
_MOST_OPEN_FOLDERS = 64
_BY_NAME = attrgetter("name")


def read_folder(path: Path, choose: Choose, *, threads: int = 4) -> Iterator[Record]:
    """Yield the folder, then what the files below it hold, in the order of the walk.

    Files of other kinds are passed over, and so are devices, pipes and sockets, which are never opened. Links to
    files are followed, links and junctions to folders are not: what they lead to would be read twice or for ever.
    A file or folder that cannot be read is reported and the rest goes on. The order is by name within a folder
    (folders with more than 4,096 entries: within each 4,096 as the system lists them), so that two runs agree.

    *choose* returns the reader for a file that begins with the given bytes, at most 64; None to pass it over. As many
    files as there are *threads* may be waited for at once; disks on a network gain most.
    """
    yield Input(str(path), InputKind.FOLDER)
    files = _walk(path)
    try:
        for records in _read_batches(files, choose, threads):
            for record in records:
                if isinstance(record, str):  # its reader asks something, so that it is read where the answer comes from
                    yield from _read_here(record, choose)
                else:
                    yield record
    finally:
        files.close()


def _read_batches(files: Iterator[str | Unreadable], choose: Choose, threads: int) -> Iterator[list[_Found]]:
    """Yield what each batch of *files* holds: read right here, or by threads once the disk keeps this one waiting.

    With what is in the system's cache, threads only wait for each other.
    """
    batches = iter(lambda: list(islice(files, _FILES_AT_ONCE)), [])
    for batch in batches:
        began_s, began_cpu_s = time.monotonic(), time.thread_time()
        found = _read_batch(batch, choose)
        is_kept_waiting = time.monotonic() - began_s > 5 * (time.thread_time() - began_cpu_s) + _PATIENCE_S
        yield found
        if is_kept_waiting:
            break
    else:
        return
    from concurrent.futures import ThreadPoolExecutor  # noqa: PLC0415 - it takes longer than a small folder

    waiting: deque[Future[list[_Found]]] = deque()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="symcache-folder")
    try:
        for batch in batches:
            waiting.append(pool.submit(_read_batch, batch, choose))
            if len(waiting) > 2 * threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)


def _walk(root: Path) -> Generator[str | Unreadable, None, None]:
    """Yield the path of every regular file below *root*, and each folder that cannot be listed."""
    open_folders = [_list_folder(str(root), 0)]
    try:
        while open_folders:
            entry = next(open_folders[-1], None)
            if entry is None:
                open_folders.pop()
            elif isinstance(entry, Unreadable):
                yield entry
            else:
                try:
                    if entry.is_dir(follow_symlinks=False):
                        if not _is_junction(entry):
                            open_folders.append(_list_folder(entry.path, len(open_folders)))
                    elif entry.is_file():
                        yield entry.path
                except OSError as error:  # a link that leads to itself
                    yield _unreadable(entry.path, error)
    finally:
        for folder in open_folders:
            folder.close()


def _list_folder(path: str, depth: int) -> Generator[os.DirEntry[str] | Unreadable, None, None]:
    """Yield what *path* holds, sorted piece by piece; far down at once, as open folders are scarce."""
    try:
        with os.scandir(path) as entries:
            if depth < _MOST_OPEN_FOLDERS:
                while piece := sorted(islice(entries, _SORTED_AT_ONCE), key=_BY_NAME):
                    yield from piece
                return
            piece = sorted(entries, key=_BY_NAME)
        yield from piece
    except OSError as error:
        yield _unreadable(path, error)


def _is_junction(entry: os.DirEntry[str]) -> bool:
    """Tell whether a folder is a Windows mount point; `os.DirEntry.is_junction` came with Python 3.12."""
    status = entry.stat(follow_symlinks=False)
    return getattr(status, "st_reparse_tag", 0) == _MOUNT_POINT


def _read_batch(batch: list[str | Unreadable], choose: Choose) -> list[_Found]:
    found: list[_Found] = []
    for file in batch:
        if isinstance(file, str):
            found += _read_file(file, choose)
        else:
            found.append(file)
    return found


def _read_file(path: str, choose: Choose) -> list[_Found]:
    """Return the modules of one file; one that cannot be read is one record, whatever it gave before."""
    found: list[_Found] = []
    try:
        for record in _records_of(path, choose):
            if isinstance(record, Module | Unreadable):
                found.append(record)
            elif isinstance(record, KernelPdbWanted):
                return [path]
    except (InputError, OSError) as error:
        return [_unreadable(path, error)]
    return found


def _read_here(path: str, choose: Choose) -> Iterator[Record]:
    """Yield the modules of one file and what its reader asks."""
    try:
        for record in _records_of(path, choose):
            if isinstance(record, Module | Unreadable | KernelPdbWanted):
                yield record
    except (InputError, OSError) as error:
        yield _unreadable(path, error)


def _records_of(path: str, choose: Choose) -> Iterator[Record]:
    with FileView(path) as file:
        view = _Begun(file)
        read = choose(view.start[:_HEAD_BYTES])
        if read is not None:
            yield from read(view, path)


class _Begun:
    """A file whose first page is at hand: it tells what the file is, and holds the headers of most."""

    def __init__(self, file: FileView) -> None:
        self._file = file
        self.size = file.size
        self.start = file.read(0, min(file.size, _PAGE_BYTES))

    def read(self, offset: int, length: int) -> bytes:
        if 0 <= offset <= offset + length <= len(self.start):
            return self.start[offset : offset + length]
        return self._file.read(offset, length)


def _unreadable(path: str, error: InputError | OSError) -> Unreadable:
    if isinstance(error, InputError):
        return Unreadable(path, error.problem, error.offset)
    return Unreadable(redact_words(path), error.strerror or str(error))  # a URL, perhaps, meant for an option
