"""What one symbol costs a fleet of replicas, counted, and what many cost: ``python tests/bench/bench_scale.py``.

    python tests/bench/bench_scale.py                                                   # a minute
    python tests/bench/bench_scale.py --symbols 1000,5000 --entries 100000,1000000 --objects 100000,1000000

1. Requests: servers over moto, Redis and an upstream are asked for every symbol, and ``symcache warm`` for the PDBs of
   images. A relay counts what comes to the bucket, Redis its commands (``INFO commandstats``; what replicas tell each
   other every few seconds of their counts is left out), the upstream its requests.
2. Redis: what its memory grows by (``used_memory``) for each entry.
3. Lists: pages, time and peak memory of going through a bucket. A stand-in makes up its pages.
4. By arithmetic from these: what a thousand to a hundred million symbols take, and what they cost. Prices, the mean
   length of a file, and how long a page and a request take at a real bucket are assumptions: give your own.

Needs moto and redis-server; everything stays on loopback.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, fields
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import UUID

import anyio

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[number]) for number in (1, 2)]

from support.buckets import Moto
from support.faultrelay import FaultRelay
from support.redis import Redis
from support.s3pages import PagedBucket
from support.serving import fetch, publish, serving_process
from support.synth.pe import disk_bytes, plan_image
from support.upstream import Upstream

from symcache.config import ClusterSettings
from symcache.identity import ImageKey, PdbKey
from symcache.stores.cluster import Cluster
from symcache.stores.links import Link
from symcache.stores.negative import Miss

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from support.buckets import Bucket
    from support.serving import Published, Served

_ROOT = Path(__file__).resolve().parents[2]
_KIB, _MIB, _GIB = 1 << 10, 1 << 20, 1 << 30
_AT_ONCE = 8
_SETTLED_S = 0.3
_LONGEST_S = 3600.0
_TTL_S = 7 * 24 * 3600.0
_UPSTREAM = "https://msdl.microsoft.com/download/symbols"
_SIZES = tuple(10**power for power in range(3, 9))


@dataclass(frozen=True, slots=True)
class Assumed:
    """What is not measured here. Dollars are list prices of S3 and of its caches in Virginia, as known in 2025.

    Attributes:
        mean_kib: Mean length of a file.
        put_dollars: Of 1,000 PUT, POST and LIST requests.
        get_dollars: Of 1,000 GET and HEAD requests.
        storage_dollars: Of a GiB for a month.
        redis_dollars: Of a GiB of a Redis server for a month.
        page_ms: How long a page of a list takes.
        looks: Requests by which ``store verify`` looks at an object: one up to 64 KiB, else two.
        request_ms: How long such a request takes.
        at_once: How many of them are under way.
        misses: Misses that are remembered for each symbol that is there.
    """

    mean_kib: float = 1024
    put_dollars: float = 0.005
    get_dollars: float = 0.0004
    storage_dollars: float = 0.023
    redis_dollars: float = 12.0
    page_ms: float = 150
    looks: float = 2
    request_ms: float = 30
    at_once: int = 16
    misses: float = 1.0


def main() -> int:
    """Count, measure, reckon, and print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--symbols", type=_numbers, default=(50, 200), help="numbers of symbols, with commas")
    parser.add_argument("--replicas", type=_numbers, default=(1, 3), help="numbers of replicas")
    parser.add_argument("--entries", type=_numbers, default=(20_000,), help="numbers of entries in Redis")
    parser.add_argument("--objects", type=_numbers, default=(20_000,), help="numbers of objects to be listed")
    for each in fields(Assumed):
        parser.add_argument(f"--{each.name.replace('_', '-')}", type=float, default=each.default, help="assumed")
    options = parser.parse_args()
    assumed = Assumed(**{each.name: getattr(options, each.name) for each in fields(Assumed)})
    with tempfile.TemporaryDirectory(prefix="symcache-bench-") as name:
        home = Path(name)
        counted = {
            (symbols, replicas): count(home / f"{symbols} at {replicas}", symbols, replicas)
            for symbols in options.symbols
            for replicas in options.replicas
        }
        print_growth(counted)
        most = counted[max(options.symbols), max(options.replicas)]
        print_counted(most, max(options.symbols))
        per_entry = print_redis(home, options.entries)
        print_lists(options.objects)
    print_costs(most, max(options.symbols), assumed)
    print_sizes(most, max(options.symbols), per_entry, assumed)
    return 0


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(each) for each in text.split(","))


