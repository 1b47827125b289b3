"""A replica over a bucket and Redis beside the same server without them: ``python tests/bench/bench_replicas.py``.

1. Hits of 64 KiB and 50 MiB in a warm local level, and remembered misses, by wrk. Every round measures the server
   without bucket and cluster, then the replica; the ratio printed is the median of the rounds.
2. Files that only the bucket has, through a server with an empty local level: time to the first byte of the body, and
   to its last, beside a server that has the same files from an HTTP upstream; with ``--cap-mib`` and
   ``--round-trip-ms`` both are far away, and give each connection so much a second.
3. ``symcache warm`` of small files out of a bucket beside the same out of an HTTP upstream.

In 1 the bucket is moto's. moto takes 3 ms for an answer, so that in 2 and 3 nginx stands in for bucket and upstream
alike: it answers GET with ranges and ETags as S3 does, and looks at no signature; both sides read the same files from
it. Needs nginx, wrk, moto and redis-server; everything stays on loopback.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, TypeVar

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[number]) for number in (1, 2)]

from bench.bench_serve import Server, measure, put
from support.answers import not_found
from support.buckets import Moto
from support.command import run
from support.nginx import Nginx
from support.parts import need
from support.redis import Redis
from support.relay import delayed
from support.serving import Client, fetch, publish, serving_process
from support.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from support.serving import Published, Served

T = TypeVar("T")

_KIB, _MIB = 1 << 10, 1 << 20
_FOLDER = "symbols/windows"  # a bucket and a prefix, as a path of a server


def main() -> int:
    """Measure and print one line for each load."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=2, help="of each measurement by wrk")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=1000, help="of 48 KiB, for warm")
    parser.add_argument("--large-mib", type=int, default=50)
    parser.add_argument("--cap-mib", type=int, default=0, metavar="MIB", help="what a connection gets in a second")
    parser.add_argument(
        "--round-trip-ms", type=float, default=0, metavar="MS", help="how far away bucket and upstream are"
    )
    parser.add_argument("--only", default="", metavar="TEXT", help="parts with this in their name: hits, cold, warm")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="symcache-bench-") as name, ExitStack() as stack:
        home = Path(name)
        for folder in ("redis", "nginx", "objects"):
            (home / folder).mkdir()
        redis = stack.enter_context(Redis(home / "redis"))
        if options.only in "hits":
            print_hits(home, redis, options.rounds, options.seconds, options.large_mib)
        nginx = stack.enter_context(Nginx(home / "objects", home / "nginx", rate_bytes=options.cap_mib * _MIB))
        port = nginx.port
        if options.round_trip_ms:
            port = stack.enter_context(delayed(port, options.round_trip_ms / 1000))
        places = Places(home, f"http://127.0.0.1:{port}", redis.url)
        large = f"{options.large_mib} MiB"
        if options.only in "cold":
            for title, payload, count in (("100 KiB", 52 * _KIB, 4), (large, options.large_mib * _MIB, 1)):
                print_cold(places, title, payload, options.rounds * count)
        if options.only in "warm":
            print_warm(places, options.files, options.rounds)
    return 0


@dataclass(frozen=True, slots=True)
class Places:
    """The same files twice: as a bucket, and as an upstream."""

    home: Path
    url: str
    redis_url: str

    @property
    def bucket(self) -> str:
        return f"s3://{_FOLDER}"

    @property
    def upstream(self) -> str:
        return f"{self.url}/{_FOLDER}"

    @property
    def objects(self) -> Path:
        return self.home / "objects" / _FOLDER

    @property
    def cluster(self) -> str:
        return f"[cluster]\nurl = '{self.redis_url}'\n"

    @property
    def variables(self) -> Mapping[str, str]:
        names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")
        return {**dict.fromkeys(names, "anybody"), "AWS_REGION": "us-east-1", "AWS_ENDPOINT_URL": self.url}


def print_hits(home: Path, redis: Redis, rounds: int, seconds: int, large_mib: int) -> None:
    """Print what a replica answers by itself, beside a server that is none."""
    wrk = need("wrk")
    small = publish("small.pdb", 1, payload_bytes=16 * _KIB)
    large = publish("large.pdb", 2, payload_bytes=large_mib * _MIB)
    absent = publish("absent.pdb", 3, payload_bytes=_MIB)
    with Moto(home / "moto") as s3, Upstream() as upstream:
        upstream.always("*", not_found())
        bucket = s3.new_bucket()
        for each in (small, large):
            put(home / "alone" / "store", each)
            put(home / "replica" / "store", each)
        with (
            serving_process(home / "alone", upstream.url) as alone,
            serving_process(
                home / "replica",
                f"{bucket.url}/windows*{upstream.url}",
                config=f"[cluster]\nurl = '{redis.url}'\n",
                variables=bucket.variables(),
            ) as replica,
        ):
            servers = [server_of(each) for each in (alone, replica)]
            for title, wanted, connections in [
                (f"{len(small.content) // _KIB} KiB hits", small, 32),
                (f"{large_mib} MiB hits", large, 8),
                ("misses", absent, 32),
            ]:
                for server in servers:
                    fetch(server.port, wanted.index)
                rounds_of = [
                    [measure(wrk, each, wanted, connections, seconds) for each in in_turn(servers, at)]
                    for at in range(rounds)
                ]
                pairs = [in_turn(measured, at) for at, measured in enumerate(rounds_of)]
                (alone_rate, alone_us), (rate, us) = (
                    [median(values) for values in zip(*side, strict=True)] for side in zip(*pairs, strict=True)
                )
                ratio, cost = (median(replica[at] / alone[at] for alone, replica in pairs) for at in (0, 1))
                print(
                    f"{title:>12}: {ratio:5.2f} of the server alone; {rate:,.0f} and {alone_rate:,.0f} requests/s, "
                    f"{us:,.1f} and {alone_us:,.1f} us of processor time each ({cost:.2f})",
                    flush=True,
                )


