"""Inputs as the command line names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

from symcache.cli.output import count_text, write_line, write_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from symcache.inputs.records import ProcessSelection, ProcessSummary

__all__ = ["process_options", "select_processes", "write_processes"]


def write_processes(processes: Sequence[ProcessSummary]) -> None:
    """Write *processes* to stdout: id, name, how many modules, executable; nothing if there are none."""
    if processes:
        write_line()
        write_line("processes:")
        write_table(
            ("", str(each.id), each.name, count_text(each.modules, "module"), each.image or "") for each in processes
        )


F = TypeVar("F", bound="Callable[..., Any]")


def process_options(command: F) -> F:
    """Give *command* ``--process`` and ``--user``, passed on as ``processes`` and ``user``; see `select_processes`."""
    command = click.option(
        "--user/--no-user",
        default=None,
        help="With or without the modules of processes; without --user only complete dumps are searched for them.",
    )(command)
    return click.option(
        "--process",
        "processes",
        metavar="NAME|ID",
        multiple=True,
        help="Of a kernel dump, also the modules of this process; may be given several times.",
    )(command)


def select_processes(processes: Sequence[str], user: bool | None) -> ProcessSelection | None:
    """Return the processes of a kernel dump whose modules are wanted; None for none."""
    from symcache.inputs.records import ProcessSelection  # noqa: PLC0415 - the readers are not needed for --help

    if processes:
        return ProcessSelection(tuple(processes))
    if user is False:
        return None
    return ProcessSelection(if_complete=user is None)
