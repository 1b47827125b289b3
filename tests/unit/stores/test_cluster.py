"""What replicas share through Redis: a real server, ended and started again, and some that only pretend to be one."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import anyio
import anyio.lowlevel
import pytest
from anyio import to_thread
from hypothesis import given
from hypothesis import strategies as st
from support.redis import Redis, be_patient, free_port
from support.serving import wait_for

from symcache.config import ClusterSettings
from symcache.errors import ConfigError
from symcache.events import Noted
from symcache.identity import ImageKey, parse_index
from symcache.stores import cluster as cluster_module
from symcache.stores.cluster import Cluster
from symcache.stores.links import Link
from symcache.stores.negative import Miss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import Self

    from support.authority import Authority

    from symcache.events import Event
    from symcache.identity import Key

ROOT = Path(__file__).parents[3]
PDB = parse_index("ntkrnlmp.pdb/2DCFE7E3D09648B94C4C44205044422E1/ntkrnlmp.pdb")
IMAGE = ImageKey("ntoskrnl.exe", 0x499602D2, 0x1047000)
MICROSOFT = "https://msdl.microsoft.com/download/symbols"
SECRET = "correct-horse-battery"


class Clock:
    """Monotonic seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class Notes:
    """An observer that keeps what it is told."""

    def __init__(self) -> None:
        self.texts: list[str] = []

    def __call__(self, event: Event) -> None:
        assert isinstance(event, Noted)
        self.texts.append(event.text)


@contextmanager
def cluster_of(url: str, **settings: Any) -> Iterator[Cluster]:
    seams = {name: settings.pop(name) for name in ("observer", "clock_s") if name in settings}
    cluster = Cluster(ClusterSettings(url=url, **settings), **seams)
    try:
        yield cluster
    finally:
        cluster.close()
        wait_for(lambda: cluster._renewing is None)


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    be_patient(monkeypatch)


@pytest.fixture
def redis(tmp_path: Path, patient: None) -> Iterator[Redis]:
    with Redis(tmp_path) as server:
        yield server


@pytest.fixture
def cluster(redis: Redis) -> Iterator[Cluster]:
    with cluster_of(redis.url) as opened:
        yield opened


def miss(key: Key = PDB, upstream: str = MICROSOFT, **fields: Any) -> Miss:
    known = {"first_asked_s": 1e9, "last_asked_s": 1.5e9, "times": 3, "answer": "404"}
    return Miss(index=key.index, upstream=upstream, **{**known, **fields})


async def test_a_lease_excludes_others_until_it_is_released(redis: Redis, cluster: Cluster) -> None:
    mine = await cluster.acquire("a", longest_s=20)
    assert (mine.is_held, mine.had_to_wait) == (True, False)
    with cluster_of(redis.url) as other:
        theirs: list[cluster_module.Lease] = []

        async def wait() -> None:
            theirs.append(await other.acquire("a", longest_s=20))

        async with anyio.create_task_group() as group:
            group.start_soon(wait)
            await to_thread.run_sync(
                wait_for, lambda: redis.calls("set") >= 5
            )  # two tries of servers, two of this lease
            beside = await other.acquire("b", longest_s=20)
            assert beside.is_held
            assert not theirs
            await mine.release()
        assert (theirs[0].is_held, theirs[0].had_to_wait) == (True, True)
        await mine.release()
        assert theirs[0].is_held
        assert (await cluster.acquire("a", longest_s=0)).is_held is False


async def test_who_comes_after_a_release_is_told_to_look_again(redis: Redis, cluster: Cluster) -> None:
    first = await cluster.acquire("a", longest_s=0)
    await first.release()
    with cluster_of(redis.url) as other:
        lease = await other.acquire("a", longest_s=0)
        assert (lease.is_held, lease.had_to_wait) == (True, True)
    assert 0 < int(redis.say("TTL", "symcache:over:a")[1:]) <= 60


async def test_who_waits_too_long_goes_on_alone(redis: Redis, cluster: Cluster) -> None:
    mine = await cluster.acquire("a", longest_s=20)
    with cluster_of(redis.url) as other:
        lease = await other.acquire("a", longest_s=0.05)
        assert (lease.is_held, lease.had_to_wait) == (False, True)
        await lease.release()
    assert mine.is_held
    assert redis.say("GET", "symcache:lease:a") == mine.token


