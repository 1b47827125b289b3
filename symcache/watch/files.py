"""Which files of watched folders are complete and have no report yet. Blocking; nothing of it knows an event loop."""

from __future__ import annotations

import os
import re
import stat
import sys
import time
from collections import OrderedDict
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, NamedTuple

from symcache.errors import (
    Absence,
    InputError,
    MalformedInput,
    NotInDump,
    StoreError,
    TruncatedInput,
    UnknownFormat,
    UsageError,
)
from symcache.formats.view import FileView
from symcache.inputs.detect import InputOptions, detect
from symcache.inputs.folder import is_junction
from symcache.inputs.records import Input, InputKind, Module, Unreadable
from symcache.reports.files import SUFFIXES, write_report

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from symcache.formats.view import ByteView
    from symcache.inputs.records import Record
    from symcache.warm.report import Report

FORMS = tuple(suffix.removeprefix(".") for suffix in SUFFIXES)
"""The forms of a report, as options and the config file name them."""

_OWN = re.compile(rf"\.symcache\.(?:{'|'.join(FORMS)})", re.IGNORECASE)
_DUMPS = frozenset({InputKind.KERNEL_DUMP, InputKind.TRIAGE_DUMP, InputKind.MINIDUMP})
_TRACES = frozenset({InputKind.ETL, InputKind.NETTRACE})
# Of these only such as name files: most logs and archives in a folder are about something else.
_IF_NAMING = frozenset({InputKind.DEBUGGER_LOG, InputKind.CRASH_REPORT, InputKind.PROFILE, InputKind.ARCHIVE})
_MOST_AT_ONCE = 256
_MOST_PASSED_OVER = 100_000
_MOST_DEEP = 64
_DUMP_SUFFIXES = frozenset({".dmp", ".mdmp", ".hdmp"})
_ONE_S = 1_000_000_000
# File systems keep times in steps of up to two seconds (FAT).
_SAME_TIME_NS = 2 * _ONE_S


class Stamp(NamedTuple):
    """What tells a file from the next one of its name."""

    size_bytes: int
    changed_ns: int


@dataclass(frozen=True, slots=True)
class Reports:
    """Where reports go, and in which *form*: beside what they are about, or below a *folder* as that lies in its own.

    A report that is final bears the time of its file, so that it can be seen, over a restart and by every watcher of
    a share, that nothing is left to do; what shall be tried again has a report of its own time.
    """

    form: str = "txt"
    folder: Path | None = None

    def path_of(self, root: Path, file: Path, *, among_several: bool = False) -> Path:
        """Return the path of the report on *file* of the watched folder *root*, which may be one of several."""
        name = f"{file.name}.symcache.{self.form}"
        if self.folder is None:
            return file.with_name(name)
        parts = file.parent.relative_to(root).parts
        return self.folder.joinpath(*([root.name] if among_several else []), *parts, name)


def is_final(report: Path, stamp: Stamp) -> bool:
    """Tell whether *report* is there and is the last word on the file of *stamp*."""
    try:
        return abs(report.lstat().st_mtime_ns - stamp.changed_ns) <= _SAME_TIME_NS
    except OSError:
        return False


def file_report(report: Report, path: Path, stamp: Stamp, *, final: bool) -> None:
    """Write *report* to *path*, whole or not at all.

    Raises:
        StoreError: It cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StoreError(f"the report cannot be written: {error.strerror or error}", path=path) from error
    write_report(report, path)
    now_ns = time.time_ns()
    time_ns = stamp.changed_ns if final else max(now_ns, stamp.changed_ns + 60 * _ONE_S)
    with suppress(OSError):  # a file system that keeps no such time; it is done again after a restart
        os.utime(path, ns=(now_ns, time_ns))


@dataclass(frozen=True, slots=True)
class Found:
    """A file that is complete and waits for its report."""

    root: Path
    path: Path
    stamp: Stamp
    report: Path


@dataclass(slots=True)
class _Seen:
    """A file that is not done yet."""

    stamp: Stamp
    since_s: float
    tries: int = 0
    due_s: float = 0.0  # it is not looked at before


@dataclass(slots=True)
class Look:
    """What one look found."""

    ready: list[Found] = field(default_factory=list)
    waiting: int = 0  # files that are still written, or whose next try is not due
    is_full: bool = False  # there are more that are ready
    due_s: float | None = None  # when the next of the waiting ones is to be looked at, on the clock of `Looker`
    judging_s: float = 0.0  # of the time that it took, what went into files that were opened: once for most of them


class _Verdict(Enum):
    TAKE = "take"
    PASS = "pass"  # noqa: S105 - no password
    WAIT = "wait"
    DOUBT = "doubt"  # it may be damaged, or not be all there yet


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a file is waited for, in seconds.

    *settle_s* must have passed without a change of its length or time. A dump that ends before what its header
    promises is taken as it is after *cut_s*, one that cannot be read after *doubt_s*.
    """

    settle_s: float = 2.0
    cut_s: float = 600.0
    doubt_s: float = 60.0


