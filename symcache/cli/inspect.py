"""``symcache inspect``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from click.exceptions import Exit

from symcache.cli.options import F, color_option, complete_files, json_option
from symcache.cli.output import blot, write_json, write_line, write_processes, write_table
from symcache.errors import UsageError
from symcache.formats.pe.version import dotted
from symcache.inputs.records import STANDARD_INPUT
from symcache.reports.lines import size_text
from symcache.warm.inspect import DeepWish, inspect_file

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from symcache.formats.pe.version import Numbers, VersionInfo
    from symcache.warm.inspect import Inspection

_SHOWN = 20


def _count_option(name: str, things: str) -> Callable[[F], F]:
    return click.option(
        name,
        type=click.IntRange(min=1),
        is_flag=False,
        flag_value=_SHOWN,
        default=None,
        metavar="[N]",
        help=f"List N {things}, {_SHOWN} if N is left out; needs pdbparse.",
    )


@click.command()
@click.argument("file", metavar="FILE", shell_complete=complete_files)
@click.option("--streams", is_flag=True, help="List the streams of a PDB; needs pdbparse.")
@_count_option("--publics", "public symbols of a PDB")
@_count_option("--types", "structures that a PDB defines")
@json_option
@color_option
def inspect_command(file: str, streams: bool, publics: int | None, types: int | None, as_json: bool) -> None:
    """Show what FILE is, which key it has, and whether it is whole and where it belongs.

    FILE is a dump, an image, a .dbg file, a PDB of any kind, a cabinet of one of them, or any other input but a folder.
    Exit code 0: nothing is wrong with it; 4: it is damaged, not what its place says, or of no known kind.
    """
    if file == STANDARD_INPUT:
        raise UsageError("inspect looks at the name and the place of FILE, too: write standard input to a file first")
    if Path(file).is_dir():
        raise UsageError(f"{file} is a folder; `symcache scan` lists what is in it")
    found = inspect_file(file, DeepWish(streams, publics or 0, types or 0))
    if as_json:
        write_json(found.as_json())
    else:
        _write(found)
    raise Exit(0 if found.is_healthy else 4)


# Facts in the order they are shown; whatever is not named here comes after them under its own name.
_LABELS = {
    "type": "type",
    "format": "format",
    "container": "container",
    "storage": "storage",
    "os": "system",
    "version": "version",
    "machine": "machine",
    "cpu": "machine",
    "build": "build",
    "build_lab": "build lab",
    "guid": "GUID",
    "signature": "signature",
    "stamp": "stamp",
    "age": "age",
    "info_age": "age of information",
    "dbi_age": "age of debug data",
    "symbols": "symbols",
    "timestamp": "time stamp",
    "size_of_image": "size of image",
    "code_views": "names",
    "debug": "debug directory",
    "runtime": ".NET runtime",
    "bugcheck_code": "bug check",
    "on_demand": "made on demand",
    "exception": "exception",
    "stack": "on the stack",
    "stack_of_thread": "of thread",
    "system_time": "time of crash",
    "time": "time",
    "uptime_s": "up for",
    "attributes": "flags",
    "physical_memory_bytes": "memory",
    "fuller_dumps": "a fuller dump",
}
_SHOWN_ELSEWHERE = frozenset(
    {"problems", "notes", "bugcheck_name", "bugcheck_parameters", "size_bytes", "type_number", "module_count"}
)


def _write(found: Inspection) -> None:
    """Write *found* to stdout: what it is, then what is wrong with it."""
    write_table(_rows(found))
    for name in ("streams", "publics", "types"):
        if name in found.deep:
            write_line()
            write_line(f"{name}:")
            write_table(_deep_rows(name, found.deep[name]))
    write_processes(found.processes)
    write_line()
    if found.is_healthy:
        write_line("Nothing is wrong with it.")
    write_table(_problem_rows(found))


def _rows(found: Inspection) -> Iterator[tuple[str, str]]:
    yield "file", blot(found.path)
    yield "kind", found.kind or "unknown"
    if found.size_bytes is not None:
        yield "size", f"{found.size_bytes} bytes ({size_text(found.size_bytes)})"
    if found.cabinet is not None:
        yield "cabinet of", f"{found.cabinet[0]}, {found.cabinet[1]} bytes"
    if found.index is not None:
        yield "index", found.index
    yield from _detail_rows(found.details)
    yield from _numbered("symbols", found.names)
    yield from _numbered("debuggers need", found.libraries)
    if found.version is not None:
        yield from _version_rows(found.version)
    if found.modules > 1 or not (found.index or found.problems):
        unloaded = f", {found.unloaded} unloaded" if found.unloaded else ""
        yield "modules", f"{found.modules}, {found.identified} with an identity{unloaded}"
    if found.filed is not None:
        yield "filed as", found.filed.index
    notes = [*found.details.get("notes", ()), *([found.filed.note] if found.filed and found.filed.note else [])]
    yield from _numbered("notes", notes)


def _version_rows(version: VersionInfo) -> Iterator[tuple[str, str]]:
    kinds = {"private": version.is_private, "special": version.is_special, "debug": version.is_debug}
    rows = {
        "company": version.company,
        "product": version.product,
        "description": version.description,
        "original name": version.original_name,
        "file version": _version_text(version.file_version, version.file_numbers),
        "product version": _version_text(version.product_version, version.product_numbers),
        "kind of build": ", ".join(kind for kind, is_set in kinds.items() if is_set),
    }
    yield from ((label, text) for label, text in rows.items() if text)


_WRITTEN_NUMBERS = re.compile(r"\d{1,5}(?:(?:\.|, ?)\d{1,5}){0,3}")


def _version_text(text: str | None, numbers: Numbers | None) -> str | None:
    """Return the text, with the numbers behind it unless it begins with them: setup programs compare those."""
    if numbers is None:
        return text
    if text is None:
        return dotted(numbers)
    written = _WRITTEN_NUMBERS.match(text)
    parts = [] if written is None else [int(part) for part in re.split(r"\D+", written[0])]
    is_same = tuple(parts + [0] * (4 - len(parts))) == numbers
    return text if is_same else f"{text} ({dotted(numbers)})"


def _numbered(label: str, lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield *lines* with the label before the first."""
    for number, line in enumerate(lines):
        yield "" if number else label, line


