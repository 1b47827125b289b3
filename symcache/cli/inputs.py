"""Inputs as the command line names them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from symcache.readers.kerneldump import ProcessSelection

__all__ = ["process_options", "select_processes"]

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
    from symcache.readers.kerneldump import ProcessSelection  # noqa: PLC0415 - the readers are not needed for --help

    if processes:
        return ProcessSelection(tuple(processes))
    if user is False:
        return None
    return ProcessSelection(if_complete=user is None)
