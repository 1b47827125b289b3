"""What a load balancer asks, how a replica leaves, and what several of them tell of each other."""

from __future__ import annotations

import json
import signal
import sys
import threading
from itertools import count
from typing import TYPE_CHECKING, Any

import anyio
import pytest
from anyio import to_thread
from support.redis import Redis, be_patient
from support.serving import fetch, serving, serving_process, wait_for

from symcache.server import hash_token, metrics, ready
from symcache.server.metrics import Metrics, Replicas, Sharing
from symcache.server.ready import ReadyCheck
from symcache.stores.local.tree import Store

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.serving import Published, Served
    from support.upstream import Upstream

SECRET = "correct-horse-battery"


def readiness(served: Served) -> tuple[int, dict[str, Any]]:
    answer = fetch(served.port, "readyz")
    assert answer.fields["content-type"] == "application/json"
    assert answer.fields["cache-control"] == "no-store"
    told: dict[str, Any] = json.loads(answer.body)
    return answer.status, told


def status(served: Served) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(fetch(served.port, "-/status?brief").body)
    return told


def test_a_server_that_can_answer_is_ready(tmp_path: Path) -> None:
    with serving(tmp_path, tokens=(hash_token("x"),)) as served:  # a load balancer has none
        told = {"ready": True, "store": "readable", "cluster": "none", "stopping": False}
        assert readiness(served) == (200, told)
        assert fetch(served.port, "readyz", method="HEAD").status == 200
    with serving(tmp_path, str(tmp_path)) as served:
        assert readiness(served) == (200, {**told, "store": "none"})


@pytest.mark.skipif(sys.platform == "win32", reason="a folder in use cannot be moved there")
def test_a_server_whose_store_cannot_be_read_is_not_ready(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        names = count()

        def stand_in_its_place() -> bool:
            # The server makes the folder again whenever it writes its counts.
            if served.store.is_dir():
                served.store.rename(tmp_path / f"aside{next(names)}")
            try:
                served.store.write_bytes(b"no folder")
            except OSError:
                return False
            return True

        wait_for(stand_in_its_place)
        assert readiness(served) == (
            503, {"ready": False, "store": "unreadable", "cluster": "none", "stopping": False},
        )  # fmt: skip
        served.store.unlink()
        assert readiness(served)[0] == 200


async def test_a_store_that_hangs_is_looked_at_by_one_thread(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ready, "_PATIENCE_S", 0.5)
    looks, answer = [], threading.Event()
    look = ReadyCheck._read

    def hang(self: ReadyCheck, store: Store) -> bool:
        looks.append(1)
        self._is_looking = True
        answer.wait()
        return look(self, store)

    monkeypatch.setattr(ReadyCheck, "_read", hang)
    check = ReadyCheck(Store(tmp_path), Replicas(None, Sharing(None, "a")))
    try:
        for _ in range(3):
            assert (await check.tell(is_stopping=False))["store"] == "unreadable"
        assert len(looks) == 1
    finally:
        answer.set()
    await to_thread.run_sync(wait_for, lambda: not check._is_looking)
    monkeypatch.setattr(ready, "_PATIENCE_S", 20)
    assert (await check.tell(is_stopping=False))["store"] == "readable"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to be had there")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_that_is_told_to_stop_answers_until_others_know(
    workers: int, tmp_path: Path, upstream: Upstream, small: Published
) -> None:
    upstream.files[small.index] = small.content
    options = ["--workers", str(workers)]
    with serving_process(tmp_path, upstream.url, *options, config="[serve]\ndrain_s = 3600\n") as served:
        assert served.process is not None
        assert readiness(served)[0] == 200
        served.process.send_signal(signal.SIGTERM)
        wait_for(lambda: all(readiness(served)[0] == 503 for _ in range(8)))
        assert readiness(served)[1]["stopping"] is True
        assert fetch(served.port, "healthz").status == 200
        assert fetch(served.port, small.index).body == small.content
        assert served.process.poll() is None
        # It is told once more when this block ends, and then stops at once.


@pytest.mark.skipif(sys.platform == "win32", reason="there is no SIGTERM to be had there")
@pytest.mark.parametrize("workers", [1, 2])
def test_a_server_stops_when_its_time_is_over(workers: int, tmp_path: Path, upstream: Upstream) -> None:
    options = ["--workers", str(workers)]
    with serving_process(tmp_path, upstream.url, *options, config="[serve]\ndrain_s = 0.5\n") as served:
        assert served.process is not None
        served.process.send_signal(signal.SIGTERM)
        assert served.process.wait(60) == 0


