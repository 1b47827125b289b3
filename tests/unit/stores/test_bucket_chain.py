"""A bucket between a store on disk and a server: what is found where, what fills it, and what a check sees of it."""

from __future__ import annotations

import hashlib
import threading
from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import UUID

import anyio
import pytest
from anyio import to_thread
from support.answers import Stall
from support.faultrelay import Fault, FaultRelay
from support.serving import wait_for
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PATH, PDB, Rig, cabinet, scratch_files, visible
from support.synth.pdb import NativePdbSpec, make_pdb, make_portable_pdb
from support.synth.pe import disk_bytes, plan_image

from symcache.config import BucketEntry, ServerEntry
from symcache.errors import StoreError
from symcache.events import Noted
from symcache.formats.pe.image import Image
from symcache.identity import ImageKey, PdbKey, PortablePdbKey
from symcache.inputs.records import WHOLE_FILE
from symcache.stores.base import Form
from symcache.stores.disk import DiskSource
from symcache.stores.local.tree import Store
from symcache.stores.results import Attempt, Cause, Failed, Fetched, Missing, Present
from symcache.stores.source import Step, explain
from symcache.stores.turns import Turns
from symcache.sympath import parse_symbol_path, with_bucket
from symcache.upkeep.bundle import export_bundle

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.buckets import Bucket
    from support.upstream import Upstream

    from symcache.config import Config
    from symcache.events import Event
    from symcache.identity import Key
    from symcache.stores.negative import Miss
    from symcache.stores.source import SymbolSource

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
from symcache.stores.bucket import uploads  # noqa: E402 - where obstore is not, there are no tests

PACKED = PATH[:-1] + "_"
WRONG = make_pdb(NativePdbSpec(UUID(int=1)))
STRIPPED = make_pdb(NativePdbSpec(KEY.guid, KEY.age, stripped=True))
OTHERS = [PdbKey(f"other{number}.pdb", UUID(int=77 + number), 1) for number in range(6)]
OTHER_PDBS = {key.index: make_pdb(NativePdbSpec(key.guid, age=key.age, payload_bytes=5000)) for key in OTHERS}


class Scene:
    """A bucket behind a relay, and machines that share it.

    Attributes:
        bucket: As its server has it.
        relay: Counts and breaks what is asked of it.
        upstream: What lies behind it.
        entry: What the config files of all say of the bucket.
    """

    def __init__(self, bucket: Bucket, relay: FaultRelay, upstream: Upstream, folder: Path) -> None:
        self.bucket = bucket
        self.relay = relay
        self.upstream = upstream
        self.entry: BucketEntry | None = None
        self._folder = folder

    def machine(self, name: str = "one") -> Rig:
        return Rig(self._folder / name)

    def config(self, rig: Rig, *, before: str = "", after: str = "") -> Config:
        """Return settings with the machine's store, the bucket and the server in a chain."""
        server = ServerEntry(url=self.upstream.url, compressed=False, two_tier=False)
        path = f"srv*{rig.store}{before}*{self.bucket.url}*{self.upstream.url}{after}"
        config = rig.config(path, servers=(server,), backoff_s=0.01)
        return config if self.entry is None else replace(config, bucket=(self.entry,))

    def open(self, rig: Rig, **options: str) -> SymbolSource:
        return rig.open(self.config(rig, **options))

    def look(self, rig: Rig, **options: str) -> DiskSource:
        return DiskSource(self.config(rig, **options), observer=rig.events.append)

    def put(self, name: str, content: bytes, **attributes: str) -> None:
        obstore.put(self.bucket.open(), name, content, attributes=attributes)

    def held(self) -> dict[str, bytes]:
        """What lies in the bucket, its mark left out."""
        store = self.bucket.open()
        names = [each["path"] for page in obstore.list(store) for each in page]
        return {name: obstore.get(store, name).bytes().to_bytes() for name in names if name != "pingme.txt"}

    def asked(self, method: str = "") -> list[tuple[str, str]]:
        """Return what the bucket was asked for: method and name."""
        requests = [(each.method, each.path.split(f"/{self.bucket.name}/", 1)[1]) for each in self.relay.requests]
        return [(how, name) for how, name in requests if method in {"", how} and name != "pingme.txt"]


