from __future__ import annotations

import math
import threading
from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from uuid import UUID

import anyio
import httpx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support.answers import Stall, status
from support.synth.pdb import NativePdbSpec, make_pdb, make_portable_pdb
from support.synth.pe import CodeViewPlan, ImagePlan, dbg_bytes, disk_bytes, plan_image
from support.synth.version import VersionPlan, version_bytes

from symcache.config import Config, load_config
from symcache.events import Noted, Planned, Settled, ignore
from symcache.identity import DbgKey, ImageKey, PdbKey, PortablePdbKey
from symcache.inputs.records import (
    CrashStack,
    Input,
    InputKind,
    Module,
    PdbFormat,
    PdbReference,
    StackModule,
    Unreadable,
)
from symcache.stores.local.tree import Store
from symcache.stores.results import Cause, Fetched, Hint, Missing
from symcache.stores.source import SymbolSource
from symcache.warm.local import LocalRun
from symcache.warm.plan import ImageChoice, Plan, WantedFile, WantedPdbOfImage
from symcache.warm.report import State
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from pathlib import Path

    from support.upstream import Upstream

    from symcache.events import Event, Observer
    from symcache.inputs.records import Record
    from symcache.warm.report import Report, Symbol

GUID = UUID("7578144c-39c4-4683-94ef-84f01549113a")


def pdb_key(name: str, number: int = 1) -> PdbKey:
    return PdbKey(name, UUID(int=GUID.int ^ number), number)


def pdb_bytes(key: PdbKey) -> bytes:
    return make_pdb(NativePdbSpec(key.guid, key.age))


def image_key(name: str, number: int = 1) -> ImageKey:
    return ImageKey(name, 0x5F000000 + number, 0x9000)


def native(*keys: PdbKey) -> tuple[PdbReference, ...]:
    return tuple(PdbReference(key, PdbFormat.NATIVE) for key in keys)


def image_alone(name: str, number: int = 1) -> Module:
    return Module(name, image=image_key(name, number))


def configure(url: str, tmp_path: Path, text: str = "") -> Config:
    file = tmp_path / "symcache.toml"
    file.write_text(f"network.retries = 0\nnetwork.breaker.failures = 1000\nstore.durable = false\n{text}")
    folder = tmp_path / "misses"
    config = load_config(file, {}, symbol_path=f"srv*{tmp_path / 'sym'}*{url}")
    return replace(config, misses=replace(config.misses, folder=folder))


async def warm(config: Config, records: Iterable[Record], *, observer: Observer = ignore, **options: Any) -> Report:
    async with SymbolSource(config) as source:
        with LocalRun(source, Plan(**options), observer=observer) as run:
            return await Warmer(source, run).warm(records)


async def check(config: Config, records: Iterable[Record], **options: Any) -> Report:
    async with SymbolSource(config) as source:
        with LocalRun(source, Plan(**options)) as run:
            return await Warmer(source, run).check(records)


def ends(report: Report) -> list[tuple[str | None, str, str | None]]:
    return [(symbol.index, symbol.state.value, symbol.cause) for symbol in report.symbols]


@pytest.fixture
def config(upstream: Upstream, tmp_path: Path) -> Config:
    return configure(upstream.url, tmp_path)


async def test_what_modules_name_is_fetched_and_then_present(upstream: Upstream, config: Config) -> None:
    keys = [pdb_key(f"{number}.pdb", number) for number in range(1, 30)]
    upstream.files = {key.index: pdb_bytes(key) for key in keys}
    modules = [Module(key.name, pdbs=native(key)) for key in keys]
    first = await warm(config, modules)
    assert ends(first) == [(key.index, "fetched", None) for key in keys]
    assert first.exit_code() == 0
    assert first.store is not None
    assert (first.store / keys[0].index).read_bytes() == upstream.files[keys[0].index]
    asked = len(upstream.requests)
    second = await warm(config, modules)
    assert ends(second) == [(key.index, "present", None) for key in keys]
    assert len(upstream.requests) == asked


