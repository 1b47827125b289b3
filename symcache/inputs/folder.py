"""Folders as inputs: what the files below them hold."""

from __future__ import annotations

import os
import time
from collections import deque
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, TypeAlias

from symcache.errors import InputError
from symcache.formats.view import BegunView, FileView
from symcache.inputs.records import (
    CrashStack,
    Input,
    InputKind,
    KernelPdbWanted,
    Module,
    PassedOver,
    PdbFolder,
    Remark,
    Unreadable,
    unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Iterator
    from concurrent.futures import Future
    from pathlib import Path

    from symcache.formats.view import ByteView
    from symcache.inputs.records import Record

    Reader: TypeAlias = Callable[[ByteView, str], Iterable[Record]]
    Choose: TypeAlias = Callable[[bytes], Reader | None]
    _Found: TypeAlias = Module | CrashStack | PdbFolder | PassedOver | Unreadable | str

HEAD_BYTES = 512
"""By how much of its beginning the reader of a file is chosen: a tar is told by its first header."""

_MOUNT_POINT = 0xA0000003

# A few files cost less than handing them to a thread, so that threads take them by the dozen.
_FILES_AT_ONCE = 32
_SORTED_AT_ONCE = 4096
_PATIENCE_S = 0.02
_MOST_OPEN_FOLDERS = 64
_BY_NAME = attrgetter("name")


def read_folder(path: Path, choose: Choose, *, threads: int = 4) -> Iterator[Record]:
    """Yield the folder, then what the files below it hold, in the order of the walk.

    Files of other kinds are passed over, and so are devices, pipes and sockets, which are never opened; of those that
    are `PassedOver` one remark at the end tells. Links to files are followed, links and junctions to folders are not:
    what they lead to would be read twice or for ever.
    A file or folder that cannot be read is reported and the rest goes on. The order is by name within a folder
    (folders with more than 4,096 entries: within each 4,096 as the system lists them), so that two runs agree.

    *choose* returns the reader for a file that begins with the given bytes, at most `HEAD_BYTES`; None to pass it over.
    As many files as there are *threads* may be waited for at once; disks on a network gain most.
    """
    yield Input(str(path), InputKind.FOLDER)
    files = _walk(path)
    told = ""
    count = 0
    try:
        for records in _read_batches(files, choose, threads):
            for record in records:
                if isinstance(record, PassedOver):
                    told = told or record.text
                    count += 1
                elif isinstance(record, str):  # its reader asks, so that it is read where the answer comes from
                    yield from _read_here(record, choose)
                else:
                    yield record
    finally:
        files.close()
    if count:
        yield Remark(told if count == 1 else f"{told} (disks and memory images in the folder: {count})")


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
                        if not is_junction(entry):
                            open_folders.append(_list_folder(entry.path, len(open_folders)))
                    elif entry.is_file():
                        yield entry.path
                except OSError as error:  # a link that leads to itself
                    yield unreadable(entry.path, error)
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
        yield unreadable(path, error)


def is_junction(entry: os.DirEntry[str]) -> bool:
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
    """Return the modules of one file and its stack; one that cannot be read is one record, whatever it gave before."""
    found: list[_Found] = []
    try:
        for record in _records_of(path, choose):
            if isinstance(record, Module | CrashStack | PdbFolder | PassedOver | Unreadable):
                found.append(record)
            elif isinstance(record, KernelPdbWanted) or (
                isinstance(record, Input) and record.kind is InputKind.ARCHIVE  # of any number of files
            ):
                return [path]
    except (InputError, OSError) as error:
        return [unreadable(path, error)]
    return found


def _read_here(path: str, choose: Choose) -> Iterator[Record]:
    """Yield the modules of one file, its stack and what its reader asks."""
    try:
        for record in _records_of(path, choose):
            if isinstance(record, Module | CrashStack | PdbFolder | Unreadable | KernelPdbWanted):
                yield record
    except (InputError, OSError) as error:
        yield unreadable(path, error)


def _records_of(path: str, choose: Choose) -> Iterator[Record]:
    with FileView(path) as file:
        view = BegunView(file)
        read = choose(view.start[:HEAD_BYTES])
        if read is not None:
            yield from read(view, path)
