"""Minutes of everything at once: ``python tests/bench/load_serve.py [--minutes N] [--clients N] [--workers N]``.

Hits, misses, cold files, ranges, clients that drop, an upstream that breaks, prune and verify running, all on loopback.
Every body is compared with what was published. At the end there must be no wrong byte, and memory, descriptors and
scratch files must be what they were after the first part of the run. Exits with 1 if anything is not as it should be.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.answers import cut, status
from support.serving import fetch, publish, serving_process
from support.upstream import Upstream

if TYPE_CHECKING:
    from support.serving import Published, Served

_MIB = 1 << 20
_SETTLE_S = 5.0
# Sockets of idle clients, its files under way, and what Python and uvicorn keep open.
_DESCRIPTORS_OF_A_WORKER = 60
_CONFIG = """
[serve]
largest_store_bytes = {limit}
prune_every_s = 10
verify_every_s = 15
stream_from_bytes = 1048576
connections = 5000
access_log = '{log}'
[store]
durable = false
"""


@dataclass(slots=True)
class Tally:
    """What came of all requests."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)


def main() -> int:
    """Run the load and judge it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    files = [publish(f"f{n}.pdb", n, payload_bytes=draw.choice([0, 65_536, 300_000, 2 * _MIB])) for n in range(300)]
    files += [publish(f"large{n}.pdb", 1000 + n, payload_bytes=12 * _MIB) for n in range(6)]
    limit = sum(len(each.content) for each in files) // 2
    with tempfile.TemporaryDirectory(prefix="symcache-load-") as name, Upstream() as upstream:
        home = Path(name)
        upstream.files = {each.index: each.content for each in files}
        config = _CONFIG.format(limit=limit, log=home / "access.log")
        with serving_process(home, upstream.url, "--workers", str(options.workers), config=config) as served:
            tally = Tally()
            end_s = time.monotonic() + 60 * options.minutes
            measured: list[tuple[float, int, int]] = []
            asyncio.run(load(served, upstream, files, tally, end_s, options.clients, measured))
            time.sleep(_SETTLE_S)
            after = measure(served)
            left = list((home / "store/.symcache/staging").rglob("*.part"))
            metrics = fetch(served.port, "metrics").body.decode()
        log_lines = sum(1 for _ in (home / "access.log").open())
    return report(tally, measured, after, left, metrics, log_lines, options.workers)


async def load(
    served: Served,
    upstream: Upstream,
    files: list[Published],
    tally: Tally,
    end_s: float,
    clients: int,
    measured: list[tuple[float, int, int]],
) -> None:
    """Let *clients* ask until *end_s*, and measure the server meanwhile."""

    async def look() -> None:
        began_s = time.monotonic()
        while time.monotonic() < end_s:
            await asyncio.sleep(min(5.0, max(0.1, end_s - time.monotonic())))
            rss, descriptors = measure(served)
            measured.append((time.monotonic() - began_s, rss, descriptors))

    async def trouble() -> None:
        draw = random.Random(7)
        while time.monotonic() < end_s:
            await asyncio.sleep(0.5)
            each = draw.choice(files)
            upstream.script(each.index, draw.choice([cut(at=len(each.content) // 2), status(503)]))

    async with asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(ask_on(served.port, files, tally, end_s, random.Random(number)))
        group.create_task(look())
        group.create_task(trouble())


async def ask_on(port: int, files: list[Published], tally: Tally, end_s: float, draw: random.Random) -> None:
    """Ask for one thing after another."""
    while time.monotonic() < end_s:
        wanted = draw.choice(files)
        kind = draw.choices(["whole", "range", "miss", "drop", "hostile"], [60, 10, 20, 8, 2])[0]
        try:
            await ask(port, wanted, kind, tally, draw)
        except (ConnectionError, asyncio.IncompleteReadError):
            tally.counts[f"{kind}: connection ended"] += 1


async def ask(port: int, wanted: Published, kind: str, tally: Tally, draw: random.Random) -> None:
    """Ask once, on a connection of its own, and compare what comes."""
    path, fields, expected = wanted.index, "", wanted.content
    if kind == "range":
        start = draw.randrange(len(expected))
        stop = min(len(expected), start + draw.randrange(1, 100_000))
        fields, expected = f"Range: bytes={start}-{stop - 1}\r\n", expected[start:stop]
    elif kind == "miss":
        name = f"absent{draw.randrange(500)}.pdb"
        path = f"{name}/{'A' * 32}{draw.randrange(1, 4)}/{name}"
    elif kind == "hostile":
        path = draw.choice(["../../etc/passwd", "%00/x/%00", "con/AB/con", "x" * 5000, "a//b//c"])
    reader, writer = await asyncio.open_connection("127.0.0.1", port, limit=1 << 17)
    try:
        writer.write(f"GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{fields}\r\n".encode())
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        code = int(head.split()[1])
        length = int(head.lower().partition("content-length: ")[2].partition("\r\n")[0])
        if kind == "drop":
            await reader.read(draw.randrange(1, 100_000))
            tally.counts["drop"] += 1
            return
        body = await reader.readexactly(length)
    finally:
        writer.close()
    tally.counts[f"{kind}: {code}"] += 1
    if code in {200, 206} and (kind in {"miss", "hostile"} or body != expected):
        tally.wrong.append(f"{kind} {path}: {code}, {len(body)} bytes")


def measure(served: Served) -> tuple[int, int]:
    """Return resident bytes and open descriptors of all processes of the server together."""
    assert served.process is not None
    pid = served.process.pid
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    rss = descriptors = 0
    for process in [str(pid), *children]:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        rss += sum(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS:"))
        descriptors += sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
    return rss, descriptors


def report(
    tally: Tally,
    measured: list[tuple[float, int, int]],
    after: tuple[int, int],
    left: list[Path],
    metrics: str,
    log_lines: int,
    workers: int,
) -> int:
    """Print what came of it; return the exit status."""
    for kind, number in sorted(tally.counts.items()):
        print(f"{number:>9,}  {kind}")
    for line in metrics.splitlines():
        if line.startswith(("symcache_requests_total", "symcache_upstream_fetches", "symcache_sent_bytes")):
            print(f"           {line}")
    print(f"{log_lines:>9,}  lines in the access log")
    third = max(1, len(measured) // 3)
    early = max(rss for _, rss, _ in measured[:third])
    late = max(rss for _, rss, _ in measured[-third:])
    peak = max(rss for _, rss, _ in measured)
    print(
        f"memory of all processes: {early / _MIB:.0f} MiB in the first third, {late / _MIB:.0f} in the last,", end=" "
    )
    print(f"peak {peak / _MIB:.0f}, after {after[0] / _MIB:.0f}; descriptors after: {after[1]}; scratch: {len(left)}")
    problems = tally.wrong[:10]
    if late > early * 1.25 + 16 * _MIB:
        problems.append("memory grows")
    if after[1] > _DESCRIPTORS_OF_A_WORKER * workers + 40:
        problems.append("descriptors are left open")
    if left:
        problems.append("scratch files are left")
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
