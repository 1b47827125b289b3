"""``symcache store unpin``."""

from __future__ import annotations

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, process_options, select_processes, settings_options
from symcache.cli.output import count_text, write_line
from symcache.cli.store.pin import PINS_HELP, exit_code, pins_of, write_pins
from symcache.errors import UsageError
from symcache.upkeep.inventory import Pins

__all__ = ["command"]


@click.command()
@click.argument("pins", metavar="[PIN]...", nargs=-1)
@click.option("--for", "inputs", metavar="INPUT", multiple=True, help=f"Unpin {PINS_HELP}")
@click.option("--all", "everything", is_flag=True, help="Unpin everything.")
@process_options
@json_option
@settings_options
def command(
    settings: Settings,
    pins: tuple[str, ...],
    inputs: tuple[str, ...],
    everything: bool,
    as_json: bool,
    processes: tuple[str, ...],
    user: bool | None,
) -> None:
    """Let pinned files be pruned again. PIN is as `store pins` shows it."""
    if everything and (pins or inputs):
        raise UsageError("--all leaves nothing else to name")
    config = settings.load()
    selection = select_processes(processes, user)
    wanted, needs = ([], None) if everything else pins_of(config, pins, inputs, selection)
    with open_store(config) as store:
        removed = Pins(store).remove_all(Pins(store).list() if everything else wanted)
        if as_json:
            write_pins(store)
        else:
            write_line(f"{count_text(removed, 'pin')} removed")
    if not removed and pins:
        raise click.exceptions.Exit(3)
    raise click.exceptions.Exit(exit_code(needs, settings))
