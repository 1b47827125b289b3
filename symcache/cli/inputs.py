"""Inputs as the command line names them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from symcache.readers.detect import read_input

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from symcache.readers.records import Record

__all__ = ["read_inputs"]


def read_inputs(paths: Sequence[str]) -> Iterator[Record]:
    """Yield the records of all inputs, one after the other."""
    for path in paths:
        yield from read_input(path)