class Looker:
    """Looks through *folders*, again and again; of each file it tells once that it is ready, unless it is put back.

    Links and junctions are not followed, neither to files nor to folders, hidden files are passed over, and so is what
    is no memory of a machine, no trace, and no log, crash report or archive that names files. *tell* gets what is wrong
    with a folder, once while it is.
    """

    def __init__(
        self,
        folders: Sequence[Path],
        reports: Reports,
        patience: Patience,
        tell: Callable[[str], None],
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._folders = tuple(dict.fromkeys(folders))
        if reports.folder is not None:
            check_names(self._folders)
        self._reports = reports
        self._patience = patience
        self._tell = tell
        self._clock_s = clock_s
        self._seen: dict[Path, _Seen] = {}
        self._passed_over: OrderedDict[Path, Stamp] = OrderedDict()
        self._troubled: set[str] = set()

    def look(self) -> Look:
        """Return what is ready, at most 256 files; the time that it takes is that of a walk."""
        look = Look()
        before, self._seen = self._seen, {}
        troubled: set[str] = set()
        for root in self._folders:
            for path, stamp in self._walk(root, troubled):
                if look.is_full:
                    if path in before:
                        self._seen[path] = before[path]
                    continue
                self._consider(look, root, path, stamp, before.get(path))
        self._troubled = troubled
        return look

    def put_back(self, found: Found, pause_s: float) -> None:
        """Have *found* told again after *pause_s*, if it is still there, or as soon as it changes."""
        seen = self._seen.get(found.path)
        tries = 0 if seen is None else seen.tries
        now_s = self._clock_s()
        self._seen[found.path] = _Seen(found.stamp, now_s - self._patience.settle_s, tries + 1, now_s + pause_s)

    def tries(self, found: Found) -> int:
        """Return how often *found* was put back."""
        seen = self._seen.get(found.path)
        return 0 if seen is None else seen.tries

    def pass_over(self, found: Found) -> None:
        """Tell nothing more of *found* as long as it stays what it is."""
        self._pass_over(found.path, found.stamp)

    def _pass_over(self, path: Path, stamp: Stamp) -> None:
        self._passed_over[path] = stamp
        self._passed_over.move_to_end(path)
        if len(self._passed_over) > _MOST_PASSED_OVER:
            self._passed_over.popitem(last=False)

    def _consider(self, look: Look, root: Path, path: Path, stamp: Stamp, seen: _Seen | None) -> None:
        if self._passed_over.get(path) == stamp:
            return
        report = self._reports.path_of(root, path, among_several=len(self._folders) > 1)
        if is_final(report, stamp):
            return
        now_s = self._clock_s()
        if seen is None or seen.stamp != stamp:
            seen = _Seen(stamp, now_s, 0, now_s + self._patience.settle_s)
        self._seen[path] = seen
        if now_s >= seen.due_s:
            verdict = _judge(path, stamp)
            look.judging_s += self._clock_s() - now_s
            unchanged_s = now_s - seen.since_s
            limit_s = {_Verdict.WAIT: self._patience.cut_s, _Verdict.DOUBT: self._patience.doubt_s}.get(verdict, 0.0)
            if verdict is _Verdict.PASS:
                self._pass_over(path, stamp)
                del self._seen[path]
                return
            if unchanged_s >= limit_s:
                look.ready.append(Found(root, path, stamp, report))
                look.is_full = len(look.ready) >= _MOST_AT_ONCE
                return
            pause_s = max(self._patience.settle_s, min(unchanged_s / 2, 30.0))
            seen.due_s = min(now_s + pause_s, seen.since_s + limit_s)
        look.waiting += 1
        look.due_s = seen.due_s if look.due_s is None else min(look.due_s, seen.due_s)

    def _walk(self, root: Path, troubled: set[str]) -> Iterator[tuple[Path, Stamp]]:
        folders = [(root, 0)]
        while folders:
            folder, depth = folders.pop()
            try:
                with os.scandir(folder) as entries:
                    for entry in entries:
                        if entry.name.startswith(".") or _OWN.search(entry.name):
                            continue
                        try:
                            if entry.is_dir(follow_symlinks=False):
                                if depth < _MOST_DEEP and not is_junction(entry):
                                    folders.append((Path(entry.path), depth + 1))
                                continue
                            # Not the entry's own: Windows updates what it lists late while a file is written.
                            status = os.stat(entry.path, follow_symlinks=False)  # noqa: PTH116
                        except OSError:  # it is gone
                            continue
                        if stat.S_ISREG(status.st_mode):
                            yield Path(entry.path), Stamp(status.st_size, status.st_mtime_ns)
            except FileNotFoundError as error:
                if folder == root:
                    self._trouble(folder, error, troubled)
            except OSError as error:
                self._trouble(folder, error, troubled)

    def _trouble(self, folder: Path, error: OSError, troubled: set[str]) -> None:
        text = f"{folder}: it cannot be looked into: {error.strerror or error}"
        troubled.add(text)
        if text not in self._troubled:
            self._tell(text)


def check_names(folders: Sequence[Path]) -> None:
    """Raise `UsageError` if two of *folders* have one name, by which their reports are kept apart elsewhere."""
    names = [folder.name.lower() for folder in folders]
    if twice := next((folder for folder in folders if names.count(folder.name.lower()) > 1), None):
        problem = f"reports of two folders called {twice.name} would lie in one place; watch them by two commands"
        raise UsageError(problem)


def is_unchanged(found: Found) -> bool:
    """Tell whether the file is still the one that was found."""
    try:
        status = found.path.lstat()
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and Stamp(status.st_size, status.st_mtime_ns) == found.stamp


def is_within(found: Found) -> bool:
    """Tell whether the folder of *found* still lies in the watched one, and is none that a link leads to."""
    try:
        return found.path.parent.resolve().is_relative_to(found.root.resolve())
    except OSError:
        return False


def _judge(path: Path, stamp: Stamp) -> _Verdict:
    """Return whether the file is one to warm for, and all there; it is opened and read as little as that takes."""
    if not stamp.size_bytes:
        return _Verdict.PASS
    if _is_being_written(path):
        return _Verdict.WAIT
    try:
        with FileView(path) as view:
            kind = detect(view)
            if kind in _DUMPS:
                return _judge_dump(view, kind, path)
            if kind is InputKind.RAW_MEMORY:
                return _judge_memory(view)
            if kind in _TRACES:
                return _Verdict.TAKE
            if kind in _IF_NAMING:
                records = InputOptions(None, runs_programs=False).reader(kind)(view, str(path))
                return _judge_records(records)
    except TruncatedInput:  # a dump that ends within its header
        return _Verdict.WAIT
    except InputError:
        # Of VMware's two files the one that says how the memory is laid out comes last, as a rule.
        if path.suffix.lower() == ".vmem":
            return _Verdict.WAIT
        return _Verdict.DOUBT if _is_dump_in_other_archive(path) else _Verdict.PASS
    except OSError as error:  # what it is cannot be seen, so that its name has to tell whether somebody would miss it
        is_denied = isinstance(error, PermissionError) and path.suffix.lower() in _DUMP_SUFFIXES
        return _Verdict.TAKE if is_denied else _Verdict.PASS
    return _Verdict.PASS


def _is_dump_in_other_archive(path: Path) -> bool:
    """Tell whether the file is an archive that is not read, such as a 7z, and is called after a dump."""
    from symcache.formats.archive.member import find_other_archive  # noqa: PLC0415 - of few files

    if PurePath(path.stem).suffix.lower() not in _DUMP_SUFFIXES:
        return False
    with suppress(OSError, InputError), FileView(path) as view:
        return find_other_archive(view.read(0, min(view.size, 16))) is not None
    return False


def _judge_records(records: Iterable[Record]) -> _Verdict:
    """Return whether they name files; a dump among them that cannot be read, as with a password, would be missed."""
    lacks_dump = False
    for record in records:
        if isinstance(record, Module) and (record.image or record.pdbs or record.dbg):
            return _Verdict.TAKE
        if isinstance(record, Unreadable):
            lacks_dump = lacks_dump or PurePath(record.path).suffix.lower() in _DUMP_SUFFIXES
    return _Verdict.DOUBT if lacks_dump else _Verdict.PASS


def _judge_dump(view: ByteView, kind: InputKind, path: Path) -> _Verdict:
    try:
        first = next(iter(InputOptions(None).reader(kind)(view, str(path))), None)
    except InputError as error:
        is_cut = isinstance(error, TruncatedInput) or (
            isinstance(error, NotInDump) and error.absence is Absence.TRUNCATED
        )
        return _Verdict.WAIT if is_cut else _Verdict.DOUBT
    if not isinstance(first, Input):
        return _Verdict.DOUBT
    return _Verdict.WAIT if first.details.get("cut_short") or first.details.get("truncated") else _Verdict.TAKE


def _judge_memory(view: FileView) -> _Verdict:
    from symcache.inputs.rawmemory import is_vmware_state, open_memory_image  # noqa: PLC0415 - of few files

    if is_vmware_state(view):
        return _Verdict.PASS  # the memory beside it is taken, and read by what it says
    try:
        image = open_memory_image(view)
    except UnknownFormat:
        return _Verdict.TAKE  # the report says what is missing
    except MalformedInput:
        return _Verdict.DOUBT
    return _Verdict.WAIT if image.missing_bytes or image.problems else _Verdict.TAKE


if sys.platform == "win32":

    def _is_being_written(path: Path) -> bool:
        """Tell whether somebody has the file open for writing, or keeps everybody else out."""
        import ctypes  # noqa: PLC0415

        kernel32 = ctypes.WinDLL("kernel32", use_last_error=True)
        kernel32.CreateFileW.restype = ctypes.c_void_p
        read, share_read_and_delete, open_existing, sharing_violation = 0x80000000, 5, 3, 32
        handle = kernel32.CreateFileW(str(path), read, share_read_and_delete, None, open_existing, 0, None)
        if handle == ctypes.c_void_p(-1).value:
            return ctypes.get_last_error() == sharing_violation
        kernel32.CloseHandle(ctypes.c_void_p(handle))
        return False

else:

    def _is_being_written(_path: Path) -> bool:
        return False
