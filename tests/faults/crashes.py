"""What a kill at any instant of a command leaves of a store that other processes use at the same time.

    python tests/faults/crashes.py                   every command, as a table in Markdown
    python tests/faults/crashes.py --kills 100       more kills of each
    python tests/faults/crashes.py --only add        the commands whose name holds this text

Each command is timed first, then killed by SIGKILL at instants spread over the time from its first write to its end.
Meanwhile another process fetches into the store or adds a build, and a reader looks at every name.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING

if __name__ == "__main__":
    sys.path[:0] = [str(Path(__file__).resolve().parents[1]), str(Path(__file__).resolve().parents[2])]

from support.command import start
from support.jobs import (
    JOBS,
    broken_files,
    broken_memories,
    broken_records,
    findings,
    leftovers,
    make_place,
    write_build,
)
from support.serving import fetch, serving_process, workers
from support.stores import invoke
from support.upstream import Upstream

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from support.jobs import Job, Place
    from support.serving import Answered, Published

__all__ = ["Killed", "main", "play"]

_PATIENCE_S = 60.0
_TIMED = 3


@dataclass(slots=True)
class Killed:
    """What came of one command.

    Attributes:
        kills: How many kills were tried.
        hits: How many of them met a process that ran.
        work_s: How long it is at work, from its first write or lock; the median.
        slowest_s: How long the longest next run of the same command took.
        broken: What was wrong, and after which kill.
    """

    kills: int = 0
    hits: int = 0
    work_s: float = 0.0
    slowest_s: float = 0.0
    broken: list[str] = field(default_factory=list)


def play(name: str, home: Path, *, kills: int, seed: int, files: int = 36) -> Killed:
    """Kill the job called *name* until *kills* kills have hit, in the folder *home*, and look at what it left."""
    job, chance = JOBS[name], random.Random(f"{name} {seed}")
    with Upstream() as upstream:
        template = make_place(home / "first", upstream, packed=job.wants_packed, files=files, size_bytes=30_000)
        job.prepare(template)
        write_build(template, "beside")
        killed = Killed()
        if job.is_served:
            killed.work_s = _time_server(template, home)
        else:
            killed.work_s = median(_time(job, _copy(template, home / f"timed{n}")) for n in range(_TIMED))
        while killed.hits < kills and killed.kills < 3 * kills:
            at_s = chance.uniform(0, killed.work_s)
            place = _copy(template, home / f"killed{killed.kills}")
            what = f"{name}, kill {killed.kills} at {at_s:.3f} s"
            if job.is_served:
                hit, broken = _kill_server(place, at_s, whole=killed.kills % 2 == 0)
            else:
                hit, broken = _kill(job, place, at_s, adds=killed.kills % 2 == 0)
            killed.kills += 1
            killed.hits += hit
            began_s = time.monotonic()
            broken += _judge(job, place)
            killed.slowest_s = max(killed.slowest_s, time.monotonic() - began_s)
            killed.broken += [f"{what}: {each}" for each in broken]
            so_far = f"{killed.hits} of {killed.kills} kills hit, {len(killed.broken)} broken"
            print(f"{what}: {so_far}", file=sys.stderr, flush=True)
            shutil.rmtree(place.disk)
    return killed


def _copy(template: Place, disk: Path) -> Place:
    place = replace(template, disk=disk)
    shutil.copytree(template.disk, disk)
    return place


def _kill(job: Job, place: Place, at_s: float, *, adds: bool) -> tuple[bool, list[str]]:
    """Start *job* among others, and kill it *at_s* seconds after its first write.

    Returns whether that hit, and what was wrong. The others add a build if *adds*, else they fetch.
    """
    with _others(job, place, adds=adds) as broken, start(*job.arguments(place, has_own_misses=True)) as process:
        if _await_work(process, place):
            time.sleep(at_s)
        process.kill()
        said = process.communicate(timeout=_PATIENCE_S)
        if process.returncode not in {-signal.SIGKILL, *job.again, 0}:
            broken.append(f"it ended with {process.returncode}: {said}")
    return process.returncode == -signal.SIGKILL, broken


def _await_work(process: subprocess.Popen[str], place: Place) -> bool:
    """Wait until *process* writes something or opens a file of *place*; return whether it did."""
    about = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        with suppress(OSError):
            if "wchar: 0\n" not in (about / "io").read_text():
                return True
            for each in (about / "fd").iterdir():
                with suppress(OSError):
                    if each.readlink().is_relative_to(place.disk):
                        return True
        time.sleep(0.001)
    return False


def _time(job: Job, place: Place) -> float:
    """Return how long *job* is at work among others, in seconds."""
    with _others(job, place, adds=True), start(*job.arguments(place, has_own_misses=True)) as process:
        _await_work(process, place)
        began_s = time.monotonic()
        process.communicate(timeout=_PATIENCE_S)
        took_s = time.monotonic() - began_s
    shutil.rmtree(place.disk)
    return took_s


@contextmanager
def _others(job: Job, place: Place, *, adds: bool) -> Iterator[list[str]]:
    """Let others use the store meanwhile; yield the list that has what went wrong with them, afterwards."""
    broken: list[str] = []
    over = threading.Event()
    fetching = JOBS["warm, compressed" if job.wants_packed else "warm"]
    warm = fetching.arguments(place, has_own_misses=True)
    add = ["store", "add", str(place.aside / "beside"), "--product", "beside", "-q", "-y", place.symbol_path()]
    reader = threading.Thread(target=_read, args=(job, place, over, broken))
    with start(*(add if adds else warm)) as process:
        reader.start()
        try:
            yield broken
            said = process.communicate(timeout=_PATIENCE_S)
            refused = adds and "conversion" in said[1]
            if process.returncode and not refused:
                broken.append(f"another process ended with {process.returncode}: {said}")
        except subprocess.TimeoutExpired as error:
            broken.append(f"another process is blocked: {error}")
        finally:
            over.set()
            reader.join()


def _read(job: Job, place: Place, over: threading.Event, broken: list[str]) -> None:
    """Read every name as debuggers do, until it is *over*."""
    damaged = () if job.is_sound else place.fetched
    right = {each.index: each.content for each in place.all() if each not in damaged}
    while not over.is_set():
        for index, content in right.items():
            for path in (place.store / index, place.store / index[:2] / index):
                with suppress(FileNotFoundError, NotADirectoryError):
                    found = path.read_bytes()
                    if found != content:
                        broken.append(f"a reader saw {len(found)} bytes of {index} that are not its own")
            over.wait(0.0005)


def _judge(job: Job, place: Place) -> list[str]:
    broken = [*broken_files(place, place.store, job.kept(place), may_be_damaged=not job.is_sound)]
    broken += broken_memories(place)
    if not (place.store / ".symcache" / "converting").exists():
        broken += broken_records(place, job.new)
        if job.is_sound:
            broken += findings(place.shell)
    again = invoke(job.arguments(place, has_own_misses=True))
    if again.exit_code not in job.again:
        return [*broken, f"run again, it ended with {again.exit_code}: {again.output}"]
    broken += broken_files(place, place.store, job.left(place))
    broken += broken_memories(place)
    broken += broken_records(place, job.done)
    broken += findings(place.shell)
    broken += leftovers(place)
    return broken


@contextmanager
def _server(place: Place, home: Path, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], int]]:
    options = ("--workers", "2", "--port", str(port))
    with serving_process(home, place.url, *options, store=place.store, expect=0) as served:
        assert served.process is not None
        yield served.process, served.port


def _ask_all(port: int, files: Sequence[Published], broken: list[str]) -> None:
    """Ask for *files*, several at once, as debuggers do; what comes whole must be right."""

    def ask(file: Published) -> None:
        with suppress(OSError):
            answered: Answered = fetch(port, file.index)
            if answered.status == 200 and answered.is_whole and answered.body != file.content:
                broken.append(f"a client got {len(answered.body)} bytes of {file.index} that are not its own")

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(ask, files))


def _time_server(template: Place, home: Path) -> float:
    place = _copy(template, home / "timed")
    with _server(place, home / "server") as (_, port):
        began_s = time.monotonic()
        _ask_all(port, place.fetched, [])
        took_s = time.monotonic() - began_s
    shutil.rmtree(place.disk)
    return took_s


def _kill_server(place: Place, at_s: float, *, whole: bool) -> tuple[bool, list[str]]:
    """Kill a server, or one of its workers, while clients and others use the store; then use the next one."""
    broken: list[str] = []
    job = JOBS["serve"]
    home = place.aside / "server"
    with _others(job, place, adds=not whole) as seen:
        with _server(place, home) as (process, port):
            asking = threading.Thread(target=_ask_all, args=(port, place.fetched, broken))
            victim = process.pid if whole else workers(process.pid)[0]
            asking.start()
            asking.join(at_s)
            hit = asking.is_alive()
            os.kill(victim, signal.SIGKILL)
            if whole:
                process.wait()
            asking.join()
            if not whole:
                _come_whole(port, place, broken)
        if whole:
            with _server(place, home, port) as (_, again):
                _come_whole(again, place, broken)
    return hit, broken + seen


def _come_whole(port: int, place: Place, broken: list[str]) -> None:
    """Fetch every file from a server, which may be about to start another worker."""
    end_s = time.monotonic() + _PATIENCE_S
    for file in place.fetched:
        while True:
            with suppress(OSError):
                if fetch(port, file.index).body == file.content:
                    break
            if time.monotonic() > end_s:
                broken.append(f"the server does not deliver {file.index}")
                return
            time.sleep(0.05)


def main(arguments: Sequence[str]) -> int:
    """Print the table; return 1 if something was wrong."""
    parser = argparse.ArgumentParser(description="Print what kills leave of a store.")
    parser.add_argument("--kills", type=int, default=30, help="kills of each command that have to hit it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="commands whose name holds this text")
    options = parser.parse_args(arguments)
    print("| command | at work | kills | that hit | longest check and next run | broken |")
    print("|---|---|---|---|---|---|", flush=True)
    code = 0
    for name in JOBS:
        if options.only not in name:
            continue
        with tempfile.TemporaryDirectory() as home:
            killed = play(name, Path(home), kills=options.kills, seed=options.seed)
        times = f"{killed.work_s:.2f} s | {killed.kills} | {killed.hits} | {killed.slowest_s:.1f} s"
        print(f"| {name} | {times} | {len(killed.broken)} |", flush=True)
        for each in killed.broken[:10]:
            print(each, file=sys.stderr)
        if killed.broken:
            again = f"python tests/faults/crashes.py --seed {options.seed} --kills {options.kills} --only '{name}'"
            print(f"again: {again}", file=sys.stderr)
            code = 1
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
