"""Inputs as the command line names them."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar

import click

from symcache.readers.detect import read_input
from symcache.readers.kerneldump import ProcessSelection, read_kernel_dump

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from symcache.readers.kerneldump import FindLayout
    from symcache.readers.records import Record

__all__ = ["process_options", "read_inputs", "select_processes"]

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
    if processes:
        return ProcessSelection(tuple(processes))
    if user is False:
        return None
    return ProcessSelection(if_complete=user is None)


def read_inputs(
    paths: Sequence[str], processes: ProcessSelection | None = None, find_layout: FindLayout | None = None
) -> Iterator[Record]:
    """Yield the records of all inputs, one after the other.

    Args:
        paths: As the user named them.
        processes: Processes of kernel dumps whose modules are wanted; None for none.
        find_layout: See `read_kernel_dump`.
    """
    kernel = partial(read_kernel_dump, user=processes, find_layout=find_layout)
    for path in paths:
        yield from read_input(path, kernel=kernel)