# 1. Requests


@dataclass(frozen=True, slots=True)
class Fleet:
    """Replicas of a server, and all that is behind them."""

    home: Path
    bucket: Bucket
    relay: FaultRelay
    redis: Redis
    upstream: Upstream

    @property
    def place(self) -> str:
        return f"{self.bucket.url}/windows"

    @property
    def cluster(self) -> str:
        return f"[cluster]\nurl = '{self.redis.url}'\n"

    def requests(self) -> Counter[str]:
        """Return what has been asked so far, by kind, and bytes."""
        seen: Counter[str] = Counter()
        for request in list(self.relay.requests):
            kind = request.method if request.method != "GET" else "GET" if request.status != 404 else "GET, 404"
            seen["LIST" if "list-type=2" in request.query else kind] += 1
            seen["from bucket"] += request.sent_bytes
            seen["to bucket"] += int(request.headers.get("content-length", "0"))
        seen["upstream"] = len(self.upstream.requests)
        seen["from upstream"] = sum(request.sent_bytes for request in list(self.upstream.requests))
        return seen

    def commands(self) -> Counter[str]:
        """Return the commands that Redis has run so far, those within scripts too, but for those of the counts."""
        text = self.redis.say("INFO", "commandstats")
        calls = Counter({name: int(number) for name, number in re.findall(r"cmdstat_([^:]+):calls=(\d+)", text)})
        written, read = calls.pop("sadd", 0), calls.pop("srandmember", 0)
        calls.subtract({"set": written, "mget": read})
        for name in ("info", "ping", "hello", "client|setinfo", "expire", "srem", "config|resetstat"):
            calls.pop(name, None)
        return calls

    def settle(self) -> None:
        """Return when nothing has been asked for a moment: files are brought to the bucket behind the answers."""
        end_s = time.monotonic() + _LONGEST_S
        before = None
        while (now := self.requests()) != before:
            assert time.monotonic() < end_s, "it does not come to rest"
            before = now
            time.sleep(_SETTLED_S)

    def cost_of(self, work: Callable[[], object]) -> Counter[str]:
        """Return what is asked until *work*, and what it leads to, is done."""
        self.settle()
        requests, commands = self.requests(), self.commands()
        work()
        self.settle()
        spent = self.requests()
        spent.subtract(requests)
        spent["Redis"] = (self.commands() - commands).total()
        return spent


def count(home: Path, symbols: int, replicas: int) -> Mapping[str, Counter[str]]:
    """Return what each way to a symbol costs, for *symbols* of them in all."""
    home.mkdir()
    (home / "redis").mkdir()
    files = [publish(f"part{at}.pdb", at + 1) for at in range(symbols)]
    absent = [publish(f"absent{at}.pdb", 1_000_000 + at) for at in range(symbols)]
    of_images = [publish(f"driver{at}.pdb", 2_000_000 + at) for at in range(symbols)]
    images = [(ImageKey(f"driver{at}.sys", 0x60000000 + at, 0x9000), of_images[at].key) for at in range(symbols)]
    with ExitStack() as stack:
        s3 = stack.enter_context(Moto(home / "moto"))
        upstream = stack.enter_context(Upstream())
        upstream.files.update({each.index: each.content for each in (*files, *of_images)})
        upstream.files.update({image.index: disk_bytes(plan_image(image, pdb)) for image, pdb in images})
        relay = stack.enter_context(FaultRelay(s3.url))
        fleet = Fleet(home, s3.new_bucket(), relay, stack.enter_context(Redis(home / "redis")), upstream)
        servers = [
            stack.enter_context(
                serving_process(
                    home / str(number),
                    f"{fleet.place}*{upstream.url}",
                    config=fleet.cluster,
                    variables=fleet.bucket.variables(relay.url),
                )
            )
            for number in range(replicas)
        ]
        for server in servers:  # what each does once: it tries Redis, and whether the bucket keeps names
            first = publish(f"first{server.port}.pdb", 3_000_000 + server.port)
            upstream.files[first.index] = first.content
            ask([server], [first], 0, 200)
        spent = {
            "cold: one fetches it for all": fleet.cost_of(lambda: ask(servers, files, 0, 200)),
            "hit of the local level": fleet.cost_of(lambda: ask(servers, files, 0, 200)),
            "missed upstream": fleet.cost_of(lambda: ask(servers, absent, 0, 404)),
            # As after 5 seconds: by another path of the same file it is not answered from memory.
            "the same miss, later": fleet.cost_of(lambda: ask(servers, absent, 0, 404, below="again/")),
        }
        if replicas > 1:
            spent["brought by another replica"] = fleet.cost_of(lambda: ask(servers, files, 1, 200))
            spent["missed by another replica"] = fleet.cost_of(lambda: ask(servers, absent, 1, 404))
        names = [image.index for image, _ in images]
        spent["image's PDB, two hops"] = fleet.cost_of(lambda: warm(fleet, "first", names))
        if replicas > 1:
            spent["the same, on another machine"] = fleet.cost_of(lambda: warm(fleet, "second", names))
    return spent


