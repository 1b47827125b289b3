"""Sizes and times as people write them on a command line."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["parse_age", "parse_size"]

_QUANTITY = re.compile(r"([0-9]{1,15}(?:\.[0-9]{1,9})?) ?([A-Za-z]*)")
_BYTES = {"b": 1, "bytes": 1} | {
    f"{prefix}{unit}": base**power
    for power, prefix in enumerate("kmgt", start=1)
    for unit, base in (("b", 1000), ("", 1000), ("ib", 1024))
}
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400, "y": 365 * 86400}


def parse_size(text: str) -> int:
    """Return bytes: ``KB``, ``MB``, ``GB``, ``TB`` are powers of 1000, ``KiB`` and so on of 1024.

    Raises:
        BadParameter: Something else.
    """
    return int(_parse(text, _BYTES, "a size such as 20GB, 500MB or 1.5TiB"))


def parse_age(text: str) -> float:
    """Return seconds: ``s``, ``m`` minutes, ``h``, ``d``, ``w``, ``y`` of 365 days.

    Raises:
        BadParameter: Something else.
    """
    return _parse(text, _SECONDS, "a time such as 90d, 12h or 2w")


def _parse(text: str, units: Mapping[str, float], what: str) -> float:
    match = _QUANTITY.fullmatch(text.strip())
    unit = None if match is None else units.get(match[2].lower())
    if match is None or unit is None:
        raise click.BadParameter(f"{text!r} is not {what}.")
    return float(match[1]) * unit