async def test_an_image_leads_to_its_pdb_and_is_asked_once(upstream: Upstream, config: Config) -> None:
    image, pdb = image_key("drv.sys"), pdb_key("drv.pdb")
    content = disk_bytes(replace(plan_image(image, pdb), payload_bytes=1 << 20))
    upstream.files = {image.index: content, pdb.index: pdb_bytes(pdb)}
    first = await warm(config, [Module("drv.sys", image=image)])
    assert ends(first) == [(pdb.index, "fetched", None)]
    assert sum(request.sent_bytes for request in upstream.asked(image.index)) < 64 * 1024
    upstream.files.pop(image.index)
    asked = len(upstream.requests)
    second = await warm(config, [Module("drv.sys", image=image)])
    assert ends(second) == [(pdb.index, "present", None)]
    assert len(upstream.requests) == asked
    assert ends(await check(config, [Module("drv.sys", image=image)])) == ends(second)


async def test_an_image_in_the_store_is_read_there(upstream: Upstream, config: Config, tmp_path: Path) -> None:
    image, pdb = image_key("drv.sys"), pdb_key("drv.pdb")
    upstream.files = {pdb.index: pdb_bytes(pdb)}
    with Store(tmp_path / "sym") as store:
        scratch = store.scratch()
        scratch.write_bytes(disk_bytes(plan_image(image, pdb)))
        store.publish(scratch, image)
    assert ends(await warm(config, [Module("drv.sys", image=image)])) == [(pdb.index, "fetched", None)]
    assert upstream.asked(image.index) == []


async def test_a_renamed_kernel_is_found_under_the_name_it_was_published_by(upstream: Upstream, config: Config) -> None:
    published, pdb = image_key("halmacpi.dll"), pdb_key("halmacpi.pdb")
    upstream.files = {published.index: disk_bytes(plan_image(published, pdb)), pdb.index: pdb_bytes(pdb)}
    assert ends(await warm(config, [image_alone("hal.dll")])) == [(pdb.index, "fetched", None)]


async def test_an_image_that_is_not_published_says_so(upstream: Upstream, config: Config) -> None:
    (symbol,) = (await warm(config, [image_alone("gone.sys")])).symbols
    assert (symbol.index, symbol.kind, symbol.cause) == (image_key("gone.sys").index, "pdb", Cause.IMAGE_NOT_PUBLISHED)
    assert isinstance(symbol.outcome, Missing)
    assert "404" in {attempt.answer for attempt in symbol.outcome.attempts if attempt.upstream == upstream.url}


async def test_an_image_beside_another_ones_pdb_leads_to_its_own(upstream: Upstream, config: Config) -> None:
    image, own, other = image_key("drv.sys"), pdb_key("drv.pdb"), pdb_key("other.pdb", 2)
    upstream.files = {image.index: disk_bytes(plan_image(image, own))}
    upstream.files |= {key.index: pdb_bytes(key) for key in (own, other)}
    pair = Module("drv.sys", image=image, pdbs=native(other), is_presumed=True)
    assert ends(await warm(config, [pair])) == [(other.index, "fetched", None), (own.index, "fetched", None)]
    assert ends(await check(config, [pair])) == [(other.index, "present", None), (own.index, "present", None)]


async def test_a_pdb_presumed_to_be_an_images_is_enough_where_the_image_is_unknown(
    upstream: Upstream, config: Config
) -> None:
    pdb = pdb_key("other.pdb")
    upstream.files = {pdb.index: pdb_bytes(pdb)}
    pair = Module("drv.sys", image=image_key("drv.sys"), pdbs=native(pdb), is_presumed=True)
    heard: list[object] = []
    assert ends(await warm(config, [pair], observer=heard.append)) == [(pdb.index, "fetched", None)]
    assert [event.wanted for event in heard if isinstance(event, Planned)][-1] == 1
    asked = len(upstream.requests)
    assert ends(await warm(config, [pair])) == [(pdb.index, "present", None)]
    assert ends(await check(config, [pair])) == [(pdb.index, "present", None)]
    assert len(upstream.requests) == asked


async def test_a_hop_that_fails_leaves_the_pdb_failed(upstream: Upstream, config: Config) -> None:
    upstream.always("*", status(503))
    (symbol,) = (await warm(config, [image_alone("drv.sys")])).symbols
    assert (symbol.state, symbol.cause) == (State.FAILED, Cause.UNAVAILABLE)


