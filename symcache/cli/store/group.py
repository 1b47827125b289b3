"""The group of commands that look after stores."""

from __future__ import annotations

import click

from symcache.cli.app import LazyGroup

__all__ = ["command"]

_COMMANDS = {
    "init": "Make an empty store.",
    "add": "Publish files, or pointers to them, as one transaction.",
    "del": "Undo transactions.",
    "query": "Find what transactions brought.",
    "list": "List transactions, or all files.",
    "stats": "Count what the store holds; find and link duplicates.",
    "verify": "Check every file against its key; repair what is wrong.",
    "prune": "Remove files by size, age and last use.",
    "pin": "Keep files from being pruned.",
    "unpin": "Allow them to be pruned again.",
    "pins": "List what is pinned.",
    "convert": "Change between the single-tier and the two-tier layout.",
}


@click.group(cls=LazyGroup, package="symcache.cli.store", summaries=_COMMANDS)
def command() -> None:
    """Look after a store: publish, list, verify, prune, convert.

    It is the bottom-most store of the symbol path, or the one that --store names. Any number of processes may use it
    at the same time.
    """
