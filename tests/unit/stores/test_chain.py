"""The rules of chains: who is asked in which order, and which files lie where afterwards."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from support.answers import page, status
from support.parts import wine_lacks
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PATH, PDB, Rig, cabinet, scratch_files, visible
from support.synth.pdb import NativePdbSpec, make_pdb, make_portable_pdb

from symcache.config import ServerEntry
from symcache.errors import ConfigError
from symcache.events import Noted
from symcache.identity import PdbKey, PortablePdbKey
from symcache.stores.results import Attempt, Cause, Failed, Fetched, Hint, Missing, Present

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeUpstream
    from support.answers import Answer
    from support.upstream import Upstream

PACKED = PATH[:-1] + "_"
TWO_TIER = f"{KEY.name[:2]}/{PATH}"
WRONG = make_pdb(NativePdbSpec(UUID(int=1)))
FOLDER = PATH.rpartition("/")[0]


def put(root: Path, path: str, content: bytes) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def asked(upstream: Upstream) -> list[str]:
    return [request.path.removeprefix("/") for request in upstream.requests]


def notes(rig: Rig) -> list[str]:
    return [event.text for event in rig.events if isinstance(event, Noted)]


@pytest.fixture
def stores(tmp_path: Path) -> list[Path]:
    return [tmp_path / name for name in "abc"]


# Where the file is found, and what then lies in each of the three stores left of the server.
CASCADES = {
    "plain in the second": ({1: (PATH, PDB)}, False, [[PATH], [PATH], []]),
    "plain in the third": ({2: (PATH, PDB)}, False, [[PATH], [PATH], [PATH]]),
    "compressed in the second": ({1: (PACKED, CAB)}, False, [[PATH], [PACKED], []]),
    "compressed in the third": ({2: (PACKED, CAB)}, False, [[PATH], [PACKED], [PACKED]]),
    "compressed in the first": ({0: (PACKED, CAB)}, False, [[PACKED, PATH], [], []]),
    "wrong in the second": ({1: (PATH, WRONG)}, True, [[PATH], [PATH], [PATH]]),
    "wrong in the first": ({0: (PATH, WRONG)}, True, [[PATH], [PATH], [PATH]]),
    "empty in the first": ({0: (PATH, b"")}, True, [[PATH], [PATH], [PATH]]),
    "broken cabinet in the second": ({1: (PACKED, CAB[:99])}, True, [[PATH], [PACKED, PATH], [PATH]]),
    "cabinet under the plain name": ({1: (PATH, CAB)}, False, [[PATH], [PATH], []]),
    "nowhere": ({}, True, [[PATH], [PATH], [PATH]]),
}


@pytest.mark.parametrize(("held", "is_asked", "after"), CASCADES.values(), ids=CASCADES)
async def test_a_hit_is_copied_into_every_store_left_of_it(
    held: dict[int, tuple[str, bytes]],
    is_asked: bool,
    after: list[list[str]],
    stores: list[Path],
    upstream: Upstream,
    rig: Rig,
) -> None:
    upstream.files[PATH] = PDB
    for number, (path, content) in held.items():
        put(stores[number], path, content)
    chain = "*".join(map(str, stores))
    async with rig.source(f"srv*{chain}*{upstream.url}") as source:
        outcome = await source.fetch(KEY)
        assert isinstance(outcome, Fetched)
        assert outcome.path == stores[0] / PATH
        assert outcome.attempts[-1].answer == ("200" if is_asked else "found")
        assert await source.fetch(KEY) == Present(outcome.path, len(PDB))
    assert asked(upstream) == ([PATH] if is_asked else [])
    assert [visible(store) for store in stores] == after
    assert (stores[0] / PATH).read_bytes() == PDB
    assert [scratch_files(store) for store in stores] == [[], [], []]


async def test_what_comes_compressed_stays_so_between(stores: list[Path], upstream: Upstream, rig: Rig) -> None:
    upstream.files[PACKED] = CAB
    async with rig.source(f"srv*{stores[0]}*{stores[1]}*{upstream.url}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.size_bytes == len(PDB)
    assert outcome.attempts[-2:] == (
        Attempt(upstream.url, "404"),
        Attempt(upstream.url, "200", PACKED.rpartition("/")[2]),
    )
    assert [visible(store) for store in stores] == [[PATH], [PACKED], []]
    assert (stores[1] / PACKED).read_bytes() == CAB


async def test_a_store_alone_is_looked_into_and_left_as_it_is(stores: list[Path], rig: Rig) -> None:
    async with rig.source(f"srv*{stores[0]}") as source:
        assert await source.fetch(KEY) == Missing(
            Cause.NOT_PUBLISHED, (Attempt(str(stores[0]), "not there"),), hint=Hint.NO_SERVER
        )
        assert not stores[0].exists()
        found = put(stores[0], PATH, PDB)
        assert await source.fetch(KEY) == Present(found, len(PDB))
    assert visible(stores[0]) == [PATH]
    assert not (stores[0] / "pingme.txt").exists()
    assert scratch_files(stores[0]) == []


async def test_a_cabinet_in_a_store_alone_is_expanded_beside_it(stores: list[Path], rig: Rig) -> None:
    put(stores[0], PACKED, CAB)
    async with rig.source(f"srv*{stores[0]}") as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert visible(stores[0]) == [PACKED, PATH]


@pytest.mark.parametrize("spelling", ["srv*{url}", "srv**{url}", "SRV*{url}*", "symsrv*symsrv.dll**{url}"])
async def test_a_server_alone_fills_the_default_store(spelling: str, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    async with rig.source(spelling.format(url=upstream.url)) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.path == rig.folder / "default" / PATH


async def test_a_cache_is_filled_from_everything_to_its_right(stores: list[Path], upstream: Upstream, rig: Rig) -> None:
    left, cache, right = stores
    folder = rig.folder / "build"
    first, second, third = (replace(KEY, guid=UUID(int=number)) for number in (1, 2, 3))
    contents = {key: make_pdb(NativePdbSpec(key.guid, key.age)) for key in (first, second, third)}
    put(left, first.index, contents[first])
    put(folder, KEY.name, contents[second])
    upstream.files[third.index] = contents[third]
    async with rig.source(f"srv*{left};cache*{cache};{folder};srv*{right}*{upstream.url}") as source:
        assert [type(await source.fetch(key)) for key in contents] == [Present, Fetched, Fetched]
        assert source.find(third) is not None
    assert visible(left) == [first.index]
    assert visible(cache) == sorted([second.index, third.index])
    assert visible(right) == [third.index]
    assert len(upstream.requests) == 1


async def test_elements_are_walked_left_to_right(
    stores: list[Path], upstream: Upstream, make_upstream: MakeUpstream, rig: Rig
) -> None:
    other = make_upstream({PATH: PDB})
    async with rig.source(f"srv*{stores[0]}*{upstream.url};srv*{stores[1]}*{other.url}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.path == stores[1] / PATH
    assert [attempt.upstream for attempt in outcome.attempts] == [upstream.url, upstream.url, other.url]
    assert [visible(store) for store in stores[:2]] == [[], [PATH]]


async def test_only_memory_is_told_apart_over_all_elements(stores: list[Path], upstream: Upstream, rig: Rig) -> None:
    async with rig.source(f"cache*{stores[0]};srv*{stores[1]}*{upstream.url}") as source:
        causes = [(await source.fetch(KEY)).cause for _ in range(2)]  # type: ignore[union-attr]
    assert causes == [Cause.NOT_PUBLISHED, Cause.REMEMBERED_MISS]


# Stores that fail


def block(path: Path) -> None:
    """Let nobody, root included, make the folder *path*: a file has its name."""
    path.write_bytes(b"")


@wine_lacks("paths through files")
@pytest.mark.parametrize("blocked", [0, 1])
async def test_a_store_that_cannot_be_written_is_noted_once_and_passed_over(
    blocked: int, stores: list[Path], upstream: Upstream, rig: Rig
) -> None:
    keys = [replace(KEY, guid=UUID(int=number)) for number in range(1, 4)]
    upstream.files |= {key.index: make_pdb(NativePdbSpec(key.guid, key.age)) for key in keys}
    block(stores[blocked])
    async with rig.source(f"srv*{stores[0]}*{stores[1]}*{upstream.url}") as source:
        outcomes = [await source.fetch(key) for key in keys]
    paths = [stores[1 - blocked] / key.index for key in keys]
    assert [outcome.path for outcome in outcomes if isinstance(outcome, Fetched)] == paths
    assert len(notes(rig)) == 1
    assert str(stores[blocked]) in notes(rig)[0]


async def test_a_store_that_cannot_be_read_is_noted_once_and_passed_over(
    stores: list[Path], upstream: Upstream, rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    upstream.files[PATH] = PDB
    put(stores[1], PATH, PDB)
    scan = os.scandir

    def fail(path: Path) -> object:
        if stores[1] in [path, *getattr(path, "parents", ())]:
            raise OSError(5, "Input/output error", str(path))
        return scan(path)

    async with rig.source(f"srv*{stores[0]}*{stores[1]}*{upstream.url}") as source:
        monkeypatch.setattr(os, "scandir", fail)
        outcome = await source.fetch(KEY)
        monkeypatch.undo()
    assert isinstance(outcome, Fetched)
    assert (outcome.path, outcome.upstream) == (stores[0] / PATH, upstream.url)
    assert any("is not read for a while" in note for note in notes(rig))
    assert len(notes(rig)) == len(set(notes(rig)))


async def test_a_store_that_was_passed_over_is_looked_into_again_after_a_while(
    rig: Rig, stores: list[Path], upstream: Upstream, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(stores[1], PATH, PDB)
    scan = os.scandir

    def fail(path: Path) -> object:
        if stores[1] in [path, *getattr(path, "parents", ())]:
            raise OSError(5, "Input/output error", str(path))
        return scan(path)

    monkeypatch.setattr("symcache.stores.chain._PASSED_OVER_S", 0.0)
    async with rig.source(f"srv*{stores[0]}*{stores[1]}*{upstream.url}") as source:
        monkeypatch.setattr(os, "scandir", fail)
        assert not isinstance(await source.fetch(KEY), Fetched)
        monkeypatch.setattr(os, "scandir", scan)
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.upstream == str(stores[1])
    assert len([note for note in notes(rig) if "is not read for a while" in note]) == 1


async def test_where_no_store_can_be_written_nothing_is_asked_and_the_disk_is_named(
    stores: list[Path], upstream: Upstream, rig: Rig
) -> None:
    upstream.files[PATH] = PDB
    block(stores[0])
    async with rig.source(f"srv*{stores[0]}*{upstream.url}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.DISK
    assert outcome.detail is not None
    assert str(stores[0]) in outcome.detail
    assert upstream.requests == []


async def test_a_store_that_is_wiped_during_a_run_is_made_again(
    stores: list[Path], upstream: Upstream, rig: Rig
) -> None:
    keys = [replace(KEY, guid=UUID(int=number)) for number in (1, 2)]
    upstream.files |= {key.index: make_pdb(NativePdbSpec(key.guid, key.age)) for key in keys}
    async with rig.source(f"srv*{stores[0]}*{upstream.url}") as source:
        assert isinstance(await source.fetch(keys[0]), Fetched)
        stores[0].rename(stores[1])
        assert isinstance(await source.fetch(keys[1]), Fetched)
    assert visible(stores[0]) == [keys[1].index]
    assert (stores[0] / "pingme.txt").exists()


# Plain folders


@pytest.mark.parametrize(
    "place", ["app.pdb", "APP.pdb", "pdb/app.pdb", "symbols/pdb/app.pdb", "exe/app.pdb", "Symbols/DLL/App.PDB"]
)
async def test_a_plain_folder_is_searched_as_debuggers_do(place: str, rig: Rig) -> None:
    found = put(rig.folder / "build", place, PDB)
    async with rig.source(str(rig.folder / "build")) as source:
        assert await source.fetch(KEY) == Present(found, len(PDB))
        assert source.find(KEY) == Present(found, len(PDB))
    assert visible(rig.folder / "build") == [place]


async def test_a_plain_folder_gives_only_the_right_file(rig: Rig) -> None:
    folder = rig.folder / "build"
    put(folder, "app.pdb", WRONG)
    put(folder, "deeper/app.pdb", PDB)
    put(folder, "exe/app.exe", IMAGE)
    async with rig.source(str(folder)) as source:
        assert isinstance(await source.fetch(KEY), Missing)
        assert isinstance(await source.fetch(IMAGE_KEY), Present)
        put(folder, "symbols/exe/app.pdb", PDB)
        assert isinstance(await source.fetch(KEY), Present)


async def test_a_folder_with_pingme_is_a_store(rig: Rig) -> None:
    folder = rig.folder / "build"
    put(folder, "pingme.txt", b"")
    put(folder, "symbols/pdb/app.pdb", PDB)
    async with rig.source(str(folder)) as source:
        assert isinstance(await source.fetch(KEY), Missing)
        put(folder, PATH, PDB)
        assert isinstance(await source.fetch(KEY), Present)


async def test_a_folder_that_is_not_there_has_nothing(rig: Rig) -> None:
    async with rig.source(f"{rig.folder / 'build'};srv*{rig.folder / 's'}") as source:
        assert isinstance(await source.fetch(KEY), Missing)
    assert notes(rig) == []


# Shares


@pytest.mark.skipif(os.name == "nt", reason="shares are reached directly there")
async def test_a_share_is_reached_where_it_is_mounted(upstream: Upstream, rig: Rig) -> None:
    mounted = rig.folder / "mnt"
    upstream.files[PATH] = PDB
    share = r"\\Server\Symbols\team"
    unc = {r"\\server\symbols": mounted}
    async with rig.source(f"srv*{rig.store}*{share}*{upstream.url}", unc=unc) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
    assert visible(mounted / "team") == [PATH]
    assert notes(rig) == []


@pytest.mark.skipif(os.name == "nt", reason="shares are reached directly there")
@pytest.mark.parametrize("first", [r"\\server\symbols", r"\\server\symbols*{store}"])
async def test_a_share_out_of_reach_is_noted_and_left_out(first: str, upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    async with rig.source(f"srv*{first.format(store=rig.store)}*{upstream.url}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.path == (rig.store if "{store}" in first else rig.folder / "default") / PATH
    assert len(notes(rig)) == 1
    assert "[unc]" in notes(rig)[0]


@pytest.mark.skipif(os.name == "nt", reason="shares are reached directly there")
async def test_an_element_of_which_nothing_can_be_reached_is_left_out(rig: Rig) -> None:
    async with rig.source(rf"\\server\symbols;srv*\\server\more;srv*{rig.store}") as source:
        assert isinstance(await source.fetch(KEY), Missing)
        assert source.find(KEY) is None
        assert isinstance(await source.read_image(IMAGE_KEY), Missing)
    assert len(notes(rig)) == 2


@pytest.mark.skipif(os.name == "nt", reason="drives are there")
def test_a_drive_of_windows_is_an_error_elsewhere(rig: Rig) -> None:
    with pytest.raises(ConfigError, match="path of Windows"):
        rig.source(r"srv*C:\sym*http://127.0.0.1")


# Servers


async def test_names_are_asked_in_order_and_the_tier_only_after_a_miss(upstream: Upstream, rig: Rig) -> None:
    async with rig.source(f"srv*{rig.store}*{upstream.url}/sub/") as source:
        for age in (1, 2):
            assert isinstance(await source.fetch(replace(KEY, age=age)), Missing)
    ids = [replace(KEY, age=age).id for age in (1, 2)]
    assert asked(upstream) == [
        f"sub/app.pdb/{ids[0]}/app.pdb",
        f"sub/app.pdb/{ids[0]}/app.pd_",
        "sub/index2.txt",
        f"sub/app.pdb/{ids[1]}/app.pdb",
        f"sub/app.pdb/{ids[1]}/app.pd_",
    ]


async def test_where_nothing_is_missing_the_tier_is_not_asked(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    async with rig.source(f"srv*{rig.store}*{upstream.url}") as source:
        await source.fetch(KEY)
    assert asked(upstream) == [PATH]


@pytest.mark.parametrize(
    "mark", [page(), status(200, b"{}"), status(403), page(404)], ids=["page", "json", "forbidden", "404"]
)
async def test_whatever_stands_for_the_mark_of_two_tiers_is_none(mark: object, upstream: Upstream, rig: Rig) -> None:
    upstream.always("index2.txt", mark)  # type: ignore[arg-type]
    async with rig.source(f"srv*{rig.store}*{upstream.url}") as source:
        for age in (1, 2):
            assert isinstance(await source.fetch(replace(KEY, age=age)), Missing)
    assert asked(upstream).count("index2.txt") == 1


async def test_what_looks_like_the_mark_of_two_tiers_hides_no_file(upstream: Upstream, rig: Rig) -> None:
    absent, present = replace(KEY, age=8), replace(KEY, age=9)
    content = make_pdb(NativePdbSpec(present.guid, age=present.age))
    upstream.script("index2.txt", status(200))  # once, of a server that is in trouble
    async with rig.source(f"srv*{rig.store}*{upstream.url}") as source:
        assert isinstance(await source.fetch(absent), Missing)
        upstream.files[present.index] = content
        assert isinstance(await source.fetch(present), Fetched)
        asked = len(upstream.requests)
        assert isinstance(await source.fetch(replace(KEY, age=10)), Missing)
        assert len(upstream.requests) == asked + 2, "it is known now where its files are"


@pytest.mark.parametrize("mark", [page(), status(403)], ids=["page", "403"])
async def test_where_the_mark_cannot_be_seen_both_trees_are_asked(mark: Answer, upstream: Upstream, rig: Rig) -> None:
    upstream.always("index2.txt", mark)
    upstream.files[f"ap/{PATH}"] = PDB
    async with rig.source(f"srv*{rig.store}*{upstream.url}") as source:
        assert isinstance(await source.fetch(KEY), Fetched)


async def test_while_the_tier_is_not_known_a_miss_is_not_definite(upstream: Upstream, rig: Rig) -> None:
    upstream.files |= {"index2.txt": b"x", TWO_TIER: PDB}
    upstream.script("index2.txt", *[status(503)] * 2)
    async with rig.source(f"srv*{rig.store}*{upstream.url}", retries=1) as source:
        outcome = await source.fetch(KEY)
        assert isinstance(outcome, Failed)
        assert outcome.attempts[-1] == Attempt(upstream.url, "503", "index2.txt")
        assert rig.misses() == []
        assert isinstance(await source.fetch(KEY), Fetched)


async def test_a_two_tier_server_is_known_after_its_first_miss(upstream: Upstream, rig: Rig) -> None:
    other = replace(KEY, age=4)
    upstream.files |= {
        "index2.txt": b"x",
        TWO_TIER: PDB,
        f"ap/{other.index}": make_pdb(NativePdbSpec(other.guid, other.age)),
    }
    async with rig.source(f"srv*{rig.store}*{upstream.url}") as source:
        assert isinstance(await source.fetch(KEY), Fetched)
        assert isinstance(await source.fetch(other), Fetched)
    assert asked(upstream) == [PATH, PACKED, "index2.txt", TWO_TIER, f"ap/{other.index}"]
    assert visible(rig.store) == sorted([PATH, other.index])


@pytest.mark.parametrize("made_new", [True, False], ids=["by us", "by somebody"])
async def test_two_tier_stores_are_read_and_written(
    made_new: bool, stores: list[Path], upstream: Upstream, rig: Rig
) -> None:
    upstream.files[PATH] = PDB
    if not made_new:
        put(stores[0], "index2.txt", b"")
    async with rig.source(f"srv*{stores[0]}*{upstream.url}", two_tier=made_new) as source:
        assert isinstance(await source.fetch(KEY), Fetched)
        assert isinstance(await source.fetch(KEY), Present)
    assert visible(stores[0]) == [TWO_TIER]
    assert (stores[0] / "index2.txt").exists()


HINTS = {
    "plain alone": ({"compressed": False}, [PATH]),
    "compressed alone": ({"plain": False}, [PACKED]),
    "compressed first": ({"compressed_first": True}, [PACKED, PATH]),
    "pointers": ({"pointers": True}, [PATH, PACKED, f"{FOLDER}/file.ptr"]),
    "two tiers": ({"compressed": False, "two_tier": True}, [TWO_TIER]),
    "images alone": ({"holds": ("image",)}, []),
    "portable alone": ({"holds": ("portable",)}, []),
}


@pytest.mark.parametrize(("hints", "expected"), HINTS.values(), ids=HINTS)
async def test_what_is_known_of_a_server_spares_questions(
    hints: dict[str, object], expected: list[str], upstream: Upstream, rig: Rig
) -> None:
    entry = ServerEntry(url=upstream.url, **{"two_tier": False, **hints})  # type: ignore[arg-type]
    async with rig.source(f"srv*{rig.store}*{upstream.url}", servers=[entry]) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Missing)
    assert outcome.cause is Cause.NOT_PUBLISHED
    assert outcome.attempts
    assert asked(upstream) == expected


async def test_a_portable_pdb_is_asked_for_with_its_checksum_and_checked_by_it(upstream: Upstream, rig: Rig) -> None:
    guid = UUID(int=5)
    content, digest = make_portable_pdb(guid, 7)
    key = PortablePdbKey("lib.pdb", guid)
    upstream.files[key.index] = content
    entry = ServerEntry(url=upstream.url, checksum=True, compressed=False, two_tier=False)
    async with rig.source(f"srv*{rig.store}*{upstream.url}", servers=[entry]) as source:
        wrong = await source.fetch(key, [f"SHA256:{'0' * 64}"])
        right = await source.fetch(key, [f"SHA256:{digest}"])
    assert isinstance(wrong, Failed)
    assert wrong.cause is Cause.WRONG_CONTENT
    assert isinstance(right, Fetched)
    assert [request.headers["symbolchecksum"] for request in upstream.requests] == [
        f"SHA256:{'0' * 64}",
        f"SHA256:{digest}",
    ]


async def test_odd_names_are_encoded_as_one_part_of_a_path(upstream: Upstream, rig: Rig) -> None:
    key = PdbKey("Ünï +&#%41;@.pdb", KEY.guid, KEY.age)
    upstream.files[key.index] = PDB
    async with rig.source(f"srv*{rig.store}*{upstream.url}") as source:
        assert isinstance(await source.fetch(key), Fetched)
    assert visible(rig.store) == [key.index]
    assert "//" not in upstream.requests[0].target


async def test_what_is_excluded_is_never_looked_for(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    async with rig.source(f"srv*{rig.store}*{upstream.url}", exclude=("*.sys", "APP*")) as source:
        assert await source.fetch(KEY) == Missing(Cause.EXCLUDED)
    assert upstream.requests == []


async def test_a_bomb_is_capped(upstream: Upstream, rig: Rig) -> None:
    bomb = cabinet(PDB + bytes(64 << 20))
    assert len(bomb) < 1 << 20
    upstream.files |= {PATH: bomb, PACKED: bomb}
    async with rig.source(f"srv*{rig.store}*{upstream.url}", largest_file_bytes=1 << 20) as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Failed)
    assert outcome.cause is Cause.WRONG_CONTENT
    assert visible(rig.store) == scratch_files(rig.store) == []


async def test_an_odd_but_right_file_is_published_with_a_note(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = make_pdb(NativePdbSpec(KEY.guid, age=9, info_age=KEY.age))
    async with rig.source(f"srv*{rig.store}*{upstream.url}") as source:
        outcome = await source.fetch(KEY)
    assert isinstance(outcome, Fetched)
    assert outcome.note is not None
    assert "information stream" in outcome.note
