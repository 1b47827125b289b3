"""A bucket as a store of a symbol path: what it is asked, what it is believed, and when it is left alone."""

from __future__ import annotations

import os
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from support.answers import status
from support.bounds import measure
from support.faultrelay import Fault, FaultRelay
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PDB, Clock, cabinet
from support.synth.pe import disk_bytes, plan_image
from support.synth.version import VersionPlan, version_bytes

from symcache.config import Network
from symcache.errors import StoreError, UpstreamRefused, UpstreamUnavailable, WrongContent
from symcache.events import TransferAdvanced, TransferEnded, TransferStarted
from symcache.identity import ImageKey, PdbKey, compressed_name
from symcache.stores.base import FileRequest, Form, Probed, SymbolStore
from symcache.stores.http.retry import CircuitBreaker
from symcache.stores.results import Attempt

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from support.answers import Answer
    from support.buckets import Bucket
    from support.upstream import Upstream

    from symcache.events import Event

obstore = pytest.importorskip("obstore", reason="obstore is not installed")
from symcache.stores.bucket import objects  # noqa: E402 - where obstore is not, there are no tests
from symcache.stores.bucket.look import StoredObject  # noqa: E402
from symcache.stores.bucket.store import BucketStore, object_name  # noqa: E402

MIB = 1 << 20
PACKED = KEY.index[:-1] + "_"
PACKED_IMAGE = IMAGE_KEY.index[:-1] + "_"


class Scene:
    """A store of a bucket behind a relay.

    Attributes:
        bucket: As the server has it.
        relay: Counts and breaks what the store asks for.
        store: What is tested.
        clock: What the store's pauses are measured by.
        events: What it told.
        scratch: Where files go.
    """

    def __init__(self, bucket: Bucket, relay: FaultRelay, ours: objects.Bucket, scratch: Path) -> None:
        self.bucket = bucket
        self.relay = relay
        self.events: list[Event] = []
        self.store = BucketStore(ours, self.events.append)
        self.clock = Clock()
        own = self.store._breaker
        self.store._breaker = CircuitBreaker(
            failures=own._failures,
            cool_down_s=own._cool_down_s,
            longest_pause_s=own._longest_pause_s,
            hiccup_s=own._hiccup_s,
            clock_s=self.clock,
            sleep=self.clock.sleep,
        )
        self.scratch = scratch

    def put(self, name: str, content: bytes, **attributes: str) -> None:
        obstore.put(self.bucket.open(), name, content, attributes=attributes)

    def fault_after_the_first_piece(self, fault: Fault) -> None:
        """Let *fault* meet what follows the first piece of the next file."""

        def note(event: Event) -> None:
            self.events.append(event)
            if isinstance(event, TransferStarted):
                self.relay.fault = fault
                self.store._observer = self.events.append

        self.store._observer = note

    def hold_after_the_first_piece(self) -> None:
        self.fault_after_the_first_piece(Fault(methods={"GET"}, delay_s=3600))

    @property
    def asked(self) -> list[tuple[str, str]]:
        """What the server was asked: method and name of the object."""
        return [(each.method, each.path.split(f"/{self.bucket.name}/", 1)[1]) for each in self.relay.requests]

    @property
    def url(self) -> str:
        return self.bucket.url


@pytest.fixture(params=["s3_bucket", "azure_bucket", "google_bucket"])
def scene(
    request: pytest.FixtureRequest, opened: Callable[..., objects.Bucket], tmp_path: Path, no_retries: None
) -> Iterator[Scene]:
    bucket: Bucket = request.getfixturevalue(request.param)
    with FaultRelay(bucket.server.url) as relay:
        yield Scene(bucket, relay, opened(bucket, relay.url), tmp_path / "scratch")


@pytest.fixture
def s3_scene(
    s3_bucket: Bucket, opened: Callable[..., objects.Bucket], tmp_path: Path, no_retries: None
) -> Iterator[Scene]:
    with FaultRelay(s3_bucket.server.url) as relay:
        yield Scene(s3_bucket, relay, opened(s3_bucket, relay.url), tmp_path / "scratch")


