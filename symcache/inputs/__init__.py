"""Inputs to modules: what each kind of input holds and what names its files. No network, no store."""

from symcache.inputs.detect import InputOptions, detect, open_inputs, read_input
from symcache.inputs.kerneldump import ProcessSelection
from symcache.inputs.manifest import manifest_lines
from symcache.inputs.records import (
    ImageUse,
    Input,
    InputKind,
    Module,
    PdbFormat,
    PdbReference,
    ProcessSummary,
    Record,
    Unreadable,
)

__all__ = [
    "ImageUse",
    "Input",
    "InputKind",
    "InputOptions",
    "Module",
    "PdbFormat",
    "PdbReference",
    "ProcessSelection",
    "ProcessSummary",
    "Record",
    "Unreadable",
    "detect",
    "manifest_lines",
    "open_inputs",
    "read_input",
]
