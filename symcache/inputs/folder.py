"""Folders: every image and PDB below, many files at a time, with bounded memory."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import InputError
from symcache.formats.view import ByteView, FileView
from symcache.inputs.records import Input, InputKind, KernelPdbWanted, Module, Record, Unreadable

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

    _Found: TypeAlias = Module | Unreadable | str

__all__ = ["Choose", "Reader", "read_folder"]


Reader: TypeAlias = Callable[[ByteView, str], Iterable[Record]]
Choose: TypeAlias = Callable[[bytes], Reader | None]

_START_BYTES = 64
_PAGE_BYTES = 4096
_MOUNT_POINT = 0xA0000003

# A few files cost less than handing them to a thread, so that threads take them by the dozen.
_FILES_AT_ONCE = 32
_SORTED_AT_ONCE = 4096
_PATIENCE_S = 0.02
_MOST_OPEN_FOLDERS = 64


def read_folder(path: Path, choose: Choose, *, threads: int = 4) -> Iterator[Record]:
    """Yield the folder, then what the files below it hold, in the order of the walk.

    Files of other kinds are passed over, and so are devices, pipes and sockets, which are never opened. Links to
    files are followed, links and junctions to folders are not: what they lead to would be read twice or for ever.
    A file or folder that cannot be read is reported and the rest goes on. The order is by name within a folder
    (folders with more than 4,096 entries: within each 4,096 as the system lists them), so that two runs agree.

    Args:
        path: The folder.
        choose: Returns the reader for a file that begins with the given bytes, at most 64; None to pass it over.
        threads: How many files may be waited for at once; disks on a network gain most.
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
                while piece := sorted(islice(entries, _SORTED_AT_ONCE), key=_name):
                    yield from piece
                return
            piece = sorted(entries, key=_name)
        yield from piece
    except OSError as error:
        yield _unreadable(path, error)


def _name(entry: os.DirEntry[str]) -> str:
    return entry.name


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
        with FileView(path) as file:
            view = _Begun(file)
            read = choose(view.start[:_START_BYTES])
            for record in () if read is None else read(view, path):
                if isinstance(record, Module | Unreadable):
                    found.append(record)
                elif isinstance(record, KernelPdbWanted):
                    return [path]
    except InputError as error:
        return [Unreadable(path, error.problem, error.offset)]
    except OSError as error:
        return [_unreadable(path, error)]
    return found


def _read_here(path: str, choose: Choose) -> Iterator[Record]:
    """Yield the modules of one file and what its reader asks."""
    try:
        with FileView(path) as file:
            view = _Begun(file)
            read = choose(view.start[:_START_BYTES])
            for record in () if read is None else read(view, path):
                if isinstance(record, Module | Unreadable | KernelPdbWanted):
                    yield record
    except InputError as error:
        yield Unreadable(path, error.problem, error.offset)
    except OSError as error:
        yield _unreadable(path, error)


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


def _unreadable(path: str, error: OSError) -> Unreadable:
    return Unreadable(path, error.strerror or str(error))
