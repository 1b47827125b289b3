"""The HTTP client alone beside curl and aria2c, in turns: no store, no verification, files written and no more.

    python tests/bench/bench_client.py                 2,000 files of 64 KiB from a local nginx, 16 at once
    python tests/bench/bench_client.py --round-trip-ms 40 --files 500 --connections auto
    python tests/bench/bench_client.py --profile FILE  where the client's time goes, for pstats

Read the ratios; the seconds are those of one machine on one day.
"""

from __future__ import annotations

import argparse
import cProfile
import shutil
import sys
import tempfile
import time
from itertools import count
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if __name__ in {"__main__", "__mp_main__"}:
    sys.path[:0] = [str(parent) for parent in Path(__file__).resolve().parents[1:3]]

import anyio
import httpx
from bench.bench_fetch import COMMANDS, Load, check_complete, make_load, measure
from support.nginx import Nginx
from support.relay import delayed

from symcache.config.values import Network
from symcache.events import ignore
from symcache.stores.http.client import Client
from symcache.stores.http.download import Downloader
from symcache.stores.http.pool import TransportPool
from symcache.stores.http.retry import CircuitBreaker, RetryPolicy

if TYPE_CHECKING:
    from collections.abc import Sequence

_MAX_AUTO = 64


async def download(load: Load, url: str, target: Path, connections: int | None, *, prefer_direct: bool) -> None:
    """Bring all files of *load* through one `Downloader`."""
    pool = TransportPool(Network(proxy="", transport="auto" if prefer_direct else "httpx"), connections=connections)
    breaker = CircuitBreaker(failures=5, cool_down_s=2, longest_pause_s=30)
    downloader = Downloader(
        client=Client(pool, breaker),
        policy=RetryPolicy(4, 0.2, 30),
        total_s=3600,
        largest_bytes=1 << 34,
        parallel_from_bytes=1 << 26,
        parallel_parts=4,
        observer=ignore,
    )
    paths = iter(load.paths)

    async def work() -> None:
        for path in paths:
            received = await downloader.download(httpx.URL(f"{url}/{path}"), target / path, index=path)
            assert not received.is_absent

    async with anyio.create_task_group() as group:
        for _ in range(pool.max_connections):
            group.start_soon(work)
    await pool.aclose()


def time_tool(tool: str, load: Load, url: str, folder: Path, connections: int | None) -> tuple[float, float]:
    """Return the seconds and the processor's seconds that *tool* takes; making the folders is not counted."""
    target = folder / "files"
    for path in load.paths:
        (target / path).parent.mkdir(parents=True)
    if tool in COMMANDS:
        run = measure(COMMANDS[tool](load, url, target, folder), folder / "home")
        wall_s, cpu_s = run.wall_s, run.cpu_s
    else:
        began_s, cpu_began_s = time.perf_counter(), time.process_time()
        anyio.run(lambda: download(load, url, target, connections, prefer_direct=tool == "client"))
        wall_s, cpu_s = time.perf_counter() - began_s, time.process_time() - cpu_began_s
    check_complete(load, target, tool)
    shutil.rmtree(folder)
    return wall_s, cpu_s


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare the HTTP client with curl and aria2c on loopback.")
    parser.add_argument("--files", type=int, default=2000, metavar="N")
    parser.add_argument("--kib", type=int, default=64, metavar="N", help="size of a file")
    parser.add_argument("--connections", default="16", metavar="N", help="at once, or auto; curl's are then 64")
    parser.add_argument("--round-trip-ms", type=float, default=0, metavar="MS")
    parser.add_argument("--repetitions", type=int, default=5, metavar="N")
    parser.add_argument(
        "--tools", default="curl,client,client-httpx,aria2c", help="client-httpx: on the transport of httpx"
    )
    parser.add_argument("--profile", type=Path, metavar="FILE")
    options = parser.parse_args()
    tools = options.tools.split(",")
    connections = None if options.connections == "auto" else int(options.connections)
    runs: dict[str, list[tuple[float, float]]] = {tool: [] for tool in tools}
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        for folder in ("served", "nginx"):
            (work / folder).mkdir()
        at_once = connections or _MAX_AUTO
        load = make_load(
            work / "served", "small", count=options.files, file_bytes=options.kib << 10, connections=at_once
        )
        folders = (work / f"run{number}" for number in count())
        with Nginx(work / "served", work / "nginx") as nginx, delayed(nginx.port, options.round_trip_ms / 1e3) as port:
            url = f"http://127.0.0.1:{port}" if options.round_trip_ms else nginx.url
            if options.profile is not None:
                with cProfile.Profile() as profile:
                    time_tool("client", load, url, next(folders), connections)
                profile.dump_stats(options.profile)
                return
            for repetition in range(options.repetitions):
                for tool in tools if repetition % 2 else reversed(tools):
                    runs[tool].append(time_tool(tool, load, url, next(folders), connections))
    print(f"{options.files} files of {options.kib} KiB, {options.connections} at once, {options.round_trip_ms:g} ms")
    print(
        "| tool | s, median | times the first | CPU s, median | times the first | each |\n|---|---:|---:|---:|---:|---|"
    )
    for tool, measured in runs.items():
        ratios = [
            tuple(own / first for own, first in zip(run, base, strict=True))
            for run, base in zip(measured, runs[tools[0]], strict=True)
        ]
        (wall_s, cpu_s), (wall, cpu) = _medians(measured), _medians(ratios)
        each = " ".join(f"{ratio[0]:.2f}" for ratio in ratios)
        print(f"| {tool} | {wall_s:.2f} | {wall:.2f} | {cpu_s:.2f} | {cpu:.2f} | {each} |")


def _medians(pairs: Sequence[tuple[float, ...]]) -> tuple[float, ...]:
    return tuple(map(median, zip(*pairs, strict=True)))


if __name__ == "__main__":
    main()
