"""Processes of a dump, as ``scan`` and ``inspect`` show them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from symcache.cli.output import count_text, write_line, write_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from symcache.readers.records import ProcessSummary

__all__ = ["process_json", "write_processes"]


def process_json(process: ProcessSummary) -> dict[str, Any]:
    """Return the fields of one JSON object."""
    return {"id": process.id, "name": process.name, "image": process.image, "modules": process.modules}


def write_processes(processes: Sequence[ProcessSummary]) -> None:
    """Write *processes* to stdout: id, name, how many modules, executable; nothing if there are none."""
    if processes:
        write_line()
        write_line("processes:")
        write_table(
            ("", str(each.id), each.name, count_text(each.modules, "module"), each.image or "") for each in processes
        )
