"""``symcache sets``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symcache.cli.options import Settings, complete_sets, settings_options
from symcache.cli.output import write_json, write_line, write_table
from symcache.inputs.sets import load_sets
from symcache.reports.lines import count_text

if TYPE_CHECKING:
    from symcache.inputs.sets import NamedSet, Sets


@click.command()
@click.argument("names", metavar="[NAME]...", nargs=-1, shell_complete=complete_sets)
@settings_options()
def sets_command(settings: Settings, names: tuple[str, ...]) -> None:
    """List the sets of modules that --set knows; of those that are named, list the members.

    The table [sets] of the config file adds sets, and adds to these.
    """
    sets = load_sets(settings.load().sets)
    if settings.as_json:
        chosen = [each for each in sets if not names or each.name.lower() in {name.lower() for name in names}]
        sets.union(names)  # which says what is not known
        write_json({"schema": "symcache.sets/1", "sets": [_json(each, sets) for each in chosen]})
    elif names:
        for member in sets.union(names).members:
            write_line(member)
    else:
        write_table([_row(each, sets) for each in sets])


def _row(each: NamedSet, sets: Sets) -> list[str]:
    members = sets.union([each.name])
    globs = f" and {count_text(len(members.globs), 'pattern')}" if members.globs else ""
    return [each.name, f"{count_text(len(members.names), 'name')}{globs}", each.about or "of the config file"]


def _json(each: NamedSet, sets: Sets) -> dict[str, object]:
    members = sets.union([each.name])
    return {
        "name": each.name,
        "about": each.about or None,
        "from_config": each.is_own,
        "names": list(members.names),
        "patterns": list(members.globs),
    }
