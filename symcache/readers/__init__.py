"""Inputs to modules: what each kind of input holds and what names its files. No network, no store."""

from symcache.readers.detect import detect, read_input
from symcache.readers.manifest import manifest_lines
from symcache.readers.records import Input, InputKind, Module, PdbFormat, PdbReference, Record, Unreadable

__all__ = [
    "Input",
    "InputKind",
    "Module",
    "PdbFormat",
    "PdbReference",
    "Record",
    "Unreadable",
    "detect",
    "manifest_lines",
    "read_input",
]
