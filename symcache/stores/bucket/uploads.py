"""Filling buckets with what was fetched, while those who asked for it have it already."""

from __future__ import annotations

import math
import time
from collections import Counter
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, NamedTuple

import anyio

from symcache.errors import UpstreamError, UpstreamUnavailable
from symcache.events import Noted

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from anyio.abc import TaskGroup

    from symcache.events import Observer
    from symcache.identity import Key
    from symcache.stores.bucket.store import BucketStore
    from symcache.stores.turns import Turn

_AT_ONCE = 8
_FIRST_PAUSE_S = 1.0
_LONGEST_PAUSE_S = 15.0
# One more is tried once: what waits is lost with the process in any case, and `store push` brings it.
_MOST_WAITING = 10_000
_TOLD_AFTER_S = 2.0
_SILENCE_S = 300.0  # as long as one may take
# Other machines that want the file wait for it in the bucket; then it is quicker for them to ask upstreams.
_LONGEST_TURN_S = 60.0


class _Upload(NamedTuple):
    key: Key
    file: Path
    replaces: bool


class Uploads:
    """Puts files into buckets, in *group*, a few at a time.

    What a bucket does not take now is tried again, with pauses, until *keep_trying_s* have passed; then it is counted,
    and told at the end.
    """

    def __init__(
        self,
        group: TaskGroup,
        observer: Observer,
        *,
        keep_trying_s: float,
        clock_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._group = group
        self._observer = observer
        self._keep_trying_s = keep_trying_s
        self._clock_s = clock_s
        self._free = anyio.Semaphore(_AT_ONCE)
        self._is_ending = anyio.Event()
        self._until_s = math.inf  # when what is left is given up, by *clock_s*
        self._moved = anyio.Event()
        self._failing: set[str] = set()
        self._left: Counter[str] = Counter()
        self.waiting = 0  # how many files are not in a bucket yet that are to be

    def start(
        self, key: Key, file: Path, buckets: Sequence[BucketStore], turn: Turn | None, *, replaces: bool = False
    ) -> None:
        """Put *file*, *key*'s, into *buckets*; end *turn* when that has been tried, or after a minute.

        With *replaces* it takes the place of one with other bytes.
        """
        self.waiting += 1
        self._group.start_soon(self._run, _Upload(key, file, replaces), buckets, turn)

    def give_up(self, *, after_s: float = 0.0) -> None:
        """Let `finish` wait until then at the longest: who asked for the files has no more time."""
        self._until_s = self._clock_s() + after_s

    async def finish(self) -> None:
        """Wait until all has been tried, what failed once more at once; tell what did not come off.

        It takes as long as files arrive; after five minutes without one the rest is given up.
        """
        self._is_ending.set()
        is_told = False
        while left := self.waiting:
            left_s = self._until_s - self._clock_s()
            if left_s <= 0:
                self._left["the buckets"] += left
                break
            self._moved = anyio.Event()
            patience_s = _SILENCE_S if is_told else _TOLD_AFTER_S
            with anyio.move_on_after(min(patience_s, left_s)) as waiting:
                await self._moved.wait()
            if not waiting.cancelled_caught or left_s < patience_s:
                continue
            if is_told:
                self._left["the buckets"] += left
                break
            is_told = True
            self._observer(Noted(f"{_files(left, 'is', 'are')} still on the way into the bucket"))
        for name, count in self._left.items():
            files = _files(count, "was", "were")
            self._observer(Noted(f"{files} not brought into {name}; `symcache store push` does that later"))

    async def _run(self, upload: _Upload, buckets: Sequence[BucketStore], turn: Turn | None) -> None:
        try:
            async with _holding(turn):
                left = [bucket for bucket in buckets if not await self._put(upload, bucket)]
            if left:
                await self._put_later(upload, left)
        finally:
            self.waiting -= 1
            self._moved.set()

    async def _put_later(self, upload: _Upload, buckets: Sequence[BucketStore]) -> None:
        until_s = self._clock_s() + self._keep_trying_s
        pause_s = _FIRST_PAUSE_S
        is_last = False
        while buckets and not is_last and self.waiting <= _MOST_WAITING and self._clock_s() < until_s:
            with anyio.move_on_after(pause_s):
                await self._is_ending.wait()
            is_last = self._is_ending.is_set()
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
            buckets = [bucket for bucket in buckets if not await self._put(upload, bucket)]
        for bucket in buckets:
            self._left[bucket.name] += 1

    async def _put(self, upload: _Upload, bucket: BucketStore) -> bool:
        """Make *upload* to *bucket*; return False if another try may help."""
        try:
            async with self._free:
                await bucket.upload(upload.key, upload.file, replaces=upload.replaces)
        except UpstreamUnavailable as error:
            self._note(bucket, f"{error}; what is fetched is brought there later")
            return False
        except UpstreamError as error:
            self._note(bucket, f"{error}; nothing is brought there")
            self._left[bucket.name] += 1
            return True
        except FileNotFoundError:
            return True  # pruned, or in quarantine: it is not to be there any more
        except OSError as error:
            self._note(bucket, f"{upload.file}: {error.strerror}; it is not brought into {bucket.name}")
            self._left[bucket.name] += 1
            return True
        except Exception as error:  # noqa: BLE001 - an edge: nobody waits for it, and what else goes on must not end
            self._note(bucket, f"{bucket.name}: {type(error).__name__} while a file was brought there")
            self._left[bucket.name] += 1
            return True
        if bucket.name in self._failing:
            self._failing.discard(bucket.name)
            self._observer(Noted(f"{bucket.name}: takes files again"))
        return True

    def _note(self, bucket: BucketStore, text: str) -> None:
        if bucket.name not in self._failing:
            self._failing.add(bucket.name)
            self._observer(Noted(text))


@asynccontextmanager
async def _holding(turn: Turn | None) -> AsyncIterator[None]:
    """Hold *turn* for a ``with`` block, but no longer than it may be."""
    if turn is None:
        yield
        return

    async def end_in_time() -> None:
        await anyio.sleep(_LONGEST_TURN_S)
        await turn.end()

    async with anyio.create_task_group() as group:
        group.start_soon(end_in_time)
        try:
            yield
        finally:
            group.cancel_scope.cancel()
            await turn.end()


def _files(count: int, one: str, many: str) -> str:
    return f"1 file {one}" if count == 1 else f"{count} files {many}"