class TestFetch:
    async def test_a_plain_file_takes_one_request(self, scene: Scene) -> None:
        scene.put(KEY.index, PDB)
        found = await scene.store.fetch(FileRequest(KEY), scene.scratch)
        assert (found.form, found.error, found.is_asked) == (Form.PLAIN, None, True)
        assert found.attempts == (Attempt(scene.url, "found"),)
        assert scene.scratch.read_bytes() == PDB
        assert scene.asked == [("GET", KEY.index)]

    async def test_a_cabinet_is_asked_for_where_there_is_no_plain_file(self, scene: Scene) -> None:
        scene.put(PACKED, CAB)
        found = await scene.store.fetch(FileRequest(KEY), scene.scratch)
        assert found.form is Form.COMPRESSED
        asked = compressed_name(KEY.name)
        assert found.attempts == (Attempt(scene.url, "not there"), Attempt(scene.url, "found", asked))
        assert scene.scratch.read_bytes() == CAB
        assert scene.asked == [("GET", KEY.index), ("GET", PACKED)]

    async def test_what_is_known_to_be_absent_is_not_asked_for_again(self, scene: Scene) -> None:
        scene.put(PACKED, CAB)
        found = await scene.store.fetch(FileRequest(KEY, plain_answer="not there"), scene.scratch)
        assert found.form is Form.COMPRESSED
        assert [each.answer for each in found.attempts] == ["not there", "found"]
        assert scene.asked == [("GET", PACKED)]

    async def test_what_is_nowhere_is_a_definite_answer(self, scene: Scene) -> None:
        found = await scene.store.fetch(FileRequest(KEY), scene.scratch)
        assert found.is_absent
        assert [each.answer for each in found.attempts] == ["not there", "not there"]
        assert not scene.scratch.exists()
        assert scene.events == []

    async def test_an_empty_object_is_no_file(self, scene: Scene) -> None:
        scene.put(KEY.index, b"")
        assert (await scene.store.fetch(FileRequest(KEY), scene.scratch)).is_absent

    async def test_a_long_file_comes_in_pieces_of_one_object(self, scene: Scene) -> None:
        content = os.urandom(6 * MIB)
        scene.put(KEY.index, content)
        found = await scene.store.fetch(FileRequest(KEY), scene.scratch)
        assert found.form is Form.PLAIN
        assert scene.scratch.read_bytes() == content
        first, *more = scene.relay.requests
        assert "if-match" not in first.headers
        assert len(more) == 2  # of 4 MiB at most
        assert len({each.headers["if-match"] for each in more}) == 1

    async def test_pieces_of_a_long_file_are_asked_for_ahead_and_come_in_order(self, scene: Scene) -> None:
        content = os.urandom(18 * MIB)
        scene.put(KEY.index, content)
        scene.hold_after_the_first_piece()
        async with anyio.create_task_group() as group:
            group.start_soon(scene.store.fetch, FileRequest(KEY), scene.scratch)
            await anyio.to_thread.run_sync(scene.relay.await_requests, 1 + 4)
            scene.relay.fault = None
        assert scene.scratch.read_bytes() == content
        assert len(scene.relay.requests) == 1 + 5
        assert [event.whole_bytes for event in scene.events if isinstance(event, TransferAdvanced)] == [
            *(MIB * (1 + 4 * piece) for piece in range(5)),
            len(content),
        ]

    async def test_of_many_long_files_each_has_one_piece_on_the_way_and_few_more(self, s3_scene: Scene) -> None:
        scene, content = s3_scene, os.urandom(18 * MIB)
        scene.store._ahead_left = 4
        scene.put(KEY.index, content)
        asked, release = threading.Semaphore(0), threading.Event()

        def read(name: str, start: int, stop: int, **how: Any) -> Any:
            if start:
                asked.release()
                assert release.wait(60)
            return own(name, start, stop, **how)

        own, scene.store.bucket.read_chunks = scene.store.bucket.read_chunks, read  # type: ignore[method-assign]
        targets = [scene.scratch.with_name(f"scratch{at}") for at in range(3)]
        async with anyio.create_task_group() as group:
            for each in targets:
                group.start_soon(scene.store.fetch, FileRequest(KEY), each)
            for _ in range(3 + 4):
                assert await anyio.to_thread.run_sync(lambda: asked.acquire(timeout=60))
            await anyio.wait_all_tasks_blocked()
            assert not asked.acquire(blocking=False)
            release.set()
        assert [each.read_bytes() == content for each in targets] == [True] * 3
        assert scene.store._ahead_left == 4

    async def test_one_piece_comes_after_the_other_where_the_settings_say_so(self, s3_scene: Scene) -> None:
        s3_scene.put(KEY.index, bytes(9 * MIB))
        s3_scene.store.bucket.parts = 1
        most = at_once = 0

        def read(*arguments: Any, **how: Any) -> Any:
            nonlocal most, at_once
            at_once += 1
            most = max(most, at_once)
            try:
                return own(*arguments, **how)
            finally:
                at_once -= 1

        own, s3_scene.store.bucket.read_chunks = s3_scene.store.bucket.read_chunks, read  # type: ignore[method-assign]
        assert (await s3_scene.store.fetch(FileRequest(KEY), s3_scene.scratch)).form is Form.PLAIN
        assert most == 1

    async def test_who_gives_up_a_long_file_leaves_no_thread_behind(self, scene: Scene) -> None:
        scene.put(KEY.index, bytes(18 * MIB))
        scene.hold_after_the_first_piece()
        before = set(threading.enumerate())
        async with anyio.create_task_group() as group:
            group.start_soon(scene.store.fetch, FileRequest(KEY), scene.scratch)
            await anyio.to_thread.run_sync(scene.relay.await_requests, 1 + 4)
            group.cancel_scope.cancel()
        assert isinstance(scene.events[-1], TransferEnded)
        asking = [each for each in set(threading.enumerate()) - before if each.name == "detached call"]
        scene.relay.fault = None
        for each in asking:
            await anyio.to_thread.run_sync(each.join, 60)
            assert not each.is_alive()
        assert len(scene.relay.requests) == 1 + 4

    async def test_a_piece_that_fails_ends_the_transfer_with_its_error(self, scene: Scene) -> None:
        scene.put(KEY.index, bytes(9 * MIB))
        scene.fault_after_the_first_piece(Fault(methods={"GET"}, status=503))
        found = await scene.store.fetch(FileRequest(KEY), scene.scratch)
        assert isinstance(found.error, UpstreamUnavailable)
        assert found.attempts == (Attempt(scene.url, "503"),)
        scene.relay.fault = None
        assert (await scene.store.fetch(FileRequest(KEY), scene.scratch)).form is Form.PLAIN

    async def test_a_transfer_is_told_from_its_beginning_to_its_end(self, scene: Scene) -> None:
        scene.put(KEY.index, bytes(6 * MIB))
        await scene.store.fetch(FileRequest(KEY), scene.scratch)
        size, path = 6 * MIB, scene.scratch
        assert scene.events == [
            TransferStarted(KEY.index, scene.url, size, path),
            *(TransferAdvanced(KEY.index, at, size, path, at) for at in (MIB, 5 * MIB, size)),
            TransferEnded(KEY.index, path),
        ]

    async def test_a_transfer_that_breaks_is_over_as_well(self, s3_scene: Scene) -> None:
        s3_scene.put(KEY.index, bytes(3 * MIB))
        s3_scene.relay.fault = Fault(methods={"GET"}, cut_at=MIB + 1)
        found = await s3_scene.store.fetch(FileRequest(KEY), s3_scene.scratch)
        assert isinstance(found.error, UpstreamUnavailable)
        assert [type(event) for event in s3_scene.events] == [TransferStarted, TransferAdvanced, TransferEnded]

    async def test_an_object_that_is_replaced_meanwhile_is_never_mixed(self, scene: Scene) -> None:
        scene.put(KEY.index, b"1" * 3 * MIB)

        def replace_it(event: Event) -> None:
            if isinstance(event, TransferStarted):
                scene.put(KEY.index, b"2" * 3 * MIB)

        scene.store._observer = replace_it
        found = await scene.store.fetch(FileRequest(KEY), scene.scratch)
        assert found.form is None
        assert isinstance(found.error, UpstreamUnavailable)
        assert found.attempts == (Attempt(scene.url, "the object was replaced while it was read"),)

    @pytest.mark.parametrize("size", [100, 3 * MIB])
    async def test_bytes_of_another_hash_are_refused(self, size: int, scene: Scene) -> None:
        scene.put(KEY.index, bytes(size), sha256="0" * 64)
        found = await scene.store.fetch(FileRequest(KEY), scene.scratch)
        assert found.form is None
        assert isinstance(found.error, WrongContent)
        assert found.attempts == (Attempt(scene.url, "other bytes than were put there"),)

    async def test_what_is_stated_too_long_is_not_begun(self, s3_scene: Scene) -> None:
        s3_scene.put(KEY.index, bytes(2000))
        s3_scene.store.bucket.largest_bytes = 1999
        found = await s3_scene.store.fetch(FileRequest(KEY), s3_scene.scratch)
        assert isinstance(found.error, WrongContent)
        assert found.attempts[0].answer == "2000 bytes, more than network.largest_file_bytes"
        assert not s3_scene.scratch.exists()

    async def test_a_disk_that_does_not_take_it_is_an_error_of_the_store(self, s3_scene: Scene, tmp_path: Path) -> None:
        s3_scene.put(KEY.index, PDB)
        with pytest.raises(StoreError):
            await s3_scene.store.fetch(FileRequest(KEY), tmp_path / "none" / "scratch")
        assert isinstance(s3_scene.events[-1], TransferEnded)

    @pytest.mark.parametrize(
        ("fault", "kind", "answer"),
        [
            (Fault(status=503), UpstreamUnavailable, "503"),
            (Fault(status=403), UpstreamRefused, "403; without the right to list"),
            (Fault(), UpstreamUnavailable, "the connection broke"),
        ],
        ids=["503", "403", "reset"],
    )
    async def test_no_answer_is_no_miss(self, fault: Fault, kind: type, answer: str, s3_scene: Scene) -> None:
        s3_scene.relay.fault = fault
        found = await s3_scene.store.fetch(FileRequest(KEY), s3_scene.scratch)
        assert not found.is_absent
        assert isinstance(found.error, kind)
        assert found.attempts[0].answer.startswith(answer)
        assert len(s3_scene.relay.requests) == 1  # the cabinet is not asked for

    def test_a_large_file_goes_and_comes_in_little_memory(
        self,
        plain_s3_bucket: Bucket,  # the one that reads no more than it sends
        opened: Callable[..., objects.Bucket],
        tmp_path: Path,
        record_property: Callable[[str, object], None],
    ) -> None:
        file, scratch = tmp_path / "large", tmp_path / "scratch"
        with file.open("wb") as writing:
            writing.truncate(128 * MIB)
        ours = opened(plain_s3_bucket)
        ours.keeps_names()

        async def bring_and_fetch() -> None:
            store = BucketStore(ours, lambda _: None)
            assert await store.upload(KEY, file)
            assert (await store.fetch(FileRequest(KEY), scratch)).form is Form.PLAIN

        cost = measure([b""], lambda _: anyio.run(bring_and_fetch))
        record_property("grown_mib", round(cost.grown_bytes / MIB, 1))
        assert scratch.stat().st_size == 128 * MIB
        assert cost.grown_bytes < 64 * MIB