@pytest.fixture
def redis(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Redis]:
    be_patient(monkeypatch)
    monkeypatch.setattr(metrics, "_SHARE_REPLICAS_EVERY_S", 0.05)
    (tmp_path / "redis").mkdir()
    with Redis(tmp_path / "redis", password=SECRET) as server:
        yield server


def has_all(answers: dict[str, int]) -> bool:
    return (answers.get("cold"), answers.get("hit")) == (2, 1)


def test_replicas_tell_what_all_of_them_did(tmp_path: Path, redis: Redis, upstream: Upstream, small: Published) -> None:
    upstream.files[small.index] = small.content
    shared = {"upstream": upstream.url, "cluster__url": redis.url, "cluster__password": SECRET}
    with serving(tmp_path / "a", **shared) as first:
        with serving(tmp_path / "b", **shared) as second:
            wait_for(lambda: status(first)["replicas"] == status(second)["replicas"] == 2)
            for served in (first, second, second):
                assert fetch(served.port, small.index).body == small.content
            for served in (first, second):
                wait_for(lambda: has_all(status(served)["answers"]))  # noqa: B023 - it is called here
                told = status(served)
                assert told["workers"] == 2
                assert told["sent_bytes"] >= 3 * len(small.content)
                own = fetch(served.port, "metrics").body.decode()
                assert 'symcache_requests_total{answer="cold"} 1\n' in own
                assert "symcache_cluster_up 1\n" in own
                assert "symcache_replicas 2\n" in own
                assert "symcache_workers 1\n" in own
                assert readiness(served) == (
                    200, {"ready": True, "store": "readable", "cluster": "up", "stopping": False},
                )  # fmt: skip
            redis.kill()
            wait_for(lambda: status(first)["replicas"] == 1)
            assert readiness(first)[1] == {"ready": True, "store": "readable", "cluster": "away", "stopping": False}
            own = fetch(first.port, "metrics").body.decode()
            assert "symcache_cluster_up 0\n" in own
            assert "symcache_replicas 1\n" in own
            assert SECRET not in own + json.dumps(status(first))
        redis.start()
        wait_for(lambda: readiness(first)[1]["cluster"] == "up")


def test_without_a_cluster_nothing_is_told_of_it(tmp_path: Path) -> None:
    with serving(tmp_path) as served:
        assert status(served)["replicas"] == 1
        assert b"symcache_cluster_up" not in fetch(served.port, "metrics").body


_COUNTED = Metrics().as_json([])
_PLANTED = {
    "nothing": "null",
    "no counts": "[1, 2]",
    "too deep": "[" * 100_000,
    "a label": json.dumps({**_COUNTED, "answers": {'hit"} 1\nevil{x="': 1}}),
    "a text": json.dumps({**_COUNTED, "workers": "many"}),
    "more than any number": json.dumps({**_COUNTED, "sent_bytes": 1 << 80}),
    "others' downloads": json.dumps({**_COUNTED, "downloads": [{"index": "evil"}]}),
}


@pytest.mark.parametrize("planted", _PLANTED.values(), ids=_PLANTED)
def test_counts_that_another_program_writes_do_no_harm(planted: str, tmp_path: Path, redis: Redis) -> None:
    redis.say("SET", "symcache:count:evil", planted)
    redis.say("SADD", "symcache:replicas", "evil")
    with serving(tmp_path / "a", cluster__url=redis.url, cluster__password=SECRET) as served:
        wait_for(lambda: redis.calls("srandmember") > 2)
        assert readiness(served)[1]["cluster"] == "up"
        assert status(served)["replicas"] == 1
        assert b"evil" not in fetch(served.port, "-/status").body + fetch(served.port, "metrics").body


async def test_workers_that_share_no_folder_are_one_replica(redis: Redis) -> None:
    from symcache.config import ClusterSettings  # noqa: PLC0415
    from symcache.stores.cluster import Cluster  # noqa: PLC0415

    cluster = Cluster(ClusterSettings(url=redis.url, password=SECRET))
    try:
        workers = [Replicas(cluster, Sharing(None, "run")) for _ in range(2)]
        other = Replicas(cluster, Sharing(None, "other"))
        async with anyio.create_task_group() as group:
            for each in (*workers, other):
                group.start_soon(each.share, Metrics())
        for each in (*workers, other):
            await each.share(Metrics())
            assert each.count == 2
            assert len(each.others) == 2
    finally:
        cluster.close()