def ask(servers: Sequence[Served], files: Sequence[Published], shift: int, status: int, *, below: str = "") -> None:
    """Ask for each of *files* at one of *servers*, in the folder *below*; at another one with another *shift*."""

    def get(number: int) -> int:
        return fetch(servers[(number + shift) % len(servers)].port, f"{below}{files[number].index}").status

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        assert set(pool.map(get, range(len(files)))) == {status}


def warm(fleet: Fleet, machine: str, names: Sequence[str]) -> None:
    """Let a machine with an empty store fetch the PDBs of images of which only the keys are known."""
    home = fleet.home / machine
    home.mkdir()
    wanted, config = home / "wanted.txt", home / "symcache.toml"
    wanted.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")
    config.write_text(f"[misses]\nfolder = '{home / 'misses'}'\n{fleet.cluster}", encoding="utf-8")
    path = f"srv*{home / 'store'}*{fleet.place}*{fleet.upstream.url}"
    command = [sys.executable, "-m", "symcache", "warm", str(wanted), "--config", str(config), "-y", path, "-q"]
    environment = {**os.environ, **fleet.bucket.variables(fleet.relay.url)}
    subprocess.run(command, check=True, cwd=_ROOT, env=environment, timeout=_LONGEST_S, stdout=subprocess.DEVNULL)


_OF_BUCKET = ("GET", "GET, 404", "HEAD", "PUT", "POST", "DELETE", "LIST")


def print_growth(counted: Mapping[tuple[int, int], Mapping[str, Counter[str]]]) -> None:
    """Print requests for one symbol by how many there are, to be compared along a row."""
    heads = [f"{symbols:,} at {replicas}" for symbols, replicas in counted]
    print("Requests for each symbol, by symbols and replicas: to the bucket / commands of Redis / to the upstream\n")
    print(f"| | {' | '.join(heads)} |\n|{'---|' * (len(heads) + 1)}")
    for way in dict.fromkeys(way for spent in counted.values() for way in spent):
        cells = []
        for (symbols, _), spent in counted.items():
            one = spent.get(way)
            bucket = sum(one[kind] for kind in _OF_BUCKET) if one else 0
            numbers = (bucket, one["Redis"], one["upstream"]) if one else ()
            cells.append(" / ".join(f"{number / symbols:.2f}" for number in numbers))
        print(f"| {way} | {' | '.join(cells)} |")


def print_counted(spent: Mapping[str, Counter[str]], symbols: int) -> None:
    """Print what 1,000 symbols cost, by kind."""
    kinds = [kind for kind in _OF_BUCKET if any(one[kind] for one in spent.values())]
    others = ["Redis", "upstream", "from bucket", "to bucket", "from upstream"]
    print(f"\nPer 1,000 symbols of 48 KiB, counted with {symbols:,}; bytes in KiB\n")
    print(f"| | {' | '.join([*kinds, *others])} |\n|{'---|' * (len(kinds) + len(others) + 1)}")
    for way, one in spent.items():
        numbers = [float(one[kind]) for kind in (*kinds, "Redis", "upstream")]
        numbers += [one[kind] / _KIB for kind in ("from bucket", "to bucket", "from upstream")]
        print(f"| {way} | {' | '.join(f'{number * 1000 / symbols:,.0f}' for number in numbers)} |")


