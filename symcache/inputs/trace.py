"""Traces: every module that an event log of Windows (ETL) or of .NET's EventPipe (nettrace) says was loaded.

A module that many processes have comes once, in the first of them. Merging (`xperf -merge`, `wpr -stop`) adds to an
event log what names the PDBs; without it a module is known by its time stamp, which leads to the PDB in two hops, or by
nothing but its name and size.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from symcache.events import InputAdvanced
from symcache.formats.filetime import iso_time
from symcache.identity import base_name
from symcache.inputs.records import STANDARD_INPUT, Input, InputKind, PdbFolder, Unreadable
from symcache.inputs.tracecontents import MOST_IMAGES, TraceContents

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from symcache.formats.trace.etl import EtlHeader
    from symcache.formats.trace.scan import Scanned
    from symcache.formats.view import ByteView
    from symcache.inputs.detect import InputOptions
    from symcache.inputs.records import Record

_NATIVE_PDBS = ".NGENPDB"  # PerfView, WPR and UIforETW put what they make of native images beside the trace
_NO_HITS = "it has no samples and no stacks, so that no module is hot; leave out --hot"


def read_etl(view: ByteView, path: str, *, options: InputOptions) -> Iterator[Record]:
    """Yield the event log, then its modules: those of the kernel, then process by process, each once.

    Raises:
        InputError: It does not begin as an event log. What is damaged behind its beginning is a record, and all that
            could be had is yielded.
    """
    session = LogSession(options)
    session.add(view, path)
    return session.records(path)


class LogSession:
    """Event logs of one session, as a ``.diagsession`` holds them: what one of them says completes the others.

    Events of the kernel lie in one, what merging adds in another.
    """

    def __init__(self, options: InputOptions) -> None:
        self._options = options
        self._contents = TraceContents()
        self._headers: list[EtlHeader] = []
        self._scanned: list[Scanned] = []
        self.paths: list[str] = []

    def fits(self, view: ByteView) -> bool:
        """Say whether the log in *view* is of the same machine and time as those that were added."""
        from symcache.formats.trace.etl import read_etl_header  # noqa: PLC0415 - the other kind of trace does without

        header, first = read_etl_header(view), self._headers[0]
        if (header.build, header.pointer_size, header.processors) != (
            first.build,
            first.pointer_size,
            first.processors,
        ):
            return False
        if None in {header.started, header.ended, first.started, first.ended}:
            return False
        return (header.started or 0) <= (first.ended or 0) and (first.started or 0) <= (header.ended or 0)

    def add(self, view: ByteView, path: str) -> None:
        """Read one log whole; raises as `read_etl`."""
        from symcache.formats.trace.etl import read_etl_header  # noqa: PLC0415 - the other kind of trace does without
        from symcache.formats.trace.scan import scan_etl, usable_cores  # noqa: PLC0415

        header, options = read_etl_header(view), self._options
        scanned = scan_etl(
            view,
            self._contents,
            with_hits=_hot(options) is not None,
            cores=usable_cores() if options.cores is None else options.cores,
            advance=lambda done: options.observer(InputAdvanced(path, done, view.size)),
        )
        options.observer(InputAdvanced(path, view.size, view.size))
        if scanned.buffers < (header.buffers or 0) and not scanned.problems:
            scanned.problems.append(f"it has {scanned.buffers} of the {header.buffers} buffers that were written")
        self.paths.append(path)
        self._headers.append(header)
        self._scanned.append(scanned)

    def records(self, path: str) -> Iterator[Record]:
        """Yield the logs as one input that is called *path*, then their modules."""
        headers, scanned, contents = self._headers, self._scanned, self._contents
        header = headers[0]
        problems = [
            problem if len(scanned) == 1 else f"{base_name(log)}: {problem}"
            for log, each in zip(self.paths, scanned, strict=True)
            for problem in each.problems
        ]
        details: dict[str, Any] = {
            "os": "windows",
            "version": None if header.build is None else f"{header.windows}.{header.build}",
            "build": header.build,
            "pointer_size": header.pointer_size,
            "processors": header.processors,
            "time": iso_time(header.started, timespec="seconds"),
            "ended": iso_time(header.ended, timespec="seconds"),
            "events_lost": sum(each.events_lost or 0 for each in headers),
            "buffers_lost": sum(each.buffers_lost or 0 for each in headers),
            "buffers": sum(each.buffers for each in scanned),
            "merged": contents.is_merged,
            "compressed": any(each.compressed for each in scanned),
            "truncated": bool(problems),
        }
        yield Input(path, InputKind.ETL, details)
        if path != STANDARD_INPUT and (folder := Path(f"{path}{_NATIVE_PDBS}")).is_dir():
            yield PdbFolder(folder)
        yield from _records_of(contents, path, self._options, problems)


def read_nettrace(view: ByteView, path: str, *, options: InputOptions) -> Iterator[Record]:
    """Yield the trace, then its modules, each once; raises as `read_etl`."""
    from symcache.formats.trace.nettrace import read_blocks  # noqa: PLC0415 - one kind each
    from symcache.formats.trace.nettraceblocks import read_nettrace_header  # noqa: PLC0415

    header = read_nettrace_header(view)
    contents = TraceContents()
    found = read_blocks(
        view,
        header,
        contents,
        with_hits=_hot(options) is not None,
        advance=lambda done: options.observer(InputAdvanced(path, done, view.size)),
    )
    details: dict[str, Any] = {
        "format_version": header.version,
        "pointer_size": header.pointer_size,
        "time": None if header.started is None else header.started.isoformat(),
        "process_id": header.process,
        "processors": header.processors,
        "blocks": found.blocks,
        "truncated": bool(found.problems),
    }
    yield Input(path, InputKind.NETTRACE, details)
    yield from _records_of(contents, path, options, found.problems)


def _hot(options: InputOptions) -> int | None:
    return None if options.processes is None else options.processes.hot


def _records_of(contents: TraceContents, path: str, options: InputOptions, problems: Iterable[str]) -> Iterator[Record]:
    if (hot := _hot(options)) is not None:
        modules = list(contents.hot_modules(hot, options.processes))
        yield from modules
        if not modules:
            yield Unreadable(path, _NO_HITS)
    else:
        yield from contents.modules(options.processes)
    for name in contents.missed(options.processes):
        yield Unreadable(path, f"no process {name} is in the trace")
    for problem in problems:
        yield Unreadable(path, problem)
    if contents.is_full:
        yield Unreadable(path, f"it has more than {MOST_IMAGES} images in its processes; the rest is left out")
