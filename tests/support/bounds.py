"""What hostile inputs cost a reader: time, in counts to a million, and memory."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from symcache.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["Cost", "measure", "open_handles"]

# In times that counting to a million takes, 25 ms each on a quick processor.
_MOST_COUNTS = 40
_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")


@dataclass(frozen=True, slots=True)
class Cost:
    """What a row of inputs cost.

    Attributes:
        refused: How many ended in an `InputError`.
        slowest_s: Processor time of the slowest.
        count_s: Processor time that counting to a million took meanwhile.
        grown_bytes: How far the process's memory grew at most.
    """

    refused: int
    slowest_s: float
    count_s: float
    grown_bytes: int

    def check(self, record_property: Callable[[str, object], None], *, most_counts: int = _MOST_COUNTS) -> None:
        """Hold the bounds of one input, *most_counts* counts to a million and 256 MiB, and note what was measured."""
        record_property("refused", self.refused)
        record_property("slowest_ms", round(self.slowest_s * 1000, 1))
        record_property("slowest_counts", round(self.slowest_s / self.count_s, 2))
        record_property("grown_mib", round(self.grown_bytes / (1 << 20), 1))
        assert self.slowest_s < most_counts * self.count_s
        assert self.grown_bytes < 256 << 20


def measure(inputs: Iterable[bytes], read: Callable[[bytes], object]) -> Cost:
    """Let *read* take each of *inputs*; an `InputError` is an answer, any other error ends the test."""
    refused, slowest_s = 0, 0.0
    before = _reset_peak()
    counts_s = [_count_s()]
    for data in inputs:
        started_s = time.process_time()
        try:
            read(data)
        except InputError:
            refused += 1
        took_s = time.process_time() - started_s
        if took_s > slowest_s:
            slowest_s = took_s
            counts_s.append(_count_s())
    return Cost(refused, slowest_s, max(counts_s), _peak_bytes() - before)


def _count_s() -> float:
    """Return what counting to a million takes; what is slow or busy, or traces each line, is slow at that, too."""
    started_s = time.process_time()
    count = 0
    while count < 1_000_000:
        count += 1
    return time.process_time() - started_s


def open_handles() -> int:
    """Return how many descriptors, on Windows handles of any kind, this process has open; 0 where none can tell."""
    if sys.platform == "win32":
        import ctypes  # noqa: PLC0415

        count, kernel32 = ctypes.c_uint32(), ctypes.windll.kernel32
        assert kernel32.GetProcessHandleCount(ctypes.c_void_p(-1), ctypes.byref(count))
        return count.value
    folder = Path("/proc/self/fd")
    return sum(1 for _ in folder.iterdir()) if folder.is_dir() else 0


def _reset_peak() -> int:
    """Return the memory the process has now, from where its peak is counted; the old peak where it cannot be reset."""
    if _CLEAR.exists():
        _CLEAR.write_text("5")
    return _peak_bytes()


def _peak_bytes() -> int:
    if _STATUS.exists():
        lines = _STATUS.read_text().splitlines()
        return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmHWM"))
    resource = pytest.importorskip("resource", reason="peak memory is asked for another way on Windows")
    peak: int = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
