"""What an input is, told by its content and never by its name, and which reader takes it."""

from __future__ import annotations

import stat
import sys
from dataclasses import dataclass, field, replace
from functools import cache, partial
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias, runtime_checkable

from symcache.config import BuildSettings
from symcache.errors import InputError, TruncatedInput, UnknownFormat
from symcache.events import ignore
from symcache.formats.memory.kinds import ELF_MAGIC, SURE_MAGICS, looks_like_raw_memory
from symcache.formats.view import BytesView, FileView, check_range
from symcache.identity import base_name, check_path_part
from symcache.inputs.folder import HEAD_BYTES, read_folder
from symcache.inputs.mounted import find_mounted_windows
from symcache.inputs.records import (
    OF_COMPLETE_DUMPS,
    STANDARD_INPUT,
    CrashStack,
    InputKind,
    Module,
    Narrowed,
    PassedOver,
    unreadable,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from concurrent.futures import Future

    from symcache.config import Inputs
    from symcache.events import Observer
    from symcache.formats.view import ByteView
    from symcache.inputs.folder import Reader
    from symcache.inputs.records import ProcessSelection, Record
    from symcache.inputs.sets import NameSet

Content: TypeAlias = bytes | BinaryIO


@runtime_checkable
class ModuleSource(Protocol):
    """What stands in place of a file and knows where its modules come from: a small frozen value."""

    @property
    def path(self) -> str:
        """What reports call it, as the user would write it."""
        ...

    def records(self, options: InputOptions) -> Iterable[Record]:
        """Yield what it holds, as a reader does: an `Input` first.

        Raises:
            InputError: It cannot be read; the run goes on with the next.
            OSError: The same.
        """
        ...


InputSource: TypeAlias = str | Path | Content | tuple[str, Content] | ModuleSource
"""A path, or what a file holds, alone or behind the name of the file, without which an image has no key.

Or what finds its modules itself.
"""

_TEXT_BYTES = 1 << 16
_COPIED_BYTES = 1 << 20
_SMALLEST_PASSED_BYTES = 1 << 20  # of what a Windows could be in
_TRIAGE = 4
_BEFORE_JSON = b"\xef\xbb\xbf\xff\xfe\0 \t\r\n"  # marks of UTF-8 and UTF-16, and blanks


_READERS = {
    InputKind.KERNEL_DUMP: ("kerneldump", "read_kernel_dump"),
    InputKind.TRIAGE_DUMP: ("kerneldump", "read_kernel_dump"),
    InputKind.MINIDUMP: ("minidump", "read_minidump"),
    InputKind.RAW_MEMORY: ("rawmemory", "read_raw_memory"),
    InputKind.IMAGE: ("image", "read_image"),
    InputKind.PDB: ("pdbfile", "read_pdb"),
    InputKind.MANIFEST: ("manifest", "read_manifest"),
    InputKind.DEBUGGER_LOG: ("log.reader", "read_debugger_log"),
    InputKind.LOCK: ("lock", "read_lock"),
    InputKind.REPORT: ("lock", "read_report"),
    InputKind.ETL: ("trace", "read_etl"),
    InputKind.NETTRACE: ("trace", "read_nettrace"),
    InputKind.DISK: ("disk", "read_disk"),
    InputKind.SCAN: ("modulelist", "read_module_list"),
    InputKind.CRASH_REPORT: ("crashreport", "read_crash_report"),
    InputKind.PROFILE: ("crashreport", "read_profile"),
    InputKind.ARCHIVE: ("archive", "read_archive"),
}


@dataclass(frozen=True, slots=True)
class InputOptions:
    """How inputs are read, the same for all.

    Attributes:
        processes: Those of kernel dumps and memory images whose modules are wanted.
        only: Names of sets; modules of no other are wanted. Empty for all modules, or those that a source chooses.
        own_sets: Members of the sets of the config file by their names.
        builds: Where the index of Windows builds is.
        limits: How far archives are read; None as far as without a config file.
        cores: How many processes may read a long trace; None for as many as there are processors. One is enough for
            programs that are not made for processes of their own, which begin by importing their main module.
        observer: Is told how far a long input has been read, from any thread.
        runs_programs: What has to be expanded by a program of others (wimlib-imagex) is; not where strangers send it.
    """

    processes: ProcessSelection | None = OF_COMPLETE_DUMPS
    only: tuple[str, ...] = ()
    own_sets: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    builds: BuildSettings = field(default_factory=BuildSettings)
    limits: Inputs | None = None
    cores: int | None = 1
    observer: Observer = ignore
    runs_programs: bool = True

    def names(self, *otherwise: str) -> NameSet | None:
        """Return the names of files that are wanted: of the sets in *only*, else of the sets *otherwise*, else None.

        A source that would have too many modules chooses by them what it reads at all.

        Raises:
            UsageError: A set that is not known, or one of the config file that cannot be used.
        """
        if not (self.only or otherwise):
            return None
        from symcache.inputs.sets import load_sets  # noqa: PLC0415 - most runs take every module

        return load_sets(self.own_sets).union(self.only or otherwise)

    @property
    def takes_all(self) -> bool:
        """Every module was asked for, by the set of that name."""
        return any(name.casefold() == "all" for name in self.only)

    def disk_names(self) -> NameSet | None:
        """Return the names of files that are wanted of a disk."""
        from symcache.inputs.windowsfolder import DEFAULT_SETS  # noqa: PLC0415 - few runs meet a disk

        return self.names(*DEFAULT_SETS)

    def reader(self, kind: InputKind) -> Reader:
        """Return what reads inputs of *kind*; a folder is walked."""
        module, name = _READERS[kind]
        reader = _imported(f"inputs.{module}", name)
        if kind is InputKind.DISK:
            return partial(reader, names=self.disk_names(), options=self)
        if module in {"kerneldump", "rawmemory"}:
            return partial(reader, user=self.processes)
        return partial(reader, options=self) if module in {"archive", "trace"} else reader


_DEFAULT = InputOptions()


def detect(view: ByteView) -> InputKind:
    """Return what the bytes of *view* are; 64 KiB from its start are read and its last sector, of JSON more.

    Raises:
        UnknownFormat: Nothing that is read here; the text says what it is and what to do, where that is known.
        TruncatedInput: A kernel dump that ends within its header.
    """
    head = view.read(0, min(view.size, HEAD_BYTES))
    if not head:
        raise UnknownFormat("it is empty")
    kind = kind_of(head)
    if kind is InputKind.KERNEL_DUMP:
        from symcache.formats.dump.header import read_dump_header  # noqa: PLC0415

        return InputKind.TRIAGE_DUMP if read_dump_header(view).dump_type == _TRIAGE else kind
    if kind is not None:
        return kind
    from symcache.formats.disk.kinds import find_disk_format  # noqa: PLC0415

    if find_disk_format(view) is not None:
        return InputKind.DISK
    if head.lstrip(_BEFORE_JSON).startswith((b"{", b"[")) and (document := _find_json(view)) is not None:
        return document
    from symcache.inputs.manifest import looks_like_manifest  # noqa: PLC0415

    if looks_like_manifest(view):
        return InputKind.MANIFEST
    from symcache.inputs.log.reader import is_long_text, looks_like_debugger_log  # noqa: PLC0415

    start = view.read(0, min(view.size, _TEXT_BYTES))
    if looks_like_debugger_log(start) or is_long_text(start, view.size):
        return InputKind.DEBUGGER_LOG
    if _is_memory(view, start):
        return InputKind.RAW_MEMORY
    from symcache.inputs.refusals import refusal_of  # noqa: PLC0415

    raise _refuse_end(view) or refusal_of(start)


def _find_json(view: ByteView) -> InputKind | None:
    """Return which document *view* holds; None if it is no JSON.

    Raises:
        UnknownFormat: It is JSON of another kind.
    """
    from symcache.formats.jsonlists import looks_like_json  # noqa: PLC0415
    from symcache.inputs.lock import find_document  # noqa: PLC0415

    start = view.read(0, min(view.size, _TEXT_BYTES))
    if (document := find_document(start)) is not None:
        return document
    if not looks_like_json(start):
        return None
    from symcache.inputs.crashreport import find_report  # noqa: PLC0415

    if (document := find_report(view)) is not None:
        return document
    raise UnknownFormat(
        "JSON of another kind: events of Sentry, reports of Socorro and minidump-stackwalk, requests and answers of"
        " symbolicator, profiles of Firefox and samply, and symcache's own lock files, reports and scans are read",
        offset=0,
    )


def open_inputs(inputs: Iterable[InputSource], options: InputOptions = _DEFAULT) -> Iterator[Record]:
    """Yield what all of *inputs* hold, one after the other; see `read_input`.

    Modules that are in none of the sets that *options* name are left out and counted.

    Raises:
        UsageError: At once, one of the sets is not known, or cannot be used.
    """
    records = (record for source in inputs for record in read_input(source, options))
    names = options.names()
    return records if names is None else _narrow(records, names)


def _narrow(records: Iterable[Record], names: NameSet) -> Iterator[Record]:
    left_out = 0
    for record in records:
        if isinstance(record, Module) and not names.takes_module(record):
            left_out += 1
        elif isinstance(record, CrashStack):
            yield replace(record, modules=tuple(each for each in record.modules if names.takes_module(each.module)))
        else:
            yield record
    if left_out:
        yield Narrowed(names.label, left_out)


def read_input(
    source: InputSource, options: InputOptions = _DEFAULT, *, stdin: BinaryIO | None = None
) -> Iterator[Record]:
    """Yield what one input holds; whatever is wrong with it becomes a record too.

    Images, PDBs, dumps and archives of a folder are read, texts in it are passed over. *source* is the path of a file,
    a folder or a pipe, ``-`` for standard input, or what a file holds: bytes or a binary file object, read from its
    beginning, alone or as a pair behind its name. What cannot be read twice is copied first. A `ModuleSource` reads
    itself.
    """
    if isinstance(source, ModuleSource):
        path, content = source.path, None
    else:
        path, content = _name(source)
    try:
        if isinstance(source, ModuleSource):
            yield from source.records(options)
        elif content is not None:
            yield from _read_content(path, content, options)
        elif path == STANDARD_INPUT:
            yield from _read_stream(path, stdin or sys.stdin.buffer, options)
        else:
            yield from _read(path, options)
    except (InputError, OSError) as error:
        yield unreadable(path, error)


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


def _name(source: str | Path | Content | tuple[str, Content]) -> tuple[str, Content | None]:
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
        windows = None if options.takes_all else find_mounted_windows(Path(path))
        if windows is not None:
            yield from _imported("inputs.disk", "read_windows_folder")(path, windows, names=options.disk_names())
            return
        readers = cache(partial(_folder_reader, options))
        yield from read_folder(Path(path), lambda head: readers(kind_of(head)))
    elif stat.S_ISFIFO(mode):
        with Path(path).open("rb") as pipe:
            yield from _read_stream(path, pipe, options)
    elif stat.S_ISREG(mode) or stat.S_ISBLK(mode):
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
            while piece := _read_heedfully(read):
                file.write(piece)
        with FileView(copy) as view:
            yield from options.reader(detect(view))(view, path)


if sys.platform == "win32":

    def _read_heedfully(read: Callable[[int], bytes]) -> bytes:
        """Read once, and heed Ctrl-C meanwhile: Windows would keep the main thread in a read until something comes."""
        import threading  # noqa: PLC0415
        from concurrent.futures import Future, wait  # noqa: PLC0415

        future: Future[bytes] = Future()

        def call() -> None:
            try:
                future.set_result(read(_COPIED_BYTES))
            except BaseException as error:  # noqa: BLE001 - raised where it is waited for
                future.set_exception(error)

        threading.Thread(target=call, name="standard input", daemon=True).start()
        while not future.done():
            wait([future], timeout=_HEED_S)
        return future.result()

else:

    def _read_heedfully(read: Callable[[int], bytes]) -> bytes:
        return read(_COPIED_BYTES)


_HEED_S = 0.1


class _SeekView:
    """A file object that can be read anywhere, by one reader at a time."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.size = file.seek(0, 2)

    def read(self, offset: int, length: int) -> bytes:
        check_range(offset, length, self.size)
        self._file.seek(offset)
        parts, left = [], length
        while left and (part := self._file.read(left)):
            parts.append(part)
            left -= len(part)
        if left:
            raise TruncatedInput("the file became shorter while it was read", offset=offset + length - left)
        return b"".join(parts)


def is_text(head: bytes) -> bool:
    """Tell whether *head*, the first few KiB of a file, is text."""
    from symcache.inputs.log.reader import is_text_start  # noqa: PLC0415 - of few inputs

    return is_text_start(head)


def _folder_reader(options: InputOptions, kind: InputKind | None) -> Reader | None:
    if kind is InputKind.ARCHIVE:
        return partial(_imported("inputs.archive", "read_archive"), options=options, takes_texts=False)
    if kind is InputKind.IMAGE:
        return _imported("inputs.image", "read_module")
    # Several files are read at once, so that one process is enough for each.
    return _pass_over if kind is None else replace(options, cores=1).reader(kind)


def _pass_over(view: ByteView, path: str) -> Iterator[PassedOver]:
    """Yield a file of a folder that is a disk or a machine's memory: reading one may take longer than all the rest."""
    if view.size < _SMALLEST_PASSED_BYTES:
        return
    from symcache.formats.disk.kinds import find_disk_format  # noqa: PLC0415 - few files are that long

    file = getattr(view, "file", view)
    if (disk := find_disk_format(view)) is not None:
        what = f"an image of a disk ({disk})"
    elif path.lower().endswith(".vmem") and _imported("inputs.rawmemory", "has_state_beside")(file):
        return  # the state is read, and the memory with it
    elif _is_memory(file, view.read(0, min(view.size, _TEXT_BYTES))):
        what = "perhaps a machine's memory"
    else:
        return
    yield PassedOver(f'{path}: {what}, passed over in a folder; `symcache scan "{path}"` reads it')


# The upper half of the length of an event log's first buffer, which is not longer than 1 MiB.
_ETL_SIZES = frozenset(bytes([size, 0]) for size in range(17))


def kind_of(head: bytes) -> InputKind | None:
    """Return what a file that begins with *head*, up to 512 bytes, is; None for texts and all that is not read."""
    if head.startswith((b"PAGEDUMP", b"PAGEDU64")):
        return InputKind.KERNEL_DUMP
    if head.startswith((b"MDMP", b"PMDM")):
        return InputKind.MINIDUMP
    if head.startswith(SURE_MAGICS):
        return InputKind.RAW_MEMORY
    if head.startswith((b"MZ", b"DI")):
        return InputKind.IMAGE if _imported("inputs.image", "is_image")(head) else None
    if head.startswith(b"Nettrace"):
        return InputKind.NETTRACE
    if head[2:4] in _ETL_SIZES and _imported("formats.trace.etl", "looks_like_etl")(head):
        return InputKind.ETL
    if head.startswith((b"M", b"B")) and _imported("formats.pdb.info", "looks_like_pdb")(head):
        return InputKind.PDB
    return InputKind.ARCHIVE if _imported("formats.archive.member", "find_archive")(head) is not None else None


def _is_memory(view: ByteView, start: bytes) -> bool:
    """Tell whether a file that begins with *start* is a machine's memory without a sure sign in its first bytes."""
    if start.startswith(ELF_MAGIC):
        return bool(_imported("formats.memory.elfcore", "is_elf_core")(start))
    if looks_like_raw_memory(start, view.size):
        return True
    path = str(getattr(view, "file_path", ""))
    return path.lower().endswith(".vmem") and bool(_imported("inputs.rawmemory", "has_state_beside")(view))


@cache
def _imported(module: str, name: str) -> Callable[..., Any]:
    """Return a function, whose module is imported for the first input that needs it: most runs meet one kind or two."""
    function: Callable[..., Any] = getattr(import_module(f"symcache.{module}"), name)
    return function


def _refuse_end(view: ByteView) -> UnknownFormat | None:
    """Return the error for a file that ends as a zip and does not begin as one."""
    from symcache.formats.archive.zip import END_BYTES, find_end_of_zip  # noqa: PLC0415

    at = max(0, view.size - END_BYTES)
    what = find_end_of_zip(view.read(at, view.size - at))
    return None if what is None else UnknownFormat(what, offset=at)
