"""``symcache store query``."""

from __future__ import annotations

import click

from symcache.cli.openstore import open_store
from symcache.cli.options import Settings, json_option, settings_options_but_version
from symcache.cli.output import say, write_json, write_table
from symcache.errors import UsageError
from symcache.symstore.admin import Admin
from symcache.upkeep.inventory import fits_index

__all__ = ["command"]


@click.command()
@click.argument("pattern", metavar="[PATTERN]", default="*")
@click.option("--product", metavar="PATTERN", default="*", help="Only what came with products that fit.")
@click.option("--version", metavar="PATTERN", default="*", help="Only what came with versions that fit.")
@click.option("--id", "id_", metavar="ID", type=click.IntRange(min=1), help="Only what this transaction brought.")
@json_option
@settings_options_but_version
def command(settings: Settings, pattern: str, product: str, version: str, id_: int | None, as_json: bool) -> None:
    """Find files that current transactions added: by name or index, product, version, or number.

    PATTERN is a name or an index, with * and ? as in a shell. Exit code 3: nothing fits.
    """
    if (pattern, product, version, id_) == ("*", "*", "*", None):
        raise UsageError("say what is sought: a PATTERN, --product, --version or --id")
    with open_store(settings.load()) as store:
        found = [
            holding
            for holding in Admin(store).query(product=product, version=version)
            if id_ in {None, holding.transaction.id} and fits_index(holding.file.key.name, holding.file.key.id, pattern)
        ]
    if as_json:
        files = [holding.as_json() for holding in found]
        write_json({"schema": "symcache.query/1", "store": str(store.root), "files": files})
    else:
        write_table((each.file.key.index, str(each.transaction), each.file.source) for each in found)
    if not found and not settings.quiet:
        say("nothing fits")
    raise click.exceptions.Exit(0 if found else 3)
