"""Several servers without state over one bucket and one Redis: what one fetched all have, and nobody asks twice."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from urllib.parse import urlsplit
from urllib.request import Request as Asked
from urllib.request import urlopen

import pytest
from support.answers import Stall
from support.buckets import SECRETS
from support.command import run
from support.crowd import ask, crowd
from support.faultrelay import Fault, FaultRelay
from support.redis import Redis
from support.serving import Client, fetch, publish, serving_process, wait_for
from support.upstream import Upstream

from symcache.server import hash_token

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from support.buckets import Bucket, Moto
    from support.crowd import Got
    from support.serving import Published, Served
    from support.wire import Request

FEW, SMALL_BYTES = 24, 6 << 20
MANY, LARGE_BYTES = 500, 50 << 20
LEASE_S = 1
TOKEN = "x" * 40


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    with Redis(tmp_path_factory.mktemp("redis")) as server:
        yield server


@dataclass
class Company:
    """A bucket behind a relay, Redis and an upstream; *replica* runs a server over them."""

    home: Path
    bucket: Bucket
    relay: FaultRelay
    redis: Redis
    upstream: Upstream
    secrets_shown: list[str] = field(default_factory=list)

    @property
    def place(self) -> str:
        return f"{self.bucket.url}/windows"

    @property
    def cluster(self) -> str:
        # Tests share a Redis, so that each has its own names in it.
        return f"[cluster]\nurl = '{self.redis.url}'\nlease_s = {LEASE_S}\nprefix = '{self.bucket.name}:'\n"

    @contextmanager
    def replica(self, name: str, config: str = "", *options: str) -> Iterator[Served]:
        with serving_process(
            self.home / name,
            f"{self.place}*{self.upstream.url}",
            *options,
            config=f"{config}\n{self.cluster}",
            variables=self.bucket.variables(self.relay.url),
        ) as served:
            yield served
        assert not any(secret in line for secret in SECRETS for line in served.said)

    def put(self, wanted: Published, content: bytes | None = None) -> None:
        """Put it into the bucket, or other *content* under its name."""
        import obstore  # noqa: PLC0415 - an extra

        obstore.put(self.bucket.open(), f"windows/{wanted.index}", wanted.content if content is None else content)

    def has(self, wanted: Published) -> bool:
        """Whether the bucket has it."""
        return fetch_object(self.bucket, f"windows/{wanted.index}") == wanted.content


def fetch_object(bucket: Bucket, name: str) -> bytes | None:
    import obstore  # noqa: PLC0415 - an extra
    from obstore.exceptions import BaseError  # noqa: PLC0415

    try:
        return bytes(obstore.get(bucket.open(), name).bytes())
    except (FileNotFoundError, BaseError):  # moto, when much is asked at once, breaks off now and then
        return None


@pytest.fixture
def company(tmp_path: Path, moto: Moto, redis: Redis) -> Iterator[Company]:
    with Upstream() as upstream, FaultRelay(moto.url) as relay:
        yield Company(tmp_path, moto.new_bucket(), relay, redis, upstream)


@pytest.fixture
def wanted(company: Company) -> Published:
    published = publish("crowd.pdb", 1, payload_bytes=SMALL_BYTES)
    company.upstream.files[published.index] = published.content
    return published


def asked(company: Company, wanted: Published) -> int:
    return len(company.upstream.asked(wanted.index))


def all_right(got: list[Got]) -> bool:
    return all(each.is_right and each.is_whole and each.status == 200 for each in got)


@pytest.mark.parametrize("size", ["few", pytest.param("many", marks=pytest.mark.slow)])
def test_a_crowd_at_three_replicas_is_one_request_for_upstream(company: Company, size: str) -> None:
    count, payload_bytes = (FEW, SMALL_BYTES) if size == "few" else (MANY, LARGE_BYTES)
    published = publish("crowd.pdb", 2, payload_bytes=payload_bytes)
    company.upstream.files[published.index] = published.content
    stall = Stall(len(published.content) - (2 << 20))
    company.upstream.script(published.index, stall)
    with ExitStack() as stack:
        replicas = [stack.enter_context(company.replica(name, "[serve]\npatience_s = 300")) for name in "abc"]
        began_s = time.monotonic()
        got = asyncio.run(crowd(replicas, published, count, stall))
        print(f"{count} clients at 3 replicas, {payload_bytes >> 20} MiB: {time.monotonic() - began_s:.1f} s")
        wait_for(lambda: company.has(published))
    assert all_right(got)
    assert asked(company, published) == 1


def test_what_one_has_fetched_another_has_though_upstream_is_gone(company: Company, wanted: Published) -> None:
    with company.replica("a") as first:
        assert fetch(first.port, wanted.index).body == wanted.content
    company.upstream.close()
    with company.replica("b") as second:
        assert fetch(second.port, wanted.index).body == wanted.content


@dataclass(frozen=True, slots=True)
class BehindTheFirstPiece(Fault):
    """What happens to requests for all pieces of an object but its first."""

    def meets(self, request: Request) -> bool:
        return not request.headers.get("range", "bytes=0-").startswith("bytes=0-")


def test_a_file_of_the_bucket_is_sent_while_it_arrives(company: Company, wanted: Published) -> None:
    with company.replica("a") as first:
        assert fetch(first.port, wanted.index).status == 200
        wait_for(lambda: company.has(wanted))
    with company.replica("b") as second, Client(second.port) as client:
        company.relay.fault = BehindTheFirstPiece(delay_s=60)
        client.send(f"GET /{wanted.index} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
        assert client.read_head()[0] == 200
        begin = client.read_some(64 << 10)
        company.relay.fault = None
        assert begin + client.read_some(len(wanted.content) - len(begin)) == wanted.content


def test_a_replica_that_is_killed_within_a_transfer_is_replaced(company: Company, wanted: Published) -> None:
    company.upstream.script(wanted.index, Stall(len(wanted.content) // 2))
    with company.replica("a") as first, company.replica("b", "[serve]\npatience_s = 60") as second:

        async def kill() -> tuple[list[Got], list[Got], float]:
            begun = asyncio.Event()
            async with asyncio.TaskGroup() as group:
                theirs = [group.create_task(ask(first.port, wanted, begun)) for _ in range(4)]
                await begun.wait()
                others = [group.create_task(ask(second.port, wanted, asyncio.Event())) for _ in range(4)]
                assert first.process is not None
                first.process.kill()
                first.process.wait()
                began_s = time.monotonic()
            return [each.result() for each in theirs], [each.result() for each in others], time.monotonic() - began_s

        lost, got, took_s = asyncio.run(kill())
        print(f"another replica took over and was done after {took_s:.1f} s; a lease is {LEASE_S} s")
        assert all(each.is_right and not each.is_whole for each in lost)
        assert all_right(got)
        assert asked(company, wanted) == 2
        wait_for(lambda: company.has(wanted))


def test_without_redis_each_goes_on_alone_and_joins_again(company: Company, tmp_path: Path) -> None:
    alone, joined = publish("alone.pdb", 3, payload_bytes=SMALL_BYTES), publish("joined.pdb", 4, payload_bytes=1 << 20)
    company.upstream.files.update({each.index: each.content for each in (alone, joined)})
    own = tmp_path / "own redis"
    own.mkdir()
    with Redis(own) as redis:
        company.redis = redis
        with company.replica("a") as first, company.replica("b") as second:
            assert fetch(first.port, "a.pdb/000000000000000000000000000000011/a.pdb").status == 404  # joins
            redis.kill()
            got = asyncio.run(crowd([first, second], alone, 8))
            assert all_right(got)
            assert 1 <= asked(company, alone) <= 2
            wait_for(lambda: company.has(alone))
            redis.start()
            began_s = time.monotonic()
            for each in (first, second):
                wait_for(lambda each=each: _is_back(each))  # type: ignore[misc]
            print(f"both had joined {time.monotonic() - began_s:.1f} s after Redis was back")
            got = asyncio.run(crowd([first, second], joined, 8))
            assert all_right(got)
            assert asked(company, joined) == 1


def _is_back(served: Served) -> bool:
    """Ask for a file that is nowhere, another one each time, so that the server has something to ask Redis."""
    assert fetch(served.port, f"no.pdb/{time.time_ns():032X}1/no.pdb").status == 404
    return any("is back" in line for line in served.said)


def test_a_bucket_that_answers_503_costs_nothing_but_the_sharing(company: Company, wanted: Published) -> None:
    company.relay.fault = Fault(status=503)
    with company.replica("a") as first, company.replica("b") as second:
        got = asyncio.run(crowd([first, second], wanted, 8))
        assert all_right(got)
        company.relay.fault = None
        began_s = time.monotonic()
        wait_for(lambda: company.has(wanted))
        print(f"the bucket had the file {time.monotonic() - began_s:.1f} s after it was back")


def test_a_bucket_that_is_silent_holds_up_no_end(company: Company, wanted: Published) -> None:
    first = publish("first.pdb", 2)
    company.upstream.files[first.index] = first.content
    with company.replica("a", "[serve]\nstop_s = 1") as replica:
        assert fetch(replica.port, first.index).status == 200
        wait_for(lambda: company.has(first))
        company.relay.fault = Fault(methods={"PUT"}, silent=True)
        assert fetch(replica.port, wanted.index).body == wanted.content
        wait_for(lambda: any(each.method == "PUT" and wanted.key.name in each.path for each in company.relay.requests))
        # This block ends it, and gives it less time than a silent bucket is given.
    company.relay.fault = None
    assert "symcache store push" in "".join(replica.said)


def test_a_local_store_that_is_pruned_is_filled_from_the_bucket(company: Company, wanted: Published) -> None:
    with company.replica("a") as served:
        assert fetch(served.port, wanted.index).status == 200
        wait_for(lambda: company.has(wanted))
        company.upstream.close()
        done = run("store", "prune", "--max-size", "1B", "--store", served.store)
        assert done.returncode == 0, done.stderr
        assert list(served.store.glob("*.pdb/*/*.pdb")) == []
        assert fetch(served.port, wanted.index).body == wanted.content


def test_a_rolling_restart_fails_no_request(company: Company, wanted: Published) -> None:
    ports: set[int] = set()
    answers: Counter[int] = Counter()
    over = threading.Event()

    def ask_who_is_ready() -> None:
        while not over.is_set():
            for port in sorted(ports):
                with suppress(OSError):  # gone since the last look
                    if fetch(port, "readyz").status != 200:
                        continue
                    answer = fetch(port, wanted.index)
                    answers[answer.status if answer.body == wanted.content else -1] += 1
                    break

    with ExitStack() as stack:
        asking = threading.Thread(target=ask_who_is_ready)
        stack.callback(asking.join)
        stack.callback(over.set)
        asking.start()
        before = stack.enter_context(ExitStack())
        for name in "abcd":
            replica = stack.enter_context(ExitStack())
            ports.add(replica.enter_context(company.replica(name, "[serve]\ndrain_s = 1")).port)
            so_far = answers.total()
            wait_for(lambda so_far=so_far: answers.total() >= so_far + 5)  # type: ignore[misc]
            before.close()
            before = replica
    assert set(answers) == {200}
    assert asked(company, wanted) == 1


def test_a_miss_of_one_is_known_to_all(company: Company) -> None:
    absent = publish("absent.pdb", 5)
    with company.replica("a") as first, company.replica("b") as second:
        assert fetch(first.port, absent.index).status == 404
        before = len(company.upstream.requests)
        company.relay.forget()
        assert fetch(second.port, absent.index).status == 404
        assert len(company.upstream.requests) == before
        assert company.relay.counts().total() == 2  # for the file and its cabinet, and not again after its turn


def test_what_is_uploaded_to_one_is_served_by_all(company: Company) -> None:
    private = publish("private.pdb", 6, payload_bytes=1 << 20)
    config = f"[serve]\nupload_tokens = ['{hash_token(TOKEN)}']"
    with company.replica("a", config) as first, company.replica("b") as second:
        assert fetch(second.port, private.index).status == 404
        put(first, private)
        wait_for(lambda: company.has(private))
        wait_for(lambda: fetch(second.port, private.index).status == 200)
        assert fetch(second.port, private.index).body == private.content
        again = publish("private.pdb", 6, payload_bytes=2 << 20)  # of the same build, with more in it
        put(first, again)
        wait_for(lambda: company.has(again))


def put(served: Served, published: Published) -> None:
    head = {"Authorization": f"Bearer {TOKEN}", "Content-Length": str(len(published.content))}
    request = Asked(f"{served.url}/{published.index}", data=published.content, headers=head, method="PUT")
    with urlopen(request) as answer:
        assert answer.status == 201


def test_clients_that_follow_are_sent_to_the_bucket(company: Company, wanted: Published) -> None:
    with company.replica("a") as first:
        assert fetch(first.port, wanted.index).status == 200
        wait_for(lambda: company.has(wanted))
    with company.replica("b", "[serve]\nredirect = ['Microsoft-Symbol-Server/*']", "--access-log", "-") as second:
        agent = {"User-Agent": "Microsoft-Symbol-Server/10.0.22621.1"}
        answer = fetch(second.port, wanted.index, agent)
        assert (answer.status, answer.body) == (302, b"")
        target = answer.fields["location"]
        assert urlsplit(target).netloc == urlsplit(company.relay.url).netloc
        with urlopen(target) as sent:
            assert sent.read() == wanted.content
        assert list(second.store.glob("*.pdb")) == []
        assert fetch(second.port, wanted.index, agent, method="HEAD").status == 200
        assert fetch(second.port, wanted.index).body == wanted.content  # who is not named gets it from here
    signature = urlsplit(target).query.rpartition("=")[2]
    assert not any(signature in line for line in second.said)


def test_nobody_is_sent_to_the_bucket_for_a_wrong_file(company: Company, wanted: Published) -> None:
    company.put(wanted, publish("other.pdb", 2).content)
    with company.replica("a", "[serve]\nredirect = ['*']") as first:
        assert fetch(first.port, wanted.index).body == wanted.content
        wait_for(lambda: company.has(wanted))
    with company.replica("b", "[serve]\nredirect = ['*']") as second:
        assert fetch(second.port, wanted.index).status == 302


def test_nobody_is_sent_to_the_bucket_for_what_is_excluded(company: Company, wanted: Published) -> None:
    config = f"[exclusions]\nnames = ['{wanted.key.name}']\n[serve]\nredirect = ['*']"
    company.put(wanted)
    with company.replica("a", config) as first:
        assert fetch(first.port, wanted.index).status == 404
    with company.replica("b", "[serve]\nredirect = ['*']") as second:
        assert fetch(second.port, wanted.index).status == 302


def test_several_machines_share_a_large_fill(company: Company) -> None:
    files = [publish(f"part{number}.pdb", 100 + number) for number in range(60)]
    company.upstream.files.update({each.index: each.content for each in files})
    manifest = company.home / "manifest.txt"
    manifest.write_text("".join(f"{each.index}\n" for each in files))

    def fill(name: str) -> int:
        config = company.home / f"{name}.toml"
        config.write_text(f"[misses]\nfolder = '{company.home / name / 'misses'}'\n{company.cluster}")
        path = f"srv*{company.home / name / 'store'}*{company.place}*{company.upstream.url}"
        done = run("warm", manifest, "--config", config, "-y", path, env=company.bucket.variables(company.relay.url))
        return done.returncode

    with ThreadPoolExecutor() as pool:
        assert list(pool.map(fill, "abc")) == [0, 0, 0]
    assert [asked(company, each) for each in files] == [1] * len(files)
    for name in "abc":
        assert {path.read_bytes() for path in (company.home / name / "store").glob("*.pdb/*/*.pdb")} == {
            each.content for each in files
        }
    assert all(company.has(each) for each in files)