class Leases:
    """What `Turns` asks of a cluster; nobody else has a lease, and nobody knows of misses."""

    had_to_wait = False

    def __init__(self) -> None:
        self.taken: list[str] = []

    async def acquire(self, what: str, *, longest_s: float) -> Leases:
        self.taken.append(what)
        return self

    async def release(self) -> None:
        """Do nothing: nobody waits."""

    async def recall_misses(self, key: Key, upstreams: list[str]) -> list[Miss]:
        return []

    async def share_misses(self, misses: list[Miss], *, ttl_s: float) -> None:
        """Do nothing: nobody asks."""


@pytest.fixture
def scene(
    s3_bucket: Bucket,
    enter: Callable[..., str],
    upstream: Upstream,
    tmp_path: Path,
    no_retries: None,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    monkeypatch.setattr(uploads, "_FIRST_PAUSE_S", 0.02)
    with FaultRelay(s3_bucket.server.url) as relay:
        enter(s3_bucket, relay.url)
        yield Scene(s3_bucket, relay, upstream, tmp_path)


def notes(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Noted)]


def sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


class TestFilling:
    async def test_what_a_server_has_lies_in_store_and_bucket(self, scene: Scene) -> None:
        scene.upstream.files[PATH] = PDB
        rig = scene.machine()
        async with scene.open(rig) as source:
            found = await source.fetch(KEY)
        assert isinstance(found, Fetched)
        assert (found.path, found.upstream) == (rig.store / PATH, scene.upstream.url)
        assert [(each.upstream, each.answer) for each in found.attempts] == [
            (scene.bucket.url, "not there"),
            (scene.bucket.url, "not there"),
            (scene.upstream.url, "200"),
        ]
        assert scene.held() == {PATH: PDB}
        assert obstore.get(scene.bucket.open(), PATH).attributes["sha256"] == sha256(PDB)
        assert notes(rig.events) == []
        assert scratch_files(rig.store) == []

    async def test_the_next_machine_asks_no_server(self, scene: Scene) -> None:
        scene.upstream.files |= {PATH: PDB, IMAGE_KEY.index: IMAGE}
        async with scene.open(scene.machine()) as source:
            for key in (KEY, IMAGE_KEY):
                assert isinstance(await source.fetch(key), Fetched)
        scene.upstream.requests.clear()
        scene.relay.forget()
        rig = scene.machine("two")
        async with scene.open(rig) as source:
            found = [await source.fetch(key) for key in (KEY, IMAGE_KEY)]
            assert await source.fetch(KEY) == Present(rig.store / PATH, len(PDB))
        assert [each.upstream for each in found if isinstance(each, Fetched)] == [scene.bucket.url] * 2
        assert scene.upstream.requests == []
        assert scene.asked() == [("GET", PATH), ("GET", IMAGE_KEY.index)]  # and nothing is written again
        assert (rig.store / PATH).read_bytes() == PDB

    async def test_what_comes_packed_lies_plain_in_the_bucket(self, scene: Scene) -> None:
        scene.upstream.files[PACKED] = CAB
        rig = scene.machine()
        config = replace(scene.config(rig), server=(ServerEntry(url=scene.upstream.url, two_tier=False),))
        async with rig.open(config) as source:
            assert isinstance(await source.fetch(KEY), Fetched)
        assert scene.held() == {PATH: PDB}

    async def test_a_cabinet_in_the_bucket_is_expanded(self, scene: Scene) -> None:
        scene.put(PACKED, CAB)
        rig = scene.machine()
        async with scene.open(rig) as source:
            found = await source.fetch(KEY)
        assert isinstance(found, Fetched)
        assert found.attempts[-1] == Attempt(scene.bucket.url, "found", PACKED.rpartition("/")[2])
        assert (rig.store / PATH).read_bytes() == PDB
        assert scene.upstream.requests == []
        assert scene.held() == {PACKED: CAB}

    async def test_who_has_the_file_in_the_store_asks_nobody(self, scene: Scene) -> None:
        rig = scene.machine()
        (rig.store / PATH).parent.mkdir(parents=True)
        (rig.store / PATH).write_bytes(PDB)
        async with scene.open(rig) as source:
            assert isinstance(await source.fetch(KEY), Present)
        assert scene.relay.requests == []
        assert scene.upstream.requests == []

    async def test_many_who_want_one_file_ask_once(self, scene: Scene) -> None:
        scene.put(PATH, PDB)
        async with scene.open(scene.machine()) as source, anyio.create_task_group() as group:
            for _ in range(16):
                group.start_soon(source.fetch, KEY)
        assert scene.asked() == [("GET", PATH)]

    async def test_two_machines_at_once_leave_one_object(self, scene: Scene) -> None:
        stall = Stall(after=1000)
        scene.upstream.files[PATH] = PDB
        scene.upstream.always(PATH, stall)
        async with (
            scene.open(scene.machine("one")) as one,
            scene.open(scene.machine("two")) as two,
            anyio.create_task_group() as group,
        ):
            for source in (one, two):
                group.start_soon(source.fetch, KEY)
            await scene.upstream.requests_seen(2)
            stall.release()
        assert scene.held() == {PATH: PDB}
        assert sorted(each.status or 0 for each in scene.relay.requests if each.path.endswith(PATH))[-2:] == [404, 412]

    async def test_stores_bundles_and_folders_of_a_path_are_searched_beside_it(
        self, scene: Scene, tmp_path: Path
    ) -> None:
        bundled, lying, in_bucket, *_ = OTHERS
        with Store(tmp_path / "to-export") as store:
            scratch = store.scratch()
            scratch.write_bytes(OTHER_PDBS[bundled.index])
            store.publish(scratch, bundled, form=Form.PLAIN, durable=False)
            export_bundle(store, tmp_path / "crash.symbols")
        (tmp_path / "folder").mkdir()
        (tmp_path / "folder" / lying.name).write_bytes(OTHER_PDBS[lying.index])
        scene.put(in_bucket.index, OTHER_PDBS[in_bucket.index])
        scene.upstream.files[PATH] = PDB
        rig = scene.machine()
        options = {"before": f"*{tmp_path / 'crash.symbols'}", "after": f";{tmp_path / 'folder'}"}
        async with scene.open(rig, **options) as source:
            found = [await source.fetch(key) for key in (bundled, lying, in_bucket, KEY)]
        places = [each.upstream if isinstance(each, Fetched) else str(each.path) for each in found]  # type: ignore[union-attr]
        assert places == [
            str(tmp_path / "crash.symbols"),
            str(tmp_path / "folder" / lying.name),
            scene.bucket.url,
            scene.upstream.url,
        ]
        assert scene.held().keys() == {in_bucket.index, PATH}  # what lies at hand is not brought there


