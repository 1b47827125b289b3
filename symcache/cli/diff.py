"""``symcache diff``."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import click
from click.exceptions import Exit

from symcache.cli.options import (
    color_option,
    complete_files,
    json_option,
    process_options,
    quiet_option,
    sets_option,
    version_option,
)
from symcache.cli.output import blot, say_error, terminal_width, unreadable_json, write_json
from symcache.config import load_file
from symcache.errors import StoreError, UsageError
from symcache.identity import fold
from symcache.inputs.detect import InputOptions, open_inputs
from symcache.inputs.records import Input, InputKind, Module, Unreadable
from symcache.inputs.versions import read_versions
from symcache.reports.difference import difference_lines
from symcache.reports.text import unreadable_text
from symcache.stores.local.tree import Store
from symcache.upkeep.inventory import list_keys
from symcache.warm.difference import Comparison, Side, compare

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from symcache.identity import Key
    from symcache.inputs.records import ProcessSelection, Record


class _Opened(NamedTuple):
    """One of the two that are compared."""

    path: str  # as the user named it
    kind: str | None  # None if it could not be read at all
    records: Sequence[Record]
    keys: Sequence[Key] = ()  # of a store

    @property
    def is_store(self) -> bool:
        return self.kind == _STORE

    @property
    def names_files_alone(self) -> bool:
        """It knows no modules."""
        kinds = {each.kind for each in self.records if isinstance(each, Input)}
        return self.is_store or not kinds.isdisjoint({InputKind.MANIFEST, InputKind.PDB})


_STORE = "store"
_MARKS = ("pingme.txt", "index2.txt", "000Admin", ".symcache")


@click.command()
@click.argument("before", metavar="A", shell_complete=complete_files)
@click.argument("after", metavar="B", shell_complete=complete_files)
@sets_option
@process_options
@json_option
@quiet_option
@color_option
@version_option
def diff_command(
    before: str,
    after: str,
    sets: tuple[str, ...],
    selection: ProcessSelection | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Say which modules came, went or changed build from A to B.

    A and B are dumps, folders of images, reports of `symcache warm` and `check`, lock files, other inputs, or stores.
    Modules are compared by name, whatever address they are loaded at; where A or B is a store, a list or a PDB, which
    know no modules, files are. Exit code 0: the same; 3: something differs; 4: A or B could not be read.
    """
    if before == after == "-":
        raise UsageError("standard input can be read once: give a file for A or B")
    file = load_file()
    options = InputOptions(selection, sets, file.sets, limits=file.inputs)
    opened = [_open(path, options) for path in (before, after)]
    by_file = any(each.names_files_alone for each in opened)
    compared = _compare(opened, by_file=by_file)
    unreadable = [record for each in opened for record in each.records if isinstance(record, Unreadable)]
    if as_json:
        ends = zip(("before", "after"), opened, strict=True)
        write_json(
            {
                "schema": "symcache.diff/1",
                **{name: {"path": blot(each.path), "kind": each.kind} for name, each in ends},
                "by": "file" if by_file else "module",
                "summary": compared.count(),
                "differences": [each.as_json() for each in compared.differences],
                "unreadable": unreadable_json(unreadable),
            }
        )
    elif all(each.kind for each in opened):
        for line in difference_lines(compared, quiet=quiet, width=terminal_width()):
            click.echo(line)
    for item in unreadable:
        say_error(unreadable_text(item))
    raise Exit(4 if unreadable else 3 if compared.differences else 0)


def _open(path: str, options: InputOptions) -> _Opened:
    if _is_store(path):
        try:
            with Store(Path(path)) as store:
                names = options.names()
                keys = [key for key in list_keys(store) if names is None or names.takes(key.name)]
                return _Opened(path, _STORE, (), keys)
        except StoreError as error:
            return _Opened(path, None, [Unreadable(path, error.problem)])
    records = [record for record in open_inputs([path], options) if isinstance(record, Input | Module | Unreadable)]
    return _Opened(path, next((record.kind.value for record in records if isinstance(record, Input)), None), records)


def _is_store(path: str) -> bool:
    with suppress(OSError):  # reading it says what is wrong
        return path != "-" and any(Path(path, mark).exists() for mark in _MARKS)
    return False


def _compare(opened: Sequence[_Opened], *, by_file: bool) -> Comparison:
    """Compare the two that are *opened*; nothing is said of one that could not be read at all, as if all had gone."""
    if not all(each.kind for each in opened):
        return Comparison((), 0)
    has_store = any(each.is_store for each in opened)
    compared = compare(*(_side(each, Side(by_file=by_file, held_alone=has_store)) for each in opened))
    if by_file or not compared.differences:
        return compared
    # Versions are worth finding out for what differs alone.
    names = {fold(each.name) for each in compared.differences}
    return compare(*(_side(_with_versions(each, names), Side()) for each in opened))


def _with_versions(opened: _Opened, names: Collection[str]) -> _Opened:
    """Return *opened* with the versions of the modules of *names*, folded, as far as it has them."""
    modules = [each for each in opened.records if isinstance(each, Module) and fold(each.name) in names]
    versions = read_versions(opened.path, modules)
    records = [
        replace(each, version=versions[each]) if isinstance(each, Module) and each in versions else each
        for each in opened.records
    ]
    return opened._replace(records=records)


def _side(opened: _Opened, side: Side) -> Side:
    """Return *side* with all that *opened* holds."""
    for key in opened.keys:
        side.add_key(key)
    for record in opened.records:
        if isinstance(record, Module):
            side.add(record)
    return side
