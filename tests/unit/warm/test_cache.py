from __future__ import annotations

import asyncio
import io
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from uuid import UUID

import pytest
from support.kernels import kernel_plan
from support.synth.kerneldump import DumpKind, DumpPlan, dump_bytes
from support.synth.kernelmemory import build_machine
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.wire import closed_port

from symcache import (
    ConfigError,
    Failed,
    Fetched,
    ImageKey,
    Input,
    MalformedInput,
    Missing,
    Module,
    PdbKey,
    PdbReference,
    Present,
    SymbolCache,
    SymbolPathError,
    SyncSymbolCache,
    UsageError,
)
from symcache.config import load_config
from symcache.events import Settled
from symcache.inputs.records import InputKind, PdbFormat

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.upstream import Upstream

    from symcache.events import Event
    from symcache.inputs.detect import InputOptions, InputSource, ModuleSource
    from symcache.inputs.records import Record

IMAGE = ImageKey("crash.exe", 0x5F000000, 0x9000)
PDB = PdbKey("crash.pdb", UUID("7578144c-39c4-4683-94ef-84f01549113a"), 2)


@pytest.fixture
def symbol_path(upstream: Upstream, tmp_path: Path) -> str:
    upstream.files = {
        PDB.index: make_pdb(NativePdbSpec(PDB.guid, PDB.age)),
        IMAGE.index: disk_bytes(plan_image(IMAGE, PDB)),
    }
    return f"srv*{tmp_path / 'sym'}*{upstream.url}"


async def test_a_key_is_fetched_once_and_then_present(symbol_path: str, tmp_path: Path) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        first = await cache.fetch(PDB)
        second = await cache.fetch(PDB.index)
    assert isinstance(first, Fetched)
    assert first.path == tmp_path / "sym" / PDB.index
    assert second == Present(first.path, first.size_bytes)


def test_every_event_loop_of_asyncio_will_do(symbol_path: str) -> None:
    async def fetch() -> object:
        async with SymbolCache.open(symbol_path) as cache:
            return await cache.fetch(PDB)

    # On Windows it is not the usual one, and that of Jupyter and Tornado.
    with asyncio.Runner(loop_factory=asyncio.SelectorEventLoop) as runner:
        assert isinstance(runner.run(fetch()), Fetched)


async def test_what_nobody_publishes_is_missing(symbol_path: str) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        outcome = await cache.fetch("secdrv.pdb/7578144C39C4468394EF84F01549113A3/secdrv.pdb")
    assert isinstance(outcome, Missing)
    assert outcome.cause == "not-published"


async def test_a_closed_port_is_a_failure(tmp_path: Path) -> None:
    file = tmp_path / "symcache.toml"
    file.write_text("network.retries = 0")
    with closed_port() as port:
        config = load_config(file, {}, symbol_path=f"srv*{tmp_path / 'sym'}*http://127.0.0.1:{port}")
        async with SymbolCache(config) as cache:
            outcome = await cache.fetch(PDB)
    assert isinstance(outcome, Failed)
    assert outcome.cause == "unavailable"


async def test_inputs_are_warmed_and_checked(symbol_path: str, tmp_path: Path, upstream: Upstream) -> None:
    image = tmp_path / "crash.exe"
    image.write_bytes(disk_bytes(plan_image(IMAGE, PDB)))
    settled: list[Event] = []
    async with SymbolCache.open(symbol_path, observer=settled.append) as cache:
        assert (await cache.check([image])).exit_code() == 3
        assert upstream.requests == []
        report = await cache.warm([image, str(tmp_path / "none")])
        assert (await cache.check(image)).exit_code() == 0
        assert (await cache.warm(str(image), images="all")).count() == {"present": 1, "fetched": 1}
    assert [(symbol.index, symbol.state) for symbol in report.symbols] == [(PDB.index, "fetched")]
    assert [item.path for item in report.unreadable] == [str(tmp_path / "none")]
    assert Settled(PDB.index, "fetched") in settled


