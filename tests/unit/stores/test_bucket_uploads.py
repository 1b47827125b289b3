"""Files on their way into a bucket: what is tried again, what is told, and whom an error reaches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
from support.sources import KEY

from symcache.events import Noted
from symcache.stores.bucket import uploads as module
from symcache.stores.bucket.uploads import Uploads

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

    from symcache.events import Event
    from symcache.identity import Key


class Takes:
    """A bucket that takes a file, or raises an error for it first, once for each of *errors*."""

    name = "s3://symbols"

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.taken: list[Key] = []

    async def upload(self, key: Key, file: Path, *, replaces: bool = False) -> bool:
        del file
        if self.errors:
            raise self.errors.pop(0)
        self.taken.append(key)
        return True


class Slow(Takes):
    """A bucket that takes a file when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_asked = anyio.Event()
        self.may_go_on = anyio.Event()

    async def upload(self, key: Key, file: Path, *, replaces: bool = False) -> bool:
        self.is_asked.set()
        await self.may_go_on.wait()
        return await super().upload(key, file)


class Held:
    """A turn that is held until it is ended."""

    def __init__(self) -> None:
        self.ended = anyio.Event()

    async def end(self) -> None:
        self.ended.set()


def texts(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Noted)]


async def test_an_error_that_nobody_foresaw_is_told_and_ends_nothing_else(tmp_path: Path) -> None:
    events: list[Event] = []
    bucket, turn = Takes(RuntimeError("with a secret")), Held()
    async with anyio.create_task_group() as group:
        uploads = Uploads(group, events.append, keep_trying_s=60)
        uploads.start(KEY, tmp_path, [bucket], turn)  # type: ignore[list-item, arg-type]
        with anyio.fail_after(10):
            await turn.ended.wait()
        uploads.start(KEY, tmp_path, [bucket], None)  # type: ignore[list-item]
        with anyio.fail_after(10):
            await uploads.finish()
    assert bucket.taken == [KEY]
    first, *_, last = texts(events)
    assert first == "s3://symbols: RuntimeError while a file was brought there"
    assert last == "1 file was not brought into s3://symbols; `symcache store push` does that later"


async def test_a_bucket_that_takes_long_keeps_no_other_machine_waiting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_LONGEST_TURN_S", 0.02)
    bucket, turn = Slow(), Held()
    async with anyio.create_task_group() as group:
        uploads = Uploads(group, lambda _: None, keep_trying_s=60)
        uploads.start(KEY, tmp_path, [bucket], turn)  # type: ignore[list-item, arg-type]
        with anyio.fail_after(10):
            await turn.ended.wait()
        assert uploads.waiting == 1
        bucket.may_go_on.set()
        with anyio.fail_after(10):
            await uploads.finish()
    assert bucket.taken == [KEY]


async def test_a_turn_ends_when_who_asked_gives_up(tmp_path: Path) -> None:
    bucket, turn = Slow(), Held()
    async with anyio.create_task_group() as group:
        Uploads(group, lambda _: None, keep_trying_s=60).start(KEY, tmp_path, [bucket], turn)  # type: ignore[list-item, arg-type]
        await bucket.is_asked.wait()
        group.cancel_scope.cancel()
    assert turn.ended.is_set()


async def test_the_end_comes_when_it_has_to(tmp_path: Path) -> None:
    events: list[Event] = []
    bucket = Slow()
    async with anyio.create_task_group() as group:
        uploads = Uploads(group, events.append, keep_trying_s=60)
        uploads.start(KEY, tmp_path, [bucket], None)  # type: ignore[list-item]
        uploads.give_up(after_s=0.05)
        with anyio.fail_after(10):
            await uploads.finish()
        group.cancel_scope.cancel()
    assert texts(events) == ["1 file was not brought into the buckets; `symcache store push` does that later"]
