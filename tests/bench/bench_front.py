"""Compare short commands with the least that a Python process can do in their place.

    python tests/bench/bench_front.py                      # 5,000 files, 7 rounds
    python tests/bench/bench_front.py --files 500 --rounds 3

Start-up is compared with ``import click``; `warm` and `check` of PDBs that are all present, from a list, with a loop of
os.stat over the same files; `scan` of a folder of images with a loop that opens each and reads 4 KiB of it. The
commands take turns within each round. Wall clock and processor time, user and system, are those of whole processes; of
each the median is shown, and its ratio. Run it with a Python that has symcache installed, or in the checkout.
"""

from __future__ import annotations

import argparse
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from uuid import UUID

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from support.synth.pdb import NativePdbSpec, make_pdb
from support.synth.pe import disk_bytes, plan_image

from symcache.identity import ImageKey, PdbKey

_SYMCACHE = "from symcache.cli import main; main()"  # as the installed command does
_STAT = "import os, sys\nfor line in open(sys.argv[1]):\n    os.stat(line[:-1])\n"
_PREAD = (
    "import os, sys\nfor entry in os.scandir(sys.argv[1]):\n"
    "    fd = os.open(entry.path, os.O_RDONLY)\n    os.pread(fd, 4096, 0)\n    os.close(fd)\n"
)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A command of ours, what it is compared with, and how many times that it may take."""

    name: str
    ours: list[str]
    theirs: list[str]
    goal: float


def make_files(folder: Path, count: int) -> None:
    """Write *count* PDBs as a store, their list, the list of their paths, and a folder of as many images."""
    rng = random.Random(count)
    store, images = folder / "sym", folder / "images"
    images.mkdir()
    keys = [PdbKey(f"bench{number:05}.pdb", UUID(int=rng.getrandbits(128)), 1) for number in range(count)]
    for number, key in enumerate(keys):
        path = store / key.index
        path.parent.mkdir(parents=True)
        path.write_bytes(make_pdb(NativePdbSpec(key.guid, key.age, payload_bytes=20_000)))
        image = ImageKey(f"bench{number:05}.dll", 0x5F000000 + number, 0x9000)
        (images / image.name).write_bytes(disk_bytes(plan_image(image, key)))
    (folder / "list.txt").write_text("".join(f"{key.index}\n" for key in keys))
    (folder / "paths.txt").write_text("".join(f"{store / key.index}\n" for key in keys))
    (folder / "empty").mkdir()


def comparisons(folder: Path) -> list[Comparison]:
    def symcache(*arguments: str | Path) -> list[str]:
        return python(_SYMCACHE, *arguments)

    def python(code: str, *arguments: str | Path) -> list[str]:
        return [sys.executable, "-c", code, *map(str, arguments)]

    click, stat = python("import click"), python(_STAT, folder / "paths.txt")
    pread, store = python(_PREAD, folder / "images"), ["--store", str(folder / "sym")]
    return [
        Comparison("path", symcache("path", *store), click, 3),
        Comparison("check nothing", symcache("check", folder / "empty", "--allow-empty", *store), click, 3),
        Comparison("check", symcache("check", folder / "list.txt", *store), stat, 5),
        Comparison("warm", symcache("warm", folder / "list.txt", *store), stat, 5),
        Comparison("scan", symcache("scan", folder / "images"), pread, 3),
    ]


def measure(command: list[str], environment: dict[str, str]) -> tuple[float, float]:
    """Return wall clock and processor time of a run, in seconds.

    Raises:
        CalledProcessError: It failed.
    """
    before, began_s = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    took_s, after = time.perf_counter() - began_s, resource.getrusage(resource.RUSAGE_CHILDREN)
    return took_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-front-") as folder:
        make_files(Path(folder), options.files)
        todo = comparisons(Path(folder))
        # What is installed has its bytecode; a checkout gets it, too, in a first run that does not count.
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
        environment["PYTHONPYCACHEPREFIX"] = str(Path(folder, "bytecode"))
        for each in todo:
            measure(each.ours, environment)
            measure(each.theirs, environment)
        ours: list[list[tuple[float, float]]] = [[] for _ in todo]
        theirs: list[list[tuple[float, float]]] = [[] for _ in todo]
        for _ in range(options.rounds):
            for number, each in enumerate(todo):
                theirs[number].append(measure(each.theirs, environment))
                ours[number].append(measure(each.ours, environment))
    print(f"{'':14} {'ms':>6} {'of the least':>13} {'cpu ms':>7} {'of the least':>13}  goal")
    for each, mine, least in zip(todo, ours, theirs, strict=True):
        wall_s, cpu_s = (median(run[part] for run in mine) for part in (0, 1))
        least_wall_s, least_cpu_s = (median(run[part] for run in least) for part in (0, 1))
        print(
            f"{each.name:14} {wall_s * 1000:6.0f} {wall_s / least_wall_s:13.2f} {cpu_s * 1000:7.0f}"
            f" {cpu_s / least_cpu_s:13.2f}  {each.goal:g}"
        )


if __name__ == "__main__":
    main()
