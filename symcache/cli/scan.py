"""``symcache scan``."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit

from symcache.cli.options import Settings, process_options, settings_options, source_options
from symcache.cli.output import Lines, notes_alone, say, unreadable_json, write_line, write_processes, write_table
from symcache.errors import StoreError, UsageError
from symcache.inputs.detect import InputOptions, open_inputs
from symcache.inputs.manifest import manifest_lines
from symcache.inputs.records import CrashStack, Input, InputKind, Module, Narrowed, ProcessSummary, Remark, Unreadable
from symcache.reports.lines import names_text
from symcache.reports.text import narrowed_text, unreadable_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from symcache.events import Observer
    from symcache.inputs.detect import InputSource
    from symcache.inputs.records import PdbReference, ProcessSelection, Record, StackModule

_STANDARD_OUTPUT = Path("-")


@click.command()
@source_options()
@process_options
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Write a manifest for symchk /im to FILE, or to standard output (-).",
)
@settings_options()
def scan_command(
    settings: Settings,
    inputs: tuple[InputSource, ...],
    sets: tuple[str, ...],
    output: Path | None,
    selection: ProcessSelection | None,
) -> None:
    """List the modules of the inputs and the keys of their files; no network, no store.

    INPUT is a dump, a memory image, a trace, an image, a PDB, a list or a lock file, a log, a crash report, a profile,
    or a folder or an archive of these; its content decides which. - is standard input.
    """
    if settings.as_json and output == _STANDARD_OUTPUT:
        raise UsageError("--json and -o - exclude each other: standard output takes one of them")
    scan = _Scan(settings.note)
    modules = scan.watch(_open(settings, inputs, sets, selection))
    if output is not None:
        modules = _write_manifest(modules, output)
    if settings.as_json:
        scan.write_json(modules)
    elif output is None:
        _write_text(modules)
        write_processes([each for _, each in scan.processes])
    else:
        deque(modules, maxlen=0)
    for item in scan.unreadable:
        say(unreadable_text(item))
    if scan.narrowed is not None:
        settings.note(narrowed_text(scan.narrowed))
    settings.note(f"{scan.modules} modules, {scan.identified} with an identity; {len(scan.unreadable)} unreadable")
    raise Exit(4 if scan.unreadable else 0)


def _observer(settings: Settings) -> Observer:
    return notes_alone(quiet=True) if settings.quiet else Lines().observe


def _open(
    settings: Settings, inputs: tuple[InputSource, ...], sets: tuple[str, ...], selection: ProcessSelection | None
) -> Iterator[Record]:
    """Return what *inputs* hold; settings are read only where something depends on them."""
    if not sets and all(isinstance(each, str) for each in inputs):
        options = InputOptions(selection, limits=settings.input_limits(), cores=None, observer=_observer(settings))
        return open_inputs(inputs, options)
    from symcache.stores.documents import DocumentCache, answered  # noqa: PLC0415 - most scans need none

    config = settings.load()
    cache = DocumentCache(config.builds.cache, recheck_s=config.builds.recheck_s)
    options = InputOptions(selection, sets, config.sets, config.builds, config.inputs, None, _observer(settings))
    return answered(open_inputs(inputs, options), cache)


class _Scan:
    """Counts what goes by, and keeps what the end of the document needs; modules are written as they come."""

    def __init__(self, note: Callable[[str], None] = say) -> None:
        self._note = note
        self.inputs: list[Input] = []
        self.number = -1  # of the one that modules belong to now
        self.unreadable: list[Unreadable] = []
        self.stacks: dict[int, list[StackModule]] = {}  # by the number of the input; a folder may have several
        self.processes: list[tuple[int, ProcessSummary]] = []
        self.narrowed: Narrowed | None = None
        self.modules = 0
        self.identified = 0

    def watch(self, records: Iterator[Record]) -> Iterator[Module]:
        for record in records:
            match record:
                case Module():
                    self.modules += 1
                    self.identified += bool(record.image or record.pdbs or record.dbg)
                    yield record
                case Input():
                    self._take_input(record)
                case Unreadable():
                    self.unreadable.append(record)
                case CrashStack(modules):
                    self.stacks.setdefault(self.number, []).extend(modules)
                case ProcessSummary():
                    self.processes.append((self.number, record))
                case Narrowed():
                    self.narrowed = record
                case Remark(text):
                    self._note(text)

    def _take_input(self, record: Input) -> None:
        if record.kind is InputKind.ARCHIVE and record in self.inputs:  # it goes on behind what lies in it
            self.number = self.inputs.index(record)
            return
        self.number = len(self.inputs)
        self.inputs.append(record)

    def write_json(self, modules: Iterator[Module]) -> None:
        """Write the document; it is whole even if an interrupt or a full disk ends *modules* early."""
        write = sys.stdout.write
        write('{\n  "schema": "symcache.modules/1",\n  "modules": [')
        try:
            for number, module in enumerate(modules):
                write(f"{',' if number else ''}\n    {json.dumps(_module_json(module, self.number))}")
        finally:
            inputs = [self._input_json(number, item) for number, item in enumerate(self.inputs)]
            processes = [{"input": number, **each.as_json()} for number, each in self.processes]
            left_out = "" if self.narrowed is None else f'\n  "modules_left_out": {self.narrowed.modules},'
            write(f'\n  ],{left_out}\n  "processes": {json.dumps(processes)},\n')
            write(f'  "inputs": {json.dumps(inputs, default=str)},\n')
            write(f'  "unreadable": {json.dumps(unreadable_json(self.unreadable))}\n}}\n')

    def _input_json(self, number: int, item: Input) -> dict[str, Any]:
        fields = {"path": item.path, "kind": item.kind, "details": dict(item.details)}
        stack = [each.as_json() for each in self.stacks.get(number, ())]
        return {**fields, "stack": stack} if stack else fields


def _write_text(modules: Iterator[Module]) -> None:
    """Write a row for each key, those of a process under its name; what is wrong with many modules is said once."""
    batch: list[tuple[str, str]] = []
    problems: dict[str, list[str]] = {}
    process: str | None = None
    for module in modules:
        if module.process != process or len(batch) >= 500:  # columns line up within what fits into a few screens
            write_table(batch)
            batch.clear()
        if module.process != process:
            process = module.process
            write_line()
            write_line("of the kernel:" if process is None else f"{process}:")
        lines = [pdb.key.index for pdb in module.pdbs]
        if module.dbg is not None:
            lines.append(module.dbg.index)
        if not lines and module.image is not None:
            lines.append(module.image.index)
        if module.problem is not None:
            problems.setdefault(module.problem, []).append(module.name)
        batch.extend((module.name if not number else "", line) for number, line in enumerate(lines or ["-"]))
    write_table(batch)
    if problems:
        write_line()
    for problem, names in problems.items():
        write_line(f"{names_text(names)}: {problem}")


def _write_manifest(modules: Iterator[Module], output: Path) -> Iterator[Module]:
    """Yield *modules*, each with its lines written to *output*."""
    newline = "\r\n" if os.name == "nt" else "\n"
    try:
        # symchk reads the console's code page; a key is ASCII, and names nearly always are.
        with (
            nullcontext(sys.stdout)
            if output == _STANDARD_OUTPUT
            else output.open("w", encoding="utf-8", newline=newline) as file
        ):
            seen: set[tuple[str, ...]] = set()
            for module in modules:
                # All of a module's lines or none: an image is read as that of the PDB right before it.
                lines = tuple(manifest_lines([module]))
                if lines not in seen:
                    seen.add(lines)
                    file.writelines(f"{line}\n" for line in lines)
                yield module
    except OSError as error:
        raise StoreError(error.strerror or str(error), path=output) from error


def _module_json(module: Module, number: int) -> dict[str, Any]:
    image = module.image
    fields: dict[str, Any] = {
        "input": number,
        "name": module.name,
        "path": module.path,
        "base": None if module.base is None else f"{module.base:#x}",
        "unloaded": module.unloaded,
        "image": None,
        "pdbs": [_pdb_json(pdb) for pdb in module.pdbs],
        "problem": module.problem,
        "needs_image": module.needs_image,
    }
    if image is not None:
        fields["image"] = {
            "name": image.name,
            "timestamp": image.timestamp,
            "size_of_image": image.size_of_image,
            "index": image.index,
        }
    if module.dbg is not None:
        fields["dbg"] = {"name": module.dbg.name, "index": module.dbg.index}
    if module.candidates:
        fields["candidates"] = [each.index for each in module.candidates]
    if module.process is not None:
        fields["process"] = module.process
    if module.managed is not None:
        fields["managed"] = module.managed
    if module.runtime is not None and not module.runtime.is_presumed:
        fields["runtime"] = module.runtime.as_json()
    if module.is_missed:
        fields["missed"] = True
    if module.no_debugger:
        fields["no_debugger"] = True
    if module.version is not None:
        fields["version"] = module.version.as_json()
    if module.hits is not None:
        fields["hits"] = module.hits
    return fields


def _pdb_json(pdb: PdbReference) -> dict[str, Any]:
    key = pdb.key
    return {
        "name": key.name,
        "guid": str(key.guid) if hasattr(key, "guid") else None,
        "age": getattr(key, "age", None),
        "format": pdb.format,
        "index": key.index,
        **({"signature": key.signature} if hasattr(key, "signature") else {}),
        **({"checksums": list(pdb.checksums)} if pdb.checksums else {}),
        **({"others": [other.index for other in pdb.others]} if pdb.others else {}),
    }