async def test_an_image_that_names_no_pdb_ends_there(upstream: Upstream, config: Config) -> None:
    image = image_key("old.sys")
    upstream.files = {image.index: disk_bytes(plan_image(image))}
    report = await warm(config, [Module("old.sys", image=image)])
    assert ends(report) == [(image.index, "missing", "no-debug-record")]
    assert report.exit_code() == 0
    asked = len(upstream.requests)
    assert ends(await warm(config, [Module("old.sys", image=image)])) == ends(report)
    assert len(upstream.requests) == asked


async def test_an_image_leads_to_its_dbg_file(upstream: Upstream, config: Config) -> None:
    image = image_key("old.sys")
    plan = replace(plan_image(image), dbg_name="symbols\\sys\\old.dbg")
    dbg = DbgKey("old.dbg", image.timestamp, image.size_of_image)
    upstream.files = {image.index: disk_bytes(plan), dbg.index: dbg_bytes(plan)}
    for state in ("fetched", "present"):
        assert ends(await warm(config, [Module("old.sys", image=image)])) == [(dbg.index, state, None)]
    assert len(upstream.asked(image.index)) == 1


async def test_damaged_debug_data_names_nothing_and_says_why(upstream: Upstream, config: Config) -> None:
    image = image_key("bad.sys")
    damaged = replace(plan_image(image), code_views=(CodeViewPlan(b"bad.pdb", UUID(int=0)),))
    upstream.files = {image.index: disk_bytes(damaged)}
    report = await warm(config, [Module("bad.sys", image=image)])
    assert ends(report) == [(image.index, "missing", "unusable-identity")]
    assert report.symbols[0].reason == "its code view record has a nil GUID, which identifies nothing"
    assert report.exit_code() == 0
    assert ends(await warm(config, [Module("bad.sys", image=image)])) == ends(report)


async def test_a_pdb_that_is_embedded_elsewhere_stands_in_the_report_once(upstream: Upstream, config: Config) -> None:
    content, _ = make_portable_pdb(GUID, 7)
    key = PortablePdbKey("net.pdb", GUID)
    image = image_key("net.dll")
    plan = replace(plan_image(image, key), embedded_pdb=content)
    upstream.files = {image.index: disk_bytes(plan), key.index: content}
    asking = Module("other.dll", pdbs=(PdbReference(key, PdbFormat.PORTABLE),))
    for modules in ([asking, Module("net.dll", image=image)], [Module("net.dll", image=image), asking]):
        report = await warm(config, modules)
        assert [symbol.index for symbol in report.symbols] == [key.index]
        assert report.symbols[0].state in {State.FETCHED, State.PRESENT}


async def test_two_images_of_one_pdb_want_it_once(upstream: Upstream, config: Config) -> None:
    pdb = pdb_key("shared.pdb")
    images = [image_key("a.sys", 1), image_key("b.sys", 2)]
    upstream.files = {image.index: disk_bytes(plan_image(image, pdb)) for image in images}
    upstream.files[pdb.index] = pdb_bytes(pdb)
    report = await warm(config, [Module(image.name, image=image) for image in images])
    assert ends(report) == [(pdb.index, "fetched", None)]
    assert len(upstream.asked(pdb.index)) == 1


async def test_images_are_kept_when_they_are_asked_for(upstream: Upstream, config: Config) -> None:
    image, pdb = image_key("drv.sys"), pdb_key("drv.pdb")
    upstream.files = {image.index: disk_bytes(plan_image(image, pdb)), pdb.index: pdb_bytes(pdb)}
    report = await warm(config, [Module("drv.sys", image=image, pdbs=native(pdb))], images=ImageChoice.ALL)
    assert ends(report) == [(image.index, "fetched", None), (pdb.index, "fetched", None)]
    assert [symbol.kind.value for symbol in report.symbols] == ["image", "pdb"]


