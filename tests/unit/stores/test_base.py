"""Another kind of store is one class: a bucket of objects, here in memory, goes into a chain as other stores do."""

from __future__ import annotations

import errno
import os
import time
from typing import TYPE_CHECKING
from uuid import UUID

import pytest
from anyio import to_thread
from support.sources import CAB, IMAGE, IMAGE_KEY, KEY, PATH, PDB, scratch_files, visible
from support.synth.pdb import NativePdbSpec, make_pdb

from symcache.errors import UpstreamUnavailable
from symcache.identity import compressed_name, relative_parts
from symcache.stores.base import FileRequest, Form, LookUp, Probed
from symcache.stores.chain import Chain, ChainSettings
from symcache.stores.concurrency import Batches
from symcache.stores.local.tree import Store
from symcache.stores.negative import Misses, NegativeCache
from symcache.stores.results import Attempt, Cause, Failed, Fetched, Missing, Present, sum_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from pathlib import Path

    from symcache.identity import ImageKey, Key
    from symcache.stores.base import SymbolStore

PACKED = f"{PATH.rpartition('/')[0]}/{compressed_name(KEY.name)}"


class Bucket:
    """A store of objects by name."""

    name = "bucket://symbols"
    local = None
    is_on_disk = False
    is_server = False
    takes_uploads = False

    def __init__(self, objects: dict[str, bytes]) -> None:
        self.objects = objects
        self.asked: list[str] = []
        self.is_down = False

    def find(self, key: Key) -> None:
        """Return None: nothing of the bucket is on disk."""

    def holding(self, keys: Iterable[Key]) -> Iterator[Key]:
        del keys
        return iter(())

    async def fetch(self, request: FileRequest, scratch: Path) -> LookUp:
        if self.is_down:
            return LookUp((Attempt(self.name, "down"),), error=UpstreamUnavailable("down", url=self.name))
        form, path, attempts = self._look_up(request.key)
        if form is not None:
            await to_thread.run_sync(scratch.write_bytes, self.objects[path])
        return LookUp(attempts, form, is_asked=True)

    async def read_headers(self, key: ImageKey) -> LookUp:
        return LookUp(instead=FileRequest(key, in_passing=True))

    async def probe(self, key: Key) -> Probed:
        form, _, attempts = self._look_up(key)
        return Probed(form, attempts[-1].answer)

    def remember_absent(self, request: FileRequest, answer: str) -> None:
        """Do nothing: a bucket remembers nothing by itself."""

    def forget_absent(self, key: Key) -> None:
        """Do nothing."""

    def _look_up(self, key: Key) -> tuple[Form | None, str, tuple[Attempt, ...]]:
        folder = "/".join(relative_parts(key))
        for name, form in ((key.name, Form.PLAIN), (compressed_name(key.name), Form.COMPRESSED)):
            path = f"{folder}/{name}"
            self.asked.append(path)
            if path in self.objects:
                return form, path, (Attempt(self.name, "found"),)
        return None, "", (Attempt(self.name, "no such object"),)


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Store]:
    with Store(tmp_path / "store") as store:
        yield store


def partial_files(store: Store) -> list[str]:
    return [name for name in scratch_files(store.root) if name.endswith(".part")]


def chain_of(*stores: SymbolStore, inline: bool = False, durable: bool = False) -> Chain:
    settings = ChainSettings(
        observer=lambda _event: None,
        largest_bytes=1 << 30,
        durable=durable,
        follow=lambda _target: None,
    )
    searching = Batches(threads=1, inline=inline)
    return Chain(stores, settings, searching=searching, publishing=Batches(threads=1))


@pytest.mark.parametrize("objects", [{PATH: PDB}, {PACKED: CAB}], ids=["plain", "compressed"])
async def test_a_file_of_the_bucket_is_copied_down(objects: dict[str, bytes], local: Store) -> None:
    chain = chain_of(local, Bucket(objects))
    outcome = (await chain.fetch(KEY)).file
    assert isinstance(outcome, Fetched)
    assert (outcome.upstream, outcome.path.read_bytes()) == ("bucket://symbols", PDB)
    assert (await chain.fetch(KEY)).file == Present(outcome.path, len(PDB))
    assert visible(local.root) == [PATH]


async def test_what_the_bucket_lacks_is_remembered_by_the_negative_cache(local: Store, tmp_path: Path) -> None:
    bucket = Bucket({})
    now_s = time.time()
    with Misses(tmp_path / "misses", ttl_s=60, clock_s=lambda: now_s) as misses:
        chain = chain_of(local, NegativeCache(bucket, misses))
        for cause in (Cause.NOT_PUBLISHED, Cause.REMEMBERED_MISS):
            end = sum_up((await chain.fetch(KEY)).answers)
            assert isinstance(end, Missing)
            assert end.cause is cause
        assert bucket.asked == [PATH, PACKED]
        now_s += 61
        bucket.objects[PATH] = PDB
        assert isinstance((await chain.fetch(KEY)).file, Fetched)
        assert list(misses.list()) == []


async def test_a_bucket_that_fails_leaves_the_question_open(local: Store) -> None:
    bucket = Bucket({PATH: PDB})
    bucket.is_down = True
    answers = (await chain_of(local, bucket).fetch(KEY)).answers
    assert sum_up(answers) == Failed(Cause.UNAVAILABLE, (Attempt(bucket.name, "down"),), f"{bucket.name}: down")


async def test_an_image_s_headers_are_read_from_the_whole_file(local: Store) -> None:
    searched = await chain_of(local, Bucket({IMAGE_KEY.index: IMAGE})).read_image(IMAGE_KEY)
    image = searched.image
    assert image is not None
    assert (image.timestamp, image.size_of_image) == (IMAGE_KEY.timestamp, IMAGE_KEY.size_of_image)
    assert visible(local.root) == []


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("objects", [{PATH: PDB}, {PACKED: CAB}, {PATH: CAB}], ids=["plain", "compressed", "misnamed"])
async def test_a_chain_that_looks_inline_publishes_the_same(
    objects: dict[str, bytes], durable: bool, local: Store
) -> None:
    chain = chain_of(local, Bucket(objects), inline=True, durable=durable)
    outcome = (await chain.fetch(KEY)).file
    assert isinstance(outcome, Fetched)
    assert (outcome.size_bytes, outcome.path.read_bytes()) == (len(PDB), PDB)
    assert visible(local.root) == [PATH]
    assert partial_files(local) == []


@pytest.mark.parametrize("inline", [True, False])
async def test_a_wrong_file_is_published_in_no_case(inline: bool, local: Store) -> None:
    wrong = make_pdb(NativePdbSpec(UUID(int=1)))
    answers = (await chain_of(local, Bucket({PATH: wrong}), inline=inline).fetch(KEY)).answers
    end = sum_up(answers)
    assert isinstance(end, Failed)
    assert end.cause is Cause.WRONG_CONTENT
    assert visible(local.root) == partial_files(local) == []


@pytest.mark.parametrize("step", ["os.fsync", "os.replace"])
@pytest.mark.parametrize("inline", [True, False])
async def test_a_disk_that_refuses_a_step_fails_the_key(
    inline: bool, step: str, local: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    chain = chain_of(local, Bucket({PATH: PDB}), inline=inline, durable=True)
    local.scratch()

    def refuse(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(step, refuse)
        end = sum_up((await chain.fetch(KEY)).answers)
    assert isinstance(end, Failed)
    assert end.cause is Cause.DISK
    assert visible(local.root) == []
    assert partial_files(local) == []
    assert isinstance((await chain.fetch(KEY)).file, Fetched)
