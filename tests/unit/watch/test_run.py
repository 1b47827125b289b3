"""Watched folders on a real disk, with a real server behind the store."""

from __future__ import annotations

import io
import json
import os
import sys
import zipfile
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING
from uuid import UUID

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from support.answers import Stall, status
from support.parts import need, wine_lacks
from support.synth.minidump import MinidumpModule, MinidumpPlan, build_minidump, rsds_record
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.wim import WimPlan, build_wim

from symcache.config import load_config
from symcache.errors import StoreError
from symcache.identity import PdbKey
from symcache.stores.local.mounts import Mount
from symcache.stores.source import SymbolSource
from symcache.warm.run import Warmer
from symcache.watch import End, Ended, Reports, Watcher, WatchSettings
from symcache.watch.files import Patience, Stamp, is_final

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterable, Sequence
    from pathlib import Path

    from support.upstream import Upstream

    from symcache.config import Config
    from symcache.identity import Key
    from symcache.inputs.records import Record
    from symcache.stores.results import Outcome
    from symcache.warm.report import Report

QUICK = Patience(settle_s=0.05, cut_s=0.5, doubt_s=0.3)
PATIENCE_S = 30


def pdb_key(number: int) -> PdbKey:
    return PdbKey(f"app{number}.pdb", UUID(int=(0xC0FFEE << 96) + number), number)


def dump(number: int) -> bytes:
    """Return a dump with full memory of a process of one module, that of `pdb_key`."""
    key = pdb_key(number)
    record = rsds_record(key.guid, key.age, f"d:\\{key.name}")
    module = MinidumpModule(f"C:\\app{number}.exe", 0x140000000, 0x9000, 0x5AB38077 + number, record)
    return build_minidump(MinidumpPlan([module]))


def publish(upstream: Upstream, number: int) -> str:
    key = pdb_key(number)
    upstream.files[key.index] = make_pdb(NativePdbSpec(key.guid, key.age))
    return key.index


@dataclass
class Scene:
    """A watched folder, what was told of it, and the means to wait for that."""

    folder: Path
    config: Config
    told: list[Ended] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    changed: anyio.Event = field(default_factory=anyio.Event)

    def tell(self, told: Ended | str) -> None:
        self.said.append(told) if isinstance(told, str) else self.told.append(told)
        self.changed.set()
        self.changed = anyio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        with anyio.fail_after(PATIENCE_S):
            while not holds():
                await self.changed.wait()

    def put(self, name: str, content: bytes) -> Path:
        scratch = self.folder / f".{name}.part"
        scratch.write_bytes(content)
        scratch.replace(self.folder / name)
        return self.folder / name

    def settings(self, **more: object) -> WatchSettings:
        usual = WatchSettings([self.folder], poll_s=0.05, patience=QUICK, first_retry_s=0.05)
        return replace(usual, **more)  # type: ignore[arg-type]

    @asynccontextmanager
    async def watching(self, **more: object) -> AsyncIterator[None]:
        async with SymbolSource(self.config) as source, anyio.create_task_group() as group:
            group.start_soon(Watcher(source, self.settings(**more), self.tell).run)
            yield
            group.cancel_scope.cancel()

    async def once(self, **more: object) -> list[Ended]:
        async with SymbolSource(self.config) as source:
            with anyio.fail_after(PATIENCE_S):
                await Watcher(source, self.settings(**more), self.tell).run_once()
        told, self.told = self.told, []
        return told


@pytest.fixture
def scene(upstream: Upstream, tmp_path: Path) -> Scene:
    (tmp_path / "hot").mkdir()
    file = tmp_path / "symcache.toml"
    file.write_text("network.retries = 0\nnetwork.breaker.failures = 1000\nstore.durable = false\n")
    config = load_config(file, {}, symbol_path=f"srv*{tmp_path / 'sym'}*{upstream.url}")
    return Scene(tmp_path / "hot", replace(config, misses=replace(config.misses, folder=tmp_path / "misses")))


def report_of(path: Path, form: str = "txt") -> Path:
    return path.with_name(f"{path.name}.symcache.{form}")


async def test_a_dump_that_arrives_is_warmed_for_and_reported_on(scene: Scene, upstream: Upstream) -> None:
    index = publish(upstream, 1)
    async with scene.watching(reports=Reports("json")):
        path = scene.put("app.dmp", dump(1))
        await scene.until(lambda: bool(scene.told))
    (told,) = scene.told
    assert (told.path, told.written, told.retry_in_s) == (path, report_of(path, "json"), None)
    document = json.loads(report_of(path, "json").read_text("utf-8"))
    states = {symbol["index"]: symbol["state"] for symbol in document["symbols"]}
    assert states[index] == "fetched"
    assert told.end is End.MISSING  # the image is
    assert len(upstream.asked(index)) == 1