async def test_only_one_of_many_has_a_lease(redis: Redis) -> None:
    inside = most = total = 0
    with ExitStack() as stack:
        clusters = [stack.enter_context(cluster_of(redis.url)) for _ in range(4)]

        async def work(cluster: Cluster) -> None:
            nonlocal inside, most, total
            for _ in range(5):
                lease = await cluster.acquire("a", longest_s=60)
                assert lease.is_held
                inside += 1
                most = max(most, inside)
                await anyio.sleep(0.001)
                inside -= 1
                total += 1
                await lease.release()

        async with anyio.create_task_group() as group:
            for cluster in clusters * 2:
                group.start_soon(work, cluster)
    assert (most, total) == (1, 40)


_WORKER = """
import sys
import anyio
from symcache.config import ClusterSettings
from symcache.stores import cluster, rediswire
from symcache.stores.cluster import Cluster

rediswire._CONNECT_S = rediswire._ANSWER_S = rediswire.LONGEST_S = cluster._LONGEST_EXCHANGE_S = 20

async def main():
    cluster = Cluster(ClusterSettings(url=sys.argv[1], lease_s=float(sys.argv[2])))
    lease = await cluster.acquire("a", longest_s=60)
    assert lease.is_held
    print("held", flush=True)
    if sys.argv[3] == "keep":
        await anyio.sleep_forever()
    path = anyio.Path(sys.argv[3])
    await (path / "inside").mkdir()  # fails if somebody else is
    await anyio.sleep(0.01)
    await (path / "inside").rmdir()
    await lease.release()
    cluster.close()

anyio.run(main)
"""