class TestWhileItIsAway:
    async def test_after_two_failures_it_costs_nothing_and_is_tried_again(self, scene: Scene) -> None:
        scene.put(KEY.index, PDB)
        scene.relay.fault = Fault(status=503)
        for _ in range(2):
            await scene.store.fetch(FileRequest(KEY), scene.scratch)
        asked = len(scene.relay.requests)
        for _ in range(20):
            found = await scene.store.fetch(FileRequest(KEY), scene.scratch)
            assert isinstance(found.error, UpstreamUnavailable)
            assert found.attempts == (Attempt(scene.url, "left alone after repeated failures"),)
        assert len(scene.relay.requests) == asked
        scene.clock.now_s += 2.1
        await scene.store.fetch(FileRequest(KEY), scene.scratch)
        assert len(scene.relay.requests) == asked + 1  # one tries it
        assert await scene.store.probe(KEY) == Probed(None, "left alone after repeated failures", is_no_answer=True)
        scene.relay.fault = None
        scene.clock.now_s += 2.1
        assert (await scene.store.fetch(FileRequest(KEY), scene.scratch)).form is Form.PLAIN
        assert (await scene.store.fetch(FileRequest(KEY), scene.scratch)).form is Form.PLAIN
        assert scene.clock.slept == []

    async def test_refusals_and_misses_are_answers(self, s3_scene: Scene) -> None:
        for fault in (Fault(status=503), Fault(status=403), Fault(status=503), None, Fault(status=503)):
            s3_scene.relay.fault = fault
            await s3_scene.store.fetch(FileRequest(KEY), s3_scene.scratch)
        s3_scene.relay.fault = None
        assert (await s3_scene.store.fetch(FileRequest(KEY), s3_scene.scratch)).is_absent

    async def test_who_gives_up_waits_for_nothing(self, scene: Scene) -> None:
        scene.put(KEY.index, PDB)
        scene.relay.fault = Fault(silent=True)
        async with anyio.create_task_group() as group:
            for _ in range(40):  # more than are asked at once
                group.start_soon(scene.store.fetch, FileRequest(KEY), scene.scratch)
            await anyio.to_thread.run_sync(scene.relay.await_requests, 32)
            group.cancel_scope.cancel()
        scene.relay.fault = None
        # Nobody's failure, and no slot is held.
        assert (await scene.store.fetch(FileRequest(KEY), scene.scratch)).form is Form.PLAIN

    async def test_silence_ends_by_itself(self, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(objects, "_READ_S", 0.1)
        ours = objects.Bucket(scene.url, scene.store.bucket.entry, Network(proxy=""))
        store = BucketStore(ours, scene.events.append)
        scene.relay.fault = Fault(silent=True)
        found = await store.fetch(FileRequest(KEY), scene.scratch)
        assert found.attempts == (Attempt(scene.url, "timed out"),)
        scene.relay.fault = None


class TestHeaders:
    async def test_they_take_a_piece_of_the_image(self, scene: Scene) -> None:
        image = disk_bytes(replace(plan_image(IMAGE_KEY, KEY), payload_bytes=8 * MIB))
        scene.put(IMAGE_KEY.index, image)
        found = await scene.store.read_headers(IMAGE_KEY)
        assert found.image is not None
        assert found.image.code_views[0].record is not None
        assert found.image.code_views[0].record.path == KEY.name
        assert found.attempts == (Attempt(scene.url, "found"),)
        assert 1 <= len(scene.relay.requests) <= 3
        assert sum(each.sent_bytes for each in scene.relay.requests) <= 3 * 64 * 1024

    async def test_a_cabinet_has_to_come_whole(self, scene: Scene) -> None:
        scene.put(PACKED_IMAGE, cabinet(IMAGE))
        found = await scene.store.read_headers(IMAGE_KEY)
        assert found.image is None
        assert found.instead == FileRequest(IMAGE_KEY, plain_answer="not there", in_passing=True)
        assert [method for method, _ in scene.asked] == ["GET", "HEAD"]

    async def test_what_is_nowhere_is_a_definite_answer(self, scene: Scene) -> None:
        assert (await scene.store.read_headers(IMAGE_KEY)).is_absent

    @pytest.mark.parametrize(
        ("content", "answer"),
        [
            (disk_bytes(plan_image(replace(IMAGE_KEY, timestamp=1), KEY)), "found, but another image"),
            (PDB, "not an image: "),
            (IMAGE[:100], "not an image: "),
        ],
        ids=["another", "a PDB", "cut"],
    )
    async def test_another_file_is_wrong(self, content: bytes, answer: str, s3_scene: Scene) -> None:
        s3_scene.put(IMAGE_KEY.index, content)
        found = await s3_scene.store.read_headers(IMAGE_KEY)
        assert (found.image, found.is_absent) == (None, False)
        assert isinstance(found.error, WrongContent)
        assert found.attempts[0].answer.startswith(answer)

    async def test_no_answer_is_no_miss(self, s3_scene: Scene) -> None:
        s3_scene.relay.fault = Fault(status=503)
        found = await s3_scene.store.read_headers(IMAGE_KEY)
        assert isinstance(found.error, UpstreamUnavailable)

    async def test_what_an_image_says_of_its_origin_is_read(self, scene: Scene) -> None:
        plan = VersionPlan({"040904b0": {"CompanyName": "Example"}})
        versions = ((1, 0x409, version_bytes(plan)),)
        scene.put(IMAGE_KEY.index, disk_bytes(replace(plan_image(IMAGE_KEY, KEY), versions=versions)))
        found = await scene.store.read_version(IMAGE_KEY)
        assert found is not None
        assert found.company == "Example"
        assert await scene.store.read_version(ImageKey("none.exe", 1, 2)) is None
        runtime = await scene.store.read_runtime(IMAGE_KEY)
        assert runtime is not None
        assert runtime.version == found
        scene.relay.fault = Fault(status=503)
        assert await scene.store.read_version(IMAGE_KEY) is None
        assert await scene.store.read_runtime(IMAGE_KEY) is None


class TestQuestions:
    async def test_a_probe_takes_no_body(self, scene: Scene) -> None:
        assert await scene.store.probe(KEY) == Probed(None, "not there")
        scene.put(PACKED, CAB)
        assert await scene.store.probe(KEY) == Probed(Form.COMPRESSED, f"there, compressed, {len(CAB)} bytes", len(CAB))
        scene.put(KEY.index, PDB)
        scene.relay.forget()
        assert await scene.store.probe(KEY) == Probed(Form.PLAIN, f"there, plain, {len(PDB)} bytes", len(PDB))
        assert scene.asked == [("HEAD", KEY.index)]
        scene.relay.fault = Fault(status=503)
        assert await scene.store.probe(KEY) == Probed(None, "503", is_no_answer=True)

    async def test_a_bucket_that_is_not_there_is_not_an_empty_one(self, scene: Scene) -> None:
        ours = objects.Bucket(f"{scene.bucket.server.scheme}://nowhere", None, Network(proxy=""))
        assert await BucketStore(ours, scene.events.append).probe(KEY) == Probed(
            None, "there is no such bucket", is_no_answer=True
        )

    async def test_it_says_where_clients_get_a_file_themselves(self, scene: Scene) -> None:
        assert await scene.store.locate(KEY) is None
        scene.put(KEY.index, PDB)
        found = await scene.store.locate(KEY)
        assert found is not None
        assert found.size_bytes == len(PDB)
        assert KEY.index in await scene.store.sign(KEY, valid_s=60)

    async def test_nobody_is_told_of_what_is_not_what_it_is_called(self, scene: Scene) -> None:
        assert not await scene.store.seems_right(KEY)
        scene.put(KEY.index, IMAGE)
        assert not await scene.store.seems_right(KEY)
        scene.put(KEY.index, PDB)
        assert await scene.store.seems_right(KEY)
        scene.relay.forget()
        assert await scene.store.seems_right(KEY)
        assert scene.asked == [("HEAD", KEY.index)]  # an object is looked into once
        scene.put(KEY.index, IMAGE)
        assert not await scene.store.seems_right(KEY)

    def test_nothing_of_it_is_on_disk(self, s3_scene: Scene) -> None:
        s3_scene.put(KEY.index, PDB)
        store: SymbolStore = s3_scene.store
        assert store.find(KEY) is None
        assert list(store.holding([KEY])) == []
        assert (s3_scene.store.local, s3_scene.store.is_on_disk) == (None, False)
        assert s3_scene.relay.requests == []


class TestUpload:
    async def test_a_file_lies_there_under_its_index(self, scene: Scene, tmp_path: Path) -> None:
        file = tmp_path / "file"
        file.write_bytes(PDB)
        assert await scene.store.upload(KEY, file)
        assert not await scene.store.upload(KEY, file)
        assert obstore.get(scene.bucket.open(), KEY.index).bytes().to_bytes() == PDB
        assert (await scene.store.fetch(FileRequest(KEY), scene.scratch)).form is Form.PLAIN

    async def test_a_file_that_has_gone_is_no_error_of_the_bucket(self, s3_scene: Scene, tmp_path: Path) -> None:
        for _ in range(3):
            with pytest.raises(FileNotFoundError):
                await s3_scene.store.upload(KEY, tmp_path / "none")
        assert (await s3_scene.store.fetch(FileRequest(KEY), s3_scene.scratch)).is_absent

    @pytest.mark.parametrize("letter_case", ["given", "lower"])
    async def test_names_are_spelt_as_the_bucket_has_them(
        self,
        letter_case: str,
        s3_bucket: Bucket,
        opened: Callable[..., objects.Bucket],
        tmp_path: Path,
    ) -> None:
        key = PdbKey("Größe.PDB", KEY.guid, 10)
        ours = opened(s3_bucket, letter_case=letter_case)
        index = f"Größe.PDB/{KEY.guid.hex.upper()}a/Größe.PDB"
        assert object_name(ours, key) == (index if letter_case == "given" else index.lower())
        packed = object_name(ours, key, Form.COMPRESSED)
        assert packed == (f"{index[:-1]}_" if letter_case == "given" else f"{index[:-1]}_".lower())
        store = BucketStore(ours, lambda _: None)
        file = tmp_path / "file"
        file.write_bytes(PDB)
        assert await store.upload(key, file)
        assert [each["path"] for each in obstore.list(s3_bucket.open()).collect() if each["size"]] == [
            object_name(ours, key)
        ]
        assert (await store.fetch(FileRequest(key), tmp_path / "scratch")).form is Form.PLAIN

    def test_a_bucket_that_is_read_alone_takes_none(
        self, s3_bucket: Bucket, opened: Callable[..., objects.Bucket]
    ) -> None:
        assert not BucketStore(opened(s3_bucket, read_only=True), lambda _: None).takes_uploads
        assert BucketStore(opened(s3_bucket, region="us-east-1"), lambda _: None).takes_uploads
        assert BucketStore(opened(s3_bucket), lambda _: None).takes_uploads


async def test_a_size_that_lies_is_followed_to_no_end(
    s3_bucket: Bucket, opened: Callable[..., objects.Bucket], upstream: Upstream, tmp_path: Path, no_retries: None
) -> None:
    """A server that has bytes without end is stopped by the bound on files."""
    upstream.always("*", endless(MIB))
    store = BucketStore(opened(s3_bucket, upstream.url), lambda _: None)
    found = await store.fetch(FileRequest(KEY), tmp_path / "scratch")
    assert isinstance(found.error, WrongContent)
    assert len(upstream.requests) == 1


def endless(size_bytes: int) -> Answer:
    """Answer with the first *size_bytes* of an object that is said to have 4 EiB."""
    fields = [("ETag", '"x"'), ("Last-Modified", "Mon, 30 Nov 2026 07:00:00 GMT")]
    return status(206, bytes(size_bytes), headers=[*fields, ("Content-Range", f"bytes 0-{size_bytes - 1}/{1 << 62}")])


def test_a_size_that_lies_is_looked_into_to_no_end(
    s3_bucket: Bucket, opened: Callable[..., objects.Bucket], upstream: Upstream, tmp_path: Path, no_retries: None
) -> None:
    upstream.always("*", endless(64 << 10))
    bucket = opened(s3_bucket, upstream.url)
    info = objects.ObjectInfo(KEY.index, len(PDB), 0.0, None)  # as it was when it was found
    stored = StoredObject(tmp_path, Form.PLAIN, len(PDB), bucket, info)
    assert "network.largest_file_bytes" in (stored.check(KEY).problem or "")
    with pytest.raises(WrongContent, match=r"network\.largest_file_bytes"):
        stored.copy_to(tmp_path / "scratch")
    assert len(upstream.requests) == 2
