"""The main job: plan what modules need, carry it out, report what became of it."""

from symcache.warm.cache import SymbolCache
from symcache.warm.plan import ImageChoice, Plan, Want, WantedFile, WantedPdbOfImage
from symcache.warm.report import Report, State, Symbol
from symcache.warm.run import Warmer

__all__ = [
    "ImageChoice",
    "Plan",
    "Report",
    "State",
    "Symbol",
    "SymbolCache",
    "Want",
    "WantedFile",
    "WantedPdbOfImage",
    "Warmer",
]
