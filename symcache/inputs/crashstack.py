"""Which modules a crash is about: decided from addresses alone, without reading a dump and without unwinding."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

from symcache.inputs.records import CrashStack, StackModule

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from symcache.inputs.records import Module

# What lies there is the image's header, to which handles of modules point, and no function returns to it.
_HEADER_BYTES = 0x1000


def modules_on_stack(
    instructions: Iterable[int], words: Iterable[int], ranges: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Return which of *ranges*, by index, are on a stack, and how many of its *words* point into each.

    First those that *instructions* lie in, addresses that the crash itself names; then in the order in which words,
    from the top of the stack, point into them; last those of which only the header is pointed to.

    Args:
        instructions: The faulting instruction first; 0 and what lies in no range does not count.
        words: From the top of the stack.
        ranges: Address and size in bytes of the modules that are loaded, in any order. The first at an address counts.
    """
    by_start: dict[int, int] = {}
    for index, (start, size) in enumerate(ranges):
        if size > 0:
            by_start.setdefault(start, index)
    starts = sorted(by_start)

    def find(address: int) -> tuple[int, bool] | None:
        """Return which range *address* lies in, and whether it lies in its header."""
        at = bisect_right(starts, address) - 1
        if at < 0:
            return None
        index = by_start[starts[at]]
        within = address - starts[at]
        return (index, within < _HEADER_BYTES) if within < ranges[index][1] else None

    counts: dict[int, int] = {}
    for address in instructions:
        if address and (found := find(address)) is not None:
            counts.setdefault(found[0], 0)
    pointed_to: dict[int, int] = {}
    for word in words:
        found = find(word)
        if found is not None:
            index, is_header = found
            if index in counts or not is_header:
                counts[index] = counts.get(index, 0) + 1
            else:
                pointed_to[index] = pointed_to.get(index, 0) + 1
    for index, count in pointed_to.items():
        counts[index] = counts.get(index, 0) + count
    return list(counts.items())


def find_crash_stack(
    instructions: Iterable[int], words: Iterable[int], loaded: Sequence[tuple[Module, int]], thread: str | None = None
) -> CrashStack | None:
    """Return the record of a crash's stack; None if it leads to no module.

    *loaded* are the modules that are loaded, with their sizes in bytes; *thread* says whose stack it is.
    """
    ranges = [(-1 if module.base is None else module.base, size) for module, size in loaded]
    found = modules_on_stack(instructions, words, ranges)
    modules = tuple(StackModule(loaded[index][0], count) for index, count in found)
    return CrashStack(modules, thread) if modules else None
