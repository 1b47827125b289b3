"""``symcache builds``."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from symcache.cli.options import Settings, architecture_type, folder_option, settings_options
from symcache.cli.output import show_progress, write_json, write_table
from symcache.errors import InputError, UsageError
from symcache.formats.winbindex import INSIDER
from symcache.inputs.builds.choose import Architecture
from symcache.inputs.builds.listing import list_files, list_updates
from symcache.inputs.builds.source import Index
from symcache.inputs.builds.words import parse_words, target_of
from symcache.reports.lines import count_text
from symcache.warm.documents import carry_through

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from symcache.inputs.builds.listing import KnownFile
    from symcache.inputs.builds.words import KnownUpdate


@click.command()
@click.argument("what", metavar="[FILE|RELEASE|BUILD|KB]", required=False)
@click.option(
    "--arch",
    "architecture",
    type=architecture_type,
    default="x64",
    show_default=True,
    help="What the files were compiled for.",
)
@click.option("--insider", is_flag=True, help="Ask the index of Insider builds.")
@folder_option("--index", "Take what the index of builds says from files in DIR, not from the network.")
@settings_options()
def builds_command(settings: Settings, what: str | None, architecture: str, insider: bool, index: Path | None) -> None:
    """List what is known of Windows builds: releases, the updates of one, or the files of one name.

    Without an argument, the releases with the latest update of each. Of a release ('11 22H2') or a build number
    (22621), its updates; of an update (KB5023706) or a build (22621.1483), what it is. Of the name of a file
    (ntfs.sys), every file of that name with its key and the builds that brought it.
    """
    is_file = what is not None and _is_file(what)
    config = settings.load()
    place = Index(config.builds, Architecture(architecture), index, is_insider=insider)
    updates: Sequence[KnownUpdate] = ()
    files: Sequence[KnownFile] = ()
    with show_progress(quiet=settings.quiet) as observer:
        if is_file and what is not None:
            files = carry_through(list_files(place, what.lower()), config, observer)
        else:
            updates = carry_through(list_updates(place, what), config, observer)
    if settings.as_json:
        shown = {"schema": "symcache.builds/1", "architecture": architecture, "file": what if is_file else None}
        rows = [_update_json(each) for each in updates]
        write_json({**shown, "updates": rows, "files": [each.as_json() for each in files]})
    elif is_file:
        write_table(_file_row(each) for each in files)
    else:
        write_table(_release_rows(updates) if what is None else map(_update_row, updates))


def _is_file(text: str) -> bool:
    """Say whether *text* is the name of a file; `UsageError` if it is nothing that there is an answer to."""
    try:
        parse_words(text)
    except InputError as error:
        if "." not in text or text.replace(".", "").isdigit() or set(text) & set("/\\"):
            raise UsageError(f"{error}; or give the name of a file, such as ntfs.sys") from error
        return True
    return False


def _release_rows(updates: Sequence[KnownUpdate]) -> Iterator[list[str]]:
    by_release: dict[str, list[KnownUpdate]] = {}
    for each in updates:
        by_release.setdefault(each.shown_release, []).append(each)
    for release, known in by_release.items():
        count = count_text(
            sum(each.build is not None for each in known), "build" if known[0].release == INSIDER else "update"
        )
        yield [release, count, f"latest {known[-1]}"]


def _update_row(each: KnownUpdate) -> list[str]:
    build = target_of(each, [each]).build
    return [
        "" if build is None else str(build),
        each.shown_release,
        "" if each.release == INSIDER else each.update,
        each.date or "",
    ]


def _update_json(each: KnownUpdate) -> dict[str, object]:
    build = None if each.build is None else str(each.build)
    return {"release": each.shown_release, "update": each.update, "build": build, "date": each.date}


def _file_row(each: KnownFile) -> list[str]:
    image, count = each.module.image, len(each.module.candidates)
    index = f"one of {count_text(count, 'size')}" if count else "-" if image is None else image.index
    first, last = (str(each.builds[0]), str(each.builds[-1])) if each.builds else ("", "")
    where = ", ".join(each.releases) if not first else first if first == last else f"{first} to {last}"
    return [(each.version or "").partition(" ")[0], index, where, each.kind]
