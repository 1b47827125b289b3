"""``symcache store pins``."""

from __future__ import annotations

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import plain, say, write_line
from symcache.cli.store.pin import write_pins
from symcache.upkeep.inventory import Pins

__all__ = ["command"]


@click.command()
@json_option
@settings_options
def command(settings: Settings, as_json: bool) -> None:
    """List what is pinned, oldest first."""
    with open_store(settings.load()) as store:
        if as_json:
            write_pins(store)
            return
        pins = Pins(store).list()
    for pin in pins:
        write_line(plain(pin))
    if not pins and not settings.quiet:
        say("nothing is pinned")
