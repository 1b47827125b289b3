"""What an input is, told by its content and never by its name, and which reader takes it."""

from __future__ import annotations

import shutil
import stat
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, BinaryIO

from symcache.errors import InputError, UnknownFormat
from symcache.formats.dump.header import read_dump_header
from symcache.formats.dump.unsupported import find_other_dump
from symcache.formats.pdb.info import looks_like_pdb
from symcache.formats.view import FileView
from symcache.inputs.folder import read_folder
from symcache.inputs.image import is_image, read_image
from symcache.inputs.kerneldump import OF_COMPLETE_DUMPS, read_kernel_dump
from symcache.inputs.log.reader import find_kind_of_text, is_long_text, looks_like_debugger_log, read_debugger_log
from symcache.inputs.manifest import looks_like_manifest, read_manifest
from symcache.inputs.minidump import read_minidump
from symcache.inputs.pdbfile import read_pdb
from symcache.inputs.records import InputKind, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.view import ByteView
    from symcache.inputs.folder import Reader
    from symcache.inputs.kerneldump import FindLayout, ProcessSelection
    from symcache.inputs.records import Record

__all__ = ["InputOptions", "detect", "open_inputs", "read_input"]


_STANDARD_INPUT = "-"
_HEAD_BYTES = 64
_TEXT_BYTES = 1 << 16
_COPIED_BYTES = 1 << 20
_TRIAGE = 4

_READERS: dict[InputKind, Reader] = {
    InputKind.MINIDUMP: read_minidump,
    InputKind.IMAGE: read_image,
    InputKind.PDB: read_pdb,
    InputKind.MANIFEST: read_manifest,
    InputKind.DEBUGGER_LOG: read_debugger_log,
}


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How inputs are read, the same for all of them.

    Attributes:
        processes: Processes of kernel dumps whose modules are wanted; None for none.
        find_layout: See `read_kernel_dump`.
    """

    processes: ProcessSelection | None = OF_COMPLETE_DUMPS
    find_layout: FindLayout | None = None

    def reader(self, kind: InputKind) -> Reader:
        """Return what reads inputs of *kind*."""
        if kind in {InputKind.KERNEL_DUMP, InputKind.TRIAGE_DUMP}:
            return partial(read_kernel_dump, user=self.processes, find_layout=self.find_layout)
        return _READERS[kind]


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
        return InputKind.TRIAGE_DUMP if read_dump_header(view).dump_type == _TRIAGE else kind
    if kind is not None:
        return kind
    if looks_like_manifest(view):
        return InputKind.MANIFEST
    start = view.read(0, min(view.size, _TEXT_BYTES))
    if looks_like_debugger_log(start) or is_long_text(start, view.size):
        return InputKind.DEBUGGER_LOG
    raise _refuse(start)


def open_inputs(paths: Iterable[str | Path], options: InputOptions = _DEFAULT) -> Iterator[Record]:
    """Yield what all of *paths* hold, one after the other; see `read_input`."""
    for path in paths:
        yield from read_input(str(path), options)


def read_input(path: str, options: InputOptions = _DEFAULT, *, stdin: BinaryIO | None = None) -> Iterator[Record]:
    """Yield what one input holds; whatever is wrong with it becomes a record too.

    Images, PDBs and dumps of a folder are read, texts in it are passed over.

    Args:
        path: A file, a folder, a pipe, or ``-`` for standard input; what cannot be read twice is copied first.
        options: How it is read.
        stdin: What stands behind ``-``; None for the process's own.
    """
    try:
        yield from _read(path, stdin, options)
    except InputError as error:
        yield Unreadable(path, error.problem, error.offset)
    except OSError as error:
        yield Unreadable(path, error.strerror or str(error))


def _read(path: str, stdin: BinaryIO | None, options: InputOptions) -> Iterator[Record]:
    if path == _STANDARD_INPUT:
        with _copied(stdin or sys.stdin.buffer) as view:
            yield from options.reader(detect(view))(view, path)
        return
    if "\0" in path:
        raise UnknownFormat("a path cannot hold a NUL character")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        yield from read_folder(Path(path), lambda head: _choose(head, options))
    elif stat.S_ISFIFO(mode):
        with Path(path).open("rb") as pipe, _copied(pipe) as view:
            yield from options.reader(detect(view))(view, path)
    elif stat.S_ISREG(mode):
        with FileView(path) as view:
            yield from options.reader(detect(view))(view, path)
    else:
        raise UnknownFormat("neither a file nor a folder")


def _choose(head: bytes, options: InputOptions) -> Reader | None:
    kind = _kind_of(head)
    return None if kind is None else options.reader(kind)


@contextmanager
def _copied(stream: BinaryIO) -> Iterator[FileView]:
    """Lend the whole of *stream* as a file of its own."""
    with TemporaryDirectory(prefix="symcache-") as folder:
        copy = Path(folder, "input")
        with copy.open("xb") as file:
            shutil.copyfileobj(stream, file, _COPIED_BYTES)
        with FileView(copy) as view:
            yield view


def _kind_of(head: bytes) -> InputKind | None:
    if head.startswith((b"PAGEDUMP", b"PAGEDU64")):
        return InputKind.KERNEL_DUMP
    if head.startswith((b"MDMP", b"PMDM")):
        return InputKind.MINIDUMP
    if is_image(head):
        return InputKind.IMAGE
    if looks_like_pdb(head):
        return InputKind.PDB
    return None


def _refuse(head: bytes) -> UnknownFormat:
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
