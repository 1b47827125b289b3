"""Half an hour of everything at once: does anything wrong come out, does anything grow, is anything left behind?

    python tests/faults/soak.py [--minutes 30] [--clients N] [--workers N] [--seed N]

A server (hits, misses, cold files, ranges, clients that drop, prune and verify) works on one store together with
``symcache warm`` again and again, as a new process each time and as a library in a process that stays, while the
upstream breaks now and then; all on loopback. Every body is compared with what was published. Resident memory,
descriptors, threads and asyncio's tasks of each process are counted all along, and scratch files at the end. Exits
with 1 if anything is not as it should be. Needs /proc.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import random
import signal
import sys
import tempfile
import time
from collections import Counter
from contextlib import asynccontextmanager, suppress
from dataclasses import astuple, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.answers import cut, status
from support.serving import fetch, publish, serving_process
from support.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from support.serving import Published, Served

_ROOT = Path(__file__).resolve().parents[2]
_MIB = 1 << 20
_AT_REST = "the server at rest, before and after"
_FEWEST_LOOKS = 12
_SETTLE_S = 2.0
_LOOK_EVERY_S = 5.0
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
# Every Python process of the soak runs it as it starts, so that it tells its number of tasks when a signal asks.
_SITE = """
import asyncio, os, signal, threading
def tell(*_):
    try:
        tasks = len(asyncio.all_tasks())
    except RuntimeError:
        tasks = 0
    name = os.path.join({folder!r}, str(os.getpid()))
    with open(name + ".new", "w") as file:
        file.write(str(tasks))
    os.replace(name + ".new", name)
if threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGUSR1, tell)
"""
_REPEATED_WARM = """
import asyncio, random, sys
from symcache import SymbolCache
async def main(symbol_path, *inputs):
    draw = random.Random(1)
    async with SymbolCache.open(symbol_path) as cache:
        print("ready", flush=True)
        while await asyncio.to_thread(sys.stdin.readline):
            report = await cache.warm([draw.choice(inputs)])
            print(len(report.symbols), flush=True)
asyncio.run(main(*sys.argv[1:]))
"""


@dataclass(frozen=True, slots=True)
class Held:
    """What processes hold, together: resident bytes, open descriptors, threads, asyncio's tasks."""

    rss_bytes: int
    descriptors: int
    threads: int
    tasks: int