async def test_what_is_done_is_not_done_again_until_a_new_file_of_the_name_comes(
    scene: Scene, upstream: Upstream
) -> None:
    publish(upstream, 1)
    scene.put("app.dmp", dump(1))
    assert [told.path.name for told in await scene.once()] == ["app.dmp"]
    assert await scene.once() == []
    newer = scene.put("app.dmp", dump(2))
    await to_thread.run_sync(_age, newer, -100.0)
    assert [told.path.name for told in await scene.once()] == ["app.dmp"]
    assert "app2.pdb" in report_of(newer).read_text("utf-8")
    report_of(newer).unlink()
    assert len(await scene.once()) == 1


def _age(path: Path, seconds: float) -> None:
    status = path.stat()
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns - int(seconds * 1e9)))


async def test_a_server_that_was_down_is_asked_again_with_growing_pauses(scene: Scene, upstream: Upstream) -> None:
    index = publish(upstream, 1)
    upstream.script(index, *[status(503)] * 3)
    async with scene.watching():
        path = scene.put("app.dmp", dump(1))
        await scene.until(lambda: len(scene.told) == 4)
    assert [told.end for told in scene.told] == [End.FAILED] * 3 + [End.MISSING]
    assert [told.retry_in_s for told in scene.told] == [0.05, 0.1, 0.2, None]
    assert is_final(report_of(path), _stamp(path))


def _stamp(path: Path) -> Stamp:
    return Stamp(path.stat().st_size, path.stat().st_mtime_ns)


async def test_a_failed_one_is_tried_again_after_a_restart(scene: Scene, upstream: Upstream) -> None:
    upstream.script(publish(upstream, 1), status(503))
    scene.put("app.dmp", dump(1))
    assert [told.end for told in await scene.once()] == [End.FAILED]
    assert [told.end for told in await scene.once()] == [End.MISSING]
    assert await scene.once() == []


async def test_an_unreadable_dump_is_reported_once(scene: Scene) -> None:
    path = scene.put("bad.dmp", b"MDMP" + bytes(4096))
    async with scene.watching():
        await scene.until(lambda: bool(scene.told))
    assert [told.end for told in scene.told] == [End.UNREADABLE]
    assert "unreadable:" in report_of(path).read_text("utf-8")
    scene.told.clear()
    assert await scene.once(patience=replace(QUICK, doubt_s=0.0)) == []


