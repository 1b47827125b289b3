"""``symcache check``."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import click

from symcache.cli.options import (
    ImagesCommand,
    Settings,
    allow_options,
    images_option,
    inputs_argument,
    json_option,
    process_options,
    select_processes,
    settings_options,
)
from symcache.cli.progress import show_progress
from symcache.cli.warm import finish
from symcache.stores.disk import DiskSource
from symcache.warm.local import LocalRun
from symcache.warm.plan import Plan

if TYPE_CHECKING:
    from symcache.warm.plan import ImageChoice

__all__ = ["command"]


@click.command(cls=ImagesCommand)
@inputs_argument
@process_options
@images_option
@click.option("--all-pdbs", is_flag=True, help="Want every PDB an image names, not only the one debuggers ask for.")
@allow_options
@json_option
@settings_options
def command(
    settings: Settings,
    inputs: tuple[str, ...],
    images: ImageChoice,
    all_pdbs: bool,
    allow_missing: bool,
    allow_empty: bool,
    as_json: bool,
    processes: tuple[str, ...],
    user: bool | None,
) -> None:
    """Report what the inputs need and whether the store has it, right and whole; no network.

    INPUT is what `symcache warm` takes.
    """
    config = settings.load()
    plan = Plan(images=images, all_pdbs=all_pdbs)
    with (
        show_progress(quiet=settings.quiet) as observer,
        closing(DiskSource(config, observer=observer)) as source,
        LocalRun(source, plan, observer=observer) as run,
    ):
        report = run.check(run.open_inputs(inputs, select_processes(processes, user)))
    finish(report, settings, as_json=as_json, allow_missing=allow_missing, allow_empty=allow_empty)
