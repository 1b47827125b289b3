"""``symcache store``: one short file per command."""

from symcache.cli.store.group import command

__all__ = ["command"]
