"""Images that a debugger asks for because its input does not hold them."""

from __future__ import annotations

import shutil
import threading
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.sources import cabinet
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image

from symcache.config import Config, load_config
from symcache.identity import ImageKey, PdbKey, compressed_name
from symcache.inputs.records import ImageUse, Module, PdbFormat, PdbReference
from symcache.stores.links import Link, StoreLinks
from symcache.stores.results import Present
from symcache.stores.source import SymbolSource
from symcache.warm.local import LocalRun
from symcache.warm.plan import ImageChoice, Plan
from symcache.warm.run import Warmer

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from support.upstream import Upstream

    from symcache.identity import Key
    from symcache.warm.report import Report, Symbol

PDB = PdbKey("stor.pdb", UUID(int=0x1234), 2)
PDB_BYTES = make_pdb(NativePdbSpec(PDB.guid, PDB.age))
IMAGE = ImageKey("stor.sys", 0x5F001122, 0x9000)
IMAGE_BYTES = disk_bytes(plan_image(IMAGE, PDB))
LISTED = ImageKey("dump_stor.sys", IMAGE.timestamp, IMAGE.size_of_image)
IMAGE_ALONE = Module(IMAGE.name, image=IMAGE, needs_image=ImageUse.SYMBOLS)
BOTH = Module(
    IMAGE.name, image=IMAGE, pdbs=(PdbReference(PDB, PdbFormat.NATIVE),), base=0x10000, needs_image=ImageUse.CODE
)
COPY = Module(LISTED.name, image=IMAGE, needs_image=ImageUse.SYMBOLS)


def renamed(name: str) -> ImageKey:
    return ImageKey(name, IMAGE.timestamp, IMAGE.size_of_image)


@pytest.fixture
def config(upstream: Upstream, tmp_path: Path) -> Config:
    upstream.files = {IMAGE.index: IMAGE_BYTES, PDB.index: PDB_BYTES}
    config = load_config(None, {}, symbol_path=f"srv*{tmp_path / 'sym'}*{upstream.url}")
    return replace(config, misses=replace(config.misses, folder=tmp_path / "misses"))


async def warm(config: Config, records: Iterable[Module], images: ImageChoice = ImageChoice.AUTO) -> Report:
    async with SymbolSource(config) as source:
        with LocalRun(source, Plan(images=images)) as run:
            return await Warmer(source, run).warm(records)


async def check(config: Config, records: Iterable[Module], images: ImageChoice = ImageChoice.AUTO) -> Report:
    async with SymbolSource(config) as source:
        with LocalRun(source, Plan(images=images)) as run:
            return await Warmer(source, run).check(records)


def ends(report: Report) -> dict[str | None, str]:
    assert len({symbol.index for symbol in report.symbols}) == len(report.symbols)
    return {symbol.index: symbol.cause or symbol.state.value for symbol in report.symbols}


def put(store: Path, key: Key, content: bytes, *, packed: bool = False) -> None:
    folder = store / key.name / key.id
    folder.mkdir(parents=True)
    name = compressed_name(key.name) if packed else key.name
    (folder / name).write_bytes(cabinet(content, key.name) if packed else content)


@pytest.mark.parametrize(
    ("images", "needs", "is_wanted"),
    [
        (ImageChoice.AUTO, ImageUse.SYMBOLS, True),
        (ImageChoice.AUTO, ImageUse.CODE, True),
        (ImageChoice.AUTO, None, False),
        (ImageChoice.ALL, None, True),
        (ImageChoice.NONE, ImageUse.SYMBOLS, False),
    ],
)
async def test_images_are_kept_as_a_debugger_asks_for_them(
    config: Config, images: ImageChoice, needs: ImageUse | None, is_wanted: bool
) -> None:
    report = await warm(config, [replace(IMAGE_ALONE, needs_image=needs)], images)
    wanted = {PDB.index: "fetched"} | ({IMAGE.index: "fetched"} if is_wanted else {})
    assert ends(report) == wanted
    left_out = int(images is ImageChoice.NONE and needs is not None)
    assert (report.images_left_out, report.as_json()["images_left_out"]) == (left_out, left_out)
    assert (await check(config, [replace(IMAGE_ALONE, needs_image=needs)], images)).exit_code() == 0