@dataclass(slots=True)
class Tally:
    """What came of all requests and runs, and what each process held at each look."""

    counts: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    held: dict[str, list[Held]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Scene:
    """Where it happens: an upstream with its files, a server of it, and what is asked for.

    Attributes:
        home: Holds the store, the lists and what processes tell.
        lists: Files that name some of the published each.
        end_s: When it is over, by the monotonic clock.
    """

    home: Path
    served: Served
    upstream: Upstream
    files: list[Published]
    lists: list[Path]
    end_s: float

    @property
    def symbol_path(self) -> str:
        return f"srv*{self.served.store}*{self.upstream.url}"

    @property
    def is_over(self) -> bool:
        return time.monotonic() >= self.end_s


def main() -> int:
    """Run the load and judge it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    draw = random.Random(options.seed)
    files = [publish(f"f{n}.pdb", n, payload_bytes=draw.choice([0, 65_536, 300_000, 2 * _MIB])) for n in range(300)]
    files += [publish(f"large{n}.pdb", 1000 + n, payload_bytes=12 * _MIB) for n in range(6)]
    limit = sum(len(each.content) for each in files) // 2
    tally = Tally()
    with tempfile.TemporaryDirectory(prefix="symcache-soak-") as name, Upstream() as upstream:
        home = Path(name)
        upstream.files = {each.index: each.content for each in files}
        lists = [home / f"wanted{number}.txt" for number in range(8)]
        for each in lists:
            each.write_text("\n".join(wanted.index for wanted in draw.sample(files, 60)), encoding="utf-8")
        _prepare_environment(home)
        config = _CONFIG.format(limit=limit, log=home / "access.log")
        with serving_process(home, upstream.url, "--workers", str(options.workers), config=config) as served:
            seconds = 60 * options.minutes
            scene = Scene(home, served, upstream, files, lists, time.monotonic() + 0.1 * seconds)
            asyncio.run(load(scene, tally, options.clients))  # fills pools of threads and connections
            scene = replace(scene, end_s=time.monotonic() + 0.9 * seconds)
            asyncio.run(load(scene, tally, options.clients))
            metrics = fetch(served.port, "metrics").body.decode()
            # Nothing more of the server: the next run sweeps what a process that ended on the way has left.
        code, _ = asyncio.run(_run_warm(scene, lists[0]))
        tally.counts[f"last warm: exit {code}"] += 1
        staging = served.store / ".symcache" / "staging"
        left = [each for each in staging.rglob("*") if each.is_file() and each.name != "lock"]
        log_lines = sum(1 for _ in (home / "access.log").open())
    return report(tally, left, metrics, log_lines)


def _prepare_environment(home: Path) -> None:
    site = home / "site"
    site.mkdir()
    told = home / "told"
    told.mkdir()
    (site / "sitecustomize.py").write_text(_SITE.format(folder=str(told)), encoding="utf-8")
    os.environ["PYTHONPATH"] = f"{site}{os.pathsep}{_ROOT}"
    os.environ["SYMCACHE_CONFIG"] = str(home / "symcache.toml")


async def load(scene: Scene, tally: Tally, clients: int) -> None:
    """Let clients and runs work until the end, and look at what every process holds meanwhile."""
    async with _library(scene) as library, asyncio.TaskGroup() as group:
        for number in range(clients):
            group.create_task(ask_on(scene, tally, random.Random(number)))
        group.create_task(_trouble(scene))
        group.create_task(_warm_on(scene, tally))
        group.create_task(_call_on(scene, tally, library))
        group.create_task(_look_on(scene, tally, library.pid))
    await asyncio.sleep(_SETTLE_S)
    await _look_at_server(scene, tally, _AT_REST)


@asynccontextmanager
async def _library(scene: Scene) -> AsyncIterator[asyncio.subprocess.Process]:
    command = [sys.executable, "-c", _REPEATED_WARM, scene.symbol_path, *map(str, scene.lists)]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield process
        process.stdin.close()
        assert await process.wait() == 0
    finally:
        with suppress(ProcessLookupError):
            process.kill()


async def _trouble(scene: Scene) -> None:
    draw = random.Random(7)
    while not scene.is_over:
        await asyncio.sleep(0.5)
        each = draw.choice(scene.files)
        scene.upstream.script(each.index, draw.choice([cut(at=len(each.content) // 2), status(503)]))


async def _warm_on(scene: Scene, tally: Tally) -> None:
    draw = random.Random(3)
    while not scene.is_over:
        code, said = await _run_warm(scene, draw.choice(scene.lists))
        tally.counts[f"warm: exit {code}"] += 1
        if code != 0:
            tally.wrong.append(f"warm: exit {code}: {said}")


async def _run_warm(scene: Scene, wanted: Path) -> tuple[int, str]:
    command = [sys.executable, "-m", "symcache", "warm", str(wanted), "-y", scene.symbol_path, "--json"]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    summary = json.loads(out)["summary"] if out else {}
    return process.returncode or 0, f"{summary} {err.decode()[-300:]}"


async def _call_on(scene: Scene, tally: Tally, library: asyncio.subprocess.Process) -> None:
    assert library.stdin is not None
    assert library.stdout is not None
    while not scene.is_over:
        library.stdin.write(b"\n")
        await library.stdin.drain()
        assert (await library.stdout.readline()).strip().isdigit()
        tally.counts["warm as a library"] += 1
        await asyncio.sleep(0.2)


async def _look_on(scene: Scene, tally: Tally, library: int) -> None:
    while not scene.is_over:
        await asyncio.sleep(min(_LOOK_EVERY_S, max(0.1, scene.end_s - time.monotonic())))
        await _look_at_server(scene, tally, "the server")
        await look(scene, tally, "warm as a library", [library])


async def _look_at_server(scene: Scene, tally: Tally, name: str) -> None:
    assert scene.served.process is not None
    await look(scene, tally, name, [scene.served.process.pid, *_children(scene.served.process.pid)])


async def look(scene: Scene, tally: Tally, name: str, processes: list[int]) -> None:
    """Note what *processes* hold now, together."""
    held = []
    for process in processes:
        told = scene.home / "told" / str(process)
        told.unlink(missing_ok=True)
        os.kill(process, signal.SIGUSR1)
        for _ in range(300):
            if told.exists():
                break
            await asyncio.sleep(0.02)
        else:
            tally.wrong.append(f"{name}: process {process} does not react for 6 s")
            continue
        held.append(_held_by(process, int(told.read_text())))
    tally.held.setdefault(name, []).append(Held(*(sum(each) for each in zip(*map(astuple, held), strict=True))))


def _children(process: int) -> list[int]:
    """Return the worker processes of a server."""
    children = map(int, Path(f"/proc/{process}/task/{process}/children").read_text().split())
    # multiprocessing's own process would end by the signal.
    return [each for each in children if b"resource_tracker" not in Path(f"/proc/{each}/cmdline").read_bytes()]


def _held_by(process: int, tasks: int) -> Held:
    fields = dict(line.split(":", 1) for line in Path(f"/proc/{process}/status").read_text().splitlines())
    descriptors = sum(1 for _ in Path(f"/proc/{process}/fd").iterdir())
    return Held(int(fields["VmRSS"].split()[0]) << 10, descriptors, int(fields["Threads"]), tasks)


async def ask_on(scene: Scene, tally: Tally, draw: random.Random) -> None:
    """Ask for one thing after another."""
    while not scene.is_over:
        wanted = draw.choice(scene.files)
        kind = draw.choices(["whole", "range", "miss", "drop", "hostile"], [60, 10, 20, 8, 2])[0]
        try:
            await ask(scene.served.port, wanted, kind, tally, draw)
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


def report(tally: Tally, left: list[Path], metrics: str, log_lines: int) -> int:
    """Print what came of it; return the exit status."""
    for kind, number in sorted(tally.counts.items()):
        print(f"{number:>9,}  {kind}")
    for line in metrics.splitlines():
        if line.startswith(("symcache_requests_total", "symcache_upstream_fetches", "symcache_sent_bytes")):
            print(f"           {line}")
    print(f"{log_lines:>9,}  lines in the access log")
    print("\n| process | looks | most memory, first and last third | least descriptors | least threads | least tasks |")
    print("|---|---|---|---|---|---|")
    problems = tally.wrong[:10]
    for name, looks in tally.held.items():
        third = max(1, len(looks) // 3)
        parts = looks[:third], looks[-third:]
        early, late = (max(each.rss_bytes for each in part) for part in parts)
        # What is held at the quietest moment is held for good; the busiest one is chance.
        first, last = (_least(part) for part in parts)
        counts = [f"{one}, {other}" for one, other in zip(first, last, strict=True)]
        print(f"| {name} | {len(looks)} | {early / _MIB:.0f}, {late / _MIB:.0f} MiB | {' | '.join(counts)} |")
        if len(looks) < _FEWEST_LOOKS and name != _AT_REST:
            continue  # both are of its beginning
        if late > early * 1.25 + 16 * _MIB:
            problems.append(f"memory of {name} grows")
        problems += [
            f"{what} of {name} grow: {one} and {other}"
            for what, one, other in zip(("descriptors", "threads", "tasks"), first, last, strict=True)
            if other > one * 1.25 + 10
        ]
    print(f"\nscratch files left: {len(left)}")
    if left:
        problems.append(f"scratch files are left: {left[:3]}")
    for problem in problems:
        print(f"WRONG: {problem}")
    return 1 if problems else 0


def _least(looks: list[Held]) -> tuple[int, ...]:
    return tuple(min(each) for each in zip(*(astuple(look)[1:] for look in looks), strict=True))


if __name__ == "__main__":
    sys.exit(main())
