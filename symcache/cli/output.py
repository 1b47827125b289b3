"""Results to stdout, all else to stderr, in a form that is safe for the terminal."""

from __future__ import annotations

import re
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from symcache.inputs.records import ProcessSummary, Unreadable
    from symcache.stores.local.tree import Store

EMPTY = "no image, PDB or dump was found in what was given: is the path right? --allow-empty makes that a success"
TWO_TIER_NOTE = "Microsoft's debuggers read a two-tier store; LLDB, angr and radare2 find nothing in one"

_BYTES = {"b": 1, "bytes": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("", 1000), ("ib", 1024))
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


def parse_size(text: str) -> int:
    """Return bytes: ``KB``, ``MB``, ``GB``, ``TB`` count by 1000, ``KiB`` and so on by 1024; else `BadParameter`."""
    return int(_parse(text, _BYTES, "a size such as 20GB, 500MB or 1.5TiB"))


def parse_age(text: str) -> float:
    """Return seconds: ``s``, ``m`` minutes, ``h``, ``d``, ``w``, ``y`` of 365 days; else `BadParameter`."""
    return _parse(text, _SECONDS, "a time such as 90d, 12h or 2w")


def _parse(text: str, units: Mapping[str, float], what: str) -> float:
    match = re.fullmatch(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)", text.strip())
    unit = None if match is None else units.get(match[2].lower())
    if match is None or unit is None:
        raise click.BadParameter(f"{text!r} is not {what}.")
    return float(match[1]) * unit


def write_json(document: Any) -> None:
    """Write one JSON document to stdout."""
    import json  # noqa: PLC0415 - most runs write none

    json.dump(document, sys.stdout, indent=2, ensure_ascii=True)
    sys.stdout.write("\n")


def write_store_json(name: str, store: Store, **fields: Any) -> None:
    """Write a document about a store, of schema ``symcache.name/1``, to stdout."""
    write_json({"schema": f"symcache.{name}/1", "store": str(store.root), **fields})


def write_json_list(head: Mapping[str, Any], name: str, items: Iterable[Any]) -> None:
    """Write one JSON document to stdout: the fields of *head*, then *items*, each as it comes, as the field *name*."""
    import json  # noqa: PLC0415

    write = sys.stdout.write
    for number, (field, value) in enumerate(head.items()):
        write(f"{',' if number else '{'}\n  {json.dumps(field)}: {json.dumps(value)}")
    write(f",\n  {json.dumps(name)}: [")
    for number, item in enumerate(items):
        write(f"{',' if number else ''}\n    {json.dumps(item)}")
    write("\n  ]\n}\n")


def write_line(text: str = "") -> None:
    """Write one line of the result to stdout."""
    click.echo(plain(text))


def write_table(rows: Iterable[Sequence[str]]) -> None:
    """Write *rows* to stdout with their columns lined up; the last column is as wide as it is."""
    rows = [[plain(cell) for cell in row] for row in rows]
    if not rows:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [cell.ljust(width) for cell, width in zip(row[:-1], widths, strict=False)]
        lines.append("  ".join([*cells, row[-1]]).rstrip())
    click.echo("\n".join(lines))


def write_processes(processes: Sequence[ProcessSummary]) -> None:
    """Write *processes* to stdout: id, name, how many modules, executable; nothing if there are none."""
    if processes:
        write_line()
        write_line("processes:")
        write_table(
            ("", str(each.id), each.name, count_text(each.modules, "module"), each.image or "") for each in processes
        )


def say(text: str) -> None:
    """Write a note to stderr; what looks like a user and password in it is not shown."""
    click.echo(plain(blot(text)), err=True)


def say_error(text: str) -> None:
    """Write one line about what went wrong to stderr."""
    say(f"symcache: {text}")


def blot(text: str) -> str:
    """Return *text* without what looks like a user and password in it, be it a URL or not."""
    if "@" not in text:
        return text
    from symcache.sympath import redact_words  # noqa: PLC0415 - not needed for --help

    return redact_words(text)


def plain(text: str) -> str:
    """Return *text* with everything that a terminal would act on made visible; names come from hostile input."""
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


def count_text(count: int, noun: str) -> str:
    """Return a number of things for people: ``1 file``, ``2 files``."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def size_text(size_bytes: float) -> str:
    """Return a length for people: ``1.2 MB``."""
    for unit in ("bytes", "KB", "MB", "GB"):
        if size_bytes < 1000:
            return f"{size_bytes:.0f} {unit}" if unit == "bytes" else f"{size_bytes:.1f} {unit}"
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"


def unreadable_text(item: Unreadable) -> str:
    """Return a line about an input that could not be read."""
    return f"{item.path}: {item.problem}" + ("" if item.offset is None else f" (at {item.offset:#x})")


def unreadable_json(items: Iterable[Unreadable]) -> list[dict[str, object]]:
    """Return the field ``unreadable`` of a document."""
    return [{"path": item.path, "problem": item.problem, "offset": item.offset} for item in items]