async def test_a_copy_for_the_crash_lies_under_the_name_that_the_dump_lists_too(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    first = await warm(config, [COPY])
    assert ends(first) == {LISTED.index: "fetched", PDB.index: "fetched"}
    for key in (LISTED, IMAGE):
        assert (tmp_path / "sym" / key.index).read_bytes() == IMAGE_BYTES
    assert first.symbols[0].as_json()["note"] == "published as stor.sys"
    asked = len(upstream.requests)
    assert ends(await warm(config, [COPY])) == {LISTED.index: "present", PDB.index: "present"}
    assert ends(await check(config, [COPY])) == {LISTED.index: "present", PDB.index: "present"}
    assert len(upstream.requests) == asked


async def test_a_store_that_has_the_original_alone_gets_the_listed_name_without_a_request(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    put(tmp_path / "sym", IMAGE, IMAGE_BYTES)
    put(tmp_path / "sym", PDB, PDB_BYTES)
    assert ends(await check(config, [COPY])) == {LISTED.index: "present", PDB.index: "present"}
    assert ends(await warm(config, [COPY])) == {LISTED.index: "present", PDB.index: "present"}
    assert (tmp_path / "sym" / LISTED.index).read_bytes() == IMAGE_BYTES
    assert upstream.requests == []


async def test_a_kernel_that_is_published_under_another_name_lies_under_both(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    listed, published = renamed("ntoskrnl.exe"), renamed("ntkrnlmp.exe")
    upstream.files = {published.index: IMAGE_BYTES, PDB.index: PDB_BYTES}
    kernel = Module("ntoskrnl.exe", image=listed, needs_image=ImageUse.SYMBOLS)
    assert ends(await warm(config, [kernel])) == {listed.index: "fetched", PDB.index: "fetched"}
    for key in (listed, published):
        assert (tmp_path / "sym" / key.index).read_bytes() == IMAGE_BYTES
    assert len(upstream.asked(published.index)) == 1


async def test_a_kernel_under_any_of_its_names_is_what_a_debugger_finds(config: Config, tmp_path: Path) -> None:
    put(tmp_path / "sym", renamed("ntkrpamp.exe"), IMAGE_BYTES)
    put(tmp_path / "sym", PDB, PDB_BYTES)
    kernel = Module("ntoskrnl.exe", image=renamed("ntoskrnl.exe"), needs_image=ImageUse.SYMBOLS)
    assert set(ends(await check(config, [kernel])).values()) == {"present"}


async def test_an_image_that_is_not_published_is_said_once(config: Config, upstream: Upstream) -> None:
    upstream.files = {PDB.index: PDB_BYTES}
    report = await warm(config, [IMAGE_ALONE])
    assert ends(report) == {IMAGE.index: "not-published"}
    assert report.exit_code() == 3


async def test_the_report_names_what_a_missing_image_keeps_from_loading(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    await warm(config, [IMAGE_ALONE], ImageChoice.NONE)
    upstream.files = {}
    (tmp_path / "sym" / PDB.index).touch()

    def of(report: Report) -> Symbol:
        return next(symbol for symbol in report.symbols if symbol.index == IMAGE.index)

    for report in (await check(config, [IMAGE_ALONE]), await warm(config, [IMAGE_ALONE])):
        assert of(report).keeps == (PDB.index,)
        assert of(report).as_json()["keeps_from_loading"] == [PDB.index]
    assert of(await check(config, [BOTH])).keeps == ()  # the dump names the PDB


async def test_a_paged_out_header_needs_a_command(config: Config) -> None:
    module = replace(IMAGE_ALONE, base=0xFFFFF80010010000, needs_image=ImageUse.BY_HAND)
    image, _ = (await warm(config, [module])).symbols
    assert image.reload == ".reload /f stor.sys=fffff80010010000,9000,0`5f001122"
    assert image.as_json()["needed_for"] == "symbols-by-hand"


async def test_a_store_of_cabinets_is_complete_for_a_debugger(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    put(tmp_path / "sym", IMAGE, IMAGE_BYTES, packed=True)
    put(tmp_path / "sym", PDB, PDB_BYTES, packed=True)
    report = await check(config, [IMAGE_ALONE])
    assert ends(report) == {IMAGE.index: "present", PDB.index: "present"}
    assert all("compressed" in symbol.as_json()["note"] for symbol in report.symbols)
    assert ends(await warm(config, [IMAGE_ALONE])) == {IMAGE.index: "fetched", PDB.index: "fetched"}
    assert (tmp_path / "sym" / PDB.index).read_bytes() == PDB_BYTES
    assert upstream.requests == []


async def test_a_cabinet_of_another_file_is_not_what_a_debugger_finds(config: Config, tmp_path: Path) -> None:
    put(tmp_path / "sym", IMAGE, PDB_BYTES, packed=True)
    put(tmp_path / "sym", PDB, IMAGE_BYTES, packed=True)
    assert ends(await check(config, [BOTH])) == {IMAGE.index: "not-cached", PDB.index: "not-cached"}


async def test_a_cabinet_that_cannot_be_expanded_for_want_of_room_is_no_missing_file(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(tmp_path / "sym", IMAGE, IMAGE_BYTES, packed=True)
    put(tmp_path / "sym", PDB, PDB_BYTES, packed=True)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "gone"))
    report = await check(config, [BOTH, IMAGE_ALONE])
    assert ends(report) == {IMAGE.index: "disk", PDB.index: "disk"}
    assert report.exit_code() == 1
    assert all("gone" in (symbol.reason or "") for symbol in report.symbols)


async def test_a_store_further_up_is_where_a_debugger_finds_it_too(config: Config, tmp_path: Path) -> None:
    put(tmp_path / "upper", PDB, PDB_BYTES, packed=True)
    put(tmp_path / "upper", IMAGE, IMAGE_BYTES)
    path = load_config(None, {}, symbol_path=f"srv*{tmp_path / 'down'}*{tmp_path / 'upper'}").symbol_path
    report = await check(replace(config, symbol_path=path), [IMAGE_ALONE])
    assert ends(report) == {IMAGE.index: "present", PDB.index: "present"}
    assert "copies it from" in report.symbols[0].as_json()["note"]
    assert not (tmp_path / "down").exists()


@pytest.mark.parametrize("images", [ImageChoice.AUTO, ImageChoice.NONE])
async def test_what_was_learned_goes_where_the_store_goes(config: Config, tmp_path: Path, images: ImageChoice) -> None:
    await warm(config, [COPY], images)
    shutil.copytree(tmp_path / "sym", tmp_path / "elsewhere")
    path = load_config(None, {}, symbol_path=f"srv*{tmp_path / 'elsewhere'}").symbol_path
    there = replace(config, symbol_path=path, misses=replace(config.misses, folder=tmp_path / "another user"))
    report = await check(there, [COPY], images)
    assert PDB.index in ends(report)
    assert report.exit_code() == 0


async def test_images_in_a_store_tell_what_they_name_where_nothing_else_does(config: Config, tmp_path: Path) -> None:
    await warm(config, [IMAGE_ALONE])
    shutil.rmtree(tmp_path / "sym" / ".symcache")
    there = replace(config, misses=replace(config.misses, folder=tmp_path / "another user"))
    assert ends(await check(there, [IMAGE_ALONE])) == {IMAGE.index: "present", PDB.index: "present"}


@pytest.mark.parametrize("element", ["srv*{}", "{}"], ids=["store", "folder"])
async def test_a_share_that_is_only_read_stays_as_it_is(
    config: Config, upstream: Upstream, tmp_path: Path, element: str
) -> None:
    share = tmp_path / "share"
    put(share, IMAGE, IMAGE_BYTES)
    put(share, PDB, PDB_BYTES)
    (share / "pingme.txt").touch()
    before = sorted(share.rglob("*"))
    text = f"{element.format(share)};srv*{tmp_path / 'sym'}*{upstream.url}"
    path = load_config(None, {}, symbol_path=text).symbol_path
    report = await warm(replace(config, symbol_path=path), [COPY])
    assert ends(report) == {LISTED.index: "present", PDB.index: "present"}
    assert sorted(share.rglob("*")) == before
    assert (tmp_path / "sym" / LISTED.index).read_bytes() == IMAGE_BYTES
    assert upstream.requests == []


async def test_a_copy_that_lies_under_its_listed_name_alone_is_asked_of_nobody(
    config: Config, upstream: Upstream, tmp_path: Path
) -> None:
    put(tmp_path / "sym", LISTED, IMAGE_BYTES)
    async with SymbolSource(config) as source:
        found = await source.fetch(LISTED)
    assert isinstance(found, Present)
    assert found.path == tmp_path / "sym" / LISTED.index
    assert upstream.requests == []


@pytest.mark.parametrize("modules", [[IMAGE_ALONE, COPY], [COPY, IMAGE_ALONE]], ids=["copy last", "copy first"])
async def test_a_driver_and_its_copy_are_both_said_to_keep_symbols_from_loading(
    config: Config, modules: list[Module]
) -> None:
    await warm(config, [IMAGE_ALONE], ImageChoice.NONE)
    report = await check(config, modules)
    keeps = {symbol.index: symbol.keeps for symbol in report.symbols}
    assert keeps == {IMAGE.index: (PDB.index,), LISTED.index: (PDB.index,), PDB.index: ()}


@pytest.mark.parametrize("modules", [[BOTH, IMAGE_ALONE], [IMAGE_ALONE, BOTH]], ids=["code first", "symbols first"])
async def test_an_image_is_needed_for_all_that_any_input_needs_it_for(config: Config, modules: list[Module]) -> None:
    await warm(config, [IMAGE_ALONE], ImageChoice.NONE)
    image = next(symbol for symbol in (await check(config, modules)).symbols if symbol.index == IMAGE.index)
    assert image.use is ImageUse.SYMBOLS
    assert image.keeps == (PDB.index,)


async def test_a_slow_store_holds_up_nothing_else_while_it_notes_what_an_image_names(
    config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []
    remember = StoreLinks.remember

    def note(store: StoreLinks, image: ImageKey, links: Sequence[Link]) -> bool:
        threads.append(threading.get_ident())
        return remember(store, image, links)

    monkeypatch.setattr(StoreLinks, "remember", note)
    await warm(config, [IMAGE_ALONE])
    assert StoreLinks(tmp_path / "sym").recall(IMAGE) == (Link(PDB),)
    assert len(threads) == 1
    assert threading.get_ident() not in threads


async def test_a_check_and_a_run_agree_on_a_store_that_takes_no_second_name(config: Config, tmp_path: Path) -> None:
    put(tmp_path / "sym", IMAGE, IMAGE_BYTES)
    put(tmp_path / "sym", PDB, PDB_BYTES)
    (tmp_path / "sym" / ".symcache").write_text("in the way")  # also of who may write everywhere
    path = load_config(None, {}, symbol_path=f"srv*{tmp_path / 'sym'}").symbol_path
    config = replace(config, symbol_path=path)
    present = {LISTED.index: "present", PDB.index: "present"}
    assert ends(await check(config, [COPY])) == present
    report = await warm(config, [COPY])
    assert ends(report) == present
    image = report.symbols[0].as_json()
    assert image["path"] == str(tmp_path / "sym" / IMAGE.index)
    assert image["note"].startswith("published as stor.sys, and not filed as dump_stor.sys: ")
