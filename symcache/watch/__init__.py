"""Folders in which dumps and the like arrive: each is warmed for when it is complete, and reported on beside it."""

from symcache.watch.files import Reports
from symcache.watch.run import End, Ended, Watcher, WatchSettings

__all__ = ["End", "Ended", "Reports", "WatchSettings", "Watcher"]