async def test_no_program_is_run_for_what_arrives(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[str] = []
    monkeypatch.setattr("symcache.inputs.wimlib.find_program", lambda: asked.append("wimlib-imagex"))
    esd = bytearray(build_wim(WimPlan({"One": {"x.sys": b"MZ"}})))
    esd[12:16] = b"\x00\x0e\0\0"  # solid
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("install.esd", esd)
        archive.writestr("app.dmp", dump(1))
    path = scene.put("both.zip", content.getvalue())
    assert [told.path for told in await scene.once()] == [path]
    assert asked == []


async def test_once_leaves_what_is_still_being_written_to_the_next_time(scene: Scene) -> None:
    path = scene.put("app.dmp", dump(1)[:-20])
    assert await scene.once(patience=replace(QUICK, cut_s=3600.0)) == []
    assert not report_of(path).exists()
    assert [text.split(",")[0] for text in scene.said] == ["1 file not complete"]


async def test_many_at_once_are_done_one_after_the_other(scene: Scene, upstream: Upstream) -> None:
    for number in range(1, 41):
        publish(upstream, number)
        scene.put(f"{number}.dmp", dump(number))
    told = await scene.once()
    assert sorted(each.path.name for each in told) == sorted(f"{number}.dmp" for number in range(1, 41))
    assert all(each.written is not None and each.written.exists() for each in told)


async def test_a_dump_that_is_deleted_while_it_is_warmed_for_leaves_no_report(scene: Scene, upstream: Upstream) -> None:
    index, stall = publish(upstream, 1), Stall()
    upstream.always(index, stall)
    async with scene.watching():
        path = scene.put("app.dmp", dump(1))
        await upstream.requests_seen(1, index)
        path.unlink()
        stall.release()
        publish(upstream, 2)
        scene.put("next.dmp", dump(2))
        await scene.until(lambda: bool(scene.told))
    assert [told.path.name for told in scene.told] == ["next.dmp"]
    assert not report_of(path).exists()


async def test_two_watchers_of_one_folder_agree(scene: Scene, upstream: Upstream) -> None:
    index = publish(upstream, 1)
    path = scene.put("app.dmp", dump(1))
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(scene.once)
    assert is_final(report_of(path), _stamp(path))
    assert len(upstream.asked(index)) == 1
    assert sorted(each.name for each in scene.folder.iterdir()) == ["app.dmp", "app.dmp.symcache.txt"]


async def test_a_store_that_cannot_be_used_is_said_and_tried_again(
    scene: Scene, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(upstream, 1)
    warm, calls = Warmer.warm, 0

    async def fail_at_first(warmer: Warmer, records: Iterable[Record]) -> Report:
        nonlocal calls
        calls += 1
        if calls == 1:
            raise StoreError("no space left", path=scene.folder)
        return await warm(warmer, records)

    monkeypatch.setattr(Warmer, "warm", fail_at_first)
    async with scene.watching():
        path = scene.put("app.dmp", dump(1))
        await scene.until(lambda: bool(scene.told))
    assert scene.said == [f"{path}: {scene.folder}: no space left; tried again in 0 s"]
    assert scene.told[0].written is not None


async def test_a_report_that_cannot_be_written_is_said_and_not_tried_for_ever(scene: Scene, tmp_path: Path) -> None:
    scene.put("app.dmp", dump(1))
    (tmp_path / "file").write_bytes(b"")
    async with scene.watching(reports=Reports(folder=tmp_path / "file")):
        await scene.until(lambda: bool(scene.told))
        scene.put("next.dmp", dump(2))
        await scene.until(lambda: len(scene.told) == 2)
    assert [told.written for told in scene.told] == [None, None]
    assert {told.path.name for told in scene.told} == {"app.dmp", "next.dmp"}
    assert "the report cannot be written" in (scene.told[0].problem or "")


@wine_lacks("watchfiles")
async def test_the_system_wakes_it_where_it_tells_of_changes(scene: Scene) -> None:
    need("watchfiles")
    async with scene.watching(poll_s=0.0):
        scene.put("first.dmp", dump(1))
        await scene.until(lambda: len(scene.told) == 1)
        scene.put("second.dmp", dump(2))
        await scene.until(lambda: len(scene.told) == 2)
    assert scene.said == []


async def test_without_the_extra_it_looks_now_and_then_and_says_so(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "watchfiles", None)
    monkeypatch.setattr("symcache.watch.run._POLL_S", 0.05)
    async with scene.watching(poll_s=0.0):
        scene.put("app.dmp", dump(1))
        await scene.until(lambda: bool(scene.told))
    assert scene.said == [
        "watchfiles is not installed: folders are looked into every 10 seconds; symcache[watch] brings it"
    ]


async def test_an_extra_that_cannot_be_loaded_is_as_good_as_none(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    need("watchfiles")
    monkeypatch.setattr("symcache.watch.run._POLL_S", 0.05)
    broken = ModuleType("watchfiles")
    monkeypatch.setitem(sys.modules, "watchfiles", broken)
    broken.__spec__ = ModuleSpec("watchfiles", None)

    def fail(*_: object, **__: object) -> None:
        raise ImportError("DLL load failed while importing _rust_notify")

    broken.__dict__["watch"] = fail
    async with scene.watching(poll_s=0.0):
        scene.put("app.dmp", dump(1))
        await scene.until(lambda: bool(scene.told))
    assert len(scene.said) == 1
    assert "DLL load failed" in scene.said[0]


async def test_a_share_is_looked_into_as_it_tells_nothing(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    need("watchfiles")
    monkeypatch.setattr("symcache.watch.run.find_mount", lambda _: Mount("cifs", (), is_network=True))
    monkeypatch.setattr("symcache.watch.run._POLL_S", 0.05)
    async with scene.watching(poll_s=0.0):
        scene.put("app.dmp", dump(1))
        await scene.until(lambda: bool(scene.told))
    assert len(scene.said) == 1
    assert "a share tells of no changes" in scene.said[0]


async def test_an_input_asks_for_no_more_files_at_once_than_it_may(
    scene: Scene, upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    modules = []
    for number in range(1, 9):
        key = pdb_key(number)
        publish(upstream, number)
        record = rsds_record(key.guid, key.age, key.name)
        modules.append(MinidumpModule(f"C:\\app{number}.exe", 0x10000 * number, 0x9000, number, record))
    scene.put("app.dmp", build_minidump(MinidumpPlan(modules)))
    fetch, under_way, most = SymbolSource.fetch, 0, 0

    async def count(source: SymbolSource, key: Key, checksums: Sequence[str] = ()) -> Outcome:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        for _ in range(20):  # let every other task that may come so far
            await anyio.lowlevel.checkpoint()
        under_way -= 1
        return await fetch(source, key, checksums)

    monkeypatch.setattr(SymbolSource, "fetch", count)
    assert len(await scene.once(files_at_once=2)) == 1
    assert most == 2
