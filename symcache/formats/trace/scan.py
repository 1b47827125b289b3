"""An event log read whole: by this process, or by several where unpacking it takes long."""

from __future__ import annotations

import os
from collections import deque
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from symcache.formats.trace.etl import BUFFER_HEADER_BYTES, Part, find_in_part, read_parts

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future, ProcessPoolExecutor

    from symcache.formats.trace.etl import FoundEvents
    from symcache.formats.trace.events import EventTaker
    from symcache.formats.view import ByteView

# Starting a process takes as long as unpacking four of these.
_PART_BYTES = 1 << 20
_WORTH_PROCESSES = 16 << 20
_WHOLE_PART_BYTES = 1 << 19  # fits into a processor's cache
_MOST_PROBLEMS = 20
_PATIENCE_S = 120.0  # for a part, which takes seconds on a busy machine
_MOST_PROCESSES = 32  # Windows waits for 63 at most
_FLAGS_AT = 52
_COMPRESSED = 0x40


@dataclass(slots=True)
class Scanned:
    """What is known of a log that was read."""

    buffers: int = 0
    compressed: int = 0  # of them
    damaged: int = 0  # of them
    problems: list[str] = field(default_factory=list)


def scan_etl(
    view: ByteView,
    taker: EventTaker,
    *,
    with_hits: bool = False,
    cores: int = 1,
    advance: Callable[[int], None] = lambda _: None,
) -> Scanned:
    """Hand what the log in *view* holds to *taker*; return what there is to say of the log itself.

    Nothing is raised for what is damaged. Up to *cores* processes take part where it is long and packed, or where
    *with_hits* every event is looked at. *advance* is told how many bytes of it are done.
    """
    scanned = Scanned()
    is_slow = with_hits or _is_compressed(view)
    size = _PART_BYTES if is_slow else _WHOLE_PART_BYTES
    wanted = cores if is_slow and view.size >= _WORTH_PROCESSES else 1
    parts = _told_parts(read_parts(view, size), scanned)
    first_damage: int | None = None
    for part, found in _find_all(parts, min(wanted, _MOST_PROCESSES), with_hits=with_hits):
        for event in found.events:
            taker.take(event)
        taker.add_hits(found.hits)
        scanned.buffers += found.buffers
        scanned.compressed += found.compressed
        scanned.damaged += found.damaged
        if first_damage is None:
            first_damage = found.first_damage
        advance(part[0] + part[1])
    if scanned.damaged:
        said = "1 buffer is" if scanned.damaged == 1 else f"{scanned.damaged} buffers are"
        text = f"{said} damaged or cut off, first at {first_damage:#x}; what could be read of it is here"
        scanned.problems.insert(0, text)
    return scanned


def usable_cores() -> int:
    """Return how many processors this process may use."""
    with suppress(AttributeError, OSError):
        return len(os.sched_getaffinity(0))  # type: ignore[attr-defined,unused-ignore]  # not on Windows
    return os.cpu_count() or 1


def _is_compressed(view: ByteView) -> bool:
    """Say whether the buffer behind the first one is packed; the first never is."""
    if view.size < 2 * BUFFER_HEADER_BYTES:
        return False
    second = int.from_bytes(view.read(0, 4), "little")
    if second + BUFFER_HEADER_BYTES > view.size:
        return False
    return bool(view.read(second + _FLAGS_AT, 1)[0] & _COMPRESSED)


def _told_parts(parts: Iterator[Part | str], scanned: Scanned) -> Iterator[Part]:
    for part in parts:
        if isinstance(part, Part):
            yield part
        elif len(scanned.problems) < _MOST_PROBLEMS:
            scanned.problems.append(part)


def _find_all(
    parts: Iterator[Part], processes: int, *, with_hits: bool
) -> Iterator[tuple[tuple[int, int], FoundEvents]]:
    """Yield place and length of each part, and what it holds, in order."""
    workers = _Workers(processes)
    waiting: deque[tuple[Part, Future[FoundEvents] | None]] = deque()
    try:
        for following in parts:
            waiting.append((following, workers.submit(following, with_hits=with_hits)))
            # What waits is in memory twice.
            while waiting and (waiting[0][1] is None or len(waiting) > processes + 2):
                part, future = waiting.popleft()
                yield (part.at, len(part.data)), workers.result(future) or find_in_part(part, with_hits=with_hits)
        while waiting:
            part, future = waiting.popleft()
            yield (part.at, len(part.data)), workers.result(future) or find_in_part(part, with_hits=with_hits)
    finally:
        workers.close()


class _Workers:
    """Processes that read parts; none where one process is enough, where they cannot be had, or after one failed."""

    def __init__(self, processes: int) -> None:
        self._pool: ProcessPoolExecutor | None = None
        self._is_stuck = False
        if processes < 2:
            return
        with suppress(ImportError, NotImplementedError, OSError, ValueError):  # no semaphores, no more processes
            import multiprocessing  # noqa: PLC0415 - long traces alone
            from concurrent.futures import ProcessPoolExecutor  # noqa: PLC0415

            # Not forked: threads may hold locks.
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_leave_interrupts)

    def submit(self, part: Part, *, with_hits: bool) -> Future[FoundEvents] | None:
        """Hand on *part*; None if there is nobody to take it."""
        if self._pool is not None:
            with suppress(OSError, RuntimeError):  # one ended, or none can be started
                return self._pool.submit(find_in_part, part, with_hits=with_hits)
            self._give_up()
        return None

    def result(self, future: Future[FoundEvents] | None) -> FoundEvents | None:
        """Return what was found; None if nobody has."""
        if future is None:
            return None
        from concurrent.futures import CancelledError  # noqa: PLC0415 - is there if a future is

        try:
            return future.result(_PATIENCE_S)
        except TimeoutError:
            self._is_stuck = True
        except (OSError, RuntimeError, EOFError, CancelledError):  # BrokenProcessPool is a RuntimeError
            pass
        self._give_up()
        return None

    def close(self) -> None:
        """End the processes."""
        self._give_up()

    def _give_up(self) -> None:
        pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=not self._is_stuck, cancel_futures=True)


def _leave_interrupts() -> None:
    """Leave Ctrl-C, which a terminal sends to every process, to the one that began this one."""
    import signal  # noqa: PLC0415

    signal.signal(signal.SIGINT, signal.SIG_IGN)
