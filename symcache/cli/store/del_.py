"""``symcache store del``."""

from __future__ import annotations

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, settings_options
from symcache.cli.output import plain, say, write_json, write_line
from symcache.symstore.admin import Admin

__all__ = ["command"]


@click.command()
@click.argument("ids", metavar="ID...", nargs=-1, required=True, type=click.IntRange(min=1))
@json_option
@settings_options
def command(settings: Settings, ids: tuple[int, ...], as_json: bool) -> None:
    """Undo the transactions with these numbers; a file goes when no other transaction names it."""
    with open_store(settings.load()) as store:
        admin = Admin(store)
        deleted = []
        for id_ in ids:
            deleted.append(admin.delete(id_, on_left=say))
            if not as_json:
                write_line(plain(str(deleted[-1])))
    if as_json:
        transactions = [each.as_json() for each in deleted]
        write_json({"schema": "symcache.transactions/1", "store": str(store.root), "transactions": transactions})
