"""The command line: a module for commands that share something, imported when one of them is called."""

from symcache.cli.app import main

__all__ = ["main"]
