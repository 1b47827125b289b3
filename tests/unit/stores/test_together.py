"""Several tasks and processes that want one file, and some of them die."""

from __future__ import annotations

import os
import subprocess
import sys
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING
from zlib import crc32

import anyio
import anyio.to_thread
import pytest
from support.answers import Stall, status
from support.sources import IMAGE_KEY, KEY, PATH, PDB, Rig, scratch_files, visible

from symcache.stores.concurrency import SingleFlight
from symcache.stores.local.locks import KeyLock
from symcache.stores.results import Failed, Fetched, Missing, Present

if TYPE_CHECKING:
    from collections.abc import Iterator

    from support.upstream import Upstream

_CHILD = """
import sys, anyio
from pathlib import Path
from symcache.config import Config, ServerEntry, values
from symcache.identity import parse_index
from symcache.sympath import parse_symbol_path
from symcache.stores.source import SymbolSource

async def main(folder, url, *indexes):
    folder = Path(folder)
    config = Config(
        symbol_path=parse_symbol_path(f"srv*{folder / 'sym'}*{url}"),
        misses=values.MissSettings(folder=folder / "misses"),
        network=values.Network(proxy=""),
        server=(ServerEntry(url=url, compressed=False, two_tier=False),),
    )
    async with SymbolSource(config) as source:
        print("ready", flush=True)
        for index in indexes:
            print(type(await source.fetch(parse_index(index))).__name__, flush=True)

anyio.run(main, *sys.argv[1:])
"""