async def test_an_image_that_is_kept_is_asked_for_once(upstream: Upstream, config: Config) -> None:
    image, pdb = image_key("drv.sys"), pdb_key("drv.pdb")
    upstream.files = {image.index: disk_bytes(plan_image(image, pdb)), pdb.index: pdb_bytes(pdb)}
    report = await warm(config, [image_alone("drv.sys")], images=ImageChoice.ALL)
    assert ends(report) == [(image.index, "fetched", None), (pdb.index, "fetched", None)]
    assert [request.path for request in upstream.requests] == [f"/{image.index}", f"/{pdb.index}"]


async def test_a_portable_pdb_is_held_to_the_checksum_of_its_image(upstream: Upstream, config: Config) -> None:
    content, checksum = make_portable_pdb(GUID, 7)
    key = PortablePdbKey("net.pdb", GUID)
    upstream.files = {key.index: content}
    right = PdbReference(key, PdbFormat.PORTABLE, (f"SHA256:{checksum}",))
    wrong = replace(right, checksums=("SHA256:" + "00" * 32,))
    assert ends(await warm(config, [Module("net.dll", pdbs=(wrong,))])) == [(key.index, "failed", "wrong-content")]
    assert ends(await warm(config, [Module("net.dll", pdbs=(right,))])) == [(key.index, "fetched", None)]
    assert ends(await check(config, [Module("net.dll", pdbs=(wrong,))])) == [(key.index, "missing", "not-cached")]


@pytest.mark.parametrize("damage", [b"", b"<html>", b"half"], ids=["empty", "a page", "cut"])
async def test_a_file_damaged_in_the_store_is_fetched_again(
    upstream: Upstream, config: Config, tmp_path: Path, damage: bytes
) -> None:
    key = pdb_key("a.pdb")
    whole = pdb_bytes(key)
    upstream.files = {key.index: whole}
    path = tmp_path / "sym" / key.index
    path.parent.mkdir(parents=True)
    path.write_bytes(whole[:5000] if damage == b"half" else damage)
    modules = [Module("a.sys", pdbs=native(key))]
    assert ends(await check(config, modules)) == [(key.index, "missing", "not-cached")]
    assert ends(await warm(config, modules)) == [(key.index, "fetched", None)]
    assert path.read_bytes() == whole


async def test_what_is_excluded_is_asked_of_nobody(upstream: Upstream, tmp_path: Path) -> None:
    config = configure(upstream.url, tmp_path, "exclusions.names = ['secret*']")
    key = pdb_key("secret.pdb")
    modules = [Module("secret.sys", pdbs=native(key)), image_alone("Secret.dll", 2)]
    report = await warm(config, modules, images=ImageChoice.ALL)
    assert [symbol.cause for symbol in report.symbols] == [Cause.EXCLUDED] * 2
    assert report.exit_code() == 0
    assert upstream.requests == []


async def test_an_excluded_name_is_not_asked_for_in_place_of_another(upstream: Upstream, tmp_path: Path) -> None:
    config = configure(upstream.url, tmp_path, "exclusions.names = ['halmps.dll']")
    await warm(config, [image_alone("hal.dll")])
    asked = {request.path.split("/")[1] for request in upstream.requests}
    assert "halmacpi.dll" in asked
    assert "halmps.dll" not in asked


async def test_a_remembered_miss_is_believed(upstream: Upstream, config: Config) -> None:
    key = pdb_key("secdrv.pdb")
    modules = [Module("secdrv.sys", pdbs=native(key))]
    assert ends(await warm(config, modules)) == [(key.index, "missing", "not-published")]
    asked = len(upstream.requests)
    assert ends(await warm(config, modules)) == [(key.index, "missing", "remembered-miss")]
    assert len(upstream.requests) == asked


async def test_a_check_asks_nobody(upstream: Upstream, config: Config) -> None:
    key = pdb_key("a.pdb")
    upstream.files = {key.index: pdb_bytes(key)}
    report = await check(config, [Module("a.sys", pdbs=native(key)), image_alone("b.sys"), Module("c.sys")])
    assert ends(report) == [
        (key.index, "missing", "not-cached"),
        (image_key("b.sys").index, "missing", "not-cached"),
        (None, "missing", "no-identity"),
    ]
    assert report.symbols[1].reason == "which PDB the image names is not known here"
    assert upstream.connections == 0


