"""One tree on disk: found by key, filled in one step per file, verified. No network."""

from symcache.store.check import Verdict, check_file, check_view
from symcache.store.links import ImageLinks, Link
from symcache.store.misses import Miss, Misses
from symcache.store.tree import Form, Store, Stored

__all__ = [
    "Form",
    "ImageLinks",
    "Link",
    "Miss",
    "Misses",
    "Store",
    "Stored",
    "Verdict",
    "check_file",
    "check_view",
]
