"""What samples and stacks of a trace point into, counted by the page."""

from __future__ import annotations

import sys
from array import array
from collections import Counter

PAGE_BITS = 12

# Of one part of a trace, or of a whole one; what comes beyond is not counted. Real ones have a tenth of it.
_MOST_PLACES = 1 << 18
_MOST_KEYS = 1 << 16
_MOST_KEPT_BYTES = 16 << 20
_MOST_WAITING = 1 << 18  # addresses
_CODES = {4: "I", 8: "Q"}


class Hits:
    """Counts of addresses: of samples by thread, of stacks by process. An address counts by its page of 4 KiB."""

    def __init__(self) -> None:
        self.samples: Counter[tuple[int, int]] = Counter()  # (thread, page)
        self.frames: Counter[tuple[int, int]] = Counter()  # (process, page)
        self.keys: Counter[tuple[int, int]] = Counter()  # (process, key of a stack that is kept once)
        self.stacks: dict[int, tuple[bytes, int]] = {}  # key: addresses, and their length in bytes
        self._kept_bytes = 0
        self._addresses: dict[int, Counter[int]] = {}  # of stacks by process, as they are
        self._waiting = 0

    def add_sample(self, thread: int, address: int) -> None:
        """Count an instruction that *thread* was at."""
        _count(self.samples, (thread, address >> PAGE_BITS), 1)

    def add_stack(self, process: int, addresses: bytes, width: int, count: int = 1) -> None:
        """Count the *addresses* of a stack, each *width* bytes long."""
        words = array(_CODES[width])
        words.frombytes(addresses[: len(addresses) - len(addresses) % width])
        if sys.byteorder == "big":
            words.byteswap()
        if count == 1:
            # The same ones come over and over; pages are made of them later, all at once.
            counter = self._addresses.get(process)
            if counter is None:
                counter = self._addresses[process] = Counter()
            counter.update(words)
            self._waiting += len(words) + 1
            if self._waiting > _MOST_WAITING:
                self.fold()
        else:
            for address in words:
                _count(self.frames, (process, address >> PAGE_BITS), count)

    def fold(self) -> None:
        """Count the addresses of stacks by their pages."""
        for process, addresses in self._addresses.items():
            for address, count in addresses.items():
                _count(self.frames, (process, address >> PAGE_BITS), count)
        self._addresses.clear()
        self._waiting = 0

    def add_key(self, process: int, key: int) -> None:
        """Count the stack that *key* stands for, wherever that is defined."""
        _count(self.keys, (process, key), 1)

    def define_key(self, key: int, addresses: bytes, width: int) -> None:
        """Say which stack *key* stands for."""
        if key not in self.stacks and len(self.stacks) < _MOST_KEYS:
            if self._kept_bytes + len(addresses) > _MOST_KEPT_BYTES:
                return
            self._kept_bytes += len(addresses)
            self.stacks[key] = addresses, width

    def merge(self, other: Hits) -> None:
        """Take in what *other* counted."""
        other.fold()
        for mine, others in ((self.samples, other.samples), (self.frames, other.frames), (self.keys, other.keys)):
            for place, count in others.items():
                _count(mine, place, count)
        for key, (addresses, width) in other.stacks.items():
            self.define_key(key, addresses, width)

    def resolve_keys(self) -> None:
        """Count the stacks that keys stand for; what was never defined is left out."""
        self.fold()
        for (process, key), count in self.keys.items():
            if (stack := self.stacks.get(key)) is not None:
                self.add_stack(process, *stack, count)
        self.keys.clear()
        self.stacks.clear()
        self._kept_bytes = 0


def _count(counter: Counter[tuple[int, int]], place: tuple[int, int], count: int) -> None:
    if place in counter or len(counter) < _MOST_PLACES:
        counter[place] += count