def in_turn(pair: Sequence[T], at: int) -> Sequence[T]:
    """Return *pair* the other way round every second time: what is measured second has another machine."""
    return pair[:: -1 if at % 2 else 1]


def server_of(served: Served) -> Server:
    """Return what `measure` takes."""
    assert served.process is not None
    return Server(served.port, served.process.pid)


def print_cold(places: Places, title: str, payload_bytes: int, count: int) -> None:
    """Print how long files take that a server does not have, from the bucket and from the upstream.

    A PDB has 48 KiB beside *payload_bytes*; *title* says how long it is.
    """
    names = (f"{title.replace(' ', '')}{at}.pdb" for at in range(count))
    files = [publish(name, 1000 + at, payload_bytes=payload_bytes) for at, name in enumerate(names)]
    for each in files:
        put_object(places.objects, each)
    with (
        serving_process(
            places.home / f"{title} bucket", places.bucket, config=places.cluster, variables=places.variables
        ) as by_bucket,
        serving_process(places.home / f"{title} upstream", places.upstream) as by_upstream,
    ):
        first = publish("first.pdb", 1, payload_bytes=100 * _KIB)  # what is imported late is by then
        put_object(places.objects, first)
        servers = (by_bucket, by_upstream)
        for served in servers:
            time_of(served, first)
        times = [[time_of(served, each) for served in servers] for each in files]
    for what, at in (("first byte", 0), ("whole file", 1)):
        bucket_s, upstream_s = (median(pair[side][at] for pair in times) for side in (0, 1))
        ratio = median(pair[0][at] / pair[1][at] for pair in times)
        print(
            f"cold, {title}, {what}: {ratio:5.2f} of upstream's time; "
            f"{bucket_s * 1000:.1f} and {upstream_s * 1000:.1f} ms",
            flush=True,
        )


def time_of(served: Served, wanted: Published) -> tuple[float, float]:
    """Return how long, in seconds, a client waits for the first byte of the body, and for its last."""
    with Client(served.port) as client:
        began_s = time.perf_counter()
        client.send(f"GET /{wanted.index} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n".encode())
        status, fields = client.read_head()
        length = int(fields["content-length"])
        first_s, left = 0.0, length
        while left and (piece := client.read_some(min(left, 64 * _KIB if first_s else 1))):
            first_s = first_s or time.perf_counter() - began_s
            left -= len(piece)
    assert (status, left, length) == (200, 0, len(wanted.content))
    return first_s, time.perf_counter() - began_s


def print_warm(places: Places, count: int, rounds: int) -> None:
    """Print how long a run takes that copies small files out of the bucket, and out of the upstream."""
    files = [publish(f"part{at}.pdb", 100_000 + at, payload_bytes=0) for at in range(count)]
    for each in files:
        put_object(places.objects, each)
    manifest = places.home / "manifest.txt"
    manifest.write_text("".join(f"{each.index}\n" for each in files), encoding="utf-8")
    pairs = [
        (
            warm_s(places, manifest, f"{at} bucket", places.bucket),
            warm_s(places, manifest, f"{at} upstream", places.upstream),
        )
        for at in range(rounds)
    ]
    ratio = median(bucket / upstream for bucket, upstream in pairs)
    bucket_s, upstream_s = (median(side) for side in zip(*pairs, strict=True))
    print(
        f"warm of {count:,} files of {len(files[0].content) // _KIB} KiB: {ratio:.2f} of upstream's time; "
        f"{bucket_s:.2f} and {upstream_s:.2f} s",
        flush=True,
    )


def warm_s(places: Places, manifest: Path, name: str, place: str) -> float:
    """Return how many seconds ``symcache warm`` takes with an empty store in front of *place*."""
    home = places.home / f"warm {name}"
    home.mkdir()
    config = home / "symcache.toml"
    config.write_text(f"[misses]\nfolder = '{home / 'misses'}'\n", encoding="utf-8")
    words: Sequence[str | Path] = ["--config", config, "-y", f"srv*{home / 'store'}*{place}", "-q"]
    began_s = time.perf_counter()
    done = run("warm", manifest, *words, env=places.variables)
    assert done.returncode == 0, done.stderr
    return time.perf_counter() - began_s


def put_object(folder: Path, wanted: Published) -> None:
    """Let *wanted* lie in *folder* as in a bucket, and as in a store."""
    path = folder / wanted.index
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(wanted.content)


if __name__ == "__main__":
    sys.exit(main())