async def test_unreadable_inputs_do_not_stop_the_rest(upstream: Upstream, config: Config) -> None:
    key = pdb_key("a.pdb")
    upstream.files = {key.index: pdb_bytes(key)}
    bad = Unreadable("x.dmp", "it is empty", 0)
    report = await warm(config, [bad, Module("a.sys", pdbs=native(key))])
    assert ends(report) == [(key.index, "fetched", None)]
    assert report.unreadable == (bad,)
    assert report.exit_code() == 4


async def test_the_report_keeps_the_order_of_the_modules(upstream: Upstream, config: Config) -> None:
    """What an image names stands in the image's place, however late it is known."""
    image, pdb = image_key("b.sys"), pdb_key("b.pdb", 2)
    first, last = pdb_key("a.pdb", 1), pdb_key("c.pdb", 3)
    upstream.files = {image.index: disk_bytes(plan_image(image, pdb))}
    upstream.files |= {key.index: pdb_bytes(key) for key in (first, pdb, last)}
    modules = [Module("a", pdbs=native(first)), Module("b.sys", image=image), Module("c", pdbs=native(last))]
    report = await warm(config, modules)
    assert [symbol.index for symbol in report.symbols] == [first.index, pdb.index, last.index]


async def test_an_observer_hears_of_every_want(upstream: Upstream, config: Config) -> None:
    image, pdb = image_key("b.sys"), pdb_key("b.pdb")
    upstream.files = {image.index: disk_bytes(plan_image(image, pdb)), pdb.index: pdb_bytes(pdb)}
    events: list[Event] = []
    report = await warm(config, [Module("b.sys", image=image), Module("c.sys")], observer=events.append)
    assert [event for event in events if isinstance(event, Planned)][-1] == Planned(len(report.symbols))
    settled = [event for event in events if isinstance(event, Settled)]
    assert sorted(settled, key=str) == sorted([Settled(pdb.index, "fetched"), Settled("c.sys", "missing")], key=str)


async def test_nothing_wanted_is_complete(upstream: Upstream, config: Config) -> None:
    report = await warm(config, [])
    assert (list(report.symbols), report.exit_code()) == ([], 0)
    assert upstream.connections == 0


