"""What parsers are fed, and what one input may cost: for the campaign with atheris and for tests of seconds.

Work is counted in calls, which are the same on every machine; clocks are for the campaign alone.
"""

from __future__ import annotations

import atexit
import shutil
import sys
import tempfile
import tracemalloc
from contextlib import suppress
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from support.mutation import EXTREMES
from support.views import CountingView
from symcache.errors import InputError
from symcache.formats.view import BytesView

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from symcache.formats.view import ByteView

__all__ = ["NO_ERRORS", "BoundBroken", "Cost", "Patches", "Target", "as_text", "scratch"]

NO_ERRORS: tuple[type[Exception], ...] = ()
"""Of a parser that passes over what makes no sense."""

_MIB = 1 << 20


class BoundBroken(AssertionError):
    """One input cost more than its length allows."""


@dataclass(frozen=True, slots=True)
class Cost:
    """What one input cost: calls of functions, and bytes of memory at the highest."""

    calls: int
    peak_bytes: int


@dataclass(frozen=True)
class Target:
    """A parser of what comes from outside.

    Attributes:
        name: For the command line and the table.
        parse: Takes an input; whatever it raises but *errors* is a defect, a failed assertion too.
        make_seeds: Returns sound inputs.
        covers: The modules that it is about, below ``symcache``.
        errors: What it may raise, by its docstring.
        most_calls: Calls of functions for an input of no length, and for each KiB.
        most_bytes: Memory, likewise.
        most_s: Processor time, likewise; for the campaign.
        words: Of its grammar, for the fuzzer's dictionary.
        longest: No input of the campaign is longer, in bytes.
    """

    name: str
    parse: Callable[[bytes], object]
    make_seeds: Callable[[], Sequence[bytes]]
    covers: tuple[str, ...]
    errors: tuple[type[Exception], ...] = (InputError,)
    most_calls: tuple[int, int] = (20_000, 3_000)
    most_bytes: tuple[int, int] = (2 * _MIB, 64 << 10)
    most_s: tuple[float, float] = (0.5, 0.02)
    words: tuple[bytes, ...] = ()
    longest: int = 1 << 14

    @cached_property
    def seeds(self) -> tuple[bytes, ...]:
        return tuple(self.make_seeds())

    def run(self, data: bytes) -> None:
        """Parse *data*; an error that is none of `errors` comes out."""
        try:
            self.parse(data)
        except self.errors:
            return

    def measure(self, data: bytes) -> Cost:
        """Parse *data* and return what it cost.

        Raises:
            BoundBroken: More than its length allows; too many calls end it there and then.
        """
        most_calls, most_bytes = int(_bound(self.most_calls, data)), self.most_memory(data)
        calls = 0

        def count(_frame: object, event: str, _argument: object) -> None:
            nonlocal calls
            if event in {"call", "c_call"}:
                calls += 1
                if calls == most_calls:
                    raise BoundBroken(f"{self.name}: more than {most_calls} calls for {len(data)} bytes")

        was_tracing = tracemalloc.is_tracing()
        if not was_tracing:
            tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        tracemalloc.reset_peak()
        sys.setprofile(count)
        try:
            self.run(data)
        finally:
            sys.setprofile(None)
            peak = tracemalloc.get_traced_memory()[1] - before
            if not was_tracing:
                tracemalloc.stop()
        if peak > most_bytes:
            raise BoundBroken(f"{self.name}: {peak} bytes of memory for {len(data)} bytes")
        return Cost(calls, peak)

    def most_memory(self, data: bytes) -> int:
        return int(_bound(self.most_bytes, data))

    def most_seconds(self, data: bytes) -> float:
        return _bound(self.most_s, data)


def _bound(most: tuple[float, float], data: bytes) -> float:
    return most[0] + most[1] * len(data) / 1024


@cache
def scratch() -> Path:
    """Return a folder that lasts as long as this process."""
    folder = tempfile.mkdtemp(prefix="symcache-fuzz-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return Path(folder)


def as_text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


class Patches:
    """Large inputs, of which little is ever read, damaged where it is read.

    An input is the number of one of *bases*, then five bytes a patch: where (u16, among the places that reading the
    base looks at), what (u8), a value (u16).
    """

    def __init__(self, make_bases: Callable[[], Sequence[bytes]], read: Callable[[ByteView], object]) -> None:
        self._make_bases = make_bases
        self._read = read

    @cached_property
    def _bases(self) -> list[tuple[bytes, tuple[int, ...]]]:
        return [(base, tuple(self._places(base))) for base in self._make_bases()]

    def _places(self, base: bytes) -> Iterator[int]:
        view = CountingView(BytesView(base))
        with suppress(InputError):  # a base that is refused is read up to there
            self._read(view)
        seen: set[int] = set()
        for start, length in view.reads:
            for at in range(start, start + min(length, 0x1000), 4):
                if at not in seen:
                    seen.add(at)
                    yield at

    def seeds(self) -> list[bytes]:
        """Return each base as it is, and with a few patches."""
        numbers = range(len(self._bases))
        return [bytes([number]) for number in numbers] + [
            bytes([number]) + bytes((7 * number + 31 * step + 13) & 0xFF for step in range(25)) for number in numbers
        ]

    def apply(self, data: bytes) -> bytes:
        """Return what *data* stands for."""
        base, places = self._bases[(data[0] if data else 0) % len(self._bases)]
        patched = bytearray(base)
        for start in range(1, len(data) - 4, 5):
            where = int.from_bytes(data[start : start + 2], "little")
            what, value = data[start + 2], int.from_bytes(data[start + 3 : start + 5], "little")
            at = places[where % len(places)]
            width = 1 << (what & 3)
            old = int.from_bytes(base[at : at + width], "little")
            match what >> 2 & 3:
                case 0:
                    new = value
                case 1:
                    new = EXTREMES[value % len(EXTREMES)]
                case 2:
                    new = old + value - 0x8000
                case _:  # what stands elsewhere, so that addresses lead to places that are there
                    there = places[value % len(places)]
                    new = int.from_bytes(base[there : there + width], "little")
            patched[at : at + width] = (new & ((1 << 8 * width) - 1)).to_bytes(width, "little")
        return bytes(patched)

    def parse(self, data: bytes) -> None:
        self._read(BytesView(self.apply(data)))