class TestKinds:
    async def test_an_image_is_looked_into_where_it_lies(self, scene: Scene) -> None:
        scene.put(IMAGE_KEY.index, IMAGE)
        rig = scene.machine()
        async with scene.open(rig) as source:
            image = await source.read_image(IMAGE_KEY)
        assert isinstance(image, Image)
        assert image.code_views[0].record is not None
        assert image.code_views[0].record.path == KEY.name
        assert scene.upstream.requests == []
        assert visible(rig.store) == []

    async def test_an_image_in_a_cabinet_is_expanded_and_not_kept(self, scene: Scene) -> None:
        scene.put(IMAGE_KEY.index[:-1] + "_", cabinet(IMAGE))
        rig = scene.machine()
        async with scene.open(rig) as source:
            assert isinstance(await source.read_image(IMAGE_KEY), Image)
        assert visible(rig.store) == scratch_files(rig.store) == []
        assert scene.held().keys() == {IMAGE_KEY.index[:-1] + "_"}

    async def test_a_copy_made_for_the_crash_is_found_by_the_name_it_was_made_of(self, scene: Scene) -> None:
        original = ImageKey("storport.sys", 0x5E0B1234, 0x21000)
        copy = replace(original, name="dump_storport.sys")
        content = disk_bytes(plan_image(original, KEY))
        scene.upstream.files[original.index] = content
        for name in ("one", "two"):
            rig = scene.machine(name)
            async with scene.open(rig) as source:
                found = await source.fetch(copy)
            assert isinstance(found, Fetched)
            assert visible(rig.store) == sorted([copy.index, original.index])
            assert scene.held() == {original.index: content}
        assert len([each for each in scene.upstream.requests if each.method == "GET"]) == 1

    async def test_a_portable_pdb_is_checked_by_what_its_image_states(self, scene: Scene) -> None:
        key = PortablePdbKey("lib.pdb", UUID(int=5))
        wrong, _ = make_portable_pdb(key.guid, 7, payload_bytes=400)
        right, digest = make_portable_pdb(key.guid, 7)
        scene.put(key.index, wrong)
        scene.upstream.files[key.index] = right
        rig = scene.machine()
        async with scene.open(rig) as source:
            found = await source.fetch(key, [f"SHA256:{digest}"])
        assert isinstance(found, Fetched)
        assert found.upstream == scene.upstream.url
        assert (rig.store / key.index).read_bytes() == right
        assert scene.held() == {key.index: wrong}  # a name keeps what it has

    async def test_a_lock_file_takes_the_bytes_that_it_states(self, scene: Scene) -> None:
        scene.put(PATH, STRIPPED)
        scene.upstream.files[PATH] = PDB
        rig = scene.machine()
        async with scene.open(rig) as source:
            found = await source.fetch(KEY, (f"{WHOLE_FILE}{sha256(PDB)}",))
        assert isinstance(found, Fetched)
        assert found.upstream == scene.upstream.url
        assert sha256(STRIPPED) in next(each.answer for each in found.attempts if each.upstream == scene.bucket.url)
        assert (rig.store / PATH).read_bytes() == PDB

    @pytest.mark.parametrize(
        ("content", "stated", "said"),
        [
            (WRONG, {}, "found, but"),
            (b"<html>", {}, "found, but"),
            (PDB[:2000], {}, "found, but"),
            (PDB, {"sha256": "0" * 64}, "other bytes than were put there"),
        ],
        ids=["another PDB", "a page", "cut", "other hash"],
    )
    async def test_a_wrong_file_is_passed_over_and_published_nowhere(
        self, content: bytes, stated: dict[str, str], said: str, scene: Scene
    ) -> None:
        scene.put(PATH, content, **stated)
        rig = scene.machine()
        async with scene.open(rig) as source:
            failed = await source.fetch(KEY)
            assert isinstance(failed, Failed)
            assert failed.cause is Cause.WRONG_CONTENT
            assert failed.attempts[0].answer.startswith(said)
            assert visible(rig.store) == scratch_files(rig.store) == []
            scene.upstream.files[PATH] = PDB
            assert source.misses is not None
            source.misses.forget(scene.upstream.url, KEY)
            found = await source.fetch(KEY)
        assert isinstance(found, Fetched)
        assert (rig.store / PATH).read_bytes() == PDB


