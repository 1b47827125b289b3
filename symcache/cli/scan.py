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

from symcache.cli.options import Settings, inputs_argument, process_options, settings_options
from symcache.cli.output import say, unreadable_json, unreadable_text, write_processes, write_table
from symcache.errors import StoreError, UsageError
from symcache.inputs.detect import InputOptions, open_inputs
from symcache.inputs.manifest import manifest_lines
from symcache.inputs.records import Input, Module, ProcessSummary, Unreadable

if TYPE_CHECKING:
    from collections.abc import Iterator

    from symcache.inputs.records import PdbReference, ProcessSelection, Record

_STANDARD_OUTPUT = Path("-")


@click.command()
@inputs_argument
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
    settings: Settings, inputs: tuple[str, ...], output: Path | None, selection: ProcessSelection | None
) -> None:
    """List the modules of the inputs and the keys of their files; no network, no store.

    INPUT is a kernel dump, a minidump, an image, a PDB, a folder of them, a symchk manifest, a list of indexes or a
    debugger log; its content decides which. - is standard input.
    """
    if settings.as_json and output == _STANDARD_OUTPUT:
        raise UsageError("--json and -o - exclude each other: standard output takes one of them")
    scan = _Scan()
    modules = scan.watch(open_inputs(inputs, InputOptions(selection)))
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
    settings.note(f"{scan.modules} modules, {scan.identified} with an identity; {len(scan.unreadable)} unreadable")
    raise Exit(4 if scan.unreadable else 0)


class _Scan:
    """Counts what goes by, and keeps what the end of the document needs; modules are written as they come."""

    def __init__(self) -> None:
        self.inputs: list[Input] = []
        self.unreadable: list[Unreadable] = []
        self.processes: list[tuple[int, ProcessSummary]] = []
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
                    self.inputs.append(record)
                case Unreadable():
                    self.unreadable.append(record)
                case ProcessSummary():
                    self.processes.append((len(self.inputs) - 1, record))

    def write_json(self, modules: Iterator[Module]) -> None:
        """Write the document; it is whole even if an interrupt or a full disk ends *modules* early."""
        write = sys.stdout.write
        write('{\n  "schema": "symcache.modules/1",\n  "modules": [')
        try:
            for number, module in enumerate(modules):
                write(f"{',' if number else ''}\n    {json.dumps(_module_json(module, len(self.inputs) - 1))}")
        finally:
            inputs = [{"path": item.path, "kind": item.kind, "details": dict(item.details)} for item in self.inputs]
            processes = [{"input": number, **each.as_json()} for number, each in self.processes]
            write(f'\n  ],\n  "processes": {json.dumps(processes)},\n')
            write(f'  "inputs": {json.dumps(inputs, default=str)},\n')
            write(f'  "unreadable": {json.dumps(unreadable_json(self.unreadable))}\n}}\n')


def _write_text(modules: Iterator[Module]) -> None:
    batch: list[tuple[str, str]] = []
    for module in modules:
        lines = [pdb.key.index for pdb in module.pdbs]
        if module.dbg is not None:
            lines.append(module.dbg.index)
        if not lines and module.image is not None:
            lines.append(module.image.index)
        if module.problem is not None:
            lines.append(f"({module.problem})")
        batch.extend((module.name if not number else "", line) for number, line in enumerate(lines or [""]))
        if len(batch) >= 500:  # columns line up within what fits into a few screens
            write_table(batch)
            batch.clear()
    write_table(batch)


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
    if module.process is not None:
        fields["process"] = module.process
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
    }