async def test_inputs_without_any_module_are_no_success(config: Config, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    async with SymbolSource(config) as source:
        with LocalRun(source) as run:
            report = await Warmer(source, run).warm(run.open_inputs([tmp_path / "folder"]))
    assert (report.is_empty, report.exit_code(), report.exit_code(allow_empty=True)) == (True, 4, 0)


async def test_memory_that_cannot_be_kept_stops_nothing(upstream: Upstream, config: Config, tmp_path: Path) -> None:
    (tmp_path / "misses").write_text("a file where a folder should be")
    image, pdb = image_key("b.sys"), pdb_key("b.pdb")
    upstream.files = {image.index: disk_bytes(plan_image(image, pdb)), pdb.index: pdb_bytes(pdb)}
    assert ends(await warm(config, [Module("b.sys", image=image)])) == [(pdb.index, "fetched", None)]


async def test_a_cancelled_run_lists_what_was_not_done(upstream: Upstream, config: Config) -> None:
    done, stuck = pdb_key("done.pdb", 1), pdb_key("stuck.pdb", 2)
    image = image_key("hop.sys")
    upstream.files = {done.index: pdb_bytes(done), stuck.index: pdb_bytes(stuck)}
    release = threading.Event()
    upstream.always(stuck.index, lambda exchange: exchange.pause(release))
    upstream.always(image.index, lambda exchange: exchange.pause(release))
    modules = [
        Module("done.sys", pdbs=native(done)),
        Module("stuck.sys", pdbs=native(stuck)),
        Module("hop.sys", image=image),
        Module("none.sys", problem="paged out"),
    ]
    settled = threading.Event()

    def observe(event: Event) -> None:
        if event == Settled(done.index, "fetched"):
            settled.set()

    async with SymbolSource(config) as source:
        with LocalRun(source, observer=observe) as run:
            async with anyio.create_task_group() as group:
                group.start_soon(Warmer(source, run).warm, modules)
                await upstream.requests_seen(1, stuck.index)
                await upstream.requests_seen(1, image.index)
                await anyio.to_thread.run_sync(settled.wait, 20)
                group.cancel_scope.cancel()
            report = run.report(is_interrupted=True)
    assert ends(report) == [
        (done.index, "fetched", None),
        (stuck.index, "failed", "unavailable"),
        (image.index, "failed", "unavailable"),
        (None, "missing", "no-identity"),
    ]
    assert [symbol.reason for symbol in report.symbols][1:3] == ["interrupted", "interrupted"]
    assert report.exit_code() == 130


async def test_a_run_cancelled_while_it_reads_lists_what_it_had_read(upstream: Upstream, config: Config) -> None:
    key = pdb_key("a.pdb")
    waiting, release = threading.Event(), threading.Event()

    def records() -> Iterator[Record]:
        yield Module("a.sys", pdbs=native(key))
        waiting.set()
        release.wait(20)
        yield Module("never.sys", pdbs=native(pdb_key("never.pdb")))

    try:
        async with SymbolSource(config) as source:
            with LocalRun(source) as run:
                async with anyio.create_task_group() as group:
                    group.start_soon(Warmer(source, run).warm, records())
                    await anyio.to_thread.run_sync(waiting.wait, 20)
                    group.cancel_scope.cancel()
                report = run.report(is_interrupted=True)
    finally:
        release.set()
    assert ends(report) == [(key.index, "failed", "unavailable")]
    assert upstream.requests == []


# What modules on a crash's stack need comes first.


def crash(upstream: Upstream, others: int = 100) -> tuple[list[Record], list[str]]:
    """Return a dump's records and the indexes that its stack needs, deepest last: two PDBs, the second by two hops."""
    faulting, image, deeper = pdb_key("faulting.pdb", 1000), image_key("deeper.sys", 7), pdb_key("deeper.pdb", 1001)
    rest = [pdb_key(f"{number}.pdb", number) for number in range(others)]
    upstream.files = {key.index: pdb_bytes(key) for key in (faulting, deeper, *rest)}
    upstream.files[image.index] = disk_bytes(plan_image(image, deeper))
    modules = [Module(key.name, pdbs=native(key)) for key in rest]
    stack = [Module("faulting.sys", pdbs=native(faulting)), image_alone("deeper.sys", 7)]
    crashed = CrashStack(tuple(StackModule(each, 1) for each in stack))
    return [*modules, *stack[::-1], crashed], [faulting.index, image.index, deeper.index]


async def test_what_the_stack_needs_is_fetched_before_anything_else_is_asked_for(
    upstream: Upstream, config: Config
) -> None:
    records, needed = crash(upstream)
    stalls = {needed[0]: Stall(), needed[2]: Stall()}
    for index, stall in stalls.items():
        upstream.script(index, stall)
    notes: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Noted):
            notes.append(event.text)

    reports: list[Report] = []

    async def go(source: SymbolSource, run: LocalRun) -> None:
        reports.append(await Warmer(source, run, head_start_s=math.inf).warm(records))

    async with SymbolSource(config) as source:
        with LocalRun(source, observer=observe) as run:
            async with anyio.create_task_group() as group:
                group.start_soon(go, source, run)
                for stall in stalls.values():
                    await anyio.to_thread.run_sync(stall.reached.wait)
                # Both files of the stack are under way, and all the other connections idle.
                assert {request.path.lstrip("/") for request in upstream.requests} == set(needed)
                assert notes == []
                for stall in stalls.values():
                    stall.release()
    (report,) = reports
    assert [symbol.index for symbol in report.symbols][:2] == [needed[0], needed[2]]
    assert [symbol.on_stack for symbol in report.symbols] == [True] * 2 + [False] * 100
    assert report.count() == Counter({State.FETCHED: 102})
    assert report.symbols[0].as_json()["on_stack"] is True
    assert "on_stack" not in report.symbols[-1].as_json()
    assert notes == ["the crash's stack: 2 of 2 files are here; the debugger can start, the rest follows"]