def test_a_text_that_is_no_symbol_path_is_refused_at_once() -> None:
    with pytest.raises(SymbolPathError, match="write srv"):
        SymbolCache.open("https://one.test")


async def test_a_text_that_is_no_index_is_refused(symbol_path: str) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        with pytest.raises(MalformedInput, match="name/id/name"):
            await cache.fetch("crash.pdb")


async def test_another_folder_takes_the_place_of_the_store(symbol_path: str, tmp_path: Path) -> None:
    async with SymbolCache.open(symbol_path, store=tmp_path / "other") as cache:
        outcome = await cache.fetch(PDB)
    assert isinstance(outcome, Fetched)
    assert outcome.path == tmp_path / "other" / PDB.index


async def test_the_environment_says_where_to_look(
    symbol_path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("_NT_SYMBOL_PATH", symbol_path)
    async with SymbolCache.open() as cache:
        assert isinstance(await cache.fetch(PDB), Fetched)


def a_file(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def crash_image() -> bytes:
    return disk_bytes(plan_image(IMAGE, PDB))


@pytest.fixture(params=["path", "text", "bytes", "stream", "named stream", "file"])
def source(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[InputSource]:
    """The same image, as each kind of input there is."""
    content, path = crash_image(), a_file(tmp_path / "crash.exe", crash_image())
    with path.open("rb") as file:
        sources: dict[str, InputSource] = {
            "path": path,
            "text": str(path),
            "bytes": ("crash.exe", content),
            "stream": io.BytesIO(content),
            "named stream": ("crash.exe", io.BytesIO(content)),
            "file": file,
        }
        yield sources[request.param]


@dataclass(frozen=True)
class Named:
    """What stands in place of a file: one module that it knows by name, or what it cannot be read for."""

    path: str = "one module"
    problem: str | None = None

    def records(self, options: InputOptions) -> Iterator[Record]:
        yield Input(self.path, InputKind.MANIFEST)
        if self.problem is not None:
            raise MalformedInput(self.problem)
        yield Module("crash.exe", pdbs=(PdbReference(PDB, PdbFormat.NATIVE),))


@pytest.mark.parametrize("is_alone", [True, False])
async def test_an_input_may_be_what_finds_its_modules_itself(symbol_path: str, is_alone: bool) -> None:
    source: ModuleSource = Named()
    async with SymbolCache.open(symbol_path) as cache:
        report = await cache.warm(source if is_alone else [source])
        scan = await cache.scan(source if is_alone else [source])
        with pytest.raises(UsageError, match="one module: this is no file"):
            await cache.inspect(source)
    assert [symbol.index for symbol in report.symbols] == [PDB.index]
    assert [each.path for each in scan.inputs] == ["one module"]


async def test_what_finds_its_modules_itself_may_be_unreadable(symbol_path: str) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        scan = await cache.scan([Named("first", "nothing of that name"), Named("second")])
    assert [(each.path, each.problem) for each in scan.unreadable] == [("first", "nothing of that name")]
    assert [module.name for module in scan.modules] == ["crash.exe"]


async def test_an_input_may_be_a_path_or_what_a_file_holds(symbol_path: str, source: InputSource) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        assert [symbol.index for symbol in (await cache.warm(source)).symbols] == [PDB.index]
        assert (await cache.check([source])).exit_code() == 0
        (module,) = (await cache.scan(source)).modules
        found = await cache.inspect(source)
    assert [pdb.key for pdb in module.pdbs] == [PDB]
    assert found.names == [PDB.index]
    if not isinstance(source, io.BytesIO):
        assert module.image == IMAGE
        assert found.index == IMAGE.index


class OneWay(io.RawIOBase):
    """A stream that can be read once, as a socket."""

    def __init__(self, content: bytes) -> None:
        self._rest = io.BytesIO(content)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._rest.readinto(buffer)


async def test_a_stream_that_cannot_be_read_twice_is_copied(symbol_path: str) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        scan = await cache.scan(("crash.exe", io.BufferedReader(OneWay(crash_image()))))
    assert [module.image for module in scan.modules] == [IMAGE]
    assert [item.path for item in scan.inputs] == ["crash.exe"]


async def test_bytes_that_are_no_input_are_reported(symbol_path: str) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        scan = await cache.scan([b"", ("x.dmp", b"PAGEDU64"), ("x.exe", io.BytesIO(crash_image()[:0x90]))])
        found = await cache.inspect(("x.exe", crash_image()[:0x90]))
        with pytest.raises(MalformedInput, match="file name"):
            await cache.inspect(("..", b""))
    assert [item.path for item in scan.unreadable] == ["-", "x.dmp", "x.exe"]
    assert not found.is_healthy
    assert found.path == "x.exe"


async def test_processes_of_a_dump_are_listed(symbol_path: str) -> None:
    dump = dump_bytes(build_machine(kernel_plan()), DumpPlan(DumpKind.BITMAP_FULL))
    async with SymbolCache.open(symbol_path) as cache:
        assert "lsass.exe" in {process.name for process in await cache.processes(dump)}
        assert await cache.processes(("crash.exe", crash_image())) == ()


async def test_servers_are_listed_and_probed(symbol_path: str, upstream: Upstream) -> None:
    async with SymbolCache.open(symbol_path) as cache:
        first, *others = await cache.servers()
        (probed,) = await cache.servers(probe=True, timeout_s=5)
    assert (first.shown_url, first.is_in_path) == (upstream.url, True)
    assert "https://msdl.microsoft.com/download/symbols" in {server.url for server in others}
    assert probed.probe is not None
    assert probed.probe.behaviour == "symbol-server"


async def test_a_cache_that_waits_can_be_used_where_an_event_loop_runs(symbol_path: str, source: InputSource) -> None:
    settled: list[Event] = []
    with SyncSymbolCache.open(symbol_path, observer=settled.append) as cache:
        assert cache.check(source).exit_code() == 3
        assert isinstance(cache.fetch(PDB), Fetched)
        assert cache.warm([source]).count() == {"present": 1}
        assert [pdb.key for pdb in cache.scan(source).modules[0].pdbs] == [PDB]
        assert cache.processes(source) == ()
        assert cache.inspect(source).names == [PDB.index]
        assert cache.servers()[0].is_in_path
    assert Settled(PDB.index, "present") in settled


def test_a_cache_that_waits_opens_at_the_first_call_and_again_after_its_end(symbol_path: str, tmp_path: Path) -> None:
    def loops() -> list[str]:
        return [thread.name for thread in threading.enumerate() if "portal" in thread.name]

    cache = SyncSymbolCache.open(symbol_path, store=tmp_path / "other")
    assert loops() == []
    cache.close()
    for outcome in (Fetched, Present):
        assert isinstance(cache.fetch(PDB.index), outcome)
        assert len(loops()) == 1
        cache.close()
        cache.close()
        assert loops() == []


def test_a_cache_that_waits_raises_what_the_other_raises(tmp_path: Path) -> None:
    path = f"srv*{tmp_path}*https://one.test"
    with SyncSymbolCache.open(path) as cache, pytest.raises(MalformedInput, match="name/id/name"):
        cache.fetch("crash.pdb")
    (tmp_path / "symcache.toml").write_text(f"[network]\nca_file = '{tmp_path / 'none.pem'}'\n")
    config = load_config(tmp_path / "symcache.toml", {}, symbol_path=path)
    broken = SyncSymbolCache(config)
    for _ in range(2):
        with pytest.raises(ConfigError, match="certificates"):
            broken.fetch(PDB)
    broken.close()


def test_threads_share_a_cache_that_waits(symbol_path: str, upstream: Upstream) -> None:
    with SyncSymbolCache.open(symbol_path) as cache, ThreadPoolExecutor(4) as pool:
        outcomes = list(pool.map(cache.fetch, [PDB] * 8))
    assert all(isinstance(outcome, Fetched | Present) for outcome in outcomes)
    assert len(upstream.asked(PDB.index)) == 1