class Child:
    """Another process that fetches into the same store."""

    def __init__(self, folder: Path, url: str, *indexes: str) -> None:
        root = Path(__file__).resolve().parents[3]
        self.process = subprocess.Popen(
            [sys.executable, "-c", _CHILD, str(folder), url, *indexes],
            env={**os.environ, "PYTHONPATH": str(root)},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def kill(self) -> None:
        self.process.kill()
        self.output()

    def output(self) -> list[str]:
        out, _ = self.process.communicate(timeout=20)
        return out.split()


def files(folder: Path) -> list[Path]:
    return list(folder.iterdir())


@pytest.fixture
def children() -> Iterator[list[Child]]:
    made: list[Child] = []
    yield made
    for child in made:
        if child.process.poll() is None:
            child.kill()


async def in_thread(work: object) -> object:
    return await anyio.to_thread.run_sync(work)  # type: ignore[arg-type]


async def test_tasks_that_want_one_file_share_one_request(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    stall = Stall(1000)
    upstream.script(PATH, stall)
    outcomes = []
    async with rig.plain(upstream) as source, anyio.create_task_group() as group:

        async def fetch() -> None:
            outcomes.append(await source.fetch(KEY))

        for _ in range(20):
            group.start_soon(fetch)
        await stall.reached.reached()
        stall.release()
    assert len({id(outcome) for outcome in outcomes}) == 1
    assert isinstance(outcomes[0], Fetched)
    assert len(upstream.requests) == 1


async def test_a_caller_that_is_cancelled_ends_the_download_for_nobody_else(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    stall = Stall(1000)
    upstream.script(PATH, stall)
    outcomes = []
    async with rig.plain(upstream) as source, anyio.create_task_group() as group:
        first = anyio.CancelScope()

        async def fetch(scope: anyio.CancelScope) -> None:
            with scope:
                outcomes.append(await source.fetch(KEY))

        group.start_soon(fetch, first)
        await stall.reached.reached()
        group.start_soon(fetch, anyio.CancelScope())
        first.cancel()
        await anyio.lowlevel.checkpoint()
        stall.release()
    assert [type(outcome) for outcome in outcomes] == [Fetched]
    assert len(upstream.requests) == 1


async def test_a_source_that_is_left_ends_what_nobody_waits_for(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    stall = Stall(1000)
    upstream.always(PATH, stall)
    async with rig.plain(upstream) as source, anyio.create_task_group() as group:
        group.start_soon(source.fetch, KEY)
        await stall.reached.reached()
        group.cancel_scope.cancel()
    assert visible(rig.store) == scratch_files(rig.store) == []


async def test_an_error_of_the_body_leaves_a_source_as_it_is(rig: Rig) -> None:
    with pytest.raises(ZeroDivisionError):
        async with rig.source(f"srv*{rig.store}"):
            raise ZeroDivisionError


async def test_whoever_outlives_the_source_is_told(upstream: Upstream, rig: Rig) -> None:
    stall = Stall()
    upstream.always(PATH, stall)
    told = []
    async with anyio.create_task_group() as group:
        async with rig.plain(upstream) as source:

            async def fetch() -> None:
                try:
                    await source.fetch(KEY)
                except RuntimeError as error:
                    told.append(str(error))

            group.start_soon(fetch)
            await stall.reached.reached()
        await fetch()
    assert len(told) == 2


async def test_an_error_reaches_all_who_share_the_work_and_the_next_starts_anew() -> None:
    starts = 0

    async def fail() -> None:
        nonlocal starts
        starts += 1
        await anyio.lowlevel.checkpoint()
        raise ZeroDivisionError

    async with anyio.create_task_group() as group:
        flight: SingleFlight[None] = SingleFlight(group)
        errors = []

        async def run() -> None:
            try:
                await flight.run("one", fail)
            except ZeroDivisionError as error:
                errors.append(error)

        async with anyio.create_task_group() as callers:
            for _ in range(3):
                callers.start_soon(run)
        assert (starts, len(errors)) == (1, 3)
        await run()
        assert (starts, len(errors)) == (2, 4)


async def test_files_held_open_do_not_grow_with_the_keys_asked_for(upstream: Upstream, rig: Rig) -> None:
    stall = Stall()
    upstream.always("*", stall)
    keys = [type(KEY)(f"app{number}.pdb", KEY.guid, KEY.age) for number in range(300)]
    async with rig.plain(upstream, connections=4) as source, anyio.create_task_group() as group:
        for key in keys:
            group.start_soon(source.fetch, key)
        await upstream.requests_seen(4)
        assert len([name for name in scratch_files(rig.store) if name.endswith(".part")]) == 4
        group.cancel_scope.cancel()
    assert scratch_files(rig.store) == []


async def test_two_processes_make_one_request(upstream: Upstream, rig: Rig, children: list[Child]) -> None:
    upstream.files[PATH] = PDB
    stall = Stall(1000)
    upstream.script(PATH, stall)
    async with rig.plain(upstream) as source, anyio.create_task_group() as group:
        outcomes = []

        async def fetch() -> None:
            outcomes.append(await source.fetch(KEY))

        group.start_soon(fetch)
        await stall.reached.reached()
        child = await anyio.to_thread.run_sync(Child, rig.folder, upstream.url, PATH)
        children.append(child)
        stall.release()
    assert [type(outcome) for outcome in outcomes] == [Fetched]
    assert await in_thread(child.output) == ["Present"]
    assert len(upstream.requests) == 1
    assert scratch_files(rig.store) == []


async def test_whoever_waits_gets_its_turn_when_the_first_fails(
    upstream: Upstream, rig: Rig, children: list[Child]
) -> None:
    upstream.files[PATH] = PDB
    stall = Stall(None, then=status(403))
    upstream.script(PATH, stall)
    children.append(await anyio.to_thread.run_sync(Child, rig.folder, upstream.url, PATH))
    await stall.reached.reached()
    async with rig.plain(upstream) as source, anyio.create_task_group() as group:
        outcomes = []

        async def fetch() -> None:
            outcomes.append(await source.fetch(KEY))

        group.start_soon(fetch)
        stall.release()
    assert await in_thread(children[0].output) == ["Failed"]
    assert [type(outcome) for outcome in outcomes] == [Fetched]


async def test_a_process_killed_in_mid_download_blocks_nobody_and_leaves_nothing_to_see(
    upstream: Upstream, rig: Rig, children: list[Child]
) -> None:
    upstream.files[PATH] = PDB
    other = type(KEY)("other.pdb", KEY.guid, KEY.age)
    upstream.files[other.index] = PDB
    stall = Stall(20_000)
    upstream.script(PATH, stall)
    child = await anyio.to_thread.run_sync(Child, rig.folder, upstream.url, other.index, PATH)
    children.append(child)
    await stall.reached.reached()
    async with rig.plain(upstream) as source:
        # Its scratch file and lock are those of a living process, which nobody touches.
        assert isinstance(await source.fetch(other), Present)
        assert isinstance(await source.read_image(IMAGE_KEY), Missing)
        assert any(name.endswith(".part") for name in scratch_files(rig.store))
        await in_thread(child.kill)
        assert visible(rig.store) == [other.index]
        assert isinstance(await source.fetch(KEY), Fetched)
    assert visible(rig.store) == sorted([PATH, other.index])
    assert (rig.store / PATH).read_bytes() == PDB
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(type(KEY)("third.pdb", KEY.guid, 1)), Missing)
    assert scratch_files(rig.store) == []


async def test_a_lock_admits_one_of_many_tasks_at_a_time(tmp_path: Path) -> None:
    inside = most = turns = 0

    async def take() -> None:
        nonlocal inside, most, turns
        for _ in range(5):
            async with KeyLock(tmp_path, "key", sleep=lambda _: anyio.lowlevel.checkpoint()):
                inside += 1
                most = max(most, inside)
                await anyio.lowlevel.checkpoint()
                inside -= 1
                turns += 1

    async with anyio.create_task_group() as group:
        for _ in range(8):
            group.start_soon(take)
    assert (most, turns) == (1, 40)
    assert [path.name for path in files(tmp_path)] == ["keys"]


async def test_a_lock_admits_one_at_a_time(tmp_path: Path) -> None:
    one, other, apart = KeyLock(tmp_path, "key"), KeyLock(tmp_path, "key"), KeyLock(tmp_path, "another key")
    assert one.try_acquire()
    assert apart.try_acquire()
    assert not other.try_acquire()
    one.release()
    one.release()
    assert other.try_acquire()
    other.release()
    apart.release()


async def test_two_keys_with_one_byte_do_not_wait_for_each_other_in_one_process(tmp_path: Path) -> None:
    seen: dict[int, str] = {}
    name = other = ""
    for number in count():
        name = f"key {number}"
        other = seen.setdefault(crc32(name.encode()) >> 1, name)
        if other != name:
            break
    first, second = KeyLock(tmp_path, name), KeyLock(tmp_path, other)
    assert first.try_acquire()
    assert second.try_acquire()
    first.release()
    assert not await _can_be_locked_elsewhere(tmp_path, other)
    second.release()
    assert await _can_be_locked_elsewhere(tmp_path, other)


async def _can_be_locked_elsewhere(folder: Path, name: str) -> bool:
    source = (
        "import pathlib, sys; from symcache.stores.local.locks import KeyLock; "
        "print(KeyLock(pathlib.Path(sys.argv[1]), sys.argv[2]).try_acquire())"
    )
    done = await anyio.run_process([sys.executable, "-c", source, str(folder), name])
    return done.stdout.strip() == b"True"


async def test_a_cancelled_wait_for_a_lock_holds_nothing(tmp_path: Path) -> None:
    with KeyLock(tmp_path, "key").hold():
        waiting = KeyLock(tmp_path, "key")
        with anyio.move_on_after(0.05) as wait:
            await waiting.acquire()
        assert (waiting.is_held, wait.cancelled_caught) == (False, True)
    assert KeyLock(tmp_path, "key").try_acquire()


async def test_a_failure_is_not_shared_with_those_who_ask_later(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    upstream.script(PATH, status(403))
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY), Failed)
        assert isinstance(await source.fetch(KEY), Fetched)
