"""Damaged copies of good inputs, reproducible from a seed."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["EXTREMES", "mutants"]

EXTREMES = (0, 1, 0x7F, 0x80, 0xFF, 0x7FFF, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF, 0xFFFFFFFFFFFFFFFF)


def mutants(seed: bytes, count: int, *, rng_seed: int = 0, hot: int = 4096) -> Iterator[bytes]:
    """Yield *count* damaged copies of *seed*: bits flipped, integers made extreme, pieces cut, copied or dropped.

    Half of the damage falls into the first *hot* bytes, where headers are.
    """
    rng = random.Random(rng_seed)
    for _ in range(count):
        data = bytearray(seed)
        for _ in range(rng.choice((1, 1, 2, 3, 8))):
            if data:
                _damage(data, rng, hot)
        yield bytes(data)


def _damage(data: bytearray, rng: random.Random, hot: int) -> None:
    reach = min(len(data), hot) if rng.random() < 0.5 else len(data)
    at = rng.randrange(reach)
    match rng.randrange(6):
        case 0:
            data[at] ^= 1 << rng.randrange(8)
        case 1:
            data[at] = rng.randrange(256)
        case 2:
            width = rng.choice((2, 4, 8))
            value = rng.choice(EXTREMES) & ((1 << 8 * width) - 1)
            data[at : at + width] = value.to_bytes(width, "little")
        case 3:
            del data[at:]
        case 4:
            del data[at : at + rng.randrange(1, 64)]
        case _:
            source = rng.randrange(len(data))
            data[at : at + 16] = data[source : source + 16]