def start_worker(redis: Redis, lease_s: float, what: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", _WORKER, redis.url, str(lease_s), what]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=ROOT)


def test_only_one_of_several_processes_has_a_lease(redis: Redis, tmp_path: Path) -> None:
    processes = [start_worker(redis, 10, str(tmp_path)) for _ in range(4)]
    assert [process.communicate(timeout=60)[0] for process in processes] == ["held\n"] * 4
    assert [process.returncode for process in processes] == [0] * 4


async def test_a_holder_that_is_killed_is_replaced(redis: Redis) -> None:
    process = await to_thread.run_sync(start_worker, redis, 2, "keep")
    assert process.stdout is not None
    try:
        assert await to_thread.run_sync(process.stdout.readline) == "held\n"
        with cluster_of(redis.url) as other:
            assert not (await other.acquire("a", longest_s=0)).is_held
            os.kill(process.pid, signal.SIGKILL)
            with anyio.fail_after(20):
                lease = await other.acquire("a", longest_s=3600)
            assert (lease.is_held, lease.had_to_wait) == (True, True)
    finally:
        process.kill()
        process.communicate()


async def test_a_lease_outlives_its_time_while_the_event_loop_is_blocked(redis: Redis) -> None:
    with cluster_of(redis.url, lease_s=2) as cluster:
        lease = await cluster.acquire("a", longest_s=0)
        renewed = 0
        left_ms = int(redis.say("PTTL", "symcache:lease:a")[1:])
        while renewed < 4:  # each brings a third of its time; nothing runs on the loop meanwhile
            now_ms = int(redis.say("PTTL", "symcache:lease:a")[1:])
            assert now_ms > 0
            renewed += now_ms > left_ms
            left_ms = now_ms
        assert lease.is_held
        assert redis.say("GET", "symcache:lease:a") == lease.token


async def test_the_thread_that_renews_ends_with_the_last_lease(redis: Redis) -> None:
    with cluster_of(redis.url, lease_s=1) as cluster:
        for _ in range(2):
            lease = await cluster.acquire("a", longest_s=0)
            assert cluster._renewing is not None
            await lease.release()
            await to_thread.run_sync(wait_for, lambda: cluster._renewing is None)


async def test_a_lease_that_a_restart_forgot_is_taken_again(redis: Redis) -> None:
    with cluster_of(redis.url, lease_s=1) as cluster:
        lease = await cluster.acquire("a", longest_s=0)
        redis.restart()
        await to_thread.run_sync(wait_for, lambda: redis.say("GET", "symcache:lease:a") == lease.token)
        assert lease.is_held
        await lease.release()
        assert redis.say("GET", "symcache:lease:a") == "$-1"


async def test_a_lease_that_another_took_meanwhile_is_theirs(redis: Redis) -> None:
    with cluster_of(redis.url, lease_s=1) as cluster:
        lease = await cluster.acquire("a", longest_s=0)
        redis.say("SET", "symcache:lease:a", "theirs")
        await to_thread.run_sync(wait_for, lambda: not lease.is_held)
        await lease.release()
        assert redis.say("GET", "symcache:lease:a") == "theirs"


async def test_closing_releases_what_is_held(redis: Redis) -> None:
    with cluster_of(redis.url) as cluster:
        lease = await cluster.acquire("a", longest_s=0)
        assert lease.is_held
    assert redis.say("GET", "symcache:lease:a") == "$-1"
    await lease.release()
    assert not (await cluster.acquire("a", longest_s=20)).is_held
    cluster.close()


async def test_a_lease_that_nobody_waits_for_any_more_is_released(redis: Redis, cluster: Cluster) -> None:
    mine = await cluster.acquire("a", longest_s=0)
    with cluster_of(redis.url) as other:
        async with anyio.create_task_group() as group:
            group.start_soon(lambda: other.acquire("a", longest_s=60))
            await anyio.lowlevel.checkpoint()
            group.cancel_scope.cancel()
        await mine.release()
        assert redis.say("GET", "symcache:lease:a") == "$-1"


async def test_misses_come_back_as_they_were_shared(redis: Redis, cluster: Cluster) -> None:
    with_dash = "https://symbols.example.com/a|b"
    shared = [miss(), miss(upstream=with_dash, answer="MSG: gone", in_passing=True)]
    await cluster.share_misses(shared, ttl_s=60)
    with cluster_of(redis.url) as other:
        assert await other.recall_misses(PDB, [MICROSOFT, "https://other.example.com", with_dash]) == shared
        assert await other.recall_misses(IMAGE, [MICROSOFT]) == []
        await other.forget_misses(PDB, [MICROSOFT, "https://other.example.com"])
    assert await cluster.recall_misses(PDB, [MICROSOFT, with_dash]) == shared[1:]
    assert await cluster.recall_misses(PDB, []) == []


async def test_a_miss_lives_as_long_as_it_is_told(redis: Redis, cluster: Cluster) -> None:
    await cluster.share_misses([miss()], ttl_s=60)
    assert 0 < int(redis.say("PTTL", f"symcache:miss:{PDB.folded}|{MICROSOFT}")[1:]) <= 60_000
    await cluster.share_misses([miss(IMAGE)], ttl_s=0)
    assert await cluster.recall_misses(IMAGE, [MICROSOFT]) == []


async def test_what_a_file_was_wanted_for_is_not_shared(redis: Redis, cluster: Cluster) -> None:
    from symcache.stores.negative import Wanted  # noqa: PLC0415

    await cluster.share_misses([miss(wanted=Wanted(module="secret.sys", inputs=("my.dmp",)))], ttl_s=60)
    assert await cluster.recall_misses(PDB, [MICROSOFT]) == [miss()]
    assert "my.dmp" not in redis.say("GET", f"symcache:miss:{PDB.folded}|{MICROSOFT}")


@pytest.mark.parametrize("links", [(), (Link(PDB),), (Link(PDB, True, ("SHA256:ab",)), Link(PDB))])  # type: ignore[arg-type]
async def test_links_come_back_as_they_were_shared(links: tuple[Link, ...], cluster: Cluster, redis: Redis) -> None:
    assert await cluster.recall_links(IMAGE) is None
    await cluster.share_links(IMAGE, links)
    assert await cluster.recall_links(IMAGE) == links
    assert 89 * 86400 < int(redis.say("TTL", f"symcache:link:{IMAGE.folded}")[1:]) <= 90 * 86400


async def test_counts_are_told_apart_by_replica(redis: Redis, cluster: Cluster) -> None:
    await cluster.write_counts("a", {"requests": 1})
    await cluster.write_counts("b", {"requests": 2})
    await cluster.write_counts("a", {"requests": 3})
    with cluster_of(redis.url) as other:
        assert await other.read_counts() == {"a": {"requests": 3}, "b": {"requests": 2}}
        assert 0 < int(redis.say("TTL", "symcache:count:a")[1:]) <= 15
        redis.say("DEL", "symcache:count:a")  # as its end would
        assert await other.read_counts() == {"b": {"requests": 2}}
        assert redis.say("SCARD", "symcache:replicas") == ":1"


async def test_prefixes_keep_clusters_apart(redis: Redis, cluster: Cluster) -> None:
    with cluster_of(redis.url, prefix="other:") as other:
        assert (await cluster.acquire("a", longest_s=0)).is_held
        assert (await other.acquire("a", longest_s=0)).is_held
        await cluster.share_links(IMAGE, ())
        assert await other.recall_links(IMAGE) is None


# --- Ways of being away


class Pretender:
    """A server on loopback that counts its connections and does with each what a test says."""

    def __init__(self, act: Callable[[socket.socket], None]) -> None:
        self.connections = 0
        self._act = act
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._open: list[socket.socket] = []
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        for each in self._open:
            each.close()
        self._thread.join()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def _run(self) -> None:
        threads = []
        while True:
            try:
                accepted, _ = self._listening.accept()
            except OSError:
                break
            self.connections += 1
            self._open.append(accepted)
            threads.append(threading.Thread(target=self._answer, args=(accepted,)))
            threads[-1].start()
        for thread in threads:
            thread.join()

    def _answer(self, accepted: socket.socket) -> None:
        try:
            self._act(accepted)
        except OSError:
            pass
        finally:
            accepted.close()


def always(answer: bytes) -> Callable[[socket.socket], None]:
    def act(accepted: socket.socket) -> None:
        while accepted.recv(1 << 16):
            accepted.sendall(answer)

    return act


def never(accepted: socket.socket) -> None:
    while accepted.recv(1 << 16):
        pass


def without_end(accepted: socket.socket) -> None:
    accepted.recv(1 << 16)
    accepted.sendall(b"$1000000000\r\n")
    while True:
        accepted.sendall(bytes(1 << 16))


def closes(accepted: socket.socket) -> None:
    accepted.recv(1 << 16)


def in_drops(accepted: socket.socket) -> None:
    accepted.recv(1 << 16)
    while True:
        accepted.sendall(b"+")
        threading.Event().wait(0.05)


_WAYS: dict[str, tuple[Callable[[socket.socket], None], str]] = {
    "closes": (closes, "the connection was lost"),
    "never answers": (never, "no answer in time"),
    "answers in drops": (in_drops, "no answer in time"),
    "answers without an end": (without_end, "none of a Redis server's"),
    "loading": (always(b"-LOADING Redis is loading the dataset in memory\r\n" * 3), "still loading"),
    "read only": (always(b"-READONLY You can't write against a read only replica.\r\n" * 3), "cannot be written"),
    "out of memory": (always(b"-OOM command not allowed when used memory > 'maxmemory'.\r\n" * 3), "no memory left"),
    "not allowed": (always(b"-NOPERM this user has no permissions to run this command\r\n" * 3), "may not do"),
    "wants a password": (always(b"-NOAUTH Authentication required.\r\n" * 3), "user and password"),
    "a web server": (always(b"HTTP/1.1 400 Bad Request\r\n\r\n"), "none of a Redis server's"),
    "zeros": (always(bytes(100) + b"\r\n"), "none of a Redis server's"),
    "nested": (always(b"*1\r\n" * 50_000), "none of a Redis server's"),
    "a length of its own": (always(b"*-7\r\n*x\r\n$-9\r\n"), "cluster redis://"),
    "echoes the password": (always(f"-ERR unknown command, with args {SECRET}\r\n".encode() * 3), "cluster redis://"),
}


async def use_all(cluster: Cluster) -> None:
    """Call everything; it comes back with nothing, whatever the server does."""
    lease = await cluster.acquire("a", longest_s=3600)
    assert not lease.is_held
    assert await cluster.recall_misses(PDB, [MICROSOFT]) == []
    await cluster.share_misses([miss()], ttl_s=60)
    await cluster.forget_misses(PDB, [MICROSOFT])
    assert await cluster.recall_links(IMAGE) is None
    await cluster.share_links(IMAGE, ())
    await cluster.write_counts("a", {})
    assert await cluster.read_counts() == {}
    await lease.release()
    assert not cluster.is_up


@pytest.mark.parametrize(("act", "said"), _WAYS.values(), ids=_WAYS)
async def test_a_server_that_is_no_use_is_tried_once_in_two_seconds(
    act: Callable[[socket.socket], None], said: str
) -> None:
    pytest.importorskip("redis", reason="redis-py is not installed")
    clock, notes = Clock(), Notes()
    with (
        Pretender(act) as server,
        cluster_of(server.url, observer=notes, clock_s=clock, password=SECRET) as cluster,
    ):
        for tries in (1, 2):
            with anyio.fail_after(20):
                await use_all(cluster)
            assert server.connections == tries
            clock.now_s += 2.5
    (text,) = notes.texts
    assert said in text
    assert "goes on alone" in text
    assert SECRET not in text
    assert cluster.name in text


async def test_a_server_that_is_not_there_is_gone_on_without(redis: Redis) -> None:
    clock, notes = Clock(), Notes()
    with cluster_of(redis.url, observer=notes, clock_s=clock) as cluster:
        redis.stop()
        await use_all(cluster)
        assert notes.texts == [
            f"cluster {redis.url}: connection refused; this process goes on alone until that is over"
        ]
        redis.start()
        assert not (await cluster.acquire("a", longest_s=0)).is_held  # left alone
        clock.now_s += 2.5
        lease = await cluster.acquire("a", longest_s=0)
        assert lease.is_held
        assert cluster.is_up
        assert notes.texts[1:] == [f"cluster {redis.url}: it is back"]
        await lease.release()


async def test_a_restart_between_two_exchanges_is_not_noticed(redis: Redis) -> None:
    notes = Notes()
    with cluster_of(redis.url, observer=notes) as cluster:
        await cluster.share_links(IMAGE, ())
        redis.restart()
        assert await cluster.recall_links(IMAGE) is None
        assert cluster.is_up
    assert notes.texts == []


async def test_who_waits_for_a_lease_goes_on_when_the_server_dies(redis: Redis, cluster: Cluster) -> None:
    await cluster.acquire("a", longest_s=0)
    with cluster_of(redis.url) as other:
        lease = None

        async def wait() -> None:
            nonlocal lease
            lease = await other.acquire("a", longest_s=3600)

        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                group.start_soon(wait)
                await to_thread.run_sync(wait_for, lambda: other.is_up)
                redis.kill()
        assert lease is not None
        assert not lease.is_held


async def test_a_hundred_at_once_try_a_dead_server_once() -> None:
    pytest.importorskip("redis", reason="redis-py is not installed")
    notes = Notes()
    with Pretender(never) as server, cluster_of(server.url, observer=notes, clock_s=Clock()) as cluster:
        async with anyio.create_task_group() as group:
            for _ in range(100):
                group.start_soon(cluster.recall_links, IMAGE)
        assert server.connections == 1
    assert len(notes.texts) == 1


async def test_it_is_no_fault_of_the_server_that_many_ask_at_once(
    redis: Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    notes = Notes()
    with cluster_of(redis.url, observer=notes) as cluster:
        await cluster.share_links(IMAGE, ())
        for _ in range(cluster_module._THREADS):
            await cluster._limiter.acquire_on_behalf_of(object())
        monkeypatch.setattr(cluster_module, "_LONGEST_EXCHANGE_S", 0.01)
        assert await cluster.recall_links(IMAGE) is None
        assert cluster.is_up
    assert notes.texts == []


async def test_a_name_whose_look_up_hangs_holds_nobody_up(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("redis", reason="redis-py is not installed")
    asked, answer = [], threading.Event()

    def look_up(*_: object) -> None:
        asked.append(1)
        answer.wait()
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr("redis.connection.socket.getaddrinfo", look_up)
    clock = Clock()
    try:
        with cluster_of("redis://redis.example.com", clock_s=clock) as cluster:
            for _ in range(3):
                with anyio.fail_after(20):
                    await use_all(cluster)
                clock.now_s += 2.5
            assert len(asked) == 1  # the one that hangs is the one that tries
    finally:
        answer.set()


async def test_a_replica_that_cannot_be_written_is_away_although_it_can_be_read(tmp_path: Path, redis: Redis) -> None:
    (tmp_path / "replica").mkdir()
    redis.say("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    clock, notes = Clock(), Notes()
    with Redis(tmp_path / "replica") as replica:
        replica.restart("--replicaof", f"127.0.0.1 {redis.port}")
        await to_thread.run_sync(wait_for, lambda: "master_link_status:up" in replica.say("INFO", "replication"))
        with cluster_of(replica.url, observer=notes, clock_s=clock) as cluster:
            for _ in range(3):
                assert await cluster.recall_links(IMAGE) is None
                assert not (await cluster.acquire("a", longest_s=3600)).is_held
                clock.now_s += 2.5
    (text,) = notes.texts
    assert "it is a replica that cannot be written" in text


# --- Passwords, sockets, TLS


async def test_a_password_lets_in_and_is_never_shown(tmp_path: Path, patient: None) -> None:
    with Redis(tmp_path, password=SECRET) as redis:
        settings = ClusterSettings(url=redis.url, password=SECRET, username="default")
        with cluster_of(redis.url, password=SECRET, username="default") as cluster:
            assert (await cluster.acquire("a", longest_s=0)).is_held
            assert SECRET not in repr([settings, cluster, vars(cluster), vars(cluster._server)])
        for wrong in ("", "wrong-horse"):
            notes = Notes()
            with cluster_of(redis.url, password=wrong, observer=notes) as cluster:
                await use_all(cluster)
                assert "it does not take this user and password" in notes.texts[0]
                assert "horse" not in notes.texts[0] + cluster.name


@pytest.mark.skipif(sys.platform == "win32", reason="sockets by path are not to be had there")
async def test_a_socket_by_path_and_a_database_by_number_are_used(redis: Redis) -> None:
    with cluster_of(f"unix://{redis.socket_path}") as first, cluster_of(f"{redis.url}/3") as second:
        assert (await first.acquire("a", longest_s=0)).is_held
        assert (await second.acquire("a", longest_s=0)).is_held
    with cluster_of("unix:///no/such/socket", observer=(notes := Notes())) as away:
        await use_all(away)
        assert "no such file or directory" in notes.texts[0]


async def test_tls_is_spoken_with_the_authority_that_is_named(
    tmp_path: Path, authority: Authority, patient: None
) -> None:
    certificate = authority.certificate("127.0.0.1")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(tmp_path / "own.pem"))
    bundle = authority.write_bundle(tmp_path / "authority.pem")
    with Redis(tmp_path) as redis:
        tls = ["--tls-cert-file", "own.pem", "--tls-key-file", "own.pem", "--tls-auth-clients", "no"]
        port = free_port()
        redis.restart("--tls-port", str(port), *tls, "--tls-ca-cert-file", "authority.pem")
        with cluster_of(f"rediss://127.0.0.1:{port}", ca_file=bundle) as cluster:
            assert (await cluster.acquire("a", longest_s=0)).is_held
        with Pretender(always(b"HTTP/1.1 400 Bad Request\r\n\r\n")) as other:
            for at, said in {port: "its certificate is not trusted", other.port: "it does not speak TLS"}.items():
                with cluster_of(f"rediss://127.0.0.1:{at}", observer=(notes := Notes())) as cluster:
                    await use_all(cluster)
                assert said in notes.texts[0]


def test_authorities_that_cannot_be_read_are_refused_at_once(tmp_path: Path) -> None:
    pytest.importorskip("redis", reason="redis-py is not installed")
    with pytest.raises(ConfigError, match="holds no certificates") as caught:
        Cluster(ClusterSettings(url="rediss://127.0.0.1", ca_file=tmp_path / "none.pem"))
    assert caught.value.where == "cluster.ca_file"


# --- What lies in the database is hostile


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=6) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=20,
)


@given(_JSON)
def test_a_document_of_any_shape_is_no_miss_or_a_possible_one(document: Any) -> None:
    for text in (json.dumps(document), json.dumps([document] * 5), json.dumps([1, 2, document, "404", False])):
        found = cluster_module._parse_miss(text.encode(), PDB, MICROSOFT)
        if found is not None:
            assert (found.index, found.upstream) == (PDB.index, MICROSOFT)
            assert 0 <= found.first_asked_s <= found.last_asked_s < 1e10
            assert found.answer.isprintable()


@given(st.binary(max_size=200))
def test_bytes_of_any_kind_are_no_document_or_one(data: bytes) -> None:
    cluster_module._load(data, 100)
    cluster_module._parse_replica(data)
    cluster_module._parse_miss(data, PDB, MICROSOFT)


@given(st.floats(), st.floats(), st.integers(), st.text(max_size=300), st.booleans())
def test_every_miss_that_can_be_shared_reads_back_or_not_at_all(
    first_s: float, last_s: float, times: int, answer: str, in_passing: bool
) -> None:
    text = cluster_module._miss_text(
        miss(first_asked_s=first_s, last_asked_s=last_s, times=times, answer=answer, in_passing=in_passing)
    )
    found = cluster_module._parse_miss(text.encode(), PDB, MICROSOFT)
    if found is not None:
        assert (found.times, found.answer, found.in_passing) == (times, answer[:200], in_passing)


_POISON = {
    "nothing": b"",
    "no JSON": b"\xff{",
    "too deep": b"[" * 60_000,
    "too long": b'"' + b"x" * (1 << 20) + b'"',
    "a number without an end": b"9" * 5000,
    "not a number": b"[NaN,NaN,NaN,NaN,NaN]",
    "an object": b'{"index": "x"}',
    "other rows": b'[["../../x/1/x", false, []]]',
    "a time beyond all": b'[1e308,1e308,1,"404",false]',
    "a line in an answer": b'[1,2,3,"404\\nX: y",false]',
}


@pytest.mark.parametrize("value", _POISON.values(), ids=_POISON)
async def test_poison_in_the_database_is_passed_over(value: bytes, redis: Redis) -> None:
    import redis as client_library  # noqa: PLC0415 - to write bytes as they are

    with client_library.Redis(port=redis.port) as client, cluster_of(redis.url) as cluster:
        for name in (f"miss:{PDB.folded}|{MICROSOFT}", f"link:{IMAGE.folded}", "count:a", "lease:a"):
            client.set(f"symcache:{name}", value)
        client.sadd("symcache:replicas", "a", b"\xff", b"x" * 100, "line\nbreak", value)
        for _ in range(2):
            assert await cluster.recall_misses(PDB, [MICROSOFT]) == []
            assert await cluster.recall_links(IMAGE) is None
            assert set(await cluster.read_counts()) <= {"a"}
            assert not (await cluster.acquire("a", longest_s=0)).is_held


async def test_a_lease_without_an_end_holds_nobody_up(redis: Redis, cluster: Cluster) -> None:
    import redis as client_library  # noqa: PLC0415 - to write what no replica writes

    with client_library.Redis(port=redis.port) as client:
        client.set("symcache:lease:for good", "somebody")
        with anyio.fail_after(20):
            lease = await cluster.acquire("for good", longest_s=600)
        assert not lease.is_held
        await lease.release()
        assert client.get("symcache:lease:for good") == b"somebody"


@pytest.mark.parametrize("kind", ["RPUSH", "SADD"])
async def test_names_of_another_type_are_passed_over(kind: str, redis: Redis) -> None:
    with cluster_of(redis.url) as cluster:
        for name in (f"miss:{PDB.folded}|{MICROSOFT}", f"link:{IMAGE.folded}", "lease:a"):
            redis.say(kind, f"symcache:{name}", "x")
        redis.say("SET", "symcache:replicas", "x")
        assert await cluster.recall_misses(PDB, [MICROSOFT]) == []
        assert await cluster.recall_links(IMAGE) is None
        assert not (await cluster.acquire("a", longest_s=0)).is_held
        assert await cluster.read_counts() == {}


async def test_a_name_that_cannot_be_written_is_no_trouble_of_the_server(redis: Redis, cluster: Cluster) -> None:
    for name in ("\ud800", "x" * 10_000, "line\r\nbreak", ""):
        assert (await cluster.acquire(name, longest_s=0)).is_held
        assert cluster.is_up
    assert redis.say("DBSIZE") == ":4"


def test_without_its_package_the_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "symcache.stores.rediswire", None)
    monkeypatch.setitem(sys.modules, "redis", None)
    monkeypatch.delitem(sys.modules, "symcache.stores.rediswire")
    with pytest.raises(ConfigError, match=r"install symcache\[cluster\]"):
        Cluster(ClusterSettings(url="redis://127.0.0.1"))