async def test_a_file_of_the_stack_that_hangs_does_not_hold_the_rest_up_for_ever(
    upstream: Upstream, config: Config
) -> None:
    records, needed = crash(upstream, others=5)
    stall = Stall()
    upstream.script(needed[0], stall)
    rest_is_here = threading.Event()
    settled: list[str] = []

    def observe(event: Event) -> None:
        if isinstance(event, Settled):
            settled.append(event.index)
            if len(settled) == 6:  # all but the one that hangs
                rest_is_here.set()

    async with SymbolSource(config) as source:
        with LocalRun(source, observer=observe) as run:
            async with anyio.create_task_group() as group:
                group.start_soon(Warmer(source, run, head_start_s=0).warm, records)
                assert await anyio.to_thread.run_sync(rest_is_here.wait, 20)
                stall.release()
            report = run.report()
    assert settled[-1] == needed[0]
    assert report.count() == Counter({State.FETCHED: 7})


async def test_with_the_stack_alone_nothing_else_is_asked_for(upstream: Upstream, config: Config) -> None:
    records, needed = crash(upstream)
    report = await warm(config, records, stack_only=True)
    assert [symbol.index for symbol in report.symbols] == [needed[0], needed[2]]
    assert {request.path.lstrip("/") for request in upstream.requests} == set(needed)
    assert report.exit_code() == 0
    assert not report.lacks_stack
    # From what was remembered of the image, the second time.
    again = await check(config, records, stack_only=True)
    assert [(symbol.index, symbol.state, symbol.on_stack) for symbol in again.symbols] == [
        (needed[0], State.PRESENT, True),
        (needed[2], State.PRESENT, True),
    ]


# Every want comes to exactly one end, whatever upstreams say: random modules against random answers.

NAMES = ["a", "b", "ntoskrnl", "hal"]
ANSWERS = ["file", "404", "403", "503", "html", "other", "cut"]


@st.composite
def modules(draw: st.DrawFn) -> Module:
    stem, number = draw(st.sampled_from(NAMES)), draw(st.integers(1, 3))
    extension = "dll" if stem == "hal" else "exe"
    kinds = draw(st.lists(st.sampled_from([PdbFormat.NATIVE, PdbFormat.PORTABLE, PdbFormat.EMBEDDED]), max_size=2))
    references = tuple(
        PdbReference(
            pdb_key(f"{stem}.pdb", number) if kind is PdbFormat.NATIVE else PortablePdbKey(f"{stem}.pdb", GUID), kind
        )
        for kind in kinds
    )
    return Module(
        f"{stem}.{extension}",
        image=draw(st.none() | st.just(image_key(f"{stem}.{extension}", number))),
        pdbs=references,
        unloaded=draw(st.booleans()),
        no_debug_record=not references and draw(st.booleans()),
        is_presumed=bool(references) and draw(st.booleans()),
    )


def respond(answers: dict[str, str]) -> Callable[[httpx.Request], httpx.Response]:
    def content_of(name: str) -> bytes:
        stem = name.partition(".")[0]
        number = 1 + len(name) % 3
        if name.endswith("pdb"):
            return pdb_bytes(pdb_key(name, number))
        return disk_bytes(plan_image(image_key(name, number), pdb_key(f"{stem}.pdb", number)))

    def answer(request: httpx.Request) -> httpx.Response:
        name = request.url.path.rpartition("/")[2]
        match answers.get(name.partition(".")[0], "404"):
            case "file":
                return httpx.Response(200, content=content_of(name))
            case "html":
                return httpx.Response(200, html="<html>")
            case "other":
                return httpx.Response(200, content=content_of("other." + name.rpartition(".")[2]))
            case "cut":
                content = content_of(name)
                return httpx.Response(200, content=content[:100], headers={"Content-Length": str(len(content))})
            case code:
                return httpx.Response(int(code))

    return answer


