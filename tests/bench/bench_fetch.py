"""Compare ``symcache warm`` with curl and aria2c, all fetching the same files from nginx on loopback.

    python tests/bench/bench_fetch.py                      # 2,000 files of 64 KiB, then 20 of 50 MiB
    python tests/bench/bench_fetch.py --small 0 --large 0 --far 500       # 64 KiB each, 40 ms away
    python tests/bench/bench_fetch.py --small 0 --large 0 --capped-mib 500 --tools symcache,curl
    python tests/bench/bench_fetch.py --small 500 --large 0 --repetitions 5 --tools symcache,curl

The tools take turns within each repetition, in an order that changes, so that a busy moment of the machine hits all
of them. Every run starts with an empty folder and must end with every file complete, or the benchmark stops. Run it
with a Python that has symcache installed.
"""

from __future__ import annotations

import argparse
import os
import platform
import random
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING
from uuid import UUID

if __name__ in {"__main__", "__mp_main__"}:
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.nginx import Nginx
from support.parts import need
from support.relay import delayed
from support.synth.pdb import NativePdbSpec, make_pdb, write_pdb

from symcache.identity import PdbKey

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Load:
    """A set of files to fetch.

    Attributes:
        name: For the report.
        root: The folder that is served.
        paths: Files, by index, below *root*.
        size_bytes: All of them together.
        connections: How many transfers curl and aria2c run at once.
    """

    name: str
    root: Path
    paths: list[str]
    size_bytes: int
    connections: int


@dataclass(frozen=True, slots=True)
class Run:
    """One measured run of a tool: wall clock, user and system time, peak resident memory."""

    wall_s: float
    cpu_s: float
    peak_bytes: int


def make_load(folder: Path, name: str, *, count: int, file_bytes: int, connections: int) -> Load:
    """Write *count* PDBs of about *file_bytes* each as a store in *folder*."""
    rng = random.Random(f"{name} {count} {file_bytes}")
    # What a PDB holds besides its payload, so that files come out at the size asked for, give or take a block or two.
    frame_bytes = len(make_pdb(NativePdbSpec(guid=UUID(int=0))))
    payload_bytes = max(1, file_bytes - frame_bytes)
    paths = []
    for number in range(count):
        key = PdbKey(f"bench{number:05}.pdb", UUID(int=rng.getrandbits(128)), 1)
        path = folder / key.index
        path.parent.mkdir(parents=True)
        with path.open("wb") as out:
            write_pdb(out, NativePdbSpec(guid=key.guid, age=key.age, payload_bytes=payload_bytes))
        paths.append(key.index)
    size_bytes = sum((folder / path).stat().st_size for path in paths)
    return Load(name, folder, paths, size_bytes, connections)


def symcache_command(load: Load, url: str, target: Path, notes: Path) -> list[str]:
    wanted = notes / "wanted.txt"
    wanted.write_text("".join(f"{path}\n" for path in load.paths), encoding="utf-8")
    chain = f"srv*{target}*{url}/"
    return [sys.executable, "-m", "symcache", "warm", str(wanted), "--store", str(target), "-y", chain, "-q"]


def curl_command(load: Load, url: str, target: Path, notes: Path) -> list[str]:
    config = notes / "curl.txt"
    lines = (f'url = "{url}/{path}"\noutput = "{target / path}"\n' for path in load.paths)
    config.write_text("".join(lines), encoding="utf-8")
    parallel = ["--parallel", "--parallel-max", str(load.connections)]
    return [need("curl"), *parallel, "--no-progress-meter", "--fail", "--create-dirs", "--config", str(config)]


def aria2_command(load: Load, url: str, target: Path, notes: Path) -> list[str]:
    listed = notes / "aria2.txt"
    listed.write_text("".join(f"{url}/{path}\n out={path}\n" for path in load.paths), encoding="utf-8")
    one_each = ["--split=1", "--max-connection-per-server=1", f"--max-concurrent-downloads={load.connections}"]
    quiet = ["--quiet", "--no-conf", "--file-allocation=none", "--allow-overwrite=true"]
    return [need("aria2"), *quiet, *one_each, f"--dir={target}", f"--input-file={listed}"]


COMMANDS: dict[str, Callable[[Load, str, Path, Path], list[str]]] = {
    "symcache": symcache_command,
    "curl": curl_command,
    "aria2c": aria2_command,
}


def measure(command: list[str], home: Path) -> Run:
    """Run *command* to its end, with a home of its own.

    Raises:
        SystemExit: It failed.
    """
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SYMCACHE_", "_NT_"))}
    environment = {**kept, "HOME": str(home), "XDG_CACHE_HOME": str(home / "cache"), "NO_PROXY": "*"}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    wall_s = time.perf_counter() - started
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 0:
        raise SystemExit(f"{command[0]} ended with {process.returncode}: {' '.join(command[:8])} …")
    return Run(wall_s, used.ru_utime + used.ru_stime, _peak_bytes(used))


def check_complete(load: Load, target: Path, tool: str) -> None:
    """Make sure that a tool has fetched all files, by their sizes.

    Raises:
        SystemExit: It has not.
    """
    sizes = [(target / path).stat().st_size if (target / path).is_file() else 0 for path in load.paths]
    expected = [(load.root / path).stat().st_size for path in load.paths]
    if sizes != expected:
        wrong = sum(found != right for found, right in zip(sizes, expected, strict=True))
        raise SystemExit(f"{tool}: {wrong} of {len(expected)} files are absent or incomplete")


