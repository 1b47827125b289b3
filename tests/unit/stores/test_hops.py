"""The first of two hops: an image's headers from as few bytes as its place allows."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from support.answers import Stall, chunked, cut, file, in_turn, page, status
from support.sources import IMAGE, IMAGE_KEY, KEY, Rig, cabinet, scratch_files, visible
from support.synth.pe import disk_bytes, plan_image

from symcache.config import ServerEntry
from symcache.formats.pe.image import Image
from symcache.stores.results import Cause, Failed, Missing

if TYPE_CHECKING:
    from support.answers import Answer
    from support.upstream import Upstream

INDEX = IMAGE_KEY.index
PACKED = INDEX[:-1] + "_"
OTHER = disk_bytes(replace(plan_image(replace(IMAGE_KEY, timestamp=1), KEY), payload_bytes=200_000))


def pdb_of(image: object) -> str:
    assert isinstance(image, Image)
    assert (image.timestamp, image.size_of_image) == (IMAGE_KEY.timestamp, IMAGE_KEY.size_of_image)
    (entry,) = image.code_views
    assert entry.record is not None
    return entry.record.path


async def test_headers_take_a_few_small_ranges_and_keep_nothing(upstream: Upstream, rig: Rig) -> None:
    upstream.files[INDEX] = IMAGE
    async with rig.plain(upstream) as source:
        assert pdb_of(await source.read_image(IMAGE_KEY)) == KEY.name
    assert 1 < len(upstream.requests) <= 4
    assert {request.status for request in upstream.requests} == {206}
    assert sum(request.sent_bytes for request in upstream.requests) <= 16 * 1024 < len(IMAGE)
    assert all("if-range" in request.headers for request in upstream.requests[1:])
    assert upstream.connections == 1
    assert not rig.store.exists()
    assert rig.events == []


@pytest.mark.parametrize(
    "answer",
    [
        file(ranges=False),
        chunked(),
        status(206, IMAGE[:4096], headers=[("Content-Range", "bytes 0-4095/*")]),
        status(206, IMAGE[:100], headers=[("Content-Range", f"bytes 0-99/{len(IMAGE)}")]),
        status(206, IMAGE[:4096], headers=[("Content-Range", f"bytes 1-4096/{len(IMAGE)}")]),
        status(416),
        status(206, IMAGE[:4096]),
    ],
    ids=["no ranges", "chunked", "unknown length", "short range", "another range", "416", "no range given"],
)
async def test_where_ranges_are_refused_the_whole_file_is_looked_at(
    answer: Answer, upstream: Upstream, rig: Rig
) -> None:
    upstream.files[INDEX] = IMAGE
    upstream.always(INDEX, in_turn(answer, file(ranges=False)))
    async with rig.plain(upstream) as source:
        assert pdb_of(await source.read_image(IMAGE_KEY)) == KEY.name
    assert "range" not in upstream.requests[-1].headers
    assert visible(rig.store) == scratch_files(rig.store) == []


async def test_a_file_that_changes_between_two_ranges_is_looked_at_whole(upstream: Upstream, rig: Rig) -> None:
    upstream.files[INDEX] = IMAGE
    upstream.script(INDEX, file(OTHER))
    async with rig.plain(upstream) as source:
        assert pdb_of(await source.read_image(IMAGE_KEY)) == KEY.name
    assert upstream.requests[-1].status == 200


@pytest.mark.parametrize("known", [True, False], ids=["known", "found out"])
async def test_where_only_a_cabinet_lies_it_is_expanded_and_not_kept(known: bool, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PACKED] = cabinet(IMAGE)
    entry = ServerEntry(url=upstream.url, plain=False if known else None, two_tier=False)
    async with rig.source(f"srv*{rig.store}*{upstream.url}", servers=[entry]) as source:
        assert pdb_of(await source.read_image(IMAGE_KEY)) == KEY.name
    assert visible(rig.store) == scratch_files(rig.store) == []


@pytest.mark.parametrize("kept", ["plain", "compressed", "folder", "pointer"])
async def test_an_image_that_lies_here_is_read_here(kept: str, upstream: Upstream, rig: Rig) -> None:
    folder = rig.folder / "here"
    path = {"plain": INDEX, "compressed": PACKED, "folder": IMAGE_KEY.name}.get(kept, f"{INDEX[:-7]}file.ptr")
    target = folder / path
    target.parent.mkdir(parents=True)
    target.write_bytes(cabinet(IMAGE) if kept == "compressed" else IMAGE)
    if kept == "pointer":
        (rig.folder / "app.exe").write_bytes(IMAGE)
        target.write_text(str(rig.folder / "app.exe"))
    element = str(folder) if kept == "folder" else f"srv*{rig.store}*{folder}"
    symbol_path = f"{element};srv*{rig.store}*{upstream.url}"
    async with rig.source(symbol_path, allow=(str(rig.folder),)) as source:
        assert pdb_of(await source.read_image(IMAGE_KEY)) == KEY.name
    assert upstream.requests == []
    assert visible(rig.store) == []


async def test_breaks_are_waited_out(upstream: Upstream, rig: Rig) -> None:
    upstream.files[INDEX] = IMAGE
    upstream.script(INDEX, status(503), cut(100), file(), cut(10))
    async with rig.plain(upstream) as source:
        assert pdb_of(await source.read_image(IMAGE_KEY)) == KEY.name
    assert len(rig.clock.slept) == 3


@pytest.mark.parametrize(
    ("answer", "cause"),
    [
        (status(503), Cause.UNAVAILABLE),
        (status(403), Cause.REFUSED),
        (page(), Cause.WRONG_CONTENT),
        (file(OTHER), Cause.WRONG_CONTENT),
        (file(b"MZ" + bytes(9000)), Cause.WRONG_CONTENT),
        (file(b""), Cause.WRONG_CONTENT),
    ],
    ids=["503", "403", "page", "another image", "no image", "empty"],
)
async def test_what_is_no_answer_fails_the_hop(answer: Answer, cause: Cause, upstream: Upstream, rig: Rig) -> None:
    upstream.always(INDEX, answer)
    async with rig.plain(upstream, retries=1) as source:
        outcome = await source.read_image(IMAGE_KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is cause
    assert outcome.attempts[-1].upstream == upstream.url
    assert rig.misses() == []
    assert scratch_files(rig.store) == []


async def test_an_image_that_is_nowhere_is_a_miss_and_remembered(upstream: Upstream, rig: Rig) -> None:
    async with rig.plain(upstream) as source:
        outcomes = [await source.read_image(IMAGE_KEY) for _ in range(2)]
    assert [outcome.cause for outcome in outcomes if isinstance(outcome, Missing)] == [
        Cause.NOT_PUBLISHED,
        Cause.REMEMBERED_MISS,
    ]
    assert len(upstream.requests) == 1


async def test_a_drip_ends_with_the_total_time(upstream: Upstream, rig: Rig) -> None:

    upstream.files[INDEX] = IMAGE
    upstream.always(INDEX, Stall(100))
    async with rig.plain(upstream, total_timeout_s=0.2) as source:
        outcome = await source.read_image(IMAGE_KEY)
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.attempts[-1].answer) == (Cause.UNAVAILABLE, "not whole after 0.2 s")


async def test_where_nothing_can_be_written_headers_are_read_in_ranges_all_the_same(
    upstream: Upstream, rig: Rig
) -> None:
    rig.store.write_bytes(b"")  # nobody makes a folder there
    upstream.files[INDEX] = IMAGE
    async with rig.plain(upstream) as source:
        assert pdb_of(await source.read_image(IMAGE_KEY)) == KEY.name
        upstream.always(INDEX, file(ranges=False))
        outcome = await source.read_image(IMAGE_KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.DISK


async def test_headers_that_lie_all_over_the_file_are_not_gathered_bit_by_bit(upstream: Upstream, rig: Rig) -> None:
    # A debug directory whose many records lie blocks apart: more requests than the whole file is worth.
    plan = replace(plan_image(IMAGE_KEY, *[replace(KEY, age=age) for age in range(1, 30)]), payload_bytes=200_000)
    upstream.files[INDEX] = disk_bytes(plan)
    async with rig.plain(upstream) as source:
        image = await source.read_image(IMAGE_KEY)
    assert isinstance(image, Image)
    assert len(image.code_views) == 29
    assert len(upstream.requests) <= 14


async def test_no_name_of_an_image_that_is_nowhere_is_asked_for_twice(upstream: Upstream, rig: Rig) -> None:
    async with rig.source(f"srv*{rig.store}*{upstream.url}") as source:
        outcome = await source.read_image(IMAGE_KEY)
    assert [request.path for request in upstream.requests] == [f"/{INDEX}", "/index2.txt", f"/{PACKED}"]
    assert isinstance(outcome, Missing)
    assert [(said.asked, said.answer) for said in outcome.attempts if said.upstream == upstream.url] == [
        (None, "404"),
        (PACKED.rpartition("/")[2], "404"),
    ]


async def test_headers_are_read_in_ranges_from_a_store_of_two_tiers(upstream: Upstream, rig: Rig) -> None:
    upstream.files = {"index2.txt": b"", f"{IMAGE_KEY.name[:2]}/{INDEX}": IMAGE}
    async with rig.source(f"srv*{rig.store}*{upstream.url}") as source:
        assert pdb_of(await source.read_image(IMAGE_KEY)) == KEY.name
    assert sum(request.sent_bytes for request in upstream.requests) <= 16 * 1024 < len(IMAGE)
