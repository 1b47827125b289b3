"""The command line: one short file per command, each imported when it is called."""

from symcache.cli.app import main

__all__ = ["main"]
