"""Folders: every image and PDB below, many files at a time, with bounded memory."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import InputError
from symcache.formats.view import ByteView, FileView
from symcache.inputs.records import Input, InputKind, KernelPdbWanted, Module, Record, Unreadable

if TYPE_CHECKING:
    from concurrent.futures import Future
    from pathlib import Path

__all__ = ["Choose", "Reader", "read_folder"]


Reader: TypeAlias = Callable[[ByteView, str], Iterator[Record]]
Choose: TypeAlias = Callable[[bytes], Reader | None]

_START_BYTES = 64
_MOUNT_POINT = 0xA0000003

# A few files cost less than handing them to a thread, so that threads take them by the dozen.
_FILES_AT_ONCE = 32
_SORTED_AT_ONCE = 4096
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
    waiting: deque[Future[list[Record | _Questioner]]] = deque()
    files = _walk(path)
    pool = ThreadPoolExecutor(threads, thread_name_prefix="symcache-folder")
    try:
        for batch in _batches(files):
            waiting.append(pool.submit(_read_batch, batch, choose))
            if len(waiting) > 2 * threads:
                yield from _with_questions(waiting.popleft().result(), choose)
        while waiting:
            yield from _with_questions(waiting.popleft().result(), choose)
    finally:
        pool.shutdown(cancel_futures=True)
        files.close()


@dataclass(frozen=True, slots=True)
class _Questioner:
    """A file whose reader asks something, so that it is read where the answer comes from."""

    path: str


@dataclass(frozen=True, slots=True)
class _Failure:
    """The end of a file that cannot be read any further."""

    reason: Unreadable


def _with_questions(records: list[Record | _Questioner], choose: Choose) -> Iterator[Record]:
    for record in records:
        if isinstance(record, _Questioner):
            for found in _read_records(record.path, choose):
                yield found.reason if isinstance(found, _Failure) else found
        else:
            yield record


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


def _batches(files: Iterator[str | Unreadable]) -> Iterator[list[str | Unreadable]]:
    while batch := list(islice(files, _FILES_AT_ONCE)):
        yield batch


def _read_batch(batch: list[str | Unreadable], choose: Choose) -> list[Record | _Questioner]:
    records: list[Record | _Questioner] = []
    for file in batch:
        if isinstance(file, Unreadable):
            records.append(file)
        else:
            records.extend(_read_file(file, choose))
    return records


def _read_file(path: str, choose: Choose) -> Sequence[Record | _Questioner]:
    """Return the modules of one file; one that cannot be read is one record, whatever it gave before."""
    records: list[Record] = []
    for record in _read_records(path, choose):
        if isinstance(record, KernelPdbWanted):
            return [_Questioner(path)]
        if isinstance(record, _Failure):
            return [record.reason]
        records.append(record)
    return records


def _read_records(path: str, choose: Choose) -> Iterator[Record | _Failure]:
    try:
        with FileView(path) as view:
            read = choose(view.read(0, min(view.size, _START_BYTES)))
            if read is not None:
                for record in read(view, path):
                    if isinstance(record, Module | Unreadable | KernelPdbWanted):
                        yield record
    except InputError as error:
        yield _Failure(Unreadable(path, error.problem, error.offset))
    except OSError as error:
        yield _Failure(_unreadable(path, error))


def _unreadable(path: str, error: OSError) -> Unreadable:
    return Unreadable(path, error.strerror or str(error))
