"""What an input is, told by its content and never by its name, and which reader takes it."""

from __future__ import annotations

import stat
import sys
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, TypeAlias

from symcache.errors import InputError, TruncatedInput, UnknownFormat
from symcache.formats.view import BytesView, FileView
from symcache.identity import base_name, check_path_part
from symcache.inputs.records import OF_COMPLETE_DUMPS, InputKind, Unreadable
from symcache.sympath import redact_words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from symcache.formats.view import ByteView
    from symcache.inputs.records import ProcessSelection, Record

    Reader: TypeAlias = Callable[[ByteView, str], Iterator[Record]]

__all__ = ["InputOptions", "InputSource", "copy_input", "detect", "open_inputs", "read_input"]


Content: TypeAlias = bytes | BinaryIO
InputSource: TypeAlias = str | Path | Content | tuple[str, Content]
"""A path, or what a file holds, alone or behind the name of the file, without which an image has no key."""

_STANDARD_INPUT = "-"
_HEAD_BYTES = 64
_TEXT_BYTES = 1 << 16
_COPIED_BYTES = 1 << 20
_TRIAGE = 4


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How inputs are read, the same for all of them.

    Attributes:
        processes: Processes of kernel dumps whose modules are wanted; None for none.
    """

    processes: ProcessSelection | None = OF_COMPLETE_DUMPS

    def reader(self, kind: InputKind) -> Reader:
        """Return what reads inputs of *kind*."""
        # Each kind's reader is imported for the first input of that kind: most runs meet one or two.
        match kind:
            case InputKind.KERNEL_DUMP | InputKind.TRIAGE_DUMP:
                from symcache.inputs.kerneldump import read_kernel_dump  # noqa: PLC0415

                return partial(read_kernel_dump, user=self.processes)
            case InputKind.MINIDUMP:
                from symcache.inputs.minidump import read_minidump  # noqa: PLC0415

                return read_minidump
            case InputKind.IMAGE:
                from symcache.inputs.image import read_image  # noqa: PLC0415

                return read_image
            case InputKind.PDB:
                from symcache.inputs.pdbfile import read_pdb  # noqa: PLC0415

                return read_pdb
            case InputKind.MANIFEST:
                from symcache.inputs.manifest import read_manifest  # noqa: PLC0415

                return read_manifest
            case InputKind.DEBUGGER_LOG:
                from symcache.inputs.log.reader import read_debugger_log  # noqa: PLC0415

                return read_debugger_log
            case InputKind.FOLDER:
                raise ValueError("a folder is walked")


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

    Images, PDBs and dumps of a folder are read, texts in it are passed over.

    Args:
        source: The path of a file, a folder or a pipe, ``-`` for standard input, or what a file holds: bytes or a
            binary file object, read from its beginning, alone or as a pair behind its name. What cannot be read twice
            is copied first.
        options: How it is read.
        stdin: What stands behind ``-``; None for the process's own.
    """
    path, content = _name(source)
    try:
        if content is not None:
            yield from _read_content(path, content, options)
        elif path == _STANDARD_INPUT:
            yield from _read_stream(path, stdin or sys.stdin.buffer, options)
        else:
            yield from _read(path, options)
    except InputError as error:
        yield Unreadable(path, error.problem, error.offset)
    except OSError as error:
        yield Unreadable(redact_words(path), error.strerror or str(error))  # a URL, perhaps, meant for an option


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
        return _STANDARD_INPUT, source
    name = getattr(source, "name", None)
    return name if isinstance(name, str) else _STANDARD_INPUT, source


def _read(path: str, options: InputOptions) -> Iterator[Record]:
    if "\0" in path:
        raise UnknownFormat("a path cannot hold a NUL character")
    mode = Path(path).stat().st_mode
    if stat.S_ISDIR(mode):
        from symcache.inputs.folder import read_folder  # noqa: PLC0415

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
    if isinstance(content, bytes):
        view: ByteView = BytesView(content)
        yield from options.reader(detect(view))(view, path)
    elif content.seekable():
        view = _SeekView(content)
        yield from options.reader(detect(view))(view, path)
    else:
        yield from _read_stream(path, content, options)


def _read_stream(path: str, stream: BinaryIO, options: InputOptions) -> Iterator[Record]:
    with _copied(stream) as view:
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
        from symcache.inputs.image import read_image  # noqa: PLC0415

        return partial(read_image, with_details=False)
    return None if kind is None else options.reader(kind)


@contextmanager
def _copied(stream: BinaryIO) -> Iterator[FileView]:
    """Lend the whole of *stream* as a file of its own."""
    from tempfile import TemporaryDirectory  # noqa: PLC0415

    with TemporaryDirectory(prefix="symcache-") as folder:
        copy = Path(folder, "input")
        # One read of the system at a time: between those of a longer read, Ctrl-C is not heard.
        read = getattr(stream, "read1", stream.read)
        with copy.open("xb") as file:
            while piece := read(_COPIED_BYTES):
                file.write(piece)
        with FileView(copy) as view:
            yield view


def _kind_of(head: bytes) -> InputKind | None:
    if head.startswith((b"PAGEDUMP", b"PAGEDU64")):
        return InputKind.KERNEL_DUMP
    if head.startswith((b"MDMP", b"PMDM")):
        return InputKind.MINIDUMP
    if head[:2] in {b"MZ", b"DI"}:
        return InputKind.IMAGE if _image_test()(head) else None
    if head[:1] in {b"M", b"B"}:
        return InputKind.PDB if _pdb_test()(head) else None
    return None


@cache
def _image_test() -> Callable[[bytes], bool]:
    from symcache.inputs.image import is_image  # noqa: PLC0415

    return is_image


@cache
def _pdb_test() -> Callable[[bytes], bool]:
    from symcache.formats.pdb.info import looks_like_pdb  # noqa: PLC0415

    return looks_like_pdb


def _refuse(head: bytes) -> UnknownFormat:
    from symcache.formats.dump.unsupported import find_other_dump  # noqa: PLC0415
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