@settings(max_examples=15)
@given(
    wanted=st.lists(modules(), max_size=6),
    answers=st.dictionaries(st.sampled_from(NAMES), st.sampled_from(ANSWERS)),
    options=st.fixed_dictionaries({"images": st.sampled_from(ImageChoice), "all_pdbs": st.booleans()}),
)
def test_every_want_ends_once_and_the_counts_add_up(
    tmp_path_factory: pytest.TempPathFactory, wanted: list[Module], answers: dict[str, str], options: dict[str, Any]
) -> None:
    folder = tmp_path_factory.mktemp("run")
    config = configure("https://one.test/symbols", folder, "exclusions.names = ['b.exe']")

    async def run() -> tuple[Report, Report]:
        transport = httpx.MockTransport(respond(answers))
        async with SymbolSource(config, transport=transport) as source:
            with LocalRun(source, Plan(**options)) as run:
                report = await Warmer(source, run).warm(wanted)
            with LocalRun(source, Plan(**options)) as run:
                return report, await Warmer(source, run).check(wanted)

    report, checked = anyio.run(run)
    names = Counter((symbol.index or symbol.module, symbol.kind, symbol.cause) for symbol in report.symbols)
    assert set(names.values()) <= {1}
    named = Counter(symbol.index for symbol in report.symbols if symbol.kind == "pdb" and symbol.cause != "embedded")
    assert all(count == 1 for index, count in named.items() if index is not None)
    summary = report.as_json()["summary"]
    assert summary["wanted"] == len(report.symbols) == sum(summary[state] for state in State)
    plan = Plan(**options)
    for module in wanted:
        plan.add_module(module)
    indexes = {symbol.index for symbol in report.symbols}
    assert {want.key.index for want in plan.wants if isinstance(want, WantedFile)} <= indexes
    assert len(report.symbols) >= sum(not isinstance(want, WantedPdbOfImage) for want in plan.wants)
    assert all(is_right(symbol) for symbol in report.symbols)
    there = {symbol.index for symbol in report.symbols if symbol.state in {State.FETCHED, State.PRESENT}}
    assert there == {symbol.index for symbol in checked.symbols if symbol.state is State.PRESENT}


def is_right(symbol: Symbol) -> bool:
    """Tell whether a symbol that was fetched lies where it is said to lie."""
    outcome = symbol.outcome
    return not isinstance(outcome, Fetched) or (symbol.index or "") in outcome.path.as_posix()


async def test_of_two_that_need_an_image_s_headers_one_asks_for_them(tmp_path: Path, upstream: Upstream) -> None:
    pdb, image = pdb_key("a.pdb"), image_key("a.exe")
    upstream.files[f"/{pdb.index}"] = pdb_bytes(pdb)
    upstream.files[f"/{image.index}"] = disk_bytes(plan_image(image, pdb))
    config = configure(upstream.url, tmp_path)

    async def run() -> None:
        # A source of its own, as another process has.
        async with SymbolSource(config) as source:
            with LocalRun(source) as run:
                report = await Warmer(source, run).warm([image_alone("a.exe")])
        assert [symbol.index for symbol in report.symbols] == [pdb.index]

    async with anyio.create_task_group() as group:
        for _ in range(3):
            group.start_soon(run)
    asked = [request.headers["range"] for request in upstream.asked(f"/{image.index}")]
    assert len(asked) == len(set(asked)) > 0
    assert len(upstream.asked(f"/{pdb.index}")) == 1


async def test_an_image_at_a_server_says_who_made_it_where_its_pdb_is_missing(
    upstream: Upstream, config: Config
) -> None:
    key = image_key("driver.sys")
    texts = {"040904b0": {"CompanyName": "Example GmbH"}}
    plan = ImagePlan(
        key.timestamp,
        key.size_of_image,
        code_views=(CodeViewPlan("driver.pdb", GUID, 1),),
        versions=((1, 0x409, version_bytes(VersionPlan(texts))),),
    )
    upstream.files[key.index] = disk_bytes(plan)
    (symbol,) = (await warm(config, [Input("a.dmp", InputKind.TRIAGE_DUMP), image_alone("driver.sys")])).symbols
    assert isinstance(symbol.outcome, Missing)
    assert symbol.index == PdbKey("driver.pdb", GUID, 1).index
    assert symbol.outcome.hint is Hint.THIRD_PARTY
    assert symbol.maker is not None
    assert symbol.maker.name == "Example GmbH"
    assert not any(request.sent_bytes > 4096 for request in upstream.requests)
