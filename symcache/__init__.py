"""Fill, check and serve local stores of Windows symbol files."""

from symcache._version import __version__

__all__ = ["__version__"]