class TestMisses:
    async def test_they_are_remembered_of_the_server_and_not_of_the_bucket(self, scene: Scene) -> None:
        rig = scene.machine()
        async with scene.open(rig) as source:
            missing = await source.fetch(KEY)
            assert isinstance(missing, Missing)
            assert missing.cause is Cause.NOT_PUBLISHED
        assert rig.misses() == [PATH]
        asked = len(scene.upstream.requests)
        scene.relay.forget()
        async with scene.open(rig) as source:
            assert isinstance(await source.fetch(KEY), Missing)
            assert [how for how, _ in scene.asked()] == ["GET", "GET"]
            scene.put(PATH, PDB)  # by another machine
            assert isinstance(await source.fetch(KEY), Fetched)
        assert len(scene.upstream.requests) == asked
        assert rig.misses() == []

    async def test_a_bucket_that_is_away_leaves_the_question_open(self, scene: Scene) -> None:
        scene.relay.fault = Fault(status=503)
        async with scene.open(scene.machine()) as source:
            failed = await source.fetch(KEY)
        assert isinstance(failed, Failed)
        assert failed.cause is Cause.UNAVAILABLE
        assert [each.answer for each in failed.attempts] == ["503", "404"]


class TestUploads:
    async def test_what_a_bucket_does_not_take_is_brought_there_when_it_does(self, scene: Scene) -> None:
        scene.upstream.files |= OTHER_PDBS
        scene.relay.fault = Fault(status=503)
        rig = scene.machine()
        async with scene.open(rig) as source:
            (store,) = source._bucket_stores.values()
            store._breaker._cool_down_s = 0.01
            for key in OTHERS:
                assert isinstance(await source.fetch(key), Fetched)  # nobody waits for the bucket
            assert source._uploads.waiting == len(OTHERS)
            scene.relay.fault = None
            await to_thread.run_sync(wait_for, lambda: not source._uploads.waiting)
            assert scene.held() == OTHER_PDBS
        away, back = notes(rig.events)
        assert away.startswith(f"{scene.bucket.url}: ")
        assert away.endswith("; what is fetched is brought there later")
        assert back == f"{scene.bucket.url}: takes files again"

    async def test_what_was_not_brought_is_told_in_the_end(self, scene: Scene) -> None:
        scene.upstream.files |= OTHER_PDBS
        scene.relay.fault = Fault(methods={"PUT"}, status=503)
        rig = scene.machine()
        with anyio.fail_after(60):
            async with scene.open(rig) as source:
                for key in OTHERS:
                    assert isinstance(await source.fetch(key), Fetched)
        told = notes(rig.events)
        assert len(told) == 2
        assert told[1] == (
            f"{len(OTHERS)} files were not brought into {scene.bucket.url}; `symcache store push` does that later"
        )
        assert sorted(visible(rig.store)) == sorted(OTHER_PDBS)

    async def test_what_the_bucket_takes_in_the_end_needs_no_word(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(uploads, "_FIRST_PAUSE_S", 3600.0)
        scene.upstream.files[PATH] = PDB
        scene.relay.fault = Fault(methods={"PUT"}, status=503)
        rig = scene.machine()
        with anyio.fail_after(60):
            async with scene.open(rig) as source:
                await source.fetch(KEY)
                await to_thread.run_sync(scene.relay.await_requests, 1, "PUT")
                scene.relay.fault = None
        assert scene.held() == {PATH: PDB}
        assert not [text for text in notes(rig.events) if "not brought" in text]

    async def test_a_file_that_went_meanwhile_is_not_brought(
        self, scene: Scene, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        scene.upstream.files[PATH] = PDB
        monkeypatch.setattr(uploads, "_FIRST_PAUSE_S", 3600.0)
        scene.relay.fault = Fault(methods={"PUT"}, status=503)
        rig = scene.machine()
        async with scene.open(rig) as source:
            found = await source.fetch(KEY)
            assert isinstance(found, Fetched)
            await to_thread.run_sync(scene.relay.await_requests, 1, "PUT")
            found.path.unlink()
            scene.relay.fault = None
        assert scene.held() == {}
        assert not [text for text in notes(rig.events) if "not brought" in text]

    async def test_a_bucket_that_may_not_be_written_is_read_all_the_same(self, scene: Scene) -> None:
        scene.upstream.files |= {key.index: OTHER_PDBS[key.index] for key in OTHERS[:3]}
        scene.put(PATH, PDB)
        scene.relay.fault = Fault(methods={"PUT"}, status=403)
        rig = scene.machine()
        async with scene.open(rig) as source:
            for key in (*OTHERS[:3], KEY):
                assert isinstance(await source.fetch(key), Fetched)
        first, last = notes(rig.events)
        assert first.startswith(f"{scene.bucket.url}: 403")
        assert first.endswith("; nothing is brought there")
        assert last.startswith(f"3 files were not brought into {scene.bucket.url};")

    async def test_a_bucket_that_is_only_read_is_never_written(self, scene: Scene) -> None:
        scene.entry = BucketEntry(url=scene.bucket.url, read_only=True)
        scene.upstream.files[PATH] = PDB
        rig = scene.machine()
        async with scene.open(rig) as source:
            assert isinstance(await source.fetch(KEY), Fetched)
        assert {each.method for each in scene.relay.requests} == {"GET"}
        assert notes(rig.events) == []

    async def test_a_bucket_that_is_only_read_is_asked_without_a_lease(self, scene: Scene) -> None:
        others = scene.bucket.server.new_bucket()
        scene.entry = BucketEntry(url=others.url, read_only=True)
        leases = Leases()
        async with scene.open(scene.machine(), before=f"*{others.url}") as source:
            source.chains[0]._turns = Turns(leases, source.misses, longest_s=60)  # type: ignore[arg-type]
            for _ in range(3):
                assert isinstance(await source.fetch(KEY), Missing)
            assert leases.taken == [KEY.folded]  # by who asks the server; what it lacks is remembered
            obstore.put(others.open(), IMAGE_KEY.index, IMAGE)
            assert isinstance(await source.fetch(IMAGE_KEY), Fetched)
        assert leases.taken == [KEY.folded]
        assert scene.held() == {}  # it stands before the one that is filled

    async def test_who_gives_up_does_not_wait_for_a_silent_bucket(self, scene: Scene) -> None:
        scene.upstream.files[PATH] = PDB
        scene.relay.fault = Fault(methods={"PUT"}, silent=True)
        rig = scene.machine()

        async def work(stop: anyio.Event) -> None:
            async with scene.open(rig) as source:
                assert isinstance(await source.fetch(KEY), Fetched)
                stop.set()
                await anyio.sleep_forever()

        stop = anyio.Event()
        async with anyio.create_task_group() as group:
            group.start_soon(work, stop)
            await stop.wait()
            await to_thread.run_sync(scene.relay.await_requests, 1, "PUT")
            began_s = anyio.current_time()
            group.cancel_scope.cancel()
        assert anyio.current_time() - began_s < 8  # silence is borne for ten seconds
        scene.relay.fault = None
        assert visible(rig.store) == [PATH]

    async def test_an_end_is_not_waited_for_without_end(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(uploads, "_TOLD_AFTER_S", 0.02)
        monkeypatch.setattr(uploads, "_SILENCE_S", 0.05)
        scene.upstream.files[PATH] = PDB
        scene.relay.fault = Fault(methods={"PUT"}, silent=True)
        rig = scene.machine()
        with anyio.fail_after(10):
            async with scene.open(rig) as source:
                assert isinstance(await source.fetch(KEY), Fetched)
        assert notes(rig.events) == [
            "1 file is still on the way into the bucket",
            "1 file was not brought into the buckets; `symcache store push` does that later",
        ]
        scene.relay.fault = None

    async def test_a_silent_bucket_stops_nobody_who_gives_up(self, scene: Scene) -> None:
        scene.relay.fault = Fault(silent=True)
        rig = scene.machine()
        async with anyio.create_task_group() as group:

            async def work() -> None:
                async with scene.open(rig) as source:
                    await source.fetch(KEY)

            group.start_soon(work)
            await to_thread.run_sync(scene.relay.await_requests, 1)
            began_s = anyio.current_time()
            group.cancel_scope.cancel()
        assert anyio.current_time() - began_s < 8  # silence is borne for ten seconds
        scene.relay.fault = None
        assert scratch_files(rig.store) == []


class TestCheck:
    @pytest.mark.parametrize(("name", "content"), [(PATH, PDB), (PACKED, CAB)], ids=["plain", "packed"])
    def test_it_finds_what_lies_in_the_bucket_and_copies_nothing(self, name: str, content: bytes, scene: Scene) -> None:
        scene.put(name, content)
        rig = scene.machine()
        with closing(scene.look(rig)) as source:
            assert source.find(KEY) is None
            found = source.find_for_debugger(KEY)
            assert found is not None
            assert found.place == found.url == f"{scene.bucket.url}/{name}"
            assert found.in_bundle
            assert found.size_bytes == len(content)
            assert found.note == (
                f"in the bucket {scene.bucket.url}, which no debugger reads: `symcache warm` copies it from there"
            )
            assert source.digest(KEY) == (len(PDB), sha256(PDB))
            assert source.find_for_debugger(OTHERS[0]) is None
            assert source.find_for_debugger(KEY) is not None
        (told,) = notes(rig.events)
        assert told.startswith(f"{scene.bucket.url}: debuggers do not read a bucket; ")
        assert not rig.store.exists()
        assert scene.upstream.requests == []

    @pytest.mark.parametrize("content", [WRONG, b"", PDB[:99]], ids=["another", "empty", "cut"])
    def test_a_wrong_object_is_none(self, content: bytes, scene: Scene) -> None:
        scene.put(PATH, content)
        with closing(scene.look(scene.machine())) as source:
            assert source.find_for_debugger(KEY) is None

    def test_it_looks_into_images(self, scene: Scene) -> None:
        scene.put(IMAGE_KEY.index, IMAGE)
        with closing(scene.look(scene.machine())) as source:
            image = source.find_image(IMAGE_KEY)
        assert image is not None
        assert image.timestamp == IMAGE_KEY.timestamp

    def test_many_are_asked_for_at_a_time_and_each_once(self, scene: Scene) -> None:
        keys: list[Key] = [PdbKey(f"m{number}.pdb", UUID(int=number), 1) for number in range(40)]
        scene.put(keys[3].index, PDB)
        seen: list[int] = []
        scene.relay.fault = Fault(delay_s=60)

        def let_go() -> None:
            scene.relay.await_requests(32)
            seen.append(len(scene.relay.requests))
            scene.relay.fault = None

        thread = threading.Thread(target=let_go)
        thread.start()
        with closing(scene.look(scene.machine())) as source:
            assert source.seem_held(keys) == {keys[3].folded}
            asked = len(scene.relay.requests)
            for key in keys:
                source.find_for_debugger(key)
        thread.join()
        assert seen == [32]
        assert asked <= 2 * len(keys) + 32  # two names each; and at first whether there is such a bucket
        assert {name for _, name in scene.asked()[asked:]} == {keys[3].index}  # what is there is looked at

    def test_a_bucket_that_is_away_is_told_once_and_asked_no_more(self, scene: Scene) -> None:
        scene.relay.fault = Fault(status=503)
        rig = scene.machine()
        with closing(scene.look(rig)) as source:
            for key in OTHERS:
                assert source.find_for_debugger(key) is None
        assert notes(rig.events) == [
            f"{scene.bucket.url}: the bucket cannot be asked: 503; {scene.bucket.url} is not read for a while"
        ]
        assert len(scene.relay.requests) == 1

    @pytest.mark.parametrize(("name", "content"), [(PATH, PDB), (PACKED, CAB)], ids=["plain", "packed"])
    def test_a_bucket_that_goes_away_meanwhile_is_told(self, name: str, content: bytes, scene: Scene) -> None:
        scene.put(name, content)
        rig = scene.machine()
        with closing(scene.look(rig)) as source:
            assert source.seem_held([KEY]) == {KEY.folded}
            scene.relay.fault = Fault(status=503)
            if name == PATH:
                assert source.find_for_debugger(KEY) is None
                (told,) = notes(rig.events)
                assert told.startswith(f"{scene.bucket.url}: the bucket cannot be read: 503; ")
            else:
                with pytest.raises(StoreError, match="the bucket cannot be read: 503"):
                    source.find_for_debugger(KEY)

    def test_a_bucket_that_is_not_there_is_told(self, scene: Scene) -> None:
        rig = scene.machine()
        path = f"srv*{rig.store}*s3://nowhere*{scene.upstream.url}"
        with closing(DiskSource(rig.config(path), observer=rig.events.append)) as source:
            assert source.find_for_debugger(KEY) is None
        assert notes(rig.events) == [
            "s3://nowhere: the bucket cannot be asked: there is no such bucket; s3://nowhere is not read for a while"
        ]


class TestExplain:
    async def steps(self, scene: Scene, rig: Rig) -> list[Step]:
        async with scene.open(rig) as source:
            return [step async for step in explain(source, KEY)]

    async def test_each_place_says_what_it_has_and_nothing_is_copied(self, scene: Scene) -> None:
        scene.upstream.files[PATH] = PDB
        rig = scene.machine()
        found = await self.steps(scene, rig)
        size = len(PDB)
        assert [(step.name, step.answer) for step in found] == [
            (str(rig.store), "not there"),
            (scene.bucket.url, "not there"),
            (scene.upstream.url, f"there, plain, {size} bytes"),
        ]
        assert found[2].copies == ((str(rig.store), "plain"), (scene.bucket.url, "plain"))
        assert scene.held() == {}
        assert not rig.store.exists()

    async def test_a_bucket_that_has_it_ends_the_walk(self, scene: Scene) -> None:
        scene.put(PACKED, CAB)
        rig = scene.machine()
        found = await self.steps(scene, rig)
        assert found[-1].answer == f"there, compressed, {len(CAB)} bytes"
        assert found[-1].copies == ((str(rig.store), "plain"),)

    async def test_a_bucket_that_is_only_read_gets_no_copy(self, scene: Scene) -> None:
        scene.entry = BucketEntry(url=scene.bucket.url, read_only=True)
        scene.upstream.files[PATH] = PDB
        rig = scene.machine()
        assert (await self.steps(scene, rig))[-1].copies == ((str(rig.store), "plain"),)


class TestEntries:
    async def test_an_entry_counts_for_all_that_lies_below_its_url(self, scene: Scene) -> None:
        scene.entry = BucketEntry(url=scene.bucket.url, letter_case="lower")
        scene.put(f"windows/{PATH.lower()}", PDB)
        rig = scene.machine()
        path = f"srv*{rig.store}*{scene.bucket.url}/windows"
        async with rig.open(replace(rig.config(path), bucket=(scene.entry,))) as source:
            assert isinstance(await source.fetch(KEY), Fetched)

    @pytest.mark.parametrize("is_bucket", [True, False], ids=["its block", "a server"])
    @pytest.mark.parametrize("spelling", ["{}/{}", "{}/{}/"])
    async def test_a_bucket_and_its_own_url_are_one_place(self, spelling: str, is_bucket: bool, scene: Scene) -> None:
        url = spelling.format(scene.relay.url, scene.bucket.name)
        scene.entry = BucketEntry(url=url) if is_bucket else None
        for setting in (scene.bucket.url, url.rstrip("/")):
            rig = scene.machine()
            config = replace(scene.config(rig), symbol_path=parse_symbol_path(f"srv*{rig.store}*{url}"))
            config = replace(config, symbol_path=with_bucket(config.symbol_path, setting))
            async with rig.open(config) as source:
                assert [place.name for place in source.chains[0].stores] == [str(rig.store), setting]
            assert [place.name for place in DiskSource(config).chains[0].stores] == [str(rig.store), setting]

    async def test_a_bucket_stands_between_where_a_setting_names_it(self, scene: Scene) -> None:
        scene.put(PATH, PDB)
        rig = scene.machine()
        async with rig.source(f"srv*{scene.bucket.url}") as source:
            found = await source.fetch(KEY)
        assert isinstance(found, Fetched)
        assert found.path == rig.folder / "default" / PATH