# 2. Redis


def print_redis(home: Path, numbers: Sequence[int]) -> Mapping[str, float]:
    """Print by how much Redis grows for each entry; return that in bytes, of the last number of entries."""
    print("\nMemory of Redis for each entry, bytes of used_memory\n\n| entries | a miss | a link |\n|---|---|---|")
    grown = {"miss": 0.0, "link": 0.0}
    for number in numbers:
        folder = home / f"redis {number}"
        folder.mkdir()
        with Redis(folder) as redis:
            misses = partial(share_misses, redis.url, number)
            # Links go one by one, as they do in a run.
            links = partial(share_links, redis.url, number)
            grown = {"miss": growth(redis, misses, number), "link": growth(redis, links, number)}
        print(f"| {number:,} | {grown['miss']:.0f} | {grown['link']:.0f} |", flush=True)
    return grown


def growth(redis: Redis, fill: Callable[[], object], number: int) -> float:
    """Return how many bytes Redis grows by for each of *number* entries that *fill* makes."""
    before = used_bytes(redis)
    fill()
    return (used_bytes(redis) - before) / number


def used_bytes(redis: Redis) -> int:
    found = re.search(r"used_memory:(\d+)", redis.say("INFO", "memory"))
    assert found is not None
    return int(found[1])


def share_misses(url: str, number: int) -> None:
    """Share that *number* images are missing, in the way in which servers do."""
    now_s = time.time()

    async def share() -> None:
        cluster = Cluster(ClusterSettings(url=url))
        keys = (ImageKey(f"driver{at:07}.sys", 0x60000000 + at, 0x9000) for at in range(number))
        while batch := [Miss(key.index, _UPSTREAM, now_s, now_s, 1, "404") for key in islice(keys, 1000)]:
            await cluster.share_misses(batch, ttl_s=_TTL_S)
        assert cluster.is_up
        cluster.close()

    anyio.run(share)


def share_links(url: str, number: int) -> None:
    """Share what *number* images name, in the way in which runs do."""

    async def share() -> None:
        cluster = Cluster(ClusterSettings(url=url))

        async def each(numbers: Iterator[int]) -> None:
            for at in numbers:
                image = ImageKey(f"driver{at:07}.sys", 0x60000000 + at, 0x9000)
                await cluster.share_links(image, (Link(PdbKey(f"driver{at:07}.pdb", UUID(int=at << 64), 1)),))

        numbers = iter(range(number))
        async with anyio.create_task_group() as group:
            for _ in range(_AT_ONCE):
                group.start_soon(each, numbers)
        assert cluster.is_up
        cluster.close()

    anyio.run(share)


# 3. Lists

_LISTING = """
import json, re, sys, time
from pathlib import Path
from symcache.config import load_config
from symcache.stores.bucket.objects import Bucket

def peak_kib():
    path = Path("/proc/self/status")
    found = re.search(r"VmHWM:\\s+(\\d+) kB", path.read_text()) if path.exists() else None
    return int(found[1]) if found else 0

objects = Bucket("s3://symbols", None, load_config(None, {}).network).list()
next(objects)
before = peak_kib()
began_s = time.perf_counter()
count = 1 + sum(1 for _ in objects)
print(json.dumps([count, time.perf_counter() - began_s, before, peak_kib()]))
"""


