"""Warming for a Windows build: the documents of its index come over the network, and so do images of unknown size."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.answers import status
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image
from support.synth.winbindex import Entry, base, delta_fields, document, full_fields, update

from symcache import BuildSource, SymbolCache
from symcache.config import load_config
from symcache.events import Noted
from symcache.identity import ImageKey, PdbKey
from symcache.warm.report import Guess

if TYPE_CHECKING:
    from pathlib import Path

    from support.upstream import Upstream

    from symcache import Report
    from symcache.config import Config
    from symcache.events import Event

NT, HAL, CLFS = (
    ImageKey("ntoskrnl.exe", 3, 0x9000),
    ImageKey("hal.dll", 7, 0x9000),
    ImageKey("clfs.sys", 0x6F001122, 0x9000),
)
PDBS = {
    image: PdbKey(name, UUID(int=number), 1)
    for number, (image, name) in enumerate([(NT, "ntkrnlmp.pdb"), (HAL, "hal.pdb"), (CLFS, "clfs.pdb")], start=1)
}
KERNELS = [
    Entry(full_fields(1, 0x8000), [base("11-22H2")]),
    Entry(full_fields(NT.timestamp, NT.size_of_image), [update("11-22H2", "KB5023778", "22621.1485")]),
]
SETS = {"three": ("ntoskrnl.exe", "hal.dll", "clfs.sys", "none.sys")}
BUILD = BuildSource("22621.1485")


@pytest.fixture
def config(upstream: Upstream, tmp_path: Path) -> Config:
    upstream.files = {
        "by_filename_compressed/ntoskrnl.exe.json.gz": document(KERNELS),
        "by_filename_compressed/hal.dll.json.gz": document(
            [Entry(delta_fields(7, 0x9000, signature_bytes=0x3400), [base("11-22H2")])]
        ),
        "by_filename_compressed/clfs.sys.json.gz": document(
            [Entry(full_fields(0x6F001122, 0x9000), [base("11-22H2")])]
        ),
    }
    for image, pdb in PDBS.items():
        upstream.files[image.index] = disk_bytes(plan_image(image, pdb))
        upstream.files[pdb.index] = make_pdb(NativePdbSpec(pdb.guid, pdb.age))
    config = load_config(None, {}, symbol_path=f"srv*{tmp_path / 'sym'}*{upstream.url}")
    url = f"{upstream.url}/by_filename_compressed/NAME.json.gz"
    builds = replace(config.builds, url=url, insider_url=f"{upstream.url}/i/SHARD/NAME", cache=tmp_path / "documents")
    network = replace(config.network, retries=0)
    misses = replace(config.misses, folder=tmp_path / "misses")
    return replace(config, builds=builds, network=network, misses=misses, sets=SETS)


async def warm(config: Config, notes: list[str] | None = None, images: str = "auto") -> Report:
    def observe(event: Event) -> None:
        if isinstance(event, Noted) and notes is not None:
            notes.append(event.text)

    async with SymbolCache(config, observer=observe) as cache:
        return await cache.warm(BUILD, sets=["three"], images=images)


async def check(config: Config) -> Report:
    async with SymbolCache(config) as cache:
        return await cache.check(BUILD, sets=["three"])


def ends(report: Report) -> dict[str | None, str]:
    return {symbol.index: symbol.cause or symbol.state.value for symbol in report.symbols}


def asked_images(upstream: Upstream, name: str) -> list[str]:
    """Return the middle part of each index of the image *name* that was asked for, once each, in order."""
    paths = [request.path.split("/") for request in upstream.requests]
    return list(dict.fromkeys(parts[2] for parts in paths if len(parts) == 4 and parts[1] == name))


async def test_a_build_is_warmed_by_its_index_and_two_hops(config: Config, upstream: Upstream) -> None:
    notes: list[str] = []
    report = await warm(config, notes)
    assert ends(report) == {pdb.index: "fetched" for pdb in PDBS.values()}
    assert report.exit_code() == 0
    assert [(each.path, each.kind) for each in report.inputs] == [("22621.1485 x64", "build")]
    assert notes == ["22621.1485 x64: the index has 3 of the 4 names of three"]
    assert ends(await check(config)) == {pdb.index: "present" for pdb in PDBS.values()}


async def test_a_second_run_asks_for_nothing(config: Config, upstream: Upstream) -> None:
    await warm(config)
    asked = len(upstream.requests)
    report = await warm(config)
    assert ends(report) == {pdb.index: "present" for pdb in PDBS.values()}
    assert len(upstream.requests) == asked


async def test_an_image_of_unknown_size_is_the_first_of_its_candidates_that_is_published(
    config: Config, upstream: Upstream
) -> None:
    report = await warm(config)
    (guess,) = report.guesses
    assert guess == Guess("hal.dll", len(asked_images(upstream, "hal.dll")), HAL.index)
    assert asked_images(upstream, "hal.dll")[-1] == HAL.id
    assert guess.asked > 1
    assert report.as_json()["guesses"] == [{"module": "hal.dll", "asked": guess.asked, "image": HAL.index}]


async def test_candidates_are_asked_for_one_at_a_time_and_misses_are_remembered(
    config: Config, upstream: Upstream
) -> None:
    del upstream.files[HAL.index]
    report = await warm(config)
    (lost,) = (symbol for symbol in report.symbols if symbol.module == "hal.dll")
    asked = asked_images(upstream, "hal.dll")
    assert (lost.cause, lost.reason) == (
        "image-not-published",
        f"none of the {len(asked)} sizes that the image can have is published",
    )
    assert len(asked) == len(set(asked)) < 32
    assert report.exit_code() == 3
    assert report.guesses == (Guess("hal.dll", len(asked), None),)
    before = len(upstream.requests)
    assert (await warm(config)).exit_code() == 3
    assert len(upstream.requests) == before


async def test_a_server_that_fails_leaves_the_question_of_the_size_open(config: Config, upstream: Upstream) -> None:
    upstream.always(HAL.index, status(503))
    report = await warm(config)
    (failed,) = (symbol for symbol in report.symbols if symbol.module == "hal.dll")
    assert failed.cause == "unavailable"
    assert asked_images(upstream, "hal.dll")[-1] == HAL.id
    assert report.exit_code() == 1


async def test_images_are_fetched_where_all_are_wanted_the_guessed_one_too(config: Config, tmp_path: Path) -> None:
    report = await warm(config, images="all")
    assert ends(report) == {key.index: "fetched" for key in (*PDBS, *PDBS.values())}
    assert (tmp_path / "sym" / HAL.index).is_file()


async def test_a_check_looks_for_any_of_the_candidates_on_disk(config: Config, tmp_path: Path) -> None:
    await warm(config)
    (tmp_path / "sym" / PDBS[HAL].index).unlink()
    # Nothing is remembered of what the image names: it lies in the store itself.
    for name in ("misses", "sym/.symcache/images"):
        for path in sorted((tmp_path / name).rglob("*"), reverse=True):
            if path.is_file():
                path.unlink()
    for image, pdb in PDBS.items():
        path = tmp_path / "sym" / image.index
        path.parent.mkdir(parents=True)
        path.write_bytes(disk_bytes(plan_image(image, pdb)))
    report = await check(config)
    assert ends(report) == {
        PDBS[NT].index: "present",
        PDBS[HAL].index: "not-cached",
        PDBS[CLFS].index: "present",
    }
    assert [guess.image for guess in report.guesses] == [HAL.index]


async def test_a_check_of_a_build_says_what_is_not_here(config: Config, upstream: Upstream) -> None:
    report = await check(config)
    (bad,) = report.unreadable
    assert bad.path == "22621.1485 x64"
    assert bad.problem == (
        "which builds there are says ntoskrnl.exe in the index of builds: not fetched yet; `symcache warm` fetches them"
    )
    assert report.exit_code() == 4
    assert list(upstream.requests) == []


async def test_a_check_with_an_index_and_no_store_names_what_is_missing(config: Config, tmp_path: Path) -> None:
    await warm(config)
    empty = load_config(None, {}, symbol_path=f"srv*{tmp_path / 'other'}*{tmp_path / 'none'}")
    report = await check(
        replace(config, symbol_path=empty.symbol_path, misses=replace(config.misses, folder=tmp_path / "m"))
    )
    details = {symbol.module: (symbol.cause, symbol.reason) for symbol in report.symbols}
    assert details["clfs.sys"] == ("not-cached", "which PDB the image names is not known here")
    assert details["hal.dll"][1].startswith("none of the ")  # type: ignore[union-attr]  # it has a reason
    assert report.guesses == (Guess("hal.dll", 0, None),)


async def test_the_index_may_be_down_after_it_was_read_once(config: Config, upstream: Upstream) -> None:
    config = replace(config, builds=replace(config.builds, recheck_s=0))
    await warm(config)
    for name in list(upstream.files):
        if name.startswith("by_filename"):
            upstream.always(name, status(503))
    notes: list[str] = []
    report = await warm(config, notes)
    assert report.exit_code() == 0
    assert any("the copy of ntoskrnl.exe of 20" in note for note in notes)


async def test_a_build_that_the_index_lacks_is_one_clear_line(config: Config) -> None:
    async with SymbolCache(config) as cache:
        report = await cache.warm(BuildSource("22621.1486"))
    assert [each.problem for each in report.unreadable] == [
        "22621.1486 is not in the index; the nearest are 22621.1485 (KB5023778, 2023-03-14)"
    ]
    assert report.exit_code() == 4


async def test_a_damaged_document_is_said_and_the_rest_is_warmed(config: Config, upstream: Upstream) -> None:
    upstream.files["by_filename_compressed/clfs.sys.json.gz"] = document([])[:-4]
    report = await warm(config)
    (bad,) = report.unreadable
    assert bad.problem.startswith("1 of 4 documents of the index are not here (clfs.sys): http://127.0.0.1")
    assert bad.problem.endswith("/clfs.sys.json.gz sent something else: its gzip data ends early")
    assert set(ends(report)) == {PDBS[NT].index, PDBS[HAL].index}


async def test_a_scan_lists_a_build_by_what_is_kept(config: Config) -> None:
    await warm(config)
    async with SymbolCache(config) as cache:
        scan = await cache.scan(BUILD, sets=["three"])
    assert {module.name: module.image for module in scan.modules} == {
        "ntoskrnl.exe": NT,
        "hal.dll": None,
        "clfs.sys": CLFS,
    }
