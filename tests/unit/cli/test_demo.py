from __future__ import annotations

from typing import TYPE_CHECKING

import anyio
import pytest

from symcache.cli.demo import Rehearsal, find_deviations, rehearse
from symcache.events import ignore
from symcache.synth.session import SESSION, make_published, write_inputs
from symcache.synth.upstream import LoopbackUpstream

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from symcache.synth.session import SessionModule

PUBLISHED = make_published()
(SECDRV,) = (module for module in SESSION if not module.is_published)
(TCPIP,) = (module for module in SESSION if module.is_paged_out)
HAL = SESSION[1]


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return write_inputs(tmp_path_factory.mktemp("inputs"))


@pytest.fixture
def deviations(inputs: tuple[Path, Path], tmp_path: Path) -> Callable[..., list[str]]:
    """Rehearse with an upstream that has these files."""

    def run(files: dict[str, bytes], given: tuple[Path, ...] = inputs) -> list[str]:
        with LoopbackUpstream(files) as upstream:
            place = Rehearsal(upstream.url, tmp_path / "store", tmp_path / "memory")
            report = anyio.run(rehearse, place, given, ignore)
        return list(find_deviations(report, SESSION, PUBLISHED))

    return run


def test_with_every_file_in_its_place_nothing_deviates(deviations: Callable[..., list[str]]) -> None:
    assert deviations(PUBLISHED) == []


@pytest.mark.parametrize("module", [m for m in SESSION if m.is_published], ids=lambda module: module.pdb.name)
def test_a_pdb_that_the_upstream_lacks_is_a_deviation(
    module: SessionModule, deviations: Callable[..., list[str]]
) -> None:
    lost = module.pdb.index
    assert deviations({index: data for index, data in PUBLISHED.items() if index != lost}) == [
        f"{lost}: not-published, but it is published"
    ]


def test_an_image_that_the_upstream_lacks_hides_the_pdb_it_names(deviations: Callable[..., list[str]]) -> None:
    assert deviations({index: data for index, data in PUBLISHED.items() if index != TCPIP.image.index}) == [
        f"{TCPIP.pdb.index}: it was not requested",
        f"{TCPIP.image.index}: not-published, but it is published",
    ]


@pytest.mark.parametrize(
    ("damage", "says"),
    [
        (lambda data: data[: len(data) // 2], "wrong-content, but it is published"),
        (lambda data: b"<!DOCTYPE html>" + data, "wrong-content, but it is published"),
        (lambda data: data[:-1] + bytes([data[-1] ^ 1]), "the store's file is not the one that is published"),
    ],
    ids=["cut", "a page", "one bit"],
)
def test_a_damaged_file_is_a_deviation(
    damage: Callable[[bytes], bytes], says: str, deviations: Callable[..., list[str]]
) -> None:
    index = HAL.pdb.index
    assert deviations(PUBLISHED | {index: damage(PUBLISHED[index])}) == [f"{index}: {says}"]


def test_a_published_secdrv_is_a_deviation(deviations: Callable[..., list[str]]) -> None:
    found = deviations(PUBLISHED | {SECDRV.pdb.index: SECDRV.make_pdb()})
    assert found == [f"{SECDRV.pdb.index}: fetched, but it is not published"]


def test_an_input_that_cannot_be_read_is_a_deviation(
    inputs: tuple[Path, Path], tmp_path: Path, deviations: Callable[..., list[str]]
) -> None:
    images, dump = inputs
    cut = tmp_path / "cut.dmp"
    cut.write_bytes(dump.read_bytes()[:0x800])
    lost, unreadable = deviations(PUBLISHED, (images, cut))
    assert lost == f"{TCPIP.pdb.index}: it was not requested"
    assert unreadable.startswith(f"{cut}: ")


def test_the_dump_alone_leads_to_the_same_files(
    inputs: tuple[Path, Path], deviations: Callable[..., list[str]]
) -> None:
    assert deviations(PUBLISHED, inputs[1:]) == []


def test_an_upstream_that_is_gone_fails_every_file(inputs: tuple[Path, Path], tmp_path: Path) -> None:
    upstream = LoopbackUpstream(PUBLISHED)
    upstream.close()
    report = anyio.run(rehearse, Rehearsal(upstream.url, tmp_path / "store", tmp_path / "memory"), inputs[:1], ignore)
    found = list(find_deviations(report, SESSION, PUBLISHED))
    assert len([line for line in found if "unavailable" in line]) == len(SESSION) - 1