def _detail_rows(details: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    shown = [*_LABELS, *(name for name in details if name not in _LABELS and name not in _SHOWN_ELSEWHERE)]
    for name in shown:
        value = details.get(name)
        if value is None or value is False or value == []:
            continue
        label = _LABELS.get(name, name.replace("_", " "))
        match name:
            case "bugcheck_code":
                named = f" {details['bugcheck_name']}" if details.get("bugcheck_name") else ""
                yield label, f"{value}{named} ({', '.join(details.get('bugcheck_parameters', ()))})"
            case "exception":
                yield label, f"{value['code']} at {value['address']}"
            case "stack":
                yield label, ", ".join(each["name"] for each in value)
            case "code_views":
                views = (
                    f"{view['path']} ({view['format']}{', portable' if view['portable'] else ''})" for view in value
                )
                yield from _numbered(label, views)
            case "runtime":
                yield label, " ".join(filter(None, (value["kind"], value["version"])))
            case "windows" | "volumes" | "images":
                yield from _numbered(label, (_facts_text(each) for each in value))
            case "fuller_dumps":
                yield from _numbered(label, value)
            case "physical_memory_bytes":
                yield label, size_text(value)
            case "size_of_image":
                yield label, f"{value:#x}"
            case "uptime_s":
                yield label, _duration(value)
            case _:
                text = ", ".join(map(str, value)) if isinstance(value, list) else str(value)
                yield label, "yes" if value is True else text


def _facts_text(facts: Mapping[str, Any]) -> str:
    """Return one line of what is known of a Windows, a volume or an image of a WIM file."""
    named = {
        "partition": "partition {}",
        "number": "image {}",
        "build_source": "says {}",
        "size_bytes": "{} bytes",
        "is_started": "started by default",
    }
    return ", ".join(named.get(name, "{}").format(value) for name, value in facts.items() if value)


def _duration(seconds: float) -> str:
    minutes, rest_s = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    return f"{f'{days} days ' if days else ''}{hours}:{minutes:02}:{rest_s:02}"


def _deep_rows(name: str, items: list[Any]) -> Iterator[tuple[str, ...]]:
    for number, item in enumerate(items):
        if name == "streams":
            yield "", str(number), f"{item} bytes"
        elif name == "publics":
            yield "", f"{item['segment']:04x}:{item['offset']:08x}", item["name"]
        else:
            yield "", item


def _problem_rows(found: Inspection) -> Iterator[tuple[str, str]]:
    for text, offset in found.problems:
        yield "wrong", text if offset is None else f"{text} (at {offset:#x})"
    if found.more_problems:
        yield "", f"and {found.more_problems} more"
    if found.filed is not None and found.filed.problem is not None:
        yield "misfiled", found.filed.problem