def print_lists(numbers: Sequence[int]) -> None:
    """Print what it takes to go through all objects of a bucket."""
    print("\nA whole list, in a process of its own, against made-up pages\n")
    print("| objects | pages | seconds | peak memory after the first page and in the end, MiB |\n|---|---|---|---|")
    for number in numbers:
        with PagedBucket(number) as bucket:
            variables = {
                "AWS_ACCESS_KEY_ID": "anybody",
                "AWS_SECRET_ACCESS_KEY": "anything",
                "AWS_REGION": "us-east-1",
                "AWS_ENDPOINT_URL": bucket.url,
            }
            ran = subprocess.run(
                [sys.executable, "-c", _LISTING],
                check=True,
                capture_output=True,
                text=True,
                cwd=_ROOT,
                env={**os.environ, **variables},
                timeout=_LONGEST_S,
            )
            seen, seconds, before_kib, peak_kib = json.loads(ran.stdout)
            assert seen == number
            peaks = f"{before_kib / 1024:.0f} and {peak_kib / 1024:.0f}"
            print(f"| {number:,} | {bucket.pages:,} | {seconds:.1f} | {peaks} |", flush=True)


# 4. Arithmetic


def dollars(one: Counter[str], symbols: int, assumed: Assumed) -> float:
    """Return what the bucket's requests of *one* way to a symbol cost for a million of them."""
    puts = one["PUT"] + one["POST"] + one["LIST"]
    gets = one["GET"] + one["GET, 404"] + one["HEAD"]
    return (puts * assumed.put_dollars + gets * assumed.get_dollars) / 1000 / symbols * 1e6


def print_costs(spent: Mapping[str, Counter[str]], symbols: int, assumed: Assumed) -> None:
    """Print what a million symbols cost at the bucket."""
    print(f"\nDollars for a million symbols at the bucket, by {assumed}\n\n| | requests |\n|---|---|")
    for way, one in spent.items():
        print(f"| {way} | {dollars(one, symbols, assumed):.2f} |")
    stored = 1e6 * assumed.mean_kib * _KIB / _GIB * assumed.storage_dollars
    print(f"\nKept for a month: {stored:.2f}")


def print_sizes(
    spent: Mapping[str, Counter[str]], symbols: int, per_entry: Mapping[str, float], assumed: Assumed
) -> None:
    """Print what a thousand to a hundred million symbols take."""
    cold = spent["cold: one fetches it for all"]
    puts = cold["PUT"] / symbols
    gets = (cold["GET"] + cold["GET, 404"] + cold["HEAD"]) / symbols
    redis_bytes = per_entry["link"] + assumed.misses * per_entry["miss"]
    print(f"\nBy arithmetic, files of {assumed.mean_kib:g} KiB, each fetched once from upstream\n")
    heads = ["symbols", "PUT", "GET, HEAD", "in the bucket", "pages of a list", "whole list", "verified", "Redis"]
    heads += ["filled, $", "kept a month, $"]
    print(f"| {' | '.join(heads)} |\n|{'---|' * len(heads)}")
    for number in _SIZES:
        pages = -(-number // 1000)
        stored_bytes = number * assumed.mean_kib * _KIB
        kept = stored_bytes / _GIB * assumed.storage_dollars + number * redis_bytes / _GIB * assumed.redis_dollars
        cells = [
            f"{number:,}",
            f"{number * puts:,.0f}",
            f"{number * gets:,.0f}",
            in_bytes(stored_bytes),
            f"{pages:,}",
            in_time(pages * assumed.page_ms / 1000),
            in_time(number * assumed.looks * assumed.request_ms / 1000 / assumed.at_once),
            in_bytes(number * redis_bytes),
            f"{dollars(cold, symbols, assumed) * number / 1e6:,.2f}",
            f"{kept:,.2f}",
        ]
        print(f"| {' | '.join(cells)} |")


def in_bytes(number: float) -> str:
    """Return *number* of bytes in the unit that leaves few digits."""
    for unit in ("KiB", "MiB", "GiB"):
        number /= 1024
        if number < 1000:
            return f"{number:.3g} {unit}"
    return f"{number / 1024:.3g} TiB"


def in_time(seconds: float) -> str:
    """Return *seconds* in the unit that leaves few digits."""
    for unit, most in (("s", 60), ("min", 60), ("h", 48)):
        if seconds < most:
            return f"{seconds:.3g} {unit}"
        seconds /= 60 if unit != "h" else 24
    return f"{seconds:.3g} days"


if __name__ == "__main__":
    sys.exit(main())
