"""FILETIME: how Windows counts time, in ticks of 100 ns, as a point since 1601 UTC or as a span.

Source: learn.microsoft.com, "FILETIME structure (minwinbase.h)".
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

TICKS_PER_S = 10_000_000
_EPOCH = datetime(1601, 1, 1, tzinfo=UTC)


def iso_time(ticks: int | None, *, timespec: str = "auto") -> str | None:
    """Return a point in time as ISO 8601; None for 0, and for one after the year 9999."""
    if not ticks:
        return None
    try:
        return (_EPOCH + timedelta(microseconds=ticks // 10)).isoformat(timespec=timespec)
    except OverflowError:
        return None
