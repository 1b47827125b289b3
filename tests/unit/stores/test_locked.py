"""Files that a lock file states: which bytes are taken, which are passed over, and what is never replaced."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import TYPE_CHECKING

import anyio
import pytest
from support.answers import Stall, page, status
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PATH, PDB, Rig, cabinet, scratch_files, visible
from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image

from symcache.config import ServerEntry
from symcache.errors import OtherBytes
from symcache.identity import ImageKey, OtherKey
from symcache.inputs.records import WHOLE_FILE
from symcache.stores.results import Cause, Failed, Fetched, Hint, Present

if TYPE_CHECKING:
    from pathlib import Path

    from conftest import MakeUpstream
    from support.upstream import Upstream

PUBLIC = make_pdb(NativePdbSpec(KEY.guid, KEY.age, stripped=True))
PACKED = PATH[:-1] + "_"


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def locked(content: bytes) -> tuple[str]:
    return (f"{WHOLE_FILE}{sha256(content)}",)


def put(root: Path, path: str, content: bytes) -> Path:
    target = root / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(content)
    return target


def names_both(text: str | None, found: bytes, wanted: bytes) -> bool:
    return text is not None and sha256(found) in text and sha256(wanted) in text


@pytest.mark.parametrize("published", ["plain", "compressed"])
async def test_the_next_place_is_asked_when_one_sends_other_bytes(
    published: str, make_upstream: MakeUpstream, rig: Rig
) -> None:
    first, second = make_upstream(), make_upstream()
    path, packed = (PATH, lambda content: content) if published == "plain" else (PACKED, cabinet)
    first.files[path], second.files[path] = packed(PUBLIC), packed(PDB)
    async with rig.source(f"srv*{rig.store}*{first.url};srv*{rig.store}*{second.url}") as source:
        outcome = await source.fetch(KEY, locked(PDB))
    assert isinstance(outcome, Fetched)
    assert outcome.upstream == second.url
    assert (rig.store / PATH).read_bytes() == PDB
    assert any(names_both(each.answer, PUBLIC, PDB) for each in outcome.attempts)


async def test_other_bytes_everywhere_are_a_failure_that_names_both_hashes(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PUBLIC
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY, locked(PDB))
        assert isinstance(outcome, Failed)
        assert (outcome.cause, outcome.hint) == (Cause.WRONG_CONTENT, Hint.OTHER_BYTES)
        assert names_both(outcome.detail, PUBLIC, PDB)
        assert rig.misses() == []
        assert isinstance(await source.fetch(KEY), Fetched), "without a lock it is the key's file"
    assert visible(rig.store) == [PATH]


async def test_what_is_there_stays_and_no_server_is_asked_if_its_bytes_are_others(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    there = put(rig.store, PATH, PUBLIC)
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY, locked(PDB))
        with pytest.raises(OtherBytes, match=sha256(PDB)):
            source.find(KEY, locked(PDB))
        with pytest.raises(OtherBytes, match=sha256(PUBLIC)):
            source.find_for_debugger(KEY, locked(PDB))
        assert await source.fetch(KEY, locked(PUBLIC)) == Present(there, len(PUBLIC))
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.hint) == (Cause.WRONG_CONTENT, Hint.OTHER_BYTES)
    assert names_both(outcome.attempts[0].answer, PUBLIC, PDB)
    assert upstream.requests == []
    assert there.read_bytes() == PUBLIC


async def test_a_damaged_file_gives_way_to_the_locked_one(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    there = put(rig.store, PATH, PUBLIC[:2000])
    async with rig.plain(upstream) as source:
        assert isinstance(await source.fetch(KEY, locked(PDB)), Fetched)
    assert there.read_bytes() == PDB


async def test_a_cabinet_of_other_bytes_stays_beside_the_locked_file(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    there = put(rig.store, PACKED, cabinet(PUBLIC))
    async with rig.plain(upstream) as source:
        with pytest.raises(OtherBytes):
            source.find_for_debugger(KEY, locked(PDB))
        assert isinstance(await source.fetch(KEY, locked(PDB)), Fetched)
        assert source.find_for_debugger(KEY, locked(PDB)) == Present(rig.store / PATH, len(PDB))
    assert there.read_bytes() == cabinet(PUBLIC)


@pytest.mark.parametrize(("path", "content"), [(PATH, PUBLIC), (PACKED, cabinet(PUBLIC))], ids=["plain", "compressed"])
async def test_a_store_between_keeps_what_it_has(
    path: str, content: bytes, upstream: Upstream, rig: Rig, tmp_path: Path
) -> None:
    upstream.files[PATH] = PDB
    there = put(tmp_path / "between", path, content)
    entry = ServerEntry(url=upstream.url, compressed=False, two_tier=False)
    async with rig.source(f"srv*{rig.store}*{tmp_path / 'between'}*{upstream.url}", servers=(entry,)) as source:
        outcome = await source.fetch(KEY, locked(PDB))
    assert isinstance(outcome, Fetched)
    assert (rig.store / PATH).read_bytes() == PDB
    assert visible(tmp_path / "between") == [path]
    assert there.read_bytes() == content


async def test_a_compressed_file_counts_by_what_it_expands_to(rig: Rig) -> None:
    put(rig.store, PACKED, CAB)
    async with rig.source(f"srv*{rig.store}") as source:
        assert source.find_for_debugger(KEY, locked(PDB)) is not None
        assert source.digest(KEY) == (len(PDB), sha256(PDB))


async def test_a_hash_is_kept_from_servers_that_want_checksums(upstream: Upstream, rig: Rig) -> None:
    entry = ServerEntry(url=upstream.url, checksum=True, compressed=False, two_tier=False)
    upstream.files[PATH] = PDB
    async with rig.source(f"srv*{rig.store}*{upstream.url}", servers=(entry,)) as source:
        await source.fetch(KEY, (*locked(PDB), "SHA256:00"))
    assert [request.headers.get("symbolchecksum") for request in upstream.requests] == ["SHA256:00"]


async def test_two_who_want_other_bytes_at_once_do_not_get_each_others_answer(upstream: Upstream, rig: Rig) -> None:
    upstream.files[PATH] = PDB
    ends: dict[bytes, object] = {}
    async with rig.plain(upstream) as source, anyio.create_task_group() as group:

        async def fetch(content: bytes) -> None:
            ends[content] = await source.fetch(KEY, locked(content))

        group.start_soon(fetch, PUBLIC)
        group.start_soon(fetch, PDB)
    assert isinstance(ends[PDB], Fetched)
    assert isinstance(ends[PUBLIC], Failed)
    assert (rig.store / PATH).read_bytes() == PDB


async def test_an_image_under_another_name_has_to_have_the_locked_bytes_too(upstream: Upstream, rig: Rig) -> None:
    listed, published = (
        ImageKey(name, IMAGE_KEY.timestamp, IMAGE_KEY.size_of_image) for name in ("dump_disk.sys", "disk.sys")
    )
    other = disk_bytes(replace(plan_image(IMAGE_KEY, KEY), payload_bytes=100_000))
    upstream.files[published.index] = other
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(listed, locked(IMAGE))
        assert isinstance(outcome, Failed)
        assert outcome.hint is Hint.OTHER_BYTES
        assert visible(rig.store) == []
        upstream.files[published.index] = IMAGE
        assert isinstance(await source.fetch(listed, locked(IMAGE)), Fetched)
        asked = len(upstream.requests)
        kept = await source.fetch(listed, locked(other))
        assert isinstance(kept, Failed), "what is there under either name stays"
        assert (kept.hint, len(upstream.requests)) == (Hint.OTHER_BYTES, asked)
    assert (rig.store / listed.index).read_bytes() == IMAGE


async def test_a_file_whose_id_says_nothing_is_held_to_its_hash(upstream: Upstream, rig: Rig) -> None:
    key = OtherKey("x.so", "elf-buildid-0123456789abcdef")
    upstream.files[key.index] = b"tampered with"
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(key, locked(b"as it was"))
        assert isinstance(outcome, Failed)
        assert outcome.hint is Hint.OTHER_BYTES
    assert visible(rig.store) == []


ANSWERS = {
    "truncated": (status(200, PDB[: len(PDB) // 2]), Hint.CUT_SHORT),
    "tampered": (status(200, PDB[:-1] + bytes([PDB[-1] ^ 1])), Hint.OTHER_BYTES),
    "a page": (page(), Hint.PAGE),
}


@pytest.mark.parametrize(("answer", "hint"), ANSWERS.values(), ids=ANSWERS)
async def test_what_is_not_the_file_has_a_name_and_leaves_nothing(
    answer: object, hint: Hint, upstream: Upstream, rig: Rig
) -> None:
    upstream.always(PATH, answer)  # type: ignore[arg-type]
    async with rig.plain(upstream) as source:
        outcome = await source.fetch(KEY, locked(PDB))
    assert isinstance(outcome, Failed)
    assert (outcome.cause, outcome.hint) == (Cause.WRONG_CONTENT, hint)
    assert (visible(rig.store), scratch_files(rig.store)) == ([], [])


async def test_an_interrupted_fetch_leaves_nothing(upstream: Upstream, rig: Rig) -> None:
    stall = Stall(after=5000)
    upstream.files[PATH] = PDB
    upstream.always(PATH, stall)
    async with rig.plain(upstream) as source, anyio.create_task_group() as group:
        group.start_soon(source.fetch, KEY, locked(PDB))
        await anyio.to_thread.run_sync(stall.reached.wait, 20)
        group.cancel_scope.cancel()
    stall.release()
    assert (visible(rig.store), scratch_files(rig.store)) == ([], [])