def take_turns(load: Load, url: str, tools: list[str], repetitions: int, work: Path) -> dict[str, list[Run]]:
    """Measure every tool *repetitions* times, in turns."""
    runs: dict[str, list[Run]] = {tool: [] for tool in tools}
    for repetition in range(repetitions):
        for tool in tools[repetition % len(tools) :] + tools[: repetition % len(tools)]:
            notes = Path(tempfile.mkdtemp(dir=work))
            target = notes / "store"
            target.mkdir()
            run = measure(COMMANDS[tool](load, url, target, notes), notes / "home")
            check_complete(load, target, tool)
            shutil.rmtree(notes)
            runs[tool].append(run)
            print(f"  {load.name}, repetition {repetition + 1}: {tool} {run.wall_s:.2f} s", file=sys.stderr)
    return runs


def report(load: Load, runs: dict[str, list[Run]]) -> Iterator[str]:
    """Yield the lines of a table: medians, and how many times the others' time each tool takes."""
    others = [tool for tool in runs if tool != "symcache"]
    count = len(next(iter(runs.values())))
    yield (
        f"{load.name}: {len(load.paths):,} files, {load.size_bytes / _MIB:,.0f} MiB, "
        f"{load.connections} transfers at once (curl, aria2c), median of {count}"
    )
    yield "| tool | s | fastest s | MiB/s | CPU s | peak MiB | " + "".join(f"x {tool} | " for tool in others).rstrip()
    yield "|---|" + "---:|" * (5 + len(others))
    walls = {tool: median(run.wall_s for run in measured) for tool, measured in runs.items()}
    for tool, measured in runs.items():
        cells = [
            tool,
            f"{walls[tool]:.2f}",
            f"{min(run.wall_s for run in measured):.2f}",
            f"{load.size_bytes / _MIB / walls[tool]:,.0f}",
            f"{median(run.cpu_s for run in measured):.2f}",
            _peak(measured),
            *(f"{walls[tool] / walls[other]:.2f}" for other in others),
        ]
        yield f"| {' | '.join(cells)} |"


def _peak(measured: list[Run]) -> str:
    # A process inherits the peak of the one that started it: below its own, this program cannot tell.
    peak, floor = max(run.peak_bytes for run in measured), _peak_bytes(resource.getrusage(resource.RUSAGE_SELF))
    return f"{peak / _MIB:.0f}" if peak > floor else f"≤ {floor / _MIB:.0f}"


def _peak_bytes(used: resource.struct_rusage) -> int:
    return used.ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    parser = argparse.ArgumentParser(description="Compare symcache warm with curl and aria2c on loopback.")
    parser.add_argument("--small", type=int, default=2000, metavar="N", help="how many small files")
    parser.add_argument("--small-kib", type=int, default=64, metavar="KIB", help="size of a small file")
    parser.add_argument("--large", type=int, default=20, metavar="N", help="how many large files")
    parser.add_argument("--large-mib", type=int, default=50, metavar="MIB", help="size of a large file")
    parser.add_argument("--repetitions", type=int, default=3, metavar="N", help="runs of each tool and set")
    parser.add_argument("--tools", default=",".join(COMMANDS), metavar="A,B", help="which of symcache, curl, aria2c")
    parser.add_argument("--dir", type=Path, default=None, metavar="DIR", help="where to write; needs twice the files")
    parser.add_argument("--far", type=int, default=0, metavar="N", help="how many small files from far away")
    parser.add_argument("--round-trip-ms", type=float, default=40, metavar="MS", help="how far away that is")
    parser.add_argument(
        "--capped-mib", type=int, default=0, metavar="MIB", help="size of one file, capped per connection"
    )
    parser.add_argument("--cap-mib", type=int, default=50, metavar="MIB", help="what it gives a connection in a second")
    options = parser.parse_args()
    tools = options.tools.split(",")
    if unknown := set(tools) - set(COMMANDS):
        parser.error(f"no such tool: {', '.join(sorted(unknown))}")
    print(f"Python {platform.python_version()}, {platform.system()} {platform.release()}, {os.cpu_count()} CPUs\n")
    with tempfile.TemporaryDirectory(dir=options.dir) as name:
        sets = [
            # name, files, bytes of each, transfers at once, round trip in seconds, bytes a second and connection
            ("small", options.small, options.small_kib << 10, 16, 0.0, 0),
            ("large", options.large, options.large_mib << 20, 8, 0.0, 0),
            ("far", options.far, options.small_kib << 10, 64, options.round_trip_ms / 1e3, 0),
            ("capped", min(options.capped_mib, 1), options.capped_mib << 20, 1, 0.0, options.cap_mib << 20),
        ]
        for title, count, file_bytes, connections, round_trip_s, rate_bytes in sets:
            if count == 0:
                continue
            work = Path(name) / title
            for folder in ("served", "nginx", "runs"):
                (work / folder).mkdir(parents=True)
            load = make_load(work / "served", title, count=count, file_bytes=file_bytes, connections=connections)
            with ExitStack() as stack:
                nginx = stack.enter_context(Nginx(work / "served", work / "nginx", rate_bytes=rate_bytes))
                url = nginx.url
                if round_trip_s:
                    url = f"http://127.0.0.1:{stack.enter_context(delayed(nginx.port, round_trip_s))}"
                runs = take_turns(load, url, tools, options.repetitions, work / "runs")
            print("\n".join(report(load, runs)) + "\n", flush=True)
            shutil.rmtree(work)


if __name__ == "__main__":
    main()
