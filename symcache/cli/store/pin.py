"""``symcache store pin``, and what it shares with ``unpin``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, process_options, select_processes, settings_options
from symcache.cli.output import count_text, say, say_error, write_json, write_line
from symcache.errors import UsageError
from symcache.upkeep.inventory import Pins

if TYPE_CHECKING:
    from symcache.cli.needs import Needs
    from symcache.config import Config
    from symcache.inputs.records import ProcessSelection
    from symcache.stores.local.tree import Store

__all__ = ["PINS_HELP", "command", "exit_code", "needed_pins", "pins_of", "write_pins"]

PINS_HELP = "everything that INPUT needs: a dump, an image, a folder, a manifest."


@click.command()
@click.argument("pins", metavar="[PIN]...", nargs=-1)
@click.option("--for", "inputs", metavar="INPUT", multiple=True, help=f"Pin {PINS_HELP}")
@process_options
@json_option
@settings_options
def command(
    settings: Settings,
    pins: tuple[str, ...],
    inputs: tuple[str, ...],
    as_json: bool,
    processes: tuple[str, ...],
    user: bool | None,
) -> None:
    """Keep files from being pruned, whether the store has them yet or not.

    PIN is an index, a file name, or a module's name without extension; the last two may have * and ?. nt and hal mean
    all that debuggers call so.
    """
    config = settings.load()
    wanted, needs = pins_of(config, pins, inputs, select_processes(processes, user))
    with open_store(config) as store:
        before = set(Pins(store).list())
        added = [pin for pin in dict.fromkeys(Pins(store).add_all(wanted)) if pin not in before]
        if as_json:
            write_pins(store)
        else:
            write_line(f"{count_text(len(added), 'pin')} added")
    raise click.exceptions.Exit(exit_code(needs, settings))


def pins_of(
    config: Config, pins: tuple[str, ...], inputs: tuple[str, ...], processes: ProcessSelection | None
) -> tuple[list[str], Needs | None]:
    """Return all that is named and that *inputs* need, and what is known of their needs."""
    if not pins and not inputs:
        raise UsageError("name what is meant: PIN, or --for INPUT")
    if not inputs:
        return list(pins), None
    # The readers, and httpx, cost more than all else here.
    from symcache.cli.needs import find_needs  # noqa: PLC0415
    from symcache.warm.plan import ImageChoice, Plan  # noqa: PLC0415

    needs = find_needs(config, inputs, Plan(images=ImageChoice.ALL, all_pdbs=True), processes)
    return [*pins, *needed_pins(needs)], needs


def needed_pins(needs: Needs) -> list[str]:
    """Return the indexes of all that is needed, as far as it is known; of images whose PDB is not, the image's."""
    return [*(key.index for key in needs.keys), *(key.index for key in needs.images)]


def exit_code(needs: Needs | None, settings: Settings) -> int:
    """Say what of *needs* is not known; return how the command ends."""
    if needs is None:
        return 0
    for item in needs.unreadable:
        say_error(f"{item.path}: {item.problem}" + ("" if item.offset is None else f" (at {item.offset:#x})"))
    unknown = [*(f"{key.index}: its PDB is not known before it is warmed" for key in needs.images), *needs.nameless]
    if not settings.quiet:
        for text in unknown:
            say(text)
    return 4 if needs.unreadable else 3 if unknown else 0


def write_pins(store: Store) -> None:
    """Write the document ``symcache.pins/1``."""
    write_json({"schema": "symcache.pins/1", "store": str(store.root), "pins": list(Pins(store).list())})
